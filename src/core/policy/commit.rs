//! `Admission` -> `Grant`: nothing opens, ends or is told before its mark is durable.
//! Who may have what is left to the file above; nobody but this file can make a `Grant`.

#[cfg(test)]
use crate::core::authentic::Authentic;
#[cfg(test)]
use crate::core::grants::Holder;
use crate::core::grants::{ActiveGrant, GrantEnd, GrantKey, Grants};
use crate::core::knock::Status;
use crate::core::openings::{JournalledOpening, PreparedOpening, ServiceAddress, commit_all};
use crate::core::record::Record;
use crate::core::replay::{Fresh, Refused};
use crate::core::reply::{PendingReply, Reply};
#[cfg(test)]
use crate::core::test_vectors;
use crate::core::types::{Fault, Reject};

/// What is to become of an authentic knock, once its marks are durable.
pub enum Decision {
    /// It opens.
    Admit(Admission),
    /// Its sender's grants end.
    Close(Closing),
    /// It is only answered.
    Tell(PendingReply),
    /// Silence; nothing to store.
    Refuse(Refused),
}

impl Decision {
    /// What to count it as; `None` if the client gets what it asked for.
    pub fn reject(&self) -> Option<Reject> {
        match self {
            Decision::Admit(_) | Decision::Close(_) => None,
            Decision::Tell(told) => told.reject(),
            Decision::Refuse(refused) => Some(refused.reject),
        }
    }

    /// Where commands have to open before it is a grant; see
    /// [`crate::core::openings::Openings::hold`].
    pub fn place(&self) -> Option<ServiceAddress> {
        if let Decision::Admit(admission) = self { admission.live.place() } else { None }
    }
}

/// A grant that policy allows and no disk knows yet.
pub struct Admission {
    records: Vec<Record>,
    live: ActiveGrant,
    answer: Reply,
}

impl Admission {
    /// What policy allows; it counts from here on, until it is opened or given up.
    pub(super) fn new(fresh: Fresh, live: ActiveGrant, grants: &mut Grants) -> Admission {
        grants.reserve(live.key);
        let answer = Reply::new(&fresh.authentic, Status::Granted, None);
        let mut records = fresh.records;
        // One of commands ends with this process: what is stored of it is how to end it.
        records.extend(live.place().is_none().then_some(Record::Granted(live)));
        Admission { records, live, answer }
    }
}

/// The end of grants that no disk knows yet.
pub struct Closing {
    records: Vec<Record>,
    keys: Vec<GrantKey>,
    answer: Reply,
}

impl Closing {
    /// The end of these grants of the sender.
    pub(super) fn new(fresh: Fresh, keys: Vec<GrantKey>) -> Closing {
        let mut records = fresh.records;
        records.extend(Grants::endings(&keys));
        Closing { records, keys, answer: Reply::new(&fresh.authentic, Status::Closed, None) }
    }
}

/// A grant whose mark is durable. The only thing that [`Grants::open`] takes.
pub struct Grant {
    live: ActiveGrant,
    answer: Reply,
}

impl Grant {
    /// As if it had been decided and stored, for the tests of what comes after.
    #[cfg(test)]
    pub(crate) fn for_test(live: ActiveGrant) -> Grant {
        let Holder::Client(client) = live.key.holder else { panic!("doors are not told anything") };
        let authentic = Authentic::for_test(
            client,
            test_vectors::request(live.opened.wall),
            live.key.source,
            1,
        );
        Grant { live, answer: Reply::new(&authentic, Status::Granted, None) }
    }

    /// The grant, and what its holder is told once the firewall has it.
    pub(in crate::core) fn into_parts(self) -> (ActiveGrant, Reply) {
        (self.live, self.answer)
    }
}

/// What may be done now.
pub enum Committed {
    /// Give it to [`Grants::open`], its changes to the firewall, then answer.
    Open(Grant),
    /// Give the keys to [`Grants::end`], its changes to the firewall, then answer.
    Close(Vec<GrantKey>, GrantEnd, Reply),
    /// Answer.
    Tell(Reply),
}

/// Makes a batch durable, all in one, and only then hands out what may be done. After a fault
/// nothing of it may, and [`Grants::give_up`] must be called; the marks in memory stay.
pub fn commit(
    decisions: Vec<Decision>,
    store: impl FnOnce(&[Record]) -> Result<(), Fault>,
) -> Result<Vec<Committed>, Fault> {
    commit_with(decisions, Vec::new(), store).map(|(done, _)| done)
}

/// The same with the openings that some of the grants need: neither is durable without the other.
pub fn commit_with(
    decisions: Vec<Decision>,
    openings: Vec<PreparedOpening>,
    store: impl FnOnce(&[Record]) -> Result<(), Fault>,
) -> Result<(Vec<Committed>, Vec<JournalledOpening>), Fault> {
    let mut records = Vec::new();
    let mut done = Vec::new();
    for decision in decisions {
        match decision {
            Decision::Admit(Admission { records: mine, live, answer }) => {
                records.extend(mine);
                done.push(Committed::Open(Grant { live, answer }));
            }
            Decision::Close(Closing { records: mine, keys, answer }) => {
                records.extend(mine);
                done.push(Committed::Close(keys, GrantEnd::Closed, answer));
            }
            Decision::Tell(PendingReply { records: mine, answer, .. }) => {
                records.extend(mine);
                done.push(Committed::Tell(answer));
            }
            Decision::Refuse(_) => {}
        }
    }
    let journalled = commit_all(openings, |opened| {
        records.extend(opened.into_iter().map(Record::Opened));
        if records.is_empty() { Ok(()) } else { store(&records) }
    })?;
    Ok((done, journalled))
}
