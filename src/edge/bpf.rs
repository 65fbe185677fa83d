//! What to listen for -> classic BPF program for the capture socket, with an interpreter in its
//! tests. Sockets are left to `capture`, judging what the program lets through to `core::packet`.
//!
//! Offset 0 is the IP header: the sockets are of the cooked kind. The program is the first, not the
//! only guard: all that it tests is tested again behind it, except how the packet was addressed on
//! the link, which only the kernel knows.

use crate::core::door::{Step, TcpFlags};
use crate::core::types::{Port, Proto};
use crate::core::wire::DATAGRAM;
use assembler::{Assembler, Label};
use plan::{FilterPlan, Intervals};

mod assembler;
mod plan;
#[cfg(test)]
mod tests;

pub use assembler::Instruction;

/// The longest program that the kernel takes (BPF_MAXINSNS).
pub const LONGEST: usize = 4096;

/// How much of a sealed knock is captured: all of it, under either header, with room for what is to
/// be refused.
const WHOLE: u32 = 512;
/// How much of a hit on a door is captured: any IP header and the TCP header.
const HEADERS: u32 = 128;

const UDP_LENGTH: u32 = 8 + DATAGRAM as u32;

/// What the sockets must let through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterSpec {
    /// The port of sealed knocks, if there are any.
    pub knock_port: Option<u16>,
    /// Every step of every door with that door's flags, in any order, those of later one-time
    /// sequences too.
    pub steps: Vec<(Step, TcpFlags)>,
    /// Whether what this machine sends counts too, as knockd counts it for a `Target`. Never on a
    /// loopback device, which shows each packet twice.
    pub outgoing: bool,
}

/// The program for `wanted`, never longer than [`LONGEST`]. With more doors than fit it lets
/// neighbouring ports and other TCP flags through as well; the sequence machine leaves them alone.
pub fn program(wanted: &FilterSpec) -> Vec<Instruction> {
    let mut plan = FilterPlan::exact(&wanted.steps);
    let mut program = assemble(wanted, &plan);
    if program.len() > LONGEST {
        plan.coarsen();
        program = assemble(wanted, &plan);
    }
    program
}

/// Ancillary data of the packet, as offsets that the kernel reserves (SKF_AD_OFF + ...).
mod ancillary {
    const BASE: u32 = 0xffff_f000;
    pub(super) const PROTOCOL: u32 = BASE;
    pub(super) const PACKET_TYPE: u32 = BASE + 4;
    pub(super) const HARDWARE: u32 = BASE + 28;
    pub(super) const VLAN_TAG: u32 = BASE + 44;
    pub(super) const VLAN_PRESENT: u32 = BASE + 48;
}

const TO_THIS_HOST: u32 = 0;
const OUTGOING: u32 = 4;
/// ARPHRD_LOOPBACK.
const LOOPBACK: u32 = 772;
const VLAN_ID: u32 = 0x0fff;

fn assemble(wanted: &FilterSpec, plan: &FilterPlan) -> Vec<Instruction> {
    let mut asm = Assembler::new();
    let [v4, v6, udp, tcp, echo4, echo6, door, drop] = asm.labels();
    outset(&mut asm, wanted.outgoing, v4, v6, drop);
    families(&mut asm, [v4, v6], [udp, tcp, echo4, echo6], drop);
    asm.place(udp);
    if let Some(port) = wanted.knock_port {
        sealed(&mut asm, port, drop);
    }
    asm.load_half_behind_ip(2);
    among(&mut asm, &plan.udp, door, drop);
    asm.place(tcp);
    for (flags, ports) in &plan.tcp {
        tcp_group(&mut asm, *flags, ports, door);
    }
    asm.jump(drop);
    echoes(&mut asm, &plan.echo, [echo4, echo6], door, drop);
    asm.place(door);
    // COMPAT: knockd does not see frames with a VLAN tag, not even with a mere priority in it.
    let untagged = asm.label();
    asm.load_byte(ancillary::VLAN_PRESENT);
    asm.if_equal(0, untagged, drop);
    asm.place(untagged);
    asm.accept(HEADERS);
    asm.place(drop);
    asm.accept(0);
    asm.finish()
}

/// Nothing that we sent ourselves, unless that is wanted (a loopback device shows each packet
/// twice), and only IP.
fn outset(asm: &mut Assembler, outgoing: bool, v4: Label, v6: Label, drop: Label) {
    let [incoming, not_v4] = asm.labels();
    asm.load_byte(ancillary::PACKET_TYPE);
    if outgoing {
        let sent = asm.label();
        asm.if_equal(OUTGOING, sent, incoming);
        asm.place(sent);
        asm.load_half(ancillary::HARDWARE);
        asm.if_equal(LOOPBACK, drop, incoming);
    } else {
        asm.if_equal(OUTGOING, drop, incoming);
    }
    asm.place(incoming);
    asm.load_half(ancillary::PROTOCOL);
    asm.if_equal(0x0800, v4, not_v4);
    asm.place(not_v4);
    asm.if_equal(0x86dd, v6, drop);
}

