//! The privileges that the two processes keep, as the kernel shows them from outside. A listener
//! that is not confined is not used.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::harness::gate::{Gate, SSH, stderr};
use crate::harness::process;

/// A line of /proc/PID/status.
fn status(pid: u32, name: &str) -> String {
    process::status(pid, name).unwrap_or_else(|| panic!("process {pid} has no {name}"))
}

fn gatekeeper(gate: &mut Gate) -> u32 {
    gate.daemon().process.0.id()
}

fn listener(gate: &mut Gate) -> u32 {
    u32::try_from(gate.daemon().listener().as_raw()).unwrap()
}

/// A door whose commands do nothing.
const DOOR: &str =
    "[door.web]\nsequence = [\"7321/tcp\", \"8432/udp\", \"9543/tcp\"]\nstart_command = \"true\"\n";

#[test]
fn where_the_group_of_receipts_is_not_mapped_status_says_what_that_means() {
    let missing = "group 61137 is not mapped in this user namespace";
    let mut gate = Gate::running(|config| config);
    let has_all_groups = fs::read_to_string("/proc/self/gid_map").unwrap().contains("4294967295");
    assert_eq!(gate.status().contains(missing), !has_all_groups);
    gate.stop();
    gate.start_under(&["unshare", "--user", "--map-root-user", "--net"]);
    assert!(gate.status().contains(missing), "{}", gate.status());
    gate.daemon().kill_listener();
    gate.daemon().wait_for("a new listener listens");
    assert!(gate.status().contains(missing), "the next listener has the same sockets");
}

#[test]
fn a_gatekeeper_without_commands_keeps_few_rights_and_its_listener_none() {
    let mut gate = Gate::running(|config| config);
    let pid = gatekeeper(&mut gate);
    let kept = |set: &str| u64::from_str_radix(&status(pid, set), 16).unwrap();
    // kill, setgid, setuid, setpcap, net_admin, net_raw, sys_chroot
    for set in ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"] {
        assert_eq!(kept(set) & !0x80_0004_31e0, 0, "{set} {:x}", kept(set));
    }
    assert_eq!(
        (status(pid, "NoNewPrivs"), status(pid, "Seccomp")),
        ("1".to_owned(), "2".to_owned())
    );
    let first = listener(&mut gate);
    assert_eq!(status(first, "CapEff"), "0000000000000000");
    let filters = |pid| status(pid, "Seccomp_filters").parse::<u32>().unwrap();
    let own = filters(pid);
    // The first listener was started before its gatekeeper gave anything up.
    assert!(own > 0 && filters(first) > 0, "{own} {}", filters(first));
    // The remaining privileges are enough for a new listener, the guard and a grant.
    gate.daemon().kill_listener();
    gate.daemon().wait_for("a new listener listens");
    assert!(filters(listener(&mut gate)) > own);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    gate.net.gateway.sh("nft delete table inet toctoc");
    gate.daemon().wait_for("the guard was loaded again");
    anna.must_open(&gate.net.client, "ssh", 0);
    assert!(!gate.status().contains("keeps all of its rights"));
}

#[test]
fn the_children_of_a_gatekeeper_are_refused_the_system_calls_that_it_never_makes() {
    let mut gate = Gate::new(|config| config);
    let (nft, log) = (gate.path("nft"), gate.path("nft.log"));
    // Root may make a user namespace without any capability: only the seccomp filter refuses it.
    // The first by unshare, the second by clone, which makes a process in a new user namespace. The
    // flags of clone3 cannot be filtered: it must seem to be missing (ENOSYS).
    let clone = format!(
        "my \\$pid = syscall({}, {}, 0, 0, 0, 0); exit(\\$pid < 0)",
        nix::libc::SYS_clone,
        nix::libc::CLONE_NEWUSER | nix::libc::SIGCHLD
    );
    let clone3 =
        format!("syscall({}, 0, 0); exit(\\$! == {})", nix::libc::SYS_clone3, nix::libc::ENOSYS);
    let tries = format!(
        "for try in 'unshare --user true' \"perl -e '{clone}'\" \"perl -e '{clone3}'\"; do \
         if eval $try 2>/dev/null; then echo allowed; else echo refused; fi; done"
    );
    assert_eq!(
        gate.net.gateway.sh(&tries),
        "allowed\n".repeat(3),
        "this machine refuses it anyway"
    );
    fs::write(&nft, format!("#!/bin/sh\n{tries} >>{log}\nexec /usr/sbin/nft \"$@\"\n")).unwrap();
    gate.net.gateway.sh(&format!("chmod 755 {nft}"));
    gate.edit_config(|config| config.replace("/usr/sbin/nft", &nft));
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
        "it gave up capabilities that it was started with"
    );
    assert!(gate.status().contains("keeps all of its rights"));
    gate.stop();
    gate.edit_config(|config| config.replace(DOOR, ""));
    gate.start();
    gate.edit_config(|config| config + DOOR);
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
    // A kernel that accepts every seccomp filter and applies none: the listener cannot tell.
    let calls = BTreeMap::from([(nix::libc::SYS_seccomp, Vec::new())]);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter =
        SeccompFilter::new(calls, SeccompAction::Allow, SeccompAction::Errno(0), arch).unwrap();
    let filter: BpfProgram = filter.try_into().unwrap();
    let config = gate.config();
    let output = gate.net.gateway.inside(|| {
        apply_filter(&filter).unwrap();
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
    assert!(!gate.net.gateway.sh("nft list tables").contains("toctoc"), "the guard was loaded");
}

#[test]
fn a_gateway_that_may_not_open_its_sockets_says_where_and_what_to_do_and_closes_nothing() {
    let gate = Gate::new(|config| config.replace("[\"any\"]", "[\"gw0\"]"));
    let mut run = Command::new("setpriv");
    run.args(["--bounding-set=-net_raw", env!("CARGO_BIN_EXE_toctocd"), "run", "-c"]);
    let output = gate.net.gateway.run(run.arg(gate.config()));
    let words = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{words}");
    let what = "interface gw0: no capture socket: Operation not permitted";
    assert!(words.contains(what) && words.contains("capturing needs CAP_NET_RAW"), "{words}");
    assert!(!gate.net.gateway.sh("nft list tables").contains("toctoc"), "the guard was loaded");
}
