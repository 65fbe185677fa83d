//! Sealed knocks from the listener's message to the verdict.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::people::Person::{self, Anna, Bert, Carl};
use super::people::at;
use super::world::{World, network};
use crate::app::gatekeeper::events::{Event, Lane, Network};
use crate::core::event::{EventKind, KnockId};
use crate::core::grants::{Flow, Holder};
use crate::core::keyring::{ClientSecrets, Day, Secret, TEST_GATEWAY_ID, WireSecret};
use crate::core::knock::{GATED, KnockKind, Request, Status, encode_body};
use crate::core::prefix::Prefix;
use crate::core::public_key::PublicKey;
use crate::core::service::Client;
use crate::core::test_vectors;
use crate::core::types::{ClientId, Port, Proto, Reject, SECOND, Source};
use crate::edge::control::ControlRequest;
use crate::edge::gatekeeper_pipe::ToGatekeeper;

fn closing(person: Person, service: &str, second: u64) -> Request {
    Request { kind: KnockKind::Close, ..person.request(service, second) }
}

fn rejected(world: &mut World, reject: Reject) -> u64 {
    world.gatekeeper.ends.of(reject)
}

#[test]
fn a_knock_is_granted_for_its_time_with_one_sync_and_its_receipt_says_so() {
    let mut world = World::new();
    let syncs = world.disk.syncs();
    let request = Anna.request("web", world.second());
    let ticket = world.hand(Anna, &request);
    assert_eq!(world.disk.syncs(), syncs + 1);
    let receipt = world.listeners[&world.listener()].verdicts[&ticket].unwrap();
    assert_eq!((receipt.status, receipt.seconds, receipt.once), (Status::Granted, 60, false));
    assert_eq!(receipt.granted, Some(Source::new(Anna.address())));
    assert!(world.lets_in(Anna, 80) && world.lets_in(Anna, 443) && !world.lets_in(Anna, 22));
    assert!(world.said("anna: web granted to 192.0.2.10 for 60 s"));
    world.advance(60 * SECOND);
    assert!(!world.lets_in(Anna, 80));
}

#[test]
fn each_knock_is_one_event_of_its_kind_with_the_id_that_its_client_knows() {
    let mut world = World::new();
    let second = world.second();
    let later = |seconds, request: Request| Request { timestamp: at(second + seconds), ..request };
    let elsewhere = Some(Source::new(Bert.address()));
    let request = Anna.request("ssh", second);
    for (kind, reason, request) in [
        (EventKind::Granted, None, request),
        (EventKind::Extended, None, later(1, request)),
        (EventKind::Refused, Some("denied"), later(2, Anna.request("none", second))),
        (EventKind::Refused, Some("address"), Request { address: elsewhere, ..later(3, request) }),
        (EventKind::Probe, None, later(4, Request::bare(KnockKind::Probe))),
        (EventKind::Closed, None, later(5, closing(Anna, "ssh", second))),
        (EventKind::Ignored, Some("replayed"), request),
        (EventKind::Refused, Some("clock"), later(7200, request)),
    ] {
        world.events.clear();
        let id = world.listener();
        let knock = world.handed(id, Anna, &request);
        let known = KnockId::of(&knock.h);
        world.hand_all(id, vec![knock]);
        let [event] = &world.events[..] else { panic!("{kind:?}: {:?}", world.events) };
        assert_eq!((event.kind, event.reason), (kind, reason), "{event:?}");
        assert_eq!((event.id, event.client.as_deref()), (Some(known), Some("anna")), "{event:?}");
        assert_eq!(event.address.as_deref(), Some("192.0.2.10"), "{event:?}");
        let is_open = matches!(kind, EventKind::Granted | EventKind::Extended);
        assert_eq!(event.seconds.is_some(), is_open, "{event:?}");
    }
}

#[test]
fn whoever_repeats_unsigned_knocks_gets_one_line_a_minute() {
    let mut world = World::new();
    for n in 0..100 {
        let id = world.listener();
        let mut knock = world.handed(id, Anna, &Anna.request("ssh", world.second() + n));
        knock.body[100] ^= 1;
        // Whoever has the profile can make this MAC; the signature takes the key.
        let gate = test_vectors::secrets(Anna.id()).gate(knock.day).unwrap();
        let gated: [u8; GATED] = *knock.body.first_chunk().unwrap();
        knock.body[GATED..].copy_from_slice(&gate.gate_mac(TEST_GATEWAY_ID, &knock.h, &gated));
        world.hand_all(id, vec![knock]);
    }
    assert_eq!(rejected(&mut world, Reject::Signature), 100);
    let lines = world.events.iter().filter(|event| event.reason == Some("signature")).count();
    assert_eq!(lines, 1);
}

