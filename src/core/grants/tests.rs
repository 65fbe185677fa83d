use super::*;
use crate::core::ledger::Ledger;
use crate::core::policy::Grant;
use crate::core::prefix::Span;
use crate::core::service::{AddressProof, DisconnectPolicy};
use crate::core::test_vectors::NOON;
use crate::core::types::{ClientId, SECOND, ServiceName, Source, Wall};

mod bounds;

const START: Now = Now { wall: NOON, boot: Boot(500 * SECOND) };

fn at(seconds: u32) -> Now {
    Now { wall: START.wall.plus(seconds), boot: START.boot.plus(seconds) }
}

fn ssh() -> ServiceName {
    ServiceName::new("ssh").unwrap()
}

fn home() -> Source {
    Source::new("192.0.2.7".parse().unwrap())
}

fn live(client: u8, form: GrantKind, opened: Now, seconds: u32) -> ActiveGrant {
    let key = GrantKey {
        holder: Holder::Client(ClientId([client; 16])),
        service: ssh(),
        source: home(),
        source_port: 0,
        span: Span::HOST,
    };
    ActiveGrant {
        key,
        form,
        ports: 22,
        opened,
        seconds,
        cut: DisconnectPolicy::Never,
        proof: AddressProof::Both,
    }
}

fn element(form: GrantKind) -> Element {
    Element::plain(ssh(), home(), form)
}

fn open(grants: &mut Grants, live: ActiveGrant) -> Vec<Change> {
    grants.open(live.opened, Grant::for_test(live)).0
}

fn set(form: GrantKind, seconds: u64) -> Vec<Change> {
    vec![Change::Set { element: element(form), millis: seconds * 1000 }]
}

/// The changes that an empty kernel needs.
fn expected(grants: &Grants, now: Now) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut last = None;
    while let Some((element, millis)) = grants.next_element(now, last) {
        last = Some(element);
        changes.extend(super::element::difference(element, None, Some(millis)));
    }
    changes
}

fn remove(form: GrantKind) -> Vec<Change> {
    vec![Change::Remove { element: element(form) }]
}

#[test]
fn an_element_lasts_as_long_as_its_longest_grant_and_a_neighbour_cannot_cut_it() {
    let mut grants = Grants::default();
    assert_eq!(open(&mut grants, live(1, GrantKind::Time, START, 600)), set(GrantKind::Time, 600));
    assert_eq!(
        open(&mut grants, live(2, GrantKind::Time, at(100), 5)),
        set(GrantKind::Time, 500),
        "not 5"
    );
    assert_eq!(grants.expire(at(105)), [], "the kernel's element is the other's now");
    assert_eq!(grants.list().count(), 1);
}

#[test]
fn closing_ends_only_the_senders_grant_and_the_element_shrinks_to_the_next_longest() {
    let mut grants = Grants::default();
    let (long, short) = (live(1, GrantKind::Time, START, 600), live(2, GrantKind::Time, START, 60));
    open(&mut grants, long);
    open(&mut grants, short);
    assert_eq!(grants.end(at(10), &[long.key], GrantEnd::Closed).0, set(GrantKind::Time, 50));
    assert_eq!(grants.end(at(20), &[short.key], GrantEnd::Closed).0, remove(GrantKind::Time));
    assert_eq!(grants.end(at(20), &[short.key], GrantEnd::Closed).0, [], "twice is once");
}

#[test]
fn a_one_connection_element_is_never_armed_anew_by_a_neighbours_closing() {
    let mut grants = Grants::default();
    let (long, short) = (live(1, GrantKind::Once, START, 600), live(2, GrantKind::Once, START, 60));
    open(&mut grants, short);
    assert_eq!(open(&mut grants, long), set(GrantKind::Once, 600), "an opening does arm it");
    let shorter = vec![Change::Shorten { element: element(GrantKind::Once), millis: 50_000 }];
    assert_eq!(
        grants.end(at(10), &[long.key], GrantEnd::Closed).0,
        shorter,
        "it may be spent, and does not outlast its grant"
    );
    assert_eq!(grants.expire(at(60)), remove(GrantKind::Once));
}

