//! Programs at a terminal, as a person uses them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::Winsize;
use nix::sys::termios::{LocalFlags, tcgetattr};

use super::{LONG, Running, Space};

/// A program at a terminal, and what it has shown.
pub struct AtTerminal {
    pub child: Running,
    user_end: File,
    shown: String,
}

impl AtTerminal {
    /// Starts `command` in `space`, at a terminal of its own.
    pub fn start(space: &Space, command: &mut Command) -> AtTerminal {
        AtTerminal::start_with_size(space, command, None)
    }

    /// The same at a terminal of 80 columns and 24 rows.
    pub fn start_on_screen(space: &Space, command: &mut Command) -> AtTerminal {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        AtTerminal::start_with_size(space, command, Some(size))
    }

    fn start_with_size(space: &Space, command: &mut Command, size: Option<Winsize>) -> AtTerminal {
        let pty = nix::pty::openpty(size.as_ref(), None).expect("a terminal");
        let terminal = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        command.stdin(terminal()).stdout(terminal()).stderr(terminal()).process_group(0);
        let child = space.spawn(command);
        AtTerminal { child, user_end: pty.master.into(), shown: String::new() }
    }

    /// Closes the terminal.
    pub fn close(self) -> Running {
        self.child
    }

    /// Types keys, without a line end.
    pub fn types(&mut self, keys: &str) {
        self.user_end.write_all(keys.as_bytes()).expect("a terminal");
    }

    /// True if the terminal hands over each key by itself, and shows none of them.
    pub fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.user_end).expect("a terminal");
        !modes.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    /// Waits until it shows `question`, then types `answer`.
    pub fn answer(&mut self, question: &str, answer: &str) {
        self.wait_for(question);
        self.user_end.write_all(format!("{answer}\n").as_bytes()).expect("a terminal");
    }

    /// Waits until it shows `text` after what was waited for before.
    pub fn wait_for(&mut self, text: &str) {
        self.read_until(text);
    }

    /// The same; returns what it shows before `text`.
    fn read_until(&mut self, text: &str) -> String {
        let deadline = Instant::now() + LONG;
        let mut buffer = [0; 4096];
        loop {
            if let Some(place) = self.shown.find(text) {
                let before = self.shown[..place].to_owned();
                self.shown.drain(..place + text.len());
                return before;
            }
            assert!(Instant::now() < deadline, "it does not show {text:?}: {}", self.shown);
            let mut fds = [PollFd::new(self.user_end.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, 100_u16).expect("poll") > 0
                && let Ok(read) = self.user_end.read(&mut buffer)
            {
                self.shown.push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        }
    }

    /// Waits for the line that begins with `start`, and returns it.
    pub fn line_from(&mut self, start: &str) -> String {
        self.wait_for(start);
        let rest = self.read_until("\r\n");
        format!("{start}{rest}")
    }
}
