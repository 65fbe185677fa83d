//! Process setup before the gatekeeper serves: protection of secrets, clock and entropy. See
//! `rights` for the rights that it gives up.

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};

use super::Host;
use crate::core::types::{Fault, Now};
use crate::edge::{clock, entropy};

pub(super) struct ThisHost;

impl Host for ThisHost {
    fn now(&self) -> Now {
        clock::now()
    }

    fn entropy(&mut self) -> Result<[u8; 16], Fault> {
        entropy::bytes()
    }
}

/// Keeps the keys out of core files and away from other processes of this user, and makes new files
/// private. Returns the previous umask, which the commands of doors get.
///
/// # Errors
/// The kernel refuses.
pub(super) fn keep_secrets() -> Result<Mode, Fault> {
    let before = umask(Mode::from_bits_truncate(0o077));
    let kept = set_dumpable(false).and_then(|()| setrlimit(Resource::RLIMIT_CORE, 0, 0));
    kept.map(|()| before).map_err(|error| {
        Fault::new(
            format!("the keys cannot be kept out of core files: {error}"),
            "is this Linux, and not a restricted container?",
        )
    })
}
