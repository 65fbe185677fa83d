//! Reads entries of connection tracking from the kernel's messages, with the attributes that name
//! them in a request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::errno::Errno;

use super::attributes::{Attributes, attribute, attributes};
use super::netlink::{Answer, CONNTRACK, Message, Netlink};
use crate::core::types::{Fault, Proto};

/// Messages and attributes of linux/netfilter/nfnetlink_conntrack.h.
pub(super) const NEW: u16 = 0;
const GET: u16 = 1;
pub(super) const TUPLE_ORIGINAL: u16 = 1;
pub(super) const TUPLE_REPLY: u16 = 2;
pub(super) const STATUS: u16 = 3;
pub(super) const MARK: u16 = 8;
const ZONE: u16 = 18;
pub(super) const MARK_MASK: u16 = 21;
/// Parts of a tuple.
const IP: u16 = 1;
const PROTO: u16 = 2;
/// Status bits: a reply was seen; the destination is translated.
pub(super) const SEEN_REPLY: u32 = 1 << 1;
const DESTINATION_TRANSLATED: u32 = 1 << 5;

/// One connection as the client opened it, before any translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Connection {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub proto: Proto,
}

#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) connection: Connection,
    /// The port that answers: another one than the original destination's after a translation.
    pub(super) answering_port: u16,
    pub(super) family: u8,
    /// The attributes that name it in a request.
    pub(super) name: Attributes,
    /// The whole mark, including bits that are not ours.
    pub(super) mark: u32,
    pub(super) answered: bool,
    pub(super) translated: bool,
}

/// What `keep` keeps of the connections with all of these mark bits, filtered by the kernel; those
/// without ports are left out.
pub(super) fn tracked<T>(
    netlink: &mut Netlink, bits: u32, keep: impl Fn(Tracked) -> Option<T>,
) -> Result<Vec<T>, Fault> {
    let mut body = Attributes::default();
    if bits != 0 {
        body = body.u32(MARK, bits).u32(MARK_MASK, bits);
    }
    let read = |answer| keep(read(&answer)?);
    netlink.dump_as(&message(GET, 0, 0, body), read).map_err(refused)
}

pub(super) fn message(number: u16, flags: u16, family: u8, body: Attributes) -> Message {
    Message { subsystem: CONNTRACK, number, flags, family, body }
}

/// The attributes of one direction of a connection.
pub(super) fn tuple(from: SocketAddr, to: SocketAddr, proto: Proto) -> Attributes {
    let addresses = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            Attributes::default().put(1, &from.octets()).put(2, &to.octets())
        }
        (from, to) => {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            Attributes::default().put(3, &octets(from)).put(4, &octets(to))
        }
    };
    let ports = Attributes::default()
        .put(1, &[proto.number()])
        .put(2, &from.port().to_be_bytes())
        .put(3, &to.port().to_be_bytes());
    Attributes::default().nest(IP, &addresses).nest(PROTO, &ports)
}

fn read(answer: &Answer) -> Option<Tracked> {
    if answer.number != NEW {
        return None;
    }
    let mut found = Tracked {
        connection: read_tuple(attribute(&answer.body, TUPLE_ORIGINAL)?.value)?,
        answering_port: 0,
        family: answer.family,
        name: Attributes::default(),
        mark: 0,
        answered: false,
        translated: false,
    };
    found.answering_port = found.connection.to.port();
    for one in attributes(&answer.body) {
        match one.kind {
            // Its own flag says that it is nested; the kernel insists on it.
            TUPLE_ORIGINAL => found.name = found.name.put(TUPLE_ORIGINAL | 0x8000, one.value),
            ZONE => found.name = found.name.put(ZONE, one.value),
            TUPLE_REPLY => {
                if let Some(reply) = read_tuple(one.value) {
                    found.answering_port = reply.from.port();
                }
            }
            MARK => found.mark = one.u32()?,
            STATUS => {
                let status = one.u32()?;
                found.answered = status & SEEN_REPLY != 0;
                found.translated = status & DESTINATION_TRANSLATED != 0;
            }
            _ => {}
        }
    }
    Some(found)
}

