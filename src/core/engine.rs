//! The listener as a function: packets and verdicts in, actions out.
//! See `app::listener` for sockets, pipes and clocks, and `clients` for the state of one client.
//!
//! A sealed knock is checked in the order of cost: headers, tag, MAC, seen before, rate. Then it
//! waits in its client's queue. Only [`Engine::serve`], which takes the clients in turn, spends a
//! curve operation on it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::bytes::saturated_u64;
use super::door::Step;
use super::keyring::{FilterDrops, SLOTS, Secret, SharedTags, TAG, TagOwner, TagTable};
use super::knock::{Asked, HandedKnock, KnockKind, RECEIPT_BODY, Request};
use super::packet::{Arrival, LocalAddresses, ParsedPacket, parse};
use super::quota::Rate;
use super::sequence::first_steps::FirstSteps;
use super::sequence::{ATTEMPTS, DoorSpec, KnockPacket, Machine, MachineRules, SequenceEvent};
use super::types::{Boot, ClientId, Counters, Now, Reject, Source};
use super::wire::{DATAGRAM, DecryptedParts, GatewayKeys, RECEIPT, identify};
use clients::{Clients, QueuedKnock, UselessCopies};
use tickets::{OpenTicket, Tickets};

mod clients;
#[cfg(test)]
mod tests;
mod tickets;

pub use clients::{KnownClient, QUEUED, RING};
pub use tickets::{LIFE, TICKETS};

#[derive(Default)]
pub struct Setup {
    pub sealed: Option<SealedSetup>,
    pub clients: Vec<KnownClient>,
    /// Doors by index.
    pub doors: Vec<DoorSpec>,
    /// Rules for all doors. [`Engine::set_addresses`] replaces the addresses in it.
    pub rules: MachineRules,
}

pub struct SealedSetup {
    pub keys: GatewayKeys,
    pub port: u16,
    /// How fast one client may knock; its first knock is never too fast.
    pub rate: Rate,
    /// The tags as the kernel's filter knows them, if it looks at tags.
    pub shared: Option<SharedTags>,
}

/// An instruction to the listener.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the gatekeeper for a verdict on this knock.
    Knock(HandedKnock),
    /// Send this receipt.
    Receipt {
        /// The address and port that the knock came to.
        from: SocketAddr,
        /// The address and port that the knock came from.
        to: SocketAddr,
        bytes: [u8; RECEIPT],
    },
    /// Report that a client's packet came again, from another source.
    Alarm { client: ClientId, first: Source, again: Source },
    /// Some door listens for this packet. Only with [`MachineRules::debug`].
    Seen { hit: KnockPacket, source_port: u16, length: u16 },
    /// Report an event at a door. Never [`SequenceEvent::Seen`].
    Door(SequenceEvent),
}

/// The listener's state, bounded by [`RING`], [`QUEUED`], [`TICKETS`] and [`ATTEMPTS`].
pub struct Engine {
    sealed: Option<SealedKnocks>,
    doors: Option<Machine>,
    debug: bool,
    addresses: BTreeSet<Source>,
    counters: Counters,
    packets: u64,
    /// Those that went to the doors.
    door_packets: u64,
}

struct SealedKnocks {
    keys: GatewayKeys,
    port: u16,
    tags: TagTable,
    shared: Option<SharedTags>,
    clients: Clients,
    tickets: Tickets,
}

impl Engine {
    pub fn new(setup: Setup) -> Self {
        let Setup { sealed, clients, doors, rules } = setup;
        let debug = rules.debug;
        Self {
            sealed: sealed.map(|sealed| SealedKnocks::new(sealed, clients)),
            doors: if doors.is_empty() { None } else { Some(Machine::new(doors, rules)) },
            debug,
            addresses: BTreeSet::new(),
            counters: Counters::default(),
            packets: 0,
            door_packets: 0,
        }
    }

    /// Sets our unicast addresses: `knock` for sealed knocks, `door` for doors.
    pub fn set_addresses(&mut self, knock: Vec<IpAddr>, door: Vec<IpAddr>) {
        self.addresses = knock.into_iter().map(Source::new).collect();
        if let Some(machine) = &mut self.doors {
            machine.set_addresses(door);
        }
    }

