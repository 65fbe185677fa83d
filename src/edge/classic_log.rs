//! Log lines as knockd writes them. See `log` for the log of toctocd.

use std::fs::{File, OpenOptions};
use std::io::{Write, stdout};
use std::os::unix::net::UnixDatagram;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Serialize};

use super::one_time::reason;
use crate::core::types::Wall;

/// Bytes of a line; the rest is cut off, as knockd cuts it.
const LONGEST: usize = 1023;
const SYSLOG: &str = "/dev/log";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sinks {
    pub file: Option<String>,
    pub syslog: Option<Facility>,
    /// Standard output, for the lines that `-v` shows.
    pub verbose: bool,
}

/// The syslog facility. The level is always notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Facility {
    User,
    Daemon,
}

impl Facility {
    fn priority(self) -> u8 {
        const NOTICE: u8 = 5;
        match self {
            Facility::User => 8 + NOTICE,
            Facility::Daemon => 3 * 8 + NOTICE,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassicLine<'a> {
    pub text: &'a str,
    /// COMPAT: some of knockd's texts carry a newline of their own.
    pub gap: bool,
    pub shown: bool,
}

impl<'a> ClassicLine<'a> {
    pub fn shown(text: &'a str) -> Self {
        Self { text, gap: false, shown: true }
    }

    /// A line for file and syslog only.
    pub fn quiet(text: &'a str) -> Self {
        Self { text, gap: false, shown: false }
    }

    pub fn gap(self) -> Self {
        Self { gap: true, ..self }
    }
}

/// Writes lines. One that cannot be written is lost: a full disk must not stop anything.
#[derive(Default)]
pub struct ClassicLog {
    file: Option<File>,
    syslog: Option<(Facility, UnixDatagram)>,
    verbose: bool,
}

impl ClassicLog {
    /// A log to `sinks`, and the reason if its file cannot be opened.
    pub fn open(sinks: &Sinks) -> (Self, Option<String>) {
        let mut log = Self { verbose: sinks.verbose, ..Self::default() };
        if let Some(facility) = sinks.syslog
            && let Ok(socket) = UnixDatagram::unbound()
            // A syslog daemon that does not read must not stop us.
            && socket.set_nonblocking(true).is_ok()
        {
            log.syslog = Some((facility, socket));
        }
        let Some(path) = &sinks.file else { return (log, None) };
        match OpenOptions::new().append(true).create(true).open(path) {
            Ok(file) => log.file = Some(file),
            Err(error) => return (log, Some(reason(&error))),
        }
        (log, None)
    }

    pub fn line(&mut self, now: Wall, line: ClassicLine<'_>) {
        let mut text = plain(line.text);
        if line.gap {
            text.push('\n');
        }
        let mut end = text.len().min(LONGEST);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        if let Some(file) = &mut self.file {
            let stamp = local(now).strftime("%Y-%m-%d %H:%M");
            let _ = file.write_all(format!("[{stamp}] {text}\n").as_bytes());
        }
        if let Some((facility, socket)) = &self.syslog {
            let stamp = local(now).strftime("%b %e %H:%M:%S");
            let record = format!("<{}>{stamp} knockd: {text}", facility.priority());
            let _ = socket.send_to(record.as_bytes(), SYSLOG);
        }
        if line.shown {
            self.show(line.text);
        }
    }

    /// Writes a line that only `-v` shows.
    pub fn show(&mut self, text: &str) {
        if self.verbose {
            print_line(text);
        }
    }
}

pub fn print_line(text: &str) {
    let _ = stdout().lock().write_all(format!("{}\n", plain(text)).as_bytes());
}

/// `2026-11-23 14:03:20`, local time.
pub fn stamp(at: Wall) -> String {
    local(at).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

pub(super) fn local(at: Wall) -> Zoned {
    Timestamp::from_nanosecond(at.0.into()).unwrap_or_default().to_zoned(TimeZone::system())
}

/// The text as one line. A host name or a door's name must not forge a second line, move the
/// cursor, or change the direction of text. Tabs stay, as commands have them.
fn plain(text: &str) -> String {
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        match c {
            '\t' => line.push(c),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => line.extend(c.escape_unicode()),
            c if c.is_control() => line.extend(c.escape_unicode()),
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_lines_carry_minutes_and_gaps_and_are_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "old\n").unwrap();
        let sinks = Sinks { file: Some(path.display().to_string()), ..Sinks::default() };
        let (mut log, failed) = ClassicLog::open(&sinks);
        assert_eq!(failed, None);
        log.line(Wall(0), ClassicLine::quiet("one\r\x1b[2J\n[2026-01-01 00:00] forged\ttab"));
        log.line(Wall(0), ClassicLine::quiet("two").gap());
        log.line(Wall(0), ClassicLine::quiet(&"x".repeat(2000)).gap());
        let text = std::fs::read_to_string(&path).unwrap();
        let (old, rest) = text.split_once('\n').unwrap();
        assert_eq!(old, "old", "appended");
        let lines: Vec<_> = rest.split('\n').map(|line| line.get(19..).unwrap_or("")).collect();
        assert_eq!(lines[0], "one\\u{d}\\u{1b}[2J\\u{a}[2026-01-01 00:00] forged\ttab");
        assert_eq!(&lines[1..], ["two", "", &"x".repeat(1023), ""]);
        assert!(rest.starts_with('[') && rest.as_bytes()[17] == b']');
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_reported_in_the_systems_words() {
        let sinks = Sinks { file: Some("/nonexistent/log".into()), ..Sinks::default() };
        let (mut log, failed) = ClassicLog::open(&sinks);
        assert_eq!(failed.as_deref(), Some("No such file or directory"));
        log.line(Wall(0), ClassicLine::quiet("into the void"));
    }

    #[test]
    fn priorities_are_facility_and_notice() {
        assert_eq!((Facility::Daemon.priority(), Facility::User.priority()), (29, 13));
    }
}
