use std::sync::Arc;

use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};

use super::*;
use crate::core::keyring::{Day, GateKey, Realm, TEST_GATEWAY_ID as GATEWAY};
use crate::core::knock::{BODY, Enrolment, GATED, HandedKnock, KeyScheme, encode_body};
use crate::core::test_vectors::{self, NOON};
use crate::core::types::Wall;
use crate::core::wire::{ClientSide, seal};

const H: [u8; 32] = [3; 32];

fn day() -> Day {
    Day::Number(NOON.day())
}

fn gate(day: Day) -> GateKey {
    test_vectors::secrets(test_vectors::CLIENT).gate(day).unwrap()
}

/// What the listener hands over of a good knock, with `change` made by whoever took it over.
fn claim(change: impl FnOnce(&mut HandedKnock)) -> HandedKnock {
    let signed = test_vectors::request(NOON).encode();
    let signature = sign(&test_vectors::seed(), &message(GATEWAY, &H, &signed));
    let mut knock = HandedKnock {
        ticket: 1,
        client: test_vectors::CLIENT,
        day: day(),
        h: H,
        body: encode_body(&signed, &signature, &gate(day()), GATEWAY, &H),
        source: test_vectors::address(),
        source_port: 40_000,
    };
    change(&mut knock);
    knock
}

/// The same by somebody who has the client's gate key too: a thief of its profile.
fn gated(change: impl FnOnce(&mut HandedKnock)) -> HandedKnock {
    let mut knock = claim(change);
    let covered = knock.body[..GATED].to_vec();
    knock.body[GATED..].copy_from_slice(&gate(knock.day).gate_mac(GATEWAY, &knock.h, &covered));
    knock
}

fn rejected(knock: HandedKnock) -> Option<Reject> {
    let gate = gate(knock.day);
    Authentic::verify(knock, &test_vectors::client(), GATEWAY, &gate).err()
}

#[test]
fn a_signed_claim_is_authentic() {
    let authentic = test_vectors::verify(claim(|_| {})).map_err(|r| r.name()).unwrap();
    assert_eq!(authentic.client(), test_vectors::CLIENT);
    assert_eq!(*authentic.request(), test_vectors::request(NOON));
    assert_eq!((authentic.source(), authentic.source_port()), (test_vectors::address(), 40_000));
    assert_eq!(authentic.handshake(), Handshake { day: day(), h: H });
}

#[test]
fn a_listener_in_an_attackers_hands_cannot_forge_a_claim() {
    let stranger = claim(|c| c.client = ClientId([0; 16]));
    assert_eq!(rejected(stranger), Some(Reject::Pipe), "another client's");
    for (what, change) in [
        ("another version", (|c| c.body[0] = 9) as fn(&mut HandedKnock)),
        ("another handshake", |c| c.h[0] ^= 1),
        ("another time", |c| c.body[9] ^= 1),
        ("R", |c| c.body[SIGNED] ^= 1),
        ("s", |c| c.body[SIGNED + 32] ^= 1),
        ("padding", |c| c.body[GATED - 1] = 1),
        ("the gate MAC", |c| c.body[BODY - 1] ^= 1),
        ("a later day", |c| c.day = Day::Number(NOON.day() + 1)),
        ("no day", |c| c.day = Day::Unknown),
    ] {
        assert_eq!(rejected(claim(change)), Some(Reject::Gate), "{what}");
    }
}

#[test]
fn a_thief_of_the_profile_cannot_forge_a_claim() {
    for (what, reject, change) in [
        ("another version", Reject::Syntax, (|c| c.body[0] = 9) as fn(&mut HandedKnock)),
        ("an enrolment", Reject::Syntax, |c| c.body[1] = 4),
        ("padding", Reject::Syntax, |c| c.body[GATED - 1] = 1),
        ("another day", Reject::Syntax, |c| c.day = Day::Unknown),
        ("another handshake", Reject::Signature, |c| c.h[0] ^= 1),
        ("another time", Reject::Signature, |c| c.body[9] ^= 1),
        ("R", Reject::Signature, |c| c.body[SIGNED] ^= 1),
        ("s", Reject::Signature, |c| c.body[SIGNED + 32] ^= 1),
        ("FIDO flags of a plain key", Reject::Signature, |c| c.body[SIGNED + 64] = 1),
        ("FIDO counter of a plain key", Reject::Signature, |c| c.body[SIGNED + 68] = 1),
    ] {
        assert_eq!(rejected(gated(change)), Some(reject), "{what}");
    }
}

/// What an authenticator signs, composed here once more, with its flags and counter.
fn by_authenticator(application: &str, flags: u8, counter: u32) -> Signature {
    let message = message(GATEWAY, &H, &test_vectors::request(NOON).encode());
    let mut signed = Sha256::digest(application).to_vec();
    signed.push(flags);
    signed.extend(counter.to_be_bytes());
    signed.extend(Sha256::digest(sshsig_blob(&message)));
    let key = SigningKey::from_bytes(test_vectors::seed().expose());
    Signature { ed25519: key.sign(&signed).to_bytes(), sk_flags: flags, sk_counter: counter }
}

