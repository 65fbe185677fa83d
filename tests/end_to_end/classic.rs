//! Classic doors: the stock `knock` and `toctoc knock` open them, their commands run, and the stop command is never lost.

use std::fs;

use crate::harness::gate::Gate;
use crate::harness::{LONG, eventually};

/// A gateway with one door that writes down what its commands are given.
fn gate(cmd_timeout: u32) -> Gate {
    let mut gate = Gate::new(|config| config);
    let (doors, log) = (gate.path("doors.conf"), gate.path("door.log"));
    let text = format!(
        "[options]\n  UseSyslog\n[web]\n  sequence = 7321:tcp,8432:udp,9543:tcp\n  seq_timeout = 10\n  tcpflags = syn\n  \
         start_command = echo open %IP% >> {log}\n  cmd_timeout = {cmd_timeout}\n  stop_command = echo shut %IP% >> {log}\n[flood]\n  sequence = 5001:udp,5002:udp,5003:udp\n"
    );
    fs::write(&doors, text).expect("our own file");
    let config = fs::read_to_string(gate.config()).expect("our own file");
    let with = config.replace("# knockd_conf = \"/etc/knockd.conf\"", &format!("knockd_conf = \"{doors}\""));
    assert_ne!(config, with, "the commented configuration shows the key");
    fs::write(gate.config(), with).expect("our own file");
    gate.start();
    gate
}

fn log(gate: &Gate) -> String {
    fs::read_to_string(gate.path("door.log")).unwrap_or_default()
}

fn opens_and_shuts(gate: &Gate, address: &str) {
    let both = format!("open {address}\nshut {address}\n");
    assert!(eventually(LONG, || log(gate) == both), "{:?}", log(gate));
}

#[test]
fn the_stock_knock_client_opens_and_the_door_shuts_after_its_time() {
    let mut gate = gate(1);
    gate.net.client.space.sh("knock -d 20 10.90.0.1 7321:tcp 8432:udp 9543:tcp");
    opens_and_shuts(&gate, "10.90.0.2");
    let daemon = gate.daemon();
    daemon.wait_for("web: command timeout");
    let said = daemon.said();
    for line in ["10.90.0.2: web: Stage 1", "10.90.0.2: web: Stage 3", "10.90.0.2: web: OPEN SESAME"] {
        assert!(said.contains(line), "{line:?} in {said}");
    }
}

#[test]
fn toctoc_knock_opens_over_ipv4_and_ipv6() {
    let gate = gate(0);
    for (ip, address) in gate.net.gateway_ips().iter().zip(["10.90.0.2", "fd90::2"]) {
        let _ = fs::remove_file(gate.path("door.log"));
        let output = gate.toctoc(&gate.net.client, &["knock", &ip.to_string(), "7321:tcp", "8432:udp", "9543:tcp"]);
        assert!(output.status.success(), "{output:?}");
        opens_and_shuts(&gate, address);
    }
}

#[test]
fn a_wrong_order_opens_nothing() {
    let mut gate = gate(0);
    gate.net.client.space.sh("knock -d 20 10.90.0.1 7321:tcp 9543:tcp 8432:udp");
    // A whole right one from another host afterwards: once it has opened, the wrong one was looked at.
    let other = gate.net.host(7);
    other.space.sh("knock -d 20 10.90.7.1 7321:tcp 8432:udp 9543:tcp");
    opens_and_shuts(&gate, "10.90.7.2");
    assert!(!gate.daemon().said().contains("10.90.0.2: web: OPEN"));
}

#[test]
fn a_stop_command_survives_sigkill_and_runs_once_at_the_next_start() {
    let mut gate = gate(2);
    gate.net.client.space.sh("knock -d 20 10.90.0.1 7321:tcp 8432:udp 9543:tcp");
    assert!(eventually(LONG, || log(&gate) == "open 10.90.0.2\n"));
    gate.kill();
    gate.start();
    opens_and_shuts(&gate, "10.90.0.2");
    gate.stop();
    gate.start();
    assert_eq!(log(&gate), "open 10.90.0.2\nshut 10.90.0.2\n", "once, not again");
}

#[test]
fn a_flood_of_first_hits_fills_no_log_and_keeps_nobody_out() {
    let mut gate = gate(0);
    let other = gate.net.host(7);
    let socket = other.space.udp("10.90.7.1:5001".parse().unwrap());
    // Each second one begins an attempt: more lines than anybody could read.
    (0..4000).for_each(|_| drop(socket.send(b"x")));
    gate.net.client.space.sh("knock -d 20 10.90.0.1 7321:tcp 8432:udp 9543:tcp");
    opens_and_shuts(&gate, "10.90.0.2");
    gate.daemon().wait_for("were left out");
    let lines = gate.daemon().said().lines().count();
    assert!(lines < 1000, "{lines} lines");
}
