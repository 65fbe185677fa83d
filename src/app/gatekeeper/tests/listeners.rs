//! Listeners: what they tell, when they end, when interfaces, routes and addresses change.

use super::people::Person::Anna;
use super::people::at;
use super::world::{World, network, ready};
use crate::app::gatekeeper::events::{Event, ListenerId, ListenerLoss, Network};
use crate::app::listener_process::ListenerReady;
use crate::core::keyring::{Day, FilterDrops};
use crate::core::knock::{KnockKind, Request, Status};
use crate::core::types::{Counters, Fault, Reject, SECOND};
use crate::edge::control::ControlRequest;
use crate::edge::gatekeeper_pipe::{Tally, ToGatekeeper};

fn status(world: &mut World) -> serde_json::Value {
    let session = world.ask(ControlRequest::Status);
    world.settle();
    serde_json::from_str(&world.told(session).unwrap().unwrap()).unwrap()
}

/// A gateway that follows the default route, with a listener on these interfaces.
fn following(interfaces: &[&str]) -> World {
    let mut world =
        World::with(|files| files.settings.knock.interfaces = vec!["default".to_owned()]);
    world.new_config();
    world.ask(ControlRequest::Reload);
    let names: Vec<String> = interfaces.iter().map(|name| (*name).to_owned()).collect();
    for lane in crate::app::gatekeeper::events::Lane::ALL {
        world.do_task(lane);
    }
    let id = world.starting.pop().expect("a listener starts");
    let indexes = names.iter().map(|name| if name == "eth0" { 2 } else { 7 }).collect();
    let ready = ListenerReady { wanted: names.clone(), interfaces: names, indexes, ..ready() };
    world.handle(Event::ListenerReady { id, ready });
    world.settle();
    world.advance(3 * SECOND);
    world
}

fn with(change: impl FnOnce(&mut Network)) -> Event {
    let mut network = network();
    change(&mut network);
    Event::Network(Ok(network))
}

#[test]
fn what_a_listener_has_counted_is_told_and_counts_on_with_the_next_one() {
    let mut world = World::new();
    let mut counters = Counters::default();
    for _ in 0..3 {
        counters.count(Reject::UnknownTag);
    }
    let tally = |read, lost| {
        let (rejected, doors) = (counters, read - counters.sum());
        let filtered = FilterDrops { unknown_tag: 18, length: lost, ..<_>::default() };
        let tally = Tally { rejected, filtered, xdp: 2, read, lost, doors, ..Tally::default() };
        ToGatekeeper::Counters(tally)
    };
    world.tell(tally(6, 2));
    world.tell(tally(7, 3));
    let told = status(&mut world);
    assert!(
        told["degraded"].to_string().contains("3 packets were lost for want of room"),
        "{told}"
    );
    let packets = world.packets();
    let named = |length: u64, unknown: u64| {
        vec![("length".to_owned(), length), ("unknown-tag".to_owned(), unknown)]
    };
    assert_eq!((packets.received, packets.lost, packets.doors), (33, 3, 4));
    assert_eq!((packets.rejected, packets.filtered), (named(3, 23), named(3, 20)));
    assert_eq!(told["xdp_dropped"], 2);
    let id = world.listener();
    world.lose(id, ListenerLoss::Ended("signal: 9".to_owned()));
    assert!(status(&mut world)["degraded"].to_string().contains("no listener is running"));
    world.make_ready();
    world.tell(tally(4, 1));
    let packets = world.packets();
    assert_eq!((packets.received, packets.lost, packets.doors), (59, 4, 5));
    assert_eq!((packets.rejected, packets.filtered), (named(4, 46), named(4, 40)));
    assert_eq!(status(&mut world)["xdp_dropped"], 4);
}

#[test]
fn a_flood_of_first_steps_is_in_the_log_at_its_beginning_and_end_and_in_status_between() {
    let mut world = World::new();
    let tally = |holds, first_step| {
        let filtered = FilterDrops { first_step, ..FilterDrops::default() };
        ToGatekeeper::Counters(Tally { filtered, holds, read: 2, doors: 2, ..Tally::default() })
    };
    let is_told = |world: &mut World| {
        status(world)["degraded"].to_string().contains("a flood of first steps at doors: until")
    };
    world.tell(tally(false, 0));
    assert!(!is_told(&mut world));
    for first_step in [50, 900] {
        world.tell(tally(true, first_step));
        assert!(is_told(&mut world));
    }
    let packets = world.packets();
    assert_eq!((packets.received, packets.doors, packets.sum()), (902, 2, 902));
    assert_eq!(packets.filtered, [("first-step".to_owned(), 900)]);
    world.tell(tally(false, 900));
    assert!(!is_told(&mut world));
    let said =
        |world: &World, words: &str| world.log.iter().filter(|line| line.contains(words)).count();
    assert_eq!(said(&world, "a flood of first steps at doors has begun: until it is over"), 1);
    assert_eq!(said(&world, "the flood of first steps at doors is over"), 1);
    // Whoever floods now and then fills no log.
    for holds in [true, false, true, false] {
        world.tell(tally(holds, 900));
    }
    assert_eq!(said(&world, "first steps at doors"), 2);
}

