//! The names that a shell completes on the command line of `toctoc`: profiles and their services.

use super::keys;
use crate::app::complete::{CommandLine, FILES};
use crate::app::paths::UserPaths;
use crate::core::types::ServiceName;

/// The names that may be the value of argument `id`. Reads the user's profiles and prints nothing.
pub(super) fn known_names(
    paths: &UserPaths, line: &CommandLine<'_>, id: &str, typed: &str,
) -> Vec<String> {
    match id {
        "target" | "profile" if typed.contains(std::path::is_separator) => vec![FILES.to_owned()],
        "target" if typed.contains(':') => {
            let profile = typed.split(':').next().unwrap_or("");
            let mut both = Vec::new();
            for service in services(paths, Some(profile)) {
                both.push(format!("{profile}:{service}"));
            }
            both
        }
        "target" | "profile" => keys::names(paths).unwrap_or_default(),
        "service" => services(paths, line.value("target")),
        _ => Vec::new(),
    }
}

fn services(paths: &UserPaths, profile: Option<&str>) -> Vec<String> {
    let Some(name) = profile else { return Vec::new() };
    match keys::profile(paths, name) {
        Ok(held) => held.profile.services.iter().map(ServiceName::to_string).collect(),
        // The command itself says what is wrong.
        Err(_) => Vec::new(),
    }
}