    /// Lets the kernel's filter hold the first steps of doors while a flood of them lasts.
    pub fn hold_in(&mut self, first_steps: FirstSteps) {
        if let Some(machine) = &mut self.doors {
            machine.hold_in(first_steps);
        }
    }

    /// Makes room for so many clients.
    pub fn reserve(&mut self, clients: usize) {
        if let Some(sealed) = &mut self.sealed {
            sealed.tags.reserve(clients);
            sealed.clients.reserve(clients);
        }
    }

    /// Adds a client, or replaces what is known of it: another day has begun for it.
    pub fn enrol(&mut self, client: KnownClient) {
        if let Some(sealed) = &mut self.sealed {
            sealed.enrol(client);
        }
    }

    /// Forgets the client that has this tag without a clock. Its knocks that wait are dropped.
    pub fn forget(&mut self, tag: &[u8; TAG]) {
        if let Some(sealed) = &mut self.sealed
            && let Some(owner) = sealed.tags.find(tag)
            && let Some(removed) = sealed.clients.remove(owner.row)
        {
            let tags = removed.keys.tags();
            sealed.tags.remove(owner.row, &tags);
            if let Some(shared) = &sealed.shared {
                let keys = removed.keys.filter_keys(&tags, &[None; SLOTS]);
                keys.iter().for_each(|key| shared.remove(key));
            }
            self.counters.add(Reject::UnknownTag, saturated_u64(removed.queued));
        }
    }

    pub fn set_sequence(&mut self, door: u16, steps: Vec<Step>) {
        if let Some(machine) = &mut self.doors {
            machine.set_sequence(door, steps);
        }
    }

    /// Takes one captured packet, from its IP header on, without a curve operation. `now.wall` is
    /// the time of its arrival, by which doors count seconds. Allocates only for a packet that a
    /// client made or that a door listens for.
    pub fn packet(&mut self, now: Now, arrival: Arrival, packet: &[u8], actions: &mut Vec<Action>) {
        self.packets = self.packets.saturating_add(1);
        let parsed = match parse(packet) {
            Ok(parsed) => parsed,
            Err(reject) => return self.counters.count(reject),
        };
        if parsed.is_martian(arrival) {
            return self.counters.count(Reject::NotForUs);
        }
        if let Some(sealed) = &mut self.sealed
            && parsed.step == Step::udp(sealed.port)
            && (is_knocks(parsed.payload) || self.doors.is_none())
        {
            match parsed.strict(&self.addresses, arrival) {
                Ok(payload) if is_knocks(payload) => {
                    for (index, datagram) in payload.chunks_exact(DATAGRAM).enumerate() {
                        self.packets = self.packets.saturating_add(u64::from(index > 0));
                        if let Err(reject) = sealed.knock(now.boot, parsed, datagram, actions) {
                            self.counters.count(reject);
                        }
                    }
                }
                Ok(_) => self.counters.count(Reject::Length),
                Err(reject) => self.counters.count(reject),
            }
        } else if let Some(machine) = &mut self.doors {
            self.door_packets = self.door_packets.saturating_add(1);
            door_packet(machine, now, parsed, self.debug, actions);
        } else {
            self.counters.count(Reject::NotForUs);
        }
    }

    /// Opens at most `budget` waiting knocks, one of each client in turn, at one curve operation
    /// each. True if more are waiting and could be served at once.
    pub fn serve(&mut self, now: Boot, budget: usize, actions: &mut Vec<Action>) -> bool {
        let Some(sealed) = &mut self.sealed else { return false };
        for _ in 0..budget {
            if sealed.tickets.is_full() {
                return false;
            }
            let Some((row, queued)) = sealed.clients.next() else { return false };
            match sealed.open(now, row, queued) {
                Ok(action) => actions.push(action),
                Err(reject) => self.counters.count(reject),
            }
        }
        sealed.clients.waiting() > 0 && !sealed.tickets.is_full()
    }

