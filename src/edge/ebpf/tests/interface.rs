//! The program at an interface: what it drops, and that it passes what is not plainly for us.

use super::cases::{changed, with_options};
use super::*;
use crate::edge::ebpf::xdp;

/// Junk that it must pass, and why.
fn passed() -> Vec<(&'static str, Packet)> {
    let us = Packet::to_us;
    let dropped = junk(1);
    let to = |mut bytes: Vec<u8>, at: usize| {
        bytes[at] ^= 1;
        us(bytes)
    };
    vec![
        ("a knock", us(v4(&knock(1)))),
        ("a knock over IPv6", us(v6(&knock(2)))),
        ("forwarded", to(v4(&dropped), 19)),
        ("forwarded, the other half of the address", to(v6(&dropped), 24)),
        ("forwarded over IPv6", to(v6(&dropped), 39)),
        ("to no address", us([&v6(&dropped)[..24], &[0; 16], &v6(&dropped)[40..]].concat())),
        ("to all machines", Packet { kind: 1, ..us(v4(&dropped)) }),
        ("in a VLAN", Packet { vlan: Some(7), ..us(v4(&dropped)) }),
        ("with a priority", Packet { vlan: Some(0x6000), ..us(v6(&dropped)) }),
        ("an option in place of a part", us(changed(v4(&dropped), 0, 0x46))),
        ("an option", us(with_options(v4(&dropped), 1))),
        ("a first fragment", us(changed(v4(&dropped), 6, 0x20))),
        ("a later fragment", us(changed(v4(&dropped), 7, 1))),
        ("hop-by-hop options", us(changed(v6(&dropped), 6, 0))),
        ("another port", us(changed(v4(&dropped), 23, 1))),
        ("a wrong IP length", us(changed(v4(&dropped), 3, 45))),
        ("a wrong IPv6 length", us(changed(v6(&dropped), 5, 25))),
        ("a wrong UDP length", us(changed(v4(&dropped), 25, 9))),
        ("cut off", us(v4(&dropped)[..299].to_vec())),
        ("cut off in the header", us(v6(&dropped)[..45].to_vec())),
        ("two merged", us(v4(&[junk(1), junk(2)].concat()))),
        ("TCP", us(changed(v4(&dropped), 9, 6))),
        ("a tunnel", us(changed(v4(&dropped), 9, 4))),
        ("ARP", Packet { protocol: 0x0806, ..us(v4(&dropped)) }),
        ("another version", us(changed(v4(&dropped), 0, 0x65))),
    ]
}

fn dropped() -> Vec<(&'static str, Packet)> {
    let us = Packet::to_us;
    vec![
        ("junk", us(v4(&junk(1)))),
        ("junk over IPv6", us(v6(&junk(2)))),
        ("padded by the link", us([v4(&junk(3)), vec![0; 9]].concat())),
    ]
}

#[test]
fn only_junk_that_is_plainly_for_us_is_dropped_at_an_interface() {
    let mut oracle = Oracle::new(&[]);
    for (name, packet) in passed() {
        assert!(!oracle.is_dropped_early(&packet), "{name}");
        oracle.check(&packet);
    }
    for (name, packet) in dropped() {
        assert!(oracle.is_dropped_early(&packet), "{name}");
        oracle.check(&packet);
    }
}

#[test]
fn the_kernel_does_the_same_at_an_interface() {
    let oracle = Oracle::new(&[]);
    let Some((tags, map, program)) = at_interface(&oracle) else { return };
    let run =
        |packet: &Packet| sys::run_program(program.as_fd(), &packet.frame()).unwrap().cast_signed();
    for (name, packet) in passed() {
        assert_eq!(run(&packet), xdp::PASS, "{name}");
    }
    for (name, packet) in dropped() {
        assert_eq!(run(&packet), xdp::DROP, "{name}");
    }
    assert_eq!(map.addresses.dropped(), dropped().len() as u64);
    assert_eq!(tags.tags.dropped(), FilterDrops::default(), "the other filter's counters");
    // The listener changes the addresses without a system call.
    map.addresses.set(&[]);
    assert!(dropped().iter().all(|(_, packet)| run(packet) == xdp::PASS));
}

#[test]
fn a_packet_at_an_interface_costs_few_instructions_unless_it_may_be_a_knock() {
    let oracle = Oracle::new(&[]);
    let steps = |packet: &Packet| {
        let machine = Machine::new(&oracle.at_interface, packet, &oracle.maps, 0);
        let mut machine = machine.at_interface();
        machine.run();
        machine.steps
    };
    let other = steps(&Packet::to_us(changed(v4(&junk(1)), 9, 6)));
    let forwarded = steps(&Packet::to_us(changed(v4(&junk(1)), 19, 9)));
    let ours = steps(&Packet::to_us(v4(&junk(1))));
    assert!(other < 25 && forwarded < 80 && ours < 2950, "{other} {forwarded} {ours}");
}
