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

/// Milliseconds by which an element may differ from its grant. Between the listing and the
/// comparison some time passes, and a restart counts in whole seconds.
const TOLERANCE: u64 = 1500;

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

/// True if an element with `left` milliseconds is near enough to the `wanted` ones.
pub fn is_right(left: u64, wanted: u64) -> bool {
    left.abs_diff(wanted) <= TOLERANCE
}

/// The changes that an element needs: the kernel holds it for `left` milliseconds (`u64::MAX` is
/// for ever), the grants want it for `wanted`; `None` is not at all.
///
/// A missing one-connection element is not put back: it may have been spent or flushed, and a
/// second connection is worse than a second knock.
pub fn difference(element: Element, left: Option<u64>, wanted: Option<u64>) -> Vec<Change> {
    // A timeout of 0 would mean for ever.
    let Some(millis) = wanted.filter(|millis| *millis > 0) else {
        return Vec::from_iter(left.map(|_| Change::Remove { element }));
    };
    if left.is_some_and(|left| is_right(left, millis)) {
        return Vec::new();
    }
    let mut changes = Vec::new();
    // No timeout can be given to an element that has none.
    if left == Some(u64::MAX) {
        changes.push(Change::Remove { element });
    }
    match element.form {
        GrantKind::Time => changes.push(Change::Set { element, millis }),
        GrantKind::Once if left.is_some_and(|left| left > millis) => {
            changes.push(Change::Shorten { element, millis });
        }
        GrantKind::Once => {}
    }
    changes
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

/// The spans of `elements`, for [`letting_in`].
pub fn spans_of(elements: &BTreeSet<Element>) -> BTreeSet<Span> {
    elements.iter().map(|element| element.span).collect()
}

/// Those of `elements`, which have these `spans`, under which `flow` may have come in.
pub fn letting_in(
    elements: &BTreeSet<Element>, spans: &BTreeSet<Span>, services: &[Service], flow: &Flow,
) -> Vec<Element> {
    let mut found = Vec::new();
    let Some(service) = service_at(services, flow.port) else { return found };
    for span in spans {
        for source_port in [0, flow.source_port] {
            for form in [GrantKind::Time, GrantKind::Once] {
                let source = span.of(flow.source);
                let service = service.name;
                let element = Element { service, source, source_port, span: *span, form };
                if elements.contains(&element) {
                    found.push(element);
                }
            }
        }
    }
    found
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
    fn lost_time_grants_are_set_strangers_removed_and_no_single_connection_is_ever_rearmed() {
        let time = element("192.0.2.7", 32, 0);
        let once = Element { form: GrantKind::Once, ..time };
        let lost = [Change::Set { element: time, millis: 5000 }];
        assert_eq!(difference(time, None, Some(5000)), lost);
        assert_eq!(difference(once, None, Some(5000)), []);
        for element in [time, once] {
            assert_eq!(difference(element, Some(4000), Some(5000)), [], "near enough");
            assert_eq!(difference(element, Some(9000), None), [Change::Remove { element }]);
            assert_eq!(difference(element, Some(1), Some(0)), [Change::Remove { element }]);
            assert_eq!(difference(element, None, None), []);
        }
    }

    #[test]
    fn only_an_element_whose_time_is_wrong_is_sent_again() {
        let time = element("192.0.2.7", 32, 0);
        let once = Element { form: GrantKind::Once, ..time };
        let set = Change::Set { element: time, millis: 10_000 };
        for left in [10_000, 10_000 - TOLERANCE, 10_000 + TOLERANCE] {
            for element in [time, once] {
                assert_eq!(difference(element, Some(left), Some(10_000)), [], "{left}");
            }
        }
        for left in [1, 10_000 - TOLERANCE - 1] {
            assert_eq!(difference(time, Some(left), Some(10_000)), [set]);
            assert_eq!(difference(once, Some(left), Some(10_000)), []);
        }
        let too_long = Some(10_001 + TOLERANCE);
        assert_eq!(difference(time, too_long, Some(10_000)), [set]);
        let shorten = Change::Shorten { element: once, millis: 10_000 };
        assert_eq!(difference(once, too_long, Some(10_000)), [shorten]);
        let permanent = [Change::Remove { element: time }, set];
        assert_eq!(difference(time, Some(u64::MAX), Some(10_000)), permanent);
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
        let spans = spans_of(&elements);
        let stand =
            |flow: Flow| BTreeSet::from_iter(letting_in(&elements, &spans, &services, &flow));
        assert_eq!(stand(flow("192.0.2.7", 9)), [host, bound, net, once].into());
        assert_eq!(stand(flow("192.0.2.8", 9)), [net].into());
        let web = Port { number: 80, ..ssh };
        assert_eq!(stand(Flow { port: web, ..flow("192.0.2.7", 9) }), [whole].into());
        assert_eq!(stand(flow("2001:db8::7", 9)), BTreeSet::new());
    }
}
