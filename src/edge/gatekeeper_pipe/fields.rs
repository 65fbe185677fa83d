//! The fields of messages: written into a wiped buffer, read from untrusted bytes.

use std::net::{IpAddr, Ipv6Addr};

use zeroize::Zeroizing;

use super::{EncodedMessage, SHORT};
use crate::core::bytes::Reader;
use crate::core::door::{STEPS, Step};
use crate::core::engine::KnownClient;
use crate::core::keyring::{Day, SLOTS, Secret, WireRow};
use crate::core::types::{ClientId, Port, Proto, Source};

/// Writes fields into a buffer that is wiped when dropped and never grows.
pub(super) struct Fields(Zeroizing<Vec<u8>>);

impl Fields {
    pub(super) fn of(kind: u8) -> Self {
        Self::with_room(kind, SHORT)
    }

    /// For a message of at most `longest` bytes.
    pub(super) fn with_room(kind: u8, longest: usize) -> Self {
        let mut bytes = Zeroizing::new(Vec::with_capacity(longest));
        bytes.push(kind);
        Self(bytes)
    }

    pub(super) fn put(mut self, bytes: &[u8]) -> Self {
        debug_assert!(self.0.len() + bytes.len() <= self.0.capacity());
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn u8(self, value: u8) -> Self {
        self.put(&[value])
    }

    pub(super) fn bool(self, value: bool) -> Self {
        self.u8(value.into())
    }

    pub(super) fn u16(self, value: u16) -> Self {
        self.put(&value.to_be_bytes())
    }

    pub(super) fn u32(self, value: u32) -> Self {
        self.put(&value.to_be_bytes())
    }

    pub(super) fn u64(self, value: u64) -> Self {
        self.put(&value.to_be_bytes())
    }

    /// Family and 16 bytes: an IPv4-mapped address stays IPv6.
    pub(super) fn ip(self, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => self.u8(4).put(&v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => self.u8(6).put(&v6.octets()),
        }
    }

    pub(super) fn day(self, day: Day) -> Self {
        match day {
            Day::Unknown => self.u8(UNKNOWN).u32(0),
            Day::Number(number) => self.u8(NUMBER).u32(number),
            Day::Invited => self.u8(INVITED).u32(0),
        }
    }

    pub(super) fn source(self, source: Source) -> Self {
        self.put(&source.to_bytes())
    }

    pub(super) fn optional<const N: usize>(self, value: Option<&[u8; N]>) -> Self {
        self.bool(value.is_some()).put(value.unwrap_or(&[0; N]))
    }

    pub(super) fn step(self, step: Step) -> Self {
        match step {
            Step::Port(port) => self.u8(port.proto.number()).u16(port.number),
            Step::Echo { size } => self.u8(ECHO).u16(size),
        }
    }

    /// The count, then the steps, padded with zeros to [`STEPS`].
    pub(super) fn steps(self, steps: &[Step]) -> Self {
        let count = steps.len().min(STEPS);
        let mut fields = self.u8(count as u8);
        for step in &steps[..count] {
            fields = fields.step(*step);
        }
        fields.put(&[0; 3 * STEPS][3 * count..])
    }

    /// All that the listener knows of a client.
    pub(super) fn client(self, known: &KnownClient) -> Self {
        let day = known.keys.day();
        self.put(&known.client.0)
            .bool(day.is_some())
            .u32(day.unwrap_or(0))
            .put(known.keys.secrets())
    }

    pub(super) fn finish(self) -> EncodedMessage {
        self.0
    }
}

/// The number of an ICMP echo step among the protocols, as in IPv4.
const ECHO: u8 = 1;

/// The first byte of a [`Day`].
const UNKNOWN: u8 = 0;
const NUMBER: u8 = 1;
const INVITED: u8 = 2;

pub(super) fn flag(reader: &mut Reader<'_>) -> Option<bool> {
    match reader.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

pub(super) fn ip(reader: &mut Reader<'_>) -> Option<IpAddr> {
    let family = reader.u8()?;
    let address = Ipv6Addr::from(reader.array::<16>()?);
    match family {
        4 => address.to_ipv4_mapped().map(IpAddr::V4),
        6 => Some(IpAddr::V6(address)),
        _ => None,
    }
}

pub(super) fn source(reader: &mut Reader<'_>) -> Option<Source> {
    reader.array().map(Source::from_bytes)
}

pub(super) fn client(reader: &mut Reader<'_>) -> Option<KnownClient> {
    let client = ClientId(reader.array()?);
    let is_client = flag(reader)?;
    let day = reader.u32()?;
    let day = match (is_client, day) {
        (true, day) => Some(day),
        (false, 0) => None,
        (false, _) => return None,
    };
    let secrets = reader.take(32 * SLOTS)?.try_into().ok()?;
    Some(KnownClient { client, keys: WireRow::new(day, secrets) })
}

pub(super) fn day(reader: &mut Reader<'_>) -> Option<Day> {
    match (reader.u8()?, reader.u32()?) {
        (UNKNOWN, 0) => Some(Day::Unknown),
        (NUMBER, day) => Some(Day::Number(day)),
        (INVITED, 0) => Some(Day::Invited),
        _ => None,
    }
}

pub(super) fn secret<const N: usize>(reader: &mut Reader<'_>) -> Option<Secret<N>> {
    let bytes = reader.take(N)?;
    Secret::filled(|place| bytes.try_into().map(|bytes| *place = bytes)).ok()
}

/// The outer `None`: no valid field. The inner one: the field is absent.
pub(super) fn optional<'a>(reader: &mut Reader<'a>, length: usize) -> Option<Option<&'a [u8]>> {
    if flag(reader)? {
        return Some(Some(reader.take(length)?));
    }
    reader.zeros(length)?;
    Some(None)
}

pub(super) fn step(reader: &mut Reader<'_>) -> Option<Step> {
    let kind = reader.u8()?;
    let number = reader.u16()?;
    if kind == ECHO {
        return Some(Step::Echo { size: number });
    }
    Proto::from_number(kind).map(|proto| Step::Port(Port { proto, number }))
}

pub(super) fn steps(reader: &mut Reader<'_>) -> Option<Vec<Step>> {
    let count = usize::from(reader.u8()?);
    let padding = STEPS.checked_sub(count)?;
    let steps = (0..count).map(|_| step(reader)).collect::<Option<_>>()?;
    reader.zeros(3 * padding)?;
    Some(steps)
}
