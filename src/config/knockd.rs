//! knockd.conf, read as knockd 0.8 reads it, with its messages and its line numbers. The caller
//! opens the files.
//!
//! COMPAT: `#` only begins a comment at the start of a line, numbers are read like C's `atoi`,
//! lines are cut at 4095 bytes, every section but `options` is a door, and the first error ends the
//! reading.

use std::path::{Path, PathBuf};

use crate::core::door::{DOORS, Door, Place, STEPS, Step, TcpFlags};
use crate::core::types::{Port, Proto};

mod errors;
pub mod one_time;
#[cfg(test)]
mod tests;

pub use errors::{KnockdError, SequenceError, Wrong, not_opened};

/// The most bytes of a line, its newline included.
const LINE: usize = 4095;
/// Bytes of a door's name that count.
const NAME: usize = 127;
/// Bytes of an interface's name that count.
const INTERFACE: usize = 31;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct KnockdConf {
    pub use_syslog: bool,
    pub log_file: Option<String>,
    /// `PidFile`; wins over `-p`.
    pub pid_file: Option<String>,
    /// `Interface`; `-i` wins over it. The first that is not empty counts.
    pub interface: Option<String>,
    /// The doors. The caller knows the file of their places.
    pub doors: Vec<Door>,
    /// With [`Strictness::SkipLines`]: every error.
    pub wrong: Vec<KnockdError>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseNote {
    /// A line for `knockd -D`.
    Trace(String),
    /// A line of a one-time file that is not a sequence and was skipped.
    Skipped(SequenceError),
}

/// The treatment of errors, and of a door whose file of one-time sequences has no usable line left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Either refuses the whole configuration, as in knockd.
    Knockd,
    /// An error refuses the whole configuration. A door without sequences gets an empty one, so it
    /// is shut, and all the others are served.
    ShutDoor,
    /// The same, but a line with an error is listed and left out.
    SkipLines,
}

/// Reads `text`. `interface_given`: true if `-i` named one, so that `Interface` is ignored.
pub fn read(
    text: &[u8], interface_given: bool, strictness: Strictness,
    open: &mut dyn FnMut(&Path) -> Result<Vec<u8>, String>, note: &mut dyn FnMut(ParseNote),
) -> Result<KnockdConf, KnockdError> {
    let mut parser = Parser {
        conf: KnockdConf::default(),
        section: Section::None,
        interface_given,
        strictness,
        open,
        note,
        line: 0,
    };
    for bytes in lines(text) {
        parser.line += 1;
        if let Err(what) = parser.parse_line(bytes) {
            let last = parser.conf.doors.len().checked_sub(1);
            parser.wrong(last.filter(|_| matches!(parser.section, Section::Door)), what)?;
        }
    }
    for index in 0..parser.conf.doors.len() {
        let door = &parser.conf.doors[index];
        if door.sequence.is_empty() && door.one_time_sequences.is_none() {
            parser.wrong(Some(index), Wrong::Empty(door.name.clone()))?;
        }
    }
    Ok(parser.conf)
}

/// Reads a comma-separated list of `port[:proto]`, for the door of this name.
pub fn sequence(text: &str, door: &str) -> Result<Vec<Step>, SequenceError> {
    let mut steps = Vec::new();
    for element in text.split(',') {
        if steps.len() == STEPS {
            let text = format!("section {door}: too many ports in knock sequence");
            return Err(SequenceError { text, is_logged: true });
        }
        steps.push(step(element, door)?);
    }
    Ok(steps)
}

pub fn list(sequence: &[Step]) -> String {
    sequence.iter().map(Step::to_string).collect::<Vec<_>>().join(",")
}

enum Section {
    None,
    Options,
    Door,
}

struct Parser<'a, 'o> {
    conf: KnockdConf,
    section: Section,
    interface_given: bool,
    strictness: Strictness,
    open: &'o mut dyn FnMut(&Path) -> Result<Vec<u8>, String>,
    note: &'a mut dyn FnMut(ParseNote),
    line: usize,
}

