//! Writes and lists grants as set elements over netlink. See `ruleset` for the sets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{
    DataAttribute, Expressions, ListAttribute, NfTablesMessage, SetElementAttribute,
    SetElementList, SetElementMessage, TableAttribute, TableMessage,
};
use nix::errno::Errno;

use super::netlink::{BatchItem, Netlink};
use super::ruleset::{KeyShape, ONCE_ELEMENTS, SHAPES, TIME_ELEMENTS};
use crate::core::grants::{Change, Element};
use crate::core::service::GrantKind;
use crate::core::types::{Fault, Port, Proto, Source};

/// Changes per transaction: well below the limit of one netlink message.
const PER_BATCH: usize = 100;

/// Applies `changes` in order. See [`super::Firewall::apply`].
pub(super) fn apply(netlink: &mut Netlink, table: &str, changes: &[Change]) -> Result<(), Fault> {
    let changes = without_spent(netlink, table, changes)?;
    for part in changes.chunks(PER_BATCH) {
        put(netlink, table, part)?;
    }
    Ok(())
}

fn put(netlink: &mut Netlink, table: &str, changes: &[Change]) -> Result<(), Fault> {
    // Most grants are new: trying that first takes a third of the steps and half of the time.
    let mut outcome = Err(Errno::EEXIST);
    if changes.iter().all(|change| matches!(change, Change::Set { millis: 1.., .. })) {
        outcome = netlink.batch(&steps(table, changes, WriteMode::New)?);
    }
    if outcome == Err(Errno::EEXIST) {
        outcome = netlink.batch(&steps(table, changes, WriteMode::Any)?);
    }
    outcome.map_err(|error| refused(error, table))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WriteMode {
    /// One step per set; the whole transaction fails with EEXIST if an element exists.
    New,
    /// Works for existing and for new elements.
    Any,
}

/// Leaves out the changes that shorten a spent element. If a handshake ends between this check and
/// the change, the element looks live again but lets nothing in.
fn without_spent(
    netlink: &mut Netlink, table: &str, changes: &[Change],
) -> Result<Vec<Change>, Fault> {
    let mut kept = Vec::with_capacity(changes.len());
    for change in changes {
        match change {
            Change::Shorten { element, .. } if remaining(netlink, table, element)?.is_none() => {}
            Change::Cut { .. } => {}
            _ => kept.push(*change),
        }
    }
    Ok(kept)
}

pub(super) fn is_there(netlink: &mut Netlink, table: &str) -> Result<bool, Fault> {
    let name = vec![TableAttribute::Name(table.to_owned())];
    match netlink.get(&NfTablesMessage::GetTable(TableMessage { attributes: name })) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(refused(error, table)),
    }
}

/// All live elements with the milliseconds left. A spent element is not live.
pub(super) fn list(netlink: &mut Netlink, table: &str) -> Result<Vec<(Element, u64)>, Fault> {
    let mut found = Vec::new();
    for form in [GrantKind::Time, GrantKind::Once] {
        for shape in &SHAPES {
            let set = judged_by(form, shape);
            let request = NfTablesMessage::GetSetElement(message(table, &set, None));
            let answers = netlink.dump(&request).map_err(|error| refused(error, table))?;
            for answer in &answers {
                found.extend(read(answer, form, shape));
            }
        }
    }
    Ok(found)
}

/// The milliseconds that `element` has left; `None` if it is missing or spent.
pub(super) fn remaining(
    netlink: &mut Netlink, table: &str, element: &Element,
) -> Result<Option<u64>, Fault> {
    let form = element.form;
    let shape = KeyShape::of(element);
    let message = message(table, &judged_by(form, shape), Some(vec![key(element)]));
    let answers = match netlink.get(&NfTablesMessage::GetSetElement(message)) {
        Ok(answers) => answers,
        // The element is missing. The watch reports a missing table.
        Err(Errno::ENOENT) => return Ok(None),
        Err(error) => return Err(refused(error, table)),
    };
    let mut found = answers.iter().flat_map(|answer| read(answer, form, shape));
    Ok(found.find(|(other, _)| other == element).map(|(_, millis)| millis))
}

fn steps(table: &str, changes: &[Change], way: WriteMode) -> Result<Vec<BatchItem>, Fault> {
    let mut transaction = Transaction { table, way, steps: Vec::with_capacity(changes.len() * 6) };
    for change in changes {
        transaction.push(change)?;
    }
    Ok(transaction.steps)
}

struct Transaction<'a> {
    table: &'a str,
    way: WriteMode,
    steps: Vec<BatchItem>,
}

