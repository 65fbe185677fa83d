use std::net::Ipv4Addr;

use super::*;
use crate::core::authentic;
use crate::core::keyring::Day;
use crate::core::knock::{BODY, Challenge, HandedKnock, Receipt, Status};
use crate::core::test_vectors::{self, NOON};
use crate::core::types::{SECOND, Wall};
use crate::core::wire::{AwaitingReceipt, ClientSide, seal, seal_body};

mod doors;
mod floods;
mod shared;
mod turns;

const PORT: u16 = 62201;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const ADMIN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);
const OUTSIDE: Arrival = Arrival { loopback: false };

fn id(number: u8) -> ClientId {
    ClientId([number; 16])
}

/// Row 0 is the client of the test vectors. The others have their own ids and the same SSH key.
fn setup(clients: u8) -> Setup {
    let mut ids = vec![test_vectors::CLIENT];
    ids.extend((1..clients).map(id));
    let rate = Rate { burst: 64, per_second: 4 };
    Setup {
        sealed: Some(SealedSetup { keys: test_vectors::gateway(), port: PORT, rate, shared: None }),
        clients: ids.into_iter().map(|id| known(id, NOON)).collect(),
        ..Setup::default()
    }
}

/// What the listener gets of this client on the day of `now`.
fn known(client: ClientId, now: Wall) -> KnownClient {
    KnownClient { client, keys: test_vectors::secrets(client).wire_row(now.day()) }
}

/// An engine and its clock.
struct Bench {
    engine: Engine,
    now: Now,
    entropy: u64,
}

impl Bench {
    fn new(setup: Setup) -> Self {
        let now = Now { wall: NOON, boot: Boot(1000 * SECOND) };
        let mut engine = Engine::new(setup);
        engine.set_addresses(vec![GATEWAY.into()], vec![GATEWAY.into()]);
        Self { engine, now, entropy: 0 }
    }

    fn wait(&mut self, nanos: u64) {
        self.now = Now { wall: Wall(self.now.wall.0 + nanos), boot: Boot(self.now.boot.0 + nanos) };
        self.engine.tick(self.now.boot);
    }

    /// A new knock of the client `side`.
    fn datagram_of(&mut self, side: &ClientSide) -> ([u8; DATAGRAM], AwaitingReceipt) {
        self.entropy += 1;
        let day = Day::Number(self.now.wall.day());
        let sign = |message: &_| Ok(authentic::sign(&test_vectors::seed(), message));
        let signed = test_vectors::request(Wall(self.now.wall.0 + self.entropy)).encode();
        let ephemeral = std::array::from_fn(|i| self.entropy.to_be_bytes()[i % 8]);
        seal(side, &signed, day, Secret::new(ephemeral), sign).unwrap()
    }

    fn datagram(&mut self) -> ([u8; DATAGRAM], AwaitingReceipt) {
        self.datagram_of(&test_vectors::side(test_vectors::CLIENT))
    }

    /// A packet of the first client that asks for the time.
    fn ask(&mut self) -> [u8; DATAGRAM] {
        self.entropy += 1;
        let ask = Request {
            receipt_wanted: true,
            timestamp: Wall(self.now.wall.0 + self.entropy),
            ..Request::bare(KnockKind::Time)
        };
        let mut secret = [0; 32];
        secret[..8].copy_from_slice(&self.entropy.to_be_bytes());
        test_vectors::datagram(&ask, secret).0
    }

    /// The actions after a datagram from `source`, before serving.
    fn take(&mut self, source: Ipv4Addr, datagram: &[u8]) -> Vec<Action> {
        let mut actions = Vec::new();
        let packet = packet(source, PORT, datagram);
        self.engine.packet(self.now, OUTSIDE, &packet, &mut actions);
        actions
    }

    fn serve(&mut self, budget: usize) -> Vec<Action> {
        let mut actions = Vec::new();
        self.engine.serve(self.now.boot, budget, &mut actions);
        actions
    }

    /// [`Bench::take`] and [`Bench::serve`].
    fn knock(&mut self, source: Ipv4Addr, datagram: &[u8]) -> Vec<Action> {
        let mut actions = self.take(source, datagram);
        actions.extend(self.serve(100));
        actions
    }

