//! Signs of life from a host that does not answer a knock.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// TCP ports that most hosts open or refuse, besides the one with the knock port's number.
const TCP_PORTS: [u16; 3] = [22, 443, 80];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignOfLife {
    /// The host refuses the UDP port: no program uses it.
    UdpRefused,
    /// The host opens or refuses this TCP port.
    Tcp(u16),
    None,
}

/// Sends one byte to a UDP port, which is no knock, and tries some TCP ports. Takes `patience` at
/// most if nothing comes back.
pub fn sign_of_life(port: SocketAddr, patience: Duration) -> SignOfLife {
    let (sender, signs) = channel();
    for number in TCP_PORTS.into_iter().chain([port.port()]) {
        let sender = sender.clone();
        let to = SocketAddr::new(port.ip(), number);
        thread::spawn(move || {
            if answers_tcp(to, patience) {
                // Nobody waits any more if another sign came first.
                let _ = sender.send(SignOfLife::Tcp(number));
            }
        });
    }
    drop(sender);
    // It says more than an answer over TCP.
    if refuses_udp(port, patience).unwrap_or(false) {
        return SignOfLife::UdpRefused;
    }
    signs.recv().unwrap_or(SignOfLife::None)
}

fn answers_tcp(to: SocketAddr, patience: Duration) -> bool {
    match TcpStream::connect_timeout(&to, patience) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionRefused,
    }
}

fn refuses_udp(port: SocketAddr, patience: Duration) -> io::Result<bool> {
    let any: IpAddr = match port {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(port)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(&[0])?;
    match socket.recv(&mut [0]) {
        Ok(_) => Ok(false),
        Err(error) => Ok(error.kind() == ErrorKind::ConnectionRefused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(300);

    #[test]
    fn a_udp_port_is_refused_or_the_host_answers_over_tcp() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap();
        assert!(matches!(sign_of_life(port, PATIENCE), SignOfLife::Tcp(_)), "somebody listens");
        drop(socket);
        assert_eq!(sign_of_life(port, PATIENCE), SignOfLife::UdpRefused);
    }
}
