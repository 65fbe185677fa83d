//! Starts this program again in the background, and waits until that process reports that it
//! serves, as to a service manager, or has ended.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::OFlag;

use super::service_manager::SOCKET;
use crate::core::types::Fault;

/// Interval at which the waiting process looks whether the other one has ended.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes of the log that are shown after a failed start.
const SHOWN: u64 = 16 * 1024;

/// The outcome of a start.
pub enum BackgroundStart {
    Serves {
        pid: u32,
    },
    /// It ended, with this exit code unless by a signal, and wrote this to its log.
    Ended {
        code: Option<i32>,
        said: String,
    },
}

/// Starts this program with these arguments; what it prints is appended to the file `log`. A
/// hang-up and Ctrl-C of this terminal do not reach it.
pub fn start(arguments: &[OsString], log: &Path) -> Result<BackgroundStart, Fault> {
    let log_file = open_log(log).map_err(|error| {
        let what = format!("{}: the log cannot be opened: {error}", log.display());
        Fault::new(what, "name another file: --background=FILE")
    })?;
    start_with(arguments, log_file).map_err(|error| {
        let what = format!("toctocd cannot start itself in the background: {error}");
        Fault::new(what, "mount /proc, or run `toctocd run` in the foreground")
    })
}

/// Nobody else reads the log, and no link leads it elsewhere.
fn open_log(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)
}

fn start_with(arguments: &[OsString], mut log: File) -> io::Result<BackgroundStart> {
    let before = log.metadata()?.len();
    let name = format!("toctocd-waits-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    socket.set_read_timeout(Some(LOOK))?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("toctocd")
        .args(arguments)
        .env(SOCKET, format!("@{name}"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .process_group(0)
        .spawn()?;
    loop {
        let mut word = [0; 64];
        if let Ok(length) = socket.recv(&mut word)
            && word.get(..length).is_some_and(|word| word.starts_with(b"READY=1"))
        {
            return Ok(BackgroundStart::Serves { pid: child.id() });
        }
        if let Some(status) = child.try_wait()? {
            log.seek(SeekFrom::Start(before))?;
            let mut said = Vec::new();
            log.take(SHOWN).read_to_end(&mut said)?;
            let said = String::from_utf8_lossy(&said).into_owned();
            return Ok(BackgroundStart::Ended { code: status.code(), said });
        }
    }
}
