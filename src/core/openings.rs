//! Openings by commands: what runs when, from the start command to the end of the stop command.
//! Running them is left to `edge::command`, keeping the journal to `record` and `edge::state`.
//!
//! A door's opening ends after its time, a service's when nobody holds it any more (`held`).
//!
//! The journal knows of a stop command before its start command runs, and forgets it after the stop
//! command has ended. So whatever ends the gateway in between, the stop command runs at the next
//! start; only an end between the beginning of the stop command and the note that it has ended
//! makes it run twice: nobody can tell then how far it got.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use super::door::Door;
use super::types::{Boot, Fault, Now, SECOND, ServiceName, Source, Wall};

mod command;
mod messages;
mod shared;
#[cfg(test)]
mod tests;

pub use command::CommandLine;
pub use messages::{NotOpened, OpeningNote};
pub use shared::{OpeningState, START, ServiceAddress};

/// How many openings of doors, and how many of services, may be under way at once, those that wait
/// for their stop command included: whoever repeats sequences takes no room from those who have
/// keys.
pub const LEASES: usize = 4096;

/// How many start commands of either may run at once; the next ones wait. Stop commands never wait.
pub const STARTS: usize = 128;

/// Seconds after which a stop command is tried again that could not be started for want of
/// processes or memory.
pub const AGAIN: u32 = 5;

/// Bytes of a command after substitution.
pub const COMMAND: usize = 4095;

/// What the journal holds of an opening whose stop command is still to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpeningEntry {
    /// Names the opening for ever.
    pub id: u64,
    /// The door's or the service's name, for the log.
    pub door: String,
    /// Who knocked; of a service's the address that was granted.
    pub source: IpAddr,
    /// The stop command, the address already in it. A door's is for a shell, a service's is not.
    pub stop: CommandLine,
    /// When the start command was about to run.
    pub opened: Wall,
    /// Seconds from the end of the start command to the stop command; of a service's 0: at a start
    /// it is overdue.
    pub timeout: u32,
}

impl OpeningEntry {
    /// Where it is, of a service's opening.
    fn place(&self) -> Option<ServiceAddress> {
        let service =
            matches!(self.stop, CommandLine::Argv(_)).then(|| ServiceName::new(&self.door))??;
        Some(ServiceAddress { service, source: Source::new(self.source) })
    }
}

/// What to do next. In order.
#[derive(Debug, PartialEq, Eq)]
pub enum OpeningAction {
    /// Run this command and tell [`Openings::ended`] when it has. Nothing else may wait for it.
    Run(Job),
    /// End the command of this opening, which takes too long; then it has [`Openings::ended`] as
    /// any other.
    Kill(u64),
    /// The stop command has ended: the journal may forget this opening.
    Forget(u64),
    /// Something for the log.
    Note(OpeningNote),
}

/// A command to run.
#[derive(Debug, PartialEq, Eq)]
pub struct Job {
    /// The opening; at most one of its commands runs at a time.
    pub id: u64,
    /// What to run.
    pub command: CommandLine,
    /// Whether a stop command follows or is this one: then it must not outlive whoever runs it.
    pub tied: bool,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandEnd {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal, or it could not be started.
    Killed,
    /// It has not begun, for want of processes or memory.
    NotNow,
}

/// An opening that is not in the journal yet: nothing of it may run.
#[derive(Debug)]
pub struct PreparedOpening {
    id: u64,
    door: String,
    start: CommandLine,
    source: IpAddr,
    stop: Option<OpeningEntry>,
    place: Option<ServiceAddress>,
}

/// An opening whose stop command, if it has one, is in the journal.
#[derive(Debug)]
pub struct JournalledOpening(PreparedOpening);

impl PreparedOpening {
    /// Stores what must not be lost, and only then may it begin. Without a stop command there is
    /// nothing to store.
    pub fn commit(
        self,
        store: impl FnOnce(&OpeningEntry) -> Result<(), Fault>,
    ) -> Result<JournalledOpening, Fault> {
        self.stop.as_ref().map_or(Ok(()), store)?;
        Ok(JournalledOpening(self))
    }
}

/// The same for many, stored together with whatever else `store` has to make durable.
pub fn commit_all(
    openings: Vec<PreparedOpening>,
    store: impl FnOnce(Vec<OpeningEntry>) -> Result<(), Fault>,
) -> Result<Vec<JournalledOpening>, Fault> {
    store(openings.iter().filter_map(|opening| opening.stop.clone()).collect())?;
    Ok(openings.into_iter().map(JournalledOpening).collect())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its start command waits for others to end.
    Queued,
    /// Its start command waits for the stop command of an earlier opening of its place.
    Behind,
    /// Its start command runs.
    Starting,
    /// Its start command still runs, and its stop command follows at once.
    Leaving,
    /// It is open until nobody holds it any more.
    Held,
    /// Its stop command waits for this moment.
    Waiting(Boot),
    /// Its stop command runs.
    Stopping,
}

#[derive(Debug)]
struct Opening {
    door: String,
    source: IpAddr,
    start: CommandLine,
    stop: Option<(CommandLine, u32)>,
    /// Of a service's opening.
    place: Option<ServiceAddress>,
    phase: Phase,
}

/// All openings under way.
#[derive(Debug, Default)]
pub struct Openings {
    next: u64,
    live: BTreeMap<u64, Opening>,
    /// The openings of services that grants can share: those that do not end yet, at most one of
    /// each place.
    places: BTreeMap<ServiceAddress, u64>,
    /// When something is to happen to what: a stop command is to run, a start command of a service
    /// to be over.
    due: BTreeSet<(Boot, u64)>,
    /// Doors and services have [`STARTS`] each, for the same reason as [`LEASES`].
    doors: Starts,
    services: Starts,
}

/// Start commands that run, and openings whose start commands wait for one of them to end.
#[derive(Debug, Default)]
struct Starts {
    running: usize,
    queue: VecDeque<u64>,
}

impl Openings {
    /// What the journal still holds, at a start.
    pub fn restore(now: Now, journal: impl IntoIterator<Item = OpeningEntry>) -> Self {
        let mut leases = Self::default();
        leases.take_over(now, journal);
        leases
    }

