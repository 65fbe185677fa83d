//! The rounds of an audit: all shut, then each kind of grant by itself, then its end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::people::{People, Person};
use crate::core::grants::{Change, Element};
use crate::core::prefix::Span;
use crate::core::service::{GrantKind, Service};
use crate::core::types::{Fault, Port, Proto, Source};
use crate::edge::firewall::{self, GuardRules};
use crate::edge::probe::{Probe, Prober, Seen};
use crate::edge::twin::Twin;

/// Milliseconds that a grant lasts in the copy: longer than any round.
const LASTS: u64 = 600_000;
/// The source port of grants that are bound to one.
const BOUND_PORT: u16 = 9_001;

/// What came of one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    pub(super) who: String,
    pub(super) address: IpAddr,
    pub(super) target: IpAddr,
    pub(super) seen: Seen,
}

/// What everybody saw at each port.
pub(super) type Round = BTreeMap<Port, Vec<Sighting>>;

/// One kind of grant: what it puts into the guard is the same for every client and door.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Grant {
    pub(super) name: String,
    pub(super) service: Service,
    pub(super) elements: Vec<Element>,
    pub(super) from_port: Option<u16>,
}

pub(super) struct GrantRounds {
    pub(super) grant: Grant,
    pub(super) holder: Round,
    pub(super) strangers: Round,
    /// The holder once the grant is over, or its one connection used.
    pub(super) after: Round,
}

pub(super) struct Measurement {
    pub(super) shut: Round,
    pub(super) grants: Vec<GrantRounds>,
}

/// What is probed in every round.
pub(super) struct Rounds<'a> {
    pub(super) twin: &'a Twin,
    pub(super) rules: &'a GuardRules,
    pub(super) people: &'a People,
    pub(super) ports: &'a BTreeSet<Port>,
}

/// The ports at which the first stranger of each family finds something, of all that there are.
pub(super) fn sweep(prober: &mut Prober<'_>, people: &People) -> Result<BTreeSet<Port>, Fault> {
    let mut found = BTreeSet::new();
    for v6 in [false, true] {
        let of_family = |one: &&Person| one.address.is_ipv6() == v6;
        let Some(one) = people.strangers.iter().find(of_family) else { continue };
        for proto in [Proto::Tcp, Proto::Udp] {
            let ports = (1..=u16::MAX).map(|number| Port { proto, number });
            let asked = Asked::new(std::slice::from_ref(one), ports, None, true);
            let seen = prober.run(&asked.probes)?;
            for ((_, port), seen) in asked.of.iter().zip(seen) {
                if seen.is_open() {
                    found.insert(*port);
                }
            }
        }
    }
    Ok(found)
}

impl Rounds<'_> {
    pub(super) fn measure(&self, prober: &mut Prober<'_>) -> Result<Measurement, Fault> {
        let People { strangers, holders, beside } = self.people;
        let everybody = [&strangers[..], holders, beside].concat();
        let shut = round(prober, &everybody, self.ports.iter().copied(), None)?;
        let mut grants = Vec::new();
        for service in self.rules.services.iter().filter(|one| !one.ports.is_empty()) {
            for grant in kinds(service, holders) {
                grants.push(self.measure_grant(prober, grant)?);
            }
        }
        Ok(Measurement { shut, grants })
    }

    fn measure_grant(&self, prober: &mut Prober<'_>, grant: Grant) -> Result<GrantRounds, Fault> {
        let People { strangers, holders, beside } = self.people;
        let is_once = grant.service.form == GrantKind::Once;
        let own = |port: &&Port| grant.service.ports.covers(**port);
        let mut ports: Vec<Port> = self.ports.iter().copied().collect();
        if is_once {
            // It is for one connection, so one of its ports shows it.
            let first = self.ports.iter().find(own);
            ports.retain(|port| !own(&port) || Some(port) == first);
        }
        let (from_port, ports) = (grant.from_port, ports.into_iter());
        let set = |element: &Element| Change::Set { element: *element, millis: LASTS };
        self.change(grant.elements.iter().map(set).collect())?;
        let holder = round(prober, holders, ports.clone(), from_port)?;
        let mut others = [&strangers[..], beside].concat();
        if from_port.is_some() {
            others.extend(holders.iter().map(|one| Person {
                name: format!("{} from another source port", one.name),
                ..one.clone()
            }));
        }
        let strangers = round(prober, &others, self.ports.iter().copied(), None)?;
        let end = |element: &Element| Change::Remove { element: *element };
        if !is_once {
            self.change(grant.elements.iter().map(end).collect())?;
        }
        let after = round(prober, holders, ports, from_port)?;
        self.change(grant.elements.iter().map(end).collect())?;
        Ok(GrantRounds { grant, holder, strangers, after })
    }

    /// Changes the elements of the copy's guard, as the gateway does it.
    fn change(&self, changes: Vec<Change>) -> Result<(), Fault> {
        let changed =
            self.twin.space.inside(|| firewall::change_without_gateway(self.rules, &changes));
        changed.unwrap_or_else(|error| {
            let what = format!("cannot enter the copy of this host's network: {error}");
            Err(Fault::new(what, "run it as root, with CAP_SYS_ADMIN"))
        })
    }
}

