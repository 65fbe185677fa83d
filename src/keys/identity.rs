//! A client's Ed25519 private key in OpenSSH form, and signing with it.
//! See `app::client` for passphrases, `core::authentic` for the signature itself.

use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{Cipher, Error, Kdf, LineEnding, PrivateKey};
use zeroize::Zeroizing;

use super::public::{is_algorithm, unusable};
use crate::core::authentic::{self, Message, check_enrolment_key};
use crate::core::diagnostic::printable;
use crate::core::keyring::Secret;
use crate::core::knock::Signature;
use crate::core::public_key::PublicKey;
use crate::core::types::Fault;

/// Rounds of bcrypt-pbkdf for a new passphrase, about a quarter second: OpenSSH's default since
/// 9.4.
const ROUNDS: u32 = 24;
/// The most rounds that we accept: more would take minutes.
const MAX_ROUNDS: u32 = 1024;

pub struct Identity {
    seed: Secret<32>,
    public: PublicKey,
}

/// What a file that somebody names as a key turns out to be.
pub enum KeyFile {
    Open(Identity),
    Locked(Locked),
    /// A FIDO key. The file only says which one: the private key stays in the authenticator.
    Fido(PublicKey),
    /// The public half alone, as in a .pub file.
    Public(PublicKey),
}

/// A private key under a passphrase.
pub struct Locked {
    key: Box<PrivateKey>,
    public: PublicKey,
}

impl Identity {
    /// A new key from 32 random bytes. Never fails for a random seed.
    pub fn new(seed: Secret<32>) -> Result<Self, Fault> {
        let ed25519 = authentic::public_key(&seed);
        check_enrolment_key(&ed25519)?;
        Ok(Self { seed, public: PublicKey::plain(ed25519) })
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs the SSHSIG blob of `message`.
    pub fn sign(&self, message: &Message) -> Signature {
        authentic::sign(&self.seed, message)
    }

    /// The private key in OpenSSH form; wiped when dropped. Fails if `comment` is not allowed
    /// there. `lock` encrypts it: the passphrase, and 20 random bytes for salt and check number.
    pub fn print(
        &self, comment: &str, lock: Option<(&str, [u8; 20])>,
    ) -> Result<Zeroizing<String>, Fault> {
        self.to_openssh(comment, lock).map_err(|_| {
            let remedy = "leave special characters out of the comment";
            Fault::new("this key cannot be written in OpenSSH form", remedy)
        })
    }

    fn to_openssh(
        &self, comment: &str, lock: Option<(&str, [u8; 20])>,
    ) -> Result<Zeroizing<String>, Error> {
        let pair = KeypairData::Ed25519(Ed25519Keypair::from_seed(self.seed.expose()));
        let mut key = PrivateKey::new(pair, comment)?;
        if let Some((passphrase, random)) = lock {
            let [salt @ .., a, b, c, d] = random;
            let check = u32::from_be_bytes([a, b, c, d]);
            let kdf = Kdf::Bcrypt { salt: salt.to_vec(), rounds: ROUNDS };
            key = key.encrypt_with(Cipher::Aes256Ctr, kdf, check, passphrase)?;
        }
        key.to_openssh(LineEnding::LF)
    }

    fn from_key(label: &str, key: &PrivateKey) -> Result<Self, Fault> {
        let Some(pair) = key.key_data().ed25519() else {
            return Err(wrong_type(label, key.algorithm().as_str()));
        };
        let identity = Self::new(Secret::new(pair.private.to_bytes()))?;
        // A signature under a public key other than the seed's own reveals the seed.
        if identity.public.ed25519 != pair.public.0 {
            let what = format!("{label}: its public key does not belong to its private key");
            let remedy = "restore it from a backup";
            return Err(Fault::new(what, remedy));
        }
        Ok(identity)
    }
}

impl KeyFile {
    /// Reads an OpenSSH key of our types. `label` is the path for messages.
    pub fn parse(label: &str, text: &str) -> Result<Self, Fault> {
        if !text.contains("-----BEGIN OPENSSH PRIVATE KEY-----") {
            return public_key(label, text);
        }
        let key = match PrivateKey::from_openssh(text.trim()) {
            Ok(key) => key,
            Err(Error::AlgorithmUnknown | Error::AlgorithmUnsupported { .. }) => {
                return Err(wrong_type(label, ""));
            }
            Err(error) => {
                let why = printable(&error.to_string());
                let what = format!("{label}: not a readable OpenSSH private key: {why}");
                let remedy = format!("check it with `ssh-keygen -y -f {label}`");
                return Err(Fault::new(what, remedy));
            }
        };
        // It is not encrypted, whatever the rest is.
        let blob = key.public_key().to_bytes().unwrap_or_default();
        let Some(public) = PublicKey::from_blob(&blob) else {
            return Err(wrong_type(label, key.algorithm().as_str()));
        };
        check_enrolment_key(&public.ed25519)?;
        if public.fido.is_some() {
            return Ok(Self::Fido(public));
        }
        if !key.is_encrypted() {
            return Ok(Self::Open(Identity::from_key(label, &key)?));
        }
        if let Kdf::Bcrypt { rounds, .. } = key.kdf()
            && *rounds > MAX_ROUNDS
        {
            return Err(Fault::new(
                format!("{label}: its passphrase needs {rounds} rounds, more than {MAX_ROUNDS}"),
                format!("`ssh-keygen -p -a 24 -f {label}` lowers them"),
            ));
        }
        Ok(Self::Locked(Locked { key: Box::new(key), public }))
    }

