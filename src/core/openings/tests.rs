//! Openings from the knock to the stop command, across ends of the gateway, with a clock that is
//! passed in. That records survive a power cut is tested at `edge::state`.

use super::*;
use proptest::prelude::*;

fn now(seconds: u64) -> Now {
    Now { wall: Wall((1_000_000 + seconds) * SECOND), boot: Boot(seconds * SECOND) }
}

fn source() -> IpAddr {
    IpAddr::from([192, 0, 2, 7])
}

fn door(stop: Option<&str>, timeout: i64) -> Door {
    Door {
        name: "d".into(),
        start_command: Some("open %IP%,%IP% %ip%".into()),
        stop_command: stop.map(Into::into),
        cmd_timeout: timeout,
        ..Door::default()
    }
}

/// Begins an opening and answers what it would have journalled.
fn open(
    openings: &mut Openings, at: Now, door: &Door, actions: &mut Vec<OpeningAction>,
) -> Option<OpeningEntry> {
    let mut journalled = None;
    let opening = openings.prepare(at, door, source()).unwrap();
    let opening = opening.commit(|opened| {
        journalled = Some(opened.clone());
        Ok(())
    });
    openings.begin(at, opening.unwrap(), actions);
    journalled
}

/// The id of the opening number `n` of a test that begins at `now(0)`.
fn id(n: u64) -> u64 {
    now(0).wall.0 + n
}

fn texts(actions: &[OpeningAction]) -> Vec<String> {
    let short = |id: u64| id % id.min(now(0).wall.0).max(1_000_000);
    let text = |action: &OpeningAction| match action {
        OpeningAction::Run(job) => format!("run {}: {}", short(job.id), job.command),
        OpeningAction::Kill(id) => format!("kill {}", short(*id)),
        OpeningAction::Forget(id) => format!("forget {}", short(*id)),
        OpeningAction::Note(note) => note.text(|id, ip| format!("{ip} ({})", short(id))),
    };
    actions.iter().map(text).collect()
}

#[test]
fn the_stop_command_runs_its_timeout_after_the_end_of_the_start_command() {
    let (mut openings, mut actions) = (Openings::default(), Vec::new());
    let journalled =
        open(&mut openings, now(0), &door(Some("close %IP%"), 10), &mut actions).unwrap();
    assert_eq!((journalled.stop.to_string().as_str(), journalled.timeout), ("close 192.0.2.7", 10));
    openings.due(now(100), &mut actions);
    openings.ended(now(100), id(0), CommandEnd::Exited(3), &mut actions);
    assert_eq!(openings.deadline(), Some(Boot(110 * SECOND)));
    openings.due(now(109), &mut actions);
    openings.due(now(110), &mut actions);
    openings.due(now(111), &mut actions);
    openings.ended(now(112), id(0), CommandEnd::Killed, &mut actions);
    assert_eq!(
        texts(&actions),
        [
            "d: running command: open 192.0.2.7,192.0.2.7 %ip%",
            "run 0: open 192.0.2.7,192.0.2.7 %ip%",
            "d: command returned non-zero status code (3)",
            "192.0.2.7 (0): d: command timeout",
            "d: running command: close 192.0.2.7",
            "run 0: close 192.0.2.7",
            "d: command returned non-zero status code (0)",
            "forget 0",
        ]
    );
    assert!(openings.is_empty() && openings.deadline().is_none());
}

#[test]
fn a_stop_command_that_cannot_be_started_now_is_tried_again_and_not_forgotten() {
    let (mut openings, mut actions) = (Openings::default(), Vec::new());
    open(&mut openings, now(0), &door(Some("close"), 10), &mut actions).unwrap();
    openings.ended(now(0), id(0), CommandEnd::NotNow, &mut actions);
    openings.due(now(10), &mut actions);
    let stops = |actions: &[OpeningAction]| {
        texts(actions).iter().filter(|text| *text == "run 0: close").count()
    };
    assert_eq!(stops(&actions), 1, "after a start command that could not be started too");
    openings.ended(now(10), id(0), CommandEnd::NotNow, &mut actions);
    openings.due(now(14), &mut actions);
    assert_eq!((stops(&actions), openings.deadline()), (1, Some(Boot(15 * SECOND))));
    openings.due(now(15), &mut actions);
    openings.ended(now(15), id(0), CommandEnd::Exited(0), &mut actions);
    assert_eq!((stops(&actions), texts(&actions).last().unwrap().as_str()), (2, "forget 0"));
}

