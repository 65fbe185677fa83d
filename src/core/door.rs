//! A classic door as the sequence machine sees it.
//! Its text is left to `config::knockd`, hits and stages to `sequence`, its commands to `edge::command`.

use std::path::PathBuf;

use super::types::Port;

/// A door that a classic sequence opens.
#[derive(Clone, Debug, PartialEq)]
pub struct Door {
    /// Its name in log lines.
    pub name: String,
    /// The ports to hit, in order, 1 to 32.
    pub sequence: Vec<Port>,
    /// Seconds from the first hit to the last.
    pub seq_timeout: i64,
    /// Which TCP flags a hit must and must not have.
    pub flags: TcpFlags,
    /// Run at once; `%IP%` is the source. For IPv6 sources `start_command_6` wins if present.
    pub start_command: Option<String>,
    /// For IPv6.
    pub start_command_6: Option<String>,
    /// Seconds between the end of the start command and the stop command.
    pub cmd_timeout: i64,
    /// Run after that.
    pub stop_command: Option<String>,
    /// For IPv6.
    pub stop_command_6: Option<String>,
    /// Destination that counts, instead of the interface's own addresses.
    pub target: Option<String>,
    /// File of one-time sequences.
    pub one_time_sequences: Option<PathBuf>,
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
    /// Whether a packet's flag byte fits.
    pub fn fit(self, flags: u8) -> bool {
        flags & self.set == self.set && flags & self.unset == 0
    }
}
