//! The contents of a sealed knock and of its receipt: fixed layouts (docs/protocol.md).
//! See `wire` for sealing and opening them, `authentic` for gate MAC and signature.

use std::sync::Arc;

use super::bytes::{Reader, Writer};
use super::keyring::{Day, GateKey, MAC, is_first_of_period};
use super::public_key::{APPLICATION, FidoKey, PublicKey};
use super::types::{ClientId, GatewayId, ServiceName, Source, Wall};

mod receipt;

pub use receipt::{
    PortEntry, Ports, RECEIPT_BODY, RECEIPT_CONTENT, Receipt, Status, Welcome, port_entries,
};

/// Bytes of a knock's body before it is sealed.
pub const BODY: usize = 192;
/// Bytes that the signature covers: the first of a body. Signature, sk fields and padding follow.
pub const SIGNED: usize = 88;
/// Bytes that the gate MAC covers: all before it.
pub const GATED: usize = BODY - MAC;
/// The version: the first byte of both.
pub const VERSION: u8 = 1;

/// A knock as the listener hands it to the gatekeeper: opened, its gate MAC and
/// signature unproven. An attacker who took over the listener can write anything here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedKnock {
    /// For the verdict.
    pub ticket: u64,
    /// The client whose keys opened it.
    pub client: ClientId,
    /// The day of those keys.
    pub day: Day,
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
    /// Asks to enrol a key, by an invitation: an [`Enrolment`]. No request has this kind, except
    /// where replay and receipts look at an enrolment as at any knock.
    Join = 4,
    /// Asks for day and challenge, because the client does not know the day. Grants nothing.
    Time = 6,
}

impl KnockKind {
    /// The kind of a [`Request`].
    fn from_byte(byte: u8) -> Option<Self> {
        use KnockKind::*;
        [Open, Close, Probe, Time].into_iter().find(|kind| *kind as u8 == byte)
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
    /// The first day that the client has keys for; only with [`KnockKind::Time`].
    pub first_day: u32,
    /// The service; [`ServiceName::NONE`] if the kind takes none.
    pub service: ServiceName,
}

/// The signed part of a knock that asks to enrol its own key, by an invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// The invitation's id. The signature covers it: without it, somebody with another invitation
    /// and the listener's keys could enrol this key under that one.
    pub invitation: ClientId,
    pub receipt_wanted: bool,
    pub timestamp: Wall,
    pub challenge: Option<Challenge>,
    pub scheme: KeyScheme,
    /// The Ed25519 key.
    pub key: [u8; 32],
}

/// The scheme of a key that is to be enrolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum KeyScheme {
    Ed25519 = 1,
    /// A FIDO key, with the application `ssh:`.
    SkEd25519 = 2,
}

/// What a body asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Request(Request),
    Enrolment(Enrolment),
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
    /// The bytes that the signature covers.
    pub fn encode(&self) -> [u8; SIGNED] {
        let number = match self.kind {
            KnockKind::Time => self.first_day,
            _ => self.seconds,
        };
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
            .u32(number)
            .zeros(4)
            .put(&self.service.to_bytes())
            .done()
    }

    /// Reads the [`SIGNED`] bytes of a knock under the keys of `day`. `None` for a reserved bit, an
    /// unknown version or kind, or a field that does not fit the kind.
    pub fn decode(bytes: &[u8; SIGNED], day: Day) -> Option<Request> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return None;
        }
        let mut request = Request {
            kind: KnockKind::from_byte(reader.u8()?)?,
            receipt_wanted: reader.flag()?,
            source_port: reader.zeros(1)?.u16()?,
            timestamp: Wall(reader.zeros(2)?.u64()?),
            challenge: nonzero(reader.array()?),
            address: nonzero(reader.array()?).map(Source::from_bytes),
            seconds: reader.u32()?,
            first_day: 0,
            service: ServiceName::from_bytes(reader.zeros(4)?.array()?)?,
        };
        reader.finish()?;
        if request.kind == KnockKind::Time {
            (request.first_day, request.seconds) = (request.seconds, 0);
        }
        if request.fits(day) { Some(request) } else { None }
    }

    /// True if its kind may be sent under the keys of `day`, with these fields. Keys that never
    /// change only ask for the time: no service and no address is ever under them.
    fn fits(&self, day: Day) -> bool {
        let is_of_day = matches!(day, Day::Number(_));
        match self.kind {
            KnockKind::Open | KnockKind::Close => is_of_day && self.service != ServiceName::NONE,
            KnockKind::Probe => is_of_day && self.service == ServiceName::NONE,
            KnockKind::Time => {
                let bare = Request {
                    receipt_wanted: true,
                    timestamp: self.timestamp,
                    first_day: self.first_day,
                    ..Request::bare(KnockKind::Time)
                };
                day == Day::Unknown && *self == bare && is_first_of_period(self.first_day)
            }
            KnockKind::Join => false,
        }
    }

    /// A request of this kind in which nothing else is set.
    pub fn bare(kind: KnockKind) -> Request {
        Request {
            kind,
            receipt_wanted: false,
            timestamp: Wall(0),
            challenge: None,
            address: None,
            source_port: 0,
            seconds: 0,
            first_day: 0,
            service: ServiceName::NONE,
        }
    }
}

