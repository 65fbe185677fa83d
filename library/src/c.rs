//! The C interface, and all `unsafe` of the library. `include/toctoc.h` is made from it.
//!
//! Every function may be called from any thread. What a caller can do wrong without breaking C's
//! own rules is an error code: a null pointer, a wrong size, a number of nothing, a wrong order.

use std::ffi::{c_char, c_void};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::handles::{HandleError, Object, free, keep, with};
use crate::{
    BLOB, ClientRequest, ENTROPY, Endpoints, Fault, FaultKind, Invitation, Knock, KnockKind,
    PortEntry, Profile, Progress, PublicKey, ReceivedReceipt, Secret, ServiceName, Signature,
    Source, Wall,
};

/// Bytes of every datagram to the gateway.
pub const TOCTOC_DATAGRAM: usize = 272;
/// Bytes of every receipt. Others need not be passed on.
pub const TOCTOC_RECEIPT: usize = 184;
/// Random bytes that each packet takes.
pub const TOCTOC_ENTROPY: usize = 40;
/// Bytes that are to be signed.
pub const TOCTOC_TO_SIGN: usize = 107;

const _: () = assert!(
    TOCTOC_DATAGRAM == toctoc::core::wire::DATAGRAM
        && TOCTOC_RECEIPT == toctoc::core::wire::RECEIPT
        && TOCTOC_ENTROPY == ENTROPY
        && TOCTOC_TO_SIGN == BLOB
);

/// What a call has done.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToctocCode {
    Ok = 0,
    /// A pointer that is needed is null.
    Null = 1,
    /// The number was freed or never given, or its object is of another type.
    Handle = 2,
    /// Another thread uses this object, or you are in the callback of a call that uses it.
    Busy = 3,
    /// There are 1,024 objects: free some.
    Full = 4,
    /// The `size` of a struct, or the length of a buffer, is not the one that it must have.
    Length = 5,
    /// A value that has no meaning, or an index behind the last one.
    Value = 6,
    /// The text or the request is refused: the fault says why.
    Refused = 7,
    /// The callback gave up, or its signature is not by the client's key.
    Signature = 8,
    /// Too early: there is no receipt, or nobody has joined.
    Order = 9,
    /// A defect of this library: please report it. The object can only be freed.
    Internal = 10,
}

/// An error for people, in English: UTF-8, zero-terminated, cut to what fits. Never with a secret.
#[repr(C)]
pub struct ToctocFault {
    pub what: [c_char; 512],
    /// What to do now.
    pub remedy: [c_char; 256],
}

/// What a knock asks for.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToctocKind {
    Open = 1,
    /// Ends the client's grants for the service.
    Close = 2,
    /// Opens nothing: asks whether the gateway is there, and as whom it sees the client.
    Probe = 3,
    /// Enrols a key by an invitation.
    Join = 4,
}

/// A request. All zero but `size`, `kind`, `local` and `gateway` is a good one.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ToctocRequest {
    /// Bytes of this struct: `sizeof(ToctocRequest)`.
    pub size: u32,
    /// A `ToctocKind`.
    pub kind: u32,
    /// The socket's own address on the way to the gateway, 16 bytes; IPv4 as ::ffff:a.b.c.d.
    pub local: [u8; 16],
    /// The gateway's address, alike.
    pub gateway: [u8; 16],
    /// The address to grant, alike; all zero = the one that the client comes from.
    pub source: [u8; 16],
    /// Not zero: ask the gateway for that address even if `local` looks like it.
    pub ask_source: u32,
    /// The duration of the grant; 0 = the service's own.
    pub seconds: u32,
    /// The source port that the grant is limited to; 0 = any.
    pub source_port: u32,
    /// How long an answer to one packet is waited for, in milliseconds; 0 = 2,000.
    pub timeout: u32,
    /// The most packets for one question, to 100; 0 = 3.
    pub attempts: u32,
    /// Bytes of `service`; 0 = the profile's usual service.
    pub service_length: u32,
    /// The service's name. Not read when there is none.
    pub service: *const u8,
    /// To join: the key to enrol, a line as in a .pub file. Not read otherwise.
    pub key: *const u8,
    /// Bytes of `key`.
    pub key_length: usize,
}

