//! Clients with keys, and knocks that they signed. Each is signed once for all tests: that is what
//! takes time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{LazyLock, Mutex};

use sha2::{Digest, Sha256};

use crate::core::authentic::{message, public_key, sign};
use crate::core::keyring::{Day, Secret, TEST_GATEWAY_ID};
use crate::core::knock::{BODY, HandedKnock, KnockKind, Request, SIGNED, Signature, encode_body};
use crate::core::public_key::PublicKey;
use crate::core::service::Client;
use crate::core::test_vectors::{NOON, day_of, secrets};
use crate::core::types::{ClientId, SECOND, ServiceName, Source, Wall};

/// Somebody who is enrolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Person {
    Anna,
    Bert,
    Carl,
}

impl Person {
    pub(super) const ALL: [Person; 3] = [Person::Anna, Person::Bert, Person::Carl];

    fn number(self) -> u8 {
        match self {
            Person::Anna => 0,
            Person::Bert => 1,
            Person::Carl => 2,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Person::Anna => "anna",
            Person::Bert => "bert",
            Person::Carl => "carl",
        }
    }

    pub(super) fn id(self) -> ClientId {
        let mut id = *b"TESTPERSON-NO-00";
        id[15] += self.number();
        ClientId(id)
    }

    pub(super) fn seed(self) -> Secret<32> {
        Secret::new([self.number() + 1; 32])
    }

    /// As the clients file has them.
    pub(super) fn client(self) -> Client {
        ENROLLED[usize::from(self.number())].clone()
    }

    fn enrolled(self) -> Client {
        let key = public_key(&self.seed());
        Client {
            id: self.id(),
            name: self.name().into(),
            key: PublicKey::plain(key),
            services: ["ssh", "web", "rdp", "vpn"]
                .iter()
                .filter_map(|name| ServiceName::new(name))
                .collect(),
            expires: None,
            limits: None,
            invited_until: None,
        }
    }

    /// Where they are.
    pub(super) fn address(self) -> IpAddr {
        [192, 0, 2, 10 + self.number()].into()
    }

    /// What they ask for by default: to open `service` from where they are, at `second` after noon.
    pub(super) fn request(self, service: &str, second: u64) -> Request {
        Request {
            receipt_wanted: true,
            timestamp: at(second),
            address: Some(Source::new(self.address())),
            seconds: 60,
            service: ServiceName::new(service).unwrap(),
            ..Request::bare(KnockKind::Open)
        }
    }

    /// The listener's message about a knock with this request.
    pub(super) fn knock(self, ticket: u64, request: &Request) -> HandedKnock {
        self.knock_on(day_of(request), ticket, request)
    }

    /// The same with the keys of `day`.
    pub(super) fn knock_on(self, day: Day, ticket: u64, request: &Request) -> HandedKnock {
        // Each knock has its own, as with a new ephemeral key.
        let asked = Sha256::new().chain_update(self.name()).chain_update(request.encode());
        let h = asked.finalize().into();
        let body = self.signed(&h, day, request);
        HandedKnock {
            ticket,
            client: self.id(),
            day,
            h,
            body,
            source: Source::new(self.address()),
            source_port: 40_000,
        }
    }

    pub(super) fn sign(self, h: &[u8; 32], signed: &[u8; SIGNED]) -> Signature {
        sign(&self.seed(), &message(TEST_GATEWAY_ID, h, signed))
    }

    fn signed(self, h: &[u8; 32], day: Day, request: &Request) -> [u8; BODY] {
        let key = (self, format!("{day:?}"), request.encode());
        let mut bodies = BODIES.lock().unwrap();
        *bodies.entry(key).or_insert_with(|| {
            let signed = request.encode();
            let signature = self.sign(h, &signed);
            let gate = secrets(self.id()).gate(day).unwrap();
            encode_body(&signed, &signature, &gate, TEST_GATEWAY_ID, h)
        })
    }
}

/// A moment of the tests' day.
pub(super) fn at(second: u64) -> Wall {
    Wall(NOON.0 + second * SECOND)
}

static ENROLLED: LazyLock<[Client; 3]> = LazyLock::new(|| Person::ALL.map(Person::enrolled));

type Bodies = BTreeMap<(Person, String, [u8; SIGNED]), [u8; BODY]>;

static BODIES: Mutex<Bodies> = Mutex::new(BTreeMap::new());
