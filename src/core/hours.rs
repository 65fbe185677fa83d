//! The hours of the week at which a client may have grants, by the clocks of one place.
//! See `keys::authorized::limits` for their text, `edge::zones` for where clocks are changed.
//!
//! What a clock shows anywhere is known in advance, for each change of an offset until 2100: so a
//! decision is a function of the time, and a new table of time zones changes nothing by itself.
//! Whatever is not known is shut.

use std::ops::Range;
use std::sync::Arc;

/// Seconds.
const DAY: u64 = 24 * 3600;
pub const WEEK: u64 = 7 * DAY;
/// Seconds from a Monday to the first day of all, a Thursday.
const FIRST_DAY: u64 = 3 * DAY;

/// By how much the clocks of a place are ahead of UTC, and when.
#[derive(Debug, PartialEq, Eq)]
pub struct ZoneOffsets {
    /// The seconds since the epoch for which it is known.
    pub known: Range<u64>,
    /// The seconds that clocks are ahead when that begins.
    pub first: i32,
    /// In order, all within `known`.
    pub changes: Vec<OffsetChange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetChange {
    /// Seconds since the epoch.
    pub from: u64,
    /// Seconds.
    pub offset: i32,
}

/// The time until the next change.
struct Segment {
    offset: i32,
    end: u64,
}

impl ZoneOffsets {
    pub fn utc() -> ZoneOffsets {
        ZoneOffsets { known: 0..u64::MAX, first: 0, changes: Vec::new() }
    }

    fn at(&self, second: u64) -> Option<Segment> {
        if !self.known.contains(&second) {
            return None;
        }
        let place = self.changes.partition_point(|change| change.from <= second);
        let before = place.checked_sub(1).and_then(|last| self.changes.get(last));
        let offset = before.map_or(self.first, |change| change.offset);
        let end = self.changes.get(place).map_or(self.known.end, |change| change.from);
        Some(Segment { offset, end })
    }
}

/// Some hours of each week.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    /// As it is written.
    text: Box<str>,
    /// Seconds from the begin of Monday, in order; no two touch.
    week: Vec<Range<u64>>,
    zone: Arc<ZoneOffsets>,
}

impl Hours {
    /// `week`: seconds from the begin of Monday, at most [`WEEK`], in any order.
    pub fn new(text: &str, mut week: Vec<Range<u64>>, zone: Arc<ZoneOffsets>) -> Hours {
        week.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in week {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Hours { text: text.into(), week: merged, zone }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The second at which these hours are over that `second` is in, both since the epoch. `None`
    /// if it is in none.
    pub fn open_until(&self, second: u64) -> Option<u64> {
        let mut at = second;
        let mut open = None;
        while let Some(Segment { offset, end }) = self.zone.at(at) {
            let Some(left) = self.left(at.checked_add_signed(offset.into())?) else { return open };
            let until = at.saturating_add(left);
            if until <= end {
                return Some(until);
            }
            // From there on clocks show something else.
            open = Some(end);
            at = end;
        }
        open
    }

    /// The seconds that are left of these hours when clocks show `local`.
    fn left(&self, local: u64) -> Option<u64> {
        let second = (local + FIRST_DAY) % WEEK;
        let range = self.week.iter().find(|range| range.contains(&second))?;
        let next = self.week.first().filter(|first| first.start == 0 && range.end == WEEK);
        Some(range.end - second + next.map_or(0, |first| first.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;
    /// Midnight of Monday, 2026-03-23, in UTC.
    const MONDAY: u64 = 1_774_224_000;

    /// Berlin in 2026: summer from the last Sunday of March to that of October, at 01:00 in UTC.
    fn berlin() -> Arc<ZoneOffsets> {
        let changes = vec![
            OffsetChange { from: MONDAY + 6 * DAY + HOUR, offset: 7200 },
            OffsetChange { from: MONDAY + 216 * DAY + HOUR, offset: 3600 },
        ];
        let known = MONDAY - 365 * DAY..MONDAY + 365 * DAY;
        Arc::new(ZoneOffsets { known, first: 3600, changes })
    }

    /// These hours of a day of the week, Monday being 0.
    fn day(day: u64, from: u64, to: u64) -> Range<u64> {
        day * DAY + from * HOUR..day * DAY + to * HOUR
    }

    fn hours(week: &[Range<u64>], zone: Arc<ZoneOffsets>) -> Hours {
        Hours::new("", week.to_vec(), zone)
    }

    #[test]
    fn hours_are_those_that_clocks_show_in_winter_and_summer() {
        let office = hours(&[day(0, 8, 18)], berlin());
        // A Monday in winter, and the next one in summer.
        for (monday, begin) in [(MONDAY, 7), (MONDAY + WEEK, 6)] {
            let begin = monday + begin * HOUR;
            assert_eq!(office.open_until(begin - 1), None);
            for second in [begin, begin + HOUR, begin + 10 * HOUR - 1] {
                assert_eq!(office.open_until(second), Some(begin + 10 * HOUR), "{second}");
            }
            assert_eq!(office.open_until(begin + 10 * HOUR), None);
        }
    }

    #[test]
    fn hours_over_a_change_of_the_clocks_end_when_clocks_show_their_end() {
        let [spring, autumn] = [MONDAY + 6 * DAY, MONDAY + 216 * DAY];
        // Sunday from 1 to 4: two hours in spring, four in autumn.
        let night = hours(&[day(6, 1, 4)], berlin());
        assert_eq!(night.open_until(spring), Some(spring + 2 * HOUR));
        assert_eq!(night.open_until(spring + HOUR), Some(spring + 2 * HOUR));
        assert_eq!(night.open_until(spring + 2 * HOUR), None);
        assert_eq!(night.open_until(autumn - HOUR), Some(autumn + 3 * HOUR));
        // To half past two, which no clock shows in spring: over when clocks jump past it.
        let half = 6 * DAY + HOUR..6 * DAY + 5 * HOUR / 2;
        let early = hours(std::slice::from_ref(&half), berlin());
        assert_eq!(early.open_until(spring), Some(spring + HOUR));
        assert_eq!(early.open_until(spring + HOUR), None);
        // In autumn clocks show it twice: shut between the two.
        assert_eq!(early.open_until(autumn - HOUR), Some(autumn + HOUR / 2));
        assert_eq!(early.open_until(autumn + HOUR / 2), None);
        assert_eq!(early.open_until(autumn + HOUR), Some(autumn + 3 * HOUR / 2));
    }

    #[test]
    fn hours_that_touch_are_one_also_over_the_end_of_the_week() {
        let weekend = hours(&[day(6, 0, 24), day(0, 0, 6), day(5, 12, 24)], berlin());
        let saturday_noon = MONDAY + 5 * DAY + 11 * HOUR;
        // The clocks are changed in between.
        assert_eq!(weekend.open_until(saturday_noon), Some(MONDAY + WEEK + 4 * HOUR));
        assert_eq!(weekend.open_until(saturday_noon - 1), None);
        let always = hours(&[day(0, 0, 7 * 24)], Arc::new(ZoneOffsets::utc()));
        assert!(always.open_until(MONDAY + 5).is_some_and(|until| until >= MONDAY + WEEK));
    }

    #[test]
    fn beyond_what_is_known_everything_is_shut() {
        let always = hours(&[day(0, 0, 7 * 24)], berlin());
        let known = &always.zone.known;
        assert_eq!(always.open_until(known.start - 1), None);
        assert_eq!(always.open_until(known.end - 1), Some(known.end));
        assert_eq!(always.open_until(known.end), None);
        assert_eq!(hours(&[], berlin()).open_until(MONDAY), None);
    }
}
