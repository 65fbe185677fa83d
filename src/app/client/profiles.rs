//! The profiles of a user: the one that a command works with, `toctoc list` and `default`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::join::{self, JoinOutcome, Joiner};
use super::keys::{self, names};
use super::messages::duration_text;
use super::signer::HeldProfile;
use crate::app::args::toctoc::{Target, target};
use crate::app::output::{CommandOutput, service_list};
use crate::app::paths::{UserPaths, is_profile_name};
use crate::core::bytes::saturated_i64;
use crate::core::diagnostic::printable;
use crate::core::types::{Fault, FaultKind, SECOND, ServiceName};
use crate::edge::clock;
use crate::edge::files::{self, FileCheck};
use crate::keys::profile::Profile;

/// The named profile, or the default one.
/// Error: there is none, or several and none of them is the default.
pub(super) fn chosen(paths: &UserPaths, target: Option<&Target>) -> Result<HeldProfile, Fault> {
    let name = chosen_name(paths, target)?;
    let fault = match held(paths, &name) {
        Ok(held) => {
            join::forget_line(paths, &name)?;
            return Ok(held);
        }
        Err(fault) => fault,
    };
    if let Some(joiner) = Joiner::waiting(paths, &name)? {
        return ask_again(paths, joiner);
    }
    match profile_with_service(paths, &name) {
        Some(profile) => {
            let what = format!("`{}` is a service and not a profile", printable(&name));
            let remedy = format!("name the profile first: {profile} {name}, or {profile}:{name}");
            Err(Fault::new(what, remedy))
        }
        None => Err(fault),
    }
}

/// The name of that profile. It may still wait for approval.
pub(super) fn chosen_name(paths: &UserPaths, target: Option<&Target>) -> Result<String, Fault> {
    match target {
        Some(target) => Ok(target.profile.clone()),
        None => default_name(paths),
    }
}

/// The first profile with a service of this name, if no profile has that name itself.
fn profile_with_service(paths: &UserPaths, word: &str) -> Option<String> {
    let service = ServiceName::new(word)?;
    let names = names(paths).ok()?;
    if names.iter().any(|name| name == word) {
        return None;
    }
    names.into_iter().find(|name| match keys::profile(paths, name) {
        Ok(held) => held.profile.services.contains(&service),
        Err(_) => false,
    })
}

/// Asks whether a key that waited for approval is enrolled now.
/// Error: it is not.
fn ask_again(paths: &UserPaths, mut joiner: Joiner) -> Result<HeldProfile, Fault> {
    let name = joiner.name().to_owned();
    let (what, remedy) = match joiner.ask(paths)? {
        JoinOutcome::Joined => return Ok(joiner.into_held()),
        JoinOutcome::Pending => (
            format!("`{name}`: {}", joiner.pending_text().trim_end()),
            "once it is approved, run the same command again".to_owned(),
        ),
        JoinOutcome::Refused(_, words) | JoinOutcome::NoAnswer(_, words) => (
            format!("`{name}` has not joined yet: {}", words.trim_end()),
            format!("to give it up: toctoc remove {name}"),
        ),
    };
    Err(Fault::new(what, remedy))
}

/// The profile of this name, with the default service that `toctoc default` chose for it.
fn held(paths: &UserPaths, name: &str) -> Result<HeldProfile, Fault> {
    let mut held = keys::profile(paths, name)?;
    if let Ok(Some(Target { profile, service: Some(service) })) = marked(paths)
        && profile == name
    {
        held.profile.default_service = Some(service);
    }
    Ok(held)
}

fn default_name(paths: &UserPaths) -> Result<String, Fault> {
    if let Some(marked) = marked(paths)? {
        return Ok(marked.profile);
    }
    let mut names = names(paths)?;
    if names.is_empty() {
        names = keys::pending_names(paths)?;
    }
    match names.len() {
        0 => Err(Fault::new("you have no profile yet", keys::NO_PROFILE)),
        1 => Ok(names.remove(0)),
        _ => Err(Fault::new(
            format!("no profile named, and you have several: {}", names.join(", ")),
            format!("name one; or choose the default: toctoc default {}", names[0]),
        )),
    }
}

