//! The limits on a client's line: `not-before=`, `hours=`, `from=`, `max-seconds=`, `max-grants=`.

use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;

use crate::core::bytes::saturated_i64;
use crate::core::diagnostic::printable;
use crate::core::hours::{Hours, WEEK, ZoneOffsets};
use crate::core::limits::{Limits, MAX_FROM};
use crate::core::prefix::Prefix;
use crate::core::types::Source;

/// Finds a time zone by its name, from wherever the system keeps them.
pub type Zones<'a> = &'a (dyn Fn(&str) -> Option<Arc<ZoneOffsets>> + Sync);

pub const HOURS: &str = "write hours=\"Mon-Fri 08:00-18:00 Europe/Berlin\"";
/// The option of a client that is none for now.
pub const DISABLED: &str = "disabled";
pub(super) const FROM: &str = "write from=\"203.0.113.7,2001:db8::/48\": addresses and networks";

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY: u64 = WEEK / 7;
const MINUTE: u64 = 60;

/// Knows no zone but UTC: for a command that needs the rest of a line alone. Hours of any other
/// zone are read as if nothing was known about it, so that they are never open.
pub fn any_zone(_name: &str) -> Option<Arc<ZoneOffsets>> {
    Some(Arc::new(ZoneOffsets { known: 0..0, first: 0, changes: Vec::new() }))
}

/// Reads the value of `hours=`. Error: what is wrong.
pub fn hours(text: &str, zones: Zones<'_>) -> Result<Hours, String> {
    let text = text.split_whitespace().collect::<Vec<&str>>().join(" ");
    let (spans, zone) = text.rsplit_once(' ').unwrap_or((&text, ""));
    let is_zone = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte);
    if zone.is_empty() || !zone.bytes().all(is_zone) {
        return Err("no time zone at the end".to_owned());
    }
    let mut week = Vec::new();
    for span in spans.split(',') {
        match days_and_times(span.trim()) {
            Some(ranges) => week.extend(ranges),
            None => return Err(format!("`{}` is not days and times", printable(span.trim()))),
        }
    }
    let offsets = match zone {
        "UTC" => Arc::new(ZoneOffsets::utc()),
        _ => zones(zone).ok_or_else(|| {
            format!("this machine knows no time zone `{zone}` (tzdata has them; UTC needs none)")
        })?,
    };
    Ok(Hours::new(&text, week, offsets))
}

/// Reads `Mon-Fri 08:00-18:00`, as seconds of the week. Times over midnight end on the next day.
fn days_and_times(text: &str) -> Option<Vec<Range<u64>>> {
    let (days, times) = text.split_once(' ')?;
    let (first, last) = match days {
        "daily" => (0, 6),
        days => {
            let (first, last) = days.split_once('-').unwrap_or((days, days));
            (day(first)?, day(last)?)
        }
    };
    let (from, to) = times.trim().split_once('-')?;
    let (from, to) = (time(from)?, time(to)?);
    if from == to || from == DAY {
        return None;
    }
    let mut ranges = Vec::new();
    let mut at = first;
    loop {
        let begin = at * DAY + from;
        let end = at * DAY + to + if to < from { DAY } else { 0 };
        ranges.push(begin..end.min(WEEK));
        if end > WEEK {
            ranges.push(0..end - WEEK);
        }
        if at == last {
            return Some(ranges);
        }
        at = (at + 1) % 7;
    }
}

fn day(text: &str) -> Option<u64> {
    let place = DAYS.iter().position(|day| day.eq_ignore_ascii_case(text))?;
    u64::try_from(place).ok()
}

/// Seconds of the day; 24:00 is its end.
fn time(text: &str) -> Option<u64> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| -> Option<u64> {
        let is_plain = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_plain.then(|| text.parse().ok()).flatten()
    };
    let minutes = number(hours)? * 60 + number(minutes).filter(|minutes| *minutes < 60)?;
    Some(minutes * MINUTE).filter(|seconds| *seconds <= DAY)
}

/// Reads the value of `from=`: addresses and networks.
pub fn from(text: &str) -> Option<Vec<Prefix>> {
    let mut prefixes = Vec::new();
    for word in text.split(',').map(str::trim) {
        prefixes.push(match word.parse() {
            Ok(ip) => Prefix::around(Source::new(ip), 128),
            Err(_) => Prefix::parse(word)?,
        });
    }
    Some(prefixes).filter(|prefixes| prefixes.len() <= MAX_FROM)
}

