//! Whether a listener answers: when to ask it, and when it is silent.

use crate::core::types::{Boot, SECOND};

/// Whether a listener answers. It is asked every second, and must send something within the next:
/// so one that was stopped or hangs is noticed within two seconds. That costs an idle gateway one
/// wake-up a second of each of its two processes.
#[derive(Default)]
pub(super) struct Heartbeat {
    /// The time of the next question. The first one is due at once.
    pub(super) due: Boot,
    /// True if it has sent anything since the last question.
    heard: bool,
    /// True if we were late at the last question and the listener had sent nothing.
    excused: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    Wait,
    Ask,
    /// It sent nothing for a second although it was asked.
    Silent,
}

/// Seconds between two questions to a listener.
const BEAT: u32 = 1;
/// If we are late by more nanoseconds than this, we slept ourselves: the machine was suspended, or
/// is overloaded. Then the listener had no time to answer either, and gets another second once.
const LATE: u64 = SECOND / 4;

impl Heartbeat {
    /// `heard`: it has just sent something.
    pub(super) fn beat(&mut self, heard: bool, now: Boot) -> Beat {
        self.heard |= heard;
        if now < self.due {
            return Beat::Wait;
        }
        let late = self.due.plus_nanos(LATE) < now;
        if !self.heard && (self.excused || !late) {
            return Beat::Silent;
        }
        // The first question of all counts as late.
        self.excused = !self.heard && self.due != Boot(0);
        self.due = now.plus(BEAT);
        self.heard = false;
        Beat::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_sends_nothing_for_a_second_after_a_question_is_silent() {
        let at = |millis: u64| Boot(millis * 1_000_000);
        let mut heartbeat = Heartbeat::default();
        assert_eq!(heartbeat.beat(false, at(5000)), Beat::Ask, "it has just got ready");
        assert_eq!(heartbeat.beat(true, at(5001)), Beat::Wait);
        assert_eq!(heartbeat.beat(false, at(5999)), Beat::Wait);
        assert_eq!(heartbeat.beat(false, at(6000)), Beat::Ask);
        assert_eq!(heartbeat.beat(false, at(6999)), Beat::Wait);
        assert_eq!(heartbeat.beat(false, at(7003)), Beat::Silent);
    }

    #[test]
    fn a_gatekeeper_that_slept_itself_asks_again_before_it_judges() {
        let at = |millis: u64| Boot(millis * 1_000_000);
        let mut heartbeat = Heartbeat::default();
        assert_eq!(heartbeat.beat(false, at(5000)), Beat::Ask);
        assert_eq!(heartbeat.beat(false, at(3_600_000)), Beat::Ask, "the machine was suspended");
        assert_eq!(heartbeat.beat(false, at(3_602_000)), Beat::Silent, "late again, and no excuse");
    }
}
