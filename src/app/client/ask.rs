//! One exchange with one gateway address: find our own address, knock, wait for the receipt, and
//! knock again if the receipt asks for it.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::signer::Signer;
use crate::core::address::{AddressScope, reach};
use crate::core::attempt::{next_packet, retry};
use crate::core::knock::{Enrolment, KnockKind, Receipt, Request, SIGNED, Status, timestamp};
use crate::core::types::{ClientId, Fault, ServiceName, Source, Wall};
use crate::core::wire::{AwaitingReceipt, RECEIPT, seal};
use crate::edge::send::GatewaySocket;
use crate::edge::{clock, entropy};
use crate::keys::profile::Profile;

/// Time that the other family still gets once one has been answered.
const GRACE: Duration = Duration::from_millis(300);
/// Interval at which a wait checks whether the other family has been answered.
const CHECK: Duration = Duration::from_millis(50);

/// The user's request, the same for every address of the gateway.
pub(super) struct ClientRequest {
    pub(super) kind: KnockKind,
    pub(super) service: ServiceName,
    pub(super) seconds: u32,
    pub(super) source: Option<IpAddr>,
    /// Ask the gateway for our address even if our own looks usable.
    pub(super) ask_source: bool,
    pub(super) source_port: u16,
    /// A port of ours to bind the grant to, if our address arrives as it is: a NAT would change the
    /// port.
    pub(super) held_port: Option<u16>,
    /// The invitation to join by; with [`KnockKind::Join`] only.
    pub(super) invitation: Option<ClientId>,
    pub(super) timeout: Duration,
    pub(super) attempts: u32,
}

impl ClientRequest {
    /// A request of this kind without any of the options that only some kinds have.
    pub(super) fn new(kind: KnockKind, timeout: Duration, attempts: u32) -> Self {
        Self {
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

/// The result of the exchange with one address of the gateway.
pub(super) struct GatewayResult {
    pub(super) gateway: SocketAddr,
    /// This machine's own address on the way there.
    pub(super) local: Option<IpAddr>,
    /// The address that the knock named.
    pub(super) named: Option<NamedAddress>,
    /// Knocks that were sent, probes included; 0 if another address answered before the first.
    pub(super) knocks: u32,
    pub(super) outcome: ExchangeOutcome,
}

/// The address that a knock names, and how the client found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NamedAddress {
    pub(super) source: Source,
    pub(super) origin: AddressOrigin,
}

/// How the client found its own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressOrigin {
    /// The user gave it.
    Given,
    /// The socket's own.
    Local,
    /// As the gateway saw a probe come.
    Probed,
}

/// How an exchange ended.
pub(super) enum ExchangeOutcome {
    Received(ReceivedReceipt),
    Silence,
    Unreachable(Fault),
}

/// A receipt, and its arrival by the clock of this machine.
#[derive(Clone, Copy)]
pub(super) struct ReceivedReceipt {
    pub(super) receipt: Receipt,
    pub(super) at: Wall,
}

impl GatewayResult {
    pub(super) fn not_tried(gateway: SocketAddr) -> Self {
        let outcome = ExchangeOutcome::Silence;
        Self { gateway, local: None, named: None, knocks: 0, outcome }
    }

