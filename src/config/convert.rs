//! A knockd.conf -> the sections of toctocd.toml that mean the same, and what could not be said in
//! them. See `rules` for commands that only open ports.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::knockd::KnockdConf;
use super::{Door, Mode, Service, ServicePorts, Settings, defaults, print};
use crate::core::door::{Step, is_shipped};
use crate::core::types::{Port, Proto, ServiceName};
use rules::{IptablesRule, Verb};

mod rules;
#[cfg(test)]
mod tests;

/// Seconds of a grant for what one door opened and another one shut by hand.
const BY_HAND: u32 = 3600;
/// The most seconds that a service's grant may last by itself.
const LONGEST: u32 = 86_400;
/// Bytes of a door's name, with room for a number after it.
const NAME: usize = 120;

/// The sections for toctocd.toml, and what is different or missing, one sentence each.
#[derive(Debug, PartialEq, Eq)]
pub struct Converted {
    /// `[service.*]` and `[door.*]`, to append to the configuration; may be empty.
    pub toml: String,
    /// Doors without an equivalent in `toml`, and why.
    pub left_out: Vec<String>,
    /// Differences that a person must read before they trust it.
    pub notes: Vec<String>,
}

/// Converts `conf` to what can be appended to the configuration `existing`, whose services it uses.
pub fn convert(conf: &KnockdConf, existing: &Settings) -> Converted {
    let mut converter =
        Converter { existing, services: Vec::new(), left_out: Vec::new(), notes: Vec::new() };
    converter.options(conf);
    let plans = converter.plans(&conf.doors);
    let mut names: BTreeSet<String> = existing.doors.iter().map(|door| door.name.clone()).collect();
    let mut doors = Vec::new();
    for (door, plan) in conf.doors.iter().zip(&plans) {
        if let Some(mut new) = converter.door(door, plan) {
            new.name = unused(&mut names, &new.name);
            doors.push(new);
        }
    }
    let Converter { services, left_out, notes, .. } = converter;
    let toml = print::print_doors(&Settings { services, doors, ..defaults::settings() });
    Converted { toml, left_out, notes }
}

/// The new form of a door.
#[derive(Clone, Debug, PartialEq, Eq)]
enum DoorPlan {
    /// It grants this service.
    Service(ServiceName),
    /// It keeps its commands.
    Commands,
    /// It only shuts what now shuts by itself.
    Needless,
    /// It has no equivalent.
    LeftOut(String),
}

struct Converter<'a> {
    existing: &'a Settings,
    services: Vec<Service>,
    left_out: Vec<String>,
    notes: Vec<String>,
}

