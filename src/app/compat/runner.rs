//! The process that runs the doors' commands for knockd's daemon, and outlives it until every stop
//! command has run. When what runs is left to `core::openings`, which door opens to the daemon.
//!
//! Whoever is responsible for stop commands holds the lock of their journal: this process, as long
//! as it lives. So a daemon that is killed loses none; and if this process is killed too, the next
//! one that starts finds the journal unlocked.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_name;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::statvfs::statvfs;
use nix::unistd::{dup2_stdin, setsid};

use crate::core::address::as_text;
use crate::core::door::Door;
use crate::core::openings::{NotOpened, OpeningAction, OpeningEntry, OpeningNote, Openings};
use crate::core::record::Record;
use crate::core::types::{Boot, Fault, Now};
use crate::edge::classic_log::{ClassicLine, ClassicLog};
use crate::edge::clock;
use crate::edge::command::Runner;
use crate::edge::runner_pipe::{FromRunner, Received, RunRequest, RunnerPipe, ToRunner};
use crate::edge::state::State;

/// The hidden argument by which the program knows that it is to be the runner.
pub const ROLE: &str = "--runner";

/// Where journals lie, one directory for each daemon that runs at the same time; below what
/// systemd's `StateDirectory=` names, if it does.
const STATE: &str = "/var/lib/toctoc";
/// The directory's name there.
const JOURNALS: &str = "knockd";
/// How many daemons may run at the same time with a journal each.
const SLOTS: u32 = 64;
/// Seconds between two attempts to write what could not be written.
const AGAIN: u32 = 5;
/// Bytes that a journal needs at the least.
const ROOM: u64 = 64 << 10;

/// Everything, from the first to the last moment of the process.
pub fn main() -> ExitCode {
    // As the listener, and for the same reason.
    let _ = set_name(c"toctoc-runner");
    match Process::start() {
        Ok(mut process) => {
            while process.turn() {}
            // The last chance to say that all has been closed.
            let _ = process.mend(clock::now());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("knockd {ROLE}: {error}: the daemon starts this by itself");
            ExitCode::from(2)
        }
    }
}

/// Where stop commands are kept.
enum Journal {
    Open(Box<State>),
    /// The disk is full: until it is not, no door with a stop command opens.
    NoRoom(Fault),
    /// None can be made, as for an ordinary user: they live in memory, as knockd's do.
    Never(Fault),
}

struct Process {
    pipe: Option<RunnerPipe>,
    signals: SignalFd,
    log: ClassicLog,
    journal: Journal,
    /// When to try again what the journal did not take.
    again: Option<Boot>,
    /// Whether it was said that there is no journal.
    warned: bool,
    leases: Openings,
    /// The openings that the daemon ordered, not those of an earlier one, and who knocked, in
    /// words.
    mine: BTreeMap<u64, String>,
    runner: Runner,
}

