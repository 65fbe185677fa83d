// The C interface against the vectors, and against what a caller can do wrong. vectors.h has the
// values: library/tests/vectors.rs writes it. Prints nothing and returns 0, or says which line
// fails.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "toctoc.h"
#include "vectors.h"

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) {                                                     \
            fprintf(stderr, "vectors.c:%d: %s\n", __LINE__, #condition);        \
            exit(1);                                                            \
        }                                                                       \
    } while (0)
#define IS(code, call) CHECK((call) == TOCTOC_CODE_##code)
#define OK(call) IS(OK, call)
#define IS_BYTES(place, bytes) CHECK(memcmp(place, bytes, sizeof bytes) == 0)

// What the callback is to sign, and what it answers.
struct signer {
    const uint8_t *expected;
    const uint8_t *signature;
    int32_t answer;
    uint64_t knock;
    unsigned calls;
};

static int32_t sign(void *context, const uint8_t *message, size_t length, struct ToctocSignature *made) {
    struct signer *signer = context;
    signer->calls++;
    CHECK(length == TOCTOC_TO_SIGN);
    if (signer->expected)
        CHECK(memcmp(message, signer->expected, length) == 0);
    if (signer->knock) {
        // The knock is in use by the call whose callback this is.
        uint32_t progress;
        IS(BUSY, toctoc_knock_receive(signer->knock, 1, message, length, &progress));
    }
    if (signer->signature)
        memcpy(made->ed25519, signer->signature, 64);
    return signer->answer;
}

static struct ToctocRequest request(uint32_t kind) {
    struct ToctocRequest request = {.size = sizeof request, .kind = kind, .seconds = 45, .source_port = 40000};
    memcpy(request.local, source, 16);
    memcpy(request.gateway, gateway, 16);
    return request;
}

static struct ToctocPacket next(uint64_t knock, uint64_t now, const uint8_t *entropy, const uint8_t *blob,
                                const uint8_t *signature) {
    struct signer signer = {blob, signature, 0, knock, 0};
    struct ToctocPacket packet = {.size = sizeof packet};
    struct ToctocFault fault = {{0}, {0}};
    ToctocCode code = toctoc_knock_next(knock, now, entropy, TOCTOC_ENTROPY, sign, &signer, &packet, &fault);
    if (code != TOCTOC_CODE_OK)
        fprintf(stderr, "code %u: %s; %s\n", code, fault.what, fault.remedy);
    OK(code);
    CHECK(packet.length == TOCTOC_DATAGRAM && packet.wait >= 2000 && packet.wait <= 3000 && signer.calls == 1);
    return packet;
}

static uint32_t receive(uint64_t knock, const uint8_t *datagram, size_t length) {
    uint32_t progress;
    OK(toctoc_knock_receive(knock, 77, datagram, length, &progress));
    return progress;
}

static uint64_t read_profile(void) {
    uint64_t profile;
    OK(toctoc_profile_read(profile_text, sizeof profile_text, &profile, NULL));
    return profile;
}

static uint64_t new_knock(uint64_t by, struct ToctocRequest request) {
    uint64_t knock;
    OK(toctoc_knock_new(by, &request, &knock, NULL));
    return knock;
}

static void a_knock_is_asked_for_a_challenge_and_granted(void) {
    uint64_t profile = read_profile();
    uint64_t knock = new_knock(profile, request(TOCTOC_KIND_OPEN));
    OK(toctoc_free(profile));
    struct ToctocReceipt receipt = {.size = sizeof receipt};
    struct ToctocPacket packet = next(knock, knock_now, first_entropy, first_blob, first_signature);
    IS_BYTES(packet.datagram, first_datagram);
    IS(ORDER, toctoc_knock_receipt(knock, &receipt));
    // Any datagram may come: an old receipt, one cut off, none of the gateway.
    CHECK(receive(knock, knock_receipt, sizeof knock_receipt) == TOCTOC_PROGRESS_IGNORED);
    CHECK(receive(knock, first_receipt, sizeof first_receipt - 1) == TOCTOC_PROGRESS_IGNORED);
    CHECK(receive(knock, knock_datagram, sizeof knock_datagram) == TOCTOC_PROGRESS_IGNORED);
    CHECK(receive(knock, first_receipt, sizeof first_receipt) == TOCTOC_PROGRESS_CONTINUES);
    packet = next(knock, knock_now, entropy, knock_blob, knock_signature);
    IS_BYTES(packet.datagram, knock_datagram);
    CHECK(receive(knock, knock_receipt, sizeof knock_receipt) == TOCTOC_PROGRESS_OVER);
    OK(toctoc_knock_receipt(knock, &receipt));
    CHECK(receipt.status == TOCTOC_STATUS_GRANTED && receipt.seconds == 45 && receipt.once == 1);
    CHECK(receipt.at == 77 && receipt.time == granted_time && receipt.prefix == 24 && receipt.replaced == 0);
    CHECK(memcmp(receipt.granted, source, 16) == 0 && memcmp(receipt.observed, source, 16) == 0);
    CHECK(receipt.ports[0].ports == TOCTOC_PORTS_RANGE && receipt.ports[0].protocol == 6);
    CHECK(receipt.ports[0].first == 22 && receipt.ports[0].last == 22);
    CHECK(receipt.ports[1].protocol == 17 && receipt.ports[1].first == 60000 && receipt.ports[1].last == 61000);
    CHECK(receipt.ports[2].ports == TOCTOC_PORTS_MORE && receipt.ports[3].ports == TOCTOC_PORTS_NONE);
    struct signer none = {NULL, NULL, 0, 0, 0};
    packet.length = 1;
    OK(toctoc_knock_next(knock, knock_now, first_entropy, TOCTOC_ENTROPY, sign, &none, &packet, NULL));
    CHECK(packet.length == 0 && none.calls == 0);
    OK(toctoc_free(knock));
}

