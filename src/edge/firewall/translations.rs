//! The rules of others that lead packets elsewhere before a program gets them: DNAT, REDIRECT and
//! TPROXY in the prerouting hook.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::rule_place::RulePlace;
use super::ruleset_snapshot::{Chain, RulesetSnapshot};
use crate::core::types::{Port, PortRange, Proto};

/// One rule, or one pair of a map in a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Translation {
    /// True for IPv4 and for IPv6 if it sees packets of them.
    pub families: [bool; 2],
    /// The ports that it takes packets from; all of them if the rule names none.
    pub from: Vec<PortRange>,
    pub to: LeadsTo,
    pub place: RulePlace,
}

/// Where packets are led. Without a port, to the port that they came for.
#[derive(Clone, Debug, PartialEq)]
pub enum LeadsTo {
    /// An address, perhaps one of this machine.
    Host { ip: IpAddr, port: Option<u16> },
    /// This machine.
    Here { port: Option<u16> },
    /// A program here that gets them unchanged.
    Program { port: Option<u16> },
}

impl Translation {
    /// True if it takes packets for this port over this family.
    pub fn takes(&self, port: Port, v6: bool) -> bool {
        self.families[usize::from(v6)] && self.from.iter().any(|range| range.covers(port))
    }

    /// True if it takes packets for every port of a protocol.
    pub fn takes_all(&self) -> bool {
        self.from.iter().any(|range| range.first <= 1 && range.last == u16::MAX)
    }
}

/// All of them, in the order in which packets meet them, but for those of the table `ours`.
pub fn translations(snapshot: &RulesetSnapshot, ours: &str) -> Vec<Translation> {
    let mut found = Vec::new();
    for chain in snapshot.chains.iter().filter(|one| one.is_hooked("prerouting")) {
        if !chain.is_of(ours) {
            let mut seen = BTreeSet::new();
            of_chain(snapshot, chain, &[], &mut seen, &mut found);
        }
    }
    found
}

/// Those of a chain that packets reach under `conditions`, and of the chains that it leads to.
fn of_chain<'a>(
    snapshot: &'a RulesetSnapshot, chain: &'a Chain, conditions: &[Value],
    seen: &mut BTreeSet<&'a str>, found: &mut Vec<Translation>,
) {
    if !seen.insert(&chain.name) {
        return;
    }
    for (number, rule) in (1..).zip(&chain.rules) {
        let all = [conditions, &rule.statements].concat();
        for statement in &rule.statements {
            for word in ["jump", "goto"] {
                let name = statement[word]["target"].as_str().unwrap_or_default();
                if let Some(target) = snapshot.sibling(chain, name) {
                    of_chain(snapshot, target, &all, seen, found);
                }
            }
            for (from, to) in led(statement) {
                let from = match from {
                    Some(number) => of_protocols(&all, number, number),
                    None => ports(&all),
                };
                let families = [false, true].map(|v6| chain.sees(v6) && sees(&all, v6, &to));
                let place = chain.place(Some((number, rule)));
                found.push(Translation { families, from, to, place });
            }
        }
    }
}

/// Where a statement leads, with the port of a map's pair.
fn led(statement: &Value) -> Vec<(Option<u16>, LeadsTo)> {
    let here = |body: &Value| LeadsTo::Here { port: port(&body["port"]) };
    if let Some(body) = statement.get("redirect") {
        return vec![(None, here(body))];
    }
    if let Some(body) = statement.get("tproxy") {
        return vec![(None, LeadsTo::Program { port: port(&body["port"]) })];
    }
    let Some(body) = statement.get("dnat") else { return Vec::new() };
    let pairs = body["addr"]["map"]["data"]["set"].as_array().map_or(&[][..], Vec::as_slice);
    let mut found = Vec::new();
    for pair in pairs {
        let value = &pair[1];
        let (ip, number) = match value["concat"].as_array() {
            Some(parts) => (address(&parts[0]), parts.get(1).and_then(port)),
            None => (address(value), port(&body["port"])),
        };
        if let Some(ip) = ip {
            found.push((port(&pair[0]), LeadsTo::Host { ip, port: number }));
        }
    }
    match address(&body["addr"]) {
        Some(ip) => found.push((None, LeadsTo::Host { ip, port: port(&body["port"]) })),
        None if body["addr"].is_null() => found.push((None, here(body))),
        None => {}
    }
    found
}

