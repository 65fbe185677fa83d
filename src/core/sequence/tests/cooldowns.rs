//! The table of cooldowns: bounded, and cleared of those that are over.
//! See the tests in `sequence` for the effect of a cooldown on a knock.

use super::*;

/// A machine with as many cooldowns as fit, all until second 10.
fn full() -> Machine {
    let paused = vec![DoorSpec { pause_after: 10, ..door("1") }];
    let mut machine =
        Machine::new(paused, MachineRules { own: vec![source(0)], ..MachineRules::default() });
    for number in 1..=COOLDOWNS {
        machine.start_cooldown(0, source(number), 10);
    }
    assert_eq!(machine.cooldowns.len(), COOLDOWNS);
    machine
}

fn source(number: usize) -> IpAddr {
    IpAddr::V4(u32::try_from(number).unwrap().into())
}

fn opens(machine: &mut Machine, number: usize, second: u64) -> bool {
    let hit = KnockPacket {
        source: source(number),
        destination: source(0),
        step: Step::tcp(1),
        flags: Some(SYN),
    };
    let mut opened = false;
    machine.packet(Wall(second * SECOND), &hit, &mut |event| {
        opened |= matches!(event, SequenceEvent::Completed(_));
    });
    opened
}

#[test]
fn with_a_full_table_one_more_source_opens_without_a_cooldown_and_ends_nobody_elses() {
    let mut machine = full();
    assert!(opens(&mut machine, COOLDOWNS + 1, 9) && opens(&mut machine, COOLDOWNS + 1, 9));
    assert_eq!(machine.cooldowns.len(), COOLDOWNS);
    assert!(!opens(&mut machine, 1, 9) && !opens(&mut machine, COOLDOWNS, 9));
}

#[test]
fn cooldowns_that_are_over_make_room_and_the_others_go_on() {
    let mut machine = full();
    // In second 10 all cooldowns end, except a longer one of one source.
    machine.cooldowns.insert((0, source(1)), 100);
    assert!(opens(&mut machine, COOLDOWNS + 1, 10));
    assert!(!opens(&mut machine, COOLDOWNS + 1, 10), "it found room");
    assert!(!opens(&mut machine, 1, 10), "the longer one goes on");
    assert_eq!(machine.cooldowns.len(), 2);
}
