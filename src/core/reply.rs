//! The reply to the holder of a good signature. Nobody gets one before the mark of their packet is
//! durable. See `wire` for the receipt's seal.

use super::authentic::{Authentic, Handshake};
use super::event::KnockId;
use super::grant::ActiveGrant;
use super::knock::{Challenge, Ports, Receipt, Status, Welcome};
use super::prefix::Span;
use super::record::Record;
use super::service::GrantKind;
use super::types::{ClientId, Now, Reject, ServiceName, Source};

/// A reply that may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    pub client: ClientId,
    pub source: Source,
    /// The address that the knock names, or else `source`: the granted one, if any is.
    pub address: Source,
    pub service: ServiceName,
    pub receipt_wanted: bool,
    /// The knock that the receipt answers.
    pub handshake: Handshake,
    pub status: Status,
    pub challenge: Option<Challenge>,
    /// The grant with the time that the firewall holds, which may be more than this knock asked
    /// for.
    pub granted: Option<ActiveGrant>,
    /// True if its holder had that grant already.
    pub extends: bool,
    /// The ports that the grant opens.
    pub ports: Ports,
    /// For somebody who has joined.
    pub welcome: Option<Welcome>,
}

impl Reply {
    pub(super) fn new(authentic: &Authentic, status: Status, challenge: Option<Challenge>) -> Self {
        let request = authentic.request();
        Self {
            client: authentic.client(),
            source: authentic.source(),
            address: authentic.address(),
            service: request.service,
            receipt_wanted: request.receipt_wanted,
            handshake: authentic.handshake(),
            status,
            challenge,
            granted: None,
            extends: false,
            ports: Ports::default(),
            welcome: None,
        }
    }

    /// The id of the knock that it answers.
    pub fn id(&self) -> KnockId {
        KnockId::of(&self.handshake.h)
    }

    /// The reply to the same knock if the gateway could not do what was decided.
    pub fn trouble(self) -> Self {
        Self { status: Status::Trouble, challenge: None, granted: None, ..self }
    }

    /// The receipt, if the client wants one. `working_day`: its working day, see `replay`.
    pub fn receipt(&self, now: Now, working_day: u32) -> Option<Receipt> {
        if !self.receipt_wanted {
            return None;
        }
        let mut receipt = Receipt {
            status: self.status,
            once: false,
            seconds: 0,
            time: now.wall,
            working_day,
            observed: self.source,
            granted: None,
            span: Span::HOST,
            ports: Ports::default(),
            challenge: self.challenge,
            // No gateway rotates its key by itself yet.
            next_key: None,
            welcome: self.welcome,
        };
        if let Some(grant) = &self.granted {
            receipt.once = grant.form == GrantKind::Once;
            receipt.seconds = grant.seconds_left(now);
            receipt.granted = Some(self.address);
            receipt.span = grant.key.span;
            receipt.ports = self.ports;
        }
        Some(receipt)
    }
}

/// A reply that must not be sent before `records` are durable.
pub struct PendingReply {
    pub(super) records: Vec<Record>,
    pub(super) reply: Reply,
    pub(super) reject: Option<Reject>,
}

impl PendingReply {
    /// The reason to count; `None` if the client got what it asked for.
    pub fn reject(&self) -> Option<Reject> {
        self.reject
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::grant::{GrantKey, Holder};
    use crate::core::service::{AddressProof, DisconnectPolicy};
    use crate::core::test_vectors::{self, CLIENT, NOON};
    use crate::core::types::{Boot, Wall};

    fn reply(timestamp: Wall) -> Reply {
        let request = test_vectors::request(timestamp);
        let authentic = Authentic::for_test(CLIENT, request, test_vectors::address(), 1);
        let now = Now { wall: NOON, boot: Boot(1) };
        let key = GrantKey {
            holder: Holder::Client(CLIENT),
            service: request.service,
            source: test_vectors::address(),
            source_port: 0,
            span: Span::HOST,
        };
        let live = ActiveGrant {
            key,
            form: GrantKind::Once,
            ports: 0,
            opened: now,
            seconds: 30,
            cut: DisconnectPolicy::Never,
            proof: AddressProof::Both,
        };
        Reply { granted: Some(live), ..Reply::new(&authentic, Status::Granted, Some([7; 16])) }
    }

    #[test]
    fn a_reply_about_trouble_promises_nothing_of_what_was_decided() {
        let now = Now { wall: NOON, boot: Boot(1) };
        let granted = reply(NOON).receipt(now, 20_513).unwrap();
        assert_eq!((granted.status, granted.seconds, granted.once), (Status::Granted, 30, true));
        let trouble = reply(NOON).trouble().receipt(now, 20_513).unwrap();
        assert_eq!((trouble.status, trouble.seconds, trouble.once), (Status::Trouble, 0, false));
        assert_eq!((trouble.granted, trouble.challenge), (None, None));
    }
}
