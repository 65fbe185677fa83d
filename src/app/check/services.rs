//! Notes about services: what they grant beyond one address and one port, and what is missing.

use crate::app::finding::Finding;
use crate::config::{Service, Settings, SourceRule};
use crate::core::prefix::Spans;
use crate::core::service::ServicePorts;

/// `clients`: the number of clients.
pub(super) fn notes(settings: &Settings, clients: usize) -> Vec<Finding> {
    let mut notes = Vec::new();
    if settings.gateway.addresses.is_empty() {
        notes.push("[gateway] addresses is empty, so no profile can be made".to_owned());
    }
    if settings.services.is_empty() && settings.doors.is_empty() {
        notes.push("neither a service nor a classic door: there is nothing to open".to_owned());
    }
    if !settings.services.is_empty() && clients == 0 {
        notes.push("no client is enrolled yet: `toctocd client add`".to_owned());
    }
    for prefix in &settings.knock.also_grant {
        notes.push(format!(
            "[knock] also_grant: {prefix} is granted even if it is a router's address that everybody shares"
        ));
    }
    for service in &settings.services {
        notes.extend(wide_notes(service));
    }
    notes.into_iter().map(Finding::note).collect()
}

/// Notes about a service that grants more than the one address that a knock names and comes from.
fn wide_notes(service: &Service) -> Vec<String> {
    let name = service.name;
    let mut notes = Vec::new();
    match &service.source {
        SourceRule::Bound => {}
        SourceRule::Observed => notes.push(format!(
            "service {name} grants the address that a knock comes from: an attacker on the path can choose it"
        )),
        SourceRule::Within(prefixes) => {
            let list: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
            notes.push(format!(
                "service {name} grants any address of {} to whoever has a client's key",
                list.join(", ")
            ));
        }
    }
    let Spans { v4, v6 } = service.spans;
    for (family, longest, span) in [("IPv4", 32, v4), ("IPv6", 128, v6)] {
        let ignored = span.ignored();
        if ignored > 0 {
            notes.push(format!(
                "service {name} grants the whole /{} of an {family} address: everybody there is let in",
                longest - ignored
            ));
        }
    }
    if let ServicePorts::AllBut(_) = service.ports {
        notes.push(format!(
            "service {name} has all ports: what no other service has, and no exception (\"!80/tcp\") names, \
             is closed to everybody without a grant"
        ));
    }
    notes
}
