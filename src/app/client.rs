//! The program `toctoc`: its commands and exit codes.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::json;

use super::args::toctoc::{Common, Join, ToctocCommand};
use super::compat;
use super::complete::{self, CommandLine};
use super::knock;
use super::output::{CommandOutput, fault_json, for_people, service_list};
use super::paths::UserPaths;
use crate::app::waiting::Waiting;
use crate::core::bytes::saturated_u32;
use crate::core::exchange::ClientRequest;
use crate::core::knock::KnockKind;
use crate::core::types::{Fault, FaultKind, ServiceName};
use crate::edge::names::{AddressFamily, resolve_gateway};
use crate::edge::terminal;
use crate::edge::{interrupt, program};
use ask::{ExchangeOutcome, GatewayResult, ask};
use join::{JoinOutcome, Joiner};
use messages::ExchangeReport;
use signer::{HeldProfile, Signer};

mod answer;
mod ask;
mod audit;
mod classic;
mod completion;
mod connect;
mod convert;
mod doctor;
mod import;
mod join;
mod keys;
mod messages;
mod profiles;
mod refusal;
mod remove;
mod session;
mod signer;
mod ssh_config;

pub use answer::{Answer, Answers, GrantText, Outcome, Overall};
pub use join::{JoinRefusal, JoinSilence};
pub use messages::{GrantedKnock, duration_text, silence_line};
pub use refusal::{Refusal, RefusedKnock};
pub use session::{Joined, Listed, ListedState, Ready, Session};

/// Granted, closed, or the probe was answered.
const DONE: u8 = 0;
/// The gateway refused, and said why.
const REFUSED: u8 = 1;
/// Wrong usage, profile or key: nothing was sent.
const USAGE: u8 = 2;
/// No answer: the result is unknown.
const NO_ANSWER: u8 = 3;
/// Nothing could be sent, or the granted service does not answer.
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
    interrupt::watch();
    let command: ToctocCommand = match super::args::parse() {
        Ok(command) => command,
        Err(code) => return code,
    };
    let mut console = Console {
        paths,
        fits_out: std::io::stdout().is_terminal(),
        fits_err: std::io::stderr().is_terminal(),
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
    /// True at a terminal: then lines are broken to fit.
    fits_out: bool,
    fits_err: bool,
    confirm: &'a dyn Fn(&str) -> bool,
}

