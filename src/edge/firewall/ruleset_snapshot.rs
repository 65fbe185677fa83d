//! The whole live ruleset as objects; unknown kinds are skipped. See `packet_trace` for its use.

use serde_json::Value;

use super::loaded_ruleset::objects;
use super::nft::NftProgram;
use crate::config;
use crate::core::types::Fault;

#[derive(Clone, Debug, Default)]
pub struct RulesetSnapshot {
    pub(super) chains: Vec<Chain>,
    /// Families whose tables see packets but are not read here: `netdev`, `bridge`.
    pub elsewhere: Vec<String>,
    /// Tables of legacy iptables, which nft does not list.
    pub legacy: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) family: String,
    pub(super) table: String,
    pub(super) name: String,
    /// `None` if the chain is only reached by a jump.
    hook: Option<String>,
    priority: i64,
    pub(super) drops: bool,
    /// Handle and statements of each rule, in order.
    pub(super) rules: Vec<(u64, Vec<Value>)>,
}

impl RulesetSnapshot {
    /// Reads the rulesets of this thread's network namespace, without the elements of named sets.
    pub fn take(settings: &config::FirewallSettings) -> Result<RulesetSnapshot, Fault> {
        let mut snapshot = RulesetSnapshot::read(&NftProgram::new(&settings.nft)?.list_all()?)?;
        for program in ["ip", "ip6"] {
            let file = format!("/proc/thread-self/net/{program}_tables_names");
            for table in std::fs::read_to_string(file).unwrap_or_default().lines() {
                snapshot.legacy.push(format!("{table} ({program})"));
            }
        }
        Ok(snapshot)
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
        Ok(snapshot)
    }

    fn add_rule(&mut self, rule: &Value) {
        let chain = self.chains.iter_mut().find(|chain| {
            rule["family"] == chain.family
                && rule["table"] == chain.table
                && rule["chain"] == chain.name
        });
        if let Some(chain) = chain {
            let statements = rule["expr"].as_array().cloned().unwrap_or_default();
            chain.rules.push((rule["handle"].as_u64().unwrap_or(0), statements));
        }
    }

    /// The chain `name` in the same table as `chain`.
    pub(super) fn sibling(&self, chain: &Chain, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|other| {
            other.family == chain.family && other.table == chain.table && other.name == name
        })
    }

    /// True if iptables made this chain's table: it names its base chains in capitals.
    pub(super) fn is_iptables(&self, chain: &Chain) -> bool {
        let is_base = |other: &&Chain| {
            let is_same = other.family == chain.family && other.table == chain.table;
            is_same && other.hook.is_some()
        };
        let mut bases = self.chains.iter().filter(is_base);
        let is_family = ["ip", "ip6"].contains(&chain.family.as_str());
        is_family && bases.any(|base| base.name.bytes().all(|byte| byte.is_ascii_uppercase()))
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

    pub(super) fn is_of(&self, ours: &str) -> bool {
        self.family == "inet" && self.table == ours
    }

    pub(super) fn sees(&self, v6: bool) -> bool {
        self.family == "inet" || self.family == if v6 { "ip6" } else { "ip" }
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
    })
}
