//! The process that runs the doors' commands for knockd's daemon, and outlives it until every stop command has run.
//! When what runs is left to `core::leases`, which door opens to the daemon.
//!
//! Whoever is responsible for stop commands holds the lock of their journal: this process, as long as it lives. So a daemon
//! that is killed loses none; and if this process is killed too, the next one that starts finds the journal unlocked.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{dup2_stdin, setsid};

use crate::core::address::as_text;
use crate::core::door::Door;
use crate::core::leases::{Leases, NotOpened, Note, Opened, Work};
use crate::core::record::Record;
use crate::core::types::{Fault, Now};
use crate::edge::classic_log::{ClassicLog, Line};
use crate::edge::clock;
use crate::edge::command::Runner;
use crate::edge::runner_pipe::{Came, FromRunner, Order, RunnerPipe, ToRunner};
use crate::edge::state::State;

/// The hidden argument by which the program knows that it is to be the runner.
pub const ROLE: &str = "--runner";

/// Where journals lie, one directory for each daemon that runs at the same time; below what systemd's `StateDirectory=` names, if
/// it does.
const STATE: &str = "/var/lib/toctoc";
/// The directory's name there.
const JOURNALS: &str = "knockd";
/// How many daemons may run at the same time with a journal each.
const SLOTS: u32 = 64;

/// Everything, from the first to the last moment of the process.
pub fn main() -> ExitCode {
    match Process::start() {
        Ok(mut process) => {
            while process.turn() {}
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("knockd {ROLE}: {error}: the daemon starts this by itself");
            ExitCode::from(2)
        }
    }
}

struct Process {
    pipe: Option<RunnerPipe>,
    signals: SignalFd,
    log: ClassicLog,
    journal: Result<State, Fault>,
    /// Whether it was said that there is no journal.
    warned: bool,
    leases: Leases,
    /// The openings that the daemon ordered, not those of an earlier one, and who knocked, in words.
    mine: BTreeMap<u64, String>,
    runner: Runner,
}

