//! Knocks that the gatekeeper is judging, by ticket: bounded, and for a few seconds only.
//! What a verdict causes is left to `engine`.

use std::collections::BTreeMap;

use super::clients::Mark;
use crate::core::types::{Boot, SECOND, Source};
use crate::core::wire::ReplyDatagram;

/// How many knocks may be with the gatekeeper at once. More wait in their clients' queues.
pub const TICKETS: usize = 1024;
/// Nanoseconds after which a knock without a verdict gets no receipt any more: its client has given
/// up by then.
pub const LIFE: u64 = 10 * SECOND;

/// What is needed to answer.
pub(super) struct OpenTicket {
    pub(super) reply: ReplyDatagram,
    pub(super) row: u32,
    pub(super) mark: Mark,
    pub(super) source: Source,
    pub(super) source_port: u16,
    pub(super) destination: Source,
}

/// Tickets are numbered from 1, so their order is that of their ends too.
#[derive(Default)]
pub(super) struct Tickets {
    pending: BTreeMap<u64, (Boot, OpenTicket)>,
    last: u64,
}

impl Tickets {
    pub(super) fn held(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn full(&self) -> bool {
        self.pending.len() >= TICKETS
    }

    pub(super) fn issue(&mut self, now: Boot, pending: OpenTicket) -> u64 {
        self.last += 1;
        self.pending.insert(self.last, (now.plus_nanos(LIFE), pending));
        self.last
    }

    pub(super) fn take(&mut self, ticket: u64) -> Option<OpenTicket> {
        self.pending.remove(&ticket).map(|(_, pending)| pending)
    }

    pub(super) fn expire(&mut self, now: Boot) {
        while self.deadline().is_some_and(|end| end <= now) {
            self.pending.pop_first();
        }
    }

    pub(super) fn deadline(&self) -> Option<Boot> {
        self.pending.first_key_value().map(|(_, (end, _))| *end)
    }
}
