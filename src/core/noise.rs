//! Noise_NKpsk0_25519_ChaChaPoly_BLAKE2s (revision 34): both messages, both roles, nothing else.
//! What they carry is left to `knock`, how they look on the wire to `wire`.
//!
//! ```text
//! <- s
//! ...
//! -> psk, e, es
//! <- e, ee
//! ```
//!
//! Each state is consumed by the step that leaves it. Every payload is encrypted under a key that a
//! fresh DH went into, with nonce 0, once.

use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::keyring::Secret;

mod symmetric;

use symmetric::Symmetric;

/// Bytes of an X25519 public key.
pub const KEY: usize = 32;
/// Bytes that sealing adds.
pub const SEAL: usize = 16;

/// An X25519 pair whose public half is computed once.
pub struct KeyPair {
    secret: StaticSecret,
    public: PublicKey,
}

impl KeyPair {
    /// From 32 random bytes.
    pub fn new(secret: &Secret<32>) -> Self {
        let secret = StaticSecret::from(*secret.expose());
        let public = PublicKey::from(&secret);
        Self { secret, public }
    }

    /// The public key.
    pub fn public(&self) -> [u8; KEY] {
        self.public.to_bytes()
    }

    /// The secret, for the one pipe and the one file that hold it.
    pub fn expose(&self) -> &[u8; 32] {
        self.secret.as_bytes()
    }

    /// The shared secret; `None` if it is all zero, that is if `their` key is of small order and
    /// the result says nothing about who computed it.
    fn agree(&self, their: &[u8; KEY]) -> Option<Zeroizing<[u8; 32]>> {
        #[cfg(test)]
        super::op_counter::count(|done| done.curves += 1);
        let shared = self.secret.diffie_hellman(&PublicKey::from(*their));
        shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
    }
}

/// The client after `psk, e, es`, about to seal its payload.
pub struct Initiator {
    state: Symmetric,
    ephemeral: KeyPair,
}

/// The client after its message, awaiting the answer.
pub struct AwaitingResponse {
    state: Symmetric,
    ephemeral: KeyPair,
}

/// The gateway after the client's message opened, about to seal its answer.
pub struct Responder {
    state: Symmetric,
    claim: [u8; 32],
    their_ephemeral: [u8; KEY],
}

impl Initiator {
    /// Starts towards the gateway that owns `gateway`; `None` if that key is of small order.
    pub fn new(
        prologue: &[u8],
        gateway: &[u8; KEY],
        psk: &Secret<32>,
        ephemeral: &Secret<32>,
    ) -> Option<Self> {
        let ephemeral = KeyPair::new(ephemeral);
        let mut state = Symmetric::start(prologue, gateway);
        state.mix_key_and_hash(psk.expose());
        state.mix_ephemeral(&ephemeral.public());
        state.mix_key(&*ephemeral.agree(gateway)?);
        Some(Self { state, ephemeral })
    }

    /// The ephemeral public key, which travels beside the payload.
    pub fn ephemeral(&self) -> [u8; KEY] {
        self.ephemeral.public()
    }

    /// The handshake hash after `psk, e, es`: it fixes prologue, gateway key, psk and ephemeral
    /// key, and is what the client signs.
    pub fn hash(&self) -> [u8; 32] {
        self.state.hash()
    }

    /// Encrypts the payload in place and returns its tag.
    pub fn seal(mut self, payload: &mut [u8]) -> ([u8; SEAL], AwaitingResponse) {
        let tag = self.state.encrypt_and_hash(payload);
        (tag, AwaitingResponse { state: self.state, ephemeral: self.ephemeral })
    }
}

impl AwaitingResponse {
    /// Decrypts the gateway's payload in place and returns the final handshake hash; `None` and an
    /// untouched payload if it is not the answer. Can be tried on any number of datagrams.
    pub fn open(
        &self,
        their_ephemeral: &[u8; KEY],
        payload: &mut [u8],
        tag: &[u8; SEAL],
    ) -> Option<[u8; 32]> {
        let mut state = self.state.duplicate();
        state.mix_ephemeral(their_ephemeral);
        state.mix_key(&*self.ephemeral.agree(their_ephemeral)?);
        state.decrypt_and_hash(payload, tag)?;
        Some(state.hash())
    }
}

