//! Reads our table back from the kernel, so that what stands can be compared with what was loaded.
//! What should stand is left to `ruleset`, running nft to `nft`.

use std::collections::BTreeMap;

use nftables::schema::NfListObject;
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

/// Packets counted by the rules that drop, by chain.
pub(super) fn dropped(json: &str) -> Result<BTreeMap<String, u64>, Fault> {
    let mut chains = BTreeMap::new();
    for object in objects(json)? {
        if let Some((chain, packets)) = drops(&object) {
            let count: &mut u64 = chains.entry(chain).or_default();
            *count = count.saturating_add(packets);
        }
    }
    Ok(chains)
}

/// Not by its type: that knows no TCP option by number, and one rule it cannot read would be a wrong sum.
fn drops(object: &Value) -> Option<(String, u64)> {
    let rule = object.get("rule")?;
    let statements = rule.get("expr")?.as_array()?;
    statements.iter().any(|statement| statement.get("drop").is_some()).then_some(())?;
    let packets = statements.iter().find_map(|statement| statement.get("counter")?.get("packets")?.as_u64())?;
    Some((rule.get("chain")?.as_str()?.to_owned(), packets))
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
