//! The runner with a daemon that is the test, journals in a temporary directory, and real commands
//! that write into it.

use std::time::{Duration, Instant};

use super::*;
use crate::core::types::SECOND;
use crate::edge::classic_log::Sinks;
use crate::edge::runner_pipe::pair;

/// A running command is waited for this long; only a broken runner needs it.
const PATIENCE: Duration = Duration::from_secs(10);

struct Bench {
    folder: tempfile::TempDir,
    daemon: Option<RunnerPipe>,
    process: Process,
    now: Now,
}

impl Bench {
    fn new() -> Self {
        Self::in_folder(tempfile::tempdir().unwrap())
    }

    /// The next runner over the same journals.
    fn in_folder(folder: tempfile::TempDir) -> Self {
        let now = clock::now();
        let (daemon, socket) = pair().unwrap();
        let process = Process::new(socket, folder.path().join("journals"), now).unwrap();
        let mut bench = Self { folder, daemon: Some(daemon), process, now };
        let log = bench.folder.path().join("log").display().to_string();
        bench.send(&ToRunner::Log(Sinks { file: Some(log), ..Sinks::default() }));
        bench
    }

    fn send(&mut self, message: &ToRunner) {
        assert!(self.daemon.as_mut().unwrap().send(message));
    }

    /// Orders an opening whose commands add a word to the file `ran`.
    fn order(&mut self, start: &str, stop: Option<&str>, timeout: i64) {
        let add = |word: &str| format!("echo {word} >>{}/ran", self.folder.path().display());
        let order = RunRequest {
            door: "web".into(),
            source: "192.0.2.7".parse().unwrap(),
            who: "192.0.2.7 (host.example)".into(),
            start: add(start),
            stop: stop.map(add),
            timeout,
        };
        self.send(&ToRunner::Open(order));
    }

    fn step(&mut self) -> bool {
        self.process.handle_events(self.now)
    }

    /// Steps until `is_done`; the time of the runner stands still.
    fn until(&mut self, is_done: impl Fn(&mut Bench) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_done(self) {
            assert!(Instant::now() < deadline, "ran: {:?}; log: {}", self.ran(), self.log());
            self.step();
            std::thread::yield_now();
        }
    }

