//! The kernel's tables under /proc/net: listening ports, connections, forwarding. Also: signs of a
//! container. Read as text, from the namespace of the calling thread.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::core::types::{Port, Proto};

/// Socket states. An unconnected UDP socket, which receives from everybody, is in CLOSE.
const ESTABLISHED: u8 = 0x01;
const CLOSE: u8 = 0x07;
const LISTEN: u8 = 0x0a;

/// The ports on which programs here listen.
#[derive(Debug, Default)]
pub struct Listening {
    /// On an address that others reach.
    pub to_others: BTreeSet<Port>,
    pub on_loopback: BTreeSet<Port>,
}

impl Listening {
    /// Those of now; none if a table is unreadable.
    pub fn now() -> Listening {
        let mut found = Listening::default();
        for (table, proto) in
            [("tcp", Proto::Tcp), ("tcp6", Proto::Tcp), ("udp", Proto::Udp), ("udp6", Proto::Udp)]
        {
            found.add(&read(table), proto);
        }
        found
    }

    fn add(&mut self, table: &str, proto: Proto) {
        let state = if proto == Proto::Tcp { LISTEN } else { CLOSE };
        for (local, _, its_state) in socket_rows(table) {
            let (ip, number) = (local.ip(), local.port());
            if its_state != state || number == 0 || ip.is_multicast() {
                continue;
            }
            let ports = if ip.is_loopback() { &mut self.on_loopback } else { &mut self.to_others };
            ports.insert(Port { proto, number });
        }
    }
}

/// The ports on which programs here listen for others. None if a table is unreadable.
pub fn listening() -> BTreeSet<Port> {
    Listening::now().to_others
}

/// A socket that waits for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketRow {
    pub local: SocketAddr,
    /// The kernel's number for it, as /proc/PID/fd names it.
    pub inode: u64,
}

/// The sockets that wait for others, those on loopback included. None if a table is unreadable.
pub fn waiting(proto: Proto) -> Vec<SocketRow> {
    let state = if proto == Proto::Tcp { LISTEN } else { CLOSE };
    let mut rows = Vec::new();
    for table in [proto.name().to_owned(), format!("{}6", proto.name())] {
        for line in read(&table).lines().skip(1) {
            let inode = line.split_whitespace().nth(9).and_then(|word| word.parse().ok());
            if let (Some((local, _, its_state)), Some(inode)) = (socket_row(line), inode)
                && its_state == state
                && local.port() != 0
                && !local.ip().is_multicast()
            {
                rows.push(SocketRow { local, inode });
            }
        }
    }
    rows
}

/// The first of the ports that the kernel gives to clients.
pub fn first_ephemeral() -> u16 {
    /// As the kernel ships.
    const USUAL: u16 = 32768;
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(USUAL)
}

/// TCP connections here, as (local end, remote end). None if a table is unreadable.
pub fn sessions() -> Vec<(SocketAddr, SocketAddr)> {
    let mut sessions = connected(&read("tcp"));
    sessions.extend(connected(&read("tcp6")));
    sessions
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

fn connected(table: &str) -> Vec<(SocketAddr, SocketAddr)> {
    let mut sessions = Vec::new();
    for (local, remote, state) in socket_rows(table) {
        if state == ESTABLISHED {
            sessions.push((local, remote));
        }
    }
    sessions
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
        let mut found = Listening::default();
        found.add(tcp, Proto::Tcp);
        assert_eq!(Vec::from_iter(found.to_others), [port(Proto::Tcp, 22)]);
        assert_eq!(Vec::from_iter(found.on_loopback), [port(Proto::Tcp, 631)]);
        let udp6 = "head
  1: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 0
  2: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 07 0
  3: B80D0120000000000000000001000000:1F91 00000000000000000000000002000000:0035 01 0
  4: 000002FF0000000000000000FB000000:14E9 00000000000000000000000000000000:0000 07 0
  broken\n";
        let mut found = Listening::default();
        found.add(udp6, Proto::Udp);
        assert_eq!(Vec::from_iter(found.to_others), [port(Proto::Udp, 8080)]);
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
}
