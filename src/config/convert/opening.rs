//! What the commands of a door open, for whom and for how long.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::rules::{Action, Effect, Hook, PortNames, Rule, Target, Verb, actions, ordered};
use crate::config::native::is_inner_host;
use crate::core::door::{Door, DoorCommands};
use crate::core::service::{Forward, Mode, Service};
use crate::core::types::PortRange;

/// The reason why a door keeps its commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: String,
    /// False if it cannot be told what the commands do, or if they contradict each other.
    pub(super) known: bool,
}

impl Refusal {
    pub(super) fn known(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), known: true }
    }

    fn unclear(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), known: false }
    }
}

/// The rules that a door changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RuleChanges {
    pub(super) added: Vec<Rule>,
    /// At its end, or at once if it adds none.
    pub(super) deleted: Vec<Rule>,
    /// Seconds after which the added rules are gone; `None` = the door leaves them.
    pub(super) seconds: Option<u32>,
    pub(super) beside: Vec<String>,
}

/// What the rules of a door open to whoever knocks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Opening {
    /// Empty = every port.
    pub(super) ports: Vec<PortRange>,
    /// True if TCP and UDP are there only for lack of a protocol in the commands.
    pub(super) either_proto: bool,
    pub(super) forward: Option<Forward>,
    /// What a service opens beyond the rules.
    pub(super) wider: Vec<String>,
    /// Rules that the admin's own firewall needs from now on.
    pub(super) needs: Vec<String>,
}

