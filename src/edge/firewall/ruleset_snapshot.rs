//! The whole live ruleset as objects; unknown kinds are skipped. See `packet_trace` for its use.

use std::collections::BTreeSet;

use serde_json::Value;

use super::loaded_ruleset::objects;
use super::nft::NftProgram;
use super::rule_place::{RuleNumber, RuleOwner, RulePlace};
use crate::config;
use crate::core::prefix::Prefix;
use crate::core::types::{Fault, Source};

mod iptables;

#[derive(Clone, Debug, Default)]
pub struct RulesetSnapshot {
    pub(super) chains: Vec<Chain>,
    /// Families whose tables see packets but are not read here: `netdev`, `bridge`.
    pub elsewhere: Vec<String>,
    /// Tables of legacy iptables that could not be read.
    pub legacy: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) family: String,
    pub(super) table: String,
    pub(super) name: String,
    /// `None` if the chain is only reached by a jump.
    pub(super) hook: Option<String>,
    pub(super) priority: i64,
    pub(super) drops: bool,
    /// In order.
    pub(super) rules: Vec<Rule>,
    pub(super) owner: RuleOwner,
    /// True if it is of iptables-legacy, which nf_tables knows nothing of.
    pub(super) is_legacy: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// The handle that nft shows.
    pub(super) handle: u64,
    pub(super) statements: Vec<Value>,
    /// As iptables prints it; empty for a rule of nft.
    pub(super) text: String,
}

impl RulesetSnapshot {
    /// Reads the rulesets of this thread's network namespace, without the elements of named sets.
    pub fn take(settings: &config::FirewallSettings) -> Result<RulesetSnapshot, Fault> {
        let mut snapshot = RulesetSnapshot::read(&NftProgram::new(&settings.nft)?.list_all()?)?;
        for (family, v6) in [("ip", false), ("ip6", true)] {
            snapshot.read_iptables(family, v6);
            snapshot.read_legacy(family, v6);
        }
        snapshot.chains.sort_by_key(|chain| chain.priority);
        Ok(snapshot)
    }

    /// Takes the chains of iptables as its own program prints them: nft lists extensions by name.
    fn read_iptables(&mut self, family: &str, v6: bool) {
        let is_of_iptables =
            |chain: &Chain| chain.family == family && chain.owner == RuleOwner::Iptables;
        if !self.chains.iter().any(is_of_iptables) {
            return;
        }
        let programs = [format!("{family}tables-nft-save"), format!("{family}tables-save")];
        let Some(read) = iptables::chains_by(&programs, v6) else { return };
        // It prints no table that it cannot read.
        let tables: BTreeSet<String> = read.iter().map(|chain| chain.table.clone()).collect();
        self.chains.retain(|chain| !(is_of_iptables(chain) && tables.contains(&chain.table)));
        self.chains.extend(read);
    }

    fn read_legacy(&mut self, family: &str, v6: bool) {
        let file = format!("/proc/thread-self/net/{family}_tables_names");
        let names = std::fs::read_to_string(file).unwrap_or_default();
        if names.trim().is_empty() {
            return;
        }
        let programs = [format!("{family}tables-legacy-save"), format!("{family}tables-save")];
        match iptables::chains_by(&programs, v6) {
            Some(read) => {
                let legacy = |chain| Chain { is_legacy: true, ..chain };
                self.chains.extend(read.into_iter().map(legacy));
            }
            None => self.legacy.extend(names.lines().map(|table| format!("{table} ({family})"))),
        }
    }

    pub(super) fn read(json: &str) -> Result<RulesetSnapshot, Fault> {
        let mut snapshot = RulesetSnapshot::default();
        for object in objects(json)? {
            snapshot.chains.extend(read_chain(&object["chain"]));
            snapshot.add_rule(&object["rule"]);
            if let Some(family) = object["table"]["family"].as_str()
                && !["inet", "ip", "ip6", "arp"].contains(&family)
            {
                snapshot.elsewhere.push(family.to_owned());
            }
        }
        snapshot.chains.sort_by_key(|chain| chain.priority);
        snapshot.name_owners();
        Ok(snapshot)
    }

    fn name_owners(&mut self) {
        for index in 0..self.chains.len() {
            let Some(chain) = self.chains.get(index) else { continue };
            let owner = match () {
                () if chain.table == "firewalld" => RuleOwner::Firewalld,
                () if self.is_iptables(chain) => RuleOwner::Iptables,
                () => RuleOwner::Nft,
            };
            if let Some(chain) = self.chains.get_mut(index) {
                chain.owner = owner;
            }
        }
    }

    fn add_rule(&mut self, rule: &Value) {
        let chain = self.chains.iter_mut().find(|chain| {
            rule["family"] == chain.family
                && rule["table"] == chain.table
                && rule["chain"] == chain.name
        });
        if let Some(chain) = chain {
            let statements = rule["expr"].as_array().cloned().unwrap_or_default();
            let handle = rule["handle"].as_u64().unwrap_or(0);
            chain.rules.push(Rule { handle, statements, text: String::new() });
        }
    }

