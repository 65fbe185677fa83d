//! The cost of floods, in operations rather than seconds, and whose rate they use up.

use super::*;
use crate::core::op_counter::{OpCounts, done};
use crate::core::types::ClientId;

/// An engine with `clients` clients, and the `history` knocks that the first one has made.
fn with_history(clients: u16, history: usize) -> (Bench, Vec<[u8; DATAGRAM]>) {
    let mut setup = setup(1);
    for number in 1..clients {
        let [a, b] = number.to_be_bytes();
        let id = ClientId([a, b, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
        setup.clients.push(known(id, NOON));
    }
    let mut bench = Bench::new(setup);
    let used = (0..history).map(|_| granted(&mut bench)).collect();
    (bench, used)
}

/// A new knock that was granted.
fn granted(bench: &mut Bench) -> [u8; DATAGRAM] {
    let datagram = bench.datagram().0;
    let ticket = ticket(&bench.knock(ADMIN, &datagram)).unwrap();
    bench.verdict(ticket, true, None);
    datagram
}

/// The whole cost of one packet that comes to nothing.
fn cost(bench: &mut Bench, datagram: &[u8; DATAGRAM]) -> OpCounts {
    let before = done();
    assert!(knocks(&bench.knock(STRANGER, datagram)).is_empty());
    done().since(before)
}

#[test]
fn a_packet_of_junk_costs_one_mask_and_one_look_up_however_many_clients_and_knocks_there_were() {
    for (clients, history) in [(1, 0), (1, 60), (500, 0), (500, 60)] {
        let (mut bench, used) = with_history(clients, history);
        let junk: [u8; DATAGRAM] = std::array::from_fn(|i| u8::try_from(i * 7 % 251).unwrap());
        let first = OpCounts { masks: 1, look_ups: 1, hashes: 0, curves: 0 };
        assert_eq!(cost(&mut bench, &junk), first, "{clients} clients, {history} knocks");
        // A client's tag with a wrong MAC: two more keyed hashes, for the key and the MAC.
        let good = bench.datagram().0;
        let mut tagged = good;
        tagged[DATAGRAM - 1] ^= 1;
        assert_eq!(
            cost(&mut bench, &tagged),
            OpCounts { hashes: 2, ..first },
            "{clients} clients, {history} knocks"
        );
        let before = done();
        assert_eq!(knocks(&bench.knock(ADMIN, &good)), [0]);
        assert!(done().since(before).curves > 0, "only a client's own packet is worth more");
        // The same for a packet that was seen before.
        for copy in &used {
            assert_eq!(
                cost(&mut bench, copy),
                OpCounts { hashes: 2, ..first },
                "{clients} clients, {history} knocks"
            );
        }
    }
}

#[test]
fn recorded_knocks_of_a_day_cannot_use_up_their_clients_rate() {
    let mut bench = Bench::new(setup(1));
    let used: Vec<_> = (0..300)
        .map(|_| {
            bench.wait(SECOND);
            granted(&mut bench)
        })
        .collect();
    for copy in used.iter().chain(&used) {
        assert!(knocks(&bench.knock(STRANGER, copy)).is_empty());
    }
    assert_eq!((bench.rejected(Reject::Quota), bench.rejected(Reject::SeenBefore)), (0, 600));
    let fresh = bench.datagram().0;
    assert_eq!(knocks(&bench.knock(ADMIN, &fresh)), [0]);
}

#[test]
fn copies_of_a_packet_that_never_arrived_cost_its_client_a_few_tokens_and_no_more() {
    let mut bench = Bench::new(setup(1));
    let (kept, _) = bench.datagram();
    // All at once, before any is opened. Then one after the other, each refused for its address.
    for number in 0..200 {
        bench.take(Ipv4Addr::new(10, 0, 0, number), &kept);
    }
    assert_eq!(knocks(&bench.serve(500)).len(), 8);
    for number in 0..200 {
        let actions = bench.knock(Ipv4Addr::new(10, 0, 1, number), &kept);
        assert_eq!(ticket(&actions), None);
    }
    assert_eq!(bench.rejected(Reject::Quota), 0);
    assert_eq!(knocks(&bench.knock(ADMIN, &kept)), [0], "still good from the right source");
    let rest: Vec<_> = (0..54).map(|_| bench.datagram().0).collect();
    for datagram in &rest {
        assert_eq!(knocks(&bench.knock(ADMIN, datagram)), [0]);
    }
}
