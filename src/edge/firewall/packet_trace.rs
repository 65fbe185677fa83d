//! What would become of one packet in the rulesets of others, as far as their rules can be read:
//! for sure, or perhaps. Reading the ruleset is left to `survey`, what an admin is told to `app`.
//!
//! A rule matches for sure, for sure not, or perhaps: by what is not known of the packet (its
//! interface, its source) or not understood of the rule (iptables' extensions, named sets). A rule
//! that perhaps matches is noted, and the packet goes on.

use serde_json::{Value, json};

use super::ruleset_snapshot::{Chain, RulesetSnapshot};
use crate::core::types::Proto;

/// How deep chains may jump; the kernel allows as many.
const DEPTH: usize = 16;

/// A first packet, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct TracedPacket {
    /// Its family.
    pub v6: bool,
    /// Its protocol.
    pub proto: Proto,
    /// Source port, if it is known.
    pub from: Option<u16>,
    /// Destination port, if it is known.
    pub to: Option<u16>,
    /// Its flow's conntrack mark.
    pub mark: u32,
}

/// What a place does to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceEffect {
    /// Lets it on.
    Accept,
    /// Drops or refuses it.
    Drop,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Where it ends, if it does: `inet filter input: policy drop`.
    pub dropped: Option<String>,
    /// What may decide otherwise before that, in order.
    pub possible: Vec<(TraceEffect, String)>,
}

/// Sends `packet` through all chains of `hook` but those of our table.
pub fn trace_packet(
    survey: &RulesetSnapshot,
    hook: &str,
    ours: &str,
    packet: &TracedPacket,
) -> Trace {
    let mut walk = Tracer { survey, packet, perhaps: Vec::new() };
    let chains =
        survey.chains.iter().filter(|c| c.hangs_in(hook) && c.sees(packet.v6) && !c.is_of(ours));
    let mut dropped = None;
    for chain in chains {
        let end = match walk.chain(chain, 0) {
            ChainExit::Decided(TraceEffect::Accept, _) => None,
            ChainExit::Decided(TraceEffect::Drop, place) => Some(place),
            ChainExit::Through => chain
                .base
                .as_ref()
                .filter(|base| base.drops)
                .map(|_| format!("{}: policy drop", place(chain))),
        };
        if end.is_some() {
            dropped = end;
            break;
        }
    }
    Trace { dropped, possible: walk.perhaps }
}

struct Tracer<'a> {
    survey: &'a RulesetSnapshot,
    packet: &'a TracedPacket,
    perhaps: Vec<(TraceEffect, String)>,
}

/// How a packet leaves a chain.
enum ChainExit {
    Decided(TraceEffect, String),
    /// By its last rule or a `return`.
    Through,
}

