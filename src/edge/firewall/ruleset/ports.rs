//! Which services a port belongs to. Overlapping ranges are cut into pieces, because a map of
//! nftables refuses them.

use crate::core::service::{GrantKind, Mode, NEVER_GUARDED, Service, ServicePorts};
use crate::core::types::{Port, PortRange, Proto};

/// Neighbouring ports with the same services.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece<'a> {
    pub(super) first: u16,
    pub(super) last: u16,
    /// In the order in which they are asked.
    pub(super) services: Vec<&'a Service>,
}

pub(super) struct PortMap<'a> {
    pub(super) proto: Proto,
    pub(super) pieces: Vec<Piece<'a>>,
    /// The services of all ports; asked after the listed ones.
    pub(super) whole: Vec<&'a Service>,
    knock: Option<u16>,
}

impl<'a> PortMap<'a> {
    /// The map of one protocol; `knock` is the knock port.
    pub(super) fn new(proto: Proto, services: &'a [Service], knock: u16) -> PortMap<'a> {
        let mut ordered: Vec<&Service> = services.iter().collect();
        // A time grant goes first, so that no one-connection grant is spent needlessly.
        ordered.sort_by_key(|service| service.form == GrantKind::Once);
        let mut cuts: Vec<u32> = Vec::new();
        for range in ordered.iter().flat_map(|one| one.ports.ranges()) {
            if range.proto == proto {
                cuts.extend([u32::from(range.first), u32::from(range.last) + 1]);
            }
        }
        cuts.sort_unstable();
        cuts.dedup();
        let mut pieces: Vec<Piece<'a>> = Vec::new();
        for pair in cuts.windows(2) {
            let [first, after] = pair else { continue };
            let (Ok(first), Ok(last)) = (u16::try_from(*first), u16::try_from(*after - 1)) else {
                continue;
            };
            let port = Port { proto, number: first };
            let services: Vec<&Service> =
                ordered.iter().copied().filter(|service| service.ports.lists(port)).collect();
            if !services.is_empty() {
                pieces.push(Piece { first, last, services });
            }
        }
        ordered.retain(|one| matches!(one.ports, ServicePorts::AllBut(_)));
        let whole = ordered;
        let knock = if proto == Proto::Udp { Some(knock) } else { None };
        PortMap { proto, pieces, whole, knock }
    }

    /// True if no port of this protocol is guarded.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.whole.is_empty()
    }

    /// The condition for a guarded port, as the right side of `th dport` or `th sport`; `None` if
    /// it is true for every port.
    pub(super) fn guarded(&self) -> Option<String> {
        if self.whole.is_empty() {
            return Some(set_of(&self.ranges(|_| true)));
        }
        let open = self.open();
        if open.is_empty() { None } else { Some(format!("!= {}", set_of(&open))) }
    }

    /// The condition for a port that is not guarded; `None` if it is true for no port. With
    /// `silent` the knock port counts as guarded.
    pub(super) fn unguarded(&self, silent: bool) -> Option<String> {
        let knock = self.knock.filter(|_| silent);
        if self.whole.is_empty() {
            let mut ranges = self.ranges(|_| true);
            ranges.extend(knock.map(|number| PortRange::from(Port { proto: self.proto, number })));
            return Some(format!("!= {}", set_of(&ranges)));
        }
        let mut open = self.open();
        if let Some(number) = knock {
            let silent = Piece { first: number, last: number, services: Vec::new() };
            open = open.iter().flat_map(|range| without(*range, &silent)).collect();
        }
        if open.is_empty() { None } else { Some(set_of(&open)) }
    }

    /// The condition for a port whose services are all in mark mode; `None` if there is none.
    pub(super) fn marked(&self) -> Option<String> {
        let is_marked = |piece: &Piece<'_>| piece.services.iter().all(|one| one.mode == Mode::Mark);
        let marked = self.ranges(is_marked);
        let whole = self.whole.first().is_some_and(|one| one.mode == Mode::Mark);
        if !whole {
            return if marked.is_empty() {
                None
            } else {
                Some(format!("th dport {}", set_of(&marked)))
            };
        }
        let guarded = self.ranges(|piece| !is_marked(piece));
        let proto = self.proto.name();
        Some(match guarded.is_empty() {
            true => format!("meta l4proto {proto}"),
            false => format!("th dport != {}", set_of(&guarded)),
        })
    }

    /// The ports that a service of all ports leaves alone: the admin's exceptions, and what
    /// this machine needs. The knock port is one of them: there is nothing to grant.
    fn open(&self) -> Vec<PortRange> {
        let mut open: Vec<PortRange> = Vec::new();
        let knock = self.knock.map(|number| Port { proto: self.proto, number });
        open.extend(NEVER_GUARDED.into_iter().chain(knock).map(PortRange::from));
        for service in &self.whole {
            if let ServicePorts::AllBut(except) = &service.ports {
                open.extend(except);
            }
        }
        open.retain(|range| range.proto == self.proto);
        for piece in &self.pieces {
            open = open.iter().flat_map(|range| without(*range, piece)).collect();
        }
        open
    }

    fn ranges(&self, fits: impl Fn(&Piece<'_>) -> bool) -> Vec<PortRange> {
        let range = |piece: &Piece<'_>| PortRange {
            proto: self.proto,
            first: piece.first,
            last: piece.last,
        };
        self.pieces.iter().filter(|piece| fits(piece)).map(range).collect()
    }
}

/// What is left of `range` without the ports of `piece`.
fn without(range: PortRange, piece: &Piece<'_>) -> Vec<PortRange> {
    if range.last < piece.first || piece.last < range.first {
        return vec![range];
    }
    let mut left = Vec::new();
    if range.first < piece.first {
        left.push(PortRange { last: piece.first - 1, ..range });
    }
    if piece.last < range.last {
        left.push(PortRange { first: piece.last + 1, ..range });
    }
    left
}

/// An anonymous set of ports, such as `{ 22, 60000-61000 }`, without neighbours.
fn set_of(ranges: &[PortRange]) -> String {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(before) if u32::from(before.last) + 1 >= u32::from(range.first) => {
                before.last = before.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    let texts: Vec<String> = merged.iter().map(|range| text(range.first, range.last)).collect();
    format!("{{ {} }}", texts.join(", "))
}

/// A port or a range of ports in nft's syntax.
pub(super) fn text(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}
