//! This machine's addresses and interfaces.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;
use pnet::datalink::{self, NetworkInterface};

use crate::core::types::Fault;

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
    }
}
