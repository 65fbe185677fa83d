//! The exchange without sockets: a gateway of the test keys answers as each test wants.

use super::*;
use crate::core::authentic;
use crate::core::keyring::{Day, TEST_GATEWAY_ID};
use crate::core::prefix::Span;
use crate::core::test_vectors::{self, CLIENT, NOON};

const HOME: Endpoints = Endpoints { local: v4([192, 0, 2, 7]), gateway: v4([198, 51, 100, 1]) };
const BEHIND_NAT: Endpoints = Endpoints { local: v4([192, 168, 1, 2]), ..HOME };

const fn v4(bytes: [u8; 4]) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
}

fn plain(kind: KnockKind) -> ClientRequest {
    ClientRequest::new(kind, Duration::from_secs(2), 3)
}

fn open() -> ClientRequest {
    let service = ServiceName::new("ssh").unwrap();
    ClientRequest { service, seconds: 45, ..plain(KnockKind::Open) }
}

fn exchange(wanted: ClientRequest, ends: Endpoints) -> Exchange {
    Exchange::new(test_vectors::side(CLIENT), test_vectors::client().key, wanted, ends)
}

fn next(exchange: &mut Exchange, byte: u8) -> Option<Packet> {
    let sign = |message: &_| Ok(authentic::sign(&test_vectors::seed(), message));
    exchange.next(NOON, &Secret::new([byte; ENTROPY]), sign).unwrap()
}

/// What the gateway reads in a packet, and its answer.
fn answer(packet: &Packet, receipt: &Receipt) -> (Request, Vec<u8>) {
    let opened = test_vectors::open(&packet.datagram, NOON).map_err(|reject| reject.name());
    let (parts, reply) = opened.unwrap().split();
    let signed = parts.body[..SIGNED].try_into().unwrap();
    let request = Request::decode(&signed, parts.day).unwrap();
    let gate = test_vectors::secrets(CLIENT).gate(parts.day).unwrap();
    let body = receipt.with_mac(&gate, TEST_GATEWAY_ID, &parts.h);
    let sealed = reply.seal(&test_vectors::realm(), body, Secret::new([9; 32])).unwrap();
    (request, sealed.to_vec())
}

fn receipt(status: Status) -> Receipt {
    Receipt {
        status,
        once: false,
        seconds: if status == Status::Granted { 45 } else { 0 },
        time: NOON,
        working_day: NOON.day(),
        observed: Source::new(HOME.local),
        granted: (status == Status::Granted).then_some(Source::new(HOME.local)),
        span: Span::HOST,
        ports: [None; 4],
        challenge: None,
        next_key: None,
        welcome: None,
    }
}

/// The id that the gatekeeper gives to this packet.
fn id_at_the_gateway(packet: &Packet) -> KnockId {
    let opened = test_vectors::open(&packet.datagram, NOON).map_err(|reject| reject.name());
    KnockId::of(&opened.unwrap().split().0.h)
}

#[test]
fn both_ends_give_a_packet_the_same_id_and_each_packet_has_its_own() {
    let mut exchange = exchange(open(), HOME);
    let packets = [1, 2, 3].map(|byte| next(&mut exchange, byte).unwrap());
    let ids = [0, 1, 2].map(|n| id_at_the_gateway(&packets[n]));
    assert_eq!(exchange.sent(), ids);
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
    assert_eq!(exchange.answered(), None);
    let (_, denied) = answer(&packets[0], &receipt(Status::Denied));
    assert_eq!(exchange.receive(NOON, &denied), Progress::Over);
    assert_eq!(exchange.answered(), Some(ids[0]), "the one that was judged");
}

#[test]
fn a_packet_with_a_challenge_has_an_id_of_its_own_and_the_first_one_is_kept() {
    let mut exchange = exchange(open(), HOME);
    let first = next(&mut exchange, 1).unwrap();
    let asked = Receipt { challenge: Some([7; 16]), ..receipt(Status::Challenge) };
    assert_eq!(exchange.receive(NOON, &answer(&first, &asked).1), Progress::Continues);
    let second = next(&mut exchange, 2).unwrap();
    let ids = [id_at_the_gateway(&first), id_at_the_gateway(&second)];
    assert_eq!((exchange.sent(), exchange.answered()), (&ids[..], Some(ids[0])));
    exchange.receive(NOON, &answer(&second, &receipt(Status::Granted)).1);
    assert_eq!(exchange.answered(), Some(ids[1]));
}

#[test]
fn one_packet_and_its_receipt_are_an_exchange() {
    let mut exchange = exchange(open(), HOME);
    let packet = next(&mut exchange, 1).unwrap();
    let (request, granted) = answer(&packet, &receipt(Status::Granted));
    assert_eq!((request.kind, request.seconds), (KnockKind::Open, 45));
    assert_eq!(request.address, Some(Source::new(HOME.local)));
    assert_eq!(exchange.receive(NOON, &granted[1..]), Progress::Ignored);
    assert_eq!(exchange.receive(NOON, &[0; 184]), Progress::Ignored);
    assert!(exchange.received().is_none());
    assert_eq!(exchange.receive(NOON.plus(1), &granted), Progress::Over);
    let received = exchange.received().unwrap();
    assert_eq!((received.receipt.status, received.at), (Status::Granted, NOON.plus(1)));
    // It is over, whatever comes.
    assert_eq!(exchange.receive(NOON, &granted), Progress::Ignored);
    assert!(next(&mut exchange, 2).is_none());
}

