//! The limits of the queue, and copies of one packet, without the engine around them.
//! See the engine's tests for the cost of floods.

use super::*;
use crate::core::test_vectors::{self, CLIENT, NOON};
use crate::core::types::{ClientId, Wall};
use crate::core::wire::{DATAGRAM, identify};

const NOW: Boot = Boot(1_000_000_000_000);

fn known(client: ClientId) -> KnownClient {
    KnownClient { client, keys: test_vectors::secrets(client).wire_row(NOON.day()) }
}

/// `count` clients, each of which may send a hundred knocks at once.
fn clients(count: u32) -> Clients {
    let mut clients = Clients::new(0, Rate { burst: 100, per_second: 4 });
    for number in 0..count {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        let client = ClientId(id);
        assert_eq!(clients.insert(known(client)), number);
    }
    clients
}

fn datagram(number: u8) -> [u8; DATAGRAM] {
    test_vectors::datagram(&test_vectors::request(Wall(NOON.0 + u64::from(number))), [number; 32]).0
}

fn queued(datagram: &[u8], source: &str) -> QueuedKnock {
    let day = Day::Number(NOON.day());
    let wire = test_vectors::secrets(CLIENT).wire(day).unwrap();
    let tagged =
        identify(&test_vectors::gateway(), &test_vectors::tags(NOON), datagram).ok().unwrap();
    let verified = tagged.check_mac(&wire).ok().unwrap();
    let source = Source::new(source.parse().unwrap());
    QueuedKnock { verified, wire, day, source, source_port: 1, destination: source }
}

#[test]
fn half_of_the_queue_is_for_bursts_and_the_rest_for_a_few_knocks_of_each_client() {
    let rows = u32::try_from(QUEUED).unwrap() + 1;
    let mut clients = clients(rows);
    let mine: Vec<_> = (0..5).map(datagram).collect();
    let common = &mine[0];
    let one = |clients: &mut Clients, row, datagram: &[u8]| {
        clients.admit(NOW, row, queued(datagram, "192.0.2.7"), |_| panic!("no copy from elsewhere"))
    };
    assert!(clients.waiting() == 0);
    assert!(mine[..3].iter().all(|datagram| one(&mut clients, 0, datagram).is_ok()));
    let half = u32::try_from(QUEUED / 2).unwrap();
    assert!((1..half - 3).all(|row| one(&mut clients, row, common).is_ok()));
    assert_eq!(
        (clients.waiting(), one(&mut clients, 0, &mine[3])),
        (QUEUED / 2 - 1, Ok(())),
        "one short of the half"
    );
    assert_eq!(one(&mut clients, 0, &mine[4]), Err(Reject::Quota), "from the half on");
    assert!(
        (half - 3..rows - 5).all(|row| one(&mut clients, row, common).is_ok()),
        "but others still have room"
    );
    assert_eq!((clients.waiting(), one(&mut clients, rows - 5, common)), (QUEUED - 1, Ok(())));
    assert_eq!(one(&mut clients, rows - 4, common), Err(Reject::Quota), "until all of it is full");
    assert!((0..QUEUED).all(|_| clients.waiting() > 0 && clients.next().is_some()));
    assert!(clients.waiting() == 0 && clients.next().is_none());
    assert_eq!(clients.most_seen(), 4, "they are remembered");
}

#[test]
fn packets_of_a_day_whose_tags_are_unknown_again_take_no_memory() {
    let mut clients = clients(1);
    let mut take = |number: u8, days_later: u32| {
        let day = Day::Number(NOON.day() + days_later);
        let knock = QueuedKnock { day, ..queued(&datagram(number), "192.0.2.7") };
        assert_eq!(clients.admit(NOW, 0, knock, |_| {}), Ok(()));
        clients.most_seen()
    };
    assert_eq!((take(1, 0), take(2, 0), take(3, 2)), (1, 2, 3));
    assert_eq!(take(4, 3), 2, "the first two are forgotten");
}

