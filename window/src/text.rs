//! What a result says: a headline and lines, in the words of a language.

use std::time::{Duration, Instant};

use toctoc::app::client::{
    Answer, JoinRefusal, JoinSilence, Outcome, Overall, Refusal, duration_text,
};
use toctoc::core::types::{Fault, FaultKind};

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
        Shown::JoinRefused(refusal, details) => {
            let reason = match refusal {
                JoinRefusal::Taken => words.join_taken,
                JoinRefusal::Denied => words.join_denied,
                JoinRefusal::Late => words.join_late,
                JoinRefusal::Trouble => words.join_trouble,
            };
            text(Tone::Bad, words.join_refused, &detailed(reason, details))
        }
        Shown::NoAnswerToJoin(silence, details) => {
            let reason = match silence {
                JoinSilence::Ended => words.join_ended,
                JoinSilence::Unknown => words.join_silence,
            };
            text(Tone::Unknown, words.no_answer, &detailed(reason, details))
        }
        Shown::JoinFault(fault) => text(Tone::Bad, words.join_refused, &fault_text(words, fault)),
        Shown::Fault(fault) => text(Tone::Bad, words.not_sent, &fault_text(words, fault)),
    })
}

/// What is wrong, and what to do.
pub fn fault_text(words: &Words, fault: &Fault) -> String {
    let kind = match fault.kind {
        FaultKind::NoKey => words.fault_no_key,
        FaultKind::Passphrase => words.fault_passphrase,
        FaultKind::Exposed => words.fault_exposed,
        FaultKind::Expired => words.fault_expired,
        FaultKind::Invitation => words.fault_invitation,
        FaultKind::Impostor => words.fault_impostor,
        FaultKind::Unsigned => words.fault_unsigned,
        FaultKind::Unreachable => words.fault_unreachable,
        FaultKind::Name => words.fault_name,
        FaultKind::Input => words.fault_input,
        FaultKind::Other | FaultKind::NotRunning | FaultKind::Held => words.fault_other,
    };
    match fault.remedy.is_empty() {
        true => detailed(kind, &fault.what),
        false => detailed(kind, &format!("{}\n{}", fault.what, fault.remedy)),
    }
}

/// The client's own words in English belong to it in every language.
fn detailed(text: &str, details: &str) -> String {
    fill(text, &[("details", details.trim_end())])
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
        Outcome::NotSent(fault) => fault_text(words, fault),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Language;

    /// What the window says about a fault of this kind.
    fn said(language: Language, kind: FaultKind) -> String {
        fault_text(language.words(), &Fault::new("it broke", "mend it").of(kind))
    }

    #[test]
    fn each_kind_of_fault_has_its_own_words_and_the_clients_as_details() {
        let kinds = [
            FaultKind::NoKey,
            FaultKind::Passphrase,
            FaultKind::Exposed,
            FaultKind::Expired,
            FaultKind::Invitation,
            FaultKind::Impostor,
            FaultKind::Unsigned,
            FaultKind::Unreachable,
            FaultKind::Name,
            FaultKind::Input,
            FaultKind::Other,
        ];
        for language in [Language::German, Language::French] {
            let mut all = Vec::new();
            for kind in kinds {
                let text = said(language, kind);
                assert!(text.ends_with("it broke\nmend it"), "{text}");
                assert!(!all.contains(&text), "{language:?} {kind:?}: {text}");
                all.push(text);
            }
        }
        assert!(said(Language::German, FaultKind::NoKey).starts_with("Der private Schlüssel"));
        assert!(said(Language::French, FaultKind::Expired).starts_with("Votre inscription"));
        assert_eq!(said(Language::English, FaultKind::NoKey), "it broke\nmend it");
    }

    #[test]
    fn an_invitation_that_is_refused_or_not_answered_says_why_in_each_language() {
        let now = Instant::now();
        let line = |language: Language, shown: &Shown| {
            of(language.words(), shown, now).expect("a text").lines.remove(0)
        };
        let details = "refused: taken\n  tell the admin\n";
        let shown = Shown::JoinRefused(JoinRefusal::Taken, details.to_owned());
        assert_eq!(line(Language::English, &shown), details.trim_end());
        assert!(line(Language::German, &shown).starts_with("Ein anderer Schlüssel"));
        let shown = Shown::NoAnswerToJoin(JoinSilence::Ended, details.to_owned());
        let said = line(Language::French, &shown);
        assert!(said.starts_with("Cette invitation a expiré") && said.ends_with("the admin"));
        let shown = Shown::JoinFault(Fault::new("no disk", "").of(FaultKind::Other));
        let text = of(Language::German.words(), &shown, now).expect("a text");
        assert_eq!((text.headline.as_str(), text.tone), ("Sie sind nicht beigetreten", Tone::Bad));
    }
}