    fn verdict(
        &mut self, ticket: u64, spent: bool, receipt: Option<[u8; RECEIPT_BODY]>,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        self.engine.verdict(ticket, spent, receipt.as_ref(), Secret::new([99; 32]), &mut actions);
        actions
    }

    /// Issues `count` tickets for one knock that was never sent.
    fn issue(&mut self, count: usize) {
        let (datagram, _) = test_vectors::datagram(&test_vectors::request(NOON), [200; 32]);
        let source = Source::new(ADMIN.into());
        for _ in 0..count {
            let (_, reply) = test_vectors::open(&datagram, NOON).ok().unwrap().split();
            let ticket = OpenTicket {
                reply,
                row: 0,
                packet: 0,
                source,
                source_port: 1,
                destination: source,
            };
            self.engine.sealed.as_mut().unwrap().tickets.issue(self.now.boot, ticket);
        }
    }

    fn rejected(&self, reject: Reject) -> u64 {
        self.engine.counters().of(reject)
    }
}

fn packet(source: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    test_vectors::packet(source, GATEWAY, port, payload)
}

fn ticket(actions: &[Action]) -> Option<u64> {
    actions.iter().find_map(|action| match action {
        Action::Knock(knock) => Some(knock.ticket),
        _ => None,
    })
}

/// The numbers of the clients whose knocks are among `actions`: 0 for the one of the test vectors.
fn knocks(actions: &[Action]) -> Vec<u8> {
    let mut numbers = Vec::new();
    for action in actions {
        if let Action::Knock(knock) = action {
            let is_first = knock.client == test_vectors::CLIENT;
            numbers.push(if is_first { 0 } else { knock.client.0[0] });
        }
    }
    numbers
}

fn receipt(challenge: Option<Challenge>) -> Receipt {
    Receipt {
        status: Status::Clock,
        once: false,
        seconds: 0,
        time: NOON,
        working_day: NOON.day(),
        observed: test_vectors::address(),
        granted: None,
        span: crate::core::prefix::Span::HOST,
        ports: [None; 4],
        challenge,
        next_key: None,
        welcome: None,
    }
}

#[test]
fn a_knock_reaches_the_gatekeeper_and_its_receipt_goes_back_to_its_source() {
    let mut bench = Bench::new(setup(1));
    let (datagram, awaiting) = bench.datagram();
    let actions = bench.knock(ADMIN, &datagram);
    let [Action::Knock(knock)] = &actions[..] else { panic!("{actions:?}") };
    let source = Source::new(ADMIN.into());
    assert_eq!((knock.source, knock.source_port), (source, 40_000));
    assert!(test_vectors::verify(knock.clone()).is_ok());
    let receipt = receipt(Some([7; 16]));
    let body = test_vectors::receipt_body(&receipt, knock.day, &knock.h);
    let answered = bench.verdict(knock.ticket, true, Some(body));
    let [Action::Receipt { from, to, bytes }] = &answered[..] else { panic!("{answered:?}") };
    assert_eq!(
        (*from, *to),
        (SocketAddr::new(GATEWAY.into(), PORT), SocketAddr::new(ADMIN.into(), 40_000))
    );
    assert_eq!(awaiting.open(bytes), Some(receipt));
    assert_eq!(
        bench.verdict(knock.ticket, true, Some(body)),
        [],
        "a ticket is good for one receipt"
    );
}

#[test]
fn every_rejected_packet_is_counted_under_its_reason_and_does_nothing_else() {
    let mut bench = Bench::new(setup(2));
    let (good, _) = bench.datagram();
    let stranger = bench.datagram_of(&test_vectors::side(id(77))).0;
    let mut bad_mac = good;
    *bad_mac.last_mut().unwrap() ^= 1;
    let side = test_vectors::side(id(1));
    let clockless = side.secrets.wire(Day::Unknown).unwrap();
    let unsigned = seal_body(&side, &clockless, Secret::new([3; 32]), |_| [0; BODY]).unwrap();
    for (datagram, reason) in [
        (&good[1..], Reject::Length),
        (&[0x5a; DATAGRAM], Reject::UnknownTag),
        (&stranger, Reject::UnknownTag),
        (&bad_mac, Reject::ClientMac),
        (&unsigned, Reject::Syntax),
    ] {
        let before = bench.rejected(reason);
        assert_eq!(bench.knock(ADMIN, datagram), []);
        assert_eq!(bench.rejected(reason), before + 1, "{}", reason.name());
    }
    assert_eq!(bench.knock(Ipv4Addr::new(224, 0, 0, 1), &good), []);
    assert_eq!(bench.rejected(Reject::NotForUs), 1);
    assert_eq!(bench.engine.packets(), 6);
    assert_eq!(knocks(&bench.knock(ADMIN, &good)), [0], "the good one still passes");
}

