//! `toctocd explain` beside what a real knock and a real connection get.

use std::net::IpAddr;
use std::process::Command;

use toctoc::core::knock::Status;

use crate::harness::gate::{Gate, SSH};
use crate::harness::{LONG, SHORT};

/// Exit code and output of `toctocd explain anna SERVICE --from FROM`.
fn explain(gate: &Gate, who: &str, service: &str, from: IpAddr) -> (Option<i32>, String) {
    let from = from.to_string();
    let output = gate.toctocd(&["explain", who, service, "--from", &from]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// A knock that was refused is found by the id that its client shows, with its reason.
fn must_explain_by_id(gate: &Gate) {
    let refused = gate.toctoc_as("anna", "open anna rdp -4");
    let said = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
    let (_, rest) = said.split_once(" by its id ").expect("the id");
    let id = rest.trim().get(..8).expect("eight digits");
    let output = gate.toctocd(&["explain", "--id", id]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("why         the client's line does not name the service"), "{said}");
    assert!(said.contains("The same knock now:\nno: anna does not get rdp from"), "{said}");
    assert_eq!(gate.toctocd(&["explain", "--id", "00000000"]).status.code(), Some(5));
}

/// The words behind `told` are those that the client's program prints about a real knock, up to
/// `end`.
fn must_tell_what_the_client_reads(gate: &Gate, service: &str, said: &str, told: &str, end: &str) {
    let (_, words) = said.split_once(told).unwrap_or_else(|| panic!("no {told} in {said}"));
    let output = gate.toctoc_as("anna", &format!("open anna {service} -4"));
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    for line in words.lines() {
        let line = line.trim().replace("PROFILE", "anna");
        let (line, _) = line.split_once(end).filter(|_| !end.is_empty()).unwrap_or((&line, ""));
        assert!(printed.contains(line), "no {line:?} in {printed}");
    }
}

#[test]
fn the_kernel_says_which_rule_decides_where_nobody_could_tell_by_reading() {
    let mut gate = Gate::new(|config| config);
    let anna = gate.enrol("anna", "ssh");
    let gateway = gate.net.gateway.clone();
    let _ssh = gateway.tcp_echo(SSH);
    gate.start();
    let from = gate.net.client.ips();
    // A set with elements, a jump, and a counter that matches: what stands in the set is not read.
    gateway.sh("nft add table inet admin
         nft add set inet admin banned '{ type ipv4_addr; elements = { 10.90.0.2 }; }'
         nft add chain inet admin bans
         nft add rule inet admin bans ip saddr @banned counter drop
         nft add chain inet admin input '{ type filter hook input priority 0; }'
         nft add rule inet admin input udp dport 62201 accept
         nft add rule inet admin input jump bans");
    let (code, said) = explain(&gate, "anna", "ssh", from[0]);
    let by = "22/tcp (service ssh) over IPv4 is dropped even under a grant, by rule 1 of chain inet \
              admin bans; run `nft insert rule inet admin bans handle";
    assert!(code == Some(1) && said.contains(by), "{said}");
    anna.must_open(&gate.net.client, "ssh", 0);
    assert!(!gate.net.client.tcp_reaches(gate.port(0, SSH), SHORT), "the rule drops it");
    let (code, said) = explain(&gate, "anna", "ssh", from[1]);
    assert!(code == Some(0), "{said}");
    let by = "22/tcp: input: the policy of chain inet admin input accepts it";
    assert!(said.contains(by), "{said}");
    // The receipt.
    gateway.sh("nft add chain inet admin output '{ type filter hook output priority 0; }'
         nft add set inet admin quiet '{ type ipv4_addr; elements = { 10.90.0.2 }; }'
         nft add rule inet admin output ip daddr @quiet udp sport 62201 drop");
    let (_, said) = explain(&gate, "anna", "ssh", from[0]);
    let by =
        "receipt     receipts over IPv4 are dropped by rule 1 of chain inet admin output: clients";
    assert!(said.contains(by), "{said}");
    // iptables-legacy is beside nf_tables: the copy has it, and its own program names the rule.
    gateway.sh("nft delete table inet admin; iptables-legacy -A INPUT -p tcp --dport 22 -j DROP");
    let (code, said) = explain(&gate, "anna", "ssh", from[0]);
    let by = "by rule 1 of iptables chain INPUT (`-A INPUT -p tcp -m tcp --dport 22 -j DROP`)";
    assert!(code == Some(1) && said.contains(by), "{said}");
    // A rule that cannot be copied: no claim is made about the kernel.
    gateway.sh("iptables-legacy -F");
    let hidden = "mount --bind /bin/false \
                  \"$(readlink -f /usr/sbin/iptables-legacy)\"";
    let line = format!(
        "{hidden}; exec {} explain anna ssh --from {} -c {}",
        env!("CARGO_BIN_EXE_toctocd"),
        from[0],
        gate.config().display()
    );
    let output = gateway.run(Command::new("unshare").args(["--mount", "sh", "-ec", &line]));
    let said = String::from_utf8_lossy(&output.stdout);
    let why =
        "traced      not by the kernel, the rules were read: not all could be copied: the table";
    assert!(said.contains(why), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_is_explained_is_what_a_real_knock_and_a_real_connection_get() {
    let mut gate = Gate::new(|config| config);
    let anna = gate.enrol("anna", "ssh");
    let from = gate.net.client.ips();
    // The files decide as long as no gateway runs, and say that nobody hears a knock.
    let (code, said) = explain(&gate, "anna", "ssh", from[0]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("policy      granted: 10.90.0.2 reaches 22/tcp for 30 s"), "{said}");
    assert!(said.contains("no gateway is running") && said.contains("ends with 3"), "{said}");
    gate.start();
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    for (family, from) in from.into_iter().enumerate() {
        let (code, said) = explain(&gate, "anna", "ssh", from);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.starts_with(&format!("yes: anna gets ssh from {from} for 30 s\n")), "{said}");
        assert!(gate.nothing_is_open(), "asking opens nothing");
        let traced = "traced      by the kernel: packets went through a copy of this network\n";
        assert!(said.contains(traced), "{said}");
        if family == 0 {
            let told =
                "is told     status granted; `toctoc open` ends with 0 and says:\n              ";
            must_tell_what_the_client_reads(&gate, "ssh", &said, told, ", until");
        }
        anna.must_open(&gate.net.client, "ssh", family);
        assert!(gate.net.client.tcp_reaches(gate.port(family, SSH), LONG));
        gate.toctoc_as("anna", &format!("close anna ssh -{}", [4, 6][family]));
    }
    must_explain_by_id(&gate);
    let (code, said) = explain(&gate, "anna", "rdp", from[0]);
    assert_eq!(code, Some(1));
    assert!(said.contains("does not name rdp in `services`; add rdp to"), "{said}");
    let told = "is told     status denied; `toctoc open` ends with 1 and says:\n              ";
    must_tell_what_the_client_reads(&gate, "rdp", &said, told, "");
    let receipt = anna.open(&gate.net.client, "rdp", 0).expect("a receipt");
    assert_eq!(receipt.status, Status::Denied);
    let (code, said) = explain(&gate, "anna", "ssh", gate.net.gateway_ips()[0]);
    assert!(code == Some(1) && said.contains("is this machine's own"), "{said}");
    // Policy grants it, and the own firewall drops this address alone.
    gate.net.gateway.sh("iptables -A INPUT -s 10.90.0.2 -j DROP");
    let (code, said) = explain(&gate, "anna", "ssh", from[0]);
    assert_eq!(code, Some(1));
    let rule = "by rule 1 of iptables chain INPUT (`-A INPUT -s 10.90.0.2/32 -j DROP`)";
    assert!(said.contains("policy      granted") && said.contains(rule), "{said}");
    anna.must_open(&gate.net.client, "ssh", 0);
    assert!(!gate.net.client.tcp_reaches(gate.port(0, SSH), SHORT), "the rule drops it");
    let (code, said) = explain(&gate, "anna", "ssh", "10.90.0.3".parse().expect("an address"));
    assert_eq!(code, Some(0), "the rule is not about that address: {said}");
    assert!(said.contains("input: the policy of iptables chain INPUT accepts it"), "{said}");
    assert!(said.contains("limit       ssh has 1 grant of at most"), "{said}");
    assert_eq!(explain(&gate, "berta", "ssh", from[0]).0, Some(5), "nobody is called so");
}
