//! The reasons why packets were rejected, in words for `toctocd status`.

use crate::core::types::Reject;

/// The line about one counter: what one packet or many did, and the counter's name.
pub(super) fn text(name: &str, number: u64) -> String {
    match Reject::ALL.into_iter().find(|reject| reject.name() == name) {
        Some(reject) => format!("{number} {} ({name})", meaning(reject)),
        // A gateway of another version.
        None => format!("{number} {name}"),
    }
}

fn meaning(reject: Reject) -> &'static str {
    match reject {
        Reject::Malformed => "broke the rules of IP",
        Reject::Headers => "came as fragments, or with IP options",
        Reject::NotForUs => "went to other machines",
        Reject::Checksum => "came damaged",
        Reject::Length => "had another length than a knock",
        Reject::UnknownTag => "came from nobody who is enrolled",
        Reject::ClientMac => "had a client's tag without its secret",
        Reject::SeenBefore => "repeated a knock of just before",
        Reject::Quota => "came faster than the rate limit",
        Reject::Noise => "failed to decrypt",
        Reject::Syntax => "made no sense when decrypted",
        Reject::Gate => "came forged: see ALARM in the log",
        Reject::Signature => "had a wrong signature",
        Reject::Address => "asked for an address that is not granted",
        Reject::Replayed => "repeated a used knock",
        Reject::Clock => "had a wrong time: the client must knock again",
        Reject::Policy => "asked for what the client may not open",
        Reject::State => "failed: the state could not be written",
        Reject::Firewall => "failed: the guard is off, or the firewall refused",
        Reject::Command => "failed: a command failed",
        Reject::Pipe => "came from the listener as nonsense: see the log",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_a_line_that_fits_the_terminal_and_no_two_say_the_same() {
        let mut all = std::collections::BTreeSet::new();
        for reject in Reject::ALL {
            let line = text(reject.name(), 99_999);
            assert!(line.ends_with(&format!(" ({})", reject.name())), "{line}");
            assert!("              ".len() + line.len() <= 80, "{line}");
            all.insert(meaning(reject));
        }
        assert_eq!(all.len(), Reject::ALL.len());
        assert_eq!(text("of-tomorrow", 3), "3 of-tomorrow");
    }
}