#[test]
fn a_challenge_is_answered_once_and_kept_if_the_second_packet_meets_silence() {
    let asks = |byte| Receipt { challenge: Some([byte; 16]), ..receipt(Status::Challenge) };
    let mut exchange = exchange(open(), HOME);
    let first = next(&mut exchange, 1).unwrap();
    let (request, asked) = answer(&first, &asks(7));
    assert_eq!(request.challenge, None);
    assert_eq!(exchange.receive(NOON, &asked), Progress::Continues);
    // An answer to the first packet is none any more.
    assert_eq!(exchange.receive(NOON, &asked), Progress::Ignored);
    let second = next(&mut exchange, 2).unwrap();
    let (request, asked) = answer(&second, &asks(8));
    assert_eq!(request.challenge, Some([7; 16]));
    assert_eq!(exchange.received().unwrap().receipt.challenge, Some([7; 16]));
    assert_eq!(exchange.receive(NOON, &asked), Progress::Over);
    assert_eq!(exchange.received().unwrap().receipt.challenge, Some([8; 16]));
}

#[test]
fn behind_a_nat_a_probe_comes_first_and_its_receipt_is_not_the_answer() {
    let outer = Source::new(v4([203, 0, 113, 9]));
    let seen = Receipt { observed: outer, challenge: Some([5; 16]), ..receipt(Status::Observed) };
    let held = ClientRequest { held_port: Some(4711), ..open() };
    let mut exchange = exchange(held, BEHIND_NAT);
    assert_eq!(exchange.named(), None);
    let (probe, observed) = answer(&next(&mut exchange, 1).unwrap(), &seen);
    assert_eq!((probe.kind, probe.address), (KnockKind::Probe, None));
    assert_eq!(exchange.receive(NOON, &observed), Progress::Continues);
    assert!(exchange.received().is_none());
    let (request, _) = answer(&next(&mut exchange, 2).unwrap(), &seen);
    assert_eq!((request.kind, request.address), (KnockKind::Open, Some(outer)));
    assert_eq!((request.challenge, request.source_port), (Some([5; 16]), 0));
    let named = NamedAddress { source: outer, origin: AddressOrigin::Probed };
    assert_eq!(exchange.named(), Some(named));
    // A challenge that has died meanwhile is replaced once.
    let packet = next(&mut exchange, 3).unwrap();
    let dead = Receipt { challenge: Some([6; 16]), ..receipt(Status::Challenge) };
    assert_eq!(exchange.receive(NOON, &answer(&packet, &dead).1), Progress::Continues);
    let (request, _) = answer(&next(&mut exchange, 4).unwrap(), &dead);
    assert_eq!((request.address, request.challenge), (Some(outer), Some([6; 16])));
}

#[test]
fn a_challenge_for_the_probe_leaves_one_for_the_knock() {
    let outer = Source::new(v4([203, 0, 113, 9]));
    let asks =
        |status, byte| Receipt { observed: outer, challenge: Some([byte; 16]), ..receipt(status) };
    let mut exchange = exchange(open(), BEHIND_NAT);
    for (byte, status) in [(1, Status::Challenge), (2, Status::Observed), (3, Status::Challenge)] {
        let (_, asked) = answer(&next(&mut exchange, byte).unwrap(), &asks(status, byte));
        assert_eq!(exchange.receive(NOON, &asked), Progress::Continues, "{status:?}");
    }
    let (request, _) = answer(&next(&mut exchange, 4).unwrap(), &receipt(Status::Granted));
    assert_eq!((request.kind, request.challenge), (KnockKind::Open, Some([3; 16])));
}

#[test]
fn a_receipt_of_another_kind_of_knock_is_no_answer() {
    let mut exchange = exchange(plain(KnockKind::Probe), HOME);
    let packet = next(&mut exchange, 1).unwrap();
    for (status, progress) in [
        (Status::Granted, Progress::Ignored),
        (Status::Closed, Progress::Ignored),
        (Status::Observed, Progress::Over),
    ] {
        let (_, told) = answer(&packet, &receipt(status));
        assert_eq!(exchange.receive(NOON, &told), progress, "{status:?}");
    }
}

#[test]
fn a_port_that_is_held_is_named_if_no_nat_changes_it() {
    let held = ClientRequest { held_port: Some(4711), source_port: 1, ..open() };
    let packet = next(&mut exchange(held, HOME), 1).unwrap();
    assert_eq!(answer(&packet, &receipt(Status::Granted)).0.source_port, 4711);
    let given = ClientRequest { source: Some(HOME.local), ..held };
    let packet = next(&mut exchange(given, BEHIND_NAT), 1).unwrap();
    assert_eq!(answer(&packet, &receipt(Status::Granted)).0.source_port, 1);
}