impl Process {
    fn start() -> nix::Result<Self> {
        // A copy that closes on exec; descriptor 0 itself is what commands inherit.
        let socket =
            std::io::stdin().as_fd().try_clone_to_owned().map_err(|_| nix::Error::EBADF)?;
        let null = fs::File::open("/dev/null").map_err(|_| nix::Error::ENODEV)?;
        dup2_stdin(&null)?;
        // COMPAT: commands run in a session whose leader is their parent. And what is sent to the
        // daemon's group, by a terminal or by killall, is not meant for us: we end when all is
        // done.
        setsid()?;
        let ours = SigSet::from_iter([Signal::SIGCHLD]);
        let deaf = SigSet::from_iter([
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGPIPE,
        ]);
        deaf.thread_block()?;
        let signals = SignalFd::with_flags(&ours, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let now = clock::now();
        let (journal, left) = Journal::open(now);
        let again = matches!(journal, Journal::NoRoom(_)).then(|| now.boot.plus(AGAIN));
        Ok(Self {
            pipe: Some(RunnerPipe::new(socket)),
            signals,
            log: ClassicLog::default(),
            journal,
            again,
            warned: false,
            leases: Openings::restore(now, left),
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
        if self.again.is_some_and(|at| at <= now.boot) {
            // What is wrong was said, or will be when it keeps a door shut.
            let _ = self.mend(now);
        }
        if let Journal::Open(state) = &mut self.journal
            && state.maintain_now().is_err()
        {
            self.again = Some(soon());
        }
        self.pipe.is_some() || !self.leases.is_empty()
    }

    fn wait(&mut self) {
        let deadline = self.leases.deadline().into_iter().chain(self.again).min();
        let millis =
            deadline.map(|at| at.0.saturating_sub(clock::now().boot.0).div_ceil(1_000_000));
        let timeout = millis.map_or(PollTimeout::NONE, |millis| {
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        });
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
                Received::Message(ToRunner::Log(sinks)) => self.log = ClassicLog::open(&sinks).0,
                Received::Message(ToRunner::Open(order)) => self.open(&order),
                Received::Nothing => return,
                Received::Closed => self.pipe = None,
            }
        }
    }

    fn open(&mut self, order: &RunRequest) {
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
                let id = self.leases.begin(now, journalled, &mut work);
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

    /// With a journal that cannot be written nothing opens: a full disk must not leave a door open.
    fn store(&mut self, opened: &OpeningEntry) -> Result<(), Fault> {
        let record = [Record::Opened(opened.clone())];
        if let Journal::Open(state) = &mut self.journal
            && state.commit(&record).is_ok()
        {
            return Ok(());
        }
        self.mend(clock::now())?;
        match &mut self.journal {
            Journal::Open(state) => {
                state.commit(&record).inspect_err(|_| self.again = Some(soon()))
            }
            Journal::NoRoom(fault) => Err(fault.clone()),
            Journal::Never(_) if self.warned => Ok(()),
            Journal::Never(fault) => {
                let text =
                    format!("warning: a stop command will not survive a reboot: {}", fault.what);
                self.warned = true;
                self.complain(&text);
                Ok(())
            }
        }
    }

    /// Tries again what the journal did not take before: what is over is struck out, also what a
    /// write that failed may have left of an opening that never was. Otherwise the next start would
    /// run its stop command once more.
    fn mend(&mut self, now: Now) -> Result<(), Fault> {
        if self.again.is_none()
            && !matches!(&self.journal, Journal::Open(state) if state.is_poisoned())
        {
            return Ok(());
        }
        if matches!(self.journal, Journal::NoRoom(_)) {
            let (journal, left) = Journal::open(now);
            self.journal = journal;
            self.leases.take_over(now, left);
        }
        let done = match &mut self.journal {
            Journal::Open(state) => strike(state, now, &self.leases),
            Journal::NoRoom(fault) => Err(fault.clone()),
            Journal::Never(_) => Ok(()),
        };
        self.again = done.is_err().then(soon);
        done
    }

    fn carry_out(&mut self, now: Now, work: Vec<OpeningAction>) {
        let mut todo = std::collections::VecDeque::from(work);
        while let Some(work) = todo.pop_front() {
            let mut more = Vec::new();
            match work {
                OpeningAction::Run(job) => {
                    if let Some(finished) = self.runner.run(&job) {
                        self.leases.ended(now, finished.id, finished.how, &mut more);
                    }
                }
                OpeningAction::Kill(id) => self.runner.kill(id),
                OpeningAction::Forget(id) => self.forget(id),
                OpeningAction::Note(note) => self.note(&note),
            }
            todo.extend(more);
        }
        let over: Vec<u64> =
            self.mine.keys().copied().filter(|id| !self.leases.knows(*id)).collect();
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

    /// If this is lost, the stop command runs once more at the next start: late twice is better
    /// than never.
    fn forget(&mut self, id: u64) {
        if let Journal::Open(state) = &mut self.journal
            && state.commit(&[Record::Stopped { id }]).is_err()
        {
            self.again = Some(soon());
        }
    }

    fn note(&mut self, note: &OpeningNote) {
        let text = note.text(|id, ip| self.mine.get(&id).cloned().unwrap_or_else(|| as_text(ip)));
        match note {
            OpeningNote::Running { .. } => {
                self.log.line(clock::now().wall, ClassicLine::shown(&text).gap())
            }
            OpeningNote::Timeout { .. } => {
                self.log.line(clock::now().wall, ClassicLine::shown(&text))
            }
            OpeningNote::Status { .. } => self.complain(&text),
        }
    }

    /// A line for the log and for standard error.
    fn complain(&mut self, text: &str) {
        eprintln!("{text}");
        self.log.line(clock::now().wall, ClassicLine::quiet(text));
    }
}

/// When to try again.
fn soon() -> Boot {
    clock::now().boot.plus(AGAIN)
}

impl Journal {
    /// A journal of our own, and what is still to be done.
    fn open(now: Now) -> (Self, Vec<OpeningEntry>) {
        let state =
            std::env::var_os("STATE_DIRECTORY").map_or_else(|| PathBuf::from(STATE), PathBuf::from);
        match adopt(&state.join(JOURNALS), now) {
            Ok((state, left)) => (Journal::Open(Box::new(state)), left),
            Err(fault) if is_full(&state) => (Journal::NoRoom(fault), Vec::new()),
            Err(fault) => (Journal::Never(fault), Vec::new()),
        }
    }
}

/// Whether the disk that `path` is on, or would be, has no room for a journal.
fn is_full(path: &Path) -> bool {
    let there = path.ancestors().find(|path| path.exists());
    let disk = there.and_then(|path| statvfs(path).ok());
    disk.is_some_and(|disk| {
        // Some have no number of files.
        let files = disk.files() > 0 && disk.files_free() == 0;
        files || disk.blocks_free().saturating_mul(disk.fragment_size()) < ROOM
    })
}

/// Reads the journal anew and strikes out what is not, or no more, under way.
fn strike(state: &mut State, now: Now, leases: &Openings) -> Result<(), Fault> {
    let recovered = state.reopen(now.wall)?;
    let over = recovered.ledger.openings().filter(|there| !leases.knows(there.id));
    let over: Vec<_> = over.map(|there| Record::Stopped { id: there.id }).collect();
    if over.is_empty() { Ok(()) } else { state.commit(&over) }
}

/// A journal of our own, and all that the journals of the dead still hold: moved into ours, so that
/// they are empty.
fn adopt(base: &Path, now: Now) -> Result<(State, Vec<OpeningEntry>), Fault> {
    let mut own: Option<(State, Vec<OpeningEntry>)> = None;
    let mut reason =
        Fault::new(format!("{}: no journal is free", base.display()), "too many daemons run");
    for slot in 0..SLOTS {
        let directory: PathBuf = base.join(slot.to_string());
        if own.is_some() && !directory.exists() {
            break;
        }
        let open = || State::open(&directory, now.wall, true);
        let opened = match open() {
            Err(fault) if is_full(&directory) => return Err(fault),
            // What it lacked room for may have it since: left alone now, its stop commands would
            // wait for the next start.
            Err(_) => open(),
            opened => opened,
        };
        let (mut state, recovered) = match opened {
            Ok(opened) => opened,
            Err(fault) => {
                reason = fault;
                continue;
            }
        };
        let found: Vec<OpeningEntry> = recovered.ledger.openings().cloned().collect();
        match &mut own {
            None => own = Some((state, found)),
            Some((ours, all)) => {
                // First into ours, then out of theirs: an end in between runs a stop command twice,
                // never not at all.
                let records: Vec<_> = found.iter().cloned().map(Record::Opened).collect();
                if !records.is_empty() && ours.commit(&records).is_ok() {
                    let done: Vec<_> =
                        found.iter().map(|opened| Record::Stopped { id: opened.id }).collect();
                    let _ = state.commit(&done);
                    all.extend(found);
                }
            }
        }
    }
    own.ok_or(reason)
}
