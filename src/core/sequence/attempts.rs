//! The attempts under way, by source: a bounded table that a flood cannot empty of the few that get
//! on. What is a right step is left to the machine.
//!
//! Ordered trees and no hash table: nothing an attacker sends makes a look-up slow, and the core
//! needs no randomness.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// How many attempts may be under way at once, over all doors and sources.
pub const ATTEMPTS: usize = 16_384;

/// One source on its way through one door's sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    /// The door's index.
    pub(super) door: u16,
    /// Steps done.
    pub(super) stage: u8,
    /// The first second at which it is too late.
    deadline: i64,
}

/// Attempts at the same step of the same door.
type StageGroup = (u16, u8);

/// Ids are given in order of creation and never again, so a smaller one is an older attempt.
pub(super) struct Attempts {
    cap: usize,
    next: u64,
    live: BTreeMap<(IpAddr, u64), Attempt>,
    deadlines: BTreeSet<(i64, u64, IpAddr)>,
    crowds: BTreeMap<StageGroup, BTreeSet<(u64, IpAddr)>>,
    sizes: BTreeSet<(usize, StageGroup)>,
}

impl Attempts {
    pub(super) fn new(cap: usize) -> Self {
        let (live, deadlines) = (BTreeMap::new(), BTreeSet::new());
        Self { cap, next: 0, live, deadlines, crowds: BTreeMap::new(), sizes: BTreeSet::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn get(&self, source: IpAddr, id: u64) -> Option<Attempt> {
        self.live.get(&(source, id)).copied()
    }

    /// The attempts of `source` at doors that `wanted` names, oldest first.
    pub(super) fn of(&self, source: IpAddr, wanted: impl Fn(u16) -> bool) -> Vec<u64> {
        let all = self.live.range((source, 0)..=(source, u64::MAX));
        all.filter(|(_, attempt)| wanted(attempt.door)).map(|((_, id), _)| *id).collect()
    }

    /// A new attempt with no step done. If the table is full, the oldest one of the largest crowd
    /// makes room: a flood of first steps pushes out its own, never somebody who is further or at
    /// another door.
    pub(super) fn begin(&mut self, source: IpAddr, door: u16, deadline: i64) -> u64 {
        if self.live.len() >= self.cap {
            self.evict();
        }
        let id = self.next;
        self.next += 1;
        self.live.insert((source, id), Attempt { door, stage: 0, deadline });
        self.deadlines.insert((deadline, id, source));
        self.join((door, 0), id, source);
        id
    }

    /// One more step done; the attempt as it is then.
    pub(super) fn advance(&mut self, source: IpAddr, id: u64) -> Option<Attempt> {
        let attempt = self.live.get_mut(&(source, id))?;
        let before = attempt.stage;
        attempt.stage = before.saturating_add(1);
        let now = *attempt;
        self.leave((now.door, before), id, source);
        self.join((now.door, now.stage), id, source);
        Some(now)
    }

    /// Whether there was such an attempt.
    pub(super) fn remove(&mut self, source: IpAddr, id: u64) -> bool {
        let Some(attempt) = self.live.remove(&(source, id)) else { return false };
        self.deadlines.remove(&(attempt.deadline, id, source));
        self.leave((attempt.door, attempt.stage), id, source);
        true
    }

    /// Removes one attempt whose deadline is `second` or earlier.
    pub(super) fn take_expired(&mut self, second: i64) -> Option<(u64, IpAddr, Attempt)> {
        let (deadline, id, source) = *self.deadlines.first()?;
        if second < deadline {
            return None;
        }
        let attempt = self.get(source, id)?;
        self.remove(source, id);
        Some((id, source, attempt))
    }

    pub(super) fn forget_door(&mut self, door: u16) {
        let crowds = self.crowds.range((door, 0)..=(door, u8::MAX));
        let all: Vec<_> = crowds.flat_map(|(_, crowd)| crowd.iter().copied()).collect();
        for (id, source) in all {
            self.remove(source, id);
        }
    }

    fn evict(&mut self) {
        let largest = self.sizes.last().and_then(|(_, crowd)| self.crowds.get(crowd));
        if let Some((id, source)) = largest.and_then(|crowd| crowd.first().copied()) {
            self.remove(source, id);
        }
    }

    fn join(&mut self, crowd: StageGroup, id: u64, source: IpAddr) {
        let members = self.crowds.entry(crowd).or_default();
        self.sizes.remove(&(members.len(), crowd));
        members.insert((id, source));
        self.sizes.insert((members.len(), crowd));
    }

    fn leave(&mut self, crowd: StageGroup, id: u64, source: IpAddr) {
        let Some(members) = self.crowds.get_mut(&crowd) else { return };
        self.sizes.remove(&(members.len(), crowd));
        members.remove(&(id, source));
        if members.is_empty() {
            self.crowds.remove(&crowd);
        } else {
            self.sizes.insert((members.len(), crowd));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn a_full_table_gives_up_the_oldest_of_the_largest_crowd() {
        let mut table = Attempts::new(5);
        let far = table.begin(ip(1), 0, 100);
        table.advance(ip(1), far);
        table.advance(ip(1), far);
        let elsewhere = table.begin(ip(2), 1, 100);
        table.advance(ip(2), elsewhere);
        for n in 10..1000 {
            let id = table.begin(ip(n), 0, 100);
            table.advance(ip(n), id);
        }
        assert_eq!(table.len(), 5);
        assert!(table.get(ip(1), far).is_some());
        assert!(table.get(ip(2), elsewhere).is_some());
        let left: Vec<_> = table.live.keys().map(|(source, _)| *source).collect();
        assert_eq!(left, [ip(1), ip(2), ip(997), ip(998), ip(999)]);
    }

    #[test]
    fn a_table_full_of_the_far_advanced_still_takes_a_newcomer() {
        let mut table = Attempts::new(4);
        for n in 0..4 {
            let id = table.begin(ip(n), 0, 100);
            table.advance(ip(n), id);
            table.advance(ip(n), id);
        }
        let newcomer = table.begin(ip(9), 0, 100);
        table.advance(ip(9), newcomer);
        for n in 20..40 {
            let id = table.begin(ip(n), 0, 100);
            table.advance(ip(n), id);
            table.advance(ip(n), id);
        }
        assert!(
            table.get(ip(9), newcomer).is_some(),
            "those who flood a later step push out each other"
        );
    }

    #[test]
    fn all_indices_are_empty_once_the_last_attempt_has_gone() {
        let mut table = Attempts::new(4);
        for n in 0..4 {
            let id = table.begin(ip(n), n as u16 % 2, 10 + i64::from(n));
            table.advance(ip(n), id);
        }
        table.forget_door(0);
        assert_eq!(table.len(), 2);
        assert!(table.take_expired(10).is_none(), "the earliest went with its door");
        assert_eq!(table.take_expired(99).map(|(_, source, _)| source), Some(ip(1)));
        assert_eq!(table.take_expired(99).map(|(_, source, _)| source), Some(ip(3)));
        assert!(table.take_expired(99).is_none());
        assert!(table.deadlines.is_empty() && table.crowds.is_empty() && table.sizes.is_empty());
    }
}
