//! Doors open to what other people's clients send: phones and Windows connect, send datagrams with
//! and without a payload, and ping.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::harness::gate::Gate;
use crate::harness::raw::{Raw, SYN, checksum};
use crate::harness::{Host, SHORT};

const DOOR: &str = "[door.side]\nsequence = [\"7321/tcp\", \"8432/udp\", \"icmp:64\", \"8433/udp\", \"icmp:0\", \"7322/tcp\"]\n\
                    service = \"ssh\"\n";

/// An echo request as `ping -s SIZE` sends it: an identifier, a number, and `size` bytes that count
/// up.
fn ping(from: &Host, to: IpAddr, size: u8) {
    let (domain, protocol, kind) = if to.is_ipv4() {
        (Domain::IPV4, Protocol::ICMPV4, 8)
    } else {
        (Domain::IPV6, Protocol::ICMPV6, 128)
    };
    let mut packet = vec![kind, 0, 0, 0, 0x12, 0x34, 0, 1];
    packet.extend(0..size);
    if to.is_ipv4() {
        // Over IPv6 the kernel fills it in.
        let sum = checksum(&[], &packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    let socket =
        from.space.inside(|| Socket::new(domain, Type::RAW, Some(protocol)).expect("root"));
    socket.send_to(&packet, &SocketAddr::new(to, 0).into()).expect("sent");
}

fn datagram(from: &Host, to: SocketAddr, payload: &[u8]) {
    // The answer to the one before, "port unreachable", is no concern of a knocker.
    let socket = from.space.udp(to);
    socket.send(payload).expect("a new socket");
}

#[test]
fn a_phone_that_connects_sends_any_payload_and_pings_is_let_in_over_ipv4_and_ipv6() {
    let mut gate = Gate::running(|config| config + DOOR);
    for (to, from) in gate.net.gateway_ips().into_iter().zip(gate.net.client.ips()) {
        let client = &gate.net.client;
        let at = |port| SocketAddr::new(to, port);
        assert!(client.connect(at(7321), SHORT).is_err(), "nobody listens there");
        datagram(client, at(8432), b"knock, knock: any text of up to many bytes \xff\x00");
        ping(client, to, 63);
        ping(client, to, 64);
        datagram(client, at(8433), b"");
        ping(client, to, 0);
        assert!(client.connect(at(7322), SHORT).is_err(), "nobody listens there");
        gate.daemon().wait_for(&format!("side: ssh granted to {from}"));
    }
}

/// Windows repeats the SYN that was answered by a RST twice more, half a second later each; many
/// stacks ask for ECN in it.
#[test]
fn repeated_syns_and_datagrams_of_a_windows_client_do_not_spoil_a_knock() {
    const ECN: u8 = 0x40 | 0x80;
    let mut gate = Gate::running(|config| config + DOOR);
    for (to, from) in gate.net.gateway_ips().into_iter().zip(gate.net.client.ips()) {
        let client = &gate.net.client;
        let connect = |port: u16| {
            let raw =
                Raw::new(&client.space, SocketAddr::new(from, 40_000), SocketAddr::new(to, port));
            (0..3).for_each(|_| {
                raw.send(SYN | ECN, 7, 0, &[2, 4, 5, 180, 1, 3, 3, 8, 1, 1, 4, 2]).expect("sent")
            });
        };
        connect(7321);
        (0..3).for_each(|_| datagram(client, SocketAddr::new(to, 8432), b"x"));
        (0..2).for_each(|_| ping(client, to, 64));
        datagram(client, SocketAddr::new(to, 8433), &[0; 1200]);
        (0..2).for_each(|_| ping(client, to, 0));
        connect(7322);
        gate.daemon().wait_for(&format!("side: ssh granted to {from}"));
    }
}

#[test]
fn the_kernels_own_repeated_syn_to_a_port_that_drops_does_not_spoil_a_knock() {
    let mut gate = Gate::running(|config| config + DOOR);
    gate.net.gateway.sh("nft add table ip own; nft add chain ip own input '{ type filter hook input priority 0; }'; \
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
    (0..2).for_each(|_| knock(&gate.net.client));
    knock(&other);
    gate.daemon().wait_for("side: ssh granted to 10.90.1.2");
    let said = gate.daemon().log();
    assert_eq!(said.matches("10.90.0.2: side: Stage 1").count(), 1, "{said}");
}
