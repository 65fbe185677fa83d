//! The only `unsafe` in the house: the few kernel calls that no crate wraps.
//! Policy is left to everybody else.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::stat::Mode;
use nix::unistd::{getpid, getppid};

/// From here on the filter of `socket` can be neither changed nor removed, whatever becomes of this process
/// (SO_LOCK_FILTER).
///
/// # Errors
/// The kernel's.
pub fn lock_filter(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: c_int = 1;
    // SAFETY: the option takes an int, and `on` is one that lives through the call; the length given is its size.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LOCK_FILTER,
            (&raw const on).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes descriptor 0 over, once in the life of a process; `None` afterwards. Only for a program that was started to find
/// its pipe there and that reads no standard input.
pub fn take_stdin() -> Option<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) || nix::fcntl::fcntl(io::stdin(), nix::fcntl::FcntlArg::F_GETFD).is_err() {
        return None;
    }
    // SAFETY: descriptor 0 is open, as was just asked, and nobody else in this program closes it: std never does, and
    // this function hands it out once.
    Some(unsafe { OwnedFd::from_raw_fd(0) })
}

/// Closes every descriptor from 3 on that this process was born with. To be called first thing, before anything of ours
/// is open: whoever started the gateway may have left something open that the listener must not hold.
///
/// # Errors
/// The kernel's; before 5.9 it has no such call.
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: takes three integers. Nothing in this process owns a descriptor from 3 on yet: that is what callers promise
    // by calling it first, and a wrong promise breaks descriptors, not memory.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The process that `command` starts has no signal blocked, although we take ours as descriptors and block them; and it has
/// `umask`, if one is given, while ours stays as it is: there is no moment at which a file of ours is made with another.
/// If it is `tied` to us it does not outlive us: it, not what it has started, is killed when the thread that starts it ends.
pub fn start_afresh(command: &mut Command, umask: Option<Mode>, tied: bool) {
    let none = SigSet::empty();
    let parent = getpid();
    let set = move || {
        if tied {
            set_pdeathsig(Signal::SIGKILL)?;
            // Who ended before that was set is not noticed by the kernel.
            if getppid() != parent {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        if let Some(umask) = umask {
            // SAFETY: takes an integer, has no way to fail, and is async-signal-safe.
            unsafe { libc::umask(umask.bits()) };
        }
        none.thread_set_mask().map_err(io::Error::from)
    };
    // SAFETY: between fork and exec only these system calls are made: no memory is allocated and no lock taken.
    unsafe { command.pre_exec(set) };
}

/// One message from a SOCK_SEQPACKET socket, without waiting, and at most one descriptor with it. `Ok((0, None))` = the other end is closed.
///
/// # Errors
/// The kernel's, `WouldBlock` among them; `InvalidData` if the message did not fit or brought more than one descriptor:
/// those are closed.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just opened these for us; nobody else knows their numbers.
            descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let cut = message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
    if cut || descriptors.len() > 1 {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    Ok((message.bytes, descriptors.pop()))
}

/// How many packets `socket` has lost for want of room since this was last asked (PACKET_STATISTICS).
///
/// # Errors
/// The kernel's.
pub fn lost_packets(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut counted = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the option fills a `tpacket_stats`, and `counted` is one that lives through the call; `length` is its size.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut counted).cast(),
            &raw mut length,
        )
    };
    if done == 0 { Ok(counted.tp_drops) } else { Err(io::Error::last_os_error()) }
}
