//! Noise_NKpsk0_25519_ChaChaPoly_BLAKE2s (revision 34): both messages, both roles.
//! See `knock` for the payloads and `wire` for the datagrams.
//!
//! ```text
//! <- s
//! ...
//! -> psk, e, es
//! <- e, ee
//! ```
//!
//! Each step consumes its state. Every payload is encrypted once, with nonce 0, under a key that
//! includes a fresh DH.

use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::keyring::Secret;

mod symmetric;

pub use symmetric::SEAL;
use symmetric::Symmetric;

/// Bytes of an X25519 public key.
pub const KEY: usize = 32;

pub struct KeyPair {
    secret: StaticSecret,
    public: PublicKey,
}

impl KeyPair {
    pub fn new(secret: &Secret<32>) -> Self {
        let secret = StaticSecret::from(*secret.expose());
        let public = PublicKey::from(&secret);
        Self { secret, public }
    }

    pub fn public(&self) -> [u8; KEY] {
        self.public.to_bytes()
    }

    pub fn expose(&self) -> &[u8; 32] {
        self.secret.as_bytes()
    }

    /// The shared secret. `None` if `peer` is of small order: then it proves nothing.
    fn diffie_hellman(&self, peer: &[u8; KEY]) -> Option<Zeroizing<[u8; 32]>> {
        #[cfg(test)]
        super::op_counter::count(|done| done.curves += 1);
        let shared = self.secret.diffie_hellman(&PublicKey::from(*peer));
        if shared.was_contributory() { Some(Zeroizing::new(shared.to_bytes())) } else { None }
    }
}

/// The client after `psk, e, es`, before it seals its payload.
pub struct Initiator {
    state: Symmetric,
    ephemeral: KeyPair,
}

/// The client after its message, awaiting the response.
pub struct AwaitingResponse {
    state: Symmetric,
    ephemeral: KeyPair,
}

/// The gateway after it opened the client's message, before it seals its response.
pub struct Responder {
    state: Symmetric,
    knock_hash: [u8; 32],
    peer_ephemeral: [u8; KEY],
}

impl Initiator {
    /// Starts a handshake with the owner of the key `gateway`; `None` if it is of small order.
    pub fn new(
        prologue: &[u8], gateway: &[u8; KEY], psk: &Secret<32>, ephemeral: &Secret<32>,
    ) -> Option<Self> {
        let ephemeral = KeyPair::new(ephemeral);
        let mut state = Symmetric::start(prologue, gateway);
        state.mix_key_and_hash(psk.expose());
        state.mix_ephemeral(&ephemeral.public());
        state.mix_key(&*ephemeral.diffie_hellman(gateway)?);
        Some(Self { state, ephemeral })
    }

    /// The ephemeral public key, which is sent with the payload.
    pub fn ephemeral(&self) -> [u8; KEY] {
        self.ephemeral.public()
    }

    /// The hash after `psk, e, es`, which the client signs. It covers prologue, both keys and psk.
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
    /// Decrypts the gateway's payload in place and returns the final handshake hash. `None`, and
    /// the payload is unchanged, if it is not the response. May be tried on any number of
    /// datagrams.
    pub fn open(
        &self, peer_ephemeral: &[u8; KEY], payload: &mut [u8], tag: &[u8; SEAL],
    ) -> Option<[u8; 32]> {
        let mut state = self.state.duplicate();
        state.mix_ephemeral(peer_ephemeral);
        state.mix_key(&*self.ephemeral.diffie_hellman(peer_ephemeral)?);
        state.decrypt_and_hash(payload, tag)?;
        Some(state.hash())
    }
}

impl Responder {
    /// Decrypts a client's message in place. `None`, and the payload is unchanged, if it was not
    /// sealed with this psk for this key and prologue.
    pub fn open(
        prologue: &[u8], gateway: &KeyPair, psk: &Secret<32>, peer_ephemeral: &[u8; KEY],
        payload: &mut [u8], tag: &[u8; SEAL],
    ) -> Option<Self> {
        let mut state = Symmetric::start(prologue, gateway.public.as_bytes());
        state.mix_key_and_hash(psk.expose());
        state.mix_ephemeral(peer_ephemeral);
        state.mix_key(&*gateway.diffie_hellman(peer_ephemeral)?);
        let knock_hash = state.hash();
        state.decrypt_and_hash(payload, tag)?;
        Some(Self { state, knock_hash, peer_ephemeral: *peer_ephemeral })
    }

