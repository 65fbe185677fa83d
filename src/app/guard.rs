//! `toctocd guard`: turns the guard on or off, tries it, and shows it, with or without a running
//! gateway.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use super::admin::{self, GatewayStatus, ask_status, is_running};
use super::args::toctocd::GuardCommand;
use super::load::{self, Reach};
use super::output::{CommandOutput, FAILED, print, print_error};
use super::printed_guard;
use crate::config::{Mode, Service, Settings};
use crate::core::types::Fault;
use crate::edge::addresses;
use crate::edge::control::ControlRequest;
use crate::edge::event_loop::{self, next_signal};
use crate::edge::firewall::{self, Connection, GuardRules, GuardState, advice};

/// Interval at which a trial checks for grants.
const CHECK: Duration = Duration::from_millis(250);

/// Runs `toctocd guard`. Whatever is wrong with the configuration, the running gateway is asked,
/// and the guard can be turned off.
pub fn run(config: &Path, command: &GuardCommand, as_json: bool) -> Result<CommandOutput, Fault> {
    // Without the files that doors name: the guard must come up even if one of those is broken.
    let reach = load::reach(config);
    let text = match command {
        GuardCommand::On { confirm: Some(seconds) } => {
            // With --json only the end of the trial is the answer.
            let say = if as_json { print_error } else { print };
            return reach.note(on_trial(&reach, *seconds, &say));
        }
        GuardCommand::On { .. } => on(&reach),
        GuardCommand::Off => off(&reach),
        GuardCommand::Adopt => reach.all().and_then(adopt),
        GuardCommand::Status => status(&reach),
        GuardCommand::Print => reach.all().and_then(printed_guard::text),
    };
    reach.note(text.map(CommandOutput::out))
}

/// Asks the running gateway, because it manages the table. Without one, loads the guard directly.
fn on(reach: &Reach) -> Result<String, Fault> {
    let settings = &reach.settings;
    if is_running(&settings.gateway.control_socket) {
        return command(settings, &ControlRequest::GuardOn);
    }
    reach.all()?;
    firewall::start(&GuardRules::of(settings))?;
    Ok("the guard is up; no gateway is running, so nobody can get a grant\n".to_owned())
}

fn off(reach: &Reach) -> Result<String, Fault> {
    let settings = &reach.settings;
    let socket = &settings.gateway.control_socket;
    let mut by_gateway = None;
    if is_running(socket) {
        match command(settings, &ControlRequest::GuardOff) {
            Ok(text) => by_gateway = Some(text),
            // It died with the request unanswered: then nobody else turns the guard off.
            Err(_) if !is_running(socket) => {}
            Err(fault) => return Err(fault),
        }
    }
    let text = match by_gateway {
        Some(text) => text,
        None if !reach.is_trusted => {
            // Whoever wrote the file may have named somebody else's table.
            let fault = reach.all().err().unwrap_or_else(|| Fault::new("not trusted", ""));
            let remedy = "`nft delete table inet toctoc`, or whatever its name is, takes it away";
            return Err(Fault::new(fault.what, format!("{}; {remedy}", fault.remedy)));
        }
        None => {
            firewall::unload(&GuardRules::of(settings))?;
            "the guard is OFF until `toctocd guard on` or the next start\n".to_owned()
        }
    };
    match reach.doubt {
        None => Ok(text + &open_services(&settings.services)),
        Some(_) => Ok(text + "everything that it guarded is OPEN\n"),
    }
}

fn command(settings: &Settings, request: &ControlRequest) -> Result<String, Fault> {
    Ok(admin::command(settings, request)?.out.to_string())
}

/// Lets current connections continue. An intruder who connected while the guard was off is among
/// them, so every connection is printed.
fn adopt(settings: &Settings) -> Result<String, Fault> {
    let own: Vec<_> = addresses::own()?.into_iter().map(|own| own.address).collect();
    let adopted = firewall::adopt(&GuardRules::of(settings), &own)?;
    if adopted.is_empty() {
        return Ok("nothing to adopt: every connection to a guarded port has its mark\n".to_owned());
    }
    let mut text = String::new();
    for Connection { from, to, proto } in adopted {
        text += &format!("adopted {from} -> {to} ({})\n", proto.name());
    }
    Ok(text)
}

/// The grants that a gateway process has made so far. A new process starts at 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct GrantCount {
    pid: u32,
    granted: u64,
}

impl GrantCount {
    fn of(status: &GatewayStatus) -> Self {
        Self { pid: status.pid, granted: status.granted }
    }