#[test]
fn a_revoked_clients_one_connection_element_goes_even_if_a_neighbour_holds_it_too() {
    let mut grants = Grants::default();
    let (thief, neighbour) =
        (live(1, GrantKind::Once, START, 600), live(2, GrantKind::Once, START, 60));
    open(&mut grants, thief);
    open(&mut grants, neighbour);
    assert_eq!(grants.end(at(10), &[thief.key], GrantEnd::Revoked).0, remove(GrantKind::Once));
    assert_eq!(grants.expire(at(60)), []);
}

#[test]
fn a_neighbour_who_armed_a_one_connection_element_last_keeps_it_when_the_other_is_revoked() {
    let mut grants = Grants::default();
    let (thief, neighbour) =
        (live(1, GrantKind::Once, START, 600), live(2, GrantKind::Once, at(1), 60));
    open(&mut grants, thief);
    open(&mut grants, neighbour);
    let shorter = vec![Change::Shorten { element: element(GrantKind::Once), millis: 51_000 }];
    assert_eq!(grants.end(at(10), &[thief.key], GrantEnd::Revoked).0, shorter);
}

fn cutting(client: u8, opened: Now, cut: DisconnectPolicy) -> ActiveGrant {
    ActiveGrant { cut, ..live(client, GrantKind::Time, opened, 60) }
}

#[test]
fn connections_are_cut_with_a_grant_as_its_service_says_even_long_after_it() {
    let cut = Change::Cut { element: element(GrantKind::Time) };
    for (says, closed, revoked) in [
        (DisconnectPolicy::Never, 0, 0),
        (DisconnectPolicy::Revoked, 0, 1),
        (DisconnectPolicy::Closed, 1, 1),
    ] {
        for (how, cuts) in
            [(GrantEnd::Closed, closed), (GrantEnd::Revoked, revoked), (GrantEnd::Changed, 0)]
        {
            for over in [false, true] {
                let mut grants = Grants::default();
                let live = cutting(1, START, says);
                open(&mut grants, live);
                if over {
                    grants.expire(at(60));
                }
                let (changes, _) = grants.end(at(if over { 61 } else { 10 }), &[live.key], how);
                assert_eq!(
                    changes.iter().filter(|change| **change == cut).count(),
                    cuts,
                    "{says:?} {how:?} {over}"
                );
                assert!(
                    cuts == 0 || changes.last() == Some(&cut),
                    "elements first: a live one would let them go on"
                );
            }
        }
    }
}

#[test]
fn a_close_cuts_no_neighbours_connection_and_a_revocation_cuts_whoever_else_uses_the_address() {
    let open_both = |over: bool| {
        let mut grants = Grants::default();
        let [mine, theirs] = [1, 2].map(|client| cutting(client, START, DisconnectPolicy::Closed));
        open(&mut grants, mine);
        open(&mut grants, theirs);
        if over {
            grants.expire(at(60));
        }
        (grants, mine)
    };
    let cuts = |changes: Vec<Change>| {
        changes.iter().filter(|change| matches!(change, Change::Cut { .. })).count()
    };
    for over in [false, true] {
        let (mut grants, mine) = open_both(over);
        assert_eq!(cuts(grants.end(at(1), &[mine.key], GrantEnd::Closed).0), 0);
        let (mut grants, mine) = open_both(over);
        assert_eq!(cuts(grants.end(at(1), &[mine.key], GrantEnd::Revoked).0), 1);
    }
}

