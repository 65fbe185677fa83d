use super::*;
use crate::core::knock::{KnockKind, PortEntry, Request, Status};
use crate::core::prefix::Span;
use crate::core::test_vectors;
use crate::core::types::{PortRange, RealmId, Wall};

const NOON: Wall = test_vectors::NOON;

pub(super) fn receipt() -> Receipt {
    Receipt {
        status: Status::Granted,
        once: true,
        seconds: 30,
        time: NOON,
        working_day: NOON.day(),
        observed: test_vectors::address(),
        granted: Some(test_vectors::address()),
        span: Span::HOST,
        ports: [PortRange::read("22/tcp").map(PortEntry::Range), None, None, None],
        challenge: None,
        next_key: None,
        welcome: None,
    }
}

#[test]
fn a_knock_arrives_and_its_receipt_comes_back() {
    let request = test_vectors::request(NOON);
    let (datagram, awaiting) = test_vectors::datagram(&request, [5; 32]);
    let decrypted = test_vectors::open(&datagram, NOON).map_err(|r| r.name()).unwrap();
    assert_eq!(decrypted.asked(), &Asked::Request(request));
    let (parts, reply) = decrypted.split();
    let body = test_vectors::receipt_body(&receipt(), parts.day, &parts.h);
    let sealed = reply.seal(&test_vectors::realm(), body, Secret::new([6; 32])).unwrap();
    assert_eq!(awaiting.open(&sealed), Some(receipt()));
    let (_, other) = test_vectors::datagram(&request, [7; 32]);
    assert_eq!(other.open(&sealed), None, "the receipt of another knock");
}

/// Somebody who took the listener over has all that it needs to seal: only the receipt MAC is
/// missing.
#[test]
fn a_receipt_without_the_gatekeepers_mac_is_ignored() {
    let request = test_vectors::request(NOON);
    let (datagram, awaiting) = test_vectors::datagram(&request, [5; 32]);
    let opened = || test_vectors::open(&datagram, NOON).ok().unwrap().split();
    let (DecryptedParts { day, h, .. }, _) = opened();
    let good = test_vectors::receipt_body(&receipt(), day, &h);
    let of = |day, h: &[u8; 32]| test_vectors::receipt_body(&receipt(), day, h);
    let mut other_status = good;
    other_status[1] = Status::Trouble as u8;
    let mut other_time = good;
    other_time[15] ^= 1;
    let mut next_key = good;
    next_key[88] ^= 1;
    for (body, believed) in [
        (good, true),
        (other_status, false),
        (other_time, false),
        (next_key, false),
        (of(day, &[1; 32]), false),
        (of(Day::Number(NOON.day() + 1), &h), false),
        (of(Day::Unknown, &h), false),
    ] {
        let sealed = opened().1.seal(&test_vectors::realm(), body, Secret::new([6; 32])).unwrap();
        assert_eq!(awaiting.open(&sealed).is_some(), believed);
    }
}

#[test]
fn during_a_key_rotation_the_gateway_opens_knocks_for_either_key() {
    let mut side = test_vectors::side(test_vectors::CLIENT);
    side.gateway_public = test_vectors::gateway().other.unwrap().public();
    let sign = |message: &authentic::Message| Ok(authentic::sign(&test_vectors::seed(), message));
    let request = test_vectors::request(NOON);
    let today = Day::Number(NOON.day());
    let signed = request.encode();
    let (datagram, _) = seal(&side, &signed, today, Secret::new([5; 32]), sign).unwrap();
    assert!(test_vectors::open(&datagram, NOON).is_ok());
}

