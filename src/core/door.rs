//! A classic door: its sequence, the packets that count, and what it opens.
//! See `sequence` for stages, `openings` for its commands, `weakness` for warnings.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use super::types::{Port, Proto, ServiceName};
pub use weakness::{Weakness, is_shipped, weaknesses};

pub mod first_steps;
pub mod weakness;

/// The most steps of a sequence.
pub const STEPS: usize = 32;
/// The most doors of one gateway.
pub const DOORS: usize = 4096;

#[derive(Clone, Debug, PartialEq)]
pub struct Door {
    /// Its name in log lines, at most 127 bytes. Two doors may have the same.
    pub name: String,
    /// The steps in order, 1 to [`STEPS`]. With one-time sequences: the one in force when the
    /// configuration was read.
    pub sequence: Vec<Step>,
    /// Seconds from the first step to the last. 0 and less: no sequence of more than one step can
    /// be completed.
    pub seq_timeout: i64,
    pub flags: TcpFlags,
    /// Runs at once; `%IP%` is the source.
    pub start_command: Option<String>,
    /// Runs instead for an IPv6 source, if present; empty = run nothing.
    pub start_command_6: Option<String>,
    /// Seconds between the end of the start command and the stop command; less than 0 counts as 0.
    pub cmd_timeout: i64,
    /// Runs after that.
    pub stop_command: Option<String>,
    pub stop_command_6: Option<String>,
    /// The destination that counts, instead of the interface's own addresses. Compared as text, as
    /// knockd does.
    pub target: Option<String>,
    pub one_time_sequences: Option<PathBuf>,
    /// True if `sequence` is from the configuration and not from that file: it counts until it is
    /// used, then the file does.
    pub fixed_first: bool,
    /// Every step of that file's usable lines. The kernel's filter is fixed once it is set, so it
    /// must know them beforehand.
    pub later_steps: Vec<Step>,
    /// The service that it grants, instead of running commands (TOML form only).
    pub service: Option<ServiceName>,
    /// True if a step that was right may be repeated without a reset: retransmitted SYNs, browsers
    /// (TOML form only).
    pub tolerate_duplicates: bool,
    /// Seconds after an opening in which packets of the same source are ignored (TOML form only).
    pub pause_after: u32,
    /// True if it is in toctocd.toml, false if in a knockd.conf.
    pub native: bool,
    pub place: Place,
}

/// The beginning of a door's section, for messages.
#[derive(Clone, Debug, Default)]
pub struct Place {
    pub file: String,
    /// Counted from 1.
    pub line: usize,
}

/// A door that moved within its file is the same door.
impl PartialEq for Place {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl Default for Door {
    /// knockd's defaults: 25 s for the sequence, 10 s between the commands, nothing else.
    fn default() -> Self {
        Self {
            name: String::new(),
            sequence: Vec::new(),
            seq_timeout: 25,
            flags: TcpFlags::default(),
            start_command: None,
            start_command_6: None,
            cmd_timeout: 10,
            stop_command: None,
            stop_command_6: None,
            target: None,
            one_time_sequences: None,
            fixed_first: false,
            later_steps: Vec::new(),
            service: None,
            tolerate_duplicates: false,
            pause_after: 0,
            native: false,
            place: Place::default(),
        }
    }
}

/// A door's commands for one source, `%IP%` still in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorCommands<'a> {
    /// The start command; never empty.
    pub start: &'a str,
    pub stop: Option<&'a str>,
}

impl Door {
    /// The commands for a knock from `source`. `None` without a start command: then no stop command
    /// runs either.
    pub fn commands(&self, source: IpAddr) -> Option<DoorCommands<'_>> {
        let mut start = &self.start_command;
        let mut stop = &self.stop_command;
        if source.is_ipv6() {
            if self.start_command_6.is_some() {
                start = &self.start_command_6;
            }
            if self.stop_command_6.is_some() {
                stop = &self.stop_command_6;
            }
        }
        match start.as_deref() {
            None | Some("") => None,
            Some(start) => Some(DoorCommands { start, stop: stop.as_deref() }),
        }
    }
}

/// Bytes of payload in the largest echo request that an IP packet can hold.
const MAX_ECHO: u16 = 65_507;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    Port(Port),
    /// An ICMP or ICMPv6 echo request with this many bytes of payload (TOML form only).
    Echo {
        size: u16,
    },
}