impl Transaction<'_> {
    fn push(&mut self, change: &Change) -> Result<(), Fault> {
        let (element, millis) = match change {
            Change::Set { element, millis } | Change::Shorten { element, millis } => {
                (element, *millis)
            }
            Change::Remove { element } => (element, 0),
            Change::Cut { .. } => return Ok(()),
        };
        let is_once = element.form == GrantKind::Once;
        if is_once && element.port.proto == Proto::Udp {
            return Err(Fault::new(
                format!(
                    "a one-connection grant for {}: datagrams have no connections",
                    element.port
                ),
                "give the service form = \"time\"",
            ));
        }
        let shape = KeyShape::of(element);
        self.put(&judged_by(element.form, shape), element, millis, Vec::new());
        // When shortening, keep the limit that tells whether the element was spent: it also counts
        // for handshakes that have begun.
        let is_shortened = matches!(change, Change::Shorten { .. }) && millis > 0;
        if is_once && !is_shortened {
            let armed = vec![SetElementAttribute::ListExpressions(vec![one_packet_a_day()])];
            self.put(&format!("once{}", shape.name), element, millis, armed);
        }
        Ok(())
    }

    /// Sets one element, or removes it if `millis` is 0. Both begin with add, then delete: the
    /// element is gone then, on every kernel. Deleting a missing element would fail the batch, and
    /// adding an existing one refreshes it on some kernels only.
    fn put(&mut self, set: &str, element: &Element, millis: u64, more: Vec<SetElementAttribute>) {
        if self.way == WriteMode::Any {
            self.step(NfTablesMessage::NewSetElement, set, vec![key(element)]);
            self.step(NfTablesMessage::DeleteSetElement, set, vec![key(element)]);
        }
        // A timeout of 0 would mean forever.
        if millis > 0 {
            let mut attributes = vec![key(element), SetElementAttribute::Timeout(millis)];
            attributes.extend(more);
            self.step(NfTablesMessage::NewSetElement, set, attributes);
        }
    }

    fn step(
        &mut self, kind: fn(SetElementMessage) -> NfTablesMessage, set: &str,
        element: Vec<SetElementAttribute>,
    ) {
        let flags = match self.way {
            WriteMode::New => NLM_F_CREATE | NLM_F_EXCL,
            WriteMode::Any => NLM_F_CREATE,
        };
        self.steps.push((kind(message(self.table, set, Some(element))), flags));
    }
}

/// The set that decides about a first packet: an element is live while it is in this set.
fn judged_by(form: GrantKind, shape: &KeyShape) -> String {
    let name = if form == GrantKind::Time { "time" } else { "oncesyn" };
    format!("{name}{}", shape.name)
}

fn message(table: &str, set: &str, element: Option<Vec<SetElementAttribute>>) -> SetElementMessage {
    let table = SetElementList::Table(table.to_owned());
    let mut attributes = vec![table, SetElementList::Set(set.to_owned())];
    if let Some(element) = element {
        attributes.push(SetElementList::Elements(vec![ListAttribute::Element(element)]));
    }
    SetElementMessage { attributes }
}

/// The set key: address, source port if it counts, protocol, port; each padded to four bytes.
fn key(element: &Element) -> SetElementAttribute {
    let mut bytes = match element.source.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    if element.source_port != 0 {
        bytes.extend(element.source_port.to_be_bytes());
        bytes.extend([0, 0]);
    }
    bytes.extend([element.port.proto.number(), 0, 0, 0]);
    bytes.extend(element.port.number.to_be_bytes());
    bytes.extend([0, 0]);
    SetElementAttribute::Key(DataAttribute::Value(bytes))
}

/// `limit rate 1/day burst 1 packets`: the expression that makes an element pass one packet only.
fn one_packet_a_day() -> ListAttribute<netlink_packet_netfilter::nftables::ExpressionAttribute> {
    const DAY: u64 = 86_400;
    let attributes = vec![
        DefaultNla::new(1, 1u64.to_be_bytes().to_vec()), // rate
        DefaultNla::new(2, DAY.to_be_bytes().to_vec()),  // unit, seconds
        DefaultNla::new(3, 1u32.to_be_bytes().to_vec()), // burst
        DefaultNla::new(4, 0u32.to_be_bytes().to_vec()), // packets, not bytes
        DefaultNla::new(5, 0u32.to_be_bytes().to_vec()), // not inverted
    ];
    Expressions::Other { expression_type: "limit".to_owned(), attributes }.into()
}

