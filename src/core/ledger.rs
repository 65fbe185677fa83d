//! What a list of records amounts to: the marks, grants and openings that still count, and the
//! shortest list that says the same. Where the records lie is left to `edge::state`, what follows
//! from them to `replay`, `grants` and `leases`.

use std::collections::BTreeMap;

use super::grants::{ActiveGrant, GrantKey};
use super::openings::OpeningEntry;
use super::record::Record;
use super::replay::UsedMarks;
use super::service::DisconnectPolicy;
use super::types::{ClientId, Wall};

/// The sum of a journal. Grows with enrolled clients, live grants and waiting stop commands, each
/// bounded where it is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    marks: BTreeMap<ClientId, UsedMarks>,
    newest: Wall,
    lost: Option<Wall>,
    reinitialised: Option<Wall>,
    grants: BTreeMap<GrantKey, ActiveGrant>,
    openings: BTreeMap<u64, OpeningEntry>,
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
            Record::Seen { client, timestamp } => {
                self.marks.entry(*client).or_default().see(*timestamp)
            }
            Record::Burned { client, timestamp } => {
                self.marks.entry(*client).or_default().record(*timestamp)
            }
            Record::Marks { client, marks } => drop(self.marks.insert(*client, marks.clone())),
            Record::Newest { wall } => self.newest = self.newest.max(*wall),
            // The end of a grant may be among what is lost: none goes on.
            Record::Lost { at } => (self.lost, self.grants) = (Some(*at), BTreeMap::new()),
            // Also how an admin says that the clock was ahead before: the newest time goes back
            // with him.
            Record::Reinitialised { at } => {
                (self.lost, self.reinitialised, self.newest) = (None, Some(*at), *at)
            }
            Record::Granted(live) => drop(self.grants.insert(live.key, *live)),
            Record::Ended(key) => drop(self.grants.remove(key)),
            Record::Opened(opened) => drop(self.openings.insert(opened.id, opened.clone())),
            Record::Stopped { id } => drop(self.openings.remove(id)),
        }
    }

    /// The shortest list with the same sum. Grants that were over when the clock was last looked at
    /// are left out, unless connections that came in under them can still be cut.
    pub fn records(&self) -> Vec<Record> {
        let marks = |(client, marks): (&ClientId, &UsedMarks)| Record::Marks {
            client: *client,
            marks: marks.clone(),
        };
        let mut records: Vec<Record> = self.marks.iter().map(marks).collect();
        records.extend(self.reinitialised.map(|at| Record::Reinitialised { at }));
        records.push(Record::Newest { wall: self.newest });
        records.extend(self.lost.map(|at| Record::Lost { at }));
        let counts =
            |live: &&ActiveGrant| live.until() > self.newest || live.cut != DisconnectPolicy::Never;
        records.extend(self.grants.values().filter(counts).map(|live| Record::Granted(*live)));
        records.extend(self.openings.values().cloned().map(Record::Opened));
        records
    }

    /// The marks of every client that has any.
    pub fn marks(&self) -> impl Iterator<Item = (ClientId, &UsedMarks)> {
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

    /// Grants that did not end before their time; whether that is over is for
    /// [`super::grants::Grants::restore`] to see.
    pub fn grants(&self) -> impl Iterator<Item = &ActiveGrant> {
        self.grants.values()
    }

    /// Openings whose stop command has not ended, oldest first.
    pub fn openings(&self) -> impl Iterator<Item = &OpeningEntry> {
        self.openings.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::grants::Holder;
    use crate::core::knock::Ports;
    use crate::core::openings::CommandLine;
    use crate::core::prefix::Span;
    use crate::core::service::{AddressProof, GrantKind};
    use crate::core::types::{Boot, Now, SECOND, ServiceName, Source};

    fn at(second: u64) -> Wall {
        Wall(second * SECOND)
    }

    /// A grant from 100 to 160.
    fn grant(cut: DisconnectPolicy) -> Record {
        let key = GrantKey {
            holder: Holder::door("side"),
            service: ServiceName::new("ssh").unwrap(),
            source: Source::new([192, 0, 2, 7].into()),
            source_port: 0,
            span: Span::Host,
        };
        let (ports, opened): (Ports, _) = ([None; 4], Now { wall: at(100), boot: Boot(1) });
        Record::Granted(ActiveGrant {
            key,
            form: GrantKind::Time,
            ports,
            opened,
            seconds: 60,
            cut,
            basis: AddressProof::Seen,
        })
    }

    #[test]
    fn the_shortest_list_has_a_grant_until_it_is_over_and_one_that_can_be_cut_also_after_that() {
        let kept = |cut, now| {
            let records = Ledger::of(&[grant(cut), Record::Newest { wall: now }]).records();
            records.iter().filter(|record| matches!(record, Record::Granted(_))).count()
        };
        let last = Wall(at(160).0 - 1);
        assert_eq!(
            [at(100), last, at(160), at(161)].map(|now| kept(DisconnectPolicy::Never, now)),
            [1, 1, 0, 0]
        );
        assert_eq!(
            [at(100), last, at(160), at(161)].map(|now| kept(DisconnectPolicy::Revoked, now)),
            [1, 1, 1, 1]
        );
    }

    #[test]
    fn that_a_loss_was_accepted_and_when_is_not_forgotten_with_the_loss() {
        let ledger = Ledger::of(&[Record::Lost { at: at(1) }, Record::Reinitialised { at: at(2) }]);
        let again = Ledger::of(&ledger.records());
        for ledger in [ledger, again] {
            assert_eq!(
                (ledger.lost(), ledger.reinitialised(), ledger.newest()),
                (None, Some(at(2)), at(2))
            );
        }
        assert_eq!(Ledger::default().reinitialised(), None);
    }

    #[test]
    fn an_opening_is_there_until_its_stop_command_has_ended_the_oldest_first() {
        let opened = |id| OpeningEntry {
            id,
            door: "side".into(),
            source: [192, 0, 2, 7].into(),
            stop: CommandLine::Shell("stop".into()),
            opened: at(100),
            timeout: 5,
        };
        let records = [2, 1, 3].map(|id| Record::Opened(opened(id)));
        let ledger = Ledger::of(&[&records[..], &[Record::Stopped { id: 1 }]].concat());
        let again = Ledger::of(&ledger.records());
        for ledger in [ledger, again] {
            assert_eq!(ledger.openings().cloned().collect::<Vec<_>>(), [opened(2), opened(3)]);
        }
    }
}