static void with_a_clock_of_1970_the_time_is_asked_for(void) {
    uint64_t profile = read_profile();
    uint64_t knock = new_knock(profile, request(TOCTOC_KIND_OPEN));
    struct ToctocPacket packet = next(knock, time_now, time_entropy, time_blob, time_signature);
    IS_BYTES(packet.datagram, time_datagram);
    CHECK(receive(knock, time_receipt, sizeof time_receipt) == TOCTOC_PROGRESS_CONTINUES);
    OK(toctoc_free(knock));
    OK(toctoc_free(profile));
}

static void an_invitation_becomes_a_profile(void) {
    uint64_t invitation, profile;
    OK(toctoc_invitation_read(line, sizeof line, &invitation, NULL));
    struct ToctocRequest join = request(TOCTOC_KIND_JOIN);
    join.key = key;
    join.key_length = sizeof key;
    uint64_t knock = new_knock(invitation, join);
    struct ToctocPacket packet = next(knock, join_now, first_entropy, join_first_blob, join_first_signature);
    IS_BYTES(packet.datagram, join_first_datagram);
    CHECK(receive(knock, join_first_receipt, sizeof join_first_receipt) == TOCTOC_PROGRESS_CONTINUES);
    IS(ORDER, toctoc_knock_profile(knock, &profile, NULL));
    CHECK(profile == 0);
    packet = next(knock, join_now, entropy, join_blob, join_signature);
    IS_BYTES(packet.datagram, join_datagram);
    CHECK(receive(knock, join_receipt, sizeof join_receipt) == TOCTOC_PROGRESS_OVER);
    OK(toctoc_knock_profile(knock, &profile, NULL));
    uint8_t text[sizeof joined_text];
    size_t length = sizeof text;
    OK(toctoc_text(profile, TOCTOC_TEXT_WHOLE, 0, text, &length));
    CHECK(length == sizeof text);
    IS_BYTES(text, joined_text);
    struct ToctocFacts facts = {.size = sizeof facts};
    OK(toctoc_facts(profile, &facts));
    CHECK(facts.port == 62201 && facts.addresses == 2 && facts.services == 2 && facts.until == 1774872000 && !facts.fido);
    OK(toctoc_facts(invitation, &facts));
    CHECK(facts.until == 1772452800);
    OK(toctoc_free(profile));
    OK(toctoc_free(knock));
    OK(toctoc_free(invitation));
}

static void is_text(uint64_t number, uint32_t what, size_t index, const char *expected) {
    uint8_t buffer[200];
    size_t length = sizeof buffer;
    OK(toctoc_text(number, what, index, buffer, &length));
    CHECK(length == strlen(expected) && memcmp(buffer, expected, length) == 0);
}

