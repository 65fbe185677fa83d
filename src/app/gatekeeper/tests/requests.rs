//! What admins are told.

use std::collections::BTreeSet;

use super::people::Person::{Anna, Bert};
use super::world::World;
use crate::app::admin::ServiceGrants;
use crate::app::gatekeeper::events::Lane;
use crate::core::knock::Status;
use crate::core::types::SECOND;
use crate::edge::control::{ControlRequest, ControlResponse};
use crate::edge::gatekeeper_pipe::ToGatekeeper;

fn json(world: &World, session: u64) -> serde_json::Value {
    serde_json::from_str(&world.told(session).expect("an answer").unwrap()).unwrap()
}

#[test]
fn the_status_of_a_gateway_that_is_well() {
    let mut world = World::new();
    world.knock(Anna, "ssh");
    let session = world.ask(ControlRequest::Status);
    assert_eq!(world.told(session), None, "the guard is being looked at");
    world.settle();
    let told = json(&world, session);
    for (key, value) in [
        ("guard", serde_json::json!(true)),
        ("guard_off", false.into()),
        ("trial", serde_json::json!({ "state": "none" })),
        ("state", "intact".into()),
        ("clock", "sure".into()),
        ("services", 4.into()),
        ("clients", 3.into()),
        ("doors", 3.into()),
        ("grants", 1.into()),
        ("interfaces", serde_json::json!(["any"])),
    ] {
        assert_eq!(told[key], value, "{key}");
    }
    assert_eq!((&told["packets"]["received"], &told["packets"]["granted"]), (&1.into(), &1.into()));
    let ssh = serde_json::json!([{ "service": "ssh", "grants": 1, "max_grants": 4096 }]);
    assert_eq!(told["open"], ssh, "no service without grants");
    assert_eq!((&told["knocked"][0]["client"], &told["clients"]), (&"anna".into(), &3.into()));
}

#[test]
fn admins_who_ask_together_are_told_by_one_look() {
    let mut world = World::new();
    let sessions = [(); 5].map(|()| world.ask(ControlRequest::Status));
    assert_eq!(world.tasks.len(), 1);
    world.settle();
    assert!(sessions.iter().all(|session| world.told(*session).is_some()));
}

#[test]
fn a_guard_that_is_not_as_it_was_loaded_is_told_and_repaired() {
    let mut world = World::new();
    world.kernel.borrow_mut().sound = false;
    let session = world.ask(ControlRequest::Status);
    world.do_task(Lane::Guard);
    assert_eq!(json(&world, session)["guard"], false);
    world.settle();
    let session = world.ask(ControlRequest::Status);
    world.settle();
    assert_eq!(json(&world, session)["guard"], true);
}

#[test]
fn a_state_that_cannot_be_written_is_told() {
    let mut world = World::new();
    world.disk.set_broken(true);
    world.knock(Anna, "ssh");
    let session = world.ask(ControlRequest::Status);
    world.settle();
    assert_eq!(json(&world, session)["state"], "NOT WRITABLE: nothing opens");
}

#[test]
fn grants_are_listed_with_who_what_and_how_long() {
    let mut world = World::new();
    let session = world.ask(ControlRequest::Grants { after: None, most: None });
    let nothing = serde_json::json!({ "services": [], "lines": [], "next": null });
    assert_eq!(json(&world, session), nothing);
    world.knock(Anna, "rdp");
    world.tell(ToGatekeeper::Completed { door: 0, source: Bert.address() });
    world.advance(10 * SECOND);
    let session = world.ask(ControlRequest::Grants { after: None, most: None });
    let told = json(&world, session)["lines"].take();
    let line = |place: usize, key: &str| told[place][key].clone();
    assert_eq!((line(0, "client"), line(0, "service")), ("anna".into(), "rdp".into()));
    assert_eq!((line(0, "form"), line(0, "seconds_left")), ("once".into(), 50.into()));
    assert_eq!(line(0, "ports"), serde_json::json!(["3389/tcp"]));
    assert_eq!((line(1, "client"), line(1, "address")), ("door side".into(), "192.0.2.11".into()));
}

