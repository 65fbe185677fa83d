//! A gateway's configuration with all that takes time to find out about it, so that whoever uses it
//! need not wait: the listener's user, warnings.

use std::collections::BTreeSet;
use std::path::Path;

use super::listener_user::gateway_user;
use super::load::{self, GatewayConfig};
use super::warnings::warnings_here;
use crate::core::types::{ClientId, Fault};
use crate::edge::files::{self, FileCheck};
use crate::keys::authorized;

/// A configuration that is ready to be put in force.
pub(super) struct Prepared {
    /// What the files say.
    pub(super) config: GatewayConfig,
    /// User and group id that the listener becomes, if we can become anybody.
    pub(super) user: Option<(u32, u32)>,
    /// What is allowed but unwise.
    pub(super) warnings: Vec<String>,
}

/// Reads and checks all that the configuration at `path` leads to. May wait for disks and networks.
///
/// # Errors
/// The first thing that is wrong, with its place and remedy.
pub(super) fn prepare(path: &Path) -> Result<Prepared, Fault> {
    let config = load::load_all(path)?;
    let user = gateway_user(config.settings.gateway.user.as_deref())?;
    let warnings = warnings_here(&config);
    Ok(Prepared { config, user, warnings })
}

/// Reads who is enrolled, whatever else may be wrong with their lines' services.
///
/// # Errors
/// The file cannot be read or trusted, or a line is wrong.
pub(super) fn client_ids(path: &Path) -> Result<BTreeSet<ClientId>, Fault> {
    let text = files::read(path, FileCheck::Trusted)?;
    let clients = authorized::parse(&path.display().to_string(), &text, None)?;
    Ok(clients.iter().map(|client| client.id).collect())
}
