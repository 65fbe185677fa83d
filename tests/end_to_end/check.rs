//! `toctocd check` with typical firewalls of admins: rules that would drop a granted connection or
//! a receipt, or let a stranger in. See `parts/admin` for its checks of files and keys.

use crate::harness::gate::{Gate, section};

/// Replaces the ruleset by an input chain with this policy and rules, and an output chain with
/// these rules.
fn load(gate: &Gate, policy: &str, input: &str, output: &str) {
    let text = format!(
        "flush ruleset\ntable inet filter {{\n\
         set d {{ type ipv4_addr; flags dynamic; size 100; }}\n\
         map m {{ type inet_service : verdict; }}\n\
         chain extra {{\n tcp dport 25 drop\n }}\n\
         chain input {{\n type filter hook input priority 0; policy {policy};\n{input}\n}}\n\
         chain output {{\n type filter hook output priority 0; {output}\n}}\n}}\n"
    );
    let file = gate.path("admin.nft");
    std::fs::write(&file, text).unwrap();
    gate.net.gateway.sh(&format!("nft -f {file}"));
}

/// A gateway whose only service is ssh on 22/tcp.
fn gate(mode: &str) -> Gate {
    let gate = Gate::new(|config| {
        section(&config, "firewall", "mode = \"guard\"", &format!("mode = \"{mode}\""))
    });
    gate.edit_config(|config| config.split("[service.rdp]").next().unwrap().to_owned());
    gate
}

const OPEN: &str = "policy accept;";

#[test]
fn check_names_the_rule_that_drops_a_guarded_port_for_everybody() {
    let gate = gate("guard");
    let sound = [
        "tcp dport 22 accept",
        "tcp dport { 22, 80-90 } accept",
        "meta l4proto tcp accept",
        "ct state new accept",
        "tcp dport != 80 accept",
        "meta l4proto . th dport { tcp . 22 } accept",
        "ct state vmap { established : accept, new : accept }",
        "iif != lo accept",
        "ct mark & 0x10000000 == 0x10000000 accept",
    ];
    for rule in sound {
        load(
            &gate,
            "drop",
            &format!("tcp dport 25 drop\njump extra\nudp dport 22 drop\n{rule}"),
            OPEN,
        );
        let output = gate.check();
        assert!(!output.contains("22/tcp (service ssh) over"), "{rule}: {output}");
    }
    for (policy, rules, expected) in [
        (
            "drop",
            "tcp dport 80 accept",
            "over IPv4 is dropped even under a grant, by the policy of chain inet filter input; run `nft add rule inet filter input tcp dport 22 accept`",
        ),
        ("drop", "ct state established,related accept", "the policy of chain inet filter input"),
        (
            "accept",
            "tcp dport 22 drop\ntcp dport 22 accept",
            "over IPv6 is dropped even under a grant, by rule 1 of chain inet filter input; run `nft insert rule inet filter input handle ",
        ),
        ("accept", "reject", "warning: 22/tcp (service ssh) over IPv4 is dropped"),
        ("accept", "ct state vmap { new : drop }", "warning: 22/tcp"),
        (
            "accept",
            "iifname \"eth0\" drop\ntcp dport 22 accept",
            "note: 22/tcp (service ssh) over IPv4 may be dropped even under a grant, by rule 1 of chain inet filter input",
        ),
        (
            "drop",
            "ip saddr 10.0.0.0/8 tcp dport 22 accept",
            "note: 22/tcp (service ssh) over IPv4 is dropped even under a grant, by the policy of chain inet filter input, unless",
        ),
    ] {
        load(&gate, policy, rules, OPEN);
        let output = gate.check();
        assert!(output.contains(expected), "{rules}\nsaid: {output}");
    }
    // A map decides, and its content is not listed.
    load(&gate, "drop", "tcp dport vmap @m", OPEN);
    assert!(gate.check().contains("unless rule 1 of chain inet filter input"));
    // One family only.
    load(&gate, "drop", "meta nfproto ipv4 tcp dport 22 accept", OPEN);
    let output = gate.check();
    assert!(
        output.contains("warning: 22/tcp (service ssh) over IPv6 is dropped")
            && !output.contains("over IPv4"),
        "{output}"
    );
}

