//! The datagram and the receipt as they travel: mask, tag, client MAC, and the seal around both
//! Noise messages. What they say is left to `knock`, whom to believe to `authentic`; time, entropy
//! and signatures are passed in.
//!
//! ```text
//! knock    masked e (32) | masked tag (16) | sealed body (192 + 16) | client MAC (16)
//! receipt  masked e (32) | sealed receipt (120 + 16)
//! ```

use subtle::ConstantTimeEq;

use super::authentic;
use super::bytes::{Reader, Writer};
use super::keyring::{ClientKeys, Day, Realm, Secret, TAG, Tag, TagTable, keyed16};
use super::knock::{BODY, RECEIPT_BODY, Receipt, Request, Signature, decode_body, encode_body};
use super::noise::{self, Initiator, KEY, KeyPair, Responder, SEAL};
use super::types::{Fault, Fingerprint, Reject};

mod mask;
#[cfg(test)]
mod tests;

use mask::SAMPLE;

/// Bytes of a client MAC.
pub const MAC: usize = 16;
/// Bytes of every knock: the UDP payload has this length or is none.
pub const DATAGRAM: usize = KEY + TAG + BODY + SEAL + MAC;
/// Bytes of every receipt: fewer than of a knock, so that nothing is amplified.
pub const RECEIPT: usize = KEY + RECEIPT_BODY + SEAL;
/// What the client MAC covers: all before it, as it travels.
const MACED: usize = DATAGRAM - MAC;

const MAC_LABEL: &[u8] = b"toctoc v1 mac of a knock\0";

/// A gateway's keys, as the listener holds them.
pub struct GatewayKeys {
    /// Who it is.
    pub realm: Realm,
    /// The key that profiles name.
    pub current: KeyPair,
    /// While keys rotate: the next one, or the one before.
    pub other: Option<KeyPair>,
}

/// What a client's profile holds about one gateway.
pub struct ClientSide {
    /// Which gateway.
    pub realm: Realm,
    /// Its X25519 public key.
    pub gateway_public: [u8; KEY],
    /// What the two share.
    pub keys: ClientKeys,
}

/// The client's end of a knock that was sent.
pub struct AwaitingReceipt {
    noise: noise::AwaitingResponse,
    mask: Secret<32>,
}

/// A datagram with the tag of the client in one row. Anyone in the realm can make that.
pub struct Tagged {
    row: u32,
    ephemeral: [u8; KEY],
    sealed: [u8; BODY + SEAL],
    datagram: [u8; DATAGRAM],
}

/// A datagram that somebody with that client's MAC key made: worth a curve operation.
pub struct MacVerified {
    row: u32,
    ephemeral: [u8; KEY],
    sealed: [u8; BODY + SEAL],
    mac: [u8; MAC],
}

/// A knock that opened: made with that client's psk, for this gateway. The signature is still
/// unproven.
pub struct Decrypted {
    parts: DecryptedParts,
    request: Request,
    reply: ReplyDatagram,
}

/// What the gatekeeper needs of a [`Sealed`].
pub struct DecryptedParts {
    /// The client's row.
    pub row: u32,
    /// The handshake hash that its signature must cover.
    pub h: [u8; 32],
    /// The body, as it was sealed.
    pub body: [u8; BODY],
}

/// The gateway's end of a knock that opened: seals one receipt.
pub struct ReplyDatagram(Responder);

