//! Files as people write them, below a folder of the test's own.

use std::fs;

use super::*;
use crate::config::native;

const FLUSH: &str = "#!/bin/sh\nnft flush ruleset\n";
const MARK: &str = "-m connmark --mark 0x10000000/0x10000000 -j ACCEPT";

struct Host(tempfile::TempDir);

impl Host {
    fn with(files: &[(&str, &str)]) -> Host {
        let host = Host(tempfile::tempdir().unwrap());
        for (path, text) in files {
            let path = host.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        host
    }

    /// What is found if the service is in this mode; without the folder's own name.
    fn found(&self, mode: &str) -> Vec<String> {
        let text = format!("[service.ssh]\nports = [\"22/tcp\"]\nmode = \"{mode}\"\n");
        let mut settings = native::parse("t", &text).unwrap();
        settings.firewall.printed = self.0.path().join("toctoc.nft");
        let root = self.0.path().display().to_string();
        let all = remarks(&settings, self.0.path());
        assert!(all.iter().all(|one| one.is_warning));
        all.into_iter().map(|one| one.text.replace(&root, "")).collect()
    }
}

#[test]
fn a_flush_in_each_place_that_runs_at_boot_or_with_an_interface_is_found() {
    for (path, when) in [
        ("etc/NetworkManager/dispatcher.d/50-fw", "whenever an interface comes up"),
        ("etc/networkd-dispatcher/routable.d/fw", "whenever an interface comes up"),
        ("etc/network/if-up.d/fw", "whenever an interface comes up"),
        ("etc/network/if-pre-up.d/fw", "whenever an interface comes up"),
        ("etc/rc.local", "at boot"),
        ("etc/local.d/fw.start", "at boot"),
    ] {
        for mode in ["guard", "mark"] {
            let [found] = Host::with(&[(path, FLUSH)]).found(mode).try_into().unwrap();
            let begin = format!("/{path}:2: `flush ruleset`, {when}, takes the guard away");
            assert!(found.starts_with(&begin), "{found}");
        }
    }
    let interfaces = "auto eth0\niface eth0 inet dhcp\n  up nft flush ruleset\n";
    let [found] =
        Host::with(&[("etc/network/interfaces", interfaces)]).found("guard").try_into().unwrap();
    assert!(found.starts_with("/etc/network/interfaces:3: "), "{found}");
}

#[test]
fn a_unit_and_the_script_that_it_runs_are_named() {
    let unit = "[Service]\nExecStart=/usr/sbin/nft flush ruleset\n";
    let [found] =
        Host::with(&[("etc/systemd/system/fw.service", unit)]).found("guard").try_into().unwrap();
    let begin =
        "/etc/systemd/system/fw.service:2: `flush ruleset`, whenever this unit starts, takes";
    assert!(found.starts_with(begin), "{found}");
    let unit = "[Service]\nExecStart=-/usr/local/sbin/fw.sh start\n";
    let host =
        Host::with(&[("etc/systemd/system/fw.service", unit), ("usr/local/sbin/fw.sh", FLUSH)]);
    let [found] = host.found("guard").try_into().unwrap();
    let begin =
        "/etc/systemd/system/fw.service:2: it runs /usr/local/sbin/fw.sh:2: `flush ruleset`";
    assert!(found.starts_with(begin), "{found}");
    let script = "#!/bin/sh\nnft -f /etc/my.nft\n";
    let host = Host::with(&[("etc/rc.local", script), ("etc/my.nft", "\n\nflush ruleset\n")]);
    let [found] = host.found("guard").try_into().unwrap();
    assert!(
        found.starts_with("/etc/rc.local:2: it runs /etc/my.nft:3: `flush ruleset`"),
        "{found}"
    );
}

#[test]
fn a_flush_of_iptables_takes_the_rule_of_mark_mode_away_unless_the_script_has_it() {
    for flush in [
        "iptables -F",
        "/sbin/ip6tables --flush INPUT",
        "iptables -t filter -F INPUT",
        "iptables-legacy -F; iptables-legacy -X",
    ] {
        let script = format!("#!/bin/sh\n# iptables -F\n{flush}\niptables -P INPUT DROP\n");
        let host = Host::with(&[("etc/rc.local", &script)]);
        let [found] = host.found("mark").try_into().unwrap();
        let begin =
            "/etc/rc.local:3: `iptables -F`, at boot, takes the rule away that lets granted";
        assert!(found.starts_with(begin), "{found}");
        assert!(found.ends_with(&format!("write `iptables -I INPUT {MARK}` behind it")), "{found}");
        // The guard is another table.
        assert_eq!(host.found("guard"), [""; 0]);
        let kept = format!("{script}iptables -A INPUT {MARK}\n");
        assert_eq!(Host::with(&[("etc/rc.local", &kept)]).found("mark"), [""; 0]);
    }
    for other in
        ["# iptables -F", "iptables -t nat -F", "iptables -F DOCKER-USER", "echo iptables: -Fine"]
    {
        assert_eq!(Host::with(&[("etc/rc.local", other)]).found("mark"), [""; 0], "{other}");
    }
}

#[test]
fn saved_rules_without_the_mark_are_found_in_mark_mode() {
    let saved = "# saved\n*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n";
    for path in SAVED {
        let host = Host::with(&[(path, saved)]);
        let [found] = host.found("mark").try_into().unwrap();
        let begin = format!("/{path}:2: the next boot loads these rules in place of yours");
        assert!(found.starts_with(&begin), "{found}");
        assert_eq!(host.found("guard"), [""; 0]);
        let kept = saved.replace("COMMIT", &format!("-A INPUT {MARK}\nCOMMIT"));
        assert_eq!(Host::with(&[(path, &kept)]).found("mark"), [""; 0]);
    }
    let nat = "*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n";
    assert_eq!(Host::with(&[("etc/iptables/rules.v4", nat)]).found("mark"), [""; 0]);
}

#[test]
fn the_files_of_ufw_must_have_the_rule_of_mark_mode_if_ufw_is_on() {
    let off = [("etc/ufw/ufw.conf", "ENABLED=no\n"), ("etc/ufw/before.rules", "*filter\nCOMMIT\n")];
    assert_eq!(Host::with(&off).found("mark"), [""; 0]);
    let on = [("etc/ufw/ufw.conf", "# on\nENABLED=yes\n"), off[1]];
    let [found] = Host::with(&on).found("mark").try_into().unwrap();
    assert!(found.starts_with("/etc/ufw/before.rules: `ufw reload`, and the next boot"), "{found}");
    assert!(found.contains(&format!("`-A ufw-before-input {MARK}`")), "{found}");
    let rule = format!("*filter\n-A ufw-after-input {MARK}\nCOMMIT\n");
    let kept = [on[0], on[1], ("etc/ufw/after.rules", rule.as_str())];
    assert_eq!(Host::with(&kept).found("mark"), [""; 0]);
}
