//! The table of sources that pause after an opening: bounded, and emptied of those whose pause is
//! over. What a pause means for a knocker is left to the tests above.

use super::*;

/// A machine in which as many sources as fit pause until second 10.
fn full() -> Machine {
    let paused = vec![DoorSpec { pause_after: 10, ..door("1") }];
    let mut machine =
        Machine::new(paused, MachineRules { own: vec![source(0)], ..MachineRules::default() });
    for number in 1..=RESTING {
        machine.rest(0, source(number), 0, 10);
    }
    assert_eq!(machine.resting.len(), RESTING);
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
    let at = Wall(second * 1_000_000_000);
    machine.hit(at, &hit, &mut |effect| opened |= matches!(effect, SequenceEvent::Completed(_)));
    opened
}

#[test]
fn with_all_places_taken_one_more_opens_without_a_pause_and_takes_nobodys_place() {
    let mut machine = full();
    assert!(opens(&mut machine, RESTING + 1, 9) && opens(&mut machine, RESTING + 1, 9));
    assert_eq!(machine.resting.len(), RESTING);
    assert!(!opens(&mut machine, 1, 9) && !opens(&mut machine, RESTING, 9));
}

#[test]
fn places_of_those_whose_pause_is_over_are_taken_and_the_others_pause_on() {
    let mut machine = full();
    // The very second in which the first pauses end; of one source the pause is longer.
    machine.resting.insert((0, source(1)), 100);
    assert!(opens(&mut machine, RESTING + 1, 10));
    assert!(!opens(&mut machine, RESTING + 1, 10), "it found a place");
    assert!(!opens(&mut machine, 1, 10), "whose pause is not over kept his");
    assert_eq!(machine.resting.len(), 2);
}
