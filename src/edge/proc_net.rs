//! The kernel's tables under /proc/net: listening ports, connections, routes, forwarding. Also:
//! signs of a container.
//!
//! Read as text, from the namespace of the calling thread. These tables have had their form for
//! twenty years, and a crate that reads IPv6 routes would bring a whole netlink stack.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::core::types::{Port, Proto};

/// Flags of linux/route.h: the route is in force; it has a next hop; it rejects.
const UP: u32 = 0x1;
const GATEWAY: u32 = 0x2;
const REJECT: u32 = 0x200;
/// Socket states. An unconnected UDP socket, which receives from everybody, is in CLOSE.
const ESTABLISHED: u8 = 0x01;
const CLOSE: u8 = 0x07;
const LISTEN: u8 = 0x0a;

/// The ports on which programs here listen for others. None if a table is unreadable.
pub fn listening() -> BTreeSet<Port> {
    let mut ports = BTreeSet::new();
    for (table, proto) in
        [("tcp", Proto::Tcp), ("tcp6", Proto::Tcp), ("udp", Proto::Udp), ("udp6", Proto::Udp)]
    {
        ports.extend(listeners(&read(table), proto));
    }
    ports
}

/// TCP connections here, as (local end, remote end). None if a table is unreadable.
pub fn sessions() -> Vec<(SocketAddr, SocketAddr)> {
    let mut sessions = connected(&read("tcp"));
    sessions.extend(connected(&read("tcp6")));
    sessions
}

/// The interfaces of the default routes, over IPv4 or IPv6, sorted.
pub fn default_interfaces() -> Vec<String> {
    let v4 = read("route");
    let v6 = read("ipv6_route");
    let names: BTreeSet<&str> = defaults_v4(&v4).chain(defaults_v6(&v6)).collect();
    names.into_iter().map(str::to_owned).collect()
}

/// The next hops of the default routes. Those of other routes do not count: packets from behind
/// them keep their own sources, or nobody would need such a route.
pub fn routers() -> BTreeSet<IpAddr> {
    routers_v4(&read("route")).chain(routers_v6(&read("ipv6_route"))).collect()
}

/// True for each of IPv4 and IPv6 if this machine forwards packets.
pub fn forwarding() -> [bool; 2] {
    ["ipv4/ip_forward", "ipv6/conf/all/forwarding"].map(|name| {
        fs::read_to_string(format!("/proc/sys/net/{name}")).is_ok_and(|text| text.trim() != "0")
    })
}

/// True if a container manager left its usual signs.
pub fn in_container() -> bool {
    let files = ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"];
    files.iter().any(|file| Path::new(file).exists())
        || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

fn read(table: &str) -> String {
    fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default()
}

/// The rows of a table of sockets, but for those that cannot be read.
fn socket_rows(table: &str) -> impl Iterator<Item = (SocketAddr, SocketAddr, u8)> {
    table.lines().skip(1).filter_map(socket_row)
}

/// A row of a table of sockets: `N: LOCAL:PORT REMOTE:PORT STATE ...`, in hex.
fn socket_row(line: &str) -> Option<(SocketAddr, SocketAddr, u8)> {
    let mut words = line.split_whitespace().skip(1);
    let local = parse_end(words.next()?)?;
    let remote = parse_end(words.next()?)?;
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    Some((local, remote, state))
}

/// An IPv4-mapped address of an IPv6 socket is plain IPv4 on the wire.
fn parse_end(text: &str) -> Option<SocketAddr> {
    let (address, number) = text.split_once(':')?;
    Some(SocketAddr::new(parse_address(address)?, u16::from_str_radix(number, 16).ok()?))
}

/// An address in words of this machine's own byte order, eight digits each.
fn parse_address(text: &str) -> Option<IpAddr> {
    let mut octets = Vec::new();
    for start in (0..text.len()).step_by(8) {
        let word = u32::from_str_radix(text.get(start..start + 8)?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    match octets.len() {
        4 => Some(IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?))),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).to_canonical()),
        _ => None,
    }
}

fn listeners(table: &str, proto: Proto) -> Vec<Port> {
    let state = if proto == Proto::Tcp { LISTEN } else { CLOSE };
    let mut ports = Vec::new();
    for (local, _, its_state) in socket_rows(table) {
        let number = local.port();
        if its_state == state && number != 0 && !local.ip().is_loopback() {
            ports.push(Port { proto, number });
        }
    }
    ports
}

fn connected(table: &str) -> Vec<(SocketAddr, SocketAddr)> {
    let mut sessions = Vec::new();
    for (local, remote, state) in socket_rows(table) {
        if state == ESTABLISHED {
            sessions.push((local, remote));
        }
    }
    sessions
}

/// Columns: interface, destination, gateway, flags, references, use, metric, mask.
fn defaults_v4(table: &str) -> impl Iterator<Item = &str> {
    table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().take(8).collect();
        match words[..] {
            [name, "00000000", _, flags, _, _, _, "00000000"] if has(flags, UP) => Some(name),
            _ => None,
        }
    })
}

