//! What the kernel itself says about one packet's way through the chains of nf_tables: the messages
//! of `meta nftrace`, as `nft monitor trace` shows them. See `packet_trace` for the same by reading.
//!
//! The rules that ask the kernel for it are loaded into this thread's network namespace, so it must
//! be a copy of the host's: see `twin`.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use super::attributes::{Attributes, Received, attribute, split, u32_of};
use super::netlink::{Message, NF_TABLES, Netlink, receive};
use super::nft::NftProgram;
use super::packet_trace::{Trace, TraceEffect, TraceStep};
use super::rule_place::RulePlace;
use super::ruleset_copy::family;
use super::ruleset_snapshot::{Chain, RulesetSnapshot};
use crate::core::types::Fault;

/// The multicast group of traces, and their message.
const GROUP: u32 = 9;
const TRACE: u16 = 17;
/// Attributes of a trace, of linux/netfilter/nf_tables.h.
const TABLE: u16 = 1;
const CHAIN: u16 = 2;
const HANDLE: u16 = 3;
const KIND: u16 = 4;
const VERDICT: u16 = 5;
const POLICY: u16 = 16;
const VERDICT_CODE: u16 = 1;
/// What a message is about: the end of a base chain, or a rule that matched.
const OF_POLICY: u32 = 1;
const OF_RULE: u32 = 3;
/// Verdicts; those of nf_tables alone are negative.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const GET_RULE: u16 = 7;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
/// The table that asks for the traces.
const ASKING: &str = "toctoc-asks-for-traces";
/// Bytes that the kernel may queue.
const RECEIVE_BUFFER: usize = 4 << 20;

/// A chain: family, table, name.
type ChainKey = (String, String, String);

