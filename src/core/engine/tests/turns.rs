//! The engine's answers to its caller: serve again at once or wait, the sizes of its tables.
//! Also a new sequence of a door.

use super::doors::door;
use super::*;

fn serve(bench: &mut Bench, budget: usize) -> (bool, usize) {
    let mut actions = Vec::new();
    let more = bench.engine.serve(bench.now.boot, budget, &mut actions);
    (more, knocks(&actions).len())
}

fn wait_for_a_turn(bench: &mut Bench, count: usize) {
    for _ in 0..count {
        let datagram = bench.datagram().0;
        bench.take(ADMIN, &datagram);
    }
}

#[test]
fn after_the_last_waiting_knock_the_caller_need_not_serve_again_at_once() {
    let mut bench = Bench::new(setup(1));
    assert_eq!(serve(&mut bench, 0), (false, 0));
    wait_for_a_turn(&mut bench, 2);
    assert_eq!(serve(&mut bench, 1), (true, 1));
    assert_eq!(serve(&mut bench, 1), (false, 1), "or the caller would spin");
}

#[test]
fn after_the_last_ticket_the_caller_waits_until_one_is_back() {
    let mut bench = Bench::new(setup(1));
    wait_for_a_turn(&mut bench, 3);
    let Action::Knock(HandedKnock { ticket, .. }) = bench.serve(1).pop().unwrap() else {
        panic!("no knock")
    };
    // All other tickets but one.
    bench.issue(TICKETS - 2);
    assert_eq!(serve(&mut bench, 1), (false, 1), "one is waiting and cannot be served");
    assert_eq!(serve(&mut bench, 1), (false, 0));
    bench.verdict(ticket, false, None);
    assert_eq!(serve(&mut bench, 1), (false, 1));
}

#[test]
fn the_sizes_of_the_tables_are_reported_with_their_limits() {
    let mut both = setup(1);
    both.doors = vec![door(&[7000, 7001])];
    let mut bench = Bench::new(both);
    assert_eq!(
        bench.engine.tables(),
        [
            ("waiting", 0, QUEUED),
            ("seen", 0, RING),
            ("tickets", 0, TICKETS),
            ("attempts", 0, ATTEMPTS)
        ]
    );
    wait_for_a_turn(&mut bench, 5);
    bench.serve(3);
    bench.engine.packet(bench.now, OUTSIDE, &packet(ADMIN, 7000, b""), &mut Vec::new());
    assert_eq!(
        bench.engine.tables().iter().map(|(_, size, _)| *size).collect::<Vec<_>>(),
        [2, 5, 3, 1]
    );
}

#[test]
fn a_door_with_a_new_sequence_opens_to_that_one_alone() {
    let mut bench = Bench::new(Setup { doors: vec![door(&[7000])], ..Setup::default() });
    let opens = |bench: &mut Bench, port| {
        let mut actions = Vec::new();
        bench.engine.packet(bench.now, OUTSIDE, &packet(ADMIN, port, b""), &mut actions);
        actions.iter().any(|action| matches!(action, Action::Door(SequenceEvent::Completed(_))))
    };
    assert!(opens(&mut bench, 7000));
    bench.engine.set_sequence(0, vec![Step::udp(8000)]);
    assert!(!opens(&mut bench, 7000) && opens(&mut bench, 8000));
}
