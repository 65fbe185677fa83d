//! The gateway sends nothing at all to anybody who may not knock.

use std::time::Duration;

use toctoc::core::knock::Status;
use toctoc::edge::entropy;

use crate::harness::gate::{Gate, KNOCK, SSH};
use crate::harness::{SHORT, process};

#[test]
fn ten_thousand_junk_packets_get_no_answer_and_a_knock_among_them_is_granted() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let junker = gate.net.host(7);
    let good = anna.seal(&anna.request("ssh", gate.net.client.ips()[0])).bytes;
    let socket = junker.space.udp(junker.gateway(0, KNOCK));
    let before = junker.space.ip_counter("InReceives");
    for round in 0..10_000_usize {
        let mut junk: [u8; 300] = entropy::bytes().expect("entropy");
        // All kinds: the right length, other lengths, empty, and valid packets with one byte
        // changed.
        let bytes = match round % 4 {
            0 => &junk[..272],
            1 => &junk[..round % 300],
            2 => &[],
            _ => {
                junk[..272].copy_from_slice(&good);
                junk[round % 272] ^= 0x55;
                &junk[..272]
            }
        };
        socket.send(bytes).expect("no ICMP error came back");
    }
    let receipt = anna.open(&gate.net.client, "ssh", 0).expect("a receipt among the junk");
    assert_eq!(receipt.status, Status::Granted);
    let after = junker.space.ip_counter("InReceives");
    assert_eq!(after - before, 0, "packets came back to the sender of junk");
    let status = gate.status_json();
    assert_eq!(status["grants"], 1, "{status}");
}

#[test]
fn a_scanner_finds_neither_the_service_nor_the_knock_port() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let stranger = gate.net.host(7);
    let to = stranger.gateway_ips()[0];
    let tcp = stranger.space.sh(&format!("nmap -n -Pn -sS -p 22,3389 --max-retries 1 -oG - {to}"));
    assert!(tcp.contains("22/filtered/tcp") && tcp.contains("3389/filtered/tcp"), "{tcp}");
    let udp = stranger.space.sh(&format!("nmap -n -Pn -sU -p {KNOCK} --max-retries 1 -oG - {to}"));
    assert!(udp.contains("62201/open|filtered/udp"), "{udp}");
    let bound = gate.net.gateway.sh("cat /proc/net/udp /proc/net/udp6 | grep -c ':F2F9 ' || true");
    assert_eq!(bound.trim(), "0", "nothing is bound to the knock port");
}

#[test]
fn an_idle_gateway_uses_almost_no_cpu_time() {
    let mut gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    anna.must_open(&gate.net.client, "ssh", 0);
    let gatekeeper = gate.daemon().process.0.id();
    // Time on a processor: however busy the machine is, a sleeping process uses none.
    let before = process::time_on_processor(gatekeeper);
    std::thread::sleep(2 * SHORT);
    let used: Duration = process::time_on_processor(gatekeeper) - before;
    assert!(used < SHORT / 8, "the idle gatekeeper used {used:?} in {:?}", 2 * SHORT);
}
