//! How long a grant lasts and how many connections it admits, also when the daemon ends.

use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use toctoc::core::knock::Status;

use crate::harness::gate::{Gate, RDP, SSH, ok};
use crate::harness::{LONG, SHORT, echoes, eventually, until};

#[test]
fn one_of_two_simultaneous_connections_wins_a_once_grant() {
    let gate = Gate::running(|config| config);
    let _rdp = gate.net.gateway.tcp_echo(RDP);
    let anna = gate.enrol("anna", "rdp");
    for family in [0, 1] {
        let receipt = anna.open(&gate.net.client, "rdp", family).expect("a receipt");
        assert!(receipt.status == Status::Granted && receipt.once, "{receipt:?}");
        let to = gate.port(family, RDP);
        let barrier = Barrier::new(2);
        let won = thread::scope(|scope| {
            let race = || {
                barrier.wait();
                match gate.net.client.connect(to, Duration::from_secs(2)) {
                    Ok(mut stream) => echoes(&mut stream, SHORT),
                    Err(_) => false,
                }
            };
            let racers = [scope.spawn(race), scope.spawn(race)];
            racers.map(|racer| racer.join().unwrap()).into_iter().filter(|won| *won).count()
        });
        assert_eq!(won, 1, "one grant must admit one connection");
        assert!(!gate.net.client.tcp_reaches(to, SHORT), "a later connection was accepted");
    }
}

#[test]
fn a_grant_ends_on_time_with_the_daemon_killed_and_the_guard_stays_shut() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let (from, to) = (gate.net.client.ips()[0], gate.port(0, SSH));
    let mut request = anna.request("ssh", from);
    request.seconds = 3;
    let begin = Instant::now();
    assert_eq!(
        anna.seal(&request).send(&gate.net.client, to.ip()).map(|r| (r.status, r.seconds)),
        Some((Status::Granted, 3))
    );
    gate.kill();
    assert!(gate.net.client.tcp_reaches(to, LONG), "killing the daemon ended the grant");
    assert!(
        eventually(LONG, || !gate.net.client.tcp_reaches(to, SHORT)),
        "the grant did not end without the daemon"
    );
    assert!(
        begin.elapsed() >= Duration::from_millis(2900),
        "the grant ended early, after {:?}",
        begin.elapsed()
    );
    assert!(
        !gate.net.host(7).tcp_reaches(SocketAddr::new("10.90.7.1".parse().unwrap(), SSH), SHORT),
        "open for another host"
    );
}

#[test]
fn an_established_connection_outlives_its_time_grant() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let to = gate.port(0, SSH);
    let mut request = anna.request("ssh", gate.net.client.ips()[0]);
    request.seconds = 1;
    anna.seal(&request).send(&gate.net.client, to.ip()).expect("a receipt");
    let mut stream = gate.net.client.connect(to, LONG).expect("granted");
    assert!(
        eventually(LONG, || gate.net.client.connect(to, SHORT).is_err()),
        "new connections are accepted after the grant"
    );
    assert!(echoes(&mut stream, LONG), "the established connection was cut");
}

/// The remaining seconds of the only grant.
fn seconds_left(gate: &Gate) -> u64 {
    let grants = ok(&gate.toctocd(&["grants", "--json"]));
    let grants: serde_json::Value = serde_json::from_str(&grants).expect("JSON");
    grants[0]["seconds_left"].as_u64().expect("a grant")
}

#[test]
fn live_grants_survive_a_restart_with_their_remaining_time() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let to = gate.port(0, SSH);
    anna.must_open(&gate.net.client, "ssh", 0);
    until("two of its 30 seconds pass", || seconds_left(&gate) <= 28);
    gate.stop();
    gate.start();
    let left = seconds_left(&gate);
    assert!((1..=28).contains(&left), "{left} s left after the restart");
    assert!(gate.net.client.tcp_reaches(to, LONG));
    let grants = gate.grants();
    assert!(grants.contains("anna") && grants.contains("10.90.0.2"), "{grants}");
    // A revocation still ends it.
    gate.revoke("anna");
    assert!(!gate.net.client.tcp_reaches(to, SHORT));
}

#[test]
fn a_flushed_guard_is_put_back_with_its_live_grants() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let to = gate.port(0, SSH);
    anna.must_open(&gate.net.client, "ssh", 0);
    gate.net.gateway.sh("nft flush ruleset");
    gate.daemon().wait_for("put back");
    assert!(gate.net.client.tcp_reaches(to, LONG), "the grant did not come back");
    let stranger = gate.net.host(7);
    assert!(!stranger.tcp_reaches(stranger.gateway(0, SSH), SHORT), "the guard did not come back");
}
