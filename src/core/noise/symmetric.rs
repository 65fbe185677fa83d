//! Noise's SymmetricState for BLAKE2s and ChaChaPoly: chaining key, handshake hash, cipher key.
//! See `noise` for the order of the tokens.

use blake2::{Blake2s256, Digest};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use zeroize::{Zeroize, Zeroizing};

/// Bytes that sealing adds: the Poly1305 tag.
pub const SEAL: usize = 16;
const NAME: &[u8] = b"Noise_NKpsk0_25519_ChaChaPoly_BLAKE2s";
/// BLAKE2s' block, which HMAC pads its key to.
const BLOCK: usize = 64;

/// The three values of the handshake, wiped when dropped.
///
/// INVARIANT: `key` encrypts or decrypts at most once before it is replaced, so its nonce is always
/// 0 and there is no counter. NKpsk0 mixes a DH between any two payloads.
pub(super) struct Symmetric {
    chaining: [u8; 32],
    hash: [u8; 32],
    key: [u8; 32],
}

impl Drop for Symmetric {
    fn drop(&mut self) {
        self.chaining.zeroize();
        self.hash.zeroize();
        self.key.zeroize();
    }
}

impl Symmetric {
    /// Initialises with the protocol's name, hashed, the prologue and the pre-message `<- s`.
    pub(super) fn start(prologue: &[u8], responder: &[u8; 32]) -> Self {
        let name = digest(&[NAME]);
        let mut state = Self { chaining: name, hash: name, key: [0; 32] };
        state.mix_hash(prologue);
        state.mix_hash(responder);
        state
    }

    pub(super) fn duplicate(&self) -> Self {
        Self { chaining: self.chaining, hash: self.hash, key: self.key }
    }

    pub(super) fn hash(&self) -> [u8; 32] {
        self.hash
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = digest(&[&self.hash, data]);
    }

    pub(super) fn mix_key(&mut self, material: &[u8]) {
        let [chaining, key, _] = &*hkdf(&self.chaining, material);
        self.chaining = *chaining;
        self.key = *key;
    }

    /// The `psk` token.
    pub(super) fn mix_key_and_hash(&mut self, psk: &[u8; 32]) {
        let [chaining, hash, key] = &*hkdf(&self.chaining, psk);
        self.chaining = *chaining;
        self.mix_hash(hash);
        self.key = *key;
    }

    /// The `e` token in a handshake with a psk (section 9.2): mixes the key in too.
    pub(super) fn mix_ephemeral(&mut self, public: &[u8; 32]) {
        self.mix_hash(public);
        self.mix_key(public);
    }

    pub(super) fn encrypt_and_hash(&mut self, payload: &mut [u8]) -> [u8; SEAL] {
        let tag: [u8; SEAL] = self
            .cipher()
            .encrypt_inout_detached(&Nonce::default(), &self.hash, (&mut *payload).into())
            .expect("a payload of a few hundred bytes is within ChaCha20's limit")
            .into();
        self.hash = digest(&[&self.hash, payload, &tag]);
        tag
    }

    /// `None`, and `payload` is unchanged, if the tag is wrong.
    pub(super) fn decrypt_and_hash(&mut self, payload: &mut [u8], tag: &[u8; SEAL]) -> Option<()> {
        let after = digest(&[&self.hash, payload, tag]);
        self.cipher()
            .decrypt_inout_detached(&Nonce::default(), &self.hash, payload.into(), &(*tag).into())
            .ok()?;
        self.hash = after;
        Some(())
    }

    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&self.key.into())
    }
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Blake2s256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// HMAC-BLAKE2s (RFC 2104): Noise requires HMAC, not BLAKE2's own keyed mode.
fn hmac(key: &[u8; 32], parts: [&[u8]; 2]) -> [u8; 32] {
    let mut inner = Zeroizing::new([0x36; BLOCK]);
    let mut outer = Zeroizing::new([0x5c; BLOCK]);
    for ((i, o), k) in inner.iter_mut().zip(outer.iter_mut()).zip(key) {
        *i ^= k;
        *o ^= k;
    }
    let [first, second] = parts;
    let message = Zeroizing::new(digest(&[inner.as_slice(), first, second]));
    digest(&[outer.as_slice(), message.as_slice()])
}

/// Noise's HKDF with three outputs. A caller that needs two ignores the third.
fn hkdf(chaining: &[u8; 32], material: &[u8]) -> Zeroizing<[[u8; 32]; 3]> {
    let temp = Zeroizing::new(hmac(chaining, [material, &[]]));
    let mut outputs = Zeroizing::new([[0; 32]; 3]);
    let [first, second, third] = &mut *outputs;
    *first = hmac(&temp, [&[1], &[]]);
    *second = hmac(&temp, [&*first, &[2]]);
    *third = hmac(&temp, [&*second, &[3]]);
    outputs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_rfc_2104s_over_blake2s() {
        // Computed with Python's hmac.new(bytes(32 * [7]), b"toctoc", hashlib.blake2s).
        assert_eq!(
            hmac(&[7; 32], [b"toc", b"toc"]),
            [
                0x38, 0xe4, 0x82, 0x36, 0xc0, 0x29, 0x44, 0x73, 0xcd, 0x10, 0xec, 0x31, 0x46, 0x71,
                0x9e, 0x0e, 0xd4, 0x30, 0x08, 0x89, 0x85, 0xae, 0xe7, 0x7f, 0xab, 0xa3, 0x3f, 0x4f,
                0x00, 0xea, 0x56, 0x15
            ]
        );
    }
}
