//! Classic doors: the stock `knock` and `toctoc knock` open them, their commands run, and no stop
//! command is lost.

use std::fs;

use crate::harness::gate::{Gate, SSH, ok, section, stderr};
use crate::harness::raw::send_echo_request;
use crate::harness::{LONG, SHORT, until};

/// A gateway with one door whose commands log the address that they get.
fn gate(cmd_timeout: u32) -> Gate {
    let mut gate = Gate::new(|config| config);
    let (doors, log) = (gate.path("doors.conf"), gate.path("door.log"));
    let text = format!(
        "[options]\n  UseSyslog\n\
         [web]\n  sequence = 7321:tcp,8432:udp,9543:tcp\n  seq_timeout = 10\n  tcpflags = syn\n  \
         start_command = echo open %IP% >> {log}\n  cmd_timeout = {cmd_timeout}\n  \
         stop_command = echo shut %IP% >> {log}\n\
         [flood]\n  sequence = 5001:udp,5002:udp,5003:udp\n"
    );
    fs::write(&doors, text).expect("our own file");
    gate.use_knockd_conf(&doors);
    gate.start();
    gate
}

fn log(gate: &Gate) -> String {
    fs::read_to_string(gate.path("door.log")).unwrap_or_default()
}

fn opens_and_shuts(gate: &Gate, address: &str) {
    let both = format!("open {address}\nshut {address}\n");
    until(&format!("the log of the door is {both:?}"), || log(gate) == both);
}

#[test]
fn the_stock_knock_client_opens_and_the_door_shuts_after_its_time() {
    let mut gate = gate(1);
    gate.net.client.space.sh("knock -d 20 10.90.0.1 7321:tcp 8432:udp 9543:tcp");
    opens_and_shuts(&gate, "10.90.0.2");
    let daemon = gate.daemon();
    daemon.wait_for("web: command timeout");
    let output = daemon.log();
    for line in
        ["10.90.0.2: web: Stage 1", "10.90.0.2: web: Stage 3", "10.90.0.2: web: OPEN SESAME"]
    {
        assert!(output.contains(line), "{line:?} in {output}");
    }
}

#[test]
fn a_door_without_one_time_sequences_left_is_shut_and_other_doors_are_served() {
    let mut gate = gate(0);
    gate.stop();
    let (doors, once) = (gate.path("doors.conf"), gate.path("once"));
    let text = fs::read_to_string(&doors).expect("our own file");
    fs::write(&once, "#7001,7002\n").expect("our own file");
    fs::write(&doors, format!("{text}[used]\n  one_time_sequences = {once}\n  command = true\n"))
        .expect("our own file");
    gate.start();
    assert!(gate.daemon().log().contains("door [used] stays shut"), "{}", gate.daemon().log());
    gate.net.client.space.sh("knock -d 20 10.90.0.1 7321:tcp 8432:udp 9543:tcp");
    opens_and_shuts(&gate, "10.90.0.2");
}

#[test]
fn only_the_door_whose_next_one_time_sequence_is_public_is_shut_at_start_at_reload_and_in_between()
{
    let mut gate = gate(0);
    let (doors, once, log) = (gate.path("doors.conf"), gate.path("once"), gate.path("once.log"));
    let text = fs::read_to_string(&doors).expect("our own file");
    let door =
        format!("{text}[once]\n  one_time_sequences = {once}\n  command = echo opened >> {log}\n");
    fs::write(&once, " 7101:tcp,7102:tcp,7103:tcp\n 7000,8000,9000\n 7201,7202,7203\n")
        .expect("our own file");
    fs::write(&doors, door).expect("our own file");
    gate.reload();
    gate.net.client.space.sh("knock -d 20 10.90.0.1 7101 7102 7103");
    gate.daemon().wait_for("door once stays shut from now on: the sequence that knockd ships");
    for _ in 0..2 {
        gate.net.client.space.sh("knock -d 20 10.90.0.1 7000 8000 9000");
        // Then the other door: once it has opened, the first knock has been processed.
        gate.net.client.space.sh("knock -d 20 10.90.0.1 7321:tcp 8432:udp 9543:tcp");
        gate.daemon().wait_for("web: OPEN SESAME");
        assert_eq!(fs::read_to_string(&log).expect("it opened once"), "opened\n");
        gate.stop();
        gate.start();
        assert!(
            gate.daemon().log().contains("door [once] stays shut: the sequence that knockd ships")
        );
    }
    let used = fs::read_to_string(&once).expect("our own file").replace(" 7000", "#7000");
    fs::write(&once, used).expect("our own file");
    gate.reload();
    gate.net.client.space.sh("knock -d 20 10.90.0.1 7201 7202 7203");
    gate.daemon().wait_for("once: OPEN SESAME");
    gate.status();
    assert!(
        !gate.daemon().log().contains("was used up before"),
        "not every sequence opened: {}",
        gate.daemon().log()
    );
}

