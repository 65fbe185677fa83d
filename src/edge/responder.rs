//! Sockets in the twin in place of the host's: they take connections and datagrams, and note from
//! whom.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::twin::Way;
use crate::core::types::{Port, Proto};

/// Connections that may wait to be taken.
const BACKLOG: i32 = 1024;
/// Bytes that are read of a datagram.
pub const DATAGRAM: usize = 64;

/// A place to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub proto: Proto,
    /// An unspecified IPv6 address stands for both families.
    pub local: SocketAddr,
}

/// Something that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// A whole handshake.
    Connection {
        from: SocketAddr,
    },
    Datagram(Vec<u8>),
}

#[derive(Default)]
pub struct Responder {
    tcp: Vec<(u16, Socket)>,
    udp: Vec<(u16, UdpSocket)>,
}

impl Responder {
    /// Listens at these places, in this thread's network namespace. Returns those that cannot be
    /// had, too.
    pub fn listen(places: &[Place], ways: &[Way]) -> (Responder, Vec<Place>) {
        let mut responder = Responder::default();
        let mut failed = Vec::new();
        for place in places {
            let port = place.local.port();
            match (open(place, places, ways), place.proto) {
                (Ok(socket), Proto::Tcp) => responder.tcp.push((port, socket)),
                (Ok(socket), Proto::Udp) => responder.udp.push((port, socket.into())),
                (Err(_), _) => failed.push(*place),
            }
        }
        (responder, failed)
    }

    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let tcp = self.tcp.iter().map(|(_, socket)| socket.as_fd());
        tcp.chain(self.udp.iter().map(|(_, socket)| socket.as_fd()))
    }

    /// Takes what has arrived since the last call, each with the socket's port. Connections are
    /// reset at once.
    pub fn take(&self) -> Vec<(Port, Arrived)> {
        let mut arrived = Vec::new();
        for (number, socket) in &self.tcp {
            let port = Port { proto: Proto::Tcp, number: *number };
            while let Ok((stream, peer)) = socket.accept() {
                // So that no port waits for the end of a connection.
                let _ = stream.set_linger(Some(std::time::Duration::ZERO));
                let Some(from) = peer.as_socket() else { continue };
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                arrived.push((port, Arrived::Connection { from }));
            }
        }
        for (number, socket) in &self.udp {
            let port = Port { proto: Proto::Udp, number: *number };
            let mut buffer = [0; DATAGRAM];
            while let Ok((length, _)) = socket.recv_from(&mut buffer) {
                arrived.push((port, Arrived::Datagram(buffer[..length].to_vec())));
            }
        }
        arrived
    }
}

fn open(place: &Place, all: &[Place], ways: &[Way]) -> io::Result<Socket> {
    let (kind, protocol) = match place.proto {
        Proto::Tcp => (Type::STREAM, Protocol::TCP),
        Proto::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let local = with_interface(place.local, ways);
    let socket = Socket::new(Domain::for_address(local), kind, Some(protocol))?;
    // A host may have one socket for an address and another one for all.
    socket.set_reuse_port(true)?;
    if local.is_ipv6() {
        let any = SocketAddr::new(IpAddr::from([0; 4]), local.port());
        let has_v4 = all.contains(&Place { proto: place.proto, local: any });
        socket.set_only_v6(has_v4 || local.ip() != IpAddr::from(Ipv6Addr::UNSPECIFIED))?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    socket.bind(&local.into())?;
    if place.proto == Proto::Tcp {
        socket.listen(BACKLOG)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A link-local address means something together with its interface only.
fn with_interface(local: SocketAddr, ways: &[Way]) -> SocketAddr {
    let SocketAddr::V6(v6) = local else { return local };
    if !v6.ip().is_unicast_link_local() {
        return local;
    }
    let holds = |way: &&Way| way.addresses.iter().any(|net| net.address == local.ip());
    let index = ways.iter().find(holds).map_or(0, |way| way.index);
    SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, index))
}
