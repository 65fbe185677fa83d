//! What the process asks of the kernel for itself before it serves: signals as a descriptor,
//! secrets kept. Which rights it gives up is left to `rights`.

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};

use crate::core::types::Fault;

/// The signals that we take as descriptors; blocked, so that none interrupts a commit.
pub(super) fn signals() -> Result<SignalFd, Fault> {
    let mut mask = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD]
        .into_iter()
        .for_each(|signal| mask.add(signal));
    mask.thread_block()
        .and_then(|()| SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC))
        .map_err(|e| {
            Fault::new(
                format!("signals cannot be taken as a descriptor: {e}"),
                "the kernel needs CONFIG_SIGNALFD",
            )
        })
}

/// Neither a core file nor another process of this user gets to see the keys, and no file is made
/// for others to read. The umask as it was: that is for the commands of doors.
pub(super) fn keep_secrets() -> Result<Mode, Fault> {
    let before = umask(Mode::from_bits_truncate(0o077));
    set_dumpable(false)
        .and_then(|()| setrlimit(Resource::RLIMIT_CORE, 0, 0))
        .map(|()| before)
        .map_err(|e| {
            Fault::new(
                format!("the keys cannot be kept out of core files: {e}"),
                "is this Linux, and not a restricted container?",
            )
        })
}
