//! The gate stands, whatever others do to nftables and to the daemon, and an admin's command takes
//! it away and puts it up. What the guard lets through is left to `tests/end_to_end/firewall.rs`.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use toctoc::core::knock::Status;

use crate::harness::gate::{Gate, SSH, ok};
use crate::harness::{Host, LONG, Running, SHORT, echoes, eventually};

/// How many connections an attacker keeps until they are looked at.
const KEPT: usize = 4;

/// Somebody without a grant who tries to connect all the time, and keeps what he gets.
struct Attacker {
    stop: Arc<AtomicBool>,
    kept: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Attacker {
    fn start(host: &Host, to: SocketAddr) -> Attacker {
        let (stop, kept) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (over, mine) = (Arc::clone(&stop), Arc::clone(&kept));
        let attack = move || {
            while !over.load(Ordering::SeqCst) {
                let got = TcpStream::connect_timeout(&to, Duration::from_millis(20));
                let mut kept = mine.lock().unwrap();
                let room = kept.len() < KEPT;
                kept.extend(got.ok().filter(|_| room));
                drop(kept);
                // What is open must not eat up the machine.
                thread::sleep(Duration::from_millis(1));
            }
        };
        let thread = Some(host.space.thread(attack));
        Attacker { stop, kept, thread }
    }

    fn is_in(&self) -> bool {
        !self.kept.lock().unwrap().is_empty()
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// How many of the connections that they kept still answer, all asked at once; they begin anew.
fn alive(attackers: &[Attacker]) -> usize {
    let mut kept: Vec<TcpStream> = attackers
        .iter()
        .flat_map(|attacker| std::mem::take(&mut *attacker.kept.lock().unwrap()))
        .collect();
    kept.iter_mut().for_each(|stream| stream.write_all(b"ping").unwrap_or(()));
    let begin = Instant::now();
    let answers = |stream: &mut TcpStream| {
        let left = SHORT.saturating_sub(begin.elapsed()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).unwrap();
        matches!(stream.read(&mut [0; 4]), Ok(1..))
    };
    kept.iter_mut().map(answers).filter(|alive| *alive).count()
}

/// What others do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Flush,
    Delete,
    /// `nft -f` of a file that flushes, has rules of the admin's own, and includes the printed
    /// guard.
    Reload,
    /// SIGKILL; nobody starts the daemon again until all else is done.
    Kill,
}

const ACTS: [Act; 4] = [Act::Flush, Act::Delete, Act::Reload, Act::Kill];

/// Every order of the acts.
fn orders(left: &[Act]) -> Vec<Vec<Act>> {
    if left.is_empty() {
        return vec![Vec::new()];
    }
    let begin = |first: Act| {
        let others: Vec<Act> = left.iter().copied().filter(|act| *act != first).collect();
        orders(&others).into_iter().map(move |rest| [vec![first], rest].concat())
    };
    left.iter().flat_map(|first| begin(*first)).collect()
}

/// Writes nftables.conf and the file that it includes; answers its path.
fn nftables_conf(gate: &Gate) -> String {
    let (conf, included) = (gate.path("nftables.conf"), gate.path("toctoc.nft"));
    fs::write(&included, ok(&gate.toctocd(&["guard", "print"]))).unwrap();
    let own = "table inet admin { chain input { type filter hook input priority 0; policy accept; ct state established accept; }; }";
    fs::write(&conf, format!("flush ruleset\n{own}\ninclude \"{included}\"\n")).unwrap();
    conf
}

/// The seconds that the kernel gives `source` still.
fn seconds_left(gate: &Gate, source: IpAddr) -> Option<u64> {
    let table: serde_json::Value =
        serde_json::from_str(&gate.net.gateway.sh("nft -j list table inet toctoc")).expect("JSON");
    let sets = table["nftables"]
        .as_array()
        .expect("objects")
        .iter()
        .filter_map(|object| object.pointer("/set/elem"));
    let elements = sets.filter_map(|list| list.as_array()).flatten();
    let mine = elements.filter(|element| {
        element.pointer("/elem/val").is_some_and(|v| v.to_string().contains(&source.to_string()))
    });
    mine.filter_map(|element| element.pointer("/elem/expires")?.as_u64()).next()
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
    let to = SocketAddr::new(gate.net.gateway_ips()[0], SSH);
    let receipt = anna.seal(&request).send(&gate.net.client, to.ip()).expect("a receipt");
    assert_eq!((receipt.status, receipt.seconds), (Status::Granted, 600));
    let stranger = gate.net.host(7);
    let attackers =
        stranger.gateway_ips().map(|ip| Attacker::start(&stranger, SocketAddr::new(ip, SSH)));
    for order in orders(&ACTS) {
        run(&mut gate, &order, &conf, &attackers);
        assert_eq!(alive(&attackers), 0, "{order:?}: who slipped in is cut");
        assert!(gate.net.client.tcp_reaches(to, LONG), "{order:?}: the grant is back");
        let (left, should) = (
            seconds_left(&gate, gate.net.client.ips()[0]).expect("live"),
            600 - begin.elapsed().as_secs(),
        );
        assert!(
            (should.saturating_sub(2)..=should + 1).contains(&left),
            "{order:?}: {left} s instead of {should}"
        );
    }
}

/// Does it in this order, and starts the daemon again at the end.
fn run(gate: &mut Gate, order: &[Act], conf: &str, attackers: &[Attacker; 2]) {
    let (mut runs, mut stands) = (true, true);
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
            (act, false) => stands = *act == Act::Reload,
        }
        if stands && runs {
            continue; // Who is in now is still kept, and found when all is done.
        }
        if stands {
            assert_eq!(alive(attackers), 0, "{order:?}: after {act:?}");
        } else {
            assert!(
                eventually(LONG, || attackers.iter().all(Attacker::is_in)),
                "{order:?}: nothing guards after {act:?}"
            );
        }
    }
    gate.start();
}

