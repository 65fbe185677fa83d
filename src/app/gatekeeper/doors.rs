//! Classic doors: the effect of a completed sequence.
//! See `commands` for the commands of a door.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use super::Gatekeeper;
use super::events::{Lane, ListenerId, Task};
use super::knocks::NEVER_GRANTED;
use crate::app::warnings::NEXT_IS_SHIPPED;
use crate::core::door::{Door, is_shipped};
use crate::core::event::{EventKind, KnockId};
use crate::core::grants::GrantEnd;
use crate::core::knock::Status;
use crate::core::openings::{PreparedOpening, commit_all};
use crate::core::quota::{Bucket, Rate};
use crate::core::record::Record;
use crate::core::types::{Boot, Now};
use crate::edge::gatekeeper_pipe::ToListener;
use crate::edge::log::{LogEvent, clock_time};
use crate::edge::one_time::SequenceUse;

/// The rate limit on the openings of one door: more than the people who know its sequence need, and
/// less than the journal can take. Each door has its own, so a flood at one shuts no other.
const OPENINGS: Rate = Rate { burst: 1024, per_second: 64 };

/// Completed sequences that have not opened their door yet.
#[derive(Default)]
pub(super) struct Doors {
    /// By the doors' names. Only those that are not full: never more than there are doors.
    openings: BTreeMap<String, Bucket>,
    /// The knocks that a door refused because of its rate, since they were last reported.
    refused: BTreeMap<String, u64>,
    /// Openings that one commit will store.
    prepared: Vec<PreparedOpening>,
    /// One-time sequences to mark as used, each listed once. While `running` is true, a task works
    /// on the first.
    uses: VecDeque<PendingUse>,
    running: bool,
}

/// A one-time sequence that was sent in cleartext, so it must never open anything again.
struct PendingUse {
    listener: ListenerId,
    index: u16,
    /// The door as it was when its sequence was completed.
    door: Door,
    /// The knock to open the door for. `None`: only mark the sequence as used.
    opens_for: Option<DoorKnock>,
}

/// A sequence that somebody completed.
#[derive(Clone, Copy)]
struct DoorKnock {
    source: IpAddr,
    /// Its id in the log. No client knows it: a sequence has nothing that only one knock has.
    id: Option<KnockId>,
}

impl Doors {
    /// True if this door may open once more; counts the knock.
    fn admits(&mut self, now: Boot, name: &str) -> bool {
        self.openings.retain(|_, bucket| !bucket.is_full(now));
        let admitted = self.openings.entry(name.to_owned()).or_default().take(now, OPENINGS);
        if !admitted {
            *self.refused.entry(name.to_owned()).or_default() += 1;
        }
        admitted
    }

    /// Takes the use whose task has ended or missed its deadline.
    fn finished(&mut self) -> Option<PendingUse> {
        self.running = false;
        self.uses.pop_front()
    }

    /// True if this sequence is already in the queue.
    fn is_using(&self, door: &Door) -> bool {
        let same = |one: &PendingUse| {
            one.door.one_time_sequences == door.one_time_sequences
                && one.door.sequence == door.sequence
        };
        self.uses.iter().any(same)
    }
}

impl Gatekeeper {
    /// Handles a completed sequence that the listener reports.
    pub(super) fn completed(&mut self, now: Now, listener: ListenerId, index: u16, source: IpAddr) {
        let Some(door) = self.listeners.door_of(listener, index).cloned() else { return };
        // A compromised listener can report any number of completed sequences; real clients need
        // few.
        if !self.doors.admits(now.boot, &door.name) {
            // The sequence was sent in cleartext: if it opens nothing now, it must not open the
            // door for someone else later.
            if door.one_time_sequences.is_some() && !door.sequence.is_empty() {
                self.use_up(listener, index, door, None);
            }
            // The periodic check reports it.
            return;
        }
        // No rate limit on this line: it records what opened.
        let knock = DoorKnock { source, id: self.door_knock_id() };
        self.out.tell(of_door(
            EventKind::Door,
            &door,
            knock,
            format!("{source}: {}: OPEN SESAME", door.name),
        ));
        if !self.journal.is_writable() {
            return;
        }
        match door.one_time_sequences {
            Some(_) => self.use_up(listener, index, door, Some(knock)),
            None => self.open_door(now, &door, knock),
        }
    }

