//! The program `toctoc`: its commands and exit codes.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use super::args::toctoc::{Common, ToctocCommand};
use super::compat;
use super::complete::{self, CommandLine};
use super::output::{CommandOutput, fault_json};
use super::paths::UserPaths;
use crate::core::knock::KnockKind;
use crate::core::types::{Fault, FaultKind, ServiceName};
use crate::edge::names::{AddressFamily, resolve_gateway};
use crate::edge::terminal;
use crate::keys::profile::Profile;
use ask::{ClientRequest, ExchangeOutcome, GatewayResult, ask};
use messages::ExchangeReport;
use signer::Signer;

mod ask;
mod classic;
mod completion;
mod keys;
mod messages;
mod signer;

/// Granted, closed, or the probe was answered.
const DONE: u8 = 0;
/// The gateway refused, and said why.
const REFUSED: u8 = 1;
/// Wrong usage, profile or key: nothing was sent.
const USAGE: u8 = 2;
/// No answer: the result is unknown.
const NO_ANSWER: u8 = 3;
/// Nothing could be sent.
const UNREACHABLE: u8 = 4;
/// Done over one address of the gateway and refused over another: mostly IPv4 and IPv6.
const PARTLY: u8 = 5;

/// The most addresses of one family that are tried.
const TRIED: usize = 4;

pub fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    if compat::is_called(words.first().map(|word| word.as_os_str()), "knock") {
        return compat::knock::main();
    }
    let paths = UserPaths::from_env();
    let names = |line: &CommandLine<'_>, id: &str, typed: &str| {
        completion::known_names(&paths, line, id, typed)
    };
    if complete::answer::<ToctocCommand>(&words, &names) {
        return ExitCode::SUCCESS;
    }
    let command: ToctocCommand = match super::args::parse() {
        Ok(command) => command,
        Err(code) => return code,
    };
    let mut console = Console {
        paths,
        out: &mut std::io::stdout(),
        err: &mut std::io::stderr(),
        confirm: &terminal::confirm,
    };
    ExitCode::from(console.run(&command))
}

/// What a command uses besides the network: the user's files and terminal.
struct Console<'a> {
    paths: UserPaths,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    confirm: &'a dyn Fn(&str) -> bool,
}

impl Console<'_> {
    fn run(&mut self, command: &ToctocCommand) -> u8 {
        match self.try_run(command) {
            Ok(code) => code,
            Err(fault) => {
                if wants_json(command) {
                    self.print(&format!("{:#}\n", fault_json(&fault)), "");
                } else {
                    self.print("", &format!("toctoc: {fault}\n"));
                }
                match fault.kind {
                    FaultKind::Unreachable => UNREACHABLE,
                    _ => USAGE,
                }
            }
        }
    }

    fn try_run(&mut self, command: &ToctocCommand) -> Result<u8, Fault> {
        let output = match command {
            ToctocCommand::Open(args) if args.classic => classic::open(&self.paths, args)?,
            ToctocCommand::Open(args) => {
                let request = ClientRequest {
                    seconds: args.seconds.unwrap_or(0),
                    source: args.source,
                    source_port: args.source_port.unwrap_or(0),
                    ask_source: args.ask_source,
                    ..request(KnockKind::Open, &args.common)
                };
                return self.sealed(&args.common, request, args.service);
            }
            ToctocCommand::Close(args) => {
                let request = ClientRequest {
                    source: args.source,
                    ask_source: args.ask_source,
                    ..request(KnockKind::Close, &args.common)
                };
                return self.sealed(&args.common, request, args.service);
            }
            ToctocCommand::Probe(args) => {
                return self.sealed(args, request(KnockKind::Probe, args), None);
            }
            ToctocCommand::Keygen(args) => keys::keygen(&self.paths, args)?,
            ToctocCommand::Import(args) => {
                keys::import(&self.paths, args, &mut std::io::stdin().lock())?
            }
            ToctocCommand::Profiles { json } => keys::profiles(&self.paths, *json)?,
            ToctocCommand::Knock(args) => {
                return super::knock::main(args, self.out, self.err);
            }
        };
        self.print(&output.out, &output.err);
        Ok(output.code)
    }

    /// Knocks with `request`, at `service` or the profile's default one.
    fn sealed(
        &mut self, common: &Common, mut request: ClientRequest, service: Option<ServiceName>,
    ) -> Result<u8, Fault> {
        let held = keys::profile(&self.paths, &common.profile)?;
        let profile = &held.profile;
        let family = family(common, request.source);
        if request.kind != KnockKind::Probe {
            request.service = self::service(&common.profile, request.kind, service, profile)?;
        }
        let signer = signer::signer(&self.paths, &held, common.identity.as_deref())?;
        let gateways = resolve_gateway(&profile.addresses, profile.port, family)?;
        let results = ask_all(profile, &signer, &request, &gateways);
        if let Some(fault) = unsigned(&results) {
            return Err(fault.clone());
        }
        let report =
            ExchangeReport { name: &common.profile, profile, request: &request, results: &results };
        if common.json {
            self.print(&format!("{:#}\n", report.json()), "");
            return Ok(report.code());
        }
        let CommandOutput { out, err, code, .. } = report.output();
        self.print(&out, &err);
        if code == NO_ANSWER
            && request.kind == KnockKind::Open
            && let Some(fallback) = &profile.fallback
            && fallback.offer
            && (self.confirm)(classic::QUESTION)
        {
            let sent = classic::send(profile, fallback, family, request.source)?;
            self.print(&sent.out, &sent.err);
            return Ok(sent.code);
        }
        Ok(code)
    }

    /// Prints both texts. A closed pipe (`| head`) is no error: the reader wanted no more.
    fn print(&mut self, out: &str, err: &str) {
        let _ = self.out.write_all(out.as_bytes());
        let _ = self.err.write_all(err.as_bytes());
    }
}

