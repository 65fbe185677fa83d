//! Our table as the kernel has it, read over netlink: which chains and sets, whether the rules are
//! still those that were loaded, whether the table is ours at all. No program is run and no grant
//! is listed, so it takes well under a millisecond with any number of grants.

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::attributes::{Attributes, attribute, attributes, u32_of};
use super::elements::refused;
use super::netlink::{Answer, Message, Netlink};
use super::ruleset::{CHAIN, GuardPlan};
use crate::core::types::Fault;

/// Messages of linux/netfilter/nf_tables.h.
const GET_TABLE: u16 = 1;
const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
const GET_SET: u16 = 10;
const GET_ELEMENT: u16 = 13;
/// The name of the table in every object; of a table its own.
const TABLE: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_USE: u16 = 3;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const ANONYMOUS: u32 = 1;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
const ELEMENTS: u16 = 3;
/// The attributes whose change means another rule; the others count packets and users, or number
/// objects.
const OF_CHAIN: [u16; 5] = [3, 4, 5, 7, 10];
const OF_SET: [u16; 8] = [2, 3, 4, 5, 6, 7, 9, 11];
const OF_RULE: [u16; 2] = [2, 7];

/// All rules of our table, without counters and handles. Equal values mean equal rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RulesInForce(Vec<u8>);

/// The rules in force; `None` if the table does not exist.
pub(super) fn rules_in_force(
    netlink: &mut Netlink, table: &str,
) -> Result<Option<RulesInForce>, Fault> {
    let Some(found) = get_table(netlink, table)? else { return Ok(None) };
    let fault = |error| refused(error, table);
    let mut all = Vec::new();
    keep(&found.body, &[TABLE_FLAGS], &mut all);
    for chain in chains_of(netlink, table)? {
        keep(&chain.body, &OF_CHAIN, &mut all);
    }
    let body = Attributes::default().text(TABLE, table);
    for set in netlink.dump(&Message::tables(GET_SET, 0, body.clone())).map_err(fault)? {
        keep(&set.body, &OF_SET, &mut all);
        if is_anonymous(&set) {
            // Its elements never change.
            let body = body.clone().text(SET_NAME, name_of(&set, SET_NAME));
            let elements = Message::tables(GET_ELEMENT, 0, body);
            for part in netlink.dump(&elements).map_err(fault)? {
                keep(&part.body, &[ELEMENTS], &mut all);
            }
        }
    }
    for rule in netlink.dump(&Message::tables(GET_RULE, 0, body)).map_err(fault)? {
        if name_of(&rule, TABLE) != table {
            continue;
        }
        keep(&rule.body, &OF_RULE, &mut all);
        let expressions = attribute(&rule.body, RULE_EXPRESSIONS).map(|list| list.value);
        for item in attributes(expressions.unwrap_or_default()) {
            let is_counter =
                attribute(item.value, EXPRESSION_NAME).is_some_and(|name| name.text() == "counter");
            let kept: &[u16] = if is_counter { &[1] } else { &[1, 2] };
            keep(item.value, kept, &mut all);
        }
    }
    Ok(Some(RulesInForce(all)))
}

/// An anonymous set belongs to a rule, and goes with it.
fn is_anonymous(set: &Answer) -> bool {
    matches!(u32_of(&set.body, SET_FLAGS), Some(flags) if flags & ANONYMOUS != 0)
}

/// Appends the attributes of these kinds.
fn keep(body: &[u8], kinds: &[u16], all: &mut Vec<u8>) {
    for one in attributes(body).filter(|one| kinds.contains(&one.kind)) {
        all.extend(one.kind.to_ne_bytes());
        all.extend(one.value.len().to_ne_bytes());
        all.extend(one.value);
    }
    // Ends this object, so that the attributes of two never look like those of one.
    all.push(0xff);
}

/// The chains and sets in our table that the plan does not have, so that it cannot replace them.
#[derive(Debug, Default)]
pub(super) struct Stale {
    pub(super) chains: Vec<String>,
    pub(super) sets: Vec<String>,
}

