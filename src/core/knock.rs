//! The contents of a sealed knock and of its receipt: two fixed layouts (docs/protocol.md).
//! See `wire` for sealing and opening them, `authentic` for the signature.

use super::bytes::{Reader, Writer};
use super::prefix::Span;
use super::service::ServicePorts;
use super::types::{ClientId, Fingerprint, PortRange, Proto, ServiceName, Source, Wall};

/// Bytes of a knock's body before it is sealed.
pub const BODY: usize = 192;
/// Bytes that the signature covers: the first of a body. Signature, sk fields and padding follow.
pub const SIGNED: usize = 120;
/// Bytes of a receipt before it is sealed.
pub const RECEIPT_BODY: usize = 120;
/// The version: the first byte of both.
pub const VERSION: u8 = 1;

/// A knock as the listener hands it to the gatekeeper: opened, its signature unproven. An attacker
/// who took over the listener can write anything here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedKnock {
    /// For the verdict.
    pub ticket: u64,
    /// Whose it seems to be.
    pub client: ClientId,
    /// The handshake hash that the signature should cover.
    pub h: [u8; 32],
    /// The body, signature included.
    pub body: [u8; BODY],
    /// The packet's source.
    pub source: Source,
    /// Its source port.
    pub source_port: u16,
}

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum KnockKind {
    Open = 1,
    /// The end of the client's own grants for the service.
    Close = 2,
    /// Only a receipt, for the observed address, time and challenge in it. Grants nothing.
    Probe = 3,
}

impl KnockKind {
    fn from_byte(byte: u8) -> Option<Self> {
        use KnockKind::*;
        [Open, Close, Probe].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// 16 random bytes from the gateway, never all zero. They prove that a knock with them is fresh.
pub type Challenge = [u8; 16];

/// The signed part of a knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub kind: KnockKind,
    pub receipt_wanted: bool,
    /// The time by the client's clock. See [`timestamp`].
    pub timestamp: Wall,
    pub challenge: Option<Challenge>,
    /// The address to grant; `None` only in a probe, or if the service uses the observed one.
    pub address: Option<Source>,
    /// The source port that the grant is limited to; 0 = any.
    pub source_port: u16,
    /// The duration; 0 = the service's default.
    pub seconds: u32,
    /// The service; [`ServiceName::NONE`] only in a probe.
    pub service: ServiceName,
    pub fingerprint: Fingerprint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The Ed25519 signature of the SSHSIG blob.
    pub ed25519: [u8; 64],
    /// FIDO flags, 0 for a plain key.
    pub sk_flags: u8,
    /// FIDO counter, 0 for a plain key.
    pub sk_counter: u32,
}

/// The timestamp of a knock made at `now`. Its lowest 20 bits, about a millisecond, come from
/// `entropy`: two knocks at one moment differ, and do not reveal the client's exact clock.
pub fn timestamp(now: Wall, entropy: u32) -> Wall {
    const RANDOM: u64 = (1 << 20) - 1;
    Wall((now.0 & !RANDOM) | (u64::from(entropy) & RANDOM))
}

impl Request {
    pub fn encode(&self) -> [u8; SIGNED] {
        Writer::<SIGNED>::new()
            .u8(VERSION)
            .u8(self.kind as u8)
            .u8(u8::from(self.receipt_wanted))
            .zeros(1)
            .u16(self.source_port)
            .zeros(2)
            .u64(self.timestamp.0)
            .put(&self.challenge.unwrap_or_default())
            .put(&self.address.map(Source::to_bytes).unwrap_or_default())
            .u32(self.seconds)
            .zeros(4)
            .put(&self.service.to_bytes())
            .put(&self.fingerprint.0)
            .done()
    }

    /// Reads the [`SIGNED`] bytes. `None` for a reserved bit, an unknown version or kind, or a
    /// service name that is invalid or does not fit the kind.
    pub fn decode(bytes: &[u8; SIGNED]) -> Option<Request> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return None;
        }
        let request = Request {
            kind: KnockKind::from_byte(reader.u8()?)?,
            receipt_wanted: reader.flag()?,
            source_port: reader.zeros(1)?.u16()?,
            timestamp: Wall(reader.zeros(2)?.u64()?),
            challenge: nonzero(reader.array()?),
            address: nonzero(reader.array()?).map(Source::from_bytes),
            seconds: reader.u32()?,
            service: ServiceName::from_bytes(reader.zeros(4)?.array()?)?,
            fingerprint: Fingerprint(reader.array()?),
        };
        reader.finish()?;
        let fits = (request.service == ServiceName::NONE) == (request.kind == KnockKind::Probe);
        if fits { Some(request) } else { None }
    }
}

