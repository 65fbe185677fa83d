//! The change from knockd to toctocd: three kinds of doors with a real firewall, served under the
//! name knockd, then converted and served by `toctocd`. The same stock `knock` opens the same
//! services before and after.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::harness::gate::{Gate, SSH, ok, section, stderr};
use crate::harness::{Net, SHORT, process, until};

/// Services behind the one-time sequences, and behind the pair of doors.
const WEB: u16 = 8080;
const WIKI: u16 = 8443;

/// The rule that users of knockd add to a firewall that drops by default.
fn rule(verb: &str, port: u16) -> String {
    format!("/sbin/iptables -{verb} INPUT -s %IP% -p tcp --dport {port} -j ACCEPT")
}

/// A door whose rule is deleted after 2 s, the same with one-time sequences, and two doors that
/// open and close.
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

/// The configurations of tests/knockd-configs.txt, each with the lines above it.
fn table() -> Vec<(&'static str, &'static str)> {
    let cases = include_str!("../knockd-configs.txt").split("\n=== ").skip(1);
    cases.map(|case| case.split_once("\n\n").unwrap()).collect()
}

/// What a knockd says of a configuration with -D, until it listens or refuses to.
fn said(net: &Net, program: &str, conf: &str) -> Vec<String> {
    let mut command = Command::new("stdbuf");
    command.args(["-oL", program, "-v", "-D", "-i", "gw0", "-c", conf]);
    let mut knockd = net.gateway.spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut said = Vec::new();
    for line in BufReader::new(knockd.0.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.starts_with("listening on ") {
            return said;
        }
        said.push(line);
    }
    // The usage that follows has other words.
    said.retain(|line| line.starts_with("config: "));
    let errors = BufReader::new(knockd.0.stderr.take().unwrap()).lines();
    said.extend(errors.map(|line| line.unwrap()).take(1));
    said
}

#[test]
fn the_real_knockd_and_ours_read_each_configuration_of_the_table_alike() {
    let net = Net::new();
    // Both name their addresses, and the kernel adds this one whenever it is ready to.
    net.gateway.sh("ip link set gw0 addrgenmode none && ip -6 addr flush dev gw0 scope link");
    let dir = tempfile::tempdir().unwrap();
    let ours = dir.path().join("knockd");
    symlink(env!("CARGO_BIN_EXE_toctocd"), &ours).unwrap();
    let conf = dir.path().join("conf").display().to_string();
    for (head, text) in table() {
        fs::write(&conf, text).unwrap();
        let real = said(&net, "/usr/sbin/knockd", &conf);
        assert!(real.len() > 1, "{head}: {real:?}");
        assert_eq!(said(&net, ours.to_str().unwrap(), &conf), real, "{head}");
    }
}

#[test]
fn check_names_each_converted_door_whose_commands_the_guard_may_make_useless() {
    let gate = Gate::new(|config| config.split("[service.rdp]").next().unwrap().to_owned());
    let config = fs::read_to_string(gate.config()).unwrap();
    let conf = gate.path("knockd.conf");
    for (head, text) in table() {
        fs::write(&conf, text).unwrap();
        gate.edit_config(|_| config.clone());
        let converted = gate.toctocd(&["convert", &conf]);
        assert_eq!(converted.status.code(), head[..1].parse().ok(), "{head}");
        let sections = String::from_utf8(converted.stdout).unwrap();
        gate.edit_config(|config| config + &sections);
        let check = gate.check();
        for line in head.lines().skip(1) {
            let (door, outcome) = line.split_once(" -> ").unwrap();
            let warning = format!("warning: door [{door}] at {}:", gate.config().display());
            let useless = check.lines().any(|line| {
                line.starts_with(&warning)
                    && line.contains("the guard may make ")
                    && line.contains("without a grant it drops 22/tcp (service ssh)")
            });
            assert_eq!(useless, outcome == "! commands (22/tcp)", "{head}\n{door}\n{check}");
            let sound = check.contains(".toml: sound; ");
            assert!(!(useless && sound), "{head}\n{check}");
        }
    }
    // The last line of Debian's own file names a program that Debian does not have.
    let debian = table().into_iter().find(|(head, _)| head.contains("as the package ships it"));
    fs::write(&conf, debian.unwrap().1).unwrap();
    gate.edit_config(|_| config.clone());
    let sections = String::from_utf8(gate.toctocd(&["convert", &conf]).stdout).unwrap();
    gate.edit_config(|config| config + &sections);
    let check = gate.check();
    let missing = "names /usr/local/sbin/knock_add, which is not an executable";
    assert!(check.contains(missing) && check.contains("valid, with warnings"), "{check}");
}

