//! Places in the rulesets of others, named as the program that made the rules names them.

use std::fmt::{self, Display, Formatter};

/// The rule or the policy that decides about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulePlace {
    pub(super) family: String,
    pub(super) table: String,
    pub(super) chain: String,
    /// `None`: no rule decides, but the chain's policy.
    pub(super) rule: Option<RuleNumber>,
    /// True if iptables made the table.
    pub(super) is_iptables: bool,
}

/// A rule in its chain: iptables counts from 1, nft has handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RuleNumber {
    pub(super) number: usize,
    pub(super) handle: u64,
}

/// A rule that accepts packets: for nft, and as arguments of iptables.
pub struct AcceptRule {
    pub nft: String,
    pub iptables: String,
}

impl RulePlace {
    /// The policy of a chain that nft made.
    pub fn policy(family: &str, table: &str, chain: &str) -> RulePlace {
        let [family, table, chain] = [family, table, chain].map(str::to_owned);
        RulePlace { family, table, chain, rule: None, is_iptables: false }
    }

    /// The command that makes this machine's firewall accept packets before this place.
    pub fn accept_before(&self, rule: &AcceptRule) -> String {
        let RulePlace { family, table, chain, .. } = self;
        let AcceptRule { nft, iptables } = rule;
        if self.is_iptables {
            let program = if family == "ip6" { "ip6tables" } else { "iptables" };
            let table = if table == "filter" { String::new() } else { format!(" -t {table}") };
            return match self.rule {
                Some(RuleNumber { number, .. }) => {
                    format!("{program}{table} -I {chain} {number} {iptables}")
                }
                None => format!("{program}{table} -A {chain} {iptables}"),
            };
        }
        match self.rule {
            Some(RuleNumber { handle, .. }) => {
                format!("nft insert rule {family} {table} {chain} handle {handle} {nft}")
            }
            None => format!("nft add rule {family} {table} {chain} {nft}"),
        }
    }
}

impl Display for RulePlace {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.rule {
            Some(RuleNumber { number, .. }) => write!(f, "rule {number} of ")?,
            None => write!(f, "the policy of ")?,
        }
        let RulePlace { family, table, chain, .. } = self;
        match (self.is_iptables, family.as_str()) {
            (true, "ip6") => write!(f, "ip6tables chain {chain}")?,
            (true, _) => write!(f, "iptables chain {chain}")?,
            (false, _) => return write!(f, "chain {family} {table} {chain}"),
        }
        if table == "filter" { Ok(()) } else { write!(f, " (table {table})") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(
        family: &str, table: &str, chain: &str, number: usize, is_iptables: bool,
    ) -> RulePlace {
        let handle = 10 + number as u64;
        let rule = if number > 0 { Some(RuleNumber { number, handle }) } else { None };
        RulePlace { rule, is_iptables, ..RulePlace::policy(family, table, chain) }
    }

    #[test]
    fn a_place_is_named_and_changed_as_its_own_program_does_it() {
        let rule = AcceptRule {
            nft: "tcp dport 22 accept".to_owned(),
            iptables: "-p tcp --dport 22 -j ACCEPT".to_owned(),
        };
        for (place, text, command) in [
            (
                place("inet", "filter", "input", 5, false),
                "rule 5 of chain inet filter input",
                "nft insert rule inet filter input handle 15 tcp dport 22 accept",
            ),
            (
                place("inet", "filter", "input", 0, false),
                "the policy of chain inet filter input",
                "nft add rule inet filter input tcp dport 22 accept",
            ),
            (
                place("ip", "filter", "INPUT", 2, true),
                "rule 2 of iptables chain INPUT",
                "iptables -I INPUT 2 -p tcp --dport 22 -j ACCEPT",
            ),
            (
                place("ip6", "raw", "PREROUTING", 0, true),
                "the policy of ip6tables chain PREROUTING (table raw)",
                "ip6tables -t raw -A PREROUTING -p tcp --dport 22 -j ACCEPT",
            ),
        ] {
            assert_eq!(place.to_string(), text);
            assert_eq!(place.accept_before(&rule), command);
        }
    }
}
