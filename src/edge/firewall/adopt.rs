//! Adopts connections that are older than the guard: an admin's command marks them as granted. See
//! `tracked` and `proc_net` for the lists of open connections. Cut connections stay cut.
//!
//! If nothing used connection tracking before the guard was loaded, older connections have no entry
//! and the guard drops their packets. So an open TCP socket without an entry gets one.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Protocol,
    Status, Tuple,
};
use nix::errno::Errno;

use super::netlink::Netlink;
use super::ruleset::{GuardPlan, PacketMarks};
use super::tracked::{Connection, MARK, MARK_MASK, other, refused, tracked};
use crate::config::{self, KnockSettings};
use crate::core::service::Service;
use crate::core::types::{Fault, Port, Proto};
use crate::edge::proc_net;

/// From linux/netfilter/nf_conntrack_tcp.h: the state, and the flag for unknown windows.
const ESTABLISHED: u8 = 3;
const BE_LIBERAL: u8 = 0x08;
/// Attributes of that state: one byte of flags, one byte of mask.
const FLAGS_ORIGINAL: u16 = 4;
const FLAGS_REPLY: u16 = 5;
/// The kernel's timeout for an established connection, seconds. The first packet renews it.
const LIFE: u32 = 432_000;

/// Marks the open connections to guarded ports that have no mark of ours, and returns them. `own`
/// are this machine's addresses. After an error, those already marked stay marked.
pub fn adopt(
    settings: &config::FirewallSettings, services: &[Service], knock: &KnockSettings,
    own: &[IpAddr],
) -> Result<Vec<Connection>, Fault> {
    let marks = GuardPlan::new(settings, services, knock)?.marks();
    let is_guarded = |one: &Connection| {
        let port = Port { proto: one.proto, number: one.to.port() };
        services.iter().any(|service| service.ports.contains(&port))
            && !own.contains(&one.from.ip())
    };
    let mut netlink = Netlink::open()?;
    let entries = tracked(&mut netlink, &[])?;
    let known: HashSet<Connection> = entries.iter().map(|entry| entry.connection).collect();
    let mut adopted = Vec::new();
    for entry in entries {
        let older = entry.connection;
        let is_here = own.contains(&older.to.ip()) || entry.translated;
        let is_ours = entry.mark & marks.ours() != 0;
        if !is_guarded(&older) || !is_here || !entry.answered || is_ours {
            continue;
        }
        let mut order = entry.name;
        order.extend([other(MARK, marks.granted), other(MARK_MASK, marks.ours())]);
        match netlink.order(entry.family, &ConntrackMessage::New(order)) {
            Ok(()) => adopted.push(older),
            // The connection has ended.
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    for (to, from) in proc_net::sessions() {
        let older = Connection { from, to, proto: Proto::Tcp };
        if !is_guarded(&older) || known.contains(&older) {
            continue;
        }
        let (family, order) = unknown(&older, marks);
        match netlink.create(family, &order) {
            Ok(()) => adopted.push(older),
            // It is tracked under another tuple because its destination is translated: done above.
            Err(Errno::EEXIST) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    adopted.sort_unstable();
    Ok(adopted)
}

/// The entry of a connection whose handshake was not tracked.
fn unknown(older: &Connection, marks: PacketMarks) -> (NetfilterProtoFamily, ConntrackMessage) {
    // The library has a type for these two but no constructor.
    let liberal = |kind| ProtoInfoTCP::Other(DefaultNla::new(kind, vec![BE_LIBERAL, BE_LIBERAL]));
    let tcp = vec![ProtoInfoTCP::State(ESTABLISHED), liberal(FLAGS_ORIGINAL), liberal(FLAGS_REPLY)];
    let order = ConntrackMessage::New(vec![
        ConntrackAttribute::CtaTupleOrig(tuple(older.from, older.to)),
        ConntrackAttribute::CtaTupleReply(tuple(older.to, older.from)),
        ConntrackAttribute::CtaStatus(Status::SeenReply | Status::Assured | Status::Confirmed),
        ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::TCP(tcp)]),
        ConntrackAttribute::CtaTimeout(LIFE),
        other(MARK, marks.granted),
    ]);
    let family =
        if older.to.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
    (family, order)
}

fn tuple(from: SocketAddr, to: SocketAddr) -> Vec<Tuple> {
    vec![
        Tuple::Ip(vec![IPTuple::SourceAddress(from.ip()), IPTuple::DestinationAddress(to.ip())]),
        Tuple::Proto(vec![
            ProtoTuple::Protocol(Protocol::Tcp),
            ProtoTuple::SourcePort(from.port()),
            ProtoTuple::DestinationPort(to.port()),
        ]),
    ]
}
