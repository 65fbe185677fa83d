//! A program of classic BPF in eBPF, instruction by instruction, as the kernel does it itself.

use super::assembler::*;
use crate::edge::bpf::{self, Instruction as Classic, ancillary, opcode};

/// The context of a packet, for the whole program.
pub(super) const CONTEXT: Register = R6;
/// The classic accumulator and index.
const A: Register = R0;
pub(super) const X: Register = R7;
/// The class of classic jumps.
const JUMPS: u16 = 5;
/// Keeps the accumulator over a load.
const KEPT: Register = R8;

/// Offsets in the kernel's `struct __sk_buff`.
pub(super) mod context {
    pub(in crate::edge::ebpf) const LENGTH: i16 = 0;
    pub(super) const PACKET_TYPE: i16 = 4;
    pub(in crate::edge::ebpf) const PROTOCOL: i16 = 16;
    pub(super) const VLAN_PRESENT: i16 = 20;
    pub(super) const VLAN_TAG: i16 = 24;
}

/// Where the program goes on with a packet that it accepts. The length of the IP header is in [`X`]
/// then.
pub(super) struct Accepted {
    /// With a sealed knock.
    pub(super) knock: Label,
    /// With a packet for a door.
    pub(super) door: Label,
}

/// Assembles `program`. `None` if there is no such instruction in eBPF.
pub(super) fn translate(
    asm: &mut Assembler, program: &[Classic], accepted: &Accepted,
) -> Option<()> {
    asm.copy(CONTEXT, R1);
    asm.set(A, 0);
    asm.set(X, 0);
    let places: Vec<Label> = program.iter().map(|_| asm.label()).collect();
    let reached = reached(program);
    for (at, instruction) in program.iter().enumerate() {
        if !reached[at] {
            continue;
        }
        asm.place(places[at]);
        let Classic { code, jump_true, jump_false, operand } = *instruction;
        let behind = |distance: usize| places.get(at + 1 + distance).copied();
        match code {
            opcode::LOAD_BYTE => load(asm, Size::Byte, operand)?,
            opcode::LOAD_HALF => load(asm, Size::Half, operand)?,
            opcode::LOAD_BYTE_BEHIND_IP => asm.load_packet_at(Size::Byte, X, operand),
            opcode::LOAD_HALF_BEHIND_IP => asm.load_packet_at(Size::Half, X, operand),
            opcode::INDEX => asm.set(X, i32::try_from(operand).ok()?),
            opcode::INDEX_IPV4_HEADER => {
                asm.copy(KEPT, A);
                asm.load_packet(Size::Byte, operand);
                asm.op32_with(Operation::And, A, 0x0f);
                asm.op32_with(Operation::ShiftLeft, A, 2);
                asm.copy(X, A);
                asm.copy(A, KEPT);
            }
            opcode::AND => asm.op32_with(Operation::And, A, operand),
            opcode::SUBTRACT => asm.op32_with(Operation::Subtract, A, operand),
            opcode::SUBTRACT_INDEX => asm.op32(Operation::Subtract, A, X),
            opcode::MODULO => asm.op32_with(Operation::Modulo, A, operand),
            opcode::JUMP => asm.jump(behind(operand.try_into().ok()?)?),
            opcode::RETURN if operand == bpf::WHOLE => asm.jump(accepted.knock),
            opcode::RETURN if operand == bpf::HEADERS => asm.jump(accepted.door),
            opcode::RETURN => asm.end_with(operand.try_into().ok()?),
            comparison => {
                let is = match comparison {
                    opcode::IF_EQUAL => Condition::Equal,
                    opcode::IF_GREATER => Condition::Greater,
                    opcode::IF_AT_LEAST => Condition::AtLeast,
                    opcode::IF_ANY_BIT => Condition::AnyBit,
                    _ => return None,
                };
                asm.jump_if(A, is, operand, behind(jump_true.into())?);
                asm.jump(behind(jump_false.into())?);
            }
        }
    }
    Some(())
}

/// Which instructions can be reached: the kernel accepts no others in eBPF. Jumps lead forward.
fn reached(program: &[Classic]) -> Vec<bool> {
    let mut reached = vec![false; program.len()];
    let mut next = vec![0];
    while let Some(at) = next.pop() {
        let (Some(instruction), Some(seen)) = (program.get(at), reached.get_mut(at)) else {
            continue;
        };
        if std::mem::replace(seen, true) {
            continue;
        }
        match *instruction {
            Classic { code: opcode::RETURN, .. } => {}
            Classic { code: opcode::JUMP, operand, .. } => next.push(at + 1 + operand as usize),
            Classic { code, jump_true, jump_false, .. } if code & 7 == JUMPS => {
                next.extend([jump_true, jump_false].map(|skip| at + 1 + usize::from(skip)));
            }
            _ => next.push(at + 1),
        }
    }
    reached
}

fn load(asm: &mut Assembler, size: Size, at: u32) -> Option<()> {
    let from = match at {
        ancillary::PACKET_TYPE => context::PACKET_TYPE,
        ancillary::PROTOCOL => context::PROTOCOL,
        ancillary::VLAN_PRESENT => context::VLAN_PRESENT,
        ancillary::VLAN_TAG => context::VLAN_TAG,
        // The kind of device is not in the context.
        ancillary::HARDWARE => return None,
        at => {
            asm.load_packet(size, at);
            return Some(());
        }
    };
    asm.load(Size::Word, A, CONTEXT, from);
    if from == context::PROTOCOL {
        asm.big_endian(A, 16);
    }
    Some(())
}
