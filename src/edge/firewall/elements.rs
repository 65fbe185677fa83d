//! Writes and lists grants as set elements over netlink. See `ruleset` for the sets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;

use super::attributes::{Attributes, attribute, attributes};
use super::netlink::{Answer, CREATE, EXCLUSIVE, Message, Netlink};
use super::ruleset::{GuardPlan, KeyShape, SetUse};
use crate::core::grants::{Change, Element};
use crate::core::service::GrantKind;
use crate::core::types::{Fault, ServiceName, Source};

/// Messages and attributes of linux/netfilter/nf_tables.h.
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;
const DESTROY_ELEMENT: u16 = 30;
const TABLE: u16 = 1;
const SET: u16 = 2;
const ELEMENTS: u16 = 3;
const LIST_ITEM: u16 = 1;
const KEY: u16 = 1;
const VALUE: u16 = 1;
const TIMEOUT: u16 = 4;
const EXPIRATION: u16 = 5;
const EXPRESSIONS: u16 = 11;

/// Changes per transaction.
const PER_BATCH: usize = 1000;
/// Bytes of elements in one message: an attribute's length has 16 bits.
const PER_MESSAGE: usize = 60_000;
/// Milliseconds: the timeout of an element that the same transaction removes. Without one, an
/// element that exists would stay for ever if only that step took effect.
const PASSING: u64 = 1000;

/// How this kernel changes the time of an element that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refresh {
    /// By adding it again (Linux 6.12).
    InPlace,
    /// By removing it, whether or not it is there, and adding it (6.3).
    Destroy,
    /// By adding, deleting and adding it: deleting a missing element fails.
    Replace,
}

/// The sets in force, and how to change them.
pub(super) struct Sets {
    table: String,
    names: BTreeSet<String>,
    refresh: Refresh,
}

impl Sets {
    pub(super) fn new(plan: &GuardPlan, refresh: Refresh) -> Sets {
        Sets { table: plan.table().to_owned(), names: plan.sets(), refresh }
    }

    /// The sets with these names, changed in the way that every kernel knows.
    pub(super) fn named(table: &str, names: BTreeSet<String>) -> Sets {
        Sets { table: table.to_owned(), names, refresh: Refresh::Replace }
    }

    /// True if the set of this element exists.
    pub(super) fn has(&self, element: &Element) -> bool {
        self.names.contains(&deciding_set(element))
    }

    pub(super) fn follow(&mut self, plan: &GuardPlan) {
        self.names = plan.sets();
    }

    pub(super) fn apply(&self, netlink: &mut Netlink, changes: &[Change]) -> Result<(), Fault> {
        let mut kept = Vec::with_capacity(changes.len());
        for change in changes {
            if self.is_needed(netlink, change)? {
                kept.push(*change);
            }
        }
        for part in kept.chunks(PER_BATCH) {
            netlink.batch(&self.steps(part)).map_err(|error| refused(error, &self.table))?;
        }
        Ok(())
    }

    /// False for a removal from a set that went with its service, and for a spent element that
    /// would get shorter. If a handshake ends between this check and the change, the element looks
    /// live again but lets nothing in.
    fn is_needed(&self, netlink: &mut Netlink, change: &Change) -> Result<bool, Fault> {
        let element = change.element();
        let set = deciding_set(element);
        match change {
            Change::Cut { .. } => Ok(false),
            Change::Remove { .. } | Change::Set { millis: 0, .. } => Ok(self.names.contains(&set)),
            _ if !self.names.contains(&set) => {
                let what = format!("the guard has no set {set} for a grant of {}", element.service);
                Err(Fault::new(what, "knock again: the service has changed"))
            }
            Change::Shorten { .. } if element.form == GrantKind::Once => {
                Ok(self.remaining(netlink, element)?.is_some())
            }
            _ => Ok(true),
        }
    }

