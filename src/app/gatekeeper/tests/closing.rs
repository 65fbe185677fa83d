//! Grants that an admin ends: which ones, for good, and what goes on.

use std::sync::Arc;

use super::people::Person::{self, Anna, Bert};
use super::people::at;
use super::world::{SIDE, World};
use crate::app::admin::CloseDone;
use crate::app::gatekeeper::events::Lane;
use crate::core::grants::Flow;
use crate::core::knock::{KnockKind, Request, Status};
use crate::core::limits::Limits;
use crate::core::openings::CommandEnd;
use crate::core::service::DisconnectPolicy;
use crate::core::types::{Port, Proto, SECOND, Source};
use crate::edge::control::ControlRequest;
use crate::edge::gatekeeper_pipe::ToGatekeeper;

/// What an order names, each with its value.
type Words<'a> = &'a [(&'a str, &'a str)];

/// An order about the grants that fit all of these.
fn order(words: Words, cut: bool) -> ControlRequest {
    let word = |name: &str| {
        let given = words.iter().find(|(key, _)| *key == name);
        given.map(|(_, value)| (*value).to_owned())
    };
    ControlRequest::Close {
        grant: word("grant"),
        client: word("client"),
        service: word("service"),
        address: word("address"),
        cut,
    }
}

/// The answer to an order, once all is done.
fn close(world: &mut World, words: Words, cut: bool) -> CloseDone {
    let admin = world.ask(order(words, cut));
    world.settle();
    let told = world.told(admin).expect("an answer").expect("no fault");
    serde_json::from_str(&told).unwrap()
}

/// The names of the live grants, as an admin sees them.
fn names(world: &mut World) -> Vec<String> {
    let admin = world.ask(ControlRequest::Grants { after: None, most: None });
    let told = world.told(admin).unwrap().unwrap();
    let page: crate::app::admin::GrantPage = serde_json::from_str(&told).unwrap();
    page.lines.into_iter().map(|line| line.grant).collect()
}

/// Connects `person` to ssh under a live grant.
fn connect(world: &mut World, person: Person) {
    assert_eq!(world.knock(person, "ssh"), Some(Status::Granted));
    let ssh = Port { proto: Proto::Tcp, number: 22 };
    let flow = Flow { source: Source::new(person.address()), source_port: 5, port: ssh };
    world.kernel.borrow_mut().flows.push(flow);
}

fn connections(world: &World) -> usize {
    world.kernel.borrow().flows.len()
}

/// Anna's ssh and web, Bert's ssh, and the side door's ssh for Anna's address.
fn busy() -> World {
    let mut world = World::new();
    for (person, service) in [(Anna, "ssh"), (Anna, "web"), (Bert, "ssh")] {
        assert_eq!(world.knock(person, service), Some(Status::Granted));
    }
    world.tell(ToGatekeeper::Completed { door: SIDE, source: Anna.address() });
    world.settle();
    world
}

#[test]
fn a_grant_has_a_name_and_an_order_ends_those_that_fit_all_that_it_says() {
    const ALL: [&str; 4] = [
        "anna/ssh@192.0.2.10",
        "anna/web@192.0.2.10",
        "bert/ssh@192.0.2.11",
        "door:side/ssh@192.0.2.10",
    ];
    assert_eq!(names(&mut busy()), ALL);
    let cases: [(Words, &[usize]); 10] = [
        (&[("grant", ALL[0])], &[0]),
        (&[("grant", ALL[3])], &[3]),
        (&[("client", "anna")], &[0, 1]),
        (&[("client", "door:side")], &[3]),
        (&[("service", "ssh")], &[0, 2, 3]),
        (&[("address", "192.0.2.10")], &[0, 1, 3]),
        (&[("address", "192.0.2.0/24")], &[0, 1, 2, 3]),
        (&[("client", "anna"), ("service", "web")], &[1]),
        (&[("service", "ssh"), ("address", "192.0.2.10")], &[0, 3]),
        (&[("client", "anna"), ("address", "2001:db8::/32")], &[]),
    ];
    for (words, ended) in cases {
        let mut world = busy();
        assert_eq!(close(&mut world, words, false).ended, ended.len(), "{words:?}");
        let mut left = Vec::from(ALL);
        for place in ended.iter().rev() {
            left.remove(*place);
        }
        assert_eq!(names(&mut world), left, "{words:?}");
        world.restart(false);
        assert_eq!(names(&mut world), left, "after a restart: {words:?}");
    }
    let mut world = busy();
    close(&mut world, &[("address", "192.0.2.10")], false);
    assert!(!world.lets_in(Anna, 22) && world.lets_in(Bert, 22));
    assert!(world.said("anna: ssh of 192.0.2.10 ended by an admin"));
}