impl Console<'_> {
    fn run(&mut self, command: &ToctocCommand) -> u8 {
        match self.try_run(command) {
            Ok(code) => code,
            Err(fault) => {
                if command.wants_json() {
                    self.print_data(&format!("{:#}\n", fault_json(&fault)));
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
                let knock = prepare(&self.paths, &args.common, request, args.service)?;
                if !args.command.is_empty() {
                    return self.open_and_run(&knock, &args.command);
                }
                return self.report(&knock, args.json);
            }
            ToctocCommand::Close(args) => {
                let request = ClientRequest {
                    source: args.source,
                    ask_source: args.ask_source,
                    ..request(KnockKind::Close, &args.common)
                };
                let knock = prepare(&self.paths, &args.common, request, args.service)?;
                return self.report(&knock, args.json);
            }
            ToctocCommand::Probe(args) => {
                let request = request(KnockKind::Probe, &args.common);
                let knock = prepare(&self.paths, &args.common, request, None)?;
                return self.report(&knock, args.json);
            }
            ToctocCommand::Connect(args) => return self.connect(args),
            ToctocCommand::Doctor(args) => return Ok(self.doctor(args)),
            ToctocCommand::Audit(args) => audit::audit(&self.paths, args)?,
            ToctocCommand::SshConfig(args) => ssh_config::ssh_config(&self.paths, args)?,
            ToctocCommand::Join(args) => return self.join(args),
            ToctocCommand::Keygen(args) => keys::keygen(&self.paths, args)?,
            ToctocCommand::Import(args) => {
                import::import(&self.paths, args, &mut std::io::stdin().lock())?
            }
            ToctocCommand::List { .. } => profiles::show(&self.paths)?,
            ToctocCommand::Default { target, .. } => {
                profiles::set_default(&self.paths, target.as_ref())?
            }
            ToctocCommand::Remove { profile, yes, .. } => {
                remove::existing(&self.paths, profile)?;
                if !yes && !(self.confirm)(&remove::question(profile)) {
                    let remedy = format!("toctoc remove {profile} --yes");
                    return Err(Fault::new("not confirmed; nothing was removed", remedy));
                }
                remove::remove(&self.paths, profile)?
            }
            ToctocCommand::Convert { file, .. } => {
                convert::show(self.paths.home.as_deref(), file.as_deref())?
            }
            ToctocCommand::Knock(args) => {
                let Some(fault) = knock::main(args, self.out)? else { return Ok(knock::SENT) };
                self.print("", &format!("toctoc: {fault}\n"));
                return Ok(knock::NOT_SENT);
            }
        };
        Ok(self.finish(&output, command.wants_json()))
    }

    /// Prints the output of a command, for people or for a program, and returns its exit code.
    fn finish(&mut self, output: &CommandOutput, as_json: bool) -> u8 {
        if as_json {
            self.print_data(&output.json());
            self.print("", output.beside_json());
            return output.code;
        }
        match output.is_data {
            true => self.print_data(&output.out),
            false => self.print(&output.out, ""),
        }
        self.print("", &output.err);
        output.code
    }

    /// Enrols a key by an invitation. Waits for approval, unless that would take a touch each time.
    fn join(&mut self, args: &Join) -> Result<u8, Fault> {
        if args.line.as_deref().is_some_and(|line| line != "-") {
            self.print("", join::SEEN);
        }
        let line = join::read_line(args.line.as_deref())?;
        if args.identity.is_none() && signer::usual_key(&self.paths)?.is_none() {
            let made = keys::keygen(&self.paths, &join::new_key(args.no_passphrase))?;
            self.print("", made.out.lines().next().unwrap_or_default());
            self.print("", "\n");
        }
        let mut joiner = Joiner::new(&self.paths, args, &line)?;
        drop(line);
        self.print("", &joiner.words());
        let mut is_pending = false;
        loop {
            match joiner.ask(&self.paths)? {
                JoinOutcome::Joined => return self.joined(joiner, args.json),
                JoinOutcome::Pending if !is_pending => {
                    is_pending = true;
                    match args.json {
                        true => self.print("", &joiner.pending_text()),
                        false => self.print(&joiner.pending_text(), ""),
                    }
                }
                JoinOutcome::Pending => {}
                JoinOutcome::NoAnswer(..) if is_pending => {}
                JoinOutcome::Refused(_, words) => {
                    return Ok(self.not_joined(&words, REFUSED, args.json));
                }
                JoinOutcome::NoAnswer(_, words) => {
                    return Ok(self.not_joined(&words, NO_ANSWER, args.json));
                }
            }
            let later = joiner.later();
            if args.no_wait || joiner.wants_touch() {
                self.print("", &format!("{later}\n"));
                if args.json {
                    self.print_data(&format!("{:#}\n", json!([joiner.list_json()])));
                }
                return Ok(REFUSED);
            }
            interrupt::say(&format!(": your key still waits\n  {later}"));
            let _waiting = Waiting::begin("waiting for approval".to_owned());
            std::thread::sleep(join::PAUSE);
        }
    }

    /// Says why somebody has not joined: the first line is what happened.
    fn not_joined(&mut self, words: &str, code: u8, as_json: bool) -> u8 {
        let words = words.trim_end();
        if !as_json {
            self.print("", &format!("{words}\n"));
            return code;
        }
        let (what, remedy) = words.split_once('\n').unwrap_or((words, ""));
        let remedy: Vec<&str> = remedy.lines().map(str::trim).collect();
        let fault = Fault::new(what, remedy.join("\n"));
        self.print_data(&format!("{:#}\n", fault_json(&fault)));
        code
    }

    /// Says that somebody has joined, and offers the lines with which plain ssh knocks first.
    fn joined(&mut self, joiner: Joiner, as_json: bool) -> Result<u8, Fault> {
        let held = joiner.into_held();
        if as_json {
            let list = profiles::json_of(&self.paths, &held)?;
            self.print_data(&format!("{list:#}\n"));
            return Ok(DONE);
        }
        let name = held.name.clone();
        let until = match profiles::seconds_left(&held.profile) {
            Some(left) => format!(" until {}", profiles::end_text(&held.profile, left)),
            None => String::new(),
        };
        let services = service_list(&held.profile.services);
        self.print(&format!("joined: `{name}` opens {services}{until}\n"), "");
        let question =
            format!("Let plain `ssh {name}` knock first? (toctoc ssh-config can undo it)");
        if (self.confirm)(&question) {
            match ssh_config::install(&self.paths, &held, None, false) {
                Ok(done) => {
                    self.print(&done.out, &done.err);
                    return Ok(done.code);
                }
                Err(fault) => self.print("", &format!("{fault}\n")),
            }
        }
        self.print(&format!("next: toctoc ssh-config {name} --install   # then: ssh {name}\n"), "");
        Ok(DONE)
    }

    /// Knocks, and becomes `command` if the service is open over one address at least.
    fn open_and_run(&mut self, knock: &PreparedKnock, command: &[OsString]) -> Result<u8, Fault> {
        let results = knock.send()?;
        let CommandOutput { out, err, code, .. } = knock.report(&results).output();
        // Standard output belongs to the command.
        self.print("", &out);
        self.print("", &err);
        match code {
            DONE | PARTLY => program::run(command),
            _ => Ok(code),
        }
    }

    /// Knocks, and prints what came of it.
    fn report(&mut self, knock: &PreparedKnock, as_json: bool) -> Result<u8, Fault> {
        let results = knock.send()?;
        let report = knock.report(&results);
        if as_json {
            self.print_data(&format!("{:#}\n", report.json()));
            return Ok(report.code());
        }
        let CommandOutput { out, err, code, .. } = report.output();
        self.print(&out, &err);
        if code == NO_ANSWER
            && knock.request.kind == KnockKind::Open
            && let Some(fallback) = &knock.held.profile.fallback
            && fallback.offer
            && (self.confirm)(classic::QUESTION)
        {
            let profile = &knock.held.profile;
            let sent = classic::send(profile, fallback, knock.family, knock.request.source)?;
            self.print(&sent.out, &sent.err);
            return Ok(sent.code);
        }
        Ok(code)
    }

    /// Prints both texts. A closed pipe (`| head`) is no error: the reader wanted no more.
    fn print(&mut self, out: &str, err: &str) {
        let _ = self.out.write_all(for_people(out, self.fits_out).as_bytes());
        let _ = self.err.write_all(for_people(err, self.fits_err).as_bytes());
    }

    /// Prints what is for a program.
    fn print_data(&mut self, out: &str) {
        let _ = self.out.write_all(out.as_bytes());
    }
}

