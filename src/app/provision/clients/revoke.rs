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
    let TakenOut { file, gone } = match take_out(settings, name) {
        Ok(taken) => taken,
        Err(fault) if fault.kind == FaultKind::Held => return Err(fault),
        // Its line may be so broken that only the running gateway knows whose it is.
        Err(fault) if fault.kind == FaultKind::Name => {
            let Ok(Some(id)) = admin::revoke(settings, name) else { return Err(fault) };
            take_out(settings, &id).map_err(|_| fault)?
        }
        Err(fault) => return in_the_gateway_only(settings, name, fault),
    };
    let (code, said) = match admin::reload_if_running(settings) {
        Ok(false) => without_gateway(settings, &gone),
        reloaded => with_gateway(settings, name, reloaded.err()),
    };
    let err = format!("`{name}` is revoked in {}; {said}\n", file.display());
    Ok(CommandOutput { code, err, ..CommandOutput::out(String::new()) })
}

/// The outcome at a running gateway that has been told. A reload that fails later has revoked all
/// the same.
fn with_gateway(settings: &Settings, name: &str, failed: Option<Fault>) -> (u8, String) {
    match (admin::is_enrolled(settings, name), failed) {
        (Ok(false), None) => (
            DONE,
            format!(
                "the running gateway has ended its grants and refuses its knocks; {}",
                open_connections(settings)
            ),
        ),
        (Ok(false), Some(fault)) => (
            DONE,
            format!(
                "the running gateway has ended its grants and refuses its knocks; {}. All else stays \
                 as it was, because the reload failed: {fault}",
                open_connections(settings)
            ),
        ),
        (Ok(true), None) => (
            FAILED,
            "but THE RUNNING GATEWAY STILL LETS IT IN: it reads another clients file. `toctocd \
             check` reads the configuration; then restart the gateway"
                .to_owned(),
        ),
        (Ok(true) | Err(_), Some(fault)) | (Err(fault), None) => (
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
            "connections that it has open to {} go on until they end (`cut` in toctocd.toml(5))",
            kept.join(", ")
        ),
    }
}

/// The outcome if no gateway answers: then the grants in the guard are ended here.
fn without_gateway(settings: &Settings, gone: &BTreeSet<ClientId>) -> (u8, String) {
    let gateway = &settings.gateway;
    let socket = gateway.control_socket.display();
    let found =
        State::holder(&gateway.state_dir).or_else(|| firewall::keeper(&settings.firewall.table));
    // It was started with another socket.
    if let Some(by) = found {
        let said = format!(
            "but THE RUNNING GATEWAY DOES NOT KNOW IT: {by} does not answer at {socket}\n  `kill \
             -HUP` with its pid makes it read its clients again; or restart the gateway"
        );
        return (FAILED, said);
    }
    let none = format!("no gateway is running here (none answers at {socket})");
    match end_grants(settings, gone) {
        Ok(0) => (DONE, none),
        Ok(_) => (DONE, format!("{none}, and its grants in the guard have ended")),
        Err(fault) => (
            FAILED,
            format!(
                "{none}, but ITS GRANTS MAY STAY OPEN until their time is over: {fault}\n  start the \
                 gateway: it ends them"
            ),
        ),
    }
}

/// Ends the grants of these clients in the guard, and cuts their connections where a service says
/// so. Returns how many there were. The journal stays: the next start ends there whatever belongs
/// to nobody.
fn end_grants(settings: &Settings, gone: &BTreeSet<ClientId>) -> Result<usize, Fault> {
    let Some(records) = State::read(&settings.gateway.state_dir)? else { return Ok(0) };
    let ledger = Ledger::of(&records);
    let now = clock::now();
    let mut grants = Grants::restore(now, &ledger);
    let is_gone = |grant: &&ActiveGrant| match grant.key.holder {
        Holder::Client(id) => gone.contains(&id),
        Holder::Door(_) => false,
    };
    let stored: Vec<ActiveGrant> = ledger.grants().filter(is_gone).copied().collect();
    let keys: Vec<GrantKey> = stored.iter().map(|grant| grant.key).collect();
    let mut changes = grants.end(now, &keys, GrantEnd::Revoked);
    let mut held = BTreeSet::new();
    held.extend(grants.list().filter_map(ActiveGrant::element));
    // One that is over by our clocks, which may be wrong, may be open in the kernel.
    for element in stored.iter().filter_map(ActiveGrant::element) {
        if !held.contains(&element) {
            changes.push(Change::Remove { element });
        }
    }
    firewall::change_without_gateway(&GuardRules::of(settings), &changes)?;
    Ok(stored.len())
}

/// The file that had the lines of a client, and the ids that it does not name any more.
struct TakenOut {
    file: PathBuf,
    gone: BTreeSet<ClientId>,
}

/// Removes a client's lines from the file in which they stand: a name stands in one of the two at
/// most. `whom`: its name or its id.
fn take_out(settings: &Settings, whom: &str) -> Result<TakenOut, Fault> {
    let ClientFiles { clients, joined } = ClientFiles::of(settings);
    let fault = match take_from(&clients, lock(&clients).map(Some), whom) {
        Ok(gone) => return Ok(TakenOut { file: clients, gone }),
        Err(fault) => fault,
    };
    if joined.symlink_metadata().is_err() {
        return Err(fault);
    }
    match take_from(&joined, joined::lock(&joined), whom) {
        Ok(gone) => Ok(TakenOut { file: joined, gone }),
        // It is in neither: the first fault has the better advice.
        Err(other) if other.kind == FaultKind::Name => Err(fault),
        Err(other) if fault.kind == FaultKind::Name => Err(other),
        Err(_) => Err(fault),
    }
}

fn take_from(
    path: &Path, lock: Result<Option<FileLock>, Fault>, whom: &str,
) -> Result<BTreeSet<ClientId>, Fault> {
    // Where no lock file can be made, a revocation goes on without: it must not wait for the disk.
    let _lock = match lock {
        Err(fault) if fault.kind == FaultKind::Held => return Err(fault),
        lock => lock.ok().flatten(),
    };
    let label = path.display().to_string();
    let before = load::clients_bytes(path)?;
    let after = changed(&before, |text| authorized::revoke(&label, text, whom))?;
    let ids = |bytes: &[u8]| authorized::ids(&String::from_utf8_lossy(bytes));
    let gone = &ids(&before) - &ids(&after);
    if let Err(fault) = files::replace(path, &after, 0o600) {
        // A full disk has no room for another file. A line that becomes a comment needs none.
        let struck = changed(&before, |text| authorized::strike_out(&label, text, whom))?;
        files::overwrite(path, &struck).map_err(|_| fault)?;
    }
    Ok(gone)
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

/// Revokes a client at the running gateway while the clients file cannot be changed.
///
/// # Errors
/// `fault`, if no gateway is running: then nothing was changed.
fn in_the_gateway_only(
    settings: &Settings, name: &str, fault: Fault,
) -> Result<CommandOutput, Fault> {
    if admin::revoke(settings, name).is_err() {
        return Err(fault);
    }
    let err = format!(
        "`{name}` is revoked at the running gateway, which has ended its grants and refuses its \
         knocks; but ITS LINE IS STILL IN THE CLIENTS FILE: {fault}\n  before the gateway ends, repeat \
         `toctocd client revoke {name}` until this message is gone\n"
    );
    Ok(CommandOutput { code: FAILED, err, ..CommandOutput::out(String::new()) })
}
