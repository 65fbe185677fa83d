//! What the commands of a door do to a firewall, as far as that can be told: rules that are put in
//! or taken out, pauses, things beside the point, and what is not known.

use std::net::{IpAddr, SocketAddr};

use super::shell::{SimpleCommand, simple_commands};
use crate::core::service::{Service, ServicePorts};
use crate::core::types::{Port, PortRange, Proto};

mod firewalld;
mod iptables;
mod ufw;

/// The port of a name, as /etc/services has it.
pub type PortNames<'a> = &'a dyn Fn(&str, Proto) -> Option<u16>;

/// A simple command and its effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Action {
    pub(super) text: String,
    pub(super) effect: Effect,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Rule(Rule),
    /// `sleep`, in seconds. 0 for what only looks at rules or loads them.
    Pause(u32),
    /// Neither opens nor closes anything, such as `logger`.
    Beside,
    /// The reason why it cannot be told.
    Unclear(String),
}

/// A rule of a firewall that a command puts in or takes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) verb: Verb,
    /// Program and chain, for comparison and messages.
    pub(super) place: String,
    pub(super) hook: Hook,
    /// The source; `None` = everybody.
    pub(super) from: Option<String>,
    /// The ports of this machine or of an inner host; empty = every port. In OUTPUT packets come
    /// from them, elsewhere they go there.
    pub(super) ports: Vec<PortRange>,
    /// True if the command names no protocol, so that it means TCP and UDP.
    pub(super) either_proto: bool,
    pub(super) target: Target,
    /// The rest of its conditions, sorted. Those that begin with `-` narrow it down.
    pub(super) matches: Vec<String>,
    /// The seconds after which the firewall itself takes it out.
    pub(super) lasts: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Delete,
}

/// The packets that pass a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// To this machine.
    Input,
    Forward,
    Output,
    /// To this machine, before translation.
    Prerouting,
    Postrouting,
    /// A chain of the admin's: whatever is sent there.
    Custom,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Accept,
    /// Drops or rejects.
    Drop,
    /// Translates the destination; `None` = the port stays.
    Dnat(IpAddr, Option<u16>),
    /// Translates the port, on this machine.
    Redirect(PortRange),
    Masquerade,
}

impl Rule {
    /// True if `other` takes out what this puts in.
    pub(super) fn taken_back_by(&self, other: &Rule) -> bool {
        let added = Rule { verb: Verb::Add, lasts: self.lasts, ..other.clone() };
        self.verb == Verb::Add && other.verb == Verb::Delete && *self == added
    }

    /// True if it is for the knocker alone.
    pub(super) fn is_for_knocker(&self) -> bool {
        self.from.as_deref() == Some(KNOCKER)
    }

    /// True if it is about packets to or from any port of `service`, as far as the rule tells. Such
    /// a packet comes through only if the guard lets its flow in: a translation by another rule
    /// may lead from the port to the inner host of a FORWARD rule, and OUTPUT sees the answers.
    pub(super) fn meets(&self, service: &Service) -> bool {
        if self.asks_others() {
            return false;
        }
        let mut theirs = match &service.ports {
            ServicePorts::Listed(ports) => ports.clone(),
            ServicePorts::AllBut(_) => EVERY_PORT.to_vec(),
        };
        if matches!(self.hook, Hook::Forward | Hook::Postrouting)
            && let ([port], Some(forward)) = (service.ports.ranges(), &service.forward)
        {
            for to in &forward.to {
                theirs.push(Port { proto: port.proto, number: to.port() }.into());
            }
        }
        let mut own = self.ports.clone();
        match &self.target {
            Target::Redirect(to) => own.push(*to),
            // It may lead to an address of this machine.
            Target::Dnat(_, Some(to)) => {
                let proto = self.ports.first().map_or(Proto::Tcp, |port| port.proto);
                own.push(Port { proto, number: *to }.into());
            }
            _ => {}
        }
        self.ports.is_empty() || own.iter().any(|one| theirs.iter().any(|port| one.meets(*port)))
    }

