//! Who knocks about in an audit: strangers from everywhere that a rule could tell apart, and the
//! holder of the grants.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::core::prefix::Prefix;
use crate::core::types::Source;
use crate::edge::twin::{Net, Way};

/// Addresses of the internet that no rule has a reason to name. No packet leaves the copy.
const STRANGER: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(44, 31, 77, 7)),
    IpAddr::V6(Ipv6Addr::new(0x2600, 0x77, 0, 0, 0, 0, 0, 7)),
];
const HOLDER: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(44, 31, 78, 9)),
    IpAddr::V6(Ipv6Addr::new(0x2600, 0x78, 0, 0, 0, 0, 0, 9)),
];
const LINK_LOCAL: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x77));
/// The most nets that an admin's rules name and that are tried.
const NAMED: usize = 24;
/// The most addresses of one family that are tried at one interface.
const TARGETS: usize = 3;
/// The last part of a neighbour's address, counted on from here until it is free.
const NEIGHBOUR: u128 = 70;
const HOLDING_NEIGHBOUR: u128 = 90;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A sender in the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::app) struct Person {
    /// Who that is, for people: `the internet`.
    pub(in crate::app) name: String,
    /// The interface that leads to them: its place in the list.
    pub(in crate::app) way: usize,
    pub(in crate::app) address: IpAddr,
    /// Addresses of the host that they try.
    pub(in crate::app) targets: Vec<IpAddr>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct People {
    pub(super) strangers: Vec<Person>,
    /// Who gets the grants: at most one of each family.
    pub(super) holders: Vec<Person>,
    /// The strangers that have the next address after a holder's.
    pub(super) beside: Vec<Person>,
}

/// Everybody. `named`: nets that the rulesets name.
pub(super) fn people(ways: &[Way], named: &BTreeSet<Prefix>) -> People {
    let mut people = People::default();
    for (way, at) in ways.iter().enumerate() {
        for v6 in [false, true] {
            people.strangers.extend(strangers_at(ways, way, at, v6));
        }
    }
    for prefix in named.iter().take(NAMED) {
        people.strangers.extend(named_stranger(ways, prefix));
    }
    for v6 in [false, true] {
        let Some(holder) = holder(ways, v6) else { continue };
        let beside = Person {
            name: format!("{}, beside the holder of the grant", next(holder.address)),
            address: next(holder.address),
            ..holder.clone()
        };
        people.holders.push(holder);
        people.beside.push(beside);
    }
    people
}

fn strangers_at(ways: &[Way], index: usize, way: &Way, v6: bool) -> Vec<Person> {
    let mut found = Vec::new();
    let person = |name: String, address| Person {
        name,
        way: index,
        address,
        targets: targets(way, address),
    };
    if let Some(net) = global(way, v6) {
        if way.is_default[usize::from(v6)] {
            let family = if v6 { "IPv6" } else { "IPv4" };
            let name = format!("the internet over {family}");
            found.push(person(name, STRANGER[usize::from(v6)]));
        }
        if let Some(address) = neighbour(ways, net, NEIGHBOUR) {
            found.push(person(format!("a neighbour on {}, {address}", way.name), address));
        }
    }
    if v6 && way.addresses.iter().any(|net| is_link_local(net.address)) {
        found.push(person(format!("a neighbour on {}, {LINK_LOCAL}", way.name), LINK_LOCAL));
    }
    found.retain(|person| !person.targets.is_empty());
    found
}

/// Somebody of a net that a rule names, where such a packet would come in.
fn named_stranger(ways: &[Way], prefix: &Prefix) -> Option<Person> {
    let mut address = prefix.base();
    if prefix.contains(Source::new(plus(address, 7))) {
        address = plus(address, 7);
    }
    coming_from(ways, format!("{address}, of {prefix}, which your rules name"), address)
}

/// Somebody with this address, where such a packet would come in.
pub(in crate::app) fn coming_from(ways: &[Way], name: String, address: IpAddr) -> Option<Person> {
    let v6 = address.is_ipv6();
    let is_on = |net: &Net| Prefix::around(Source::new(net.address), net.length);
    let contains = |net: &Net| is_on(net).contains(Source::new(address));
    let is_own = ways.iter().any(|way| way.addresses.iter().any(|net| net.address == address));
    if is_own || address.is_loopback() || address.is_multicast() || address.is_unspecified() {
        return None;
    }
    let near = ways.iter().position(|way| way.addresses.iter().any(contains));
    let way = near.or_else(|| outward(ways, v6))?;
    let targets = targets(&ways[way], address);
    if targets.is_empty() { None } else { Some(Person { name, way, address, targets }) }
}

/// The interface that leads to the internet, or else the first with an address of the family.
fn outward(ways: &[Way], v6: bool) -> Option<usize> {
    let usable = |way: &Way| global(way, v6).is_some();
    let default = ways.iter().position(|way| way.is_default[usize::from(v6)] && usable(way));
    default.or_else(|| ways.iter().position(usable))
}

fn holder(ways: &[Way], v6: bool) -> Option<Person> {
    let way = outward(ways, v6)?;
    let at = &ways[way];
    let address = match at.is_default[usize::from(v6)] {
        true => HOLDER[usize::from(v6)],
        false => neighbour(ways, global(at, v6)?, HOLDING_NEIGHBOUR)?,
    };
    Some(Person { name: address.to_string(), way, address, targets: targets(at, address) })
}

/// The host's addresses that this sender can mean at this interface. IPv4 includes loopback, which
/// `route_localnet` lets in.
fn targets(way: &Way, sender: IpAddr) -> Vec<IpAddr> {
    let fits = |net: &&Net| {
        net.address.is_ipv6() == sender.is_ipv6()
            && is_link_local(net.address) == is_link_local(sender)
    };
    let own = way.addresses.iter().filter(fits).map(|net| net.address);
    let mut targets: Vec<IpAddr> = own.take(TARGETS).collect();
    if sender.is_ipv4() && !targets.is_empty() {
        targets.push(LOOPBACK);
    }
    targets
}

/// True if not all addresses of this interface are tried.
pub(super) fn has_more_targets(way: &Way) -> bool {
    [false, true].into_iter().any(|v6| {
        let of_family = |net: &&Net| net.address.is_ipv6() == v6 && !is_link_local(net.address);
        way.addresses.iter().filter(of_family).count() > TARGETS
    })
}

fn global(way: &Way, v6: bool) -> Option<Net> {
    let fits = |net: &&Net| net.address.is_ipv6() == v6 && !(v6 && is_link_local(net.address));
    way.addresses.iter().find(fits).copied()
}

/// A free address in a network, `None` in one of two addresses.
fn neighbour(ways: &[Way], net: Net, first: u128) -> Option<IpAddr> {
    let prefix = Prefix::around(Source::new(net.address), net.length);
    let last_bits: u32 = if net.address.is_ipv4() { 32 } else { 128 };
    let size = last_bits.checked_sub(u32::from(net.length)).filter(|bits| *bits >= 2)?;
    let is_own =
        |ip: IpAddr| ways.iter().flat_map(|way| &way.addresses).any(|one| one.address == ip);
    // The ends of an IPv4 network are broadcasts.
    let room = 1_u128.checked_shl(size).map_or(u128::MAX, |all| all - 2);
    let candidate = |step: u128| plus(prefix.base(), 1 + (first + step) % room.min(1 << 16));
    (0..64)
        .map(candidate)
        .find(|ip| !is_own(*ip) && !is_own(next(*ip)) && prefix.contains(Source::new(*ip)))
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn next(ip: IpAddr) -> IpAddr {
    plus(ip, 1)
}

fn plus(ip: IpAddr, steps: u128) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            Ipv4Addr::from_bits(v4.to_bits().wrapping_add(u32::try_from(steps).unwrap_or(0))).into()
        }
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add(steps)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Net {
        let (address, length) = text.split_once('/').unwrap();
        Net { address: address.parse().unwrap(), length: length.parse().unwrap() }
    }

    fn way(name: &str, addresses: &[&str], is_default: bool) -> Way {
        Way {
            name: name.to_owned(),
            index: 2,
            hardware: [0; 6],
            far_end: String::new(),
            addresses: addresses.iter().map(|text| net(text)).collect(),
            is_default: [is_default; 2],
        }
    }

    #[test]
    fn strangers_come_from_the_internet_from_each_link_and_from_each_net_that_a_rule_names() {
        let ways = [
            way("eth0", &["192.0.2.10/24", "2001:db8::10/64", "fe80::10/64"], true),
            way("docker0", &["172.17.0.1/16"], false),
        ];
        let named = ["203.0.113.0/24", "172.17.3.0/24", "192.0.2.10/32"];
        let named = named.iter().map(|text| Prefix::parse(text).unwrap()).collect();
        let people = people(&ways, &named);
        let shown: Vec<String> =
            people.strangers.iter().map(|one| format!("{} {}", one.way, one.name)).collect();
        assert_eq!(
            shown,
            [
                "0 the internet over IPv4",
                "0 a neighbour on eth0, 192.0.2.71",
                "0 the internet over IPv6",
                "0 a neighbour on eth0, 2001:db8::47",
                "0 a neighbour on eth0, fe80::77",
                "1 a neighbour on docker0, 172.17.0.71",
                "1 172.17.3.7, of 172.17.3.0/24, which your rules name",
                "0 203.0.113.7, of 203.0.113.0/24, which your rules name",
            ]
        );
        let of = |index: usize| people.strangers[index].targets.clone();
        assert_eq!(of(0), ["192.0.2.10", "127.0.0.1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert_eq!(of(4), ["fe80::10".parse::<IpAddr>().unwrap()]);
        let holders: Vec<IpAddr> = people.holders.iter().map(|one| one.address).collect();
        assert_eq!(holders, HOLDER);
    }

    #[test]
    fn without_a_default_route_the_holder_is_a_neighbour_with_a_free_address() {
        let ways = [way("gw0", &["10.90.0.91/24", "10.90.0.92/24"], false)];
        let people = people(&ways, &BTreeSet::new());
        let [holder] = &people.holders[..] else { panic!("{people:?}") };
        assert_eq!(holder.address, "10.90.0.93".parse::<IpAddr>().unwrap());
        assert_eq!(people.beside[0].address, "10.90.0.94".parse::<IpAddr>().unwrap());
        assert_eq!(people.strangers.len(), 1);
    }

    #[test]
    fn a_link_of_two_addresses_has_no_neighbours_and_a_small_one_has_its_own() {
        assert_eq!(neighbour(&[], net("10.0.0.1/31"), 70), None);
        let found = neighbour(&[way("a", &["10.0.0.1/29"], true)], net("10.0.0.1/29"), 70).unwrap();
        assert!(Prefix::parse("10.0.0.0/29").unwrap().contains(Source::new(found)), "{found}");
    }
}
