//! Services of commands: the receipt waits for the start command, and whoever holds nothing any
//! more is stopped.

use super::people::Person::{self, Anna, Bert};
use super::people::at;
use super::world::World;
use crate::app::gatekeeper::events::Lane;
use crate::core::knock::{KnockKind, Request, Status};
use crate::core::openings::CommandEnd;
use crate::core::types::{Reject, SECOND, ServiceName, Source};
use crate::edge::control::ControlRequest;

const START: &str = "/bin/start 192.0.2.10";
const STOP: &str = "/bin/stop 192.0.2.10";

/// `person` knocks for the service of commands from Anna's address.
fn knock(world: &mut World, person: Person, change: impl FnOnce(&mut Request)) -> u64 {
    let mut request = person.request("vpn", world.second());
    request.address = Some(Source::new(Anna.address()));
    change(&mut request);
    let id = world.listener();
    let mut knock = world.handed(id, person, &request);
    let ticket = knock.ticket;
    knock.source = Source::new(Anna.address());
    world.hand_all(id, vec![knock]);
    // The next one has another timestamp.
    world.set_clock(SECOND);
    ticket
}

fn open(world: &mut World, person: Person) -> u64 {
    knock(world, person, |request| request.seconds = 600)
}

fn close(world: &mut World, person: Person) -> u64 {
    knock(world, person, |request| request.kind = KnockKind::Close)
}

#[test]
fn the_receipt_comes_when_the_start_command_has_ended_well() {
    let mut world = World::new();
    let ticket = open(&mut world, Anna);
    assert!(world.waits(ticket));
    assert_eq!(world.commands(), [START]);
    let ledger = world.disk.durable_ledger(at(0));
    assert_eq!(ledger.openings().count(), 1, "the journal knows how to end it before it runs");
    world.end_the_command(CommandEnd::Exited(0));
    assert_eq!(world.status(ticket), Some(Status::Granted));
    assert!(world.kernel.borrow().live().is_empty(), "the kernel knows nothing of it");
    world.advance(600 * SECOND);
    assert_eq!(world.commands(), [START, STOP]);
    world.end_the_command(CommandEnd::Exited(0));
    world.settle();
    assert_eq!(world.disk.durable_ledger(at(0)).openings().count(), 0);
}

#[test]
fn a_start_command_that_fails_is_told_as_trouble_and_stopped_all_the_same() {
    for end in [CommandEnd::Exited(1), CommandEnd::Killed, CommandEnd::NotNow] {
        let mut world = World::new();
        let ticket = open(&mut world, Anna);
        world.end_the_command(end);
        assert_eq!(world.status(ticket), Some(Status::Trouble), "{end:?}");
        assert_eq!(world.commands(), [START, STOP]);
        assert_eq!(world.gatekeeper.grants.list().count(), 0);
        assert_eq!(world.gatekeeper.ends.of(Reject::Command), 1);
    }
}

#[test]
fn clients_behind_one_address_share_a_start_and_the_last_of_them_stops() {
    let mut world = World::new();
    let [anna, bert] = [Anna, Bert].map(|person| open(&mut world, person));
    assert_eq!(world.commands(), [START]);
    world.end_the_command(CommandEnd::Exited(0));
    assert_eq!([anna, bert].map(|ticket| world.status(ticket)), [Some(Status::Granted); 2]);
    close(&mut world, Anna);
    assert_eq!(world.commands(), [START]);
    close(&mut world, Bert);
    assert_eq!(world.commands(), [START, STOP]);
    // Who comes while the stop command runs waits for it.
    let again = open(&mut world, Anna);
    assert!(world.waits(again));
    world.end_the_command(CommandEnd::Exited(0));
    assert_eq!(world.commands(), [START, STOP, START]);
    world.end_the_command(CommandEnd::Exited(0));
    assert_eq!(world.status(again), Some(Status::Granted));
}

