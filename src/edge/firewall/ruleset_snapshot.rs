//! The whole live ruleset, read object by object. Unknown objects are skipped and never an error.
//! See `packet_trace` for packets in it.

use serde_json::Value;

use super::loaded_ruleset::objects;
use super::nft::NftProgram;
use crate::config;
use crate::core::types::Fault;

/// The loaded rulesets, ours included.
#[derive(Clone, Debug, Default)]
pub struct RulesetSnapshot {
    pub(super) chains: Vec<Chain>,
    /// Families of tables that see packets but are not read here: `netdev`, `bridge`.
    pub elsewhere: Vec<String>,
    /// Tables of the legacy iptables, which nft does not list.
    pub legacy: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) family: String,
    pub(super) table: String,
    pub(super) name: String,
    /// `None` if the chain is only jumped to.
    pub(super) base: Option<BaseChain>,
    /// (handle, statements), in order.
    pub(super) rules: Vec<(u64, Vec<Value>)>,
}

/// A chain's place in the kernel.
#[derive(Clone, Debug)]
pub(super) struct BaseChain {
    pub(super) hook: String,
    pub(super) priority: i64,
    pub(super) drops: bool,
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
        snapshot.chains.sort_by_key(|chain| match &chain.base {
            Some(base) => base.priority,
            None => i64::MAX,
        });
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

    /// The number of chains in `hook`, without those of the table `ours`.
    pub fn hooked(&self, hook: &str, ours: &str) -> usize {
        self.chains.iter().filter(|chain| chain.is_hooked(hook) && !chain.is_of(ours)).count()
    }
}

impl Chain {
    pub(super) fn is_hooked(&self, hook: &str) -> bool {
        self.base.as_ref().is_some_and(|base| base.hook == hook)
    }

    /// True if the chain's policy is drop.
    pub(super) fn drops(&self) -> bool {
        self.base.as_ref().is_some_and(|base| base.drops)
    }

    /// True if the chain belongs to our own table.
    pub(super) fn is_of(&self, ours: &str) -> bool {
        self.family == "inet" && self.table == ours
    }

    pub(super) fn sees(&self, v6: bool) -> bool {
        self.family == "inet" || self.family == if v6 { "ip6" } else { "ip" }
    }
}

fn read_chain(chain: &Value) -> Option<Chain> {
    let base = chain["hook"].as_str().map(|hook| BaseChain {
        hook: hook.to_owned(),
        priority: chain["prio"].as_i64().unwrap_or(0),
        drops: chain["policy"] == "drop",
    });
    Some(Chain {
        family: chain["family"].as_str()?.to_owned(),
        table: chain["table"].as_str()?.to_owned(),
        name: chain["name"].as_str()?.to_owned(),
        base,
        rules: Vec::new(),
    })
}
