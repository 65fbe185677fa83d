use proptest::prelude::*;

use super::*;
use crate::core::types::{ClientId, Wall};

fn seen(n: u64) -> Record {
    Record::Seen { client: ClientId([1; 16]), timestamp: Wall(n) }
}

/// A file of `commits` batches after the first, as it lies there while the gateway runs; one record
/// in each, its number.
fn file(commits: u64) -> (Vec<u8>, Tail) {
    let (mut file, mut tail) = fresh([5; 16], &[seen(0)]).unwrap();
    for n in 1..=commits {
        let (bytes, after) = tail.batch(&[seen(n)]).unwrap();
        file.extend(bytes);
        tail = after;
        put(&mut file, tail.mark_place(), &tail.mark());
    }
    (file, tail)
}

fn numbers(reading: &JournalContents) -> Vec<u64> {
    reading
        .records
        .iter()
        .map(|r| if let Record::Seen { timestamp, .. } = r { timestamp.0 } else { u64::MAX })
        .collect()
}

#[test]
fn what_was_written_is_read() {
    let (bytes, tail) = file(7);
    let reading = read(&bytes);
    assert_eq!((numbers(&reading), reading.damage, reading.torn), ((0..=7).collect(), None, 0));
    assert_eq!(tail.at, u64::try_from(bytes.len()).unwrap());
}

#[test]
fn a_batch_whose_commit_was_under_way_is_cut_off_wherever_it_is_torn() {
    let (whole, tail) = file(4);
    let (next, _) = tail.batch(&[seen(5)]).unwrap();
    for cut in 0..next.len() {
        let torn = [&whole[..], &next[..cut]].concat();
        let reading = read(&torn);
        assert_eq!(
            (numbers(&reading), reading.damage, reading.torn),
            ((0..=4).collect(), None, cut)
        );
    }
    let whole = [&whole[..], &next].concat();
    assert_eq!(read(&whole).damage, None, "synced, its mark not yet written");
    assert_eq!(numbers(&read(&whole)).len(), 6);
}

#[test]
fn a_mark_that_was_torn_while_it_was_written_is_no_damage() {
    for commits in 2..6 {
        let (mut bytes, tail) = file(commits);
        let place = tail.mark_place();
        bytes[place + 20..place + 30].fill(0xee);
        let reading = read(&bytes);
        assert_eq!(
            (numbers(&reading).len(), reading.damage),
            (usize::try_from(commits).unwrap() + 1, None)
        );
    }
}

#[test]
fn a_torn_mark_does_not_excuse_a_batch_that_is_missing() {
    for commits in 2..6 {
        let (mut bytes, tail) = file(commits);
        let (shorter, _) = file(commits - 1);
        bytes[tail.mark_place() + 20..tail.mark_place() + 30].fill(0xee);
        bytes.truncate(shorter.len());
        assert!(
            read(&bytes).damage.is_some(),
            "the mark can only have been torn after its batch was there"
        );
    }
}

#[test]
fn a_mark_that_was_never_written_back_is_no_damage() {
    let (with, tail) = file(5);
    let (without, _) = file(4);
    let place = tail.mark_place();
    let mut bytes = with.clone();
    bytes[place..place + MARK].copy_from_slice(&without[place..place + MARK]);
    assert_eq!(read(&bytes).damage, None);
    assert_eq!(numbers(&read(&bytes)).len(), 6);
}

#[test]
fn every_truncation_of_a_committed_batch_is_damage() {
    let (bytes, _) = file(5);
    for length in 0..bytes.len() {
        assert!(read(&bytes[..length]).damage.is_some(), "{length}");
    }
}

#[test]
fn every_flipped_bit_is_damage_or_harms_nothing_and_what_lies_behind_it_still_counts() {
    let (bytes, _) = file(3);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let reading = read(&flipped);
        assert!(reading.damage.is_some() || numbers(&reading) == [0, 1, 2, 3], "bit {bit}");
        assert!(reading.records.len() >= 3, "bit {bit}: at most the batch that it hit is lost");
    }
}

#[test]
fn a_batch_that_is_missing_doubled_or_of_another_file_is_damage() {
    let (bytes, _) = file(3);
    let length = (bytes.len() - PAGE) / 4;
    let batch = |n: usize| &bytes[PAGE + n * length..PAGE + (n + 1) * length];
    let with = |batches: &[&[u8]]| read(&[&bytes[..PAGE], &batches.concat()].concat()).damage;
    assert_eq!(with(&[batch(0), batch(1), batch(2), batch(3)]), None);
    assert!(with(&[batch(0), batch(2), batch(3)]).is_some());
    assert!(with(&[batch(0), batch(1), batch(1), batch(3)]).is_some());
    assert!(with(&[batch(0), batch(2), batch(1), batch(3)]).is_some());
    let (other, _) = fresh([6; 16], &[seen(0)]).unwrap();
    assert!(with(&[&other[PAGE..], batch(1), batch(2), batch(3)]).is_some());
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(noise in prop::collection::vec(any::<u8>(), 0..6000)) {
        let reading = read(&noise);
        prop_assert!(reading.damage.is_some());
    }

    #[test]
    fn several_faults_at_once_never_look_intact_with_a_record_missing(
        commits in 0u64..12,
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 0..4),
        in_marks in prop::collection::vec((0usize..2, 0..MARK, 0u8..8), 0..2),
        cut in prop_oneof![Just(0usize), 1usize..2000],
    ) {
        let (mut bytes, _) = file(commits);
        for (index, bit) in flips {
            let place = index.index(bytes.len());
            bytes[place] ^= 1 << bit;
        }
        for (mark, place, bit) in in_marks {
            bytes[MARKS[mark] + place] ^= 1 << bit;
        }
        bytes.truncate(bytes.len().saturating_sub(cut));
        let reading = read(&bytes);
        if reading.damage.is_none() {
            prop_assert_eq!(numbers(&reading), (0..=commits).collect::<Vec<_>>());
        }
    }
}
