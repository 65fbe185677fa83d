//! A network namespace without a name. It lasts as long as a descriptor or a thread of this
//! process, so the kernel removes it however the process ends.

use std::fs::File;
use std::io;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

pub struct NetSpace(File);

impl NetSpace {
    /// A new one. Only `lo` is in it, and that is down.
    pub fn new() -> io::Result<NetSpace> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        joined(made.join()).map(NetSpace)
    }

    /// Runs `work` in a thread inside it. Sockets that it opens belong there for ever.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let enter = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        };
        joined(thread::scope(|scope| scope.spawn(enter).join()))
    }

    /// For a message to the kernel that names it.
    pub(super) fn file(&self) -> &File {
        &self.0
    }
}

fn joined<T>(outcome: thread::Result<T>) -> T {
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