static void texts_are_copied_to_where_they_fit(void) {
    uint64_t profile = read_profile(), invitation;
    OK(toctoc_invitation_read(line, sizeof line, &invitation, NULL));
    is_text(profile, TOCTOC_TEXT_NAME, 0, "test-client");
    is_text(profile, TOCTOC_TEXT_ADDRESS, 0, "198.51.100.1");
    is_text(profile, TOCTOC_TEXT_USUAL_SERVICE, 0, "ssh");
    is_text(profile, TOCTOC_TEXT_FINGERPRINT, 0, fingerprint);
    is_text(invitation, TOCTOC_TEXT_GATEWAY, 0, "bastion");
    is_text(invitation, TOCTOC_TEXT_SERVICE, 1, "web");
    uint8_t buffer[8];
    size_t length = sizeof buffer;
    memset(buffer, 0x5a, sizeof buffer);
    IS(LENGTH, toctoc_text(profile, TOCTOC_TEXT_NAME, 0, buffer, &length));
    CHECK(length == strlen("test-client") && buffer[0] == 0x5a);
    uint8_t short_of_one[sizeof "test-client" - 2];
    length = sizeof short_of_one;
    IS(LENGTH, toctoc_text(profile, TOCTOC_TEXT_NAME, 0, short_of_one, &length));
    IS(LENGTH, toctoc_text(profile, TOCTOC_TEXT_WHOLE, 0, NULL, &length));
    CHECK(length == sizeof profile_text);
    IS(VALUE, toctoc_text(profile, TOCTOC_TEXT_ADDRESS, 1, buffer, &length));
    IS(VALUE, toctoc_text(profile, TOCTOC_TEXT_NAME, 1, buffer, &length));
    IS(VALUE, toctoc_text(profile, TOCTOC_TEXT_GATEWAY, 0, buffer, &length));
    IS(VALUE, toctoc_text(profile, 8, 0, buffer, &length));
    IS(NULL, toctoc_text(profile, TOCTOC_TEXT_NAME, 0, buffer, NULL));
    OK(toctoc_free(profile));
    OK(toctoc_free(invitation));
}

static void what_was_freed_or_never_given_is_found_out(void) {
    uint64_t profile = read_profile();
    uint64_t knock = new_knock(profile, request(TOCTOC_KIND_PROBE));
    struct ToctocRequest probe = request(TOCTOC_KIND_PROBE);
    struct ToctocFacts facts = {.size = sizeof facts};
    struct ToctocReceipt receipt = {.size = sizeof receipt};
    uint64_t other;
    uint32_t progress;
    size_t length = 0;
    // Of another type.
    IS(HANDLE, toctoc_facts(knock, &facts));
    IS(HANDLE, toctoc_text(knock, TOCTOC_TEXT_NAME, 0, NULL, &length));
    IS(HANDLE, toctoc_knock_new(knock, &probe, &other, NULL));
    IS(HANDLE, toctoc_knock_receive(profile, 1, line, sizeof line, &progress));
    IS(HANDLE, toctoc_knock_receipt(profile, &receipt));
    IS(HANDLE, toctoc_knock_profile(profile, &other, NULL));
    OK(toctoc_free(profile));
    IS(HANDLE, toctoc_free(profile));
    IS(HANDLE, toctoc_facts(profile, &facts));
    OK(toctoc_free(knock));
    IS(HANDLE, toctoc_free(knock));
    IS(HANDLE, toctoc_knock_receive(knock, 1, line, sizeof line, &progress));
    IS(HANDLE, toctoc_free(0));
    IS(HANDLE, toctoc_free(UINT64_MAX));
    CHECK(read_profile() > knock);
}

