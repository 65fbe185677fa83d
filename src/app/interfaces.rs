//! Which interfaces a configuration means at this moment, and its own words for those.
//! Capturing on them is left to `edge::capture`, what to do when they change to `gatekeeper`.

use crate::config::{DEFAULT_ROUTE, Settings};
use crate::core::types::Fault;
use crate::edge::proc_net::default_interfaces;

/// The interfaces by name, each once, in the order of the configuration. Where no default route
/// leads out of any, [`DEFAULT_ROUTE`] itself stands for those that there are not.
pub(super) fn resolved_interfaces(settings: &Settings) -> Vec<String> {
    meant_by(&settings.knock.interfaces, default_interfaces)
}

fn meant_by(wanted: &[String], defaults: impl Fn() -> Vec<String>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for word in wanted {
        let found = if word == DEFAULT_ROUTE { defaults() } else { Vec::new() };
        let found = if found.is_empty() { vec![word.clone()] } else { found };
        found.into_iter().for_each(|name| {
            if !names.contains(&name) {
                names.push(name);
            }
        });
    }
    names
}

/// Whether the default route decides where knocks are heard.
pub(super) fn follows_default_route(settings: &Settings) -> bool {
    settings.knock.interfaces.iter().any(|word| word == DEFAULT_ROUTE)
}

/// What to say where a default route is wanted and there is none.
pub(super) fn no_default_route() -> Fault {
    Fault::new(
        "[knock] interfaces: there is no default route now, neither of IPv4 nor of IPv6",
        "`ip route; ip -6 route` show what there is; or name an interface, or use \"any\"",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_stands_for_what_the_routes_say_and_each_name_comes_once() {
        let wanted: Vec<String> = ["wg0", "default", "eth1"].map(String::from).into();
        let two = || vec!["eth0".to_owned(), "eth1".to_owned()];
        assert_eq!(meant_by(&wanted, two), ["wg0", "eth0", "eth1"]);
        assert_eq!(meant_by(&wanted, Vec::new), ["wg0", "default", "eth1"]);
    }
}
