//! A client's public key as it is enrolled: a plain Ed25519 key, or one in a FIDO authenticator.
//! See `authentic` for its signatures, `keys::public` for its text form.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::bytes::Reader;
use super::types::Fingerprint;
use crate::core::bytes::saturated_u32;

/// OpenSSH's name of a plain key.
pub const ED25519: &str = "ssh-ed25519";
/// OpenSSH's name of a FIDO key.
pub const SK_ED25519: &str = "sk-ssh-ed25519@openssh.com";
/// Bytes of the longest key blob that is read.
pub const LONGEST_BLOB: usize = 256;
/// The application of a FIDO key that nobody gave another one.
pub const APPLICATION: &str = "ssh:";

/// Whether it may be enrolled is another question: see `authentic::check_enrolment_key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// The Ed25519 key. Each client has another one.
    pub ed25519: [u8; 32],
    /// Set for a FIDO key. A pointer, because there may be 100,000 clients and most keys are plain.
    pub fido: Option<Arc<FidoKey>>,
}

/// What is special about a FIDO key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FidoKey {
    /// The application that the key was made for; a signature covers its hash.
    pub application: String,
    /// True unless its line says `no-touch-required`: a signature without a touch proves nothing.
    pub touch: bool,
    /// True if its line says `verify-required`: a signature also takes a PIN or a fingerprint.
    pub verify: bool,
}

impl FidoKey {
    /// With the rules that hold unless a line has others.
    pub fn new(application: &str) -> FidoKey {
        FidoKey { application: application.to_owned(), touch: true, verify: false }
    }
}

impl PublicKey {
    pub fn plain(ed25519: [u8; 32]) -> PublicKey {
        PublicKey { ed25519, fido: None }
    }

    /// OpenSSH's name of this type of key.
    pub fn algorithm(&self) -> &'static str {
        if self.fido.is_some() { SK_ED25519 } else { ED25519 }
    }

    /// Reads an SSH key blob. `None` for another type of key, a wrong length, or a FIDO key whose
    /// application does not begin with `ssh:`: such a key belongs to a web site.
    pub fn from_blob(blob: &[u8]) -> Option<PublicKey> {
        let mut reader = Reader::new(blob);
        let algorithm = reader.string()?;
        let mut key = PublicKey::plain(reader.string()?.try_into().ok()?);
        if algorithm == SK_ED25519.as_bytes() {
            let application = std::str::from_utf8(reader.string()?).ok()?;
            let is_ours = application.starts_with(APPLICATION) && blob.len() <= LONGEST_BLOB;
            if !is_ours || application.contains(char::is_control) {
                return None;
            }
            key.fido = Some(Arc::new(FidoKey::new(application)));
        } else if algorithm != ED25519.as_bytes() {
            return None;
        }
        reader.finish()?;
        Some(key)
    }

    /// The SSH key blob.
    pub fn blob(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        let application = self.fido.as_ref().map(|fido| fido.application.as_bytes());
        for field in [Some(self.algorithm().as_bytes()), Some(&self.ed25519), application] {
            let Some(field) = field else { continue };
            let length = saturated_u32(field.len());
            blob.extend(length.to_be_bytes());
            blob.extend(field);
        }
        blob
    }

    /// SHA-256 of the blob, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(Sha256::digest(self.blob()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_read_as_it_is_written() {
        let plain = PublicKey::plain([7; 32]);
        let fido = |application| PublicKey {
            fido: Some(Arc::new(FidoKey::new(application))),
            ..plain.clone()
        };
        for key in [plain.clone(), fido("ssh:"), fido("ssh:work"), fido("ssh:a b")] {
            let blob = key.blob();
            assert_eq!(PublicKey::from_blob(&blob), Some(key));
            assert_eq!(PublicKey::from_blob(&blob[1..]), None);
            assert_eq!(PublicKey::from_blob(&blob[..blob.len() - 1]), None);
            assert_eq!(PublicKey::from_blob(&[&blob[..], b"x"].concat()), None);
        }
        let long = "ssh:".to_owned() + &"x".repeat(LONGEST_BLOB);
        for other in [fido("https://example.org"), fido("ssh:\n"), fido(""), fido(&long)] {
            assert_eq!(PublicKey::from_blob(&other.blob()), None);
        }
        let mut rsa = plain.blob();
        rsa[4..15].copy_from_slice(b"ssh-ed25518");
        assert_eq!(PublicKey::from_blob(&rsa), None);
    }
}
