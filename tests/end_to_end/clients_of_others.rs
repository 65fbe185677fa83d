//! Doors open to the packets of other clients: phones and Windows connect, send datagrams with and
//! without a payload, and ping.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::harness::gate::Gate;
use crate::harness::raw::{Raw, SYN, send_echo_request};
use crate::harness::{Host, SHORT};

const DOOR: &str = "[door.side]\nsequence = [\"7321/tcp\", \"8432/udp\", \"icmp:64\", \"8433/udp\", \"icmp:0\", \"7322/tcp\"]\n\
                    service = \"ssh\"\n";

/// Sends an echo request as `ping -s SIZE` does: the payload counts up.
fn ping(from: &Host, to: IpAddr, size: u8) {
    let payload: Vec<u8> = (0..size).collect();
    send_echo_request(&from.space, to, &payload);
}

/// Sends one datagram from a new socket, which has not yet seen "port unreachable".
fn datagram(from: &Host, to: SocketAddr, payload: &[u8]) {
    from.space.udp(to).send(payload).expect("a new socket");
}

#[test]
fn a_phone_that_connects_sends_any_payload_and_pings_is_let_in_over_ipv4_and_ipv6() {
    let mut gate = Gate::running(|config| config + DOOR);
    for (to, from) in gate.net.gateway_ips().into_iter().zip(gate.net.client.ips()) {
        let client = &gate.net.client;
        let at = |port| SocketAddr::new(to, port);
        assert!(client.connect(at(7321), SHORT).is_err(), "a program listens there");
        datagram(client, at(8432), b"knock, knock: any text of up to many bytes \xff\x00");
        ping(client, to, 63);
        ping(client, to, 64);
        datagram(client, at(8433), b"");
        ping(client, to, 0);
        assert!(client.connect(at(7322), SHORT).is_err(), "a program listens there");
        gate.daemon().wait_for(&format!("side: ssh granted to {from}"));
    }
}

/// Windows repeats a SYN that was answered by a RST twice, half a second apart; many stacks ask for
/// ECN in it.
#[test]
fn repeated_syns_and_datagrams_of_a_windows_client_do_not_spoil_a_knock() {
    const ECN: u8 = 0x40 | 0x80;
    let mut gate = Gate::running(|config| config + DOOR);
    for (to, from) in gate.net.gateway_ips().into_iter().zip(gate.net.client.ips()) {
        let client = &gate.net.client;
        let connect = |port: u16| {
            let source = SocketAddr::new(from, 40_000);
            let raw = Raw::new(&client.space, source, SocketAddr::new(to, port));
            for _ in 0..3 {
                raw.send(SYN | ECN, 7, 0, &[2, 4, 5, 180, 1, 3, 3, 8, 1, 1, 4, 2]).expect("sent");
            }
        };
        connect(7321);
        for _ in 0..3 {
            datagram(client, SocketAddr::new(to, 8432), b"x");
        }
        for _ in 0..2 {
            ping(client, to, 64);
        }
        datagram(client, SocketAddr::new(to, 8433), &[0; 1200]);
        for _ in 0..2 {
            ping(client, to, 0);
        }
        connect(7322);
        gate.daemon().wait_for(&format!("side: ssh granted to {from}"));
    }
}

#[test]
fn the_kernels_own_repeated_syn_to_a_port_that_drops_does_not_spoil_a_knock() {
    let mut gate = Gate::running(|config| config + DOOR);
    gate.net.gateway.sh("nft add table ip own
         nft add chain ip own input '{ type filter hook input priority 0; }'
         nft add rule ip own input tcp dport 7321 drop");
    let (to, client) = (gate.net.gateway_ips()[0], &gate.net.client);
    // The first repetition comes after one second.
    assert!(client.connect(SocketAddr::new(to, 7321), Duration::from_millis(1500)).is_err());
    datagram(client, SocketAddr::new(to, 8432), b"");
    ping(client, to, 64);
    datagram(client, SocketAddr::new(to, 8433), b"");
    ping(client, to, 0);
    assert!(client.connect(SocketAddr::new(to, 7322), SHORT).is_err());
    gate.daemon().wait_for("side: ssh granted to 10.90.0.2");
}

#[test]
fn a_pause_after_an_opening_applies_to_that_source_only() {
    let door = "[door.side]\nsequence = [\"7321/udp\", \"8432/udp\", \"6543/udp\"]\npause_after = 60\nservice = \"ssh\"\n";
    let mut gate = Gate::running(|config| config + door);
    let other = gate.net.host(1);
    let knock = |host: &Host| {
        let words =
            ["knock", &host.gateway_ips()[0].to_string(), "7321:udp", "8432:udp", "6543:udp"];
        assert!(gate.toctoc(host, &words).status.success());
    };
    knock(&gate.net.client);
    knock(&gate.net.client);
    knock(&other);
    gate.daemon().wait_for("side: ssh granted to 10.90.1.2");
    let output = gate.daemon().log();
    assert_eq!(output.matches("10.90.0.2: side: Stage 1").count(), 1, "{output}");
}
