//! The command lines of iptables and ip6tables that put one rule in or take one out.

use std::net::IpAddr;

use super::{
    Effect, Hook, PortNames, Rule, Target, Verb, not_read, number, ordered, port_list, source,
};
use crate::core::types::{PortRange, Proto};

#[derive(Default)]
struct Options<'a> {
    table: Option<&'a str>,
    verb: Option<(Verb, &'a str)>,
    from: Option<String>,
    proto: Option<&'a str>,
    ports: Option<&'a str>,
    source_ports: Option<&'a str>,
    target: Option<&'a str>,
    to: Option<&'a str>,
    matches: Vec<String>,
}

pub(super) fn read(
    program: &str, arguments: &[&str], names: PortNames<'_>,
) -> Result<Effect, String> {
    let words = separated(arguments);
    let mut words = words.iter().copied().peekable();
    let mut options = Options::default();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| not_read(word));
        match word {
            "-w" | "--wait" => {
                words.next_if(|word| word.bytes().all(|b| b.is_ascii_digit()));
            }
            "-W" | "--wait-interval" => drop(value()?),
            "-v" | "--verbose" | "-n" | "--numeric" => {}
            "-C" | "--check" | "-L" | "--list" => return Ok(Effect::Pause(0)),
            "-t" | "--table" => set(&mut options.table, value()?, word)?,
            "-A" | "--append" | "-I" | "--insert" => {
                set(&mut options.verb, (Verb::Add, value()?), word)?;
                words.next_if(|word| number(word).is_some());
            }
            "-D" | "--delete" => {
                set(&mut options.verb, (Verb::Delete, value()?), word)?;
                if words.peek().is_some_and(|word| number(word).is_some()) {
                    return Err("it deletes a rule by its number".to_owned());
                }
            }
            "-s" | "--src" | "--source" => options.from = source(value()?),
            "-p" | "--proto" | "--protocol" => set(&mut options.proto, value()?, word)?,
            "-m" | "--match" => match value()? {
                "tcp" | "udp" | "multiport" | "comment" | "state" | "conntrack" => {}
                other => return Err(not_read(&format!("-m {other}"))),
            },
            "--syn" => options.matches.push("syn".to_owned()),
            "--comment" => options.matches.push(format!("comment {}", value()?)),
            "--state" | "--ctstate" => options.matches.push(states(value()?)?),
            "--dport" | "--destination-port" | "--dports" | "--destination-ports" => {
                set(&mut options.ports, value()?, word)?;
            }
            "-i" | "--in-interface" => options.matches.push(format!("-i {}", value()?)),
            "-o" | "--out-interface" => options.matches.push(format!("-o {}", value()?)),
            "-d" | "--dst" | "--destination" => options.matches.push(format!("-d {}", value()?)),
            "--sport" | "--source-port" | "--sports" | "--source-ports" => {
                set(&mut options.source_ports, value()?, word)?;
            }
            "-j" | "--jump" => set(&mut options.target, value()?, word)?,
            "--to-destination" | "--to-ports" | "--to-port" | "--to" => {
                set(&mut options.to, value()?, word)?;
            }
            "--reject-with" => drop(value()?),
            _ => return Err(not_read(word)),
        }
    }
    rule(program, options, names).map(Effect::Rule)
}

/// The words with each option apart from its value: not `-ptcp`, not `--dport=22`.
fn separated<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let mut words = Vec::new();
    for word in arguments {
        let (option, value) = match word.strip_prefix("--") {
            Some(_) => word.split_once('=').unwrap_or((word, "")),
            None if word.starts_with('-') => word.split_at_checked(2).unwrap_or((word, "")),
            None => (*word, ""),
        };
        words.push(option);
        if !value.is_empty() {
            words.push(value);
        }
    }
    words
}

fn set<T>(place: &mut Option<T>, value: T, word: &str) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("`{word}` is there twice")),
    }
}

