//! The few iptables and ufw commands that mean "this address may reach these ports". A command that
//! is only nearly one is not accepted.

use std::str::SplitWhitespace;

use crate::core::types::{Port, Proto};

/// `iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT`, in any order of its options, or a
/// similar command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IptablesRule {
    pub(super) verb: Verb,
    /// The ports that it opens, in order, each once.
    pub(super) ports: Vec<Port>,
    table: Table,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    V4,
    V6,
    Ufw,
}

impl IptablesRule {
    /// True if `other` takes out what this puts in.
    pub(super) fn taken_back_by(&self, other: &IptablesRule) -> bool {
        self.verb == Verb::Add
            && other.verb == Verb::Delete
            && self.ports == other.ports
            && self.table == other.table
    }
}

/// Directories in which a program of that name is the usual one.
const DIRECTORIES: [&str; 5] = ["/sbin/", "/usr/sbin/", "/bin/", "/usr/bin/", "/usr/local/sbin/"];

/// Reads a command; `None` unless every word of it is understood.
pub(super) fn read(command: &str) -> Option<IptablesRule> {
    let mut words = command.split_whitespace();
    let program = words.next()?;
    let directory = DIRECTORIES.iter().find(|directory| program.starts_with(**directory));
    let name = &program[directory.map_or(0, |directory| directory.len())..];
    match name {
        "iptables" | "iptables-nft" | "iptables-legacy" => iptables(Table::V4, words),
        "ip6tables" | "ip6tables-nft" | "ip6tables-legacy" => iptables(Table::V6, words),
        "ufw" => ufw(words),
        _ => None,
    }
}

fn iptables(table: Table, mut words: SplitWhitespace<'_>) -> Option<IptablesRule> {
    let mut verb = None;
    let mut source = None;
    let mut accept = None;
    let mut proto = None;
    let mut numbers = None;
    while let Some(word) = words.next() {
        match word {
            "-w" | "--wait" => skip(&mut words, |word| word.parse::<u8>().is_ok()),
            "-A" | "--append" | "-I" | "--insert" => {
                set(&mut verb, Verb::Add)?;
                exactly(words.next()?, &["INPUT"])?;
                skip(&mut words, |word| word == "1");
            }
            "-D" | "--delete" => {
                set(&mut verb, Verb::Delete)?;
                exactly(words.next()?, &["INPUT"])?;
            }
            "-s" | "--src" | "--source" => {
                set(&mut source, exactly(words.next()?, &["%IP%", "%IP%/32", "%IP%/128"])?)?;
            }
            "-p" | "--proto" | "--protocol" => set(&mut proto, protocol(words.next()?)?)?,
            "-m" | "--match" => matching(&mut words)?,
            "--syn" => {}
            "--dport" | "--destination-port" => set(&mut numbers, vec![number(words.next()?)?])?,
            "--dports" | "--destination-ports" => {
                let list = words.next()?.split(',').map(number).collect::<Option<Vec<_>>>()?;
                set(&mut numbers, list)?;
            }
            "-j" | "--jump" => set(&mut accept, exactly(words.next()?, &["ACCEPT"])?)?,
            _ => return None,
        }
    }
    source?;
    accept?;
    let proto = proto?;
    let ports = numbers?.into_iter().map(|number| Port { proto, number }).collect();
    Some(IptablesRule { verb: verb?, ports: ordered(ports)?, table })
}

/// A match that changes nothing: the protocol's own, a comment, new connections.
fn matching(words: &mut SplitWhitespace<'_>) -> Option<()> {
    match words.next()? {
        "tcp" | "udp" | "multiport" => Some(()),
        "comment" => {
            exactly(words.next()?, &["--comment"])?;
            plain(words.next()?)
        }
        "state" => {
            exactly(words.next()?, &["--state"])?;
            states(words.next()?)
        }
        "conntrack" => {
            exactly(words.next()?, &["--ctstate"])?;
            states(words.next()?)
        }
        _ => None,
    }
}

