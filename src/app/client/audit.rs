//! `toctoc audit`: a scan of a gateway from here, as anybody could make it; with a profile also
//! while a service is open, and after its end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::connect::grant;
use super::signer::HeldProfile;
use super::{PreparedKnock, keys, prepare, request};
use crate::app::args::toctoc::{Audit, Common, Target};
use crate::app::audit::{AuditReport, Cell, Finding, Grade, ReportRow, output};
use crate::app::output::{CommandOutput, count};
use crate::app::paths::UserPaths;
use crate::app::waiting::Waiting;
use crate::core::exchange::ClientRequest;
use crate::core::knock::{KnockKind, PortEntry};
use crate::core::types::{Fault, PortRange, Proto};
use crate::edge::names::{AddressFamily, resolve_gateway};
use crate::edge::scan::{PortState, scan};

/// Time for each port to answer.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Seconds of the grant: the scan must fit in, and its end is waited for.
const SECONDS: u32 = 15;
/// How much later the ports must be shut.
const MARGIN: Duration = Duration::from_secs(2);
/// Ports that are tried without --ports: those that people hide, and those that they forget.
const COMMON: [u16; 52] = [
    21, 22, 23, 25, 53, 80, 110, 111, 135, 139, 143, 389, 443, 445, 465, 587, 631, 873, 993, 995,
    1194, 1433, 1521, 1723, 1883, 2049, 2222, 2375, 3000, 3128, 3306, 3389, 5000, 5432, 5555, 5900,
    5901, 5985, 6379, 6443, 8000, 8006, 8080, 8081, 8443, 8888, 9000, 9090, 9200, 10_000, 11_211,
    27_017,
];
/// The most ports that a range of --ports or of a grant adds.
const MOST: usize = 65_535;
const COLUMNS: [&str; 3] = ["before", "while open", "after"];

/// What each port did, by address.
type Scan = BTreeMap<(IpAddr, u16), PortState>;

/// `toctoc audit`.
/// Error: nothing could be sent, or the profile cannot be used.
pub(super) fn audit(paths: &UserPaths, args: &Audit) -> Result<CommandOutput, Fault> {
    let held = profile_of(paths, &args.profile)?;
    let hosts = match &held {
        Some(held) => held.profile.addresses.clone(),
        None => vec![args.profile.clone()],
    };
    let addresses = addresses(&hosts)?;
    let mut ports: BTreeSet<u16> = args.ports.iter().flatten().flat_map(numbers).collect();
    if ports.is_empty() {
        ports.extend(COMMON);
    }
    let columns = if held.is_some() { COLUMNS.to_vec() } else { vec!["from here"] };
    let measured = "Measured: connections by TCP from this machine";
    let mut report = AuditReport::begin(hosts.join(", "), measured.to_owned(), columns);
    let names: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    report.facts.push(["addresses".to_owned(), names.join(", ")]);
    report.not_covered = not_covered(args.ports.is_none());
    let before = scanned(&addresses, &ports, "before");
    match &held {
        None => plain(&mut report, &before),
        Some(held) => with_grant(paths, args, held, &addresses, ports, &before, &mut report)?,
    }
    output(&report, args.html.as_deref())
}

fn not_covered(is_common: bool) -> Vec<String> {
    let mut list = vec![
        "UDP: a closed port and a hidden one look the same from outside".to_owned(),
        "addresses of the host that its name does not lead to".to_owned(),
    ];
    if is_common {
        list.push(
            "other ports than the usual ones: see --ports, for example --ports 1-65535".to_owned(),
        );
    }
    list
}

/// The profile of this name or file, or the first that leads to this host.
fn profile_of(paths: &UserPaths, text: &str) -> Result<Option<HeldProfile>, Fault> {
    let names = keys::names(paths)?;
    if names.iter().any(|name| name == text) || text.ends_with(".toml") {
        let target = Target { profile: text.to_owned(), service: None };
        return super::profiles::chosen(paths, Some(&target)).map(Some);
    }
    for name in names {
        if let Ok(held) = keys::profile(paths, &name)
            && held.profile.addresses.iter().any(|address| address == text)
        {
            return Ok(Some(held));
        }
    }
    Ok(None)
}

/// One address of each family.
fn addresses(hosts: &[String]) -> Result<Vec<IpAddr>, Fault> {
    let mut found: Vec<IpAddr> = Vec::new();
    for address in resolve_gateway(hosts, 0, None)? {
        let family = AddressFamily::of(address.ip());
        if found.iter().all(|other| AddressFamily::of(*other) != family) {
            found.push(address.ip());
        }
    }
    Ok(found)
}

