//! The interfaces at which junk is dropped before the network stack. `edge::xdp` holds the links; a
//! task brings them to what is wanted here.

use std::collections::BTreeMap;

use super::Gatekeeper;
use super::events::{Lane, ListenerId, Task, XdpTarget};
use crate::app::admin::XdpStatus;
use crate::app::unit;
use crate::core::event::EventKind;
use crate::core::types::Now;
use crate::edge::log::LogEvent;
use crate::edge::sys::XdpMode;
use crate::edge::xdp::{XdpFault, XdpState};

#[derive(Default)]
pub(super) struct Xdp {
    /// What the last task was told.
    told: XdpTarget,
    /// What stood at each of its interfaces, in order.
    stands: Vec<XdpState>,
    /// True if it may be different by now.
    is_unsure: bool,
}

impl Xdp {
    /// Something may have changed that the links depend on.
    pub(super) fn look_again(&mut self) {
        self.is_unsure = true;
    }

    /// For the status.
    pub(super) fn status(&self) -> Vec<XdpStatus> {
        let describe = |(interface, state): (&String, &XdpState)| XdpStatus {
            interface: interface.clone(),
            mode: match state {
                XdpState::On(mode) => mode_word(*mode),
                XdpState::Off(_) => "none",
            }
            .to_owned(),
            why: match state {
                XdpState::On(_) => None,
                XdpState::Off(fault) => Some(fault.text()),
            },
        };
        self.told.interfaces.iter().zip(&self.stands).map(describe).collect()
    }

    /// What the program cannot do.
    pub(super) fn limitations(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (interface, state) in self.told.interfaces.iter().zip(&self.stands) {
            if let XdpState::Off(fault) = state {
                all.push(without_xdp(interface, fault));
            }
        }
        all
    }
}

fn without_xdp(interface: &str, fault: &XdpFault) -> String {
    let text = format!("no XDP at interface {interface}: {}", fault.text());
    match fault {
        XdpFault::Forbidden => format!("{text}; under the unit: {}", unit::remedy_for_xdp()),
        _ => text,
    }
}

fn mode_word(mode: XdpMode) -> &'static str {
    match mode {
        XdpMode::Native => "native",
        XdpMode::Generic => "generic",
    }
}

impl Gatekeeper {
    /// Starts a task if something else is wanted, or something may have changed.
    pub(super) fn start_xdp_work(&mut self, now: Now) {
        let listener = self.xdp_listener();
        let wanted = &self.in_force.settings().knock.xdp;
        let told = &self.xdp.told;
        let is_told = told.interfaces == *wanted && told.listener == listener;
        let has_none = wanted.is_empty() && told.interfaces.is_empty();
        if has_none || (is_told && !self.xdp.is_unsure) || !self.tasks.is_free(Lane::Xdp) {
            return;
        }
        let target = XdpTarget { interfaces: wanted.clone(), listener };
        self.xdp.is_unsure = false;
        self.tasks.start(now, Task::Xdp(target), &mut self.out);
    }

    /// The listener whose program counts. If the current one was lost, its program stays until the
    /// next one has taken over, unless that cannot start: nobody would give it new tags.
    fn xdp_listener(&self) -> Option<ListenerId> {
        match &self.listeners.current {
            Some(current) => Some(current.id),
            None if self.listeners.start_failed => None,
            None => self.xdp.told.listener,
        }
    }

    /// Handles what a task has found and done.
    pub(super) fn xdp_done(&mut self, target: XdpTarget, states: Vec<XdpState>) {
        let before = std::mem::replace(&mut self.xdp.told, target);
        let stood = std::mem::replace(&mut self.xdp.stands, states);
        let mut stood: BTreeMap<String, XdpState> =
            before.interfaces.into_iter().zip(stood).collect();
        let mut events = Vec::new();
        for (interface, state) in self.xdp.told.interfaces.iter().zip(&self.xdp.stands) {
            if stood.remove(interface).as_ref() == Some(state) {
                continue;
            }
            events.push(match state {
                XdpState::On(mode) => LogEvent::new(
                    EventKind::Network,
                    format!("XDP is at interface {interface}, {} mode", mode_word(*mode)),
                ),
                XdpState::Off(fault) => {
                    LogEvent::new(EventKind::Network, without_xdp(interface, fault)).failed()
                }
            });
        }
        for (interface, state) in stood {
            if let XdpState::On(_) = state {
                let text = format!("XDP is gone from interface {interface}");
                events.push(LogEvent::new(EventKind::Network, text));
            }
        }
        for event in events {
            self.out.tell(event);
        }
    }

    /// Handles a task that takes too long. The next one finds out what it did: each check of the
    /// gateway asks for one.
    pub(super) fn xdp_late(&mut self) {
        let target = XdpTarget {
            interfaces: self.in_force.settings().knock.xdp.clone(),
            listener: self.xdp.told.listener,
        };
        let states = vec![XdpState::Off(XdpFault::Late); target.interfaces.len()];
        self.xdp_done(target, states);
    }
}