/// Opens `count` grants through the side door, each for an address of its own.
fn crowd(world: &mut World, count: u32) {
    for number in 0..count {
        let source = std::net::Ipv4Addr::from_bits(0xc633_6400 + number);
        world.tell(ToGatekeeper::Completed { door: 0, source: source.into() });
        if number % 200 == 199 {
            // The rate limit of openings recovers.
            world.set_clock(20 * SECOND);
        }
    }
}

#[test]
fn many_grants_are_listed_in_pages_each_grant_once() {
    let mut world = World::new();
    world.files.settings.services[0].seconds = 3600;
    world.ask(ControlRequest::Reload);
    world.settle();
    crowd(&mut world, 500);
    let mut addresses = BTreeSet::new();
    let mut after = None;
    let mut pages = 0;
    loop {
        let session = world.ask(ControlRequest::Grants { after, most: None });
        let page = json(&world, session);
        assert_eq!(
            page["services"],
            serde_json::json!([
                { "service": "ssh", "grants": 500, "max_grants": 4096 }
            ])
        );
        let lines = page["lines"].as_array().unwrap();
        assert!(lines.len() <= 256, "no request keeps the loop for long");
        for line in lines {
            assert!(addresses.insert(line["address"].to_string()), "twice: {line}");
        }
        pages += 1;
        after = page["next"].as_str().map(str::to_owned);
        if after.is_none() {
            break;
        }
    }
    assert_eq!((addresses.len(), pages), (500, 2));
}

#[test]
fn the_end_of_no_page_is_refused() {
    let mut world = World::new();
    for after in ["", "00", "zz"] {
        let session =
            world.ask(ControlRequest::Grants { after: Some(after.to_owned()), most: None });
        let refused = world.replies.get(&session);
        assert!(matches!(refused, Some(ControlResponse::Fault { .. })), "{after}");
    }
}

#[test]
fn a_grant_that_is_used_up_or_lost_is_not_listed_as_open() {
    for lost_in_a_flush in [false, true] {
        let mut world = World::new();
        assert_eq!(world.knock(Anna, "rdp"), Some(Status::Granted));
        let session = world.ask(ControlRequest::Grants { after: None, most: None });
        assert_eq!(json(&world, session)["lines"][0]["service"], "rdp");
        if lost_in_a_flush {
            world.kernel.borrow_mut().flush();
        } else {
            world.kernel.borrow_mut().win(Anna.address());
        }
        let session = world.ask(ControlRequest::Grants { after: None, most: None });
        assert_eq!(json(&world, session)["lines"], serde_json::json!([]));
        world.settle();
        world.restart(false);
        let session = world.ask(ControlRequest::Grants { after: None, most: None });
        assert_eq!(json(&world, session)["lines"], serde_json::json!([]), "after a restart");
    }
}

#[test]
fn a_grant_is_gone_from_the_kernel_at_its_end_even_if_the_machine_slept() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    // The kernel's timeouts stand still while the machine sleeps.
    world.kernel.borrow_mut().sleep(3600);
    assert!(world.lets_in(Anna, 22));
    world.advance(3600 * SECOND);
    assert!(!world.lets_in(Anna, 22), "no timer of the kernel had to run out");
    let session = world.ask(ControlRequest::Grants { after: None, most: None });
    assert_eq!(json(&world, session)["lines"], serde_json::json!([]));
}

#[test]
fn a_clock_that_is_not_believed_is_told_in_status_and_log() {
    let mut world = World::new();
    world.jump(-7);
    world.advance(10 * SECOND);
    assert!(world.said("every knock needs a challenge: the clock jumped 7 s back"));
    let session = world.ask(ControlRequest::Status);
    world.settle();
    assert!(json(&world, session)["clock"].to_string().contains("jumped 7 s back"));
}

#[test]
fn a_gateway_that_serves_says_so_and_tells_the_service_manager() {
    let world = World::new();
    assert!(world.told_ready);
    let last = world.log.iter().find(|line| line.starts_with("ready: ")).unwrap();
    assert_eq!(last, "ready: sealed knocks on udp/62201 of any; 4 services, 3 clients, 3 doors");
    assert!(world.said("degraded: the gatekeeper keeps all of its rights"));
}

