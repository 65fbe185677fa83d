//! `toctocd check`: reads everything that `run` would read, looks at this machine, and reports.
//! Changes nothing.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::finding::Finding;
use super::load::GatewayConfig;
use super::output::{CommandOutput, DONE, FAILED, count};
use super::warnings::warnings_here;
use super::{admin, listener_user, load, own_firewall, programs, unit};
use crate::config::{Settings, print};
use crate::core::types::{Fault, SECOND};
use crate::edge::control::Control;
use crate::edge::firewall::ruleset_snapshot::RulesetSnapshot;
use crate::edge::firewall::translations::translations;
use crate::edge::proc_net::Listening;
use crate::edge::state::State;
use crate::edge::{addresses, clock, sys};

mod clients;
mod flushes;
mod listening;
mod scripts;
mod services;
mod ways_around;
mod xdp;

/// Reports what `run` would refuse or warn of, and what is wrong around it.
/// Error: the first problem for which `run` would not start.
pub fn check(config: &Path, print_settings: bool) -> Result<CommandOutput, Fault> {
    let loaded = load::load_all(config)?;
    let settings = &loaded.settings;
    if print_settings {
        return Ok(CommandOutput::data(print::print(settings)));
    }
    load::check_keys(settings)?;
    would_run(settings)?;
    let findings = findings(config, &loaded);
    let is_sound = !findings.iter().any(|finding| finding.is_warning);
    let state = if is_sound { "sound" } else { "valid, with warnings" };
    let mut text = format!(
        "{}: {state}; {}, {}, {}\n",
        config.display(),
        count(settings.services.len(), "service"),
        count(loaded.clients.len(), "client"),
        count(settings.doors.len(), "door"),
    );
    for finding in &findings {
        text += &format!("{finding}\n");
    }
    let mut output = CommandOutput::out(text);
    if let Err(fault) = admin::can_follow(settings) {
        output.err = format!("the next start takes it, but a reload refuses it: {fault}\n");
        output.code = FAILED;
    }
    let findings: Vec<Value> = findings.iter().map(Finding::json).collect();
    output.value = Some(json!({
        "result": if output.code == DONE { "done" } else { "failed" },
        "sound": is_sound,
        "findings": findings,
        "out": output.out.as_str(),
        "notes": output.err.lines().collect::<Vec<&str>>(),
    }));
    Ok(output)
}

/// Everything that is found, what goes wrong first.
fn findings(config: &Path, loaded: &GatewayConfig) -> Vec<Finding> {
    let settings = &loaded.settings;
    let mut all: Vec<Finding> = warnings_here(loaded).into_iter().map(Finding::warning).collect();
    all.extend(unit::narrow_for_commands(settings, Path::new("/")).map(Finding::warning));
    all.extend(unit::narrow_for_xdp(settings, Path::new("/")).map(Finding::warning));
    all.extend(xdp::remarks(settings));
    all.extend(services::notes(settings, loaded.clients.len()));
    let now = clock::now().wall.0 / SECOND;
    all.extend(clients::remarks(settings, &loaded.clients, now));
    all.extend(flushes::remarks(settings, Path::new("/")));
    all.extend(scripts::remarks(settings, Path::new("/")));
    all.extend(clock_remark(settings, sys::clock_is_unsynchronised()));
    match RulesetSnapshot::take(&settings.firewall) {
        Ok(snapshot) => all.extend(firewall(config, settings, &snapshot)),
        Err(fault) => {
            let text = format!("the live firewall was not checked: {}", fault.what);
            all.push(Finding::note(text));
        }
    }
    all.sort_by_key(|finding| !finding.is_warning);
    all
}

/// What the live firewall and the programs that listen do.
fn firewall(config: &Path, settings: &Settings, snapshot: &RulesetSnapshot) -> Vec<Finding> {
    let own: Vec<IpAddr> =
        addresses::own().unwrap_or_default().into_iter().map(|own| own.address).collect();
    let translations = translations(snapshot, &settings.firewall.table);
    let listening = Listening::now();
    let mut all = listening::remarks(config, settings, &listening, &translations, Path::new("/"));
    all.extend(ways_around::remarks(settings, &translations, &own, &listening));
    all.extend(flushes::reloads(settings, snapshot));
    all.extend(own_firewall::remarks(settings, snapshot));
    all
}

fn clock_remark(settings: &Settings, is_unsynchronised: bool) -> Option<Finding> {
    let knock = &settings.knock;
    let text = format!(
        "the kernel says that nothing keeps its clock right. A client whose clock differs by more than \
         {} s ({} s ahead) needs one more packet each way, and `expires` counts by this clock: run \
         `timedatectl set-ntp true`, or install chrony",
        knock.max_age, knock.max_ahead
    );
    is_unsynchronised.then(|| Finding::note(text))
}

/// Checks what `run` needs of this machine, as far as this is possible without changes.
fn would_run(settings: &Settings) -> Result<(), Fault> {
    if let Some(name) = &settings.gateway.user {
        listener_user::named_user(name)?;
    }
    programs::check(settings)?;
    Control::check(&settings.gateway.control_socket)?;
    State::check(&settings.gateway.state_dir, settings.gateway.state_on_tmpfs)?;
    let nft = &settings.firewall.nft;
    nix::unistd::access(nft, nix::unistd::AccessFlags::X_OK).map_err(|error| {
        Fault::new(
            format!("{}: {}", nft.display(), error.desc()),
            "install the nftables package, or set firewall.nft to the path of the program",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::native;

    #[test]
    fn only_a_clock_that_nothing_keeps_right_is_worth_a_note() {
        let settings = native::parse("t", "[knock]\nmax_age = 45\n").unwrap();
        assert_eq!(clock_remark(&settings, false), None);
        let note = clock_remark(&settings, true).unwrap();
        assert!(!note.is_warning && note.text.contains("differs by more than 45 s (10 s ahead)"));
    }
}