/// Reads the commands of `door` for both families. They must mean the same.
pub(super) fn rule_changes(door: &Door, names: PortNames<'_>) -> Result<RuleChanges, Refusal> {
    let v4 = door.commands(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let v6 = door.commands(IpAddr::V6(Ipv6Addr::LOCALHOST));
    let (Some(v4), Some(v6)) = (v4, v6) else {
        return Err(Refusal::known("it opens over one of IPv4 and IPv6 alone"));
    };
    let mut changes = changes_of(v4, door.cmd_timeout, names)?;
    if v4 == v6 {
        return Ok(changes);
    }
    let other = changes_of(v6, door.cmd_timeout, names)?;
    let alike = changes.seconds == other.seconds
        && are_alike(&changes.added, &other.added)
        && are_alike(&changes.deleted, &other.deleted);
    if !alike {
        return Err(Refusal::known("its commands for IPv4 and IPv6 differ"));
    }
    changes.added.extend(other.added);
    changes.deleted.extend(other.deleted);
    Ok(changes)
}

/// True if the rules differ in their program and inner host at most.
fn are_alike(some: &[Rule], others: &[Rule]) -> bool {
    let same = |(one, other): (&Rule, &Rule)| {
        let place = one.place.clone();
        let target = match (&one.target, &other.target) {
            (Target::Dnat(..), Target::Dnat(..)) => one.target.clone(),
            _ => other.target.clone(),
        };
        *one == Rule { place, target, ..other.clone() }
    };
    some.len() == others.len() && some.iter().zip(others).all(same)
}

fn changes_of(
    commands: DoorCommands<'_>, cmd_timeout: i64, names: PortNames<'_>,
) -> Result<RuleChanges, Refusal> {
    let mut changes = RuleChanges::default();
    let mut pause = 0_u32;
    let mut before = Vec::new();
    for Action { text, effect } in actions(commands.start, names) {
        match effect {
            Effect::Unclear(reason) => return Err(Refusal::unclear(format!("`{text}`: {reason}"))),
            Effect::Beside => changes.beside.push(text),
            Effect::Pause(seconds) => pause = pause.saturating_add(seconds),
            Effect::Rule(rule) if rule.verb == Verb::Add && pause == 0 => changes.added.push(rule),
            Effect::Rule(rule) if rule.verb == Verb::Delete && pause > 0 => {
                changes.deleted.push(rule);
            }
            Effect::Rule(rule) if changes.added.is_empty() => before.push(rule),
            Effect::Rule(_) => return Err(Refusal::unclear(format!("`{text}` undoes the rest"))),
        }
    }
    let mut seconds = if changes.deleted.is_empty() { None } else { Some(pause) };
    // With a negative time it never runs.
    if let (Some(stop), Ok(timeout)) = (commands.stop, u32::try_from(cmd_timeout)) {
        for Action { text, effect } in actions(stop, names) {
            match effect {
                Effect::Unclear(reason) => {
                    return Err(Refusal::unclear(format!("`{text}`: {reason}")));
                }
                Effect::Beside => changes.beside.push(text),
                Effect::Pause(_) => {}
                Effect::Rule(rule) if rule.verb == Verb::Delete => {
                    changes.deleted.push(rule);
                    seconds = Some(timeout.saturating_add(pause));
                }
                Effect::Rule(_) => {
                    return Err(Refusal::known(format!("`{text}` adds a rule at its end")));
                }
            }
        }
    }
    if changes.added.is_empty() {
        // A door that only deletes.
        changes.deleted.splice(..0, before);
        return Ok(changes);
    }
    let lasts = changes.added.iter().map(|rule| rule.lasts).max().flatten();
    changes.seconds = seconds.or(lasts);
    // Deleting the same rule first is a habit that keeps it from being there twice.
    let strange = before
        .iter()
        .chain(&changes.deleted)
        .any(|deleted| !changes.added.iter().any(|added| added.taken_back_by(deleted)));
    if strange || seconds.is_some() && !takes_all_back(&changes.added, &changes.deleted) {
        return Err(Refusal::unclear("it does not delete exactly the rule that it adds"));
    }
    Ok(changes)
}

pub(super) fn takes_all_back(added: &[Rule], deleted: &[Rule]) -> bool {
    added.iter().all(|rule| deleted.iter().any(|other| rule.taken_back_by(other)))
}

/// True if `door` adds one of the rules `deleted`, whatever else it does.
pub(super) fn adds_one_of(door: &Door, deleted: &[Rule], names: PortNames<'_>) -> bool {
    lines(door).flat_map(|line| actions(line, names)).any(|action| match &action.effect {
        Effect::Rule(rule) => deleted.iter().any(|other| rule.taken_back_by(other)),
        _ => false,
    })
}

/// What `rules` open, if a service can open the same.
pub(super) fn opening(rules: &[Rule]) -> Result<Opening, Refusal> {
    let mut opening = Opening::default();
    let mut every = false;
    let mut to = Vec::new();
    let mut masquerade = false;
    let mut through = false;
    for rule in rules {
        let place = &rule.place;
        let ports = port_text(&rule.ports);
        match (&rule.target, rule.hook) {
            (Target::Accept, Hook::Output) => {
                let text = format!("it no longer puts its rule into {place}: let the answers out");
                opening.needs.push(text);
                continue;
            }
            (Target::Accept, Hook::Forward) => {
                through = true;
                let text = format!("it no longer puts its rule into {place}: let {ports} through");
                opening.needs.push(text);
                continue;
            }
            (Target::Masquerade, Hook::Postrouting) => {
                masquerade = true;
                continue;
            }
            (Target::Dnat(..), Hook::Prerouting) => match rule.ports.as_slice() {
                [port] if port.first == port.last => to.extend(rule.forwards(port.first)),
                _ => return Err(Refusal::known("it forwards more than one port")),
            },
            (Target::Accept, Hook::Custom) => {
                opening.wider.push(format!("{place} is taken for a chain that INPUT jumps to"));
            }
            (Target::Accept, Hook::Input) => {}
            _ => {
                return Err(Refusal::known(format!("its rule in {place} is not one that accepts")));
            }
        }
        if !rule.is_for_knocker() {
            let whom = rule.from.as_deref().unwrap_or("everybody");
            return Err(Refusal::known(format!("it opens {ports} to {whom}, not to its knocker")));
        }
        let narrower = rule.matches.iter().filter(|text| text.starts_with('-'));
        opening.wider.extend(narrower.map(|text| format!("a service knows no `{text}`")));
        every |= rule.ports.is_empty();
        opening.either_proto |= rule.either_proto;
        opening.ports.extend(&rule.ports);
    }
    opening.ports = if every { Vec::new() } else { ordered(opening.ports) };
    to.dedup();
    if to.is_empty() && (through || masquerade) {
        return Err(Refusal::known("it is about forwarded packets"));
    }
    if !to.is_empty() {
        let families = to.iter().filter(|host| host.is_ipv4()).count();
        let one_each = families <= 1 && to.len() - families <= 1;
        if !one_each || opening.ports.len() != 1 || !to.iter().all(|host| is_inner_host(*host)) {
            return Err(Refusal::known("its translation is more than one port to one inner host"));
        }
        opening.forward = Some(Forward { to, masquerade });
    }
    // No ports would mean every port.
    if opening.ports.is_empty() && !every {
        return Err(Refusal::known("it opens no port to its knocker"));
    }
    Ok(opening)
}

pub(super) fn port_text(ports: &[PortRange]) -> String {
    match ports {
        [] => "every port".to_owned(),
        _ => ports.iter().map(PortRange::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// What the guard may make useless: the first such command of `door`, and the guarded ports that
/// need a grant whatever it does. As far as the commands can be read, they change rules for these
/// ports; or it is not known what they do.
pub struct UselessCommands {
    pub first: String,
    /// As in `22/tcp (service ssh)`.
    pub ports: String,
}

/// The commands of `door` that the guard of `services` may make useless, if there are any.
pub fn useless_commands(
    door: &Door, services: &[Service], names: PortNames<'_>,
) -> Option<UselessCommands> {
    let mut first = None;
    let mut ports = Vec::new();
    for Action { text, effect } in lines(door).flat_map(|line| actions(line, names)) {
        for service in guarded(services) {
            let touched = match &effect {
                Effect::Rule(rule) => rule.meets(service),
                Effect::Unclear(_) => true,
                Effect::Pause(_) | Effect::Beside => false,
            };
            let port = service_text(service);
            if touched && !ports.contains(&port) {
                first.get_or_insert(text.clone());
                ports.push(port);
            }
        }
    }
    Some(UselessCommands { first: first?, ports: ports.join(", ") })
}

fn lines(door: &Door) -> impl Iterator<Item = &String> {
    let start = [&door.start_command, &door.start_command_6];
    start.into_iter().chain([&door.stop_command, &door.stop_command_6]).flatten()
}

/// The services whose ports the guard keeps shut.
pub(super) fn guarded(services: &[Service]) -> impl Iterator<Item = &Service> {
    services.iter().filter(|service| service.mode == Mode::Guard && !service.ports.is_empty())
}

/// As in `22/tcp (service ssh)`.
pub(super) fn service_text(service: &Service) -> String {
    format!("{} (service {})", service.ports.texts().join(", "), service.name)
}