#[test]
fn the_counters_add_up_across_a_replaced_listener_and_a_reload() {
    let mut world = World::new();
    world.tell(ToGatekeeper::Counters(Tally { read: 5, waiting: 2, doors: 3, ..Tally::default() }));
    assert_eq!(world.packets().waiting, 2);
    // One of those that waited, and then two more than the listener has told of.
    for _ in 0..3 {
        assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    }
    let packets = world.packets();
    assert_eq!((packets.received, packets.granted, packets.waiting), (6, 3, 0));
    world.tell(ToGatekeeper::Counters(Tally { read: 9, waiting: 3, doors: 3, ..Tally::default() }));
    world.new_config();
    world.ask(ControlRequest::Reload);
    world.settle();
    assert_ne!(world.listener(), ListenerId(0));
    assert_eq!(world.packets().waiting, 3, "the replaced one hands over what it has");
    let request = Anna.request("ssh", world.second());
    let late = world.handed(ListenerId(0), Anna, &request);
    world.hand_all(ListenerId(0), vec![late]);
    assert_eq!((world.packets().received, world.packets().waiting), (9, 2));
    world.advance(6 * SECOND);
    assert!(!world.listeners.contains_key(&ListenerId(0)));
    let packets = world.packets();
    assert_eq!((packets.received, packets.granted, packets.waiting), (9, 4, 0));
    assert_eq!(packets.rejected, [("dropped".to_owned(), 2)]);
    world.tell(ToGatekeeper::Counters(Tally { read: 1, doors: 1, ..Tally::default() }));
    assert_eq!((world.packets().received, world.packets().doors), (10, 4));
}

#[test]
fn each_knock_is_in_one_counter_whatever_becomes_of_it() {
    let mut world = World::new();
    world.knock(Anna, "ssh");
    world.knock(Anna, "rdp");
    world.knock(Anna, "web");
    let request = Anna.request("ssh", world.second());
    world.hand(Anna, &request);
    world.hand(Anna, &request);
    let close = Request { kind: KnockKind::Close, ..Anna.request("web", world.second() + 1) };
    world.hand(Anna, &close);
    world.settle();
    let waits = Anna.request("vpn", world.second() + 2);
    world.hand(Anna, &waits);
    assert_eq!(world.packets().waiting, 1, "its start command runs");
    world.disk.set_broken(true);
    world.knock(Anna, "ssh");
    // A knock for something else than it may have, whose decision the disk does not take.
    let packets = world.packets();
    let of = |name: &str| packets.rejected.iter().find(|one| one.0 == name).map(|one| one.1);
    assert_eq!((of("replayed"), of("state")), (Some(1), Some(1)), "{packets:?}");
    assert_eq!((packets.granted, packets.closed, packets.received), (4, 1, 8), "{packets:?}");
}

#[test]
fn a_listener_is_asked_for_its_newest_counters_when_an_admin_asks_for_the_status() {
    let mut world = World::new();
    world.ask(ControlRequest::Status);
    assert_eq!(world.listeners[&ListenerId(0)].told, ["counters"]);
}

#[test]
fn a_listener_that_sends_nonsense_is_replaced_and_told_of() {
    let mut world = World::new();
    let id = world.listener();
    world.lose(id, ListenerLoss::Nonsense);
    assert!(world.said("it sent what no listener sends"));
    assert!(status(&mut world)["degraded"].to_string().contains("it sent what no listener sends"));
    // What it says after that is not heard.
    let request = Anna.request("ssh", world.second());
    world.handle(Event::Listener {
        id,
        messages: vec![ToGatekeeper::Knock(Anna.knock(9, &request))],
    });
    assert!(!world.lets_in(Anna, 22));
}

#[test]
fn a_listener_that_cannot_be_started_is_tried_again_after_a_longer_pause() {
    let mut world = World::new();
    let id = world.listener();
    world.lose(id, ListenerLoss::Ended("signal: 9".to_owned()));
    for pause in [0, 1, 2, 2, 2, 2] {
        if pause > 0 {
            world.advance(pause * SECOND - 1);
            assert!(world.starting.is_empty(), "{pause}");
            world.advance(1);
        }
        let id = world.starting[0];
        world.lose(
            id,
            ListenerLoss::NotReady(Fault::new("no interface to listen on: eth7", "add it")),
        );
        assert!(world.said("no listener: no interface to listen on: eth7"));
    }
}

