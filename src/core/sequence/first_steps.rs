//! First steps that the kernel's filter holds: memory that the filter writes and the listener
//! reads. See `flood` for when, `edge::ebpf::first_steps` for the writer.
//!
//! The memory has a bucket for each hash of source, destination and step, which keeps the time of
//! the last such packet. So no flood fills it, and the listener needs to see later steps only. Where
//! a flood has been in all buckets, a first step counts as made by everybody.
//!
//! A first step may be a later step too: a door may close by the reverse of the sequence that opens
//! it. Such a step passes from a source that made the step before it. Other buckets, of source and
//! destination, keep which step that was, and its time.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::door::Step;
#[cfg(any(test, fuzzing))]
use crate::core::door::first_steps::FirstStep;
use crate::core::door::first_steps::{HELD, HeldSteps};
use crate::core::keyring::{COUNTING, WORDS};
#[cfg(any(test, fuzzing))]
use crate::core::sequence::KnockPacket;
use crate::core::types::{Boot, Port, SECOND};

/// Buckets of first steps. As many for sources from which a first step is expected stand behind
/// them.
pub const BUCKETS: usize = 1 << 16;
/// The bits of a bucket of sources with the number of the step; the others are nanoseconds.
pub const NUMBER: u64 = HELD as u64 - 1;
/// The line behind the buckets. Its first word is the time that the filter writes into those of
/// first steps; 0 = the filter holds nothing.
pub const CONTROL: usize = 2 * BUCKETS / WORDS;
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
    steps: HeldSteps,
}

impl FirstSteps {
    /// First steps in this memory, which is all zero. `seed`: random, so that nobody can aim at the
    /// bucket of somebody else. `None` if the memory has another size than [`LINES`].
    pub fn new(memory: &'static [[AtomicU64; WORDS]], seed: u64, steps: HeldSteps) -> Option<Self> {
        (memory.len() == LINES).then_some(Self { memory, seed, steps })
    }

    /// In memory that is never freed.
    #[cfg(any(test, fuzzing))]
    pub fn for_tests(seed: u64, steps: HeldSteps) -> Self {
        let lines = (0..LINES).map(|_| std::array::from_fn(|_| AtomicU64::new(0)));
        Self::new(Box::leak(lines.collect::<Box<_>>()), seed, steps).expect("memory of this size")
    }

    pub fn steps(&self) -> &HeldSteps {
        &self.steps
    }

    /// Nanoseconds for which a first step is expected.
    pub fn expected_for(&self) -> u64 {
        u64::from(self.steps.seconds) * SECOND
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn includes(&self, step: Step) -> bool {
        self.steps.first.iter().any(|first| first.step == step)
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
        match self.bucket(source, destination, step).swap(0, Ordering::Relaxed) {
            0 => None,
            time => Some(Boot(time)),
        }
    }

    /// Packets held since the memory was made.
    pub fn held(&self) -> u64 {
        let counters = &self.memory[CONTROL + 1..];
        counters.iter().map(|line| line[HELD_PACKETS].load(Ordering::Relaxed)).sum()
    }

    /// What the filter does with a packet that fits a door's flags, with the clock at `time`. True
    /// if it holds the packet.
    #[cfg(any(test, fuzzing))]
    pub fn filter(&self, hit: &KnockPacket, time: Boot) -> bool {
        let KnockPacket { source, destination, step, flags } = *hit;
        let first = self.steps.first.iter().find(|first| first.step == step);
        let fits = |first: &FirstStep| !step.is_tcp() || first.flags.misfit(flags).is_none();
        let expected = self.expected(source, destination);
        let last = expected.load(Ordering::Relaxed);
        let is_expected = |first: &FirstStep| {
            last != 0
                && first.after >> (last & NUMBER) & 1 != 0
                && (time.0 | NUMBER) - last < self.expected_for()
        };
        let held = self.are_held() && first.is_some_and(|it| fits(it) && !is_expected(it));
        if held {
            let now = self.memory[CONTROL][0].load(Ordering::Relaxed);
            self.bucket(source, destination, step).store(now, Ordering::Relaxed);
            self.memory[CONTROL + 1][HELD_PACKETS].fetch_add(1, Ordering::Relaxed);
        }
        if let Some(number) = self.steps.before.iter().position(|before| *before == step) {
            expected.store(time.0 & !NUMBER | number as u64, Ordering::Relaxed);
        }
        held
    }

    fn bucket(&self, source: IpAddr, destination: IpAddr, step: Step) -> &'static AtomicU64 {
        let hash = mix(hash_addresses(self.seed, source, destination), code(step).into());
        self.word(place(hash))
    }

