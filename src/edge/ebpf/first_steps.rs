//! First steps in eBPF: while a flood of them lasts, they end in the kernel, and only their times
//! stay. See `core::sequence::first_steps` for the memory, and its reader.
//!
//! The program may only hold what the engine would take for a first step of a door and nothing
//! else, or ignore. It repeats the engine's reading of the headers; where they disagree in
//! anything, the packet passes. Whether the destination is ours is left to the reader: it is a part
//! of the hash.
//!
//! A first step that some door has later too passes from a source that made the step before it. The
//! program keeps the last such step of each source, and its time: see [`expect`].

use super::assembler::*;
use super::translation::{CONTEXT, X, context};
use super::{bpf, find_counters, find_line};
use crate::core::door::TcpFlags;
use crate::core::keyring::WORDS;
use crate::core::sequence::first_steps::{
    BUCKETS, CONTROL, FirstSteps, HELD_PACKETS, MULTIPLIER, NUMBER, code,
};

/// What the program needs to hold first steps.
pub struct FirstStepFilter<'a> {
    pub first_steps: &'a FirstSteps,
    /// The descriptor of the map that is the memory of `first_steps`.
    pub map: i32,
    /// False if the listener has to see all packets over IPv6.
    pub ipv6: bool,
}

/// Source and destination on the stack,
const ADDRESSES: i16 = -96;
/// the code of the step,
const CODE: i16 = -104;
/// what the program returns,
const RESULT: i16 = -108;
/// and the bits of the steps before a first step, or the number of such a step.
const AFTER: i16 = -120;
/// Where the addresses are in the IP header, and their bytes.
const V4: [i32; 2] = [12, 8];
const V6: [i32; 2] = [8, 32];
/// Bytes of a TCP header with its flags, of ports, and of the header of an echo request.
const TCP_FLAGS: u32 = 14;
const PORTS: u32 = 4;
const ECHO_HEADER: u32 = 8;

// Registers that keep their values over calls. [`X`] is the length of the IP header.
/// The bytes behind the IP header, then a hash.
const VALUE: Register = R8;
/// The number of a bucket, or its address.
const BUCKET: Register = R9;

/// Ends the program for packets of doors. Goes to `pass` for what it does not know.
pub(super) fn hold(asm: &mut Assembler, filter: &FirstStepFilter<'_>, pass: Label) {
    let steps = filter.first_steps.steps();
    let [found, passed] = asm.labels();
    asm.store_word(STACK, RESULT, bpf::HEADERS);
    read_headers(asm, filter.ipv6, pass);
    asm.store(Size::Word, STACK, CODE, R0);
    for first in &steps.first {
        let other = asm.label();
        asm.jump_if(R0, Condition::NotEqual, code(first.step), other);
        if first.step.is_tcp() && first.flags != TcpFlags::default() {
            check_flags(asm, first.flags, passed);
        }
        if !steps.before.is_empty() {
            asm.load_number(R1, first.after);
            asm.store(Size::Double, STACK, AFTER, R1);
        }
        asm.jump(found);
        asm.place(other);
    }
    asm.jump(passed);
    asm.place(found);
    asm.set(R1, CONTROL as i32);
    find_line(asm, filter.map, pass);
    asm.load(Size::Double, R1, R0, 0);
    asm.jump_if_zero(R1, passed);
    hash_addresses(asm, filter.first_steps.seed(), pass);
    if !steps.before.is_empty() {
        pass_expected(asm, filter, passed, pass);
    }
    keep_time(asm, filter.map, pass);
    asm.store_word(STACK, RESULT, 0);
    asm.place(passed);
    if !steps.before.is_empty() {
        expect(asm, filter, pass);
    }
    asm.load(Size::Word, R0, STACK, RESULT);
    asm.exit();
}