/// A packet to send.
#[repr(C)]
pub struct ToctocPacket {
    /// Bytes of this struct: `sizeof(ToctocPacket)`.
    pub size: u32,
    /// `TOCTOC_DATAGRAM`; 0 if there is no other packet: the exchange is over.
    pub length: u32,
    /// How long to wait for its receipt before the next packet, in milliseconds.
    pub wait: u32,
    pub datagram: [u8; TOCTOC_DATAGRAM],
}

/// What follows a datagram that was received.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToctocProgress {
    /// It is no receipt for this knock, and anybody can send one such: wait on.
    Ignored = 0,
    /// The gateway asks for another packet: send the next one now.
    Continues = 1,
    /// The answer is there.
    Over = 2,
}

/// The gateway's answer, the first byte of a receipt's meaning: see docs/protocol.md.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToctocStatus {
    Granted = 1,
    Closed = 2,
    /// The answer to a probe.
    Observed = 3,
    /// The named address is not the one that the gateway sees, which is `observed`.
    Address = 4,
    /// The client's clock or day is wrong, and the second packet was not answered.
    Clock = 5,
    /// Policy refuses, or the invitation is not for this key.
    Denied = 6,
    /// As many grants as allowed.
    Full = 7,
    /// The gateway asked for a second packet, and that one was not answered.
    Challenge = 8,
    /// The gateway could not do it. Nothing is open.
    Trouble = 9,
    /// The key is enrolled: `toctoc_knock_profile` has the profile.
    Enrolled = 10,
    /// The key waits for an admin's approval: ask again later.
    Pending = 11,
    /// Another key has used this invitation.
    Taken = 12,
}

/// What an entry of opened ports is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToctocPorts {
    None = 0,
    /// `first` to `last`.
    Range = 1,
    /// Every port.
    All = 2,
    /// There are more, for which a receipt has no room.
    More = 3,
}

/// An entry of opened ports.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ToctocPortEntry {
    /// A `ToctocPorts`.
    pub ports: u32,
    /// 6 = TCP, 17 = UDP.
    pub protocol: u32,
    pub first: u32,
    pub last: u32,
}

/// A receipt.
#[repr(C)]
pub struct ToctocReceipt {
    /// Bytes of this struct: `sizeof(ToctocReceipt)`.
    pub size: u32,
    /// A `ToctocStatus`.
    pub status: u32,
    /// The gateway's time, in nanoseconds since 1970.
    pub time: u64,
    /// Its arrival by the client's clock, alike. The grant ends `seconds` later.
    pub at: u64,
    pub seconds: u32,
    /// 1 if each grant is for one connection only.
    pub once: u32,
    /// The client's address as the gateway saw it, 16 bytes; IPv4 as ::ffff:a.b.c.d.
    pub observed: [u8; 16],
    /// The granted address, alike; all zero without a grant.
    pub granted: [u8; 16],
    /// Bits of `granted` that count: 32 or 128 for one address.
    pub prefix: u32,
    /// 1 if a device in front of the gateway probably hides the addresses of its clients.
    pub replaced: u32,
    pub ports: [ToctocPortEntry; 4],
}

/// Facts about a profile or an invitation.
#[repr(C)]
pub struct ToctocFacts {
    /// Bytes of this struct: `sizeof(ToctocFacts)`.
    pub size: u32,
    /// The gateway's UDP port.
    pub port: u32,
    pub addresses: u32,
    pub services: u32,
    /// The end of the enrolment or invitation, in seconds since 1970; 0 = none.
    pub until: u64,
    /// 1 if the key is a FIDO key, which signs by an authenticator.
    pub fido: u32,
}

