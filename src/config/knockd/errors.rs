//! Errors in a knockd.conf: in knockd's words, and in ours.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::excerpt::excerpt;
use crate::core::diagnostic::word_at;
use crate::core::door::DOORS;
use crate::core::types::{Fault, FaultKind};

use super::one_time;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceError {
    /// knockd's text after `config: ` on stderr, and after `error: ` in its log.
    pub text: String,
    /// knockd logs no bad ports.
    pub is_logged: bool,
}

impl SequenceError {
    /// The line in knockd's log, if that is open already.
    pub fn logged(&self) -> Option<String> {
        if self.is_logged { Some(format!("error: {}", self.text)) } else { None }
    }
}

/// The first error in a configuration. `Display` is knockd's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnockdError {
    /// The line, counted from 1, as knockd counts its reads.
    pub line: usize,
    /// The index of the door that it is about; `None` = the whole file.
    pub door: Option<usize>,
    pub what: Wrong,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Unknown key, key in the wrong section, no `=`.
    Syntax,
    /// `[]`.
    SectionName,
    /// A key before any section.
    NoSection,
    /// Not a TCP flag; in capitals.
    Flag(String),
    Sequence(SequenceError),
    /// The file of one-time sequences could not be read, for this reason.
    OneTimeFile(PathBuf, String),
    /// This door's file of one-time sequences has no usable line.
    NoneLeft(String),
    Empty(String),
    /// Not UTF-8 outside of a comment. Ours: knockd takes any bytes.
    NotText,
    /// More than [`DOORS`]. Ours: knockd knows no limit.
    TooManyDoors,
}

impl fmt::Display for KnockdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.line;
        match &self.what {
            Wrong::Syntax => write!(f, "config: line {line}: syntax error"),
            Wrong::SectionName => write!(f, "config: line {line}: bad section name"),
            Wrong::NoSection => {
                write!(f, "config: line {line}: all directives must belong to a section")
            }
            Wrong::Flag(flag) => write!(f, "config: line {line}: unrecognized flag \"{flag}\""),
            Wrong::Sequence(error) => write!(f, "config: {}", error.text),
            Wrong::OneTimeFile(path, reason) => {
                f.write_str(&not_opened(&path.to_string_lossy(), reason))
            }
            Wrong::NoneLeft(door) => f.write_str(&one_time::none_left(door)),
            Wrong::Empty(door) => write!(f, "error: section '{door}' has an empty knock sequence"),
            Wrong::NotText => write!(f, "config: line {line}: not UTF-8 text"),
            Wrong::TooManyDoors => write!(f, "config: line {line}: more than {DOORS} doors"),
        }
    }
}

/// The text of C's `perror`.
pub fn not_opened(path: &str, reason: &str) -> String {
    if path.is_empty() { reason.into() } else { format!("{path}: {reason}") }
}

impl KnockdError {
    /// The additional line in the log, where knockd writes one.
    pub fn logged(&self) -> Option<String> {
        match &self.what {
            Wrong::Sequence(error) => error.logged(),
            Wrong::NoneLeft(door) => Some(one_time::none_left(door)),
            _ => None,
        }
    }

    /// The same for people who do not know knockd's messages: with the file, the line, and a
    /// remedy.
    pub fn fault(&self, path: &Path, text: &str) -> Fault {
        let (what, remedy) = self.what.explained();
        let line = text.lines().nth(self.line.saturating_sub(1)).unwrap_or_default();
        let column = self.column(line);
        let start = line.chars().take(column - 1).map(char::len_utf8).sum();
        let excerpt = excerpt(line, self.line, word_at(line, start));
        let what = format!("{}:{}:{column}: {what}", path.display(), self.line);
        Fault { excerpt, ..Fault::new(what, remedy) }.of(FaultKind::Input)
    }

    /// The column of the word that is wrong, from 1: the key, or the part of its value.
    fn column(&self, line: &str) -> usize {
        let key = line.chars().take_while(|c| c.is_whitespace()).count() + 1;
        let Some((before, value)) = line.split_once('=') else { return key };
        let mut column = before.chars().count() + 2;
        for part in value.split(',') {
            let is_wrong = match &self.what {
                Wrong::Sequence(_) => super::step(part, "").is_err(),
                Wrong::Flag(flag) => part.trim().eq_ignore_ascii_case(flag.trim()),
                _ => return key,
            };
            if is_wrong {
                return column + part.chars().take_while(|c| c.is_whitespace()).count();
            }
            column += part.chars().count() + 1;
        }
        key
    }
}

impl Wrong {
    /// What is wrong, and a remedy.
    pub fn explained(&self) -> (String, &'static str) {
        match self {
            Wrong::Syntax => (
                "not a key of this section".into(),
                "write `key = value` as in toctoc-knockd.conf(5)",
            ),
            Wrong::SectionName => ("a section without a name".into(), "write `[name]`"),
            Wrong::NoSection => {
                ("a key before the first section".into(), "write `[options]` or `[door]` above it")
            }
            Wrong::Flag(flag) => (
                format!("{flag:?} is not a TCP flag"),
                "write fin, syn, rst, psh, ack, urg, with ! for not, and commas without blanks",
            ),
            Wrong::Sequence(error) => (
                error.text.clone(),
                "write 1 to 32 of `port` or `port:udp` with commas between them",
            ),
            Wrong::OneTimeFile(file, reason) => (
                format!("{}: {reason}", file.display()),
                "create the file, one sequence per line, for root alone",
            ),
            Wrong::NoneLeft(door) => (
                format!("door {door} has no one-time sequence left in its file"),
                "append new lines, or remove the door's section",
            ),
            Wrong::Empty(door) => (format!("door {door} has no sequence"), "give it a `Sequence`"),
            Wrong::NotText => ("not UTF-8 text".into(), "save the file as UTF-8"),
            Wrong::TooManyDoors => {
                (format!("more than {DOORS} doors"), "split the doors among several gateways")
            }
        }
    }
}
