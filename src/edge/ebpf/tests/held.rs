//! First steps that the program holds: tables of packets, packets by chance, and both once more in
//! the kernel.

use std::sync::atomic::Ordering;

use super::random::Dice;
use super::*;
use crate::core::door::TcpFlags;
use crate::core::sequence::first_steps::BUCKETS;
use crate::core::types::{Boot, SECOND};

const HEADERS: u32 = bpf::HEADERS;
const SYN: u8 = 2;
const ACK: u8 = 16;

fn doors() -> [Step; 3] {
    [Step::tcp(7000), Step::udp(7001), Step::Echo { size: 70 }]
}

/// An IPv4 packet of this protocol to us.
fn in_v4(protocol: u8, segment: &[u8]) -> Vec<u8> {
    let total = u16::try_from(20 + segment.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, protocol, 0, 0];
    packet.extend([192, 0, 2, 7, 203, 0, 113, 1]);
    [&packet, segment].concat()
}

fn in_v6(protocol: u8, segment: &[u8]) -> Vec<u8> {
    let length = u16::try_from(segment.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], protocol, 64];
    for address in ["2001:db8::7", "2001:db8:1::1"] {
        packet.extend(address.parse::<Ipv6Addr>().unwrap().octets());
    }
    [&packet, segment].concat()
}

fn tcp(port: u16, flags: u8) -> Vec<u8> {
    let port = port.to_be_bytes();
    let mut segment = vec![0; 20];
    segment[2..4].copy_from_slice(&port);
    segment[13] = flags;
    segment
}

fn udp(port: u16, payload: usize) -> Vec<u8> {
    let mut segment = vec![0; 8 + payload];
    segment[2..4].copy_from_slice(&port.to_be_bytes());
    segment
}

fn echo(kind: u8, size: usize) -> Vec<u8> {
    let mut segment = vec![0; 8 + size];
    segment[0] = kind;
    segment
}

fn both(segment: &[u8]) -> [Vec<u8>; 2] {
    let protocol = if segment.len() == 20 { 6 } else { 17 };
    [in_v4(protocol, segment), in_v6(protocol, segment)]
}

fn changed(mut packet: Vec<u8>, at: usize, to: u8) -> Vec<u8> {
    packet[at] = to;
    packet
}

/// One of each step, of this address.
fn each(from: u8) -> [Packet; 3] {
    [(6, tcp(7000, SYN)), (17, udp(7001, 0)), (1, echo(8, 70))]
        .map(|(protocol, segment)| Packet::to_us(changed(in_v4(protocol, &segment), 15, from)))
}

/// Packets for doors, and whether the program holds them.
fn cases() -> Vec<(&'static str, Packet, bool)> {
    let mut cases = Vec::new();
    let mut add = |name, bytes: Vec<u8>, held| cases.push((name, Packet::to_us(bytes), held));
    for packet in both(&tcp(7000, SYN)) {
        add("a SYN", packet, true);
    }
    for packet in both(&tcp(7000, SYN | 0xc0)) {
        add("a SYN with ECN", packet, true);
    }
    for packet in both(&udp(7001, 0)).into_iter().chain(both(&udp(7001, 9))) {
        add("UDP", packet, true);
    }
    add("an echo request", in_v4(1, &echo(8, 70)), true);
    add("an echo request over IPv6", in_v6(58, &echo(128, 70)), true);
    let first = || in_v4(6, &tcp(7000, SYN));
    add(
        "all options",
        [&changed(first(), 0, 0x4f)[..20], &[1; 40], &tcp(7000, SYN)].concat(),
        false,
    );
    let mut options = [&changed(first(), 0, 0x4f)[..20], &[1; 40], &tcp(7000, SYN)].concat();
    options[3] = 80;
    add("all options", options, true);
    add("to another machine's address", changed(first(), 19, 9), true);
    add("from a loopback address", changed(first(), 12, 127), true);
    add("padded by the link", [first(), vec![0; 6]].concat(), true);
    add("a first fragment", changed(first(), 6, 0x20), true);
    add("a first fragment before its flags", changed(first(), 3, 33), false);
    add("a length before its flags", changed(in_v6(6, &tcp(7000, SYN)), 5, 13), false);
    add("a wrong length", changed(first(), 3, 19), false);
    add("cut off behind its flags", first()[..34].to_vec(), true);
    add("short UDP", changed(in_v4(17, &udp(7001, 0)), 3, 24), true);
    add("UDP without its ports", changed(in_v4(17, &udp(7001, 0)), 3, 23), false);
    for version in [0x05, 0x65] {
        let packet = Packet::to_us(changed(first(), 0, version));
        cases.push(("another version", Packet { protocol: 0x0800, ..packet }, false));
    }
    cases
}

