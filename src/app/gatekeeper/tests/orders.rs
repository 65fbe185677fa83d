//! The worst orders in which things can fail, one after another. Each test was seen to fail on a
//! build that was broken for it.

use super::kernel::Refusal;
use super::people::Person::{Anna, Bert, Carl};
use super::people::at;
use super::world::{SIDE, World};
use crate::app::gatekeeper::events::{Event, Lane, ListenerLoss};
use crate::core::knock::{KnockKind, Status};
use crate::core::openings::CommandEnd;
use crate::core::types::{ClientId, Fault, SECOND};
use crate::edge::control::ControlRequest;
use crate::edge::gatekeeper_pipe::{self, QUEUE, ToGatekeeper, ToListener};

const MINUTE: u64 = 60 * SECOND;

fn died() -> ListenerLoss {
    ListenerLoss::Ended("signal: 9".to_owned())
}

// 1. The commit fails.

#[test]
fn a_commit_that_fails_opens_nothing_and_tells_nobody() {
    let mut world = World::new();
    world.disk.set_broken(true);
    assert_eq!(world.knock(Anna, "ssh"), None);
    assert!(!world.lets_in(Anna, 22) && world.said("NOTHING OPENS"));
    // Nor does anything afterwards, although the disk works again: what it holds is not known.
    world.disk.set_broken(false);
    assert_eq!(world.knock(Bert, "ssh"), None);
    assert!(!world.lets_in(Bert, 22));
}

#[test]
fn knocks_count_again_once_the_state_was_read_and_the_one_that_failed_opens_nothing() {
    let mut world = World::new();
    let request = Anna.request("ssh", world.second());
    world.disk.set_broken(true);
    world.hand(Anna, &request);
    world.disk.set_broken(false);
    world.advance(11 * SECOND);
    world.settle();
    assert!(world.said("knocks count again"));
    let again = world.hand(Anna, &request);
    assert_eq!(world.status(again), None, "it was marked in memory");
    assert!(!world.lets_in(Anna, 22));
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
}

#[test]
fn what_a_failed_commit_may_have_left_on_the_disk_does_not_come_to_life_at_the_next_start() {
    let mut world = World::new();
    // The batch is written, its sync fails: the next reading finds it.
    world.disk.fail_next_sync();
    assert_eq!(world.knock(Anna, "ssh"), None);
    world.advance(11 * SECOND);
    world.settle();
    assert!(world.said("knocks count again"));
    world.restart(false);
    assert!(!world.lets_in(Anna, 22));
}

// 2. The firewall refuses half of a batch.

#[test]
fn a_batch_that_the_firewall_takes_by_half_is_nobodys() {
    let mut world = World::new();
    world.kernel.borrow_mut().refuses = Some(Refusal::Half);
    let id = world.listener();
    let knocks: Vec<_> = [Anna, Bert, Carl]
        .into_iter()
        .map(|person| {
            let request = person.request("web", world.second());
            world.handed(id, person, &request)
        })
        .collect();
    let tickets: Vec<u64> = knocks.iter().map(|knock| knock.ticket).collect();
    world.hand_all(id, knocks);
    assert!(tickets.iter().all(|ticket| world.status(*ticket) == Some(Status::Trouble)));
    world.settle();
    assert!(world.kernel.borrow().live().is_empty(), "the half that was taken is taken out");
    world.restart(false);
    assert!(world.kernel.borrow().live().is_empty(), "nor does the journal bring it back");
    world.advance(MINUTE);
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
}

// 3. The listener dies between knock and verdict.

#[test]
fn a_knock_whose_listener_dies_before_the_verdict_is_granted_once() {
    let mut world = World::new();
    let request = Anna.request("vpn", world.second());
    let first = world.hand(Anna, &request);
    assert!(world.waits(first), "its start command runs");
    let old = world.listener();
    world.lose(old, died());
    world.end_the_command(CommandEnd::Exited(0));
    assert!(world.said("anna: vpn granted to 192.0.2.10"), "the grant stands, whoever is told");
    world.advance(2 * SECOND);
    world.settle();
    let again = world.hand(Anna, &request);
    assert_eq!(world.status(again), None, "the next listener hands the same knock over in vain");
    assert_eq!(world.commands(), ["/bin/start 192.0.2.10"]);
}

