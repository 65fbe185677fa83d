//! What becomes of a datagram whose client MAC is right: copies that can only be rejected end here,
//! and so does what comes much faster than its client may send.

use super::assembler::*;
use super::mac::SENT;
use super::translation::CONTEXT;
use super::{KEPT, TagFilter, at_place, find_line, number_of_key};
use crate::core::bytes::saturated_u32;
use crate::core::keyring::{COPY_LINES, WORDS};
use crate::core::quota::Rate;

/// The start of the IP header on the stack: its address, of either version, is in it.
const HEADER: i16 = -328;
const HEADER_LENGTH: i32 = 24;

/// The part of the MAC that identifies a packet in its line.
const ID: Register = R8;

/// Goes to `useless` for a copy that `core::keyring` says the engine would reject. `ip`: where the
/// IP header is, for `helper`.
pub(super) fn drop_copies(
    asm: &mut Assembler, filter: &TagFilter<'_>, helper: Helper, ip: i32, useless: Label,
    pass: Label,
) {
    let [known, fresh] = asm.labels();
    asm.load(Size::Word, ID, STACK, SENT);
    // What an empty place holds.
    asm.jump_if(ID, Condition::Equal, 0, fresh);
    asm.load(Size::Word, R1, STACK, SENT + 4);
    asm.op32_with(Operation::And, R1, saturated_u32(COPY_LINES - 1));
    asm.op32_with(Operation::Add, R1, saturated_u32(filter.tags.copies_at()));
    find_line(asm, filter.map, pass);
    for place in 0..WORDS as i16 {
        asm.load(Size::Double, R1, R0, 8 * place);
        asm.copy(R2, R1);
        asm.op64_with(Operation::ShiftRight, R2, 32);
        asm.jump_if_both(R2, Condition::Equal, ID, known);
    }
    asm.jump(fresh);
    asm.place(known);
    asm.op32(Operation::Set, KEPT, R1);
    asm.jump_if(KEPT, Condition::Equal, 0, useless);
    source(asm, helper, ip, pass);
    asm.op32(Operation::Xor, R1, KEPT);
    asm.jump_if(R1, Condition::NotEqual, 0, useless);
    asm.place(fresh);
}

/// `R1` = the address that the packet comes from, folded to 32 bits if it is one of IPv6.
fn source(asm: &mut Assembler, helper: Helper, ip: i32, pass: Label) {
    let [v6, folded] = asm.labels();
    asm.copy(R1, CONTEXT);
    asm.set(R2, ip);
    asm.copy(R3, STACK);
    asm.op64_with(Operation::Add, R3, HEADER.into());
    asm.set(R4, HEADER_LENGTH);
    asm.call(helper);
    asm.jump_if(R0, Condition::NotEqual, 0, pass);
    asm.load(Size::Byte, R2, STACK, HEADER);
    asm.op32_with(Operation::ShiftRight, R2, 4);
    asm.jump_if(R2, Condition::Equal, 6, v6);
    asm.load(Size::Word, R1, STACK, HEADER + 12);
    asm.jump(folded);
    asm.place(v6);
    asm.set(R1, 0);
    for word in 0..4 {
        asm.load(Size::Word, R2, STACK, HEADER + 8 + 4 * word);
        asm.op32(Operation::Xor, R1, R2);
    }
    asm.place(folded);
}

/// The fewest packets of one tag that pass in a second, and at once.
const FEWEST: u32 = 1024;
/// How often the filter lets pass what the engine would admit: copies that the engine rejects cost
/// the filter's tokens too.
const SPARE: u32 = 4;
/// Nanoseconds of one unit of time, as bits to shift.
const UNIT: u32 = 10;

/// Goes to `too_fast` if this tag's packets come much faster than the engine would admit them. Else
/// notes that one passed: a token bucket, as in `core::quota`. Two processors at once may let one
/// more pass.
pub(super) fn limit_rate(
    asm: &mut Assembler, filter: &TagFilter<'_>, too_fast: Label, pass: Label,
) {
    let Rate { burst, per_second } = filter.rate;
    let each = (1_000_000_000 >> UNIT) / per_second.saturating_mul(SPARE).max(FEWEST);
    let burst = burst.saturating_mul(SPARE).max(FEWEST);
    let [now, full] = [ID, R1];
    let later = asm.label();
    asm.call(Helper::Clock);
    asm.op64_with(Operation::ShiftRight, R0, UNIT as i32);
    asm.copy(now, R0);
    number_of_key(asm, KEPT);
    asm.copy(R1, KEPT);
    asm.op32_with(Operation::ShiftRight, R1, WORDS.ilog2());
    asm.op32_with(Operation::Add, R1, saturated_u32(filter.tags.rates_at()));
    find_line(asm, filter.map, pass);
    at_place(asm, KEPT, WORDS, |asm, word| asm.load(Size::Double, full, R0, 8 * word));
    asm.jump_if_both(full, Condition::Greater, now, later);
    asm.copy(full, now);
    asm.place(later);
    asm.op64_with(Operation::Add, full, each.cast_signed());
    asm.copy(R2, full);
    asm.op64(Operation::Subtract, R2, now);
    asm.set(R3, each.saturating_mul(burst).cast_signed());
    asm.jump_if_both(R2, Condition::Greater, R3, too_fast);
    at_place(asm, KEPT, WORDS, |asm, word| asm.store(Size::Double, R0, 8 * word, full));
}
