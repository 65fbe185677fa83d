//! `toctoc doctor`: looks for what keeps a knock or a connection from working, step by step, and
//! says what to do.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::ask::{ExchangeOutcome, GatewayResult};
use super::connect::{connect, grant, send_bound};
use super::messages::clock_text;
use super::refusal::everybody_text;
use super::signer::{self, HeldProfile, Signer};
use super::{
    Console, DONE, NO_ANSWER, PreparedKnock, REFUSED, TRIED, UNREACHABLE, USAGE, family, profiles,
    request,
};
use crate::app::args::toctoc::Doctor;
use crate::app::output::count;
use crate::app::waiting::Waiting;
use crate::core::diagnostic::printable;
use crate::core::exchange::{Endpoints, ReceivedReceipt, usable};
use crate::core::knock::{KnockKind, Status};
use crate::core::types::{Fault, FaultKind};
use crate::edge::names::{AddressFamily, resolve_gateway};
use crate::edge::send::GatewaySocket;
use crate::edge::signs_of_life::{SignOfLife, sign_of_life};
use crate::edge::tcp::{HeldPort, first_line};
use crate::keys::public::show_fingerprint;
use findings::{Finding, Grade};

mod findings;

/// The length of the grant for a try of the service. It is not closed, but ends by itself: closing
/// would end other grants of the same client too, and perhaps cut their connections.
const TRY_SECONDS: u32 = 10;
/// Time for signs of life of a silent host.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time for the first words of a service; most say nothing before they are asked.
const BANNER: Duration = Duration::from_secs(2);

impl Console<'_> {
    /// Prints each finding at once, or all as JSON. Returns the exit code of the first thing that
    /// is wrong.
    pub(super) fn doctor(&mut self, args: &Doctor) -> u8 {
        let mut examination = Examination { console: self, args, findings: Vec::new() };
        examination.run();
        let findings = examination.findings;
        if args.json {
            self.print_data(&format!("{:#}\n", findings::json(&findings)));
        }
        let wrong = findings.iter().find(|finding| finding.grade == Grade::Fail);
        wrong.map_or(DONE, |finding| finding.code)
    }
}

struct Examination<'a, 'c> {
    console: &'a mut Console<'c>,
    args: &'a Doctor,
    findings: Vec<Finding>,
}

impl Examination<'_, '_> {
    fn run(&mut self) {
        let Some(held) = self.profile() else { return };
        let signer = self.key(&held);
        let gateways = self.names(&held);
        let gateways = self.routes(&gateways);
        let Some(signer) = signer else { return };
        if gateways.is_empty() || profiles::refuse_expired(&held).is_err() {
            return;
        }
        let request = request(KnockKind::Probe, &self.args.common);
        let mut knock = PreparedKnock { held, request, signer, family: None, gateways };
        let results = self.probe(&mut knock);
        knock.gateways.clear();
        for result in &results {
            if received(result).is_some() {
                knock.gateways.push(result.gateway);
            }
        }
        if !knock.gateways.is_empty() {
            // Behind a NAT, the address that the gateway sees.
            knock.request.ask_source = results.iter().any(has_nat);
            self.service(&mut knock);
        }
    }

    fn note(&mut self, finding: Finding) {
        if !self.args.json {
            self.console.print(&finding.to_string(), "");
        }
        self.findings.push(finding);
    }

    fn ok(&mut self, about: &'static str, what: String) {
        self.note(Finding { grade: Grade::Ok, about, what, remedy: String::new(), code: DONE });
    }

    fn warn(&mut self, about: &'static str, fault: Fault) {
        let Fault { what, remedy, .. } = fault;
        self.note(Finding { grade: Grade::Warn, about, what, remedy, code: DONE });
    }

    fn fail(&mut self, about: &'static str, fault: Fault, code: u8) {
        let Fault { what, remedy, .. } = fault;
        self.note(Finding { grade: Grade::Fail, about, what, remedy, code });
    }

