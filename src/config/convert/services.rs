//! The services that converted doors grant: those of the configuration, and new ones.

use super::opening::{Opening, Refusal, port_text};
use super::{Converter, Ends};
use crate::config::native::MAX_SERVICES;
use crate::config::{Mode, Service, ServicePorts, defaults};
use crate::core::types::{Port, PortRange, Proto, ServiceName};

/// Seconds of a grant for what one door opened and another one shut by hand.
pub(super) const BY_HAND: u32 = 3600;
/// Why there is no other service.
pub(super) const FULL: &str = "the configuration has as many services as it may have";

impl Converter<'_> {
    /// The service of these ports; all that open the same share it. `who`: the door or stanza, for
    /// messages.
    pub(super) fn service(
        &mut self, who: &str, opening: &Opening, ends: Ends,
    ) -> Result<ServiceName, Refusal> {
        let text = port_text(&opening.ports);
        let meets = |service: &&Service| match opening.ports.as_slice() {
            [] => matches!(service.ports, ServicePorts::AllBut(_)),
            ports => {
                let theirs = service.ports.ranges();
                theirs.iter().any(|one| ports.iter().any(|port| port.meets(*one)))
            }
        };
        let Some(service) = self.all_services().find(meets).cloned() else {
            return self.new_service(opening, ends);
        };
        let name = service.name;
        let lasts = service.seconds;
        if !opens_the_same(&service, opening) {
            return Err(Refusal::known(format!("{text} is not what service {name} opens")));
        }
        let theirs = service.ports.texts().join(", ");
        if opening.either_proto && theirs != text {
            self.note(format!(
                "{who}: its command names no protocol and so opens {text}; service {name} \
                 opens {theirs}"
            ));
        }
        match ends {
            Ends::After(seconds) if seconds != lasts => self.note(format!(
                "{who}: {text}: a grant of service {name} lasts {lasts} s, its own rule \
                 lasted {seconds} s"
            )),
            Ends::ByDoor => self.note_by_door(who, lasts),
            Ends::Never if service.mode == Mode::Mark => return Err(stays()),
            Ends::Never => self.warn(format!(
                "{who}: nothing took back what it opens; a grant of service {name} ends \
                 after {lasts} s"
            )),
            _ => {}
        }
        Ok(name)
    }

    fn new_service(&mut self, opening: &Opening, ends: Ends) -> Result<ServiceName, Refusal> {
        let text = port_text(&opening.ports);
        let seconds = match ends {
            Ends::After(seconds) => seconds,
            Ends::Never => return Err(stays()),
            Ends::ByDoor | Ends::NoOpening => BY_HAND,
        };
        let knock_port = Port { proto: Proto::Udp, number: self.existing.knock.port };
        if opening.ports.iter().any(|port| port.covers(knock_port)) {
            return Err(Refusal::known(format!(
                "{text} is the port of sealed knocks, which cannot be a service"
            )));
        }
        if opening.ports.iter().any(|port| port.first == 1 && port.last == u16::MAX) {
            return Err(Refusal::known("it opens every port of a protocol"));
        }
        if self.is_full() {
            return Err(Refusal::known(FULL));
        }
        let mut mode = self.existing.firewall.mode;
        let mut ports = ServicePorts::Listed(opening.ports.clone());
        if opening.ports.is_empty() {
            // The guard would shut every other port of this machine to everybody.
            mode = Mode::Mark;
            ports = ServicePorts::AllBut(Vec::new());
        }
        let mut names = service_names(&opening.ports).into_iter();
        let name = names.find(|name| self.all_services().all(|service| service.name != *name));
        let Some(name) = name else {
            return Err(Refusal::known(format!("no name is free for a service of {text}")));
        };
        self.services.push(Service {
            mode,
            seconds,
            max_seconds: defaults::MAX_SECONDS.max(seconds),
            forward: opening.forward.clone(),
            ..defaults::service(name, ports)
        });
        Ok(name)
    }

    fn note_by_door(&mut self, who: &str, seconds: u32) {
        self.note(format!(
            "{who}: another door shut what it opens; now that shuts by itself after {seconds} s"
        ));
    }

    /// True if the configuration has as many services as it may have.
    pub(super) fn is_full(&self) -> bool {
        self.all_services().count() >= MAX_SERVICES
    }

    pub(super) fn all_services(&self) -> impl Iterator<Item = &Service> {
        self.existing.services.iter().chain(&self.services)
    }
}

fn stays() -> Refusal {
    Refusal::known("nothing takes back what it opens, and that stays so")
}

/// True if a grant of `service` is as good as the rules. A command that names no protocol is meant
/// for the one that a program listens on.
fn opens_the_same(service: &Service, opening: &Opening) -> bool {
    let theirs = service.ports.ranges();
    let numbers = |port: &PortRange| (port.first, port.last);
    service.forward == opening.forward
        && theirs.iter().all(|port| opening.ports.contains(port))
        && opening.ports.iter().all(|port| {
            theirs.contains(port)
                || opening.either_proto && theirs.iter().any(|one| numbers(one) == numbers(port))
        })
}

/// Names that people know the ports by, the best first.
pub(super) fn service_names(ports: &[PortRange]) -> Vec<ServiceName> {
    let Some(PortRange { proto, first, .. }) = ports.first() else {
        return ["all", "all-ports"].into_iter().filter_map(ServiceName::new).collect();
    };
    let known = match (proto, first) {
        (Proto::Tcp, 22) => "ssh",
        (Proto::Tcp, 80) => "http",
        (Proto::Tcp, 443) => "https",
        (Proto::Tcp, 3389) => "rdp",
        (Proto::Udp, 1194) => "openvpn",
        (Proto::Udp, 51820) => "wireguard",
        _ => "",
    };
    let plain = format!("{}-{first}", proto.name());
    [known, &plain].into_iter().filter_map(ServiceName::new).collect()
}
