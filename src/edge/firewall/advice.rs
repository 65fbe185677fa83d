//! The rules that an admin's own firewall needs beside ours, as text to paste.
//! Whether it has them is left to `app::check`.

use crate::config::FirewallSettings;

/// One rule, for each kind of firewall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// For an input chain of nftables, without its place.
    pub nft: String,
    /// A command line for IPv4; `ip6tables` takes the same words for IPv6.
    pub iptables: String,
}

/// What lets in the flows that our table has marked: for services in mark mode, before anything
/// that drops.
pub fn let_marked_in(settings: &FirewallSettings) -> Advice {
    let mark = settings.mark;
    Advice {
        nft: format!("ct mark and {mark:#x} == {mark:#x} accept"),
        iptables: format!("iptables -I INPUT -m connmark --mark {mark:#x}/{mark:#x} -j ACCEPT"),
    }
}
