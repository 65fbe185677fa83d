//! One client's used timestamps: seen, floor and burned, in bounded memory that never forgets.
//! Which timestamps are used and why is left to `replay`.

use crate::core::bytes::Reader;
use crate::core::types::Wall;

/// How many accepted timestamps are held one by one; older ones raise the floor.
pub(super) const SEEN: usize = 64;
/// How many burned ranges are held; one more, and the two with the smallest gap become one.
pub(super) const BURNED: usize = 64;

/// INVARIANT: whatever was seen or burned once stays covered for ever. When memory ends, more than
/// that is covered (the floor rises, ranges grow together), never less: a wrong "covered" costs an
/// honest client one round trip for a challenge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsedMarks {
    /// Ascending, all above the floor.
    seen: Vec<Wall>,
    /// Covers itself and all before it; nothing at 0.
    floor: Wall,
    /// From the first to the last, both included. Ascending, apart from each other.
    burned: Vec<(Wall, Wall)>,
}

impl UsedMarks {
    /// Whether this very timestamp was used, beyond doubt.
    pub fn used(&self, timestamp: Wall) -> bool {
        self.seen.binary_search(&timestamp).is_ok()
            || (self.floor == timestamp && timestamp != Wall(0))
            || self.burned.iter().any(|(first, last)| *first == timestamp || *last == timestamp)
    }

    /// Whether it may have been: then only a challenge helps.
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
            let oldest = self.seen.remove(0);
            self.raise(oldest);
        }
    }

    fn raise(&mut self, timestamp: Wall) {
        self.floor = self.floor.max(timestamp);
        self.seen.retain(|seen| *seen > timestamp);
        self.burned.retain(|(_, last)| *last > timestamp);
    }

    /// Marks a timestamp that was refused and answered, or accepted by a challenge.
    pub fn record(&mut self, timestamp: Wall) {
        let place = self.burned.partition_point(|(_, last)| *last < timestamp);
        if self.burned.get(place).is_some_and(|(first, _)| *first <= timestamp) {
            return;
        }
        self.burned.insert(place, (timestamp, timestamp));
        if self.burned.len() > BURNED {
            self.close_smallest_gap();
        }
    }

    /// How many are held one by one, of whichever kind there are more.
    pub(super) fn held(&self) -> usize {
        self.seen.len().max(self.burned.len())
    }

    /// The newest timestamp that is covered.
    pub fn newest(&self) -> Wall {
        let burned = self.burned.last().map(|(_, last)| *last);
        self.floor.max(self.seen.last().copied().max(burned).unwrap_or_default())
    }

    /// Appends these marks as bytes, at most 1546.
    pub fn encode(&self, out: &mut Vec<u8>) {
        // Both are at most 64 long.
        out.extend(
            [self.seen.len(), self.burned.len()].map(|n| u8::try_from(n).unwrap_or(u8::MAX)),
        );
        out.extend(self.floor.0.to_be_bytes());
        out.extend(self.seen.iter().flat_map(|seen| seen.0.to_be_bytes()));
        out.extend(
            self.burned
                .iter()
                .flat_map(|(first, last)| [first.0.to_be_bytes(), last.0.to_be_bytes()])
                .flatten(),
        );
    }

    /// Reads what `encode` wrote; `None` if it did not.
    pub fn decode(bytes: &[u8]) -> Option<UsedMarks> {
        let mut reader = Reader::new(bytes);
        let (seen, burned, floor) =
            (usize::from(reader.u8()?), usize::from(reader.u8()?), Wall(reader.u64()?));
        let mut wall = || reader.u64().map(Wall);
        let seen = (0..seen).map(|_| wall()).collect::<Option<Vec<_>>>()?;
        let burned = (0..burned).map(|_| Some((wall()?, wall()?))).collect::<Option<Vec<_>>>()?;
        reader.finish()?;
        let ascending = seen.iter().is_sorted_by(|a, b| a < b)
            && seen.first().is_none_or(|first| *first > floor)
            && burned.iter().all(|(first, last)| first <= last)
            && burned.iter().is_sorted_by(|(_, last), (first, _)| last < first);
        (ascending && seen.len() <= SEEN && burned.len() <= BURNED).then_some(UsedMarks {
            seen,
            floor,
            burned,
        })
    }

    fn close_smallest_gap(&mut self) {
        let gap = |pair: &[(Wall, Wall)]| match pair {
            [(_, end), (start, _)] => start.0.saturating_sub(end.0),
            _ => u64::MAX,
        };
        let gaps = self.burned.windows(2).map(gap).enumerate();
        let Some((place, _)) = gaps.min_by_key(|(_, gap)| *gap) else { return };
        let (_, last) = self.burned.remove(place + 1);
        if let Some(range) = self.burned.get_mut(place) {
            range.1 = last;
        }
    }
}

#[cfg(test)]
mod tests;
