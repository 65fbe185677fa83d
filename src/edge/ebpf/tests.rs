//! The program against the classic filter, the engine, and the kernel, which runs it too.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};

use capctl::{Cap, CapState};

use super::machine::Machine;
use super::oracle::{OURS, Oracle, PORT, RATE, SYN};
use super::*;
use crate::core::keyring::{FilterDrops, FilterKey};
use crate::core::packet::udp_checksum;
use crate::core::sequence::first_steps::FirstSteps;
use crate::core::test_vectors::{self, NOON};
use crate::core::types::Wall;
use crate::edge::bpf::machine::Packet;
use crate::edge::sys;

mod cases;
mod held;
mod interface;
mod known;
mod random;

const DROPPED: u32 = 0;
const WHOLE: u32 = bpf::WHOLE;

/// The test client's knock number `n`.
fn knock(n: u8) -> Vec<u8> {
    test_vectors::datagram(&test_vectors::request(Wall(NOON.0 + u64::from(n))), [n; 32]).0.to_vec()
}

/// A datagram of a knock's length with a tag of nobody.
fn junk(n: u8) -> Vec<u8> {
    (0..DATAGRAM).map(|i| (i as u8).wrapping_mul(31).wrapping_add(n)).collect()
}

/// A UDP packet to the knock port, with right lengths and checksums.
fn v4(payload: &[u8]) -> Vec<u8> {
    let [source, destination] = [[192, 0, 2, 7], [203, 0, 113, 1]].map(Ipv4Addr::from);
    test_vectors::packet(source, destination, PORT, payload)
}

