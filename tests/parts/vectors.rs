//! The golden vectors. tests/vectors/knock.json contains the expected bytes of sealing;
//! tests/vectors/refused.json contains datagrams with one defect each and the reason for which they
//! must be refused.
//!
//! This test wrote both once, with TOCTOC_WRITE_VECTORS=1, from the keys under keys/. A change of
//! either file is a change of the protocol. tests/vectors/check.py computes knock.json
//! independently.

use std::path::PathBuf;
use std::sync::Arc;

use blake2::Blake2sMac;
use blake2::digest::consts::U32;
use blake2::digest::{KeyInit, Mac};
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};
use toctoc::core::authentic::{self, Message};
use toctoc::core::keyring::{Day, Newcomer, Realm, Secret, TEST_GATEWAY_ID, WireRow};
use toctoc::core::knock::{
    BODY, Enrolment, GATED, KeyScheme, KnockKind, PortEntry, Receipt, Request, SIGNED, Signature,
    Status, Welcome,
};
use toctoc::core::noise::KeyPair;
use toctoc::core::prefix::Span;
use toctoc::core::public_key::FidoKey;
use toctoc::core::test_vectors::{self, CLIENT, INVITATION, NOON};
use toctoc::core::types::{ClientId, GatewayId, PortRange, RealmId, Reject, ServiceName, Wall};
use toctoc::core::wire::{ClientSide, DATAGRAM, RECEIPT, seal, seal_body};
use toctoc::keys::invitation::Invitation;

use crate::client_mac::{set_client_mac, set_mac_of_day};

const CLIENT_E: [u8; 32] = *b"TEST ONLY: client ephemeral 0001";
/// Of the knock before the one with [`CLIENT_E`].
const FIRST_E: [u8; 32] = *b"TEST ONLY: client ephemeral 0000";
const GATEWAY_E: [u8; 32] = *b"TEST ONLY: gateway ephemeral 001";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(bytes)
}

fn unhex(value: &Value) -> Vec<u8> {
    base16ct::lower::decode_vec(value.as_str().expect("hex")).expect("hex")
}

/// Compares `computed` with the committed file. With TOCTOC_WRITE_VECTORS it writes that first.
fn check(name: &str, computed: &Value) {
    if std::env::var_os("TOCTOC_WRITE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(computed).unwrap() + "\n";
        std::fs::write(path(name), text).unwrap();
    }
    let committed = std::fs::read_to_string(path(name)).expect("the vectors are committed");
    let committed: Value = serde_json::from_str(&committed).expect("the vectors are JSON");
    assert!(committed == *computed, "{name} differs from what the code computes:\n{computed:#}");
}

fn keys() -> Value {
    let gateway = test_vectors::gateway();
    let secrets = test_vectors::secrets(CLIENT);
    let client = test_vectors::client();
    let other = gateway.other.unwrap();
    json!({
        "about": "published test keys: never to be trusted, see README.md",
        "realm_id": hex(&test_vectors::REALM.0),
        "gateway_id": hex(&TEST_GATEWAY_ID.0),
        "client_id": hex(&CLIENT.0),
        "master_secret": hex(test_vectors::master().expose()),
        "realm_mask_key": hex(test_vectors::realm().mask().expose()),
        "gateway_secret": hex(gateway.current.expose()),
        "gateway_public": hex(&gateway.current.public()),
        "gateway_other_secret": hex(other.expose()),
        "gateway_other_public": hex(&other.public()),
        "first_period": test_vectors::FIRST_PERIOD,
        "client_root": hex(&client_root()),
        "period_secret": hex(secrets.secret().expose()),
        "clockless_secret": hex(secrets.clockless().expose()),
        "client_ed25519_seed": hex(test_vectors::seed().expose()),
        "client_ed25519_public": hex(&client.key.ed25519),
    })
}

