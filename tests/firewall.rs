//! The guard as the kernel keeps it: real nftables, real packets, each test in namespaces of its own.
//! The daemon around it is left to the end-to-end tests.

mod harness;

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use harness::{Echo, Host, LONG, Net, SHORT, echoes, eventually, udp_echoes};
use toctoc::config::{Firewall as Settings, Knock};
use toctoc::core::grants::{Change, Element};
use toctoc::core::service::{Form, Service, SourceRule};
use toctoc::core::types::{Port, Proto, ServiceName, Source};
use toctoc::edge::firewall::{Firewall, Nft, Repair, unload};

const SSH: Port = Port { proto: Proto::Tcp, number: 22 };
const DNS: Port = Port { proto: Proto::Udp, number: 53 };
/// A port of each protocol that no service has.
const OTHER: u16 = 8080;
const KNOCK: u16 = 62201;

fn settings() -> Settings {
    Settings { table: "toctoc".into(), nft: "/usr/sbin/nft".into(), break_glass: Vec::new() }
}

fn services(ports: &[Port]) -> Vec<Service> {
    vec![Service {
        name: ServiceName::new("all").unwrap(),
        ports: ports.to_vec(),
        form: Form::Time,
        seconds: 30,
        max_seconds: 600,
        max_grants: 64,
        source: SourceRule::Bound,
        challenge: false,
    }]
}

fn knock() -> Knock {
    Knock {
        port: KNOCK,
        interfaces: vec!["any".into()],
        silent: true,
        max_age: 30,
        max_ahead: 10,
        burst: 64,
        per_second: 4,
        max_grants: 16,
    }
}

/// A guarded gateway with servers behind the guard, and a client.
struct Guarded {
    nft: Nft,
    net: Net,
    tcp: Echo,
    udp: Echo,
}

impl Guarded {
    fn new() -> Guarded {
        Guarded::with(&settings())
    }

    fn with(settings: &Settings) -> Guarded {
        let net = Net::new();
        let (tcp, udp) = (net.gateway.tcp_echo(SSH.number), net.gateway.udp_echo(DNS.number));
        let nft = net.gateway.inside(|| Nft::start(settings, &services(&[SSH, DNS]), &knock())).unwrap();
        Guarded { nft, net, tcp, udp }
    }

    fn grant(&mut self, source: IpAddr, port: Port, form: Form, millis: u64) -> Element {
        let element = Element { source: Source::new(source), port, form };
        self.nft.apply(&[Change::Set { element, millis }]).unwrap();
        element
    }

    /// (client's address, gateway's address) of each family.
    fn pairs(&self) -> [(IpAddr, IpAddr); 2] {
        let ([a4, a6], [b4, b6]) = (self.net.client.ips(), self.net.gateway_ips());
        [(a4, b4), (a6, b6)]
    }
}

fn ssh(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, SSH.number)
}

fn dns(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, DNS.number)
}

#[test]
fn without_a_guard_the_harness_reaches_every_server_on_both_families() {
    let net = Net::new();
    let _tcp = net.gateway.tcp_echo(22);
    let _udp = net.gateway.udp_echo(53);
    let stranger = net.host(1);
    for host in [&net.client, &stranger] {
        for ip in host.gateway_ips() {
            assert!(host.tcp_reaches(ssh(ip), LONG));
            assert!(host.udp_reaches(dns(ip), LONG));
            assert!(!host.udp_reaches(SocketAddr::new(ip, 54), SHORT));
        }
    }
}

#[test]
fn a_guarded_port_is_silent_until_granted_and_only_for_the_granted_source_family_and_port() {
    let mut it = Guarded::new();
    let stranger = it.net.host(1);
    for (from, to) in it.pairs() {
        assert!(!it.net.client.tcp_reaches(ssh(to), SHORT));
        assert!(!it.net.client.udp_reaches(dns(to), SHORT));
        it.grant(from, SSH, Form::Time, 60_000);
        assert!(it.net.client.tcp_reaches(ssh(to), LONG));
        assert!(!it.net.client.udp_reaches(dns(to), SHORT), "another port");
        it.grant(from, DNS, Form::Time, 60_000);
        assert!(it.net.client.udp_reaches(dns(to), LONG));
    }
    for to in stranger.gateway_ips() {
        assert!(!stranger.tcp_reaches(ssh(to), SHORT) && !stranger.udp_reaches(dns(to), SHORT));
    }
    assert_eq!((it.tcp.heard(), it.udp.heard()), (2, 2));
}

#[test]
fn a_grant_of_one_family_opens_nothing_on_the_other() {
    let mut it = Guarded::new();
    let [(from4, to4), (_, to6)] = it.pairs();
    it.grant(from4, SSH, Form::Time, 60_000);
    assert!(!it.net.client.tcp_reaches(ssh(to6), SHORT));
    assert!(it.net.client.tcp_reaches(ssh(to4), LONG));
}

#[test]
fn a_time_grant_ends_by_itself_and_its_connections_live_on() {
    let mut it = Guarded::new();
    for (from, to) in it.pairs() {
        let element = it.grant(from, SSH, Form::Time, 700);
        it.grant(from, DNS, Form::Time, 700);
        let mut session = it.net.client.connect(ssh(to), LONG).unwrap();
        let datagrams = it.net.client.space.udp(dns(to));
        assert!(echoes(&mut session, LONG) && udp_echoes(&datagrams, LONG));
        assert!(eventually(LONG, || it.nft.remaining(&element).unwrap().is_none() && it.nft.list().unwrap().is_empty()));
        assert!(!it.net.client.tcp_reaches(ssh(to), SHORT) && !it.net.client.udp_reaches(dns(to), SHORT));
        assert!(echoes(&mut session, LONG) && udp_echoes(&datagrams, LONG));
    }
}
