//! Openings by commands: what runs when, from the start command to the end of the stop command.
//! See `edge::command` for running them, `record` and `edge::state` for the journal.
//!
//! A door's opening ends after its time, a service's when nobody holds it any more (`shared`).
//!
//! The journal knows a stop command before its start command runs, and forgets it after the stop
//! command has ended. So whatever ends the gateway in between, the stop command runs at the next
//! start. It runs twice only if the gateway ends between the beginning of the stop command and the
//! note that it has ended: nobody can tell then how far it got.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::ops::Bound;

use super::door::Door;
use super::quota::Shares;
use super::types::{Boot, Fault, Now, SECOND, ServiceName, Source, Wall};
use crate::core::bytes::saturated_i64;

mod command;
mod messages;
mod shared;
#[cfg(test)]
mod tests;

pub use command::CommandLine;
pub use messages::{NotOpened, OpeningNote};
pub use shared::{OpeningState, START, ServiceAddress};

/// The most openings of doors, and of services, that may be under way at once, those that wait for
/// their stop command included. Two limits, so that whoever repeats sequences takes no room from
/// those who have keys. One door or service gets at most half of them ([`Shares`]).
pub const OPENINGS: usize = 8192;
/// The most start commands of either that may run at once, by the same rule; the next ones wait.
pub const STARTS: usize = 256;
/// The most stop commands that run at once: after a crash, thousands may be due. Those that run for
/// more than [`HANGS`] seconds do not count, so no stop command waits for ever.
pub const STOPS: usize = 32;
/// See [`STOPS`].
pub const HANGS: u32 = 2;
/// Seconds after which a stop command is tried again that could not be started for want of
/// processes or memory.
pub const AGAIN: u32 = 5;
/// The most bytes of a command after substitution.
pub const COMMAND: usize = 4095;

/// The journal's entry of an opening whose stop command is still to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpeningEntry {
    /// Never used again for another opening.
    pub id: u64,
    /// The door's or the service's name, for the log.
    pub door: String,
    /// The address that knocked; of a service's opening the address that was granted.
    pub source: IpAddr,
    /// The stop command, the address already in it. A door's is for a shell, a service's is not.
    pub stop: CommandLine,
    /// The time just before the start command ran.
    pub opened: Wall,
    /// Seconds from the end of the start command to the stop command. 0 for a service: after a
    /// restart it is overdue.
    pub timeout: u32,
}

