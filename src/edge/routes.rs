//! The kernel's routes, of all tables and with all next hops of each: the routers and interfaces
//! that lead everywhere, and the private networks of this machine.
//!
//! Over netlink: /proc/net/route has one table, and one hop of each route.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::addresses::LocalAddress;
use super::firewall::attributes::{attribute, attributes, split};
use crate::core::address::{AddressScope, reach};
use crate::core::prefix::Prefix;
use crate::core::types::{Fault, Source};

/// Numbers of linux/rtnetlink.h and linux/netlink.h.
const GET_ROUTE: u16 = 26;
const REQUEST_DUMP: u16 = 0x301;
const DUMP_INTERRUPTED: u16 = 0x10;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const UNICAST: u8 = 1;
const MAIN: u32 = 254;
const DESTINATION: u16 = 1;
const INTERFACE: u16 = 4;
const GATEWAY: u16 = 5;
const HOPS: u16 = 9;
const TABLE: u16 = 15;
/// A next hop of the other family: the family's number, then the address.
const VIA: u16 = 18;
/// Bytes of struct rtmsg, and of struct rtnexthop.
const ROUTE: usize = 12;
const HOP: usize = 8;
/// Bytes. The kernel sends parts of at most half of it.
const BUFFER: usize = 64 * 1024;
/// The most attempts after changes that interrupt the list.
const TRIES: usize = 8;

/// The longest prefix that counts as a way to everywhere: a default route may be written as two
/// halves, or as the eighth of IPv6 that is in use.
pub(super) const EVERYWHERE: u8 = 3;

/// One way to a network. A route with several next hops is several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    to: Source,
    length: u8,
    table: u32,
    interface: u32,
    /// The next hop; `None` if the network is on the link.
    router: Option<IpAddr>,
}

/// A router on a link of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextHop {
    /// The kernel's number of the interface that leads to it.
    pub interface: u32,
    pub address: IpAddr,
}

/// All routes of this thread's network namespace that lead to single machines.
pub fn all() -> Result<Vec<Route>, Fault> {
    list().map_err(|error| {
        let what = format!("cannot list this machine's routes: {error}");
        Fault::new(what, "the kernel needs CONFIG_NETLINK")
    })
}

/// The next hops of the routes to everywhere. Those of narrower routes do not count: packets from
/// behind them keep their own sources, or nobody would need such a route.
pub fn routers(routes: &[Route]) -> BTreeSet<NextHop> {
    let mut hops = BTreeSet::new();
    for route in routes.iter().filter(|route| route.length <= EVERYWHERE) {
        if let Some(address) = route.router {
            hops.insert(NextHop { interface: route.interface, address });
        }
    }
    hops
}

/// The interfaces of the default routes of the main table, over IPv4 or IPv6, sorted. `up`: the
/// interfaces with their numbers.
pub fn default_interfaces(routes: &[Route], up: &BTreeMap<String, u32>) -> Vec<String> {
    let default = routes.iter().filter(|route| route.length == 0 && route.table == MAIN);
    let numbers: BTreeSet<u32> = default.map(|route| route.interface).collect();
    up.iter().filter(|(_, number)| numbers.contains(number)).map(|(name, _)| name.clone()).collect()
}

/// The private networks that begin at an interface where this machine has a private address of that
/// family. A private network that leads here by any other interface is that of a device in front.
pub fn private_networks(
    routes: &[Route], own: &[LocalAddress], up: &BTreeMap<String, u32>,
) -> BTreeSet<Prefix> {
    let is_private = |address: IpAddr| reach(address) == AddressScope::Private;
    let mut inside = BTreeSet::new();
    for one in own.iter().filter(|own| is_private(own.address)) {
        if let Some(number) = up.get(&one.interface) {
            inside.insert((*number, one.address.is_ipv6()));
        }
    }
    let mut networks = BTreeSet::new();
    for route in routes {
        let to = route.to.ip();
        if is_private(to) && inside.contains(&(route.interface, to.is_ipv6())) {
            networks.insert(Prefix::around(route.to, route.length));
        }
    }
    networks
}

