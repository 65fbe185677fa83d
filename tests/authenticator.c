/*
 * A FIDO authenticator for tests, as a library for OpenSSH's SSH_SK_PROVIDER (its sk-api.h, version
 * 10). It only forwards: the test listens at $TEST_AUTHENTICATOR, makes the keys, and decides if
 * somebody touches them. All numbers are big-endian.
 *
 *   enrol:  'E'                                    ->  1 | public key (32) | key handle (32)
 *   sign:   'S' | flags | handle (32) | field | field  ->  1 | flags | counter (4) | signature (64)
 *
 * The fields, each a length (4) and bytes, are the application and the message. Any first byte of an
 * answer but 1 is a refusal.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define VERSION 0x000a0000
#define ED25519 1
#define HANDLE 32
#define REFUSED (-1)

struct sk_enroll_response {
	uint8_t flags;
	uint8_t *public_key;
	size_t public_key_len;
	uint8_t *key_handle;
	size_t key_handle_len;
	uint8_t *signature;
	size_t signature_len;
	uint8_t *attestation_cert;
	size_t attestation_cert_len;
	uint8_t *authdata;
	size_t authdata_len;
};

struct sk_sign_response {
	uint8_t flags;
	uint32_t counter;
	uint8_t *sig_r;
	size_t sig_r_len;
	uint8_t *sig_s;
	size_t sig_s_len;
};

static uint8_t *copy(const uint8_t *bytes, size_t length)
{
	uint8_t *made = malloc(length);

	return made == NULL ? NULL : memcpy(made, bytes, length);
}

/* Sends the request and reads an answer of exactly this length. 0 if it is no refusal. */
static int ask(const uint8_t *request, size_t length, uint8_t *answer, size_t wanted)
{
	const char *path = getenv("TEST_AUTHENTICATOR");
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int result = REFUSED, at = socket(AF_UNIX, SOCK_STREAM, 0);

	if (path == NULL || at < 0 || strlen(path) >= sizeof(address.sun_path))
		return REFUSED;
	strcpy(address.sun_path, path);
	if (connect(at, (struct sockaddr *)&address, sizeof(address)) == 0 &&
	    write(at, request, length) == (ssize_t)length && shutdown(at, SHUT_WR) == 0 &&
	    recv(at, answer, wanted, MSG_WAITALL) == (ssize_t)wanted && answer[0] == 1)
		result = 0;
	close(at);
	return result;
}

static uint8_t *put_field(uint8_t *at, const void *bytes, size_t length)
{
	for (int shift = 24; shift >= 0; shift -= 8)
		*at++ = (uint8_t)(length >> shift);
	memcpy(at, bytes, length);
	return at + length;
}

uint32_t sk_api_version(void)
{
	return VERSION;
}

int sk_enroll(uint32_t alg, const uint8_t *challenge, size_t challenge_len, const char *application,
    uint8_t flags, const char *pin, void **options, struct sk_enroll_response **response)
{
	uint8_t answer[1 + 32 + HANDLE];
	struct sk_enroll_response *made;

	if (alg != ED25519 || ask((const uint8_t *)"E", 1, answer, sizeof(answer)) != 0)
		return REFUSED;
	if ((made = calloc(1, sizeof(*made))) == NULL)
		return REFUSED;
	made->flags = flags;
	made->public_key = copy(answer + 1, 32);
	made->public_key_len = 32;
	made->key_handle = copy(answer + 33, HANDLE);
	made->key_handle_len = HANDLE;
	/* No attestation. */
	made->signature = calloc(1, 1);
	*response = made;
	return 0;
}

int sk_sign(uint32_t alg, const uint8_t *message, size_t message_len, const char *application,
    const uint8_t *handle, size_t handle_len, uint8_t flags, const char *pin, void **options,
    struct sk_sign_response **response)
{
	uint8_t request[8192], answer[1 + 1 + 4 + 64], *at = request;
	struct sk_sign_response *made;

	if (alg != ED25519 || handle_len != HANDLE || message_len + strlen(application) > 8000)
		return REFUSED;
	*at++ = 'S';
	*at++ = flags;
	memcpy(at, handle, HANDLE);
	at = put_field(at + HANDLE, application, strlen(application));
	at = put_field(at, message, message_len);
	if (ask(request, (size_t)(at - request), answer, sizeof(answer)) != 0)
		return REFUSED;
	if ((made = calloc(1, sizeof(*made))) == NULL)
		return REFUSED;
	made->flags = answer[1];
	made->counter = (uint32_t)answer[2] << 24 | answer[3] << 16 | answer[4] << 8 | answer[5];
	made->sig_r = copy(answer + 6, 64);
	made->sig_r_len = 64;
	*response = made;
	return 0;
}

int sk_load_resident_keys(const char *pin, void **options, void ***keys, size_t *count)
{
	return REFUSED;
}
