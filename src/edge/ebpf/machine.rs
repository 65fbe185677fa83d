//! Runs programs of eBPF as the kernel does, for tests and fuzzing: the instructions and functions
//! that ours use. It goes by RFC 9669 and not by the assembler. It panics where the kernel's
//! verifier would refuse a program: memory out of bounds or never written, registers never written.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Instruction;
use crate::edge::bpf::machine::Packet;

/// Addresses: the context, the stack's end, the values of the first map, and that map itself. Those
/// of the next ones are a [`STEP`] further each.
const CONTEXT: u64 = 1 << 32;
const STACK: u64 = 2 << 32;
const VALUES: u64 = 3 << 32;
const MAP: u64 = 4 << 32;
const STEP: u64 = 1 << 28;
const STACK_SIZE: usize = 512;
const VALUE_SIZE: u64 = 64;

/// A map of the program.
#[derive(Clone)]
pub struct Map {
    /// The descriptor by which the program knows it.
    pub descriptor: i32,
    pub lines: Vec<&'static [AtomicU64; 8]>,
}

pub struct Machine<'a> {
    program: &'a [Instruction],
    packet: &'a Packet,
    maps: &'a [Map],
    /// The frame, for a program at an interface.
    frame: Option<Vec<u8>>,
    processor: u32,
    /// The clock, in nanoseconds.
    pub time: u64,
    registers: [Option<u64>; 11],
    stack: [Option<u8>; STACK_SIZE],
    /// Instructions carried out.
    pub steps: u64,
}

impl<'a> Machine<'a> {
    /// For a program at a socket.
    pub fn new(
        program: &'a [Instruction], packet: &'a Packet, maps: &'a [Map], processor: u32,
    ) -> Self {
        let mut registers = [None; 11];
        registers[1] = Some(CONTEXT);
        registers[10] = Some(STACK);
        let (stack, frame) = ([None; STACK_SIZE], None);
        let (time, steps) = (0, 0);
        Self { program, packet, maps, frame, processor, time, registers, stack, steps }
    }

    /// For a program at an interface.
    pub fn at_interface(self) -> Self {
        Self { frame: Some(self.packet.frame()), ..self }
    }

    /// The number of bytes that the program accepts, or what it does at an interface.
    pub fn run(&mut self) -> u32 {
        let mut at = 0;
        // Where to go on behind each call, and with which registers.
        let mut callers: Vec<(usize, [Option<u64>; 11])> = Vec::new();
        loop {
            self.steps += 1;
            assert!(self.steps < 1_000_000, "the program does not end");
            let Instruction { code, registers, offset, immediate } = self.program[at];
            let (to, from) = (usize::from(registers & 15), usize::from(registers >> 4));
            at += 1;
            match code & 7 {
                0 => match code & 0xe0 {
                    0x00 => {
                        assert_eq!(code, 0x18, "a wide load");
                        let upper = self.program[at].immediate;
                        assert_eq!(
                            self.program[at],
                            Instruction { immediate: upper, ..<_>::default() }
                        );
                        self.registers[to] = Some(match from {
                            0 => {
                                u64::from(upper.cast_unsigned()) << 32
                                    | u64::from(immediate.cast_unsigned())
                            }
                            1 => self.map(immediate),
                            from => panic!("a wide load of kind {from}"),
                        });
                        at += 1;
                    }
                    mode => {
                        assert_eq!(self.registers[6], Some(CONTEXT), "needed by this load");
                        assert!(self.frame.is_none(), "only at a socket");
                        let index = if mode == 0x40 { self.register(from) as u32 } else { 0 };
                        let place = index.wrapping_add(immediate.cast_unsigned());
                        let Some(value) = self.packet_number(place, size(code)) else { return 0 };
                        self.registers[..6].fill(None);
                        self.registers[0] = Some(value);
                    }
                },
                1 => {
                    let address = address(self.register(from), offset);
                    self.registers[to] = Some(self.load(address, size(code)));
                }
                2 | 3 => {
                    let address = address(self.register(to), offset);
                    let is_immediate = code & 7 == 2;
                    let value = if is_immediate {
                        i64::from(immediate).cast_unsigned()
                    } else {
                        self.register(from)
                    };
                    if code & 0xe0 == 0xc0 {
                        assert_eq!((size(code), immediate), (8, 0), "an addition");
                        self.add(address, value);
                    } else {
                        self.store(address, value, size(code));
                    }
                }
                4 | 7 => self.arithmetic(code, to, from, immediate),
                5 if code == 0x85 && from == 1 => {
                    callers.push((at, self.registers));
                    assert!(callers.len() < 8, "calls in calls");
                    self.registers[6..].fill(None);
                    self.registers[0] = None;
                    at = at.checked_add_signed(immediate as isize).expect("in the program");
                }
                5 | 6 if code == 0x85 => self.call(immediate),
                5 | 6 if code == 0x95 => {
                    let returned = self.register(0);
                    let Some((place, registers)) = callers.pop() else { return returned as u32 };
                    self.registers = registers;
                    self.registers[..6].fill(None);
                    self.registers[0] = Some(returned);
                    at = place;
                }
                _ => {
                    if self.jumps(code, to, from, immediate) {
                        at = at.checked_add_signed(offset.into()).expect("in the program");
                    }
                }
            }
        }
    }