/// `R0` = the step's code, [`VALUE`] = the bytes behind the IP header.
fn read_headers(asm: &mut Assembler, ipv6: bool, pass: Label) {
    let [v6, transport, udp, echo, end] = asm.labels();
    is_v4(asm, v6);
    version(asm, 4, pass);
    asm.jump_if(X, Condition::Less, 20, pass);
    asm.load_packet(Size::Half, 2);
    asm.jump_if_both(R0, Condition::Less, X, pass);
    asm.copy(VALUE, R0);
    asm.op32(Operation::Subtract, VALUE, X);
    asm.load_packet(Size::Byte, 9);
    asm.jump(transport);
    asm.place(v6);
    if ipv6 {
        version(asm, 6, pass);
        asm.load_packet(Size::Half, 4);
        asm.copy(VALUE, R0);
        asm.load_packet(Size::Byte, 6);
    } else {
        asm.jump(pass);
    }
    asm.place(transport);
    asm.jump_if(R0, Condition::Equal, 17, udp);
    asm.jump_if(R0, Condition::NotEqual, 6, echo);
    asm.jump_if(VALUE, Condition::Less, PORTS, pass);
    asm.load_packet_at(Size::Half, X, 2);
    asm.op32_with(Operation::Or, R0, 6 << 16);
    asm.jump(end);
    asm.place(udp);
    asm.jump_if(VALUE, Condition::Less, PORTS, pass);
    asm.load_packet_at(Size::Half, X, 2);
    asm.op32_with(Operation::Or, R0, 17 << 16);
    asm.jump(end);
    asm.place(echo);
    // The classic part has found an echo request. Its size is all behind its header.
    asm.copy(R0, VALUE);
    asm.op32_with(Operation::Subtract, R0, ECHO_HEADER);
    asm.jump_if(R0, Condition::Greater, 0xffff, pass);
    asm.op32_with(Operation::Or, R0, 1 << 16);
    asm.place(end);
}

/// Goes to `pass` unless a packet has these TCP flags.
fn check_flags(asm: &mut Assembler, flags: TcpFlags, pass: Label) {
    asm.jump_if(VALUE, Condition::Less, TCP_FLAGS, pass);
    // The program would end where a packet was cut off.
    asm.load(Size::Word, R1, CONTEXT, context::LENGTH);
    asm.copy(R2, X);
    asm.op64_with(Operation::Add, R2, TCP_FLAGS as i32);
    asm.jump_if_both(R1, Condition::Less, R2, pass);
    asm.load_packet_at(Size::Byte, X, 13);
    asm.op32_with(Operation::And, R0, (flags.set | flags.unset).into());
    asm.jump_if(R0, Condition::NotEqual, flags.set.into(), pass);
}

/// Goes to `v6` unless the frame says IPv4.
fn is_v4(asm: &mut Assembler, v6: Label) {
    asm.load(Size::Word, R1, CONTEXT, context::PROTOCOL);
    asm.big_endian(R1, 16);
    asm.jump_if(R1, Condition::NotEqual, 0x0800, v6);
}

/// The engine goes by the version, the classic part by the frame.
fn version(asm: &mut Assembler, version: u32, pass: Label) {
    asm.load_packet(Size::Byte, 0);
    asm.op32_with(Operation::ShiftRight, R0, 4);
    asm.jump_if(R0, Condition::NotEqual, version, pass);
}

/// [`VALUE`] = the hash of the addresses.
fn hash_addresses(asm: &mut Assembler, seed: u64, pass: Label) {
    let [v6, end] = asm.labels();
    asm.load_number(VALUE, seed);
    is_v4(asm, v6);
    mix_addresses(asm, V4, pass);
    asm.jump(end);
    asm.place(v6);
    mix_addresses(asm, V6, pass);
    asm.place(end);
}

fn mix_addresses(asm: &mut Assembler, [at, length]: [i32; 2], pass: Label) {
    asm.copy(R1, CONTEXT);
    asm.set(R2, at);
    asm.copy(R3, STACK);
    asm.op64_with(Operation::Add, R3, ADDRESSES.into());
    asm.set(R4, length);
    asm.call(Helper::LoadBytes);
    asm.jump_if(R0, Condition::NotEqual, 0, pass);
    for word in 0..length as i16 / 8 {
        asm.load(Size::Double, R1, STACK, ADDRESSES + 8 * word);
        mix(asm);
    }
}

/// Mixes `R1` into the hash.
fn mix(asm: &mut Assembler) {
    asm.op64(Operation::Xor, VALUE, R1);
    asm.load_number(R1, MULTIPLIER);
    asm.op64(Operation::Multiply, VALUE, R1);
    asm.copy(R1, VALUE);
    asm.op64_with(Operation::ShiftRight, R1, 32);
    asm.op64(Operation::Xor, VALUE, R1);
}

