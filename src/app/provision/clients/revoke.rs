//! `toctocd client revoke`. It needs nothing but the clients file, and if the disk does not let
//! that be changed, nothing but the running gateway: a stolen key must not stay valid.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::lock;
use crate::app::joined::{self, ClientFiles};
use crate::app::output::{CommandOutput, DONE, FAILED};
use crate::app::{admin, load};
use crate::config::Settings;
use crate::core::grants::{ActiveGrant, Change, GrantEnd, GrantKey, Grants, Holder};
use crate::core::ledger::Ledger;
use crate::core::openings::{CommandLine, OpeningEntry};
use crate::core::service::DisconnectPolicy;
use crate::core::types::{ClientId, Fault, FaultKind};
use crate::edge::clock;
use crate::edge::files::{self, FileLock};
use crate::edge::firewall::{self, GuardRules};
use crate::edge::state::State;
use crate::keys::authorized;

/// Removes a client, and ends its grants.
///
/// # Errors
/// Nothing was changed: no client has that name, or neither the disk nor a running gateway takes
/// it.
pub fn revoke(config: &Path, name: &str) -> Result<CommandOutput, Fault> {
    let reach = load::reach(config);
    reach.note(revoke_from(&reach.settings, name))
}

fn revoke_from(settings: &Settings, name: &str) -> Result<CommandOutput, Fault> {
    let taken = match take_out(settings, name) {
        // Its line may be so broken that only the running gateway knows whose it is.
        Err(fault) if fault.kind == FaultKind::Name => {
            let Ok(Some(id)) = admin::find_client(settings, name) else { return Err(fault) };
            let Ok(()) = admin::revoke(settings, id) else { return Err(fault) };
            match take_out(settings, &id.to_string()) {
                Err(fault) if fault.kind == FaultKind::Name => return Ok(without_a_line(name)),
                taken => taken,
            }
        }
        taken => taken,
    };
    let TakenOut { file, gone, failed } = taken?;
    if let Some(fault) = failed {
        return left_in_file(settings, name, &gone, &fault);
    }
    let (code, said) = match admin::reload_if_running(settings) {
        Ok(false) => without_gateway(settings, &gone),
        reloaded => with_gateway(settings, name, reloaded.err()),
    };
    let err = format!("`{name}` is revoked in {}\n{said}\n", file.display());
    Ok(CommandOutput { code, err, ..CommandOutput::out(String::new()) })
}

/// The outcome if somebody has removed the client's line, and the running gateway did not know yet.
fn without_a_line(name: &str) -> CommandOutput {
    let err = format!(
        "`{name}` is revoked at the running gateway, which has ended its grants and refuses its \
         knocks; no file has a line of that name\n"
    );
    CommandOutput { err, ..CommandOutput::out(String::new()) }
}

/// The outcome at a running gateway that has been told. A reload that fails later has revoked all
/// the same.
pub(super) fn with_gateway(settings: &Settings, name: &str, failed: Option<Fault>) -> (u8, String) {
    match (admin::find_client(settings, name), failed) {
        (Ok(None), None) => (
            DONE,
            format!(
                "the running gateway has ended its grants and refuses its knocks\n{}",
                open_connections(settings)
            ),
        ),
        (Ok(None), Some(fault)) => (
            DONE,
            format!(
                "the running gateway has ended its grants and refuses its knocks\n{}\nall else \
                 stays as it was, because the reload failed: {fault}",
                open_connections(settings)
            ),
        ),
        (Ok(Some(_)), None) => (
            FAILED,
            "but THE RUNNING GATEWAY STILL LETS IT IN: it reads another clients file. `toctocd \
             check` reads the configuration; then restart the gateway"
                .to_owned(),
        ),
        (Ok(Some(_)) | Err(_), Some(fault)) | (Err(fault), None) => (
            FAILED,
            format!(
                "but THE RUNNING GATEWAY HAS NOT CONFIRMED IT: {fault}\n  repeat `toctocd reload` \
                 until it succeeds, or restart the gateway"
            ),
        ),
    }
}

