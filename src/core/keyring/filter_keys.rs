//! The keys by which the kernel's filter checks client MACs, in memory that it reads while the
//! listener writes it. The memory is the listener's own, which has these keys anyway.
//! See `shared_tags` for the tags that lead to them.

use std::sync::atomic::Ordering;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::blake2s::after_key;
use super::shared_line::{Line, WORDS, value};
use super::{TAG, WireSecret};

/// Words of a key.
pub const KEY_WORDS: usize = 4;
/// How many places are tried for a key. Where so many are taken, hardly one in a hundred is free.
const TRIED: u64 = 512;

/// A tag, and the MAC key of its client and day: as the hash that has taken the key and nothing
/// else, since that saves the kernel one of six compressions for each packet.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct FilterKey {
    pub tag: [u8; TAG],
    hash: [u64; KEY_WORDS],
}

impl FilterKey {
    pub(super) fn new(tag: [u8; TAG], wire: &WireSecret) -> Self {
        let mut words = after_key(wire.mac_key().expose());
        let (pairs, _) = words.as_chunks::<2>();
        // As the kernel's little-endian processor reads them.
        let hash = std::array::from_fn(|i| u64::from(pairs[i][0]) | u64::from(pairs[i][1]) << 32);
        words.zeroize();
        Self { tag, hash }
    }

    /// A key that fits no packet.
    #[cfg(any(test, fuzzing))]
    pub fn for_tests(tag: [u8; TAG]) -> Self {
        Self { tag, hash: [u64::from_be_bytes(tag[..8].try_into().unwrap_or_default()) | 1; 4] }
    }
}

/// Places of keys, two in a line. An empty one is all zero, as no hash is.
#[derive(Clone, Copy)]
pub(super) struct FilterKeys(pub(super) &'static [Line]);

impl FilterKeys {
    /// Stores a key, and returns its place. Its tag's fold tells where to look for a free one.
    /// `None` if none is found.
    pub(super) fn add(self, fold: u64, key: &FilterKey) -> Option<u32> {
        let places = (WORDS / KEY_WORDS * self.0.len()) as u64;
        // There are a multiple of 40 places: odd steps lead to all of them, or to each fifth or so.
        let step = fold >> 32 | 1;
        for tried in 0..TRIED {
            let place = fold.wrapping_add(tried.wrapping_mul(step)) % places;
            let place = u32::try_from(place).ok()?;
            let words = self.words(place)?;
            if words.iter().all(|word| value(word) == 0) {
                for (word, part) in words.iter().zip(key.hash) {
                    word.store(part, Ordering::Relaxed);
                }
                return Some(place);
            }
        }
        None
    }

    /// True if this is the key in that place.
    pub(super) fn has(self, place: u32, key: &FilterKey) -> bool {
        let words = self.words(place);
        words.is_some_and(|words| words.iter().map(value).eq(key.hash))
    }

    pub(super) fn wipe(self, place: u32) {
        for word in self.words(place).unwrap_or_default() {
            word.store(0, Ordering::Relaxed);
        }
    }

    fn words(self, place: u32) -> Option<&'static [std::sync::atomic::AtomicU64]> {
        let line = self.0.get(place as usize / 2)?;
        Some(if place.is_multiple_of(2) { &line[..KEY_WORDS] } else { &line[KEY_WORDS..] })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn a_key_finds_a_place_as_long_as_one_of_few_is_free() {
        let lines = (0..32).map(|_| std::array::from_fn(|_| AtomicU64::new(0)));
        let keys = FilterKeys(Box::leak(lines.collect::<Box<_>>()));
        let key = FilterKey::for_tests([7; TAG]);
        // All begin at the first place, and go on in steps of their own.
        let found: Option<Vec<u32>> = (0..64).map(|n| keys.add(n << 33, &key)).collect();
        let mut found = found.expect("a place for each");
        found.sort_unstable();
        assert!(found.into_iter().eq(0..64));
        assert_eq!(keys.add(0, &key), None);
    }
}
