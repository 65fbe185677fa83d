//! Packets and changes of sequences in any order: a door opens only by its whole sequence, in
//! order, from one source, and the table of attempts keeps its limit.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use std::net::IpAddr;
use toctoc::core::door::{Door, Step, TcpFlags};
use toctoc::core::sequence::{
    ATTEMPTS, DoorSpec, KnockPacket, Machine, MachineRules, SequenceEvent,
};
use toctoc::core::types::{SECOND, Wall};

const OURS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

/// Two doors with fixed sequences and one with one-time sequences, on few ports, so that they
/// interfere.
fn doors() -> Vec<DoorSpec> {
    let door = |ports: &[u16], one_time| DoorSpec {
        sequence: ports.iter().map(|port| Step::tcp(*port)).collect(),
        seq_timeout: 5,
        flags: TcpFlags { set: 2, unset: 16 },
        one_time,
        ..DoorSpec::from(&Door::default())
    };
    vec![door(&[1, 2, 3], false), door(&[1, 3, 3, 2], false), door(&[2, 2], true)]
}

fuzz_target!(|input: &[u8]| {
    let rules = MachineRules { own: vec![OURS], ..MachineRules::default() };
    let mut specs = doors();
    let mut machine = Machine::new(specs.clone(), rules);
    let mut history: BTreeMap<IpAddr, Vec<(usize, u64, Step)>> = BTreeMap::new();
    let (mut second, mut set_at) = (0, 0);
    for (at, bytes) in input.chunks_exact(3).enumerate() {
        let (what, who, port) = (bytes[0], bytes[1] % 4, u16::from(bytes[2] % 4));
        second += u64::from(what >> 6);
        if what & 63 == 63 {
            specs[2].sequence = vec![Step::tcp(port), Step::tcp(2)];
            machine.set_sequence(2, specs[2].sequence.clone());
            set_at = at;
            continue;
        }
        let source = IpAddr::from([10, 0, 0, 2 + who]);
        let hit = KnockPacket {
            source,
            destination: OURS,
            step: Step::tcp(port),
            flags: Some(what & 63),
        };
        if specs[0].flags.fit(what & 63) {
            history.entry(source).or_default().push((at, second, hit.step));
        }
        let mut opened = Vec::new();
        machine.packet(Wall(second * SECOND), &hit, &mut |effect| {
            if let SequenceEvent::Completed(done) = effect {
                opened.push(done);
            }
        });
        assert!(machine.under_way() <= ATTEMPTS);
        for done in opened {
            assert_eq!(done.source(), source);
            let spec = &mut specs[usize::from(done.door())];
            let mut wanted = spec.sequence.iter().rev().peekable();
            let mut first = second;
            for (at, when, step) in history.get(&source).into_iter().flatten().rev() {
                let counts = !spec.one_time || *at >= set_at;
                if counts && wanted.peek() == Some(&step) {
                    wanted.next();
                    first = *when;
                }
            }
            assert!(wanted.next().is_none(), "opened without all its steps");
            assert!(second - first < 5, "opened too late");
            if spec.one_time {
                spec.sequence.clear();
            }
        }
    }
});
