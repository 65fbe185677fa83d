//! Grants narrower and wider than one address: one source port, an address by policy, a whole /64.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use toctoc::core::knock::{Receipt, Request, Status};
use toctoc::core::types::Source;

use crate::harness::gate::{DNS, Gate, Knocker, RDP, SSH, ok, section};
use crate::harness::{Host, LONG, SHORT, echoes, udp_echoes, until};

const PORT: u16 = 40_022;

/// Connects from `from`, an address of the host.
fn connect(
    host: &Host, from: SocketAddr, to: SocketAddr, timeout: Duration,
) -> std::io::Result<TcpStream> {
    let socket = host.space.inside(|| Socket::new(Domain::for_address(to), Type::STREAM, None))?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), timeout)?;
    Ok(socket.into())
}

fn reaches(host: &Host, from: SocketAddr, to: SocketAddr, timeout: Duration) -> bool {
    let Ok(mut stream) = connect(host, from, to, timeout) else { return false };
    // The port is free again at once.
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    echoes(&mut stream, timeout)
}

/// For each family the client's address, the gateway's address and the option of `toctoc`.
fn pairs(gate: &Gate) -> Vec<(IpAddr, IpAddr, &'static str)> {
    let ends = gate.net.client.ips().into_iter().zip(gate.net.gateway_ips());
    ends.zip(["-4", "-6"]).map(|((from, to), family)| (from, to, family)).collect()
}

fn knock(
    client: &Knocker, host: &Host, family: usize, service: &str, change: impl FnOnce(&mut Request),
) -> Receipt {
    let mut request = client.request(service, host.ips()[family]);
    change(&mut request);
    client.seal(&request).send(host, host.gateway_ips()[family]).expect("a receipt")
}

