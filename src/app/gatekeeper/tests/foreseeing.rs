//! What an admin is told a knock would get is what it gets, and asking changes nothing.

use super::people::Person::{self, Anna, Bert};
use super::people::at;
use super::world::World;
use crate::app::foreseen::Foreseen;
use crate::core::knock::Status;
use crate::core::types::SECOND;
use crate::edge::control::{Asker, ControlRequest, Question};

fn question(person: Person, service: &str) -> Question {
    Question {
        asker: Asker::Client(person.id().0),
        service: Some(service.to_owned()),
        from: person.address(),
        named: None,
        seconds: 60,
    }
}

fn ask(world: &mut World, question: Question) -> Result<Foreseen, String> {
    let session = world.ask(ControlRequest::Explain(question));
    let told = world.told(session).expect("an answer at once");
    told.map(|text| serde_json::from_str(&text).unwrap())
}

/// The status that an answer foresees.
fn status(foreseen: &Foreseen) -> &str {
    match (&foreseen.obstacles[..], &foreseen.refusal) {
        ([first, ..], _) => &first.status,
        ([], Some(refusal)) => &refusal.status,
        ([], None) => "granted",
    }
}

#[test]
fn what_is_foreseen_is_what_a_knock_gets() {
    let mut world = World::new();
    for (service, expected, told) in
        [("ssh", "granted", Status::Granted), ("nothing", "denied", Status::Denied)]
    {
        let before = world.disk.syncs();
        let foreseen = ask(&mut world, question(Anna, service)).unwrap();
        assert_eq!((status(&foreseen), foreseen.holder.as_str()), (expected, "anna"));
        assert_eq!(ask(&mut world, question(Anna, service)).unwrap(), foreseen, "the same again");
        assert_eq!(world.disk.syncs(), before, "asking is not recorded");
        assert_eq!(world.knock(Anna, service), Some(told));
    }
    let foreseen = ask(&mut world, question(Bert, "ssh")).unwrap();
    let grant = foreseen.grant.unwrap();
    assert_eq!((grant.address.as_str(), grant.seconds), ("192.0.2.11", 60));
    assert_eq!(foreseen.limits[1].grants, 1, "anna's");
    // The gateway's own address, and one that the client only names.
    let own = Question { from: super::world::GATEWAY.into(), ..question(Anna, "ssh") };
    let refusal = ask(&mut world, own).unwrap().refusal.unwrap();
    assert!(refusal.why.contains("this machine's own"), "{refusal:?}");
    let named = Some(Bert.address());
    let refusal = ask(&mut world, Question { named, ..question(Anna, "ssh") }).unwrap().refusal;
    assert_eq!(refusal.unwrap().status, "address");
}

#[test]
fn a_client_that_has_expired_is_told_to_an_admin_by_the_date() {
    let mut world = World::with(|files| {
        files.expires.insert(Anna, at(5).0 / SECOND);
    });
    assert!(ask(&mut world, question(Anna, "ssh")).unwrap().grant.is_some());
    world.advance(6 * SECOND);
    let refusal = ask(&mut world, question(Anna, "ssh")).unwrap().refusal.unwrap();
    assert!(refusal.why.starts_with("the enrolment of anna ended at "), "{refusal:?}");
    assert_eq!(refusal.status, "none");
    assert_eq!(world.knock(Anna, "ssh"), None);
}

#[test]
fn a_door_is_foreseen_too_and_one_of_commands_or_none_is_a_fault() {
    let mut world = World::new();
    let of_door = |name: &str| Question {
        asker: Asker::Door(name.to_owned()),
        service: None,
        ..question(Anna, "ssh")
    };
    let foreseen = ask(&mut world, of_door("side")).unwrap();
    assert_eq!((foreseen.holder.as_str(), foreseen.service.as_str()), ("door side", "ssh"));
    assert!(foreseen.grant.is_some());
    assert!(ask(&mut world, of_door("run")).unwrap_err().contains("runs commands for whoever"));
    assert!(ask(&mut world, of_door("no")).unwrap_err().contains("no door is called `no`"));
}

#[test]
fn what_stops_every_knock_is_named_with_what_its_client_is_told() {
    let mut world = World::new();
    world.ask(ControlRequest::GuardOff);
    world.settle();
    let foreseen = ask(&mut world, question(Anna, "ssh")).unwrap();
    assert_eq!(status(&foreseen), "trouble");
    assert!(foreseen.obstacles[0].what.contains("the guard is OFF"), "{foreseen:?}");
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Trouble));
    let mut world = World::new();
    world.disk.set_broken(true);
    world.knock(Anna, "ssh");
    let foreseen = ask(&mut world, question(Anna, "ssh")).unwrap();
    assert_eq!(status(&foreseen), "none");
    assert_eq!(world.knock(Anna, "ssh"), None);
}
