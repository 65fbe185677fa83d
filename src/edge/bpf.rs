//! The classic BPF program for the capture sockets. See `core::packet` for the checks behind it.
//!
//! Offset 0 is the IP header: the sockets are cooked. Everything that the program checks is checked
//! again behind it, except how the packet was addressed on the link, which only the kernel knows.

use crate::core::door::{Step, TcpFlags};
use crate::core::types::{Port, Proto};
use crate::core::wire::DATAGRAM;
use assembler::{opcode::*, *};
use plan::{FilterPlan, Intervals};

mod assembler;
#[cfg(any(test, fuzzing))]
pub mod machine;
mod plan;
#[cfg(test)]
mod tests;

pub use assembler::Instruction;
pub(super) use assembler::opcode;

/// The longest program that the kernel accepts (BPF_MAXINSNS).
pub const LONGEST: usize = 4096;
/// Bytes captured of a packet of sealed knocks: all of it, with any IP header.
pub(super) const WHOLE: u32 = 60 + LONGEST_UDP;
/// Bytes captured of a packet for a door: any IP header and the TCP header.
pub(super) const HEADERS: u32 = 128;
pub(super) const UDP_HEADER: u32 = 8;
/// The most datagrams that a sender can have merged into one packet (UDP_MAX_SEGMENTS).
const MERGED: u32 = 64;
pub(super) const LONGEST_UDP: u32 = UDP_HEADER + MERGED * DATAGRAM as u32;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterSpec {
    pub knock_port: Option<u16>,
    /// Every step of every door with that door's flags, also those of later one-time sequences.
    pub steps: Vec<(Step, TcpFlags)>,
    /// True if packets that this machine sends count too, as knockd counts them for a `Target`.
    /// They never count on a loopback device, which shows each packet twice.
    pub outgoing: bool,
}

/// The program for `spec`, never longer than [`LONGEST`]. With more doors than fit it also accepts
/// neighbouring ports and other TCP flags, which the sequence machine ignores.
pub fn program(spec: &FilterSpec) -> Vec<Instruction> {
    let mut plan = FilterPlan::exact(&spec.steps);
    let mut program = assemble(spec, &plan);
    if program.len() > LONGEST {
        plan.coarsen();
        program = assemble(spec, &plan);
    }
    program
}

/// Offsets that the kernel reserves for data beside the packet (SKF_AD_OFF + ...).
pub(super) mod ancillary {
    const BASE: u32 = 0xffff_f000;
    pub(in crate::edge) const PROTOCOL: u32 = BASE;
    pub(in crate::edge) const PACKET_TYPE: u32 = BASE + 4;
    pub(in crate::edge) const HARDWARE: u32 = BASE + 28;
    pub(in crate::edge) const VLAN_TAG: u32 = BASE + 44;
    pub(in crate::edge) const VLAN_PRESENT: u32 = BASE + 48;
}

const TO_THIS_HOST: u32 = libc::PACKET_HOST as u32;
const OUTGOING: u32 = libc::PACKET_OUTGOING as u32;
const LOOPBACK: u32 = libc::ARPHRD_LOOPBACK as u32;
const VLAN_ID: u32 = 0x0fff;

fn assemble(spec: &FilterSpec, plan: &FilterPlan) -> Vec<Instruction> {
    let mut asm = Assembler::new();
    let [udp, tcp, echo4, echo6, door, drop] = asm.labels();
    ip_headers(&mut asm, spec.outgoing, [udp, tcp, echo4, echo6], drop);
    asm.place(udp);
    if let Some(port) = spec.knock_port {
        sealed_knock(&mut asm, port, drop);
    }
    asm.plain(LOAD_HALF_BEHIND_IP, 2);
    among(&mut asm, &plan.udp, door, drop);
    asm.place(tcp);
    for (flags, ports) in &plan.tcp {
        tcp_group(&mut asm, *flags, ports, door);
    }
    asm.jump(drop);
    echo_requests(&mut asm, &plan.echo, [echo4, echo6], door, drop);
    asm.place(door);
    // COMPAT: knockd does not see frames with a VLAN tag, not even with a priority tag.
    asm.plain(LOAD_BYTE, ancillary::VLAN_PRESENT);
    asm.require(IF_EQUAL, 0, drop);
    asm.plain(RETURN, HEADERS);
    asm.place(drop);
    asm.plain(RETURN, 0);
    asm.finish()
}

/// Drops all but IP, and our own packets unless `outgoing`. Loads the IP header's length as index.
fn ip_headers(asm: &mut Assembler, outgoing: bool, to: [Label; 4], drop: Label) {
    let [udp, tcp, echo4, echo6] = to;
    let [v4, v6, incoming] = asm.labels();
    asm.plain(LOAD_BYTE, ancillary::PACKET_TYPE);
    if outgoing {
        asm.require(IF_EQUAL, OUTGOING, incoming);
        asm.plain(LOAD_HALF, ancillary::HARDWARE);
        asm.branch(IF_EQUAL, LOOPBACK, drop, incoming);
    } else {
        asm.branch(IF_EQUAL, OUTGOING, drop, incoming);
    }
    asm.place(incoming);
    asm.plain(LOAD_HALF, ancillary::PROTOCOL);
    asm.unless(IF_EQUAL, 0x0800, v4);
    asm.branch(IF_EQUAL, 0x86dd, v6, drop);
    asm.place(v4);
    // No fragments but the first.
    asm.plain(LOAD_HALF, 6);
    asm.unless(IF_ANY_BIT, 0x1fff, drop);
    asm.plain(INDEX_IPV4_HEADER, 0);
    asm.plain(LOAD_BYTE, 9);
    asm.unless(IF_EQUAL, 17, udp);
    asm.unless(IF_EQUAL, 6, tcp);
    asm.unless(IF_EQUAL, 1, echo4);
    asm.jump(drop);
    asm.place(v6);
    asm.plain(INDEX, 40);
    asm.plain(LOAD_BYTE, 6);
    asm.unless(IF_EQUAL, 17, udp);
    asm.unless(IF_EQUAL, 6, tcp);
    asm.unless(IF_EQUAL, 58, echo6);
    asm.jump(drop);
}

