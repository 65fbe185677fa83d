//! `toctocd guard`: the guard put up, tried, taken away and shown, with or without a running
//! gateway. What stands in the kernel is left to `edge::firewall`, what a running gateway does to
//! `gatekeeper`.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd;

use super::admin::{self, ask_status, print, runs};
use super::args::toctocd::GuardCommand;
use super::daemon::{DONE, FAILED, WRONG, finish};
use super::load;
use crate::config::{Mode, Service, Settings};
use crate::core::types::Fault;
use crate::edge::addresses;
use crate::edge::control::ControlRequest;
use crate::edge::files::{self, FileCheck};
use crate::edge::firewall::{self, Connection, GuardRules, GuardState, advice};

/// How often a trial asks whether somebody got in.
const ASK: Duration = Duration::from_millis(250);

/// Does what `toctocd guard` was told; answers the exit code.
pub fn run(config: &Path, command: &GuardCommand) -> u8 {
    // Not the doors: the guard must come up although some other file is broken.
    let settings = match load::native(config) {
        Ok(settings) => settings,
        Err(fault) => return finish(Err(fault), WRONG),
    };
    match command {
        GuardCommand::On { confirm: None } => finish(on(&settings).map(|()| DONE), FAILED),
        GuardCommand::On { confirm: Some(seconds) } => {
            finish(on_trial(&settings, *seconds), FAILED)
        }
        GuardCommand::Off => finish(off(&settings).map(|()| DONE), FAILED),
        GuardCommand::Adopt => finish(adopt(&settings).map(|()| DONE), FAILED),
        GuardCommand::Status => finish(status(&settings).map(|()| DONE), FAILED),
        GuardCommand::Print => finish(ruleset(&settings).map(|()| DONE), FAILED),
    }
}

/// Through the gateway that runs, for it keeps the table; else by ourselves, and then nobody keeps
/// it.
fn on(settings: &Settings) -> Result<(), Fault> {
    if runs(&settings.gateway.control_socket) {
        return admin::tell(settings, &ControlRequest::GuardOn);
    }
    firewall::start(&GuardRules {
        firewall: settings.firewall.clone(),
        services: settings.services.clone(),
        knock: settings.knock.clone(),
    })?;
    print("the guard is up; no gateway runs, so nobody can be granted anything yet\n");
    Ok(())
}

fn off(settings: &Settings) -> Result<(), Fault> {
    if runs(&settings.gateway.control_socket) {
        admin::tell(settings, &ControlRequest::GuardOff)?;
    } else {
        firewall::unload(&settings.firewall, &settings.services, &settings.knock)?;
        print("the guard is OFF until `toctocd guard on` or the next start\n");
    }
    print(&opens(&settings.services));
    Ok(())
}

/// Lets what stands go on. Whoever slipped in while the guard was away is let in too: so it says
/// whom.
fn adopt(settings: &Settings) -> Result<(), Fault> {
    let own: Vec<_> = addresses::own()?.into_iter().map(|own| own.address).collect();
    let adopted = firewall::adopt(&settings.firewall, &settings.services, &settings.knock, &own)?;
    if adopted.is_empty() {
        print("nothing to adopt: no connection to a guarded port stands without a mark\n");
    }
    for Connection { from, to, proto } in adopted {
        print(&format!("adopted {from} -> {to} ({})\n", proto.name()));
    }
    Ok(())
}

/// Who had granted how often, when last asked: a gateway counts from its own start.
#[derive(Clone, Copy, Default, PartialEq)]
struct GrantCount {
    pid: u32,
    granted: u64,
}

/// How a trial ended.
enum TrialOutcome {
    /// Somebody elsewhere got in: who.
    Confirmed(String),
    TimeIsOver,
    Interrupted,
}

/// Puts the guard up, and takes it away again if nobody elsewhere gets in in time. We see to that
/// ourselves, not the gateway: it may die, and this must not be what locks its admin out.
fn on_trial(settings: &Settings, seconds: u32) -> Result<u8, Fault> {
    // A session that stands still may hang up: that is no reason to stop watching.
    let signals = signals()?;
    let end = Instant::now() + Duration::from_secs(seconds.into());
    let begin = ask_status(settings)
        .map_or_else(|_| GrantCount::default(), |s| GrantCount { pid: s.pid, granted: s.granted });
    on(settings)?;
    print(&format!(
        "on trial for {seconds} s: knock from another machine, or the guard goes away again\n"
    ));
    match watch(settings, begin, end, &signals) {
        TrialOutcome::Confirmed(who) => {
            print(&format!("confirmed by {who}: the guard stays\n"));
            Ok(DONE)
        }
        TrialOutcome::TimeIsOver => {
            print(&format!("nobody got in within {seconds} s\n"));
            off(settings).map(|()| FAILED)
        }
        TrialOutcome::Interrupted => {
            print("interrupted\n");
            off(settings).map(|()| FAILED)
        }
    }
}