fn numbers(range: &PortRange) -> impl Iterator<Item = u16> + use<> {
    (range.first..=range.last).take(MOST)
}

fn scanned(addresses: &[IpAddr], ports: &BTreeSet<u16>, when: &str) -> Scan {
    let _waiting = Waiting::begin(format!("scanning, {when}"));
    let list: Vec<u16> = ports.iter().copied().collect();
    let mut states = Scan::new();
    for address in addresses {
        for (port, state) in list.iter().zip(scan(*address, &list, PATIENCE)) {
            states.insert((*address, *port), state);
        }
    }
    states
}

/// Without a profile: what anybody finds.
fn plain(report: &mut AuditReport, states: &Scan) {
    let ports: BTreeSet<u16> = states.keys().map(|(_, port)| *port).collect();
    for port in ports {
        let text = seen(states, port);
        if text != "silent" {
            report.rows.push(row(port, "-", vec![Cell::new(text)]));
        }
    }
    let remedy = "with a profile of this gateway, the audit also opens a service: toctoc join";
    let what = format!("{} answer to anybody here", count(report.rows.len(), "TCP port"));
    report.findings.push(Finding::new(Grade::Note, "ports", what, remedy));
}

fn with_grant(
    paths: &UserPaths, args: &Audit, held: &HeldProfile, addresses: &[IpAddr],
    mut ports: BTreeSet<u16>, before: &Scan, report: &mut AuditReport,
) -> Result<(), Fault> {
    let knock = knock(paths, args, held)?;
    let service = knock.request.service;
    report.facts.push(["service".to_owned(), service.to_string()]);
    let results = knock.send()?;
    let start = Instant::now();
    let mut granted = BTreeSet::new();
    let mut seconds = 0;
    for receipt in results.iter().filter_map(grant) {
        granted.extend(receipt.ports.iter().flatten().flat_map(tcp_ports));
        seconds = seconds.max(receipt.seconds);
    }
    if seconds == 0 {
        let said = knock.report(&results).output().err;
        let what = format!("not opened, so only the scan before was made: {}", said.trim_end());
        report.findings.push(Finding::new(Grade::Warn, service.to_string(), what, "toctoc doctor"));
        let nothing = Scan::new();
        judge(report, [before, &nothing, &nothing], &granted, service.as_str());
        return Ok(());
    }
    ports.extend(granted.iter().copied().take(64));
    let open = scanned(addresses, &ports, "while the service is open");
    let end = Duration::from_secs(seconds.into()) + MARGIN;
    let waiting = Waiting::begin("waiting for the end of the grant".to_owned());
    std::thread::sleep(end.saturating_sub(start.elapsed()));
    drop(waiting);
    let after = scanned(addresses, &ports, "after");
    judge(report, [before, &open, &after], &granted, service.as_str());
    Ok(())
}

fn knock(paths: &UserPaths, args: &Audit, held: &HeldProfile) -> Result<PreparedKnock, Fault> {
    let target = Target { profile: held.name.clone(), service: None };
    let common = Common {
        target: Some(target),
        identity: args.identity.clone(),
        timeout: 2,
        attempts: 3,
        ipv4: false,
        ipv6: false,
    };
    let wanted = ClientRequest { seconds: SECONDS, ..request(KnockKind::Open, &common) };
    prepare(paths, &common, wanted, args.service)
}

fn tcp_ports(entry: &PortEntry) -> Vec<u16> {
    match entry {
        PortEntry::Range(range) if range.proto == Proto::Tcp => numbers(range).collect(),
        // Every port may be open then: nothing more can be said of one.
        PortEntry::All => (1..=u16::MAX).collect(),
        _ => Vec::new(),
    }
}

