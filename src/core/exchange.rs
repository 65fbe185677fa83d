//! A client's exchange with one address of a gateway, as a state machine: which packet comes next,
//! and what a received datagram means. See `app::client` and `library` for what is around it.

use std::net::IpAddr;
use std::time::Duration;

use super::address::{AddressScope, reach};
use super::attempt::{next_packet, retry};
use super::authentic::Message;
use super::event::KnockId;
use super::keyring::Secret;
use super::knock::{Enrolment, KnockKind, Receipt, Request, SIGNED, Signature, Status, timestamp};
use super::public_key::PublicKey;
use super::types::{ClientId, Fault, ServiceName, Source, Wall};
use super::wire::{AwaitingReceipt, ClientSide, DATAGRAM, seal};

/// Fresh random bytes that each packet takes.
pub const ENTROPY: usize = 40;

/// The user's request, the same for every address of the gateway.
#[derive(Clone, Copy, Debug)]
pub struct ClientRequest {
    /// Any but [`KnockKind::Time`]: the exchange asks for the time by itself.
    pub kind: KnockKind,
    pub service: ServiceName,
    pub seconds: u32,
    /// The address to grant; `None` = the one that the client comes from.
    pub source: Option<IpAddr>,
    /// Ask the gateway for our address even if our own looks usable.
    pub ask_source: bool,
    pub source_port: u16,
    /// A port of ours to bind the grant to, if our address arrives as it is: a NAT would change the
    /// port.
    pub held_port: Option<u16>,
    /// The invitation to join by; with [`KnockKind::Join`] only.
    pub invitation: Option<ClientId>,
    /// How long an answer to one packet is waited for.
    pub timeout: Duration,
    /// The most packets for one question.
    pub attempts: u32,
}

impl ClientRequest {
    /// A request of this kind without any of the options that only some kinds have.
    pub fn new(kind: KnockKind, timeout: Duration, attempts: u32) -> ClientRequest {
        ClientRequest {
            kind,
            service: ServiceName::NONE,
            seconds: 0,
            source: None,
            ask_source: false,
            source_port: 0,
            held_port: None,
            invitation: None,
            timeout,
            attempts,
        }
    }
}

/// Our own address on the way to the gateway, and the gateway's.
#[derive(Clone, Copy, Debug)]
pub struct Endpoints {
    pub local: IpAddr,
    pub gateway: IpAddr,
}

/// The address that a knock names, and how the client found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedAddress {
    pub source: Source,
    pub origin: AddressOrigin,
}

/// How the client found its own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressOrigin {
    /// The user gave it.
    Given,
    /// The socket's own.
    Local,
    /// As the gateway saw a probe come.
    Probed,
}

/// A receipt, and its arrival by the clock of this machine.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedReceipt {
    pub receipt: Receipt,
    pub at: Wall,
}

/// A packet to send, and how long to wait for its receipt before the next one.
pub struct Packet {
    pub datagram: [u8; DATAGRAM],
    pub patience: Duration,
}

/// What follows a datagram that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is no receipt for this exchange, and anybody can send one such: wait on.
    Ignored,
    /// The gateway asks for another packet: send the next one now.
    Continues,
    /// The answer is there.
    Over,
}

/// An exchange. Send what [`Exchange::next`] makes, and give what arrives to
/// [`Exchange::receive`], until there is no next packet.
pub struct Exchange {
    side: ClientSide,
    key: PublicKey,
    wanted: ClientRequest,
    ends: Endpoints,
    named: Option<NamedAddress>,
    /// What is asked for now: what the user wants, or first of all our address.
    request: Request,
    /// The day whose keys to take, once the gateway has told it.
    working_day: Option<u32>,
    /// True if `request` has a challenge that the gateway asked for: it may do so once.
    is_second: bool,
    /// Packets for `request` so far, and each that may be answered.
    attempt: u32,
    waiting: Vec<SentKnock>,
    /// The ids of all packets so far, and of the one that was answered last.
    sent: Vec<KnockId>,
    answered: Option<KnockId>,
    received: Option<ReceivedReceipt>,
    is_over: bool,
}

/// A packet that may be answered.
struct SentKnock {
    kind: KnockKind,
    awaiting: AwaitingReceipt,
}