#[test]
fn the_next_listener_comes_at_once_and_after_short_pauses_while_they_die_young() {
    let mut world = World::new();
    let id = world.listener();
    world.lose(id, died());
    assert!(world.said("the listener was lost (signal: 9); the next one starts now"));
    assert!(world.make_ready());
    for pause in [1, 2, 2, 2] {
        let id = world.listener();
        world.log.clear();
        world.lose(id, died());
        assert!(world.said(&format!("the next one starts in {pause} s")));
        world.advance(pause * SECOND - 1);
        assert!(world.starting.is_empty());
        world.advance(1);
        assert!(world.make_ready());
    }
    // One that lives from one check to the next ends the row of failures.
    world.advance(20 * SECOND);
    world.log.clear();
    let id = world.listener();
    world.lose(id, died());
    assert!(world.said("the next one starts now"));
}

// 4. A reload in the middle of a knock.

#[test]
fn knocks_are_granted_at_every_step_of_a_reload() {
    let mut world = World::new();
    world.new_config();
    let admin = world.ask(ControlRequest::Reload);
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted), "while the clients are read");
    assert!(world.do_task(Lane::Clients));
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted), "while the configuration is read");
    assert!(world.do_task(Lane::Config));
    let old = world.listener();
    let request = Carl.request("ssh", world.second());
    let knock = world.handed(old, Carl, &request);
    let ticket = knock.ticket;
    world.hand_all(old, vec![knock]);
    assert_eq!(world.status(ticket), Some(Status::Granted), "while the new listener starts");
    assert!(world.make_ready());
    assert_eq!(world.knock(Anna, "web"), Some(Status::Granted), "while the guard is loaded");
    world.settle();
    assert!(world.told(admin).unwrap().unwrap().contains("reloaded"));
    assert!(
        [Anna, Bert, Carl].into_iter().all(|person| world.lets_in(person, 22))
            && world.lets_in(Anna, 80)
    );
}

#[test]
fn a_knock_that_an_old_and_a_new_listener_hand_over_is_granted_once() {
    let mut world = World::new();
    world.new_config();
    world.ask(ControlRequest::Reload);
    world.do_task(Lane::Clients);
    world.do_task(Lane::Config);
    let old = world.listener();
    world.make_ready();
    let new = world.listener();
    assert_ne!(old, new);
    let request = Anna.request("ssh", world.second());
    let tickets = [old, new].map(|id| {
        let knock = world.handed(id, Anna, &request);
        let ticket = knock.ticket;
        world.hand_all(id, vec![knock]);
        ticket
    });
    assert_eq!(tickets.map(|ticket| world.status(ticket)), [Some(Status::Granted), None]);
    world.settle();
    // The old one hands over what it has, for a moment; it opens no door.
    let request = Bert.request("ssh", world.second());
    let knock = world.handed(old, Bert, &request);
    let late = knock.ticket;
    world.hand_all(old, vec![knock]);
    assert_eq!(world.status(late), Some(Status::Granted));
    let door = ToGatekeeper::Completed { door: SIDE, source: Carl.address() };
    world.handle(Event::Listener { id: old, messages: vec![door] });
    assert!(!world.lets_in(Carl, 22));
    world.advance(6 * SECOND);
    assert!(!world.listeners.contains_key(&old), "then it is ended");
}

#[test]
fn a_client_that_a_reload_removes_is_refused_from_the_first_step_on_and_its_grant_ends() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.files.enrolled = vec![Bert];
    world.files.fault = Some(Fault::new("a door cannot be read", "write it anew"));
    let admin = world.ask(ControlRequest::Reload);
    world.settle();
    assert!(world.told(admin).unwrap().unwrap_err().contains("a door cannot be read"));
    assert!(!world.lets_in(Anna, 22), "whatever else is wrong with the configuration");
    assert_eq!(world.knock(Anna, "ssh"), None);
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted));
}

// 5. The clock jumps.

#[test]
fn after_the_clock_jumped_back_a_used_knock_opens_nothing_and_a_new_one_needs_a_challenge() {
    let mut world = World::new();
    world.advance(5 * MINUTE);
    let request = Anna.request("ssh", world.second());
    let used = world.hand(Anna, &request);
    assert_eq!(world.status(used), Some(Status::Granted));
    world.advance(2 * MINUTE);
    world.jump(-120);
    let again = world.hand(Anna, &request);
    assert_eq!(world.status(again), None);
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Challenge));
    assert!(!world.lets_in(Bert, 22));
    let session = world.ask(ControlRequest::Status);
    world.settle();
    assert!(world.told(session).unwrap().unwrap().contains("the clock jumped 120 s back"));
}

