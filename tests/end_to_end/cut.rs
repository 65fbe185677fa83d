//! Connections that end with the right to them, where a service says so: measured with bytes that
//! no longer come back.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};

use toctoc::core::knock::{KnockKind, Status};
use toctoc::edge::clock;
use toctoc::edge::state::State;

use crate::harness::gate::{DNS, Gate, Knocker, SSH, ok, section};
use crate::harness::{Echo, Host, LONG, SHORT, echoes, eventually, udp_echoes};

/// A gateway whose services say `cut`, with servers behind them.
fn gate(cut: &'static str) -> (Gate, Echo, Echo) {
    let gate = Gate::running(move |config| {
        let says = |config: String, service| {
            section(&config, service, "cut = \"never\"", &format!("cut = \"{cut}\""))
        };
        says(says(config, "service.ssh"), "service.dns")
    });
    let servers = (gate.net.gateway.tcp_echo(SSH), gate.net.gateway.udp_echo(DNS));
    (gate, servers.0, servers.1)
}

/// Sessions of each family and protocol that `who` was let in for, from `host`, and then alone: the
/// grants are over.
fn sessions(gate: &Gate, who: &Knocker, host: &Host) -> (Vec<TcpStream>, Vec<UdpSocket>) {
    let (mut streams, mut talks) = (Vec::new(), Vec::new());
    for (from, to) in host.ips().into_iter().zip(host.gateway_ips()) {
        for service in ["ssh", "dns"] {
            let request = toctoc::core::knock::Request { seconds: 1, ..who.request(service, from) };
            assert_eq!(
                who.seal(&request).send_for_status(host, to),
                Some(Status::Granted)
            );
        }
        let mut stream = host.connect(SocketAddr::new(to, SSH), LONG).expect("granted");
        let talk = host.space.udp(SocketAddr::new(to, DNS));
        assert!(echoes(&mut stream, LONG) && udp_echoes(&talk, LONG));
        streams.push(stream);
        talks.push(talk);
    }
    assert!(eventually(LONG, || gate.nothing_is_open()));
    (streams, talks)
}

fn alive(
    (streams, talks): &mut (Vec<TcpStream>, Vec<UdpSocket>),
    patience: std::time::Duration,
) -> usize {
    streams.iter_mut().filter_map(|stream| echoes(stream, patience).then_some(())).count()
        + talks.iter().filter(|talk| udp_echoes(talk, patience)).count()
}

#[test]
fn a_revocation_cuts_the_clients_connections_long_after_their_grants_and_no_others() {
    let (mut gate, _tcp, _udp) = gate("revoke");
    let [anna, bert] = ["anna", "bert"].map(|name| gate.enrol(name, "ssh,dns"));
    let other = gate.net.host(7);
    let mut cut = sessions(&gate, &anna, &gate.net.client);
    let mut kept = sessions(&gate, &bert, &other);
    // The gateway has been started anew in the meantime, and not been told of anything.
    gate.kill();
    gate.start();
    assert_eq!((alive(&mut cut, LONG), alive(&mut kept, LONG)), (4, 4));
    gate.revoke("anna");
    assert_eq!(alive(&mut cut, SHORT), 0, "dead when the command is done");
    assert_eq!(alive(&mut kept, LONG), 4);
    gate.daemon().wait_for("connections of 10.90.0.2 to 22/tcp were cut");
    let tracked = gate
        .net
        .gateway
        .inside(|| std::fs::read_to_string("/proc/thread-self/net/stat/nf_conntrack"));
    assert!(tracked.is_ok(), "connection tracking is in use");
}

#[test]
fn connections_outlive_a_revocation_unless_the_service_says_otherwise() {
    let (gate, _tcp, _udp) = gate("never");
    let anna = gate.enrol("anna", "ssh,dns");
    let mut kept = sessions(&gate, &anna, &gate.net.client);
    gate.revoke("anna");
    assert_eq!(alive(&mut kept, LONG), 4);
}

#[test]
fn a_close_cuts_the_clients_connections_only_if_the_service_says_so() {
    for (cut, left) in [("close", 0), ("revoke", 4)] {
        let (gate, _tcp, _udp) = gate(cut);
        let anna = gate.enrol("anna", "ssh,dns");
        let mut mine = sessions(&gate, &anna, &gate.net.client);
        for (from, to) in gate.net.client.ips().into_iter().zip(gate.net.gateway_ips()) {
            for service in ["ssh", "dns"] {
                let request = toctoc::core::knock::Request {
                    kind: KnockKind::Close,
                    ..anna.request(service, from)
                };
                let receipt = anna.seal(&request).send(&gate.net.client, to).expect("a receipt");
                assert_eq!(receipt.status, Status::Closed);
            }
        }
        assert_eq!(alive(&mut mine, if left == 0 { SHORT } else { LONG }), left, "{cut}");
    }
}

#[test]
fn a_revocation_cuts_a_connection_under_a_live_grant_and_it_is_not_adopted_again() {
    let (gate, _tcp, _udp) = gate("revoke");
    let anna = gate.enrol("anna", "ssh");
    let to = gate.port(0, SSH);
    anna.must_open(&gate.net.client, "ssh", 0);
    let mut stream = gate.net.client.connect(to, LONG).expect("granted");
    assert!(echoes(&mut stream, LONG));
    gate.revoke("anna");
    assert!(!echoes(&mut stream, SHORT), "the element went first");
    assert!(!gate.net.client.tcp_reaches(to, SHORT));
}

/// Whose grants the journal keeps: those that are over too, while a connection may have to be cut.
fn kept_in_mind(gate: &Gate) -> Vec<IpAddr> {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(gate.path("etc/state/journal"), copy.path().join("journal")).unwrap();
    let (_, recovered) = State::open(copy.path(), clock::now().wall, true).unwrap();
    recovered.ledger.grants().map(|live| live.key.source.ip()).collect()
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
        let request = toctoc::core::knock::Request { seconds: 1, ..anna.request("ssh", from) };
        let receipt = anna.seal(&request).send(&gate.net.client, to);
        assert_eq!(receipt.map(|receipt| receipt.status), Some(Status::Granted));
    }
    let to = gate.port(0, SSH);
    let _stream = gate.net.client.connect(to, LONG).expect("granted");
    assert!(eventually(LONG, || gate.nothing_is_open()));
    // It looks around a second later, and not only when it would have anyway.
    gate.net.gateway.sh("ip link del gw9");
    assert!(eventually(LONG, || kept_in_mind(&gate) == [with]), "{:?}", kept_in_mind(&gate));
}
