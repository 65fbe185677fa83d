//! The knock datagram and the receipt datagram: mask, tag, client MAC, sealed Noise messages.
//! See `knock` for their contents and `authentic` for the signature.
//!
//! ```text
//! knock    masked e (32) | masked tag (16) | sealed body (192 + 16) | client MAC (16)
//! receipt  masked e (32) | sealed receipt (120 + 16)
//! ```

use subtle::ConstantTimeEq;

use super::authentic;
use super::bytes::{Reader, Writer};
use super::keyring::{ClientKeys, Day, Realm, Secret, TAG, TagTable, keyed16};
use super::knock::{BODY, RECEIPT_BODY, Receipt, Request, Signature, decode_body, encode_body};
use super::noise::{self, Initiator, KEY, KeyPair, Responder, SEAL};
use super::types::{Fault, Fingerprint, GatewayId, Reject};

mod mask;
#[cfg(test)]
mod tests;

use mask::SAMPLE;

pub const MAC: usize = 16;
/// Bytes of every knock, as UDP payload.
pub const DATAGRAM: usize = KEY + TAG + BODY + SEAL + MAC;
/// Bytes of every receipt: fewer than of a knock, so that nothing is amplified.
pub const RECEIPT: usize = KEY + RECEIPT_BODY + SEAL;
/// Bytes that the client MAC covers: all before it, as sent.
const COVERED: usize = DATAGRAM - MAC;
const MAC_LABEL: &[u8] = b"toctoc v1 mac of a knock\0";

/// A gateway's keys, as the listener holds them.
pub struct GatewayKeys {
    pub gateway: GatewayId,
    pub realm: Realm,
    /// The key in the profiles.
    pub current: KeyPair,
    /// During a rotation: the next key, or the one before.
    pub other: Option<KeyPair>,
}

/// A client's keys for one gateway, from its profile.
pub struct ClientSide {
    pub gateway: GatewayId,
    pub realm: Realm,
    pub gateway_public: [u8; KEY],
    pub keys: ClientKeys,
}

pub struct AwaitingReceipt {
    noise: noise::AwaitingResponse,
    mask: Secret<32>,
}

/// A datagram with a known client's tag. Anyone in the realm can make it.
pub struct Tagged {
    row: u32,
    ephemeral: [u8; KEY],
    sealed: [u8; BODY + SEAL],
    datagram: [u8; DATAGRAM],
}

/// A datagram that a holder of that client's MAC key made: worth a curve operation.
pub struct MacVerified {
    row: u32,
    ephemeral: [u8; KEY],
    sealed: [u8; BODY + SEAL],
    mac: [u8; MAC],
}

/// A decrypted knock: made with that client's psk, for this gateway, with an unproven signature.
pub struct Decrypted {
    parts: DecryptedParts,
    request: Request,
    reply: ReplyDatagram,
}

/// The part of a [`Decrypted`] that the gatekeeper needs.
pub struct DecryptedParts {
    pub row: u32,
    /// The handshake hash, which the signature must cover.
    pub h: [u8; 32],
    pub body: [u8; BODY],
}

/// The gateway's state after it decrypted a knock: seals one receipt.
pub struct ReplyDatagram(Responder);

/// Makes the datagram for `request`, and the state that opens its receipt.
///
/// `day` selects the tag. `ephemeral` is 32 fresh random bytes. `sign` gets the message whose
/// SSHSIG blob ([`authentic::sshsig_blob`]) the client's key must sign. Fails as `sign` does, or if
/// the gateway's key is of small order.
pub fn seal(
    side: &ClientSide, request: &Request, day: Day, ephemeral: Secret<32>,
    sign: impl FnOnce(&authentic::Message) -> Result<Signature, Fault>,
) -> Result<([u8; DATAGRAM], AwaitingReceipt), Fault> {
    let Some(initiator) = side.initiator(&ephemeral) else {
        let what = "the gateway's public key is of small order: no secret can be agreed with it";
        let remedy = "ask for a new invitation";
        return Err(Fault::new(what, remedy));
    };
    let message = authentic::message(side.gateway, &initiator.hash(), &request.encode());
    let body = encode_body(request, &sign(&message)?);
    let (datagram, noise) = seal_body(side, initiator, day.tag(&side.keys.tag), body);
    Ok((datagram, AwaitingReceipt { noise, mask: Secret::new(*side.realm.receipt_mask()) }))
}

/// [`seal`] for any body, without a signature. For tests of what a thief of a client's symmetric
/// keys can send. `None` if the gateway's key is of small order.
pub fn seal_unsigned(
    side: &ClientSide, body: [u8; BODY], day: Day, ephemeral: Secret<32>,
) -> Option<[u8; DATAGRAM]> {
    let (datagram, _) = seal_body(side, side.initiator(&ephemeral)?, day.tag(&side.keys.tag), body);
    Some(datagram)
}

fn seal_body(
    side: &ClientSide, initiator: Initiator, tag: [u8; TAG], mut body: [u8; BODY],
) -> ([u8; DATAGRAM], noise::AwaitingResponse) {
    let mut head = Writer::<{ KEY + TAG }>::new().put(&initiator.ephemeral()).put(&tag).done();
    let (seal, awaiting) = initiator.seal(&mut body);
    mask::apply(side.realm.knock_mask(), &sample(&body), &mut head);
    let covered = Writer::<COVERED>::new().put(&head).put(&body).put(&seal).done();
    let mac = keyed16(side.keys.mac.expose(), &[MAC_LABEL, &covered]);
    (Writer::new().put(&covered).put(&mac).done(), awaiting)
}