    /// True if it lets this machine ask others. The guard lets the answers in.
    fn asks_others(&self) -> bool {
        let from_any = self.ports.iter().all(|port| port.first == 1 && port.last == u16::MAX);
        let has_port = self.matches.iter().any(|text| text.starts_with("--dport"));
        self.hook == Hook::Output && from_any && has_port
    }

    /// The inner host and port of a translation of `port`.
    pub(super) fn forwards(&self, port: u16) -> Option<SocketAddr> {
        match self.target {
            Target::Dnat(ip, to) => Some(SocketAddr::new(ip, to.unwrap_or(port))),
            _ => None,
        }
    }
}

/// What `ports = ["all"]` can cover.
const EVERY_PORT: [PortRange; 2] = [
    PortRange { proto: Proto::Tcp, first: 1, last: u16::MAX },
    PortRange { proto: Proto::Udp, first: 1, last: u16::MAX },
];
/// Stands for the source in a command.
pub(super) const KNOCKER: &str = "%IP%";
/// Directories in which a program of that name is the usual one.
const DIRECTORIES: [&str; 6] =
    ["/sbin/", "/usr/sbin/", "/bin/", "/usr/bin/", "/usr/local/sbin/", "/usr/local/bin/"];
/// Programs that neither open nor close anything, whatever their arguments.
const BESIDE: [&str; 23] = [
    "logger",
    "echo",
    "printf",
    "date",
    "true",
    ":",
    "mail",
    "mailx",
    "sendmail",
    "msmtp",
    "wall",
    "wakeonlan",
    "etherwake",
    "ether-wake",
    "wol",
    "test",
    "[",
    "reboot",
    "poweroff",
    "halt",
    "shutdown",
    "whoami",
    "id",
];
/// Programs that run the rest of their words as a command.
const WRAPPERS: [&str; 9] =
    ["sudo", "doas", "nohup", "exec", "setsid", "nice", "timeout", "env", "command"];
pub(super) const SHELLS: [&str; 6] = ["sh", "bash", "dash", "ash", "ksh", "zsh"];
/// The deepest nesting of `sh -c`.
pub(super) const DEPTH: usize = 4;

/// The effects of a command line, in their order.
pub(super) fn actions(line: &str, names: PortNames<'_>) -> Vec<Action> {
    let Some(commands) = commands(line, DEPTH) else {
        let effect = Effect::Unclear("only a shell can tell what this does".to_owned());
        return vec![Action { text: line.to_owned(), effect }];
    };
    let mut actions = Vec::new();
    for command in commands {
        let effect = effect(&command, names).unwrap_or_else(Effect::Unclear);
        actions.push(Action { text: command.words.join(" "), effect });
    }
    actions
}

/// The simple commands that a line runs in the end, without `sudo` and `sh -c`.
fn commands(line: &str, depth: usize) -> Option<Vec<SimpleCommand>> {
    let mut found = Vec::new();
    for SimpleCommand { words, files } in simple_commands(line).filter(|_| depth > 0)? {
        let mut words = unwrapped(&words);
        if let [shell, rest @ ..] = words
            && SHELLS.contains(&program(shell))
            && let Some(line) = line_of(rest)
        {
            found.extend(commands(line, depth - 1)?);
            words = &[];
        }
        if !words.is_empty() || !files.is_empty() {
            found.push(SimpleCommand { words: words.to_vec(), files });
        }
    }
    Some(found)
}

/// The command line among the arguments of a shell: `-c LINE`, `-ec LINE`.
pub(super) fn line_of(arguments: &[String]) -> Option<&String> {
    let is_command = |word: &String| {
        word.strip_prefix('-').is_some_and(|flags| flags.ends_with('c') && !flags.contains('-'))
    };
    let option = arguments.iter().take_while(|word| word.starts_with('-')).position(is_command)?;
    arguments.get(option + 1)
}

/// The usual name of a program, or its whole path if that is elsewhere.
pub(super) fn program(word: &str) -> &str {
    let name = DIRECTORIES.iter().find_map(|directory| word.strip_prefix(directory));
    name.filter(|name| !name.contains('/')).unwrap_or(word)
}

