//! The client MAC in eBPF: keyed BLAKE2s, RFC 7693, as in `core::wire`, from the hash on that has
//! taken the key.
//!
//! The code of a round is there once. Code of each round puts the words of the block in the round's
//! order first. All rounds written out would be longer than older kernels let a socket have
//! (`net.core.optmem_max`).

use super::assembler::*;
use super::{KEPT, TagFilter, at_place, find_line, load_bytes, number_of_key};
use crate::core::bytes::saturated_u32;
use crate::core::keyring::blake2s::{BLOCK, IV, SIGMA, STEPS};
use crate::core::keyring::{KEY_WORDS, WORDS as WORDS_OF_LINE};
use crate::core::wire::{COVERED, MAC_LABEL};

// On the stack, below what the look-up of the tag has.
/// The sixteen words that the rounds mix.
const STATE: i16 = -64;
/// The MAC as it was sent.
pub(super) const SENT: i16 = -144;
const HASH: i16 = -176;
const WORDS: i16 = -240;
/// The words of a block in the order of a round.
const ORDERED: i16 = -304;

/// Bytes of the message in its first block.
const FIRST: usize = BLOCK - MAC_LABEL.len();
/// Blocks of label and message, behind that of the key.
const BLOCKS: usize = (MAC_LABEL.len() + COVERED).div_ceil(BLOCK);
/// Bytes in the last one.
const REST: usize = MAC_LABEL.len() + COVERED - (BLOCKS - 1) * BLOCK;

/// The end of the caller's stack, in a function.
const BASE: Register = R6;

/// The functions that the program calls, which stand behind it. The verifier follows each call, so
/// they save it nothing but branches: without CAP_PERFMON it would also follow each branch the way
/// that is never taken, round by round.
#[derive(Clone, Copy)]
pub(super) struct Functions {
    compress: Label,
    mix: Label,
}

impl Functions {
    pub(super) fn new(asm: &mut Assembler) -> Self {
        let [compress, mix] = asm.labels();
        Self { compress, mix }
    }

    /// Puts them behind the program.
    pub(super) fn place(self, asm: &mut Assembler) {
        asm.place(self.compress);
        compress(asm, self.mix);
        asm.place(self.mix);
        asm.copy(BASE, R1);
        for (index, words) in (0..).zip(STEPS) {
            mix(asm, words, ORDERED + 8 * index);
        }
        asm.end_with(0);
    }
}

/// Goes to `wrong` unless the client MAC of the current datagram is right, by the key that was
/// [`super::FOUND`]. Goes to `pass` if there is no such key. Leaves the MAC at [`SENT`].
pub(super) fn check_mac(
    asm: &mut Assembler, filter: &TagFilter<'_>, helper: Helper, functions: Functions,
    wrong: Label, pass: Label,
) {
    load_key(asm, filter, pass);
    load_bytes(asm, helper, COVERED as i32, SENT, 16, pass);
    let mut label = [0; BLOCK / 2];
    label[..MAC_LABEL.len()].copy_from_slice(MAC_LABEL);
    let label = label.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
    store_words(asm, STACK, WORDS, label);
    load_bytes(asm, helper, 0, WORDS + MAC_LABEL.len() as i16, FIRST as i32, pass);
    for block in 0..BLOCKS {
        let is_last = block == BLOCKS - 1;
        let length = if is_last { REST } else { BLOCK };
        if is_last {
            store_words(asm, STACK, WORDS, [0; BLOCK / 4].into_iter());
        }
        if block > 0 {
            let from = FIRST + (block - 1) * BLOCK;
            load_bytes(asm, helper, from as i32, WORDS, length as i32, pass);
        }
        // The bytes so far, with the block of the key, and whether these are the last.
        let taken = (1 + block) * BLOCK + length;
        asm.copy(R1, STACK);
        asm.op32_with(Operation::Set, R2, IV[4] ^ taken as u32);
        asm.op32_with(Operation::Set, R3, if is_last { !IV[6] } else { IV[6] });
        asm.call_function(functions.compress);
    }
    let right = asm.label();
    for (half, differs) in [(0, R1), (8, R3)] {
        asm.load(Size::Double, differs, STACK, HASH + half);
        asm.load(Size::Double, R2, STACK, SENT + half);
        asm.op64(Operation::Xor, differs, R2);
    }
    asm.op64(Operation::Or, R1, R3);
    asm.jump_if_zero(R1, right);
    asm.jump(wrong);
    asm.place(right);
}