impl Parser<'_, '_> {
    fn wrong(&mut self, door: Option<usize>, what: Wrong) -> Result<(), KnockdError> {
        let error = KnockdError { line: self.line, door, what };
        if self.strictness != Strictness::SkipLines {
            return Err(error);
        }
        self.conf.wrong.push(error);
        Ok(())
    }

    fn parse_line(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        let bytes = trim(bytes);
        if bytes.is_empty() || bytes.starts_with(b"#") {
            return Ok(());
        }
        let line = std::str::from_utf8(bytes).map_err(|_| Wrong::NotText)?;
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return self.new_section(cut(name, NAME));
        }
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (trim_text(key).to_ascii_lowercase(), Some(trim_text(value))),
            None => (line.to_ascii_lowercase(), None),
        };
        match (&self.section, value) {
            (Section::None, _) => Err(Wrong::NoSection),
            (_, None) if key == "usesyslog" => {
                self.conf.use_syslog = true;
                self.trace("usesyslog".into());
                Ok(())
            }
            (_, None) => Err(Wrong::Syntax),
            (Section::Options, Some(value)) => self.option(&key, value),
            (Section::Door, Some(value)) => self.door(&key, value),
        }
    }

    fn new_section(&mut self, name: &str) -> Result<(), Wrong> {
        if name.is_empty() {
            return Err(Wrong::SectionName);
        }
        self.trace(format!("new section: '{name}'"));
        if name == "options" {
            self.section = Section::Options;
            return Ok(());
        }
        if self.conf.doors.len() >= DOORS {
            return Err(Wrong::TooManyDoors);
        }
        self.section = Section::Door;
        let place = Place { file: String::new(), line: self.line };
        self.conf.doors.push(Door { name: name.into(), place, ..Door::default() });
        Ok(())
    }

    fn option(&mut self, key: &str, value: &str) -> Result<(), Wrong> {
        match key {
            "logfile" => {
                self.conf.log_file = Some(value.into());
                self.trace(format!("log file: {value}"));
            }
            "pidfile" => {
                self.conf.pid_file = Some(value.into());
                self.trace(format!("pid file: {value}"));
            }
            "interface" => {
                let taken = self.interface_given || self.conf.interface.is_some();
                let name = cut(value, INTERFACE);
                if !taken && !name.is_empty() {
                    self.conf.interface = Some(name.into());
                    self.trace(format!("interface: {name}"));
                }
            }
            _ => return Err(Wrong::Syntax),
        }
        Ok(())
    }

    fn door(&mut self, key: &str, value: &str) -> Result<(), Wrong> {
        let Some(door) = self.conf.doors.last_mut() else { return Err(Wrong::NoSection) };
        let name = door.name.clone();
        let shown = match key {
            "one_time_sequences" => return self.one_time(value),
            "tcpflags" => return self.flags(value),
            "sequence" => {
                door.sequence = sequence(value, &name).map_err(Wrong::Sequence)?;
                door.fixed_first = door.one_time_sequences.is_some();
                format!("sequence: {}", list(&door.sequence))
            }
            "seq_timeout" | "timeout" => {
                door.seq_timeout = atoi(value).into();
                format!("seq_timeout: {}", door.seq_timeout)
            }
            "cmd_timeout" => {
                door.cmd_timeout = atoi(value).into();
                format!("cmd_timeout: {}", door.cmd_timeout)
            }
            _ => {
                let (place, key) = match key {
                    "target" => (&mut door.target, key),
                    "start_command" | "command" => (&mut door.start_command, "start_command"),
                    "start_command_6" | "command_6" => {
                        (&mut door.start_command_6, "start_command_6")
                    }
                    "stop_command" => (&mut door.stop_command, key),
                    "stop_command_6" => (&mut door.stop_command_6, key),
                    _ => return Err(Wrong::Syntax),
                };
                *place = Some(value.to_owned());
                format!("{key}: {value}")
            }
        };
        self.trace(format!("{name}: {shown}"));
        Ok(())
    }

    fn one_time(&mut self, value: &str) -> Result<(), Wrong> {
        let path = PathBuf::from(value);
        let text = (self.open)(&path).map_err(|reason| Wrong::OneTimeFile(path.clone(), reason))?;
        let Some(door) = self.conf.doors.last() else { return Err(Wrong::NoSection) };
        let name = door.name.clone();
        self.trace(format!("{name}: one time sequences file: {value}"));
        let first =
            one_time::first(&text, &name, &mut |error| (self.note)(ParseNote::Skipped(error)));
        let sequence = match (first, self.strictness) {
            (Some(sequence), _) => sequence,
            (None, Strictness::Knockd) => return Err(Wrong::NoneLeft(name)),
            (None, _) => Vec::new(),
        };
        (self.note)(ParseNote::Trace(one_time::new_sequence(&name, &sequence)));
        self.trace(format!("{name}: sequence: {}", list(&sequence)));
        if let Some(door) = self.conf.doors.last_mut() {
            door.one_time_sequences = Some(path);
            door.fixed_first = false;
            door.later_steps = one_time::steps(&text);
            door.sequence = sequence;
        }
        Ok(())
    }

    fn flags(&mut self, value: &str) -> Result<(), Wrong> {
        for word in value.split(',') {
            let word = word.to_ascii_uppercase();
            let name = word.strip_prefix('!').unwrap_or(&word);
            let index = TcpFlags::NAMES.iter().position(|known| *known == name);
            let Some(index) = index else { return Err(Wrong::Flag(word)) };
            if let Some(door) = self.conf.doors.last_mut() {
                door.flags.ask(1 << index, name == word);
            }
            self.trace(format!("tcp flag: {word}"));
        }
        Ok(())
    }

    fn trace(&mut self, text: String) {
        (self.note)(ParseNote::Trace(format!("config: {text}")));
    }
}