/// The whole body: request, signature fields, zero padding.
pub fn encode_body(request: &Request, signature: &Signature) -> [u8; BODY] {
    Writer::<BODY>::new()
        .put(&request.encode())
        .put(&signature.ed25519)
        .u8(signature.sk_flags)
        .u32(signature.sk_counter)
        .zeros(3)
        .done()
}

/// Reads a whole body. `None` as for [`Request::decode`], or if the padding is not zero.
pub fn decode_body(bytes: &[u8; BODY]) -> Option<(Request, Signature)> {
    let mut reader = Reader::new(bytes);
    let request = Request::decode(&reader.array()?)?;
    let signature =
        Signature { ed25519: reader.array()?, sk_flags: reader.u8()?, sk_counter: reader.u32()? };
    reader.zeros(3)?.finish()?;
    Some((request, signature))
}

/// The result of a knock, for a client whose signature was good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// The grant is in the firewall, or its start command has ended well.
    Granted = 1,
    /// The caller's grants for the service have ended.
    Closed = 2,
    /// The reply to a probe; nothing was granted.
    Observed = 3,
    /// The requested address is not the packet's source. The knock was not used up; `observed` is
    /// the source that the gateway saw.
    Address = 4,
    /// The timestamp is outside the time window. `time` and `challenge` allow one retry.
    Clock = 5,
    /// Policy refuses: no such service for this key, or not over this address family or with a
    /// source port.
    Denied = 6,
    /// This client, or the service, has as many live grants as allowed.
    Full = 7,
    /// The gateway demands a challenge: for this service, or because it does not trust its clock.
    Challenge = 8,
    /// The gateway could not store the used-knock mark or change its firewall, or the start command
    /// failed. Nothing is open.
    Trouble = 9,
}

impl Status {
    pub fn from_byte(byte: u8) -> Option<Status> {
        use Status::*;
        [Granted, Closed, Observed, Address, Clock, Denied, Full, Challenge, Trouble]
            .into_iter()
            .find(|status| *status as u8 == byte)
    }
}

/// One entry of a receipt's list of opened ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortEntry {
    Range(PortRange),
    /// Every port, but for those of other services and the admin's exceptions; the only entry.
    All,
    /// There are more, for which a receipt has no room; the last entry.
    More,
}

/// The opened ports in a receipt, then `None`. A range of several ports takes the room of two
/// entries, so there are fewer then.
pub type Ports = [Option<PortEntry>; PORT_ENTRIES];
const PORT_ENTRIES: usize = 4;

/// The second byte of an entry in a receipt: what its number is.
const ONE: u8 = 0;
const FIRST: u8 = 1;
const LAST: u8 = 2;
const ALL: u8 = 3;
const MORE: u8 = 4;

/// As much of `ports` as a receipt has room for.
pub fn port_entries(ports: &ServicePorts) -> Ports {
    let mut entries = [None; PORT_ENTRIES];
    let ServicePorts::Listed(ranges) = ports else {
        entries[0] = Some(PortEntry::All);
        return entries;
    };
    let needed: usize = ranges.iter().map(|range| room_of(*range)).sum();
    // The last entry says that there are more.
    let mut room = PORT_ENTRIES - usize::from(needed > PORT_ENTRIES);
    let mut slots = entries.iter_mut();
    for range in ranges {
        let Some(left) = room.checked_sub(room_of(*range)) else { break };
        room = left;
        if let Some(slot) = slots.next() {
            *slot = Some(PortEntry::Range(*range));
        }
    }
    if needed > PORT_ENTRIES
        && let Some(slot) = slots.next()
    {
        *slot = Some(PortEntry::More);
    }
    entries
}

fn room_of(range: PortRange) -> usize {
    if range.first == range.last { 1 } else { 2 }
}

