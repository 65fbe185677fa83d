//! Classic doors in the engine, beside the sealed knock. See `sequence` for tests of the machine.

use super::*;
use crate::core::door::TcpFlags;
use crate::core::sequence::Target;

pub(super) fn door(ports: &[u16]) -> DoorSpec {
    DoorSpec {
        sequence: ports.iter().map(|port| Step::udp(*port)).collect(),
        seq_timeout: 5,
        flags: TcpFlags::default(),
        target: Target::Own,
        one_time: false,
        tolerate_duplicates: false,
        own: false,
        pause_after: 0,
    }
}

#[test]
fn doors_and_sealed_knocks_work_side_by_side_even_on_one_port() {
    let mut both = setup(1);
    both.doors = vec![door(&[7000, PORT])];
    let mut bench = Bench::new(both);
    let (datagram, _) = bench.datagram();
    let mut hit = |port, payload: &[u8]| {
        let mut actions = Vec::new();
        bench.engine.packet(bench.now, OUTSIDE, &packet(ADMIN, port, payload), &mut actions);
        actions
    };
    let stage = |stage| Action::Door(SequenceEvent::Stage { door: 0, source: ADMIN.into(), stage });
    assert_eq!(hit(7000, b"x"), [stage(1)]);
    assert_eq!(hit(PORT, &datagram), [], "a sealed knock is not a hit");
    let opened = hit(PORT, b"x");
    assert!(
        matches!(&opened[..], [two, Action::Door(SequenceEvent::Completed(done))] if *two == stage(2) && done.door() == 0)
    );
    assert_eq!(knocks(&bench.serve(10)), [0]);
}

#[test]
fn a_door_takes_packets_of_loopback_addresses_only_from_a_loopback_device() {
    let mut bench = Bench::new(Setup { doors: vec![door(&[7000, 7001])], ..Setup::default() });
    let step = packet(Ipv4Addr::LOCALHOST, 7000, b"");
    let mut actions = Vec::new();
    bench.engine.packet(bench.now, OUTSIDE, &step, &mut actions);
    assert_eq!((actions.len(), bench.rejected(Reject::NotForUs)), (0, 1));
    bench.engine.packet(bench.now, Arrival { loopback: true }, &step, &mut actions);
    assert_eq!(actions.len(), 1);
}

#[test]
fn each_packet_to_a_door_is_reported_only_with_debug() {
    for debug in [false, true] {
        let mut doors = Setup { doors: vec![door(&[7000])], ..Setup::default() };
        doors.rules.debug = debug;
        let mut bench = Bench::new(doors);
        let mut actions = Vec::new();
        for _ in 0..2 {
            bench.engine.packet(bench.now, OUTSIDE, &packet(ADMIN, 7000, b""), &mut actions);
        }
        let seen = |action: &Action| matches!(action, Action::Seen { source_port: 40_000, .. });
        let removed =
            |action: &Action| matches!(action, Action::Door(SequenceEvent::Removed { .. }));
        assert_eq!(actions.iter().any(seen), debug);
        assert_eq!(actions.iter().any(removed), debug);
    }
}