#[test]
fn knocks_that_come_together_share_one_sync() {
    let mut world = World::new();
    let (id, syncs) = (world.listener(), world.disk.syncs());
    let mut knocks = Vec::new();
    for person in [Anna, Bert, Carl] {
        let request = person.request("ssh", world.second());
        let knock = world.handed(id, person, &request);
        knocks.push(knock);
    }
    world.hand_all(id, knocks);
    assert_eq!(world.disk.syncs(), syncs + 1);
    assert!([Anna, Bert, Carl].iter().all(|person| world.lets_in(*person, 22)));
}

#[test]
fn the_mark_is_on_disk_before_the_listener_hears_of_the_grant() {
    let mut world = World::new();
    let request = Anna.request("ssh", world.second());
    world.hand(Anna, &request);
    let ledger = world.disk.durable_ledger(at(0));
    let (client, marks) = ledger.marks().next().unwrap();
    assert!(client == Anna.id() && marks.used(request.timestamp));
    assert_eq!(ledger.grants().count(), 1);
}

#[test]
fn a_used_knock_is_met_with_silence_and_from_elsewhere_with_an_alarm() {
    let mut world = World::new();
    let request = Anna.request("ssh", world.second());
    world.hand(Anna, &request);
    let again = world.hand(Anna, &request);
    assert_eq!(world.status(again), None);
    assert!(!world.said("ALARM"));
    let id = world.listener();
    let mut stolen = world.handed(id, Anna, &request);
    stolen.source = Source::new(Carl.address());
    let ticket = stolen.ticket;
    world.hand_all(id, vec![stolen.clone()]);
    assert_eq!(world.status(ticket), None);
    assert!(
        world
            .said("ALARM: a used knock of anna, first from 192.0.2.10, came again from 192.0.2.12")
    );
    // Whoever replays packets must not fill the log.
    world.log.clear();
    stolen.ticket = world.ticket(id);
    world.hand_all(id, vec![stolen]);
    assert!(!world.said("ALARM"));
    assert_eq!(rejected(&mut world, Reject::Replayed), 3);
    assert!(!world.lets_in(Carl, 22));
}

#[test]
fn a_used_knock_opens_nothing_after_a_restart_a_crash_and_a_power_failure() {
    for crash in [None, Some(false), Some(true)] {
        let mut world = World::new();
        let request = Anna.request("ssh", world.second());
        world.hand(Anna, &request);
        let close = closing(Anna, "ssh", world.second() + 1);
        world.hand(Anna, &close);
        match crash {
            Some(power_failure) => world.restart(power_failure),
            None => {
                world.handle(Event::Terminate);
                world.settle();
                assert!(world.is_over());
                world.restart(false);
            }
        }
        let again = world.hand(Anna, &request);
        assert_eq!(world.status(again), None);
        assert!(!world.lets_in(Anna, 22));
        world.advance(40 * SECOND);
        assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    }
}

#[test]
fn a_grant_survives_a_crash_for_the_time_that_it_has_left_and_a_closed_one_does_not() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted));
    let close = closing(Bert, "ssh", world.second() + 1);
    world.hand(Bert, &close);
    world.advance(20 * SECOND);
    world.restart(true);
    assert!(world.lets_in(Anna, 22) && !world.lets_in(Bert, 22));
    world.advance(39 * SECOND);
    assert!(world.lets_in(Anna, 22));
    world.advance(2 * SECOND);
    assert!(!world.lets_in(Anna, 22));
}

#[test]
fn a_grant_for_one_connection_is_not_armed_again_by_a_crash() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "rdp"), Some(Status::Granted));
    assert!(world.lets_in(Anna, 3389));
    // It is spent, as far as the kernel says.
    world.kernel.borrow_mut().flush();
    world.restart(false);
    assert!(!world.lets_in(Anna, 3389));
}

