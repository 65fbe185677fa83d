//! One client's knocks, closes and limits do not affect another client or another service.

use super::*;
use crate::core::service::AddressProof;

/// A grant that somebody has for `service` at the address of all these tests.
fn held(holder: Holder, service: &str) -> ActiveGrant {
    let key = GrantKey {
        holder,
        service: ServiceName::new(service).unwrap(),
        source: test_vectors::address(),
        source_port: 0,
        span: Span::HOST,
    };
    grant(key, &ssh(), START, 30, AddressProof::Both)
}

fn put(gate: &mut Gate, live: ActiveGrant) {
    gate.grants.open_for_door(START, DoorGrant::new(live));
}

fn neighbour() -> Holder {
    Holder::Client(ClientId([9; 16]))
}

#[test]
fn a_close_ends_no_grant_of_another_client_or_another_service() {
    let mut gate = Gate::plain();
    let others = [
        held(neighbour(), "ssh"),
        held(Holder::Client(CLIENT), "web"),
        held(Holder::door("side"), "ssh"),
    ];
    for one in others {
        put(&mut gate, one);
    }
    assert_eq!(gate.knock(|_| {}), Some(Status::Granted));
    assert_eq!(gate.grants.list().count(), 4);
    for address in [Some(test_vectors::address()), None] {
        assert_eq!(
            gate.knock(|r| (r.kind, r.address) = (KnockKind::Close, address)),
            Some(Status::Closed)
        );
        let mut left: Vec<GrantKey> = gate.grants.list().map(|live| live.key).collect();
        left.retain(|key| !others.iter().any(|one| one.key == *key));
        assert_eq!((left, gate.grants.list().count()), (vec![], 3), "{address:?}");
    }
}

#[test]
fn a_service_counts_its_own_grants_alone_for_clients_and_doors_alike() {
    let door = Door { name: "side".into(), service: ServiceName::new("ssh"), ..Door::default() };
    for (service, status) in [("web", Status::Granted), ("ssh", Status::Full)] {
        let mut gate = Gate::new(Service { max_grants: 1, ..ssh() }, test_vectors::client(), 16);
        put(&mut gate, held(neighbour(), service));
        let through =
            gate.policy.through_door(START, &door, "192.0.2.9".parse().unwrap(), &gate.grants);
        assert_eq!(through.err(), (status == Status::Full).then_some(Status::Full), "{service}");
        assert_eq!(gate.knock(|_| {}), Some(status), "{service}");
    }
}

/// Asks for more and more grants in turn, and counts what each holder gets of `max_grants`.
fn filled(max_grants: u32, holders: u8) -> Vec<u32> {
    let mut grants = Grants::default();
    let service = Service { max_grants, ..ssh() };
    let mut got = vec![0; holders.into()];
    for number in 0..2 * max_grants {
        for (index, count) in (0..holders).zip(&mut got) {
            let holder = Holder::Client(ClientId([index; 16]));
            let source = Source::new(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into());
            let key = GrantKey { source, ..held(holder, "ssh").key };
            if has_room(&key, &service, u32::MAX, &grants).is_ok() {
                grants.reserve(key);
                *count += 1;
            }
        }
    }
    got
}

#[test]
fn a_holder_gets_seven_eighths_of_a_service_and_several_leave_room_for_the_next() {
    assert_eq!(filled(1, 1), [1]);
    assert_eq!(filled(2, 1), [1]);
    assert_eq!(filled(3, 1), [2]);
    assert_eq!(filled(8, 1), [7]);
    assert_eq!(filled(1024, 1), [896]);
    assert_eq!(filled(30, 2), [14, 14]);
    assert_eq!(filled(640, 9), [70; 9], "and ten are free for the next");
    assert_eq!(filled(2, 3), [1, 1, 0], "the limit itself holds");
}

