//! Bounded tables and token buckets.
//! What is limited is the caller's.

use std::collections::HashMap;
use std::hash::Hash;

use super::types::{Boot, SECOND};

/// How many may come at once, and how many a second after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// A second.
    pub per_second: u32,
}

/// A token bucket by the clock that is never stepped. Full at first.
///
/// INVARIANT: `full_at - now`, over the time that one token takes to grow, is the number of tokens that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    full_at: Boot,
}

impl Bucket {
    /// A full bucket.
    pub fn new() -> Self {
        Self { full_at: Boot(0) }
    }

    /// Takes one token, if there is one.
    pub fn take(&mut self, now: Boot, rate: Rate) -> bool {
        let each = SECOND / u64::from(rate.per_second.max(1));
        let full_at = self.full_at.max(now).plus_nanos(each);
        let room = full_at.0 - now.0 <= each.saturating_mul(u64::from(rate.burst));
        if room {
            self.full_at = full_at;
        }
        room
    }

    /// Whether no token is missing: then the bucket need not be kept.
    pub fn is_full(&self, now: Boot) -> bool {
        self.full_at <= now
    }
}

impl Default for Bucket {
    fn default() -> Self {
        Self::new()
    }
}

/// A table that does not grow past its cap: when it is full, whoever was touched longest ago goes.
#[derive(Debug)]
pub struct Table<K, V> {
    cap: usize,
    entries: HashMap<K, (u64, V)>,
    /// Counts touches.
    clock: u64,
}

impl<K: Eq + Hash + Clone, V> Table<K, V> {
    /// An empty table of at most `cap` entries, at least one.
    pub fn new(cap: usize) -> Self {
        Self { cap: cap.max(1), entries: HashMap::new(), clock: 0 }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry of `key`, made by `new` if it is not there. The least recently touched quarter makes room if need be, so that
    /// a flood of new keys costs one scan for every quarter of a table and not one each.
    pub fn entry(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        self.clock += 1;
        if self.entries.len() >= self.cap && !self.entries.contains_key(&key) {
            self.make_room();
        }
        let (touched, value) = self.entries.entry(key).or_insert_with(|| (0, new()));
        *touched = self.clock;
        value
    }

    /// The entry of `key`, untouched.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// Takes the entry of `key` out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|(_, value)| value)
    }

    /// Keeps what fits.
    pub fn retain(&mut self, mut fits: impl FnMut(&K, &mut V) -> bool) {
        self.entries.retain(|key, (_, value)| fits(key, value));
    }

    fn make_room(&mut self) {
        let mut touched: Vec<u64> = self.entries.values().map(|(touched, _)| *touched).collect();
        let quarter = self.cap.div_ceil(4).min(touched.len()).saturating_sub(1);
        let (_, last, _) = touched.select_nth_unstable(quarter);
        let last = *last;
        self.entries.retain(|_, (touched, _)| *touched > last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 64, per_second: 4 };

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let (mut bucket, start) = (Bucket::new(), Boot(77 * SECOND));
        let taken = (0..100).filter(|_| bucket.take(start, RATE)).count();
        assert_eq!(taken, 64);
        let taken = (0..4000).filter(|ms| bucket.take(start.plus_nanos(ms * 1_000_000), RATE)).count();
        assert_eq!(taken, 15, "4 a second; the 16th grows at the end of the 4th");
        assert!(!bucket.is_full(start.plus(15)));
        assert!(bucket.is_full(start.plus(20)));
    }

    #[test]
    fn a_bucket_that_rested_for_a_year_holds_no_more_than_its_burst() {
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

    #[test]
    fn a_table_never_outgrows_its_cap_and_keeps_who_comes_often() {
        let mut table = Table::new(100);
        for stranger in 0..10_000u32 {
            table.entry(stranger, || 0);
            *table.entry(1_000_000, || 0) += 1;
            assert!(table.len() <= 100);
        }
        assert_eq!(table.get(&1_000_000), Some(&10_000));
        assert_eq!(table.get(&9_999), Some(&0));
        assert_eq!(table.get(&5), None);
    }

    #[test]
    fn a_table_of_one_holds_the_last() {
        let mut table = Table::new(0);
        assert_eq!(*table.entry(1, || 'a'), 'a');
        assert_eq!(*table.entry(2, || 'b'), 'b');
        assert_eq!((table.len(), table.get(&1)), (1, None));
    }
}
