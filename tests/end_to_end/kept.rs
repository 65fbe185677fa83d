//! The guard stays loaded, whatever others do to nftables and to the daemon, and an admin's
//! commands disable and enable it. See `firewall` for what it lets through.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use toctoc::core::knock::Status;

use crate::harness::gate::{Gate, SSH, ok};
use crate::harness::{Host, LONG, SHORT, echoes, until};

/// The number of connections that an attacker keeps until the test checks them.
const KEPT: usize = 4;

/// A host without a grant that tries to connect all the time and keeps its connections.
struct Attacker {
    stop: Arc<AtomicBool>,
    kept: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Attacker {
    fn start(host: &Host, to: SocketAddr) -> Attacker {
        let stop = Arc::new(AtomicBool::new(false));
        let kept = Arc::new(Mutex::new(Vec::new()));
        let attack_stop = Arc::clone(&stop);
        let attack_kept = Arc::clone(&kept);
        let attack = move || {
            while !attack_stop.load(Ordering::SeqCst) {
                let connection = TcpStream::connect_timeout(&to, Duration::from_millis(20));
                let mut kept: MutexGuard<'_, Vec<TcpStream>> = attack_kept.lock().unwrap();
                if let (Ok(stream), true) = (connection, kept.len() < KEPT) {
                    kept.push(stream);
                }
                drop(kept);
                // An open port must not take all of the processor.
                thread::sleep(Duration::from_millis(1));
            }
        };
        let thread = Some(host.space.thread(attack));
        Attacker { stop, kept, thread }
    }

    fn is_connected(&self) -> bool {
        !self.kept.lock().unwrap().is_empty()
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes the connections that the attackers keep, asks all of them at once, and returns how many
/// answer.
fn alive(attackers: &[Attacker]) -> usize {
    let mut kept = Vec::new();
    for attacker in attackers {
        kept.append(&mut attacker.kept.lock().unwrap());
    }
    for stream in &mut kept {
        let _ = stream.write_all(b"ping");
    }
    let end = Instant::now() + SHORT;
    let mut alive = 0;
    for stream in &mut kept {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).unwrap();
        if matches!(stream.read(&mut [0; 4]), Ok(1..)) {
            alive += 1;
        }
    }
    alive
}

/// An act that could remove the guard.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Flush,
    Delete,
    /// `nft -f` of a file that flushes, has the admin's own rules, and includes the printed guard.
    Reload,
    /// SIGKILL. The daemon starts again after all other acts.
    Kill,
}

const ACTS: [Act; 4] = [Act::Flush, Act::Delete, Act::Reload, Act::Kill];

/// Every order of the acts.
fn orders(left: &[Act]) -> Vec<Vec<Act>> {
    if left.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for first in left {
        let others: Vec<Act> = left.iter().copied().filter(|act| act != first).collect();
        for rest in orders(&others) {
            all.push([vec![*first], rest].concat());
        }
    }
    all
}

/// Writes nftables.conf and the file that it includes, and returns its path.
fn nftables_conf(gate: &Gate) -> String {
    let (conf, included) = (gate.path("nftables.conf"), gate.path("toctoc.nft"));
    fs::write(&included, ok(&gate.toctocd(&["guard", "print"]))).unwrap();
    let own = "table inet admin { chain input { type filter hook input priority 0; policy accept; \
               ct state established accept; }; }";
    fs::write(&conf, format!("flush ruleset\n{own}\ninclude \"{included}\"\n")).unwrap();
    conf
}

/// The remaining seconds of an element of `source` in the kernel.
fn seconds_left(gate: &Gate, source: IpAddr) -> Option<u64> {
    let table: serde_json::Value =
        serde_json::from_str(&gate.net.gateway.sh("nft -j list table inet toctoc")).expect("JSON");
    for object in table["nftables"].as_array().expect("objects") {
        let elements = object.pointer("/set/elem").and_then(|list| list.as_array());
        for element in elements.into_iter().flatten() {
            if element["elem"]["val"].to_string().contains(&source.to_string()) {
                return element["elem"]["expires"].as_u64();
            }
        }
    }
    None
}

#[test]
fn no_connection_without_a_grant_survives_a_flush_a_deletion_a_reload_and_a_kill_in_any_order() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let conf = nftables_conf(&gate);
    let mut request = anna.request("ssh", gate.net.client.ips()[0]);
    request.seconds = 600;
    let begin = Instant::now();
    let to = gate.port(0, SSH);
    let receipt = anna.seal(&request).send(&gate.net.client, to.ip()).expect("a receipt");
    assert_eq!((receipt.status, receipt.seconds), (Status::Granted, 600));
    let stranger = gate.net.host(7);
    let attackers =
        stranger.gateway_ips().map(|ip| Attacker::start(&stranger, SocketAddr::new(ip, SSH)));
    for order in orders(&ACTS) {
        run(&mut gate, &order, &conf, &attackers);
        assert_eq!(alive(&attackers), 0, "{order:?}: a connection without a grant survived");
        assert!(gate.net.client.tcp_reaches(to, LONG), "{order:?}: the grant is lost");
        let left = seconds_left(&gate, gate.net.client.ips()[0]).expect("the grant is live");
        let expected = 600 - begin.elapsed().as_secs();
        assert!(
            (expected.saturating_sub(2)..=expected + 1).contains(&left),
            "{order:?}: {left} s left instead of {expected}"
        );
    }
}

