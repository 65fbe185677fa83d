//! The packet that a client sends next (docs/protocol.md, section 8). See `exchange` for what
//! is around it.

use super::keyring::{ClientSecrets, Day};
use super::knock::{KnockKind, Receipt, Request, Status};
use super::types::Wall;

/// 2026-01-01, before this was written: a clock that shows an earlier time is wrong.
const EARLIEST: Wall = Wall(1_767_225_600_000_000_000);

/// What a client whose clock shows `now` sends as its packet number `attempt`, counted from 1,
/// until it is answered, and the day whose keys it takes. The packet still needs its timestamp.
/// `working_day`: the one that the gateway has told.
///
/// The gateway does not know the keys of a day that is far from its own, and stays silent. So each
/// second packet asks for the day, with keys that never change. The first one does so if the clock
/// is known to be wrong.
pub fn next_packet(
    secrets: &ClientSecrets, now: Wall, request: &Request, working_day: Option<u32>, attempt: u32,
) -> (Request, Day) {
    // An invitation has no keys of days, whatever the clock and the gateway say.
    if request.kind == KnockKind::Join {
        return (*request, Day::Invited);
    }
    let first_day = secrets.first_day();
    if let Some(day) = working_day {
        return (*request, Day::Number(day.max(first_day)));
    }
    if now >= EARLIEST && now.day() >= first_day && attempt % 2 == 1 {
        return (*request, Day::Number(now.day()));
    }
    let ask = Request { receipt_wanted: true, first_day, ..Request::bare(KnockKind::Time) };
    (ask, Day::Unknown)
}

/// What a client asks for once more after this receipt, with the receipt's challenge and under its
/// working day. `None` if the receipt is the end of it.
pub fn retry(request: &Request, receipt: &Receipt) -> Option<Request> {
    match (receipt.status, receipt.challenge) {
        (Status::Clock | Status::Challenge, Some(challenge)) => {
            Some(Request { challenge: Some(challenge), ..*request })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::prefix::Span;
    use crate::core::test_vectors::{CLIENT, FIRST_PERIOD, NOON, address, request, secrets};

    #[test]
    fn each_second_packet_asks_for_the_day_and_the_first_if_the_clock_must_be_wrong() {
        let (secrets, open) = (secrets(CLIENT), request(NOON));
        let first_day = 32 * FIRST_PERIOD;
        let day_before = Wall(NOON.0 - u64::from(NOON.day() - first_day + 1) * 86_400_000_000_000);
        for (now, attempt, asks) in [
            (NOON, 1, false),
            (NOON, 2, true),
            (NOON, 3, false),
            (NOON, 4, true),
            (Wall(EARLIEST.0 - 1), 1, true),
            (day_before, 1, true),
            (day_before, 3, true),
        ] {
            let (sent, day) = next_packet(&secrets, now, &open, None, attempt);
            if asks {
                assert_eq!((sent.kind, day), (KnockKind::Time, Day::Unknown), "{now:?} {attempt}");
                assert_eq!((sent.first_day, sent.receipt_wanted), (first_day, true));
            } else {
                assert_eq!((sent, day), (open, Day::Number(now.day())), "{now:?} {attempt}");
            }
            // Once the gateway has told the day, the clock no longer matters.
            for (told, used) in [(first_day + 9, first_day + 9), (3, first_day)] {
                let (sent, day) = next_packet(&secrets, now, &open, Some(told), attempt);
                assert_eq!((sent, day), (open, Day::Number(used)), "{now:?} {attempt}");
            }
        }
    }

    #[test]
    fn a_knock_that_joins_takes_the_keys_of_the_invitation_whatever_the_clock_shows() {
        let join = Request::bare(KnockKind::Join);
        for (now, told, attempt) in [(NOON, None, 1), (NOON, None, 2), (Wall(0), Some(7), 1)] {
            let sent = next_packet(&secrets(CLIENT), now, &join, told, attempt);
            assert_eq!(sent, (join, Day::Invited));
        }
    }

    #[test]
    fn only_a_challenge_that_was_asked_for_is_followed_by_another_knock() {
        let receipt = |status, challenge| Receipt {
            status,
            once: false,
            seconds: 0,
            time: NOON,
            working_day: NOON.day(),
            observed: address(),
            granted: None,
            span: Span::HOST,
            ports: [None; 4],
            challenge,
            next_key: None,
            welcome: None,
        };
        let open = request(NOON);
        let again = Some(Request { challenge: Some([7; 16]), ..open });
        for status in [Status::Clock, Status::Challenge] {
            assert_eq!(retry(&open, &receipt(status, Some([7; 16]))), again);
            assert_eq!(retry(&open, &receipt(status, None)), None);
        }
        for status in [Status::Observed, Status::Denied, Status::Address] {
            assert_eq!(retry(&open, &receipt(status, Some([7; 16]))), None, "{status:?}");
        }
    }
}
