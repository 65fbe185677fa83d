//! Connections that are cut when a grant or a client ends, if the service says so: bytes no longer
//! come back.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use toctoc::core::knock::{KnockKind, Request, Status};

use crate::harness::gate::{DNS, Gate, Knocker, SSH, ok, section};
use crate::harness::{Echo, Host, LONG, SHORT, echoes, udp_echoes, until};

/// A gateway whose services have this `cut`, and their servers.
fn gate(cut: &'static str) -> (Gate, Echo, Echo) {
    let gate = Gate::running(move |config| {
        let value = format!("cut = \"{cut}\"");
        let config = section(&config, "service.ssh", "cut = \"never\"", &value);
        section(&config, "service.dns", "cut = \"never\"", &value)
    });
    let tcp = gate.net.gateway.tcp_echo(SSH);
    let udp = gate.net.gateway.udp_echo(DNS);
    (gate, tcp, udp)
}

/// Connections of one client, one for each family.
#[derive(Default)]
struct Sessions {
    streams: Vec<TcpStream>,
    sockets: Vec<UdpSocket>,
}

/// Connects `client` from `host` with each protocol and family, and waits until the grants are
/// over.
fn sessions(gate: &Gate, client: &Knocker, host: &Host) -> Sessions {
    let mut sessions = Sessions::default();
    for (from, to) in host.ips().into_iter().zip(host.gateway_ips()) {
        for service in ["ssh", "dns"] {
            let request = Request { seconds: 1, ..client.request(service, from) };
            assert_eq!(client.seal(&request).send_for_status(host, to), Some(Status::Granted));
        }
        let mut stream = host.connect(SocketAddr::new(to, SSH), LONG).expect("granted");
        let socket = host.space.udp(SocketAddr::new(to, DNS));
        assert!(echoes(&mut stream, LONG) && udp_echoes(&socket, LONG));
        sessions.streams.push(stream);
        sessions.sockets.push(socket);
    }
    until("the grants end", || gate.nothing_is_open());
    sessions
}

/// The number of sessions, of 4, that still get their bytes back.
fn alive(sessions: &mut Sessions, timeout: Duration) -> usize {
    let mut alive = 0;
    for stream in &mut sessions.streams {
        alive += usize::from(echoes(stream, timeout));
    }
    for socket in &sessions.sockets {
        alive += usize::from(udp_echoes(socket, timeout));
    }
    alive
}

#[test]
fn a_revocation_cuts_the_clients_connections_long_after_their_grants_and_no_others() {
    let (mut gate, _tcp, _udp) = gate("revoke");
    let [anna, bert] = ["anna", "bert"].map(|name| gate.enrol(name, "ssh,dns"));
    let other = gate.net.host(7);
    let mut cut = sessions(&gate, &anna, &gate.net.client);
    let mut kept = sessions(&gate, &bert, &other);
    // The gateway was killed and started again in between.
    gate.kill();
    gate.start();
    assert_eq!((alive(&mut cut, LONG), alive(&mut kept, LONG)), (4, 4));
    gate.revoke("anna");
    assert_eq!(alive(&mut cut, SHORT), 0, "alive after the command");
    assert_eq!(alive(&mut kept, LONG), 4);
    gate.daemon().wait_for("connections of 10.90.0.2 to ssh were cut");
    let tracked =
        gate.net.gateway.inside(|| fs::read_to_string("/proc/thread-self/net/stat/nf_conntrack"));
    assert!(tracked.is_ok(), "connection tracking is not in use");
}

#[test]
fn connections_outlive_a_revocation_unless_the_service_says_otherwise() {
    let (gate, _tcp, _udp) = gate("never");
    let anna = gate.enrol("anna", "ssh,dns");
    let mut kept = sessions(&gate, &anna, &gate.net.client);
    // One more, under a grant that is live.
    anna.must_open(&gate.net.client, "ssh", 0);
    let mut live = gate.net.client.connect(gate.port(0, SSH), LONG).expect("granted");
    gate.revoke("anna");
    assert_eq!(alive(&mut kept, LONG), 4);
    assert!(echoes(&mut live, LONG) && gate.nothing_is_open());
}

#[test]
fn a_close_cuts_the_clients_connections_only_if_the_service_says_so() {
    for (cut, left) in [("close", 0), ("revoke", 4)] {
        let (gate, _tcp, _udp) = gate(cut);
        let anna = gate.enrol("anna", "ssh,dns");
        let mut own = sessions(&gate, &anna, &gate.net.client);
        for (from, to) in gate.net.client.ips().into_iter().zip(gate.net.gateway_ips()) {
            for service in ["ssh", "dns"] {
                let request = Request { kind: KnockKind::Close, ..anna.request(service, from) };
                let status = anna.seal(&request).send_for_status(&gate.net.client, to);
                assert_eq!(status, Some(Status::Closed));
            }
        }
        assert_eq!(alive(&mut own, if left == 0 { SHORT } else { LONG }), left, "{cut}");
    }
}

