//! Going to the background: the program starts itself again, and exits when that process is ready
//! or has failed.
//!
//! knockd forks, and its parent may exit before the pid file exists. Here the pid file exists when
//! the parent exits.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};

/// The hidden last argument of the process in the background.
const MARK: &str = "--in-background";

/// Removes the mark from `words`; true if it was there.
pub(super) fn take_mark(words: &mut Vec<String>) -> bool {
    let is_marked = matches!(words.last(), Some(word) if word == MARK);
    if is_marked {
        words.pop();
    }
    is_marked
}

/// Starts `program` with `words` again and waits until it is ready or has failed. Returns its exit
/// status.
pub(super) fn start(program: &OsStr, words: &[String]) -> ExitCode {
    match spawn(program, words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: cannot go to the background: {error}");
            ExitCode::FAILURE
        }
    }
}

fn spawn(program: &OsStr, words: &[String]) -> io::Result<ExitCode> {
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
    match child.wait()?.code().map(u8::try_from) {
        Some(Ok(code)) => Ok(ExitCode::from(code)),
        _ => Ok(ExitCode::FAILURE),
    }
}

/// The terminal from which the daemon was started.
pub(super) struct Terminal {
    /// The socket to the process that waits for us; `None` in the foreground.
    waiting: Option<OwnedFd>,
}

impl Terminal {
    pub(super) fn foreground() -> Self {
        Self { waiting: None }
    }

    /// For a daemon in the background: a process waits at the other end of standard input.
    pub(super) fn background() -> Self {
        Self { waiting: io::stdin().as_fd().try_clone_to_owned().ok() }
    }

    /// Detaches a daemon in the background: its own session, `/` as working directory, and
    /// `/dev/null` as standard input and outputs.
    pub(super) fn detach(&mut self) -> io::Result<()> {
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

    /// Reports to the waiting process that the daemon is ready.
    pub(super) fn report_ready(self) {
        if let Some(socket) = self.waiting {
            // The waiting process may be gone.
            let _ = UnixStream::from(socket).write_all(&[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_mark_counts_only_as_the_last_word_and_is_removed() {
        let mut marked = words(&["-d", MARK]);
        assert!(take_mark(&mut marked));
        assert_eq!(marked, words(&["-d"]));
        let mut elsewhere = words(&[MARK, "-d"]);
        assert!(!take_mark(&mut elsewhere) && elsewhere.len() == 2);
        assert!(!take_mark(&mut Vec::new()));
    }

    #[test]
    fn readiness_is_one_byte_and_a_foreground_daemon_tells_nobody() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        Terminal { waiting: Some(theirs.into()) }.report_ready();
        let mut bytes = Vec::new();
        ours.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [1]);
        let mut foreground = Terminal::foreground();
        foreground.detach().unwrap();
        foreground.report_ready();
    }
}
