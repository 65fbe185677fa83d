//! Services that are forwarded to an inner host: for granted sources only, and only to that port of
//! that host, whatever other translations exist.

use std::net::{IpAddr, SocketAddr};

use crate::harness::gate::{Gate, SSH, section};
use crate::harness::{Echo, Host, LONG, SHORT, echoes};

/// The port of the gateway, and the port of the inner host.
const OUTER: u16 = 3389;
const INNER: u16 = 3390;
/// The change that makes the grant for one connection a grant for a time.
const TIME: (&str, &str) = ("form = \"once\"", "form = \"time\"");

/// A gateway that forwards to an inner host with a server. A server on the gateway's own port must
/// not be reached.
struct Forwarding {
    gate: Gate,
    inner: Host,
    server: Echo,
    own: Echo,
}

impl Forwarding {
    /// `changes` replace lines in the section of the service.
    fn new(changes: &[(&str, &str)]) -> Forwarding {
        let mut gate = Gate::new(|config| {
            let lines = format!(
                "masquerade = false\nforward = [\"10.90.7.2:{INNER}\", \"[fd90:7::2]:{INNER}\"]"
            );
            let mut config = section(&config, "service.rdp", "masquerade = false", &lines);
            for (from, to) in changes {
                config = section(&config, "service.rdp", from, to);
            }
            config
        });
        let inner = gate.net.host(7);
        gate.net.gateway.sh("echo 1 >/proc/sys/net/ipv4/ip_forward
             echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
        let server = inner.space.tcp_echo(INNER);
        let own = gate.net.gateway.tcp_echo(OUTER);
        gate.start();
        Forwarding { gate, inner, server, own }
    }

    fn outer(&self, family: usize) -> SocketAddr {
        self.gate.port(family, OUTER)
    }
}

#[test]
fn a_granted_source_reaches_the_inner_host_by_the_outer_port_and_nobody_else_does() {
    let it = Forwarding::new(&[TIME]);
    let anna = it.gate.enrol("anna", "rdp");
    let stranger = it.gate.net.host(8);
    for family in [0, 1] {
        assert!(!it.gate.net.client.tcp_reaches(it.outer(family), SHORT));
        anna.must_open(&it.gate.net.client, "rdp", family);
        assert!(it.gate.net.client.tcp_reaches(it.outer(family), LONG));
        assert!(!stranger.tcp_reaches(stranger.gateway(family, OUTER), SHORT));
    }
    let peers: Vec<IpAddr> = it.server.peers().iter().map(SocketAddr::ip).collect();
    assert_eq!(peers, it.gate.net.client.ips(), "the inner host must see the client's address");
    assert_eq!(it.own.requests(), 0, "the gateway's own port was reached");
}

#[test]
fn a_one_connection_grant_admits_one_connection_to_an_inner_host() {
    let it = Forwarding::new(&[]);
    let anna = it.gate.enrol("anna", "rdp");
    for family in [0, 1] {
        assert!(anna.open(&it.gate.net.client, "rdp", family).is_some_and(|receipt| receipt.once));
        let mut stream = it.gate.net.client.connect(it.outer(family), LONG).expect("granted");
        assert!(echoes(&mut stream, LONG));
        assert!(!it.gate.net.client.tcp_reaches(it.outer(family), SHORT));
        assert!(echoes(&mut stream, LONG));
    }
    assert_eq!((it.server.requests(), it.own.requests()), (2, 0));
}

#[test]
fn a_grant_for_the_outer_port_is_not_valid_for_another_translation_target() {
    let it = Forwarding::new(&[TIME]);
    let anna = it.gate.enrol("anna", "rdp");
    let bert = it.gate.enrol("bert", "ssh");
    let _ssh = it.gate.net.gateway.tcp_echo(SSH);
    let inner_ssh = it.inner.space.tcp_echo(SSH);
    for family in [0, 1] {
        // A grant of another service does not reach the inner host.
        bert.must_open(&it.gate.net.client, "ssh", family);
        assert!(!it.gate.net.client.tcp_reaches(it.outer(family), SHORT));
        assert!(it.gate.net.client.tcp_reaches(it.gate.port(family, SSH), LONG));
    }
    // A foreign translation comes first and leads the outer port to another port of the inner host.
    it.gate.net.gateway.sh(&format!(
        "nft 'table inet other {{ chain pre {{ type nat hook prerouting priority -150; \
           ip daddr 10.90.0.1 tcp dport {OUTER} dnat ip to 10.90.7.2:{SSH}; \
           ip6 daddr fd90::1 tcp dport {OUTER} dnat ip6 to [fd90:7::2]:{SSH}; }}; }}'"
    ));
    for family in [0, 1] {
        anna.must_open(&it.gate.net.client, "rdp", family);
        assert!(
            !it.gate.net.client.tcp_reaches(it.outer(family), SHORT),
            "a port that was not granted was reached"
        );
    }
    // The same to the gateway's own port.
    it.gate.net.gateway.sh(&format!(
        "nft flush table inet other; nft 'add rule inet other pre tcp dport {OUTER} redirect to :{OUTER}'"
    ));
    for family in [0, 1] {
        assert!(
            !it.gate.net.client.tcp_reaches(it.outer(family), SHORT),
            "a port that was not granted was reached"
        );
    }
    it.gate.net.gateway.sh("nft delete table inet other");
    assert!([0, 1].iter().all(|family| it.gate.net.client.tcp_reaches(it.outer(*family), LONG)));
    assert_eq!((inner_ssh.requests(), it.own.requests(), it.server.requests()), (0, 0, 2));
}

#[test]
fn an_inner_host_without_a_return_route_is_reached_by_masquerade() {
    let it = Forwarding::new(&[TIME, ("masquerade = false", "masquerade = true")]);
    it.inner.space.sh("ip route del default; ip -6 route del default");
    let anna = it.gate.enrol("anna", "rdp");
    for family in [0, 1] {
        anna.must_open(&it.gate.net.client, "rdp", family);
        assert!(it.gate.net.client.tcp_reaches(it.outer(family), LONG));
    }
    let peers: Vec<IpAddr> = it.server.peers().iter().map(SocketAddr::ip).collect();
    assert_eq!(peers, it.inner.gateway_ips());
}

#[test]
fn a_revocation_cuts_the_clients_forwarded_connections() {
    let it = Forwarding::new(&[TIME, ("cut = \"never\"", "cut = \"revoke\"")]);
    let anna = it.gate.enrol("anna", "rdp");
    let mut streams = Vec::new();
    for family in [0, 1] {
        anna.must_open(&it.gate.net.client, "rdp", family);
        streams.push(it.gate.net.client.connect(it.outer(family), LONG).expect("granted"));
    }
    assert!(streams.iter_mut().all(|stream| echoes(stream, LONG)));
    it.gate.revoke("anna");
    assert!(!streams.iter_mut().any(|stream| echoes(stream, SHORT)));
}

#[test]
fn a_reload_that_changes_the_target_ends_its_grants() {
    let it = Forwarding::new(&[TIME]);
    let anna = it.gate.enrol("anna", "ssh,rdp,dns");
    let _other = it.inner.space.tcp_echo(INNER + 1);
    for service in ["ssh", "rdp", "dns"] {
        anna.must_open(&it.gate.net.client, service, 0);
    }
    let mut stream = it.gate.net.client.connect(it.outer(0), LONG).expect("granted");
    it.gate
        .edit_config(|config| config.replace(&format!(":{INNER}\""), &format!(":{}\"", INNER + 1)));
    it.gate.reload();
    let left = it.gate.grants();
    assert!(left.contains(" ssh ") && left.contains(" dns ") && !left.contains(" rdp "), "{left}");
    assert!(
        !it.gate.net.client.tcp_reaches(it.outer(0), SHORT),
        "the grant for the previous target still counts"
    );
    assert!(!echoes(&mut stream, SHORT), "the connection to the previous target was not cut");
    anna.must_open(&it.gate.net.client, "rdp", 0);
    assert!(it.gate.net.client.tcp_reaches(it.outer(0), LONG));
}

#[test]
fn check_and_start_say_that_forwarding_is_disabled() {
    let mut it = Forwarding::new(&[TIME]);
    assert!(!it.gate.check().contains("passed on"));
    it.gate.net.gateway.sh("echo 0 >/proc/sys/net/ipv4/ip_forward");
    it.gate.stop();
    it.gate.start();
    for output in [it.gate.check(), it.gate.daemon().log()] {
        assert!(
            output.contains("service rdp forwards to 10.90.7.2:3390, but this machine does not forward packets: run `sysctl -w net.ipv4.ip_forward=1`"),
            "{output}"
        );
        assert!(!output.contains("service rdp forwards to [fd90:7::2]"), "{output}");
    }
}
