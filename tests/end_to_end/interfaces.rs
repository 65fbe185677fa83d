//! The interfaces that receive knocks: several, or the one of the default route; and the interface
//! and address that a client sends from.

use std::fs;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use toctoc::core::knock::{KnockKind, Receipt, Request, Status};
use toctoc::core::types::ServiceName;
use toctoc::edge::network_watch::NetworkWatch;

use crate::harness::gate::{Gate, KNOCK, Knocker, ok, stderr};
use crate::harness::{Host, LONG, Net, SHORT, eventually, until};

const DOOR: &str =
    "[door.side]\nsequence = [\"7321/tcp\", \"8432/udp\", \"6543/tcp\"]\nservice = \"ssh\"\n";

fn listening_on(interfaces: &str) -> Gate {
    let gate = Gate::new(|config| {
        // Here the hosts that knock are also the gateway's routers.
        config
            .replace("interfaces = [\"any\"]", &format!("interfaces = {interfaces}"))
            .replace("also_grant = []", "also_grant = [\"10.90.0.0/16\", \"fd90::/16\"]")
            + DOOR
    });
    gate.edit_config(|config| {
        assert!(config.contains(interfaces), "{config}");
        config
    });
    gate
}

/// The whole sequence from `host` to the gateway's address on its own link.
fn knock(gate: &Gate, host: &Host, family: usize) {
    let to = host.gateway_ips()[family].to_string();
    ok(&gate.toctoc(host, &["knock", &to, "7321:tcp", "8432:udp", "6543:tcp"]));
}

fn must_open(gate: &mut Gate, host: &Host, family: usize) {
    let from = host.ips()[family];
    knock(gate, host, family);
    gate.daemon().wait_for(&format!("side: ssh granted to {from}"));
}

#[test]
fn knocks_are_received_on_each_named_interface_and_on_no_other() {
    let mut gate = listening_on("[\"gw0\", \"gw1\"]");
    let (near, ignored) = (gate.net.host(1), gate.net.host(2));
    let knocker = gate.enrol("laptop", "ssh");
    gate.start();
    for family in [0, 1] {
        knock(&gate, &ignored, family);
        let sealed = knocker.seal(&knocker.request("ssh", ignored.ips()[family]));
        sealed.send_in_vain(&ignored, ignored.gateway_ips()[family]);
        must_open(&mut gate, &near, family);
        knocker.must_open(&near, "ssh", family);
    }
    let log = gate.daemon().log();
    for ip in ignored.ips() {
        assert!(!log.contains(&ip.to_string()), "a knock from {ip} was received: {log}");
    }
}

#[test]
fn knocks_are_received_on_the_interface_of_the_default_route_also_after_it_changes() {
    let mut gate = listening_on("[\"default\"]");
    let other = gate.net.host(1);
    let text = gate.check();
    assert!(text.contains("there is no default route now") && text.contains("ip route"), "{text}");
    gate.net.gateway.sh("ip route add default via 10.90.0.2 dev gw0");
    assert!(gate.toctocd(&["check"]).status.success());
    gate.start();
    assert!(gate.daemon().log().contains("sealed knocks on udp/62201 of gw0;"));
    knock(&gate, &other, 0);
    let to = gate.net.gateway_ips()[0].to_string();
    ok(&gate.toctoc(&gate.net.client, &["knock", &to, "7321:tcp", "8432:udp", "6543:tcp"]));
    gate.daemon().wait_for("side: ssh granted to 10.90.0.2");
    assert!(!gate.daemon().log().contains("10.90.1.2"), "a knock on gw1 was received");
    gate.net.gateway.sh("ip route replace default via 10.90.1.2 dev gw1");
    gate.daemon().wait_for("the default route has changed: knocks are heard on gw1");
    must_open(&mut gate, &other, 0);
    gate.net.gateway.sh("ip -6 route add default via fd90::2 dev gw0");
    gate.daemon().wait_for("the default route has changed: knocks are heard on gw0, gw1");
    must_open(&mut gate, &other, 1);
    assert!(gate.status().contains("udp/62201 on gw0, gw1"));
    // A default route that goes and does not come back does not stop the listener.
    gate.net.gateway.sh("ip -6 route del default");
    gate.daemon().wait_for("the default route has changed: knocks are heard on gw1");
    gate.net.gateway.sh("ip route del default");
    gate.net.gateway.sh("ip addr add 10.91.0.1/32 dev gw1");
    let to = "10.91.0.1";
    assert!(eventually(LONG, || {
        ok(&gate.toctoc(&other, &["knock", to, "7321:tcp", "8432:udp", "6543:tcp"]));
        gate.daemon().log().matches("ssh granted to 10.90.1.2").count() > 1
    }));
}

