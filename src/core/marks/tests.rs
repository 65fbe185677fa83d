use proptest::prelude::*;

use super::*;

fn marks(seen: &[u64], burned: &[u64]) -> UsedMarks {
    let mut marks = UsedMarks::default();
    seen.iter().for_each(|t| marks.see(Wall(*t)));
    burned.iter().for_each(|t| marks.burn(Wall(*t), Wall(*t)));
    marks
}

#[test]
fn the_newest_64_are_known_one_by_one_and_the_floor_covers_the_rest() {
    let marks = marks(&(1..=100).map(|n| n * 10).collect::<Vec<_>>(), &[]);
    assert!(marks.used(Wall(1000)) && marks.used(Wall(370)));
    assert!(
        marks.covered(Wall(355)) && !marks.used(Wall(355)),
        "below the floor, but perhaps never used"
    );
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

#[test]
fn a_timestamp_is_used_beyond_doubt_at_the_floor_and_at_either_end_of_what_was_burned() {
    assert!(
        !UsedMarks::default().used(Wall(0)) && UsedMarks::default().covered(Wall(0)),
        "nothing was used yet"
    );
    let mut marks = marks(&(1..=65).map(|n| n * 10).collect::<Vec<_>>(), &[]);
    assert!(marks.used(Wall(10)), "the one that became the floor");
    marks.burned = vec![(Wall(1000), Wall(2000))];
    assert_eq!(
        [999, 1000, 1500, 2000, 2001].map(|t| marks.used(Wall(t))),
        [false, true, false, true, false]
    );
    assert_eq!(
        [999, 1000, 1500, 2000, 2001].map(|t| marks.covered(Wall(t))),
        [false, true, true, true, false]
    );
}

#[test]
fn the_floor_does_not_rise_before_memory_ends_and_rises_by_one_from_then_on() {
    let full: Vec<u64> = (1..=64).map(|n| n * 10).collect();
    assert!(!marks(&full, &[]).covered(Wall(9)), "64 fit");
    let mut over = marks(&full, &[]);
    over.see(Wall(650));
    assert_eq!((over.floor, over.seen.len()), (Wall(10), SEEN));
    over.see(Wall(660));
    assert_eq!((over.floor, over.seen.len()), (Wall(20), SEEN));
}

#[test]
fn burning_a_timestamp_again_changes_nothing_at_both_ends_of_a_range_too() {
    let mut marks = marks(&[], &[5, 5]);
    assert_eq!(marks.burned, [(Wall(5), Wall(5))]);
    marks.burned = vec![(Wall(5), Wall(9))];
    [5, 7, 9].into_iter().for_each(|t| marks.burn(Wall(t), Wall(t)));
    assert_eq!(marks.burned, [(Wall(5), Wall(9))]);
}

#[test]
fn a_range_takes_in_all_that_it_meets() {
    let mut marks = marks(&[], &[5, 10, 20, 30]);
    marks.burn(Wall(10), Wall(25));
    let wall =
        |pairs: &[(u64, u64)]| pairs.iter().map(|(a, b)| (Wall(*a), Wall(*b))).collect::<Vec<_>>();
    assert_eq!(marks.burned, wall(&[(5, 5), (10, 25), (30, 30)]));
    marks.burn(Wall(8), Wall(12));
    assert_eq!(marks.burned, wall(&[(5, 5), (8, 25), (30, 30)]));
    marks.burn(Wall(0), Wall(u64::MAX));
    assert_eq!(marks.burned, wall(&[(0, u64::MAX)]));
}

#[test]
fn bytes_with_anything_out_of_order_are_not_marks() {
    let written = |floor, seen: &[u64], burned: &[(u64, u64)]| {
        let seen = seen.iter().map(|t| Wall(*t)).collect();
        let burned = burned.iter().map(|(first, last)| (Wall(*first), Wall(*last))).collect();
        let mut bytes = Vec::new();
        UsedMarks { seen, floor: Wall(floor), burned }.encode(&mut bytes);
        UsedMarks::decode(&bytes).is_some()
    };
    assert!(written(3, &[4, 5], &[(6, 6), (7, 9)]));
    for (floor, seen, burned) in [
        (3, vec![5, 4], vec![]),
        (3, vec![4, 4], vec![]),
        (4, vec![4, 5], vec![]),
        (9, vec![4, 5], vec![]),
        (3, vec![], vec![(7, 6)]),
        (3, vec![], vec![(7, 9), (5, 6)]),
        (3, vec![], vec![(5, 7), (7, 9)]),
    ] {
        assert!(!written(floor, &seen, &burned), "{floor} {seen:?} {burned:?}");
    }
    let many = |count: u64| (1..=count).map(|n| n * 10).collect::<Vec<_>>();
    let ranges = |count| many(count).into_iter().map(|n| (n, n + 1)).collect::<Vec<_>>();
    assert!(written(3, &many(64), &ranges(64)));
    assert!(!written(3, &many(65), &[]) && !written(3, &[], &ranges(65)), "more than memory holds");
}

proptest! {
    #[test]
    fn whatever_was_marked_stays_covered_in_bounded_memory(
        steps in prop::collection::vec((0u64..4, 0u64..1_000_000, 0u64..5000), 0..600),
    ) {
        let mut marks = UsedMarks::default();
        for (kind, timestamp, length) in &steps {
            match kind {
                0 => marks.burn(Wall(*timestamp), Wall(timestamp + length)),
                1 => marks.burn(Wall(*timestamp), Wall(*timestamp)),
                _ => marks.see(Wall(*timestamp)),
            }
            prop_assert!(marks.seen.len() <= SEEN && marks.burned.len() <= BURNED);
        }
        for (kind, timestamp, length) in &steps {
            let last = if *kind == 0 { timestamp + length } else { *timestamp };
            for covered in [*timestamp, timestamp.midpoint(last), last] {
                prop_assert!(marks.covered(Wall(covered)), "{covered}");
            }
        }
        let mut bytes = Vec::new();
        marks.encode(&mut bytes);
        prop_assert!(bytes.len() <= 1546);
        prop_assert_eq!(UsedMarks::decode(&bytes), Some(marks));
    }

    #[test]
    fn bytes_are_marks_only_if_they_would_be_written_so(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(marks) = UsedMarks::decode(&bytes) {
            let mut again = Vec::new();
            marks.encode(&mut again);
            prop_assert_eq!(again, bytes);
        }
    }
}