    /// Takes the gatekeeper's verdict on a knock; an unknown or expired ticket is ignored.
    /// `spent`: its used-knock mark was set. `entropy`: 32 fresh random bytes for the receipt.
    pub fn verdict(
        &mut self, ticket: u64, spent: bool, receipt: Option<&[u8; RECEIPT_BODY]>,
        entropy: Secret<32>, actions: &mut Vec<Action>,
    ) {
        let Some(sealed) = &mut self.sealed else { return };
        let Some(ticket) = sealed.tickets.take(ticket) else { return };
        if spent {
            sealed.clients.mark_used(ticket.row, ticket.packet);
        }
        let Some(receipt) = receipt else { return };
        let Some(bytes) = ticket.reply.seal(&sealed.keys.realm, *receipt, entropy) else { return };
        let from = SocketAddr::new(ticket.destination.ip(), sealed.port);
        let to = SocketAddr::new(ticket.source.ip(), ticket.source_port);
        actions.push(Action::Receipt { from, to, bytes });
    }

    /// Ends tickets that are due, and begins or ends holding first steps. To be called at least
    /// once a second.
    pub fn tick(&mut self, now: Boot) {
        if let Some(sealed) = &mut self.sealed {
            sealed.tickets.expire(now);
        }
        if let Some(machine) = &mut self.doors {
            machine.tick(now);
        }
    }

    /// The end of the oldest ticket.
    pub fn deadline(&self) -> Option<Boot> {
        self.sealed.as_ref()?.tickets.deadline()
    }

    /// True while the gatekeeper owes a verdict on a knock.
    pub fn awaits_verdicts(&self) -> bool {
        match &self.sealed {
            Some(sealed) => sealed.tickets.len() > 0,
            None => false,
        }
    }

    /// The tables that packets can grow: name, current size, limit.
    pub fn tables(&self) -> Vec<(&'static str, usize, usize)> {
        let mut tables = Vec::new();
        if let Some(sealed) = &self.sealed {
            tables.push(("waiting", sealed.clients.waiting(), QUEUED));
            tables.push(("seen", sealed.clients.most_seen(), RING));
            tables.push(("tickets", sealed.tickets.len(), TICKETS));
        }
        if let Some(machine) = &self.doors {
            tables.push(("attempts", machine.under_way(), ATTEMPTS));
        }
        tables
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Packets taken. Each of them was rejected, went to a door, was handed over, or waits.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// What the kernel's filter has dropped, if it is ours.
    pub fn filtered(&self) -> FilterDrops {
        let shared = self.sealed.as_ref().and_then(|sealed| sealed.shared.as_ref());
        let first_step = self.first_steps().map_or(0, FirstSteps::held);
        FilterDrops { first_step, ..shared.map(SharedTags::dropped).unwrap_or_default() }
    }

    /// True while the kernel's filter holds first steps.
    pub fn holds_first_steps(&self) -> bool {
        self.first_steps().is_some_and(FirstSteps::are_held)
    }

    fn first_steps(&self) -> Option<&FirstSteps> {
        self.doors.as_ref().and_then(Machine::first_steps)
    }

    /// Packets that went to the doors.
    pub fn door_packets(&self) -> u64 {
        self.door_packets
    }

    /// Knocks that wait for [`Engine::serve`].
    pub fn waiting(&self) -> u64 {
        self.sealed.as_ref().map_or(0, |sealed| saturated_u64(sealed.clients.waiting()))
    }
}

impl SealedKnocks {
    fn new(setup: SealedSetup, clients: Vec<KnownClient>) -> Self {
        let SealedSetup { keys, port, rate, shared } = setup;
        let mut tags = TagTable::default();
        tags.reserve(clients.len());
        let table = Clients::new(clients.len(), rate);
        let tickets = Tickets::default();
        let mut sealed = Self { keys, port, tags, shared, clients: table, tickets };
        for client in clients {
            sealed.enrol(client);
        }
        sealed
    }

