//! Doors of toctocd.toml: each source and door has its own attempt, and no attempt that broke off
//! spoils the next one. See the tests in `sequence` for knockd's behaviour.

use super::*;

fn tolerant(sequence: &str) -> DoorSpec {
    DoorSpec { tolerate_duplicates: true, ..own(sequence) }
}

#[test]
fn a_late_repeat_of_any_step_that_was_right_neither_advances_nor_ends_an_attempt() {
    let abc = || vec![tolerant("1,2,3")];
    // 0.6 s between three silent ports: the kernel repeats each SYN after a second.
    let slow = "a:1 +590 a:2 +390 a:1 +190 a:3";
    check("0.6 s between the steps", abc(), slow, &["a0 open"]);
    check("the repeats of all steps", abc(), "a:1 a:2 a:1 a:2 a:1 a:3", &["a0 open"]);
    let six = "a:1 a:2 a:3 a:4 a:1 a:5 a:2 a:3 a:4 a:1 a:6";
    check("six steps", vec![tolerant("1,2,3,4,5,6")], six, &["a0 open"]);
    let udp = vec![tolerant("1/udp,2,3/udp")];
    check("every packet twice", udp, "a:1/udp a:1/udp a:2 a:2 a:1/udp a:3/udp", &["a0 open"]);
    check(
        "a port twice in the sequence",
        vec![tolerant("1,2,1,3")],
        "a:1 a:2 a:2 a:1 a:2 a:3",
        &["a0 open"],
    );
    check("a step too early ends it", abc(), "a:1 a:3 a:2 a:3", &[]);
    check("a strict door ends it", vec![own("1,2,3")], "a:1 a:2 a:1 a:3", &[]);
}

#[test]
fn an_attempt_at_one_own_door_changes_nothing_at_another() {
    let two = || vec![own("1,2,3"), own("7,8,9")];
    check("broken off at one", two(), "a:1 a:2 a:7 a:8 a:9", &["a1 open"]);
    check("interleaved", two(), "a:1 a:7 a:2 a:8 a:3 a:9", &["a0 open", "a1 open"]);
    let shared = || vec![own("1,2,3"), own("1,3,2")];
    check("the same ports", shared(), "a:1 a:2 a:1 a:3 a:2", &["a1 open"]);
    check(
        "one inside the other",
        vec![own("1,2"), own("1,2,3")],
        "a:1 a:2 a:3",
        &["a0 open", "a1 open"],
    );
    check("overlap", vec![own("1,2,3"), own("2,3,4")], "a:1 a:2 a:3 a:4", &["a0 open", "a1 open"]);
    check(
        "the other way round",
        vec![own("1,2,3"), own("3,2,1")],
        "a:1 a:2 a:3 a:2 a:1",
        &["a0 open", "a1 open"],
    );
}

#[test]
fn an_own_door_and_a_door_of_a_knockd_conf_do_not_know_of_each_other() {
    let mixed = || vec![own("1,2,3"), door("7,8,9")];
    check("begun at the own door", mixed(), "a:1 a:7 a:8 a:9 a:2 a:3", &["a1 open", "a0 open"]);
    check("begun at knockd's", mixed(), "a:7 a:1 a:2 a:3 a:8 a:9", &["a0 open", "a1 open"]);
    let same = vec![own("1,2,3"), door("1,2,3")];
    check("broken off at both", same, "a:1 a:2 a:1 a:2 a:3", &["a0 open"]);
}

#[test]
fn a_knock_that_broke_off_does_not_spoil_the_next_one() {
    for (kind, spec) in [("strict", own("1,2,3")), ("tolerant", tolerant("1,2,3"))] {
        let one = || vec![spec.clone()];
        check(kind, one(), "a:1 a:1 a:2 a:3", &["a0 open"]);
        check(kind, one(), "a:1 a:2 a:1 a:2 a:3", &["a0 open"]);
        check(kind, one(), "a:1 a:2 a:3 a:1 a:2 a:3", &["a0 open", "a0 open"]);
        check(kind, one(), "a:1 a:3 a:1 a:2 a:3", &["a0 open"]);
        // The second knock has its own time: 5 s from its own first step.
        let late = "a:1 a:2 +4000 a:1 a:2 +3000 a:3";
        let log = Bench::new(one()).run(late);
        assert_eq!(log.last().map(String::as_str), Some("a0 open"), "{kind}: {log:?}");
    }
    check("a port twice", vec![own("1,1,2")], "a:1 a:1 a:1 a:2", &["a0 open"]);
    check("a port twice", vec![tolerant("1,1,2")], "a:1 a:1 a:1 a:2", &["a0 open"]);
    check("a prefix twice", vec![own("1,2,1,2,3")], "a:1 a:2 a:1 a:2 a:1 a:2 a:3", &["a0 open"]);
}

#[test]
fn a_source_has_at_most_one_attempt_at_each_stage_of_an_own_door() {
    let mut machine = Bench::new(vec![tolerant("1,2,1,2,3")]).machine;
    let mut opened = 0;
    for number in 0..1000_u16 {
        let hit = KnockPacket {
            source: [10, 0, 0, 2].into(),
            destination: [10, 0, 0, 1].into(),
            step: Step::tcp(1 + number % 2),
            flags: Some(SYN),
        };
        machine.packet(Wall(0), &hit, &mut |event| {
            opened += u32::from(matches!(event, SequenceEvent::Completed(_)));
        });
        assert!(machine.under_way() <= 5, "{number}");
    }
    assert_eq!(opened, 0);
}

#[test]
fn an_own_door_reports_each_stage_of_a_knock_once_however_often_a_step_is_repeated() {
    let log = Bench::new(vec![tolerant("1,2,3")]).run("a:1 a:1 a:2 a:1 a:2 a:1 a:3");
    assert_eq!(log, ["a0.1", "a0.2", "a0.3", "a0 open"]);
}
