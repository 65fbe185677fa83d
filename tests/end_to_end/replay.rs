//! A knock works once: not twice, not from elsewhere, not after a restart, not after SIGKILL.

use toctoc::core::knock::Status;

use crate::harness::gate::{Gate, SSH, Sealed, ok, send};
use crate::harness::{LONG, SHORT};

/// A knock that was granted and whose grant was closed again.
fn used(gate: &Gate) -> Sealed {
    let anna = gate.enrol("anna", "ssh");
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    let sealed = anna.seal(&anna.request("ssh", from));
    assert_eq!(sealed.send_for_status(&gate.net.client, to), Some(Status::Granted));
    ok(&gate.toctoc_as("anna", "close anna ssh -4"));
    sealed
}

fn opens_nothing(gate: &Gate, sealed: &Sealed) {
    sealed.send_in_vain(&gate.net.client, gate.net.gateway_ips()[0]);
    assert!(
        !gate.net.client.tcp_reaches(gate.port(0, SSH), SHORT),
        "a used packet opened the port"
    );
    assert!(gate.nothing_is_open());
}

#[test]
fn a_used_packet_from_the_same_host_opens_nothing() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let sealed = used(&gate);
    opens_nothing(&gate, &sealed);
}

#[test]
fn a_used_packet_from_another_host_opens_nothing_and_raises_an_alarm() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let sealed = used(&gate);
    let thief = gate.net.host(7);
    sealed.send_in_vain(&thief, thief.gateway_ips()[0]);
    assert!(!thief.tcp_reaches(thief.gateway(0, SSH), SHORT));
    let line = gate.daemon().wait_for("ALARM");
    assert!(
        line.contains("anna") && line.contains("10.90.0.2") && line.contains("10.90.7.2"),
        "{line}"
    );
}

#[test]
fn a_used_packet_after_a_restart_opens_nothing() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let sealed = used(&gate);
    gate.stop();
    gate.start();
    opens_nothing(&gate, &sealed);
}

#[test]
fn a_used_packet_after_sigkill_opens_nothing() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let sealed = used(&gate);
    gate.kill();
    gate.start();
    opens_nothing(&gate, &sealed);
}

#[test]
fn a_used_packet_opens_nothing_after_an_older_state_was_restored() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let (journal, backup) = (gate.path("etc/state/journal"), gate.path("backup"));
    std::fs::copy(&journal, &backup).unwrap();
    let sealed = used(&gate);
    gate.kill();
    std::fs::copy(&backup, &journal).unwrap();
    gate.start();
    // The gateway no longer knows that it was used, but a timestamp from before the start does not
    // count.
    let to = gate.net.gateway_ips()[0];
    let receipt = sealed.send(&gate.net.client, to).expect("an unknown knock gets a receipt");
    assert_eq!(receipt.status, Status::Challenge);
    opens_nothing(&gate, &sealed);
}

#[test]
fn a_used_packet_opens_nothing_after_the_whole_state_was_lost_and_status_says_so() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    // By a clock that is ahead.
    let mut request = anna.request("ssh", from);
    request.timestamp = request.timestamp.plus(9);
    let sealed = anna.seal(&request);
    assert_eq!(sealed.send_for_status(&gate.net.client, to), Some(Status::Granted));
    ok(&gate.toctoc_as("anna", "close anna ssh -4"));
    gate.kill();
    std::fs::remove_dir_all(gate.path("etc/state")).unwrap();
    gate.start();
    let receipt = sealed.send(&gate.net.client, to).expect("an unknown knock gets a receipt");
    assert_eq!(receipt.status, Status::Challenge);
    opens_nothing(&gate, &sealed);
    let status = gate.status();
    assert!(status.contains("there is none although clients are enrolled"), "{status}");
    // The client program answers the challenge.
    ok(&gate.toctoc_as("anna", "open anna ssh -4"));
    assert!(gate.net.client.tcp_reaches(gate.port(0, SSH), LONG));
}

#[test]
fn a_gateway_whose_first_client_was_enrolled_before_its_first_start_has_lost_nothing() {
    let mut gate = Gate::new(|config| config);
    gate.enrol("anna", "ssh");
    gate.start();
    let status = gate.status();
    assert!(status.contains("intact"), "{status}");
    ok(&gate.toctoc_as("anna", "open anna ssh -4"));
}

#[test]
fn a_new_knock_right_after_sigkill_is_granted() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    used(&gate);
    gate.kill();
    gate.start();
    ok(&gate.toctoc_as("anna", "open anna ssh -4"));
    assert!(gate.net.client.tcp_reaches(gate.port(0, SSH), LONG));
}

#[test]
fn fifty_parallel_knocks_are_all_granted() {
    let gate = Gate::running(|config| config.replace("max_grants = 16", "max_grants = 64"));
    let anna = gate.enrol("anna", "ssh");
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    let sealed: Vec<Sealed> = (0..50).map(|_| anna.seal(&anna.request("ssh", from))).collect();
    let sockets: Vec<_> =
        sealed.iter().map(|knock| send(&gate.net.client, to, &knock.bytes)).collect();
    for (knock, socket) in sealed.iter().zip(&sockets) {
        let status = knock.receipt(socket, LONG).map(|receipt| receipt.status);
        assert_eq!(status, Some(Status::Granted));
    }
}