fn wants_json(command: &ToctocCommand) -> bool {
    match command {
        ToctocCommand::Open(args) => args.common.json,
        ToctocCommand::Close(args) => args.common.json,
        ToctocCommand::Probe(args) => args.json,
        ToctocCommand::Profiles { json } => *json,
        _ => false,
    }
}

/// A request of this kind without any of the options that only some kinds have.
fn request(kind: KnockKind, common: &Common) -> ClientRequest {
    ClientRequest {
        kind,
        service: ServiceName::NONE,
        seconds: 0,
        source: None,
        ask_source: false,
        source_port: 0,
        timeout: Duration::from_secs(common.timeout),
        attempts: common.attempts,
    }
}

/// Asks the first address of each family at once, so that a silent one does not delay the other,
/// and each further one a timeout later, until one has answered. With a key that wants a touch: one
/// after the other, in the resolver's order, for nobody wants to touch it twice.
fn ask_all(
    profile: &Profile, signer: &Signer, request: &ClientRequest, gateways: &[SocketAddr],
) -> Vec<GatewayResult> {
    let answered = &OnceLock::new();
    let mut earlier = [0; 2];
    let mut results = Vec::new();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for gateway in gateways.iter().copied() {
            let before = &mut earlier[usize::from(gateway.is_ipv6())];
            if *before >= TRIED {
                results.push(GatewayResult::not_tried(gateway));
                continue;
            }
            let delay = request.timeout * u32::try_from(*before).unwrap_or(u32::MAX);
            *before += 1;
            if signer.wants_touch() {
                results.push(match answered.get() {
                    Some(_) => GatewayResult::not_tried(gateway),
                    None => ask(profile, signer, request, gateway, Duration::ZERO, answered),
                });
                continue;
            }
            let exchange = move || ask(profile, signer, request, gateway, delay, answered);
            threads.push(scope.spawn(exchange));
        }
        let asked = threads.into_iter().filter_map(|thread| thread.join().ok());
        results.splice(0..0, asked.collect::<Vec<_>>());
    });
    results
}

/// Why nothing was signed, if nothing was received either.
fn unsigned(results: &[GatewayResult]) -> Option<&Fault> {
    let mut found = None;
    for result in results {
        match &result.outcome {
            ExchangeOutcome::Unreachable(fault) if fault.kind == FaultKind::Unsigned => {
                found = Some(fault);
            }
            ExchangeOutcome::Received(_) => return None,
            ExchangeOutcome::Unreachable(_) | ExchangeOutcome::Silence => {}
        }
    }
    found
}

/// The address family to knock with. `--source` may name an address of the other one: the gateway's
/// policy decides if it counts.
fn family(common: &Common, source: Option<IpAddr>) -> Option<AddressFamily> {
    match (common.ipv4, common.ipv6) {
        (true, _) => Some(AddressFamily::V4),
        (_, true) => Some(AddressFamily::V6),
        _ => source.map(AddressFamily::of),
    }
}

/// The service to name. One that the profile does not list is no error: the gateway may have got it
/// after the profile was made.
fn service(
    name: &str, kind: KnockKind, named: Option<ServiceName>, profile: &Profile,
) -> Result<ServiceName, Fault> {
    if let Some(service) = named.or(profile.default_service) {
        return Ok(service);
    }
    let verb = if kind == KnockKind::Close { "close" } else { "open" };
    Err(Fault::new(
        "no service given, and this profile has no default one",
        format!("toctoc {verb} {name} SERVICE, one of: {}", list(&profile.services)),
    ))
}

/// `ssh, web`.
fn list(services: &[ServiceName]) -> String {
    let names: Vec<&str> = services.iter().map(ServiceName::as_str).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests;
