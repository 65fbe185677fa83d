//! The listener as a function: a packet or a verdict in, actions out. Sockets, pipes and clocks are
//! left to `app::listener`, one client's rings and queues to `clients`.
//!
//! A sealed knock is worked on in the order of cost: headers, tag, MAC, seen before, rate; then it
//! waits in its client's queue, and only [`Engine::serve`], which takes the clients in turn, spends
//! a curve operation on it.

use std::net::{IpAddr, SocketAddr};

use super::door::Step;
use super::keyring::{ClientKeys, Secret, TagTable};
use super::knock::{HandedKnock, KnockKind, RECEIPT_BODY, Receipt, Request};
use super::packet::{Arrival, LocalAddresses, ParsedPacket, parse};
use super::sequence::{ATTEMPTS, DoorSpec, KnockPacket, Machine, MachineRules, SequenceEvent};
use super::types::{Boot, Counters, Fingerprint, Now, Reject, Source};
use super::wire::{DATAGRAM, DecryptedParts, GatewayKeys, RECEIPT, Tagged, identify};
use clients::{Clients, KnockRate, QueuedKnock};
use tickets::{OpenTicket, Tickets};

mod clients;
#[cfg(test)]
mod tests;
mod tickets;

pub use clients::{QUEUED, RING};
pub use tickets::{LIFE, TICKETS};

/// What the engine is made of.
#[derive(Default)]
pub struct Setup {
    /// Sealed knocks, if any are heard.
    pub sealed: Option<SealedSetup>,
    /// Clients by row.
    pub clients: Vec<(ClientKeys, Fingerprint)>,
    /// Doors by index.
    pub doors: Vec<DoorSpec>,
    /// How doors are watched; its addresses are replaced by [`Engine::set_addresses`].
    pub rules: MachineRules,
}

/// The sealed knock's part of it.
pub struct SealedSetup {
    /// The gateway's keys.
    pub keys: GatewayKeys,
    /// Where sealed knocks arrive.
    pub port: u16,
    /// A client's token bucket: how many at once.
    pub burst: u32,
    /// And how many per second after that.
    pub per_second: u32,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// The gatekeeper should judge this knock.
    Knock(HandedKnock),
    /// This receipt should be sent.
    Receipt {
        /// The address that the knock came to, and its port.
        from: SocketAddr,
        /// Where the knock came from.
        to: SocketAddr,
        /// The bytes.
        bytes: [u8; RECEIPT],
    },
    /// A client's packet came again, from elsewhere.
    Alarm {
        /// The client's row.
        row: u32,
        /// Where it came from first.
        first: Source,
        /// And then.
        again: Source,
    },
    /// Some door listens for this packet; only for debugging.
    Seen {
        /// What is known of it.
        hit: KnockPacket,
        /// Its source port.
        source_port: u16,
        /// Its length as its IP header gives it.
        length: u16,
    },
    /// Something happened at a door. Never [`Effect::Seen`].
    Door(SequenceEvent),
}

/// The listener's state. What packets can grow of it is bounded: [`RING`], [`QUEUED`], [`TICKETS`],
/// and the machine's own.
pub struct Engine {
    sealed: Option<SealedKnocks>,
    doors: Option<Machine>,
    debug: bool,
    ours: AddressSet,
    counters: Counters,
    packets: u64,
}

struct SealedKnocks {
    keys: GatewayKeys,
    port: u16,
    tags: TagTable,
    clients: Clients,
    tickets: Tickets,
}

impl Engine {
    /// An engine that has seen nothing yet and has no addresses.
    pub fn new(now: Now, setup: Setup) -> Self {
        let Setup { sealed, clients, doors, rules } = setup;
        let sealed = sealed.map(|SealedSetup { keys, port, burst, per_second }| {
            let mut tags = TagTable::new(now.wall.day());
            for (row, (keys, _)) in (0..).zip(&clients) {
                tags.insert(row, &keys.tag);
            }
            let clients = Clients::new(clients, KnockRate::new(burst, per_second));
            SealedKnocks { keys, port, tags, clients, tickets: Tickets::default() }
        });
        let debug = rules.debug;
        let doors = (!doors.is_empty()).then(|| Machine::new(doors, rules));
        let ours = AddressSet::default();
        Self { sealed, doors, debug, ours, counters: Counters::default(), packets: 0 }
    }

