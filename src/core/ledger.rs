//! What a list of records amounts to: the marks, grants and openings that still count, and the shortest list that says the same.
//! Where the records lie is left to `edge::state`, what follows from them to `replay`, `grants` and `leases`.

use std::collections::BTreeMap;

use super::grants::{Key, Live};
use super::leases::Opened;
use super::record::Record;
use super::replay::Marks;
use super::service::Cut;
use super::types::{ClientId, Wall};

/// The sum of a journal. Grows with enrolled clients, live grants and waiting stop commands, each bounded where it is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    marks: BTreeMap<ClientId, Marks>,
    newest: Wall,
    lost: Option<Wall>,
    reinitialised: Option<Wall>,
    grants: BTreeMap<Key, Live>,
    openings: BTreeMap<u64, Opened>,
}

impl Ledger {
    /// The sum of `records`, oldest first.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut ledger = Self::default();
        records.into_iter().for_each(|record| ledger.apply(record));
        ledger
    }

    /// Adds one record.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Seen { client, timestamp } => self.marks.entry(*client).or_default().see(*timestamp),
            Record::Burned { client, timestamp } => self.marks.entry(*client).or_default().burn(*timestamp),
            Record::Marks { client, marks } => drop(self.marks.insert(*client, marks.clone())),
            Record::Newest { wall } => self.newest = self.newest.max(*wall),
            // The end of a grant may be among what is lost: none goes on.
            Record::Lost { at } => (self.lost, self.grants) = (Some(*at), BTreeMap::new()),
            // Also how an admin says that the clock was ahead before: the newest time goes back with him.
            Record::Reinitialised { at } => (self.lost, self.reinitialised, self.newest) = (None, Some(*at), *at),
            Record::Granted(live) => drop(self.grants.insert(live.key, *live)),
            Record::Ended(key) => drop(self.grants.remove(key)),
            Record::Opened(opened) => drop(self.openings.insert(opened.id, opened.clone())),
            Record::Stopped { id } => drop(self.openings.remove(id)),
        }
    }

    /// The shortest list with the same sum. Grants that were over when the clock was last looked at are left out, unless
    /// connections that came in under them can still be cut.
    pub fn records(&self) -> Vec<Record> {
        let marks = |(client, marks): (&ClientId, &Marks)| Record::Marks { client: *client, marks: marks.clone() };
        let mut records: Vec<Record> = self.marks.iter().map(marks).collect();
        records.extend(self.reinitialised.map(|at| Record::Reinitialised { at }));
        records.push(Record::Newest { wall: self.newest });
        records.extend(self.lost.map(|at| Record::Lost { at }));
        let counts = |live: &&Live| live.until() > self.newest || live.cut != Cut::Never;
        records.extend(self.grants.values().filter(counts).map(|live| Record::Granted(*live)));
        records.extend(self.openings.values().cloned().map(Record::Opened));
        records
    }

    /// The marks of every client that has any.
    pub fn marks(&self) -> impl Iterator<Item = (ClientId, &Marks)> {
        self.marks.iter().map(|(client, marks)| (*client, marks))
    }

    /// The newest time that a trusted clock showed.
    pub fn newest(&self) -> Wall {
        self.newest
    }

    /// When a loss of records was found that no admin has accepted yet.
    pub fn lost(&self) -> Option<Wall> {
        self.lost
    }

    /// When an admin last accepted a loss.
    pub fn reinitialised(&self) -> Option<Wall> {
        self.reinitialised
    }

    /// Grants that did not end before their time; whether that is over is for [`super::grants::Grants::restore`] to see.
    pub fn grants(&self) -> impl Iterator<Item = &Live> {
        self.grants.values()
    }

    /// Openings whose stop command has not ended, oldest first.
    pub fn openings(&self) -> impl Iterator<Item = &Opened> {
        self.openings.values()
    }
}
