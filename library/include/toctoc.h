#ifndef TOCTOC_H
#define TOCTOC_H

// Made by cbindgen of library/src/c.rs. library/README.md says how it is used.

#include <stddef.h>
#include <stdint.h>

// Bytes of every datagram to the gateway.
#define TOCTOC_DATAGRAM 272

// Bytes of every receipt. Others need not be passed on.
#define TOCTOC_RECEIPT 184

// Random bytes that each packet takes.
#define TOCTOC_ENTROPY 40

// Bytes that are to be signed.
#define TOCTOC_TO_SIGN 107

// What a call has done.
enum ToctocCode
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  TOCTOC_CODE_OK = 0,
  // A pointer that is needed is null.
  TOCTOC_CODE_NULL = 1,
  // The number was freed or never given, or its object is of another type.
  TOCTOC_CODE_HANDLE = 2,
  // Another thread uses this object, or you are in the callback of a call that uses it.
  TOCTOC_CODE_BUSY = 3,
  // There are 1,024 objects: free some.
  TOCTOC_CODE_FULL = 4,
  // The `size` of a struct, or the length of a buffer, is not the one that it must have.
  TOCTOC_CODE_LENGTH = 5,
  // A value that has no meaning, or an index behind the last one.
  TOCTOC_CODE_VALUE = 6,
  // The text or the request is refused: the fault says why.
  TOCTOC_CODE_REFUSED = 7,
  // The callback gave up, or its signature is not by the client's key.
  TOCTOC_CODE_SIGNATURE = 8,
  // Too early: there is no receipt, or nobody has joined.
  TOCTOC_CODE_ORDER = 9,
  // A defect of this library: please report it. The object can only be freed.
  TOCTOC_CODE_INTERNAL = 10,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ToctocCode ToctocCode;
#else
typedef uint32_t ToctocCode;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What a knock asks for.
enum ToctocKind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  TOCTOC_KIND_OPEN = 1,
  // Ends the client's grants for the service.
  TOCTOC_KIND_CLOSE = 2,
  // Opens nothing: asks whether the gateway is there, and as whom it sees the client.
  TOCTOC_KIND_PROBE = 3,
  // Enrols a key by an invitation.
  TOCTOC_KIND_JOIN = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ToctocKind ToctocKind;
#else
typedef uint32_t ToctocKind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What follows a datagram that was received.
enum ToctocProgress
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // It is no receipt for this knock, and anybody can send one such: wait on.
  TOCTOC_PROGRESS_IGNORED = 0,
  // The gateway asks for another packet: send the next one now.
  TOCTOC_PROGRESS_CONTINUES = 1,
  // The answer is there.
  TOCTOC_PROGRESS_OVER = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ToctocProgress ToctocProgress;
#else
typedef uint32_t ToctocProgress;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// The gateway's answer, the first byte of a receipt's meaning: see docs/protocol.md.
enum ToctocStatus
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  TOCTOC_STATUS_GRANTED = 1,
  TOCTOC_STATUS_CLOSED = 2,
  // The answer to a probe.
  TOCTOC_STATUS_OBSERVED = 3,
  // The named address is not the one that the gateway sees, which is `observed`.
  TOCTOC_STATUS_ADDRESS = 4,
  // The client's clock or day is wrong, and the second packet was not answered.
  TOCTOC_STATUS_CLOCK = 5,
  // Policy refuses, or the invitation is not for this key.
  TOCTOC_STATUS_DENIED = 6,
  // As many grants as allowed.
  TOCTOC_STATUS_FULL = 7,
  // The gateway asked for a second packet, and that one was not answered.
  TOCTOC_STATUS_CHALLENGE = 8,
  // The gateway could not do it. Nothing is open.
  TOCTOC_STATUS_TROUBLE = 9,
  // The key is enrolled: `toctoc_knock_profile` has the profile.
  TOCTOC_STATUS_ENROLLED = 10,
  // The key waits for an admin's approval: ask again later.
  TOCTOC_STATUS_PENDING = 11,
  // Another key has used this invitation.
  TOCTOC_STATUS_TAKEN = 12,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ToctocStatus ToctocStatus;
#else
typedef uint32_t ToctocStatus;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What an entry of opened ports is.
enum ToctocPorts
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  TOCTOC_PORTS_NONE = 0,
  // `first` to `last`.
  TOCTOC_PORTS_RANGE = 1,
  // Every port.
  TOCTOC_PORTS_ALL = 2,
  // There are more, for which a receipt has no room.
  TOCTOC_PORTS_MORE = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ToctocPorts ToctocPorts;