#[test]
fn an_interface_that_gets_another_name_is_not_captured_and_the_status_says_so() {
    let mut gate = listening_on("[\"gw0\"]");
    let knocker = gate.enrol("laptop", "ssh");
    gate.start();
    knocker.must_open(&gate.net.client, "ssh", 0);
    let rename = |from: &str, to: &str| {
        format!("ip link set {from} down && ip link set {from} name {to} && ip link set {to} up")
    };
    gate.net.gateway.sh(&rename("gw0", "wan0"));
    gate.daemon().wait_for("interface gw0 is called wan0 now: no knock is heard there");
    let (from, to) = (gate.net.client.ips()[0], gate.net.client.gateway_ips()[0]);
    knocker.seal(&knocker.request("ssh", from)).send_in_vain(&gate.net.client, to);
    assert!(gate.status().contains("interface gw0 is not there: no knock is heard on it"));
    gate.net.gateway.sh(&rename("wan0", "gw0"));
    gate.daemon().wait_for("interface gw0 is back: knocks are heard there");
    knocker.must_open(&gate.net.client, "ssh", 0);
}

#[test]
fn two_interfaces_that_swap_their_names_are_captured_by_name() {
    let mut gate = listening_on("[\"gw0\"]");
    let other = gate.net.host(1);
    let knocker = gate.enrol("laptop", "ssh");
    gate.start();
    gate.net.gateway.sh("ip link set gw0 down && ip link set gw1 down && ip link set gw0 name swap
         ip link set gw1 name gw0 && ip link set swap name gw1
         ip link set gw0 up && ip link set gw1 up");
    gate.daemon().wait_for("interface gw0 is back: knocks are heard there");
    knocker.must_open(&other, "ssh", 0);
    let (from, to) = (gate.net.client.ips()[0], gate.net.client.gateway_ips()[0]);
    knocker.seal(&knocker.request("ssh", from)).send_in_vain(&gate.net.client, to);
}

#[test]
fn a_gateway_with_thousands_of_addresses_starts_and_learns_more() {
    let mut gate = Gate::new(|config| config);
    let knocker = gate.enrol("laptop", "ssh");
    let add = |gate: &Gate, numbers: Range<u16>| {
        let lines: String = numbers
            .map(|n| format!("addr add 10.99.{}.{}/32 dev gw0\n", n >> 8, n & 255))
            .collect();
        fs::write(gate.path("batch"), lines).unwrap();
        gate.net.gateway.sh(&format!("ip -batch {}", gate.path("batch")));
    };
    // More than the pipe's queue and the kernel's buffer hold as one message each.
    add(&gate, 0..5000);
    gate.net.client.space.sh("ip route add 10.99.0.0/16 via 10.90.0.1");
    gate.start();
    let from = gate.net.client.ips()[0];
    let granted = |knocker: &Knocker, gate: &Gate, number: u16| {
        let to = IpAddr::from([10, 99, (number >> 8) as u8, number as u8]);
        let mut receipt = None;
        // After a start the gateway asks for a challenge.
        for _ in 0..2 {
            let challenge = receipt.and_then(|receipt: Receipt| receipt.challenge);
            let request = Request { challenge, ..knocker.request("ssh", from) };
            receipt = knocker.seal(&request).send_waiting(&gate.net.client, to, SHORT);
            if receipt.as_ref().is_some_and(|receipt| receipt.status == Status::Granted) {
                return true;
            }
        }
        false
    };
    assert!(eventually(LONG, || granted(&knocker, &gate, 4999)));
    add(&gate, 5000..5010);
    assert!(eventually(LONG, || granted(&knocker, &gate, 5009)), "it no longer learns addresses");
    assert!(granted(&knocker, &gate, 17), "it has forgotten others");
}

#[test]
fn no_receipt_is_lost_while_the_configuration_is_reloaded_and_an_interface_comes_back() {
    let mut gate = Gate::new(|config| {
        let config = config.replace("interfaces = [\"any\"]", "interfaces = [\"gw0\", \"gw1\"]");
        let config = config.replace("burst = 64", "burst = 10000");
        config.replace("per_second = 4", "per_second = 10000")
    });
    let _other = gate.net.host(1);
    let knocker = gate.enrol("laptop", "ssh");
    gate.start();
    let (from, to) = (gate.net.client.ips()[0], gate.port(0, KNOCK));
    // After the start every knock needs a challenge for a while: also an answer.
    let socket = gate.net.client.space.udp(to);
    let over = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&over);
    let knocks = thread::spawn(move || {
        let mut answered = 0;
        let mut lost = 0;
        while answered + lost < 1000 || !is_over.load(Ordering::Relaxed) {
            let probe = Request {
                kind: KnockKind::Probe,
                service: ServiceName::NONE,
                ..knocker.request("ssh", from)
            };
            let sealed = knocker.seal(&probe);
            socket.send(&sealed.bytes).unwrap();
            match sealed.receipt(&socket, Duration::from_secs(5)) {
                Some(_) => answered += 1,
                None => lost += 1,
            }
        }
        (answered, lost)
    });
    for round in 0..20 {
        gate.reload();
        if round % 4 == 0 {
            gate.net.gateway.sh("ip link set gw1 down");
            until("it is missed", || gate.status().contains("interface gw1 is not there"));
            gate.net.gateway.sh("ip link set gw1 up");
            gate.daemon().wait_for("interface gw1 is back");
        }
    }
    over.store(true, Ordering::Relaxed);
    let (answered, lost) = knocks.join().unwrap();
    assert_eq!(lost, 0, "{lost} of {} knocks got no receipt", answered + lost);
}

