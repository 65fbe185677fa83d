//! The few iptables lines that mean "this address may reach that port", and nothing that is only nearly one.
//! What becomes of them is left to `convert`.

use crate::core::types::{Port, Proto};

/// `iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT`, in any order of its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Whether it puts the rule in or takes it out.
    pub(super) verb: Verb,
    /// The one port that it opens.
    pub(super) port: Port,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Delete,
}

impl Rule {
    /// Whether `other` takes out what this puts in.
    pub(super) fn taken_back_by(&self, other: &Rule) -> bool {
        self.verb == Verb::Add && other.verb == Verb::Delete && self.port == other.port
    }
}

const PROGRAMS: [&str; 4] = ["iptables", "iptables-nft", "iptables-legacy", "ip6tables"];

/// Reads a command; `None` unless every word of it is understood.
pub(super) fn read(command: &str) -> Option<Rule> {
    let mut words = command.split_whitespace();
    let program = words.next()?;
    if !PROGRAMS.contains(&program.rsplit('/').next()?) {
        return None;
    }
    let (mut verb, mut source, mut accepts, mut proto, mut number) = (None, false, false, None, None);
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        match word {
            "-w" | "--wait" => {}
            "-A" | "--append" | "-I" | "--insert" | "-D" | "--delete" => {
                let adds = !matches!(word, "-D" | "--delete");
                let first = verb.replace(if adds { Verb::Add } else { Verb::Delete }).is_none();
                (first && words.next()? == "INPUT").then_some(())?;
                words.next_if(|word| matches!(*word, "1") && adds);
            }
            "-s" | "--src" | "--source" => {
                (matches!(words.next()?, "%IP%" | "%IP%/32") && !source).then_some(())?;
                source = true;
            }
            "-p" | "--protocol" => {
                let known = match words.next()? {
                    "tcp" | "6" => Proto::Tcp,
                    "udp" | "17" => Proto::Udp,
                    _ => return None,
                };
                proto.replace(known).is_none().then_some(())?;
            }
            "-m" | "--match" => match words.next()? {
                "tcp" | "udp" => {}
                "comment" => {
                    (words.next()? == "--comment").then_some(())?;
                    words.next().filter(|comment| plain(comment))?;
                }
                "state" => (words.next()? == "--state" && words.next()? == "NEW").then_some(())?,
                "conntrack" => (words.next()? == "--ctstate" && words.next()? == "NEW").then_some(())?,
                _ => return None,
            },
            "--dport" | "--destination-port" => {
                let port = words.next()?.parse::<u16>().ok().filter(|port| *port > 0)?;
                number.replace(port).is_none().then_some(())?;
            }
            "-j" | "--jump" => {
                (words.next()? == "ACCEPT" && !accepts).then_some(())?;
                accepts = true;
            }
            _ => return None,
        }
    }
    (source && accepts).then_some(Rule { verb: verb?, port: Port { proto: proto?, number: number? } })
}

/// A word that the shell takes as it is.
fn plain(word: &str) -> bool {
    word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:/".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_forms_are_known() {
        let ssh = |verb| Some(Rule { verb, port: Port { proto: Proto::Tcp, number: 22 } });
        for (text, verb) in [
            ("/sbin/iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", Verb::Add),
            ("/usr/sbin/iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", Verb::Delete),
            ("iptables -w -I INPUT 1 -p tcp -s %IP%/32 -m tcp --dport 22 -j ACCEPT", Verb::Add),
            ("ip6tables --insert INPUT --source %IP% -p tcp -m state --state NEW --dport 22 -j ACCEPT", Verb::Add),
            ("iptables -A INPUT -m comment --comment knock -s %IP% -p 6 --dport 22 --jump ACCEPT", Verb::Add),
        ] {
            assert_eq!(read(text), ssh(verb), "{text}");
        }
        assert!(ssh(Verb::Add).unwrap().taken_back_by(&ssh(Verb::Delete).unwrap()));
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
            "iptables -A INPUT -s %IP% -i eth1 -p tcp --dport 22 -j ACCEPT",
            "iptables -A INPUT ! -s %IP% -p tcp --dport 22 -j ACCEPT",
            "iptables -A INPUT -s %IP% -p tcp --dport 22 --dport 23 -j ACCEPT",
            "iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT -m comment --comment $(x)",
            "iptables -t nat -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT",
            "echo iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT",
            "ufw allow from %IP% to any port 22",
            "",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
