//! Messages to the owner of a valid key: the observed address, the reason of a refusal, and what to
//! try. The client program retries by itself where that helps.

use std::fs;
use std::process::Output;

use serde_json::Value;
use toctoc::core::knock::Status;

use crate::harness::gate::{Gate, SSH, ok, section, stderr};
use crate::harness::{LONG, SHORT, until};

/// `toctoc` on the client, as anna.
fn anna(gate: &Gate, words: &[&str]) -> Output {
    let key = gate.path("anna.key");
    gate.toctoc(&gate.net.client, &[words, &["-4", "-i", &key]].concat())
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

#[test]
fn a_probe_returns_the_observed_address_and_opens_nothing() {
    let gate = Gate::running(|config| config);
    gate.enrol("anna", "ssh");
    assert!(ok(&anna(&gate, &["probe", "anna"])).contains("it sees you as 10.90.0.2"));
    assert!(gate.nothing_is_open());
}

#[test]
fn behind_a_nat_the_client_prints_the_observed_address_and_uses_it_with_ask_source() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    gate.enrol("anna", "ssh");
    let inner = gate.net.client.space.behind_nat();
    let key = gate.path("anna.key");
    let open = |more: &[&str]| {
        let words = ["open", "anna", "ssh", "-4", "-i", &key];
        gate.toctoc_in(&inner, &[&words, more].concat())
    };
    let ssh = gate.port(0, SSH);
    let refused = open(&[]);
    let message = stderr(&refused);
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains("the knock named 192.168.7.2"), "{message}");
    assert!(message.contains("from 10.90.0.2"), "{message}");
    assert!(inner.connect(ssh, SHORT).is_err(), "the refused knock opened the port");
    let granted = ok(&open(&["--ask-source"]));
    assert!(
        granted.contains("10.90.0.2 may reach 22/tcp") && granted.contains("what the gateway saw"),
        "{granted}"
    );
    assert!(inner.connect(ssh, LONG).is_ok());
}

#[test]
fn a_service_that_demands_a_challenge_needs_one_retry_and_accepts_no_timestamp_instead() {
    let gate = Gate::running(|config| {
        section(&config, "service.ssh", "challenge = false", "challenge = true")
    });
    let knocker = gate.enrol("anna", "ssh");
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    let knock = knocker.seal(&knocker.request("ssh", from));
    let receipt = knock.send(&gate.net.client, to).expect("a receipt");
    assert_eq!(receipt.status, Status::Challenge);
    assert!(receipt.challenge.is_some(), "{receipt:?}");
    let output = json(&anna(&gate, &["open", "anna", "ssh", "--json"]));
    assert_eq!(
        (&output["result"], &output["answers"][0]["knocks"]),
        (&"granted".into(), &2.into()),
        "{output}"
    );
}

#[test]
fn too_many_grants_are_refused_with_a_message_and_a_knock_that_wants_no_receipt_gets_none() {
    let gate =
        Gate::running(|config| section(&config, "knock", "max_grants = 16", "max_grants = 1"));
    let knocker = gate.enrol("anna", "ssh,rdp");
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    let mut silent = knocker.request("ssh", from);
    silent.receipt_wanted = false;
    knocker.seal(&silent).send_in_vain(&gate.net.client, to);
    until("the knock without a receipt is granted", || gate.grants().contains("10.90.0.2"));
    let full = anna(&gate, &["open", "anna", "rdp", "--json"]);
    assert_eq!((full.status.code(), &json(&full)["result"]), (Some(1), &"full".into()), "{full:?}");
}

#[test]
fn a_gateway_whose_clock_went_back_says_so_and_accepts_only_challenged_knocks() {
    let mut gate = Gate::running(|config| config);
    let knocker = gate.enrol("anna", "ssh");
    gate.stop();
    gate.start_at("-1d");
    let status = gate.status();
    assert!(status.contains("less than it did before"), "{status}");
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    // Its timestamp is in the window of the wrong clock.
    let mut request = knocker.request("ssh", from);
    request.timestamp.0 -= 86_400 * 1_000_000_000;
    let status = knocker.seal(&request).send_for_status(&gate.net.client, to);
    assert_eq!(status, Some(Status::Challenge));
    let output = anna(&gate, &["open", "anna", "ssh"]);
    assert!(ok(&output).contains("granted"));
    assert!(stderr(&output).contains("ahead of the gateway's"), "{output:?}");
    gate.stop();
    assert!(fs::metadata(gate.path("etc/state/journal")).is_ok());
    gate.start();
    assert!(gate.status().contains("clock       sure"), "{}", gate.status());
}
