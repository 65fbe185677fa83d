//! The knock datagram and the receipt datagram: mask, tag, client MAC, sealed Noise messages.
//! See `knock` for their contents and `authentic` for gate MAC and signature.
//!
//! ```text
//! knock    masked e (32) | masked tag (16) | sealed body (192 + 16) | client MAC (16)
//! receipt  masked e (32) | sealed receipt (136 + 16)
//! ```

use super::authentic;
use super::bytes::{Reader, Writer};
use super::event::KnockId;
use super::keyring::{
    ClientSecrets, Day, GateKey, MAC, Realm, Secret, TAG, TagOwner, TagTable, WireSecret, keyed16,
    same_mac,
};
use super::knock::{
    Asked, BODY, RECEIPT_BODY, RECEIPT_CONTENT, Receipt, SIGNED, Signature, decode_body,
    encode_body,
};
use super::noise::{self, Initiator, KEY, KeyPair, Responder, SEAL};
use super::types::{ClientId, Fault, Fingerprint, GatewayId, Reject};

mod mask;
#[cfg(test)]
mod tests;

use mask::SAMPLE;

/// Bytes of every knock, as UDP payload.
pub const DATAGRAM: usize = KEY + TAG + BODY + SEAL + MAC;
/// Where a knock has its masked tag, with the sample of its mask behind it.
pub const MASKED_TAG: usize = KEY;
/// Bytes of every receipt: fewer than of a knock, so that nothing is amplified.
pub const RECEIPT: usize = KEY + RECEIPT_BODY + SEAL;
/// Bytes that the client MAC covers: all before it, as sent.
pub const COVERED: usize = DATAGRAM - MAC;
/// What it covers before them.
pub const MAC_LABEL: &[u8] = b"toctoc v1 mac of a knock\0";

/// A gateway's keys, as the listener holds them.
pub struct GatewayKeys {
    pub gateway: GatewayId,
    pub realm: Realm,
    /// The key in the profiles.
    pub current: KeyPair,
    /// During a rotation: the next key, or the one before.
    pub other: Option<KeyPair>,
}

/// A client's secrets for one gateway, from its profile.
pub struct ClientSide {
    pub gateway: GatewayId,
    pub realm: Realm,
    pub gateway_public: [u8; KEY],
    pub secrets: ClientSecrets,
}

impl ClientSide {
    /// A second copy, whose secrets are wiped separately.
    pub fn duplicate(&self) -> Self {
        Self {
            gateway: self.gateway,
            realm: self.realm.duplicate(),
            gateway_public: self.gateway_public,
            secrets: self.secrets.duplicate(),
        }
    }

    /// The check value of a profile: `fingerprint` is that of the client's signature key.
    pub fn check(&self, client: ClientId, fingerprint: &Fingerprint) -> [u8; 4] {
        let secrets = &self.secrets;
        let hash = keyed16(
            secrets.clockless().expose(),
            &[
                b"toctoc v1 check of a profile\0",
                &client.0,
                &fingerprint.0,
                &self.gateway.0,
                &self.realm.id().0,
                &self.gateway_public,
                self.realm.mask().expose(),
                &secrets.period().to_be_bytes(),
                secrets.secret().expose(),
            ],
        );
        [hash[0], hash[1], hash[2], hash[3]]
    }
}

/// What anybody needs who seals a body for a gateway: the client, and whoever has the listener's
/// keys.
struct Sealer<'a> {
    realm: &'a Realm,
    wire: &'a WireSecret,
    initiator: Initiator,
}

pub struct AwaitingReceipt {
    noise: noise::AwaitingResponse,
    mask: Secret<32>,
    gate: GateKey,
    gateway: GatewayId,
    /// The handshake hash of the knock.
    h: [u8; 32],
}

/// A datagram with a known client's tag. Anyone in the realm can make it.
pub struct Tagged {
    owner: TagOwner,
    ephemeral: [u8; KEY],
    sealed: [u8; BODY + SEAL],
    datagram: [u8; DATAGRAM],
}

/// A datagram that a holder of that client's MAC key made: worth a curve operation.
pub struct MacVerified {
    ephemeral: [u8; KEY],
    sealed: [u8; BODY + SEAL],
    mac: [u8; MAC],
}

/// A decrypted knock: made with that client's psk, for this gateway, with an unproven signature.
pub struct Decrypted {
    parts: DecryptedParts,
    asked: Asked,
    reply: ReplyDatagram,
}

