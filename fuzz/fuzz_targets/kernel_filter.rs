//! The kernel's filter that knows tags passes what the classic filter passes and the engine could
//! decrypt or take for a door's, and nothing that the engine rejects by its tag or client MAC. The
//! one at an interface (XDP) drops of that only what is plainly for this machine.
//!
//! The first input byte chooses: a packet as it is, or datagrams of a client and junk with headers
//! around them, to which the rest is XORed; lengths and checksums as they are or right; a door at
//! the knock port or none; what the link says about the packet.

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
use toctoc::edge::ebpf::oracle::{OURS, Oracle, PORT};

thread_local! {
    static ORACLES: RefCell<[Oracle; 2]> =
        RefCell::new([Oracle::new(&[]), Oracle::new(&[Step::udp(PORT), Step::tcp(7000)])]);
    static KNOCK: [u8; DATAGRAM] =
        test_vectors::datagram(&test_vectors::request(NOON), [5; 32]).0;
}

fuzz_target!(|input: &[u8]| {
    let Some((mode, rest)) = input.split_first() else { return };
    let mut bytes = if mode & 1 == 0 { rest.to_vec() } else { packet_around(rest) };
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
    ORACLES.with_borrow_mut(|oracles| {
        let oracle = &mut oracles[usize::from(mode >> 2 & 1)];
        oracle.time += 20_000_000;
        oracle.check(&packet);
    });
});

/// Headers, then a datagram for each bit that the first byte tells: the client's, or junk. What
/// follows is XORed to them in pairs of place and value.
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
        let segment = packet.split_off(20);
        let length = u16::try_from(segment.len()).unwrap_or(0).to_be_bytes();
        let header = [0x60, 0, 0, 0, length[0], length[1], 17, 64];
        let ours: Ipv6Addr = OURS[1].parse().expect("an address");
        packet = [&header[..], &[0x20; 16], &ours.octets(), &segment].concat();
    }
    for change in changes.chunks_exact(3) {
        let place = usize::from(u16::from_be_bytes([change[0], change[1]])) % packet.len();
        packet[place] ^= change[2];
    }
    packet
}
