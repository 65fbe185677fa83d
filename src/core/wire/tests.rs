use super::*;
use crate::core::knock::{KnockKind, PortEntry, Status};
use crate::core::prefix::Span;
use crate::core::test_vectors;
use crate::core::types::{PortRange, RealmId, ServiceName, Wall};

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
        span: Span::HOST,
        ports: [PortRange::read("22/tcp").map(PortEntry::Range), None, None, None],
        challenge: None,
        next_key: None,
    }
}

#[test]
fn a_knock_arrives_and_its_receipt_comes_back() {
    let request = test_vectors::request(NOON);
    let (datagram, awaiting) = test_vectors::datagram(&request, [5; 32]);
    let decrypted = test_vectors::open(&datagram, NOON).map_err(|r| r.name()).unwrap();
    assert_eq!(decrypted.request(), &request);
    let (parts, reply) = decrypted.split();
    assert_eq!(parts.row, 0);
    let sealed = reply.seal(&test_vectors::realm(), &receipt(), Secret::new([6; 32])).unwrap();
    assert_eq!(awaiting.open(&sealed), Some(receipt()));
    let (_, other) = test_vectors::datagram(&request, [7; 32]);
    assert_eq!(other.open(&sealed), None, "the receipt of another knock");
}

#[test]
fn during_a_key_rotation_the_gateway_opens_knocks_for_either_key() {
    let mut side = test_vectors::side(test_vectors::CLIENT);
    side.gateway_public = test_vectors::gateway().other.unwrap().public();
    let sign = |message: &authentic::Message| Ok(authentic::sign(&test_vectors::seed(), message));
    let request = test_vectors::request(NOON);
    let today = Day::Number(NOON.day());
    let (datagram, _) = seal(&side, &request, today, Secret::new([5; 32]), sign).unwrap();
    assert!(test_vectors::open(&datagram, NOON).is_ok());
}

#[test]
fn each_check_rejects_with_its_own_reason() {
    let side = test_vectors::side(test_vectors::CLIENT);
    let today = Day::Number(NOON.day());
    let body = |change: fn(&mut [u8; BODY])| {
        let signature = Signature { ed25519: [1; 64], sk_flags: 0, sk_counter: 0 };
        let mut body = encode_body(&test_vectors::request(NOON), &signature);
        change(&mut body);
        body
    };
    let sent = |body, day| seal_unsigned(&side, body, day, Secret::new([5; 32])).unwrap();
    let reject = |datagram: &[u8]| test_vectors::open(datagram, NOON).err();
    let good = sent(body(|_| {}), today);
    assert_eq!(reject(&good), None, "the listener verifies no signature");
    assert_eq!(reject(&good[..DATAGRAM - 1]), Some(Reject::Length));
    assert_eq!(reject(&[good.as_slice(), &[0]].concat()), Some(Reject::Length));
    assert_eq!(reject(&sent(body(|_| {}), Day::Number(NOON.day() + 2))), Some(Reject::UnknownTag));
    assert_eq!(reject(&sent(body(|_| {}), Day::Unknown)), None);
    let mut forged = good;
    forged[DATAGRAM - 1] ^= 1;
    assert_eq!(reject(&forged), Some(Reject::ClientMac));
    assert_eq!(reject(&sent(body(|b| b[0] = 2), today)), Some(Reject::Syntax), "version");
    assert_eq!(reject(&sent(body(|b| b[3] = 1), today)), Some(Reject::Syntax), "reserved");
    assert_eq!(reject(&sent(body(|b| b[BODY - 1] = 1), today)), Some(Reject::Syntax), "padding");
    assert_eq!(reject(&sent(body(|b| b[FINGERPRINT_AT] ^= 1), today)), Some(Reject::Fingerprint));
}

/// The offset of a body's fingerprint.
const FINGERPRINT_AT: usize = 88;

/// The reason why `gateway` rejects a knock to the test gateway, with `keys` as the client's.
fn rejected_by(gateway: &GatewayKeys, keys: &ClientKeys) -> Option<Reject> {
    let (datagram, _) = test_vectors::datagram(&test_vectors::request(NOON), [5; 32]);
    let tagged = match identify(gateway, &test_vectors::tags(NOON.day()), &datagram) {
        Ok(tagged) => tagged,
        Err(reject) => return Some(reject),
    };
    match tagged.check_mac(keys) {
        Ok(verified) => verified.open(gateway, keys, &test_vectors::client().fingerprint()).err(),
        Err(reject) => Some(reject),
    }
}

#[test]
fn another_realm_gateway_or_key_opens_nothing() {
    let keys = test_vectors::master().client_keys(test_vectors::CLIENT);
    let mask = || test_vectors::realm().mask().duplicate();
    let good = test_vectors::gateway;
    assert_eq!(rejected_by(&good(), &keys), None);
    let realm = Realm::new(RealmId([1; 16]), mask());
    assert_eq!(rejected_by(&GatewayKeys { realm, ..good() }, &keys), Some(Reject::Noise));
    let gateway = GatewayId([1; 16]);
    assert_eq!(rejected_by(&GatewayKeys { gateway, ..good() }, &keys), Some(Reject::Noise));
    let realm = Realm::new(test_vectors::REALM, Secret::new([1; 32]));
    assert_eq!(rejected_by(&GatewayKeys { realm, ..good() }, &keys), Some(Reject::UnknownTag));
    let current = KeyPair::new(&Secret::new([1; 32]));
    let other_key = GatewayKeys { current, other: None, ..good() };
    assert_eq!(rejected_by(&other_key, &keys), Some(Reject::Noise));
    let other_psk = ClientKeys { psk: Secret::new([1; 32]), ..keys.duplicate() };
    assert_eq!(rejected_by(&good(), &other_psk), Some(Reject::Noise));
    let other_mac = ClientKeys { mac: Secret::new([1; 32]), ..keys };
    assert_eq!(rejected_by(&good(), &other_mac), Some(Reject::ClientMac));
}

#[test]
fn a_profile_with_a_key_of_small_order_is_refused_before_anything_is_signed() {
    let side = ClientSide { gateway_public: [0; 32], ..test_vectors::side(test_vectors::CLIENT) };
    let request = test_vectors::request(NOON);
    let sealed = seal(&side, &request, Day::Unknown, Secret::new([5; 32]), |_| {
        panic!("nothing may be signed")
    });
    assert!(sealed.is_err());
}

#[test]
fn a_request_of_each_kind_arrives_as_sent() {
    for kind in [KnockKind::Open, KnockKind::Close, KnockKind::Probe] {
        let mut request = test_vectors::request(NOON);
        request.kind = kind;
        if kind == KnockKind::Probe {
            request.service = ServiceName::NONE;
            request.address = None;
        }
        request.challenge = Some([9; 16]);
        let (datagram, _) = test_vectors::datagram(&request, [5; 32]);
        assert_eq!(test_vectors::open(&datagram, NOON).ok().map(|s| *s.request()), Some(request));
    }
}
