//! The command line of `toctocd log`.

use jiff::civil::DateTime;
use jiff::{Span, Timestamp, tz::TimeZone};

use crate::app::args::service_name;
use crate::core::event::{EventKind, KnockId};
use crate::core::types::ServiceName;

/// `toctocd log`.
#[derive(clap::Args, Debug, Default)]
#[command(after_help = "\
What became of alice's knocks in the last hour:
  toctocd log --client alice --since 1h
The knock whose id she was told:
  toctocd log --id 7f3a91c2
Refusals and alarms, as they come:
  toctocd log --event refused,alarm --follow")]
pub struct LogArgs {
    /// Only events of this client, or of a door: `door side`.
    #[arg(long, value_name = "NAME")]
    pub client: Option<String>,
    /// Only events about this service.
    #[arg(long, value_name = "NAME", value_parser = service_name)]
    pub service: Option<ServiceName>,
    /// Only events of these kinds, separated by commas.
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = kind)]
    pub event: Vec<EventKind>,
    /// Only the knock with this id, as the client was told.
    #[arg(long, value_name = "ID", value_parser = id)]
    pub id: Option<KnockId>,
    /// Only events since then: a time ago (90m, 1h, 2d), a day, or a moment, by the
    /// clock here as in the log ("2027-01-31 12:00"), or 2027-01-31T12:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = since)]
    pub since: Option<Timestamp>,
    /// Go on with events as they come.
    #[arg(long, short)]
    pub follow: bool,
}

fn kind(text: &str) -> Result<EventKind, String> {
    let names: Vec<&str> = EventKind::ALL.into_iter().map(EventKind::name).collect();
    EventKind::of(text).ok_or_else(|| format!("known here: {}", names.join(", ")))
}

pub(super) fn id(text: &str) -> Result<KnockId, String> {
    KnockId::read(text).ok_or_else(|| "an id has eight digits, such as 7f3a91c2".to_owned())
}

fn since(text: &str) -> Result<Timestamp, String> {
    moment_before(text, Timestamp::now())
}

/// A moment: as it is written, by the clock here if it names no zone; or a time before `now`.
fn moment_before(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let parsed = match (text.parse::<Timestamp>(), text.parse::<DateTime>(), text.parse::<Span>()) {
        (Ok(moment), ..) => Ok(moment),
        (_, Ok(time), _) => time.to_zoned(TimeZone::system()).map(|start| start.timestamp()),
        (.., Ok(span)) => {
            now.to_zoned(TimeZone::UTC).checked_sub(span).map(|then| then.timestamp())
        }
        _ => {
            let examples = "a time ago as 90m, 1h or 2d, a day as 2027-01-31, or a moment as";
            return Err(format!("write {examples} \"2027-01-31 12:00\""));
        }
    };
    parsed.map_err(|_| "that time is beyond the calendar".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_ago_a_day_and_a_moment_are_read() {
        let now: Timestamp = "2026-11-28T14:00:00Z".parse().unwrap();
        let read = |text| moment_before(text, now).map(|moment| moment.to_string());
        assert_eq!(read("1h").as_deref(), Ok("2026-11-28T13:00:00Z"));
        assert_eq!(read("2d").as_deref(), Ok("2026-11-26T14:00:00Z"));
        assert_eq!(read("2026-11-01T00:00:00+01:00").as_deref(), Ok("2026-10-31T23:00:00Z"));
        let zoned = |text| {
            let moment: Timestamp = read(text).unwrap().parse().unwrap();
            moment.to_zoned(TimeZone::system()).strftime("%F %T").to_string()
        };
        // As a line of the log begins.
        assert_eq!(zoned("2026-11-27 14:03:20"), "2026-11-27 14:03:20");
        assert_eq!(zoned("2026-11-27"), "2026-11-27 00:00:00");
        assert!(read("yesterday").is_err() && read("").is_err());
    }

    #[test]
    fn a_kind_that_nobody_knows_is_refused_with_those_that_there_are() {
        assert_eq!(kind("alarm"), Ok(EventKind::Alarm));
        assert!(kind("alarms").unwrap_err().contains("refused, "));
        assert!(id("7f3a91c").is_err() && id("7F3A91C2").is_ok());
    }
}