/// A text of a profile or an invitation.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToctocText {
    /// The whole profile or line, with its secrets: keep it where the system keeps secrets.
    Whole = 0,
    /// The client's name at the gateway.
    Name = 1,
    /// The gateway's name; of an invitation only.
    Gateway = 2,
    /// A host name or IP address of the gateway.
    Address = 3,
    Service = 4,
    /// The service that a knock without one is for; empty if there is none. Of a profile only.
    UsualService = 5,
    /// The client's public key as a line. Of a profile only.
    Key = 6,
    /// Its fingerprint, SHA256:... Of a profile only.
    Fingerprint = 7,
}

/// What the callback makes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ToctocSignature {
    /// The Ed25519 signature (RFC 8032).
    pub ed25519: [u8; 64],
    /// Of a FIDO key: the authenticator's flags and counter, as OpenSSH keeps them. Otherwise 0.
    pub sk_flags: u32,
    pub sk_counter: u32,
}

/// Signs `length` bytes at `message` with the client's key. Returns 0 if `signature` is written, or
/// anything else to give up. May take its time. `message` is valid until it returns.
pub type ToctocSign = Option<
    unsafe extern "C" fn(
        context: *mut c_void,
        message: *const u8,
        length: usize,
        signature: *mut ToctocSignature,
    ) -> i32,
>;

/// Why a call fails.
struct Failure {
    code: ToctocCode,
    fault: Option<Fault>,
}

impl From<ToctocCode> for Failure {
    fn from(code: ToctocCode) -> Failure {
        Failure { code, fault: None }
    }
}

impl From<HandleError> for Failure {
    fn from(error: HandleError) -> Failure {
        Failure::from(match error {
            HandleError::Unknown => ToctocCode::Handle,
            HandleError::Busy => ToctocCode::Busy,
            HandleError::Full => ToctocCode::Full,
        })
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        let code = match fault.kind {
            FaultKind::Unsigned => ToctocCode::Signature,
            _ => ToctocCode::Refused,
        };
        Failure { code, fault: Some(fault) }
    }
}

/// Does the work of a call. A panic ends here: it must not reach the caller's language.
fn call(fault: *mut ToctocFault, work: impl FnOnce() -> Result<(), Failure>) -> ToctocCode {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => ToctocCode::Ok,
        Ok(Err(failure)) => {
            if let Some(found) = failure.fault {
                let mut text = ToctocFault { what: [0; 512], remedy: [0; 256] };
                copy_text(&found.what, &mut text.what);
                copy_text(&found.remedy, &mut text.remedy);
                let _ = put(fault, text);
            }
            failure.code
        }
        Err(_) => ToctocCode::Internal,
    }
}

/// As many whole characters as fit before the zero.
fn copy_text(text: &str, place: &mut [c_char]) {
    let mut end = text.len().min(place.len() - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (byte, slot) in text.as_bytes()[..end].iter().zip(place) {
        *slot = c_char::from_ne_bytes([*byte]);
    }
}

/// Writes a result.
fn put<T>(place: *mut T, value: T) -> Result<(), Failure> {
    if place.is_null() {
        return Err(ToctocCode::Null.into());
    }
    // SAFETY: not null, and by the contract of each function a place for a T, of any alignment.
    unsafe { place.write_unaligned(value) };
    Ok(())
}

/// Fails unless there is a struct whose `size`, its first field, is that of T.
fn check_size<T>(place: *const T) -> Result<(), Failure> {
    if place.is_null() {
        return Err(ToctocCode::Null.into());
    }
    // SAFETY: not null, and every such struct begins with its size.
    let size = unsafe { place.cast::<u32>().read_unaligned() };
    if usize::try_from(size) != Ok(size_of::<T>()) {
        return Err(ToctocCode::Length.into());
    }
    Ok(())
}

/// The caller's bytes, for the time of the call.
fn bytes<'a>(place: *const u8, length: usize) -> Result<&'a [u8], Failure> {
    if place.is_null() {
        return Err(ToctocCode::Null.into());
    }
    if isize::try_from(length).is_err() {
        return Err(ToctocCode::Length.into());
    }
    // SAFETY: not null, at most isize::MAX, and by contract `length` bytes that stay as they are
    // during the call. No result of a call keeps them.
    Ok(unsafe { std::slice::from_raw_parts(place, length) })
}

fn text<'a>(place: *const u8, length: usize) -> Result<&'a str, Failure> {
    std::str::from_utf8(bytes(place, length)?).map_err(|_| ToctocCode::Value.into())
}

/// The library's version, zero-terminated. It stays valid.
#[unsafe(no_mangle)]
pub extern "C" fn toctoc_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Reads a profile's text, and gives it a number in `profile`: free that. `fault` may be null.
///
/// # Safety
///
/// `text` has `length` bytes; `profile` and `fault` are places for what they point to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn toctoc_profile_read(
    text: *const u8, length: usize, profile: *mut u64, fault: *mut ToctocFault,
) -> ToctocCode {
    call(fault, || {
        put(profile, 0)?;
        let read = Profile::parse("profile", self::text(text, length)?)?;
        put(profile, keep(Object::Profile(Box::new(read)))?)
    })
}

