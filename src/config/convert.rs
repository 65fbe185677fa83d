//! A knockd.conf -> the sections of toctocd.toml that mean the same, and what could not be said in
//! them. See `opening` for commands that only open ports, `fwknop` for the files of fwknop.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::knockd::KnockdConf;
use super::{Door, Mode, Service, ServicePorts, Settings, defaults, is_interface, print};
use crate::core::door::{Step, is_shipped};
use crate::core::types::ServiceName;
use opening::{
    Refusal, RuleChanges, adds_one_of, guarded, opening, rule_changes, service_text, takes_all_back,
};
pub use opening::{UselessCommands, useless_commands};
pub use programs::{ProgramName, programs, programs_of};
pub use rules::PortNames;
use rules::Rule;

pub mod fwknop;
mod opening;
mod programs;
mod rules;
mod services;
mod shell;
#[cfg(test)]
mod tests;

/// The most seconds that a service's grant may last by itself.
const LONGEST: u32 = 86_400;
/// Bytes of a door's name, with room for a number after it.
const NAME: usize = 120;

/// The sections for toctocd.toml, and what is different or missing, one sentence each.
#[derive(Debug, PartialEq, Eq)]
pub struct Converted {
    /// `[service.*]` and `[door.*]`, to append to the configuration; may be empty.
    pub toml: String,
    /// The commands that invite who could knock before, one for each key; none for doors.
    pub invitations: Vec<String>,
    /// Doors or stanzas without an equivalent in `toml`, and why.
    pub left_out: Vec<String>,
    /// Doors and stanzas that may not do what they did: not understood, or with less or more than before.
    pub warnings: Vec<String>,
    /// Differences that a person must read before they trust it.
    pub notes: Vec<String>,
}

/// Converts `conf` to what can be appended to the configuration `existing`, whose services it uses.
/// `own` are this machine's addresses.
pub fn convert(
    conf: &KnockdConf, existing: &Settings, names: PortNames<'_>, own: &[IpAddr],
) -> Converted {
    let mut converter = Converter::new(existing, names, own);
    converter.options(conf);
    let plans = converter.plans(conf);
    let mut names: BTreeSet<String> = existing.doors.iter().map(|door| door.name.clone()).collect();
    let mut doors = Vec::new();
    for (door, plan) in conf.doors.iter().zip(&plans) {
        if let Some(mut new) = converter.door(door, plan) {
            new.name = unused(&mut names, &new.name);
            doors.push(new);
        }
    }
    converter.converted(doors, Vec::new())
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum DoorPlan {
    Service(ServiceName),
    Commands(Refusal),
    /// It only shuts what now shuts by itself.
    Needless,
    LeftOut(String),
}

/// The end of what a door opens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    After(u32),
    ByDoor,
    Never,
    NoOpening,
}

impl Ends {
    fn of(changes: &RuleChanges, all: &[Result<RuleChanges, DoorPlan>]) -> Ends {
        match changes.seconds {
            _ if changes.added.is_empty() => Ends::NoOpening,
            Some(seconds) => Ends::After(seconds.clamp(1, LONGEST)),
            None if all.iter().flatten().any(|other| shuts(other, changes)) => Ends::ByDoor,
            None => Ends::Never,
        }
    }

    /// Doors that make a service come first: what that guards makes other commands useless. Doors
    /// that only shut come last.
    fn turn(self) -> u8 {
        match self {
            Ends::After(_) => 0,
            Ends::ByDoor => 1,
            Ends::Never => 2,
            Ends::NoOpening => 3,
        }
    }
}

/// True if the first door only takes out what the other puts in.
fn shuts(door: &RuleChanges, other: &RuleChanges) -> bool {
    door.added.is_empty() && !other.added.is_empty() && takes_all_back(&other.added, &door.deleted)
}

struct Converter<'a> {
    existing: &'a Settings,
    names: PortNames<'a>,
    own: &'a [IpAddr],
    services: Vec<Service>,
    left_out: Vec<String>,
    warnings: Vec<String>,
    notes: Vec<String>,
}

