//! Orders to the kernel's routing netlink: one at a time, each with its answer. See `edge::routes`
//! for lists.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

use crate::core::bytes::saturated_u32;
use crate::edge::firewall::attributes::{Attributes, attributes, split};

const REQUEST_ACK: u16 = 0x5;
const ERROR: u16 = 2;
/// Bytes; an answer quotes the order that it refuses.
const BUFFER: usize = 64 * 1024;

pub(super) struct RouteSocket {
    socket: Socket,
    sequence: u32,
}

impl RouteSocket {
    /// Opens the socket in this thread's network namespace.
    pub(super) fn open() -> io::Result<RouteSocket> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(RouteSocket { socket, sequence: 0 })
    }

    /// Sends one order: its kind, more flags, and the kernel's struct with attributes behind it.
    pub(super) fn order(&mut self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(16 + payload.len());
        message.extend(saturated_u32(16 + payload.len()).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST_ACK | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(payload);
        self.socket.send(&message, 0)?;
        loop {
            let mut buffer = Vec::with_capacity(BUFFER);
            self.socket.recv(&mut buffer, 0)?;
            for answer in split(&buffer).filter(|one| one.sequence == self.sequence) {
                if answer.kind == ERROR {
                    return match answer.code() {
                        0 => Ok(()),
                        code => Err(Errno::from_raw(code.saturating_neg()).into()),
                    };
                }
            }
        }
    }
}

/// The payload without the attributes of these kinds. `head`: bytes of the kernel's struct.
pub(super) fn without(payload: &[u8], head: usize, kinds: &[u16]) -> Vec<u8> {
    let (head, body) = payload.split_at_checked(head).unwrap_or((payload, &[]));
    let mut kept = Attributes::default();
    for one in attributes(body).filter(|one| !kinds.contains(&one.kind)) {
        kept = kept.put(one.kind, one.value);
    }
    [head, kept.bytes()].concat()
}
