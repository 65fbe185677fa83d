//! The kernel's view of grants: elements of the guard's sets, and the connections that they let in.
//! See `grants` for which elements there should be.

use std::collections::BTreeSet;

use crate::core::grant::{ActiveGrant, GrantKey};
use crate::core::prefix::Span;
use crate::core::service::GrantKind;
use crate::core::types::{Port, Proto, Source};

/// One element of a set: who may reach which port, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The granted address; of a wider span its first address.
    pub source: Source,
    /// The source port that it is bound to; 0 = any.
    pub source_port: u16,
    pub span: Span,
    pub port: Port,
    pub form: GrantKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The element lasts this long from now on, whatever it had before. An element for one
    /// connection is armed again.
    Set {
        element: Element,
        millis: u64,
    },
    /// The element, if it is still there, ends after this time. An element for one connection is
    /// not armed again.
    Shorten {
        element: Element,
        millis: u64,
    },
    Remove {
        element: Element,
    },
    /// Connections that the element could have let in are cut. Comes after the changes of
    /// elements, because a live element may let them continue.
    Cut {
        element: Element,
    },
}

impl Change {
    pub fn element(&self) -> &Element {
        match self {
            Change::Set { element, .. }
            | Change::Shorten { element, .. }
            | Change::Remove { element }
            | Change::Cut { element } => element,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    pub source: Source,
    pub source_port: u16,
    /// The port that it asked for, before any translation.
    pub port: Port,
}

impl Element {
    pub fn plain(source: Source, port: Port, form: GrantKind) -> Self {
        Self { source, source_port: 0, span: Span::Host, port, form }
    }

    pub fn lets_in(&self, flow: &Flow) -> bool {
        (self.source_port == 0 || self.source_port == flow.source_port)
            && self.span.of(flow.source) == self.source
            && self.port == flow.port
    }

    /// True if one connection could come in under both.
    pub(super) fn meets(&self, other: &Element) -> bool {
        let wider = self.span.max(other.span);
        let any_port = self.source_port == 0 || other.source_port == 0;
        (any_port || self.source_port == other.source_port)
            && wider.of(self.source) == wider.of(other.source)
            && self.port == other.port
    }
}

impl ActiveGrant {
    /// Its elements. One connection is for TCP only: a UDP port of such a service is granted by
    /// time.
    pub(super) fn elements(&self) -> impl Iterator<Item = Element> {
        let GrantKey { source, source_port, span, .. } = self.key;
        let tcp_form = self.form;
        self.ports.into_iter().flatten().map(move |port| {
            let form = if port.proto == Proto::Tcp { tcp_form } else { GrantKind::Time };
            Element { source, source_port, span, port, form }
        })
    }

    pub(super) fn has(&self, element: &Element) -> bool {
        self.elements().any(|own| own == *element)
    }
}

/// The elements of all these grants, each once.
pub(super) fn elements_of(grants: &[ActiveGrant]) -> BTreeSet<Element> {
    grants.iter().flat_map(ActiveGrant::elements).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