/// Does the acts in this order, and starts the daemon again at the end.
fn run(gate: &mut Gate, order: &[Act], conf: &str, attackers: &[Attacker; 2]) {
    let mut runs = true;
    let mut guarded = true;
    for act in order {
        match act {
            Act::Flush => gate.net.gateway.sh("nft flush ruleset"),
            Act::Delete => gate.net.gateway.sh("nft delete table inet toctoc 2>/dev/null || :"),
            Act::Reload => gate.net.gateway.sh(&format!("nft -f {conf}")),
            Act::Kill => String::new(),
        };
        match (act, runs) {
            (Act::Kill, _) => {
                gate.kill();
                runs = false;
            }
            (_, true) => drop(gate.daemon().wait_for("put back")),
            (act, false) => guarded = *act == Act::Reload,
        }
        if guarded && runs {
            continue; // Connections from now are kept too, and checked at the end.
        }
        if guarded {
            assert_eq!(alive(attackers), 0, "{order:?}: after {act:?}");
        } else {
            until(&format!("{order:?}: attackers get in after {act:?}"), || {
                attackers.iter().all(Attacker::is_connected)
            });
        }
    }
    gate.start();
}

#[test]
fn a_slow_repair_of_the_guard_does_not_extend_a_grant() {
    let mut gate = Gate::new(|config| config);
    let (nft, slow) = (gate.path("nft"), gate.path("slow"));
    // Slow when it loads a guard, not when it lists one.
    let script = format!(
        "#!/bin/sh\ncase $* in *-f*) [ ! -e {slow} ] || sleep 3;; esac\nexec /usr/sbin/nft \"$@\"\n"
    );
    fs::write(&nft, script).unwrap();
    fs::set_permissions(&nft, fs::Permissions::from_mode(0o755)).unwrap();
    gate.edit_config(|config| config.replace("/usr/sbin/nft", &nft));
    gate.start();
    let anna = gate.enrol("anna", "ssh");
    anna.must_open(&gate.net.client, "ssh", 0);
    fs::write(slow, "").unwrap();
    gate.net.gateway.sh("nft delete table inet toctoc");
    gate.daemon().wait_for("loaded again");
    let grants = ok(&gate.toctocd(&["grants", "--json"]));
    let grants: serde_json::Value = serde_json::from_str(&grants).unwrap();
    let counted = grants[0]["seconds_left"].as_u64().unwrap();
    let in_kernel = seconds_left(&gate, gate.net.client.ips()[0]).expect("the grant is back");
    assert!(in_kernel <= counted + 1, "{in_kernel} s in the kernel, {counted} s in the gateway");
}

