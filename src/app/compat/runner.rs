//! The process that runs the doors' commands for knockd's daemon. It outlives the daemon until
//! every stop command has run.
//!
//! The process that is responsible for stop commands holds the lock of their journal as long as it
//! lives. So a daemon that is killed loses none; and if the runner is killed too, the next one
//! finds the journal unlocked.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::prctl::set_name;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::unistd::{dup2_stdin, setsid};

use crate::core::address::as_text;
use crate::core::door::Door;
use crate::core::openings::{NotOpened, OpeningAction, OpeningEntry, OpeningNote, Openings};
use crate::core::record::Record;
use crate::core::types::{Boot, Fault, Now};
use crate::edge::classic_log::{ClassicLine, ClassicLog};
use crate::edge::clock;
use crate::edge::command::Runner;
use crate::edge::event_loop::{PollSet, next_signal, signals};
use crate::edge::runner_pipe::{RunRequest, RunnerPipe, ToRunner};
use journal::RunnerJournal;

mod journal;

/// The hidden argument that makes this program the runner.
pub const ROLE: &str = "--runner";

/// The base of the journals, unless systemd's `StateDirectory=` names another.
const STATE: &str = "/var/lib/toctoc";
/// The directory of the journals below that: it has one for each daemon that runs at the same time.
const JOURNALS: &str = "knockd";
/// Seconds between two attempts to write to the journal.
const AGAIN: u32 = 5;

pub fn main() -> ExitCode {
    // The name by which admins see the process, as for the listener.
    let _ = set_name(c"toctoc-runner");
    match start() {
        Ok(mut process) => {
            while process.turn() {}
            // The last chance to record that everything is closed.
            let _ = process.recover_journal(clock::now());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("knockd {ROLE}: {error}: the daemon starts this by itself");
            ExitCode::from(2)
        }
    }
}

fn start() -> io::Result<Process> {
    // A copy that is closed on exec. Commands inherit descriptor 0 itself, so it becomes /dev/null.
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(&fs::File::open("/dev/null")?)?;
    // COMPAT: commands run in a session whose leader is their parent. Signals to the daemon's
    // group, by a terminal or by killall, are not for us: we end when everything is closed.
    setsid()?;
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE])
        .thread_block()?;
    let state = std::env::var_os("STATE_DIRECTORY").unwrap_or(STATE.into());
    Process::new(socket, PathBuf::from(state).join(JOURNALS), clock::now())
}

struct Process {
    /// `None` once the daemon is gone.
    pipe: Option<RunnerPipe>,
    signals: SignalFd,
    log: ClassicLog,
    journals: PathBuf,
    journal: RunnerJournal,
    /// The time of the next attempt to write what the journal did not take.
    write_again: Option<Boot>,
    /// It was reported that there is no journal.
    has_warned: bool,
    openings: Openings,
    /// The openings that this daemon ordered, and the source of each as log lines show it.
    ordered: BTreeMap<u64, String>,
    runner: Runner,
}

impl Process {
    /// `socket` leads to the daemon; `journals` is the directory of the journals.
    fn new(socket: OwnedFd, journals: PathBuf, now: Now) -> io::Result<Self> {
        let signals = signals(&[Signal::SIGCHLD])?;
        let (journal, entries) = RunnerJournal::open(&journals, now);
        let write_again = match journal {
            RunnerJournal::NoRoom(_) => Some(now.boot.plus(AGAIN)),
            _ => None,
        };
        Ok(Self {
            pipe: Some(RunnerPipe::new(socket)),
            signals,
            log: ClassicLog::default(),
            journals,
            journal,
            write_again,
            has_warned: false,
            openings: Openings::restore(now, entries),
            ordered: BTreeMap::new(),
            runner: Runner::new(),
        })
    }

    /// Waits for an event and handles it. False if there is nothing left to wait for.
    fn turn(&mut self) -> bool {
        let mut set = PollSet::default();
        set.read(self.signals.as_fd());
        if let Some(pipe) = &self.pipe {
            set.read_and_write(pipe.as_fd(), pipe.waiting() > 0);
        }
        let deadline = self.openings.deadline().into_iter().chain(self.write_again).min();
        // Without memory for the wait, the loop goes on at once.
        let _ = set.wait_until(deadline, clock::now().boot);
        while next_signal(&self.signals).is_some() {}
        self.handle_events(clock::now())
    }

    fn handle_events(&mut self, now: Now) -> bool {
        self.receive(now);
        let mut actions = Vec::new();
        for finished in self.runner.reap() {
            self.openings.ended(now, finished.id, finished.how, &mut actions);
        }
        self.openings.due(now, &mut actions);
        self.execute(now, actions);
        if let Some(at) = self.write_again
            && at <= now.boot
        {
            // A fault was reported, or will be when it keeps a door closed.
            let _ = self.recover_journal(now);
        }
        if let RunnerJournal::Open(state) = &mut self.journal
            && state.maintain_now().is_err()
        {
            self.write_again = Some(now.boot.plus(AGAIN));
        }
        self.pipe.is_some() || !self.openings.is_empty()
    }

