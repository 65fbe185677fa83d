//! The bounds of what waits, and copies of one packet, without the engine around them.
//! What a flood costs and whose rate it uses up is left to the engine's tests.

use super::*;
use crate::core::test_vectors::{self, CLIENT, NOON};
use crate::core::types::{ClientId, Wall};
use crate::core::wire::{DATAGRAM, identify};

const NOW: Boot = Boot(1000 * SECOND);

/// So many clients, each of which may send a hundred at once.
fn clients(count: u32) -> Clients {
    let fingerprint = test_vectors::client().fingerprint;
    let keys = |number: u32| {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        (test_vectors::master().client_keys(ClientId(id)), fingerprint)
    };
    Clients::new((0..count).map(keys).collect(), KnockRate::new(100, 4))
}

fn datagram(number: u8) -> [u8; DATAGRAM] {
    test_vectors::datagram(&test_vectors::request(Wall(NOON.0 + u64::from(number))), [number; 32]).0
}

fn waiting(datagram: &[u8], source: &str) -> QueuedKnock {
    let known =
        identify(&test_vectors::gateway(), &test_vectors::tags(NOON.day()), datagram).ok().unwrap();
    let mine = known.check_mac(&test_vectors::master().client_keys(CLIENT)).ok().unwrap();
    let source = Source::new(source.parse().unwrap());
    QueuedKnock { mine, source, source_port: 1, destination: source }
}

#[test]
fn half_of_the_queue_is_for_bursts_and_the_rest_for_a_few_of_each_client() {
    let rows = u32::try_from(QUEUED).unwrap() + 1;
    let mut clients = clients(rows);
    let mine: Vec<_> = (0..5).map(datagram).collect();
    let common = &mine[0];
    let one = |clients: &mut Clients, row, datagram: &[u8]| {
        clients
            .admit(NOW, row, waiting(datagram, "192.0.2.7"), |_| panic!("no copy from elsewhere"))
    };
    assert!(!clients.some_wait());
    assert!(mine[..3].iter().all(|datagram| one(&mut clients, 0, datagram).is_ok()));
    let half = u32::try_from(QUEUED / 2).unwrap();
    assert!((1..half - 3).all(|row| one(&mut clients, row, common).is_ok()));
    assert_eq!(
        (clients.held()[0], one(&mut clients, 0, &mine[3])),
        (QUEUED / 2 - 1, Ok(())),
        "one short of the half"
    );
    assert_eq!(one(&mut clients, 0, &mine[4]), Err(Reject::Quota), "from the half on");
    assert!(
        (half - 3..rows - 5).all(|row| one(&mut clients, row, common).is_ok()),
        "but others still have room"
    );
    assert_eq!((clients.held(), one(&mut clients, rows - 5, common)), ([QUEUED - 1, 4], Ok(())));
    assert_eq!(one(&mut clients, rows - 4, common), Err(Reject::Quota), "until all of it is full");
    assert!((0..QUEUED).all(|_| clients.some_wait() && clients.next().is_some()));
    assert!(!clients.some_wait() && clients.next().is_none());
    assert_eq!(clients.held(), [0, 4], "what was seen is remembered");
}

#[test]
fn a_packet_whose_mark_was_set_is_let_through_from_nowhere_whatever_it_asks_for() {
    let mut clients = clients(1);
    let take = |clients: &mut Clients, number: u8, source: &str| {
        let waiting = waiting(&datagram(number), source);
        let mark = waiting.mark();
        (clients.admit(NOW, 0, waiting, |_| {}), mark)
    };
    let (first, mark) = take(&mut clients, 1, "192.0.2.7");
    assert_eq!(
        (first, take(&mut clients, 1, "192.0.2.8").0),
        (Ok(()), Ok(())),
        "it is not known which is the client's"
    );
    clients.spend(0, mark);
    assert_eq!(take(&mut clients, 1, "192.0.2.9").0, Err(Reject::SeenBefore));
    assert_eq!(take(&mut clients, 2, "192.0.2.9").0, Ok(()), "another packet is another");
}
