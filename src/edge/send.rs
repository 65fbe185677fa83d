//! Resolving a gateway once, sending it datagrams from one socket, waiting for what comes back on
//! it. Payloads are left to `core::wire`, the hits of a classic sequence to `app`.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use crate::core::types::Fault;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl AddressFamily {
    /// The family of `ip`.
    pub fn of(ip: IpAddr) -> Self {
        if ip.to_canonical().is_ipv4() { AddressFamily::V4 } else { AddressFamily::V6 }
    }
}

/// The first address of each family, or of `only` one, over all `hosts` in order. Each name is
/// resolved once.
///
/// # Errors
/// None of them leads anywhere.
pub fn resolve(
    hosts: &[String],
    port: u16,
    only: Option<AddressFamily>,
) -> Result<Vec<SocketAddr>, Fault> {
    let mut found: Vec<SocketAddr> = Vec::new();
    let mut trouble = None;
    for host in hosts {
        match (host.as_str(), port).to_socket_addrs() {
            Ok(addresses) => {
                for address in addresses.map(|a| SocketAddr::new(a.ip().to_canonical(), a.port())) {
                    let family = AddressFamily::of(address.ip());
                    let wanted = only.is_none_or(|only| only == family);
                    if wanted && !found.iter().any(|f| AddressFamily::of(f.ip()) == family) {
                        found.push(address);
                    }
                }
            }
            Err(e) => trouble = Some(format!("{host} cannot be resolved: {e}")),
        }
    }
    match found.is_empty() {
        false => Ok(found),
        true => Err(Fault::new(
            trouble
                .unwrap_or_else(|| format!("{} has no address of that family", hosts.join(", "))),
            "check the network and the profile's `addresses`; an IP address there needs no resolving",
        )),
    }
}

/// A UDP socket that talks to one gateway and hears only that gateway.
pub struct GatewaySocket {
    socket: UdpSocket,
    gateway: SocketAddr,
    local: IpAddr,
}

impl GatewaySocket {
    /// A socket towards `gateway`, from whatever local address the routes choose.
    ///
    /// # Errors
    /// There is no way there.
    pub fn open(gateway: SocketAddr) -> Result<Self, Fault> {
        let unspecified: IpAddr = if gateway.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let open = || -> io::Result<Self> {
            let socket = UdpSocket::bind((unspecified, 0))?;
            socket.connect(gateway)?;
            let local = socket.local_addr()?.ip().to_canonical();
            Ok(Self { socket, gateway, local })
        };
        open().map_err(|e| no_way(gateway, &e))
    }

    /// The gateway.
    pub fn gateway(&self) -> SocketAddr {
        self.gateway
    }

    /// The address that datagrams leave with, before any NAT.
    pub fn local(&self) -> IpAddr {
        self.local
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// It did not leave this machine. An ICMP error to an earlier one is none: anybody on the path
    /// can send such.
    pub fn send(&self, datagram: &[u8]) -> Result<(), Fault> {
        let once = || self.socket.send(datagram).map(|_| ());
        once()
            .or_else(|e| if is_echo(&e) { once() } else { Err(e) })
            .map_err(|e| no_way(self.gateway, &e))
    }

    /// Whatever datagram comes next, until `deadline`; `None` once that has passed. What is longer
    /// than `buffer` is cut.
    pub fn receive<'b>(&self, buffer: &'b mut [u8], deadline: Instant) -> Option<&'b [u8]> {
        loop {
            let left =
                deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            // A timeout below the clock's grain would mean none at all on some systems.
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).ok()?;
            match self.socket.recv(buffer) {
                Ok(length) => return buffer.get(..length),
                Err(e) if is_echo(&e) || e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return None,
            }
        }
    }
}

/// An ICMP error to what was sent before, as the kernel hands it on with the next call.
fn is_echo(error: &io::Error) -> bool {
    use ErrorKind::*;
    matches!(
        error.kind(),
        ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable
    )
}

fn no_way(gateway: SocketAddr, error: &io::Error) -> Fault {
    let (what, remedy) = match error.kind() {
        ErrorKind::NetworkUnreachable
        | ErrorKind::AddrNotAvailable
        | ErrorKind::HostUnreachable => {
            ("there is no route there".to_owned(), "check that the network is up")
        }
        ErrorKind::PermissionDenied => (
            "this machine's own firewall refuses it".to_owned(),
            "let outgoing UDP to that port through",
        ),
        _ => (error.to_string(), "check the network"),
    };
    Fault::new(format!("no knock left for {gateway}: {what}"), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(hosts: &[&str]) -> Vec<String> {
        hosts.iter().map(|h| (*h).to_owned()).collect()
    }

    #[test]
    fn the_first_address_of_each_family_is_taken() {
        let hosts = strings(&["192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2"]);
        let both = resolve(&hosts, 7, None).unwrap();
        assert_eq!(both, ["192.0.2.1:7".parse().unwrap(), "[2001:db8::1]:7".parse().unwrap()]);
        assert_eq!(
            resolve(&hosts, 7, Some(AddressFamily::V6)).unwrap(),
            ["[2001:db8::1]:7".parse().unwrap()]
        );
        let fault = resolve(&strings(&["192.0.2.1"]), 7, Some(AddressFamily::V6)).unwrap_err();
        assert!(fault.what.contains("no address of that family"), "{fault}");
    }

    #[test]
    fn a_line_hears_only_its_gateway_and_no_icmp_error() {
        let gateway = UdpSocket::bind("127.0.0.1:0").unwrap();
        let line = GatewaySocket::open(gateway.local_addr().unwrap()).unwrap();
        assert_eq!(line.local(), IpAddr::from([127, 0, 0, 1]));
        line.send(b"hello").unwrap();
        let (_, client) = gateway.recv_from(&mut [0; 16]).unwrap();
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.send_to(b"stranger", client).unwrap();
        gateway.send_to(b"receipt", client).unwrap();
        let mut buffer = [0; 64];
        let deadline = Instant::now() + Duration::from_secs(5);
        assert_eq!(line.receive(&mut buffer, deadline), Some(b"receipt".as_slice()));
        // Nobody is there any more: the kernel says "connection refused" to both the next send and
        // the next receive.
        drop(gateway);
        line.send(b"one").unwrap();
        line.send(b"two").unwrap();
        let start = Instant::now();
        assert_eq!(line.receive(&mut buffer, start + Duration::from_millis(50)), None);
        assert!(
            start.elapsed() >= Duration::from_millis(50),
            "an ICMP error must not end the wait"
        );
    }
}