    /// True if a device in front of the gateway must have replaced our address by `observed`, and
    /// probably does so with everybody's. Nothing on our side turns a public address into a private
    /// one, and none of ours arrives at a public gateway.
    pub(super) fn is_replaced(&self, observed: Source) -> bool {
        let gateway = self.gateway.ip();
        let one_is_public = |local| [local, gateway].map(reach).contains(&AddressScope::Global);
        match self.local {
            Some(local) if observed.ip() != local => match reach(observed.ip()) {
                _ if observed.ip() == gateway => true,
                AddressScope::Global => false,
                AddressScope::Private => one_is_public(local),
                AddressScope::Local | AddressScope::Nobody => true,
            },
            _ => false,
        }
    }
}

/// Asks `gateway`, unless another address has answered within `delay`. `answered` is shared by the
/// exchanges with all addresses of the gateway.
pub(super) fn ask(
    profile: &Profile, signer: &Signer, wanted: &ClientRequest, gateway: SocketAddr,
    delay: Duration, answered: &OnceLock<Instant>,
) -> GatewayResult {
    let mut result = GatewayResult::not_tried(gateway);
    let begin = Instant::now() + delay;
    while Instant::now() < begin {
        if answered.get().is_some() {
            return result;
        }
        std::thread::sleep(CHECK.min(begin.saturating_duration_since(Instant::now())));
    }
    let received = match GatewaySocket::open(gateway) {
        Ok(socket) => Exchange { profile, signer, wanted, socket, answered }.run(&mut result),
        Err(fault) => Err(fault),
    };
    match received {
        Ok(Some(receipt)) => {
            let _ = answered.set(Instant::now());
            result.outcome = ExchangeOutcome::Received(receipt);
        }
        Ok(None) => {}
        Err(fault) => result.outcome = ExchangeOutcome::Unreachable(fault),
    }
    result
}

struct Exchange<'a> {
    profile: &'a Profile,
    signer: &'a Signer,
    wanted: &'a ClientRequest,
    socket: GatewaySocket,
    answered: &'a OnceLock<Instant>,
}

/// A packet that may be answered.
struct SentKnock {
    kind: KnockKind,
    awaiting: AwaitingReceipt,
}