/// `ufw [insert 1] allow [proto tcp] from %IP% to any port 22 [proto tcp]`, and with `delete`.
/// Without a protocol ufw means both.
fn ufw(mut words: SplitWhitespace<'_>) -> Option<IptablesRule> {
    skip(&mut words, |word| word == "--force");
    let mut verb = Verb::Add;
    let mut word = words.next()?;
    match word {
        "delete" => {
            verb = Verb::Delete;
            word = words.next()?;
        }
        "insert" => {
            exactly(words.next()?, &["1"])?;
            word = words.next()?;
        }
        "prepend" => word = words.next()?,
        _ => {}
    }
    exactly(word, &["allow"])?;
    skip(&mut words, |word| word == "in");
    let mut proto = None;
    let mut from = None;
    let mut to = None;
    let mut port = None;
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word {
            "proto" => set(&mut proto, protocol(value)?)?,
            "from" => set(&mut from, exactly(value, &["%IP%"])?)?,
            "to" => set(&mut to, exactly(value, &["any"])?)?,
            "port" => set(&mut port, number(value)?)?,
            "comment" => plain(value)?,
            _ => return None,
        }
    }
    from?;
    to?;
    let number = port?;
    let protos = match proto {
        Some(proto) => vec![proto],
        None => vec![Proto::Tcp, Proto::Udp],
    };
    let ports = protos.into_iter().map(|proto| Port { proto, number }).collect();
    Some(IptablesRule { verb, ports: ordered(ports)?, table: Table::Ufw })
}

/// `None` if it was set before.
fn set<T>(place: &mut Option<T>, value: T) -> Option<()> {
    if place.is_some() {
        return None;
    }
    *place = Some(value);
    Some(())
}

fn exactly(word: &str, known: &[&str]) -> Option<()> {
    known.contains(&word).then_some(())
}

fn skip(words: &mut SplitWhitespace<'_>, is: impl Fn(&str) -> bool) {
    if words.clone().next().is_some_and(is) {
        words.next();
    }
}

fn protocol(word: &str) -> Option<Proto> {
    match word {
        "tcp" | "6" => Some(Proto::Tcp),
        "udp" | "17" => Some(Proto::Udp),
        _ => None,
    }
}

/// New connections, with or without what belongs to them.
fn states(list: &str) -> Option<()> {
    let known = ["NEW", "ESTABLISHED", "RELATED"];
    let sound = list.split(',').all(|state| known.contains(&state))
        && list.split(',').any(|state| state == "NEW");
    sound.then_some(())
}

/// A port as both programs print it: no range, no name, no zero.
fn number(word: &str) -> Option<u16> {
    let port: u16 = word.parse().ok()?;
    (port > 0 && port.to_string() == word).then_some(port)
}

/// The ports in order, each once; `None` if there is none.
fn ordered(mut ports: Vec<Port>) -> Option<Vec<Port>> {
    ports.sort_by_key(|port| (port.number, port.proto.name()));
    ports.dedup();
    if ports.is_empty() { None } else { Some(ports) }
}

