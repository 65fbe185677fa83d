//! `toctocd explain --id`: what became of a knock and why, and what it would get now.

use std::net::IpAddr;
use std::path::Path;

use super::{Foresight, foresee};
use crate::app::event_log;
use crate::app::load::Reach;
use crate::app::output::CommandOutput;
use crate::core::event::KnockId;
use crate::core::types::{Fault, FaultKind};
use crate::edge::control::{Asker, Question};
use crate::edge::log::EventRecord;

/// Error: no event has this id, or there is no log to look at.
pub(super) fn explain(config: &Path, reach: &Reach, id: KnockId) -> Result<CommandOutput, Fault> {
    let events = event_log::of_knock(reach, id)?;
    if events.is_empty() {
        let what = format!("no event of the log has the id {id}");
        let remedy = "`toctocd log --since 1h` shows the last ones. A knock that proves nothing has no \
                      line: `toctocd status` counts those";
        return Err(Fault::new(what, remedy).of(FaultKind::Name));
    }
    let mut text = String::new();
    for event in &events {
        text += &event_log::line(event);
        if let Some(why) = event.reason.as_deref().and_then(why) {
            text += &super::row("why", why);
        }
    }
    let now = match events.iter().find_map(|event| question(config, reach, event)) {
        Some(question) => Some(foresee(config, reach, question)?),
        None => None,
    };
    if let Some(Foresight { explanation, .. }) = &now {
        text += "The same knock now:\n";
        text += &explanation.text();
    }
    let now = now.map(|now| now.value);
    let value = serde_json::json!({ "id": id.to_string(), "events": events, "now": now });
    Ok(CommandOutput { value: Some(value), ..CommandOutput::out(text) })
}

/// The knock that an event tells of, if its client is enrolled.
fn question(config: &Path, reach: &Reach, event: &EventRecord) -> Option<Question> {
    let name = event.client.as_deref()?;
    let asker = match name.strip_prefix("door ") {
        Some(door) => Asker::Door(door.to_owned()),
        None => Asker::Client(super::client_id(config, &reach.settings, name).ok()?.0),
    };
    // `192.0.2.7`, `192.0.2.7 port 40000`, `2001:db8::/64`.
    let address = event.address.as_deref()?.split([' ', '/']).next()?;
    let from: IpAddr = address.parse().ok()?;
    Some(Question { asker, service: event.service.clone(), from, named: None, seconds: 0 })
}

/// What the reason of an event means, with what to do.
fn why(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "address" => {
            "the address rule: the knock named another address than it came from, or one that nobody is \
             granted; a device on the way may replace addresses (docs/firewall.md)"
        }
        "clock" => "its timestamp was outside the window: set the client's clock",
        "denied" => "the client's line does not name the service, or the service is not configured",
        "full" => "a limit of grants was reached: `max_grants` of the service or of [knock]",
        "challenge" => "a challenge was needed, and the knock with it did not come in time",
        "trouble" => {
            "the guard was off, or the firewall or a start command failed: lines of that time say which"
        }
        "replayed" => "the same knock had been used before: it was a copy",
        "gate" => "it was made without the client's profile: SECURITY.md",
        "revoked" => "its holder may not have it any more: a change of the files ended it",
        "admin" => "an admin ended it: `toctocd close`",
        "command" => "a command of the service failed",
        "expired" => "the enrolment was over: write a later `expires`, then `toctocd reload`",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::knock::Status;

    #[test]
    fn every_status_that_refuses_a_knock_is_explained() {
        use Status::{Address, Challenge, Clock, Denied, Full, Trouble};
        for status in [Address, Challenge, Clock, Denied, Full, Trouble] {
            assert!(why(status.word()).is_some(), "{status:?}");
        }
    }
}
