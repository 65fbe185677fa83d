//! The eBPF program for the capture sockets: the classic filter, and behind it tag, client MAC,
//! copies and rate. A datagram that no client has made ends in the kernel and wakes nobody. See
//! `bpf` for the classic filter, which does without these, `core::keyring::shared_tags` for the
//! memory that the program reads, and `first_steps` for doors.
//!
//! The program may only drop what the engine would reject. It repeats of the engine's checks what
//! decides which bytes are the tags, unmasks them, and looks them up.
//!
//! A tag's datagram goes on to the client MAC only if it is alone in its packet. Merged ones pass:
//! they come from programs on the same machine and from no network, and the verifier would have to
//! look at the MAC's code for each of 64.

use zeroize::Zeroizing;

use super::bpf::{self, FilterSpec};
use crate::core::bytes::saturated_u32;
use crate::core::door::Step;
use crate::core::keyring::{
    CLIENT_MAC, COPIES, COUNTING, LENGTH, PLACES, QUOTA, SharedTags, UNKNOWN_TAG,
};
use crate::core::quota::Rate;
use crate::core::wire::{DATAGRAM, MASKED_TAG};
use assembler::*;
use first_steps::hold;
use mac::{Functions, check_mac};
use translation::{Accepted, CONTEXT, X, context, translate};
use unmask::unmask;
use valid::{drop_copies, limit_rate};

mod assembler;
mod first_steps;
mod loaded;
mod mac;
#[cfg(any(test, fuzzing))]
pub mod machine;
#[cfg(any(test, fuzzing))]
pub mod oracle;
mod own_addresses;
#[cfg(test)]
mod tests;
mod translation;
mod unmask;
mod valid;
mod xdp;

pub use assembler::Instruction;
pub use first_steps::FirstStepFilter;
pub use loaded::{FirstStepMap, NotLoaded, TagMap, load_filter};
pub use own_addresses::OwnAddresses;
pub use xdp::XdpMap;

/// What the program needs to know tags.
pub struct TagFilter<'a> {
    /// The key of the mask of knocks.
    pub mask: &'a [u8; 32],
    pub tags: &'a SharedTags,
    /// The descriptor of the map that is the memory of `tags`.
    pub map: i32,
    /// How fast the engine lets one client knock.
    pub rate: Rate,
}

// On the stack. `unmask` has the bytes above -64, `mac` and `valid` those
// below -128.
const MASKED: i16 = -96;
/// Bytes of a masked tag and of the sample behind it.
const LOADED: i32 = 32;
/// The number of a line, for a call.
const LINE: i16 = -100;
/// Bytes of the UDP packet.
const UDP_LENGTH: i16 = -104;
/// The number of the key that belongs to the current datagram's tag, from 1 on.
const FOUND: i16 = -112;
/// The places that have its tag, and what the lines count that found no room.
const PLACES_FOUND: i16 = -120;
const WITHOUT_ROOM: i16 = -128;

/// The most datagrams of one packet that the program looks at. Only programs on this machine send
/// several as one packet, and the verifier follows each: with 64 it gives up, without CAP_PERFMON,
/// on a program that holds first steps too.
pub(super) const LOOKED_AT: u32 = 8;

// Registers that keep their values over calls, behind the classic part.
/// The first byte of the current datagram.
const AT: Register = X;
/// Datagrams from the current one on.
const LEFT: Register = R8;
const FOLD: Register = R9;
/// The same register, once the tag was looked up.
const KEPT: Register = R9;
/// Where the IP header is.
const IP: i32 = 0;

/// The program for `spec`, with what it knows beside the classic filter. `None` if eBPF cannot
/// express it: if packets count that this machine sends.
pub fn program(
    spec: &FilterSpec, tags: Option<&TagFilter<'_>>, first_steps: Option<&FirstStepFilter<'_>>,
) -> Option<Zeroizing<Vec<Instruction>>> {
    let classic = bpf::program(spec);
    let mut asm = Assembler::default();
    let [knock, door, pass] = asm.labels();
    let accepted = Accepted { knock, door };
    translate(&mut asm, &classic, &accepted)?;
    let mut functions = None;
    // The kernel refuses instructions that nothing leads to.
    if spec.knock_port.is_some() {
        asm.place(knock);
        if let Some(filter) = tags {
            functions = Some(look_for_tags(&mut asm, spec, filter));
        }
        asm.end_with(bpf::WHOLE as i32);
    }
    if !spec.steps.is_empty() {
        asm.place(door);
        if let Some(filter) = first_steps
            && !filter.first_steps.steps().first.is_empty()
        {
            hold(&mut asm, filter, pass);
        }
        asm.place(pass);
        asm.end_with(bpf::HEADERS as i32);
    }
    if let Some(functions) = functions {
        functions.place(&mut asm);
    }
    asm.finish().map(Zeroizing::new)
}

