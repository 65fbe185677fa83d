//! A reload ends the grants that the new rules would not give.

use super::*;

#[test]
fn a_reload_decides_which_grants_are_revoked_and_which_are_changed() {
    let mut gate = Gate::plain();
    assert_eq!(gate.knock(|_| {}), Some(Status::Granted));
    let live = *gate.grants.list().next().unwrap();
    assert_eq!(gate.policy.must_end(START.wall, &live), None);
    let moved = tcp(8022);
    let services =
        |service: Service| Policy::new(vec![service], vec![test_vectors::client()], 16, []);
    for (how, policy) in [
        (GrantEnd::Revoked, Policy::new(vec![], vec![test_vectors::client()], 16, [])),
        (GrantEnd::Revoked, Policy::new(vec![ssh()], vec![], 16, [])),
        (
            GrantEnd::Revoked,
            Policy::new(
                vec![ssh()],
                vec![Client { services: [].into(), ..test_vectors::client() }],
                16,
                [],
            ),
        ),
        (GrantEnd::Changed, services(Service { ports: moved, ..ssh() })),
        (GrantEnd::Changed, services(Service { form: GrantKind::Once, ..ssh() })),
        (GrantEnd::Changed, services(Service { max_seconds: live.seconds - 1, ..ssh() })),
    ] {
        assert_eq!(policy.must_end(START.wall, &live), Some(how));
    }
    let to_client =
        |client: Client| Policy::new(vec![ssh()], vec![client], 16, []).must_end(START.wall, &live);
    let (enough, now) = (live.seconds, START.wall.0 / SECOND);
    for (seconds, end) in [(enough, None), (enough - 1, Some(GrantEnd::Changed))] {
        assert_eq!(to_client(limited_client(|l| l.max_seconds = Some(seconds))), end);
        assert_eq!(to_client(limited_client(|l| l.hours = hours(u64::from(seconds)))), end);
        assert_eq!(
            to_client(Client { expires: Some(now + u64::from(seconds)), ..test_vectors::client() }),
            end
        );
    }
    let later = limited_client(|l| l.not_before = Some(now + 1));
    assert_eq!(to_client(later), Some(GrantEnd::Changed), "its connections go on");
}

#[test]
fn a_reload_ends_grants_for_addresses_that_the_service_would_no_longer_grant() {
    let (named, elsewhere) = (test_vectors::address(), "198.51.100.1");
    let observing = || Service { source: SourceRule::Observed, ..ssh() };
    let signed = |r: &mut Request| r.address = Some(named);
    let unnamed = |r: &mut Request| r.address = None;
    let given = |service: Service, from: &str, change: &dyn Fn(&mut Request)| {
        let mut gate = Gate::new(service, test_vectors::client(), 16);
        assert_eq!(gate.knock_from(from, change), Some(Status::Granted));
        *gate.grants.list().next().unwrap()
    };
    let [both, seen, far] = [
        given(within(&["192.0.2.0/24"]), "192.0.2.7", &signed),
        given(observing(), "192.0.2.7", &unnamed),
        given(within(&["192.0.2.0/24"]), elsewhere, &signed),
    ];
    for (service, ends) in [
        (ssh(), [false, true, true]),
        (observing(), [false, false, true]),
        (within(&["192.0.2.0/28"]), [false, true, false]),
        (within(&["192.0.2.128/25"]), [false, true, true]),
    ] {
        let policy = Policy::new(vec![service], vec![test_vectors::client()], 16, []);
        let expected = ends.map(|ends| ends.then_some(GrantEnd::Revoked));
        assert_eq!(
            [&both, &seen, &far].map(|live| policy.must_end(START.wall, live)),
            expected,
            "{policy:?}"
        );
    }
}

#[test]
fn a_reload_ends_what_was_granted_through_a_door_that_is_gone_or_grants_something_else() {
    let gate = Gate::new(ssh(), test_vectors::client(), 16);
    let door = Door { name: "side".into(), service: ServiceName::new("ssh"), ..Door::default() };
    let grant = gate
        .policy
        .through_door(START, &door, "192.0.2.9".parse().unwrap(), &gate.grants)
        .ok()
        .unwrap();
    let live = grant.into_live();
    let with = |doors: &[Door]| {
        Policy::new(vec![ssh()], vec![], 16, []).with_doors(doors).must_end(START.wall, &live)
    };
    assert_eq!(with(std::slice::from_ref(&door)), None);
    let other = Door { service: ServiceName::new("rdp"), ..door.clone() };
    let renamed = Door { name: "edis".into(), ..door };
    for doors in [vec![], vec![other], vec![renamed]] {
        assert_eq!(with(&doors), Some(GrantEnd::Revoked), "{doors:?}");
    }
}

#[test]
fn a_removed_client_is_unknown_at_once() {
    let mut gate = Gate::plain();
    assert_eq!(gate.knock(|_| {}), Some(Status::Granted));
    let live = *gate.grants.list().next().unwrap();
    gate.policy.set_clients(ClientTable::default());
    assert!(gate.policy.client(START.wall, test_vectors::client().id).is_none());
    assert_eq!(gate.policy.must_end(START.wall, &live), Some(GrantEnd::Revoked));
}

#[test]
fn a_grant_ends_when_its_address_becomes_one_that_may_be_everybodys_or_ours() {
    let named = test_vectors::address();
    let private = Source::new("10.0.0.7".parse().unwrap());
    let listed = |prefix: &str| [Prefix::parse(prefix).unwrap()];
    for (address, wide) in [(named, false), (private, false), (private, true)] {
        let service = || Service { spans: spans(if wide { 24 } else { 32 }, 128), ..ssh() };
        let mut gate = Gate::new(service(), test_vectors::client(), 16);
        assert_eq!(gate.knock_from(&address.ip().to_string(), |_| {}), Some(Status::Granted));
        let live = *gate.grants.list().next().unwrap();
        let rules = || Policy::new(vec![service()], vec![test_vectors::client()], 16, []);
        let end = |policy: &Policy| policy.must_end(START.wall, &live);
        let mut policy = rules();
        assert_eq!(end(&policy), None);
        if address == private {
            policy.set_own([Source::new("203.0.113.1".parse().unwrap())]);
            assert_eq!(end(&policy), Some(GrantEnd::Revoked), "a public machine; wide: {wide}");
            policy.set_private(listed("10.0.0.0/24").into());
            assert_eq!(end(&policy), None, "in a network of ours; wide: {wide}");
            policy.set_private(BTreeSet::new());
        } else {
            policy.set_shared([address]);
            assert_eq!(end(&policy), Some(GrantEnd::Revoked), "a router");
        }
        let prefix = format!("{}/24", Span::of_prefix(24, false).unwrap().of(address).ip());
        policy = policy.with_also_granted(&listed(&prefix));
        assert_eq!(end(&policy), None, "it is listed; wide: {wide}");
        if !wide {
            policy.set_own([address]);
            assert_eq!(end(&policy), Some(GrantEnd::Revoked), "ours");
        }
    }
}