/// The secret that all others of the client come from: computed without our own code.
fn client_root() -> [u8; 32] {
    let mut root = Blake2sMac::<U32>::new_from_slice(test_vectors::master().expose()).unwrap();
    Mac::update(&mut root, b"toctoc v1 client secret\0");
    Mac::update(&mut root, &CLIENT.0);
    root.finalize().into_bytes().into()
}

fn request() -> Request {
    Request {
        challenge: Some(*b"a live challenge"),
        source_port: 40_000,
        seconds: 45,
        timestamp: Wall(NOON.0 + 0x1234_5678_9abc),
        ..test_vectors::request(NOON)
    }
}

fn receipt() -> Receipt {
    Receipt {
        status: Status::Granted,
        once: true,
        seconds: 45,
        time: Wall(NOON.0 + 0x1234_5700_0000),
        working_day: NOON.day(),
        observed: test_vectors::address(),
        granted: Some(test_vectors::address()),
        span: Span::of_prefix(24, false).unwrap(),
        ports: [
            Some(PortEntry::Range(PortRange::read("22/tcp").unwrap())),
            Some(PortEntry::Range(PortRange::read("60000-61000/udp").unwrap())),
            Some(PortEntry::More),
            None,
        ],
        challenge: Some(*b"another, for now"),
        next_key: Some(test_vectors::gateway().other.unwrap().public()),
        welcome: None,
    }
}

#[test]
fn the_test_keys_are_the_committed_ones() {
    check("keys/golden.json", &keys());
}

#[test]
fn the_committed_openssh_key_is_the_golden_key() {
    let client = test_vectors::client();
    if std::env::var_os("TOCTOC_WRITE_VECTORS").is_some() {
        let pair = ssh_key::private::Ed25519Keypair::from_seed(test_vectors::seed().expose());
        let key = ssh_key::PrivateKey::new(pair.into(), "TESTKEY-NO-TRUST").unwrap();
        std::fs::write(
            path("keys/client_ed25519"),
            key.to_openssh(ssh_key::LineEnding::LF).unwrap(),
        )
        .unwrap();
        std::fs::write(
            path("keys/client_ed25519.pub"),
            key.public_key().to_openssh().unwrap() + "\n",
        )
        .unwrap();
    }
    let text = std::fs::read_to_string(path("keys/client_ed25519")).expect("the key is committed");
    let key = ssh_key::PrivateKey::from_openssh(text).expect("an OpenSSH key");
    assert_eq!(
        key.key_data().ed25519().expect("Ed25519").private.to_bytes(),
        *test_vectors::seed().expose()
    );
    assert_eq!(key.fingerprint(ssh_key::HashAlg::Sha256).as_bytes(), client.fingerprint().0);
    assert_eq!(key.comment().to_string(), "TESTKEY-NO-TRUST");
}

/// A knock that asks for the time, and its receipt.
fn ask() -> (Request, Receipt) {
    let request = Request {
        receipt_wanted: true,
        timestamp: Wall(0x1234_5678_9abc),
        first_day: test_vectors::secrets(CLIENT).first_day(),
        ..Request::bare(KnockKind::Time)
    };
    let receipt = Receipt {
        status: Status::Clock,
        once: false,
        seconds: 0,
        granted: None,
        span: Span::HOST,
        ports: [None; 4],
        next_key: None,
        welcome: None,
        ..receipt()
    };
    (request, receipt)
}

/// A receipt that asks for the challenge of [`request`].
fn challenge() -> Receipt {
    let (_, clock) = ask();
    Receipt { status: Status::Challenge, challenge: request().challenge, ..clock }
}

/// Who knocks, and what a listener has of them.
struct Sender {
    side: ClientSide,
    row: WireRow,
    day: Day,
    ephemeral: [u8; 32],
}

