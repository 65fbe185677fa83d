//! A connect scan: which TCP ports of another machine answer. Needs no rights.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Connections that are tried at once.
const AT_ONCE: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortState {
    /// No answer in time, or a router's.
    Silent,
    /// Closed, and somebody is there.
    Refused,
    Open,
}

/// The state of each of these ports.
pub fn scan(host: IpAddr, ports: &[u16], patience: Duration) -> Vec<PortState> {
    let next = AtomicUsize::new(0);
    let mut states = vec![PortState::Silent; ports.len()];
    let work = || {
        let mut found = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(port) = ports.get(index) else { return found };
            found.push((index, state(SocketAddr::new(host, *port), patience)));
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE.min(ports.len())).map(|_| scope.spawn(work)).collect();
        for (index, state) in threads.into_iter().filter_map(|thread| thread.join().ok()).flatten()
        {
            states[index] = state;
        }
    });
    states
}

fn state(to: SocketAddr, patience: Duration) -> PortState {
    match TcpStream::connect_timeout(&to, patience) {
        Ok(_) => PortState::Open,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => PortState::Refused,
        Err(_) => PortState::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_open_and_a_closed_port_refuses() {
        let held = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let open = held.local_addr().unwrap().port();
        let closed = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let ports = [closed.local_addr().unwrap().port(), open];
        drop(closed);
        let states = scan([127, 0, 0, 1].into(), &ports, Duration::from_secs(10));
        assert_eq!(states, [PortState::Refused, PortState::Open]);
    }
}