/// Finds the client whose tag a datagram carries, with one ChaCha20 block and one look-up. Fails
/// with `Length` or `UnknownTag`, which is where a flood ends.
pub fn identify(gateway: &GatewayKeys, tags: &TagTable, datagram: &[u8]) -> Result<Tagged, Reject> {
    let datagram: &[u8; DATAGRAM] = datagram.try_into().map_err(|_| Reject::Length)?;
    let mut reader = Reader::new(datagram);
    let mut head: [u8; KEY + TAG] = reader.array().ok_or(Reject::Length)?;
    let sealed: [u8; BODY + SEAL] = reader.array().ok_or(Reject::Length)?;
    mask::apply(gateway.realm.knock_mask(), &sample(&sealed), &mut head);
    let mut reader = Reader::new(&head);
    let ephemeral = reader.array().ok_or(Reject::Length)?;
    let tag = reader.array().ok_or(Reject::Length)?;
    let row = tags.find(&tag).ok_or(Reject::UnknownTag)?;
    Ok(Tagged { row, ephemeral, sealed, datagram: *datagram })
}

impl ClientSide {
    fn initiator(&self, ephemeral: &Secret<32>) -> Option<Initiator> {
        let prologue = self.realm.prologue(self.gateway);
        Initiator::new(&prologue, &self.gateway_public, &self.keys.psk, ephemeral)
    }
}

impl Tagged {
    pub fn row(&self) -> u32 {
        self.row
    }

    /// Checks the client MAC in constant time: one keyed hash. Fails with `ClientMac`.
    pub fn check_mac(self, keys: &ClientKeys) -> Result<MacVerified, Reject> {
        let Self { row, ephemeral, sealed, datagram } = self;
        let (covered, sent) = datagram.split_at(COVERED);
        let mac = keyed16(keys.mac.expose(), &[MAC_LABEL, covered]);
        if !bool::from(mac.as_slice().ct_eq(sent)) {
            return Err(Reject::ClientMac);
        }
        Ok(MacVerified { row, ephemeral, sealed, mac })
    }
}

impl MacVerified {
    /// The client MAC. It identifies this datagram among those seen before.
    pub fn mac(&self) -> [u8; MAC] {
        self.mac
    }

    /// Decrypts the knock and checks its syntax and fingerprint. Costs one curve operation for each
    /// of the gateway's keys until one fits. Fails with `Noise`, `Syntax` or `Fingerprint`.
    pub fn open(
        self, gateway: &GatewayKeys, keys: &ClientKeys, fingerprint: &Fingerprint,
    ) -> Result<Decrypted, Reject> {
        let mut opened = self.open_with(&gateway.current, gateway, keys);
        if let (None, Some(other)) = (&opened, &gateway.other) {
            opened = self.open_with(other, gateway, keys);
        }
        let (body, responder) = opened.ok_or(Reject::Noise)?;
        let (request, _) = decode_body(&body).ok_or(Reject::Syntax)?;
        if request.fingerprint != *fingerprint {
            return Err(Reject::Fingerprint);
        }
        let parts = DecryptedParts { row: self.row, h: responder.hash(), body };
        Ok(Decrypted { parts, request, reply: ReplyDatagram(responder) })
    }

    fn open_with(
        &self, pair: &KeyPair, gateway: &GatewayKeys, keys: &ClientKeys,
    ) -> Option<([u8; BODY], Responder)> {
        let prologue = gateway.realm.prologue(gateway.gateway);
        let (mut body, seal) = split_seal(&self.sealed)?;
        let responder =
            Responder::open(&prologue, pair, &keys.psk, &self.ephemeral, &mut body, &seal)?;
        Some((body, responder))
    }
}

impl Decrypted {
    /// The request. Not yet proven to be the client's.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The parts for the gatekeeper, and the state that seals the receipt.
    pub fn split(self) -> (DecryptedParts, ReplyDatagram) {
        (self.parts, self.reply)
    }
}

impl ReplyDatagram {
    /// Seals the receipt; `ephemeral` is 32 fresh random bytes. Never `None` in practice.
    pub fn seal(
        self, realm: &Realm, receipt: &Receipt, ephemeral: Secret<32>,
    ) -> Option<[u8; RECEIPT]> {
        let mut body = receipt.encode();
        let (mut head, seal, _) = self.0.seal(&ephemeral, &mut body)?;
        mask::apply(realm.receipt_mask(), &sample(&body), &mut head);
        Some(Writer::new().put(&head).put(&body).put(&seal).done())
    }
}

impl AwaitingReceipt {
    /// Opens the receipt of this knock; `None` for anything else. Try it on every datagram until
    /// the timeout: anybody can send one that does not open.
    pub fn open(&self, datagram: &[u8]) -> Option<Receipt> {
        let datagram: &[u8; RECEIPT] = datagram.try_into().ok()?;
        let mut reader = Reader::new(datagram);
        let mut ephemeral: [u8; KEY] = reader.array()?;
        let sealed = reader.rest();
        mask::apply(self.mask.expose(), &Reader::new(sealed).array()?, &mut ephemeral);
        let (mut body, seal) = split_seal(sealed)?;
        self.noise.open(&ephemeral, &mut body, &seal)?;
        Receipt::decode(&body)
    }
}

/// The bytes that the mask is derived from: the first of the ciphertext.
fn sample<const N: usize>(sealed: &[u8; N]) -> [u8; SAMPLE] {
    const { assert!(N >= SAMPLE) };
    std::array::from_fn(|i| sealed[i])
}

fn split_seal<const N: usize>(sealed: &[u8]) -> Option<([u8; N], [u8; SEAL])> {
    let mut reader = Reader::new(sealed);
    let parts = (reader.array()?, reader.array()?);
    reader.finish()?;
    Some(parts)
}