    /// The milliseconds that `element` has left; `None` if it is missing or spent.
    pub(super) fn remaining(
        &self, netlink: &mut Netlink, element: &Element,
    ) -> Result<Option<u64>, Fault> {
        let item = Attributes::default().nest(KEY, &key(element));
        let request = request(GET_ELEMENT, 0, &self.table, &deciding_set(element), &item);
        let answers = match netlink.get(&request) {
            Ok(answers) => answers,
            // The element is missing. The watch reports a missing table.
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(refused(error, &self.table)),
        };
        let found =
            Expected { service: element.service, shape: KeyShape::of(element), form: element.form };
        let mut all = answers.iter().flat_map(|answer| found.read(answer));
        Ok(all.find(|(other, _)| other == element).map(|(_, millis)| millis))
    }

    fn steps(&self, changes: &[Change]) -> Vec<Message> {
        let mut steps =
            Steps { table: &self.table, refresh: self.refresh, open: None, done: Vec::new() };
        for change in changes {
            steps.push(change);
        }
        steps.finish();
        steps.done
    }
}

/// A message of several elements that is not complete yet.
struct OpenStep {
    number: u16,
    set: String,
    items: Attributes,
}

struct Steps<'a> {
    table: &'a str,
    refresh: Refresh,
    open: Option<OpenStep>,
    done: Vec<Message>,
}

impl Steps<'_> {
    fn push(&mut self, change: &Change) {
        let (element, millis) = match change {
            Change::Set { element, millis } | Change::Shorten { element, millis } => {
                (element, *millis)
            }
            Change::Remove { element } => (element, 0),
            Change::Cut { .. } => return,
        };
        self.put(&deciding_set(element), element, millis, &Attributes::default());
        // When shortening, keep the limit that tells whether the element was spent: it also counts
        // for handshakes that have begun.
        let is_shortened = matches!(change, Change::Shorten { .. }) && millis > 0;
        if element.form == GrantKind::Once && !is_shortened {
            let set = KeyShape::of(element).set(SetUse::Win, element.service.as_str());
            self.put(&set, element, millis, &one_packet_a_day());
        }
    }

    /// Sets one element, or removes it if `millis` is 0. An element with expressions is always
    /// made anew: a refresh leaves a limit as it is.
    fn put(&mut self, set: &str, element: &Element, millis: u64, expressions: &Attributes) {
        let is_refreshed = millis > 0 && expressions.len() == 0 && self.refresh == Refresh::InPlace;
        if !is_refreshed {
            let plain = Attributes::default().nest(KEY, &key(element));
            if self.refresh == Refresh::Replace {
                self.step(NEW_ELEMENT, set, &timed(plain.clone(), PASSING));
                self.step(DELETE_ELEMENT, set, &plain);
            } else {
                self.step(DESTROY_ELEMENT, set, &plain);
            }
        }
        // A timeout of 0 would mean forever.
        if millis > 0 {
            let mut item = timed(Attributes::default().nest(KEY, &key(element)), millis);
            if expressions.len() > 0 {
                item = item.nest(EXPRESSIONS, expressions);
            }
            self.step(NEW_ELEMENT, set, &item);
        }
    }

    /// Adds an element to the open message, if it is of this kind and not full.
    fn step(&mut self, number: u16, set: &str, item: &Attributes) {
        let fits = |open: &OpenStep| {
            open.number == number && open.set == set && open.items.len() < PER_MESSAGE
        };
        if !self.open.as_ref().is_some_and(fits) {
            self.finish();
        }
        let set = set.to_owned();
        let empty = OpenStep { number, set, items: Attributes::default() };
        let mut open = self.open.take().unwrap_or(empty);
        open.items = open.items.nest(LIST_ITEM, item);
        self.open = Some(open);
    }

    fn finish(&mut self) {
        if let Some(OpenStep { number, set, items }) = self.open.take() {
            let body = Attributes::default().text(TABLE, self.table).text(SET, &set);
            let flags = if number == NEW_ELEMENT { CREATE } else { 0 };
            self.done.push(Message::tables(number, flags, body.nest(ELEMENTS, &items)));
        }
    }
}

