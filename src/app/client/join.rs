//! `toctoc join`: enrols a key by an invitation, with one knock, and writes the profile.
//!
//! While a key waits for approval the invitation is kept beside the profiles, as NAME.pending.
//! Whoever uses that profile before it is there asks again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::PreparedKnock;
use super::ask::{ExchangeOutcome, GatewayResult};
use super::keys::names;
use super::messages::ids_text;
use super::signer::{HeldProfile, key_in, signer, usual_key};
use crate::app::args::toctoc::{Join, Keygen};
use crate::app::output::service_list;
use crate::app::paths::{UserPaths, is_profile_name};
use crate::app::waiting::Waiting;
use crate::core::bytes::saturated_i64;
use crate::core::diagnostic::printable;
use crate::core::event::KnockId;
use crate::core::exchange::{ClientRequest, cannot_join};
use crate::core::knock::{Enrolment, KnockKind, Receipt, Request, Status, Welcome};
use crate::core::public_key::PublicKey;
use crate::core::types::{Fault, FaultKind, SECOND, ServiceName};
use crate::edge::files::{self, FileCheck};
use crate::edge::names::resolve_gateway;
use crate::edge::{clock, terminal};
use crate::keys::invitation::Invitation;
use crate::keys::profile::Profile;
use crate::keys::public::show_fingerprint;

/// How long each answer is waited for, and how many knocks go to each address: as `toctoc open`
/// does.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: u32 = 3;

/// How long somebody who waits for approval waits before asking again.
pub(super) const PAUSE: Duration = Duration::from_secs(30);
/// A line that was given on the command line.
pub(super) const SEEN: &str = "warning: a line on a command line stands in the shell's history, and \
    everybody here sees it in `ps`\n  better: toctoc join, and paste it when asked\n";

/// The key that is made for somebody who has none.
pub(super) fn new_key(no_passphrase: bool) -> Keygen {
    Keygen { out: None, comment: "toctoc".to_owned(), no_passphrase, json: false }
}

/// Somebody who joins: the invitation, and all that the answer makes a profile of.
pub(super) struct Joiner {
    invitation: Invitation,
    /// The profile to be: its name, and the key and file by which it signs.
    held: HeldProfile,
    /// Made once: it may take a passphrase.
    knock: Option<PreparedKnock>,
    /// The file in which an invitation waits.
    pending: PathBuf,
}

/// What the gateway has answered.
pub(super) enum JoinOutcome {
    /// The profile is written.
    Joined,
    /// The key waits for approval.
    Pending,
    /// Another answer, or none, and that in words.
    Refused(JoinRefusal, String),
    NoAnswer(JoinSilence, String),
}

/// Why a gateway does not let somebody join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinRefusal {
    /// Another key has used the invitation.
    Taken,
    /// It is for another key, or this one is enrolled already.
    Denied,
    /// The second knock did not arrive in time.
    Late,
    /// The gateway could not write it down.
    Trouble,
}

/// What may be the cause of no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinSilence {
    /// The invitation has ended.
    Ended,
    Unknown,
}

impl Joiner {
    /// From the words of the command line. `line`: the invitation.
    /// Error: no invitation, a name that is taken, no key, or a gateway that another profile knows
    /// differently.
    pub(super) fn new(paths: &UserPaths, args: &Join, line: &str) -> Result<Joiner, Fault> {
        let invitation = Invitation::parse(line)?;
        let name = args.name.clone().unwrap_or_else(|| invitation.gateway_name.clone());
        if !is_profile_name(&name) {
            let what = format!("`{}` cannot be the name of a profile", printable(&name));
            return Err(Fault::new(what, "use letters, digits, and . _ - (not first)"));
        }
        let path = paths.profile(&name)?;
        if path.symlink_metadata().is_ok() {
            let what = format!("you have a profile `{name}` already; nothing was sent");
            let remedy = format!("toctoc join --name OTHER, or first: toctoc remove {name}");
            return Err(Fault::new(what, remedy).of(FaultKind::Name));
        }
        refuse_impostor(paths, &invitation)?;
        let key = match &args.identity {
            Some(file) => Some(key_in(file)?),
            None => usual_key(paths)?,
        };
        let Some(key) = key else {
            let what = "you have no key to join with";
            let remedy = "make one: toctoc keygen; or name one: -i FILE";
            return Err(Fault::new(what, remedy).of(FaultKind::NoKey));
        };
        if Enrolment::of(&Request::bare(KnockKind::Join), invitation.id, &key).is_none() {
            return Err(cannot_join());
        }
        let identity = args.identity.as_ref().map(std::path::absolute);
        let identity = identity.transpose().map_err(|error| Fault::new(error.to_string(), ""))?;
        Joiner::with(paths, invitation, name, key, identity)
    }

