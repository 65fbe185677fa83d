//! A reload: what it takes over, what it ends, what it refuses.

use super::people::Person::{Anna, Bert, Carl};
use super::world::World;
use crate::app::admin::ClientSearch;
use crate::app::gatekeeper::events::{Event, Lane, ListenerLoss};
use crate::app::gatekeeper::listing::CLIENTS;
use crate::config::{Hook, LogTarget};
use crate::core::event::EventKind;
use crate::core::knock::Status;
use crate::core::service::GrantKind;
use crate::core::types::{Fault, Port, Proto, SECOND};
use crate::edge::control::ControlRequest;

fn reload(world: &mut World) -> Result<String, String> {
    let session = world.ask(ControlRequest::Reload);
    world.settle();
    world.told(session).expect("an answer")
}

#[test]
fn a_reload_takes_over_what_the_files_say() {
    let mut world = World::with(|files| files.enrolled = vec![Anna]);
    assert_eq!(world.knock(Bert, "ssh"), None);
    world.files.enrolled = vec![Anna, Bert];
    assert!(reload(&mut world).unwrap().contains("reloaded: 4 services, 2 clients, 3 doors"));
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted));
}

#[test]
fn a_grant_does_not_outlive_the_ports_that_it_was_for() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.files.settings.services[0].ports = [Port { proto: Proto::Tcp, number: 8022 }][..].into();
    reload(&mut world).unwrap();
    assert!(
        !world.lets_in(Anna, 22)
            && world.said("anna: ssh of 192.0.2.10 ended: it is no longer allowed")
    );
    world.advance(SECOND);
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    assert!(world.lets_in(Anna, 8022));
}

#[test]
fn a_grant_ends_where_its_form_changes_or_its_time_shrinks_or_its_service_leads_elsewhere() {
    let changes: [fn(&mut crate::core::service::Service); 3] = [
        |service| service.form = GrantKind::Once,
        |service| service.max_seconds = 10,
        |service| {
            let to = vec!["10.0.0.7:22".parse().unwrap()];
            service.forward = Some(crate::core::service::Forward { to, masquerade: false });
        },
    ];
    for change in changes {
        let mut world = World::new();
        assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
        change(&mut world.files.settings.services[0]);
        reload(&mut world).unwrap();
        assert!(!world.lets_in(Anna, 22));
    }
}

#[test]
fn what_is_held_open_for_as_long_as_we_run_cannot_be_moved() {
    for (key, change) in [
        (
            "state_dir",
            (|settings| settings.gateway.state_dir = "/other".into())
                as fn(&mut crate::config::Settings),
        ),
        ("control_socket", |settings| settings.gateway.control_socket = "/other".into()),
        ("table", |settings| settings.firewall.table = "other".into()),
    ] {
        let mut world = World::new();
        change(&mut world.files.settings);
        let told = reload(&mut world).unwrap_err();
        assert!(told.contains(&format!("`{key}` cannot change while toctocd runs")), "{told}");
        assert!(world.starting.is_empty());
    }
}

#[test]
fn an_admin_who_asks_while_a_reload_is_under_way_gets_one_of_their_own() {
    let mut world = World::new();
    let first = world.ask(ControlRequest::Reload);
    world.do_task(Lane::Clients);
    world.do_task(Lane::Config);
    // The files change after they were read.
    world.files.enrolled = vec![Anna];
    let [second, third] = [(); 2].map(|()| world.ask(ControlRequest::Reload));
    assert!(world.told(first).unwrap().unwrap().contains("3 clients"));
    assert_eq!((world.told(second), world.told(third)), (None, None));
    world.settle();
    assert!(world.told(second).unwrap().unwrap().contains("1 client,"));
    assert!(world.told(third).unwrap().is_ok(), "both by the same one");
    assert_eq!(world.knock(Carl, "ssh"), None);
}

#[test]
fn a_signal_reloads_and_the_log_says_how_it_went() {
    let mut world = World::new();
    world.handle(Event::Hangup);
    world.settle();
    assert!(world.said("reloaded: "));
    world.files.fault = Some(Fault::new("toctocd.toml:7: no such key", "remove it"));
    world.handle(Event::Hangup);
    world.settle();
    assert!(world.said("not reloaded: toctocd.toml:7: no such key"));
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
}

#[test]
fn a_reload_keeps_the_marks_of_used_knocks_and_of_clients_that_come_back() {
    let mut world = World::new();
    let request = Anna.request("ssh", world.second());
    world.hand(Anna, &request);
    world.files.enrolled = vec![Bert];
    reload(&mut world).unwrap();
    world.files.enrolled = vec![Anna, Bert, Carl];
    reload(&mut world).unwrap();
    let again = world.hand(Anna, &request);
    assert_eq!(world.status(again), None);
    assert!(!world.lets_in(Anna, 22));
}