#[test]
fn nothing_runs_if_the_journal_could_not_be_written() {
    let mut openings = Openings::default();
    let opening = openings.prepare(now(0), &door(Some("close"), 10), source()).unwrap();
    assert!(opening.commit(|_| Err(Fault::new("disk full", ""))).is_err());
    assert!(openings.is_empty());
    let opening = openings.prepare(now(0), &door(None, 10), source()).unwrap();
    assert!(
        opening.commit(|_| Err(Fault::new("disk full", ""))).is_ok(),
        "without a stop command nothing is stored"
    );
}

#[test]
fn a_restart_runs_what_is_overdue_at_once_and_the_rest_in_time_whatever_the_clock_says() {
    let opened = |id, seconds| OpeningEntry {
        id,
        door: "d".into(),
        source: source(),
        stop: CommandLine::Shell(format!("close {id}")),
        opened: now(seconds).wall,
        timeout: 60,
    };
    // Opened an hour ago, half a minute ago, and, since the clock was set back, in an hour.
    let at = Now { wall: now(3600).wall, boot: Boot(5 * SECOND) };
    let mut openings = Openings::restore(at, [opened(3, 0), opened(7, 3570), opened(9, 7200)]);
    let mut actions = Vec::new();
    openings.due(at, &mut actions);
    assert_eq!(texts(&actions)[2], "run 3: close 3");
    assert_eq!(openings.deadline(), Some(Boot(35 * SECOND)));
    openings.due(Now { boot: Boot(35 * SECOND), ..at }, &mut actions);
    assert_eq!(texts(&actions)[5], "run 7: close 7");
    assert_eq!(openings.deadline(), Some(Boot(65 * SECOND)));
    let next = open(&mut openings, at, &door(Some("x"), 1), &mut actions).unwrap();
    assert_eq!(next.id, at.wall.0, "ids are never used again");
}

#[test]
fn neither_a_door_without_a_start_command_nor_a_long_command_runs() {
    let mut openings = Openings::default();
    let mut refused = |door: &Door| openings.prepare(now(0), door, source()).err();
    let mut plain = door(Some("close"), 1);
    plain.start_command = None;
    assert_eq!(refused(&plain), Some(NotOpened::NoCommand));
    plain.start_command = Some("%IP%".repeat(455));
    assert_eq!(refused(&plain), None, "455 times nine characters are 4095");
    plain.stop_command = Some("%IP%".repeat(456));
    assert_eq!(refused(&plain), Some(NotOpened::StopTooLong));
    plain.start_command = plain.stop_command.clone();
    assert_eq!(refused(&plain), Some(NotOpened::StartTooLong));
}

#[test]
fn the_log_says_why_a_door_did_not_open_unless_it_had_nothing_to_run() {
    assert_eq!(NotOpened::NoCommand.text(), None);
    for (why, words) in [
        (NotOpened::StartTooLong, "start command has been truncated! --> won't execute it"),
        (
            NotOpened::StopTooLong,
            "stop command has been truncated! --> won't execute start command",
        ),
        (NotOpened::Full, "too many openings"),
    ] {
        assert!(why.text().is_some_and(|text| text.contains(words)), "{why:?}");
    }
}

#[test]
fn an_opening_is_known_from_its_start_command_to_the_end_of_its_stop_command() {
    let (mut openings, mut actions) = (Openings::default(), Vec::new());
    let known = |openings: &Openings| [id(0), id(1)].map(|id| openings.knows(id));
    assert_eq!((known(&openings), openings.len(), openings.is_empty()), ([false; 2], 0, true));
    open(&mut openings, now(0), &door(Some("close"), 1), &mut actions);
    open(&mut openings, now(0), &door(None, 1), &mut actions);
    assert_eq!((known(&openings), openings.len(), openings.is_empty()), ([true; 2], 2, false));
    openings.ended(now(0), id(1), CommandEnd::Exited(0), &mut actions);
    openings.ended(now(0), id(0), CommandEnd::Exited(0), &mut actions);
    openings.due(now(1), &mut actions);
    assert_eq!((known(&openings), openings.len()), ([true, false], 1), "its stop command runs");
    openings.ended(now(2), id(0), CommandEnd::Exited(0), &mut actions);
    assert_eq!((known(&openings), openings.len(), openings.is_empty()), ([false; 2], 0, true));
}

