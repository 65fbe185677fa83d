//! The IPv6 neighbours of this machine, and which of them are a router of ours under another
//! address.
//!
//! RFC 4861: a router sets the R flag in each of its neighbour advertisements, whatever address
//! that is for. One that only answers for others (proxy NDP) does not set it. A neighbour that has
//! asked us first has not advertised anything yet, so we ask it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::firewall::attributes::{Attributes, Received, attribute};
use super::routes::{self, NextHop};
use crate::core::types::Fault;

/// Numbers of linux/rtnetlink.h and linux/neighbour.h.
const GET_NEIGHBOUR: u16 = 30;
const DESTINATION: u16 = 1;
const LINK_ADDRESS: u16 = 2;
const ROUTER: u8 = 0x80;
const PROBE: u16 = 0x10;
const REQUEST_REPLACE: u16 = 0x101;
/// Bytes of struct ndmsg.
const NEIGHBOUR: usize = 12;
/// The most neighbours that [`KnownNeighbours`] remembers. The kernel keeps as many.
const MOST: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    hop: NextHop,
    /// `None` until the kernel has found it out.
    link: Option<Vec<u8>>,
    /// True if it says that it is a router.
    is_router: bool,
}

/// All IPv6 neighbours in this thread's network namespace.
pub fn all() -> Result<Vec<Neighbour>, Fault> {
    list().map_err(|error| {
        let what = format!("cannot list this machine's neighbours: {error}");
        Fault::new(what, "the kernel needs CONFIG_NETLINK")
    })
}

fn list() -> io::Result<Vec<Neighbour>> {
    routes::dump(GET_NEIGHBOUR, libc::AF_INET6, NEIGHBOUR, |payload, neighbours| {
        neighbours.extend(read(payload));
    })
}

/// The further addresses of the routers `hops`: those of neighbours that say that they are routers,
/// and have the same link address.
pub fn further_addresses(neighbours: &[Neighbour], hops: &BTreeSet<NextHop>) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    for one in neighbours.iter().filter(|one| one.is_router) {
        if may_be_one_of(hops, one, neighbours) {
            found.insert(one.hop.address);
        }
    }
    found
}

/// Has the kernel ask the neighbours that may be routers of ours and have not said so: their answer
/// does. Without the right to do so nothing is asked.
pub fn ask_doubtful(neighbours: &[Neighbour], hops: &BTreeSet<NextHop>) {
    for one in neighbours.iter().filter(|one| !one.is_router && one.link.is_some()) {
        if may_be_one_of(hops, one, neighbours) {
            // It is asked again at the next look.
            let _ = probe(one.hop);
        }
    }
}

/// True if a router beside this neighbour has its link address, or one that is not known.
fn may_be_one_of(hops: &BTreeSet<NextHop>, one: &Neighbour, all: &[Neighbour]) -> bool {
    let Neighbour { hop: NextHop { interface, address }, link, .. } = one;
    let beside = hops.iter().filter(|hop| {
        hop.interface == *interface && hop.address.is_ipv6() && hop.address != *address
    });
    let link_of = |hop: &NextHop| all.iter().find(|other| other.hop == *hop)?.link.as_ref();
    beside.map(link_of).any(|known| known.is_none() || known == link.as_ref())
}

/// `ip neigh change ADDRESS dev INTERFACE nud probe`.
fn probe(hop: NextHop) -> io::Result<()> {
    let IpAddr::V6(address) = hop.address else { return Ok(()) };
    let body = Attributes::default().put(DESTINATION, &address.octets());
    let length = 16 + NEIGHBOUR + body.len();
    let mut request = Vec::with_capacity(length);
    request.extend(u32::try_from(length).map_err(io::Error::other)?.to_ne_bytes());
    request.extend(libc::RTM_NEWNEIGH.to_ne_bytes());
    request.extend(REQUEST_REPLACE.to_ne_bytes());
    request.extend([0; 8]);
    request.push(u8::try_from(libc::AF_INET6).map_err(io::Error::other)?);
    request.extend([0; 3]);
    request.extend(hop.interface.to_ne_bytes());
    request.extend(PROBE.to_ne_bytes());
    request.extend([0; 2]);
    request.extend(body.bytes());
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request, 0).map(drop)
}

