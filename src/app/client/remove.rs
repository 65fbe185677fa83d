//! `toctoc remove`: a profile, with all that this program wrote for it.

use std::path::PathBuf;

use super::join::{self, Joiner};
use super::{keys, profiles, ssh_config};
use crate::app::output::CommandOutput;
use crate::app::paths::{UserPaths, is_profile_name};
use crate::core::diagnostic::printable;
use crate::core::types::Fault;
use crate::edge::files;

/// The question of `toctoc remove`.
pub(super) fn question(name: &str) -> String {
    format!("Remove the profile `{name}`? Only the gateway's admin can make a new one.")
}

/// `toctoc remove`: the profile, its lines for ssh, and its mark as the default. The private key
/// stays: it may be used elsewhere.
pub(super) fn remove(paths: &UserPaths, name: &str) -> Result<CommandOutput, Fault> {
    let path = existing(paths, name)?;
    let left = match path.extension() {
        Some(ending) if ending == "pending" => "the invitation can still be used",
        _ => "the gateway still accepts this key, which was not removed",
    };
    // A broken one can be removed too.
    let client = client_name(paths, name);
    let mut text = String::new();
    if ssh_config::is_installed(paths, name)? {
        text += &ssh_config::remove(paths, name)?.out;
    }
    // What a killed program left: without the profile the next command would join again.
    join::forget_line(paths, name)?;
    files::remove(&path)?;
    if let Ok(Some(marked)) = profiles::marked(paths)
        && marked.profile == name
    {
        files::remove(&paths.default_profile()?)?;
    }
    text += &format!("removed {}\n", path.display());
    let client = client.unwrap_or("NAME".to_owned());
    let mut output = CommandOutput::out(text);
    output.err = format!("{left}: to end that, its admin runs\n  toctocd client revoke {client}\n");
    Ok(output)
}

/// The client's name at the gateway; `None` if the file cannot be read.
fn client_name(paths: &UserPaths, name: &str) -> Option<String> {
    if let Ok(held) = keys::profile(paths, name) {
        return Some(held.profile.name);
    }
    Some(Joiner::waiting(paths, name).ok()??.client_name().to_owned())
}

/// The file of an imported profile, or of an invitation that is to become one. A file elsewhere is
/// its owner's own business.
pub(super) fn existing(paths: &UserPaths, name: &str) -> Result<PathBuf, Fault> {
    let profile = paths.profiles()?.join(format!("{name}.toml"));
    for path in [profile, paths.pending(name)?] {
        if is_profile_name(name) && path.exists() {
            return Ok(path);
        }
    }
    let what = format!("no profile `{}`; nothing was removed", printable(name));
    Err(Fault::new(what, keys::known_profiles(paths)))
}
