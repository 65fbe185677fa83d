//! Traces one packet through foreign rulesets: the certain outcome and the possible ones.
//!
//! A rule matches, does not match, or possibly matches: the packet's interface and source are
//! unknown, as are iptables extensions and the contents of named sets. A possible match is
//! recorded, and the trace goes on.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::rule_place::RulePlace;
use super::ruleset_snapshot::{Chain, RulesetSnapshot};
use crate::core::prefix::Prefix;
use crate::core::types::{Proto, Source};

/// The deepest nesting of jumps, as in the kernel.
const DEPTH: usize = 16;

/// The first packet of a flow. `None` means unknown.
#[derive(Clone, Copy, Debug)]
pub struct TracedPacket {
    pub v6: bool,
    pub proto: Proto,
    pub from: Option<u16>,
    pub to: Option<u16>,
    /// The address that it comes from, and the one that it is for by then.
    pub source: Option<IpAddr>,
    pub target: Option<IpAddr>,
    /// The conntrack mark of its flow.
    pub mark: u32,
}

impl TracedPacket {
    /// A packet of which no more is known; its flow has no mark.
    pub fn new(v6: bool, proto: Proto) -> TracedPacket {
        TracedPacket { v6, proto, from: None, to: None, source: None, target: None, mark: 0 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceEffect {
    Accept,
    Drop,
}

/// What one chain in a hook certainly does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceStep {
    pub hook: String,
    pub place: RulePlace,
    pub effect: TraceEffect,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The place that certainly drops the packet.
    pub dropped: Option<RulePlace>,
    pub possible: Vec<(TraceEffect, RulePlace)>,
    /// One for each chain in the hook, until one drops it.
    pub steps: Vec<TraceStep>,
}

/// Traces `packet` through all chains of `hook` except those of the table `ours`.
pub fn trace_packet(
    snapshot: &RulesetSnapshot, hook: &str, ours: &str, packet: &TracedPacket,
) -> Trace {
    let mut tracer = Tracer { snapshot, packet, possible: Vec::new() };
    let mut dropped = None;
    let mut steps = Vec::new();
    for chain in &snapshot.chains {
        if !chain.is_hooked(hook) || !chain.sees(packet.v6) || chain.is_of(ours) {
            continue;
        }
        let (effect, place) = match tracer.chain(chain, 0) {
            ChainExit::Decided(effect, place) => (effect, place),
            ChainExit::End if chain.drops => (TraceEffect::Drop, chain.place(None)),
            ChainExit::End => (TraceEffect::Accept, chain.place(None)),
        };
        let is_dropped = effect == TraceEffect::Drop;
        steps.push(TraceStep { hook: hook.to_owned(), place: place.clone(), effect });
        if is_dropped {
            dropped = Some(place);
            break;
        }
    }
    Trace { dropped, possible: tracer.possible, steps }
}

struct Tracer<'a> {
    snapshot: &'a RulesetSnapshot,
    packet: &'a TracedPacket,
    possible: Vec<(TraceEffect, RulePlace)>,
}

enum ChainExit {
    Decided(TraceEffect, RulePlace),
    /// The end of the chain, or `return`.
    End,
}

enum RuleMeaning {
    /// True or false if certain; `None` if possible.
    Matches(Option<bool>),
    Verdict(Value),
    /// Depends on something that the listing does not contain: a named map, a program.
    Unknown,
    Nothing,
}

impl Tracer<'_> {
    fn chain(&mut self, chain: &Chain, depth: usize) -> ChainExit {
        if depth > DEPTH {
            return ChainExit::End;
        }
        for (number, rule) in (1..).zip(&chain.rules) {
            let here = chain.place(Some((number, rule)));
            let Some((verdict, certain)) = self.rule(&rule.statements, &here) else { continue };
            match self.exit(&verdict, chain, here, depth) {
                Some(exit) if certain => return exit,
                Some(ChainExit::Decided(effect, place)) => self.possible.push((effect, place)),
                Some(ChainExit::End) | None => {}
            }
        }
        ChainExit::End
    }