#[test]
fn a_grant_whose_connections_go_on_is_remembered_until_nothing_can_cut_them_any_more() {
    use DisconnectPolicy::{Closed, Never, Revoked};
    use GrantEnd as End;
    for (how, says, is_kept) in [
        (End::Closed, Never, false),
        (End::Closed, Revoked, true),
        (End::Closed, Closed, false),
        (End::Changed, Never, false),
        (End::Changed, Revoked, true),
        (End::Changed, Closed, true),
        (End::Stopped, Never, true),
        (End::Stopped, Revoked, true),
        (End::Stopped, Closed, false),
        (End::Revoked, Never, false),
        (End::Revoked, Revoked, false),
        (End::Cut, Never, false),
    ] {
        let mut grants = Grants::default();
        let live = cutting(1, START, says);
        open(&mut grants, live);
        let closings = grants.closings(at(10), &[live.key]);
        let (_, ended) = grants.end(at(10), &[live.key], how);
        let over = ActiveGrant { seconds: 10, ..live };
        let kept: Vec<ActiveGrant> = grants.past_after(None).copied().collect();
        assert_eq!(kept, if is_kept { vec![over] } else { vec![] }, "{how:?} {says:?}");
        // On disk it is the same, and it does not come back to life.
        let after = |ended: &[Record]| {
            let records = [&[Record::Granted(live)], ended].concat();
            let restored = Grants::restore(at(11), &Ledger::of(&records));
            assert_eq!(restored.list().count(), 0, "{how:?} {says:?}");
            restored.past_after(None).count()
        };
        let kept = if says == Never { 0 } else { kept.len() };
        assert_eq!(after(&ended), kept, "{how:?} {says:?}");
        if how == End::Closed {
            // What is stored before a close cannot know whether connections will be cut.
            assert_eq!(after(&closings), usize::from(says != Never), "{says:?}");
            assert_eq!(after(&[closings, ended].concat()), kept, "{says:?}");
        }
    }
    // Nothing is known of connections to what commands opened.
    let mut grants = Grants::default();
    let commands = ActiveGrant { ports: 0, ..cutting(1, START, Revoked) };
    open(&mut grants, commands);
    grants.end(at(10), &[commands.key], End::Closed);
    assert_eq!(grants.past_after(None).count(), 0);
    // A close that must not cut, because of a neighbour, leaves them to a revocation.
    let mut grants = Grants::default();
    let [mine, theirs] = [1, 2].map(|client| cutting(client, START, Closed));
    open(&mut grants, mine);
    open(&mut grants, theirs);
    let cut = Change::Cut { element: element(GrantKind::Time) };
    assert!(!grants.end(at(1), &[mine.key], End::Closed).0.contains(&cut));
    assert!(!grants.end(at(2), &[mine.key], End::Closed).0.contains(&cut), "closed again");
    assert!(grants.end(at(3), &[mine.key], End::Revoked).0.contains(&cut));
}

#[test]
fn a_past_grant_is_forgotten_with_its_last_connection_and_not_before() {
    let mut grants = Grants::default();
    let live = cutting(1, START, DisconnectPolicy::Revoked);
    open(&mut grants, live);
    grants.expire(at(60));
    let asked: Vec<ActiveGrant> = grants.past_after(None).copied().collect();
    let standing = [element(GrantKind::Time)].into();
    assert_eq!(grants.forget_past(&asked, &standing), []);
    let none = BTreeSet::new();
    assert_eq!(grants.forget_past(&[], &none), [], "it was not asked about");
    assert_eq!(grants.forget_past(&asked, &none), [Record::Ended(live.key)]);
    assert_eq!(grants.past_after(None).count(), 0);
    open(&mut grants, cutting(1, at(70), DisconnectPolicy::Revoked));
    grants.expire(at(130));
    assert_eq!(grants.forget_past(&asked, &none), [], "another grant with the same key");
    assert_eq!(grants.past_after(None).count(), 1);
}

#[test]
fn past_grants_survive_a_restart_up_to_a_limit() {
    let kept = Ledger::of(
        &Ledger::of(&[
            Record::Granted(cutting(1, START, DisconnectPolicy::Revoked)),
            Record::Newest { wall: at(90).wall },
        ])
        .records(),
    );
    let mut grants = Grants::restore(at(100), &kept);
    assert_eq!((grants.list().count(), grants.past_after(None).count()), (0, 1));
    let mut forgotten = 0;
    for n in 0..5000_u32 {
        let mut live = cutting(1, at(n), DisconnectPolicy::Revoked);
        live.key.source = Source::new(std::net::Ipv4Addr::from(0x0a00_0000 + n).into());
        open(&mut grants, live);
        grants.expire(at(n + 60));
        forgotten += grants.trim_past().len();
    }
    assert_eq!(forgotten, 5001 - past::PAST);
    assert_eq!(
        grants.past_after(None).map(|live| live.opened.boot).min(),
        Some(at(5000 - 4096).boot),
        "the oldest went"
    );
}

