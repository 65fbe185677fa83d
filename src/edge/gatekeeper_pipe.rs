//! The pipe between gatekeeper and listener: messages over SOCK_SEQPACKET.
//!
//! After set-up neither end ever waits for the other. Messages that do not fit into the kernel's
//! buffer are queued, up to [`QUEUE`]. If the queue is full, the sender gets an error.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    UnixCredentials, getsockopt, recv, recvmsg, sendmsg, setsockopt, socket, socketpair, sockopt,
};
use nix::unistd::geteuid;
use zeroize::{Zeroize, Zeroizing};

use super::sys;
use crate::core::types::{Fault, Reject};

mod fields;
mod layout;
mod messages;
#[cfg(test)]
mod tests;

pub use messages::{ADDRESSES, CLIENTS, FILTER_STEPS, OwnAddress, Tally, ToGatekeeper, ToListener};

/// The most messages that are queued for a full pipe.
pub const QUEUE: usize = 4096;
/// Bytes of the longest message: [`CLIENTS`] clients.
const LONGEST: usize = 16 << 10;
/// Bytes of the longest other message.
const SHORT: usize = 320;

/// One direction of the pipe.
pub trait Message: Sized {
    /// Bytes of its longest message.
    const LONGEST: usize;
    fn encode(self) -> EncodedMessage;
    /// Reads a message; `None` if these bytes are none. Any bytes may come.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// The bytes of a message, at most [`Message::LONGEST`]. Wiped when dropped.
pub type EncodedMessage = Zeroizing<Vec<u8>>;

/// Why a pipe cannot be used any more.
#[derive(Debug, PartialEq, Eq)]
pub enum PipeError {
    Closed,
    /// The other end does not read: [`QUEUE`] messages are queued already.
    Full,
    /// The other end does not answer in time.
    Silent,
    /// The other end sent something that is no message: count it, and do not trust it any more.
    Nonsense(Reject),
    /// The kernel's error number.
    System(i32),
}

impl fmt::Display for PipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PipeError::Closed => f.write_str("its end of the pipe is closed"),
            PipeError::Full => f.write_str("it does not read"),
            PipeError::Silent => f.write_str("it does not answer"),
            PipeError::Nonsense(_) => f.write_str("it sent an invalid message"),
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

/// One end: sends `Out`, receives `In`.
pub struct Pipe<Out, In> {
    socket: OwnedFd,
    queue: VecDeque<EncodedMessage>,
    /// Holds one message and a byte that shows if one is too long. Wiped after each message.
    buffer: Vec<u8>,
    direction: PhantomData<(Out, In)>,
}

pub type GatekeeperEnd = Pipe<ToListener, ToGatekeeper>;
pub type ListenerEnd = Pipe<ToGatekeeper, ToListener>;

/// A process at the other end of the pipe, by the kernel's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProcess {
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
}

const FLAGS: SockFlag = SockFlag::SOCK_CLOEXEC.union(SockFlag::SOCK_NONBLOCK);

/// A new pipe: the gatekeeper's end, and the listener's future descriptor 0. Both close-on-exec.
pub fn pair() -> Result<(GatekeeperEnd, OwnedFd), Fault> {
    let made = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, FLAGS);
    let (ours, theirs) = made.map_err(no_pipe)?;
    setsockopt(&ours, sockopt::PassCred, &true).map_err(no_pipe)?;
    Ok((Pipe::new(ours), theirs))
}

/// The gatekeeper's end of a pipe to a listener that is started for it by whoever holds the socket
/// at `path`: root or this user. Never waits.
pub fn connect(path: &Path) -> Result<GatekeeperEnd, Fault> {
    let ours = socket(AddressFamily::Unix, SockType::SeqPacket, FLAGS, None).map_err(no_pipe)?;
    // Before the first message: the kernel says of each who sent it.
    setsockopt(&ours, sockopt::PassCred, &true).map_err(no_pipe)?;
    UnixAddr::new(path)
        .and_then(|address| nix::sys::socket::connect(ours.as_raw_fd(), &address))
        .map_err(|errno| no_listener_socket(path, errno))?;
    // Who made it may have any process read our keys.
    let holder = getsockopt(&ours, sockopt::PeerCredentials).map_err(no_pipe)?.uid();
    if holder != 0 && holder != geteuid().as_raw() {
        let what = format!("the socket {} belongs to user {holder}", path.display());
        return Err(Fault::new(what, "it must be root's: what listens there gets the keys"));
    }
    Ok(Pipe::new(ours))
}

fn no_pipe(errno: nix::Error) -> Fault {
    let what = format!("no pipe to the listener: {}", io::Error::from(errno));
    Fault::new(what, "see the kernel's reason")
}