/// Reads an invitation's line, and gives it a number in `invitation`: free that. `fault` may be
/// null.
///
/// # Safety
///
/// `text` has `length` bytes; `invitation` and `fault` are places for what they point to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn toctoc_invitation_read(
    text: *const u8, length: usize, invitation: *mut u64, fault: *mut ToctocFault,
) -> ToctocCode {
    call(fault, || {
        put(invitation, 0)?;
        let read = Invitation::parse(self::text(text, length)?)?;
        put(invitation, keep(Object::Invitation(Arc::new(read)))?)
    })
}

/// Frees a profile, an invitation or a knock, and wipes its secrets. The others stay as they are.
#[unsafe(no_mangle)]
pub extern "C" fn toctoc_free(number: u64) -> ToctocCode {
    call(std::ptr::null_mut(), || Ok(free(number)?))
}

/// Facts about a profile or an invitation.
///
/// # Safety
///
/// `facts` is such a struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn toctoc_facts(number: u64, facts: *mut ToctocFacts) -> ToctocCode {
    call(std::ptr::null_mut(), || {
        check_size(facts)?;
        put(facts, with(number, |object| facts_of(object))??)
    })
}

fn facts_of(object: &Object) -> Result<ToctocFacts, Failure> {
    let (port, addresses, services, until, fido) = match object {
        Object::Profile(profile) => (
            profile.port,
            profile.addresses.len(),
            profile.services.len(),
            profile.expires.unwrap_or(0),
            profile.key.fido.is_some(),
        ),
        Object::Invitation(line) => {
            (line.port, line.addresses.len(), line.services.len(), line.until, false)
        }
        Object::Knock(_) => return Err(ToctocCode::Handle.into()),
    };
    Ok(ToctocFacts {
        size: size_of_u32::<ToctocFacts>(),
        port: port.into(),
        addresses: u32::try_from(addresses).unwrap_or(u32::MAX),
        services: u32::try_from(services).unwrap_or(u32::MAX),
        until,
        fido: fido.into(),
    })
}

fn size_of_u32<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

/// Copies a text of a profile or an invitation to `buffer`, which is yours: wipe it after
/// `TOCTOC_TEXT_WHOLE`. `what` is a `ToctocText`; `index` counts addresses and services from 0, and
/// is 0 for the rest. `*length` is the room in `buffer`, and then the bytes of the text, in UTF-8
/// without a zero at the end. With too little room, or a null `buffer`, it is set to the room that
/// is needed, and the code is `TOCTOC_CODE_LENGTH`.
///
/// # Safety
///
/// `buffer` has `*length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn toctoc_text(
    number: u64, what: u32, index: usize, buffer: *mut u8, length: *mut usize,
) -> ToctocCode {
    call(std::ptr::null_mut(), || {
        let found = with(number, |object| text_of(object, what, index))??;
        if length.is_null() {
            return Err(ToctocCode::Null.into());
        }
        // SAFETY: not null, and by contract a size.
        let room = unsafe { length.read_unaligned() };
        put(length, found.len())?;
        if buffer.is_null() || room < found.len() {
            return Err(ToctocCode::Length.into());
        }
        // SAFETY: not null, with at least that much room, and no memory of ours.
        unsafe { buffer.copy_from_nonoverlapping(found.as_ptr(), found.len()) };
        Ok(())
    })
}

