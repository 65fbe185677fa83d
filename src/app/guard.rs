//! `toctocd guard`: turns the guard on or off, tries it, and shows it, with or without a running
//! gateway.

use std::path::Path;
use std::time::Duration;

use super::admin::{self, GatewayStatus, TrialState, ask_status, is_running};
use super::args::toctocd::GuardCommand;
use super::load::{self, Reach};
use super::output::{CommandOutput, FAILED, print_error, tell};
use super::printed_guard;
use crate::config::{Mode, Service, Settings};
use crate::core::types::{Fault, SECOND};
use crate::edge::control::ControlRequest;
use crate::edge::firewall::{self, Connection, GuardRules, GuardState, advice};
use crate::edge::{addresses, clock, interrupt, terminal};

/// Interval at which the command looks how the trial goes.
const CHECK: Duration = Duration::from_millis(250);

/// Runs `toctocd guard`. Whatever is wrong with the configuration, the running gateway is asked,
/// and the guard can be turned off.
pub fn run(config: &Path, command: &GuardCommand, as_json: bool) -> Result<CommandOutput, Fault> {
    // Without the files that doors name: the guard must come up even if one of those is broken.
    let reach = load::reach(config);
    let text = match command {
        GuardCommand::Print => {
            let text = reach.all().and_then(printed_guard::text);
            return reach.note(text.map(CommandOutput::data));
        }
        GuardCommand::On { confirm: Some(seconds @ 1..) } => {
            // With --json only the end of the trial is the answer.
            let say = if as_json { print_error } else { tell };
            interrupt::watch_for_admin();
            let adopts = !as_json && wants_adoption(&reach.settings);
            return reach.note(on_trial(&reach, *seconds, adopts, &say));
        }
        GuardCommand::On { confirm } => {
            let adopts = !as_json && wants_adoption(&reach.settings);
            on(&reach, *confirm).map(|text| text + &adopted(&reach, adopts))
        }
        GuardCommand::Off => off(&reach),
        GuardCommand::Adopt => reach.all().and_then(adopt),
        GuardCommand::Status => status(&reach),
    };
    reach.note(text.map(CommandOutput::out))
}

/// Asks the running gateway, because it manages the table. Without one, loads the guard directly.
/// `confirm`: the seconds of a trial that begins now; 0 ends one that is under way.
pub fn on(reach: &Reach, confirm: Option<u32>) -> Result<String, Fault> {
    let settings = &reach.settings;
    if is_running(&settings.gateway.control_socket) {
        return command(settings, &ControlRequest::GuardOn { confirm });
    }
    reach.all()?;
    let rules = GuardRules::of(settings);
    let now = clock::now().boot;
    let trial = match confirm {
        // A service manager that loads the guard again is no reason to end a trial.
        None => firewall::trial_under_way(&rules)?.filter(|until| *until > now),
        Some(0) => None,
        Some(seconds) => Some(now.plus(seconds)),
    };
    firewall::start(&GuardRules { trial, ..rules })?;
    let up = match trial {
        None => "up".to_owned(),
        Some(until) => format!("up, on trial for {} s", (until.0 - now.0).div_ceil(SECOND)),
    };
    Ok(format!("the guard is {up}; no gateway is running, so nobody can get a grant\n"))
}