/// The gateway's reply to a knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub status: Status,
    /// True if each grant is for one connection only.
    pub once: bool,
    /// The duration of the grant, from `time` on; 0 without a grant.
    pub seconds: u32,
    pub time: Wall,
    /// Gateway time minus the knock's timestamp, nanoseconds.
    pub delay: i64,
    /// The packet's source, as the gateway saw it.
    pub observed: Source,
    /// The granted address; `None` without a grant.
    pub granted: Option<Source>,
    /// The low bits of `granted` that do not count: with more than none, a whole net is granted.
    pub span: Span,
    /// The opened ports; none for a command service.
    pub ports: Ports,
    /// A challenge for one retry, single use.
    pub challenge: Option<Challenge>,
    /// The gateway's next public key, while it rotates.
    pub next_key: Option<[u8; 32]>,
}

impl Receipt {
    /// True if it may answer a knock of this kind: the table in docs/protocol.md. A client ignores
    /// every other receipt, so that no answer to something else passes for success.
    pub fn may_answer(&self, kind: KnockKind) -> bool {
        let fits = match self.status {
            Status::Granted | Status::Address | Status::Full => kind == KnockKind::Open,
            Status::Closed => kind == KnockKind::Close,
            Status::Observed => kind == KnockKind::Probe,
            Status::Denied | Status::Trouble => kind != KnockKind::Probe,
            Status::Clock | Status::Challenge => true,
        };
        let has_grant = self.status == Status::Granted;
        fits && (self.seconds > 0) == has_grant && self.granted.is_some() == has_grant
    }

    pub fn encode(&self) -> [u8; RECEIPT_BODY] {
        let mut writer = Writer::<RECEIPT_BODY>::new();
        writer
            .u8(VERSION)
            .u8(self.status as u8)
            .u8(u8::from(self.once))
            .u8(self.granted.map_or(0, |granted| self.span.prefix_length(granted)))
            .u32(self.seconds)
            .u64(self.time.0)
            .u64(self.delay.cast_unsigned())
            .put(&self.observed.to_bytes())
            .put(&self.granted.map(Source::to_bytes).unwrap_or_default());
        encode_ports(&mut writer, &self.ports);
        writer
            .put(&self.challenge.unwrap_or_default())
            .put(&self.next_key.unwrap_or_default())
            .done()
    }

    /// Reads a receipt. `None` for a reserved bit or an unknown version, status or protocol.
    pub fn decode(bytes: &[u8; RECEIPT_BODY]) -> Option<Receipt> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return None;
        }
        let status = Status::from_byte(reader.u8()?)?;
        let once = reader.flag()?;
        let prefix_length = reader.u8()?;
        let seconds = reader.u32()?;
        let time = Wall(reader.u64()?);
        let delay = reader.u64()?.cast_signed();
        let observed = Source::from_bytes(reader.array()?);
        let granted = nonzero(reader.array()?).map(Source::from_bytes);
        let span = match (granted, prefix_length) {
            (Some(granted), length) => Span::of_prefix(length, granted.ip().is_ipv6())?,
            (None, 0) => Span::HOST,
            (None, _) => return None,
        };
        let receipt = Receipt {
            status,
            once,
            seconds,
            time,
            delay,
            observed,
            granted,
            span,
            ports: decode_ports(&mut reader)?,
            challenge: nonzero(reader.array()?),
            next_key: nonzero(reader.array()?),
        };
        reader.finish()?;
        Some(receipt)
    }
}

/// Four bytes per entry: protocol number, what the number is, number; all zero for none.
fn encode_ports(writer: &mut Writer<RECEIPT_BODY>, ports: &Ports) {
    let mut slots = Vec::new();
    for entry in ports.iter().flatten() {
        match *entry {
            PortEntry::Range(PortRange { proto, first, last }) if first == last => {
                slots.push((proto.number(), ONE, first));
            }
            PortEntry::Range(PortRange { proto, first, last }) => {
                slots.push((proto.number(), FIRST, first));
                slots.push((proto.number(), LAST, last));
            }
            PortEntry::All => slots.push((0, ALL, 0)),
            PortEntry::More => slots.push((0, MORE, 0)),
        }
    }
    // `port_entries` never takes more room than there is.
    debug_assert!(slots.len() <= PORT_ENTRIES);
    slots.resize(PORT_ENTRIES, (0, 0, 0));
    for (proto, what, number) in slots {
        writer.u8(proto).u8(what).u16(number);
    }
}

