//! The names that a shell completes on the command line of `toctocd`: clients, services, doors.

use std::path::Path;

use crate::app::complete::CommandLine;
use crate::app::{close, joined, load};
use crate::config::defaults;
use crate::core::joining::Standing;
use crate::keys::authorized;

/// The names that may be the value of argument `id`. Reads the configuration, even a broken one,
/// and prints nothing.
pub fn known_names(line: &CommandLine<'_>, id: &str, _typed: &str) -> Vec<String> {
    let config = Path::new(line.value("config").unwrap_or(defaults::CONFIG));
    match (line.command(), id) {
        ("revoke" | "show" | "disable" | "enable", "name") => clients(config, |_| true),
        ("forgive" | "rotate", "name") => {
            clients(config, |standing| matches!(standing, Standing::Joined(..)))
        }
        ("explain", "client") => {
            clients(config, |standing| matches!(standing, Standing::Joined(..)))
        }
        ("explain", "service") => services(config),
        // Not the fingerprint: whoever approves compares it with what they were told.
        ("approve", "name") => joined::waiting(&load::reach(config).settings),
        ("close", "grant") => close::open_grants(&load::reach(config).settings),
        ("close", "client") => close::holders(&load::reach(config).settings),
        (_, "services" | "service") => services(config),
        (_, "door") => doors(config),
        _ => Vec::new(),
    }
}

/// The clients of the clients file, and those of the file `joined` whose standing fits.
fn clients(config: &Path, fits: fn(&Standing) -> bool) -> Vec<String> {
    let settings = load::reach(config).settings;
    let mut names = match load::clients_text(&settings.gateway.clients_file) {
        Ok(text) => authorized::names(&text),
        Err(_) => Vec::new(),
    };
    names.extend(joined::names(&settings, fits));
    names
}

fn services(config: &Path) -> Vec<String> {
    let services = load::reach(config).settings.services;
    services.iter().map(|service| service.name.to_string()).collect()
}

/// A door of a knockd.conf may have any name. One that a shell would take apart is left out.
fn doors(config: &Path) -> Vec<String> {
    let doors = match load::settings(config) {
        Ok(settings) => settings.doors,
        Err(_) => load::reach(config).settings.doors,
    };
    let names = doors.into_iter().map(|door| door.name);
    names.filter(|name| authorized::is_name(name)).collect()
}
