//! A door's opening by commands: what runs when, from the start command to the end of the stop command.
//! Running them is left to `edge::command`, keeping the journal to `record` and `edge::state`.
//!
//! The journal knows of a stop command before its start command runs, and forgets it after the stop command has ended. So
//! whatever ends the gateway in between, the stop command runs at the next start; only an end between the beginning of the
//! stop command and the note that it has ended makes it run twice: nobody can tell then how far it got.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use super::address::as_text;
use super::door::Door;
use super::types::{Boot, Fault, Now, SECOND, Wall};

#[cfg(test)]
mod tests;

/// How many openings may be under way at once, those that wait for their stop command included.
pub const LEASES: usize = 4096;

/// How many start commands may run at once; the next ones wait. Stop commands never wait.
pub const STARTS: usize = 128;

/// Bytes of a command after substitution.
pub const COMMAND: usize = 4095;

/// What the journal holds of an opening whose stop command is still to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Names the opening for ever.
    pub id: u64,
    /// The door's name, for the log.
    pub door: String,
    /// Who knocked.
    pub source: IpAddr,
    /// The stop command, the address already in it.
    pub stop: String,
    /// When the start command was about to run.
    pub opened: Wall,
    /// Seconds from the end of the start command to the stop command.
    pub timeout: u32,
}

/// What to do next. In order.
#[derive(Debug, PartialEq, Eq)]
pub enum Work {
    /// Run this command and tell [`Leases::ended`] when it has. Nothing else may wait for it.
    Run(Job),
    /// The stop command has ended: the journal may forget this opening.
    Forget(u64),
    /// Something for the log.
    Note(Note),
}

/// A command to run.
#[derive(Debug, PartialEq, Eq)]
pub struct Job {
    /// The opening; at most one of its commands runs at a time.
    pub id: u64,
    /// For `/bin/sh -c`.
    pub text: String,
    /// Whether a stop command follows or is this one: then it must not outlive whoever runs it.
    pub tied: bool,
}

/// Log lines, in knockd's words where it has any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A command is about to run.
    Running {
        /// The door.
        door: String,
        /// The command.
        command: String,
    },
    /// It ended, and not well.
    Status {
        /// The door.
        door: String,
        /// Its exit status; 0 when a signal ended it.
        status: i32,
    },
    /// The time for the stop command has come.
    Timeout {
        /// The opening.
        id: u64,
        /// The door.
        door: String,
        /// Who had knocked.
        source: IpAddr,
    },
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal, or it could not be started.
    Killed,
}

/// Why no command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// The door has no start command for this address family.
    NoCommand,
    /// The start command is longer than [`COMMAND`].
    StartTooLong,
    /// The stop command is.
    StopTooLong,
    /// [`LEASES`] are under way.
    Full,
}

impl NotOpened {
    /// What the log says of it, in knockd's words where it has any.
    pub fn text(self) -> Option<&'static str> {
        match self {
            NotOpened::NoCommand => None,
            NotOpened::StartTooLong => Some("error: parsed start command has been truncated! --> won't execute it"),
            NotOpened::StopTooLong => {
                Some("error: parsed stop command has been truncated! --> won't execute start command")
            }
            NotOpened::Full => {
                Some("error: too many openings wait for their stop commands --> won't execute start command")
            }
        }
    }
}

/// An opening that is not in the journal yet: nothing of it may run.
#[derive(Debug)]
pub struct Opening {
    id: u64,
    door: String,
    start: String,
    source: IpAddr,
    stop: Option<Opened>,
}

/// An opening whose stop command, if it has one, is in the journal.
#[derive(Debug)]
pub struct Journalled(Opening);

impl Opening {
    /// Stores what must not be lost, and only then may it begin. Without a stop command there is nothing to store.
    pub fn commit(self, store: impl FnOnce(&Opened) -> Result<(), Fault>) -> Result<Journalled, Fault> {
        self.stop.as_ref().map_or(Ok(()), store)?;
        Ok(Journalled(self))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its start command waits for others to end.
    Queued,
    /// Its start command runs.
    Starting,
    /// Its stop command waits for this moment.
    Waiting(Boot),
    /// Its stop command runs.
    Stopping,
}

#[derive(Debug)]
struct Lease {
    door: String,
    source: IpAddr,
    start: String,
    stop: Option<(String, u32)>,
    phase: Phase,
}

/// All openings under way.
#[derive(Debug, Default)]
pub struct Leases {
    next: u64,
    live: BTreeMap<u64, Lease>,
    due: BTreeSet<(Boot, u64)>,
    queue: VecDeque<u64>,
    starting: usize,
}

impl Leases {
    /// What the journal still holds, at a start.
    pub fn restore(now: Now, journal: impl IntoIterator<Item = Opened>) -> Self {
        let mut leases = Self::default();
        leases.take_over(now, journal);
        leases
    }

    /// The same later, from a journal that could not be read before. Overdue stop commands are due at once. Whatever the clock
    /// says now, none waits longer than its whole time.
    pub fn take_over(&mut self, now: Now, journal: impl IntoIterator<Item = Opened>) {
        for opened in journal {
            let whole = i64::from(opened.timeout) * i64::try_from(SECOND).unwrap_or(i64::MAX);
            let left = (whole - now.wall.since(opened.opened)).clamp(0, whole);
            let at = now.boot.plus_nanos(u64::try_from(left).unwrap_or(0));
            self.next = self.next.max(opened.id.saturating_add(1));
            self.due.insert((at, opened.id));
            let (stop, phase) = (Some((opened.stop, opened.timeout)), Phase::Waiting(at));
            let lease = Lease { door: opened.door, source: opened.source, start: String::new(), stop, phase };
            self.live.insert(opened.id, lease);
        }
    }

