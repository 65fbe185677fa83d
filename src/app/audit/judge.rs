//! What the measurement means: the rows of the table, and the holes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::measure::{Grant, Measurement, Round, Sighting};
use super::report::{Cell, Finding, Grade, ReportRow};
use crate::config::Settings;
use crate::core::grants::{Flow, service_at};
use crate::core::service::{Mode, Service};
use crate::core::types::{Port, Source};
use crate::edge::listening::ListeningSocket;
use crate::edge::probe::Seen;
use words::{listens, view, who};

#[cfg(test)]
mod tests;
mod words;

/// The headings of the measured columns.
pub(super) const COLUMNS: [&str; 3] = ["stranger", "while open", "with a grant"];
/// Programs that offer one thing on all of their ports.
const ONE_THING: [&str; 6] = ["sshd", "dropbear", "xrdp", "in.telnetd", "x11vnc", "Xvnc"];

/// A port with what is known about it beforehand.
pub(super) struct Subject {
    pub(super) port: Port,
    pub(super) sockets: Vec<ListeningSocket>,
}

impl Subject {
    /// True if a socket here answers over this family, or if it is not known.
    fn serves(&self, v6: bool) -> bool {
        let fits = |socket: &ListeningSocket| match socket.local.ip() {
            IpAddr::V4(_) => !v6,
            IpAddr::V6(ip) => v6 || ip.is_unspecified(),
        };
        self.sockets.is_empty() || self.sockets.iter().any(fits)
    }
}

pub(super) struct Judge<'a> {
    pub(super) settings: &'a Settings,
    pub(super) has_guard: bool,
    pub(super) subjects: &'a [Subject],
    pub(super) measured: &'a Measurement,
}

pub(super) struct Verdict {
    pub(super) rows: Vec<ReportRow>,
    pub(super) findings: Vec<Finding>,
}

impl Judge<'_> {
    pub(super) fn verdict(&self) -> Verdict {
        let mut verdict = Verdict { rows: Vec::new(), findings: Vec::new() };
        for subject in self.subjects {
            let holes = self.holes(subject);
            verdict.rows.push(self.row(subject, &holes));
            verdict.findings.extend(holes.into_iter().map(|hole| hole.finding));
            verdict.findings.extend(self.warnings(subject));
        }
        verdict.findings.extend(self.always_open());
        verdict
    }

    fn guarding(&self, port: Port) -> Option<&Service> {
        service_at(&self.settings.services, port).filter(|service| !service.ports.is_empty())
    }

    fn shut(&self, port: Port) -> &[Sighting] {
        self.measured.shut.get(&port).map_or(&[], Vec::as_slice)
    }

    /// The sightings of people who may not see anything here. Break-glass addresses may.
    fn unwanted<'s>(&self, round: &'s [Sighting]) -> Vec<&'s Sighting> {
        let glass = &self.settings.firewall.break_glass;
        let is_let_in = |one: &Sighting| glass.iter().any(|ip| ip.to_canonical() == one.address);
        round.iter().filter(|one| one.seen.is_open() && !is_let_in(one)).collect()
    }
}

/// A hole, with the column that shows it.
struct Hole {
    column: usize,
    finding: Finding,
}