#[test]
fn toctoc_knock_opens_over_ipv4_and_ipv6() {
    let gate = gate(0);
    for (ip, address) in gate.net.gateway_ips().iter().zip(["10.90.0.2", "fd90::2"]) {
        let _ = fs::remove_file(gate.path("door.log"));
        let output = gate.toctoc(
            &gate.net.client,
            &["knock", &ip.to_string(), "7321:tcp", "8432:udp", "9543:tcp"],
        );
        assert!(output.status.success(), "{output:?}");
        opens_and_shuts(&gate, address);
    }
}

#[test]
fn a_wrong_order_opens_nothing() {
    let mut gate = gate(0);
    gate.net.client.space.sh("knock -d 20 10.90.0.1 7321:tcp 9543:tcp 8432:udp");
    // Then a correct sequence from another host: once it has opened, the wrong one has been
    // processed.
    let other = gate.net.host(7);
    other.space.sh("knock -d 20 10.90.7.1 7321:tcp 8432:udp 9543:tcp");
    opens_and_shuts(&gate, "10.90.7.2");
    assert!(!gate.daemon().log().contains("10.90.0.2: web: OPEN"));
}

#[test]
fn a_stop_command_survives_sigkill_and_runs_once_at_the_next_start() {
    let mut gate = gate(2);
    gate.net.client.space.sh("knock -d 20 10.90.0.1 7321:tcp 8432:udp 9543:tcp");
    until("the door opens", || log(&gate) == "open 10.90.0.2\n");
    gate.kill();
    gate.start();
    opens_and_shuts(&gate, "10.90.0.2");
    gate.stop();
    gate.start();
    assert_eq!(log(&gate), "open 10.90.0.2\nshut 10.90.0.2\n", "the stop command must run once");
}

#[test]
fn a_flood_of_first_steps_neither_fills_the_log_nor_keeps_anybody_out() {
    let mut gate = gate(0);
    let other = gate.net.host(7);
    let socket = other.space.udp("10.90.7.1:5001".parse().unwrap());
    // Every second one begins an attempt: more lines than anybody could read.
    for _ in 0..4000 {
        let _ = socket.send(b"x");
    }
    gate.net.client.space.sh("knock -d 20 10.90.0.1 7321:tcp 8432:udp 9543:tcp");
    opens_and_shuts(&gate, "10.90.0.2");
    let output = gate.daemon().wait_for("door messages (rate limit)");
    assert!(!output.starts_with("0 "), "a message without suppressed lines: {output}");
    let lines = gate.daemon().log().lines().count();
    assert!(lines < 1000, "{lines} lines");
}

/// A gateway with one door that grants ssh for `seconds`, by TCP, UDP and an echo request of 64
/// bytes.
fn granting(seconds: u32) -> Gate {
    let door =
        "[door.side]\nsequence = [\"7321/tcp\", \"8432/udp\", \"icmp:64\"]\nservice = \"ssh\"\n";
    Gate::running(|config| {
        section(&config, "service.ssh", "seconds = 30", &format!("seconds = {seconds}")) + door
    })
}