/// The kinds of grants that a service gives: to an address, to a net, and to a source port.
fn kinds(service: &Service, holders: &[Person]) -> Vec<Grant> {
    let element = |holder: &Person, span: Span, source_port: u16| {
        let source = span.of(Source::new(holder.address));
        Element { service: service.name, source, source_port, span, form: service.form }
    };
    let grant = |name: String, elements: Vec<Element>, from_port| Grant {
        name,
        service: service.clone(),
        elements,
        from_port,
    };
    let mut kinds = Vec::new();
    let plain = holders.iter().map(|one| element(one, Span::HOST, 0)).collect();
    kinds.push(grant(service.name.to_string(), plain, None));
    let span = |one: &Person| service.spans.for_family_of(Source::new(one.address));
    if holders.iter().any(|one| span(one) != Span::HOST) {
        let wide = holders.iter().map(|one| element(one, span(one), 0)).collect();
        kinds.push(grant(format!("{} for a net", service.name), wide, None));
    }
    let bound = holders.iter().map(|one| element(one, Span::HOST, BOUND_PORT)).collect();
    kinds.push(grant(format!("{} for one source port", service.name), bound, Some(BOUND_PORT)));
    kinds
}

/// Probes, and whose each one is and to which port.
struct Asked<'a> {
    probes: Vec<Probe>,
    of: Vec<(&'a Person, Port)>,
}

impl<'a> Asked<'a> {
    /// `is_short`: each person tries one address only.
    fn new(
        people: &'a [Person], ports: impl Iterator<Item = Port> + Clone, from_port: Option<u16>,
        is_short: bool,
    ) -> Asked<'a> {
        let mut asked = Asked { probes: Vec::new(), of: Vec::new() };
        for person in people {
            let most = if is_short { 1 } else { usize::MAX };
            for target in person.targets.iter().take(most) {
                for port in ports.clone() {
                    asked.probes.push(Probe {
                        way: person.way,
                        from: person.address,
                        from_port,
                        to: (*target, port.number).into(),
                        proto: port.proto,
                    });
                    asked.of.push((person, port));
                }
            }
        }
        asked
    }
}

fn round(
    prober: &mut Prober<'_>, people: &[Person], ports: impl Iterator<Item = Port> + Clone,
    from_port: Option<u16>,
) -> Result<Round, Fault> {
    let mut round = Round::new();
    let asked = Asked::new(people, ports, from_port, from_port.is_some());
    let seen = prober.run(&asked.probes)?;
    for (((person, port), probe), seen) in asked.of.iter().zip(&asked.probes).zip(seen) {
        round.entry(*port).or_default().push(Sighting {
            who: person.name.clone(),
            address: person.address,
            target: probe.to.ip(),
            seen,
        });
    }
    Ok(round)
}
