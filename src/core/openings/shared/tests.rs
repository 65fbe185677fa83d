//! Openings that grants share: one start, one stop, whatever comes in between, with a clock that is
//! passed in.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::core::door::Door;
use crate::core::openings::{OPENINGS, STARTS, commit_all};
use crate::core::types::{Boot, Fault, SECOND, Wall};
use proptest::prelude::*;

fn now(seconds: u32) -> Now {
    Now { wall: Wall(1_000_000 * SECOND).plus(seconds), boot: Boot(0).plus(seconds) }
}

/// The start commands of one service that run at once.
const SHARE: usize = STARTS / 2;

fn commands() -> ServiceCommands {
    let argv = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    ServiceCommands { start: argv(&["/open", "%IP%; $(x)"]), stop: argv(&["/shut", "%IP%"]) }
}

/// The `n`th address behind which somebody has a grant.
fn place(n: u8) -> ServiceAddress {
    ServiceAddress {
        service: ServiceName::new("vpn").unwrap(),
        source: Source::new([192, 0, 2, n].into()),
    }
}

/// Openings, what they asked for, and what the journal has.
#[derive(Default)]
struct Bench {
    openings: Openings,
    journal: BTreeMap<u64, OpeningEntry>,
    actions: Vec<OpeningAction>,
    at: Now,
    /// All that were ever acquired.
    acquired: BTreeSet<u8>,
}

impl Bench {
    /// Acquires the opening for a grant. True if it is the first for its service address.
    fn hold(&mut self, at: Now, n: u8) -> bool {
        self.at = at;
        self.acquired.insert(n);
        let Some(opening) = self.openings.acquire(at, place(n), &commands()).unwrap() else {
            return false;
        };
        let journalled = commit_all(vec![opening], |opened| {
            self.journal.extend(opened.into_iter().map(|opened| (opened.id, opened)));
            Ok(())
        });
        for one in journalled.unwrap() {
            self.openings.begin(at, one, &mut self.actions);
        }
        true
    }

    fn ended(&mut self, at: Now, id: u64, how: CommandEnd) {
        self.at = at;
        self.openings.ended(at, id, how, &mut self.actions);
    }

    fn release(&mut self, held: &[u8]) {
        let left = self.acquired.iter().filter(|n| !held.contains(n));
        for n in left {
            self.openings.release(self.at, &place(*n), &mut self.actions);
        }
    }

    fn due(&mut self, at: Now) {
        self.at = at;
        self.openings.due(at, &mut self.actions);
    }

    /// The actions since the last call, without log lines; the journal forgets what it should.
    fn asked(&mut self) -> Vec<String> {
        let mut asked = Vec::new();
        for action in std::mem::take(&mut self.actions) {
            match action {
                OpeningAction::Run(job) => {
                    asked.push(format!("{} {}", job.id - now(0).wall.0, job.command))
                }
                OpeningAction::Kill(id) => asked.push(format!("{} kill", id - now(0).wall.0)),
                OpeningAction::Forget(id) => {
                    self.journal.remove(&id);
                    asked.push(format!("{} forget", id - now(0).wall.0));
                }
                OpeningAction::Note(_) => {}
            }
        }
        asked
    }
}

/// The id of opening `n` of a bench whose time stands still.
fn id(n: u64) -> u64 {
    now(0).wall.0 + n
}

const WELL: CommandEnd = CommandEnd::Exited(0);