#[test]
fn a_used_packet_passes_from_no_source_whatever_it_asks_for() {
    let mut clients = clients(1);
    let take = |clients: &mut Clients, number: u8, source: &str| {
        let knock = queued(&datagram(number), source);
        let packet = knock.id();
        (clients.admit(NOW, 0, knock, |_| {}), packet)
    };
    let (first, packet) = take(&mut clients, 1, "192.0.2.7");
    assert_eq!(
        (first, take(&mut clients, 1, "192.0.2.8").0),
        (Ok(()), Ok(())),
        "either may be the client's own"
    );
    clients.mark_used(0, packet);
    assert_eq!(take(&mut clients, 1, "192.0.2.9").0, Err(Reject::SeenBefore));
    assert_eq!(take(&mut clients, 2, "192.0.2.9").0, Ok(()), "another packet passes");
}

#[test]
fn a_removed_client_takes_its_packets_with_it_and_leaves_its_row_to_the_next() {
    let mut clients = clients(3);
    let mine = datagram(1);
    for row in 0..3 {
        assert_eq!(clients.admit(NOW, row, queued(&mine, "192.0.2.7"), |_| {}), Ok(()));
    }
    assert!(
        clients.remove(1).is_some() && clients.remove(1).is_none() && clients.remove(9).is_none()
    );
    assert!(clients.get(1).is_none() && clients.waiting() == 2);
    let refused = clients.admit(NOW, 1, queued(&mine, "192.0.2.7"), |_| {});
    assert_eq!(refused, Err(Reject::UnknownTag));
    let turns: Vec<u32> = (0..3).filter_map(|_| clients.next()).map(|(row, _)| row).collect();
    assert_eq!(turns, [0, 2]);
    assert_eq!(clients.insert(known(CLIENT)), 1);
    assert_eq!(clients.admit(NOW, 1, queued(&mine, "192.0.2.7"), |_| {}), Ok(()), "its own packet");
}

#[test]
fn copies_are_useless_to_all_once_they_were_noticed_and_can_only_be_rejected() {
    let mut clients = clients(1);
    let take = |clients: &mut Clients, number: u8, source: &str| {
        let knock = queued(&datagram(number), source);
        let packet = knock.id();
        let taken = clients.admit(NOW, 0, knock, |_| {});
        (taken.is_ok(), clients.useless_copies(0, packet), packet)
    };
    let named = Source::new("192.0.2.7".parse().unwrap());
    // From the same source: after the eighth, but only if it is open.
    let (_, _, packet) = take(&mut clients, 1, "192.0.2.7");
    for _ in 0..20 {
        assert_eq!(take(&mut clients, 1, "192.0.2.7").1, None, "its queue may be long");
    }
    clients.set_requested(0, packet, named);
    assert_eq!(clients.useless_copies(0, packet), Some(UselessCopies { except: None }));
    let (_, _, packet) = take(&mut clients, 2, "192.0.2.7");
    clients.mark_used(0, packet);
    let seen: Vec<bool> = (0..8).map(|_| take(&mut clients, 2, "192.0.2.7").1.is_some()).collect();
    assert_eq!(seen, [false, false, false, false, false, false, false, true]);
    // From another: after its alarm, and not from the address that it names.
    let (_, _, packet) = take(&mut clients, 3, "192.0.2.66");
    clients.set_requested(0, packet, named);
    assert_eq!(clients.useless_copies(0, packet), None, "no copy has come");
    let except = Some(named);
    let (_, useless, _) = take(&mut clients, 3, "192.0.2.67");
    assert_eq!(useless, Some(UselessCopies { except }));
    assert!(take(&mut clients, 3, "192.0.2.7").0, "the client's own");
    clients.set_requested(0, packet, named);
    assert_eq!(clients.useless_copies(0, packet), Some(UselessCopies { except: None }));
}
