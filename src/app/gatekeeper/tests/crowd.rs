//! A crowd of live grants: whatever concerns all of them is done some at a turn, or beside the
//! loop, and knocks are answered in between.

use std::net::Ipv4Addr;

use super::people::Person::{self, Anna, Bert, Carl};
use super::world::World;
use crate::app::gatekeeper::events::{Event, Lane};
use crate::core::grants::{ActiveGrant, Flow, GrantKey, Holder};
use crate::core::knock::{KnockKind, Request, Status};
use crate::core::prefix::Span;
use crate::core::record::Record;
use crate::core::service::{AddressProof, DisconnectPolicy, Forward, GrantKind};
use crate::core::types::{Port, Proto, SECOND, ServiceName, Source};
use crate::edge::control::ControlRequest;
use crate::edge::state::State;

/// Live grants.
const CROWD: u32 = 2000;
/// The most of them that one turn may change.
const SLICE: usize = 512;

/// A gateway that has started with a crowd of Anna's grants, of 300 seconds each.
fn crowded() -> World {
    let mut world = World::new();
    let now = world.now();
    let ports = world.files.settings.services[0].ports.digest();
    let grant = |number: u32| ActiveGrant {
        key: GrantKey {
            holder: Holder::Client(Anna.id()),
            service: ServiceName::new("ssh").unwrap(),
            source: Source::new(Ipv4Addr::from(0x0a00_0000 + number).into()),
            source_port: 0,
            span: Span::HOST,
        },
        form: GrantKind::Time,
        ports,
        opened: now,
        seconds: 300,
        cut: DisconnectPolicy::Revoked,
        proof: AddressProof::Both,
    };
    let records: Vec<Record> = (1..=CROWD).map(grant).map(Record::Granted).collect();
    let (mut state, _) = State::on_disk(Box::new(world.disk.clone()), now.wall, true).unwrap();
    state.commit(&records).unwrap();
    world.restart(false);
    world.settle();
    // After a start knocks need a challenge for a while.
    world.advance(11 * SECOND);
    assert_eq!(elements(&world), usize::try_from(CROWD).unwrap());
    world
}

fn elements(world: &World) -> usize {
    world.kernel.borrow().live().len()
}

/// Goes on to the end, with `knocks` in between. The number of elements changes by few at a turn.
fn in_slices(world: &mut World, mut knock: impl FnMut(&mut World)) {
    let mut turns = 0;
    let mut before = elements(world);
    while world.go_on() {
        let after = elements(world);
        assert!(before.abs_diff(after) <= SLICE, "{before} to {after} in one turn");
        turns += 1;
        if turns == 1 {
            knock(world);
        }
        before = elements(world);
    }
    assert!(turns >= 2, "that was all at once");
}

/// A reload up to the guard's new rules, which are loaded.
fn reload(world: &mut World) -> u64 {
    let admin = world.ask(ControlRequest::Reload);
    for lane in [Lane::Clients, Lane::Config, Lane::Guard] {
        assert!(world.do_task(lane), "{lane:?}");
    }
    admin
}

#[test]
fn grants_that_a_reload_ends_go_some_at_a_turn_and_the_admin_is_told_at_the_end() {
    let mut world = crowded();
    world.files.settings.services[0].max_seconds = 200;
    let admin = reload(&mut world);
    assert!(elements(&world) >= usize::try_from(CROWD).unwrap() - SLICE);
    in_slices(&mut world, |world| {
        assert!(world.told(admin).is_none(), "not all of them have ended");
        assert_eq!(world.knock(Bert, "web"), Some(Status::Granted));
    });
    world.settle();
    assert_eq!(elements(&world), 1, "only Bert's is left");
    assert!(world.told(admin).unwrap().is_ok());
}

#[test]
fn a_crowd_that_an_admin_ends_goes_some_at_a_turn_and_whoever_knocks_meanwhile_stays() {
    let mut world = crowded();
    let service = Some("ssh".to_owned());
    let (grant, client, address) = (None, None, None);
    let admin = world.ask(ControlRequest::Close { grant, client, service, address, cut: true });
    in_slices(&mut world, |world| {
        assert!(world.told(admin).is_none(), "not all of them have ended");
        world.set_clock(1);
        assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted));
    });
    world.settle();
    assert_eq!(elements(&world), 1, "only Bert's is left");
    let told = world.told(admin).unwrap().unwrap();
    assert!(told.contains(&format!("\"ended\":{CROWD}")), "{told}");
}

