//! Time zones by their names, from the system's own tables. A table is read once for each look at
//! a file of clients.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::core::hours::{OffsetChange, ZoneOffsets};

/// The seconds for which offsets are looked up: 2020 to 2100.
const FROM: i64 = 1_577_836_800;
const UNTIL: i64 = 4_102_444_800;

/// The zones that were looked up so far.
#[derive(Default)]
pub struct Zones {
    known: Mutex<BTreeMap<String, Option<Arc<ZoneOffsets>>>>,
}

impl Zones {
    /// The zone of this name, such as `Europe/Berlin`; `None` if the system has none.
    pub fn find(&self, name: &str) -> Option<Arc<ZoneOffsets>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(name) {
            return found.clone();
        }
        let found = find(name);
        known.insert(name.to_owned(), found.clone());
        found
    }
}

/// The zone of this name.
pub fn find(name: &str) -> Option<Arc<ZoneOffsets>> {
    let zone = TimeZone::get(name).ok()?;
    let begin = Timestamp::from_second(FROM).ok()?;
    let seconds = |moment: Timestamp| u64::try_from(moment.as_second()).ok();
    let mut changes = Vec::new();
    for change in zone.following(begin) {
        let from = change.timestamp();
        if from.as_second() >= UNTIL {
            break;
        }
        changes.push(OffsetChange { from: seconds(from)?, offset: change.offset().seconds() });
    }
    let known = seconds(begin)?..u64::try_from(UNTIL).ok()?;
    Some(Arc::new(ZoneOffsets { known, first: zone.to_offset(begin).seconds(), changes }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::authorized::limits::hours;

    /// A machine may have no tables of zones.
    fn berlin() -> Option<Arc<ZoneOffsets>> {
        let found = find("Europe/Berlin");
        if found.is_none() {
            eprintln!("skipped: no tzdata");
        }
        found
    }

    #[test]
    fn the_offsets_of_a_place_are_those_of_its_clocks() {
        let Some(zone) = berlin() else { return };
        assert!(zone.first == 3600 && zone.changes.len() == 160, "{zone:?}");
        // 2026-03-29 and 2026-10-25, 01:00 in UTC.
        for (from, offset) in [(1_774_746_000, 7200), (1_792_890_000, 3600)] {
            assert!(zone.changes.contains(&OffsetChange { from, offset }), "{from}");
        }
        let zones = Zones::default();
        let office = hours("Mon-Fri 08:00-18:00 Europe/Berlin", &|name| zones.find(name)).unwrap();
        // A Monday in winter and one in summer, at 07:30 in UTC.
        for (second, until) in [(1_774_251_000, 1_774_285_200), (1_774_855_800, 1_774_886_400)] {
            assert_eq!(office.open_until(second), Some(until));
        }
    }

    #[test]
    fn what_is_no_zone_is_none() {
        for name in ["Nowhere/At-All", "../../etc/passwd", "/etc/localtime", ""] {
            assert_eq!(find(name), None, "{name}");
        }
    }
}
