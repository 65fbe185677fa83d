//! The operations that are counted, each a function of its own. Keys, packets and times are fixed.

use std::hint::black_box;
use std::net::Ipv4Addr;

use toctoc::config::defaults;
use toctoc::core::authentic::Authentic;
use toctoc::core::clients::ClientTable;
use toctoc::core::door::{Step, TcpFlags};
use toctoc::core::engine::{Action, Engine, KnownClient, SealedSetup, Setup};
use toctoc::core::grants::{Change, Element, Grants};
use toctoc::core::knock::HandedKnock;
use toctoc::core::ledger::Ledger;
use toctoc::core::packet::Arrival;
use toctoc::core::policy::{Committed, Decision, Policy, commit};
use toctoc::core::public_key::PublicKey;
use toctoc::core::quota::Rate;
use toctoc::core::replay::{Replay, StateOrigin, Window};
use toctoc::core::sequence::{DoorSpec, Ipv6, MachineRules, Target};
use toctoc::core::service::{GrantKind, ServicePorts};
use toctoc::core::test_vectors::{self, NOON};
use toctoc::core::types::{
    Boot, ClientId, Now, PortRange, Reject, SECOND, ServiceName, Source, Wall,
};
use toctoc::edge::firewall::{self, Firewall, GuardRules};
use toctoc::edge::state::State;
use toctoc::keys::authorized;

/// In the order of the table.
pub(crate) const OPERATIONS: [&str; 9] = [
    "unmask_and_look_up",
    "check_mac",
    "open_noise",
    "verify_signature",
    "step_of_a_sequence",
    "commit_a_grant",
    "add_by_netlink",
    "read_10000_clients",
    "know_a_client",
];

const TIMES: u8 = 20;
const NOW: Now = Now { wall: NOON, boot: Boot(1000 * SECOND) };
const PORT: u16 = 62201;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const OUTSIDE: Arrival = Arrival { loopback: false };

pub(crate) fn run() {
    let mut engine = engine();
    let mut handed = Vec::new();
    for number in 0..TIMES {
        let nth = u64::from(number) + 1;
        assert_eq!(unmask_and_look_up(&mut engine, &junk(number)), nth);
        assert_eq!(check_mac(&mut engine, &flipped(number)), nth);
        assert_eq!(step_of_a_sequence(&mut engine, &first_step(number)), nth);
        arrive(&mut engine, &knock(number), &mut Vec::new());
        handed.push(open_noise(&mut engine));
    }
    let authentic: Vec<Authentic> = handed.into_iter().map(verify_signature).collect();
    commit_all(authentic);
    add_all_by_netlink();
    read_all_clients();
}

fn engine() -> Engine {
    let door = DoorSpec {
        sequence: [7000, 8000, 9000].map(Step::tcp).to_vec(),
        seq_timeout: 5,
        flags: TcpFlags { set: 2, unset: 0 },
        target: Target::Own,
        one_time: false,
        tolerate_duplicates: false,
        own: true,
        pause_after: 0,
    };
    let rate = Rate { burst: 64, per_second: 4 };
    let mut engine = Engine::new(Setup {
        sealed: Some(SealedSetup { keys: test_vectors::gateway(), port: PORT, rate, shared: None }),
        clients: vec![KnownClient {
            client: test_vectors::CLIENT,
            keys: test_vectors::wire_row(NOON),
        }],
        doors: vec![door],
        rules: MachineRules { own: vec![GATEWAY.into()], ipv6: Ipv6::Counts, debug: false },
    });
    engine.set_addresses(vec![GATEWAY.into()], vec![GATEWAY.into()]);
    engine
}

/// A packet of the right length that no client made.
fn junk(number: u8) -> Vec<u8> {
    let bytes: [u8; 272] = std::array::from_fn(|at| number.wrapping_mul(31).wrapping_add(at as u8));
    test_vectors::packet(CLIENT, GATEWAY, PORT, &bytes)
}

fn datagram(number: u8) -> [u8; 272] {
    let request = test_vectors::request(Wall(NOON.0 + u64::from(number)));
    test_vectors::datagram(&request, [number + 1; 32]).0
}

/// A client's knock with another last byte.
fn flipped(number: u8) -> Vec<u8> {
    let mut bytes = datagram(number);
    bytes[271] ^= 1;
    test_vectors::packet(CLIENT, GATEWAY, PORT, &bytes)
}

fn knock(number: u8) -> Vec<u8> {
    test_vectors::packet(CLIENT, GATEWAY, PORT, &datagram(number))
}