/// The part of a [`Decrypted`] that the gatekeeper needs.
pub struct DecryptedParts {
    /// The day of the client's keys.
    pub day: Day,
    /// The handshake hash, which the signature must cover.
    pub h: [u8; 32],
    pub body: [u8; BODY],
}

/// The gateway's state after it decrypted a knock: seals one receipt.
pub struct ReplyDatagram(Responder);

/// Makes the datagram for the `signed` bytes of a request, and the state that opens its receipt.
///
/// `day` selects the keys. `ephemeral` is 32 fresh random bytes. `sign` gets the message whose
/// SSHSIG blob ([`authentic::sshsig_blob`]) the client's key must sign. Fails as `sign` does, if
/// there are no keys for that day, or if the gateway's key is of small order.
pub fn seal(
    side: &ClientSide, signed: &[u8; SIGNED], day: Day, ephemeral: Secret<32>,
    sign: impl FnOnce(&authentic::Message) -> Result<Signature, Fault>,
) -> Result<([u8; DATAGRAM], AwaitingReceipt), Fault> {
    let (Some(wire), Some(gate)) = (side.secrets.wire(day), side.secrets.gate(day)) else {
        let what = "the profile has no keys for this day: it was made later";
        return Err(Fault::new(what, "set this machine's clock"));
    };
    let Some(sealer) = Sealer::new(side, &wire, &ephemeral) else {
        let what = "the gateway's public key is of small order: no secret can be agreed with it";
        let remedy = "ask for a new invitation";
        return Err(Fault::new(what, remedy));
    };
    let gateway = side.gateway;
    let h = sealer.initiator.hash();
    let signature = sign(&authentic::message(gateway, &h, signed))?;
    let (datagram, noise) = sealer.seal(encode_body(signed, &signature, &gate, gateway, &h));
    let mask = Secret::new(*side.realm.receipt_mask());
    Ok((datagram, AwaitingReceipt { noise, mask, gate, gateway, h }))
}

/// The datagram of any body, made from its handshake hash with the keys that the listener has of a
/// client. For tests of what somebody can send who took the listener over.
pub fn seal_body(
    side: &ClientSide, wire: &WireSecret, ephemeral: Secret<32>,
    body: impl FnOnce(&[u8; 32]) -> [u8; BODY],
) -> Option<[u8; DATAGRAM]> {
    let sealer = Sealer::new(side, wire, &ephemeral)?;
    let body = body(&sealer.initiator.hash());
    Some(sealer.seal(body).0)
}

impl<'a> Sealer<'a> {
    /// `None` if the gateway's key is of small order.
    fn new(side: &'a ClientSide, wire: &'a WireSecret, ephemeral: &Secret<32>) -> Option<Self> {
        let realm = &side.realm;
        let prologue = realm.prologue(side.gateway);
        let initiator = Initiator::new(&prologue, &side.gateway_public, &wire.psk(), ephemeral)?;
        Some(Self { realm, wire, initiator })
    }

    fn seal(self, mut body: [u8; BODY]) -> ([u8; DATAGRAM], noise::AwaitingResponse) {
        let Self { realm, wire, initiator } = self;
        let mut head =
            Writer::<{ KEY + TAG }>::new().put(&initiator.ephemeral()).put(&wire.tag()).done();
        let (seal, awaiting) = initiator.seal(&mut body);
        mask::apply(realm.knock_mask(), &sample(&body), &mut head);
        let covered = Writer::<COVERED>::new().put(&head).put(&body).put(&seal).done();
        let mac = keyed16(wire.mac_key().expose(), &[MAC_LABEL, &covered]);
        (Writer::new().put(&covered).put(&mac).done(), awaiting)
    }
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
    let owner = tags.find(&tag).ok_or(Reject::UnknownTag)?;
    Ok(Tagged { owner, ephemeral, sealed, datagram: *datagram })
}

/// The tag that a datagram carries. `None` if it has another length.
#[cfg(any(test, fuzzing))]
pub fn tag(gateway: &GatewayKeys, datagram: &[u8]) -> Option<[u8; TAG]> {
    let mut reader = Reader::new(<&[u8; DATAGRAM]>::try_from(datagram).ok()?);
    let mut head: [u8; KEY + TAG] = reader.array()?;
    mask::apply(gateway.realm.knock_mask(), &reader.array()?, &mut head);
    head[KEY..].try_into().ok()
}

