//! `toctocd close`: ends grants before their time, and says what goes on.

use super::admin::{self, CloseDone};
use super::args::toctocd::Close;
use super::joined;
use super::load::{self, Reach};
use super::output::{CommandOutput, DONE, FAILED, count};
use crate::config::Settings;
use crate::core::diagnostic::nearest;
use crate::core::grants::Holder;
use crate::core::types::{Fault, FaultKind};
use crate::edge::control::ControlRequest;
use crate::keys::authorized;

/// Ends grants at the running gateway.
///
/// # Errors
/// No gateway answers, or nothing that fits was open.
pub fn close(reach: &Reach, args: &Close) -> Result<CommandOutput, Fault> {
    let Close { grant, client, service, address, cut } = args.clone();
    let service = service.map(|service| service.to_string());
    let request = ControlRequest::Close { grant, client, service, address, cut };
    let value = admin::request(&reach.settings, &request)?;
    let done: CloseDone = admin::decode(value.clone())?;
    if done.ended == 0 && done.over == 0 {
        return Err(nothing(&reach.settings, args));
    }
    let is_whole = done.is_shut && done.is_cut && done.is_stored;
    let code = if is_whole { DONE } else { FAILED };
    Ok(CommandOutput { code, value: Some(value), ..CommandOutput::out(text(args, &done)) })
}

/// The words that name the grants on the command line.
fn words(args: &Close) -> String {
    let mut words: Vec<String> = args.grant.iter().cloned().collect();
    words.extend(args.client.iter().map(|name| format!("--client {name}")));
    words.extend(args.service.iter().map(|name| format!("--service {name}")));
    words.extend(args.address.iter().map(|address| format!("--address {address}")));
    words.join(" ")
}

fn text(args: &Close, done: &CloseDone) -> String {
    let mut text = match done.ended {
        0 => "no grant was open\n".to_owned(),
        ended => format!("ended {}\n", count(ended, "grant")),
    };
    if !done.cut.is_empty() {
        let services = Vec::from_iter(done.cut.iter().cloned()).join(", ");
        text += &match done.is_cut {
            true => format!("connections to {services} that came in under them are cut\n"),
            false => format!(
                "connections to {services} COULD NOT BE CUT yet: the gateway tries again every \
                 second, and its log has the reason\n"
            ),
        };
    }
    if !done.go_on.is_empty() {
        let services = Vec::from_iter(done.go_on.iter().cloned()).join(", ");
        text += &format!(
            "connections to {services} that came in under them go on; to end them too:\n  \
             toctocd close {} --cut\n",
            words(args)
        );
    }
    if !done.is_shut {
        text += "THE FIREWALL REFUSED A CHANGE: the gateway repairs the guard; `toctocd status` \
                 shows how it is\n";
    }
    if !done.is_stored {
        text += "THE STATE CANNOT BE WRITTEN: if the gateway crashes now, they may come back\n";
    }
    text
}

/// The fault if nothing fits: perhaps a name is misspelt.
fn nothing(settings: &Settings, args: &Close) -> Fault {
    let what = format!("nothing is open for: {}", words(args));
    let holder = match (&args.client, &args.grant) {
        (Some(client), _) => Some(client.as_str()),
        (_, Some(grant)) => grant.rsplit_once('/').map(|(holder, _)| holder),
        _ => None,
    };
    let holders = holders(settings);
    let services: Vec<String> =
        settings.services.iter().map(|service| service.name.to_string()).collect();
    let service = args.service.map(|service| service.to_string());
    let remedy = match (guess(holder, &holders), guess(service.as_deref(), &services)) {
        (Some(meant), _) | (_, Some(meant)) => format!("did you mean `{meant}`?"),
        _ => "`toctocd grants` shows what is open".to_owned(),
    };
    Fault::new(what, remedy).of(FaultKind::Name)
}

/// The name that was meant, if nobody has this one.
fn guess<'a>(name: Option<&str>, known: &'a [String]) -> Option<&'a str> {
    let name = name.filter(|name| !known.iter().any(|other| other == name))?;
    nearest(name, known.iter().map(String::as_str))
}

/// The words for all who may have grants: clients, and doors that grant a service.
pub fn holders(settings: &Settings) -> Vec<String> {
    let mut names = match load::clients_text(&settings.gateway.clients_file) {
        Ok(text) => authorized::names(&text),
        Err(_) => Vec::new(),
    };
    names.extend(joined::names(settings, |_| true));
    let doors = settings.doors.iter().filter(|door| door.service.is_some());
    names.extend(doors.map(|door| Holder::word(&door.name)));
    names
}

/// The names of the first live grants, for completion; none if no gateway answers.
pub fn open_grants(settings: &Settings) -> Vec<String> {
    match admin::first_grants(settings) {
        Ok(page) => page.lines.into_iter().map(|line| line.grant).collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
