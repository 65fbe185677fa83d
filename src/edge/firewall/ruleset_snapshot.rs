//! The whole ruleset as it is live, read object by object: what is not known is left out here and
//! never a fault. What becomes of a packet in it is left to `course`.

use serde_json::Value;

use super::loaded_ruleset::objects;
use super::nft::NftProgram;
use crate::config;
use crate::core::types::Fault;

/// What others, and we, have loaded.
#[derive(Clone, Debug, Default)]
pub struct RulesetSnapshot {
    pub(super) chains: Vec<Chain>,
    /// Families of tables whose chains see packets that are not looked at here: `netdev`, `bridge`.
    pub elsewhere: Vec<String>,
    /// Tables of the old iptables, which nft does not list.
    pub legacy: Vec<String>,
}

/// A chain with its rules in order.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) family: String,
    pub(super) table: String,
    pub(super) name: String,
    /// Where it hangs, if it is not only jumped to.
    pub(super) base: Option<BaseChain>,
    /// (handle, statements)
    pub(super) rules: Vec<(u64, Vec<Value>)>,
}

/// Where a chain hangs.
#[derive(Clone, Debug)]
pub(super) struct BaseChain {
    pub(super) hook: String,
    pub(super) priority: i64,
    pub(super) drops: bool,
}

impl RulesetSnapshot {
    /// Reads the ruleset of the calling thread's network namespace; elements of named sets are not
    /// asked for.
    ///
    /// # Errors
    /// If nft is missing, or may not ask.
    pub fn take(settings: &config::FirewallSettings) -> Result<RulesetSnapshot, Fault> {
        let mut survey = RulesetSnapshot::read(&NftProgram::new(&settings.nft)?.list_all()?)?;
        for file in ["ip_tables_names", "ip6_tables_names"] {
            let names = std::fs::read_to_string(format!("/proc/thread-self/net/{file}"))
                .unwrap_or_default();
            survey.legacy.extend(
                names
                    .lines()
                    .map(|name| format!("{name} ({})", file.trim_end_matches("_tables_names"))),
            );
        }
        Ok(survey)
    }

    pub(super) fn read(json: &str) -> Result<RulesetSnapshot, Fault> {
        let mut survey = RulesetSnapshot::default();
        for object in objects(json)? {
            if let Some(chain) = object.get("chain") {
                survey.chains.extend(read_chain(chain));
            } else if let Some(rule) = object.get("rule") {
                survey.add(rule);
            } else if let Some(family) = object.pointer("/table/family").and_then(Value::as_str)
                && !["inet", "ip", "ip6", "arp"].contains(&family)
            {
                survey.elsewhere.push(family.to_owned());
            }
        }
        survey
            .chains
            .sort_by_key(|chain| chain.base.as_ref().map_or(i64::MAX, |base| base.priority));
        Ok(survey)
    }

    fn add(&mut self, rule: &Value) -> Option<()> {
        let text = |key| rule.get(key).and_then(Value::as_str);
        let (family, table, name) = (text("family")?, text("table")?, text("chain")?);
        let chain = self
            .chains
            .iter_mut()
            .find(|c| c.family == family && c.table == table && c.name == name)?;
        let statements = rule.get("expr").and_then(Value::as_array).cloned().unwrap_or_default();
        chain.rules.push((rule.get("handle").and_then(Value::as_u64).unwrap_or(0), statements));
        Some(())
    }

    /// How many chains hang in `hook`, ours not counted.
    pub fn hooked(&self, hook: &str, ours: &str) -> usize {
        self.chains.iter().filter(|chain| chain.hangs_in(hook) && !chain.is_of(ours)).count()
    }
}

impl Chain {
    pub(super) fn hangs_in(&self, hook: &str) -> bool {
        self.base.as_ref().is_some_and(|base| base.hook == hook)
    }

    /// Whether it belongs to our own table.
    pub(super) fn is_of(&self, ours: &str) -> bool {
        self.family == "inet" && self.table == ours
    }

    pub(super) fn sees(&self, v6: bool) -> bool {
        self.family == "inet" || self.family == if v6 { "ip6" } else { "ip" }
    }
}

fn read_chain(chain: &Value) -> Option<Chain> {
    let text = |key: &str| chain.get(key).and_then(Value::as_str).map(str::to_owned);
    let base = text("hook").map(|hook| BaseChain {
        hook,
        priority: chain.get("prio").and_then(Value::as_i64).unwrap_or(0),
        drops: text("policy").as_deref() == Some("drop"),
    });
    Some(Chain {
        family: text("family")?,
        table: text("table")?,
        name: text("name")?,
        base,
        rules: Vec::new(),
    })
}