fn list() -> io::Result<Vec<Route>> {
    let mut routes = dump(GET_ROUTE, libc::AF_INET, ROUTE, read_route)?;
    routes.extend(dump(GET_ROUTE, libc::AF_INET6, ROUTE, read_route)?);
    Ok(routes)
}

/// The objects of one kind and family in this thread's network namespace. `get`: the request.
/// `head`: bytes of the kernel's struct. `read`: reads one object, that struct and its attributes.
pub(super) fn dump<T>(
    get: u16, family: i32, head: usize, read: impl Fn(&[u8], &mut Vec<T>),
) -> io::Result<Vec<T>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = Vec::with_capacity(16 + head);
    request.extend(u32::try_from(16 + head).map_err(|_| ErrorKind::InvalidInput)?.to_ne_bytes());
    request.extend(get.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8]);
    request.push(u8::try_from(family).map_err(|_| ErrorKind::Unsupported)?);
    request.resize(16 + head, 0);
    let mut dump = Dump { objects: Vec::new(), intact: false };
    for _ in 0..TRIES {
        socket.send(&request, 0)?;
        // The kernel numbers its answers two below the request for them.
        dump = dump_once(&socket, get - 2, &read)?;
        if dump.intact {
            break;
        }
    }
    // A list that never stands still is as good as it gets: the last change brings another.
    Ok(dump.objects)
}

struct Dump<T> {
    objects: Vec<T>,
    /// False if a change came in between.
    intact: bool,
}

fn dump_once<T>(
    socket: &Socket, kind: u16, read: &impl Fn(&[u8], &mut Vec<T>),
) -> io::Result<Dump<T>> {
    let mut dump = Dump { objects: Vec::new(), intact: true };
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        for message in split(&buffer) {
            dump.intact &= message.flags & DUMP_INTERRUPTED == 0;
            match message.kind {
                DONE | ERROR if message.code() == 0 => return Ok(dump),
                DONE | ERROR => {
                    return Err(io::Error::from_raw_os_error(message.code().saturating_neg()));
                }
                answer if answer == kind => read(message.payload(), &mut dump.objects),
                _ => {}
            }
        }
    }
}

