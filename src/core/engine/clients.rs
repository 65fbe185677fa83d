//! The listener's state of each client: keys, packets seen before, a token bucket, a queue.
//! See `wire` for the proof that a client made a packet.
//!
//! Nothing is kept per source. Every packet here was made with a client's MAC key, so only that
//! client can reach its limits. An attacker on the path can repeat its packets, or drop them.

use std::collections::{BTreeMap, VecDeque};
use std::mem;

use crate::core::bytes::saturated_u32;
use crate::core::keyring::{Day, WireRow, WireSecret};
use crate::core::quota::{Bucket, Rate};
use crate::core::types::{Boot, ClientId, Reject, SECOND, Source};
use crate::core::wire::MacVerified;

/// The number of packets that are remembered of one client, 56 bytes each.
///
/// An attacker who recorded more than these while their tags are valid, two days, can use up the
/// client's rate by sending them again and again. So it is enough for a knock every three minutes.
pub const RING: usize = 1024;
/// The most packets that wait, over all clients.
pub const QUEUED: usize = 4096;
/// The most of one client while the queue is less than half full: a whole burst.
const SHARE: usize = 64;
/// The most of one client after that: only a thousand clients together can fill the other half.
const SMALL_SHARE: usize = 2;

/// The most copies of one packet, from different sources, that pass before it is decrypted.
///
/// Each costs the client a token. Without this limit, an attacker who kept one packet from arriving
/// could use up its client's rate with copies from forged sources, as long as its tag is valid.
const COPIES: usize = 8;

/// A packet that its client made, before it is opened.
pub(super) struct QueuedKnock {
    pub(super) verified: MacVerified,
    /// The keys that it was made with, and their day. The client's row may move on before it is
    /// opened.
    pub(super) wire: WireSecret,
    pub(super) day: Day,
    pub(super) source: Source,
    pub(super) source_port: u16,
    pub(super) destination: Source,
}

impl QueuedKnock {
    /// The first half of the client MAC: identifies one packet among those of its client.
    pub(super) fn id(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.verified.mac();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

struct SeenPacket {
    id: u64,
    day: Day,
    source: Source,
    /// The address that it asks for, once decrypted: from any other source it can only fail.
    requested: Option<Source>,
    /// The gatekeeper has set its used-knock mark: a copy can only be refused.
    used: bool,
    alarmed: bool,
    /// The copies that were rejected.
    rejected: u8,
}

/// Copies of one packet that this process need not see: it would reject them all.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UselessCopies {
    /// The one address from which a copy may still be good.
    pub(super) except: Option<Source>,
}

/// How often one client may ask for the time: at once, then one in so many nanoseconds.
const ASKS: u32 = 16;
const ASK_EACH: u64 = 10 * SECOND;

/// What the listener knows of a client. There may be 100,000, so it is kept short.
pub struct KnownClient {
    pub client: ClientId,
    pub keys: WireRow,
}

pub(super) struct RemovedClient {
    pub(super) keys: WireRow,
    /// The number of its packets that waited.
    pub(super) queued: usize,
}

#[derive(Default)]
struct Traffic {
    bucket: Bucket,
    /// For packets under the keys that never change. Who had these keys once cannot use up the
    /// tokens of the client's other packets.
    asks: Bucket,
    seen: VecDeque<SeenPacket>,
    queue: VecDeque<QueuedKnock>,
}

/// All clients, by row.
pub(super) struct Clients {
    /// `None`: the row is free.
    rows: Vec<Option<KnownClient>>,
    free: Vec<u32>,
    /// Of the rows whose client has sent a packet: of many clients few do.
    traffic: BTreeMap<u32, Box<Traffic>>,
    rate: Rate,
    /// Rows with a waiting packet, each once.
    turns: VecDeque<u32>,
    waiting: usize,
}

impl Clients {
    /// Room for `count` clients. `rate` applies to each; its burst is at least 1.
    pub(super) fn new(count: usize, rate: Rate) -> Self {
        let rate = Rate { burst: rate.burst.max(1), ..rate };
        Self {
            rows: Vec::with_capacity(count),
            free: Vec::new(),
            traffic: BTreeMap::new(),
            rate,
            turns: VecDeque::new(),
            waiting: 0,
        }
    }

    pub(super) fn reserve(&mut self, count: usize) {
        self.rows.reserve_exact(count);
    }

    /// Adds a client and returns its row.
    pub(super) fn insert(&mut self, known: KnownClient) -> u32 {
        if let Some(number) = self.free.pop()
            && let Some(slot) = self.slot(number)
        {
            *slot = Some(known);
            return number;
        }
        self.rows.push(Some(known));
        saturated_u32(self.rows.len() - 1)
    }

    /// Replaces what is known of the client in this row, and returns its keys until now. Its
    /// packets stay remembered.
    pub(super) fn replace(&mut self, row: u32, known: KnownClient) -> Option<WireRow> {
        let client = self.slot(row)?.as_mut()?;
        Some(mem::replace(client, known).keys)
    }

    /// Removes the client in this row, with its packets.
    pub(super) fn remove(&mut self, row: u32) -> Option<RemovedClient> {
        let KnownClient { keys, .. } = self.slot(row)?.take()?;
        self.free.push(row);
        let queued = self.traffic.remove(&row).map_or(0, |traffic| traffic.queue.len());
        if queued > 0 {
            self.waiting = self.waiting.saturating_sub(queued);
            self.turns.retain(|other| *other != row);
        }
        Some(RemovedClient { keys, queued })
    }

    pub(super) fn get(&self, row: u32) -> Option<&KnownClient> {
        self.rows.get(usize::try_from(row).ok()?)?.as_ref()
    }

    fn slot(&mut self, row: u32) -> Option<&mut Option<KnownClient>> {
        self.rows.get_mut(usize::try_from(row).ok()?)
    }

