//! One table of packets that holds the classic filter and this one to the same reading of headers.

use super::*;

/// What the filters do with a packet.
struct Case {
    name: &'static str,
    packet: Packet,
    classic: u32,
    tagged: u32,
}

/// Headers around a datagram: with the tag of a client, and with one of nobody. `odd`: what the
/// program does if lengths disagree. It is no knock then, but may be for a door.
fn cases(odd: u32) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name, make: &dyn Fn(&[u8]) -> Packet, [classic, known, unknown]: [u32; 3]| {
        // Each has its own: a copy would be another case.
        let number = u8::try_from(cases.len()).unwrap();
        cases.push(Case { name, packet: make(&knock(number)), classic, tagged: known });
        cases.push(Case { name, packet: make(&junk(1)), classic, tagged: unknown });
    };
    let us = Packet::to_us;
    let taken = [WHOLE, WHOLE, DROPPED];
    let never = [DROPPED; 3];
    let odd = [WHOLE, odd, odd];
    add("IPv4", &|d| us(v4(d)), taken);
    add("IPv6", &|d| us(v6(d)), taken);
    add("two merged, the first known", &|d| us(v4(&[d, &junk(9)].concat())), taken);
    add("two merged, the last known", &|d| us(v6(&[&junk(9), d].concat())), taken);
    add("five merged", &|d| us(v4(&[&junk(9), &junk(8), d, &junk(7), &junk(6)].concat())), taken);
    let after = |count, d: &[u8]| [junk(9).repeat(count), d.to_vec()].concat();
    let most = LOOKED_AT as usize;
    add("as many merged as are looked at", &|d| us(v4(&after(most - 1, d))), taken);
    add("more merged", &|d| us(v4(&after(most, d))), [WHOLE; 3]);
    add("padded by the link", &|d| us([v4(d), vec![0; 9]].concat()), taken);
    add("an IPv4 option", &|d| us(with_options(v4(d), 1)), taken);
    add("all IPv4 options", &|d| us(with_options(v4(d), 10)), taken);
    add("a first fragment", &|d| us(changed(v4(d), 6, 0x20)), taken);
    add("a later fragment", &|d| us(changed(v4(d), 7, 1)), never);
    add("a short IPv4 header", &|d| us(changed(v4(d), 0, 0x44)), never);
    add("a wrong IPv4 checksum", &|d| us(changed(v4(d), 10, 0x77)), taken);
    add("a wrong UDP checksum", &|d| us(changed(v4(d), 26, 0x77)), taken);
    let in_v4 = |bytes| Packet { protocol: 0x0800, ..Packet::to_us(bytes) };
    add("another version in a frame of IPv4", &|d| in_v4(changed(v4(d), 0, 0x65)), never);
    add("no version in a frame of IPv4", &|d| in_v4(changed(v4(d), 0, 0x05)), never);
    let in_v6 = |bytes| Packet { protocol: 0x86dd, ..Packet::to_us(bytes) };
    add("another version in a frame of IPv6", &|d| in_v6(changed(v6(d), 0, 0x40)), never);
    add("IPv6 hop-by-hop options", &|d| us(changed(v6(d), 6, 0)), never);
    add("an IPv6 fragment", &|d| us(changed(v6(d), 6, 44)), never);
    add("IPv6 destination options", &|d| us(changed(v6(d), 6, 60)), never);
    add("TCP", &|d| us(changed(v4(d), 9, 6)), never);
    add("another port", &|d| us(changed(v4(d), 23, 1)), never);
    add("cut off", &|d| us(v4(d)[..299].to_vec()), odd);
    add("a wrong IPv4 length", &|d| us(changed(v4(d), 3, 45)), odd);
    add("a wrong IPv6 length", &|d| us(changed(v6(d), 5, 25)), odd);
    add("to another machine", &|d| Packet { kind: 3, ..us(v4(d)) }, never);
    add("to all", &|d| Packet { kind: 1, ..us(v6(d)) }, never);
    add("sent by us", &|d| Packet { kind: 4, ..us(v4(d)) }, never);
    add("a priority tag", &|d| Packet { vlan: Some(0x6000), ..us(v4(d)) }, taken);
    add("a VLAN", &|d| Packet { vlan: Some(5), ..us(v4(d)) }, never);
    add("not IP", &|d| Packet { protocol: 0x0806, ..us(v4(d)) }, never);
    add("IPv4 in a frame of IPv6", &|d| Packet { protocol: 0x86dd, ..us(v4(d)) }, never);
    cases
}

pub(super) fn changed(mut bytes: Vec<u8>, at: usize, to: u8) -> Vec<u8> {
    bytes[at] = to;
    bytes
}

pub(super) fn with_options(packet: Vec<u8>, words: u8) -> Vec<u8> {
    let (header, segment) = packet.split_at(20);
    let mut header = header.to_vec();
    header[0] += words;
    let total = u16::from_be_bytes([header[2], header[3]]) + 4 * u16::from(words);
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header.extend(vec![1; 4 * usize::from(words)]);
    [header, segment.to_vec()].concat()
}

#[test]
fn both_filters_read_headers_alike() {
    let other = [Step::tcp(7000)];
    for (steps, odd) in [(&[][..], DROPPED), (&other, DROPPED), (&[Step::udp(PORT)], WHOLE)] {
        let mut oracle = Oracle::new(steps);
        for Case { name, packet, classic, tagged } in cases(odd) {
            assert_eq!(oracle.classic(&packet), classic, "{name}: classic, {steps:?}");
            assert_eq!(oracle.tagged(&packet), tagged, "{name}: with tags, {steps:?}");
            oracle.check(&packet);
        }
    }
}

#[test]
fn the_kernel_reads_them_in_the_same_way() {
    let oracle = Oracle::new(&[]);
    let Some(kernel) = in_kernel(&oracle) else { return };
    // A frame by itself does not say the others.
    let fits = |packet: &Packet| packet.kind == 0 && packet.vlan.is_none();
    for Case { name, packet, tagged, .. } in cases(DROPPED) {
        if fits(&packet) {
            let run = kernel.run(&packet);
            assert_eq!((run, oracle.tagged(&packet)), (tagged, tagged), "{name}");
            assert_eq!(kernel.map.tags.dropped(), oracle.tags.dropped(), "{name}");
        }
    }
    let dropped = kernel.map.tags.dropped();
    assert!(dropped.unknown_tag > 10 && dropped.length >= 6);
}
