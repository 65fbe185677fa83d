//! Clocks that are set, states that are lost: nothing that was over comes back.

use super::people::Person::{self, Anna, Bert, Carl};
use super::people::at;
use super::world::{RUN, World};
use crate::core::knock::Status;
use crate::core::openings::CommandEnd;
use crate::core::types::SECOND;
use crate::edge::control::ControlRequest;
use crate::edge::gatekeeper_pipe::ToGatekeeper;

const MINUTE: u64 = 60 * SECOND;

/// A world in which Anna expires `second` seconds after noon.
fn anna_expires(second: u64) -> World {
    World::with(|files| {
        files.expires.insert(Anna, at(second).0 / SECOND);
    })
}

/// Nothing is left of the state directory.
fn lose_the_state(world: &mut World) {
    for name in ["journal", "journal.new", "used"] {
        world.disk.remove(name);
    }
}

fn status(world: &mut World) -> String {
    let session = world.ask(ControlRequest::Status);
    world.settle();
    world.told(session).unwrap().unwrap()
}

// Clients that have expired.

#[test]
fn an_expired_client_stays_expired_when_the_clock_is_set_back() {
    let mut world = anna_expires(100);
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.advance(2 * MINUTE);
    assert_eq!(world.knock(Anna, "ssh"), None);
    world.jump(-300);
    assert_eq!(world.knock(Anna, "ssh"), None, "not even a challenge");
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Challenge), "who has not expired");
    world.advance(11 * MINUTE);
    assert_eq!(world.knock(Anna, "ssh"), None);
}

#[test]
fn an_expired_client_stays_expired_if_the_clock_is_set_back_while_the_gateway_is_down() {
    for power_failure in [false, true] {
        let mut world = anna_expires(100);
        // Nobody knocks: only the periodic check sees the time.
        world.advance(111 * SECOND);
        world.settle();
        world.jump(-60);
        world.restart(power_failure);
        world.advance(SECOND);
        assert_eq!(world.knock(Anna, "ssh"), None, "power failure: {power_failure}");
        assert_eq!(world.knock(Bert, "ssh"), Some(Status::Challenge));
    }
}

#[test]
fn the_time_of_an_orderly_end_is_kept() {
    let mut world = anna_expires(105);
    world.advance(106 * SECOND);
    world.handle(crate::app::gatekeeper::events::Event::Terminate);
    world.settle();
    world.jump(-60);
    world.restart(true);
    world.advance(SECOND);
    assert_eq!(world.knock(Anna, "ssh"), None);
}

#[test]
fn with_a_clock_that_was_set_back_no_grant_outlives_its_client() {
    let mut world = anna_expires(900);
    world.advance(880 * SECOND);
    world.jump(-3600);
    let mut request = Anna.request("ssh", 0);
    request.timestamp = world.now().wall;
    let ticket = world.hand(Anna, &request);
    assert_eq!(world.status(ticket), Some(Status::Challenge));
    let challenge = world.verdicts.last().unwrap().1.unwrap().challenge;
    request.timestamp.0 += SECOND;
    request.challenge = challenge;
    let ticket = world.hand(Anna, &request);
    assert_eq!(world.status(ticket), Some(Status::Granted));
    world.advance(19 * SECOND);
    assert!(world.lets_in(Anna, 22));
    world.advance(3 * SECOND);
    assert!(!world.lets_in(Anna, 22));
}

#[test]
fn an_admin_who_says_that_the_clock_is_right_now_ends_an_expiry_by_a_wrong_one() {
    let mut world = anna_expires(3600);
    world.jump(86_400);
    world.advance(11 * MINUTE);
    assert_eq!(world.knock(Anna, "ssh"), None, "the clock ran evenly for long enough");
    assert!(world.said("anna: its knocks open nothing: its enrolment ended at "));
    world.jump(-86_400);
    assert_eq!(world.knock(Anna, "ssh"), None);
    world.ask(ControlRequest::Reinitialise);
    world.settle();
    world.advance(2 * MINUTE);
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
}

// The state is gone as a whole.

#[test]
fn after_the_loss_of_the_whole_state_no_used_knock_opens_and_status_says_so() {
    let mut world = World::new();
    // By a clock that is ahead.
    let request = Anna.request("ssh", world.second() + 9);
    let used = world.hand(Anna, &request);
    assert_eq!(world.status(used), Some(Status::Granted));
    lose_the_state(&mut world);
    world.restart(false);
    assert!(!world.lets_in(Anna, 22), "a grant that nobody remembers is none");
    for _ in 0..3 {
        world.advance(3 * SECOND);
        let again = world.hand(Anna, &request);
        assert_ne!(world.status(again), Some(Status::Granted));
        assert!(!world.lets_in(Anna, 22));
    }
    assert!(world.said("there is none although clients are enrolled"));
    let status = status(&mut world);
    assert!(status.contains("there is none although clients are enrolled"), "{status}");
}

#[test]
fn after_the_loss_of_the_whole_state_a_burned_packet_from_the_future_stays_burned() {
    let mut world = World::new();
    let request = Anna.request("ssh", world.second() + 300);
    let early = world.hand(Anna, &request);
    assert_eq!(world.status(early), Some(Status::Clock));
    lose_the_state(&mut world);
    world.restart(false);
    world.advance(5 * MINUTE);
    let again = world.hand(Anna, &request);
    assert_eq!(world.status(again), Some(Status::Challenge));
    assert!(!world.lets_in(Anna, 22));
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Challenge));
}

#[test]
fn a_first_start_without_clients_needs_no_challenge_when_the_first_one_is_enrolled() {
    let mut world = World::with(|files| files.enrolled.clear());
    assert!(!world.said("state: "));
    world.files.enrolled = Person::ALL.to_vec();
    world.ask(ControlRequest::Reload);
    world.settle();
    assert_eq!(world.knock(Carl, "ssh"), Some(Status::Granted));
}

// A virtual machine that is paused: its wall clock jumps, the other one stands still.

#[test]
fn after_a_pause_of_the_machine_a_grant_ends_when_its_client_was_told() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.advance(10 * SECOND);
    world.jump(30);
    world.advance(19 * SECOND);
    assert!(world.lets_in(Anna, 22), "one second is left");
    world.advance(2 * SECOND);
    assert!(!world.lets_in(Anna, 22));
}

#[test]
fn after_a_pause_that_outlasts_it_a_grant_is_over_with_the_next_event() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    // More than the machine has been up.
    world.jump(86_400 * 365);
    world.tell(ToGatekeeper::Stage { door: RUN, source: Anna.address(), stage: 1 });
    world.advance(0);
    assert!(!world.lets_in(Anna, 22));
}

#[test]
fn a_clock_that_is_set_back_makes_no_grant_last_longer() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.jump(-3600);
    world.advance(59 * SECOND);
    assert!(world.lets_in(Anna, 22));
    world.advance(2 * SECOND);
    assert!(!world.lets_in(Anna, 22));
}

#[test]
fn after_a_pause_of_the_machine_a_stop_command_runs_when_its_time_is_over_on_the_wall() {
    let mut world = World::new();
    world.tell(ToGatekeeper::Completed { door: RUN, source: Anna.address() });
    world.end_the_command(CommandEnd::Exited(0));
    world.jump(8);
    world.handle(crate::app::gatekeeper::events::Event::Deadline);
    world.advance(SECOND);
    assert_eq!(world.commands().len(), 1);
    world.advance(2 * SECOND);
    assert_eq!(world.commands().last(), Some(&"shut 192.0.2.10"));
}
