//! The pipe between knockd's daemon and its runner, both trusted: each message is one JSON text.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::classic_log::Sinks;

/// The most messages that wait while the runner is busy with its disk.
const QUEUE: usize = 4096;
/// Bytes of the longest message: two commands of 4 KiB in JSON, every byte escaped, and a name.
const LONGEST: usize = 64 * 1024;

#[derive(Debug, Serialize, Deserialize)]
pub enum ToRunner {
    Log(Sinks),
    /// A door opened. Once that is over, because its last command ended or none ran, the runner
    /// replies with `()`.
    Open(RunRequest),
}

#[derive(Debug, Serialize, Deserialize)]
pub struct RunRequest {
    pub door: String,
    pub source: IpAddr,
    /// The source in log lines, with the host name if it was looked up.
    pub who: String,
    /// The start command, with `%IP%` not yet replaced.
    pub start: String,
    pub stop: Option<String>,
    pub timeout: i64,
}

pub struct RunnerPipe {
    socket: OwnedFd,
    queue: VecDeque<Vec<u8>>,
}

/// A new pipe: our end, and the socket that becomes the standard input of the other process.
pub fn pair() -> io::Result<(RunnerPipe, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    Ok((RunnerPipe::new(ours), theirs))
}

impl RunnerPipe {
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, queue: VecDeque::new() }
    }

    /// Sends, or queues if the pipe is full. False if the queue is full too.
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

    /// Sends queued messages while there is room. See `receive` for an end that is gone.
    pub fn flush(&mut self) {
        while let Some(bytes) = self.queue.front() {
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(_) => drop(self.queue.pop_front()),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The next message. Never waits. Fails if the other end is gone, or sent something that is no
    /// message.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        let mut buffer = vec![0; LONGEST];
        match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            // An empty text is no message: it means that the other end is gone.
            Ok(length) => {
                let message = serde_json::from_slice(buffer.get(..length).unwrap_or_default())?;
                Ok(Some(message))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
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
    fn requests_arrive_whole_and_in_order_even_through_a_full_pipe() {
        let (mut ours, theirs) = pair().unwrap();
        let theirs = RunnerPipe::new(theirs);
        let request = |n: i64| RunRequest {
            door: "d\n\"".into(),
            source: "::ffff:192.0.2.1".parse().unwrap(),
            who: "::ffff:192.0.2.1 (host.example)".into(),
            start: "\u{1}".repeat(4095),
            stop: Some(String::new()),
            timeout: n,
        };
        for n in 0..200 {
            assert!(ours.send(&ToRunner::Open(request(n))));
        }
        assert!(ours.waiting() > 0, "the pipe is full");
        for n in 0..200 {
            ours.flush();
            match theirs.receive() {
                Ok(Some(ToRunner::Open(request))) => {
                    assert_eq!((request.timeout, request.start.len()), (n, 4095));
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(theirs.receive::<ToRunner>(), Ok(None)));
        drop(ours);
        assert!(theirs.receive::<ToRunner>().is_err());
    }
}