fn address(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

/// A port, or the first of a range.
fn port(value: &Value) -> Option<u16> {
    let number = value.as_u64().or(value["range"][0].as_u64())?;
    u16::try_from(number).ok()
}

/// True if packets of this family can meet these conditions and be led there.
fn sees(conditions: &[Value], v6: bool, to: &LeadsTo) -> bool {
    let other = if v6 { ["ip", "ipv4"] } else { ["ip6", "ipv6"] };
    let excludes = |condition: &Value| {
        let (left, right) = (&condition["match"]["left"], &condition["match"]["right"]);
        left["payload"]["protocol"] == other[0]
            || (left["meta"]["key"] == "nfproto" && *right == other[1])
    };
    let fits = match to {
        LeadsTo::Host { ip, .. } => ip.is_ipv6() == v6,
        LeadsTo::Here { .. } | LeadsTo::Program { .. } => true,
    };
    fits && !conditions.iter().any(excludes)
}

/// The ports that these conditions name; all if they name none, or only some that they leave out.
fn ports(conditions: &[Value]) -> Vec<PortRange> {
    for condition in conditions.iter().rev() {
        let Some(body) = condition.get("match") else { continue };
        if body["left"]["payload"]["field"] != "dport" || body["op"] == "!=" {
            continue;
        }
        let right = &body["right"];
        let list = right["set"].as_array().map_or(std::slice::from_ref(right), Vec::as_slice);
        let mut ranges = Vec::new();
        for one in list {
            let last = one["range"][1].as_u64().and_then(|last| u16::try_from(last).ok());
            if let Some(first) = port(one) {
                ranges.extend(of_protocols(conditions, first, last.unwrap_or(first)));
            }
        }
        return ranges;
    }
    of_protocols(conditions, 1, u16::MAX)
}

/// This range, of each protocol that the conditions allow.
fn of_protocols(conditions: &[Value], first: u16, last: u16) -> Vec<PortRange> {
    let mut ranges = Vec::new();
    for proto in [Proto::Tcp, Proto::Udp] {
        let other = if proto == Proto::Tcp { "udp" } else { "tcp" };
        let excludes = |condition: &Value| {
            let (left, right) = (&condition["match"]["left"], &condition["match"]["right"]);
            left["payload"]["protocol"] == other
                || (left["meta"]["key"] == "l4proto" && right.is_string() && *right != proto.name())
        };
        if !conditions.iter().any(excludes) {
            ranges.push(PortRange { proto, first, last });
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn snapshot(expressions: &[Value]) -> RulesetSnapshot {
        let mut objects = vec![json!({ "chain": {
            "family": "inet", "table": "x", "name": "pre", "hook": "prerouting", "prio": -100,
        } })];
        for expr in expressions {
            objects.push(json!({ "rule": {
                "family": "inet", "table": "x", "chain": "pre", "handle": 7, "expr": expr,
            } }));
        }
        RulesetSnapshot::read(&json!({ "nftables": objects }).to_string()).unwrap()
    }

    fn dport(right: Value) -> Value {
        let left = json!({ "payload": { "protocol": "tcp", "field": "dport" } });
        json!({ "match": { "op": "==", "left": left, "right": right } })
    }

    #[test]
    fn what_a_rule_leads_where_is_read_with_its_ports_and_families() {
        let snapshot = snapshot(&[
            json!([dport(json!(9000)), { "dnat": { "addr": "10.0.0.5", "port": 22 } }]),
            json!([dport(json!({ "set": [80, { "range": [90, 99] }] })), { "redirect": { "port": 8080 } }]),
            json!([{ "tproxy": { "port": 22 } }]),
            json!([{ "dnat": { "family": "ip", "addr": { "map": { "key": {}, "data": {
                "set": [[9002, { "concat": ["10.0.0.6", 23] }]] } } } } }]),
        ]);
        let found = translations(&snapshot, "toctoc");
        let tcp = |first, last| PortRange { proto: Proto::Tcp, first, last };
        let host = |ip: &str, port| LeadsTo::Host { ip: ip.parse().unwrap(), port: Some(port) };
        assert_eq!(found[0].from, [tcp(9000, 9000)]);
        assert_eq!((&found[0].to, found[0].families), (&host("10.0.0.5", 22), [true, false]));
        assert_eq!(found[1].from, [tcp(80, 80), tcp(90, 99)]);
        assert_eq!(
            (&found[1].to, found[1].families),
            (&LeadsTo::Here { port: Some(8080) }, [true; 2])
        );
        assert!(found[2].takes_all() && found[2].from.len() == 2, "both protocols");
        assert_eq!(found[3].to, host("10.0.0.6", 23));
        assert_eq!(found[3].from[0], tcp(9002, 9002));
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn our_own_table_leads_nowhere_for_others() {
        assert_eq!(translations(&snapshot(&[json!([{ "redirect": { "port": 1 } }])]), "x"), []);
    }
}