#[test]
fn a_clock_that_jumps_forward_makes_no_grant_last_longer_and_believes_no_timestamp() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.jump(3600);
    world.advance(11 * SECOND);
    assert!(!world.lets_in(Anna, 22), "its time is over by the clock by which it was told");
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Challenge));
    world.jump(-3600);
    world.advance(SECOND);
    assert_eq!(world.knock(Carl, "ssh"), Some(Status::Granted), "as if nothing had happened");
}

// 6. The pipe to the listener is full.

#[test]
fn a_listener_that_does_not_read_gets_all_verdicts_when_it_does_and_nobody_waits_for_it() {
    let (mut ours, theirs) = gatekeeper_pipe::pair().unwrap();
    let mut listener = gatekeeper_pipe::ListenerEnd::new(theirs);
    let verdict = |ticket| ToListener::Verdict { ticket, spent: true, receipt: None };
    let tickets = 2000;
    for ticket in 0..tickets {
        ours.send(verdict(ticket)).unwrap();
    }
    assert!(ours.waiting() > 0 && ours.waiting() < QUEUE, "more than the kernel keeps");
    let mut heard = 0;
    while heard < tickets {
        match listener.receive().unwrap() {
            Some(ToListener::Verdict { ticket, .. }) => {
                assert_eq!(ticket, heard);
                heard += 1;
            }
            Some(_) => panic!("nothing else was sent"),
            None => {
                assert!(ours.waiting() > 0, "a verdict is lost");
                ours.flush().unwrap();
            }
        }
    }
    // One that never reads loses what does not fit, and keeps nobody waiting.
    let lost = (0..3 * QUEUE as u64).filter(|ticket| ours.send(verdict(*ticket)).is_err()).count();
    assert!(lost > 0 && ours.waiting() == QUEUE);
}

#[test]
fn every_ticket_of_a_batch_has_its_verdict_whatever_each_comes_to() {
    let mut world = World::new();
    let id = world.listener();
    let now = world.second();
    let mut knocks = Vec::new();
    for request in [
        Anna.request("ssh", now),
        Anna.request("ssh", now),
        Anna.request("nothing", now + 1),
        Anna.request("ssh", now + 4000),
    ] {
        let knock = world.handed(id, Anna, &request);
        knocks.push(knock);
    }
    let request =
        crate::core::knock::Request { kind: KnockKind::Close, ..Bert.request("ssh", now) };
    let closing = world.handed(id, Bert, &request);
    knocks.push(closing);
    let mut forged = knocks[0].clone();
    forged.ticket = world.ticket(id);
    forged.body[9] ^= 1;
    let mut unknown = knocks[0].clone();
    unknown.ticket = world.ticket(id);
    unknown.client = ClientId([77; 16]);
    knocks.extend([forged, unknown]);
    let tickets: Vec<u64> = knocks.iter().map(|knock| knock.ticket).collect();
    world.hand_all(id, knocks);
    let told: Vec<Option<Status>> = tickets.iter().map(|ticket| world.status(*ticket)).collect();
    let expected = [
        Some(Status::Granted),
        None,
        Some(Status::Denied),
        Some(Status::Clock),
        Some(Status::Closed),
        None,
        None,
    ];
    assert_eq!(told, expected);
}

// 7. A revocation while a start command runs.

#[test]
fn a_client_that_is_revoked_while_its_start_command_runs_has_nothing_and_the_stop_command_runs() {
    let mut world = World::new();
    let request = Anna.request("vpn", world.second());
    let ticket = world.hand(Anna, &request);
    world.files.enrolled = vec![Bert, Carl];
    world.ask(ControlRequest::Reload);
    world.do_task(Lane::Clients);
    assert_eq!(world.status(ticket), Some(Status::Trouble), "there is nothing left to wait for");
    assert_eq!(world.commands(), ["/bin/start 192.0.2.10"], "one command of an opening at a time");
    world.end_the_command(CommandEnd::Exited(0));
    assert_eq!(world.commands(), ["/bin/start 192.0.2.10", "/bin/stop 192.0.2.10"]);
    // A crash now: the journal knows it until it has ended.
    world.restart(false);
    assert_eq!(world.commands().last(), Some(&"/bin/stop 192.0.2.10"));
    world.advance(SECOND);
    assert_eq!(world.commands().len(), 3, "once more: nobody knows how far it got");
}

// 8. The guard is flushed while a load runs.

