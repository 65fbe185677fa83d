//! The gateway's key file: who it is, its X25519 secrets, the master secret and the realm's mask
//! key. Opening it is left to `edge::files`, deriving keys from it to `core::keyring`.

use serde::Deserialize;
use zeroize::Zeroizing;

use super::encoded::{IdText, SecretText, base64};
use crate::core::diagnostic::SourceText;
use crate::core::keyring::{Master, Realm, Secret, TEST_GATEWAY_ID};
use crate::core::noise::KeyPair;
use crate::core::types::{Fault, GatewayId, RealmId};
use crate::core::wire::GatewayKeys;

/// What the key file holds.
pub struct GatewayFile {
    /// Realm id, gateway id and mask key.
    pub realm: Realm,
    /// The X25519 secret whose public half new profiles carry.
    pub secret: Secret<32>,
    /// The one before it, while a rotation lasts.
    pub previous: Option<Secret<32>>,
    /// What every client's symmetric keys derive from.
    pub master: Master,
}

/// Whether the published test keys may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestKeys {
    /// As every daemon must: everybody has them.
    Refused,
    /// Only in tests of the protocol itself.
    Allowed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a gateway's keys")]
struct RawGatewayFile {
    version: toml::Spanned<i64>,
    gateway: toml::Spanned<IdText>,
    realm: IdText,
    secret: SecretText,
    previous: Option<SecretText>,
    master: SecretText,
    mask: SecretText,
}

impl GatewayFile {
    /// New keys out of `entropy`; in `realm` if the gateway joins one, else in a realm of its own.
    ///
    /// # Errors
    /// As `entropy` fails.
    pub fn generate(
        mut entropy: impl FnMut(&mut [u8]) -> Result<(), Fault>,
    ) -> Result<Self, Fault> {
        let (mut gateway, mut realm) = ([0; 16], [0; 16]);
        entropy(&mut gateway)?;
        entropy(&mut realm)?;
        let mut secret = || Secret::filled(|bytes| entropy(bytes));
        let (mask, x25519, master) = (secret()?, secret()?, secret()?);
        Ok(Self {
            realm: Realm::new(RealmId(realm), GatewayId(gateway), mask),
            secret: x25519,
            previous: None,
            master: Master::new(master),
        })
    }

    /// Reads a key file; `label` is the path that complaints name.
    ///
    /// # Errors
    /// The first thing that is wrong, as `label:line:column: what`; never with a secret in it.
    pub fn parse(label: &str, text: &str, test_keys: TestKeys) -> Result<Self, Fault> {
        let file = SourceText::new(label, text);
        let raw: RawGatewayFile =
            toml::from_str(text).map_err(|e| file.complain_serde(e.span(), e.message()))?;
        if *raw.version.get_ref() != 1 {
            let at = raw.version.span().start;
            return Err(file.complain(
                at,
                "a key file of another version",
                "use the toctocd that wrote it, or a newer one",
            ));
        }
        let at = raw.gateway.span().start;
        let gateway = GatewayId(raw.gateway.into_inner().0);
        if gateway == TEST_GATEWAY_ID && test_keys == TestKeys::Refused {
            return Err(file.complain(
                at,
                "these are the published test keys: everybody has them",
                "make your own with `toctocd init`",
            ));
        }
        Ok(Self {
            realm: Realm::new(RealmId(raw.realm.0), gateway, raw.mask.0),
            secret: raw.secret.0,
            previous: raw.previous.map(|text| text.0),
            master: Master::new(raw.master.0),
        })
    }

    /// The file's text; wiped when dropped.
    pub fn print(&self) -> Zeroizing<String> {
        // Room for all of it: a string that grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(1024));
        let mut line = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        line(
            "# The keys of one toctoc gateway, written by `toctocd init`. Keep it 0600 and off other machines:",
        );
        line(
            "# whoever reads it can read knocks and pose as this gateway. Nobody can knock with it.",
        );
        line("version = 1");
        line(&format!("gateway = \"{}\"", self.realm.gateway()));
        line(&format!("realm = \"{}\"", self.realm.realm()));
        let mut key = |name: &str, bytes: &[u8; 32]| {
            let encoded = base64(bytes);
            for part in [name, " = \"", encoded.as_str(), "\"\n"] {
                text.push_str(part);
            }
        };
        key("secret", self.secret.expose());
        if let Some(previous) = &self.previous {
            key("previous", previous.expose());
        }
        key("master", self.master.expose());
        key("mask", self.realm.mask().expose());
        text
    }

