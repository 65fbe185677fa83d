//! The rights that the gatekeeper keeps while it serves: few, unless there are commands, which may
//! need all of them.

use crate::app::unit;
use crate::config::Settings;
use crate::core::openings::Openings;
use crate::core::types::Fault;
use crate::edge::confine::{drop_privileges, may_run_commands};

/// The rights of a gatekeeper that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    /// Only those that it needs itself.
    Few,
    /// All with which it was started, because it has commands.
    All,
    /// The same, but its unit leaves commands little.
    Narrow,
}

impl Rights {
    /// The status text.
    pub(super) fn limitation(self) -> Option<String> {
        match self {
            Rights::Few => None,
            Rights::All => Some(
                "the gatekeeper keeps all of its rights: the commands of doors, services or hooks \
                 may need them"
                    .to_owned(),
            ),
            Rights::Narrow => Some(format!(
                "the commands of doors, services or hooks have few rights under this unit, and may \
                 fail: {}",
                unit::remedy()
            )),
        }
    }
}

/// Drops all rights that `settings` does not need. Dropped rights cannot be regained, and child
/// processes do not get them either: a listener that is our child needs some, one that systemd
/// starts (`is_listener_apart`) none. All are kept if there are commands, because an admin's
/// command may need anything root can do.
///
/// # Errors
/// The kernel refuses.
pub(super) fn settle(
    settings: &Settings, openings: &Openings, is_listener_apart: bool,
) -> Result<Rights, Fault> {
    // A stop command from an earlier run may still be due after its door or service was removed.
    if !settings.runs_commands() && openings.is_empty() {
        drop_privileges(is_listener_apart)?;
        return Ok(Rights::Few);
    }
    Ok(if may_run_commands() { Rights::All } else { Rights::Narrow })
}
