//! The journal: commits before anything opens, deferred records, and the handling of disk failures.
//! See `edge::state` for the files and `core::record` for the records.

use crate::core::event::EventKind;
use crate::edge::log::LogEvent;
use std::collections::BTreeMap;

use super::Gatekeeper;
use super::events::{Lane, Task};
use super::outbox::Outbox;
use super::tasks::Tasks;
use crate::core::ledger::Ledger;
use crate::core::record::Record;
use crate::core::types::{Fault, Now};
use crate::edge::state::{Recovered, State, StateDone};

/// The status text of a state that has lost no used-knock mark.
const INTACT: &str = "intact";

pub(super) struct Journal {
    state: State,
    /// The condition of the state: [`INTACT`], or a description of the damage.
    origin: String,
}

impl Journal {
    pub(super) fn new(state: State, recovered: &Recovered) -> Journal {
        let mut journal = Journal { state, origin: INTACT.to_owned() };
        journal.note_origin(recovered);
        journal
    }

    /// False after a commit failed: then nothing opens until the state has been read again.
    pub(super) fn is_writable(&self) -> bool {
        !self.state.is_poisoned()
    }

    /// A description of the damage to the state, if any.
    pub(super) fn damage(&self) -> Option<&str> {
        Some(self.origin.as_str()).filter(|origin| *origin != INTACT)
    }

    /// The state's condition, for the status.
    pub(super) fn describe(&self) -> &str {
        if self.is_writable() { &self.origin } else { "NOT WRITABLE: nothing opens" }
    }

    /// Makes `records` durable with one write and one sync. Act on them only after this.
    pub(super) fn commit(&mut self, records: &[Record]) -> Result<(), Fault> {
        if records.is_empty() { Ok(()) } else { self.state.commit(records) }
    }

    /// Writes `records` with the next commit, or soon. Only for records that are safe to lose.
    pub(super) fn defer(&mut self, records: &[Record]) {
        self.state.defer(records);
    }

    /// True if all deferred records are durable, or cannot be written now.
    pub(super) fn is_settled(&self) -> bool {
        !self.state.is_deferred() || !self.is_writable()
    }

    /// Clears the damage, after an admin has accepted it.
    fn accept(&mut self) {
        self.origin = INTACT.to_owned();
    }

    /// Starts the next task: write deferred records, or compact the file.
    pub(super) fn maintain(&mut self, now: Now, tasks: &mut Tasks, out: &mut Outbox) {
        if tasks.is_free(Lane::State)
            && let Some(job) = self.state.job()
        {
            tasks.start(now, Task::State(job), out);
        }
    }

    /// Starts to read the whole state again after a failed commit.
    fn reopen(&mut self, now: Now, tasks: &mut Tasks, out: &mut Outbox) {
        if tasks.is_free(Lane::State)
            && let Some(job) = self.state.reopen_job(now.wall)
        {
            tasks.start(now, Task::State(job), out);
        }
    }

    fn note_origin(&mut self, recovered: &Recovered) {
        if let Some(why) = &recovered.why {
            self.origin = why.to_string();
        }
    }
}

/// The fault shown to an admin while commits fail.
pub(super) fn not_writable() -> Fault {
    Fault::new(
        "the state cannot be written",
        "see the log for its reason; the gateway tries again by itself",
    )
}

impl Gatekeeper {
    /// Logs a failed commit. The caller must not act on its records.
    pub(super) fn commit_failed(&mut self, fault: &Fault) {
        let event = LogEvent::new(EventKind::State, format!("NOTHING OPENS: {fault}"));
        self.out.tell(event.failed());
    }

    /// Records the time unless that was done less than `seconds` ago, so that a clock set back
    /// while toctocd is down is noticed.
    pub(super) fn record_time(&mut self, now: Now, seconds: u32) {
        if let Some(record) = self.replay.heartbeat(now, seconds) {
            self.journal.defer(&[record]);
        }
    }

    /// The periodic check.
    pub(super) fn look_after_journal(&mut self, now: Now) {
        // A client that has just expired must stay expired, also after a crash with a clock that is
        // set back.
        let seconds = match self.policy.expires_between(self.replay.recorded(), now.wall) {
            true => 0,
            false => 60,
        };
        self.record_time(now, seconds);
        let clients = self.policy.clients();
        let forgotten = self.replay.forget(now, |id| clients.get(id).is_some());
        if !forgotten.is_empty() {
            self.journal.defer(&forgotten);
        }
        if !self.journal.is_writable() {
            self.journal.reopen(now, &mut self.tasks, &mut self.out);
        }
    }

    /// Handles the result of a state task.
    pub(super) fn journal_task_done(&mut self, done: StateDone) {
        match self.journal.state.finish(done) {
            Ok(Some(recovered)) => self.read_again(&recovered),
            Ok(None) => {}
            Err(fault) if self.journal.is_writable() => self.tell_of_disk(&fault),
            Err(fault) => self.commit_failed(&fault),
        }
    }

    /// Handles a state task that missed its deadline. Its records become durable later or never, so
    /// waiting replies fail now.
    pub(super) fn journal_task_late(&mut self, fault: &Fault) {
        self.tell_of_disk(fault);
        self.answer_unstored(Some(fault));
        self.answer_closing(false);
    }

    fn tell_of_disk(&mut self, fault: &Fault) {
        let event = LogEvent::new(EventKind::State, fault.to_string());
        self.out.tell_at_most("state", 60, event.failed());
    }

    /// Continues after the state was read again. The marks in memory are kept: they include all
    /// those on disk.
    fn read_again(&mut self, recovered: &Recovered) {
        // The failed commit may be on disk although none of it took effect. Correct the file, so
        // that the next start does not act on it.
        let corrections = self.corrections(&recovered.ledger);
        if let Err(fault) = self.journal.commit(&corrections) {
            return self.commit_failed(&fault);
        }
        self.journal.note_origin(recovered);
        if let Some(at) = recovered.ledger.lost() {
            self.replay.record_loss(at);
        }
        self.out.log(EventKind::State, "the state was read again; knocks count again");
    }

    /// The records that make `ledger` match our grants and openings.
    fn corrections(&self, ledger: &Ledger) -> Vec<Record> {
        let mut active = BTreeMap::new();
        for grant in self
            .grants
            .list()
            .chain(self.grants.past_after(None))
            .filter(|grant| grant.place().is_none())
        {
            active.insert(grant.key, *grant);
        }
        let ended = ledger.grants().filter(|there| !active.contains_key(&there.key));
        let mut records: Vec<Record> = ended.map(|there| Record::Ended(there.key)).collect();
        let stopped = ledger.openings().filter(|there| !self.commands.knows(there.id));
        records.extend(stopped.map(|there| Record::Stopped { id: there.id }));
        records.extend(active.into_values().map(Record::Granted));
        records
    }

    /// Accepts lost marks or a clock that was ahead, on an admin's order. Takes effect at once; the
    /// admin's reply waits until it is durable.
    pub(super) fn reinitialise(&mut self, now: Now) -> Result<String, Fault> {
        if !self.journal.is_writable() {
            return Err(not_writable());
        }
        if self.journal.damage().is_none() && self.replay.challenge_reason(now).is_none() {
            return Err(Fault::new(
                "the state is intact and the clock is trusted: there is nothing to accept",
                "`toctocd status` shows both; a client whose clock was ahead needs `toctocd client \
                 forgive`",
            ));
        }
        let records = self.replay.reinitialise(now);
        self.journal.defer(&records);
        self.journal.accept();
        Ok("re-initialised: timestamps from now on count again".to_owned())
    }
}
