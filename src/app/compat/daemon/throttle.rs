//! A rate limit for log lines and openings that packets cause.

use crate::core::quota::{Bucket, Rate};
use crate::core::types::Boot;

const RATE: Rate = Rate { burst: 500, per_second: 100 };

/// Limits the rate of one kind of event, so that forged packets cannot fill the log or start
/// commands without end.
#[derive(Default)]
pub(super) struct Throttle {
    bucket: Bucket,
    suppressed: u64,
    /// When the number of suppressed events was last reported.
    reported: Boot,
}

impl Throttle {
    /// `None` to suppress an event at `now`. Else the number of suppressed events to report before
    /// it: at most once a second, because in a flood it would double the lines.
    pub(super) fn admit(&mut self, now: Boot) -> Option<u64> {
        if !self.bucket.take(now, RATE) {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        if self.suppressed == 0 || now < self.reported.plus(1) {
            return Some(0);
        }
        self.reported = now;
        Some(std::mem::take(&mut self.suppressed))
    }

    /// So many events did not even come here.
    pub(super) fn suppress(&mut self, count: u64) {
        self.suppressed = self.suppressed.saturating_add(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::SECOND;

    #[test]
    fn a_flood_leaves_a_burst_and_then_a_steady_rate_and_reports_what_was_suppressed() {
        let mut throttle = Throttle::default();
        let at = |seconds: u64| Boot(seconds * SECOND);
        let admitted = (0..100_000).filter(|_| throttle.admit(at(1)).is_some()).count();
        assert_eq!(admitted, 500);
        assert_eq!(throttle.admit(at(2)), Some(99_500));
        let admitted: Vec<_> = (0..100_000).filter_map(|_| throttle.admit(at(2))).collect();
        assert_eq!(admitted, [0; 99]);
        let later: Vec<_> =
            (0..10_000).filter_map(|n| throttle.admit(Boot(at(3).0 + n * SECOND / 1000))).collect();
        let reports = later.iter().filter(|suppressed| **suppressed > 0).count();
        assert_eq!((later.len(), reports), (1099, 10));
    }

    #[test]
    fn what_the_listener_left_out_is_reported_with_the_rest() {
        let mut throttle = Throttle::default();
        throttle.suppress(5);
        let at = |seconds: u64| Boot(seconds * SECOND);
        assert_eq!(
            [at(9), at(9), at(11)].map(|now| throttle.admit(now)),
            [Some(5), Some(0), Some(0)]
        );
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_admits_no_more() {
        let mut throttle = Throttle::default();
        let now = Boot(9 * SECOND);
        let admitted = (0..600).filter(|_| throttle.admit(now).is_some()).count();
        assert_eq!(admitted, 500);
        assert_eq!(throttle.admit(Boot(SECOND)), None);
    }
}