/// What becomes of the connections that a revoked client has open.
fn open_connections(settings: &Settings) -> String {
    let mut kept = Vec::new();
    for service in settings.services.iter().filter(|one| one.cut == DisconnectPolicy::Never) {
        kept.push(service.name.as_str());
    }
    match kept.as_slice() {
        [] => "the connections that it had open are cut".to_owned(),
        kept => format!(
            "connections that it may have to {} go on until they end: `cut` in toctocd.toml(5)",
            kept.join(", ")
        ),
    }
}

/// The outcome if no gateway answers: then the grants in the guard are ended here.
pub(super) fn without_gateway(settings: &Settings, gone: &BTreeSet<ClientId>) -> (u8, String) {
    let socket = settings.gateway.control_socket.display();
    if let Some(by) = silent_gateway(settings) {
        let said = format!(
            "but THE RUNNING GATEWAY DOES NOT KNOW IT: {by} does not answer at {socket}\n  `kill \
             -HUP` with its pid makes it read its clients again; or restart the gateway"
        );
        return (FAILED, said);
    }
    let none = format!("no gateway is running here (none answers at {socket})");
    match end_grants(settings, gone) {
        Ok(ended) => (DONE, format!("{none}{ended}")),
        Err(fault) => (
            FAILED,
            format!(
                "{none}, but ITS GRANTS MAY STAY OPEN until their time is over: {fault}\n  start the \
                 gateway: it ends them"
            ),
        ),
    }
}

/// A gateway that does not answer at the control socket of this configuration: it was started with
/// another one.
fn silent_gateway(settings: &Settings) -> Option<String> {
    let holder = State::holder(&settings.gateway.state_dir);
    holder.or_else(|| firewall::keeper(&settings.firewall.table))
}

/// Ends the grants of these clients in the guard, and cuts their connections where a service says
/// so. Returns the end of a sentence about them. The journal stays: the next start ends there
/// whatever belongs to nobody.
fn end_grants(settings: &Settings, gone: &BTreeSet<ClientId>) -> Result<String, Fault> {
    let Some(records) = State::read(&settings.gateway.state_dir)? else {
        return Ok(String::new());
    };
    let ledger = Ledger::of(&records);
    let now = clock::now();
    let mut grants = Grants::restore(now, &ledger);
    let is_gone = |grant: &&ActiveGrant| match grant.key.holder {
        Holder::Client(id) => gone.contains(&id),
        Holder::Door(_) => false,
    };
    let stored: Vec<ActiveGrant> = ledger.grants().filter(is_gone).copied().collect();
    let keys: Vec<GrantKey> = stored.iter().map(|grant| grant.key).collect();
    let (mut changes, _) = grants.end(now, &keys, GrantEnd::Revoked);
    let mut held = BTreeSet::new();
    held.extend(grants.list().filter_map(ActiveGrant::element));
    // One that is over by our clocks, which may be wrong, may be open in the kernel.
    for element in stored.iter().filter_map(ActiveGrant::element) {
        if !held.contains(&element) {
            changes.push(Change::Remove { element });
        }
    }
    firewall::change_without_gateway(&GuardRules::of(settings), &changes)?;
    let mut ended = String::new();
    if !stored.is_empty() {
        ended += ", and its grants in the guard have ended";
    }
    // Nobody knows any more which client's grant opened it.
    let is_of_service = |entry: &&OpeningEntry| matches!(entry.stop, CommandLine::Argv(_));
    let open: BTreeSet<&str> =
        ledger.openings().filter(is_of_service).map(|entry| entry.door.as_str()).collect();
    if !open.is_empty() {
        let names = Vec::from_iter(open).join(", ");
        ended += &format!(
            ".\n  What the start commands of {names} opened STAYS OPEN until the next start of the \
             gateway: it runs their stop commands"
        );
    }
    Ok(ended)
}

/// The file that had the lines of a client, and the ids that it does not name any more.
struct TakenOut {
    file: PathBuf,
    gone: BTreeSet<ClientId>,
    /// The reason why the file could not be read, or not be changed: then it goes on to name them.
    failed: Option<Fault>,
}