#[test]
fn each_check_rejects_with_its_own_reason() {
    let side = test_vectors::side(test_vectors::CLIENT);
    let today = Day::Number(NOON.day());
    let sent = |change: fn(&mut [u8; BODY]), day| {
        let wire = side.secrets.wire(day).unwrap();
        let made = seal_body(&side, &wire, Secret::new([5; 32]), |h| {
            let signature = Signature { ed25519: [1; 64], sk_flags: 0, sk_counter: 0 };
            let signed = test_vectors::request(NOON).encode();
            let gate = side.secrets.gate(day).unwrap();
            let mut body = encode_body(&signed, &signature, &gate, side.gateway, h);
            change(&mut body);
            body
        });
        made.unwrap()
    };
    let reject = |datagram: &[u8]| test_vectors::open(datagram, NOON).err();
    let good = sent(|_| {}, today);
    assert_eq!(reject(&good), None, "the listener verifies no signature");
    assert_eq!(reject(&sent(|body| body[BODY - 1] ^= 1, today)), None, "and no gate MAC");
    assert_eq!(reject(&good[..DATAGRAM - 1]), Some(Reject::Length));
    assert_eq!(reject(&[good.as_slice(), &[0]].concat()), Some(Reject::Length));
    for (days, rejected) in [(-2, true), (-1, false), (1, false), (2, true)] {
        let day = Day::Number(NOON.day().checked_add_signed(days).unwrap());
        let expected = rejected.then_some(Reject::UnknownTag);
        assert_eq!(reject(&sent(|_| {}, day)), expected, "{days}");
    }
    let mut forged = good;
    forged[DATAGRAM - 1] ^= 1;
    assert_eq!(reject(&forged), Some(Reject::ClientMac));
    assert_eq!(reject(&sent(|b| b[0] = 2, today)), Some(Reject::Syntax), "version");
    assert_eq!(reject(&sent(|b| b[1] = 4, today)), Some(Reject::Syntax), "nobody is invited");
    assert_eq!(reject(&sent(|b| b[1] = 5, today)), Some(Reject::Syntax), "a later kind");
    assert_eq!(reject(&sent(|b| b[3] = 1, today)), Some(Reject::Syntax), "reserved");
    assert_eq!(reject(&sent(|b| b[157] = 1, today)), Some(Reject::Syntax), "padding");
    let clockless = sent(|_| {}, Day::Unknown);
    assert_eq!(reject(&clockless), Some(Reject::Syntax), "under keys that never change");
}

/// The reason why `gateway` rejects a knock to the test gateway, with `wire` as the client's keys.
fn rejected_by(gateway: &GatewayKeys, wire: &WireSecret) -> Option<Reject> {
    let (datagram, _) = test_vectors::datagram(&test_vectors::request(NOON), [5; 32]);
    let tagged = match identify(gateway, &test_vectors::tags(NOON), &datagram) {
        Ok(tagged) => tagged,
        Err(reject) => return Some(reject),
    };
    match tagged.check_mac(wire) {
        Ok(verified) => verified.open(gateway, wire, Day::Number(NOON.day())).err(),
        Err(reject) => Some(reject),
    }
}

#[test]
fn another_realm_gateway_or_key_opens_nothing() {
    let secrets = test_vectors::secrets(test_vectors::CLIENT);
    let wire = secrets.wire(Day::Number(NOON.day())).unwrap();
    let mask = || test_vectors::realm().mask().duplicate();
    let good = test_vectors::gateway;
    assert_eq!(rejected_by(&good(), &wire), None);
    let realm = Realm::new(RealmId([1; 16]), mask());
    assert_eq!(rejected_by(&GatewayKeys { realm, ..good() }, &wire), Some(Reject::Noise));
    let gateway = GatewayId([1; 16]);
    assert_eq!(rejected_by(&GatewayKeys { gateway, ..good() }, &wire), Some(Reject::Noise));
    let realm = Realm::new(test_vectors::REALM, Secret::new([1; 32]));
    assert_eq!(rejected_by(&GatewayKeys { realm, ..good() }, &wire), Some(Reject::UnknownTag));
    let current = KeyPair::new(&Secret::new([1; 32]));
    let other_key = GatewayKeys { current, other: None, ..good() };
    assert_eq!(rejected_by(&other_key, &wire), Some(Reject::Noise));
    let other_day = secrets.wire(Day::Number(NOON.day() + 1)).unwrap();
    assert_eq!(rejected_by(&good(), &other_day), Some(Reject::ClientMac));
}

