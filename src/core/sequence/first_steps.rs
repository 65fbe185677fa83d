//! First steps that the kernel's filter holds: memory that the filter writes and the listener
//! reads. See `flood` for when, `edge::ebpf::first_steps` for the writer.
//!
//! The memory has a bucket for each hash of source, destination and step, which keeps the time of
//! the last such packet. So no flood fills it, and the listener needs to see later steps only. Where
//! a flood has been in all buckets, a first step counts as made by everybody.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::door::Step;
use crate::core::door::first_steps::FirstStep;
use crate::core::keyring::{COUNTING, WORDS};
use crate::core::types::{Boot, Port};

pub const BUCKETS: usize = 1 << 16;
/// The line behind the buckets. Its first word is the time that the filter writes into buckets; 0 =
/// the filter holds nothing.
pub const CONTROL: usize = BUCKETS / WORDS;
/// All lines: [`COUNTING`] lines of counters are the last ones.
pub const LINES: usize = CONTROL + 1 + COUNTING;
/// The word of a line of counters that counts packets held.
pub const HELD_PACKETS: usize = 0;
/// An odd number without a pattern: the golden ratio in 64 bits.
pub const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Clone)]
pub struct FirstSteps {
    memory: &'static [[AtomicU64; WORDS]],
    seed: u64,
    steps: Vec<FirstStep>,
}

impl FirstSteps {
    /// First steps in this memory, which is all zero. `seed`: random, so that nobody can aim at the
    /// bucket of somebody else. `None` if the memory has another size than [`LINES`].
    pub fn new(
        memory: &'static [[AtomicU64; WORDS]], seed: u64, steps: Vec<FirstStep>,
    ) -> Option<Self> {
        (memory.len() == LINES).then_some(Self { memory, seed, steps })
    }

    /// In memory that is never freed.
    #[cfg(any(test, fuzzing))]
    pub fn for_tests(seed: u64, steps: Vec<FirstStep>) -> Self {
        let lines = (0..LINES).map(|_| std::array::from_fn(|_| AtomicU64::new(0)));
        Self::new(Box::leak(lines.collect::<Box<_>>()), seed, steps).expect("memory of this size")
    }

    pub fn steps(&self) -> &[FirstStep] {
        &self.steps
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn includes(&self, step: Step) -> bool {
        self.steps.iter().any(|first| first.step == step)
    }

    /// Has the filter hold first steps, with this time, until the next call.
    pub fn hold(&self, now: Boot) {
        self.memory[CONTROL][0].store(now.0.max(1), Ordering::Release);
    }

    /// Has the filter pass first steps to the listener.
    pub fn pass(&self) {
        self.memory[CONTROL][0].store(0, Ordering::Release);
    }

    pub fn are_held(&self) -> bool {
        self.memory[CONTROL][0].load(Ordering::Relaxed) != 0
    }

    /// Removes a first step. Returns its time, or an earlier one: that of the last [`Self::hold`]
    /// before it.
    pub fn take(&self, source: IpAddr, destination: IpAddr, step: Step) -> Option<Boot> {
        let bucket = bucket(self.seed, source, destination, step);
        match self.memory[bucket / WORDS][bucket % WORDS].swap(0, Ordering::Relaxed) {
            0 => None,
            time => Some(Boot(time)),
        }
    }

    /// Packets held since the memory was made.
    pub fn held(&self) -> u64 {
        let counters = &self.memory[CONTROL + 1..];
        counters.iter().map(|line| line[HELD_PACKETS].load(Ordering::Relaxed)).sum()
    }

    /// What the filter does with a first step.
    #[cfg(any(test, fuzzing))]
    pub fn put(&self, source: IpAddr, destination: IpAddr, step: Step) {
        let bucket = bucket(self.seed, source, destination, step);
        let time = self.memory[CONTROL][0].load(Ordering::Relaxed);
        self.memory[bucket / WORDS][bucket % WORDS].store(time, Ordering::Relaxed);
        self.memory[CONTROL + 1][HELD_PACKETS].fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(any(test, fuzzing))]
    pub fn memory(&self) -> Vec<&'static [AtomicU64; WORDS]> {
        self.memory.iter().collect()
    }
}

/// The number of a step in the hash: its protocol's number, or that of ICMP for both families, and
/// its port or size.
pub fn code(step: Step) -> u32 {
    const ICMP: u32 = 1;
    let (protocol, number) = match step {
        Step::Port(Port { proto, number }) => (proto.number().into(), number),
        Step::Echo { size } => (ICMP, size),
    };
    protocol << 16 | u32::from(number)
}

fn bucket(seed: u64, source: IpAddr, destination: IpAddr, step: Step) -> usize {
    let mut bytes = [0; 32];
    let length = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes[..4].copy_from_slice(&source.octets());
            bytes[4..8].copy_from_slice(&destination.octets());
            8
        }
        (source, destination) => {
            bytes[..16].copy_from_slice(&as_v6(source));
            bytes[16..].copy_from_slice(&as_v6(destination));
            32
        }
    };
    let mut hash = seed ^ u64::from(code(step));
    let (words, _) = bytes[..length].as_chunks::<8>();
    for word in words {
        hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(MULTIPLIER);
        hash ^= hash >> 32;
    }
    let top = hash.wrapping_mul(MULTIPLIER) >> (u64::BITS - BUCKETS.trailing_zeros());
    usize::try_from(top).unwrap_or(0) % BUCKETS
}

fn as_v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));

    fn v4(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn a_first_step_is_taken_once_by_the_same_source_at_the_same_destination() {
        let it = FirstSteps::for_tests(7, Vec::new());
        let [a, b] = ["2001:db8::1", "2001:db8::2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        it.hold(Boot(5));
        for (source, destination) in [(v4(1), TO), (a, b)] {
            it.put(source, destination, Step::tcp(7));
            assert_eq!(it.take(destination, source, Step::tcp(7)), None);
            assert_eq!(it.take(source, source, Step::tcp(7)), None);
            for other in [Step::tcp(8), Step::udp(7), Step::Echo { size: 7 }] {
                assert_eq!(it.take(source, destination, other), None);
            }
            assert_eq!(it.take(source, destination, Step::tcp(7)), Some(Boot(5)));
            assert_eq!(it.take(source, destination, Step::tcp(7)), None);
        }
        assert_eq!(it.held(), 2);
    }

    #[test]
    fn sources_are_spread_over_all_buckets() {
        for seed in [0, 1, 0x0123_4567_89ab_cdef] {
            let mut sizes = vec![0u32; BUCKETS];
            for n in 0..BUCKETS as u32 * 8 {
                sizes[bucket(seed, v4(0x0a00_0000 + n), TO, Step::tcp(7000))] += 1;
            }
            let empty = sizes.iter().filter(|size| **size == 0).count();
            assert!(empty < BUCKETS / 100 && sizes.iter().all(|size| *size < 64), "{empty}");
        }
    }

    #[test]
    fn memory_of_another_size_is_refused() {
        let lines = (0..LINES - 1).map(|_| std::array::from_fn(|_| AtomicU64::new(0)));
        let memory = Box::leak(lines.collect::<Box<_>>());
        assert!(FirstSteps::new(memory, 1, Vec::new()).is_none());
    }
}
