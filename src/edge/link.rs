//! What kind of link an interface is, and its addresses in the kernel's order.
//! Addresses of the whole machine, and their changes, are left to `addresses`.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// What frames of an interface begin with, as libpcap sorts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// Ethernet, loopback included.
    Ethernet,
    /// PPP, and all interfaces at once.
    Cooked,
    /// Nothing: the IP header comes first.
    Raw,
    /// Something else, by libpcap's number for it.
    Other(u32),
}

impl LinkKind {
    /// Bytes in front of the IP header.
    pub fn header(self) -> u32 {
        match self {
            LinkKind::Ethernet => 14,
            LinkKind::Cooked => 16,
            LinkKind::Raw | LinkKind::Other(_) => 0,
        }
    }
}

/// An interface that can be listened to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its kind.
    pub kind: LinkKind,
    /// Its addresses; none for all interfaces at once.
    pub addresses: Vec<IpAddr>,
}

/// Why an interface cannot be listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// There is none of this name.
    Missing,
    /// It is down.
    Down,
}

/// The kernel's link types of linux/if_arp.h.
mod arphrd {
    pub(super) const ETHER: u16 = 1;
    pub(super) const PPP: u16 = 512;
    pub(super) const RAWIP: u16 = 519;
    pub(super) const TUNNEL: u16 = 768;
    pub(super) const TUNNEL6: u16 = 769;
    pub(super) const LOOPBACK: u16 = 772;
    pub(super) const SIT: u16 = 776;
    pub(super) const IPGRE: u16 = 778;
    pub(super) const NONE: u16 = 0xfffe;
}

/// libpcap's name and number for packets that iptables logs: no interface at all.
const NFLOG: (&str, u32) = ("nflog", 239);

/// Looks at the interface `name`.
///
/// # Errors
/// If it cannot be listened to.
pub fn look(name: &str) -> Result<Link, LinkError> {
    match name {
        super::capture::ANY => return Ok(Link { kind: LinkKind::Cooked, addresses: Vec::new() }),
        name if name == NFLOG.0 => {
            return Ok(Link { kind: LinkKind::Other(NFLOG.1), addresses: Vec::new() });
        }
        _ => {}
    }
    let entries: Vec<_> = getifaddrs()
        .map_err(|_| LinkError::Missing)?
        .filter(|one| one.interface_name == name)
        .collect();
    let flags = entries.first().map(|one| one.flags).ok_or(LinkError::Missing)?;
    if !flags.contains(InterfaceFlags::IFF_UP) {
        return Err(LinkError::Down);
    }
    let storages = || entries.iter().filter_map(|one| one.address.as_ref());
    let hardware = storages().find_map(|address| address.as_link_addr().map(|link| link.hatype()));
    let addresses = storages().filter_map(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    });
    Ok(Link { kind: hardware.map_or(LinkKind::Raw, kind), addresses: addresses.collect() })
}

fn kind(hardware: u16) -> LinkKind {
    match hardware {
        arphrd::ETHER | arphrd::LOOPBACK => LinkKind::Ethernet,
        arphrd::PPP => LinkKind::Cooked,
        arphrd::NONE
        | arphrd::RAWIP
        | arphrd::TUNNEL
        | arphrd::TUNNEL6
        | arphrd::SIT
        | arphrd::IPGRE => LinkKind::Raw,
        other => LinkKind::Other(other.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_ethernet_like_and_has_its_address() {
        // A namespace begins with its loopback down.
        match look("lo") {
            Ok(link) => assert!(
                link.kind == LinkKind::Ethernet && link.addresses.iter().all(IpAddr::is_loopback)
            ),
            Err(reason) => assert_eq!(reason, LinkError::Down),
        }
        assert_eq!(look("no-such-interface"), Err(LinkError::Missing));
        assert_eq!(look("any").map(|link| link.addresses), Ok(Vec::new()));
    }
}