/// Finds profile, key and addresses for `request`, which is for `service` or the default one.
fn prepare(
    paths: &UserPaths, common: &Common, mut request: ClientRequest, service: Option<ServiceName>,
) -> Result<PreparedKnock, Fault> {
    let target = common.target.as_ref();
    let held = profiles::chosen(paths, target)?;
    let verb = match request.kind {
        KnockKind::Open => Some("open"),
        KnockKind::Close => Some("close"),
        KnockKind::Probe | KnockKind::Time | KnockKind::Join => None,
    };
    if let Some(verb) = verb {
        request.service = profiles::service(verb, target, service, &held)?;
    }
    profiles::refuse_expired(&held)?;
    let family = family(common, request.source);
    let signer = signer::signer(paths, &held, common.identity.as_deref())?;
    let profile = &held.profile;
    let _waiting = Waiting::begin(format!("looking up {}", profile.addresses.join(", ")));
    let gateways = resolve_gateway(&profile.addresses, profile.port, family)?;
    Ok(PreparedKnock { held, request, signer, family, gateways })
}

fn request(kind: KnockKind, common: &Common) -> ClientRequest {
    ClientRequest::new(kind, Duration::from_secs(common.timeout), common.attempts)
}

/// A sealed command that can be sent: all that the network is not needed for is found and checked.
struct PreparedKnock {
    held: HeldProfile,
    request: ClientRequest,
    signer: Signer,
    family: Option<AddressFamily>,
    /// At least one.
    gateways: Vec<SocketAddr>,
}

