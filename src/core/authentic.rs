//! `Claim` -> `Authentic`: the Ed25519 signature over the SSHSIG blob, verified where the privilege
//! is. Time and replay are left to `replay`, permission to `policy`.

use ed25519_dalek::{Signature as Ed25519, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256, Sha512};

use super::bytes::Writer;
use super::keyring::Secret;
use super::knock::{HandedKnock, Request, SIGNED, Signature, decode_body};
use super::service::Client;
use super::types::{ClientId, Fault, Fingerprint, GatewayId, Reject, Source};

#[cfg(test)]
mod tests;

/// The SSHSIG namespace: a signature made for anything else, a git commit or a login, is none here,
/// and ours none there.
pub const NAMESPACE: &str = "knock@toctoc.v1";

const LABEL: &[u8; 16] = b"toctoc knock v1\0";
/// Bytes of a message to be signed.
pub const MESSAGE: usize = LABEL.len() + 16 + 32 + SIGNED;
/// What the client signs: label, gateway id, handshake hash, the signed bytes of its request.
pub type Message = [u8; MESSAGE];
/// Bytes of the SSHSIG blob: the preamble, then namespace, empty reserved, hash name and hash, each
/// behind its length.
pub const BLOB: usize = 6 + (4 + NAMESPACE.len()) + 4 + (4 + HASH.len()) + (4 + 64);

const PREAMBLE: &[u8; 6] = b"SSHSIG";
const HASH: &[u8; 6] = b"sha512";

/// The message for `gateway`, the handshake hash `h` (after `psk, e, es`) and the request's
/// `signed` bytes.
///
/// `h` binds the signature to one gateway key and one ephemeral key: without it a gateway that a
/// client also knocks at could carry its knock to another. The gateway's name stands beside it
/// because a verifier that opens no packets must believe whoever tells it `h`, but knows its own
/// name.
pub fn message(gateway: GatewayId, h: &[u8; 32], signed: &[u8; SIGNED]) -> Message {
    Writer::new().put(LABEL).put(&gateway.0).put(h).put(signed).done()
}

/// What Ed25519 signs, the same bytes that `ssh-keygen -Y sign -n knock@toctoc.v1` and an agent are
/// given (OpenSSH's PROTOCOL.sshsig). It never travels: the verifier builds it again.
pub fn sshsig_blob(message: &Message) -> [u8; BLOB] {
    let mut blob = Writer::<BLOB>::new();
    blob.put(PREAMBLE);
    for field in [NAMESPACE.as_bytes(), &[], HASH, Sha512::digest(message).as_slice()] {
        let length = u32::try_from(field.len()).expect("fields are at most 64 bytes long");
        blob.u32(length).put(field);
    }
    blob.done()
}

/// Signs `message` with the Ed25519 seed of a plain key, for clients that hold it themselves.
pub fn sign(seed: &Secret<32>, message: &Message) -> Signature {
    let signature = SigningKey::from_bytes(seed.expose()).sign(&sshsig_blob(message));
    Signature { ed25519: signature.to_bytes(), sk_flags: 0, sk_counter: 0 }
}

/// The Ed25519 public key of `seed`.
pub fn public_key(seed: &Secret<32>) -> [u8; 32] {
    SigningKey::from_bytes(seed.expose()).verifying_key().to_bytes()
}

/// The fingerprint of a plain Ed25519 key: SHA-256 of its SSH blob, as `ssh-keygen -l` shows it.
pub fn fingerprint(key: &[u8; 32]) -> Fingerprint {
    let blob = Writer::<51>::new().u32(11).put(b"ssh-ed25519").u32(32).put(key).done();
    Fingerprint(Sha256::digest(blob).into())
}

/// A knock that is said to be a client's.
pub struct Claim {
    /// Whose it is said to be.
    pub client: ClientId,
    /// What came up the pipe.
    pub knock: HandedKnock,
}

/// A request that the client's key signed. Nothing is said yet about when, or whether it may.
pub struct Authentic {
    client: ClientId,
    request: Request,
    source: Source,
    source_port: u16,
}

impl Authentic {
    /// Proves `claim` to be `client`'s, signed for `gateway`: the verifier's own name, never one
    /// that came with the claim.
    ///
    /// Fails with `Pipe` (another client's), `Syntax`, `Fingerprint` or `Signature`. Strict: points
    /// of small order and encodings that are not canonical are refused, and so are the FIDO fields
    /// of a key that is none.
    pub fn verify(claim: Claim, client: &Client, gateway: GatewayId) -> Result<Authentic, Reject> {
        let Claim { client: claimed, knock } = claim;
        if claimed != client.id {
            return Err(Reject::Pipe);
        }
        let (request, signature) = decode_body(&knock.body).ok_or(Reject::Syntax)?;
        if request.fingerprint != client.fingerprint {
            return Err(Reject::Fingerprint);
        }
        // The bytes as they came, not as we would write them again: nothing that was not signed
        // slips in between.
        let signed = knock.body.first_chunk::<SIGNED>().ok_or(Reject::Syntax)?;
        let blob = sshsig_blob(&message(gateway, &knock.h, signed));
        check_signature(&client.key, &blob, &signature).ok_or(Reject::Signature)?;
        Ok(Authentic {
            client: client.id,
            request,
            source: knock.source,
            source_port: knock.source_port,
        })
    }

    /// As if `client` had signed `request`, for the tests of what comes after.
    #[cfg(test)]
    pub(crate) fn for_test(
        client: ClientId,
        request: Request,
        source: Source,
        source_port: u16,
    ) -> Authentic {
        Authentic { client, request, source, source_port }
    }

    /// Who signed.
    pub fn client(&self) -> ClientId {
        self.client
    }

    /// What was signed.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Where the packet came from, as the listener says.
    pub fn source(&self) -> Source {
        self.source
    }

    /// The address that it is about: the one that was signed, or if none was, where the packet came
    /// from.
    pub fn address(&self) -> Source {
        self.request.address.unwrap_or(self.source)
    }

    /// Its source port, as the listener says.
    pub fn source_port(&self) -> u16 {
        self.source_port
    }
}

fn check_signature(key: &[u8; 32], blob: &[u8; BLOB], signature: &Signature) -> Option<()> {
    // The enrolled key fixes the scheme. It is a plain one, so there is no authenticator that could
    // have set these.
    (signature.sk_flags == 0 && signature.sk_counter == 0).then_some(())?;
    let key = VerifyingKey::from_bytes(key).ok()?;
    key.verify_strict(blob, &Ed25519::from_bytes(&signature.ed25519)).ok()
}

/// Whether `key` may be enrolled: a canonical encoding of a point in the prime-order group, as
/// every honest key is.
///
/// Under a key of small order signatures exist that nobody made; a second encoding of a key has
/// another fingerprint and would escape a revocation by it.
pub fn check_enrolment_key(key: &[u8; 32]) -> Result<(), Fault> {
    let fault = |what: &str| {
        Fault::new(what, "make a new one with `toctoc keygen` or `ssh-keygen -t ed25519`")
    };
    let parsed = VerifyingKey::from_bytes(key)
        .map_err(|_| fault("the Ed25519 key is not a point on the curve"))?;
    let point = parsed.to_edwards();
    if point.compress().to_bytes() != *key {
        return Err(fault("the Ed25519 key is not in its canonical encoding"));
    }
    if parsed.is_weak() || !point.is_torsion_free() {
        return Err(fault(
            "the Ed25519 key lies outside the prime-order group, so signatures under it prove nothing",
        ));
    }
    Ok(())
}