#[test]
fn a_wire_secret_with_the_mac_key_of_another_opens_nothing_by_its_psk() {
    // A client MAC that fits, over a handshake with another psk.
    let (datagram, _) = test_vectors::datagram(&test_vectors::request(NOON), [5; 32]);
    let secrets = test_vectors::secrets(test_vectors::CLIENT);
    let [mine, other] = [0, 1].map(|days| secrets.wire(Day::Number(NOON.day() + days)).unwrap());
    let gateway = test_vectors::gateway();
    let tagged = identify(&gateway, &test_vectors::tags(NOON), &datagram).ok().unwrap();
    let verified = tagged.check_mac(&mine).ok().unwrap();
    let opened = verified.open(&gateway, &other, Day::Number(NOON.day()));
    assert_eq!(opened.err(), Some(Reject::Noise));
}

#[test]
fn a_profile_with_a_key_of_small_order_is_refused_before_anything_is_signed() {
    let side = ClientSide { gateway_public: [0; 32], ..test_vectors::side(test_vectors::CLIENT) };
    let signed = test_vectors::request(NOON).encode();
    let refused = |side: &ClientSide, day| {
        seal(side, &signed, day, Secret::new([5; 32]), |_| panic!("nothing may be signed")).is_err()
    };
    assert!(refused(&side, Day::Number(NOON.day())));
    let good = test_vectors::side(test_vectors::CLIENT);
    assert!(refused(&good, Day::Number(good.secrets.first_day() - 1)), "no keys of that day");
}

#[test]
fn a_request_of_each_kind_arrives_as_sent() {
    for kind in [KnockKind::Open, KnockKind::Close, KnockKind::Probe, KnockKind::Time] {
        let bare = Request { receipt_wanted: true, timestamp: NOON, ..Request::bare(kind) };
        let request = match kind {
            KnockKind::Probe => Request { challenge: Some([9; 16]), ..bare },
            KnockKind::Time => Request { first_day: 20_480, ..bare },
            _ => Request { kind, challenge: Some([9; 16]), ..test_vectors::request(NOON) },
        };
        let (datagram, _) = test_vectors::datagram(&request, [5; 32]);
        let opened = test_vectors::open(&datagram, NOON).ok();
        assert_eq!(opened.map(|sealed| *sealed.asked()), Some(Asked::Request(request)));
    }
}

#[test]
fn a_knock_that_joins_arrives_under_the_keys_of_an_invitation_and_under_no_other() {
    use crate::core::knock::{Enrolment, KeyScheme};
    let side = test_vectors::side(test_vectors::INVITATION);
    let enrolment = Enrolment {
        invitation: test_vectors::INVITATION,
        receipt_wanted: true,
        timestamp: NOON,
        challenge: None,
        scheme: KeyScheme::Ed25519,
        key: test_vectors::client().key.ed25519,
    };
    let sealed = |signed: &[u8; SIGNED]| {
        let sign = |message: &_| Ok(authentic::sign(&test_vectors::seed(), message));
        seal(&side, signed, Day::Invited, Secret::new([5; 32]), sign).ok().unwrap().0
    };
    let row = side.secrets.invitation_row();
    let joins = sealed(&enrolment.encode());
    let opened = test_vectors::open_as(&row, &joins).ok().unwrap();
    assert_eq!(*opened.asked(), Asked::Enrolment(enrolment));
    // The same client, if it were enrolled: a day's row has the same tag without a clock.
    let client = side.secrets.wire_row(NOON.day());
    assert_eq!(test_vectors::open_as(&client, &joins).err(), Some(Reject::Syntax));
    for kind in [KnockKind::Open, KnockKind::Time] {
        let request = Request { kind, ..test_vectors::request(NOON) };
        let other = sealed(&request.encode());
        assert_eq!(test_vectors::open_as(&row, &other).err(), Some(Reject::Syntax), "{kind:?}");
    }
}