impl Judge<'_> {
    fn holes(&self, subject: &Subject) -> Vec<Hole> {
        let port = subject.port;
        let guarding = self.guarding(port);
        let open = self.unwanted(self.shut(port));
        let mut holes = Vec::new();
        let mut hole = |column, what: String, remedy: String| {
            let finding = Finding::new(Grade::Hole, about(port, guarding), what, remedy);
            holes.push(Hole { column, finding });
        };
        if guarding.is_some() && !open.is_empty() {
            let what = format!("reached while all is shut, by {}", who(&open));
            hole(0, what, self.remedy(guarding));
        }
        for Led { service, place, found } in self.led_to_services(port, &open) {
            let what = format!(
                "it leads to service {service}, {place}, by a translation: reached by {}",
                who(&found)
            );
            let remedy = format!(
                "remove that rule (`nft list ruleset` shows it: redirect or dnat), or add {port} to \
                 the ports of service {service}"
            );
            hole(0, what, remedy);
        }
        let is_inner =
            |one: &&Sighting| one.target.is_loopback() && matches!(one.seen, Seen::Reached(_));
        let inner: Vec<&Sighting> = open.iter().copied().filter(is_inner).collect();
        if !inner.is_empty() {
            let what = format!("a socket on loopback is reached from outside, by {}", who(&inner));
            let remedy = "set net.ipv4.conf.all.route_localnet=0, and that of each interface";
            hole(0, what, remedy.to_owned());
        }
        if let (None, false, Some(other)) = (guarding, open.is_empty(), self.same_thing(subject)) {
            let what = format!("it is the same program as {other}, which is guarded");
            let remedy = format!(
                "let the program listen on {other} only, or add {port} to the ports of that service"
            );
            hole(0, what, remedy);
        }
        for Excess { column, what, service } in self.excess(port) {
            hole(column, what, self.remedy(Some(service)));
        }
        holes
    }

    /// Services whose port, or inner host, a stranger gets to by way of another port.
    fn led_to_services<'s>(&self, port: Port, open: &[&'s Sighting]) -> Vec<Led<'s>> {
        if self.guarding(port).is_some() {
            return Vec::new();
        }
        let mut led: BTreeMap<(String, String), Vec<&Sighting>> = BTreeMap::new();
        for one in open {
            let (service, place) = match one.seen {
                Seen::Reached(at) if at != port => (self.guarding(at), at.to_string()),
                Seen::Forwarded(to) | Seen::Passed(to) => {
                    let leads = |service: &&Service| {
                        service.forward.as_ref().is_some_and(|forward| forward.to.contains(&to))
                    };
                    (self.settings.services.iter().find(leads), to.to_string())
                }
                _ => continue,
            };
            if let Some(service) = service {
                led.entry((service.name.to_string(), place)).or_default().push(one);
            }
        }
        let led = led.into_iter();
        led.map(|((service, place), found)| Led { service, place, found }).collect()
    }

    /// The guarded port at which a program listens that offers the same here.
    fn same_thing(&self, subject: &Subject) -> Option<Port> {
        let processes = subject.sockets.iter().filter_map(|socket| socket.process.as_ref());
        for process in processes.filter(|process| ONE_THING.contains(&process.name.as_str())) {
            for other in self.subjects.iter().filter(|other| self.guarding(other.port).is_some()) {
                let mut others = other.sockets.iter().filter_map(|one| one.process.as_ref());
                if others.any(|one| one.program == process.program) {
                    return Some(other.port);
                }
            }
        }
        None
    }

    /// What grants open here beyond what they say: one finding of each sort.
    fn excess(&self, port: Port) -> Vec<Excess<'_>> {
        let mut sorts = [Sort::default(), Sort::default(), Sort::default()];
        for rounds in &self.measured.grants {
            let grant = &rounds.grant;
            let is_own = covers(&self.settings.services, grant, port);
            let mut others = self.gained(port, &rounds.strangers);
            others.retain(|one| !lets_in(grant, one, port));
            sorts[0].add(grant, others);
            match is_own {
                false => sorts[1].add(grant, self.gained(port, &rounds.holder)),
                true => {
                    let mut late = self.gained(port, &rounds.after);
                    late.retain(|one| reaches(one.seen));
                    sorts[2].add(grant, late);
                }
            }
        }
        let [others, held, late] = sorts;
        let sentence = |sort: &Sort<'_>, before: &str, after: &str| {
            let (names, people) = sort.texts();
            format!("{before} ({names}){after} {people}")
        };
        let all = [
            (1, &others, sentence(&others, "while a grant is open", ", it is open to")),
            (2, &held, sentence(&held, "a grant for another service", " opens it too, to")),
            (2, &late, sentence(&late, "still reached after the end of a grant", ", by")),
        ];
        let mut found = Vec::new();
        for (column, sort, what) in all {
            if let Some(service) = sort.service() {
                found.push(Excess { column, what, service });
            }
        }
        found
    }

    /// The unwanted sightings at a port that the same sender did not have while all was shut.
    fn gained<'s>(&'s self, port: Port, round: &'s Round) -> Vec<&'s Sighting> {
        let before = self.shut(port);
        let mut new = self.unwanted(round.get(&port).map_or(&[], Vec::as_slice));
        new.retain(|one| {
            let same = |old: &&Sighting| old.address == one.address && old.target == one.target;
            !before.iter().filter(same).any(|old| old.seen.is_open())
        });
        new
    }

    fn remedy(&self, service: Option<&Service>) -> String {
        if !self.has_guard {
            return "the guard is not loaded: run `toctocd guard on`".to_owned();
        }
        match service {
            Some(service) if service.mode == Mode::Mark => format!(
                "service {} is in mark mode, so your own firewall decides: `toctocd check` names the \
                 rule; or set mode = \"guard\"",
                service.name
            ),
            _ => "run `toctocd guard status` and `toctocd check`; `toctocd guard on` loads the guard \
                  again"
                .to_owned(),
        }
    }

    /// What is not as it should be, and no hole.
    fn warnings(&self, subject: &Subject) -> Vec<Finding> {
        let port = subject.port;
        let mut found = Vec::new();
        let guarding = self.guarding(port);
        for rounds in &self.measured.grants {
            let grant = &rounds.grant;
            let is_own = guarding.is_some_and(|service| service.name == grant.service.name);
            let Some(held) = rounds.holder.get(&port) else { continue };
            let is_missed = |one: &&Sighting| {
                subject.serves(one.address.is_ipv6()) && is_missed(one, held, grant)
            };
            let missed: Vec<&Sighting> = held.iter().filter(is_missed).collect();
            if is_own && self.has_guard && !missed.is_empty() && !held.is_empty() {
                found.push(Finding::new(
                    Grade::Warn,
                    about(port, guarding),
                    format!("a grant ({}) does not open it to {}", grant.name, who(&missed)),
                    "`toctocd check` names the rule that drops it",
                ));
            }
        }
        let led: Vec<&Sighting> = self.unwanted(self.shut(port));
        if let (None, Some(to)) = (guarding, led.iter().find_map(|one| forwarded(one.seen))) {
            let what =
                format!("it goes on to {to}, and no service guards it: reached by {}", who(&led));
            let remedy = format!(
                "if it should be hidden, add a service with this port ([service.NAME], ports = \
                 [\"{port}\"]); a container's port is published by `docker run -p`"
            );
            found.push(Finding::new(Grade::Warn, about(port, None), what, remedy));
        }
        found
    }

    fn always_open(&self) -> Option<Finding> {
        let glass = &self.settings.firewall.break_glass;
        if glass.is_empty() {
            return None;
        }
        let list: Vec<String> = glass.iter().map(ToString::to_string).collect();
        Some(Finding::new(
            Grade::Note,
            "break_glass",
            format!("everything is always open to {}", list.join(", ")),
            "",
        ))
    }

    fn row(&self, subject: &Subject, holes: &[Hole]) -> ReportRow {
        let port = subject.port;
        let guarding = self.guarding(port);
        let mut strangers = Vec::new();
        let mut opened: Vec<&str> = Vec::new();
        // The one connection of a grant was for another port of its service.
        let mut is_untried = false;
        for rounds in &self.measured.grants {
            let others = rounds.strangers.get(&port).map_or(&[][..], Vec::as_slice);
            strangers.extend(others.iter().filter(|one| !lets_in(&rounds.grant, one, port)));
            let name = rounds.grant.service.name.as_str();
            let is_own = guarding.is_some_and(|service| service.name.as_str() == name);
            is_untried |= is_own && !rounds.holder.contains_key(&port);
            if !self.gained(port, &rounds.holder).is_empty() && !opened.contains(&name) {
                opened.push(name);
            }
        }
        let shut: Vec<&Sighting> = self.shut(port).iter().collect();
        let with_grant = match (guarding, opened.is_empty()) {
            (_, false) => opened.join(", "),
            (Some(_), true) if is_untried => "not tried".to_owned(),
            (Some(_), true) => "nobody".to_owned(),
            (None, true) => "as strangers".to_owned(),
        };
        let texts = [view(&shut), view(&strangers), with_grant];
        // What is open while all is shut is open afterwards too.
        let marks = |hole: &Hole, column| hole.column == column || (hole.column, column) == (0, 1);
        let cell =
            |(column, text)| Cell { text, is_hole: holes.iter().any(|hole| marks(hole, column)) };
        ReportRow {
            port: port.to_string(),
            listens: listens(&subject.sockets),
            service: guarding.map_or("-".to_owned(), |service| service.name.to_string()),
            cells: texts.into_iter().enumerate().map(cell).collect(),
        }
    }
}

