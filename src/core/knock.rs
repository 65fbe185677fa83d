//! What a sealed knock says and what a receipt answers: the two fixed layouts, byte for byte
//! (docs/protocol.md). Sealing and opening them is left to `wire`, believing them to `authentic`.

use super::bytes::{Reader, Writer};
use super::types::{Fingerprint, Port, Proto, SERVICE_PORTS, ServiceName, Source, Wall};

/// Bytes of a knock's body before it is sealed.
pub const BODY: usize = 192;
/// The first bytes of a body, which the signature covers; signature, sk fields and padding follow.
pub const SIGNED: usize = 120;
/// Bytes of a receipt before it is sealed.
pub const RECEIPT_BODY: usize = 120;
/// The version that stands in the first byte of both.
pub const VERSION: u8 = 1;

/// A knock as the listener hands it to the gatekeeper: it opened, its signature is unproven. Whoever
/// took over the listener can write anything here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedKnock {
    /// For the verdict.
    pub ticket: u64,
    /// The client's row, as the listener numbers them.
    pub row: u32,
    /// The handshake hash that the signature is said to cover.
    pub h: [u8; 32],
    /// The body, signature included.
    pub body: [u8; BODY],
    /// Where the packet came from.
    pub source: Source,
    /// And from which port.
    pub source_port: u16,
}

/// What a knock asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum KnockKind {
    /// A grant.
    Open = 1,
    /// The end of the caller's own grants for the service.
    Close = 2,
    /// Only a receipt, for its observed address, time and challenge. Grants nothing.
    Probe = 3,
}

/// A gateway's random 16 bytes; a knock that carries a live one is fresh whatever its timestamp.
/// Never all zero.
pub type Challenge = [u8; 16];

/// The signed part of a knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub kind: KnockKind,
    /// Whether the client waits for a receipt.
    pub receipt_wanted: bool,
    /// Nanoseconds since the epoch by the client's clock, the lowest 20 bits random.
    pub timestamp: Wall,
    /// A live challenge, if one was given.
    pub challenge: Option<Challenge>,
    /// The address to grant; `None` only in a probe or where the service takes the observed one.
    pub address: Option<Source>,
    /// Bind the grant to this source port; 0 = any.
    pub source_port: u16,
    /// How long; 0 = the service's default.
    pub seconds: u32,
    /// The service; [`ServiceName::NONE`] only in a probe.
    pub service: ServiceName,
    /// The client's SSH key.
    pub fingerprint: Fingerprint,
}

/// The signature fields of a knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Ed25519, over the SSHSIG blob.
    pub ed25519: [u8; 64],
    /// FIDO flags, 0 for a plain key.
    pub sk_flags: u8,
    /// FIDO counter, 0 for a plain key.
    pub sk_counter: u32,
}

/// The timestamp of a knock made at `now`: its lowest 20 bits, about a millisecond, are
/// `entropy`'s, so that two knocks in one moment differ and a client's clock cannot be told from
/// its knocks to the nanosecond.
pub fn timestamp(now: Wall, entropy: u32) -> Wall {
    const RANDOM: u64 = (1 << 20) - 1;
    Wall((now.0 & !RANDOM) | (u64::from(entropy) & RANDOM))
}

impl Request {
    /// The [`SIGNED`] bytes of this request.
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

