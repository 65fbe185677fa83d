//! The rights that this process keeps while it serves: few, unless commands of doors or services
//! may need them all.

use crate::config::Settings;
use crate::core::openings::Openings;
use crate::core::types::Fault;
use crate::edge::confine::drop_privileges;

/// What status says where nothing was given up.
pub(super) const ALL_KEPT: &str =
    "the gatekeeper keeps all of its rights: the commands of doors or services may need them";

/// Gives up all rights that `settings` does not need; true if all were kept instead. What is given
/// up cannot be had again, and those that we start do not get it either: an admin's command may
/// need anything that root has.
///
/// # Errors
/// The kernel refuses.
pub(super) fn settle(settings: &Settings, openings: &Openings) -> Result<bool, Fault> {
    // A stop command of an earlier run may be waiting although its door or service is gone.
    let all = runs_commands(settings) || !openings.is_empty();
    if !all {
        drop_privileges()?;
    }
    Ok(all)
}

/// True if a door or a service has commands.
pub(super) fn runs_commands(settings: &Settings) -> bool {
    settings.services.iter().any(|service| service.commands.is_some())
        || settings.doors.iter().any(|door| {
            let commands = [
                &door.start_command,
                &door.start_command_6,
                &door.stop_command,
                &door.stop_command_6,
            ];
            commands.iter().any(|command| command.is_some())
        })
}
