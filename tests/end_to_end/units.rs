//! The systemd units: their order keeps the ports shut at boot, `make install` installs them
//! correctly, and they leave guard and gateway the rights that these need.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::gate::{Gate, SSH, ok, stderr};
use crate::harness::starter::{self, Starter};
use crate::harness::{LONG, SHORT, process};

fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The words of all lines `key` in `section` of a unit.
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
            if inside == section && name == key {
                found.extend(value.split_whitespace().map(str::to_owned));
            }
        } else {
            panic!("{unit}: `{line}` is not a valid line of a unit");
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
        "if no unit wants it, it is not a barrier"
    );
    assert!(
        has(guard, "Unit", "DefaultDependencies", "no"),
        "otherwise it waits for the whole start of the system"
    );
    assert!(
        has(guard, "Unit", "PartOf", "nftables.service"),
        "a restart of nftables flushes the guard"
    );
    assert!(
        has(guard, "Unit", "ReloadPropagatedFrom", "nftables.service")
            && !words(guard, "Service", "ExecReload").is_empty()
    );
    assert_eq!(words(guard, "Service", "Type"), ["oneshot"]);
    assert_eq!(words(guard, "Service", "ExecStart")[1..], ["guard", "on"]);
    // Wanted by the firewall too: stopping and starting it flushes the guard as well.
    assert_eq!(words(guard, "Install", "WantedBy"), ["sysinit.target", "nftables.service"]);
    for unit in [guard, "toctocd"] {
        assert!(
            words(unit, "Service", "ExecStop").is_empty(),
            "{unit}: stopping it must open nothing"
        );
    }
    assert!(
        has("toctocd", "Unit", "Wants", "toctoc-guard.service")
            && has("toctocd", "Unit", "After", "toctoc-guard.service")
    );
}

