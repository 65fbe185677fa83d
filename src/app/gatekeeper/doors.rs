//! Classic doors: the effect of a completed sequence.
//! See `commands` for the commands of a door.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use super::Gatekeeper;
use super::events::{Lane, ListenerId, Task};
use super::knocks::NEVER_GRANTED;
use crate::app::warnings::NEXT_IS_SHIPPED;
use crate::core::door::{Door, is_shipped};
use crate::core::grants::GrantEnd;
use crate::core::knock::Status;
use crate::core::openings::{PreparedOpening, commit_all};
use crate::core::quota::{Bucket, Rate};
use crate::core::record::Record;
use crate::core::types::{Boot, Now};
use crate::edge::gatekeeper_pipe::ToListener;
use crate::edge::log::clock_time;
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
    /// The source to open the door for. `None`: only mark the sequence as used.
    opens_for: Option<IpAddr>,
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
        self.out.log(format!("{source}: {}: OPEN SESAME", door.name));
        if !self.journal.is_writable() {
            return;
        }
        match door.one_time_sequences {
            Some(_) => self.use_up(listener, index, door, Some(source)),
            None => self.open_door(now, &door, source),
        }
    }

    fn open_door(&mut self, now: Now, door: &Door, source: IpAddr) {
        if door.service.is_some() {
            return self.grant_through(now, door, source);
        }
        let opening = match self.commands.openings().prepare(now, door, source) {
            Ok(opening) => opening,
            Err(refused) => {
                if let Some(text) = refused.text() {
                    self.out.log(text);
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
            self.out.log(format!(
                "door {name}: {count} complete knocks did not open it: at most {per_second} a second do"
            ));
        }
    }

    /// Opens a door that grants a service: changes the firewall first, so that no client waits for
    /// the disk, then defers the record. If the record is lost, a restart closes the door early.
    fn grant_through(&mut self, now: Now, door: &Door, source: IpAddr) {
        let grant = match self.policy.through_door(now, door, source, &self.grants) {
            Ok(grant) => grant,
            Err(status) => {
                return self.out.log_door(format!(
                    "{source}: {}: not granted: {}",
                    door.name,
                    why_not(status)
                ));
            }
        };
        let (changes, grant) = self.grants.open_for_door(now, grant);
        if let Err(fault) = self.apply(now, &changes) {
            self.out.log(format!("the firewall refused a grant: {fault}"));
            self.grants.end(now, &[grant.key], GrantEnd::Revoked);
            return;
        }
        self.journal.defer(&[Record::Granted(grant)]);
        let until = clock_time(now.wall.plus(grant.seconds_left(now)));
        self.out
            .log(format!("{}: {} granted to {source} until {until}", door.name, grant.key.service));
    }

    /// Queues a one-time sequence; it must be durably marked as used before anything opens. During
    /// a reload the old and the new listener may both report one knock: only the first report opens
    /// the door.
    fn use_up(&mut self, listener: ListenerId, index: u16, door: Door, opens_for: Option<IpAddr>) {
        if self.doors.is_using(&door) {
            return self.log_used_before(&door.name);
        }
        self.doors.uses.push_back(PendingUse { listener, index, door, opens_for });
    }

    fn log_used_before(&mut self, name: &str) {
        self.out.log(format!(
            "door {name}: its one-time sequence was used up before, so it stays shut"
        ));
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
                    Some(source) if self.journal.is_writable() => {
                        self.open_door(now, &door, source);
                        self.begin_prepared(now);
                    }
                    _ => {}
                }
            }
            Err(reason) => self.out.log(format!(
                "door {}: its one-time sequence cannot be used up, so it stays shut: {reason}",
                door.name
            )),
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
            self.out.log(format!(
                "door {} stays shut from now on: {NEXT_IS_SHIPPED} in {file}",
                door.name
            ));
            door.sequence = Vec::new();
        } else {
            door.sequence = next;
            if door.sequence.is_empty() {
                self.out.log(format!(
                    "no more sequences left in the one time sequences file for door {} --> disabling the door",
                    door.name
                ));
            }
        }
        self.listeners.set_door(listener, index, door);
        self.out.send(listener, ToListener::Sequence { door: index, steps: door.sequence.clone() });
    }

    /// Logs a line in knockd's format, if the door exists.
    pub(super) fn log_door(
        &mut self, listener: ListenerId, index: u16, text: impl FnOnce(&str) -> String,
    ) {
        if let Some(door) = self.listeners.door_of(listener, index) {
            let text = text(&door.name);
            self.out.log_door(text);
        }
    }
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