    fn enrol(&mut self, client: KnownClient) {
        let tags = client.keys.tags();
        let [.., clockless] = tags;
        let owner = clockless.and_then(|tag| self.tags.find(&tag));
        let old_tags = owner.and_then(|owner| Some(self.clients.get(owner.row)?.keys.tags()));
        let old_tags = old_tags.unwrap_or([None; SLOTS]);
        // The new ones before the old ones go, and those of both stay where they are: the kernel
        // must miss none for a moment.
        if let Some(shared) = &self.shared {
            client.keys.filter_keys(&tags, &old_tags).iter().for_each(|key| shared.insert(key));
        }
        let Some(TagOwner { row, .. }) = owner else {
            let row = self.clients.insert(client);
            return self.tags.insert(row, &tags);
        };
        let old = self.clients.replace(row, client);
        self.tags.remove(row, &old_tags);
        self.tags.insert(row, &tags);
        if let (Some(shared), Some(old)) = (&self.shared, old) {
            old.filter_keys(&old_tags, &tags).iter().for_each(|key| shared.remove(key));
        }
    }

    /// All checks that need no curve operation. A packet that passes waits in its client's queue.
    fn knock(
        &mut self, now: Boot, parsed: ParsedPacket<'_>, datagram: &[u8], actions: &mut Vec<Action>,
    ) -> Result<(), Reject> {
        let tagged = identify(&self.keys, &self.tags, datagram)?;
        let TagOwner { row, slot } = tagged.owner();
        let known = self.clients.get(row).ok_or(Reject::UnknownTag)?;
        let client = known.client;
        let wire = known.keys.wire(slot).ok_or(Reject::UnknownTag)?;
        let day = known.keys.day_of(slot).ok_or(Reject::UnknownTag)?;
        let verified = tagged.check_mac(&wire)?;
        let ParsedPacket { source, source_port, destination, .. } = parsed;
        let queued = QueuedKnock { verified, wire, day, source, source_port, destination };
        let packet = queued.id();
        let admitted = self.clients.admit(now, row, queued, |first| {
            actions.push(Action::Alarm { client, first, again: source });
        });
        if admitted == Err(Reject::SeenBefore)
            && let Some(shared) = &self.shared
            && let Some(UselessCopies { except }) = self.clients.useless_copies(row, packet)
        {
            shared.drop_copies(packet, except);
        }
        admitted
    }

    /// Does the curve operation and issues a ticket for the verdict.
    fn open(&mut self, now: Boot, row: u32, queued: QueuedKnock) -> Result<Action, Reject> {
        let packet = queued.id();
        let QueuedKnock { verified, wire, day, source, source_port, destination } = queued;
        let client = self.clients.get(row).ok_or(Reject::UnknownTag)?.client;
        let decrypted = verified.open(&self.keys, &wire, day)?;
        // A close may name an address other than its source.
        if let Asked::Request(Request { kind: KnockKind::Open, address: Some(address), .. }) =
            decrypted.asked()
        {
            self.clients.set_requested(row, packet, *address);
        }
        let (parts, reply) = decrypted.split();
        let ticket = OpenTicket { reply, row, packet, source, source_port, destination };
        let ticket = self.tickets.issue(now, ticket);
        let DecryptedParts { day, h, body } = parts;
        Ok(Action::Knock(HandedKnock { ticket, client, day, h, body, source, source_port }))
    }
}

/// True for one knock or more. Segmentation offload hands over datagrams that one sender sends at
/// once as one packet, with their payloads one behind the other.
fn is_knocks(payload: &[u8]) -> bool {
    !payload.is_empty() && payload.len().is_multiple_of(DATAGRAM)
}

fn door_packet(
    machine: &mut Machine, now: Now, parsed: ParsedPacket<'_>, debug: bool,
    actions: &mut Vec<Action>,
) {
    let ParsedPacket { source_port, length, .. } = parsed;
    let hit = KnockPacket {
        source: parsed.raw_source,
        destination: parsed.destination.ip(),
        step: parsed.step,
        flags: parsed.flags,
    };
    machine.packet(now.wall, &hit, &mut |event| match event {
        SequenceEvent::Seen if debug => actions.push(Action::Seen { hit, source_port, length }),
        SequenceEvent::Seen => {}
        SequenceEvent::Removed { .. } | SequenceEvent::Ignored(..) if !debug => {}
        event => actions.push(Action::Door(event)),
    });
}

impl LocalAddresses for BTreeSet<Source> {
    fn has(&self, address: Source) -> bool {
        self.contains(&address)
    }
}
