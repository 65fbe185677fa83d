//! Ranges of addresses: the prefixes that an admin lists, and the span of a grant.
//! See `service` for the settings and `policy` for their use.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::types::Source;

/// The addresses that a grant covers. A variant's number is its byte in the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Span {
    #[default]
    Host = 0,
    /// Its whole /64, because an IPv6 host may change its lower half at any time.
    Net64 = 1,
}

impl Span {
    /// `source` with the bits that this span ignores set to zero. An IPv4 address is unchanged.
    pub fn of(self, source: Source) -> Source {
        match (self, source.ip()) {
            (Span::Net64, IpAddr::V6(v6)) => {
                Source::new(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into())
            }
            _ => source,
        }
    }
}

/// All addresses of one family with the same first bits, written `203.0.113.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    base: IpAddr,
    length: u8,
}

impl Prefix {
    /// Reads a prefix. `None` also for `/0`, set bits after the length, and mapped IPv4 addresses.
    pub fn parse(text: &str) -> Option<Prefix> {
        let (base, length) = text.split_once('/')?;
        if length.len() > 3 || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let prefix = Prefix { base: base.parse().ok()?, length: length.parse().ok()? };
        let sound = (1..=width(prefix.base)).contains(&prefix.length)
            && prefix.base.to_canonical() == prefix.base
            && prefix.contains(Source::new(prefix.base));
        if sound { Some(prefix) } else { None }
    }

    pub fn contains(&self, source: Source) -> bool {
        self.masked(source.ip()) == Some(bits(self.base))
    }

    /// True if it shares an address with the `span` of `source`.
    pub fn meets(&self, source: Source, span: Span) -> bool {
        let narrower = self.length >= 64 && span.of(Source::new(self.base)) == source;
        narrower || self.contains(source)
    }

    /// The bits of `ip` that count here; `None` for the other family.
    fn masked(&self, ip: IpAddr) -> Option<u128> {
        if ip.is_ipv4() != self.base.is_ipv4() {
            return None;
        }
        let ignored = u32::from(width(ip) - self.length.min(width(ip)));
        Some(bits(ip).checked_shr(ignored).unwrap_or(0) << ignored)
    }
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new(text.parse().unwrap())
    }

    #[test]
    fn a_prefix_contains_addresses_with_its_bits_and_none_of_the_other_family() {
        for (prefix, inside, outside) in [
            ("203.0.113.0/24", "203.0.113.255", "203.0.114.0"),
            ("203.0.113.7/32", "203.0.113.7", "203.0.113.6"),
            ("128.0.0.0/1", "255.0.0.1", "127.255.255.255"),
            ("2001:db8::/48", "2001:db8:0:ffff::1", "2001:db8:1::"),
            ("2001:db8::7/128", "2001:db8::7", "2001:db8::6"),
            ("8000::/1", "ffff::", "7fff::"),
        ] {
            let read = Prefix::parse(prefix).unwrap();
            assert!(read.contains(source(inside)) && !read.contains(source(outside)), "{prefix}");
            assert_eq!(read.to_string(), prefix);
        }
        assert!(!Prefix::parse("203.0.113.0/24").unwrap().contains(source("::cb00:7101")));
        assert!(!Prefix::parse("8000::/1").unwrap().contains(source("203.0.113.1")));
        assert!(
            Prefix::parse("203.0.113.0/24").unwrap().contains(source("::ffff:203.0.113.9")),
            "it is the IPv4 address"
        );
    }

    #[test]
    fn a_prefix_meets_a_net_that_it_contains_or_is_in() {
        let net = source("2001:db8:0:7::");
        for (prefix, host, wide) in [
            ("2001:db8::/48", true, true),
            ("2001:db8:0:7::/64", true, true),
            ("2001:db8:0:7:1::/80", false, true),
            ("2001:db8:0:7::9/128", false, true),
            ("2001:db8:0:8::9/128", false, false),
            ("203.0.113.0/24", false, false),
        ] {
            let read = Prefix::parse(prefix).unwrap();
            assert_eq!(
                (read.meets(net, Span::Host), read.meets(net, Span::Net64)),
                (host, wide),
                "{prefix}"
            );
        }
        let v4 = Prefix::parse("203.0.113.7/32").unwrap();
        assert!(
            v4.meets(source("203.0.113.7"), Span::Net64)
                && !v4.meets(source("203.0.113.6"), Span::Net64)
        );
    }

    #[test]
    fn texts_that_are_not_a_prefix_and_prefixes_of_everybody_are_refused() {
        for bad in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.1/24",
            "0.0.0.0/0",
            "::/0",
            "10.0.0.0/+8",
            "10.0.0.0/008x",
            "2001:db8::1/64",
            "2001:db8::/129",
            "::ffff:10.0.0.0/104",
            "a/8",
            "10.0.0.0/8/8",
            "10.0.0.0/-1",
            " 10.0.0.0/8",
        ] {
            assert_eq!(Prefix::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_net64_span_ignores_the_lower_half_of_an_ipv6_address_only() {
        assert_eq!(Span::Net64.of(source("2001:db8:1:2:3:4:5:6")), source("2001:db8:1:2::"));
        assert_eq!(Span::Net64.of(source("192.0.2.7")), source("192.0.2.7"));
        assert_eq!(Span::Host.of(source("2001:db8:1:2:3:4:5:6")), source("2001:db8:1:2:3:4:5:6"));
    }
}
