//! The contents of a receipt, the gateway's reply to a knock.

use super::{KnockKind, VERSION, nonzero};
use crate::core::bytes::{Reader, Writer};
use crate::core::keyring::{GateKey, MAC, WELCOME};
use crate::core::knock::Challenge;
use crate::core::prefix::Span;
use crate::core::service::ServicePorts;
use crate::core::types::{ClientId, GatewayId, PortRange, Proto, Source, Wall};

/// Bytes of a receipt that the receipt MAC covers.
pub const RECEIPT_CONTENT: usize = 120;
/// Bytes of a receipt before it is sealed: the receipt MAC follows its content.
pub const RECEIPT_BODY: usize = RECEIPT_CONTENT + MAC;

/// The flags: one connection only, and one that a later gateway may set, without effect here.
const ONCE: u8 = 1;
const RESERVED: u8 = 2;

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
    /// Policy refuses: no such service for this key, or not now, for this address or its family, or
    /// with a source port.
    Denied = 6,
    /// This client, or the service, has as many live grants as allowed.
    Full = 7,
    /// The gateway demands a challenge: for this service, or because it does not trust its clock.
    Challenge = 8,
    /// The gateway could not store the used-knock mark or change its firewall, or the start command
    /// failed. Nothing is open.
    Trouble = 9,
    /// The key is enrolled: the receipt has a [`Welcome`].
    Enrolled = 10,
    /// The key waits for an admin's approval.
    Pending = 11,
    /// Another key has used this invitation.
    Taken = 12,
}

impl Status {
    pub fn from_byte(byte: u8) -> Option<Status> {
        use Status::*;
        let all = [
            Granted, Closed, Observed, Address, Clock, Denied, Full, Challenge, Trouble, Enrolled,
            Pending, Taken,
        ];
        all.into_iter().find(|status| *status as u8 == byte)
    }

    /// Its word in the log and in `--json`.
    pub fn word(self) -> &'static str {
        match self {
            Status::Granted => "granted",
            Status::Closed => "closed",
            Status::Observed => "observed",
            Status::Address => "address",
            Status::Clock => "clock",
            Status::Denied => "denied",
            Status::Full => "full",
            Status::Challenge => "challenge",
            Status::Trouble => "trouble",
            Status::Enrolled => "enrolled",
            Status::Pending => "pending",
            Status::Taken => "taken",
        }
    }
}

/// What somebody who joined gets: it takes the place of the grant in a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The new id.
    pub client: ClientId,
    /// The new root. See `keyring` for its seal.
    pub root: [u8; WELCOME],
    /// When the enrolment ends, in seconds since the epoch; `None` if never.
    pub expires: Option<u64>,
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
    /// The client's working day at the gateway: a retry uses its keys.
    pub working_day: u32,
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
    /// With [`Status::Enrolled`] and nothing else. Such a receipt has no other field after
    /// `observed`.
    pub welcome: Option<Welcome>,
}

impl Receipt {
    /// True if it may answer a knock of this kind: the table in docs/protocol.md. A client ignores
    /// every other receipt, so that no answer to something else passes for success.
    pub fn may_answer(&self, kind: KnockKind) -> bool {
        let fits = match self.status {
            Status::Granted | Status::Address | Status::Full => kind == KnockKind::Open,
            Status::Closed => kind == KnockKind::Close,
            Status::Observed => kind == KnockKind::Probe,
            Status::Denied | Status::Trouble => {
                matches!(kind, KnockKind::Open | KnockKind::Close | KnockKind::Join)
            }
            Status::Enrolled | Status::Pending | Status::Taken => kind == KnockKind::Join,
            Status::Clock => true,
            Status::Challenge => kind != KnockKind::Time,
        };
        let has_grant = self.status == Status::Granted;
        fits && (self.seconds > 0) == has_grant && self.granted.is_some() == has_grant
    }

    /// The bytes that the receipt MAC covers.
    pub fn encode(&self) -> [u8; RECEIPT_CONTENT] {
        let mut writer = Writer::<RECEIPT_CONTENT>::new();
        writer
            .u8(VERSION)
            .u8(self.status as u8)
            .u8(if self.once { ONCE } else { 0 })
            .u8(self.granted.map_or(0, |granted| self.span.prefix_length(granted)))
            .u32(self.seconds)
            .u64(self.time.0)
            .u32(self.working_day)
            .zeros(4)
            .put(&self.observed.to_bytes());
        if let Some(Welcome { client, root, expires }) = &self.welcome {
            let expires = expires.unwrap_or_default();
            return writer.put(&client.0).put(root).u64(expires).zeros(8).done();
        }
        writer.put(&self.granted.map(Source::to_bytes).unwrap_or_default());
        encode_ports(&mut writer, &self.ports);
        writer
            .put(&self.challenge.unwrap_or_default())
            .put(&self.next_key.unwrap_or_default())
            .done()
    }

    /// The whole receipt for the knock to `gateway` with the handshake hash `h`, whose client has
    /// this gate key.
    pub fn with_mac(&self, gate: &GateKey, gateway: GatewayId, h: &[u8; 32]) -> [u8; RECEIPT_BODY] {
        let content = self.encode();
        Writer::new().put(&content).put(&gate.receipt_mac(gateway, h, &content)).done()
    }

