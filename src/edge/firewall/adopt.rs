//! Adopts connections that are older than the guard: an admin's command marks them as granted. See
//! `tracked` and `proc_net` for the lists of open connections. Cut connections stay cut.
//!
//! If nothing used connection tracking before the guard was loaded, older connections have no entry
//! and the guard drops their packets. So an open TCP socket without an entry gets one.

use std::collections::HashSet;
use std::net::IpAddr;

use nix::errno::Errno;

use super::GuardRules;
use super::attributes::Attributes;
use super::netlink::{CREATE, EXCLUSIVE, Message, Netlink};
use super::ruleset::PacketMarks;
use super::tracked::{
    Connection, MARK, MARK_MASK, NEW, SEEN_REPLY, STATUS, TUPLE_ORIGINAL, TUPLE_REPLY, message,
    refused, tracked, tuple,
};
use crate::core::types::{Fault, Port, Proto};
use crate::edge::proc_net;

/// From linux/netfilter/nf_conntrack_tcp.h: the state, and the flag for unknown windows.
const ESTABLISHED: u8 = 3;
const BE_LIBERAL: u8 = 0x08;
/// Attributes of an entry, and of the state of a TCP connection: one byte of flags, one of mask.
const PROTO_INFO: u16 = 4;
const TIMEOUT: u16 = 7;
const TCP: u16 = 1;
const STATE: u16 = 1;
const FLAGS_ORIGINAL: u16 = 4;
const FLAGS_REPLY: u16 = 5;
/// Status bits: assured, confirmed.
const STANDING: u32 = 1 << 2 | 1 << 3;
/// The kernel's timeout for an established connection, seconds. The first packet renews it.
const LIFE: u32 = 432_000;

/// Marks the open connections to guarded ports that have no mark of ours, and returns them. `own`
/// are this machine's addresses. After an error, those already marked stay marked.
pub fn adopt(rules: &GuardRules, own: &[IpAddr]) -> Result<Vec<Connection>, Fault> {
    let marks = rules.plan()?.marks();
    let at_guarded_port = |proto, number| {
        rules.services.iter().any(|service| service.ports.covers(Port { proto, number }))
    };
    let is_guarded = |one: &Connection| {
        at_guarded_port(one.proto, one.to.port()) && !own.contains(&one.from.ip())
    };
    let mut netlink = Netlink::open()?;
    let entries = tracked(&mut netlink, 0, Some)?;
    let known: HashSet<Connection> = entries.iter().map(|entry| entry.connection).collect();
    let mut adopted = Vec::new();
    for entry in entries {
        let older = entry.connection;
        let is_here = own.contains(&older.to.ip()) || entry.translated;
        let is_ours = entry.mark & marks.ours() != 0;
        let comes_in = is_guarded(&older) && is_here && entry.answered && !is_ours;
        // One that this machine opened from a port that is guarded now. Without its first packet
        // conntrack took it for a turned one, and the guard marked it as cut.
        let goes_out = older.proto == Proto::Tcp
            && own.contains(&older.from.ip())
            && !own.contains(&older.to.ip())
            && at_guarded_port(older.proto, older.from.port())
            && entry.mark & marks.ours() == marks.pending;
        if !comes_in && !goes_out {
            continue;
        }
        let body = entry.name.u32(MARK, marks.granted).u32(MARK_MASK, marks.ours());
        match netlink.get(&message(NEW, 0, entry.family, body)) {
            Ok(_) => adopted.push(older),
            // The connection has ended.
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    for (to, from) in proc_net::sessions() {
        let older = Connection { from, to, proto: Proto::Tcp };
        let turned = Connection { from: to, to: from, proto: Proto::Tcp };
        if !is_guarded(&older) || known.contains(&older) || known.contains(&turned) {
            continue;
        }
        match netlink.get(&unknown(&older, marks)) {
            Ok(_) => adopted.push(older),
            // It is tracked under another tuple because its destination is translated: done above.
            Err(Errno::EEXIST) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    adopted.sort_unstable();
    Ok(adopted)
}

/// The entry of a connection whose handshake was not tracked.
fn unknown(older: &Connection, marks: PacketMarks) -> Message {
    let Connection { from, to, proto } = *older;
    let tcp = Attributes::default()
        .put(STATE, &[ESTABLISHED])
        .put(FLAGS_ORIGINAL, &[BE_LIBERAL, BE_LIBERAL])
        .put(FLAGS_REPLY, &[BE_LIBERAL, BE_LIBERAL]);
    let body = Attributes::default()
        .nest(TUPLE_ORIGINAL, &tuple(from, to, proto))
        .nest(TUPLE_REPLY, &tuple(to, from, proto))
        .u32(STATUS, SEEN_REPLY | STANDING)
        .nest(PROTO_INFO, &Attributes::default().nest(TCP, &tcp))
        .u32(TIMEOUT, LIFE)
        .u32(MARK, marks.granted);
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    message(NEW, CREATE | EXCLUSIVE, u8::try_from(family).unwrap_or_default(), body)
}
