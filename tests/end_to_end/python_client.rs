//! An independent client, written from docs/protocol.md, against the real gateway.

use std::process::Command;

use serde_json::Value;
use toctoc::core::types::{SECOND, Wall};
use toctoc::edge::clock;

use crate::harness::LONG;
use crate::harness::gate::{Gate, SSH, ok, section};

/// Seconds of a day.
const DAY: i64 = 86_400;

/// Runs tests/python_client.py on the first host as anna. Returns the receipt of each knock.
fn python(gate: &Gate, words: &str) -> Vec<Value> {
    let mut command = Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python_client.py"));
    command.args([gate.path("anna.toml"), gate.path("anna.key")]);
    let output = gate.net.client.space.run(command.args(words.split_whitespace()));
    ok(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn statuses(receipts: &[Value]) -> Vec<&str> {
    receipts.iter().filter_map(|receipt| receipt["status"].as_str()).collect()
}

/// The last receipt. After a start the gateway may have asked for a challenge first.
fn last(gate: &Gate, words: &str, status: &str) -> Value {
    let receipt = python(gate, words).pop().expect("a line for each knock");
    assert_eq!(receipt["status"], status, "{words}: {receipt}");
    receipt
}

#[test]
fn a_client_written_from_the_protocols_page_probes_opens_and_closes() {
    let gate = Gate::running(|config| {
        let ports = "ports = [\"22/tcp\", \"60000-60010/udp\"]";
        section(&config, "service.ssh", "ports = [\"22/tcp\"]", ports)
    });
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    gate.enrol("anna", "ssh");
    let probe = last(&gate, "probe", "observed");
    assert_eq!(probe["observed"], "10.90.0.2");
    assert!(gate.nothing_is_open());
    let open = last(&gate, "open ssh 10.90.0.2", "granted");
    assert_eq!((&open["granted"], &open["prefix"]), (&"10.90.0.2".into(), &32.into()));
    assert_eq!(open["ports"], serde_json::json!(["22/tcp", "60000-60010/udp"]));
    let time = open["time"].as_u64().expect("nanoseconds");
    assert!(clock::now().wall.since(Wall(time)).unsigned_abs() < 60 * SECOND, "{open}");
    assert_eq!((&open["once"], &open["seconds"]), (&false.into(), &30.into()));
    assert_eq!(open["working_day"], time / (86_400 * SECOND));
    assert!(gate.net.client.tcp_reaches(gate.port(0, SSH), LONG));
    last(&gate, "open rdp 10.90.0.2", "denied");
    last(&gate, "open ssh 10.90.0.9", "address");
    // A challenge of a probe counts for any kind; a dead one does not, whatever the timestamp.
    let probe = last(&gate, "probe", "observed");
    let challenge = probe["challenge"].as_str().expect("text");
    let close = python(&gate, &format!("close ssh --challenge {challenge}"));
    assert_eq!(statuses(&close), ["closed"]);
    assert!(gate.nothing_is_open());
    let dead = python(&gate, &format!("close ssh --challenge {challenge}"));
    assert_eq!(statuses(&dead), ["challenge", "closed"]);
}

#[test]
fn a_client_written_from_the_protocols_page_answers_a_challenge() {
    let gate = Gate::running(|config| {
        section(&config, "service.ssh", "challenge = false", "challenge = true")
    });
    gate.enrol("anna", "ssh");
    let open = python(&gate, "open ssh 10.90.0.2");
    assert_eq!(statuses(&open), ["challenge", "granted"]);
    assert!(gate.grants().contains("10.90.0.2"));
}

#[test]
fn a_client_written_from_the_protocols_page_opens_whatever_its_clock_shows() {
    let gate = Gate::running(|config| config);
    gate.enrol("anna", "ssh");
    let words = "open ssh 10.90.0.2 --patience 2 --clock";
    let open = |clock: i64| python(&gate, &format!("{words} {clock}"));
    // It knows that its clock is wrong, and asks at once.
    let behind = open(-80 * 365 * DAY);
    assert_eq!(statuses(&behind), ["clock", "granted"]);
    assert_eq!(behind[0]["working_day"], behind[1]["working_day"]);
    // The gateway does not know the tag: silence, then the question.
    let ahead = open(3 * DAY);
    assert!(ahead[0].is_null());
    assert_eq!(statuses(&ahead), ["clock", "granted"]);
    // Whatever it sent while its clock was ahead is burned, and so are these three days.
    assert_eq!(statuses(&open(0)), ["challenge", "granted"]);
    assert_eq!(statuses(&python(&gate, "time")), ["clock"]);
}