    /// The address of the map of this descriptor.
    fn map(&self, descriptor: i32) -> u64 {
        let place = self.maps.iter().position(|map| map.descriptor == descriptor);
        MAP + STEP * place.expect("a map of the program") as u64
    }

    fn register(&self, number: usize) -> u64 {
        self.registers[number].expect("a register that was written")
    }

    fn packet_number(&self, at: u32, size: usize) -> Option<u64> {
        let bytes = self.packet.bytes.get(at as usize..)?.get(..size)?;
        Some(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn arithmetic(&mut self, code: u8, to: usize, from: usize, immediate: i32) {
        if code & 0xf0 == 0xd0 {
            assert_eq!(code, 0xdc, "to big-endian");
            let value = self.register(to);
            self.registers[to] = Some(match immediate {
                16 => u64::from((value as u16).to_be()),
                32 => u64::from((value as u32).to_be()),
                64 => value.to_be(),
                bits => panic!("{bits} bits"),
            });
            return;
        }
        let with = match code & 8 {
            0 => i64::from(immediate).cast_unsigned(),
            _ => self.register(from),
        };
        let is_set = code & 0xf0 == 0xb0;
        let old = if is_set { 0 } else { self.register(to) };
        let is_short = code & 7 == 4;
        let (old, with) =
            if is_short { (u64::from(old as u32), u64::from(with as u32)) } else { (old, with) };
        let value = match code & 0xf0 {
            0x00 => old.wrapping_add(with),
            0x10 => old.wrapping_sub(with),
            0x20 => old.wrapping_mul(with),
            0x30 => old.checked_div(with).unwrap_or(0),
            0x40 => old | with,
            0x50 => old & with,
            0x60 => old << with,
            0x70 => old >> with,
            0x90 => old.checked_rem(with).unwrap_or(old),
            0xa0 => old ^ with,
            0xb0 => with,
            operation => panic!("operation {operation:x}"),
        };
        self.registers[to] = Some(if is_short { u64::from(value as u32) } else { value });
    }

    fn jumps(&self, code: u8, to: usize, from: usize, immediate: i32) -> bool {
        if code == 0x05 {
            return true;
        }
        let (mut left, mut right) = (self.register(to), i64::from(immediate).cast_unsigned());
        if code & 8 != 0 {
            right = self.register(from);
        }
        if code & 7 == 6 {
            (left, right) = (u64::from(left as u32), u64::from(right as u32));
        }
        match code & 0xf0 {
            0x10 => left == right,
            0x20 => left > right,
            0x30 => left >= right,
            0x40 => left & right != 0,
            0x50 => left != right,
            0xa0 => left < right,
            comparison => panic!("comparison {comparison:x}"),
        }
    }

    fn call(&mut self, function: i32) {
        let result = match function {
            1 => {
                let map = self.register(1).checked_sub(MAP).expect("a map");
                let line = self.load(self.register(2), 4);
                let lines = self.maps[(map / STEP) as usize].lines.len() as u64;
                if line < lines { VALUES + map + VALUE_SIZE * line } else { 0 }
            }
            5 => self.time,
            8 => self.processor.into(),
            26 if self.frame.is_none() => self.load_bytes(),
            189 if self.frame.is_some() => self.load_bytes(),
            188 => self.frame.as_ref().expect("only at an interface").len() as u64,
            function => panic!("function {function}"),
        };
        self.registers[..6].fill(None);
        self.registers[0] = Some(result);
    }

    /// bpf_skb_load_bytes and bpf_xdp_load_bytes.
    fn load_bytes(&mut self) -> u64 {
        let [context, at, to, length] = [1, 2, 3, 4].map(|number| self.register(number));
        assert_eq!(context, CONTEXT);
        let (at, length) = (at as usize, length as usize);
        let packet = self.frame.as_ref().unwrap_or(&self.packet.bytes);
        match packet.get(at..).and_then(|rest| rest.get(..length)) {
            Some(bytes) => {
                // Such a call needs no alignment.
                let bytes = bytes.to_vec();
                for (place, byte) in (to..).zip(bytes) {
                    self.store(place, byte.into(), 1);
                }
                0
            }
            None => i64::from(-libc::EFAULT).cast_unsigned(),
        }
    }

    fn load(&self, address: u64, size: usize) -> u64 {
        if address >= VALUES {
            assert_eq!(size, 8);
            return self.word(address).load(Ordering::Relaxed);
        }
        if (CONTEXT..CONTEXT + 1000).contains(&address) {
            assert!(size == 4 && self.frame.is_none());
            let packet = self.packet;
            return match address - CONTEXT {
                0 => packet.bytes.len() as u64,
                4 => packet.kind.into(),
                16 => (packet.protocol as u16).to_be().into(),
                20 => packet.vlan.is_some().into(),
                24 => packet.vlan.unwrap_or(0).into(),
                field => panic!("field {field} of the context"),
            };
        }
        let start = on_stack(address, size);
        let bytes = &self.stack[start..start + size];
        let number = |value, byte: &Option<u8>| {
            value << 8 | u64::from(byte.expect("a place of the stack that was written"))
        };
        bytes.iter().rev().fold(0, number)
    }

    fn store(&mut self, address: u64, value: u64, size: usize) {
        if address >= VALUES {
            assert_eq!(size, 8);
            return self.word(address).store(value, Ordering::Relaxed);
        }
        let start = on_stack(address, size);
        for (place, byte) in self.stack[start..start + size].iter_mut().zip(value.to_le_bytes()) {
            *place = Some(byte);
        }
    }

    fn add(&self, address: u64, value: u64) {
        self.word(address).fetch_add(value, Ordering::Relaxed);
    }

    /// A word of a map.
    fn word(&self, address: u64) -> &'static AtomicU64 {
        assert!((VALUES..MAP).contains(&address) && address.is_multiple_of(8));
        let (map, place) = ((address - VALUES) / STEP, (address - VALUES) % STEP);
        let line = self.maps[map as usize].lines[(place / VALUE_SIZE) as usize];
        &line[(place % VALUE_SIZE / 8) as usize]
    }
}

fn address(base: u64, offset: i16) -> u64 {
    base.wrapping_add_signed(offset.into())
}

fn on_stack(address: u64, size: usize) -> usize {
    let start = address.checked_sub(STACK - STACK_SIZE as u64).expect("an address of the stack");
    let start = usize::try_from(start).expect("an address of the stack");
    assert!(start + size <= STACK_SIZE && start.is_multiple_of(size.min(8)), "{start} {size}");
    start
}

/// The bytes that a load or store moves.
fn size(code: u8) -> usize {
    [4, 2, 1, 8][usize::from(code >> 3 & 3)]
}
