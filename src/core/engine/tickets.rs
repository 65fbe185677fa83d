//! Knocks that wait for the gatekeeper's verdict, by ticket.
//! The table is bounded, and each ticket ends after a few seconds.

use std::collections::BTreeMap;

use crate::core::types::{Boot, SECOND, Source};
use crate::core::wire::ReplyDatagram;

/// The most knocks that the gatekeeper has at once. More wait in their clients' queues.
pub const TICKETS: usize = 1024;
/// Nanoseconds until a ticket ends: after that the client no longer waits for a receipt.
pub const LIFE: u64 = 10 * SECOND;

/// What a receipt needs.
pub(super) struct OpenTicket {
    pub(super) reply: ReplyDatagram,
    pub(super) row: u32,
    pub(super) packet: u64,
    pub(super) source: Source,
    pub(super) source_port: u16,
    pub(super) destination: Source,
}

/// Tickets by number. They count up from 1, so the lowest number ends first.
#[derive(Default)]
pub(super) struct Tickets {
    open: BTreeMap<u64, (Boot, OpenTicket)>,
    last: u64,
}

impl Tickets {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.open.len() >= TICKETS
    }

    pub(super) fn issue(&mut self, now: Boot, ticket: OpenTicket) -> u64 {
        self.last += 1;
        self.open.insert(self.last, (now.plus_nanos(LIFE), ticket));
        self.last
    }

    pub(super) fn take(&mut self, ticket: u64) -> Option<OpenTicket> {
        let (_, ticket) = self.open.remove(&ticket)?;
        Some(ticket)
    }

    pub(super) fn expire(&mut self, now: Boot) {
        while let Some(end) = self.deadline()
            && end <= now
        {
            self.open.pop_first();
        }
    }

    pub(super) fn deadline(&self) -> Option<Boot> {
        let (_, (end, _)) = self.open.first_key_value()?;
        Some(*end)
    }
}