fn read_tuple(bytes: &[u8]) -> Option<Connection> {
    let mut source = None;
    let mut destination = None;
    for part in attributes(attribute(bytes, IP)?.value) {
        let ip = match part.value.len() {
            4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(part.value).ok()?)),
            _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(part.value).ok()?)),
        };
        match part.kind {
            1 | 3 => source = Some(ip),
            2 | 4 => destination = Some(ip),
            _ => {}
        }
    }
    let ports = attribute(bytes, PROTO)?.value;
    let port = |kind| attribute(ports, kind).and_then(|one| one.u16());
    let proto = Proto::from_number(*attribute(ports, 1)?.value.first()?)?;
    Some(Connection {
        from: SocketAddr::new(source?, port(2)?),
        to: SocketAddr::new(destination?, port(3)?),
        proto,
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

    fn ends(to: &str) -> (SocketAddr, SocketAddr) {
        ("192.0.2.7:40000".parse().unwrap(), to.parse().unwrap())
    }

    fn answer(body: Attributes) -> Answer {
        Answer { number: NEW, family: 2, body: body.bytes().to_vec() }
    }

    #[test]
    fn a_connection_is_named_by_its_tuple_and_its_zone_alone() {
        let (from, to) = ends("192.0.2.1:22");
        let original = tuple(from, to, Proto::Tcp);
        let kept = Attributes::default().nest(TUPLE_ORIGINAL, &original).put(ZONE, &[0, 7]);
        let all = Attributes::default()
            .u32(MARK, 1)
            .put(25, &[0; 4])
            .nest(TUPLE_ORIGINAL, &original)
            .put(ZONE, &[0, 7]);
        let tracked = read(&answer(all)).unwrap();
        assert_eq!((tracked.name, tracked.mark, tracked.family), (kept, 1, 2));
        assert_eq!(tracked.connection, Connection { from, to, proto: Proto::Tcp });
        assert_eq!(tracked.answering_port, 22);
        assert!(!tracked.answered && !tracked.translated, "nothing says so");
    }

    #[test]
    fn a_redirected_connection_is_known_by_both_of_its_ports() {
        let (from, to) = ends("192.0.2.1:2222");
        let (_, translated) = ends("192.0.2.1:22");
        let body = Attributes::default()
            .nest(TUPLE_ORIGINAL, &tuple(from, to, Proto::Tcp))
            .nest(TUPLE_REPLY, &tuple(translated, from, Proto::Tcp));
        let tracked = read(&answer(body)).unwrap();
        assert_eq!((tracked.connection.to.port(), tracked.answering_port), (2222, 22));
    }

    #[test]
    fn what_came_back_and_what_leads_elsewhere_are_bits_of_the_status() {
        let (from, to) = ends("192.0.2.1:53");
        for (status, found) in [
            (SEEN_REPLY, (true, false)),
            (DESTINATION_TRANSLATED, (false, true)),
            (1 << 2 | 1 << 3, (false, false)),
        ] {
            let original = tuple(from, to, Proto::Udp);
            let body = Attributes::default().u32(STATUS, status).nest(TUPLE_ORIGINAL, &original);
            let read = read(&answer(body)).unwrap();
            assert_eq!(
                (read.answered, read.translated, read.connection.proto),
                (found.0, found.1, Proto::Udp)
            );
        }
    }

    #[test]
    fn an_address_of_the_other_family_is_read_too() {
        let (from, to) =
            ("[2001:db8::7]:40000".parse().unwrap(), "[2001:db8::1]:22".parse().unwrap());
        let expected = Some(Connection { from, to, proto: Proto::Tcp });
        assert_eq!(read_tuple(tuple(from, to, Proto::Tcp).bytes()), expected);
    }

    #[test]
    fn what_has_no_ports_is_no_connection_of_ours() {
        let (from, to) = ends("192.0.2.1:22");
        let whole = tuple(from, to, Proto::Tcp);
        let parts: Vec<_> = attributes(whole.bytes()).collect();
        let ip_alone = Attributes::default().put(IP, parts[0].value);
        assert_eq!(read_tuple(ip_alone.bytes()), None);
        let icmp = ip_alone.clone().nest(PROTO, &Attributes::default().put(1, &[1]));
        assert_eq!(read_tuple(icmp.bytes()), None);
        let half = Attributes::default().put(1, &[6]).put(2, &[1, 2]);
        assert_eq!(read_tuple(ip_alone.nest(PROTO, &half).bytes()), None);
    }
}
