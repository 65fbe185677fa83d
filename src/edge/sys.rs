//! The only `unsafe` code: kernel calls that no crate wraps.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sched::{CloneFlags, clone};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal};
use nix::sys::socket::ControlMessageOwned;
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, dup2_stdin, getpid, getppid, setpgid};

/// Locks the filter of `socket`: even a taken-over process cannot change it (SO_LOCK_FILTER).
pub fn lock_filter(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1)
}

/// Makes an eBPF program the filter of `socket` (SO_ATTACH_BPF).
pub fn attach_program(socket: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, program.as_raw_fd())
}

/// Spares the packets that this machine sends a copy for this packet socket
/// (PACKET_IGNORE_OUTGOING, since Linux 4.20).
pub fn ignore_outgoing(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)
}

/// Sets an option that is an int.
fn set_option(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: `value` is an int that lives through the call, and the length is its size.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An array map of eBPF with values of 64 bytes, all zero, as memory of this process too. It is
/// never unmapped. `name` is what `bpftool map` shows.
pub fn shared_lines(
    count: u32, name: [u8; 16],
) -> io::Result<(OwnedFd, &'static [[AtomicU64; 8]])> {
    #[repr(C)]
    struct MapCreate {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
        inner_map: u32,
        node: u32,
        name: [u8; 16],
    }
    const ARRAY: u32 = 2;
    const MMAPABLE: u32 = 1 << 10;
    let mut wanted = MapCreate {
        map_type: ARRAY,
        key_size: 4,
        value_size: 64,
        max_entries: count,
        map_flags: MMAPABLE,
        inner_map: 0,
        node: 0,
        name,
    };
    let count = count as usize;
    // SAFETY: the call takes no pointers. The mapping has `count` lines, as the map: it starts at a
    // page, holds valid values of any bits, and stays for ever. The kernel changes only whole
    // words of it, by additions and stores that are atomic.
    unsafe {
        let map = bpf(0, &mut wanted)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let null = std::ptr::null_mut();
        let start = libc::mmap(null, 64 * count, protection, libc::MAP_SHARED, map.as_raw_fd(), 0);
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok((map, std::slice::from_raw_parts(start.cast(), count)))
    }
}

/// Where an eBPF program for packets runs: the kernel's numbers.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum PacketProgram {
    /// At a socket.
    Filter = 1,
    /// At an interface, before the network stack.
    Xdp = 6,
}

/// Loads an eBPF program for packets. The verifier writes into `log` what it thinks of it, if there
/// is room for anything.
pub fn load_packet_program(
    kind: PacketProgram, program: &[u64], log: &mut [u8],
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct ProgLoad {
        prog_type: u32,
        count: u32,
        instructions: *const u64,
        license: *const c_char,
        log_level: u32,
        log_size: u32,
        log: *mut u8,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
    }
    let mut wanted = ProgLoad {
        prog_type: kind as u32,
        count: u32::try_from(program.len()).unwrap_or(u32::MAX),
        instructions: program.as_ptr(),
        license: c"MIT".as_ptr(),
        log_level: u32::from(!log.is_empty()),
        log_size: u32::try_from(log.len()).unwrap_or(0),
        log: if log.is_empty() { std::ptr::null_mut() } else { log.as_mut_ptr() },
        kernel_version: 0,
        flags: 0,
        name: match kind {
            PacketProgram::Filter => *b"toctoc_knocks\0\0\0",
            PacketProgram::Xdp => *b"toctoc_xdp\0\0\0\0\0\0",
        },
    };
    // SAFETY: the pointers are to so many instructions, a C string, and so many bytes to write to.
    // All of them live through the call.
    unsafe { bpf(5, &mut wanted) }
}

/// The descriptors that came with a message: what recvmsg(2) has just said, and nobody has taken.
pub fn received(control: ControlMessageOwned) -> Vec<OwnedFd> {
    let ControlMessageOwned::ScmRights(opened) = control else { return Vec::new() };
    // SAFETY: the kernel has opened these for us, and this takes the only list of them.
    opened.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect()
}

/// The mode of a program at an interface: the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum XdpMode {
    /// The network stack runs it, for any driver.
    Generic = 2,
    /// The driver runs it.
    Native = 4,
}

/// Attaches an XDP program to the interface of this number, as long as the returned link is open.
/// Waits for the kernel's lock of all interfaces.
pub fn attach_xdp(program: BorrowedFd<'_>, interface: u32, mode: XdpMode) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct LinkCreate {
        program: u32,
        interface: u32,
        attach_type: u32,
        flags: u32,
    }
    const XDP: u32 = 37;
    let mut wanted = LinkCreate {
        program: program.as_raw_fd().cast_unsigned(),
        interface,
        attach_type: XDP,
        flags: mode as u32,
    };
    // SAFETY: the call takes no pointers.
    unsafe { bpf(28, &mut wanted) }
}

/// Replaces the program of `link`. Fails with ENOLINK if the interface is gone,
/// or somebody has taken the program away. Waits like [`attach_xdp`].
pub fn exchange_xdp(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct LinkUpdate {
        link: u32,
        program: u32,
        flags: u32,
        old_program: u32,
    }
    let wanted = LinkUpdate {
        link: link.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        flags: 0,
        old_program: 0,
    };
    // SAFETY: the call reads so many bytes of `wanted`, which lives through it and has no
    // pointers.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, 29, &raw const wanted, size_of::<LinkUpdate>()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes an object of the kernel by bpf(2).
///
/// # Safety
///
/// `parameters` has the layout that `command` takes, and its pointers are valid for it.
unsafe fn bpf<T>(command: c_int, parameters: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: by the caller's promise. The kernel has just opened the descriptor for us, with
    // close-on-exec; nothing else knows its number.
    unsafe {
        let done = libc::syscall(libc::SYS_bpf, command, parameters as *mut T, size_of::<T>());
        match RawFd::try_from(done) {
            Ok(descriptor) if done >= 0 => Ok(OwnedFd::from_raw_fd(descriptor)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Lets the kernel run a loaded program on an Ethernet frame, and returns what the program does.
#[cfg(test)]
pub fn run_program(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<u32> {
    #[repr(C)]
    struct TestRun {
        program: u32,
        returned: u32,
        size_in: u32,
        size_out: u32,
        data_in: *const u8,
        data_out: *mut u8,
        repeat: u32,
        duration: u32,
    }
    let mut run = TestRun {
        program: program.as_raw_fd().cast_unsigned(),
        returned: 0,
        size_in: u32::try_from(frame.len()).unwrap_or(u32::MAX),
        size_out: 0,
        data_in: frame.as_ptr(),
        data_out: std::ptr::null_mut(),
        repeat: 1,
        duration: 0,
    };
    let length = size_of::<TestRun>();
    // SAFETY: the pointer is to so many bytes, which live through the call, and nothing is written
    // but into `run`.
    let done = unsafe { libc::syscall(libc::SYS_bpf, 10, &raw mut run, length) };
    if done == 0 { Ok(run.returned) } else { Err(io::Error::last_os_error()) }
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