    /// The keys as the listener needs them; the master stays here.
    pub fn for_listener(&self) -> GatewayKeys {
        GatewayKeys {
            realm: self.realm.duplicate(),
            current: KeyPair::new(&self.secret),
            other: self.previous.as_ref().map(KeyPair::new),
        }
    }

    /// The X25519 public key that profiles carry.
    pub fn public(&self) -> [u8; 32] {
        KeyPair::new(&self.secret).public()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that count up: every field differs from the others.
    fn counting() -> impl FnMut(&mut [u8]) -> Result<(), Fault> {
        let mut next = 0_u8;
        move |bytes| {
            bytes.fill_with(|| {
                next = next.wrapping_add(1);
                next
            });
            Ok(())
        }
    }

    fn error(text: &str) -> Fault {
        GatewayFile::parse("k", text, TestKeys::Refused).err().expect("refused")
    }

    #[test]
    fn keys_come_back_from_their_text() {
        let mut keys = GatewayFile::generate(counting()).unwrap();
        for previous in [None, Some(Secret::new([9; 32]))] {
            keys.previous = previous;
            let text = keys.print();
            assert!(text.len() < 1024, "it must not grow");
            let read = GatewayFile::parse("k", &text, TestKeys::Refused).unwrap();
            assert_eq!(read.print(), text);
            assert_eq!(read.public(), keys.public());
            assert_eq!(read.realm.prologue(), keys.realm.prologue());
            assert!(read.realm.mask().ct_eq(keys.realm.mask()));
            assert_eq!(read.master.expose(), keys.master.expose());
            assert_eq!(
                read.previous.as_ref().map(Secret::expose),
                keys.previous.as_ref().map(Secret::expose)
            );
        }
    }

    #[test]
    fn a_system_without_entropy_makes_no_keys() {
        let none = |_: &mut [u8]| Err(Fault::new("none", ""));
        assert!(GatewayFile::generate(none).is_err());
    }

    #[test]
    fn test_keys_open_no_real_gateway() {
        let mut keys = GatewayFile::generate(counting()).unwrap();
        keys.realm = Realm::new(keys.realm.realm(), TEST_GATEWAY_ID, Secret::new([1; 32]));
        let text = keys.print();
        let fault = error(&text);
        assert!(fault.what.contains(":4:11: these are the published test keys"), "{fault}");
        assert!(GatewayFile::parse("k", &text, TestKeys::Allowed).is_ok());
    }

    #[test]
    fn mistakes_are_named_with_their_place_and_never_with_the_secret() {
        let keys = GatewayFile::generate(counting()).unwrap();
        let good = keys.print();
        let secret = base64(keys.master.expose());
        let cut = good.replace(secret.as_str(), &secret[..40]);
        let fault = error(&cut);
        assert!(fault.what.starts_with("k:7:10: not a key: 32 bytes in base64"), "{fault}");
        assert!(!fault.to_string().contains(&secret[..20]), "{fault}");
        let unquoted = error(&good.replace(&format!("\"{}\"", secret.as_str()), &secret));
        assert!(!unquoted.to_string().contains(&secret[..20]), "{unquoted}");
        assert!(error(&good.replace("master", "mastre")).remedy.contains("did you mean `master`"));
        assert!(
            error(&good.replace("version = 1", "version = 2"))
                .what
                .starts_with("k:3:11: a key file of another")
        );
        let lines: Vec<&str> = good.lines().filter(|line| !line.starts_with("mask")).collect();
        assert!(error(&lines.join("\n")).what.contains("missing: `mask`"));
    }
}