/// The kernel's traces in one network namespace.
pub struct KernelTrace {
    socket: Socket,
    /// The number in its chain, from 1, of each rule by its handle.
    numbers: BTreeMap<(ChainKey, u64), usize>,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Report {
    chain: ChainKey,
    about: About,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum About {
    Rule {
        handle: u64,
        /// `None`: the packet goes on to another rule or chain.
        effect: Option<TraceEffect>,
    },
    Policy(TraceEffect),
    /// The end of a chain that another one has jumped to.
    Return,
}

impl KernelTrace {
    /// Asks for the traces of first packets that come in, and of UDP packets that leave from this
    /// port.
    /// Error: the kernel or nft cannot do it.
    pub fn begin(nft: &Path, receipts: u16) -> Result<KernelTrace, Fault> {
        NftProgram::new(nft)?.load(&asking_rules(receipts))?;
        let socket = open().map_err(|error| {
            let what = format!("this kernel tells no traces of packets: {error}");
            Fault::new(what, "a kernel from 4.6 on with nf_tables tells them")
        })?;
        let numbers = numbers(&mut Netlink::open()?).map_err(|error| {
            let what = format!("cannot list the rules of the copy: {}", error.desc());
            Fault::new(what, "run it as root, on a kernel with nf_tables")
        })?;
        Ok(KernelTrace { socket, numbers })
    }

    /// What the kernel said since the last call: of a packet that was sent since, when it is done
    /// with it. `snapshot`: the rulesets that were copied. `ours`: the guard's table.
    /// `None`: it said nothing.
    pub fn take(&self, snapshot: &RulesetSnapshot, ours: &str) -> Option<Trace> {
        let mut reports = Vec::new();
        while let Ok(Some(datagram)) = receive(&self.socket) {
            reports.extend(split(&datagram).filter_map(|message| report(&message)));
        }
        if !reports.iter().any(|report| report.chain.1 == ASKING) {
            return None;
        }
        Some(self.trace(&reports, snapshot, ours))
    }

    fn trace(&self, reports: &[Report], snapshot: &RulesetSnapshot, ours: &str) -> Trace {
        let mut trace = Trace::default();
        let mut base: Option<&Chain> = None;
        for Report { chain: key, about } in reports {
            let Some(chain) = snapshot.chain(&key.0, &key.1, &key.2) else { continue };
            if chain.hook.is_some() {
                base = Some(chain);
            }
            let (rule, effect) = match about {
                About::Rule { handle, effect: Some(effect) } => {
                    (self.numbers.get(&(key.clone(), *handle)), effect)
                }
                About::Policy(effect) => (None, effect),
                About::Rule { effect: None, .. } | About::Return => continue,
            };
            let numbered = rule.and_then(|number| Some((*number, chain.rules.get(number - 1)?)));
            let place: RulePlace = chain.place(numbered);
            let hook = base.and_then(|base| base.hook.clone()).unwrap_or_default();
            if *effect == TraceEffect::Drop {
                trace.dropped = Some(place.clone());
            } else if chain.is_of(ours) {
                continue;
            }
            trace.steps.push(TraceStep { hook, place, effect: effect.clone() });
        }
        trace
    }
}

/// The first chains of all that a packet meets.
fn asking_rules(receipts: u16) -> String {
    format!(
        "create table inet {ASKING}
         add chain inet {ASKING} in {{ type filter hook prerouting priority -2147483648; }}
         add chain inet {ASKING} out {{ type filter hook output priority -2147483648; }}
         add rule inet {ASKING} in tcp flags & (syn | ack) == syn meta nftrace set 1
         add rule inet {ASKING} in meta l4proto udp meta nftrace set 1
         add rule inet {ASKING} out udp sport {receipts} meta nftrace set 1\n"
    )
}

fn open() -> std::io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    // Without the right to more, the system's own limit does.
    let _ = setsockopt(&socket.as_fd(), RcvBufForce, &RECEIVE_BUFFER);
    socket.add_membership(GROUP)?;
    Ok(socket)
}

fn numbers(netlink: &mut Netlink) -> Result<BTreeMap<(ChainKey, u64), usize>, Errno> {
    let mut numbers = BTreeMap::new();
    let mut last: BTreeMap<ChainKey, usize> = BTreeMap::new();
    let all = Message {
        subsystem: NF_TABLES,
        number: GET_RULE,
        flags: 0,
        family: 0,
        body: Attributes::default(),
    };
    for rule in netlink.dump(&all)? {
        let key = chain_key(rule.family, &rule.body, RULE_TABLE, RULE_CHAIN);
        let Some(handle) = attribute(&rule.body, RULE_HANDLE).and_then(|one| one.u64()) else {
            continue;
        };
        let number = last.entry(key.clone()).or_default();
        *number += 1;
        numbers.insert((key, handle), *number);
    }
    Ok(numbers)
}

fn chain_key(number: u8, body: &[u8], table: u16, chain: u16) -> ChainKey {
    let text = |kind| attribute(body, kind).map_or("", |one| one.text()).to_owned();
    (family(number).to_owned(), text(table), text(chain))
}

fn report(message: &Received<'_>) -> Option<Report> {
    if message.kind != NF_TABLES << 8 | TRACE {
        return None;
    }
    let body = message.body();
    let about = match u32_of(body, KIND)? {
        OF_POLICY if u32_of(body, POLICY)? == DROP => About::Policy(TraceEffect::Drop),
        OF_POLICY => About::Policy(TraceEffect::Accept),
        OF_RULE => {
            let code = u32_of(attribute(body, VERDICT)?.value, VERDICT_CODE)?;
            let handle = attribute(body, HANDLE)?.u64()?;
            About::Rule { handle, effect: effect(code) }
        }
        _ => About::Return,
    };
    Some(Report { chain: chain_key(message.family(), body, TABLE, CHAIN), about })
}

/// What a rule's verdict means for the packet. One that is taken out of its way, for a program to
/// decide about (queue), goes nowhere in a copy.
fn effect(code: u32) -> Option<TraceEffect> {
    match code {
        _ if code.cast_signed() < 0 => None,
        ACCEPT => Some(TraceEffect::Accept),
        _ => Some(TraceEffect::Drop),
    }
}
