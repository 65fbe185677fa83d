//! A client whose clock is wrong gets in anyway and is told by how much. No clock opens an old
//! packet.

use std::fs;
use std::net::SocketAddr;

use toctoc::core::exchange::{ClientRequest, Endpoints, Exchange, Progress};
use toctoc::core::knock::{KnockKind, Status};
use toctoc::core::types::{ServiceName, Wall};
use toctoc::edge::{clock, entropy};
use toctoc::keys::profile::Profile;

use crate::harness::gate::{self, Gate, Knocker, SSH, ok, stderr};
use crate::harness::{LONG, SHORT, until};

const MINUTE: i64 = 60_000;
const DAY: i64 = 1440 * MINUTE;
const YEAR: i64 = 365 * DAY;

#[test]
fn a_client_whose_clock_is_wrong_by_a_minute_a_day_or_ten_years_opens_and_says_by_how_much() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    gate.enrol("anna", "ssh");
    let key = gate.path("anna.key");
    let ssh = gate.port(0, SSH);
    // The clock, and milliseconds that it is behind.
    let clocks = [
        ("-1m", MINUTE),
        ("+1m", -MINUTE),
        ("-1d", DAY),
        ("+1d", -DAY),
        ("-10y", 10 * YEAR),
        ("+10y", -10 * YEAR),
    ];
    for (wrong, behind) in clocks {
        let toctoc = |words: &[&str]| {
            gate.toctoc_at(&gate.net.client, wrong, &[words, &["anna", "-4", "-i", &key]].concat())
        };
        assert!(!gate.net.client.tcp_reaches(ssh, SHORT), "{wrong}: open before the knock");
        let json: serde_json::Value =
            serde_json::from_str(&ok(&toctoc(&["open", "--timeout", "1", "--json"]))).unwrap();
        assert_eq!(json["result"], "granted", "{wrong}: {json}");
        let answer = &json["answers"][0];
        let error = answer["clock_behind_ms"].as_i64().unwrap() - behind;
        assert!(error.abs() < 10_000, "{wrong}: {answer}");
        assert!(gate.net.client.tcp_reaches(ssh, LONG), "{wrong}: not open after the knock");
        let closed = toctoc(&["close", "--timeout", "1"]);
        ok(&closed);
        let side = if behind > 0 { "behind the gateway's" } else { "ahead of the gateway's" };
        let message = stderr(&closed);
        assert!(
            message.contains("note: this machine's clock is") && message.contains(side),
            "{wrong}: {message}"
        );
    }
}

/// A client that knows that its clock is wrong asks for the time at once. Another one learns it
/// from silence: its second packet asks, and the third one opens.
#[test]
fn each_wrong_clock_costs_at_most_two_packets_more() {
    let mut gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    for (clock, packets) in [(0, 1), (-DAY, 2), (3 * DAY, 3), (-3 * DAY, 3), (-80 * YEAR, 2)] {
        assert_eq!(packets_to_open(&gate, &anna, clock), packets, "{clock}");
    }
    // After each start a timestamp alone is not enough. That is the second packet, where the
    // client's day is known: because it was seen, or because both clocks are wrong alike. At last
    // both are right, but the client was seen on a later day.
    for (gateway, client, packets) in
        [("-3d", 0, 2), ("+3d", 0, 3), ("+3d", 3 * DAY, 2), ("+0", 0, 3)]
    {
        gate.stop();
        gate.start_at(gateway);
        assert_eq!(packets_to_open(&gate, &anna, client), packets, "{gateway} {client}");
    }
}

/// Anna opens ssh with her clock wrong by so many milliseconds. An answer is waited for, and so is
/// its absence: until the gateway has counted the packet as one of nobody's.
fn packets_to_open(gate: &Gate, anna: &Knocker, wrong: i64) -> usize {
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    let service = ServiceName::new("ssh").unwrap();
    let wanted = ClientRequest { service, ..ClientRequest::new(KnockKind::Open, LONG, 3) };
    let ends = Endpoints { local: from, gateway: to };
    let Profile { side, key, .. } = &anna.profile;
    let mut exchange = Exchange::new(side.duplicate(), key.clone(), wanted, ends);
    let now = || {
        let offset = wrong.saturating_mul(1_000_000);
        Wall(clock::now().wall.0.saturating_add_signed(offset))
    };
    let unknown = || {
        let packets = &gate.status_json()["packets"]["rejected"];
        let of = packets.as_array().unwrap().iter().find(|one| one[0] == "unknown-tag");
        of.map_or(0, |one| one[1].as_u64().unwrap())
    };
    loop {
        let before = unknown();
        let entropy = entropy::secret().unwrap();
        let packet = exchange.next(now(), &entropy, |message| Ok(anna.sign(message))).unwrap();
        let packet = packet.expect("three packets are enough");
        let socket = gate::send(&gate.net.client, to, &packet.datagram);
        socket.set_read_timeout(Some(SHORT)).unwrap();
        let mut buffer = [0; 1500];
        let mut progress = Progress::Ignored;
        until("the packet is answered or counted as unknown", || {
            if let Ok(length) = socket.recv(&mut buffer) {
                progress = exchange.receive(now(), &buffer[..length]);
            }
            progress != Progress::Ignored || unknown() > before
        });
        if progress == Progress::Over {
            assert_eq!(exchange.received().unwrap().receipt.status, Status::Granted);
            return exchange.sent().len();
        }
    }
}

#[test]
fn status_names_a_client_whose_clock_was_ahead_and_forgiving_gives_it_a_clean_start() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let bert = gate.enrol("bert", "ssh");
    let anna = gate.enrol("anna", "ssh");
    let key = gate.path("anna.key");
    let open = |profile: &str| {
        gate.toctoc_at(&gate.net.client, "+1d", &["open", profile, "-4", "-i", &key])
    };
    ok(&open("anna"));
    let status = gate.status();
    assert!(status.contains("ahead       anna: its clock was ahead"), "{status}");
    assert!(!status.contains("bert:"), "{status}");
    let new = gate.path("anew.toml");
    let output = gate.toctocd(&["client", "forgive", "anna", "--out", &new]);
    ok(&output);
    assert!(stderr(&output).contains("`anna` has a new id"), "{output:?}");
    let status = gate.status();
    assert!(!status.contains("ahead       "), "{status}");
    assert!(gate.nothing_is_open(), "the grant has not ended");
    // With the old profile the client is unknown, whatever it sends.
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    anna.seal(&anna.request("ssh", from)).send_in_vain(&gate.net.client, to);
    ok(&gate.toctoc(&gate.net.client, &["import", "--name", "anew", &new]));
    ok(&gate.toctoc_as("anna", "open anew -4"));
    assert!(gate.net.client.tcp_reaches(SocketAddr::new(to, SSH), LONG));
    assert_eq!(
        bert.open(&gate.net.client, "ssh", 0).map(|r| r.status),
        Some(Status::Granted),
        "another client was affected"
    );
    let clients = fs::read_to_string(gate.path("etc/clients")).unwrap();
    assert_eq!(clients.lines().filter(|line| line.ends_with(" anna")).count(), 1, "{clients}");
}
