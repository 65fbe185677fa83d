//! The command lines of firewall-cmd that add a port, a service, a source or a rich rule, or remove
//! one.

use super::{Effect, Hook, Rule, Target, Verb, not_read, ordered, port_list, seconds, source};
use crate::core::types::{PortRange, Proto};

/// firewalld's services of which the ports are known.
const SERVICES: [(&str, Proto, u16); 8] = [
    ("ssh", Proto::Tcp, 22),
    ("http", Proto::Tcp, 80),
    ("https", Proto::Tcp, 443),
    ("imaps", Proto::Tcp, 993),
    ("mysql", Proto::Tcp, 3306),
    ("postgresql", Proto::Tcp, 5432),
    ("openvpn", Proto::Udp, 1194),
    ("wireguard", Proto::Udp, 51820),
];

pub(super) fn read(arguments: &[&str]) -> Result<Effect, String> {
    let mut rule = None;
    let mut zone = "the default zone";
    let mut permanent = "";
    let mut lasts = None;
    let mut words = arguments.iter().copied();
    while let Some(word) = words.next() {
        let (option, value) = word.split_once('=').unwrap_or((word, ""));
        match option {
            "--permanent" => permanent = " --permanent",
            "--quiet" | "-q" => {}
            "--reload" => return Ok(Effect::Pause(0)),
            _ => {
                let value = if value.is_empty() { words.next().unwrap_or("") } else { value };
                match option {
                    "--zone" => zone = value,
                    "--timeout" => {
                        lasts = Some(seconds(value).ok_or_else(|| not_read(word))?);
                    }
                    _ if rule.is_none() => rule = Some(change(option, value)?),
                    _ => return Err("it makes more than one change".to_owned()),
                }
            }
        }
    }
    let mut rule = rule.ok_or("it changes no rule")?;
    rule.place = format!("firewalld {zone}{permanent}");
    rule.lasts = lasts.filter(|seconds| *seconds > 0);
    Ok(Effect::Rule(rule))
}

fn change(option: &str, value: &str) -> Result<Rule, String> {
    let (verb, what) = match (option.strip_prefix("--add-"), option.strip_prefix("--remove-")) {
        (Some(what), _) => (Verb::Add, what),
        (_, Some(what)) => (Verb::Delete, what),
        _ => return Err(not_read(option)),
    };
    let mut rule = Rule {
        verb,
        place: String::new(),
        hook: Hook::Input,
        from: None,
        ports: Vec::new(),
        either_proto: false,
        target: Target::Accept,
        matches: Vec::new(),
        lasts: None,
    };
    match what {
        "port" => rule.ports = port(value)?,
        "service" => rule.ports = service(value)?,
        "rich-rule" => rich(value, &mut rule)?,
        _ => return Err(not_read(option)),
    }
    Ok(rule)
}

/// `22/tcp` or `60000-61000/udp`.
fn port(text: &str) -> Result<Vec<PortRange>, String> {
    match text.split_once('/') {
        Some((ports, "tcp")) => port_list(ports, Proto::Tcp, '-', &|_, _| None),
        Some((ports, "udp")) => port_list(ports, Proto::Udp, '-', &|_, _| None),
        _ => Err(not_read(text)),
    }
}

fn service(name: &str) -> Result<Vec<PortRange>, String> {
    match SERVICES.iter().find(|(known, _, _)| *known == name) {
        Some((_, proto, port)) => Ok(vec![PortRange { proto: *proto, first: *port, last: *port }]),
        None => Err(format!("the ports of firewalld's service `{name}` are not known")),
    }
}

/// `rule family="ipv4" source address="%IP%" port port="22" protocol="tcp" accept`.
fn rich(text: &str, rule: &mut Rule) -> Result<(), String> {
    let mut number = "";
    let mut proto = "";
    let mut target = None;
    for word in text.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let value = value.trim_matches(['"', '\'']);
        match key {
            "rule" | "source" | "service" | "port" if value.is_empty() => {}
            // One family of the two, whichever %IP% is of.
            "family" => {}
            "address" => rule.from = source(value),
            "name" => rule.ports.extend(service(value)?),
            "port" => number = value,
            "protocol" => proto = value,
            "accept" => target = Some(Target::Accept),
            "drop" | "reject" => target = Some(Target::Drop),
            _ => return Err(not_read(word)),
        }
    }
    if !number.is_empty() {
        rule.ports.extend(port(&format!("{number}/{proto}"))?);
    }
    rule.target = target.ok_or("the rich rule neither accepts nor drops")?;
    rule.ports = ordered(std::mem::take(&mut rule.ports));
    Ok(())
}
