//! A knockd.conf as the toctocd.toml that means the same, with what could not be said in it.
//! Which commands are one service in disguise is left to `iptables`, where the text goes to `app`.

use std::collections::{BTreeMap, BTreeSet};

use super::knockd::KnockdConf;
use super::{Door, Service, Settings, defaults, print};
use crate::core::door::{Step, is_shipped};
use crate::core::types::{Port, Proto, ServiceName};
use iptables::{Rule, Verb};

mod iptables;

/// How long a service that a pair of doors opened and shut is granted, seconds: what the old close door did by hand.
const BY_HAND: u32 = 3600;

/// The sections for toctocd.toml, and what is different or missing, one sentence each.
#[derive(Debug, PartialEq, Eq)]
pub struct Converted {
    /// `[service.*]` and `[door.*]`, to be appended to what `toctocd init` writes.
    pub toml: String,
    /// For people to read before they trust it.
    pub remarks: Vec<String>,
}

/// Converts `conf`.
pub fn convert(conf: &KnockdConf) -> Converted {
    let mut work = Work::default();
    work.options(conf);
    let rules: Vec<_> = conf.doors.iter().map(Rules::of).collect();
    for (door, rules) in conf.doors.iter().zip(&rules) {
        work.door(door, rules, &rules_of_others(conf, door));
    }
    let settings = Settings { services: work.services, doors: work.doors, ..defaults::settings() };
    Converted { toml: print::print_doors(&settings), remarks: work.remarks }
}

/// What a door's commands amount to, where they are plain iptables.
struct Rules {
    start: Option<Rule>,
    stop: Option<Rule>,
}

impl Rules {
    fn of(door: &Door) -> Self {
        let rule = |text: &Option<String>| text.as_deref().and_then(iptables::read);
        Self { start: rule(&door.start_command), stop: rule(&door.stop_command) }
    }
}

/// The rules that the start commands of other doors take out again.
fn rules_of_others(conf: &KnockdConf, door: &Door) -> Vec<Rule> {
    let others = conf.doors.iter().filter(|other| !std::ptr::eq(*other, door));
    others.filter_map(|other| Rules::of(other).start).collect()
}

#[derive(Default)]
struct Work {
    services: Vec<Service>,
    doors: Vec<Door>,
    names: BTreeSet<String>,
    by_port: BTreeMap<(Port, u32), ServiceName>,
    remarks: Vec<String>,
}

impl Work {
    fn options(&mut self, conf: &KnockdConf) {
        if conf.use_syslog || conf.log_file.is_some() || conf.pid_file.is_some() {
            self.remark("UseSyslog, LogFile, PidFile: toctocd runs in the foreground and writes to standard error, which its unit gives to the journal");
        }
        if let Some(name) = &conf.interface {
            self.remark(format!("Interface: write interfaces = [\"{name}\"] under [knock], or leave it at [\"any\"]"));
        }
    }

    fn door(&mut self, door: &Door, rules: &Rules, others: &[Rule]) {
        if let Some(reason) = unsayable(door) {
            return self.remark(format!("door {}: left out: {reason}", door.name));
        }
        let found = self.service(door, rules, others);
        let mut new = Door { native: true, ..door.clone() };
        match found {
            Found::Service(service) => {
                new.service = Some(service);
                (new.start_command, new.stop_command) = (None, None);
                new.cmd_timeout = Door::default().cmd_timeout;
            }
            Found::Closer => {
                return self.remark(format!(
                    "door {}: left out: it only takes back what another door opens, and that ends by itself now",
                    door.name
                ));
            }
            Found::Commands if door.start_command.is_none() && door.start_command_6.is_none() => {
                return self.remark(format!("door {}: left out: it runs no command, so it opens nothing", door.name));
            }
            Found::Commands => self.remark(format!("door {}: its commands stay commands", door.name)),
        }
        new.name = self.unused_name(&door.name);
        new.seq_timeout = door.seq_timeout.clamp(1, 86_400);
        if new.seq_timeout != door.seq_timeout {
            self.remark(format!("door {}: Seq_Timeout {} is now {}", door.name, door.seq_timeout, new.seq_timeout));
        }
        if new.cmd_timeout < 0 {
            self.remark(format!(
                "door {}: its stop command never ran, by its negative Cmd_Timeout: left out",
                door.name
            ));
            (new.stop_command, new.stop_command_6, new.cmd_timeout) = (None, None, Door::default().cmd_timeout);
        }
        new.cmd_timeout = new.cmd_timeout.min(31_536_000);
        self.doors.push(new);
    }