impl Tagged {
    /// The client's row, and which of its tags the datagram carries.
    pub fn owner(&self) -> TagOwner {
        self.owner
    }

    /// Checks the client MAC in constant time: two keyed hashes. Fails with `ClientMac`.
    pub fn check_mac(self, wire: &WireSecret) -> Result<MacVerified, Reject> {
        let Self { ephemeral, sealed, datagram, .. } = self;
        let mut reader = Reader::new(&datagram);
        let covered = reader.take(COVERED).ok_or(Reject::Length)?;
        let sent = reader.array().ok_or(Reject::Length)?;
        let mac = keyed16(wire.mac_key().expose(), &[MAC_LABEL, covered]);
        if !same_mac(&mac, &sent) {
            return Err(Reject::ClientMac);
        }
        Ok(MacVerified { ephemeral, sealed, mac })
    }
}

impl MacVerified {
    /// The client MAC. It identifies this datagram among those seen before.
    pub fn mac(&self) -> [u8; MAC] {
        self.mac
    }

    /// Decrypts the knock and checks its syntax. `wire` and `day` belong to its tag. Costs one
    /// curve operation for each of the gateway's keys until one fits. Fails with `Noise` or
    /// `Syntax`.
    pub fn open(
        self, gateway: &GatewayKeys, wire: &WireSecret, day: Day,
    ) -> Result<Decrypted, Reject> {
        let psk = wire.psk();
        let mut opened = self.open_with(&gateway.current, gateway, &psk);
        if let (None, Some(other)) = (&opened, &gateway.other) {
            opened = self.open_with(other, gateway, &psk);
        }
        let (body, responder) = opened.ok_or(Reject::Noise)?;
        let (asked, _) = decode_body(&body, day).ok_or(Reject::Syntax)?;
        let parts = DecryptedParts { day, h: responder.hash(), body };
        Ok(Decrypted { parts, asked, reply: ReplyDatagram(responder) })
    }

    fn open_with(
        &self, pair: &KeyPair, gateway: &GatewayKeys, psk: &Secret<32>,
    ) -> Option<([u8; BODY], Responder)> {
        let prologue = gateway.realm.prologue(gateway.gateway);
        let (mut body, seal) = split_seal(&self.sealed)?;
        let responder = Responder::open(&prologue, pair, psk, &self.ephemeral, &mut body, &seal)?;
        Some((body, responder))
    }
}

impl Decrypted {
    /// What it asks for. Not yet proven to be the client's.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// The parts for the gatekeeper, and the state that seals the receipt.
    pub fn split(self) -> (DecryptedParts, ReplyDatagram) {
        (self.parts, self.reply)
    }
}

impl ReplyDatagram {
    /// Seals the gatekeeper's receipt; `ephemeral` is 32 fresh random bytes. Never `None` in
    /// practice.
    pub fn seal(
        self, realm: &Realm, mut body: [u8; RECEIPT_BODY], ephemeral: Secret<32>,
    ) -> Option<[u8; RECEIPT]> {
        let (mut head, seal, _) = self.0.seal(&ephemeral, &mut body)?;
        mask::apply(realm.receipt_mask(), &sample(&body), &mut head);
        Some(Writer::new().put(&head).put(&body).put(&seal).done())
    }
}

impl AwaitingReceipt {
    /// The id of the knock.
    pub fn id(&self) -> KnockId {
        KnockId::of(&self.h)
    }

    /// Opens the receipt of this knock; `None` for anything else. Try it on every datagram until
    /// the timeout: anybody can send one that does not open.
    pub fn open(&self, datagram: &[u8]) -> Option<Receipt> {
        let datagram: &[u8; RECEIPT] = datagram.try_into().ok()?;
        let mut reader = Reader::new(datagram);
        let mut ephemeral: [u8; KEY] = reader.array()?;
        let sealed = reader.rest();
        mask::apply(self.mask.expose(), &Reader::new(sealed).array()?, &mut ephemeral);
        let (mut body, seal) = split_seal::<RECEIPT_BODY>(sealed)?;
        self.noise.open(&ephemeral, &mut body, &seal)?;
        let mut reader = Reader::new(&body);
        let content: [u8; RECEIPT_CONTENT] = reader.array()?;
        // Only the gatekeeper can make it. The listener could seal anything.
        let mac = self.gate.receipt_mac(self.gateway, &self.h, &content);
        if !same_mac(&mac, &reader.array()?) {
            return None;
        }
        Receipt::decode(&content)
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