fn decode_ports(reader: &mut Reader<'_>) -> Option<Ports> {
    let mut entries = Vec::new();
    let mut begun = None;
    let mut ended = false;
    for _ in 0..PORT_ENTRIES {
        let (proto, what, number) = (reader.u8()?, reader.u8()?, reader.u16()?);
        if (proto, what, number) == (0, 0, 0) && begun.is_none() {
            ended = true;
            continue;
        }
        if ended {
            return None;
        }
        match (what, begun.take()) {
            (ALL, None) if proto == 0 && number == 0 && entries.is_empty() => {
                entries.push(PortEntry::All);
                ended = true;
            }
            (MORE, None) if proto == 0 && number == 0 && !entries.is_empty() => {
                entries.push(PortEntry::More);
                ended = true;
            }
            (ONE, None) if number > 0 => {
                let proto = Proto::from_number(proto)?;
                entries.push(PortEntry::Range(PortRange { proto, first: number, last: number }));
            }
            (FIRST, None) if number > 0 => begun = Some((Proto::from_number(proto)?, number)),
            (LAST, Some((begun_proto, first)))
                if first < number && Proto::from_number(proto) == Some(begun_proto) =>
            {
                let range = PortRange { proto: begun_proto, first, last: number };
                entries.push(PortEntry::Range(range));
            }
            _ => return None,
        }
    }
    if begun.is_some() {
        return None;
    }
    let mut ports = [None; PORT_ENTRIES];
    for (slot, entry) in ports.iter_mut().zip(entries) {
        *slot = Some(entry);
    }
    Some(ports)
}

