//! The tags in memory that the kernel's filter reads while the listener writes it.
//!
//! A tag is written before it counts and erased after it has ceased to, and none is ever moved. So
//! the filter never misses a tag that [`super::TagTable`] knows. See `edge::ebpf` for the reader.

use std::sync::atomic::{AtomicU64, Ordering};

use super::TAG;
use super::tags::fold;

/// Words of a line, which is one value of the kernel's map: 64 bytes.
pub const WORDS: usize = 8;
/// A line of tags has so many, and one word that counts those that found no room in it. While that
/// is not 0, the filter lets everything pass that belongs to the line.
pub const PLACES: usize = WORDS - 1;
/// Lines of counters, behind those of tags: processors share one only if there are more of them.
pub const COUNTING: usize = 64;
/// Tags per line in a table of the expected size. A tag has two lines to choose from, so that
/// hardly any line gets full.
const EXPECTED: usize = 4;
/// The fewest lines, for gateways with few clients that get more.
const FEWEST: usize = 64;

/// The memory of a filter: lines of tags, a power of two of them, then [`COUNTING`] lines of
/// counters. A tag takes part by its fold, as in [`super::TagTable`].
#[derive(Clone, Copy)]
pub struct SharedTags {
    lines: &'static [[AtomicU64; WORDS]],
    counters: &'static [[AtomicU64; WORDS]],
}

/// Datagrams that the filter dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterDrops {
    /// No client has their tag.
    pub unknown_tag: u64,
    /// Their lengths disagree, or they are incomplete.
    pub length: u64,
}

/// The word of a line of counters that counts this.
pub const UNKNOWN_TAG: usize = 0;
pub const LENGTH: usize = 1;

impl SharedTags {
    /// Lines that hold so many tags, and the counters.
    pub fn lines_for(tags: usize) -> usize {
        tags.div_ceil(EXPECTED).max(FEWEST).next_power_of_two() + COUNTING
    }

    /// A table in this memory, which is all zero. `None` if its size is none of
    /// [`SharedTags::lines_for`].
    pub fn new(memory: &'static [[AtomicU64; WORDS]]) -> Option<Self> {
        let (lines, counters) = memory.split_at_checked(memory.len().checked_sub(COUNTING)?)?;
        lines.len().is_power_of_two().then_some(Self { lines, counters })
    }

    /// The number of lines with tags.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Adds a tag. One that is added twice must be removed twice.
    pub fn insert(&self, tag: &[u8; TAG]) {
        #[cfg(test)]
        changes::note(tag, true);
        let fold = fold(tag);
        let [one, other] = self.lines_of(fold);
        let emptier = if room(other) > room(one) { other } else { one };
        // Zero is what an empty place holds.
        match emptier[..PLACES].iter().find(|place| value(place) == 0) {
            Some(place) if fold != 0 => place.store(fold, Ordering::Release),
            _ => one[PLACES].store(value(&one[PLACES]).saturating_add(1), Ordering::Release),
        }
    }

    /// Removes a tag that was added.
    pub fn remove(&self, tag: &[u8; TAG]) {
        #[cfg(test)]
        changes::note(tag, false);
        let fold = fold(tag);
        let [one, other] = self.lines_of(fold);
        let mut places = one[..PLACES].iter().chain(&other[..PLACES]);
        match places.find(|place| value(place) == fold) {
            Some(place) if fold != 0 => place.store(0, Ordering::Release),
            _ => one[PLACES].store(value(&one[PLACES]).saturating_sub(1), Ordering::Release),
        }
    }

    /// True if the filter lets a datagram with this tag pass.
    pub fn passes(&self, tag: &[u8; TAG]) -> bool {
        let fold = fold(tag);
        let is_in = |line: &[AtomicU64; WORDS]| {
            value(&line[PLACES]) != 0 || line[..PLACES].iter().any(|place| value(place) == fold)
        };
        self.lines_of(fold).into_iter().any(is_in)
    }

    /// What the filter has dropped since it was made.
    pub fn dropped(&self) -> FilterDrops {
        let sum = |word: usize| self.counters.iter().map(|line| value(&line[word])).sum();
        FilterDrops { unknown_tag: sum(UNKNOWN_TAG), length: sum(LENGTH) }
    }

    /// All lines, those of counters too, as the kernel sees them.
    #[cfg(any(test, fuzzing))]
    pub fn memory_lines(&self) -> u64 {
        (self.lines.len() + self.counters.len()) as u64
    }

    #[cfg(any(test, fuzzing))]
    pub fn memory_word(&self, index: u64) -> &'static AtomicU64 {
        let mut lines = self.lines.iter().chain(self.counters);
        let line = lines.nth(index as usize / WORDS).expect("a line of this memory");
        &line[index as usize % WORDS]
    }

    /// A table with room for so many tags, in memory that is never freed.
    #[cfg(any(test, fuzzing))]
    pub fn for_tests(tags: usize) -> Self {
        let lines = (0..Self::lines_for(tags)).map(|_| std::array::from_fn(|_| AtomicU64::new(0)));
        Self::new(Box::leak(lines.collect::<Box<_>>())).expect("a table of this size")
    }

    /// The two lines that a tag may be in: by the lower and by the upper half of its fold.
    fn lines_of(&self, fold: u64) -> [&'static [AtomicU64; WORDS]; 2] {
        let last = self.lines.len() - 1;
        [fold as u32, (fold >> 32) as u32].map(|half| &self.lines[half as usize & last])
    }
}

