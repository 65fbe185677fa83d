//! First steps that the kernel holds: the machine takes them from its memory.

use super::*;
use crate::core::door::first_steps::{FirstStep, HeldSteps, held_steps};
use crate::core::sequence::first_steps::FirstSteps;

/// The kernel's filter before a machine.
pub(super) struct Kernel {
    memory: FirstSteps,
}

impl Kernel {
    /// For these doors, of which `machine` has the others' parts too.
    pub(super) fn before(machine: &mut Machine) -> Self {
        let as_door = |spec: &DoorSpec| Door {
            sequence: spec.sequence.clone(),
            flags: spec.flags,
            seq_timeout: spec.seq_timeout,
            one_time_sequences: spec.one_time.then(|| "/f".into()),
            ..Door::default()
        };
        let doors: Vec<Door> = machine.doors.iter().map(as_door).collect();
        let memory = FirstSteps::for_tests(0x0123_4567_89ab_cdef, held_steps(&doors, None));
        machine.hold_in(memory.clone());
        Self { memory }
    }

    pub(super) fn set(&self, holds: bool, milliseconds: u64) {
        if holds {
            self.memory.hold(Boot(milliseconds * 1_000_000));
        } else {
            self.memory.pass();
        }
    }

    /// True if it holds this packet.
    pub(super) fn holds(&self, hit: &KnockPacket, milliseconds: u64) -> bool {
        self.memory.filter(hit, Boot(milliseconds * 1_000_000))
    }
}

/// Runs `script` while first steps are held; `+` also lets the machine tick.
fn run_held(doors: Vec<DoorSpec>, script: &str) -> Vec<String> {
    let mut bench = Bench::new(doors);
    let kernel = Kernel::before(&mut bench.machine);
    kernel.set(true, bench.milliseconds);
    bench.kernel = Some(kernel);
    bench.run(script)
}

fn check_held(title: &str, doors: Vec<DoorSpec>, script: &str, expected: &[&str]) {
    let log = run_held(doors, script);
    let notable: Vec<_> =
        log.iter().filter(|line| line.contains(' ')).map(String::as_str).collect();
    assert_eq!(notable, expected, "{title}\nall: {log:?}");
}

