//! `Admission` -> `Grant`: nothing opens, ends or is replied before its mark is durable.
//!
//! A child of `policy`, so that only `policy` can make an `Admission`, a `Closing` or a
//! `DoorGrant`, and nobody but this file can make a `Grant`.

use crate::core::grant::{ActiveGrant, GrantEnd, GrantKey};
use crate::core::knock::{Ports, Status};
use crate::core::openings::{JournalledOpening, PreparedOpening, ServiceAddress, commit_all};
use crate::core::public_key::PublicKey;
use crate::core::record::Record;
use crate::core::replay::{Fresh, Refused};
use crate::core::reply::{PendingReply, Reply};
use crate::core::types::{Fault, Reject};

/// The outcome of an authentic knock, once its marks are durable.
pub enum Decision {
    Admit(Admission),
    Close(Closing),
    Tell(PendingReply),
    Join(Candidate),
    /// Silence; nothing to store.
    Refuse(Refused),
}

impl Decision {
    /// The reason to count; `None` if the client gets what it asked for.
    pub fn reject(&self) -> Option<Reject> {
        match self {
            Decision::Admit(_) | Decision::Close(_) | Decision::Join(_) => None,
            Decision::Tell(reply) => reply.reject(),
            Decision::Refuse(refused) => Some(refused.reject),
        }
    }

    /// The opening that has to start before it is a grant. See `Openings::acquire`.
    pub fn place(&self) -> Option<ServiceAddress> {
        if let Decision::Admit(admission) = self { admission.grant.place() } else { None }
    }
}

/// A grant that policy allows and no disk knows yet.
pub struct Admission {
    records: Vec<Record>,
    grant: ActiveGrant,
    reply: Reply,
}

impl Admission {
    #[cfg(test)]
    pub(super) fn grant(&self) -> &ActiveGrant {
        &self.grant
    }

    pub(super) fn new(fresh: Fresh, grant: ActiveGrant, ports: Ports) -> Admission {
        let reply = Reply { ports, ..Reply::new(&fresh.authentic, Status::Granted, None) };
        let mut records = fresh.records;
        // A grant of commands ends with this process: the journal holds its stop command instead.
        if grant.place().is_none() {
            records.push(Record::Granted(grant));
        }
        Admission { records, grant, reply }
    }
}

/// The end of grants that no disk knows yet.
pub struct Closing {
    records: Vec<Record>,
    keys: Vec<GrantKey>,
    reply: Reply,
}

impl Closing {
    /// `closings`: the records of the end of these grants.
    pub(super) fn new(fresh: Fresh, keys: Vec<GrantKey>, closings: Vec<Record>) -> Closing {
        let reply = Reply::new(&fresh.authentic, Status::Closed, None);
        let mut records = fresh.records;
        records.extend(closings);
        Closing { records, keys, reply }
    }
}

/// A key that asks to join; no disk knows of its knock yet.
pub struct Candidate {
    records: Vec<Record>,
    applicant: Applicant,
}

impl Candidate {
    pub(super) fn new(fresh: Fresh, key: PublicKey) -> Candidate {
        // Until the file `joined` has decided, the answer is that it could not.
        let reply = Reply::new(&fresh.authentic, Status::Trouble, None);
        Candidate { records: fresh.records, applicant: Applicant { key, reply } }
    }
}

/// A key that asks to join. Its knock is used up, durably: only this makes it join or wait.
pub struct Applicant {
    key: PublicKey,
    reply: Reply,
}

impl Applicant {
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The reply that it could not be decided.
    pub fn reply(&self) -> &Reply {
        &self.reply
    }
}

/// A grant whose mark is durable. The only thing that `Grants::open` takes.
pub struct Grant {
    grant: ActiveGrant,
    reply: Reply,
}

impl Grant {
    /// A grant as if it had been decided and stored, for the tests of later steps.
    #[cfg(test)]
    pub(crate) fn for_test(grant: ActiveGrant) -> Grant {
        use crate::core::{authentic::Authentic, grant::Holder, test_vectors};
        let Holder::Client(client) = grant.key.holder else { panic!("doors get no reply") };
        let request = test_vectors::request(grant.opened.wall);
        let authentic = Authentic::for_test(client, request, grant.key.source, 1);
        Grant { grant, reply: Reply::new(&authentic, Status::Granted, None) }
    }

    /// The grant, and the reply for its holder once the firewall has it.
    pub(in crate::core) fn into_parts(self) -> (ActiveGrant, Reply) {
        (self.grant, self.reply)
    }
}

/// A classic door's grant. The only thing that `Grants::open_for_door` takes.
///
/// No mark has to be durable before it: a classic sequence may be repeated, and a one-time sequence
/// was used up before. If its record is lost, the grant only ends earlier, at a restart.
pub struct DoorGrant {
    grant: ActiveGrant,
}

impl DoorGrant {
    pub(super) fn new(grant: ActiveGrant) -> Self {
        Self { grant }
    }

    pub(in crate::core) fn into_live(self) -> ActiveGrant {
        self.grant
    }
}

/// A durable decision, to be carried out.
pub enum Committed {
    /// Give it to `Grants::open`, apply its changes to the firewall, then reply.
    Open(Grant),
    /// Give the keys to `Grants::end`, apply its changes to the firewall, then reply.
    Close(Vec<GrantKey>, GrantEnd, Reply),
    Tell(Reply),
    /// The file `joined` decides, then reply.
    Join(Applicant),
}

/// Makes a batch durable, all in one, and only then hands out what may be done. After a fault
/// nothing of it may, and `Grants::give_up` must be called; the marks in memory stay.
pub fn commit(
    decisions: Vec<Decision>, store: impl FnOnce(&[Record]) -> Result<(), Fault>,
) -> Result<Vec<Committed>, Fault> {
    commit_with(decisions, Vec::new(), store).map(|(done, _)| done)
}

/// The same with the openings that some of the grants need: neither is durable without the other.
pub fn commit_with(
    decisions: Vec<Decision>, openings: Vec<PreparedOpening>,
    store: impl FnOnce(&[Record]) -> Result<(), Fault>,
) -> Result<(Vec<Committed>, Vec<JournalledOpening>), Fault> {
    let mut records = Vec::new();
    let mut done = Vec::new();
    for decision in decisions {
        match decision {
            Decision::Admit(admission) => {
                records.extend(admission.records);
                let Admission { grant, reply, .. } = admission;
                done.push(Committed::Open(Grant { grant, reply }));
            }
            Decision::Close(closing) => {
                records.extend(closing.records);
                done.push(Committed::Close(closing.keys, GrantEnd::Closed, closing.reply));
            }
            Decision::Tell(pending) => {
                records.extend(pending.records);
                done.push(Committed::Tell(pending.reply));
            }
            Decision::Join(candidate) => {
                records.extend(candidate.records);
                done.push(Committed::Join(candidate.applicant));
            }
            Decision::Refuse(_) => {}
        }
    }
    let journalled = commit_all(openings, |entries| {
        records.extend(entries.into_iter().map(Record::Opened));
        if records.is_empty() { Ok(()) } else { store(&records) }
    })?;
    Ok((done, journalled))
}
