//! Assembles eBPF instructions, with labels in place of distances: RFC 9669.

use zeroize::Zeroize;

/// One instruction: the kernel's `struct bpf_insn`. May hold a part of a key, so it is wiped with
/// its program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Zeroize)]
pub struct Instruction {
    pub code: u8,
    /// The destination register in the lower half, the source register in the upper one.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

impl Instruction {
    /// Its bytes as the kernel takes them: the gateway runs on little-endian processors only.
    pub fn encode(self) -> u64 {
        u64::from(self.code)
            | u64::from(self.registers) << 8
            | u64::from(self.offset.cast_unsigned()) << 16
            | u64::from(self.immediate.cast_unsigned()) << 32
    }
}

/// A register. `R0` is what a call or the program returns, `R1` to `R5` are arguments, which a call
/// forgets, and `STACK` is the end of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Register(u8);

pub(super) const R0: Register = Register(0);
pub(super) const R1: Register = Register(1);
pub(super) const R2: Register = Register(2);
pub(super) const R3: Register = Register(3);
pub(super) const R4: Register = Register(4);
pub(super) const R5: Register = Register(5);
pub(super) const R6: Register = Register(6);
pub(super) const R7: Register = Register(7);
pub(super) const R8: Register = Register(8);
pub(super) const R9: Register = Register(9);
pub(super) const STACK: Register = Register(10);

/// A place in the program. Jumps may lead in both directions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// What an arithmetic instruction does with its destination.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Operation {
    Add = 0x00,
    Subtract = 0x10,
    Multiply = 0x20,
    Divide = 0x30,
    Or = 0x40,
    And = 0x50,
    ShiftLeft = 0x60,
    ShiftRight = 0x70,
    Modulo = 0x90,
    Xor = 0xa0,
    Set = 0xb0,
}

/// A comparison of 32 bits without sign, or of all 64.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Condition {
    Equal = 0x10,
    Greater = 0x20,
    AtLeast = 0x30,
    AnyBit = 0x40,
    NotEqual = 0x50,
    Less = 0xa0,
}

#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Size {
    Byte = 0x10,
    Half = 0x08,
    Word = 0x00,
    Double = 0x18,
}

/// Functions of the kernel.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(super) enum Helper {
    FindInMap = 1,
    /// Nanoseconds since the start of the machine.
    Clock = 5,
    ProcessorNumber = 8,
    LoadBytes = 26,
    /// The length of a frame at an interface.
    FrameLength = 188,
    /// As `LoadBytes`, of a frame at an interface.
    LoadFrameBytes = 189,
}

// Classes of instructions.
const LOAD: u8 = 0x00;
const LOAD_FROM: u8 = 0x01;
const STORE_IMMEDIATE: u8 = 0x02;
const STORE: u8 = 0x03;
const ARITHMETIC_32: u8 = 0x04;
const JUMP: u8 = 0x05;
const JUMP_32: u8 = 0x06;
const ARITHMETIC_64: u8 = 0x07;
// Modes of loads and stores.
const ABSOLUTE: u8 = 0x20;
const INDIRECT: u8 = 0x40;
const MEMORY: u8 = 0x60;
const ATOMIC: u8 = 0xc0;
/// The second operand is a register and not the immediate.
const WITH_REGISTER: u8 = 0x08;
const CALL: u8 = 0x80;
const CALL_FUNCTION: u8 = JUMP | CALL;
const EXIT: u8 = 0x90;
const TO_BIG_ENDIAN: u8 = 0xd8;
const WIDE: u8 = 0x18;
/// The immediate of a wide load is the descriptor of a map.
const MAP: Register = Register(1);
/// The immediate of a call is the distance to a function of the program.
const FUNCTION: Register = Register(1);

/// Collects instructions; [`Assembler::finish`] turns labels into distances.
#[derive(Default)]
pub(super) struct Assembler {
    program: Vec<Instruction>,
    places: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    pub(super) fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    pub(super) fn labels<const N: usize>(&mut self) -> [Label; N] {
        std::array::from_fn(|_| self.label())
    }

    /// Puts `label` in front of the next instruction.
    pub(super) fn place(&mut self, label: Label) {
        self.places[label.0] = Some(self.program.len());
    }

    /// `to = value`, all 64 bits, the value with its sign.
    pub(super) fn set(&mut self, to: Register, value: i32) {
        self.op64_with(Operation::Set, to, value);
    }

    pub(super) fn copy(&mut self, to: Register, from: Register) {
        self.op64(Operation::Set, to, from);
    }

    /// An operation on the lower 32 bits; the upper ones become zero.
    pub(super) fn op32(&mut self, operation: Operation, to: Register, with: Register) {
        self.push(ARITHMETIC_32 | WITH_REGISTER | operation as u8, to, with, 0, 0);
    }

    pub(super) fn op32_with(&mut self, operation: Operation, to: Register, value: u32) {
        self.push(ARITHMETIC_32 | operation as u8, to, R0, 0, value.cast_signed());
    }

    pub(super) fn op64(&mut self, operation: Operation, to: Register, with: Register) {
        self.push(ARITHMETIC_64 | WITH_REGISTER | operation as u8, to, with, 0, 0);
    }

    pub(super) fn op64_with(&mut self, operation: Operation, to: Register, value: i32) {
        self.push(ARITHMETIC_64 | operation as u8, to, R0, 0, value);
    }