#[test]
fn asking_again_extends_a_grant_and_does_not_make_a_second() {
    let mut grants = Grants::default();
    open(&mut grants, live(1, GrantKind::Time, START, 60));
    assert_eq!(open(&mut grants, live(1, GrantKind::Time, at(30), 60)), set(GrantKind::Time, 60));
    assert_eq!(
        open(&mut grants, live(1, GrantKind::Time, at(40), 5)),
        set(GrantKind::Time, 50),
        "and never shorter"
    );
    assert_eq!(grants.list().count(), 1);
    assert_eq!(grants.deadline(), Some(at(90).boot));
    assert_eq!(grants.expire(at(90)), remove(GrantKind::Time), "a suspend stops its timeout");
    assert_eq!((grants.list().count(), grants.deadline()), (0, None));
}

#[test]
fn a_grant_whose_service_changed_its_form_takes_the_old_element_away() {
    let mut grants = Grants::default();
    open(&mut grants, live(1, GrantKind::Once, START, 60));
    let changes = open(&mut grants, live(1, GrantKind::Time, at(1), 60));
    assert_eq!(changes, [set(GrantKind::Time, 60), remove(GrantKind::Once)].concat());
}

#[test]
fn after_a_restart_a_grant_has_the_time_left_by_whichever_clock_leaves_less() {
    let ledger = Ledger::of(&[Record::Granted(live(1, GrantKind::Time, START, 60))]);
    let left = |now: Now| expected(&Grants::restore(now, &ledger), now);
    assert_eq!(left(at(20)), set(GrantKind::Time, 40));
    assert_eq!(left(at(60)), []);
    let set_back = Now { wall: START.wall.plus(1), ..at(50) };
    assert_eq!(left(set_back), set(GrantKind::Time, 10), "the boot clock knows better");
    let rebooted = Now { wall: START.wall.plus(50), boot: Boot(SECOND) };
    assert_eq!(left(rebooted), set(GrantKind::Time, 10));
    let set_far_back = Now { wall: Wall(START.wall.0 - 1), boot: Boot(SECOND) };
    assert_eq!(left(set_far_back), [], "a grant from the future is none");
}

#[test]
fn a_closed_grant_does_not_come_back_after_a_restart() {
    let live = live(1, GrantKind::Time, START, 60);
    let mut records = vec![Record::Granted(live)];
    records.extend(Grants::endings(&[live.key]));
    assert_eq!(Grants::restore(at(1), &Ledger::of(&records)).list().count(), 0);
    let lossy = [Record::Granted(live), Record::Lost { at: START.wall }];
    assert_eq!(
        Grants::restore(at(1), &Ledger::of(&lossy)).list().count(),
        0,
        "its end may be what was lost"
    );
}

#[test]
fn asking_again_gives_all_the_remaining_time_to_the_last_request() {
    let mut grants = Grants::default();
    let by =
        |proof, opened, seconds| ActiveGrant { proof, ..live(1, GrantKind::Time, opened, seconds) };
    open(&mut grants, by(AddressProof::Signed, START, 600));
    open(&mut grants, by(AddressProof::Both, at(100), 5));
    let left = grants.list().next().unwrap();
    assert_eq!((left.proof, left.seconds), (AddressProof::Both, 600));
}

#[test]
fn a_grant_of_commands_never_comes_back_from_the_journal() {
    let live = ActiveGrant { ports: 0, ..live(1, GrantKind::Time, START, 600) };
    let grants = Grants::restore(at(1), &Ledger::of(&[Record::Granted(live)]));
    assert_eq!((grants.count(), grants.is_held(&live.place().unwrap())), (0, false));
}