/// When an address of the gateway is asked.
#[derive(Clone, Copy)]
struct Turn {
    gateway: SocketAddr,
    /// After the first ones.
    delay: Duration,
}

impl PreparedKnock {
    /// Asks the first address of each family at once, so that a silent one does not delay the
    /// other, and each further one a timeout later, until one has answered. With a key that wants a
    /// touch: one after the other, for nobody wants to touch it twice.
    /// Error: nothing could be signed.
    fn send(&self) -> Result<Vec<GatewayResult>, Fault> {
        interrupt::say(&self.words_for_an_interrupt());
        let answered = &OnceLock::new();
        let mut earlier = [0; 2];
        let mut first = Vec::new();
        let mut turns = Vec::new();
        let mut not_tried = Vec::new();
        for gateway in self.gateways.iter().copied() {
            let before = &mut earlier[usize::from(gateway.is_ipv6())];
            if *before >= TRIED {
                not_tried.push(GatewayResult::not_tried(gateway));
                continue;
            }
            if *before == 0 {
                first.push(gateway.ip().to_string());
            }
            turns.push(Turn { gateway, delay: self.request.timeout * saturated_u32(*before) });
            *before += 1;
        }
        let mut results = match self.signer.wants_touch() {
            true => self.ask_in_turn(&turns, answered),
            false => {
                let _waiting = Waiting::begin(format!("waiting for {}", first.join(" and ")));
                self.ask_at_once(&turns, answered)
            }
        };
        results.extend(not_tried);
        match unsigned(&results) {
            Some(fault) => Err(fault.clone()),
            None => Ok(results),
        }
    }

    fn ask_in_turn(&self, turns: &[Turn], answered: &OnceLock<Instant>) -> Vec<GatewayResult> {
        let ask = |turn: &Turn| match answered.get() {
            Some(_) => GatewayResult::not_tried(turn.gateway),
            None => self.ask(Turn { delay: Duration::ZERO, ..*turn }, answered),
        };
        turns.iter().map(ask).collect()
    }

    /// The first one in this thread: to start another takes longer than to make a knock.
    fn ask_at_once(&self, turns: &[Turn], answered: &OnceLock<Instant>) -> Vec<GatewayResult> {
        let Some((first, others)) = turns.split_first() else { return Vec::new() };
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                others.iter().map(|turn| scope.spawn(move || self.ask(*turn, answered))).collect();
            let mut results = vec![self.ask(*first, answered)];
            results.extend(threads.into_iter().filter_map(|thread| thread.join().ok()));
            results
        })
    }

    fn ask(&self, Turn { gateway, delay }: Turn, answered: &OnceLock<Instant>) -> GatewayResult {
        ask(&self.held.profile, &self.signer, &self.request, gateway, delay, answered)
    }

    fn report<'a>(&'a self, results: &'a [GatewayResult]) -> ExchangeReport<'a> {
        ExchangeReport {
            name: &self.held.name,
            profile: &self.held.profile,
            request: &self.request,
            results,
        }
    }

    fn words_for_an_interrupt(&self) -> String {
        match self.request.kind {
            KnockKind::Open => format!(
                ": the knock may have been granted\n  it ends by itself, or now: \
                 toctoc close {} {}",
                self.held.name, self.request.service
            ),
            KnockKind::Close => ": the grant may still last; close it again".to_owned(),
            KnockKind::Join => ": you may be enrolled; run it again with the same line".to_owned(),
            KnockKind::Probe | KnockKind::Time => ": nothing was opened".to_owned(),
        }
    }
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

#[cfg(test)]
mod tests;
