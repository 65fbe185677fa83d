//! The types that every layer shares: moments, sources, ports, names, ids, the two kinds of error.
//! See `authentic`, `replay` and `policy` for the proofs.

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

/// Both clocks, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// For timestamps, days and times shown to people.
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

    pub fn plus(self, seconds: u32) -> Wall {
        Wall(self.0.saturating_add(u64::from(seconds) * SECOND))
    }

    /// `self - other` in nanoseconds, clamped to i64.
    pub fn since(self, other: Wall) -> i64 {
        let distance = self.0.abs_diff(other.0);
        if self >= other {
            0_i64.saturating_add_unsigned(distance)
        } else {
            0_i64.saturating_sub_unsigned(distance)
        }
    }
}

impl Boot {
    pub fn plus_nanos(self, nanoseconds: u64) -> Boot {
        Boot(self.0.saturating_add(nanoseconds))
    }

    pub fn plus(self, seconds: u32) -> Boot {
        self.plus_nanos(u64::from(seconds) * SECOND)
    }
}

/// A peer's address in canonical form: an IPv4-mapped IPv6 address becomes the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpAddr);

impl Source {
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

    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self::new(IpAddr::V6(Ipv6Addr::from(bytes)))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proto {
    Tcp,
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

    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Proto::Tcp),
            17 => Some(Proto::Udp),
            _ => None,
        }
    }

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
    pub proto: Proto,
    /// The number, from 1 for a service; doors may use 0, as in knockd.
    pub number: u16,
}

impl Port {
    /// Reads `22/tcp` or `53/udp`; 0 is not a port.
    pub fn read(text: &str) -> Option<Port> {
        let (number, proto) = text.split_once('/')?;
        let proto = match proto {
            "tcp" => Proto::Tcp,
            "udp" => Proto::Udp,
            _ => return None,
        };
        if number.len() > 5 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        match number.parse() {
            Ok(0) | Err(_) => None,
            Ok(number) => Some(Port { proto, number }),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.proto.name())
    }
}

/// The most ports of one service: as many as a receipt has room for.
pub const SERVICE_PORTS: usize = 4;

/// Declares [`Reject`] with each reason's counter name.
macro_rules! rejects {
    ($($(#[$doc:meta])* $reject:ident = $name:literal,)+) => {
        /// The reason why a packet was rejected. Counted, never answered and never logged per
        /// packet. Contains no text from a peer.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reject {
            $($(#[$doc])* $reject,)+
        }

        impl Reject {
            /// Every reason; index `i` is the reason whose `as usize` is `i`.
            pub const ALL: [Reject; [$($name),+].len()] = [$(Reject::$reject),+];

            /// The counter's name in `toctocd status`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Reject::$reject => $name,)+
                }
            }
        }
    };
}

rejects! {
    /// Not an IP packet of a kind that we read, or its lengths disagree.
    Malformed = "malformed",
    /// Fragments, IP options or extension headers: a stack would handle them, we refuse them.
    Headers = "headers",
    /// Not sent to one of our unicast addresses, or from an address that no peer can have.
    NotForUs = "not-for-us",
    Checksum = "checksum",
    /// Not the length of a sealed knock.
    Length = "length",
    /// No enrolled client has this tag today. Floods end here.
    UnknownTag = "unknown-tag",
    /// The tag is a client's, but the MAC is not.
    ClientMac = "client-mac",
    SeenBefore = "seen-before",
    /// The client, or the gateway as a whole, exceeds its rate.
    Quota = "quota",
    Noise = "noise",
    /// The decrypted body breaks the layout.
    Syntax = "syntax",
    /// The body has another fingerprint than the client's key.
    Fingerprint = "fingerprint",
    Signature = "signature",
    /// The requested address is not the packet's source, or cannot be granted.
    Address = "address",
    /// The timestamp was used before, or is not above the floor.
    Replayed = "replayed",
    /// The timestamp is outside the window, and there is no live challenge.
    Clock = "clock",
    /// No such service, not this client's, too many grants, or the key expired.
    Policy = "policy",
    State = "state",
    Firewall = "firewall",
    Command = "command",
    /// The listener sent something that our listener never sends.
    Pipe = "pipe",
}

/// Packets counted by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub [u64; Reject::ALL.len()]);

impl Counters {
    pub fn count(&mut self, reject: Reject) {
        if let Some(counter) = self.0.get_mut(reject as usize) {
            *counter = counter.saturating_add(1);
        }
    }

    pub fn of(&self, reject: Reject) -> u64 {
        self.0.get(reject as usize).copied().unwrap_or(0)
    }
}

/// An error for people: what happened and where, and what to do next. Never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The problem and its place, one sentence in lower case without a full stop:
    /// `/etc/toctoc/toctocd.toml:12:3: ...`.
    pub what: String,
    /// One sentence; empty only if nothing can be done.
    pub remedy: String,
    /// What a script can tell by the exit code.
    pub kind: FaultKind,
}

/// Faults with an exit code of their own; see `app::output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    Other,
    /// No gateway is running, or it does not answer.
    NotRunning,
    /// Another process has it.
    Held,
    /// The name is taken, or nothing has it.
    Name,
}

impl Fault {
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into(), kind: FaultKind::Other }
    }

    pub fn of(self, kind: FaultKind) -> Self {
        Self { kind, ..self }
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
    fn a_distance_in_time_has_a_sign_and_is_clamped() {
        for (to, from, expected) in
            [(7, 5, 2), (5, 7, -2), (u64::MAX, 0, i64::MAX), (0, u64::MAX, i64::MIN)]
        {
            assert_eq!(Wall(to).since(Wall(from)), expected);
        }
    }

    #[test]
    fn every_reject_counts_under_its_own_index() {
        for (index, reject) in Reject::ALL.iter().enumerate() {
            assert_eq!(*reject as usize, index);
        }
    }
}
