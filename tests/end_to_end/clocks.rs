//! A client whose clock is wrong gets in anyway and is told by how much. No clock opens an old
//! packet.

use std::fs;
use std::net::SocketAddr;

use toctoc::core::knock::Status;

use crate::harness::gate::{Gate, SSH, ok, stderr};
use crate::harness::{LONG, SHORT};

const MINUTE: i64 = 60_000;
const DAY: i64 = 1440 * MINUTE;

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
        ("-10y", 3650 * DAY),
        ("+10y", -3650 * DAY),
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
    gate.enrol("anna", "ssh");
    for (clock, packets) in [("+0", 1), ("-1d", 2), ("+3d", 3), ("-3d", 3), ("-80y", 2)] {
        assert_eq!(packets_to_open(&gate, clock), packets, "{clock}");
    }
    // After each start a timestamp alone is not enough. That is the second packet, where the
    // client's day is known: because it was seen, or because both clocks are wrong alike. At last
    // both are right, but the client was seen on a later day.
    for (gateway, client, packets) in
        [("-3d", "+0", 2), ("+3d", "+0", 3), ("+3d", "+3d", 2), ("+0", "+0", 3)]
    {
        gate.stop();
        gate.start_at(gateway);
        assert_eq!(packets_to_open(&gate, client), packets, "{gateway} {client}");
    }
}

/// Anna opens with her clock wrong by `clock`.
fn packets_to_open(gate: &Gate, clock: &str) -> u64 {
    let key = gate.path("anna.key");
    let words = ["open", "--timeout", "1", "--json", "anna", "-4", "-i", &key];
    let run = gate.toctoc_at(&gate.net.client, clock, &words);
    let json: serde_json::Value = serde_json::from_str(&ok(&run)).unwrap();
    json["answers"][0]["knocks"].as_u64().unwrap()
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
