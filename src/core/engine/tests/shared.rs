//! The tags that the engine shares with the kernel's filter: those that it accepts, at any moment.

use std::collections::HashMap;

use super::*;
use crate::core::keyring::changes;

const CLIENTS: u8 = 5;
const DAY: u64 = 86_400 * SECOND;

fn shared_setup(clients: u8) -> (Setup, SharedTags) {
    let mut setup = setup(clients);
    let shared = SharedTags::for_tests(100);
    setup.sealed.as_mut().unwrap().shared = Some(shared);
    (setup, shared)
}

fn clients() -> Vec<ClientId> {
    [test_vectors::CLIENT].into_iter().chain((1..CLIENTS).map(id)).collect()
}

/// The filter and the engine know the same tags of a week.
fn assert_same(engine: &Engine, shared: &SharedTags) {
    let tags = &engine.sealed.as_ref().unwrap().tags;
    let mut known = 0;
    for client in clients() {
        for day in 0..7 {
            for tag in test_vectors::secrets(client).wire_row(NOON.day() + day - 3).tags() {
                let is_known = tags.find(&tag.unwrap()).is_some();
                assert_eq!(shared.passes(&tag.unwrap()), is_known, "{day}");
                known += u32::from(is_known);
            }
        }
    }
    assert!(known > 0);
}

#[test]
fn clients_that_come_and_go_and_change_their_day_are_the_same_for_filter_and_engine() {
    let (setup, shared) = shared_setup(CLIENTS);
    let mut engine = Engine::new(setup);
    assert_same(&engine, &shared);
    let later = Wall(NOON.0 + DAY);
    for client in clients() {
        engine.enrol(known(client, later));
        assert_same(&engine, &shared);
    }
    for client in clients().split_off(1) {
        engine.forget(&known(client, later).keys.clockless_tag());
        assert_same(&engine, &shared);
    }
    engine.enrol(known(id(2), NOON));
    engine.enrol(known(id(9), NOON));
    assert_same(&engine, &shared);
}

#[test]
fn a_tag_of_two_days_is_never_missing_while_one_day_follows_another() {
    let (setup, _) = shared_setup(1);
    let mut engine = Engine::new(setup);
    let tags = |day: u64| known(test_vectors::CLIENT, Wall(NOON.0 + day * DAY)).keys.tags();
    let mut there: HashMap<[u8; TAG], i32> =
        changes::take().into_iter().map(|change| (change.tag, 1)).collect();
    for day in 1..4 {
        engine.enrol(known(test_vectors::CLIENT, Wall(NOON.0 + day * DAY)));
        let after = tags(day);
        let before = tags(day - 1).into_iter().flatten();
        let kept: Vec<_> = before.filter(|tag| after.contains(&Some(*tag))).collect();
        assert_eq!(kept.len(), 3, "two days and none");
        for change in changes::take() {
            *there.entry(change.tag).or_default() += if change.added { 1 } else { -1 };
            assert!(kept.iter().all(|tag| there[tag] > 0), "day {day}");
        }
        there.retain(|_, count| *count != 0);
        assert_eq!(there.len(), SLOTS);
    }
}
