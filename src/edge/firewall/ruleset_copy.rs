//! Every table of nf_tables as the kernel lists it, and said again to the kernel in another network
//! namespace. Not by way of nft's text: nft cannot read all that it prints, least of all the rules
//! of iptables.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::attributes::{Attribute, Attributes, attribute, attributes, u32_of};
use super::netlink::{Answer, CREATE, Message, NF_TABLES, Netlink};
use crate::core::types::Fault;

/// Messages of linux/netfilter/nf_tables.h: the one that makes, the one that lists.
const TABLES: Kind = Kind { make: 0, list: 1, kept: &[1, 2, 6] };
const CHAINS: Kind = Kind { make: 3, list: 4, kept: &[1, 3, 4, 5, 7, 10, 12] };
const RULES: Kind = Kind { make: 6, list: 7, kept: &[1, 2, 4, 7] };
const SETS: Kind =
    Kind { make: 9, list: 10, kept: &[1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 17, 18] };
const ELEMENTS: Kind = Kind { make: 12, list: 13, kept: &[1, 2, 3] };
const OBJECTS: Kind = Kind { make: 18, list: 19, kept: &[1, 2, 3, 4, 8] };
const FLOWTABLES: Kind = Kind { make: 22, list: 23, kept: &[1, 2, 3, 7] };
const APPEND: u16 = 0x800;
/// The attribute with the table's name, in every object.
const TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_ID: u16 = 10;
const ANONYMOUS: u32 = 1;
const INTERVAL: u32 = 4;
const LIST: u16 = 3;
const ITEM: u16 = 1;
const KEY: u16 = 1;
const VALUE: u16 = 1;
const ITEM_FLAGS: u16 = 3;
const TABLE_FLAGS: u16 = 2;
const CHAIN_FLAGS: u16 = 10;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_COMPAT: u16 = 5;
/// The only flag of a table that is taken over: dormant. The others name its owner.
const DORMANT: u32 = 1;
/// A chain that belongs to one rule becomes an ordinary one; nothing goes into hardware.
const BASE: u32 = 1;
/// Bytes of elements in one message, and of messages in one batch.
const PER_MESSAGE: usize = 30_000;
const PER_BATCH: usize = 400_000;
/// The most rules that are named if the kernel refuses them.
const NAMED: usize = 5;

#[derive(Clone, Copy)]
struct Kind {
    make: u16,
    list: u16,
    /// The attributes that mean something: others count, or number objects.
    kept: &'static [u16],
}

/// What must come together, and what to call it if the kernel refuses it.
struct Unit {
    messages: Vec<Message>,
    name: String,
}

/// The rulesets of all families.
pub struct RulesetCopy {
    units: Vec<Unit>,
}

/// A set with its elements in the order in which the kernel takes them.
struct SetCopy {
    table: String,
    name: String,
    family: u8,
    is_anonymous: bool,
    messages: Vec<Message>,
}

impl RulesetCopy {
    /// Reads those of this thread's network namespace. Of the table `emptied` the sets of grants
    /// stay empty.
    pub fn read(emptied: &str) -> Result<RulesetCopy, Fault> {
        let mut netlink = Netlink::open()?;
        read(&mut netlink, emptied).map_err(|error| {
            let what = format!("cannot list the rulesets of this host: {}", error.desc());
            Fault::new(what, "run it as root, on a kernel with nf_tables")
        })
    }

    /// Loads them into this thread's network namespace, which has none. Returns what the kernel
    /// refused.
    pub fn load(&self) -> Result<Vec<String>, Fault> {
        let mut netlink = Netlink::open()?;
        let mut refused: Vec<String> = Vec::new();
        let mut open: Vec<&Unit> = Vec::new();
        let mut size = 0;
        for unit in &self.units {
            size += unit.size();
            open.push(unit);
            if size > PER_BATCH {
                load(&mut netlink, &std::mem::take(&mut open), &mut refused);
                size = 0;
            }
        }
        load(&mut netlink, &open, &mut refused);
        if refused.len() > NAMED {
            let more = refused.len() - NAMED;
            refused.truncate(NAMED);
            refused.push(format!("{more} more parts of the rulesets"));
        }
        Ok(refused)
    }
}

/// Loads these in one transaction; if the kernel refuses it, one by one.
fn load(netlink: &mut Netlink, units: &[&Unit], refused: &mut Vec<String>) {
    let all: Vec<Message> = units.iter().flat_map(|unit| unit.messages.clone()).collect();
    if netlink.batch(&all).is_ok() {
        return;
    }
    for unit in units {
        if let Err(error) = netlink.batch(&unit.messages) {
            refused.push(format!("{}: {}", unit.name, error.desc()));
        }
    }
}

impl Unit {
    fn size(&self) -> usize {
        self.messages.iter().map(|message| message.body.len()).sum()
    }
}