fn text_of(object: &Object, what: u32, index: usize) -> Result<Zeroizing<String>, Failure> {
    const WHOLE: u32 = ToctocText::Whole as u32;
    const NAME: u32 = ToctocText::Name as u32;
    const GATEWAY: u32 = ToctocText::Gateway as u32;
    const ADDRESS: u32 = ToctocText::Address as u32;
    const SERVICE: u32 = ToctocText::Service as u32;
    const USUAL: u32 = ToctocText::UsualService as u32;
    const KEY: u32 = ToctocText::Key as u32;
    const FINGERPRINT: u32 = ToctocText::Fingerprint as u32;
    let (addresses, services) = match object {
        Object::Profile(profile) => (&profile.addresses, &profile.services),
        Object::Invitation(line) => (&line.addresses, &line.services),
        Object::Knock(_) => return Err(ToctocCode::Handle.into()),
    };
    let text = match (what, index, object) {
        (ADDRESS, _, _) => addresses.get(index).cloned(),
        (SERVICE, _, _) => services.get(index).map(|name| name.as_str().to_owned()),
        (WHOLE, 0, Object::Profile(profile)) => return Ok(profile.print()),
        (WHOLE, 0, Object::Invitation(line)) => return Ok(line.print()),
        (NAME, 0, Object::Profile(profile)) => Some(profile.name.clone()),
        (NAME, 0, Object::Invitation(line)) => Some(line.client_name.clone()),
        (GATEWAY, 0, Object::Invitation(line)) => Some(line.gateway_name.clone()),
        (USUAL, 0, Object::Profile(profile)) => {
            Some(profile.usual_service().unwrap_or(ServiceName::NONE).as_str().to_owned())
        }
        (KEY, 0, Object::Profile(profile)) => Some(profile.key.line()),
        (FINGERPRINT, 0, Object::Profile(profile)) => {
            Some(toctoc::keys::public::show_fingerprint(&profile.key.fingerprint()))
        }
        _ => None,
    };
    Ok(Zeroizing::new(text.ok_or(ToctocCode::Value)?))
}

/// Begins a knock, and gives it a number in `knock`: free that. `by` is a profile, or to join an
/// invitation; it may be freed before the knock. `fault` may be null.
///
/// # Safety
///
/// `request` is such a struct, with the bytes that it names; `knock` and `fault` are places for
/// what they point to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn toctoc_knock_new(
    by: u64, request: *const ToctocRequest, knock: *mut u64, fault: *mut ToctocFault,
) -> ToctocCode {
    call(fault, || {
        put(knock, 0)?;
        check_size(request)?;
        // SAFETY: not null, and of the right size.
        let request = unsafe { request.read_unaligned() };
        let made = with(by, |object| new_knock(object, &request))??;
        put(knock, keep(Object::Knock(Box::new(made)))?)
    })
}

