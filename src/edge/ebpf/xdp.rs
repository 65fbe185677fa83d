//! The eBPF program for interfaces (XDP): it drops junk before the network stack sees it.
//!
//! What it drops is gone for everybody, so it drops less than the filter of the sockets: one
//! datagram with an unknown tag, in one unfragmented packet without options or extension headers,
//! to the knock port of one of this machine's own addresses. The guard would drop that packet too.
//! All else passes: what is forwarded, what has a VLAN tag, what is in a tunnel, what is odd.
//!
//! It does not compare the frame's own address: a frame to another machine whose packet is to us
//! comes only over a bridge, and its ports are refused (`edge::xdp`).

use std::os::fd::{AsRawFd, OwnedFd};

use zeroize::Zeroizing;

use super::assembler::*;
use super::loaded::{NotLoaded, load};
use super::own_addresses::{ALL, LINES, OwnAddresses, PLACES};
use super::translation::CONTEXT;
use super::unmask::unmask;
use super::{AT, FOLD, LOADED, MASKED, TagFilter, find_line, load_bytes, look_up};
use crate::core::keyring::COUNTING;
use crate::core::wire::{DATAGRAM, MASKED_TAG};
use crate::edge::bpf::UDP_HEADER;
use crate::edge::sys::{self, PacketProgram};

/// What the program returns: the kernel's `enum xdp_action`.
pub(super) const DROP: i32 = 1;
pub(super) const PASS: i32 = 2;

// The frame on the stack: the IP header begins at a multiple of eight.
const FRAME: i16 = -174;
const ETHERNET: i16 = 14;
const IP: i16 = FRAME + ETHERNET;
const IPV4_HEADER: i16 = 20;
const IPV6_HEADER: i16 = 40;
const UDP_PACKET: u32 = UDP_HEADER + DATAGRAM as u32;

// Registers that keep their values over calls.
/// The halves of the destination, then the fold.
const FIRST: Register = R7;
const SECOND: Register = R8;
/// Where the datagram begins in the frame.
const DATAGRAM_AT: Register = R9;

/// The program's own memory, and this machine's addresses in it.
pub struct XdpMap {
    map: OwnedFd,
    pub addresses: OwnAddresses,
}

impl XdpMap {
    /// Memory without addresses: the program drops nothing yet.
    pub fn new() -> Result<Self, NotLoaded> {
        let (map, memory) = sys::shared_lines(ALL as u32, *b"toctoc_xdp\0\0\0\0\0\0")
            .map_err(NotLoaded::without_log)?;
        let addresses = OwnAddresses::new(memory).ok_or_else(NotLoaded::too_large)?;
        Ok(Self { map, addresses })
    }

    /// Loads the program for knocks to `port` with these tags.
    pub fn load(&self, port: u16, filter: &TagFilter<'_>) -> Result<OwnedFd, NotLoaded> {
        let program = program(port, filter, self.map.as_raw_fd());
        load(PacketProgram::Xdp, &program.ok_or_else(NotLoaded::too_large)?)
    }
}

/// The program. `own`: the descriptor of the map that is the memory of [`OwnAddresses`].
pub(super) fn program(
    port: u16, filter: &TagFilter<'_>, own: i32,
) -> Option<Zeroizing<Vec<Instruction>>> {
    let mut asm = Assembler::default();
    let [v6, destined, unknown, pass] = asm.labels();
    asm.copy(CONTEXT, R1);
    load_frame(&mut asm, IPV4_HEADER, pass);
    // A frame to several machines.
    asm.load(Size::Byte, R1, STACK, FRAME);
    asm.jump_if(R1, Condition::AnyBit, 1, pass);
    asm.load(Size::Half, R1, STACK, IP - 2);
    asm.jump_if(R1, Condition::Equal, big_endian(0x86dd), v6);
    asm.jump_if(R1, Condition::NotEqual, big_endian(0x0800), pass);
    ipv4(&mut asm, port, pass);
    asm.jump(destined);
    asm.place(v6);
    load_frame(&mut asm, IPV6_HEADER, pass);
    ipv6(&mut asm, port, pass);
    asm.place(destined);
    is_ours(&mut asm, own, pass);
    asm.copy(AT, DATAGRAM_AT);
    load_bytes(&mut asm, Helper::LoadFrameBytes, MASKED_TAG as i32, MASKED, LOADED, pass);
    unmask(&mut asm, filter.mask, MASKED, FOLD);
    look_up(&mut asm, filter, unknown, pass);
    asm.jump(pass);
    asm.place(unknown);
    count(&mut asm, own);
    asm.end_with(DROP);
    asm.place(pass);
    asm.end_with(PASS);
    asm.finish().map(Zeroizing::new)
}