    /// Reads what the receipt MAC covers. `None` for a reserved bit or an unknown version, status
    /// or protocol.
    pub fn decode(bytes: &[u8; RECEIPT_CONTENT]) -> Option<Receipt> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return None;
        }
        let status = Status::from_byte(reader.u8()?)?;
        let flags = reader.u8()?;
        if flags & !(ONCE | RESERVED) != 0 {
            return None;
        }
        let once = flags & ONCE != 0;
        let prefix_length = reader.u8()?;
        let seconds = reader.u32()?;
        let time = Wall(reader.u64()?);
        let working_day = reader.u32()?;
        // No clock shows a later day, and keys of a far day cost many hashes.
        if working_day > Wall(u64::MAX).day() {
            return None;
        }
        let observed = Source::from_bytes(reader.zeros(4)?.array()?);
        let mut receipt = Receipt {
            status,
            once,
            seconds,
            time,
            working_day,
            observed,
            granted: None,
            span: Span::HOST,
            ports: Ports::default(),
            challenge: None,
            next_key: None,
            welcome: None,
        };
        if status == Status::Enrolled {
            let (client, root) = (ClientId(reader.array()?), reader.array()?);
            let expires = Some(reader.u64()?).filter(|seconds| *seconds != 0);
            receipt.welcome = Some(Welcome { client, root, expires });
            reader.zeros(8)?.finish()?;
            return (prefix_length == 0).then_some(receipt);
        }
        let granted = nonzero(reader.array()?).map(Source::from_bytes);
        let span = match (granted, prefix_length) {
            (Some(granted), length) => Span::of_prefix(length, granted.ip().is_ipv6())?,
            (None, 0) => Span::HOST,
            (None, _) => return None,
        };
        receipt.granted = granted;
        receipt.span = span;
        receipt.ports = decode_ports(&mut reader)?;
        receipt.challenge = nonzero(reader.array()?);
        receipt.next_key = nonzero(reader.array()?);
        reader.finish()?;
        Some(receipt)
    }
}

/// Four bytes per entry: protocol number, what the number is, number; all zero for none.
fn encode_ports(writer: &mut Writer<RECEIPT_CONTENT>, ports: &Ports) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_answers_only_its_kinds_and_only_a_grant_has_seconds_and_an_address() {
        use KnockKind::*;
        let mut receipt = Receipt {
            status: Status::Granted,
            once: false,
            seconds: 0,
            time: Wall(0),
            working_day: 20_513,
            observed: Source::new([192, 0, 2, 7].into()),
            granted: None,
            span: Span::HOST,
            ports: Ports::default(),
            challenge: None,
            next_key: None,
            welcome: None,
        };
        for (byte, kinds) in [
            (1, &[Open][..]),
            (2, &[Close]),
            (3, &[Probe]),
            (4, &[Open]),
            (5, &[Open, Close, Probe, Join, Time]),
            (6, &[Open, Close, Join]),
            (7, &[Open]),
            (8, &[Open, Close, Probe, Join]),
            (9, &[Open, Close, Join]),
            (10, &[Join]),
            (11, &[Join]),
            (12, &[Join]),
        ] {
            receipt.status = Status::from_byte(byte).unwrap();
            for kind in [Open, Close, Probe, Join, Time] {
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
        let mut writer = Writer::<RECEIPT_CONTENT>::new();
        encode_ports(&mut writer, &entries);
        let bytes: [u8; RECEIPT_CONTENT] = writer.zeros(RECEIPT_CONTENT - 16).done();
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
    fn a_welcome_takes_the_place_of_all_that_a_grant_would_have() {
        let expires = Some(0x0102_0304_0506_0708);
        let welcome = Welcome { client: ClientId([5; 16]), root: [6; WELCOME], expires };
        let receipt = Receipt {
            status: Status::Enrolled,
            once: false,
            seconds: 0,
            time: Wall(1),
            working_day: 20_513,
            observed: Source::new([192, 0, 2, 7].into()),
            granted: None,
            span: Span::HOST,
            ports: Ports::default(),
            challenge: None,
            next_key: None,
            welcome: Some(welcome),
        };
        let bytes = receipt.encode();
        let end = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(bytes[40..], [[5; 16].as_slice(), &[6; 48], &end, &[0; 8]].concat());
        assert_eq!(Receipt::decode(&bytes), Some(receipt));
        let forever = Receipt { welcome: Some(Welcome { expires: None, ..welcome }), ..receipt };
        assert_eq!(forever.encode()[104..], [0; 16]);
        assert_eq!(Receipt::decode(&forever.encode()), Some(forever));
        for at in [3, 112, 119] {
            let mut bad = bytes;
            bad[at] = 1;
            assert_eq!(Receipt::decode(&bad), None, "{at}");
        }
        // Under any other status the same bytes are the fields of a grant.
        let mut other = bytes;
        other[1] = Status::Pending as u8;
        assert_eq!(Receipt::decode(&other), None);
    }

    #[test]
    fn a_receipt_has_the_prefix_of_its_grant_and_none_without_one() {
        let mut receipt = Receipt {
            status: Status::Granted,
            once: false,
            seconds: 30,
            time: Wall(1),
            working_day: 20_513,
            observed: Source::new([192, 0, 2, 7].into()),
            granted: Some(Source::new([192, 0, 2, 7].into())),
            span: Span::HOST,
            ports: Ports::default(),
            challenge: None,
            next_key: None,
            welcome: None,
        };
        for (length, back) in
            [(32, true), (24, true), (16, true), (15, false), (33, false), (0, false)]
        {
            receipt.span = Span::of_prefix(length, false).unwrap_or_default();
            let mut bytes = receipt.encode();
            if back {
                assert_eq!(bytes[3], length);
            }
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