/// The profile that `toctoc default` chose, and its service if it chose one.
pub(super) fn marked(paths: &UserPaths) -> Result<Option<Target>, Fault> {
    let path = paths.default_profile()?;
    if !path.exists() {
        return Ok(None);
    }
    let text = files::read(&path, FileCheck::Trusted)?;
    match target(text.trim()) {
        Ok(target) if is_profile_name(&target.profile) => Ok(Some(target)),
        _ => Err(Fault::new(
            format!(
                "{}: `{}` is not the name of a profile",
                path.display(),
                printable(text.trim())
            ),
            "choose the default again: toctoc default PROFILE",
        )),
    }
}

/// `toctoc default`.
pub(super) fn set_default(
    paths: &UserPaths, target: Option<&Target>,
) -> Result<CommandOutput, Fault> {
    let Some(Target { profile: name, service }) = target else {
        let held = held(paths, &default_name(paths)?)?;
        let service = held.profile.usual_service();
        let value = Some(default_json(&held.name, service));
        let service = service.map(|service| format!(":{service}")).unwrap_or_default();
        let output = CommandOutput::out(format!("{}{service}\n", held.name));
        return Ok(CommandOutput { value, ..output });
    };
    if !is_profile_name(name) {
        return Err(Fault::new(
            format!("`{}` is not the name of a profile", printable(name)),
            "name one that `toctoc list` shows",
        ));
    }
    let held = keys::profile(paths, name)?;
    let mut line = name.clone();
    let mut said = format!("commands without a profile now use `{name}`");
    let mut err = String::new();
    if let Some(service) = service {
        line += &format!(":{service}");
        said += &format!(", and without a service `{service}`");
        err = unlisted_text(&held, *service);
    }
    files::replace(&paths.default_profile()?, format!("{line}\n").as_bytes(), 0o600)?;
    let value = Some(default_json(name, service.or(held.profile.usual_service())));
    Ok(CommandOutput { err, value, ..CommandOutput::out(said + "\n") })
}

fn default_json(profile: &str, service: Option<ServiceName>) -> Value {
    json!({ "profile": profile, "service": service.as_ref().map(ServiceName::as_str) })
}

/// A note about a service that the profile does not list: the gateway may have got it since.
pub(super) fn unlisted_text(held: &HeldProfile, service: ServiceName) -> String {
    let services = &held.profile.services;
    match services.contains(&service) {
        true => String::new(),
        false => format!(
            "note: the profile does not list `{service}`, but: {}\n",
            service_list(services)
        ),
    }
}

/// The service that a command names, or the profile's default one. One that the profile does not
/// list is no error: the gateway may have got it after the profile was made.
pub(super) fn service(
    verb: &str, target: Option<&Target>, named: Option<ServiceName>, held: &HeldProfile,
) -> Result<ServiceName, Fault> {
    let profile = &held.profile;
    let before = target.and_then(|target| target.service);
    if let (Some(first), Some(second)) = (before, named)
        && first != second
    {
        let what = format!("two services are named: {first} and {second}");
        return Err(Fault::new(what, format!("toctoc {verb} {} {second}", held.name)));
    }
    if let Some(service) = named.or(before).or(profile.usual_service()) {
        return Ok(service);
    }
    Err(Fault::new(
        "no service given, and this profile has no default one",
        format!("toctoc {verb} {} SERVICE, one of: {}", held.name, service_list(&profile.services)),
    ))
}

/// Seconds that are left of an enrolment, negative once it is over; `None` if it has no end.
pub(super) fn seconds_left(profile: &Profile) -> Option<i64> {
    let end = saturated_i64(profile.expires?);
    let now = saturated_i64(clock::now().wall.0 / SECOND);
    Some(end.saturating_sub(now))
}

/// Refuses a profile whose enrolment is over: the gateway would not answer.
pub(super) fn refuse_expired(held: &HeldProfile) -> Result<(), Fault> {
    let profile = &held.profile;
    match seconds_left(profile) {
        Some(left) if left <= 0 => Err(Fault::new(
            format!(
                "the enrolment of `{}` at {} ended {}, by this machine's clock; nothing was sent",
                profile.name,
                profile.addresses.join(", "),
                end_text(profile, left)
            ),
            format!(
                "ask the gateway's admin to enrol the key again, then: toctoc import FILE --name {} \
                 --replace. If only the clock is wrong, set it",
                held.name
            ),
        )
        .of(FaultKind::Expired)),
        _ => Ok(()),
    }
}

