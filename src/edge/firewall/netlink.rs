//! One open netlink socket for batches, which succeed or fail as a whole, and for complete dumps.
//! See `attributes` for the bytes of a message.

use std::io;
use std::os::fd::AsFd;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt::SndBuf};

use super::attributes::{Attributes, HEADER, Received, split};
use crate::core::bytes::saturated_u32;
use crate::core::types::Fault;

/// The subsystems of netfilter: the high byte of a message's type.
pub(super) const NF_TABLES: u16 = 10;
pub(super) const CONNTRACK: u16 = 1;
pub(super) const INET: u8 = 1;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
/// The types of the messages that frame a batch, and of those that end an answer.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The flag of a dump that a change of the ruleset has interrupted.
const DUMP_INTERRUPTED: u16 = 0x10;
/// The most attempts after errors that mean "try again".
const TRIES: usize = 16;
/// Bytes; larger than any single netlink message of the kernel.
const BUFFER: usize = 64 * 1024;
/// Bytes of the largest batch that the kernel has to take.
const LARGEST_BATCH: usize = 1024 * 1024;

/// One request. Its kind is the subsystem and the number of the message in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) subsystem: u16,
    pub(super) number: u16,
    pub(super) flags: u16,
    pub(super) family: u8,
    pub(super) body: Attributes,
}

impl Message {
    /// A request about an object in a table of the `inet` family.
    pub(super) fn tables(number: u16, flags: u16, body: Attributes) -> Message {
        Message { subsystem: NF_TABLES, number, flags, family: INET, body }
    }
}

/// One message of an answer: its number in the subsystem, the address family, the attributes.
pub(super) struct Answer {
    pub(super) number: u16,
    pub(super) family: u8,
    pub(super) body: Vec<u8>,
}

pub(super) struct Netlink {
    socket: Socket,
    port: u32,
    sequence: u32,
}

impl Netlink {
    /// Opens the socket in this thread's network namespace.
    pub(super) fn open() -> Result<Netlink, Fault> {
        Self::bound().map_err(|error| {
            let what = format!("netlink socket: {error}");
            Fault::new(what, "run toctocd on a kernel with nf_tables (nfnetlink)")
        })
    }

    fn bound() -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let address = socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Without this an error returns the whole request, and many errors overflow the receive
        // buffer.
        socket.set_cap_ack(true)?;
        // The forced form ignores the system's limit, but needs CAP_NET_ADMIN.
        let fd = socket.as_fd();
        if setsockopt(&fd, nix::sys::socket::sockopt::SndBufForce, &LARGEST_BATCH).is_err() {
            setsockopt(&fd, SndBuf, &LARGEST_BATCH)?;
        }
        Ok(Netlink { socket, port: address.port_number(), sequence: 0 })
    }

    /// The netlink port under which the kernel announces changes by this socket.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Runs `steps` in one transaction. An error means that nothing has changed.
    pub(super) fn batch(&mut self, steps: &[Message]) -> Result<(), Errno> {
        if steps.is_empty() {
            return Ok(());
        }
        again(|| self.batch_once(steps))
    }

    fn batch_once(&mut self, steps: &[Message]) -> Result<(), Errno> {
        let mut buffer = Vec::with_capacity(steps.len() * 160 + 40);
        self.sequence = frame(&mut buffer, BATCH_BEGIN, self.sequence);
        let first = self.sequence;
        for (index, message) in steps.iter().enumerate() {
            // The kernel reports each failed step. The last step asks for an answer in any case.
            let ack = if index + 1 == steps.len() { ACK } else { 0 };
            self.push(&mut buffer, message, ack);
        }
        let last = self.sequence;
        self.sequence = frame(&mut buffer, BATCH_END, self.sequence);
        self.drain()?;
        self.send(&buffer)?;
        self.verdict(first, last)
    }

    /// Reads the kernel's answers, which are there once `send` returns. The first error counts; no
    /// answer to `last` is an error as well.
    fn verdict(&mut self, first: u32, last: u32) -> Result<(), Errno> {
        let mut verdict = Err(Errno::EIO);
        let mut error = None;
        while let Some(datagram) = self.receive()? {
            for message in split(&datagram).filter(|message| message.kind == ERROR) {
                if message.sequence == last {
                    verdict = Ok(());
                }
                if (first..=last).contains(&message.sequence)
                    && let Err(refused) = finish(&message)
                {
                    error.get_or_insert(refused);
                }
            }
        }
        error.map_or(verdict, Err)
    }

    /// All messages that answer `request`, sent as a dump.
    pub(super) fn dump(&mut self, request: &Message) -> Result<Vec<Answer>, Errno> {
        self.dump_as(request, Some)
    }

    /// What `read` keeps of the messages that answer `request`, sent as a dump. A long dump is
    /// never in memory as a whole.
    pub(super) fn dump_as<T>(
        &mut self, request: &Message, read: impl Fn(Answer) -> Option<T>,
    ) -> Result<Vec<T>, Errno> {
        again(|| {
            let (found, intact) = self.ask(request, DUMP, &read)?;
            if intact { Ok(found) } else { Err(Errno::EINTR) }
        })
    }

    /// The same, but a dump that a change has interrupted counts too: some objects that changed
    /// meanwhile may be missing or twice there. While knocks are answered, a long dump is never
    /// undisturbed.
    pub(super) fn dump_roughly(&mut self, request: &Message) -> Result<Vec<Answer>, Errno> {
        again(|| self.ask(request, DUMP, Some)).map(|(found, _)| found)
    }

    /// Sends one request: the answer to a question, nothing after an order.
    pub(super) fn get(&mut self, request: &Message) -> Result<Vec<Answer>, Errno> {
        again(|| self.ask(request, ACK, Some)).map(|(found, _)| found)
    }

    fn ask<T>(
        &mut self, request: &Message, flags: u16, read: impl Fn(Answer) -> Option<T>,
    ) -> Result<(Vec<T>, bool), Errno> {
        let mut buffer = Vec::new();
        self.push(&mut buffer, request, flags);
        self.drain()?;
        self.send(&buffer)?;
        let mut found = Vec::new();
        let mut intact = true;
        while let Some(datagram) = self.receive()? {
            for message in split(&datagram).filter(|one| one.sequence == self.sequence) {
                intact &= message.flags & DUMP_INTERRUPTED == 0;
                if message.kind == ERROR || message.kind == DONE {
                    finish(&message)?;
                } else {
                    found.extend(read(Answer {
                        number: message.kind & 0xff,
                        family: message.family(),
                        body: message.body().to_vec(),
                    }));
                }
            }
        }
        Ok((found, intact))
    }

    fn push(&mut self, buffer: &mut Vec<u8>, message: &Message, flags: u16) {
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        let kind = message.subsystem << 8 | message.number;
        let flags = message.flags | flags | REQUEST;
        header(buffer, kind, flags, self.sequence, message.body.len());
        buffer.extend([message.family, 0, 0, 0]);
        buffer.extend(message.body.bytes());
    }

    fn send(&self, buffer: &[u8]) -> Result<(), Errno> {
        self.socket.send(buffer, 0).map(drop).map_err(|error| errno(&error))
    }

    /// Discards the remains of an earlier exchange, so that they are not taken for an answer.
    fn drain(&self) -> Result<(), Errno> {
        while self.receive()?.is_some() {}
        Ok(())
    }

    fn receive(&self) -> Result<Option<Vec<u8>>, Errno> {
        receive(&self.socket)
    }
}