    fn later(&mut self, seconds: u64) {
        self.now.boot = Boot(self.now.boot.0 + seconds * SECOND);
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    /// The words that the commands have written.
    fn ran(&self) -> Vec<String> {
        self.read("ran").lines().map(str::to_owned).collect()
    }

    fn log(&self) -> String {
        self.read("log")
    }

    /// The openings that the daemon knows to have ended since the last call.
    fn ended(&mut self) -> usize {
        let daemon = self.daemon.as_mut().unwrap();
        std::iter::from_fn(|| daemon.receive::<()>().ok().flatten()).count()
    }

    /// The runner dies without doing anything more; the files stay.
    fn killed(self) -> tempfile::TempDir {
        self.folder
    }
}

#[test]
fn an_opening_without_a_stop_command_ends_with_its_start_command() {
    let mut bench = Bench::new();
    bench.order("start", None, 10);
    bench.until(|bench| bench.ended() == 1);
    assert_eq!(bench.ran(), ["start"]);
    assert!(bench.process.openings.is_empty());
    assert!(bench.log().contains("web: running command: echo start"), "{}", bench.log());
}

#[test]
fn the_stop_command_runs_when_its_time_has_come_and_not_before() {
    let mut bench = Bench::new();
    bench.order("start", Some("stop"), 10);
    bench.until(|bench| bench.ran() == ["start"]);
    bench.until(|bench| bench.process.runner.running() == 0);
    bench.later(9);
    bench.step();
    assert_eq!((bench.ran(), bench.ended()), (vec!["start".to_owned()], 0));
    bench.later(2);
    bench.until(|bench| bench.ended() == 1);
    assert_eq!(bench.ran(), ["start", "stop"]);
    let timeout = "192.0.2.7 (host.example): web: command timeout";
    assert!(bench.log().contains(timeout), "{}", bench.log());
}

#[test]
fn a_command_that_fails_is_logged_with_its_status() {
    let mut bench = Bench::new();
    bench.order("start; exit 3", None, 10);
    bench.until(|bench| bench.ended() == 1);
    let status = "web: command returned non-zero status code (3)";
    // `exit 3 >>ran` is part of the same line, so the status is the shell's.
    assert!(bench.log().contains(status), "{}", bench.log());
}

#[test]
fn a_command_that_is_too_long_is_refused_and_reported_as_ended() {
    let mut bench = Bench::new();
    bench.order(&"x".repeat(5000), None, 10);
    bench.step();
    assert_eq!((bench.ended(), bench.ran()), (1, vec![]));
    assert!(bench.log().contains("has been truncated! --> won't execute it"), "{}", bench.log());
}

#[test]
fn the_runner_outlives_the_daemon_until_everything_is_closed() {
    let mut bench = Bench::new();
    bench.order("start", Some("stop"), 10);
    bench.until(|bench| bench.ran() == ["start"]);
    bench.daemon = None;
    // A command of another test that is about to start may hold the daemon's end for a moment.
    bench.until(|bench| bench.step() && bench.process.pipe.is_none());
    bench.until(|bench| bench.process.runner.running() == 0);
    bench.later(11);
    bench.until(|bench| !bench.step());
    assert_eq!(bench.ran(), ["start", "stop"]);
}

#[test]
fn a_runner_without_a_daemon_and_without_openings_ends_at_once() {
    let mut bench = Bench::new();
    assert!(bench.step());
    bench.daemon = None;
    bench.until(|bench| !bench.step());
}

#[test]
fn the_next_runner_runs_the_stop_commands_of_one_that_was_killed_once() {
    let mut bench = Bench::new();
    bench.order("start", Some("stop"), 10);
    bench.until(|bench| bench.ran() == ["start"]);
    bench.until(|bench| bench.process.runner.running() == 0);
    let mut next = Bench::in_folder(bench.killed());
    assert_eq!(next.process.openings.len(), 1, "from the journal");
    next.later(11);
    next.until(|bench| bench.process.openings.is_empty());
    assert_eq!(next.ran(), ["start", "stop"]);
    assert_eq!(next.ended(), 0, "this daemon did not order it");
    let third = Bench::in_folder(next.killed());
    assert!(third.process.openings.is_empty(), "the journal has forgotten it");
}

#[test]
fn two_runners_at_once_have_a_journal_each_and_the_dead_ones_are_emptied() {
    let mut first = Bench::new();
    let (_daemon, socket) = pair().unwrap();
    let journals = first.folder.path().join("journals");
    let mut second = Process::new(socket, journals.clone(), first.now).unwrap();
    first.order("start", Some("stop"), 10);
    first.until(|bench| bench.ran() == ["start"]);
    assert!(journals.join("0").exists() && journals.join("1").exists());
    second.handle_events(first.now);
    assert!(second.openings.is_empty(), "the living one keeps its own");
    drop(second);
    let third = Bench::in_folder(first.killed());
    assert_eq!(third.process.openings.len(), 1);
}

#[test]
fn without_a_journal_openings_begin_and_one_warning_says_what_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    // A file where the directory should be.
    fs::write(folder.path().join("journals"), "").unwrap();
    let mut bench = Bench::in_folder(folder);
    assert!(matches!(bench.process.journal, RunnerJournal::Never(_)));
    bench.order("one", Some("stop"), 10);
    bench.order("two", Some("stop"), 10);
    bench.until(|bench| bench.ran().len() == 2);
    let warning = "warning: a stop command will not survive a reboot: ";
    assert_eq!(bench.log().matches(warning).count(), 1, "{}", bench.log());
}

#[test]
fn on_a_full_disk_no_door_with_a_stop_command_opens_and_others_do() {
    let mut bench = Bench::new();
    bench.process.journal = RunnerJournal::NoRoom(Fault::new("no space left", ""));
    // The journal is tried again only when its time has come.
    bench.process.write_again = None;
    bench.order("refused", Some("stop"), 10);
    bench.step();
    assert_eq!(bench.ended(), 1);
    let refused = "error: stop command not journalled (no space left) --> won't execute";
    assert!(bench.log().contains(refused), "{}", bench.log());
    bench.order("start", None, 10);
    bench.until(|bench| bench.ended() == 1);
    assert_eq!(bench.ran(), ["start"]);
}

#[test]
fn a_journal_is_opened_as_soon_as_there_is_room_again() {
    let mut bench = Bench::new();
    bench.process.journal = RunnerJournal::NoRoom(Fault::new("no space left", ""));
    bench.process.write_again = Some(bench.now.boot.plus(AGAIN));
    bench.step();
    assert!(matches!(bench.process.journal, RunnerJournal::NoRoom(_)));
    bench.later(u64::from(AGAIN) + 1);
    bench.step();
    assert!(matches!(bench.process.journal, RunnerJournal::Open(_)));
    assert_eq!(bench.process.write_again, None);
    bench.order("start", Some("stop"), 10);
    bench.until(|bench| bench.ran() == ["start"]);
}