    /// The last step of this source after which first steps are expected.
    #[cfg(any(test, fuzzing))]
    pub fn expected(&self, source: IpAddr, destination: IpAddr) -> &'static AtomicU64 {
        let hash = hash_addresses(self.seed, source, destination);
        self.word(BUCKETS + place(hash))
    }

    fn word(&self, index: usize) -> &'static AtomicU64 {
        &self.memory[index / WORDS][index % WORDS]
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

fn hash_addresses(seed: u64, source: IpAddr, destination: IpAddr) -> u64 {
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
    let (words, _) = bytes[..length].as_chunks::<8>();
    words.iter().fold(seed, |hash, word| mix(hash, u64::from_le_bytes(*word)))
}

fn mix(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(MULTIPLIER);
    hash ^ hash >> 32
}

/// The bucket of a hash.
fn place(hash: u64) -> usize {
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
    use crate::core::door::TcpFlags;

    const TO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));

    fn v4(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    fn hit(source: IpAddr, destination: IpAddr, port: u16) -> KnockPacket {
        KnockPacket { source, destination, step: Step::tcp(port), flags: Some(0) }
    }

    /// Door 7, 8, 9 and one that is its reverse, and 4 behind a 3.
    fn both_ways() -> FirstSteps {
        let first =
            |port, after| FirstStep { step: Step::tcp(port), flags: TcpFlags::default(), after };
        let before = [3, 8].map(Step::tcp).into();
        let first = vec![first(4, 1), first(7, 2), first(9, 2)];
        FirstSteps::for_tests(7, HeldSteps { first, before, seconds: 10 })
    }

    #[test]
    fn a_first_step_is_taken_once_by_the_same_source_at_the_same_destination() {
        let it = both_ways();
        let [a, b] = ["2001:db8::1", "2001:db8::2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        it.hold(Boot(5));
        for (source, destination) in [(v4(1), TO), (a, b)] {
            assert!(it.filter(&hit(source, destination, 7), Boot(1)));
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
    fn a_first_step_passes_from_a_source_that_made_the_step_before_it() {
        let it = both_ways();
        let at = |second: u64| Boot(second * SECOND);
        it.hold(at(90));
        for second in [0, 100] {
            assert!(it.filter(&hit(v4(1), TO, 9), at(second)), "nobody has made any");
        }
        it.pass();
        assert!(!it.filter(&hit(v4(1), TO, 8), at(100)), "kept also when nothing is held");
        it.hold(at(100));
        for second in [100, 103, 109] {
            assert!(!it.filter(&hit(v4(1), TO, 9), at(second)));
            assert!(it.filter(&hit(v4(1), TO, 4), at(second)), "another step");
            assert!(it.filter(&hit(v4(2), TO, 9), at(second)), "from another source");
            assert!(it.filter(&hit(v4(1), v4(3), 9), at(second)), "to another address");
        }
        assert!(it.filter(&hit(v4(1), TO, 9), at(110)), "too late");
        assert!(!it.filter(&hit(v4(1), TO, 8), Boot(at(120).0 + 60)));
        assert!(!it.filter(&hit(v4(1), TO, 3), Boot(at(120).0 + 61)));
        assert!(!it.filter(&hit(v4(1), TO, 4), Boot(at(120).0)), "on another processor");
        assert!(it.filter(&hit(v4(1), TO, 7), at(121)), "the last step counts");
    }

    #[test]
    fn sources_are_spread_over_all_buckets() {
        for seed in [0, 1, 0x0123_4567_89ab_cdef] {
            for step in [None, Some(7000)] {
                let mut sizes = vec![0u32; BUCKETS];
                for n in 0..BUCKETS as u32 * 8 {
                    let hash = hash_addresses(seed, v4(0x0a00_0000 + n), TO);
                    sizes[place(step.map_or(hash, |step| mix(hash, step)))] += 1;
                }
                let empty = sizes.iter().filter(|size| **size == 0).count();
                assert!(empty < BUCKETS / 100 && sizes.iter().all(|size| *size < 64), "{empty}");
            }
        }
    }

    #[test]
    fn memory_of_another_size_is_refused() {
        let lines = (0..LINES - 1).map(|_| std::array::from_fn(|_| AtomicU64::new(0)));
        let memory = Box::leak(lines.collect::<Box<_>>());
        assert!(FirstSteps::new(memory, 1, HeldSteps::default()).is_none());
    }
}