    fn service(&mut self, door: &Door, rules: &Rules, others: &[Rule]) -> Found {
        if door.start_command_6.is_some() || door.stop_command_6.is_some() {
            return Found::Commands;
        }
        match (&rules.start, &rules.stop) {
            (Some(start), Some(stop)) if start.verb == Verb::Add && start.taken_back_by(stop) => {
                let seconds = u32::try_from(door.cmd_timeout).unwrap_or(0).clamp(1, 86_400);
                Found::Service(self.service_for(start.port, seconds, &door.name))
            }
            (Some(start), None) if start.verb == Verb::Add && door.stop_command.is_none() => {
                if !others.iter().any(|other| start.taken_back_by(other)) {
                    return Found::Commands;
                }
                self.remark(format!(
                    "door {}: was shut by another door; now it shuts by itself after {BY_HAND} s (`seconds` of its service)",
                    door.name
                ));
                Found::Service(self.service_for(start.port, BY_HAND, &door.name))
            }
            (Some(start), None) if start.verb == Verb::Delete && door.stop_command.is_none() => {
                if others.iter().any(|other| other.taken_back_by(start)) { Found::Closer } else { Found::Commands }
            }
            _ => Found::Commands,
        }
    }

    /// A service of one port and time; doors that open the same share it.
    fn service_for(&mut self, port: Port, seconds: u32, door: &str) -> ServiceName {
        if let Some(known) = self.by_port.get(&(port, seconds)) {
            return *known;
        }
        if self.by_port.keys().any(|(other, _)| *other == port) {
            self.remark(format!("door {door}: {port} is a service already, and its time is taken"));
            let known = self.by_port.iter().find(|((other, _), _)| *other == port).map(|(_, name)| *name);
            return known.unwrap_or(ServiceName::NONE);
        }
        let name = service_name(port);
        let max_seconds = defaults::MAX_SECONDS.max(seconds);
        let service = Service { seconds, max_seconds, ..defaults::service(name, vec![port]) };
        self.by_port.insert((port, seconds), name);
        self.services.push(service);
        self.remark(format!(
            "service {name}: toctocd's guard shuts {port} by itself; take your own rules for it out of the firewall afterwards"
        ));
        name
    }

    fn unused_name(&mut self, name: &str) -> String {
        let mut unused = name.to_string();
        for number in 2_u32.. {
            if self.names.insert(unused.clone()) {
                break;
            }
            unused = format!("{name}-{number}");
        }
        unused
    }

    fn remark(&mut self, text: impl Into<String>) {
        self.remarks.push(text.into());
    }
}

enum Found {
    Service(ServiceName),
    Closer,
    Commands,
}

/// What of a door our form has no words for, or does not want.
fn unsayable(door: &Door) -> Option<String> {
    if is_shipped(&door.sequence) {
        return Some("it has the sequence that knockd ships, which every scanner knows: choose another".into());
    }
    if door.sequence.iter().any(|step| *step == Step::tcp(0) || *step == Step::udp(0)) {
        return Some("port 0 is in its sequence, most likely by a typing error".into());
    }
    let odd = |target: &String| target.parse::<std::net::IpAddr>().is_err();
    if let Some(target) = door.target.as_ref().filter(|target| odd(target)) {
        return Some(format!("its Target {target} is not an IP address, so it never opened"));
    }
    None
}

/// A name that people know the port by.
fn service_name(port: Port) -> ServiceName {
    let known = match (port.proto, port.number) {
        (Proto::Tcp, 22) => Some("ssh"),
        (Proto::Tcp, 80) => Some("http"),
        (Proto::Tcp, 443) => Some("https"),
        (Proto::Tcp, 3389) => Some("rdp"),
        (Proto::Udp, 1194) => Some("openvpn"),
        (Proto::Udp, 51820) => Some("wireguard"),
        _ => None,
    };
    let plain = format!("{}-{}", port.proto.name(), port.number);
    ServiceName::new(known.unwrap_or(&plain)).unwrap_or(ServiceName::NONE)
}

#[cfg(test)]
mod tests;
