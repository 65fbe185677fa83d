//! The compression function of BLAKE2s, RFC 7693, as far as the kernel's filter needs it: the crate
//! that computes our MACs does not give away a hash that is half done. See `edge::ebpf::mac`.

/// Bytes of a block.
pub const BLOCK: usize = 64;
pub const ROUNDS: usize = 10;
pub const IV: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];
/// The order in which each round takes the words of a block.
pub const SIGMA: [[u8; 16]; ROUNDS] = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
    [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
    [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
    [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
    [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
    [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
    [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
    [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
];
/// The words of the state that each of a round's eight steps mixes: four columns, four diagonals.
pub const STEPS: [[u8; 4]; 8] = [
    [0, 4, 8, 12],
    [1, 5, 9, 13],
    [2, 6, 10, 14],
    [3, 7, 11, 15],
    [0, 5, 10, 15],
    [1, 6, 11, 12],
    [2, 7, 8, 13],
    [3, 4, 9, 14],
];
/// Digest of 16 bytes, key of 32, no tree.
const PARAMETERS: u32 = 0x0101_2010;

/// The hash after its first block, which is the key: what the MAC of any message goes on from.
pub(super) fn after_key(key: &[u8; 32]) -> [u32; 8] {
    let mut words = [0; 16];
    let (bytes, _) = key.as_chunks::<4>();
    for (word, bytes) in words.iter_mut().zip(bytes) {
        *word = u32::from_le_bytes(*bytes);
    }
    let mut hash = IV;
    hash[0] ^= PARAMETERS;
    compress(&mut hash, &words, BLOCK as u32, false);
    hash
}

/// Takes one block into the hash. `taken`: the bytes so far, with those of this block.
fn compress(hash: &mut [u32; 8], block: &[u32; 16], taken: u32, is_last: bool) {
    let mut state = [0; 16];
    state[..8].copy_from_slice(hash);
    state[8..].copy_from_slice(&IV);
    state[12] ^= taken;
    if is_last {
        state[14] = !state[14];
    }
    for order in SIGMA {
        let word = |at: usize| block[usize::from(order[at] & 15)];
        let [a, b, c, d, e, f, g, h] = STEPS;
        // A loop would take three times as long in code that is optimised for size, 0.4 s with
        // 100,000 clients: the words of the state would be in memory.
        mix(&mut state, a, [word(0), word(1)]);
        mix(&mut state, b, [word(2), word(3)]);
        mix(&mut state, c, [word(4), word(5)]);
        mix(&mut state, d, [word(6), word(7)]);
        mix(&mut state, e, [word(8), word(9)]);
        mix(&mut state, f, [word(10), word(11)]);
        mix(&mut state, g, [word(12), word(13)]);
        mix(&mut state, h, [word(14), word(15)]);
    }
    for (at, word) in hash.iter_mut().enumerate() {
        *word ^= state[at] ^ state[at + 8];
    }
}

#[inline(always)]
fn mix(state: &mut [u32; 16], [a, b, c, d]: [u8; 4], [first, second]: [u32; 2]) {
    let [a, b, c, d] = [a as usize, b as usize, c as usize, d as usize];
    state[a] = state[a].wrapping_add(state[b]).wrapping_add(first);
    state[d] = (state[d] ^ state[a]).rotate_right(16);
    state[c] = state[c].wrapping_add(state[d]);
    state[b] = (state[b] ^ state[c]).rotate_right(12);
    state[a] = state[a].wrapping_add(state[b]).wrapping_add(second);
    state[d] = (state[d] ^ state[a]).rotate_right(8);
    state[c] = state[c].wrapping_add(state[d]);
    state[b] = (state[b] ^ state[c]).rotate_right(7);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_that_goes_on_from_the_hash_after_the_key_is_the_same() {
        let key: [u8; 32] = std::array::from_fn(|i| i as u8 * 7 + 1);
        let message: [u8; 90] = std::array::from_fn(|i| i as u8 ^ 0x5a);
        let mut hash = after_key(&key);
        let mut padded = [0; 2 * BLOCK];
        padded[..90].copy_from_slice(&message);
        for (bytes, taken, is_last) in
            [(&padded[..BLOCK], 2 * BLOCK as u32, false), (&padded[BLOCK..], 64 + 90, true)]
        {
            let words = std::array::from_fn(|i| {
                u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap())
            });
            compress(&mut hash, &words, taken, is_last);
        }
        let mac = super::super::keyed16(&key, &[&message]);
        assert_eq!(hash[..4].iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>(), mac);
    }
}
