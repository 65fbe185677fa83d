//! The network interfaces that a configuration currently means.

use crate::config::{DEFAULT_ROUTE, Settings};
use crate::core::types::Fault;

/// The interface names, each once, in the order of the configuration. `defaults` are the interfaces
/// of the default routes; if there are none, [`DEFAULT_ROUTE`] itself stands for them.
pub(super) fn resolved_interfaces(settings: &Settings, defaults: &[String]) -> Vec<String> {
    resolve(&settings.knock.interfaces, defaults)
}

fn resolve(wanted: &[String], defaults: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for word in wanted {
        let found = match word == DEFAULT_ROUTE && !defaults.is_empty() {
            true => defaults,
            false => std::slice::from_ref(word),
        };
        for name in found {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    names
}

/// The fault if the configuration needs a default route and there is none.
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
        let two = ["eth0", "eth1"].map(String::from);
        assert_eq!(resolve(&wanted, &two), ["wg0", "eth0", "eth1"]);
        assert_eq!(resolve(&wanted, &[]), ["wg0", "default", "eth1"]);
    }
}
