//! The program in the kernel. Loading it takes CAP_BPF, and a kernel that allows it.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use zeroize::Zeroizing;

use super::{FirstStepFilter, Instruction, TagFilter, program};
use crate::core::door::first_steps::HeldSteps;
use crate::core::keyring::SharedTags;
use crate::core::quota::Rate;
use crate::core::sequence::first_steps::{FirstSteps, LINES};
use crate::edge::bpf::FilterSpec;
use crate::edge::sys::{self, PacketProgram};

/// Bytes of the verifier's account that are kept if it refuses the program.
const LOG: usize = 64 << 10;

/// A table of tags that the kernel shares.
pub struct TagMap {
    map: OwnedFd,
    pub tags: SharedTags,
    rate: Rate,
}

/// Why there is no program in the kernel.
#[derive(Debug)]
pub enum NotLoaded {
    /// It is forbidden: no CAP_BPF, a lockdown, a container, or a kernel without bpf(2).
    Forbidden,
    /// The kernel is too old, or refuses this program.
    Refused { error: io::Error, log: String },
}

impl TagMap {
    /// A table with room for so many tags, of clients who may knock at this rate.
    pub fn new(tags: usize, rate: Rate) -> Result<Self, NotLoaded> {
        let lines = SharedTags::lines_for(tags);
        let lines = u32::try_from(lines).map_err(|_| NotLoaded::too_large())?;
        let (map, memory) =
            sys::shared_lines(lines, *b"toctoc_tags\0\0\0\0\0").map_err(NotLoaded::without_log)?;
        let tags = SharedTags::new(memory).ok_or_else(NotLoaded::too_large)?;
        Ok(Self { map, tags, rate })
    }

    /// What a program needs to know these tags.
    pub fn filter<'a>(&'a self, mask: &'a [u8; 32]) -> TagFilter<'a> {
        TagFilter { mask, tags: &self.tags, map: self.map.as_raw_fd(), rate: self.rate }
    }
}

/// A table of first steps that the kernel shares.
pub struct FirstStepMap {
    map: OwnedFd,
    pub first_steps: FirstSteps,
}

impl FirstStepMap {
    /// `seed`: random.
    pub fn new(steps: HeldSteps, seed: u64) -> Result<Self, NotLoaded> {
        let lines = sys::shared_lines(LINES as u32, *b"toctoc_steps\0\0\0\0");
        let (map, memory) = lines.map_err(NotLoaded::without_log)?;
        let first_steps = FirstSteps::new(memory, seed, steps).ok_or_else(NotLoaded::too_large)?;
        Ok(Self { map, first_steps })
    }

    /// What the program needs of it.
    pub fn filter(&self, ipv6: bool) -> FirstStepFilter<'_> {
        FirstStepFilter { first_steps: &self.first_steps, map: self.map.as_raw_fd(), ipv6 }
    }
}

/// Loads the program of the sockets for `spec`, with what it knows.
pub fn load_filter(
    spec: &FilterSpec, tags: Option<&TagFilter<'_>>, first_steps: Option<&FirstStepFilter<'_>>,
) -> Result<OwnedFd, NotLoaded> {
    let program = program(spec, tags, first_steps).ok_or_else(NotLoaded::too_large)?;
    load(PacketProgram::Filter, &program)
}

pub(super) fn load(kind: PacketProgram, program: &[Instruction]) -> Result<OwnedFd, NotLoaded> {
    let mut code = Zeroizing::new(Vec::with_capacity(program.len()));
    code.extend(program.iter().map(|instruction| instruction.encode()));
    sys::load_packet_program(kind, &code, &mut []).map_err(|error| {
        // What the verifier says takes seconds and memory. Nobody reads it but tests.
        let log = if cfg!(any(test, fuzzing)) { verifier_log(kind, &code) } else { String::new() };
        why(error, log)
    })
}

fn verifier_log(kind: PacketProgram, code: &[u64]) -> String {
    let mut log = vec![0; LOG];
    let _ = sys::load_packet_program(kind, code, &mut log);
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(LOG);
    String::from_utf8_lossy(&log[..end]).into_owned()
}

impl NotLoaded {
    pub(super) fn too_large() -> NotLoaded {
        NotLoaded::without_log(io::Error::from_raw_os_error(libc::E2BIG))
    }

    pub(super) fn without_log(error: io::Error) -> NotLoaded {
        why(error, String::new())
    }
}

fn why(error: io::Error, log: String) -> NotLoaded {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) if log.is_empty() => NotLoaded::Forbidden,
        _ => NotLoaded::Refused { error, log },
    }
}

impl fmt::Display for NotLoaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotLoaded::Forbidden => f.write_str("the kernel does not allow it"),
            NotLoaded::Refused { error, log } => write!(f, "{error}\n{log}"),
        }
    }
}
