use super::*;

/// Keys whose tags look like those of clients.
fn keys(count: u32) -> Vec<FilterKey> {
    let tag = |n: u32| super::super::keyed16(&[7; 32], &[&n.to_be_bytes()]);
    (0..count).map(|n| FilterKey::for_tests(tag(n))).collect()
}

fn passes(shared: &SharedTags, key: &FilterKey) -> bool {
    shared.passes(&key.tag)
}

fn is_blank(shared: &SharedTags) -> bool {
    shared.memory().iter().all(|line| line.iter().all(|word| value(word) == 0))
}

#[test]
fn what_was_added_passes_and_nothing_else_until_it_is_removed() {
    let shared = SharedTags::for_tests(400);
    let keys = keys(800);
    let (known, unknown) = keys.split_at(400);
    known.iter().for_each(|key| shared.insert(key));
    assert!(known.iter().all(|key| passes(&shared, key)));
    assert!(!unknown.iter().any(|key| passes(&shared, key)), "no line is full yet");
    for (index, key) in known.iter().enumerate() {
        shared.remove(key);
        assert!(!passes(&shared, key) && known[index + 1..].iter().all(|key| passes(&shared, key)));
    }
    assert!(is_blank(&shared), "keys are wiped");
}

#[test]
fn a_tag_without_room_passes_with_all_that_belongs_to_its_line_and_leaves_no_trace() {
    let shared = SharedTags::for_tests(1);
    assert_eq!(shared.len(), 208);
    let keys = keys(2000);
    keys.iter().for_each(|key| shared.insert(key));
    assert!(keys.iter().all(|key| passes(&shared, key)));
    // In another order: places get free while tags without room stay.
    let (some, others) = keys.split_at(1200);
    others.iter().for_each(|key| shared.remove(key));
    assert!(some.iter().all(|key| passes(&shared, key)));
    some.iter().for_each(|key| shared.remove(key));
    assert!(is_blank(&shared) && !keys.iter().any(|key| passes(&shared, key)));
}

#[test]
fn two_tags_that_share_a_line_and_its_bits_are_two() {
    let shared = SharedTags::for_tests(100);
    let key = |n: u8| FilterKey::for_tests([n, 0, 0, 9, n, 7, 6, 5, 0, 0, 0, 0, 0, 0, 0, 0]);
    let [one, other] = [key(1), key(2)];
    let bits = |key: &FilterKey| shared.homes_of(fold(&key.tag)).map(|home| home.bits);
    assert_eq!(bits(&one), bits(&other));
    let has = |key: &FilterKey| {
        let is_in = |home: &Home| {
            let numbers =
                home.line[..PLACES].iter().map(|place| key_number(value(place), home.bits));
            numbers.flatten().any(|number| shared.keys.has(number, key))
        };
        shared.homes_of(fold(&key.tag)).iter().any(is_in)
    };
    for [first, second] in [[&one, &other], [&other, &one]] {
        shared.insert(first);
        shared.insert(second);
        assert!(has(first) && has(second));
        shared.remove(second);
        assert!(has(first) && !has(second), "the other stays, with its key");
        shared.remove(first);
        assert!(is_blank(&shared));
    }
}

#[test]
fn a_tag_that_was_added_twice_stays_until_it_is_removed_twice() {
    let shared = SharedTags::for_tests(100);
    let keys = keys(1);
    shared.insert(&keys[0]);
    shared.insert(&keys[0]);
    shared.remove(&keys[0]);
    assert!(passes(&shared, &keys[0]));
    shared.remove(&keys[0]);
    assert!(is_blank(&shared));
}

#[test]
fn a_table_has_room_for_its_tags_and_some_more_and_takes_57_bytes_for_each() {
    let tags = 4 * 100_000;
    let bytes = SharedTags::lines_for(tags) * WORDS * 8;
    assert!(bytes <= 57 * tags + (576 << 10), "{bytes}");
    let shared = SharedTags::for_tests(tags);
    let keys = keys(4 * 110_000);
    let (first, others) = keys.split_at(tags + tags / 20);
    let assert_room = || {
        let full = shared.lines.iter().filter(|line| value(&line[PLACES]) != 0).count();
        assert!(full < 50, "{full} lines of {} let everything pass", shared.len());
    };
    first.iter().for_each(|key| shared.insert(key));
    assert_room();
    // One comes and one goes, as when a day begins.
    for (new, old) in others.iter().zip(first) {
        shared.insert(new);
        shared.remove(old);
    }
    assert_room();
}

#[test]
fn counters_of_all_processors_are_added() {
    let shared = SharedTags::for_tests(1);
    for (line, counters) in (1..).zip(shared.counters) {
        counters[UNKNOWN_TAG].store(line, Ordering::Relaxed);
        for (word, count) in [(LENGTH, 1), (CLIENT_MAC, 2), (COPIES, 3), (QUOTA, 4)] {
            counters[word].store(count, Ordering::Relaxed);
        }
    }
    let expected = FilterDrops {
        unknown_tag: 2080,
        length: 64,
        client_mac: 128,
        copies: 192,
        quota: 256,
        first_step: 0,
    };
    assert_eq!(shared.dropped(), expected);
}

#[test]
fn memory_of_another_size_is_refused() {
    let right = SharedTags::lines_for(1);
    for lines in [0, COUNTING, 100, right - 1, right + 1, right + COUNTING, right + 7] {
        let lines = (0..lines).map(|_| std::array::from_fn(|_| AtomicU64::new(0)));
        assert!(SharedTags::new(Box::leak(lines.collect::<Box<_>>())).is_none());
    }
}
