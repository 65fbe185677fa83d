//! Log lines about openings, in knockd's words where it has any.

use std::net::IpAddr;

use super::CommandLine;

/// One line for the log. `door` is the name of the door or service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpeningNote {
    Running {
        door: String,
        command: CommandLine,
    },
    /// A command failed, with this exit status; 0 if a signal ended it.
    Status {
        door: String,
        status: i32,
    },
    /// The time for the stop command of opening `id` has come.
    Timeout {
        id: u64,
        door: String,
        source: IpAddr,
    },
}

impl OpeningNote {
    /// The text of the line. `who` names the source of an opening, with its host name if it was
    /// looked up.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// The door has no start command for this address family.
    NoCommand,
    StartTooLong,
    StopTooLong,
    /// The door or service has its share of [`super::OPENINGS`].
    Full,
}

impl NotOpened {
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
