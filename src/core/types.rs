//! The types that every layer shares: moments, sources, ports, names, ids, the two kinds of error.
//! See `authentic`, `replay` and `policy` for the proofs.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::core::bytes::saturated_u32;

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

pub const SECOND: u64 = 1_000_000_000;
pub const MILLISECOND: u64 = 1_000_000;

impl Wall {
    /// The UTC day number, counted from the epoch.
    pub fn day(self) -> u32 {
        // The last day is 213,503.
        saturated_u32(self.0 / (86_400 * SECOND))
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

/// Ports of one protocol, the first and the last included, written `22/tcp` or `60000-61000/udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    pub proto: Proto,
    pub first: u16,
    /// At least `first`.
    pub last: u16,
}

impl PortRange {
    /// Reads `22/tcp` or `60000-61000/udp`; a range rises.
    pub fn read(text: &str) -> Option<PortRange> {
        let Some((first, rest)) = text.split_once('-') else {
            return Port::read(text).map(PortRange::from);
        };
        let last = Port::read(rest)?;
        let first = Port::read(&format!("{first}/{}", last.proto.name()))?;
        let (proto, first, last) = (last.proto, first.number, last.number);
        if first < last { Some(PortRange { proto, first, last }) } else { None }
    }

    pub fn covers(self, port: Port) -> bool {
        self.proto == port.proto && (self.first..=self.last).contains(&port.number)
    }

    /// Without the protocol: `22`, `60000-61000`.
    pub fn numbers(self) -> String {
        match self.first == self.last {
            true => self.first.to_string(),
            false => format!("{}-{}", self.first, self.last),
        }
    }

    /// The FNV-1a hash of it. That is enough: ports are the admin's.
    pub(super) fn digest(self) -> u64 {
        let numbers = (u32::from(self.first) << 16) | u32::from(self.last);
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in numbers.to_be_bytes().into_iter().chain([self.proto.number()]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        hash
    }

    /// True if the two have a port in common.
    pub fn meets(self, other: PortRange) -> bool {
        self.proto == other.proto && self.first <= other.last && other.first <= self.last
    }
}

impl From<Port> for PortRange {
    fn from(Port { proto, number }: Port) -> PortRange {
        PortRange { proto, first: number, last: number }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.numbers(), self.proto.name())
    }
}

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
    /// The gate MAC is wrong: whoever made it has the listener's keys of that client, and not the
    /// client's own.
    Gate = "gate",
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
    /// The listener handed over more than an honest one can.
    Pipe = "pipe",
    /// It was queued and lost: the pipe was full, or the listener ended.
    Dropped = "dropped",
    /// In a flood of them: the first step at a door, which the kernel holds. It counts with the
    /// steps after it.
    FirstStep = "first-step",
}

/// Packets counted by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub [u64; Reject::ALL.len()]);

impl Counters {
    pub fn count(&mut self, reject: Reject) {
        self.add(reject, 1);
    }

    pub fn add(&mut self, reject: Reject, number: u64) {
        if let Some(counter) = self.0.get_mut(reject as usize) {
            *counter = counter.saturating_add(number);
        }
    }

    pub fn of(&self, reject: Reject) -> u64 {
        self.0.get(reject as usize).copied().unwrap_or(0)
    }

    /// All of them.
    pub fn sum(&self) -> u64 {
        self.0.iter().fold(0, |sum, number| sum.saturating_add(*number))
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
    /// The line that is wrong, marked, as whole lines for a terminal. Never of a file of secrets.
    pub excerpt: String,
    /// Other mistakes of the same file, as whole lines for a terminal.
    pub more: String,
}

/// What a program does about a fault depends on its kind: the exit code (see `app::output`), and
/// the language of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    Other,
    /// A mistake in a configuration or in keys: nothing was changed.
    Input,
    /// No gateway is running, or it does not answer.
    NotRunning,
    Held,
    /// The name is taken, or nothing has it.
    Name,
    /// Nothing could be sent to a gateway.
    Unreachable,
    /// The private key did not sign.
    Unsigned,
    /// The enrolled private key is not where it was looked for.
    NoKey,
    /// No passphrase, or a wrong one.
    Passphrase,
    /// Others may read or replace a file that must be the user's alone.
    Exposed,
    /// The enrolment is over.
    Expired,
    /// No line of an invitation, or a damaged one.
    Invitation,
    /// A gateway with the id of another one.
    Impostor,
}

impl Fault {
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: in_words(what.into()),
            remedy: remedy.into(),
            kind: FaultKind::Other,
            excerpt: String::new(),
            more: String::new(),
        }
    }

    pub fn of(self, kind: FaultKind) -> Self {
        Self { kind, ..self }
    }

    /// All of it as whole lines for a terminal.
    pub fn lines(&self) -> String {
        let Self { what, remedy, excerpt, more, .. } = self;
        let remedy = if remedy.is_empty() { String::new() } else { format!("  {remedy}\n") };
        format!("{what}\n{excerpt}{remedy}{more}")
    }
}

/// Leaves out the number that std appends to the words of a system's error.
fn in_words(what: String) -> String {
    let Some((before, rest)) = what.split_once(" (os error ") else { return what };
    match rest.split_once(')') {
        Some((number, after)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{before}{after}")
        }
        _ => what,
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
    fn a_range_of_ports_is_read_as_it_is_written_and_rises() {
        let mosh = PortRange { proto: Proto::Udp, first: 60_000, last: 61_000 };
        assert_eq!(PortRange::read("60000-61000/udp"), Some(mosh));
        assert_eq!(mosh.to_string(), "60000-61000/udp");
        assert_eq!(PortRange::read("1-65535/tcp").unwrap().to_string(), "1-65535/tcp");
        assert_eq!(PortRange::read("22/tcp").unwrap().to_string(), "22/tcp");
        for bad in [
            "",
            "-",
            "22",
            "22-/tcp",
            "-22/tcp",
            "22-22/tcp",
            "23-22/tcp",
            "0-9/tcp",
            "9-0/tcp",
            "1-65536/tcp",
            "1-2-3/tcp",
            "1/tcp-2/tcp",
            "1 - 2/tcp",
            "1-+2/tcp",
            "1-2/sctp",
        ] {
            assert_eq!(PortRange::read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_range_covers_its_ends_and_meets_what_shares_a_port() {
        let range = |text| PortRange::read(text).unwrap();
        let port = |text| Port::read(text).unwrap();
        let mosh = range("60000-61000/udp");
        for inside in ["60000/udp", "60500/udp", "61000/udp"] {
            assert!(mosh.covers(port(inside)) && mosh.meets(range(inside)), "{inside}");
        }
        for outside in ["59999/udp", "61001/udp", "60500/tcp"] {
            assert!(!mosh.covers(port(outside)) && !mosh.meets(range(outside)), "{outside}");
        }
        assert!(mosh.meets(range("1-65535/udp")) && range("1-60000/udp").meets(mosh));
        assert!(!mosh.meets(range("61001-62000/udp")) && !range("1-59999/udp").meets(mosh));
    }

    #[test]
    fn every_reject_counts_under_its_own_index() {
        for (index, reject) in Reject::ALL.iter().enumerate() {
            assert_eq!(*reject as usize, index);
        }
    }

    #[test]
    fn a_fault_has_the_words_of_a_systems_error_and_not_its_number() {
        let error = std::io::Error::from_raw_os_error(13);
        let fault = Fault::new(format!("/x: {error}; it stays"), "");
        assert_eq!(fault.what, "/x: Permission denied; it stays");
        assert_eq!(Fault::new("a (os error b) c", "").what, "a (os error b) c");
    }
}