#[test]
fn a_copy_from_the_same_source_is_rejected() {
    let mut bench = Bench::new(setup(1));
    let (datagram, _) = bench.datagram();
    assert_eq!(knocks(&bench.knock(ADMIN, &datagram)), [0]);
    assert_eq!(bench.knock(ADMIN, &datagram), []);
    assert_eq!(bench.rejected(Reject::SeenBefore), 1);
}

#[test]
fn a_used_packet_from_another_source_raises_one_alarm_and_goes_no_further() {
    let mut bench = Bench::new(setup(1));
    let (datagram, _) = bench.datagram();
    let ticket = ticket(&bench.knock(ADMIN, &datagram)).unwrap();
    bench.verdict(ticket, true, None);
    let [first, again] = [ADMIN, STRANGER].map(|ip| Source::new(ip.into()));
    assert_eq!(
        bench.knock(STRANGER, &datagram),
        [Action::Alarm { client: test_vectors::CLIENT, first, again }]
    );
    assert_eq!(bench.knock(Ipv4Addr::new(198, 51, 100, 67), &datagram), [], "one alarm a packet");
    assert_eq!(bench.rejected(Reject::SeenBefore), 2);
}

#[test]
fn an_attacker_who_is_faster_with_a_copy_does_not_shut_the_client_out() {
    let mut bench = Bench::new(setup(1));
    let (datagram, _) = bench.datagram();
    let early = ticket(&bench.knock(STRANGER, &datagram)).unwrap();
    // Refused for its address, without a used-knock mark.
    bench.verdict(early, false, None);
    let actions = bench.knock(ADMIN, &datagram);
    assert_eq!(knocks(&actions), [0]);
    let [first, again] = [STRANGER, ADMIN].map(|ip| Source::new(ip.into()));
    assert_eq!(actions[0], Action::Alarm { client: test_vectors::CLIENT, first, again });
    // Once the admin's own is used, no copy from any source is worth a curve operation.
    bench.verdict(ticket(&actions).unwrap(), true, None);
    for source in [STRANGER, ADMIN, Ipv4Addr::new(198, 51, 100, 67)] {
        assert_eq!(bench.knock(source, &datagram), []);
    }
}

#[test]
fn a_packet_over_its_clients_rate_is_not_remembered_and_passes_later() {
    let mut bench = Bench::new(setup(2));
    let datagrams: Vec<_> = (0..65).map(|_| bench.datagram().0).collect();
    for datagram in &datagrams {
        bench.take(ADMIN, datagram);
    }
    assert_eq!(bench.rejected(Reject::Quota), 1);
    assert_eq!(knocks(&bench.serve(100)).len(), 64, "a whole burst of 64 passes");
    let other = bench.datagram_of(&test_vectors::side(id(1))).0;
    assert_eq!(knocks(&bench.knock(ADMIN, &other)), [1], "another client is not affected");
    bench.wait(SECOND / 4 - 2);
    assert_eq!(bench.knock(ADMIN, &datagrams[64]), []);
    bench.wait(2);
    assert_eq!(knocks(&bench.knock(ADMIN, &datagrams[64])), [0], "the refused packet itself");
    assert_eq!((bench.rejected(Reject::Quota), bench.rejected(Reject::SeenBefore)), (2, 0));
}

