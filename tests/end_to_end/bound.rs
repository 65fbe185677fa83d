//! Grants narrower and wider than one address: one source port, an address by policy, a whole /64.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use toctoc::core::knock::{Receipt, Request, Status};

use crate::harness::gate::{DNS, Gate, Knocker, RDP, SSH, ok, section};
use crate::harness::{Host, LONG, SHORT, echoes, eventually, udp_echoes};

const PORT: u16 = 40_022;

/// A connection from `from`, which is of the host.
fn connect(
    host: &Host,
    from: SocketAddr,
    to: SocketAddr,
    timeout: Duration,
) -> std::io::Result<TcpStream> {
    let socket = host.space.inside(|| Socket::new(Domain::for_address(to), Type::STREAM, None))?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), timeout)?;
    Ok(socket.into())
}

fn reaches(host: &Host, from: SocketAddr, to: SocketAddr, timeout: Duration) -> bool {
    connect(host, from, to, timeout).is_ok_and(|mut stream| {
        // So that the port is free again at once.
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        echoes(&mut stream, timeout)
    })
}

/// (client's address, gateway's) of each family, and the option for it.
fn pairs(gate: &Gate) -> Vec<(IpAddr, IpAddr, &'static str)> {
    let ends = gate.net.client.ips().into_iter().zip(gate.net.gateway_ips());
    ends.zip(["-4", "-6"]).map(|((from, to), family)| (from, to, family)).collect()
}

fn knock(
    who: &Knocker,
    host: &Host,
    family: usize,
    service: &str,
    change: impl FnOnce(&mut Request),
) -> Receipt {
    let mut request = who.request(service, host.ips()[family]);
    change(&mut request);
    who.seal(&request).send(host, host.gateway_ips()[family]).expect("a receipt")
}

#[test]
fn a_grant_for_a_source_port_lets_in_from_that_port_alone_also_after_a_restart() {
    let mut gate = Gate::running(|config| config);
    let _servers = (gate.net.gateway.tcp_echo(SSH), gate.net.gateway.udp_echo(DNS));
    let anna = gate.enrol("anna", "ssh,dns");
    let key = gate.path("anna.key");
    for (from, to, family) in pairs(&gate) {
        let said = ok(&gate.toctoc(
            &gate.net.client,
            &[
                "open",
                "anna",
                "ssh",
                family,
                "-i",
                &key,
                "--source-port",
                "40022",
                "--seconds",
                "600",
            ],
        ));
        assert!(said.contains("from port 40022"), "{said}");
        let (here, there) = (SocketAddr::new(from, PORT), SocketAddr::new(to, SSH));
        assert!(!gate.net.client.tcp_reaches(there, SHORT), "from another port");
        assert!(reaches(&gate.net.client, here, there, LONG));
    }
    for (family, (from, to, _)) in pairs(&gate).into_iter().enumerate() {
        assert_eq!(
            knock(&anna, &gate.net.client, family, "dns", |r| r.source_port = PORT).status,
            Status::Granted
        );
        let bound =
            gate.net.client.space.inside(|| std::net::UdpSocket::bind((from, PORT))).unwrap();
        bound.connect((to, DNS)).unwrap();
        assert!(
            !gate.net.client.udp_reaches(SocketAddr::new(to, DNS), SHORT)
                && udp_echoes(&bound, LONG)
        );
    }
    gate.kill();
    gate.start();
    assert!(!gate.daemon().said().contains("removed"), "the elements are known again");
    let grants = ok(&gate.toctocd(&["grants"]));
    assert!(
        grants.contains("10.90.0.2 port 40022") && grants.contains("fd90::2 port 40022"),
        "{grants}"
    );
    for (from, to, family) in pairs(&gate) {
        let (here, there) = (SocketAddr::new(from, PORT), SocketAddr::new(to, SSH));
        assert!(
            !gate.net.client.tcp_reaches(there, SHORT)
                && reaches(&gate.net.client, here, there, LONG)
        );
        ok(&gate.toctoc(&gate.net.client, &["close", "anna", "ssh", family, "-i", &key]));
        assert!(!reaches(&gate.net.client, here, there, SHORT));
    }
}

