//! Both ends of the privileged pipe: fixed-size messages over SOCK_SEQPACKET, each direction a
//! closed table. The tables are left to `messages`, what the messages cause to `app`.
//!
//! Neither end ever waits for the other once set-up is over: what does not fit into the kernel's
//! buffer is queued, up to [`QUEUE`], and an end whose other end does not read is told so.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair,
};
use zeroize::{Zeroize, Zeroizing};

use super::sys;
use crate::core::types::{Fault, Reject};

mod fields;
mod layout;
mod messages;
#[cfg(test)]
mod tests;

pub use messages::{ToGatekeeper, ToListener};

/// Messages that wait at most in front of a full pipe.
pub const QUEUE: usize = 4096;

/// No message is longer.
pub const LONGEST: usize = 320;

/// One direction of the pipe.
pub trait Message: Sized {
    /// Whether any of its messages brings a descriptor.
    const DESCRIPTORS: bool;

    /// The bytes, which are wiped when dropped, and the descriptor.
    fn encode(self) -> EncodedMessage;

    /// Reads what came; `None` if no message of this table looks like that. Any bytes may come.
    fn decode(bytes: &[u8], descriptor: Option<OwnedFd>) -> Option<Self>;
}

/// An encoded message.
pub struct EncodedMessage {
    /// Its bytes, at most [`LONGEST`].
    pub bytes: Zeroizing<Vec<u8>>,
    /// What travels with it.
    pub descriptor: Option<OwnedFd>,
}

/// Why a pipe is of no use any more.
#[derive(Debug, PartialEq, Eq)]
pub enum PipeError {
    /// The other end is gone.
    Closed,
    /// The other end does not read: [`QUEUE`] messages wait already.
    Full,
    /// The other end sent what is in no table: count it, and trust that end no more.
    Nonsense(Reject),
    /// The kernel's error number.
    System(i32),
}

impl fmt::Display for PipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PipeError::Closed => f.write_str("its end of the pipe is closed"),
            PipeError::Full => f.write_str("it does not read"),
            PipeError::Nonsense(_) => f.write_str("it sent what is no message"),
            PipeError::System(number) => io::Error::from_raw_os_error(*number).fmt(f),
        }
    }
}

impl From<io::Error> for PipeError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN) => PipeError::Closed,
            Some(number) => PipeError::System(number),
            None => PipeError::Nonsense(Reject::Pipe),
        }
    }
}

impl From<nix::Error> for PipeError {
    fn from(error: nix::Error) -> Self {
        io::Error::from(error).into()
    }
}

/// One end: sends `OutstandingChallenge`, receives `In`.
pub struct Pipe<Out, In> {
    socket: OwnedFd,
    queue: VecDeque<EncodedMessage>,
    direction: PhantomData<(Out, In)>,
}

/// The gatekeeper's end.
pub type GatekeeperEnd = Pipe<ToListener, ToGatekeeper>;
/// The listener's end.
pub type ListenerEnd = Pipe<ToGatekeeper, ToListener>;

/// A new pipe: the gatekeeper's end, and the socket that the listener must find as its descriptor
/// 0. Both close on exec.
///
/// # Errors
/// The kernel's.
pub fn pair() -> Result<(GatekeeperEnd, OwnedFd), Fault> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
        .map_err(|e| {
            Fault::new(
                format!("no pipe to the listener: {}", io::Error::from(e)),
                "the kernel says why",
            )
        })?;
    Ok((Pipe::new(ours), theirs))
}

impl<Out: Message, In: Message> Pipe<Out, In> {
    /// An end over `socket`, a SOCK_SEQPACKET one.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, queue: VecDeque::new(), direction: PhantomData }
    }

    /// Sends `message`, or queues it if the pipe is full.
    ///
    /// # Errors
    /// [`PipeError::Full`] if the queue is full as well: the message is dropped. Else the pipe is
    /// of no use any more.
    pub fn send(&mut self, message: Out) -> Result<(), PipeError> {
        if self.queue.len() >= QUEUE {
            self.flush()?;
        }
        if self.queue.len() >= QUEUE {
            return Err(PipeError::Full);
        }
        self.queue.push_back(message.encode());
        self.flush()
    }

    /// Sends what is queued, as far as the other end has room; to be called when the pipe can be
    /// written.
    ///
    /// # Errors
    /// The pipe is of no use any more.
    pub fn flush(&mut self) -> Result<(), PipeError> {
        while let Some(parcel) = self.queue.front() {
            match put(&self.socket, parcel) {
                Ok(()) => drop(self.queue.pop_front()),
                Err(nix::Error::EAGAIN) => return Ok(()),
                Err(nix::Error::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// How many messages wait for the other end; ask for POLLOUT if there are any.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Waits until all that was sent is on its way; for set-up only.
    ///
    /// # Errors
    /// [`PipeError::Full`] if the other end has not read within `patience`. Else the pipe is of no
    /// use any more.
    pub fn drain(&mut self, patience: Duration) -> Result<(), PipeError> {
        let deadline = Instant::now() + patience;
        self.flush()?;
        while self.waiting() > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(PipeError::Full);
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)], timeout) {
                Ok(_) | Err(nix::Error::EINTR) => self.flush()?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The next message that has come, without waiting for one.
    ///
    /// # Errors
    /// The pipe is of no use any more.
    pub fn receive(&mut self) -> Result<Option<In>, PipeError> {
        let mut buffer = [0; LONGEST + 1];
        let message = self.receive_into(&mut buffer);
        buffer.zeroize();
        message
    }

    fn receive_into(&self, buffer: &mut [u8; LONGEST + 1]) -> Result<Option<In>, PipeError> {
        let (length, descriptor) = match get::<In>(&self.socket, buffer) {
            Ok(got) => got,
            Err(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(e.into()),
        };
        if length == 0 {
            return Err(PipeError::Closed);
        }
        let message =
            buffer.get(..length.min(LONGEST)).and_then(|bytes| In::decode(bytes, descriptor));
        message.map(Some).ok_or(PipeError::Nonsense(Reject::Pipe))
    }
}

impl<Out, In> AsFd for Pipe<Out, In> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn put(socket: &OwnedFd, parcel: &EncodedMessage) -> nix::Result<()> {
    let raw = parcel.descriptor.as_ref().map(|fd| [fd.as_raw_fd()]);
    let rights = raw.as_ref().map(|raw| [ControlMessage::ScmRights(raw)]);
    let control = rights.as_ref().map_or(&[][..], |rights| rights);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&parcel.bytes)], control, flags, None)
        .map(drop)
}

/// Where no descriptor can come there is no room for one, and the kernel throws away what is sent
/// along: a listener that somebody took over cannot fill the gatekeeper's table.
fn get<In: Message>(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    if In::DESCRIPTORS {
        sys::receive(socket.as_fd(), buffer)
    } else {
        Ok((recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?, None))
    }
}
