//! Grants by their keys, with indexes by end, by element and by holder: no question takes longer
//! for the number of grants.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::Bound;

use super::{ActiveGrant, Element, GrantKey, Holder};
use crate::core::prefix::Span;
use crate::core::service::GrantKind;
use crate::core::types::{Boot, ClientId, ServiceName, Source};

/// A grant of an element, with a time of it.
type OnElement = (Element, Boot, Holder);

#[derive(Debug, Default)]
pub(super) struct GrantTable {
    grants: BTreeMap<GrantKey, ActiveGrant>,
    by_end: BTreeSet<(Boot, GrantKey)>,
    /// With their ends.
    on_element: BTreeSet<OnElement>,
    /// Those for one connection, with their beginnings.
    once: BTreeSet<OnElement>,
    /// The spans in use, ever: few, because a service has two.
    spans: BTreeSet<Span>,
}

impl GrantTable {
    /// Puts `grant` in, in the place of one with the same key.
    pub(super) fn insert(&mut self, grant: ActiveGrant) {
        self.remove(&grant.key);
        let (element, holder) = (grant.slot(), grant.key.holder);
        self.by_end.insert((grant.deadline(), grant.key));
        self.on_element.insert((element, grant.deadline(), holder));
        if grant.form == GrantKind::Once {
            self.once.insert((element, grant.opened.boot, holder));
        }
        self.spans.insert(grant.key.span);
        self.grants.insert(grant.key, grant);
    }

    pub(super) fn remove(&mut self, key: &GrantKey) -> Option<ActiveGrant> {
        let grant = self.grants.remove(key)?;
        let (element, holder) = (grant.slot(), key.holder);
        self.by_end.remove(&(grant.deadline(), *key));
        self.on_element.remove(&(element, grant.deadline(), holder));
        self.once.remove(&(element, grant.opened.boot, holder));
        Some(grant)
    }

    pub(super) fn get(&self, key: &GrantKey) -> Option<&ActiveGrant> {
        self.grants.get(key)
    }

    pub(super) fn len(&self) -> usize {
        self.grants.len()
    }

    /// The grants after the one with this key, or from the first, in the order of their keys.
    pub(super) fn after(&self, key: Option<GrantKey>) -> impl Iterator<Item = &ActiveGrant> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.grants.range((from, Bound::Unbounded)).map(|(_, grant)| grant)
    }

    /// The grants of one holder for one service.
    pub(super) fn of(
        &self, holder: Holder, service: ServiceName,
    ) -> impl Iterator<Item = &ActiveGrant> {
        self.from(holder, service).take_while(move |one| one.key.service == service)
    }

    /// The grants of one holder.
    pub(super) fn of_holder(&self, holder: Holder) -> impl Iterator<Item = &ActiveGrant> {
        self.from(holder, ServiceName::NONE)
    }

    /// The grants of one holder for this and later services.
    fn from(&self, holder: Holder, service: ServiceName) -> impl Iterator<Item = &ActiveGrant> {
        let source = Source::new(Ipv4Addr::UNSPECIFIED.into());
        let least = GrantKey { holder, service, source, source_port: 0, span: Span::HOST };
        let all = self.grants.range(least..).map(|(_, grant)| grant);
        all.take_while(move |one| one.key.holder == holder)
    }

    /// The grant that ends first.
    pub(super) fn first(&self) -> Option<(Boot, GrantKey)> {
        self.by_end.first().copied()
    }

    /// The end of the longest grant of this element.
    pub(super) fn longest(&self, element: &Element) -> Option<Boot> {
        Some(last_of(&self.on_element, element)?.1)
    }

    /// The beginning of the newest grant of this one-connection element.
    pub(super) fn newest(&self, element: &Element) -> Option<Boot> {
        Some(last_of(&self.once, element)?.1)
    }

    /// The keys of the grants of this element.
    pub(super) fn keys_of(&self, element: &Element) -> Vec<GrantKey> {
        let keys = on(&self.on_element, element).map(|(element, _, holder)| GrantKey {
            holder: *holder,
            service: element.service,
            source: element.source,
            source_port: element.source_port,
            span: element.span,
        });
        keys.collect()
    }

    /// The one-connection element after `last`, or the first.
    pub(super) fn next_once(&self, last: Option<Element>) -> Option<Element> {
        let next = match last {
            Some(last) => self.once.range((last, Boot(u64::MAX), LAST)..).next(),
            None => None,
        };
        Some(next.or(self.once.first())?.0)
    }

    /// True if a grant could have let in a connection that `element` lets in too.
    pub(super) fn meets(&self, element: &Element) -> bool {
        if self.has_inside(element) {
            return true;
        }
        // A wider net that the element is in. It is for any source port.
        let mut wider = self.spans.iter().copied().filter(|span| *span > element.span);
        wider.any(|span| {
            let source = span.of(element.source);
            self.has_at(&Element { source, span, source_port: 0, ..*element })
        })
    }

    /// True if a grant is for the same net or for a part of it.
    fn has_inside(&self, element: &Element) -> bool {
        if element.source_port != 0 {
            return self.has_at(element) || self.has_at(&Element { source_port: 0, ..*element });
        }
        let from = Element { span: Span::HOST, form: GrantKind::Time, ..*element };
        let next = self.on_element.range((from, Boot(0), FIRST)..).next();
        next.is_some_and(|(other, ..)| {
            other.service == element.service && element.span.of(other.source) == element.source
        })
    }

    /// True if a grant has this element, or the one of the other form.
    fn has_at(&self, element: &Element) -> bool {
        [GrantKind::Time, GrantKind::Once]
            .into_iter()
            .any(|form| self.longest(&Element { form, ..*element }).is_some())
    }
}

