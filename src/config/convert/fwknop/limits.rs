//! Who a stanza is for, from where, how long and until when.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::super::{LONGEST, unused};
use super::fields::{day, networks, seconds};
use super::reader::{Stanza, number};
use super::{LONGEST_ASKED, MOST_SECONDS, Migration, SECONDS};
use crate::config::defaults;
use crate::core::diagnostic::printable;
use crate::core::limits::MAX_FROM;
use crate::core::prefix::Prefix;
use crate::core::types::Source;

/// The end of a stanza.
pub(super) enum Expiry {
    Over,
    /// At no day of the calendar, in this line.
    Unknown(String),
    /// As `--expires` takes it.
    At(String),
}

impl Migration<'_> {
    /// The end of a stanza.
    pub(super) fn expires(&mut self, stanza: &Stanza) -> Option<Expiry> {
        let last = stanza.settings.iter().rev().find(|setting| {
            matches!(setting.key.as_str(), "ACCESS_EXPIRE" | "ACCESS_EXPIRE_EPOCH")
        })?;
        let moment = match last.key.as_str() {
            "ACCESS_EXPIRE" => midnight(day(&last.value)?),
            // fwknopd takes 0 for no end.
            _ => match number(&last.value) {
                ..=0 => return None,
                seconds => Timestamp::from_second(seconds).ok(),
            },
        };
        let Some(moment) = moment else { return Some(Expiry::Unknown(last.place.to_string())) };
        if u64::try_from(moment.as_second()).unwrap_or(0) <= self.now {
            return Some(Expiry::Over);
        }
        if last.key == "ACCESS_EXPIRE" {
            self.note(&last.place, &last.key, "the day begins in UTC now, not in local time");
        }
        Some(Expiry::At(moment.to_string()))
    }

    /// The option for the addresses that a stanza is for, with its space; empty if for all.
    pub(super) fn from(&mut self, stanza: &Stanza) -> String {
        let Some(source) = stanza.get("SOURCE") else { return String::new() };
        let listed = networks(&source.value).unwrap_or_default();
        let Some(listed) = listed.into_iter().collect::<Option<Vec<_>>>() else {
            return String::new();
        };
        if listed.iter().any(|(_, mask)| mask.is_unspecified()) {
            return String::new();
        }
        let prefixes: Option<Vec<Prefix>> = listed.into_iter().map(prefix).collect();
        if let Some(prefixes) = prefixes.filter(|prefixes| prefixes.len() <= MAX_FROM) {
            let what =
                "these are IPv4: knock with `toctoc open -4`, or add addresses of IPv6 to --from";
            self.note(&source.place, "SOURCE", what);
            let words: Vec<String> = prefixes.iter().map(Prefix::to_string).collect();
            return format!(" --from {}", words.join(","));
        }
        let what = format!(
            "only {} could knock: that cannot be written after --from, so the client that is \
             invited may knock from anywhere",
            printable(&source.value)
        );
        self.warn(&source.place, "SOURCE", &what);
        String::new()
    }

    /// A client's name: the user's, that of an included file, or a number.
    pub(super) fn name(&mut self, stanza: &Stanza, index: usize) -> String {
        let user = stanza.get("REQUIRE_USERNAME").map(|setting| setting.value.as_str());
        let file = stanza.is_included.then(|| stanza.place().stem());
        let numbered = format!("client-{index}");
        let names = [user, file, Some(&numbered)].into_iter().flatten();
        let mut known = names.filter(|name| {
            let word = |b: u8| b.is_ascii_alphanumeric() || b"._@+-".contains(&b);
            (1..=50).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(word)
        });
        unused(&mut self.names, known.next().unwrap_or(&numbered))
    }

    /// Seconds of a grant, and the most that the client may ask for.
    pub(super) fn times(&mut self, stanza: &Stanza) -> (u32, u32) {
        let time = |key: &str, default: u32| match stanza.get(key).map(|one| seconds(&one.value, 0))
        {
            None | Some(None | Some(0)) => default,
            Some(Some(seconds)) => seconds,
        };
        let cycle =
            stanza.get("CMD_CYCLE_TIMER").filter(|_| stanza.get("CMD_CYCLE_OPEN").is_some());
        // For a command cycle there is no limit to what a client may ask for.
        let (seconds, most) = match cycle.and_then(|timer| seconds(&timer.value, 1)) {
            Some(seconds) => (seconds, seconds.max(defaults::MAX_SECONDS)),
            None => (time("FW_ACCESS_TIMEOUT", SECONDS), time("MAX_FW_TIMEOUT", MOST_SECONDS)),
        };
        let most = most.max(seconds);
        let (short, short_most) = (seconds.min(LONGEST), most.min(LONGEST_ASKED));
        if (short, short_most) != (seconds, most) {
            let what = format!(
                "{}: a grant lasts at most {LONGEST} s, or {LONGEST_ASKED} s if its client asks",
                stanza.place()
            );
            self.converter.note(what);
        }
        (short, short_most)
    }
}

/// `None` for a mask with holes.
fn prefix((ip, mask): (Ipv4Addr, Ipv4Addr)) -> Option<Prefix> {
    let bits = u32::from(mask);
    let length = bits.leading_ones();
    let has_holes = length + bits.trailing_zeros() != 32;
    let length = u8::try_from(length).ok().filter(|_| !has_holes)?;
    Some(Prefix::around(Source::new(ip.into()), length))
}

fn midnight((month, day, year): (i64, i64, i64)) -> Option<Timestamp> {
    let date =
        Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?);
    Some(date.ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp())
}
