//! This machine's addresses, and a descriptor that becomes readable when they change.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;
use pnet::datalink::{self, NetworkInterface};
use socket2::{SockFilter, SockRef};

use crate::core::types::Fault;

/// Multicast groups of linux/rtnetlink.h. A link changes when it goes up or gets another name.
const GROUPS: u32 = (libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_ROUTE) as u32;

/// The longest prefix that counts as a way to everywhere: a default route may be written as two
/// halves, or as the eighth of IPv6 that is in use.
pub(super) const EVERYWHERE: u8 = 3;
/// Drops reports about all routes but those to everywhere and to private networks: on a router they
/// come all the time. The kernel writes the table first, and then the destination.
const FILTER: [SockFilter; 17] = [
    SockFilter::new(0x28, 0, 0, 4), // load nlmsg_type
    SockFilter::new(0x15, 1, 0, as_loaded(libc::RTM_NEWROUTE)),
    SockFilter::new(0x15, 0, 12, as_loaded(libc::RTM_DELROUTE)),
    SockFilter::new(0x30, 0, 0, 17), // load rtm_dst_len
    SockFilter::new(0x25, 0, 10, EVERYWHERE as u32),
    SockFilter::new(0x28, 0, 0, 40), // load two bytes of the destination
    SockFilter::new(0x35, 0, 9, 0x0a00), // 10.0.0.0/8
    SockFilter::new(0x25, 0, 7, 0x0aff),
    SockFilter::new(0x35, 0, 7, 0x6440), // 100.64.0.0/10
    SockFilter::new(0x25, 0, 5, 0x647f),
    SockFilter::new(0x35, 0, 5, 0xac10), // 172.16.0.0/12
    SockFilter::new(0x25, 0, 3, 0xac1f),
    SockFilter::new(0x15, 2, 0, 0xc0a8), // 192.168.0.0/16
    SockFilter::new(0x35, 0, 2, 0xfc00), // fc00::/7
    SockFilter::new(0x25, 1, 0, 0xfdff),
    SockFilter::new(0x06, 0, 0, u32::MAX), // accept
    SockFilter::new(0x06, 0, 0, 0),        // drop
];

/// A number in this machine's byte order, as a filter loads it.
const fn as_loaded(number: u16) -> u32 {
    number.to_be() as u32
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalAddress {
    pub interface: String,
    pub loopback: bool,
    pub address: IpAddr,
    /// The addresses that mean all machines of its network, or any of its routers: no peer has
    /// them.
    pub of_all: Vec<IpAddr>,
}

/// All addresses of this machine, sorted.
pub fn own() -> Result<Vec<LocalAddress>, Fault> {
    let all = getifaddrs().map_err(|errno| {
        let what = format!("cannot list this machine's addresses: {errno}");
        Fault::new(what, "the kernel needs CONFIG_NETLINK")
    })?;
    let mut found = Vec::new();
    for entry in all {
        let Some(address) = entry.address.and_then(ip) else { continue };
        let mut of_all = Vec::new();
        if let Some(mask) = entry.netmask.and_then(ip) {
            of_all = of_all_in_net(address, mask);
        }
        // It may have been set to any address.
        of_all.extend(entry.broadcast.and_then(ip));
        let loopback = entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        found.push(LocalAddress { interface: entry.interface_name, loopback, address, of_all });
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn ip(storage: SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(v4.ip().into());
    }
    storage.as_sockaddr_in6().map(|v6| v6.ip().into())
}

/// The first and the last address of an IPv4 network, which the kernel treats as broadcasts; the
/// first of an IPv6 network, which all its routers have. Networks of two addresses have none.
fn of_all_in_net(address: IpAddr, mask: IpAddr) -> Vec<IpAddr> {
    match (address, mask) {
        (IpAddr::V4(address), IpAddr::V4(mask)) if !mask.to_bits() > 1 => {
            vec![(address & mask).into(), (address | !mask).into()]
        }
        (IpAddr::V6(address), IpAddr::V6(mask)) if !mask.to_bits() > 1 => {
            vec![(address & mask).into()]
        }
        _ => Vec::new(),
    }
}

/// The interfaces that are up, with the kernel's number for each.
pub fn interfaces_up() -> BTreeMap<String, u32> {
    let up = datalink::interfaces().into_iter().filter(NetworkInterface::is_up);
    up.map(|one| (one.name, one.index)).collect()
}

pub struct AddressWatch {
    socket: Socket,
}

impl AddressWatch {
    pub fn start() -> Result<AddressWatch, Fault> {
        let socket = Self::open().map_err(|error| {
            let what = format!("cannot watch for address changes: {error}");
            Fault::new(what, "the kernel needs CONFIG_NETLINK")
        })?;
        Ok(AddressWatch { socket })
    }

    fn open() -> io::Result<Socket> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        SockRef::from(&socket).attach_filter(&FILTER)?;
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        socket.set_non_blocking(true)?;
        Ok(socket)
    }

    /// Reads all reports. True if anything may have changed; an overrun counts as a change.
    pub fn changed(&self) -> bool {
        let mut any = false;
        let mut buffer = Vec::with_capacity(8192);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => any = true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Some reports were lost.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(_) => return any,
            }
        }
    }
}

impl AsFd for AddressWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_all_are_the_ends_of_an_ipv4_network_and_the_routers_of_an_ipv6_one() {
        for (address, mask, all) in [
            ("192.0.2.7", "255.255.255.0", &["192.0.2.0", "192.0.2.255"][..]),
            ("10.1.2.3", "255.255.252.0", &["10.1.0.0", "10.1.3.255"]),
            ("192.0.2.5", "255.255.255.252", &["192.0.2.4", "192.0.2.7"]),
            ("192.0.2.7", "255.255.255.254", &[]),
            ("192.0.2.7", "255.255.255.255", &[]),
            ("2001:db8::7", "ffff:ffff:ffff:ffff::", &["2001:db8::"]),
            ("2001:db8::7", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", &[]),
        ] {
            let found = of_all_in_net(address.parse().unwrap(), mask.parse().unwrap());
            let expected: Vec<IpAddr> = all.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(found, expected, "{address} {mask}");
        }
    }

    #[test]
    fn loopback_is_among_our_addresses() {
        assert!(interfaces_up().contains_key("lo"));
        let own = own().unwrap();
        assert!(own.iter().any(|one| one.loopback && one.address.is_loopback()), "{own:?}");
        assert!(!AddressWatch::start().unwrap().changed());
    }
}
