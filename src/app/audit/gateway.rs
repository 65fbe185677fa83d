//! `toctocd audit` as a whole: reads, measures, judges.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::thread;

use nix::unistd::Uid;

use super::judge::{COLUMNS, Judge, Subject};
use super::measure::{self, Rounds};
use super::offers::offers;
use super::people::{has_more_targets, people};
use super::report::{AuditReport, Finding, Grade};
use crate::app::load::{self, GatewayConfig};
use crate::app::output::{CommandOutput, count};
use crate::config::Settings;
use crate::core::grants::service_at;
use crate::core::service::{Mode, ServicePorts};
use crate::core::types::{Fault, Port, Proto};
use crate::edge::firewall::ruleset_snapshot::RulesetSnapshot;
use crate::edge::firewall::{self, GuardRules};
use crate::edge::listening::{self, ListeningSocket};
use crate::edge::probe::Prober;
use crate::edge::responder::{Place, Responder};
use crate::edge::twin::Twin;

const MEASURED: &str = "Measured: packets were sent into a copy of this host's network (its \
    interfaces, addresses, routes and rulesets, and sockets in place of its programs), by strangers \
    and by who holds a grant. Nothing of the host was changed";
/// What no audit on the host itself can see.
const NEVER_COVERED: [&str; 4] = [
    "what is in front of this host, such as a router or a cloud's firewall: run `toctoc audit` on \
     another machine",
    "protocols other than TCP and UDP; tc, XDP and BPF programs; bridges and VLANs, whose \
     interfaces are separate links in the copy",
    "connections that are open already",
    "programs of this host that reach others, and its other network namespaces (containers): a \
     packet that goes there counts as gone on",
];
/// Services that are asked at once what they offer.
const ASKED_AT_ONCE: usize = 64;
/// A port that no program uses, to try a service of all ports.
const UNUSED: Port = Port { proto: Proto::Tcp, number: 65_123 };

/// `toctocd audit`.
/// Error: it could not be done.
pub fn run(config: &Path, html: Option<&Path>) -> Result<CommandOutput, Fault> {
    if !Uid::effective().is_root() {
        let what = "the audit makes a copy of this host's network, which takes root";
        return Err(Fault::new(
            what,
            "run `sudo toctocd audit`; without root, `toctoc audit` scans \
                                     from another machine",
        ));
    }
    let loaded = load::load_all(config)?;
    super::output(&audit(&loaded)?, html)
}

