//! A knockd.conf as the sections for toctocd.toml that mean the same, with what could not be said
//! in them. Which commands are one rule in disguise is left to `rules`, where the text goes to
//! `app`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::knockd::KnockdConf;
use super::{Door, Mode, Service, Settings, defaults, print};
use crate::core::door::{Step, is_shipped};
use crate::core::types::{Port, Proto, ServiceName};
use rules::{IptablesRule, Verb};

mod rules;

/// How long a service that a pair of doors opened and shut is granted, seconds: what the old close
/// door did by hand.
const BY_HAND: u32 = 3600;
/// The longest that a service's grant may last by itself, seconds.
const LONGEST: u32 = 86_400;
/// Bytes of a door's name, with room for a number behind it.
const NAME: usize = 120;

/// The sections for toctocd.toml, and what is different or missing, one sentence each.
#[derive(Debug, PartialEq, Eq)]
pub struct Converted {
    /// `[service.*]` and `[door.*]`, to be appended to what is there; empty if there is nothing to
    /// append.
    pub toml: String,
    /// Doors without an equal in `toml`, and why.
    pub left_out: Vec<String>,
    /// What is different, for people to read before they trust it.
    pub notes: Vec<String>,
}

/// Converts `conf` to what can be appended to the configuration `there`, whose services it uses.
pub fn convert(conf: &KnockdConf, there: &Settings) -> Converted {
    let mut work =
        Converter { there, services: Vec::new(), left_out: Vec::new(), notes: Vec::new() };
    work.options(conf);
    let plans = work.plans(&conf.doors);
    let mut names: BTreeSet<String> = there.doors.iter().map(|door| door.name.clone()).collect();
    let mut doors = Vec::new();
    for (door, plan) in conf.doors.iter().zip(&plans) {
        doors.extend(
            work.door(door, plan).map(|new| Door { name: unused(&mut names, &new.name), ..new }),
        );
    }
    let Converter { services, left_out, notes, .. } = work;
    let toml = print::print_doors(&Settings { services, doors, ..defaults::settings() });
    Converted { toml, left_out, notes }
}

/// What becomes of a door.
#[derive(Clone, Debug, PartialEq, Eq)]
enum DoorPlan {
    /// It grants this service.
    Service(ServiceName),
    /// It keeps its commands.
    Commands,
    /// It only shuts what now shuts by itself.
    Needless,
    /// It has no equal.
    LeftOut(String),
}

struct Converter<'a> {
    there: &'a Settings,
    services: Vec<Service>,
    left_out: Vec<String>,
    notes: Vec<String>,
}

