//! The units of systemd: in the order that keeps the ports shut at boot, installed where `make
//! install` says, and no tighter than what guard and gateway need. What the commands in them do is
//! left to the other tests.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
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
    let text =
        fs::read_to_string(tree(&format!("packaging/systemd/{unit}.service"))).expect("the unit");
    let mut inside = "";
    let mut found = Vec::new();
    for line in
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
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
fn the_guard_is_loaded_after_the_firewall_and_before_the_network_is_up() {
    let guard = "toctoc-guard";
    assert!(has(guard, "Unit", "After", "nftables.service"));
    for later in ["network-pre.target", "toctocd.service"] {
        assert!(has(guard, "Unit", "Before", later), "{later}");
    }
    assert!(
        has(guard, "Unit", "Wants", "network-pre.target"),
        "nobody else may want it, and then it is no barrier"
    );
    assert!(
        has(guard, "Unit", "DefaultDependencies", "no"),
        "else it waits for all of the system's start"
    );
    assert!(has(guard, "Unit", "PartOf", "nftables.service"), "a restart of it flushes");
    assert!(
        has(guard, "Unit", "ReloadPropagatedFrom", "nftables.service")
            && !words(guard, "Service", "ExecReload").is_empty()
    );
    assert_eq!(words(guard, "Service", "Type"), ["oneshot"]);
    assert_eq!(words(guard, "Service", "ExecStart")[1..], ["guard", "on"]);
    // By the firewall too: to stop it and start it again flushes as well.
    assert_eq!(words(guard, "Install", "WantedBy"), ["sysinit.target", "nftables.service"]);
    for unit in [guard, "toctocd"] {
        assert!(words(unit, "Service", "ExecStop").is_empty(), "{unit}: to stop it opens nothing");
    }
    assert!(
        has("toctocd", "Unit", "Wants", "toctoc-guard.service")
            && has("toctocd", "Unit", "After", "toctoc-guard.service")
    );
}

#[test]
fn the_installed_units_name_the_installed_program_and_systemd_accepts_them() {
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
        assert!(
            text.contains("ExecStart=/opt/x/sbin/toctocd ") && !text.contains("/usr/local"),
            "{text}"
        );
        let mounts = "RequiresMountsFor=/opt/x/sbin ";
        assert!(
            unit == "toctocd" || text.contains(mounts),
            "the program may be on a file system of its own: {text}"
        );
        // systemd looks whether the program is there.
        fs::write(&path, text.replace("/opt/x/sbin/toctocd", env!("CARGO_BIN_EXE_toctocd")))
            .unwrap();
        units.push(path);
    }
    let install = fs::read_to_string(tree("Makefile")).unwrap();
    assert!(install.contains("\ninstall: build install-units\n"));
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(&units)
        .stdin(Stdio::null())
        .output();
    // A machine without systemd has nobody to ask.
    if let Ok(output) = verify {
        let said = stderr(&output);
        assert!(output.status.success() && !said.contains(".service"), "{said}");
    }
}

/// The start of a command line that lives as below `unit`: in its bounding set, without new
/// privileges, and with no place to write but those that the unit names. `etc` stands for
/// /etc/toctoc, with the state and the control socket in it.
fn below(unit: &str, etc: &str) -> Vec<String> {
    let capabilities = words(unit, "Service", "CapabilityBoundingSet");
    assert!(!capabilities.is_empty());
    assert!(
        has(unit, "Service", "NoNewPrivileges", "yes")
            && has(unit, "Service", "ProtectSystem", "strict")
    );
    let kept: String = capabilities
        .iter()
        .map(|cap| format!(",+{}", cap.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    // As at boot: nothing is there but what the unit has made.
    let mut mounts = vec!["mount -t tmpfs tmpfs /run".to_owned()];
    for made in words(unit, "Service", "RuntimeDirectory") {
        mounts.push(format!("mkdir -m 700 /run/{made} && mount --bind /run/{made} /run/{made}"));
    }
    if has(unit, "Service", "ReadWritePaths", "-/etc/toctoc") {
        mounts.push(format!("mount --bind {etc} {etc}"));
    }
    mounts.extend(["/run", "/"].map(|place| format!("mount -o remount,bind,ro {place}")));
    let script = format!("{} && exec \"$@\"", mounts.join(" && "));
    let set = format!("--bounding-set=-all{kept}");
    ["unshare", "--mount", "sh", "-c", &script, "sh", "setpriv", "--no-new-privs", &set]
        .map(str::to_owned)
        .into()
}

#[test]
fn guard_and_gateway_work_with_the_rights_and_paths_that_their_units_leave_them() {
    let mut gate = Gate::new(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let to = gate.port(0, SSH);
    // What this machine itself denies, a user namespace for example, is not the unit's doing.
    gate.start();
    let unlimited = gate.status_json()["degraded"].clone();
    gate.stop();
    ok(&gate.toctocd(&["guard", "off"]));
    assert!(gate.net.client.tcp_reaches(to, LONG));
    let etc = gate.path("etc");
    let guard = below("toctoc-guard", &etc);
    let mut on = Command::new(&guard[0]);
    on.args(&guard[1..]).args([env!("CARGO_BIN_EXE_toctocd"), "guard", "on", "-c"]);
    ok(&gate.net.gateway.run(on.arg(gate.config())));
    assert!(!gate.net.client.tcp_reaches(to, SHORT), "shut before the gateway runs");
    let run = below("toctocd", &etc);
    gate.start_under(&run.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(gate.status_json()["degraded"], unlimited, "the listener gives up all that it could");
    let anna = gate.enrol("anna", "ssh");
    anna.must_open(&gate.net.client, "ssh", 0);
    assert!(gate.net.client.tcp_reaches(to, LONG));
    gate.net.gateway.sh("nft flush ruleset");
    gate.daemon().wait_for("put back");
    gate.revoke("anna");
    assert!(!gate.net.client.tcp_reaches(to, SHORT));
}

#[test]
fn systemd_restarts_a_gateway_that_cannot_start_and_is_told_when_it_is_ready() {
    // An interface, or the default route, may come minutes after us: five attempts in ten seconds
    // are soon used up.
    assert_eq!(words("toctocd", "Unit", "StartLimitIntervalSec"), ["0"]);
    assert_eq!(words("toctocd", "Service", "Restart"), ["on-failure"]);
    assert_eq!(words("toctocd", "Service", "Type"), ["notify"]);
    let mut gate = Gate::new(|config| config.replace("\"any\"", "\"late0\""));
    let path = gate.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let variable = format!("NOTIFY_SOCKET={path}");
    let mut early = Command::new("env");
    early.args([&variable, env!("CARGO_BIN_EXE_toctocd"), "run", "-c"]);
    assert_eq!(
        gate.net.gateway.run(early.arg(gate.config())).status.code(),
        Some(2),
        "there is no such interface"
    );
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 64]).is_err(), "and nothing to tell");
    manager.set_nonblocking(false).unwrap();
    manager.set_read_timeout(Some(LONG)).unwrap();
    gate.net.gateway.sh("ip link add late0 type veth peer name late1 && ip link set late0 up");
    gate.start_under(&["env", &variable]);
    let mut word = [0; 64];
    let length = manager.recv(&mut word).expect("the manager is told in time");
    assert_eq!(&word[..length], b"READY=1");
    let pid = gate.daemon().process.0.id();
    let child = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    assert_eq!(
        fs::read_to_string(format!("/proc/{}/comm", child.trim())).unwrap(),
        "toctoc-listener\n"
    );
}