    fn receive(&mut self, now: Now) {
        while let Some(pipe) = &mut self.pipe {
            pipe.flush();
            match pipe.receive() {
                Ok(Some(ToRunner::Log(sinks))) => self.log = ClassicLog::open(&sinks).0,
                Ok(Some(ToRunner::Open(order))) => self.open(now, &order),
                Ok(None) => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    fn open(&mut self, now: Now, order: &RunRequest) {
        let door = Door {
            name: order.door.clone(),
            start_command: Some(order.start.clone()),
            stop_command: order.stop.clone(),
            cmd_timeout: order.timeout,
            ..Door::default()
        };
        let opening = match self.openings.prepare(now, &door, order.source) {
            Ok(opening) => opening,
            Err(refused) => return self.refuse(refused),
        };
        match opening.commit(|entry| self.store(now, entry)) {
            Ok(journalled) => {
                let mut actions = Vec::new();
                let id = self.openings.begin(now, journalled, &mut actions);
                self.ordered.insert(id, order.who.clone());
                self.execute(now, actions);
            }
            Err(fault) => {
                self.complain(&format!(
                    "error: stop command not journalled ({}) --> won't execute start command",
                    fault.what
                ));
                self.report_end();
            }
        }
    }

    fn refuse(&mut self, why: NotOpened) {
        if let Some(text) = why.text() {
            self.complain(text);
        }
        self.report_end();
    }

    /// Stores an opening. If the journal cannot be written, nothing opens: a full disk must not
    /// leave a door open.
    fn store(&mut self, now: Now, entry: &OpeningEntry) -> Result<(), Fault> {
        let record = [Record::Opened(entry.clone())];
        if let RunnerJournal::Open(state) = &mut self.journal
            && state.commit(&record).is_ok()
        {
            return Ok(());
        }
        self.recover_journal(now)?;
        match &mut self.journal {
            RunnerJournal::Open(state) => {
                let stored = state.commit(&record);
                if stored.is_err() {
                    self.write_again = Some(now.boot.plus(AGAIN));
                }
                stored
            }
            RunnerJournal::NoRoom(fault) => Err(fault.clone()),
            RunnerJournal::Never(_) if self.has_warned => Ok(()),
            RunnerJournal::Never(fault) => {
                let text =
                    format!("warning: a stop command will not survive a reboot: {}", fault.what);
                self.has_warned = true;
                self.complain(&text);
                Ok(())
            }
        }
    }

    /// Writes again what the journal did not take: which openings have ended. Otherwise the next
    /// start would run their stop commands once more.
    fn recover_journal(&mut self, now: Now) -> Result<(), Fault> {
        let is_poisoned =
            matches!(&self.journal, RunnerJournal::Open(state) if state.is_poisoned());
        if self.write_again.is_none() && !is_poisoned {
            return Ok(());
        }
        if let RunnerJournal::NoRoom(_) = self.journal {
            let (journal, entries) = RunnerJournal::open(&self.journals, now);
            self.journal = journal;
            self.openings.take_over(now, entries);
        }
        let recovered = match &mut self.journal {
            RunnerJournal::Open(state) => journal::remove_ended(state, now, &self.openings),
            RunnerJournal::NoRoom(fault) => Err(fault.clone()),
            RunnerJournal::Never(_) => Ok(()),
        };
        self.write_again = match recovered {
            Ok(()) => None,
            Err(_) => Some(now.boot.plus(AGAIN)),
        };
        recovered
    }

    fn execute(&mut self, now: Now, actions: Vec<OpeningAction>) {
        let mut queue = VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            match action {
                OpeningAction::Run(job) => {
                    if let Some(finished) = self.runner.run(&job) {
                        let mut more = Vec::new();
                        self.openings.ended(now, finished.id, finished.how, &mut more);
                        queue.extend(more);
                    }
                }
                OpeningAction::Kill(id) => self.runner.kill(id),
                OpeningAction::Forget(id) => self.forget(now, id),
                OpeningAction::Note(note) => self.note(&note),
            }
        }
        let before = self.ordered.len();
        self.ordered.retain(|id, _| self.openings.knows(*id));
        for _ in self.ordered.len()..before {
            self.report_end();
        }
    }

    /// Tells the daemon that one opening has ended.
    fn report_end(&mut self) {
        if let Some(pipe) = &mut self.pipe {
            pipe.send(&());
        }
    }

    /// Removes an opening from the journal. If that fails, its stop command runs once more at the
    /// next start: twice is better than never.
    fn forget(&mut self, now: Now, id: u64) {
        if let RunnerJournal::Open(state) = &mut self.journal
            && state.commit(&[Record::Stopped { id }]).is_err()
        {
            self.write_again = Some(now.boot.plus(AGAIN));
        }
    }

    fn note(&mut self, note: &OpeningNote) {
        let text = note.text(|id, ip| match self.ordered.get(&id) {
            Some(who) => who.clone(),
            None => as_text(ip),
        });
        let line = match note {
            OpeningNote::Running { .. } => ClassicLine::shown(&text).gap(),
            OpeningNote::Timeout { .. } => ClassicLine::shown(&text),
            OpeningNote::Status { .. } => return self.complain(&text),
        };
        self.log.line(clock::now().wall, line);
    }

    /// Writes a line to the log and to standard error.
    fn complain(&mut self, text: &str) {
        eprintln!("{text}");
        self.log.line(clock::now().wall, ClassicLine::quiet(text));
    }
}

#[cfg(test)]
mod tests;