#[test]
fn a_grant_whose_one_connection_came_before_we_looked_is_told_as_granted() {
    let mut world = World::new();
    world.kernel.borrow_mut().wins_at_once = true;
    assert_eq!(world.knock(Anna, "rdp"), Some(Status::Granted));
    assert!(!world.lets_in(Anna, 3389), "it is used up");
    // Without its table the kernel took nothing.
    world.kernel.borrow_mut().delete();
    assert_eq!(world.knock(Bert, "rdp"), Some(Status::Trouble));
}

#[test]
fn what_no_client_signed_opens_nothing_and_is_counted() {
    let mut world = World::new();
    let id = world.listener();
    let request = Anna.request("ssh", world.second());
    let good = Anna.knock(0, &request);
    for (reject, spoil) in [
        (Reject::Gate, (|knock| knock.h[0] ^= 1) as fn(&mut crate::core::knock::HandedKnock)),
        (Reject::Gate, |knock| knock.body[130] ^= 1),
        (Reject::Gate, |knock| knock.client = Bert.id()),
        (Reject::Policy, |knock| knock.client = ClientId([0xff; 16])),
        (Reject::Clock, |knock| knock.day = Day::Number(at(0).day() + 2)),
        (Reject::Gate, |knock| knock.day = Day::Number(at(0).day() + 1)),
    ] {
        let before = rejected(&mut world, reject);
        let mut knock = good.clone();
        spoil(&mut knock);
        knock.ticket = world.ticket(id);
        let ticket = knock.ticket;
        world.hand_all(id, vec![knock]);
        assert_eq!((world.status(ticket), rejected(&mut world, reject)), (None, before + 1));
    }
    assert!(world.kernel.borrow().live().is_empty());
    // That the same words with nothing forged are heard shows that the others were.
    let ticket = world.hand(Anna, &request);
    assert_eq!(world.status(ticket), Some(Status::Granted));
}

/// What somebody can send who took the listener over and also has every client's signature key: by
/// a quantum computer, or from the client's disk. Only the gate key is missing.
#[test]
fn a_listener_with_every_wire_key_and_signature_key_opens_nothing_and_raises_an_alarm() {
    let mut world = World::new();
    let id = world.listener();
    let day = Day::Number(at(0).day());
    let master = test_vectors::master();
    let secrets = master.client_secrets(Anna.id(), test_vectors::FIRST_PERIOD);
    let keys_that_it_has = [
        // It derives what it can from what it was given, under every label that there is.
        ClientSecrets::new(640, secret_of(secrets.wire(day)), secret_of(secrets.wire(day))),
        ClientSecrets::new(640, secret_of(secrets.wire(Day::Unknown)), Secret::new([0; 32])),
        test_vectors::secrets(Bert.id()),
    ];
    for (second, forged) in (0..).zip(&keys_that_it_has) {
        let request = Anna.request("ssh", world.second() + second);
        let mut knock = Anna.knock(world.ticket(id), &request);
        let signed = request.encode();
        let signature = Anna.sign(&knock.h, &signed);
        let gate = forged.gate(day).unwrap();
        knock.body = encode_body(&signed, &signature, &gate, TEST_GATEWAY_ID, &knock.h);
        let ticket = knock.ticket;
        world.hand_all(id, vec![knock]);
        assert_eq!(world.status(ticket), None);
    }
    assert_eq!(rejected(&mut world, Reject::Gate), 3);
    assert!(world.kernel.borrow().live().is_empty());
    let alarm =
        "ALARM: somebody has the keys that the listener has of anna, but not anna's profile";
    assert_eq!(world.log.iter().filter(|line| line.contains(alarm)).count(), 1);
    world.advance(61 * SECOND);
    let mut knock = Anna.knock(world.ticket(id), &Anna.request("ssh", world.second()));
    knock.body[191] ^= 1;
    world.hand_all(id, vec![knock]);
    assert_eq!(world.log.iter().filter(|line| line.contains(alarm)).count(), 2, "a minute later");
}

fn secret_of(wire: Option<WireSecret>) -> Secret<32> {
    Secret::new(*wire.unwrap().expose())
}