/// Removes a client's lines from the file in which they stand: a name stands in one of the two at
/// most. `whom`: its name or its id.
///
/// # Errors
/// Nobody has that name, or another command holds the lock of a file.
fn take_out(settings: &Settings, whom: &str) -> Result<TakenOut, Fault> {
    let ClientFiles { clients, joined } = ClientFiles::of(settings);
    let first = take_from(&clients, lock(&clients).map(Some), whom);
    let is_settled =
        matches!(&first, Ok(taken) if taken.failed.is_none() || !taken.gone.is_empty());
    if is_settled || joined.symlink_metadata().is_err() {
        return first;
    }
    let second = take_from(&joined, joined::lock(&joined), whom);
    match (&first, &second) {
        // It is in neither: the first fault has the better advice.
        (_, Err(fault)) if fault.kind == FaultKind::Name => first,
        (Err(fault), Err(_)) if fault.kind != FaultKind::Name => first,
        (Ok(_), Err(_)) => first,
        _ => second,
    }
}

fn take_from(
    path: &Path, lock: Result<Option<FileLock>, Fault>, whom: &str,
) -> Result<TakenOut, Fault> {
    // Where no lock file can be made, a revocation goes on without: it must not wait for the disk.
    let _lock = match lock {
        Err(fault) if fault.kind == FaultKind::Held => return Err(fault),
        lock => lock.ok().flatten(),
    };
    let label = path.display().to_string();
    let file = path.to_owned();
    let before = match load::clients_bytes(path) {
        Ok(bytes) => bytes,
        Err(fault) => return Ok(TakenOut { file, gone: BTreeSet::new(), failed: Some(fault) }),
    };
    let after = changed(&before, |text| authorized::revoke(&label, text, whom))?;
    let ids = |bytes: &[u8]| authorized::ids(&String::from_utf8_lossy(bytes));
    let gone = &ids(&before) - &ids(&after);
    let mut failed = files::replace(path, &after, 0o600).err();
    if failed.is_some() {
        // A full disk has no room for another file. A line that becomes a comment needs none.
        let struck = changed(&before, |text| authorized::strike_out(&label, text, whom))?;
        if files::overwrite(path, &struck).is_ok() {
            failed = None;
        }
    }
    Ok(TakenOut { file, gone, failed })
}

/// `bytes` after a change of their text. If not every byte is text, each becomes a character, and
/// that byte again. It takes 0.1 s for 100,000 clients.
fn changed(
    bytes: &[u8], change: impl FnOnce(&str) -> Result<String, Fault>,
) -> Result<Vec<u8>, Fault> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Ok(change(text)?.into_bytes());
    }
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    Ok(change(&text)?.chars().filter_map(|c| u8::try_from(c).ok()).collect())
}

/// Revokes a client while the clients file cannot be changed: at the running gateway, or else only
/// its grants in the guard. `fault`: what is wrong with the file. `gone`: the client's ids, none if
/// the file cannot be read.
///
/// # Errors
/// `fault`, if nothing at all was changed.
fn left_in_file(
    settings: &Settings, name: &str, gone: &BTreeSet<ClientId>, fault: &Fault,
) -> Result<CommandOutput, Fault> {
    let repeat = format!("repeat `toctocd client revoke {name}` until this message is gone");
    let found = admin::find_client(settings, name);
    let err = match &found {
        Ok(id) => {
            // Without an id it has been revoked there before, and stays so.
            if let Some(id) = id {
                admin::revoke(settings, *id)?;
            }
            format!(
                "`{name}` is revoked at the running gateway, which has ended its grants and refuses \
                 its knocks; but ITS LINE IS STILL IN THE CLIENTS FILE: {fault}\n  before the gateway \
                 ends, {repeat}\n"
            )
        }
        Err(silent) if gone.is_empty() || silent_gateway(settings).is_some() => {
            let what = format!("`{name}` is NOT REVOKED: {}", fault.what);
            return Err(Fault::new(what, format!("{}; {silent}", fault.remedy)).of(fault.kind));
        }
        Err(_) => {
            let socket = settings.gateway.control_socket.display();
            let ended = match end_grants(settings, gone) {
                Ok(ended) => ended,
                Err(fault) => format!(", but its grants may stay open: {fault}"),
            };
            format!(
                "`{name}` is NOT REVOKED: ITS LINE IS STILL IN THE CLIENTS FILE: {fault}\n  no gateway \
                 is running here (none answers at {socket}){ended}\n  the next start of the gateway \
                 lets it in again. Before that, {repeat}\n"
            )
        }
    };
    Ok(CommandOutput { code: FAILED, err, ..CommandOutput::out(String::new()) })
}
