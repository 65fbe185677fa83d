//! To whoever may not knock, the gateway sends nothing at all.

use std::net::SocketAddr;
use std::time::Duration;

use toctoc::core::knock::Status;
use toctoc::edge::entropy;

use crate::harness::SHORT;
use crate::harness::gate::{Gate, KNOCK, SSH, ok};

/// IP packets that this host has received since it was made, on its link; neighbour discovery is
/// not among them over IPv4.
fn received(host: &crate::harness::Host) -> u64 {
    let line = host.space.sh("cat /proc/net/snmp | grep '^Ip:' | tail -n 1");
    line.split_whitespace().nth(3).and_then(|number| number.parse().ok()).expect("InReceives")
}

#[test]
fn ten_thousand_junk_packets_get_no_answer_and_a_knock_among_them_is_granted() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let junker = gate.net.host(7);
    let to = junker.gateway_ips()[0];
    let good = anna.seal(&anna.request("ssh", gate.net.client.ips()[0])).bytes;
    let socket = junker.space.udp(SocketAddr::new(to, KNOCK));
    socket.set_nonblocking(false).expect("a socket");
    let before = received(&junker);
    for round in 0..10_000_usize {
        let mut junk: [u8; 300] = entropy::bytes().expect("entropy");
        // Of every kind: the right length, other lengths, empty ones, and good packets with one
        // byte changed.
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
        socket.send(bytes).expect("a datagram with no answer is never refused");
    }
    let receipt = anna.open(&gate.net.client, "ssh", 0).expect("heard among the junk");
    assert_eq!(receipt.status, Status::Granted);
    assert_eq!(received(&junker) - before, 0, "not one packet came back to the one who sent junk");
    let status = ok(&gate.toctocd(&["status", "--json"]));
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
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
    // Nanoseconds on a processor: however busy the machine is, who sleeps needs none.
    let worked = || {
        let text =
            std::fs::read_to_string(format!("/proc/{gatekeeper}/schedstat")).expect("it runs");
        Duration::from_nanos(
            text.split(' ').next().and_then(|number| number.parse().ok()).expect("a number"),
        )
    };
    let before = worked();
    std::thread::sleep(2 * SHORT);
    let during = worked() - before;
    assert!(during < SHORT / 8, "{during:?}");
}
