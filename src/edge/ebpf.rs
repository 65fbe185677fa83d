//! The eBPF program for the capture sockets: the classic filter, and behind it the tags. A datagram
//! whose tag no client has ends in the kernel and wakes nobody. See `bpf` for the classic filter,
//! which does without tags, and `core::keyring::shared_tags` for the memory that holds them.
//!
//! The program may only drop what the engine would reject. It repeats of the engine's checks what
//! decides which bytes are the tags, unmasks them, and looks them up; all else is left to the engine.

use zeroize::Zeroizing;

use super::bpf::{self, FilterSpec};
use crate::core::bytes::saturated_u32;
use crate::core::door::Step;
use crate::core::keyring::{COUNTING, LENGTH, PLACES, SharedTags, UNKNOWN_TAG};
use crate::core::wire::{DATAGRAM, MASKED_TAG};
use assembler::*;
use translation::{CONTEXT, X, context, translate};
use unmask::unmask;

mod assembler;
mod loaded;
#[cfg(any(test, fuzzing))]
pub mod machine;
#[cfg(any(test, fuzzing))]
pub mod oracle;
mod own_addresses;
#[cfg(test)]
mod tests;
mod translation;
mod unmask;
mod xdp;

pub use assembler::Instruction;
pub use loaded::{NotLoaded, TagMap};
pub use own_addresses::OwnAddresses;
pub use xdp::XdpMap;

/// What the program needs beside the classic filter's parameters.
pub struct TagFilter<'a> {
    /// The key of the mask of knocks.
    pub mask: &'a [u8; 32],
    pub tags: &'a SharedTags,
    /// The descriptor of the map that is the memory of `tags`.
    pub map: i32,
}

// On the stack. `unmask` has the bytes above -64.
const MASKED: i16 = -96;
/// Bytes of a masked tag and of the sample behind it.
const LOADED: i32 = 32;
/// The number of a line, for a call.
const LINE: i16 = -100;
/// Bytes of the UDP packet.
const UDP_LENGTH: i16 = -104;

// Registers that keep their values over calls, behind the classic part.
/// The first byte of the current datagram.
const AT: Register = X;
/// The end of the packet.
const END: Register = R8;
const FOLD: Register = R9;

/// The program for `spec`. `None` if eBPF cannot express it: if packets count that this machine
/// sends.
pub fn program(spec: &FilterSpec, filter: &TagFilter<'_>) -> Option<Zeroizing<Vec<Instruction>>> {
    let classic = bpf::program(spec);
    let mut asm = Assembler::default();
    let [knock, next, pass, odd] = asm.labels();
    translate(&mut asm, &classic, knock)?;
    asm.place(knock);
    find_datagrams(&mut asm, odd);
    asm.place(next);
    load_tag(&mut asm, Helper::LoadBytes, odd);
    unmask(&mut asm, filter.mask, MASKED, R9);
    fold(&mut asm);
    for half in [Half::Lower, Half::Upper] {
        look_up(&mut asm, filter, half, pass);
    }
    asm.op64_with(Operation::Add, AT, DATAGRAM as i32);
    asm.jump_if_both(AT, Condition::Less, END, next);
    count(&mut asm, filter, UNKNOWN_TAG);
    asm.end_with(0);
    asm.place(odd);
    // The engine gives such a packet to the doors.
    let has_door = spec
        .knock_port
        .is_some_and(|port| spec.steps.iter().any(|(step, _)| *step == Step::udp(port)));
    if !has_door {
        count(&mut asm, filter, LENGTH);
        asm.end_with(0);
    }
    asm.place(pass);
    asm.end_with(bpf::WHOLE as i32);
    asm.finish().map(Zeroizing::new)
}