/// A way to a service that is not its own port.
struct Led<'s> {
    service: String,
    place: String,
    found: Vec<&'s Sighting>,
}

/// Something that grants open beyond what they say.
struct Excess<'s> {
    column: usize,
    what: String,
    service: &'s Service,
}

/// The grants that open one sort of excess, and who profits.
#[derive(Default)]
struct Sort<'s> {
    grants: Vec<&'s Grant>,
    people: Vec<&'s Sighting>,
}

impl<'s> Sort<'s> {
    fn add(&mut self, grant: &'s Grant, people: Vec<&'s Sighting>) {
        if !people.is_empty() {
            self.grants.push(grant);
            self.people.extend(people);
        }
    }

    fn service(&self) -> Option<&'s Service> {
        self.grants.first().map(|grant| &grant.service)
    }

    fn texts(&self) -> (String, String) {
        let names: Vec<&str> = self.grants.iter().map(|grant| grant.name.as_str()).collect();
        (names.join(", "), who(&self.people))
    }
}

/// True if the grant is meant for this sender.
fn lets_in(grant: &Grant, one: &Sighting, port: Port) -> bool {
    let flow = Flow { source: Source::new(one.address), source_port: 0, port };
    grant.elements.iter().any(|element| element.lets_in(&flow)) && grant.service.ports.covers(port)
}

