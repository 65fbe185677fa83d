//! Reads our table from the listing of nft, to compare it with the plan and to show its counters.
//! See `tables` for a quick check that it is still the one that was loaded.

use std::collections::{BTreeMap, BTreeSet};

use nftables::schema::Chain;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ruleset::{CHAIN, ChainShape, GuardPlan};
use crate::core::types::Fault;

/// Our table in the kernel, without the elements of named sets.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LoadedRuleset(Vec<Value>);

impl LoadedRuleset {
    /// Parses the output of `nft -j -t list ruleset`; `None` if it does not contain the table.
    pub(super) fn read(json: &str, table: &str) -> Result<Option<LoadedRuleset>, Fault> {
        let mut ours = Vec::new();
        for object in objects(json)? {
            let Value::Object(all) = &object else { continue };
            let Some((kind, fields)) = all.iter().next() else { continue };
            let name = if kind == "table" { &fields["name"] } else { &fields["table"] };
            if fields["family"] == "inet" && name == table {
                ours.push(object);
            }
        }
        Ok(if ours.is_empty() { None } else { Some(LoadedRuleset(ours)) })
    }

    /// The first difference from `plan`: a dormant table, the chains with their hooks and their
    /// numbers of rules, the guarded ports. See `tables` for the comparison of the rules.
    pub(super) fn misfit(&self, plan: &GuardPlan) -> Option<String> {
        if self.0.iter().any(is_dormant) {
            return Some("its table is dormant".to_owned());
        }
        let found = self.chains();
        let wanted = plan.chains();
        let none = ChainShape::default();
        for name in wanted.keys().chain(found.keys()) {
            let has = found.get(name).unwrap_or(&none);
            let should = wanted.get(name).unwrap_or(&none);
            if has.hook != should.hook {
                let hook = should.hook.as_deref().unwrap_or("none");
                return Some(format!("its chain {name} is not in its place ({hook})"));
            }
            if has.rules != should.rules {
                let (has, should) = (has.rules, should.rules);
                return Some(format!("its chain {name} has {has} rules instead of {should}"));
            }
        }
        if plan.looked_at() != self.looked_at() {
            return Some("it guards other ports".to_owned());
        }
        None
    }

    fn chains(&self) -> BTreeMap<String, ChainShape> {
        let mut chains: BTreeMap<String, ChainShape> = BTreeMap::new();
        for object in &self.0 {
            if let Some(name) = object["chain"]["name"].as_str() {
                let shape = chains.entry(name.to_owned()).or_default();
                shape.hook = hook(&object["chain"]);
            } else if let Some(name) = object["rule"]["chain"].as_str() {
                chains.entry(name.to_owned()).or_default().rules += 1;
            }
        }
        chains
    }

    /// The ports in the first rule of each look, which lets all other ports pass.
    fn looked_at(&self) -> BTreeSet<String> {
        let mut found: BTreeMap<&str, String> = BTreeMap::new();
        for object in &self.0 {
            let chain = object["rule"]["chain"].as_str().unwrap_or_default();
            let Some(proto) = chain.strip_prefix(&format!("{CHAIN}/")) else {
                continue;
            };
            // A service of all ports may leave out that rule.
            let ports = found.entry(proto).or_default();
            let statements = object["rule"]["expr"].as_array();
            if let Some([first, .., last]) = statements.map(Vec::as_slice)
                && last.get("accept").is_some()
                && first.pointer("/match/left/payload/field") == Some(&"dport".into())
            {
                *ports = condition(&first["match"]);
            }
        }
        found.into_iter().map(|(proto, ports)| format!("{proto} {ports}")).collect()
    }

    /// The packets counted by the drop rules, by chain.
    pub(super) fn dropped(&self) -> BTreeMap<String, u64> {
        let mut chains: BTreeMap<String, u64> = BTreeMap::new();
        for object in &self.0 {
            if let Some((chain, packets)) = drops(object) {
                let count = chains.entry(chain).or_default();
                *count = count.saturating_add(packets);
            }
        }
        chains
    }
}

/// The place of a base chain, as the plan writes it; `None` for a chain that only rules jump to.
fn hook(chain: &Value) -> Option<String> {
    let chain = Chain::deserialize(chain).ok()?;
    let (kind, hook) = (word(chain._type?)?, word(chain.hook?)?);
    Some(format!("{kind} hook {hook} priority {}", chain.prio?))
}

/// The word of nft for it.
fn word(value: impl Serialize) -> Option<String> {
    serde_json::to_value(value).ok()?.as_str().map(str::to_owned)
}

/// The right side of a comparison of ports, as the plan writes it.
fn condition(compared: &Value) -> String {
    let mut ports = Vec::new();
    let right = &compared["right"];
    match right["set"].as_array() {
        Some(set) => ports.extend(set.iter().map(port)),
        None => ports.push(port(right)),
    }
    let operator = if compared["op"] == "!=" { "!= " } else { "" };
    format!("{operator}{{ {} }}", ports.join(", "))
}

fn port(value: &Value) -> String {
    match value["range"].as_array().map(Vec::as_slice) {
        Some([first, last]) => format!("{first}-{last}"),
        _ => value.to_string(),
    }
}

fn is_dormant(object: &Value) -> bool {
    mentions(&object["table"]["flags"], "dormant")
}

fn mentions(value: &Value, word: &str) -> bool {
    match value {
        Value::String(text) => text == word,
        Value::Array(all) => all.iter().any(|one| mentions(one, word)),
        _ => false,
    }
}

/// The chain and the packet count of a drop rule.
fn drops(object: &Value) -> Option<(String, u64)> {
    let rule = &object["rule"];
    let statements = rule["expr"].as_array()?;
    if !statements.iter().any(|statement| statement.get("drop").is_some()) {
        return None;
    }
    let packets =
        statements.iter().find_map(|statement| statement["counter"]["packets"].as_u64())?;
    Some((rule["chain"].as_str()?.to_owned(), packets))
}

pub(super) fn objects(json: &str) -> Result<impl Iterator<Item = Value>, Fault> {
    if let Ok(Value::Object(mut top)) = serde_json::from_str(json)
        && let Some(Value::Array(objects)) = top.remove("nftables")
    {
        return Ok(objects.into_iter().filter(|object| object.get("metainfo").is_none()));
    }
    let what = "nft listed the rules in a form that is not its JSON";
    Err(Fault::new(what, "use nft 0.9.8 or later"))
}
