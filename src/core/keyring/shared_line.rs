//! One line of the memory that the kernel's filter reads while the listener writes it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Words of a line, which is one value of the kernel's map: 64 bytes.
pub const WORDS: usize = 8;

pub(super) type Line = [AtomicU64; WORDS];

pub(super) fn value(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}
