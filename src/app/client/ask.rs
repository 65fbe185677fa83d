//! One exchange with one gateway address: the socket and the clock around `core::exchange`.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::signer::Signer;
use crate::core::event::KnockId;
use crate::core::exchange::{
    ClientRequest, Endpoints, Exchange, NamedAddress, Progress, ReceivedReceipt, is_replaced,
};
use crate::core::types::{Fault, Source};
use crate::core::wire::RECEIPT;
use crate::edge::send::GatewaySocket;
use crate::edge::{clock, entropy};
use crate::keys::profile::Profile;

/// Time that the other family still gets once one has been answered.
const GRACE: Duration = Duration::from_millis(300);
/// Interval at which a wait checks whether the other family has been answered.
const CHECK: Duration = Duration::from_millis(50);

/// The result of the exchange with one address of the gateway.
pub(super) struct GatewayResult {
    pub(super) gateway: SocketAddr,
    /// This machine's own address on the way there.
    pub(super) local: Option<IpAddr>,
    /// The address that the knock named.
    pub(super) named: Option<NamedAddress>,
    /// Knocks that were sent, probes included; 0 if another address answered before the first.
    pub(super) knocks: u32,
    /// Their ids in the gateway's log, and the one that was answered.
    pub(super) ids: Vec<KnockId>,
    pub(super) answered: Option<KnockId>,
    pub(super) outcome: ExchangeOutcome,
}

/// How an exchange ended.
pub(super) enum ExchangeOutcome {
    Received(ReceivedReceipt),
    Silence,
    Unreachable(Fault),
}

impl GatewayResult {
    pub(super) fn not_tried(gateway: SocketAddr) -> Self {
        let outcome = ExchangeOutcome::Silence;
        Self {
            gateway,
            local: None,
            named: None,
            knocks: 0,
            ids: Vec::new(),
            answered: None,
            outcome,
        }
    }

    /// True if a device in front of the gateway has replaced our address by `observed`: see
    /// [`is_replaced`].
    pub(super) fn is_replaced(&self, observed: Source) -> bool {
        match self.local {
            Some(local) => is_replaced(Endpoints { local, gateway: self.gateway.ip() }, observed),
            None => false,
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
        Ok(socket) => Asking { profile, signer, wanted, socket, answered }.run(&mut result),
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

struct Asking<'a> {
    profile: &'a Profile,
    signer: &'a Signer,
    wanted: &'a ClientRequest,
    socket: GatewaySocket,
    answered: &'a OnceLock<Instant>,
}

impl Asking<'_> {
    fn run(&self, result: &mut GatewayResult) -> Result<Option<ReceivedReceipt>, Fault> {
        let ends = Endpoints { local: self.socket.local(), gateway: self.socket.gateway().ip() };
        result.local = Some(ends.local);
        let Profile { side, key, .. } = self.profile;
        let mut exchange = Exchange::new(side.duplicate(), key.clone(), *self.wanted, ends);
        loop {
            result.named = exchange.named();
            let now = clock::now().wall;
            let sign = |message: &_| self.signer.sign(message);
            let Some(packet) = exchange.next(now, &entropy::secret()?, sign)? else { break };
            self.socket.send(&packet.datagram)?;
            result.knocks += 1;
            result.ids = exchange.sent().to_vec();
            let progress = self.wait(&mut exchange, packet.patience);
            if progress == Progress::Ignored && self.answered.get().is_some() {
                break;
            }
        }
        result.answered = exchange.answered();
        Ok(exchange.received())
    }

    /// Waits until a datagram is for this exchange. Anybody can send one that is not.
    fn wait(&self, exchange: &mut Exchange, patience: Duration) -> Progress {
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
                return Progress::Ignored;
            }
            let Some(datagram) = self.socket.receive(&mut buffer, end.min(now + CHECK)) else {
                continue;
            };
            let progress = exchange.receive(clock::now().wall, datagram);
            if progress != Progress::Ignored {
                return progress;
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
