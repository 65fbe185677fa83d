//! The tag table: one look-up of sixteen bytes tells which client's MAC key to try.
//! A tag proves nothing. See `wire` for the MAC.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::{Secret, keyed16};

/// Bytes of a tag, a client's pseudonym for one day.
pub const TAG: usize = 16;

/// The day that a client's tag is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Day {
    /// The UTC day number, counted from the epoch, by the client's clock.
    Number(u64),
    /// For a client whose clock may be wrong. This tag never changes, so its knocks are linkable.
    Unknown,
}

impl Day {
    /// The tag that the owner of `key` sends.
    pub fn tag(self, key: &Secret<32>) -> [u8; TAG] {
        match self {
            Day::Number(day) => {
                keyed16(key.expose(), &[b"toctoc v1 tag of day\0", &day.to_be_bytes()])
            }
            Day::Unknown => keyed16(key.expose(), &[b"toctoc v1 tag without a clock\0"]),
        }
    }
}

/// Every valid tag: those of yesterday, today and tomorrow of each client, and the one without a
/// clock. Four entries per client, 16 bytes each; packets add none.
pub struct TagTable {
    today: u64,
    owners: HashMap<u64, TagOwner, BuildHasherDefault<TagHasher>>,
}

struct TagOwner {
    /// [`NOBODY`] if two clients have this tag: it must not be taken for either's.
    row: u32,
    /// The day of the tag; [`ANY_DAY`] for the tag without a clock.
    day: u32,
}

/// Chance makes two tags equal once in 2^64 pairs. Such a pair is dead until the table is made
/// again.
const NOBODY: u32 = u32::MAX;
const ANY_DAY: u32 = u32::MAX;

impl TagTable {
    /// An empty table for the days around `today`.
    pub fn new(today: u64) -> Self {
        Self { today, owners: HashMap::default() }
    }

    /// Makes room for the tags of so many clients.
    pub fn reserve(&mut self, clients: usize) {
        self.owners.reserve(4 * clients);
    }

    /// Adds the four tags of the client in `row`.
    pub fn insert(&mut self, row: u32, key: &Secret<32>) {
        self.put(row, Day::Unknown, key);
        for day in around(self.today) {
            self.put(row, Day::Number(day), key);
        }
    }

    /// Removes the four tags of the client in `row`.
    pub fn remove(&mut self, row: u32, key: &Secret<32>) {
        for day in around(self.today).map(Day::Number).chain([Day::Unknown]) {
            let tag = fold(&day.tag(key));
            if self.owners.get(&tag).is_some_and(|owner| owner.row == row) {
                self.owners.remove(&tag);
            }
        }
    }

    /// Moves the table to `today`, forwards or backwards. It computes only missing tags: at
    /// midnight one hash per client. `clients` are all that were inserted.
    pub fn advance(&mut self, today: u64, clients: impl IntoIterator<Item = (u32, Secret<32>)>) {
        if today == self.today {
            return;
        }
        let old = around(self.today);
        let new = around(today);
        self.today = today;
        let stay: Vec<u32> = new.clone().map(short).collect();
        self.owners.retain(|_, owner| owner.day == ANY_DAY || stay.contains(&owner.day));
        for (row, key) in clients {
            for day in new.clone().filter(|day| !old.contains(day)) {
                self.put(row, Day::Number(day), &key);
            }
        }
    }

    /// The row of the one client that has this tag.
    pub fn find(&self, tag: &[u8; TAG]) -> Option<u32> {
        #[cfg(test)]
        crate::core::op_counter::count(|done| done.look_ups += 1);
        let owner = self.owners.get(&fold(tag))?;
        if owner.row == NOBODY { None } else { Some(owner.row) }
    }

    fn put(&mut self, row: u32, day: Day, key: &Secret<32>) {
        self.put_tag(row, day, day.tag(key));
    }

    fn put_tag(&mut self, row: u32, day: Day, tag: [u8; TAG]) {
        let day = match day {
            Day::Number(day) => short(day),
            Day::Unknown => ANY_DAY,
        };
        let owner = self.owners.entry(fold(&tag)).or_insert(TagOwner { row, day });
        if owner.row != row {
            *owner = TagOwner { row: NOBODY, day: ANY_DAY };
        }
    }
}

/// Half of a tag is enough to look it up: a tag proves nothing, and the client MAC is checked next.
fn fold(tag: &[u8; TAG]) -> u64 {
    let tag = u128::from_be_bytes(*tag);
    (tag >> 64) as u64 ^ tag as u64
}