#else
typedef uint32_t ToctocPorts;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// A text of a profile or an invitation.
enum ToctocText
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // The whole profile or line, with its secrets: keep it where the system keeps secrets.
  TOCTOC_TEXT_WHOLE = 0,
  // The client's name at the gateway.
  TOCTOC_TEXT_NAME = 1,
  // The gateway's name; of an invitation only.
  TOCTOC_TEXT_GATEWAY = 2,
  // A host name or IP address of the gateway.
  TOCTOC_TEXT_ADDRESS = 3,
  TOCTOC_TEXT_SERVICE = 4,
  // The service that a knock without one is for; empty if there is none. Of a profile only.
  TOCTOC_TEXT_USUAL_SERVICE = 5,
  // The client's public key as a line. Of a profile only.
  TOCTOC_TEXT_KEY = 6,
  // Its fingerprint, SHA256:... Of a profile only.
  TOCTOC_TEXT_FINGERPRINT = 7,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ToctocText ToctocText;
#else
typedef uint32_t ToctocText;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// An error for people, in English: UTF-8, zero-terminated, cut to what fits. Never with a secret.
typedef struct ToctocFault {
  char what[512];
  // What to do now.
  char remedy[256];
} ToctocFault;

// Facts about a profile or an invitation.
typedef struct ToctocFacts {
  // Bytes of this struct: `sizeof(ToctocFacts)`.
  uint32_t size;
  // The gateway's UDP port.
  uint32_t port;
  uint32_t addresses;
  uint32_t services;
  // The end of the enrolment or invitation, in seconds since 1970; 0 = none.
  uint64_t until;
  // 1 if the key is a FIDO key, which signs by an authenticator.
  uint32_t fido;
} ToctocFacts;

// A request. All zero but `size`, `kind`, `local` and `gateway` is a good one.
typedef struct ToctocRequest {
  // Bytes of this struct: `sizeof(ToctocRequest)`.
  uint32_t size;
  // A `ToctocKind`.
  uint32_t kind;
  // The socket's own address on the way to the gateway, 16 bytes; IPv4 as ::ffff:a.b.c.d.
  uint8_t local[16];
  // The gateway's address, alike.
  uint8_t gateway[16];
  // The address to grant, alike; all zero = the one that the client comes from.
  uint8_t source[16];
  // Not zero: ask the gateway for that address even if `local` looks like it.
  uint32_t ask_source;
  // The duration of the grant; 0 = the service's own.
  uint32_t seconds;
  // The source port that the grant is limited to; 0 = any.
  uint32_t source_port;
  // How long an answer to one packet is waited for, in milliseconds; 0 = 2,000.
  uint32_t timeout;
  // The most packets for one question, to 100; 0 = 3.
  uint32_t attempts;
  // Bytes of `service`; 0 = the profile's usual service.
  uint32_t service_length;
  // The service's name. Not read when there is none.
  const uint8_t *service;
  // To join: the key to enrol, a line as in a .pub file. Not read otherwise.
  const uint8_t *key;
  // Bytes of `key`.
  size_t key_length;
} ToctocRequest;

// What the callback makes.
typedef struct ToctocSignature {
  // The Ed25519 signature (RFC 8032).
  uint8_t ed25519[64];
  // Of a FIDO key: the authenticator's flags and counter, as OpenSSH keeps them. Otherwise 0.
  uint32_t sk_flags;
  uint32_t sk_counter;
} ToctocSignature;

// Signs `length` bytes at `message` with the client's key. Returns 0 if `signature` is written, or
// anything else to give up. May take its time. `message` is valid until it returns.
typedef int32_t (*ToctocSign)(void *context,
                              const uint8_t *message,
                              size_t length,
                              struct ToctocSignature *signature);

// A packet to send.
typedef struct ToctocPacket {
  // Bytes of this struct: `sizeof(ToctocPacket)`.
  uint32_t size;
  // `TOCTOC_DATAGRAM`; 0 if there is no other packet: the exchange is over.
  uint32_t length;
  // How long to wait for its receipt before the next packet, in milliseconds.
  uint32_t wait;
  uint8_t datagram[TOCTOC_DATAGRAM];
} ToctocPacket;

// An entry of opened ports.
typedef struct ToctocPortEntry {
  // A `ToctocPorts`.
  uint32_t ports;
  // 6 = TCP, 17 = UDP.
  uint32_t protocol;
  uint32_t first;
  uint32_t last;
} ToctocPortEntry;

