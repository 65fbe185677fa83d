//! What the kernel's tables say of this machine: ports that programs listen on, interfaces that
//! default routes lead out of. Who may reach those ports is left to the firewall, capturing on
//! those interfaces to `capture`.
//!
//! Read as text, from the namespace of the thread that asks: the five tables have had their form
//! for twenty years, and of the crates that read them none knows the one of IPv6 routes without
//! bringing a whole netlink with it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::core::types::{Port, Proto};

const PLACE: &str = "/proc/thread-self/net";
/// Flags of linux/route.h: it is in force, it refuses.
const UP: u32 = 0x1;
const REJECT: u32 = 0x200;

/// The ports that programs here listen on for others than this machine itself. What cannot be read
/// counts as nothing.
pub fn listening() -> BTreeSet<Port> {
    let tables =
        [("tcp", Proto::Tcp), ("tcp6", Proto::Tcp), ("udp", Proto::Udp), ("udp6", Proto::Udp)];
    tables
        .into_iter()
        .flat_map(|(table, proto)| listeners(&read(table), proto).collect::<Vec<_>>())
        .collect()
}

/// TCP connections that end in programs here, as (our end, theirs). What cannot be read counts as
/// nothing.
pub fn sessions() -> Vec<(SocketAddr, SocketAddr)> {
    ["tcp", "tcp6"]
        .into_iter()
        .flat_map(|table| connected(&read(table)).collect::<Vec<_>>())
        .collect()
}

/// The interfaces that a default route leads out of, over IPv4 or IPv6, sorted.
pub fn default_interfaces() -> Vec<String> {
    let (v4, v6) = (read("route"), read("ipv6_route"));
    let names: BTreeSet<&str> = defaults_v4(&v4).chain(defaults_v6(&v6)).collect();
    names.into_iter().map(str::to_owned).collect()
}

/// Whether this machine passes packets on, over IPv4 and over IPv6.
pub fn passes_on() -> [bool; 2] {
    ["ipv4/ip_forward", "ipv6/conf/all/forwarding"].map(|name| {
        fs::read_to_string(format!("/proc/sys/net/{name}")).is_ok_and(|text| text.trim() != "0")
    })
}

fn read(table: &str) -> String {
    fs::read_to_string(format!("{PLACE}/{table}")).unwrap_or_default()
}

/// Rows are `N: LOCAL:PORT REMOTE:PORT STATE ...`, in hex. A TCP socket listens in state 0A; a UDP
/// socket that is not connected, and so takes from everybody, is in 07.
fn listeners(table: &str, proto: Proto) -> impl Iterator<Item = Port> {
    let state = if proto == Proto::Tcp { "0A" } else { "07" };
    table.lines().skip(1).filter_map(move |line| {
        let words: Vec<&str> = line.split_whitespace().take(4).collect();
        let [_, local, _, is] = words[..] else { return None };
        let (address, number) = local.split_once(':')?;
        let number = u16::from_str_radix(number, 16).ok()?;
        (is == state && number != 0 && !is_loopback(address)).then_some(Port { proto, number })
    })
}

/// Rows in state 01, established.
fn connected(table: &str) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
    table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().take(4).collect();
        let [_, local, remote, "01"] = words[..] else { return None };
        Some((end(local)?, end(remote)?))
    })
}

/// An IPv4 address that stands in the table of IPv6 is one of IPv4 on the wire.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, number) = text.split_once(':')?;
    let word = |index: usize| {
        let digits = address.get(index * 8..index * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let octets = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(number, 16).ok()?))
}

/// Each group of eight digits is a word in this machine's own byte order.
fn is_loopback(address: &str) -> bool {
    let word = |index: usize| {
        let digits = address.get(index * 8..index * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match [word(0), word(1), word(2), word(3)] {
        [Some([127, ..]), None, None, None] => true,
        [Some(a), Some(b), Some(c), Some(d)] => [a, b, c] == [[0; 4]; 3] && d == [0, 0, 0, 1],
        _ => false,
    }
}

/// Columns: interface, destination, gateway, flags, references, use, metric, mask.
fn defaults_v4(table: &str) -> impl Iterator<Item = &str> {
    table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().take(8).collect();
        let [name, "00000000", _, flags, _, _, _, "00000000"] = words[..] else { return None };
        leads_out(flags).then_some(name)
    })
}

/// Columns: destination and its length, source and its length, gateway, metric, references, use,
/// flags, interface.
fn defaults_v6(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "00", _, "00", _, _, _, _, flags, name] = words[..] else { return None };
        leads_out(flags).then_some(name)
    })
}

fn leads_out(flags: &str) -> bool {
    u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & UP != 0 && flags & REJECT == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn listeners_are_told_from_connections_and_from_what_only_this_machine_reaches() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   2: 0100000A:0050 0200000A:C001 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n";
        let port = |proto, number| Port { proto, number };
        assert_eq!(listeners(tcp, Proto::Tcp).collect::<Vec<_>>(), [port(Proto::Tcp, 22)]);
        let udp6 = "head
  1: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 0
  2: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 07 0
  3: B80D0120000000000000000001000000:1F91 00000000000000000000000002000000:0035 01 0
  broken\n";
        assert_eq!(listeners(udp6, Proto::Udp).collect::<Vec<_>>(), [port(Proto::Udp, 8080)]);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn connections_are_told_from_listeners_with_both_ends_on_both_families() {
        let tcp = "head
   0: 00000000:0016 00000000:0000 0A 0
   1: 0100000A:0016 0200000A:C001 01 0
   2: 0100000A:0016 0200000A:C002 06 0\n";
        let ends = |local: &str, remote: &str| (local.parse().unwrap(), remote.parse().unwrap());
        assert_eq!(connected(tcp).collect::<Vec<_>>(), [ends("10.0.0.1:22", "10.0.0.2:49153")]);
        let tcp6 = "head
  1: B80D0120000000000000000001000000:0016 B80D0120000000000000000002000000:C001 01 0
  2: 0000000000000000FFFF00000100000A:0016 0000000000000000FFFF00000200000A:C001 01 0
  3: B80D0120:0016 B80D01200000:C001 01 0\n";
        let mapped = ends("10.0.0.1:22", "10.0.0.2:49153");
        let found: Vec<_> =
            connected(tcp6).filter(|(_, remote)| remote.port() == 0xc001).take(2).collect();
        assert_eq!(found, [ends("[2001:db8::1]:22", "[2001:db8::2]:49153"), mapped]);
    }

    #[test]
    fn a_socket_that_listens_now_is_found() {
        let server = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let number = server.local_addr().unwrap().port();
        assert!(listening().contains(&Port { proto: Proto::Tcp, number }));
    }

    #[test]
    fn default_routes_are_those_that_lead_out() {
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
}