#[test]
fn an_order_that_names_nothing_or_no_address_ends_nothing() {
    for words in [&[][..], &[("address", "192.0.2.300")], &[("service", "no such service")]] {
        let mut world = busy();
        let admin = world.ask(order(words, true));
        assert!(world.told(admin).unwrap().is_err(), "{words:?}");
        assert_eq!(names(&mut world).len(), 4, "{words:?}");
    }
}

#[test]
fn the_admin_is_told_once_the_end_is_on_disk_and_otherwise_that_it_is_not() {
    let mut world = busy();
    let admin = world.ask(order(&[("client", "anna")], false));
    assert!(!world.lets_in(Anna, 80), "at once");
    assert_eq!(world.told(admin), None, "nothing is said before it is on disk");
    assert!(world.do_task(Lane::State));
    assert!(world.told(admin).unwrap().unwrap().contains("\"is_stored\":true"));
    world.restart(true);
    assert_eq!(names(&mut world), ["bert/ssh@192.0.2.11", "door:side/ssh@192.0.2.10"]);
    world.disk.set_broken(true);
    let done = close(&mut world, &[("client", "bert")], false);
    assert!(done.ended == 1 && !done.is_stored && !world.lets_in(Bert, 22), "{done:?}");
}

#[test]
fn connections_go_on_until_they_are_cut_and_a_later_cut_still_finds_them() {
    for policy in [DisconnectPolicy::Never, DisconnectPolicy::Revoked] {
        let mut world = World::with(|files| files.settings.services[0].cut = policy);
        connect(&mut world, Anna);
        let done = close(&mut world, &[("client", "anna")], false);
        assert_eq!((done.ended, done.over, done.go_on.len(), done.cut.len()), (1, 0, 1, 0));
        assert_eq!(connections(&world), 1, "{policy:?}");
        world.advance(11 * SECOND);
        world.settle();
        let done = close(&mut world, &[("grant", "anna/ssh@192.0.2.10")], true);
        assert_eq!((done.ended, done.over, done.is_cut), (0, 1, true), "{policy:?}");
        assert_eq!((connections(&world), done.cut.contains("ssh")), (0, true), "{policy:?}");
        assert_eq!(close(&mut world, &[("client", "anna")], true), {
            CloseDone { is_shut: true, is_cut: true, is_stored: true, ..CloseDone::default() }
        });
    }
}

#[test]
fn with_cut_a_grant_and_its_connections_end_at_once_and_nobody_elses() {
    let mut world = World::with(|files| {
        files.settings.services[0].cut = DisconnectPolicy::Never;
    });
    connect(&mut world, Anna);
    connect(&mut world, Bert);
    let admin = world.ask(order(&[("client", "anna")], true));
    while world.do_task(Lane::State) {}
    assert_eq!(world.told(admin), None, "not before they are cut");
    world.settle();
    assert!(world.told(admin).unwrap().unwrap().contains("\"cut\":[\"ssh\"]"));
    assert_eq!(connections(&world), 1);
    assert!(!world.lets_in(Anna, 22) && world.lets_in(Bert, 22));
}

fn close_herself(world: &mut World) {
    let request = Anna.request("ssh", world.second());
    let ticket = world.hand(Anna, &Request { kind: KnockKind::Close, ..request });
    world.settle();
    assert_eq!(world.status(ticket), Some(Status::Closed));
}

