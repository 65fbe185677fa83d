//! The only `unsafe` code: kernel calls that no crate wraps.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use nix::errno::Errno;
use nix::sched::{CloneFlags, clone};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, dup2_stdin, getpid, getppid, setpgid};

/// Locks the filter of `socket`: even a taken-over process cannot change it (SO_LOCK_FILTER).
pub fn lock_filter(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: c_int = 1;
    // SAFETY: `on` is an int that lives through the call, and the length is its size.
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

/// Gives memory that is no longer used back to the kernel: glibc keeps what a large file took. Call
/// it once before any thread starts: from then on all share one heap, in place of one that each
/// thread leaves behind.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: neither takes a pointer, and both may be called at any time in any thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::malloc_trim(0);
    }
}

/// True if the kernel says that nothing keeps its clock right. Asking needs no privilege.
#[cfg(target_os = "linux")]
pub fn clock_is_unsynchronised() -> bool {
    // SAFETY: all-zero is a valid `timex`, with modes 0 the call only writes into it, and it lives
    // through the call.
    let status = unsafe {
        let mut clock: libc::timex = std::mem::zeroed();
        if libc::adjtimex(&raw mut clock) < 0 { 0 } else { clock.status }
    };
    status & libc::STA_UNSYNC != 0
}

/// Takes over descriptor 0, once in the life of a process; `None` afterwards. Only for a program
/// that was started with its pipe there and that reads no standard input.
pub fn take_stdin() -> Option<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed)
        || nix::fcntl::fcntl(io::stdin(), nix::fcntl::FcntlArg::F_GETFD).is_err()
    {
        return None;
    }
    // SAFETY: descriptor 0 is open, as was just checked, and nothing else in this program closes
    // it: std never does, and this function hands it out once.
    Some(unsafe { OwnedFd::from_raw_fd(0) })
}

/// Closes every descriptor from 3 on that this process inherited: neither the listener nor a
/// command may hold what a shell or a service manager left open. Call this first, before anything
/// of ours is open.
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: the call takes three integers. Nothing in this process owns a descriptor from 3 on
    // yet: callers promise that by calling it first. A broken promise breaks descriptors, not
    // memory.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    if done == 0 { Ok(()) } else { close_one_by_one() }
}

/// The same on a kernel before 5.9, which has no `close_range`.
fn close_one_by_one() -> io::Result<()> {
    let mut inherited: Vec<RawFd> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        inherited
            .extend(entry?.file_name().to_str().and_then(|number| number.parse::<RawFd>().ok()));
    }
    for number in inherited.into_iter().filter(|number| *number > 2) {
        // SAFETY: as above. The directory's own descriptor is closed already; closing its number
        // again is an error without effect.
        unsafe { libc::close(number) };
    }
    Ok(())
}

#[derive(Debug)]
pub struct ProgramSpec<'a> {
    pub path: &'a CStr,
    pub argv: &'a [CString],
    /// Its umask, if not ours. Ours never changes, so no file of ours is made with another umask.
    pub umask: Option<Mode>,
    /// True if it must not outlive us: it, but not what it has started, is killed when the thread
    /// that starts it ends.
    pub tied: bool,
}

/// Starts a program with empty input, no blocked signal, SIGPIPE as by default, and our
/// environment. It shares our standard output and error, and our descriptors that are not
/// close-on-exec. It gets a process group of its own: signals that a terminal or a script sends to
/// our group do not reach it. An error may also be that of execve.
///
/// This works like posix_spawn(3), which cannot tie the program to us: until it runs, the new
/// process borrows our memory and we stand still. A fork would copy our page tables instead, and
/// both processes pay for each page that they touch afterwards: 0.4 ms and more of every knock.
pub fn start_afresh(program: &ProgramSpec<'_>) -> io::Result<Pid> {
    let nothing = File::open("/dev/null")?;
    let mut environment = Vec::new();
    for (name, value) in std::env::vars_os() {
        let entry = [name.as_encoded_bytes(), b"=", value.as_encoded_bytes()].concat();
        environment.push(CString::new(entry)?);
    }
    let argv = pointers(program.argv);
    let envp = pointers(&environment);
    let parent = getpid();
    let failed = AtomicI32::new(0);
    let callback = Box::new(|| {
        let errno = match prepare(program, parent, &nothing) {
            Err(errno) => errno,
            Ok(()) => execute(program.path, &argv, &envp),
        };
        failed.store(errno as i32, Ordering::Relaxed);
        127
    });
    let mut stack = vec![0; 64 << 10];
    // The new process, in our memory, must not take signals that are sent to us.
    let blocked = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // SAFETY: with CLONE_VFORK this thread goes on only when the new process has left our memory,
    // so everything that the callback borrows lives, and nobody else uses it. The callback makes
    // system calls and returns, which takes a small part of this stack.
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
            // The new process has ended; reap it.
            let _ = waitpid(pid, None);
            Err(io::Error::from_raw_os_error(errno))
        }
    }
}

/// Sets up the new process. Only system calls here: no memory allocated, no lock, no panic.
fn prepare(program: &ProgramSpec<'_>, parent: Pid, nothing: &File) -> nix::Result<()> {
    if program.tied {
        set_pdeathsig(Signal::SIGKILL)?;
        // The kernel does not report a parent that ended before that was set.
        if getppid() != parent {
            return Err(Errno::EPIPE);
        }
    }
    program.umask.map(umask);
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    dup2_stdin(nothing)?;
    // SAFETY: the handler is the kernel's own, and we do not share handlers with this process.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    SigSet::empty().thread_set_mask()
}

/// Turns the new process into the program, by one system call. Returns only if that fails.
fn execute(path: &CStr, argv: &[*const c_char], envp: &[*const c_char]) -> Errno {
    // SAFETY: a C string and two arrays of them, with a null at the end, that live through the
    // call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    Errno::last()
}

/// The texts as execve(2) takes them.
fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Binds a packet socket to the interface of this number, 0 for all of them: it receives from here
/// on.
pub fn bind_packet(socket: BorrowedFd<'_>, interface: u32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: interface.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: `address` is a `sockaddr_ll` that lives through the call, and the length is its size.
    let done = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Packets that `socket` lost for lack of room since the last call (PACKET_STATISTICS).
pub fn lost_packets(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut counted = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the option fills a `tpacket_stats`. `counted` is one that lives through the call, and
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
