//! What the kernel is told of grants: elements of its sets, and the connections that they let in.
//! Which there should be is left to the file above, putting them into the kernel to
//! `edge::firewall`.

use crate::core::prefix::Span;
use crate::core::service::GrantKind;
use crate::core::types::{Port, Source};

/// One element of a kernel set: who may reach what, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// Who; of a wider span the first address.
    pub source: Source,
    /// From which source port; 0 = any.
    pub source_port: u16,
    /// Whether that address alone.
    pub span: Span,
    /// What.
    pub port: Port,
    /// Any number of connections, or one.
    pub form: GrantKind,
}

/// What is to be done to the kernel's sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The element is there for this long from now on, whatever it had before; for one connection
    /// it is armed anew.
    Set {
        /// Which.
        element: Element,
        /// For how long.
        millis: u64,
    },
    /// The element, if it is still there, ends after this long. One for one connection is not armed
    /// anew.
    Shorten {
        /// Which.
        element: Element,
        /// After how long.
        millis: u64,
    },
    /// The element is gone.
    Remove {
        /// Which.
        element: Element,
    },
    /// Connections that are such as the element lets in are dead from now on. It comes after the
    /// changes of elements, because a live element may let them go on.
    Cut {
        /// Which.
        element: Element,
    },
}

impl Change {
    /// What it is about.
    pub fn element(&self) -> &Element {
        match self {
            Change::Set { element, .. }
            | Change::Shorten { element, .. }
            | Change::Remove { element }
            | Change::Cut { element } => element,
        }
    }
}

/// A connection that the guard let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Who began it.
    pub source: Source,
    /// From which port.
    pub source_port: u16,
    /// To what, as it was asked for: before any translation.
    pub port: Port,
}

impl Element {
    /// For one address, from any port.
    pub fn plain(source: Source, port: Port, form: GrantKind) -> Self {
        Self { source, source_port: 0, span: Span::Host, port, form }
    }

    /// Whether it would let such a connection in.
    pub fn lets_in(&self, flow: &Flow) -> bool {
        let from = self.source_port == 0 || self.source_port == flow.source_port;
        from && self.span.of(flow.source) == self.source && self.port == flow.port
    }

    /// Whether a connection could come in under both.
    pub(super) fn meets(&self, other: &Element) -> bool {
        let wider = self.span.max(other.span);
        let ports = [self.source_port, other.source_port];
        (ports.contains(&0) || self.source_port == other.source_port)
            && wider.of(self.source) == wider.of(other.source)
            && self.port == other.port
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::Proto;

    #[test]
    fn an_element_lets_in_its_address_or_net_and_its_source_port_to_its_port_alone() {
        let source = |text: &str| Source::new(text.parse().unwrap());
        let ssh = Port { proto: Proto::Tcp, number: 22 };
        let host = Element::plain(source("2001:db8::7"), ssh, GrantKind::Time);
        let net = Element { source: source("2001:db8::"), span: Span::Net64, ..host };
        let bound = Element { source_port: 40_000, ..host };
        let flow = Flow { source: source("2001:db8::7"), source_port: 40_000, port: ssh };
        let neighbour = Flow { source: source("2001:db8::8"), ..flow };
        let far = Flow { source: source("2001:db8:0:1::7"), ..flow };
        let other_port = Flow { source_port: 40_001, ..flow };
        let telnet = Flow { port: Port { number: 23, ..ssh }, ..flow };
        for (element, inside, outside) in [
            (host, vec![flow, other_port], vec![neighbour, far, telnet]),
            (net, vec![flow, other_port, neighbour], vec![far, telnet]),
            (bound, vec![flow], vec![other_port, neighbour, far, telnet]),
        ] {
            assert!(inside.iter().all(|flow| element.lets_in(flow)), "{element:?}");
            assert!(!outside.iter().any(|flow| element.lets_in(flow)), "{element:?}");
        }
        assert!(host.meets(&net) && net.meets(&host) && host.meets(&bound) && bound.meets(&net));
        assert!(!bound.meets(&Element { source_port: 1, ..bound }));
        assert!(!net.meets(&Element { source: source("2001:db8:0:1::"), ..net }));
        assert!(!host.meets(&Element { port: telnet.port, ..host }));
    }
}
