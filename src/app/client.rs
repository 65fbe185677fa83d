//! `toctoc`: knocks, and says in words how it ended.
//! The conversation with the gateway is left to `ask`, files to `keys`, sentences to `words`, the sequence of a door to `classic`.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use clap::Parser;

use super::args::toctoc::{Args, Close, Command, Common, Open};
use super::compat;
use crate::core::knock::Kind;
use crate::core::types::{Fault, ServiceName};
use crate::edge::send::{Family, resolve};
use crate::keys::profile::Profile;
use ask::{Answer, Wish, ask};

mod ask;
mod classic;
mod keys;
mod words;

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
    let args = Args::parse();
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
struct Stop {
    fault: Fault,
    code: u8,
    json: bool,
}

fn usage(json: bool) -> impl Fn(Fault) -> Stop {
    move |fault| Stop { fault, code: USAGE, json }
}

fn run(command: &Command) -> Result<u8, Stop> {
    match command {
        Command::Open(args) if args.classic => classic::open(args),
        Command::Open(args) => sealed(&args.common, open(args)),
        Command::Close(args) => sealed(&args.common, close(args)),
        Command::Probe(args) => sealed(&args.common, Plan { kind: Kind::Probe, ..Plan::default() }),
        Command::Keygen(args) => keys::keygen(args).map(|out| tell((out, String::new()))).map_err(usage(false)),
        Command::Import(args) => keys::import(args).map(tell).map_err(usage(false)),
        Command::Profiles { json } => keys::profiles(*json).map(tell).map_err(usage(*json)),
        Command::Knock(args) => {
            let code =
                super::knock::main(args, &mut std::io::stdout(), &mut std::io::stderr()).map_err(usage(false))?;
            Ok(u8::try_from(code).unwrap_or(REFUSED))
        }
    }
}

/// What differs between the sealed commands.
struct Plan {
    kind: Kind,
    service: Option<ServiceName>,
    seconds: u32,
    source: Option<IpAddr>,
    source_port: u16,
    ask_source: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self { kind: Kind::Open, service: None, seconds: 0, source: None, source_port: 0, ask_source: false }
    }
}

fn open(args: &Open) -> Plan {
    Plan {
        kind: Kind::Open,
        service: args.service,
        seconds: args.seconds.unwrap_or(0),
        source: args.source,
        source_port: args.source_port.unwrap_or(0),
        ask_source: args.ask_source,
    }
}

fn close(args: &Close) -> Plan {
    Plan {
        kind: Kind::Close,
        service: args.service,
        source: args.source,
        ask_source: args.ask_source,
        ..Plan::default()
    }
}

fn sealed(common: &Common, plan: Plan) -> Result<u8, Stop> {
    let stop = usage(common.json);
    let (profile, path) = keys::profile(&common.profile).map_err(&stop)?;
    let family = family(common, plan.source);
    let wish = Wish {
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
    let gateways = resolve(&profile.addresses, profile.port, family).map_err(|fault| Stop {
        fault,
        code: NO_WAY,
        json: common.json,
    })?;
    let answers = ask_all(&profile, &signer, &wish, &gateways);
    let code = words::code(&answers);
    if common.json {
        print(&format!("{:#}\n", words::as_json(&common.profile, &wish, &answers)));
        return Ok(code);
    }
    tell(words::say(&common.profile, &profile, &wish, &answers));
    match &profile.fallback {
        Some(fallback) if code == NO_ANSWER && plan.kind == Kind::Open && classic::accepted(fallback) => {
            classic::send(&profile, fallback, family, plan.source)
        }
        _ => Ok(code),
    }
}

/// Asks every address at once: one that is silent must not hold up the other.
fn ask_all(
    profile: &Profile,
    signer: &crate::keys::identity::Signer,
    wish: &Wish,
    gateways: &[SocketAddr],
) -> Vec<Answer> {
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

/// By which family to knock. An address of the other one may be named: whether it counts is for the gateway's policy.
fn family(common: &Common, source: Option<IpAddr>) -> Option<Family> {
    match (common.ipv4, common.ipv6) {
        (true, _) => Some(Family::V4),
        (_, true) => Some(Family::V6),
        _ => source.map(Family::of),
    }
}

fn service(common: &Common, plan: &Plan, profile: &Profile) -> Result<ServiceName, Fault> {
    if plan.kind == Kind::Probe {
        return Ok(ServiceName::NONE);
    }
    // A service that the profile does not list is no error: the gateway may have learnt of it since.
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
