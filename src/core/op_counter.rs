//! Counts the costly operations that packets cause, so that tests can measure a flood without a
//! clock. Compiled only for tests.

use std::cell::Cell;

/// Operations done by this thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OpCounts {
    /// ChaCha20 blocks that mask or unmask.
    pub(super) masks: u64,
    pub(super) look_ups: u64,
    pub(super) hashes: u64,
    pub(super) curves: u64,
}

impl OpCounts {
    pub(super) fn since(self, before: OpCounts) -> OpCounts {
        OpCounts {
            masks: self.masks - before.masks,
            look_ups: self.look_ups - before.look_ups,
            hashes: self.hashes - before.hashes,
            curves: self.curves - before.curves,
        }
    }
}

thread_local! {
    static DONE: Cell<OpCounts> = Cell::default();
}

pub(super) fn done() -> OpCounts {
    DONE.get()
}

/// Counts one more: `add` increments its field.
pub(super) fn count(add: impl FnOnce(&mut OpCounts)) {
    let mut counts = DONE.get();
    add(&mut counts);
    DONE.set(counts);
}
