//! How a knock ended, in words and as JSON.
//! What was heard is left to `ask`.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::ask::{AddressOrigin, ClientRequest, ExchangeOutcome, GatewayResult, ReceivedReceipt};
use super::{GRANTED, NO_ANSWER, NO_WAY, REFUSED};
use crate::core::knock::{KnockKind, Receipt, Status};
use crate::core::types::{SECOND, Source, Wall};
use crate::keys::profile::Profile;

/// Clocks that differ by less are as right as clocks are.
const CLOCK_SLACK: i64 = 2 * SECOND.cast_signed();

/// The exit code of them all: the best that was heard counts.
pub(super) fn code(answers: &[GatewayResult]) -> u8 {
    let one = |answer: &GatewayResult| match &answer.outcome {
        ExchangeOutcome::Heard(heard) => match heard.receipt.status {
            Status::Granted | Status::Closed | Status::Observed => GRANTED,
            _ => REFUSED,
        },
        ExchangeOutcome::Silence => NO_ANSWER,
        ExchangeOutcome::NoWay(_) => NO_WAY,
    };
    answers.iter().map(one).min().unwrap_or(NO_WAY)
}

/// For standard output and standard error.
pub(super) fn describe(
    profile: &str,
    held: &Profile,
    wish: &ClientRequest,
    answers: &[GatewayResult],
) -> (String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    let good = code(answers) == GRANTED;
    for answer in answers {
        match &answer.outcome {
            ExchangeOutcome::Heard(heard) => {
                let text = heard_text(profile, wish, answer, heard);
                let fine = matches!(
                    heard.receipt.status,
                    Status::Granted | Status::Closed | Status::Observed
                );
                if fine { &mut out } else { &mut err }.push_str(&text);
                err += &clock_text(heard);
            }
            // One family that leads nowhere is no news where the other one worked.
            ExchangeOutcome::Silence if good => {
                err +=
                    &format!("no answer from {}; the other address answered\n", answer.gateway.ip())
            }
            ExchangeOutcome::NoWay(_) if good => {}
            ExchangeOutcome::Silence => err += &silence_text(profile, held, answer),
            ExchangeOutcome::NoWay(fault) => err += &format!("{fault}\n"),
        }
    }
    if code(answers) == NO_ANSWER && wish.kind == KnockKind::Open && held.fallback.is_some() {
        err += &format!(
            "the profile holds a door's classic sequence too: toctoc open --classic {profile}\n  \
             sends it in the clear: whoever sees it can repeat it, and may have stopped the sealed knock for that\n"
        );
    }
    (out, err)
}

/// All of it as one JSON object.
pub(super) fn as_json(profile: &str, wish: &ClientRequest, answers: &[GatewayResult]) -> Value {
    let answers: Vec<Value> = answers.iter().map(answer_json).collect();
    let exit = answers_exit(&answers);
    let service = Some(wish.service.as_str()).filter(|_| wish.kind != KnockKind::Probe);
    let port = Some(wish.source_port).filter(|port| *port != 0);
    json!({ "profile": profile, "service": service, "source_port": port, "result": exit, "answers": answers })
}

fn answers_exit(answers: &[Value]) -> Value {
    // The best first, as in `code`.
    let order = ["granted", "closed", "observed"];
    let word = |wanted: &&str| answers.iter().any(|answer| answer["status"] == **wanted);
    let best = order.iter().find(|wanted| word(wanted)).copied();
    let silent =
        |answer: &Value| matches!(answer["status"].as_str(), Some("no-answer" | "not-sent"));
    let refused = answers.iter().find(|answer| !silent(answer)).or(answers.first());
    best.map_or_else(|| refused.map_or(Value::Null, |answer| answer["status"].clone()), Value::from)
}

