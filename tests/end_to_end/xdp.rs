//! XDP at real interfaces: junk is dropped before the stack, and nothing else is.

use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use capctl::{Cap, CapState};
use nix::sys::signal::Signal;
use toctoc::core::quota::Rate;
use toctoc::core::test_vectors;
use toctoc::edge::ebpf::{TagMap, XdpMap};
use toctoc::edge::entropy;
use toctoc::edge::xdp::{XdpFault, XdpLinks, XdpState};

use crate::harness::gate::{Gate, KNOCK, section};
use crate::harness::process::signal;
use crate::harness::starter::{Starter, as_in_unit};
use crate::harness::{LONG, Space, until};
use crate::listener_apart::UNIT;

/// The gateway's interface on the first host's link.
const AT: &str = "gw0";

/// True where XDP is possible: in the first user namespace.
fn is_possible() -> bool {
    let users = std::fs::read_to_string("/proc/self/uid_map").expect("/proc");
    let is_first = users.split_whitespace().eq(["0", "0", "4294967295"]);
    is_first && CapState::get_current().expect("/proc").effective.has(Cap::BPF)
}

/// The configuration with `xdp` at these interfaces.
fn with_xdp(config: &str, interfaces: &str) -> String {
    let line = config.lines().find(|line| line.starts_with("xdp = ")).expect("the key");
    section(config, "knock", line, &format!("xdp = {interfaces}"))
}

/// A gateway with `xdp` at [`AT`], in this mode: native unless the interface refuses it.
fn gate(mode: &str) -> Gate {
    let mut gate = Gate::new(|config| with_xdp(&config, &format!("[\"{AT}\"]")));
    if mode == "generic" {
        // Packets longer than a page: veth refuses native XDP then.
        gate.net.gateway.sh(&format!("ip link set {AT} mtu 9000"));
        gate.net.client.space.sh("ip link set eth0 mtu 9000");
    }
    gate.start();
    gate.daemon().wait_for(&format!("XDP is at interface {AT}, {mode} mode"));
    gate
}

/// How `ip link` shows the program at an interface: `xdp/id:7`, `xdpgeneric/id:7`, or nothing.
fn program(space: &Space, interface: &str) -> String {
    let shown = space.sh(&format!("ip -o link show dev {interface}"));
    let words = shown.split_whitespace().find(|word| word.starts_with("xdp"));
    words.unwrap_or_default().to_owned()
}

/// The same without the number.
fn at(space: &Space, interface: &str) -> String {
    program(space, interface).split('/').next().unwrap_or_default().to_owned()
}

fn xdp_dropped(gate: &Gate) -> u64 {
    gate.status_json()["xdp_dropped"].as_u64().expect("a number")
}

fn degraded(gate: &Gate) -> String {
    gate.status_json()["degraded"].to_string()
}

/// A socket of the first host that sends to the gateway's knock port.
fn sender(gate: &Gate, family: usize) -> UdpSocket {
    gate.net.client.space.udp(gate.port(family, KNOCK))
}

fn junk() -> [u8; 272] {
    entropy::bytes().expect("entropy")
}

fn drops_junk_and_passes_knocks(mode: &str) {
    let mut gate = gate(mode);
    let anna = gate.enrol("anna", "ssh");
    let shown = if mode == "native" { "xdp" } else { "xdpgeneric" };
    assert_eq!(at(&gate.net.gateway, AT), shown);
    assert!(!degraded(&gate).contains("XDP"), "{}", degraded(&gate));
    let status = gate.status();
    assert!(status.contains(&format!("  XDP         {AT} ({mode})")), "{status}");
    let before = gate.net.gateway.ip_counter("InReceives");
    for family in 0..2 {
        let socket = sender(&gate, family);
        for _ in 0..50 {
            socket.send(&junk()).expect("a route");
        }
    }
    until("junk over IPv4 and IPv6 is dropped", || xdp_dropped(&gate) == 100);
    let after = gate.net.gateway.ip_counter("InReceives");
    assert!(after - before < 40, "{} packets reached the stack", after - before);
    for family in 0..2 {
        anna.must_open(&gate.net.client, "ssh", family);
    }
    let packets = gate.status_json()["packets"].clone();
    assert_eq!((&packets["received"], gate.filtered()), (&102.into(), 100), "{packets}");
    assert_eq!((gate.rejected("unknown-tag"), xdp_dropped(&gate)), (100, 100));
    // The next listener's program takes over, with its tags; the counters go on.
    gate.daemon().kill_listener();
    gate.daemon().wait_for("a new listener listens");
    let bert = gate.enrol("bert", "ssh");
    until("the new program is there", || {
        sender(&gate, 0).send(&junk()).expect("a route");
        xdp_dropped(&gate) > 100
    });
    bert.must_open(&gate.net.client, "ssh", 0);
    assert_eq!(at(&gate.net.gateway, AT), shown);
    let gateway = gate.net.gateway.clone();
    gate.kill();
    until("the kernel takes it away after SIGKILL", || at(&gateway, AT).is_empty());
}