    /// The one who waits for a profile of this name; `None` if nobody does.
    pub(super) fn waiting(paths: &UserPaths, name: &str) -> Result<Option<Joiner>, Fault> {
        if !is_profile_name(name) || !paths.pending(name)?.exists() {
            return Ok(None);
        }
        let text = files::read(&paths.pending(name)?, FileCheck::Secret)?;
        let mut lines = text.lines();
        let invitation = Invitation::parse(lines.next().unwrap_or_default())?;
        let (key, _) = PublicKey::from_line(lines.next().unwrap_or_default())?;
        let identity = lines.next().map(PathBuf::from);
        Joiner::with(paths, invitation, name.to_owned(), key, identity).map(Some)
    }

    fn with(
        paths: &UserPaths, invitation: Invitation, name: String, key: PublicKey,
        identity: Option<PathBuf>,
    ) -> Result<Joiner, Fault> {
        let (path, pending) = (paths.profile(&name)?, paths.pending(&name)?);
        // Until the answer comes, the keys are those of the invitation.
        let profile = invitation.profile(key, invitation.id, &invitation.root);
        let profile = Profile { identity, ..profile };
        Ok(Joiner { invitation, held: HeldProfile { name, profile, path }, knock: None, pending })
    }

    /// What is about to happen, for the eyes of a person.
    pub(super) fn words(&self) -> String {
        let Invitation { port, client_name, .. } = &self.invitation;
        format!(
            "joining {}, udp/{port}, as {client_name}; here the profile will be `{}`\n",
            self.gateway(),
            self.held.name
        )
    }

    /// What to do once the key is approved, if nobody waits for that.
    pub(super) fn later(&self) -> String {
        format!("once it is approved: toctoc open {}", self.held.name)
    }

    pub(super) fn name(&self) -> &str {
        &self.held.name
    }

    /// The name of the client at the gateway.
    pub(super) fn client_name(&self) -> &str {
        &self.invitation.client_name
    }

    /// The profile, once it is written.
    pub(super) fn into_held(self) -> HeldProfile {
        self.held
    }

    /// The gateway, for messages.
    fn gateway(&self) -> String {
        self.invitation.addresses.join(", ")
    }

    /// True if a person must touch the key for each knock.
    pub(super) fn wants_touch(&self) -> bool {
        self.held.profile.key.fido.is_some()
    }

    /// Asks the gateway once.
    /// Error: nothing could be signed, sent or written.
    pub(super) fn ask(&mut self, paths: &UserPaths) -> Result<JoinOutcome, Fault> {
        let knock = match self.knock.take() {
            Some(knock) => knock,
            None => self.prepare(paths)?,
        };
        let results = self.knock.insert(knock).send()?;
        match best(&results) {
            Some(receipt) => Ok(match self.take(&receipt)? {
                JoinOutcome::Refused(refusal, words) => {
                    let ids = ids_text(&judged(&results));
                    JoinOutcome::Refused(refusal, words + "\n" + ids.trim_end())
                }
                outcome => outcome,
            }),
            None => Ok(self.no_answer(&results)),
        }
    }

    fn prepare(&self, paths: &UserPaths) -> Result<PreparedKnock, Fault> {
        let signer = signer(paths, &self.held, None)?;
        let profile = &self.held.profile;
        let waiting = Waiting::begin(format!("looking up {}", self.gateway()));
        let gateways = resolve_gateway(&profile.addresses, profile.port, None)?;
        drop(waiting);
        let request = ClientRequest {
            invitation: Some(self.invitation.id),
            ..ClientRequest::new(KnockKind::Join, TIMEOUT, ATTEMPTS)
        };
        Ok(PreparedKnock {
            held: HeldProfile {
                name: self.held.name.clone(),
                profile: self.invitation.profile(
                    profile.key.clone(),
                    self.invitation.id,
                    &self.invitation.root,
                ),
                path: self.held.path.clone(),
            },
            request,
            signer,
            family: None,
            gateways,
        })
    }

