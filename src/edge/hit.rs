//! One hit of a classic sequence: a SYN, a datagram.
//! Names are left to `names`, the order and the pauses to `app::knock`.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::core::types::Proto;

/// Where a hit leaves from, if not from where the routes say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// This address of ours.
    pub source: Option<IpAddr>,
    /// This interface. Linux only.
    pub interface: Option<String>,
}

/// How a hit can fail.
#[derive(Debug)]
pub enum NotHit {
    /// There is no socket to be had, or it cannot leave from there.
    Socket(io::Error),
    /// The kernel would not send it.
    Send(io::Error),
}

/// Sends it. A TCP hit is one SYN: the socket is closed at once, so the kernel repeats nothing. A UDP hit carries one zero
/// byte, since some middle boxes drop empty datagrams.
///
/// # Errors
/// What the kernel says. That nobody listens there is no error: nobody needs to.
pub fn hit(to: SocketAddr, proto: Proto, from: &Origin) -> Result<(), NotHit> {
    let (kind, protocol) = match proto {
        Proto::Tcp => (Type::STREAM, Protocol::TCP),
        Proto::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(to), kind, Some(protocol)).map_err(NotHit::Socket)?;
    leave_from(&socket, from).map_err(NotHit::Socket)?;
    socket.set_nonblocking(true).map_err(NotHit::Socket)?;
    let to = SockAddr::from(to);
    match proto {
        Proto::Tcp => socket.connect(&to).or_else(|error| if under_way(&error) { Ok(()) } else { Err(error) }),
        Proto::Udp => socket.send_to(&[0], &to).map(drop),
    }
    .map_err(NotHit::Send)
}

fn leave_from(socket: &Socket, from: &Origin) -> io::Result<()> {
    if let Some(interface) = &from.interface {
        bind_interface(socket, interface)?;
    }
    if let Some(source) = from.source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn bind_interface(socket: &Socket, name: &str) -> io::Result<()> {
    socket.bind_device(Some(name.as_bytes()))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn bind_interface(_: &Socket, _: &str) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system cannot bind to an interface: give a source address"))
}

/// Whether the SYN has left: either no answer has come yet, or the answer of a host nearby was a RST.
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
        let from = Origin { source: Some("127.0.0.2".parse().unwrap()), ..Origin::default() };
        hit(server.local_addr().unwrap(), Proto::Udp, &from).unwrap();
        let mut buffer = [7; 8];
        let (length, peer) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], peer.ip().to_string().as_str()), (&[0][..], "127.0.0.2"));
    }

    #[test]
    fn a_tcp_hit_reaches_an_open_port_and_a_closed_one_is_no_error() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        hit(address, Proto::Tcp, &Origin::default()).unwrap();
        server.accept().unwrap();
        drop(server);
        hit(address, Proto::Tcp, &Origin::default()).unwrap();
    }

    #[test]
    fn what_cannot_leave_from_there_is_an_error() {
        let from = Origin { source: Some("192.0.2.99".parse().unwrap()), ..Origin::default() };
        assert!(matches!(hit("127.0.0.1:9".parse().unwrap(), Proto::Udp, &from), Err(NotHit::Socket(_))));
    }
}
