//! A sealed knock opens the port that it names, for its sender, and nothing else does.

use std::net::SocketAddr;

use toctoc::core::knock::Status;

use crate::harness::gate::{Gate, RDP, SSH, ok};
use crate::harness::{LONG, SHORT, eventually};

#[test]
fn a_sealed_knock_opens_its_port_over_ipv4_and_ipv6_and_no_other() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let _rdp = gate.net.gateway.tcp_echo(RDP);
    gate.enrol("anna", "ssh,rdp");
    let stranger = gate.net.host(7);
    for (ip, family) in gate.net.gateway_ips().into_iter().zip(["-4", "-6"]) {
        let to = SocketAddr::new(ip, SSH);
        assert!(!gate.net.client.tcp_reaches(to, SHORT), "{to} must be shut before the knock");
        let key = gate.path("anna.key");
        let said = ok(&gate.toctoc(&gate.net.client, &["open", "anna", "ssh", family, "-i", &key]));
        assert!(said.contains("granted") && said.contains("22/tcp"), "{said}");
        assert!(gate.net.client.tcp_reaches(to, LONG), "{to} must be open after the knock");
        assert!(
            !gate.net.client.tcp_reaches(SocketAddr::new(ip, RDP), SHORT),
            "only what was asked for is open"
        );
        let (v4, v6) = (stranger.gateway_ips()[0], stranger.gateway_ips()[1]);
        assert!(
            !stranger.tcp_reaches(SocketAddr::new(if ip.is_ipv4() { v4 } else { v6 }, SSH), SHORT),
            "for others it is shut"
        );
    }
}

#[test]
fn a_udp_service_opens_by_time() {
    let gate = Gate::running(|config| config);
    let _dns = gate.net.gateway.udp_echo(crate::harness::gate::DNS);
    let anna = gate.enrol("anna", "dns");
    for (family, ip) in gate.net.gateway_ips().into_iter().enumerate() {
        let to = SocketAddr::new(ip, crate::harness::gate::DNS);
        assert!(!gate.net.client.udp_reaches(to, SHORT));
        assert_eq!(
            anna.open(&gate.net.client, "dns", family).map(|r| r.status),
            Some(Status::Granted)
        );
        assert!(gate.net.client.udp_reaches(to, LONG));
    }
}

#[test]
fn a_knock_signed_by_another_key_opens_nothing_and_is_not_answered() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let bert = gate.enrol("bert", "ssh");
    // Anna's profile was stolen, her key was not: Bert's signature stands in its place.
    let thief = anna.with_signer_of(bert);
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    thief.seal(&thief.request("ssh", from)).send_in_vain(&gate.net.client, to);
    assert!(!gate.net.client.tcp_reaches(SocketAddr::new(to, SSH), SHORT));
    let status = ok(&gate.toctocd(&["status"]));
    assert!(status.contains("1 signature"), "{status}");
}

#[test]
fn a_revoked_client_is_a_stranger_and_its_live_grant_ends_at_once() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let to = SocketAddr::new(gate.net.gateway_ips()[0], SSH);
    assert_eq!(anna.open(&gate.net.client, "ssh", 0).map(|r| r.status), Some(Status::Granted));
    assert!(gate.net.client.tcp_reaches(to, LONG));
    ok(&gate.toctocd(&["client", "revoke", "anna"]));
    assert!(
        !gate.net.client.tcp_reaches(to, SHORT),
        "the grant must be gone when the command is done"
    );
    gate.daemon().wait_for("no longer allowed");
    let again = anna.seal(&anna.request("ssh", gate.net.client.ips()[0]));
    again.send_in_vain(&gate.net.client, to.ip());
    assert!(!gate.net.client.tcp_reaches(to, SHORT));
}

#[test]
fn a_flipped_bit_anywhere_makes_a_knock_worthless() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    let good = anna.seal(&anna.request("ssh", from));
    for byte in 0..good.bytes.len() {
        let mut bad = good.bytes.clone();
        bad[byte] ^= 1 << (byte % 8);
        drop(crate::harness::gate::send(&gate.net.client, to, &bad));
    }
    // The good one comes last: once it is answered, all the bad ones have been looked at.
    let receipt = good.send(&gate.net.client, to).expect("the good one is still good");
    assert_eq!(receipt.status, Status::Granted);
    let grants = ok(&gate.toctocd(&["grants"]));
    assert_eq!(grants.lines().count(), 2, "one heading, one grant:\n{grants}");
    let status = ok(&gate.toctocd(&["status"]));
    assert!(
        !status.contains("signature"),
        "nothing but the whole packet gets as far as a signature:\n{status}"
    );
}

#[test]
fn a_bound_source_is_refused_from_elsewhere_without_burning_the_packet() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let (thief, me) = (gate.net.host(7), gate.net.client.ips()[0]);
    let sealed = anna.seal(&anna.request("ssh", me));
    let receipt =
        sealed.send(&thief, thief.gateway_ips()[0]).expect("a good signature is answered");
    assert_eq!((receipt.status, receipt.observed.ip()), (Status::Address, thief.ips()[0]));
    assert!(!thief.tcp_reaches(SocketAddr::new(thief.gateway_ips()[0], SSH), SHORT));
    assert!(!gate.net.client.tcp_reaches(SocketAddr::new(gate.net.gateway_ips()[0], SSH), SHORT));
    // Whoever caught and re-sent it must not have used it up.
    assert_eq!(
        sealed.send(&gate.net.client, gate.net.gateway_ips()[0]).map(|r| r.status),
        Some(Status::Granted)
    );
    assert!(gate.net.client.tcp_reaches(SocketAddr::new(gate.net.gateway_ips()[0], SSH), LONG));
}

#[test]
fn a_service_that_is_not_the_clients_is_denied_in_words() {
    let gate = Gate::running(|config| config);
    gate.enrol("anna", "ssh");
    let key = gate.path("anna.key");
    let output =
        gate.toctoc(&gate.net.client, &["open", "anna", "rdp", "-4", "-i", &key, "--json"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && said.contains("denied"), "{output:?}");
}

#[test]
fn close_ends_the_callers_grant_at_once() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    gate.enrol("anna", "ssh");
    let (key, to) = (gate.path("anna.key"), SocketAddr::new(gate.net.gateway_ips()[0], SSH));
    ok(&gate.toctoc(&gate.net.client, &["open", "anna", "ssh", "-4", "-i", &key]));
    assert!(gate.net.client.tcp_reaches(to, LONG));
    ok(&gate.toctoc(&gate.net.client, &["close", "anna", "ssh", "-4", "-i", &key]));
    assert!(eventually(LONG, || !gate.net.client.tcp_reaches(to, SHORT)));
}