fn new_knock(by: &Object, request: &ToctocRequest) -> Result<Knock, Failure> {
    const KINDS: [(ToctocKind, KnockKind); 4] = [
        (ToctocKind::Open, KnockKind::Open),
        (ToctocKind::Close, KnockKind::Close),
        (ToctocKind::Probe, KnockKind::Probe),
        (ToctocKind::Join, KnockKind::Join),
    ];
    let kind = KINDS.iter().find(|(kind, _)| *kind as u32 == request.kind);
    let (_, kind) = *kind.ok_or(ToctocCode::Value)?;
    let source = Source::from_bytes(request.source).ip();
    let timeout = match request.timeout {
        0 => Duration::from_secs(2),
        given => Duration::from_millis(given.into()),
    };
    let attempts = match request.attempts {
        0 => 3,
        given @ 1..=100 => given,
        _ => return Err(ToctocCode::Value.into()),
    };
    let mut wanted = ClientRequest {
        seconds: request.seconds,
        source: if request.source == [0; 16] { None } else { Some(source) },
        ask_source: request.ask_source != 0,
        source_port: u16::try_from(request.source_port).map_err(|_| ToctocCode::Value)?,
        ..ClientRequest::new(kind, timeout, attempts)
    };
    if request.service_length != 0 {
        let length = usize::try_from(request.service_length).unwrap_or(usize::MAX);
        let name = ServiceName::new(text(request.service, length)?);
        wanted.service = name.ok_or(ToctocCode::Value)?;
    }
    let ends = Endpoints { local: address(request.local)?, gateway: address(request.gateway)? };
    match by {
        Object::Profile(profile) => Ok(Knock::new(profile, wanted, ends)?),
        Object::Invitation(invitation) if kind == KnockKind::Join => {
            let line = text(request.key, request.key_length)?;
            let (key, _) = PublicKey::from_line(line)?;
            Ok(Knock::join(Arc::clone(invitation), key, wanted, ends))
        }
        Object::Invitation(_) => Err(ToctocCode::Value.into()),
        Object::Knock(_) => Err(ToctocCode::Handle.into()),
    }
}

fn address(bytes: [u8; 16]) -> Result<IpAddr, Failure> {
    match Source::from_bytes(bytes).ip() {
        ip if ip.is_unspecified() => Err(ToctocCode::Value.into()),
        ip => Ok(ip),
    }
}

/// Makes the packet to send at `now`, in nanoseconds since 1970. `entropy`: `TOCTOC_ENTROPY` random
/// bytes of the system, fresh for each packet; wipe them afterwards. Calls `sign` with `context`
/// once, before it returns. With any code but `TOCTOC_CODE_OK` nothing was made, and the same
/// packet can be tried again. `fault` may be null.
///
/// # Safety
///
/// `entropy` has `length` bytes; `packet` and `fault` are such structs; `sign` is such a function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn toctoc_knock_next(
    knock: u64, now: u64, entropy: *const u8, length: usize, sign: ToctocSign,
    context: *mut c_void, packet: *mut ToctocPacket, fault: *mut ToctocFault,
) -> ToctocCode {
    call(fault, || {
        check_size(packet)?;
        let sign = sign.ok_or(ToctocCode::Null)?;
        let random = bytes(entropy, length)?;
        let random = Secret::filled(|place: &mut [u8; ENTROPY]| {
            random.try_into().map(|random| *place = random).map_err(|_| ToctocCode::Length)
        })?;
        let made = with(knock, |object| {
            let Object::Knock(knock) = object else { return Err(ToctocCode::Handle.into()) };
            knock
                .next(Wall(now), random, |message| {
                    let mut made = ToctocSignature { ed25519: [0; 64], sk_flags: 0, sk_counter: 0 };
                    // SAFETY: by contract such a function. Both pointers are valid until it
                    // returns.
                    let refused = unsafe { sign(context, message.as_ptr(), BLOB, &raw mut made) };
                    signature(refused, &made)
                })
                .map_err(Failure::from)
        })??;
        let (length, wait, datagram) = match made {
            Some(packet) => (272, packet.patience.as_millis(), packet.datagram),
            None => (0, 0, [0; TOCTOC_DATAGRAM]),
        };
        let wait = u32::try_from(wait).unwrap_or(u32::MAX);
        put(packet, ToctocPacket { size: size_of_u32::<ToctocPacket>(), length, wait, datagram })
    })
}

fn signature(refused: i32, made: &ToctocSignature) -> Option<Signature> {
    let sk_flags = u8::try_from(made.sk_flags).ok()?;
    match refused {
        0 => Some(Signature { ed25519: made.ed25519, sk_flags, sk_counter: made.sk_counter }),
        _ => None,
    }
}

