//! The parts that every poll loop needs: a set of descriptors, and signals as a descriptor.

use std::os::fd::BorrowedFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;

use crate::core::types::Boot;

#[derive(Default)]
pub struct PollSet<'a> {
    fds: Vec<PollFd<'a>>,
}

impl<'a> PollSet<'a> {
    /// Adds `fd`, to wait until it is readable.
    pub fn read(&mut self, fd: BorrowedFd<'a>) {
        self.add(fd, PollFlags::POLLIN);
    }

    /// Adds `fd`, to wait until it is readable, or also writable if `written`.
    pub fn read_and_write(&mut self, fd: BorrowedFd<'a>, written: bool) {
        let write = if written { PollFlags::POLLOUT } else { PollFlags::empty() };
        self.add(fd, PollFlags::POLLIN | write);
    }

    pub fn add(&mut self, fd: BorrowedFd<'a>, flags: PollFlags) {
        self.fds.push(PollFd::new(fd, flags));
    }

    /// Waits until a descriptor is ready or `deadline` has come; without a deadline, for ever. An
    /// interrupted wait returns early without an error.
    pub fn wait_until(&mut self, deadline: Option<Boot>, now: Boot) -> nix::Result<()> {
        self.wait(timeout(deadline, now))
    }

    /// Waits with a timeout in place of a deadline.
    pub fn wait(&mut self, timeout: PollTimeout) -> nix::Result<()> {
        match poll(&mut self.fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits so many nanoseconds, or until a descriptor is ready.
    pub fn rest(&mut self, nanos: u32) -> nix::Result<()> {
        match ppoll(&mut self.fds, Some(TimeSpec::new(0, nanos.into())), None) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// True if the descriptor added as number `index` was ready after the last wait.
    pub fn is_ready(&self, index: usize) -> bool {
        self.fds.get(index).and_then(PollFd::any).unwrap_or(true)
    }
}

/// The time until `deadline`, rounded up: waking up too early would spin.
fn timeout(deadline: Option<Boot>, now: Boot) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let millis = deadline.0.saturating_sub(now.0).div_ceil(1_000_000);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
}

/// Blocks these signals in this thread and returns a descriptor for them.
pub fn signals(signals: &[Signal]) -> nix::Result<SignalFd> {
    let mask = SigSet::from_iter(signals.iter().copied());
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

pub fn next_signal(signals: &SignalFd) -> Option<Signal> {
    loop {
        let number = signals.read_signal().ok()??.ssi_signo;
        if let Ok(signal) = Signal::try_from(number.cast_signed()) {
            return Some(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_with_something_left_to_send_is_waited_for_both_ways() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let events = |written| {
            let mut set = PollSet::default();
            set.read_and_write(file.as_fd(), written);
            set.fds[0].events()
        };
        assert_eq!(events(false), PollFlags::POLLIN);
        assert_eq!(events(true), PollFlags::POLLIN | PollFlags::POLLOUT);
    }

    #[test]
    fn only_what_is_ready_is_told_to_be() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (quiet, _other) = UnixStream::pair().unwrap();
        theirs.write_all(b"x").unwrap();
        let mut set = PollSet::default();
        set.read(quiet.as_fd());
        set.read(ours.as_fd());
        set.wait_until(Some(Boot(u64::MAX)), Boot(0)).unwrap();
        assert_eq!([0, 1].map(|index| set.is_ready(index)), [false, true]);
    }

    #[test]
    fn a_wait_is_never_shorter_than_it_should_be_and_ends_at_its_deadline() {
        let timeout = |deadline, now| timeout(Some(Boot(deadline)), Boot(now));
        assert_eq!(timeout(1, 0), PollTimeout::from(1u8));
        assert_eq!(timeout(1_000_001, 0), PollTimeout::from(2u8));
        assert_eq!(timeout(5, 9), PollTimeout::ZERO);
        assert_eq!(super::timeout(None, Boot(9)), PollTimeout::NONE);
    }
}