impl Responder {
    /// Opens a client's message in place; `None` and an untouched payload if it was not sealed by
    /// this psk for this key and prologue.
    pub fn open(
        prologue: &[u8],
        gateway: &KeyPair,
        psk: &Secret<32>,
        their_ephemeral: &[u8; KEY],
        payload: &mut [u8],
        tag: &[u8; SEAL],
    ) -> Option<Self> {
        let mut state = Symmetric::start(prologue, gateway.public.as_bytes());
        state.mix_key_and_hash(psk.expose());
        state.mix_ephemeral(their_ephemeral);
        state.mix_key(&*gateway.agree(their_ephemeral)?);
        let claim = state.hash();
        state.decrypt_and_hash(payload, tag)?;
        Some(Self { state, claim, their_ephemeral: *their_ephemeral })
    }

    /// The handshake hash after `psk, e, es`, which the client's signature must cover.
    pub fn hash(&self) -> [u8; 32] {
        self.claim
    }

    /// Encrypts the answer in place and returns the ephemeral public key, the tag and the final
    /// handshake hash. `None` cannot happen for a message that opened: a point of small order fails
    /// there.
    pub fn seal(
        mut self,
        ephemeral: &Secret<32>,
        payload: &mut [u8],
    ) -> Option<([u8; KEY], [u8; SEAL], [u8; 32])> {
        let ephemeral = KeyPair::new(ephemeral);
        self.state.mix_ephemeral(&ephemeral.public());
        self.state.mix_key(&*ephemeral.agree(&self.their_ephemeral)?);
        let tag = self.state.encrypt_and_hash(payload);
        Some((ephemeral.public(), tag, self.state.hash()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROLOGUE: &[u8] = b"here";

    fn secret(byte: u8) -> Secret<32> {
        Secret::new([byte; 32])
    }

    fn message() -> (KeyPair, [u8; KEY], Vec<u8>, [u8; SEAL], AwaitingResponse, [u8; 32]) {
        let gateway = KeyPair::new(&secret(1));
        let start = Initiator::new(PROLOGUE, &gateway.public(), &secret(2), &secret(3)).unwrap();
        let (e, hash, mut payload) = (start.ephemeral(), start.hash(), b"open".to_vec());
        let (tag, awaiting) = start.seal(&mut payload);
        (gateway, e, payload, tag, awaiting, hash)
    }

    #[test]
    fn both_messages_arrive_and_both_sides_end_in_one_hash() {
        let (gateway, e, mut payload, tag, awaiting, hash) = message();
        let responder =
            Responder::open(PROLOGUE, &gateway, &secret(2), &e, &mut payload, &tag).unwrap();
        assert_eq!(payload, b"open");
        assert_eq!(responder.hash(), hash);
        let mut answer = b"granted".to_vec();
        let (e2, tag2, theirs) = responder.seal(&secret(4), &mut answer).unwrap();
        assert!(
            awaiting.open(&e2, &mut answer.clone(), &[0; SEAL]).is_none(),
            "a stranger's answer first"
        );
        assert_eq!(awaiting.open(&e2, &mut answer, &tag2), Some(theirs));
        assert_eq!(answer, b"granted");
    }

    #[test]
    fn another_prologue_key_or_psk_opens_nothing() {
        let (gateway, e, payload, tag, ..) = message();
        let open = |prologue: &[u8], gateway: &KeyPair, psk: u8| {
            Responder::open(prologue, gateway, &secret(psk), &e, &mut payload.clone(), &tag)
                .is_some()
        };
        assert!(open(PROLOGUE, &gateway, 2));
        assert!(!open(b"there", &gateway, 2));
        assert!(!open(PROLOGUE, &KeyPair::new(&secret(9)), 2));
        assert!(!open(PROLOGUE, &gateway, 9));
    }

    #[test]
    fn points_of_small_order_are_refused_on_every_side() {
        let mut order_8 = [0; 32];
        order_8.copy_from_slice(&[
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f,
            0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16,
            0x5f, 0x49, 0xb8, 0x00,
        ]);
        let mut one = [0; 32];
        one[0] = 1;
        for point in [[0; 32], one, order_8] {
            assert!(Initiator::new(PROLOGUE, &point, &secret(2), &secret(3)).is_none());
            let (gateway, _, payload, tag, awaiting, _) = message();
            assert!(
                Responder::open(PROLOGUE, &gateway, &secret(2), &point, &mut payload.clone(), &tag)
                    .is_none(),
                "{point:?}"
            );
            assert!(awaiting.open(&point, &mut payload.clone(), &tag).is_none());
        }
    }

    #[test]
    fn what_does_not_open_is_left_as_it_was() {
        let (gateway, e, payload, tag, ..) = message();
        let mut tried = payload.clone();
        assert!(Responder::open(PROLOGUE, &gateway, &secret(9), &e, &mut tried, &tag).is_none());
        assert_eq!(tried, payload);
    }
}
