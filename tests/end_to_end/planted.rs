//! `toctocd check` finds faults that others make around a gateway: each is planted, found with the
//! file and line or the rule in its owner's language, and taken away again.

use std::fs;
use std::process::Command;

use crate::harness::gate::{Gate, ok, section};

const MARK: &str = "-m connmark --mark 0x10000000/0x10000000 -j ACCEPT";

/// A gateway whose services are ssh on 22/tcp and web on 8080/tcp, in this mode.
fn gate(mode: &str) -> Gate {
    let gate = Gate::new(|config| {
        section(&config, "firewall", "mode = \"guard\"", &format!("mode = \"{mode}\""))
    });
    gate.edit_config(|config| {
        let (config, _) = config.split_once("[service.rdp]").expect("the second service");
        format!("{config}[service.web]\nports = [\"8080/tcp\"]\n")
    });
    gate
}

/// Both families of iptables.
fn both(gate: &Gate, rules: &str) {
    for program in ["iptables", "ip6tables"] {
        let line = rules.replace("iptables", program);
        gate.net.gateway.sh(&line);
    }
}

/// Takes all rules away.
fn clear(gate: &Gate) {
    gate.net.gateway.sh("nft flush ruleset");
}

/// The findings of `check` with `lines` run before it in a mount namespace of its own.
fn check_after(gate: &Gate, lines: &str) -> String {
    let toctocd = env!("CARGO_BIN_EXE_toctocd");
    let line = format!("{lines}\nexec {toctocd} check -c {}", gate.config().display());
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", &line]);
    ok(&gate.net.gateway.run(&mut command))
}

/// What was not found: all of it is told in the end.
#[derive(Default)]
struct Missed(Vec<String>);

impl Missed {
    fn must_say(&mut self, said: &str, expected: &str) {
        if !said.contains(expected) {
            self.0.push(format!("expected: {expected}\nsaid: {said}"));
        }
    }
}

impl Drop for Missed {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(
                self.0.is_empty(),
                "{} faults were missed:\n{}",
                self.0.len(),
                self.0.join("\n")
            );
        }
    }
}

