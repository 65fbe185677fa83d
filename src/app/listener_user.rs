//! The user that the listener runs as. A lookup may query the network.

use nix::unistd::{User, geteuid};

use crate::core::types::Fault;
use crate::edge::confine::SHARED_USER;

/// The listener's default users; the first that exists is used. An empty root directory has no file
/// with users: there the id of `nobody` is used.
const USERS: [&str; 2] = ["_toctoc", "nobody"];

/// The user and group id for a gateway's listener; `None` if we are not root and so cannot change
/// user. May query the network.
/// Error: no user has this name.
pub(super) fn gateway_user(name: Option<&str>) -> Result<Option<(u32, u32)>, Fault> {
    match name {
        _ if !geteuid().is_root() => Ok(None),
        Some(name) => named_user(name).map(Some),
        None => Ok(Some(first_user())),
    }
}

/// The same for a gateway with doors only; `None` also without CAP_SETUID, as under Debian's unit
/// for knockd, whose CapabilityBoundingSet= lacks it. A gateway with keys refuses to run like that.
pub(super) fn doors_user() -> Option<(u32, u32)> {
    let held = capctl::CapState::get_current().ok()?.effective;
    let may_change = held.has(capctl::Cap::SETUID) && held.has(capctl::Cap::SETGID);
    if geteuid().is_root() && may_change { Some(first_user()) } else { None }
}

fn first_user() -> (u32, u32) {
    USERS.iter().find_map(|name| find_user(name)).unwrap_or((SHARED_USER, SHARED_USER))
}

/// The user and group id of the user that the configuration names.
/// Error: no user has this name.
pub(super) fn named_user(name: &str) -> Result<(u32, u32), Fault> {
    match find_user(name) {
        Some(user) => Ok(user),
        None => Err(Fault::new(
            format!("[gateway] user = \"{name}\": there is no such user"),
            format!(
                "`useradd --system --no-create-home --shell /usr/sbin/nologin {name}`, or leave the key out"
            ),
        )),
    }
}

fn find_user(name: &str) -> Option<(u32, u32)> {
    let user = User::from_name(name).ok()??;
    Some((user.uid.as_raw(), user.gid.as_raw()))
}