fn routers_v4(table: &str) -> impl Iterator<Item = IpAddr> {
    table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().take(8).collect();
        match words[..] {
            [_, "00000000", next, flags, _, _, _, "00000000"] if has(flags, UP | GATEWAY) => {
                parse_address(next)
            }
            _ => None,
        }
    })
}

/// Columns: destination, length, source, length, gateway, metric, 2 counts, flags, interface.
fn defaults_v6(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, "00", _, "00", _, _, _, _, flags, name] if has(flags, UP) => Some(name),
            _ => None,
        }
    })
}

/// The same columns; the address is in network order.
fn routers_v6(table: &str) -> impl Iterator<Item = IpAddr> {
    table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, "00", _, _, next, _, _, _, flags, _] if has(flags, UP | GATEWAY) => {
                let bits = u128::from_str_radix(next, 16).ok()?;
                Some(Ipv6Addr::from_bits(bits).to_canonical())
            }
            _ => None,
        }
    })
}

/// True if a route has all of `wanted` and does not reject.
fn has(flags: &str, wanted: u32) -> bool {
    u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & (wanted | REJECT) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn listeners_are_neither_connections_nor_on_loopback() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   2: 0100000A:0050 0200000A:C001 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n";
        let port = |proto, number| Port { proto, number };
        assert_eq!(listeners(tcp, Proto::Tcp), [port(Proto::Tcp, 22)]);
        let udp6 = "head
  1: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 0
  2: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 07 0
  3: B80D0120000000000000000001000000:1F91 00000000000000000000000002000000:0035 01 0
  broken\n";
        assert_eq!(listeners(udp6, Proto::Udp), [port(Proto::Udp, 8080)]);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn connections_have_both_ends_and_no_listeners_are_among_them() {
        let tcp = "head
   0: 00000000:0016 00000000:0000 0A 0
   1: 0100000A:0016 0200000A:C001 01 0
   2: 0100000A:0016 0200000A:C002 06 0\n";
        let ends = |local: &str, remote: &str| (local.parse().unwrap(), remote.parse().unwrap());
        assert_eq!(connected(tcp), [ends("10.0.0.1:22", "10.0.0.2:49153")]);
        let tcp6 = "head
  1: B80D0120000000000000000001000000:0016 B80D0120000000000000000002000000:C001 01 0
  2: 0000000000000000FFFF00000100000A:0016 0000000000000000FFFF00000200000A:C001 01 0
  3: B80D0120:0016 B80D01200000:C001 01 0\n";
        let mapped = ends("10.0.0.1:22", "10.0.0.2:49153");
        assert_eq!(connected(tcp6), [ends("[2001:db8::1]:22", "[2001:db8::2]:49153"), mapped]);
    }

    #[test]
    fn a_socket_that_listens_now_is_found() {
        let server = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let number = server.local_addr().unwrap().port();
        assert!(listening().contains(&Port { proto: Proto::Tcp, number }));
    }

    #[test]
    fn default_routes_are_up_and_reject_nothing() {
        let v4 =
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0102000A\t0003\t0\t0\t100\t00000000\t0\t0\t0
*\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0
tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0
eth1\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(defaults_v4(v4).collect::<Vec<_>>(), ["eth0"]);
        let zero = "0".repeat(32);
        let row = |length, flags, name| {
            format!("{zero} {length} {zero} 00 {zero} 00000400 00000001 00000000 {flags} {name}\n")
        };
        let v6 = row("00", "00450003", "wlan0")
            + &row("00", "00200200", "lo")
            + &row("40", "00000001", "eth1");
        assert_eq!(defaults_v6(&v6).collect::<Vec<_>>(), ["wlan0"]);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn routers_are_the_next_hops_of_default_routes_in_force() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask
eth0\t00000000\t0102000A\t0003\t0\t0\t100\t00000000
eth0\t0007A8C0\t0702000A\t0003\t0\t0\t0\t00FFFFFF
eth0\t0008A8C0\t0802000A\t0203\t0\t0\t0\t00FFFFFF
eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(routers_v4(v4).collect::<Vec<_>>(), [ip("10.0.2.1")]);
        let zero = "0".repeat(32);
        let router = "fd900000000000000000000000000001";
        let other = "fd900000000000000000000000000002";
        let v6 = format!(
            "{zero} 00 {zero} 00 {router} 00000400 00000001 00000000 00000003 eth0\n\
             {zero} 40 {zero} 00 {other} 00000400 00000001 00000000 00000003 eth0\n\
             {zero} 00 {zero} 00 {zero} 00000400 00000001 00000000 00200200 lo\n"
        );
        assert_eq!(routers_v6(&v6).collect::<Vec<_>>(), [ip("fd90::1")]);
    }
}