/// Looks at a datagram that came from the gateway's address at `now`, in nanoseconds since 1970.
/// `progress` becomes a `ToctocProgress`. Any datagram may be passed on.
///
/// # Safety
///
/// `datagram` has `length` bytes; `progress` is a place for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn toctoc_knock_receive(
    knock: u64, now: u64, datagram: *const u8, length: usize, progress: *mut u32,
) -> ToctocCode {
    call(std::ptr::null_mut(), || {
        let datagram = bytes(datagram, length)?;
        put(progress, ToctocProgress::Ignored as u32)?;
        let found = with(knock, |object| match object {
            Object::Knock(knock) => Ok(knock.receive(Wall(now), datagram)),
            _ => Err(Failure::from(ToctocCode::Handle)),
        })??;
        let found = match found {
            Progress::Ignored => ToctocProgress::Ignored,
            Progress::Continues => ToctocProgress::Continues,
            Progress::Over => ToctocProgress::Over,
        };
        put(progress, found as u32)
    })
}

/// The answer, or the last receipt that asked for another packet. `TOCTOC_CODE_ORDER` if there was
/// none: the gateway is silent.
///
/// # Safety
///
/// `receipt` is such a struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn toctoc_knock_receipt(
    knock: u64, receipt: *mut ToctocReceipt,
) -> ToctocCode {
    call(std::ptr::null_mut(), || {
        check_size(receipt)?;
        let found = with(knock, |object| match object {
            Object::Knock(knock) => match knock.received() {
                Some(received) => Ok(receipt_of(&received, knock.is_replaced())),
                None => Err(Failure::from(ToctocCode::Order)),
            },
            _ => Err(Failure::from(ToctocCode::Handle)),
        })??;
        put(receipt, found)
    })
}

fn receipt_of(received: &ReceivedReceipt, is_replaced: bool) -> ToctocReceipt {
    let ReceivedReceipt { receipt, at } = received;
    let none = ToctocPortEntry { ports: ToctocPorts::None as u32, protocol: 0, first: 0, last: 0 };
    let ports = receipt.ports.map(|entry| match entry {
        None => none,
        Some(PortEntry::All) => ToctocPortEntry { ports: ToctocPorts::All as u32, ..none },
        Some(PortEntry::More) => ToctocPortEntry { ports: ToctocPorts::More as u32, ..none },
        Some(PortEntry::Range(range)) => ToctocPortEntry {
            ports: ToctocPorts::Range as u32,
            protocol: range.proto.number().into(),
            first: range.first.into(),
            last: range.last.into(),
        },
    });
    ToctocReceipt {
        size: size_of_u32::<ToctocReceipt>(),
        status: receipt.status as u32,
        time: receipt.time.0,
        at: at.0,
        seconds: receipt.seconds,
        once: receipt.once.into(),
        observed: receipt.observed.to_bytes(),
        granted: receipt.granted.map(Source::to_bytes).unwrap_or_default(),
        prefix: receipt.granted.map_or(0, |granted| receipt.span.prefix_length(granted)).into(),
        replaced: is_replaced.into(),
        ports,
    }
}

/// The profile of who has joined, with a number of its own in `profile`: free that.
/// `TOCTOC_CODE_ORDER` unless the status is `TOCTOC_STATUS_ENROLLED`. `fault` may be null.
///
/// # Safety
///
/// `profile` and `fault` are places for what they point to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn toctoc_knock_profile(
    knock: u64, profile: *mut u64, fault: *mut ToctocFault,
) -> ToctocCode {
    call(fault, || {
        put(profile, 0)?;
        let made = with(knock, |object| match object {
            Object::Knock(knock) if knock.has_joined() => Ok(knock.profile()?),
            Object::Knock(_) => Err(Failure::from(ToctocCode::Order)),
            _ => Err(Failure::from(ToctocCode::Handle)),
        })??;
        put(profile, keep(Object::Profile(Box::new(made)))?)
    })
}

#[cfg(test)]
mod tests;
