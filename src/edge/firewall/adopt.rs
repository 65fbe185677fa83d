//! Connections that are older than the guard, let in once by an admin's command as if they had been granted.
//! Which connections stand is left to connection tracking and the kernel's table of sockets; those that were cut stay cut.
//!
//! Where nothing on a machine asked for connection tracking before the guard came, it knows no older connection, and the guard
//! drops the packets by which it would learn of them. So for a socket without an entry one is made.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Protocol, Status, Tuple,
};
use nix::errno::Errno;

use super::conntrack::{MARK, MARK_MASK, ZONE, other, refused};
use super::netlink::{Netlink, connection};
use super::ruleset::{Marks, Plan};
use crate::config::{self, Knock};
use crate::core::service::Service;
use crate::core::types::{Fault, Port, Proto};
use crate::edge::proc_net;

/// As in linux/netfilter/nf_conntrack_tcp.h: the state, and the flag that asks no questions about windows that nobody saw begin.
const ESTABLISHED: u8 = 3;
const BE_LIBERAL: u8 = 0x08;
/// Attributes of that state, each a byte of flags and a byte of which count.
const FLAGS_ORIGINAL: u16 = 4;
const FLAGS_REPLY: u16 = 5;
/// The bit of an entry's status that says: its destination is translated.
const DESTINATION_TRANSLATED: u32 = 1 << 5;
/// What the kernel gives an established connection, seconds; the first packet sets it anew.
const LIFE: u32 = 432_000;

/// One connection, as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Older {
    /// Who asked.
    pub from: SocketAddr,
    /// For what.
    pub to: SocketAddr,
    /// By what.
    pub proto: Proto,
}

/// What connection tracking says of one.
struct Entry {
    family: NetfilterProtoFamily,
    name: Vec<ConntrackAttribute>,
    mark: u32,
    answered: bool,
    translated: bool,
}

/// Marks what stands to guarded ports now and bears no mark of ours; answers what that was. `own` are this machine's addresses.
///
/// # Errors
/// If the kernel refuses; what was marked before that stays so.
pub fn adopt(
    settings: &config::Firewall,
    services: &[Service],
    knock: &Knock,
    own: &[IpAddr],
) -> Result<Vec<Older>, Fault> {
    let marks = Plan::new(settings, services, knock)?.marks();
    let ports: Vec<Port> = services.iter().flat_map(|service| service.ports.iter().copied()).collect();
    let guarded = |one: &Older| {
        ports.contains(&Port { proto: one.proto, number: one.to.port() }) && !own.contains(&one.from.ip())
    };
    let mut netlink = Netlink::open()?;
    let entries = entries(&mut netlink)?;
    let mut adopted = Vec::new();
    for (older, entry) in entries.iter().filter(|(older, _)| guarded(older)) {
        let here = own.contains(&older.to.ip()) || entry.translated;
        if here && entry.answered && entry.mark & marks.ours() == 0 {
            let mark = [other(MARK, marks.granted), other(MARK_MASK, marks.ours())];
            let order = ConntrackMessage::New([entry.name.clone(), mark.to_vec()].concat());
            if done(netlink.order(entry.family, &order), Errno::ENOENT)? {
                adopted.push(*older);
            }
        }
    }
    let sockets = proc_net::sessions().into_iter().map(|(to, from)| Older { from, to, proto: Proto::Tcp });
    for older in sockets.filter(|older| guarded(older) && !entries.contains_key(older)) {
        let (family, order) = unknown(&older, marks);
        // There is one under another name, its destination being translated: it was looked at above.
        if done(netlink.create(family, &order), Errno::EEXIST)? {
            adopted.push(older);
        }
    }
    adopted.sort_unstable();
    Ok(adopted)
}

/// Whether it was done; `unless` says that there was nothing to do.
fn done(outcome: Result<(), Errno>, unless: Errno) -> Result<bool, Fault> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error == unless => Ok(false),
        Err(error) => Err(refused(error)),
    }
}

fn entries(netlink: &mut Netlink) -> Result<HashMap<Older, Entry>, Fault> {
    let answers = netlink.connections(&ConntrackMessage::Get(Vec::new())).map_err(refused)?;
    Ok(answers.into_iter().filter_map(connection).filter_map(|(family, message)| read(family, message)).collect())
}

fn read(family: NetfilterProtoFamily, message: ConntrackMessage) -> Option<(Older, Entry)> {
    let ConntrackMessage::New(attributes) = message else { return None };
    let mut entry = Entry { family, name: Vec::new(), mark: 0, answered: false, translated: false };
    let mut older = None;
    for attribute in attributes {
        match &attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => older = read_tuple(tuple),
            ConntrackAttribute::CtaMark(mark) => entry.mark = *mark,
            ConntrackAttribute::CtaStatus(status) => {
                entry.answered = status.contains(Status::SeenReply);
                entry.translated = status.bits() & DESTINATION_TRANSLATED != 0;
            }
            _ => {}
        }
        let names = match &attribute {
            ConntrackAttribute::CtaTupleOrig(_) => true,
            ConntrackAttribute::Other(other) => other.kind() == ZONE,
            _ => false,
        };
        entry.name.extend(Some(attribute).filter(|_| names));
    }
    Some((older?, entry))
}

fn read_tuple(tuple: &[Tuple]) -> Option<Older> {
    let (mut source, mut destination, mut proto, mut from, mut to) = (None, None, None, None, None);
    for part in tuple {
        match part {
            Tuple::Ip(addresses) => addresses.iter().for_each(|address| match address {
                IPTuple::SourceAddress(ip) => source = Some(*ip),
                IPTuple::DestinationAddress(ip) => destination = Some(*ip),
                _ => {}
            }),
            Tuple::Proto(ports) => ports.iter().for_each(|port| match port {
                ProtoTuple::Protocol(number) => proto = Proto::from_number((*number).into()),
                ProtoTuple::SourcePort(number) => from = Some(*number),
                ProtoTuple::DestinationPort(number) => to = Some(*number),
                _ => {}
            }),
            _ => {}
        }
    }
    Some(Older { from: SocketAddr::new(source?, from?), to: SocketAddr::new(destination?, to?), proto: proto? })
}

/// The entry of a connection whose beginning nobody saw.
fn unknown(older: &Older, marks: Marks) -> (NetfilterProtoFamily, ConntrackMessage) {
    // The library has a type for these two and no way to make one.
    let liberal = |kind| ProtoInfoTCP::Other(DefaultNla::new(kind, vec![BE_LIBERAL, BE_LIBERAL]));
    let tcp = vec![ProtoInfoTCP::State(ESTABLISHED), liberal(FLAGS_ORIGINAL), liberal(FLAGS_REPLY)];
    let order = ConntrackMessage::New(vec![
        ConntrackAttribute::CtaTupleOrig(tuple(older.from, older.to)),
        ConntrackAttribute::CtaTupleReply(tuple(older.to, older.from)),
        ConntrackAttribute::CtaStatus(Status::SeenReply | Status::Assured | Status::Confirmed),
        ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::TCP(tcp)]),
        ConntrackAttribute::CtaTimeout(LIFE),
        ConntrackAttribute::Other(DefaultNla::new(MARK, marks.granted.to_be_bytes().to_vec())),
    ]);
    let family = if older.to.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
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
