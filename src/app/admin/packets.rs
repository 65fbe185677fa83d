//! The counters of packets as the gateway tells them, and in words. Each packet is in exactly one.

use serde::{Deserialize, Serialize};

use crate::core::types::Reject;

/// All packets since the gateway started: `received` is the sum of all the others.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct PacketCounts {
    /// Packets that the kernel's filter took for us.
    pub received: u64,
    /// Packets that the kernel dropped then, because its queue was full.
    pub lost: u64,
    /// Knocks that got a grant.
    pub granted: u64,
    /// Knocks that ended grants.
    pub closed: u64,
    /// Knocks that only asked whether the gateway answers.
    pub probes: u64,
    /// Knocks that asked for the time.
    pub time: u64,
    /// Knocks by which a key joined, or asked to.
    pub joined: u64,
    /// Packets that went to the doors.
    pub doors: u64,
    /// Knocks that have no answer yet.
    pub waiting: u64,
    /// The rest, by reason: the counter's name and the number.
    pub rejected: Vec<(String, u64)>,
    /// Those of the rest that the kernel's filter dropped, so that nothing had to read them.
    #[serde(default)]
    pub filtered: Vec<(String, u64)>,
}

/// One counter: its name, what its packets did, their number.
pub struct PacketLine<'a> {
    pub name: &'a str,
    pub meaning: &'static str,
    pub number: u64,
}

impl PacketCounts {
    /// The packets that somebody without a key could have sent.
    pub fn junk(&self) -> u64 {
        let mut junk = self.lost;
        for (name, number) in &self.rejected {
            if reject(name).is_some_and(is_junk) {
                junk = junk.saturating_add(*number);
            }
        }
        junk
    }

    /// The packets that the kernel's filter dropped.
    pub fn filtered(&self) -> u64 {
        self.filtered.iter().fold(0, |sum, (_, number)| sum.saturating_add(*number))
    }

    /// The sum of all but `received`.
    pub fn sum(&self) -> u64 {
        self.lines().iter().fold(0, |sum, line| sum.saturating_add(line.number))
    }

    /// Every counter that is not zero: what was answered, then the rest, the largest first.
    pub fn lines(&self) -> Vec<PacketLine<'_>> {
        let mut lines = vec![
            PacketLine { name: "granted", meaning: "opened a service", number: self.granted },
            PacketLine { name: "closed", meaning: "ended their grants", number: self.closed },
            PacketLine { name: "probe", meaning: "asked only for an answer", number: self.probes },
            PacketLine { name: "time", meaning: "asked for the time", number: self.time },
            PacketLine { name: "joined", meaning: "joined, or asked to", number: self.joined },
            PacketLine { name: "doors", meaning: "went to the doors", number: self.doors },
            PacketLine { name: "waiting", meaning: "got no answer yet", number: self.waiting },
        ];
        let mut rest = vec![PacketLine {
            name: "lost",
            meaning: "were dropped by the kernel: its queue was full",
            number: self.lost,
        }];
        for (name, number) in &self.rejected {
            // A gateway of another version may have others.
            let meaning = reject(name).map_or("were rejected", rejected_because);
            rest.push(PacketLine { name, meaning, number: *number });
        }
        rest.sort_by_key(|line| std::cmp::Reverse(line.number));
        lines.extend(rest);
        lines.retain(|line| line.number > 0);
        lines
    }
}

impl PacketLine<'_> {
    /// The meaning as it stands behind the number: "1 was", "2 were".
    pub fn words(&self) -> String {
        match (self.number, self.meaning.strip_prefix("were ")) {
            (1, Some(rest)) => format!("was {rest}"),
            _ => self.meaning.to_owned(),
        }
    }
}

fn reject(name: &str) -> Option<Reject> {
    Reject::ALL.into_iter().find(|reject| reject.name() == name)
}

/// True if no key is needed to send such a packet.
fn is_junk(reject: Reject) -> bool {
    matches!(
        reject,
        Reject::Malformed
            | Reject::Headers
            | Reject::NotForUs
            | Reject::Checksum
            | Reject::Length
            | Reject::UnknownTag
            | Reject::ClientMac
            | Reject::SeenBefore
            | Reject::FirstStep
    )
}