/// The next datagram, if one is waiting.
pub(super) fn receive(socket: &Socket) -> Result<Option<Vec<u8>>, Errno> {
    let mut buffer = Vec::with_capacity(BUFFER);
    match socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
        Ok(_) => Ok(Some(buffer)),
        Err(error) => match errno(&error) {
            Errno::EAGAIN => Ok(None),
            Errno::EINTR => receive(socket),
            other => Err(other),
        },
    }
}

/// Repeats an attempt that failed only because of a concurrent change.
fn again<T>(mut attempt: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    let mut outcome = attempt();
    for _ in 1..TRIES {
        match outcome {
            Err(Errno::EBUSY | Errno::ERESTART | Errno::EINTR | Errno::EAGAIN | Errno::ENOBUFS) => {
            }
            settled => return settled,
        }
        std::thread::yield_now();
        outcome = attempt();
    }
    outcome
}

/// The code of an acknowledgement, or of the end of a dump.
fn finish(message: &Received<'_>) -> Result<(), Errno> {
    match message.code() {
        0 => Ok(()),
        code => Err(Errno::from_raw(code.saturating_neg())),
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Appends the begin or the end of a batch; returns its sequence number.
fn frame(buffer: &mut Vec<u8>, kind: u16, last: u32) -> u32 {
    let sequence = last.checked_add(1).unwrap_or(1);
    header(buffer, kind, REQUEST, sequence, 0);
    let [high, low] = NF_TABLES.to_be_bytes();
    buffer.extend([0, 0, high, low]);
    sequence
}

/// Appends a header for a message with `length` bytes behind netfilter's own header.
fn header(buffer: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, length: usize) {
    let length = saturated_u32(HEADER + length);
    buffer.extend(length.to_ne_bytes());
    buffer.extend(kind.to_ne_bytes());
    buffer.extend(flags.to_ne_bytes());
    buffer.extend(sequence.to_ne_bytes());
    buffer.extend([0; 4]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_framed_by_begin_and_end_of_nf_tables() {
        let mut buffer = Vec::new();
        assert_eq!(frame(&mut buffer, BATCH_BEGIN, 6), 7);
        assert_eq!(buffer, [20, 0, 0, 0, 16, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10]);
    }

    #[test]
    fn a_datagram_with_a_lying_length_ends_there() {
        let mut buffer = Vec::new();
        frame(&mut buffer, BATCH_BEGIN, 0);
        frame(&mut buffer, BATCH_END, 1);
        assert_eq!(split(&buffer).count(), 2);
        for (length, expected) in [(0, 1), (15, 1), (21, 1), (u32::MAX, 1)] {
            buffer[20..24].copy_from_slice(&u32::to_ne_bytes(length));
            assert_eq!(split(&buffer).count(), expected, "{length}");
        }
        assert_eq!(split(&[1, 2, 3]).count(), 0);
    }

    #[test]
    fn only_refusals_that_mean_again_are_repeated_and_not_for_ever() {
        let mut count = 0;
        let mut fail = |error| {
            count = 0;
            let _ = again(|| -> Result<(), Errno> {
                count += 1;
                Err(error)
            });
            count
        };
        assert_eq!(fail(Errno::EBUSY), TRIES);
        assert_eq!(fail(Errno::ERESTART), TRIES);
        assert_eq!(fail(Errno::EPERM), 1);
    }
}