    fn door_knock_id(&mut self) -> Option<KnockId> {
        self.host.entropy().ok().map(|random| KnockId::of(&random))
    }

    fn open_door(&mut self, now: Now, door: &Door, knock: DoorKnock) {
        if door.service.is_some() {
            return self.grant_through(now, door, knock);
        }
        let opening = match self.commands.openings().prepare(now, door, knock.source) {
            Ok(opening) => opening,
            Err(refused) => {
                if let Some(text) = refused.text() {
                    self.out.tell(of_door(EventKind::Door, door, knock, text.to_owned()));
                }
                return;
            }
        };
        self.doors.prepared.push(opening);
    }

    /// Stores the openings that were prepared, all with one commit, and begins them.
    pub(super) fn begin_prepared(&mut self, now: Now) {
        let prepared = std::mem::take(&mut self.doors.prepared);
        if prepared.is_empty() {
            return;
        }
        let stored = commit_all(prepared, |entries| {
            let records: Vec<Record> = entries.into_iter().map(Record::Opened).collect();
            self.journal.commit(&records)
        });
        match stored {
            Ok(journalled) => self.begin(now, journalled),
            Err(fault) => self.commit_failed(&fault),
        }
    }

    /// Logs how many knocks each door refused because of its rate.
    pub(super) fn log_refused_openings(&mut self) {
        for (name, count) in std::mem::take(&mut self.doors.refused) {
            let Rate { per_second, .. } = OPENINGS;
            self.out.log(EventKind::Limit, format!(
                "door {name}: {count} complete knocks did not open it: at most {per_second} a second do"
            ));
        }
    }

    /// Opens a door that grants a service: changes the firewall first, so that no client waits for
    /// the disk, then defers the record. If the record is lost, a restart closes the door early.
    fn grant_through(&mut self, now: Now, door: &Door, knock: DoorKnock) {
        let source = knock.source;
        let grant = match self.policy.through_door(now, door, source, &self.grants) {
            Ok(grant) => grant,
            Err(status) => {
                let why = why_not(status);
                let text = format!("{source}: {}: not granted: {why}", door.name);
                let event = of_door(EventKind::Refused, door, knock, text);
                return self.out.tell_of_door(event.reason(status.word()));
            }
        };
        let (changes, grant) = self.grants.open_for_door(now, grant);
        if let Err(fault) = self.apply(now, &changes) {
            self.log_firewall_refusal(&fault);
            self.grants.end(now, &[grant.key], GrantEnd::Revoked);
            return;
        }
        self.journal.defer(&[Record::Granted(grant)]);
        let (service, seconds) = (grant.key.service, grant.seconds_left(now));
        let until = clock_time(now.wall.plus(seconds));
        let text = format!("{}: {service} granted to {source} until {until}", door.name);
        let event = of_door(EventKind::Granted, door, knock, text);
        self.out.tell(event.service(service).seconds(seconds));
    }

    /// Queues a one-time sequence; it must be durably marked as used before anything opens. During
    /// a reload the old and the new listener may both report one knock: only the first report opens
    /// the door.
    fn use_up(
        &mut self, listener: ListenerId, index: u16, door: Door, opens_for: Option<DoorKnock>,
    ) {
        if self.doors.is_using(&door) {
            return self.log_used_before(&door.name);
        }
        self.doors.uses.push_back(PendingUse { listener, index, door, opens_for });
    }

    fn log_used_before(&mut self, name: &str) {
        self.out.log(
            EventKind::Door,
            format!("door {name}: its one-time sequence was used up before, so it stays shut"),
        );
    }

