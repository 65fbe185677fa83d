//! The result of a sealed command as text and as JSON.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::ask::{AddressOrigin, ClientRequest, ExchangeOutcome, GatewayResult, ReceivedReceipt};
use super::{DONE, NO_ANSWER, REFUSED, UNREACHABLE};
use crate::app::output::{CommandOutput, count};
use crate::core::knock::{KnockKind, Receipt, Status};
use crate::core::types::{SECOND, Source, Wall};
use crate::keys::profile::Profile;
use crate::keys::public::show_fingerprint;

/// Clock differences up to this are not mentioned, in nanoseconds.
const CLOCK_SLACK: u64 = 2 * SECOND;

/// The exchanges with all addresses of one gateway.
pub(super) struct ExchangeReport<'a> {
    /// The profile's name or path, as the user typed it.
    pub(super) name: &'a str,
    pub(super) profile: &'a Profile,
    pub(super) request: &'a ClientRequest,
    pub(super) results: &'a [GatewayResult],
}

fn is_success(status: Status) -> bool {
    matches!(status, Status::Granted | Status::Closed | Status::Observed)
}

fn exit_code(outcome: &ExchangeOutcome) -> u8 {
    match outcome {
        ExchangeOutcome::Received(received) if is_success(received.receipt.status) => DONE,
        ExchangeOutcome::Received(_) => REFUSED,
        ExchangeOutcome::Silence => NO_ANSWER,
        ExchangeOutcome::Unreachable(_) => UNREACHABLE,
    }
}

