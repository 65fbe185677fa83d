//! Rules of others that lead packets past the guard, or around what it guards.

use std::net::IpAddr;

use crate::app::finding::Finding;
use crate::config::{Service, Settings};
use crate::core::types::{Port, PortRange};
use crate::edge::firewall::translations::{LeadsTo, Translation};
use crate::edge::proc_net::Listening;

/// The most published ports that a note names.
const SHOWN: usize = 8;

/// Remarks about what each of the translations does to the services. `own`: the addresses of this
/// machine.
pub(super) fn remarks(
    settings: &Settings, translations: &[Translation], own: &[IpAddr], listening: &Listening,
) -> Vec<Finding> {
    let ways = Ways { settings, translations, own, listening };
    let mut all = Vec::new();
    let mut published = Vec::new();
    for translation in translations {
        for range in &translation.from {
            match &translation.to {
                LeadsTo::Program { port } => {
                    all.extend(ways.to_program(translation, *range, *port))
                }
                LeadsTo::Here { port } => all.extend(ways.to_here(translation, *range, *port)),
                LeadsTo::Host { ip, port } if own.contains(ip) => {
                    all.extend(ways.to_here(translation, *range, *port));
                }
                LeadsTo::Host { ip, port } => {
                    let to = Target { ip: *ip, port: *port };
                    match ways.to_host(translation, *range, &to) {
                        Some(finding) => all.push(finding),
                        None if ways.service_of(*range).is_none() => {
                            published.push(format!("{} by {}", text(*range), translation.place));
                        }
                        None => {}
                    }
                }
            }
        }
    }
    if !published.is_empty() {
        let left_out = published.len().saturating_sub(SHOWN);
        published.truncate(SHOWN);
        let more = if left_out > 0 { format!(", and {left_out} more") } else { String::new() };
        all.push(Finding::note(format!(
            "led on to other machines or containers, past your own input rules, and no service guards \
             it: {}{more}. To hide one, write a service with that port",
            published.join(", ")
        )));
    }
    all
}

struct Ways<'a> {
    settings: &'a Settings,
    translations: &'a [Translation],
    own: &'a [IpAddr],
    listening: &'a Listening,
}

/// Another host to which packets are led.
struct Target {
    ip: IpAddr,
    port: Option<u16>,
}

impl Ways<'_> {
    /// The service of a range's first port; of all ports none.
    fn service_of(&self, range: PortRange) -> Option<&Service> {
        if range.first <= 1 && range.last == u16::MAX {
            return None;
        }
        self.service(Port { proto: range.proto, number: range.first })
    }

    /// The service of a port: the one that lists it, else the one of all ports.
    fn service(&self, port: Port) -> Option<&Service> {
        let services = &self.settings.services;
        let lists = services.iter().find(|service| service.ports.lists(port));
        lists.or_else(|| services.iter().find(|service| service.ports.covers(port)))
    }

    /// TPROXY: the packets keep their port, so the guard sees the outer one.
    fn to_program(
        &self, translation: &Translation, range: PortRange, port: Option<u16>,
    ) -> Option<Finding> {
        let inner = Port { proto: range.proto, number: port? };
        let service = self.service(inner)?;
        if self.service_of(range).is_some() {
            return None;
        }
        let (place, outer, name) = (&translation.place, text(range), service.name);
        Some(Finding::warning(format!(
            "{place} hands {outer} to the program on {inner} (service {name}) and leaves the packets as \
             they are: the guard sees {outer}, so EVERYBODY gets in there. Remove the rule, or add \
             \"{outer}\" to the `ports` of service {name}"
        )))
    }

    /// REDIRECT, and DNAT to an address of this machine: the guard looks at both ports.
    fn to_here(
        &self, translation: &Translation, range: PortRange, port: Option<u16>,
    ) -> Option<Finding> {
        let inner = Port { proto: range.proto, number: port? };
        let (place, outer) = (&translation.place, text(range));
        match (self.service_of(range), self.service(inner)) {
            (None, Some(service)) => {
                let name = service.name;
                Some(Finding::note(format!(
                    "{place} leads {outer} to {inner} (service {name}): the guard looks again there, \
                     so nobody gets in without a grant; with one, by {outer} as well. If that is not \
                     meant, remove the rule"
                )))
            }
            (Some(service), None) if self.listening.to_others.contains(&inner) => {
                let name = service.name;
                Some(Finding::warning(format!(
                    "{place} leads {outer} (service {name}) to {inner}, which no service guards: \
                     EVERYBODY reaches the program there. Add \"{inner}\" to the `ports` of service \
                     {name}"
                )))
            }
            _ => None,
        }
    }

    /// DNAT to another host, as Docker publishes ports.
    fn to_host(&self, translation: &Translation, range: PortRange, to: &Target) -> Option<Finding> {
        let place = &translation.place;
        let outer = text(range);
        let docker = match place.is_dockers() {
            true => " (`docker ps` shows what is published)",
            false => "",
        };
        if self.service_of(range).is_some() {
            return None;
        }
        let past = self.reached_by(translation, range, to)?.name;
        Some(Finding::warning(format!(
            "{place} leads {outer} to {}, which is behind service {past}, and no service guards {outer}: \
             EVERYBODY gets in there{docker}. Remove it, or add \"{outer}\" to the `ports` of service \
             {past}",
            to.text(range)
        )))
    }

    /// The service whose grants lead to the same program.
    fn reached_by(
        &self, translation: &Translation, range: PortRange, to: &Target,
    ) -> Option<&Service> {
        let number = to.port.unwrap_or(range.first);
        for service in &self.settings.services {
            let targets = service.forward.iter().flat_map(|forward| &forward.to);
            for target in targets {
                if target.ip() == to.ip && target.port() == number {
                    return Some(service);
                }
            }
        }
        for other in self.translations.iter().filter(|other| *other != translation) {
            let LeadsTo::Host { ip, port } = &other.to else { continue };
            if *ip != to.ip || self.own.contains(ip) {
                continue;
            }
            for from in &other.from {
                if from.proto == range.proto && port.unwrap_or(from.first) == number {
                    let service = self.service_of(*from);
                    if service.is_some() {
                        return service;
                    }
                }
            }
        }
        None
    }
}

impl Target {
    fn text(&self, range: PortRange) -> String {
        format!("{} port {}", self.ip, self.port.unwrap_or(range.first))
    }
}

/// `8080/tcp`, or `every tcp port`.
fn text(range: PortRange) -> String {
    match range.first <= 1 && range.last == u16::MAX {
        true => format!("every {} port", range.proto.name()),
        false => range.to_string(),
    }
}
