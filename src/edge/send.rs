//! A UDP socket to one gateway.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::core::types::{Fault, FaultKind};

/// A UDP socket that sends to one gateway and receives only from it.
pub struct GatewaySocket {
    socket: UdpSocket,
    gateway: SocketAddr,
    local: IpAddr,
}

impl GatewaySocket {
    /// A socket to `gateway`. The routes choose the local address.
    pub fn open(gateway: SocketAddr) -> Result<Self, Fault> {
        Self::connect(gateway).map_err(|error| not_sent(gateway, &error))
    }

    fn connect(gateway: SocketAddr) -> io::Result<Self> {
        let any: IpAddr = if gateway.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(gateway)?;
        let local = socket.local_addr()?.ip().to_canonical();
        Ok(Self { socket, gateway, local })
    }

    pub fn gateway(&self) -> SocketAddr {
        self.gateway
    }

    /// The source address of our datagrams, before any NAT.
    pub fn local(&self) -> IpAddr {
        self.local
    }

    /// Sends one datagram. An ICMP error to an earlier one is no error: anybody can send one.
    pub fn send(&self, datagram: &[u8]) -> Result<(), Fault> {
        let sent = match self.socket.send(datagram) {
            Err(error) if is_icmp_error(&error) => self.socket.send(datagram),
            other => other,
        };
        sent.map(drop).map_err(|error| not_sent(self.gateway, &error))
    }

    /// Waits until `deadline` for a datagram, which is cut to `buffer`; `None` once that has
    /// passed.
    pub fn receive<'b>(&self, buffer: &'b mut [u8], deadline: Instant) -> Option<&'b [u8]> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            // On some systems a timeout below the clock's resolution means no timeout at all.
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).ok()?;
            match self.socket.recv(buffer) {
                Ok(length) => return buffer.get(..length),
                Err(error) if is_icmp_error(&error) => {}
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => {}
                    _ => return None,
                },
            }
        }
    }
}

/// True for an ICMP error to an earlier datagram: the kernel reports it with the next call.
fn is_icmp_error(error: &io::Error) -> bool {
    use ErrorKind::*;
    matches!(
        error.kind(),
        ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable
    )
}

fn not_sent(gateway: SocketAddr, error: &io::Error) -> Fault {
    use ErrorKind::*;
    let what = format!("the knock to {gateway} was not sent");
    let fault = match error.kind() {
        NetworkUnreachable | AddrNotAvailable | HostUnreachable => {
            Fault::new(format!("{what}: no route to it"), "check that the network is up")
        }
        PermissionDenied => Fault::new(
            format!("{what}: this machine's own firewall refuses it"),
            "allow outgoing UDP to that port",
        ),
        _ => Fault::new(format!("{what}: {error}"), "check the network"),
    };
    fault.of(FaultKind::Unreachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_socket_receives_only_from_its_gateway_and_survives_icmp_errors() {
        let gateway = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = GatewaySocket::open(gateway.local_addr().unwrap()).unwrap();
        assert_eq!(client.local(), IpAddr::from([127, 0, 0, 1]));
        client.send(b"hello").unwrap();
        let (_, address) = gateway.recv_from(&mut [0; 16]).unwrap();
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.send_to(b"stranger", address).unwrap();
        gateway.send_to(b"receipt", address).unwrap();
        let mut buffer = [0; 64];
        let deadline = Instant::now() + Duration::from_secs(5);
        assert_eq!(client.receive(&mut buffer, deadline), Some(b"receipt".as_slice()));
        // The port is closed now: the next send and the next receive fail with "connection
        // refused".
        drop(gateway);
        client.send(b"one").unwrap();
        client.send(b"two").unwrap();
        let start = Instant::now();
        assert_eq!(client.receive(&mut buffer, start + Duration::from_millis(50)), None);
        assert!(
            start.elapsed() >= Duration::from_millis(50),
            "an ICMP error does not end the wait"
        );
    }
}
