//! Which tasks run beside the loop, and until when each is waited for.

use std::collections::BTreeMap;

use super::events::{Lane, Output, Task, TaskId};
use super::outbox::Outbox;
use crate::core::types::{Boot, Now};

/// One task a lane. Nobody can end a task: one that is late keeps its lane until it ends.
#[derive(Default)]
pub(super) struct Tasks {
    last: u64,
    running: BTreeMap<Lane, RunningTask>,
}

struct RunningTask {
    id: TaskId,
    deadline: Boot,
    late: bool,
}

impl Tasks {
    /// True if a task of this lane can be started.
    pub(super) fn is_free(&self, lane: Lane) -> bool {
        !self.running.contains_key(&lane)
    }

    /// True if the task of this lane takes too long.
    pub(super) fn is_late(&self, lane: Lane) -> bool {
        self.running.get(&lane).is_some_and(|task| task.late)
    }

    /// Starts `task`; its lane must be free.
    pub(super) fn start(&mut self, now: Now, task: Task, out: &mut Outbox) {
        self.last += 1;
        let (id, lane) = (TaskId(self.last), task.lane());
        let deadline = now.boot.plus(lane.patience());
        self.running.insert(lane, RunningTask { id, deadline, late: false });
        out.push(Output::Start(id, task));
    }

    /// A task has ended: its lane, and true if it was late. None if it is not known.
    pub(super) fn ended(&mut self, id: TaskId) -> Option<(Lane, bool)> {
        let (lane, task) = self.running.iter().find(|(_, task)| task.id == id)?;
        let (lane, late) = (*lane, task.late);
        self.running.remove(&lane);
        Some((lane, late))
    }

    /// The lanes whose tasks are late from now on.
    pub(super) fn expire(&mut self, now: Now) -> Vec<Lane> {
        let mut lanes = Vec::new();
        for (lane, task) in &mut self.running {
            if !task.late && task.deadline <= now.boot {
                task.late = true;
                lanes.push(*lane);
            }
        }
        lanes
    }

    /// When [`Tasks::expire`] has something to do next.
    pub(super) fn deadline(&self) -> Option<Boot> {
        self.running.values().filter(|task| !task.late).map(|task| task.deadline).min()
    }
}