#[test]
fn a_negative_time_and_a_zero_time_stop_at_once() {
    let (mut openings, mut actions) = (Openings::default(), Vec::new());
    for timeout in [-1, i64::from(i32::MIN)] {
        let stored = open(&mut openings, now(0), &door(Some("close"), timeout), &mut actions);
        let id = stored.unwrap().id;
        openings.ended(now(0), id, CommandEnd::Exited(0), &mut actions);
        openings.due(now(0), &mut actions);
        assert_eq!(texts(&actions).last().unwrap().split_once(": ").unwrap().1, "close");
        openings.ended(now(0), id, CommandEnd::Exited(0), &mut actions);
    }
    assert!(openings.is_empty());
    open(&mut openings, now(0), &door(Some(""), 0), &mut actions);
    openings.ended(now(1), id(2), CommandEnd::Exited(0), &mut actions);
    openings.due(now(1), &mut actions);
    assert_eq!(
        texts(&actions).last().unwrap(),
        "run 2: ",
        "an empty stop command waits and runs too"
    );
}

#[test]
fn hanging_start_commands_delay_neither_stop_commands_nor_memory() {
    let (mut openings, mut actions) = (Openings::default(), Vec::new());
    open(&mut openings, now(0), &door(Some("close"), 5), &mut actions);
    openings.ended(now(0), id(0), CommandEnd::Exited(0), &mut actions);
    for _ in 1..OPENINGS / 2 {
        open(&mut openings, now(0), &door(Some("close"), 5), &mut actions);
    }
    let running = |actions: &[OpeningAction]| {
        actions.iter().filter(|actions| matches!(actions, OpeningAction::Run(_))).count()
    };
    assert_eq!(running(&actions), 1 + STARTS / 2);
    assert_eq!(openings.prepare(now(0), &door(None, 0), source()).err(), Some(NotOpened::Full));
    openings.due(now(5), &mut actions);
    assert_eq!(running(&actions), 2 + STARTS / 2, "the stop command does not queue");
    openings.ended(now(6), id(1), CommandEnd::Exited(0), &mut actions);
    assert_eq!(running(&actions), 3 + STARTS / 2, "one has ended, one moves up");
}

fn count_runs(actions: &[OpeningAction]) -> usize {
    actions.iter().filter(|action| matches!(action, OpeningAction::Run(_))).count()
}

#[test]
fn thousands_of_stop_commands_that_are_due_at_once_run_a_few_at_a_time_and_all_of_them() {
    let overdue = (1..=4096).map(|id| OpeningEntry {
        id,
        door: "d".into(),
        source: source(),
        stop: CommandLine::Shell("close".into()),
        opened: now(0).wall,
        timeout: 1,
    });
    let at = now(100);
    let mut openings = Openings::restore(at, overdue);
    let mut stopped = Vec::new();
    let mut running = VecDeque::new();
    let mut actions = Vec::new();
    openings.due(at, &mut actions);
    while !openings.is_empty() {
        for action in actions.drain(..) {
            match action {
                OpeningAction::Run(job) => running.push_back(job.id),
                OpeningAction::Forget(id) => stopped.push(id),
                _ => {}
            }
        }
        assert!((1..=STOPS).contains(&running.len()), "{}", running.len());
        let id = running.pop_front().unwrap();
        openings.ended(at, id, CommandEnd::Exited(0), &mut actions);
    }
    assert_eq!(stopped.len() + actions.len(), 4096, "all, and each once");
}

#[test]
fn stop_commands_that_hang_hold_the_others_up_for_two_seconds_at_most() {
    let (mut openings, mut actions) = (Openings::default(), Vec::new());
    for _ in 0..=STOPS {
        open(&mut openings, now(0), &door(Some("close"), 5), &mut actions);
    }
    for n in 0..=u64::try_from(STOPS).unwrap() {
        openings.ended(now(0), id(n), CommandEnd::Exited(0), &mut actions);
    }
    actions.clear();
    openings.due(now(5), &mut actions);
    assert_eq!((count_runs(&actions), openings.deadline()), (STOPS, Some(now(7).boot)));
    openings.due(now(6), &mut actions);
    assert_eq!(count_runs(&actions), STOPS);
    openings.due(now(7), &mut actions);
    assert_eq!((count_runs(&actions), openings.deadline()), (STOPS + 1, None));
}

