//! The network interfaces that a configuration currently means.

use crate::config::{DEFAULT_ROUTE, Settings};
use crate::edge::{addresses, capture, routes};

/// The interfaces of the default routes.
pub(super) fn of_default_routes() -> Vec<String> {
    // Without a list it is as without a route: what is missing is named, and waited for.
    let routes = routes::all().unwrap_or_default();
    routes::default_interfaces(&routes, &addresses::interfaces_up())
}

/// The interface names, each once, in the order of the configuration. `defaults` are the interfaces
/// of the default routes; if there are none, [`DEFAULT_ROUTE`] itself stands for them.
pub(super) fn resolved_interfaces(settings: &Settings, defaults: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for word in &settings.knock.interfaces {
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

/// A warning for each interface that is not there, or is down. It is waited for.
pub(super) fn absent(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    for name in resolved_interfaces(settings, &of_default_routes()) {
        let Err(fault) = capture::interface(&name) else { continue };
        warnings.push(match name == DEFAULT_ROUTE {
            false => format!(
                "[knock] interfaces: {}: no knock is heard there until it comes up ({})",
                fault.what, fault.remedy
            ),
            true => "[knock] interfaces: there is no default route now, neither of IPv4 nor of \
                     IPv6: no knock is heard by it until there is one (`ip route; ip -6 route` \
                     show what there is)"
                .to_owned(),
        });
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::defaults;

    #[test]
    fn the_word_stands_for_what_the_routes_say_and_each_name_comes_once() {
        let mut settings = defaults::settings();
        settings.knock.interfaces = ["wg0", "default", "eth1"].map(String::from).into();
        let two = ["eth0", "eth1"].map(String::from);
        assert_eq!(resolved_interfaces(&settings, &two), ["wg0", "eth0", "eth1"]);
        assert_eq!(resolved_interfaces(&settings, &[]), ["wg0", "default", "eth1"]);
    }
}
