//! The tasks that run outside the loop, and their deadlines.

use std::collections::BTreeMap;

use super::events::{Lane, Output, Task, TaskId};
use super::outbox::Outbox;
use crate::core::types::{Boot, Now};

/// At most one task per lane. A task cannot be cancelled: a late one keeps its lane until it ends.
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

    /// True if the task of this lane has missed its deadline.
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

    /// Removes a task that ended. Returns its lane, and true if it was late; `None` if the id is
    /// unknown.
    pub(super) fn ended(&mut self, id: TaskId) -> Option<(Lane, bool)> {
        let (lane, task) = self.running.iter().find(|(_, task)| task.id == id)?;
        let (lane, late) = (*lane, task.late);
        self.running.remove(&lane);
        Some((lane, late))
    }

    /// Marks the tasks that have just missed their deadline as late, and returns their lanes.
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

    /// The next moment at which [`Tasks::expire`] has something to do.
    pub(super) fn deadline(&self) -> Option<Boot> {
        self.running.values().filter(|task| !task.late).map(|task| task.deadline).min()
    }
}