fn watch(settings: &Settings, begin: GrantCount, end: Instant, signals: &SignalFd) -> TrialOutcome {
    loop {
        if let Ok(status) = ask_status(settings) {
            let before = if status.pid == begin.pid { begin.granted } else { 0 };
            if status.granted > before && status.guard {
                return TrialOutcome::Confirmed(status.last_granted);
            }
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return TrialOutcome::TimeIsOver;
        }
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let wait = u16::try_from(left.min(ASK).as_millis()).unwrap_or(u16::MAX);
        let woken = poll(&mut fds, wait.max(1));
        while let Ok(Some(info)) = signals.read_signal() {
            if i32::try_from(info.ssi_signo) != Ok(Signal::SIGHUP as i32) {
                return TrialOutcome::Interrupted;
            }
        }
        if woken.is_err() {
            std::thread::yield_now();
        }
    }
}

fn signals() -> Result<SignalFd, Fault> {
    let mut mask = SigSet::empty();
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM]
        .into_iter()
        .for_each(|signal| mask.add(signal));
    mask.thread_block()
        .and_then(|()| SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC))
        .map_err(|e| {
            Fault::new(
                format!("signals cannot be waited for: {e}"),
                "the kernel needs CONFIG_SIGNALFD",
            )
        })
}

fn ruleset(settings: &Settings) -> Result<(), Fault> {
    let text = firewall::print_ruleset(&settings.firewall, &settings.services, &settings.knock)?;
    print(&format!(
        "# The guard of toctoc without its grants, by `toctocd guard print`. In nftables.conf, after `flush ruleset`:\n\
         #   include \"{}\"\n\
         # Print it again whenever a service, break_glass, knock.silent or [firewall] changes.\n{text}",
        settings.firewall.printed.display()
    ));
    Ok(())
}

/// What is wrong with the text that nftables.conf includes, if it is where it should be: what it
/// guards is not what is guarded now, so the next `flush ruleset` would open something, or shut
/// what is none of ours.
pub fn stale(settings: &Settings) -> Option<String> {
    let path = &settings.firewall.printed;
    if !path.exists() {
        return None;
    }
    let again = format!("toctocd guard print >{}", path.display());
    let text = match files::read(path, FileCheck::Trusted) {
        Ok(text) => text,
        Err(fault) => {
            return Some(format!(
                "the printed guard cannot be trusted: {}; {}",
                fault.what, fault.remedy
            ));
        }
    };
    let now =
        firewall::print_ruleset(&settings.firewall, &settings.services, &settings.knock).ok()?;
    // Comments may be of another version, or somebody's own.
    let rules = |text: &str| {
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
    };
    let stale = rules(&text) != rules(&now);
    stale.then(|| format!("{} is not the guard as it is now: `{again}`", path.display()))
}

fn status(settings: &Settings) -> Result<(), Fault> {
    let GuardState { misfit, dropped } =
        firewall::look_at(&settings.firewall, &settings.services, &settings.knock)?;
    let keeper =
        runs(&settings.gateway.control_socket).then(|| ask_status(settings)).transpose()?;
    let stands = match (&keeper, &misfit) {
        (Some(status), _) => admin::guard_words(status).to_owned(),
        (None, None) => "OFF: there is no such table; what it guards is OPEN".to_owned(),
        (None, Some(None)) => "up".to_owned(),
        (None, Some(Some(why))) => format!("NOT AS CONFIGURED: {why}"),
    };
    let mut text = format!("guard       {stands} (table inet {})\n", settings.firewall.table);
    text += &match keeper {
        Some(status) => format!("kept by     toctocd (pid {})\n", status.pid),
        None => {
            "kept by     NOBODY: no gateway runs; grants end on time, and nobody gets a new one\n"
                .to_owned()
        }
    };
    for (mode, word) in [(Mode::Guard, "guards"), (Mode::Mark, "marks")] {
        for service in settings
            .services
            .iter()
            .filter(|service| service.mode == mode && !service.ports.is_empty())
        {
            text += &format!("{word:10}  {}\n", words(service));
        }
    }
    if settings.services.iter().any(|service| service.mode == Mode::Mark) {
        text += &format!(
            "lets in     {}   (a rule that your firewall needs)\n",
            advice::let_marked_in(&settings.firewall).nft
        );
    }
    if let Some(stale) = stale(settings) {
        text += &format!("OUT OF DATE {stale}\n");
    }
    let addresses: Vec<String> =
        settings.firewall.break_glass.iter().map(ToString::to_string).collect();
    if !addresses.is_empty() {
        text += &format!("ALWAYS OPEN to {}\n", addresses.join(", "));
    }
    for (chain, packets) in dropped.iter().filter(|(_, packets)| **packets > 0) {
        text += &format!("dropped     {packets} packets in {chain}\n");
    }
    print(&text);
    Ok(())
}

/// What is open to whom without the guard.
fn opens(services: &[Service]) -> String {
    let line = |service: &Service| match service.mode {
        Mode::Guard => {
            format!("OPEN to everybody whom your own firewall lets in: {}\n", words(service))
        }
        Mode::Mark => format!("shut, as long as your own firewall drops it: {}\n", words(service)),
    };
    // What commands open does not hang on the guard.
    services.iter().filter(|service| !service.ports.is_empty()).map(line).collect()
}

fn words(service: &Service) -> String {
    let ports: Vec<String> = service.ports.iter().map(ToString::to_string).collect();
    format!("{} ({})", ports.join(" "), service.name)
}
