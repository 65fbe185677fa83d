//! The core of a whole gateway, with any events in any order: nothing is granted without a fresh
//! signature of an enrolled client, and no packet twice, also over restarts, failed commits and
//! clock jumps. Of the keys that ask to join by an invitation one at most gets in, see `joins`. No
//! table exceeds its limit, and nothing panics.
//!
//! The input is a list of events of four bytes. Packets are real: sealed, parsed, opened, verified.

#![no_main]

#[path = "../parts/joins.rs"]
mod joins;

use libfuzzer_sys::fuzz_target;
use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock};
use toctoc::core::authentic::{self, Authentic};
use toctoc::core::engine::{Action, Engine, KnownClient, SealedSetup, Setup};
use toctoc::core::grants::{ActiveGrant, GrantEnd, Grants};
use toctoc::core::joining::Invited;
use toctoc::core::keyring::{Day, Secret};
use toctoc::core::knock::{
    Challenge, HandedKnock, KnockKind, Request, SIGNED, Signature, encode_body,
};
use toctoc::core::ledger::Ledger;
use toctoc::core::packet::Arrival;
use toctoc::core::policy::{Committed, Decision, Policy, commit};
use toctoc::core::prefix::{Span, Spans};
use toctoc::core::public_key::PublicKey;
use toctoc::core::quota::Rate;
use toctoc::core::record::Record;
use toctoc::core::replay::{Replay, StateOrigin, Window};
use toctoc::core::service::{Client, DisconnectPolicy, GrantKind, Mode, Service, SourceRule};
use toctoc::core::test_vectors::{self, NOON};
use toctoc::core::types::{
    Boot, ClientId, Fault, Now, Port, Proto, SECOND, ServiceName, Source, Wall,
};
use toctoc::core::wire::{ClientSide, DATAGRAM, seal, seal_body};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const PORT: u16 = 62201;
const WINDOW: Window = Window { max_age: 30, max_ahead: 10 };
/// The number of grants that a client may have at once.
const MAX_GRANTS: u32 = 3;
const OUTSIDE: Arrival = Arrival { loopback: false };

/// The enrolled clients: the published test client, and one with another key.
static CLIENTS: LazyLock<[Client; 2]> = LazyLock::new(|| {
    let key = authentic::public_key(&seed(1));
    let services: Arc<[ServiceName]> = [name("ssh"), name("rdp")].into();
    let other =
        Client { id: ClientId([2; 16]), key: PublicKey::plain(key), ..test_vectors::client() };
    [Client { services: services.clone(), ..test_vectors::client() }, Client { services, ..other }]
});

/// The keys that each client has of the gateway.
static SIDES: LazyLock<[ClientSide; 2]> =
    LazyLock::new(|| [test_vectors::side(CLIENTS[0].id), test_vectors::side(CLIENTS[1].id)]);

/// The seed of a key that belongs to no client.
fn seed_of(number: usize) -> Secret<32> {
    Secret::new([u8::try_from(number).expect("few"); 32])
}

fn seed(client: usize) -> Secret<32> {
    if client == 0 { test_vectors::seed() } else { Secret::new([0x42; 32]) }
}

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).expect("a name")
}

fn services() -> Vec<Service> {
    let service = |text, number, form, source, challenge, cut| Service {
        name: name(text),
        ports: [Port { proto: Proto::Tcp, number }][..].into(),
        commands: None,
        form,
        seconds: 20,
        max_seconds: 60,
        max_grants: 4,
        source,
        challenge,
        mode: Mode::Guard,
        spans: Spans {
            v4: Span::of_prefix(24, false).expect("a length"),
            v6: Span::of_prefix(64, true).expect("a length"),
        },
        forward: None,
        cut,
    };
    vec![
        service("ssh", 22, GrantKind::Time, SourceRule::Bound, false, DisconnectPolicy::Closed),
        service("rdp", 3389, GrantKind::Once, SourceRule::Observed, true, DisconnectPolicy::Never),
    ]
}

/// A packet that a client made.
#[derive(Clone)]
struct MadePacket {
    datagram: [u8; DATAGRAM],
    request: Request,
}