    /// The same later, from a journal that could not be read before. Overdue stop commands are due
    /// at once. Whatever the clock says now, none waits longer than its whole time.
    pub fn take_over(&mut self, now: Now, journal: impl IntoIterator<Item = OpeningEntry>) {
        for opened in journal {
            let whole = i64::from(opened.timeout) * i64::try_from(SECOND).unwrap_or(i64::MAX);
            let left = (whole - now.wall.since(opened.opened)).clamp(0, whole);
            let at = now.boot.plus_nanos(u64::try_from(left).unwrap_or(0));
            self.next = self.next.max(opened.id.saturating_add(1));
            self.due.insert((at, opened.id));
            let (id, place, phase) = (opened.id, opened.place(), Phase::Waiting(at));
            let (start, stop) = (CommandLine::default(), Some((opened.stop, opened.timeout)));
            let lease =
                Opening { door: opened.door, source: opened.source, start, stop, place, phase };
            self.live.insert(id, lease);
        }
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
    pub fn prepare(
        &mut self,
        now: Now,
        door: &Door,
        source: IpAddr,
    ) -> Result<PreparedOpening, NotOpened> {
        let (start, stop) = door.commands(source).ok_or(NotOpened::NoCommand)?;
        let start = CommandLine::shell(start, source).ok_or(NotOpened::StartTooLong)?;
        let stop = stop
            .map(|stop| CommandLine::shell(stop, source).ok_or(NotOpened::StopTooLong))
            .transpose()?;
        let id = self.next_id(now, false)?;
        // COMPAT: knockd sleeps for ever where the time is negative.
        let stop = stop.zip(u32::try_from(door.cmd_timeout).ok()).map(|(stop, timeout)| {
            OpeningEntry { id, door: door.name.clone(), source, stop, opened: now.wall, timeout }
        });
        Ok(PreparedOpening { id, door: door.name.clone(), start, source, stop, place: None })
    }

    fn next_id(&mut self, now: Now, service: bool) -> Result<u64, NotOpened> {
        if self.live.values().filter(|lease| lease.place.is_some() == service).count() >= LEASES {
            return Err(NotOpened::Full);
        }
        // By the clock, so that an id of before a restart, which the journal has forgotten, does
        // not come again.
        let id = self.next.max(now.wall.0);
        self.next = id.saturating_add(1);
        Ok(id)
    }

    /// Whether the opening `id` is under way.
    pub fn knows(&self, id: u64) -> bool {
        self.live.contains_key(&id)
    }

    /// Begins: the start command runs now, or as soon as fewer than [`STARTS`] others do. Answers
    /// the opening's id.
    pub fn begin(
        &mut self,
        now: Now,
        JournalledOpening(opening): JournalledOpening,
        work: &mut Vec<OpeningAction>,
    ) -> u64 {
        let PreparedOpening { id, door, start, source, stop, place } = opening;
        let stop = stop.map(|opened| (opened.stop, opened.timeout));
        if place.is_some_and(|place| self.places.contains_key(&place)) {
            // Nobody would ever end the other one: its place is this one's.
            work.push(OpeningAction::Forget(id));
            return id;
        }
        let phase = place.map_or(Phase::Queued, |place| self.settle_in(place, id));
        self.live.insert(id, Opening { door, source, start, stop, place, phase });
        self.starts(place).queue.extend((phase == Phase::Queued).then_some(id));
        self.start_next(now, work);
        id
    }

    /// A command of opening `id` has ended.
    pub fn ended(&mut self, now: Now, id: u64, how: CommandEnd, work: &mut Vec<OpeningAction>) {
        let Some(lease) = self.live.get_mut(&id) else { return };
        if how != CommandEnd::Exited(0) {
            let status = if let CommandEnd::Exited(status) = how { status } else { 0 };
            work.push(OpeningAction::Note(OpeningNote::Status {
                door: lease.door.clone(),
                status,
            }));
        }
        let place = lease.place;
        match lease.phase {
            Phase::Starting | Phase::Leaving => {
                match (place, &lease.stop) {
                    (Some(place), _) => self.started(place, id, how, work),
                    (None, Some((_, timeout))) => {
                        let at = now.boot.plus(*timeout);
                        lease.phase = Phase::Waiting(at);
                        self.due.insert((at, id));
                    }
                    (None, None) => drop(self.live.remove(&id)),
                }
                let starts = self.starts(place);
                starts.running = starts.running.saturating_sub(1);
            }
            Phase::Stopping if how == CommandEnd::NotNow => {
                let at = now.boot.plus(AGAIN);
                lease.phase = Phase::Waiting(at);
                self.due.insert((at, id));
            }
            Phase::Stopping => {
                self.live.remove(&id);
                work.push(OpeningAction::Forget(id));
                place.into_iter().for_each(|place| self.move_up(place));
            }
            Phase::Queued | Phase::Behind | Phase::Held | Phase::Waiting(_) => return,
        }
        self.start_next(now, work);
    }

    /// Stop commands whose time has come, and start commands whose time is over.
    pub fn due(&mut self, now: Now, work: &mut Vec<OpeningAction>) {
        while let Some((at, id)) = self.due.first().copied().filter(|(at, _)| *at <= now.boot) {
            self.due.remove(&(at, id));
            match self.live.get(&id).map(|lease| lease.phase) {
                Some(Phase::Starting | Phase::Leaving) => self.give_up(id, work),
                Some(Phase::Waiting(_)) => self.stop(id, work),
                _ => {}
            }
        }
    }

    fn stop(&mut self, id: u64, work: &mut Vec<OpeningAction>) {
        let Some(lease) = self.live.get_mut(&id) else { return };
        let Some((stop, _)) = lease.stop.clone() else { return };
        lease.phase = Phase::Stopping;
        // COMPAT: knockd's word for a door whose time is over.
        if lease.place.is_none() {
            work.push(OpeningAction::Note(OpeningNote::Timeout {
                id,
                door: lease.door.clone(),
                source: lease.source,
            }));
        }
        work.push(OpeningAction::Note(OpeningNote::Running {
            door: lease.door.clone(),
            command: stop.clone(),
        }));
        work.push(OpeningAction::Run(Job { id, command: stop, tied: true }));
    }

    /// When [`Openings::due`] has something to do next.
    pub fn deadline(&self) -> Option<Boot> {
        self.due.first().map(|(at, _)| *at)
    }

    fn starts(&mut self, place: Option<ServiceAddress>) -> &mut Starts {
        if place.is_some() { &mut self.services } else { &mut self.doors }
    }

    fn start_next(&mut self, now: Now, work: &mut Vec<OpeningAction>) {
        let may_go_on = |starts: &&mut Starts| starts.running < STARTS && !starts.queue.is_empty();
        while let Some(starts) = [&mut self.doors, &mut self.services].into_iter().find(may_go_on) {
            let Some(id) = starts.queue.pop_front() else { return };
            let Some(lease) = self.live.get_mut(&id) else { continue };
            lease.phase = Phase::Starting;
            starts.running += 1;
            if lease.place.is_some() {
                self.due.insert((now.boot.plus(START), id));
            }
            let command = std::mem::take(&mut lease.start);
            work.push(OpeningAction::Note(OpeningNote::Running {
                door: lease.door.clone(),
                command: command.clone(),
            }));
            work.push(OpeningAction::Run(Job { id, command, tied: lease.stop.is_some() }));
        }
    }
}
