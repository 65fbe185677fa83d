//! What the client is told: in the words of the client program, by the same code.

use std::net::IpAddr;

use super::Explanation;
use crate::app::client::{GrantedKnock, Refusal, RefusedKnock, silence_line};
use crate::core::exchange::{AddressOrigin, NamedAddress};
use crate::core::types::{ServiceName, Source};
use crate::edge::{addresses, clock};

/// What the gateway does not know: the name of the client's profile.
const PROFILE: &str = "PROFILE";

impl Explanation {
    /// What `toctoc open` says and how it ends.
    pub(super) fn told(&self) -> String {
        let refused = self.foreseen.refusal.iter().map(|refusal| refusal.status.as_str());
        let stopped = self.foreseen.obstacles.iter().map(|obstacle| obstacle.status.as_str());
        // Who stops it first, answers. A receipt that the own firewall drops is another matter.
        let status = stopped.chain(refused).next().unwrap_or("granted");
        if self.foreseen.holder.starts_with("door ") {
            return "nothing: a classic door never answers".to_owned();
        }
        let (status, code, said) = match status {
            "none" => ("no receipt", 3, self.silence()),
            "granted" => ("status granted", 0, self.granted()),
            "address" => ("status address", 1, self.refused(self.address())),
            "denied" => ("status denied", 1, self.refused(Refusal::Denied)),
            "full" => ("status full", 1, self.refused(Refusal::Full)),
            _ => ("status trouble", 1, self.refused(Refusal::Trouble)),
        };
        format!("{status}; `toctoc open` ends with {code} and says:\n{}", said.trim_end())
    }

    fn granted(&self) -> String {
        let Some(grant) = &self.foreseen.grant else { return String::new() };
        let ports = grant.ports.join(", ");
        // Of a net the client names its own address too.
        let granted = match grant.address.contains('/') {
            true => format!("{} and all of {}", self.named, grant.address),
            false => grant.address.clone(),
        };
        GrantedKnock {
            granted: &granted,
            what: if ports.is_empty() { &self.foreseen.service } else { &ports },
            gateway: &self.gateway,
            source_port: 0,
            is_once: grant.form == "once",
            seconds: grant.seconds,
            until: clock::now().wall.plus(grant.seconds),
        }
        .text()
    }

    fn refused(&self, refusal: Refusal) -> String {
        let names = self.foreseen.services.iter();
        let services: Vec<ServiceName> = names.filter_map(|name| ServiceName::new(name)).collect();
        let Some(service) = ServiceName::new(&self.foreseen.service) else { return String::new() };
        RefusedKnock { gateway: &self.gateway, name: PROFILE, service, services: &services }
            .text(refusal)
    }

    fn silence(&self) -> String {
        let service = ServiceName::new(&self.foreseen.service);
        silence_line(&format!("from {} to its knocks", self.gateway), service)
    }

    fn address(&self) -> Refusal {
        let [named, observed] = [self.named, self.from].map(Source::new);
        Refusal::of_address(
            Some(NamedAddress { source: named, origin: AddressOrigin::Local }),
            observed,
        )
    }
}

/// The address of this machine that a client with this address is likely to know.
pub(super) fn gateway(from: IpAddr) -> String {
    let mut own: Vec<IpAddr> =
        addresses::own().unwrap_or_default().into_iter().map(|own| own.address).collect();
    own.retain(|ip| ip.is_ipv6() == from.is_ipv6() && !ip.is_loopback());
    own.sort_by_key(|ip| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()));
    own.first().map_or("this gateway".to_owned(), IpAddr::to_string)
}