/// The verdict on a knock with this signature, of a client whose FIDO key has these rules.
fn verdict_on(signature: Signature, touch: bool, verify: bool) -> Option<Reject> {
    let signed = test_vectors::request(NOON).encode();
    let fido = FidoKey { touch, verify, ..FidoKey::new("ssh:") };
    let mut client = test_vectors::client();
    client.key.fido = Some(Arc::new(fido));
    let gate = gate(day());
    let body = encode_body(&signed, &signature, &gate, GATEWAY, &H);
    Authentic::verify(claim(|c| c.body = body), &client, GATEWAY, &gate).err()
}

#[test]
fn a_fido_signature_is_authentic_with_the_flags_that_the_line_demands() {
    const OTHER: u8 = 0x80;
    for (flags, touch, verify, good) in [
        (TOUCHED, true, false, true),
        (TOUCHED | VERIFIED | OTHER, true, true, true),
        (TOUCHED | OTHER, true, true, false),
        (VERIFIED | OTHER, true, true, false),
        (VERIFIED, false, true, true),
        (0, true, false, false),
        (0, false, false, true),
        (0, false, true, false),
    ] {
        // A counter that stands still or goes back proves nothing, and is no fault.
        for counter in [9, 9, 0, u32::MAX] {
            let verdict = verdict_on(by_authenticator("ssh:", flags, counter), touch, verify);
            let expected = if good { None } else { Some(Reject::Signature) };
            assert_eq!(verdict, expected, "flags {flags}, touch {touch}, verify {verify}");
        }
    }
}

#[test]
fn a_fido_signature_is_bound_to_its_application_flags_and_counter() {
    let made = || by_authenticator("ssh:", TOUCHED, 7);
    let rejected = Some(Reject::Signature);
    assert_eq!(verdict_on(made(), true, false), None);
    for forged in [
        by_authenticator("ssh:other", TOUCHED, 7),
        by_authenticator("https://example.org", TOUCHED, 7),
        Signature { sk_flags: TOUCHED | VERIFIED, ..made() },
        Signature { sk_counter: 8, ..made() },
        Signature { sk_flags: TOUCHED, ..by_authenticator("ssh:", 0, 7) },
    ] {
        assert_eq!(verdict_on(forged, true, false), rejected, "{forged:?}");
    }
    // The same private key as a plain one: neither kind of signature is valid as the other.
    let message = message(GATEWAY, &H, &test_vectors::request(NOON).encode());
    let plain = Signature { sk_flags: TOUCHED, ..sign(&test_vectors::seed(), &message) };
    assert_eq!(verdict_on(plain, true, false), rejected);
    let gate = gate(day());
    let signed = test_vectors::request(NOON).encode();
    let body = encode_body(&signed, &made(), &gate, GATEWAY, &H);
    let knock = claim(|c| c.body = body);
    let verdict = Authentic::verify(knock, &test_vectors::client(), GATEWAY, &gate);
    assert_eq!(verdict.err(), rejected);
}

/// An attacker who took over this listener, and can read knocks to another gateway where the same
/// key is enrolled, has a knock signed for that gateway and its `h`.
#[test]
fn a_knock_signed_for_another_gateway_is_rejected_whatever_the_claimed_h() {
    let side = ClientSide {
        gateway: GatewayId([2; 16]),
        realm: Realm::new(test_vectors::REALM, Secret::new([1; 32])),
        ..test_vectors::side(test_vectors::CLIENT)
    };
    let mut h = [0; 32];
    let mut signature = None;
    let sign_there = |m: &Message| {
        h.copy_from_slice(&m[MESSAGE - SIGNED - 32..MESSAGE - SIGNED]);
        let made = sign(&test_vectors::seed(), m);
        signature = Some(Signature { ..made });
        Ok(made)
    };
    let signed = test_vectors::request(NOON).encode();
    assert!(seal(&side, &signed, day(), Secret::new([5; 32]), sign_there).is_ok());
    let signature = signature.unwrap();
    // With the gate MAC of whoever verifies it: the signature alone must be enough.
    let verdict = |h, gateway| {
        let body = encode_body(&signed, &signature, &gate(day()), gateway, &h);
        let knock = claim(|c| (c.h, c.body) = (h, body));
        Authentic::verify(knock, &test_vectors::client(), gateway, &gate(day())).err()
    };
    assert_eq!(verdict(h, GatewayId([2; 16])), None, "valid at its own gateway");
    assert_eq!(verdict(h, GATEWAY), Some(Reject::Signature), "its own h");
    assert_eq!(verdict(H, GATEWAY), Some(Reject::Signature), "an h of ours");
}