    /// The chain `name` in the same table as `chain`.
    pub(super) fn sibling(&self, chain: &Chain, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|other| {
            other.family == chain.family
                && other.table == chain.table
                && other.name == name
                && other.is_legacy == chain.is_legacy
        })
    }

    /// The chain of nf_tables with this name.
    pub(super) fn chain(&self, family: &str, table: &str, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| {
            !chain.is_legacy && chain.family == family && chain.table == table && chain.name == name
        })
    }

    /// True if iptables made this chain's table: it names its base chains in capitals.
    fn is_iptables(&self, chain: &Chain) -> bool {
        let is_base = |other: &&Chain| {
            let is_same = other.family == chain.family && other.table == chain.table;
            is_same && other.hook.is_some()
        };
        let mut bases = self.chains.iter().filter(is_base);
        let is_family = ["ip", "ip6"].contains(&chain.family.as_str());
        is_family && bases.any(|base| base.name.bytes().all(|byte| byte.is_ascii_uppercase()))
    }

    /// True if firewalld has rules here.
    pub fn has_firewalld(&self) -> bool {
        self.chains.iter().any(|chain| chain.owner == RuleOwner::Firewalld)
    }

    /// A rule among firewalld's that asks for our mark. firewalld makes none.
    pub fn mark_rule_of_firewalld(&self, mark: u32) -> Option<RulePlace> {
        for chain in self.chains.iter().filter(|chain| chain.owner == RuleOwner::Firewalld) {
            // Its own command makes what is in this chain, and makes it again.
            let is_its_own = chain.name.ends_with("_direct");
            for (number, rule) in (1..).zip(&chain.rules).filter(|_| !is_its_own) {
                let asks = |one: &Value| one["match"]["left"]["&"][0]["ct"]["key"] == "mark";
                let mut of_mark = rule.statements.iter().filter(|one| asks(one));
                if of_mark.any(|one| one["match"]["right"] == mark) {
                    return Some(chain.place(Some((number, rule))));
                }
            }
        }
        None
    }

    /// The nets and addresses that rules name, but for those of the table `ours`.
    pub fn nets_named(&self, ours: &str) -> BTreeSet<Prefix> {
        let mut nets = BTreeSet::new();
        for chain in self.chains.iter().filter(|chain| !chain.is_of(ours)) {
            for rule in &chain.rules {
                rule.statements.iter().for_each(|statement| add_nets(statement, &mut nets));
            }
        }
        nets
    }

    /// True if a rule leaves packets to a program.
    pub fn has_queues(&self) -> bool {
        let mut rules = self.chains.iter().flat_map(|chain| &chain.rules);
        rules.any(|rule| rule.statements.iter().any(|one| one.get("queue").is_some()))
    }

    /// The number of chains in `hook`, without those of the table `ours`.
    pub fn hooked(&self, hook: &str, ours: &str) -> usize {
        self.chains.iter().filter(|chain| chain.is_hooked(hook) && !chain.is_of(ours)).count()
    }
}

impl Chain {
    pub(super) fn is_hooked(&self, hook: &str) -> bool {
        self.hook.as_deref() == Some(hook)
    }

    /// The place of a rule, with its number from 1; `None`: of the policy.
    pub(super) fn place(&self, rule: Option<(usize, &Rule)>) -> RulePlace {
        let text = rule.map(|(_, rule)| rule.text.clone()).unwrap_or_default();
        RulePlace {
            family: self.family.clone(),
            table: self.table.clone(),
            chain: self.name.clone(),
            rule: rule.map(|(number, rule)| RuleNumber { number, handle: rule.handle }),
            owner: self.owner,
            text,
        }
    }

    pub(super) fn is_of(&self, ours: &str) -> bool {
        self.family == "inet" && self.table == ours
    }

    pub(super) fn sees(&self, v6: bool) -> bool {
        self.family == "inet" || self.family == if v6 { "ip6" } else { "ip" }
    }
}

fn add_nets(value: &Value, nets: &mut BTreeSet<Prefix>) {
    match value {
        Value::Object(fields) => {
            let net = (fields.get("addr"), fields.get("len").and_then(Value::as_u64));
            if let (Some(Value::String(base)), Some(length)) = net {
                nets.extend(Prefix::parse(&format!("{base}/{length}")));
                return;
            }
            fields.values().for_each(|field| add_nets(field, nets));
        }
        Value::Array(list) => list.iter().for_each(|one| add_nets(one, nets)),
        Value::String(text) => {
            if let Ok(ip) = text.parse() {
                nets.insert(Prefix::around(Source::new(ip), u8::MAX));
            }
        }
        _ => {}
    }
}

fn read_chain(chain: &Value) -> Option<Chain> {
    Some(Chain {
        family: chain["family"].as_str()?.to_owned(),
        table: chain["table"].as_str()?.to_owned(),
        name: chain["name"].as_str()?.to_owned(),
        hook: chain["hook"].as_str().map(str::to_owned),
        priority: chain["prio"].as_i64().unwrap_or(0),
        drops: chain["policy"] == "drop",
        rules: Vec::new(),
        owner: RuleOwner::Nft,
        is_legacy: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nets_are_found_wherever_a_rule_names_them_but_for_our_own_table() {
        let rule = |table: &str, right: &str| {
            format!(
                "{{\"chain\": {{\"family\": \"inet\", \"table\": \"{table}\", \"name\": \"c\"}}}},
                 {{\"rule\": {{\"family\": \"inet\", \"table\": \"{table}\", \"chain\": \"c\",
                 \"handle\": 4, \"expr\": [{{\"match\": {{\"right\": {right}}}}}]}}}}"
            )
        };
        let theirs = rule(
            "filter",
            "{\"set\": [\"192.0.2.7\", {\"prefix\": {\"addr\": \"2001:db8::\", \"len\": 32}}, \"eth0\", 22]}",
        );
        let text = format!("{{\"nftables\": [{theirs}, {}]}}", rule("toctoc", "\"10.0.0.1\""));
        let nets = RulesetSnapshot::read(&text).unwrap().nets_named("toctoc");
        let shown: Vec<String> = nets.iter().map(Prefix::to_string).collect();
        assert_eq!(shown, ["192.0.2.7/32", "2001:db8::/32"]);
    }
}
