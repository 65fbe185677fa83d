//! The rules that an admin's own firewall needs in mark mode, as text to paste: they accept packets
//! with our mark, and belong before any rule that drops.

use crate::config::FirewallSettings;

/// For an input chain of nftables; its position is up to the admin.
pub fn let_marked_in(settings: &FirewallSettings) -> String {
    let mark = settings.mark;
    format!("ct mark and {mark:#x} == {mark:#x} accept")
}

/// The command line for IPv4; `ip6tables` takes the same arguments for IPv6.
pub fn let_marked_in_by_iptables(settings: &FirewallSettings) -> String {
    let mark = settings.mark;
    format!("iptables -I INPUT -m connmark --mark {mark:#x}/{mark:#x} -j ACCEPT")
}
