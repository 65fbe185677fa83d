//! The first start of a gateway, at the end of `toctocd init` at a terminal: with the guard on
//! trial, so that it locks nobody out.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{NewGateway, interview};
use crate::app::args::toctocd::{Init, Invite, LimitArgs};
use crate::app::output::{CommandOutput, FAILED, print_error, tell};
use crate::app::{guard, load, own_firewall};
use crate::config::Settings;
use crate::config::defaults;
use crate::core::types::Fault;
use crate::edge::background::{self, BackgroundStart};
use crate::edge::{interrupt, terminal};
use crate::keys::authorized;

/// Seconds of the trial: enough to enrol the first client and to knock.
const TRIAL: u32 = 900;

/// `toctocd init` at a terminal: asks, writes, and offers to start the gateway.
pub fn init_at_terminal(named: &Path, args: &Init) -> Result<CommandOutput, Fault> {
    interrupt::watch_for_admin();
    interrupt::say(": nothing was written");
    super::refuse_existing(args)?;
    let Some(answers) = interview::ask(args)? else {
        let nothing = "nothing was written\n".to_owned();
        return Ok(CommandOutput { code: FAILED, ..CommandOutput::out(nothing) });
    };
    interrupt::say("; `toctocd check` says whether the configuration is complete");
    let NewGateway { config, settings, steps } = super::write(named, &answers)?;
    tell(&steps);
    let next = super::next_steps(&config, &settings);
    interrupt::say(&format!(": the configuration is written, no gateway was started\n{next}"));
    let is_started = nix::unistd::geteuid().is_root() && offer_start(&config)?;
    if !is_started {
        return Ok(CommandOutput::out(next));
    }
    let minutes = TRIAL / 60;
    tell(&format!("the gateway runs; its guard is on trial for {minutes} minutes\n"));
    if has_unit(&config) {
        tell("so that both start at boot: systemctl enable toctoc-guard toctocd\n");
    }
    let invite = super::invite_command(&config, &settings);
    let next = format!("next, for each client: {invite}\n");
    interrupt::say(&format!(
        ": the gateway runs; its guard is on trial for {minutes} minutes\n{next}"
    ));
    if terminal::confirm("Invite your own machine now? Whoever reads the line first, joins.") {
        return invite_own(&config, &settings);
    }
    Ok(CommandOutput::out(next))
}

/// Invites the machine of the admin, who reads the line here: the first key is in.
fn invite_own(config: &Path, settings: &Settings) -> Result<CommandOutput, Fault> {
    let mut name = terminal::ask_line("A name for it", "laptop")?;
    while !authorized::is_name(&name) {
        print_error("Write one word of up to 64 letters, digits, and . _ @ + -\n");
        name = terminal::ask_line("A name for it", "laptop")?;
    }
    let invite = Invite {
        name,
        services: settings.services.iter().map(|service| service.name).collect(),
        key: None,
        auto: true,
        out: None,
        gateway_name: None,
        limits: LimitArgs::default(),
    };
    super::invite(config, &invite)
}

/// Starts the gateway if the admin wants it.
/// Error: it does not start; the guard is off.
fn offer_start(config: &Path) -> Result<bool, Fault> {
    let reach = load::reach(config);
    for warning in own_firewall::warnings(&reach.settings) {
        print_error(&format!("warning: {warning}\n"));
    }
    let minutes = TRIAL / 60;
    print_error(&format!(
        "If no knock from another machine gets a grant within {minutes} minutes, the guard turns \
         itself off.\n"
    ));
    if !terminal::confirm("Start the gateway now, on trial?") {
        return Ok(false);
    }
    let adopts = guard::offer_adoption();
    interrupt::say("; `toctocd guard status` and `toctocd status` say what runs");
    // The guard first: a gateway that starts goes on with the trial that it finds.
    guard::on(&reach, Some(TRIAL))?;
    if adopts {
        print_error(&guard::adopt(&reach.settings)?);
    }
    match start_gateway(config) {
        Ok(()) => Ok(true),
        Err(fault) => {
            print_error(&guard::off(&reach)?);
            Err(fault)
        }
    }
}

/// Starts it by systemd if its unit is installed, otherwise in the background.
fn start_gateway(config: &Path) -> Result<(), Fault> {
    if has_unit(config) {
        if succeeds(&["start", "toctocd"]) {
            return Ok(());
        }
        let mut journal = Command::new("journalctl");
        journal.args(["-u", "toctocd", "-n", "5", "--no-pager", "-o", "cat"]);
        let said = journal.output().map(|output: Output| output.stdout).unwrap_or_default();
        let what = format!("the gateway did not start: {}", String::from_utf8_lossy(&said).trim());
        return Err(Fault::new(what, "fix that, then `systemctl start toctocd`"));
    }
    let log = match config == Path::new(defaults::CONFIG) {
        true => PathBuf::from(defaults::LOG),
        false => config.with_file_name("toctocd.log"),
    };
    let words = ["run".into(), "-c".into(), OsString::from(config)];
    match background::start(&words, &log)? {
        BackgroundStart::Serves { pid } => {
            tell(&format!("toctocd runs in the background (pid {pid}); log: {}\n", log.display()));
            Ok(())
        }
        BackgroundStart::Ended { said, .. } => {
            let what = format!("the gateway did not start: {}", said.trim());
            Err(Fault::new(what, "fix that, then `toctocd run --background --confirm 15m`"))
        }
    }
}

/// True if systemd's unit runs a gateway with this configuration.
fn has_unit(config: &Path) -> bool {
    config == Path::new(defaults::CONFIG)
        && Path::new("/run/systemd/system").exists()
        && succeeds(&["cat", "toctocd"])
}

fn succeeds(words: &[&str]) -> bool {
    Command::new("systemctl").args(words).output().is_ok_and(|output| output.status.success())
}
