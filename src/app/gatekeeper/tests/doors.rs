//! Classic doors from a completed sequence to what it opens.

use std::net::IpAddr;

use super::people::Person::{Anna, Bert, Carl};
use super::people::at;
use super::world::{ONCE, RUN, SIDE, World};
use crate::app::gatekeeper::events::{Event, Lane};
use crate::core::openings::CommandEnd;
use crate::core::types::SECOND;
use crate::edge::control::ControlRequest;
use crate::edge::gatekeeper_pipe::ToGatekeeper;

fn complete(world: &mut World, door: u16, source: IpAddr) {
    world.tell(ToGatekeeper::Completed { door, source });
}

#[test]
fn a_door_with_commands_runs_them_for_its_time() {
    let mut world = World::new();
    complete(&mut world, RUN, Anna.address());
    assert!(world.said("192.0.2.10: run: OPEN SESAME"));
    assert_eq!(world.commands(), ["open 192.0.2.10"]);
    world.end_the_command(CommandEnd::Exited(0));
    world.advance(10 * SECOND - 1);
    assert_eq!(world.commands().len(), 1);
    world.advance(1);
    assert_eq!(world.commands(), ["open 192.0.2.10", "shut 192.0.2.10"]);
    world.end_the_command(CommandEnd::Exited(0));
    world.settle();
    assert_eq!(world.disk.durable_ledger(at(0)).openings().count(), 0);
}

#[test]
fn a_door_that_grants_a_service_waits_for_no_disk_and_its_grant_survives_a_crash() {
    let mut world = World::new();
    let syncs = world.disk.syncs();
    complete(&mut world, SIDE, Anna.address());
    assert!(world.lets_in(Anna, 22) && world.disk.syncs() == syncs);
    assert!(world.said("side: ssh granted to 192.0.2.10"));
    world.settle();
    world.restart(true);
    assert!(world.lets_in(Anna, 22));
}

#[test]
fn a_door_opens_for_no_address_that_nobody_has() {
    let mut world = World::new();
    for nobody in [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "192.0.2.1",
        "192.0.2.0",
        "192.0.2.255",
        "::1",
        "fe80::1",
        "ff02::1",
    ] {
        world.log.clear();
        complete(&mut world, SIDE, nobody.parse().unwrap());
        assert!(
            world.said("side: not granted: this is not the address of one other machine"),
            "{nobody}"
        );
    }
    assert!(world.kernel.borrow().live().is_empty());
}

#[test]
fn a_door_that_does_not_exist_is_not_opened_and_not_mentioned() {
    let mut world = World::new();
    world.log.clear();
    for door in [3, 255, u16::MAX] {
        complete(&mut world, door, Anna.address());
        world.tell(ToGatekeeper::Stage { door, source: Anna.address(), stage: 1 });
        world.tell(ToGatekeeper::TimedOut { door, source: Anna.address(), stage: 1 });
    }
    assert!(world.log.is_empty() && world.commands().is_empty());
}

#[test]
fn a_one_time_sequence_opens_once_and_the_next_one_is_told_to_the_listener() {
    let mut world = World::new();
    let lines = world.files.one_time.clone();
    complete(&mut world, ONCE, Anna.address());
    assert!(!world.lets_in(Anna, 80), "not before it is used up");
    world.settle();
    assert!(world.lets_in(Anna, 80));
    assert_eq!(world.files.one_time.len(), 2);
    assert_eq!(world.listeners[&world.listener()].sequences[&ONCE], lines[1]);
    complete(&mut world, ONCE, Bert.address());
    world.settle();
    complete(&mut world, ONCE, Bert.address());
    world.settle();
    assert!(world.lets_in(Bert, 80));
    assert!(world.said("no more sequences left in the one time sequences file for door once"));
    world.log.clear();
    complete(&mut world, ONCE, Carl.address());
    world.settle();
    assert!(!world.lets_in(Carl, 80) && world.said("was used up before, so it stays shut"));
}

#[test]
fn two_sources_that_complete_one_sequence_share_one_opening() {
    let mut world = World::new();
    complete(&mut world, ONCE, Anna.address());
    complete(&mut world, ONCE, Bert.address());
    assert!(world.said("its one-time sequence was used up before, so it stays shut"));
    world.settle();
    assert!(world.lets_in(Anna, 80) && !world.lets_in(Bert, 80));
    assert_eq!(world.files.one_time.len(), 2);
}

#[test]
fn a_sequence_that_cannot_be_used_up_keeps_its_door_shut() {
    let mut world = World::new();
    complete(&mut world, ONCE, Anna.address());
    assert!(world.fail_task(Lane::Files));
    assert!(!world.lets_in(Anna, 80));
    assert!(
        world.said("its one-time sequence cannot be used up, so it stays shut: it came to nothing")
    );
}

#[test]
fn a_next_sequence_that_every_scanner_knows_shuts_the_door() {
    let shipped = crate::config::knockd::sequence("7000,8000,9000", "").unwrap();
    let mut world = World::with(|files| files.one_time[1] = shipped);
    complete(&mut world, ONCE, Anna.address());
    world.settle();
    assert!(world.lets_in(Anna, 80), "the one before it was good");
    assert!(world.said("door once stays shut from now on"));
    assert!(world.listeners[&world.listener()].sequences[&ONCE].is_empty());
}

