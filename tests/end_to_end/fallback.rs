//! The classic sequence as a fallback: it is in the profile, suggested when a sealed knock gets no
//! receipt, and sent only on request.

use std::fs;
use std::process::Output;

use crate::harness::gate::{Gate, ok, stderr};

/// A running gateway with one door that grants ssh, and the profile `laptop` with its sequence.
fn gate() -> Gate {
    let door =
        "[door.side]\nsequence = [\"7321/tcp\", \"8432/udp\", \"icmp:64\"]\nservice = \"ssh\"\n";
    let mut gate = Gate::new(|config| config + door);
    gate.enrol_with("laptop", "ssh", &["--door", "side"]);
    gate.start();
    gate
}

/// Sends sealed knocks of `laptop` to a port that nobody captures from now on.
fn lose_sealed_knocks(gate: &Gate) {
    let profile = gate.path("home/toctoc/profiles/laptop.toml");
    let text = fs::read_to_string(&profile).expect("imported");
    assert!(text.contains("port = 62201"));
    fs::write(profile, text.replace("port = 62201", "port = 62202")).expect("our own file");
}

/// Checks exit code and standard error.
fn says(output: &Output, code: i32, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for words in words {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
}

#[test]
fn when_no_sealed_knock_gets_through_the_sequence_opens_if_the_user_says_so() {
    let mut gate = gate();
    lose_sealed_knocks(&gate);
    let toctoc = |gate: &Gate, words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        gate.toctoc(&gate.net.client, &words)
    };
    let silence = gate.toctoc_as("laptop", "open laptop --timeout 1 --attempts 1");
    says(&silence, 3, &["no answer from", "toctoc open --classic laptop"]);
    // Over IPv4 as root on a system without ping sockets, over IPv6 with them.
    for (range, family, address) in [("1 0", "-4", "10.90.0.2"), ("0 2147483647", "-6", "fd90::2")]
    {
        gate.net.client.space.sh(&format!("echo '{range}' > /proc/sys/net/ipv4/ping_group_range"));
        let output = ok(&toctoc(&gate, &format!("open --classic laptop {family}")));
        assert!(output.contains("sent in cleartext: 3 packets to"), "{output}");
        gate.daemon().wait_for(&format!("side: ssh granted to {address}"));
    }
    let output = gate.daemon().log();
    assert_eq!(
        output.matches("side: Stage 1").count(),
        2,
        "a sequence was sent that the user did not ask for: {output}"
    );
}

#[test]
fn the_whole_sequence_goes_to_the_first_reachable_address() {
    let mut gate = gate();
    gate.net.client.space.sh("echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range");
    gate.net.client.space.sh("ip -6 route add unreachable 2001:db8::/32");
    let profile = gate.path("home/toctoc/profiles/laptop.toml");
    let text = fs::read_to_string(&profile).expect("imported");
    let with = |addresses: &str| text.replace("[\"10.90.0.1\", \"fd90::1\"]", addresses);
    assert_ne!(text, with("[]"), "{text}");
    let open = |gate: &Gate| gate.toctoc(&gate.net.client, &["open", "--classic", "laptop"]);
    fs::write(&profile, with("[\"2001:db8::1\"]")).expect("our own file");
    says(&open(&gate), 4, &["2001:db8::1: 7321/tcp was not sent"]);
    fs::write(&profile, with("[\"2001:db8::1\", \"10.90.0.1\"]")).expect("our own file");
    let output = ok(&open(&gate));
    assert!(output.contains("3 packets to 10.90.0.1;"), "{output}");
    gate.daemon().wait_for("side: ssh granted to 10.90.0.2");
}

#[test]
fn toctoc_knock_sends_echo_requests_too() {
    let mut gate = gate();
    gate.net.client.space.sh("echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range");
    for (to, from) in gate.net.gateway_ips().into_iter().zip(gate.net.client.ips()) {
        let words = ["knock", "-v", &to.to_string(), "7321", "8432:udp", "icmp:64"];
        let output = ok(&gate.toctoc(&gate.net.client, &words));
        assert_eq!(
            output,
            format!("hitting tcp {to}:7321\nhitting udp {to}:8432\nhitting icmp:64 {to}\n")
        );
        gate.daemon().wait_for(&format!("side: ssh granted to {from}"));
    }
}
