//! The tag table: one look-up of sixteen bytes tells which client's MAC key to try.
//! A tag proves nothing. See `wire` for the MAC.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::{SLOTS, TAG};

/// Every valid tag: the [`SLOTS`] of each client, 12 bytes each. Packets add none.
#[derive(Default)]
pub struct TagTable {
    owners: HashMap<Fold, Owner, BuildHasherDefault<TagHasher>>,
}

/// A folded tag, so that an owner behind it needs no padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(Rust, packed(4))]
struct Fold(u64);

/// A [`TagOwner`] in four bytes: [`SLOTS`] times its row, and its slot.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Owner(u32);

/// A client's row, and which of its tags it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagOwner {
    pub row: u32,
    pub slot: u8,
}

/// Whose a tag is that two clients have: it must not be taken for either's. Chance makes two tags
/// equal once in 2^64 pairs. Such a pair is dead until the table is made again.
const NOBODY: Owner = Owner(u32::MAX);

impl Owner {
    fn new(row: u32, slot: u32) -> Self {
        Self(row * SLOTS as u32 + slot)
    }

    fn row(self) -> u32 {
        self.0 / SLOTS as u32
    }

    fn slot(self) -> u8 {
        (self.0 % SLOTS as u32) as u8
    }
}

impl TagTable {
    /// Makes room for the tags of so many clients.
    pub fn reserve(&mut self, clients: usize) {
        self.owners.reserve(SLOTS * clients);
    }

    /// Adds the tags of the client in `row`.
    pub fn insert(&mut self, row: u32, tags: &[Option<[u8; TAG]>; SLOTS]) {
        for (slot, tag) in (0..).zip(tags) {
            let Some(tag) = tag else { continue };
            let mine = Owner::new(row, slot);
            let owner = self.owners.entry(Fold(fold(tag))).or_insert(mine);
            *owner = if owner.row() == row { mine } else { NOBODY };
        }
    }

    /// Removes the tags of the client in `row`.
    pub fn remove(&mut self, row: u32, tags: &[Option<[u8; TAG]>; SLOTS]) {
        for tag in tags.iter().flatten().map(|tag| Fold(fold(tag))) {
            if self.owners.get(&tag).is_some_and(|owner| owner.row() == row) {
                self.owners.remove(&tag);
            }
        }
    }

    /// The one client that has this tag.
    pub fn find(&self, tag: &[u8; TAG]) -> Option<TagOwner> {
        #[cfg(test)]
        crate::core::op_counter::count(|done| done.look_ups += 1);
        let owner = *self.owners.get(&Fold(fold(tag)))?;
        if owner == NOBODY {
            return None;
        }
        Some(TagOwner { row: owner.row(), slot: owner.slot() })
    }
}

/// Half of a tag is enough to look it up: a tag proves nothing, and the client MAC is checked next.
pub(super) fn fold(tag: &[u8; TAG]) -> u64 {
    let tag = u128::from_be_bytes(*tag);
    (tag >> 64) as u64 ^ tag as u64
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
    use crate::core::keyring::{Master, Secret};
    use crate::core::types::ClientId;

    fn tags(client: u8, day: u32) -> [[u8; TAG]; SLOTS] {
        let master = Master::new(Secret::new([1; 32]));
        master.client_secrets(ClientId([client; 16]), 0).wire_row(day).tags().map(Option::unwrap)
    }

    fn two_clients() -> TagTable {
        let mut table = TagTable::default();
        table.insert(0, &tags(1, 100).map(Some));
        table.insert(1, &tags(2, 100).map(Some));
        table
    }

    #[test]
    fn a_client_is_found_on_three_days_and_without_a_clock() {
        let table = two_clients();
        for (slot, tag) in (0..).zip(tags(2, 100)) {
            assert_eq!(table.find(&tag), Some(TagOwner { row: 1, slot }));
        }
        let [_, _, in_two_days, _] = tags(2, 101);
        let [two_days_ago, _, _, _] = tags(2, 99);
        assert_eq!((table.find(&in_two_days), table.find(&two_days_ago)), (None, None));
        assert_eq!(table.find(&tags(3, 100)[1]), None);
    }

    #[test]
    fn a_tag_of_two_clients_belongs_to_neither() {
        let mut table = two_clients();
        table.insert(2, &tags(1, 100).map(Some));
        for tag in tags(1, 100) {
            assert_eq!(table.find(&tag), None);
        }
        table.insert(1, &tags(2, 100).map(Some));
        let same = table.find(&tags(2, 100)[1]).unwrap();
        assert_eq!((same.row, same.slot), (1, 1), "the same client twice is no collision");
        // One of the two goes: the tag stays dead.
        table.remove(0, &tags(1, 100).map(Some));
        assert_eq!(table.find(&tags(1, 100)[1]), None);
    }

    #[test]
    fn a_removed_client_has_no_tag_and_the_others_keep_theirs() {
        let mut table = two_clients();
        table.remove(0, &tags(1, 100).map(Some));
        assert_eq!(table.owners.len(), 4);
        for (mine, other) in tags(1, 100).iter().zip(&tags(2, 100)) {
            assert_eq!(table.find(mine), None);
            assert_eq!(table.find(other).unwrap().row, 1);
        }
        table.remove(0, &tags(2, 100).map(Some));
        assert_eq!(table.owners.len(), 4, "that row never had them");
        table.insert(0, &tags(1, 101).map(Some));
        assert_eq!(table.owners.len(), 8, "the row can be used again");
    }

    #[test]
    fn tags_are_spread_over_the_table_so_that_a_look_up_stays_one_step() {
        let mut hashes = std::collections::HashSet::new();
        for client in 0..=u8::MAX {
            for tag in tags(client, 100) {
                let mut hasher = TagHasher::default();
                std::hash::Hash::hash(&Fold(fold(&tag)), &mut hasher);
                hashes.insert(hasher.finish());
            }
        }
        assert_eq!(hashes.len(), 1024);
        assert_eq!(size_of::<(Fold, Owner)>(), 12);
    }
}