impl Converter<'_> {
    fn options(&mut self, conf: &KnockdConf) {
        if conf.use_syslog || conf.log_file.is_some() || conf.pid_file.is_some() {
            self.note(
                "UseSyslog, LogFile, PidFile: toctocd stays in the foreground and writes to \
                 standard error; its unit passes that to the journal",
            );
        }
        if let Some(name) = &conf.interface {
            self.note(format!(
                "Interface: toctocd listens on all interfaces; for this one alone, write \
                 interfaces = [\"{name}\"] under [knock]"
            ));
        }
        if self.existing.classic.is_some() {
            self.note(
                "[classic] knockd_conf: if it names this same file, remove it, or both forms of \
                 each door are served",
            );
        }
    }

    /// Decides first which doors open: a door that only shuts can go only if commands no longer
    /// open anything that it shuts.
    fn plans(&mut self, doors: &[Door]) -> Vec<DoorPlan> {
        let mut plans: Vec<DoorPlan> = doors.iter().map(|door| self.opener(door, doors)).collect();
        for index in 0..doors.len() {
            let Some(shuts) = shuts(&doors[index]) else { continue };
            if plans[index] != DoorPlan::Commands {
                continue;
            }
            let mut granted = false;
            let mut by_commands = false;
            for (door, plan) in doors.iter().zip(&plans) {
                if puts_in(door).iter().any(|rule| rule.taken_back_by(&shuts)) {
                    granted |= matches!(plan, DoorPlan::Service(_));
                    by_commands |= *plan == DoorPlan::Commands;
                }
            }
            if granted && !by_commands {
                plans[index] = DoorPlan::Needless;
            }
        }
        plans
    }

    fn opener(&mut self, door: &Door, all: &[Door]) -> DoorPlan {
        let name = &door.name;
        if let Some(reason) = unsayable(door, self.existing) {
            return DoorPlan::LeftOut(reason);
        }
        let Some(rule) = opens(door) else { return DoorPlan::Commands };
        let seconds = if door.stop_command.is_some() {
            match u32::try_from(door.cmd_timeout) {
                Ok(seconds) => seconds.clamp(1, LONGEST),
                // Its stop command never ran, so nothing limits it.
                Err(_) => return DoorPlan::Commands,
            }
        } else if all.iter().filter_map(shuts).any(|other| rule.taken_back_by(&other)) {
            self.note(format!(
                "door {name}: another door shut what it opens; now that shuts by itself after the \
                 `seconds` of its service"
            ));
            BY_HAND
        } else {
            self.note(format!("door {name}: nothing takes back what it opens; that stays so"));
            return DoorPlan::Commands;
        };
        match self.service(door, &rule.ports, seconds) {
            Some(service) => DoorPlan::Service(service),
            None => DoorPlan::Commands,
        }
    }

    /// The service of these ports; doors that open the same share it.
    fn service(&mut self, door: &Door, ports: &[Port], seconds: u32) -> Option<ServiceName> {
        let door = &door.name;
        let text = ports.iter().map(Port::to_string).collect::<Vec<_>>().join(", ");
        if let Some(service) = ports.iter().find_map(|port| self.service_at(port)) {
            let name = service.name;
            let lasts = service.seconds;
            let same = service.ports.digest() == ServicePorts::from(ports).digest();
            if !same {
                self.note(format!("door {door}: {text} is not all that service {name} opens"));
                return None;
            }
            if lasts != seconds {
                self.note(format!(
                    "door {door}: {text}: a grant of service {name} lasts {lasts} s, its own rule \
                     lasted {seconds} s"
                ));
            }
            return Some(name);
        }
        if ports.contains(&Port { proto: Proto::Udp, number: self.existing.knock.port }) {
            self.note(format!(
                "door {door}: {text} is the port of sealed knocks, which cannot be a service"
            ));
            return None;
        }
        let names = service_names(ports);
        let name = names.into_iter().find(|name| self.all_services().all(|s| s.name != *name))?;
        self.services.push(Service {
            mode: self.existing.firewall.mode,
            seconds,
            max_seconds: defaults::MAX_SECONDS.max(seconds),
            ..defaults::service(name, ports.into())
        });
        Some(name)
    }

    fn all_services(&self) -> impl Iterator<Item = &Service> {
        self.existing.services.iter().chain(&self.services)
    }

    fn service_at(&self, port: &Port) -> Option<&Service> {
        self.all_services().find(|service| service.ports.covers(*port))
    }

    /// The door in our form, if it has one.
    fn door(&mut self, door: &Door, plan: &DoorPlan) -> Option<Door> {
        let name = &door.name;
        let mut new = Door { native: true, ..door.clone() };
        match plan {
            DoorPlan::LeftOut(reason) => {
                self.left_out.push(format!("door {name}: {reason}"));
                return None;
            }
            DoorPlan::Needless => {
                self.note(format!(
                    "door {name}: not written: it only shuts what another door opens, and that \
                     shuts by itself now"
                ));
                return None;
            }
            DoorPlan::Service(service) => {
                new.service = Some(*service);
                new.start_command = None;
                new.start_command_6 = None;
                new.stop_command = None;
                new.stop_command_6 = None;
                new.cmd_timeout = Door::default().cmd_timeout;
                self.note_guard(*service);
            }
            DoorPlan::Commands => self.commands(door, &mut new),
        }
        new.seq_timeout = door.seq_timeout.clamp(1, LONGEST.into());
        if new.seq_timeout != door.seq_timeout {
            let old = door.seq_timeout;
            self.note(format!("door {name}: Seq_Timeout {old} is now {}", new.seq_timeout));
        }
        Some(new)
    }

    fn note_guard(&mut self, name: ServiceName) {
        let service = self.all_services().find(|service| service.name == name);
        self.note(match service.map(|service| service.mode) {
            Some(Mode::Mark) => format!(
                "service {name}: your own firewall shuts it, and lets in what toctocd marks: \
                 `toctocd check` prints the rule"
            ),
            _ => format!(
                "service {name}: toctocd itself shuts it to all but granted addresses; your own \
                 firewall must let its ports through from now on, or be told what is granted \
                 (mode = \"mark\")"
            ),
        });
    }

    fn commands(&mut self, door: &Door, new: &mut Door) {
        let name = &door.name;
        self.note(format!("door {name}: keeps its commands: no service says the same"));
        let rules = puts_in(door);
        let mut ports = rules.iter().flat_map(|rule| &rule.ports);
        if let Some(service) = ports.find_map(|port| self.service_at(port)) {
            self.note(format!(
                "door {name}: its commands no longer open anything: service {} has their port, \
                 and only grants get past that",
                service.name
            ));
        }
        if door.cmd_timeout < 0 && (door.stop_command.is_some() || door.stop_command_6.is_some()) {
            self.note(format!(
                "door {name}: its stop command never ran, by its negative Cmd_Timeout: dropped"
            ));
            new.stop_command = None;
            new.stop_command_6 = None;
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

/// The command as a rule with this verb, if it is exactly that.
fn rule(command: &Option<String>, verb: Verb) -> Option<IptablesRule> {
    rules::read(command.as_ref()?).filter(|rule| rule.verb == verb)
}

/// True if there is no command, or if it is a rule that fits.
fn none_or(command: &Option<String>, verb: Verb, fits: impl FnOnce(&IptablesRule) -> bool) -> bool {
    command.is_none() || rule(command, verb).is_some_and(|rule| fits(&rule))
}

/// The rule that the commands of `door` put in, if they do nothing else and their stop commands, if
/// any, take all of it back.
fn opens(door: &Door) -> Option<IptablesRule> {
    let start = rule(&door.start_command, Verb::Add)?;
    let start_6 = rule(&door.start_command_6, Verb::Add).unwrap_or_else(|| start.clone());
    let same = none_or(&door.start_command_6, Verb::Add, |rule| rule.ports == start.ports)
        && none_or(&door.stop_command, Verb::Delete, |stop| start.taken_back_by(stop))
        && none_or(&door.stop_command_6, Verb::Delete, |stop| start_6.taken_back_by(stop))
        && (door.stop_command.is_some() || door.stop_command_6.is_none());
    same.then_some(start)
}

/// The rules that `door` puts in, whatever else it does.
fn puts_in(door: &Door) -> Vec<IptablesRule> {
    let commands = [&door.start_command, &door.start_command_6];
    commands.into_iter().filter_map(|command| rule(command, Verb::Add)).collect()
}

/// The rule that `door` takes out, if it does nothing else.
fn shuts(door: &Door) -> Option<IptablesRule> {
    let start = rule(&door.start_command, Verb::Delete)?;
    let same = none_or(&door.start_command_6, Verb::Delete, |rule| rule.ports == start.ports)
        && door.stop_command.is_none()
        && door.stop_command_6.is_none();
    same.then_some(start)
}

/// Why our form cannot, or should not, express a door.
fn unsayable(door: &Door, existing: &Settings) -> Option<String> {
    if existing.doors.iter().any(|other| other.name == door.name) {
        return Some("toctocd.toml has a door of that name".into());
    }
    if is_shipped(&door.sequence) {
        return Some(
            "it has the sequence that knockd ships, which every scanner knows: choose other ports \
             first"
                .into(),
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
    if let Some(target) = &door.target
        && !target.parse::<IpAddr>().is_ok_and(|ip| ip.to_string() == *target)
    {
        return Some(format!(
            "its Target {target} is not an IP address as the kernel writes it, so it never opened"
        ));
    }
    if let Some(file) = &door.one_time_sequences
        && !file.has_root()
    {
        return Some(format!(
            "One_Time_Sequences {}: write it with its whole path first",
            file.display()
        ));
    }
    let commands = [&door.start_command, &door.start_command_6];
    if commands.into_iter().flatten().all(String::is_empty) {
        return Some("it runs no command, so it opens nothing".into());
    }
    None
}

/// A name that no other door has, and that ours may have.
fn unused(names: &mut BTreeSet<String>, name: &str) -> String {
    let mut plain: String = name.chars().map(|c| if c.is_control() { '_' } else { c }).collect();
    while plain.len() > NAME {
        plain.pop();
    }
    let mut free = plain.clone();
    let mut number = 2;
    while !names.insert(free.clone()) {
        free = format!("{plain}-{number}");
        number += 1;
    }
    free
}

/// Names that people know the ports by, the best first.
fn service_names(ports: &[Port]) -> Vec<ServiceName> {
    let Some(port) = ports.first() else { return Vec::new() };
    let known = match (port.proto, port.number) {
        (Proto::Tcp, 22) => "ssh",
        (Proto::Tcp, 80) => "http",
        (Proto::Tcp, 443) => "https",
        (Proto::Tcp, 3389) => "rdp",
        (Proto::Udp, 1194) => "openvpn",
        (Proto::Udp, 51820) => "wireguard",
        _ => "",
    };
    let plain = format!("{}-{}", port.proto.name(), port.number);
    [known, &plain].into_iter().filter_map(ServiceName::new).collect()
}