pub(super) fn stale(netlink: &mut Netlink, plan: &GuardPlan) -> Result<Stale, Fault> {
    let table = plan.table();
    let wanted = plan.chains();
    let mut stale = Stale::default();
    for chain in chains_of(netlink, table)? {
        let name = name_of(&chain, CHAIN_NAME);
        if !wanted.contains_key(name) {
            stale.chains.push(name.to_owned());
        }
    }
    let wanted = plan.sets();
    for (name, is_anonymous) in sets(netlink, table)? {
        if !is_anonymous && !wanted.contains(&name) {
            stale.sets.push(name);
        }
    }
    Ok(stale)
}

/// The names of the sets in this table, each true if it is anonymous; none without the table.
pub(super) fn sets(netlink: &mut Netlink, table: &str) -> Result<Vec<(String, bool)>, Fault> {
    let body = Attributes::default().text(TABLE, table);
    let answers = match netlink.dump(&Message::tables(GET_SET, 0, body)) {
        Err(Errno::ENOENT) => return Ok(Vec::new()),
        other => other.map_err(|error| refused(error, table))?,
    };
    let mut found = Vec::new();
    for set in &answers {
        found.push((name_of(set, SET_NAME).to_owned(), is_anonymous(set)));
    }
    Ok(found)
}

/// Fails if the table exists and is not ours: somebody else's rules must not be replaced or
/// removed. Ours has the guard's chain in its hook; an empty one is anybody's.
pub(super) fn check_is_ours(netlink: &mut Netlink, table: &str) -> Result<(), Fault> {
    let Some(found) = get_table(netlink, table)? else { return Ok(()) };
    if u32_of(&found.body, TABLE_USE) == Some(0) || tables_with_a_guard(netlink)?.contains(table) {
        return Ok(());
    }
    Err(Fault::new(
        format!("the table inet {table} exists and is not a guard of toctoc"),
        format!(
            "give toctoc another name in [firewall] table, or remove that table: \
             `nft delete table inet {table}`"
        ),
    ))
}

/// The tables of the `inet` family that contain a guard of toctoc.
pub(super) fn tables_with_a_guard(netlink: &mut Netlink) -> Result<BTreeSet<String>, Fault> {
    let is_guard = |chain: &&Answer| name_of(chain, CHAIN_NAME) == CHAIN && is_hooked(chain);
    let all = chains(netlink)?;
    Ok(all.iter().filter(is_guard).map(|chain| name_of(chain, TABLE).to_owned()).collect())
}

/// True if this chain is in the prerouting hook, after conntrack and before all else.
fn is_hooked(chain: &Answer) -> bool {
    const PREROUTING: u32 = 0;
    const PRIORITY: u32 = (-175_i32).cast_unsigned();
    let Some(hook) = attribute(&chain.body, CHAIN_HOOK) else { return false };
    u32_of(hook.value, 1) == Some(PREROUTING) && u32_of(hook.value, 2) == Some(PRIORITY)
}

/// The chains of all tables of the `inet` family.
fn chains(netlink: &mut Netlink) -> Result<Vec<Answer>, Fault> {
    let all = Message::tables(GET_CHAIN, 0, Attributes::default());
    netlink.dump(&all).map_err(|error| refused(error, "*"))
}

/// The chains of this table.
fn chains_of(netlink: &mut Netlink, table: &str) -> Result<Vec<Answer>, Fault> {
    let mut chains = chains(netlink)?;
    chains.retain(|chain| name_of(chain, TABLE) == table);
    Ok(chains)
}

pub(super) fn get_table(netlink: &mut Netlink, table: &str) -> Result<Option<Answer>, Fault> {
    let body = Attributes::default().text(TABLE, table);
    match netlink.get(&Message::tables(GET_TABLE, 0, body)) {
        Ok(answers) => Ok(answers.into_iter().next()),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(refused(error, table)),
    }
}

fn name_of(answer: &Answer, kind: u16) -> &str {
    attribute(&answer.body, kind).map_or("", |name| name.text())
}