/// True if the grant's service is one of those at this port.
fn covers(services: &[Service], grant: &Grant, port: Port) -> bool {
    let listed = grant.service.ports.lists(port);
    listed || service_at(services, port).is_some_and(|one| one.name == grant.service.name)
}

fn reaches(seen: Seen) -> bool {
    matches!(seen, Seen::Reached(_) | Seen::Forwarded(_))
}

/// True if a holder should have got through here and did not. Of one connection the others fail.
fn is_missed(one: &Sighting, all: &[Sighting], grant: &Grant) -> bool {
    if one.target.is_loopback() || reaches(one.seen) {
        return false;
    }
    // The inner host may be of the other family only.
    let v6 = one.address.is_ipv6();
    if grant.service.forward.as_ref().is_some_and(|forward| forward.target(v6).is_none()) {
        return false;
    }
    // A socket on one address does not answer at another one.
    !all.iter().any(|other| other.address == one.address && reaches(other.seen))
}

fn forwarded(seen: Seen) -> Option<std::net::SocketAddr> {
    match seen {
        Seen::Forwarded(to) | Seen::Passed(to) => Some(to),
        _ => None,
    }
}

fn about(port: Port, service: Option<&Service>) -> String {
    match service {
        Some(service) => format!("{port} ({})", service.name),
        None => port.to_string(),
    }
}
