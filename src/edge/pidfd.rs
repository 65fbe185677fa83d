//! A process that is not our child, by a handle that stays the same process's for ever.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

pub struct OtherProcess(OwnedFd);

impl OtherProcess {
    pub fn open(pid: u32) -> io::Result<OtherProcess> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(OtherProcess(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Kills it. Without CAP_KILL this fails for another user's process.
    pub fn kill(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.0, Signal::KILL)?)
    }
}
