//! What a result says: a headline and lines, in the words of a language.

use std::time::{Duration, Instant};

use toctoc::app::client::{Answer, Outcome, Overall, Refusal, duration_text};
use toctoc::core::types::Fault;

use crate::model::{Opened, Shown, Tone};
use crate::words::{Words, fill};

/// A result as a person reads it.
pub struct Text {
    pub tone: Tone,
    pub headline: String,
    pub lines: Vec<String>,
}

/// `4 min 12 s`.
pub fn time(duration: Duration) -> String {
    duration_text(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

/// What came of the last order; `None` if there was none.
pub fn of(words: &Words, shown: &Shown, now: Instant) -> Option<Text> {
    let text = |tone, headline: &str, line: &str| Text {
        tone,
        headline: headline.to_owned(),
        lines: vec![line.to_owned()],
    };
    Some(match shown {
        Shown::Nothing => return None,
        Shown::Opened(opened) | Shown::Closed(opened) => answers(words, opened, now),
        Shown::Joined(name) => {
            text(Tone::Good, words.joined, &fill(words.joined_text, &[("profile", name)]))
        }
        Shown::Pending(_) => text(Tone::Unknown, words.pending, words.pending_text),
        Shown::JoinRefused(reason) => text(Tone::Bad, words.join_refused, reason),
        Shown::NoAnswerToJoin(reason) => text(Tone::Unknown, words.no_answer, reason),
        Shown::Fault(fault) => text(Tone::Bad, words.not_sent, &fault_text(fault)),
    })
}

/// What is wrong, and what to do.
pub fn fault_text(fault: &Fault) -> String {
    match fault.remedy.is_empty() {
        true => fault.what.clone(),
        false => format!("{}\n{}", fault.what, fault.remedy),
    }
}

fn answers(words: &Words, opened: &Opened, now: Instant) -> Text {
    let service = opened.target.service;
    let is_over = opened.end.is_some() && opened.left(now).is_none();
    let headline = match opened.answers.overall {
        _ if is_over => words.ended,
        Overall::Done if opened.end.is_none() => words.closed,
        Overall::Done => words.granted,
        Overall::Partly => words.partly,
        Overall::Refused => words.refused,
        Overall::NoAnswer => words.no_answer,
        Overall::NotSent => words.not_sent,
    };
    let mut lines: Vec<String> = Vec::new();
    if is_over {
        lines.push(words.ended_advice.to_owned());
    } else {
        for answer in &opened.answers.each {
            let line = answer_text(words, opened, answer);
            // What several addresses of the gateway have in common is said once.
            if !line.is_empty() && !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    Text {
        tone: opened.tone(now),
        headline: fill(headline, &[("service", service.as_str())]),
        lines,
    }
}

/// Empty if there is nothing to say about this address.
fn answer_text(words: &Words, opened: &Opened, answer: &Answer) -> String {
    let service = opened.target.service;
    let gateway = answer.gateway.ip().to_string();
    let is_silent = opened.answers.overall == Overall::NoAnswer;
    match &answer.outcome {
        Outcome::Granted(grant) => {
            let text = match grant.ports.is_empty() {
                true => words.granted_service,
                false => words.granted_ports,
            };
            let mut line = fill(
                text,
                &[
                    ("address", grant.address.as_str()),
                    ("ports", &grant.ports.join(", ")),
                    ("service", service.as_str()),
                    ("gateway", &gateway),
                    ("until", &grant.until),
                ],
            );
            if grant.once {
                line += " ";
                line += words.once;
            }
            line
        }
        Outcome::Closed => {
            fill(words.closed_text, &[("service", service.as_str()), ("gateway", &gateway)])
        }
        Outcome::Refused(refusal) => refusal_text(words, service.as_str(), *refusal),
        // If another address has answered, this one does not matter.
        Outcome::Silence(0) => String::new(),
        Outcome::Silence(_) if !is_silent => String::new(),
        Outcome::Silence(knocks) => fill(
            words.no_answer_text,
            &[
                ("gateway", gateway.as_str()),
                ("knocks", &knocks.to_string()),
                ("service", service.as_str()),
            ],
        ),
        Outcome::NotSent(_) if opened.answers.overall == Overall::Done => String::new(),
        Outcome::NotSent(fault) => fault_text(fault),
    }
}

fn refusal_text(words: &Words, service: &str, refusal: Refusal) -> String {
    match refusal {
        Refusal::Replaced(observed) => fill(words.replaced, &[("observed", &observed.to_string())]),
        Refusal::Unnamed(observed) => fill(words.unnamed, &[("observed", &observed.to_string())]),
        Refusal::Everybodys(observed) => {
            fill(words.everybodys, &[("observed", &observed.to_string())])
        }
        Refusal::Public { named, observed } => fill(
            words.public,
            &[("named", &named.to_string()), ("observed", &observed.to_string())],
        ),
        Refusal::Other { named, observed } => {
            fill(words.other, &[("named", &named.to_string()), ("observed", &observed.to_string())])
        }
        Refusal::Clock => words.clock.to_owned(),
        Refusal::Denied => fill(words.denied, &[("service", service)]),
        Refusal::Full => fill(words.full, &[("service", service)]),
        Refusal::Challenge => words.challenge.to_owned(),
        Refusal::Trouble => fill(words.trouble, &[("service", service)]),
    }
}