#[test]
fn a_claim_with_any_bit_flipped_is_rejected() {
    for bit in 0..BODY * 8 {
        let flip = |c: &mut HandedKnock| c.body[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(rejected(claim(flip)), Some(Reject::Gate), "bit {bit} of the body");
        if bit < GATED * 8 {
            assert!(rejected(gated(flip)).is_some(), "bit {bit} of the body, with a gate MAC");
        }
    }
    for bit in 0..256 {
        let flip = |c: &mut HandedKnock| c.h[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(rejected(claim(flip)), Some(Reject::Gate), "bit {bit} of h");
        assert_eq!(rejected(gated(flip)), Some(Reject::Signature), "bit {bit} of h");
    }
}

#[test]
fn a_signature_with_a_larger_s_is_rejected() {
    // s + L verifies under a lax verifier: the same knock with another signature.
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let add_order = |c: &mut HandedKnock| {
        let mut carry = 0;
        for (byte, l) in c.body[SIGNED + 32..SIGNED + 64].iter_mut().zip(L) {
            let sum = u16::from(*byte) + u16::from(l) + carry;
            *byte = u8::try_from(sum & 0xff).unwrap();
            carry = sum >> 8;
        }
    };
    assert_eq!(rejected(gated(add_order)), Some(Reject::Signature));
}

#[test]
fn a_key_of_small_order_signs_nothing_even_if_enrolled() {
    // Under the identity, R = identity and s = 0 fit every message.
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut client = test_vectors::client();
    client.key = PublicKey::plain(identity);
    let forged = gated(|c| {
        c.body[SIGNED..SIGNED + 64].fill(0);
        c.body[SIGNED] = 1;
    });
    let verified = Authentic::verify(forged, &client, GATEWAY, &gate(day()));
    assert_eq!(verified.err(), Some(Reject::Signature));
}

#[test]
fn only_keys_of_the_prime_order_group_can_be_enrolled() {
    assert!(check_enrolment_key(&test_vectors::client().key.ed25519).is_ok());
    let hex = |text: &str| -> [u8; 32] {
        let mut key = [0; 32];
        base16ct::lower::decode(text, &mut key).unwrap();
        key
    };
    let refused = [
        (
            "0100000000000000000000000000000000000000000000000000000000000000",
            "prime-order",
            "identity",
        ),
        (
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "prime-order",
            "order 2",
        ),
        (
            "0000000000000000000000000000000000000000000000000000000000000000",
            "prime-order",
            "order 4",
        ),
        (
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "prime-order",
            "order 8",
        ),
        (
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "canonical",
            "y = p + 1",
        ),
        (
            "0100000000000000000000000000000000000000000000000000000000000080",
            "canonical",
            "minus zero",
        ),
        (
            "0200000000000000000000000000000000000000000000000000000000000000",
            "curve",
            "no such point",
        ),
    ];
    for (key, word, name) in refused {
        let fault = check_enrolment_key(&hex(key)).expect_err(name);
        assert!(fault.what.contains(word), "{name}: {fault}");
    }
}

/// Such a key has a second encoding, and owners of several of them can claim one signature.
#[test]
fn a_key_with_a_part_of_small_order_does_not_join_though_its_signature_fits() {
    let mut order_8 = [0; 32];
    let text = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a";
    base16ct::lower::decode(text, &mut order_8).unwrap();
    let own = SigningKey::from_bytes(test_vectors::seed().expose()).verifying_key();
    let part = VerifyingKey::from_bytes(&order_8).unwrap();
    let mixed = (own.to_edwards() + part.to_edwards()).compress().to_bytes();
    let expanded = ExpandedSecretKey::from(test_vectors::seed().expose());
    for (key, outcome) in [(own.to_bytes(), None), (mixed, Some(Reject::Signature))] {
        let verifying = VerifyingKey::from_bytes(&key).unwrap();
        // One signature in eight fits the mixed key.
        let knock = (0..1000).find_map(|nanos| {
            let enrolment = Enrolment {
                invitation: test_vectors::INVITATION,
                receipt_wanted: true,
                timestamp: Wall(NOON.0 + nanos),
                challenge: None,
                scheme: KeyScheme::Ed25519,
                key,
            };
            let signed = enrolment.encode();
            let blob = sshsig_blob(&message(GATEWAY, &H, &signed));
            let made = raw_sign::<Sha512>(&expanded, &blob, &verifying);
            verifying.verify_strict(&blob, &made).ok()?;
            let signature = Signature { ed25519: made.to_bytes(), sk_flags: 0, sk_counter: 0 };
            let gate = test_vectors::secrets(test_vectors::INVITATION).gate(Day::Invited)?;
            let body = encode_body(&signed, &signature, &gate, GATEWAY, &H);
            let client = test_vectors::INVITATION;
            Some((
                claim(|knock| (knock.client, knock.day, knock.body) = (client, Day::Invited, body)),
                gate,
            ))
        });
        let (knock, gate) = knock.expect("a signature that fits");
        assert_eq!(AuthenticEnrolment::verify(&knock, GATEWAY, &gate).err(), outcome);
    }
}

#[test]
fn the_blob_has_openssh_s_layout() {
    let blob = sshsig_blob(&message(GATEWAY, &H, &test_vectors::request(NOON).encode()));
    let head = b"SSHSIG\0\0\0\x0fknock@toctoc.v1\0\0\0\0\0\0\0\x06sha512\0\0\0\x40";
    assert_eq!(&blob[..head.len()], head);
    assert_eq!(blob.len(), head.len() + 64);
}