fn room(line: &[AtomicU64; WORDS]) -> usize {
    line[..PLACES].iter().filter(|place| value(place) == 0).count()
}

fn value(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
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
mod tests {
    use super::*;

    /// Tags that look like those of clients.
    fn tags(count: u32) -> Vec<[u8; TAG]> {
        let tag = |n: u32| super::super::keyed16(&[7; 32], &[&n.to_be_bytes()]);
        (0..count).map(tag).collect()
    }

    fn is_blank(shared: &SharedTags) -> bool {
        (0..shared.memory_lines() * WORDS as u64).all(|word| value(shared.memory_word(word)) == 0)
    }

    #[test]
    fn what_was_added_passes_and_nothing_else_until_it_is_removed() {
        let shared = SharedTags::for_tests(400);
        let tags = tags(800);
        let (known, unknown) = tags.split_at(400);
        known.iter().for_each(|tag| shared.insert(tag));
        assert!(known.iter().all(|tag| shared.passes(tag)));
        assert!(!unknown.iter().any(|tag| shared.passes(tag)), "no line is full yet");
        for (index, tag) in known.iter().enumerate() {
            shared.remove(tag);
            assert!(!shared.passes(tag) && known[index + 1..].iter().all(|tag| shared.passes(tag)));
        }
        assert!(is_blank(&shared));
    }

    #[test]
    fn a_tag_without_room_passes_with_all_that_belongs_to_its_line_and_leaves_no_trace() {
        let shared = SharedTags::for_tests(1);
        assert_eq!(shared.len(), FEWEST);
        let tags = tags(2000);
        tags.iter().for_each(|tag| shared.insert(tag));
        assert!(tags.iter().all(|tag| shared.passes(tag)));
        // In another order: places get free while tags without room stay.
        let (some, others) = tags.split_at(1200);
        others.iter().for_each(|tag| shared.remove(tag));
        assert!(some.iter().all(|tag| shared.passes(tag)));
        some.iter().for_each(|tag| shared.remove(tag));
        assert!(is_blank(&shared) && !tags.iter().any(|tag| shared.passes(tag)));
    }

    #[test]
    fn a_tag_that_was_added_twice_is_removed_twice() {
        let shared = SharedTags::for_tests(100);
        let [tag] = [tags(1)[0]];
        for _ in 0..20 {
            shared.insert(&tag);
        }
        for _ in 0..20 {
            assert!(shared.passes(&tag));
            shared.remove(&tag);
        }
        assert!(is_blank(&shared));
    }

    #[test]
    fn a_tag_that_folds_to_what_an_empty_place_holds_passes_too() {
        let shared = SharedTags::for_tests(100);
        let fill: Vec<[u8; TAG]> =
            (0..14).map(|_| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0]).collect();
        fill.iter().for_each(|tag| shared.insert(tag));
        shared.insert(&[5; TAG]);
        assert!(shared.passes(&[5; TAG]));
        shared.remove(&[5; TAG]);
        fill.iter().for_each(|tag| shared.remove(tag));
        assert!(is_blank(&shared));
    }

    #[test]
    fn a_table_for_100_000_clients_has_room_for_all_and_takes_eight_megabytes() {
        let lines = SharedTags::lines_for(4 * 100_000) * WORDS * 8;
        assert!(lines <= (8 << 20) + COUNTING * 64, "{lines}");
        let shared = SharedTags::for_tests(4 * 131_072);
        let tags = tags(4 * 131_072);
        tags.iter().for_each(|tag| shared.insert(tag));
        let full = shared.lines.iter().filter(|line| value(&line[PLACES]) != 0).count();
        assert!(full < 50, "{full} lines of {} let everything pass", shared.len());
    }

    #[test]
    fn counters_of_all_processors_are_added() {
        let shared = SharedTags::for_tests(1);
        for (line, counters) in (1..).zip(shared.counters) {
            counters[UNKNOWN_TAG].store(line, Ordering::Relaxed);
            counters[LENGTH].store(1, Ordering::Relaxed);
        }
        assert_eq!(shared.dropped(), FilterDrops { unknown_tag: 2080, length: 64 });
    }

    #[test]
    fn memory_of_another_size_is_refused() {
        for lines in [0, COUNTING, COUNTING + 3, 100] {
            let lines = (0..lines).map(|_| std::array::from_fn(|_| AtomicU64::new(0)));
            assert!(SharedTags::new(Box::leak(lines.collect::<Box<_>>())).is_none());
        }
    }
}