#[test]
fn rules_of_each_owner_that_shut_a_guarded_port_are_named_in_its_language() {
    let mut missed = Missed::default();
    let gate = gate("guard");
    both(&gate, "iptables -A INPUT -j DROP");
    missed.must_say(
        &gate.check(),
        "warning: 22/tcp (service ssh) over IPv4 is dropped even under a grant, by rule 1 of iptables \
         chain INPUT (`-A INPUT -j DROP`); run `iptables -I INPUT 1 -p tcp --dport 22 -j ACCEPT`",
    );
    clear(&gate);
    both(
        &gate,
        "iptables -P INPUT DROP; iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT",
    );
    missed.must_say(
        &gate.check(),
        "IPv6 is dropped even under a grant, by the policy of ip6tables chain INPUT;",
    );
    both(&gate, "iptables -N ufw-before-input");
    missed.must_say(
        &gate.check(),
        "by the policy of iptables chain INPUT, which is ufw's; run `ufw allow 22/tcp`",
    );
    clear(&gate);
    gate.net.gateway.sh("iptables -P OUTPUT DROP
         iptables -A OUTPUT -m state --state RELATED,ESTABLISHED -j ACCEPT");
    missed.must_say(
        &gate.check(),
        "warning: receipts over IPv4 are dropped by the policy of iptables chain OUTPUT: clients get \
         no answer; run `iptables -A OUTPUT -p udp --sport 62201 -j ACCEPT`",
    );
    clear(&gate);
    gate.net.gateway.sh("nft add table inet firewalld
         nft add chain inet firewalld filter_INPUT '{ type filter hook input priority 10; }'
         nft add rule inet firewalld filter_INPUT reject");
    let said = gate.check();
    missed.must_say(
        &said,
        "by rule 1 of chain inet firewalld filter_INPUT, which is firewalld's; run `firewall-cmd \
         --permanent --add-port=22/tcp && firewall-cmd --reload`",
    );
    missed.must_say(&said, "note: firewalld is running: its reload");
}

#[test]
fn what_is_open_past_a_firewall_in_mark_mode_is_named() {
    let mut missed = Missed::default();
    let gate = gate("mark");
    // Only IPv4 is closed.
    gate.net.gateway.sh(&format!(
        "iptables -P INPUT DROP; iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
         iptables -A INPUT {MARK}"
    ));
    let said = gate.check();
    missed.must_say(&said, "warning: 22/tcp (service ssh) over IPv6 is OPEN TO EVERYBODY");
    assert!(!said.contains("22/tcp (service ssh) over IPv4"), "{said}");
    // The rule for our mark is missing, and then it stands behind a DROP.
    both(&gate, "iptables -F; iptables -P INPUT DROP");
    missed.must_say(
        &gate.check(),
        "22/tcp (service ssh) over IPv4 is dropped even under a grant, by the policy of iptables chain \
         INPUT; run `iptables -A INPUT -m connmark --mark 0x10000000/0x10000000 -j ACCEPT`",
    );
    both(&gate, &format!("iptables -A INPUT -j DROP; iptables -A INPUT {MARK}"));
    missed.must_say(
        &gate.check(),
        "by rule 1 of iptables chain INPUT (`-A INPUT -j DROP`); run `iptables -I",
    );
    // Docker publishes a port of a service: it is forwarded, and input rules do not see it.
    both(&gate, &format!("iptables -F; iptables -A INPUT {MARK}"));
    gate.net.gateway.sh("iptables -t nat -N DOCKER
         iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
         iptables -t nat -A DOCKER -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80");
    missed.must_say(
        &gate.check(),
        "8080/tcp (service web) over IPv4, led on to 172.17.0.2:80 by rule 1 of iptables chain DOCKER \
         (table nat) (`-A DOCKER -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80`), \
         is OPEN TO EVERYBODY",
    );
    clear(&gate);
    gate.net.gateway.sh("nft add table inet firewalld
         nft add chain inet firewalld filter_INPUT '{ type filter hook input priority 10; }'
         nft add rule inet firewalld filter_INPUT ct mark and 0x10000000 == 0x10000000 accept
         nft add rule inet firewalld filter_INPUT reject");
    missed.must_say(
        &gate.check(),
        "warning: rule 1 of chain inet firewalld filter_INPUT, which is firewalld's lets marked \
         packets in, but the next `firewall-cmd --reload` removes it",
    );
}

#[test]
fn ways_around_the_guard_are_found_and_are_what_is_said_of_them() {
    let mut missed = Missed::default();
    let gate = gate("guard");
    let _ssh = gate.net.gateway.tcp_echo(22);
    let _web = gate.net.gateway.tcp_echo(8080);
    ok(&gate.toctocd(&["guard", "on"]));
    let reaches = |port| gate.net.client.connect(gate.port(0, port), crate::harness::SHORT).is_ok();
    // REDIRECT: the guard looks again.
    gate.net
        .gateway
        .sh("iptables -t nat -A PREROUTING -p tcp --dport 2222 -j REDIRECT --to-ports 22");
    missed.must_say(
        &gate.check(),
        "note: rule 1 of iptables chain PREROUTING (table nat) (`-A PREROUTING -p tcp -m tcp --dport \
         2222 -j REDIRECT --to-ports 22`) leads 2222/tcp to 22/tcp (service ssh): the guard looks again",
    );
    assert!(!reaches(2222), "a stranger got in");
    // A redirect to where nothing is guarded: the guarded port is shut, the other one is open.
    let _other = gate.net.gateway.tcp_echo(8081);
    gate.net.gateway.sh("iptables -t nat -F
         iptables -t nat -A PREROUTING -p tcp --dport 8080 -j REDIRECT --to-ports 8081");
    missed.must_say(
        &gate.check(),
        "leads 8080/tcp (service web) to 8081/tcp, which no service guards: EVERYBODY",
    );
    assert!(!reaches(8080) && reaches(8081));
    // TPROXY: the guard sees the outer port.
    gate.net.gateway.sh(
        "iptables -t nat -F
         iptables -t mangle -A PREROUTING -p tcp --dport 2223 -j TPROXY --on-port 22 --tproxy-mark 1",
    );
    missed.must_say(
        &gate.check(),
        "hands 2223/tcp to the program on 22/tcp (service ssh) and leaves the packets as they are: the \
         guard sees 2223/tcp, so EVERYBODY gets in there. Remove the rule, or add \"2223/tcp\"",
    );
    gate.net.gateway.sh("iptables -t mangle -F
         nft add table ip t
         nft add chain ip t pre '{ type filter hook prerouting priority -150; }'
         nft add rule ip t pre tcp dport 2224 tproxy to :22");
    missed.must_say(
        &gate.check(),
        "warning: rule 1 of chain ip t pre hands 2224/tcp to the program on 22/tcp",
    );
    // Docker publishes the container of a service at a second port, and something else.
    gate.net.gateway.sh(
        "nft delete table ip t
         iptables -t nat -N DOCKER
         iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
         iptables -t nat -A DOCKER ! -i docker0 -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
         iptables -t nat -A DOCKER ! -i docker0 -p tcp --dport 8082 -j DNAT --to-destination 172.17.0.2:80
         iptables -t nat -A DOCKER ! -i docker0 -p tcp --dport 9000 -j DNAT --to-destination 172.17.0.3:80",
    );
    let said = gate.check();
    missed.must_say(
        &said,
        "leads 8082/tcp to 172.17.0.2 port 80, which is behind service web, and no service guards \
         8082/tcp: EVERYBODY gets in there (`docker ps` shows what is published). Remove it, or add \
         \"8082/tcp\" to the `ports` of service web",
    );
    missed.must_say(&said, "no service guards it: 9000/tcp by rule 3 of iptables chain DOCKER");
    assert!(!said.contains("8080/tcp (service web) over"), "{said}");
}

/// `adjtimex` with the kernel's answer, but for one bit of its status.
const CLOCK: &str = "
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <unistd.h>
int adjtimex(struct timex *clock) {
    int state = (int)syscall(SYS_adjtimex, clock);
    clock->status = atoi(getenv(\"TEST_UNSYNC\")) ? clock->status | STA_UNSYNC : clock->status & ~STA_UNSYNC;
    return state;
}
";

#[test]
fn a_clock_that_nothing_keeps_right_is_reported_as_the_kernel_has_it() {
    let gate = gate("guard");
    let library = gate.path("clock.so");
    fs::write(gate.path("clock.c"), CLOCK).expect("our own file");
    ok(&gate.net.gateway.run(Command::new("cc").args([
        "-Wall",
        "-Werror",
        "-shared",
        "-fPIC",
        "-o",
        &library,
        &gate.path("clock.c"),
    ])));
    const NOTE: &str = "note: the kernel says that nothing keeps its clock right";
    for unsynchronised in [0, 1] {
        let preload = format!("export LD_PRELOAD={library} TEST_UNSYNC={unsynchronised}");
        let said = check_after(&gate, &preload);
        assert_eq!(said.contains(NOTE), unsynchronised == 1, "{said}");
    }
    // And as it is on this machine now: STA_UNSYNC is 0x40, in the sixth field of struct timex.
    let asked = "import ctypes; b = (ctypes.c_long * 32)(); c = ctypes.CDLL(None)
c.adjtimex(b); print(ctypes.cast(b, ctypes.POINTER(ctypes.c_int))[10] >> 6 & 1)";
    let kernel = ok(&gate.net.gateway.run(Command::new("python3").args(["-c", asked])));
    assert_eq!(gate.check().contains(NOTE), kernel.trim() == "1", "{kernel}");
}

#[test]
fn faults_of_files_programs_and_people_are_found_with_file_and_line() {
    let mut missed = Missed::default();
    let gate = gate("guard");
    let config = gate.config().display().to_string();
    let said = gate.check();
    missed.must_say(&said, &format!("note: nothing listens on 22/tcp (service ssh, {config}:"));
    let _ssh = gate.net.gateway.tcp_echo(22);
    let _other = gate.net.gateway.tcp_echo(2222);
    fs::write(gate.path("sshd"), "# two\nPort 22\nPort 2222\n").expect("our own file");
    fs::write(gate.path("nft"), "#!/usr/sbin/nft -f\nflush ruleset\n").expect("our own file");
    let etc =
        "mount -t tmpfs tmpfs /etc; mkdir -p /etc/ssh /etc/systemd/system/sysinit.target.wants
         touch /etc/systemd/system/sysinit.target.wants/nftables.service";
    let files = format!(
        "exec 3<{0}/sshd 4<{0}/nft 5</etc/passwd 6</etc/group
         {etc}
         cat <&5 >/etc/passwd; cat <&6 >/etc/group
         printf '#!/bin/sh\\nnft -f /etc/nftables.conf\\n' >/etc/rc.local
         cat <&3 >/etc/ssh/sshd_config; cat <&4 >/etc/nftables.conf",
        gate.path("")
    );
    let said = check_after(&gate, &files);
    missed.must_say(
        &said,
        "warning: sshd listens on 2222/tcp (/etc/ssh/sshd_config:3), which no service guards",
    );
    missed.must_say(&said, "warning: /etc/nftables.conf:2: `flush ruleset` takes the guard away");
    missed.must_say(
        &said,
        "warning: /etc/rc.local:2: it runs /etc/nftables.conf:2: `flush ruleset`, at boot",
    );
    assert!(!said.contains("nothing listens on 22/tcp"), "{said}");
    // People.
    gate.enrol_with("anna", "ssh", &["--expires", "3d"]);
    ok(&gate.toctocd(&[
        "invite",
        "bob",
        "--services",
        "ssh",
        "--auto",
        "--out",
        &gate.path("line"),
    ]));
    let said = gate.check();
    let clients = gate.path("etc/clients");
    missed.must_say(&said, "note: client anna expires in ");
    missed.must_say(&said, &format!(" days ({clients}:8): write a later `expires` there"));
    missed.must_say(&said, "note: the invitation of bob is open for ");
    missed.must_say(&said, " already, for 2");
    missed.must_say(&said, "/state/joined:");
    // A sequence out of a tutorial, with its place.
    gate.edit_config(|config| {
        config
            + "[door.d]\nsequence = [\"3000/tcp\", \"1000/tcp\", \"2000/tcp\"]\nservice = \"ssh\"\n"
    });
    missed.must_say(&gate.check(), &format!("warning: door [d] at {config}:"));
    missed.must_say(&gate.check(), "it has a sequence as tutorials show them");
    // Keys that others may read: no gateway starts with them.
    gate.net.gateway.sh(&format!("chmod 644 {}", gate.path("etc/gateway.key")));
    let output = gate.toctocd(&["check"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    missed.must_say(&said, "etc/gateway.key");
    missed.must_say(&said, "chmod");
}