    /// Starts to mark the next sequence as used, if one waits and no task is running.
    pub(super) fn start_sequence_use(&mut self, now: Now) {
        if self.doors.running || !self.tasks.is_free(Lane::Files) {
            return;
        }
        let Some(next) = self.doors.uses.front() else { return };
        let task = Task::UseUp(Box::new(next.door.clone()));
        self.doors.running = true;
        self.tasks.start(now, task, &mut self.out);
    }

    /// Handles the result of marking a sequence as used, and opens the door if it succeeded.
    pub(super) fn sequence_used(&mut self, now: Now, result: Result<SequenceUse, String>) {
        let Some(PendingUse { listener, index, mut door, opens_for }) = self.doors.finished()
        else {
            return;
        };
        match result {
            Ok(used) => {
                let by_us = used.by_us;
                self.take_next_sequence(listener, index, &mut door, used);
                match opens_for {
                    _ if !by_us => self.log_used_before(&door.name),
                    Some(knock) if self.journal.is_writable() => {
                        self.open_door(now, &door, knock);
                        self.begin_prepared(now);
                    }
                    _ => {}
                }
            }
            Err(reason) => self.out.log(
                EventKind::Door,
                format!(
                    "door {}: its one-time sequence cannot be used up, so it stays shut: {reason}",
                    door.name
                ),
            ),
        }
    }

    /// Handles a result that came after its deadline: opens nothing, but puts the next sequence in
    /// force.
    pub(super) fn late_sequence_used(&mut self, door: &Door, result: Result<SequenceUse, String>) {
        let Ok(used) = result else { return };
        if let Some((listener, index)) = self.listeners.find_door(door) {
            self.take_next_sequence(listener, index, &mut door.clone(), used);
        }
    }

    /// Puts the next sequence in force. A door without one is disabled.
    fn take_next_sequence(
        &mut self, listener: ListenerId, index: u16, door: &mut Door, used: SequenceUse,
    ) {
        door.fixed_first = false;
        let next = used.next.unwrap_or_default();
        let file = door.one_time_sequences.as_deref().unwrap_or("".as_ref()).display().to_string();
        if is_shipped(&next) {
            self.out.log(
                EventKind::Door,
                format!("door {} stays shut from now on: {NEXT_IS_SHIPPED} in {file}", door.name),
            );
            door.sequence = Vec::new();
        } else {
            door.sequence = next;
            if door.sequence.is_empty() {
                self.out.log(EventKind::Door, format!(
                    "no more sequences left in the one time sequences file for door {} --> disabling the door",
                    door.name
                ));
            }
        }
        self.listeners.set_door(listener, index, door);
        self.out.send(listener, ToListener::Sequence { door: index, steps: door.sequence.clone() });
    }

    /// Logs a step in knockd's format, if the door exists.
    pub(super) fn log_door_step(
        &mut self, listener: ListenerId, index: u16, source: IpAddr, what: &str,
    ) {
        if let Some(door) = self.listeners.door_of(listener, index) {
            let text = format!("{source}: {}: {what}", door.name);
            let knock = DoorKnock { source, id: None };
            let event = of_door(EventKind::Door, door, knock, text);
            self.out.tell_of_door(event);
        }
    }
}

fn of_door(
    kind: EventKind, door: &Door, DoorKnock { source, id }: DoorKnock, text: String,
) -> LogEvent {
    let event = LogEvent::new(kind, text).client(format!("door {}", door.name));
    LogEvent { id, ..event.address(source) }
}

fn why_not(status: Status) -> &'static str {
    match status {
        Status::Address => NEVER_GRANTED,
        Status::Full => "too many live grants",
        _ => "its service is not configured",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_why_a_door_grants_nothing_is_told() {
        assert!(why_not(Status::Address).contains("address"));
        assert!(why_not(Status::Full).contains("too many"));
        assert!(why_not(Status::Denied).contains("not configured"));
    }
}
