//! Datagrams with a client's tag: the client MAC, copies, and the client's rate.

use super::*;
use crate::core::keyring::Day;
use crate::core::knock::{KnockKind, Request};
use crate::core::types::Source;

fn dropped(tags: &SharedTags, by: impl Fn() -> u32) -> (u32, FilterDrops) {
    let before = tags.dropped();
    let done = by();
    let after = tags.dropped();
    let new = FilterDrops {
        unknown_tag: after.unknown_tag - before.unknown_tag,
        length: after.length - before.length,
        client_mac: after.client_mac - before.client_mac,
        copies: after.copies - before.copies,
        quota: after.quota - before.quota,
        first_step: 0,
    };
    (done, new)
}

const CLIENT_MAC: FilterDrops =
    FilterDrops { unknown_tag: 0, length: 0, client_mac: 1, copies: 0, quota: 0, first_step: 0 };
const UNKNOWN_TAG: FilterDrops = FilterDrops { unknown_tag: 1, client_mac: 0, ..CLIENT_MAC };
const COPIES: FilterDrops = FilterDrops { copies: 1, client_mac: 0, ..CLIENT_MAC };
const QUOTA: FilterDrops = FilterDrops { quota: 1, client_mac: 0, ..CLIENT_MAC };

/// The same with the first half of its client MAC, as the engine knows it.
fn id(knock: &[u8]) -> u64 {
    u64::from_be_bytes(knock[DATAGRAM - 16..DATAGRAM - 8].try_into().unwrap())
}

/// A packet from another source than [`v4`]'s.
fn from(last: u8, payload: &[u8]) -> Packet {
    let [source, destination] = [[192, 0, 2, last], [203, 0, 113, 1]].map(Ipv4Addr::from);
    Packet::to_us(test_vectors::packet(source, destination, PORT, payload))
}

#[test]
fn a_knock_with_one_wrong_bit_ends_in_the_kernel() {
    let mut oracle = Oracle::new(&[]);
    let kernel = in_kernel(&oracle);
    let right = knock(1);
    for at in 0..DATAGRAM {
        let mut wrong = right.clone();
        wrong[at] ^= 1 << (at % 8);
        let packet = Packet::to_us(if at.is_multiple_of(2) { v4(&wrong) } else { v6(&wrong) });
        // The tag, and the sample of its mask.
        let reason = if (32..64).contains(&at) { UNKNOWN_TAG } else { CLIENT_MAC };
        assert_eq!(dropped(&oracle.tags, || oracle.tagged(&packet)), (DROPPED, reason), "{at}");
        if let Some(kernel) = &kernel {
            let run = || kernel.run(&packet);
            assert_eq!(dropped(&kernel.map.tags, run), (DROPPED, reason), "{at}, in the kernel");
        }
        oracle.check(&packet);
    }
    assert_eq!(oracle.check(&Packet::to_us(v4(&right))), WHOLE);
}

#[test]
fn knocks_of_three_days_and_of_none_pass() {
    let mut oracle = Oracle::new(&[]);
    let kernel = in_kernel(&oracle);
    let day = 86_400_000_000_000;
    let of = |day: u64| test_vectors::request(Wall(day));
    let requests = [NOON.0 - day, NOON.0, NOON.0 + day].map(of);
    let time = Request { receipt_wanted: true, ..Request::bare(KnockKind::Time) };
    for (n, request) in (1..).zip(requests.into_iter().chain([time])) {
        let (datagram, _) = test_vectors::datagram(&request, [n; 32]);
        assert_eq!(test_vectors::day_of(&request) == Day::Unknown, n == 4);
        let packet = Packet::to_us(v4(&datagram));
        if let Some(kernel) = &kernel {
            assert_eq!(kernel.run(&packet), WHOLE);
        }
        assert_eq!(oracle.check(&packet), WHOLE, "{n}");
    }
    assert_eq!(oracle.tags.dropped(), FilterDrops::default());
}

#[test]
fn a_tag_is_checked_with_its_own_key_and_passes_if_it_has_two() {
    let oracle = Oracle::new(&[]);
    let packet = Packet::to_us(v6(&knock(1)));
    let [_, today, ..] = &test_keys()[..] else { panic!("four keys") };
    let other = FilterKey::for_tests(today.tag);
    oracle.tags.insert(&other);
    assert_eq!(oracle.tagged(&packet), WHOLE);
    oracle.tags.remove(today);
    assert_eq!(dropped(&oracle.tags, || oracle.tagged(&packet)), (DROPPED, CLIENT_MAC));
    oracle.tags.remove(&other);
    assert_eq!(dropped(&oracle.tags, || oracle.tagged(&packet)), (DROPPED, UNKNOWN_TAG));
    oracle.tags.insert(today);
    assert_eq!(oracle.tagged(&packet), WHOLE);
}

