//! `toctocd client disable` and `enable`: a client that is kept out for now, whose line stays.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::revoke::{with_gateway, without_gateway};
use super::{follow_up, rewrite};
use crate::app::joined::{self, ClientFiles};
use crate::app::output::CommandOutput;
use crate::app::{admin, load};
use crate::config::Settings;
use crate::core::joining::Standing;
use crate::core::limits::{Limits, NO_LIMITS};
use crate::core::types::{ClientId, Fault, FaultKind, SECOND};
use crate::edge::clock;
use crate::edge::files;
use crate::keys::authorized;

/// Disables a client, and ends its grants.
///
/// # Errors
/// Nothing was changed: no client has that name, or its line has a mistake.
pub fn disable(config: &Path, name: &str) -> Result<CommandOutput, Fault> {
    let reach = load::reach(config);
    reach.note(disable_from(&reach.settings, name))
}

fn disable_from(settings: &Settings, name: &str) -> Result<CommandOutput, Fault> {
    let ChangedLine { file, client } = change_line(settings, name, true)?;
    let (code, said) = match admin::reload_if_running(settings) {
        Ok(false) => without_gateway(settings, &BTreeSet::from_iter(client)),
        reloaded => with_gateway(settings, name, reloaded.err()),
    };
    let err = format!(
        "`{name}` is disabled in {}\n{said}\nto let it in again: toctocd client enable {name}\n",
        file.display()
    );
    Ok(CommandOutput { code, err, ..CommandOutput::out(String::new()) })
}

/// Lets a disabled client in again.
///
/// # Errors
/// As [`disable`].
pub fn enable(config: &Path, name: &str) -> Result<CommandOutput, Fault> {
    let reach = load::reach(config);
    let changed = change_line(&reach.settings, name, false);
    reach.note(changed.map(|_| follow_up(&reach.settings, &format!("`{name}` is enabled"))))
}

/// The file in which a line was changed, and its client, if that is one.
struct ChangedLine {
    file: PathBuf,
    client: Option<ClientId>,
}

fn change_line(settings: &Settings, name: &str, disabled: bool) -> Result<ChangedLine, Fault> {
    let files = ClientFiles::of(settings);
    if joined::names(settings, |_| true).iter().any(|other| other == name) {
        return change_joined(&files.joined, name, disabled);
    }
    let mut client = None;
    rewrite(settings, |label, bytes| {
        let text =
            std::str::from_utf8(bytes).map_err(|error| files::not_text(Path::new(label), error))?;
        client = Some(authorized::find(label, text, name)?.id);
        authorized::set_disabled(label, text, name, disabled).map(String::into_bytes)
    })?;
    Ok(ChangedLine { file: files.clients, client })
}

fn change_joined(path: &Path, name: &str, disabled: bool) -> Result<ChangedLine, Fault> {
    let now = clock::now().wall.0 / SECOND;
    let client = joined::change(path, now, |rows| {
        let Some(row) = rows.iter_mut().find(|row| row.terms.name == name) else {
            let what = format!("{}: `{name}` was revoked just now", path.display());
            return Err(Fault::new(what, "`toctocd client list`").of(FaultKind::Name));
        };
        let before = row.terms.limits.as_deref().unwrap_or(&NO_LIMITS);
        let limits = Limits { disabled, ..before.clone() };
        row.terms.limits = (limits != NO_LIMITS).then(|| Arc::new(limits));
        Ok(match row.standing {
            Standing::Joined(id, _) => Some(id),
            Standing::Open(_) | Standing::Pending(_) => None,
        })
    })?;
    Ok(ChangedLine { file: path.to_owned(), client })
}