#[test]
fn an_admin_disables_and_enables_the_guard_through_the_running_gateway() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let (stranger, to) = (gate.net.host(7), gate.port(0, SSH));
    let to_stranger = stranger.gateway(0, SSH);
    anna.must_open(&gate.net.client, "ssh", 0);
    let output = ok(&gate.toctocd(&["guard", "off"]));
    assert!(
        output.contains("OPEN to everybody whom your own firewall lets in: 22/tcp (ssh)"),
        "{output}"
    );
    assert!(stranger.tcp_reaches(to_stranger, LONG));
    for command in [&["status"][..], &["guard", "status"]] {
        assert!(ok(&gate.toctocd(command)).contains("guard       OFF by command"), "{command:?}");
    }
    assert_eq!(
        anna.open(&gate.net.client, "ssh", 1).map(|r| r.status),
        Some(Status::Trouble),
        "a grant without a guard"
    );
    gate.reload();
    assert!(stranger.tcp_reaches(to_stranger, LONG), "a reload enabled the guard");
    assert!(ok(&gate.toctocd(&["guard", "on"])).contains("the guard is up"));
    assert!(!stranger.tcp_reaches(to_stranger, SHORT));
    assert!(gate.net.client.tcp_reaches(to, LONG), "live grants are lost");
    // Loading our table while the guard is off enables it: otherwise nobody could get a grant.
    ok(&gate.toctocd(&["guard", "off"]));
    let conf = nftables_conf(&gate);
    gate.net.gateway.sh(&format!("nft -f {conf}"));
    gate.daemon().wait_for("no longer off");
    assert!(!stranger.tcp_reaches(to_stranger, SHORT) && gate.net.client.tcp_reaches(to, LONG));
    // The last log line says what stays.
    for (command, left) in
        [("on", "shutting down; the guard stays up"), ("off", "shutting down; the guard stays off")]
    {
        ok(&gate.toctocd(&["guard", command]));
        gate.daemon().process.signal(Signal::SIGTERM);
        gate.daemon().wait_for(left);
        assert!(gate.daemon().process.wait(LONG).expect("toctocd ends").success());
        assert_eq!(stranger.tcp_reaches(to_stranger, SHORT), command == "off");
        gate.start();
    }
}

#[test]
fn without_a_gateway_commands_enable_and_disable_the_guard() {
    let gate = Gate::new(|config| {
        config + "\n[door.broken]\none_time_sequences = \"/nowhere\"\nstart_command = \"true\"\n"
    });
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let both = [gate.port(0, SSH), gate.port(1, SSH)];
    assert!(ok(&gate.toctocd(&["guard", "status"])).contains("OFF: the table does not exist"));
    let mut session = gate.net.client.connect(both[0], LONG).unwrap();
    assert!(ok(&gate.toctocd(&["guard", "on"])).contains("no gateway is running"));
    assert!(!echoes(&mut session, SHORT));
    let adopted = format!("adopted {} -> {} (tcp)\n", session.local_addr().unwrap(), both[0]);
    assert_eq!(ok(&gate.toctocd(&["guard", "adopt"])), adopted);
    assert!(echoes(&mut session, LONG));
    assert!(ok(&gate.toctocd(&["guard", "adopt"])).starts_with("nothing to adopt"));
    assert!(
        both.iter().all(|to| !gate.net.client.tcp_reaches(*to, SHORT)),
        "a broken door keeps the guard open"
    );
    let status = ok(&gate.toctocd(&["guard", "status"]));
    assert!(
        status.contains("guard       up")
            && status.contains("NOBODY")
            && status.contains("22/tcp (ssh)"),
        "{status}"
    );
    gate.net.gateway.sh("nft insert rule inet toctoc guard accept");
    assert!(ok(&gate.toctocd(&["guard", "status"])).contains("NOT AS CONFIGURED: its chain"));
    ok(&gate.toctocd(&["guard", "on"]));
    assert!(ok(&gate.toctocd(&["guard", "status"])).contains("guard       up"));
    ok(&gate.toctocd(&["guard", "off"]));
    assert!(both.iter().all(|to| gate.net.client.tcp_reaches(*to, LONG)));
}