#[test]
fn a_tag_whose_two_lines_are_one_is_found_once() {
    let oracle = Oracle::new(&[]);
    let [_, today, ..] = &test_keys()[..] else { panic!("four keys") };
    let mut tag = [0; 16];
    tag[3] = 9;
    tag[4..8].copy_from_slice(&(9 + oracle.tags.len() as u32).to_be_bytes());
    let mut datagram = knock(1);
    for (at, (old, new)) in (32..).zip(today.tag.into_iter().zip(tag)) {
        datagram[at] ^= old ^ new;
    }
    let packet = Packet::to_us(v4(&datagram));
    assert_eq!(dropped(&oracle.tags, || oracle.tagged(&packet)), (DROPPED, UNKNOWN_TAG));
    oracle.tags.insert(&FilterKey::for_tests(tag));
    assert_eq!(dropped(&oracle.tags, || oracle.tagged(&packet)), (DROPPED, CLIENT_MAC));
}

#[test]
fn copies_of_a_packet_reach_the_engine_until_it_has_noticed_them() {
    let mut oracle = Oracle::new(&[]);
    let packet = Packet::to_us(v4(&knock(1)));
    let passed = (0..100).filter(|_| oracle.check(&packet) == WHOLE).count();
    assert_eq!(passed, 1 + 8);
    assert_eq!(oracle.tags.dropped().copies, 91);
    assert_eq!(oracle.check(&Packet::to_us(v4(&knock(2)))), WHOLE, "another knock");
    // From elsewhere: one has its alarm, and then no more.
    let other = knock(3);
    assert_eq!(oracle.check(&from(9, &other)), WHOLE);
    assert_eq!(oracle.check(&from(10, &other)), WHOLE);
    assert_eq!(oracle.check(&from(11, &other)), DROPPED);
}

#[test]
fn copies_that_came_first_do_not_keep_out_the_packet_from_the_address_that_it_names() {
    let mut oracle = Oracle::new(&[]);
    let late = knock(1);
    for last in [20, 21] {
        assert_eq!(oracle.check(&from(last, &late)), WHOLE);
    }
    for last in 20..60 {
        assert_eq!(oracle.check(&from(last, &late)), DROPPED);
    }
    assert_eq!(oracle.check(&Packet::to_us(v4(&late))), WHOLE, "the client's own");
}

#[test]
fn the_filter_reads_both_kinds_of_addresses_as_the_listener_writes_them() {
    let oracle = Oracle::new(&[]);
    let kernel = in_kernel(&oracle);
    let datagram = knock(1);
    let address = |text: &str| Some(Source::new(text.parse().unwrap()));
    let [four, six] = [Packet::to_us(v4(&datagram)), Packet::to_us(v6(&datagram))];
    for (except, expected) in [
        (address("192.0.2.7"), [WHOLE, DROPPED]),
        (address("2001:db8::7"), [DROPPED, WHOLE]),
        (address("2001:db8::8"), [DROPPED, DROPPED]),
        (None, [DROPPED, DROPPED]),
    ] {
        oracle.tags.drop_copies(id(&datagram), except);
        let run = [&four, &six].map(|packet| oracle.tagged(packet));
        assert_eq!(run, expected, "{except:?}");
        if let Some(kernel) = &kernel {
            kernel.map.tags.drop_copies(id(&datagram), except);
            let run = [&four, &six].map(|packet| kernel.run(packet));
            assert_eq!(run, expected, "{except:?}, in the kernel");
        }
    }
    assert_eq!(dropped(&oracle.tags, || oracle.tagged(&four)), (DROPPED, COPIES));
}

#[test]
fn each_part_of_an_ipv6_address_counts_and_one_that_folds_to_zero_is_like_any_other() {
    let oracle = Oracle::new(&[]);
    let address = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    let tagged = |from: Ipv6Addr, datagram: &[u8]| {
        let mut bytes = v6(datagram);
        bytes[8..24].copy_from_slice(&from.octets());
        oracle.tagged(&Packet::to_us(bytes))
    };
    let [one, other] = [knock(1), knock(2)];
    let own = address("2001:db8:1:2:3:4:5:6");
    oracle.tags.drop_copies(id(&one), Some(Source::new(own.into())));
    assert_eq!(tagged(own, &one), WHOLE);
    for bit in [0, 32, 64, 96] {
        let another = Ipv6Addr::from_bits(own.to_bits() ^ 1 << bit);
        assert_eq!(tagged(another, &one), DROPPED, "{another}");
    }
    let zero = address("2001:db8:2001:db8::");
    oracle.tags.drop_copies(id(&one), None);
    assert_eq!(tagged(zero, &one), DROPPED, "from nowhere");
    oracle.tags.drop_copies(id(&other), Some(Source::new(zero.into())));
    assert_eq!(tagged(zero, &other), WHOLE);
}

#[test]
fn a_mac_that_begins_with_zeros_is_no_copy() {
    let oracle = Oracle::new(&[]);
    let realm = test_vectors::realm();
    let filter = TagFilter {
        mask: realm.knock_mask(),
        tags: &oracle.tags,
        map: oracle.maps[0].descriptor,
        rate: RATE,
    };
    let mut asm = Assembler::default();
    let [useless, pass] = asm.labels();
    asm.copy(CONTEXT, R1);
    asm.set(R1, 0);
    asm.store(Size::Double, STACK, mac::SENT, R1);
    drop_copies(&mut asm, &filter, Helper::LoadBytes, IP, useless, pass);
    asm.place(pass);
    asm.end_with(WHOLE.cast_signed());
    asm.place(useless);
    asm.end_with(DROPPED.cast_signed());
    let program = asm.finish().unwrap();
    let packet = Packet::to_us(v4(&knock(1)));
    let run = || Machine::new(&program, &packet, &oracle.maps, 0).run();
    assert_eq!(run(), WHOLE);
    // Nor if it has come before: it would be in an empty place.
    oracle.tags.drop_copies(0, None);
    assert_eq!(run(), WHOLE);
}

