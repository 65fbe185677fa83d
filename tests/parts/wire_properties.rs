//! Properties of the sealed knock for every bit and every body: a changed datagram opens nothing,
//! what is encoded decodes to the same, and outside the realm all bytes look random.

use std::net::{Ipv4Addr, Ipv6Addr};

use blake2::Blake2sMac;
use blake2::digest::consts::U32;
use blake2::digest::{KeyInit, Mac};
use proptest::prelude::*;
use toctoc::core::keyring::{Day, Secret, TEST_GATEWAY_ID};
use toctoc::core::knock::{
    self, Asked, BODY, Enrolment, KnockKind, PortEntry, RECEIPT_CONTENT, Receipt, Request, SIGNED,
    Signature, Status,
};
use toctoc::core::prefix::Span;
use toctoc::core::service::ServicePorts;
use toctoc::core::test_vectors::{self, CLIENT, NOON};
use toctoc::core::types::{PortRange, Proto, Reject, ServiceName, Source, Wall};
use toctoc::core::wire::{DATAGRAM, RECEIPT};

use crate::client_mac::set_client_mac;

fn entropy(index: u32, salt: u8) -> [u8; 32] {
    let mut mac = Blake2sMac::<U32>::new_from_slice(&[salt; 32]).unwrap();
    Mac::update(&mut mac, &index.to_be_bytes());
    mac.finalize().into_bytes().into()
}

fn with_mac(mut datagram: [u8; DATAGRAM]) -> [u8; DATAGRAM] {
    set_client_mac(&mut datagram);
    datagram
}

fn receipt() -> Receipt {
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
        challenge: Some([1; 16]),
        next_key: None,
        welcome: None,
    }
}

fn answer(datagram: &[u8], receipt: &Receipt, entropy: [u8; 32]) -> [u8; RECEIPT] {
    let (parts, reply) = test_vectors::open(datagram, NOON).map_err(|r| r.name()).unwrap().split();
    let body = test_vectors::receipt_body(receipt, parts.day, &parts.h);
    reply.seal(&test_vectors::realm(), body, Secret::new(entropy)).unwrap()
}

#[test]
fn no_bit_of_a_datagram_can_change() {
    let (datagram, _) = test_vectors::datagram(&test_vectors::request(NOON), [5; 32]);
    assert!(test_vectors::open(&datagram, NOON).is_ok());
    for bit in 0..DATAGRAM * 8 {
        let mut changed = datagram;
        changed[bit / 8] ^= 1 << (bit % 8);
        let expected = match bit / 8 {
            32..64 => Reject::UnknownTag,
            _ => Reject::ClientMac,
        };
        assert_eq!(test_vectors::open(&changed, NOON).err(), Some(expected), "bit {bit}");
    }
}

#[test]
fn no_bit_under_a_valid_mac_can_change_either() {
    let (datagram, _) = test_vectors::datagram(&test_vectors::request(NOON), [5; 32]);
    assert_eq!(with_mac(datagram), datagram);
    for bit in 0..(DATAGRAM - 16) * 8 {
        let mut changed = datagram;
        changed[bit / 8] ^= 1 << (bit % 8);
        let expected = match bit / 8 {
            32..64 => Reject::UnknownTag,
            _ => Reject::Noise,
        };
        assert_eq!(test_vectors::open(&with_mac(changed), NOON).err(), Some(expected), "bit {bit}");
    }
}

#[test]
fn no_bit_of_a_receipt_can_change() {
    let (datagram, awaiting) = test_vectors::datagram(&test_vectors::request(NOON), [5; 32]);
    let sealed = answer(&datagram, &receipt(), [6; 32]);
    assert_eq!(awaiting.open(&sealed), Some(receipt()));
    for bit in 0..RECEIPT * 8 {
        let mut changed = sealed;
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(awaiting.open(&changed), None, "bit {bit}");
    }
    assert_eq!(awaiting.open(&sealed[1..]), None);
    assert_eq!(awaiting.open(&[sealed.as_slice(), &[0]].concat()), None);
    assert_eq!(awaiting.open(&datagram), None, "a reflected knock opened as a receipt");
}

