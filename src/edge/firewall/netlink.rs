//! One open netlink socket for batches, which succeed or fail as a whole, and for complete dumps.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_netfilter::NetfilterMessageInner::NfTables;
use netlink_packet_netfilter::conntrack::ConntrackMessage;
use netlink_packet_netfilter::nftables::NfTablesMessage;
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

use crate::core::types::Fault;

/// The subsystem number for batches.
const NF_TABLES: u16 = 10;
/// The flag of a dump that a change of the ruleset has interrupted: the dump is useless.
const DUMP_INTERRUPTED: u16 = 0x10;
/// The most attempts after errors that mean "try again".
const TRIES: usize = 16;
/// Bytes; larger than any single netlink message of the kernel.
const BUFFER: usize = 64 * 1024;

pub(super) struct Netlink {
    socket: Socket,
    port: u32,
    sequence: u32,
}

/// One message of a batch, with its flags.
pub(super) type BatchItem = (NfTablesMessage, u16);

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
        Ok(Netlink { socket, port: address.port_number(), sequence: 0 })
    }

    /// The netlink port under which the kernel announces changes by this socket.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Runs `steps` in one transaction. An error means that nothing has changed.
    pub(super) fn batch(&mut self, steps: &[BatchItem]) -> Result<(), Errno> {
        if steps.is_empty() {
            return Ok(());
        }
        again(|| self.batch_once(steps))
    }

    fn batch_once(&mut self, steps: &[BatchItem]) -> Result<(), Errno> {
        let mut buffer = Vec::with_capacity(steps.len() * 160 + 40);
        self.push(&mut buffer, control(ControlMessage::BatchBegin), 0);
        let first = self.sequence;
        for (index, (message, flags)) in steps.iter().enumerate() {
            // The kernel reports each failed step. The last step asks for an answer in any case.
            let ack = if index + 1 == steps.len() { NLM_F_ACK } else { 0 };
            self.push(&mut buffer, inner(message.clone()), flags | ack);
        }
        let last = self.sequence;
        self.push(&mut buffer, control(ControlMessage::BatchEnd), 0);
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
            for message in messages(&datagram) {
                let about = message.header.sequence_number;
                let NetlinkPayload::Error(answer) = message.payload else { continue };
                if about == last {
                    verdict = Ok(());
                }
                if let Some(code) = answer.code
                    && (first..=last).contains(&about)
                {
                    error.get_or_insert(Errno::from_raw(code.get().saturating_neg()));
                }
            }
        }
        error.map_or(verdict, Err)
    }

    /// The messages that answer `request`, sent as a dump.
    pub(super) fn dump(
        &mut self, request: &NfTablesMessage,
    ) -> Result<Vec<NfTablesMessage>, Errno> {
        again(|| self.ask(inner(request.clone()), NLM_F_DUMP)).map(tables)
    }

    pub(super) fn get(&mut self, request: &NfTablesMessage) -> Result<Vec<NfTablesMessage>, Errno> {
        again(|| self.ask(inner(request.clone()), NLM_F_ACK)).map(tables)
    }

    pub(super) fn connections(
        &mut self, request: &ConntrackMessage,
    ) -> Result<Vec<NetfilterMessage>, Errno> {
        again(|| self.ask(track(NetfilterProtoFamily::Unspec, request), NLM_F_DUMP))
    }

    /// Changes one connection; ENOENT if it does not exist.
    pub(super) fn order(
        &mut self, family: NetfilterProtoFamily, order: &ConntrackMessage,
    ) -> Result<(), Errno> {
        again(|| self.ask(track(family, order), NLM_F_ACK)).map(drop)
    }

    /// Creates a connection's entry; EEXIST if it exists.
    pub(super) fn create(
        &mut self, family: NetfilterProtoFamily, order: &ConntrackMessage,
    ) -> Result<(), Errno> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        again(|| self.ask(track(family, order), flags)).map(drop)
    }

    fn ask(
        &mut self, request: NetfilterMessage, flags: u16,
    ) -> Result<Vec<NetfilterMessage>, Errno> {
        let mut buffer = Vec::new();
        self.push(&mut buffer, request, flags);
        self.drain()?;
        self.send(&buffer)?;
        let mut found = Vec::new();
        let mut intact = true;
        while let Some(datagram) = self.receive()? {
            for message in messages(&datagram) {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                intact &= message.header.flags & DUMP_INTERRUPTED == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => found.push(answer),
                    NetlinkPayload::Error(answer) => {
                        finish(answer.code.map_or(0, |code| code.get()))?;
                    }
                    NetlinkPayload::Done(done) => finish(done.code)?,
                    _ => {}
                }
            }
        }
        if intact { Ok(found) } else { Err(Errno::EINTR) }
    }

    fn push(&mut self, buffer: &mut Vec<u8>, message: NetfilterMessage, flags: u16) {
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        append(buffer, message, flags | NLM_F_REQUEST, self.sequence);
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

/// Splits a datagram into its messages; stops at the first wrong length.
pub(super) fn split(datagram: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(rest).ok()?;
        let length = usize::try_from(message.length()).ok()?;
        let this = rest.get(..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(NetlinkBuffer::new(this))
    })
}

fn messages(datagram: &[u8]) -> impl Iterator<Item = NetlinkMessage<NetfilterMessage>> {
    split(datagram).filter_map(|message| NetlinkMessage::deserialize(message.into_inner()).ok())
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

fn finish(code: i32) -> Result<(), Errno> {
    if code == 0 { Ok(()) } else { Err(Errno::from_raw(code.saturating_neg())) }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn tables(answers: Vec<NetfilterMessage>) -> Vec<NfTablesMessage> {
    let mut tables = Vec::new();
    for answer in answers {
        if let NfTables(inner) = answer.inner {
            tables.push(inner);
        }
    }
    tables
}

fn track(family: NetfilterProtoFamily, message: &ConntrackMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message.clone())
}

fn control(message: ControlMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NF_TABLES), message)
}

fn inner(message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0), message)
}

fn append<I: NetlinkSerializable>(buffer: &mut Vec<u8>, message: I, flags: u16, sequence: u32) {
    let mut message =
        NetlinkMessage::new(Default::default(), NetlinkPayload::InnerMessage(message));
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let start = buffer.len();
    buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
    if let Some(place) = buffer.get_mut(start..) {
        message.serialize(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_framed_by_begin_and_end_of_nf_tables() {
        let mut buffer = Vec::new();
        append(&mut buffer, control(ControlMessage::BatchBegin), NLM_F_REQUEST, 7);
        assert_eq!(buffer, [20, 0, 0, 0, 16, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10]);
    }

    #[test]
    fn a_datagram_with_a_lying_length_ends_there() {
        let mut buffer = Vec::new();
        append(&mut buffer, control(ControlMessage::BatchBegin), 0, 1);
        append(&mut buffer, control(ControlMessage::BatchEnd), 0, 2);
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
