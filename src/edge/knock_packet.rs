//! One packet of a classic sequence: a SYN, a datagram, or an echo request.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::core::packet::internet_checksum;
use crate::core::types::Proto;

/// Where a packet leaves from, if the routes do not decide it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketOrigin {
    pub source: Option<IpAddr>,
    /// An interface of this machine. Linux only.
    pub interface: Option<String>,
}

#[derive(Debug)]
pub enum SendError {
    /// The socket could not be made, or not bound to its origin.
    Socket(io::Error),
    Send(io::Error),
}

/// Sends one packet. TCP: one SYN. The socket is closed at once, so the kernel does not repeat it.
/// UDP: one zero byte, since some middle boxes drop empty datagrams. A closed port is no error.
pub fn send(to: SocketAddr, proto: Proto, from: &PacketOrigin) -> Result<(), SendError> {
    let (kind, protocol) = match proto {
        Proto::Tcp => (Type::STREAM, Protocol::TCP),
        Proto::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket =
        Socket::new(Domain::for_address(to), kind, Some(protocol)).map_err(SendError::Socket)?;
    bind(&socket, from, to).map_err(SendError::Socket)?;
    socket.set_nonblocking(true).map_err(SendError::Socket)?;
    let to = SockAddr::from(to);
    let sent = match proto {
        Proto::Tcp => socket.connect(&to),
        Proto::Udp => socket.send_to(&[0], &to).map(drop),
    };
    match sent {
        Err(error) if !(proto == Proto::Tcp && syn_was_sent(&error)) => Err(SendError::Send(error)),
        _ => Ok(()),
    }
}

/// Sends one echo request with `size` bytes of payload through a ping socket. That takes no
/// privilege, only a system that allows ping sockets for this user's group. Without one, root has
/// raw sockets. The port of `to` is ignored.
pub fn ping(to: SocketAddr, size: u16, from: &PacketOrigin) -> Result<(), SendError> {
    let socket = ping_socket(to).map_err(SendError::Socket)?;
    bind(&socket, from, to).map_err(SendError::Socket)?;
    let mut message = vec![if to.is_ipv4() { 8 } else { 128 }];
    message.resize(8 + usize::from(size), 0);
    if to.is_ipv4() {
        // Through a raw socket nobody else fills it in. A ping socket fills it in again.
        let check = internet_checksum(&message);
        message.splice(2..4, check.to_be_bytes());
    }
    socket.send_to(&message, &SockAddr::from(to)).map(drop).map_err(SendError::Send)
}

/// Checks that [`ping`] gets its socket. Ask before the first packet, so that none is wasted.
pub fn can_ping(to: SocketAddr) -> Result<(), SendError> {
    ping_socket(to).map(drop).map_err(SendError::Socket)
}

fn ping_socket(to: SocketAddr) -> io::Result<Socket> {
    let protocol = if to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let domain = Domain::for_address(to);
    match Socket::new(domain, Type::DGRAM, Some(protocol)) {
        // Linux allows ping sockets to no group, not even to root's, unless it is told to.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Socket::new(domain, Type::RAW, Some(protocol)).map_err(|_| error)
        }
        socket => socket,
    }
}

fn bind(socket: &Socket, from: &PacketOrigin, to: SocketAddr) -> io::Result<()> {
    if let Some(interface) = &from.interface {
        bind_interface(socket, interface)?;
    }
    if let Some(source) = from.source {
        let mut local = SocketAddr::new(source, 0);
        if let (SocketAddr::V6(local), SocketAddr::V6(to)) = (&mut local, to) {
            // A link-local address belongs to a link: the target's, if it names one.
            local.set_scope_id(if local.ip().is_unicast_link_local() { to.scope_id() } else { 0 });
        }
        socket.bind(&local.into())?;
    }
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn bind_interface(socket: &Socket, name: &str) -> io::Result<()> {
    socket.bind_device(Some(name.as_bytes()))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn bind_interface(_: &Socket, _: &str) -> io::Result<()> {
    Err(io::Error::new(
        ErrorKind::Unsupported,
        "this system cannot bind to an interface: give a source address",
    ))
}

/// True if connect failed after the SYN was sent: there is no reply yet, or a RST came at once.
fn syn_was_sent(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(nix::libc::EINPROGRESS) {
        return true;
    }
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};
    use std::time::Duration;

    #[test]
    fn a_udp_knock_is_one_zero_byte_from_the_given_source() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let from =
            PacketOrigin { source: Some("127.0.0.2".parse().unwrap()), ..PacketOrigin::default() };
        send(server.local_addr().unwrap(), Proto::Udp, &from).unwrap();
        let mut buffer = [7; 8];
        let (length, peer) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], peer.ip().to_string().as_str()), (&[0][..], "127.0.0.2"));
    }

    #[test]
    fn a_tcp_knock_reaches_an_open_port_and_a_closed_port_is_no_error() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        send(address, Proto::Tcp, &PacketOrigin::default()).unwrap();
        server.accept().unwrap();
        drop(server);
        send(address, Proto::Tcp, &PacketOrigin::default()).unwrap();
    }

    #[test]
    fn a_source_that_is_not_ours_is_an_error() {
        let from =
            PacketOrigin { source: Some("192.0.2.99".parse().unwrap()), ..PacketOrigin::default() };
        assert!(matches!(
            send("127.0.0.1:9".parse().unwrap(), Proto::Udp, &from),
            Err(SendError::Socket(_))
        ));
    }
}