/// Goes to `odd` unless the packet is complete and its two headers agree on its length, which the
/// classic part found to be that of one datagram or of several.
fn find_datagrams(asm: &mut Assembler, odd: Label) {
    let [v6, compare] = asm.labels();
    asm.load_packet_at(Size::Half, X, 4);
    asm.store(Size::Word, STACK, UDP_LENGTH, R0);
    asm.op32(Operation::Set, END, R0);
    // It has been compared before, but the verifier forgets that.
    asm.jump_if(END, Condition::Greater, bpf::LONGEST_UDP, odd);
    asm.load(Size::Word, R1, CONTEXT, context::PROTOCOL);
    asm.big_endian(R1, 16);
    asm.jump_if(R1, Condition::NotEqual, 0x0800, v6);
    asm.load_packet(Size::Half, 2);
    asm.op32(Operation::Subtract, R0, X);
    asm.jump(compare);
    asm.place(v6);
    asm.load_packet(Size::Half, 4);
    asm.place(compare);
    asm.op32(Operation::Xor, R0, END);
    asm.jump_if(R0, Condition::NotEqual, 0, odd);
    asm.op64(Operation::Add, END, X);
    asm.load(Size::Word, R1, CONTEXT, context::LENGTH);
    asm.jump_if_both(R1, Condition::Less, END, odd);
    asm.op64_with(Operation::Add, AT, bpf::UDP_HEADER as i32);
}

/// Copies masked tag and sample of the current datagram to the stack.
fn load_tag(asm: &mut Assembler, helper: Helper, odd: Label) {
    asm.copy(R1, CONTEXT);
    asm.copy(R2, AT);
    asm.op64_with(Operation::Add, R2, MASKED_TAG as i32);
    asm.copy(R3, STACK);
    asm.op64_with(Operation::Add, R3, MASKED.into());
    asm.set(R4, LOADED);
    asm.call(helper);
    asm.jump_if(R0, Condition::NotEqual, 0, odd);
}

/// [`FOLD`] = both halves of the tag as big-endian numbers, one XORed to the other.
fn fold(asm: &mut Assembler) {
    asm.load(Size::Double, FOLD, STACK, MASKED);
    asm.load(Size::Double, R1, STACK, MASKED + 8);
    asm.op64(Operation::Xor, FOLD, R1);
    asm.big_endian(FOLD, 64);
}

/// One half of the fold gives the number of one line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Lower,
    Upper,
}

/// Goes to `pass` if the line of this half has the tag, or tags that found no room.
fn look_up(asm: &mut Assembler, filter: &TagFilter<'_>, half: Half, pass: Label) {
    asm.copy(R1, FOLD);
    if half == Half::Upper {
        asm.op64_with(Operation::ShiftRight, R1, 32);
    }
    asm.op32_with(Operation::And, R1, saturated_u32(filter.tags.len() - 1));
    find_line(asm, filter.map, pass);
    for place in 0..PLACES as i16 {
        asm.load(Size::Double, R1, R0, 8 * place);
        asm.jump_if_both(R1, Condition::Equal, FOLD, pass);
    }
    asm.load(Size::Double, R1, R0, 8 * PLACES as i16);
    asm.set(R2, 0);
    asm.jump_if_both(R1, Condition::NotEqual, R2, pass);
}

/// Adds the packet's datagrams to a counter of this processor.
fn count(asm: &mut Assembler, filter: &TagFilter<'_>, word: usize) {
    let none = asm.label();
    asm.call(Helper::ProcessorNumber);
    asm.copy(R1, R0);
    asm.op32_with(Operation::And, R1, COUNTING as u32 - 1);
    asm.op32_with(Operation::Add, R1, saturated_u32(filter.tags.len()));
    find_line(asm, filter.map, none);
    asm.load(Size::Word, R1, STACK, UDP_LENGTH);
    asm.op32_with(Operation::Divide, R1, DATAGRAM as u32);
    asm.atomic_add(R0, 8 * word as i16, R1);
    asm.place(none);
}

/// `R0` = the line of `map` whose number is in `R1`. Goes to `none` if there is none, which cannot
/// be.
fn find_line(asm: &mut Assembler, map: i32, none: Label) {
    asm.store(Size::Word, STACK, LINE, R1);
    asm.load_map(R1, map);
    asm.copy(R2, STACK);
    asm.op64_with(Operation::Add, R2, LINE.into());
    asm.call(Helper::FindInMap);
    asm.jump_if_zero(R0, none);
}