// A receipt.
typedef struct ToctocReceipt {
  // Bytes of this struct: `sizeof(ToctocReceipt)`.
  uint32_t size;
  // A `ToctocStatus`.
  uint32_t status;
  // The gateway's time, in nanoseconds since 1970.
  uint64_t time;
  // Its arrival by the client's clock, alike. The grant ends `seconds` later.
  uint64_t at;
  uint32_t seconds;
  // 1 if each grant is for one connection only.
  uint32_t once;
  // The client's address as the gateway saw it, 16 bytes; IPv4 as ::ffff:a.b.c.d.
  uint8_t observed[16];
  // The granted address, alike; all zero without a grant.
  uint8_t granted[16];
  // Bits of `granted` that count: 32 or 128 for one address.
  uint32_t prefix;
  // 1 if a device in front of the gateway probably hides the addresses of its clients.
  uint32_t replaced;
  struct ToctocPortEntry ports[4];
} ToctocReceipt;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The library's version, zero-terminated. It stays valid.
const char *toctoc_version(void);

// Reads a profile's text, and gives it a number in `profile`: free that. `fault` may be null.
//
// # Safety
//
// `text` has `length` bytes; `profile` and `fault` are places for what they point to.
ToctocCode toctoc_profile_read(const uint8_t *text,
                               size_t length,
                               uint64_t *profile,
                               struct ToctocFault *fault);

// Reads an invitation's line, and gives it a number in `invitation`: free that. `fault` may be
// null.
//
// # Safety
//
// `text` has `length` bytes; `invitation` and `fault` are places for what they point to.
ToctocCode toctoc_invitation_read(const uint8_t *text,
                                  size_t length,
                                  uint64_t *invitation,
                                  struct ToctocFault *fault);

// Frees a profile, an invitation or a knock, and wipes its secrets. The others stay as they are.
ToctocCode toctoc_free(uint64_t number);

// Facts about a profile or an invitation.
//
// # Safety
//
// `facts` is such a struct.
ToctocCode toctoc_facts(uint64_t number, struct ToctocFacts *facts);

// Copies a text of a profile or an invitation to `buffer`, which is yours: wipe it after
// `TOCTOC_TEXT_WHOLE`. `what` is a `ToctocText`; `index` counts addresses and services from 0, and
// is 0 for the rest. `*length` is the room in `buffer`, and then the bytes of the text, in UTF-8
// without a zero at the end. With too little room, or a null `buffer`, it is set to the room that
// is needed, and the code is `TOCTOC_CODE_LENGTH`.
//
// # Safety
//
// `buffer` has `*length` bytes.
ToctocCode toctoc_text(uint64_t number,
                       uint32_t what,
                       size_t index,
                       uint8_t *buffer,
                       size_t *length);

// Begins a knock, and gives it a number in `knock`: free that. `by` is a profile, or to join an
// invitation; it may be freed before the knock. `fault` may be null.
//
// # Safety
//
// `request` is such a struct, with the bytes that it names; `knock` and `fault` are places for
// what they point to.
ToctocCode toctoc_knock_new(uint64_t by,
                            const struct ToctocRequest *request,
                            uint64_t *knock,
                            struct ToctocFault *fault);

// Makes the packet to send at `now`, in nanoseconds since 1970. `entropy`: `TOCTOC_ENTROPY` random
// bytes of the system, fresh for each packet; wipe them afterwards. Calls `sign` with `context`
// once, before it returns. With any code but `TOCTOC_CODE_OK` nothing was made, and the same
// packet can be tried again. `fault` may be null.
//
// # Safety
//
// `entropy` has `length` bytes; `packet` and `fault` are such structs; `sign` is such a function.
ToctocCode toctoc_knock_next(uint64_t knock,
                             uint64_t now,
                             const uint8_t *entropy,
                             size_t length,
                             ToctocSign sign,
                             void *context,
                             struct ToctocPacket *packet,
                             struct ToctocFault *fault);

// Looks at a datagram that came from the gateway's address at `now`, in nanoseconds since 1970.
// `progress` becomes a `ToctocProgress`. Any datagram may be passed on.
//
// # Safety
//
// `datagram` has `length` bytes; `progress` is a place for a number.
ToctocCode toctoc_knock_receive(uint64_t knock,
                                uint64_t now,
                                const uint8_t *datagram,
                                size_t length,
                                uint32_t *progress);

// The answer, or the last receipt that asked for another packet. `TOCTOC_CODE_ORDER` if there was
// none: the gateway is silent.
//
// # Safety
//
// `receipt` is such a struct.
ToctocCode toctoc_knock_receipt(uint64_t knock, struct ToctocReceipt *receipt);

// The profile of who has joined, with a number of its own in `profile`: free that.
// `TOCTOC_CODE_ORDER` unless the status is `TOCTOC_STATUS_ENROLLED`. `fault` may be null.
//
// # Safety
//
// `profile` and `fault` are places for what they point to.
ToctocCode toctoc_knock_profile(uint64_t knock, uint64_t *profile, struct ToctocFault *fault);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TOCTOC_H */