/// Copies the hash that has taken the key: two of them are in a line.
fn load_key(asm: &mut Assembler, filter: &TagFilter<'_>, pass: Label) {
    number_of_key(asm, KEPT);
    asm.copy(R1, KEPT);
    asm.op32_with(Operation::ShiftRight, R1, 1);
    asm.op32_with(Operation::Add, R1, saturated_u32(filter.tags.keys_at()));
    find_line(asm, filter.map, pass);
    at_place(asm, KEPT, WORDS_OF_LINE / KEY_WORDS, |asm, key| {
        for word in 0..KEY_WORDS as i16 {
            asm.load(Size::Double, R1, R0, 8 * (KEY_WORDS as i16 * key + word));
            asm.store(Size::Double, STACK, HASH + 8 * word, R1);
        }
    });
}

fn store_words(asm: &mut Assembler, base: Register, at: i16, words: impl Iterator<Item = u32>) {
    for (index, word) in (0..).zip(words) {
        asm.store_word(base, at + 4 * index, word);
    }
}

/// The function that takes a block into the hash. Its arguments are the end of the caller's stack,
/// and words 12 and 14 of the state.
fn compress(asm: &mut Assembler, mix: Label) {
    asm.copy(BASE, R1);
    for word in (0..32).step_by(8) {
        asm.load(Size::Double, R1, BASE, HASH + word);
        asm.store(Size::Double, BASE, STATE + word, R1);
    }
    store_words(asm, BASE, STATE + 32, IV.into_iter());
    asm.store(Size::Word, BASE, STATE + 4 * 12, R2);
    asm.store(Size::Word, BASE, STATE + 4 * 14, R3);
    for order in SIGMA {
        for (index, word) in (0..).zip(order) {
            asm.load(Size::Word, R1, BASE, WORDS + 4 * i16::from(word));
            asm.store(Size::Word, BASE, ORDERED + 4 * index, R1);
        }
        asm.copy(R1, BASE);
        asm.call_function(mix);
    }
    for word in (0..32).step_by(8) {
        asm.load(Size::Double, R1, BASE, HASH + word);
        for half in [STATE, STATE + 32] {
            asm.load(Size::Double, R2, BASE, half + word);
            asm.op64(Operation::Xor, R1, R2);
        }
        asm.store(Size::Double, BASE, HASH + word, R1);
    }
    asm.end_with(0);
}

/// One step of a round: mixes four words of the state with two of the block.
fn mix(asm: &mut Assembler, words: [u8; 4], of_block: i16) {
    let [a, b, c, d] = [R1, R2, R3, R4];
    let at = |word: u8| STATE + 4 * i16::from(word);
    for (register, word) in [a, b, c, d].into_iter().zip(words) {
        asm.load(Size::Word, register, BASE, at(word));
    }
    for (word, right) in [(0, [16, 12]), (4, [8, 7])] {
        asm.load(Size::Word, R5, BASE, of_block + word);
        asm.op32(Operation::Add, a, b);
        asm.op32(Operation::Add, a, R5);
        asm.op32(Operation::Xor, d, a);
        asm.rotate_left(d, 32 - right[0]);
        asm.op32(Operation::Add, c, d);
        asm.op32(Operation::Xor, b, c);
        asm.rotate_left(b, 32 - right[1]);
    }
    for (register, word) in [a, b, c, d].into_iter().zip(words) {
        asm.store(Size::Word, BASE, at(word), register);
    }
}
