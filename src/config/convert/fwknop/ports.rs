//! The ports of a stanza -> services, one for each.

use std::net::SocketAddr;

use super::super::Ends;
use super::super::opening::Opening;
use super::fields::{inner, ports};
use super::reader::{Place, Setting, Stanza, is_yes};
use super::{Migration, Rights};
use crate::config::ServicePorts;
use crate::config::native::is_inner_host;
use crate::core::diagnostic::printable;
use crate::core::service::Forward;
use crate::core::types::{PortRange, Proto, ServiceName};

impl Migration<'_> {
    /// The services of the ports that a stanza opens: one for each, as its client asks for one.
    pub(super) fn port_services(&mut self, rights: &mut Rights<'_>) {
        let stanza = rights.stanza;
        for key in ["FORWARD_ALL", "DISABLE_DNAT"] {
            if let Some(setting) = stanza.get(key).filter(|setting| is_yes(&setting.value)) {
                let what = "whole networks behind this machine are no service";
                self.leave_out(format!("{}: {key}: {what}", setting.place));
                return;
            }
        }
        let restricted = match stanza.get("RESTRICT_PORTS") {
            Some(setting) => ports(&setting.value).unwrap_or_default(),
            None => Vec::new(),
        };
        let forward = match self.forward(stanza) {
            Ok(forward) => forward,
            Err(reason) => return self.leave_out(reason),
        };
        let Some(open) = stanza.get("OPEN_PORTS") else {
            return self.every_port(rights, &restricted, forward.is_some());
        };
        let mut listed = ports(&open.value).unwrap_or_default();
        listed.retain(|port| !restricted.contains(port));
        listed.dedup();
        for (proto, number) in listed {
            let text = format!("{number}/{}", proto.name());
            if number == 0 {
                self.leave_out(format!("{}: OPEN_PORTS: {text} is no port", open.place));
                continue;
            }
            let opening = Opening {
                ports: vec![PortRange { proto, first: number, last: number }],
                forward: forward.clone(),
                ..Opening::default()
            };
            self.service(rights, &opening, &open.place);
        }
    }

    fn service(&mut self, rights: &mut Rights<'_>, opening: &Opening, place: &Place) {
        let ends = Ends::After(rights.seconds);
        match self.converter.service(&place.to_string(), opening, ends) {
            Ok(service) => {
                self.may_last(service, rights.most_seconds);
                self.converter.note_guard(service);
                if !rights.services.contains(&service) {
                    rights.services.push(service);
                }
            }
            Err(refusal) => self.leave_out(format!("{place}: {}", refusal.reason)),
        }
    }

    /// A new service lasts as long as one of its clients may ask for.
    fn may_last(&mut self, name: ServiceName, most: u32) {
        for service in &mut self.converter.services {
            if service.name == name {
                service.max_seconds = service.max_seconds.max(most);
            }
        }
    }

    /// A stanza without OPEN_PORTS: its client could open any port.
    fn every_port(&mut self, rights: &mut Rights<'_>, restricted: &[(Proto, u16)], forwards: bool) {
        let place = rights.stanza.place().clone();
        let reason = if forwards {
            "without OPEN_PORTS it forwards any port, and a service forwards one"
        } else if rights.stanza.is_on("ENABLE_CMD_EXEC") {
            "without OPEN_PORTS it opens any port besides its commands: write those that it is for"
        } else {
            ""
        };
        if !reason.is_empty() {
            return self.leave_out(format!("{place}: {reason}"));
        }
        let before = self.converter.services.len();
        self.service(rights, &Opening::default(), &place);
        let Some(all) = rights.services.first().copied() else { return };
        let mut except = Vec::new();
        for (proto, number) in restricted.iter().filter(|(_, number)| *number != 0) {
            except.push(PortRange { proto: *proto, first: *number, last: *number });
        }
        except.sort_by_key(|port| (port.proto.number(), port.first));
        except.dedup();
        if let Some(new) = self.converter.services.get_mut(before) {
            new.ports = ServicePorts::AllBut(except);
        } else if self.ports_of(all) != Some(ServicePorts::AllBut(except)) {
            rights.services.clear();
            let what = "service all has other exceptions than this RESTRICT_PORTS";
            return self.leave_out(format!("{place}: {what}"));
        }
        let what = "its client named the port that it wanted; a grant opens all of them at once, \
                    but for those of other services: name its ports in OPEN_PORTS first";
        self.warn(&place, "no OPEN_PORTS", what);
    }

    fn ports_of(&self, name: ServiceName) -> Option<ServicePorts> {
        let mut services = self.converter.all_services();
        services.find(|service| service.name == name).map(|service| service.ports.clone())
    }

    /// Where the stanza's ports lead, if not to this machine. Error: that cannot be said here.
    fn forward(&mut self, stanza: &Stanza) -> Result<Option<Forward>, String> {
        let Some(setting) = stanza.get("FORCE_NAT") else { return Ok(None) };
        let Some((ip, port)) = inner(&setting.value) else { return Ok(None) };
        let place = &setting.place;
        let target = SocketAddr::from((ip, port));
        if ip.is_loopback() || self.converter.own.contains(&ip.into()) {
            return Err(format!(
                "{place}: FORCE_NAT: it leads to this machine itself: let OPEN_PORTS name the port \
                 that the service listens on"
            ));
        }
        if !is_inner_host(target) {
            return Err(format!("{place}: FORCE_NAT: {target} is no host and port to forward to"));
        }
        let global = self.server.get("ENABLE_IPT_SNAT").filter(|setting| is_yes(&setting.value));
        let is_global = global.is_some();
        let everywhere = global.and(self.server.get("SNAT_TRANSLATE_IP"));
        let snat = stanza.get("FORCE_SNAT").or(everywhere).cloned();
        let masquerade = snat.is_some() || is_global || stanza.is_on("FORCE_MASQUERADE");
        if let Some(Setting { key, value, place }) = snat {
            let what = format!(
                "the inner host sees the address that this machine has on the way to it, which may \
                 not be {}",
                printable(&value)
            );
            self.warn(&place, &key, &what);
        }
        self.note(place, "FORCE_NAT", "let the forwarded packets through by a rule of your own");
        Ok(Some(Forward { to: vec![target], masquerade }))
    }
}