/// The neighbours that were reported, so that only news count: the kernel reports each of them
/// again and again.
#[derive(Default)]
pub(super) struct KnownNeighbours(BTreeMap<NextHop, Neighbour>);

impl KnownNeighbours {
    /// True if this report is news.
    pub(super) fn learn(&mut self, report: &Received<'_>) -> bool {
        let Some(found) = read(report.payload()) else { return false };
        if report.kind == libc::RTM_DELNEIGH {
            return self.0.remove(&found.hop).is_some_and(|known| known.is_router);
        }
        // One that is still looked for, or was not found, keeps what was known of it.
        if found.link.is_none() || self.0.get(&found.hop) == Some(&found) {
            return false;
        }
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(found.hop, found);
        true
    }
}

/// Reads one message: struct ndmsg, then attributes.
fn read(payload: &[u8]) -> Option<Neighbour> {
    let (head, body) = payload.split_at_checked(NEIGHBOUR)?;
    let interface = u32::from_ne_bytes(*head[4..].first_chunk()?);
    let address = routes::address(attribute(body, DESTINATION)?.value)?;
    let link = attribute(body, LINK_ADDRESS).map(|link| link.value.to_vec());
    let is_router = head[10] & ROUTER != 0;
    Some(Neighbour { hop: NextHop { interface, address }, link, is_router })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbour(interface: u32, address: &str, link: u8) -> Neighbour {
        let link = (link > 0).then(|| vec![2, 0, 0, 0, 0, link]);
        let address = address.parse().unwrap();
        Neighbour { hop: NextHop { interface, address }, link, is_router: true }
    }

    #[test]
    fn a_router_has_the_addresses_of_its_link_address_on_its_interface_and_no_others() {
        let hops = |hops: &[(u32, &str)]| -> BTreeSet<NextHop> {
            let hop = |(interface, address): &(u32, &str)| NextHop {
                interface: *interface,
                address: address.parse().unwrap(),
            };
            hops.iter().map(hop).collect()
        };
        let all = [
            neighbour(2, "fe80::1", 1),
            neighbour(2, "2001:db8::1", 1),
            neighbour(2, "2001:db8::9", 9),
            // The router answers for it.
            Neighbour { is_router: false, ..neighbour(2, "2001:db8::77", 1) },
            neighbour(3, "2001:db8:3::1", 1),
            neighbour(3, "fe80::3", 0),
        ];
        for (routers, expected) in [
            (&[(2, "fe80::1")][..], &["2001:db8::1"][..]),
            (&[(2, "2001:db8::1")], &["fe80::1"]),
            (&[(2, "192.0.2.1")], &[]),
            (&[(4, "fe80::1")], &[]),
            // Of these routers no link address is known.
            (&[(3, "fe80::3")], &["2001:db8:3::1"]),
            (&[(2, "fe80::77")], &["2001:db8::1", "2001:db8::9", "fe80::1"]),
        ] {
            let found = further_addresses(&all, &hops(routers));
            let expected: BTreeSet<IpAddr> =
                expected.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(found, expected, "{routers:?}");
        }
    }

    #[test]
    fn a_neighbour_that_does_not_say_that_it_is_a_router_is_none() {
        let mut message = vec![10, 0, 0, 0];
        message.extend(7u32.to_ne_bytes());
        message.extend([2, 0, 0, 1]);
        for (kind, value) in [(DESTINATION, &[0x20; 16][..]), (LINK_ADDRESS, &[2; 6])] {
            message.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.extend(value);
        }
        assert!(!read(&message).unwrap().is_router);
        message[10] = ROUTER;
        let found = read(&message).unwrap();
        assert_eq!((found.hop.interface, found.is_router), (7, true));
        assert_eq!(found.link, Some(vec![2; 6]));
        for length in 0..NEIGHBOUR + 20 {
            assert_eq!(read(&message[..length]), None, "{length}");
        }
    }

    #[test]
    fn the_neighbours_of_this_machine_can_be_listed() {
        all().unwrap();
    }
}
