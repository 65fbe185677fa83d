//! A gateway's configuration with everything about it that is slow to find out, such as the
//! listener's user and the warnings, so that its users need not wait.

use std::path::Path;

use super::joined::ClientFiles;
use super::listener_user::gateway_user;
use super::load::{self, GatewayConfig};
use super::programs;
use super::warnings::warnings_here;
use crate::core::clients::ClientTable;
use crate::core::types::Fault;

pub(super) struct Prepared {
    pub(super) config: GatewayConfig,
    /// The listener's user and group id; `None` if we cannot change user.
    pub(super) user: Option<(u32, u32)>,
    /// Warnings about settings that are allowed but unwise.
    pub(super) warnings: Vec<String>,
}

/// The clients in force, and the files that they are from.
pub(super) struct KnownClients {
    pub(super) files: ClientFiles,
    pub(super) clients: ClientTable,
}

/// Reads and checks the configuration at `path` and every file that it names. May wait for disks
/// and networks. The clients need not be read if they are those of `known`.
/// Error: the first mistake, with its place and remedy.
pub(super) fn prepare(path: &Path, known: Option<&KnownClients>) -> Result<Prepared, Fault> {
    let config = load::load_with(path, |settings| match known {
        Some(known) if known.files == ClientFiles::of(settings) => Ok(known.clients.clone()),
        _ => load::clients(settings),
    })?;
    programs::check(&config.settings)?;
    let user = gateway_user(config.settings.gateway.user.as_deref())?;
    let warnings = warnings_here(&config);
    Ok(Prepared { config, user, warnings })
}
