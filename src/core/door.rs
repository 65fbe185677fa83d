//! A classic door: its sequence, what a hit must look like, its commands. Its text is left to
//! `config`, hits and stages to `sequence`, the commands' lives to `leases` and `edge::command`,
//! what is weak about it to `weakness`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use super::types::{Port, Proto, ServiceName};
pub use weakness::{Weakness, is_shipped, weaknesses};

pub mod weakness;

/// How many steps a sequence may have.
pub const STEPS: usize = 32;

/// How many doors one gateway may have.
pub const DOORS: usize = 4096;

/// A door that a classic sequence opens.
#[derive(Clone, Debug, PartialEq)]
pub struct Door {
    /// Its name in log lines, at most 127 bytes. Names need not differ.
    pub name: String,
    /// What to hit, in order, 1 to [`STEPS`]. With one-time sequences: the one in force when the
    /// configuration was read.
    pub sequence: Vec<Step>,
    /// Seconds from the first hit to the last. 0 and less: no sequence of more than one step can be
    /// completed.
    pub seq_timeout: i64,
    /// Which TCP flags a hit must and must not have.
    pub flags: TcpFlags,
    /// Run at once; `%IP%` is the source. For IPv6 sources `start_command_6` wins if present.
    pub start_command: Option<String>,
    /// For IPv6; empty = do nothing.
    pub start_command_6: Option<String>,
    /// Seconds between the end of the start command and the stop command; less than 0 = never.
    pub cmd_timeout: i64,
    /// Run after that.
    pub stop_command: Option<String>,
    /// For IPv6.
    pub stop_command_6: Option<String>,
    /// Destination that counts, instead of the interface's own addresses. Compared as text, as
    /// knockd does.
    pub target: Option<String>,
    /// File of one-time sequences.
    pub one_time_sequences: Option<PathBuf>,
    /// Whether `sequence` does not come from that file but stands in the configuration itself: it
    /// counts until it is used, then the file does.
    pub fixed_first: bool,
    /// Every step of that file's usable lines: the kernel's filter is fixed once it stands, so it
    /// must know them beforehand.
    pub later_steps: Vec<Step>,
    /// Granted natively, instead of by commands (TOML form only).
    pub service: Option<ServiceName>,
    /// Whether the step that was just right may be repeated without a reset: retransmitted SYNs,
    /// browsers (TOML form only).
    pub tolerate_duplicates: bool,
    /// Seconds after an opening in which the same source's hits are left alone (TOML form only).
    pub pause_after: u32,
    /// Whether it stands in our own configuration, not in a knockd.conf.
    pub native: bool,
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
        }
    }
}

impl Door {
    /// The start and the stop command for a knocker from `source`, `%IP%` still in them. None
    /// without a start command: then no stop command runs either.
    pub fn commands(&self, source: IpAddr) -> Option<(&str, Option<&str>)> {
        let six = |six: &'_ Option<String>| six.is_some() && source.is_ipv6();
        let start =
            if six(&self.start_command_6) { &self.start_command_6 } else { &self.start_command };
        let stop =
            if six(&self.stop_command_6) { &self.stop_command_6 } else { &self.stop_command };
        let start = start.as_deref().filter(|text| !text.is_empty())?;
        Some((start, stop.as_deref()))
    }
}

/// The largest echo request that an IP packet holds.
const ECHO: u16 = 65_507;

/// One hit of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// A TCP packet or a UDP datagram to this port.
    Port(Port),
    /// An ICMP or ICMPv6 echo request that carries this many bytes (TOML form only).
    Echo {
        /// Bytes of payload after the eight of the ICMP header.
        size: u16,
    },
}

impl Step {
    /// A TCP step.
    pub fn tcp(number: u16) -> Self {
        Step::Port(Port { proto: Proto::Tcp, number })
    }

    /// A UDP step.
    pub fn udp(number: u16) -> Self {
        Step::Port(Port { proto: Proto::Udp, number })
    }

    /// Reads a step in our own notation: `7001/tcp`, `7001/udp`, `icmp:64`.
    pub fn read(text: &str) -> Option<Self> {
        let Some(size) = text.strip_prefix("icmp:") else {
            return Port::read(text).map(Step::Port);
        };
        let plain =
            size.bytes().all(|b| b.is_ascii_digit()) && (size == "0" || !size.starts_with('0'));
        size.parse().ok().filter(|size| plain && *size <= ECHO).map(|size| Step::Echo { size })
    }

    /// The same notation written.
    pub fn notation(self) -> String {
        match self {
            Step::Port(port) => port.to_string(),
            Step::Echo { size } => format!("icmp:{size}"),
        }
    }

    /// Whether TCP flags say anything about it.
    pub fn is_tcp(self) -> bool {
        matches!(self, Step::Port(Port { proto: Proto::Tcp, .. }))
    }
}

/// As in a knockd.conf: `7001:tcp`, `icmp:64`.
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
    /// Bits that must not be set.
    pub unset: u8,
}

impl TcpFlags {
    /// The flags' names, bit by bit from the lowest.
    pub const NAMES: [&'static str; 6] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];

    /// Asks for `bit` to be set, or not to be set, whatever was asked of it before.
    pub fn ask(&mut self, bit: u8, set: bool) {
        let (yes, no) = if set { (bit, 0) } else { (0, bit) };
        self.set = self.set & !bit | yes;
        self.unset = self.unset & !bit | no;
    }

    /// Whether a packet's flag byte fits.
    pub fn fit(self, flags: u8) -> bool {
        flags & self.set == self.set && flags & self.unset == 0
    }

    /// The first flag, in header order, that is not as it must be: its name, and whether it is
    /// wanted. Of a packet that ends before its flags (`None`) every flag that matters is wrong.
    pub fn misfit(self, flags: Option<u8>) -> Option<(&'static str, bool)> {
        let wrong =
            flags.map_or(self.set | self.unset, |flags| (self.set & !flags) | (self.unset & flags));
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
    fn a_flag_asked_for_anew_leaves_the_others_as_they_were_asked_for_and_a_packet_fits_by_all_of_them()
     {
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
    fn ipv6_knockers_get_their_own_commands_where_there_are_some() {
        let (v4, v6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let mut door = door("d", &[1]);
        assert_eq!(door.commands(v4), None);
        door.stop_command = Some("stop".into());
        assert_eq!(door.commands(v4), None, "a stop command alone never runs");
        door.start_command = Some("start".into());
        door.stop_command_6 = Some("stop6".into());
        assert_eq!(door.commands(v4), Some(("start", Some("stop"))));
        assert_eq!(door.commands(v6), Some(("start", Some("stop6"))));
        door.start_command_6 = Some(String::new());
        assert_eq!(door.commands(v6), None, "an empty start_command_6 means: do nothing");
    }
}