#[test]
fn a_knock_from_another_address_than_it_names_opens_nothing_and_may_be_sent_again() {
    let mut world = World::new();
    let id = world.listener();
    let request = Anna.request("ssh", world.second());
    let mut elsewhere = world.handed(id, Anna, &request);
    elsewhere.source = Source::new(Carl.address());
    let ticket = elsewhere.ticket;
    world.hand_all(id, vec![elsewhere]);
    assert_eq!(world.status(ticket), Some(Status::Address));
    assert!(world.kernel.borrow().live().is_empty());
    let ticket = world.hand(Anna, &request);
    assert_eq!(world.status(ticket), Some(Status::Granted));
}

#[test]
fn two_clients_behind_one_address_have_one_element_and_each_ends_only_their_own() {
    let mut world = World::new();
    let bert = |world: &mut World, kind, second, seconds| {
        let address = Some(Source::new(Anna.address()));
        let request = Request { kind, address, seconds, ..Bert.request("ssh", second) };
        let id = world.listener();
        let mut knock = world.handed(id, Bert, &request);
        knock.source = Source::new(Anna.address());
        let ticket = knock.ticket;
        world.hand_all(id, vec![knock]);
        world.status(ticket)
    };
    let second = world.second();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    assert_eq!(bert(&mut world, KnockKind::Open, second, 300), Some(Status::Granted));
    assert_eq!(world.kernel.borrow().live().len(), 1);
    world.advance(61 * SECOND);
    assert!(world.lets_in(Anna, 22), "bert's grant lasts longer");
    assert_eq!(bert(&mut world, KnockKind::Close, second + 62, 0), Some(Status::Closed));
    assert!(!world.lets_in(Anna, 22));
}

#[test]
fn a_probe_is_answered_and_opens_nothing() {
    let mut world = World::new();
    let request = Request {
        kind: KnockKind::Probe,
        service: crate::core::types::ServiceName::NONE,
        ..Anna.request("ssh", world.second())
    };
    let ticket = world.hand(Anna, &request);
    assert_eq!(world.status(ticket), Some(Status::Observed));
    assert!(world.kernel.borrow().live().is_empty() && world.said("anna: probe from 192.0.2.10"));
}

#[test]
fn whoever_is_revoked_has_their_connections_cut_also_those_of_a_grant_that_is_over() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    let ssh = Port { proto: Proto::Tcp, number: 22 };
    let flow = Flow { source: Source::new(Anna.address()), source_port: 5, port: ssh };
    world.kernel.borrow_mut().flows.push(flow);
    world.advance(90 * SECOND);
    world.settle();
    assert!(!world.lets_in(Anna, 22), "the grant is over, the connection stands");
    world.files.enrolled = vec![Bert];
    world.ask(ControlRequest::Reload);
    world.settle();
    assert!(world.kernel.borrow().flows.is_empty());
    assert!(world.said("connections of 192.0.2.10 to ssh were cut"));
}

#[test]
fn a_grant_that_is_over_and_has_no_connection_is_forgotten() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.advance(61 * SECOND);
    assert_eq!(world.gatekeeper.grants.past_after(None).count(), 1);
    world.advance(10 * SECOND);
    world.settle();
    assert_eq!(world.gatekeeper.grants.past_after(None).count(), 0);
    let holder = Holder::Client(Anna.id());
    let ledger = world.disk.durable_ledger(at(0));
    assert!(ledger.grants().all(|grant| grant.key.holder != holder), "the journal too");
}

#[test]
fn a_grant_that_ended_while_connections_were_listed_is_looked_at_again() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.advance(61 * SECOND);
    world.advance(8 * SECOND);
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted));
    world.advance(2 * SECOND);
    // The list is made before Bert's connection begins and his grant ends.
    let report = world.take_report(Lane::Connections);
    let ssh = Port { proto: Proto::Tcp, number: 22 };
    let flow = Flow { source: Source::new(Bert.address()), source_port: 5, port: ssh };
    world.kernel.borrow_mut().flows.push(flow);
    world.set_clock(61 * SECOND);
    let tasks = world.tasks.len();
    world.handle(Event::Network(Ok(super::world::network())));
    let changes = world.gatekeeper.grants.expire(world.now());
    drop((changes, tasks));
    world.handle(report);
    let past: Vec<Holder> =
        world.gatekeeper.grants.past_after(None).map(|past| past.key.holder).collect();
    assert_eq!(past, [Holder::Client(Bert.id())], "he is not forgotten on old evidence");
}

