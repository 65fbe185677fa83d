//! One hit of a classic sequence: a SYN, a datagram, an echo request.
//! Names are left to `names`, the order and the pauses to `app::knock`.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::core::types::Proto;

/// Where a hit leaves from, if not from where the routes say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketOrigin {
    /// This address of ours.
    pub source: Option<IpAddr>,
    /// This interface. Linux only.
    pub interface: Option<String>,
}

/// How a hit can fail.
#[derive(Debug)]
pub enum SendError {
    /// There is no socket to be had, or it cannot leave from there.
    Socket(io::Error),
    /// The kernel would not send it.
    Send(io::Error),
}

/// Sends it. A TCP hit is one SYN: the socket is closed at once, so the kernel repeats nothing. A
/// UDP hit carries one zero byte, since some middle boxes drop empty datagrams.
///
/// # Errors
/// What the kernel says. That nobody listens there is no error: nobody needs to.
pub fn hit(to: SocketAddr, proto: Proto, from: &PacketOrigin) -> Result<(), SendError> {
    let (kind, protocol) = match proto {
        Proto::Tcp => (Type::STREAM, Protocol::TCP),
        Proto::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket =
        Socket::new(Domain::for_address(to), kind, Some(protocol)).map_err(SendError::Socket)?;
    leave_from(&socket, from, to).map_err(SendError::Socket)?;
    socket.set_nonblocking(true).map_err(SendError::Socket)?;
    let to = SockAddr::from(to);
    match proto {
        Proto::Tcp => {
            socket.connect(&to).or_else(|error| if under_way(&error) { Ok(()) } else { Err(error) })
        }
        Proto::Udp => socket.send_to(&[0], &to).map(drop),
    }
    .map_err(SendError::Send)
}

/// Sends one echo request that carries `size` bytes, by a ping socket: that takes no privilege,
/// only a system that lets this user's group have one. The kernel fills in identifier and checksum.
/// Of `to` the port means nothing.
///
/// # Errors
/// What the kernel says; `SendError::Socket` with `PermissionDenied` where it gives no such socket.
pub fn ping(to: SocketAddr, size: u16, from: &PacketOrigin) -> Result<(), SendError> {
    let socket = ping_socket(to).map_err(SendError::Socket)?;
    leave_from(&socket, from, to).map_err(SendError::Socket)?;
    let mut message = vec![0; 8 + usize::from(size)];
    if let Some(kind) = message.first_mut() {
        *kind = if to.is_ipv4() { 8 } else { 128 };
    }
    socket.send_to(&message, &SockAddr::from(to)).map(drop).map_err(SendError::Send)
}

/// Whether [`ping`] would get its socket: to be asked before the first hit, so that none is wasted.
///
/// # Errors
/// As [`ping`].
pub fn may_ping(to: SocketAddr) -> Result<(), SendError> {
    ping_socket(to).map(drop).map_err(SendError::Socket)
}

fn ping_socket(to: SocketAddr) -> io::Result<Socket> {
    let protocol = if to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    Socket::new(Domain::for_address(to), Type::DGRAM, Some(protocol))
}

fn leave_from(socket: &Socket, from: &PacketOrigin, to: SocketAddr) -> io::Result<()> {
    if let Some(interface) = &from.interface {
        bind_interface(socket, interface)?;
    }
    if let Some(source) = from.source {
        let mut local = SocketAddr::new(source, 0);
        if let (SocketAddr::V6(local), SocketAddr::V6(to)) = (&mut local, to) {
            // A link-local address belongs to a link: the one that the target is on, if that says
            // so.
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
        io::ErrorKind::Unsupported,
        "this system cannot bind to an interface: give a source address",
    ))
}

/// Whether the SYN has left: either no answer has come yet, or the answer of a host nearby was a
/// RST.
fn under_way(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(nix::libc::EINPROGRESS) {
        return true;
    }
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};
    use std::time::Duration;

    #[test]
    fn a_udp_hit_is_one_zero_byte_from_where_it_was_told() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let from =
            PacketOrigin { source: Some("127.0.0.2".parse().unwrap()), ..PacketOrigin::default() };
        hit(server.local_addr().unwrap(), Proto::Udp, &from).unwrap();
        let mut buffer = [7; 8];
        let (length, peer) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], peer.ip().to_string().as_str()), (&[0][..], "127.0.0.2"));
    }

    #[test]
    fn a_tcp_hit_reaches_an_open_port_and_a_closed_one_is_no_error() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        hit(address, Proto::Tcp, &PacketOrigin::default()).unwrap();
        server.accept().unwrap();
        drop(server);
        hit(address, Proto::Tcp, &PacketOrigin::default()).unwrap();
    }

    #[test]
    fn what_cannot_leave_from_there_is_an_error() {
        let from =
            PacketOrigin { source: Some("192.0.2.99".parse().unwrap()), ..PacketOrigin::default() };
        assert!(matches!(
            hit("127.0.0.1:9".parse().unwrap(), Proto::Udp, &from),
            Err(SendError::Socket(_))
        ));
    }
}
