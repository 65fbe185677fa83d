//! The mask of a tag in eBPF: one block of ChaCha20, RFC 8439, as in `core::wire::mask`.

use super::assembler::*;

/// Where the sixteen words of the block lie on the stack.
const STATE: i16 = -64;
/// "expand 32-byte k".
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
const ROUNDS: i32 = 10;
/// The words of the block that mask a tag: those behind the 32 bytes for the key before it.
const OF_TAG: usize = 8;

/// Unmasks the four words of a tag at `tag` on the stack, behind which lies the sample. `counter`
/// is a register that this may use, beside `R0` to `R4`.
pub(super) fn unmask(asm: &mut Assembler, key: &[u8; 32], tag: i16, counter: Register) {
    let (words, _) = key.as_chunks::<4>();
    let key: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    for (index, word) in (0..).zip(CONSTANTS.iter().chain(&key)) {
        asm.store_word(STACK, STATE + 4 * index, *word);
    }
    for index in 0..4 {
        asm.load(Size::Word, R1, STACK, tag + 16 + 4 * index);
        asm.store(Size::Word, STACK, STATE + 48 + 4 * index, R1);
    }
    let round = asm.label();
    asm.set(counter, ROUNDS);
    asm.place(round);
    for column in 0..4 {
        quarter_round(asm, [column, 4 + column, 8 + column, 12 + column]);
    }
    for column in 0..4 {
        let diagonal = [column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4];
        quarter_round(asm, diagonal);
    }
    asm.op64_with(Operation::Add, counter, -1);
    asm.jump_if(counter, Condition::NotEqual, 0, round);
    for index in 0..4 {
        asm.load(Size::Word, R1, STACK, STATE + 32 + 4 * index);
        // The block is the sum of the state before and after the rounds.
        asm.op32_with(Operation::Add, R1, key[OF_TAG - 4 + usize::from(index.unsigned_abs())]);
        asm.load(Size::Word, R2, STACK, tag + 4 * index);
        asm.op32(Operation::Xor, R1, R2);
        asm.store(Size::Word, STACK, tag + 4 * index, R1);
    }
}

fn quarter_round(asm: &mut Assembler, words: [i16; 4]) {
    let [a, b, c, d] = [R1, R2, R3, R4];
    for (register, word) in [a, b, c, d].into_iter().zip(words) {
        asm.load(Size::Word, register, STACK, STATE + 4 * word);
    }
    for (sum, with, rotated, bits) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
        asm.op32(Operation::Add, sum, with);
        asm.op32(Operation::Xor, rotated, sum);
        asm.rotate_left(rotated, bits);
    }
    for (register, word) in [a, b, c, d].into_iter().zip(words) {
        asm.store(Size::Word, STACK, STATE + 4 * word, register);
    }
}