    fn profile(&mut self) -> Option<HeldProfile> {
        let target = self.args.common.target.as_ref();
        let held = match profiles::chosen(&self.console.paths, target) {
            Ok(held) => held,
            Err(fault) => {
                self.fail("profile", fault, USAGE);
                return None;
            }
        };
        let what = format!("{}, for client `{}`", held.path.display(), held.profile.name);
        self.ok("profile", what);
        match (profiles::refuse_expired(&held), profiles::seconds_left(&held.profile)) {
            (Err(fault), _) => self.fail("enrolment", fault, USAGE),
            (Ok(()), Some(left)) => {
                let end = profiles::end_text(&held.profile, left);
                self.ok("enrolment", format!("lasts until {end}"));
            }
            (Ok(()), None) => {}
        }
        Some(held)
    }

    fn key(&mut self, held: &HeldProfile) -> Option<Signer> {
        let named = self.args.common.identity.as_deref();
        match signer::signer(&self.console.paths, held, named) {
            Ok(signer) => {
                let fingerprint = show_fingerprint(&signer.public.fingerprint());
                self.ok("key", format!("{fingerprint}, {}", signer.place_text()));
                Some(signer)
            }
            Err(fault) => {
                self.fail("key", fault, USAGE);
                None
            }
        }
    }

    /// Looks up each address of the profile.
    fn names(&mut self, held: &HeldProfile) -> Vec<SocketAddr> {
        let profile = &held.profile;
        let only = family(&self.args.common, None);
        let mut found = Vec::new();
        let mut faults = Vec::new();
        for host in &profile.addresses {
            if let (Ok(address), Some(only)) = (host.parse::<IpAddr>(), only)
                && AddressFamily::of(address) != only
            {
                continue;
            }
            let waiting = Waiting::begin(format!("looking up {host}"));
            let looked_up = resolve_gateway(std::slice::from_ref(host), profile.port, only);
            drop(waiting);
            match looked_up {
                Ok(addresses) => {
                    let list: Vec<String> =
                        addresses.iter().map(|address| address.ip().to_string()).collect();
                    let list = list.join(", ");
                    let what = match list == *host {
                        true => format!("{host} is an address: nothing to look up"),
                        false => format!("{host} is {list}"),
                    };
                    self.ok("name", what);
                    for address in addresses {
                        if !found.contains(&address) {
                            found.push(address);
                        }
                    }
                }
                Err(fault) => faults.push(fault),
            }
        }
        for fault in faults {
            match found.is_empty() {
                true => self.fail("name", fault, UNREACHABLE),
                false => self.warn("name", fault),
            }
        }
        found
    }

    /// Leaves those addresses that there is a route to.
    fn routes(&mut self, gateways: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut reachable = Vec::new();
        let mut faults = Vec::new();
        for gateway in gateways {
            match GatewaySocket::open(*gateway) {
                Ok(socket) => {
                    let what = format!("to {} from {}", gateway.ip(), socket.local());
                    self.ok("route", what);
                    reachable.push(*gateway);
                }
                Err(fault) => faults.push(fault),
            }
        }
        for fault in faults {
            match reachable.is_empty() {
                true => self.fail("route", fault, UNREACHABLE),
                false => self.warn("route", fault),
            }
        }
        reachable
    }

    /// Probes over each family by itself: one that answers must not hide that the other does not.
    fn probe(&mut self, knock: &mut PreparedKnock) -> Vec<GatewayResult> {
        let all = std::mem::take(&mut knock.gateways);
        let mut results = Vec::new();
        for family in [AddressFamily::V4, AddressFamily::V6] {
            let gateways = all.iter().filter(|gateway| AddressFamily::of(gateway.ip()) == family);
            knock.gateways = gateways.copied().take(TRIED).collect();
            if knock.gateways.is_empty() {
                continue;
            }
            match knock.send() {
                Ok(found) => results.extend(found),
                Err(fault) => {
                    self.fail("key", fault, USAGE);
                    return Vec::new();
                }
            }
        }
        let one_answers = results.iter().any(|result| received(result).is_some());
        for result in &results {
            match &result.outcome {
                ExchangeOutcome::Received(received) => self.answer(knock, result, received),
                // Another address of the family was first.
                ExchangeOutcome::Silence if result.knocks == 0 => {}
                ExchangeOutcome::Silence if one_answers => {
                    self.warn("gateway", silence(knock, result));
                }
                ExchangeOutcome::Silence => self.fail("gateway", silence(knock, result), NO_ANSWER),
                ExchangeOutcome::Unreachable(fault) if one_answers => {
                    self.warn("sending", fault.clone());
                }
                ExchangeOutcome::Unreachable(fault) => {
                    self.fail("sending", fault.clone(), UNREACHABLE);
                }
            }
        }
        results
    }

