//! What the listener keeps of each client: keys, packets seen before, a token bucket, a queue.
//! Who a packet's client is, and that the client made it, is left to `wire`.
//!
//! Nothing is kept per source address: whatever is kept here was made with a client's MAC key, and
//! only that client can run into its limits. Somebody on the path can repeat or race a client's
//! packets, as he can drop them.

use std::collections::VecDeque;

use crate::core::keyring::{ClientKeys, Secret};
use crate::core::types::{Boot, Fingerprint, Reject, SECOND, Source};
use crate::core::wire::MacVerified;

/// How many of a client's packets are remembered, 48 bytes each.
///
/// Whoever recorded more than these while their tags are known, two days, can use up the client's
/// rate by sending them round and round from anywhere: so as many as a client that knocks every
/// three minutes makes.
pub const RING: usize = 1024;
/// How many packets wait at most, of all clients together.
pub const QUEUED: usize = 4096;
/// How many of one client, as long as the queue is less than half full: a whole burst.
const SHARE: usize = 64;
/// And then: it takes a thousand clients acting together to fill the other half.
const SMALL_SHARE: usize = 2;

/// How many copies of one packet, each from another address, are let through before it is known
/// which address it names.
///
/// Each costs its client a token: without this, whoever kept one packet from arriving could use up
/// its client's rate with copies from forged addresses, for as long as the packet's tag is known.
const COPIES: usize = 8;

/// The first half of a client MAC: names one datagram among its client's.
pub(super) type Mark = u64;

/// A packet that its client made, about to be opened.
pub(super) struct QueuedKnock {
    pub(super) mine: MacVerified,
    pub(super) source: Source,
    pub(super) source_port: u16,
    pub(super) destination: Source,
}

