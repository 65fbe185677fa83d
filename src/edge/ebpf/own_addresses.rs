//! This machine's addresses in memory that the XDP program reads while the listener writes it, and
//! what that program has dropped.
//!
//! An address that finds no place is missing: packets to it reach the stack as if there were no
//! program. So is one that is just being written.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::keyring::{COUNTING, WORDS};

/// Lines of addresses: a prime, so that each bit of an address counts for its line. Behind them are
/// [`COUNTING`] lines, whose first words count.
pub(super) const LINES: usize = 61;
/// Addresses in a line, of two words each.
pub(super) const PLACES: usize = WORDS / 2;
/// All lines.
pub(super) const ALL: usize = LINES + COUNTING;

#[derive(Clone, Copy)]
pub struct OwnAddresses {
    lines: &'static [[AtomicU64; WORDS]],
    counters: &'static [[AtomicU64; WORDS]],
}

/// An address as the program compares it: IPv4 as in `::ffff:192.0.2.1`, and each half as the
/// processor loads it.
type Words = [u64; 2];

impl OwnAddresses {
    /// Addresses in this memory, which is all zero. `None` if it has another
    /// number of lines than it takes.
    pub fn new(memory: &'static [[AtomicU64; WORDS]]) -> Option<Self> {
        let (lines, counters) = memory.split_at_checked(LINES)?;
        (memory.len() == ALL).then_some(Self { lines, counters })
    }

    /// Memory for no addresses yet, never freed.
    #[cfg(any(test, fuzzing))]
    pub fn for_tests() -> Self {
        let lines = (0..ALL).map(|_| std::array::from_fn(|_| AtomicU64::new(0)));
        Self::new(Box::leak(lines.collect::<Box<_>>())).expect("this size")
    }

    /// Replaces the addresses. One that stays is there all the time.
    pub fn set(&self, addresses: &[IpAddr]) {
        let mut wanted: BTreeSet<Words> = addresses.iter().map(|ip| words(*ip)).collect();
        wanted.remove(&[0; 2]);
        for place in self.lines.iter().flat_map(|line| line.as_chunks::<2>().0) {
            // Taken out of `wanted`, for it has its place.
            if !wanted.remove(&read(place)) {
                write(place, [0; 2]);
            }
        }
        for address in wanted {
            let line = &self.lines[line_of(address)];
            if let Some(free) = line.as_chunks::<2>().0.iter().find(|place| read(place) == [0; 2]) {
                write(free, address);
            }
        }
    }

    /// Datagrams that the program dropped.
    pub fn dropped(&self) -> u64 {
        self.counters.iter().map(|line| line[0].load(Ordering::Relaxed)).sum()
    }

    /// True if the program takes this address for ours.
    #[cfg(any(test, fuzzing))]
    pub fn has(&self, address: IpAddr) -> bool {
        let wanted = words(address);
        let line = self.lines[line_of(wanted)].as_chunks::<2>().0;
        wanted != [0; 2] && line.iter().any(|place| read(place) == wanted)
    }

    /// All lines, as the kernel sees them.
    #[cfg(any(test, fuzzing))]
    pub(super) fn memory(&self) -> Vec<&'static [AtomicU64; WORDS]> {
        self.lines.iter().chain(self.counters).collect()
    }
}

fn words(address: IpAddr) -> Words {
    let bytes = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let (halves, _) = bytes.as_chunks::<8>();
    [halves[0], halves[1]].map(u64::from_le_bytes)
}

/// The line of an address, as the program computes it.
fn line_of([one, other]: Words) -> usize {
    ((one ^ other) % LINES as u64) as usize
}

fn read([one, other]: &[AtomicU64; 2]) -> Words {
    [one.load(Ordering::Relaxed), other.load(Ordering::Relaxed)]
}

fn write([one, other]: &[AtomicU64; 2], [first, second]: Words) {
    one.store(first, Ordering::Release);
    other.store(second, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_new_list_of_addresses_replaces_the_old_one_and_zero_is_never_ours() {
        let own = OwnAddresses::for_tests();
        let lists = [
            ips(&["192.0.2.1", "2001:db8::1", "0.0.0.0"]),
            ips(&["2001:db8::1", "::", "::1", "192.0.2.2"]),
            ips(&[]),
        ];
        for list in &lists {
            own.set(list);
            for ip in lists.iter().flatten() {
                assert_eq!(own.has(*ip), list.contains(ip) && ip.to_string() != "::", "{ip}");
            }
        }
        let blank = |word: &AtomicU64| word.load(Ordering::Relaxed) == 0;
        assert!(own.memory().iter().all(|line| line.iter().all(blank)));
    }

    #[test]
    fn a_hundred_addresses_of_one_network_have_room_and_what_has_none_is_not_ours() {
        let own = OwnAddresses::for_tests();
        let network = |n: u32| IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        let hundred: Vec<IpAddr> = (1..=100).map(network).collect();
        own.set(&hundred);
        assert!(hundred.iter().all(|ip| own.has(*ip)));
        let crowd: Vec<IpAddr> = (1..=5000).map(network).collect();
        own.set(&crowd);
        let had = crowd.iter().filter(|ip| own.has(**ip)).count();
        assert_eq!(had, LINES * PLACES);
        assert!(hundred.iter().all(|ip| own.has(*ip)), "those that were there stay");
    }
}
