//! When something goes wrong around the gateway, the door stays shut, or it opens again for those
//! who may enter.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use toctoc::core::knock::Status;
use toctoc::edge::clock;
use toctoc::edge::state::State;

use crate::harness::gate::{self, Gate, SSH, ok, section};
use crate::harness::{LONG, SHORT, eventually};

#[test]
fn a_guard_that_could_not_be_repaired_is_repaired_as_soon_as_it_can_be() {
    let mut gate = Gate::new(|config| config);
    let nft = gate.path("nft");
    let config = fs::read_to_string(gate.config()).unwrap().replace("/usr/sbin/nft", &nft);
    fs::write(gate.config(), config).unwrap();
    let link = || std::os::unix::fs::symlink("/usr/sbin/nft", &nft).unwrap();
    link();
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    gate.start();
    let to = SocketAddr::new(gate.net.gateway_ips()[0], SSH);
    fs::remove_file(&nft).unwrap();
    gate.net.gateway.sh("nft flush table inet toctoc");
    gate.daemon().wait_for("THE GUARD MAY BE DOWN");
    link();
    gate.daemon().wait_for("loaded again");
    assert!(!gate.net.client.tcp_reaches(to, SHORT));
    assert!(ok(&gate.toctocd(&["status"])).contains("guard       up"));
}

#[test]
fn a_grant_that_the_kernel_does_not_take_is_told_as_trouble_and_nobody_has_it() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    let gatekeeper = Pid::from_raw(gate.daemon().process.0.id().try_into().unwrap());
    // The gatekeeper stands still while the table goes and the knock comes: then it finds the knock
    // first.
    kill(gatekeeper, Signal::SIGSTOP).unwrap();
    gate.net.gateway.sh("nft delete table inet toctoc");
    let sealed = anna.seal(&anna.request("ssh", from));
    let socket = gate::send(&gate.net.client, to, &sealed.bytes);
    let waits = "ss -H -x -a | awk '$1 == \"u_seq\" && $3 > 0 { found = 1 } END { exit !found }'";
    let heard = eventually(LONG, || {
        gate.net.gateway.run(Command::new("sh").args(["-c", waits])).status.success()
    });
    kill(gatekeeper, Signal::SIGCONT).unwrap();
    assert!(heard, "the listener passed it on");
    assert_eq!(sealed.receipt(&socket, LONG).map(|receipt| receipt.status), Some(Status::Trouble));
    gate.daemon().wait_for("the firewall refused a grant");
    gate.daemon().wait_for("loaded again");
    assert_eq!(ok(&gate.toctocd(&["grants"])), "nothing is open\n");
    assert!(!gate.net.client.tcp_reaches(SocketAddr::new(to, SSH), SHORT));
    assert_eq!(gate.refused("firewall"), 1);
    assert_eq!(anna.open(&gate.net.client, "ssh", 0).map(|r| r.status), Some(Status::Granted));
}

#[test]
fn a_revocation_counts_even_if_the_rest_of_the_configuration_is_broken() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let to = SocketAddr::new(gate.net.gateway_ips()[0], SSH);
    assert_eq!(anna.open(&gate.net.client, "ssh", 0).map(|r| r.status), Some(Status::Granted));
    let config = fs::read_to_string(gate.config()).unwrap();
    fs::write(gate.config(), config.replace("interfaces = [\"any\"]", "interfaces = [\"eth7\"]"))
        .unwrap();
    let output = gate.toctocd(&["client", "revoke", "anna"]);
    assert_eq!(output.status.code(), Some(1), "it says that the reload failed: {output:?}");
    assert!(!gate.net.client.tcp_reaches(to, SHORT), "but the grant has ended");
    anna.seal(&anna.request("ssh", gate.net.client.ips()[0]))
        .send_in_vain(&gate.net.client, to.ip());
}

#[test]
fn a_captured_interface_that_goes_and_comes_back_is_heard_again() {
    let mut gate = Gate::new(|config| {
        config.replace("interfaces = [\"any\"]", "interfaces = [\"gw0\", \"gw9\"]")
    });
    gate.net.gateway.sh(
        "ip link add gw9 type veth peer name gw9p && ip link set gw9p up && ip link set gw9 up",
    );
    gate.start();
    let anna = gate.enrol("anna", "ssh");
    gate.net.gateway.sh("ip link del gw9");
    gate.daemon().wait_for("gw9 went down");
    let status = ok(&gate.toctocd(&["status"]));
    assert!(status.contains("gw9 is not there"), "{status}");
    assert!(anna.open(&gate.net.client, "ssh", 0).is_some(), "the other one is heard all along");
    gate.net.gateway.sh("ip link add gw9 type veth peer name gw9p && ip link set gw9p up && ip link set gw9 up && ip addr add 10.99.9.1/24 dev gw9");
    gate.daemon().wait_for("gw9 is back");
    assert!(anna.open(&gate.net.client, "ssh", 0).is_some());
    assert!(!ok(&gate.toctocd(&["status"])).contains("gw9 is not there"));
}

#[test]
fn a_listener_that_is_killed_is_replaced() {
    let mut gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    gate.daemon().kill_listener();
    gate.daemon().wait_for("a new listener listens");
    assert_eq!(anna.open(&gate.net.client, "ssh", 0).map(|r| r.status), Some(Status::Granted));
}