impl QueuedKnock {
    pub(super) fn mark(&self) -> Mark {
        let [a, b, c, d, e, f, g, h, ..] = self.mine.mac();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// How fast a client may knock.
#[derive(Clone, Copy)]
pub(super) struct KnockRate {
    /// Nanoseconds that one knock takes up.
    interval: u64,
    /// How far ahead a client may be.
    ahead: u64,
}

impl KnockRate {
    /// `burst` at once and `per_second` after that; at least one of each.
    pub(super) fn new(burst: u32, per_second: u32) -> Self {
        let interval = SECOND / u64::from(per_second.max(1));
        Self { interval, ahead: interval.saturating_mul(u64::from(burst.saturating_sub(1))) }
    }
}

/// One packet that was let through before.
struct SeenPacket {
    mark: Mark,
    source: Source,
    /// The address that it asks to open for, once that was read: from elsewhere it can only be
    /// refused.
    names: Option<Source>,
    /// The gatekeeper has set its mark: a copy can only be refused.
    spent: bool,
    alarmed: bool,
}

struct ClientRow {
    keys: ClientKeys,
    fingerprint: Fingerprint,
    /// The moment up to which its bucket is used up.
    used_up_to: Boot,
    seen: VecDeque<SeenPacket>,
    waiting: VecDeque<QueuedKnock>,
}

/// All clients, by row.
pub(super) struct Clients {
    rows: Vec<ClientRow>,
    rate: KnockRate,
    /// Rows with a packet that waits, each once.
    turns: VecDeque<u32>,
    waiting: usize,
}

impl Clients {
    pub(super) fn new(clients: Vec<(ClientKeys, Fingerprint)>, rate: KnockRate) -> Self {
        let client = |(keys, fingerprint)| ClientRow {
            keys,
            fingerprint,
            used_up_to: Boot(0),
            seen: VecDeque::new(),
            waiting: VecDeque::new(),
        };
        Self {
            rows: clients.into_iter().map(client).collect(),
            rate,
            turns: VecDeque::new(),
            waiting: 0,
        }
    }

    pub(super) fn client(&self, row: u32) -> Option<(&ClientKeys, &Fingerprint)> {
        self.rows.get(usize::try_from(row).ok()?).map(|client| (&client.keys, &client.fingerprint))
    }

    pub(super) fn keys(&self, row: u32) -> Option<&ClientKeys> {
        self.client(row).map(|(keys, _)| keys)
    }

    pub(super) fn tag_keys(&self) -> impl Iterator<Item = (u32, &Secret<32>)> {
        (0..).zip(self.rows.iter().map(|client| &client.keys.tag))
    }

    /// Lets a packet wait for its turn: not one that was seen before, and not more than its client
    /// may send.
    ///
    /// A copy from another address is told to `alarm`, once for each packet. It still goes its way
    /// unless the packet is spent or known to name another address: the first copy may have been
    /// the attacker's, who sent it from his own address faster than the path carried the client's,
    /// and that one was or will be refused without burning anything.
    ///
    /// Fails with `SeenBefore` or `Quota`; what fails with `Quota` leaves no trace, so that it may
    /// come again.
    pub(super) fn admit(
        &mut self,
        now: Boot,
        row: u32,
        waiting: QueuedKnock,
        alarm: impl FnOnce(Source),
    ) -> Result<(), Reject> {
        let share = if self.waiting < QUEUED / 2 { SHARE } else { SMALL_SHARE };
        let client = usize::try_from(row)
            .ok()
            .and_then(|row| self.rows.get_mut(row))
            .ok_or(Reject::UnknownTag)?;
        client.look_back(waiting.mark(), waiting.source, alarm)?;
        if client.waiting.len() >= share || self.waiting >= QUEUED {
            return Err(Reject::Quota);
        }
        client.pay(now, self.rate)?;
        client.remember(&waiting);
        if client.waiting.is_empty() {
            self.turns.push_back(row);
        }
        client.waiting.push_back(waiting);
        self.waiting += 1;
        Ok(())
    }

    /// The next packet to be opened, of the client whose turn it is.
    pub(super) fn next(&mut self) -> Option<(u32, QueuedKnock)> {
        let row = self.turns.pop_front()?;
        let client = self.rows.get_mut(usize::try_from(row).ok()?)?;
        let waiting = client.waiting.pop_front()?;
        self.waiting = self.waiting.saturating_sub(1);
        if client.waiting.is_empty() {
            // A burst's worth of room is not kept for each of 100,000 clients.
            client.waiting = VecDeque::new();
        } else {
            self.turns.push_back(row);
        }
        Some((row, waiting))
    }

    /// Packets that wait, and the most that are remembered of one client.
    pub(super) fn held(&self) -> [usize; 2] {
        [self.waiting, self.rows.iter().map(|client| client.seen.len()).max().unwrap_or(0)]
    }

    pub(super) fn some_wait(&self) -> bool {
        self.waiting > 0
    }

    /// The packet's mark was set.
    pub(super) fn spend(&mut self, row: u32, mark: Mark) {
        self.traces(row, mark).for_each(|trace| trace.spent = true);
    }

    /// The packet was opened: it asks to open for this address.
    pub(super) fn names(&mut self, row: u32, mark: Mark, address: Source) {
        self.traces(row, mark).for_each(|trace| trace.names = Some(address));
    }

    fn traces(&mut self, row: u32, mark: Mark) -> impl Iterator<Item = &mut SeenPacket> {
        let client = usize::try_from(row).ok().and_then(|row| self.rows.get_mut(row));
        client
            .into_iter()
            .flat_map(|client| &mut client.seen)
            .filter(move |trace| trace.mark == mark)
    }
}

impl ClientRow {
    fn look_back(
        &mut self,
        mark: Mark,
        source: Source,
        alarm: impl FnOnce(Source),
    ) -> Result<(), Reject> {
        let (mut again, mut spent, mut copies, mut names, mut first) =
            (false, false, 0, None, None);
        for trace in self.seen.iter_mut().filter(|trace| trace.mark == mark) {
            again |= trace.source == source;
            spent |= trace.spent;
            copies += 1;
            names = names.or(trace.names);
            first.get_or_insert(trace);
        }
        let Some(first) = first else { return Ok(()) };
        if first.source != source && !first.alarmed {
            first.alarmed = true;
            alarm(first.source);
        }
        let useless = names.map_or(copies >= COPIES, |named| named != source);
        if again || spent || useless { Err(Reject::SeenBefore) } else { Ok(()) }
    }

    /// Takes a token. The bucket is one number: the moment at which it will be full again.
    fn pay(&mut self, now: Boot, rate: KnockRate) -> Result<(), Reject> {
        let from = self.used_up_to.max(now);
        if from.0 - now.0 > rate.ahead {
            return Err(Reject::Quota);
        }
        self.used_up_to = from.plus_nanos(rate.interval);
        Ok(())
    }

    fn remember(&mut self, waiting: &QueuedKnock) {
        if self.seen.len() >= RING {
            self.seen.pop_front();
        }
        let (mark, source) = (waiting.mark(), waiting.source);
        self.seen.push_back(SeenPacket { mark, source, names: None, spent: false, alarmed: false });
    }
}

#[cfg(test)]
mod tests;