#[test]
fn a_grant_whose_connections_a_close_has_cut_is_on_no_disk_any_more() {
    let mut world = World::with(|files| files.settings.services[0].cut = DisconnectPolicy::Closed);
    connect(&mut world, Anna);
    world.advance(SECOND);
    close_herself(&mut world);
    assert_eq!(connections(&world), 0);
    assert_eq!(world.disk.durable_ledger(at(0)).grants().count(), 0);
}

/// Ends Anna's grant for ssh, whose connections go on.
type Ending = fn(&mut World);

#[test]
fn a_revocation_still_cuts_what_goes_on_after_a_grant_was_ended() {
    let endings: [(&str, Ending); 3] = [
        ("an admin", |world| {
            close(world, &[("client", "anna")], false);
        }),
        ("herself", close_herself),
        ("shorter grants", |world| {
            let limits = Limits { max_seconds: Some(5), ..Limits::default() };
            world.files.limits.insert(Anna, Arc::new(limits));
            world.ask(ControlRequest::Reload);
            world.settle();
        }),
    ];
    for (by, end) in endings {
        for restarts in [false, true] {
            let mut world = World::new();
            connect(&mut world, Anna);
            world.advance(SECOND);
            end(&mut world);
            assert_eq!(connections(&world), 1, "{by}");
            if restarts {
                world.restart(true);
            }
            assert!(!world.lets_in(Anna, 22), "{by}");
            world.files.enrolled = vec![Bert];
            world.ask(ControlRequest::Reload);
            world.settle();
            assert_eq!(connections(&world), 0, "the right is gone, so the connection is too: {by}");
        }
    }
}

#[test]
fn a_cut_that_fails_is_told() {
    let mut world = World::new();
    connect(&mut world, Anna);
    let admin = world.ask(order(&[("client", "anna")], true));
    assert!(world.fail_task(Lane::Connections));
    world.settle();
    assert!(world.told(admin).unwrap().unwrap().contains("\"is_cut\":false"));
}

#[test]
fn a_firewall_that_refuses_the_end_is_told_and_repaired() {
    let mut world = busy();
    world.kernel.borrow_mut().refuses = Some(super::kernel::Refusal::Whole);
    let done = close(&mut world, &[("client", "anna")], false);
    assert!(done.ended == 2 && !done.is_shut, "{done:?}");
    world.advance(2 * SECOND);
    world.settle();
    assert!(!world.lets_in(Anna, 80));
}

#[test]
fn the_stop_command_of_a_command_service_runs_and_a_start_that_runs_is_waited_for() {
    let mut world = World::new();
    let request = Anna.request("vpn", world.second());
    world.hand(Anna, &request);
    assert_eq!(world.commands(), ["/bin/start 192.0.2.10"]);
    let done = close(&mut world, &[("service", "vpn")], true);
    assert_eq!((done.ended, done.cut.len(), done.go_on.len()), (1, 0, 0));
    world.end_the_command(CommandEnd::Exited(0));
    assert_eq!(world.commands(), ["/bin/start 192.0.2.10", "/bin/stop 192.0.2.10"]);
    world.end_the_command(CommandEnd::Exited(0));
    world.settle();
    assert_eq!(world.disk.durable_ledger(at(0)).openings().count(), 0);
}

#[test]
fn whoever_may_knock_has_a_new_grant_after_the_end_of_one() {
    let mut world = busy();
    close(&mut world, &[("client", "anna")], false);
    world.advance(SECOND);
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    assert!(world.lets_in(Anna, 22));
}

#[test]
fn orders_beyond_the_limit_are_refused() {
    let mut world = busy();
    world.disk.set_broken(false);
    let admins: Vec<u64> =
        (0..20).map(|_| world.ask(order(&[("client", "anna")], false))).collect();
    let refused = admins.iter().filter(|admin| world.told(**admin).is_some_and(|t| t.is_err()));
    assert_eq!(refused.count(), 4);
    world.settle();
    assert!(admins.iter().all(|admin| world.told(*admin).is_some()));
}