impl Exchange {
    /// `key`: the client's key, or the one to enrol.
    pub fn new(
        side: ClientSide, key: PublicKey, wanted: ClientRequest, ends: Endpoints,
    ) -> Exchange {
        let mut exchange = Exchange {
            side,
            key,
            wanted,
            ends,
            named: None,
            request: Request { receipt_wanted: true, ..Request::bare(KnockKind::Probe) },
            working_day: None,
            is_second: false,
            attempt: 0,
            waiting: Vec::new(),
            sent: Vec::new(),
            answered: None,
            received: None,
            is_over: false,
        };
        if wanted.kind == KnockKind::Join {
            exchange.request.kind = KnockKind::Join;
        } else if let Some(named) = own_address(&wanted, ends)
            && wanted.kind != KnockKind::Probe
        {
            exchange.name(named);
        }
        exchange
    }

    /// The address that the knock names, once it is known.
    pub fn named(&self) -> Option<NamedAddress> {
        self.named
    }

    /// The answer, or the last receipt that asked for another packet.
    pub fn received(&self) -> Option<ReceivedReceipt> {
        self.received
    }

    /// The ids of all packets so far: what the gateway's log calls them.
    pub fn sent(&self) -> &[KnockId] {
        &self.sent
    }

    /// The id of the packet that [`Exchange::received`] answers.
    pub fn answered(&self) -> Option<KnockId> {
        self.answered
    }

    /// The packet to send at `now`, with a `sign` as for [`seal`]; `None` if the exchange is over.
    /// The timestamp is always our own: a client that signs a time from the network could be made
    /// to sign any. After an error the same packet can be tried again.
    pub fn next(
        &mut self, now: Wall, entropy: &Secret<ENTROPY>,
        sign: impl FnOnce(&Message) -> Result<Signature, Fault>,
    ) -> Result<Option<Packet>, Fault> {
        if self.is_over || self.attempt >= self.wanted.attempts {
            self.is_over = true;
            return Ok(None);
        }
        let Entropy { ephemeral, low_bits, pause } = Entropy::of(entropy);
        let secrets = &self.side.secrets;
        let attempt = self.attempt + 1;
        let (mut sent, day) = next_packet(secrets, now, &self.request, self.working_day, attempt);
        sent.timestamp = timestamp(now, low_bits);
        let (datagram, awaiting) = seal(&self.side, &self.signed(&sent)?, day, ephemeral, sign)?;
        self.sent.push(awaiting.id());
        self.waiting.push(SentKnock { kind: sent.kind, awaiting });
        self.attempt = attempt;
        Ok(Some(Packet { datagram, patience: self.patience(pause) }))
    }

    /// Looks at a datagram that has arrived at `now`.
    pub fn receive(&mut self, now: Wall, datagram: &[u8]) -> Progress {
        let Some((id, receipt)) = self.open(datagram) else { return Progress::Ignored };
        self.answered = Some(id);
        self.received = Some(ReceivedReceipt { receipt, at: now });
        if !self.is_second
            && let Some(request) = retry(&self.request, &receipt)
        {
            self.ask(request, &receipt);
            self.is_second = true;
            return Progress::Continues;
        }
        let is_probe =
            self.request.kind == KnockKind::Probe && self.wanted.kind != KnockKind::Probe;
        let is_ours =
            self.wanted.kind != KnockKind::Open || !is_replaced(self.ends, receipt.observed);
        if is_probe && receipt.status == Status::Observed && is_ours {
            self.name(NamedAddress { source: receipt.observed, origin: AddressOrigin::Probed });
            self.ask(Request { challenge: receipt.challenge, ..self.request }, &receipt);
            self.is_second = false;
            self.received = None;
            return Progress::Continues;
        }
        self.is_over = true;
        Progress::Over
    }

    /// The receipt in this datagram, if it answers a packet of ours, and the id of that one.
    fn open(&self, datagram: &[u8]) -> Option<(KnockId, Receipt)> {
        if self.is_over {
            return None;
        }
        for sent in &self.waiting {
            if let Some(receipt) = sent.awaiting.open(datagram)
                && receipt.may_answer(sent.kind)
            {
                return Some((sent.awaiting.id(), receipt));
            }
        }
        None
    }

