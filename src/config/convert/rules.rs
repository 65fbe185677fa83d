//! The few iptables and ufw lines that mean "this address may reach these ports", and nothing that
//! is only nearly one. What becomes of them is left to `convert`.

use crate::core::types::{Port, Proto, SERVICE_PORTS};

/// `iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT`, in any order of its options, or its
/// like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IptablesRule {
    /// Whether it puts the rule in or takes it out.
    pub(super) verb: Verb,
    /// The ports that it opens, in order, each once.
    pub(super) ports: Vec<Port>,
    /// Whose rules it changes.
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
    /// Whether `other` takes out what this puts in.
    pub(super) fn taken_back_by(&self, other: &IptablesRule) -> bool {
        self.verb == Verb::Add
            && other.verb == Verb::Delete
            && self.ports == other.ports
            && self.table == other.table
    }
}

/// Where a program of that name is the one that everybody means.
const DIRECTORIES: [&str; 5] = ["/sbin/", "/usr/sbin/", "/bin/", "/usr/bin/", "/usr/local/sbin/"];

/// Reads a command; `None` unless every word of it is understood.
pub(super) fn read(command: &str) -> Option<IptablesRule> {
    let mut words: Vec<&str> = command.split_whitespace().collect();
    let program = (!words.is_empty()).then(|| words.remove(0))?;
    let name =
        DIRECTORIES.iter().find_map(|directory| program.strip_prefix(directory)).unwrap_or(program);
    let mut words = words.into_iter();
    match name {
        "iptables" | "iptables-nft" | "iptables-legacy" => iptables(Table::V4, &mut words),
        "ip6tables" | "ip6tables-nft" | "ip6tables-legacy" => iptables(Table::V6, &mut words),
        "ufw" => ufw(&mut words),
        _ => None,
    }
}

type Words<'a> = std::vec::IntoIter<&'a str>;

fn iptables(table: Table, words: &mut Words<'_>) -> Option<IptablesRule> {
    let (mut verb, mut source, mut accepts, mut proto, mut numbers) =
        (None, false, false, None, None);
    while let Some(word) = words.next() {
        match word {
            "-w" | "--wait" => skip(words, |word| word.parse::<u8>().is_ok()),
            "-A" | "--append" | "-I" | "--insert" | "-D" | "--delete" => {
                let adds = !matches!(word, "-D" | "--delete");
                set(&mut verb, if adds { Verb::Add } else { Verb::Delete })?;
                (words.next()? == "INPUT").then_some(())?;
                skip(words, |word| adds && word == "1");
            }
            "-s" | "--src" | "--source" => {
                (matches!(words.next()?, "%IP%" | "%IP%/32" | "%IP%/128") && !source)
                    .then_some(())?;
                source = true;
            }
            "-p" | "--proto" | "--protocol" => set(&mut proto, protocol(words.next()?)?)?,
            "-m" | "--match" => match words.next()? {
                "tcp" | "udp" | "multiport" => {}
                "comment" => {
                    (words.next()? == "--comment").then_some(())?;
                    words.next().filter(|comment| plain(comment))?;
                }
                "state" => (words.next()? == "--state" && states(words.next()?)).then_some(())?,
                "conntrack" => {
                    (words.next()? == "--ctstate" && states(words.next()?)).then_some(())?
                }
                _ => return None,
            },
            "--syn" => {}
            "--dport" | "--destination-port" => set(&mut numbers, vec![number(words.next()?)?])?,
            "--dports" | "--destination-ports" => {
                set(
                    &mut numbers,
                    words.next()?.split(',').map(number).collect::<Option<Vec<_>>>()?,
                )?;
            }
            "-j" | "--jump" => {
                (words.next()? == "ACCEPT" && !accepts).then_some(())?;
                accepts = true;
            }
            _ => return None,
        }
    }
    let (proto, numbers) = (proto?, numbers?);
    let ports = ports(numbers.iter().map(|number| Port { proto, number: *number }))?;
    (source && accepts).then_some(IptablesRule { verb: verb?, ports, table })
}

/// `ufw [insert 1] allow [proto tcp] from %IP% to any port 22 [proto tcp]`, and with `delete`.
/// Without a protocol ufw means both.
fn ufw(words: &mut Words<'_>) -> Option<IptablesRule> {
    skip(words, |word| word == "--force");
    let mut verb = Verb::Add;
    let mut word = words.next()?;
    match word {
        "delete" => (verb, word) = (Verb::Delete, words.next()?),
        "insert" => word = (words.next()? == "1").then(|| words.next())??,
        "prepend" => word = words.next()?,
        _ => {}
    }
    (word == "allow").then_some(())?;
    skip(words, |word| word == "in");
    let (mut proto, mut from, mut to, mut port) = (None, None, None, None);
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word {
            "proto" => set(&mut proto, protocol(value)?)?,
            "from" => set(&mut from, (value == "%IP%").then_some(())?)?,
            "to" => set(&mut to, (value == "any").then_some(())?)?,
            "port" => set(&mut port, number(value)?)?,
            "comment" if plain(value) => {}
            _ => return None,
        }
    }
    let number = from.and(to).and(port)?;
    let protos = proto.map_or(vec![Proto::Tcp, Proto::Udp], |proto| vec![proto]);
    let ports = ports(protos.into_iter().map(|proto| Port { proto, number }))?;
    Some(IptablesRule { verb, ports, table: Table::Ufw })
}

fn set<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

fn skip(words: &mut Words<'_>, is: impl Fn(&str) -> bool) {
    if words.as_slice().first().is_some_and(|word| is(word)) {
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
fn states(list: &str) -> bool {
    let known = ["NEW", "ESTABLISHED", "RELATED"];
    list.split(',').all(|state| known.contains(&state))
        && list.split(',').any(|state| state == "NEW")
}

/// A port as both programs print it: no range, no name, no zero.
fn number(word: &str) -> Option<u16> {
    word.parse().ok().filter(|port| *port > 0 && !word.starts_with(['0', '+']))
}

/// As many as a service may have.
fn ports(all: impl Iterator<Item = Port>) -> Option<Vec<Port>> {
    let mut ports: Vec<Port> = all.collect();
    ports.sort_by_key(|port| (port.number, port.proto.name()));
    ports.dedup();
    (1..=SERVICE_PORTS).contains(&ports.len()).then_some(ports)
}

/// A word that the shell takes as it is.
fn plain(word: &str) -> bool {
    word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:/".contains(&b))
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
    fn what_says_anything_else_is_not_taken_for_one() {
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
            "iptables -A INPUT -s %IP% -p tcp -m multiport --dports 1,2,3,4,5 -j ACCEPT",
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
