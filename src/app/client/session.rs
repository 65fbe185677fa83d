//! The client's commands for a program with a window: the same work, with data in place of text.
//! Each call may wait for the network or a person, so it belongs into a thread of its own.

use zeroize::Zeroizing;

use super::answer::Answers;
use super::join::{self, JoinOutcome, JoinRefusal, JoinSilence, Joiner};
use super::signer::{self, HeldProfile};
use super::{keys, prepare, profiles, request};
use crate::app::args::toctoc::{Common, Join, Target};
use crate::app::paths::UserPaths;
use crate::core::knock::KnockKind;
use crate::core::types::{Fault, ServiceName};

/// As the command line has it by default: see `toctoc open --help`.
const TIMEOUT: u64 = 2;
const ATTEMPTS: u32 = 3;

/// A user's profiles and keys.
pub struct Session {
    paths: UserPaths,
}

/// A profile, or the invitation of one that waits for approval.
pub struct Listed {
    pub name: String,
    pub state: ListedState,
}

pub enum ListedState {
    Ready(Ready),
    /// An invitation that waits for an admin's approval.
    Pending,
    /// The file cannot be used.
    Broken(Fault),
}

/// What a profile leads to.
pub struct Ready {
    /// Host names or IP addresses of the gateway, at least one.
    pub addresses: Vec<String>,
    pub services: Vec<ServiceName>,
    /// The service that is meant if none is named.
    pub usual_service: Option<ServiceName>,
    /// Seconds that are left of the enrolment; `None` if it has no end.
    pub seconds_left: Option<i64>,
}

/// What came of an invitation.
pub enum Joined {
    /// The profile of this name is written.
    Profile(String),
    /// The key waits; an admin types `approval` at the gateway.
    Pending {
        name: String,
        approval: String,
    },
    /// Refused, or no answer: what happened and what to do, also as text in English.
    Refused(JoinRefusal, String),
    NoAnswer(JoinSilence, String),
}

impl Session {
    pub fn new(paths: UserPaths) -> Session {
        Session { paths }
    }

    /// All profiles by name, then the invitations that wait.
    pub fn profiles(&self) -> Result<Vec<Listed>, Fault> {
        let mut listed = Vec::new();
        for name in keys::names(&self.paths)? {
            let state = match keys::profile(&self.paths, &name) {
                Ok(held) => ListedState::Ready(Ready::of(&held)),
                Err(fault) => ListedState::Broken(fault),
            };
            listed.push(Listed { name, state });
        }
        for name in keys::pending_names(&self.paths)? {
            listed.push(Listed { name, state: ListedState::Pending });
        }
        Ok(listed)
    }

    /// The profile that `toctoc default` chose.
    pub fn default_profile(&self) -> Option<String> {
        Some(profiles::marked(&self.paths).ok().flatten()?.profile)
    }

    /// Asks for a grant, and gets an answer of each address of the gateway.
    /// Error: nothing was sent.
    pub fn open(&self, profile: &str, service: ServiceName) -> Result<Answers, Fault> {
        self.send(KnockKind::Open, profile, service)
    }

    /// Ends the user's own grants for a service.
    /// Error: nothing was sent.
    pub fn close(&self, profile: &str, service: ServiceName) -> Result<Answers, Fault> {
        self.send(KnockKind::Close, profile, service)
    }

    fn send(&self, kind: KnockKind, profile: &str, service: ServiceName) -> Result<Answers, Fault> {
        let target = Target { profile: profile.to_owned(), service: Some(service) };
        let common = Common {
            target: Some(target),
            identity: None,
            timeout: TIMEOUT,
            attempts: ATTEMPTS,
            ipv4: false,
            ipv6: false,
        };
        let knock = prepare(&self.paths, &common, request(kind, &common), Some(service))?;
        let results = knock.send()?;
        Ok(Answers::of(&knock.report(&results)))
    }

    /// True if there is a key to join with.
    pub fn has_key(&self) -> Result<bool, Fault> {
        Ok(signer::usual_key(&self.paths)?.is_some())
    }

    /// Makes the user's key; an empty passphrase is none.
    /// Error: there is one already, or the file cannot be written.
    pub fn make_key(&self, passphrase: &Zeroizing<String>) -> Result<(), Fault> {
        keys::make(&self.paths, &join::new_key(false), passphrase).map(drop)
    }

    /// Enrols the user's key by the line of an invitation.
    /// Error: nothing was sent.
    pub fn join(&self, line: &str) -> Result<Joined, Fault> {
        let args = Join { no_wait: true, ..Join::default() };
        self.ask(Joiner::new(&self.paths, &args, line)?)
    }

    /// Asks whether the key is approved that waits for the profile `name`.
    /// Error: nothing was sent, or nobody waits for this profile.
    pub fn ask_again(&self, name: &str) -> Result<Joined, Fault> {
        match Joiner::waiting(&self.paths, name)? {
            Some(joiner) => self.ask(joiner),
            None => keys::profile(&self.paths, name).map(|held| Joined::Profile(held.name)),
        }
    }

    fn ask(&self, mut joiner: Joiner) -> Result<Joined, Fault> {
        let name = joiner.name().to_owned();
        Ok(match joiner.ask(&self.paths)? {
            JoinOutcome::Joined => Joined::Profile(name),
            JoinOutcome::Pending => Joined::Pending { name, approval: joiner.approval() },
            JoinOutcome::Refused(refusal, words) => Joined::Refused(refusal, words),
            JoinOutcome::NoAnswer(silence, words) => Joined::NoAnswer(silence, words),
        })
    }
}

impl Ready {
    fn of(held: &HeldProfile) -> Ready {
        let profile = &held.profile;
        Ready {
            addresses: profile.addresses.clone(),
            services: profile.services.clone(),
            usual_service: profile.usual_service(),
            seconds_left: profiles::seconds_left(profile),
        }
    }
}

#[cfg(test)]
mod tests;