struct World {
    now: Now,
    engine: Engine,
    policy: Policy,
    replay: Replay,
    grants: Grants,
    /// The day whose keys the engine has.
    handed_day: u32,
    /// Which of the clients are enrolled; at first both.
    enrolled: [bool; 2],
    /// The records on the disk.
    journal: Vec<Record>,
    commit_fails: bool,
    made: Vec<MadePacket>,
    /// Requests that a client really signed, and those that were accepted.
    signed: HashSet<(ClientId, [u8; SIGNED])>,
    accepted: HashSet<(ClientId, [u8; SIGNED])>,
    joins: joins::Joins,
    /// Open challenges, with the client and source that got them.
    challenges: BTreeMap<Challenge, (ClientId, Source)>,
    /// All challenges so far, oldest first: clients use old ones too.
    given: Vec<(Challenge, (ClientId, Source))>,
    /// True after a burst. It is many curve operations, so an input gets at most one, and few
    /// inputs do.
    burst: bool,
    counter: u64,
}

fuzz_target!(|input: &[u8]| {
    let mut world = World::new();
    for event in input.chunks_exact(4).take(64) {
        world.event(event[0], event[1], event[2], event[3]);
        world.check();
    }
});

impl World {
    fn new() -> World {
        let now = Now { wall: NOON, boot: Boot(5000 * SECOND) };
        let joins = joins::Joins::new();
        let mut world = World {
            now,
            engine: engine(now, [true; 2], &joins),
            policy: policy([true; 2], &joins.rows),
            replay: Replay::restore(WINDOW, now, &Ledger::default(), StateOrigin::First),
            grants: Grants::default(),
            handed_day: now.wall.day(),
            enrolled: [true; 2],
            journal: Vec::new(),
            commit_fails: false,
            made: Vec::new(),
            signed: HashSet::new(),
            accepted: HashSet::new(),
            joins,
            challenges: BTreeMap::new(),
            given: Vec::new(),
            burst: false,
            counter: 0,
        };
        world.engine.set_addresses(vec![GATEWAY.into()], vec![]);
        world
    }

    fn event(&mut self, what: u8, a: u8, b: u8, c: u8) {
        match what % 16 {
            0 | 1 => self.knock(a, b, c),
            2 | 3 => self.replay_one(a, source(c)),
            4 => self.mutated(a, b, c),
            5 => self.forged(a, b),
            6 => self.pass(u64::from(a) * u64::from(a) * SECOND / 8),
            7 => {
                let by = (u64::from(b) << (c % 24)) * SECOND;
                let wall = self.now.wall.0;
                self.now.wall = Wall(if a % 2 == 0 {
                    wall.saturating_add(by)
                } else {
                    wall.saturating_sub(by)
                });
                self.pass(0);
            }
            8 => self.restart(a % 2 == 0),
            9 => self.commit_fails = true,
            10 => self.enrol(usize::from(a % 2), b % 2 == 0),
            11 if a < 2 && !std::mem::replace(&mut self.burst, true) => {
                (0..70).for_each(|_| self.knock(6 | a, 0, c))
            }
            11 => self.knock(a, b, c),
            13 | 14 => self.ask_to_join(a, b, c),
            15 => self.edit_joined(a, b),
            _ => {
                let records = self.replay.reinitialise(self.now);
                self.journal.extend(records);
            }
        }
    }

    fn pass(&mut self, nanos: u64) {
        self.now = Now {
            wall: Wall(self.now.wall.0.saturating_add(nanos)),
            boot: self.now.boot.plus_nanos(nanos),
        };
        self.engine.tick(self.now.boot);
        if self.handed_day != self.now.wall.day() {
            self.handed_day = self.now.wall.day();
            for (client, enrolled) in CLIENTS.iter().zip(self.enrolled) {
                if enrolled {
                    self.hand_over(client.id);
                }
            }
        }
        self.replay.challenge_reason(self.now);
        self.grants.expire(self.now);
        let beat = self.replay.heartbeat(self.now, 60);
        self.journal.extend(beat);
    }

    /// Gives the engine the keys of the client's working day.
    fn hand_over(&mut self, id: ClientId) {
        self.engine.enrol(known(id, self.working_day(id)));
    }

    fn working_day(&self, id: ClientId) -> u32 {
        self.replay.working_day(self.now, id, first_day())
    }