#[test]
fn a_listener_that_cannot_be_started_is_tried_again_after_a_longer_pause() {
    let mut gate =
        Gate::new(|config| config.replace("interfaces = [\"any\"]", "interfaces = [\"gw9\"]"));
    let add =
        "ip link add gw9 type veth peer name gw9p && ip link set gw9p up && ip link set gw9 up";
    gate.net.gateway.sh(add);
    gate.start();
    gate.net.gateway.sh("ip link del gw9");
    gate.daemon().wait_for("gw9 went down");
    let killed = Instant::now();
    gate.daemon().kill_listener();
    gate.daemon().wait_for("the next one starts in 1 s");
    gate.daemon().wait_for("no listener: no interface to listen on");
    gate.net.gateway.sh(add);
    assert!(
        ok(&gate.toctocd(&["status"])).contains("no listener is running: knocks are not received")
    );
    gate.daemon().wait_for("a new listener listens");
    // After one second in vain, after two more not.
    assert!(killed.elapsed() > Duration::from_millis(2900), "{:?}", killed.elapsed());
}

#[test]
fn a_grant_does_not_outlive_the_ports_that_it_was_for() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let to = SocketAddr::new(gate.net.gateway_ips()[0], SSH);
    assert_eq!(anna.open(&gate.net.client, "ssh", 0).map(|r| r.status), Some(Status::Granted));
    let config = fs::read_to_string(gate.config()).unwrap();
    let moved = config.replace("ports = [\"22/tcp\"]", "ports = [\"8022/tcp\"]");
    fs::write(gate.config(), moved + "\n[service.boss]\nports = [\"22/tcp\"]\n").unwrap();
    ok(&gate.toctocd(&["reload"]));
    assert!(!gate.net.client.tcp_reaches(to, SHORT), "port 22 is another service's now");
}

#[test]
fn a_full_disk_opens_nothing_and_loses_nothing() {
    let mut gate = Gate::new(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let disk = gate.start_on_small_disk(64);
    let anna = gate.enrol("anna", "ssh,dns");
    let to = SocketAddr::new(gate.net.gateway_ips()[0], SSH);
    assert_eq!(anna.open(&gate.net.client, "dns", 0).map(|r| r.status), Some(Status::Granted));
    let _ = fs::write(disk.join("fill"), vec![0; 64 << 10]);
    // The journal's last page still has room for a few.
    let knock = || {
        let mut request = anna.request("ssh", gate.net.client.ips()[0]);
        request.seconds = 1;
        anna.seal(&request).send_waiting(&gate.net.client, to.ip(), 2 * SHORT).is_some()
    };
    let granted = (0..60).take_while(|_| knock()).count();
    assert!(granted < 60, "sixty marks do not fit a page");
    gate.daemon().wait_for("NOTHING OPENS");
    // What leads elsewhere from now on has ended, although that cannot be written either.
    let config = fs::read_to_string(gate.config()).unwrap();
    let moved = section(
        &config,
        "service.dns",
        "[service.dns]",
        "[service.dns]\nforward = \"10.90.0.2:5353\"",
    );
    fs::write(gate.config(), moved).unwrap();
    ok(&gate.toctocd(&["reload"]));
    assert!(eventually(LONG, || ok(&gate.toctocd(&["grants"])) == "nothing is open\n"));
    // The kernel ends an element by its own tick, some milliseconds after we count the grant as
    // over.
    assert!(eventually(LONG, || !gate.net.client.tcp_reaches(to, SHORT)), "no mark, no grant");
    anna.seal(&anna.request("ssh", gate.net.client.ips()[0]))
        .send_in_vain(&gate.net.client, to.ip());
    fs::remove_file(disk.join("fill")).unwrap();
    gate.daemon().wait_for("knocks count again");
    let copy = tempfile::tempdir().unwrap();
    fs::copy(disk.join("journal"), copy.path().join("journal")).unwrap();
    let (_, recovered) = State::open(copy.path(), clock::now().wall, true).unwrap();
    assert_eq!(recovered.ledger.grants().find(|grant| grant.key.service.as_str() == "dns"), None);
    assert_eq!(anna.open(&gate.net.client, "ssh", 0).map(|r| r.status), Some(Status::Granted));
}

#[test]
fn a_lost_state_demands_challenges_until_an_admin_accepts_the_loss() {
    let mut gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    assert_eq!(anna.open(&gate.net.client, "ssh", 0).map(|r| r.status), Some(Status::Granted));
    gate.stop();
    fs::remove_file(gate.path("etc/state/journal")).unwrap();
    gate.start();
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    assert!(
        gate.daemon().said.iter().any(|line| line.starts_with("state: ")),
        "{:?}",
        gate.daemon().said
    );
    gate.daemon().wait_for("every knock needs a challenge: marks of used knocks were lost");
    let by_time = || {
        anna.seal(&anna.request("ssh", from))
            .send(&gate.net.client, to)
            .map(|receipt| receipt.status)
    };
    assert_eq!(by_time(), Some(Status::Challenge));
    // The client that people use heals it by itself, in one more round.
    let key = gate.path("anna.key");
    ok(&gate.toctoc(&gate.net.client, &["open", "anna", "ssh", "-4", "-i", &key]));
    assert!(ok(&gate.toctocd(&["status"])).contains("marks of used knocks were lost"));
    ok(&gate.toctocd(&["reinitialise"]));
    assert!(ok(&gate.toctocd(&["status"])).contains("clock       sure"));
    // Timestamps of just now still do not count; later ones do.
    assert!(eventually(2 * LONG, || by_time() == Some(Status::Granted)));
}