    /// The verdict of a rule, and true if it certainly applies; `None` without a verdict or a
    /// match.
    fn rule(&mut self, statements: &[Value], here: &RulePlace) -> Option<(Value, bool)> {
        let mut certain = true;
        let mut found = None;
        for statement in statements {
            match self.statement(statement) {
                RuleMeaning::Matches(Some(true)) | RuleMeaning::Nothing => {}
                RuleMeaning::Matches(Some(false)) => return None,
                RuleMeaning::Matches(None) => certain = false,
                RuleMeaning::Verdict(verdict) => found = Some(verdict),
                RuleMeaning::Unknown => {
                    self.possible.push((TraceEffect::Accept, here.clone()));
                    self.possible.push((TraceEffect::Drop, here.clone()));
                }
            }
        }
        Some((found?, certain))
    }

    /// The exit for a verdict; `None` if the packet goes on to the next rule.
    fn exit(
        &mut self, verdict: &Value, chain: &Chain, here: RulePlace, depth: usize,
    ) -> Option<ChainExit> {
        let (word, body) = verdict.as_object()?.iter().next()?;
        match word.as_str() {
            "accept" => Some(ChainExit::Decided(TraceEffect::Accept, here)),
            "drop" | "reject" => Some(ChainExit::Decided(TraceEffect::Drop, here)),
            "return" => Some(ChainExit::End),
            _ => {
                let target = self.snapshot.sibling(chain, body["target"].as_str()?)?;
                match self.chain(target, depth + 1) {
                    ChainExit::End if word == "jump" => None,
                    exit => Some(exit),
                }
            }
        }
    }

    fn statement(&self, statement: &Value) -> RuleMeaning {
        let Value::Object(fields) = statement else { return RuleMeaning::Matches(None) };
        let Some((word, body)) = fields.iter().next() else { return RuleMeaning::Matches(None) };
        match word.as_str() {
            "match" => RuleMeaning::Matches(self.matches(body)),
            "accept" | "drop" | "reject" | "return" | "jump" | "goto" => {
                RuleMeaning::Verdict(statement.clone())
            }
            "counter" | "log" | "comment" | "mangle" | "notrack" => RuleMeaning::Nothing,
            // A set statement with its own limit is a condition.
            "set" if body["stmt"].is_null() => RuleMeaning::Nothing,
            "queue" => RuleMeaning::Unknown,
            // Without iptables-save, its targets are known by name; its conditions are not.
            "xt" => match (body["type"].as_str(), body["name"].as_str()) {
                (Some("target"), Some("REJECT")) => RuleMeaning::Verdict(json!({ "reject": null })),
                (Some("target"), Some("DROP")) => RuleMeaning::Verdict(json!({ "drop": null })),
                (Some("target"), _) => RuleMeaning::Nothing,
                _ => RuleMeaning::Matches(None),
            },
            "vmap" => self.verdict_map(body),
            _ => RuleMeaning::Matches(None),
        }
    }

    fn verdict_map(&self, vmap: &Value) -> RuleMeaning {
        if self.misses(&vmap["key"]) {
            return RuleMeaning::Matches(Some(false));
        }
        let (Some(value), Some(pairs)) = (self.value(&vmap["key"]), vmap["data"]["set"].as_array())
        else {
            return RuleMeaning::Unknown;
        };
        match pairs.iter().find(|pair| is(&value, &pair[0]) == Some(true)) {
            Some(pair) => RuleMeaning::Verdict(pair[1].clone()),
            None => RuleMeaning::Matches(Some(false)),
        }
    }

    fn matches(&self, body: &Value) -> Option<bool> {
        let left = body.get("left")?;
        let right = body.get("right")?;
        if self.misses(left) {
            return Some(false);
        }
        let op = body["op"].as_str()?;
        if let Some("iif" | "iifname") = left["meta"]["key"].as_str() {
            // The packet comes from outside: its interface is unknown, but it is not `lo`.
            return match (op, is(&json!("lo"), right)?) {
                ("==", true) => Some(false),
                ("!=", true) => Some(true),
                _ => None,
            };
        }
        let equal = is(&self.value(left)?, right)?;
        match op {
            "==" | "in" => Some(equal),
            "!=" => Some(!equal),
            _ => None,
        }
    }