#[test]
fn an_admin_ends_one_grant_and_its_connection_goes_on_until_it_is_cut_too() {
    let (gate, _tcp, _udp) = gate("never");
    let [anna, bert] = ["anna", "bert"].map(|name| gate.enrol(name, "ssh"));
    let other = gate.net.host(7);
    let (to, others) = (gate.port(0, SSH), other.gateway(0, SSH));
    anna.must_open(&gate.net.client, "ssh", 0);
    bert.must_open(&other, "ssh", 0);
    let mut own = gate.net.client.connect(to, LONG).expect("granted");
    let mut kept = other.connect(others, LONG).expect("granted");
    let name = "anna/ssh@10.90.0.2";
    let said = ok(&gate.toctocd(&["close", name]));
    assert!(said.starts_with("ended 1 grant\nconnections to ssh "), "{said}");
    assert!(!gate.net.client.tcp_reaches(to, SHORT) && echoes(&mut own, LONG));
    // The command that it named.
    let said = ok(&gate.toctocd(&["close", name, "--cut"]));
    assert!(said.contains("connections to ssh that came in under them are cut"), "{said}");
    assert!(!echoes(&mut own, SHORT) && echoes(&mut kept, LONG));
    assert!(other.tcp_reaches(others, LONG), "the grant of somebody else");
    let nothing = gate.toctocd(&["close", name, "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&nothing.stdout).expect("JSON");
    assert_eq!((nothing.status.code(), &told["result"]), (Some(5), &"fault".into()));
}

#[test]
fn a_revocation_cuts_a_connection_under_a_live_grant() {
    let (gate, _tcp, _udp) = gate("revoke");
    let anna = gate.enrol("anna", "ssh");
    let to = gate.port(0, SSH);
    anna.must_open(&gate.net.client, "ssh", 0);
    let mut stream = gate.net.client.connect(to, LONG).expect("granted");
    assert!(echoes(&mut stream, LONG));
    gate.revoke("anna");
    assert!(!echoes(&mut stream, SHORT), "the connection is still alive");
    assert!(!gate.net.client.tcp_reaches(to, SHORT));
}

#[test]
fn a_revocation_cuts_what_went_on_after_the_client_closed_its_grant() {
    let (mut gate, _tcp, _udp) = gate("revoke");
    let anna = gate.enrol("anna", "ssh");
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    anna.must_open(&gate.net.client, "ssh", 0);
    let mut stream = gate.net.client.connect(gate.port(0, SSH), LONG).expect("granted");
    let close = Request { kind: KnockKind::Close, ..anna.request("ssh", from) };
    let status = anna.seal(&close).send_for_status(&gate.net.client, to);
    assert_eq!(status, Some(Status::Closed));
    assert!(echoes(&mut stream, LONG), "it goes on");
    gate.kill();
    gate.start();
    assert!(echoes(&mut stream, LONG) && gate.nothing_is_open());
    gate.revoke("anna");
    assert!(!echoes(&mut stream, SHORT), "alive after the revocation");
}

/// The sources of grants in the journal. Expired ones stay while a connection may have to be cut.
fn journalled_sources(gate: &Gate) -> Vec<IpAddr> {
    let journal = Gate::journal(Path::new(&gate.path("etc/state/journal")));
    journal.grants().map(|grant| grant.key.source.ip()).collect()
}

#[test]
fn an_expired_grant_stays_in_the_journal_as_long_as_its_connection_exists() {
    let mut gate = Gate::new(|config| {
        let config = section(&config, "service.ssh", "cut = \"never\"", "cut = \"revoke\"");
        config.replace("interfaces = [\"any\"]", "interfaces = [\"gw0\", \"gw9\"]")
    });
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    gate.net.gateway.sh(
        "ip link add gw9 type veth peer name gw9p && ip link set gw9p up && ip link set gw9 up",
    );
    gate.start();
    let anna = gate.enrol("anna", "ssh");
    let [with, without] = gate.net.client.ips();
    for (from, to) in [with, without].into_iter().zip(gate.net.gateway_ips()) {
        let request = Request { seconds: 1, ..anna.request("ssh", from) };
        let status = anna.seal(&request).send_for_status(&gate.net.client, to);
        assert_eq!(status, Some(Status::Granted));
    }
    let to = gate.port(0, SSH);
    let _stream = gate.net.client.connect(to, LONG).expect("granted");
    until("the grants end", || gate.nothing_is_open());
    // A lost interface makes the periodic check run a second later, instead of when it is due.
    gate.net.gateway.sh("ip link del gw9");
    until("only the grant with a connection stays", || journalled_sources(&gate) == [with]);
}
