//! The gateway's key file: ids, X25519 secrets, master secret, the realm's mask key.
//! See `edge::files` for opening it, `core::keyring` for the keys derived from it.

use serde::Deserialize;
use zeroize::Zeroizing;

use super::encoded::push_key;
use crate::core::diagnostic::SourceText;
use crate::core::engine::KnownClient;
use crate::core::keyring::{
    ClientSecrets, Day, Master, Newcomer, Realm, Secret, TEST_GATEWAY_ID, period,
};
use crate::core::knock::Welcome;
use crate::core::noise::KeyPair;
use crate::core::service::Client;
use crate::core::types::{ClientId, Fault, GatewayId, RealmId};

pub struct GatewayFile {
    pub gateway: GatewayId,
    pub realm: Realm,
    /// The X25519 secret whose public key is in new profiles.
    pub secret: Secret<32>,
    /// The secret before it, during a rotation.
    pub previous: Option<Secret<32>>,
    /// The secret that every client's symmetric keys are derived from.
    pub master: Master,
    /// The period in which every client's secrets begin.
    pub first_period: u32,
}

/// The period of 2026-01-01. No gateway is older, whatever its clock showed at `init`.
const EARLIEST_PERIOD: u32 = 639;

/// The treatment of the published test keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestKeys {
    /// Refused, as by every daemon: everybody has them.
    Refused,
    /// Allowed: only in tests of the protocol.
    Allowed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a gateway's keys")]
struct RawGatewayFile {
    version: toml::Spanned<i64>,
    gateway: toml::Spanned<GatewayId>,
    realm: RealmId,
    secret: Secret<32>,
    previous: Option<Secret<32>>,
    first_period: u32,
    master: Secret<32>,
    mask: Secret<32>,
}

impl GatewayFile {
    /// New keys in a realm of their own, made on this day. `entropy` fills a slice with random
    /// bytes or fails.
    pub fn generate(
        today: u32, mut entropy: impl FnMut(&mut [u8]) -> Result<(), Fault>,
    ) -> Result<Self, Fault> {
        let mut gateway = [0; 16];
        entropy(&mut gateway)?;
        let mut realm = [0; 16];
        entropy(&mut realm)?;
        let mask = Secret::filled(|bytes| entropy(bytes))?;
        let secret = Secret::filled(|bytes| entropy(bytes))?;
        let master = Secret::filled(|bytes| entropy(bytes))?;
        Ok(Self {
            gateway: GatewayId(gateway),
            realm: Realm::new(RealmId(realm), mask),
            secret,
            previous: None,
            master: Master::new(master),
            first_period: period(today).max(EARLIEST_PERIOD),
        })
    }

    /// The secrets that this gateway and `client` share.
    pub fn client_secrets(&self, client: ClientId) -> ClientSecrets {
        self.master.client_secrets(client, self.first_period)
    }

    /// What the listener needs to know of a client on its working day, or of an invitation.
    pub fn known_client(&self, client: &Client, working_day: u32) -> KnownClient {
        let secrets = self.client_secrets(client.id);
        let keys = match client.invited_until {
            None => secrets.wire_row(working_day),
            Some(_) => secrets.invitation_row(),
        };
        KnownClient { client: client.id, keys }
    }

    /// What `client`, who joined by this invitation, is told: the new root, sealed for its key, and
    /// when the enrolment ends.
    pub fn welcome(&self, invitation: ClientId, client: &Client) -> Option<Welcome> {
        let gate = self.client_secrets(invitation).gate(Day::Invited)?;
        let to = Newcomer { gateway: self.gateway, client: client.id, key: client.key.ed25519 };
        let root = gate.seal_welcome(&to, &self.master.client_root(client.id));
        Some(Welcome { client: client.id, root, expires: client.expires })
    }

    pub fn is_same(&self, other: &GatewayFile) -> bool {
        let previous = match (&self.previous, &other.previous) {
            (Some(one), Some(other)) => one.ct_eq(other),
            (one, other) => one.is_none() && other.is_none(),
        };
        self.gateway == other.gateway
            && self.realm.id() == other.realm.id()
            && self.realm.mask().ct_eq(other.realm.mask())
            && self.secret.ct_eq(&other.secret)
            && previous
            && self.master.ct_eq(&other.master)
            && self.first_period == other.first_period
    }

