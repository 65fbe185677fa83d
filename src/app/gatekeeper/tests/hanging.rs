//! Nothing in the loop waits for the world: each thing that may hang, hangs for ever, and knocks
//! are granted all the same, admins answered, and the end obeyed.

use super::people::Person::{Anna, Bert, Carl};
use super::world::{ONCE, RUN, World};
use crate::app::gatekeeper::events::{Event, Lane};
use crate::core::knock::Status;
use crate::core::types::SECOND;
use crate::edge::control::ControlRequest;
use crate::edge::gatekeeper_pipe::ToGatekeeper;

/// Something hangs: knocks go on, and the end comes within its time.
fn goes_on(mut world: World, what: &str) {
    for _ in 0..3 {
        assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted), "{what}");
        assert!(world.lets_in(Anna, 22), "{what}");
        world.advance(17 * SECOND);
    }
    let session = world.ask(ControlRequest::Grants { after: None, most: None });
    assert!(world.told(session).unwrap().unwrap().contains("anna"), "{what}");
    world.handle(Event::Terminate);
    world.advance(11 * SECOND);
    assert!(world.is_over(), "{what}");
}

#[test]
fn a_clients_file_that_is_never_read_fails_the_reload_and_nothing_else() {
    let mut world = World::new();
    let admin = world.ask(ControlRequest::Reload);
    world.advance(6 * SECOND);
    assert!(
        world.told(admin).unwrap().unwrap_err().contains("reading the clients file takes longer")
    );
    let again = world.ask(ControlRequest::Reload);
    assert!(
        world.told(again).unwrap().is_err(),
        "nobody can end it, so the next one fails at once"
    );
    goes_on(world, "reading the clients");
}

#[test]
fn a_clients_file_that_is_read_late_revokes_all_the_same() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.files.enrolled = vec![Bert, Carl];
    world.ask(ControlRequest::Reload);
    world.advance(6 * SECOND);
    assert!(world.lets_in(Anna, 22));
    world.do_task(Lane::Clients);
    assert!(!world.lets_in(Anna, 22));
    assert!(world.starting.is_empty(), "the reload itself was given up");
    let admin = world.ask(ControlRequest::Reload);
    world.settle();
    assert!(world.told(admin).unwrap().is_ok(), "the lane is free again");
}

#[test]
fn a_configuration_that_is_never_read_or_a_name_that_is_never_found_fails_the_reload() {
    let mut world = World::new();
    let admin = world.ask(ControlRequest::Reload);
    world.do_task(Lane::Clients);
    world.advance(6 * SECOND);
    assert!(
        world.told(admin).unwrap().unwrap_err().contains("reading the configuration takes longer")
    );
    // What comes after that is of no use to anybody.
    world.do_task(Lane::Config);
    assert!(world.starting.is_empty());
    goes_on(world, "reading the configuration");
}

#[test]
fn an_nft_program_that_never_ends_fails_what_needs_it_and_grants_go_on() {
    let mut world = World::new();
    world.handle(Event::FirewallChanged { who: "nft".to_owned() });
    let status = world.ask(ControlRequest::Status);
    let off = world.ask(ControlRequest::GuardOff);
    world.advance(4 * SECOND);
    let told = world.told(status).unwrap().unwrap();
    assert!(
        told.contains("\"guard\":false") && world.said("the nft program does not answer"),
        "{told}"
    );
    world.advance(7 * SECOND);
    assert!(world.said("THE GUARD MAY BE DOWN: the nft program takes longer than 10 s"));
    assert!(world.told(off).unwrap().is_err(), "its turn will not come");
    goes_on(world, "the nft program");
}

#[test]
fn an_nft_program_that_ends_late_leaves_the_rules_that_are_in_force() {
    let mut world = World::new();
    world.new_config();
    let admin = world.ask(ControlRequest::Reload);
    world.do_task(Lane::Clients);
    world.do_task(Lane::Config);
    world.make_ready();
    world.advance(11 * SECOND);
    assert!(world.told(admin).unwrap().unwrap_err().contains("the nft program takes longer"));
    let loads = world.kernel.borrow().loads;
    world.settle();
    assert_eq!(
        world.kernel.borrow().loads,
        loads + 2,
        "the late one, and the rules in force after it"
    );
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
}

#[test]
fn a_guard_that_is_taken_away_late_is_put_up_again() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    let admin = world.ask(ControlRequest::GuardOff);
    world.advance(11 * SECOND);
    assert!(world.told(admin).unwrap().is_err(), "the admin was told that it stays");
    world.do_task(Lane::Guard);
    assert!(!world.kernel.borrow().table);
    world.settle();
    assert!(world.kernel.borrow().table && world.lets_in(Anna, 22));
}