fn read(netlink: &mut Netlink, emptied: &str) -> Result<RulesetCopy, Errno> {
    let mut units = Vec::new();
    for table in list(netlink, TABLES)? {
        let flags = u32_of(&table.body, TABLE_FLAGS).unwrap_or(0) & DORMANT;
        let body = changed(&table.body, TABLES.kept, TABLE_FLAGS, flags);
        units.push(unit("table", &table, TABLES, body));
    }
    for chain in list(netlink, CHAINS)? {
        let body = match u32_of(&chain.body, CHAIN_FLAGS) {
            Some(flags) => changed(&chain.body, CHAINS.kept, CHAIN_FLAGS, flags & BASE),
            None => kept(&chain.body, CHAINS.kept),
        };
        units.push(unit("chain", &chain, CHAINS, body));
    }
    for object in list(netlink, OBJECTS)? {
        units.push(unit("object", &object, OBJECTS, kept(&object.body, OBJECTS.kept)));
    }
    let mut of_rules = BTreeMap::new();
    for set in sets(netlink, emptied)? {
        if set.is_anonymous {
            of_rules.insert((set.family, set.table, set.name), set.messages);
        } else {
            let name = format!("set {}", set.name);
            // Elements may come in parts; the set comes first.
            units.extend(
                set.messages
                    .into_iter()
                    .map(|one| Unit { messages: vec![one], name: name.clone() }),
            );
        }
    }
    for flowtable in list(netlink, FLOWTABLES).unwrap_or_default() {
        let body = kept(&flowtable.body, FLOWTABLES.kept);
        units.push(unit("flowtable", &flowtable, FLOWTABLES, body));
    }
    units.extend(rules(netlink, &mut of_rules)?);
    Ok(RulesetCopy { units })
}

fn list(netlink: &mut Netlink, kind: Kind) -> Result<Vec<Answer>, Errno> {
    list_of(netlink, kind, 0, Attributes::default())
}

fn list_of(
    netlink: &mut Netlink, kind: Kind, family: u8, body: Attributes,
) -> Result<Vec<Answer>, Errno> {
    let subsystem = NF_TABLES;
    netlink.dump(&Message { subsystem, number: kind.list, flags: 0, family, body })
}

fn message(kind: Kind, family: u8, body: Attributes) -> Message {
    let flags = CREATE | if kind.make == RULES.make { APPEND } else { 0 };
    Message { subsystem: NF_TABLES, number: kind.make, flags, family, body }
}

fn unit(what: &str, answer: &Answer, kind: Kind, body: Attributes) -> Unit {
    let name = match kind.make {
        3 => name_of(answer, 3),
        _ => name_of(answer, 2),
    };
    let name = format!("{what} {} {} {name}", family(answer.family), name_of(answer, TABLE));
    Unit { messages: vec![message(kind, answer.family, body)], name: name.trim_end().to_owned() }
}

/// The sets with their elements. Those of grants in the table `emptied` have none.
fn sets(netlink: &mut Netlink, emptied: &str) -> Result<Vec<SetCopy>, Errno> {
    let mut found = Vec::new();
    for (set, number) in list(netlink, SETS)?.into_iter().zip(1..) {
        let (table, name) = (name_of(&set, TABLE).to_owned(), name_of(&set, SET_NAME).to_owned());
        let flags = u32_of(&set.body, SET_FLAGS).unwrap_or(0);
        let body = kept(&set.body, SETS.kept).u32(SET_ID, number);
        let mut messages = vec![message(SETS, set.family, body)];
        // The name of a set of grants has a slash: see `ruleset`.
        if !(table == emptied && name.contains('/')) {
            let asked = Attributes::default().text(TABLE, &table).text(SET_NAME, &name);
            let answers = list_of(netlink, ELEMENTS, set.family, asked.clone())?;
            let items = in_order(&answers, flags & INTERVAL != 0);
            messages.extend(elements(set.family, &asked, &items));
        }
        let is_anonymous = flags & ANONYMOUS != 0;
        found.push(SetCopy { table, name, family: set.family, is_anonymous, messages });
    }
    Ok(found)
}

/// The elements of an answer. Of intervals the kernel wants each start before its end, and the
/// lower ones first.
fn in_order(answers: &[Answer], is_interval: bool) -> Vec<&[u8]> {
    let lists = answers.iter().flat_map(|answer| attributes(&answer.body));
    let lists = lists.filter(|list| list.kind == LIST);
    let mut items: Vec<&[u8]> =
        lists.flat_map(|list| attributes(list.value)).map(|item| item.value).collect();
    if is_interval {
        items.sort_by_key(|item| {
            let key = attribute(item, KEY).and_then(|key| attribute(key.value, VALUE));
            let is_start = u32_of(item, ITEM_FLAGS).unwrap_or(0) & 1 == 0;
            (key.map(|key| key.value), is_start)
        });
    }
    items
}