    /// Our unicast addresses: those that sealed knocks may be sent to, and those that doors count
    /// as their own.
    pub fn set_addresses(&mut self, knock: Vec<IpAddr>, door: Vec<IpAddr>) {
        self.ours = AddressSet::new(knock);
        if let Some(machine) = &mut self.doors {
            machine.set_addresses(door);
        }
    }

    /// A door's sequence has changed.
    pub fn set_sequence(&mut self, door: u16, steps: Vec<Step>) {
        if let Some(machine) = &mut self.doors {
            machine.set_sequence(door, steps);
        }
    }

    /// Takes one captured packet, from its IP header on. Does no curve operation and, unless a
    /// client made the packet or a door listens for it, no allocation.
    pub fn packet(&mut self, now: Now, arrival: Arrival, packet: &[u8], actions: &mut Vec<Action>) {
        self.packets = self.packets.saturating_add(1);
        let sighting = match parse(packet) {
            Ok(sighting) => sighting,
            Err(reject) => return self.counters.count(reject),
        };
        let at_port =
            self.sealed.as_ref().is_some_and(|sealed| sighting.step == Step::udp(sealed.port));
        if at_port && (sighting.payload.len() == DATAGRAM || self.doors.is_none()) {
            let taken = self.sealed.as_mut().map_or(Err(Reject::NotForUs), |sealed| {
                sealed.knock(now.boot, sighting, &self.ours, arrival, actions)
            });
            if let Err(reject) = taken {
                self.counters.count(reject);
            }
        } else if let Some(machine) = &mut self.doors {
            hit(machine, now, sighting, self.debug, actions);
        } else {
            self.counters.count(Reject::NotForUs);
        }
    }

    /// Opens at most `budget` knocks that wait, one of each client in turn: a curve operation each.
    /// Answers whether some still wait and could be served at once.
    pub fn serve(&mut self, now: Boot, budget: usize, actions: &mut Vec<Action>) -> bool {
        let Some(sealed) = &mut self.sealed else { return false };
        for _ in 0..budget {
            if sealed.tickets.full() {
                return false;
            }
            let Some((row, waiting)) = sealed.clients.next() else { return false };
            match sealed.open(now, row, waiting) {
                Ok(action) => actions.push(action),
                Err(reject) => self.counters.count(reject),
            }
        }
        sealed.clients.some_wait() && !sealed.tickets.full()
    }

    /// The gatekeeper has judged a knock. `spent`: its mark was set, so that copies of it are worth
    /// nothing. `entropy`: 32 fresh random bytes, for the receipt if there is one. A ticket that is
    /// unknown or over is ignored.
    pub fn verdict(
        &mut self,
        ticket: u64,
        spent: bool,
        receipt: Option<&[u8; RECEIPT_BODY]>,
        entropy: Secret<32>,
        actions: &mut Vec<Action>,
    ) {
        let Some(sealed) = &mut self.sealed else { return };
        let Some(pending) = sealed.tickets.take(ticket) else { return };
        if spent {
            sealed.clients.spend(pending.row, pending.mark);
        }
        let answer = receipt
            .and_then(Receipt::decode)
            .and_then(|receipt| pending.reply.seal(&sealed.keys.realm, &receipt, entropy));
        if let Some(bytes) = answer {
            let from = SocketAddr::new(pending.destination.ip(), sealed.port);
            let to = SocketAddr::new(pending.source.ip(), pending.source_port);
            actions.push(Action::Receipt { from, to, bytes });
        }
    }

    /// Time has passed: tickets end, and at midnight the tags move on.
    pub fn tick(&mut self, now: Now) {
        if let Some(sealed) = &mut self.sealed {
            sealed.tickets.expire(now.boot);
            sealed.tags.advance(now.wall.day(), sealed.clients.tag_keys());
        }
    }