#[test]
fn clients_are_served_in_turn_however_much_one_sends() {
    let mut bench = Bench::new(setup(4));
    for _ in 0..20 {
        let datagram = bench.datagram().0;
        bench.take(STRANGER, &datagram);
    }
    for number in [1, 2, 3, 3] {
        let datagram = bench.datagram_of(&test_vectors::side(id(number))).0;
        bench.take(ADMIN, &datagram);
    }
    assert_eq!(knocks(&bench.serve(6)), [0, 1, 2, 3, 0, 3]);
    assert!(bench.engine.serve(bench.now.boot, 1, &mut Vec::new()), "more are waiting");
    assert_eq!(knocks(&bench.serve(100)), vec![0; 17]);
    assert!(!bench.engine.serve(bench.now.boot, 1, &mut Vec::new()));
}

#[test]
fn a_ticket_ends_after_ten_seconds() {
    let mut bench = Bench::new(setup(1));
    let datagrams = [bench.datagram(), bench.datagram()];
    let first = ticket(&bench.knock(ADMIN, &datagrams[0].0)).unwrap();
    assert_eq!(bench.engine.deadline(), Some(bench.now.boot.plus(10)));
    bench.wait(5 * SECOND);
    let second = ticket(&bench.knock(ADMIN, &datagrams[1].0)).unwrap();
    bench.wait(5 * SECOND);
    assert_eq!(bench.verdict(first, true, Some([0; RECEIPT_BODY])), []);
    assert_eq!(bench.verdict(second, true, Some([0; RECEIPT_BODY])).len(), 1);
    assert_eq!(bench.engine.deadline(), None);
    for unknown in [0, 3, u64::MAX] {
        assert_eq!(bench.verdict(unknown, true, Some([0; RECEIPT_BODY])), []);
    }
}

#[test]
fn while_all_tickets_are_out_knocks_wait_and_are_not_lost() {
    let mut bench = Bench::new(setup(1));
    bench.issue(TICKETS);
    let fresh = bench.datagram().0;
    assert_eq!(bench.knock(ADMIN, &fresh), []);
    bench.verdict(1, false, None);
    assert_eq!(knocks(&bench.serve(10)), [0]);
}

#[test]
fn a_client_gets_the_keys_of_each_new_day() {
    let mut bench = Bench::new(setup(2));
    let old = bench.datagram().0;
    for _ in 0..5 {
        bench.wait(86_400 * SECOND);
        // Tomorrow's keys are there before the gatekeeper hands over those of the new day.
        let early = bench.datagram().0;
        assert_eq!(knocks(&bench.knock(ADMIN, &early)), [0]);
        let waiting = bench.datagram().0;
        bench.take(ADMIN, &waiting);
        bench.engine.enrol(known(test_vectors::CLIENT, bench.now.wall));
        assert_eq!(knocks(&bench.serve(9)), [0], "a knock that waits is opened all the same");
        assert_eq!(bench.knock(ADMIN, &early), [], "and what was seen stays remembered");
        assert_eq!(bench.rejected(Reject::SeenBefore), 1);
        bench.engine.counters = Counters::default();
    }
    let late = bench.datagram_of(&test_vectors::side(id(1))).0;
    assert_eq!(bench.knock(ADMIN, &late), [], "the other client was never told");
    assert_eq!(bench.knock(ADMIN, &old), []);
    assert_eq!(bench.rejected(Reject::UnknownTag), 2, "no tag of an old day stays in the table");
}

#[test]
fn who_has_the_keys_that_never_change_cannot_use_up_a_clients_rate() {
    let mut bench = Bench::new(setup(1));
    let asks: Vec<_> = (0..20).map(|_| bench.ask()).collect();
    for ask in &asks {
        bench.take(ADMIN, ask);
    }
    assert_eq!((bench.serve(100).len(), bench.rejected(Reject::Quota)), (16, 4));
    for _ in 0..64 {
        let datagram = bench.datagram().0;
        bench.take(ADMIN, &datagram);
    }
    assert_eq!((bench.serve(100).len(), bench.rejected(Reject::Quota)), (64, 4));
    bench.wait(10 * SECOND);
    let actions: usize = asks[16..].iter().map(|ask| bench.knock(ADMIN, ask).len()).sum();
    assert_eq!(actions, 1, "one in ten seconds");
}