impl Enrolment {
    /// The bytes that the signature covers.
    pub fn encode(&self) -> [u8; SIGNED] {
        Writer::<SIGNED>::new()
            .u8(VERSION)
            .u8(KnockKind::Join as u8)
            .u8(u8::from(self.receipt_wanted))
            .u8(self.scheme as u8)
            .zeros(4)
            .u64(self.timestamp.0)
            .put(&self.challenge.unwrap_or_default())
            .put(&self.invitation.0)
            .zeros(8)
            .put(&self.key)
            .done()
    }

    /// Reads the [`SIGNED`] bytes of a knock under the keys of an invitation. `None` as for
    /// [`Request::decode`].
    pub fn decode(bytes: &[u8; SIGNED]) -> Option<Enrolment> {
        let mut reader = Reader::new(bytes);
        if (reader.u8()?, reader.u8()?) != (VERSION, KnockKind::Join as u8) {
            return None;
        }
        let receipt_wanted = reader.flag()?;
        let scheme = match reader.u8()? {
            1 => KeyScheme::Ed25519,
            2 => KeyScheme::SkEd25519,
            _ => return None,
        };
        let enrolment = Enrolment {
            receipt_wanted,
            timestamp: Wall(reader.zeros(4)?.u64()?),
            challenge: nonzero(reader.array()?),
            invitation: ClientId(reader.array()?),
            scheme,
            key: reader.zeros(8)?.array()?,
        };
        reader.finish().map(|()| enrolment)
    }

    /// `request` as a knock that asks to enrol `key` by this invitation. `None` for a FIDO key with
    /// an application of its own: a knock has no room to say which.
    pub fn of(request: &Request, invitation: ClientId, key: &PublicKey) -> Option<Enrolment> {
        let scheme = match &key.fido {
            None => KeyScheme::Ed25519,
            Some(fido) if fido.application == APPLICATION => KeyScheme::SkEd25519,
            Some(_) => return None,
        };
        Some(Enrolment {
            invitation,
            receipt_wanted: request.receipt_wanted,
            timestamp: request.timestamp,
            challenge: request.challenge,
            scheme,
            key: key.ed25519,
        })
    }

    /// The key that asks. A FIDO key has the application that `ssh-keygen` gives it.
    pub fn public_key(&self) -> PublicKey {
        let fido = match self.scheme {
            KeyScheme::Ed25519 => None,
            KeyScheme::SkEd25519 => Some(Arc::new(FidoKey::new(APPLICATION))),
        };
        PublicKey { ed25519: self.key, fido }
    }

    /// What replay and receipts need to know of it.
    pub(super) fn as_request(&self) -> Request {
        Request {
            receipt_wanted: self.receipt_wanted,
            timestamp: self.timestamp,
            challenge: self.challenge,
            ..Request::bare(KnockKind::Join)
        }
    }
}

/// The whole body of a knock to `gateway` with the handshake hash `h`: signed bytes, signature
/// fields, zero padding, gate MAC.
pub fn encode_body(
    signed: &[u8; SIGNED], signature: &Signature, gate: &GateKey, gateway: GatewayId, h: &[u8; 32],
) -> [u8; BODY] {
    let gated = Writer::<GATED>::new()
        .put(signed)
        .put(&signature.ed25519)
        .u8(signature.sk_flags)
        .u32(signature.sk_counter)
        .zeros(19)
        .done();
    Writer::new().put(&gated).put(&gate.gate_mac(gateway, h, &gated)).done()
}

