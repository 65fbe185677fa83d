//! The sets and chains of one service. See `ruleset` for the chains that lead here, and `elements`
//! for the elements.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Lines, PacketMarks};
use crate::core::grants::Element;
use crate::core::prefix::Span;
use crate::core::service::{GrantKind, Service};

/// What the keys of a set consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::edge::firewall) struct KeyShape {
    pub(in crate::edge::firewall) v6: bool,
    /// The low bits of the source address that the key leaves out.
    pub(in crate::edge::firewall) span: Span,
    pub(in crate::edge::firewall) has_port: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::edge::firewall) enum SetUse {
    /// Who may connect until its time is over.
    Time,
    /// Who may begin the one handshake.
    Begin,
    /// Who wins: each element has its own limit of one packet a day, which exactly one packet
    /// passes, on any number of CPUs.
    Win,
}

impl SetUse {
    /// The set that decides about a first packet: an element is live while it is in this set.
    pub(in crate::edge::firewall) fn of(form: GrantKind) -> SetUse {
        match form {
            GrantKind::Time => SetUse::Time,
            GrantKind::Once => SetUse::Begin,
        }
    }
}

impl KeyShape {
    pub(in crate::edge::firewall) fn of(element: &Element) -> KeyShape {
        KeyShape {
            v6: element.source.ip().is_ipv6(),
            span: element.span,
            has_port: element.source_port != 0,
        }
    }

    /// The shapes that grants of this service can have. A door, and a client that names its source
    /// port, get one address whatever the service grants.
    pub(in crate::edge::firewall) fn all_of(service: &Service) -> Vec<KeyShape> {
        let mut shapes = Vec::new();
        for v6 in [false, true] {
            shapes.push(KeyShape { v6, span: Span::HOST, has_port: false });
            let span = if v6 { service.spans.v6 } else { service.spans.v4 };
            if span != Span::HOST {
                shapes.push(KeyShape { v6, span, has_port: false });
            }
            shapes.push(KeyShape { v6, span: Span::HOST, has_port: true });
        }
        shapes
    }

    /// The first part of a set's name: `v4`, `v6p`, `v4n24`. The prefix is in it: another prefix
    /// is another set, so a reload never meets a set of the same name and another meaning.
    fn name(&self) -> String {
        let family = if self.v6 { "v6" } else { "v4" };
        let bits = if self.v6 { 128 } else { 32 };
        let net = match self.span.ignored() {
            0 => String::new(),
            ignored => format!("n{}", bits - ignored),
        };
        format!("{family}{net}{}", if self.has_port { "p" } else { "" })
    }

    /// The name of a set. `/` is in no service's name, and the part before it keeps names apart
    /// from nft's own words and from numbers.
    pub(in crate::edge::firewall) fn set(&self, set: SetUse, service: &str) -> String {
        let letter = match set {
            SetUse::Time => "",
            SetUse::Begin => "o",
            SetUse::Win => "w",
        };
        format!("{}{letter}/{service}", self.name())
    }

    fn set_type(&self) -> String {
        let address = if self.v6 { "ipv6_addr" } else { "ipv4_addr" };
        format!("{address}{}", if self.has_port { " . inet_service" } else { "" })
    }

    /// The expression for a packet's key. It masks the address: a set of nets with
    /// `flags interval` would be copied as a whole at each change.
    fn key(&self) -> String {
        let ignored = u32::from(self.span.ignored());
        let mask = match (ignored, self.v6) {
            (0, _) => String::new(),
            (_, false) => {
                format!(" & {}", Ipv4Addr::from_bits(u32::MAX.checked_shl(ignored).unwrap_or(0)))
            }
            (_, true) => {
                format!(" & {}", Ipv6Addr::from_bits(u128::MAX.checked_shl(ignored).unwrap_or(0)))
            }
        };
        let address = if self.v6 { "ip6 saddr" } else { "ip saddr" };
        format!("{address}{mask}{}", if self.has_port { " . th sport" } else { "" })
    }
}

/// The sets of a service. No set has a size: the kernel would allocate it all at once, and
/// `max_grants` limits the elements.
pub(super) fn sets(service: &Service) -> Vec<String> {
    let name = service.name.as_str();
    let mut sets = Vec::new();
    for shape in KeyShape::all_of(service) {
        let key = shape.set_type();
        if service.form == GrantKind::Time {
            let set = shape.set(SetUse::Time, name);
            sets.push(format!("set {set} {{ type {key}; flags timeout; }}"));
            continue;
        }
        for set in [SetUse::Begin, SetUse::Win] {
            let set = shape.set(set, name);
            sets.push(format!("set {set} {{ type {key}; flags dynamic,timeout; }}"));
        }
    }
    sets
}

/// The chains of a service: they accept what is granted, or return.
///
/// With `once`, a SYN only makes its flow pending, so that a forged or lost SYN spends nothing. The
/// last ACK of the handshake wins.
pub(super) fn chains(service: &Service, marks: PacketMarks, lines: &mut Lines) {
    let name = service.name.as_str();
    let ours = marks.ours();
    let grant = marks.grant();
    let not_granted = "counter comment \"not granted\"".to_owned();
    if service.form == GrantKind::Time {
        let mut rules = Vec::new();
        for shape in KeyShape::all_of(service) {
            rules.push(format!("{} @{} {grant}", shape.key(), shape.set(SetUse::Time, name)));
        }
        rules.push(not_granted);
        lines.chain(&format!("to/{name}"), None, &rules);
        return;
    }
    let pending = format!("ct state established ct mark and {ours:#x} == {ours:#x}");
    let mut begins = Vec::new();
    let mut wins = vec![format!("tcp flags & (fin | syn | rst | ack) == syn goto begin/{name}")];
    for shape in KeyShape::all_of(service) {
        let key = shape.key();
        let begin = shape.set(SetUse::Begin, name);
        let won = format!("won/{}/{name}", shape.name());
        begins.push(format!(
            "{key} @{begin} ct status & assured != assured \
             ct mark set ct mark or {ours:#x} counter accept"
        ));
        wins.push(format!("{pending} {key} @{} goto {won}", shape.set(SetUse::Win, name)));
        let rules = [format!("delete @{begin} {{ {key} }}"), grant.clone()];
        lines.chain(&won, None, &rules);
    }
    begins.push(not_granted);
    wins.push("counter comment \"not a winner\"".to_owned());
    lines.chain(&format!("begin/{name}"), None, &begins);
    lines.chain(&format!("to/{name}"), None, &wins);
}
