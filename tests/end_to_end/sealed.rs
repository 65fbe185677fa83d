//! A sealed knock opens the service that it names, for its sender. Nothing else opens it.

use toctoc::core::knock::Status;

use crate::harness::gate::{DNS, Gate, RDP, SSH, ok, send};
use crate::harness::{LONG, SHORT, eventually};

#[test]
fn a_sealed_knock_opens_its_port_over_ipv4_and_ipv6_and_no_other() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let _rdp = gate.net.gateway.tcp_echo(RDP);
    gate.enrol("anna", "ssh,rdp");
    let stranger = gate.net.host(7);
    for (family, option) in [(0, "-4"), (1, "-6")] {
        let to = gate.port(family, SSH);
        assert!(!gate.net.client.tcp_reaches(to, SHORT), "{to} was open before the knock");
        let output = ok(&gate.toctoc_as("anna", &format!("open anna ssh {option}")));
        assert!(output.contains("granted") && output.contains("22/tcp"), "{output}");
        assert!(gate.net.client.tcp_reaches(to, LONG), "{to} is not open after the knock");
        let rdp = gate.port(family, RDP);
        assert!(!gate.net.client.tcp_reaches(rdp, SHORT), "{rdp} is open too");
        assert!(
            !stranger.tcp_reaches(stranger.gateway(family, SSH), SHORT),
            "{to} is open for another host"
        );
    }
}

#[test]
fn a_knock_opens_a_udp_service_over_ipv4_and_ipv6() {
    let gate = Gate::running(|config| config);
    let _dns = gate.net.gateway.udp_echo(DNS);
    let anna = gate.enrol("anna", "dns");
    for family in [0, 1] {
        let to = gate.port(family, DNS);
        assert!(!gate.net.client.udp_reaches(to, SHORT));
        anna.must_open(&gate.net.client, "dns", family);
        assert!(gate.net.client.udp_reaches(to, LONG));
    }
}

#[test]
fn a_knock_signed_by_another_key_opens_nothing_and_is_not_answered() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let bert = gate.enrol("bert", "ssh");
    // Anna's profile was stolen and her key was not: Bert signs instead.
    let thief = anna.with_signer_of(bert);
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    thief.seal(&thief.request("ssh", from)).send_in_vain(&gate.net.client, to);
    assert!(!gate.net.client.tcp_reaches(gate.port(0, SSH), SHORT));
    let status = gate.status();
    assert!(status.contains("1 was not signed with the client's key"), "{status}");
}

#[test]
fn a_revoked_client_is_a_stranger_and_its_live_grant_ends_at_once() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let to = gate.port(0, SSH);
    anna.must_open(&gate.net.client, "ssh", 0);
    assert!(gate.net.client.tcp_reaches(to, LONG));
    gate.revoke("anna");
    assert!(!gate.net.client.tcp_reaches(to, SHORT), "the grant still exists after the command");
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
        send(&gate.net.client, to, &bad);
    }
    // The valid knock comes last: once it is answered, all others have been processed.
    let receipt = good.send(&gate.net.client, to).expect("a receipt for the valid knock");
    assert_eq!(receipt.status, Status::Granted);
    let grants = gate.grants();
    assert_eq!(grants.lines().count(), 3, "expected a summary, a heading and one grant:\n{grants}");
    let status = gate.status();
    assert!(
        !status.contains("signature"),
        "a changed packet got as far as the signature:\n{status}"
    );
}

#[test]
fn a_bound_source_is_refused_from_elsewhere_without_using_up_the_packet() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let (thief, own) = (gate.net.host(7), gate.net.client.ips()[0]);
    let sealed = anna.seal(&anna.request("ssh", own));
    let receipt =
        sealed.send(&thief, thief.gateway_ips()[0]).expect("a valid signature gets a receipt");
    assert_eq!((receipt.status, receipt.observed.ip()), (Status::Address, thief.ips()[0]));
    assert!(!thief.tcp_reaches(thief.gateway(0, SSH), SHORT));
    assert!(!gate.net.client.tcp_reaches(gate.port(0, SSH), SHORT));
    // The thief who caught it and sent it again has not used it up.
    assert_eq!(
        sealed.send_for_status(&gate.net.client, gate.net.gateway_ips()[0]),
        Some(Status::Granted)
    );
    assert!(gate.net.client.tcp_reaches(gate.port(0, SSH), LONG));
}

#[test]
fn a_service_that_the_client_may_not_open_is_denied_with_a_message() {
    let gate = Gate::running(|config| config);
    gate.enrol("anna", "ssh");
    let output = gate.toctoc_as("anna", "open anna rdp -4 --json");
    let json = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && json.contains("denied"), "{output:?}");
}

#[test]
fn a_close_ends_the_clients_grant_at_once() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    gate.enrol("anna", "ssh");
    let to = gate.port(0, SSH);
    ok(&gate.toctoc_as("anna", "open anna ssh -4"));
    assert!(gate.net.client.tcp_reaches(to, LONG));
    ok(&gate.toctoc_as("anna", "close anna ssh -4"));
    assert!(eventually(LONG, || !gate.net.client.tcp_reaches(to, SHORT)));
}