/// A name, and a door of that kind.
type Kind = (&'static str, fn(&str) -> DoorSpec);

fn kinds() -> [Kind; 3] {
    [
        ("knockd", door),
        ("own", own),
        ("tolerant", |text| DoorSpec { tolerate_duplicates: true, ..own(text) }),
    ]
}

#[test]
fn a_knock_whose_first_step_was_held_opens_with_the_same_lines() {
    for (kind, door) in kinds() {
        let doors = || vec![door("1,2,3")];
        let log = run_held(doors(), "a:1 a:2 a:3");
        assert_eq!(log, ["a0.1", "a0.2", "a0.3", "a0 open"], "{kind}");
        assert_eq!(Bench::new(doors()).run("a:1 a:2 a:3"), log, "{kind}");
        if kind == "own" {
            let twice = "a:1 a:2 a:1 a:2 a:3";
            assert_eq!(Bench::new(doors()).run(twice), run_held(doors(), twice));
        }
        check_held(kind, doors(), "A:1 b:1 a:1 A:2 a:2 A:3 a:3", &["A0 open", "a0 open"]);
        let udp = vec![door("1/udp,60/icmp,3")];
        check_held(kind, udp, "a:1/udp a:60/icmp a:3", &["a0 open"]);
        check_held(kind, doors(), "@10.0.0.9 a:1 a:2 a:3", &["a0 open"]);
        let aimed = DoorSpec { target: Target::from(Some("192.0.2.5")), ..door("1,2,3") };
        check_held(kind, vec![aimed], "@192.0.2.5 a:1 a:2 a:3", &["a0 open"]);
    }
}

#[test]
fn a_step_that_was_not_made_is_not_in_the_memory() {
    for (kind, door) in kinds() {
        let doors = || vec![door("1,2,3")];
        check_held("none", doors(), "a:2 a:3", &[]);
        check_held("of another source", doors(), "b:1 a:2 a:3", &[]);
        check_held("of another family", doors(), "A:1 a:2 a:3", &[]);
        check_held("to another address", doors(), "@10.0.0.9 a:1 @10.0.0.1 a:2 a:3", &[]);
        check_held("not to us", doors(), "@10.0.0.77 a:1 a:2 a:3", &[]);
        check_held("without its flags", doors(), "a:1=16 a:2 a:3", &[]);
        check_held("behind the second", doors(), "a:2 a:1 a:3", &[]);
        check_held("before a wrong step", doors(), "a:1 a:3 a:2 a:3", &[]);
        assert!(run_held(doors(), "a:1 a:3").is_empty(), "only the second step tells of the first");
        check_held("used for one knock only", doors(), "a:1 a:2 a:3 a:2 a:3", &["a0 open"]);
        check_held(
            kind,
            doors(),
            "a:1 a:2 a:2 a:3",
            if kind == "tolerant" { &["a0 open"] } else { &[] },
        );
    }
}

#[test]
fn a_held_step_is_as_old_as_it_is_and_the_knock_has_no_more_time() {
    for (kind, door) in kinds() {
        let doors = || vec![door("1,2,3")];
        check_held(kind, doors(), "a:1 +4500 a:2 a:3", &["a0 open"]);
        check_held(kind, doors(), "a:1 +5000 a:2 a:3", &[]);
        let log = run_held(doors(), "a:1 +3000 a:2 +1500 b:2 +500 a:3");
        assert_eq!(log, ["a0.1", "a0.2", "a0 late.2"], "{kind}");
        let paused = vec![DoorSpec { pause_after: 3, ..door("1,2,3") }];
        check_held(
            "a pause",
            paused,
            "a:1 a:2 a:3 a:1 a:2 a:3 +3500 a:1 a:2 a:3",
            &["a0 open", "a0 open"],
        );
    }
}

#[test]
fn a_flood_of_first_steps_keeps_nobody_out_and_spoils_no_knock_under_way() {
    for (kind, door) in kinds() {
        // A forger has made a's and b's first steps, and makes them again and again.
        let forged = "a:1 b:1 a:2 a:1 b:1 a:3 a:1 b:2 b:1 b:3";
        check_held(kind, vec![door("1,2,3")], forged, &["a0 open", "b0 open"]);
        // A flood at one door, and a knock at another one.
        let two = || vec![door("1,2,3"), door("4,2,5")];
        check_held(kind, two(), "a:1 a:4 a:1 a:2 a:1 a:5", &["a1 open"]);
        let other = || vec![door("1,2,3"), door("2,6,7")];
        check_held(kind, other(), "a:1 a:2 a:1 a:6 a:1 a:7", &["a1 open"]);
    }
}

#[test]
fn a_door_that_is_the_reverse_of_another_opens_too() {
    for (kind, door) in kinds() {
        let both = || vec![door("1,2,3"), door("3,2,1")];
        check_held(kind, both(), "a:1 a:2 a:3", &["a0 open"]);
        check_held(kind, both(), "a:3 a:2 a:1", &["a1 open"]);
        check_held("in turn", both(), "a:1 a:2 a:3 a:3 a:2 a:1", &["a0 open", "a1 open"]);
        // A flood of both has come from everybody, and goes on.
        let forged = "a:1 a:3 b:1 b:3 a:2 b:1 b:2 a:3 b:1";
        check_held(kind, both(), forged, &["a0 open", "b1 open"]);
        check_held("not without its second", both(), "a:1 a:3 a:1 a:3", &[]);
        check_held("not without its last", both(), "b:1 b:3 a:1 a:3 a:2 b:3", &[]);
        check_held("of another source", both(), "a:1 b:2 a:3", &[]);
        let chain = || vec![door("1,2,3"), door("2,4,5"), door("6,1,2,7")];
        check_held(kind, chain(), "a:1 a:2 a:3", &["a0 open"]);
        check_held(kind, chain(), "a:2 a:4 a:5", &["a1 open"]);
        check_held(kind, chain(), "a:6 a:1 a:2 a:7", &["a2 open"]);
    }
}

proptest! {
    /// Whatever is held, and whatever others send meanwhile.
    #[test]
    fn a_knock_opens_by_its_sequence_alone(
        sequences in prop::collection::vec(prop::collection::vec(1_u16..7, 1..5), 1..5),
        which in any::<prop::sample::Index>(),
        strangers in prop::collection::vec((2_u32..50, 1_u16..7), 0..60),
        own in any::<bool>(),
    ) {
        let door = |ports: &Vec<u16>| {
            DoorSpec { sequence: ports.iter().copied().map(Step::tcp).collect(), own, ..door("1") }
        };
        let doors: Vec<DoorSpec> = sequences.iter().map(door).collect();
        let opened = |holds: bool| {
            let mut machine = Bench::new(doors.clone()).machine;
            let kernel = Kernel::before(&mut machine);
            kernel.set(holds, 1);
            machine.tick(Boot(1_000_000));
            let mut strangers = strangers.iter();
            let mut opened = Vec::new();
            let mut hit = |source: u32, step| {
                let source = IpAddr::V4(source.into());
                let destination = [10, 0, 0, 1].into();
                let hit = KnockPacket { source, destination, step, flags: Some(SYN) };
                if !kernel.holds(&hit, 1) {
                    machine.packet(Wall(1), &hit, &mut |event| {
                        if let SequenceEvent::Completed(Completed { door, source: who }) = event
                            && who == IpAddr::V4(1.into())
                        {
                            opened.push(door);
                        }
                    });
                }
            };
            machine_turn(&which.get(&doors).sequence, &mut strangers, &mut hit);
            opened
        };
        for door in opened(false) {
            prop_assert!(opened(true).contains(&door), "{sequences:?} {door}");
        }
    }
}

/// Each step of the knock from source 1, and a few hits of strangers before each.
fn machine_turn<'a>(
    sequence: &[Step], strangers: &mut impl Iterator<Item = &'a (u32, u16)>,
    hit: &mut impl FnMut(u32, Step),
) {
    for step in sequence {
        for (source, port) in strangers.take(12) {
            hit(*source, Step::tcp(*port));
        }
        hit(1, *step);
    }
}