impl OpeningEntry {
    fn place(&self) -> Option<ServiceAddress> {
        match self.stop {
            CommandLine::Shell(_) => None,
            CommandLine::Argv(_) => {
                let service = ServiceName::new(&self.door)?;
                Some(ServiceAddress { service, source: Source::new(self.source) })
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum OpeningAction {
    /// Run this command and call [`Openings::ended`] when it has. Nothing else may wait for it.
    Run(Job),
    /// Kill the command of this opening, which takes too long; then call [`Openings::ended`] as for
    /// any other.
    Kill(u64),
    /// The stop command has ended: the journal may forget this opening.
    Forget(u64),
    Note(OpeningNote),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Job {
    /// The opening; at most one of its commands runs at a time.
    pub id: u64,
    pub command: CommandLine,
    /// True if a stop command follows or is this one: then it must not outlive the process that
    /// runs it.
    pub tied: bool,
}

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
pub struct PreparedOpening(Opening);

/// An opening whose stop command, if it has one, is in the journal.
#[derive(Debug)]
pub struct JournalledOpening(Opening);

impl PreparedOpening {
    /// Stores what must not be lost, and only then may it begin. Without a stop command there is
    /// nothing to store.
    pub fn commit(
        self, store: impl FnOnce(&OpeningEntry) -> Result<(), Fault>,
    ) -> Result<JournalledOpening, Fault> {
        if let Some(entry) = &self.0.stop {
            store(entry)?;
        }
        Ok(JournalledOpening(self.0))
    }
}

/// The same for many, stored together with whatever else `store` has to make durable.
pub fn commit_all(
    openings: Vec<PreparedOpening>, store: impl FnOnce(Vec<OpeningEntry>) -> Result<(), Fault>,
) -> Result<Vec<JournalledOpening>, Fault> {
    store(openings.iter().filter_map(|prepared| prepared.0.stop.clone()).collect())?;
    Ok(openings.into_iter().map(|prepared| JournalledOpening(prepared.0)).collect())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its start command waits until fewer run.
    Queued,
    /// Its start command waits for the stop command of an earlier opening of its service address.
    Behind,
    Starting,
    /// Its start command still runs, and its stop command follows at once.
    Leaving,
    /// It is open until nobody holds it any more.
    Held,
    /// Its stop command waits for its time, for others to end, or to be tried again.
    Waiting,
    Stopping,
}

#[derive(Debug)]
struct Opening {
    id: u64,
    door: String,
    source: IpAddr,
    start: CommandLine,
    stop: Option<OpeningEntry>,
    place: Option<ServiceAddress>,
    phase: Phase,
}

#[derive(Debug, Default)]
pub struct Openings {
    next_id: u64,
    live: BTreeMap<u64, Opening>,
    /// The openings of services that grants can share: those that do not end yet, at most one for
    /// each service address.
    places: BTreeMap<ServiceAddress, u64>,
    /// See [`Openings::take_failed`].
    failed: Vec<ServiceAddress>,
    /// The times at which a stop command is to run, or a service's start command takes too long.
    due: BTreeSet<(Boot, u64)>,
    doors: Sort,
    services: Sort,
    /// The stop commands that run, each until it counts as hanging.
    stopping: BTreeMap<u64, Boot>,
    /// The openings whose stop commands wait for one of those to end.
    stops: VecDeque<u64>,
}

#[derive(Debug, Default)]
struct Sort {
    live: Shares,
    /// Start commands that run.
    running: Shares,
    /// The openings that wait for one of those to end, by door or service: they take turns.
    queues: BTreeMap<String, VecDeque<u64>>,
    /// Whose turn was last.
    last: String,
}

impl Sort {
    fn next(&mut self) -> Option<u64> {
        let after = (Bound::Excluded(self.last.as_str()), Bound::Unbounded);
        let up_to = (Bound::Unbounded, Bound::Included(self.last.as_str()));
        let mut turns =
            self.queues.range::<str, _>(after).chain(self.queues.range::<str, _>(up_to));
        let (name, _) = turns.find(|(name, _)| self.running.has_room(name, STARTS))?;
        self.last = name.clone();
        let queue = self.queues.get_mut(&self.last)?;
        let id = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&self.last);
        }
        self.running.take(&self.last);
        id
    }
}

impl Openings {
    /// The openings that the journal still holds, at a start.
    pub fn restore(now: Now, journal: impl IntoIterator<Item = OpeningEntry>) -> Self {
        let mut openings = Self::default();
        openings.take_over(now, journal);
        openings
    }

    /// The same later, from a journal that could not be read before. Overdue stop commands are due
    /// at once. Whatever the clock says now, none waits longer than its whole time.
    pub fn take_over(&mut self, now: Now, journal: impl IntoIterator<Item = OpeningEntry>) {
        for entry in journal {
            let whole = i64::from(entry.timeout) * saturated_i64(SECOND);
            let left = (whole - now.wall.since(entry.opened)).clamp(0, whole);
            let id = entry.id;
            self.next_id = self.next_id.max(id.saturating_add(1));
            self.due.insert((now.boot.plus_nanos(u64::try_from(left).unwrap_or(0)), id));
            let opening = Opening {
                id,
                door: entry.door.clone(),
                source: entry.source,
                start: CommandLine::default(),
                place: entry.place(),
                stop: Some(entry),
                phase: Phase::Waiting,
            };
            self.insert(opening);
        }
    }

    fn insert(&mut self, opening: Opening) {
        self.sort(opening.place).live.take(&opening.door);
        self.live.insert(opening.id, opening);
    }

    fn remove(&mut self, id: u64) {
        if let Some(opening) = self.live.remove(&id) {
            self.sort(opening.place).live.give_back(&opening.door);
        }
    }

    pub fn len(&self) -> usize {
        self.live.len()
    }

    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// The commands of `door` for a knock from `source`. Changes nothing but the next id.
    pub fn prepare(
        &mut self, now: Now, door: &Door, source: IpAddr,
    ) -> Result<PreparedOpening, NotOpened> {
        let commands = door.commands(source).ok_or(NotOpened::NoCommand)?;
        let start = CommandLine::shell(commands.start, source).ok_or(NotOpened::StartTooLong)?;
        let stop = match commands.stop {
            Some(stop) => Some(CommandLine::shell(stop, source).ok_or(NotOpened::StopTooLong)?),
            None => None,
        };
        let id = self.new_id(now, None, &door.name)?;
        let mut opening = Opening {
            id,
            door: door.name.clone(),
            source,
            start,
            stop: None,
            place: None,
            phase: Phase::Queued,
        };
        if let Some(stop) = stop {
            // knockd sleeps for ever where the time is negative, and never runs the stop command. A
            // door that nobody shuts is worse than one that shuts at once
            // (`Weakness::StopsAtOnce`).
            let timeout = u32::try_from(door.cmd_timeout).unwrap_or(0);
            let door = door.name.clone();
            opening.stop = Some(OpeningEntry { id, door, source, stop, opened: now.wall, timeout });
        }
        Ok(PreparedOpening(opening))
    }

    fn new_id(
        &mut self, now: Now, place: Option<ServiceAddress>, name: &str,
    ) -> Result<u64, NotOpened> {
        if !self.sort(place).live.has_room(name, OPENINGS) {
            return Err(NotOpened::Full);
        }
        // By the clock, so that an id from before a restart, which the journal has forgotten, does
        // not come again.
        let id = self.next_id.max(now.wall.0);
        self.next_id = id.saturating_add(1);
        Ok(id)
    }

    pub fn knows(&self, id: u64) -> bool {
        self.live.contains_key(&id)
    }

    /// Begins: the start command runs now, or as soon as fewer others do ([`STARTS`]). Returns the
    /// opening's id.
    pub fn begin(
        &mut self, now: Now, JournalledOpening(mut opening): JournalledOpening,
        actions: &mut Vec<OpeningAction>,
    ) -> u64 {
        let id = opening.id;
        if let Some(place) = opening.place {
            if self.places.contains_key(&place) {
                // Nobody would ever end the other one: this one would take its entry.
                actions.push(OpeningAction::Forget(id));
                return id;
            }
            opening.phase = self.first_phase(place, id);
        }
        if opening.phase == Phase::Queued {
            let queue = self.sort(opening.place).queues.entry(opening.door.clone());
            queue.or_default().push_back(id);
        }
        self.insert(opening);
        self.start_next(now, actions);
        id
    }

    pub fn ended(&mut self, now: Now, id: u64, how: CommandEnd, actions: &mut Vec<OpeningAction>) {
        let Some(opening) = self.live.get_mut(&id) else { return };
        let door = opening.door.clone();
        if how != CommandEnd::Exited(0) {
            let status = if let CommandEnd::Exited(status) = how { status } else { 0 };
            let door = door.clone();
            actions.push(OpeningAction::Note(OpeningNote::Status { door, status }));
        }
        let place = opening.place;
        match opening.phase {
            Phase::Starting | Phase::Leaving => {
                match (place, &opening.stop) {
                    (Some(place), _) => self.started(place, id, how),
                    (None, Some(entry)) => {
                        self.due.insert((now.boot.plus(entry.timeout), id));
                        opening.phase = Phase::Waiting;
                    }
                    (None, None) => self.remove(id),
                }
                self.sort(place).running.give_back(&door);
            }
            Phase::Stopping => {
                self.stopping.remove(&id);
                if how == CommandEnd::NotNow {
                    opening.phase = Phase::Waiting;
                    self.due.insert((now.boot.plus(AGAIN), id));
                } else {
                    self.remove(id);
                    actions.push(OpeningAction::Forget(id));
                    if let Some(place) = place {
                        self.move_up(place);
                    }
                }
            }
            Phase::Queued | Phase::Behind | Phase::Held | Phase::Waiting => return,
        }
        self.stop_next(now, actions);
        self.start_next(now, actions);
    }

    /// Runs the stop commands whose time has come, and kills the start commands whose time is over.
    pub fn due(&mut self, now: Now, actions: &mut Vec<OpeningAction>) {
        while let Some((at, id)) = self.due.first().copied()
            && at <= now.boot
        {
            self.due.remove(&(at, id));
            self.meet(id, actions);
        }
        self.stop_next(now, actions);
    }

    /// The wall clock jumped forward by this many nanoseconds: a machine that was paused counts the
    /// time in which it stood still on that clock only. Stop commands are due so much earlier.
    pub fn clock_jumped(&mut self, by: u64) {
        for (at, id) in std::mem::take(&mut self.due) {
            let waits = self.live.get(&id).is_some_and(|one| one.phase == Phase::Waiting);
            let at = if waits { Boot(at.0.saturating_sub(by)) } else { at };
            self.due.insert((at, id));
        }
    }

    /// Does all that is due now or later: nobody will be left to do it on time.
    pub fn all_due(&mut self, now: Now, actions: &mut Vec<OpeningAction>) {
        for (_, id) in std::mem::take(&mut self.due) {
            self.meet(id, actions);
        }
        self.stop_next(now, actions);
    }

    fn meet(&mut self, id: u64, actions: &mut Vec<OpeningAction>) {
        match self.live.get(&id).map(|opening| opening.phase) {
            Some(Phase::Starting | Phase::Leaving) => self.give_up(id, actions),
            Some(Phase::Waiting) => self.stops.push_back(id),
            _ => {}
        }
    }

    /// The stop command of an opening that is open or has failed to open is due.
    fn stop(&mut self, id: u64) {
        if let Some(opening) = self.live.get_mut(&id) {
            opening.phase = Phase::Waiting;
            self.stops.push_back(id);
        }
    }

    fn stop_next(&mut self, now: Now, actions: &mut Vec<OpeningAction>) {
        self.stopping.retain(|_, hangs| *hangs > now.boot);
        while self.stopping.len() < STOPS
            && let Some(id) = self.stops.pop_front()
        {
            let Some(opening) = self.live.get_mut(&id) else { continue };
            let Some(entry) = &opening.stop else { continue };
            opening.phase = Phase::Stopping;
            self.stopping.insert(id, now.boot.plus(HANGS));
            let command = entry.stop.clone();
            let door = opening.door.clone();
            // COMPAT: knockd's line for a door whose time is over.
            if opening.place.is_none() {
                let source = opening.source;
                let timeout = OpeningNote::Timeout { id, door: door.clone(), source };
                actions.push(OpeningAction::Note(timeout));
            }
            run(Job { id, command, tied: true }, door, actions);
        }
    }

    /// The time at which [`Openings::due`] has something to do next.
    pub fn deadline(&self) -> Option<Boot> {
        let mut next = self.due.first().map(|(at, _)| *at);
        if !self.stops.is_empty() {
            next = next.into_iter().chain(self.stopping.values().copied()).min();
        }
        next
    }

    fn sort(&mut self, place: Option<ServiceAddress>) -> &mut Sort {
        if place.is_some() { &mut self.services } else { &mut self.doors }
    }

    fn start_next(&mut self, now: Now, actions: &mut Vec<OpeningAction>) {
        for sort in [&mut self.doors, &mut self.services] {
            while let Some(id) = sort.next() {
                let Some(opening) = self.live.get_mut(&id) else {
                    // It was released before its turn.
                    sort.running.give_back(&sort.last.clone());
                    continue;
                };
                opening.phase = Phase::Starting;
                if opening.place.is_some() {
                    self.due.insert((now.boot.plus(START), id));
                }
                let command = std::mem::take(&mut opening.start);
                let tied = opening.stop.is_some();
                run(Job { id, command, tied }, opening.door.clone(), actions);
            }
        }
    }
}

fn run(job: Job, door: String, actions: &mut Vec<OpeningAction>) {
    let running = OpeningNote::Running { door, command: job.command.clone() };
    actions.push(OpeningAction::Note(running));
    actions.push(OpeningAction::Run(job));
}
