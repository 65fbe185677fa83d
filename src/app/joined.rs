//! The file `joined` in the state directory: invitations, and who joined by them. Only toctocd
//! writes it, under a lock: its commands, and the gatekeeper when somebody joins.
//!
//! The admin's clients file is never written by a packet: it may be read-only, or another
//! program's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::Settings;
use crate::core::clients::ClientTable;
use crate::core::joining::{self, Asking, Invited, JoinAnswer, Standing};
use crate::core::types::{Fault, FaultKind};
use crate::edge::files::{self, FileCheck, FileLock, LockFault};
use crate::edge::zones::Zones;
use crate::keys::authorized::{self, joined};

/// How long a command waits for another one, and for the gatekeeper.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the gatekeeper waits for a command: its client waits for an answer.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);

/// Both files that say who a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// The admin's clients file.
    pub clients: PathBuf,
    /// The file `joined`.
    pub joined: PathBuf,
}

impl ClientFiles {
    pub fn of(settings: &Settings) -> ClientFiles {
        ClientFiles {
            clients: settings.gateway.clients_file.clone(),
            joined: settings.gateway.state_dir.join("joined"),
        }
    }
}

/// Somebody who asks to join, and all that the answer depends on.
pub struct JoinTask {
    pub files: ClientFiles,
    pub asking: Asking,
    /// The clients in force.
    pub clients: ClientTable,
}

pub struct JoinDone {
    pub answer: JoinAnswer,
    /// The clients in force once the answer holds.
    pub clients: ClientTable,
    /// True if the file was changed: the answer is a new one.
    pub is_new: bool,
}

/// Reads the file. There is none until somebody is invited.
pub fn read(path: &Path) -> Result<Vec<Invited>, Fault> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        _ => {
            let zones = Zones::default();
            joined::parse(&path.display().to_string(), &text(path)?, &|name| zones.find(name))
        }
    }
}

/// The names under which a key waits for approval; none if the file cannot be read.
pub fn waiting(settings: &Settings) -> Vec<String> {
    names(settings, |standing| matches!(standing, Standing::Pending(_)))
}

/// The names of those whose standing fits; none if the file cannot be read.
pub fn names(settings: &Settings, fits: fn(&Standing) -> bool) -> Vec<String> {
    let rows = read(&ClientFiles::of(settings).joined).unwrap_or_default();
    let fitting = rows.into_iter().filter(|row| fits(&row.standing));
    fitting.map(|row| row.terms.name).collect()
}

/// The text of the file; empty if there is none.
pub fn text(path: &Path) -> Result<String, Fault> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        _ => Ok(files::read_own(path, FileCheck::Trusted)?.as_str().to_owned()),
    }
}

/// Takes the lock of the file: nobody joins or is invited until it is dropped. `None` if there is
/// no state directory yet, and so nobody who could join.
pub fn lock(path: &Path) -> Result<Option<FileLock>, Fault> {
    lock_for(path, PATIENCE)
}

fn lock_for(path: &Path, patience: Duration) -> Result<Option<FileLock>, Fault> {
    // A file of its own: the one that it protects is replaced.
    let lock = path.with_extension("lock");
    if !files::parent(path).exists() {
        return Ok(None);
    }
    files::check_place(&lock)?;
    files::lock(&lock, patience).map(Some).map_err(|fault| match fault {
        LockFault::Unusable(fault) => fault,
        LockFault::Held(by) => {
            let what = format!("{}: nothing was changed: {by} has it locked", path.display());
            Fault::new(what, "let that command end, or end it, then try again").of(FaultKind::Held)
        }
    })
}

/// Changes the file under its lock, and drops what is over at `now`, in seconds since the epoch. If
/// `change` fails, nothing is written. Returns what `change` does.
pub fn change<T>(
    path: &Path, now: u64, change: impl FnOnce(&mut Vec<Invited>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    changed(path, now, PATIENCE, change)
}

fn changed<T>(
    path: &Path, now: u64, patience: Duration,
    change: impl FnOnce(&mut Vec<Invited>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let _lock = lock_for(path, patience)?;
    let before = read(path)?;
    let mut rows = before.clone();
    joining::drop_over(&mut rows, now);
    let outcome = change(&mut rows)?;
    if rows != before {
        let text = joined::print(&rows);
        if text.len() as u64 > files::LIMIT {
            let what = format!("{}: it would be longer than any file that is read", path.display());
            return Err(Fault::new(what, "revoke clients that are no longer needed"));
        }
        files::replace(path, text.as_bytes(), 0o600)?;
    }
    Ok(outcome)
}

impl JoinTask {
    /// Answers, and writes what changes. The file is read again: a command may have changed it
    /// since the gateway read it.
    pub fn run(&self) -> Result<JoinDone, Fault> {
        let asking = &self.asking;
        let bytes = files::read_own_bytes(&self.files.clients, FileCheck::Trusted)?;
        let clients = String::from_utf8_lossy(&bytes);
        let is_enrolled = authorized::stands_in(&clients, Some(&asking.key), None);
        changed(&self.files.joined, asking.now, SHORT_PATIENCE, |rows| {
            self.answer(rows, is_enrolled)
        })
    }

    /// The answer by these lines of the file.
    pub fn answer(&self, rows: &mut [Invited], is_enrolled: bool) -> Result<JoinDone, Fault> {
        let Asking { invitation, new_id, .. } = self.asking;
        let before = rows.to_vec();
        let answer = joining::answer(rows, &self.asking, is_enrolled);
        let own = rows.iter().find(|row| row.id() == Some(invitation));
        let own: Vec<Invited> = own.cloned().into_iter().collect();
        let mut gone = vec![invitation, new_id];
        gone.extend(own.iter().flat_map(Invited::clients).map(|client| client.id));
        let enrolled = joined::enrolled(&own, &self.clients);
        let clients = self.clients.replaced(&gone, enrolled).map_err(|id| {
            let what = format!("two clients have the id {id}");
            Fault::new(what, "`toctocd check` names the line; remove it")
        })?;
        Ok(JoinDone { answer, clients, is_new: rows != before })
    }
}
