//! `toctocd client forgive`: a new id for a client whose clock was ahead.

use std::path::Path;

use super::{add_line, fallback, hand_over, handed_over, profile, write_then};
use crate::app::args::toctocd::ProfileArgs;
use crate::app::joined::{self, ClientFiles};
use crate::app::load;
use crate::app::output::CommandOutput;
use crate::config::Settings;
use crate::core::joining::{Invited, Standing};
use crate::core::service::Client;
use crate::core::types::{ClientId, Fault, SECOND};
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
    let settings = load::settings(config)?;
    let keys = load::keys(&settings)?;
    let path = &settings.gateway.clients_file;
    let text = load::clients_text(path)?;
    let joined = joined::read(&ClientFiles::of(&settings).joined)?;
    if let Some(row) = joined.iter().find(|row| row.terms.name == name)
        && let Standing::Joined(..) = row.standing
    {
        return forgive_joined(config, &settings, &keys, row, args);
    }
    let old = authorized::find(&path.display().to_string(), &text, name)?;
    let client = Client { id: ClientId(entropy::bytes()?), ..old.clone() };
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
        add_line(label, &authorized::revoke(label, text, name)?, &client, door)
    })
}

/// The same for somebody who joined by an invitation.
fn forgive_joined(
    config: &Path, settings: &Settings, keys: &GatewayFile, row: &Invited, args: &ProfileArgs,
) -> Result<CommandOutput, Fault> {
    let name = &row.terms.name;
    let id = ClientId(entropy::bytes()?);
    let mut forgiven = row.clone();
    if let Some(key) = row.key() {
        forgiven.join(id, key.clone());
    }
    let Some(client) = forgiven.clients().into_iter().find(|client| client.id == id) else {
        return Err(Fault::new(format!("`{name}` has not joined"), "`toctocd client list`"));
    };
    let profile = profile(config, settings, keys, &client, args.door.as_deref())?;
    let done = format!("`{name}` has a new id: its old profile and old knocks open nothing");
    let out = args.out.as_deref();
    let files: Vec<(&Path, &str)> = out.iter().map(|out| (*out, profile.as_str())).collect();
    let now = clock::now().wall.0 / SECOND;
    write_then(&files, || {
        joined::change(&ClientFiles::of(settings).joined, now, |rows| {
            let Some(place) = rows.iter_mut().find(|other| other.terms.name == *name) else {
                return Err(Fault::new(
                    format!("`{name}` was revoked just now"),
                    "invite it again",
                ));
            };
            place.standing = forgiven.standing.clone();
            Ok(())
        })
    })?;
    Ok(handed_over(settings, &profile, out, args.door.as_deref(), &done))
}
