//! What the log says of openings, in knockd's words where it has any.
//! When it says so is left to the file above.

use std::net::IpAddr;

use super::CommandLine;

/// Log lines, in knockd's words where it has any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpeningNote {
    /// A command is about to run.
    Running {
        /// The door.
        door: String,
        /// The command.
        command: CommandLine,
    },
    /// It ended, and not well.
    Status {
        /// The door.
        door: String,
        /// Its exit status; 0 when a signal ended it.
        status: i32,
    },
    /// The time for the stop command has come.
    Timeout {
        /// The opening.
        id: u64,
        /// The door.
        door: String,
        /// Who had knocked.
        source: IpAddr,
    },
}

/// Why no command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// The door has no start command for this address family.
    NoCommand,
    /// The start command is longer than [`super::COMMAND`].
    StartTooLong,
    /// The stop command is.
    StopTooLong,
    /// [`super::LEASES`] are under way.
    Full,
}

impl NotOpened {
    /// What the log says of it, in knockd's words where it has any.
    pub fn text(self) -> Option<&'static str> {
        match self {
            NotOpened::NoCommand => None,
            NotOpened::StartTooLong => {
                Some("error: parsed start command has been truncated! --> won't execute it")
            }
            NotOpened::StopTooLong => Some(
                "error: parsed stop command has been truncated! --> won't execute start command",
            ),
            NotOpened::Full => Some(
                "error: too many openings wait for their stop commands --> won't execute start command",
            ),
        }
    }
}

/// As knockd writes them; `who` names the source, with its host name if it was looked up.
impl OpeningNote {
    /// The text of the log line. `who` shows the source of an opening.
    pub fn text(&self, who: impl Fn(u64, IpAddr) -> String) -> String {
        match self {
            OpeningNote::Running { door, command } => format!("{door}: running command: {command}"),
            OpeningNote::Status { door, status } => {
                format!("{door}: command returned non-zero status code ({status})")
            }
            OpeningNote::Timeout { id, door, source } => {
                format!("{}: {door}: command timeout", who(*id, *source))
            }
        }
    }
}
