//! The guard on trial: it stays only if somebody gets in from elsewhere, whatever dies meanwhile.
//! See `first_hour` for the trial of a first start.

use std::io::Read;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use super::first_hour::at_terminal;
use crate::harness::gate::{Gate, SSH, ok};
use crate::harness::{LONG, Running, SHORT, echoes, until};

/// Starts `toctocd guard on --confirm`.
fn on_trial(gate: &Gate, seconds: &str) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_toctocd"));
    command.args(["guard", "on", "--confirm", seconds, "-c"]).arg(gate.config());
    gate.net.gateway.spawn(command.stdout(Stdio::piped()))
}

#[test]
fn a_guard_on_trial_is_removed_unless_somebody_gets_in_from_elsewhere() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let to = gate.port(0, SSH);
    // A knock before the trial does not confirm it.
    anna.must_open(&gate.net.client, "ssh", 1);
    let output = gate.toctocd(&["guard", "on", "--confirm", "1"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(gate.net.client.tcp_reaches(to, LONG), "the failed trial left the port guarded");
    assert!(gate.status().contains("guard       OFF: nobody got in during its trial"));
    let mut trial = on_trial(&gate, "60");
    until("the guard is up", || gate.status().contains("guard       up, ON TRIAL for "));
    anna.must_open(&gate.net.client, "ssh", 0);
    assert!(trial.wait(LONG).expect("toctocd ends").success());
    let mut text = String::new();
    trial.0.stdout.take().expect("piped").read_to_string(&mut text).unwrap();
    assert!(text.contains("confirmed by anna: ssh for 10.90.0.2: the guard stays"), "{text}");
    let stranger = gate.net.host(7);
    assert!(!stranger.tcp_reaches(stranger.gateway(0, SSH), SHORT));
}

#[test]
fn whatever_dies_in_a_trial_nobody_is_locked_out() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let to = gate.port(0, SSH);
    let mut trial = on_trial(&gate, "2");
    until("the trial runs", || gate.status().contains("ON TRIAL"));
    assert!(!gate.net.client.tcp_reaches(to, SHORT));
    // The terminal is lost, and the gateway with it: nobody is left to turn the guard off.
    trial.signal(Signal::SIGKILL);
    trial.wait(LONG);
    gate.kill();
    until("the kernel ends the trial", || gate.net.client.tcp_reaches(to, SHORT));
    // A service manager starts the gateway again.
    gate.start();
    assert!(gate.status().contains("guard       OFF: nobody got in during its trial"));
    assert!(gate.net.client.tcp_reaches(to, LONG));
    ok(&gate.toctocd(&["guard", "on"]));
    assert!(!gate.net.client.tcp_reaches(to, SHORT), "an order is an order");
}