impl<'a> Converter<'a> {
    fn new(existing: &'a Settings, names: PortNames<'a>, own: &'a [IpAddr]) -> Converter<'a> {
        Converter {
            existing,
            names,
            own,
            services: Vec::new(),
            left_out: Vec::new(),
            warnings: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn converted(self, doors: Vec<Door>, invitations: Vec<String>) -> Converted {
        let Converter { services, left_out, warnings, notes, .. } = self;
        let firewall = self.existing.firewall.clone();
        let settings = Settings { services, doors, firewall, ..defaults::settings() };
        let toml = print::print_doors(&settings);
        Converted { toml, invitations, left_out, warnings, notes }
    }
}

impl Converter<'_> {
    fn options(&mut self, conf: &KnockdConf) {
        if conf.use_syslog || conf.log_file.is_some() || conf.pid_file.is_some() {
            self.note(
                "UseSyslog, LogFile, PidFile: toctocd stays in the foreground and writes to \
                 standard error; its unit passes that to the journal",
            );
        }
        if let Some(value) = &conf.interface {
            let name = value.split_whitespace().next().unwrap_or_default();
            if !is_interface(value) {
                self.note(format!(
                    "Interface: {value:?} is no name of an interface: knockd takes the whole line, \
                     a comment included, so it cannot have started"
                ));
            }
            self.note(format!(
                "Interface: toctocd listens on all interfaces; for this one alone, write \
                 interfaces = [{name:?}] under [knock]"
            ));
        }
        if self.existing.classic.is_some() {
            self.note(
                "[classic] knockd_conf: if it names this same file, remove it, or both forms of \
                 each door are served",
            );
        }
        for wrong in conf.wrong.iter().filter(|wrong| wrong.door.is_none()) {
            let (what, _) = wrong.what.explained();
            self.warn(format!("line {}: {what}: knockd refuses the whole file", wrong.line));
        }
    }

    fn plans(&mut self, conf: &KnockdConf) -> Vec<DoorPlan> {
        let mut all = Vec::new();
        for (index, door) in conf.doors.iter().enumerate() {
            all.push(match unsayable(index, conf, self.existing) {
                Some(reason) => Err(DoorPlan::LeftOut(reason)),
                None => rule_changes(door, self.names).map_err(DoorPlan::Commands),
            });
        }
        let mut plans = Vec::new();
        let mut turns = Vec::new();
        for (index, changes) in all.iter().enumerate() {
            if let Ok(changes) = changes {
                turns.push((Ends::of(changes, &all).turn(), index));
            }
            plans.push(changes.as_ref().err().cloned().unwrap_or(DoorPlan::Needless));
        }
        turns.sort_unstable();
        for (_, index) in turns {
            let Ok(changes) = &all[index] else { continue };
            plans[index] = match Ends::of(changes, &all) {
                Ends::NoOpening => self.closer(&changes.deleted, &conf.doors, &plans),
                ends => match self.opener(&conf.doors[index], changes, ends) {
                    Ok(service) => DoorPlan::Service(service),
                    Err(refusal) => DoorPlan::Commands(refusal),
                },
            };
        }
        plans
    }

    /// The plan for a door that only deletes these rules.
    fn closer(&self, deleted: &[Rule], doors: &[Door], plans: &[DoorPlan]) -> DoorPlan {
        let mut granted = false;
        let mut by_commands = false;
        for (door, plan) in doors.iter().zip(plans) {
            if adds_one_of(door, deleted, self.names) {
                granted |= matches!(plan, DoorPlan::Service(_));
                by_commands |= matches!(plan, DoorPlan::Commands(_));
            }
        }
        match granted && !by_commands {
            true => DoorPlan::Needless,
            false => DoorPlan::Commands(Refusal::known("it opens no port")),
        }
    }

    fn opener(
        &mut self, door: &Door, changes: &RuleChanges, ends: Ends,
    ) -> Result<ServiceName, Refusal> {
        let opening = opening(&changes.added)?;
        let inner = opening.forward.iter().flat_map(|forward| &forward.to);
        if inner.clone().any(|host| self.own.contains(&host.ip())) {
            return Err(Refusal::known("its translation leads to this machine itself"));
        }
        let name = &door.name;
        let service = self.service(&format!("door {name}"), &opening, ends)?;
        for text in &opening.wider {
            self.warn(format!("door {name}: grants service {service}, but {text}"));
        }
        for text in &changes.beside {
            self.warn(format!("door {name}: grants service {service} and no longer runs `{text}`"));
        }
        for text in &opening.needs {
            self.note(format!("door {name}: {text}, by a rule of your own"));
        }
        Ok(service)
    }

    fn door(&mut self, door: &Door, plan: &DoorPlan) -> Option<Door> {
        let name = &door.name;
        let mut new = Door { native: true, ..door.clone() };
        let has_stop = door.stop_command.is_some() || door.stop_command_6.is_some();
        if has_stop && door.cmd_timeout < 0 && !matches!(plan, DoorPlan::LeftOut(_)) {
            self.note(format!(
                "door {name}: its stop command never ran, by its negative Cmd_Timeout: dropped"
            ));
            new.stop_command = None;
            new.stop_command_6 = None;
        }
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
                self.warn_of_others(name, *service);
            }
            DoorPlan::Commands(refusal) => self.commands(door, refusal, &mut new),
        }
        new.seq_timeout = door.seq_timeout.clamp(1, LONGEST.into());
        if new.seq_timeout != door.seq_timeout {
            let old = door.seq_timeout;
            self.note(format!("door {name}: Seq_Timeout {old} is now {}", new.seq_timeout));
        }
        Some(new)
    }

    /// A rule that accepted every port is now a service of all ports that no other service has.
    fn warn_of_others(&mut self, door: &str, name: ServiceName) {
        let services: Vec<Service> = self.all_services().cloned().collect();
        let mut own = services.iter().filter(|service| service.name == name);
        if own.any(|service| matches!(service.ports, ServicePorts::AllBut(_))) {
            for other in guarded(&services).filter(|other| other.name != name) {
                let other = service_text(other);
                self.warn(format!("door {door}: grants service {name}, which is without {other}"));
            }
        }
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

    fn commands(&mut self, door: &Door, refusal: &Refusal, new: &mut Door) {
        let services: Vec<Service> = self.all_services().cloned().collect();
        let mut text = format!("door {}: keeps its commands: {}", door.name, refusal.reason);
        let useless = useless_commands(door, &services, self.names);
        if let Some(useless) = &useless {
            text += &format!("; whatever they do, {} needs a grant from now on", useless.ports);
        }
        match useless.is_some() || !refusal.known {
            true => self.warn(text),
            false => self.note(text),
        }
        new.cmd_timeout = new.cmd_timeout.clamp(0, 31_536_000);
    }

    fn warn(&mut self, text: String) {
        self.warnings.push(text);
    }

    fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// Why our form cannot, or should not, express a door.
fn unsayable(index: usize, conf: &KnockdConf, existing: &Settings) -> Option<String> {
    let door = &conf.doors[index];
    if let Some(wrong) = conf.wrong.iter().find(|wrong| wrong.door == Some(index)) {
        let (what, remedy) = wrong.what.explained();
        return Some(format!("line {}: {what}: {remedy}", wrong.line));
    }
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
        let file = file.display();
        return Some(format!("One_Time_Sequences {file}: write it with its whole path first"));
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
