//! The guard on trial: whoever gets in keeps it, and nobody is locked out if nobody does.

use super::people::Person::Anna;
use super::world::World;
use crate::app::admin::TrialState;
use crate::app::gatekeeper::events::{Event, Lane};
use crate::core::knock::Status;
use crate::core::types::SECOND;
use crate::edge::control::ControlRequest;

/// Seconds of a trial.
const SECONDS: u32 = 60;

fn on(world: &mut World, confirm: Option<u32>) -> String {
    let session = world.ask(ControlRequest::GuardOn { confirm });
    world.settle();
    let answer = world.told(session).expect("an answer").expect("the guard is up");
    let value: serde_json::Value = serde_json::from_str(&answer).unwrap();
    value["said"].as_str().unwrap().to_owned()
}

fn state(world: &mut World) -> TrialState {
    let session = world.ask(ControlRequest::Trial);
    serde_json::from_str(&world.told(session).expect("an answer").unwrap()).unwrap()
}

/// A world whose guard is on trial since now.
fn on_trial() -> World {
    let mut world = World::new();
    let said = on(&mut world, Some(SECONDS));
    assert!(said.contains("the guard is up, on trial for 60 s: it turns itself off"), "{said}");
    world
}

fn wait(world: &mut World, seconds: u64) {
    world.advance(seconds * SECOND);
    world.settle();
}

fn is_open(world: &World) -> bool {
    world.kernel.borrow().is_open()
}

#[test]
fn a_guard_that_nobody_gets_through_turns_itself_off_and_stays_off() {
    let mut world = on_trial();
    wait(&mut world, 59);
    assert!(!is_open(&world));
    assert_eq!(state(&mut world), TrialState::Running { seconds_left: 1, useless: None });
    wait(&mut world, 1);
    assert!(is_open(&world) && world.said("THE GUARD IS OFF: nobody got in"));
    assert_eq!(state(&mut world), TrialState::Over);
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Trouble), "there is nothing to grant");
    wait(&mut world, 700);
    assert!(is_open(&world), "no check and no repair puts it up");
    assert_eq!(on(&mut world, None), "the guard is up");
    wait(&mut world, 100);
    assert!(!is_open(&world));
}

#[test]
fn a_grant_to_another_machine_keeps_the_guard() {
    let mut world = on_trial();
    let refused = Anna.request("nothing", world.second() + 1);
    world.hand(Anna, &refused);
    world.settle();
    assert!(matches!(state(&mut world), TrialState::Running { .. }), "a refusal is no way in");
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.settle();
    let by = "anna: ssh for 192.0.2.10".to_owned();
    assert_eq!(state(&mut world), TrialState::Confirmed { by });
    assert!(world.said("the guard stays: its trial is confirmed by anna: ssh for 192.0.2.10"));
    wait(&mut world, 100);
    assert!(!is_open(&world));
}

#[test]
fn a_grant_whose_confirmation_cannot_be_loaded_leaves_the_trial_to_the_next_one() {
    let mut world = on_trial();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    // The look at the own firewall, then the rules.
    world.do_task(Lane::Guard);
    world.fail_task(Lane::Guard);
    assert!(matches!(state(&mut world), TrialState::Running { .. }));
    world.settle();
    assert_eq!(world.knock(Anna, "web"), Some(Status::Granted));
    world.settle();
    assert!(matches!(state(&mut world), TrialState::Confirmed { .. }));
    wait(&mut world, 100);
    assert!(!is_open(&world));
}

#[test]
fn a_grant_that_the_own_firewall_makes_useless_confirms_nothing() {
    let mut world = on_trial();
    let why = "22/tcp is dropped even under a grant".to_owned();
    world.why_useless = Some(why.clone());
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.settle();
    let running = TrialState::Running { seconds_left: 60, useless: Some(why) };
    assert_eq!(state(&mut world), running);
    assert!(world.said("the trial goes on: anna: ssh for 192.0.2.10 got a grant, but 22/tcp is"));
    world.why_useless = None;
    assert_eq!(world.knock(Anna, "web"), Some(Status::Granted));
    world.settle();
    assert!(matches!(state(&mut world), TrialState::Confirmed { .. }));
}

#[test]
fn a_firewall_that_cannot_be_read_is_no_reason_to_doubt_a_grant() {
    let mut world = on_trial();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.fail_task(Lane::Guard);
    world.settle();
    assert!(matches!(state(&mut world), TrialState::Confirmed { .. }));
}

#[test]
fn a_grant_in_the_last_moment_counts() {
    let mut world = on_trial();
    wait(&mut world, 59);
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    // The rules are loaded only when its time is over.
    world.advance(2 * SECOND);
    world.settle();
    assert!(!is_open(&world) && matches!(state(&mut world), TrialState::Confirmed { .. }));
    assert_eq!(world.knock(Anna, "web"), Some(Status::Granted), "the guard is not off");
}

#[test]
fn a_restart_goes_on_with_the_trial_and_with_its_end() {
    let mut world = on_trial();
    wait(&mut world, 30);
    world.restart(false);
    assert!(world.said("the guard is on trial for 30 s"));
    wait(&mut world, 29);
    assert!(!is_open(&world));
    wait(&mut world, 1);
    assert!(is_open(&world));
    world.log.clear();
    world.restart(false);
    assert!(world.said("THE GUARD IS OFF: nobody got in"), "also if nobody kept the time");
    wait(&mut world, 700);
    assert!(is_open(&world));
    assert_eq!(state(&mut world), TrialState::Over);
}

#[test]
fn a_new_configuration_and_a_repair_keep_the_end_of_the_trial() {
    let mut world = on_trial();
    let until = world.kernel.borrow().trial;
    world.files.settings.services[0].max_seconds = 30;
    world.ask(ControlRequest::Reload);
    world.settle();
    assert!(world.said("reloaded"));
    assert_eq!(world.kernel.borrow().trial, until);
    world.kernel.borrow_mut().sound = false;
    world.handle(Event::FirewallUnsure);
    world.settle();
    assert_eq!(world.kernel.borrow().trial, until);
    wait(&mut world, 60);
    assert!(is_open(&world));
}

#[test]
fn only_an_order_about_the_trial_changes_it() {
    let mut world = on_trial();
    wait(&mut world, 20);
    let said = on(&mut world, None);
    assert!(said.contains("on trial for 40 s"), "the unit that loads the guard again: {said}");
    let said = on(&mut world, Some(100));
    assert!(said.contains("on trial for 100 s"), "{said}");
    wait(&mut world, 50);
    assert!(!is_open(&world));
    assert_eq!(on(&mut world, Some(0)), "the guard is up");
    assert_eq!(state(&mut world), TrialState::None);
    wait(&mut world, 100);
    assert!(!is_open(&world));
    on(&mut world, Some(SECONDS));
    world.ask(ControlRequest::GuardOff);
    world.settle();
    assert_eq!(state(&mut world), TrialState::None);
    assert_eq!(on(&mut world, None), "the guard is up");
    wait(&mut world, 100);
    assert!(!is_open(&world), "the trial ended with the guard");
}

#[test]
fn a_grant_that_ends_while_the_guard_is_off_is_not_back_with_it() {
    let mut world = on_trial();
    world.files.enrolled.retain(|person| *person != Anna);
    on(&mut world, Some(0));
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    on(&mut world, Some(1));
    wait(&mut world, 1);
    assert!(is_open(&world) && !world.kernel.borrow().live().is_empty());
    world.ask(ControlRequest::Reload);
    world.settle();
    assert!(world.kernel.borrow().live().is_empty(), "anna is revoked");
}