impl Tracer<'_> {
    fn chain(&mut self, chain: &Chain, depth: usize) -> ChainExit {
        if depth > DEPTH {
            return ChainExit::Through;
        }
        for (handle, statements) in &chain.rules {
            let here = format!("{}: rule with handle {handle}", place(chain));
            let (mut sure, mut next) = (true, None);
            for statement in statements {
                match self.statement(statement) {
                    RuleMeaning::Matches(Some(true)) | RuleMeaning::Nothing => {}
                    RuleMeaning::Matches(Some(false)) => {
                        next = None;
                        break;
                    }
                    RuleMeaning::Matches(None) => sure = false,
                    RuleMeaning::Verdict(verdict) => next = Some(verdict),
                    RuleMeaning::Decides => {
                        self.perhaps.extend(
                            [TraceEffect::Accept, TraceEffect::Drop]
                                .map(|effect| (effect, here.clone())),
                        );
                    }
                }
            }
            match next.and_then(|verdict| self.carry_out(&verdict, chain, here, sure, depth)) {
                Some(end) => return end,
                None => continue,
            }
        }
        ChainExit::Through
    }

    /// What a verdict leads to; `None` if the packet goes on with the next rule.
    fn carry_out(
        &mut self,
        verdict: &Value,
        chain: &Chain,
        here: String,
        sure: bool,
        depth: usize,
    ) -> Option<ChainExit> {
        let word = verdict.as_object()?.keys().next()?.as_str();
        let end = match word {
            "accept" => ChainExit::Decided(TraceEffect::Accept, here),
            "drop" | "reject" => ChainExit::Decided(TraceEffect::Drop, here),
            "return" => ChainExit::Through,
            _ => {
                let name = verdict.pointer(&format!("/{word}/target")).and_then(Value::as_str)?;
                let same = |c: &&Chain| {
                    c.family == chain.family && c.table == chain.table && c.name == name
                };
                let end = self.chain(self.survey.chains.iter().find(same)?, depth + 1);
                match (end, word) {
                    (ChainExit::Through, "jump") => return None,
                    (end, _) => end,
                }
            }
        };
        match (sure, end) {
            (true, end) => Some(end),
            (false, ChainExit::Decided(effect, place)) => {
                self.perhaps.push((effect, place));
                None
            }
            (false, ChainExit::Through) => None,
        }
    }

    fn statement(&self, statement: &Value) -> RuleMeaning {
        let Some((word, body)) = statement.as_object().and_then(|fields| fields.iter().next())
        else {
            return RuleMeaning::Matches(None);
        };
        match word.as_str() {
            "match" => RuleMeaning::Matches(self.matches(body)),
            "accept" | "drop" | "reject" | "return" | "jump" | "goto" => {
                RuleMeaning::Verdict(statement.clone())
            }
            "counter" | "log" | "comment" | "mangle" | "notrack" => RuleMeaning::Nothing,
            // With a limit of its own it is a question.
            "set" if body.get("stmt").is_none() => RuleMeaning::Nothing,
            "queue" => RuleMeaning::Decides,
            // iptables' own: what ends a packet is known by name, what asks something is not.
            "xt" => match (text(body, "type"), text(body, "name")) {
                ("target", "REJECT") => RuleMeaning::Verdict(json!({ "reject": null })),
                ("target", "DROP") => RuleMeaning::Verdict(json!({ "drop": null })),
                ("target", _) => RuleMeaning::Nothing,
                _ => RuleMeaning::Matches(None),
            },
            "vmap" => self.mapped(body),
            _ => RuleMeaning::Matches(None),
        }
    }

    fn mapped(&self, vmap: &Value) -> RuleMeaning {
        let pairs = vmap.pointer("/data/set").and_then(Value::as_array);
        if self.misses(&vmap["key"]) {
            return RuleMeaning::Matches(Some(false));
        }
        let (Some(value), Some(pairs)) = (self.value(&vmap["key"]), pairs) else {
            return RuleMeaning::Decides;
        };
        let found = pairs.iter().find(|pair| is(&value, &pair[0]) == Some(true));
        found
            .map_or(RuleMeaning::Matches(Some(false)), |pair| RuleMeaning::Verdict(pair[1].clone()))
    }

    fn matches(&self, body: &Value) -> Option<bool> {
        let (left, right) = (body.get("left")?, body.get("right")?);
        if self.misses(left) {
            return Some(false);
        }
        // What we ask about comes from outside.
        if ["iif", "iifname"]
            .contains(&left.pointer("/meta/key").and_then(Value::as_str).unwrap_or_default())
        {
            let equal = is(&json!("lo"), right)?;
            return match (text(body, "op"), equal) {
                ("==", true) => Some(false),
                ("!=", true) => Some(true),
                _ => None,
            };
        }
        let equal = is(&self.value(left)?, right)?;
        match text(body, "op") {
            "==" | "in" => Some(equal),
            "!=" => Some(!equal),
            _ => None,
        }
    }

    /// A payload of another protocol makes the whole rule miss, whatever the comparison.
    fn misses(&self, left: &Value) -> bool {
        let protocol = left.pointer("/payload/protocol").and_then(Value::as_str);
        protocol.is_some_and(|protocol| !self.is_of(protocol))
            || list(left).is_some_and(|all| all.iter().any(|one| self.misses(one)))
    }

    fn is_of(&self, protocol: &str) -> bool {
        match protocol {
            "ip" => !self.packet.v6,
            "ip6" => self.packet.v6,
            "tcp" | "udp" => protocol == self.packet.proto.name(),
            "icmp" | "icmpv6" | "sctp" | "dccp" | "ah" | "esp" | "comp" | "igmp" | "udplite" => {
                false
            }
            _ => true,
        }
    }

    /// What the packet has there, if it is known.
    fn value(&self, left: &Value) -> Option<Value> {
        if let Some([mask_of, mask]) = left.get("&").and_then(Value::as_array).map(Vec::as_slice) {
            return Some(json!(self.value(mask_of)?.as_u64()? & mask.as_u64()?));
        }
        if let Some(parts) = left.get("concat").and_then(Value::as_array) {
            return Some(
                json!({ "concat": parts.iter().map(|part| self.value(part)).collect::<Option<Vec<_>>>()? }),
            );
        }
        let key = |kind: &str, key: &str| {
            left.get(kind).and_then(|body| body.get(key)).and_then(Value::as_str)
        };
        let family = if self.packet.v6 { "ipv6" } else { "ipv4" };
        match (key("meta", "key"), key("ct", "key"), key("payload", "field")) {
            (Some("l4proto"), ..) => Some(json!(self.packet.proto.name())),
            (Some("nfproto"), ..) => Some(json!(family)),
            (_, Some("state"), _) => Some(json!("new")),
            (_, Some("mark"), _) => Some(json!(self.packet.mark)),
            (.., Some("dport")) => self.packet.to.map(|port| json!(port)),
            (.., Some("sport")) => self.packet.from.map(|port| json!(port)),
            (.., Some("protocol" | "nexthdr")) => Some(json!(self.packet.proto.name())),
            _ => None,
        }
    }
}