#[test]
fn while_the_guard_is_off_new_rules_are_checked_and_not_loaded() {
    let mut world = World::new();
    world.ask(ControlRequest::GuardOff);
    world.settle();
    world.new_config();
    let session = world.ask(ControlRequest::Reload);
    world.do_task(Lane::Clients);
    world.do_task(Lane::Config);
    world.make_ready();
    world.fail_task(Lane::Guard);
    assert!(world.told(session).unwrap().is_err());
    reload(&mut world).unwrap();
    assert!(!world.kernel.borrow().table);
}

#[test]
fn when_only_clients_change_the_listener_stays_and_is_told_and_no_rule_is_loaded() {
    let mut world = World::with(|files| files.enrolled = vec![Anna, Bert]);
    let listener = world.listener();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted));
    world.files.enrolled = vec![Bert, Carl];
    let session = world.ask(ControlRequest::Reload);
    world.do_task(Lane::Clients);
    let clients = &world.listeners[&listener].clients;
    assert_eq!(clients.keys().copied().collect::<Vec<_>>(), [Bert.id(), Carl.id()]);
    assert!(!world.lets_in(Anna, 22) && world.lets_in(Bert, 22));
    world.do_task(Lane::Config);
    world.do_task(Lane::Connections);
    assert!(
        world.told(session).is_none() && world.do_task(Lane::State),
        "the end is on disk first"
    );
    assert!(world.told(session).unwrap().unwrap().contains("2 clients"));
    assert!(world.starting.is_empty() && world.listener() == listener);
    assert_eq!(world.kernel.borrow().loads, 0);
    assert_eq!(world.knock(Carl, "ssh"), Some(Status::Granted));
    assert_eq!(world.knock(Anna, "ssh"), None);
    // A reload of the same files changes nothing either.
    reload(&mut world).unwrap();
    assert!(world.starting.is_empty() && world.kernel.borrow().loads == 0);
}

#[test]
fn of_a_thousand_new_clients_the_listener_is_told_and_with_one_more_another_starts() {
    let mut world = World::with(|files| files.enrolled = vec![Anna]);
    let listener = world.listener();
    world.files.crowd = 1000;
    reload(&mut world).unwrap();
    assert!(world.starting.is_empty() && world.listener() == listener);
    assert_eq!(world.listeners[&listener].clients.len(), 1001);
    world.files.crowd = 2001;
    world.ask(ControlRequest::Reload);
    world.do_task(Lane::Clients);
    world.do_task(Lane::Config);
    assert_eq!(world.starting.len(), 1);
    world.make_ready();
    assert_ne!(world.listener(), listener);
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
}

#[test]
fn clients_take_effect_at_once_whatever_is_wrong_with_the_configuration() {
    let mut world = World::with(|files| files.enrolled = vec![Anna, Bert]);
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted));
    world.files.fault = Some(Fault::new("no such interface", "wait for it"));
    world.files.enrolled = vec![Anna, Carl];
    let over = world.now().wall.0 / SECOND;
    world.files.expires = [Anna, Carl].map(|person| (person, over)).into();
    assert!(reload(&mut world).unwrap_err().contains("no such interface"));
    assert!(!world.lets_in(Anna, 22), "her time is over");
    assert!(!world.lets_in(Bert, 22), "he is gone");
    world.advance(SECOND);
    assert_eq!([Anna, Bert, Carl].map(|person| world.knock(person, "ssh")), [None; 3]);
    world.files.expires.clear();
    assert!(reload(&mut world).is_err());
    assert_eq!(world.knock(Carl, "ssh"), Some(Status::Granted));
}

#[test]
fn a_mistake_in_the_clients_file_revokes_whoever_it_no_longer_names_and_changes_nobody_else() {
    let mut world = World::with(|files| files.enrolled = vec![Anna, Bert]);
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted));
    world.files.enrolled = vec![Bert, Carl];
    world.files.mistake = Some(Fault::new("clients:7:1: not an id", "write one"));
    assert!(reload(&mut world).unwrap_err().contains("clients:7:1"));
    assert!(!world.lets_in(Anna, 22) && world.lets_in(Bert, 22));
    assert_eq!(world.knock(Anna, "ssh"), None);
    assert_eq!(world.knock(Carl, "ssh"), None, "not before the mistake is gone");
    assert_eq!(world.knock(Bert, "web"), Some(Status::Granted));
}

