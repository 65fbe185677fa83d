//! What the holder of a good signature is told, and that nobody is told anything before the mark of
//! his packet is durable. What to tell is left to `replay` and `policy`, the receipt's seal to
//! `wire`.

use super::authentic::Authentic;
use super::grants::ActiveGrant;
use super::knock::{Challenge, Ports, Receipt, Status};
use super::record::Record;
use super::service::GrantKind;
use super::types::{ClientId, Now, Reject, SERVICE_PORTS, ServiceName, Source, Wall};

/// An answer that may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// To whom.
    pub client: ClientId,
    /// Where the packet came from.
    pub source: Source,
    /// The address that it names, or else where it came from: what is granted if anything is.
    pub address: Source,
    /// Which service it named.
    pub service: ServiceName,
    /// The packet's timestamp.
    pub timestamp: Wall,
    /// Whether the client waits for a receipt.
    pub receipt_wanted: bool,
    /// How it ended.
    pub status: Status,
    /// For one retry.
    pub challenge: Option<Challenge>,
    /// What was granted; its time is what the firewall holds, which may be more than this packet
    /// asked for.
    pub granted: Option<ActiveGrant>,
}

impl Reply {
    pub(super) fn new(authentic: &Authentic, status: Status, challenge: Option<Challenge>) -> Self {
        Self {
            client: authentic.client(),
            source: authentic.source(),
            address: authentic.address(),
            service: authentic.request().service,
            timestamp: authentic.request().timestamp,
            receipt_wanted: authentic.request().receipt_wanted,
            status,
            challenge,
            granted: None,
        }
    }

    /// The same packet's answer when the firewall refused what was decided.
    pub fn trouble(self) -> Self {
        Self { status: Status::Trouble, challenge: None, granted: None, ..self }
    }

    /// The receipt, at `now`, if one is wanted.
    pub fn receipt(&self, now: Now, next_key: Option<[u8; 32]>) -> Option<Receipt> {
        let none: Ports = [None; SERVICE_PORTS];
        self.receipt_wanted.then(|| Receipt {
            status: self.status,
            once: self.granted.is_some_and(|live| live.form == GrantKind::Once),
            seconds: self.granted.map_or(0, |live| live.seconds_left(now)),
            time: now.wall,
            delay: now.wall.since(self.timestamp),
            observed: self.source,
            granted: self.granted.map(|_| self.address),
            ports: self.granted.map_or(none, |live| live.ports),
            challenge: self.challenge,
            next_key,
        })
    }
}

/// An answer that must not be given before `records` are durable.
pub struct PendingReply {
    pub(super) records: Vec<Record>,
    pub(super) answer: Reply,
    /// What to count; `None` if the client got what it asked for.
    pub(super) reject: Option<Reject>,
}

impl PendingReply {
    /// What this will count as; `None` for a probe, which got what it asked for.
    pub fn reject(&self) -> Option<Reject> {
        self.reject
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::grants::{GrantKey, Holder};
    use crate::core::prefix::Span;
    use crate::core::service::{AddressProof, DisconnectPolicy};
    use crate::core::test_vectors::{self, CLIENT, NOON};
    use crate::core::types::Boot;

    fn answer(timestamp: Wall) -> Reply {
        let request = test_vectors::request(timestamp);
        let authentic = Authentic::for_test(CLIENT, request, test_vectors::address(), 1);
        let now = Now { wall: NOON, boot: Boot(1) };
        let key = GrantKey {
            holder: Holder::Client(CLIENT),
            service: request.service,
            source: test_vectors::address(),
            source_port: 0,
            span: Span::Host,
        };
        let live = ActiveGrant {
            key,
            form: GrantKind::Once,
            ports: [None; SERVICE_PORTS],
            opened: now,
            seconds: 30,
            cut: DisconnectPolicy::Never,
            basis: AddressProof::Both,
        };
        Reply { granted: Some(live), ..Reply::new(&authentic, Status::Granted, Some([7; 16])) }
    }

    #[test]
    fn an_answer_about_trouble_promises_nothing_of_what_was_decided() {
        let now = Now { wall: NOON, boot: Boot(1) };
        let granted = answer(NOON).receipt(now, None).unwrap();
        assert_eq!((granted.status, granted.seconds, granted.once), (Status::Granted, 30, true));
        let trouble = answer(NOON).trouble().receipt(now, None).unwrap();
        assert_eq!((trouble.status, trouble.seconds, trouble.once), (Status::Trouble, 0, false));
        assert_eq!((trouble.granted, trouble.challenge), (None, None));
    }

    #[test]
    fn a_clock_at_either_end_of_time_is_told_the_longest_delay_in_its_own_direction() {
        let delay = |timestamp, wall| {
            answer(Wall(timestamp))
                .receipt(Now { wall: Wall(wall), boot: Boot(1) }, None)
                .unwrap()
                .delay
        };
        assert_eq!((delay(0, u64::MAX), delay(u64::MAX, 0)), (i64::MAX, i64::MIN));
    }
}
