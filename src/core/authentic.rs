//! `HandedKnock` -> `Authentic`: the gatekeeper verifies the gate MAC, then the Ed25519 signature
//! over the SSHSIG blob. See `replay` for time and replay, `policy` for permission.

use ed25519_dalek::{Signature as Ed25519, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256, Sha512};

use super::bytes::Writer;
use super::keyring::{Day, GateKey, Secret, same_mac};
use super::knock::{Asked, GATED, HandedKnock, Request, SIGNED, Signature, decode_body};
use super::public_key::{FidoKey, PublicKey};
use super::service::Client;
use super::types::{ClientId, Fault, Fingerprint, GatewayId, Reject, Source};

#[cfg(test)]
mod tests;

/// The SSHSIG namespace. A signature for a git commit or a login is not valid here, nor ours there.
pub const NAMESPACE: &str = "knock@toctoc.v1";
const LABEL: &[u8; 16] = b"toctoc knock v1\0";
pub const MESSAGE: usize = LABEL.len() + 16 + 32 + SIGNED;
/// The client signs this: label, gateway id, handshake hash, the signed bytes of its request.
pub type Message = [u8; MESSAGE];
/// Bytes of the SSHSIG blob: preamble, then namespace, reserved, hash name, hash after their
/// lengths.
pub const BLOB: usize = 6 + (4 + NAMESPACE.len()) + 4 + (4 + HASH.len()) + (4 + 64);
const PREAMBLE: &[u8; 6] = b"SSHSIG";
const HASH: &[u8; 6] = b"sha512";

/// The message for `gateway`, the handshake hash `h` and the request's `signed` bytes.
///
/// `h` binds the signature to one gateway key and one ephemeral key. Without it, one gateway could
/// pass a client's knock on to another. The gateway's id is there because the gatekeeper decrypts
/// nothing: it must believe the listener's `h`, but it knows its own id.
pub fn message(gateway: GatewayId, h: &[u8; 32], signed: &[u8; SIGNED]) -> Message {
    Writer::new().put(LABEL).put(&gateway.0).put(h).put(signed).done()
}

/// The bytes that Ed25519 signs, as `ssh-keygen -Y sign -n knock@toctoc.v1` and an agent do
/// (OpenSSH's PROTOCOL.sshsig). They are never sent: the verifier builds them again.
pub fn sshsig_blob(message: &Message) -> [u8; BLOB] {
    let mut blob = Writer::<BLOB>::new();
    blob.put(PREAMBLE);
    for field in [NAMESPACE.as_bytes(), &[], HASH, Sha512::digest(message).as_slice()] {
        let length = u32::try_from(field.len()).expect("fields are at most 64 bytes long");
        blob.u32(length).put(field);
    }
    blob.done()
}

/// Signs `message` with the Ed25519 seed of a plain key.
pub fn sign(seed: &Secret<32>, message: &Message) -> Signature {
    let signature = SigningKey::from_bytes(seed.expose()).sign(&sshsig_blob(message));
    Signature { ed25519: signature.to_bytes(), sk_flags: 0, sk_counter: 0 }
}

pub fn public_key(seed: &Secret<32>) -> [u8; 32] {
    SigningKey::from_bytes(seed.expose()).verifying_key().to_bytes()
}

impl Client {
    /// The fingerprint of its key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.key.fingerprint()
    }
}

/// A request that the client's key signed. Its time and permission are not checked yet.
pub struct Authentic {
    client: ClientId,
    request: Request,
    source: Source,
    source_port: u16,
    handshake: Handshake,
}

/// Which knock a receipt answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The day of the client's keys.
    pub day: Day,
    /// The handshake hash.
    pub h: [u8; 32],
}