#[test]
fn a_guard_that_is_flushed_while_it_is_loaded_has_all_grants_afterwards() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.kernel.borrow_mut().sound = false;
    world.handle(Event::FirewallChanged { who: "nft (pid 7)".to_owned() });
    assert_eq!(world.tasks.len(), 1);
    // While the first repair runs, somebody deletes everything, and somebody else knocks.
    world.kernel.borrow_mut().delete();
    world.handle(Event::FirewallChanged { who: "nft (pid 8)".to_owned() });
    assert_eq!(
        world.knock(Bert, "ssh"),
        Some(Status::Trouble),
        "there is no table that could take it"
    );
    world.settle();
    assert!(world.lets_in(Anna, 22) && !world.lets_in(Bert, 22));
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted));
    // Only the elements, after the list was made and before it came back.
    world.handle(Event::FirewallChanged { who: "nft (pid 9)".to_owned() });
    let report = world.take_report(Lane::Guard);
    world.kernel.borrow_mut().flush();
    world.handle(Event::FirewallChanged { who: "nft (pid 10)".to_owned() });
    world.handle(report);
    world.settle();
    assert!(world.lets_in(Anna, 22) && world.lets_in(Bert, 22));
}

#[test]
fn a_grant_that_ended_while_the_elements_were_listed_does_not_come_back() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.handle(Event::FirewallChanged { who: "nft".to_owned() });
    let report = world.take_report(Lane::Guard);
    let close = crate::core::knock::Request {
        kind: KnockKind::Close,
        ..Anna.request("ssh", world.second() + 1)
    };
    let ticket = world.hand(Anna, &close);
    assert_eq!(world.status(ticket), Some(Status::Closed));
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted));
    world.handle(report);
    assert!(!world.lets_in(Anna, 22) && world.lets_in(Bert, 22));
}

// 9. A reload that fails half-way.

#[test]
fn a_reload_whose_listener_never_gets_ready_leaves_everything_as_it_was() {
    let mut world = World::new();
    world.new_config();
    world.files.settings.services.retain(|service| service.name.as_str() != "web");
    let old = world.listener();
    let admin = world.ask(ControlRequest::Reload);
    world.do_task(Lane::Clients);
    world.do_task(Lane::Config);
    let new = world.starting[0];
    world.advance(21 * SECOND);
    assert!(world.told(admin).unwrap().unwrap_err().contains("did not get ready in time"));
    assert!(!world.listeners.contains_key(&new) && world.listeners.contains_key(&old));
    assert_eq!(
        world.knock(Anna, "web"),
        Some(Status::Granted),
        "a service of the old configuration"
    );
    assert_eq!(world.kernel.borrow().loads, 0);
}

#[test]
fn a_reload_whose_guard_is_refused_leaves_everything_as_it_was() {
    let mut world = World::new();
    world.new_config();
    world.files.settings.services.retain(|service| service.name.as_str() != "web");
    let old = world.listener();
    let admin = world.ask(ControlRequest::Reload);
    world.do_task(Lane::Clients);
    world.do_task(Lane::Config);
    world.make_ready();
    let new = world.listener();
    assert!(world.fail_task(Lane::Guard));
    assert!(world.told(admin).unwrap().is_err());
    assert!(!world.listeners.contains_key(&new) && world.listeners.contains_key(&old));
    assert_eq!(world.knock(Anna, "web"), Some(Status::Granted));
}

#[test]
fn a_reload_that_lost_its_listener_while_the_guard_was_loaded_takes_the_old_rules_back() {
    let mut world = World::new();
    world.new_config();
    let admin = world.ask(ControlRequest::Reload);
    world.do_task(Lane::Clients);
    world.do_task(Lane::Config);
    world.make_ready();
    let new = world.listener();
    world.lose(new, died());
    assert!(world.told(admin).unwrap().is_err());
    let second = world.ask(ControlRequest::Reload);
    world.do_task(Lane::Clients);
    world.do_task(Lane::Config);
    world.make_ready();
    let loads = world.kernel.borrow().loads;
    // The load of the first one comes to its end: it is not the second one's.
    assert!(world.do_task(Lane::Guard));
    assert_eq!(world.told(second), None);
    world.settle();
    assert!(world.told(second).unwrap().is_ok());
    assert!(world.kernel.borrow().loads >= loads + 3, "the first, the old ones again, the second");
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
}

// 10. The state is lost, and read again.

