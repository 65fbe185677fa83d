//! The command lines of ufw that allow or deny, or take that back.

use super::{
    Effect, Hook, PortNames, Rule, Target, Verb, not_read, number, ordered, port_list, source,
};
use crate::core::types::{PortRange, Proto};

/// Reads the arguments of `ufw`. The last words are `PORT[/PROTO]`, or pairs as in
/// `from %IP% to any port 22`.
pub(super) fn read(arguments: &[&str], names: PortNames<'_>) -> Result<Effect, String> {
    let mut words = arguments.iter().copied().filter(|word| *word != "--force").peekable();
    let mut verb = Verb::Add;
    if words.next_if_eq(&"delete").is_some() {
        verb = Verb::Delete;
    } else if words.next_if_eq(&"insert").is_some() {
        let _ = words.next_if(|word| number(word).is_some());
    } else {
        let _ = words.next_if_eq(&"prepend");
    }
    let target = match words.next() {
        Some("allow") => Target::Accept,
        Some("deny" | "reject") => Target::Drop,
        other => return Err(not_read(other.unwrap_or("the end"))),
    };
    let _ = words.next_if_eq(&"in");
    let mut rule = Rule {
        verb,
        place: "ufw".to_owned(),
        hook: Hook::Input,
        from: None,
        ports: Vec::new(),
        either_proto: false,
        target,
        matches: Vec::new(),
        lasts: None,
    };
    let mut proto = None;
    let mut port = None;
    // A port behind `from` and before `to` is the knocker's own.
    let mut of_source = false;
    while let Some(word) = words.next() {
        let pair = ["on", "proto", "from", "to", "port", "comment"].contains(&word);
        let value = match (pair, words.peek()) {
            (true, Some(value)) => *value,
            (false, None | Some(&"comment")) if port.is_none() && rule.from.is_none() => {
                let (ports, after) = word.split_once('/').unwrap_or((word, ""));
                port = Some(if ports == "OpenSSH" { "22" } else { ports });
                proto = if ports == "OpenSSH" { Some("tcp") } else { proto };
                proto = if after.is_empty() { proto } else { Some(after) };
                continue;
            }
            _ => return Err(not_read(word)),
        };
        words.next();
        match word {
            "on" => rule.matches.push(format!("-i {value}")),
            "proto" => proto = Some(value),
            "from" => {
                rule.from = source(value);
                of_source = true;
            }
            "to" => {
                of_source = false;
                if value != "any" {
                    rule.matches.push(format!("-d {value}"));
                }
            }
            "port" if of_source => rule.matches.push(format!("--sport {value}")),
            "port" => port = Some(value),
            // ufw deletes a rule whatever its comment.
            _ => {}
        }
    }
    let protos = match proto {
        None | Some("any") => [Proto::Tcp, Proto::Udp].as_slice(),
        Some("tcp") => &[Proto::Tcp],
        Some("udp") => &[Proto::Udp],
        Some(other) => return Err(not_read(other)),
    };
    rule.either_proto = protos.len() > 1;
    for proto in protos {
        match port {
            Some(list) => rule.ports.extend(ports(list, *proto, rule.either_proto, names)?),
            None if rule.either_proto => {}
            None => rule.ports.push(PortRange { proto: *proto, first: 1, last: u16::MAX }),
        }
    }
    if port.is_some() && rule.ports.is_empty() {
        return Err(not_read(port.unwrap_or_default()));
    }
    rule.ports = ordered(rule.ports);
    rule.matches.sort_unstable();
    Ok(Effect::Rule(rule))
}

/// A name stands for the protocols that it is known for.
fn ports(
    list: &str, proto: Proto, either: bool, names: PortNames<'_>,
) -> Result<Vec<PortRange>, String> {
    let named = !list.starts_with(|c: char| c.is_ascii_digit());
    if named && either && names(list, proto).is_none() {
        return Ok(Vec::new());
    }
    port_list(list, proto, ':', names)
}