#[test]
fn every_other_length_is_refused_by_length() {
    let (datagram, _) = test_vectors::datagram(&test_vectors::request(NOON), [5; 32]);
    let long = [datagram.as_slice(), &[0; 300]].concat();
    for length in (0..long.len()).filter(|l| *l != DATAGRAM) {
        assert_eq!(
            test_vectors::open(&long[..length], NOON).err(),
            Some(Reject::Length),
            "{length} bytes"
        );
    }
}

/// Fails if a bit position of the messages is biased, or a region prefers some byte values. The
/// seeds are fixed, so the result is always the same.
fn assert_uniform<const N: usize>(messages: &[[u8; N]], regions: &[std::ops::Range<usize>]) {
    let count = f64::from(u32::try_from(messages.len()).unwrap());
    for bit in 0..N * 8 {
        let ones = messages.iter().filter(|m| m[bit / 8] >> (bit % 8) & 1 == 1).count();
        let deviation =
            (f64::from(u32::try_from(ones).unwrap()) - count / 2.0) / (count.sqrt() / 2.0);
        assert!(
            deviation.abs() < 5.5,
            "bit {} of byte {} is one {ones} times in {count}",
            bit % 8,
            bit / 8
        );
    }
    for region in regions {
        let mut histogram = [0_u32; 256];
        for byte in messages.iter().flat_map(|message| &message[region.clone()]) {
            histogram[usize::from(*byte)] += 1;
        }
        let expected = count * f64::from(u32::try_from(region.len()).unwrap()) / 256.0;
        let chi: f64 =
            histogram.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
        assert!(
            (120.0..390.0).contains(&chi),
            "bytes {region:?}: chi-square {chi} on 255 degrees of freedom"
        );
    }
}

#[test]
fn to_an_outsider_all_bytes_look_random() {
    // One client, one day, and requests that differ only in the timestamp: the constant parts must
    // not show outside.
    let mut knocks = Vec::new();
    for i in 0..1500 {
        let request = test_vectors::request(Wall(NOON.0 + u64::from(i)));
        knocks.push(test_vectors::datagram(&request, entropy(i, 1)).0);
    }
    assert_uniform(&knocks, &[0..32, 32..48, 48..240, 240..256, 256..272]);
    let receipts: Vec<[u8; RECEIPT]> =
        (0..).zip(&knocks).map(|(i, knock)| answer(knock, &receipt(), entropy(i, 2))).collect();
    assert_uniform(&receipts, &[0..32, 32..168, 168..184]);
}

fn service() -> impl Strategy<Value = ServiceName> {
    "[a-z0-9._-]{1,31}".prop_map(|text| ServiceName::new(&text).unwrap())
}

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|b| Source::new(Ipv4Addr::from(b).into())),
        any::<[u8; 16]>().prop_map(|b| Source::new(Ipv6Addr::from(b).into())),
    ]
}

fn challenge() -> impl Strategy<Value = Option<[u8; 16]>> {
    any::<Option<[u8; 16]>>().prop_map(|c| c.filter(|c| *c != [0; 16]))
}

prop_compose! {
    fn request()(
        kind in prop_oneof![
            Just(KnockKind::Open),
            Just(KnockKind::Close),
            Just(KnockKind::Probe),
            Just(KnockKind::Time),
        ],
        receipt_wanted: bool,
        timestamp: u64,
        challenge in challenge(),
        address in proptest::option::of(source()),
        source_port: u16,
        seconds: u32,
        service in service(),
        first_period in 0..7000_u32,
    ) -> Request {
        let timestamp = Wall(timestamp);
        if kind == KnockKind::Time {
            let first_day = 32 * first_period;
            return Request { receipt_wanted: true, timestamp, first_day, ..Request::bare(kind) };
        }
        Request {
            kind,
            receipt_wanted,
            timestamp,
            challenge,
            address,
            source_port,
            seconds,
            first_day: 0,
            service: if kind == KnockKind::Probe { ServiceName::NONE } else { service },
        }
    }
}

fn ports() -> impl Strategy<Value = ServicePorts> {
    let range = (any::<bool>(), 1_u16.., 0..3_u16).prop_map(|(tcp, first, more)| PortRange {
        proto: if tcp { Proto::Tcp } else { Proto::Udp },
        first,
        last: first.saturating_add(more),
    });
    prop_oneof![
        9 => proptest::collection::vec(range, 0..=6).prop_map(ServicePorts::Listed),
        1 => Just(ServicePorts::AllBut(Vec::new())),
    ]
}

