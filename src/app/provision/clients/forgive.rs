//! `toctocd client forgive` and `rotate`: a new id and so new secrets for a client.

use std::path::Path;
use std::sync::Arc;

use super::{
    add_line, fallback, hand_over, handed_over, profile, public_key, refuse_invited, write_then,
};
use crate::app::args::toctocd::ProfileArgs;
use crate::app::joined::{self, ClientFiles};
use crate::app::load;
use crate::app::output::CommandOutput;
use crate::config::Settings;
use crate::core::joining::{Invited, Standing};
use crate::core::public_key::{FidoKey, PublicKey};
use crate::core::service::Client;
use crate::core::types::{ClientId, Fault, FaultKind, SECOND};
use crate::edge::{clock, entropy};
use crate::keys::authorized;
use crate::keys::gateway::GatewayFile;

/// Gives a client a new id, and so a new profile; its key, services and limits stay.
///
/// Used-knock marks in the future cannot simply be deleted: a packet that was sent without a
/// challenge, by a clock that was ahead, would open something once its time comes. Under the new id
/// the tags of all packets that the client ever sent are unknown, so their marks are not needed.
/// Error: nothing was changed: no client has that name, no address for the profile.
pub fn forgive(config: &Path, name: &str, args: &ProfileArgs) -> Result<CommandOutput, Fault> {
    renew(config, name, None, args)
}

/// Gives a client new secrets, and another key if one is named.
///
/// The old profile is dead at once: with two that are alive under one name, a thief of the old one
/// could go on until its owner has used the new one, and nobody could tell whose grants are whose.
/// Somebody who must not be without access for a moment gets a second client by an invitation.
/// Error: as for [`forgive`]; also if the new key does not fit the options of the line.
pub fn rotate(
    config: &Path, name: &str, key: Option<&str>, args: &ProfileArgs,
) -> Result<CommandOutput, Fault> {
    let key = match key {
        Some(key) => Some(public_key(key)?),
        None => None,
    };
    renew(config, name, Some(Rotation { key }), args)
}

/// A rotation: unlike after a client was forgiven, who has its old secrets may be anybody.
struct Rotation {
    /// The new key, if it changes.
    key: Option<PublicKey>,
}

fn renew(
    config: &Path, name: &str, rotation: Option<Rotation>, args: &ProfileArgs,
) -> Result<CommandOutput, Fault> {
    let settings = load::settings(config)?;
    let keys = load::keys(&settings)?;
    let path = &settings.gateway.clients_file;
    let text = load::clients_text(path)?;
    let joined = joined::read(&ClientFiles::of(&settings).joined)?;
    if let Some(row) = joined.iter().find(|row| row.terms.name == name)
        && let Standing::Joined(..) = row.standing
    {
        return renew_joined(config, &settings, &keys, row, rotation, args);
    }
    let old = authorized::find(&path.display().to_string(), &text, name)?;
    let key = new_key(&old.key, rotation)?;
    let client = Client { id: ClientId(entropy::bytes()?), key, ..old.clone() };
    let mut done = format!("`{name}` has a new id: its old profile and old knocks open nothing");
    let noted = authorized::door(&text, old.id);
    let mut door = args.door.as_deref();
    if let (None, Some(noted)) = (door, noted.as_deref()) {
        // A door that has changed since keeps nobody from a new profile.
        match fallback(&settings, noted) {
            Ok(_) => door = Some(noted),
            Err(fault) => {
                done += &format!(
                    "; the new one is without the sequence of door [{noted}]: {}",
                    fault.what
                );
            }
        }
    }
    let profile = profile(config, &settings, &keys, &client, door)?;
    hand_over(&settings, &profile, args.out.as_deref(), door, &done, |label, text| {
        if authorized::find(label, text, name)? != old {
            return Err(Fault::new(
                format!("{label}: another process has just changed `{name}`"),
                "try again",
            ));
        }
        if client.key != old.key {
            refuse_invited(&settings, &client)?;
        }
        add_line(label, &authorized::revoke(label, text, name)?, &client, door)
    })
}

/// The same for somebody who joined by an invitation.
fn renew_joined(
    config: &Path, settings: &Settings, keys: &GatewayFile, row: &Invited,
    rotation: Option<Rotation>, args: &ProfileArgs,
) -> Result<CommandOutput, Fault> {
    let name = &row.terms.name;
    let id = ClientId(entropy::bytes()?);
    let mut forgiven = row.clone();
    if let Some(old) = row.key() {
        if rotation.is_some() {
            // Whoever has the line and the old key would be told the new secrets.
            forgiven.invitation = None;
        }
        forgiven.join(id, new_key(old, rotation)?);
    }
    let Some(client) = forgiven.clients().into_iter().find(|client| client.id == id) else {
        return Err(Fault::new(format!("`{name}` has not joined"), "`toctocd client list`"));
    };
    let profile = profile(config, settings, keys, &client, args.door.as_deref())?;
    let done = format!("`{name}` has a new id: its old profile and old knocks open nothing");
    let out = args.out.as_deref();
    let files: Vec<(&Path, &str)> = out.iter().map(|out| (*out, profile.as_str())).collect();
    let now = clock::now().wall.0 / SECOND;
    let clients_file = &settings.gateway.clients_file;
    write_then(&files, || {
        let text = load::clients_text(clients_file)?;
        joined::change(&ClientFiles::of(settings).joined, now, |rows| {
            let is_others =
                |row: &Invited| row.terms.name != *name && row.key() == Some(&client.key);
            if authorized::stands_in(&text, Some(&client.key), None) || rows.iter().any(is_others) {
                let what = format!("another client has the new key of `{name}` already");
                return Err(Fault::new(what, "each client needs its own").of(FaultKind::Name));
            }
            let Some(place) = rows.iter_mut().find(|other| other.terms.name == *name) else {
                return Err(Fault::new(
                    format!("`{name}` was revoked just now"),
                    "invite it again",
                ));
            };
            place.standing = forgiven.standing.clone();
            place.invitation = place.invitation.filter(|_| forgiven.invitation.is_some());
            Ok(())
        })
    })?;
    Ok(handed_over(settings, &profile, out, args.door.as_deref(), &done))
}

/// The new key with the rules that the line has for FIDO keys; the old one if there is none.
fn new_key(old: &PublicKey, rotation: Option<Rotation>) -> Result<PublicKey, Fault> {
    let Some(Rotation { key: Some(new) }) = rotation else { return Ok(old.clone()) };
    match (&old.fido, &new.fido) {
        (Some(rules), None) if rules.verify => {
            let what = "its line has `verify-required`, and the new key is no FIDO key";
            Err(Fault::new(what, "remove that option first, or take a FIDO key"))
        }
        (Some(rules), Some(fido)) => {
            let (touch, verify) = (rules.touch, rules.verify);
            let fido = FidoKey { application: fido.application.clone(), touch, verify };
            Ok(PublicKey { fido: Some(Arc::new(fido)), ..new })
        }
        _ => Ok(new),
    }
}