impl Converter<'_> {
    fn options(&mut self, conf: &KnockdConf) {
        if conf.use_syslog || conf.log_file.is_some() || conf.pid_file.is_some() {
            self.note("UseSyslog, LogFile, PidFile: toctocd stays in the foreground and writes to standard error; its unit gives that to the journal");
        }
        if let Some(name) = &conf.interface {
            self.note(format!(
                "Interface: toctocd listens on all; for this one alone, write interfaces = [\"{name}\"] under [knock]"
            ));
        }
        if self.there.classic.is_some() {
            self.note(
                "[classic] knockd_conf: if it names this same file, remove it, or both forms of each door are served",
            );
        }
    }

    /// Who opens is decided first: a door that only shuts can go only if nothing that it shuts is
    /// opened by commands any more.
    fn plans(&mut self, doors: &[Door]) -> Vec<DoorPlan> {
        let mut plans: Vec<_> = doors.iter().map(|door| self.opener(door, doors)).collect();
        for index in 0..doors.len() {
            let Some(shuts) = shuts(&doors[index]).filter(|_| plans[index] == DoorPlan::Commands)
            else {
                continue;
            };
            let openers = |door: &Door| puts_in(door).any(|rule| rule.taken_back_by(&shuts));
            let theirs: Vec<_> = doors
                .iter()
                .zip(&plans)
                .filter(|(door, _)| openers(door))
                .map(|(_, plan)| plan)
                .collect();
            let granted = theirs.iter().any(|plan| matches!(plan, DoorPlan::Service(_)));
            if granted && !theirs.contains(&&DoorPlan::Commands) {
                plans[index] = DoorPlan::Needless;
            }
        }
        plans
    }

    fn opener(&mut self, door: &Door, all: &[Door]) -> DoorPlan {
        if let Some(reason) = unsayable(door, self.there) {
            return DoorPlan::LeftOut(reason);
        }
        let Some(rule) = opens(door) else { return DoorPlan::Commands };
        let seconds = if door.stop_command.is_some() {
            match u32::try_from(door.cmd_timeout) {
                Ok(seconds) => seconds.clamp(1, LONGEST),
                // It never came to its stop command, so nothing limits it.
                Err(_) => return DoorPlan::Commands,
            }
        } else if all.iter().filter_map(shuts).any(|other| rule.taken_back_by(&other)) {
            self.note(format!(
                "door {}: another door shut what it opens; now that shuts by itself after the `seconds` of its service",
                door.name
            ));
            BY_HAND
        } else {
            self.note(format!(
                "door {}: nothing takes back what it opens; that stays so",
                door.name
            ));
            return DoorPlan::Commands;
        };
        self.service(door, &rule.ports, seconds).map_or(DoorPlan::Commands, DoorPlan::Service)
    }

    /// The service of these ports; doors that open the same share it.
    fn service(&mut self, door: &Door, ports: &[Port], seconds: u32) -> Option<ServiceName> {
        let known = |port: &Port| {
            self.there.services.iter().chain(&self.services).find(|one| one.ports.contains(port))
        };
        let text = ports.iter().map(Port::to_string).collect::<Vec<_>>().join(", ");
        if let Some(service) = ports.iter().find_map(known) {
            let (name, lasts) = (service.name, service.seconds);
            let same = ports.len() == service.ports.len()
                && ports.iter().all(|port| service.ports.contains(port));
            let what = match same {
                false => "is not all that the service of that port opens".into(),
                true if lasts != seconds => {
                    format!(
                        "a grant of that service lasts {lasts} s, its own rule lasted {seconds} s"
                    )
                }
                true => return Some(name),
            };
            self.note(format!("door {}: {text}: service {name}: {what}", door.name));
            return same.then_some(name);
        }
        if ports.contains(&Port { proto: Proto::Udp, number: self.there.knock.port }) {
            self.note(format!(
                "door {}: {text} is the port of sealed knocks, which cannot be a service",
                door.name
            ));
            return None;
        }
        let taken = |name: &ServiceName| {
            self.there.services.iter().chain(&self.services).any(|one| one.name == *name)
        };
        let name = service_names(ports).into_iter().find(|name| !taken(name))?;
        let (mode, max_seconds) = (self.there.firewall.mode, defaults::MAX_SECONDS.max(seconds));
        self.services.push(Service {
            mode,
            seconds,
            max_seconds,
            ..defaults::service(name, ports.to_vec())
        });
        Some(name)
    }

    /// The door in our form, if it has one.
    fn door(&mut self, door: &Door, plan: &DoorPlan) -> Option<Door> {
        let mut new = Door { native: true, ..door.clone() };
        match plan {
            DoorPlan::LeftOut(reason) => {
                self.left_out.push(format!("door {}: {reason}", door.name));
                return None;
            }
            DoorPlan::Needless => {
                self.note(format!(
                    "door {}: not written: it only shuts what another door opens, and that shuts by itself now",
                    door.name
                ));
                return None;
            }
            DoorPlan::Service(service) => {
                new.service = Some(*service);
                [&mut new.start_command, &mut new.start_command_6]
                    .into_iter()
                    .for_each(|command| *command = None);
                [&mut new.stop_command, &mut new.stop_command_6]
                    .into_iter()
                    .for_each(|command| *command = None);
                new.cmd_timeout = Door::default().cmd_timeout;
                self.guarded(*service);
            }
            DoorPlan::Commands => self.commands(door, &mut new),
        }
        new.seq_timeout = door.seq_timeout.clamp(1, LONGEST.into());
        if new.seq_timeout != door.seq_timeout {
            self.note(format!(
                "door {}: Seq_Timeout {} is now {}",
                door.name, door.seq_timeout, new.seq_timeout
            ));
        }
        Some(new)
    }

    fn guarded(&mut self, name: ServiceName) {
        let service = self.there.services.iter().chain(&self.services).find(|one| one.name == name);
        self.note(match service.map(|one| one.mode) {
            Some(Mode::Mark) => format!(
                "service {name}: your own firewall shuts it, and lets in what toctocd marks: `toctocd check` prints the rule"
            ),
            _ => format!(
                "service {name}: toctocd itself shuts it to all but granted addresses; your own firewall must let its ports \
                 through from now on, or be told what is granted (mode = \"mark\")"
            ),
        });
    }

    fn commands(&mut self, door: &Door, new: &mut Door) {
        self.note(format!("door {}: keeps its commands: no service says the same", door.name));
        let services = self.there.services.iter().chain(&self.services);
        let guarded =
            |port: &Port| services.clone().find(|one| one.ports.contains(port)).map(|one| one.name);
        if let Some(service) = puts_in(door).find_map(|rule| rule.ports.iter().find_map(guarded)) {
            self.note(format!(
                "door {}: its commands open nothing any more: service {service} has their port, and only grants get past that",
                door.name
            ));
        }
        if door.cmd_timeout < 0 && (door.stop_command.is_some() || door.stop_command_6.is_some()) {
            self.note(format!(
                "door {}: its stop command never ran, by its negative Cmd_Timeout: dropped",
                door.name
            ));
            (new.stop_command, new.stop_command_6) = (None, None);
        }
        new.cmd_timeout = new.cmd_timeout.clamp(0, 31_536_000);
    }

    fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// What the commands of `door` open, where that is all that they do and their stop commands, if
