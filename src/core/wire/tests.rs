use super::*;
use crate::core::knock::{KnockKind, Status};
use crate::core::test_vectors;
use crate::core::types::{Port, Proto, Wall};

const NOON: Wall = test_vectors::NOON;

pub(super) fn receipt() -> Receipt {
    Receipt {
        status: Status::Granted,
        once: true,
        seconds: 30,
        time: NOON,
        delay: 12_345,
        observed: test_vectors::address(),
        granted: Some(test_vectors::address()),
        ports: [Some(Port { proto: Proto::Tcp, number: 22 }), None, None, None],
        challenge: None,
        next_key: None,
    }
}

#[test]
fn a_knock_arrives_and_its_receipt_comes_back() {
    let request = test_vectors::request(NOON);
    let (datagram, awaiting) = test_vectors::datagram(&request, [5; 32]);
    let sealed = test_vectors::open(&datagram, NOON).map_err(|r| r.name()).unwrap();
    assert_eq!(sealed.request(), &request);
    let (parts, reply) = sealed.split();
    assert_eq!(parts.row, 0);
    let answer = reply.seal(&test_vectors::realm(), &receipt(), Secret::new([6; 32])).unwrap();
    assert_eq!(awaiting.open(&answer), Some(receipt()));
    let (_, stranger) = test_vectors::datagram(&request, [7; 32]);
    assert_eq!(stranger.open(&answer), None, "the receipt of another knock");
}

#[test]
fn a_gateway_in_rotation_opens_what_was_sealed_for_either_key() {
    let mut side = test_vectors::side(test_vectors::CLIENT);
    side.gateway_public = test_vectors::gateway().other.unwrap().public();
    let sign = |message: &authentic::Message| Ok(authentic::sign(&test_vectors::seed(), message));
    let (datagram, _) = seal(
        &side,
        &test_vectors::request(NOON),
        Day::Number(NOON.day()),
        Secret::new([5; 32]),
        sign,
    )
    .unwrap();
    assert!(test_vectors::open(&datagram, NOON).is_ok());
}

#[test]
fn each_step_refuses_with_its_own_reason() {
    let side = test_vectors::side(test_vectors::CLIENT);
    let today = Day::Number(NOON.day());
    let body = |change: fn(&mut [u8; BODY])| {
        let mut body = encode_body(
            &test_vectors::request(NOON),
            &Signature { ed25519: [1; 64], sk_flags: 0, sk_counter: 0 },
        );
        change(&mut body);
        body
    };
    let sent = |body, day| seal_unsigned(&side, body, day, Secret::new([5; 32])).unwrap();
    let refused = |datagram: &[u8]| test_vectors::open(datagram, NOON).err();
    let good = sent(body(|_| {}), today);
    assert_eq!(refused(&good), None, "the listener cannot judge a signature");
    assert_eq!(refused(&good[..DATAGRAM - 1]), Some(Reject::Length));
    assert_eq!(refused(&[good.as_slice(), &[0]].concat()), Some(Reject::Length));
    assert_eq!(refused(&sent(body(|_| {}), Day::Number(NOON.day() + 2))), Some(Reject::UnknownTag));
    assert_eq!(refused(&sent(body(|_| {}), Day::Unknown)), None);
    let mut forged = good;
    forged[DATAGRAM - 1] ^= 1;
    assert_eq!(refused(&forged), Some(Reject::ClientMac));
    assert_eq!(refused(&sent(body(|b| b[0] = 2), today)), Some(Reject::Syntax), "version");
    assert_eq!(refused(&sent(body(|b| b[3] = 1), today)), Some(Reject::Syntax), "reserved");
    assert_eq!(refused(&sent(body(|b| b[BODY - 1] = 1), today)), Some(Reject::Syntax), "padding");
    assert_eq!(
        refused(&sent(body(|b| b[SIGNED_FINGERPRINT] ^= 1), today)),
        Some(Reject::Fingerprint)
    );
}

/// Where a body's fingerprint starts.
const SIGNED_FINGERPRINT: usize = 88;

#[test]
fn another_realm_gateway_or_key_opens_nothing() {
    use crate::core::keyring::TEST_GATEWAY_ID;
    use crate::core::types::{GatewayId, RealmId};
    let (datagram, _) = test_vectors::datagram(&test_vectors::request(NOON), [5; 32]);
    let keys = test_vectors::master().client_keys(test_vectors::CLIENT);
    let refused = |realm: Realm, keys: &ClientKeys| {
        let gateway = GatewayKeys { realm, ..test_vectors::gateway() };
        identify(&gateway, &test_vectors::tags(NOON.day()), &datagram)
            .and_then(|known| known.check_mac(keys))
            .and_then(|mine| mine.open(&gateway, keys, &test_vectors::client().fingerprint))
            .err()
    };
    let mask = || test_vectors::realm().mask().duplicate();
    assert_eq!(refused(test_vectors::realm(), &keys), None);
    assert_eq!(
        refused(Realm::new(RealmId([1; 16]), TEST_GATEWAY_ID, mask()), &keys),
        Some(Reject::Noise)
    );
    assert_eq!(
        refused(Realm::new(test_vectors::REALM, GatewayId([1; 16]), mask()), &keys),
        Some(Reject::Noise)
    );
    let other_mask = Realm::new(test_vectors::REALM, TEST_GATEWAY_ID, Secret::new([1; 32]));
    assert_eq!(refused(other_mask, &keys), Some(Reject::UnknownTag));
    let other_psk = ClientKeys { psk: Secret::new([1; 32]), ..keys.duplicate() };
    assert_eq!(refused(test_vectors::realm(), &other_psk), Some(Reject::Noise));
    let other_mac = ClientKeys { mac: Secret::new([1; 32]), ..keys.duplicate() };
    assert_eq!(refused(test_vectors::realm(), &other_mac), Some(Reject::ClientMac));
    let other_gateway = GatewayKeys {
        realm: test_vectors::realm(),
        current: KeyPair::new(&Secret::new([1; 32])),
        other: None,
    };
    let mine = identify(&other_gateway, &test_vectors::tags(NOON.day()), &datagram)
        .and_then(|k| k.check_mac(&keys))
        .unwrap();
    assert_eq!(
        mine.open(&other_gateway, &keys, &test_vectors::client().fingerprint).err(),
        Some(Reject::Noise)
    );
}

#[test]
fn a_profile_with_a_key_of_small_order_is_refused_before_anything_is_signed() {
    let side = ClientSide { gateway_public: [0; 32], ..test_vectors::side(test_vectors::CLIENT) };
    let sign =
        |_: &authentic::Message| -> Result<Signature, Fault> { panic!("nothing may be signed") };
    assert!(
        seal(&side, &test_vectors::request(NOON), Day::Unknown, Secret::new([5; 32]), sign)
            .is_err()
    );
}

#[test]
fn a_request_of_each_kind_survives_the_way() {
    for kind in [KnockKind::Open, KnockKind::Close, KnockKind::Probe] {
        let mut request = test_vectors::request(NOON);
        request.kind = kind;
        if kind == KnockKind::Probe {
            request.service = crate::core::types::ServiceName::NONE;
            request.address = None;
        }
        request.challenge = Some([9; 16]);
        let (datagram, _) = test_vectors::datagram(&request, [5; 32]);
        assert_eq!(test_vectors::open(&datagram, NOON).ok().map(|s| *s.request()), Some(request));
    }
}