#[test]
fn a_state_whose_upkeep_hangs_takes_commits_and_tells_admins_what_is_not_durable() {
    let mut world = World::new();
    let door = ToGatekeeper::Completed { door: 0, source: Bert.address() };
    world.tell(door);
    assert!(world.lets_in(Bert, 22), "a door's grant waits for no disk");
    assert_eq!(world.tasks.len(), 1, "its record is being written, for ever");
    world.new_config();
    let reload = world.ask(ControlRequest::Reload);
    world.do_task(Lane::Clients);
    world.do_task(Lane::Config);
    world.make_ready();
    world.do_task(Lane::Guard);
    world.jump(-60);
    let admin = world.ask(ControlRequest::Reinitialise);
    assert_eq!(world.told(admin), None);
    world.advance(11 * SECOND);
    assert!(world.told(admin).unwrap().is_err(), "it may not be true after a crash");
    assert!(world.told(reload).unwrap().is_ok(), "it is");
    world.advance(120 * SECOND);
    goes_on(world, "maintaining the state");
}

#[test]
fn a_state_that_is_read_again_for_ever_opens_nothing_and_the_end_is_obeyed() {
    let mut world = World::new();
    world.disk.set_broken(true);
    world.knock(Anna, "ssh");
    world.disk.set_broken(false);
    world.advance(60 * SECOND);
    assert_eq!(world.knock(Bert, "ssh"), None);
    world.handle(Event::Terminate);
    assert!(world.is_over());
}

#[test]
fn a_file_of_one_time_sequences_that_hangs_keeps_its_door_shut() {
    let mut world = World::new();
    let completed = || ToGatekeeper::Completed { door: ONCE, source: Bert.address() };
    world.tell(completed());
    world.tell(completed());
    assert!(
        world.said("its one-time sequence was used up before"),
        "the second one cannot be ours"
    );
    world.advance(6 * SECOND);
    assert!(world.said("its one-time sequence cannot be used up, so it stays shut"));
    assert!(!world.lets_in(Bert, 80));
    // It ends after all: the sequence is used up, for nothing, and the next one is in force.
    let next = world.files.one_time[1].clone();
    world.do_task(Lane::Files);
    assert!(!world.lets_in(Bert, 80));
    let listener = &world.listeners[&world.listener()];
    assert_eq!(listener.sequences[&ONCE], next);
    world.tell(completed());
    world.settle();
    assert!(world.lets_in(Bert, 80));
    goes_on(world, "using up a sequence");
}

#[test]
fn a_file_of_one_time_sequences_that_never_answers_holds_up_nothing_else() {
    let mut world = World::new();
    world.tell(ToGatekeeper::Completed { door: ONCE, source: Bert.address() });
    world.tell(ToGatekeeper::Completed { door: RUN, source: Bert.address() });
    assert_eq!(world.commands(), ["open 192.0.2.11"]);
    goes_on(world, "a file of one-time sequences");
}

#[test]
fn a_start_command_that_hangs_is_killed_and_told_and_one_that_ignores_that_holds_up_nobody() {
    let mut world = World::new();
    let request = Bert.request("vpn", world.second());
    let ticket = world.hand(Bert, &request);
    world.advance(5 * SECOND);
    assert_eq!((world.status(ticket), world.killed.len()), (Some(Status::Trouble), 1));
    assert!(world.said("its start command failed, or took longer than 5 s"));
    goes_on(world, "a start command");
}

#[test]
fn an_admin_who_never_reads_and_a_listener_that_never_starts_hold_up_nobody() {
    let mut world = World::new();
    for _ in 0..20 {
        world.ask(ControlRequest::Status);
    }
    let id = world.listener();
    world.handle(Event::ListenerLost {
        id,
        why: crate::app::gatekeeper::events::ListenerLoss::Nonsense,
    });
    world.listeners.remove(&id);
    world.advance(2 * SECOND);
    assert_eq!(world.starting.len(), 1);
    world.advance(21 * SECOND);
    assert!(world.said("no listener: the listener did not get ready in time"));
    world.advance(3 * SECOND);
    world.make_ready();
    goes_on(world, "a listener that never starts");
}

#[test]
fn everything_hangs_at_once_and_knocks_are_granted() {
    let mut world = World::new();
    world.handle(Event::FirewallChanged { who: "nft".to_owned() });
    world.ask(ControlRequest::Reload);
    world.tell(ToGatekeeper::Completed { door: ONCE, source: Bert.address() });
    world.tell(ToGatekeeper::Completed { door: 0, source: Bert.address() });
    let request = Bert.request("vpn", world.second());
    world.hand(Bert, &request);
    world.ask(ControlRequest::Status);
    let lanes: std::collections::BTreeSet<Lane> =
        world.tasks.iter().map(|(_, task)| task.lane()).collect();
    assert_eq!(lanes.len(), 4, "{lanes:?}");
    goes_on(world, "everything");
}