fn elements(family: u8, set: &Attributes, items: &[&[u8]]) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut open = Attributes::default();
    for item in items {
        let item = kept_all(item);
        if open.len() + item.len() > PER_MESSAGE {
            let list = std::mem::take(&mut open);
            messages.push(message(ELEMENTS, family, set.clone().nest(LIST, &list)));
        }
        open = open.nest(ITEM, &item);
    }
    if open.len() > 0 {
        messages.push(message(ELEMENTS, family, set.clone().nest(LIST, &open)));
    }
    messages
}

/// The rules in their order, each with the anonymous sets that belong to it.
fn rules(
    netlink: &mut Netlink, sets: &mut BTreeMap<(u8, String, String), Vec<Message>>,
) -> Result<Vec<Unit>, Errno> {
    let mut units = Vec::new();
    let mut numbers: BTreeMap<(u8, String, String), usize> = BTreeMap::new();
    for rule in list(netlink, RULES)? {
        let table = name_of(&rule, TABLE).to_owned();
        let chain = name_of(&rule, RULE_CHAIN).to_owned();
        let place = format!("chain {} {table} {chain}", family(rule.family));
        let number = numbers.entry((rule.family, table.clone(), chain)).or_default();
        *number += 1;
        let list = attribute(&rule.body, RULE_EXPRESSIONS).map_or(&[][..], |list| list.value);
        let mut messages = Vec::new();
        for name in sets_named(list) {
            messages.extend(sets.remove(&(rule.family, table.clone(), name)).unwrap_or_default());
        }
        let mut body = kept(&rule.body, RULES.kept);
        if let Some(protocol) = compat_protocol(list) {
            body = body.nest(RULE_COMPAT, &protocol);
        }
        messages.push(message(RULES, rule.family, body));
        units.push(Unit { messages, name: format!("rule {number} of {place}") });
    }
    Ok(units)
}

/// An expression of a rule: its name and its attributes.
fn expressions(list: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    attributes(list).filter_map(|item| {
        let name = attribute(item.value, 1)?;
        Some((name.text(), attribute(item.value, 2).map_or(&[][..], |data| data.value)))
    })
}

/// The names of the sets that a rule looks into.
fn sets_named(list: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for (expression, data) in expressions(list) {
        let kind = match expression {
            "lookup" | "dynset" => 1,
            "objref" => 4,
            _ => continue,
        };
        names.extend(attribute(data, kind).map(|name| name.text().to_owned()));
    }
    names
}

/// What iptables says beside a rule with one of its extensions, and the kernel does not list: the
/// protocol that the rule has compared before. `None`: the rule has no such extension.
fn compat_protocol(list: &[u8]) -> Option<Attributes> {
    /// Of struct xt_match's users in the kernel: the comparison is inverted.
    const INVERTED: u32 = 2;
    const L4_PROTOCOL: u32 = 16;
    const NOT_EQUAL: u32 = 1;
    if !expressions(list).any(|(name, _)| name == "match" || name == "target") {
        return None;
    }
    let (mut protocol, mut flags) = (0, 0);
    let mut loads_protocol = false;
    for (name, data) in expressions(list) {
        if name == "cmp" && loads_protocol {
            let value = attribute(data, 3).and_then(|data| attribute(data.value, VALUE));
            protocol = value.and_then(|one| one.value.first().copied()).unwrap_or(0);
            flags = if u32_of(data, 2) == Some(NOT_EQUAL) { INVERTED } else { 0 };
        }
        loads_protocol = match name {
            "meta" => u32_of(data, 2) == Some(L4_PROTOCOL),
            // The protocol in IPv4's header, and the next header in IPv6's.
            "payload" => {
                u32_of(data, 2) == Some(1)
                    && matches!(u32_of(data, 3), Some(6 | 9))
                    && u32_of(data, 4) == Some(1)
            }
            _ => false,
        };
    }
    Some(Attributes::default().u32(1, protocol.into()).u32(2, flags))
}

fn kept(body: &[u8], kinds: &[u16]) -> Attributes {
    copied(attributes(body).filter(|one| kinds.contains(&one.kind)))
}

fn kept_all(body: &[u8]) -> Attributes {
    copied(attributes(body))
}

/// The same with another number in one of them.
fn changed(body: &[u8], kinds: &[u16], kind: u16, value: u32) -> Attributes {
    let others = attributes(body).filter(|one| kinds.contains(&one.kind) && one.kind != kind);
    copied(others).u32(kind, value)
}

fn copied<'a>(list: impl Iterator<Item = Attribute<'a>>) -> Attributes {
    list.fold(Attributes::default(), |copy, one| copy.put(one.kind, one.value))
}

fn name_of(answer: &Answer, kind: u16) -> &str {
    attribute(&answer.body, kind).map_or("", |name| name.text())
}

/// A family as nft writes it.
pub(super) fn family(number: u8) -> &'static str {
    match number {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "?",
    }
}