    fn take(&mut self, receipt: &Receipt) -> Result<JoinOutcome, Fault> {
        let key = show_fingerprint(&self.held.profile.key.fingerprint());
        let gateway = self.gateway();
        let name = &self.invitation.client_name;
        let (refusal, words) = match (receipt.status, receipt.welcome) {
            (Status::Enrolled, Some(welcome)) => {
                self.write_profile(&welcome)?;
                return Ok(JoinOutcome::Joined);
            }
            (Status::Pending, _) => {
                self.keep()?;
                return Ok(JoinOutcome::Pending);
            }
            (Status::Taken, _) => (
                JoinRefusal::Taken,
                format!(
                    "refused: another key has used this invitation before you\n  if that was not \
                     you on another machine, somebody else has read the line: tell the admin of \
                     {gateway} at once, and ask for a new invitation by another way"
                ),
            ),
            (Status::Denied, _) => (
                JoinRefusal::Denied,
                format!(
                    "refused: this invitation is not for {key}, or that key is enrolled at \
                     {gateway} already\n  join with the key that the admin invited: toctoc join \
                     -i FILE"
                ),
            ),
            (Status::Clock | Status::Challenge, _) => (
                JoinRefusal::Late,
                "refused: the gateway asked for a second knock, and it did not arrive in time\n  \
                 run the same command again"
                    .to_owned(),
            ),
            _ => (
                JoinRefusal::Trouble,
                format!(
                    "refused: the gateway could not write down who joins\n  tell the admin of \
                     {gateway}: its log says why `{name}` cannot join. Then run the same command \
                     again"
                ),
            ),
        };
        Ok(JoinOutcome::Refused(refusal, words))
    }

    /// Writes the profile. Nothing of the invitation is left afterwards.
    fn write_profile(&mut self, welcome: &Welcome) -> Result<(), Fault> {
        let profile = self.invitation.welcomed(self.held.profile.key.clone(), welcome)?;
        let identity = self.held.profile.identity.take();
        self.held.profile = Profile { identity, ..profile };
        files::make_directory(&files::parent(&self.held.path), 0o700)?;
        files::create(&self.held.path, self.held.profile.print().as_bytes(), 0o600)?;
        remove_if_there(&self.pending)
    }

    /// Keeps the invitation until the key is approved.
    fn keep(&self) -> Result<(), Fault> {
        let line = self.invitation.print();
        let key = self.held.profile.key.line();
        let mut text = Zeroizing::new(String::with_capacity(line.len() + key.len() + 4096));
        for part in [line.as_str(), "\n", &key, "\n"] {
            text.push_str(part);
        }
        if let Some(identity) = &self.held.profile.identity {
            text.push_str(&identity.to_string_lossy());
            text.push('\n');
        }
        files::make_directory(&files::parent(&self.pending), 0o700)?;
        files::replace(&self.pending, text.as_bytes(), 0o600)
    }

    /// The command by which an admin approves the key.
    pub(super) fn approval(&self) -> String {
        let key = show_fingerprint(&self.held.profile.key.fingerprint());
        format!("toctocd client approve {} {key}", self.invitation.client_name)
    }

    /// What a person does whose key waits.
    pub(super) fn pending_text(&self) -> String {
        format!(
            "your key waits for approval at {}. Send these words to its admin, by another way than \
             the invitation came:\n\n  {}\n\n",
            self.gateway(),
            self.approval()
        )
    }

    /// For `toctoc list`.
    pub(super) fn list_text(&self) -> String {
        let Invitation { client_name, services, .. } = &self.invitation;
        let name = self.name();
        format!(
            "{name}: waits for approval at {}, as `{client_name}`; to open {}\n  your key is {}\n  \
             toctoc open {name} asks again; toctoc remove {name} gives it up\n",
            self.gateway(),
            service_list(services),
            show_fingerprint(&self.held.profile.key.fingerprint())
        )
    }