impl Authentic {
    /// Proves that `client` made `knock` for `gateway`: the verifier's own id, never one that came
    /// with the knock. The client's key must be sound (`clients`), and `gate` is its gate key of
    /// the knock's day.
    ///
    /// Fails with `Pipe` (another client's), `Gate`, `Syntax` or `Signature`, in this order.
    /// Refuses points of small order, encodings that are not canonical, FIDO fields of a plain key,
    /// and a FIDO signature without the touch or the PIN that the client's line demands.
    pub fn verify(
        knock: HandedKnock, client: &Client, gateway: GatewayId, gate: &GateKey,
    ) -> Result<Authentic, Reject> {
        if knock.client != client.id {
            return Err(Reject::Pipe);
        }
        let (asked, signature) = open_gate(&knock, gateway, gate)?;
        // An enrolled client has nothing to enrol.
        let Asked::Request(request) = asked else { return Err(Reject::Syntax) };
        check_signature(&client.key, &blob_of(&knock, gateway)?, &signature)
            .ok_or(Reject::Signature)?;
        Ok(Authentic::new(&knock, request))
    }

    fn new(knock: &HandedKnock, request: Request) -> Authentic {
        Authentic {
            client: knock.client,
            request,
            source: knock.source,
            source_port: knock.source_port,
            handshake: Handshake { day: knock.day, h: knock.h },
        }
    }

    #[cfg(test)]
    pub(crate) fn for_test(
        client: ClientId, request: Request, source: Source, source_port: u16,
    ) -> Authentic {
        let handshake = Handshake { day: Day::Number(request.timestamp.day()), h: [0; 32] };
        Authentic { client, request, source, source_port, handshake }
    }

    /// What the receipt needs to know of the knock.
    pub fn handshake(&self) -> Handshake {
        self.handshake
    }

    pub fn client(&self) -> ClientId {
        self.client
    }

    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The packet's source, according to the listener.
    pub fn source(&self) -> Source {
        self.source
    }

    /// The address to grant: the signed one, or the packet's source if none was signed.
    pub fn address(&self) -> Source {
        self.request.address.unwrap_or(self.source)
    }

    pub fn source_port(&self) -> u16 {
        self.source_port
    }
}

/// A knock by which somebody asks to join: the holder of an invitation made it, and the key in it
/// signed it. Its time is not checked yet.
pub struct AuthenticEnrolment {
    knock: Authentic,
    key: PublicKey,
}

impl AuthenticEnrolment {
    /// Proves that the holder of the invitation that `knock` names made it for `gateway`, and that
    /// its key signed it. `gate` is the gate key of that invitation.
    ///
    /// Fails with `Gate`, `Syntax` or `Signature`, in this order. A key that may not be enrolled
    /// counts as `Signature`: what it signs proves nothing.
    pub fn verify(
        knock: &HandedKnock, gateway: GatewayId, gate: &GateKey,
    ) -> Result<AuthenticEnrolment, Reject> {
        let (asked, signature) = open_gate(knock, gateway, gate)?;
        let Asked::Enrolment(enrolment) = asked else { return Err(Reject::Syntax) };
        // Signed for another invitation: its owner must not be enrolled under this one.
        if enrolment.invitation != knock.client {
            return Err(Reject::Syntax);
        }
        check_enrolment_key(&enrolment.key).map_err(|_| Reject::Signature)?;
        let key = enrolment.public_key();
        check_signature(&key, &blob_of(knock, gateway)?, &signature).ok_or(Reject::Signature)?;
        Ok(AuthenticEnrolment { knock: Authentic::new(knock, enrolment.as_request()), key })
    }

    pub(super) fn into_parts(self) -> (Authentic, PublicKey) {
        (self.knock, self.key)
    }
}

/// What a knock asks for, once its gate MAC has shown that its client made it.
fn open_gate(
    knock: &HandedKnock, gateway: GatewayId, gate: &GateKey,
) -> Result<(Asked, Signature), Reject> {
    let (gated, sent) = knock.body.split_first_chunk::<GATED>().ok_or(Reject::Syntax)?;
    let sent = sent.try_into().map_err(|_| Reject::Syntax)?;
    if !same_mac(&gate.gate_mac(gateway, &knock.h, gated), sent) {
        return Err(Reject::Gate);
    }
    decode_body(&knock.body, knock.day).ok_or(Reject::Syntax)
}