/// Turns the guard off, through the running gateway if there is one.
pub fn off(reach: &Reach) -> Result<String, Fault> {
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

/// True if the guard comes into force now and somebody in an ssh session wants [`adopt`].
fn wants_adoption(settings: &Settings) -> bool {
    let is_there = firewall::is_there(&GuardRules::of(settings)).unwrap_or(true);
    let is_over = matches!(trial_in_kernel(settings), Ok(TrialState::Over));
    (!is_there || is_over) && offer_adoption()
}

/// Lets connections continue if that is wanted. The guard is up: a fault is only told.
fn adopted(reach: &Reach, is_wanted: bool) -> String {
    match is_wanted {
        true => adopt(&reach.settings).unwrap_or_else(|fault| fault.lines()),
        false => String::new(),
    }
}

/// Asks, in an ssh session at a terminal, whether [`adopt`] is wanted.
pub fn offer_adoption() -> bool {
    if std::env::var_os("SSH_CONNECTION").is_none() || !terminal::is_interactive() {
        return false;
    }
    print_error(
        "This is an ssh session. Once the guard is up, it freezes until its address has a grant,\nas \
         all connections to guarded ports do that are open now.\n",
    );
    terminal::confirm("Let them all go on?")
}

/// Lets current connections continue. An intruder who connected while the guard was off is among
/// them, so every connection is printed.
pub fn adopt(settings: &Settings) -> Result<String, Fault> {
    let own: Vec<_> = addresses::own()?.into_iter().map(|own| own.address).collect();
    let adopted = firewall::adopt(&GuardRules::of(settings), &own)?;
    if adopted.is_empty() {
        return Ok("nothing to adopt: every connection to a guarded port was granted or adopted\n"
            .to_owned());
    }
    let mut text = String::new();
    for Connection { from, to, proto } in adopted {
        text += &format!("adopted {from} -> {to} ({})\n", proto.name());
    }
    Ok(text)
}

/// Turns the guard on, on trial, and shows how that goes. The gateway and the kernel keep the
/// deadline: whatever becomes of this command changes nothing.
fn on_trial(
    reach: &Reach, seconds: u32, adopts: bool, say: &dyn Fn(&str),
) -> Result<CommandOutput, Fault> {
    interrupt::say("; `toctocd guard status` says whether the trial has begun");
    let said = on(reach, Some(seconds))?;
    interrupt::say(&after_an_interrupt(seconds.into()));
    say(&said);
    say(&adopted(reach, adopts));
    say(ON_TRIAL);
    let mut said: Option<String> = None;
    loop {
        // The gateway says how it goes, or without one the kernel.
        let asked = admin::ask_trial(&reach.settings);
        let is_kept = asked.is_ok();
        let state = match asked {
            Ok(state) => state,
            Err(_) => trial_in_kernel(&reach.settings)?,
        };
        let over = match state {
            TrialState::Running { useless, seconds_left } => {
                interrupt::say(&after_an_interrupt(seconds_left));
                if let Some(why) = useless.filter(|why| said.as_ref() != Some(why)) {
                    say(&format!("a knock got a grant, but the trial goes on: {why}\n"));
                    said = Some(why);
                }
                std::thread::sleep(CHECK);
                continue;
            }
            TrialState::Confirmed { by } => {
                return Ok(CommandOutput::out(format!("confirmed by {by}: the guard stays\n")));
            }
            TrialState::None => "another command has ended the trial\n".to_owned(),
            TrialState::Over => {
                let how =
                    if is_kept { "the guard is OFF until `toctocd guard on`" } else { LEFT_OPEN };
                let open = open_services(&reach.settings.services);
                format!("nobody got in within {seconds} s: {how}\n{open}")
            }
        };
        return Ok(CommandOutput { code: FAILED, ..CommandOutput::out(over) });
    }
}

/// A guard whose trial the kernel has ended, without a gateway.
const LEFT_OPEN: &str = "what it guards is OPEN for an hour, and closes then, because no gateway \
                         is running; to close it now: toctocd guard on";

/// What to do during a trial.
const ON_TRIAL: &str = "\
knock from another machine now: its grant ends the trial, and the guard stays
it does not matter if this terminal is lost
to turn it off now: toctocd guard off
";

/// What stands, and what happens next, if this command ends before the trial.
fn after_an_interrupt(seconds_left: u64) -> String {
    format!(
        "; the trial goes on for {seconds_left} s\n  a knock from another machine keeps the guard; \
         without one it turns itself off\n  how it goes: toctocd guard status\n  off now: toctocd \
         guard off\n  keep it without a knock: toctocd guard on --confirm 0"
    )
}

fn trial_in_kernel(settings: &Settings) -> Result<TrialState, Fault> {
    let now = clock::now().boot;
    Ok(match firewall::trial_under_way(&GuardRules::of(settings))? {
        Some(until) if until > now => {
            let seconds_left = (until.0 - now.0).div_ceil(SECOND);
            TrialState::Running { seconds_left, useless: None }
        }
        Some(_) => TrialState::Over,
        None => TrialState::None,
    })
}

fn status(reach: &Reach) -> Result<String, Fault> {
    let settings = &reach.settings;
    let state = firewall::look_at(&GuardRules::of(settings))?;
    let gateway = match is_running(&settings.gateway.control_socket) {
        true => Some(ask_status(settings)?),
        false => None,
    };
    let trial = trial_in_kernel(settings)?;
    Ok(status_text(reach, &state, &trial, gateway.as_ref()))
}

fn status_text(
    reach: &Reach, state: &GuardState, trial: &TrialState, gateway: Option<&GatewayStatus>,
) -> String {
    let settings = &reach.settings;
    let guard = match (gateway, &state.misfit) {
        (Some(status), _) => admin::guard_text(status),
        (None, None) => "OFF: the table does not exist; what it guards is OPEN".to_owned(),
        (None, Some(_)) if reach.doubt.is_some() => "up, with which rules is not known".to_owned(),
        // The kernel alone has ended it.
        (None, Some(None)) if *trial == TrialState::Over => {
            format!("its trial is over: {LEFT_OPEN}")
        }
        (None, Some(None)) => admin::loaded_guard_text(trial),
        (None, Some(Some(difference))) => format!("NOT AS CONFIGURED: {difference}"),
    };
    let manager = match gateway {
        Some(status) => format!("toctocd (pid {})", status.pid),
        None => "NOBODY: no gateway is running; the kernel ends grants, and nobody gets a new one"
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

    use serde_json::json;

    use super::*;
    use crate::app::admin::tests::{RunningGateway, sound};
    use crate::config::native;
    use crate::edge::control::ControlResponse;

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
        let text = status_text(&reach(), &state(Some(None)), &TrialState::None, Some(&sound()));
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
            let text = status_text(&reach, &state(misfit), &TrialState::None, None);
            assert!(text.starts_with(said), "{text}");
            assert!(text.contains("managed by  NOBODY: no gateway is running"), "{text}");
        }
    }

    #[test]
    fn addresses_that_always_pass_are_shown() {
        let mut reach = reach();
        reach.settings.firewall.break_glass = vec!["192.0.2.1".parse().unwrap()];
        let text = status_text(&reach, &state(Some(None)), &TrialState::None, None);
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
        assert_eq!(on(&reach, None).unwrap(), "as you wish\n");
        let off = off(&reach).unwrap();
        assert!(off.starts_with("as you wish\nOPEN to everybody"), "{off}");
        assert_eq!(
            gateway.requests(),
            [ControlRequest::GuardOn { confirm: None }, ControlRequest::GuardOff]
        );
    }

    #[test]
    fn a_trial_is_followed_to_its_end_whichever_that_is() {
        for (state, code, said) in [
            (json!({ "state": "confirmed", "by": "anna: ssh for 192.0.2.7" }), 0, "guard stays"),
            (json!({ "state": "over" }), FAILED, "OFF until `toctocd guard on`\nOPEN to everybody"),
            (json!({ "state": "none" }), FAILED, "another command has ended the trial"),
        ] {
            let running = json!({ "state": "running", "seconds_left": 9 });
            let answers = [json!({ "said": "the guard is up" }), running, state];
            let gateway = RunningGateway::with(answers.map(ControlResponse::Ok));
            let settings = Settings { services: settings().services, ..gateway.settings() };
            let output = on_trial(&Reach { settings, ..reach() }, 10, false, &|_| ()).unwrap();
            assert_eq!((output.code, output.out.contains(said)), (code, true), "{}", *output.out);
            let trial = ControlRequest::Trial;
            let on = ControlRequest::GuardOn { confirm: Some(10) };
            assert_eq!(gateway.requests(), [on, trial.clone(), trial]);
        }
    }

    #[test]
    fn with_a_broken_configuration_the_guard_goes_on_and_off_by_the_running_gateway_alone() {
        let gateway = RunningGateway::ok(serde_json::json!({ "said": "as you wish" }));
        let doubt = || Some(Fault::new("t.toml:1:1: broken", "fix it"));
        let broken = Reach { settings: gateway.settings(), doubt: doubt(), is_trusted: false };
        assert_eq!(on(&broken, None).unwrap(), "as you wish\n");
        let off_text = off(&broken).unwrap();
        assert_eq!(off_text, "as you wish\neverything that it guarded is OPEN\n");
        let stopped = Reach { settings: settings(), doubt: doubt(), is_trusted: false };
        assert_eq!(on(&stopped, None).unwrap_err().what, "t.toml:1:1: broken");
        // The name of the table may be anybody's.
        let fault = off(&stopped).unwrap_err();
        assert!(fault.remedy.contains("nft delete table"), "{fault}");
    }
}