/// Makes the datagram for `request`, and the state that opens its receipt.
///
/// `day` chooses the tag, `ephemeral` is 32 fresh random bytes, `sign` is given the message whose
/// SSHSIG blob ([`authentic::sshsig_blob`]) the client's key must sign. Fails if `sign` does or if
/// the gateway's key is of small order.
pub fn seal(
    side: &ClientSide,
    request: &Request,
    day: Day,
    ephemeral: Secret<32>,
    sign: impl FnOnce(&authentic::Message) -> Result<Signature, Fault>,
) -> Result<([u8; DATAGRAM], AwaitingReceipt), Fault> {
    let start =
        Initiator::new(&side.realm.prologue(), &side.gateway_public, &side.keys.psk, &ephemeral);
    let start = start.ok_or_else(|| {
        Fault::new(
            "the gateway's public key is of small order: no secret can be agreed with it",
            "ask for a new invitation",
        )
    })?;
    let signature =
        sign(&authentic::message(side.realm.gateway(), &start.hash(), &request.encode()))?;
    let body = encode_body(request, &signature);
    let (datagram, noise) = seal_body(side, start, day.tag(&side.keys.tag), body);
    Ok((datagram, AwaitingReceipt { noise, mask: Secret::new(*side.realm.receipt_mask()) }))
}

/// The layout of a datagram, around whatever body: `seal` without the signature. Public for those
/// who test what a thief of one client's symmetric keys can send.
pub fn seal_unsigned(
    side: &ClientSide,
    body: [u8; BODY],
    day: Day,
    ephemeral: Secret<32>,
) -> Option<[u8; DATAGRAM]> {
    let start =
        Initiator::new(&side.realm.prologue(), &side.gateway_public, &side.keys.psk, &ephemeral)?;
    Some(seal_body(side, start, day.tag(&side.keys.tag), body).0)
}

fn seal_body(
    side: &ClientSide,
    start: Initiator,
    tag: Tag,
    mut body: [u8; BODY],
) -> ([u8; DATAGRAM], noise::AwaitingResponse) {
    let mut hidden = Writer::<{ KEY + TAG }>::new().put(&start.ephemeral()).put(&tag).done();
    let (seal, awaiting) = start.seal(&mut body);
    mask::apply(side.realm.knock_mask(), &sample(&body), &mut hidden);
    let maced = Writer::<MACED>::new().put(&hidden).put(&body).put(&seal).done();
    let mac = keyed16(side.keys.mac.expose(), &[MAC_LABEL, &maced]);
    (Writer::new().put(&maced).put(&mac).done(), awaiting)
}

/// Finds the client whose tag a datagram carries: one ChaCha20 block and one look-up, whatever is
/// sent.
///
/// Fails with `Length` or `UnknownTag`, which is where a flood ends.
pub fn identify(gateway: &GatewayKeys, tags: &TagTable, datagram: &[u8]) -> Result<Tagged, Reject> {
    let datagram: &[u8; DATAGRAM] = datagram.try_into().map_err(|_| Reject::Length)?;
    let mut reader = Reader::new(datagram);
    let mut hidden: [u8; KEY + TAG] = reader.array().ok_or(Reject::Length)?;
    let sealed: [u8; BODY + SEAL] = reader.array().ok_or(Reject::Length)?;
    mask::apply(gateway.realm.knock_mask(), &sample(&sealed), &mut hidden);
    let mut reader = Reader::new(&hidden);
    let ephemeral = reader.array().ok_or(Reject::Length)?;
    let tag = reader.array().ok_or(Reject::Length)?;
    let row = tags.find(&tag).ok_or(Reject::UnknownTag)?;
    Ok(Tagged { row, ephemeral, sealed, datagram: *datagram })
}

impl Tagged {
    /// The row of the client that it claims to be.
    pub fn row(&self) -> u32 {
        self.row
    }

    /// Checks the client MAC in constant time: one keyed hash. Fails with `ClientMac`.
    pub fn check_mac(self, keys: &ClientKeys) -> Result<MacVerified, Reject> {
        let (maced, mac) = self.datagram.split_at(MACED);
        let expected = keyed16(keys.mac.expose(), &[MAC_LABEL, maced]);
        if !bool::from(expected.as_slice().ct_eq(mac)) {
            return Err(Reject::ClientMac);
        }
        Ok(MacVerified {
            row: self.row,
            ephemeral: self.ephemeral,
            sealed: self.sealed,
            mac: expected,
        })
    }
}

