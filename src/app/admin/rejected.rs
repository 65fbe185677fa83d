//! The reasons why packets were rejected, in words for `toctocd status`.

use crate::core::types::Reject;

/// The line about one counter: what came, and the counter's name.
pub(super) fn text(name: &str, number: u64) -> String {
    match Reject::ALL.into_iter().find(|reject| reject.name() == name) {
        Some(reject) => format!("{number} {} ({name})", meaning(reject)),
        // A gateway of another version.
        None => format!("{number} {name}"),
    }
}

fn meaning(reject: Reject) -> &'static str {
    match reject {
        Reject::Malformed => "were no sound IP packets",
        Reject::Headers => "were fragments or had IP options",
        Reject::NotForUs => "were not sent to this machine",
        Reject::Checksum => "were damaged on the way",
        Reject::Length => "had not the length of a knock",
        Reject::UnknownTag => "came from nobody who is enrolled",
        Reject::ClientMac => "had a client's tag without its secret",
        Reject::SeenBefore => "were copies of a knock of just before",
        Reject::Quota => "came faster than the rate limit",
        Reject::Noise => "could not be decrypted",
        Reject::Syntax => "made no sense when decrypted",
        Reject::Gate => "were forged: see ALARM in the log",
        Reject::Signature => "had a wrong signature",
        Reject::Address => "asked for an address that is not granted",
        Reject::Replayed => "were used knocks that came again",
        Reject::Clock => "had a wrong time: the client must knock again",
        Reject::Policy => "asked for what the client may not open",
        Reject::State => "were lost: the state could not be written",
        Reject::Firewall => "were lost: the firewall took no grant",
        Reject::Command => "were lost: a command failed",
        Reject::Pipe => "were nonsense from the listener: see the log",
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
