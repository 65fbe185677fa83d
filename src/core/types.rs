//! The words that every floor shares: moments, sources, ports, names and ids, and the two kinds of
//! error. What a value entitles anybody to is left to the proof types in `authentic`, `replay` and
//! `policy`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

pub use names::{ClientId, Fingerprint, GatewayId, RealmId, ServiceName};

mod names;

/// A moment on the wall clock: nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Wall(pub u64);

/// A moment on CLOCK_BOOTTIME: nanoseconds since boot, suspend included, never stepped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Boot(pub u64);

/// Both clocks, read together at the edge and passed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// For timestamps, days and what people read.
    pub wall: Wall,
    /// For durations, deadlines and buckets.
    pub boot: Boot,
}

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

impl Wall {
    /// The UTC day number, counted from the epoch.
    pub fn day(self) -> u64 {
        self.0 / (86_400 * SECOND)
    }

    /// This moment plus `seconds`.
    pub fn plus(self, seconds: u32) -> Wall {
        Wall(self.0.saturating_add(u64::from(seconds) * SECOND))
    }

    /// Signed distance `self - other` in nanoseconds, clamped to i64.
    pub fn since(self, other: Wall) -> i64 {
        i64::try_from(i128::from(self.0) - i128::from(other.0)).unwrap_or(if self.0 > other.0 {
            i64::MAX
        } else {
            i64::MIN
        })
    }
}

impl Boot {
    /// This moment plus `nanoseconds`.
    pub fn plus_nanos(self, nanoseconds: u64) -> Boot {
        Boot(self.0.saturating_add(nanoseconds))
    }

    /// This moment plus `seconds`.
    pub fn plus(self, seconds: u32) -> Boot {
        self.plus_nanos(u64::from(seconds) * SECOND)
    }
}

/// A peer's address in canonical form: an IPv4-mapped IPv6 address is the IPv4 address, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// Canonicalises `ip`.
    pub fn new(ip: IpAddr) -> Self {
        Self(ip.to_canonical())
    }

    /// The address; never an IPv4-mapped one.
    pub fn ip(self) -> IpAddr {
        self.0
    }

    /// 16 bytes: the IPv6 address, or the IPv4 address mapped.
    pub fn to_bytes(self) -> [u8; 16] {
        match self.0 {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        }
    }

    /// From 16 bytes, IPv6 or mapped IPv4.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self::new(IpAddr::V6(Ipv6Addr::from(bytes)))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A transport protocol that a service or a door can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proto {
    /// TCP, protocol number 6.
    Tcp,
    /// UDP, protocol number 17.
    Udp,
}

impl Proto {
    /// The IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Proto::Tcp => 6,
            Proto::Udp => 17,
        }
    }

    /// From the IANA protocol number.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Proto::Tcp),
            17 => Some(Proto::Udp),
            _ => None,
        }
    }

    /// `tcp` or `udp`.
    pub fn name(self) -> &'static str {
        match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        }
    }
}

/// A port of a protocol, written `22/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Its protocol.
    pub proto: Proto,
    /// Its number, 1 to 65535 for a service; doors may name 0 as knockd does.
    pub number: u16,
}

impl Port {
    /// Reads a port as people write it: `22/tcp`, `53/udp`; 0 is no port.
    pub fn read(text: &str) -> Option<Port> {
        let (number, proto) = text.split_once('/')?;
        let proto = match proto {
            "tcp" => Proto::Tcp,
            "udp" => Proto::Udp,
            _ => return None,
        };
        let plain = number.len() <= 5 && number.bytes().all(|b| b.is_ascii_digit());
        let number = number.parse::<u16>().ok().filter(|n| plain && *n != 0)?;
        Some(Port { proto, number })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.proto.name())
    }
}

/// How many ports one service may have: as many as a receipt can name.
pub const SERVICE_PORTS: usize = 4;