#[test]
fn the_first_grant_of_an_address_starts_and_the_last_one_that_ends_stops() {
    let mut bench = Bench::default();
    assert!(bench.hold(now(0), 7));
    assert_eq!(bench.openings.state_of(&place(7)), OpeningState::Starting);
    assert_eq!(bench.asked(), [r#"0 /open "192.0.2.7; $(x)""#]);
    assert!(!bench.hold(now(0), 7), "another grant of the same address");
    bench.ended(now(1), id(0), WELL);
    assert_eq!(bench.openings.state_of(&place(7)), OpeningState::Open);
    assert!(!bench.hold(now(1), 7));
    bench.due(now(1_000_000));
    bench.release(&[7]);
    assert_eq!(bench.asked(), [""; 0], "it is open for as long as somebody holds it");
    bench.release(&[8]);
    bench.release(&[]);
    assert_eq!(bench.asked(), ["0 /shut 192.0.2.7"]);
    assert_eq!((bench.openings.state_of(&place(7)), bench.journal.len()), (OpeningState::Gone, 1));
    bench.ended(now(2), id(0), CommandEnd::Exited(1));
    assert_eq!(bench.asked(), ["0 forget"]);
    assert!(
        bench.openings.is_empty()
            && bench.journal.is_empty()
            && bench.openings.deadline().is_none()
    );
}

#[test]
fn nothing_begins_if_the_journal_could_not_be_written() {
    let mut openings = Openings::default();
    let opening = openings.acquire(now(0), place(7), &commands()).unwrap().unwrap();
    assert!(commit_all(vec![opening], |_| Err(Fault::new("disk full", ""))).is_err());
    assert!(openings.is_empty());
    assert!(
        openings.acquire(now(0), place(7), &commands()).unwrap().is_some(),
        "the next one tries anew"
    );
}

#[test]
fn after_a_failed_start_command_the_stop_command_runs_and_nothing_is_open() {
    for how in [CommandEnd::Exited(1), CommandEnd::Killed] {
        let mut bench = Bench::default();
        bench.hold(now(0), 7);
        bench.asked();
        bench.ended(now(1), id(0), how);
        assert_eq!(bench.openings.state_of(&place(7)), OpeningState::Gone);
        assert_eq!(bench.asked(), ["0 /shut 192.0.2.7"]);
        bench.due(now(100));
        bench.release(&[]);
        assert_eq!(bench.asked(), [""; 0]);
        bench.ended(now(100), id(0), WELL);
        assert_eq!(bench.asked(), ["0 forget"]);
    }
}

#[test]
fn a_start_command_that_takes_too_long_is_killed_and_then_its_stop_command_runs() {
    let mut bench = Bench::default();
    bench.hold(now(0), 7);
    assert_eq!(bench.openings.deadline(), Some(now(START).boot));
    bench.due(now(START - 1));
    bench.asked();
    bench.due(now(START));
    assert_eq!(
        (bench.asked(), bench.openings.state_of(&place(7))),
        (vec!["0 kill".to_owned()], OpeningState::Gone)
    );
    // Whoever comes now waits until all of that is over.
    assert!(bench.hold(now(START), 7));
    bench.due(now(100));
    assert_eq!(bench.asked(), [""; 0]);
    bench.ended(now(100), id(0), CommandEnd::Killed);
    assert_eq!(bench.asked(), ["0 /shut 192.0.2.7"]);
    bench.ended(now(101), id(0), WELL);
    let second = now(START).wall.0 - now(0).wall.0;
    assert_eq!(
        bench.asked(),
        ["0 forget".to_owned(), format!(r#"{second} /open "192.0.2.7; $(x)""#)]
    );
}

#[test]
fn a_start_command_that_has_ended_leaves_the_others_their_deadlines() {
    let mut bench = Bench::default();
    assert!(bench.hold(now(0), 7) && bench.hold(now(0), 8));
    bench.ended(now(1), id(0), WELL);
    bench.asked();
    bench.due(now(START));
    assert_eq!(bench.asked(), ["1 kill"]);
    assert_eq!(
        [7, 8].map(|n| bench.openings.state_of(&place(n))),
        [OpeningState::Open, OpeningState::Gone]
    );
}

#[test]
fn an_opening_released_while_it_starts_stops_when_its_start_command_has_ended() {
    let mut bench = Bench::default();
    bench.hold(now(0), 7);
    bench.release(&[]);
    assert_eq!(bench.asked(), [r#"0 /open "192.0.2.7; $(x)""#]);
    bench.ended(now(1), id(0), WELL);
    assert_eq!(bench.asked(), ["0 /shut 192.0.2.7"]);
    // And if it never ends it is killed, as any other.
    let mut bench = Bench::default();
    bench.hold(now(0), 7);
    bench.release(&[]);
    bench.asked();
    bench.due(now(START));
    assert_eq!(bench.asked(), ["0 kill"]);
}

#[test]
fn an_opening_released_before_it_began_never_runs() {
    let mut bench = Bench::default();
    for n in 0..=u8::try_from(SHARE).unwrap() {
        bench.hold(now(0), n);
    }
    assert_eq!(bench.asked().len(), SHARE, "one waits");
    let others: Vec<u8> = (0..u8::try_from(SHARE).unwrap()).collect();
    bench.release(&others);
    assert_eq!(bench.asked(), ["128 forget"]);
    bench.ended(now(1), id(0), WELL);
    assert_eq!(bench.asked(), [""; 0]);
    assert_eq!(bench.journal.len(), SHARE);
    bench.hold(now(1), 200);
    assert_eq!(bench.asked().len(), 1, "the place is free");
}

#[test]
fn a_new_grant_waits_for_the_end_of_a_running_stop_command() {
    let mut bench = Bench::default();
    bench.hold(now(0), 7);
    bench.ended(now(0), id(0), WELL);
    bench.release(&[]);
    bench.asked();
    assert!(bench.hold(now(0), 7));
    assert_eq!(bench.openings.state_of(&place(7)), OpeningState::Starting);
    assert!(!bench.hold(now(0), 7));
    assert_eq!(bench.asked(), [""; 0]);
    bench.hold(now(0), 8);
    assert_eq!(
        bench.asked(),
        [r#"2 /open "192.0.2.8; $(x)""#],
        "an address behind which nothing stops waits for nobody"
    );
    bench.ended(now(1), id(0), WELL);
    assert_eq!(bench.asked(), ["0 forget", r#"1 /open "192.0.2.7; $(x)""#]);
}

#[test]
fn after_a_restart_everything_is_stopped_at_once_and_a_new_grant_starts_only_then() {
    let mut bench = Bench::default();
    bench.hold(now(0), 7);
    bench.ended(now(0), id(0), WELL);
    bench.asked();
    // The clock was set back meanwhile, and the machine has been up for a moment only.
    let at = Now { wall: Wall(5 * SECOND), boot: Boot(SECOND) };
    bench.openings = Openings::restore(at, bench.journal.values().cloned());
    assert_eq!(
        (bench.openings.deadline(), bench.openings.state_of(&place(7))),
        (Some(at.boot), OpeningState::Gone)
    );
    assert!(bench.hold(at, 7));
    bench.due(at);
    assert_eq!(bench.asked(), ["0 /shut 192.0.2.7"]);
    bench.ended(at, id(0), WELL);
    assert_eq!(bench.asked(), ["0 forget", r#"1 /open "192.0.2.7; $(x)""#]);
}

#[test]
fn doors_and_services_take_no_room_from_each_other() {
    let mut openings = Openings::default();
    let door = Door { name: "vpn".into(), start_command: Some("x".into()), ..Door::default() };
    for _ in 0..OPENINGS / 2 {
        let opening = openings
            .prepare(now(0), &door, [192, 0, 2, 7].into())
            .unwrap()
            .commit(|_| Ok(()))
            .unwrap();
        openings.begin(now(0), opening, &mut Vec::new());
    }
    assert_eq!(openings.prepare(now(0), &door, [192, 0, 2, 7].into()).err(), Some(NotOpened::Full));
    let mut actions = Vec::new();
    let place = |n: u32| ServiceAddress { source: Source::new(n.to_be_bytes().into()), ..place(0) };
    for n in 0..u32::try_from(OPENINGS / 2).unwrap() {
        let opening = openings.acquire(now(0), place(n), &commands()).unwrap().unwrap();
        let journalled = commit_all(vec![opening], |_| Ok(())).unwrap().remove(0);
        openings.begin(now(0), journalled, &mut actions);
    }
    let running = actions.iter().filter(|actions| matches!(actions, OpeningAction::Run(_))).count();
    assert_eq!(running, SHARE, "although as many of doors hang");
    assert_eq!(openings.acquire(now(0), place(u32::MAX), &commands()).err(), Some(NotOpened::Full));
}

proptest! {
    /// Grants that come and go, commands that end well, badly or never, and random ends of the
    /// gateway: each start command that ran is followed by its stop command, once unless the end
    /// came in its middle, and never do two commands of one place overlap.
    #[test]
    fn no_stop_command_is_lost_or_doubled_and_none_runs_beside_another(
        events in prop::collection::vec((0_u8..12, 0_u8..3, 0_u32..4), 1..200),
    ) {
        let (mut bench, mut at) = (Bench::default(), now(0));
        let mut held = BTreeSet::new();
        // The openings whose commands run, with true for a stop command.
        let mut running: Vec<(u64, bool)> = Vec::new();
        let (mut started, mut stopped) = (BTreeSet::new(), BTreeMap::<u64, u32>::new());
        let mut places: BTreeMap<u64, ServiceAddress> = BTreeMap::new();
        let quiet = (0..600).flat_map(|_| [(9_u8, 0, 1), (1, 0, 0), (1, 1, 0), (1, 2, 0)]);
        for (event, n, pause) in events.into_iter().chain(quiet) {
            at = Now { wall: at.wall.plus(pause), boot: at.boot.plus(pause) };
            match event {
                0 | 2 => {
                    held.insert(n);
                    bench.hold(at, n);
                }
                1 => {
                    held.remove(&n);
                }
                3 => {
                    for (id, stopping) in running.drain(..) {
                        if stopping {
                            stopped.remove(&id);
                        }
                    }
                    held.clear();
                    bench.openings = Openings::restore(at, bench.journal.values().cloned());
                }
                // It hangs: only its stop command ends by itself.
                4..=7 => {}
                _ => {
                    if !running.is_empty() {
                        let (id, _) = running.remove(usize::from(n) % running.len());
                        bench.ended(at, id, if event == 8 { CommandEnd::Exited(1) } else { WELL });
                    }
                }
            }
            for (id, opened) in &bench.journal {
                places.insert(*id, opened.place().unwrap());
            }
            held.retain(|n| bench.openings.state_of(&place(*n)) != OpeningState::Gone);
            let keep: Vec<u8> = held.iter().copied().collect();
            bench.due(at);
            bench.release(&keep);
            let mut todo = std::mem::take(&mut bench.actions);
            while !todo.is_empty() {
                for action in todo {
                    match action {
                        OpeningAction::Run(job) => {
                            prop_assert!(bench.journal.contains_key(&job.id), "it runs what is in no journal");
                            let mine = places[&job.id];
                            prop_assert!(running.iter().all(|(id, stopping)| places[id] != mine || *stopping && job.command.to_string().starts_with("/shut")), "two at a time");
                            let stopping = job.command.to_string().starts_with("/shut");
                            if stopping {
                                *stopped.entry(job.id).or_default() += 1;
                            } else {
                                prop_assert!(started.insert(job.id), "started twice");
                            }
                            running.push((job.id, stopping));
                        }
                        OpeningAction::Kill(id) => {
                            running.retain(|(other, _)| *other != id);
                            bench.ended(at, id, CommandEnd::Killed);
                        }
                        OpeningAction::Forget(id) => drop(bench.journal.remove(&id)),
                        OpeningAction::Note(_) => {}
                    }
                }
                todo = std::mem::take(&mut bench.actions);
            }
        }
        prop_assert!(bench.journal.is_empty() && bench.openings.is_empty());
        prop_assert!(started.iter().all(|id| stopped.contains_key(id)));
        prop_assert!(stopped.values().all(|times| *times == 1), "{:?}", stopped);
    }
}
