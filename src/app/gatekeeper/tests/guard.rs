//! The guard: repaired when others touch it, taken away and put up by command.

use super::kernel::Refusal;
use super::people::Person::{Anna, Bert};
use super::world::World;
use crate::app::gatekeeper::events::{Event, Lane};
use crate::core::grants::Element;
use crate::core::knock::Status;
use crate::core::service::GrantKind;
use crate::core::types::{Reject, SECOND, ServiceName, Source};
use crate::edge::control::ControlRequest;

fn changed(world: &mut World) {
    world.handle(Event::FirewallChanged { who: "nft (pid 9)".to_owned() });
}

fn stranger() -> Element {
    let ssh = ServiceName::new("ssh").unwrap();
    Element::plain(ssh, Source::new([203, 0, 113, 9].into()), GrantKind::Time)
}

#[test]
fn a_table_that_others_changed_is_put_right_and_who_it_was_is_told() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.kernel.borrow_mut().delete();
    changed(&mut world);
    assert!(world.said("our firewall table was changed by nft (pid 9)"));
    world.settle();
    assert!(world.said("the guard was loaded again") && world.said("1 grant put back"));
    assert!(world.lets_in(Anna, 22));
}

#[test]
fn an_element_that_no_grant_stands_for_is_removed() {
    let mut world = World::new();
    world.kernel.borrow_mut().intrude(stranger());
    changed(&mut world);
    world.settle();
    assert!(world.kernel.borrow().live().is_empty());
    assert!(world.said("1 orphaned element removed"));
    assert_eq!(world.kernel.borrow().loads, 0, "the rules were as they should be");
}

#[test]
fn lost_announcements_are_a_reason_to_look_but_no_alarm_and_no_loop() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.kernel.borrow_mut().intrude(stranger());
    world.handle(Event::FirewallUnsure);
    world.settle();
    assert_eq!(world.kernel.borrow().live().len(), 1, "the stranger's element is found");
    assert!(!world.said("was changed by") && !world.said("loaded again"));
    let before = world.kernel.borrow().repairs;
    for _ in 0..100 {
        world.handle(Event::FirewallUnsure);
        world.settle();
    }
    assert_eq!(world.kernel.borrow().repairs, before, "all elements are listed once a second");
    world.kernel.borrow_mut().sound = false;
    world.handle(Event::FirewallUnsure);
    world.settle();
    assert!(world.kernel.borrow().sound, "wrong rules are put right at once all the same");
}

#[test]
fn what_is_granted_and_ended_while_the_kernel_lists_its_elements_is_no_damage() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    changed(&mut world);
    let report = world.take_report(Lane::Guard);
    assert_eq!(world.knock(Bert, "web"), Some(Status::Granted));
    world.handle(report);
    world.settle();
    assert!(!world.said("put back"), "{:?}", world.log);
    assert!(world.lets_in(Anna, 22) && world.kernel.borrow().live().len() == 2);
}

#[test]
fn a_guard_that_no_gateway_keeps_is_named_in_log_and_status_until_it_is_gone() {
    let mut world = World::new();
    world.kernel.borrow_mut().others = vec!["old".to_owned()];
    let status = world.ask(ControlRequest::Status);
    world.settle();
    let remedy = "`nft delete table inet old` removes it";
    assert!(world.said(remedy) && world.told(status).unwrap().unwrap().contains(remedy));
    world.kernel.borrow_mut().others.clear();
    let status = world.ask(ControlRequest::Status);
    world.settle();
    assert!(!world.told(status).unwrap().unwrap().contains(remedy));
}

#[test]
fn a_table_that_went_unseen_is_found_by_the_next_check() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.kernel.borrow_mut().delete();
    world.advance(10 * SECOND);
    world.settle();
    assert!(world.lets_in(Anna, 22));
}

#[test]
fn a_rule_that_was_changed_unseen_is_found_within_ten_minutes() {
    let mut world = World::new();
    world.kernel.borrow_mut().sound = false;
    for _ in 0..61 {
        world.advance(10 * SECOND);
        world.settle();
    }
    assert!(world.kernel.borrow().sound && world.kernel.borrow().loads == 1);
}

#[test]
fn a_repair_that_fails_is_tried_again_every_second_and_told_every_ten() {
    let mut world = World::new();
    changed(&mut world);
    for _ in 0..9 {
        assert!(world.fail_task(Lane::Guard));
        world.advance(SECOND);
    }
    let told = world.log.iter().filter(|line| line.contains("THE GUARD MAY BE DOWN")).count();
    assert_eq!(told, 1);
    world.settle();
    assert!(world.tasks.is_empty());
    world.advance(5 * SECOND);
    assert!(world.tasks.is_empty(), "then all is well");
}

