//! The pipe between knockd's daemon and its runner: one JSON text a message, both ends ours and
//! equally trusted. What an order means is left to `app::compat::runner`.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::classic_log::Sinks;

/// Orders that wait at most while the runner is busy with its disk.
const QUEUE: usize = 4096;
/// No message is longer: two commands of 4 KiB, each byte of which JSON may have to escape, and a
/// door's name.
const LONGEST: usize = 64 * 1024;

/// From the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToRunner {
    /// Lines go there from now on.
    Log(Sinks),
    /// A door is open for this knocker. Answered by one [`FromRunner::Over`].
    Open(RunRequest),
}

/// The commands of one opening.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunRequest {
    /// The door's name.
    pub door: String,
    /// Who knocked.
    pub source: IpAddr,
    /// The same for log lines, with the host name if it was looked up.
    pub who: String,
    /// The start command, `%IP%` still in it.
    pub start: String,
    /// The stop command.
    pub stop: Option<String>,
    /// Seconds between the two.
    pub timeout: i64,
}

/// From the runner.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromRunner {
    /// An opening is over: its last command has ended, or none ran.
    Over,
}

/// One end.
pub struct RunnerPipe {
    socket: OwnedFd,
    queue: VecDeque<Vec<u8>>,
}

/// What came of a look at the pipe.
#[derive(Debug)]
pub enum Received<T> {
    /// This.
    Message(T),
    /// Nothing for now.
    Nothing,
    /// The other end is gone, or speaks no language of ours.
    Closed,
}

/// A new pipe: this end, and the socket that the other process finds as its standard input.
///
/// # Errors
/// The kernel's.
pub fn pair() -> io::Result<(RunnerPipe, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    Ok((RunnerPipe::new(ours), theirs))
}

impl RunnerPipe {
    /// An end over `socket`.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, queue: VecDeque::new() }
    }

    /// Sends, or queues what the other end has no room for now. Whether it was taken.
    pub fn send(&mut self, message: &impl Serialize) -> bool {
        match serde_json::to_vec(message) {
            Ok(bytes) if bytes.len() <= LONGEST && self.queue.len() < QUEUE => {
                self.queue.push_back(bytes);
                self.flush();
                true
            }
            _ => false,
        }
    }

    /// Sends what is queued, as far as there is room. An end that is gone is noticed when it is
    /// read.
    pub fn flush(&mut self) {
        while let Some(bytes) = self.queue.front() {
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(_) => drop(self.queue.pop_front()),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// How many messages wait for room.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The next message, without waiting for one.
    pub fn receive<T: DeserializeOwned>(&self) -> Received<T> {
        let mut buffer = vec![0; LONGEST];
        match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Received::Closed,
            Ok(length) => buffer
                .get(..length)
                .and_then(|text| serde_json::from_slice(text).ok())
                .map_or(Received::Closed, Received::Message),
            Err(Errno::EAGAIN | Errno::EINTR) => Received::Nothing,
            Err(_) => Received::Closed,
        }
    }
}

impl AsFd for RunnerPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_arrive_whole_and_in_order_even_through_a_full_pipe() {
        let (mut ours, theirs) = pair().unwrap();
        let theirs = RunnerPipe::new(theirs);
        let order = |n: i64| RunRequest {
            door: "d\n\"".into(),
            source: "::ffff:192.0.2.1".parse().unwrap(),
            who: "::ffff:192.0.2.1 (host.example)".into(),
            start: "\u{1}".repeat(4095),
            stop: Some(String::new()),
            timeout: n,
        };
        for n in 0..200 {
            assert!(ours.send(&ToRunner::Open(order(n))));
        }
        assert!(ours.waiting() > 0, "the pipe is full");
        for n in 0..200 {
            ours.flush();
            match theirs.receive() {
                Received::Message(ToRunner::Open(came)) => {
                    assert_eq!((came.timeout, came.start.len()), (n, 4095))
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(theirs.receive::<ToRunner>(), Received::Nothing));
        drop(ours);
        assert!(matches!(theirs.receive::<ToRunner>(), Received::Closed));
    }
}
