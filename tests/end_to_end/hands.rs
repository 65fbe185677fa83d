//! A packet or an address that somebody else uses: a delayed packet, another gateway, a neighbour
//! behind the same NAT, the next owner of an address.

use std::net::{SocketAddr, UdpSocket};

use toctoc::core::knock::Status;
use toctoc::core::types::{SECOND, Wall};

use crate::harness::gate::{Gate, KNOCK, RDP, SSH, ok, stamp};
use crate::harness::{Host, LONG, SHORT, Space, echoes, eventually, until};

#[test]
fn a_packet_held_back_past_its_window_opens_nothing_and_tells_its_thief_nothing() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let (thief, to) = (gate.net.host(7), gate.net.gateway_ips()[0]);
    let mut request = anna.request("ssh", gate.net.client.ips()[0]);
    request.timestamp = Wall(stamp().0 - 31 * SECOND);
    let held_back = anna.seal(&request);
    held_back.send_in_vain(&thief, thief.gateway_ips()[0]);
    // If the thief forges the admin's address, the receipt goes to the admin: the time, and a
    // challenge that needs the admin's key.
    let receipt = held_back.send(&gate.net.client, to).expect("a receipt about the clock");
    assert_eq!((receipt.status, receipt.granted), (Status::Clock, None));
    held_back.send_in_vain(&gate.net.client, to);
    assert!(!gate.net.client.tcp_reaches(SocketAddr::new(to, SSH), SHORT));
    assert!(gate.nothing_is_open());
}

#[test]
fn a_packet_from_the_future_opens_nothing_not_even_when_its_time_has_come() {
    let gate = Gate::running(|config| config.replace("max_ahead = 10", "max_ahead = 1"));
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let to = gate.net.gateway_ips()[0];
    let mut request = anna.request("ssh", gate.net.client.ips()[0]);
    request.timestamp = Wall(stamp().0 + 3 * SECOND);
    let early = anna.seal(&request);
    assert_eq!(early.send_for_status(&gate.net.client, to), Some(Status::Clock));
    until("its time comes", || stamp().0 > request.timestamp.0);
    early.send_in_vain(&gate.net.client, to);
    assert!(!gate.net.client.tcp_reaches(SocketAddr::new(to, SSH), SHORT));
}

#[test]
fn a_knock_for_one_gateway_is_junk_at_another_that_enrolled_the_same_key() {
    let (here, there) = (Gate::running(|config| config), Gate::running(|config| config));
    let anna = here.enrol("anna", "ssh");
    let key = format!("@{}", here.path("anna.key.pub"));
    ok(&there.toctocd(&["client", "add", "anna", "--key", &key, "--services", "ssh"]));
    // Both networks have the same addresses: the two gateways differ only in their keys.
    let (from, to) = (here.net.client.ips()[0], here.net.gateway_ips()[0]);
    assert_eq!((from, to), (there.net.client.ips()[0], there.net.gateway_ips()[0]));
    let knock = anna.seal(&anna.request("ssh", from));
    knock.send_in_vain(&there.net.client, to);
    assert!(eventually(LONG, || there.rejected("unknown-tag") == 1), "{}", there.status_json());
    assert!(there.nothing_is_open());
    assert_eq!(knock.send_for_status(&here.net.client, to), Some(Status::Granted));
}

/// Two hosts behind the address of a third.
struct Nat {
    admin: Space,
    neighbour: Space,
}

impl Nat {
    fn behind(router: &Host) -> Nat {
        router.space.sh("echo 1 >/proc/sys/net/ipv4/ip_forward
             nft add table ip hide
             nft add chain ip hide out '{ type nat hook postrouting priority 100; }'
             nft add rule ip hide out oifname eth0 masquerade");
        let inside = |index: u8| {
            let space = Space::new();
            router.space.sh(&format!(
                "ip link add in{index} type veth peer name eth0 netns {}
                 ip addr add 192.168.{index}.1/24 dev in{index}
                 ip link set in{index} up",
                space.path()
            ));
            space.sh(&format!(
                "ip addr add 192.168.{index}.2/24 dev eth0
                 ip link set eth0 up
                 ip route add default via 192.168.{index}.1"
            ));
            space
        };
        Nat { admin: inside(1), neighbour: inside(2) }
    }
}

#[test]
fn a_neighbour_behind_the_same_nat_cannot_use_a_one_connection_grant_that_is_used_up() {
    let gate = Gate::running(|config| config);
    let _rdp = gate.net.gateway.tcp_echo(RDP);
    gate.enrol("anna", "rdp");
    let nat = Nat::behind(&gate.net.client);
    let (key, to) = (gate.path("anna.key"), gate.port(0, RDP));
    assert!(nat.neighbour.connect(to, SHORT).is_err(), "open before the knock");
    let output =
        ok(&gate.toctoc_in(&nat.admin, &["open", "anna", "rdp", "-4", "-i", &key, "--ask-source"]));
    assert!(output.contains("10.90.0.2"), "the client must print the NAT's address: {output}");
    let mut session = nat.admin.connect(to, LONG).expect("granted");
    assert!(echoes(&mut session, LONG));
    for _ in 0..3 {
        assert!(nat.neighbour.connect(to, SHORT).is_err(), "a neighbour got a second connection");
    }
    assert!(nat.admin.connect(to, SHORT).is_err(), "the admin got a second connection");
    assert!(echoes(&mut session, LONG), "the first connection was cut");
}

#[test]
fn the_next_owner_of_an_address_finds_nothing_open_once_the_grant_is_closed_or_over() {
    let gate = Gate::running(|config| config);
    const UNGUARDED: u16 = 8080;
    let _servers = [SSH, RDP, UNGUARDED].map(|port| gate.net.gateway.tcp_echo(port));
    let anna = gate.enrol("anna", "ssh,rdp");
    let ip = gate.net.gateway_ips()[0];
    let mut request = anna.request("ssh", gate.net.client.ips()[0]);
    request.seconds = 1;
    assert_eq!(anna.seal(&request).send_for_status(&gate.net.client, ip), Some(Status::Granted));
    ok(&gate.toctoc_as("anna", "open anna rdp -4"));
    ok(&gate.toctoc_as("anna", "close anna rdp -4"));
    // The link with its addresses goes to another machine.
    let next = Space::new();
    gate.net.client.space.sh(&format!("ip link set eth0 netns {}", next.path()));
    next.sh("ip addr add 10.90.0.2/24 dev eth0 && ip link set eth0 up");
    // The first packets of a link that has just come up may be lost, whatever the guard does.
    until("packets get through", || next.connect(SocketAddr::new(ip, UNGUARDED), SHORT).is_ok());
    assert!(
        next.connect(SocketAddr::new(ip, RDP), SHORT).is_err(),
        "open although the client closed it"
    );
    until("the grant ends", || gate.nothing_is_open());
    assert!(next.connect(SocketAddr::new(ip, SSH), SHORT).is_err(), "open after the grant ended");
    let neighbours = gate.net.gateway.sh("ip neigh show to 10.90.0.2");
    assert!(neighbours.contains("lladdr"), "no machine has the address: {neighbours}");
    let bound = next.inside(|| UdpSocket::bind(("10.90.0.2", KNOCK)));
    assert!(bound.is_ok(), "the new machine does not have that address");
}
