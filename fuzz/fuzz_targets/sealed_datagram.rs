//! Only a datagram that a client sealed opens, and it opens to exactly what was sealed.
//!
//! The first input byte chooses: raw bytes as a datagram; a body that the target seals itself, so
//! that the fuzzer gets past MAC and Noise to the parser; a valid datagram with the input XORed to
//! it; or the encoding of a request.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use toctoc::core::keyring::{Day, Secret, TagTable, WireRow};
use toctoc::core::knock::{
    Asked, BODY, Enrolment, GATED, Request, SIGNED, Signature, decode_body, encode_body,
};
use toctoc::core::test_vectors::{self, CLIENT, NOON};
use toctoc::core::types::Reject;
use toctoc::core::wire::{ClientSide, DATAGRAM, Decrypted, GatewayKeys, identify, seal_body};

/// The tables of a listener, made once.
struct Listener {
    gateway: GatewayKeys,
    tags: TagTable,
    keys: WireRow,
    side: ClientSide,
}

static LISTENER: LazyLock<Listener> = LazyLock::new(|| Listener {
    gateway: test_vectors::gateway(),
    tags: test_vectors::tags(NOON),
    keys: test_vectors::wire_row(NOON),
    side: test_vectors::side(CLIENT),
});

impl Listener {
    fn open(&self, datagram: &[u8]) -> Result<Decrypted, Reject> {
        let tagged = identify(&self.gateway, &self.tags, datagram)?;
        let slot = tagged.owner().slot;
        let (Some(wire), Some(day)) = (self.keys.wire(slot), self.keys.day_of(slot)) else {
            panic!("a tag of a slot that there is not")
        };
        tagged.check_mac(&wire)?.open(&self.gateway, &wire, day)
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

/// With all wire keys the parser is reached, under the keys of a day and those without one. It
/// reads what was sealed, and neither a gate MAC nor a signature is valid.
fn sealed_by_an_insider(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let day = if first % 2 == 0 { Day::Number(NOON.day()) } else { Day::Unknown };
    let secrets = &LISTENER.side.secrets;
    let (Some(wire), Some(gate)) = (secrets.wire(day), secrets.gate(day)) else { return };
    let gateway = LISTENER.side.gateway;
    let mut body = [0; BODY];
    let fill = |h: &[u8; 32]| {
        body = encode_body(&BLANK.0.encode(), &BLANK.1, &gate, gateway, h);
        for (byte, change) in body.iter_mut().zip(bytes) {
            *byte ^= change;
        }
        if first & 2 != 0 {
            // A thief of the profile: the gate MAC is right.
            let mac = gate.gate_mac(gateway, h, &body[..GATED]);
            body[GATED..].copy_from_slice(&mac);
        }
        body
    };
    let Some(datagram) = seal_body(&LISTENER.side, &wire, Secret::new([6; 32]), fill) else {
        return;
    };
    // What an invitation's keys would make of it.
    if let Some((Asked::Enrolment(enrolment), _)) = decode_body(&body, Day::Invited) {
        assert_eq!(enrolment.encode(), body[..SIGNED], "two bodies mean the same");
    }
    match (LISTENER.open(&datagram), decode_body(&body, day)) {
        (Ok(sealed), Some((Asked::Request(request), signature))) => {
            assert_eq!(*sealed.asked(), Asked::Request(request));
            let (parts, _) = sealed.split();
            let again = encode_body(&request.encode(), &signature, &gate, gateway, &parts.h);
            assert_eq!(again[..GATED], body[..GATED], "two bodies mean the same");
            assert_eq!(parts.body, body);
            let verdict =
                test_vectors::verify(test_vectors::handed(parts, test_vectors::address()));
            let expected = if again == body { Reject::Signature } else { Reject::Gate };
            assert_eq!(verdict.err(), Some(expected), "no client made it");
        }
        (Err(Reject::Syntax), None | Some((Asked::Enrolment(_), _))) => {}
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
    for day in [Day::Number(NOON.day()), Day::Unknown] {
        if let Some(request) = Request::decode(&bytes, day) {
            assert_eq!(request.encode(), bytes);
        }
    }
    if let Some(enrolment) = Enrolment::decode(&bytes) {
        assert_eq!(enrolment.encode(), bytes);
    }
}
