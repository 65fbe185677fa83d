use proptest::prelude::*;

use super::*;

fn marks(seen: &[u64], burned: &[u64]) -> Marks {
    let mut marks = Marks::default();
    seen.iter().for_each(|t| marks.see(Wall(*t)));
    burned.iter().for_each(|t| marks.burn(Wall(*t)));
    marks
}

#[test]
fn the_newest_64_are_known_one_by_one_and_the_floor_covers_the_rest() {
    let marks = marks(&(1..=100).map(|n| n * 10).collect::<Vec<_>>(), &[]);
    assert!(marks.used(Wall(1000)) && marks.used(Wall(370)));
    assert!(marks.covered(Wall(355)) && !marks.used(Wall(355)), "below the floor, but perhaps never used");
    assert!(!marks.covered(Wall(375)), "between two that were seen");
    assert_eq!(marks.newest(), Wall(1000));
}

#[test]
fn burned_timestamps_grow_together_where_they_are_closest_and_never_shrink() {
    let mut all: Vec<u64> = (1..=64).map(|n| n * 1_000_000).collect();
    all.push(5_000_007);
    let marks = marks(&[], &all);
    assert_eq!(marks.burned.len(), BURNED);
    assert!(all.iter().all(|t| marks.covered(Wall(*t))));
    assert!(marks.covered(Wall(5_000_003)), "the gap that closed");
    assert!(!marks.covered(Wall(4_999_999)) && !marks.covered(Wall(5_000_008)), "and no other");
}

proptest! {
    #[test]
    fn whatever_was_marked_stays_covered_in_bounded_memory(
        steps in prop::collection::vec((any::<bool>(), 0u64..1_000_000), 0..600),
    ) {
        let mut marks = Marks::default();
        for (see, timestamp) in &steps {
            if *see { marks.see(Wall(*timestamp)) } else { marks.burn(Wall(*timestamp)) }
            prop_assert!(marks.seen.len() <= SEEN && marks.burned.len() <= BURNED);
        }
        for (_, timestamp) in &steps {
            prop_assert!(marks.covered(Wall(*timestamp)), "{timestamp}");
        }
        let mut bytes = Vec::new();
        marks.encode(&mut bytes);
        prop_assert!(bytes.len() <= 1546);
        prop_assert_eq!(Marks::decode(&bytes), Some(marks));
    }

    #[test]
    fn bytes_are_marks_only_if_they_would_be_written_so(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(marks) = Marks::decode(&bytes) {
            let mut again = Vec::new();
            marks.encode(&mut again);
            prop_assert_eq!(again, bytes);
        }
    }
}