    fn answer(
        &mut self, knock: &PreparedKnock, result: &GatewayResult, received: &ReceivedReceipt,
    ) {
        let gateway = result.gateway.ip();
        if received.receipt.status != Status::Observed {
            let fault = refusal(knock, result);
            self.fail("gateway", fault, REFUSED);
            return;
        }
        self.ok("gateway", format!("{gateway} answers over UDP port {}", knock.held.profile.port));
        let clock = clock_text(received);
        match clock.trim_start_matches("note: ").trim_end() {
            "" => self.ok("clock", "as the gateway's, within 2 s".to_owned()),
            wrong => {
                let remedy = "set it; until then toctoc asks the gateway for the time first";
                self.warn("clock", Fault::new(wrong, remedy));
            }
        }
        self.address(knock, result, received);
    }

    fn address(
        &mut self, knock: &PreparedKnock, result: &GatewayResult, received: &ReceivedReceipt,
    ) {
        let observed = received.receipt.observed;
        let Some(local) = result.local else { return };
        let name = &knock.held.name;
        if result.is_replaced(observed) {
            let what = everybody_text(observed);
            let (what, remedy) = what.rsplit_once(": ").unwrap_or((&what, ""));
            self.fail("address", Fault::new(what, remedy.trim_end()), REFUSED);
        } else if observed.ip() == local {
            self.ok("address", format!("the gateway sees {local}, your own: no NAT in between"));
        } else if usable(Endpoints { local, gateway: result.gateway.ip() }) {
            let fault = Fault::new(
                format!("the gateway sees {observed}, and you are {local}: a NAT in between"),
                format!(
                    "open with: toctoc open {name} SERVICE --ask-source; for ssh: \
                     toctoc ssh-config {name} --install --ask-source"
                ),
            );
            self.warn("address", fault);
        } else {
            let what = format!(
                "the gateway sees {observed}, and you are {local}: a NAT in between, which toctoc \
                 asks about by itself; others behind it share your grants"
            );
            self.ok("address", what);
        }
    }

    /// Opens the service, connects, and reads what it says.
    fn service(&mut self, knock: &mut PreparedKnock) {
        let target = self.args.common.target.as_ref();
        match profiles::service("doctor", target, self.args.service, &knock.held) {
            Ok(service) => knock.request.service = service,
            Err(fault) => {
                let what = format!("not tried: {}", fault.what);
                self.warn("service", Fault::new(what, fault.remedy));
                return;
            }
        }
        knock.request.kind = KnockKind::Open;
        knock.request.seconds = TRY_SECONDS;
        let held_port = HeldPort::take();
        knock.request.held_port = held_port.as_ref().ok().map(HeldPort::number);
        let sent = send_bound(knock);
        let (mut port, results) = match (held_port, sent) {
            (Ok(port), Ok(results)) => (port, results),
            (_, Err(fault)) => return self.fail("service", fault, USAGE),
            (Err(error), _) => {
                let what = format!("not tried: no free TCP port here: {error}");
                let fault = Fault::new(what, "close other connections, then try again");
                return self.warn("service", fault);
            }
        };
        for result in &results {
            match &result.outcome {
                ExchangeOutcome::Received(_) => self.try_service(knock, result, &mut port),
                ExchangeOutcome::Silence if result.knocks == 0 => {}
                ExchangeOutcome::Silence => self.fail("service", silence(knock, result), NO_ANSWER),
                ExchangeOutcome::Unreachable(fault) => {
                    self.fail("service", fault.clone(), UNREACHABLE);
                }
            }
        }
    }