fn audit(loaded: &GatewayConfig) -> Result<AuditReport, Fault> {
    let settings = &loaded.settings;
    let rules = GuardRules::of(settings);
    let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    let mut report = AuditReport::begin(host, MEASURED.to_owned(), COLUMNS.to_vec());
    let has_guard = firewall::is_there(&rules)?;
    report.facts = facts(loaded, has_guard);
    report.not_covered = not_covered(loaded);
    let mut named = BTreeSet::new();
    match RulesetSnapshot::take(&settings.firewall) {
        Ok(snapshot) => {
            named = snapshot.nets_named(&settings.firewall.table);
            if snapshot.has_queues() {
                report.not_covered.push("programs that rules leave packets to (queue)".to_owned());
            }
        }
        Err(fault) => report.not_covered.push(format!("nets that rules name: {}", fault.what)),
    }
    let sockets = listening::sockets();
    let twin = Twin::of_this_host(&settings.firewall.table)?;
    let people = people(&twin.ways, &named);
    report.not_covered.extend(twin.lacks.iter().map(|one| format!("not in the copy: {one}")));
    report.not_covered.extend(not_tried(&twin));
    let places = places(settings, &sockets);
    let listen = || Responder::listen(&places, &twin.ways);
    let (responder, failed) = twin.space.inside(listen).map_err(|error| {
        Fault::new(format!("cannot enter the copy: {error}"), "run it as root, with CAP_SYS_ADMIN")
    })?;
    for Place { proto, local } in failed {
        report.not_covered.push(format!("{} {local}: no socket in the copy", proto.name()));
    }
    let mut prober = Prober::new(&twin, &responder)?;
    let swept = measure::sweep(&mut prober, &people)?;
    let subjects = subjects(settings, &sockets, &swept);
    let ports = subjects.iter().map(|subject| subject.port).collect();
    let rounds = Rounds { twin: &twin, rules: &rules, people: &people, ports: &ports };
    let measured = rounds.measure(&mut prober)?;
    let judge = Judge { settings, has_guard, subjects: &subjects, measured: &measured };
    let verdict = judge.verdict();
    report.rows = verdict.rows;
    report.findings = verdict.findings;
    if !has_guard {
        let what = "it is not loaded: nothing is guarded";
        let off = Finding::new(Grade::Hole, "guard", what, "run `toctocd guard on`");
        report.findings.insert(0, off);
    }
    let is_offered = |socket: &&ListeningSocket| {
        let open = measured.shut.get(&socket.port());
        service_at(&settings.services, socket.port()).is_some()
            || open.is_some_and(|round| round.iter().any(|one| one.seen.is_open()))
    };
    let mut told = BTreeSet::new();
    let mut offered: Vec<&ListeningSocket> = sockets.iter().filter(is_offered).collect();
    // One program may listen on both families.
    offered.retain(|socket| {
        let process = socket.process.as_ref().map(|process| process.pid);
        !socket.local.ip().is_loopback() && told.insert((socket.port(), process))
    });
    report.findings.extend(all_offers(&offered));
    Ok(report)
}

/// What these services offer. Each may be slow to answer, so many are asked at once.
fn all_offers(sockets: &[&ListeningSocket]) -> Vec<Finding> {
    let mut found = Vec::new();
    for some in sockets.chunks(ASKED_AT_ONCE) {
        thread::scope(|scope| {
            let ask = |socket| scope.spawn(move || offers(socket));
            let asked: Vec<_> = some.iter().copied().map(ask).collect();
            // One that panicked has nothing to tell.
            found.extend(asked.into_iter().flat_map(|one| one.join().unwrap_or_default()));
        });
    }
    found
}

/// The sockets of the copy: those of the host, and one for each port of a service where nothing
/// listens now. A forwarded port has none.
pub(in crate::app) fn places(settings: &Settings, sockets: &[ListeningSocket]) -> Vec<Place> {
    let mut places: Vec<Place> =
        sockets.iter().map(|one| Place { proto: one.proto, local: one.local }).collect();
    for port in ports_of_services(settings) {
        let service = service_at(&settings.services, port);
        let is_forwarded = service.is_some_and(|service| service.forward.is_some());
        let is_taken = sockets.iter().any(|one| one.port() == port);
        if !is_forwarded && !is_taken {
            let local = SocketAddr::new(IpAddr::from(Ipv6Addr::UNSPECIFIED), port.number);
            places.push(Place { proto: port.proto, local });
        }
    }
    places.sort();
    places.dedup();
    places
}

/// The ends of each range, and one port for a service of all ports.
fn ports_of_services(settings: &Settings) -> BTreeSet<Port> {
    let mut ports = BTreeSet::new();
    for service in &settings.services {
        for range in service.ports.ranges() {
            ports.extend(
                [range.first, range.last].map(|number| Port { proto: range.proto, number }),
            );
        }
        if matches!(service.ports, ServicePorts::AllBut(_)) && service.ports.covers(UNUSED) {
            ports.insert(UNUSED);
        }
    }
    ports
}

