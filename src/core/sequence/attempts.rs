//! The attempts under way, by source: a bounded table.
//! A flood cannot push out the few attempts that make progress.
//!
//! Ordered trees rather than hash tables: no packet can make a look-up slow, and core needs no
//! random numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The most attempts under way at once, over all doors and sources.
pub const ATTEMPTS: usize = 16_384;

/// The progress of one source through one door's sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) door: u16,
    pub(super) stage: u8,
    /// The first second that is too late.
    deadline: i64,
}

/// Ids count up and are never used again, so a smaller id is an older attempt.
pub(super) struct Attempts {
    cap: usize,
    next: u64,
    live: BTreeMap<(IpAddr, u64), Attempt>,
    deadlines: BTreeSet<(i64, u64, IpAddr)>,
    /// Attempts by (door, stage).
    groups: BTreeMap<(u16, u8), BTreeSet<(u64, IpAddr)>>,
    group_sizes: BTreeSet<(usize, (u16, u8))>,
}

impl Attempts {
    pub(super) fn new(cap: usize) -> Self {
        Self {
            cap,
            next: 0,
            live: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            groups: BTreeMap::new(),
            group_sizes: BTreeSet::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn get(&self, source: IpAddr, id: u64) -> Option<Attempt> {
        self.live.get(&(source, id)).copied()
    }

    /// The ids of the attempts of `source` at doors that `wanted` accepts, oldest first.
    pub(super) fn of(&self, source: IpAddr, wanted: impl Fn(u16) -> bool) -> Vec<u64> {
        let mut ids = Vec::new();
        for ((_, id), attempt) in self.live.range((source, 0)..=(source, u64::MAX)) {
            if wanted(attempt.door) {
                ids.push(*id);
            }
        }
        ids
    }

    /// Adds an attempt with no step done. If the table is full, the oldest one of the largest group
    /// makes room: a flood of first steps pushes out its own, never an attempt that is further or
    /// at another door.
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

    /// Counts one more step and returns the attempt.
    pub(super) fn advance(&mut self, source: IpAddr, id: u64) -> Option<Attempt> {
        let attempt = self.live.get_mut(&(source, id))?;
        let before = attempt.stage;
        attempt.stage = before.saturating_add(1);
        let now = *attempt;
        self.leave((now.door, before), id, source);
        self.join((now.door, now.stage), id, source);
        Some(now)
    }

    /// False if there is no such attempt.
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
        let groups = self.groups.range((door, 0)..=(door, u8::MAX));
        let all: Vec<_> = groups.flat_map(|(_, group)| group.iter().copied()).collect();
        for (id, source) in all {
            self.remove(source, id);
        }
    }

    fn evict(&mut self) {
        if let Some((_, largest)) = self.group_sizes.last()
            && let Some(group) = self.groups.get(largest)
            && let Some((id, source)) = group.first().copied()
        {
            self.remove(source, id);
        }
    }

    fn join(&mut self, group: (u16, u8), id: u64, source: IpAddr) {
        let members = self.groups.entry(group).or_default();
        self.group_sizes.remove(&(members.len(), group));
        members.insert((id, source));
        self.group_sizes.insert((members.len(), group));
    }

    fn leave(&mut self, group: (u16, u8), id: u64, source: IpAddr) {
        let Some(members) = self.groups.get_mut(&group) else { return };
        self.group_sizes.remove(&(members.len(), group));
        members.remove(&(id, source));
        if members.is_empty() {
            self.groups.remove(&group);
        } else {
            self.group_sizes.insert((members.len(), group));
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
    fn a_full_table_gives_up_the_oldest_of_the_largest_group() {
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
    fn a_table_full_of_later_stages_still_takes_a_newcomer() {
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
        assert!(table.get(ip(9), newcomer).is_some(), "a flood of a later step pushes out its own");
    }

    #[test]
    fn all_indices_are_empty_once_the_last_attempt_is_gone() {
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
        assert!(
            table.deadlines.is_empty() && table.groups.is_empty() && table.group_sizes.is_empty()
        );
    }
}