#[test]
fn a_listener_that_was_ready_just_before_a_periodic_check_is_no_reason_to_hurry() {
    let mut world = World::new();
    // The periodic checks are at full ten seconds, and this is second 1.
    for (lives, pause) in [(8, 0), (1, 1), (9, 2), (20, 0)] {
        world.advance(lives * SECOND);
        let lines = world.log.len();
        let id = world.listener();
        world.lose(id, ListenerLoss::Ended("signal: 9".to_owned()));
        let said = world.log[lines..].join("\n");
        let next = if pause == 0 { "now".to_owned() } else { format!("in {pause} s") };
        assert!(said.contains(&format!("the next one starts {next}")), "{lives} s: {said}");
        world.advance(pause * SECOND);
        assert!(world.make_ready());
    }
}

#[test]
fn new_addresses_are_told_to_the_listener_and_never_granted() {
    let mut world = World::new();
    let mut mine = network().addresses[0].clone();
    mine.address = Anna.address();
    world.handle(with(|network| network.addresses.push(mine)));
    assert_eq!(world.listeners[&world.listener()].addresses.len(), 2);
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Address), "an address of ours is nobody's");
    world.handle(with(|_| {}));
    world.advance(SECOND);
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
}

#[test]
fn addresses_that_the_kernel_does_not_tell_are_as_before() {
    let mut world = World::new();
    world.handle(Event::Network(Err(Fault::new(
        "the kernel does not tell our addresses",
        "ask it",
    ))));
    assert!(world.said("the kernel does not tell our addresses"));
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
}

#[test]
fn a_default_route_that_leads_elsewhere_is_followed_and_one_that_is_gone_is_not() {
    let mut world = following(&["eth0"]);
    let old = world.listener();
    world.handle(with(|network| network.default_routes.clear()));
    assert!(world.starting.is_empty(), "the old one loses nothing");
    world.handle(with(|network| network.default_routes = vec!["eth1".to_owned()]));
    let id = world.starting.pop().unwrap();
    let names = vec!["eth1".to_owned()];
    let now =
        ListenerReady { wanted: names.clone(), interfaces: names, indexes: vec![3], ..ready() };
    world.handle(Event::ListenerReady { id, ready: now });
    assert!(world.said("the default route has changed: knocks are heard on eth1"));
    assert!(world.listeners[&old].told.contains(&"stop"));
}

#[test]
fn an_interface_that_goes_and_comes_back_is_heard_again() {
    let mut world = following(&["eth0", "wg0"]);
    world
        .handle(with(|network| network.default_routes = vec!["eth0".to_owned(), "wg0".to_owned()]));
    world.tell(ToGatekeeper::Down { capture: 1 });
    assert!(world.said("interface wg0 went down: no knock is heard there"));
    assert!(status(&mut world)["degraded"].to_string().contains("interface wg0 is not there"));
    let both =
        |network: &mut Network| network.default_routes = vec!["eth0".to_owned(), "wg0".to_owned()];
    world.handle(with(both));
    assert!(world.starting.is_empty());
    world.handle(with(|network| {
        both(network);
        network.up.insert("wg0".to_owned(), 7);
    }));
    assert!(world.make_ready());
    assert!(world.said("interface wg0 is back: knocks are heard there"));
}

#[test]
fn interfaces_that_go_down_together_are_all_named_and_so_is_one_that_got_another_name() {
    let mut world = following(&["eth0", "wg0"]);
    for capture in [0, 1] {
        world.tell(ToGatekeeper::Down { capture });
    }
    for name in ["eth0", "wg0"] {
        assert!(world.said(&format!("interface {name} went down: no knock is heard there")));
    }
    world.handle(with(|network| {
        network.up.insert("wan0".to_owned(), 7);
    }));
    assert!(world.said("interface wg0 is called wan0 now: no knock is heard there"));
}

#[test]
fn an_interface_that_goes_while_a_listener_starts_is_noticed_without_its_word() {
    let mut world = following(&["eth0"]);
    world.handle(with(|network| {
        network.up.remove("eth0");
    }));
    assert!(world.said("interface eth0 went down: no knock is heard there"));
    world.handle(with(|_| {}));
    assert!(world.make_ready());
    assert!(world.said("interface eth0 is back: knocks are heard there"));
}

