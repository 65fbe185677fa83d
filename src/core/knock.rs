//! The contents of a sealed knock and of its receipt: two fixed layouts (docs/protocol.md).
//! See `wire` for sealing and opening them, `authentic` for the signature.

use super::bytes::{Reader, Writer};
use super::types::{Fingerprint, Port, Proto, SERVICE_PORTS, ServiceName, Source, Wall};

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
    /// The client's row, as the listener numbers them.
    pub row: u32,
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

/// Up to [`SERVICE_PORTS`] ports, then `None`.
pub type Ports = [Option<Port>; SERVICE_PORTS];

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
            .zeros(1)
            .u32(self.seconds)
            .u64(self.time.0)
            .u64(self.delay.cast_unsigned())
            .put(&self.observed.to_bytes())
            .put(&self.granted.map(Source::to_bytes).unwrap_or_default());
        for port in self.ports {
            match port {
                Some(port) => writer.u8(port.proto.number()).zeros(1).u16(port.number),
                None => writer.zeros(4),
            };
        }
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
        let receipt = Receipt {
            status: Status::from_byte(reader.u8()?)?,
            once: reader.flag()?,
            seconds: reader.zeros(1)?.u32()?,
            time: Wall(reader.u64()?),
            delay: reader.u64()?.cast_signed(),
            observed: Source::from_bytes(reader.array()?),
            granted: nonzero(reader.array()?).map(Source::from_bytes),
            ports: decode_ports(&mut reader)?,
            challenge: nonzero(reader.array()?),
            next_key: nonzero(reader.array()?),
        };
        reader.finish()?;
        Some(receipt)
    }
}

/// Four bytes per port: protocol number, zero, port; all zero for none.
fn decode_ports(reader: &mut Reader<'_>) -> Option<Ports> {
    let mut ports = [None; SERVICE_PORTS];
    let mut ended = false;
    for port in &mut ports {
        match (reader.u8()?, reader.zeros(1)?.u16()?) {
            (0, 0) => ended = true,
            (_, 0) => return None,
            _ if ended => return None,
            (proto, number) => *port = Some(Port { proto: Proto::from_number(proto)?, number }),
        }
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
            ports: [None; SERVICE_PORTS],
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
}