#[test]
fn a_missing_file_of_one_time_sequences_leaves_out_its_door_alone_and_is_named_once() {
    let gate = Gate::new(|config| config);
    let conf = gate.path("knockd.conf");
    fs::write(&conf, knockd_conf(&gate)).unwrap();
    let converted = gate.toctocd(&["convert", &conf]);
    assert_eq!(converted.status.code(), Some(1));
    let said = stderr(&converted);
    let once = gate.path("once");
    assert!(said.contains(&format!("left out: door web: line 12: {once}: no such file")), "{said}");
    assert_eq!(said.matches(&once).count(), 1, "{said}");
    let sections = String::from_utf8(converted.stdout).unwrap();
    assert!(sections.contains("[door.\"ssh\"]") && !sections.contains("[door.\"web\"]"));
}

/// The stock client.
fn knock(gate: &Gate, ports: &str) {
    gate.net.client.space.sh(&format!("knock -d 20 10.90.0.1 {ports}"));
}

fn is_shut(gate: &Gate, port: u16) -> bool {
    !gate.net.client.tcp_reaches(gate.port(0, port), SHORT)
}

fn opens(gate: &Gate, port: u16, ports: &str) {
    assert!(is_shut(gate, port), "{port} is open before the knock");
    knock(gate, ports);
    until(&format!("{ports} opens {port}"), || !is_shut(gate, port));
}

fn shuts(gate: &Gate, port: u16) {
    until(&format!("{port} closes again"), || is_shut(gate, port));
}

/// The behaviour that is the same before and after.
fn the_doors_open_and_shut(gate: &Gate, web: &str) {
    opens(gate, SSH, "7321 8432:udp 9543");
    shuts(gate, SSH);
    opens(gate, WEB, web);
    shuts(gate, WEB);
    opens(gate, WIKI, "5101 5302 5203");
}

/// Ends the daemon that wrote this pid file.
fn end_daemon(pid_file: &str) {
    let pid = fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
    process::signal(pid, Signal::SIGTERM);
    until("the daemon removes its pid file", || !Path::new(pid_file).exists());
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

    // First knockd: its command line with -d, and its rules.
    let mut old = Command::new(gate.path("knockd"));
    old.args(["-i", "gw0", "-c", &conf, "-d"]).env("STATE_DIRECTORY", gate.path("knockd-state"));
    assert_eq!(ok(&gate.net.gateway.run(&mut old)), "");
    the_doors_open_and_shut(&gate, "7001 7012 7003");
    knock(&gate, "5203 5302 5101");
    shuts(&gate, WIKI);
    end_daemon(&gate.path("pid"));

    // Then toctocd: the guard replaces the rules, and the clients knock as before.
    let converted = gate.toctocd(&["convert", &conf]);
    let sections = ok(&converted);
    let notes = stderr(&converted);
    assert!(
        !sections.contains("command"),
        "a pair of commands did not become a service:\n{sections}"
    );
    assert!(
        notes.contains("door closeWiki: not written")
            && notes.contains("service ssh: toctocd itself"),
        "{notes}"
    );
    gate.edit_config(|config| config + &sections);
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
    assert!(!gate.net.host(1).tcp_reaches(gate.port(0, WIKI), SHORT), "open for another host");
    // The last one-time sequence is used: that door is shut, and the gateway starts anyway.
    assert!(gate.check().contains("door [web] stays shut: no sequence is left in "));
    gate.stop();
    gate.start();
    opens(&gate, SSH, "7321 8432:udp 9543");
    let rules = gate.net.gateway.sh("iptables -S INPUT");
    assert_eq!(rules.lines().count(), 2, "toctocd changed rules of the firewall: {rules}");
}
