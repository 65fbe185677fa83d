//! The only `unsafe` in the house: the few kernel calls that no crate wraps.
//! Policy is left to everybody else.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use nix::errno::Errno;
use nix::sched::{CloneFlags, clone};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, dup2_stdin, getpid, getppid, setpgid};

/// From here on the filter of `socket` can be neither changed nor removed, whatever becomes of this
/// process (SO_LOCK_FILTER).
///
/// # Errors
/// The kernel's.
pub fn lock_filter(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: c_int = 1;
    // SAFETY: the option takes an int, and `on` is one that lives through the call; the length
    // given is its size.
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

/// Takes descriptor 0 over, once in the life of a process; `None` afterwards. Only for a program
/// that was started to find its pipe there and that reads no standard input.
pub fn take_stdin() -> Option<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed)
        || nix::fcntl::fcntl(io::stdin(), nix::fcntl::FcntlArg::F_GETFD).is_err()
    {
        return None;
    }
    // SAFETY: descriptor 0 is open, as was just asked, and nobody else in this program closes it:
    // std never does, and this function hands it out once.
    Some(unsafe { OwnedFd::from_raw_fd(0) })
}

/// Closes every descriptor from 3 on that this process was born with. To be called first thing,
/// before anything of ours is open: whoever started the gateway may have left something open that
/// the listener must not hold.
///
/// # Errors
/// The kernel's; before 5.9 it has no such call.
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: takes three integers. Nothing in this process owns a descriptor from 3 on yet: that
    // is what callers promise by calling it first, and a wrong promise breaks descriptors, not
    // memory.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A program to start.
#[derive(Debug)]
pub struct ProgramSpec<'a> {
    /// Its file.
    pub path: &'a CStr,
    /// Its arguments, its own name the first.
    pub argv: &'a [CString],
    /// Its umask, if not ours: ours stays as it is, so there is no moment at which a file of ours
    /// is made with another.
    pub umask: Option<Mode>,
    /// It does not outlive us: it, not what it has started, is killed when the thread that starts
    /// it ends.
    pub tied: bool,
}

/// Starts a program, with nothing to read, no signal blocked, SIGPIPE as by default, and our
/// environment. It has our standard output and error, and what else of ours is not close-on-exec.
/// It has a process group of its own: what a terminal or a script sends to ours is not meant for
/// it.
///
/// As posix_spawn(3) does it, which has no way to tie the program to us: until it runs, the new
/// process borrows our memory and we stand still. A fork copies our page tables instead, and we
/// both pay for each page that we touch afterwards: 0.4 ms and more of every knock.
///
/// # Errors
/// The kernel's, also those of execve.
pub fn start_afresh(program: &ProgramSpec<'_>) -> io::Result<Pid> {
    let nothing = File::open("/dev/null")?;
    let environment = std::env::vars_os().map(|(name, value)| {
        CString::new([name.as_encoded_bytes(), b"=", value.as_encoded_bytes()].concat())
            .map_err(io::Error::from)
    });
    let environment = environment.collect::<io::Result<Vec<CString>>>()?;
    let (argv, envp) = (pointers(program.argv), pointers(&environment));
    let parent = getpid();
    let failed = AtomicI32::new(0);
    // Of the new process: only system calls, no memory allocated, no lock taken, no panic.
    let become_it = || -> Errno {
        let set = || {
            if program.tied {
                set_pdeathsig(Signal::SIGKILL)?;
                // Who ended before that was set is not noticed by the kernel.
                if getppid() != parent {
                    return Err(Errno::EPIPE);
                }
            }
            program.umask.map(umask);
            setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
            dup2_stdin(&nothing)?;
            // SAFETY: no handler is set but the kernel's own, and in this process alone: handlers
            // are not shared with us.
            unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
            SigSet::empty().thread_set_mask()
        };
        if let Err(errno) = set() {
            return errno;
        }
        // SAFETY: a C string and two arrays of them, each ending with a null pointer, that live
        // through the call.
        unsafe { libc::execve(program.path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        Errno::last()
    };
    let callback = Box::new(|| {
        failed.store(become_it() as i32, Ordering::Relaxed);
        127
    });
    let mut stack = vec![0; 64 << 10];
    // What is sent to us must not be taken by the new process, in our memory.
    let blocked = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // SAFETY: with CLONE_VFORK this thread goes on only when the new process has left our memory,
    // so all that the callback borrows lives, and nobody else uses it. The callback makes system
    // calls and returns, which takes a small part of this stack.
    let started = unsafe {
        clone(
            callback,
            &mut stack,
            CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK,
            Some(libc::SIGCHLD),
        )
    };
    blocked.thread_set_mask()?;
    let pid = started?;
    match failed.load(Ordering::Relaxed) {
        0 => Ok(pid),
        errno => {
            // It has ended: it is nobody's child that is worth a word.
            let _ = waitpid(pid, None);
            Err(io::Error::from_raw_os_error(errno))
        }
    }
}

/// As execve(2) takes them.
fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
}

/// One message from a SOCK_SEQPACKET socket, without waiting, and at most one descriptor with it.
/// `Ok((0, None))` = the other end is closed.
///
/// # Errors
/// The kernel's, `WouldBlock` among them; `InvalidData` if the message did not fit or brought more
/// than one descriptor: those are closed.
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

/// How many packets `socket` has lost for want of room since this was last asked
/// (PACKET_STATISTICS).
///
/// # Errors
/// The kernel's.
pub fn lost_packets(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut counted = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the option fills a `tpacket_stats`, and `counted` is one that lives through the call;
    // `length` is its size.
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