prop_compose! {
    fn any_receipt()(
        status in 1_u8..=9,
        once: bool,
        seconds: u32,
        time: u64,
        working_day in 0..=213_503_u32,
        observed in source(),
        granted in proptest::option::of(source()),
        ignored in 0..=16_u8,
        ports in ports(),
        challenge in challenge(),
        next_key in any::<Option<[u8; 32]>>(),
    ) -> Receipt {
        Receipt {
            status: Status::from_byte(status).unwrap(),
            once,
            seconds,
            time: Wall(time),
            working_day,
            observed,
            granted,
            span: granted.and_then(|granted| Span::from_byte(ignored, granted)).unwrap_or_default(),
            ports: knock::port_entries(&ports),
            challenge,
            next_key: next_key.filter(|key| *key != [0; 32]),
            welcome: None,
        }
    }
}

fn day_of(request: &Request) -> Day {
    match request.kind {
        KnockKind::Time => Day::Unknown,
        _ => Day::Number(NOON.day()),
    }
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn a_request_is_read_as_it_was_written(
        request in request(),
        sk_flags: u8,
        sk_counter: u32,
        fill: u8,
    ) {
        let signature = Signature { ed25519: [fill; 64], sk_flags, sk_counter };
        let day = day_of(&request);
        let gate = test_vectors::secrets(CLIENT).gate(day).unwrap();
        let body = knock::encode_body(
            &request.encode(), &signature, &gate, TEST_GATEWAY_ID, &[3; 32],
        );
        prop_assert_eq!(knock::decode_body(&body, day), Some((Asked::Request(request), signature)));
        let other = if day == Day::Unknown { Day::Number(NOON.day()) } else { Day::Unknown };
        prop_assert_eq!(knock::decode_body(&body, other), None);
    }

    #[test]
    fn a_receipt_is_read_as_it_was_written(receipt in any_receipt()) {
        prop_assert_eq!(Receipt::decode(&receipt.encode()), Some(receipt));
    }

    #[test]
    fn two_bodies_never_decode_to_the_same_request(
        request in request(),
        at in 0..SIGNED,
        byte: u8,
    ) {
        // One byte changes to any value. If the body still decodes, it encodes to the same bytes.
        let mut bytes = request.encode();
        bytes[at] = byte;
        for day in [Day::Unknown, Day::Number(NOON.day())] {
            if let Some(read) = Request::decode(&bytes, day) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }
        if let Some(read) = Enrolment::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn two_receipt_bodies_never_decode_to_the_same_receipt(
        receipt in any_receipt(),
        at in 0..RECEIPT_CONTENT,
        byte: u8,
    ) {
        let mut bytes = receipt.encode();
        bytes[at] = byte;
        if let Some(read) = Receipt::decode(&bytes) {
            // A flag that a later gateway may set.
            bytes[2] &= !2;
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn random_bytes_are_refused_without_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), DATAGRAM),
    ) {
        prop_assert_eq!(test_vectors::open(&bytes, NOON).err(), Some(Reject::UnknownTag));
        let (_, awaiting) = test_vectors::datagram(&test_vectors::request(NOON), [5; 32]);
        prop_assert_eq!(awaiting.open(&bytes[..RECEIPT]), None);
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn every_request_and_receipt_arrives_unchanged(
        request in request(),
        receipt in any_receipt(),
        entropy: [u8; 32],
    ) {
        let request = Request { timestamp: NOON, ..request };
        let (datagram, awaiting) = test_vectors::datagram(&request, entropy);
        let decrypted = test_vectors::open(&datagram, NOON)
            .map_err(|reject| TestCaseError::fail(reject.name()))?;
        prop_assert_eq!(decrypted.asked(), &Asked::Request(request));
        let (parts, reply) = decrypted.split();
        prop_assert_eq!(parts.body.len(), BODY);
        let claim = test_vectors::handed(parts, test_vectors::address());
        let body = test_vectors::receipt_body(&receipt, claim.day, &claim.h);
        let authentic = test_vectors::verify(claim);
        prop_assert_eq!(authentic.map(|a| *a.request()).ok(), Some(request));
        let answer = reply.seal(&test_vectors::realm(), body, Secret::new([7; 32])).unwrap();
        prop_assert_eq!(awaiting.open(&answer), Some(receipt));
    }
}