#[test]
fn knocks_that_were_merged_into_one_packet_are_each_handed_over() {
    let mut bench = Bench::new(setup(2));
    let first = bench.datagram().0;
    let second = bench.datagram_of(&test_vectors::side(id(1))).0;
    let third = bench.datagram().0;
    let merged = [first, second, third].concat();
    assert_eq!(knocks(&bench.knock(ADMIN, &merged)), [0, 1, 0]);
    assert_eq!(bench.engine.packets(), 3);
    // One wrong datagram among them costs only itself.
    let merged = [[9; DATAGRAM], bench.datagram().0].concat();
    assert_eq!(knocks(&bench.knock(ADMIN, &merged)), [0]);
    assert_eq!(bench.rejected(Reject::UnknownTag), 1);
    for cut in [1, DATAGRAM - 1] {
        assert!(bench.knock(ADMIN, &merged[..merged.len() - cut]).is_empty());
    }
    assert_eq!(bench.rejected(Reject::Length), 2);
}

#[test]
fn merged_knocks_may_carry_the_checksum_of_the_first_of_them() {
    let mut bench = Bench::new(setup(1));
    let datagrams = [bench.datagram().0, bench.datagram().0];
    let mut merged = packet(ADMIN, PORT, &datagrams.concat());
    let first = packet(ADMIN, PORT, &datagrams[0]);
    merged[26..28].copy_from_slice(&first[26..28]);
    let mut actions = Vec::new();
    bench.engine.packet(bench.now, OUTSIDE, &merged, &mut actions);
    actions.extend(bench.serve(9));
    assert_eq!(knocks(&actions), [0, 0]);
    merged[27] ^= 1;
    bench.engine.packet(bench.now, OUTSIDE, &merged, &mut actions);
    assert_eq!(bench.rejected(Reject::Checksum), 1);
}

#[test]
fn knocks_to_an_address_that_is_no_longer_ours_are_rejected() {
    let mut bench = Bench::new(setup(1));
    let datagram = bench.datagram().0;
    bench.engine.set_addresses(Vec::new(), vec![GATEWAY.into()]);
    assert_eq!(bench.knock(ADMIN, &datagram), []);
    assert_eq!(bench.rejected(Reject::NotForUs), 1);
    bench.engine.set_addresses(vec![GATEWAY.into()], Vec::new());
    assert_eq!(knocks(&bench.knock(ADMIN, &datagram)), [0]);
}

#[test]
fn an_engine_without_clients_and_doors_only_counts() {
    let mut bench = Bench::new(Setup::default());
    let (datagram, _) = test_vectors::datagram(&test_vectors::request(NOON), [1; 32]);
    assert_eq!(bench.knock(ADMIN, &datagram), []);
    assert_eq!((bench.engine.packets(), bench.rejected(Reject::NotForUs)), (1, 1));
    assert_eq!(bench.verdict(1, true, None), []);
}

#[test]
fn clients_come_and_go_while_the_engine_runs() {
    let mut bench = Bench::new(setup(1));
    let newcomer = test_vectors::side(id(5));
    let early = bench.datagram_of(&newcomer).0;
    assert_eq!(bench.knock(ADMIN, &early), []);
    bench.engine.enrol(known(id(5), NOON));
    assert_eq!(knocks(&bench.knock(ADMIN, &early)), [5]);
    // The same client again: its packets stay remembered.
    bench.engine.enrol(known(id(5), NOON));
    assert_eq!(bench.knock(ADMIN, &early), []);
    assert_eq!(bench.rejected(Reject::SeenBefore), 1);
    // Tomorrow's tags are known too, and are gone afterwards.
    bench.wait(86_400 * SECOND);
    let waiting = bench.datagram_of(&newcomer).0;
    bench.take(ADMIN, &waiting);
    let tag = newcomer.secrets.wire(Day::Unknown).unwrap().tag();
    bench.engine.forget(&tag);
    bench.engine.forget(&tag);
    assert_eq!(bench.serve(10), [], "its knock that waited is dropped");
    let late = bench.datagram_of(&newcomer).0;
    assert_eq!(bench.knock(ADMIN, &late), []);
    assert_eq!(bench.rejected(Reject::UnknownTag), 3, "the one that waited counts too");
    let own = bench.datagram().0;
    assert_eq!(knocks(&bench.knock(ADMIN, &own)), [0], "others are not affected");
}
