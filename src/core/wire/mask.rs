//! The mask that makes keys and tags look random to those outside the realm.
//! It works like header protection in RFC 9001, 5.4.4, and authenticates nothing.

use chacha20::ChaChaCore;
use chacha20::cipher::{KeyIvInit, StreamCipherCore};
use chacha20::variants::Ietf;
use zeroize::Zeroize;

/// Bytes of ciphertext that the mask is derived from.
pub(super) const SAMPLE: usize = 16;

/// Masks or unmasks `hidden`, at most 64 bytes: XORs one ChaCha20 block into it. The first four
/// bytes of `sample` are the block counter, little-endian, the other twelve the nonce.
///
/// The sender chooses the sample, so every counter must work. The block function is called directly
/// because the crate's stream interface refuses the last block of a stream, counter 2^32-1: one
/// packet in 2^32 by chance, and any packet that an insider wants.
pub(super) fn apply(key: &[u8; 32], sample: &[u8; SAMPLE], hidden: &mut [u8]) {
    #[cfg(test)]
    crate::core::op_counter::count(|done| done.masks += 1);
    let [a, b, c, d, nonce @ ..] = sample;
    let mut core = ChaChaCore::<chacha20::R20, Ietf>::new(key.into(), nonce.into());
    core.set_block_pos(u32::from_le_bytes([*a, *b, *c, *d]));
    let mut block = Default::default();
    core.write_keystream_block(&mut block);
    for (byte, mask) in hidden.iter_mut().zip(block.iter()) {
        *byte ^= mask;
    }
    block.as_mut_slice().zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex<const N: usize>(text: &str) -> [u8; N] {
        let mut bytes = [0; N];
        base16ct::lower::decode(text, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_mask_is_the_one_of_rfc_9001() {
        // Appendix A.5: hp key, sample, and the first five bytes of the mask.
        let key = unhex("25a282b9e82f06f21f488917a4fc8f1b73573685608597d0efcb076b0ab7a7a4");
        let sample = unhex("5e5cd55c41f69080575d7999c25a5bfb");
        let mut mask = [0; 5];
        apply(&key, &sample, &mut mask);
        assert_eq!(mask, unhex("aefefe7d03"));
    }

    #[test]
    fn the_last_block_of_a_stream_masks_like_any_other() {
        let mut sample = [7; SAMPLE];
        sample[..4].fill(0xff);
        let mut hidden = [0; 64];
        apply(&[1; 32], &sample, &mut hidden);
        assert!(hidden.iter().any(|b| *b != 0));
        apply(&[1; 32], &sample, &mut hidden);
        assert_eq!(hidden, [0; 64]);
    }
}