    /// True if the left side is a field of another protocol, so that the rule does not match.
    fn misses(&self, left: &Value) -> bool {
        let other = match left["payload"]["protocol"].as_str() {
            Some("ip") => self.packet.v6,
            Some("ip6") => !self.packet.v6,
            Some(protocol @ ("tcp" | "udp")) => protocol != self.packet.proto.name(),
            Some(
                "icmp" | "icmpv6" | "sctp" | "dccp" | "ah" | "esp" | "comp" | "igmp" | "udplite",
            ) => true,
            _ => false,
        };
        other || list(&left["concat"]).iter().any(|part| self.misses(part))
    }

    /// The packet's value for the left side of a comparison, if known.
    fn value(&self, left: &Value) -> Option<Value> {
        if let [of, mask] = list(&left["&"]) {
            return Some(json!(self.value(of)?.as_u64()? & mask.as_u64()?));
        }
        let parts = list(&left["concat"]);
        if !parts.is_empty() {
            let values: Option<Vec<Value>> = parts.iter().map(|part| self.value(part)).collect();
            return Some(json!({ "concat": values? }));
        }
        match left["meta"]["key"].as_str() {
            Some("l4proto") => return Some(json!(self.packet.proto.name())),
            Some("nfproto") => return Some(json!(if self.packet.v6 { "ipv6" } else { "ipv4" })),
            _ => {}
        }
        match left["ct"]["key"].as_str() {
            Some("state") => return Some(json!("new")),
            Some("mark") => return Some(json!(self.packet.mark)),
            _ => {}
        }
        match left["payload"]["field"].as_str()? {
            "dport" => Some(json!(self.packet.to?)),
            "sport" => Some(json!(self.packet.from?)),
            "saddr" => Some(json!(self.packet.source?)),
            "daddr" => Some(json!(self.packet.target?)),
            "protocol" | "nexthdr" => Some(json!(self.packet.proto.name())),
            _ => None,
        }
    }
}

/// True if `value` is on the right side of a comparison; `None` if unknown.
fn is(value: &Value, right: &Value) -> Option<bool> {
    if let Some(set) = right.as_array().or(right["set"].as_array()) {
        let results: Vec<Option<bool>> = set.iter().map(|one| is(value, one)).collect();
        return unless_unknown(&results, true);
    }
    if let [low, high] = list(&right["range"]) {
        return Some((low.as_u64()?..=high.as_u64()?).contains(&value.as_u64()?));
    }
    if let Some(prefix) = right.get("prefix") {
        let length = u8::try_from(prefix["len"].as_u64()?).ok()?;
        return within(value, &prefix["addr"], length);
    }
    if let Some(inside) = within(value, right, u8::MAX) {
        return Some(inside);
    }
    let parts = list(&value["concat"]);
    let others = list(&right["concat"]);
    if !parts.is_empty() && !others.is_empty() {
        let pairs = parts.iter().zip(others);
        let results: Vec<Option<bool>> = pairs.map(|(one, other)| is(one, other)).collect();
        return unless_unknown(&results, false);
    }
    match (number(value), number(right)) {
        (Some(one), Some(other)) => Some(one == other),
        // A named set: the snapshot does not contain its elements.
        _ if right.as_str().is_some_and(|name| name.starts_with('@')) => None,
        _ if right.is_string() && value.is_string() => Some(value == right),
        _ => None,
    }
}

/// True if an address is in a prefix; `None` if these are no addresses of one family.
fn within(value: &Value, prefix: &Value, length: u8) -> Option<bool> {
    let ip: IpAddr = value.as_str()?.parse().ok()?;
    let around: IpAddr = prefix.as_str()?.parse().ok()?;
    let length = length.min(if ip.is_ipv6() { 128 } else { 32 });
    let same = |ip| Prefix::around(Source::new(ip), length);
    (ip.is_ipv6() == around.is_ipv6()).then(|| same(ip) == same(around))
}

/// `decisive` if any result equals it; otherwise `None` if any is unknown, else the opposite.
fn unless_unknown(results: &[Option<bool>], decisive: bool) -> Option<bool> {
    if results.contains(&Some(decisive)) {
        return Some(decisive);
    }
    if results.contains(&None) { None } else { Some(!decisive) }
}

fn number(value: &Value) -> Option<u64> {
    match value.as_str() {
        Some("tcp") => Some(6),
        Some("udp") => Some(17),
        _ => value.as_u64(),
    }
}

/// The elements of an array; empty for any other value.
fn list(value: &Value) -> &[Value] {
    match value {
        Value::Array(list) => list,
        _ => &[],
    }
}