#[test]
fn a_state_that_is_lost_demands_challenges_until_an_admin_accepts_that_on_disk() {
    let mut world = World::new();
    assert_eq!(world.knock(Anna, "ssh"), Some(Status::Granted));
    world.disk.remove("journal");
    world.restart(false);
    world.advance(11 * SECOND);
    assert!(
        world.said("state: ")
            && world.said("every knock needs a challenge: marks of used knocks were lost")
    );
    assert!(!world.lets_in(Anna, 22), "a grant that nobody remembers is none");
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Challenge));
    let admin = world.ask(ControlRequest::Reinitialise);
    assert_eq!(world.told(admin), None, "nothing is said before it is on disk");
    world.settle();
    assert!(world.told(admin).unwrap().is_ok());
    world.advance(2 * MINUTE);
    assert_eq!(world.knock(Bert, "ssh"), Some(Status::Granted));
}

#[test]
fn a_state_that_turns_out_to_be_lost_while_we_run_demands_challenges_and_keeps_our_marks() {
    let mut world = World::new();
    let request = Anna.request("ssh", world.second());
    world.hand(Anna, &request);
    world.disk.remove("journal");
    world.disk.set_broken(true);
    assert_eq!(world.knock(Bert, "ssh"), None);
    world.disk.set_broken(false);
    world.advance(11 * SECOND);
    world.settle();
    assert!(world.said("knocks count again"));
    assert_eq!(world.knock(Carl, "ssh"), Some(Status::Challenge));
    let again = world.hand(Anna, &request);
    assert_eq!(world.status(again), None, "what is in memory is still known");
    let grants = world.disk.durable_ledger(at(0)).grants().count();
    assert_eq!(grants, 1, "the grant that stands is in the new journal");
}

// 11. SIGTERM during each of these.

/// Brings one thing under way.
type Interruption = fn(&mut World);

/// Everything that can be under way when the end comes.
#[test]
fn the_end_is_obeyed_whatever_is_under_way() {
    let interruptions: [(&str, Interruption); 8] = [
        ("a failed commit", |world| {
            world.disk.set_broken(true);
            world.knock(Anna, "ssh");
        }),
        ("a repair", |world| {
            world.kernel.borrow_mut().refuses = Some(Refusal::Half);
            world.knock(Anna, "web");
        }),
        ("a listener that is gone", |world| {
            let id = world.listener();
            world.lose(id, died());
        }),
        ("reading clients", |world| {
            world.ask(ControlRequest::Reload);
        }),
        ("reading the configuration", |world| {
            world.ask(ControlRequest::Reload);
            world.do_task(Lane::Clients);
        }),
        ("a listener that starts", |world| {
            world.new_config();
            world.ask(ControlRequest::Reload);
            world.do_task(Lane::Clients);
            world.do_task(Lane::Config);
        }),
        ("loading the guard", |world| {
            world.new_config();
            world.ask(ControlRequest::Reload);
            world.do_task(Lane::Clients);
            world.do_task(Lane::Config);
            world.make_ready();
        }),
        ("a clock that jumped", |world| world.jump(-3600)),
    ];
    for (what, interrupt) in interruptions {
        let mut world = World::new();
        interrupt(&mut world);
        let pending = world.tasks.len();
        world.handle(Event::Terminate);
        // The time of the end is written.
        world.do_task(Lane::State);
        assert!(world.is_over(), "{what}: {pending} tasks are under way");
        assert!(world.listeners.is_empty(), "{what}: no listener stays");
        world.settle();
        assert!(world.starting.is_empty(), "{what}: nothing begins any more");
    }
}

#[test]
fn the_end_waits_for_stop_commands_but_not_for_ever_and_the_journal_keeps_what_did_not_run() {
    let mut world = World::new();
    let granted = Anna.request("vpn", world.second());
    world.hand(Anna, &granted);
    world.end_the_command(CommandEnd::Exited(0));
    let request = Bert.request("vpn", world.second());
    let waiting = world.hand(Bert, &request);
    assert!(world.waits(waiting));
    world.handle(Event::Terminate);
    assert!(!world.is_over());
    // Anna's stop command runs at once, Bert's as soon as his start command has ended.
    assert_eq!(world.commands().last(), Some(&"/bin/stop 192.0.2.10"));
    let [stop, start] = [0, 1].map(|place| world.started[2 - place].0);
    world.end_command(start, CommandEnd::Exited(0));
    assert_eq!(world.commands().last(), Some(&"/bin/stop 192.0.2.11"));
    world.end_command(stop, CommandEnd::Exited(0));
    world.settle();
    assert!(!world.is_over(), "one still runs");
    world.advance(10 * SECOND);
    assert!(world.is_over());
    let ledger = world.disk.durable_ledger(at(0));
    let left: Vec<String> = ledger.openings().map(|entry| entry.source.to_string()).collect();
    assert_eq!(left, ["192.0.2.11"]);
}