#[test]
fn at_a_shutdown_what_is_due_later_is_stopped_too_and_no_more_at_once() {
    let (mut openings, mut actions) = (Openings::default(), Vec::new());
    for _ in 0..2 * STOPS {
        open(&mut openings, now(0), &door(Some("close"), 3600), &mut actions);
    }
    for n in 0..2 * u64::try_from(STOPS).unwrap() {
        openings.ended(now(0), id(n), CommandEnd::Exited(0), &mut actions);
    }
    actions.clear();
    openings.all_due(now(1), &mut actions);
    assert_eq!(count_runs(&actions), STOPS);
    for n in 0..u64::try_from(STOPS).unwrap() {
        openings.ended(now(1), id(n), CommandEnd::Exited(0), &mut actions);
    }
    assert_eq!(count_runs(&actions), 2 * STOPS);
}

#[test]
fn a_flood_at_one_door_keeps_no_other_door_shut() {
    let (mut openings, mut actions) = (Openings::default(), Vec::new());
    let mut open_until_full = |name: &str| {
        let door = Door { name: name.into(), ..door(Some("close"), 3600) };
        let mut opened = 0;
        while let Ok(opening) = openings.prepare(now(0), &door, source()) {
            openings.begin(now(0), opening.commit(|_| Ok(())).unwrap(), &mut actions);
            opened += 1;
        }
        (opened, count_runs(&actions))
    };
    assert_eq!(open_until_full("flooded"), (OPENINGS / 2, STARTS / 2));
    let (opened, running) = open_until_full("other");
    assert!(opened > OPENINGS / 8 && running > STARTS / 2 + STARTS / 8, "{opened} {running}");
    assert!(open_until_full("third").0 > OPENINGS / 16);
}

#[test]
fn doors_whose_start_commands_wait_take_turns() {
    let (mut openings, mut actions) = (Openings::default(), Vec::new());
    let named = |name: &str| Door { name: name.into(), ..door(Some("close"), 60) };
    for _ in 0..STARTS {
        open(&mut openings, now(0), &named("a"), &mut actions);
    }
    for _ in 0..STARTS {
        open(&mut openings, now(0), &named("b"), &mut actions);
    }
    actions.clear();
    // As the commands of one door end, those of both go on.
    for n in 0..32 {
        openings.ended(now(1), id(n), CommandEnd::Exited(0), &mut actions);
    }
    let b = texts(&actions).iter().filter(|text| text.starts_with("b: running")).count();
    assert!((8..=24).contains(&b), "{b} of 32");
}

proptest! {
    /// Random ends of the gateway: every journalled stop command is run, and only once unless the
    /// end came in its middle.
    #[test]
    fn no_stop_command_is_ever_lost(events in prop::collection::vec((0_u8..6, 0_u64..4), 1..200)) {
        let (mut openings, mut at) = (Openings::default(), now(0));
        let mut journal: BTreeMap<u64, OpeningEntry> = BTreeMap::new();
        let (mut running, mut stops) = (Vec::<(u64, bool)>::new(), BTreeMap::<u64, u32>::new());
        let mut expected = 0;
        // After the events, enough quiet time for all that is left.
        let quiet = (0..400).map(|_| (1_u8, 3));
        for (event, pause) in events.into_iter().chain(quiet) {
            at = Now { wall: at.wall.plus(pause as u32), boot: at.boot.plus(pause as u32) };
            let mut actions = Vec::new();
            match event {
                0 => {
                    let opened = open(&mut openings, at, &door(Some("close"), 7), &mut actions).unwrap();
                    journal.insert(opened.id, opened);
                    expected += 1;
                }
                5 => {
                    running.retain(|(id, stopping)| !(*stopping && { stops.remove(id); true }));
                    running.clear();
                    openings = Openings::restore(at, journal.values().cloned());
                }
                _ => {
                    if let Some((id, _)) = running.pop() {
                        openings.ended(at, id, CommandEnd::Exited(0), &mut actions);
                    }
                }
            }
            openings.due(at, &mut actions);
            for actions in actions {
                match actions {
                    OpeningAction::Run(job) => {
                        let stopping = job.command.to_string() == "close";
                        if stopping {
                            *stops.entry(job.id).or_default() += 1;
                        }
                        running.insert(0, (job.id, stopping));
                    }
                    OpeningAction::Forget(id) => drop(journal.remove(&id)),
                    OpeningAction::Note(_) | OpeningAction::Kill(_) => {}
                }
            }
        }
        prop_assert!(journal.is_empty() && openings.is_empty());
        prop_assert_eq!(stops.len(), expected);
        prop_assert!(stops.values().all(|times| *times == 1));
    }
}