#[test]
fn first_steps_are_held_and_what_the_engine_reads_otherwise_passes() {
    let mut oracle = Oracle::holding(&doors(), oracle::SYN);
    for (name, packet, held) in cases() {
        let expected = if held { DROPPED } else { HEADERS };
        let before = oracle.first_steps.held();
        assert_eq!(oracle.classic(&packet), HEADERS, "{name}");
        assert_eq!(oracle.check(&packet), expected, "{name}");
        assert_eq!(oracle.first_steps.held() - before, u64::from(held), "{name}");
    }
    oracle.first_steps.pass();
    for (name, packet, _) in cases() {
        assert_eq!(oracle.tagged(&packet), HEADERS, "{name}: nothing is held now");
    }
}

#[test]
fn other_steps_and_other_flags_pass() {
    let none = Oracle::new(&doors());
    none.first_steps.hold(Boot(5));
    assert_eq!(none.tagged(&Packet::to_us(in_v4(6, &tcp(7000, SYN)))), HEADERS);
    let mut oracle = Oracle::holding(&doors(), oracle::SYN);
    for flags in [0, ACK, SYN | ACK] {
        let packet = Packet::to_us(in_v4(6, &tcp(7000, flags)));
        assert_eq!([oracle.classic(&packet), oracle.check(&packet)], [DROPPED; 2]);
        let later = Packet::to_us(in_v4(6, &tcp(1, flags)));
        assert_eq!([oracle.classic(&later), oracle.check(&later)], [HEADERS; 2]);
    }
    // With so many doors the classic part lets other ports and flags through.
    let steps: Vec<Step> = (1..20_000).map(|i| Step::tcp(i * 3 + 1)).collect();
    let mut coarse = Oracle::holding(&steps, oracle::SYN);
    for (port, expected) in [(4, DROPPED), (2, HEADERS), (6, HEADERS), (40_000, HEADERS)] {
        let packet = Packet::to_us(in_v4(6, &tcp(port, SYN)));
        assert_eq!(coarse.classic(&packet), HEADERS);
        assert_eq!(coarse.check(&packet), expected, "{port}");
        let other_flags = Packet::to_us(in_v4(6, &tcp(port, ACK)));
        assert_eq!([coarse.classic(&other_flags), coarse.check(&other_flags)], [HEADERS; 2]);
        let short = Packet::to_us(in_v4(6, &tcp(port, SYN))[..33].to_vec());
        assert_eq!([coarse.classic(&short), coarse.check(&short)], [HEADERS; 2]);
    }
}

#[test]
fn without_ipv6_at_the_doors_the_listener_sees_every_such_packet() {
    let oracle = Oracle::holding(&doors(), oracle::SYN);
    let filter = FirstStepFilter { first_steps: &oracle.first_steps, map: 34, ipv6: false };
    let spec = FilterSpec { knock_port: None, ..oracle.spec.clone() };
    let program = program(&spec, None, Some(&filter)).unwrap();
    for (bytes, expected) in both(&tcp(7000, SYN)).into_iter().zip([DROPPED, HEADERS]) {
        let packet = Packet::to_us(bytes);
        assert_eq!(Machine::new(&program, &packet, &oracle.maps, 0).run(), expected);
    }
}

