//! An OpenSSH public key of the supported kind: `ssh-ed25519 AAAA...`.
//! See `authorized` for the clients file, `identity` for private keys.

use base64ct::{Base64, Encoding};

use crate::core::authentic::{self, check_enrolment_key};
use crate::core::diagnostic::printable;
use crate::core::types::{Fault, Fingerprint};

const ALGORITHM: &str = "ssh-ed25519";

/// A public key that may be enrolled: see [`check_enrolment_key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey {
    bytes: [u8; 32],
}

impl PublicKey {
    /// From its 32 bytes. Fails if it must not be enrolled.
    pub fn new(bytes: [u8; 32]) -> Result<Self, Fault> {
        check_enrolment_key(&bytes)?;
        Ok(Self { bytes })
    }

    /// The key and the comment of a line as `ssh-keygen` writes it: algorithm, blob, comment if
    /// any.
    pub fn from_line(line: &str) -> Result<(Self, &str), Fault> {
        let line = line.trim();
        if line.contains("PRIVATE KEY") {
            let remedy = "use the .pub file; never give the private key to anybody";
            return Err(Fault::new("this is a private key", remedy));
        }
        let mut words = line.splitn(3, char::is_whitespace);
        let key = read_words(words.next().unwrap_or(""), words.next().unwrap_or(""))?;
        Ok((Self::new(key)?, words.next().unwrap_or("").trim()))
    }

    pub fn bytes(&self) -> [u8; 32] {
        self.bytes
    }

    /// SHA-256 of the key blob, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> Fingerprint {
        authentic::fingerprint(&self.bytes)
    }

    /// `ssh-ed25519 AAAA...`, without a comment.
    pub fn line(&self) -> String {
        show_key(&self.bytes)
    }
}

/// The SSH blob of a key before its 32 bytes: the name and the two lengths.
const HEAD: &[u8; 19] = b"\0\0\0\x0bssh-ed25519\0\0\0\x20";
const BLOB: usize = HEAD.len() + 32;

/// The 32 bytes in the two words of a key's line, `ssh-ed25519` and the base64 blob. Whether they
/// are a key that may be enrolled is not checked: that takes a hundred times longer.
pub(super) fn read_words(algorithm: &str, blob: &str) -> Result<[u8; 32], Fault> {
    if algorithm != ALGORITHM {
        return Err(wrong_algorithm(algorithm));
    }
    let mut bytes = [0; BLOB];
    let decoded = Base64::decode(blob, &mut bytes).unwrap_or_default();
    match decoded.strip_prefix(HEAD).map(<[u8; 32]>::try_from) {
        Some(Ok(key)) => Ok(key),
        _ => Err(Fault::new("not an ssh-ed25519 key", "copy the whole line of the .pub file")),
    }
}

/// `ssh-ed25519 AAAA...`, whatever the key is.
pub(super) fn show_key(key: &[u8; 32]) -> String {
    format!("{ALGORITHM} {}", Base64::encode_string(&[&HEAD[..], key].concat()))
}

/// `SHA256:` and unpadded base64, as OpenSSH shows fingerprints.
pub fn show_fingerprint(fingerprint: &Fingerprint) -> String {
    ssh_key::Fingerprint::Sha256(fingerprint.0).to_string()
}

fn wrong_algorithm(algorithm: &str) -> Fault {
    let known = ["ssh-rsa", "ssh-dss", "ecdsa-", "sk-", "rsa-", "ssh-ed25519-cert"];
    if known.iter().any(|start| algorithm.starts_with(start)) {
        let what = format!("a key of type {}; only ssh-ed25519 works yet", printable(algorithm));
        let remedy = "make one with `toctoc keygen` or `ssh-keygen -t ed25519`";
        return Fault::new(what, remedy);
    }
    let remedy = "it begins with ssh-ed25519 AAAA: copy the whole line of the .pub file";
    Fault::new("not an SSH public key line", remedy)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Made for these tests by ssh-keygen 9.2; its private half is in `identity`'s tests.
    pub(crate) const LINE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINH5PeLDmbvvLZw8PEYRtbFFyLldbnPkCPAkIMDtUKAy test@toctoc.example";

    #[test]
    fn a_line_is_printed_as_it_was_read_and_has_openssh_s_fingerprint() {
        let (key, comment) = PublicKey::from_line(LINE).unwrap();
        assert_eq!(comment, "test@toctoc.example");
        assert_eq!(format!("{} {comment}", key.line()), LINE);
        let shown = "SHA256:951OBp4BMmuD3VVyyNsL77r9RL+6MKh8lI3dxdtWRjM";
        assert_eq!(show_fingerprint(&key.fingerprint()), shown, "as ssh-keygen -l shows it");
    }

    #[test]
    fn other_keys_are_refused_by_name() {
        for algorithm in ["ssh-rsa", "ecdsa-sha2-nistp256", "sk-ssh-ed25519@openssh.com"] {
            let fault = PublicKey::from_line(&format!("{algorithm} AAAA x")).unwrap_err();
            assert!(
                fault.what.contains(algorithm) && fault.what.contains("only ssh-ed25519"),
                "{fault}"
            );
        }
        let fault = PublicKey::from_line("-----BEGIN OPENSSH PRIVATE KEY-----").unwrap_err();
        assert!(fault.what.contains("private key"), "{fault}");
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            "hello world",
            "ssh-ed25519 AAAAB3NzaC1yc2EAAAADAQABAAAAAQC7",
        ] {
            assert!(PublicKey::from_line(bad).is_err(), "{bad}");
        }
    }
}