    /// When the next ticket ends. Midnight is no deadline of its own: the table holds tomorrow's
    /// tags already.
    pub fn deadline(&self) -> Option<Boot> {
        self.sealed.as_ref()?.tickets.deadline()
    }

    /// What packets can grow: each table's name, how much it holds at most anywhere, and its cap.
    pub fn tables(&self) -> Vec<(&'static str, usize, usize)> {
        let sealed = self.sealed.iter().flat_map(|sealed| {
            let [waiting, seen] = sealed.clients.held();
            [
                ("waiting", waiting, QUEUED),
                ("seen", seen, RING),
                ("tickets", sealed.tickets.held(), TICKETS),
            ]
        });
        let doors = self.doors.iter().map(|machine| ("attempts", machine.under_way(), ATTEMPTS));
        sealed.chain(doors).collect()
    }

    /// Packets refused, by reason.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// All packets taken.
    pub fn packets(&self) -> u64 {
        self.packets
    }
}

impl SealedKnocks {
    /// All that costs no curve operation. What passes waits in its client's queue.
    fn knock(
        &mut self,
        now: Boot,
        sighting: ParsedPacket<'_>,
        ours: &AddressSet,
        arrival: Arrival,
        actions: &mut Vec<Action>,
    ) -> Result<(), Reject> {
        let datagram = sighting.strict(ours, arrival)?;
        let known: Tagged = identify(&self.keys, &self.tags, datagram)?;
        let row = known.row();
        let mine = known.check_mac(self.clients.keys(row).ok_or(Reject::UnknownTag)?)?;
        let ParsedPacket { source, source_port, destination, .. } = sighting;
        let alarm = |first| actions.push(Action::Alarm { row, first, again: source });
        self.clients.admit(now, row, QueuedKnock { mine, source, source_port, destination }, alarm)
    }

    /// The curve operation, and a ticket for the answer.
    fn open(&mut self, now: Boot, row: u32, waiting: QueuedKnock) -> Result<Action, Reject> {
        let mark = waiting.mark();
        let QueuedKnock { mine, source, source_port, destination } = waiting;
        let (keys, fingerprint) = self.clients.client(row).ok_or(Reject::UnknownTag)?;
        let opened = mine.open(&self.keys, keys, fingerprint)?;
        // A close may name an address that it does not come from.
        if let Request { kind: KnockKind::Open, address: Some(address), .. } = opened.request() {
            self.clients.names(row, mark, *address);
        }
        let (parts, reply) = opened.split();
        let pending = OpenTicket { reply, row, mark, source, source_port, destination };
        let ticket = self.tickets.issue(now, pending);
        let DecryptedParts { h, body, .. } = parts;
        Ok(Action::Knock(HandedKnock { ticket, row, h, body, source, source_port }))
    }
}

fn hit(
    machine: &mut Machine,
    now: Now,
    sighting: ParsedPacket<'_>,
    debug: bool,
    actions: &mut Vec<Action>,
) {
    let ParsedPacket { knocker: source, destination, step, source_port, flags, length, .. } =
        sighting;
    let hit = KnockPacket { source, destination: destination.ip(), step, flags };
    machine.hit(now.wall, &hit, &mut |effect| match effect {
        SequenceEvent::Seen if debug => actions.push(Action::Seen { hit, source_port, length }),
        SequenceEvent::Seen => {}
        SequenceEvent::Removed { .. } | SequenceEvent::Ignored(..) if !debug => {}
        effect => actions.push(Action::Door(effect)),
    });
}

/// Sorted, so that asking costs a few comparisons.
#[derive(Default)]
struct AddressSet(Vec<Source>);

impl AddressSet {
    fn new(addresses: Vec<IpAddr>) -> Self {
        let mut sorted: Vec<_> = addresses.into_iter().map(Source::new).collect();
        sorted.sort_unstable();
        Self(sorted)
    }
}

impl LocalAddresses for AddressSet {
    fn has(&self, address: Source) -> bool {
        self.0.binary_search(&address).is_ok()
    }
}
