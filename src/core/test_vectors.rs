//! The published test keys of keys/README.md, for vectors, tests and fuzzing.
//! Everybody has them. A daemon recognises them by [`TEST_GATEWAY_ID`] and refuses to start.

use std::net::Ipv4Addr;

use super::authentic::{self, Authentic};
use super::keyring::{
    ClientSecrets, Day, Master, Realm, Secret, TEST_GATEWAY_ID, TagTable, WireRow,
};
use super::knock::{HandedKnock, KnockKind, RECEIPT_BODY, Receipt, Request};
use super::noise::KeyPair;
use super::packet::udp_checksum;
use super::public_key::PublicKey;
use super::service::Client;
use super::types::{ClientId, RealmId, Reject, ServiceName, Source, Wall};
use super::wire::{
    AwaitingReceipt, ClientSide, DATAGRAM, Decrypted, DecryptedParts, GatewayKeys, identify, seal,
};

pub const REALM: RealmId = RealmId(*b"TESTREALM-NO-USE");
pub const CLIENT: ClientId = ClientId(*b"TESTCLIENT-NO-01");
/// An invitation of the test gateway.
pub const INVITATION: ClientId = ClientId(*b"TESTINVITE-NO-01");
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

/// The first period of the test gateway: the one before that of [`NOON`].
pub const FIRST_PERIOD: u32 = 640;

pub fn secrets(client: ClientId) -> ClientSecrets {
    master().client_secrets(client, FIRST_PERIOD)
}

/// What the listener has of [`CLIENT`] on the day of `now`.
pub fn wire_row(now: Wall) -> WireRow {
    secrets(CLIENT).wire_row(now.day())
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
        secrets: secrets(client),
    }
}

pub fn seed() -> Secret<32> {
    Secret::new(CLIENT_SEED)
}

/// [`CLIENT`] as in the clients file; it may open `ssh`.
pub fn client() -> Client {
    let key = PublicKey::plain(authentic::public_key(&seed()));
    Client {
        id: CLIENT,
        name: "test-client".into(),
        key,
        services: ServiceName::new("ssh").into_iter().collect(),
        expires: None,
        limits: None,
        invited_until: None,
    }
}

/// The tag table on the day of `now` with [`CLIENT`] in row 0.
pub fn tags(now: Wall) -> TagTable {
    let mut table = TagTable::default();
    table.insert(0, &wire_row(now).tags());
    table
}

/// Opens `ssh` from 192.0.2.7 for the default duration, with a receipt.
pub fn request(timestamp: Wall) -> Request {
    Request {
        receipt_wanted: true,
        timestamp,
        address: Some(address()),
        service: ServiceName::new("ssh").unwrap_or(ServiceName::NONE),
        ..Request::bare(KnockKind::Open)
    }
}

/// 192.0.2.7, the address in [`request`].
pub fn address() -> Source {
    Source::new(Ipv4Addr::new(192, 0, 2, 7).into())
}

/// The day whose keys an honest client takes for `request`.
pub fn day_of(request: &Request) -> Day {
    match request.kind {
        KnockKind::Time => Day::Unknown,
        _ => Day::Number(request.timestamp.day()),
    }
}

/// A datagram of [`CLIENT`] for `request`, with the keys of its day. `entropy`: the ephemeral
/// secret.
pub fn datagram(request: &Request, entropy: [u8; 32]) -> ([u8; DATAGRAM], AwaitingReceipt) {
    let signed = request.encode();
    seal(&side(CLIENT), &signed, day_of(request), Secret::new(entropy), |message| {
        Ok(authentic::sign(&seed(), message))
    })
    .expect("the test gateway's key is not of small order")
}

/// A UDP packet from port 40000 with this payload, from its IP header on.
pub fn packet(source: Ipv4Addr, destination: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 8).expect("a short payload");
    let mut segment =
        [&40_000u16.to_be_bytes()[..], &port.to_be_bytes(), &length.to_be_bytes(), &[0, 0]]
            .concat();
    segment.extend(payload);
    let check = udp_checksum(source.into(), destination.into(), &segment);
    segment[6..8].copy_from_slice(&check.to_be_bytes());
    let mut header = vec![0x45, 0];
    header.extend((length + 20).to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum: u32 = header.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let check = !u16::try_from((sum >> 16) + (sum & 0xffff)).expect("folded");
    header[10..12].copy_from_slice(&check.to_be_bytes());
    [header, segment].concat()
}

/// All of the listener's checks of a datagram, on the day of `now`.
pub fn open(datagram: &[u8], now: Wall) -> Result<Decrypted, Reject> {
    open_as(&wire_row(now), datagram)
}

/// The same by a listener that knows the sender in this row and nobody else.
pub fn open_as(row: &WireRow, datagram: &[u8]) -> Result<Decrypted, Reject> {
    let gateway = gateway();
    let mut tags = TagTable::default();
    tags.insert(0, &row.tags());
    let tagged = identify(&gateway, &tags, datagram)?;
    let slot = tagged.owner().slot;
    let (Some(wire), Some(day)) = (row.wire(slot), row.day_of(slot)) else {
        return Err(Reject::UnknownTag);
    };
    tagged.check_mac(&wire)?.open(&gateway, &wire, day)
}

/// [`CLIENT`]'s knock, as the listener hands it over.
pub fn handed(parts: DecryptedParts, source: Source) -> HandedKnock {
    let DecryptedParts { day, h, body } = parts;
    HandedKnock { ticket: 0, client: CLIENT, day, h, body, source, source_port: 40_000 }
}

/// The gatekeeper's receipt for [`CLIENT`]'s knock with these parts.
pub fn receipt_body(receipt: &Receipt, day: Day, h: &[u8; 32]) -> [u8; RECEIPT_BODY] {
    let gate = secrets(CLIENT).gate(day).expect("no test is before the first period");
    receipt.with_mac(&gate, TEST_GATEWAY_ID, h)
}

/// What the gatekeeper proves of [`CLIENT`]'s knock.
pub fn verify(knock: HandedKnock) -> Result<Authentic, Reject> {
    let gate = secrets(CLIENT).gate(knock.day).ok_or(Reject::Clock)?;
    Authentic::verify(knock, &client(), TEST_GATEWAY_ID, &gate)
}