    /// Sends what a client would: mostly correct, from the source that it names.
    fn knock(&mut self, a: u8, b: u8, c: u8) {
        let client = usize::from(a & 1);
        self.counter += 1;
        let kind = [KnockKind::Open, KnockKind::Open, KnockKind::Close, KnockKind::Probe]
            [usize::from(a >> 1 & 3)];
        let from = source(c);
        let off = [0, 0, 5, 25, 45, 3600, 100_000, 31_536_000][usize::from(b & 7)] * SECOND;
        let wall = if b & 8 == 0 {
            self.now.wall.0.saturating_sub(off)
        } else {
            self.now.wall.0.saturating_add(off)
        };
        let id = CLIENTS[client].id;
        let own = self.given.iter().rev().find(|(_, to)| *to == (id, from)).or(self.given.last());
        let challenge = own.filter(|_| b & 16 != 0).map(|(challenge, _)| *challenge);
        let timestamp = Wall(wall.saturating_add(self.counter));
        let mut request = Request {
            kind,
            receipt_wanted: true,
            timestamp,
            challenge,
            address: [Some(from), Some(from), None, Some(source(c ^ 1))][usize::from(b >> 5 & 3)],
            source_port: 0,
            seconds: u32::from(a >> 4) * 9,
            service: if kind == KnockKind::Probe {
                ServiceName::NONE
            } else {
                name(if a & 8 == 0 { "ssh" } else { "rdp" })
            },
            first_day: 0,
        };
        let mut day = Day::Number(self.now.wall.day().max(first_day()));
        if b & 128 != 0 {
            request = Request {
                receipt_wanted: true,
                timestamp,
                first_day: first_day() + 32 * u32::from(a >> 4),
                ..Request::bare(KnockKind::Time)
            };
            day = Day::Unknown;
        }
        let sign = |message: &authentic::Message| Ok(authentic::sign(&seed(client), message));
        let ephemeral = Secret::new(entropy(self.counter));
        let made = seal(&SIDES[client], &request.encode(), day, ephemeral, sign);
        let (datagram, _) = made.expect("the test gateway's key is valid");
        self.signed.insert((id, request.encode()));
        self.made.push(MadePacket { datagram, request });
        self.deliver(&datagram, from);
    }

    fn replay_one(&mut self, which: u8, from: Source) {
        // 0 is the newest.
        let Some(place) =
            self.made.len().checked_sub(1 + usize::from(which) % self.made.len().max(1))
        else {
            return;
        };
        let datagram = self.made[place].datagram;
        self.deliver(&datagram, from);
    }

    fn mutated(&mut self, which: u8, at: u8, change: u8) {
        let Some(made) = self.made.get(usize::from(which) % self.made.len().max(1)).cloned() else {
            return;
        };
        let mut datagram = made.datagram;
        datagram[(usize::from(at) + usize::from(change & 16)) % DATAGRAM] ^= change | 1;
        let before = self.accepted.len();
        self.deliver(&datagram, made.request.address.unwrap_or(source(0)));
        assert_eq!(self.accepted.len(), before, "a changed packet was accepted");
    }

    /// Sends what an attacker can make who has the gateway's keys, and of a client either all but
    /// its signature key, or that one and its wire keys, but not its gate key.
    fn forged(&mut self, a: u8, b: u8) {
        self.counter += 1;
        let (client, other) = (usize::from(a & 1), usize::from(!a & 1));
        let request = Request {
            timestamp: Wall(self.now.wall.0.saturating_add(self.counter)),
            address: Some(source(b)),
            ..test_vectors::request(self.now.wall)
        };
        let side = &SIDES[client];
        let day = Day::Number(self.now.wall.day().max(first_day()));
        let key = Secret::new(entropy(self.counter));
        let signed = request.encode();
        let wire = side.secrets.wire(day).expect("not before the first day");
        let gate_of = |client: usize| SIDES[client].secrets.gate(day).expect("the same day");
        let body = |h: &[u8; 32]| {
            let message = authentic::message(side.gateway, h, &signed);
            let (signature, gate) = match a >> 1 & 3 {
                0 => (Signature { ed25519: [b; 64], sk_flags: 0, sk_counter: 0 }, gate_of(client)),
                1 => (authentic::sign(&seed(other), &message), gate_of(client)),
                _ => (authentic::sign(&seed(client), &message), gate_of(other)),
            };
            encode_body(&signed, &signature, &gate, side.gateway, h)
        };
        let datagram = seal_body(side, &wire, key, body).expect("valid keys");
        let before = self.accepted.len();
        self.deliver(&datagram, source(b));
        assert_eq!(self.accepted.len(), before, "a forged packet was accepted");
    }

    fn deliver(&mut self, datagram: &[u8; DATAGRAM], from: Source) {
        let mut actions = Vec::new();
        self.engine.packet(self.now, OUTSIDE, &packet(from, datagram), &mut actions);
        self.engine.serve(self.now.boot, 64, &mut actions);
        for action in actions {
            if let Action::Knock(knock) = action {
                let ticket = knock.ticket;
                let spent = self.decide(knock);
                self.engine.verdict(ticket, spent, None, Secret::new([9; 32]), &mut Vec::new());
            }
        }
    }

