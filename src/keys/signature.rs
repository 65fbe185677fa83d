//! Signatures in OpenSSH's two forms: the one of an agent's answer, and the armor of a file.
//! See `core::authentic` for what they prove.

use ssh_key::SshSig;

use crate::core::bytes::Reader;
use crate::core::knock::Signature;
use crate::core::public_key::{ED25519, SK_ED25519};

/// Reads algorithm, signature and, of a FIDO key, flags and counter. `None` if it is anything else.
pub fn from_agent(bytes: &[u8]) -> Option<Signature> {
    let mut reader = Reader::new(bytes);
    let algorithm = reader.string()?;
    let mut signature =
        Signature { ed25519: reader.string()?.try_into().ok()?, sk_flags: 0, sk_counter: 0 };
    if algorithm == SK_ED25519.as_bytes() {
        (signature.sk_flags, signature.sk_counter) = (reader.u8()?, reader.u32()?);
    } else if algorithm != ED25519.as_bytes() {
        return None;
    }
    reader.finish()?;
    Some(signature)
}

/// Reads what `ssh-keygen -Y sign` prints. `None` if it is anything else.
pub fn from_armor(armor: &[u8]) -> Option<Signature> {
    let file = SshSig::from_pem(armor).ok()?;
    let mut reader = Reader::new(file.signature_bytes());
    let mut signature = Signature { ed25519: reader.array()?, sk_flags: 0, sk_counter: 0 };
    match file.algorithm().as_str() {
        SK_ED25519 => {
            (signature.sk_flags, signature.sk_counter) = (reader.u8()?, reader.u32()?);
        }
        ED25519 => {}
        _ => return None,
    }
    reader.finish()?;
    Some(signature)
}
