//! From knockd to toctoc: three kinds of doors over a real firewall, served by the name knockd,
//! then converted and served by `toctocd`. The same stock `knock` opens them before and after, and
//! a client sees the same services.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::harness::gate::{Gate, SSH, ok, section};
use crate::harness::{LONG, SHORT, eventually};

/// Services behind the one-time sequences, and behind the pair of doors.
const WEB: u16 = 8080;
const WIKI: u16 = 8443;

/// What a firewall that drops by default is told by knockd's users.
fn rule(verb: &str, port: u16) -> String {
    format!("/sbin/iptables -{verb} INPUT -s %IP% -p tcp --dport {port} -j ACCEPT")
}

/// A rule that is taken back after 2 s, the same by one-time sequences, and two doors that open and
/// shut.
fn knockd_conf(gate: &Gate) -> String {
    let timed = |port| {
        format!(
            "tcpflags = syn\nstart_command = {}\ncmd_timeout = 2\nstop_command = {}\n",
            rule("A", port),
            rule("D", port)
        )
    };
    format!(
        "[options]\nLogFile = {log}\nPidFile = {pid}\n\
         [ssh]\nSequence = 7321,8432:udp,9543\nSeq_Timeout = 10\n{}\
         [web]\nOne_Time_Sequences = {once}\n{}\
         [openWiki]\nsequence = 5101,5302,5203\ntcpflags = syn\ncommand = {}\n\
         [closeWiki]\nsequence = 5203,5302,5101\ntcpflags = syn\ncommand = {}\n",
        timed(SSH),
        timed(WEB),
        rule("A", WIKI),
        rule("D", WIKI),
        log = gate.path("log"),
        pid = gate.path("pid"),
        once = gate.path("once"),
    )
}

/// The stock client.
fn knock(gate: &Gate, ports: &str) {
    gate.net.client.space.sh(&format!("knock -d 20 10.90.0.1 {ports}"));
}

fn to(gate: &Gate, port: u16) -> SocketAddr {
    (gate.net.gateway_ips()[0], port).into()
}

fn is_shut(gate: &Gate, port: u16) -> bool {
    !gate.net.client.tcp_reaches(to(gate, port), SHORT)
}

fn opens(gate: &Gate, port: u16, ports: &str) {
    assert!(is_shut(gate, port), "{port} is shut before the knock");
    knock(gate, ports);
    assert!(eventually(LONG, || !is_shut(gate, port)), "{ports} opens {port}");
}

fn shuts(gate: &Gate, port: u16) {
    assert!(eventually(LONG, || is_shut(gate, port)), "{port} shuts again");
}

/// What is the same before and after.
fn the_doors_open_and_shut(gate: &Gate, web: &str) {
    opens(gate, SSH, "7321 8432:udp 9543");
    shuts(gate, SSH);
    opens(gate, WEB, web);
    shuts(gate, WEB);
    opens(gate, WIKI, "5101 5302 5203");
}

/// A daemon that went to the background, ended with the test.
struct Background(String);

impl Background {
    fn end(&self) {
        if let Some(pid) =
            fs::read_to_string(&self.0).ok().and_then(|text| text.trim().parse().ok())
        {
            let pid = nix::unistd::Pid::from_raw(pid);
            // It may have gone by itself.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            assert!(
                eventually(LONG, || !Path::new(&self.0).exists()),
                "it takes its pid file away"
            );
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

#[test]
fn the_doors_of_a_knockd_conf_open_under_the_old_name_and_after_convert() {
    let mut gate =
        Gate::new(|config| section(&config, "service.ssh", "seconds = 30", "seconds = 2"));
    let _services = [SSH, WEB, WIKI].map(|port| gate.net.gateway.tcp_echo(port));
    let conf = gate.path("knockd.conf");
    fs::write(&conf, knockd_conf(&gate)).unwrap();
    fs::write(gate.path("once"), " 7001,7012,7003\n 7104,7115,7106\n").unwrap();
    fs::create_dir(gate.path("knockd-state")).unwrap();
    symlink(env!("CARGO_BIN_EXE_toctocd"), gate.path("knockd")).unwrap();
    gate.net.gateway.sh(
        "iptables -P INPUT DROP && iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT",
    );

    // The old half: knockd's own command line, its way into the background, and its rules.
    let daemon = Background(gate.path("pid"));
    let mut old = Command::new(gate.path("knockd"));
    old.args(["-i", "gw0", "-c", &conf, "-d"]).env("STATE_DIRECTORY", gate.path("knockd-state"));
    assert_eq!(ok(&gate.net.gateway.run(&mut old)), "");
    the_doors_open_and_shut(&gate, "7001 7012 7003");
    knock(&gate, "5203 5302 5101");
    shuts(&gate, WIKI);
    daemon.end();

    // The new half: the rules of the firewall go, the guard comes; whoever knocks, knocks as
    // before.
    let converted = gate.toctocd(&["convert", &conf]);
    let sections = ok(&converted);
    let notes = stderr(&converted);
    assert!(!sections.contains("command"), "every pair became a service:\n{sections}");
    assert!(
        notes.contains("door closeWiki: not written")
            && notes.contains("service ssh: toctocd itself"),
        "{notes}"
    );
    let config = fs::read_to_string(gate.config()).unwrap();
    fs::write(gate.config(), config + &sections).unwrap();
    assert!(gate.check().contains("5 services, 0 clients, 3 doors"));
    gate.net.gateway.sh("iptables -P INPUT ACCEPT");
    gate.start();
    the_doors_open_and_shut(&gate, "7104 7115 7106");
    assert_eq!(
        fs::read_to_string(gate.path("once")).unwrap(),
        "#7001,7012,7003\n#7104,7115,7106\n"
    );
    let grants = gate.grants();
    assert!(grants.contains(&format!("tcp-{WIKI}")) && grants.contains("10.90.0.2"), "{grants}");
    assert!(!gate.net.host(1).tcp_reaches(to(&gate, WIKI), SHORT), "for nobody else");
    // Its last one-time sequence is used: that door is shut, and the gateway comes up again all the
    // same.
    assert!(
        gate.check().contains("door [web] stays shut: no sequence is left in ")
    );
    gate.stop();
    gate.start();
    opens(&gate, SSH, "7321 8432:udp 9543");
    assert!(
        gate.net.gateway.sh("iptables -S INPUT").lines().count() == 2,
        "our own name edits nobody's rules"
    );
}