#[test]
fn a_first_step_passes_from_a_source_that_made_the_step_before_it() {
    let mut oracle = Oracle::both_ways(doors(), oracle::SYN);
    let [open, middle, close] = each(1);
    for packet in [&open, &close, &open] {
        assert_eq!(oracle.check(packet), DROPPED, "nobody has made any");
    }
    assert_eq!(oracle.check(&middle), HEADERS);
    let start = oracle.time;
    for second in [0, u64::from(oracle::SECONDS) - 1] {
        // The clock of another processor may be behind.
        assert_eq!(start % 64, 0);
        oracle.time = start + second * SECOND;
        assert_eq!([oracle.check(&open), oracle.check(&close)], [HEADERS; 2]);
        let [open, _, close] = each(2);
        assert_eq!([oracle.check(&open), oracle.check(&close)], [DROPPED; 2], "of another source");
        let elsewhere = Packet::to_us(changed(close.bytes, 19, 9));
        assert_eq!(oracle.check(&elsewhere), DROPPED, "to another address");
    }
    oracle.time = start + u64::from(oracle::SECONDS) * SECOND;
    assert_eq!(oracle.check(&open), DROPPED, "too late");
    oracle.first_steps.pass();
    assert_eq!(oracle.tagged(&each(3)[1]), HEADERS);
    oracle.first_steps.hold(Boot(5));
    assert_eq!(oracle.tagged(&each(3)[0]), HEADERS, "it is kept also when nothing is held");
}

#[test]
fn only_the_step_behind_the_last_one_passes() {
    let mut oracle = Oracle::both_ways(doors(), oracle::SYN);
    let [open, middle, close] = each(1);
    let short = Packet::to_us(changed(in_v4(6, &tcp(1, SYN)), 15, 1));
    assert_eq!(oracle.check(&short), HEADERS);
    assert_eq!([oracle.check(&open), oracle.check(&close)], [HEADERS, DROPPED]);
    assert_eq!(oracle.check(&middle), HEADERS);
    assert_eq!([oracle.check(&open), oracle.check(&close)], [HEADERS; 2]);
    assert_eq!(oracle.check(&short), HEADERS);
    assert_eq!(oracle.check(&close), DROPPED);
}

#[test]
fn a_step_that_is_held_may_stand_before_another_one() {
    let [a, b, c] = doors();
    let mut oracle = Oracle::chain([a, b, c], oracle::SYN);
    let [first, second, _] = each(1);
    assert_eq!(oracle.check(&second), DROPPED);
    assert_eq!(oracle.check(&first), DROPPED);
    assert_eq!(oracle.check(&second), HEADERS, "the first was held, and counts");
    assert_eq!(oracle.check(&first), DROPPED, "only the second is expected");
    let [_, second, _] = each(2);
    let of_the_other_door = Packet::to_us(changed(in_v4(6, &tcp(7000, ACK)), 15, 2));
    assert_eq!(oracle.check(&of_the_other_door), HEADERS);
    assert_eq!(oracle.check(&second), HEADERS, "the first counts with any flags");
    oracle.first_steps.pass();
    let [first, second, _] = each(3);
    assert_eq!(oracle.tagged(&first), HEADERS);
    oracle.first_steps.hold(Boot(5));
    assert_eq!(oracle.tagged(&second), HEADERS, "also while nothing is held");
}

