//! Counts the operations that a packet can cause, so that tests can say what a flood costs without
//! a clock. What an operation is good for is left to those who do it. Nothing of this is in a
//! shipped program.

use std::cell::Cell;

/// Operations done by this thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OpCounts {
    /// ChaCha20 blocks that mask or unmask.
    pub(super) masks: u64,
    /// Tags looked up.
    pub(super) look_ups: u64,
    /// Keyed hashes.
    pub(super) hashes: u64,
    /// Agreements on the curve.
    pub(super) curves: u64,
}

impl OpCounts {
    /// What was done after `before`.
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
    static DONE: Cell<OpCounts> = const { Cell::new(OpCounts { masks: 0, look_ups: 0, hashes: 0, curves: 0 }) };
}

/// All that this thread has done.
pub(super) fn done() -> OpCounts {
    DONE.get()
}

/// Counts one more.
pub(super) fn count(one: impl FnOnce(&mut OpCounts)) {
    let mut all = DONE.get();
    one(&mut all);
    DONE.set(all);
}
