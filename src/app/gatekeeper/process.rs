//! What the process asks of the kernel for itself before it serves: secrets kept, clock and
//! entropy. See `rights` for what it gives up.

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};

use super::Host;
use crate::core::types::{Fault, Now};
use crate::edge::{clock, entropy};

/// The machine that we run on.
pub(super) struct ThisHost;

impl Host for ThisHost {
    fn now(&self) -> Now {
        clock::now()
    }

    fn entropy(&mut self) -> Result<[u8; 16], Fault> {
        entropy::bytes()
    }
}

/// Neither a core file nor another process of this user gets to see the keys, and no file is made
/// for others to read. Answers the umask as it was: that is for the commands of doors.
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