fn step(element: &str, door: &str) -> Result<Step, SequenceError> {
    let (port, proto) = match element.split_once(':') {
        Some((port, rest)) => (port, rest.split(':').next()),
        None => (element, None),
    };
    let number = atoi(port);
    if number > i32::from(u16::MAX) {
        let text = format!("section {door}: port {port} is invalid");
        return Err(SequenceError { text, is_logged: false });
    }
    // COMPAT: -1 is port 65535: knockd stores the number in 16 bits.
    let [_, _, high, low] = number.to_be_bytes();
    let number = u16::from_be_bytes([high, low]);
    let proto = match proto.map(trim_text) {
        None => Proto::Tcp,
        Some(word) if word.eq_ignore_ascii_case("tcp") => Proto::Tcp,
        Some(word) if word.eq_ignore_ascii_case("udp") => Proto::Udp,
        Some(_) => {
            let text = format!("section {door}: unknown protocol in knock sequence");
            return Err(SequenceError { text, is_logged: true });
        }
    };
    Ok(Step::Port(Port { proto, number }))
}

/// COMPAT: C's `atoi` where `long` has 64 bits: leading blanks, a sign, digits; clamped to 64 bits,
/// then cut to 32.
pub fn atoi(text: &str) -> i32 {
    let text = text.trim_start_matches(is_blank);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut number = 0_i64;
    for digit in digits.bytes().take_while(u8::is_ascii_digit) {
        let digit = i64::from(digit - b'0');
        number = number.saturating_mul(10).saturating_add(if negative { -digit } else { digit });
    }
    let [_, _, _, _, a, b, c, d] = number.to_be_bytes();
    i32::from_be_bytes([a, b, c, d])
}

/// Lines as `fgets` cuts them. What follows a NUL in one is lost, as in C.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|b| *b == b'\n')
        .flat_map(|line| line.chunks(LINE))
        .map(|line| line.split(|b| *b == 0).next().unwrap_or(line))
}

/// C's `isspace`.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

fn trim_text(text: &str) -> &str {
    text.trim_matches(is_blank)
}

fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_blank(char::from(*first))
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && is_blank(char::from(*last))
    {
        bytes = rest;
    }
    bytes
}

/// At most `limit` bytes, never half a character.
pub fn cut(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