#[test]
fn a_grant_that_the_kernel_does_not_take_is_told_as_trouble_and_nobody_has_it() {
    let mut world = World::new();
    world.kernel.borrow_mut().delete();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Trouble));
    assert!(world.said("the firewall refused a grant"));
    assert_eq!(world.gatekeeper.ends.of(Reject::Firewall), 1);
    world.settle();
    assert!(!world.lets_in(Anna, 22) && world.gatekeeper.grants.list().count() == 0);
    assert_eq!(world.knock(Anna, "web"), Some(Status::Granted));
}

#[test]
fn a_revocation_that_the_kernel_refuses_is_carried_out_by_the_repair_and_cut_once_more() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.files.enrolled = vec![Bert];
    world.kernel.borrow_mut().refuses = Some(Refusal::Whole);
    world.ask(ControlRequest::Reload);
    world.do_task(Lane::Clients);
    assert!(world.said("the firewall refused a change") && world.lets_in(Anna, 22));
    world.do_task(Lane::Connections);
    assert_eq!(world.kernel.borrow().cut.len(), 1);
    world.do_task(Lane::Guard);
    assert!(!world.lets_in(Anna, 22));
    world.do_task(Lane::Connections);
    assert_eq!(world.kernel.borrow().cut.len(), 2, "what came in until then goes too");
}

#[test]
fn an_admin_takes_the_guard_away_and_puts_it_up_with_all_grants() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    let off = world.ask(ControlRequest::GuardOff);
    world.settle();
    assert!(world.told(off).unwrap().unwrap().contains("the guard is OFF"));
    assert!(!world.kernel.borrow().table);
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Trouble), "nothing is granted");
    let status = world.ask(ControlRequest::Status);
    let told = world.told(status).unwrap().unwrap();
    assert!(told.contains("\"guard\":false") && told.contains("\"guard_off\":true"), "{told}");
    world.ask(ControlRequest::Reload);
    world.settle();
    world.advance(700 * SECOND - 640 * SECOND);
    world.settle();
    assert!(!world.kernel.borrow().table, "neither a reload nor a check is a reason to put it up");
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.ask(ControlRequest::GuardOff);
    world.settle();
    let on = world.ask(ControlRequest::GuardOn { confirm: None });
    world.settle();
    assert!(world.told(on).unwrap().unwrap().contains("the guard is up"));
    assert!(world.lets_in(Anna, 22), "for the time that it has left");
    let again = world.ask(ControlRequest::GuardOn { confirm: None });
    world.settle();
    assert!(world.told(again).unwrap().unwrap().contains("nothing has changed"));
}

#[test]
fn a_guard_that_somebody_else_loads_while_it_is_off_is_put_up() {
    let mut world = World::new();
    world.ask(ControlRequest::GuardOff);
    world.settle();
    changed(&mut world);
    world.settle();
    assert!(world.said("so it is no longer off") && world.kernel.borrow().table);
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
}

#[test]
fn a_guard_that_cannot_be_taken_away_or_put_up_is_told_so() {
    let mut world = World::new();
    let off = world.ask(ControlRequest::GuardOff);
    world.fail_task(Lane::Guard);
    assert!(world.told(off).unwrap().is_err() && world.said("the guard was left as it is"));
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.ask(ControlRequest::GuardOff);
    world.settle();
    let on = world.ask(ControlRequest::GuardOn { confirm: None });
    world.fail_task(Lane::Guard);
    assert!(world.told(on).unwrap().is_err() && world.said("the guard is not up"));
    assert_eq!(world.knock(Anna, "web"), Some(Status::Trouble), "it is still off");
}

#[test]
fn the_last_line_says_what_stays() {
    let mut world = World::new();
    assert!(world.gatekeeper.last_line(world.now()).contains("the guard stays up"));
    world.ask(ControlRequest::GuardOff);
    world.settle();
    assert!(world.gatekeeper.last_line(world.now()).contains("the guard stays off"));
}

#[test]
fn a_grant_gains_nothing_by_a_slow_repair_of_the_guard() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.kernel.borrow_mut().delete();
    changed(&mut world);
    world.set_clock(8 * SECOND);
    world.settle();
    let (_, left) = world.kernel.borrow().live()[0];
    assert!(left <= 52_000, "{left} ms of 60 s after 8 s");
}
