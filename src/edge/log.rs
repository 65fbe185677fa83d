//! Lines for people: control characters escaped, one event one line.
//! What is worth a line is left to the callers; nothing unauthenticated is, per packet.

use std::io::{IsTerminal, Write, stderr};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::core::types::Wall;

/// The longest line, bytes; the rest is cut off.
const LONGEST: usize = 1024;

/// The most lines that are held back.
const HELD: usize = 64;

/// How long a line waits for whoever reads the log, milliseconds.
#[cfg(unix)]
const PATIENCE: u8 = 50;

/// Where lines go. Writing never fails for the caller: a full disk must not open or shut anything.
/// And it never waits for long: commands write to the same place, and one that floods it must not
/// keep packets waiting.
pub struct Log {
    /// Whether lines carry the time of day: not for journald, which has its own.
    stamped: bool,
    /// Lines that found no room since the last one that did.
    lost: u64,
    /// Lines held back, while lines are.
    held: Option<Vec<String>>,
}

impl Log {
    /// Lines to standard error.
    pub fn stderr() -> Log {
        Log { stamped: stderr().is_terminal(), lost: 0, held: None }
    }

    /// Writes one line.
    pub fn line(&mut self, now: Wall, text: &str) {
        let text = escaped(text);
        let line = if self.stamped {
            format!("{} {text}\n", clock_time(now))
        } else {
            format!("{text}\n")
        };
        match &mut self.held {
            Some(held) if held.len() < HELD => held.push(line),
            _ => {
                let earlier = self.held.as_mut().map(std::mem::take).unwrap_or_default();
                earlier.iter().chain([&line]).for_each(|line| self.write(line));
            }
        }
    }

    /// Lines wait from here on, in their order, until [`Log::release`]: whoever knocks does not
    /// wait for whoever reads the log. Only some tens are kept.
    pub fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    /// Writes what was held back; from here on lines are written at once.
    pub fn release(&mut self) {
        self.held.take().unwrap_or_default().iter().for_each(|line| self.write(line));
    }

    fn write(&mut self, line: &str) {
        if !self.has_room() {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        let lost = std::mem::take(&mut self.lost);
        if lost > 0 {
            let _ = stderr()
                .write_all(format!("{lost} lines were lost: nobody read the log\n").as_bytes());
        }
        let _ = stderr().write_all(line.as_bytes());
    }

    /// Whether a line can be written without waiting: a pipe that says so has room for a page.
    /// After one that could not, no line waits until one can. (The pipe cannot be made non-blocking
    /// for us alone: commands share it.)
    #[cfg(unix)]
    fn has_room(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let patience = if self.lost == 0 { PollTimeout::from(PATIENCE) } else { PollTimeout::ZERO };
        poll(&mut [PollFd::new(stderr().as_fd(), PollFlags::POLLOUT)], patience) != Ok(0)
    }

    /// Elsewhere nobody serves, and nobody waits.
    #[cfg(not(unix))]
    fn has_room(&self) -> bool {
        true
    }
}

/// Local time of day, `14:03:20`.
pub fn clock_time(at: Wall) -> String {
    local(at, "%H:%M:%S")
}

/// Local date and time, `2026-11-23 14:03:20`.
pub fn date_time(at: Wall) -> String {
    local(at, "%Y-%m-%d %H:%M:%S")
}

fn local(at: Wall, format: &str) -> String {
    let nanos = i128::from(at.0);
    Timestamp::from_nanosecond(nanos).map_or_else(
        |_| "an impossible time".to_owned(),
        |moment| moment.to_zoned(TimeZone::system()).strftime(format).to_string(),
    )
}

/// The text as one line: whatever could forge a second one, or move a terminal's cursor, is written
/// as `\u{..}`.
fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if line.len() >= LONGEST {
            line.push_str("...");
            break;
        }
        match c {
            // The lines that follow are indented.
            '\n' => {
                line.push_str("; ");
                while chars.next_if_eq(&' ').is_some() {}
            }
            c if c.is_control()
                || ('\u{202a}'..='\u{202e}').contains(&c)
                || ('\u{2066}'..='\u{2069}').contains(&c) =>
            {
                line.extend(c.escape_unicode());
            }
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_lines_wait_for_their_release_and_only_some_of_them() {
        let mut log = Log { stamped: false, lost: 0, held: None };
        let waiting = |log: &Log| log.held.as_ref().map(Vec::len);
        log.line(Wall(0), "at once");
        assert_eq!(waiting(&log), None);
        log.hold();
        (0..HELD).for_each(|_| log.line(Wall(0), "held"));
        log.hold();
        assert_eq!(waiting(&log), Some(HELD));
        log.line(Wall(0), "too many: all are written, and the next ones wait again");
        assert_eq!(waiting(&log), Some(0));
        log.line(Wall(0), "held");
        log.release();
        assert_eq!(waiting(&log), None);
    }

    #[test]
    fn a_line_stays_one_line_whatever_is_in_it() {
        assert_eq!(escaped("door: a\r\x1b[2Jb\u{202e}"), "door: a\\u{d}\\u{1b}[2Jb\\u{202e}");
        assert_eq!(escaped("what\n  remedy"), "what; remedy");
        assert!(escaped(&"x".repeat(5000)).len() < 1100);
    }
}
