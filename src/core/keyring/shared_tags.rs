//! The tags in memory that the kernel's filter reads while the listener writes it, and what belongs
//! to them: the keys of client MACs, and packets whose copies are useless.
//!
//! A tag is written before it counts and erased after it has ceased to, and none is ever moved. A
//! key is written before its tag and wiped after it. So the filter never misses a tag that
//! [`super::TagTable`] knows, nor its key. See `edge::ebpf` for the reader.

#[cfg(any(test, fuzzing))]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use super::TAG;
use super::filter_keys::{FilterKey, FilterKeys, KEY_WORDS};
use super::shared_line::{Line, WORDS, value};
use super::tags::fold;
use super::useless_copies::{COPY_LINES, UselessCopies};
use crate::core::types::Source;

/// A line of tags has so many, and one word that counts those that found no room in it. While that
/// is not 0, the filter lets everything pass that belongs to the line.
pub const PLACES: usize = WORDS - 1;
/// Lines of counters, behind those of tags: processors share one only if there are more of them.
pub const COUNTING: usize = 64;
/// Keys for each line of tags. Where there are as many tags as keys, each line has so many of them
/// on average. A tag has two lines to choose from, so that even then hardly any line gets full.
const KEYS_EACH: usize = 5;
/// There is room for so many tags more than are asked for, and for one in so many: those of clients
/// that come later.
const MORE: usize = 1024;
const ONE_MORE_IN: usize = 16;

/// The memory of a filter: lines of tags, [`COUNTING`] lines of counters, then the keys, a word for
/// each of them that is the filter's own, and the useless copies.
///
/// A tag takes part by its fold, as in [`super::TagTable`]. Each half of the fold leads to a line.
/// A place in it has both halves in 32 bits, and the number of the tag's key, from 1 on. Two tags
/// with the same bits in one line are no harm: the filter lets pass what fits both.
#[derive(Clone, Copy)]
pub struct SharedTags {
    #[cfg(any(test, fuzzing))]
    memory: &'static [Line],
    lines: &'static [Line],
    counters: &'static [Line],
    keys: FilterKeys,
    copies: UselessCopies,
}

/// Packets that the filter dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterDrops {
    /// No client has their tag.
    pub unknown_tag: u64,
    /// Their lengths disagree, or they are incomplete.
    pub length: u64,
    /// Their client MAC is wrong.
    pub client_mac: u64,
    /// They were copies of a packet that can only be rejected.
    pub copies: u64,
    /// Their client sends much faster than it may.
    pub quota: u64,
    /// They were first steps at doors, in a flood: [`crate::core::sequence::first_steps`].
    pub first_step: u64,
}

/// The word of a line of counters that counts this.
pub const UNKNOWN_TAG: usize = 0;
pub const LENGTH: usize = 1;
pub const CLIENT_MAC: usize = 2;
pub const COPIES: usize = 3;
pub const QUOTA: usize = 4;

/// A line that a tag may be in, and what a place in it has of the tag.
struct Home {
    line: &'static Line,
    bits: u32,
}

impl FilterDrops {
    pub fn plus(self, other: Self) -> Self {
        Self {
            unknown_tag: self.unknown_tag.saturating_add(other.unknown_tag),
            length: self.length.saturating_add(other.length),
            client_mac: self.client_mac.saturating_add(other.client_mac),
            copies: self.copies.saturating_add(other.copies),
            quota: self.quota.saturating_add(other.quota),
            first_step: self.first_step.saturating_add(other.first_step),
        }
    }
}

impl SharedTags {
    /// Lines that hold so many tags, and all else.
    pub fn lines_for(tags: usize) -> usize {
        let room = tags.saturating_add(tags / ONE_MORE_IN).saturating_add(MORE);
        let lines = room.div_ceil(KEYS_EACH).next_multiple_of(WORDS);
        lines + COUNTING + key_lines(lines) + rate_lines(lines) + COPY_LINES
    }

    /// A table in this memory, which is all zero. `None` if its size is none of
    /// [`SharedTags::lines_for`].
    pub fn new(memory: &'static [Line]) -> Option<Self> {
        let for_tags = memory.len().checked_sub(COUNTING + COPY_LINES)?;
        let eight = WORDS + key_lines(WORDS) + rate_lines(WORDS);
        let count = for_tags / eight * WORDS;
        if count == 0 || !for_tags.is_multiple_of(eight) {
            return None;
        }
        let (lines, rest) = memory.split_at_checked(count)?;
        let (counters, rest) = rest.split_at_checked(COUNTING)?;
        let (keys, rest) = rest.split_at_checked(key_lines(count))?;
        let (_, copies) = rest.split_at_checked(rate_lines(count))?;
        let (keys, copies) = (FilterKeys(keys), UselessCopies(copies));
        Some(Self {
            #[cfg(any(test, fuzzing))]
            memory,
            lines,
            counters,
            keys,
            copies,
        })
    }

    /// The number of lines with tags.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The first line of keys: each has two.
    pub fn keys_at(&self) -> usize {
        self.len() + COUNTING
    }

    /// The first line of the filter's own words: each line has those of eight keys.
    pub fn rates_at(&self) -> usize {
        self.keys_at() + key_lines(self.len())
    }