    /// Whether this opening is under way.
    pub fn has(&self, id: u64) -> bool {
        self.live.contains_key(&id)
    }

    /// How many openings are under way.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// The commands of `door` for a knocker from `source`. Changes nothing but the next id.
    pub fn prepare(&mut self, now: Now, door: &Door, source: IpAddr) -> Result<Opening, NotOpened> {
        let (start, stop) = door.commands(source).ok_or(NotOpened::NoCommand)?;
        let start = substitute(start, source).ok_or(NotOpened::StartTooLong)?;
        let stop = stop.map(|stop| substitute(stop, source).ok_or(NotOpened::StopTooLong)).transpose()?;
        if self.live.len() >= LEASES {
            return Err(NotOpened::Full);
        }
        // By the clock, so that an id of before a restart, which the journal has forgotten, does not come again.
        let id = self.next.max(now.wall.0);
        self.next = id.saturating_add(1);
        // COMPAT: knockd sleeps for ever where the time is negative.
        let stop = stop.zip(u32::try_from(door.cmd_timeout).ok()).map(|(stop, timeout)| Opened {
            id,
            door: door.name.clone(),
            source,
            stop,
            opened: now.wall,
            timeout,
        });
        Ok(Opening { id, door: door.name.clone(), start, source, stop })
    }

    /// Whether the opening `id` is under way.
    pub fn knows(&self, id: u64) -> bool {
        self.live.contains_key(&id)
    }

    /// Begins: the start command runs now, or as soon as fewer than [`STARTS`] others do. Answers the opening's id.
    pub fn begin(&mut self, Journalled(opening): Journalled, work: &mut Vec<Work>) -> u64 {
        let Opening { id, door, start, source, stop } = opening;
        let stop = stop.map(|opened| (opened.stop, opened.timeout));
        self.live.insert(id, Lease { door, source, start, stop, phase: Phase::Queued });
        self.queue.push_back(id);
        self.start_next(work);
        id
    }

    /// A command of opening `id` has ended.
    pub fn ended(&mut self, now: Now, id: u64, how: Ending, work: &mut Vec<Work>) {
        let Some(lease) = self.live.get_mut(&id) else { return };
        if how != Ending::Exited(0) {
            let status = if let Ending::Exited(status) = how { status } else { 0 };
            work.push(Work::Note(Note::Status { door: lease.door.clone(), status }));
        }
        match lease.phase {
            Phase::Starting => {
                self.starting = self.starting.saturating_sub(1);
                match &lease.stop {
                    Some((_, timeout)) => {
                        let at = now.boot.plus(*timeout);
                        lease.phase = Phase::Waiting(at);
                        self.due.insert((at, id));
                    }
                    None => drop(self.live.remove(&id)),
                }
                self.start_next(work);
            }
            Phase::Stopping => {
                self.live.remove(&id);
                work.push(Work::Forget(id));
            }
            Phase::Queued | Phase::Waiting(_) => {}
        }
    }

    /// Stop commands whose time has come.
    pub fn due(&mut self, now: Now, work: &mut Vec<Work>) {
        while let Some((at, id)) = self.due.first().copied().filter(|(at, _)| *at <= now.boot) {
            self.due.remove(&(at, id));
            let Some(lease) = self.live.get_mut(&id) else { continue };
            let Some((stop, _)) = lease.stop.clone() else { continue };
            lease.phase = Phase::Stopping;
            work.push(Work::Note(Note::Timeout { id, door: lease.door.clone(), source: lease.source }));
            work.push(Work::Note(Note::Running { door: lease.door.clone(), command: stop.clone() }));
            work.push(Work::Run(Job { id, text: stop, tied: true }));
        }
    }

    /// When [`Leases::due`] has something to do next.
    pub fn deadline(&self) -> Option<Boot> {
        self.due.first().map(|(at, _)| *at)
    }

    fn start_next(&mut self, work: &mut Vec<Work>) {
        while self.starting < STARTS {
            let Some(id) = self.queue.pop_front() else { return };
            let Some(lease) = self.live.get_mut(&id) else { continue };
            lease.phase = Phase::Starting;
            self.starting += 1;
            let text = std::mem::take(&mut lease.start);
            work.push(Work::Note(Note::Running { door: lease.door.clone(), command: text.clone() }));
            work.push(Work::Run(Job { id, text, tied: lease.stop.is_some() }));
        }
    }
}

/// `%IP%` by the address, everywhere; nothing else is replaced or quoted: an address has no character that a shell minds.
fn substitute(command: &str, source: IpAddr) -> Option<String> {
    let text = command.replace("%IP%", &as_text(source));
    (text.len() <= COMMAND).then_some(text)
}

/// As knockd writes them; `who` names the source, with its host name if it was looked up.
impl Note {
    /// The text of the log line. `who` shows the source of an opening.
    pub fn text(&self, who: impl Fn(u64, IpAddr) -> String) -> String {
        match self {
            Note::Running { door, command } => format!("{door}: running command: {command}"),
            Note::Status { door, status } => format!("{door}: command returned non-zero status code ({status})"),
            Note::Timeout { id, door, source } => format!("{}: {door}: command timeout", who(*id, *source)),
        }
    }
}