/// The live elements in one reply of the kernel; foreign elements are left out.
fn read(answer: &NfTablesMessage, form: GrantKind, shape: &KeyShape) -> Vec<(Element, u64)> {
    let NfTablesMessage::NewSetElement(answer) = answer else { return Vec::new() };
    let mut found = Vec::new();
    for attribute in &answer.attributes {
        if let SetElementList::Elements(elements) = attribute {
            found.extend(elements.iter().filter_map(|element| read_element(element, form, shape)));
        }
    }
    found
}

fn read_element(
    element: &ListAttribute<SetElementAttribute>, form: GrantKind, shape: &KeyShape,
) -> Option<(Element, u64)> {
    let ListAttribute::Element(attributes) = element else { return None };
    let mut key = None;
    // An element without a timeout is not ours. It stays until the next repair.
    let mut millis = u64::MAX;
    for attribute in attributes {
        match attribute {
            SetElementAttribute::Key(DataAttribute::Value(bytes)) => key = Some(bytes),
            SetElementAttribute::Expiration(left) => millis = *left,
            _ => {}
        }
    }
    if millis == 0 {
        return None;
    }
    let (source, source_port, port) = read_key(key?, shape)?;
    Some((Element { source, source_port, span: shape.span, port, form }, millis))
}

fn read_key(bytes: &[u8], shape: &KeyShape) -> Option<(Source, u16, Port)> {
    let (address, rest) = bytes.split_at_checked(if shape.v6 { 16 } else { 4 })?;
    let ip = match shape.v6 {
        false => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?)),
        true => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?)),
    };
    let (from, rest) = rest.split_at_checked(if shape.has_port { 4 } else { 0 })?;
    let from = from.first_chunk().map_or(0, |port| u16::from_be_bytes(*port));
    let [proto, _, _, _, high, low, _, _] = <[u8; 8]>::try_from(rest).ok()?;
    let port = Port { proto: Proto::from_number(proto)?, number: u16::from_be_bytes([high, low]) };
    Some((Source::new(ip), from, port))
}

fn refused(error: Errno, table: &str) -> Fault {
    let remedy = match error {
        Errno::EPERM => "run toctocd as root or with CAP_NET_ADMIN",
        Errno::ENOENT => "the guard is gone: toctocd loads it again; see what flushed it",
        Errno::ENFILE => "the set of grants is full: wait until some have ended, or close some",
        _ => "see `nft list ruleset`; if it repeats, restart toctocd",
    };
    let mut why = error.desc().to_owned();
    if error == Errno::ENFILE {
        why.push_str(&format!(
            " (room for {TIME_ELEMENTS} time and {ONCE_ELEMENTS} one-connection elements per \
             family)"
        ));
    }
    Fault::new(format!("nf_tables refused a change of table inet {table}: {why}"), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(ip: &str, proto: Proto, number: u16, form: GrantKind) -> Element {
        Element::plain(Source::new(ip.parse().unwrap()), Port { proto, number }, form)
    }

    #[test]
    fn a_key_of_each_shape_is_read_back_as_it_was_written() {
        let [four, six] =
            ["192.0.2.7", "2001:db8::"].map(|ip| element(ip, Proto::Udp, 62201, GrantKind::Time));
        let bound = |element| Element { source_port: 40_000, ..element };
        let net = Element { span: crate::core::prefix::Span::Net64, ..six };
        for (element, name, length) in [
            (four, "4", 12),
            (six, "6", 24),
            (bound(four), "4p", 16),
            (bound(six), "6p", 28),
            (net, "6n", 24),
        ] {
            let shape = KeyShape::of(&element);
            let SetElementAttribute::Key(DataAttribute::Value(bytes)) = key(&element) else {
                panic!("a key")
            };
            assert_eq!((shape.name, bytes.len()), (name, length));
            assert_eq!(
                read_key(&bytes, shape),
                Some((element.source, element.source_port, element.port))
            );
            assert_eq!(read_key(&bytes[1..], shape), None);
            assert_eq!(read_key(&[&bytes[..], &[0]].concat(), shape), None);
        }
    }

    #[test]
    fn a_grant_of_no_time_is_removed_and_not_made_permanent() {
        let element = element("192.0.2.7", Proto::Tcp, 22, GrantKind::Time);
        let set = steps("t", &[Change::Set { element, millis: 0 }], WriteMode::Any).unwrap();
        assert_eq!(set, steps("t", &[Change::Remove { element }], WriteMode::Any).unwrap());
    }

    #[test]
    fn a_one_connection_grant_for_datagrams_is_refused() {
        let element = element("192.0.2.7", Proto::Udp, 53, GrantKind::Once);
        assert!(steps("t", &[Change::Set { element, millis: 1000 }], WriteMode::New).is_err());
    }
}