/// Reads a whole body of a knock under the keys of `day`, but for its gate MAC. `None` as for
/// [`Request::decode`], or if the padding is not zero.
pub fn decode_body(bytes: &[u8; BODY], day: Day) -> Option<(Asked, Signature)> {
    let mut reader = Reader::new(bytes);
    let signed = reader.array()?;
    // The keys decide what is read, not the body: an invitation joins, a client does all else.
    let asked = match day {
        Day::Invited => Asked::Enrolment(Enrolment::decode(&signed)?),
        Day::Number(_) | Day::Unknown => Asked::Request(Request::decode(&signed, day)?),
    };
    let signature =
        Signature { ed25519: reader.array()?, sk_flags: reader.u8()?, sk_counter: reader.u32()? };
    let _gate_mac: [u8; MAC] = reader.zeros(19)?.array()?;
    reader.finish()?;
    Some((asked, signature))
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
    fn each_kind_is_read_only_under_its_keys_and_with_its_fields() {
        use KnockKind::*;
        let ssh = ServiceName::new("ssh").unwrap();
        let of_day = Day::Number(20_513);
        for (kind, day, service) in [
            (Open, of_day, ssh),
            (Close, of_day, ssh),
            (Probe, of_day, ServiceName::NONE),
            (Time, Day::Unknown, ServiceName::NONE),
        ] {
            let request = Request { receipt_wanted: true, service, ..Request::bare(kind) };
            for other_day in [of_day, Day::Unknown, Day::Invited] {
                let read = Request::decode(&request.encode(), other_day);
                assert_eq!(read, (other_day == day).then_some(request), "{kind:?}");
            }
            let other_service = if service == ssh { ServiceName::NONE } else { ssh };
            let misfit = Request { service: other_service, ..request };
            assert_eq!(Request::decode(&misfit.encode(), day), None, "{kind:?}");
        }
    }

    #[test]
    fn a_knock_that_asks_for_the_time_has_a_first_day_and_nothing_else() {
        let ask = Request {
            receipt_wanted: true,
            timestamp: Wall(7),
            first_day: 20_448,
            ..Request::bare(KnockKind::Time)
        };
        assert_eq!(Request::decode(&ask.encode(), Day::Unknown), Some(ask));
        for misfit in [
            Request { receipt_wanted: false, ..ask },
            Request { challenge: Some([1; 16]), ..ask },
            Request { address: Some(Source::new([192, 0, 2, 7].into())), ..ask },
            Request { source_port: 1, ..ask },
            Request { first_day: 20_449, ..ask },
        ] {
            assert_eq!(Request::decode(&misfit.encode(), Day::Unknown), None, "{misfit:?}");
        }
    }

    #[test]
    fn a_knock_that_enrols_a_key_is_read_only_by_an_invitation_and_never_as_a_request() {
        for scheme in [KeyScheme::Ed25519, KeyScheme::SkEd25519] {
            let enrolment = Enrolment {
                invitation: ClientId([4; 16]),
                receipt_wanted: true,
                timestamp: Wall(7),
                challenge: Some([3; 16]),
                scheme,
                key: [9; 32],
            };
            let bytes = enrolment.encode();
            assert_eq!(Enrolment::decode(&bytes), Some(enrolment));
            for day in [Day::Number(20_513), Day::Unknown, Day::Invited] {
                assert_eq!(Request::decode(&bytes, day), None);
                let mut body = [0; BODY];
                body[..SIGNED].copy_from_slice(&bytes);
                let expected = (day == Day::Invited).then_some(Asked::Enrolment(enrolment));
                assert_eq!(decode_body(&body, day).map(|(asked, _)| asked), expected);
            }
            for (at, value) in [(0, 2), (1, 5), (2, 2), (3, 0), (3, 3), (4, 1), (48, 1), (55, 1)] {
                let mut bad = bytes;
                bad[at] = value;
                assert_eq!(Enrolment::decode(&bad), None, "{at}");
            }
        }
    }

    #[test]
    fn the_padding_before_the_gate_mac_is_zero_and_the_mac_is_any() {
        let request =
            Request { service: ServiceName::new("ssh").unwrap(), ..Request::bare(KnockKind::Open) };
        let signature = Signature { ed25519: [5; 64], sk_flags: 1, sk_counter: 2 };
        let day = Day::Number(20_513);
        let gate = crate::core::test_vectors::secrets(ClientId([1; 16])).gate(day).unwrap();
        let body = encode_body(&request.encode(), &signature, &gate, GatewayId([2; 16]), &[3; 32]);
        assert_eq!(decode_body(&body, day), Some((Asked::Request(request), signature)));
        for at in SIGNED + 69..GATED {
            let mut bad = body;
            bad[at] = 1;
            assert_eq!(decode_body(&bad, day), None, "{at}");
        }
    }
}