/// any, take all of it back.
fn opens(door: &Door) -> Option<IptablesRule> {
    let start = rule(&door.start_command, Verb::Add)??;
    let start_6 = rule(&door.start_command_6, Verb::Add)?;
    let stop = rule(&door.stop_command, Verb::Delete)?;
    let stop_6 = rule(&door.stop_command_6, Verb::Delete)?;
    let same = start_6.as_ref().is_none_or(|rule| rule.ports == start.ports)
        && stop.as_ref().is_none_or(|stop| start.taken_back_by(stop))
        && stop_6
            .as_ref()
            .is_none_or(|stop| start_6.as_ref().unwrap_or(&start).taken_back_by(stop))
        && stop.is_some() >= stop_6.is_some();
    same.then_some(start)
}

/// The rules that `door` puts in, whatever else it does.
fn puts_in(door: &Door) -> impl Iterator<Item = IptablesRule> {
    let commands = [&door.start_command, &door.start_command_6];
    commands
        .into_iter()
        .flatten()
        .filter_map(|text| rules::read(text))
        .filter(|rule| rule.verb == Verb::Add)
}

/// What `door` takes back, where it does nothing else.
fn shuts(door: &Door) -> Option<IptablesRule> {
    let start = rule(&door.start_command, Verb::Delete)??;
    let same =
        rule(&door.start_command_6, Verb::Delete)?.is_none_or(|rule| rule.ports == start.ports);
    (same && door.stop_command.is_none() && door.stop_command_6.is_none()).then_some(start)
}

/// `None`: the command is there and is no such rule. `Some(None)`: there is no command.
#[allow(clippy::option_option)] // two questions in a row, each answered by `?`
fn rule(command: &Option<String>, verb: Verb) -> Option<Option<IptablesRule>> {
    let Some(text) = command else { return Some(None) };
    rules::read(text).filter(|rule| rule.verb == verb).map(Some)
}

/// What of a door our form has no words for, or does not want.
fn unsayable(door: &Door, there: &Settings) -> Option<String> {
    if there.doors.iter().any(|other| other.name == door.name) {
        return Some("toctocd.toml has a door of that name".into());
    }
    if is_shipped(&door.sequence) {
        return Some(
            "it has the sequence that knockd ships, which every scanner knows: choose other ports first".into(),
        );
    }
    if door.sequence.iter().any(|step| *step == Step::tcp(0) || *step == Step::udp(0)) {
        return Some("port 0 is in its sequence, most likely by a typing error".into());
    }
    if door.seq_timeout <= 0 && door.sequence.len() > 1 {
        return Some(format!(
            "its Seq_Timeout of {} lets nobody get through its sequence",
            door.seq_timeout
        ));
    }
    // knockd compares the text: another spelling of the same address has never matched.
    let plain =
        |target: &String| target.parse::<IpAddr>().is_ok_and(|ip| ip.to_string() == *target);
    if let Some(target) = door.target.as_ref().filter(|target| !plain(target)) {
        return Some(format!(
            "its Target {target} is not an IP address as the kernel writes it, so it never opened"
        ));
    }
    if let Some(file) = door.one_time_sequences.as_ref().filter(|file| !file.has_root()) {
        return Some(format!(
            "One_Time_Sequences {}: write it with its whole path first",
            file.display()
        ));
    }
    let nothing = |command: &Option<String>| command.as_ref().is_none_or(String::is_empty);
    (nothing(&door.start_command) && nothing(&door.start_command_6))
        .then(|| "it runs no command, so it opens nothing".into())
}

/// A name that no other door has, and that ours may have.
fn unused(names: &mut BTreeSet<String>, name: &str) -> String {
    let mut plain: String = name.chars().map(|c| if c.is_control() { '_' } else { c }).collect();
    while plain.len() > NAME {
        plain.pop();
    }
    let numbered = (2_u32..).map(|number| format!("{plain}-{number}"));
    let free = std::iter::once(plain.clone())
        .chain(numbered)
        .find(|name| !names.contains(name))
        .unwrap_or_default();
    names.insert(free.clone());
    free
}

/// Names that people know the ports by, the best first.
fn service_names(ports: &[Port]) -> Vec<ServiceName> {
    let known = |port: &Port| match (port.proto, port.number) {
        (Proto::Tcp, 22) => Some("ssh"),
        (Proto::Tcp, 80) => Some("http"),
        (Proto::Tcp, 443) => Some("https"),
        (Proto::Tcp, 3389) => Some("rdp"),
        (Proto::Udp, 1194) => Some("openvpn"),
        (Proto::Udp, 51820) => Some("wireguard"),
        _ => None,
    };
    let plain = ports
        .first()
        .map(|port| format!("{}-{}", port.proto.name(), port.number))
        .unwrap_or_default();
    let names = [ports.first().and_then(known), Some(plain.as_str())];
    names.into_iter().flatten().filter_map(ServiceName::new).collect()
}

#[cfg(test)]
mod tests;