#[test]
fn a_listener_that_somebody_took_over_claims_clients_and_alarms_that_there_are_not_in_vain() {
    let mut world = World::new();
    let source = Source::new(Anna.address());
    world.tell(ToGatekeeper::Alarm { client: ClientId([77; 16]), first: source, again: source });
    assert!(!world.said("ALARM"));
    world.tell(ToGatekeeper::Alarm {
        client: Anna.id(),
        first: source,
        again: Source::new(Bert.address()),
    });
    assert!(world.said("ALARM: a used knock of anna"));
}

#[test]
fn the_router_gets_no_grant_since_it_may_forward_for_everybody_until_the_admin_says_it_does_not() {
    let router = [192, 0, 2, 254].into();
    let knock = |world: &mut World, source: IpAddr| {
        world.advance(SECOND);
        let request =
            Request { address: Some(Source::new(source)), ..Anna.request("ssh", world.second()) };
        let id = world.listener();
        let mut handed = world.handed(id, Anna, &request);
        handed.source = Source::new(source);
        let ticket = handed.ticket;
        world.hand_all(id, vec![handed]);
        world.status(ticket)
    };
    let mut world = World::new();
    assert_eq!(knock(&mut world, router), Some(Status::Address));
    assert!(world.said("anna: refused from 192.0.2.254: this is not the address of one other"));
    assert_eq!(world.gatekeeper.grants.list().count(), 0);
    // The default route moves to another router.
    let next: IpAddr = [192, 0, 2, 253].into();
    let moved = Network { routers: BTreeSet::from([next]), ..network() };
    world.handle(Event::Network(Ok(moved.clone())));
    assert_eq!(knock(&mut world, next), Some(Status::Address));
    assert_eq!(knock(&mut world, router), Some(Status::Granted));
    // It moves back. A network that goes away for a moment ends nothing.
    let lost = Network { addresses: Vec::new(), ..moved };
    world.handle(Event::Network(Ok(lost)));
    assert_eq!(world.gatekeeper.grants.list().count(), 1);
    world.handle(Event::Network(Ok(network())));
    assert_eq!(world.gatekeeper.grants.list().count(), 0);
    assert!(world.said("anna: ssh of 192.0.2.254 ended: it is no longer allowed"));

    let mut world = World::with(|files| {
        files.settings.knock.also_grant.extend(Prefix::parse("192.0.2.254/32"));
    });
    assert_eq!(knock(&mut world, router), Some(Status::Granted));
}

#[test]
fn alarms_about_one_client_hide_none_about_another_and_many_do_not_fill_the_log() {
    let mut world = World::new();
    let source = |last: u8| Source::new([198, 51, 100, last].into());
    let alarm = |world: &mut World, person: super::people::Person, last: u8| {
        let (client, first, again) = (person.id(), source(1), source(last));
        world.tell(ToGatekeeper::Alarm { client, first, again });
    };
    for last in 2..50 {
        alarm(&mut world, Anna, last);
    }
    alarm(&mut world, Bert, 2);
    let lines = |world: &World, words: &str| {
        world.log.iter().filter(|line| line.contains("ALARM") && line.contains(words)).count()
    };
    assert_eq!((lines(&world, "anna"), lines(&world, "bert")), (1, 1));
    world.advance(61 * SECOND);
    assert!(world.said("suppressed 47 more lines about clients"));
    alarm(&mut world, Anna, 51);
    assert_eq!(lines(&world, "anna"), 2, "a minute later");
}

#[test]
fn a_client_with_a_bad_key_hides_no_other_one() {
    let mut world = World::new();
    // The neutral element: everybody can make a signature for it.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let bad = |person: Person| Client { key: PublicKey::plain(neutral), ..person.client() };
    world.gatekeeper.policy.set_clients(vec![bad(Anna), bad(Bert)].into());
    for person in [Anna, Bert, Anna] {
        assert_eq!(world.knock(person, "ssh"), None);
    }
    for name in ["anna", "bert"] {
        let start = format!("{name}: its knocks open nothing: ");
        assert_eq!(world.log.iter().filter(|line| line.starts_with(&start)).count(), 1, "{name}");
    }
}
