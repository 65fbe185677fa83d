//! One event as the gatekeeper reports it, and as log, hooks and admin commands show it.

use serde::{Deserialize, Serialize};

use super::zoned_time;
use crate::core::event::{EventKind, KnockId, Level};
use crate::core::types::{ServiceName, Wall};

/// An event. What a field does not name is not known, or does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEvent {
    pub kind: EventKind,
    pub level: Level,
    /// The knock that it is about.
    pub id: Option<KnockId>,
    /// The client's name, or the door's as in `door side`.
    pub client: Option<String>,
    pub service: Option<ServiceName>,
    /// The granted address, or else the one that the knock came from.
    pub address: Option<String>,
    /// How long a grant lasts from now.
    pub seconds: Option<u32>,
    /// The reason in one word, as the client's `--json` has it.
    pub reason: Option<&'static str>,
    /// All of it in words for people, without the id.
    pub text: String,
}

impl LogEvent {
    pub fn new(kind: EventKind, text: impl Into<String>) -> LogEvent {
        LogEvent {
            kind,
            level: kind.level(),
            id: None,
            client: None,
            service: None,
            address: None,
            seconds: None,
            reason: None,
            text: text.into(),
        }
    }

    /// The same, and an admin should look at it.
    pub fn failed(self) -> LogEvent {
        LogEvent { level: Level::Err, ..self }
    }

    pub fn of(self, id: KnockId) -> LogEvent {
        LogEvent { id: Some(id), ..self }
    }

    pub fn client(self, name: impl Into<String>) -> LogEvent {
        LogEvent { client: Some(name.into()), ..self }
    }

    /// [`ServiceName::NONE`] is none.
    pub fn service(self, service: ServiceName) -> LogEvent {
        LogEvent { service: Some(service).filter(|service| *service != ServiceName::NONE), ..self }
    }

    pub fn address(self, address: impl ToString) -> LogEvent {
        LogEvent { address: Some(address.to_string()), ..self }
    }

    pub fn seconds(self, seconds: u32) -> LogEvent {
        LogEvent { seconds: Some(seconds), ..self }
    }

    pub fn reason(self, reason: &'static str) -> LogEvent {
        LogEvent { reason: Some(reason), ..self }
    }

    /// The line for people, without the time.
    pub fn line(&self) -> String {
        match self.id {
            Some(id) => format!("{} (id {id})", self.text),
            None => self.text.clone(),
        }
    }

    /// The event as data, with the time.
    pub fn record(&self, at: Wall) -> EventRecord {
        EventRecord {
            time: zoned_time(at),
            event: self.kind.name().to_owned(),
            level: self.level.name().to_owned(),
            id: self.id.map(|id| id.to_string()),
            client: self.client.clone(),
            service: self.service.map(|service| service.to_string()),
            address: self.address.clone(),
            seconds: self.seconds,
            reason: self.reason.map(str::to_owned),
            text: self.text.clone(),
        }
    }
}

/// An event as JSON: a line of the log, an answer to an admin, what a hook reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Local time with the zone: `2026-11-28T14:03:20+01:00`.
    pub time: String,
    pub event: String,
    pub level: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_with_the_id_and_a_record_names_what_is_known() {
        let event = LogEvent::new(EventKind::Refused, "anna: refused")
            .of(KnockId([1, 2, 3, 4]))
            .client("anna")
            .service(ServiceName::NONE)
            .reason("denied");
        assert_eq!(event.line(), "anna: refused (id 01020304)");
        let record = event.record(Wall(0));
        let mut value = serde_json::to_value(&record).unwrap();
        assert_eq!(value["time"].take(), zoned_time(Wall(0)));
        let known = serde_json::json!({
            "time": null, "event": "refused", "level": "notice", "id": "01020304",
            "client": "anna", "reason": "denied", "text": "anna: refused"
        });
        assert_eq!(value, known);
        assert_eq!(LogEvent::new(EventKind::Stop, "over").line(), "over");
    }
}