fn v6(payload: &[u8]) -> Vec<u8> {
    let [source, destination] = ["2001:db8::7", "2001:db8:1::1"].map(str::parse::<Ipv6Addr>);
    let (source, destination) = (source.unwrap(), destination.unwrap());
    let mut segment = v4(payload).split_off(20);
    segment[6..8].fill(0);
    let check = udp_checksum(source.into(), destination.into(), &segment);
    segment[6..8].copy_from_slice(&check.to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(segment.len()).unwrap().to_be_bytes());
    packet.extend([17, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    [packet, segment].concat()
}

/// The test client's keys, as the filter has them.
fn test_keys() -> Vec<FilterKey> {
    let row = test_vectors::wire_row(NOON);
    row.filter_keys(&row.tags(), &[None; 4])
}

/// The program of `oracle` in the kernel, and its memory. `None` where nobody may load one: without
/// CAP_BPF in the first user namespace.
fn in_kernel(oracle: &Oracle) -> Option<InKernel> {
    let capable = CapState::get_current().unwrap().effective.has(Cap::BPF);
    let users = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    let is_first = users.split_whitespace().eq(["0", "0", "4294967295"]);
    let map = match TagMap::new(1, RATE) {
        Ok(map) => map,
        Err(NotLoaded::Forbidden) if !(capable && is_first) => return None,
        Err(why) => panic!("{why}"),
    };
    test_keys().iter().for_each(|key| map.tags.insert(key));
    let steps = oracle.first_steps.steps().clone();
    let first = FirstStepMap::new(steps, oracle.first_steps.seed());
    let first = first.unwrap_or_else(|why| panic!("{why}"));
    let realm = test_vectors::realm();
    let filter = map.filter(realm.knock_mask());
    match load_filter(&oracle.spec, Some(&filter), Some(&first.filter(true))) {
        Ok(program) => Some(InKernel { map, first_steps: first.first_steps, program }),
        Err(why) => panic!("{why}"),
    }
}

/// A program in the kernel, and the memory that it shares with us.
struct InKernel {
    map: TagMap,
    first_steps: FirstSteps,
    program: OwnedFd,
}

impl InKernel {
    fn run(&self, packet: &Packet) -> u32 {
        sys::run_program(self.program.as_fd(), &frame(packet)).unwrap()
    }
}

/// The program of `oracle` for an interface in the kernel, and its memories. `None` as for
/// [`in_kernel`].
fn at_interface(oracle: &Oracle) -> Option<(TagMap, XdpMap, OwnedFd)> {
    let InKernel { map: tags, .. } = in_kernel(oracle)?;
    let map = XdpMap::new().unwrap_or_else(|why| panic!("{why}"));
    map.addresses.set(&OURS.map(|ip| ip.parse().unwrap()));
    let loaded = map.load(PORT, &tags.filter(test_vectors::realm().knock_mask()));
    let program = loaded.unwrap_or_else(|why| panic!("{why}"));
    Some((tags, map, program))
}

/// An Ethernet frame to a device with an address of zeros.
fn frame(packet: &Packet) -> Vec<u8> {
    let protocol = u16::try_from(packet.protocol).unwrap().to_be_bytes();
    [&[0; 12], &protocol[..], &packet.bytes].concat()
}

#[test]
fn what_this_machine_sends_is_not_for_this_program() {
    let oracle = Oracle::new(&[]);
    let spec = FilterSpec { outgoing: true, ..oracle.spec };
    let filter = TagFilter { mask: &[7; 32], tags: &oracle.tags, map: 5, rate: RATE };
    assert!(program(&spec, Some(&filter), None).is_none());
}

#[test]
fn a_filter_with_too_many_doors_to_be_exact_still_has_its_tags() {
    let steps: Vec<Step> = (0..20_000).map(|i| Step::tcp(i * 3 + 1)).collect();
    let oracle = Oracle::new(&steps);
    assert_eq!(oracle.tagged(&Packet::to_us(v4(&knock(1)))), WHOLE);
    assert_eq!(oracle.tagged(&Packet::to_us(v6(&junk(1)))), DROPPED);
    if let Some(kernel) = in_kernel(&oracle) {
        let run = |bytes| kernel.run(&Packet::to_us(bytes));
        assert_eq!((run(v6(&knock(1))), run(v4(&junk(1)))), (WHOLE, DROPPED));
    }
}

#[test]
fn the_right_to_load_programs_and_no_other_is_enough_for_the_verifier() {
    // It looks at more without CAP_PERFMON. Rights are a thread's own.
    let loading = std::thread::spawn(|| {
        let mut rights = CapState::get_current().unwrap();
        if rights.effective.has(Cap::BPF) {
            rights.effective = [Cap::BPF].into_iter().collect();
            rights.permitted = rights.effective;
            rights.set_current().unwrap();
        }
        in_kernel(&Oracle::new(&[]));
        in_kernel(&Oracle::holding(&[Step::tcp(7000), Step::udp(7001)], SYN));
    });
    loading.join().unwrap();
}

#[test]
fn a_tag_is_found_in_the_second_of_its_lines_too() {
    let oracle = Oracle::new(&[]);
    let keys = test_keys();
    keys.iter().for_each(|key| oracle.tags.remove(key));
    let today = Packet::to_us(v4(&knock(1)));
    assert_eq!(oracle.tagged(&today), DROPPED);
    assert!(oracle.is_dropped_early(&today));
    let tag = u128::from_be_bytes(keys[1].tag);
    let line = ((tag >> 64) as u32 ^ tag as u32) % oracle.tags.len() as u32;
    // Tags whose lines are both the first one of today's.
    for n in 1..=7 {
        let half = u64::from(n * oracle.tags.len() as u32 + line);
        let [upper, lower] = [(half << 32 | half).to_be_bytes(), [0; 8]];
        let tag = [upper, lower].concat().try_into().unwrap();
        oracle.tags.insert(&FilterKey::for_tests(tag));
    }
    keys.iter().for_each(|key| oracle.tags.insert(key));
    assert_eq!(oracle.tagged(&today), WHOLE);
    assert!(!oracle.is_dropped_early(&today));
    for n in 0..200 {
        assert_eq!(oracle.tagged(&Packet::to_us(v4(&junk(n)))), DROPPED, "no line overflows");
    }
}

#[test]
fn a_tag_without_room_in_the_table_passes() {
    let oracle = Oracle::new(&[]);
    for n in 0..200 {
        assert_eq!(oracle.tagged(&Packet::to_us(v4(&junk(n)))), DROPPED);
    }
    for n in 1..4000u64 {
        let mut tag = [0; 16];
        tag[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        oracle.tags.insert(&FilterKey::for_tests(tag));
    }
    let passed = (0..200).filter(|n| oracle.tagged(&Packet::to_us(v4(&junk(*n)))) == WHOLE);
    assert!(passed.count() > 150);
}

#[test]
fn each_datagram_costs_so_many_instructions_and_no_more() {
    let oracle = Oracle::new(&[]);
    let steps = |payload: &[u8]| {
        let packet = Packet::to_us(v4(payload));
        let mut machine = Machine::new(&oracle.program, &packet, &oracle.maps, 0);
        machine.run();
        machine.steps
    };
    let one = steps(&junk(1));
    let two = steps(&[junk(1), junk(2)].concat());
    assert!((2500..2900).contains(&one) && two < 2 * one, "{one} {two}");
}

#[test]
fn drops_are_counted_on_the_line_of_the_processor() {
    let oracle = Oracle::new(&[]);
    let packet = Packet::to_us(v4(&[junk(1), junk(2), junk(3)].concat()));
    for processor in [0, 1, 63, 64, 1000] {
        Machine::new(&oracle.program, &packet, &oracle.maps, processor).run();
    }
    assert_eq!(oracle.tags.dropped(), FilterDrops { unknown_tag: 15, ..<_>::default() });
    let memory = oracle.tags.memory();
    let at = |processor: usize| {
        memory[oracle.tags.len() + processor][0].load(std::sync::atomic::Ordering::Relaxed)
    };
    assert_eq!([0, 1, 40, 63].map(at), [6, 3, 3, 3]);
}
