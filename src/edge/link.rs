//! One interface: its kind of link, and its addresses in the kernel's order.
//! See `addresses` for all addresses of this machine and their changes.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// The link-layer header of an interface, as libpcap classifies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// Ethernet, loopback included.
    Ethernet,
    /// PPP, and all interfaces at once.
    Cooked,
    /// No header: a packet begins with its IP header.
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub kind: LinkKind,
    /// The kernel's number for it; 0 for all interfaces at once.
    pub index: u32,
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkError {
    Missing,
    Down,
}

/// ARPHRD_RAWIP of linux/if_arp.h.
const RAWIP: u16 = 519;
/// libpcap's name and number for packets that iptables logs, which come from no interface.
const NFLOG: (&str, u32) = ("nflog", 239);

pub fn inspect(name: &str) -> Result<Link, LinkError> {
    if name == super::capture::ANY {
        return Ok(Link { kind: LinkKind::Cooked, index: 0, addresses: Vec::new() });
    }
    if name == NFLOG.0 {
        return Ok(Link { kind: LinkKind::Other(NFLOG.1), index: 0, addresses: Vec::new() });
    }
    let mut flags = None;
    let mut kind = LinkKind::Raw;
    let mut index = 0;
    let mut addresses = Vec::new();
    for entry in getifaddrs().map_err(|_| LinkError::Missing)? {
        if entry.interface_name != name {
            continue;
        }
        flags.get_or_insert(entry.flags);
        let Some(address) = entry.address else { continue };
        if let Some(link) = address.as_link_addr() {
            kind = kind_of(link.hatype());
            index = u32::try_from(link.ifindex()).unwrap_or(0);
        } else if let Some(v4) = address.as_sockaddr_in() {
            addresses.push(v4.ip().into());
        } else if let Some(v6) = address.as_sockaddr_in6() {
            addresses.push(v6.ip().into());
        }
    }
    match flags {
        None => Err(LinkError::Missing),
        Some(flags) if !flags.contains(InterfaceFlags::IFF_UP) => Err(LinkError::Down),
        Some(_) => Ok(Link { kind, index, addresses }),
    }
}

fn kind_of(hardware: u16) -> LinkKind {
    match hardware {
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => LinkKind::Ethernet,
        libc::ARPHRD_PPP => LinkKind::Cooked,
        libc::ARPHRD_NONE | libc::ARPHRD_TUNNEL | libc::ARPHRD_TUNNEL6 => LinkKind::Raw,
        libc::ARPHRD_SIT | libc::ARPHRD_IPGRE | RAWIP => LinkKind::Raw,
        other => LinkKind::Other(other.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_ethernet_like_and_has_its_address() {
        // A new namespace has its loopback down.
        match inspect("lo") {
            Ok(link) => assert!(
                link.kind == LinkKind::Ethernet && link.addresses.iter().all(IpAddr::is_loopback)
            ),
            Err(error) => assert_eq!(error, LinkError::Down),
        }
        assert_eq!(inspect("no-such-interface"), Err(LinkError::Missing));
        assert_eq!(inspect("any").map(|link| link.addresses), Ok(Vec::new()));
    }
}
