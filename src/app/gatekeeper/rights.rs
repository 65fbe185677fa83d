//! Which rights this process keeps while it serves: few, unless commands of doors or services may
//! need them all. Giving the others up is left to `edge::confine`.

use super::Gatekeeper;
use crate::app::load::GatewayConfig;
use crate::core::door::Door;
use crate::core::openings::Openings;
use crate::core::types::Fault;
use crate::edge::confine::drop_privileges;

/// What status says where nothing was given up.
pub(super) const ALL_KEPT: &str =
    "the gatekeeper keeps all of its rights: the commands of doors or services may need them";

/// Gives up all rights that `loaded` does not need; whether they were kept instead. What is given
/// up cannot be had again, and those that we start do not get it either: an admin's command may
/// need anything that root has.
pub(super) fn settle(loaded: &GatewayConfig, leases: &Openings) -> Result<bool, Fault> {
    // A stop command of an earlier run may be waiting although its door or service is gone.
    let all = runs_commands(loaded) || !leases.is_empty();
    if all { Ok(true) } else { drop_privileges().map(|()| false) }
}

impl Gatekeeper {
    /// Whether what `loaded` asks for can be done with the rights that are left.
    pub(super) fn has_rights_for(&self, loaded: &GatewayConfig) -> Result<(), Fault> {
        if self.all_rights || !runs_commands(loaded) {
            return Ok(());
        }
        Err(Fault::new(
            format!(
                "{}: a door or a service has commands, and this toctocd has given up the rights for them",
                self.config.display()
            ),
            "restart toctocd: it keeps its rights if one has commands when it starts",
        ))
    }
}

fn runs_commands(loaded: &GatewayConfig) -> bool {
    let commands = |door: &Door| {
        [&door.start_command, &door.start_command_6, &door.stop_command, &door.stop_command_6]
            .map(Option::is_some)
    };
    let doors = loaded.settings.doors.iter().any(|door| commands(door).contains(&true));
    doors || loaded.settings.services.iter().any(|service| service.commands.is_some())
}