fn nonzero<const N: usize>(bytes: [u8; N]) -> Option<[u8; N]> {
    if bytes == [0; N] { None } else { Some(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_the_time_with_a_millisecond_of_entropy_in_its_lowest_bits() {
        let now = Wall(0x1234_5678_9abc_def0);
        assert_eq!(timestamp(now, 0), Wall(0x1234_5678_9ab0_0000));
        assert_eq!(timestamp(now, u32::MAX), Wall(0x1234_5678_9abf_ffff));
        assert_eq!(timestamp(now, 0xfff5_a5a5), Wall(0x1234_5678_9ab5_a5a5));
        assert!(now.since(timestamp(now, 7)).unsigned_abs() < 1 << 20);
    }

    #[test]
    fn each_status_answers_only_its_kinds_and_only_a_grant_has_seconds_and_an_address() {
        use KnockKind::*;
        let mut receipt = Receipt {
            status: Status::Granted,
            once: false,
            seconds: 0,
            time: Wall(0),
            delay: 0,
            observed: Source::new([192, 0, 2, 7].into()),
            granted: None,
            span: Span::HOST,
            ports: Ports::default(),
            challenge: None,
            next_key: None,
        };
        for (byte, kinds) in [
            (1, &[Open][..]),
            (2, &[Close]),
            (3, &[Probe]),
            (4, &[Open]),
            (5, &[Open, Close, Probe]),
            (6, &[Open, Close]),
            (7, &[Open]),
            (8, &[Open, Close, Probe]),
            (9, &[Open, Close]),
        ] {
            receipt.status = Status::from_byte(byte).unwrap();
            for kind in [Open, Close, Probe] {
                for (seconds, granted) in [
                    (0, None),
                    (30, None),
                    (0, Some(receipt.observed)),
                    (30, Some(receipt.observed)),
                ] {
                    (receipt.seconds, receipt.granted) = (seconds, granted);
                    let whole = match receipt.status {
                        Status::Granted => seconds > 0 && granted.is_some(),
                        _ => seconds == 0 && granted.is_none(),
                    };
                    let expected = kinds.contains(&kind) && whole;
                    assert_eq!(receipt.may_answer(kind), expected, "{receipt:?} {kind:?}");
                }
            }
        }
    }

    fn listed(texts: &[&str]) -> ServicePorts {
        ServicePorts::Listed(texts.iter().map(|text| PortRange::read(text).unwrap()).collect())
    }

    /// The text of each entry, and the bytes that they are sent as.
    fn told(ports: &ServicePorts) -> (String, [u8; 16]) {
        let entries = port_entries(ports);
        let text = |entry: &PortEntry| match entry {
            PortEntry::Range(range) => range.to_string(),
            PortEntry::All => "all".to_owned(),
            PortEntry::More => "more".to_owned(),
        };
        let texts: Vec<String> = entries.iter().flatten().map(text).collect();
        let mut writer = Writer::<RECEIPT_BODY>::new();
        encode_ports(&mut writer, &entries);
        let bytes: [u8; RECEIPT_BODY] = writer.zeros(RECEIPT_BODY - 16).done();
        let bytes: [u8; 16] = bytes[..16].try_into().unwrap();
        assert_eq!(decode_ports(&mut Reader::new(&bytes)), Some(entries), "they come back");
        (texts.join(" "), bytes)
    }

    #[test]
    fn a_receipt_names_as_many_ports_as_it_has_room_for_and_says_if_there_are_more() {
        for (ports, text) in [
            (listed(&[]), ""),
            (listed(&["22/tcp"]), "22/tcp"),
            (listed(&["1/tcp", "2/tcp", "3/tcp", "4/udp"]), "1/tcp 2/tcp 3/tcp 4/udp"),
            (listed(&["1/tcp", "2/tcp", "3/tcp", "4/tcp", "5/tcp"]), "1/tcp 2/tcp 3/tcp more"),
            (listed(&["22/tcp", "60000-61000/udp"]), "22/tcp 60000-61000/udp"),
            (listed(&["1-2/tcp", "3-4/tcp"]), "1-2/tcp 3-4/tcp"),
            (listed(&["1-2/tcp", "3-4/tcp", "5/tcp"]), "1-2/tcp more"),
            (listed(&["1-2/tcp", "9/tcp", "3-4/tcp"]), "1-2/tcp 9/tcp more"),
            (ServicePorts::AllBut(vec![PortRange::read("80/tcp").unwrap()]), "all"),
        ] {
            assert_eq!(told(&ports).0, text);
        }
        let bytes = told(&listed(&["22/tcp", "60000-61000/udp"])).1;
        let expected = [6, 0, 0, 22, 17, 1, 0xea, 0x60, 17, 2, 0xee, 0x48, 0, 0, 0, 0];
        assert_eq!(bytes, expected, "as docs/protocol.md says");
    }

    #[test]
    fn port_entries_that_we_never_send_are_refused() {
        for bad in [
            [[6, 1, 0, 22], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
            [[6, 2, 0, 22], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
            [[6, 1, 0, 22], [6, 2, 0, 22], [0, 0, 0, 0], [0, 0, 0, 0]],
            [[6, 1, 0, 22], [17, 2, 0, 23], [0, 0, 0, 0], [0, 0, 0, 0]],
            [[6, 1, 0, 22], [6, 0, 0, 23], [0, 0, 0, 0], [0, 0, 0, 0]],
            [[6, 0, 0, 1], [6, 0, 0, 2], [6, 0, 0, 3], [6, 1, 0, 4]],
            [[6, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
            [[1, 0, 0, 22], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
            [[0, 0, 0, 0], [6, 0, 0, 22], [0, 0, 0, 0], [0, 0, 0, 0]],
            [[0, 3, 0, 0], [6, 0, 0, 22], [0, 0, 0, 0], [0, 0, 0, 0]],
            [[6, 0, 0, 22], [0, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
            [[6, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
            [[0, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
            [[6, 0, 0, 22], [0, 4, 0, 0], [6, 0, 0, 22], [0, 0, 0, 0]],
            [[6, 0, 0, 22], [0, 4, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]],
            [[6, 5, 0, 22], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        ] {
            assert_eq!(decode_ports(&mut Reader::new(bad.as_flattened())), None, "{bad:?}");
        }
    }

    #[test]
    fn a_receipt_has_the_prefix_of_its_grant_and_none_without_one() {
        let mut receipt = Receipt {
            status: Status::Granted,
            once: false,
            seconds: 30,
            time: Wall(1),
            delay: 0,
            observed: Source::new([192, 0, 2, 7].into()),
            granted: Some(Source::new([192, 0, 2, 7].into())),
            span: Span::HOST,
            ports: Ports::default(),
            challenge: None,
            next_key: None,
        };
        for (length, back) in
            [(32, true), (24, true), (16, true), (15, false), (33, false), (0, false)]
        {
            receipt.span = Span::of_prefix(length, false).unwrap_or_default();
            let mut bytes = receipt.encode();
            bytes[3] = length;
            assert_eq!(Receipt::decode(&bytes), back.then_some(receipt), "{length}");
        }
        receipt.granted = None;
        let mut bytes = receipt.encode();
        assert_eq!((bytes[3], Receipt::decode(&bytes)), (0, Some(receipt)));
        bytes[3] = 32;
        assert_eq!(Receipt::decode(&bytes), None);
    }
}
