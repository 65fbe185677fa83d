//! Trust in the wall clock: it must not be behind its own past, nor jump against the clock that
//! counts since boot. See `replay` for what follows if it does.

use crate::core::bytes::saturated_i64;
use crate::core::types::{Boot, Now, SECOND, Wall};

/// The least deviation that is a jump, in nanoseconds, beyond what slewing can do (1 part in 1000;
/// NTP's limit is half of that).
const JUMP: u64 = 2 * SECOND;
/// Seconds for which a clock must run evenly after a jump to be trusted again: a board without a
/// battery jumps once, after every boot. Longer than any window, so what was recorded around the
/// jump is stale by then.
const HEALED: u32 = 600;

/// The reason not to trust the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockFault {
    /// It shows less than it did before; nanoseconds behind.
    Behind(u64),
    /// It jumped by this many nanoseconds, forward if positive.
    Jumped(i64),
}

/// Both clocks at the last check.
#[derive(Debug)]
pub(super) struct ClockMonitor {
    last: Now,
    newest: Wall,
    jump: Option<Jump>,
}

#[derive(Debug)]
struct Jump {
    at: Boot,
    /// Both clocks before it, from which follows what the wall clock would show without it.
    before: Now,
    by: i64,
}

impl ClockMonitor {
    /// Starts at `now` with the newest time that earlier runs saw.
    pub(super) fn new(now: Now, newest: Wall) -> Self {
        Self { last: now, newest, jump: None }
    }

    /// Looks at both clocks. Call it at least once a minute, so that slow drift does not add up to
    /// a jump.
    pub(super) fn check(&mut self, now: Now) -> Option<ClockFault> {
        if !is_drift(self.last, now) {
            let before = self.jump.as_ref().map_or(self.last, |jump| jump.before);
            self.jump = Some(Jump { at: now.boot, before, by: deviation(before, now) });
        }
        self.last = now;
        if let Some(jump) = &self.jump {
            let returned = is_drift(jump.before, now);
            if !returned && now.boot < jump.at.plus(HEALED) {
                return Some(ClockFault::Jumped(jump.by));
            }
            self.jump = None;
        }
        if now.wall < self.newest {
            return Some(ClockFault::Behind(self.newest.0 - now.wall.0));
        }
        self.newest = now.wall;
        None
    }

    /// The newest time that was trusted.
    pub(super) fn newest(&self) -> Wall {
        self.newest
    }

    /// An admin says that the clock is right now, whatever it showed before.
    pub(super) fn trust(&mut self, now: Now) {
        *self = Self::new(now, now.wall);
    }
}

/// Nanoseconds by which the wall clock jumped between two moments, forward if positive; 0 for
/// drift.
pub fn clock_jump(from: Now, to: Now) -> i64 {
    if is_drift(from, to) { 0 } else { deviation(from, to) }
}

/// Nanoseconds that the wall clock advanced more than the boot clock.
fn deviation(from: Now, to: Now) -> i64 {
    let elapsed = saturated_i64(to.boot.0.saturating_sub(from.boot.0));
    to.wall.since(from.wall).saturating_sub(elapsed)
}

fn is_drift(from: Now, to: Now) -> bool {
    let elapsed = to.boot.0.saturating_sub(from.boot.0);
    deviation(from, to).unsigned_abs() <= JUMP.saturating_add(elapsed / 1000)
}