    pub fn public(&self) -> &PublicKey {
        match self {
            Self::Open(identity) => &identity.public,
            Self::Locked(locked) => &locked.public,
            Self::Fido(public) | Self::Public(public) => public,
        }
    }
}

impl Locked {
    /// Decrypts the key: `Ok(None)` if `passphrase` is wrong.
    pub fn unlock(&self, label: &str, passphrase: &str) -> Result<Option<Identity>, Fault> {
        match self.key.decrypt(passphrase) {
            Ok(key) => Identity::from_key(label, &key).map(Some),
            Err(_) => Ok(None),
        }
    }
}

fn wrong_type(label: &str, algorithm: &str) -> Fault {
    let what = match unusable(algorithm) {
        Some(why) => format!("a key of type {algorithm}: {why}"),
        None => "a key of another type: only an Ed25519 key can sign a knock".to_owned(),
    };
    let remedy = "use an Ed25519 key: `toctoc keygen` or `ssh-keygen -t ed25519` makes one, and \
                  the gateway's admin enrols it";
    Fault::new(format!("{label}: {what}"), remedy)
}

/// The public half, if that is what the file contains.
fn public_key(label: &str, text: &str) -> Result<KeyFile, Fault> {
    let algorithm = text.split_whitespace().next().unwrap_or("");
    if is_algorithm(algorithm) {
        return match PublicKey::from_line(text) {
            Ok((public, _)) => Ok(KeyFile::Public(public)),
            Err(fault) => Err(Fault::new(format!("{label}: {}", fault.what), fault.remedy)),
        };
    }
    Err(not_openssh(label, text))
}

fn not_openssh(label: &str, text: &str) -> Fault {
    if text.contains("PRIVATE KEY-----") || text.contains("PuTTY-User-Key-File") {
        return Fault::new(
            format!("{label}: a private key, but not in OpenSSH's own form"),
            format!(
                "`ssh-keygen -p -f {label}` rewrites PEM keys, `puttygen -O private-openssh-new` PuTTY's"
            ),
        );
    }
    let remedy = "name an OpenSSH private key file, as `toctoc keygen` makes it";
    Fault::new(format!("{label}: not a private key"), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::public::tests::LINE;

    /// Made by ssh-keygen 9.2 for these tests; never to be trusted.
    const PLAIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACDR+T3iw5m77y2cPDxGEbWxRci5XW5z5AjwJCDA7VCgMgAAAJgTXHTBE1x0
wQAAAAtzc2gtZWQyNTUxOQAAACDR+T3iw5m77y2cPDxGEbWxRci5XW5z5AjwJCDA7VCgMg
AAAECyTA+M9sPvF1DI0IGE/v938fA+xuihOm6yP25LJcwHTdH5PeLDmbvvLZw8PEYRtbFF
yLldbnPkCPAkIMDtUKAyAAAAE3Rlc3RAdG9jdG9jLmV4YW1wbGUBAg==
-----END OPENSSH PRIVATE KEY-----
";
    /// The same key under the passphrase `open sesame`, encrypted by ssh-keygen 9.2.
    const LOCKED: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABBI2gyKYd
FIq2vWWktxANhbAAAAEAAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAINH5PeLDmbvvLZw8
PEYRtbFFyLldbnPkCPAkIMDtUKAyAAAAoIneSS/+RGAWr/dXAax+7+FBQ2xrc9mSv9zNd3
QouA13UTggvAHY76ZrxlGtHjUQB0ZS31WNQN4xyVCH0iJMWa4TkN6QsQva5u25TmJTTAhV
G9SL4xAqbh7nemJ7TSCnpxPfn3Bm/5Em31xxVTK+cf3KMHkCH9ldB3rTdg+nuB4OFOslRx
5hKZaOy6eSKh/Of6ibwqWQKwtlZiMgDGxPHW8=
-----END OPENSSH PRIVATE KEY-----
";
    const ECDSA: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAaAAAABNlY2RzYS
1zaGEyLW5pc3RwMjU2AAAACG5pc3RwMjU2AAAAQQTX404A2FTtELNUr+nLkLxq4uiVmcIM
MeX8Y35KdjvJDEwMzXaqxVDkfAinQIb7L/m+/PMOnAeeUiveu1vVbTz4AAAAoCtrABEraw
ARAAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBNfjTgDYVO0Qs1Sv
6cuQvGri6JWZwgwx5fxjfkp2O8kMTAzNdqrFUOR8CKdAhvsv+b788w6cB55SK967W9VtPP
gAAAAhALs4k2h/8QHFDOeIvJ3sDlzZ6MHaNs4EkKg2L2XyA+TBAAAAB3Jvb3RAdm0=
-----END OPENSSH PRIVATE KEY-----
";

    fn open(text: &str) -> Identity {
        match KeyFile::parse("id", text).unwrap() {
            KeyFile::Open(identity) => identity,
            _ => panic!("not open"),
        }
    }

    fn locked(text: &str) -> Locked {
        match KeyFile::parse("id", text).unwrap() {
            KeyFile::Locked(locked) => locked,
            _ => panic!("not locked"),
        }
    }

    fn fault(text: &str) -> String {
        KeyFile::parse("id", text).err().expect("refused").to_string()
    }

    #[test]
    fn a_key_of_ssh_keygen_is_read_and_written() {
        let identity = open(PLAIN);
        let (public, comment) = PublicKey::from_line(LINE).unwrap();
        assert_eq!(*identity.public(), public);
        let again = identity.print(comment, None).unwrap();
        assert_eq!(*open(&again).public(), public);
    }

    #[test]
    fn an_encrypted_key_opens_only_with_its_passphrase() {
        let key = locked(LOCKED);
        assert_eq!(&key.public, open(PLAIN).public(), "the public key is not encrypted");
        assert!(key.unlock("id", "open barley").unwrap().is_none());
        assert_eq!(
            key.unlock("id", "open sesame").unwrap().unwrap().public(),
            open(PLAIN).public()
        );
    }

    #[test]
    fn a_key_that_we_encrypt_opens_again() {
        let text = open(PLAIN).print("c", Some(("parole", [7; 20]))).unwrap();
        let key = locked(&text);
        assert!(key.unlock("id", "").unwrap().is_none());
        assert!(key.unlock("id", "parole").unwrap().is_some());
    }

    #[test]
    fn other_keys_are_refused_by_name() {
        let said = fault(ECDSA);
        assert!(said.contains("a key of another type: only an Ed25519 key"), "{said}");
        let said = fault("ssh-rsa AAAA me@here");
        assert!(said.contains("id: a key of type ssh-rsa: an RSA signature"), "{said}");
        assert!(fault("-----BEGIN RSA PRIVATE KEY-----").contains("not in OpenSSH's own form"));
        assert!(fault("hello").contains("not a private key"));
        assert!(fault(&PLAIN.replace("QyNTUx", "QyNTUy")).contains("not a readable"));
        assert!(fault(&PLAIN[..120]).contains("not a readable"));
    }

    #[test]
    fn a_public_key_file_is_read_as_what_it_is() {
        let Ok(KeyFile::Public(public)) = KeyFile::parse("id.pub", LINE) else { panic!("{LINE}") };
        assert_eq!(&public, open(PLAIN).public());
    }

    #[test]
    fn a_public_key_of_another_private_key_is_refused() {
        // One bit of the seed: both copies of the public half still agree with each other.
        let swapped = PLAIN.replace("AAECyTA+M9s", "AAECyTB+M9s");
        assert_ne!(swapped, PLAIN);
        assert!(KeyFile::parse("id", &swapped).is_err());
    }

    #[test]
    fn a_signature_verifies_over_the_sshsig_blob() {
        use ed25519_dalek::{Signature as Ed25519, VerifyingKey};
        let signer = open(PLAIN);
        let message = [5; authentic::MESSAGE];
        let signature = signer.sign(&message);
        let key = VerifyingKey::from_bytes(&signer.public().ed25519).unwrap();
        key.verify_strict(
            &authentic::sshsig_blob(&message),
            &Ed25519::from_bytes(&signature.ed25519),
        )
        .unwrap();
    }
}