/// Why a packet came to nothing. Counted, never answered and never logged per packet; carries no
/// text from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reject {
    /// Not an IP packet of a kind we read, or its lengths disagree.
    Malformed,
    /// Fragments, IP options or extension headers: the stack would reassemble or refuse, we only
    /// refuse.
    Headers,
    /// Not sent to one of our unicast addresses, or from an address that no peer can have.
    NotForUs,
    /// The UDP checksum is wrong.
    Checksum,
    /// Not the length of a sealed knock.
    Length,
    /// No enrolled client has this tag today: where a flood ends.
    UnknownTag,
    /// The tag is a client's, the MAC is not.
    ClientMac,
    /// The same packet was seen a moment ago.
    SeenBefore,
    /// The client, or the gateway as a whole, is over its rate.
    Quota,
    /// The Noise message does not open.
    Noise,
    /// It opened, but its body breaks the layout.
    Syntax,
    /// The body names another key than the client's.
    Fingerprint,
    /// The Ed25519 signature does not verify.
    Signature,
    /// The body asks for another address than the packet came from, or one that cannot be granted.
    Address,
    /// The timestamp was used before, or lies at or below the floor.
    Replayed,
    /// The timestamp lies outside the window and no live challenge makes up for it.
    Clock,
    /// No such service, not this client's, too many grants, expired key.
    Policy,
    /// The mark could not be made durable.
    State,
    /// The firewall refused the change.
    Firewall,
    /// A start command failed, or took too long.
    Command,
    /// The listener sent what no listener of ours sends.
    Pipe,
}

impl Reject {
    /// Every reason, in order: index `i` is the reason whose `as usize` is `i`.
    pub const ALL: [Reject; 21] = [
        Reject::Malformed,
        Reject::Headers,
        Reject::NotForUs,
        Reject::Checksum,
        Reject::Length,
        Reject::UnknownTag,
        Reject::ClientMac,
        Reject::SeenBefore,
        Reject::Quota,
        Reject::Noise,
        Reject::Syntax,
        Reject::Fingerprint,
        Reject::Signature,
        Reject::Address,
        Reject::Replayed,
        Reject::Clock,
        Reject::Policy,
        Reject::State,
        Reject::Firewall,
        Reject::Command,
        Reject::Pipe,
    ];

    /// The counter's name in `toctocd status`.
    pub fn name(self) -> &'static str {
        match self {
            Reject::Malformed => "malformed",
            Reject::Headers => "headers",
            Reject::NotForUs => "not-for-us",
            Reject::Checksum => "checksum",
            Reject::Length => "length",
            Reject::UnknownTag => "unknown-tag",
            Reject::ClientMac => "client-mac",
            Reject::SeenBefore => "seen-before",
            Reject::Quota => "quota",
            Reject::Noise => "noise",
            Reject::Syntax => "syntax",
            Reject::Fingerprint => "fingerprint",
            Reject::Signature => "signature",
            Reject::Address => "address",
            Reject::Replayed => "replayed",
            Reject::Clock => "clock",
            Reject::Policy => "policy",
            Reject::State => "state",
            Reject::Firewall => "firewall",
            Reject::Command => "command",
            Reject::Pipe => "pipe",
        }
    }
}

/// Packets counted by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub [u64; Reject::ALL.len()]);

impl Counters {
    /// Counts one.
    pub fn count(&mut self, reject: Reject) {
        if let Some(counter) = self.0.get_mut(reject as usize) {
            *counter = counter.saturating_add(1);
        }
    }

    /// How many fell to `reject`.
    pub fn of(&self, reject: Reject) -> u64 {
        self.0.get(reject as usize).copied().unwrap_or(0)
    }
}

/// Something that a person must hear of: what happened and where, and what to do next. Never holds
/// a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong and where, lower case, one sentence without a full stop:
    /// `/etc/toctoc/toctocd.toml:12:3: ...`.
    pub what: String,
    /// The remedy, one sentence; empty only where nothing can be done.
    pub remedy: String,
}

impl Fault {
    /// A fault with its remedy.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.remedy.is_empty() {
            write!(f, "\n  {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_source_is_the_ipv4_source() {
        let mapped = Source::new("::ffff:192.0.2.7".parse().unwrap());
        assert_eq!(mapped, Source::new("192.0.2.7".parse().unwrap()));
        assert_eq!(Source::from_bytes(mapped.to_bytes()), mapped);
    }

    #[test]
    fn every_reject_counts_under_its_own_index() {
        for (index, reject) in Reject::ALL.iter().enumerate() {
            assert_eq!(*reject as usize, index);
        }
    }
}