    /// The grant to another machine since this count, if there is one and the guard is up.
    fn grant_since(self, status: &GatewayStatus) -> Option<&str> {
        let before = if status.pid == self.pid { self.granted } else { 0 };
        match status.guard && status.granted > before {
            true => Some(&status.last_granted),
            false => None,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum TrialOutcome {
    /// Another machine got a grant; the gateway's text about it.
    Confirmed(String),
    TimeIsOver,
    Interrupted,
}

/// Turns the guard on, and off again if no other machine gets a grant in time. This process
/// watches, not the gateway: if the gateway dies, its admin must not be locked out.
fn on_trial(reach: &Reach, seconds: u32, say: &dyn Fn(&str)) -> Result<CommandOutput, Fault> {
    let settings = &reach.settings;
    // A terminal that hangs up is no reason to stop watching: the guard may have cut it off.
    let signals = signals()?;
    let end = Instant::now() + Duration::from_secs(seconds.into());
    let was_running = is_running(&settings.gateway.control_socket);
    let before = match ask_status(settings) {
        Ok(status) => GrantCount::of(&status),
        Err(_) => GrantCount::default(),
    };
    match on(reach) {
        Ok(text) => say(&text),
        Err(fault) => {
            // A gateway that died while it answered may have left the guard up.
            if was_running && !is_running(&settings.gateway.control_socket) {
                say(&off(reach)?);
            }
            return Err(fault);
        }
    }
    say(&format!(
        "on trial for {seconds} s: knock from another machine, or the guard goes off again. To end \
         the trial now, press Ctrl-C twice\n"
    ));
    match watch(settings, before, end, &signals, say) {
        TrialOutcome::Confirmed(grant) => {
            return Ok(CommandOutput::out(format!("confirmed by {grant}: the guard stays\n")));
        }
        TrialOutcome::TimeIsOver => say(&format!("nobody got in within {seconds} s\n")),
        TrialOutcome::Interrupted => say("interrupted: the guard goes off\n"),
    }
    Ok(CommandOutput { code: FAILED, ..CommandOutput::out(off(reach)?) })
}

/// One Ctrl-C could be meant for something else, and would open everything at once: it is answered
/// with what a second one does.
fn watch(
    settings: &Settings, before: GrantCount, end: Instant, signals: &SignalFd, say: &dyn Fn(&str),
) -> TrialOutcome {
    let mut is_warned = false;
    loop {
        if let Ok(status) = ask_status(settings)
            && let Some(grant) = before.grant_since(&status)
        {
            return TrialOutcome::Confirmed(grant.to_owned());
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return TrialOutcome::TimeIsOver;
        }
        let wait = u16::try_from(left.min(CHECK).as_millis()).unwrap_or(u16::MAX);
        // An interrupted wait is only a shorter one.
        let _ = poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], wait.max(1));
        while let Some(signal) = next_signal(signals) {
            match signal {
                Signal::SIGHUP => {}
                Signal::SIGINT if !is_warned => {
                    is_warned = true;
                    say(&format!(
                        "the trial goes on for {} s. Ctrl-C again turns the guard OFF at once\n",
                        end.saturating_duration_since(Instant::now()).as_secs()
                    ));
                }
                _ => return TrialOutcome::Interrupted,
            }
        }
    }
}

fn signals() -> Result<SignalFd, Fault> {
    event_loop::signals(&[Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM]).map_err(|error| {
        Fault::new(format!("cannot wait for signals: {error}"), "the kernel needs CONFIG_SIGNALFD")
    })
}

fn status(reach: &Reach) -> Result<String, Fault> {
    let settings = &reach.settings;
    let state = firewall::look_at(&GuardRules::of(settings))?;
    let gateway = match is_running(&settings.gateway.control_socket) {
        true => Some(ask_status(settings)?),
        false => None,
    };
    Ok(status_text(reach, &state, gateway.as_ref()))
}

fn status_text(reach: &Reach, state: &GuardState, gateway: Option<&GatewayStatus>) -> String {
    let settings = &reach.settings;
    let guard = match (gateway, &state.misfit) {
        (Some(status), _) => admin::guard_text(status).to_owned(),
        (None, None) => "OFF: the table does not exist; what it guards is OPEN".to_owned(),
        (None, Some(_)) if reach.doubt.is_some() => "up, with which rules is not known".to_owned(),
        (None, Some(None)) => "up".to_owned(),
        (None, Some(Some(difference))) => format!("NOT AS CONFIGURED: {difference}"),
    };
    let manager = match gateway {
        Some(status) => format!("toctocd (pid {})", status.pid),
        None => "NOBODY: no gateway is running; grants end on time, and nobody gets a new one"
            .to_owned(),
    };
    let table = &settings.firewall.table;
    let mut text = format!("guard       {guard} (table inet {table})\nmanaged by  {manager}\n");
    for (mode, word) in [(Mode::Guard, "guards"), (Mode::Mark, "marks")] {
        for service in with_ports(&settings.services).filter(|service| service.mode == mode) {
            text += &format!("{word:10}  {}\n", service_text(service));
        }
    }
    if settings.services.iter().any(|service| service.mode == Mode::Mark) {
        text += &format!(
            "lets in     {}   (a rule that your firewall needs)\n",
            advice::let_marked_in(&settings.firewall)
        );
    }
    if reach.doubt.is_none()
        && let Some(problem) = printed_guard::problem(settings)
    {
        text += &format!("OUT OF DATE {problem}\n");
    }
    let addresses: Vec<String> =
        settings.firewall.break_glass.iter().map(ToString::to_string).collect();
    if !addresses.is_empty() {
        text += &format!("ALWAYS OPEN to {}\n", addresses.join(", "));
    }
    for other in &state.others {
        text += &format!(
            "LEFT OVER   table inet {other}: a guard that no gateway keeps; \
             `nft delete table inet {other}` removes it\n"
        );
    }
    for (chain, packets) in &state.dropped {
        if *packets > 0 {
            text += &format!("dropped     {packets} packets in {chain}\n");
        }
    }
    text
}

/// What is open while the guard is off.
fn open_services(services: &[Service]) -> String {
    let mut text = String::new();
    for service in with_ports(services) {
        text += match service.mode {
            Mode::Guard => "OPEN to everybody whom your own firewall lets in: ",
            Mode::Mark => "closed, as long as your own firewall drops it: ",
        };
        text += &format!("{}\n", service_text(service));
    }
    text
}

/// The services that the guard affects: those of commands have no ports.
fn with_ports(services: &[Service]) -> impl Iterator<Item = &Service> {
    services.iter().filter(|service| !service.ports.is_empty())
}

/// `22/tcp (ssh)`.
fn service_text(service: &Service) -> String {
    format!("{} ({})", service.ports.texts().join(" "), service.name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use nix::sys::signal::raise;

    use super::*;
    use crate::app::admin::tests::{RunningGateway, sound};
    use crate::config::native;

    /// A sound configuration: one guarded service, one in mark mode, one of commands.
    fn reach() -> Reach {
        Reach { settings: settings(), doubt: None, is_trusted: true }
    }

    fn settings() -> Settings {
        let text = "[service.ssh]\nports = [\"22/tcp\"]\n\
                    [service.web]\nports = [\"80/tcp\", \"443/tcp\"]\nmode = \"mark\"\n\
                    [service.vpn]\nstart = [\"/bin/true\"]\nstop = [\"/bin/true\"]\n";
        let mut settings = native::parse("t", text).unwrap();
        settings.firewall.printed = "/nonexistent/guard.nft".into();
        settings.gateway.control_socket = "/nonexistent/control".into();
        settings
    }

    fn state(misfit: Option<Option<&str>>) -> GuardState {
        let dropped = BTreeMap::from([("guard".into(), 12), ("other".into(), 0)]);
        let misfit = misfit.map(|why| why.map(str::to_owned));
        GuardState { misfit, dropped, others: vec!["old".into()] }
    }

    #[test]
    fn the_status_has_the_services_by_mode_and_the_dropped_packets() {
        let text = status_text(&reach(), &state(Some(None)), Some(&sound()));
        let mark = advice::let_marked_in(&settings().firewall);
        assert_eq!(
            text,
            format!(
                "guard       up (table inet toctoc)\nmanaged by  toctocd (pid 17)\n\
                 guards      22/tcp (ssh)\nmarks       80/tcp 443/tcp (web)\n\
                 lets in     {mark}   (a rule that your firewall needs)\n\
                 LEFT OVER   table inet old: a guard that no gateway keeps; \
                 `nft delete table inet old` removes it\n\
                 dropped     12 packets in guard\n"
            )
        );
    }

    #[test]
    fn without_a_gateway_the_kernel_says_how_the_guard_is() {
        let reach = reach();
        for (misfit, said) in [
            (None, "guard       OFF: the table does not exist; what it guards is OPEN"),
            (Some(None), "guard       up ("),
            (Some(Some("a rule is missing")), "guard       NOT AS CONFIGURED: a rule is missing"),
        ] {
            let text = status_text(&reach, &state(misfit), None);
            assert!(text.starts_with(said), "{text}");
            assert!(text.contains("managed by  NOBODY: no gateway is running"), "{text}");
        }
    }

    #[test]
    fn addresses_that_always_pass_are_shown() {
        let mut reach = reach();
        reach.settings.firewall.break_glass = vec!["192.0.2.1".parse().unwrap()];
        let text = status_text(&reach, &state(Some(None)), None);
        assert!(text.contains("ALWAYS OPEN to 192.0.2.1"), "{text}");
    }

    #[test]
    fn with_the_guard_off_guarded_ports_are_open_and_marked_ones_depend_on_the_admin() {
        assert_eq!(
            open_services(&settings().services),
            "OPEN to everybody whom your own firewall lets in: 22/tcp (ssh)\n\
             closed, as long as your own firewall drops it: 80/tcp 443/tcp (web)\n"
        );
    }

    #[test]
    fn on_and_off_go_through_the_running_gateway() {
        let gateway = RunningGateway::ok(serde_json::json!({ "said": "as you wish" }));
        let settings = Settings { services: settings().services, ..gateway.settings() };
        let reach = Reach { settings, ..reach() };
        assert_eq!(on(&reach).unwrap(), "as you wish\n");
        let off = off(&reach).unwrap();
        assert!(off.starts_with("as you wish\nOPEN to everybody"), "{off}");
        assert_eq!(gateway.requests(), [ControlRequest::GuardOn, ControlRequest::GuardOff]);
    }

    #[test]
    fn a_grant_counts_only_if_it_is_new_and_the_guard_is_up() {
        let status = sound();
        let before = |pid, granted| GrantCount { pid, granted };
        let grant = Some("anna: ssh for 192.0.2.7");
        assert_eq!(before(17, 2).grant_since(&status), grant);
        assert_eq!(before(17, 3).grant_since(&status), None, "an old grant");
        assert_eq!(before(16, 9).grant_since(&status), grant, "the gateway was restarted");
        assert_eq!(GrantCount::default().grant_since(&status), grant, "no gateway was running");
        let off = GatewayStatus { guard: false, ..status };
        assert_eq!(before(17, 2).grant_since(&off), None);
    }

    #[test]
    fn a_trial_is_confirmed_by_a_grant_and_ends_with_its_time() {
        let gateway = RunningGateway::ok(serde_json::to_value(sound()).unwrap());
        let signals = signals().unwrap();
        let watch = |before, time| {
            watch(&gateway.settings(), before, Instant::now() + time, &signals, &|_| ())
        };
        let confirmed = TrialOutcome::Confirmed("anna: ssh for 192.0.2.7".into());
        assert_eq!(watch(GrantCount::default(), Duration::from_secs(10)), confirmed);
        let now = GrantCount::of(&sound());
        assert_eq!(watch(now, Duration::from_millis(1)), TrialOutcome::TimeIsOver);
    }

    #[test]
    fn a_trial_survives_a_hangup_and_one_interrupt_which_is_told_what_the_next_one_does() {
        let settings = settings();
        let signals = signals().unwrap();
        let said = std::cell::RefCell::new(String::new());
        let say = |text: &str| said.borrow_mut().push_str(text);
        let before = GrantCount::default();
        raise(Signal::SIGHUP).unwrap();
        raise(Signal::SIGINT).unwrap();
        let soon = Instant::now() + Duration::from_millis(300);
        assert_eq!(watch(&settings, before, soon, &signals, &say), TrialOutcome::TimeIsOver);
        assert!(said.borrow().contains("Ctrl-C again turns the guard OFF"), "{said:?}");
        let late = Instant::now() + Duration::from_secs(60);
        raise(Signal::SIGTERM).unwrap();
        assert_eq!(watch(&settings, before, late, &signals, &say), TrialOutcome::Interrupted);
    }

    #[test]
    fn a_second_interrupt_ends_a_trial() {
        let settings = settings();
        let signals = signals().unwrap();
        let late = Instant::now() + Duration::from_secs(60);
        raise(Signal::SIGINT).unwrap();
        // The first is answered, and its answer brings the second.
        let say = |_: &str| raise(Signal::SIGINT).unwrap();
        let outcome = watch(&settings, GrantCount::default(), late, &signals, &say);
        assert_eq!(outcome, TrialOutcome::Interrupted);
    }

    #[test]
    fn with_a_broken_configuration_the_guard_goes_on_and_off_by_the_running_gateway_alone() {
        let gateway = RunningGateway::ok(serde_json::json!({ "said": "as you wish" }));
        let doubt = || Some(Fault::new("t.toml:1:1: broken", "fix it"));
        let broken = Reach { settings: gateway.settings(), doubt: doubt(), is_trusted: false };
        assert_eq!(on(&broken).unwrap(), "as you wish\n");
        let off_text = off(&broken).unwrap();
        assert_eq!(off_text, "as you wish\neverything that it guarded is OPEN\n");
        let stopped = Reach { settings: settings(), doubt: doubt(), is_trusted: false };
        assert_eq!(on(&stopped).unwrap_err().what, "t.toml:1:1: broken");
        // The name of the table may be anybody's.
        let fault = off(&stopped).unwrap_err();
        assert!(fault.remedy.contains("nft delete table"), "{fault}");
    }
}