/// Reads one message: struct rtmsg, then attributes. What leads to no single machine, or has a form
/// that we do not know, is left out.
fn read_route(payload: &[u8], routes: &mut Vec<Route>) {
    let Some((head, body)) = payload.split_at_checked(ROUTE) else { return };
    let [family, length, source_length, ..] = *head else { return };
    // A route for some sources only leads no stranger here.
    if head[7] != UNICAST || source_length != 0 {
        return;
    }
    let to = match attribute(body, DESTINATION) {
        Some(destination) => address(destination.value),
        None if i32::from(family) == libc::AF_INET => Some(Ipv4Addr::UNSPECIFIED.into()),
        None => Some(Ipv6Addr::UNSPECIFIED.into()),
    };
    let Some(to) = to else { return };
    let table = number(body, TABLE).unwrap_or_else(|| head[4].into());
    let mut push = |interface: u32, attributes: &[u8]| {
        let router = router(attributes);
        routes.push(Route { to: Source::new(to), length, table, interface, router });
    };
    let Some(hops) = attribute(body, HOPS) else {
        return push(number(body, INTERFACE).unwrap_or(0), body);
    };
    let mut rest = hops.value;
    // struct rtnexthop: length, flags, weight, interface; then attributes.
    while let Some((hop, _)) = rest.split_at_checked(HOP) {
        let length = usize::from(u16::from_ne_bytes([hop[0], hop[1]]));
        let interface = u32::from_ne_bytes([hop[4], hop[5], hop[6], hop[7]]);
        let Some(attributes) = rest.get(HOP..length) else { return };
        push(interface, attributes);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn router(body: &[u8]) -> Option<IpAddr> {
    for one in attributes(body) {
        match one.kind {
            GATEWAY => return address(one.value),
            VIA => return address(one.value.get(2..)?),
            _ => {}
        }
    }
    None
}

pub(super) fn number(body: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_ne_bytes(attribute(body, kind)?.value.try_into().ok()?))
}

pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: &str, interface: u32, router: Option<&str>) -> Route {
        let (to, length) = to.split_once('/').unwrap();
        Route {
            to: Source::new(to.parse().unwrap()),
            length: length.parse().unwrap(),
            table: MAIN,
            interface,
            router: router.map(|text| text.parse().unwrap()),
        }
    }

    fn up() -> BTreeMap<String, u32> {
        [("eth0", 2), ("eth1", 3), ("wg0", 4)].map(|(name, n)| (name.to_owned(), n)).into()
    }

    #[test]
    fn a_default_route_counts_in_every_spelling_and_table_and_with_every_hop() {
        let (one, two) = (Some("192.0.2.1"), Some("192.0.2.2"));
        for routes in [
            vec![route("0.0.0.0/0", 2, one), route("0.0.0.0/0", 3, two)],
            vec![route("0.0.0.0/1", 2, one), route("128.0.0.0/1", 2, two)],
            vec![Route { table: 100, ..route("0.0.0.0/0", 2, one) }, route("64.0.0.0/2", 2, two)],
        ] {
            let found: BTreeSet<String> =
                routers(&routes).iter().map(|hop| hop.address.to_string()).collect();
            let expected = ["192.0.2.1", "192.0.2.2"].map(str::to_owned);
            assert_eq!(found, BTreeSet::from(expected), "{routes:?}");
        }
        let link = route("0.0.0.0/0", 4, None);
        let narrow = route("203.0.113.0/24", 3, one);
        let routes = [link, narrow, route("2000::/3", 2, Some("fe80::1"))];
        let hop = NextHop { interface: 2, address: "fe80::1".parse().unwrap() };
        assert_eq!(routers(&routes), BTreeSet::from([hop]));
        assert_eq!(default_interfaces(&routes, &up()), ["wg0"], "2000::/3 names none");
        let tunnel = [Route { table: 51820, ..route("0.0.0.0/0", 4, None) }];
        assert!(default_interfaces(&tunnel, &up()).is_empty(), "of the main table only");
    }

    #[test]
    fn private_networks_begin_where_we_have_a_private_address_of_that_family() {
        let own = |interface: &str, address: &str| LocalAddress {
            interface: interface.to_owned(),
            loopback: false,
            address: address.parse().unwrap(),
            of_all: Vec::new(),
        };
        let routes = [
            route("0.0.0.0/0", 2, Some("10.9.0.1")),
            route("10.9.0.1/32", 2, None),
            route("10.1.2.0/24", 3, None),
            route("10.0.0.0/8", 3, Some("10.1.2.1")),
            route("203.0.113.0/24", 3, Some("10.1.2.1")),
            route("fd00:5::/64", 3, None),
            route("192.168.5.0/24", 4, None),
        ];
        let own = [own("eth0", "198.51.100.1"), own("eth1", "10.1.2.3"), own("wg0", "10.8.0.1")];
        let found: Vec<String> =
            private_networks(&routes, &own, &up()).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.0/8", "10.1.2.0/24", "192.168.5.0/24"]);
    }

    #[test]
    fn a_cut_off_message_and_one_that_lies_about_its_lengths_are_read_as_far_as_they_go() {
        let mut whole = vec![2, 0, 0, 0, 254, 3, 0, UNICAST, 0, 0, 0, 0];
        let hop = |length: u16| {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend([0, 0, 7, 0, 0, 0, 8, 0, 5, 0, 192, 0, 2, 1]);
            bytes
        };
        whole.extend(36u16.to_ne_bytes());
        whole.extend(HOPS.to_ne_bytes());
        whole.extend([hop(16), hop(16)].concat());
        let read = |bytes: &[u8]| {
            let mut routes = Vec::new();
            read_route(bytes, &mut routes);
            routes.len()
        };
        assert_eq!(read(&whole), 2);
        for length in 0..ROUTE {
            assert_eq!(read(&whole[..length]), 0, "{length}");
        }
        // A hop of no bytes must not be read for ever.
        for length in [0, 7, 200, u16::MAX] {
            whole[32..34].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(read(&whole), 1, "{length}");
        }
    }

    #[test]
    fn the_routes_of_this_machine_can_be_listed() {
        let routes = all().unwrap();
        assert!(routes.iter().all(|route| route.length <= 128), "{routes:?}");
    }
}
