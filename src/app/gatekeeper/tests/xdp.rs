//! The interfaces where junk is dropped early: whose program is at which, and what an admin is told.

use super::world::World;
use crate::app::gatekeeper::events::{Event, Lane, ListenerId, ListenerLoss, XdpTarget};
use crate::core::types::{Fault, SECOND};
use crate::edge::control::ControlRequest;
use crate::edge::xdp::XdpFault;

fn with_xdp(interfaces: &[&str]) -> World {
    World::with(|files| files.settings.knock.xdp = names(interfaces))
}

fn names(interfaces: &[&str]) -> Vec<String> {
    interfaces.iter().map(|name| (*name).to_owned()).collect()
}

/// What the last task was told.
fn told(world: &World) -> (Vec<String>, Option<ListenerId>) {
    let XdpTarget { interfaces, listener } = world.xdp_told.clone().expect("a task");
    (interfaces, listener)
}

fn reload(world: &mut World, interfaces: &[&str]) {
    world.files.settings.knock.xdp = names(interfaces);
    let session = world.ask(ControlRequest::Reload);
    world.settle();
    world.told(session).expect("an answer").expect("a reload");
}

fn status(world: &mut World) -> serde_json::Value {
    let session = world.ask(ControlRequest::Status);
    world.settle();
    serde_json::from_str(&world.told(session).unwrap().unwrap()).unwrap()
}

#[test]
fn without_the_setting_no_interface_is_touched() {
    let mut world = World::new();
    world.advance(30 * SECOND);
    world.settle();
    assert_eq!(world.xdp_told, None);
}

#[test]
fn the_program_of_the_listener_at_work_counts_and_that_of_a_lost_one_until_the_next_has_begun() {
    let mut world = with_xdp(&["eth0"]);
    let first = world.listener();
    assert_eq!(told(&world), (names(&["eth0"]), Some(first)));
    assert!(world.said("XDP is at interface eth0, generic mode"));
    world.lose(first, ListenerLoss::Ended("signal: 9".to_owned()));
    world.xdp_told = None;
    // Not even a look at the links takes it away.
    world.handle(Event::Network(Ok(Default::default())));
    world.do_task(Lane::Xdp);
    assert_eq!(told(&world), (names(&["eth0"]), Some(first)));
    assert!(world.make_ready());
    world.settle();
    let second = world.listener();
    assert!(second != first);
    assert_eq!(told(&world), (names(&["eth0"]), Some(second)));
}

#[test]
fn without_a_listener_that_could_take_over_the_program_goes() {
    let mut world = with_xdp(&["eth0"]);
    let first = world.listener();
    world.lose(first, ListenerLoss::Ended("signal: 9".to_owned()));
    let next = world.starting[0];
    world.lose(next, ListenerLoss::NotReady(Fault::new("no interface", "add it")));
    world.do_task(Lane::Xdp);
    assert_eq!(told(&world), (names(&["eth0"]), None));
}

#[test]
fn a_reload_puts_the_program_at_new_interfaces_and_takes_it_from_others() {
    let mut world = with_xdp(&[]);
    let first = world.listener();
    reload(&mut world, &["eth0"]);
    let second = world.listener();
    assert!(second != first, "the first one has no program");
    assert_eq!(told(&world), (names(&["eth0"]), Some(second)));
    reload(&mut world, &["eth1", "eth2"]);
    assert_eq!(world.listener(), second, "it need not differ");
    assert_eq!(told(&world), (names(&["eth1", "eth2"]), Some(second)));
    assert!(world.said("XDP is gone from interface eth0"));
    assert_eq!(status(&mut world)["xdp"].as_array().unwrap().len(), 2);
    reload(&mut world, &[]);
    assert_eq!(told(&world).0, names(&[]));
    assert_eq!(status(&mut world)["xdp"], serde_json::json!([]));
}

#[test]
fn what_keeps_the_program_away_is_told_once_and_tried_again() {
    let mut world = with_xdp(&["eth0"]);
    world.xdp_fault = Some(XdpFault::Taken);
    for _ in 0..4 {
        world.advance(10 * SECOND);
        world.settle();
    }
    let says = "no XDP at interface eth0: another XDP program is there";
    assert_eq!(world.log.iter().filter(|line| line.contains(says)).count(), 1);
    let answer = status(&mut world);
    assert!(answer["degraded"].to_string().contains(says), "{answer}");
    assert_eq!(answer["xdp"][0]["mode"], "none");
    world.xdp_fault = None;
    world.advance(10 * SECOND);
    world.settle();
    let answer = status(&mut world);
    assert_eq!(answer["xdp"][0]["mode"], "generic");
    assert!(!answer["degraded"].to_string().contains("XDP"), "{answer}");
}

#[test]
fn a_kernel_that_does_not_answer_is_told_of_and_asked_again() {
    let mut world = with_xdp(&["eth0"]);
    world.handle(Event::Network(Ok(Default::default())));
    let late = world.take_report(Lane::Xdp);
    world.advance(10 * SECOND);
    assert!(status(&mut world)["degraded"].to_string().contains("the kernel does not answer"));
    world.handle(late);
    world.settle();
    assert_eq!(status(&mut world)["xdp"][0]["mode"], "generic");
}
