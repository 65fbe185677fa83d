//! Failures around the gateway: ports stay shut, and clients get in again afterwards.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use nix::sys::signal::Signal;
use toctoc::core::knock::Status;

use crate::harness::gate::{self, Gate, SSH, ok, section, stderr};
use crate::harness::{LONG, SHORT, until};

/// Adds an interface to the gateway.
const ADD_GW9: &str =
    "ip link add gw9 type veth peer name gw9p && ip link set gw9p up && ip link set gw9 up";

#[test]
fn a_failed_repair_of_the_guard_is_repeated_until_it_succeeds() {
    let mut gate = Gate::new(|config| config);
    let nft = gate.path("nft");
    gate.edit_config(|config| config.replace("/usr/sbin/nft", &nft));
    let link = || std::os::unix::fs::symlink("/usr/sbin/nft", &nft).unwrap();
    link();
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    gate.start();
    let to = gate.port(0, SSH);
    fs::remove_file(&nft).unwrap();
    gate.net.gateway.sh("nft flush table inet toctoc");
    gate.daemon().wait_for("THE GUARD MAY BE DOWN");
    link();
    gate.daemon().wait_for("loaded again");
    assert!(!gate.net.client.tcp_reaches(to, SHORT));
    assert!(gate.status().contains("guard       up"));
}

#[test]
fn a_grant_that_the_kernel_refuses_is_answered_with_trouble_and_not_kept() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    // The gatekeeper is stopped while the table is deleted and the knock arrives, so that it
    // handles the knock first.
    gate.daemon().process.signal(Signal::SIGSTOP);
    gate.net.gateway.sh("nft delete table inet toctoc");
    let sealed = anna.seal(&anna.request("ssh", from));
    let socket = gate::send(&gate.net.client, to, &sealed.bytes);
    let waits = "ss -H -x -a | awk '$1 == \"u_seq\" && $3 > 0 { found = 1 } END { exit !found }'";
    until("the listener passes the knock on", || {
        gate.net.gateway.run(Command::new("sh").args(["-c", waits])).status.success()
    });
    gate.daemon().process.signal(Signal::SIGCONT);
    assert_eq!(sealed.receipt(&socket, LONG).map(|receipt| receipt.status), Some(Status::Trouble));
    gate.daemon().wait_for("the firewall refused a grant");
    gate.daemon().wait_for("loaded again");
    assert!(gate.nothing_is_open());
    assert!(!gate.net.client.tcp_reaches(SocketAddr::new(to, SSH), SHORT));
    assert_eq!(gate.rejected("firewall"), 1);
    anna.must_open(&gate.net.client, "ssh", 0);
}

/// Mistakes in a configuration, one after another.
const MISTAKES: [(&str, &str); 4] = [
    ("interfaces = [\"any\"]", "interfaces = []"),
    ("[knock]", "[knock"),
    ("[gateway]", "include = \"/no/such\"\n[gateway]"),
    ("[service.ssh]", "[service.other]"),
];

#[test]
fn a_revocation_takes_effect_even_if_the_rest_of_the_configuration_is_broken() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let to = gate.port(0, SSH);
    let good = fs::read_to_string(gate.config()).unwrap();
    for ((from, broken), name) in MISTAKES.into_iter().zip(["anna", "bert", "carl", "dora"]) {
        let anna = gate.enrol(name, "ssh");
        anna.must_open(&gate.net.client, "ssh", 0);
        fs::write(gate.config(), good.replacen(from, broken, 1)).unwrap();
        let output = gate.toctocd(&["client", "revoke", name]);
        assert_eq!(output.status.code(), Some(0), "{broken}: {output:?}");
        let said = stderr(&output);
        assert!(said.contains("the running gateway has"), "{broken}: {said}");
        assert!(!gate.net.client.tcp_reaches(to, SHORT), "{broken}: the grant has not ended");
        anna.seal(&anna.request("ssh", gate.net.client.ips()[0]))
            .send_in_vain(&gate.net.client, to.ip());
        fs::write(gate.config(), &good).unwrap();
        gate.reload();
    }
}