/// `2027-01-31 01:00, in 63 d`; `2020-01-01 01:00, 7 d ago`.
pub(super) fn end_text(profile: &Profile, left: i64) -> String {
    let distance = duration_text(left.unsigned_abs().saturating_mul(SECOND));
    let near = if left > 0 { format!("in {distance}") } else { format!("{distance} ago") };
    let seconds = profile.expires.and_then(|seconds| i64::try_from(seconds).ok());
    match seconds.and_then(|seconds| Timestamp::from_second(seconds).ok()) {
        Some(end) => {
            let day = end.to_zoned(clock::zone()).strftime("%Y-%m-%d %H:%M");
            format!("{day}, {near}")
        }
        // Beyond the calendar.
        None => near,
    }
}

/// `toctoc list`.
pub(super) fn show(paths: &UserPaths) -> Result<CommandOutput, Fault> {
    let names = names(paths)?;
    let default = default_of(paths, &names);
    let mut text = String::new();
    let mut errors = String::new();
    let mut objects = Vec::new();
    for name in &names {
        let is_default = default.as_ref() == Some(name);
        match held(paths, name) {
            Ok(held) => {
                text += &profile_text(&held, is_default);
                objects.push(profile_json(&held, is_default));
            }
            Err(fault) => {
                errors += &format!("{fault}\n");
                objects.push(broken_json(name, &fault));
            }
        }
    }
    let waiting = keys::pending_names(paths)?;
    for name in &waiting {
        match Joiner::waiting(paths, name) {
            Ok(Some(joiner)) => {
                text += &joiner.list_text();
                objects.push(joiner.list_json());
            }
            // Gone meanwhile.
            Ok(None) => {}
            Err(fault) => {
                errors += &format!("{fault}\n");
                objects.push(broken_json(name, &fault));
            }
        }
    }
    if names.is_empty() && waiting.is_empty() {
        text = format!("no profiles; {}\n", keys::NO_PROFILE);
    }
    let value = Some(Value::from(objects));
    Ok(CommandOutput { err: errors, value, ..CommandOutput::out(text) })
}

/// The default among several profiles.
fn default_of(paths: &UserPaths, names: &[String]) -> Option<String> {
    default_name(paths).ok().filter(|_| names.len() > 1)
}

/// The list of this one profile, as `toctoc list --json` has it.
pub(super) fn json_of(paths: &UserPaths, held: &HeldProfile) -> Result<Value, Fault> {
    let default = default_of(paths, &names(paths)?);
    Ok(json!([profile_json(held, default.as_ref() == Some(&held.name))]))
}

fn broken_json(name: &str, fault: &Fault) -> Value {
    json!({ "profile": name, "what": fault.what, "remedy": fault.remedy })
}

fn profile_text(held: &HeldProfile, is_default: bool) -> String {
    let profile = &held.profile;
    let name = &held.name;
    let mut services = Vec::new();
    for service in &profile.services {
        let is_default = profile.services.len() > 1 && profile.default_service == Some(*service);
        services.push(format!("{service}{}", if is_default { " (default)" } else { "" }));
    }
    let mark = if is_default { " (default)" } else { "" };
    let mut text = format!(
        "{name}{mark}: opens {} at {}, as `{}`\n",
        services.join(", "),
        profile.addresses.join(", "),
        profile.name
    );
    text += &match seconds_left(profile) {
        Some(left) if left > 0 => format!("  enrolled until {}\n", end_text(profile, left)),
        Some(left) => format!("  EXPIRED {}\n", end_text(profile, left)),
        None => "  enrolled without an end\n".to_owned(),
    };
    if let Some(fallback) = &profile.fallback {
        let offered = match fallback.offer {
            true => "offered after a knock without an answer",
            false => "never offered",
        };
        text +=
            &format!("  has a door's classic sequence, {offered}: toctoc open --classic {name}\n");
    }
    text
}

fn profile_json(held: &HeldProfile, is_default: bool) -> Value {
    let profile = &held.profile;
    let services: Vec<&str> = profile.services.iter().map(ServiceName::as_str).collect();
    let classic = match &profile.fallback {
        None => None,
        Some(fallback) if fallback.offer => Some("ask"),
        Some(_) => Some("never"),
    };
    json!({
        "profile": held.name, "default": is_default, "pending": false, "file": held.path.display().to_string(),
        "addresses": profile.addresses, "port": profile.port, "services": services,
        "default_service": profile.usual_service().as_ref().map(ServiceName::as_str),
        "client": profile.name, "expires": profile.expires,
        "seconds_left": seconds_left(profile), "classic": classic,
    })
}