fn answer_json(answer: &GatewayResult) -> Value {
    let mut object = json!({
        "gateway": answer.gateway.to_string(),
        "knocks": answer.knocks,
        "named": answer.named.map(|(source, _)| source.to_string()),
        "found": answer.named.map(|(_, found)| match found {
            AddressOrigin::Given => "given",
            AddressOrigin::Local => "local",
            AddressOrigin::Probed => "probed",
        }),
    });
    let more = match &answer.outcome {
        ExchangeOutcome::Heard(heard) => heard_json(heard),
        ExchangeOutcome::Silence => json!({ "status": "no-answer" }),
        ExchangeOutcome::NoWay(fault) => {
            json!({ "status": "not-sent", "what": fault.what, "remedy": fault.remedy })
        }
    };
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

fn heard_json(heard: &ReceivedReceipt) -> Value {
    let ReceivedReceipt { receipt, at } = heard;
    let granted = receipt.status == Status::Granted;
    json!({
        "status": status_word(receipt.status),
        "observed": receipt.observed.to_string(),
        "address": receipt.granted.map(|source| source.to_string()),
        "ports": port_list(receipt),
        "once": granted.then_some(receipt.once),
        "seconds": granted.then_some(receipt.seconds),
        "until": granted.then(|| timestamp(until(heard)).to_string()),
        // Positive: this machine's clock is behind.
        "clock_behind_ms": receipt.time.since(*at) / 1_000_000,
    })
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

fn heard_text(
    profile: &str,
    wish: &ClientRequest,
    answer: &GatewayResult,
    heard: &ReceivedReceipt,
) -> String {
    let receipt = &heard.receipt;
    let service = wish.service;
    let host = answer.gateway.ip();
    match receipt.status {
        Status::Granted => granted_text(wish, answer, heard),
        Status::Closed => format!("closed: your grants for {service} at {host} have ended\n"),
        Status::Observed => format!("{host} answers; it sees you as {}\n", receipt.observed),
        Status::Address => address_text(profile, wish, answer, receipt.observed),
        Status::Clock => "refused: this machine's clock is too far off, and the challenge did not arrive in time\n  \
                          set the clock, or try again\n"
            .to_owned(),
        Status::Denied => format!(
            "refused: the gateway does not let this key open {service}, or not from {}\n  \
             ask its admin: not enrolled for it, expired, or an address that is never granted\n",
            receipt.observed
        ),
        Status::Full => format!(
            "refused: you, or {service} as a whole, have as many grants as the gateway allows\n  \
             wait until one ends, or end yours: toctoc close {profile} {service}\n"
        ),
        Status::Challenge => "refused: the gateway wants its challenge back, and it did not arrive in time\n  \
                              try again, with a longer --timeout on a slow line\n"
            .to_owned(),
        Status::Trouble => {
            "refused: the gateway has trouble of its own: its state, its firewall or a command. Nothing was opened\n  \
                            tell its admin; its log says which\n"
                .to_owned()
        }
    }
}

fn granted_text(wish: &ClientRequest, answer: &GatewayResult, heard: &ReceivedReceipt) -> String {
    let receipt = &heard.receipt;
    let who = receipt.granted.unwrap_or(receipt.observed);
    let how = if receipt.once { "with one connection" } else { "" };
    let from = if wish.source_port == 0 {
        String::new()
    } else {
        format!("from port {}", wish.source_port)
    };
    let ports = port_list(receipt).join(", ");
    // A service of commands has none.
    let what = if ports.is_empty() { wish.service.to_string() } else { ports };
    let text = format!(
        "granted: {who} may reach {what} at {} {from} {how} for {}, until {}",
        answer.gateway.ip(),
        duration_text(i64::from(receipt.seconds) * SECOND.cast_signed()),
        local_text(until(heard)),
    );
    let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.push('\n');
    if who != receipt.observed {
        text += &format!("  the knock came from {}\n", receipt.observed);
    }
    if answer.named.is_some_and(|(_, found)| found == AddressOrigin::Probed) {
        text += "  that address is what the gateway saw of you; check it if somebody could be on the path\n";
    }
    text
}

/// The observed address is what the path made of it: it is shown, and only the user may ask for it.
fn address_text(
    profile: &str,
    wish: &ClientRequest,
    answer: &GatewayResult,
    observed: Source,
) -> String {
    let named =
        answer.named.map_or_else(|| "no address".to_owned(), |(source, _)| source.to_string());
    let verb = if wish.kind == KnockKind::Close { "close" } else { "open" };
    format!(
        "refused: you asked for {named}, but the knock reached the gateway from {observed}. Nothing was granted\n  \
         if {observed} is you, seen from there: toctoc {verb} {profile} {} --source {observed}\n  \
         if you do not know it, somebody on the path moved your packet\n",
        wish.service
    )
}

fn clock_text(heard: &ReceivedReceipt) -> String {
    let behind = heard.receipt.time.since(heard.at);
    if behind.unsigned_abs() <= CLOCK_SLACK.unsigned_abs() {
        return String::new();
    }
    let side = if behind > 0 { "behind" } else { "ahead of" };
    format!("note: this machine's clock is {} {side} the gateway's\n", duration_text(behind))
}

fn silence_text(profile: &str, held: &Profile, answer: &GatewayResult) -> String {
    format!(
        "no answer from {} to {} knock{}; the gateway never says why. Check\n  \
         - that udp/{} is let through on your side and before the gateway\n  \
         - that its address is still one of: {}\n  \
         - with its admin: does it run, and is `{}` ({}) still enrolled\n  \
         - that this machine's clock is right; then ask for less: toctoc probe {profile}\n  \
         an answer can also have been lost on its way back: the port may be open\n",
        answer.gateway.ip(),
        answer.knocks,
        if answer.knocks == 1 { "" } else { "s" },
        held.port,
        held.addresses.join(", "),
        held.name,
        crate::keys::public::show_fingerprint(&held.key.fingerprint()),
    )
}

fn port_list(receipt: &Receipt) -> Vec<String> {
    receipt.ports.iter().flatten().map(ToString::to_string).collect()
}

/// The end of a grant by the clock of this machine, however wrong that is: gateway time plus
/// seconds, minus what the two clocks differ by, which is the receipt's arrival plus seconds.
fn until(heard: &ReceivedReceipt) -> Wall {
    heard.at.plus(heard.receipt.seconds)
}

fn timestamp(wall: Wall) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(wall.0)).unwrap_or(Timestamp::MAX)
}