    /// Reads the [`SIGNED`] bytes; `None` if a reserved bit is set, the version or kind is unknown,
    /// or the name is not one.
    pub fn decode(bytes: &[u8; SIGNED]) -> Option<Request> {
        let mut reader = Reader::new(bytes);
        (reader.u8()? == VERSION).then_some(())?;
        let kind = match reader.u8()? {
            1 => KnockKind::Open,
            2 => KnockKind::Close,
            3 => KnockKind::Probe,
            _ => return None,
        };
        let receipt_wanted = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        reader.zeros(1)?;
        let source_port = reader.u16()?;
        reader.zeros(2)?;
        let timestamp = Wall(reader.u64()?);
        let challenge = Some(reader.array::<16>()?).filter(|c| *c != [0; 16]);
        let address = Some(reader.array::<16>()?).filter(|a| *a != [0; 16]).map(Source::from_bytes);
        let seconds = reader.u32()?;
        reader.zeros(4)?;
        let service = ServiceName::from_bytes(reader.array()?)?;
        let fingerprint = Fingerprint(reader.array()?);
        reader.finish()?;
        ((service == ServiceName::NONE) == (kind == KnockKind::Probe)).then_some(())?;
        Some(Request {
            kind,
            receipt_wanted,
            timestamp,
            challenge,
            address,
            source_port,
            seconds,
            service,
            fingerprint,
        })
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

/// Reads a whole body; `None` as for [`Request::decode`], or if the padding is not zero.
pub fn decode_body(bytes: &[u8; BODY]) -> Option<(Request, Signature)> {
    let mut reader = Reader::new(bytes);
    let request = Request::decode(&reader.array()?)?;
    let signature =
        Signature { ed25519: reader.array()?, sk_flags: reader.u8()?, sk_counter: reader.u32()? };
    reader.zeros(3)?;
    reader.finish()?;
    Some((request, signature))
}

/// How a knock ended, as told to a client whose signature was good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// The grant is in the firewall, or its start command has ended well.
    Granted = 1,
    /// The caller's grants for the service have ended.
    Closed = 2,
    /// A probe's answer; nothing was granted.
    Observed = 3,
    /// The named address is not the packet's source: nothing was burned, `observed` says what the
    /// gateway saw.
    Address = 4,
    /// Outside the time window: `time` and `challenge` allow one retry.
    Clock = 5,
    /// Policy refuses: no such service for this key, expired, not from here.
    Denied = 6,
    /// This client, or the service, has as many live grants as allowed.
    Full = 7,
    /// The gateway wants a challenge for this service, or from all while its clock is suspect.
    Challenge = 8,
    /// The gateway could not make the mark durable or change its firewall, or its start command
    /// failed. Nothing is open.
    Trouble = 9,
}

impl Status {
    /// From its byte.
    pub fn from_byte(byte: u8) -> Option<Status> {
        use Status::*;
        [Granted, Closed, Observed, Address, Clock, Denied, Full, Challenge, Trouble]
            .into_iter()
            .find(|s| *s as u8 == byte)
    }
}

/// Up to [`SERVICE_PORTS`] ports; unused places are `None`, at the end.
pub type Ports = [Option<Port>; SERVICE_PORTS];

/// What the gateway answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// How it ended.
    pub status: Status,
    /// Whether each grant is for one connection only.
    pub once: bool,
    /// For how long the grant lasts from `time` on; 0 without a grant.
    pub seconds: u32,
    /// The gateway's wall clock.
    pub time: Wall,
    /// Gateway time minus the knock's timestamp, nanoseconds.
    pub delay: i64,
    /// Where the gateway saw the packet come from.
    pub observed: Source,
    /// The address that was granted; `None` without a grant.
    pub granted: Option<Source>,
    /// The ports that were opened; none by a service of commands.
    pub ports: Ports,
    /// A challenge for one retry, single use.
    pub challenge: Option<Challenge>,
    /// The gateway's next public key, while it rotates.
    pub next_key: Option<[u8; 32]>,
}

impl Receipt {
    /// The [`RECEIPT_BODY`] bytes of this receipt.
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
            writer
                .u8(port.map_or(0, |p| p.proto.number()))
                .zeros(1)
                .u16(port.map_or(0, |p| p.number));
        }
        writer
            .put(&self.challenge.unwrap_or_default())
            .put(&self.next_key.unwrap_or_default())
            .done()
    }

    /// Reads a receipt; `None` if a reserved bit is set, or version, status or a protocol is
    /// unknown.
    pub fn decode(bytes: &[u8; RECEIPT_BODY]) -> Option<Receipt> {
        let mut reader = Reader::new(bytes);
        (reader.u8()? == VERSION).then_some(())?;
        let status = Status::from_byte(reader.u8()?)?;
        let once = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        reader.zeros(1)?;
        let seconds = reader.u32()?;
        let time = Wall(reader.u64()?);
        let delay = reader.u64()?.cast_signed();
        let observed = Source::from_bytes(reader.array()?);
        let granted = Some(reader.array::<16>()?).filter(|a| *a != [0; 16]).map(Source::from_bytes);
        let mut ports = [None; SERVICE_PORTS];
        for slot in &mut ports {
            *slot = decode_port(&mut reader)?;
        }
        ports.windows(2).all(|pair| matches!(pair, [Some(_), _] | [None, None])).then_some(())?;
        let challenge = Some(reader.array::<16>()?).filter(|c| *c != [0; 16]);
        let next_key = Some(reader.array::<32>()?).filter(|k| *k != [0; 32]);
        reader.finish()?;
        Some(Receipt {
            status,
            once,
            seconds,
            time,
            delay,
            observed,
            granted,
            ports,
            challenge,
            next_key,
        })
    }
}

/// Four bytes: protocol number, zero, port; all zero for none.
fn decode_port(reader: &mut Reader<'_>) -> Option<Option<Port>> {
    let proto = reader.u8()?;
    reader.zeros(1)?;
    let number = reader.u16()?;
    match (proto, number) {
        (0, 0) => Some(None),
        (_, 0) => None,
        (proto, number) => Some(Some(Port { proto: Proto::from_number(proto)?, number })),
    }
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
}