/// Ends the program for datagrams that no client has made, for useless copies, and for what a
/// client sends too fast; falls through for others. Returns the functions that this calls.
fn look_for_tags(asm: &mut Assembler, spec: &FilterSpec, filter: &TagFilter<'_>) -> Functions {
    let [next, unknown, last, pass, odd] = asm.labels();
    find_datagrams(asm, odd, pass);
    asm.place(next);
    load_bytes(asm, Helper::LoadBytes, MASKED_TAG as i32, MASKED, LOADED, odd);
    unmask(asm, filter.mask, MASKED, R9);
    look_up(asm, filter, unknown, pass);
    asm.load(Size::Word, R1, STACK, UDP_LENGTH);
    asm.jump_if(R1, Condition::NotEqual, bpf::UDP_HEADER + DATAGRAM as u32, pass);
    let functions = Functions::new(asm);
    judge(asm, filter, Helper::LoadBytes, IP, functions, pass);
    asm.place(unknown);
    // So the verifier sees that this ends, of any version: `LEFT` was at most `LOOKED_AT`.
    asm.jump_if(LEFT, Condition::Less, 2, last);
    asm.op32_with(Operation::Subtract, LEFT, 1);
    asm.op64_with(Operation::Add, AT, DATAGRAM as i32);
    asm.jump(next);
    asm.place(last);
    drop_as(asm, filter, UNKNOWN_TAG);
    asm.place(odd);
    // The engine gives such a packet to the doors.
    let has_door = spec
        .knock_port
        .is_some_and(|port| spec.steps.iter().any(|(step, _)| *step == Step::udp(port)));
    if !has_door {
        drop_as(asm, filter, LENGTH);
    }
    asm.place(pass);
    functions
}

/// Ends with the fate of a datagram that has a known tag and is alone in its packet.
fn judge(
    asm: &mut Assembler, filter: &TagFilter<'_>, helper: Helper, ip: i32, functions: Functions,
    pass: Label,
) {
    let [wrong, useless, too_fast] = asm.labels();
    check_mac(asm, filter, helper, functions, wrong, pass);
    drop_copies(asm, filter, helper, ip, useless, pass);
    limit_rate(asm, filter, too_fast, pass);
    asm.jump(pass);
    for (label, word) in [(wrong, CLIENT_MAC), (useless, COPIES), (too_fast, QUOTA)] {
        asm.place(label);
        drop_as(asm, filter, word);
    }
}

/// Goes to `odd` unless the packet is complete and its two headers agree on its length, which the
/// classic part found to be that of one datagram or of several; to `pass` if these are too many.
fn find_datagrams(asm: &mut Assembler, odd: Label, pass: Label) {
    let [v6, compare] = asm.labels();
    /// The end of the packet.
    const END: Register = LEFT;
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
    asm.load(Size::Word, LEFT, STACK, UDP_LENGTH);
    asm.op32_with(Operation::Divide, LEFT, DATAGRAM as u32);
    asm.jump_if(LEFT, Condition::Greater, LOOKED_AT, pass);
}

/// Copies bytes of the current datagram to the stack. Goes to `none` if there are none.
fn load_bytes(asm: &mut Assembler, helper: Helper, from: i32, to: i16, count: i32, none: Label) {
    asm.copy(R1, CONTEXT);
    asm.copy(R2, AT);
    asm.op64_with(Operation::Add, R2, from);
    asm.copy(R3, STACK);
    asm.op64_with(Operation::Add, R3, to.into());
    asm.set(R4, count);
    asm.call(helper);
    asm.jump_if(R0, Condition::NotEqual, 0, none);
}

/// Leaves at [`FOUND`] the number of the key that belongs to the unmasked tag. Goes to `unknown` if
/// no place has the tag, and to `pass` if several have, or if a tag without room may be known.
///
/// Nothing branches but at the end: the verifier would follow each branch through all datagrams.
fn look_up(asm: &mut Assembler, filter: &TagFilter<'_>, unknown: Label, pass: Label) {
    // Both halves of the tag as big-endian numbers, one XORed to the other.
    asm.load(Size::Double, FOLD, STACK, MASKED);
    asm.load(Size::Double, R1, STACK, MASKED + 8);
    asm.op64(Operation::Xor, FOLD, R1);
    asm.big_endian(FOLD, 64);
    asm.set(R1, 0);
    for sum in [FOUND, PLACES_FOUND, WITHOUT_ROOM] {
        asm.store(Size::Double, STACK, sum, R1);
    }
    for half in [Half::Lower, Half::Upper] {
        look_up_in(asm, filter, half, pass);
    }
    let room = asm.label();
    asm.load(Size::Double, R1, STACK, WITHOUT_ROOM);
    asm.jump_if_zero(R1, room);
    asm.jump(pass);
    asm.place(room);
    asm.load(Size::Double, R1, STACK, PLACES_FOUND);
    asm.jump_if_zero(R1, unknown);
    asm.jump_if(R1, Condition::NotEqual, 1, pass);
}

