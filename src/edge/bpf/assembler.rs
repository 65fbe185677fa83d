//! Assembles classic BPF instructions, with labels in place of distances.

use crate::core::bytes::{saturated_u8, saturated_u32};
use opcode::JUMP;

/// One instruction: the kernel's `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    /// Instructions to skip if the comparison holds.
    pub jump_true: u8,
    /// Instructions to skip if it does not.
    pub jump_false: u8,
    pub operand: u32,
}

/// A place in the program. Jumps only lead forward.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

#[derive(Clone, Copy)]
enum AsmLine {
    Plain { code: u16, operand: u32 },
    // A far branch takes three instructions in place of one.
    Branch { code: u16, operand: u32, yes: Label, no: Label, far: bool },
    Jump(Label),
    Place(Label),
}

/// Codes of instructions.
pub(in crate::edge) mod opcode {
    // Plain instructions. `_BEHIND_IP` adds the index register: the length of the IP header.
    pub(in crate::edge) const LOAD_BYTE: u16 = 0x30;
    pub(in crate::edge) const LOAD_HALF: u16 = 0x28;
    pub(in crate::edge) const LOAD_BYTE_BEHIND_IP: u16 = 0x50;
    pub(in crate::edge) const LOAD_HALF_BEHIND_IP: u16 = 0x48;
    pub(in crate::edge) const INDEX: u16 = 0x01;
    pub(in crate::edge) const INDEX_IPV4_HEADER: u16 = 0xb1;
    pub(in crate::edge) const AND: u16 = 0x54;
    pub(in crate::edge) const SUBTRACT: u16 = 0x14;
    pub(in crate::edge) const SUBTRACT_INDEX: u16 = 0x1c;
    pub(in crate::edge) const MODULO: u16 = 0x94;
    /// Ends here with the first so many bytes of the packet; 0 = drop it.
    pub(in crate::edge) const RETURN: u16 = 0x06;

    // Branches.
    pub(in crate::edge) const IF_EQUAL: u16 = 0x15;
    pub(in crate::edge) const IF_GREATER: u16 = 0x25;
    pub(in crate::edge) const IF_AT_LEAST: u16 = 0x35;
    pub(in crate::edge) const IF_ANY_BIT: u16 = 0x45;
    pub(in crate::edge) const JUMP: u16 = 0x05;
}

/// Collects lines; [`Assembler::finish`] turns labels into distances.
pub(super) struct Assembler {
    lines: Vec<AsmLine>,
    labels: usize,
}

impl Assembler {
    pub(super) fn new() -> Self {
        Self { lines: Vec::new(), labels: 0 }
    }

    pub(super) fn labels<const N: usize>(&mut self) -> [Label; N] {
        std::array::from_fn(|_| {
            self.labels += 1;
            Label(self.labels - 1)
        })
    }

    /// Puts `label` in front of the next instruction.
    pub(super) fn place(&mut self, label: Label) {
        self.lines.push(AsmLine::Place(label));
    }

    pub(super) fn plain(&mut self, code: u16, operand: u32) {
        self.lines.push(AsmLine::Plain { code, operand });
    }

    pub(super) fn branch(&mut self, code: u16, operand: u32, yes: Label, no: Label) {
        self.lines.push(AsmLine::Branch { code, operand, yes, no, far: false });
    }

    /// Goes on with the next instruction if the comparison holds, else at `no`.
    pub(super) fn require(&mut self, code: u16, operand: u32, no: Label) {
        let [yes] = self.labels();
        self.branch(code, operand, yes, no);
        self.place(yes);
    }

    /// Goes on with the next instruction if the comparison does not hold, else at `yes`.
    pub(super) fn unless(&mut self, code: u16, operand: u32, yes: Label) {
        let [no] = self.labels();
        self.branch(code, operand, yes, no);
        self.place(no);
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.lines.push(AsmLine::Jump(to));
    }

    /// The program. A branch reaches 255 instructions; a longer one leads over two jumps.
    pub(super) fn finish(mut self) -> Vec<Instruction> {
        loop {
            let places = self.places();
            let mut at = 0;
            let mut grown = false;
            for line in &mut self.lines {
                let end = at + line.length();
                if let AsmLine::Branch { yes, no, far, .. } = line
                    && !*far
                    && [yes, no].iter().any(|label| distance(&places, end, **label) > 255)
                {
                    *far = true;
                    grown = true;
                }
                at = end;
            }
            if !grown {
                return self.emit(&places);
            }
        }
    }

    fn places(&self) -> Vec<usize> {
        let mut places = vec![0; self.labels];
        let mut at = 0;
        for line in &self.lines {
            if let AsmLine::Place(label) = line
                && let Some(place) = places.get_mut(label.0)
            {
                *place = at;
            }
            at += line.length();
        }
        places
    }

    fn emit(&self, places: &[usize]) -> Vec<Instruction> {
        let mut program = Vec::new();
        for line in &self.lines {
            let after = program.len() + 1;
            match *line {
                AsmLine::Place(_) => {}
                AsmLine::Plain { code, operand } => program.push(plain(code, operand)),
                AsmLine::Jump(to) => program.push(plain(JUMP, distance(places, after, to))),
                AsmLine::Branch { code, operand, yes, no, far: false } => {
                    program.push(Instruction {
                        code,
                        jump_true: saturated_u8(distance(places, after, yes)),
                        jump_false: saturated_u8(distance(places, after, no)),
                        operand,
                    })
                }
                AsmLine::Branch { code, operand, yes, no, far: true } => program.extend([
                    Instruction { code, jump_true: 0, jump_false: 1, operand },
                    plain(JUMP, distance(places, after + 1, yes)),
                    plain(JUMP, distance(places, after + 2, no)),
                ]),
            }
        }
        program
    }
}

impl AsmLine {
    fn length(&self) -> usize {
        match self {
            AsmLine::Place(_) => 0,
            AsmLine::Plain { .. } | AsmLine::Jump(_) | AsmLine::Branch { far: false, .. } => 1,
            AsmLine::Branch { far: true, .. } => 3,
        }
    }
}

fn plain(code: u16, operand: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, operand }
}

/// Instructions between the one at `from` and the label. Every label lies ahead of the jumps to it:
/// the program is written top down, and tests run it.
fn distance(places: &[usize], from: usize, to: Label) -> u32 {
    let place = places.get(to.0).copied().unwrap_or(0);
    saturated_u32(place.saturating_sub(from))
}
