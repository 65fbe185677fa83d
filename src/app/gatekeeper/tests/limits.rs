//! What a client's own line allows: at a knock, after a reload, and as time passes.

use std::sync::Arc;

use super::people::Person::{Anna, Bert};
use super::world::World;
use crate::core::hours::{Hours, WEEK, ZoneOffsets};
use crate::core::knock::Status;
use crate::core::limits::Limits;
use crate::core::prefix::Prefix;
use crate::core::types::SECOND;
use crate::edge::control::ControlRequest;

/// Anna's line has these limits from now on.
fn limit(world: &mut World, limits: Limits) {
    world.files.limits.insert(Anna, Arc::new(limits));
    let admin = world.ask(ControlRequest::Reload);
    world.settle();
    assert!(world.told(admin).unwrap().is_ok());
}

/// Hours that are over so many seconds from now, and began a minute ago.
fn hours(world: &World, left: u64) -> Option<Hours> {
    // The week begins on a Monday, the epoch on a Thursday.
    let now = (world.now().wall.0 / SECOND + 3 * WEEK / 7) % WEEK;
    let week = std::iter::once(now - 60..now + left).collect();
    Some(Hours::new("daily", week, Arc::new(ZoneOffsets::utc())))
}

fn live(world: &World) -> usize {
    world.gatekeeper.grants.count()
}

#[test]
fn a_grant_ends_with_the_hours_of_its_client_and_outside_of_them_there_is_none() {
    let mut world = World::new();
    let hours = hours(&world, 20);
    limit(&mut world, Limits { hours, ..Limits::default() });
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted));
    world.advance(20 * SECOND);
    assert!(!world.lets_in(Anna, 22) && world.lets_in(Bert, 22));
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Denied));
    assert!(world.said("anna: refused from 192.0.2.10: outside of its hours (daily)"));
    // Nor if somebody sets the clock back.
    world.jump(-10);
    world.advance(SECOND);
    assert_ne!(world.knock(Anna, "ssh"), Some(Status::Granted));
    assert!(!world.lets_in(Anna, 22));
}

#[test]
fn a_reload_ends_what_the_new_limits_do_not_allow_and_nothing_else() {
    let from = || vec![Prefix::parse("198.51.100.0/24").unwrap()];
    let mut later = World::new();
    let second = later.now().wall.0 / SECOND;
    let shut = hours(&later, 0);
    for (limits, left) in [
        (Limits::default(), 3),
        (Limits { max_seconds: Some(60), max_grants: Some(2), ..Limits::default() }, 3),
        (Limits { max_seconds: Some(59), ..Limits::default() }, 1),
        (Limits { max_grants: Some(1), ..Limits::default() }, 2),
        (Limits { not_before: Some(second + 900), ..Limits::default() }, 1),
        (Limits { hours: shut, ..Limits::default() }, 1),
        (Limits { from: from(), ..Limits::default() }, 1),
        (Limits { disabled: true, ..Limits::default() }, 1),
    ] {
        let mut world = World::new();
        for (person, service) in [(Anna, "ssh"), (Anna, "web"), (Bert, "ssh")] {
            assert_eq!(world.knock(person, service), Some(Status::Granted));
        }
        let shown = format!("{limits:?}");
        limit(&mut world, limits);
        assert_eq!(live(&world), left, "{shown}");
        assert!(world.lets_in(Bert, 22), "{shown}");
        world.restart(false);
        assert_eq!(live(&world), left, "after a restart: {shown}");
    }
    limit(&mut later, Limits { max_grants: Some(1), ..Limits::default() });
    assert_eq!(later.knock(Anna, "ssh"), Some(Status::Granted));
    assert_eq!(later.knock(Anna, "web"), Some(Status::Full));
}

#[test]
fn a_disabled_client_is_unknown_to_everybody_and_comes_back_with_its_used_knocks_used() {
    let mut world = World::new();
    let request = Anna.request("ssh", world.second());
    let used = world.hand(Anna, &request);
    assert_eq!(world.status(used), Some(Status::Granted));
    limit(&mut world, Limits { disabled: true, ..Limits::default() });
    assert!(!world.lets_in(Anna, 22));
    assert!(!world.listeners[&world.listener()].clients.contains_key(&Anna.id()));
    assert_eq!(world.knock(Anna, "ssh"), None);
    limit(&mut world, Limits::default());
    let again = world.hand(Anna, &request);
    assert_eq!(world.status(again), None, "it was used before");
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
}

#[test]
fn an_admin_sees_when_a_client_last_knocked_also_after_a_restart_and_what_it_has_open() {
    let mut world = World::new();
    let show = ControlRequest::ShowClient { id: Anna.id().0 };
    let admin = world.ask(show.clone());
    assert!(world.told(admin).unwrap().unwrap().contains("\"last_knock\":null"));
    world.knock(Anna, "ssh");
    for _ in 0..2 {
        let admin = world.ask(show.clone());
        let told = world.told(admin).unwrap().unwrap();
        let state: crate::app::admin::ClientState = serde_json::from_str(&told).unwrap();
        assert!(state.last_knock.is_some() && state.more == 0, "{told}");
        assert_eq!(state.grants[0].grant, "anna/ssh@192.0.2.10");
        world.restart(false);
    }
}