impl MacVerified {
    /// The client MAC: names this one datagram, for the ring of those seen before.
    pub fn mac(&self) -> [u8; MAC] {
        self.mac
    }

    /// Opens it: one curve operation for each of the gateway's keys until one fits, the body's
    /// syntax, the fingerprint.
    ///
    /// Fails with `Noise`, `Syntax` or `Fingerprint`.
    pub fn open(
        self,
        gateway: &GatewayKeys,
        keys: &ClientKeys,
        fingerprint: &Fingerprint,
    ) -> Result<Decrypted, Reject> {
        let (body, responder) = [Some(&gateway.current), gateway.other.as_ref()]
            .into_iter()
            .flatten()
            .find_map(|pair| self.open_with(pair, &gateway.realm, keys))
            .ok_or(Reject::Noise)?;
        let (request, _) = decode_body(&body).ok_or(Reject::Syntax)?;
        if request.fingerprint != *fingerprint {
            return Err(Reject::Fingerprint);
        }
        let parts = DecryptedParts { row: self.row, h: responder.hash(), body };
        Ok(Decrypted { parts, request, reply: ReplyDatagram(responder) })
    }

    fn open_with(
        &self,
        pair: &KeyPair,
        realm: &Realm,
        keys: &ClientKeys,
    ) -> Option<([u8; BODY], Responder)> {
        let (mut body, seal) = split_seal::<BODY>(&self.sealed)?;
        Responder::open(&realm.prologue(), pair, &keys.psk, &self.ephemeral, &mut body, &seal)
            .map(|r| (body, r))
    }
}

impl Decrypted {
    /// What it asks for, not yet proven to be the client's wish.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// For the gatekeeper, and for the answer.
    pub fn split(self) -> (DecryptedParts, ReplyDatagram) {
        (self.parts, self.reply)
    }
}

impl ReplyDatagram {
    /// Seals the receipt; `ephemeral` is 32 fresh random bytes. `None` cannot happen for a knock
    /// that opened.
    pub fn seal(
        self,
        realm: &Realm,
        receipt: &Receipt,
        ephemeral: Secret<32>,
    ) -> Option<[u8; RECEIPT]> {
        let mut body = receipt.encode();
        let (mut hidden, seal, _) = self.0.seal(&ephemeral, &mut body)?;
        mask::apply(realm.receipt_mask(), &sample(&body), &mut hidden);
        Some(Writer::new().put(&hidden).put(&body).put(&seal).done())
    }
}

impl AwaitingReceipt {
    /// Opens the receipt of this very knock; `None` for anything else. Try it on every datagram
    /// that comes until the timeout: what does not open says nothing.
    pub fn open(&self, datagram: &[u8]) -> Option<Receipt> {
        let datagram: &[u8; RECEIPT] = datagram.try_into().ok()?;
        let mut reader = Reader::new(datagram);
        let mut ephemeral: [u8; KEY] = reader.array()?;
        let sealed = reader.rest();
        mask::apply(self.mask.expose(), &Reader::new(sealed).array()?, &mut ephemeral);
        let (mut body, seal) = split_seal::<RECEIPT_BODY>(sealed)?;
        self.noise.open(&ephemeral, &mut body, &seal)?;
        Receipt::decode(&body)
    }
}

/// The bytes that the mask is drawn from: the first of the ciphertext.
fn sample<const N: usize>(sealed: &[u8; N]) -> [u8; SAMPLE] {
    const { assert!(N >= SAMPLE) };
    std::array::from_fn(|i| sealed[i])
}

/// Ciphertext and its tag.
fn split_seal<const N: usize>(sealed: &[u8]) -> Option<([u8; N], [u8; SEAL])> {
    let mut reader = Reader::new(sealed);
    let parts = (reader.array()?, reader.array()?);
    reader.finish()?;
    Some(parts)
}