#[test]
fn each_packet_waits_for_an_answer_and_all_but_the_last_pause_for_a_time_of_their_own() {
    let two = Duration::from_secs(2);
    for attempt in 1..=3 {
        let mut waits = Vec::new();
        for byte in 0..40 {
            let mut exchange = exchange(open(), HOME);
            for earlier in 1..attempt {
                assert!(next(&mut exchange, 100 + earlier).is_some());
            }
            waits.push(next(&mut exchange, byte).unwrap().patience);
            assert_eq!(next(&mut exchange, 99).is_none(), attempt == 3);
        }
        let most = two + Duration::from_secs(if attempt < 3 { attempt.into() } else { 0 });
        assert!(waits.iter().all(|wait| (two..=most).contains(wait)), "{waits:?}");
        waits.sort();
        waits.dedup();
        assert_eq!(waits.len() > 10, attempt < 3, "{waits:?}");
    }
}

#[test]
fn a_packet_that_nobody_signed_is_made_again() {
    let mut exchange = exchange(ClientRequest { attempts: 1, ..open() }, HOME);
    let refuse = |_: &_| Err(Fault::new("denied", ""));
    assert!(exchange.next(NOON, &Secret::new([1; ENTROPY]), refuse).is_err());
    assert!(next(&mut exchange, 2).is_some() && next(&mut exchange, 3).is_none());
}

#[test]
fn who_joins_sends_nothing_but_the_key_with_the_keys_of_the_invitation() {
    let wanted =
        ClientRequest { invitation: Some(test_vectors::INVITATION), ..plain(KnockKind::Join) };
    let mut exchange = exchange(wanted, BEHIND_NAT);
    let packet = next(&mut exchange, 1).unwrap();
    let row = test_vectors::secrets(CLIENT).invitation_row();
    let opened = test_vectors::open_as(&row, &packet.datagram).map_err(|reject| reject.name());
    let (parts, _) = opened.unwrap().split();
    assert_eq!(parts.day, Day::Invited);
    let enrolment = Enrolment::decode(parts.body[..SIGNED].try_into().unwrap()).unwrap();
    assert_eq!(enrolment.invitation, test_vectors::INVITATION);
    assert_eq!(enrolment.public_key(), test_vectors::client().key);
}

#[test]
fn an_address_that_cannot_be_ours_was_replaced_in_front_of_the_gateway() {
    for (local, gateway, observed, replaced) in [
        // Home behind a NAT, with and without a carrier's NAT.
        ("192.168.1.2", "198.51.100.1", "203.0.113.9", false),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9", false),
        ("203.0.113.9", "198.51.100.1", "203.0.113.8", false),
        // Private networks, with and without a NAT.
        ("192.168.7.2", "10.0.0.1", "10.0.0.9", false),
        ("10.0.0.2", "198.51.100.1", "10.0.0.2", false),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1", false),
        // Masquerading routers, proxies and containers.
        ("192.168.1.2", "198.51.100.1", "172.17.0.1", true),
        ("203.0.113.9", "10.0.0.1", "10.0.0.254", true),
        ("203.0.113.9", "198.51.100.1", "10.0.0.254", true),
        ("192.168.1.2", "198.51.100.1", "198.51.100.1", true),
        ("192.168.1.2", "10.0.0.1", "10.0.0.1", true),
        ("10.0.0.2", "10.0.0.1", "127.0.0.1", true),
        ("2001:db8:7::2", "2001:db8::1", "fd00::1", true),
        ("2001:db8:7::2", "2001:db8::1", "2001:db8:7::3", false),
        ("fd00::2", "2001:db8::1", "2001:db8:7::3", false),
        ("2001:db8:7::2", "2001:db8::1", "fe80::1", true),
    ] {
        let ends = Endpoints { local: local.parse().unwrap(), gateway: gateway.parse().unwrap() };
        let observed = Source::new(observed.parse().unwrap());
        assert_eq!(is_replaced(ends, observed), replaced, "{local} {gateway} {observed}");
    }
}

#[test]
fn our_own_address_is_usable_if_no_nat_can_be_in_between() {
    for (local, gateway, good) in [
        ("203.0.113.1", "198.51.100.1", true),
        ("2001:db8::1", "2001:db8:1::1", true),
        ("10.0.0.2", "10.0.0.1", true),
        ("192.168.1.2", "198.51.100.1", false),
        ("100.64.0.2", "198.51.100.1", false),
        ("fd00::2", "2001:db8::1", false),
        ("127.0.0.1", "127.0.0.1", true),
        ("0.0.0.0", "198.51.100.1", false),
        ("0.0.0.0", "0.0.0.0", false),
    ] {
        let ends = Endpoints { local: local.parse().unwrap(), gateway: gateway.parse().unwrap() };
        assert_eq!(usable(ends), good, "{local} {gateway}");
    }
}