/// Leaves the length of the IP header in the index register.
fn families(
    asm: &mut Assembler,
    [v4, v6]: [Label; 2],
    [udp, tcp, echo4, echo6]: [Label; 4],
    drop: Label,
) {
    let unfragmented = asm.label();
    asm.place(v4);
    asm.load_half(6);
    asm.if_any_bit(0x1fff, drop, unfragmented);
    asm.place(unfragmented);
    asm.index_by_ipv4_header();
    asm.load_byte(9);
    transports(asm, &[(17, udp), (6, tcp), (1, echo4)], drop);
    asm.place(v6);
    asm.index_by(40);
    asm.load_byte(6);
    transports(asm, &[(17, udp), (6, tcp), (58, echo6)], drop);
}

fn transports(asm: &mut Assembler, table: &[(u32, Label)], drop: Label) {
    for (number, label) in table {
        let next = asm.label();
        asm.if_equal(*number, *label, next);
        asm.place(next);
    }
    asm.jump(drop);
}

/// Falls through if the packet is not one of the length of a knock at the knock port.
fn sealed(asm: &mut Assembler, port: u16, drop: Label) {
    let [at_port, long, to_host, tagged, accept, other] = asm.labels();
    asm.load_half_behind_ip(2);
    asm.if_equal(port.into(), at_port, other);
    asm.place(at_port);
    asm.load_half_behind_ip(4);
    asm.if_equal(UDP_LENGTH, long, other);
    asm.place(long);
    asm.load_byte(ancillary::PACKET_TYPE);
    asm.if_equal(TO_THIS_HOST, to_host, drop);
    asm.place(to_host);
    asm.load_byte(ancillary::VLAN_PRESENT);
    asm.if_equal(0, accept, tagged);
    asm.place(tagged);
    // A tag that names no VLAN is only a priority; any other one belongs to another interface.
    asm.load_half(ancillary::VLAN_TAG);
    asm.if_any_bit(VLAN_ID, drop, accept);
    asm.place(accept);
    asm.accept(WHOLE);
    asm.place(other);
}

/// Falls through if the packet is not one for these doors.
fn tcp_group(asm: &mut Assembler, flags: TcpFlags, ports: &Intervals, door: Label) {
    let [listed, all_set, other] = asm.labels();
    asm.load_half_behind_ip(2);
    among(asm, ports, listed, other);
    asm.place(listed);
    let mask = u32::from(flags.set | flags.unset);
    if mask == 0 {
        // Not even loaded: a first fragment of eight bytes counts for a door that does not ask.
        asm.jump(door);
    } else {
        asm.load_byte_behind_ip(13);
        asm.and(mask);
        asm.if_equal(flags.set.into(), all_set, other);
        asm.place(all_set);
        asm.jump(door);
    }
    asm.place(other);
}

/// Echo requests by the size of what they carry: the length in the IP header less the IP and the
/// ICMP header.
fn echoes(
    asm: &mut Assembler,
    sizes: &Intervals,
    [echo4, echo6]: [Label; 2],
    door: Label,
    drop: Label,
) {
    let [request4, request6, size] = asm.labels();
    asm.place(echo4);
    asm.load_half_behind_ip(0);
    asm.if_equal(0x0800, request4, drop);
    asm.place(request4);
    asm.load_half(2);
    asm.subtract_index();
    asm.jump(size);
    asm.place(echo6);
    asm.load_half_behind_ip(0);
    asm.if_equal(0x8000, request6, drop);
    asm.place(request6);
    asm.load_half(4);
    asm.place(size);
    among(asm, sizes, door, drop);
}

/// A tree of comparisons: as many steps as the logarithm of how many ports there are.
fn among(asm: &mut Assembler, intervals: &[(u32, u32)], yes: Label, no: Label) {
    match intervals {
        [] => asm.jump(no),
        [(low, high)] if low == high => asm.if_equal(*low, yes, no),
        [(low, high)] => {
            let above = asm.label();
            asm.if_at_least(*low, above, no);
            asm.place(above);
            asm.if_greater(*high, no, yes);
        }
        several => {
            let (left, right) = several.split_at(several.len() / 2);
            let [below, above] = asm.labels();
            asm.if_at_least(right.first().map_or(0, |(low, _)| *low), above, below);
            asm.place(below);
            among(asm, left, yes, no);
            asm.place(above);
            among(asm, right, yes, no);
        }
    }
}
