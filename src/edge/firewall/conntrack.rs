//! Connections that the guard let in, as connection tracking knows them: listed, and cut.
//! Which are to be cut is left to `core::grants`, what the kernel does with the next packet of such a connection to `ruleset`.
//!
//! A connection passes the guard by a bit of ours in its conntrack mark. To cut it is to take that bit away and leave the other
//! one, by which it stays ours to drop also where an admin's own firewall decides about the rest. Its entry is not deleted: what a
//! server still sends would make a new one, under which the answers to it count as established there. Both ends are left waiting,
//! as on a line that was cut. Entries of others are never touched.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Tuple};
use nix::errno::Errno;

use super::netlink::{Netlink, connection};
use super::ruleset::Marks;
use crate::core::grants::{Element, Flow};
use crate::core::types::{Fault, Port, Proto, Source};

/// Attributes that the library has no names for, as in linux/netfilter/nfnetlink_conntrack.h.
pub(super) const MARK: u16 = 8;
pub(super) const ZONE: u16 = 18;
pub(super) const MARK_MASK: u16 = 21;

/// How often we look again whether a packet that was on its way has brought a connection back.
const LOOKS: usize = 4;

/// One connection, and what names it to the kernel.
struct Tracked {
    flow: Flow,
    family: NetfilterProtoFamily,
    name: Vec<ConntrackAttribute>,
}

/// The connections that the guard let in, or is about to.
pub(super) fn flows(netlink: &mut Netlink, marks: Marks) -> Result<Vec<Flow>, Fault> {
    Ok(ours(netlink, marks)?.into_iter().map(|tracked| tracked.flow).collect())
}

/// Ends those that one of `elements` could have let in.
pub(super) fn cut(netlink: &mut Netlink, marks: Marks, elements: &[Element]) -> Result<(), Fault> {
    for _ in 0..LOOKS {
        let mut found = ours(netlink, marks)?;
        found.retain(|tracked| elements.iter().any(|element| element.lets_in(&tracked.flow)));
        if found.is_empty() {
            break;
        }
        for Tracked { family, mut name, .. } in found {
            // The kernel clears the bits of the mask and turns those of the mark.
            name.extend([other(MARK, marks.pending), other(MARK_MASK, marks.ours())]);
            match netlink.order(family, &ConntrackMessage::New(name)) {
                // It has ended by itself.
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(refused(error)),
            }
        }
    }
    Ok(())
}

/// Those with the bit that a pending connection bears as well. The kernel looks for it, so that a crowd of others costs little.
fn ours(netlink: &mut Netlink, marks: Marks) -> Result<Vec<Tracked>, Fault> {
    let filter = [other(MARK, marks.granted), other(MARK_MASK, marks.granted)];
    let answers = netlink.connections(&ConntrackMessage::Get(filter.to_vec())).map_err(refused)?;
    Ok(answers.into_iter().filter_map(connection).filter_map(|(family, message)| read(family, message)).collect())
}

/// One of those, big endian as all of them are.
pub(super) fn other(kind: u16, value: u32) -> ConntrackAttribute {
    ConntrackAttribute::Other(DefaultNla::new(kind, value.to_be_bytes().to_vec()))
}

fn read(family: NetfilterProtoFamily, message: ConntrackMessage) -> Option<Tracked> {
    let ConntrackMessage::New(mut attributes) = message else { return None };
    let flow = attributes.iter().find_map(|attribute| match attribute {
        ConntrackAttribute::CtaTupleOrig(tuple) => read_tuple(tuple),
        _ => None,
    })?;
    attributes.retain(|attribute| match attribute {
        ConntrackAttribute::CtaTupleOrig(_) => true,
        ConntrackAttribute::Other(other) => other.kind() == ZONE,
        _ => false,
    });
    Some(Tracked { flow, family, name: attributes })
}

fn read_tuple(tuple: &[Tuple]) -> Option<Flow> {
    let (mut source, mut proto, mut from, mut to) = (None, None, None, None);
    for part in tuple {
        match part {
            Tuple::Ip(addresses) => addresses.iter().for_each(|address| {
                if let IPTuple::SourceAddress(ip) = address {
                    source = Some(IpAddr::to_canonical(ip));
                }
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
    Some(Flow { source: Source::new(source?), source_port: from?, port: Port { proto: proto?, number: to? } })
}

pub(super) fn refused(error: Errno) -> Fault {
    let remedy = match error {
        Errno::EPERM => "run toctocd as root or with CAP_NET_ADMIN",
        Errno::EOPNOTSUPP | Errno::EINVAL => "the kernel needs nf_conntrack_netlink, or every service cut = \"never\"",
        _ => "the connections of who was revoked may stand: `conntrack -L` shows them",
    };
    Fault::new(format!("connection tracking refused to list or change connections: {}", error.desc()), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(source: &str, proto: u8, from: u16, to: u16) -> Vec<Tuple> {
        let ip = vec![
            IPTuple::SourceAddress(source.parse().unwrap()),
            IPTuple::DestinationAddress("192.0.2.1".parse().unwrap()),
        ];
        let ports =
            vec![ProtoTuple::Protocol(proto.into()), ProtoTuple::SourcePort(from), ProtoTuple::DestinationPort(to)];
        vec![Tuple::Ip(ip), Tuple::Proto(ports)]
    }

    #[test]
    fn a_connection_is_named_by_its_tuple_and_its_zone_alone() {
        let kept = [ConntrackAttribute::CtaTupleOrig(tuple("192.0.2.7", 6, 40_000, 22)), other(ZONE, 7)];
        let all = [vec![ConntrackAttribute::CtaMark(1), other(25, 0)], kept.to_vec()].concat();
        let tracked = read(NetfilterProtoFamily::IPv4, ConntrackMessage::New(all)).unwrap();
        assert_eq!(tracked.name, kept);
        let port = Port { proto: Proto::Tcp, number: 22 };
        assert_eq!(tracked.flow, Flow { source: Source::new("192.0.2.7".parse().unwrap()), source_port: 40_000, port });
    }

    #[test]
    fn what_has_no_ports_is_no_connection_of_ours() {
        let mut icmp = tuple("192.0.2.7", 1, 0, 0);
        assert_eq!(read_tuple(&icmp), None);
        icmp.pop();
        assert_eq!(read_tuple(&icmp), None);
    }
}
