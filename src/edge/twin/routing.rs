//! Addresses, routes and rules of routing: read as the kernel lists them, and said again to the
//! kernel in the twin.

use std::io;
use std::net::IpAddr;

use super::Net;
use super::route_socket::{RouteSocket, without};
use crate::edge::firewall::attributes::attribute;
use crate::edge::routes::{EVERYWHERE, address, dump};

/// Messages of linux/rtnetlink.h: the one that makes; the list is asked for by two more.
const ADDRESS: u16 = 20;
const ROUTE: u16 = 24;
const RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const CREATE: u16 = 0x400;
const CREATE_NEW: u16 = 0x600;
/// Bytes of struct ifaddrmsg, rtmsg and fib_rule_hdr.
const ADDRESS_HEAD: usize = 8;
const ROUTE_HEAD: usize = 12;
const RULE_HEAD: usize = 12;
const FAMILIES: [i32; 2] = [libc::AF_INET, libc::AF_INET6];
/// Attributes of an address: of the peer, or one's own if there is none; one's own.
const PEER: u16 = 1;
const LOCAL: u16 = 2;
/// Attributes of a route.
const INTERFACE: u16 = 4;
const CACHE_INFO: u16 = 12;
const NEXT_HOP_OBJECT: u16 = 30;
/// In struct rtmsg: who made it, its type; flags of copies, and the one that may be said again.
const BY_KERNEL: u8 = 2;
const CLONED: u32 = 0x200;
const ON_LINK: u32 = 4;
const LOCAL_TABLE: u8 = 255;
/// A route may need another one to be there.
const PASSES: usize = 3;

pub(super) struct Routing {
    addresses: Vec<Vec<u8>>,
    routes: Vec<Vec<u8>>,
    rules: Vec<Vec<u8>>,
}

impl Routing {
    /// Reads that of this thread's network namespace.
    pub(super) fn read() -> io::Result<Routing> {
        let mut routing = Routing { addresses: Vec::new(), routes: Vec::new(), rules: rules()? };
        for family in FAMILIES {
            routing.addresses.extend(list(ADDRESS, family, ADDRESS_HEAD)?);
            routing.routes.extend(list(ROUTE, family, ROUTE_HEAD)?);
        }
        routing.routes.retain(|route| !is_made_by_the_kernel(route));
        Ok(routing)
    }

    /// Makes all of it in the namespace of `socket`. Returns what the kernel refused.
    pub(super) fn write(&self, socket: &mut RouteSocket) -> Vec<String> {
        let mut lacks = Vec::new();
        for one in &self.addresses {
            if let Some(error) = refused(socket.order(ADDRESS, CREATE, one)) {
                lacks.push(format!("an address: {error}"));
            }
        }
        let mut left: Vec<Vec<u8>> = self.routes.iter().map(|route| sayable(route)).collect();
        let mut reason = String::new();
        for _ in 0..PASSES {
            left.retain(|route| match refused(socket.order(ROUTE, CREATE, route)) {
                None => false,
                Some(error) => {
                    reason = error.to_string();
                    true
                }
            });
        }
        if !left.is_empty() {
            lacks.push(format!("{} of {} routes: {reason}", left.len(), self.routes.len()));
        }
        lacks.extend(self.write_rules(socket).err().map(|error| format!("routing rules: {error}")));
        lacks
    }

    fn write_rules(&self, socket: &mut RouteSocket) -> io::Result<()> {
        let there = rules()?;
        for rule in self.rules.iter().filter(|rule| !there.contains(rule)) {
            socket.order(RULE, CREATE_NEW, rule)?;
        }
        for rule in there.iter().filter(|rule| !self.rules.contains(rule)) {
            socket.order(DELETE_RULE, 0, rule)?;
        }
        Ok(())
    }

    /// The addresses of an interface, by its number.
    pub(super) fn addresses_of(&self, index: u32) -> Vec<Net> {
        let mut found: Vec<Net> =
            self.addresses.iter().filter_map(|one| net_of(one, index)).collect();
        found.sort();
        found.dedup();
        found
    }

    /// True if a route to everywhere leads out by this interface.
    pub(super) fn leads_everywhere(&self, index: u32, v6: bool) -> bool {
        let family = FAMILIES[usize::from(v6)];
        self.routes.iter().any(|route| {
            let is_wide = route.get(1).is_some_and(|length| *length <= EVERYWHERE);
            let leads_here = attribute(route.get(ROUTE_HEAD..).unwrap_or_default(), INTERFACE)
                .is_some_and(|one| one.value == index.to_ne_bytes());
            i32::from(route[0]) == family && is_wide && leads_here
        })
    }
}

fn rules() -> io::Result<Vec<Vec<u8>>> {
    let mut rules = list(RULE, FAMILIES[0], RULE_HEAD)?;
    rules.extend(list(RULE, FAMILIES[1], RULE_HEAD)?);
    Ok(rules)
}

/// The messages that make what there is of one kind and family.
fn list(make: u16, family: i32, head: usize) -> io::Result<Vec<Vec<u8>>> {
    let keep = |payload: &[u8], list: &mut Vec<Vec<u8>>| {
        if payload.len() >= head {
            list.push(payload.to_vec());
        }
    };
    dump(make + 2, family, head, keep)
}

/// Routes that come with an address, and copies of routes.
fn is_made_by_the_kernel(route: &[u8]) -> bool {
    (route[5] == BY_KERNEL && route[4] == LOCAL_TABLE) || flags(route) & CLONED != 0
}

fn flags(route: &[u8]) -> u32 {
    route.get(8..).and_then(<[u8]>::first_chunk).map_or(0, |flags| u32::from_ne_bytes(*flags))
}

/// A route as the kernel takes it: without what it only tells.
fn sayable(route: &[u8]) -> Vec<u8> {
    let mut route = without(route, ROUTE_HEAD, &[CACHE_INFO, NEXT_HOP_OBJECT]);
    let kept = flags(&route) & ON_LINK;
    route[8..12].copy_from_slice(&kept.to_ne_bytes());
    route
}

/// What is there already is as good as made.
fn refused(outcome: io::Result<()>) -> Option<io::Error> {
    outcome.err().filter(|error| error.raw_os_error() != Some(libc::EEXIST))
}

fn net_of(message: &[u8], index: u32) -> Option<Net> {
    let (head, body) = message.split_at_checked(ADDRESS_HEAD)?;
    if head.get(4..)? != index.to_ne_bytes() {
        return None;
    }
    let own = attribute(body, LOCAL).or_else(|| attribute(body, PEER))?;
    let address: IpAddr = address(own.value)?;
    Some(Net { address, length: head[1] })
}