fn by_chance(dice: &mut Dice) -> Packet {
    let segment = match dice.roll(4) {
        0 => udp(dice.pick(&[7001, 7000, 1]), dice.pick(&[0, 1, 30])),
        1 => echo(dice.pick(&[8, 128, 0]), dice.pick(&[70, 69, 71])),
        _ => tcp(dice.pick(&[7000, 7000, 7001, 1, 2]), dice.pick(&[SYN, SYN, 0xff, ACK, 0])),
    };
    let protocol = dice.pick(&[6, 6, 17, 1, 58]);
    let mut bytes =
        if dice.is_one_in(2) { in_v4(protocol, &segment) } else { in_v6(protocol, &segment) };
    if dice.is_one_in(2) {
        let at = dice.roll(40.min(bytes.len()));
        bytes[at] = dice.pick(&[0, 1, 6, 17, 0x20, 0x40, 0x45, 0x46, 0x4f, 0x60, 127, 0xff]);
    }
    if dice.is_one_in(6) {
        let length = dice.roll(bytes.len()) + 1;
        bytes.truncate(length);
    }
    let mut packet = Packet::to_us(bytes);
    if dice.is_one_in(12) {
        packet.protocol = dice.pick(&[0x0800, 0x86dd]);
    }
    packet
}

/// The same, from several sources.
fn from_several(dice: &mut Dice) -> Packet {
    let mut packet = by_chance(dice);
    if packet.bytes.len() > 15 {
        packet.bytes[15] = dice.roll(200) as u8;
    }
    packet
}

#[test]
fn filter_and_engine_agree_about_first_steps_by_chance() {
    let mut dice = Dice(0x1357_9bdf_0246_8ace);
    for flags in [oracle::SYN, TcpFlags::default()] {
        let mut oracle = Oracle::holding(&doors(), flags);
        let mut passed = 0;
        for _ in 0..10_000 {
            let mut packet = by_chance(&mut dice);
            packet.kind = dice.pick(&[0, 0, 0, 1, 4]);
            packet.vlan = dice.pick(&[None, None, None, Some(7)]);
            passed += u32::from(oracle.check(&packet) > 0);
        }
        let held = oracle.first_steps.held();
        assert!(held > 300 && passed > 300, "{held} {passed}");
        let mut oracle = Oracle::both_ways(doors(), flags);
        for _ in 0..10_000 {
            oracle.time += SECOND;
            oracle.check(&from_several(&mut dice));
        }
    }
}

#[test]
fn the_kernel_holds_the_same_first_steps() {
    holds_in_the_kernel_as(&Oracle::holding(&doors(), oracle::SYN));
    holds_in_the_kernel_as(&Oracle::both_ways(doors(), oracle::SYN));
    holds_in_the_kernel_as(&Oracle::both_ways(doors(), TcpFlags::default()));
}

fn holds_in_the_kernel_as(oracle: &Oracle) {
    let mut dice = Dice(0x0fed_cba9_8765_4321);
    let Some(kernel) = in_kernel(oracle) else { return };
    kernel.first_steps.hold(Boot(900 * SECOND));
    let chance = (0..5000).map(|_| from_several(&mut dice));
    for packet in cases().into_iter().map(|(_, packet, _)| packet).chain(chance) {
        // It refuses to run on less than an IP header.
        if packet.bytes.len() >= 40 {
            assert_eq!(kernel.run(&packet), oracle.tagged(&packet), "{:02x?}", packet.bytes);
        }
    }
    assert_eq!(kernel.first_steps.held(), oracle.first_steps.held());
    let words = |of: &FirstSteps| -> Vec<u64> {
        let memory = of.memory();
        let words = memory.iter().flat_map(|line| line.iter());
        words.map(|word| word.load(Ordering::Relaxed)).collect()
    };
    let [ours, theirs] = [words(&oracle.first_steps), words(&kernel.first_steps)];
    assert_eq!(theirs[..BUCKETS], ours[..BUCKETS]);
    // The times are those of different clocks.
    for index in BUCKETS..2 * BUCKETS {
        assert_eq!(theirs[index] != 0, ours[index] != 0);
    }
    assert!(kernel.first_steps.held() > 100);
}
