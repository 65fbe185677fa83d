//! The sets of grants, and the chains that look up packets to guarded ports in them. See `ruleset`
//! for the chain before these, and `elements` for the elements.

use std::fmt::Write;

use super::{ONCE_ELEMENTS, PacketMarks, TIME_ELEMENTS};
use crate::core::grants::Element;
use crate::core::prefix::Span;

/// One shape of set keys: the part before protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::edge::firewall) struct KeyShape {
    /// The suffix of the names of its sets.
    pub(in crate::edge::firewall) name: &'static str,
    /// The part of the source address in the key.
    pub(in crate::edge::firewall) span: Span,
    /// True if the key contains the source port.
    pub(in crate::edge::firewall) has_port: bool,
    pub(in crate::edge::firewall) v6: bool,
}

const HOST: Span = Span::Host;
const NET: Span = Span::Net64;

/// All shapes. Lookups of nets mask the packet's address, so no set needs `flags interval`: the
/// kernel copies such a set as a whole at each change.
pub(in crate::edge::firewall) static SHAPES: [KeyShape; 5] = [
    KeyShape { name: "4", span: HOST, has_port: false, v6: false },
    KeyShape { name: "6", span: HOST, has_port: false, v6: true },
    KeyShape { name: "4p", span: HOST, has_port: true, v6: false },
    KeyShape { name: "6p", span: HOST, has_port: true, v6: true },
    KeyShape { name: "6n", span: NET, has_port: false, v6: true },
];

impl KeyShape {
    pub(in crate::edge::firewall) fn of(element: &Element) -> &'static KeyShape {
        let [host4, host6, port4, port6, net6] = &SHAPES;
        // Policy allows no net grant with a source port and no IPv4 net grant: these are narrower.
        match (element.source.ip().is_ipv6(), element.source_port, element.span) {
            (false, 0, _) => host4,
            (false, ..) => port4,
            (true, 0, Span::Host) => host6,
            (true, 0, Span::Net64) => net6,
            (true, ..) => port6,
        }
    }

    fn set_type(&self) -> String {
        let address = if self.v6 { "ipv6_addr" } else { "ipv4_addr" };
        let port = if self.has_port { " . inet_service" } else { "" };
        format!("{address}{port} . inet_proto . inet_service")
    }

    /// The expression for a packet's key.
    fn key(&self) -> String {
        let address = if self.v6 { "ip6 saddr" } else { "ip saddr" };
        let mask = if self.span == NET { " & ffff:ffff:ffff:ffff::" } else { "" };
        let port = if self.has_port { " . th sport" } else { "" };
        format!("{address}{mask}{port} . meta l4proto . th dport")
    }
}

/// The declarations of three sets per shape.
pub(super) fn sets() -> String {
    let mut text = String::new();
    for shape in SHAPES {
        let name = shape.name;
        let key = format!("type {}", shape.set_type());
        let _ = write!(
            text,
            "\tset time{name} {{ {key}; size {TIME_ELEMENTS}; flags timeout; }}\n\
             \tset oncesyn{name} {{ {key}; size {ONCE_ELEMENTS}; flags dynamic,timeout; }}\n\
             \tset once{name} {{ {key}; size {ONCE_ELEMENTS}; flags dynamic,timeout; }}\n"
        );
    }
    text
}

/// The chains behind the guard. `left` is put before each drop.
///
/// - `stream`: the grants decide about a bare SYN, whatever conntrack thinks of its flow. All other
///   packets pass by our mark on the flow. A live time grant also adopts open connections of its
///   source, which could open the same ones anew. So one knock revives a session after a first
///   installation, a flush, or an emptied conntrack table.
/// - `opening`: a SYN under a one-connection grant only makes its flow pending, so that a forged or
///   lost SYN spends nothing. Fast Open would carry a request inside the SYN (254 is its
///   experimental form).
/// - `won4` and the like: the last ACK of a pending flow's handshake. Each element of `once4` has
///   its own limit of one packet a day, which exactly one packet passes, on any number of CPUs.
/// - `datagram`: under a grant every packet marks its flow. A flow with replies lives on with its
///   conntrack entry, like a connection.
pub(super) fn chains(shapes: &[KeyShape], marks: PacketMarks, left: &str) -> String {
    let ours = marks.ours();
    let grant = marks.grant();
    let granted = format!("ct state established ct mark and {ours:#x} == {:#x}", marks.granted);
    let pending = format!("ct state established ct mark and {ours:#x} == {ours:#x}");
    let mut won = String::new();
    let mut wins = String::new();
    let mut adopted = String::new();
    let mut timed = String::new();
    let mut begun = String::new();
    for shape in shapes {
        let name = shape.name;
        let key = shape.key();
        won += &format!(
            "\tchain won{name} {{\n\t\tdelete @oncesyn{name} {{ {key} }}\n\t\t{grant}\n\t}}\n"
        );
        wins += &format!("\t\t{pending} {key} @once{name} goto won{name}\n");
        adopted += &format!("\t\tct state established,new {key} @time{name} {grant}\n");
        timed += &format!("\t\t{key} @time{name} {grant}\n");
        begun += &format!(
            "\t\t{key} @oncesyn{name} ct status & assured != assured \
             ct mark set ct mark or {ours:#x} counter accept\n"
        );
    }
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