/// What one packet did that was rejected for this reason, or many.
pub fn rejected_because(reject: Reject) -> &'static str {
    match reject {
        Reject::Malformed => "were not valid IP",
        Reject::Headers => "came as fragments, or with IP options",
        Reject::NotForUs => "were not sent to this machine",
        Reject::Checksum => "were damaged on the way",
        Reject::Length => "did not have the length of a knock",
        Reject::UnknownTag => "came from nobody who is enrolled",
        Reject::ClientMac => "imitated a client without its secret",
        Reject::SeenBefore => "repeated a knock that had come before",
        Reject::Quota => "came faster than the rate limit",
        Reject::Noise => "could not be decrypted",
        Reject::Syntax => "made no sense when decrypted",
        Reject::Gate => "were forged: see ALARM in the log",
        Reject::Signature => "were not signed with the client's key",
        Reject::Address => "asked for an address that is not granted",
        Reject::Replayed => "repeated a used knock",
        Reject::Clock => "had to be sent again, with the right time",
        Reject::Policy => "asked for more than the client may open",
        Reject::State => "failed: the state could not be written",
        Reject::Firewall => "failed: no guard, or the firewall refused",
        Reject::Command => "failed: a start command failed",
        Reject::Pipe => "were more than the listener may hand over",
        Reject::Dropped => "got lost: no room, or the listener ended",
        Reject::FirstStep => "were first steps at doors, held in a flood",
    }
}

/// The lines of `toctocd status`.
pub(super) fn text(packets: &PacketCounts) -> String {
    let received = packets.received;
    let mut text = format!("  packets     {received} reached this gateway since then");
    let lines = packets.lines();
    text += if lines.is_empty() { "\n" } else { ":\n" };
    let width = lines.iter().map(|line| line.number.to_string().len()).max().unwrap_or(0);
    for line in lines {
        let (number, words, name) = (line.number, line.words(), line.name);
        text += &format!("              {number:>width$} {words} ({name})\n");
    }
    let filtered = packets.filtered();
    if filtered > 0 {
        let verb = if filtered == 1 { "was" } else { "were" };
        text += &format!("              {filtered} of these {verb} dropped in the kernel\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_a_line_that_fits_the_terminal_and_no_two_say_the_same() {
        let rejected: Vec<(String, u64)> =
            Reject::ALL.map(|reject| (reject.name().to_owned(), 999_999)).into();
        let number = 999_999;
        let counts = PacketCounts {
            received: number * (8 + rejected.len() as u64),
            lost: number,
            granted: number,
            closed: number,
            probes: number,
            time: number,
            joined: number,
            doors: number,
            waiting: number,
            filtered: rejected.clone(),
            rejected,
        };
        let lines = counts.lines();
        assert_eq!(lines.iter().map(|line| line.number).sum::<u64>(), counts.received);
        let meanings: std::collections::BTreeSet<&str> =
            lines.iter().map(|line| line.meaning).collect();
        assert_eq!(meanings.len(), 8 + Reject::ALL.len());
        for line in text(&counts).lines() {
            assert!(line.len() <= 80, "{line}");
        }
    }

    #[test]
    fn what_was_answered_comes_first_then_the_largest_numbers_and_no_zeros() {
        let rejected = vec![("quota".to_owned(), 7), ("of-tomorrow".to_owned(), 90)];
        let counts = PacketCounts {
            received: 100,
            granted: 2,
            lost: 1,
            rejected,
            filtered: vec![("unknown-tag".to_owned(), 60), ("length".to_owned(), 1)],
            ..<_>::default()
        };
        let lines: Vec<String> = text(&counts).lines().map(str::to_owned).collect();
        assert_eq!(
            lines,
            [
                "  packets     100 reached this gateway since then:",
                "               2 opened a service (granted)",
                "              90 were rejected (of-tomorrow)",
                "               7 came faster than the rate limit (quota)",
                "               1 was dropped by the kernel: its queue was full (lost)",
                "              61 of these were dropped in the kernel",
            ]
        );
    }

    #[test]
    fn junk_is_what_takes_no_key_to_send() {
        let mut counts = PacketCounts { lost: 1, granted: 5, doors: 3, ..<_>::default() };
        counts.rejected = vec![("unknown-tag".to_owned(), 10), ("policy".to_owned(), 100)];
        assert_eq!(counts.junk(), 11);
    }
}