#[test]
fn a_trial_that_begins_without_a_gateway_is_confirmed_by_the_one_that_is_started_later() {
    let mut gate = Gate::new(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let mut trial = on_trial(&gate, "60");
    until("the guard is up", || !gate.net.client.tcp_reaches(gate.port(0, SSH), SHORT));
    // As the unit of the guard does it.
    let text = ok(&gate.toctocd(&["guard", "on"]));
    assert!(text.starts_with("the guard is up, on trial for "), "{text}");
    gate.start();
    gate.daemon().wait_for("the guard is on trial for ");
    gate.kill();
    gate.start();
    anna.must_open(&gate.net.client, "ssh", 0);
    assert!(trial.wait(LONG).expect("toctocd ends").success());
    let rules = gate.net.gateway.sh("nft list table inet toctoc");
    assert!(!rules.contains("the trial is over"), "{rules}");
    let stranger = gate.net.host(7);
    assert!(!stranger.tcp_reaches(stranger.gateway(0, SSH), SHORT));
}

#[test]
fn run_with_a_trial_begins_it_together_with_the_guard() {
    let mut gate = Gate::new(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let program = env!("CARGO_BIN_EXE_toctocd");
    gate.start_under(&["sh", "-c", &format!("exec {program} run --confirm 1 \"$2\" \"$3\"")]);
    gate.daemon().wait_for("the guard is on trial for 1 s");
    gate.daemon().wait_for("THE GUARD IS OFF: nobody got in");
    assert!(gate.net.client.tcp_reaches(gate.port(0, SSH), LONG));
}

#[test]
fn a_grant_that_the_own_firewall_makes_useless_does_not_confirm_a_trial() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    gate.net.gateway.sh("iptables -P INPUT DROP; iptables -A INPUT -p icmp -j ACCEPT");
    let mut trial = on_trial(&gate, "60");
    until("the trial runs", || gate.status().contains("ON TRIAL"));
    anna.must_open(&gate.net.client, "ssh", 0);
    let warning = "22/tcp (service ssh) over IPv4 is dropped even under a grant, by the policy of \
                   iptables chain INPUT; run `iptables -A INPUT -p tcp --dport 22 -j ACCEPT`";
    let useless = || gate.status_json()["trial"]["useless"].as_str() == Some(warning);
    until("the grant was looked at", useless);
    assert!(gate.status().contains(&format!("  warning     {warning}")));
    assert!(!gate.net.client.tcp_reaches(gate.port(0, SSH), SHORT));
    gate.net.gateway.sh("iptables -A INPUT -p tcp --dport 22 -j ACCEPT");
    anna.must_open(&gate.net.client, "ssh", 0);
    assert!(trial.wait(LONG).expect("toctocd ends").success());
    assert!(gate.net.client.tcp_reaches(gate.port(0, SSH), LONG));
}

#[test]
fn without_a_gateway_the_kernel_ends_a_trial_and_an_order_ends_what_it_left() {
    let gate = Gate::new(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let to = gate.port(0, SSH);
    let output = gate.toctocd(&["guard", "on", "--confirm", "1"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("nobody got in within 1 s: what it guards is OPEN for an hour"),
        "{text}"
    );
    assert!(gate.net.client.tcp_reaches(to, LONG));
    let status = ok(&gate.toctocd(&["guard", "status"]));
    let words = "guard       its trial is over: what it guards is OPEN for an hour";
    assert!(status.starts_with(words), "{status}");
    let text = ok(&gate.toctocd(&["guard", "on"]));
    assert!(text.starts_with("the guard is up; no gateway is running"), "{text}");
    assert!(!gate.net.client.tcp_reaches(to, SHORT), "the end of the trial is over, too");
}

/// `WORDS... COMMAND` runs a command for which this machine has started a day later.
fn at_another_boot(gate: &Gate) -> Vec<String> {
    let stat = std::fs::read_to_string("/proc/1/stat").unwrap();
    let (name, fields) = stat.rsplit_once(") ").unwrap();
    let mut fields: Vec<String> = fields.split(' ').map(str::to_owned).collect();
    // In hundredths of a second.
    fields[19] = (fields[19].parse::<u64>().unwrap() + 24 * 3600 * 100).to_string();
    let file = gate.path("stat");
    std::fs::write(&file, format!("{name}) {}", fields.join(" "))).unwrap();
    let script = format!("mount --bind {file} /proc/1/stat && exec \"$@\"");
    ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
}

#[test]
fn a_ruleset_saved_during_a_trial_is_no_trial_at_another_boot() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let to = gate.port(0, SSH);
    let trial = on_trial(&gate, "60");
    until("the trial runs", || gate.status().contains("ON TRIAL"));
    let saved = gate.path("saved.nft");
    gate.net.gateway.sh(&format!("(echo flush ruleset; nft list ruleset) >{saved}"));
    gate.kill();
    assert!(ok(&gate.toctocd(&["guard", "status"])).contains("guard       up, ON TRIAL for "));
    trial.signal(Signal::SIGKILL);
    let elsewhere = at_another_boot(&gate);
    let elsewhere: Vec<&str> = elsewhere.iter().map(String::as_str).collect();
    // The trial that goes on in the saved rules, and one that is over.
    for edit in ["", "s/elements = .*//"] {
        let load = format!("sed '{edit}' {saved} | nft -f -");
        gate.net.gateway.sh(&load);
        // As the unit of the guard does it, and then the gateway.
        let mut unit = Command::new(elsewhere[0]);
        unit.args(&elsewhere[1..]).args([env!("CARGO_BIN_EXE_toctocd"), "guard", "on", "-c"]);
        let text = ok(&gate.net.gateway.run(unit.arg(gate.config())));
        assert!(text.starts_with("the guard is up; no gateway is running"), "{text}");
        gate.net.gateway.sh(&load);
        gate.start_under(&elsewhere);
        assert!(gate.status().contains("guard       up\n"), "{}", gate.status());
        assert!(!gate.net.client.tcp_reaches(to, SHORT));
        let rules = gate.net.gateway.sh("nft list table inet toctoc");
        assert!(!rules.contains("trial"), "{rules}");
        gate.kill();
    }
}

#[test]
fn a_ruleset_saved_during_a_trial_stays_shut_hours_later_where_no_gateway_starts() {
    let gate = Gate::new(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let to = gate.port(0, SSH);
    let trial = on_trial(&gate, "60");
    until("the guard is up", || !gate.net.client.tcp_reaches(to, SHORT));
    trial.signal(Signal::SIGKILL);
    let saved = gate.net.gateway.sh("nft list ruleset");
    let (_, rest) = saved.split_once("meta time < \"").unwrap_or_else(|| panic!("{saved}"));
    let closes = rest.split('"').next().expect("a date");
    let load = |rules: &str| {
        std::fs::write(gate.path("saved.nft"), format!("flush ruleset\n{rules}")).unwrap();
        gate.net.gateway.sh(&format!("nft -f {}", gate.path("saved.nft")));
    };
    let is_element = |line: &&str| line.contains("elements = { tcp timeout");
    let over: Vec<&str> = saved.lines().filter(|line| !is_element(line)).collect();
    let over = over.join("\n");
    load(&over);
    assert!(gate.net.client.tcp_reaches(to, LONG), "the kernel ends the trial alone: {over}");
    load(&over.replace(closes, "2026-01-01 00:00:00"));
    assert!(!gate.net.client.tcp_reaches(to, SHORT), "{over}");
}

#[test]
fn a_command_that_is_interrupted_says_that_the_trial_goes_on_and_what_comes_next() {
    let gate = Gate::running(|config| config);
    ok(&gate.toctocd(&["guard", "off"]));
    let config = gate.config().display().to_string();
    let words = ["guard", "on", "--confirm", "60", "-c", &config];
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut command = at_terminal(&gate, &words, &[]);
        command.wait_for("to turn it off now: toctocd guard off\r\n");
        command.child.signal(signal);
        command.wait_for("toctocd: interrupted; the trial goes on for ");
        command.wait_for("without one it turns itself off\r\n");
        command.wait_for("off now: toctocd guard off\r\n");
        assert_eq!(command.child.wait(LONG).expect("it ends").code(), Some(code));
    }
    // With its terminal closed it can tell nobody, and ends all the same.
    let mut command = at_terminal(&gate, &words, &[]);
    command.wait_for("knock from another machine now");
    let mut child = command.close();
    child.signal(Signal::SIGHUP);
    assert_eq!(child.wait(LONG).expect("it ends").code(), Some(129));
    assert!(gate.status().contains("guard       up, ON TRIAL for "));
}

#[test]
fn a_guard_that_comes_up_in_an_ssh_session_offers_that_the_session_goes_on() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    ok(&gate.toctocd(&["guard", "off"]));
    let mut session = gate.net.client.connect(gate.port(0, SSH), LONG).expect("no guard");
    let config = gate.config().display().to_string();
    let words = ["guard", "on", "--confirm", "60", "-c", &config];
    let ssh = [("SSH_CONNECTION", "10.90.0.2 40000 10.90.0.1 22")];
    let mut command = at_terminal(&gate, &words, &ssh);
    command.answer("Let them all go on? [y/N] ", "y");
    command.wait_for("adopted 10.90.0.2:");
    command.wait_for("knock from another machine now");
    assert!(echoes(&mut session, LONG), "the session goes on");
    // Now the guard is up: what it froze, it froze before.
    let mut again = at_terminal(&gate, &words, &ssh);
    again.wait_for("the guard is up, on trial for ");
    again.wait_for("knock from another machine now");
}