#[test]
fn a_grant_gains_nothing_by_a_slow_repair_of_the_guard() {
    let mut gate = Gate::new(|config| config);
    let (nft, slow) = (gate.path("nft"), gate.path("slow"));
    // Slow where it loads a guard, not where it lists one.
    let script = format!(
        "#!/bin/sh\ncase $* in *-f*) [ ! -e {slow} ] || sleep 3;; esac\nexec /usr/sbin/nft \"$@\"\n"
    );
    fs::write(&nft, script).unwrap();
    fs::set_permissions(&nft, fs::Permissions::from_mode(0o755)).unwrap();
    let config = fs::read_to_string(gate.config()).unwrap().replace("/usr/sbin/nft", &nft);
    fs::write(gate.config(), config).unwrap();
    gate.start();
    let anna = gate.enrol("anna", "ssh");
    assert_eq!(anna.open(&gate.net.client, "ssh", 0).map(|r| r.status), Some(Status::Granted));
    fs::write(slow, "").unwrap();
    gate.net.gateway.sh("nft delete table inet toctoc");
    gate.daemon().wait_for("loaded again");
    let grants = ok(&gate.toctocd(&["grants", "--json"]));
    let ours = serde_json::from_str::<serde_json::Value>(&grants).unwrap()[0]["seconds_left"]
        .as_u64()
        .unwrap();
    let kernels = seconds_left(&gate, gate.net.client.ips()[0]).expect("put back");
    assert!(kernels <= ours + 1, "{kernels} s in the kernel, {ours} s as we count");
}

#[test]
fn an_admin_takes_the_guard_away_and_puts_it_up_through_the_running_gateway() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let (stranger, to) = (gate.net.host(7), SocketAddr::new(gate.net.gateway_ips()[0], SSH));
    let theirs = SocketAddr::new(stranger.gateway_ips()[0], SSH);
    assert_eq!(anna.open(&gate.net.client, "ssh", 0).map(|r| r.status), Some(Status::Granted));
    let said = ok(&gate.toctocd(&["guard", "off"]));
    assert!(
        said.contains("OPEN to everybody whom your own firewall lets in: 22/tcp (ssh)"),
        "{said}"
    );
    assert!(stranger.tcp_reaches(theirs, LONG));
    for command in [&["status"][..], &["guard", "status"]] {
        assert!(ok(&gate.toctocd(command)).contains("guard       OFF by command"), "{command:?}");
    }
    assert_eq!(
        anna.open(&gate.net.client, "ssh", 1).map(|r| r.status),
        Some(Status::Trouble),
        "nothing is granted"
    );
    ok(&gate.toctocd(&["reload"]));
    assert!(stranger.tcp_reaches(theirs, LONG), "a reload is no reason to put it up");
    assert!(ok(&gate.toctocd(&["guard", "on"])).contains("the guard is up"));
    assert!(!stranger.tcp_reaches(theirs, SHORT));
    assert!(gate.net.client.tcp_reaches(to, LONG), "and live grants are back");
    // Whoever loads our table while it is off puts it up: nobody could be granted anything there
    // else.
    ok(&gate.toctocd(&["guard", "off"]));
    let conf = nftables_conf(&gate);
    gate.net.gateway.sh(&format!("nft -f {conf}"));
    gate.daemon().wait_for("no longer off");
    assert!(!stranger.tcp_reaches(theirs, SHORT) && gate.net.client.tcp_reaches(to, LONG));
    // What the log ends with is what stays.
    for (command, left) in
        [("on", "shutting down; the guard stays up"), ("off", "shutting down; the guard stays off")]
    {
        ok(&gate.toctocd(&["guard", command]));
        gate.daemon().process.signal(nix::sys::signal::Signal::SIGTERM);
        gate.daemon().wait_for(left);
        assert!(gate.daemon().process.wait(LONG).expect("it ends").success());
        assert_eq!(stranger.tcp_reaches(theirs, SHORT), command == "off");
        gate.start();
    }
}

