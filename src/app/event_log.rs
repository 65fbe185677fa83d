//! `toctocd log`: events by client, service, kind, id and time, from wherever the log goes.
//! See `source` for that.

use jiff::Timestamp;

use super::args::toctocd::LogArgs;
use super::load::Reach;
use super::output::{CommandOutput, tell};
use crate::core::event::{EventKind, KnockId};
use crate::core::types::{Fault, ServiceName};
use crate::edge::log::EventRecord;
use source::Source;

mod source;

/// `toctocd log`. Text is printed as it is read; JSON is one answer, or with --follow one object a
/// line.
pub fn log(reach: &Reach, args: &LogArgs, as_json: bool) -> Result<CommandOutput, Fault> {
    let source = Source::find(&reach.settings)?;
    let described = source.describe();
    if as_json && !args.follow {
        let mut events = Vec::new();
        source.each(&reach.settings, args, &mut |record| {
            if fits(args, &record) {
                events.push(record);
            }
        })?;
        let value = Some(serde_json::json!({ "source": described, "events": events }));
        return Ok(CommandOutput { value, ..CommandOutput::out(String::new()) });
    }
    let mut shown = 0_u64;
    source.each(&reach.settings, args, &mut |record| {
        if fits(args, &record) {
            shown += 1;
            match as_json {
                true => tell(&(serde_json::to_string(&record).unwrap_or_default() + "\n")),
                false => tell(&line(&record)),
            }
        }
    })?;
    let none = if shown == 0 { "no such event " } else { "" };
    let mut err = format!("{none}from {described}\n");
    if !args.event.is_empty() && matches!(source, Source::Files(_)) {
        err += "  lines of text name no kind: those need [log] form = \"json\"\n";
    }
    Ok(CommandOutput { err, ..CommandOutput::out(String::new()) })
}

/// The events of one knock, from wherever the log goes.
pub(super) fn of_knock(reach: &Reach, id: KnockId) -> Result<Vec<EventRecord>, Fault> {
    let args = LogArgs { id: Some(id), ..LogArgs::default() };
    let mut events = Vec::new();
    Source::find(&reach.settings)?.each(&reach.settings, &args, &mut |record| {
        if fits(&args, &record) {
            events.push(record);
        }
    })?;
    Ok(events)
}

/// `2026-11-28 14:03:20 text (id 7f3a91c2)`.
pub(super) fn line(record: &EventRecord) -> String {
    let time: String = record.time.replacen('T', " ", 1).chars().take(19).collect();
    match &record.id {
        Some(id) => format!("{time} {} (id {id})\n", record.text),
        None => format!("{time} {}\n", record.text),
    }
}

/// True if the event is one of those that are asked for. A line of text has only its words.
fn fits(args: &LogArgs, record: &EventRecord) -> bool {
    let LogArgs { client, service, event, id, since, follow: _ } = args;
    let is_text = record.event.is_empty();
    let service = service.as_ref().map(ServiceName::as_str);
    let of_client = match (client, &record.client) {
        (Some(wanted), Some(found)) => wanted == found,
        (Some(wanted), None) => is_text && text_names(&record.text, wanted),
        (None, _) => true,
    };
    let of_service = match (service, &record.service) {
        (Some(wanted), Some(found)) => wanted == found,
        (Some(wanted), None) => is_text && has_word(&record.text, wanted),
        (None, _) => true,
    };
    let of_kind = event.is_empty() || event.iter().any(|kind| kind.name() == record.event);
    let of_id = id.is_none_or(|id| record.id.as_deref() == Some(id.to_string().as_str()));
    let in_time = since.is_none_or(|since| match record.time.parse::<Timestamp>() {
        Ok(time) => time >= since,
        Err(_) => true,
    });
    of_client && of_service && of_kind && of_id && in_time
}

/// True if a line is about this client or door.
fn text_names(text: &str, client: &str) -> bool {
    let door = client.strip_prefix("door ");
    let name = door.unwrap_or(client);
    text.starts_with(&format!("{name}: "))
        || text.contains(&format!(": {name}: "))
        || text.contains(&format!(" of {name}, "))
        || door.is_some() && text.starts_with(&format!("door {name}: "))
}

fn has_word(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|found| found == word)
}

/// The line of a log of text as far as it tells: its time, its id and its words.
fn record_of_text(time: String, text: &str) -> EventRecord {
    let (text, id) = match text.strip_suffix(')').and_then(|text| text.rsplit_once(" (id ")) {
        Some((text, id)) if id.len() == 8 => (text, Some(id.to_owned())),
        _ => (text, None),
    };
    EventRecord {
        time,
        event: String::new(),
        level: String::new(),
        id,
        client: None,
        service: None,
        address: None,
        seconds: None,
        reason: None,
        text: text.to_owned(),
    }
}

/// True if a stored record has a kind that this toctocd knows.
fn is_known(record: &EventRecord) -> bool {
    EventKind::of(&record.event).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::Wall;
    use crate::edge::log::LogEvent;

    fn granted() -> EventRecord {
        LogEvent::new(EventKind::Granted, "anna: ssh granted to 192.0.2.7 for 30 s")
            .of(KnockId([0x7f, 0x3a, 0x91, 0xc2]))
            .client("anna")
            .service(ServiceName::new("ssh").unwrap())
            .record(Wall(1_800_000_000_000_000_000))
    }

    fn asks() -> Vec<(LogArgs, bool)> {
        let args = LogArgs::default;
        let service = ServiceName::new;
        let at = |text: &str| Some(text.parse().unwrap());
        vec![
            (args(), true),
            (LogArgs { client: Some("anna".into()), ..args() }, true),
            (LogArgs { client: Some("ann".into()), ..args() }, false),
            (LogArgs { service: service("ssh"), ..args() }, true),
            (LogArgs { service: service("web"), ..args() }, false),
            (LogArgs { id: KnockId::read("7f3a91c2"), ..args() }, true),
            (LogArgs { id: KnockId::read("7f3a91c3"), ..args() }, false),
            (LogArgs { since: at("2027-01-15T08:00:00Z"), ..args() }, true),
            (LogArgs { since: at("2027-01-15T08:00:01Z"), ..args() }, false),
        ]
    }

    #[test]
    fn each_filter_takes_its_own_events_and_no_others() {
        for (args, expected) in asks() {
            assert_eq!(fits(&args, &granted()), expected, "{args:?}");
        }
        let refused = LogArgs { event: vec![EventKind::Refused], ..LogArgs::default() };
        assert!(!fits(&refused, &granted()));
        let both = LogArgs { event: vec![EventKind::Refused, EventKind::Granted], ..refused };
        assert!(fits(&both, &granted()));
    }

    #[test]
    fn a_line_of_text_is_found_by_its_words_and_its_id() {
        let record = granted();
        let text = format!("{} (id 7f3a91c2)", record.text);
        let read = record_of_text(record.time.clone(), &text);
        for (args, expected) in asks() {
            assert_eq!(fits(&args, &read), expected, "{args:?}");
        }
        assert_eq!((read.id.as_deref(), &read.text), (Some("7f3a91c2"), &record.text));
        let no_id = record_of_text(String::new(), "ready: (id of nothing)");
        assert_eq!(no_id.id, None);
        assert!(text_names("192.0.2.7: side: OPEN SESAME", "door side"));
        assert!(text_names("ALARM: a used knock of anna, first from", "anna"));
        assert!(!text_names("joanna: refused", "anna"));
        assert!(
            line(&record).ends_with(" anna: ssh granted to 192.0.2.7 for 30 s (id 7f3a91c2)\n")
        );
    }
}