#[test]
fn an_interface_with_another_name_is_released_until_one_has_the_name_again() {
    let mut world = following(&["eth0"]);
    let old = world.listener();
    world.handle(with(|network| {
        network.up.remove("eth0");
        network.up.insert("wan0".to_owned(), 2);
    }));
    assert!(world.said("interface eth0 is called wan0 now: no knock is heard there"));
    assert!(world.listeners[&old].told.contains(&"release"));
    let degraded = status(&mut world)["degraded"].to_string();
    assert!(degraded.contains("interface eth0 is not there"), "{degraded}");
    world.handle(with(|network| {
        network.up.insert("eth0".to_owned(), 9);
    }));
    assert!(world.make_ready());
    assert!(world.said("interface eth0 is back: knocks are heard there"));
}

#[test]
fn captures_that_there_are_not_and_the_one_that_stands_for_all_cannot_go_down() {
    let mut world = World::new();
    world.log.clear();
    world.tell(ToGatekeeper::Down { capture: 9 });
    world.tell(ToGatekeeper::Down { capture: 0 });
    assert!(world.log.is_empty());
}

#[test]
fn a_listener_for_an_interface_that_fails_leaves_the_old_one() {
    let mut world = following(&["eth0"]);
    let old = world.listener();
    world.handle(with(|network| network.default_routes = vec!["eth1".to_owned()]));
    let id = world.starting[0];
    world.lose(id, ListenerLoss::NotReady(Fault::new("eth1 is down", "up")));
    assert!(world.said("eth1 is down") && world.listeners.contains_key(&old));
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
}

#[test]
fn a_reload_takes_the_place_of_a_listener_that_was_to_start_and_gives_it_back() {
    let mut world = World::new();
    let id = world.listener();
    world.lose(id, ListenerLoss::Ended("signal: 9".to_owned()));
    world.advance(SECOND);
    assert_eq!(world.starting.len(), 1);
    world.new_config();
    world.ask(ControlRequest::Reload);
    for lane in crate::app::gatekeeper::events::Lane::ALL {
        world.do_task(lane);
    }
    let id = world.starting[0];
    world.lose(id, ListenerLoss::NotReady(Fault::new("no right", "give it")));
    world.advance(3 * SECOND);
    assert_eq!(world.starting.len(), 1, "somebody must listen");
    world.make_ready();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
}

/// The days of the keys that the current listener has, by client.
fn days(world: &World) -> Vec<u32> {
    world.listeners[&world.listener()].clients.values().copied().collect()
}

#[test]
fn at_midnight_the_listener_gets_the_keys_of_the_new_day_for_every_client() {
    let mut world = World::new();
    let today = at(0).day();
    assert_eq!(days(&world), [today; 3]);
    world.jump(86_400);
    world.advance(61 * SECOND);
    assert_eq!(days(&world), [today + 1; 3]);
}

#[test]
fn a_listener_that_starts_while_the_clock_is_behind_gets_the_keys_of_days_that_clients_have_shown()
{
    let mut world = World::new();
    let today = at(0).day();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.jump(-3 * 86_400);
    let old = world.listener();
    world.lose(old, ListenerLoss::Ended("died".to_owned()));
    world.advance(2 * SECOND);
    world.make_ready();
    world.advance(2 * SECOND);
    assert_eq!(days(&world), [today, today - 3, today - 3], "anna has shown that it is later");
}

#[test]
fn a_client_that_asks_for_the_time_is_told_its_working_day_and_the_listener_gets_its_keys() {
    let mut world = World::new();
    let today = at(0).day();
    let id = world.listener();
    let first_day = (today / 32 + 2) * 32;
    let ask = Request {
        receipt_wanted: true,
        timestamp: at(world.second()),
        first_day,
        ..Request::bare(KnockKind::Time)
    };
    let mut knock = Anna.knock(0, &ask);
    knock.ticket = world.ticket(id);
    let ticket = knock.ticket;
    world.hand_all(id, vec![knock]);
    let receipt = world.listeners[&id].verdicts[&ticket].unwrap();
    assert_eq!((receipt.status, receipt.working_day), (Status::Clock, first_day + 1));
    assert!(receipt.challenge.is_some());
    assert!(world.said("anna: asked for the time, from 192.0.2.10"), "{:?}", world.log);
    assert_eq!(days(&world), [first_day + 1, today, today]);
    // It goes on with that day's keys, and with a time of its own.
    let request =
        Request { challenge: receipt.challenge, ..Anna.request("ssh", world.second() + 1) };
    let knock = Anna.knock_on(Day::Number(first_day + 1), world.ticket(id), &request);
    let ticket = knock.ticket;
    world.hand_all(id, vec![knock]);
    assert_eq!(world.status(ticket), Some(Status::Granted));
}