#[test]
fn one_connection_from_a_source_port_is_spent_by_no_other_one() {
    let gate = Gate::running(|config| config);
    let _rdp = gate.net.gateway.tcp_echo(RDP);
    let [anna, bert] = ["anna", "bert"].map(|name| gate.enrol(name, "rdp"));
    for (family, (from, to, _)) in pairs(&gate).into_iter().enumerate() {
        let (here, there) = (SocketAddr::new(from, PORT), SocketAddr::new(to, RDP));
        assert_eq!(
            knock(&anna, &gate.net.client, family, "rdp", |r| r.source_port = PORT).status,
            Status::Granted
        );
        assert!(!gate.net.client.tcp_reaches(there, SHORT), "from another port");
        // A neighbour's grant for any port is spent by his own connection, and the one for this
        // port stands.
        assert!(knock(&bert, &gate.net.client, family, "rdp", |_| {}).once);
        // Even if it happens to come from this port.
        assert!(
            reaches(&gate.net.client, here, there, LONG)
                && reaches(&gate.net.client, here, there, LONG)
        );
        assert!(!gate.net.client.tcp_reaches(there, SHORT), "spent");
        assert!(!reaches(&gate.net.client, here, there, SHORT), "spent");
    }
}

#[test]
fn an_address_that_policy_lists_is_granted_to_a_knock_from_elsewhere_and_no_other_is() {
    let prefixes = "source = [\"10.90.0.0/24\", \"fd90::/64\"]";
    let mut gate =
        Gate::running(|config| section(&config, "service.ssh", "source = \"bound\"", prefixes));
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let other = gate.net.host(7);
    let key = gate.path("anna.key");
    // By the other family, with the client that people use.
    for ((from, _, _), (_, to, family)) in
        pairs(&gate).into_iter().zip(pairs(&gate).into_iter().rev())
    {
        let home = SocketAddr::new(
            if from.is_ipv4() { gate.net.gateway_ips()[0] } else { gate.net.gateway_ips()[1] },
            SSH,
        );
        assert!(!gate.net.client.tcp_reaches(home, SHORT));
        let words = ["open", "anna", "ssh", family, "-i", &key, "--source", &from.to_string()];
        let said = ok(&gate.toctoc(&gate.net.client, &words));
        assert!(
            said.contains(&format!("granted: {from} may reach"))
                && said.contains("the knock came from"),
            "{said}"
        );
        assert!(gate.net.client.tcp_reaches(home, LONG));
        assert!(
            !gate.net.client.tcp_reaches(SocketAddr::new(to, SSH), SHORT),
            "the address that was not named"
        );
        ok(&gate.toctoc(
            &gate.net.client,
            &["close", "anna", "ssh", family, "-i", &key, "--source", &from.to_string()],
        ));
    }
    // From another host, by the bytes.
    for family in [0, 1] {
        let (mine, to) =
            (gate.net.client.ips()[family], SocketAddr::new(gate.net.gateway_ips()[family], SSH));
        let receipt = knock(&anna, &other, family, "ssh", |r| {
            r.address = Some(toctoc::core::types::Source::new(mine))
        });
        assert_eq!(
            (receipt.status, receipt.granted.map(|s| s.ip())),
            (Status::Granted, Some(mine))
        );
        assert_eq!(receipt.observed.ip(), other.ips()[family]);
        let said = gate.daemon().wait_for(&format!(", asked from {}", other.ips()[family]));
        assert!(said.contains(&format!("ssh granted to {mine} for")), "{said}");
        assert!(gate.net.client.tcp_reaches(to, LONG));
        assert!(
            !other.tcp_reaches(SocketAddr::new(other.gateway_ips()[family], SSH), SHORT),
            "not for who knocked"
        );
    }
    for unlisted in ["10.90.1.2", "fd90:1::2", "10.90.0.1"] {
        let address = toctoc::core::types::Source::new(unlisted.parse().unwrap());
        let receipt = knock(&anna, &other, 0, "ssh", |r| r.address = Some(address));
        assert_eq!(receipt.status, Status::Address, "{unlisted}");
    }
}