#[test]
fn one_door_that_anybody_may_have_overheard_leaves_room_for_every_client() {
    let door = Door { name: "side".into(), service: ServiceName::new("ssh"), ..Door::default() };
    let mut gate = Gate::new(Service { max_grants: 100, ..ssh() }, test_vectors::client(), 16);
    let mut opened = 0;
    for number in 0..900_u32 {
        let source = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into();
        let through = gate.policy.through_door(START, &door, source, &gate.grants);
        let Ok(grant) = through else { continue };
        gate.grants.open_for_door(START, grant);
        opened += 1;
    }
    assert_eq!(opened, 88);
    assert_eq!(gate.knock(|_| {}), Some(Status::Granted));
}

#[test]
fn the_record_of_a_request_for_less_time_still_has_the_remaining_time() {
    let mut gate = Gate::plain();
    assert_eq!(gate.seconds(200), 200);
    let decision = gate.decide(|r| r.seconds = 5, test_vectors::address());
    let mut stored = Vec::new();
    let done = commit(vec![decision], |records| {
        stored = records.to_vec();
        Ok(())
    });
    assert!(matches!(done.unwrap()[..], [Committed::Open(_)]));
    let seconds = |record: &Record| {
        if let Record::Granted(live) = record { Some(live.seconds) } else { None }
    };
    assert_eq!(
        stored.iter().filter_map(seconds).collect::<Vec<_>>(),
        [200],
        "a restart must not shorten it"
    );
    // Of another form it is another grant, and as long as was asked.
    gate.policy = Policy::new(
        vec![Service { form: GrantKind::Once, ..ssh() }],
        vec![test_vectors::client()],
        16,
        [],
    );
    let decision = gate.decide(|r| r.seconds = 5, test_vectors::address());
    let Some(Committed::Open(grant)) = commit(vec![decision], |_| Ok(())).unwrap().pop() else {
        panic!("not admitted")
    };
    let live = grant.into_parts().0;
    assert_eq!((live.form, live.seconds), (GrantKind::Once, 5));
    // The same through a door.
    let mut gate = Gate::plain();
    put(&mut gate, ActiveGrant { seconds: 200, ..held(Holder::door("side"), "ssh") });
    let door = Door { name: "side".into(), service: ServiceName::new("ssh"), ..Door::default() };
    for (form, seconds) in [(GrantKind::Time, 200), (GrantKind::Once, 30)] {
        gate.policy = Policy::new(vec![Service { form, ..ssh() }], vec![], 16, []);
        let grant = gate
            .policy
            .through_door(START, &door, test_vectors::address().ip(), &gate.grants)
            .ok()
            .unwrap();
        assert_eq!(grant.into_live().seconds, seconds, "{form:?}");
    }
}

#[test]
fn each_decision_is_counted_under_its_own_reason() {
    let mut gate = Gate::plain();
    let mut reject = |change: fn(&mut Request), source: &str| {
        gate.decide(change, Source::new(source.parse().unwrap()))
            .reject()
            .map(|reject| reject.name())
    };
    assert_eq!(reject(|_| {}, "192.0.2.7"), None);
    assert_eq!(reject(|r| r.kind = KnockKind::Close, "192.0.2.7"), None);
    assert_eq!(reject(|r| r.kind = KnockKind::Probe, "192.0.2.7"), None);
    let name = |reject: Reject| Some(reject.name());
    assert_eq!(reject(|r| r.service = ServiceName::NONE, "192.0.2.7"), name(Reject::Policy));
    assert_eq!(
        reject(|r| r.address = Some(test_vectors::address()), "192.0.2.8"),
        name(Reject::Address)
    );
    assert_eq!(
        reject(|r| r.timestamp = Wall(START.wall.0 + 1), "192.0.2.7"),
        name(Reject::Replayed)
    );
}

#[test]
fn an_address_that_becomes_ours_is_no_longer_granted_and_one_that_was_ours_is() {
    let mut gate = Gate::plain();
    gate.policy.set_own([test_vectors::address()]);
    assert_eq!(gate.knock(|_| {}), Some(Status::Address));
    assert_eq!(gate.knock_from("203.0.113.1", |_| {}), Some(Status::Granted));
}