/// Copies the headers to the stack, as far as the UDP header behind an IP header of this length.
fn load_frame(asm: &mut Assembler, ip_header: i16, pass: Label) {
    asm.copy(R1, CONTEXT);
    asm.set(R2, 0);
    asm.copy(R3, STACK);
    asm.op64_with(Operation::Add, R3, FRAME.into());
    asm.set(R4, i32::from(ETHERNET + ip_header) + UDP_HEADER as i32);
    asm.call(Helper::LoadFrameBytes);
    asm.jump_if(R0, Condition::NotEqual, 0, pass);
}

fn ipv4(asm: &mut Assembler, port: u16, pass: Label) {
    asm.load(Size::Byte, R1, STACK, IP);
    asm.jump_if(R1, Condition::NotEqual, 0x45, pass);
    asm.load(Size::Byte, R1, STACK, IP + 9);
    asm.jump_if(R1, Condition::NotEqual, 17, pass);
    asm.load(Size::Half, R1, STACK, IP + 6);
    // A part of a packet, the first one too.
    asm.jump_if(R1, Condition::AnyBit, big_endian(0x3fff), pass);
    asm.load(Size::Half, R1, STACK, IP + 2);
    let total = (IPV4_HEADER.unsigned_abs()).saturating_add(UDP_PACKET as u16);
    asm.jump_if(R1, Condition::NotEqual, big_endian(total), pass);
    one_datagram(asm, IPV4_HEADER, port, pass);
    // As in ::ffff:192.0.2.1.
    asm.set(FIRST, 0);
    asm.load(Size::Word, SECOND, STACK, IP + 16);
    asm.op64_with(Operation::ShiftLeft, SECOND, 32);
    asm.op32_with(Operation::Set, R1, 0xffff_0000);
    asm.op64(Operation::Or, SECOND, R1);
}

fn ipv6(asm: &mut Assembler, port: u16, pass: Label) {
    asm.load(Size::Byte, R1, STACK, IP);
    asm.op32_with(Operation::And, R1, 0xf0);
    asm.jump_if(R1, Condition::NotEqual, 0x60, pass);
    asm.load(Size::Byte, R1, STACK, IP + 6);
    asm.jump_if(R1, Condition::NotEqual, 17, pass);
    asm.load(Size::Half, R1, STACK, IP + 4);
    asm.jump_if(R1, Condition::NotEqual, big_endian(UDP_PACKET as u16), pass);
    one_datagram(asm, IPV6_HEADER, port, pass);
    asm.load(Size::Double, FIRST, STACK, IP + 24);
    asm.load(Size::Double, SECOND, STACK, IP + 32);
}

/// Goes to `pass` unless the UDP header is that of one datagram to `port`, all of which is there.
/// The stack merges packets only later.
fn one_datagram(asm: &mut Assembler, ip_header: i16, port: u16, pass: Label) {
    let udp = IP + ip_header;
    asm.load(Size::Half, R1, STACK, udp + 2);
    asm.jump_if(R1, Condition::NotEqual, big_endian(port), pass);
    asm.load(Size::Half, R1, STACK, udp + 4);
    asm.jump_if(R1, Condition::NotEqual, big_endian(UDP_PACKET as u16), pass);
    asm.copy(R1, CONTEXT);
    asm.call(Helper::FrameLength);
    let headers = (ETHERNET + ip_header).unsigned_abs();
    asm.jump_if(R0, Condition::Less, u32::from(headers) + UDP_PACKET, pass);
    asm.set(DATAGRAM_AT, i32::from(headers) + UDP_HEADER as i32);
}

/// Goes to `pass` unless the destination is one of our addresses.
fn is_ours(asm: &mut Assembler, own: i32, pass: Label) {
    let ours = asm.label();
    // What an empty place holds.
    asm.copy(R1, FIRST);
    asm.op64(Operation::Or, R1, SECOND);
    asm.jump_if_zero(R1, pass);
    asm.copy(R1, FIRST);
    asm.op64(Operation::Xor, R1, SECOND);
    asm.op64_with(Operation::Modulo, R1, LINES as i32);
    find_line(asm, own, pass);
    for place in 0..PLACES as i16 {
        let next = asm.label();
        asm.load(Size::Double, R1, R0, 16 * place);
        asm.jump_if_both(R1, Condition::NotEqual, FIRST, next);
        asm.load(Size::Double, R1, R0, 16 * place + 8);
        asm.jump_if_both(R1, Condition::Equal, SECOND, ours);
        asm.place(next);
    }
    asm.jump(pass);
    asm.place(ours);
}

/// Adds one to the counter of this processor.
fn count(asm: &mut Assembler, own: i32) {
    let none = asm.label();
    asm.call(Helper::ProcessorNumber);
    asm.copy(R1, R0);
    asm.op32_with(Operation::And, R1, COUNTING as u32 - 1);
    asm.op32_with(Operation::Add, R1, LINES as u32);
    find_line(asm, own, none);
    asm.set(R1, 1);
    asm.atomic_add(R0, 0, R1);
    asm.place(none);
}

/// A number of a header as the processor loads it.
fn big_endian(number: u16) -> u32 {
    number.to_be().into()
}
