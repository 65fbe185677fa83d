//! One processor for the client and one for the gateway, as if they were two machines.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// A processor to run on; none if the machine has only one.
#[derive(Clone, Copy)]
pub(crate) struct Processor(Option<usize>);

impl Processor {
    /// Keeps a process, and everything that it starts from now on, on this processor; `pid` 0 is
    /// the calling thread. Without permission nothing changes.
    pub(crate) fn assign(self, pid: u32) {
        let (Some(number), Ok(pid)) = (self.0, i32::try_from(pid)) else { return };
        let mut set = CpuSet::new();
        if set.set(number).is_ok() {
            let _ = sched_setaffinity(Pid::from_raw(pid), &set);
        }
    }
}

/// The processor of everything that measures: client, clock, floods.
pub(crate) fn of_measurement() -> Processor {
    pick(0)
}

/// The processor of the contestant and its commands.
pub(crate) fn of_contestant() -> Processor {
    pick(1)
}

fn pick(index: usize) -> Processor {
    // Process 1 may run on all processors.
    let all = sched_getaffinity(Pid::from_raw(1)).or_else(|_| sched_getaffinity(Pid::from_raw(0)));
    let Ok(all) = all else { return Processor(None) };
    let usable: Vec<usize> =
        (0..CpuSet::count()).filter(|number| all.is_set(*number).unwrap_or(false)).collect();
    if usable.len() < 2 {
        return Processor(None);
    }
    Processor(usable.get(index).copied())
}
