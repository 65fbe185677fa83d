//! One gateway address asked: find our own address, knock, wait for the receipt, retry once where
//! it says how. Saying how it ended is left to `words`; the socket to `edge::send`.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::core::address::{AddressScope, reach};
use crate::core::keyring::Day;
use crate::core::knock::{Challenge, KnockKind, Receipt, Request, Status, timestamp};
use crate::core::types::{Fault, ServiceName, Source, Wall};
use crate::core::wire::{AwaitingReceipt, RECEIPT, seal};
use crate::edge::send::GatewaySocket;
use crate::edge::{clock, entropy};
use crate::keys::identity::Signer;
use crate::keys::profile::Profile;

/// No clock that works shows a moment before this was written: 2026-01-01.
const SANE: Wall = Wall(1_767_225_600_000_000_000);
/// How long the other family may still take once one has been answered.
const GRACE: Duration = Duration::from_millis(300);
/// How often the wait looks up whether the other family has been answered.
const GLANCE: Duration = Duration::from_millis(50);

/// What is wanted of every address of the gateway.
pub(super) struct ClientRequest {
    pub(super) kind: KnockKind,
    pub(super) service: ServiceName,
    pub(super) seconds: u32,
    pub(super) source: Option<IpAddr>,
    /// Ask the gateway for our address even where our own seems good.
    pub(super) ask_source: bool,
    pub(super) source_port: u16,
    pub(super) timeout: Duration,
    pub(super) attempts: u32,
}

/// How it went with one address of the gateway.
pub(super) struct GatewayResult {
    pub(super) gateway: SocketAddr,
    /// The address that the knock named, and how it was found.
    pub(super) named: Option<(Source, AddressOrigin)>,
    /// Knocks that were sent, probes included.
    pub(super) knocks: u32,
    pub(super) outcome: ExchangeOutcome,
}

/// How the client found its own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressOrigin {
    /// Told by the user.
    Given,
    /// The socket's own.
    Local,
    /// As the gateway saw a probe come.
    Probed,
}

/// What is known at the end.
pub(super) enum ExchangeOutcome {
    /// The gateway's own word.
    Heard(ReceivedReceipt),
    /// Nothing came that could be opened.
    Silence,
    /// Nothing could be sent.
    NoWay(Fault),
}

/// A receipt, and when it came by the clock of this machine.
#[derive(Clone, Copy)]
pub(super) struct ReceivedReceipt {
    pub(super) receipt: Receipt,
    pub(super) at: Wall,
}

/// Asks `gateway`; `answered` is shared with those who ask its other addresses.
pub(super) fn ask(
    profile: &Profile,
    signer: &Signer,
    wish: &ClientRequest,
    gateway: SocketAddr,
    answered: &OnceLock<Instant>,
) -> GatewayResult {
    let mut answer =
        GatewayResult { gateway, named: None, knocks: 0, outcome: ExchangeOutcome::Silence };
    let result = GatewaySocket::open(gateway).and_then(|line| {
        let talk = Exchange { profile, signer, wish, line, answered };
        talk.run(&mut answer)
    });
    match result {
        Ok(Some(heard)) => {
            let _ = answered.set(Instant::now());
            answer.outcome = ExchangeOutcome::Heard(heard);
        }
        Ok(None) => {}
        Err(fault) => answer.outcome = ExchangeOutcome::NoWay(fault),
    }
    answer
}

/// A conversation with one address of the gateway.
struct Exchange<'a> {
    profile: &'a Profile,
    signer: &'a Signer,
    wish: &'a ClientRequest,
    line: GatewaySocket,
    answered: &'a OnceLock<Instant>,
}

