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
    leases: &mut Openings,
    at: Now,
    door: &Door,
    work: &mut Vec<OpeningAction>,
) -> Option<OpeningEntry> {
    let mut journalled = None;
    let opening = leases.prepare(at, door, source()).unwrap();
    let opening = opening.commit(|opened| {
        journalled = Some(opened.clone());
        Ok(())
    });
    leases.begin(at, opening.unwrap(), work);
    journalled
}

/// The id of the opening number `n` of a test that begins at `now(0)`.
fn id(n: u64) -> u64 {
    now(0).wall.0 + n
}

fn texts(work: &[OpeningAction]) -> Vec<String> {
    let short = |id: u64| id % id.min(now(0).wall.0).max(1_000_000);
    let text = |work: &OpeningAction| match work {
        OpeningAction::Run(job) => format!("run {}: {}", short(job.id), job.command),
        OpeningAction::Kill(id) => format!("kill {}", short(*id)),
        OpeningAction::Forget(id) => format!("forget {}", short(*id)),
        OpeningAction::Note(note) => note.text(|id, ip| format!("{ip} ({})", short(id))),
    };
    work.iter().map(text).collect()
}

#[test]
fn the_stop_command_runs_its_time_after_the_start_command_has_ended() {
    let (mut leases, mut work) = (Openings::default(), Vec::new());
    let journalled = open(&mut leases, now(0), &door(Some("close %IP%"), 10), &mut work).unwrap();
    assert_eq!((journalled.stop.to_string().as_str(), journalled.timeout), ("close 192.0.2.7", 10));
    leases.due(now(100), &mut work);
    leases.ended(now(100), id(0), CommandEnd::Exited(3), &mut work);
    assert_eq!(leases.deadline(), Some(Boot(110 * SECOND)));
    leases.due(now(109), &mut work);
    leases.due(now(110), &mut work);
    leases.due(now(111), &mut work);
    leases.ended(now(112), id(0), CommandEnd::Killed, &mut work);
    assert_eq!(
        texts(&work),
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
    assert!(leases.is_empty() && leases.deadline().is_none());
}

#[test]
fn a_stop_command_that_cannot_be_started_just_now_is_tried_again_and_not_forgotten() {
    let (mut leases, mut work) = (Openings::default(), Vec::new());
    open(&mut leases, now(0), &door(Some("close"), 10), &mut work).unwrap();
    leases.ended(now(0), id(0), CommandEnd::NotNow, &mut work);
    leases.due(now(10), &mut work);
    let stops =
        |work: &[OpeningAction]| texts(work).iter().filter(|text| *text == "run 0: close").count();
    assert_eq!(stops(&work), 1, "after a start command that could not be started too");
    leases.ended(now(10), id(0), CommandEnd::NotNow, &mut work);
    leases.due(now(14), &mut work);
    assert_eq!((stops(&work), leases.deadline()), (1, Some(Boot(15 * SECOND))));
    leases.due(now(15), &mut work);
    leases.ended(now(15), id(0), CommandEnd::Exited(0), &mut work);
    assert_eq!((stops(&work), texts(&work).last().unwrap().as_str()), (2, "forget 0"));
}

#[test]
fn nothing_runs_if_the_journal_could_not_be_written() {
    let mut leases = Openings::default();
    let opening = leases.prepare(now(0), &door(Some("close"), 10), source()).unwrap();
    assert!(opening.commit(|_| Err(Fault::new("disk full", ""))).is_err());
    assert!(leases.is_empty());
    let opening = leases.prepare(now(0), &door(None, 10), source()).unwrap();
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
    let mut leases = Openings::restore(at, [opened(3, 0), opened(7, 3570), opened(9, 7200)]);
    let mut work = Vec::new();
    leases.due(at, &mut work);
    assert_eq!(texts(&work)[2], "run 3: close 3");
    assert_eq!(leases.deadline(), Some(Boot(35 * SECOND)));
    leases.due(Now { boot: Boot(35 * SECOND), ..at }, &mut work);
    assert_eq!(texts(&work)[5], "run 7: close 7");
    assert_eq!(leases.deadline(), Some(Boot(65 * SECOND)));
    let next = open(&mut leases, at, &door(Some("x"), 1), &mut work).unwrap();
    assert_eq!(next.id, at.wall.0, "ids are never used again");
}

#[test]
fn a_door_without_a_start_command_runs_nothing_and_a_long_command_neither() {
    let mut leases = Openings::default();
    let mut refused = |door: &Door| leases.prepare(now(0), door, source()).err();
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
fn the_log_says_why_a_door_did_not_open_and_nothing_where_nothing_was_to_run() {
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
    let (mut leases, mut work) = (Openings::default(), Vec::new());
    let known = |leases: &Openings| [id(0), id(1)].map(|id| leases.knows(id));
    assert_eq!((known(&leases), leases.len(), leases.is_empty()), ([false; 2], 0, true));
    open(&mut leases, now(0), &door(Some("close"), 1), &mut work);
    open(&mut leases, now(0), &door(None, 1), &mut work);
    assert_eq!((known(&leases), leases.len(), leases.is_empty()), ([true; 2], 2, false));
    leases.ended(now(0), id(1), CommandEnd::Exited(0), &mut work);
    leases.ended(now(0), id(0), CommandEnd::Exited(0), &mut work);
    leases.due(now(1), &mut work);
    assert_eq!((known(&leases), leases.len()), ([true, false], 1), "its stop command runs");
    leases.ended(now(2), id(0), CommandEnd::Exited(0), &mut work);
    assert_eq!((known(&leases), leases.len(), leases.is_empty()), ([false; 2], 0, true));
}

#[test]
fn a_negative_time_never_stops_and_a_zero_time_stops_at_once() {
    let (mut leases, mut work) = (Openings::default(), Vec::new());
    assert!(open(&mut leases, now(0), &door(Some("close"), -1), &mut work).is_none());
    leases.ended(now(0), id(0), CommandEnd::Exited(0), &mut work);
    assert!(leases.is_empty());
    open(&mut leases, now(0), &door(Some(""), 0), &mut work);
    leases.ended(now(1), id(1), CommandEnd::Exited(0), &mut work);
    leases.due(now(1), &mut work);
    assert_eq!(texts(&work).last().unwrap(), "run 1: ", "an empty stop command waits and runs too");
}

#[test]
fn hanging_start_commands_delay_neither_stop_commands_nor_memory() {
    let (mut leases, mut work) = (Openings::default(), Vec::new());
    open(&mut leases, now(0), &door(Some("close"), 5), &mut work);
    leases.ended(now(0), id(0), CommandEnd::Exited(0), &mut work);
    for _ in 1..LEASES {
        open(&mut leases, now(0), &door(Some("close"), 5), &mut work);
    }
    let running = |work: &[OpeningAction]| {
        work.iter().filter(|work| matches!(work, OpeningAction::Run(_))).count()
    };
    assert_eq!(running(&work), 1 + STARTS);
    assert_eq!(leases.prepare(now(0), &door(None, 0), source()).err(), Some(NotOpened::Full));
    leases.due(now(5), &mut work);
    assert_eq!(running(&work), 2 + STARTS, "the stop command does not queue");
    leases.ended(now(6), id(1), CommandEnd::Exited(0), &mut work);
    assert_eq!(running(&work), 3 + STARTS, "one has ended, one moves up");
}

proptest! {
    /// Random ends of the gateway: every journalled stop command is run, and only once unless the
    /// end came in its middle.
    #[test]
    fn no_stop_command_is_ever_lost(events in prop::collection::vec((0_u8..6, 0_u64..4), 1..200)) {
        let (mut leases, mut at) = (Openings::default(), now(0));
        let mut journal: BTreeMap<u64, OpeningEntry> = BTreeMap::new();
        let (mut running, mut stops) = (Vec::<(u64, bool)>::new(), BTreeMap::<u64, u32>::new());
        let mut expected = 0;
        // After the events, enough quiet time for all that is left.
        let quiet = (0..400).map(|_| (1_u8, 3));
        for (event, pause) in events.into_iter().chain(quiet) {
            at = Now { wall: at.wall.plus(pause as u32), boot: at.boot.plus(pause as u32) };
            let mut work = Vec::new();
            match event {
                0 => {
                    let opened = open(&mut leases, at, &door(Some("close"), 7), &mut work).unwrap();
                    journal.insert(opened.id, opened);
                    expected += 1;
                }
                5 => {
                    running.retain(|(id, stopping)| !(*stopping && { stops.remove(id); true }));
                    running.clear();
                    leases = Openings::restore(at, journal.values().cloned());
                }
                _ => {
                    if let Some((id, _)) = running.pop() {
                        leases.ended(at, id, CommandEnd::Exited(0), &mut work);
                    }
                }
            }
            leases.due(at, &mut work);
            for work in work {
                match work {
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
        prop_assert!(journal.is_empty() && leases.is_empty());
        prop_assert_eq!(stops.len(), expected);
        prop_assert!(stops.values().all(|times| *times == 1));
    }
}