/// A word that the shell takes as it is.
fn plain(word: &str) -> Option<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-:/".contains(&b);
    word.bytes().all(plain).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Option<(Verb, Vec<String>)> {
        read(text).map(|rule| (rule.verb, rule.ports.iter().map(Port::to_string).collect()))
    }

    #[test]
    fn the_common_forms_are_known() {
        for (text, verb, ports) in [
            ("/sbin/iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", Verb::Add, "22/tcp"),
            (
                "/usr/sbin/iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT",
                Verb::Delete,
                "22/tcp",
            ),
            (
                "iptables -w 5 -I INPUT 1 -p tcp -s %IP%/32 -m tcp --dport 22 -j ACCEPT",
                Verb::Add,
                "22/tcp",
            ),
            (
                "ip6tables --insert INPUT --source %IP% -p tcp -m state --state NEW --dport 22 -j ACCEPT",
                Verb::Add,
                "22/tcp",
            ),
            (
                "iptables -A INPUT -m comment --comment knock -s %IP% -p 6 --dport 22 --jump ACCEPT",
                Verb::Add,
                "22/tcp",
            ),
            ("iptables -A INPUT -s %IP% -p tcp --syn --dport 22 -j ACCEPT", Verb::Add, "22/tcp"),
            (
                "iptables -A INPUT -p tcp -m tcp -m conntrack --ctstate NEW,ESTABLISHED -s %IP% --dport 22 -j ACCEPT",
                Verb::Add,
                "22/tcp",
            ),
            (
                "iptables -A INPUT -s %IP% -p tcp -m multiport --dports 443,80 -j ACCEPT",
                Verb::Add,
                "80/tcp 443/tcp",
            ),
            ("ufw allow from %IP% to any port 22", Verb::Add, "22/tcp 22/udp"),
            (
                "/usr/sbin/ufw insert 1 allow proto tcp from %IP% to any port 22 comment knock",
                Verb::Add,
                "22/tcp",
            ),
            (
                "ufw --force delete allow in from %IP% to any port 22 proto tcp",
                Verb::Delete,
                "22/tcp",
            ),
        ] {
            let ports = ports.split(' ').map(ToString::to_string).collect();
            assert_eq!(said(text), Some((verb, ports)), "{text}");
        }
    }

    #[test]
    fn a_rule_is_taken_back_by_its_own_removal_only() {
        let rule = |text: &str| read(text).unwrap();
        let add = rule("iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT");
        assert!(
            add.taken_back_by(&rule("/sbin/iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT"))
        );
        for other in [
            "iptables -D INPUT -s %IP% -p tcp --dport 23 -j ACCEPT",
            "iptables -D INPUT -s %IP% -p udp --dport 22 -j ACCEPT",
            "ip6tables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT",
            "ufw delete allow from %IP% to any port 22 proto tcp",
            "iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT",
        ] {
            assert!(!add.taken_back_by(&rule(other)), "{other}");
        }
    }

    #[test]
    fn a_command_that_does_anything_else_is_not_a_rule() {
        for text in [
            "iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT; date",
            "iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT && logger x",
            "iptables -A INPUT -s %IP% -p tcp --dport 22 -j DROP",
            "iptables -A FORWARD -s %IP% -p tcp --dport 22 -j ACCEPT",
            "iptables -A INPUT -s %IP% -p tcp -j ACCEPT",
            "iptables -A INPUT -s %IP% -j ACCEPT",
            "iptables -A INPUT -p tcp --dport 22 -j ACCEPT",
            "iptables -A INPUT -s %IP% -p tcp --dport 22:25 -j ACCEPT",
            "iptables -A INPUT -s %IP% -p tcp --dport 0 -j ACCEPT",
            "iptables -A INPUT -s %IP% -p tcp --dport ssh -j ACCEPT",
            "iptables -A INPUT -s %IP% -p tcp -m multiport --dports 1,2,3:5 -j ACCEPT",
            "iptables -A INPUT -s %IP% -i eth1 -p tcp --dport 22 -j ACCEPT",
            "iptables -A INPUT ! -s %IP% -p tcp --dport 22 -j ACCEPT",
            "iptables -A INPUT -s %IP% -p tcp --dport 22 --dport 23 -j ACCEPT",
            "iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT -m comment --comment $(x)",
            "iptables -A INPUT -s %IP% -p tcp -m state --state ESTABLISHED --dport 22 -j ACCEPT",
            "iptables -t nat -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT",
            "iptables -D INPUT 1",
            "echo iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT",
            "/opt/my/iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT",
            "ufw allow from %IP%",
            "ufw allow 22/tcp",
            "ufw allow from any to any port 22",
            "ufw deny from %IP% to any port 22",
            "ufw allow from %IP% to any port 22 && logger x",
            "nft add element inet filter knocked { %IP% }",
            "",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