    /// Decides as the gatekeeper does. Returns true if the packet is used up.
    fn decide(&mut self, knock: HandedKnock) -> bool {
        let from = knock.source;
        let sender = knock.client;
        if self.policy.is_invitation(self.replay.latest(self.now), sender) {
            self.counter += 1;
            let fresh = *entropy(self.counter).first_chunk().expect("32 bytes");
            return self.decide_join(&knock, fresh);
        }
        let Some(client) = self.policy.client(self.replay.latest(self.now), sender) else {
            return false;
        };
        if let Day::Number(day) = knock.day
            && day.abs_diff(self.working_day(sender)) > 1
        {
            return false;
        }
        let Some(gate) = test_vectors::secrets(sender).gate(knock.day) else { return false };
        let gateway = test_vectors::gateway().gateway;
        let Ok(authentic) = Authentic::verify(knock, client, gateway, &gate) else {
            return false;
        };
        let request = *authentic.request();
        let key = (sender, request.encode());
        assert!(self.signed.contains(&key), "authentic although no client signed it");
        self.counter += 1;
        let mut fresh = [0; 16];
        fresh.copy_from_slice(&entropy(self.counter)[..16]);
        let distrusted = self.replay.challenge_reason(self.now).is_some();
        let decision =
            self.policy.decide(self.now, authentic, &mut self.replay, &mut self.grants, fresh);
        if let Decision::Refuse(refused) = decision {
            return refused.reject == toctoc::core::types::Reject::Replayed;
        }
        let fails = std::mem::take(&mut self.commit_fails);
        // After a failed sync it is unknown if the disk has the records.
        let written = self.counter.is_multiple_of(2);
        let journal = &mut self.journal;
        let done = commit(vec![decision], |records| {
            if !fails || written {
                journal.extend_from_slice(records);
            }
            if fails { Err(Fault::new("the disk failed", "")) } else { Ok(()) }
        });
        let Ok(done) = done else {
            self.grants.give_up();
            self.restart(true);
            return true;
        };
        for done in done {
            let answer = match done {
                Committed::Open(grant) => {
                    self.accept(key, &request, from, distrusted);
                    let (_, answer) = self.grants.open(self.now, grant);
                    let live = answer.granted.expect("an open has a grant");
                    assert_eq!(
                        (live.key.source, live.key.service),
                        (live.key.span.of(from), request.service),
                        "granted to another client"
                    );
                    assert!(live.seconds_left(self.now) <= 60, "longer than the service allows");
                    answer
                }
                Committed::Close(keys, how, answer) => {
                    self.accept(key, &request, from, distrusted);
                    self.grants.end(self.now, &keys, how);
                    answer
                }
                Committed::Tell(answer) => answer,
                Committed::Join(_) => panic!("a client joins"),
            };
            if let Some(challenge) = answer.challenge {
                self.challenges.insert(challenge, (sender, from));
                self.given.push((challenge, (sender, from)));
            }
            return answer.status != toctoc::core::knock::Status::Address;
        }
        false
    }

    fn accept(
        &mut self, key: (ClientId, [u8; SIGNED]), request: &Request, from: Source, distrusted: bool,
    ) {
        assert!(self.accepted.insert(key), "accepted twice: {request:?}");
        match request.challenge {
            Some(challenge) => {
                assert_eq!(
                    self.challenges.remove(&challenge),
                    Some((key.0, from)),
                    "a challenge of another client"
                );
            }
            None => {
                assert!(!distrusted, "accepted by a distrusted clock");
                let age = self.now.wall.since(request.timestamp);
                assert!(
                    (-10_000_000_000..=30_000_000_000).contains(&age),
                    "accepted at the age of {age} ns"
                );
                assert_ne!(request.service, name("rdp"), "that service requires a challenge");
            }
        }
        if request.kind == KnockKind::Open {
            assert!(
                request.address.is_none_or(|named| named == from),
                "granted for another address than the named one"
            );
            assert!(
                request.address.is_some() || request.service == name("rdp"),
                "a bound service without an address"
            );
        }
    }