/// The element's time. The kernel takes a new time for an element that exists only from both.
fn timed(item: Attributes, millis: u64) -> Attributes {
    item.u64(TIMEOUT, millis).u64(EXPIRATION, millis)
}

fn deciding_set(element: &Element) -> String {
    KeyShape::of(element).set(SetUse::of(element.form), element.service.as_str())
}

fn request(number: u16, flags: u16, table: &str, set: &str, item: &Attributes) -> Message {
    let items = Attributes::default().nest(LIST_ITEM, item);
    let body = Attributes::default().text(TABLE, table).text(SET, set).nest(ELEMENTS, &items);
    Message::tables(number, flags, body)
}

/// All live elements with the milliseconds left. A spent element is not live.
pub(super) fn list(
    netlink: &mut Netlink, plan: &GuardPlan,
) -> Result<BTreeMap<Element, u64>, Fault> {
    let mut found = BTreeMap::new();
    for service in plan.services() {
        for shape in KeyShape::all_of(service) {
            let set = shape.set(SetUse::of(service.form), service.name.as_str());
            let body = Attributes::default().text(TABLE, plan.table()).text(SET, &set);
            let answers = netlink
                .dump_roughly(&Message::tables(GET_ELEMENT, 0, body))
                .map_err(|error| refused(error, plan.table()))?;
            let expected = Expected { service: service.name, shape, form: service.form };
            for answer in &answers {
                found.extend(expected.read(answer));
            }
        }
    }
    Ok(found)
}

/// The milliseconds that each element of this set has left; `None` if there is no such set.
pub(super) fn times_left(
    netlink: &mut Netlink, table: &str, set: &str,
) -> Result<Option<Vec<u64>>, Fault> {
    let body = Attributes::default().text(TABLE, table).text(SET, set);
    let answers = match netlink.dump_roughly(&Message::tables(GET_ELEMENT, 0, body)) {
        Ok(answers) => answers,
        Err(Errno::ENOENT) => return Ok(None),
        Err(error) => return Err(refused(error, table)),
    };
    let left = |item| attribute(item, EXPIRATION).and_then(|left| left.u64());
    Ok(Some(answers.iter().flat_map(items).filter_map(left).collect()))
}

/// Finds out how this kernel refreshes an element, in a table of its own, which goes with this
/// process if it is killed here.
pub(super) fn probe(netlink: &mut Netlink) -> Refresh {
    const OWNED: u32 = 2;
    const TIMED: u32 = 0x10;
    let name = format!("toctoc-probe-{}", netlink.port());
    let table = Attributes::default().text(TABLE, &name);
    // Name, flags, key type and length, id.
    let set = table.clone().text(2, "s").u32(3, TIMED).u32(4, 7).u32(5, 4).u32(10, 1);
    let plain = Attributes::default().nest(KEY, &value(&[192, 0, 2, 1]));
    let add = |millis| request(NEW_ELEMENT, CREATE, &name, "s", &timed(plain.clone(), millis));
    let made = netlink.batch(&[
        Message::tables(NEW_TABLE, CREATE | EXCLUSIVE, table.clone().u32(2, OWNED)),
        Message::tables(NEW_SET, CREATE, set),
        add(PASSING),
    ]);
    if made.is_err() {
        return Refresh::Replace;
    }
    let longer = netlink.batch(&[add(60 * PASSING)]);
    let answers = netlink.get(&request(GET_ELEMENT, 0, &name, "s", &plain));
    let left = match &answers {
        Ok(answers) => answers.iter().flat_map(items).find_map(millis_left),
        Err(_) => None,
    };
    let missing = Attributes::default().nest(KEY, &value(&[192, 0, 2, 2]));
    let destroys = netlink.batch(&[request(DESTROY_ELEMENT, 0, &name, "s", &missing)]).is_ok();
    // It ends with the socket in any case, and then the probe has only cost a name.
    let _ = netlink.batch(&[Message::tables(DELETE_TABLE, 0, table)]);
    match (longer, left, destroys) {
        (Ok(()), Some(left), true) if left > PASSING => Refresh::InPlace,
        (_, _, true) => Refresh::Destroy,
        _ => Refresh::Replace,
    }
}

