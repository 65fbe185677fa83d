//! What is on disk when, and what is done when it cannot be.

use super::people::Person::{Anna, Bert};
use super::people::at;
use super::world::World;
use crate::app::gatekeeper::events::Lane;
use crate::core::knock::Status;
use crate::core::types::SECOND;
use crate::edge::control::ControlRequest;
use crate::edge::gatekeeper_pipe::ToGatekeeper;

#[test]
fn the_time_is_written_once_a_minute_beside_the_loop() {
    let mut world = World::new();
    let syncs = world.disk.syncs();
    world.advance(150 * SECOND);
    assert_eq!(world.disk.syncs(), syncs, "the loop itself writes nothing");
    world.settle();
    let newest = world.disk.durable_ledger(at(0)).newest();
    assert!(newest >= at(60), "{newest:?}");
}

#[test]
fn what_was_deferred_rides_on_the_next_commit() {
    let mut world = World::new();
    world.tell(ToGatekeeper::Completed { door: 0, source: Bert.address() });
    let syncs = world.disk.syncs();
    assert_eq!(world.knock(Anna, "web"), Some(Status::Granted));
    assert_eq!(world.disk.syncs(), syncs + 1);
    assert_eq!(world.disk.durable_ledger(at(0)).grants().count(), 2);
}

#[test]
fn a_revocation_is_on_disk_before_the_admin_is_told() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.files.enrolled = vec![Bert];
    let admin = world.ask(ControlRequest::Reload);
    for lane in [Lane::Clients, Lane::Config, Lane::Connections] {
        assert!(world.do_task(lane));
    }
    assert_eq!(world.told(admin), None, "the grant has ended, and a crash would bring it back");
    assert!(world.do_task(Lane::State));
    assert!(world.told(admin).unwrap().is_ok());
    assert_eq!(world.disk.durable_ledger(at(0)).grants().count(), 0);
}

#[test]
fn a_deferred_write_that_fails_stops_commits_until_the_state_was_read_again() {
    let mut world = World::new();
    world.tell(ToGatekeeper::Completed { door: 0, source: Bert.address() });
    assert!(world.fail_task(Lane::State));
    assert_eq!(world.knock(Anna, "ssh"), None);
    world.advance(11 * SECOND);
    world.settle();
    assert!(world.said("knocks count again"));
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.settle();
    assert_eq!(world.disk.durable_ledger(at(0)).grants().count(), 2, "nothing of it is lost");
}

#[test]
fn a_reading_that_fails_is_tried_again() {
    let mut world = World::new();
    world.disk.set_broken(true);
    world.knock(Anna, "ssh");
    for _ in 0..3 {
        world.advance(10 * SECOND);
        world.settle();
    }
    assert!(!world.said("knocks count again"));
    world.disk.set_broken(false);
    world.advance(10 * SECOND);
    world.settle();
    assert!(world.said("knocks count again"));
}

#[test]
fn grants_that_ended_while_the_disk_was_full_do_not_come_back() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted));
    world.disk.set_broken(true);
    world.knock(Anna, "web");
    world.files.enrolled = vec![Bert];
    let admin = world.ask(ControlRequest::Reload);
    world.settle();
    assert!(world.told(admin).unwrap().is_ok(), "a full disk keeps nobody in");
    assert!(!world.lets_in(Anna, 22));
    world.disk.set_broken(false);
    world.advance(11 * SECOND);
    world.settle();
    world.restart(true);
    assert!(!world.lets_in(Anna, 22) && world.lets_in(Bert, 22));
}

#[test]
fn an_admin_who_accepts_a_loss_is_told_when_it_is_on_disk_and_not_while_it_cannot_be() {
    let mut world = World::new();
    world.disk.set_broken(true);
    world.knock(Anna, "ssh");
    let admin = world.ask(ControlRequest::Reinitialise);
    assert!(world.told(admin).unwrap().unwrap_err().contains("the state cannot be written"));
    world.disk.set_broken(false);
    world.advance(11 * SECOND);
    world.settle();
    let admin = world.ask(ControlRequest::Reinitialise);
    assert!(world.told(admin).unwrap().unwrap_err().contains("there is nothing to accept"));
    world.disk.remove("journal");
    world.restart(false);
    let admin = world.ask(ControlRequest::Reinitialise);
    assert_eq!(world.told(admin), None);
    assert!(world.fail_task(Lane::State));
    assert!(world.told(admin).unwrap().is_err());
}
