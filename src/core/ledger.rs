//! The sum of a list of records: the marks, grants and openings that still count, and the shortest
//! list with the same sum. See `edge::state` for the file.

use std::collections::BTreeMap;

use super::grant::{ActiveGrant, GrantKey};
use super::marks::UsedMarks;
use super::openings::OpeningEntry;
use super::record::Record;
use super::service::DisconnectPolicy;
use super::types::{ClientId, Wall};

/// The sum of a journal. It grows with enrolled clients, live grants and pending stop commands,
/// each bounded where it is made.
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
        for record in records {
            ledger.apply(record);
        }
        ledger
    }

    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Seen { client, timestamp } => {
                self.marks.entry(*client).or_default().see(*timestamp);
            }
            Record::Burned { client, first, last } => {
                self.marks.entry(*client).or_default().burn(*first, *last);
            }
            Record::Marks { client, marks } => {
                self.marks.insert(*client, marks.clone());
            }
            Record::Forgotten { client } => drop(self.marks.remove(client)),
            Record::Newest { wall } => self.newest = self.newest.max(*wall),
            Record::Lost { at } => {
                self.lost = Some(*at);
                // The end of a grant may be among the lost records: none goes on.
                self.grants.clear();
            }
            Record::Reinitialised { at } => {
                self.lost = None;
                self.reinitialised = Some(*at);
                // An admin also says this after a clock that was ahead: the newest time goes back.
                self.newest = *at;
            }
            Record::Granted(grant) => {
                self.grants.insert(grant.key, *grant);
            }
            Record::Ended(key) => {
                self.grants.remove(key);
            }
            Record::Opened(entry) => {
                self.openings.insert(entry.id, entry.clone());
            }
            Record::Stopped { id } => {
                self.openings.remove(id);
            }
        }
    }

    /// The shortest list with the same sum. Grants that were over at the newest time are left out,
    /// unless connections that came in under them can still be cut.
    pub fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (client, marks) in &self.marks {
            records.push(Record::Marks { client: *client, marks: marks.clone() });
        }
        records.extend(self.reinitialised.map(|at| Record::Reinitialised { at }));
        records.push(Record::Newest { wall: self.newest });
        records.extend(self.lost.map(|at| Record::Lost { at }));
        for grant in self.grants.values() {
            if grant.until() > self.newest || grant.cut != DisconnectPolicy::Never {
                records.push(Record::Granted(*grant));
            }
        }
        records.extend(self.openings.values().cloned().map(Record::Opened));
        records
    }

    pub fn marks(&self) -> impl Iterator<Item = (ClientId, &UsedMarks)> {
        self.marks.iter().map(|(client, marks)| (*client, marks))
    }

    /// The newest time that a trusted clock showed.
    pub fn newest(&self) -> Wall {
        self.newest
    }

    /// The time at which a loss of records was found that no admin has accepted yet.
    pub fn lost(&self) -> Option<Wall> {
        self.lost
    }

    /// The time at which an admin last accepted a loss.
    pub fn reinitialised(&self) -> Option<Wall> {
        self.reinitialised
    }

    /// Grants that were not ended before their time. Some may be over.
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
    use crate::core::grant::Holder;
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
            span: Span::HOST,
        };
        Record::Granted(ActiveGrant {
            key,
            form: GrantKind::Time,
            ports: 22,
            opened: Now { wall: at(100), boot: Boot(1) },
            seconds: 60,
            cut,
            proof: AddressProof::Seen,
        })
    }

    #[test]
    fn the_shortest_list_has_a_grant_until_it_is_over_or_longer_if_it_can_be_cut() {
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
    fn the_time_when_a_loss_was_accepted_is_kept_after_the_loss() {
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
