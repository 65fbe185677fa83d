//! The program `toctoc`: its commands and exit codes.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use super::args::toctoc::{Close, Common, Open, ToctocArgs, ToctocCommand};
use super::compat;
use super::output::{CommandOutput, fault_json};
use super::paths::UserPaths;
use crate::core::knock::KnockKind;
use crate::core::types::{Fault, ServiceName};
use crate::edge::names::{AddressFamily, resolve_gateway};
use crate::edge::terminal;
use crate::keys::identity::Signer;
use crate::keys::profile::Profile;
use ask::{ClientRequest, GatewayResult, ask};
use messages::ExchangeReport;

mod ask;
mod classic;
mod keys;
mod messages;

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

/// Runs `toctoc` with this process's arguments.
pub fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    if compat::is_called(words.first().map(|word| word.as_os_str()), "knock") {
        return compat::knock::main();
    }
    let args: ToctocArgs = match super::args::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    let mut console = Console {
        paths: UserPaths::from_env(),
        out: &mut std::io::stdout(),
        err: &mut std::io::stderr(),
        confirm: &terminal::confirm,
    };
    ExitCode::from(console.run(&args.command))
}

/// What a command uses besides the network: the user's files and terminal.
struct Console<'a> {
    paths: UserPaths,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    /// Asks a yes-or-no question.
    confirm: &'a dyn Fn(&str) -> bool,
}

/// The reason why a command sent nothing, and its exit code.
#[derive(Debug)]
struct Failure {
    fault: Fault,
    code: u8,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { fault, code: USAGE }
    }
}

fn unreachable(fault: Fault) -> Failure {
    Failure { fault, code: UNREACHABLE }
}

impl Console<'_> {
    /// Runs `command` and returns its exit code.
    fn run(&mut self, command: &ToctocCommand) -> u8 {
        match self.try_run(command) {
            Ok(code) => code,
            Err(Failure { fault, code }) => {
                if wants_json(command) {
                    self.print(&format!("{:#}\n", fault_json(&fault)), "");
                } else {
                    self.print("", &format!("toctoc: {fault}\n"));
                }
                code
            }
        }
    }

    fn try_run(&mut self, command: &ToctocCommand) -> Result<u8, Failure> {
        let output = match command {
            ToctocCommand::Open(args) if args.classic => classic::open(&self.paths, args)?,
            ToctocCommand::Open(args) => return self.sealed(&args.common, &open(args)),
            ToctocCommand::Close(args) => return self.sealed(&args.common, &close(args)),
            ToctocCommand::Probe(args) => return self.sealed(&args.common, &probe()),
            ToctocCommand::Keygen(args) => keys::keygen(&self.paths, args)?,
            ToctocCommand::Import(args) => {
                keys::import(&self.paths, args, &mut std::io::stdin().lock())?
            }
            ToctocCommand::Profiles { json } => keys::profiles(&self.paths, *json)?,
            ToctocCommand::Knock(args) => {
                return Ok(super::knock::main(args, self.out, self.err)?);
            }
        };
        self.print(&output.out, &output.err);
        Ok(output.code)
    }

    fn sealed(&mut self, common: &Common, command: &SealedCommand) -> Result<u8, Failure> {
        let held = keys::profile(&self.paths, &common.profile)?;
        let profile = &held.profile;
        let family = family(common, command.source);
        let request = ClientRequest {
            kind: command.kind,
            service: service(&common.profile, command, profile)?,
            seconds: command.seconds,
            source: command.source,
            ask_source: command.ask_source,
            source_port: command.source_port,
            timeout: Duration::from_secs(common.timeout),
            attempts: common.attempts,
        };
        let signer = keys::signer(&self.paths, &held, common.identity.as_deref())?;
        let gateways =
            resolve_gateway(&profile.addresses, profile.port, family).map_err(unreachable)?;
        let results = ask_all(profile, &signer, &request, &gateways);
        let report =
            ExchangeReport { name: &common.profile, profile, request: &request, results: &results };
        if common.json {
            self.print(&format!("{:#}\n", report.json()), "");
            return Ok(report.code());
        }
        let CommandOutput { out, err, code, .. } = report.output();
        self.print(&out, &err);
        if code == NO_ANSWER
            && command.kind == KnockKind::Open
            && let Some(fallback) = &profile.fallback
            && fallback.offer
            && (self.confirm)(classic::QUESTION)
        {
            let sent = classic::send(profile, fallback, family, command.source)?;
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
        ToctocCommand::Probe(args) => args.common.json,
        ToctocCommand::Profiles { json } => *json,
        _ => false,
    }
}

/// The differences between the sealed commands.
struct SealedCommand {
    kind: KnockKind,
    service: Option<ServiceName>,
    seconds: u32,
    source: Option<IpAddr>,
    source_port: u16,
    ask_source: bool,
}

fn open(args: &Open) -> SealedCommand {
    SealedCommand {
        kind: KnockKind::Open,
        service: args.service,
        seconds: args.seconds.unwrap_or(0),
        source: args.source,
        source_port: args.source_port.unwrap_or(0),
        ask_source: args.ask_source,
    }
}

fn close(args: &Close) -> SealedCommand {
    SealedCommand {
        kind: KnockKind::Close,
        service: args.service,
        source: args.source,
        ask_source: args.ask_source,
        ..probe()
    }
}

fn probe() -> SealedCommand {
    SealedCommand {
        kind: KnockKind::Probe,
        service: None,
        seconds: 0,
        source: None,
        source_port: 0,
        ask_source: false,
    }
}

/// Asks the first address of each family at once, so that a silent one does not delay the other,
/// and each further one a timeout later, until one has answered.
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
            let exchange = move || ask(profile, signer, request, gateway, delay, answered);
            threads.push(scope.spawn(exchange));
        }
        let asked = threads.into_iter().filter_map(|thread| thread.join().ok());
        results.splice(0..0, asked.collect::<Vec<_>>());
    });
    results
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
fn service(name: &str, command: &SealedCommand, profile: &Profile) -> Result<ServiceName, Fault> {
    if command.kind == KnockKind::Probe {
        return Ok(ServiceName::NONE);
    }
    if let Some(service) = command.service.or(profile.default_service) {
        return Ok(service);
    }
    let verb = if command.kind == KnockKind::Close { "close" } else { "open" };
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