impl ExchangeReport<'_> {
    /// The exit code: the best result counts.
    pub(super) fn code(&self) -> u8 {
        let codes = self.results.iter().map(|result| exit_code(&result.outcome));
        codes.min().unwrap_or(UNREACHABLE)
    }

    /// Text for people, and the exit code.
    pub(super) fn output(&self) -> CommandOutput {
        let code = self.code();
        let mut out = String::new();
        let mut err = String::new();
        for result in self.results {
            match &result.outcome {
                ExchangeOutcome::Received(received) => {
                    let text = self.receipt_text(result, received);
                    match is_success(received.receipt.status) {
                        true => out += &text,
                        false => err += &text,
                    }
                    err += &clock_text(received);
                }
                // If one family worked, the other one is a note at most.
                ExchangeOutcome::Silence if code == DONE => {
                    let gateway = result.gateway.ip();
                    err += &format!("no answer from {gateway}; the other address answered\n");
                }
                ExchangeOutcome::Unreachable(_) if code == DONE => {}
                ExchangeOutcome::Silence => err += &self.silence_text(result),
                ExchangeOutcome::Unreachable(fault) => err += &format!("{fault}\n"),
            }
        }
        if code == NO_ANSWER
            && self.request.kind == KnockKind::Open
            && self.profile.fallback.is_some()
        {
            err += &format!(
                "the profile also has a door's classic sequence: toctoc open --classic {}\n  \
                 sends it in cleartext: whoever sees it can repeat it, and somebody may have \
                 stopped the sealed knock to make you send it\n",
                self.name
            );
        }
        CommandOutput { code, err, ..CommandOutput::out(out) }
    }

    /// Everything as one JSON object.
    pub(super) fn json(&self) -> Value {
        let answers: Vec<Value> = self.results.iter().map(result_json).collect();
        let service = match self.request.kind {
            KnockKind::Probe => None,
            _ => Some(self.request.service.as_str()),
        };
        let port = match self.request.source_port {
            0 => None,
            port => Some(port),
        };
        json!({
            "profile": self.name, "service": service, "source_port": port,
            "result": best_status(&answers), "answers": answers
        })
    }

    fn receipt_text(&self, result: &GatewayResult, received: &ReceivedReceipt) -> String {
        let receipt = &received.receipt;
        let name = self.name;
        let service = self.request.service;
        let gateway = result.gateway.ip();
        let observed = receipt.observed;
        match receipt.status {
            Status::Granted => self.granted_text(result, received),
            Status::Closed => {
                format!("closed: your grants for {service} at {gateway} have ended\n")
            }
            Status::Observed => format!("{gateway} answered: it sees you as {observed}\n"),
            Status::Address => self.address_text(result, observed),
            Status::Clock => {
                "refused: this machine's clock is too far off, and a second knock with \
                 the gateway's challenge got no answer in time\n  set the clock, or try again\n"
                    .to_owned()
            }
            Status::Denied => format!(
                "refused: the gateway does not let this key open {service}, or not from {observed}\n  \
                 ask its admin: the key may not be enrolled for it, or expired; \
                 some addresses are never granted\n"
            ),
            Status::Full => format!(
                "refused: the limit of grants is reached, for you or for {service} as a whole\n  \
                 wait until one ends, or end yours: toctoc close {name} {service}\n"
            ),
            Status::Challenge => {
                "refused: the gateway sent a challenge, and a second knock with it \
                 got no answer in time\n  try again; on a slow network with a longer --timeout\n"
                    .to_owned()
            }
            Status::Trouble => {
                "refused: the gateway has a problem with its state, its firewall or a \
                 command; nothing was opened\n  tell its admin; its log says which\n"
                    .to_owned()
            }
        }
    }

    fn granted_text(&self, result: &GatewayResult, received: &ReceivedReceipt) -> String {
        let receipt = &received.receipt;
        let who = receipt.granted.unwrap_or(receipt.observed);
        let ports = ports(receipt).join(", ");
        // A service of commands has no ports.
        let what = if ports.is_empty() { self.request.service.to_string() } else { ports };
        let mut text = format!("granted: {who} may reach {what} at {}", result.gateway.ip());
        if self.request.source_port != 0 {
            text += &format!(" from port {}", self.request.source_port);
        }
        if receipt.once {
            text += " with one connection";
        }
        text += &format!(
            " for {}, until {}\n",
            duration_text(u64::from(receipt.seconds) * SECOND),
            clock_time(until(received), Timestamp::now(), &TimeZone::system()),
        );
        if who != receipt.observed {
            text += &format!("  the knock came from {}\n", receipt.observed);
        }
        if let Some(named) = result.named
            && named.origin == AddressOrigin::Probed
        {
            text += "  that address is what the gateway saw of you; check that it is yours if \
                 somebody could have changed packets on the way\n";
        }
        text
    }

    /// The observed address may be an attacker's choice. It is shown, and only the user may decide
    /// to ask for it.
    fn address_text(&self, result: &GatewayResult, observed: Source) -> String {
        let named = match result.named {
            Some(named) => named.source.to_string(),
            None => "no address".to_owned(),
        };
        let verb = if self.request.kind == KnockKind::Close { "close" } else { "open" };
        format!(
            "refused: the knock named {named}, but it reached the gateway from {observed}; \
             nothing was changed\n  \
             if {observed} is yours as the gateway sees it: toctoc {verb} {} {} --source {observed}\n  \
             if you do not know it, somebody on the way redirected your packet\n",
            self.name, self.request.service
        )
    }

    fn silence_text(&self, result: &GatewayResult) -> String {
        let profile = self.profile;
        format!(
            "no answer from {} to {}; a gateway never says why. Check:\n  \
             - is udp/{} let through by your network and in front of the gateway?\n  \
             - is the gateway's address still one of: {}?\n  \
             - ask its admin: is the gateway running, and is `{}` ({}) still enrolled?\n  \
             - is this machine's clock right? Then try a knock that opens nothing: toctoc probe {}\n  \
             only the answer may have been lost: the port may be open\n",
            result.gateway.ip(),
            count(result.knocks as usize, "knock"),
            profile.port,
            profile.addresses.join(", "),
            profile.name,
            show_fingerprint(&profile.key.fingerprint()),
            self.name,
        )
    }
}

