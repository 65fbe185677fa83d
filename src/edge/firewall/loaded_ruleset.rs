//! Reads our table back from the kernel, so that what stands can be compared with what was loaded.
//! What should stand is left to `ruleset`, running nft to `nft`.

use std::collections::{BTreeMap, BTreeSet};

use nftables::schema::Chain;
use nftables::types::{NfChainType, NfHook};
use serde::Deserialize;
use serde_json::Value;

use super::ruleset::{CHAIN, GuardPlan};
use crate::core::types::{Fault, Port, Proto};

/// Our table as it stands, without handles, counts and elements. Two are equal if the rules are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LoadedRuleset(Vec<Value>);

impl LoadedRuleset {
    /// Reads what `nft -j -t list table` printed.
    pub(super) fn read(json: &str) -> Result<LoadedRuleset, Fault> {
        Ok(LoadedRuleset(objects(json)?.map(bare).collect()))
    }

    /// What about it is not as `plan` says, if anything: the hook, a dormant table, chains and how
    /// many rules each has, and the ports that the guard looks at. Whether each rule says what it
    /// should is known from who wrote it, see `live`.
    pub(super) fn misfit(&self, plan: &GuardPlan) -> Option<String> {
        if !self.is_hooked() {
            return Some("its chain does not hang in the prerouting hook".to_owned());
        }
        if self.0.iter().any(|object| {
            object.pointer("/table/flags").is_some_and(|flags| mentions(flags, "dormant"))
        }) {
            return Some("its table is dormant".to_owned());
        }
        if self.rules() != plan.rules() {
            return Some(format!(
                "it has other rules: {:?} instead of {:?}",
                self.rules(),
                plan.rules()
            ));
        }
        let (wanted, found) = (plan.looked_at(), self.looked_at());
        (wanted.into_iter().collect::<BTreeSet<Port>>() != found)
            .then(|| "it guards other ports".to_owned())
    }

    /// True if the guard's chain is in the prerouting hook, after conntrack and before all else.
    fn is_hooked(&self) -> bool {
        let chains = self.0.iter().filter_map(|object| object.get("chain"));
        let mut chains = chains.filter_map(|chain| Chain::deserialize(chain).ok());
        chains.any(|chain| {
            chain.name == CHAIN
                && chain.hook == Some(NfHook::Prerouting)
                && chain.prio == Some(-175)
                && chain._type == Some(NfChainType::Filter)
        })
    }

    /// How many rules each chain has.
    fn rules(&self) -> BTreeMap<String, usize> {
        let mut chains = BTreeMap::new();
        for object in &self.0 {
            if let Some(name) = object.pointer("/chain/name").and_then(Value::as_str) {
                chains.entry(name.to_owned()).or_insert(0);
            } else if let Some(name) = object.pointer("/rule/chain").and_then(Value::as_str) {
                *chains.entry(name.to_owned()).or_insert(0_usize) += 1;
            }
        }
        chains
    }

    /// The ports in the rule of the guard that lets all others pass.
    fn looked_at(&self) -> BTreeSet<Port> {
        let mut ports = BTreeSet::new();
        let guard = self
            .0
            .iter()
            .filter(|object| object.pointer("/rule/chain").and_then(Value::as_str) == Some(CHAIN));
        guard.for_each(|rule| collect_ports(rule, &mut ports));
        ports
    }
}

fn mentions(value: &Value, word: &str) -> bool {
    value.as_str() == Some(word)
        || value.as_array().is_some_and(|all| all.iter().any(|one| mentions(one, word)))
}

/// Every `tcp . 22` inside `value`.
fn collect_ports(value: &Value, ports: &mut BTreeSet<Port>) {
    match value {
        Value::Object(fields) => {
            if let Some([proto, number]) =
                fields.get("concat").and_then(Value::as_array).map(Vec::as_slice)
            {
                ports.extend(port(proto, number));
            }
            fields.values().for_each(|field| collect_ports(field, ports));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_ports(item, ports)),
        _ => {}
    }
}

fn port(proto: &Value, number: &Value) -> Option<Port> {
    let proto = match (proto.as_str(), proto.as_u64()) {
        (Some("tcp"), _) | (_, Some(6)) => Proto::Tcp,
        (Some("udp"), _) | (_, Some(17)) => Proto::Udp,
        _ => return None,
    };
    Some(Port { proto, number: u16::try_from(number.as_u64()?).ok()? })
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

/// Not by its type: that knows no TCP option by number, and one rule it cannot read would be a
/// wrong sum.
fn drops(object: &Value) -> Option<(String, u64)> {
    let rule = object.get("rule")?;
    let statements = rule.get("expr")?.as_array()?;
    statements.iter().any(|statement| statement.get("drop").is_some()).then_some(())?;
    let packets = statements
        .iter()
        .find_map(|statement| statement.get("counter")?.get("packets")?.as_u64())?;
    Some((rule.get("chain")?.as_str()?.to_owned(), packets))
}

/// Each object of a listing.
pub(super) fn objects(json: &str) -> Result<impl Iterator<Item = Value>, Fault> {
    let unreadable = || {
        Fault::new("nft listed our table in a form that is not its JSON", "use nft 0.9.8 or later")
    };
    match serde_json::from_str(json).map_err(|_| unreadable())? {
        Value::Object(mut top) => match top.remove("nftables") {
            Some(Value::Array(objects)) => {
                Ok(objects.into_iter().filter(|object| object.get("metainfo").is_none()))
            }
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