/// `R0` = the address of the bucket of the hash, of those from line `first` on.
fn find_bucket(asm: &mut Assembler, map: i32, first: usize, pass: Label) {
    asm.load_number(BUCKET, MULTIPLIER);
    asm.op64(Operation::Multiply, BUCKET, VALUE);
    asm.op64_with(Operation::ShiftRight, BUCKET, (u64::BITS - BUCKETS.trailing_zeros()) as i32);
    asm.copy(R1, BUCKET);
    asm.op64_with(Operation::ShiftRight, R1, WORDS.trailing_zeros() as i32);
    asm.op64_with(Operation::Add, R1, first as i32);
    find_line(asm, map, pass);
    asm.op64_with(Operation::And, BUCKET, WORDS as i32 - 1);
    asm.op64_with(Operation::ShiftLeft, BUCKET, 3);
    asm.op64(Operation::Add, R0, BUCKET);
}

/// `R0` = the address of the last step of this source after which first steps are expected.
fn find_expected(asm: &mut Assembler, map: i32, pass: Label) {
    find_bucket(asm, map, BUCKETS / WORDS, pass);
}

/// Goes to `passed` if this first step is expected from its source.
fn pass_expected(asm: &mut Assembler, filter: &FirstStepFilter<'_>, passed: Label, pass: Label) {
    let (last, unexpected) = (BUCKET, asm.label());
    find_expected(asm, filter.map, pass);
    asm.load(Size::Double, last, R0, 0);
    asm.jump_if_zero(last, unexpected);
    asm.copy(R1, last);
    asm.op64_with(Operation::And, R1, NUMBER as i32);
    asm.load(Size::Double, R2, STACK, AFTER);
    asm.op64(Operation::ShiftRight, R2, R1);
    asm.op64_with(Operation::And, R2, 1);
    asm.jump_if_zero(R2, unexpected);
    asm.call(Helper::Clock);
    asm.op64_with(Operation::Or, R0, NUMBER as i32);
    asm.op64(Operation::Subtract, R0, last);
    asm.load_number(R1, filter.first_steps.expected_for());
    asm.jump_if_both(R0, Condition::Less, R1, passed);
    asm.place(unexpected);
}

/// Writes the filter's time into the bucket of source, destination and step, and counts the packet.
fn keep_time(asm: &mut Assembler, map: i32, pass: Label) {
    let none = asm.label();
    asm.load(Size::Word, R1, STACK, CODE);
    mix(asm);
    find_bucket(asm, map, 0, pass);
    asm.copy(BUCKET, R0);
    asm.set(R1, CONTROL as i32);
    find_line(asm, map, pass);
    asm.load(Size::Double, R1, R0, 0);
    asm.store(Size::Double, BUCKET, 0, R1);
    find_counters(asm, map, CONTROL + 1, none);
    asm.set(R1, 1);
    asm.atomic_add(R0, 8 * HELD_PACKETS as i16, R1);
    asm.place(none);
}

/// After a step that stands before a first step in some sequence: keeps it, and its time, for its
/// source.
fn expect(asm: &mut Assembler, filter: &FirstStepFilter<'_>, pass: Label) {
    let [found, done] = asm.labels();
    asm.load(Size::Word, R0, STACK, CODE);
    for (number, step) in (0..).zip(&filter.first_steps.steps().before) {
        asm.set(R1, number);
        asm.jump_if(R0, Condition::Equal, code(*step), found);
    }
    asm.jump(done);
    asm.place(found);
    asm.store(Size::Double, STACK, AFTER, R1);
    hash_addresses(asm, filter.first_steps.seed(), pass);
    find_expected(asm, filter.map, pass);
    asm.copy(BUCKET, R0);
    asm.call(Helper::Clock);
    asm.op64_with(Operation::And, R0, !(NUMBER as i32));
    asm.load(Size::Double, R1, STACK, AFTER);
    asm.op64(Operation::Or, R0, R1);
    asm.store(Size::Double, BUCKET, 0, R0);
    asm.place(done);
}
