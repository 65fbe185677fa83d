//! The kernel's view of grants: elements of the guard's sets, and the connections that they let in.
//! See `grants` for which elements there should be.

use std::collections::BTreeSet;

use crate::core::grant::{ActiveGrant, GrantKey};
use crate::core::prefix::Span;
use crate::core::service::{GrantKind, Service};
use crate::core::types::{Port, ServiceName, Source};

/// One element of a service's sets: who may reach that service, and how. It says nothing about
/// ports: those are the service's. Ordered so that the elements of one service and net are
/// neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    pub service: ServiceName,
    /// The granted address; of a wider span its first address.
    pub source: Source,
    /// The source port that it is bound to; 0 = any, and always 0 with a wider span.
    pub source_port: u16,
    /// The service's span for this family, or one address: a door and a knock that names a source
    /// port never get more.
    pub span: Span,
    /// [`GrantKind::Once`] only if all ports of the service are TCP.
    pub form: GrantKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The element lasts this long from now on, whatever it had before. An element for one
    /// connection is armed again.
    Set { element: Element, millis: u64 },
    /// The element, if it is still there, ends after this time. An element for one connection is
    /// not armed again.
    Shorten { element: Element, millis: u64 },
    /// The element goes. It may be gone already, with its set or with its whole service.
    Remove { element: Element },
    /// Connections that the element could have let in are cut. Comes after the changes of
    /// elements, because a live element may let them continue.
    Cut { element: Element },
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
    /// The element of any source port at one address.
    pub fn plain(service: ServiceName, source: Source, form: GrantKind) -> Self {
        Self { service, source, source_port: 0, span: Span::HOST, form }
    }

    /// The peers that it lets in: `192.0.2.7`, `192.0.2.7 port 40000`, `192.0.2.0/24`.
    pub fn who(&self) -> String {
        crate::core::grant::who(self.source, self.source_port, self.span)
    }

    /// True if the flow comes from a peer that this element lets in. Ask the service about its
    /// port.
    pub fn lets_in(&self, flow: &Flow) -> bool {
        (self.source_port == 0 || self.source_port == flow.source_port)
            && self.span.of(flow.source) == self.source
    }
}

/// The name of the service that a flow to `port` asked for: the one that lists it, or else the one
/// of all ports.
pub fn service_at(services: &[Service], port: Port) -> Option<&Service> {
    let listed = services.iter().find(|one| one.ports.lists(port));
    listed.or_else(|| services.iter().find(|one| one.ports.covers(port)))
}

/// Those of `elements` under which one of `flows` may have come in.
pub fn standing(
    elements: &BTreeSet<Element>, services: &[Service], flows: impl IntoIterator<Item = Flow>,
) -> BTreeSet<Element> {
    let spans: BTreeSet<Span> = elements.iter().map(|element| element.span).collect();
    let mut standing = BTreeSet::new();
    for flow in flows {
        let Some(service) = service_at(services, flow.port) else { continue };
        for span in &spans {
            for source_port in [0, flow.source_port] {
                for form in [GrantKind::Time, GrantKind::Once] {
                    let source = span.of(flow.source);
                    let service = service.name;
                    let element = Element { service, source, source_port, span: *span, form };
                    if elements.contains(&element) {
                        standing.insert(element);
                    }
                }
            }
        }
    }
    standing
}

impl ActiveGrant {
    /// Its element in the guard; `None` for a command service.
    pub fn element(&self) -> Option<Element> {
        if self.ports == 0 { None } else { Some(self.slot()) }
    }

    /// Its element, or what that would be if its service had ports in place of commands.
    pub(super) fn slot(&self) -> Element {
        let GrantKey { service, source, source_port, span, .. } = self.key;
        Element { service, source, source_port, span, form: self.form }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::service::ServicePorts;
    use crate::core::types::Proto;

    fn element(source: &str, length: u8, source_port: u16) -> Element {
        let source = Source::new(source.parse().unwrap());
        let span = Span::of_prefix(length, source.ip().is_ipv6()).unwrap();
        let service = ServiceName::new("ssh").unwrap();
        Element { service, source: span.of(source), source_port, span, form: GrantKind::Time }
    }

    fn flow(source: &str, source_port: u16) -> Flow {
        let source = Source::new(source.parse().unwrap());
        Flow { source, source_port, port: Port { proto: Proto::Tcp, number: 22 } }
    }

    #[test]
    fn an_element_lets_in_its_address_or_net_and_its_source_port_alone() {
        for (element, inside, outside) in [
            (element("2001:db8::7", 128, 0), flow("2001:db8::7", 1), flow("2001:db8::8", 1)),
            (element("2001:db8::7", 64, 0), flow("2001:db8::8", 1), flow("2001:db8:0:1::7", 1)),
            (element("192.0.2.7", 32, 9), flow("192.0.2.7", 9), flow("192.0.2.7", 8)),
            (element("192.0.2.7", 24, 0), flow("192.0.2.255", 1), flow("192.0.3.7", 1)),
            (element("192.0.2.7", 16, 0), flow("192.0.255.1", 1), flow("::ffff:192.1.0.1", 1)),
        ] {
            assert!(element.lets_in(&inside) && !element.lets_in(&outside), "{element:?}");
        }
    }

    #[test]
    fn a_standing_connection_is_found_under_each_element_of_its_service_that_lets_it_in() {
        let ssh = Port { proto: Proto::Tcp, number: 22 };
        let all = ServicePorts::AllBut(Vec::new());
        let services = [Service::for_test("all", all), Service::for_test("ssh", [ssh][..].into())];
        let host = element("192.0.2.7", 32, 0);
        let bound = element("192.0.2.7", 32, 9);
        let net = element("192.0.2.7", 24, 0);
        let once = Element { form: GrantKind::Once, ..host };
        let whole = Element { service: services[0].name, ..host };
        let elements: BTreeSet<Element> = [host, bound, net, once, whole].into();
        let stand = |flows: &[Flow]| standing(&elements, &services, flows.iter().copied());
        assert_eq!(stand(&[flow("192.0.2.7", 9)]), [host, bound, net, once].into());
        assert_eq!(stand(&[flow("192.0.2.8", 9)]), [net].into());
        let web = Port { number: 80, ..ssh };
        assert_eq!(stand(&[Flow { port: web, ..flow("192.0.2.7", 9) }]), [whole].into());
        assert_eq!(stand(&[flow("2001:db8::7", 9)]), BTreeSet::new());
        assert_eq!(stand(&[]), BTreeSet::new());
    }
}
