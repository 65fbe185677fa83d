//! Runs programs of classic BPF as the kernel does, for tests and fuzzing.

use super::{Instruction, TO_THIS_HOST, ancillary};

/// A packet, and what the kernel knows about it.
#[derive(Clone)]
pub struct Packet {
    pub bytes: Vec<u8>,
    pub protocol: u32,
    pub kind: u32,
    pub vlan: Option<u32>,
    pub hardware: u32,
}

impl Packet {
    /// As it comes from a link to this host.
    pub fn to_us(bytes: Vec<u8>) -> Self {
        let protocol =
            if bytes.first().is_some_and(|first| first >> 4 == 6) { 0x86dd } else { 0x0800 };
        Self { bytes, protocol, kind: TO_THIS_HOST, vlan: None, hardware: 1 }
    }

    /// The Ethernet frame in which it comes to an interface.
    pub fn frame(&self) -> Vec<u8> {
        // Of the addresses only the bit counts that says: to several machines.
        let to = if matches!(self.kind, 1 | 2) { [0xff; 6] } else { [2, 0, 0, 0, 0, 7] };
        let mut frame = [to, [2, 0, 0, 0, 0, 1]].concat();
        if let Some(tag) = self.vlan {
            frame.extend([0x81, 0]);
            frame.extend((tag as u16).to_be_bytes());
        }
        frame.extend((self.protocol as u16).to_be_bytes());
        frame.extend(&self.bytes);
        frame
    }

    fn load(&self, at: u32, size: u32) -> Option<u32> {
        match at {
            ancillary::PROTOCOL => Some(self.protocol),
            ancillary::PACKET_TYPE => Some(self.kind),
            ancillary::HARDWARE => Some(self.hardware),
            ancillary::VLAN_TAG => Some(self.vlan.unwrap_or(0)),
            ancillary::VLAN_PRESENT => Some(u32::from(self.vlan.is_some())),
            at => {
                let bytes = self.bytes.get(at as usize..)?.get(..size as usize)?;
                Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
            }
        }
    }
}

/// Runs a program as the kernel would: the number of bytes that it accepts. Also runs programs that
/// `tcpdump` compiled.
pub fn run(program: &[Instruction], packet: &Packet) -> u32 {
    let mut a = 0u32;
    let mut x = 0u32;
    let mut at = 0usize;
    let mut memory = [0u32; 16];
    loop {
        let Instruction { code, jump_true, jump_false, operand: k } = program[at];
        at += 1;
        let size = [4, 2, 1, 0][usize::from(code >> 3 & 3)];
        match (code & 7, code & 0xe0) {
            (0 | 1, mode) => {
                let value = match mode {
                    0x00 => Some(k),
                    0x20 => packet.load(k, size),
                    0x40 => packet.load(x.wrapping_add(k), size),
                    0x60 => Some(memory[k as usize]),
                    0x80 => Some(packet.bytes.len() as u32),
                    0xa0 => packet.load(k, 1).map(|b| (b & 15) * 4),
                    _ => panic!("mode {mode:x}"),
                };
                let Some(value) = value else { return 0 };
                *(if code & 7 == 0 { &mut a } else { &mut x }) = value;
            }
            (2, _) => memory[k as usize] = a,
            (3, _) => memory[k as usize] = x,
            (4, _) => {
                let by = if code & 8 == 0 { k } else { x };
                a = match code & 0xf0 {
                    0x00 => a.wrapping_add(by),
                    0x10 => a.wrapping_sub(by),
                    0x50 => a & by,
                    0x60 => a << by,
                    0x70 => a >> by,
                    0x90 => a % by,
                    operation => panic!("operation {operation:x}"),
                };
            }
            (5, _) => {
                let by = if code & 8 == 0 { k } else { x };
                let holds = match code & 0xf0 {
                    0x00 => {
                        at += k as usize;
                        continue;
                    }
                    0x10 => a == by,
                    0x20 => a > by,
                    0x30 => a >= by,
                    0x40 => a & by != 0,
                    comparison => panic!("comparison {comparison:x}"),
                };
                at += usize::from(if holds { jump_true } else { jump_false });
            }
            (6, _) => return if code & 0x18 == 0x10 { a } else { k },
            (7, _) if code & 0xf8 == 0 => x = a,
            (7, _) => a = x,
            _ => unreachable!(),
        }
    }
}