/// Every value of one knock and its receipt.
fn exchange(about: &str, sender: &Sender, signed: &[u8; SIGNED], receipt: &Receipt) -> Value {
    let mut message = None;
    let sign = |m: &Message| {
        message = Some(*m);
        Ok(authentic::sign(&test_vectors::seed(), m))
    };
    let Sender { side, row, day, ephemeral } = sender;
    let day = *day;
    let (datagram, awaiting) = seal(side, signed, day, Secret::new(*ephemeral), sign).unwrap();
    let message: Message = message.expect("signed");
    let opened = test_vectors::open_as(row, &datagram);
    let (parts, reply) = opened.map_err(|r| r.name()).unwrap().split();
    let gate = side.secrets.gate(day).unwrap();
    let body = receipt.with_mac(&gate, TEST_GATEWAY_ID, &parts.h);
    let sealed = reply.seal(&test_vectors::realm(), body, Secret::new(GATEWAY_E)).unwrap();
    let wire = side.secrets.wire(day).unwrap();
    let tag = |day| hex(&side.secrets.wire(day).unwrap().tag());
    let mut values = json!({
        "about": about,
        "client_ephemeral_secret": hex(ephemeral),
        "gateway_ephemeral_secret": hex(&GATEWAY_E),
        "day": null,
        "wire_secret": hex(wire.expose()),
        "gate_key": hex(gate.expose()),
        "psk": hex(wire.psk().expose()),
        "mac_key": hex(wire.mac_key().expose()),
        "tag_without_a_clock": tag(Day::Unknown),
        "prologue": hex(&test_vectors::realm().prologue(TEST_GATEWAY_ID)),
        "request": hex(signed),
        "h": hex(&parts.h),
        "message": hex(&message),
        "sshsig_blob": hex(&authentic::sshsig_blob(&message)),
        "signature": hex(&parts.body[SIGNED..SIGNED + 64]),
        "gate_mac": hex(&parts.body[GATED..]),
        "body": hex(&parts.body),
        "client_mac": hex(&datagram[DATAGRAM - 16..]),
        "datagram": hex(&datagram),
        "receipt": hex(&receipt.encode()),
        "receipt_mac": hex(body.last_chunk::<16>().unwrap()),
        "receipt_datagram": hex(&sealed),
    });
    if let Day::Number(day) = day {
        values["day"] = day.into();
        values["tag_of_yesterday"] = tag(Day::Number(day - 1)).into();
        values["tag_of_the_day"] = tag(Day::Number(day)).into();
        values["tag_of_tomorrow"] = tag(Day::Number(day + 1)).into();
    }
    assert_eq!(awaiting.open(&sealed), Some(*receipt));
    values
}

/// The values of a knock of the enrolled client, which a gatekeeper accepts.
fn client_exchange(
    about: &str, ephemeral: [u8; 32], request: &Request, receipt: &Receipt,
) -> Value {
    let sender = Sender {
        side: test_vectors::side(CLIENT),
        row: test_vectors::wire_row(NOON),
        day: test_vectors::day_of(request),
        ephemeral,
    };
    let values = exchange(about, &sender, &request.encode(), receipt);
    let (parts, _) = test_vectors::open(&unhex(&values["datagram"]), NOON).ok().unwrap().split();
    let proven = test_vectors::verify(test_vectors::handed(parts, test_vectors::address()));
    assert_eq!(proven.map_err(|r| r.name()).unwrap().request(), request);
    values
}

/// The invitation of the golden line.
fn invitation() -> Invitation {
    Invitation {
        until: 1_772_452_800,
        gateway: TEST_GATEWAY_ID,
        realm: test_vectors::realm(),
        gateway_public: test_vectors::gateway().current.public(),
        id: INVITATION,
        root: test_vectors::master().client_root(INVITATION),
        first_period: test_vectors::FIRST_PERIOD,
        port: 62201,
        addresses: vec!["gate.example.org".to_owned(), "2001:db8::1".to_owned()],
        services: vec![ServiceName::new("ssh").unwrap(), ServiceName::new("web").unwrap()],
        gateway_name: "bastion".to_owned(),
        client_name: "alice".to_owned(),
    }
}