#[test]
fn without_a_gateway_the_guard_is_shut_by_command_and_opened_by_command() {
    let gate = Gate::new(|config| {
        config + "\n[door.broken]\none_time_sequences = \"/nowhere\"\nstart_command = \"true\"\n"
    });
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let tos = gate.net.gateway_ips().map(|ip| SocketAddr::new(ip, SSH));
    assert!(ok(&gate.toctocd(&["guard", "status"])).contains("OFF: there is no such table"));
    let mut session = gate.net.client.connect(tos[0], LONG).unwrap();
    assert!(ok(&gate.toctocd(&["guard", "on"])).contains("no gateway runs"));
    assert!(!echoes(&mut session, SHORT));
    let adopted = format!("adopted {} -> {} (tcp)\n", session.local_addr().unwrap(), tos[0]);
    assert_eq!(ok(&gate.toctocd(&["guard", "adopt"])), adopted);
    assert!(echoes(&mut session, LONG));
    assert!(ok(&gate.toctocd(&["guard", "adopt"])).starts_with("nothing to adopt"));
    assert!(
        tos.iter().all(|to| !gate.net.client.tcp_reaches(*to, SHORT)),
        "a broken door is no reason to stay open"
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
    assert!(tos.iter().all(|to| gate.net.client.tcp_reaches(*to, LONG)));
}

/// `toctocd guard on --confirm`, while the test goes on.
fn on_trial(gate: &Gate, seconds: &str) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_toctocd"));
    command.args(["guard", "on", "--confirm", seconds, "-c"]).arg(gate.config());
    gate.net.gateway.spawn(command.stdout(Stdio::piped()))
}

#[test]
fn a_guard_on_trial_goes_away_unless_somebody_elsewhere_gets_in() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let to = SocketAddr::new(gate.net.gateway_ips()[0], SSH);
    // A knock before the trial proves nothing.
    assert_eq!(anna.open(&gate.net.client, "ssh", 1).map(|r| r.status), Some(Status::Granted));
    let output = gate.toctocd(&["guard", "on", "--confirm", "1"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(gate.net.client.tcp_reaches(to, LONG), "the way back");
    assert!(ok(&gate.toctocd(&["status"])).contains("OFF by command"));
    let mut trial = on_trial(&gate, "60");
    assert!(eventually(LONG, || ok(&gate.toctocd(&["status"])).contains("guard       up")));
    assert_eq!(anna.open(&gate.net.client, "ssh", 0).map(|r| r.status), Some(Status::Granted));
    assert!(trial.wait(LONG).expect("it ends").success());
    let mut said = String::new();
    trial.0.stdout.take().expect("piped").read_to_string(&mut said).unwrap();
    assert!(said.contains("confirmed by anna: ssh for 10.90.0.2: the guard stays"), "{said}");
    let stranger = gate.net.host(7);
    assert!(!stranger.tcp_reaches(SocketAddr::new(stranger.gateway_ips()[0], SSH), SHORT));
}

#[test]
fn a_gateway_that_dies_in_a_trial_locks_nobody_out() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let to = SocketAddr::new(gate.net.gateway_ips()[0], SSH);
    ok(&gate.toctocd(&["guard", "off"]));
    let mut trial = on_trial(&gate, "2");
    assert!(eventually(LONG, || !gate.net.client.tcp_reaches(to, SHORT)));
    // The session in which it was started hangs up as well.
    trial.signal(nix::sys::signal::Signal::SIGHUP);
    gate.kill();
    assert_eq!(trial.wait(LONG).and_then(|status| status.code()), Some(1));
    assert!(gate.net.client.tcp_reaches(to, LONG), "the way back");
}
