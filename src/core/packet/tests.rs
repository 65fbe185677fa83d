use proptest::prelude::*;

use super::*;

struct Ours(&'static [&'static str]);

impl LocalAddresses for Ours {
    fn has(&self, address: Source) -> bool {
        self.0.iter().any(|text| text.parse() == Ok(address.ip()))
    }
}

const OURS: Ours = Ours(&["192.0.2.1", "2001:db8::1", "127.0.0.1", "::1"]);
const OUTSIDE: Arrival = Arrival { loopback: false };
const INSIDE: Arrival = Arrival { loopback: true };

/// A valid UDP packet, ports 4000 -> 62201.
fn udp(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let from: IpAddr = source.parse().unwrap();
    let to: IpAddr = destination.parse().unwrap();
    let length = u16::try_from(payload.len() + 8).unwrap();
    let mut segment =
        [&4000u16.to_be_bytes()[..], &62201u16.to_be_bytes(), &length.to_be_bytes(), &[0, 0]]
            .concat();
    segment.extend(payload);
    let check = udp_checksum(from, to, &segment);
    segment[6..8].copy_from_slice(&check.to_be_bytes());
    [ip_header(from, to, 17, length), segment].concat()
}

fn ip_header(from: IpAddr, to: IpAddr, protocol: u8, length: u16) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0];
            header.extend((length + 20).to_be_bytes());
            header.extend([0, 7, 0x40, 0, 64, protocol, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            rewrite_header_sum(&mut header);
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([protocol, 64]);
            header.extend(from.octets());
            header.extend(to.octets());
            header
        }
        _ => panic!("two families in one packet"),
    }
}

fn rewrite_header_sum(packet: &mut [u8]) {
    let end = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let check = !fold(sum(0, &packet[..end]));
    packet[10..12].copy_from_slice(&check.to_be_bytes());
}

fn strict(packet: &[u8], arrival: Arrival) -> Result<&[u8], Reject> {
    parse(packet)?.strict(&OURS, arrival)
}

fn v4() -> Vec<u8> {
    udp("198.51.100.9", "192.0.2.1", b"hello")
}

fn v6() -> Vec<u8> {
    udp("2001:db8:9::9", "2001:db8::1", b"hello")
}

/// A packet of each family is rejected for `why` after `change`.
fn both_rejected(why: Reject, change: impl Fn(&mut Vec<u8>)) {
    for mut packet in [v4(), v6()] {
        change(&mut packet);
        assert_eq!(strict(&packet, OUTSIDE), Err(why), "{packet:02x?}");
    }
}

fn v4_rejected(why: Reject, change: impl Fn(&mut Vec<u8>)) {
    let mut packet = v4();
    change(&mut packet);
    rewrite_header_sum(&mut packet);
    assert_eq!(strict(&packet, OUTSIDE), Err(why), "{packet:02x?}");
}

#[test]
fn a_valid_packet_is_read_in_both_families() {
    for packet in [v4(), v6()] {
        let parsed = parse(&packet).unwrap();
        assert_eq!(parsed.step, Step::udp(62201));
        assert_eq!((parsed.source_port, parsed.flags), (4000, None));
        assert_eq!(parsed.strict(&OURS, OUTSIDE), Ok(&b"hello"[..]));
    }
    assert_eq!(parse(&v4()).unwrap().source.to_string(), "198.51.100.9");
    assert_eq!(parse(&v6()).unwrap().destination.to_string(), "2001:db8::1");
}

