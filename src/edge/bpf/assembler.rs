//! Classic BPF instructions with labels instead of distances.
//! Which instructions is left to `bpf`.

/// One instruction, as the kernel's `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Class, size and mode.
    pub code: u16,
    /// Instructions to skip if the comparison holds.
    pub jump_true: u8,
    /// And if it does not.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

/// A place in the program; a jump only ever leads forward.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

#[derive(Clone, Copy)]
enum AsmLine {
    Plain { code: u16, operand: u32 },
    Branch { code: u16, operand: u32, yes: Label, no: Label, far: bool },
    Jump(Label),
    Place(Label),
}

/// Collects lines; [`Assembler::finish`] turns labels into distances.
pub(super) struct Assembler {
    lines: Vec<AsmLine>,
    labels: usize,
}

const LD_BYTE: u16 = 0x30;
const LD_HALF: u16 = 0x28;
const LD_BYTE_INDEXED: u16 = 0x50;
const LD_HALF_INDEXED: u16 = 0x48;
const LDX_IMMEDIATE: u16 = 0x01;
const LDX_IPV4_LENGTH: u16 = 0xb1;
const AND: u16 = 0x54;
const SUBTRACT_INDEX: u16 = 0x1c;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

impl Assembler {
    pub(super) fn new() -> Self {
        Self { lines: Vec::new(), labels: 0 }
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels - 1)
    }

    pub(super) fn labels<const N: usize>(&mut self) -> [Label; N] {
        std::array::from_fn(|_| self.label())
    }

    /// The next instruction is where `label` leads.
    pub(super) fn place(&mut self, label: Label) {
        self.lines.push(AsmLine::Place(label));
    }

    fn plain(&mut self, code: u16, operand: u32) {
        self.lines.push(AsmLine::Plain { code, operand });
    }

    fn branch(&mut self, code: u16, operand: u32, yes: Label, no: Label) {
        self.lines.push(AsmLine::Branch { code, operand, yes, no, far: false });
    }

    pub(super) fn load_byte(&mut self, offset: u32) {
        self.plain(LD_BYTE, offset);
    }

    pub(super) fn load_half(&mut self, offset: u32) {
        self.plain(LD_HALF, offset);
    }

    pub(super) fn load_byte_behind_ip(&mut self, offset: u32) {
        self.plain(LD_BYTE_INDEXED, offset);
    }

    pub(super) fn load_half_behind_ip(&mut self, offset: u32) {
        self.plain(LD_HALF_INDEXED, offset);
    }

    pub(super) fn index_by(&mut self, value: u32) {
        self.plain(LDX_IMMEDIATE, value);
    }

    pub(super) fn index_by_ipv4_header(&mut self) {
        self.plain(LDX_IPV4_LENGTH, 0);
    }

    pub(super) fn and(&mut self, mask: u32) {
        self.plain(AND, mask);
    }

    pub(super) fn subtract_index(&mut self) {
        self.plain(SUBTRACT_INDEX, 0);
    }

    pub(super) fn if_equal(&mut self, value: u32, yes: Label, no: Label) {
        self.branch(IF_EQUAL, value, yes, no);
    }

    pub(super) fn if_greater(&mut self, value: u32, yes: Label, no: Label) {
        self.branch(IF_GREATER, value, yes, no);
    }

    pub(super) fn if_at_least(&mut self, value: u32, yes: Label, no: Label) {
        self.branch(IF_AT_LEAST, value, yes, no);
    }

    pub(super) fn if_any_bit(&mut self, mask: u32, yes: Label, no: Label) {
        self.branch(IF_ANY_BIT, mask, yes, no);
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.lines.push(AsmLine::Jump(to));
    }

    /// Ends here with the first `bytes` bytes of the packet; 0 = none of it.
    pub(super) fn accept(&mut self, bytes: u32) {
        self.plain(RETURN, bytes);
    }

    /// The program. A conditional jump reaches 255 instructions; one that must go further gets two
    /// unconditional ones.
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
                        jump_true: u8::try_from(distance(places, after, yes)).unwrap_or(u8::MAX),
                        jump_false: u8::try_from(distance(places, after, no)).unwrap_or(u8::MAX),
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
/// the program is written top down, and a test runs it.
fn distance(places: &[usize], from: usize, to: Label) -> u32 {
    let place = places.get(to.0).copied().unwrap_or(0);
    u32::try_from(place.saturating_sub(from)).unwrap_or(u32::MAX)
}