/// The ports in question: where something listens, those of the services, and what the sweep found.
fn subjects(
    settings: &Settings, sockets: &[ListeningSocket], swept: &BTreeSet<Port>,
) -> Vec<Subject> {
    let mut ports = ports_of_services(settings);
    ports.insert(Port { proto: Proto::Udp, number: settings.knock.port });
    ports.extend(sockets.iter().map(ListeningSocket::port));
    ports.extend(swept);
    let mut subjects: Vec<Subject> = Vec::new();
    for port in ports {
        let sockets: Vec<ListeningSocket> =
            sockets.iter().filter(|one| one.port() == port).cloned().collect();
        subjects.push(Subject { port, sockets });
    }
    subjects.sort_by_key(|subject| (subject.port.number, subject.port.proto));
    subjects
}

fn facts(loaded: &GatewayConfig, has_guard: bool) -> Vec<[String; 2]> {
    let settings = &loaded.settings;
    let mut services = Vec::new();
    for service in &settings.services {
        let ports = match service.commands {
            Some(_) => "by commands".to_owned(),
            None => service.ports.texts().join(" "),
        };
        let mode = if service.mode == Mode::Mark { ", mark mode" } else { "" };
        services.push(format!("{} ({ports}{mode})", service.name));
    }
    let glass: Vec<String> = settings.firewall.break_glass.iter().map(IpAddr::to_string).collect();
    let guard = if has_guard { "loaded" } else { "NOT LOADED" };
    [
        ("services", services.join(", ")),
        ("clients", loaded.clients.iter().count().to_string()),
        ("doors", settings.doors.len().to_string()),
        ("knock port", format!("{}/udp", settings.knock.port)),
        ("guard", format!("{guard} (table inet {})", settings.firewall.table)),
        ("always let in", if glass.is_empty() { "nobody".to_owned() } else { glass.join(", ") }),
    ]
    .map(|(name, value)| [name.to_owned(), value])
    .to_vec()
}

fn not_covered(loaded: &GatewayConfig) -> Vec<String> {
    let settings = &loaded.settings;
    let mut list: Vec<String> = NEVER_COVERED.map(str::to_owned).to_vec();
    let clients = count(loaded.clients.iter().count(), "client");
    list.push(format!(
        "each client by itself: what a grant puts into the guard depends on the service and on the \
         kind of address only, so each kind was measured once, for {clients} and \
         {}",
        count(settings.doors.len(), "door")
    ));
    if settings.services.iter().any(|one| one.ports.ranges().iter().any(|r| r.last - r.first > 1)) {
        list.push(
            "ports inside a service's range where nothing listens: both ends were tried, and \
                   every port by one stranger"
                .to_owned(),
        );
    }
    let by_commands = settings.services.iter().filter(|one| one.commands.is_some());
    let mut names: Vec<String> = by_commands.map(|one| format!("service {}", one.name)).collect();
    let doors = settings.doors.iter().filter(|door| door.service.is_none());
    names.extend(doors.map(|door| format!("door [{}]", door.name)));
    if !names.is_empty() {
        list.push(format!("what the commands open of {}", names.join(", ")));
    }
    list
}

fn not_tried(twin: &Twin) -> Vec<String> {
    let cut = twin.ways.iter().filter(|way| has_more_targets(way));
    cut.map(|way| format!("all addresses of {}: three of each family were tried", way.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::native;

    #[test]
    fn at_a_forwarded_port_the_copy_has_a_socket_only_if_the_host_has_one() {
        let text = "[service.ssh]\nports = [\"22/tcp\"]\n\
                    [service.desk]\nports = [\"3389/tcp\"]\nforward = \"10.0.0.5:3389\"\n";
        let settings = native::parse("t.toml", text).unwrap();
        let place = |local: &str| Place { proto: Proto::Tcp, local: local.parse().unwrap() };
        assert_eq!(places(&settings, &[]), [place("[::]:22")]);
        let own = ["192.0.2.1:22", "192.0.2.1:3389"].map(place);
        let socket =
            |Place { proto, local }: Place| ListeningSocket { proto, local, process: None };
        assert_eq!(places(&settings, &own.map(socket)), own);
    }
}
