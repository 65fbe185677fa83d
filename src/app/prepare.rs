//! A gateway's configuration with everything about it that is slow to find out, such as the
//! listener's user and the warnings, so that its users need not wait.

use std::collections::BTreeSet;
use std::path::Path;

use super::listener_user::gateway_user;
use super::load::{self, GatewayConfig};
use super::programs;
use super::warnings::warnings_here;
use crate::core::types::{ClientId, Fault};
use crate::edge::files::{self, FileCheck};
use crate::keys::authorized;

/// A configuration that is ready to take effect.
pub(super) struct Prepared {
    /// The content of the files.
    pub(super) config: GatewayConfig,
    /// The listener's user and group id; `None` if we cannot change user.
    pub(super) user: Option<(u32, u32)>,
    /// Warnings about settings that are allowed but unwise.
    pub(super) warnings: Vec<String>,
}

/// Reads and checks the configuration at `path` and every file that it names. May wait for disks
/// and networks.
///
/// # Errors
/// The first mistake, with its place and remedy.
pub(super) fn prepare(path: &Path) -> Result<Prepared, Fault> {
    let config = load::load_all(path)?;
    programs::check(&config.settings)?;
    let user = gateway_user(config.settings.gateway.user.as_deref())?;
    let warnings = warnings_here(&config);
    Ok(Prepared { config, user, warnings })
}

/// The ids of the enrolled clients. Ignores errors in their lists of services.
///
/// # Errors
/// The file cannot be read or trusted, or a line is wrong.
pub(super) fn client_ids(path: &Path) -> Result<BTreeSet<ClientId>, Fault> {
    let text = files::read_own(path, FileCheck::Trusted)?;
    let clients = authorized::parse(&path.display().to_string(), &text, None)?;
    Ok(clients.iter().map(|client| client.id).collect())
}
