//! Reads our table back from the kernel, so that what stands can be compared with what was loaded.
//! What should stand is left to `ruleset`, running nft to `nft`.

use std::collections::BTreeMap;

use nftables::schema::{NfListObject, Rule};
use nftables::stmt::{Counter, Statement};
use nftables::types::{NfChainType, NfHook};
use serde_json::Value;

use super::ruleset::CHAIN;
use crate::core::types::Fault;

/// Our table as it stands, without handles, counts and elements. Two are equal if the rules are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Standing(Vec<Value>);

impl Standing {
    /// Reads what `nft -j -t list table` printed.
    pub(super) fn read(json: &str) -> Result<Standing, Fault> {
        Ok(Standing(objects(json)?.map(bare).collect()))
    }

    /// Whether the guard's chain hangs where it must: prerouting, after conntrack and before all else.
    pub(super) fn is_hooked(&self) -> bool {
        self.typed().any(|object| match object {
            NfListObject::Chain(chain) => {
                chain.name == CHAIN
                    && chain.hook == Some(NfHook::Prerouting)
                    && chain.prio == Some(-175)
                    && chain._type == Some(NfChainType::Filter)
            }
            _ => false,
        })
    }

    /// Each object as its type; what the types do not know is left out here, and still counts in a comparison.
    fn typed(&self) -> impl Iterator<Item = NfListObject<'static>> {
        self.0.iter().filter_map(|object| serde_json::from_value(object.clone()).ok())
    }
}

/// Packets counted by the rules of each chain that drop: (chain, packets), in chain order.
pub(super) fn dropped(json: &str) -> Result<BTreeMap<String, u64>, Fault> {
    let mut chains = BTreeMap::new();
    for object in objects(json)? {
        if let Ok(NfListObject::Rule(rule)) = serde_json::from_value(object)
            && let Some(packets) = drops(&rule)
        {
            let count: &mut u64 = chains.entry(rule.chain.into_owned()).or_default();
            *count = count.saturating_add(packets);
        }
    }
    Ok(chains)
}

fn drops(rule: &Rule<'_>) -> Option<u64> {
    rule.expr.iter().any(|statement| matches!(statement, Statement::Drop(_))).then_some(())?;
    rule.expr.iter().find_map(|statement| match statement {
        Statement::Counter(Counter::Anonymous(Some(counter))) => counter.packets.and_then(|n| u64::try_from(n).ok()),
        _ => None,
    })
}

fn objects(json: &str) -> Result<impl Iterator<Item = Value>, Fault> {
    let unreadable = || Fault::new("nft listed our table in a form that is not its JSON", "use nft 0.9.8 or later");
    match serde_json::from_str(json).map_err(|_| unreadable())? {
        Value::Object(mut top) => match top.remove("nftables") {
            Some(Value::Array(objects)) => Ok(objects.into_iter().filter(|object| object.get("metainfo").is_none())),
            _ => Err(unreadable()),
        },
        _ => Err(unreadable()),
    }
}

/// Without what changes by itself: handles, and counts.
fn bare(mut value: Value) -> Value {
    strip(&mut value);
    value
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("handle");
            if let Some(counter) = fields.get_mut("counter") {
                *counter = Value::Null;
            }
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}
