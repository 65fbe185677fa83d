//! A gateway on loopback that opens the client's knocks and answers as each test wants.

use std::net::UdpSocket;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use std::net::IpAddr;

use super::*;
use crate::core::authentic::Authentic;
use crate::core::exchange::AddressOrigin;
use crate::core::keyring::{ClientSecrets, Master, Realm, Secret, TagTable};
use crate::core::knock::{HandedKnock, KnockKind, Receipt, Request, Status};
use crate::core::noise::KeyPair;
use crate::core::prefix::Span;
use crate::core::service::Client;
use crate::core::types::{ClientId, GatewayId, RealmId, ServiceName};
use crate::core::wire::{ClientSide, DATAGRAM, GatewayKeys, identify};
use crate::keys::identity::Identity;

const CLIENT: ClientId = ClientId([7; 16]);
/// Long enough for a busy machine; only a broken client waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// For silence that the test wants.
const SHORT: Duration = Duration::from_millis(500);

const GATEWAY_ID: GatewayId = GatewayId([2; 16]);

fn realm() -> Realm {
    Realm::new(RealmId([1; 16]), Secret::new([3; 32]))
}

fn master() -> Master {
    Master::new(Secret::new([4; 32]))
}

/// The client's, from a period before 2026 on.
fn secrets() -> ClientSecrets {
    master().client_secrets(CLIENT, 600)
}

fn pair() -> KeyPair {
    KeyPair::new(&Secret::new([5; 32]))
}

pub(in crate::app::client) fn identity() -> Identity {
    Identity::new(Secret::new([6; 32])).unwrap()
}

pub(in crate::app::client) fn ssh() -> ServiceName {
    ServiceName::new("ssh").unwrap()
}

pub(in crate::app::client) fn profile(port: u16) -> Profile {
    Profile {
        name: "laptop".into(),
        client: CLIENT,
        key: identity().public().clone(),
        addresses: vec!["127.0.0.1".into()],
        port,
        side: ClientSide {
            gateway: GATEWAY_ID,
            realm: realm(),
            gateway_public: pair().public(),
            secrets: secrets(),
        },
        services: vec![ssh()],
        default_service: None,
        expires: None,
        identity: None,
        agent: None,
        fallback: None,
    }
}

fn wanted() -> ClientRequest {
    ClientRequest {
        service: ssh(),
        seconds: 60,
        ..ClientRequest::new(KnockKind::Open, PATIENCE, 3)
    }
}

pub(in crate::app::client) fn receipt(status: Status, source: SocketAddr) -> Receipt {
    Receipt {
        status,
        once: false,
        seconds: if status == Status::Granted { 30 } else { 0 },
        time: clock::now().wall,
        working_day: today(),
        observed: Source::new(source.ip()),
        granted: (status == Status::Granted).then(|| Source::new(source.ip())),
        span: Span::HOST,
        ports: [None; 4],
        challenge: None,
        next_key: None,
        welcome: None,
    }
}

/// A knock that the gateway opened and whose signature it verified.
pub(in crate::app::client) struct Knocked {
    pub(in crate::app::client) request: Request,
    pub(in crate::app::client) source: SocketAddr,
    pub(in crate::app::client) number: usize,
}

/// The gateway's answer to one knock: datagrams before the receipt, and the receipt.
pub(in crate::app::client) type Behaviour =
    Box<dyn FnMut(&Knocked) -> (Vec<Vec<u8>>, Option<Receipt>) + Send>;

pub(in crate::app::client) struct Gateway {
    pub(in crate::app::client) address: SocketAddr,
    stop: Sender<()>,
    thread: JoinHandle<Vec<Request>>,
}