/// The set key: address and, if it counts, source port; each padded to four bytes.
fn key(element: &Element) -> Attributes {
    let mut bytes = match element.source.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    if element.source_port != 0 {
        bytes.extend(element.source_port.to_be_bytes());
        bytes.extend([0, 0]);
    }
    value(&bytes)
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().put(VALUE, bytes)
}

/// `limit rate 1/day burst 1 packets`: the expression that makes an element pass one packet only.
fn one_packet_a_day() -> Attributes {
    const DAY: u64 = 86_400;
    // Rate, unit in seconds, burst, packets and not bytes, not inverted.
    let limit = Attributes::default().u64(1, 1).u64(2, DAY).u32(3, 1).u32(4, 0).u32(5, 0);
    let expression = Attributes::default().text(1, "limit").nest(2, &limit);
    Attributes::default().nest(LIST_ITEM, &expression)
}

fn items(answer: &Answer) -> impl Iterator<Item = &[u8]> {
    let lists = attributes(&answer.body).filter(|list| list.kind == ELEMENTS);
    lists.flat_map(|list| attributes(list.value)).map(|item| item.value)
}

/// The time until an element ends, in milliseconds; `None` if it has no timeout.
fn millis_left(item: &[u8]) -> Option<u64> {
    attribute(item, EXPIRATION)?.u64()
}

/// What the elements of a set have in common.
struct Expected {
    service: ServiceName,
    shape: KeyShape,
    form: GrantKind,
}

impl Expected {
    /// The live elements in one answer; foreign ones are left out.
    fn read<'a>(&'a self, answer: &'a Answer) -> impl Iterator<Item = (Element, u64)> + 'a {
        items(answer).filter_map(|item| self.read_item(item))
    }

    fn read_item(&self, item: &[u8]) -> Option<(Element, u64)> {
        let key = attribute(attribute(item, KEY)?.value, VALUE)?.value;
        // An element without a timeout is not ours. It stays until the next repair.
        let millis = millis_left(item).unwrap_or(u64::MAX);
        if millis == 0 { None } else { Some((self.read_key(key)?, millis)) }
    }

    fn read_key(&self, bytes: &[u8]) -> Option<Element> {
        let KeyShape { v6, span, has_port } = self.shape;
        let (address, rest) = bytes.split_at_checked(if v6 { 16 } else { 4 })?;
        let ip = match v6 {
            false => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?)),
            true => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?)),
        };
        let source_port = match (has_port, rest) {
            (false, []) => 0,
            (true, [high, low, _, _]) => u16::from_be_bytes([*high, *low]),
            _ => return None,
        };
        let Expected { service, form, .. } = *self;
        Some(Element { service, source: Source::new(ip), source_port, span, form })
    }
}