#[test]
fn the_overview_names_who_knocked_last_without_a_look_at_the_guard() {
    let mut world = World::new();
    world.knock(Anna, "ssh");
    world.advance(5 * SECOND);
    assert_eq!(world.knock(Bert, "mail"), Some(Status::Denied));
    world.knock(Bert, "web");
    let session = world.ask(ControlRequest::Overview);
    assert!(world.tasks.is_empty(), "no process is started");
    let told = json(&world, session);
    assert_eq!((&told["status"]["guard"], &told["status"]["grants"]), (&true.into(), &2.into()));
    // Those without grants too.
    let services: Vec<ServiceGrants> = serde_json::from_value(told["services"].clone()).unwrap();
    let services: Vec<_> = services.iter().map(|one| (one.service.as_str(), one.grants)).collect();
    assert_eq!(services, [("rdp", 0), ("ssh", 1), ("vpn", 0), ("web", 1)]);
    let line = |place: usize, key: &str| told["clients"][place][key].clone();
    assert_eq!((line(0, "client"), line(0, "last")), ("bert".into(), "granted".into()));
    assert_eq!((line(0, "answered"), line(0, "refused")), (1.into(), 1.into()));
    assert_eq!((line(1, "client"), line(1, "from")), ("anna".into(), "192.0.2.10".into()));
    assert_eq!(line(1, "seconds_ago"), 5);
    world.kernel.borrow_mut().sound = false;
    world.ask(ControlRequest::Status);
    world.do_task(Lane::Guard);
    let session = world.ask(ControlRequest::Overview);
    assert_eq!(json(&world, session)["status"]["guard"], false, "as the last look found it");
}

#[test]
fn who_knocked_last_keeps_the_name_and_a_knock_that_must_be_sent_again_is_no_refusal() {
    let mut world = World::new();
    let last = |world: &mut World| -> serde_json::Value {
        let session = world.ask(ControlRequest::Status);
        world.settle();
        json(world, session)["knocked"][0].take()
    };
    world.restart(true);
    let request = Anna.request("ssh", world.second());
    let ticket = world.hand(Anna, &request);
    assert_eq!(world.status(ticket), Some(Status::Challenge));
    let asked = last(&mut world);
    assert_eq!((&asked["answered"], &asked["refused"]), (&0.into(), &0.into()), "{asked}");
    assert_eq!(asked["client"], "anna");
    world.files.enrolled = vec![Bert];
    world.ask(ControlRequest::Reload);
    world.settle();
    assert_eq!(last(&mut world)["client"], "anna", "she is revoked since");
}

#[test]
fn the_end_of_a_grant_is_the_same_at_each_look() {
    let mut world = World::new();
    world.advance(SECOND / 2);
    world.knock(Anna, "ssh");
    let mut ends = BTreeSet::new();
    for _ in 0..5 {
        let session = world.ask(ControlRequest::Grants { after: None, most: None });
        ends.insert(json(&world, session)["lines"][0]["until"].to_string());
        world.advance(SECOND * 2 / 5);
    }
    assert_eq!(ends.len(), 1, "{ends:?}");
}

#[test]
fn the_table_of_who_knocked_last_is_bounded() {
    let mut world = World::with(|files| files.crowd = 200);
    let id = world.listener();
    for number in 0..200_u16 {
        let mut client = [0; 16];
        client[14..].copy_from_slice(&number.to_be_bytes());
        let ticket = world.ticket(id);
        let knock = Anna.knock(ticket, &Anna.request("ssh", 1));
        let client = crate::core::types::ClientId(client);
        world.hand_all(id, vec![crate::core::knock::HandedKnock { client, ..knock }]);
    }
    world.knock(Anna, "ssh");
    let session = world.ask(ControlRequest::Overview);
    let clients = json(&world, session)["clients"].take();
    assert_eq!(clients.as_array().unwrap().len(), 64);
    assert_eq!((&clients[0]["client"], &clients[1]["refused"]), (&"anna".into(), &1.into()));
}

#[test]
fn a_page_has_no_more_lines_than_asked_for() {
    let mut world = World::new();
    crowd(&mut world, 7);
    let mut after = None;
    let mut lengths = Vec::new();
    loop {
        let session = world.ask(ControlRequest::Grants { after, most: Some(3) });
        let page = json(&world, session);
        lengths.push(page["lines"].as_array().unwrap().len());
        after = page["next"].as_str().map(str::to_owned);
        if after.is_none() {
            break;
        }
    }
    assert_eq!(lengths, [3, 3, 1]);
}