impl Gateway {
    /// `today`: the day by the gateway's clock.
    pub(in crate::app::client) fn start(today: u32, behaviour: Behaviour) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let address = socket.local_addr().unwrap();
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || serve(&socket, today, behaviour, &stopped));
        Self { address, stop, thread }
    }

    /// The requests so far, in order; each had a valid tag, MAC, Noise message and signature.
    pub(in crate::app::client) fn requests(self) -> Vec<Request> {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

fn serve(
    socket: &UdpSocket, today: u32, mut behaviour: Behaviour, stopped: &Receiver<()>,
) -> Vec<Request> {
    let keys = GatewayKeys { gateway: GATEWAY_ID, realm: realm(), current: pair(), other: None };
    let row = secrets().wire_row(today);
    let mut tags = TagTable::default();
    tags.insert(0, &row.tags());
    let mut requests = Vec::new();
    while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
        let mut buffer = [0; 1500];
        let Ok((length, source)) = socket.recv_from(&mut buffer) else { continue };
        assert_eq!(length, DATAGRAM);
        // A tag of another day is silence, as with the real one.
        let Ok(known) = identify(&keys, &tags, &buffer[..length]) else { continue };
        let slot = known.owner().slot;
        let (wire, day) = (row.wire(slot).unwrap(), row.day_of(slot).unwrap());
        let sealed = known.check_mac(&wire).unwrap().open(&keys, &wire, day).unwrap();
        let (parts, reply) = sealed.split();
        let gate = secrets().gate(day).unwrap();
        let h = parts.h;
        let knock = HandedKnock {
            ticket: 0,
            client: CLIENT,
            day,
            h,
            body: parts.body,
            source: Source::new(source.ip()),
            source_port: source.port(),
        };
        let verified = Authentic::verify(knock, &enrolled(), keys.gateway, &gate).unwrap();
        let request = *verified.request();
        let knocked = Knocked { request, source, number: requests.len() };
        requests.push(request);
        let (before, receipt) = behaviour(&knocked);
        for junk in before {
            socket.send_to(&junk, source).unwrap();
        }
        if let Some(receipt) = receipt {
            let body = receipt.with_mac(&gate, GATEWAY_ID, &h);
            let sealed = reply.seal(&realm(), body, Secret::new([8; 32])).unwrap();
            socket.send_to(&sealed, source).unwrap();
        }
    }
    requests
}

fn enrolled() -> Client {
    Client {
        id: CLIENT,
        name: "laptop".into(),
        key: identity().public().clone(),
        services: [ssh()].into(),
        expires: None,
        limits: None,
        invited_until: None,
    }
}

pub(in crate::app::client) fn today() -> u32 {
    clock::now().wall.day()
}

fn knock(gateway: &Gateway, wanted: &ClientRequest) -> GatewayResult {
    let profile = profile(gateway.address.port());
    let signer = Signer::of(identity());
    ask(&profile, &signer, wanted, gateway.address, Duration::ZERO, &OnceLock::new())
}

fn receipt_of(result: &GatewayResult) -> Receipt {
    match &result.outcome {
        ExchangeOutcome::Received(received) => received.receipt,
        ExchangeOutcome::Silence => panic!("silence after {} knocks", result.knocks),
        ExchangeOutcome::Unreachable(fault) => panic!("{fault}"),
    }
}

#[test]
fn one_knock_names_our_address_and_its_receipt_is_believed() {
    let gateway =
        Gateway::start(today(), Box::new(|k| (vec![], Some(receipt(Status::Granted, k.source)))));
    let result = knock(&gateway, &wanted());
    assert_eq!(receipt_of(&result).status, Status::Granted);
    let ours = Source::new(IpAddr::from([127, 0, 0, 1]));
    assert_eq!(
        (result.named, result.knocks),
        (Some(NamedAddress { source: ours, origin: AddressOrigin::Local }), 1)
    );
    let [request] = gateway.requests().try_into().unwrap();
    assert_eq!((request.kind, request.seconds, request.service), (KnockKind::Open, 60, ssh()));
    assert_eq!((request.address, request.challenge), (Some(ours), None));
    assert!(clock::now().wall.since(request.timestamp).unsigned_abs() < 10_000_000_000);
}

#[test]
fn datagrams_that_are_not_the_receipt_are_ignored() {
    let junk = |k: &Knocked| {
        let mut forged = vec![0x5a; RECEIPT];
        forged[0] = 1;
        (
            vec![vec![], vec![0; 5], forged, vec![1; RECEIPT + 1], vec![2; 1400]],
            Some(receipt(Status::Granted, k.source)),
        )
    };
    let gateway = Gateway::start(today(), Box::new(junk));
    let result = knock(&gateway, &wanted());
    assert_eq!((receipt_of(&result).status, result.knocks), (Status::Granted, 1));
}

