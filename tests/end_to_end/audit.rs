//! `toctocd audit` on a sound host and on one with planted holes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::gate::{DNS, Gate, RDP, SSH, ok, section};
use crate::harness::{LONG, until};

/// Runs the audit, which must end with this code, and returns its JSON.
fn audited(gate: &Gate, code: i32) -> Value {
    let output = gate.toctocd(&["audit", "--json"]);
    assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// The holes, each as `about: what`.
fn holes(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().expect("a list");
    let holes = findings.iter().filter(|one| one["grade"] == "hole");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    holes.map(|one| format!("{}: {}", text(&one["about"]), text(&one["what"]))).collect()
}

/// What was seen in each measured column of a port's row.
fn row(report: &Value, port: &str) -> Vec<String> {
    let rows = report["rows"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["port"] == port).unwrap_or_else(|| panic!("no {port}"));
    let cells = row["cells"].as_array().expect("a list");
    cells.iter().map(|cell| cell["seen"].as_str().expect("text").to_owned()).collect()
}

#[test]
fn the_audit_of_a_sound_host_finds_nothing_and_changes_nothing() {
    let mut gate = Gate::new(|config| config);
    let gateway = gate.net.gateway.clone();
    let _servers = [SSH, RDP, 80].map(|port| gateway.tcp_echo(port));
    let _dns = gateway.udp_echo(DNS);
    // Rules that decide nothing; one names the address that has a grant now, so it is tried too.
    gateway.sh("nft add table inet admin
         nft add chain inet admin input '{ type filter hook input priority 0; policy drop; }'
         nft add rule inet admin input tcp dport '{ 22, 80, 3389, 9000-9100 }' accept
         nft add rule inet admin input udp dport 5353 accept
         nft add rule inet admin input ip saddr 10.90.0.2 counter
         iptables -A INPUT -p tcp -m multiport --dports 22,80 -m comment --comment x -j ACCEPT
         iptables -t nat -A PREROUTING -p tcp --dport 2222 -j REDIRECT --to-ports 22");
    gate.start();
    let client = gate.enrol("anna", "ssh");
    client.must_open(&gate.net.client, "ssh", 0);
    let look = || {
        gateway.sh("ip -br addr; ip route; nft -t list ruleset | sed 's/packets.*bytes [0-9]*//'")
    };
    let before = look();
    let file = gate.path("audit.html");
    let output = gate.toctocd(&["audit", "--json", "--html", &file]);
    let report: Value = serde_json::from_str(&ok(&output)).expect("JSON");
    assert_eq!((holes(&report), &report["result"]), (vec![], &"sound".into()));
    for (port, opener) in [("22/tcp", "ssh"), ("3389/tcp", "rdp"), ("5353/udp", "dns")] {
        assert_eq!(row(&report, port), ["silent", "silent", opener], "{port}");
    }
    assert_eq!(row(&report, "80/tcp"), ["OPEN", "OPEN", "as strangers"]);
    let lacks = report["not_covered"].to_string();
    assert!(!lacks.contains("not in the copy"), "{lacks}");
    let findings = report["findings"].to_string();
    assert!(!findings.contains("does not open it"), "{findings}");
    assert_eq!(look(), before);
    let page = std::fs::read_to_string(file).expect("the report");
    assert!(page.contains("<td>22/tcp</td>") && page.contains("verdict sound"), "{page}");
}

#[test]
fn the_audit_names_each_planted_hole() {
    let mut gate = Gate::new(|config| {
        let mark = section(&config, "firewall", "mode = \"guard\"", "mode = \"mark\"");
        mark + "\n[service.web]\nports = [\"8443/tcp\"]\n"
    });
    let gateway = gate.net.gateway.clone();
    let _servers = [SSH, RDP, 8443].map(|port| gateway.tcp_echo(port));
    let _dns = gateway.udp_echo(DNS);
    // Without a way back no connection comes about.
    gateway.sh("ip route add default via 10.90.0.2");
    std::fs::write(gate.path("holes.nft"), HOLES).expect("our own file");
    gateway.sh(&format!("nft -f {}", gate.path("holes.nft")));
    gate.start();
    let found = holes(&audited(&gate, 1)).join("\n");
    for hole in [
        // 1. Guarded on IPv4 only.
        "22/tcp (ssh): reached while all is shut, by a neighbour on gw0, fd90::47",
        // 2. A foreign rule that sets our mark.
        "3389/tcp (rdp): reached while all is shut, by 203.0.113.7, of 203.0.113.0/24",
        // 3. A foreign rule that accepts a net.
        "5353/udp (dns): reached while all is shut, by 198.51.100.7, of 198.51.100.0/24",
        // 4. A translation to a guarded port.
        "2222/tcp: it leads to service ssh, 22/tcp, by a translation",
        // 5. A foreign set that takes up whoever has a grant, and lets in all around it.
        "8443/tcp (web): while a grant is open (",
    ] {
        assert!(found.contains(hole), "{hole}\nfound:\n{found}");
    }
    assert!(!found.contains("8443/tcp (web): reached while all is shut"), "{found}");
    // 6. And with the guard off everything is open.
    ok(&gate.toctocd(&["guard", "off"]));
    let off = audited(&gate, 1);
    assert!(holes(&off)[0].starts_with("guard: it is not loaded"), "{:?}", holes(&off));
}

/// The links of a process that lead to network namespaces; none if it has ended.
fn spaces(process: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in
        ["fd", "ns"].iter().flat_map(|folder| std::fs::read_dir(process.join(folder))).flatten()
    {
        let link = entry.and_then(|entry| std::fs::read_link(entry.path()));
        found.extend(link.into_iter().filter(|link| link.to_string_lossy().starts_with("net:[")));
    }
    found
}

/// All that a machine's network looks like.
const LOOK: &str = "ip -br link; ip -br addr; ip route; ip rule; ss -Hatun
    ls /run/netns 2>&1 || true
    nft -t list ruleset | sed 's/packets.*bytes [0-9]*//'";

#[test]
fn an_audit_that_is_killed_in_its_middle_leaves_nothing_behind() {
    let mut gate = Gate::new(|config| config);
    gate.net.gateway.sh("iptables-legacy -A INPUT -p tcp --dport 81 -j DROP");
    gate.start();
    let before = gate.net.gateway.sh(LOOK);
    let mut command = Command::new(env!("CARGO_BIN_EXE_toctocd"));
    command.args(["audit", "--html", &gate.path("audit.html"), "-c"]).arg(gate.config());
    let mut audit = gate.net.gateway.spawn(command.stdout(Stdio::null()));
    let process = PathBuf::from(format!("/proc/{}", audit.0.id()));
    let own = std::fs::read_link(process.join("ns/net")).expect("it runs");
    let mut made = BTreeSet::new();
    // Both are there before the first packet, and a second of packets follows.
    until("the copy is there", || {
        made = spaces(&process);
        made.remove(&own);
        made.len() == 2
    });
    audit.signal(Signal::SIGKILL);
    assert_eq!(audit.wait(LONG).expect("it ends").code(), None, "it was killed");
    until("no process holds a part of the copy", || {
        let all = std::fs::read_dir("/proc").expect("a folder").flatten();
        all.into_iter().all(|entry| spaces(&entry.path()).is_disjoint(&made))
    });
    assert_eq!(gate.net.gateway.sh(LOOK), before);
    assert!(!Path::new(&gate.path("audit.html")).exists(), "half a report");
}

#[test]
fn rules_of_iptables_legacy_count_in_an_audit() {
    let gate =
        Gate::new(|config| section(&config, "firewall", "mode = \"guard\"", "mode = \"mark\""));
    let gateway = gate.net.gateway.clone();
    let _servers = [SSH, RDP].map(|port| gateway.tcp_echo(port));
    let _dns = gateway.udp_echo(DNS);
    gateway.sh("ip route add default via 10.90.0.2");
    for program in ["iptables-legacy", "ip6tables-legacy"] {
        gateway.sh(&format!(
            "{program} -A INPUT -m connmark --mark 0x10000000/0x10000000 -j ACCEPT
             {program} -A INPUT -p udp --dport {DNS} -j DROP
             {program} -A INPUT -p tcp -m multiport --dports {SSH},{RDP} -j DROP"
        ));
    }
    ok(&gate.toctocd(&["guard", "on"]));
    let report = audited(&gate, 0);
    assert_eq!(holes(&report), [""; 0]);
    assert_eq!(row(&report, "22/tcp"), ["silent", "silent", "ssh"]);
    assert!(!report["not_covered"].to_string().contains("not in the copy"), "{report}");
    gateway.sh("iptables-legacy -I INPUT -s 198.51.100.0/24 -p tcp --dport 3389 -j ACCEPT");
    let hole = "3389/tcp (rdp): reached while all is shut, by 198.51.100.7, of 198.51.100.0/24, which \
                your rules name";
    assert_eq!(holes(&audited(&gate, 1)), [hole]);
}

#[test]
fn a_grant_for_one_connection_is_tried_at_one_port_of_its_service() {
    let mut gate = Gate::new(|config| {
        let ports = "ports = [\"3389/tcp\", \"3390/tcp\"]";
        section(&config, "service.rdp", "ports = [\"3389/tcp\"]", ports)
    });
    let gateway = gate.net.gateway.clone();
    // The connection may be to any of its addresses.
    gateway.sh("ip addr add 10.90.0.3/24 dev gw0");
    let _servers = [SSH, RDP, 3390].map(|port| gateway.tcp_echo(port));
    let _dns = gateway.udp_echo(DNS);
    gate.start();
    let report = audited(&gate, 0);
    for (port, seen) in [("3389/tcp", "rdp"), ("3390/tcp", "not tried")] {
        assert_eq!(row(&report, port), ["silent", "silent", seen], "{port}");
    }
    let findings = report["findings"].to_string();
    assert!(!findings.contains("does not open it"), "{findings}");
}

#[test]
fn forwarded_ports_are_audited_on_their_way_to_the_inner_host() {
    let gate = Gate::new(|config| {
        let inner = "masquerade = false\nforward = [\"10.90.7.2:3390\", \"[fd90:7::2]:3390\"]";
        section(&config, "service.rdp", "masquerade = false", inner)
    });
    let gateway = gate.net.gateway.clone();
    let _inner = gate.net.host(7);
    gateway.sh("echo 1 >/proc/sys/net/ipv4/ip_forward
         echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
    let _ssh = gateway.tcp_echo(SSH);
    // A program of the gateway itself at that port, which nobody gets to while the guard is loaded.
    let _own = gateway.tcp_echo(RDP);
    let off = audited(&gate, 1);
    assert_eq!(row(&off, "3389/tcp"), ["OPEN", "OPEN", "nobody"]);
    let hole = "3389/tcp (rdp): reached while all is shut, by a neighbour on gw0";
    assert!(holes(&off).iter().any(|one| one.starts_with(hole)), "{:?}", holes(&off));
    ok(&gate.toctocd(&["guard", "on"]));
    let report = audited(&gate, 0);
    assert_eq!(holes(&report), [""; 0]);
    assert_eq!(row(&report, "3389/tcp"), ["silent", "silent", "rdp"]);
    let warnings = report["findings"].to_string();
    assert!(!warnings.contains("does not open it"), "{warnings}");
    // Another way to the same inner host.
    gateway.sh(
        "iptables -t nat -A PREROUTING -p tcp --dport 4000 -j DNAT --to-destination 10.90.7.2:3390",
    );
    let found = holes(&audited(&gate, 1));
    let hole = "4000/tcp: it leads to service rdp, 10.90.7.2:3390, by a translation: reached by ";
    assert!(found.len() == 1 && found[0].starts_with(hole), "{found:?}");
}

/// A firewall for services in mark mode, as somebody might write it in a hurry.
const HOLES: &str = "
table inet hasty {
    set near { type ipv4_addr; flags dynamic,timeout; timeout 1h; }
    chain marks {
        type filter hook input priority -10;
        ip saddr 203.0.113.0/24 tcp dport 3389 ct mark set ct mark or 0x10000000
    }
    chain leads {
        type nat hook prerouting priority -100;
        tcp dport 2222 redirect to :22
    }
    chain input {
        type filter hook input priority 0;
        ip saddr != 203.0.113.0/24 ct mark and 0x10000000 == 0x10000000 update @near { ip saddr and 255.255.255.0 }
        ct mark and 0x10000000 == 0x10000000 accept
        ip saddr and 255.255.255.0 @near tcp dport 8443 accept
        ip saddr 198.51.100.0/24 udp dport 5353 accept
        meta nfproto ipv4 tcp dport 22 drop
        tcp dport { 3389, 8443 } drop
        udp dport 5353 drop
    }
}
";