#[test]
fn seven_more_packets_of_a_line_are_remembered_and_the_eighth_takes_the_place_of_the_oldest() {
    let oracle = Oracle::new(&[]);
    let [datagram, other] = [knock(1), knock(2)];
    let packet = Packet::to_us(v4(&datagram));
    oracle.tags.drop_copies(id(&datagram), None);
    oracle.tags.drop_copies(id(&other), None);
    for n in 1..=7 {
        oracle.tags.drop_copies(id(&datagram) ^ n << 32, None);
        // Again is no more.
        oracle.tags.drop_copies(id(&datagram) ^ n << 32, None);
        assert_eq!(oracle.tagged(&packet), DROPPED, "{n}");
    }
    oracle.tags.drop_copies(id(&datagram) ^ 8 << 32, None);
    assert_eq!(oracle.tagged(&packet), WHOLE);
    assert_eq!(oracle.tagged(&Packet::to_us(v4(&other))), DROPPED, "in another line");
}

#[test]
fn a_client_that_sends_far_too_fast_is_held_back_and_others_are_not() {
    let mut oracle = Oracle::new(&[]);
    let today = Packet::to_us(v4(&knock(1)));
    for n in 0..1024 {
        assert_eq!(oracle.tagged(&today), WHOLE, "{n}");
    }
    assert_eq!(dropped(&oracle.tags, || oracle.tagged(&today)), (DROPPED, QUOTA));
    let tomorrow = test_vectors::request(Wall(NOON.0 + 86_400_000_000_000));
    let (tomorrow, _) = test_vectors::datagram(&tomorrow, [7; 32]);
    assert_eq!(oracle.tagged(&Packet::to_us(v4(&tomorrow))), WHOLE, "another tag");
    oracle.time += 10_000_000;
    let passed = (0..100).filter(|_| oracle.tagged(&today) == WHOLE).count();
    assert_eq!(passed, 10, "in ten milliseconds");
}

#[test]
fn the_kernel_holds_back_a_client_that_sends_far_too_fast() {
    let oracle = Oracle::new(&[]);
    let Some(kernel) = in_kernel(&oracle) else { return };
    let packet = Packet::to_us(v4(&knock(1)));
    let begin = std::time::Instant::now();
    let mut passed = 0;
    let mut sent = 0;
    while kernel.map.tags.dropped().quota < 100 {
        passed += u64::from(kernel.run(&packet) == WHOLE);
        sent += 1;
        assert!(sent < 1_000_000, "it holds back nothing");
    }
    let most = 1024 + 1 + begin.elapsed().as_millis() * 1024 / 999;
    assert!(passed >= 1024 && u128::from(passed) <= most, "{passed} of {sent}, at most {most}");
}

#[test]
fn a_client_that_may_send_faster_is_held_back_later() {
    let oracle = Oracle::new(&[]);
    let rate = Rate { burst: 1000, per_second: 2000 };
    let realm = test_vectors::realm();
    let filter = TagFilter {
        mask: realm.knock_mask(),
        tags: &oracle.tags,
        map: oracle.maps[0].descriptor,
        rate,
    };
    let program = program(&oracle.spec, Some(&filter), None).unwrap();
    let packet = Packet::to_us(v4(&knock(1)));
    let run = |time| {
        let mut machine = Machine::new(&program, &packet, &oracle.maps, 0);
        machine.time = time;
        machine.run()
    };
    let many = |time| (0..5000).filter(|_| run(time) == WHOLE).count();
    assert_eq!(many(1 << 40), 4000);
    // Eight thousand a second, with microseconds cut off.
    assert!((80..=82).contains(&many((1 << 40) + 10_000_000)));
}

#[test]
fn a_datagram_that_is_merged_with_others_is_left_to_the_engine() {
    let oracle = Oracle::new(&[]);
    let mut wrong = knock(1);
    wrong[200] ^= 1;
    assert_eq!(oracle.tagged(&Packet::to_us(v4(&[wrong, junk(1)].concat()))), WHOLE);
}

#[test]
fn a_client_mac_costs_so_many_instructions_and_no_more() {
    let oracle = Oracle::new(&[]);
    let packet = Packet::to_us(v4(&knock(1)));
    let mut machine = Machine::new(&oracle.program, &packet, &oracle.maps, 0);
    machine.run();
    assert!((16_000..21_000).contains(&machine.steps), "{}", machine.steps);
    // Kernels before 6.8 let a socket have twenty kilobytes, eight bytes for each instruction.
    assert!(oracle.program.len() < 2300, "{}", oracle.program.len());
}