#[test]
fn a_door_of_fewer_than_three_steps_never_opens_by_a_held_one() {
    for (kind, door) in kinds() {
        let mut bench = Bench::new(vec![door("1,2"), door("3"), door("4,5,6")]);
        // As if the kernel held what it must not.
        let first = [1, 3, 4].map(|port| FirstStep {
            step: Step::tcp(port),
            flags: TcpFlags::default(),
            after: 0,
        });
        let held = HeldSteps { first: first.into(), ..HeldSteps::default() };
        let memory = FirstSteps::for_tests(1, held);
        bench.machine.hold_in(memory.clone());
        bench.machine.doors[2].one_time = true;
        memory.hold(Boot(1));
        bench.kernel = Some(Kernel { memory });
        let log = bench.run("a:1 a:2 a:3 a:4 a:5 a:6");
        assert_eq!(log, Vec::<String>::new(), "{kind}");
    }
}

#[test]
fn what_was_held_still_counts_when_first_steps_pass_again() {
    let mut bench = Bench::new(vec![own("1,2,3")]);
    let kernel = Kernel::before(&mut bench.machine);
    let memory = kernel.memory.clone();
    kernel.set(true, 50);
    bench.kernel = Some(kernel);
    let hit = |port| KnockPacket {
        source: [10, 0, 0, 2].into(),
        destination: [10, 0, 0, 1].into(),
        step: Step::tcp(port),
        flags: Some(SYN),
    };
    bench.hit(&hit(1));
    memory.pass();
    for port in [2, 3, 1, 2, 3] {
        bench.hit(&hit(port));
    }
    let opened = bench.log.iter().filter(|line| *line == "a0 open").count();
    assert_eq!(opened, 2, "{:?}", bench.log);
}

#[test]
fn a_flood_begins_and_ends_holding_and_leaves_the_table_of_attempts_alone() {
    let mut bench = Bench::new(vec![own("1,2,3")]);
    let kernel = Kernel::before(&mut bench.machine);
    let memory = kernel.memory.clone();
    bench.kernel = Some(kernel);
    let step = |source: u32, port| KnockPacket {
        source: IpAddr::V4(source.into()),
        destination: [10, 0, 0, 1].into(),
        step: Step::tcp(port),
        flags: Some(SYN),
    };
    let mut opened = 0;
    for source in 0..200_000 {
        let at = Boot(SECOND + u64::from(source) * 10_000);
        bench.machine.tick(at);
        let knock = if source % 5000 == 0 { &[1, 2, 3][..] } else { &[1] };
        for port in knock {
            let hit = step(0x1400_0000 + source, *port);
            if !bench.kernel.as_ref().unwrap().holds(&hit, at.0 / 1_000_000) {
                bench.machine.packet(Wall(at.0), &hit, &mut |event| {
                    opened += u32::from(matches!(event, SequenceEvent::Completed(_)));
                });
            }
        }
    }
    assert_eq!((opened, bench.machine.under_way()), (40, FLOOD as usize - 1));
    assert_eq!(memory.held(), 200_000 - FLOOD, "{}", memory.held());
}
