//! Changes of this machine's network: addresses, routes, and interfaces that go, come back, or get
//! another name.

use super::Gatekeeper;
use super::events::{Network, Output};
use super::listeners::StartReason;
use crate::app::interfaces;
use crate::app::listener_process::own_addresses;
use crate::config::DEFAULT_ROUTE;
use crate::core::event::EventKind;
use crate::core::types::{Fault, Now};
use crate::edge::capture::ANY;
use crate::edge::gatekeeper_pipe::ToListener;
use crate::edge::log::LogEvent;

impl Gatekeeper {
    /// Handles a captured interface that went down. Nothing is received there until an interface of
    /// that name is up again.
    pub(super) fn interface_down(&mut self, now: Now, capture: u16) {
        let Some(current) = &mut self.listeners.current else { return };
        let Some(name) = current.ready.interfaces.get(usize::from(capture)).cloned() else {
            return;
        };
        if name != ANY && !current.ready.missing.contains(&name) {
            let text = format!("interface {name} went down: no knock is heard there");
            let event = LogEvent::new(EventKind::Network, text);
            self.out.tell_at_most(&format!("interface {name}"), 1, event);
            current.ready.missing.push(name);
            self.check_soon(now);
        }
    }

    /// Applies the network's current state: addresses, routes and interfaces may have changed.
    pub(super) fn network_changed(&mut self, now: Now, network: Result<Network, Fault>) {
        let network = match network {
            Ok(network) => network,
            Err(fault) => {
                let event = LogEvent::new(EventKind::Network, fault.to_string()).failed();
                return self.out.tell_at_most("addresses", 10, event);
            }
        };
        if network.addresses != self.in_force.network().addresses
            && let Some(current) = &self.listeners.current
        {
            let addresses = own_addresses(&current.ready.wanted, &network.addresses);
            self.out.push(Output::SendAddresses(current.id, addresses));
        }
        if network.up != self.in_force.network().up {
            self.xdp.look_again();
        }
        let before = self.in_force.refused();
        self.in_force.set_network(network);
        self.policy.set_own(self.in_force.never_granted());
        self.policy.set_shared(self.in_force.shared());
        self.policy.set_private(self.in_force.network().private.clone());
        // An interface that goes down for a moment ends no grant: its networks come back.
        if !self.in_force.refused().is_subset(&before) {
            self.review_rules(now, &[]);
        }
        self.look_at_captures();
        self.find_interfaces(now);
    }

    /// Notes captured interfaces that are down, and stops capturing on those that have another name
    /// now: a socket follows the device, and the configuration names none of that name.
    fn look_at_captures(&mut self) {
        let Some(current) = &mut self.listeners.current else { return };
        let up = &self.in_force.network().up;
        let ready = &mut current.ready;
        for (capture, (name, index)) in (0..).zip(ready.interfaces.iter().zip(&mut ready.indexes)) {
            if *index == 0 || up.get(name) == Some(index) {
                continue;
            }
            let mut text = format!("interface {name} went down: no knock is heard there");
            if let Some((other, _)) = up.iter().find(|(_, number)| *number == index) {
                text = format!("interface {name} is called {other} now: no knock is heard there");
                *index = 0;
                self.out.send(current.id, ToListener::Release { capture });
                let event = LogEvent::new(EventKind::Network, text);
                self.out.tell_at_most(&format!("renamed {name}"), 1, event);
            } else if !ready.missing.contains(name) {
                let event = LogEvent::new(EventKind::Network, text);
                self.out.tell_at_most(&format!("interface {name}"), 1, event);
            }
            if !ready.missing.contains(name) {
                ready.missing.push(name.clone());
            }
        }
    }

    /// Starts a new listener if a missing interface is up or the default route has moved. Without
    /// any default route the current listener stays: there is nothing that it could miss.
    fn find_interfaces(&mut self, now: Now) {
        let Some(current) = &self.listeners.current else { return };
        if self.listeners.starting.is_some() {
            return;
        }
        let network = self.in_force.network();
        let wanted =
            interfaces::resolved_interfaces(self.in_force.settings(), &network.default_routes);
        let moved =
            wanted != current.ready.wanted && !wanted.iter().any(|name| name == DEFAULT_ROUTE);
        let missing = current.ready.missing.iter();
        let back: Vec<String> =
            missing.filter(|name| network.up.contains_key(*name)).cloned().collect();
        if moved || !back.is_empty() {
            self.start_listener(now, StartReason::Interfaces { moved, back });
        }
    }
}
