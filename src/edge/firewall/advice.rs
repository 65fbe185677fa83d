//! The rules that an admin's own firewall needs in mark mode, as text to paste.

use crate::config::FirewallSettings;

/// One rule in the syntax of each kind of firewall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// For an input chain of nftables; its position is up to the admin.
    pub nft: String,
    /// The command line for IPv4; `ip6tables` takes the same arguments for IPv6.
    pub iptables: String,
}

/// The rule that accepts packets with our mark. It belongs before any rule that drops.
pub fn let_marked_in(settings: &FirewallSettings) -> Advice {
    let mark = settings.mark;
    Advice {
        nft: format!("ct mark and {mark:#x} == {mark:#x} accept"),
        iptables: format!("iptables -I INPUT -m connmark --mark {mark:#x}/{mark:#x} -j ACCEPT"),
    }
}
