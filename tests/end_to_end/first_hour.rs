//! The first hour of a gateway: `init` and `run` at a terminal, and a start in the background. See
//! `trial` for the trial.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::gate::{Gate, SSH, ok, stderr};
use crate::harness::terminal::AtTerminal;
use crate::harness::{LONG, SHORT, process, until};

/// A gateway in the background. It is ended when dropped.
pub(crate) struct InBackground(u32);

impl InBackground {
    /// The one that a command has reported.
    pub(crate) fn reported(text: &str) -> InBackground {
        let (_, rest) = text.split_once("(pid ").unwrap_or_else(|| panic!("no pid: {text}"));
        InBackground(rest.split_once(')').expect("a pid").0.parse().expect("a pid"))
    }
}

impl Drop for InBackground {
    fn drop(&mut self) {
        process::signal(self.0, Signal::SIGKILL);
    }
}

/// `toctocd WORDS` at a terminal of the gateway.
pub(crate) fn at_terminal(gate: &Gate, words: &[&str], variables: &[(&str, &str)]) -> AtTerminal {
    let mut command = Command::new(env!("CARGO_BIN_EXE_toctocd"));
    command.args(words).env_remove("SSH_CONNECTION").envs(variables.iter().copied());
    AtTerminal::start(&gate.net.gateway, &mut command)
}

#[test]
fn a_start_in_the_background_returns_when_it_serves_or_says_why_it_does_not() {
    let gate = Gate::new(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let log = gate.path("log");
    let background = format!("--background={log}");
    let said = ok(&gate.toctocd(&["run", "--confirm", "1m", &background]));
    let running = InBackground::reported(&said);
    assert!(said.contains(&format!("log: {log}")), "{said}");
    let name = fs::read_to_string(format!("/proc/{}/comm", running.0)).unwrap();
    assert_eq!(name, "toctocd\n", "killall and pgrep find it");
    assert!(gate.status().contains("guard       up, ON TRIAL for "), "it serves at once");
    assert!(!gate.net.client.tcp_reaches(gate.port(0, SSH), SHORT));
    let first = fs::read_to_string(&log).unwrap();
    let line = first.lines().find(|line| line.contains(" ready: ")).expect("a log");
    assert!(line.starts_with("20") && line.as_bytes()[10] == b' ', "no date in {line}");
    let second = gate.toctocd(&["run", &background]);
    assert_eq!(second.status.code(), Some(4), "{second:?}");
    assert!(stderr(&second).contains("another"), "{second:?}");
    assert!(!stderr(&second).contains(" ready: "), "of the log only what is new: {second:?}");
    drop(running);
    gate.edit_config(|config| config.replace("port = 62201", "prot = 62201"));
    let broken = gate.toctocd(&["run", &background]);
    assert_eq!(broken.status.code(), Some(2), "{broken:?}");
    assert!(stderr(&broken).contains("unknown key `prot`"), "{broken:?}");
}

#[test]
fn init_at_a_terminal_finds_asks_warns_writes_and_starts_a_trial() {
    let gate = Gate::new(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let _web = gate.net.gateway.tcp_echo(8080);
    let _datagrams = gate.net.gateway.udp_echo(8080);
    gate.net.gateway.sh("ip route add default via 10.90.0.2");
    gate.net.gateway.sh("iptables -P INPUT DROP");
    // On a disk: a state in memory is refused.
    let folder = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let dir = folder.path().join("new").display().to_string();
    let mut init = at_terminal(&gate, &["init", "--dir", &dir], &[]);
    init.wait_for("Name or address that clients use [10.90.0.1]: ");
    init.child.signal(Signal::SIGINT);
    init.wait_for("toctocd: interrupted: nothing was written\r\n");
    assert_eq!(init.child.wait(LONG).expect("it ends").code(), Some(130));
    let mut init = at_terminal(&gate, &["init", "--dir", &dir], &[]);
    init.wait_for("This machine is 10.90.0.1 (on ");
    init.answer("Name or address that clients use [10.90.0.1]: ", "not a name");
    init.answer("Write a host name or an IP address", "");
    init.wait_for("ssh          22/tcp\r\n");
    init.wait_for("tcp-8080     8080/tcp\r\n");
    init.wait_for("udp-8080     8080/udp\r\n");
    init.answer("Services to hide, separated by commas [ssh]: ", "ssh, gopher");
    init.answer("write it as gopher=PORT/PROTO", "ssh,tcp-8080, gopher=70/tcp");
    init.wait_for("22/tcp, 8080/tcp, 70/tcp without a grant. It changes no rule of yours.");
    init.answer("Write keys and configuration to ", "y");
    init.wait_for("warning: 22/tcp (service ssh) over IPv4 is dropped even under a grant");
    init.answer("Start the gateway now, on trial? [y/N] ", "y");
    init.wait_for("toctocd runs in the background (pid ");
    init.answer("Invite your own machine now? ", "y");
    init.answer("A name for it [laptop]: ", "two words");
    init.answer("Write one word", "");
    init.wait_for("toctoc:");
    init.wait_for("`laptop` is invited until ");
    let status = ["status", "-c", &format!("{dir}/toctocd.toml")].map(str::to_owned);
    let mut command = Command::new(env!("CARGO_BIN_EXE_toctocd"));
    let status = ok(&gate.net.gateway.run(command.args(status)));
    let _running = InBackground::reported(&status);
    assert!(status.contains("ON TRIAL") && status.contains("3 services"), "{status}");
    assert!(init.child.wait(LONG).expect("it ends").success());
    let config = fs::read_to_string(format!("{dir}/toctocd.toml")).unwrap();
    assert!(config.contains("addresses = [\"10.90.0.1\"]"), "{config}");
}

#[test]
fn the_first_run_at_a_terminal_is_a_trial_and_an_ssh_session_may_go_on() {
    let gate = Gate::new(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let mut session = gate.net.client.connect(gate.port(0, SSH), LONG).expect("no guard yet");
    let config = gate.config().display().to_string();
    let words = ["run", "-c", &config];
    let ssh = [("SSH_CONNECTION", "10.90.0.2 40000 10.90.0.1 22")];
    let mut run = at_terminal(&gate, &words, &ssh);
    run.answer("Let them all go on? [y/N] ", "y");
    run.wait_for("adopted 10.90.0.2:");
    run.wait_for("the guard is on trial for ");
    assert!(!gate.net.client.tcp_reaches(gate.port(0, SSH), SHORT));
    assert!(crate::harness::echoes(&mut session, LONG), "the session goes on");
    run.child.signal(Signal::SIGTERM);
    run.wait_for("the guard stays up until its trial ends");
    assert!(run.child.wait(LONG).expect("it ends").success());
    ok(&gate.toctocd(&["guard", "off"]));
    // Somebody has got in once: the next first guard is no trial.
    let mut gate = gate;
    gate.start();
    let anna = gate.enrol("anna", "ssh");
    anna.must_open(&gate.net.client, "ssh", 0);
    gate.stop();
    ok(&gate.toctocd(&["guard", "off"]));
    let mut run = at_terminal(&gate, &words, &[]);
    run.wait_for("ready: ");
    until("it serves", || {
        gate.status().contains("guard       up (") || gate.status().contains("up\n")
    });
    assert!(!gate.status().contains("ON TRIAL"));
    run.child.signal(Signal::SIGTERM);
    assert!(run.child.wait(LONG).expect("it ends").success());
}
