//! Whether the wall clock can be believed: never behind its own past, never jumping against the
//! clock that counts since boot. What follows when it cannot is left to `replay`.

use crate::core::types::{Boot, Now, SECOND, Wall};

/// A jump is more than this, nanoseconds, beyond what slewing can do (1 part in 1000; NTP's limit
/// is half of that).
const JUMP: u64 = 2 * SECOND;
/// How many seconds a clock must run evenly after a jump to be believed again: a board without a
/// battery jumps once, after every boot. Longer than any window, so what was recorded around the
/// jump is stale by then.
const HEALED: u32 = 600;

/// Why the wall clock is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockFault {
    /// It shows less than it did before; nanoseconds behind.
    Behind(u64),
    /// It jumped, by this many nanoseconds, forward if positive.
    Jumped(i64),
}

/// Both clocks as last looked at.
#[derive(Debug)]
pub struct ClockMonitor {
    last: Now,
    newest: Wall,
    jump: Option<Jump>,
}

#[derive(Debug)]
struct Jump {
    at: Boot,
    /// What the clock would have to show without it: the moment before, as both clocks gave it.
    before: Now,
    by: i64,
}

impl ClockMonitor {
    /// Starts at `now` with the newest time that earlier runs saw.
    pub fn new(now: Now, newest: Wall) -> Self {
        Self { last: now, newest, jump: None }
    }

    /// Looks at both clocks. Call it at least once a minute, so that slow drift does not add up to
    /// a jump.
    pub fn check(&mut self, now: Now) -> Option<ClockFault> {
        let by = deviation(self.last, now);
        if !is_drift(self.last, now, by) {
            let before = self.jump.as_ref().map_or(self.last, |jump| jump.before);
            self.jump = Some(Jump { at: now.boot, before, by: deviation(before, now) });
        }
        self.jump = self.jump.take().filter(|jump| {
            let returned = is_drift(jump.before, now, deviation(jump.before, now));
            !returned && now.boot < jump.at.plus(HEALED)
        });
        self.last = now;
        if let Some(jump) = &self.jump {
            return Some(ClockFault::Jumped(jump.by));
        }
        if now.wall < self.newest {
            return Some(ClockFault::Behind(self.newest.0 - now.wall.0));
        }
        self.newest = now.wall;
        None
    }

    /// The newest time that was believed.
    pub fn newest(&self) -> Wall {
        self.newest
    }

    /// An admin says that the clock is right now, whatever it showed before.
    pub fn trust(&mut self, now: Now) {
        *self = Self::new(now, now.wall);
    }
}

/// How much more the wall clock advanced than the boot clock, nanoseconds.
fn deviation(from: Now, to: Now) -> i64 {
    let elapsed = i64::try_from(to.boot.0.saturating_sub(from.boot.0)).unwrap_or(i64::MAX);
    to.wall.since(from.wall).saturating_sub(elapsed)
}

fn is_drift(from: Now, to: Now, deviation: i64) -> bool {
    let elapsed = to.boot.0.saturating_sub(from.boot.0);
    deviation.unsigned_abs() <= JUMP.saturating_add(elapsed / 1000)
}