/// The values of a knock by which somebody joins, and of the invitation's line.
fn joining() -> Value {
    let invitation = invitation();
    let key = test_vectors::client().key.ed25519;
    let enrolment = Enrolment {
        invitation: INVITATION,
        receipt_wanted: true,
        timestamp: Wall(NOON.0 + 0x1234_5678_9abc),
        challenge: Some(*b"a live challenge"),
        scheme: KeyScheme::Ed25519,
        key,
    };
    let master = test_vectors::master();
    let client = master.joined_id(INVITATION, &key);
    let newcomer = Newcomer { gateway: TEST_GATEWAY_ID, client, key };
    let root = master.client_root(client);
    let side = invitation.side();
    let gate = side.secrets.gate(Day::Invited).unwrap();
    let root_sealed = gate.seal_welcome(&newcomer, &root);
    let welcome = Welcome { client, root: root_sealed, expires: Some(1_774_872_000) };
    let (_, clock) = ask();
    let receipt =
        Receipt { status: Status::Enrolled, challenge: None, welcome: Some(welcome), ..clock };
    let row = side.secrets.invitation_row();
    let sender = Sender { side, row, day: Day::Invited, ephemeral: CLIENT_E };
    let about = "one knock by which somebody joins, its receipt, and the line of the invitation";
    let mut values = exchange(about, &sender, &enrolment.encode(), &receipt);
    let about = "the knock before that of join.json: without a challenge, and the receipt that asks for \
                 one";
    let first = Enrolment { challenge: None, ..enrolment };
    let sender = Sender { ephemeral: FIRST_E, ..sender };
    let asked = exchange(about, &sender, &first.encode(), &challenge());
    check("tests/vectors/challenge_join.json", &asked);
    let opened = gate.open_welcome(&newcomer, &welcome.root).unwrap();
    assert_eq!(opened.expose(), root.expose());
    values["invitation_id"] = hex(&INVITATION.0).into();
    values["invitation_root"] = hex(invitation.root.expose()).into();
    values["new_id"] = hex(&client.0).into();
    values["new_root"] = hex(root.expose()).into();
    values["welcome"] = hex(&welcome.root).into();
    values["expires"] = welcome.expires.into();
    values["line"] = invitation.print().as_str().into();
    values["line_until"] = invitation.until.into();
    values["line_port"] = invitation.port.into();
    values["line_addresses"] = json!(invitation.addresses);
    values["line_services"] = json!(["ssh", "web"]);
    values["line_names"] = json!([invitation.gateway_name, invitation.client_name]);
    values
}

#[test]
fn joining_gives_the_golden_bytes() {
    check("tests/vectors/join.json", &joining());
}

#[test]
fn sealing_gives_the_golden_bytes() {
    let about = "one knock and its receipt, every value in hex; keys in keys/golden.json, layout in \
                 docs/protocol.md";
    check("tests/vectors/knock.json", &client_exchange(about, CLIENT_E, &request(), &receipt()));
    let about = "the knock before that of knock.json: without a challenge, and the receipt that asks for \
                 one";
    let first = Request { challenge: None, ..request() };
    let asked = client_exchange(about, FIRST_E, &first, &challenge());
    check("tests/vectors/challenge.json", &asked);
    let about = "one knock that asks for the time, and its receipt";
    let (request, receipt) = ask();
    check("tests/vectors/time.json", &client_exchange(about, CLIENT_E, &request, &receipt));
    check("tests/vectors/fido.json", &fido());
}

