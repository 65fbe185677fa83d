//! Grants of command services: what is stored, and what they cannot be bound to.

use super::*;

/// A service of commands, and what its opening needs.
fn vpn() -> (Service, ServiceCommands) {
    let argv = |word: &str| vec![format!("/{word}"), "%IP%".to_owned()];
    let commands = ServiceCommands { start: argv("open"), stop: argv("shut") };
    (
        Service {
            ports: ServicePorts::Listed(Vec::new()),
            commands: Some(commands.clone()),
            ..ssh()
        },
        commands,
    )
}

#[test]
fn a_grant_of_commands_stores_its_stop_command_and_not_itself() {
    let (service, commands) = vpn();
    let mut gate = Gate::new(service, test_vectors::client(), 16);
    let mut openings = crate::core::openings::Openings::default();
    let source = Source::new("192.0.2.7".parse().unwrap());
    for fails in [true, false] {
        let decision = gate.decide(|_| (), source);
        let place = decision.place().expect("it needs an opening");
        assert_eq!((place.source, gate.policy.commands(place.service)), (source, Some(&commands)));
        let opening = openings.acquire(START, place, &commands).unwrap().expect("the first one");
        let mut stored = Vec::new();
        let outcome = commit_with(vec![decision], vec![opening], |records| {
            stored.push(records.to_vec());
            if fails { Err(Fault::new("disk full", "")) } else { Ok(()) }
        });
        let [records] = &stored[..] else { panic!("one commit: {stored:?}") };
        let [Record::Seen { .. }, .., Record::Opened(opened)] = &records[..] else {
            panic!("{records:?}")
        };
        assert!(!records.iter().any(|record| matches!(record, Record::Granted(_))), "{records:?}");
        assert_eq!((opened.stop.to_string().as_str(), opened.timeout), ("/shut 192.0.2.7", 0));
        assert_eq!(outcome.is_err(), fails);
        let Ok((mut done, journalled)) = outcome else {
            gate.grants.give_up();
            continue;
        };
        let Some(Committed::Open(grant)) = done.pop() else { panic!("granted") };
        assert_eq!(
            (gate.grants.open(START, grant).0.len(), journalled.len()),
            (0, 1),
            "nothing for the kernel"
        );
        assert!(gate.grants.is_held(&place) && gate.grants.take_touched() == [place].into());
    }
}

#[test]
fn commands_are_not_bound_to_a_source_port_and_not_granted_through_a_door() {
    let mut gate = Gate::new(vpn().0, test_vectors::client(), 16);
    assert_eq!(
        gate.knock_from("192.0.2.7", |request| request.source_port = 40_000),
        Some(Status::Denied)
    );
    assert_eq!(gate.knock_from("192.0.2.7", |_| ()), Some(Status::Granted));
    let door = Door { service: ServiceName::new("ssh"), ..Door::default() };
    let through =
        gate.policy.through_door(START, &door, "192.0.2.8".parse().unwrap(), &gate.grants);
    assert_eq!(through.err(), Some(Status::Denied));
}

#[test]
fn a_service_that_is_opened_by_commands_now_ends_what_its_ports_were_granted_and_the_other_way_round()
 {
    let grant_of = |service: Service| {
        let mut gate = Gate::new(service, test_vectors::client(), 16);
        gate.knock_from("192.0.2.7", |_| ());
        *gate.grants.list().next().expect("granted")
    };
    let policy = |service| Gate::new(service, test_vectors::client(), 16).policy;
    assert_eq!(policy(vpn().0).must_end(START.wall, &grant_of(ssh())), Some(GrantEnd::Changed));
    assert_eq!(policy(ssh()).must_end(START.wall, &grant_of(vpn().0)), Some(GrantEnd::Changed));
    assert_eq!(policy(vpn().0).must_end(START.wall, &grant_of(vpn().0)), None);
}