#[test]
fn a_client_that_an_admin_revokes_stays_out_until_a_file_without_it_was_read() {
    let mut world = World::with(|files| files.enrolled = vec![Anna, Bert]);
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    let session = world.ask(ControlRequest::Revoke { id: Anna.id().0 });
    world.settle();
    assert!(world.told(session).expect("an answer").unwrap().contains("anna is revoked"));
    let is_out = |world: &mut World| {
        let listener = world.listener();
        let is_known = world.listeners[&listener].clients.contains_key(&Anna.id());
        !is_known && !world.lets_in(Anna, 22) && world.knock(Anna, "ssh").is_none()
    };
    assert!(is_out(&mut world));
    // The file goes on to name her, with and without mistakes elsewhere.
    reload(&mut world).unwrap();
    assert!(is_out(&mut world));
    world.files.mistake = Some(Fault::new("clients:7:1: not an id", "write one"));
    reload(&mut world).unwrap_err();
    world.files.mistake = None;
    world.new_config();
    reload(&mut world).unwrap();
    assert!(is_out(&mut world));
    let degraded = world.gatekeeper.limitations(world.now());
    assert!(degraded.iter().any(|line| line.starts_with("1 revoked but still")), "{degraded:?}");
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted));
    // A file without her ends it: she may be enrolled again.
    world.files.enrolled = vec![Bert];
    reload(&mut world).unwrap();
    world.files.enrolled = vec![Anna, Bert];
    reload(&mut world).unwrap();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
}

/// The result of a search for a client by its name, and the number of requests that it took.
fn find(world: &mut World, name: &str) -> (ClientSearch, usize) {
    let mut after = None;
    for asked in 1..10 {
        let session = world.ask(ControlRequest::FindClient { name: name.to_owned(), after });
        let answer = world.told(session).expect("an answer at once").unwrap();
        match serde_json::from_str(&answer).unwrap() {
            ClientSearch::AskAgain { after: last } => after = Some(last),
            found => return (found, asked),
        }
    }
    panic!("the search for {name} does not end");
}

#[test]
fn a_client_is_found_by_its_name_some_thousand_clients_at_a_time() {
    let mut world = World::with(|files| files.crowd = 3 * CLIENTS as u16);
    assert_eq!(find(&mut world, "anna").0, ClientSearch::Found(Anna.id().0));
    assert_eq!(find(&mut world, "nobody"), (ClientSearch::Nobody, 4));
    let last = world.gatekeeper.in_force.clients().iter().last().unwrap().clone();
    assert_eq!(find(&mut world, &last.name).0, ClientSearch::Found(last.id.0));
}

#[test]
fn a_listener_that_starts_while_clients_change_is_told_of_them_when_it_takes_over() {
    let mut world = World::with(|files| files.enrolled = vec![Anna, Bert]);
    let old = world.listener();
    world.lose(old, ListenerLoss::Ended("died".to_owned()));
    world.advance(2 * SECOND);
    assert_eq!(world.starting.len(), 1);
    world.files.enrolled = vec![Bert, Carl];
    world.ask(ControlRequest::Reload);
    world.do_task(Lane::Clients);
    world.make_ready();
    let clients = &world.listeners[&world.listener()].clients;
    assert_eq!(clients.keys().copied().collect::<Vec<_>>(), [Bert.id(), Carl.id()]);
    world.settle();
    assert_eq!(world.knock(Carl, "ssh"), Some(Status::Granted));
}

#[test]
fn the_marks_of_a_client_that_is_gone_are_dropped_hours_later_on_disk_too() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted));
    world.files.enrolled = vec![Bert, Carl];
    reload(&mut world).unwrap();
    let marked = |world: &World| world.disk.durable_ledger(world.now().wall).marks().count();
    world.advance(2 * 3600 * SECOND);
    world.settle();
    assert_eq!(marked(&world), 2, "not yet: her old line may be put back");
    for _ in 0..3 {
        world.advance(3600 * SECOND);
        world.settle();
    }
    assert_eq!(marked(&world), 1);
    // And of one who was removed while no gateway ran.
    world.files.enrolled = vec![Carl];
    world.restart(false);
    for _ in 0..5 {
        world.advance(3600 * SECOND);
        world.settle();
    }
    assert_eq!(marked(&world), 0);
}

#[test]
fn a_reload_opens_the_log_again_whatever_is_wrong_and_takes_new_hooks_and_metrics_only_if_nothing_is()
 {
    let mut world = World::new();
    world.log_opened.clear();
    let hook = Hook {
        name: "x".to_owned(),
        events: vec![EventKind::Alarm],
        run: vec!["/bin/true".to_owned()],
    };
    world.files.settings.hooks.push(hook.clone());
    world.files.settings.metrics.seconds = 7;
    world.files.fault = Some(Fault::new("a mistake", "fix it"));
    world.ask(ControlRequest::Reload);
    world.settle();
    assert_eq!(world.log_opened.len(), 1, "logrotate has renamed the file by now");
    assert!(world.hooks.is_empty() && world.metrics.is_none());
    world.files.fault = None;
    world.files.settings.log.to = LogTarget::File("/log".into());
    world.ask(ControlRequest::Reload);
    world.settle();
    assert_eq!(world.log_opened.last(), Some(&world.files.settings.log));
    assert_eq!(world.hooks, [hook]);
    assert_eq!(world.metrics.as_ref(), Some(&world.files.settings.metrics));
}