/// What a FIDO key with the client's private key signs for the knock of `knock.json`, composed here
/// once more.
fn fido() -> Value {
    const APPLICATION: &str = "ssh:work";
    const FLAGS: u8 = authentic::TOUCHED | authentic::VERIFIED;
    const COUNTER: u32 = 0x0102_0304;
    let signed = request().encode();
    let message = authentic::message(TEST_GATEWAY_ID, &[3; 32], &signed);
    let mut key = test_vectors::client().key;
    key.fido = Some(Arc::new(FidoKey::new(APPLICATION)));
    let mut text = Sha256::digest(APPLICATION).to_vec();
    text.push(FLAGS);
    text.extend(COUNTER.to_be_bytes());
    text.extend(Sha256::digest(authentic::sshsig_blob(&message)));
    let ed25519 = ed25519(&test_vectors::seed(), &text);
    let signature = Signature { ed25519, sk_flags: FLAGS, sk_counter: COUNTER };
    assert!(authentic::is_signed(&key, &message, &signature));
    json!({
        "about": "the signature of one message by a FIDO key, as an authenticator makes it; h is 03 32 times",
        "application": hex(APPLICATION.as_bytes()),
        "flags": FLAGS,
        "counter": COUNTER,
        "message": hex(&message),
        "authenticator_signs": hex(&text),
        "signature": hex(&ed25519),
        "key_blob": hex(&key.blob()),
        "fingerprint": hex(&key.fingerprint().0),
    })
}