#[test]
fn a_grant_for_a_source_port_covers_only_that_port_also_after_a_restart() {
    let mut gate = Gate::running(|config| config);
    let _servers = (gate.net.gateway.tcp_echo(SSH), gate.net.gateway.udp_echo(DNS));
    let anna = gate.enrol("anna", "ssh,dns");
    for (from, to, family) in pairs(&gate) {
        let words = format!("open anna ssh {family} --source-port 40022 --seconds 600");
        let output = ok(&gate.toctoc_as("anna", &words));
        assert!(output.contains("from port 40022"), "{output}");
        let (here, there) = (SocketAddr::new(from, PORT), SocketAddr::new(to, SSH));
        assert!(!gate.net.client.tcp_reaches(there, SHORT), "open for another port");
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
    assert!(
        !gate.daemon().log().contains("removed"),
        "the restarted gateway removed elements of live grants"
    );
    let grants = gate.grants();
    assert!(grants.contains("@10.90.0.2,40022 ") && grants.contains("@fd90::2,40022 "), "{grants}");
    for (from, to, family) in pairs(&gate) {
        let (here, there) = (SocketAddr::new(from, PORT), SocketAddr::new(to, SSH));
        assert!(
            !gate.net.client.tcp_reaches(there, SHORT)
                && reaches(&gate.net.client, here, there, LONG)
        );
        ok(&gate.toctoc_as("anna", &format!("close anna ssh {family}")));
        assert!(!reaches(&gate.net.client, here, there, SHORT));
    }
}

#[test]
fn a_one_connection_grant_for_a_source_port_is_used_up_by_no_other_port() {
    let gate = Gate::running(|config| config);
    let _rdp = gate.net.gateway.tcp_echo(RDP);
    let [anna, bert] = ["anna", "bert"].map(|name| gate.enrol(name, "rdp"));
    for (family, (from, to, _)) in pairs(&gate).into_iter().enumerate() {
        let (here, there) = (SocketAddr::new(from, PORT), SocketAddr::new(to, RDP));
        assert_eq!(
            knock(&anna, &gate.net.client, family, "rdp", |r| r.source_port = PORT).status,
            Status::Granted
        );
        assert!(!gate.net.client.tcp_reaches(there, SHORT), "open for another port");
        // A neighbour's grant for any port is used up by its own connection, and the grant for this
        // port stays, even if that connection comes from this port.
        assert!(knock(&bert, &gate.net.client, family, "rdp", |_| {}).once);
        assert!(
            reaches(&gate.net.client, here, there, LONG)
                && reaches(&gate.net.client, here, there, LONG)
        );
        assert!(!gate.net.client.tcp_reaches(there, SHORT), "open although the grants are used up");
        assert!(
            !reaches(&gate.net.client, here, there, SHORT),
            "open although the grants are used up"
        );
    }
}

#[test]
fn only_an_address_that_policy_lists_is_granted_to_a_knock_from_elsewhere() {
    let prefixes = "source = [\"10.90.0.0/24\", \"fd90::/64\"]";
    let mut gate =
        Gate::running(|config| section(&config, "service.ssh", "source = \"bound\"", prefixes));
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let other = gate.net.host(7);
    // From the other family, with the client program.
    for ((from, _, _), (_, to, family)) in
        pairs(&gate).into_iter().zip(pairs(&gate).into_iter().rev())
    {
        let home = SocketAddr::new(
            if from.is_ipv4() { gate.net.gateway_ips()[0] } else { gate.net.gateway_ips()[1] },
            SSH,
        );
        assert!(!gate.net.client.tcp_reaches(home, SHORT));
        let words = format!("open anna ssh {family} --source {from}");
        let output = ok(&gate.toctoc_as("anna", &words));
        assert!(
            output.contains(&format!("granted: {from} may reach"))
                && output.contains("the knock came from"),
            "{output}"
        );
        assert!(gate.net.client.tcp_reaches(home, LONG));
        assert!(
            !gate.net.client.tcp_reaches(SocketAddr::new(to, SSH), SHORT),
            "open for the address that was not named"
        );
        ok(&gate.toctoc_as("anna", &format!("close anna ssh {family} --source {from}")));
    }
    // From another host, with the library.
    for family in [0, 1] {
        let named = gate.net.client.ips()[family];
        let address = Some(Source::new(named));
        let receipt = knock(&anna, &other, family, "ssh", |r| r.address = address);
        assert_eq!((receipt.status, receipt.granted), (Status::Granted, address));
        assert_eq!(receipt.observed.ip(), other.ips()[family]);
        let output = gate.daemon().wait_for(&format!(", asked from {}", other.ips()[family]));
        assert!(output.contains(&format!("ssh granted to {named} for")), "{output}");
        assert!(gate.net.client.tcp_reaches(gate.port(family, SSH), LONG));
        assert!(
            !other.tcp_reaches(other.gateway(family, SSH), SHORT),
            "open for the host that knocked"
        );
    }
    for unlisted in ["10.90.1.2", "fd90:1::2", "10.90.0.1"] {
        let address = Source::new(unlisted.parse().unwrap());
        let receipt = knock(&anna, &other, 0, "ssh", |r| r.address = Some(address));
        assert_eq!(receipt.status, Status::Address, "{unlisted}");
    }
}

#[test]
fn a_reload_that_no_longer_lists_an_address_ends_only_the_grants_for_it_from_elsewhere() {
    let prefixes = "source = [\"10.90.0.0/24\", \"fd90::/64\"]";
    let mut gate = Gate::running(|config| {
        let cutting = section(&config, "service.ssh", "cut = \"never\"", "cut = \"revoke\"");
        section(&cutting, "service.ssh", "source = \"bound\"", prefixes)
    });
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let [anna, bert] = ["anna", "bert"].map(|name| gate.enrol(name, "ssh"));
    let other = gate.net.host(7);
    // Grants for the client: the IPv4 one is knocked from elsewhere, the IPv6 one from its own
    // address.
    let named = Some(Source::new(gate.net.client.ips()[0]));
    assert_eq!(knock(&anna, &other, 0, "ssh", |r| r.address = named).status, Status::Granted);
    assert_eq!(knock(&bert, &gate.net.client, 1, "ssh", |_| {}).status, Status::Granted);
    let to = [gate.port(0, SSH), gate.port(1, SSH)];
    let mut streams = to.map(|to| gate.net.client.connect(to, LONG).unwrap());
    gate.reload();
    assert!(
        streams.iter_mut().all(|stream| echoes(stream, LONG)),
        "a reload without changes cut a connection"
    );
    gate.edit_config(|config| config.replace(prefixes, "source = [\"10.90.7.0/24\"]"));
    gate.reload();
    gate.daemon().wait_for("anna: ssh of 10.90.0.2 ended: it is no longer allowed");
    gate.daemon().wait_for("connections of 10.90.0.2 to ssh were cut");
    assert!(!gate.net.client.tcp_reaches(to[0], SHORT) && gate.net.client.tcp_reaches(to[1], LONG));
    assert_eq!(streams.each_mut().map(|stream| echoes(stream, SHORT)), [false, true]);
    let grants = gate.grants();
    assert!(!grants.contains("10.90.0.2") && grants.contains("fd90::2"), "{grants}");
}

#[test]
fn a_service_can_grant_and_cut_the_whole_net_of_an_ipv6_address() {
    let mut gate = Gate::running(|config| {
        let wide = section(&config, "service.ssh", "grant_prefix = [32, 128]", "grant_prefix = 64");
        let wide = section(&wide, "service.ssh", "cut = \"never\"", "cut = \"revoke\"");
        section(&wide, "service.rdp", "grant_prefix = [32, 128]", "grant_prefix = 64")
    });
    let _servers = (gate.net.gateway.tcp_echo(SSH), gate.net.gateway.tcp_echo(RDP));
    let anna = gate.enrol("anna", "ssh,rdp");
    gate.net.client.space.sh("ip addr add fd90::abcd:1/64 dev eth0 nodad preferred_lft 0
         ip addr add 10.90.0.9/24 dev eth0");
    let far = gate.net.host(7);
    let other4: SocketAddr = "10.90.0.9:0".parse().unwrap();
    let other6: SocketAddr = "[fd90::abcd:1]:0".parse().unwrap();
    let [to4, to6] = gate.net.gateway_ips();
    for family in [0, 1] {
        let receipt = knock(&anna, &gate.net.client, family, "ssh", |_| {});
        assert_eq!(
            (receipt.status, receipt.granted.map(|s| s.ip())),
            (Status::Granted, Some(gate.net.client.ips()[family]))
        );
    }
    assert!(
        !reaches(&gate.net.client, other4, (to4, SSH).into(), SHORT),
        "open for another IPv4 address"
    );
    assert!(
        reaches(&gate.net.client, other6, (to6, SSH).into(), LONG),
        "not open for another address of the net"
    );
    assert!(!far.tcp_reaches((far.gateway_ips()[1], SSH).into(), SHORT), "open for another net");
    assert_eq!(knock(&anna, &gate.net.client, 1, "rdp", |_| {}).status, Status::Granted);
    assert!(reaches(&gate.net.client, other6, (to6, RDP).into(), LONG));
    assert!(
        !gate.net.client.tcp_reaches((to6, RDP).into(), SHORT),
        "the net got a second connection"
    );
    gate.kill();
    gate.start();
    let grants = gate.grants();
    assert!(grants.contains("fd90::/64") && grants.contains("10.90.0.2 "), "{grants}");
    let mut session = connect(&gate.net.client, other6, (to6, SSH).into(), LONG).expect("granted");
    assert!(echoes(&mut session, LONG));
    gate.revoke("anna");
    assert!(!echoes(&mut session, SHORT));
    assert!(!gate.net.client.tcp_reaches((to6, SSH).into(), SHORT));
    until("the grants end", || gate.nothing_is_open());
}