    /// Asks for `request` from now on, after a receipt that told the working day.
    fn ask(&mut self, request: Request, receipt: &Receipt) {
        self.request = request;
        self.working_day = Some(receipt.working_day);
        self.attempt = 0;
        self.waiting.clear();
    }

    /// Asks for what the user wants, for this address.
    fn name(&mut self, named: NamedAddress) {
        let wanted = &self.wanted;
        let source_port = match (named.origin, wanted.held_port) {
            (AddressOrigin::Local, Some(port)) => port,
            _ => wanted.source_port,
        };
        self.named = Some(named);
        self.request = Request {
            receipt_wanted: true,
            service: wanted.service,
            seconds: wanted.seconds,
            source_port,
            address: Some(named.source),
            ..Request::bare(wanted.kind)
        };
    }

    /// The bytes that the signature covers.
    fn signed(&self, sent: &Request) -> Result<[u8; SIGNED], Fault> {
        let Some(invitation) = self.wanted.invitation else { return Ok(sent.encode()) };
        match Enrolment::of(sent, invitation, &self.key) {
            Some(enrolment) => Ok(enrolment.encode()),
            None => Err(cannot_join()),
        }
    }

    /// How long the answer to the packet just made is waited for: with a random pause before the
    /// next one, longer each time. Silence may mean that this key knocks too often: many programs
    /// that use it must not all repeat at once.
    fn patience(&self, random: u32) -> Duration {
        let timeout = self.wanted.timeout;
        if self.attempt >= self.wanted.attempts {
            return timeout;
        }
        timeout + timeout * self.attempt / 2 * (random % 1001) / 1000
    }
}

/// A key with which nobody can join: see [`Enrolment::of`].
pub fn cannot_join() -> Fault {
    Fault::new(
        "this FIDO key was made for an application of its own, and a knock cannot say which; \
         nothing was sent",
        "have it enrolled with `toctocd client add`, or join with another key: -i FILE",
    )
}

/// What the random bytes of one packet are for.
struct Entropy {
    ephemeral: Secret<32>,
    low_bits: u32,
    pause: u32,
}

impl Entropy {
    fn of(bytes: &Secret<ENTROPY>) -> Entropy {
        let [ephemeral @ .., a, b, c, d, e, f, g, h] = bytes.expose();
        Entropy {
            ephemeral: Secret::new(*ephemeral),
            low_bits: u32::from_be_bytes([*a, *b, *c, *d]),
            pause: u32::from_be_bytes([*e, *f, *g, *h]),
        }
    }
}

/// Our address as the gateway will see it, if no probe is needed: the one that the user gave, or
/// the socket's own if probably no NAT is in between.
fn own_address(wanted: &ClientRequest, ends: Endpoints) -> Option<NamedAddress> {
    if let Some(ip) = wanted.source {
        return Some(NamedAddress { source: Source::new(ip), origin: AddressOrigin::Given });
    }
    if wanted.ask_source || !usable(ends) {
        return None;
    }
    Some(NamedAddress { source: Source::new(ends.local), origin: AddressOrigin::Local })
}

/// True if the gateway will probably see us come from our own address: a global one, or both ends
/// in the same private scope.
pub fn usable(ends: Endpoints) -> bool {
    let ours = reach(ends.local);
    ours == AddressScope::Global || (ours == reach(ends.gateway) && ours != AddressScope::Nobody)
}

/// True if a device in front of the gateway must have replaced our address by `observed`, and
/// probably does so with everybody's. Nothing on our side turns a public address into a private
/// one, and none of ours arrives at a public gateway.
pub fn is_replaced(ends: Endpoints, observed: Source) -> bool {
    let Endpoints { local, gateway } = ends;
    if observed.ip() == local {
        return false;
    }
    match reach(observed.ip()) {
        _ if observed.ip() == gateway => true,
        AddressScope::Global => false,
        AddressScope::Private => [local, gateway].map(reach).contains(&AddressScope::Global),
        AddressScope::Local | AddressScope::Nobody => true,
    }
}

#[cfg(test)]
mod tests;
