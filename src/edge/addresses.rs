//! Our own addresses, and a descriptor that becomes readable when they change.
//! Which of them count for what is left to `app::gatekeeper`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::core::types::Fault;

/// RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR of linux/rtnetlink.h.
const ADDRESS_GROUPS: u32 = 0x10 | 0x100;

/// RTMGRP_IPV4_ROUTE and RTMGRP_IPV6_ROUTE.
const ROUTE_GROUPS: u32 = 0x40 | 0x400;

/// One address of an interface of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalAddress {
    /// The interface, as `ip link` names it.
    pub interface: String,
    /// Whether that is a loopback device.
    pub loopback: bool,
    /// The address.
    pub address: IpAddr,
}

/// All addresses that this machine has now, sorted.
///
/// # Errors
/// If the kernel does not say.
pub fn own() -> Result<Vec<LocalAddress>, Fault> {
    let all = getifaddrs().map_err(|e| {
        Fault::new(format!("the kernel does not tell our addresses: {e}"), "is this a usual Linux?")
    })?;
    let mut found: Vec<LocalAddress> = all
        .filter_map(|one| {
            let storage = one.address?;
            let v4 = storage.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
            let v6 = storage.as_sockaddr_in6().map(|a| IpAddr::from(a.ip()));
            let loopback = one.flags.contains(InterfaceFlags::IFF_LOOPBACK);
            Some(LocalAddress { interface: one.interface_name, loopback, address: v4.or(v6)? })
        })
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// The interfaces that are up.
pub fn interfaces_up() -> BTreeSet<String> {
    let mut up = BTreeSet::new();
    for one in getifaddrs().into_iter().flatten() {
        if one.flags.contains(InterfaceFlags::IFF_UP) {
            up.insert(one.interface_name);
        }
    }
    up
}

/// Tells when addresses, and perhaps routes, come and go.
pub struct AddressWatch {
    socket: Socket,
}

impl AddressWatch {
    /// Begins to watch; the `routes` too only if somebody asks: on a router they change all the
    /// time.
    ///
    /// # Errors
    /// If the kernel gives no such socket.
    pub fn start(routes: bool) -> Result<AddressWatch, Fault> {
        let groups = if routes { ADDRESS_GROUPS | ROUTE_GROUPS } else { ADDRESS_GROUPS };
        let start = || -> std::io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, groups))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        let socket = start().map_err(|e| {
            Fault::new(
                format!("no socket that tells of address changes: {e}"),
                "the kernel needs CONFIG_NETLINK",
            )
        })?;
        Ok(AddressWatch { socket })
    }

    /// Takes what has come; whether anything may have changed. An overrun counts as a change.
    pub fn changed(&self) -> bool {
        let mut any = false;
        let mut buffer = Vec::with_capacity(8192);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => any = true,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                // ENOBUFS: some were lost, so look again.
                Err(e) if e.raw_os_error() == Some(nix::libc::ENOBUFS) => any = true,
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
