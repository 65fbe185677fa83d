//! The rights that the gatekeeper keeps while it serves: few, unless there are commands, which may
//! need all of them.

use crate::config::Settings;
use crate::core::openings::Openings;
use crate::core::types::Fault;
use crate::edge::confine::drop_privileges;

/// The status text if all rights were kept.
pub(super) const ALL_KEPT: &str = "the gatekeeper keeps all of its rights: the commands of doors, services or hooks may need them";

/// Drops all rights that `settings` does not need. Returns true if all were kept instead. Dropped
/// rights cannot be regained, and child processes do not get them either. All are kept if there are
/// commands, because an admin's command may need anything root can do.
///
/// # Errors
/// The kernel refuses.
pub(super) fn settle(settings: &Settings, openings: &Openings) -> Result<bool, Fault> {
    // A stop command from an earlier run may still be due after its door or service was removed.
    let all = settings.runs_commands() || !openings.is_empty();
    if !all {
        drop_privileges()?;
    }
    Ok(all)
}
