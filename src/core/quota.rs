//! Rates and shares. A token bucket is a burst, then a steady rate: one number, the moment at which
//! it will be full again. A share is what one of many may have of a common number of places.

use std::collections::BTreeMap;

use super::types::{Boot, SECOND};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub burst: u32,
    /// How many per second after that; 0 counts as 1.
    pub per_second: u32,
}

/// A token bucket by the clock that is never stepped. It starts full.
///
/// INVARIANT: `full_at - now`, divided by the time that one token takes to grow, is the number of
/// missing tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    full_at: Boot,
}

impl Bucket {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one token. False if there is none.
    pub fn take(&mut self, now: Boot, rate: Rate) -> bool {
        self.take_each(now, rate.burst, SECOND / u64::from(rate.per_second.max(1)))
    }

    /// The same for a slow rate: a token grows in `each` nanoseconds.
    pub fn take_each(&mut self, now: Boot, burst: u32, each: u64) -> bool {
        let full_at = self.full_at.max(now).plus_nanos(each);
        if full_at.0 - now.0 > each.saturating_mul(u64::from(burst)) {
            return false;
        }
        self.full_at = full_at;
        true
    }

    /// True if no token is missing: then the bucket need not be kept.
    pub fn is_full(&self, now: Boot) -> bool {
        self.full_at <= now
    }
}

/// Places that many share. Nobody may have more of them than are free: so one who takes all that he
/// can leaves as many for the others, and two leave a third.
#[derive(Debug, Default)]
pub struct Shares {
    taken: usize,
    of: BTreeMap<String, usize>,
}

impl Shares {
    /// True if `name` may take one more of `all` places.
    pub fn has_room(&self, name: &str, all: usize) -> bool {
        let mine = self.of.get(name).copied().unwrap_or(0);
        mine < all.saturating_sub(self.taken)
    }

    pub fn take(&mut self, name: &str) {
        self.taken += 1;
        *self.of.entry(name.to_owned()).or_default() += 1;
    }

    /// Gives one place back.
    pub fn give_back(&mut self, name: &str) {
        let Some(mine) = self.of.get_mut(name) else { return };
        self.taken -= 1;
        *mine -= 1;
        if *mine == 0 {
            self.of.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_all_that_he_can_leaves_as_much_for_the_others() {
        let mut shares = Shares::default();
        let mut take_all = |name: &str| {
            let mut got = 0;
            while shares.has_room(name, 12) {
                shares.take(name);
                got += 1;
            }
            got
        };
        assert_eq!([take_all("a"), take_all("b"), take_all("c"), take_all("d")], [6, 3, 2, 1]);
        assert_eq!(take_all("e"), 0);
        shares.give_back("a");
        shares.give_back("nobody");
        assert!(shares.has_room("e", 12) && !shares.has_room("a", 12));
        for name in ["a", "a", "a", "a", "a", "b", "b", "b", "c", "c", "d"] {
            shares.give_back(name);
        }
        assert!(shares.taken == 0 && shares.of.is_empty());
    }

    const RATE: Rate = Rate { burst: 64, per_second: 4 };

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::new();
        let start = Boot(77 * SECOND);
        let taken = (0..100).filter(|_| bucket.take(start, RATE)).count();
        assert_eq!(taken, 64);
        let taken =
            (0..4000).filter(|ms| bucket.take(start.plus_nanos(ms * 1_000_000), RATE)).count();
        assert_eq!(taken, 15, "4 a second; the 16th grows at the end of the 4th");
        assert!(!bucket.is_full(start.plus(15)));
        assert!(bucket.is_full(start.plus(20)));
    }

    #[test]
    fn a_bucket_that_was_idle_for_a_year_holds_no_more_than_its_burst() {
        let mut bucket = Bucket::new();
        assert!(bucket.take(Boot(5), RATE));
        let year = Boot(365 * 86_400 * SECOND);
        assert_eq!((0..100).filter(|_| bucket.take(year, RATE)).count(), 64);
    }

    #[test]
    fn a_rate_of_nothing_gives_nothing_and_does_not_panic() {
        let mut bucket = Bucket::new();
        assert!(!bucket.take(Boot(5), Rate { burst: 0, per_second: 0 }));
        assert!(Bucket::new().take(Boot(u64::MAX), Rate { burst: 2, per_second: u32::MAX }));
    }
}