    /// The first line of useless copies.
    pub fn copies_at(&self) -> usize {
        self.rates_at() + rate_lines(self.len())
    }

    /// Adds a tag. One that is added twice must be removed twice.
    pub fn insert(&self, key: &FilterKey) {
        #[cfg(test)]
        changes::note(&key.tag, true);
        let fold = fold(&key.tag);
        let [one, other] = self.homes_of(fold);
        let emptier = if room(other.line) > room(one.line) { &other } else { &one };
        let place = emptier.line[..PLACES].iter().find(|place| value(place) == 0);
        if let Some(place) = place
            && let Some(number) = self.keys.add(fold, key)
        {
            place.store(u64::from(emptier.bits) << 32 | u64::from(number + 1), Ordering::Release);
        } else {
            let without_room = &one.line[PLACES];
            without_room.store(value(without_room).saturating_add(1), Ordering::Release);
        }
    }

    /// Removes a tag that was added, and wipes its key.
    pub fn remove(&self, key: &FilterKey) {
        #[cfg(test)]
        changes::note(&key.tag, false);
        let homes = self.homes_of(fold(&key.tag));
        for Home { line, bits } in &homes {
            for place in &line[..PLACES] {
                if let Some(number) = key_number(value(place), *bits)
                    && self.keys.has(number, key)
                {
                    place.store(0, Ordering::Release);
                    return self.keys.wipe(number);
                }
            }
        }
        let without_room = &homes[0].line[PLACES];
        without_room.store(value(without_room).saturating_sub(1), Ordering::Release);
    }

    /// Lets the filter drop copies of a packet, known by the first half of its client MAC, unless
    /// they come from `except`.
    pub fn drop_copies(&self, packet: u64, except: Option<Source>) {
        self.copies.add(packet, except);
    }

    /// True if the filter goes on with a datagram that has this tag.
    pub fn passes(&self, tag: &[u8; TAG]) -> bool {
        let is_in = |Home { line, bits }: Home| {
            let is_it = |place| key_number(value(place), bits).is_some();
            value(&line[PLACES]) != 0 || line[..PLACES].iter().any(is_it)
        };
        self.homes_of(fold(tag)).into_iter().any(is_in)
    }

    /// What the filter has dropped since it was made.
    pub fn dropped(&self) -> FilterDrops {
        let sum = |word: usize| self.counters.iter().map(|line| value(&line[word])).sum();
        FilterDrops {
            unknown_tag: sum(UNKNOWN_TAG),
            length: sum(LENGTH),
            client_mac: sum(CLIENT_MAC),
            copies: sum(COPIES),
            quota: sum(QUOTA),
            first_step: 0,
        }
    }

    /// All lines, as the kernel sees them.
    #[cfg(any(test, fuzzing))]
    pub fn memory(&self) -> Vec<&'static Line> {
        self.memory.iter().collect()
    }

    /// A table with room for so many tags, in memory that is never freed.
    #[cfg(any(test, fuzzing))]
    pub fn for_tests(tags: usize) -> Self {
        let lines = (0..Self::lines_for(tags)).map(|_| std::array::from_fn(|_| AtomicU64::new(0)));
        Self::new(Box::leak(lines.collect::<Box<_>>())).expect("a table of this size")
    }

    /// The two lines that a tag may be in: by the lower and by the upper half of its fold.
    fn homes_of(&self, fold: u64) -> [Home; 2] {
        let count = self.lines.len();
        let [lower, upper] = [fold as u32, (fold >> 32) as u32];
        let home = |half: u32, bits| Home { line: &self.lines[half as usize % count], bits };
        // They differ, as both may be the same line.
        [home(lower, lower ^ upper), home(upper, !(lower ^ upper))]
    }
}

/// Lines with the keys that belong to so many lines of tags, a multiple of [`WORDS`].
fn key_lines(lines: usize) -> usize {
    lines * KEYS_EACH * KEY_WORDS / WORDS
}

/// Lines with a word for each of these keys.
fn rate_lines(lines: usize) -> usize {
    lines * KEYS_EACH / WORDS
}

/// The number of the key in a place that has these bits of a tag.
fn key_number(place: u64, bits: u32) -> Option<u32> {
    if (place >> 32) as u32 == bits { (place as u32).checked_sub(1) } else { None }
}

fn room(line: &Line) -> usize {
    line[..PLACES].iter().filter(|place| value(place) == 0).count()
}

/// The order in which tags come and go, for tests.
#[cfg(test)]
pub(in crate::core) mod changes {
    use std::cell::RefCell;

    use super::TAG;

    #[derive(Clone, Copy)]
    pub(in crate::core) struct Change {
        pub(in crate::core) tag: [u8; TAG],
        pub(in crate::core) added: bool,
    }

    thread_local! {
        static NOTED: RefCell<Vec<Change>> = RefCell::default();
    }

    pub(super) fn note(tag: &[u8; TAG], added: bool) {
        NOTED.with_borrow_mut(|noted| noted.push(Change { tag: *tag, added }));
    }

    /// Those of this thread since the last call.
    pub(in crate::core) fn take() -> Vec<Change> {
        NOTED.take()
    }
}

#[cfg(test)]
mod tests;
