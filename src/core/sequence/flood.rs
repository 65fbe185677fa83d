//! When the kernel's filter holds first steps: while a flood of them lasts. On a quiet machine the
//! listener sees every step, in its order and at its time.

use std::net::IpAddr;

use super::first_steps::FirstSteps;
use crate::core::door::Step;
use crate::core::types::Boot;

/// First steps that the listener reads within a second before the filter holds the next ones. The
/// queue of a capture socket has room for ten times as many, so nothing is lost until then.
pub const FLOOD: u64 = 1000;
/// The flood is over when fewer are held in a second,
const CALM: u64 = FLOOD / 2;
/// in each of so many seconds.
const CALM_SECONDS: u32 = 5;

pub(super) struct Flood {
    first_steps: FirstSteps,
    now: Boot,
    /// The beginning of the current second.
    second: Boot,
    /// First steps that were read in this second.
    read: u64,
    /// First steps that the filter had held before this second.
    held: u64,
    /// Seconds in a row with few first steps.
    calm: u32,
}

impl Flood {
    pub(super) fn new(first_steps: FirstSteps) -> Self {
        Self { first_steps, now: Boot(0), second: Boot(0), read: 0, held: 0, calm: 0 }
    }

    pub(super) fn first_steps(&self) -> &FirstSteps {
        &self.first_steps
    }

    /// Counts a packet that the filter passed.
    pub(super) fn count(&mut self, step: Step) {
        if self.first_steps.includes(step) {
            self.read = self.read.saturating_add(1);
        }
    }

    /// Begins or ends holding. Called at least once a second, and before the packets of each turn.
    pub(super) fn tick(&mut self, now: Boot) {
        self.now = now;
        let is_second = self.second.plus(1) <= now;
        if self.first_steps.are_held() {
            if is_second {
                let is_calm = self.first_steps.held().saturating_sub(self.held) < CALM;
                self.calm = if is_calm { self.calm + 1 } else { 0 };
            }
            if self.calm < CALM_SECONDS {
                self.first_steps.hold(now);
            } else {
                self.first_steps.pass();
            }
        } else if self.read >= FLOOD {
            self.calm = 0;
            self.first_steps.hold(now);
        }
        if is_second {
            self.second = now;
            self.read = 0;
            self.held = self.first_steps.held();
        }
    }

    /// Removes a first step that the filter held. Returns its age in nanoseconds, at least.
    pub(super) fn take(&self, source: IpAddr, destination: IpAddr, step: Step) -> Option<u64> {
        let time = self.first_steps.take(source, destination, step)?;
        self.now.0.checked_sub(time.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::door::TcpFlags;
    use crate::core::door::first_steps::{FirstStep, HeldSteps};
    use crate::core::sequence::KnockPacket;
    use crate::core::types::SECOND;

    const STEP: Step = Step::tcp(7);
    const START: u64 = 90 * SECOND;

    struct Bench {
        flood: Flood,
        now: u64,
    }

    impl Bench {
        fn new() -> Self {
            let first = FirstStep { step: STEP, flags: TcpFlags::default(), after: 0 };
            let held = HeldSteps { first: vec![first], ..HeldSteps::default() };
            let mut flood = Flood::new(FirstSteps::for_tests(3, held));
            flood.tick(Boot(START));
            Self { flood, now: START }
        }

        fn put(&self, source: IpAddr, destination: IpAddr) {
            let hit = KnockPacket { source, destination, step: STEP, flags: Some(2) };
            assert!(self.flood.first_steps.filter(&hit, Boot(self.now)));
        }

        /// A second with so many first steps. True if they are held at its end.
        fn second(&mut self, steps: u32) -> bool {
            let address = |n: u32| IpAddr::V4(n.into());
            for n in 0..steps {
                if self.flood.first_steps.are_held() {
                    self.put(address(n), address(0));
                } else {
                    self.flood.count(STEP);
                    self.flood.count(Step::tcp(8));
                }
                self.flood.tick(Boot(self.now + u64::from(n)));
            }
            self.now += SECOND;
            self.flood.tick(Boot(self.now));
            self.flood.first_steps.are_held()
        }
    }

    #[test]
    fn first_steps_are_held_from_a_thousand_in_a_second_on() {
        let mut bench = Bench::new();
        for _ in 0..5 {
            assert!(!bench.second(999));
        }
        assert!(bench.second(1001));
        assert_eq!(bench.flood.first_steps.held(), 1, "the others were read");
    }

    #[test]
    fn they_pass_again_after_five_calm_seconds_in_a_row() {
        let mut bench = Bench::new();
        bench.second(2000);
        for steps in [900, 500, 499, 499, 499, 499, 500, 0, 0, 0, 0] {
            assert!(bench.second(steps), "{steps}");
        }
        assert!(!bench.second(0));
        assert!(!bench.second(999));
        assert!(bench.second(1000) && bench.second(0), "it counts anew");
    }

    #[test]
    fn a_step_that_was_held_is_as_old_as_the_last_tick_before_it() {
        let mut bench = Bench::new();
        bench.second(1000);
        let [source, to] = ["192.0.2.1", "203.0.113.1"].map(|ip| ip.parse().unwrap());
        bench.flood.tick(Boot(bench.now + 70));
        bench.put(source, to);
        bench.flood.tick(Boot(bench.now + 100));
        assert_eq!(bench.flood.take(source, to, STEP), Some(30));
        bench.put(source, to);
        bench.flood.tick(Boot(bench.now + 50));
        assert_eq!(bench.flood.take(source, to, STEP), None, "of the future");
    }
}