#[test]
fn the_gateway_brings_along_the_socket_of_its_listeners_which_is_roots_alone() {
    for key in ["Wants", "After"] {
        assert!(has("toctocd", "Unit", key, "toctoc-listener.socket"), "{key}");
    }
    let run = words("toctocd", "Service", "ExecStart");
    assert_eq!(run[1..], ["run", "--listener-socket", "/run/toctoc/listener"]);
    let socket = fs::read_to_string(tree("packaging/systemd/toctoc-listener.socket")).unwrap();
    for line in ["ListenSequentialPacket=/run/toctoc/listener", "SocketMode=0600", "Accept=yes"] {
        assert!(socket.lines().any(|one| one == line), "{line}");
    }
    let user = words("toctoc-listener@", "Service", "User");
    assert!(user == ["_toctoc"] && user == words("toctoc-listener@", "Service", "Group"));
    assert!(has("toctoc-listener@", "Unit", "BindsTo", "toctocd.service"));
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
    let users = fs::read_to_string(root.path().join("opt/x/lib/sysusers.d/toctoc.conf")).unwrap();
    assert!(users.contains("\nu _toctoc -"), "{users}");
    let unit = root.path().join("opt/x/lib/systemd/system/toctocd.service");
    let before = "ExecStartPre=-+/usr/bin/systemd-sysusers /opt/x/lib/sysusers.d/toctoc.conf";
    assert!(fs::read_to_string(unit).unwrap().contains(before), "the unit makes the user too");
    let mut units = Vec::new();
    let socket = "opt/x/lib/systemd/system/toctoc-listener.socket";
    units.push(root.path().join(socket));
    for unit in ["toctoc-guard", "toctocd", "toctoc-listener@"] {
        let path = root.path().join(format!("opt/x/lib/systemd/system/{unit}.service"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("ExecStart=/opt/x/sbin/toctocd ") && !text.contains("/usr/local"),
            "{text}"
        );
        let mounts = "RequiresMountsFor=/opt/x/sbin ";
        assert!(
            unit != "toctoc-guard" || text.contains(mounts),
            "the program may be on a separate file system: {text}"
        );
        // systemd checks that the program exists.
        fs::write(&path, text.replace("/opt/x/sbin/toctocd", env!("CARGO_BIN_EXE_toctocd")))
            .unwrap();
        units.push(path);
    }
    let conf = fs::read_to_string(root.path().join("opt/x/share/toctoc/commands.conf")).unwrap();
    assert!(conf.contains("install -D -m 644 /opt/x/share/toctoc/commands.conf "), "{conf}");
    let install = fs::read_to_string(tree("Makefile")).unwrap();
    assert!(install.contains("\ninstall: build install-units install-user\n"));
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(&units)
        .stdin(Stdio::null())
        .output();
    // Skipped on a machine without systemd.
    if let Ok(output) = verify {
        let printed = stderr(&output);
        assert!(output.status.success() && !printed.contains(".service"), "{printed}");
    }
}

#[test]
fn the_programs_that_bin_names_are_packaged_however_it_is_given_or_none() {
    let root = tempfile::tempdir().unwrap();
    let bin = root.path().display().to_string();
    let mut make = Command::new("make");
    make.current_dir(tree("")).args(["-n", "-o", "build", "install", "DESTDIR=/x"]);
    for by in ["environment", "argument"] {
        let output = match by {
            "environment" => make.env("BIN", &bin).output(),
            _ => make.env_remove("BIN").arg(format!("BIN={bin}")).output(),
        };
        let output = output.unwrap();
        ok(&output);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(printed.contains(&format!("{bin}/toctocd /x/usr/local/sbin/toctocd")), "{by}");
    }
    for kind in ["deb", "rpm"] {
        let output = Command::new("make")
            .current_dir(tree(""))
            .args(["-s", kind])
            .env("BIN", &bin)
            .output()
            .unwrap();
        let says = format!("package: BIN={bin} has no toctocd and toctoc");
        assert!(!output.status.success() && stderr(&output).contains(&says), "{kind}: {output:?}");
    }
}

#[test]
fn the_units_see_the_first_process_and_the_listener_also_in_an_unprivileged_container() {
    for unit in ["toctoc-guard", "toctocd"] {
        for key in ["ProtectProc", "ProcSubset"] {
            assert!(words(unit, "Service", key).is_empty(), "{unit}: {key}: see docs/packages.md");
        }
    }
}

/// The start of a command line that runs a program as `unit` does: with its bounding set, without
/// new privileges, and with only the writable paths that the unit names. `etc` stands for
/// /etc/toctoc and contains the state and the control socket.
fn as_in_unit(unit: &str, etc: &str) -> Vec<String> {
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
    // As at boot: only the directories that the unit makes exist.
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
    // This machine may deny something itself, for example user namespaces.
    gate.start();
    let unlimited = gate.status_json()["degraded"].clone();
    gate.stop();
    ok(&gate.toctocd(&["guard", "off"]));
    assert!(gate.net.client.tcp_reaches(to, LONG));
    let etc = gate.path("etc");
    let guard = as_in_unit("toctoc-guard", &etc);
    let mut on = Command::new(&guard[0]);
    on.args(&guard[1..]).args([env!("CARGO_BIN_EXE_toctocd"), "guard", "on", "-c"]);
    ok(&gate.net.gateway.run(on.arg(gate.config())));
    assert!(!gate.net.client.tcp_reaches(to, SHORT), "open before the gateway runs");
    let run = as_in_unit("toctocd", &etc);
    let listeners = Starter::new(&gate.net.gateway, &gate.path("listener"), starter::as_in_unit);
    let run: Vec<&str> = run.iter().map(String::as_str).collect();
    gate.start_apart(&run, &listeners.path);
    assert_eq!(
        gate.status_json()["degraded"],
        unlimited,
        "the unit keeps the listener from giving up rights"
    );
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
    // What is wrong may be put right minutes later: five attempts in ten seconds would soon be used
    // up.
    assert_eq!(words("toctocd", "Unit", "StartLimitIntervalSec"), ["0"]);
    assert_eq!(words("toctocd", "Service", "Restart"), ["on-failure"]);
    assert_eq!(words("toctocd", "Service", "Type"), ["notify"]);
    assert_eq!(words("toctocd", "Service", "WatchdogSec"), ["30"]);
    let mut gate = Gate::new(|config| config.replace("port = 62201", "port = 0"));
    let path = gate.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let variable = format!("NOTIFY_SOCKET={path}");
    let mut early = Command::new("env");
    early.args([&variable, env!("CARGO_BIN_EXE_toctocd"), "run", "-c"]);
    assert_eq!(
        gate.net.gateway.run(early.arg(gate.config())).status.code(),
        Some(2),
        "the configuration is wrong"
    );
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 64]).is_err(), "systemd was told that it is ready");
    manager.set_nonblocking(false).unwrap();
    manager.set_read_timeout(Some(LONG)).unwrap();
    gate.edit_config(|config| config.replace("port = 0", "port = 62201"));
    gate.start_under(&["env", &variable, "WATCHDOG_USEC=30000000"]);
    let next = || {
        let mut message = [0; 64];
        let length = manager.recv(&mut message).expect("the manager is told in time");
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    assert_eq!(next(), "READY=1");
    for _ in 0..3 {
        assert_eq!(next(), "WATCHDOG=1", "while a listener answers");
    }
    let listener = u32::try_from(gate.daemon().listener().as_raw()).unwrap();
    assert_eq!(process::name(listener), "toctoc-listener");
}