/// Adds rows and findings. `scans`: before, while open, after.
fn judge(report: &mut AuditReport, scans: [&Scan; 3], granted: &BTreeSet<u16>, service: &str) {
    let ports: BTreeSet<u16> = scans.iter().flat_map(|scan| scan.keys().map(|key| key.1)).collect();
    let is_open = |scan: &Scan, port: u16| {
        scan.iter().any(|((_, other), state)| *other == port && *state == PortState::Open)
    };
    for port in ports {
        let [before, open, after] = scans.map(|scan| is_open(scan, port));
        let is_ours = granted.contains(&port);
        let mut cells: Vec<Cell> = scans.iter().map(|scan| Cell::new(seen(scan, port))).collect();
        let about = format!("{port}/tcp");
        let mut add = |column: usize, grade, what: String, remedy: &str| {
            cells[column].is_hole = grade == Grade::Hole;
            report.findings.push(Finding::new(grade, about.as_str(), what, remedy));
        };
        if is_ours && before {
            let remedy = "if you had no grant yet, the gateway's admin should run `toctocd audit`; \
                          otherwise wait for its end, and try again";
            add(0, Grade::Hole, format!("it was open before the knock for {service}"), remedy);
        } else if is_ours && after {
            let remedy = "the gateway's admin should run `toctocd audit`";
            add(2, Grade::Hole, "it is open after the end of the grant".to_owned(), remedy);
        } else if !is_ours && open && !before {
            let remedy = "the gateway's admin should run `toctocd audit`";
            add(1, Grade::Hole, format!("the grant for {service} opened it too"), remedy);
        }
        if is_ours && !open && granted.len() < 100 {
            let what = format!("granted, and it does not answer while {service} is open");
            add(1, Grade::Warn, what, "toctoc doctor");
        }
        let is_silent = cells.iter().all(|cell| cell.text == "silent" || cell.text == "-");
        if is_ours && granted.len() < 100 || !is_silent {
            let name = if is_ours { service } else { "-" };
            report.rows.push(row(port, name, cells));
        }
    }
}

fn row(port: u16, service: &str, cells: Vec<Cell>) -> ReportRow {
    ReportRow {
        port: format!("{port}/tcp"),
        listens: String::new(),
        service: service.to_owned(),
        cells,
    }
}

/// A port in one scan, over all addresses.
fn seen(scan: &Scan, port: u16) -> String {
    let mut open = Vec::new();
    let mut states = Vec::new();
    for ((address, _), state) in scan.iter().filter(|((_, other), _)| *other == port) {
        states.push(*state);
        if *state == PortState::Open {
            open.push(if address.is_ipv4() { "IPv4" } else { "IPv6" });
        }
    }
    match (states.iter().max(), open.as_slice()) {
        (None, _) => "-".to_owned(),
        (Some(PortState::Open), [only]) if states.len() > 1 => format!("OPEN, {only} only"),
        (Some(PortState::Open), _) => "OPEN".to_owned(),
        (Some(PortState::Refused), _) => "refused".to_owned(),
        (Some(PortState::Silent), _) => "silent".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [PortState; 3] = [PortState::Silent, PortState::Open, PortState::Silent];

    fn scans(port: u16, states: [PortState; 3]) -> [Scan; 3] {
        states.map(|state| Scan::from([((IpAddr::from([192, 0, 2, 1]), port), state)]))
    }

    fn judged(port: u16, states: [PortState; 3], granted: &[u16]) -> AuditReport {
        let mut report = AuditReport::begin("gate".to_owned(), String::new(), COLUMNS.to_vec());
        let [before, open, after] = scans(port, states);
        let granted = granted.iter().copied().collect();
        judge(&mut report, [&before, &open, &after], &granted, "ssh");
        report
    }

    #[test]
    fn a_port_that_is_open_for_the_grant_alone_is_sound() {
        let report = judged(22, STATES, &[22]);
        assert_eq!(report.findings, []);
        let texts: Vec<&str> = report.rows[0].cells.iter().map(|cell| cell.text.as_str()).collect();
        assert_eq!(
            (texts, report.rows[0].service.as_str()),
            (vec!["silent", "OPEN", "silent"], "ssh")
        );
    }

    #[test]
    fn a_port_that_is_open_at_another_time_or_without_a_grant_for_it_is_a_hole() {
        use PortState::{Open, Refused, Silent};
        for (states, granted, column, words) in [
            ([Open, Open, Open], &[22][..], 0, "open before the knock"),
            ([Refused, Open, Open], &[22], 2, "after the end"),
            (STATES, &[443], 1, "the grant for ssh opened it too"),
        ] {
            let report = judged(22, states, granted);
            let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
            assert!(finding.grade == Grade::Hole && finding.what.contains(words), "{finding:?}");
            let marked: Vec<usize> =
                (0..3).filter(|at| report.rows[0].cells[*at].is_hole).collect();
            assert_eq!(marked, [column]);
        }
        assert_eq!(judged(80, [Open, Open, Open], &[22]).findings, [], "open to everybody");
        let shut = judged(22, [Silent, Silent, Silent], &[22]);
        assert_eq!(shut.findings[0].grade, Grade::Warn);
    }

    #[test]
    fn one_family_that_is_open_is_said() {
        let v6 = IpAddr::from([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let [_, mut scan, _] = scans(22, STATES);
        scan.insert((v6, 22), PortState::Silent);
        assert_eq!(seen(&scan, 22), "OPEN, IPv4 only");
        assert_eq!(seen(&scan, 23), "-");
    }
}
