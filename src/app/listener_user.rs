//! The user that a listener becomes. Looking one up may ask the network.

use nix::unistd::{User, geteuid};

use crate::core::types::Fault;

/// Users that the listener runs as unless the configuration names one, the first that exists.
const USERS: [&str; 2] = ["_toctoc", "nobody"];

/// User and group id that a gateway's listener is to become; none if we cannot become anybody: we
/// are not root. May ask the network.
///
/// # Errors
/// There is no user of this name.
pub(super) fn gateway_user(name: Option<&str>) -> Result<Option<(u32, u32)>, Fault> {
    match name {
        _ if !geteuid().is_root() => Ok(None),
        Some(name) => named_user(name).map(Some),
        None => Ok(first_user()),
    }
}

/// The same where there are only doors. Below Debian's unit for knockd, whose
/// CapabilityBoundingSet= has no CAP_SETUID, we cannot become anybody either. Where there are keys
/// to lose, that is refused.
pub(super) fn doors_user() -> Option<(u32, u32)> {
    let held = capctl::CapState::get_current();
    let needed = [capctl::Cap::SETUID, capctl::Cap::SETGID];
    let may_change = held.is_ok_and(|held| needed.into_iter().all(|cap| held.effective.has(cap)));
    if geteuid().is_root() && may_change { first_user() } else { None }
}

fn first_user() -> Option<(u32, u32)> {
    USERS.iter().find_map(|name| find_user(name))
}

/// User and group id of the user that the configuration names.
///
/// # Errors
/// There is none.
pub(super) fn named_user(name: &str) -> Result<(u32, u32), Fault> {
    find_user(name).ok_or_else(|| {
        Fault::new(
            format!("[gateway] user = \"{name}\": there is no such user"),
            format!("`useradd --system --no-create-home --shell /usr/sbin/nologin {name}`, or leave the key out"),
        )
    })
}

fn find_user(name: &str) -> Option<(u32, u32)> {
    User::from_name(name).ok().flatten().map(|user| (user.uid.as_raw(), user.gid.as_raw()))
}
