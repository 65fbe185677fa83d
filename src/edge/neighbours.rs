//! The IPv6 neighbours of this machine that say that they are routers, and which of them are a
//! router of ours under another address.
//!
//! RFC 4861: a router sets the R flag in each of its neighbour advertisements, whatever address that
//! is for. One that only answers for others (proxy NDP) does not set it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use super::firewall::attributes::{Received, attribute};
use super::routes::{self, NextHop};
use crate::core::types::Fault;

/// Numbers of linux/rtnetlink.h and linux/neighbour.h.
const GET_NEIGHBOUR: u16 = 30;
const DESTINATION: u16 = 1;
const LINK_ADDRESS: u16 = 2;
const ROUTER: u8 = 0x80;
/// Bytes of struct ndmsg.
const NEIGHBOUR: usize = 12;
/// The most routers that [`KnownRouters`] remembers. The kernel keeps as many IPv6 neighbours.
const MOST: usize = 1024;

/// A neighbour that says that it is a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighbouringRouter {
    hop: NextHop,
    /// `None` until the kernel has found it out.
    link: Option<Vec<u8>>,
}

/// All IPv6 neighbours in this thread's network namespace that say that they are routers.
pub fn routers() -> Result<Vec<NeighbouringRouter>, Fault> {
    list().map_err(|error| {
        let what = format!("cannot list this machine's neighbours: {error}");
        Fault::new(what, "the kernel needs CONFIG_NETLINK")
    })
}

fn list() -> io::Result<Vec<NeighbouringRouter>> {
    routes::dump(GET_NEIGHBOUR, libc::AF_INET6, NEIGHBOUR, |payload, routers| {
        routers.extend(read(payload));
    })
}

/// The further addresses of the routers `hops`: those that have the same link address. If a
/// router's link address is unknown, all routers beside it count.
pub fn further_addresses(
    neighbours: &[NeighbouringRouter], hops: &BTreeSet<NextHop>,
) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    for one in neighbours {
        let beside = hops.iter().filter(|hop| {
            hop.interface == one.hop.interface
                && hop.address.is_ipv6()
                && hop.address != one.hop.address
        });
        for hop in beside {
            let router = neighbours.iter().find(|router| router.hop == *hop);
            let link = router.and_then(|router| router.link.as_ref());
            if link.is_none() || link == one.link.as_ref() {
                found.insert(one.hop.address);
            }
        }
    }
    found
}

/// The routers that were reported, so that only news count: the kernel reports each of them again
/// and again.
#[derive(Default)]
pub(super) struct KnownRouters(BTreeMap<NextHop, Option<Vec<u8>>>);

impl KnownRouters {
    /// True if this report of a neighbour that is a router is news.
    pub(super) fn learn(&mut self, report: &Received<'_>) -> bool {
        let Some(NeighbouringRouter { hop, link }) = read(report.payload()) else { return false };
        if report.kind == libc::RTM_DELNEIGH {
            return self.0.remove(&hop).is_some();
        }
        if self.0.get(&hop) == Some(&link) {
            return false;
        }
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(hop, link);
        true
    }
}

/// Reads one message: struct ndmsg, then attributes.
fn read(payload: &[u8]) -> Option<NeighbouringRouter> {
    let (head, body) = payload.split_at_checked(NEIGHBOUR)?;
    if head[10] & ROUTER == 0 {
        return None;
    }
    let interface = u32::from_ne_bytes(*head[4..].first_chunk()?);
    let address = routes::address(attribute(body, DESTINATION)?.value)?;
    let link = attribute(body, LINK_ADDRESS).map(|link| link.value.to_vec());
    Some(NeighbouringRouter { hop: NextHop { interface, address }, link })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbour(interface: u32, address: &str, link: u8) -> NeighbouringRouter {
        let link = (link > 0).then(|| vec![2, 0, 0, 0, 0, link]);
        let address = address.parse().unwrap();
        NeighbouringRouter { hop: NextHop { interface, address }, link }
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
        assert_eq!(read(&message), None);
        message[10] = ROUTER;
        let found = read(&message).unwrap();
        assert_eq!((found.hop.interface, found.link), (7, Some(vec![2; 6])));
        for length in 0..NEIGHBOUR + 20 {
            assert_eq!(read(&message[..length]), None, "{length}");
        }
    }

    #[test]
    fn the_neighbours_of_this_machine_can_be_listed() {
        routers().unwrap();
    }
}
