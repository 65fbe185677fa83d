//! A client's Ed25519 private key in OpenSSH form, and signing with it.
//! See `app::client` for passphrases, `core::authentic` for the signature itself.

use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{Cipher, Error, Kdf, LineEnding, PrivateKey};
use zeroize::Zeroizing;

use super::public::PublicKey;
use crate::core::authentic::{self, Message};
use crate::core::diagnostic::printable;
use crate::core::keyring::Secret;
use crate::core::knock::Signature;
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

pub enum KeyFile {
    Open(Identity),
    Locked(Locked),
}

pub struct Locked(Box<PrivateKey>);

impl Identity {
    /// A new key from 32 random bytes. Never fails for a random seed.
    pub fn new(seed: Secret<32>) -> Result<Self, Fault> {
        let public = PublicKey::new(authentic::public_key(&seed))?;
        Ok(Self { seed, public })
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
            return Err(wrong_type(label, &format!("type {}", key.algorithm())));
        };
        let seed = Secret::new(pair.private.to_bytes());
        let public = authentic::public_key(&seed);
        // A signature under a public key other than the seed's own reveals the seed.
        if public != pair.public.0 {
            let what = format!("{label}: its public key does not belong to its private key");
            let remedy = "restore it from a backup";
            return Err(Fault::new(what, remedy));
        }
        Ok(Self { seed, public: PublicKey::new(public)? })
    }
}

impl KeyFile {
    /// Reads an OpenSSH private key of our type. `label` is the path for messages.
    pub fn parse(label: &str, text: &str) -> Result<Self, Fault> {
        if !text.contains("-----BEGIN OPENSSH PRIVATE KEY-----") {
            return Err(not_openssh(label, text));
        }
        let key = match PrivateKey::from_openssh(text.trim()) {
            Ok(key) => key,
            Err(Error::AlgorithmUnknown | Error::AlgorithmUnsupported { .. }) => {
                return Err(wrong_type(label, "another type"));
            }
            Err(error) => {
                let why = printable(&error.to_string());
                let what = format!("{label}: not a readable OpenSSH private key: {why}");
                let remedy = format!("check it with `ssh-keygen -y -f {label}`");
                return Err(Fault::new(what, remedy));
            }
        };
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
        Ok(Self::Locked(Locked(Box::new(key))))
    }
}

impl Locked {
    /// The public key, which is not encrypted, if it is an Ed25519 key that may be enrolled.
    pub fn public(&self) -> Option<PublicKey> {
        let key = self.0.public_key().key_data().ed25519()?;
        PublicKey::new(key.0).ok()
    }

    /// Decrypts the key: `Ok(None)` if `passphrase` is wrong. Fails for a key of another type.
    pub fn unlock(&self, label: &str, passphrase: &str) -> Result<Option<Identity>, Fault> {
        match self.0.decrypt(passphrase) {
            Ok(key) => Identity::from_key(label, &key).map(Some),
            Err(_) => Ok(None),
        }
    }
}

fn wrong_type(label: &str, shown: &str) -> Fault {
    let remedy = "make one with `toctoc keygen` or `ssh-keygen -t ed25519`, and have it enrolled";
    Fault::new(format!("{label}: a key of {shown}; only ssh-ed25519 works yet"), remedy)
}

fn not_openssh(label: &str, text: &str) -> Fault {
    if text.trim_start().starts_with("ssh-") {
        let remedy = "name the private key file, without .pub";
        return Fault::new(format!("{label}: this is a public key"), remedy);
    }
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
            KeyFile::Locked(_) => panic!("locked"),
        }
    }

    fn locked(text: &str) -> Locked {
        match KeyFile::parse("id", text).unwrap() {
            KeyFile::Open(_) => panic!("open"),
            KeyFile::Locked(locked) => locked,
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
        assert_eq!(key.public(), Some(*open(PLAIN).public()), "the public key is not encrypted");
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
        assert!(said.contains("only ssh-ed25519 works yet"), "{said}");
        assert!(fault(LINE).contains("this is a public key"));
        assert!(fault("-----BEGIN RSA PRIVATE KEY-----").contains("not in OpenSSH's own form"));
        assert!(fault("hello").contains("not a private key"));
        assert!(fault(&PLAIN.replace("QyNTUx", "QyNTUy")).contains("not a readable"));
        assert!(fault(&PLAIN[..120]).contains("not a readable"));
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
        let key = VerifyingKey::from_bytes(&signer.public().bytes()).unwrap();
        key.verify_strict(
            &authentic::sshsig_blob(&message),
            &Ed25519::from_bytes(&signature.ed25519),
        )
        .unwrap();
    }
}