#[test]
fn whoever_is_revoked_with_a_crowd_of_grants_is_named_in_every_line_about_them() {
    let mut world = crowded();
    world.files.enrolled = vec![Bert, Carl];
    let admin = world.ask(ControlRequest::Reload);
    world.do_task(Lane::Clients);
    assert_eq!(world.knock(Anna, "ssh"), None, "unknown from the beginning");
    in_slices(&mut world, |world| {
        assert!(world.told(admin).is_none());
        assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted));
    });
    world.settle();
    assert!(world.told(admin).unwrap().is_ok());
    assert_eq!(elements(&world), 1);
    let named = world.log.iter().filter(|line| line.starts_with("anna: ssh of 10.0.")).count();
    assert_eq!(named, usize::try_from(CROWD).unwrap());
}

#[test]
fn a_grant_that_is_renewed_while_its_service_moves_is_one_of_the_new_rules() {
    let mut world = crowded();
    // After all of Anna's in the order of the review, and longer than what is asked for next.
    let longer = Request { seconds: 500, ..Carl.request("ssh", world.second()) };
    let ticket = world.hand(Carl, &longer);
    assert_eq!(world.status(ticket), Some(Status::Granted));
    world.advance(SECOND);
    let to = vec!["10.0.0.7:22".parse().unwrap()];
    world.files.settings.services[0].forward = Some(Forward { to, masquerade: false });
    reload(&mut world);
    in_slices(&mut world, |world| {
        world.set_clock(1);
        assert_eq!(world.knock(Carl, "ssh"), Some(Status::Granted));
    });
    assert_eq!(elements(&world), 1);
    assert!(world.lets_in(Carl, 22), "what was granted by the new rules stays");
}

#[test]
fn a_jump_of_the_clock_reaches_every_grant_some_at_a_turn() {
    let mut world = crowded();
    world.jump(200);
    world.handle(Event::FirewallUnsure);
    let ends = |world: &World| {
        let soon = world.now().boot.plus(101);
        world.gatekeeper.grants.list().filter(|grant| grant.deadline() <= soon).count()
    };
    let mut before = ends(&world);
    assert!((1..=SLICE).contains(&before), "{before} at once");
    let mut turns = 0;
    while world.go_on() {
        let after = ends(&world);
        assert!(after - before <= SLICE, "{before} to {after} in one turn");
        before = after;
        turns += 1;
    }
    assert!(turns >= 2 && before == usize::try_from(CROWD).unwrap(), "{before} in {turns} turns");
    world.advance(101 * SECOND);
    assert_eq!(elements(&world), 0);
}

#[test]
fn a_repair_puts_a_crowd_back_some_at_a_turn_and_status_waits_for_the_last() {
    let mut world = crowded();
    world.kernel.borrow_mut().delete();
    world.handle(Event::FirewallChanged { who: "nft (pid 9)".to_owned() });
    let status = world.ask(ControlRequest::Status);
    assert!(world.do_task(Lane::Guard));
    assert!(elements(&world) <= SLICE);
    in_slices(&mut world, |world| {
        assert!(world.told(status).is_none(), "not all of them are back");
        assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted));
    });
    assert!(world.told(status).unwrap().unwrap().contains("\"guard\":true"));
    assert!(world.said(&format!("{CROWD} grants put back, 0 orphaned")), "{:?}", world.log);
    assert_eq!(elements(&world), usize::try_from(CROWD).unwrap() + 1);
}

#[test]
fn a_repair_that_the_kernel_refuses_halfway_begins_again() {
    let mut world = crowded();
    world.kernel.borrow_mut().delete();
    world.handle(Event::FirewallChanged { who: "nft (pid 9)".to_owned() });
    assert!(world.do_task(Lane::Guard));
    world.kernel.borrow_mut().delete();
    world.go_on();
    assert!(world.said("THE GUARD MAY BE DOWN"));
    world.advance(SECOND);
    world.settle();
    assert_eq!(elements(&world), usize::try_from(CROWD).unwrap());
}

// Connections are listed beside the loop.

/// Anna's connection under her grant for ssh.
fn connect(world: &mut World) {
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    let ssh = Port { proto: Proto::Tcp, number: 22 };
    let flow = Flow { source: Source::new(Anna.address()), source_port: 5, port: ssh };
    world.kernel.borrow_mut().flows.push(flow);
}