impl Process {
    fn start() -> nix::Result<Self> {
        // A copy that closes on exec; descriptor 0 itself is what commands inherit.
        let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(|_| nix::Error::EBADF)?;
        let null = fs::File::open("/dev/null").map_err(|_| nix::Error::ENODEV)?;
        dup2_stdin(&null)?;
        // COMPAT: commands run in a session whose leader is their parent. And what is sent to the daemon's group, by a
        // terminal or by killall, is not meant for us: we end when all is done.
        setsid()?;
        let ours = SigSet::from_iter([Signal::SIGCHLD]);
        let deaf =
            SigSet::from_iter([Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE]);
        deaf.thread_block()?;
        let signals = SignalFd::with_flags(&ours, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let now = clock::now();
        let state = std::env::var_os("STATE_DIRECTORY").map_or_else(|| PathBuf::from(STATE), PathBuf::from);
        let (journal, left) = match adopt(&state.join(JOURNALS), now) {
            Ok((state, left)) => (Ok(state), left),
            Err(fault) => (Err(fault), Vec::new()),
        };
        Ok(Self {
            pipe: Some(RunnerPipe::new(socket)),
            signals,
            log: ClassicLog::default(),
            journal,
            warned: false,
            leases: Leases::restore(now, left),
            mine: BTreeMap::new(),
            runner: Runner::new(),
        })
    }

    /// Waits for something to do and does it; false when there will never be any more.
    fn turn(&mut self) -> bool {
        self.wait();
        self.hear();
        let now = clock::now();
        let mut work = Vec::new();
        while let Ok(Some(_)) = self.signals.read_signal() {}
        for finished in self.runner.reap() {
            self.leases.ended(now, finished.id, finished.how, &mut work);
        }
        self.leases.due(now, &mut work);
        self.carry_out(now, work);
        self.pipe.is_some() || !self.leases.is_empty()
    }

    fn wait(&mut self) {
        let deadline = self.leases.deadline().map(|at| at.0.saturating_sub(clock::now().boot.0).div_ceil(1_000_000));
        let timeout =
            deadline.map_or(PollTimeout::NONE, |millis| PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX));
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if let Some(pipe) = &self.pipe {
            let writes = if pipe.waiting() > 0 { PollFlags::POLLOUT } else { PollFlags::empty() };
            fds.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN | writes));
        }
        // An interrupted wait is only a shorter one.
        let _ = poll(&mut fds, timeout);
    }

    fn hear(&mut self) {
        while let Some(pipe) = &mut self.pipe {
            pipe.flush();
            match pipe.receive() {
                Came::Message(ToRunner::Log(sinks)) => self.log = ClassicLog::open(&sinks).0,
                Came::Message(ToRunner::Open(order)) => self.open(&order),
                Came::Nothing => return,
                Came::Closed => self.pipe = None,
            }
        }
    }

    fn open(&mut self, order: &Order) {
        let now = clock::now();
        let door = Door {
            name: order.door.clone(),
            start_command: Some(order.start.clone()),
            stop_command: order.stop.clone(),
            cmd_timeout: order.timeout,
            ..Door::default()
        };
        let opening = match self.leases.prepare(now, &door, order.source) {
            Ok(opening) => opening,
            Err(refused) => return self.refuse(refused),
        };
        match opening.commit(|opened| self.store(opened)) {
            Ok(journalled) => {
                let mut work = Vec::new();
                let id = self.leases.begin(journalled, &mut work);
                self.mine.insert(id, order.who.clone());
                self.carry_out(now, work);
            }
            Err(fault) => {
                self.complain(&format!(
                    "error: stop command not journalled ({}) --> won't execute start command",
                    fault.what
                ));
                self.over();
            }
        }
    }

    fn refuse(&mut self, why: NotOpened) {
        if let Some(text) = why.text() {
            self.complain(text);
        }
        self.over();
    }

    /// Without any journal, as for an ordinary user, stop commands live in memory, as knockd's do. With one that cannot be
    /// written nothing opens: a full disk must not leave a door open.
    fn store(&mut self, opened: &Opened) -> Result<(), Fault> {
        if let Ok(journal) = &mut self.journal {
            let record = [Record::Opened(opened.clone())];
            return journal
                .commit(&record)
                .or_else(|_| journal.reopen(clock::now().wall).and_then(|_| journal.commit(&record)));
        }
        if let (Err(fault), false) = (&self.journal, self.warned) {
            let text = format!("warning: a stop command will not survive a reboot: {}", fault.what);
            self.warned = true;
            self.complain(&text);
        }
        Ok(())
    }

    fn carry_out(&mut self, now: Now, work: Vec<Work>) {
        let mut todo = std::collections::VecDeque::from(work);
        while let Some(work) = todo.pop_front() {
            let mut more = Vec::new();
            match work {
                Work::Run(job) => {
                    if let Some(finished) = self.runner.run(&job) {
                        self.leases.ended(now, finished.id, finished.how, &mut more);
                    }
                }
                Work::Forget(id) => self.forget(id),
                Work::Note(note) => self.note(&note),
            }
            todo.extend(more);
        }
        let over: Vec<u64> = self.mine.keys().copied().filter(|id| !self.leases.knows(*id)).collect();
        for id in over {
            self.mine.remove(&id);
            self.over();
        }
    }

    /// One order has come to its end.
    fn over(&mut self) {
        if let Some(pipe) = &mut self.pipe {
            pipe.send(&FromRunner::Over);
        }
    }

    /// If this is lost, the stop command runs once more at the next start: late twice is better than never.
    fn forget(&mut self, id: u64) {
        if let Ok(journal) = &mut self.journal {
            let _ = journal.commit(&[Record::Stopped { id }]);
        }
    }

    fn note(&mut self, note: &Note) {
        let text = note.text(|id, ip| self.mine.get(&id).cloned().unwrap_or_else(|| as_text(ip)));
        match note {
            Note::Running { .. } => self.log.line(clock::now().wall, Line::shown(&text).gap()),
            Note::Timeout { .. } => self.log.line(clock::now().wall, Line::shown(&text)),
            Note::Status { .. } => self.complain(&text),
        }
    }

    /// A line for the log and for standard error.
    fn complain(&mut self, text: &str) {
        eprintln!("{text}");
        self.log.line(clock::now().wall, Line::quiet(text));
    }
}

/// A journal of our own, and all that the journals of the dead still hold: moved into ours, so that they are empty.
fn adopt(base: &Path, now: Now) -> Result<(State, Vec<Opened>), Fault> {
    let mut own: Option<(State, Vec<Opened>)> = None;
    let mut reason = Fault::new(format!("{}: no journal is free", base.display()), "too many daemons run");
    for slot in 0..SLOTS {
        let directory: PathBuf = base.join(slot.to_string());
        if own.is_some() && !directory.exists() {
            break;
        }
        let (mut state, recovered) = match State::open(&directory, now.wall, true) {
            Ok(opened) => opened,
            Err(fault) => {
                reason = fault;
                continue;
            }
        };
        let found: Vec<Opened> = recovered.ledger.openings().cloned().collect();
        match &mut own {
            None => own = Some((state, found)),
            Some((ours, all)) => {
                // First into ours, then out of theirs: an end in between runs a stop command twice, never not at all.
                let records: Vec<_> = found.iter().cloned().map(Record::Opened).collect();
                if !records.is_empty() && ours.commit(&records).is_ok() {
                    let done: Vec<_> = found.iter().map(|opened| Record::Stopped { id: opened.id }).collect();
                    let _ = state.commit(&done);
                    all.extend(found);
                }
            }
        }
    }
    own.ok_or(reason)
}