#[test]
fn check_reports_a_marked_port_that_no_rule_drops_or_no_rule_accepts() {
    let gate = gate("mark");
    let marked = "ct mark & 0x10000000 == 0x10000000 accept";
    load(&gate, "drop", &format!("ct state established accept\n{marked}"), OPEN);
    let sound = gate.check();
    assert!(
        !sound.contains("22/tcp (service ssh) over")
            && sound.contains("--mark 0x10000000/0x10000000 -j ACCEPT"),
        "{sound}"
    );
    for (policy, rules, expected) in [
        ("accept", "", "warning: 22/tcp (service ssh) over IPv4 is OPEN TO EVERYBODY"),
        ("drop", "tcp dport 22 accept", "is OPEN TO EVERYBODY"),
        ("accept", "iifname \"eth0\" tcp dport 22 drop", "is dropped even under a grant"),
        (
            "drop",
            "tcp dport 80 accept",
            "is dropped even under a grant, by the policy of chain inet filter input; run `nft add rule inet filter input ct mark and 0x10000000 == 0x10000000 accept`",
        ),
    ] {
        load(&gate, policy, rules, OPEN);
        let output = gate.check();
        let may =
            output.contains("may be open to everybody: only rule 1 of chain inet filter input");
        assert!(
            output.contains(expected) || (rules.starts_with("iifname") && may),
            "{rules}\nsaid: {output}"
        );
    }
    load(&gate, "drop", &format!("ip saddr 192.0.2.0/24 accept\n{marked}"), OPEN);
    let output = gate.check();
    assert!(output.contains("over IPv4 may be open to some without a grant"), "{output}");
}

#[test]
fn check_follows_a_forwarded_service_to_its_inner_port() {
    let gate = gate("guard");
    let rdp = "\n[service.rdp]\nports = [\"3389/tcp\"]\nforward = [\"10.90.7.2:3390\"]\n";
    gate.edit_config(|config| config + rdp);
    let chain = "}\nchain forward {\n type filter hook forward priority 0; policy drop;\n";
    load(&gate, "drop", "tcp dport 22 accept", &format!("{OPEN}\n{chain}tcp dport 3390 accept"));
    let sound = gate.check();
    assert!(!sound.contains("3389/tcp (service rdp) over"), "{sound}");
    load(&gate, "accept", "", &format!("{OPEN}\n{chain}tcp dport 3389 accept"));
    let outer = gate.check();
    let expected = "over IPv4 is dropped even under a grant, by the policy of chain inet filter forward; run `nft add rule inet filter forward tcp dport 3390 accept`";
    assert!(outer.contains(expected) && !outer.contains("(service rdp) over IPv6"), "{outer}");
}

#[test]
fn check_reads_iptables_and_names_the_rules_that_it_cannot_read() {
    let gate = gate("guard");
    for program in ["iptables", "ip6tables"] {
        gate.net.gateway.sh(&format!("{program} -P INPUT DROP; {program} -A INPUT -i eth0 -j DROP; {program} -A INPUT -p tcp --dport 22 -j ACCEPT"));
    }
    // A common mistake.
    let first = gate.check();
    assert!(first.contains("note: 22/tcp (service ssh) over IPv4 may be dropped even under a grant, by rule 1 of iptables chain INPUT"), "{first}");
    for program in ["iptables", "ip6tables"] {
        gate.net.gateway.sh(&format!(
            "{program} -F INPUT; {program} -A INPUT -p tcp --dport 22 -m hashlimit --hashlimit-upto 9/sec --hashlimit-name x -j ACCEPT"
        ));
    }
    let extension = gate.check();
    assert!(extension.contains("over IPv6 is dropped even under a grant, by the policy of ip6tables chain INPUT, unless rule 1 of ip6tables chain INPUT (`-A INPUT -p tcp"), "{extension}");
    for program in ["iptables", "ip6tables"] {
        gate.net.gateway.sh(&format!("{program} -F INPUT; {program} -A INPUT -j REJECT"));
    }
    assert!(gate.check().contains(
        "warning: 22/tcp (service ssh) over IPv4 is dropped even under a grant, by rule 1 of iptables chain INPUT (`-A INPUT -j REJECT --reject-with icmp-port-unreachable`); run `iptables -I INPUT 1 -p tcp --dport 22 -j ACCEPT`"
    ));
}

#[test]
fn check_reports_what_blocks_receipts_and_lists_what_it_examined() {
    let gate = gate("guard");
    load(&gate, "accept", "", "policy drop;\nct state established accept");
    let kept = gate.check();
    assert!(kept.contains("warning: receipts over IPv4 are dropped by the policy of chain inet filter output: clients get no answer; run `nft add rule inet filter output udp sport 62201 accept`"), "{kept}");
    load(&gate, "accept", "", "policy drop;\nudp sport 62201 accept");
    let out = gate.check();
    assert!(
        !out.contains("receipts") && out.contains("(chains: 0 prerouting, 1 input, 1 output)"),
        "{out}"
    );
    // An expression that it does not know is not a fault.
    load(
        &gate,
        "accept",
        "fib saddr type local accept\nmeta length > 100 accept\ntcp option maxseg exists accept\nip6 nexthdr vmap { tcp : continue }\nupdate @d { ip saddr limit rate 5/second } accept",
        OPEN,
    );
    gate.net.gateway.sh("nft add table netdev n");
    assert!(gate.check().contains("not tables of netdev"));
}