/// Each limit as it is written on a line.
pub fn print(limits: &Limits) -> Vec<String> {
    let Limits { max_seconds, max_grants, not_before, hours, from, disabled } = limits;
    let mut options = Vec::new();
    if *disabled {
        options.push(DISABLED.to_owned());
    }
    if let Some(first) = not_before
        && let Ok(first) = Timestamp::from_second(saturated_i64(*first))
    {
        options.push(format!("not-before=\"{first}\""));
    }
    options.extend(hours.as_ref().map(|hours| format!("hours=\"{}\"", hours.text())));
    if !from.is_empty() {
        let from: Vec<String> = from.iter().map(Prefix::short).collect();
        options.push(format!("from=\"{}\"", from.join(",")));
    }
    options.extend(max_seconds.map(|seconds| format!("max-seconds={seconds}")));
    options.extend(max_grants.map(|grants| format!("max-grants={grants}")));
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::SECOND;
    use crate::core::types::Wall;

    /// Knows a place an hour ahead.
    fn one_zone(name: &str) -> Option<Arc<ZoneOffsets>> {
        let zone = ZoneOffsets { known: 0..u64::MAX, first: 3600, changes: Vec::new() };
        (name == "Here").then(|| Arc::new(zone))
    }

    /// Midnight of a Monday in UTC.
    const MONDAY: u64 = 1_774_224_000;

    #[test]
    fn hours_are_days_times_and_a_zone() {
        let open = |text: &str, hour: u64| {
            let hours = hours(text, &one_zone).unwrap_or_else(|what| panic!("{text}: {what}"));
            hours.open_until(MONDAY + hour * 3600).map(|until| (until - MONDAY) / 3600)
        };
        for (text, hour, until) in [
            ("Mon-Fri 08:00-18:00 UTC", 8, Some(18)),
            ("Mon-Fri 08:00-18:00 UTC", 18, None),
            ("Mon-Fri 08:00-18:00 Here", 7, Some(17)),
            ("mon 00:00-24:00 UTC", 0, Some(24)),
            ("Sun-Mon 22:00-06:00 UTC", 5, Some(6)),
            ("Sun-Mon 22:00-06:00 UTC", 22, Some(30)),
            ("Sun-Mon 22:00-06:00 UTC", 30, None),
            ("Sat-Mon 10:00-11:00 UTC", 10 + 5 * 24, Some(11 + 5 * 24)),
            ("Sat-Mon 10:00-11:00 UTC", 10 + 24, None),
            ("Tue 10:00-11:00, Mon 12:00-13:00 UTC", 12, Some(13)),
            ("daily 00:00-24:00 UTC", 0, Some(14 * 24)),
        ] {
            assert_eq!(open(text, hour), until, "{text} at {hour}");
        }
    }

    #[test]
    fn what_is_no_hours_is_refused() {
        for bad in [
            "",
            "UTC",
            "Mon",
            "08:00-18:00",
            "Mon-Fri 08:00-18:00",
            "Mon-Fri UTC",
            "Mon-Fri 8-18 UTC",
            "Mon-Fri 08:00-25:00 UTC",
            "Mon-Fri 08:60-18:00 UTC",
            "Mon-Fri 08:00-24:01 UTC",
            "Mon-Fri 08:00-08:00 UTC",
            "Mon-Fri 24:00-08:00 UTC",
            "Mon-Fry 08:00-18:00 UTC",
            "Mon- 08:00-18:00 UTC",
            "Mon 08:00-18:00, UTC",
            "Mon +8:00-18:00 UTC",
            "Mon-Fri 08:00-18:00 There",
        ] {
            assert!(hours(bad, &one_zone).is_err(), "{bad}");
        }
        let said = hours("Mon 08:00-18:00 There", &one_zone).unwrap_err();
        assert!(said.contains("no time zone `There`"), "{said}");
    }

    #[test]
    fn limits_are_read_as_they_are_written() {
        let limits = Limits {
            max_seconds: Some(60),
            max_grants: Some(2),
            not_before: Some(MONDAY),
            hours: hours("Mon-Fri 08:00-18:00 Here", &one_zone).ok(),
            from: from("203.0.113.7, 2001:db8::/48").unwrap(),
            disabled: true,
        };
        assert_eq!(
            print(&limits),
            [
                "disabled",
                "not-before=\"2026-03-23T00:00:00Z\"",
                "hours=\"Mon-Fri 08:00-18:00 Here\"",
                "from=\"203.0.113.7,2001:db8::/48\"",
                "max-seconds=60",
                "max-grants=2",
            ]
        );
        assert!(print(&Limits::default()).is_empty());
        for bad in ["", "203.0.113.7,", "*.example.org", "!203.0.113.7", "203.0.113.7/24", "1.2.3"]
        {
            assert_eq!(from(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_zone_that_nobody_looked_up_is_never_open() {
        let hours = hours("daily 00:00-24:00 There", &any_zone).unwrap();
        let limits = Limits { hours: Some(hours), ..Limits::default() };
        assert!(limits.longest(Wall(MONDAY * SECOND)).is_err());
    }
}