    pub fn hash(&self) -> [u8; 32] {
        self.knock_hash
    }

    /// Encrypts the response in place and returns the ephemeral public key, the tag and the final
    /// handshake hash. Never `None`: `open` refused a client key of small order.
    pub fn seal(
        mut self, ephemeral: &Secret<32>, payload: &mut [u8],
    ) -> Option<([u8; KEY], [u8; SEAL], [u8; 32])> {
        let ephemeral = KeyPair::new(ephemeral);
        self.state.mix_ephemeral(&ephemeral.public());
        self.state.mix_key(&*ephemeral.diffie_hellman(&self.peer_ephemeral)?);
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

    /// A knock with the payload `open`, and both sides' state.
    struct Knock {
        gateway: KeyPair,
        ephemeral: [u8; KEY],
        hash: [u8; 32],
        payload: Vec<u8>,
        tag: [u8; SEAL],
        awaiting: AwaitingResponse,
    }

    impl Knock {
        fn new() -> Self {
            let gateway = KeyPair::new(&secret(1));
            let initiator =
                Initiator::new(PROLOGUE, &gateway.public(), &secret(2), &secret(3)).unwrap();
            let ephemeral = initiator.ephemeral();
            let hash = initiator.hash();
            let mut payload = b"open".to_vec();
            let (tag, awaiting) = initiator.seal(&mut payload);
            Self { gateway, ephemeral, hash, payload, tag, awaiting }
        }

        fn open(&mut self, prologue: &[u8], gateway: &KeyPair, psk: u8) -> Option<Responder> {
            let Self { ephemeral, payload, tag, .. } = self;
            Responder::open(prologue, gateway, &secret(psk), ephemeral, payload, tag)
        }
    }

    #[test]
    fn both_messages_arrive_and_both_sides_end_in_one_hash() {
        let mut knock = Knock::new();
        let responder = knock.open(PROLOGUE, &KeyPair::new(&secret(1)), 2).unwrap();
        assert_eq!(knock.payload, b"open");
        assert_eq!(responder.hash(), knock.hash);
        let mut response = b"granted".to_vec();
        let (ephemeral, tag, hash) = responder.seal(&secret(4), &mut response).unwrap();
        let forged = knock.awaiting.open(&ephemeral, &mut response.clone(), &[0; SEAL]);
        assert!(forged.is_none(), "a stranger's response first");
        assert_eq!(knock.awaiting.open(&ephemeral, &mut response, &tag), Some(hash));
        assert_eq!(response, b"granted");
    }

    #[test]
    fn another_prologue_key_or_psk_opens_nothing() {
        let opens = |prologue, gateway, psk| {
            Knock::new().open(prologue, &KeyPair::new(&secret(gateway)), psk).is_some()
        };
        assert!(opens(PROLOGUE, 1, 2));
        assert!(!opens(b"there", 1, 2));
        assert!(!opens(PROLOGUE, 9, 2));
        assert!(!opens(PROLOGUE, 1, 9));
    }

    #[test]
    fn points_of_small_order_are_refused_on_every_side() {
        let order_8 = [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f,
            0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16,
            0x5f, 0x49, 0xb8, 0x00,
        ];
        let mut one = [0; 32];
        one[0] = 1;
        for point in [[0; 32], one, order_8] {
            assert!(Initiator::new(PROLOGUE, &point, &secret(2), &secret(3)).is_none());
            let knock = Knock::new();
            let payload = &mut knock.payload.clone();
            let gateway = &knock.gateway;
            let responder =
                Responder::open(PROLOGUE, gateway, &secret(2), &point, payload, &knock.tag);
            assert!(responder.is_none(), "{point:?}");
            assert!(knock.awaiting.open(&point, payload, &knock.tag).is_none());
        }
    }

    #[test]
    fn a_payload_that_does_not_open_is_unchanged() {
        let mut knock = Knock::new();
        let before = knock.payload.clone();
        assert!(knock.open(PROLOGUE, &KeyPair::new(&secret(1)), 9).is_none());
        assert_eq!(knock.payload, before);
    }
}
