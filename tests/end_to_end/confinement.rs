//! What the two processes are left with, as the kernel shows it from outside; a listener that is
//! not confined is not used.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use nix::unistd::Pid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::harness::gate::{Gate, SSH, ok};

/// A line of `/proc/PID/status`.
fn status(pid: Pid, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} in {text}")).trim().to_owned()
}

fn gatekeeper(gate: &mut Gate) -> Pid {
    Pid::from_raw(i32::try_from(gate.daemon().process.0.id()).unwrap())
}

/// A door whose commands do nothing.
const DOOR: &str =
    "[door.web]\nsequence = [\"7321/tcp\", \"8432/udp\", \"9543/tcp\"]\nstart_command = \"true\"\n";

#[test]
fn a_gatekeeper_without_commands_keeps_few_rights_and_its_listener_none() {
    let mut gate = Gate::running(|config| config);
    let pid = gatekeeper(&mut gate);
    let kept = |set: &str| u64::from_str_radix(&status(pid, set), 16).unwrap();
    // kill, setgid, setuid, setpcap, net_admin, net_raw, sys_chroot
    for set in ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"] {
        assert_eq!(kept(set) & !0x431e0, 0, "{set} {:x}", kept(set));
    }
    assert_eq!(
        (status(pid, "NoNewPrivs"), status(pid, "Seccomp")),
        ("1".to_owned(), "2".to_owned())
    );
    let listener = gate.daemon().listener();
    assert_eq!(status(listener, "CapEff"), "0000000000000000");
    let filters = |pid| status(pid, "Seccomp_filters").parse::<u32>().unwrap();
    let (ours, its) = (filters(pid), filters(listener));
    // The first one was started before its gatekeeper gave anything up.
    assert!(ours > 0 && its > 0, "{ours} {its}");
    // What it is left with is enough for a new listener, the guard and a grant.
    gate.daemon().kill_listener();
    gate.daemon().wait_for("a new listener listens");
    assert!(filters(gate.daemon().listener()) > ours);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    gate.net.gateway.sh("nft delete table inet toctoc");
    gate.daemon().wait_for("the guard was loaded again");
    assert!(anna.open(&gate.net.client, "ssh", 0).is_some_and(|receipt| receipt.granted.is_some()));
    assert!(!gate.status().contains("keeps all of its rights"));
}

#[test]
fn the_children_of_a_gatekeeper_are_refused_the_system_calls_that_it_never_makes() {
    let mut gate = Gate::new(|config| config);
    let (nft, log) = (gate.path("nft"), gate.path("nft.log"));
    // Root may make a user namespace without any capability: only the list of system calls refuses
    // it.
    let tries = "if unshare --user true 2>/dev/null; then echo allowed; else echo refused; fi";
    gate.net.gateway.sh(&format!("[ $({tries}) = allowed ]"));
    fs::write(&nft, format!("#!/bin/sh\n{tries} >>{log}\nexec /usr/sbin/nft \"$@\"\n")).unwrap();
    gate.net.gateway.sh(&format!("chmod 755 {nft}"));
    let config = fs::read_to_string(gate.config()).unwrap();
    fs::write(gate.config(), config.replace("/usr/sbin/nft", &nft)).unwrap();
    gate.start();
    let log = fs::read_to_string(log).unwrap();
    assert!(!log.is_empty() && log.lines().all(|line| line == "refused"), "{log}");
}

#[test]
fn doors_with_commands_keep_all_rights_and_a_reload_cannot_add_them() {
    let mut gate = Gate::running(|config| config + DOOR);
    let all = fs::read_to_string("/proc/self/status").unwrap();
    assert!(
        all.contains(&format!("CapEff:\t{}", status(gatekeeper(&mut gate), "CapEff"))),
        "as it was started"
    );
    assert!(gate.status().contains("keeps all of its rights"));
    gate.stop();
    let config = fs::read_to_string(gate.config()).unwrap();
    fs::write(gate.config(), config.replace(DOOR, "")).unwrap();
    gate.start();
    fs::write(gate.config(), config).unwrap();
    let refused = gate.toctocd(&["reload"]);
    let words = stderr(&refused);
    assert!(
        !refused.status.success()
            && words.contains("given up the rights")
            && words.contains("restart"),
        "{words}"
    );
}

#[test]
fn a_listener_that_is_not_under_its_list_of_system_calls_is_not_used() {
    let gate = Gate::new(|config| config);
    // A kernel that says yes to every new list and puts none in force: the listener believes it.
    let calls = BTreeMap::from([(nix::libc::SYS_seccomp, Vec::new())]);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let lie =
        SeccompFilter::new(calls, SeccompAction::Allow, SeccompAction::Errno(0), arch).unwrap();
    let lie: BpfProgram = lie.try_into().unwrap();
    let config = gate.config();
    let output = gate.net.gateway.inside(|| {
        apply_filter(&lie).unwrap();
        Command::new(env!("CARGO_BIN_EXE_toctocd"))
            .args(["run", "-c"])
            .arg(&config)
            .output()
            .unwrap()
    });
    let words = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(
        words.contains("the listener cannot be confined") && words.contains("/proc/self/status"),
        "{words}"
    );
    assert!(!gate.net.gateway.sh("nft list tables").contains("toctoc"), "and nothing was changed");
}