/// The blob that the signature must be of, from the bytes as received and not encoded again:
/// nothing unsigned can slip in.
fn blob_of(knock: &HandedKnock, gateway: GatewayId) -> Result<[u8; BLOB], Reject> {
    let signed = knock.body.first_chunk::<SIGNED>().ok_or(Reject::Syntax)?;
    Ok(sshsig_blob(&message(gateway, &knock.h, signed)))
}

fn check_signature(key: &PublicKey, blob: &[u8; BLOB], signature: &Signature) -> Option<()> {
    if let Some(fido) = &key.fido
        && !fido.admits(signature.sk_flags)
    {
        return None;
    }
    check_blob(key, blob, signature)
}

/// True if `key` made this signature of `message`. A gateway may demand more of its FIDO flags.
pub fn is_signed(key: &PublicKey, message: &Message, signature: &Signature) -> bool {
    check_blob(key, &sshsig_blob(message), signature).is_some()
}

fn check_blob(key: &PublicKey, blob: &[u8; BLOB], signature: &Signature) -> Option<()> {
    let ed25519 = VerifyingKey::from_bytes(&key.ed25519).ok()?;
    let made = Ed25519::from_bytes(&signature.ed25519);
    match &key.fido {
        Some(fido) => ed25519.verify_strict(&fido.signed_bytes(blob, signature), &made).ok(),
        // A plain key has no authenticator that could have set these.
        None if signature.sk_flags != 0 || signature.sk_counter != 0 => None,
        None => ed25519.verify_strict(blob, &made).ok(),
    }
}

/// The flag of an authenticator that somebody touched.
pub const TOUCHED: u8 = 1;
/// The flag of an authenticator that knows who touched it, by a PIN or a fingerprint.
pub const VERIFIED: u8 = 4;
/// Bytes that an authenticator signs.
const FIDO_SIGNED: usize = 32 + 1 + 4 + 32;

impl FidoKey {
    /// True if a signature with these flags is enough. Other flags mean nothing here.
    fn admits(&self, flags: u8) -> bool {
        (!self.touch || flags & TOUCHED != 0) && (!self.verify || flags & VERIFIED != 0)
    }

    /// The bytes that the authenticator signed, as in OpenSSH's PROTOCOL.u2f.
    fn signed_bytes(&self, blob: &[u8; BLOB], signature: &Signature) -> [u8; FIDO_SIGNED] {
        Writer::new()
            .put(Sha256::digest(&self.application).as_slice())
            .u8(signature.sk_flags)
            .u32(signature.sk_counter)
            .put(Sha256::digest(blob).as_slice())
            .done()
    }
}

/// Checks that `key` may be enrolled: a canonical encoding of a point in the prime-order group.
///
/// A key of small order has valid signatures that nobody made. A second encoding of a key has
/// another fingerprint, so a revocation by fingerprint would miss it.
pub fn check_enrolment_key(key: &[u8; 32]) -> Result<(), Fault> {
    let what = match VerifyingKey::from_bytes(key) {
        Err(_) => "the Ed25519 key is not a point on the curve",
        Ok(parsed) if parsed.to_edwards().compress().to_bytes() != *key => {
            "the Ed25519 key is not in its canonical encoding"
        }
        Ok(parsed) if parsed.is_weak() || !parsed.to_edwards().is_torsion_free() => {
            "the Ed25519 key is not in the prime-order group: its signatures prove nothing"
        }
        Ok(_) => return Ok(()),
    };
    Err(Fault::new(what, "make a new one with `toctoc keygen` or `ssh-keygen -t ed25519`"))
}
