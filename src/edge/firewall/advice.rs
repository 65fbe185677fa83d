//! The rules that an admin's own firewall needs, as text to paste: they belong before any rule that
//! drops. In mark mode they accept packets with our mark.

use super::rule_place::AcceptRule;
use crate::config::FirewallSettings;
use crate::core::types::Proto;

/// For an input chain of nftables; its position is up to the admin.
pub fn let_marked_in(settings: &FirewallSettings) -> String {
    let mark = settings.mark;
    format!("ct mark and {mark:#x} == {mark:#x} accept")
}

/// The command line for IPv4; `ip6tables` takes the same arguments for IPv6.
pub fn let_marked_in_by_iptables(settings: &FirewallSettings) -> String {
    format!("iptables -I INPUT {}", marked(settings).iptables)
}

/// The rule for packets with our mark. Neither ufw nor firewalld has a command for it.
pub fn marked(settings: &FirewallSettings) -> AcceptRule {
    let mark = settings.mark;
    let iptables = format!("-m connmark --mark {mark:#x}/{mark:#x} -j ACCEPT");
    AcceptRule {
        nft: let_marked_in(settings),
        ufw: format!(
            "write `-A ufw-before-input {iptables}` above COMMIT in /etc/ufw/before.rules, and \
             with ufw6-before-input in before6.rules, then run `ufw reload`"
        ),
        firewalld:
            "firewalld has no rule for a mark: set mode = \"guard\" for the service, and let \
                    its ports in by `firewall-cmd --permanent --add-port`"
                .to_owned(),
        iptables,
    }
}

/// The rule for packets to these ports: `22`, `60000-61000`.
pub fn to_ports(proto: Proto, numbers: &str) -> AcceptRule {
    let proto = proto.name();
    let range = numbers.replace('-', ":");
    AcceptRule {
        nft: format!("{proto} dport {numbers} accept"),
        iptables: format!("-p {proto} --dport {range} -j ACCEPT"),
        ufw: format!("run `ufw {{first}}allow {range}/{proto}`"),
        firewalld: format!(
            "run `firewall-cmd --permanent --add-port={numbers}/{proto} && firewall-cmd --reload`"
        ),
    }
}

/// The rule for receipts, which belong to no connection.
pub fn receipts(knock_port: u16) -> AcceptRule {
    let iptables = format!("-p udp --sport {knock_port} -j ACCEPT");
    AcceptRule {
        nft: format!("udp sport {knock_port} accept"),
        ufw: format!("run `ufw {{first}}allow out proto udp from any port {knock_port}`"),
        firewalld: format!(
            "run `firewall-cmd --permanent --direct --add-rule ipv4 filter OUTPUT 0 {iptables}`, \
             the same with ipv6, and `firewall-cmd --reload`"
        ),
        iptables,
    }
}
