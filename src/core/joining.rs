//! What becomes of an invitation when a key asks to join by it. See `authentic` and `policy` for
//! the proofs before that, `keys::authorized::joined` for the file, docs/protocol.md for the
//! messages.

use std::sync::Arc;

use super::limits::Limits;
use super::public_key::PublicKey;
use super::service::Client;
use super::types::{ClientId, Fingerprint, ServiceName};

/// Seconds that an invitation can be used at first: a day.
pub const FIRST: u64 = 24 * 3600;
/// Seconds from the moment that a key has asked, and from its approval: a week, so that nobody
/// loses the answer.
pub const AFTER: u64 = 7 * 24 * 3600;

/// An invitation, and who joined by it: one line of the file `joined`.
#[derive(Clone, Debug, PartialEq)]
pub struct Invited {
    /// `None` once it is over: somebody has joined, and is a client like any.
    pub invitation: Option<OpenInvitation>,
    pub terms: JoinTerms,
    pub standing: Standing,
}

/// The part of an invitation that serves to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenInvitation {
    pub id: ClientId,
    /// Seconds since the epoch.
    pub until: u64,
}

/// What whoever joins is and may have.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinTerms {
    pub name: String,
    pub services: Arc<[ServiceName]>,
    pub expires: Option<u64>,
    pub limits: Option<Arc<Limits>>,
}

/// How far somebody has come.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Nobody has asked yet.
    Open(JoinRule),
    /// This key waits for approval.
    Pending(PublicKey),
    Joined(ClientId, PublicKey),
}

/// Whose key may join, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinRule {
    /// The first key, once an admin approves it.
    Approval,
    /// The first key, at once.
    Auto,
    /// The key with this fingerprint, at once.
    Only(Fingerprint),
}

/// Somebody who asks to join.
#[derive(Clone, Debug)]
pub struct Asking {
    pub invitation: ClientId,
    pub key: PublicKey,
    /// The id that this key gets by this invitation.
    pub new_id: ClientId,
    /// Seconds since the epoch.
    pub now: u64,
}

/// The answer to somebody who asks to join.
#[derive(Clone, Debug, PartialEq)]
pub enum JoinAnswer {
    Enrolled(ClientId),
    Pending,
    /// This other key has asked before.
    Taken(PublicKey),
    /// The invitation is for another key, or this key is enrolled already.
    Denied,
    /// There is no such invitation any more.
    Gone,
}

/// Answers somebody who asks to join, and changes the line of the invitation. The same key gets the
/// same answer again: a lost receipt costs nothing. `is_enrolled`: whether the key stands in the
/// clients file.
pub fn answer(rows: &mut [Invited], asking: &Asking, is_enrolled: bool) -> JoinAnswer {
    let elsewhere = rows
        .iter()
        .any(|row| row.id() != Some(asking.invitation) && row.key() == Some(&asking.key));
    let row = rows.iter_mut().find(|row| row.id() == Some(asking.invitation));
    let Some(row) = row.filter(|row| !row.is_over(asking.now)) else { return JoinAnswer::Gone };
    if is_enrolled || elsewhere {
        return JoinAnswer::Denied;
    }
    let rule = match &row.standing {
        Standing::Joined(id, key) if *key == asking.key => return JoinAnswer::Enrolled(*id),
        Standing::Pending(key) if *key == asking.key => return JoinAnswer::Pending,
        Standing::Joined(_, key) | Standing::Pending(key) => return JoinAnswer::Taken(key.clone()),
        Standing::Open(rule) => *rule,
    };
    match rule {
        JoinRule::Only(fingerprint) if fingerprint != asking.key.fingerprint() => {
            return JoinAnswer::Denied;
        }
        JoinRule::Only(_) | JoinRule::Auto => row.join(asking.new_id, asking.key.clone()),
        JoinRule::Approval => row.standing = Standing::Pending(asking.key.clone()),
    }
    row.extend(asking.now);
    match rule {
        JoinRule::Approval => JoinAnswer::Pending,
        JoinRule::Only(_) | JoinRule::Auto => JoinAnswer::Enrolled(asking.new_id),
    }
}

/// Drops what is over: an invitation that nobody has used, and the invitation of who has joined.
pub fn drop_over(rows: &mut Vec<Invited>, now: u64) {
    rows.retain(|row| !row.is_over(now) || matches!(row.standing, Standing::Joined(..)));
    for row in rows.iter_mut().filter(|row| row.is_over(now)) {
        row.invitation = None;
    }
}

/// The end of an invitation that holds for so many seconds. None outlasts the enrolment that it
/// leads to.
pub fn end(now: u64, seconds: u64, expires: Option<u64>) -> u64 {
    now.saturating_add(seconds).min(expires.unwrap_or(u64::MAX))
}

impl Invited {
    /// The invitation's id, while it can be used.
    pub fn id(&self) -> Option<ClientId> {
        self.invitation.as_ref().map(|invitation| invitation.id)
    }

    pub fn key(&self) -> Option<&PublicKey> {
        match &self.standing {
            Standing::Open(_) => None,
            Standing::Pending(key) | Standing::Joined(_, key) => Some(key),
        }
    }

    fn is_over(&self, now: u64) -> bool {
        self.invitation.as_ref().is_some_and(|invitation| invitation.until <= now)
    }

    pub fn join(&mut self, id: ClientId, key: PublicKey) {
        self.standing = Standing::Joined(id, key);
    }

    /// Gives whoever has asked, or was approved, time to hear the answer.
    pub fn extend(&mut self, now: u64) {
        if let Some(invitation) = &mut self.invitation {
            invitation.until = end(now, AFTER, self.terms.expires);
        }
    }

    /// The rows of the table of clients that come from this line: the invitation's, and the
    /// client's. A disabled client has none, nor has the invitation by which it joined.
    pub fn clients(&self) -> Vec<Client> {
        let JoinTerms { name, services, expires, limits } = &self.terms;
        let mut clients = Vec::new();
        if let Standing::Joined(id, key) = &self.standing {
            clients.push(Client {
                id: *id,
                name: name.as_str().into(),
                key: key.clone(),
                services: Arc::clone(services),
                expires: *expires,
                limits: limits.clone(),
                invited_until: None,
            });
        }
        if let Some(invitation) = &self.invitation {
            clients.push(Client {
                id: invitation.id,
                name: name.as_str().into(),
                key: PublicKey::plain([0; 32]),
                services: [].into(),
                expires: None,
                limits: limits.clone().filter(|limits| limits.disabled),
                invited_until: Some(invitation.until),
            });
        }
        clients
    }
}

#[cfg(test)]
mod tests;