#[test]
fn who_comes_while_a_stop_command_hangs_is_told_and_has_nothing_and_nothing_was_run_for_them() {
    let mut world = World::new();
    open(&mut world, Anna);
    world.end_the_command(CommandEnd::Exited(0));
    close(&mut world, Anna);
    let waiting = open(&mut world, Bert);
    world.advance(6 * SECOND);
    assert_eq!(world.status(waiting), Some(Status::Trouble));
    assert_eq!(world.gatekeeper.grants.list().count(), 0);
    world.end_the_command(CommandEnd::Exited(0));
    assert_eq!(world.commands(), [START, STOP]);
}

#[test]
fn a_stop_command_that_cannot_be_started_now_is_tried_again() {
    let mut world = World::new();
    open(&mut world, Anna);
    world.end_the_command(CommandEnd::Exited(0));
    close(&mut world, Anna);
    world.end_the_command(CommandEnd::NotNow);
    world.advance(5 * SECOND);
    assert_eq!(world.commands(), [START, STOP, STOP]);
}

#[test]
fn whoever_is_revoked_or_whose_service_is_changed_is_stopped_as_it_was_promised() {
    let mut world = World::new();
    open(&mut world, Anna);
    world.end_the_command(CommandEnd::Exited(0));
    world.files.enrolled.retain(|person| *person != Anna);
    world.ask(ControlRequest::Reload);
    world.settle();
    assert_eq!(world.commands(), [START, STOP]);
    world.end_the_command(CommandEnd::Exited(0));
    open(&mut world, Bert);
    world.end_the_command(CommandEnd::Exited(0));
    for service in &mut world.files.settings.services {
        if let Some(commands) = &mut service.commands {
            commands.stop[0] = "/bin/other".to_owned();
        }
    }
    world.ask(ControlRequest::Reload);
    world.settle();
    assert_eq!(world.commands(), [START, STOP, START, STOP], "by the stop command of that time");
}

#[test]
fn a_stop_command_survives_a_crash_and_runs_once_after_it() {
    for power_failure in [false, true] {
        let mut world = World::new();
        open(&mut world, Anna);
        world.end_the_command(CommandEnd::Exited(0));
        world.restart(power_failure);
        world.advance(1);
        assert_eq!(world.commands(), [START, STOP]);
        world.end_the_command(CommandEnd::Exited(0));
        world.settle();
        world.restart(power_failure);
        world.advance(SECOND);
        assert_eq!(world.commands(), [START, STOP]);
        assert_eq!(world.gatekeeper.grants.list().count(), 0, "such grants end with the process");
    }
}

#[test]
fn a_full_disk_starts_nothing_and_what_was_open_is_stopped_all_the_same() {
    let mut world = World::new();
    open(&mut world, Anna);
    world.end_the_command(CommandEnd::Exited(0));
    world.disk.set_broken(true);
    let refused = open(&mut world, Bert);
    assert_eq!(world.status(refused), None);
    world.files.enrolled.retain(|person| *person != Anna);
    world.ask(ControlRequest::Reload);
    world.do_task(Lane::Clients);
    assert_eq!(world.commands(), [START, STOP]);
    world.end_the_command(CommandEnd::Exited(0));
    world.disk.set_broken(false);
    world.settle();
    world.advance(11 * SECOND);
    world.settle();
    assert_eq!(world.disk.durable_ledger(at(0)).openings().count(), 0, "nothing of it comes back");
}

#[test]
fn commands_cannot_be_bound_to_a_source_port() {
    let mut world = World::new();
    let ticket = knock(&mut world, Anna, |request| request.source_port = 40_000);
    assert_eq!(world.status(ticket), Some(Status::Denied));
    assert!(world.commands().is_empty());
}

#[test]
fn a_service_of_commands_that_is_gone_is_stopped_at_the_next_start() {
    let mut world = World::new();
    open(&mut world, Anna);
    world.end_the_command(CommandEnd::Exited(0));
    let vpn = ServiceName::new("vpn").unwrap();
    world.files.settings.services.retain(|service| service.name != vpn);
    world.restart(false);
    world.advance(1);
    assert_eq!(world.commands(), [START, STOP], "only the journal knows what was promised");
}