impl Exchange<'_> {
    fn run(&self, result: &mut GatewayResult) -> Result<Option<ReceivedReceipt>, Fault> {
        result.local = Some(self.socket.local());
        let probe = Request { receipt_wanted: true, ..Request::bare(KnockKind::Probe) };
        if self.wanted.kind == KnockKind::Probe {
            return self.send_with_retry(&probe, None, result);
        }
        if self.wanted.kind == KnockKind::Join {
            let join = Request { kind: KnockKind::Join, ..probe };
            return self.send_with_retry(&join, None, result);
        }
        let mut request = Request {
            receipt_wanted: true,
            service: self.wanted.service,
            seconds: self.wanted.seconds,
            source_port: self.wanted.source_port,
            ..Request::bare(self.wanted.kind)
        };
        let mut working_day = None;
        let named = match self.own_address() {
            Some(named) => named,
            None => {
                let Some(received) = self.send_with_retry(&probe, None, result)? else {
                    return Ok(None);
                };
                let observed = received.receipt.observed;
                let is_ours = !result.is_replaced(observed) || request.kind != KnockKind::Open;
                if received.receipt.status != Status::Observed || !is_ours {
                    return Ok(Some(received));
                }
                request.challenge = received.receipt.challenge;
                working_day = Some(received.receipt.working_day);
                NamedAddress { source: observed, origin: AddressOrigin::Probed }
            }
        };
        result.named = Some(named);
        if let (AddressOrigin::Local, Some(port)) = (named.origin, self.wanted.held_port) {
            request.source_port = port;
        }
        request.address = Some(named.source);
        self.send_with_retry(&request, working_day, result)
    }

    /// Our address as the gateway will see it, if no probe is needed: the one that the user gave,
    /// or the socket's own if probably no NAT is in between.
    fn own_address(&self) -> Option<NamedAddress> {
        if let Some(ip) = self.wanted.source {
            return Some(NamedAddress { source: Source::new(ip), origin: AddressOrigin::Given });
        }
        let local = self.socket.local();
        if self.wanted.ask_source || !usable(local, self.socket.gateway().ip()) {
            return None;
        }
        Some(NamedAddress { source: Source::new(local), origin: AddressOrigin::Local })
    }

    /// Knocks, and knocks once more with the challenge if the gateway asks for that. The timestamp
    /// is always our own: a client that signs a time from the network could be made to sign any.
    /// `working_day`: the day whose keys to take, if the gateway has told it already.
    fn send_with_retry(
        &self, request: &Request, working_day: Option<u32>, result: &mut GatewayResult,
    ) -> Result<Option<ReceivedReceipt>, Fault> {
        let first = self.knock(request, working_day, result)?;
        let Some(ReceivedReceipt { receipt, .. }) = first else { return Ok(None) };
        let Some(request) = retry(request, &receipt) else { return Ok(first) };
        let second = self.knock(&request, Some(receipt.working_day), result)?;
        Ok(second.or(first))
    }

    /// Sends up to `attempts` packets, each a new one, and waits for the receipt of any of them.
    /// `working_day`: the day whose keys to take, once the gateway has told it.
    fn knock(
        &self, request: &Request, working_day: Option<u32>, result: &mut GatewayResult,
    ) -> Result<Option<ReceivedReceipt>, Fault> {
        let mut waiting: Vec<SentKnock> = Vec::new();
        let side = &self.profile.side;
        for attempt in 1..=self.wanted.attempts {
            let now = clock::now().wall;
            let (mut sent, day) = next_packet(&side.secrets, now, request, working_day, attempt);
            sent.timestamp = timestamp(now, u32::from_be_bytes(entropy::bytes()?));
            let (datagram, awaiting) =
                seal(side, &self.signed(&sent)?, day, entropy::secret()?, |message: &_| {
                    self.signer.sign(message)
                })?;
            waiting.push(SentKnock { kind: sent.kind, awaiting });
            self.socket.send(&datagram)?;
            result.knocks += 1;
            let mut patience = self.wanted.timeout;
            if attempt < self.wanted.attempts {
                patience += self.pause(attempt)?;
            }
            if let Some(received) = self.wait(&waiting, patience) {
                return Ok(Some(received));
            }
            if self.answered.get().is_some() {
                break;
            }
        }
        Ok(None)
    }

    /// The bytes that the signature covers.
    fn signed(&self, sent: &Request) -> Result<[u8; SIGNED], Fault> {
        let Some(invitation) = self.wanted.invitation else { return Ok(sent.encode()) };
        match Enrolment::of(sent, invitation, &self.profile.key) {
            Some(enrolment) => Ok(enrolment.encode()),
            None => Err(cannot_join()),
        }
    }

    /// A random pause before the next knock, longer each time. Silence may mean that this key
    /// knocks too often: many programs that use it must not all repeat at once.
    fn pause(&self, attempt: u32) -> Result<Duration, Fault> {
        let part = u32::from_be_bytes(entropy::bytes()?) % 1001;
        Ok(self.wanted.timeout * attempt / 2 * part / 1000)
    }

    /// Waits for an answer to one of these knocks. A datagram that does not open is ignored:
    /// anybody can send one.
    fn wait(&self, waiting: &[SentKnock], patience: Duration) -> Option<ReceivedReceipt> {
        // One byte more than a receipt, so that a longer datagram does not look like one.
        let mut buffer = [0; RECEIPT + 1];
        let deadline = Instant::now() + patience;
        loop {
            let now = Instant::now();
            let end = match self.answered.get() {
                Some(at) => deadline.min(*at + GRACE),
                None => deadline,
            };
            if now >= end {
                return None;
            }
            let Some(datagram) = self.socket.receive(&mut buffer, end.min(now + CHECK)) else {
                continue;
            };
            for sent in waiting {
                if let Some(receipt) = sent.awaiting.open(datagram)
                    && receipt.may_answer(sent.kind)
                {
                    return Some(ReceivedReceipt { receipt, at: clock::now().wall });
                }
            }
        }
    }
}

/// True if the gateway will probably see us come from `local`: a global address, or both addresses
/// in the same private scope.
pub(super) fn usable(local: IpAddr, gateway: IpAddr) -> bool {
    let ours = reach(local);
    ours == AddressScope::Global || (ours == reach(gateway) && ours != AddressScope::Nobody)
}

/// A key with which nobody can join: see [`Enrolment::of`].
pub(super) fn cannot_join() -> Fault {
    Fault::new(
        "this FIDO key was made for an application of its own, and a knock cannot say which; \
         nothing was sent",
        "have it enrolled with `toctocd client add`, or join with another key: -i FILE",
    )
}

#[cfg(test)]
pub(super) mod tests;