/// The first SYN of the door, from a source of its own.
fn first_step(number: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 198, 51, 100, number];
    packet.extend(GATEWAY.octets());
    packet
        .extend([0x9c, 0x40, 0x1b, 0x58, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    packet
}

fn arrive(engine: &mut Engine, packet: &[u8], actions: &mut Vec<Action>) {
    engine.packet(NOW, OUTSIDE, black_box(packet), actions);
}

/// Returns how many packets have had no known tag.
#[inline(never)]
fn unmask_and_look_up(engine: &mut Engine, packet: &[u8]) -> u64 {
    arrive(engine, packet, &mut Vec::new());
    engine.counters().of(Reject::UnknownTag)
}

/// With the mask and the look-up before it. Returns how many packets have had a wrong MAC.
#[inline(never)]
fn check_mac(engine: &mut Engine, packet: &[u8]) -> u64 {
    arrive(engine, packet, &mut Vec::new());
    engine.counters().of(Reject::ClientMac)
}

/// Returns how many packets a door has seen.
#[inline(never)]
fn step_of_a_sequence(engine: &mut Engine, packet: &[u8]) -> u64 {
    arrive(engine, packet, &mut Vec::new());
    engine.door_packets()
}

#[inline(never)]
fn open_noise(engine: &mut Engine) -> HandedKnock {
    let mut actions = Vec::new();
    engine.serve(NOW.boot, 1, &mut actions);
    match actions.pop() {
        Some(Action::Knock(handed)) => handed,
        other => panic!("the knock must be handed over: {other:?}"),
    }
}

#[inline(never)]
fn verify_signature(knock: HandedKnock) -> Authentic {
    test_vectors::verify(black_box(knock)).expect("the client made it")
}

fn ssh() -> ServiceName {
    ServiceName::new("ssh").expect("a name")
}

fn commit_all(knocks: Vec<Authentic>) {
    let folder = tempfile::tempdir().expect("a directory");
    let (mut state, _) = State::open(folder.path(), NOON, true, false).expect("a new state");
    let ports = ServicePorts::Listed(vec![PortRange::read("22/tcp").expect("a port")]);
    let services = vec![defaults::service(ssh(), ports)];
    let clients = vec![test_vectors::client()];
    let policy = Policy::new(services, clients, 64, [Source::new(GATEWAY.into())]);
    let window = Window { max_age: 30, max_ahead: 10 };
    let ledger = Ledger::default();
    let before = Now { wall: Wall(NOON.0 - 60 * SECOND), boot: Boot(940 * SECOND) };
    let mut replay = Replay::restore(window, before, &ledger, StateOrigin::First);
    let mut grants = Grants::restore(before, &ledger);
    for knock in knocks {
        let decision = policy.decide(NOW, knock, &mut replay, &mut grants, [7; 16]);
        assert!(
            matches!(decision, Decision::Admit(_)),
            "it must be granted: {:?}",
            decision.reject()
        );
        for done in commit_a_grant(decision, &mut state) {
            let Committed::Open(grant) = done else { panic!("a grant") };
            grants.open(NOW, grant);
        }
    }
}

#[inline(never)]
fn commit_a_grant(decision: Decision, state: &mut State) -> Vec<Committed> {
    commit(vec![decision], |records| state.commit(records)).expect("a disk")
}

/// Loads a guard into this namespace, which is one of its own.
fn add_all_by_netlink() {
    let mut settings = defaults::settings();
    let ports = ServicePorts::Listed(vec![PortRange::read("22/tcp").expect("a port")]);
    settings.services = vec![defaults::service(ssh(), ports)];
    let mut started = firewall::start(&GuardRules::of(&settings)).expect("a namespace of our own");
    for number in 0..TIMES {
        let source = Source::new(Ipv4Addr::new(198, 51, 100, number).into());
        let element = Element::plain(ssh(), source, GrantKind::Time);
        add_by_netlink(&mut started.link, Change::Set { element, millis: 30_000 });
        assert!(started.link.remaining(&element).expect("a kernel").is_some(), "it is there");
    }
    firewall::unload(&GuardRules::of(&settings)).expect_err("we keep the guard");
}

#[inline(never)]
fn add_by_netlink(link: &mut impl Firewall, change: Change) {
    link.apply(black_box(&[change])).expect("the guard is loaded");
}

fn read_all_clients() {
    let mut text = String::new();
    for number in 0u32..10_000 {
        let mut key = [7; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        let id = ClientId(*key.first_chunk().expect("32 bytes"));
        let key = PublicKey::plain(key).line();
        text += &format!("id={id},services=\"ssh\" {key} client{number}\n");
    }
    let clients = read_10000_clients(&text);
    assert_eq!(clients.len(), 10_000);
    for client in clients.iter().take(100) {
        black_box(know_a_client(client.id));
    }
}

/// What this thread does of it: another one reads the second half.
#[inline(never)]
fn read_10000_clients(text: &str) -> ClientTable {
    let before = ClientTable::default();
    authorized::read("clients", black_box(text), &before, &|_| None).expect("a clients file")
}

/// Its keys of the day and their tags, as at each start.
#[inline(never)]
fn know_a_client(client: ClientId) -> usize {
    let row = test_vectors::secrets(client).wire_row(NOON.day());
    row.tags().into_iter().flatten().count()
}