/// New connections, with or without what belongs to them.
fn states(list: &str) -> Result<String, String> {
    let known = ["NEW", "ESTABLISHED", "RELATED"];
    let mut states: Vec<&str> = list.split(',').collect();
    states.sort_unstable();
    if states.iter().all(|state| known.contains(state)) && states.contains(&"NEW") {
        return Ok(format!("state {}", states.join(",")));
    }
    Err(format!("it is not about new connections, but about {list}"))
}

fn rule(program: &str, mut options: Options<'_>, names: PortNames<'_>) -> Result<Rule, String> {
    let Some((verb, chain)) = options.verb else {
        return Err("it neither adds a rule nor deletes one".to_owned());
    };
    let table = options.table.unwrap_or("filter");
    let (hook, place) = match (table, chain) {
        ("filter", _) => (filter_hook(chain)?, format!("{program} {chain}")),
        ("nat", "PREROUTING") => (Hook::Prerouting, format!("{program} -t nat {chain}")),
        ("nat", "POSTROUTING") => (Hook::Postrouting, format!("{program} -t nat {chain}")),
        _ => return Err(not_read(&format!("-t {table}"))),
    };
    let proto = match options.proto.map(str::to_ascii_lowercase).as_deref() {
        None | Some("all" | "0") => None,
        Some("tcp" | "6") => Some(Proto::Tcp),
        Some("udp" | "17") => Some(Proto::Udp),
        Some(other) => return Err(not_read(other)),
    };
    let mut near = options.ports;
    let mut far = options.source_ports.map(|list| format!("--sport {list}"));
    if hook == Hook::Output {
        near = options.source_ports;
        far = options.ports.map(|list| format!("--dport {list}"));
    }
    options.matches.extend(far);
    let ports = match (proto, near) {
        (Some(proto), Some(list)) => ordered(port_list(list, proto, ':', names)?),
        (Some(proto), None) => vec![PortRange { proto, first: 1, last: u16::MAX }],
        (None, None) => Vec::new(),
        (None, Some(_)) => return Err("it names a port without a protocol".to_owned()),
    };
    let target = match (options.target, options.to) {
        (Some("ACCEPT"), None) => Target::Accept,
        (Some("DROP" | "REJECT"), None) => Target::Drop,
        (Some("MASQUERADE"), None) => Target::Masquerade,
        (Some("DNAT"), Some(to)) => inner_host(to)?,
        (Some("REDIRECT"), Some(to)) => {
            match port_list(to, proto.unwrap_or(Proto::Tcp), '-', names)?.as_slice() {
                [to] => Target::Redirect(*to),
                _ => return Err(not_read(to)),
            }
        }
        (Some(other), _) => return Err(not_read(&format!("-j {other}"))),
        (None, _) => return Err("its rule has no target".to_owned()),
    };
    options.matches.sort_unstable();
    Ok(Rule {
        verb,
        place,
        hook,
        from: options.from,
        ports,
        either_proto: false,
        target,
        matches: options.matches,
        lasts: None,
    })
}

fn filter_hook(chain: &str) -> Result<Hook, String> {
    let built_in = [("INPUT", Hook::Input), ("FORWARD", Hook::Forward), ("OUTPUT", Hook::Output)];
    for (name, hook) in built_in {
        if chain == name {
            return Ok(hook);
        }
        if chain.eq_ignore_ascii_case(name) {
            return Err(format!("`{chain}` is not the chain {name}: iptables refuses it"));
        }
    }
    Ok(Hook::Custom)
}

/// `192.168.1.10`, `192.168.1.10:3389`, `[fd00::10]:3389`.
fn inner_host(to: &str) -> Result<Target, String> {
    if let Ok(ip) = to.parse() {
        return Ok(Target::Dnat(ip, None));
    }
    let host = to.rsplit_once(':').and_then(|(ip, port)| {
        let ip: IpAddr = ip.trim_matches(['[', ']']).parse().ok()?;
        Some(Target::Dnat(ip, Some(number(port)?)))
    });
    host.ok_or_else(|| format!("`{to}` is not one inner host"))
}
