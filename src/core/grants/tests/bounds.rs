//! Limits of grants: their number, the moment of their end, and grants that were given up.

use super::*;

#[test]
fn a_doors_name_is_hashed_by_the_published_fnv_1a() {
    let hash = |name: &str| {
        let Holder::Door(hash) = Holder::door(name) else { panic!("a door's holder is a door") };
        u128::from_be_bytes(hash)
    };
    assert_eq!(hash(""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
    assert_eq!(hash("a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    assert_eq!(hash("foobar"), 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18);
}

#[test]
fn a_grant_that_outlasts_the_next_is_for_the_ports_of_the_next() {
    let mut grants = Grants::default();
    open(&mut grants, live(1, GrantKind::Time, START, 600));
    let moved = ActiveGrant { ports: 8022, ..live(1, GrantKind::Time, at(1), 60) };
    assert_eq!(open(&mut grants, moved), set(GrantKind::Time, 599));
    assert_eq!(
        grants.list().next().map(|live| (live.ports, live.deadline())),
        Some((8022, at(600).boot))
    );
}

#[test]
fn after_a_flush_only_the_grants_that_have_not_ended_are_put_back() {
    let mut grants = Grants::default();
    open(&mut grants, live(1, GrantKind::Time, START, 60));
    let mut other = live(2, GrantKind::Time, START, 600);
    other.key.service = ServiceName::new("web").unwrap();
    open(&mut grants, other);
    grants.expire(at(60));
    let element = other.element().unwrap();
    assert_eq!(expected(&grants, at(60)), [Change::Set { element, millis: 540_000 }]);
    grants.expire(at(600));
    assert!(grants.kernel.is_empty(), "what has ended is not kept in mind");
}

#[test]
fn no_element_is_ever_set_without_a_timeout_which_would_be_for_ever() {
    let mut grants = Grants::default();
    let (over, longer) =
        (live(1, GrantKind::Time, START, 60), live(2, GrantKind::Time, START, 600));
    open(&mut grants, over);
    assert_eq!(expected(&grants, at(60)), [], "its very end has come, and nobody has looked yet");
    open(&mut grants, longer);
    assert_eq!(grants.end(at(60), &[longer.key], GrantEnd::Closed).0, remove(GrantKind::Time));
}

#[test]
fn a_grant_being_decided_counts_once_until_it_is_given_up_or_over() {
    let mut grants = Grants::default();
    let mine = live(1, GrantKind::Time, START, 60);
    let count = |grants: &Grants| {
        let nothing = Beside { of_service: 0, of_holder: 0, of_holder_at_service: 0 };
        assert_eq!(grants.beside(&mine.key), nothing, "it is not beside itself");
        let neighbour = live(2, GrantKind::Time, START, 60).key;
        assert_eq!(grants.beside(&neighbour).of_holder, 0);
        let of_mine = grants.beside(&GrantKey { source_port: 9, ..mine.key });
        let Beside { of_service, of_holder, of_holder_at_service } = of_mine;
        assert_eq!(grants.beside(&neighbour).of_service, of_service);
        [of_service, of_holder, of_holder_at_service]
    };
    grants.reserve(mine.key);
    grants.reserve(mine.key);
    assert_eq!(count(&grants), [1, 1, 1]);
    grants.give_up();
    assert_eq!(count(&grants), [0, 0, 0]);
    grants.reserve(mine.key);
    open(&mut grants, mine);
    assert_eq!(count(&grants), [1, 1, 1]);
    grants.reserve(mine.key);
    grants.end(at(1), &[mine.key], GrantEnd::Closed);
    assert_eq!(count(&grants), [1, 1, 1], "it is being decided anew");
    grants.give_up();
    open(&mut grants, mine);
    grants.expire(at(60));
    assert_eq!(count(&grants), [0, 0, 0]);
    assert_eq!(grants.by_service().count(), 0);
}

#[test]
fn after_a_suspend_grants_end_in_portions_and_each_takes_its_element_along() {
    let mut grants = Grants::default();
    let all = 2 * EXPIRED + 1;
    for number in 0..u32::try_from(all).unwrap() {
        let mut one = live(1, GrantKind::Time, START, 60);
        one.key.source = Source::new(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into());
        open(&mut grants, one);
    }
    let mut removed = Vec::new();
    while grants.deadline().is_some_and(|deadline| deadline <= at(3600).boot) {
        let changes = grants.expire(at(3600));
        assert!(changes.len() <= EXPIRED);
        removed.extend(changes);
    }
    assert!(removed.iter().all(|change| matches!(change, Change::Remove { .. })));
    assert_eq!((removed.len(), grants.count()), (all, 0));
}

#[test]
fn a_spent_grant_is_over_for_all_who_share_its_connection_and_stays_over_after_a_restart() {
    for cut in [DisconnectPolicy::Never, DisconnectPolicy::Revoked] {
        let mut grants = Grants::default();
        let once = |client| ActiveGrant { cut, ..live(client, GrantKind::Once, START, 600) };
        for grant in [once(1), once(2), live(3, GrantKind::Time, START, 600)] {
            open(&mut grants, grant);
        }
        assert_eq!(grants.once_to_check(9), [element(GrantKind::Once)].into());
        let (changes, records) = grants.spent(at(10), &element(GrantKind::Once));
        assert_eq!(changes, remove(GrantKind::Once));
        assert_eq!((grants.count(), records.len()), (1, 2), "the time grant stays");
        let past = if cut == DisconnectPolicy::Never { 0 } else { 2 };
        assert_eq!(grants.past_after(None).count(), past, "its connection can still be cut");
        let granted = [Record::Granted(once(1)), Record::Granted(once(2))];
        let ledger = Ledger::of(granted.iter().chain(&records));
        let restored = Grants::restore(at(11), &ledger);
        assert_eq!((restored.count(), restored.past_after(None).count()), (0, past));
        assert_eq!(grants.once_to_check(9), BTreeSet::new());
    }
}

#[test]
fn one_connection_elements_are_checked_in_turn() {
    let mut grants = Grants::default();
    for number in 0..5 {
        let mut one = live(1, GrantKind::Once, START, 60);
        one.key.source = Source::new([10, 0, 0, number].into());
        open(&mut grants, one);
    }
    let mut asked = |most| {
        let elements = grants.once_to_check(most).into_iter();
        elements.map(|element| element.source.to_bytes()[15]).collect::<Vec<_>>()
    };
    assert_eq!(asked(2), [0, 1]);
    assert_eq!(asked(2), [2, 3]);
    assert_eq!(asked(2), [0, 4], "and again from the first");
    assert_eq!(asked(9), [0, 1, 2, 3, 4], "each once");
}

#[test]
fn a_grant_that_is_live_again_is_not_a_past_grant() {
    let mut grants = Grants::default();
    let live = cutting(1, START, DisconnectPolicy::Revoked);
    open(&mut grants, live);
    grants.remember(live);
    assert_eq!(grants.past_after(None).count(), 0);
    grants.end(at(1), &[live.key], GrantEnd::Revoked);
    grants.remember(ActiveGrant { cut: DisconnectPolicy::Never, ..live });
    assert_eq!(grants.past_after(None).count(), 0, "nor one whose connections nothing would cut");
    grants.remember(live);
    assert_eq!(grants.past_after(None).count(), 1);
}