enum RuleMeaning {
    /// `None`: perhaps.
    Matches(Option<bool>),
    Verdict(Value),
    /// By something that is not in the listing: a named map, a program.
    Decides,
    Nothing,
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn place(chain: &Chain) -> String {
    format!("{} {} {}", chain.family, chain.table, chain.name)
}

/// Whether `value` is what a rule's right side says; `None` if that cannot be told.
fn is(value: &Value, right: &Value) -> Option<bool> {
    if let Some(any) = right.as_array().or_else(|| right.get("set").and_then(Value::as_array)) {
        let each: Vec<Option<bool>> = any.iter().map(|one| is(value, one)).collect();
        return match each.contains(&Some(true)) {
            true => Some(true),
            false => each.into_iter().all(|one| one == Some(false)).then_some(false),
        };
    }
    if let Some([low, high]) = right.get("range").and_then(Value::as_array).map(Vec::as_slice) {
        return Some((low.as_u64()?..=high.as_u64()?).contains(&value.as_u64()?));
    }
    if let (Some(parts), Some(theirs)) = (list(value), list(right)) {
        let each: Vec<Option<bool>> =
            parts.iter().zip(theirs).map(|(one, other)| is(one, other)).collect();
        return match each.contains(&Some(false)) {
            true => Some(false),
            false => each.into_iter().all(|one| one == Some(true)).then_some(true),
        };
    }
    let number = |value: &Value| match value.as_str() {
        Some("tcp") => Some(6),
        Some("udp") => Some(17),
        _ => value.as_u64(),
    };
    match (number(value), number(right)) {
        (Some(one), Some(other)) => Some(one == other),
        // A named set's elements were not asked for.
        _ if right.as_str().is_some_and(|name| name.starts_with('@')) => None,
        _ if right.is_string() && value.is_string() => Some(value == right),
        _ => None,
    }
}

fn list(value: &Value) -> Option<&Vec<Value>> {
    value.get("concat").and_then(Value::as_array)
}
