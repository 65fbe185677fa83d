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
    let mut moved = live(1, GrantKind::Time, at(1), 60);
    moved.ports[0] = Some(tcp(2222));
    let new = Element { port: tcp(2222), ..element(GrantKind::Time) };
    let changes = open(&mut grants, moved);
    assert_eq!(
        changes,
        [remove(GrantKind::Time), vec![Change::Set { element: new, millis: 599_000 }]].concat()
    );
    assert_eq!(
        grants.list().next().map(|live| (live.ports, live.deadline())),
        Some((moved.ports, at(600).boot))
    );
}

#[test]
fn after_a_flush_only_the_grants_that_have_not_ended_are_put_back() {
    let mut grants = Grants::default();
    open(&mut grants, live(1, GrantKind::Time, START, 60));
    let mut other = live(2, GrantKind::Time, START, 600);
    other.ports[0] = Some(tcp(2222));
    open(&mut grants, other);
    grants.expire(at(60));
    let new = Element { port: tcp(2222), ..element(GrantKind::Time) };
    assert_eq!(grants.expected_elements(at(60)), [Change::Set { element: new, millis: 540_000 }]);
    grants.expire(at(600));
    assert!(grants.kernel.is_empty(), "what the kernel has ended is not kept in mind");
}

#[test]
fn no_element_is_ever_set_without_a_timeout_which_would_be_for_ever() {
    let mut grants = Grants::default();
    let (over, longer) =
        (live(1, GrantKind::Time, START, 60), live(2, GrantKind::Time, START, 600));
    open(&mut grants, over);
    assert_eq!(
        grants.expected_elements(at(60)),
        [],
        "its very end has come, and nobody has looked yet"
    );
    open(&mut grants, longer);
    assert_eq!(grants.end(at(60), &[longer.key], GrantEnd::Closed), remove(GrantKind::Time));
}

#[test]
fn a_grant_being_decided_counts_until_it_is_given_up() {
    let mut grants = Grants::default();
    let key = live(1, GrantKind::Time, START, 60).key;
    grants.reserve(key);
    assert_eq!(grants.keys().collect::<Vec<_>>(), [&key]);
    grants.give_up();
    assert_eq!(grants.keys().count(), 0);
}

#[test]
fn no_more_grants_than_the_cap_come_back_after_a_restart() {
    let records = (0..=GRANTS).map(|number| {
        let mut one = live(1, GrantKind::Time, START, 60);
        one.key.source = Source::new(
            std::net::Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(number).unwrap()).into(),
        );
        Record::Granted(one)
    });
    let ledger = Ledger::of(&records.collect::<Vec<_>>());
    assert_eq!(
        (ledger.grants().count(), Grants::restore(at(1), &ledger).list().count()),
        (GRANTS + 1, GRANTS)
    );
}

#[test]
fn a_grant_that_is_live_again_is_not_a_past_grant() {
    let mut grants = Grants::default();
    let live = cutting(1, START, DisconnectPolicy::Revoked);
    open(&mut grants, live);
    grants.remember(live);
    assert_eq!(grants.past().count(), 0);
    grants.end(at(1), &[live.key], GrantEnd::Changed);
    grants.remember(ActiveGrant { cut: DisconnectPolicy::Never, ..live });
    assert_eq!(grants.past().count(), 0, "nor one whose connections nothing would cut");
    grants.remember(live);
    assert_eq!(grants.past().count(), 1);
}