/// `14:03:20`, with the day where it is not today.
fn local_text(wall: Wall) -> String {
    let zone = TimeZone::system();
    let then = timestamp(wall).to_zoned(zone.clone());
    let today = Timestamp::now().to_zoned(zone).date();
    let form = if then.date() == today { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    then.strftime(form).to_string()
}

/// `30 s`, `10 min`, `1 h 2 min`, `400 d`: the two largest units.
fn duration_text(nanoseconds: i64) -> String {
    let rounded = SignedDuration::from_nanos(nanoseconds).unsigned_abs()
        + std::time::Duration::from_millis(500);
    let seconds = rounded.as_secs();
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let shown: Vec<String> = parts
        .iter()
        .skip_while(|(n, _)| *n == 0)
        .take(2)
        .filter(|(n, _)| *n > 0)
        .map(|(n, u)| format!("{n} {u}"))
        .collect();
    if shown.is_empty() { "0 s".to_owned() } else { shown.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_in_their_two_largest_units() {
        let second = SECOND.cast_signed();
        for (seconds, said) in [
            (0, "0 s"),
            (30, "30 s"),
            (60, "1 min"),
            (90, "1 min 30 s"),
            (3720, "1 h 2 min"),
            (3605, "1 h"),
        ] {
            assert_eq!(duration_text(seconds * second), said);
            assert_eq!(duration_text(-seconds * second), said);
        }
        assert_eq!(duration_text(400 * 86_400 * second), "400 d");
        assert_eq!(duration_text(7200 * second - 1), "2 h", "rounded, not cut");
    }
}