/// One half of the fold gives the number of one line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Lower,
    Upper,
}

fn look_up_in(asm: &mut Assembler, filter: &TagFilter<'_>, half: Half, pass: Label) {
    let [by, bits, fits, places, number] = [R1, R2, R3, R4, R5];
    asm.copy(by, FOLD);
    if half == Half::Upper {
        asm.op64_with(Operation::ShiftRight, by, 32);
    }
    asm.op32_with(Operation::Modulo, by, saturated_u32(filter.tags.len()));
    find_line(asm, filter.map, pass);
    asm.copy(bits, FOLD);
    asm.op64_with(Operation::ShiftRight, bits, 32);
    asm.op32(Operation::Xor, bits, FOLD);
    if half == Half::Upper {
        asm.op32_with(Operation::Xor, bits, u32::MAX);
    }
    asm.load(Size::Double, places, STACK, PLACES_FOUND);
    asm.load(Size::Double, number, STACK, FOUND);
    for place in 0..PLACES as i16 {
        asm.load(Size::Double, R1, R0, 8 * place);
        asm.copy(fits, R1);
        asm.op64_with(Operation::ShiftRight, fits, 32);
        asm.op64(Operation::Xor, fits, bits);
        // 32 ones if they are equal, else nothing.
        asm.op64_with(Operation::Subtract, fits, 1);
        asm.op64_with(Operation::ShiftRight, fits, 32);
        asm.op64(Operation::And, R1, fits);
        asm.op64(Operation::Add, number, R1);
        asm.op64_with(Operation::And, fits, 1);
        asm.op64(Operation::Add, places, fits);
    }
    asm.store(Size::Double, STACK, PLACES_FOUND, places);
    asm.store(Size::Double, STACK, FOUND, number);
    asm.load(Size::Double, R1, R0, 8 * PLACES as i16);
    asm.load(Size::Double, R2, STACK, WITHOUT_ROOM);
    asm.op64(Operation::Or, R1, R2);
    asm.store(Size::Double, STACK, WITHOUT_ROOM, R1);
}

/// `to` = the number of the key that was [`FOUND`], from 0 on: an empty place has none.
fn number_of_key(asm: &mut Assembler, to: Register) {
    asm.load(Size::Double, to, STACK, FOUND);
    asm.op32_with(Operation::Subtract, to, 1);
}

/// Does something at the place of `number` in its line. A line has `places`, a power of two.
/// An addition to the line's address would be shorter, but without CAP_PERFMON the verifier would
/// then look at all that follows once for each datagram.
fn at_place(
    asm: &mut Assembler, number: Register, places: usize, mut act: impl FnMut(&mut Assembler, i16),
) {
    let done = asm.label();
    asm.copy(R3, number);
    asm.op32_with(Operation::And, R3, saturated_u32(places - 1));
    for place in 0..places as i16 {
        let other = asm.label();
        if place < places as i16 - 1 {
            asm.jump_if(R3, Condition::NotEqual, place.unsigned_abs().into(), other);
        }
        act(asm, place);
        asm.jump(done);
        asm.place(other);
    }
    asm.place(done);
}

/// Counts the packet's datagrams for this reason, and drops it.
fn drop_as(asm: &mut Assembler, filter: &TagFilter<'_>, word: usize) {
    count(asm, filter, word);
    asm.end_with(0);
}

/// Adds the packet's datagrams to a counter of this processor.
fn count(asm: &mut Assembler, filter: &TagFilter<'_>, word: usize) {
    let none = asm.label();
    find_counters(asm, filter.map, filter.tags.len(), none);
    asm.load(Size::Word, R1, STACK, UDP_LENGTH);
    asm.op32_with(Operation::Divide, R1, DATAGRAM as u32);
    asm.atomic_add(R0, 8 * word as i16, R1);
    asm.place(none);
}

/// `R0` = the line of counters of this processor, of those from line `first` on.
fn find_counters(asm: &mut Assembler, map: i32, first: usize, none: Label) {
    asm.call(Helper::ProcessorNumber);
    asm.copy(R1, R0);
    asm.op32_with(Operation::And, R1, COUNTING as u32 - 1);
    asm.op32_with(Operation::Add, R1, saturated_u32(first));
    find_line(asm, map, none);
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