    /// Rotates 32 bits. Changes `R0` too.
    pub(super) fn rotate_left(&mut self, register: Register, bits: u32) {
        self.op32(Operation::Set, R0, register);
        self.op32_with(Operation::ShiftLeft, R0, bits);
        self.op32_with(Operation::ShiftRight, register, 32 - bits);
        self.op32(Operation::Or, register, R0);
    }

    /// Turns the lowest `bits` of a register into a big-endian number, or back. The others become
    /// zero.
    pub(super) fn big_endian(&mut self, register: Register, bits: i32) {
        self.push(ARITHMETIC_32 | TO_BIG_ENDIAN, register, R0, 0, bits);
    }

    pub(super) fn load(&mut self, size: Size, to: Register, base: Register, offset: i16) {
        self.push(LOAD_FROM | MEMORY | size as u8, to, base, offset, 0);
    }

    pub(super) fn store(&mut self, size: Size, base: Register, offset: i16, from: Register) {
        self.push(STORE | MEMORY | size as u8, base, from, offset, 0);
    }

    pub(super) fn store_word(&mut self, base: Register, offset: i16, value: u32) {
        let code = STORE_IMMEDIATE | MEMORY | Size::Word as u8;
        self.push(code, base, R0, offset, value.cast_signed());
    }

    /// Adds a register to 64 bits of memory, at once for all processors.
    pub(super) fn atomic_add(&mut self, base: Register, offset: i16, from: Register) {
        self.push(STORE | ATOMIC | Size::Double as u8, base, from, offset, 0);
    }

    /// `R0` = a big-endian number of the packet. Ends the program with 0 if the packet is shorter.
    /// The packet's context must be in `R6`; `R1` to `R5` are forgotten.
    pub(super) fn load_packet(&mut self, size: Size, at: u32) {
        self.push(LOAD | ABSOLUTE | size as u8, R0, R0, 0, at.cast_signed());
    }

    /// The same, `index` bytes further on.
    pub(super) fn load_packet_at(&mut self, size: Size, index: Register, at: u32) {
        self.push(LOAD | INDIRECT | size as u8, R0, index, 0, at.cast_signed());
    }

    /// `to` = a number of 64 bits.
    pub(super) fn load_number(&mut self, to: Register, value: u64) {
        let [lower, upper] = [value as u32, (value >> 32) as u32].map(u32::cast_signed);
        self.push(LOAD | WIDE, to, R0, 0, lower);
        self.program.push(Instruction { immediate: upper, ..Instruction::default() });
    }

    /// `to` = the map of this descriptor, for a call.
    pub(super) fn load_map(&mut self, to: Register, descriptor: i32) {
        self.push(LOAD | WIDE, to, MAP, 0, descriptor);
        self.program.push(Instruction::default());
    }

    pub(super) fn call(&mut self, helper: Helper) {
        self.push(JUMP | CALL, R0, R0, 0, helper as i32);
    }

    /// Calls the function at `label`, which ends as the program does. It has registers of its own
    /// but for the arguments.
    pub(super) fn call_function(&mut self, label: Label) {
        self.jump_by(CALL_FUNCTION, R0, FUNCTION, 0, label);
    }

    pub(super) fn exit(&mut self) {
        self.push(JUMP | EXIT, R0, R0, 0, 0);
    }

    /// Ends the program with this value.
    pub(super) fn end_with(&mut self, value: i32) {
        self.set(R0, value);
        self.exit();
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.jump_by(JUMP, R0, R0, 0, to);
    }

    /// Jumps if the lower 32 bits of `left` compare so with `right`.
    pub(super) fn jump_if(&mut self, left: Register, is: Condition, right: u32, to: Label) {
        self.jump_by(JUMP_32 | is as u8, left, R0, right.cast_signed(), to);
    }

    /// Jumps if all 64 bits compare so.
    pub(super) fn jump_if_both(
        &mut self, left: Register, is: Condition, right: Register, to: Label,
    ) {
        self.jump_by(JUMP | WITH_REGISTER | is as u8, left, right, 0, to);
    }

    /// Jumps if all 64 bits of `register` are zero: of a pointer, if there is none.
    pub(super) fn jump_if_zero(&mut self, register: Register, to: Label) {
        self.jump_by(JUMP | Condition::Equal as u8, register, R0, 0, to);
    }

    /// The program. `None` if it is too long for its jumps, or a label has no place.
    pub(super) fn finish(mut self) -> Option<Vec<Instruction>> {
        for (at, label) in &self.jumps {
            let place = i64::try_from(self.places[label.0]?).ok()?;
            let distance = place - i64::try_from(*at).ok()? - 1;
            let instruction = &mut self.program[*at];
            match instruction.code {
                CALL_FUNCTION => instruction.immediate = i32::try_from(distance).ok()?,
                _ => instruction.offset = i16::try_from(distance).ok()?,
            }
        }
        Some(self.program)
    }

    fn jump_by(&mut self, code: u8, left: Register, right: Register, value: i32, to: Label) {
        self.jumps.push((self.program.len(), to));
        self.push(code, left, right, 0, value);
    }

    fn push(&mut self, code: u8, to: Register, from: Register, offset: i16, immediate: i32) {
        let registers = to.0 | from.0 << 4;
        self.program.push(Instruction { code, registers, offset, immediate });
    }
}
