//! Durations as people write them, on the command lines and in toctocd.toml.

use std::fmt::{self, Formatter};

use jiff::{Span, SpanRelativeTo};
use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A duration in seconds: `90`, `90s`, `5m`, `1h30m`, `30d`, `2w`. A day has 24 hours. `None` if it
/// is no duration, negative, or longer than 136 years.
pub fn duration(text: &str) -> Option<u32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok();
    }
    let span: Span = text.parse().ok()?;
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    if length.subsec_nanos() == 0 { u32::try_from(length.as_secs()).ok() } else { None }
}

/// A value of a configuration: a number of seconds, or a duration as text.
#[derive(Clone, Copy)]
pub(super) struct Seconds(pub(super) i64);

impl From<Seconds> for i64 {
    fn from(seconds: Seconds) -> i64 {
        seconds.0
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Seconds, D::Error> {
        deserializer.deserialize_any(SecondsVisitor)
    }
}

struct SecondsVisitor;

impl Visitor<'_> for SecondsVisitor {
    type Value = Seconds;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a number of seconds, or a time as \"90s\", \"5m\" or \"1h\"")
    }

    fn visit_i64<E: Error>(self, seconds: i64) -> Result<Seconds, E> {
        Ok(Seconds(seconds))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Seconds, E> {
        match duration(text) {
            Some(seconds) => Ok(Seconds(seconds.into())),
            None => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }
}
