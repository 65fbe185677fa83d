//! An OpenSSH public key of the supported kind: `ssh-ed25519 AAAA...`.
//! See `authorized` for the clients file, `identity` for private keys.

use ssh_key::public::{Ed25519PublicKey, KeyData};

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

    /// From the two words of its line: `ssh-ed25519` and the base64 blob.
    pub fn from_words(algorithm: &str, blob: &str) -> Result<Self, Fault> {
        if algorithm != ALGORITHM {
            return Err(wrong_algorithm(algorithm));
        }
        let parsed = ssh_key::PublicKey::from_openssh(&format!("{algorithm} {blob}"));
        match parsed.as_ref().map(|key| key.key_data().ed25519()) {
            Ok(Some(key)) => Self::new(key.0),
            _ => Err(Fault::new("not an ssh-ed25519 key", "copy the whole line of the .pub file")),
        }
    }

    /// The key and the comment of a line as `ssh-keygen` writes it: algorithm, blob, comment if any.
    pub fn from_line(line: &str) -> Result<(Self, &str), Fault> {
        let line = line.trim();
        if line.contains("PRIVATE KEY") {
            let remedy = "use the .pub file; never give the private key to anybody";
            return Err(Fault::new("this is a private key", remedy));
        }
        let mut words = line.splitn(3, char::is_whitespace);
        let key = Self::from_words(words.next().unwrap_or(""), words.next().unwrap_or(""))?;
        Ok((key, words.next().unwrap_or("").trim()))
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
        let data = KeyData::Ed25519(Ed25519PublicKey(self.bytes));
        // Encoding a fixed 51 bytes never fails.
        ssh_key::PublicKey::from(data).to_openssh().unwrap_or_default()
    }
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