impl Exchange<'_> {
    fn run(&self, answer: &mut GatewayResult) -> Result<Option<ReceivedReceipt>, Fault> {
        if self.wish.kind == KnockKind::Probe {
            return self.send_with_retry(self.probe(), answer);
        }
        let mut request = Request {
            kind: self.wish.kind,
            service: self.wish.service,
            seconds: self.wish.seconds,
            source_port: self.wish.source_port,
            ..self.probe()
        };
        let (source, found) = match self.own_address() {
            Some(named) => named,
            None => {
                let Some(heard) = self.send_with_retry(self.probe(), answer)? else {
                    return Ok(None);
                };
                if heard.receipt.status != Status::Observed {
                    return Ok(Some(heard));
                }
                request.challenge = heard.receipt.challenge;
                (heard.receipt.observed, AddressOrigin::Probed)
            }
        };
        answer.named = Some((source, found));
        request.address = Some(source);
        self.send_with_retry(request, answer)
    }

    /// Our address as the gateway will see it, if nobody needs to be asked: what the user says, or
    /// the socket's own where no NAT can be in between as far as one can tell.
    fn own_address(&self) -> Option<(Source, AddressOrigin)> {
        if let Some(ip) = self.wish.source {
            return Some((Source::new(ip), AddressOrigin::Given));
        }
        let usable = !self.wish.ask_source && usable(self.line.local(), self.line.gateway().ip());
        usable.then(|| (Source::new(self.line.local()), AddressOrigin::Local))
    }

    fn probe(&self) -> Request {
        Request {
            kind: KnockKind::Probe,
            receipt_wanted: true,
            timestamp: Wall(0),
            challenge: None,
            address: None,
            source_port: 0,
            seconds: 0,
            service: ServiceName::NONE,
            fingerprint: self.profile.key.fingerprint(),
        }
    }

    /// Knocks; if the gateway does not believe our clock and gives a challenge, knocks once more
    /// with that. The timestamp stays ours in any case: who signs for a time that he was told can
    /// be made to sign for any.
    fn send_with_retry(
        &self,
        request: Request,
        answer: &mut GatewayResult,
    ) -> Result<Option<ReceivedReceipt>, Fault> {
        let first = self.knock(&request, None, answer)?;
        let Some(ReceivedReceipt { receipt, .. }) = first else { return Ok(None) };
        match (receipt.status, receipt.challenge) {
            (Status::Clock | Status::Challenge, Some(challenge)) => {
                let second = self.knock(&request, Some((challenge, receipt.status)), answer)?;
                Ok(second.or(first))
            }
            _ => Ok(first),
        }
    }

    /// Sends up to `attempts` packets, each a new one, and waits for the receipt of any of them.
    fn knock(
        &self,
        request: &Request,
        told: Option<(Challenge, Status)>,
        answer: &mut GatewayResult,
    ) -> Result<Option<ReceivedReceipt>, Fault> {
        let mut waiting: Vec<AwaitingReceipt> = Vec::new();
        for attempt in 1..=self.wish.attempts {
            let now = clock::now().wall;
            let request = Request {
                timestamp: timestamp(now, u32::from_be_bytes(entropy::bytes()?)),
                challenge: told.map(|(challenge, _)| challenge).or(request.challenge),
                ..*request
            };
            // The tag of the day is unknown to the gateway if our day is wrong, and then it says
            // nothing at all: so the last attempt does not rest on it.
            let last = attempt == self.wish.attempts && attempt > 1;
            let doubted =
                last || now < SANE || told.is_some_and(|(_, status)| status == Status::Clock);
            let day = if doubted { Day::Unknown } else { Day::Number(now.day()) };
            let sign = |message: &_| self.signer.sign(message);
            let (datagram, awaiting) =
                seal(&self.profile.side, &request, day, entropy::secret()?, sign)?;
            waiting.push(awaiting);
            self.line.send(&datagram)?;
            answer.knocks += 1;
            if let Some(heard) = self.wait(&waiting) {
                return Ok(Some(heard));
            }
            if self.answered.get().is_some() {
                break;
            }
        }
        Ok(None)
    }

    /// Waits for one attempt's time. What does not open says nothing: anybody can send that.
    fn wait(&self, waiting: &[AwaitingReceipt]) -> Option<ReceivedReceipt> {
        // One byte more than a receipt has, so that a longer datagram does not look like one.
        let mut buffer = [0; RECEIPT + 1];
        let deadline = Instant::now() + self.wish.timeout;
        loop {
            let now = Instant::now();
            let end = self.answered.get().map_or(deadline, |at| deadline.min(*at + GRACE));
            if now >= end {
                return None;
            }
            let Some(datagram) = self.line.receive(&mut buffer, end.min(now + GLANCE)) else {
                continue;
            };
            if let Some(receipt) = waiting.iter().find_map(|awaiting| awaiting.open(datagram)) {
                return Some(ReceivedReceipt { receipt, at: clock::now().wall });
            }
        }
    }
}

/// Whether the gateway will probably see us come from `local`: a global address, or both of us on
/// private ground.
fn usable(local: IpAddr, gateway: IpAddr) -> bool {
    let ours = reach(local);
    ours == AddressScope::Global || (ours == reach(gateway) && ours != AddressScope::Nobody)
}

#[cfg(test)]
mod tests;