    /// Reads a key file. `label` is the path for messages. Fails with the first mistake, as
    /// `label:line:column: what`, never with a secret in it.
    pub fn parse(label: &str, text: &str, test_keys: TestKeys) -> Result<Self, Fault> {
        let file = SourceText::new(label, text);
        let raw: RawGatewayFile = toml::from_str(text)
            .map_err(|error| file.complain_serde(error.span(), error.message()))?;
        if *raw.version.get_ref() != 1 {
            let what = "a key file of another version";
            let remedy = "use the toctocd that wrote it, or a newer one";
            return Err(file.complain(raw.version.span().start, what, remedy));
        }
        let gateway = *raw.gateway.get_ref();
        if gateway == TEST_GATEWAY_ID && test_keys == TestKeys::Refused {
            let what = "these are the published test keys: everybody has them";
            let remedy = "make your own with `toctocd init`";
            return Err(file.complain(raw.gateway.span().start, what, remedy));
        }
        Ok(Self {
            gateway,
            realm: Realm::new(raw.realm, raw.mask),
            secret: raw.secret,
            previous: raw.previous,
            master: Master::new(raw.master),
            first_period: raw.first_period,
        })
    }

    pub fn print(&self) -> Zeroizing<String> {
        // Room for all of it: see `push_key`.
        let mut text = Zeroizing::new(String::with_capacity(1024));
        text.push_str(&format!(
            "\
# The keys of one toctoc gateway, made by `toctocd init`. Keep this file secret (mode 0600):
# who reads it can read knocks and impersonate this gateway, but cannot knock.
version = 1
gateway = \"{}\"
realm = \"{}\"
first_period = {}
",
            self.gateway,
            self.realm.id(),
            self.first_period
        ));
        push_key(&mut text, "secret", self.secret.expose());
        if let Some(previous) = &self.previous {
            push_key(&mut text, "previous", previous.expose());
        }
        push_key(&mut text, "master", self.master.expose());
        push_key(&mut text, "mask", self.realm.mask().expose());
        text
    }

    pub fn public(&self) -> [u8; 32] {
        KeyPair::new(&self.secret).public()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64ct::{Base64, Encoding};

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
    fn a_printed_key_file_parses_to_the_same_keys() {
        let mut keys = GatewayFile::generate(20_513, counting()).unwrap();
        for previous in [None, Some(Secret::new([9; 32]))] {
            keys.previous = previous;
            let text = keys.print();
            assert!(text.len() < 1024, "it must not grow");
            let read = GatewayFile::parse("k", &text, TestKeys::Refused).unwrap();
            assert_eq!(read.print(), text);
            assert_eq!(read.public(), keys.public());
            assert_eq!(read.realm.prologue(read.gateway), keys.realm.prologue(keys.gateway));
            assert!(read.realm.mask().ct_eq(keys.realm.mask()));
            assert_eq!(read.master.expose(), keys.master.expose());
            assert_eq!(read.first_period, 641);
            assert_eq!(
                read.previous.as_ref().map(Secret::expose),
                keys.previous.as_ref().map(Secret::expose)
            );
        }
    }

    #[test]
    fn a_clock_without_a_battery_makes_keys_that_begin_in_2026() {
        assert_eq!(GatewayFile::generate(0, counting()).unwrap().first_period, 639);
        assert_eq!(GatewayFile::generate(639 * 32 + 32, counting()).unwrap().first_period, 640);
    }

    #[test]
    fn a_system_without_entropy_makes_no_keys() {
        let none = |_: &mut [u8]| Err(Fault::new("none", ""));
        assert!(GatewayFile::generate(20_513, none).is_err());
    }

    #[test]
    fn a_real_gateway_refuses_the_test_keys() {
        let mut keys = GatewayFile::generate(20_513, counting()).unwrap();
        keys.gateway = TEST_GATEWAY_ID;
        let text = keys.print();
        let fault = error(&text);
        assert!(fault.what.contains(":4:11: these are the published test keys"), "{fault}");
        assert!(GatewayFile::parse("k", &text, TestKeys::Allowed).is_ok());
    }

    #[test]
    fn a_mistake_is_reported_with_its_place_and_never_with_the_secret() {
        let keys = GatewayFile::generate(20_513, counting()).unwrap();
        let good = keys.print();
        let secret = Base64::encode_string(keys.master.expose());
        let cut = good.replace(&secret, &secret[..40]);
        let fault = error(&cut);
        assert!(fault.what.starts_with("k:8:10: not a key: 32 bytes in base64"), "{fault}");
        assert!(!fault.to_string().contains(&secret[..20]), "{fault}");
        let unquoted = error(&good.replace(&format!("\"{secret}\""), &secret));
        assert!(!unquoted.to_string().contains(&secret[..20]), "{unquoted}");
        assert!(error(&good.replace("master", "mastre")).remedy.contains("did you mean `master`"));
        let newer = error(&good.replace("version = 1", "version = 2"));
        assert!(newer.what.starts_with("k:3:11: a key file of another"), "{newer}");
        let lines: Vec<&str> = good.lines().filter(|line| !line.starts_with("mask")).collect();
        assert!(error(&lines.join("\n")).what.contains("missing: `mask`"));
    }
}