#[test]
fn the_client_sends_from_the_named_address_and_interface_also_on_the_link_itself() {
    let mut gate = Gate::new(|config| config);
    let log = gate.path("door.log");
    let door = format!(
        "[door.side]\nsequence = [\"7321/tcp\", \"8432/udp\", \"6543/tcp\"]\nstart_command = \"echo open %IP% >> {log}\"\n"
    );
    gate.edit_config(|config| config + &door);
    gate.net.gateway.sh("ip addr add fe80::a/64 dev gw0 nodad");
    gate.net.client.space.sh("ip addr add fe80::b/64 dev eth0 nodad
         ip addr add fd90::9/64 dev eth0 nodad
         ip addr add 10.90.0.9/24 dev eth0");
    gate.start();
    let mut expected = String::new();
    for (words, from) in [
        ("10.90.0.1 --source 10.90.0.9", "10.90.0.9"),
        ("10.90.0.1 --source 10.90.0.9 --interface eth0", "10.90.0.9"),
        ("fd90::1 --source fd90::9", "fd90::9"),
        ("fe80::a%eth0 --source fe80::b", "fe80::b"),
        ("fe80::a --interface eth0 --source fe80::b", "fe80::b"),
    ] {
        let words: Vec<&str> = ["knock"].into_iter().chain(words.split(' ')).collect();
        ok(&gate.toctoc(
            &gate.net.client,
            &[&words[..], &["7321:tcp", "8432:udp", "6543:tcp"]].concat(),
        ));
        expected += &format!("open {from}\n");
        let log = || fs::read_to_string(gate.path("door.log")).unwrap_or_default();
        assert!(eventually(LONG, || log() == expected), "{words:?}: {}", log());
    }
    for (words, code) in
        [("fe80::a", 1), ("10.90.0.1 --source 10.90.0.77", 1), ("10.90.0.1 --interface eth7", 1)]
    {
        let words: Vec<&str> = ["knock"].into_iter().chain(words.split(' ')).collect();
        let output = gate.toctoc(&gate.net.client, &[&words[..], &["7321:tcp"]].concat());
        assert_eq!(output.status.code(), Some(code), "{words:?}");
        assert!(stderr(&output).contains("was not sent"), "{output:?}");
    }
}

#[test]
fn reports_about_the_network_are_read_some_in_each_turn() {
    let net = Net::new();
    let mut watch = net.gateway.inside(NetworkWatch::start).expect("a watch");
    net.gateway.sh("for n in $(seq 100); do ip addr add 10.77.0.$n/32 dev lo; done");
    assert!(watch.changed());
    assert!(watch.changed(), "one turn has read all");
    until("all are read", || !watch.changed());
}
