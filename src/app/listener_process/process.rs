//! The process behind the pipe: a child of the gatekeeper, or one that systemd starts whenever the
//! gatekeeper connects to a socket (`toctoc-listener.socket`). The second way leaves the gatekeeper
//! without the privileges that a listener begins with.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use std::os::unix::process::CommandExt;

use crate::app::listener;
use crate::core::types::Fault;
use crate::edge::gatekeeper_pipe::{self, GatekeeperEnd};
use crate::edge::pidfd::OtherProcess;

pub(super) enum Process {
    Child(Child),
    /// One of systemd; `None` until its first message.
    Unit(Option<OtherProcess>),
}

impl Process {
    /// Runs this program as a listener of this name.
    pub(super) fn child(name: &str) -> Result<(Process, GatekeeperEnd), Fault> {
        let (pipe, theirs) = gatekeeper_pipe::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg0(name)
            .arg(listener::ARGUMENT)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            // Not the log: whatever took the listener over could write lines of its own there.
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                Fault::new(
                    format!("the listener cannot be started: {error}"),
                    "are /proc and /dev mounted?",
                )
            })?;
        Ok((Process::Child(child), pipe))
    }

    /// Has the holder of the socket at this path start one.
    pub(super) fn unit(path: &Path) -> Result<(Process, GatekeeperEnd), Fault> {
        Ok((Process::Unit(None), gatekeeper_pipe::connect(path)?))
    }

    /// Takes a handle of it, once the kernel has said which process it is.
    pub(super) fn meet(&mut self, pid: u32) -> Result<(), Fault> {
        if let Process::Unit(handle) = self {
            let opened = OtherProcess::open(pid).map_err(|error| {
                let what = format!("the listener, process {pid}, cannot be watched: {error}");
                Fault::new(what, "the kernel must be 5.3 or newer, and /proc of this machine")
            });
            *handle = Some(opened?);
        }
        Ok(())
    }

    /// The exit status as text, if it is our child and has ended.
    pub(super) fn ended(&mut self) -> Option<String> {
        match self {
            Process::Child(child) => {
                child.try_wait().ok().flatten().map(|status| status.to_string())
            }
            Process::Unit(_) => None,
        }
    }

    /// Kills it without waiting. Without CAP_KILL this fails for another user's process, which then
    /// ends with the pipe.
    pub(super) fn kill(&mut self) {
        let _ = match self {
            Process::Child(child) => child.kill(),
            Process::Unit(Some(process)) => process.kill(),
            Process::Unit(None) => Ok(()),
        };
    }

    /// Kills it, waits for a child's end, and says how it ended, and where to look for more.
    pub(super) fn end(&mut self) -> (String, &'static str) {
        match self {
            Process::Child(child) => {
                // What cannot be killed must not be waited for.
                let end = child.kill().and_then(|()| child.wait());
                let how = end.map_or_else(|error| error.to_string(), |status| status.to_string());
                let remedy = "`dmesg` may say why: no memory left, or a kernel that forbids a \
                              system call";
                (format!(", {how}"), remedy)
            }
            Process::Unit(_) => {
                self.kill();
                (String::new(), "`journalctl -u 'toctoc-listener@*'` may say why")
            }
        }
    }
}