impl Step {
    pub const fn tcp(number: u16) -> Self {
        Step::Port(Port { proto: Proto::Tcp, number })
    }

    pub const fn udp(number: u16) -> Self {
        Step::Port(Port { proto: Proto::Udp, number })
    }

    /// Reads a step in our own notation: `7001/tcp`, `7001/udp`, `icmp:64`.
    pub fn read(text: &str) -> Option<Self> {
        let Some(digits) = text.strip_prefix("icmp:") else {
            return Port::read(text).map(Step::Port);
        };
        let size: u16 = digits.parse().ok()?;
        // No sign and no leading zero: one spelling for each size.
        (size <= MAX_ECHO && size.to_string() == digits).then_some(Step::Echo { size })
    }

    pub fn notation(self) -> String {
        match self {
            Step::Port(port) => port.to_string(),
            Step::Echo { size } => format!("icmp:{size}"),
        }
    }

    /// True if TCP flags mean anything for it.
    pub fn is_tcp(self) -> bool {
        matches!(self, Step::Port(Port { proto: Proto::Tcp, .. }))
    }
}

/// The notation of a knockd.conf: `7001:tcp`, `icmp:64`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Port(port) => write!(f, "{}:{}", port.number, port.proto.name()),
            Step::Echo { size } => write!(f, "icmp:{size}"),
        }
    }
}

/// A mask over the six TCP flags in their header order: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TcpFlags {
    /// Bits that must be set.
    pub set: u8,
    pub unset: u8,
}

impl TcpFlags {
    /// The flags' names, bit by bit from the lowest.
    pub const NAMES: [&'static str; 6] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];

    /// Requires `bit` to be set, or not to be set, whatever was required of it before.
    pub fn ask(&mut self, bit: u8, set: bool) {
        self.set &= !bit;
        self.unset &= !bit;
        if set {
            self.set |= bit;
        } else {
            self.unset |= bit;
        }
    }

    pub fn fit(self, flags: u8) -> bool {
        flags & self.set == self.set && flags & self.unset == 0
    }

    /// The name of the first flag, in header order, that does not fit, and true if it must be set.
    /// In a packet that ends before its flags (`None`) every required flag is wrong.
    pub fn misfit(self, flags: Option<u8>) -> Option<(&'static str, bool)> {
        let wrong = match flags {
            Some(flags) => (self.set & !flags) | (self.unset & flags),
            None => self.set | self.unset,
        };
        let bit = wrong.trailing_zeros();
        let name = Self::NAMES.get(usize::try_from(bit).ok()?)?;
        Some((name, self.set & (1 << bit) != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(name: &str, ports: &[u16]) -> Door {
        let sequence = ports.iter().map(|number| Step::tcp(*number)).collect();
        Door { name: name.into(), sequence, ..Door::default() }
    }

    #[test]
    fn a_flag_required_again_leaves_the_others_and_a_packet_must_fit_all_of_them() {
        let (syn, ack) = (2, 16);
        let mut flags = TcpFlags::default();
        assert!(flags.fit(0) && flags.fit(syn | ack), "nothing was asked for");
        for (bit, set) in [(syn, false), (ack, false), (syn, true)] {
            flags.ask(bit, set);
        }
        assert_eq!((flags.set, flags.unset), (syn, ack));
        assert_eq!(
            [0, syn, ack, syn | ack, syn | 32].map(|byte| flags.fit(byte)),
            [false, true, false, false, true]
        );
    }

    #[test]
    fn ipv6_sources_get_their_own_commands_if_there_are_any() {
        let v4 = "192.0.2.1".parse().unwrap();
        let v6 = "2001:db8::1".parse().unwrap();
        let mut door = door("d", &[1]);
        assert_eq!(door.commands(v4), None);
        door.stop_command = Some("stop".into());
        assert_eq!(door.commands(v4), None, "a stop command alone never runs");
        door.start_command = Some("start".into());
        door.stop_command_6 = Some("stop6".into());
        assert_eq!(door.commands(v4), Some(DoorCommands { start: "start", stop: Some("stop") }));
        assert_eq!(door.commands(v6), Some(DoorCommands { start: "start", stop: Some("stop6") }));
        door.start_command_6 = Some(String::new());
        assert_eq!(door.commands(v6), None, "an empty start_command_6 means: do nothing");
    }
}
