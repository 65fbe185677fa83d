//! What the engine tells its caller: whether to come again at once, what it holds, and that a
//! door's sequence is a new one. What it does with packets is left to the tests above.

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
fn who_has_served_the_last_that_waits_need_not_come_again_at_once() {
    let mut bench = Bench::new(setup(1));
    assert_eq!(serve(&mut bench, 0), (false, 0));
    wait_for_a_turn(&mut bench, 2);
    assert_eq!(serve(&mut bench, 1), (true, 1));
    assert_eq!(serve(&mut bench, 1), (false, 1), "or it would spin");
}

#[test]
fn with_the_last_ticket_out_nobody_comes_again_until_one_is_back() {
    let mut bench = Bench::new(setup(1));
    wait_for_a_turn(&mut bench, 3);
    let Action::Knock(HandedKnock { ticket, .. }) = bench.serve(1).pop().unwrap() else {
        panic!("no knock")
    };
    // As many more tickets as there are, short of one.
    let (datagram, _) = test_vectors::datagram(&test_vectors::request(NOON), [200; 32]);
    for _ in 0..TICKETS - 2 {
        let (_, reply) =
            test_vectors::open(&datagram, NOON).unwrap_or_else(|r| panic!("{}", r.name())).split();
        let source = Source::new(ADMIN.into());
        let pending =
            OpenTicket { reply, row: 0, mark: 0, source, source_port: 1, destination: source };
        bench.engine.sealed.as_mut().unwrap().tickets.issue(bench.now.boot, pending);
    }
    assert_eq!(serve(&mut bench, 1), (false, 1), "one waits, and could not be served");
    assert_eq!(serve(&mut bench, 1), (false, 0));
    bench.verdict(ticket, false, None);
    assert_eq!(serve(&mut bench, 1), (false, 1));
}

#[test]
fn what_packets_have_grown_is_told_beside_its_bounds() {
    let mut both = setup(1);
    both.doors = vec![door(&[7000, 7001])];
    let mut bench = Bench::new(both);
    let held = |bench: &Bench| bench.engine.tables();
    assert_eq!(
        held(&bench),
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
    assert_eq!(held(&bench).iter().map(|(_, held, _)| *held).collect::<Vec<_>>(), [2, 5, 3, 1]);
}

#[test]
fn a_door_that_was_given_another_sequence_opens_to_that_one_alone() {
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