/// The words without programs that only run another one.
pub(super) fn unwrapped(mut words: &[String]) -> &[String] {
    while let [first, rest @ ..] = words {
        let name = program(first);
        if !WRAPPERS.contains(&name) {
            break;
        }
        words = rest;
        while let [option, after @ ..] = words
            && (option.starts_with('-') || name == "env" && option.contains('='))
        {
            let has_value = match option.as_str() {
                "-u" | "-g" => matches!(name, "sudo" | "doas" | "env"),
                "-n" => name == "nice",
                "-s" | "-k" => name == "timeout",
                _ => false,
            };
            words = if has_value { after.get(1..).unwrap_or_default() } else { after };
        }
        if name == "timeout" {
            words = words.get(1..).unwrap_or_default();
        }
    }
    words
}

fn effect(command: &SimpleCommand, names: PortNames<'_>) -> Result<Effect, String> {
    if let Some(file) = command.files.iter().find(|file| !is_log(file)) {
        return Err(format!("it writes to {file}"));
    }
    let Some((first, arguments)) = command.words.split_first() else { return Ok(Effect::Beside) };
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match (program(first), arguments.as_slice()) {
        ("iptables" | "iptables-nft" | "iptables-legacy", arguments) => {
            iptables::read("iptables", arguments, names)
        }
        ("ip6tables" | "ip6tables-nft" | "ip6tables-legacy", arguments) => {
            iptables::read("ip6tables", arguments, names)
        }
        ("ufw", arguments) => ufw::read(arguments, names),
        ("firewall-cmd", arguments) => firewalld::read(arguments),
        ("sleep", [time]) => seconds(time).map(Effect::Pause).ok_or_else(|| not_read(time)),
        (name, _) if BESIDE.contains(&name) => Ok(Effect::Beside),
        _ => Err("it is not known what this does".to_owned()),
    }
}

/// True for a file that nothing but people read. Any other may be what a program waits for.
fn is_log(file: &str) -> bool {
    let ends = ["/dev/null", "/dev/stdout", "/dev/stderr", "/dev/console"];
    let is_in_log = file.starts_with("/var/log/") && !file.contains("..");
    is_in_log || file.ends_with(".log") || ends.contains(&file)
}

pub(super) fn not_read(word: &str) -> String {
    format!("`{word}` is not known there")
}

/// A time as `sleep` and `firewall-cmd --timeout` take it.
pub(super) fn seconds(text: &str) -> Option<u32> {
    let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(end) => text.split_at(end),
        None => (text, "s"),
    };
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    digits.parse::<u32>().ok()?.checked_mul(unit)
}

/// The source in a rule, one spelling for each.
pub(super) fn source(word: &str) -> Option<String> {
    match word {
        "any" | "0.0.0.0/0" | "0/0" | "::/0" => None,
        "%IP%/32" | "%IP%/128" => Some(KNOCKER.to_owned()),
        other => Some(other.to_owned()),
    }
}

/// Ports with commas between them: a number, a range with `between`, a name.
pub(super) fn port_list(
    text: &str, proto: Proto, between: char, names: PortNames<'_>,
) -> Result<Vec<PortRange>, String> {
    let mut ports = Vec::new();
    for word in text.split(',') {
        let (first, last) = word.split_once(between).unwrap_or((word, word));
        let port = |word: &str| number(word).or_else(|| names(word, proto));
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => {
                ports.push(PortRange { proto, first, last });
            }
            _ => return Err(format!("`{word}` is not a known port")),
        }
    }
    Ok(ports)
}

/// A port as firewalls print it: no leading zero, which some read as octal.
pub(super) fn number(word: &str) -> Option<u16> {
    let port: u16 = word.parse().ok()?;
    if port > 0 && port.to_string() == word { Some(port) } else { None }
}

/// The ports in order, each once.
pub(super) fn ordered(mut ports: Vec<PortRange>) -> Vec<PortRange> {
    ports.sort_by_key(|port| (port.first, port.proto, port.last));
    ports.dedup();
    ports
}