#[test]
fn a_lost_knock_is_followed_by_a_new_one() {
    let behaviour = |k: &Knocked| {
        let receipt = match k.number {
            0 => None,
            1 => Some(Receipt { challenge: Some([0xcc; 16]), ..receipt(Status::Clock, k.source) }),
            _ => Some(receipt(Status::Granted, k.source)),
        };
        (vec![], receipt)
    };
    let gateway = Gateway::start(today(), Box::new(behaviour));
    let result = knock(&gateway, &ClientRequest { timeout: SHORT, ..wanted() });
    assert_eq!((receipt_of(&result).status, result.knocks), (Status::Granted, 3));
    let [first, ask, second] = gateway.requests().try_into().unwrap();
    assert_ne!(first.timestamp, second.timestamp);
    // Silence may mean that the gateway does not know our day.
    assert_eq!((ask.kind, ask.first_day, ask.address), (KnockKind::Time, 600 * 32, None));
    assert_eq!((second.kind, second.challenge), (KnockKind::Open, Some([0xcc; 16])));
}

#[test]
fn without_an_answer_the_client_knocks_as_often_as_allowed() {
    let gateway = Gateway::start(today(), Box::new(|_| (vec![vec![9; RECEIPT]], None)));
    let result = knock(&gateway, &ClientRequest { timeout: SHORT / 10, ..wanted() });
    assert!(matches!(result.outcome, ExchangeOutcome::Silence));
    assert_eq!(result.knocks, 3);
}

#[test]
fn a_challenge_helps_a_client_whose_clock_is_days_off() {
    let behaviour = |k: &Knocked| match k.request.challenge {
        None => {
            let mut receipt = receipt(Status::Clock, k.source);
            receipt.time = receipt.time.plus(40 * 86_400);
            receipt.working_day += 40;
            receipt.challenge = Some([0xcc; 16]);
            (vec![], Some(receipt))
        }
        Some(_) => (vec![], Some(receipt(Status::Granted, k.source))),
    };
    let gateway = Gateway::start(today() + 40, Box::new(behaviour));
    let result = knock(&gateway, &ClientRequest { timeout: SHORT, ..wanted() });
    assert_eq!(receipt_of(&result).status, Status::Granted);
    assert_eq!(result.knocks, 3, "the first one meets silence");
    let requests = gateway.requests();
    assert_eq!(
        requests.iter().map(|r| r.kind).collect::<Vec<_>>(),
        [KnockKind::Time, KnockKind::Open]
    );
    assert_eq!(requests.iter().map(|r| r.challenge).collect::<Vec<_>>(), [None, Some([0xcc; 16])]);
    for request in requests {
        let off = clock::now().wall.since(request.timestamp).unsigned_abs();
        assert!(off < 10_000_000_000, "the timestamp is our own, not the gateway's");
    }
}

#[test]
fn a_challenge_is_answered_only_once() {
    let behaviour = |k: &Knocked| {
        let mut receipt = receipt(Status::Challenge, k.source);
        receipt.challenge = Some([u8::try_from(k.number).unwrap() + 1; 16]);
        (vec![], Some(receipt))
    };
    let gateway = Gateway::start(today(), Box::new(behaviour));
    let result = knock(&gateway, &wanted());
    assert_eq!((receipt_of(&result).status, result.knocks), (Status::Challenge, 2));
    let challenges: Vec<_> = gateway.requests().iter().map(|r| r.challenge).collect();
    assert_eq!(challenges, [None, Some([1; 16])]);
}

#[test]
fn an_observed_address_is_never_asked_for_without_the_user() {
    let behaviour = |k: &Knocked| {
        let mut receipt = receipt(Status::Address, k.source);
        receipt.observed = Source::new("203.0.113.66".parse().unwrap());
        (vec![], Some(receipt))
    };
    let gateway = Gateway::start(today(), Box::new(behaviour));
    let result = knock(&gateway, &wanted());
    assert_eq!((receipt_of(&result).status, result.knocks), (Status::Address, 1));
}

