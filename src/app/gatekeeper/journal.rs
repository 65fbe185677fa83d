//! The journal: commits before anything opens, what may follow later, and what happens when the
//! disk fails. See `edge::state` for the files, `core::record` for what is written.

use std::collections::BTreeMap;

use super::Gatekeeper;
use super::events::{Lane, Task};
use super::outbox::Outbox;
use super::tasks::Tasks;
use crate::core::ledger::Ledger;
use crate::core::record::Record;
use crate::core::types::{Fault, Now};
use crate::edge::state::{Recovered, State, StateDone};

/// What status says of a state from which no mark is missing.
const INTACT: &str = "intact";

/// The state file as the gatekeeper uses it.
pub(super) struct Journal {
    state: State,
    /// How the state was found: [`INTACT`], or what happened.
    origin: String,
}

impl Journal {
    pub(super) fn new(state: State, recovered: &Recovered) -> Journal {
        let mut journal = Journal { state, origin: INTACT.to_owned() };
        journal.note_origin(recovered);
        journal
    }

    /// True unless a commit failed: then nothing opens until everything was read again.
    pub(super) fn is_writable(&self) -> bool {
        !self.state.is_poisoned()
    }

    /// What happened to the state, if anything did.
    pub(super) fn damage(&self) -> Option<&str> {
        Some(self.origin.as_str()).filter(|origin| *origin != INTACT)
    }

    /// For status.
    pub(super) fn describe(&self) -> &str {
        if self.is_writable() { &self.origin } else { "NOT WRITABLE: nothing opens" }
    }

    /// Makes `records` durable: one write, one sync. What they allow may be done only then.
    pub(super) fn commit(&mut self, records: &[Record]) -> Result<(), Fault> {
        if records.is_empty() { Ok(()) } else { self.state.commit(records) }
    }

    /// Writes `records` with the next commit, or soon. For what is safe to lose.
    pub(super) fn defer(&mut self, records: &[Record]) {
        self.state.defer(records);
    }

    /// True if everything that was deferred is durable, or cannot be now.
    pub(super) fn is_settled(&self) -> bool {
        !self.state.is_deferred() || !self.is_writable()
    }

    /// An admin accepts what happened to the state.
    fn accept(&mut self) {
        self.origin = INTACT.to_owned();
    }

    /// Starts what is to be done beside the loop: writing what was deferred, compaction.
    pub(super) fn maintain(&mut self, now: Now, tasks: &mut Tasks, out: &mut Outbox) {
        if tasks.is_free(Lane::State)
            && let Some(job) = self.state.job()
        {
            tasks.start(now, Task::State(job), out);
        }
    }

    /// Starts to read everything again after a commit that failed.
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

/// What an admin is told while commits fail.
pub(super) fn not_writable() -> Fault {
    Fault::new(
        "the state cannot be written",
        "see the log for its reason; the gateway tries again by itself",
    )
}

impl Gatekeeper {
    /// A commit failed: nothing of it may be acted upon.
    pub(super) fn commit_failed(&mut self, fault: &Fault) {
        self.out.log(format!("NOTHING OPENS: {fault}"));
    }

    /// What nobody would tell us of.
    pub(super) fn look_after_journal(&mut self, now: Now) {
        if let Some(record) = self.replay.heartbeat(now, 60) {
            self.journal.defer(&[record]);
        }
        if !self.journal.is_writable() {
            self.journal.reopen(now, &mut self.tasks, &mut self.out);
        }
    }

    /// A task of the state has ended.
    pub(super) fn journal_task_done(&mut self, done: StateDone) {
        match self.journal.state.finish(done) {
            Ok(Some(recovered)) => self.read_again(&recovered),
            Ok(None) => {}
            Err(fault) if self.journal.is_writable() => {
                self.out.log_at_most("state", 60, fault.to_string())
            }
            Err(fault) => self.commit_failed(&fault),
        }
    }

    /// A task of the state takes too long. What it writes is durable later or never: who waits for
    /// that waits no longer.
    pub(super) fn journal_task_late(&mut self, fault: &Fault) {
        self.out.log_at_most("state", 60, fault.to_string());
        self.answer_unstored(Some(fault));
    }

    /// The state was read again after a failure. The marks in memory stay: they are at least those
    /// on disk.
    fn read_again(&mut self, recovered: &Recovered) {
        // What was written by a commit that failed may stand there: nothing of it was done, so
        // nothing of it may come to life at the next start.
        let corrections = self.corrections(&recovered.ledger);
        if let Err(fault) = self.journal.commit(&corrections) {
            return self.commit_failed(&fault);
        }
        self.journal.note_origin(recovered);
        if let Some(at) = recovered.ledger.lost() {
            self.replay.record_loss(at);
        }
        self.out.log("the state was read again; knocks count again");
    }

    /// The records that make `ledger` say what is true: our grants and openings, and no others.
    fn corrections(&self, ledger: &Ledger) -> Vec<Record> {
        let mut active = BTreeMap::new();
        for grant in
            self.grants.list().chain(self.grants.past()).filter(|grant| grant.place().is_none())
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

    /// An admin accepts that marks were lost, or that the clock was ahead. Counts at once; the
    /// admin is told when it is durable.
    pub(super) fn reinitialise(&mut self, now: Now) -> Result<String, Fault> {
        if !self.journal.is_writable() {
            return Err(not_writable());
        }
        let records = self.replay.reinitialise(now);
        self.journal.defer(&records);
        self.journal.accept();
        Ok("re-initialised: timestamps from now on count again".to_owned())
    }
}
