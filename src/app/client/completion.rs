//! The names that a shell completes on the command line of `toctoc`: profiles and their services.

use super::{keys, profiles};
use crate::app::args::toctoc::{Target, target};
use crate::app::complete::{CommandLine, FILES};
use crate::app::paths::UserPaths;
use crate::core::types::ServiceName;

/// The names that may be the value of argument `id`, which begins with `typed`. Reads the user's
/// profiles and prints nothing.
pub(super) fn known_names(
    paths: &UserPaths, line: &CommandLine<'_>, id: &str, typed: &str,
) -> Vec<String> {
    match id {
        "target" if typed.contains(std::path::is_separator) => vec![FILES.to_owned()],
        "target" if typed.contains(':') => targets(paths, typed),
        "target" | "profile" => {
            let mut names = keys::names(paths).unwrap_or_default();
            names.extend(keys::pending_names(paths).unwrap_or_default());
            names
        }
        "service" => services(paths, line.value("target")),
        _ => Vec::new(),
    }
}

/// `home:ssh` for each service of the profile.
fn targets(paths: &UserPaths, typed: &str) -> Vec<String> {
    let Some((name, _)) = typed.rsplit_once(':') else { return Vec::new() };
    let services = services(paths, Some(name));
    services.iter().map(|service| format!("{name}:{service}")).collect()
}

/// The services of the profile that `named` begins with, or of the default one.
fn services(paths: &UserPaths, named: Option<&str>) -> Vec<String> {
    let named: Option<Target> = named.and_then(|text| target(text).ok());
    // The command itself says what is wrong. Nothing is sent for a profile that waits.
    let Ok(name) = profiles::chosen_name(paths, named.as_ref()) else { return Vec::new() };
    match keys::profile(paths, &name) {
        Ok(held) => held.profile.services.iter().map(ServiceName::to_string).collect(),
        Err(_) => Vec::new(),
    }
}