// The ends of the order of holders.
const FIRST: Holder = Holder::Client(ClientId([0; 16]));
const LAST: Holder = Holder::Door([0xff; 16]);

fn on<'a>(
    index: &'a BTreeSet<OnElement>, element: &Element,
) -> impl DoubleEndedIterator<Item = &'a OnElement> {
    index.range((*element, Boot(0), FIRST)..=(*element, Boot(u64::MAX), LAST))
}

fn last_of<'a>(index: &'a BTreeSet<OnElement>, element: &Element) -> Option<&'a OnElement> {
    on(index, element).next_back()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::service::{AddressProof, DisconnectPolicy};
    use crate::core::types::{Now, Wall};

    /// Grants of few services, addresses and nets, so that many of them meet.
    fn grant() -> impl Strategy<Value = ActiveGrant> {
        let id = (0..3_u8, 0..2_u8, any::<bool>(), any::<bool>());
        (id, 0..8_u8, 0..3_u16, 0..4_u8, 0..5_u8).prop_map(
            |((holder, service, door, once), host, port, ignored, end)| {
                let v4 = Source::new([192, 0, 2, host].into());
                let v6 = Source::new(std::net::Ipv6Addr::from_bits(host.into()).into());
                let source = if service == 0 { v4 } else { v6 };
                let source_port = if ignored == 0 { port } else { 0 };
                let span = Span::from_byte(ignored, source).unwrap();
                let holder = match door {
                    true => Holder::Door([holder; 16]),
                    false => Holder::Client(ClientId([holder; 16])),
                };
                let service = ServiceName::new(["a", "b"][usize::from(service)]).unwrap();
                let source = span.of(source);
                ActiveGrant {
                    key: GrantKey { holder, service, source, source_port, span },
                    form: if once { GrantKind::Once } else { GrantKind::Time },
                    ports: 1,
                    opened: Now { wall: Wall(0), boot: Boot(end.into()) },
                    seconds: end.into(),
                    cut: DisconnectPolicy::Never,
                    proof: AddressProof::Both,
                }
            },
        )
    }

    fn naive_meets(one: &Element, other: &Element) -> bool {
        let wider = one.span.max(other.span);
        let any_port = one.source_port == 0 || other.source_port == 0;
        one.service == other.service
            && (any_port || one.source_port == other.source_port)
            && wider.of(one.source) == wider.of(other.source)
    }

    proptest! {
        #[test]
        fn every_index_says_what_a_walk_over_all_grants_says(
            steps in prop::collection::vec((grant(), any::<bool>()), 0..40), asked in grant(),
        ) {
            let mut table = GrantTable::default();
            let mut all: BTreeMap<GrantKey, ActiveGrant> = BTreeMap::new();
            for (grant, put) in steps {
                if put {
                    table.insert(grant);
                    all.insert(grant.key, grant);
                } else {
                    prop_assert_eq!(table.remove(&grant.key), all.remove(&grant.key));
                }
            }
            let element = asked.slot();
            let of_element = || all.values().filter(|grant| grant.slot() == element);
            prop_assert_eq!(table.len(), all.len());
            prop_assert_eq!(table.first().map(|(end, _)| end), all.values().map(|grant| grant.deadline()).min());
            prop_assert_eq!(table.longest(&element), of_element().map(|grant| grant.deadline()).max());
            if element.form == GrantKind::Once {
                prop_assert_eq!(table.newest(&element), of_element().map(|grant| grant.opened.boot).max());
            }
            let mut keys = table.keys_of(&element);
            keys.sort_unstable();
            prop_assert_eq!(keys, of_element().map(|grant| grant.key).collect::<Vec<_>>());
            let met = all.values().any(|grant| naive_meets(&grant.slot(), &element));
            prop_assert_eq!(table.meets(&element), met);
            let GrantKey { holder, service, .. } = asked.key;
            let own = all.values().filter(|grant| (grant.key.holder, grant.key.service) == (holder, service));
            prop_assert!(table.of(holder, service).eq(own));
            let own = all.values().filter(|grant| grant.key.holder == holder);
            prop_assert!(table.of_holder(holder).eq(own));
            prop_assert!(table.after(Some(asked.key)).eq(all.values().filter(|grant| grant.key > asked.key)));
            let once = all.values().filter(|grant| grant.form == GrantKind::Once);
            prop_assert_eq!(table.next_once(None), once.map(|grant| grant.slot()).min());
        }
    }
}
