//! Lines for people: control characters escaped, one event one line.
//! What is worth a line is left to the callers; nothing unauthenticated is, per packet.

use std::io::{IsTerminal, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::core::types::Wall;

/// The longest line, bytes; the rest is cut off.
const LONGEST: usize = 1024;

/// Where lines go. Writing never fails for the caller: a full disk must not open or shut anything.
pub struct Log {
    /// Whether lines carry the time of day: not for journald, which has its own.
    stamped: bool,
}

impl Log {
    /// Lines to standard error.
    pub fn stderr() -> Log {
        Log { stamped: std::io::stderr().is_terminal() }
    }

    /// Writes one line.
    pub fn line(&mut self, now: Wall, text: &str) {
        let text = escaped(text);
        let line = if self.stamped { format!("{} {text}\n", clock_time(now)) } else { format!("{text}\n") };
        let _ = std::io::stderr().write_all(line.as_bytes());
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

/// The text as one line: whatever could forge a second one, or move a terminal's cursor, is written as `\u{..}`.
fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if line.len() >= LONGEST {
            line.push_str("...");
            break;
        }
        match c {
            '\n' => line.push_str("; "),
            c if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c) => {
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
    fn a_line_stays_one_line_whatever_is_in_it() {
        assert_eq!(escaped("door: a\r\x1b[2Jb\u{202e}"), "door: a\\u{d}\\u{1b}[2Jb\\u{202e}");
        assert_eq!(escaped("what\n  remedy"), "what;   remedy");
        assert!(escaped(&"x".repeat(5000)).len() < 1100);
    }
}
