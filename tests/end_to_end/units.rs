//! The units of systemd: in the order that keeps the ports shut at boot, installed where `make install` says, and no tighter than
//! what the gateway needs.
//! What the commands in them do is left to the other tests.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use toctoc::core::knock::Status;

use crate::harness::gate::{Gate, SSH, ok};
use crate::harness::{LONG, SHORT};

fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The words of `key` in `section` of a unit, over all of its lines.
fn words(unit: &str, section: &str, key: &str) -> Vec<String> {
    let text = fs::read_to_string(tree(&format!("packaging/systemd/{unit}.service"))).expect("the unit");
    let mut inside = "";
    let mut found = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = name;
        } else if let Some((name, value)) = line.split_once('=') {
            let ours = inside == section && name == key;
            found.extend(value.split_whitespace().filter(|_| ours).map(str::to_owned));
        } else {
            panic!("{unit}: `{line}` is no line of a unit");
        }
    }
    found
}

fn has(unit: &str, section: &str, key: &str, word: &str) -> bool {
    words(unit, section, key).iter().any(|one| one == word)
}

#[test]
fn the_guard_is_shut_after_the_firewall_is_loaded_and_before_the_network_is_up() {
    let guard = "toctoc-guard";
    assert!(has(guard, "Unit", "After", "nftables.service"));
    for later in ["network-pre.target", "toctocd.service"] {
        assert!(has(guard, "Unit", "Before", later), "{later}");
    }
    assert!(has(guard, "Unit", "Wants", "network-pre.target"), "nobody else may want it, and then it is no barrier");
    assert!(has(guard, "Unit", "DefaultDependencies", "no"), "else it waits for all of the system's start");
    assert!(has(guard, "Unit", "PartOf", "nftables.service"), "a restart of it flushes");
    assert!(
        has(guard, "Unit", "ReloadPropagatedFrom", "nftables.service")
            && !words(guard, "Service", "ExecReload").is_empty()
    );
    assert_eq!(words(guard, "Service", "Type"), ["oneshot"]);
    assert_eq!(words(guard, "Service", "ExecStart")[1..], ["guard", "on"]);
    assert_eq!(words(guard, "Install", "WantedBy"), ["sysinit.target"]);
    for unit in [guard, "toctocd"] {
        assert!(words(unit, "Service", "ExecStop").is_empty(), "{unit}: to stop it opens nothing");
    }
    assert!(
        has("toctocd", "Unit", "Wants", "toctoc-guard.service")
            && has("toctocd", "Unit", "After", "toctoc-guard.service")
    );
}

#[test]
fn the_units_are_installed_with_the_programs_paths_and_systemd_finds_no_fault_in_them() {
    let root = tempfile::tempdir().unwrap();
    let made = Command::new("make")
        .current_dir(tree(""))
        .args(["-s", "install-units", "PREFIX=/opt/x"])
        .arg(format!("DESTDIR={}", root.path().display()))
        .output()
        .unwrap();
    ok(&made);
    let mut units = Vec::new();
    for unit in ["toctoc-guard", "toctocd"] {
        let path = root.path().join(format!("opt/x/lib/systemd/system/{unit}.service"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("ExecStart=/opt/x/sbin/toctocd ") && !text.contains("/usr/local"), "{text}");
        // systemd looks whether the program is there.
        fs::write(&path, text.replace("/opt/x/sbin/toctocd", env!("CARGO_BIN_EXE_toctocd"))).unwrap();
        units.push(path);
    }
    let install = fs::read_to_string(tree("Makefile")).unwrap();
    assert!(install.contains("\ninstall: build install-units\n"));
    let verify =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).stdin(Stdio::null()).output();
    // A machine without systemd has nobody to ask.
    if let Ok(output) = verify {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains(".service"), "{said}");
    }
}

#[test]
fn the_gateway_does_all_its_work_with_the_capabilities_that_its_unit_leaves_it() {
    let limit = |unit| {
        let words = words(unit, "Service", "CapabilityBoundingSet");
        assert!(!words.is_empty());
        let caps = words.iter().map(|cap| format!(",+{}", cap.trim_start_matches("CAP_").to_lowercase()));
        format!("--bounding-set=-all{}", caps.collect::<String>())
    };
    let mut gate = Gate::new(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let to = SocketAddr::new(gate.net.gateway_ips()[0], SSH);
    let mut on = Command::new("setpriv");
    on.args(["--no-new-privs", &limit("toctoc-guard"), env!("CARGO_BIN_EXE_toctocd"), "guard", "on", "-c"]);
    ok(&gate.net.gateway.run(on.arg(gate.config())));
    assert!(!gate.net.client.tcp_reaches(to, SHORT), "shut before the gateway runs");
    gate.start_under(&["setpriv", "--no-new-privs", &limit("toctocd")]);
    let status = ok(&gate.toctocd(&["status"]));
    assert!(!status.contains("degraded"), "the listener gives up all that it could: {status}");
    let anna = gate.enrol("anna", "ssh");
    assert_eq!(anna.open(&gate.net.client, "ssh", 0).map(|r| r.status), Some(Status::Granted));
    assert!(gate.net.client.tcp_reaches(to, LONG));
    gate.net.gateway.sh("nft flush ruleset");
    gate.daemon().wait_for("put back");
    ok(&gate.toctocd(&["client", "revoke", "anna"]));
    assert!(!gate.net.client.tcp_reaches(to, SHORT));
}
