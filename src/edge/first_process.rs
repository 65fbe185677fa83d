//! The first process of a container: every orphan becomes its child, and somebody must reap it. So
//! must a process that asked to be a subreaper.
//!
//! Such a process runs the program as a child and does nothing else but reap, and pass signals on.
//! So nobody takes the exit status of their own children from gateway and listener.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStringExt;

use nix::sys::prctl::get_child_subreaper;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

use super::sys::{ProgramSpec, start_afresh};
use crate::core::bytes::saturated_u8;

/// Exit status of a process that a signal ended, less the signal's number: as shells have it.
const SIGNALLED: i32 = 128;

/// Runs this program, with the same arguments, as a child of this process until it ends; its exit
/// status. `None` if orphans are not ours: then go on in this process.
pub fn run_below() -> io::Result<Option<u8>> {
    if getpid() != Pid::from_raw(1) && get_child_subreaper() != Ok(true) {
        return Ok(None);
    }
    // The kernel gives the first process only the signals that it takes.
    let all = SigSet::all();
    all.thread_block()?;
    let path = CString::new(std::env::current_exe()?.into_os_string().into_vec())?;
    let mut argv = Vec::new();
    for word in std::env::args_os() {
        argv.push(CString::new(word.into_vec())?);
    }
    let child = start_afresh(&ProgramSpec { path: &path, argv: &argv, umask: None, tied: true })?;
    loop {
        if let Some(status) = reap(child) {
            return Ok(Some(saturated_u8(status)));
        }
        // A signal that has no name is not passed on.
        match all.wait() {
            Ok(Signal::SIGCHLD) | Err(_) => {}
            // It may have ended just now.
            Ok(signal) => drop(kill(child, signal)),
        }
    }
}

/// Reaps all that have ended; the exit status of `child` if it has.
fn reap(child: Pid) -> Option<i32> {
    let mut ended = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => ended = Some(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                ended = Some(SIGNALLED + signal as i32);
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return ended,
            Ok(_) => {}
        }
    }
}
