//! The text form of a client's public key: `ssh-ed25519 AAAA...`, of a FIDO key
//! `sk-ssh-ed25519@openssh.com AAAA...`.
//! See `authorized` for the clients file, `identity` for private keys.

use base64ct::{Base64, Encoding};

use crate::core::authentic::check_enrolment_key;
use crate::core::diagnostic::printable;
use crate::core::public_key::{ED25519, LONGEST_BLOB, PublicKey, SK_ED25519};
use crate::core::types::{Fault, Fingerprint};

impl PublicKey {
    /// The key and the comment of a line as `ssh-keygen` writes it: algorithm, blob, comment if
    /// any. Fails if the key must not be enrolled.
    pub fn from_line(line: &str) -> Result<(PublicKey, &str), Fault> {
        let line = line.trim();
        if line.contains("PRIVATE KEY") {
            let remedy = "use the .pub file; never give the private key to anybody";
            return Err(Fault::new("this is a private key", remedy));
        }
        let mut words = line.splitn(3, char::is_whitespace);
        let key = read_words(words.next().unwrap_or(""), words.next().unwrap_or(""))?;
        check_enrolment_key(&key.ed25519)?;
        Ok((key, words.next().unwrap_or("").trim()))
    }

    /// The algorithm and the base64 blob, without a comment; whatever the key is.
    pub fn line(&self) -> String {
        format!("{} {}", self.algorithm(), Base64::encode_string(&self.blob()))
    }
}

/// The key in the two words of its line, algorithm and base64 blob. Whether it may be enrolled is
/// not checked: that takes a hundred times longer.
pub(super) fn read_words(algorithm: &str, blob: &str) -> Result<PublicKey, Fault> {
    if ![ED25519, SK_ED25519].contains(&algorithm) {
        return Err(wrong_algorithm(algorithm));
    }
    let mut bytes = [0; LONGEST_BLOB];
    match PublicKey::from_blob(Base64::decode(blob, &mut bytes).unwrap_or_default()) {
        Some(key) if key.algorithm() == algorithm => Ok(key),
        _ => {
            let remedy = "copy the whole line of the .pub file";
            Err(Fault::new(format!("not an {algorithm} key"), remedy))
        }
    }
}

/// `SHA256:` and unpadded base64, as OpenSSH shows fingerprints.
pub fn show_fingerprint(fingerprint: &Fingerprint) -> String {
    ssh_key::Fingerprint::Sha256(fingerprint.0).to_string()
}

/// True if a key of SSH has such a type.
pub(super) fn is_algorithm(word: &str) -> bool {
    [ED25519, SK_ED25519].contains(&word) || unusable(word).is_some()
}

/// Why a key of this type is not taken; `None` if no key of SSH has such a type.
pub fn unusable(algorithm: &str) -> Option<&'static str> {
    Some(match algorithm {
        name if name.contains("-cert-v01@") => "a certificate cannot sign a knock",
        name if name.starts_with("ssh-rsa") || name.starts_with("rsa-") => {
            "an RSA signature does not fit into a knock"
        }
        name if name.contains("ecdsa-sha2-") => "an ECDSA key cannot sign a knock",
        "ssh-dss" => "a DSA key cannot sign a knock",
        "ssh-ed448" => "an Ed448 signature does not fit into a knock",
        _ => return None,
    })
}

/// Reads what [`show_fingerprint`] shows.
pub fn parse_fingerprint(text: &str) -> Option<Fingerprint> {
    match text.parse() {
        Ok(ssh_key::Fingerprint::Sha256(bytes)) => Some(Fingerprint(bytes)),
        _ => None,
    }
}

fn wrong_algorithm(algorithm: &str) -> Fault {
    if let Some(why) = unusable(algorithm) {
        return Fault::new(
            format!("a key of type {}: {why}", printable(algorithm)),
            format!(
                "use an Ed25519 key, {ED25519} or {SK_ED25519}; `ssh-keygen -t ed25519` makes one"
            ),
        );
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
        for (algorithm, why) in [
            ("ssh-rsa", "RSA signature does not fit"),
            ("ecdsa-sha2-nistp256", "an ECDSA key"),
            ("sk-ecdsa-sha2-nistp256@openssh.com", "an ECDSA key"),
            ("ssh-ed25519-cert-v01@openssh.com", "a certificate"),
        ] {
            let fault = PublicKey::from_line(&format!("{algorithm} AAAA x")).unwrap_err();
            assert!(fault.what.contains(algorithm) && fault.what.contains(why), "{fault}");
        }
        let fault = PublicKey::from_line("-----BEGIN OPENSSH PRIVATE KEY-----").unwrap_err();
        assert!(fault.what.contains("private key"), "{fault}");
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            "hello world",
            "ssh-ed25519 AAAAB3NzaC1yc2EAAAADAQABAAAAAQC7",
            &LINE.replace("ssh-ed25519", "sk-ssh-ed25519@openssh.com"),
        ] {
            assert!(PublicKey::from_line(bad).is_err(), "{bad}");
        }
    }
}