#[test]
fn make_uninstall_takes_everything_away_but_not_while_the_guard_is_loaded() {
    let mut gate = Gate::new(|config| config);
    gate.start();
    gate.stop();
    let root = tempfile::tempdir().unwrap();
    let bin = root.path().join("bin");
    fs::create_dir(&bin).unwrap();
    for program in ["toctoc", "toctocd"] {
        let script = format!("#!/bin/sh\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_toctocd"));
        fs::write(bin.join(program), script).unwrap();
    }
    let prefix = root.path().join("prefix");
    let make = |target: &str| {
        let mut make = Command::new("make");
        make.current_dir(tree("")).args(["-s", "-o", "build", "-o", "install-user", target]);
        make.args([format!("BIN={}", bin.display()), format!("PREFIX={}", prefix.display())]);
        gate.net.gateway.run(make.arg(format!("ZSHDIR={}/zsh", prefix.display())))
    };
    ok(&make("install-knockd"));
    let files = || {
        let found = Command::new("find").arg(&prefix).args(["!", "-type", "d"]).output().unwrap();
        String::from_utf8_lossy(&found.stdout).lines().count()
    };
    let installed = files();
    assert!(installed >= 20, "{installed}");
    let refused = make("uninstall");
    assert!(stderr(&refused).contains("toctocd guard off"), "{refused:?}");
    assert!(!refused.status.success() && files() == installed);
    ok(&gate.toctocd(&["guard", "off"]));
    ok(&make("uninstall"));
    assert_eq!(files(), 0);
}

/// The score of systemd for a unit in tenths, 0 is best; `None` without systemd 250 or newer.
fn exposure(unit: &str) -> Option<u32> {
    // It takes no template.
    let instance = tempfile::tempdir().unwrap();
    let path = instance.path().join(format!("{}.service", unit.trim_end_matches('@')));
    fs::copy(tree(&format!("packaging/systemd/{unit}.service")), &path).unwrap();
    let output = Command::new("systemd-analyze")
        .args(["security", "--no-pager", "--offline=true"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    // `-> Overall exposure level for toctocd.service: 2.9 OK`.
    let text = String::from_utf8_lossy(&output.stdout);
    let (_, score) = text.lines().last()?.split_once(".service: ")?;
    let (score, _) = score.split_once(' ')?;
    Some(score.replace('.', "").parse().expect("a number with one digit behind the point"))
}

#[test]
fn the_units_are_as_hardened_as_the_document_says() {
    let document = fs::read_to_string(tree("docs/packages.md")).unwrap();
    for (unit, has) in
        [("toctocd", "has"), ("toctoc-guard", "has"), ("toctoc-listener@", ", which has")]
    {
        let says = format!("`{unit}.service` {has} a score of ").replace("` ,", "`,");
        let (_, rest) = document.split_once(&says).expect("docs/packages.md has the score");
        let score: u32 = rest[..3].replace('.', "").parse().unwrap();
        assert!(unit != "toctocd" || score < 20, "more than a gateway without commands needs");
        // Skipped on a machine without systemd.
        if let Some(measured) = exposure(unit) {
            assert_eq!(measured, score, "{unit}: change docs/packages.md, and say why");
        }
    }
}
