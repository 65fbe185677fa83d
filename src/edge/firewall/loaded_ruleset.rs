//! Reads our table back from the kernel, to compare it with the table that was loaded.

use std::collections::{BTreeMap, BTreeSet};

use nftables::schema::Chain;
use nftables::types::{NfChainType, NfHook};
use serde::Deserialize;
use serde_json::Value;

use super::ruleset::{CHAIN, GuardPlan};
use crate::core::types::{Fault, Port, Proto};

/// Our table in the kernel, without handles, counters and elements. Equal values mean equal rules.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LoadedRuleset(Vec<Value>);

impl LoadedRuleset {
    /// Parses the output of `nft -j -t list table`.
    pub(super) fn read(json: &str) -> Result<LoadedRuleset, Fault> {
        let mut all: Vec<Value> = objects(json)?.collect();
        all.iter_mut().for_each(strip);
        Ok(LoadedRuleset(all))
    }

    /// The first difference from `plan`: the hook, a dormant table, the chains and their numbers of
    /// rules, the guarded ports. See `live` for the comparison of the rules' text.
    pub(super) fn misfit(&self, plan: &GuardPlan) -> Option<String> {
        if !self.0.iter().any(is_hooked) {
            return Some("its chain does not hang in the prerouting hook".to_owned());
        }
        if self.0.iter().any(is_dormant) {
            return Some("its table is dormant".to_owned());
        }
        let found = self.rules();
        let wanted = plan.rules();
        for chain in found.keys().chain(wanted.keys()) {
            let has = found.get(chain).unwrap_or(&0);
            let should_have = wanted.get(chain).unwrap_or(&0);
            if has != should_have {
                return Some(format!("its chain {chain} has {has} rules instead of {should_have}"));
            }
        }
        let wanted: BTreeSet<Port> = plan.looked_at().into_iter().collect();
        if wanted != self.looked_at() {
            return Some("it guards other ports".to_owned());
        }
        None
    }

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

    /// The ports in the guard's rule that lets all other ports pass.
    fn looked_at(&self) -> BTreeSet<Port> {
        let mut ports = BTreeSet::new();
        for object in &self.0 {
            if object.pointer("/rule/chain").and_then(Value::as_str) == Some(CHAIN) {
                collect_ports(object, &mut ports);
            }
        }
        ports
    }
}

/// True if this is the guard's chain, in the prerouting hook after conntrack and before all else.
fn is_hooked(object: &Value) -> bool {
    match object.get("chain").map(Chain::deserialize) {
        Some(Ok(chain)) => {
            chain.name == CHAIN
                && chain.hook == Some(NfHook::Prerouting)
                && chain.prio == Some(-175)
                && chain._type == Some(NfChainType::Filter)
        }
        _ => false,
    }
}

fn is_dormant(object: &Value) -> bool {
    object.pointer("/table/flags").is_some_and(|flags| mentions(flags, "dormant"))
}

fn mentions(value: &Value, word: &str) -> bool {
    match value {
        Value::String(text) => text == word,
        Value::Array(all) => all.iter().any(|one| mentions(one, word)),
        _ => false,
    }
}

/// Collects every `tcp . 22` inside `value`.
fn collect_ports(value: &Value, ports: &mut BTreeSet<Port>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::Array(pair)) = fields.get("concat")
                && let [proto, number] = pair.as_slice()
            {
                ports.extend(port(proto, number));
            }
            for field in fields.values() {
                collect_ports(field, ports);
            }
        }
        Value::Array(items) => {
            for item in items {
                collect_ports(item, ports);
            }
        }
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

/// The packets counted by the drop rules, by chain.
pub(super) fn dropped(json: &str) -> Result<BTreeMap<String, u64>, Fault> {
    let mut chains: BTreeMap<String, u64> = BTreeMap::new();
    for object in objects(json)? {
        if let Some((chain, packets)) = drops(&object) {
            let count = chains.entry(chain).or_default();
            *count = count.saturating_add(packets);
        }
    }
    Ok(chains)
}

/// The chain and the packet count of a drop rule.
fn drops(object: &Value) -> Option<(String, u64)> {
    let rule = object.get("rule")?;
    let statements = rule.get("expr")?.as_array()?;
    if !statements.iter().any(|statement| statement.get("drop").is_some()) {
        return None;
    }
    let mut counters = statements.iter().filter_map(|statement| statement.get("counter"));
    let packets = counters.next()?.get("packets")?.as_u64()?;
    Some((rule.get("chain")?.as_str()?.to_owned(), packets))
}

pub(super) fn objects(json: &str) -> Result<impl Iterator<Item = Value>, Fault> {
    if let Ok(Value::Object(mut top)) = serde_json::from_str(json)
        && let Some(Value::Array(objects)) = top.remove("nftables")
    {
        return Ok(objects.into_iter().filter(|object| object.get("metainfo").is_none()));
    }
    let what = "nft listed our table in a form that is not its JSON";
    Err(Fault::new(what, "use nft 0.9.8 or later"))
}

/// Removes the parts that change by themselves: handles and counters.
fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("handle");
            if let Some(counter) = fields.get_mut("counter") {
                *counter = Value::Null;
            }
            for field in fields.values_mut() {
                strip(field);
            }
        }
        Value::Array(items) => {
            for item in items {
                strip(item);
            }
        }
        _ => {}
    }
}
