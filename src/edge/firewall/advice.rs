//! The rules that an admin's own firewall needs in mark mode, as text to paste.

use crate::config::FirewallSettings;

/// One rule, for each kind of firewall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// For an input chain of nftables, without its place.
    pub nft: String,
    /// A command line for IPv4; for IPv6, `ip6tables` takes the same arguments.
    pub iptables: String,
}

/// The rule that accepts what our table has marked, to stand before any rule that drops.
pub fn let_marked_in(settings: &FirewallSettings) -> Advice {
    let mark = settings.mark;
    Advice {
        nft: format!("ct mark and {mark:#x} == {mark:#x} accept"),
        iptables: format!("iptables -I INPUT -m connmark --mark {mark:#x}/{mark:#x} -j ACCEPT"),
    }
}
