//! The names that a shell completes on the command line of `toctocd`: clients, services, doors.

use std::path::Path;

use crate::app::complete::CommandLine;
use crate::app::load;
use crate::config::defaults;
use crate::keys::authorized;

/// The names that may be the value of argument `id`. Reads the configuration, even a broken one,
/// and prints nothing.
pub fn known_names(line: &CommandLine<'_>, id: &str, _typed: &str) -> Vec<String> {
    let config = Path::new(line.value("config").unwrap_or(defaults::CONFIG));
    match (line.command(), id) {
        ("revoke" | "forgive", "name") => clients(config),
        (_, "services") => services(config),
        (_, "door") => doors(config),
        _ => Vec::new(),
    }
}

fn clients(config: &Path) -> Vec<String> {
    let settings = load::reach(config).settings;
    match load::clients_text(&settings.gateway.clients_file) {
        Ok(text) => authorized::names(&text),
        Err(_) => Vec::new(),
    }
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
