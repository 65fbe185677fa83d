//! What an app needs to knock at a toctoc gateway: profiles, invitations, and a state machine that
//! makes the packets and reads the answers.
//!
//! There is no socket, file, clock, random number or thread in it: the app has its own. The
//! private key stays with the app, too: [`Knock::next`] hands out what is to be signed.
//!
//! 1. Read a profile: [`Profile::parse`]. Or an invitation: [`Invitation::parse`].
//! 2. Begin with [`Knock::new`], or with [`Knock::join`].
//! 3. Send the packet that [`Knock::next`] makes. Give each datagram that comes from the gateway
//!    within the packet's patience to [`Knock::receive`]. Begin again at 3 if there is none, or if
//!    it says [`Progress::Continues`].
//! 4. At the end [`Knock::received`] has the answer. After joining, [`Knock::profile`] has the
//!    profile: write its text down.
//!
//! `c` is the same for other languages; `include/toctoc.h` declares it. README.md has both in full.

use std::sync::Arc;

pub use toctoc::core::authentic::BLOB;
pub use toctoc::core::exchange::{
    ClientRequest, ENTROPY, Endpoints, NamedAddress, Packet, Progress, ReceivedReceipt, is_replaced,
};
pub use toctoc::core::keyring::Secret;
pub use toctoc::core::knock::{KnockKind, PortEntry, Receipt, Signature, Status};
pub use toctoc::core::public_key::PublicKey;
pub use toctoc::core::types::{Fault, FaultKind, ServiceName, Source, Wall};
pub use toctoc::keys::invitation::Invitation;
pub use toctoc::keys::profile::Profile;

use toctoc::core::authentic::{is_signed, sshsig_blob};
use toctoc::core::exchange::Exchange;

#[allow(unsafe_code)]
pub mod c;
mod handles;

/// One exchange with one address of a gateway.
pub struct Knock {
    exchange: Exchange,
    key: PublicKey,
    ends: Endpoints,
    invitation: Option<Arc<Invitation>>,
    /// The random bytes of the last packet, which must not make another one.
    used: Secret<ENTROPY>,
}

impl Knock {
    /// Asks for what `request` says, as the client of `profile`. Without a service it is the
    /// profile's usual one.
    ///
    /// Fails if no service is named and the profile has no usual one, or if the kind is to join or
    /// to ask for the time.
    pub fn new(profile: &Profile, request: ClientRequest, ends: Endpoints) -> Result<Knock, Fault> {
        let service = match request.kind {
            KnockKind::Probe => ServiceName::NONE,
            KnockKind::Open | KnockKind::Close if request.service != ServiceName::NONE => {
                request.service
            }
            KnockKind::Open | KnockKind::Close => profile.usual_service().ok_or_else(|| {
                Fault::new("no service is named, and the profile has no usual one", "name one")
            })?,
            KnockKind::Join | KnockKind::Time => {
                let what = "a profile can open, close and probe";
                return Err(Fault::new(what, "join by an invitation"));
            }
        };
        let request = ClientRequest { service, invitation: None, ..request };
        let side = profile.side.duplicate();
        let exchange = Exchange::new(side, profile.key.clone(), request, ends);
        Ok(Knock::with(exchange, profile.key.clone(), ends, None))
    }

    /// Asks to enrol `key` by an invitation. Of `request` only the patience and the number of
    /// attempts count.
    pub fn join(
        invitation: Arc<Invitation>, key: PublicKey, request: ClientRequest, ends: Endpoints,
    ) -> Knock {
        let ClientRequest { timeout, attempts, .. } = request;
        let request = ClientRequest {
            invitation: Some(invitation.id),
            ..ClientRequest::new(KnockKind::Join, timeout, attempts)
        };
        let exchange = Exchange::new(invitation.side(), key.clone(), request, ends);
        Knock::with(exchange, key, ends, Some(invitation))
    }

    fn with(
        exchange: Exchange, key: PublicKey, ends: Endpoints, invitation: Option<Arc<Invitation>>,
    ) -> Knock {
        Knock { exchange, key, ends, invitation, used: Secret::new([0; ENTROPY]) }
    }

    /// The packet to send at `now`; `None` if there is no other. `entropy`: random bytes of the
    /// system, fresh for each packet. `sign` gets the bytes that the client's key must sign by
    /// plain Ed25519 (RFC 8032), and may say `None` to give up.
    ///
    /// Fails with [`FaultKind::Unsigned`] if `sign` gives up or the signature is not by that key.
    /// Fails if `entropy` is zero or that of the last packet: two packets with the same random
    /// bytes give away what is in them. After a failure the same packet can be tried again.
    pub fn next(
        &mut self, now: Wall, entropy: Secret<ENTROPY>,
        sign: impl FnOnce(&[u8; BLOB]) -> Option<Signature>,
    ) -> Result<Option<Packet>, Fault> {
        if entropy.ct_eq(&self.used) || entropy.expose()[..32] == [0; 32] {
            let what = "the random bytes are zero, or those of the packet before";
            return Err(Fault::new(what, "take new ones of the system for each packet"));
        }
        let key = &self.key;
        let packet = self.exchange.next(now, &entropy, |message| {
            match sign(&sshsig_blob(message)) {
                // A gateway would meet a wrong one with silence.
                Some(signature) if is_signed(key, message, &signature) => Ok(signature),
                Some(_) => Err(unsigned("the signature is not by the client's key")),
                None => Err(unsigned("nothing was signed")),
            }
        })?;
        self.used = entropy;
        Ok(packet)
    }

    /// Looks at a datagram that came from the gateway at `now`.
    pub fn receive(&mut self, now: Wall, datagram: &[u8]) -> Progress {
        self.exchange.receive(now, datagram)
    }

    /// The answer, or the last receipt that asked for another packet.
    pub fn received(&self) -> Option<ReceivedReceipt> {
        self.exchange.received()
    }

    /// The address that the knock names, once it is known.
    pub fn named(&self) -> Option<NamedAddress> {
        self.exchange.named()
    }

    /// True if a device in front of the gateway probably hides the addresses of its clients.
    pub fn is_replaced(&self) -> bool {
        self.received().is_some_and(|answer| is_replaced(self.ends, answer.receipt.observed))
    }

    /// True once the key is enrolled.
    pub fn has_joined(&self) -> bool {
        self.received().is_some_and(|answer| answer.receipt.status == Status::Enrolled)
    }

    /// The profile of who has joined: with [`Status::Enrolled`] only.
    pub fn profile(&self) -> Result<Profile, Fault> {
        let welcome = self.received().and_then(|answer| answer.receipt.welcome);
        let (Some(invitation), Some(welcome)) = (&self.invitation, welcome) else {
            return Err(Fault::new("nobody has joined by this knock", "join by an invitation"));
        };
        invitation.welcomed(self.key.clone(), &welcome)
    }
}

fn unsigned(what: &str) -> Fault {
    Fault::new(what, "sign with the private half of the key in the profile").of(FaultKind::Unsigned)
}
