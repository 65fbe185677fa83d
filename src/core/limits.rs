//! What a client's own line allows it less than its services do: few clients have such limits.
//! See `policy` for their use, `keys::authorized::limits` for their text.

use super::bytes::saturated_u32;
use super::hours::Hours;
use super::prefix::{Prefix, Span};
use super::types::{SECOND, Source, Wall};

/// The most addresses and networks of one client.
pub const MAX_FROM: usize = 64;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// The longest grant, whatever the service says.
    pub max_seconds: Option<u32>,
    /// The most live grants at once.
    pub max_grants: Option<u32>,
    /// No grant begins before that second since the epoch.
    pub not_before: Option<u64>,
    pub hours: Option<Hours>,
    /// Only addresses in one of these are granted; any if there is none.
    pub from: Vec<Prefix>,
    /// True if the client is none for now: it has no row in the table of clients.
    pub disabled: bool,
}

/// A client without limits.
pub static NO_LIMITS: Limits = Limits {
    max_seconds: None,
    max_grants: None,
    not_before: None,
    hours: None,
    from: Vec::new(),
    disabled: false,
};

/// The limit by which a client gets no grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    NotYet,
    Hours,
    From,
}

impl Limits {
    /// The longest grant that may begin at `opened`, which outlasts no hours; or why there is none.
    pub fn longest(&self, opened: Wall) -> Result<u32, Limited> {
        // No grant may begin before the second has, nor last beyond the last one.
        let begun = opened.0 / SECOND;
        if self.not_before.is_some_and(|first| begun < first) {
            return Err(Limited::NotYet);
        }
        let most = self.max_seconds.unwrap_or(u32::MAX);
        let Some(hours) = &self.hours else { return Ok(most) };
        let until = hours.open_until(begun).unwrap_or(0);
        match saturated_u32(until.saturating_sub(opened.0.div_ceil(SECOND))) {
            0 => Err(Limited::Hours),
            left => Ok(most.min(left)),
        }
    }

    /// The limit by which this address gets no grant now, if one does. `latest`: the latest time
    /// that the clock showed.
    pub fn limited(&self, now: Wall, latest: Wall, source: Source) -> Option<Limited> {
        match self.admit(source, Span::HOST) {
            true => self.longest(latest).and(self.longest(now)).err(),
            false => Some(Limited::From),
        }
    }

    /// True if the whole net may be granted.
    pub fn admit(&self, source: Source, span: Span) -> bool {
        let is_within = |prefix: &Prefix| prefix.contains_net(source, span);
        self.from.is_empty() || self.from.iter().any(is_within)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::hours::ZoneOffsets;

    #[test]
    fn no_grant_begins_too_early_or_outlasts_its_hours_even_by_a_fraction_of_a_second() {
        // The first hour of a Monday.
        let week = std::iter::once(0..3600).collect();
        let hours = Hours::new("", week, Arc::new(ZoneOffsets::utc()));
        let monday = 1_774_224_000;
        let limits = Limits {
            hours: Some(hours),
            not_before: Some(monday + 10),
            max_seconds: Some(1000),
            ..Limits::default()
        };
        let at = |second: u64, nanos: u64| Wall((monday + second) * SECOND + nanos);
        for (opened, longest) in [
            (at(9, SECOND - 1), Err(Limited::NotYet)),
            (at(10, 0), Ok(1000)),
            (at(3000, 0), Ok(600)),
            (at(3000, 1), Ok(599)),
            (at(3599, 0), Ok(1)),
            (at(3599, 1), Err(Limited::Hours)),
            (at(3600, 0), Err(Limited::Hours)),
        ] {
            assert_eq!(limits.longest(opened), longest, "{opened:?}");
        }
        assert_eq!(NO_LIMITS.longest(at(0, 0)), Ok(u32::MAX));
    }

    #[test]
    fn a_net_is_granted_only_if_all_of_it_may_be() {
        let source = |text: &str| Source::new(text.parse().unwrap());
        let from = ["203.0.113.0/25", "2001:db8::/48"].map(|text| Prefix::parse(text).unwrap());
        let limits = Limits { from: from.into(), ..Limits::default() };
        let half = Span::of_prefix(25, false).unwrap();
        let whole = Span::of_prefix(24, false).unwrap();
        for (address, span, is_admitted) in [
            ("203.0.113.7", Span::HOST, true),
            ("203.0.113.128", Span::HOST, false),
            ("203.0.113.0", half, true),
            ("203.0.113.0", whole, false),
            ("2001:db8::7", Span::HOST, true),
            ("2001:db8:1::7", Span::HOST, false),
        ] {
            assert_eq!(limits.admit(source(address), span), is_admitted, "{address} {span:?}");
            assert!(NO_LIMITS.admit(source(address), span));
        }
    }
}
