//! The kernel's filter that knows tags passes what the classic filter passes and the engine could
//! decrypt or take for a door's, and nothing that the engine rejects by its tag or client MAC. The
//! one at an interface (XDP) drops of that only what is plainly for this machine. The filter holds
//! what the engine takes for a first step at a door, perhaps what the engine ignores, and nothing
//! else.
//!
//! The first input byte chooses: a packet as it is, or datagrams of a client and junk with headers
//! around them, or a first step, to which the rest is XORed; lengths and checksums as they are or
//! right; a door at the knock port, doors whose first steps are held, or none; what the link says
//! about the packet.

#![no_main]

#[path = "../parts/checksums.rs"]
mod checksums;

use std::cell::RefCell;
use std::net::{Ipv4Addr, Ipv6Addr};

use checksums::set_checksums;
use libfuzzer_sys::fuzz_target;
use toctoc::core::door::Step;
use toctoc::core::test_vectors::{self, NOON};
use toctoc::core::wire::DATAGRAM;
use toctoc::edge::bpf::machine::Packet;
use toctoc::edge::ebpf::oracle::{OURS, Oracle, PORT, SYN};

thread_local! {
    static ORACLES: RefCell<[Oracle; 4]> = RefCell::new([
        Oracle::new(&[]),
        Oracle::new(&[Step::udp(PORT), Step::tcp(7000)]),
        Oracle::holding(&[Step::tcp(7000), Step::udp(7001), Step::Echo { size: 70 }], SYN),
        Oracle::both_ways([Step::tcp(7000), Step::udp(7001), Step::Echo { size: 70 }], SYN),
    ]);
    static KNOCK: [u8; DATAGRAM] =
        test_vectors::datagram(&test_vectors::request(NOON), [5; 32]).0;
}

fuzz_target!(|input: &[u8]| {
    let Some((mode, rest)) = input.split_first() else { return };
    let mut bytes = match mode & 0x81 {
        0x00 | 0x80 => rest.to_vec(),
        0x01 => packet_around(rest),
        _ => first_step(rest),
    };
    if bytes.is_empty() {
        return;
    }
    if mode & 2 != 0 {
        set_checksums(&mut bytes);
    }
    let mut packet = Packet::to_us(bytes);
    match mode >> 3 & 7 {
        0 => packet.kind = 3,
        1 => packet.vlan = Some(0x2000),
        2 => packet.vlan = Some(9),
        3 => packet.protocol ^= 0x8edd,
        _ => {}
    }
    let which = usize::from((mode >> 5 & 2) | (mode >> 2 & 1));
    ORACLES.with_borrow_mut(|oracles| {
        oracles[which].time += 20_000_000;
        oracles[which].check(&packet);
    });
});

/// Headers, then a datagram for each bit that the first byte tells: the client's, or junk, with
/// changes XORed to them.
fn packet_around(bytes: &[u8]) -> Vec<u8> {
    let [choice, changes @ ..] = bytes else { return Vec::new() };
    let mut payload = Vec::new();
    for index in 0..1 + (choice >> 6) {
        match choice >> index & 1 {
            0 => payload.extend([index; DATAGRAM]),
            _ => KNOCK.with(|knock| payload.extend(knock)),
        }
    }
    let [source, destination] = [[192, 0, 2, 7], [203, 0, 113, 1]].map(Ipv4Addr::from);
    let mut packet = test_vectors::packet(source, destination, PORT, &payload);
    if choice & 16 != 0 {
        packet = ipv6(17, &packet.split_off(20));
    }
    change(&mut packet, changes);
    packet
}

/// A first step of one of the doors over either family, with changes XORed to it.
fn first_step(bytes: &[u8]) -> Vec<u8> {
    let [choice, changes @ ..] = bytes else { return Vec::new() };
    let is_v6 = choice & 4 != 0;
    let [tcp, udp] = [7000u16, 7001].map(u16::to_be_bytes);
    let (protocol, segment) = match (choice & 3, is_v6) {
        (0, false) => (1, [&[8][..], &[0; 77]].concat()),
        (0, true) => (58, [&[128][..], &[0; 77]].concat()),
        (1, _) => (17, [&[9, 9][..], &udp, &[0; 4]].concat()),
        _ => (6, [&[9, 9][..], &tcp, &[0; 9], &[2, 0, 0, 0, 0, 0, 0]].concat()),
    };
    let mut packet = if is_v6 {
        ipv6(protocol, &segment)
    } else {
        let total = 20 + segment.len() as u8;
        let start = [0x45, 0, 0, total, 0, 0, 0, 0, 64, protocol, 0, 0];
        [&start[..], &[192, 0, 2, 7, 203, 0, 113, 1], &segment].concat()
    };
    change(&mut packet, changes);
    packet
}

fn ipv6(protocol: u8, segment: &[u8]) -> Vec<u8> {
    let length = u16::try_from(segment.len()).unwrap_or(0).to_be_bytes();
    let header = [0x60, 0, 0, 0, length[0], length[1], protocol, 64];
    let ours: Ipv6Addr = OURS[1].parse().expect("an address");
    [&header[..], &[0x20; 16], &ours.octets(), segment].concat()
}

/// XORs what follows to a packet, in pairs of place and value.
fn change(packet: &mut [u8], changes: &[u8]) {
    for change in changes.chunks_exact(3) {
        let place = usize::from(u16::from_be_bytes([change[0], change[1]])) % packet.len();
        packet[place] ^= change[2];
    }
}
