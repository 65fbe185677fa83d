//! A crowd of live grants: whatever an admin or another program does meanwhile, knocks are answered
//! at once, and the gateway comes to rest.

use std::fs;
use std::thread;
use std::time::Duration;

use toctoc::core::knock::{KnockKind, Request, Status};

use crate::harness::crowd::{crowded, member};
use crate::harness::gate::{Gate, Knocker, SSH, stamp};
use crate::harness::process::{cpu_time, time_on_processor};
use crate::harness::{LONG, SHORT, eventually};

/// The longest that the gatekeeper's loop may work while a knock waits: its own time on a processor,
/// so that other programs do not count.
const PROMPT: Duration = Duration::from_secs(2);
/// How long the gateway may need to come to rest, if the machine has others to serve too.
const REST: Duration = Duration::from_secs(120);

/// Knocks, and fails if the gatekeeper has much else to do first.
fn knock(gate: &mut Gate, client: &Knocker) {
    let pid = gate.daemon().process.0.id();
    let begin = time_on_processor(pid);
    let receipt = client.open(&gate.net.client, "ssh", 0);
    assert!(receipt.is_some(), "a knock was not answered");
    let worked = time_on_processor(pid) - begin;
    assert!(worked < PROMPT, "a knock waited for {worked:?} of other work");
}

fn in_kernel(gate: &Gate) -> usize {
    let listing = gate.net.gateway.sh("nft list set inet toctoc v4/ssh");
    listing.matches(" expires ").count()
}

/// True once the gatekeeper uses next to no processor time for a while.
fn comes_to_rest(gate: &mut Gate) -> bool {
    let pid = gate.daemon().process.0.id();
    eventually(REST, || {
        let before = cpu_time(pid);
        thread::sleep(Duration::from_millis(500));
        cpu_time(pid) - before <= Duration::from_millis(20)
    })
}

/// The log after the first lines, in which the seeded grants are put into the kernel.
fn since_start(gate: &mut Gate) -> String {
    let log = gate.daemon().log();
    let (_, rest) = log.split_once("ready: ").expect("it is ready");
    rest.to_owned()
}

#[test]
fn a_crowd_of_grants_comes_through_reload_close_revoke_repair_and_restart_while_knocks_are_answered()
 {
    for number in [1000, 4096, 50_000] {
        let (mut gate, anna, many) = crowded(number);
        let _ssh = gate.net.gateway.tcp_echo(SSH);
        let all = usize::try_from(number).unwrap();
        assert_eq!(in_kernel(&gate), all, "at the start");
        knock(&mut gate, &anna);
        for _ in 0..3 {
            gate.reload();
            knock(&mut gate, &anna);
        }
        // A close of one member's grant; the others stay.
        let close = Request { kind: KnockKind::Close, ..many.request("ssh", member(7)) };
        let send = |request: &Request| {
            many.seal(request).send(&gate.net.client, gate.net.gateway_ips()[0])
        };
        let receipt = send(&close).expect("an answer");
        let request = Request { challenge: receipt.challenge, timestamp: stamp(), ..close };
        let closed = [Some(receipt), send(&request)].into_iter().flatten();
        assert!(closed.into_iter().any(|receipt| receipt.status == Status::Closed));
        knock(&mut gate, &anna);
        assert_eq!(in_kernel(&gate), all, "anna came, one went");
        assert!(comes_to_rest(&mut gate), "{number} grants keep the gateway busy");
        let log = since_start(&mut gate);
        for word in
            ["was changed by", "put back", "loaded again", "MAY BE DOWN", "the firewall refused"]
        {
            assert!(!log.contains(word), "an alarm of its own making, {word}: {log}");
        }
        // Others flush the elements, then everything.
        gate.net.gateway.sh("nft flush set inet toctoc v4/ssh");
        gate.daemon().wait_for("grants put back");
        knock(&mut gate, &anna);
        gate.net.gateway.sh("nft flush ruleset");
        gate.daemon().wait_for("grants put back");
        knock(&mut gate, &anna);
        assert_eq!(in_kernel(&gate), all);
        assert!(comes_to_rest(&mut gate), "the repair of {number} grants has no end");
        gate.kill();
        gate.start();
        knock(&mut gate, &anna);
        assert!(gate.net.client.tcp_reaches(gate.port(0, SSH), LONG));
        assert_eq!(in_kernel(&gate), all);
        gate.revoke("many");
        knock(&mut gate, &anna);
        assert_eq!(in_kernel(&gate), 1, "all of them are gone");
        assert!(comes_to_rest(&mut gate));
    }
}

#[test]
fn a_large_set_of_another_program_is_no_alarm() {
    let (mut gate, anna, _) = crowded(1000);
    let many: Vec<String> =
        (0..150_000u32).map(|n| std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string()).collect();
    let path = gate.path("large.nft");
    let elements = many.join(", ");
    let text = format!(
        "add table inet other {{ set s {{ type ipv4_addr; elements = {{ {elements} }}; }}; }}\n"
    );
    fs::write(&path, text).unwrap();
    gate.net.gateway.sh(&format!("nft -f {path}"));
    knock(&mut gate, &anna);
    assert!(comes_to_rest(&mut gate));
    let log = since_start(&mut gate);
    for word in ["was changed by", "put back", "loaded again", "MAY BE DOWN"] {
        assert!(!log.contains(word), "{word}: {log}");
    }
}

#[test]
fn who_was_revoked_while_no_gateway_ran_has_nothing_left_after_its_start() {
    let (mut gate, anna, _) = crowded(1000);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    knock(&mut gate, &anna);
    assert!(gate.net.client.tcp_reaches(gate.port(0, SSH), LONG));
    gate.stop();
    gate.revoke("many");
    gate.start();
    assert_eq!(in_kernel(&gate), 1, "only anna's grant");
    gate.stop();
    gate.revoke("anna");
    gate.start();
    assert_eq!(in_kernel(&gate), 0);
    assert!(!gate.net.client.tcp_reaches(gate.port(0, SSH), SHORT));
}
