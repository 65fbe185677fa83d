//! First steps in eBPF: while a flood of them lasts, they end in the kernel, and only their times
//! stay. See `core::sequence::first_steps` for the memory, and its reader.
//!
//! The program may only hold what the engine would take for a first step of a door and nothing
//! else, or ignore. It repeats the engine's reading of the headers; where they disagree in
//! anything, the packet passes. Whether the destination is ours is left to the reader: it is a part
//! of the hash.

use super::assembler::*;
use super::translation::{CONTEXT, X, context};
use super::{find_counters, find_line};
use crate::core::door::TcpFlags;
use crate::core::sequence::first_steps::{
    BUCKETS, CONTROL, FirstSteps, HELD_PACKETS, MULTIPLIER, code,
};

/// What the program needs to hold first steps.
pub struct FirstStepFilter<'a> {
    pub first_steps: &'a FirstSteps,
    /// The descriptor of the map that is the memory of `first_steps`.
    pub map: i32,
    /// False if the listener has to see all packets over IPv6.
    pub ipv6: bool,
}

/// Source and destination on the stack.
const ADDRESSES: i16 = -96;
/// Where they are in the IP header, and their bytes.
const V4: [i32; 2] = [12, 8];
const V6: [i32; 2] = [8, 32];
/// Bytes of a TCP header with its flags, of ports, and of the header of an echo request.
const TCP_FLAGS: u32 = 14;
const PORTS: u32 = 4;
const ECHO_HEADER: u32 = 8;

// Registers that keep their values over calls. [`X`] is the length of the IP header.
/// The bytes behind the IP header, then the hash.
const VALUE: Register = R8;
/// The time of the filter.
const TIME: Register = R9;

/// Ends the program for a packet that is held. Goes to `pass` for all others.
pub(super) fn hold(asm: &mut Assembler, filter: &FirstStepFilter<'_>, pass: Label) {
    let found = asm.label();
    asm.set(R1, CONTROL as i32);
    find_line(asm, filter.map, pass);
    asm.load(Size::Double, TIME, R0, 0);
    asm.jump_if_zero(TIME, pass);
    read_headers(asm, filter.ipv6, pass);
    for first in filter.first_steps.steps() {
        let other = asm.label();
        asm.jump_if(R0, Condition::NotEqual, code(first.step), other);
        if first.step.is_tcp() && first.flags != TcpFlags::default() {
            check_flags(asm, first.flags, pass);
            asm.set(R0, code(first.step).cast_signed());
        }
        asm.jump(found);
        asm.place(other);
    }
    asm.jump(pass);
    asm.place(found);
    hash(asm, filter.first_steps.seed(), pass);
    keep_time(asm, filter.map, pass);
    asm.end_with(0);
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

/// [`VALUE`] = the hash of the step in `R0` and the addresses, before its last multiplication.
fn hash(asm: &mut Assembler, seed: u64, pass: Label) {
    let [v6, end] = asm.labels();
    asm.load_number(VALUE, seed);
    asm.op64(Operation::Xor, VALUE, R0);
    is_v4(asm, v6);
    hash_addresses(asm, V4, pass);
    asm.jump(end);
    asm.place(v6);
    hash_addresses(asm, V6, pass);
    asm.place(end);
}

fn hash_addresses(asm: &mut Assembler, [at, length]: [i32; 2], pass: Label) {
    asm.copy(R1, CONTEXT);
    asm.set(R2, at);
    asm.copy(R3, STACK);
    asm.op64_with(Operation::Add, R3, ADDRESSES.into());
    asm.set(R4, length);
    asm.call(Helper::LoadBytes);
    asm.jump_if(R0, Condition::NotEqual, 0, pass);
    for word in 0..length as i16 / 8 {
        asm.load(Size::Double, R1, STACK, ADDRESSES + 8 * word);
        asm.op64(Operation::Xor, VALUE, R1);
        multiply(asm);
        asm.copy(R1, VALUE);
        asm.op64_with(Operation::ShiftRight, R1, 32);
        asm.op64(Operation::Xor, VALUE, R1);
    }
}

fn multiply(asm: &mut Assembler) {
    asm.load_number(R1, MULTIPLIER);
    asm.op64(Operation::Multiply, VALUE, R1);
}

/// Writes the time into the bucket of the hash, and counts the packet.
fn keep_time(asm: &mut Assembler, map: i32, pass: Label) {
    let none = asm.label();
    multiply(asm);
    asm.op64_with(Operation::ShiftRight, VALUE, (u64::BITS - BUCKETS.trailing_zeros()) as i32);
    asm.copy(R1, VALUE);
    // Eight buckets of eight bytes are a line.
    asm.op64_with(Operation::ShiftRight, R1, 3);
    find_line(asm, map, pass);
    asm.op64_with(Operation::And, VALUE, 7);
    asm.op64_with(Operation::ShiftLeft, VALUE, 3);
    asm.op64(Operation::Add, R0, VALUE);
    asm.store(Size::Double, R0, 0, TIME);
    find_counters(asm, map, CONTROL + 1, none);
    asm.set(R1, 1);
    asm.atomic_add(R0, 8 * HELD_PACKETS as i16, R1);
    asm.place(none);
}