/// Anna closes what she has.
fn close(world: &mut World) -> u64 {
    world.advance(SECOND);
    let close = Request { kind: KnockKind::Close, ..Anna.request("ssh", world.second()) };
    world.hand(Anna, &close)
}

fn world_that_cuts_at_a_close() -> World {
    World::with(|files| files.settings.services[0].cut = DisconnectPolicy::Closed)
}

fn is_connected(world: &World) -> bool {
    !world.kernel.borrow().flows.is_empty()
}

/// Somebody is revoked.
fn revoke(world: &mut World, who: Person) -> u64 {
    world.files.enrolled.retain(|person| *person != who);
    let admin = world.ask(ControlRequest::Reload);
    world.do_task(Lane::Clients);
    world.do_task(Lane::Config);
    world.do_task(Lane::State);
    admin
}

#[test]
fn connections_are_cut_beside_the_loop_and_the_admin_is_told_when_they_are() {
    let mut world = World::new();
    connect(&mut world);
    let admin = revoke(&mut world, Anna);
    assert!(!world.lets_in(Anna, 22) && is_connected(&world), "the element goes at once");
    assert!(world.told(admin).is_none() && !world.said("were cut"));
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted));
    assert!(world.do_task(Lane::Connections));
    world.settle();
    assert!(!is_connected(&world) && world.said("connections of 192.0.2.10 to ssh were cut"));
    assert!(world.told(admin).unwrap().is_ok());
}

#[test]
fn a_close_is_answered_when_the_connections_are_cut() {
    let mut world = world_that_cuts_at_a_close();
    connect(&mut world);
    let ticket = close(&mut world);
    assert!(world.waits(ticket) && !world.lets_in(Anna, 22));
    assert!(world.do_task(Lane::Connections));
    assert_eq!(world.status(ticket), Some(Status::Closed));
    assert!(!is_connected(&world));
    let again = close(&mut world);
    assert_eq!(world.status(again), Some(Status::Closed), "nothing is left to wait for");
}

#[test]
fn a_cut_that_fails_is_told_and_tried_every_second_until_it_is_made() {
    let mut world = world_that_cuts_at_a_close();
    connect(&mut world);
    let ticket = close(&mut world);
    for _ in 0..3 {
        assert!(world.fail_task(Lane::Connections));
        assert_eq!(world.status(ticket), Some(Status::Closed), "no reason to be silent");
        world.settle();
        assert!(is_connected(&world) && world.said("CONNECTIONS WERE NOT CUT"));
        world.advance(SECOND);
    }
    world.settle();
    assert!(!is_connected(&world) && world.said("were cut"));
}

#[test]
fn a_list_of_connections_that_never_comes_keeps_nobody_waiting_for_long() {
    let mut world = world_that_cuts_at_a_close();
    connect(&mut world);
    let ticket = close(&mut world);
    let admin = revoke(&mut world, Bert);
    world.advance(11 * SECOND);
    assert_eq!(world.status(ticket), Some(Status::Closed));
    assert!(world.told(admin).unwrap().is_ok());
    assert!(world.said("CONNECTIONS WERE NOT CUT: listing or cutting connections takes longer"));
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    let late = close(&mut world);
    world.advance(0);
    assert_eq!(world.status(late), Some(Status::Closed), "its turn will not come");
    // It comes after all, and the next one cuts.
    world.do_task(Lane::Connections);
    world.advance(SECOND);
    world.settle();
    assert!(!is_connected(&world));
}

#[test]
fn the_end_waits_for_a_cut_that_is_under_way_but_not_for_one_that_hangs() {
    for hangs in [false, true] {
        let mut world = World::new();
        connect(&mut world);
        revoke(&mut world, Anna);
        world.handle(Event::Terminate);
        while world.do_task(Lane::State) {}
        assert!(!world.is_over(), "connections of a revoked client stand");
        if hangs {
            world.advance(11 * SECOND);
        } else {
            world.settle();
            assert!(!is_connected(&world));
        }
        assert!(world.is_over(), "{hangs}");
    }
}

#[test]
fn what_is_over_is_asked_about_in_parts_and_all_of_it_in_the_end() {
    let mut world = crowded();
    world.advance(301 * SECOND);
    let left = |world: &World| world.gatekeeper.grants.past_after(None).count();
    assert!(left(&world) > 1024);
    for _ in 0..4 {
        let before = left(&world);
        world.advance(10 * SECOND);
        world.settle();
        assert!(before - left(&world) <= 1024, "the most of one check");
    }
    assert_eq!(left(&world), 0);
}