#[test]
fn a_gateway_that_does_not_follow_a_revocation_is_named_as_such() {
    let mut gate = Gate::running(|config| config);
    gate.enrol("anna", "ssh");
    // The configuration names another clients file by now.
    let (old, new) = (gate.path("etc/clients"), gate.path("etc/others"));
    fs::copy(&old, &new).unwrap();
    gate.edit_config(|config| config.replace(&old, &new));
    gate.edit_config(|config| config.replace("[knock]", "[knock"));
    let output = gate.toctocd(&["client", "revoke", "anna"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = stderr(&output);
    assert!(said.contains("THE RUNNING GATEWAY HAS NOT CONFIRMED IT"), "{said}");
    gate.daemon().process.signal(Signal::SIGTERM);
}

#[test]
fn a_gateway_at_another_socket_is_not_taken_for_none_by_a_revocation() {
    let mut gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    gate.edit_config(|config| config.replace("etc/control\"", "etc/other\""));
    let output = gate.toctocd(&["client", "revoke", "anna"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let pid = gate.daemon().process.0.id();
    let expected = format!("THE RUNNING GATEWAY DOES NOT KNOW IT: pid {pid} (toctocd) does not");
    assert!(stderr(&output).contains(&expected), "{output:?}");
    gate.daemon().process.signal(Signal::SIGHUP);
    gate.daemon().wait_for("`control_socket` cannot change");
    anna.seal(&anna.request("ssh", gate.net.client.ips()[0]))
        .send_in_vain(&gate.net.client, gate.net.gateway_ips()[0]);
}

#[test]
fn a_byte_that_is_no_text_in_the_clients_file_keeps_nobody_from_being_revoked() {
    let gate = Gate::running(|config| config);
    let [anna, bert] = ["anna", "bert"].map(|name| gate.enrol(name, "ssh"));
    anna.must_open(&gate.net.client, "ssh", 0);
    let path = gate.path("etc/clients");
    fs::write(&path, [&fs::read(&path).unwrap()[..], b"# Ren\xe9\n"].concat()).unwrap();
    let output = gate.toctocd(&["client", "revoke", "anna"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stderr(&output).contains("has ended its grants and refuses its knocks"), "{output:?}");
    assert!(fs::read(&path).unwrap().ends_with(b"# Ren\xe9\n"), "all else stays");
    assert!(gate.nothing_is_open());
    anna.seal(&anna.request("ssh", gate.net.client.ips()[0]))
        .send_in_vain(&gate.net.client, gate.net.gateway_ips()[0]);
    bert.must_open(&gate.net.client, "ssh", 0);
}

#[test]
fn the_running_gateway_is_asked_and_the_guard_goes_off_while_the_configuration_is_broken() {
    let mut gate = Gate::running(|config| config.replace("table = \"toctoc\"", "table = \"mine\""));
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    anna.must_open(&gate.net.client, "ssh", 0);
    let good = fs::read_to_string(gate.config()).unwrap();
    for (from, broken) in MISTAKES.into_iter().take(3) {
        fs::write(gate.config(), good.replacen(from, broken, 1)).unwrap();
        for (words, part) in [
            (&["status"][..], "open now    1 grant"),
            (&["grants"], "anna"),
            (&["guard", "status"], "guard       up (table inet mine)"),
            (&["guard", "on"], "the guard"),
        ] {
            let output = gate.toctocd(words);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && text.contains(part), "{words:?}: {output:?}");
            assert!(stderr(&output).contains("configuration on disk is not sound"), "{output:?}");
        }
        let said = ok(&gate.toctocd(&["guard", "off"]));
        assert!(said.contains("everything that it guarded is OPEN"), "{said}");
        assert!(gate.net.client.tcp_reaches(gate.port(0, SSH), LONG), "{broken}");
        ok(&gate.toctocd(&["guard", "on"]));
        anna.must_open(&gate.net.client, "ssh", 0);
    }
    // Without a gateway, by the name of the table, if nobody else can have written it.
    gate.kill();
    let tables = |gate: &Gate| gate.net.gateway.sh("nft list tables");
    gate.net.gateway.sh(&format!("chmod 666 {}", gate.config().display()));
    assert!(!gate.toctocd(&["guard", "off"]).status.success());
    assert!(tables(&gate).contains("inet mine"));
    gate.net.gateway.sh(&format!("chmod 644 {}", gate.config().display()));
    ok(&gate.toctocd(&["guard", "off"]));
    assert_eq!(tables(&gate), "");
}

#[test]
fn knocks_are_received_again_on_an_interface_that_was_removed_and_came_back() {
    let mut gate = Gate::new(|config| {
        config.replace("interfaces = [\"any\"]", "interfaces = [\"gw0\", \"gw9\"]")
    });
    gate.net.gateway.sh(ADD_GW9);
    gate.start();
    let anna = gate.enrol("anna", "ssh");
    gate.net.gateway.sh("ip link del gw9");
    gate.daemon().wait_for("gw9 went down");
    let status = gate.status();
    assert!(status.contains("gw9 is not there"), "{status}");
    anna.must_open(&gate.net.client, "ssh", 0);
    gate.net.gateway.sh(&format!("{ADD_GW9} && ip addr add 10.99.9.1/24 dev gw9"));
    gate.daemon().wait_for("gw9 is back");
    anna.must_open(&gate.net.client, "ssh", 0);
    assert!(!gate.status().contains("gw9 is not there"));
}

#[test]
fn a_listener_that_is_killed_is_replaced() {
    let mut gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    gate.daemon().kill_listener();
    gate.daemon().wait_for("a new listener listens");
    anna.must_open(&gate.net.client, "ssh", 0);
}

#[test]
fn an_interface_that_is_away_keeps_no_gateway_from_starting_reloading_or_replacing_its_listener() {
    let mut gate =
        Gate::new(|config| config.replace("interfaces = [\"any\"]", "interfaces = [\"gw9\"]"));
    let checked = gate.check();
    let away =
        "[knock] interfaces: interface gw9: no such interface: no knock is heard there until";
    assert!(checked.contains(away), "{checked}");
    gate.start();
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let to = gate.port(0, SSH);
    let log = gate.daemon().log();
    assert!(log.contains(away), "{log}");
    assert!(gate.status().contains("degraded    interface gw9 is not there"));
    assert!(!gate.net.client.tcp_reaches(to, SHORT), "the guard is not up");
    anna.seal(&anna.request("ssh", gate.net.client.ips()[0]))
        .send_in_vain(&gate.net.client, to.ip());
    gate.daemon().kill_listener();
    gate.daemon().wait_for("a new listener listens");
    gate.net.gateway.sh(&format!("{ADD_GW9} && ip addr add 10.99.9.1/24 dev gw9"));
    gate.daemon().wait_for("gw9 is back");
    // One that is away beside others, and one that is down.
    gate.edit_config(|config| {
        config.replace("interfaces = [\"gw9\"]", "interfaces = [\"gw0\", \"gw8\", \"gw9\"]")
    });
    gate.net.gateway.sh("ip link set gw9 down");
    gate.reload();
    let status = gate.status();
    assert!(status.contains("interface gw8 is not there"), "{status}");
    assert!(status.contains("interface gw9 is not there"), "{status}");
    anna.must_open(&gate.net.client, "ssh", 0);
    gate.net.gateway.sh("ip link set gw9 up");
    gate.daemon().wait_for("gw9 is back");
}

#[test]
fn a_grant_does_not_outlive_the_ports_that_it_was_for() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let to = gate.port(0, SSH);
    anna.must_open(&gate.net.client, "ssh", 0);
    gate.edit_config(|config| {
        let moved = config.replace("ports = [\"22/tcp\"]", "ports = [\"8022/tcp\"]");
        moved + "\n[service.boss]\nports = [\"22/tcp\"]\n"
    });
    gate.reload();
    assert!(
        !gate.net.client.tcp_reaches(to, SHORT),
        "open although port 22 is another service's now"
    );
}

#[test]
fn a_full_disk_opens_nothing_and_loses_nothing() {
    let mut gate = Gate::new(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let disk = gate.start_on_small_disk(64);
    let anna = gate.enrol("anna", "ssh,dns");
    let to = gate.port(0, SSH);
    anna.must_open(&gate.net.client, "dns", 0);
    let _ = fs::write(disk.join("fill"), vec![0; 64 << 10]);
    // The last page of the journal still has room for a few.
    let knock = || {
        let mut request = anna.request("ssh", gate.net.client.ips()[0]);
        request.seconds = 1;
        anna.seal(&request).send_waiting(&gate.net.client, to.ip(), 2 * SHORT).is_some()
    };
    let granted = (0..60).take_while(|_| knock()).count();
    assert!(granted < 60, "sixty marks fitted on a full disk");
    gate.daemon().wait_for("NOTHING OPENS");
    // A grant whose service is forwarded from now on has ended, although that cannot be written
    // either.
    gate.edit_config(|config| {
        let forwarded = "[service.dns]\nforward = \"10.90.0.2:5353\"";
        section(&config, "service.dns", "[service.dns]", forwarded)
    });
    gate.reload();
    until("all grants end", || gate.nothing_is_open());
    // The kernel ends an element some milliseconds after the gateway ends the grant.
    until("the port is shut", || !gate.net.client.tcp_reaches(to, SHORT));
    anna.seal(&anna.request("ssh", gate.net.client.ips()[0]))
        .send_in_vain(&gate.net.client, to.ip());
    fs::remove_file(disk.join("fill")).unwrap();
    gate.daemon().wait_for("knocks count again");
    let journal = Gate::journal(&disk.join("journal"));
    assert_eq!(journal.grants().find(|grant| grant.key.service.as_str() == "dns"), None);
    anna.must_open(&gate.net.client, "ssh", 0);
}

#[test]
fn a_lost_state_demands_challenges_until_an_admin_accepts_the_loss() {
    let mut gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    anna.must_open(&gate.net.client, "ssh", 0);
    gate.stop();
    fs::remove_file(gate.path("etc/state/journal")).unwrap();
    gate.start();
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    let log = gate.daemon().log();
    assert!(log.lines().any(|line| line.contains(" state: ")), "{log}");
    gate.daemon().wait_for("every knock needs a challenge: marks of used knocks were lost");
    let by_time = || anna.seal(&anna.request("ssh", from)).send_for_status(&gate.net.client, to);
    assert_eq!(by_time(), Some(Status::Challenge));
    // The client program recovers by itself, with one more knock.
    ok(&gate.toctoc_as("anna", "open anna ssh -4"));
    assert!(gate.status().contains("marks of used knocks were lost"));
    ok(&gate.toctocd(&["reinitialise"]));
    assert!(gate.status().contains("clock       sure"));
    // Timestamps of just now still do not count; later ones do.
    until("a knock by timestamp is granted", || by_time() == Some(Status::Granted));
}