#[test]
fn a_reload_that_lists_an_address_no_more_ends_what_was_granted_for_it_from_elsewhere_and_nothing_else()
 {
    let prefixes = "source = [\"10.90.0.0/24\", \"fd90::/64\"]";
    let mut gate = Gate::running(|config| {
        let cutting = section(&config, "service.ssh", "cut = \"never\"", "cut = \"revoke\"");
        section(&cutting, "service.ssh", "source = \"bound\"", prefixes)
    });
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let [anna, bert] = ["anna", "bert"].map(|name| gate.enrol(name, "ssh"));
    let (other, mine) = (gate.net.host(7), gate.net.client.ips());
    // For the client: of IPv4 from elsewhere, of IPv6 from its own address.
    let named = Some(toctoc::core::types::Source::new(mine[0]));
    assert_eq!(knock(&anna, &other, 0, "ssh", |r| r.address = named).status, Status::Granted);
    assert_eq!(knock(&bert, &gate.net.client, 1, "ssh", |_| {}).status, Status::Granted);
    let to = gate.net.gateway_ips().map(|ip| SocketAddr::new(ip, SSH));
    let mut streams = to.map(|to| gate.net.client.connect(to, LONG).unwrap());
    ok(&gate.toctocd(&["reload"]));
    assert!(
        streams.iter_mut().all(|stream| echoes(stream, LONG)),
        "a reload that changes nothing ends nothing"
    );
    let config = std::fs::read_to_string(gate.config()).unwrap();
    std::fs::write(gate.config(), config.replace(prefixes, "source = [\"10.90.7.0/24\"]")).unwrap();
    ok(&gate.toctocd(&["reload"]));
    gate.daemon().wait_for("anna: ssh of 10.90.0.2 ended: it is no longer allowed");
    gate.daemon().wait_for("connections of 10.90.0.2 to 22/tcp were cut");
    assert!(!gate.net.client.tcp_reaches(to[0], SHORT) && gate.net.client.tcp_reaches(to[1], LONG));
    assert_eq!(streams.each_mut().map(|stream| echoes(stream, SHORT)), [false, true]);
    let grants = ok(&gate.toctocd(&["grants"]));
    assert!(!grants.contains("10.90.0.2") && grants.contains("fd90::2"), "{grants}");
}

#[test]
fn a_service_can_grant_the_whole_net_of_an_ipv6_address_and_cut_it() {
    let mut gate = Gate::running(|config| {
        let wide = section(&config, "service.ssh", "grant_prefix = 128", "grant_prefix = 64");
        let wide = section(&wide, "service.ssh", "cut = \"never\"", "cut = \"revoke\"");
        section(&wide, "service.rdp", "grant_prefix = 128", "grant_prefix = 64")
    });
    let _servers = (gate.net.gateway.tcp_echo(SSH), gate.net.gateway.tcp_echo(RDP));
    let anna = gate.enrol("anna", "ssh,rdp");
    gate.net
        .client
        .space
        .sh("ip addr add fd90::abcd:1/64 dev eth0 nodad preferred_lft 0; ip addr add 10.90.0.9/24 dev eth0");
    let far = gate.net.host(7);
    let (six, four): (IpAddr, IpAddr) =
        ("fd90::abcd:1".parse().unwrap(), "10.90.0.9".parse().unwrap());
    let [to4, to6] = gate.net.gateway_ips();
    let from = |ip| SocketAddr::new(ip, 0);
    for family in [0, 1] {
        let receipt = knock(&anna, &gate.net.client, family, "ssh", |_| {});
        assert_eq!(
            (receipt.status, receipt.granted.map(|s| s.ip())),
            (Status::Granted, Some(gate.net.client.ips()[family]))
        );
    }
    assert!(
        !reaches(&gate.net.client, from(four), (to4, SSH).into(), SHORT),
        "one IPv4 address is one"
    );
    assert!(
        reaches(&gate.net.client, from(six), (to6, SSH).into(), LONG),
        "another one of the net"
    );
    assert!(!far.tcp_reaches((far.gateway_ips()[1], SSH).into(), SHORT), "another net");
    assert_eq!(knock(&anna, &gate.net.client, 1, "rdp", |_| {}).status, Status::Granted);
    assert!(reaches(&gate.net.client, from(six), (to6, RDP).into(), LONG));
    assert!(
        !gate.net.client.tcp_reaches((to6, RDP).into(), SHORT),
        "one connection for the whole net"
    );
    gate.kill();
    gate.start();
    let grants = ok(&gate.toctocd(&["grants"]));
    assert!(grants.contains("fd90::/64") && grants.contains("10.90.0.2 "), "{grants}");
    let mut session =
        connect(&gate.net.client, from(six), (to6, SSH).into(), LONG).expect("granted");
    assert!(echoes(&mut session, LONG));
    ok(&gate.toctocd(&["client", "revoke", "anna"]));
    assert!(!echoes(&mut session, SHORT));
    assert!(!gate.net.client.tcp_reaches((to6, SSH).into(), SHORT));
    assert!(eventually(LONG, || ok(&gate.toctocd(&["grants"])) == "nothing is open\n"));
}