    /// The same as JSON.
    pub(super) fn list_json(&self) -> Value {
        let services: Vec<&str> =
            self.invitation.services.iter().map(ServiceName::as_str).collect();
        json!({
            "profile": self.name(), "pending": true, "file": self.pending.display().to_string(),
            "addresses": self.invitation.addresses, "port": self.invitation.port,
            "services": services, "client": self.invitation.client_name,
            "key": show_fingerprint(&self.held.profile.key.fingerprint()),
        })
    }

    fn no_answer(&self, results: &[GatewayResult]) -> JoinOutcome {
        let knocks: u32 = results.iter().map(|result| result.knocks).sum();
        let mut text = format!("no answer from {} to {knocks} knocks\n", self.gateway());
        for result in results {
            if let ExchangeOutcome::Unreachable(fault) = &result.outcome {
                text += &format!("  {}: {}\n", result.gateway.ip(), fault.what);
            }
        }
        let until = saturated_i64(self.invitation.until);
        let is_over = self.invitation.until <= clock::now().wall.0 / SECOND;
        let cause = match Timestamp::from_second(until) {
            Ok(end) if is_over => {
                let end = end.to_zoned(clock::zone()).strftime("%Y-%m-%d %H:%M");
                text += &format!("  this invitation ended {end}: ask for a new one\n");
                JoinSilence::Ended
            }
            _ => {
                text += "  the invitation may have been taken back, its gateway may not be running, \
                         or a network drops UDP: ask its admin\n";
                JoinSilence::Unknown
            }
        };
        let sent: Vec<KnockId> = results.iter().flat_map(|result| &result.ids).copied().collect();
        JoinOutcome::NoAnswer(cause, text + &ids_text(&sent))
    }
}

/// The ids of the knocks that were answered.
fn judged(results: &[GatewayResult]) -> Vec<KnockId> {
    results.iter().filter_map(|result| result.answered).collect()
}

/// Removes the line of an invitation whose profile is there: this program was killed in between.
pub(super) fn forget_line(paths: &UserPaths, name: &str) -> Result<(), Fault> {
    match is_profile_name(name) {
        true => remove_if_there(&paths.pending(name)?),
        false => Ok(()),
    }
}

fn remove_if_there(path: &Path) -> Result<(), Fault> {
    if path.exists() { files::remove(path) } else { Ok(()) }
}

/// The best of the answers that came over the addresses of the gateway.
fn best(results: &[GatewayResult]) -> Option<Receipt> {
    let mut received = Vec::new();
    for result in results {
        if let ExchangeOutcome::Received(answer) = &result.outcome {
            received.push(answer.receipt);
        }
    }
    for wanted in [Status::Enrolled, Status::Pending, Status::Taken] {
        if let Some(receipt) = received.iter().find(|receipt| receipt.status == wanted) {
            return Some(*receipt);
        }
    }
    received.first().copied()
}

/// Refuses an invitation of a gateway that calls itself by the id of another one: what is signed
/// for it could be used at that one.
fn refuse_impostor(paths: &UserPaths, invitation: &Invitation) -> Result<(), Fault> {
    for name in names(paths)? {
        let Ok(held) = super::keys::profile(paths, &name) else { continue };
        let side = &held.profile.side;
        if side.gateway == invitation.gateway && side.gateway_public != invitation.gateway_public {
            let what = format!(
                "this invitation has the id of the gateway of your profile `{name}` and another key; \
                 nothing was sent"
            );
            let remedy = format!(
                "ask the admin of {}: if the gateway has a new key, first: toctoc remove {name}",
                held.profile.addresses.join(", ")
            );
            return Err(Fault::new(what, remedy).of(FaultKind::Impostor));
        }
    }
    Ok(())
}

/// The line of an invitation: asked for on the terminal, without showing it; or from standard
/// input; or from the command line.
pub(super) fn read_line(given: Option<&str>) -> Result<Zeroizing<String>, Fault> {
    match given {
        Some("-") => super::keys::read_input("the invitation"),
        Some(line) => Ok(Zeroizing::new(line.to_owned())),
        None => terminal::ask_secret("Paste the invitation (it is not shown): ").map_err(|fault| {
            Fault::new(fault.what, "run it in a terminal; or: toctoc join - < FILE")
        }),
    }
}