static void wrong_arguments_are_refused(void) {
    uint64_t profile = read_profile(), invitation, other = 1;
    struct ToctocFault fault;
    IS(NULL, toctoc_profile_read(NULL, 5, &other, &fault));
    IS(NULL, toctoc_profile_read(profile_text, sizeof profile_text, NULL, &fault));
    IS(LENGTH, toctoc_profile_read(profile_text, SIZE_MAX, &other, &fault));
    IS(VALUE, toctoc_profile_read((const uint8_t *)"\xff", 1, &other, &fault));
    other = 1;
    IS(REFUSED, toctoc_profile_read(line, sizeof line, &other, &fault));
    CHECK(other == 0 && strstr(fault.what, "profile:1:") && strlen(fault.remedy) > 0);
    IS(REFUSED, toctoc_invitation_read(line, sizeof line - 1, &other, &fault));
    CHECK(strstr(fault.what, "cut off"));
    OK(toctoc_invitation_read(line, sizeof line, &invitation, &fault));

    struct ToctocRequest open = request(TOCTOC_KIND_OPEN), wrong = open;
    IS(NULL, toctoc_knock_new(profile, NULL, &other, &fault));
    IS(NULL, toctoc_knock_new(profile, &open, NULL, &fault));
    wrong.size--;
    IS(LENGTH, toctoc_knock_new(profile, &wrong, &other, &fault));
    wrong = open, wrong.kind = 5;
    IS(VALUE, toctoc_knock_new(profile, &wrong, &other, &fault));
    wrong = open, wrong.source_port = 65536;
    IS(VALUE, toctoc_knock_new(profile, &wrong, &other, &fault));
    wrong = open, wrong.attempts = 101;
    IS(VALUE, toctoc_knock_new(profile, &wrong, &other, &fault));
    wrong = open, memset(wrong.gateway, 0, 16);
    IS(VALUE, toctoc_knock_new(profile, &wrong, &other, &fault));
    wrong = open, wrong.service_length = 3;
    IS(NULL, toctoc_knock_new(profile, &wrong, &other, &fault));
    wrong.service = (const uint8_t *)"SSH";
    IS(VALUE, toctoc_knock_new(profile, &wrong, &other, &fault));
    wrong = open, wrong.kind = TOCTOC_KIND_JOIN;
    IS(REFUSED, toctoc_knock_new(profile, &wrong, &other, &fault));
    IS(NULL, toctoc_knock_new(invitation, &wrong, &other, &fault));
    wrong.key = line, wrong.key_length = sizeof line;
    IS(REFUSED, toctoc_knock_new(invitation, &wrong, &other, &fault));
    IS(VALUE, toctoc_knock_new(invitation, &open, &other, &fault));
    CHECK(other == 0);

    uint64_t knock = new_knock(profile, open);
    struct signer signer = {NULL, NULL, 0, 0, 0};
    struct ToctocPacket packet = {.size = sizeof packet};
    uint8_t zero[TOCTOC_ENTROPY] = {0};
    size_t length = TOCTOC_ENTROPY;
    IS(NULL, toctoc_knock_next(knock, knock_now, NULL, length, sign, &signer, &packet, &fault));
    IS(NULL, toctoc_knock_next(knock, knock_now, entropy, length, NULL, &signer, &packet, &fault));
    IS(NULL, toctoc_knock_next(knock, knock_now, entropy, length, sign, &signer, NULL, &fault));
    IS(LENGTH, toctoc_knock_next(knock, knock_now, entropy, length - 1, sign, &signer, &packet, &fault));
    IS(REFUSED, toctoc_knock_next(knock, knock_now, zero, length, sign, &signer, &packet, &fault));
    packet.size = 8;
    IS(LENGTH, toctoc_knock_next(knock, knock_now, entropy, length, sign, &signer, &packet, &fault));
    packet.size = sizeof packet;
    CHECK(signer.calls == 0);
    // Nothing signed; signed by nobody; signed by a plain key as if by a FIDO key.
    signer.answer = 1;
    IS(SIGNATURE, toctoc_knock_next(knock, knock_now, entropy, length, sign, &signer, &packet, &fault));
    CHECK(strstr(fault.what, "nothing was signed"));
    signer.answer = 0, signer.signature = join_signature;
    IS(SIGNATURE, toctoc_knock_next(knock, knock_now, entropy, length, sign, &signer, &packet, &fault));
    CHECK(strstr(fault.what, "not by the client's key") && signer.calls == 2);
    // After a failure the same packet can be made; the same random bytes make no second one.
    next(knock, knock_now, first_entropy, first_blob, first_signature);
    IS(REFUSED, toctoc_knock_next(knock, knock_now, first_entropy, length, sign, &signer, &packet, &fault));
    CHECK(strstr(fault.what, "random bytes"));
    IS(REFUSED, toctoc_knock_next(knock, knock_now, zero, length, sign, &signer, &packet, &fault));
    uint32_t progress;
    IS(NULL, toctoc_knock_receive(knock, 1, NULL, 184, &progress));
    IS(NULL, toctoc_knock_receive(knock, 1, line, sizeof line, NULL));
    CHECK(receive(knock, line, 0) == TOCTOC_PROGRESS_IGNORED);
    struct ToctocReceipt receipt = {.size = 4};
    IS(LENGTH, toctoc_knock_receipt(knock, &receipt));
    IS(NULL, toctoc_knock_receipt(knock, NULL));
    struct ToctocFacts facts = {.size = 0};
    IS(LENGTH, toctoc_facts(profile, &facts));
    OK(toctoc_free(knock));
    OK(toctoc_free(invitation));
    OK(toctoc_free(profile));
}

static void who_forgets_to_free_is_told(void) {
    uint64_t profile, last = 0;
    ToctocCode code = TOCTOC_CODE_OK;
    unsigned count = 0;
    while (code == TOCTOC_CODE_OK && count < 2000) {
        code = toctoc_profile_read(profile_text, sizeof profile_text, &profile, NULL);
        if (code == TOCTOC_CODE_OK)
            last = profile, count++;
    }
    CHECK(code == TOCTOC_CODE_FULL && count > 1000 && count <= 1024);
    while (count-- > 0)
        OK(toctoc_free(last--));
    read_profile();
}

int main(void) {
    CHECK(strcmp(toctoc_version(), version) == 0);
    a_knock_is_asked_for_a_challenge_and_granted();
    with_a_clock_of_1970_the_time_is_asked_for();
    an_invitation_becomes_a_profile();
    texts_are_copied_to_where_they_fit();
    what_was_freed_or_never_given_is_found_out();
    wrong_arguments_are_refused();
    who_forgets_to_free_is_told();
    return 0;
}
