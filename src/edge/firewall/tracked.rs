//! Reads entries of connection tracking from the kernel's messages, with the attributes that name
//! them in a request.

use std::net::SocketAddr;

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Status, Tuple,
};
use netlink_packet_netfilter::{NetfilterMessageInner, NetfilterProtoFamily};
use nix::errno::Errno;

use super::netlink::Netlink;
use crate::core::types::{Fault, Proto};

/// Attributes that the library does not name, from linux/netfilter/nfnetlink_conntrack.h.
pub(super) const MARK: u16 = 8;
pub(super) const MARK_MASK: u16 = 21;
const ZONE: u16 = 18;
/// The status bit of an entry whose destination is translated.
const DESTINATION_TRANSLATED: u32 = 1 << 5;

/// One connection as the client opened it, before any translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Connection {
    /// The client's end.
    pub from: SocketAddr,
    /// The original destination.
    pub to: SocketAddr,
    pub proto: Proto,
}

#[derive(Debug)]
pub(super) struct Tracked {
    pub connection: Connection,
    /// The address family for requests.
    pub family: NetfilterProtoFamily,
    /// The attributes that name it in a request.
    pub name: Vec<ConntrackAttribute>,
    /// The whole mark, including bits that are not ours.
    pub mark: u32,
    /// True if a reply was seen.
    pub answered: bool,
    /// True if its destination is translated.
    pub translated: bool,
}

/// The connections that match `filter` in the kernel; those without ports are left out.
pub(super) fn tracked(
    netlink: &mut Netlink, filter: &[ConntrackAttribute],
) -> Result<Vec<Tracked>, Fault> {
    let mut found = Vec::new();
    let request = ConntrackMessage::Get(filter.to_vec());
    for answer in netlink.connections(&request).map_err(refused)? {
        if let NetfilterMessageInner::Conntrack(message) = answer.inner {
            found.extend(read(answer.header.family, message));
        }
    }
    Ok(found)
}

/// An attribute without a name; all of them are big endian.
pub(super) fn other(kind: u16, value: u32) -> ConntrackAttribute {
    ConntrackAttribute::Other(DefaultNla::new(kind, value.to_be_bytes().to_vec()))
}

fn read(family: NetfilterProtoFamily, message: ConntrackMessage) -> Option<Tracked> {
    let ConntrackMessage::New(attributes) = message else { return None };
    let mut connection = None;
    let mut name = Vec::new();
    let mut mark = 0;
    let mut status = Status::empty();
    for attribute in attributes {
        match &attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => {
                connection = read_tuple(tuple);
                name.push(attribute);
            }
            ConntrackAttribute::Other(other) if other.kind() == ZONE => name.push(attribute),
            ConntrackAttribute::CtaMark(bits) => mark = *bits,
            ConntrackAttribute::CtaStatus(bits) => status = *bits,
            _ => {}
        }
    }
    let answered = status.contains(Status::SeenReply);
    let translated = status.bits() & DESTINATION_TRANSLATED != 0;
    Some(Tracked { connection: connection?, family, name, mark, answered, translated })
}

fn read_tuple(tuple: &[Tuple]) -> Option<Connection> {
    let mut source = None;
    let mut destination = None;
    let mut proto = None;
    let mut from = None;
    let mut to = None;
    for part in tuple {
        match part {
            Tuple::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(ip) => source = Some(*ip),
                        IPTuple::DestinationAddress(ip) => destination = Some(*ip),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(ports) => {
                for port in ports {
                    match port {
                        ProtoTuple::Protocol(number) => {
                            proto = Proto::from_number((*number).into());
                        }
                        ProtoTuple::SourcePort(number) => from = Some(*number),
                        ProtoTuple::DestinationPort(number) => to = Some(*number),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(Connection {
        from: SocketAddr::new(source?, from?),
        to: SocketAddr::new(destination?, to?),
        proto: proto?,
    })
}

pub(super) fn refused(error: Errno) -> Fault {
    let remedy = match error {
        Errno::EPERM => "run toctocd as root or with CAP_NET_ADMIN",
        Errno::EOPNOTSUPP | Errno::EINVAL => {
            "the kernel needs nf_conntrack_netlink, or every service cut = \"never\""
        }
        _ => "the connections of who was revoked may stand: `conntrack -L` shows them",
    };
    Fault::new(
        format!("connection tracking refused to list or change connections: {}", error.desc()),
        remedy,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(source: &str, proto: u8, from: u16, to: u16) -> Vec<Tuple> {
        let ip = vec![
            IPTuple::SourceAddress(source.parse().unwrap()),
            IPTuple::DestinationAddress("192.0.2.1".parse().unwrap()),
        ];
        let ports = vec![
            ProtoTuple::Protocol(proto.into()),
            ProtoTuple::SourcePort(from),
            ProtoTuple::DestinationPort(to),
        ];
        vec![Tuple::Ip(ip), Tuple::Proto(ports)]
    }

    #[test]
    fn a_connection_is_named_by_its_tuple_and_its_zone_alone() {
        let kept =
            [ConntrackAttribute::CtaTupleOrig(tuple("192.0.2.7", 6, 40_000, 22)), other(ZONE, 7)];
        let all = [vec![ConntrackAttribute::CtaMark(1), other(25, 0)], kept.to_vec()].concat();
        let tracked = read(NetfilterProtoFamily::IPv4, ConntrackMessage::New(all)).unwrap();
        assert_eq!((tracked.name, tracked.mark), (kept.to_vec(), 1));
        let (from, to) = ("192.0.2.7:40000".parse().unwrap(), "192.0.2.1:22".parse().unwrap());
        assert_eq!(tracked.connection, Connection { from, to, proto: Proto::Tcp });
        assert!(!tracked.answered && !tracked.translated, "nothing says so");
    }

    #[test]
    fn what_came_back_and_what_leads_elsewhere_are_bits_of_the_status() {
        for (status, found) in [
            (Status::SeenReply.bits(), (true, false)),
            (DESTINATION_TRANSLATED, (false, true)),
            (Status::Assured.bits() | Status::Confirmed.bits(), (false, false)),
        ] {
            let status = ConntrackAttribute::CtaStatus(Status::from_bits_retain(status));
            let tuple = ConntrackAttribute::CtaTupleOrig(tuple("192.0.2.7", 17, 40_000, 53));
            let read = read(NetfilterProtoFamily::IPv4, ConntrackMessage::New(vec![status, tuple]))
                .unwrap();
            assert_eq!(
                (read.answered, read.translated, read.connection.proto),
                (found.0, found.1, Proto::Udp)
            );
        }
    }

    #[test]
    fn what_has_no_ports_is_no_connection_of_ours() {
        let mut icmp = tuple("192.0.2.7", 1, 0, 0);
        assert_eq!(read_tuple(&icmp), None);
        icmp.pop();
        assert_eq!(read_tuple(&icmp), None);
        let mut half = tuple("192.0.2.7", 6, 40_000, 22);
        let Some(Tuple::Proto(ports)) = half.last_mut() else { panic!("as made above") };
        ports.pop();
        assert_eq!(read_tuple(&half), None);
    }
}