#[test]
fn an_independent_computation_agrees() {
    let run = std::process::Command::new("python3").arg(path("tests/vectors/check.py")).output();
    let run = run.expect("python3 is installed by tools/setup");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

/// All checks that need no clock, no state and no policy: the listener's steps, then the signature.
fn check_datagram(datagram: &[u8]) -> Result<(), Reject> {
    let (parts, _) = test_vectors::open(datagram, NOON)?.split();
    let claim = test_vectors::handed(parts, test_vectors::address());
    test_vectors::verify(claim).map(|_| ())
}

#[test]
fn each_defect_is_refused_for_its_reason() {
    let cases: Vec<Value> = defects()
        .into_iter()
        .map(|(name, reject, datagram)| json!({"defect": name, "reject": reject.name(), "datagram": hex(&datagram)}))
        .collect();
    assert_eq!(
        check_datagram(&signed(&request(), |_| {})),
        Ok(()),
        "a datagram without a defect is refused"
    );
    check(
        "tests/vectors/refused.json",
        &json!({
            "about": "datagrams with one defect each; `now` is 2026-03-01 12:00 UTC, keys in keys/golden.json",
            "cases": cases,
        }),
    );
    let committed = std::fs::read_to_string(path("tests/vectors/refused.json")).unwrap();
    let committed: Value = serde_json::from_str(&committed).unwrap();
    for case in committed["cases"].as_array().expect("cases") {
        let found = check_datagram(&unhex(&case["datagram"])).err().map(Reject::name);
        assert_eq!(found, case["reject"].as_str(), "{}", case["defect"]);
    }
}

type Defect = (&'static str, Reject, Vec<u8>);

fn defects() -> Vec<Defect> {
    [
        defects_of_the_envelope(),
        defects_of_the_seal(),
        defects_of_the_body(),
        defects_of_the_gate_mac(),
        defects_of_the_signature(),
    ]
    .concat()
}

fn today() -> Day {
    Day::Number(NOON.day())
}

/// The datagram of `request` with a body that `change` has changed, correctly signed, with a gate
/// MAC.
fn signed(request: &Request, change: impl Fn(&mut [u8; BODY])) -> Vec<u8> {
    signed_as(request, &test_vectors::side(CLIENT), change, authentic::sign)
}

fn signed_as(
    request: &Request, side: &ClientSide, change: impl Fn(&mut [u8; BODY]),
    sign: impl Fn(&Secret<32>, &Message) -> Signature,
) -> Vec<u8> {
    let day = match request.kind {
        KnockKind::Time => Day::Unknown,
        _ => today(),
    };
    sealed(&request.encode(), side, day, change, sign)
}

fn sealed(
    signed: &[u8; SIGNED], side: &ClientSide, day: Day, change: impl Fn(&mut [u8; BODY]),
    sign: impl Fn(&Secret<32>, &Message) -> Signature,
) -> Vec<u8> {
    let gate = side.secrets.gate(day).unwrap();
    let wire = side.secrets.wire(day).unwrap();
    let body = |h: &[u8; 32]| {
        let mut body = [0; BODY];
        body[..SIGNED].copy_from_slice(signed);
        change(&mut body);
        let message = authentic::message(side.gateway, h, body.first_chunk().unwrap());
        let signature = sign(&test_vectors::seed(), &message);
        body[SIGNED..SIGNED + 64].copy_from_slice(&signature.ed25519);
        body[SIGNED + 64] = signature.sk_flags;
        body[SIGNED + 65..SIGNED + 69].copy_from_slice(&signature.sk_counter.to_be_bytes());
        let (covered, mac) = body.split_at_mut(GATED);
        let right = gate.gate_mac(side.gateway, h, covered);
        // A change of the MAC itself stays.
        mac.iter_mut().zip(right).for_each(|(byte, right)| *byte ^= right);
        body
    };
    seal_body(side, &wire, Secret::new(CLIENT_E), body).unwrap().to_vec()
}

fn with_mac(mut datagram: Vec<u8>) -> Vec<u8> {
    set_client_mac(&mut datagram);
    datagram
}

fn flipped(byte: usize, bit: u8) -> Vec<u8> {
    let mut datagram = signed(&request(), |_| {});
    datagram[byte] ^= 1 << bit;
    datagram
}

fn tagged(day: Day) -> Vec<u8> {
    let side = test_vectors::side(CLIENT);
    sealed(&request().encode(), &side, day, |_| {}, authentic::sign)
}

fn with_side(change: impl Fn(ClientSide) -> ClientSide) -> Vec<u8> {
    signed_as(&request(), &change(test_vectors::side(CLIENT)), |_| {}, authentic::sign)
}

fn defects_of_the_envelope() -> Vec<Defect> {
    let good = || signed(&request(), |_| {});
    let day = NOON.day();
    let other_mask =
        |side| ClientSide { realm: Realm::new(test_vectors::REALM, Secret::new([1; 32])), ..side };
    vec![
        ("empty", Reject::Length, vec![]),
        ("one byte short", Reject::Length, good()[..DATAGRAM - 1].to_vec()),
        ("one byte long", Reject::Length, [good(), vec![0]].concat()),
        ("as long as a receipt", Reject::Length, good()[..RECEIPT].to_vec()),
        ("all zero", Reject::UnknownTag, vec![0; DATAGRAM]),
        ("masked for another realm", Reject::UnknownTag, with_side(other_mask)),
        ("tag of a client that is not enrolled", Reject::UnknownTag, {
            let secrets = test_vectors::secrets(ClientId(*b"TESTCLIENT-NO-02"));
            with_side(|side| ClientSide { secrets: secrets.duplicate(), ..side })
        }),
        ("tag of the day before yesterday", Reject::UnknownTag, tagged(Day::Number(day - 2))),
        ("tag of the day after tomorrow", Reject::UnknownTag, tagged(Day::Number(day + 2))),
        ("one bit of the masked tag", Reject::UnknownTag, flipped(32, 0)),
        ("one bit of the sample", Reject::UnknownTag, flipped(48, 0)),
        ("one bit of the masked e", Reject::ClientMac, flipped(0, 0)),
        ("one bit of the client MAC", Reject::ClientMac, flipped(DATAGRAM - 1, 7)),
        ("tomorrow's MAC key", Reject::ClientMac, {
            let mut datagram = good();
            set_mac_of_day(&mut datagram, day + 1);
            datagram
        }),
    ]
}

fn defects_of_the_seal() -> Vec<Defect> {
    let mask = || test_vectors::realm().mask().duplicate();
    let realm = |realm, gateway| {
        with_side(|side| ClientSide { gateway, realm: Realm::new(realm, mask()), ..side })
    };
    let another_public = KeyPair::new(&Secret::new([1; 32])).public();
    vec![
        ("another realm in the prologue", Reject::Noise, realm(RealmId([1; 16]), TEST_GATEWAY_ID)),
        (
            "another gateway in the prologue",
            Reject::Noise,
            realm(test_vectors::REALM, GatewayId([1; 16])),
        ),
        ("sealed for another gateway key", Reject::Noise, {
            with_side(|side| ClientSide { gateway_public: another_public, ..side })
        }),
        ("tomorrow's psk under today's tag and MAC key", Reject::Noise, {
            let mut datagram = tagged(Day::Number(NOON.day() + 1));
            let tag = |day| test_vectors::secrets(CLIENT).wire(Day::Number(day)).unwrap().tag();
            let (today, tomorrow) = (tag(NOON.day()), tag(NOON.day() + 1));
            for ((byte, one), other) in datagram[32..48].iter_mut().zip(today).zip(tomorrow) {
                *byte ^= one ^ other;
            }
            with_mac(datagram)
        }),
        ("e of order 1, MAC right", Reject::Noise, with_ephemeral([0; 32])),
        (
            "e of order 4, MAC right",
            Reject::Noise,
            with_ephemeral(std::array::from_fn(|i| u8::from(i == 0))),
        ),
        ("the ignored top bit of e, MAC right", Reject::Noise, with_mac(flipped(31, 7))),
        ("one bit of the sealed body, MAC right", Reject::Noise, with_mac(flipped(100, 3))),
        ("one bit of the Noise tag, MAC right", Reject::Noise, with_mac(flipped(240, 0))),
    ]
}

/// A datagram with another `e`. The mask is an XOR, so the difference of both is applied.
fn with_ephemeral(e: [u8; 32]) -> Vec<u8> {
    let mut datagram = signed(&request(), |_| {});
    let ours = KeyPair::new(&Secret::new(CLIENT_E)).public();
    for ((byte, old), new) in datagram.iter_mut().zip(ours).zip(e) {
        *byte ^= old ^ new;
    }
    with_mac(datagram)
}

fn defects_of_the_body() -> Vec<Defect> {
    let set = |at: usize, value: u8| signed(&request(), move |b| b[at] = value);
    let probe = Request { kind: KnockKind::Probe, service: ServiceName::NONE, ..request() };
    let (ask, _) = ask();
    let asking = |at: usize, value: u8| signed(&ask, move |b| b[at] = value);
    let enrolment = Enrolment {
        invitation: INVITATION,
        receipt_wanted: true,
        timestamp: NOON,
        challenge: None,
        scheme: KeyScheme::Ed25519,
        key: test_vectors::client().key.ed25519,
    };
    let enrol = |day| {
        let side = test_vectors::side(CLIENT);
        sealed(&enrolment.encode(), &side, day, |_| {}, authentic::sign)
    };
    vec![
        ("version 0", set(0, 0)),
        ("version 2", set(0, 2)),
        ("kind 0", set(1, 0)),
        ("kind 4 under the tag of a day", enrol(today())),
        ("kind 4 without an invitation", enrol(Day::Unknown)),
        ("kind 5", set(1, 5)),
        ("kind 6 under the tag of a day", set(1, 6)),
        ("kind 7", set(1, 7)),
        ("flags 2", set(2, 2)),
        ("reserved byte 3", set(3, 1)),
        ("reserved byte 6", set(6, 1)),
        ("reserved byte 7", set(7, 0x80)),
        ("reserved byte 52", set(52, 1)),
        ("reserved byte 55", set(55, 1)),
        ("upper case in the service's name", set(56, b'S')),
        ("a space in the service's name", set(57, b' ')),
        ("a name behind the padding", set(80, b'x')),
        ("a name without padding", signed(&request(), |b| b[56..88].fill(b'a'))),
        ("an open without a service", signed(&request(), |b| b[56..88].fill(0))),
        ("a probe with a service", signed(&probe, |b| b[56] = b'a')),
        ("an open under the tag without a clock", tagged(Day::Unknown)),
        ("an ask for the time without a receipt", asking(2, 0)),
        ("an ask for the time with a source port", asking(5, 1)),
        ("an ask for the time with a challenge", asking(16, 1)),
        ("an ask for the time with an address", asking(47, 1)),
        ("an ask for the time with a first day in a period", asking(51, 1)),
        ("an ask for the time with a service", asking(56, b'a')),
        ("padding byte 157", set(157, 1)),
        ("padding byte 175", set(175, 0x80)),
    ]
    .into_iter()
    .map(|(name, datagram)| (name, Reject::Syntax, datagram))
    .collect()
}

/// What somebody can send who has the client's wire keys, and not its gate key.
fn defects_of_the_gate_mac() -> Vec<Defect> {
    let of = |change: fn(&mut [u8; BODY])| signed(&request(), change);
    vec![
        ("the first bit of the gate MAC", Reject::Gate, of(|b| b[GATED] ^= 1)),
        ("the last bit of the gate MAC", Reject::Gate, of(|b| b[BODY - 1] ^= 0x80)),
    ]
}

fn defects_of_the_signature() -> Vec<Defect> {
    let by = |sign: fn(&Secret<32>, &Message) -> Signature| {
        signed_as(&request(), &test_vectors::side(CLIENT), |_| {}, sign)
    };
    let cases = vec![
        ("no signature", by(|_, _| plain([0; 64]))),
        ("signed by another key", by(|_, m| authentic::sign(&Secret::new([9; 32]), m))),
        ("signed for another gateway", by(|seed, m| authentic::sign(seed, &other_bit(m, 16)))),
        ("signed for another handshake", by(|seed, m| authentic::sign(seed, &other_bit(m, 32)))),
        ("signed for another request", by(|seed, m| authentic::sign(seed, &other_bit(m, 72)))),
        ("signed without the gateway's name", by(|seed, m| plain(ed25519(seed, &without_name(m))))),
        ("signed under another label", by(|seed, m| authentic::sign(seed, &other_bit(m, 0)))),
        (
            "signed in the namespace of files",
            by(|seed, m| {
                let blob = authentic::sshsig_blob(m);
                let text = [
                    b"SSHSIG\0\0\0\x04file".as_slice(),
                    &blob[6 + 4 + authentic::NAMESPACE.len()..],
                ]
                .concat();
                plain(ed25519(seed, &text))
            }),
        ),
        ("signed without SSHSIG", by(|seed, m| plain(ed25519(seed, m)))),
        (
            "s plus the group's order",
            by(|seed, m| plain(plus_order(authentic::sign(seed, m).ed25519))),
        ),
        ("R is the identity, s is 0", by(|_, _| plain(std::array::from_fn(|i| u8::from(i == 0))))),
        (
            "FIDO flags of a plain key",
            by(|seed, m| Signature { sk_flags: 1, ..authentic::sign(seed, m) }),
        ),
        (
            "FIDO counter of a plain key",
            by(|seed, m| Signature { sk_counter: 1, ..authentic::sign(seed, m) }),
        ),
    ];
    cases.into_iter().map(|(name, datagram)| (name, Reject::Signature, datagram)).collect()
}

fn plain(ed25519: [u8; 64]) -> Signature {
    Signature { ed25519, sk_flags: 0, sk_counter: 0 }
}

/// The signed blob of a message that names the gateway only in `h`.
fn without_name(message: &Message) -> Vec<u8> {
    let mut blob = authentic::sshsig_blob(message);
    let hash = Sha512::digest([&message[..16], &message[32..]].concat());
    blob[authentic::BLOB - 64..].copy_from_slice(&hash);
    blob.to_vec()
}

fn other_bit(message: &Message, at: usize) -> Message {
    let mut other = *message;
    other[at] ^= 1;
    other
}

fn ed25519(seed: &Secret<32>, text: &[u8]) -> [u8; 64] {
    ed25519_dalek::Signer::sign(&ed25519_dalek::SigningKey::from_bytes(seed.expose()), text)
        .to_bytes()
}

/// The same signature with s plus the group order. A verifier that does not require a canonical s
/// accepts it.
fn plus_order(mut signature: [u8; 64]) -> [u8; 64] {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut carry = 0;
    for (byte, order) in signature[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = u8::try_from(sum & 0xff).unwrap();
        carry = sum >> 8;
    }
    signature
}
