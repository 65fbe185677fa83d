//! Places in the rulesets of others, named as the program that made the rules names them.

use std::fmt::{self, Display, Formatter};

/// The program whose rules they are: a rule is changed in its own language, or its next reload
/// forgets the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleOwner {
    Nft,
    Iptables,
    Ufw,
    Firewalld,
}

/// The rule or the policy that decides about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulePlace {
    pub(super) family: String,
    pub(super) table: String,
    pub(super) chain: String,
    /// `None`: no rule decides, but the chain's policy.
    pub(super) rule: Option<RuleNumber>,
    pub(super) owner: RuleOwner,
    /// The rule as iptables prints it, or nothing.
    pub(super) text: String,
}

/// A rule in its chain: iptables counts from 1, nft has handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RuleNumber {
    pub(super) number: usize,
    pub(super) handle: u64,
}

/// A rule that accepts packets, in each language.
pub struct AcceptRule {
    pub nft: String,
    /// Arguments of iptables.
    pub iptables: String,
    /// What an admin of ufw does, as a whole phrase; `{first}` stands for what puts a rule before
    /// all others.
    pub ufw: String,
    /// The same for firewalld.
    pub firewalld: String,
}

impl RulePlace {
    /// The policy of a chain that nft made.
    pub fn policy(family: &str, table: &str, chain: &str) -> RulePlace {
        let [family, table, chain] = [family, table, chain].map(str::to_owned);
        let owner = RuleOwner::Nft;
        RulePlace { family, table, chain, rule: None, owner, text: String::new() }
    }

    /// What makes this machine's firewall accept packets before this place: "run `...`".
    pub fn accept_before(&self, rule: &AcceptRule) -> String {
        let RulePlace { family, table, chain, .. } = self;
        let AcceptRule { nft, iptables, ufw, firewalld } = rule;
        let command = match (self.owner, self.rule) {
            (RuleOwner::Ufw, rule) => {
                let first = if rule.is_some() { "prepend " } else { "" };
                return ufw.replace("{first}", first);
            }
            (RuleOwner::Firewalld, _) => return firewalld.clone(),
            (RuleOwner::Iptables, rule) => {
                let program = if family == "ip6" { "ip6tables" } else { "iptables" };
                let table = if table == "filter" { String::new() } else { format!(" -t {table}") };
                match rule {
                    Some(RuleNumber { number, .. }) => {
                        format!("{program}{table} -I {chain} {number} {iptables}")
                    }
                    None => format!("{program}{table} -A {chain} {iptables}"),
                }
            }
            (RuleOwner::Nft, Some(RuleNumber { handle, .. })) => {
                format!("nft insert rule {family} {table} {chain} handle {handle} {nft}")
            }
            (RuleOwner::Nft, None) => format!("nft add rule {family} {table} {chain} {nft}"),
        };
        format!("run `{command}`")
    }

    /// True if Docker made the chain.
    pub fn is_dockers(&self) -> bool {
        self.chain == "DOCKER"
    }
}

impl Display for RulePlace {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let RulePlace { family, table, chain, .. } = self;
        match self.rule {
            Some(RuleNumber { number, .. }) => write!(f, "rule {number} of ")?,
            None => write!(f, "the policy of ")?,
        }
        let is_of_nft = self.owner == RuleOwner::Nft || table == "firewalld";
        match (is_of_nft, family.as_str()) {
            (true, _) => write!(f, "chain {family} {table} {chain}")?,
            (false, "ip6") => write!(f, "ip6tables chain {chain}")?,
            (false, _) => write!(f, "iptables chain {chain}")?,
        }
        if !is_of_nft && table != "filter" {
            write!(f, " (table {table})")?;
        }
        match self.owner {
            RuleOwner::Ufw => f.write_str(", which is ufw's")?,
            RuleOwner::Firewalld => f.write_str(", which is firewalld's")?,
            RuleOwner::Nft | RuleOwner::Iptables => {}
        }
        if self.text.is_empty() { Ok(()) } else { write!(f, " (`{}`)", self.text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::Proto;

    fn place(family: &str, table: &str, chain: &str, number: usize, owner: RuleOwner) -> RulePlace {
        let handle = 10 + number as u64;
        let rule = if number > 0 { Some(RuleNumber { number, handle }) } else { None };
        RulePlace { rule, owner, ..RulePlace::policy(family, table, chain) }
    }

    #[test]
    fn a_place_is_named_and_changed_as_its_own_program_does_it() {
        let rule = crate::edge::firewall::advice::to_ports(Proto::Tcp, "22");
        for (place, text, command) in [
            (
                place("inet", "filter", "input", 5, RuleOwner::Nft),
                "rule 5 of chain inet filter input",
                "run `nft insert rule inet filter input handle 15 tcp dport 22 accept`",
            ),
            (
                place("inet", "filter", "input", 0, RuleOwner::Nft),
                "the policy of chain inet filter input",
                "run `nft add rule inet filter input tcp dport 22 accept`",
            ),
            (
                place("ip", "filter", "INPUT", 2, RuleOwner::Iptables),
                "rule 2 of iptables chain INPUT",
                "run `iptables -I INPUT 2 -p tcp --dport 22 -j ACCEPT`",
            ),
            (
                place("ip6", "raw", "PREROUTING", 0, RuleOwner::Iptables),
                "the policy of ip6tables chain PREROUTING (table raw)",
                "run `ip6tables -t raw -A PREROUTING -p tcp --dport 22 -j ACCEPT`",
            ),
            (
                place("ip", "filter", "INPUT", 0, RuleOwner::Ufw),
                "the policy of iptables chain INPUT, which is ufw's",
                "run `ufw allow 22/tcp`",
            ),
            (
                place("ip", "filter", "ufw-user-input", 3, RuleOwner::Ufw),
                "rule 3 of iptables chain ufw-user-input, which is ufw's",
                "run `ufw prepend allow 22/tcp`",
            ),
            (
                place("inet", "firewalld", "filter_IN_public", 3, RuleOwner::Firewalld),
                "rule 3 of chain inet firewalld filter_IN_public, which is firewalld's",
                "run `firewall-cmd --permanent --add-port=22/tcp && firewall-cmd --reload`",
            ),
        ] {
            assert_eq!(place.to_string(), text);
            assert_eq!(place.accept_before(&rule), command);
        }
    }
}