pub(super) fn refused(error: Errno, table: &str) -> Fault {
    let remedy = match error {
        Errno::EPERM => {
            let what = format!("not permitted to see or change the guard (table inet {table})");
            let remedy = "run this as root; in a container, give it CAP_NET_ADMIN";
            return Fault::new(what, remedy);
        }
        Errno::ENOENT => "the guard is gone: toctocd loads it again; see what flushed it",
        _ => "see `nft list ruleset`; if it repeats, restart toctocd",
    };
    let what = format!("nf_tables refused a change of table inet {table}: {}", error.desc());
    Fault::new(what, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::prefix::Span;

    fn element(ip: &str, form: GrantKind) -> Element {
        let service = ServiceName::new("ssh").unwrap();
        Element::plain(service, Source::new(ip.parse().unwrap()), form)
    }

    #[test]
    fn a_key_of_each_shape_is_read_back_as_it_was_written() {
        let [four, six] = ["192.0.2.0", "2001:db8::"].map(|ip| element(ip, GrantKind::Time));
        let bound = |element| Element { source_port: 40_000, ..element };
        let net =
            |element, length, v6| Element { span: Span::of_prefix(length, v6).unwrap(), ..element };
        for (element, name, length) in [
            (four, "v4/ssh", 4),
            (six, "v6/ssh", 16),
            (bound(four), "v4p/ssh", 8),
            (bound(six), "v6p/ssh", 20),
            (net(four, 24, false), "v4n24/ssh", 4),
            (net(six, 56, true), "v6n56/ssh", 16),
        ] {
            let shape = KeyShape::of(&element);
            let expected = Expected { service: element.service, shape, form: element.form };
            let written = key(&element);
            let bytes = attribute(written.bytes(), VALUE).unwrap().value;
            assert_eq!((deciding_set(&element).as_str(), bytes.len()), (name, length));
            assert_eq!(expected.read_key(bytes), Some(element));
            assert_eq!(expected.read_key(&bytes[1..]), None);
            assert_eq!(expected.read_key(&[bytes, &[0]].concat()), None);
            let item = |left| timed(Attributes::default().nest(KEY, &written), left);
            assert_eq!(expected.read_item(item(1).bytes()), Some((element, 1)));
            assert_eq!(expected.read_item(item(0).bytes()), None, "a spent one is not live");
        }
    }

    fn steps(refresh: Refresh, changes: &[Change]) -> Vec<Message> {
        Sets { table: "t".into(), names: BTreeSet::new(), refresh }.steps(changes)
    }

    const EACH: [Refresh; 3] = [Refresh::InPlace, Refresh::Destroy, Refresh::Replace];

    #[test]
    fn a_grant_of_no_time_is_removed_and_not_made_permanent() {
        let element = element("192.0.2.7", GrantKind::Time);
        for refresh in EACH {
            let set = steps(refresh, &[Change::Set { element, millis: 0 }]);
            assert_eq!(set, steps(refresh, &[Change::Remove { element }]));
        }
    }

    #[test]
    fn no_element_is_ever_added_without_a_timeout_or_with_one_of_zero() {
        for refresh in EACH {
            for form in [GrantKind::Time, GrantKind::Once] {
                let element = element("192.0.2.7", form);
                let changes = [
                    Change::Set { element, millis: 5000 },
                    Change::Set { element, millis: 0 },
                    Change::Shorten { element, millis: 1 },
                    Change::Shorten { element, millis: 0 },
                    Change::Remove { element },
                ];
                let steps = steps(refresh, &changes);
                let mut added = 0;
                for step in steps.iter().filter(|step| step.number == NEW_ELEMENT) {
                    let list = attribute(step.body.bytes(), ELEMENTS).unwrap();
                    for item in attributes(list.value) {
                        added += 1;
                        for kind in [TIMEOUT, EXPIRATION] {
                            let time = attribute(item.value, kind).and_then(|one| one.u64());
                            assert!(time.is_some_and(|time| time > 0), "{refresh:?} {form:?}");
                        }
                    }
                }
                assert!(added >= 2, "{refresh:?} {form:?}");
            }
        }
    }

    #[test]
    fn many_grants_of_one_set_go_in_few_messages_that_an_attribute_can_hold() {
        let sources = (0..5000u32).map(|n| IpAddr::V4((0x0a00_0000 + n).into()));
        let changes: Vec<Change> = sources
            .map(|ip| Element { source: Source::new(ip), ..element("192.0.2.7", GrantKind::Time) })
            .map(|element| Change::Set { element, millis: 60_000 })
            .collect();
        let steps = steps(Refresh::InPlace, &changes);
        assert!((2..10).contains(&steps.len()), "{}", steps.len());
        let count = |step: &Message| {
            let list = attribute(step.body.bytes(), ELEMENTS).expect("a list that fits");
            attributes(list.value).count()
        };
        assert_eq!(steps.iter().map(count).sum::<usize>(), 5000);
    }
}
