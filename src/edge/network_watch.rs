//! A descriptor that becomes readable when this machine's addresses, interfaces or routes change,
//! or its IPv6 neighbours.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use socket2::{SockFilter, SockRef};

use super::firewall::attributes::split;
use super::neighbours::KnownNeighbours;
use super::routes::EVERYWHERE;
use crate::core::types::Fault;

/// Multicast groups of linux/rtnetlink.h. A link changes when it goes up or gets another name.
const GROUPS: u32 = (libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_ROUTE
    | libc::RTMGRP_NEIGH) as u32;

/// Drops reports about all routes but those to everywhere and to private networks, and about all
/// neighbours but those of IPv6: on a router they come all the time. The kernel writes the table
/// first, and then the destination.
const FILTER: [SockFilter; 21] = [
    SockFilter::new(0x28, 0, 0, 4), // load nlmsg_type
    SockFilter::new(0x15, 15, 0, as_loaded(libc::RTM_NEWNEIGH)),
    SockFilter::new(0x15, 14, 0, as_loaded(libc::RTM_DELNEIGH)),
    SockFilter::new(0x15, 1, 0, as_loaded(libc::RTM_NEWROUTE)),
    SockFilter::new(0x15, 0, 14, as_loaded(libc::RTM_DELROUTE)),
    SockFilter::new(0x30, 0, 0, 17), // load rtm_dst_len
    SockFilter::new(0x25, 0, 12, EVERYWHERE as u32),
    SockFilter::new(0x28, 0, 0, 40), // load two bytes of the destination
    SockFilter::new(0x35, 0, 11, 0x0a00), // 10.0.0.0/8
    SockFilter::new(0x25, 0, 9, 0x0aff),
    SockFilter::new(0x35, 0, 9, 0x6440), // 100.64.0.0/10
    SockFilter::new(0x25, 0, 7, 0x647f),
    SockFilter::new(0x35, 0, 7, 0xac10), // 172.16.0.0/12
    SockFilter::new(0x25, 0, 5, 0xac1f),
    SockFilter::new(0x15, 4, 0, 0xc0a8), // 192.168.0.0/16
    SockFilter::new(0x35, 0, 4, 0xfc00), // fc00::/7
    SockFilter::new(0x25, 3, 2, 0xfdff),
    SockFilter::new(0x30, 0, 0, 16), // load ndm_family
    SockFilter::new(0x15, 0, 1, libc::AF_INET6 as u32),
    SockFilter::new(0x06, 0, 0, u32::MAX), // accept
    SockFilter::new(0x06, 0, 0, 0),        // drop
];

/// A number in this machine's byte order, as a filter loads it.
const fn as_loaded(number: u16) -> u32 {
    number.to_be() as u32
}

/// The most reports that one turn of the loop reads: whoever is on the link can cause reports about
/// neighbours as fast as they are read.
const READS: usize = 64;

pub struct NetworkWatch {
    socket: Socket,
    neighbours: KnownNeighbours,
}

impl NetworkWatch {
    pub fn start() -> Result<NetworkWatch, Fault> {
        let socket = Self::open().map_err(|error| {
            let what = format!("cannot watch for changes of the network: {error}");
            Fault::new(what, "the kernel needs CONFIG_NETLINK")
        })?;
        Ok(NetworkWatch { socket, neighbours: KnownNeighbours::default() })
    }

    fn open() -> io::Result<Socket> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        SockRef::from(&socket).attach_filter(&FILTER)?;
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        socket.set_non_blocking(true)?;
        Ok(socket)
    }

    /// Reads some reports; the descriptor stays readable while there are more. True if anything may
    /// have changed; an overrun counts as a change.
    pub fn changed(&mut self) -> bool {
        let mut any = false;
        let mut buffer = Vec::with_capacity(8192);
        for _ in 0..READS {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => {
                    for report in split(&buffer) {
                        any |= match report.kind {
                            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
                                self.neighbours.learn(&report)
                            }
                            _ => true,
                        };
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Some reports were lost.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(_) => break,
            }
        }
        any
    }
}

impl AsFd for NetworkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_has_just_begun_has_no_news() {
        assert!(!NetworkWatch::start().unwrap().changed());
    }
}