    fn try_service(&mut self, knock: &PreparedKnock, result: &GatewayResult, port: &mut HeldPort) {
        let service = knock.request.service;
        let Some(receipt) = grant(result) else {
            return self.fail("service", refusal(knock, result), REFUSED);
        };
        let open = format!("{service} is open for {} s", receipt.seconds);
        let stream = match connect(knock, result, receipt, None, port) {
            Ok(stream) => stream,
            Err(fault) if fault.kind == FaultKind::Unreachable => {
                return self.fail("service", fault, UNREACHABLE);
            }
            // It has no TCP port to try.
            Err(fault) => return self.ok("service", format!("{open}; {}", fault.what)),
        };
        let place = match stream.peer_addr() {
            Ok(address) => address.to_string(),
            Err(_) => result.gateway.ip().to_string(),
        };
        let waiting = Waiting::begin(format!("connected; listening to {place}"));
        let line = first_line(stream, BANNER);
        drop(waiting);
        match line {
            Some(line) if !line.is_empty() => {
                self.ok("service", format!("{open}, and {place} says `{}`", printable(&line)));
            }
            Some(_) => {
                let fault = Fault::new(
                    format!("{open}, but {place} closes each connection at once"),
                    "ask the gateway's admin: the service itself refuses you, or it is overloaded",
                );
                self.warn("service", fault);
            }
            None => self.ok("service", format!("{open}, and {place} accepts connections")),
        }
    }
}

fn received(result: &GatewayResult) -> Option<&ReceivedReceipt> {
    match &result.outcome {
        ExchangeOutcome::Received(received) => Some(received),
        _ => None,
    }
}

/// True if the gateway sees another address than this machine's own.
fn has_nat(result: &GatewayResult) -> bool {
    match received(result) {
        Some(received) => result.local != Some(received.receipt.observed.ip()),
        None => false,
    }
}

/// The refusal of one address, as the other commands say it.
fn refusal(knock: &PreparedKnock, result: &GatewayResult) -> Fault {
    let text = knock.report(std::slice::from_ref(result)).output().err;
    match text.trim_end().split_once('\n') {
        Some((what, remedy)) => Fault::new(what, remedy.trim_start()),
        None => Fault::new(text.trim_end(), "ask the gateway's admin"),
    }
}

/// The most likely reason why an address does not answer, by what else comes back from it.
fn silence(knock: &PreparedKnock, result: &GatewayResult) -> Fault {
    let gateway = result.gateway;
    let ip = gateway.ip();
    let client = &knock.held.profile.name;
    let waiting = Waiting::begin(format!("{ip} does not answer; looking for signs of life"));
    let sign = sign_of_life(gateway, PATIENCE);
    drop(waiting);
    let knocks = count(result.knocks as usize, "knock");
    let port = gateway.port();
    match sign {
        SignOfLife::UdpRefused => Fault::new(
            format!("{ip} is up, but refuses UDP port {port}: toctocd is not running there"),
            "ask the gateway's admin to start it: systemctl status toctocd. If it uses another port \
             now, write that number into the profile: port = NUMBER",
        ),
        SignOfLife::Tcp(other) => Fault::new(
            format!(
                "{ip} answers on TCP port {other}, but not to {knocks} on UDP port {port}: toctocd \
                 is not running there or does not know this client, or UDP is blocked here or on \
                 the way"
            ),
            format!(
                "ask the gateway's admin: does `toctocd status` answer, do its counters move when \
                 you knock, and is `{client}` in `toctocd client list`? Or try another network, \
                 such as a phone's: if that works, this one blocks UDP"
            ),
        ),
        SignOfLife::None => Fault::new(
            format!("nothing at all comes back from {ip}, neither to {knocks} nor over TCP"),
            format!(
                "is the gateway up, and still at that address? Try another network: if that works, \
                 this one blocks UDP port {port}. Otherwise ask the gateway's admin"
            ),
        ),
    }
}
