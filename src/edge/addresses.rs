//! This machine's addresses, and a descriptor that becomes readable when they change.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::core::types::Fault;

/// Multicast groups of linux/rtnetlink.h.
const ADDRESSES: u32 = (libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR) as u32;
const ROUTES: u32 = (libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV6_ROUTE) as u32;

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

pub fn interfaces_up() -> BTreeSet<String> {
    let mut up = BTreeSet::new();
    if let Ok(all) = getifaddrs() {
        for entry in all {
            if entry.flags.contains(InterfaceFlags::IFF_UP) {
                up.insert(entry.interface_name);
            }
        }
    }
    up
}

/// Reports changes of addresses, and of routes if asked to.
pub struct AddressWatch {
    socket: Socket,
}

impl AddressWatch {
    /// Starts watching. Ask for `routes` only if needed: on a router they change all the time.
    pub fn start(routes: bool) -> Result<AddressWatch, Fault> {
        let socket = Self::open(if routes { ADDRESSES | ROUTES } else { ADDRESSES });
        let socket = socket.map_err(|error| {
            let what = format!("cannot watch for address changes: {error}");
            Fault::new(what, "the kernel needs CONFIG_NETLINK")
        })?;
        Ok(AddressWatch { socket })
    }

    fn open(groups: u32) -> io::Result<Socket> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, groups))?;
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
        assert!(interfaces_up().contains("lo"));
        let own = own().unwrap();
        assert!(own.iter().any(|one| one.loopback && one.address.is_loopback()), "{own:?}");
        assert!(!AddressWatch::start(false).unwrap().changed());
    }
}
