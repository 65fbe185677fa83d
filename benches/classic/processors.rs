//! A processor for the client and one for the gateway, as two machines would have.
//! Who runs on which is left to `main` and `contestant`.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps what has this process id, 0 for the calling thread, and all that it starts from now on, to
/// one processor. Where there is one only, or it may not be chosen, nothing changes.
#[derive(Clone, Copy)]
pub(crate) struct Processor(Option<usize>);

impl Processor {
    pub(crate) fn take(self, pid: u32) {
        let mut set = CpuSet::new();
        let chosen = self.0.and_then(|number| set.set(number).ok()).zip(i32::try_from(pid).ok());
        if let Some(((), pid)) = chosen {
            let _ = sched_setaffinity(Pid::from_raw(pid), &set);
        }
    }
}

/// Of the client, the clock, the floods and whatever else measures.
pub(crate) fn ours() -> Processor {
    pick(0)
}

/// Of the contestant and its commands.
pub(crate) fn theirs() -> Processor {
    pick(1)
}

fn pick(which: usize) -> Processor {
    // Process 1 is not kept to any.
    let all = sched_getaffinity(Pid::from_raw(1)).or_else(|_| sched_getaffinity(Pid::from_raw(0)));
    let usable =
        |number: &usize| all.as_ref().is_ok_and(|set| set.is_set(*number).unwrap_or(false));
    let usable: Vec<usize> = (0..CpuSet::count()).filter(usable).collect();
    Processor(usable.get(which).copied().filter(|_| usable.len() > 1))
}
