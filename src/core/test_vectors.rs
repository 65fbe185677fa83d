//! The published test keys of keys/README.md, for vectors, tests and fuzzing.
//! Everybody has them. A daemon recognises them by [`TEST_GATEWAY_ID`] and refuses to start.

use super::authentic;
use super::keyring::{Day, Master, Realm, Secret, TEST_GATEWAY_ID, TagTable};
use super::knock::{HandedKnock, KnockKind, Request};
use super::noise::KeyPair;
use super::service::Client;
use super::types::{ClientId, RealmId, ServiceName, Source, Wall};
use super::wire::{
    AwaitingReceipt, ClientSide, DATAGRAM, Decrypted, DecryptedParts, GatewayKeys, identify, seal,
};

pub const REALM: RealmId = RealmId(*b"TESTREALM-NO-USE");
pub const CLIENT: ClientId = ClientId(*b"TESTCLIENT-NO-01");
/// A moment in the middle of a day: 2026-03-01 12:00:00 UTC.
pub const NOON: Wall = Wall(1_772_366_400_000_000_000);
const MASTER: [u8; 32] = *b"TEST ONLY: master secret 0000001";
const MASK: [u8; 32] = *b"TEST ONLY: realm mask key 000001";
const GATEWAY: [u8; 32] = *b"TEST ONLY: gateway X25519 000001";
const GATEWAY_OTHER: [u8; 32] = *b"TEST ONLY: gateway X25519 000002";
const CLIENT_SEED: [u8; 32] = *b"TEST ONLY: client Ed25519 000001";

pub fn master() -> Master {
    Master::new(Secret::new(MASTER))
}

pub fn realm() -> Realm {
    Realm::new(REALM, Secret::new(MASK))
}

/// The gateway during a key rotation.
pub fn gateway() -> GatewayKeys {
    GatewayKeys {
        gateway: TEST_GATEWAY_ID,
        realm: realm(),
        current: KeyPair::new(&Secret::new(GATEWAY)),
        other: Some(KeyPair::new(&Secret::new(GATEWAY_OTHER))),
    }
}

pub fn side(client: ClientId) -> ClientSide {
    ClientSide {
        gateway: TEST_GATEWAY_ID,
        realm: realm(),
        gateway_public: gateway().current.public(),
        keys: master().client_keys(client),
    }
}

pub fn seed() -> Secret<32> {
    Secret::new(CLIENT_SEED)
}

/// [`CLIENT`] as in the clients file; it may open `ssh`.
pub fn client() -> Client {
    let key = authentic::public_key(&seed());
    Client {
        id: CLIENT,
        name: "test-client".to_owned(),
        key,
        services: ServiceName::new("ssh").into_iter().collect(),
        expires: None,
        max_seconds: None,
    }
}

/// The tag table around `today` with [`CLIENT`] in row 0.
pub fn tags(today: u64) -> TagTable {
    let mut table = TagTable::new(today);
    table.insert(0, &master().client_keys(CLIENT).tag);
    table
}

/// Opens `ssh` from 192.0.2.7 for the default duration, with a receipt.
pub fn request(timestamp: Wall) -> Request {
    Request {
        kind: KnockKind::Open,
        receipt_wanted: true,
        timestamp,
        challenge: None,
        address: Some(address()),
        source_port: 0,
        seconds: 0,
        service: ServiceName::new("ssh").unwrap_or(ServiceName::NONE),
        fingerprint: client().fingerprint(),
    }
}

/// 192.0.2.7, the address in [`request`].
pub fn address() -> Source {
    Source::new(std::net::Ipv4Addr::new(192, 0, 2, 7).into())
}

/// A datagram of [`CLIENT`] for `request`, tagged for its day. `entropy`: the ephemeral secret.
pub fn datagram(request: &Request, entropy: [u8; 32]) -> ([u8; DATAGRAM], AwaitingReceipt) {
    let day = Day::Number(request.timestamp.day());
    seal(&side(CLIENT), request, day, Secret::new(entropy), |message| {
        Ok(authentic::sign(&seed(), message))
    })
    .expect("the test gateway's key is not of small order")
}

/// All of the listener's checks of a datagram, on the day of `now`.
pub fn open(datagram: &[u8], now: Wall) -> Result<Decrypted, super::types::Reject> {
    let gateway = gateway();
    let keys = master().client_keys(CLIENT);
    let verified = identify(&gateway, &tags(now.day()), datagram)?.check_mac(&keys)?;
    verified.open(&gateway, &keys, &client().fingerprint())
}

/// [`CLIENT`]'s knock, as the listener hands it over.
pub fn handed(parts: DecryptedParts, source: Source) -> HandedKnock {
    let DecryptedParts { h, body, .. } = parts;
    HandedKnock { ticket: 0, client: CLIENT, h, body, source, source_port: 40_000 }
}