fn no_listener_socket(path: &Path, errno: nix::Error) -> Fault {
    let what = format!("no listener at the socket {}: {}", path.display(), errno.desc());
    let remedy = match errno {
        nix::Error::EAGAIN => "whoever holds that socket does not answer: is systemd overloaded?",
        _ => "`systemctl start toctoc-listener.socket`; or leave out --listener-socket",
    };
    Fault::new(what, remedy)
}

impl<Out: Message, In: Message> Pipe<Out, In> {
    /// An end on `socket`, a SOCK_SEQPACKET socket.
    pub fn new(socket: OwnedFd) -> Self {
        let buffer = vec![0; In::LONGEST + 1];
        Self { socket, queue: VecDeque::new(), buffer, direction: PhantomData }
    }

    /// Sends `message`, or queues it if the pipe is full. With [`PipeError::Full`] only the message
    /// is lost. After any other error the pipe cannot be used any more.
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

    /// Sends queued messages while there is room. Call it when the pipe is writable.
    pub fn flush(&mut self) -> Result<(), PipeError> {
        while let Some(message) = self.queue.front() {
            let parts = [IoSlice::new(message)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match sendmsg::<()>(self.socket.as_raw_fd(), &parts, &[], flags, None) {
                Ok(_) => drop(self.queue.pop_front()),
                Err(nix::Error::EAGAIN) => return Ok(()),
                Err(nix::Error::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The number of queued messages. Poll for POLLOUT if there are any.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Waits until the queue is empty, for set-up only. `Full` if that takes more than `patience`.
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

    /// The next message. Never waits.
    pub fn receive(&mut self) -> Result<Option<In>, PipeError> {
        // There is no room for descriptors, and the kernel closes any that is sent: a taken-over
        // listener cannot fill the gatekeeper's table of descriptors.
        let received = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT);
        self.take(received)
    }

    fn take(&mut self, received: nix::Result<usize>) -> Result<Option<In>, PipeError> {
        match received {
            Ok(0) => Err(PipeError::Closed),
            Ok(length) => {
                let bytes = &mut self.buffer[..length];
                let message = if length > In::LONGEST { None } else { In::decode(bytes) };
                bytes.zeroize();
                message.map(Some).ok_or(PipeError::Nonsense(Reject::Pipe))
            }
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A message before the listener is ready.
#[derive(Debug)]
pub struct FirstMessage {
    pub message: ToGatekeeper,
    pub from: PeerProcess,
    /// The descriptor beside it.
    pub beside: Option<OwnedFd>,
}

impl GatekeeperEnd {
    /// The next message, and who sent it. Never waits. Unless it `may_have` a descriptor beside it,
    /// one breaks the pipe, and is not opened: there is no room for it.
    pub fn receive_from(&mut self, may_have: bool) -> Result<Option<FirstMessage>, PipeError> {
        let mut room = match may_have {
            true => cmsg_space!(UnixCredentials, RawFd),
            false => cmsg_space!(UnixCredentials),
        };
        let mut parts = [IoSliceMut::new(&mut self.buffer)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let mut peer = None;
        let mut beside = None;
        let received =
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut room), flags) {
                Ok(message) => {
                    for control in message.cmsgs()? {
                        match control {
                            ControlMessageOwned::ScmCredentials(sender) => {
                                let pid = sender.pid().cast_unsigned();
                                let (uid, gid) = (sender.uid(), sender.gid());
                                peer = Some(PeerProcess { pid, uid, gid });
                            }
                            // There may be room for two; the other is closed.
                            rights => beside = sys::received(rights).into_iter().next(),
                        }
                    }
                    Ok(message.bytes)
                }
                Err(errno) => Err(errno),
            };
        let Some(message) = self.take(received)? else { return Ok(None) };
        let from = peer.ok_or(PipeError::Nonsense(Reject::Pipe))?;
        Ok(Some(FirstMessage { message, from, beside }))
    }
}

impl ListenerEnd {
    /// Sends `message` with a descriptor beside it, which stays ours too. Only before the listener
    /// is confined. Fails if the pipe is full.
    pub fn send_with(
        &self, message: ToGatekeeper, descriptor: BorrowedFd<'_>,
    ) -> Result<(), PipeError> {
        let (bytes, raw) = (message.encode(), [descriptor.as_raw_fd()]);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let rights = [ControlMessage::ScmRights(&raw)];
        sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(&bytes)], &rights, flags, None)?;
        Ok(())
    }
}

impl<Out, In> AsFd for Pipe<Out, In> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
