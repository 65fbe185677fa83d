//! Ranges of addresses: the prefixes that an admin lists, and the span of a grant.
//! See `service` for the settings and `policy` for their use.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::types::Source;

/// The number of low bits of an address that a grant ignores: 0 is one address, 8 an IPv4 /24,
/// 64 an IPv6 /64. Ordered by width. It is also its byte in the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u8);

impl Span {
    /// One address.
    pub const HOST: Span = Span(0);

    /// The span of a prefix of this length; `None` unless it is one that a service may grant: 16 to
    /// 32 for IPv4, 48 to 128 for IPv6.
    pub fn of_prefix(length: u8, v6: bool) -> Option<Span> {
        let (shortest, longest) = if v6 { (48, 128) } else { (16, 32) };
        if (shortest..=longest).contains(&length) { Some(Span(longest - length)) } else { None }
    }

    /// From the number of ignored bits, for an address like `source`.
    pub fn from_byte(ignored: u8, source: Source) -> Option<Span> {
        let v6 = source.ip().is_ipv6();
        Span::of_prefix(width(source.ip()).checked_sub(ignored)?, v6)
    }

    /// The number of ignored bits.
    pub fn ignored(self) -> u8 {
        self.0
    }

    /// The length of the prefix that it leaves of an address like `source`.
    pub fn prefix_length(self, source: Source) -> u8 {
        width(source.ip()).saturating_sub(self.0)
    }

    /// `source` with the bits that this span ignores set to zero.
    pub fn of(self, source: Source) -> Source {
        let ignored = u32::from(self.0);
        let ip = match source.ip() {
            IpAddr::V4(v4) => {
                let kept = u32::MAX.checked_shl(ignored).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & kept).into()
            }
            IpAddr::V6(v6) => {
                let kept = u128::MAX.checked_shl(ignored).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & kept).into()
            }
        };
        Source::new(ip)
    }
}

/// The spans of a service's grants, one for each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    pub v4: Span,
    pub v6: Span,
}

impl Spans {
    /// One address of either family.
    pub const HOSTS: Spans = Spans { v4: Span::HOST, v6: Span::HOST };

    /// The span for an address like `source`.
    pub fn for_family_of(self, source: Source) -> Span {
        if source.ip().is_ipv6() { self.v6 } else { self.v4 }
    }
}

/// All addresses of one family with the same first bits, written `203.0.113.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

    /// The prefix of this length, at most that of an address, around `source`.
    pub fn around(source: Source, length: u8) -> Prefix {
        let length = length.min(width(source.ip()));
        let base = Span(width(source.ip()) - length).of(source).ip();
        Prefix { base, length }
    }

    /// Its first address.
    pub fn base(&self) -> IpAddr {
        self.base
    }

    /// As people write it: one address without its length.
    pub fn short(&self) -> String {
        match self.length == width(self.base) {
            true => self.base.to_string(),
            false => self.to_string(),
        }
    }

    pub fn contains(&self, source: Source) -> bool {
        self.masked(source.ip()) == Some(bits(self.base))
    }

    /// True if it contains all of the `span` of `source`.
    pub fn contains_net(&self, source: Source, span: Span) -> bool {
        self.contains(source) && span.prefix_length(source) >= self.length
    }

    /// True if it shares an address with the `span` of `source`.
    pub fn meets(&self, source: Source, span: Span) -> bool {
        let base = Source::new(self.base);
        let narrower = self.length >= span.prefix_length(base) && span.of(base) == source;
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

    fn span(length: u8, v6: bool) -> Span {
        Span::of_prefix(length, v6).unwrap()
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
            let met = (read.meets(net, Span::HOST), read.meets(net, span(64, true)));
            assert_eq!(met, (host, wide), "{prefix}");
        }
        let net = source("203.0.112.0");
        for (prefix, wide) in
            [("203.0.0.0/16", true), ("203.0.113.7/32", true), ("203.0.114.0/24", false)]
        {
            assert_eq!(
                Prefix::parse(prefix).unwrap().meets(net, span(23, false)),
                wide,
                "{prefix}"
            );
        }
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
    fn a_span_ignores_the_low_bits_that_its_prefix_leaves() {
        for (length, from, base) in [
            (24, "192.0.2.7", "192.0.2.0"),
            (31, "192.0.2.7", "192.0.2.6"),
            (16, "192.0.2.7", "192.0.0.0"),
            (32, "192.0.2.7", "192.0.2.7"),
            (64, "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            (48, "2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
            (127, "2001:db8:1:2:3:4:5:7", "2001:db8:1:2:3:4:5:6"),
            (128, "2001:db8::7", "2001:db8::7"),
        ] {
            let from = source(from);
            let span = span(length, from.ip().is_ipv6());
            assert_eq!((span.of(from), span.prefix_length(from)), (source(base), length));
            assert_eq!(Span::from_byte(span.ignored(), from), Some(span), "its byte comes back");
        }
    }

    #[test]
    fn a_span_that_no_service_may_grant_is_none() {
        for (length, v6) in
            [(15, false), (33, false), (0, false), (47, true), (129, true), (32, true)]
        {
            assert_eq!(Span::of_prefix(length, v6), None, "{length} {v6}");
        }
        let (v4, v6) = (source("192.0.2.7"), source("2001:db8::7"));
        assert_eq!((Span::from_byte(17, v4), Span::from_byte(81, v6)), (None, None));
        assert_eq!((Span::from_byte(255, v4), Span::from_byte(255, v6)), (None, None));
        assert!(Span::HOST < span(31, false) && span(24, false) < span(64, true), "by width");
    }
}
