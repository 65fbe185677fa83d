//! The interfaces of a host, and their likenesses in its twin.

use std::io;
use std::os::fd::RawFd;

use super::route_socket::RouteSocket;
use super::routing::Routing;
use super::{Net, Way};
use crate::edge::firewall::attributes::{Attributes, attribute};
use crate::edge::routes::dump;

/// Messages of linux/rtnetlink.h, attributes of linux/if_link.h and linux/veth.h.
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const CREATE_NEW: u16 = 0x600;
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const LINK_INFO: u16 = 18;
const KIND: u16 = 1;
const DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const GROUP: u16 = 27;
const NAMESPACE_FD: u16 = 28;
/// Bytes of struct ifinfomsg.
pub(super) const HEAD: usize = 16;
const UP: u32 = 0x1;
const LOOPBACK: u32 = 0x8;
const NO_ARP: u32 = 0x80;

pub(super) struct Link {
    pub(super) name: String,
    pub(super) index: u32,
    pub(super) is_up: bool,
    is_loopback: bool,
    hardware: [u8; 6],
    mtu: u32,
    group: u32,
}

/// All interfaces of this thread's network namespace.
pub(super) fn all() -> io::Result<Vec<Link>> {
    dump(GET_LINK, libc::AF_UNSPEC, HEAD, |payload, links| links.extend(read(payload)))
}

fn read(payload: &[u8]) -> Option<Link> {
    let (head, body) = payload.split_at_checked(HEAD)?;
    let index = u32::from_ne_bytes(*head.get(4..)?.first_chunk()?);
    let flags = u32::from_ne_bytes(*head.get(8..)?.first_chunk()?);
    let number = |kind| {
        let bytes = attribute(body, kind)?.value;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    // A tunnel has no hardware address, or an IP address in its place.
    let [low, high, ..] = index.to_ne_bytes();
    let hardware = match attribute(body, ADDRESS).and_then(|one| one.value.try_into().ok()) {
        Some(hardware) if hardware != [0; 6] => hardware,
        _ => [2, 0, 0, 0, high, low],
    };
    Some(Link {
        name: attribute(body, NAME)?.text().to_owned(),
        index,
        is_up: flags & UP != 0,
        is_loopback: flags & LOOPBACK != 0,
        hardware,
        mtu: number(MTU).unwrap_or(1500),
        group: number(GROUP).unwrap_or(0),
    })
}

impl Link {
    /// Makes one of the same name and number in the namespace of `socket`, its far end in that of
    /// `outside`, both down.
    pub(super) fn make(&self, socket: &mut RouteSocket, outside: RawFd) -> io::Result<()> {
        if self.is_loopback {
            return Ok(());
        }
        let peer = Attributes::default()
            .text(NAME, &self.far_end())
            .put(MTU, &self.mtu().to_ne_bytes())
            .put(NAMESPACE_FD, &outside.to_ne_bytes());
        let peer = [&head(0, 0)[..], peer.bytes()].concat();
        let data = Attributes::default().put(VETH_PEER, &peer);
        let info = Attributes::default().text(KIND, "veth").nest(DATA, &data);
        let body = Attributes::default()
            .text(NAME, &self.name)
            .put(ADDRESS, &self.hardware)
            .put(MTU, &self.mtu().to_ne_bytes())
            .put(GROUP, &self.group.to_ne_bytes())
            .nest(LINK_INFO, &info);
        socket.order(NEW_LINK, CREATE_NEW, &[&head(self.index, 0)[..], body.bytes()].concat())
    }

    pub(super) fn raise(&self, socket: &mut RouteSocket) -> io::Result<()> {
        let flags = if self.is_loopback { UP } else { UP | NO_ARP };
        let index = if self.is_loopback { 1 } else { self.index };
        socket.order(NEW_LINK, 0, &head(index, flags))
    }

    /// Raises the far end, in the namespace of `socket`. A cable is up once both ends are.
    pub(super) fn raise_far_end(&self, socket: &mut RouteSocket) -> io::Result<()> {
        if self.is_loopback {
            return Ok(());
        }
        let name = Attributes::default().text(NAME, &self.far_end());
        socket.order(NEW_LINK, 0, &[&head(0, UP)[..], name.bytes()].concat())
    }

    /// A veth takes no more, and IPv6 no less.
    fn mtu(&self) -> u32 {
        self.mtu.clamp(1280, 65_535)
    }

    fn far_end(&self) -> String {
        format!("far{}", self.index)
    }

    /// The way in through this interface; `None` if nobody comes this way.
    pub(super) fn way(&self, routing: &Routing) -> Option<Way> {
        let addresses: Vec<Net> = routing.addresses_of(self.index);
        if self.is_loopback || !self.is_up || addresses.is_empty() {
            return None;
        }
        Some(Way {
            name: self.name.clone(),
            index: self.index,
            hardware: self.hardware,
            far_end: self.far_end(),
            addresses,
            is_default: [false, true].map(|v6| routing.leads_everywhere(self.index, v6)),
        })
    }
}

/// A struct ifinfomsg that sets these flags.
fn head(index: u32, flags: u32) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..].copy_from_slice(&flags.to_ne_bytes());
    head
}
