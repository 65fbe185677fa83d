//! Only a datagram that a client sealed opens, and it opens to exactly what was sealed.
//!
//! The first input byte chooses: raw bytes as a datagram; a body that the target seals itself, so
//! that the fuzzer gets past MAC and Noise to the parser; a valid datagram with the input XORed to
//! it; or the encoding of a request.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use toctoc::core::authentic::Authentic;
use toctoc::core::keyring::{ClientKeys, Day, Secret, TagTable};
use toctoc::core::knock::{Request, SIGNED, Signature, decode_body, encode_body};
use toctoc::core::service::Client;
use toctoc::core::test_vectors::{self, CLIENT, NOON};
use toctoc::core::types::Reject;
use toctoc::core::wire::{ClientSide, DATAGRAM, Decrypted, GatewayKeys, identify, seal_unsigned};

/// The tables of a listener, made once.
struct Listener {
    gateway: GatewayKeys,
    tags: TagTable,
    keys: ClientKeys,
    side: ClientSide,
    client: Client,
}

static LISTENER: LazyLock<Listener> = LazyLock::new(|| Listener {
    gateway: test_vectors::gateway(),
    tags: test_vectors::tags(NOON.day()),
    keys: test_vectors::master().client_keys(CLIENT),
    side: test_vectors::side(CLIENT),
    client: test_vectors::client(),
});

impl Listener {
    fn open(&self, datagram: &[u8]) -> Result<Decrypted, Reject> {
        let verified = identify(&self.gateway, &self.tags, datagram)?.check_mac(&self.keys)?;
        verified.open(&self.gateway, &self.keys, &self.client.fingerprint())
    }
}

/// A request without a valid signature.
static BLANK: LazyLock<(Request, Signature)> = LazyLock::new(|| {
    (test_vectors::request(NOON), Signature { ed25519: [0; 64], sk_flags: 0, sk_counter: 0 })
});

static GOOD: LazyLock<[u8; DATAGRAM]> =
    LazyLock::new(|| test_vectors::datagram(&test_vectors::request(NOON), [5; 32]).0);

fuzz_target!(|input: &[u8]| {
    let Some((mode, rest)) = input.split_first() else { return };
    match mode % 4 {
        0 => raw(rest),
        1 => sealed_by_an_insider(rest),
        2 => changed(rest),
        _ => request(rest),
    }
});

/// Without the keys, only the one datagram that the client made opens.
fn raw(bytes: &[u8]) {
    let opened = LISTENER.open(bytes).is_ok();
    assert!(!opened || bytes == GOOD.as_slice(), "a datagram opened that no client sealed");
}

/// With all symmetric keys the parser is reached. It reads what was sealed, and no signature is
/// valid.
fn sealed_by_an_insider(bytes: &[u8]) {
    let mut body = encode_body(&BLANK.0, &BLANK.1);
    for (byte, change) in body.iter_mut().zip(bytes) {
        *byte ^= change;
    }
    let day = Day::Number(NOON.day());
    let Some(datagram) = seal_unsigned(&LISTENER.side, body, day, Secret::new([6; 32])) else {
        return;
    };
    match (LISTENER.open(&datagram), decode_body(&body)) {
        (Ok(sealed), Some((request, signature))) => {
            assert_eq!(*sealed.request(), request);
            assert_eq!(encode_body(&request, &signature), body, "two bodies mean the same");
            let (parts, _) = sealed.split();
            assert_eq!(parts.body, body);
            let claim = test_vectors::handed(parts, test_vectors::address());
            let verdict = Authentic::verify(claim, &LISTENER.client, LISTENER.side.gateway);
            assert!(verdict.is_err(), "a signature that no client made is valid");
        }
        (Err(Reject::Fingerprint), Some((request, _))) => {
            assert_ne!(request.fingerprint, LISTENER.client.fingerprint())
        }
        (Err(Reject::Syntax), None) => {}
        (found, _) => panic!("sealed by the right keys, yet {:?}", found.err()),
    }
}

/// A valid datagram with any difference is refused before Noise.
fn changed(bytes: &[u8]) {
    let mut datagram = *GOOD;
    for (byte, change) in datagram.iter_mut().zip(bytes) {
        *byte ^= change;
    }
    let found = LISTENER.open(&datagram).err();
    if datagram == *GOOD {
        assert_eq!(found, None);
    } else {
        assert!(matches!(found, Some(Reject::UnknownTag | Reject::ClientMac)), "{found:?}");
    }
}

/// The encoding of a request: decoding is the inverse of encoding.
fn request(bytes: &[u8]) {
    let Ok(bytes) = <[u8; SIGNED]>::try_from(bytes) else { return };
    if let Some(request) = Request::decode(&bytes) {
        assert_eq!(request.encode(), bytes);
    }
}
