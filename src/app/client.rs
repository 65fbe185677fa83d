//! `toctoc`: knocks, and says in words how it ended. The conversation with the gateway is left to
//! `ask`, files to `keys`, sentences to `words`, the sequence of a door to `classic`.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use clap::Parser;

use super::args::toctoc::{Close, Common, Open, ToctocArgs, ToctocCommand};
use super::compat;
use crate::core::knock::KnockKind;
use crate::core::types::{Fault, ServiceName};
use crate::edge::names::{AddressFamily, resolve_gateway};
use crate::keys::profile::Profile;
use ask::{ClientRequest, GatewayResult, ask};

mod ask;
mod classic;
mod keys;
mod messages;

/// Granted, closed, or the probe was answered.
const GRANTED: u8 = 0;
/// The gateway refused, and said so.
const REFUSED: u8 = 1;
/// Wrong usage, profile or key: nothing was sent.
const USAGE: u8 = 2;
/// No answer: nothing is known.
const NO_ANSWER: u8 = 3;
/// Nothing could be sent.
const NO_WAY: u8 = 4;

/// Runs `toctoc` with this process's arguments.
pub fn main() -> ExitCode {
    if compat::called(std::env::args_os().next().as_deref(), "knock") {
        return compat::knock::main();
    }
    // Clap ends with 2 itself where the words make no sense.
    let args = ToctocArgs::parse();
    let code = run(&args.command).unwrap_or_else(|stop| {
        match stop.json {
            true => print(&format!(
                "{:#}\n",
                serde_json::json!({ "result": "fault", "what": stop.fault.what, "remedy": stop.fault.remedy })
            )),
            false => eprint(&format!("toctoc: {}\n", stop.fault)),
        }
        stop.code
    });
    ExitCode::from(code)
}

/// Why nothing was sent.
struct NothingSent {
    fault: Fault,
    code: u8,
    json: bool,
}

fn usage(json: bool) -> impl Fn(Fault) -> NothingSent {
    move |fault| NothingSent { fault, code: USAGE, json }
}

fn run(command: &ToctocCommand) -> Result<u8, NothingSent> {
    match command {
        ToctocCommand::Open(args) if args.classic => classic::open(args),
        ToctocCommand::Open(args) => sealed(&args.common, open(args)),
        ToctocCommand::Close(args) => sealed(&args.common, close(args)),
        ToctocCommand::Probe(args) => sealed(
            &args.common,
            SealedCommand { kind: KnockKind::Probe, ..SealedCommand::default() },
        ),
        ToctocCommand::Keygen(args) => {
            keys::keygen(args).map(|out| tell((out, String::new()))).map_err(usage(false))
        }
        ToctocCommand::Import(args) => keys::import(args).map(tell).map_err(usage(false)),
        ToctocCommand::Profiles { json } => keys::profiles(*json).map(tell).map_err(usage(*json)),
        ToctocCommand::Knock(args) => {
            let code = super::knock::main(args, &mut std::io::stdout(), &mut std::io::stderr())
                .map_err(usage(false))?;
            Ok(u8::try_from(code).unwrap_or(REFUSED))
        }
    }
}

/// What differs between the sealed commands.
struct SealedCommand {
    kind: KnockKind,
    service: Option<ServiceName>,
    seconds: u32,
    source: Option<IpAddr>,
    source_port: u16,
    ask_source: bool,
}

impl Default for SealedCommand {
    fn default() -> Self {
        Self {
            kind: KnockKind::Open,
            service: None,
            seconds: 0,
            source: None,
            source_port: 0,
            ask_source: false,
        }
    }
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
        ..SealedCommand::default()
    }
}

fn sealed(common: &Common, plan: SealedCommand) -> Result<u8, NothingSent> {
    let stop = usage(common.json);
    let (profile, path) = keys::profile(&common.profile).map_err(&stop)?;
    let family = family(common, plan.source);
    let wish = ClientRequest {
        kind: plan.kind,
        service: service(common, &plan, &profile).map_err(&stop)?,
        seconds: plan.seconds,
        source: plan.source,
        ask_source: plan.ask_source,
        source_port: plan.source_port,
        timeout: Duration::from_secs(common.timeout),
        attempts: common.attempts,
    };
    let signer = keys::signer(&profile, &path, common.identity.as_deref()).map_err(&stop)?;
    let gateways = resolve_gateway(&profile.addresses, profile.port, family)
        .map_err(|fault| NothingSent { fault, code: NO_WAY, json: common.json })?;
    let answers = ask_all(&profile, &signer, &wish, &gateways);
    let code = messages::code(&answers);
    if common.json {
        print(&format!("{:#}\n", messages::as_json(&common.profile, &wish, &answers)));
        return Ok(code);
    }
    tell(messages::describe(&common.profile, &profile, &wish, &answers));
    match &profile.fallback {
        Some(fallback)
            if code == NO_ANSWER && plan.kind == KnockKind::Open && classic::accepted(fallback) =>
        {
            classic::send(&profile, fallback, family, plan.source)
        }
        _ => Ok(code),
    }
}

/// Asks every address at once: one that is silent must not hold up the other.
fn ask_all(
    profile: &Profile,
    signer: &crate::keys::identity::Signer,
    wish: &ClientRequest,
    gateways: &[SocketAddr],
) -> Vec<GatewayResult> {
    let answered = OnceLock::new();
    std::thread::scope(|scope| {
        let start = |gateway: &SocketAddr| {
            let (gateway, answered) = (*gateway, &answered);
            scope.spawn(move || ask(profile, signer, wish, gateway, answered))
        };
        let threads: Vec<_> = gateways.iter().map(start).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

/// By which family to knock. An address of the other one may be named: whether it counts is for the
/// gateway's policy.
fn family(common: &Common, source: Option<IpAddr>) -> Option<AddressFamily> {
    match (common.ipv4, common.ipv6) {
        (true, _) => Some(AddressFamily::V4),
        (_, true) => Some(AddressFamily::V6),
        _ => source.map(AddressFamily::of),
    }
}

fn service(common: &Common, plan: &SealedCommand, profile: &Profile) -> Result<ServiceName, Fault> {
    if plan.kind == KnockKind::Probe {
        return Ok(ServiceName::NONE);
    }
    // A service that the profile does not list is no error: the gateway may have learnt of it
    // since.
    plan.service.or(profile.default_service).ok_or_else(|| {
        let known: Vec<&str> = profile.services.iter().map(ServiceName::as_str).collect();
        Fault::new(
            "which service? this profile has no default",
            format!("toctoc open {} SERVICE, one of: {}", common.profile, known.join(", ")),
        )
    })
}

fn tell((out, err): (String, String)) -> u8 {
    print(&out);
    eprint(&err);
    GRANTED
}

fn print(text: &str) {
    // A closed pipe (`| head`) is the reader's wish, not a fault.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn eprint(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