/// The number of a day in four bytes. Days that differ only above that are never in one table.
fn short(day: u64) -> u32 {
    u32::try_from(day).unwrap_or(ANY_DAY - 1)
}

/// Yesterday, today, tomorrow.
fn around(today: u64) -> std::ops::RangeInclusive<u64> {
    today.saturating_sub(1)..=today.saturating_add(1)
}

/// Takes a folded tag as its own hash: a tag in the table is the output of a keyed hash under keys
/// that no attacker chooses. Attackers choose only what is looked up.
#[derive(Default)]
struct TagHasher(u64);

impl Hasher for TagHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, folded: u64) {
        self.0 = folded;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Secret<32> {
        Secret::new([byte; 32])
    }

    fn two_clients(today: u64) -> TagTable {
        let mut table = TagTable::new(today);
        table.insert(0, &key(1));
        table.insert(1, &key(2));
        table
    }

    #[test]
    fn a_client_is_found_on_three_days_and_without_a_clock() {
        let table = two_clients(100);
        for day in [Day::Number(99), Day::Number(100), Day::Number(101), Day::Unknown] {
            assert_eq!(table.find(&day.tag(&key(2))), Some(1), "{day:?}");
        }
        for day in [Day::Number(98), Day::Number(102)] {
            assert_eq!(table.find(&day.tag(&key(2))), None, "{day:?}");
        }
        assert_eq!(table.find(&Day::Number(100).tag(&key(3))), None);
    }

    #[test]
    fn a_table_that_moved_equals_a_new_one() {
        for (from, to) in
            [(100, 101), (100, 99), (100, 102), (100, 500), (100, 0), (0, 1), (100, u64::MAX)]
        {
            let mut moved = two_clients(from);
            moved.advance(to, [(0, key(1)), (1, key(2))]);
            let fresh = two_clients(to);
            assert_eq!(moved.owners.len(), fresh.owners.len(), "{from} -> {to}");
            for (tag, owner) in &fresh.owners {
                let moved = moved.owners.get(tag).map(|owner| owner.row);
                assert_eq!(moved, Some(owner.row), "{from} -> {to}");
            }
        }
    }

    #[test]
    fn a_tag_of_two_clients_belongs_to_neither() {
        let mut table = two_clients(100);
        table.insert(2, &key(1));
        assert_eq!(table.find(&Day::Number(100).tag(&key(1))), None);
        assert_eq!(table.find(&Day::Unknown.tag(&key(1))), None);
        assert_eq!(table.find(&Day::Number(100).tag(&key(2))), Some(1));
        table.advance(101, [(0, key(1)), (1, key(2)), (2, key(1))]);
        assert_eq!(table.find(&Day::Number(102).tag(&key(1))), None, "nor tomorrow");
        table.insert(1, &key(2));
        assert_eq!(
            table.find(&Day::Number(101).tag(&key(2))),
            Some(1),
            "the same client twice is no collision"
        );
    }

    #[test]
    fn a_tag_that_two_clients_had_on_different_days_stays_dead() {
        let mut table = TagTable::new(100);
        table.put_tag(0, Day::Number(99), [9; 16]);
        table.put_tag(1, Day::Number(101), [9; 16]);
        for today in [101, 103] {
            table.advance(today, []);
            assert_eq!(table.find(&[9; 16]), None);
        }
    }

    #[test]
    fn a_removed_client_has_no_tag_and_the_others_keep_theirs() {
        let mut table = two_clients(100);
        table.remove(0, &key(1));
        assert_eq!(table.owners.len(), 4);
        for day in [Day::Number(99), Day::Number(100), Day::Number(101), Day::Unknown] {
            assert_eq!(table.find(&day.tag(&key(1))), None, "{day:?}");
            assert_eq!(table.find(&day.tag(&key(2))), Some(1), "{day:?}");
        }
        table.remove(0, &key(2));
        assert_eq!(table.owners.len(), 4, "that row never had them");
        table.insert(0, &key(1));
        table.advance(101, [(0, key(1)), (1, key(2))]);
        assert_eq!(table.owners.len(), 8, "the row can be used again");
    }

    #[test]
    fn tags_are_spread_over_the_table_so_that_a_look_up_stays_one_step() {
        let mut hashes = std::collections::HashSet::new();
        for byte in 0..=u8::MAX {
            for day in [Day::Unknown, Day::Number(100)] {
                let mut hasher = TagHasher::default();
                std::hash::Hash::hash(&fold(&day.tag(&key(byte))), &mut hasher);
                hashes.insert(hasher.finish());
            }
        }
        assert_eq!(hashes.len(), 512);
    }
}