    fn traffic(&mut self, row: u32) -> Option<&mut Traffic> {
        self.get(row)?;
        Some(self.traffic.entry(row).or_default())
    }

    /// Queues a packet, unless it was seen before or its client sends too fast.
    ///
    /// `alarm` gets the source of the first copy when one comes from another source, once per
    /// packet. Such a copy still passes unless the packet is used or known to ask for another
    /// address: the first copy may have been an attacker's, sent faster than the path carried the
    /// client's own. That one was or will be refused without a used-knock mark.
    ///
    /// Fails with `SeenBefore`, or with `Quota`: then it is not remembered and may come again.
    pub(super) fn admit(
        &mut self, now: Boot, row: u32, knock: QueuedKnock, alarm: impl FnOnce(Source),
    ) -> Result<(), Reject> {
        let rate = self.rate;
        let share = if self.waiting < QUEUED / 2 { SHARE } else { SMALL_SHARE };
        let full = self.waiting >= QUEUED;
        let client = self.traffic(row).ok_or(Reject::UnknownTag)?;
        client.check_seen(knock.id(), knock.source, alarm)?;
        if full || client.queue.len() >= share || !client.take_token(now, rate, knock.day) {
            return Err(Reject::Quota);
        }
        client.remember(&knock);
        client.queue.push_back(knock);
        if client.queue.len() == 1 {
            self.turns.push_back(row);
        }
        self.waiting += 1;
        Ok(())
    }

    /// The next packet to open, from the client whose turn it is.
    pub(super) fn next(&mut self) -> Option<(u32, QueuedKnock)> {
        let row = self.turns.pop_front()?;
        let client = self.traffic(row)?;
        let knock = client.queue.pop_front()?;
        if client.queue.is_empty() {
            // Frees the memory: 100,000 clients must not each keep room for a burst.
            client.queue = VecDeque::new();
        } else {
            self.turns.push_back(row);
        }
        self.waiting = self.waiting.saturating_sub(1);
        Some((row, knock))
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn most_seen(&self) -> usize {
        self.traffic.values().map(|traffic| traffic.seen.len()).max().unwrap_or(0)
    }

    /// The packet's used-knock mark was set.
    pub(super) fn mark_used(&mut self, row: u32, packet: u64) {
        for copy in self.copies(row, packet) {
            copy.used = true;
        }
    }

    /// The packet was opened: it asks to open for `address`.
    pub(super) fn set_requested(&mut self, row: u32, packet: u64, address: Source) {
        for copy in self.copies(row, packet) {
            copy.requested = Some(address);
        }
    }

    /// Which copies of this packet the kernel's filter may drop. `None` until a copy from another
    /// source had its alarm, or eight copies came from the same one: an attacker who repeats
    /// packets is to be noticed first. Links that show a packet twice or three times make no more.
    ///
    /// `None` also while the packet is not open yet: then an attacker's copies, faster than the
    /// client's own packet, would keep that out.
    pub(super) fn useless_copies(&mut self, row: u32, packet: u64) -> Option<UselessCopies> {
        let mut noticed = false;
        let mut used = false;
        let mut requested = None;
        let mut came = false;
        for copy in self.copies(row, packet) {
            noticed |= copy.alarmed || usize::from(copy.rejected) >= COPIES;
            used |= copy.used;
            requested = requested.or(copy.requested);
            came |= copy.requested == Some(copy.source);
        }
        match (noticed, used, requested) {
            (false, ..) | (_, false, None) => None,
            (_, true, _) => Some(UselessCopies { except: None }),
            (_, false, _) if came => Some(UselessCopies { except: None }),
            (_, false, except) => Some(UselessCopies { except }),
        }
    }

    fn copies(&mut self, row: u32, packet: u64) -> impl Iterator<Item = &mut SeenPacket> {
        let seen = self.traffic(row).into_iter().flat_map(|client| &mut client.seen);
        seen.filter(move |copy| copy.id == packet)
    }
}

impl Traffic {
    fn take_token(&mut self, now: Boot, rate: Rate, day: Day) -> bool {
        match day {
            Day::Unknown | Day::Invited => self.asks.take_each(now, ASKS, ASK_EACH),
            Day::Number(_) => self.bucket.take(now, rate),
        }
    }

    /// Fails with `SeenBefore` if this copy of `packet` can only be refused.
    fn check_seen(
        &mut self, packet: u64, source: Source, alarm: impl FnOnce(Source),
    ) -> Result<(), Reject> {
        let mut copies = 0;
        let mut useless = false;
        let mut requested = None;
        let mut first = None;
        for copy in self.seen.iter_mut().filter(|copy| copy.id == packet) {
            copies += 1;
            useless |= copy.used || copy.source == source;
            requested = requested.or(copy.requested);
            first.get_or_insert(copy);
        }
        let Some(first) = first else { return Ok(()) };
        if first.source != source && !first.alarmed {
            first.alarmed = true;
            alarm(first.source);
        }
        useless |= match requested {
            Some(address) => address != source,
            None => copies >= COPIES,
        };
        if !useless {
            return Ok(());
        }
        first.rejected = first.rejected.saturating_add(1);
        Err(Reject::SeenBefore)
    }

    fn remember(&mut self, knock: &QueuedKnock) {
        // So a client that knocks seldom takes little memory.
        while let Some(oldest) = self.seen.front()
            && (self.seen.len() >= RING || oldest.day.is_over(knock.day))
        {
            self.seen.pop_front();
        }
        self.seen.push_back(SeenPacket {
            id: knock.id(),
            day: knock.day,
            source: knock.source,
            requested: None,
            used: false,
            alarmed: false,
            rejected: 0,
        });
    }
}

#[cfg(test)]
mod tests;