#[test]
fn behind_a_nat_a_probe_asks_for_the_address_first() {
    let outer = Source::new("203.0.113.9".parse().unwrap());
    let behaviour = move |k: &Knocked| {
        let status =
            if k.request.kind == KnockKind::Probe { Status::Observed } else { Status::Granted };
        let mut receipt = receipt(status, k.source);
        receipt.observed = outer;
        receipt.challenge = (status == Status::Observed).then_some([5; 16]);
        (vec![], Some(receipt))
    };
    let gateway = Gateway::start(today(), Box::new(behaviour));
    let result = knock(&gateway, &ClientRequest { ask_source: true, ..wanted() });
    assert_eq!(result.named, Some(NamedAddress { source: outer, origin: AddressOrigin::Probed }));
    let [probe, open] = gateway.requests().try_into().unwrap();
    assert_eq!(
        (probe.kind, probe.address, probe.service),
        (KnockKind::Probe, None, ServiceName::NONE)
    );
    assert_eq!(
        (open.kind, open.address, open.challenge),
        (KnockKind::Open, Some(outer), Some([5; 16]))
    );
}

#[test]
fn a_given_source_is_named_unchanged() {
    let given: IpAddr = "198.51.100.4".parse().unwrap();
    let gateway =
        Gateway::start(today(), Box::new(|k| (vec![], Some(receipt(Status::Granted, k.source)))));
    let result =
        knock(&gateway, &ClientRequest { source: Some(given), source_port: 4711, ..wanted() });
    assert_eq!(
        result.named,
        Some(NamedAddress { source: Source::new(given), origin: AddressOrigin::Given })
    );
    let [request] = gateway.requests().try_into().unwrap();
    assert_eq!((request.address, request.source_port), (Some(Source::new(given)), 4711));
}

/// The receipts that a client must not take for an answer to an `open`.
#[test]
fn an_answer_to_something_else_or_an_empty_grant_is_no_answer() {
    for change in [
        |receipt: &mut Receipt| receipt.status = Status::Closed,
        |receipt: &mut Receipt| receipt.status = Status::Observed,
        |receipt: &mut Receipt| receipt.seconds = 0,
        |receipt: &mut Receipt| receipt.granted = None,
    ] {
        let behaviour = move |k: &Knocked| {
            let mut receipt = receipt(Status::Granted, k.source);
            change(&mut receipt);
            if receipt.status != Status::Granted {
                (receipt.seconds, receipt.granted) = (0, None);
            }
            (vec![], Some(receipt))
        };
        let gateway = Gateway::start(today(), Box::new(behaviour));
        let quick = ClientRequest { timeout: SHORT / 10, attempts: 1, ..wanted() };
        let result = knock(&gateway, &quick);
        assert!(matches!(result.outcome, ExchangeOutcome::Silence));
        let [request] = gateway.requests().try_into().unwrap();
        assert_eq!(request.kind, KnockKind::Open);
    }
}

#[test]
fn an_address_is_not_tried_once_another_one_has_answered() {
    let gateway = Gateway::start(today(), Box::new(|_| (vec![], None)));
    let profile = profile(gateway.address.port());
    let signer = Signer::of(identity());
    let answered = OnceLock::from(Instant::now());
    let result = ask(&profile, &signer, &wanted(), gateway.address, PATIENCE, &answered);
    assert!(matches!(result.outcome, ExchangeOutcome::Silence) && result.knocks == 0);
    assert_eq!(gateway.requests().len(), 0);
}

#[test]
fn no_knock_asks_for_an_address_that_was_replaced_in_front_of_the_gateway() {
    let behaviour = |k: &Knocked| {
        let mut receipt = receipt(Status::Observed, k.source);
        // The gateway knows no network but loopback, so any of its own is not ours.
        receipt.observed = Source::new("127.7.7.7".parse().unwrap());
        if k.request.kind == KnockKind::Close {
            receipt.status = Status::Closed;
        }
        (vec![], Some(receipt))
    };
    let gateway = Gateway::start(today(), Box::new(behaviour));
    let open = ClientRequest { ask_source: true, ..wanted() };
    let result = knock(&gateway, &open);
    assert_eq!((receipt_of(&result).status, result.knocks), (Status::Observed, 1));
    // To end grants for it harms nobody.
    let result = knock(&gateway, &ClientRequest { kind: KnockKind::Close, ..open });
    assert_eq!((receipt_of(&result).status, result.knocks), (Status::Closed, 2));
    let kinds: Vec<KnockKind> = gateway.requests().iter().map(|request| request.kind).collect();
    assert_eq!(kinds, [KnockKind::Probe, KnockKind::Probe, KnockKind::Close]);
}
