//! A device in front of the gateway that gives everybody's packets its own address. A grant for
//! that address would be for everybody, so the gateway refuses it, and the client says what is
//! wrong.

use std::net::{IpAddr, Ipv4Addr};

use toctoc::core::knock::Status;

use crate::harness::gate::{Gate, Knocker, SSH, section, stderr};
use crate::harness::{LONG, SHORT, Space, until};

/// Two machines behind the first host, which forwards for them and replaces their sources by
/// `outer`, its own address.
struct Masqueraded {
    client: Space,
    stranger: Space,
}

impl Masqueraded {
    fn behind(router: &Space) -> Masqueraded {
        router.sh("echo 1 >/proc/sys/net/ipv4/ip_forward
             echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
             nft add table inet nat
             nft add chain inet nat post '{ type nat hook postrouting priority 100; }'
             nft add rule inet nat post oifname eth0 masquerade");
        let inner = |index: u8| {
            let space = Space::new();
            router.sh(&format!(
                "ip link add in{index} type veth peer name eth0 netns {}
                 ip addr add 203.0.{index}.1/24 dev in{index}
                 ip addr add 2001:db8:{index}::1/64 dev in{index} nodad
                 ip link set in{index} up",
                space.path()
            ));
            space.sh(&format!(
                "ip addr add 203.0.{index}.2/24 dev eth0
                 ip addr add 2001:db8:{index}::2/64 dev eth0 nodad
                 ip link set eth0 up
                 ip route add default via 203.0.{index}.1
                 ip -6 route add default via 2001:db8:{index}::1"
            ));
            space
        };
        Masqueraded { client: inner(1), stranger: inner(2) }
    }
}

/// The status of a knock by `knocker` from the first host that names that host's own address.
fn knock(gate: &Gate, knocker: &Knocker, family: usize) -> Option<Status> {
    let host = &gate.net.client;
    let request = knocker.request("ssh", host.ips()[family]);
    knocker.seal(&request).send_for_status(host, host.gateway_ips()[family])
}

#[test]
fn a_router_gets_no_grant_also_if_it_becomes_one_later_unless_the_admin_lists_it() {
    let mut gate = Gate::running(|config| config);
    let neighbour = gate.net.host(1);
    let anna = gate.enrol("anna", "ssh");
    gate.net.gateway.sh("ip route add 203.0.113.0/24 via 10.90.0.2 dev gw0
         ip -6 route add 2001:db8::/32 via fd90::2 dev gw0");
    for family in [0, 1] {
        // What comes from behind it keeps its own source.
        assert_eq!(knock(&gate, &anna, family), Some(Status::Granted));
    }
    gate.net.gateway.sh("ip route add default via 10.90.0.2 dev gw0
         ip -6 route add default via fd90::2 dev gw0");
    for address in ["10.90.0.2", "fd90::2"] {
        let line = format!("anna: ssh of {address} ended: it is no longer allowed");
        gate.daemon().wait_for(&line);
    }
    for family in [0, 1] {
        assert_eq!(knock(&gate, &anna, family), Some(Status::Address));
        anna.must_open(&neighbour, "ssh", family);
    }
    let line = "refused from 10.90.0.2: this is not the address of one other machine";
    gate.daemon().wait_for(line);
    gate.edit_config(|config| {
        let listed = "also_grant = [\"10.90.0.2/32\"]";
        section(&config, "knock", "also_grant = []", listed)
    });
    gate.reload();
    assert_eq!(knock(&gate, &anna, 0), Some(Status::Granted));
    assert_eq!(knock(&gate, &anna, 1), Some(Status::Address));
    assert!(gate.check().contains("also_grant: 10.90.0.2/32 is granted even if"));
    gate.edit_config(|config| {
        section(&config, "knock", "also_grant = [\"10.90.0.2/32\"]", "also_grant = []")
    });
    gate.reload();
    gate.daemon().wait_for("anna: ssh of 10.90.0.2 ended: it is no longer allowed");
    let elements = gate.net.gateway.sh("nft list set inet toctoc v4/ssh");
    assert!(!elements.contains("10.90.0.2 "), "{elements}");
}

#[test]
fn a_router_is_recognised_in_every_table_with_every_hop_and_in_halves() {
    let mut gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    let mut router = "10.90.0.2";
    for (routes, undo) in [
        ("default nexthop via 10.90.0.77 nexthop via 10.90.0.2", "default"),
        ("default via 10.90.0.2 table 100", "default table 100"),
        ("128.0.0.0/1 via 10.90.0.2", "128.0.0.0/1"),
        ("default nexthop via fd90::77 nexthop via fd90::2", "default"),
        ("2000::/3 via fd90::2", "2000::/3"),
    ] {
        let v6 = routes.contains("::");
        let ip = if v6 { "ip -6" } else { "ip" };
        if v6 {
            router = "fd90::2";
        }
        assert_eq!(knock(&gate, &anna, usize::from(v6)), Some(Status::Granted), "{routes}");
        gate.net.gateway.sh(&format!("{ip} route add {routes}"));
        let line = format!("anna: ssh of {router} ended: it is no longer allowed");
        gate.daemon().wait_for(&line);
        assert_eq!(knock(&gate, &anna, usize::from(v6)), Some(Status::Address), "{routes}");
        gate.net.gateway.sh(&format!("{ip} route del {undo}"));
        until("it is a neighbour again", || {
            knock(&gate, &anna, usize::from(v6)) == Some(Status::Granted)
        });
    }
}

#[test]
fn a_public_gateway_grants_no_private_address_but_those_of_its_own_private_networks() {
    let gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    assert_eq!(knock(&gate, &anna, 0), Some(Status::Granted));
    // A device in front that delivers by the link's own addresses.
    gate.net.gateway.sh("ip addr add 198.51.100.1/24 dev gw0
         ip addr del 10.90.0.1/24 dev gw0
         ip route add 10.90.0.0/24 dev gw0");
    gate.net.client.space.sh("ip route add 198.51.100.1 dev eth0");
    let to: IpAddr = [198, 51, 100, 1].into();
    let host = &gate.net.client;
    let request = || anna.request("ssh", host.ips()[0]);
    let status = || anna.seal(&request()).send_for_status(host, to);
    // Until the listener knows its new address, knocks to it get no answer.
    let mut first = None;
    until("knocks to the new address are answered", || {
        first = status();
        first.is_some()
    });
    assert_eq!(first, Some(Status::Address));
    // A private network of our own elsewhere, as docker's, changes nothing.
    gate.net.gateway.sh("ip link add docker0 type veth peer name inner
         ip addr add 172.17.0.1/16 dev docker0
         ip link set docker0 up
         ip route add 172.31.0.0/16 via 172.17.0.9");
    assert_eq!(status(), Some(Status::Address));
    // A private network that begins at an interface with a private address is ours.
    gate.net.gateway.sh("ip addr add 10.99.0.1/24 dev gw0");
    until("its clients are granted", || status() == Some(Status::Granted));
}

/// Knocks from behind the router in all ways, also for the router's own address. Each must be
/// refused, with an explanation that does not lead into the hole.
fn must_refuse(gate: &Gate, inner: &Masqueraded, family: &str, router: &str) {
    let key = gate.path("anna.key");
    for more in [&[][..], &["--ask-source"], &["--source", router]] {
        let words = ["open", "anna", "ssh", family, "-i", &key];
        let output = gate.toctoc_in(&inner.client, &[&words, more].concat());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{more:?}: {output:?}");
        assert!(text.contains("everybody") && text.contains("the gateway's admin"), "{text}");
        assert!(!text.contains("--source"), "{text}");
    }
}

#[test]
fn behind_a_masquerading_router_neither_client_nor_gateway_opens_the_port_to_everybody() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    gate.enrol("anna", "ssh");
    let inner = Masqueraded::behind(&gate.net.client.space);
    gate.net.gateway.sh("ip route add default via 10.90.0.2 dev gw0
         ip -6 route add default via fd90::2 dev gw0");
    let key = gate.path("anna.key");
    must_refuse(&gate, &inner, "-4", "10.90.0.2");
    must_refuse(&gate, &inner, "-6", "fd90::2");
    for port in [gate.port(0, SSH), gate.port(1, SSH)] {
        assert!(inner.stranger.connect(port, SHORT).is_err(), "a stranger got in");
    }
    gate.daemon().wait_for("anna: refused from fd90::2");
    // A neighbour that no device is in front of is as welcome as ever.
    let neighbour = gate.net.host(1);
    let open = ["open", "anna", "ssh", "-4", "-i", &key, "--ask-source"];
    assert!(gate.toctoc(&neighbour, &open).status.success());
    assert!(neighbour.tcp_reaches(gate.port(0, SSH), LONG));
}

#[test]
fn a_masquerading_router_with_a_public_address_is_recognised_too() {
    let public = "addresses = [\"198.51.100.1\"]";
    let gate = Gate::running(|config| {
        section(&config, "gateway", "addresses = [\"10.90.0.1\", \"fd90::1\"]", public)
    });
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    gate.enrol("anna", "ssh");
    let inner = Masqueraded::behind(&gate.net.client.space);
    gate.net.client.space.sh("ip addr add 198.51.100.2/24 dev eth0");
    gate.net.gateway.sh("ip addr add 198.51.100.1/24 dev gw0
         ip route add default via 198.51.100.2 dev gw0");
    must_refuse(&gate, &inner, "-4", "198.51.100.2");
    let port = (Ipv4Addr::new(198, 51, 100, 1), SSH).into();
    assert!(inner.stranger.connect(port, SHORT).is_err(), "a stranger got in");
}

/// The word after `before` in what `ip` shows of a host's interface to the gateway.
fn shown(space: &Space, before: &str) -> String {
    let shown = space.sh("ip -6 -o addr show dev eth0 scope link; ip -o link show dev eth0");
    let (_, rest) = shown.split_once(before).expect("an address of the link");
    rest.split([' ', '/']).next().expect("a word").to_owned()
}

fn link_local(space: &Space) -> String {
    shown(space, "inet6 ")
}

#[test]
fn a_router_that_masquerades_by_another_address_than_its_next_hop_is_recognised_by_its_link() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let host = &gate.net.client.space;
    gate.net.gateway.sh(&format!("ip -6 route add default via {} dev gw0", link_local(host)));
    // As long as it forwards nothing, it does not say that it is a router.
    anna.must_open(&gate.net.client, "ssh", 1);
    let inner = Masqueraded::behind(&gate.net.client.space);
    // The router asks for the gateway's link address, and so gives its own. It has not said yet
    // that it is one.
    gate.net.gateway.sh(&format!(
        "ip -6 neigh flush dev gw0
         ip -6 neigh replace fd90::2 lladdr {} dev gw0 nud stale",
        shown(host, "link/ether ")
    ));
    gate.daemon().wait_for("anna: ssh of fd90::2 ended: it is no longer allowed");
    must_refuse(&gate, &inner, "-6", "fd90::2");
    assert!(inner.stranger.connect(gate.port(1, SSH), SHORT).is_err(), "a stranger got in");
    assert!(gate.nothing_is_open());
}

#[test]
fn a_neighbour_whose_packets_the_router_passes_on_is_a_neighbour_all_the_same() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let inner = Masqueraded::behind(&gate.net.client.space);
    let router = link_local(&gate.net.client.space);
    gate.net.client.space.sh("nft delete table inet nat
         echo 1 >/proc/sys/net/ipv6/conf/eth0/proxy_ndp
         ip -6 neigh add proxy fd90::77 dev eth0
         ip -6 route add fd90::77 dev in1");
    inner.client.sh("ip -6 addr add fd90::77/128 dev eth0 nodad");
    gate.net.gateway.sh(&format!(
        "ip -6 route add default via {router} dev gw0
         ip -6 neigh flush dev gw0"
    ));
    let key = gate.path("anna.key");
    for _ in 0..2 {
        let open = ["open", "anna", "ssh", "-6", "-i", &key, "--source", "fd90::77"];
        let output = gate.toctoc_in(&inner.client, &open);
        assert!(output.status.success(), "{output:?}");
        assert!(inner.client.connect(gate.port(1, SSH), LONG).is_ok());
    }
    until("the router is known", || {
        gate.net.gateway.sh("ip -6 neigh show dev gw0").contains("router")
            && knock(&gate, &anna, 1) == Some(Status::Address)
    });
    let set = gate.net.gateway.sh("nft list set inet toctoc v6/ssh");
    assert!(set.contains("fd90::77"), "{set}");
}