/// Sends an echo request as the phone apps for port knocking do: any `bytes` after the header.
fn ping(gate: &Gate, bytes: usize) {
    send_echo_request(&gate.net.client.space, gate.net.gateway_ips()[0], &vec![0; bytes]);
}

#[test]
fn a_door_grants_a_service_without_any_command_and_the_grant_ends_by_itself() {
    let mut gate = granting(2);
    let _echo = gate.net.gateway.tcp_echo(SSH);
    let ssh = gate.port(0, SSH);
    let knock = |gate: &Gate, bytes| {
        gate.net.client.space.sh("knock -d 20 10.90.0.1 7321:tcp 8432:udp");
        ping(gate, bytes);
    };
    assert!(!gate.net.client.tcp_reaches(ssh, SHORT), "open before the knock");
    knock(&gate, 63);
    gate.daemon().wait_for("side: Stage 2");
    assert!(
        !gate.net.client.tcp_reaches(ssh, SHORT),
        "an echo request of another size was taken for the step"
    );
    // The wrong size is not a step of any door, so the filter drops it: the right one still
    // completes the sequence.
    ping(&gate, 64);
    gate.daemon().wait_for("side: ssh granted to 10.90.0.2");
    assert!(gate.grants().contains("\ndoor:side/ssh@"));
    assert!(gate.net.client.tcp_reaches(ssh, LONG));
    assert!(
        !gate.net.host(1).tcp_reaches((gate.net.gateway_ips()[0], SSH).into(), SHORT),
        "open for another host"
    );
    until("the grant ends", || !gate.net.client.tcp_reaches(ssh, SHORT));
}

/// The format of the app Knock on Ports, version 1: what it has no field for, it does not read.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PhoneFile {
    version: u32,
    sequences: Vec<PhoneSequence>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PhoneSequence {
    name: String,
    host: String,
    delay: u32,
    icmp_type: String,
    ipv: String,
    steps: Vec<PhoneStep>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, tag = "type", rename_all = "lowercase")]
enum PhoneStep {
    Tcp { port: u16 },
    Udp { port: u16 },
    Icmp { icmp_size: u16, icmp_count: u32 },
}

#[test]
fn a_phone_that_imports_an_exported_door_opens_it() {
    let gate = granting(30);
    let text = ok(&gate.toctocd(&["export", "side", "--host", "10.90.0.1"]));
    let file: PhoneFile = serde_json::from_str(&text).expect("the app's format");
    let [sequence] = file.sequences.try_into().ok().expect("one door");
    assert_eq!((file.version, sequence.name.as_str()), (1, "side"));
    assert_eq!(
        (sequence.icmp_type.as_str(), sequence.ipv.as_str()),
        ("without_headers", "only_ipv4")
    );
    let mut words = vec!["knock".to_owned(), "--delay".to_owned(), sequence.delay.to_string()];
    words.push(sequence.host);
    for step in sequence.steps {
        words.push(match step {
            PhoneStep::Tcp { port } => format!("{port}:tcp"),
            PhoneStep::Udp { port } => format!("{port}:udp"),
            PhoneStep::Icmp { icmp_size, icmp_count } => {
                assert_eq!(icmp_count, 1);
                format!("icmp:{icmp_size}")
            }
        });
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    ok(&gate.toctoc(&gate.net.client, &words));
    until("the door grants", || gate.grants().contains("10.90.0.2"));
    // A picture of the same: half blocks, as wide as high.
    let picture = ok(&gate.toctocd(&["export", "side", "--host", "10.90.0.1", "--qr"]));
    let width = picture.lines().next().expect("a line").chars().count();
    assert!(width > 40 && picture.lines().count() == width.div_ceil(2), "{picture}");
    let refused = gate.toctocd(&["export", "front"]);
    assert!(!refused.status.success() && stderr(&refused).contains("no door `front`"));
}