#[test]
fn junk_is_dropped_by_the_driver_and_knocks_open() {
    if is_possible() {
        drops_junk_and_passes_knocks("native");
    }
}

#[test]
fn junk_is_dropped_where_the_driver_cannot_and_knocks_open() {
    if is_possible() {
        drops_junk_and_passes_knocks("generic");
    }
}

#[test]
fn packets_to_other_machines_pass_whatever_their_port_and_length() {
    if !is_possible() {
        return;
    }
    let gate = gate("native");
    let inner = gate.net.host(7);
    gate.net.gateway.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
    gate.net.gateway.sh("echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
    let echo = inner.space.udp_echo(KNOCK);
    for ip in inner.ips() {
        let socket = gate.net.client.space.udp((ip, KNOCK).into());
        socket.set_read_timeout(Some(LONG)).expect("a timeout");
        let sent = junk();
        socket.send(&sent).expect("a route");
        let mut answer = [0; 300];
        let length = socket.recv(&mut answer).expect("the inner machine answers");
        assert_eq!(&answer[..length], sent);
    }
    drop(echo);
    assert_eq!(xdp_dropped(&gate), 0);
}

/// A program that drops nothing.
fn any_program() -> OwnedFd {
    let tags =
        TagMap::new(1, Rate { burst: 64, per_second: 4 }).unwrap_or_else(|why| panic!("{why}"));
    let map = XdpMap::new().unwrap_or_else(|why| panic!("{why}"));
    let loaded = map.load(9, &tags.filter(test_vectors::realm().knock_mask()));
    loaded.unwrap_or_else(|why| panic!("{why}"))
}

#[test]
fn the_program_leaves_an_interface_with_a_new_name_and_one_that_becomes_a_port() {
    if !is_possible() {
        return;
    }
    let space = Space::new();
    let program = any_program();
    let mut links = XdpLinks::default();
    let mut bring =
        || space.inside(|| links.bring(&["one".to_owned()], Some(program.as_fd()))).remove(0);
    space.sh("ip link add one type veth peer name far");
    assert!(matches!(bring(), XdpState::On(_)));
    space.sh("ip link set one name other && ip link add one type veth peer name far1");
    assert!(matches!(bring(), XdpState::On(_)));
    assert_eq!([at(&space, "one"), at(&space, "other")], ["xdp", ""]);
    space.sh("ip link add br0 type bridge && ip link set one master br0");
    assert_eq!(bring(), XdpState::Off(XdpFault::Port));
    assert_eq!(at(&space, "one"), "");
}

#[test]
fn the_program_of_somebody_else_is_kept_and_ours_comes_after_it() {
    if !is_possible() {
        return;
    }
    let mut gate = Gate::new(|config| with_xdp(&config, &format!("[\"{AT}\"]")));
    let (mut theirs, other) = (XdpLinks::default(), any_program());
    let gateway = gate.net.gateway.clone();
    let interface = [AT.to_owned()];
    let put = gateway.inside(|| theirs.bring(&interface, Some(other.as_fd())));
    assert!(matches!(put[..], [XdpState::On(_)]), "{put:?}");
    let before = program(&gateway, AT);
    let check = gate.check();
    assert!(check.contains("another XDP program is there"), "{check}");
    gate.start();
    gate.daemon().wait_for("no XDP at interface gw0: another XDP program is there");
    assert!(degraded(&gate).contains("no XDP at interface gw0"), "{}", degraded(&gate));
    assert_eq!(program(&gateway, AT), before);
    let anna = gate.enrol("anna", "ssh");
    anna.must_open(&gate.net.client, "ssh", 0);
    drop(theirs);
    gate.daemon().wait_for("XDP is at interface gw0, native mode");
    assert!(!degraded(&gate).contains("XDP"), "{}", degraded(&gate));
    let check = gate.check();
    assert!(!check.contains("XDP program"), "its own program is no surprise: {check}");
}

#[test]
fn a_reload_adds_and_removes_interfaces_and_one_that_appears_later_is_found() {
    if !is_possible() {
        return;
    }
    let mut gate = Gate::running(|config| config);
    let gateway = gate.net.gateway.clone();
    assert_eq!(at(&gateway, AT), "");
    gate.edit_config(|config| with_xdp(&config, "[\"gw0\", \"gw9\"]"));
    gate.reload();
    gate.daemon().wait_for("XDP is at interface gw0");
    assert!(degraded(&gate).contains("no XDP at interface gw9"), "{}", degraded(&gate));
    assert_eq!(at(&gateway, AT), "xdp");
    let _host = gate.net.host(9);
    gate.daemon().wait_for("XDP is at interface gw9");
    assert_eq!(at(&gateway, "gw9"), "xdp");
    gate.edit_config(|config| with_xdp(&config, "[\"gw9\"]"));
    gate.reload();
    gate.daemon().wait_for("XDP is gone from interface gw0");
    assert_eq!((at(&gateway, AT), at(&gateway, "gw9")), (String::new(), "xdp".to_owned()));
    gate.edit_config(|config| with_xdp(&config, "[]"));
    gate.reload();
    gate.daemon().wait_for("XDP is gone from interface gw9");
    assert_eq!(at(&gateway, "gw9"), "");
    assert!(!gate.status().contains("XDP"));
}

#[test]
fn a_gatekeeper_without_the_right_to_bpf_puts_the_program_of_its_listener_there() {
    if !is_possible() {
        return;
    }
    let mut gate = Gate::new(|config| with_xdp(&config, "[\"gw0\"]"));
    let starter = Starter::new(&gate.net.gateway, &gate.path("listener"), as_in_unit);
    gate.start_apart(&UNIT, &starter.path);
    gate.daemon().wait_for("XDP is at interface gw0, native mode");
    let anna = gate.enrol("anna", "ssh");
    sender(&gate, 0).send(&junk()).expect("a route");
    until("junk is dropped", || xdp_dropped(&gate) == 1);
    anna.must_open(&gate.net.client, "ssh", 0);
}

/// A gateway with XDP at [`AT`], and at gw9 once it is there, that has just lost its listener. Its
/// next one is started by `next`.
fn without_its_first_listener(next: impl Fn() -> Command + Send + 'static) -> (Gate, Starter) {
    let mut gate = Gate::new(|config| with_xdp(&config, "[\"gw0\", \"gw9\"]"));
    let is_first = AtomicBool::new(true);
    let start = move || if is_first.swap(false, Ordering::Relaxed) { as_in_unit() } else { next() };
    let starter = Starter::new(&gate.net.gateway, &gate.path("listener"), start);
    gate.start_apart(&UNIT, &starter.path);
    gate.daemon().wait_for("XDP is at interface gw0");
    signal(starter.started()[0], Signal::SIGKILL);
    gate.daemon().wait_for("the listener was lost");
    (gate, starter)
}

#[test]
fn the_program_of_a_lost_listener_stays_and_comes_to_a_new_interface_until_another_one_serves() {
    if !is_possible() {
        return;
    }
    let (mut gate, _starter) = without_its_first_listener(|| {
        let mut hangs = Command::new("sleep");
        hangs.arg("1000");
        hangs
    });
    let _host = gate.net.host(9);
    gate.daemon().wait_for("XDP is at interface gw9");
    assert_eq!(at(&gate.net.gateway, AT), "xdp");
}

#[test]
fn a_listener_without_a_program_does_not_go_on_with_that_of_the_lost_one() {
    if !is_possible() {
        return;
    }
    let (mut gate, _starter) = without_its_first_listener(|| {
        let full = as_in_unit();
        let mut without_bpf = Command::new(full.get_program());
        let words = full.get_args().map(|word| word.to_str().expect("text"));
        without_bpf.args(words.map(|word| word.replace(",+bpf", "")));
        without_bpf
    });
    gate.daemon().wait_for("no XDP at interface gw0: the kernel does not take the program");
    assert_eq!(at(&gate.net.gateway, AT), "");
    let anna = gate.enrol("anna", "ssh");
    anna.must_open(&gate.net.client, "ssh", 0);
}

#[test]
fn what_cannot_have_xdp_is_named_and_the_gateway_serves() {
    let mut gate = Gate::new(|config| config);
    gate.net.gateway.sh("ip link add br0 type bridge && ip link set br0 up");
    gate.net.gateway.sh("ip link add p0 type veth peer name p1 && ip link set p0 master br0 up");
    gate.edit_config(|config| with_xdp(&config, "[\"lo\", \"p0\", \"nix0\"]"));
    let check = gate.check();
    for says in ["lo: it has no Ethernet", "p0: it is a port", "nix0: there is none"] {
        assert!(check.contains(&format!("[knock] xdp: interface {says}")), "{check}");
    }
    gate.start();
    let anna = gate.enrol("anna", "ssh");
    anna.must_open(&gate.net.client, "ssh", 0);
    until("all are named", || degraded(&gate).matches("no XDP at interface").count() == 3);
    gate.stop();
    // Nor without the right to load a program.
    gate.edit_config(|config| with_xdp(&config, "[\"gw0\"]"));
    gate.start_without_kernel_filter();
    gate.daemon().wait_for("no XDP at interface gw0: the kernel does not take the program");
    anna.must_open(&gate.net.client, "ssh", 0);
}