/// Accepts a packet to the knock port of a knock's length, or of several that segmentation offload
/// has merged; falls through for others.
fn sealed_knock(asm: &mut Assembler, port: u16, drop: Label) {
    let [accept, other] = asm.labels();
    asm.plain(LOAD_HALF_BEHIND_IP, 2);
    asm.require(IF_EQUAL, port.into(), other);
    asm.plain(LOAD_HALF_BEHIND_IP, 4);
    asm.require(IF_AT_LEAST, UDP_HEADER + DATAGRAM as u32, other);
    asm.unless(IF_GREATER, LONGEST_UDP, other);
    asm.plain(SUBTRACT, UDP_HEADER);
    asm.plain(MODULO, DATAGRAM as u32);
    asm.require(IF_EQUAL, 0, other);
    version_of_frame(asm, drop);
    asm.plain(LOAD_BYTE, ancillary::PACKET_TYPE);
    asm.require(IF_EQUAL, TO_THIS_HOST, drop);
    asm.plain(LOAD_BYTE, ancillary::VLAN_PRESENT);
    asm.unless(IF_EQUAL, 0, accept);
    // A tag without a VLAN id is only a priority. Any other tag belongs to another interface.
    asm.plain(LOAD_HALF, ancillary::VLAN_TAG);
    asm.branch(IF_ANY_BIT, VLAN_ID, drop, accept);
    asm.place(accept);
    asm.plain(RETURN, WHOLE);
    asm.place(other);
}

/// Drops a packet whose version is not the one that its frame says, as a stack does: the program
/// goes by the frame and the engine by the version.
fn version_of_frame(asm: &mut Assembler, drop: Label) {
    let [v4, v6, same] = asm.labels();
    asm.plain(LOAD_HALF, ancillary::PROTOCOL);
    asm.branch(IF_EQUAL, 0x0800, v4, v6);
    for (label, version) in [(v4, 0x40), (v6, 0x60)] {
        asm.place(label);
        asm.plain(LOAD_BYTE, 0);
        asm.plain(AND, 0xf0);
        asm.branch(IF_EQUAL, version, same, drop);
    }
    asm.place(same);
}

/// Jumps to `door` for packets to `ports` with these flags; falls through for others.
fn tcp_group(asm: &mut Assembler, flags: TcpFlags, ports: &Intervals, door: Label) {
    let [listed, other] = asm.labels();
    asm.plain(LOAD_HALF_BEHIND_IP, 2);
    among(asm, ports, listed, other);
    asm.place(listed);
    let mask = u32::from(flags.set | flags.unset);
    if mask != 0 {
        // Not loaded otherwise: a first fragment of eight bytes counts for a door without flags.
        asm.plain(LOAD_BYTE_BEHIND_IP, 13);
        asm.plain(AND, mask);
        asm.require(IF_EQUAL, flags.set.into(), other);
    }
    asm.jump(door);
    asm.place(other);
}

/// Jumps to `door` for echo requests by the size of their payload: the IP length less the headers.
fn echo_requests(asm: &mut Assembler, sizes: &Intervals, at: [Label; 2], door: Label, drop: Label) {
    let [size] = asm.labels();
    let [echo4, echo6] = at;
    asm.place(echo4);
    asm.plain(LOAD_HALF_BEHIND_IP, 0);
    asm.require(IF_EQUAL, 0x0800, drop);
    asm.plain(LOAD_HALF, 2);
    asm.plain(SUBTRACT_INDEX, 0);
    asm.jump(size);
    asm.place(echo6);
    asm.plain(LOAD_HALF_BEHIND_IP, 0);
    asm.require(IF_EQUAL, 0x8000, drop);
    asm.plain(LOAD_HALF, 4);
    asm.place(size);
    among(asm, sizes, door, drop);
}

/// A binary tree of comparisons: its depth is the logarithm of the number of intervals.
fn among(asm: &mut Assembler, intervals: &[(u32, u32)], yes: Label, no: Label) {
    match intervals {
        [] => asm.jump(no),
        [(low, high)] if low == high => asm.branch(IF_EQUAL, *low, yes, no),
        [(low, high)] => {
            asm.require(IF_AT_LEAST, *low, no);
            asm.branch(IF_GREATER, *high, no, yes);
        }
        several => {
            let (left, right) = several.split_at(several.len() / 2);
            let [above] = asm.labels();
            let middle = right.first().map_or(0, |(low, _)| *low);
            asm.unless(IF_AT_LEAST, middle, above);
            among(asm, left, yes, no);
            asm.place(above);
            among(asm, right, yes, no);
        }
    }
}