#[test]
fn a_loopback_address_counts_only_on_a_loopback_device() {
    for (from, to) in [
        ("198.51.100.9", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.1"),
        ("2001:db8:9::9", "::1"),
        ("::1", "2001:db8::1"),
    ] {
        let packet = udp(from, to, b"hello");
        assert!(parse(&packet).unwrap().is_martian(OUTSIDE), "{from} {to}");
        assert_eq!(strict(&packet, OUTSIDE), Err(Reject::NotForUs), "{from} {to}");
        assert_eq!(strict(&packet, INSIDE), Ok(&b"hello"[..]), "{from} {to}");
    }
}

#[test]
fn padding_from_the_link_is_cut_off() {
    for mut packet in [v4(), v6()] {
        packet.extend([0xaa; 13]);
        assert_eq!(strict(&packet, OUTSIDE), Ok(&b"hello"[..]));
    }
}

#[test]
fn a_packet_cut_anywhere_is_rejected_and_never_panics() {
    for packet in [v4(), v6()] {
        for end in 0..packet.len() {
            assert!(strict(&packet[..end], OUTSIDE).is_err(), "{end}");
        }
    }
}

#[test]
fn ip_options_are_rejected_for_a_sealed_knock_and_accepted_for_a_door() {
    // One of them is loose source routing. Any option is rejected.
    for option in [[1, 1, 1, 0], [131, 4, 4, 0], [148, 4, 0, 0]] {
        let mut packet = v4();
        packet[0] = 0x46;
        let total = u16::try_from(packet.len() + 4).unwrap();
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet.splice(20..20, option);
        rewrite_header_sum(&mut packet);
        assert_eq!(strict(&packet, OUTSIDE), Err(Reject::Headers));
        assert_eq!(parse(&packet).unwrap().step, Step::udp(62201));
    }
}

#[test]
fn fragments_are_rejected_for_a_sealed_knock_and_first_ones_accepted_for_a_door() {
    v4_rejected(Reject::Headers, |p| p[6] |= 0x20);
    v4_rejected(Reject::Headers, |p| p[7] = 1);
    let mut first = v4();
    first[6] |= 0x20;
    assert!(parse(&first).is_ok());
    let mut later = v4();
    later[7] = 185;
    assert_eq!(parse(&later), Err(Reject::Headers));
}

#[test]
fn ipv6_extension_headers_are_rejected_for_both() {
    for next in [0u8, 43, 44, 50, 51, 60, 135, 253] {
        let mut packet = v6();
        packet[6] = next;
        packet.splice(40..40, [17, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(parse(&packet), Err(Reject::Headers), "{next}");
    }
}

#[test]
fn all_lengths_must_agree() {
    v4_rejected(Reject::Malformed, |p| p[3] += 1);
    v4_rejected(Reject::Malformed, |p| p[3] -= 1);
    v4_rejected(Reject::Malformed, |p| p[3] = 19);
    both_rejected(Reject::Malformed, |p| {
        let length = p.len() - 13 + 5;
        p[length] += 1;
    });
    both_rejected(Reject::Malformed, |p| {
        let length = p.len() - 13 + 5;
        p[length] -= 1;
    });
    let mut jumbo = v6();
    jumbo[4..6].fill(0);
    assert_eq!(strict(&jumbo, OUTSIDE), Err(Reject::Malformed));
    let mut short_header = v4();
    short_header[0] = 0x44;
    assert_eq!(strict(&short_header, OUTSIDE), Err(Reject::Malformed));
}

#[test]
fn a_wrong_checksum_is_rejected_for_a_sealed_knock_and_accepted_for_a_door() {
    both_rejected(Reject::Checksum, |p| *p.last_mut().unwrap() ^= 1);
    let mut header = v4();
    header[10] ^= 1;
    assert_eq!(strict(&header, OUTSIDE), Err(Reject::Checksum));
    assert!(parse(&header).is_ok());
}

#[test]
fn the_checksum_of_an_odd_length_is_as_computed_without_our_code() {
    let segment =
        [&40_000u16.to_be_bytes()[..], &62_201u16.to_be_bytes(), &[0, 11, 0, 0], b"odd"].concat();
    let check =
        udp_checksum("192.0.2.7".parse().unwrap(), "203.0.113.1".parse().unwrap(), &segment);
    assert_eq!(check, 0x9f2f, "the last byte counts as the high half of a word");
}

#[test]
fn an_absent_checksum_is_accepted_in_ipv4_only() {
    let mut packet = v4();
    packet[26..28].fill(0);
    assert!(strict(&packet, OUTSIDE).is_ok());
    let mut packet = v6();
    packet[46..48].fill(0);
    assert_eq!(strict(&packet, OUTSIDE), Err(Reject::Checksum));
}

#[test]
fn a_checksum_left_to_the_network_card_is_accepted() {
    for (mut packet, start) in [(v4(), 20), (v6(), 40)] {
        let addresses = if start == 20 { 12..20 } else { 8..40 };
        let pseudo = sum(17 + 13, &packet[addresses]);
        packet[start + 6..start + 8].copy_from_slice(&fold(pseudo).to_be_bytes());
        assert!(strict(&packet, OUTSIDE).is_ok());
        packet[start + 7] ^= 1;
        assert_eq!(strict(&packet, OUTSIDE), Err(Reject::Checksum));
    }
}

#[test]
fn only_packets_to_our_unicast_addresses_are_accepted() {
    for to in ["192.0.2.2", "192.0.2.255", "255.255.255.255", "224.0.0.1", "0.0.0.0"] {
        assert_eq!(strict(&udp("198.51.100.9", to, b"x"), OUTSIDE), Err(Reject::NotForUs), "{to}");
    }
    for to in ["2001:db8::2", "ff02::1", "::"] {
        assert_eq!(strict(&udp("2001:db8:9::9", to, b"x"), OUTSIDE), Err(Reject::NotForUs), "{to}");
    }
}

#[test]
fn sources_that_no_peer_can_have_are_rejected() {
    for from in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.9.9.9",
        "224.0.0.5",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
    ] {
        assert_eq!(strict(&udp(from, "192.0.2.1", b"x"), OUTSIDE), Err(Reject::NotForUs), "{from}");
        assert!(parse(&udp(from, "192.0.2.1", b"x")).is_ok(), "a door counts {from}");
    }
    for from in ["::", "::1", "::192.0.2.9", "ff02::1", "fe80::1", "2001:db8::1"] {
        assert_eq!(
            strict(&udp(from, "2001:db8::1", b"x"), OUTSIDE),
            Err(Reject::NotForUs),
            "{from}"
        );
    }
}

#[test]
fn a_mapped_address_on_the_wire_is_never_the_ipv4_address() {
    assert_eq!(parse(&udp("2001:db8:9::9", "::ffff:192.0.2.1", b"x")), Err(Reject::NotForUs));
    let packet = udp("::ffff:198.51.100.9", "2001:db8::1", b"x");
    assert_eq!(strict(&packet, OUTSIDE), Err(Reject::NotForUs));
    assert_eq!(
        parse(&packet).unwrap().raw_source.to_string(),
        "::ffff:198.51.100.9",
        "a door counts it as IPv6"
    );
}

#[test]
fn our_own_addresses_may_knock_over_the_loopback_device_only() {
    for packet in [
        udp("127.0.0.1", "127.0.0.1", b"x"),
        udp("::1", "::1", b"x"),
        udp("192.0.2.1", "192.0.2.1", b"x"),
    ] {
        assert!(strict(&packet, INSIDE).is_ok());
        assert_eq!(strict(&packet, OUTSIDE), Err(Reject::NotForUs));
    }
}

#[test]
fn port_zero_is_rejected_at_both_ends() {
    both_rejected(Reject::Malformed, |p| {
        let at = p.len() - 13;
        p[at..at + 2].fill(0);
    });
    both_rejected(Reject::Malformed, |p| {
        let at = p.len() - 13;
        p[at + 2..at + 4].fill(0);
    });
}

#[test]
fn tcp_is_for_doors_only_and_an_eight_byte_first_fragment_has_no_flags() {
    let segment = [0x12, 0x34, 0x1b, 0x58, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0xc2, 0, 0, 0, 0, 0, 0];
    let (from, to) = ("198.51.100.9".parse().unwrap(), "192.0.2.1".parse().unwrap());
    let mut packet = [ip_header(from, to, 6, 20), segment.to_vec()].concat();
    let parsed = parse(&packet).unwrap();
    assert_eq!(parsed.step, Step::tcp(7000));
    // ECE and CWR do not count.
    assert_eq!(parsed.flags, Some(2));
    assert_eq!(parsed.strict(&OURS, OUTSIDE), Err(Reject::Headers));
    packet.truncate(28);
    packet[3] = 28;
    packet[6] = 0x20;
    assert_eq!(parse(&packet).unwrap().flags, None);
}

#[test]
fn an_echo_request_counts_by_the_size_of_its_data() {
    for (from, to, protocol, kind, start) in
        [("198.51.100.9", "192.0.2.1", 1, 8, 20), ("2001:db8:9::9", "2001:db8::1", 58, 128, 40)]
    {
        let header = ip_header(from.parse().unwrap(), to.parse().unwrap(), protocol, 72);
        let packet = [header, vec![kind; 1], vec![0; 71]].concat();
        let parsed = parse(&packet).unwrap();
        assert_eq!((parsed.step, parsed.source_port), (Step::Echo { size: 64 }, 0));
        assert_eq!(parsed.strict(&OURS, OUTSIDE), Err(Reject::Headers));
        for (at, value) in [(start, 0), (start, 129), (start + 1, 1)] {
            let mut other = packet.clone();
            other[at] = value;
            assert_eq!(parse(&other), Err(Reject::Headers));
        }
    }
}

#[test]
fn other_protocols_are_rejected() {
    for protocol in [0u8, 1, 2, 41, 47, 58, 132, 136, 255] {
        let mut packet = v4();
        packet[9] = protocol;
        assert_eq!(parse(&packet), Err(Reject::Headers), "{protocol}");
    }
    for first in [0x00, 0x55, 0xf5] {
        let mut packet = v4();
        packet[0] = first;
        assert_eq!(parse(&packet), Err(Reject::Malformed));
    }
    assert_eq!(parse(&[]), Err(Reject::Malformed));
}

proptest! {
    #[test]
    fn nothing_panics_and_an_accepted_packet_was_captured_whole(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
        kind in 0u8..4,
    ) {
        if let (Some(first), true) = (bytes.first_mut(), kind < 3) {
            *first = [0x45, 0x46, 0x60][usize::from(kind)];
        }
        if let Ok(payload) = strict(&bytes, OUTSIDE) {
            prop_assert!(payload.len() + 28 <= bytes.len());
        }
    }

    #[test]
    fn one_flipped_bit_outside_the_free_fields_is_rejected(at in 0usize..33, bit in 0u8..8) {
        let mut packet = v4();
        packet[at] ^= 1 << bit;
        prop_assert!(strict(&packet, OUTSIDE).is_err(), "byte {at} bit {bit}");
    }
}