    /// Restarts from the records on the disk. After a reboot the boot clock starts again.
    fn restart(&mut self, same_boot: bool) {
        let mut bytes = Vec::new();
        for record in Ledger::of(&self.journal).records() {
            record.encode(&mut bytes).expect("a record that was written before");
        }
        let mut reader = toctoc::core::bytes::Reader::new(&bytes);
        self.journal = std::iter::from_fn(|| Record::decode(&mut reader)).collect();
        assert!(reader.rest().is_empty(), "a written record cannot be read");
        if !same_boot {
            self.now.boot = Boot(30 * SECOND);
        }
        let ledger = Ledger::of(&self.journal);
        self.replay = Replay::restore(WINDOW, self.now, &ledger, StateOrigin::Found);
        self.grants = Grants::restore(self.now, &ledger);
        self.challenges.clear();
        self.reload();
    }

    fn enrol(&mut self, client: usize, enrolled: bool) {
        self.enrolled[client] = enrolled;
        self.reload();
    }

    fn reload(&mut self) {
        self.policy = policy(self.enrolled, &self.joins.rows);
        self.replay.set_window(WINDOW);
        for ending in [GrantEnd::Revoked, GrantEnd::Changed] {
            let latest = self.replay.latest(self.now);
            let ends = |live: &&ActiveGrant| self.policy.must_end(latest, live) == Some(ending);
            let over: Vec<_> = self.grants.list().filter(ends).map(|live| live.key).collect();
            let (_, records) = self.grants.end(self.now, &over, ending);
            self.journal.extend(records);
        }
        self.engine = engine(self.now, self.enrolled, &self.joins);
        self.handed_day = self.now.wall.day();
        self.engine.set_addresses(vec![GATEWAY.into()], vec![]);
    }

    fn check(&mut self) {
        self.check_joins();
        for (table, held, cap) in self.engine.tables().into_iter().chain(self.replay.tables()) {
            assert!(held <= cap, "{table}: {held} of {cap}");
        }
        self.grants.expire(self.now);
        let most = usize::try_from(MAX_GRANTS).expect("few") * CLIENTS.len();
        assert!(self.grants.list().count() <= most, "more grants than clients may have");
        for live in self.grants.list() {
            assert!(
                self.policy.must_end(self.replay.latest(self.now), live).is_none(),
                "a grant that policy does not allow"
            );
        }
        let mut last = None;
        while let Some((element, millis)) = self.grants.next_element(self.now, last) {
            last = Some(element);
            let holds = |live: &&ActiveGrant| live.element() == Some(element);
            let left =
                self.grants.list().filter(holds).map(|live| live.seconds_left(self.now)).max();
            assert!(
                left.is_some_and(|left| millis <= u64::from(left) * 1000),
                "open without a grant: {element:?}, {millis} ms"
            );
        }
    }
}

fn policy(enrolled: [bool; 2], joined: &[Invited]) -> Policy {
    let mut clients: Vec<Client> = joined.iter().flat_map(Invited::clients).collect();
    for (client, is_enrolled) in CLIENTS.iter().zip(enrolled) {
        if is_enrolled {
            clients.push(client.clone());
        }
    }
    Policy::new(services(), clients, MAX_GRANTS, [Source::new(GATEWAY.into())])
}

/// A revoked client keeps its row, with keys that no client has.
fn engine(now: Now, enrolled: [bool; 2], joins: &joins::Joins) -> Engine {
    let keys = |(client, is): (&Client, bool)| {
        let id = if is { client.id } else { ClientId([0xee; 16]) };
        known(id, now.wall.day())
    };
    let sealed = SealedSetup {
        keys: test_vectors::gateway(),
        port: PORT,
        rate: Rate { burst: 64, per_second: 4 },
        shared: None,
    };
    Engine::new(Setup {
        sealed: Some(sealed),
        clients: CLIENTS.iter().zip(enrolled).map(keys).chain(joins.known()).collect(),
        ..Setup::default()
    })
}

/// What the listener has of this client on its working day.
fn known(client: ClientId, working_day: u32) -> KnownClient {
    KnownClient { client, keys: test_vectors::secrets(client).wire_row(working_day) }
}

/// The first day that there are keys for.
fn first_day() -> u32 {
    32 * test_vectors::FIRST_PERIOD
}

/// One of few sources, so that they collide.
fn source(c: u8) -> Source {
    Source::new(Ipv4Addr::new(192, 0, 2, 7 + c % 4).into())
}

fn entropy(counter: u64) -> [u8; 32] {
    let mut bytes = [0x5a; 32];
    bytes[..8].copy_from_slice(&counter.to_be_bytes());
    bytes
}

fn packet(from: Source, payload: &[u8]) -> Vec<u8> {
    let std::net::IpAddr::V4(from) = from.ip() else { unreachable!("IPv4 only") };
    test_vectors::packet(from, GATEWAY, PORT, payload)
}