#[test]
fn a_listener_that_takes_over_knows_the_sequences_that_are_in_force() {
    let mut world = World::new();
    let lines = world.files.one_time.clone();
    // It is started before the sequence is used up, and gets ready after it.
    let id = world.listener();
    let mut network = super::world::network();
    network.default_routes = vec!["eth1".to_owned()];
    world.files.settings.knock.interfaces = vec!["default".to_owned()];
    world.ask(ControlRequest::Reload);
    world.settle();
    world.advance(6 * SECOND);
    assert!(!world.listeners.contains_key(&id));
    world.handle(Event::Network(Ok(network)));
    assert_eq!(world.starting.len(), 1);
    let old = world.listener();
    world.handle(Event::Listener {
        id: old,
        messages: vec![ToGatekeeper::Completed { door: ONCE, source: Anna.address() }],
    });
    world.do_task(Lane::Files);
    assert!(world.make_ready());
    assert_eq!(world.listeners[&world.listener()].sequences[&ONCE], lines[1]);
    // Also after it has died.
    let id = world.listener();
    world.lose(id, crate::app::gatekeeper::events::ListenerLoss::Nonsense);
    world.advance(2 * SECOND);
    world.make_ready();
    complete(&mut world, ONCE, Bert.address());
    world.settle();
    assert!(world.lets_in(Bert, 80), "the second sequence, not the first");
}

/// Completes the sequence of `door` as often as it may at once.
fn flood(world: &mut World, door: u16) {
    for _ in 0..1024 {
        complete(world, door, "127.0.0.1".parse().unwrap());
    }
}

#[test]
fn a_flood_at_one_door_shuts_that_door_and_no_other() {
    let mut world = World::new();
    flood(&mut world, SIDE);
    complete(&mut world, SIDE, Anna.address());
    assert!(!world.lets_in(Anna, 22));
    complete(&mut world, RUN, Anna.address());
    complete(&mut world, ONCE, Anna.address());
    world.settle();
    assert_eq!(world.commands(), ["open 192.0.2.10"]);
    assert!(world.lets_in(Anna, 80));
    world.advance(10 * SECOND);
    assert!(world.said("door side: 1 complete knocks did not open it: at most 64 a second do"));
    complete(&mut world, SIDE, Anna.address());
    assert!(world.lets_in(Anna, 22));
}

#[test]
fn a_thousand_people_who_knock_at_one_door_at_33_a_second_all_come_in() {
    // One door is one holder: it gets half of what its service may have.
    let mut world = World::with(|files| {
        for service in &mut files.settings.services {
            service.max_grants = 4096;
        }
    });
    for number in 0..1000_u16 {
        let [high, low] = number.to_be_bytes();
        complete(&mut world, SIDE, [198, 51, 100 + high, low].into());
        world.advance(SECOND / 33);
    }
    let opened = world.log.iter().filter(|line| line.contains("side: ssh granted to")).count();
    assert_eq!(opened, 1000);
}

#[test]
fn knocks_that_are_completed_together_share_one_sync() {
    let mut world = World::new();
    let syncs = world.disk.syncs();
    let messages =
        (10..30).map(|n| ToGatekeeper::Completed { door: RUN, source: [192, 0, 2, n].into() });
    let id = world.listener();
    world.handle(Event::Listener { id, messages: messages.collect() });
    assert_eq!((world.commands().len(), world.disk.syncs()), (20, syncs + 1));
}

#[test]
fn too_many_openings_at_once_open_nothing_but_use_up_their_one_time_sequence() {
    let mut world = World::new();
    world.disk.set_broken(true);
    flood(&mut world, ONCE);
    world.disk.set_broken(false);
    complete(&mut world, ONCE, Anna.address());
    world.settle();
    assert!(!world.lets_in(Anna, 80));
    assert_eq!(world.files.one_time.len(), 2, "it crossed the network in cleartext");
}

#[test]
fn while_the_journal_cannot_be_written_no_door_opens() {
    let mut world = World::new();
    world.disk.set_broken(true);
    complete(&mut world, RUN, Anna.address());
    assert!(world.said("NOTHING OPENS") && world.commands().is_empty());
    complete(&mut world, SIDE, Anna.address());
    complete(&mut world, ONCE, Anna.address());
    world.settle();
    assert!(!world.lets_in(Anna, 22) && !world.lets_in(Anna, 80));
}

#[test]
fn lines_about_doors_are_limited_and_those_that_were_left_out_are_counted() {
    let mut world = World::new();
    world.log.clear();
    for _ in 0..300 {
        world.tell(ToGatekeeper::Stage { door: SIDE, source: Anna.address(), stage: 1 });
    }
    assert_eq!(world.log.len(), 256);
    assert_eq!(world.log[0], "192.0.2.10: side: Stage 1");
    world.tell(ToGatekeeper::Suppressed { count: 1000 });
    world.advance(10 * SECOND);
    assert!(world.said("suppressed 1044 door messages (rate limit)"), "the listener's too");
    world.tell(ToGatekeeper::TimedOut { door: RUN, source: Bert.address(), stage: 2 });
    assert!(world.said("192.0.2.11: run: sequence timeout (stage 2)"));
}

#[test]
fn what_was_granted_through_a_door_that_is_gone_ends_with_the_reload() {
    let mut world = World::new();
    complete(&mut world, SIDE, Anna.address());
    world.files.settings.doors.retain(|door| door.name != "side");
    world.ask(ControlRequest::Reload);
    world.settle();
    assert!(!world.lets_in(Anna, 22));
    assert!(world.said("ssh of 192.0.2.10 ended: it is no longer allowed"));
}

#[test]
fn a_stop_command_that_is_due_while_nobody_runs_runs_at_the_next_start() {
    let mut world = World::new();
    complete(&mut world, RUN, Anna.address());
    world.end_the_command(CommandEnd::Exited(0));
    world.set_clock(4 * SECOND);
    world.restart(false);
    world.advance(5 * SECOND);
    assert_eq!(world.commands().len(), 1, "it has its whole time, not more");
    world.advance(2 * SECOND);
    assert_eq!(world.commands(), ["open 192.0.2.10", "shut 192.0.2.10"]);
}
