//! Going to the background: the program starts itself once more, and leaves when that one is ready
//! or has failed. What being ready means is left to `daemon`.
//!
//! knockd forks, and its parent leaves before the pid file is there; here whoever waits for the
//! parent finds it written.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};

/// The hidden last argument of the one that is to stay.
const MARK: &str = "--in-background";

/// Takes the mark off `words`; whether it was there.
pub(super) fn is_asked(words: &mut Vec<String>) -> bool {
    let asked = words.last().is_some_and(|word| word == MARK);
    if asked {
        words.pop();
    }
    asked
}

/// Starts `program` with `words` again, waits until it is ready or has failed, and answers its
/// status.
pub(super) fn start(program: &OsStr, words: &[String]) -> ExitCode {
    let run = || -> io::Result<ExitCode> {
        let (mut ours, theirs) = UnixStream::pair()?;
        let mut child = Command::new("/proc/self/exe")
            .arg0(program)
            .args(words)
            .arg(MARK)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        if ours.read(&mut [0])? == 1 {
            return Ok(ExitCode::SUCCESS);
        }
        let status = child.wait()?.code().and_then(|code| u8::try_from(code).ok());
        Ok(status.map_or(ExitCode::FAILURE, ExitCode::from))
    };
    run().unwrap_or_else(|error| {
        eprintln!("error: cannot go to the background: {error}");
        ExitCode::FAILURE
    })
}

/// The terminal that the daemon was started from.
pub(super) struct Terminal {
    waiting: Option<OwnedFd>,
}

impl Terminal {
    /// It stays ours: the daemon is in the foreground.
    pub(super) fn ours() -> Self {
        Self { waiting: None }
    }

    /// Somebody waits there for word from us, through our standard input.
    pub(super) fn waiting() -> Self {
        Self { waiting: io::stdin().as_fd().try_clone_to_owned().ok() }
    }

    /// Leaves it: a session of our own, `/` as working directory, nothing to read from and nowhere
    /// to write to.
    pub(super) fn leave(&mut self) -> io::Result<()> {
        if self.waiting.is_none() {
            return Ok(());
        }
        setsid()?;
        std::env::set_current_dir("/")?;
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
        Ok(())
    }

    /// Tells who waits that all is well.
    pub(super) fn release(self) {
        if let Some(socket) = self.waiting {
            // If nobody waits any more, nobody needs to know.
            let _ = UnixStream::from(socket).write_all(&[1]);
        }
    }
}
