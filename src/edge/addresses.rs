//! This machine's addresses, and a descriptor that becomes readable when they change.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use pnet::datalink::{self, NetworkInterface};
use socket2::{SockFilter, SockRef};

use crate::core::types::Fault;

/// Multicast groups of linux/rtnetlink.h. A link changes when it goes up or gets another name.
const GROUPS: u32 = (libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_ROUTE) as u32;

/// Drops reports about all routes but default ones: on a router they come all the time.
const FILTER: [SockFilter; 7] = [
    SockFilter::new(0x28, 0, 0, 4), // load nlmsg_type
    SockFilter::new(0x15, 1, 0, as_loaded(libc::RTM_NEWROUTE)),
    SockFilter::new(0x15, 0, 2, as_loaded(libc::RTM_DELROUTE)),
    SockFilter::new(0x30, 0, 0, 17), // load rtm_dst_len
    SockFilter::new(0x15, 0, 1, 0),
    SockFilter::new(0x06, 0, 0, u32::MAX), // accept
    SockFilter::new(0x06, 0, 0, 0),        // drop
];

/// A number in this machine's byte order, as a filter loads it.
const fn as_loaded(number: u16) -> u32 {
    number.to_be() as u32
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalAddress {
    /// The interface, as `ip link` names it.
    pub interface: String,
    pub loopback: bool,
    pub address: IpAddr,
}

/// All addresses of this machine, sorted.
pub fn own() -> Result<Vec<LocalAddress>, Fault> {
    let all = getifaddrs().map_err(|errno| {
        let what = format!("cannot list this machine's addresses: {errno}");
        Fault::new(what, "the kernel needs CONFIG_NETLINK")
    })?;
    let mut found = Vec::new();
    for entry in all {
        let Some(storage) = entry.address else { continue };
        let address = if let Some(v4) = storage.as_sockaddr_in() {
            v4.ip().into()
        } else if let Some(v6) = storage.as_sockaddr_in6() {
            v6.ip().into()
        } else {
            continue;
        };
        let loopback = entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        found.push(LocalAddress { interface: entry.interface_name, loopback, address });
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The interfaces that are up, with the kernel's number for each.
pub fn interfaces_up() -> BTreeMap<String, u32> {
    let up = datalink::interfaces().into_iter().filter(NetworkInterface::is_up);
    up.map(|one| (one.name, one.index)).collect()
}

/// Reports changes of addresses, links and default routes.
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
    fn loopback_is_among_our_addresses() {
        assert!(interfaces_up().contains_key("lo"));
        let own = own().unwrap();
        assert!(own.iter().any(|one| one.loopback && one.address.is_loopback()), "{own:?}");
        assert!(!AddressWatch::start().unwrap().changed());
    }
}
