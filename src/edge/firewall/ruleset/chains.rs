//! The sets of grants, and the chains that ask them about packets to guarded ports. Which packets
//! come here is left to the guard's own chain in the file above, the elements to `elements`.

use std::fmt::Write;

use super::{ONCE_ELEMENTS, PacketMarks, TIME_ELEMENTS};
use crate::core::grants::Element;
use crate::core::prefix::Span;

/// One shape of what stands before protocol and port in the keys of sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::edge::firewall) struct KeyShape {
    /// How the names of its sets end.
    pub(in crate::edge::firewall) name: &'static str,
    /// How much of the source address is in it.
    pub(in crate::edge::firewall) span: Span,
    /// Whether the source port is.
    pub(in crate::edge::firewall) has_port: bool,
    /// Of which family.
    pub(in crate::edge::firewall) v6: bool,
    kind: &'static str,
    packet: &'static str,
}

const HOST: Span = Span::Host;
const NET: Span = Span::Net64;

/// All of them. A net is asked for by masking what a packet says, so that no set needs `flags
/// interval`: such a set is copied whole at each change.
pub(in crate::edge::firewall) static SHAPES: [KeyShape; 5] = [
    KeyShape {
        name: "4",
        span: HOST,
        has_port: false,
        v6: false,
        kind: "ipv4_addr",
        packet: "ip saddr",
    },
    KeyShape {
        name: "6",
        span: HOST,
        has_port: false,
        v6: true,
        kind: "ipv6_addr",
        packet: "ip6 saddr",
    },
    KeyShape {
        name: "4p",
        span: HOST,
        has_port: true,
        v6: false,
        kind: "ipv4_addr . inet_service",
        packet: "ip saddr . th sport",
    },
    KeyShape {
        name: "6p",
        span: HOST,
        has_port: true,
        v6: true,
        kind: "ipv6_addr . inet_service",
        packet: "ip6 saddr . th sport",
    },
    KeyShape {
        name: "6n",
        span: NET,
        has_port: false,
        v6: true,
        kind: "ipv6_addr",
        packet: "ip6 saddr & ffff:ffff:ffff:ffff::",
    },
];

impl KeyShape {
    /// That of an element's key.
    pub(in crate::edge::firewall) fn of(element: &Element) -> &'static KeyShape {
        let [host4, host6, port4, port6, net6] = &SHAPES;
        // Policy grants no net from one port and no IPv4 net; if it did, this would be the narrower
        // reading.
        match (element.source.ip().is_ipv6(), element.source_port, element.span) {
            (false, 0, _) => host4,
            (false, ..) => port4,
            (true, 0, Span::Host) => host6,
            (true, 0, Span::Net64) => net6,
            (true, ..) => port6,
        }
    }

    /// What a packet's key is.
    fn key(&self) -> String {
        format!("{} . meta l4proto . th dport", self.packet)
    }
}

/// Three sets of each shape.
pub(super) fn sets() -> String {
    let mut text = String::new();
    for KeyShape { name, kind, .. } in SHAPES {
        let key = format!("type {kind} . inet_proto . inet_service");
        let _ = write!(
            text,
            "\tset time{name} {{ {key}; size {TIME_ELEMENTS}; flags timeout; }}\n\
             \tset oncesyn{name} {{ {key}; size {ONCE_ELEMENTS}; flags dynamic,timeout; }}\n\
             \tset once{name} {{ {key}; size {ONCE_ELEMENTS}; flags dynamic,timeout; }}\n"
        );
    }
    text
}

/// The chains behind the guard; `left` stands before each drop.
///
/// - `stream`: a bare SYN is judged by the grants whatever conntrack thinks of its flow; all else
///   passes by our mark on the flow. A live time grant also adopts what its source has open already
///   (it could open the same anew): so one knock revives a session after a first installation, a
///   flush, or a conntrack table that was emptied.
/// - `opening`: a SYN under a one-connection grant only makes its flow pending, so that a forged or
///   lost one spends nothing. Fast Open would carry a request inside the SYN (254: its experimental
///   form).
/// - `won4` and its like: the last ACK of a pending flow's handshake. Each element of `once4`
///   carries its own limit of one packet a day, which exactly one packet ever passes, on however
///   many CPUs.
/// - `datagram`: under a grant every packet marks its flow; an answered flow lives on with its
///   conntrack entry, as a connection does.
pub(super) fn chains(shapes: &[KeyShape], marks: PacketMarks, left: &str) -> String {
    let (ours, grant) = (marks.ours(), marks.grant());
    let granted = format!("ct state established ct mark and {ours:#x} == {:#x}", marks.granted);
    let pending = format!("ct state established ct mark and {ours:#x} == {ours:#x}");
    let pend =
        format!("ct status & assured != assured ct mark set ct mark or {ours:#x} counter accept");
    let each = |line: &dyn Fn(&str, &str) -> String| -> String {
        shapes.iter().map(|shape| format!("\t\t{}\n", line(shape.name, &shape.key()))).collect()
    };
    let wins = each(&|name, key| format!("{pending} {key} @once{name} goto won{name}"));
    let adopted = each(&|name, key| format!("ct state established,new {key} @time{name} {grant}"));
    let timed = each(&|name, key| format!("{key} @time{name} {grant}"));
    let begun = each(&|name, key| format!("{key} @oncesyn{name} {pend}"));
    let won = |shape: &KeyShape| {
        let (name, key) = (shape.name, shape.key());
        format!("\tchain won{name} {{\n\t\tdelete @oncesyn{name} {{ {key} }}\n\t\t{grant}\n\t}}\n")
    };
    let won: String = shapes.iter().map(won).collect();
    format!(
        "{won}\tchain stream {{
\t\ttcp flags & (fin | syn | rst | ack) == syn goto opening
\t\t{granted} accept
\t\t{pending} tcp flags & rst == rst accept comment \"a reset never spends the grant\"
{wins}{adopted}{left}\t\tcounter drop comment \"neither granted nor a winner\"
\t}}
\tchain opening {{
\t\ttcp option 34 exists counter drop comment \"Fast Open\"
\t\ttcp option 254 exists counter drop comment \"Fast Open, experimental\"
{timed}{begun}{left}\t\tcounter drop comment \"no grant\"
\t}}
\tchain datagram {{
\t\t{granted} accept
{timed}{left}\t\tcounter drop comment \"no grant\"
\t}}
"
    )
}
