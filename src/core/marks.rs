//! One client's used-knock marks: seen, floor and burned timestamps, in bounded memory that never
//! forgets. See `replay` for what is marked and why.

use super::bytes::Reader;
use super::types::Wall;
use crate::core::bytes::saturated_u8;

/// The most accepted timestamps that are kept one by one; older ones raise the floor.
pub(super) const SEEN: usize = 64;
/// The most burned ranges that are kept. With one more, the two with the smallest gap become one.
pub(super) const BURNED: usize = 64;

/// INVARIANT: whatever was seen or burned once stays covered for ever. When memory ends, more than
/// that is covered (the floor rises, ranges merge), never less: a wrong "covered" costs an honest
/// client one round trip for a challenge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsedMarks {
    /// Ascending, all above the floor.
    seen: Vec<Wall>,
    /// Covers itself and everything before it; nothing at 0.
    floor: Wall,
    /// From the first to the last, both included. Ascending, apart from each other.
    burned: Vec<(Wall, Wall)>,
}

impl UsedMarks {
    /// True if this very timestamp was used, beyond doubt.
    pub fn used(&self, timestamp: Wall) -> bool {
        self.seen.binary_search(&timestamp).is_ok()
            || (self.floor == timestamp && timestamp != Wall(0))
            || self.burned.iter().any(|(first, last)| *first == timestamp || *last == timestamp)
    }

    /// True if it may have been used: then only a challenge helps.
    pub fn covered(&self, timestamp: Wall) -> bool {
        timestamp <= self.floor
            || self.seen.binary_search(&timestamp).is_ok()
            || self.burned.iter().any(|(first, last)| (*first..=*last).contains(&timestamp))
    }

    /// Marks an accepted timestamp.
    pub fn see(&mut self, timestamp: Wall) {
        if timestamp <= self.floor {
            return;
        }
        if let Err(place) = self.seen.binary_search(&timestamp) {
            self.seen.insert(place, timestamp);
        }
        if self.seen.len() > SEEN {
            self.floor = self.seen.remove(0);
            self.burned.retain(|(_, last)| *last > self.floor);
        }
    }

    /// Marks the timestamps from `first` to `last`, both included: one that was refused and
    /// answered, or accepted by a challenge, or all that a client whose clock is ahead may have
    /// sent.
    pub fn burn(&mut self, first: Wall, last: Wall) {
        let place = self.burned.partition_point(|(_, end)| *end < first);
        let mut merged = (first, last.max(first));
        while let Some((start, end)) = self.burned.get(place).copied()
            && start <= merged.1
        {
            merged = (start.min(merged.0), end.max(merged.1));
            self.burned.remove(place);
        }
        self.burned.insert(place, merged);
        if self.burned.len() > BURNED {
            self.close_smallest_gap();
        }
    }

    /// The newest timestamp that was accepted by its time, or the floor.
    pub fn newest_seen(&self) -> Wall {
        self.seen.last().copied().unwrap_or(self.floor)
    }

    /// The length of the longer of its two lists.
    pub(super) fn len(&self) -> usize {
        self.seen.len().max(self.burned.len())
    }

    pub fn newest(&self) -> Wall {
        let seen = self.seen.last().copied().unwrap_or_default();
        let burned = self.burned.last().map(|(_, last)| *last).unwrap_or_default();
        self.floor.max(seen).max(burned)
    }

    /// Appends these marks as bytes, at most 1546.
    pub fn encode(&self, out: &mut Vec<u8>) {
        // Both lists have at most 64 entries.
        for length in [self.seen.len(), self.burned.len()] {
            out.push(saturated_u8(length));
        }
        out.extend(self.floor.0.to_be_bytes());
        for seen in &self.seen {
            out.extend(seen.0.to_be_bytes());
        }
        for (first, last) in &self.burned {
            out.extend(first.0.to_be_bytes());
            out.extend(last.0.to_be_bytes());
        }
    }

    /// Reads what `encode` wrote; `None` for any other bytes.
    pub fn decode(bytes: &[u8]) -> Option<UsedMarks> {
        let mut reader = Reader::new(bytes);
        let seen_length = usize::from(reader.u8()?);
        let burned_length = usize::from(reader.u8()?);
        if seen_length > SEEN || burned_length > BURNED {
            return None;
        }
        let floor = Wall(reader.u64()?);
        let mut seen = Vec::new();
        for _ in 0..seen_length {
            seen.push(Wall(reader.u64()?));
        }
        let mut burned = Vec::new();
        for _ in 0..burned_length {
            burned.push((Wall(reader.u64()?), Wall(reader.u64()?)));
        }
        reader.finish()?;
        let ascending = seen.iter().is_sorted_by(|a, b| a < b)
            && seen.first().is_none_or(|first| *first > floor)
            && burned.iter().all(|(first, last)| first <= last)
            && burned.iter().is_sorted_by(|(_, last), (first, _)| last < first);
        if ascending { Some(UsedMarks { seen, floor, burned }) } else { None }
    }

    fn close_smallest_gap(&mut self) {
        let mut smallest = u64::MAX;
        let mut place = 0;
        for (index, pair) in self.burned.windows(2).enumerate() {
            if let [(_, end), (start, _)] = pair
                && start.0.saturating_sub(end.0) < smallest
            {
                smallest = start.0.saturating_sub(end.0);
                place = index;
            }
        }
        let (_, last) = self.burned.remove(place + 1);
        self.burned[place].1 = last;
    }
}

#[cfg(test)]
mod tests;