/// The best status, as in [`ExchangeReport::code`]; else the first refusal; else the first result.
fn best_status(answers: &[Value]) -> Value {
    for wanted in ["granted", "closed", "observed"] {
        if answers.iter().any(|answer| answer["status"] == wanted) {
            return Value::from(wanted);
        }
    }
    for answer in answers {
        if answer["status"] != "no-answer" && answer["status"] != "not-sent" {
            return answer["status"].clone();
        }
    }
    match answers.first() {
        Some(answer) => answer["status"].clone(),
        None => Value::Null,
    }
}

fn result_json(result: &GatewayResult) -> Value {
    let mut object = match &result.outcome {
        ExchangeOutcome::Received(received) => receipt_json(received),
        ExchangeOutcome::Silence => json!({ "status": "no-answer" }),
        ExchangeOutcome::Unreachable(fault) => {
            json!({ "status": "not-sent", "what": fault.what, "remedy": fault.remedy })
        }
    };
    object["gateway"] = json!(result.gateway.to_string());
    object["knocks"] = json!(result.knocks);
    object["named"] = json!(result.named.map(|named| named.source.to_string()));
    object["found"] = json!(result.named.map(|named| match named.origin {
        AddressOrigin::Given => "given",
        AddressOrigin::Local => "local",
        AddressOrigin::Probed => "probed",
    }));
    object
}

fn receipt_json(received: &ReceivedReceipt) -> Value {
    let receipt = &received.receipt;
    let mut object = json!({
        "status": status_word(receipt.status),
        "observed": receipt.observed.to_string(),
        "address": receipt.granted.map(|source| source.to_string()),
        "ports": ports(receipt),
        "once": null, "seconds": null, "until": null,
        // Positive: this machine's clock is behind.
        "clock_behind_ms": receipt.time.since(received.at) / 1_000_000,
    });
    if receipt.status == Status::Granted {
        object["once"] = json!(receipt.once);
        object["seconds"] = json!(receipt.seconds);
        object["until"] = json!(timestamp(until(received)).to_string());
    }
    object
}

fn status_word(status: Status) -> &'static str {
    match status {
        Status::Granted => "granted",
        Status::Closed => "closed",
        Status::Observed => "observed",
        Status::Address => "address",
        Status::Clock => "clock",
        Status::Denied => "denied",
        Status::Full => "full",
        Status::Challenge => "challenge",
        Status::Trouble => "trouble",
    }
}

fn clock_text(received: &ReceivedReceipt) -> String {
    let behind = received.receipt.time.since(received.at);
    if behind.unsigned_abs() <= CLOCK_SLACK {
        return String::new();
    }
    let side = if behind > 0 { "behind" } else { "ahead of" };
    let difference = duration_text(behind.unsigned_abs());
    format!("note: this machine's clock is {difference} {side} the gateway's\n")
}

fn ports(receipt: &Receipt) -> Vec<String> {
    receipt.ports.iter().flatten().map(ToString::to_string).collect()
}

/// The end of a grant by the clock of this machine, even if that is wrong: the receipt's arrival
/// plus the seconds of the grant.
fn until(received: &ReceivedReceipt) -> Wall {
    received.at.plus(received.receipt.seconds)
}

fn timestamp(wall: Wall) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(wall.0)).unwrap_or(Timestamp::MAX)
}

/// `14:03:20`, with the date if it is not today's.
fn clock_time(then: Wall, now: Timestamp, zone: &TimeZone) -> String {
    let then = timestamp(then).to_zoned(zone.clone());
    let today = now.to_zoned(zone.clone()).date();
    let form = if then.date() == today { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    then.strftime(form).to_string()
}

/// `30 s`, `10 min`, `1 h 2 min`, `400 d`: the two largest units, rounded to seconds.
fn duration_text(nanoseconds: u64) -> String {
    let seconds = (nanoseconds + SECOND / 2) / SECOND;
    let units = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let Some(largest) = units.iter().position(|(number, _)| *number > 0) else {
        return "0 s".to_owned();
    };
    let mut parts = Vec::new();
    for (number, unit) in units.iter().skip(largest).take(2) {
        if *number > 0 {
            parts.push(format!("{number} {unit}"));
        }
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests;
