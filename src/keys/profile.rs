//! What a client holds of one gateway, as TOML: addresses, the gateway's public key, the symmetric
//! keys. Where profiles lie is left to `app`, the client's own private key to `identity`.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;
use zeroize::Zeroizing;

use super::authorized::is_name;
use super::encoded::{IdText, PublicText, SecretText, base64};
use super::public::PublicKey;
use crate::core::address::is_host;
use crate::core::diagnostic::{SourceText, printable};
use crate::core::door::{STEPS, Step};
use crate::core::keyring::{ClientKeys, Realm};
use crate::core::types::{ClientId, Fault, GatewayId, RealmId, ServiceName};
use crate::core::wire::ClientSide;

/// A profile. Made by `toctocd client add`, kept by `toctoc import`.
pub struct Profile {
    /// The client's name at that gateway, for people.
    pub name: String,
    /// Its id there; the keys derive from it.
    pub client: ClientId,
    /// The public key that is enrolled: another one's signature would come to nothing.
    pub key: PublicKey,
    /// Host names or IP addresses of the gateway, at least one; tried in order.
    pub addresses: Vec<String>,
    /// The knock port.
    pub port: u16,
    /// What the knock is sealed with.
    pub side: ClientSide,
    /// What the client may open, as far as was known when the profile was made.
    pub services: Vec<ServiceName>,
    /// What `toctoc open PROFILE` opens.
    pub default_service: Option<ServiceName>,
    /// The private key; `None` = the client's usual one.
    pub identity: Option<PathBuf>,
    /// For when no sealed knock gets through.
    pub fallback: Option<Fallback>,
}

/// The classic sequence of a door. Shown to nobody, but no key: it crosses the network in the clear
/// whenever it is used.
#[derive(Clone, PartialEq, Eq)]
pub struct Fallback {
    /// What to hit, in order, 1 to [`STEPS`].
    pub sequence: Vec<Step>,
    /// Whether the client may offer it after a sealed knock without an answer. It never uses it by
    /// itself.
    pub offer: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a profile")]
struct RawProfile {
    version: Spanned<i64>,
    name: Spanned<String>,
    client: IdText,
    key: Spanned<String>,
    addresses: Spanned<Vec<Spanned<String>>>,
    port: Spanned<i64>,
    gateway: IdText,
    realm: IdText,
    gateway_key: PublicText,
    mask: SecretText,
    psk: SecretText,
    tag: SecretText,
    mac: SecretText,
    services: Vec<Spanned<String>>,
    default_service: Option<Spanned<String>>,
    identity: Option<Spanned<String>>,
    classic: Option<Spanned<String>>,
    sequence: Option<Spanned<Vec<Spanned<String>>>>,
}

impl Profile {
    /// Reads a profile; `label` is the path that complaints name.
    ///
    /// # Errors
    /// The first thing that is wrong, as `label:line:column: what`; never with a secret in it.
    pub fn parse(label: &str, text: &str) -> Result<Self, Fault> {
        let file = SourceText::new(label, text);
        let raw: RawProfile = toml::from_str(text).map_err(|e| complain_parse(file, &e))?;
        let checked = Checker { file };
        checked.version(&raw.version)?;
        let services =
            raw.services.iter().map(|name| checked.service(name)).collect::<Result<Vec<_>, _>>()?;
        let default_service = raw
            .default_service
            .map(|name| checked.default_service(&name, &services))
            .transpose()?;
        let realm = Realm::new(RealmId(raw.realm.0), GatewayId(raw.gateway.0), raw.mask.0);
        let keys = ClientKeys { psk: raw.psk.0, tag: raw.tag.0, mac: raw.mac.0 };
        Ok(Self {
            name: checked.name(raw.name)?,
            client: ClientId(raw.client.0),
            key: checked.key(&raw.key)?,
            addresses: checked.addresses(raw.addresses)?,
            port: checked.port(&raw.port)?,
            side: ClientSide { realm, gateway_public: raw.gateway_key.0, keys },
            services,
            default_service,
            identity: raw.identity.map(|path| checked.identity(path)).transpose()?,
            fallback: checked.fallback(raw.classic.as_ref(), raw.sequence.as_ref())?,
        })
    }

    /// The profile's text; wiped when dropped.
    pub fn print(&self) -> Zeroizing<String> {
        let services: Vec<&str> = self.services.iter().map(ServiceName::as_str).collect();
        let mut open = [
            format!("# toctoc profile of `{}`. It holds secrets: keep it 0600, hand it over in private.", self.name),
            format!("# `toctoc import` puts it where it belongs. {}", self.worth()),
            "version = 1".into(),
            line("name", self.name.as_str()),
            line("client", self.client.to_string()),
            line("key", self.key.line()),
            line("addresses", self.addresses.clone()),
            line("port", i64::from(self.port)),
            line("services", services),
        ]
        .join("\n");
        if let Some(service) = &self.default_service {
            open.push_str(&format!("\n{}", line("default_service", service.as_str())));
        }
        if let Some(identity) = &self.identity {
            open.push_str(&format!(
                "\n{}",
                line("identity", identity.to_string_lossy().into_owned())
            ));
        }
        if let Some(fallback) = &self.fallback {
            open.push_str(&fallback.print());
        }
        open.push_str(&format!(
            "\n{}\n{}\n",
            line("gateway", self.side.realm.gateway().to_string()),
            line("realm", self.side.realm.realm().to_string())
        ));
        // Room for all of it: a string that grows leaves copies of secrets behind.
        let mut text = Zeroizing::new(String::with_capacity(open.len() + 512));
        text.push_str(&open);
        let keys = &self.side.keys;
        for (name, bytes) in [
            ("gateway_key", &self.side.gateway_public),
            ("mask", self.side.realm.mask().expose()),
            ("psk", keys.psk.expose()),
            ("tag", keys.tag.expose()),
            ("mac", keys.mac.expose()),
        ] {
            let encoded = base64(bytes);
            [name, " = \"", encoded.as_str(), "\"\n"].iter().for_each(|part| text.push_str(part));
        }
        text
    }

    /// What whoever finds it can do with it.
    fn worth(&self) -> &'static str {
        match self.fallback {
            None => "Alone it opens nothing: that takes the private key as well.",
            Some(_) => {
                "Alone it opens the door whose sequence it holds; for all else it takes the private key as well."
            }
        }
    }
}

impl Fallback {
    fn print(&self) -> String {
        let steps: Vec<String> = self.sequence.iter().map(|step| step.notation()).collect();
        [
            "\n# A door's classic sequence, for when no sealed knock gets through: `toctoc open --classic` sends it, in the clear.",
            &line("sequence", steps),
            "# \"ask\": offer it after a sealed knock without an answer. \"never\": only --classic sends it.",
            &line("classic", if self.offer { ASK } else { NEVER }),
        ]
        .join("\n")
    }
}

const ASK: &str = "ask";
const NEVER: &str = "never";

fn line(key: &str, value: impl Into<toml::Value>) -> String {
    format!("{key} = {}", value.into())
}

fn complain_parse(file: SourceText<'_>, error: &toml::de::Error) -> Fault {
    let mut fault = file.complain_serde(error.span(), error.message());
    if !fault.remedy.starts_with("did you mean") {
        fault.remedy =
            "ask the gateway's admin for the profile again: `toctocd client add` prints it"
                .to_owned();
    }
    fault
}

/// The checks that TOML itself does not do, each naming its place.
struct Checker<'a> {
    file: SourceText<'a>,
}

impl Checker<'_> {
    fn version(&self, version: &Spanned<i64>) -> Result<(), Fault> {
        match version.get_ref() {
            1 => Ok(()),
            _ => Err(self.at(
                version,
                "a profile of another version",
                "use a newer toctoc, or ask for a new profile",
            )),
        }
    }

    fn name(&self, name: Spanned<String>) -> Result<String, Fault> {
        if !is_name(name.get_ref()) {
            return Err(self.at(
                &name,
                "not a client's name",
                "one word of letters, digits, and . _ @ + -",
            ));
        }
        Ok(name.into_inner())
    }

    fn key(&self, line: &Spanned<String>) -> Result<PublicKey, Fault> {
        let parsed = PublicKey::from_line(line.get_ref());
        parsed.map(|(key, _)| key).map_err(|fault| self.at(line, &fault.what, &fault.remedy))
    }

    fn addresses(&self, list: Spanned<Vec<Spanned<String>>>) -> Result<Vec<String>, Fault> {
        if list.get_ref().is_empty() || list.get_ref().len() > 16 {
            return Err(self.at(
                &list,
                "1 to 16 addresses are needed",
                "write addresses = [\"gate.example.org\"]",
            ));
        }
        let host = |text: Spanned<String>| match is_host(text.get_ref()) {
            true => Ok(text.into_inner()),
            false => Err(self.at(
                &text,
                "not a host",
                "write a host name or an IP address, without a port",
            )),
        };
        list.into_inner().into_iter().map(host).collect()
    }

    fn port(&self, port: &Spanned<i64>) -> Result<u16, Fault> {
        u16::try_from(*port.get_ref())
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| self.at(port, "not a port", "from 1 to 65535"))
    }

    fn service(&self, name: &Spanned<String>) -> Result<ServiceName, Fault> {
        let what = format!("`{}` is no service name", printable(name.get_ref()));
        ServiceName::new(name.get_ref())
            .ok_or_else(|| self.at(name, &what, "use 1 to 31 of a-z 0-9 . _ -"))
    }

    fn default_service(
        &self,
        name: &Spanned<String>,
        services: &[ServiceName],
    ) -> Result<ServiceName, Fault> {
        let service = self.service(name)?;
        if services.contains(&service) {
            return Ok(service);
        }
        let known = services.iter().map(ServiceName::as_str);
        Err(self.file.complain_unknown(name.span().start, "service", name.get_ref(), known))
    }

    fn identity(&self, path: Spanned<String>) -> Result<PathBuf, Fault> {
        let plain = !path.get_ref().is_empty() && !path.get_ref().contains('\0');
        if !plain {
            return Err(self.at(
                &path,
                "not a path",
                "name an OpenSSH private key file, or remove this line",
            ));
        }
        Ok(path.into_inner().into())
    }

    /// Never shows a step that it complains about: it may be right but for a letter.
    fn fallback(
        &self,
        classic: Option<&Spanned<String>>,
        sequence: Option<&Spanned<Vec<Spanned<String>>>>,
    ) -> Result<Option<Fallback>, Fault> {
        let (list, word) = match (sequence, classic) {
            (None, None) => return Ok(None),
            (None, Some(word)) => {
                return Err(self.at(
                    word,
                    "`classic` without a `sequence`",
                    "write sequence = [...] too, or remove it",
                ));
            }
            (Some(list), word) => (list, word),
        };
        let offer = match word.map(|word| (word, word.get_ref().as_str())) {
            None | Some((_, NEVER)) => false,
            Some((_, ASK)) => true,
            Some((word, other)) => {
                return Err(self.file.complain_unknown(
                    word.span().start,
                    "word",
                    other,
                    [NEVER, ASK],
                ));
            }
        };
        if !(1..=STEPS).contains(&list.get_ref().len()) {
            return Err(self.at(
                list,
                "not a sequence",
                &format!("1 to {STEPS} steps, as the door has them"),
            ));
        }
        let step = |text: &Spanned<String>| {
            Step::read(text.get_ref()).ok_or_else(|| {
                self.at(text, "not a step of a sequence", "write 7001/tcp, 7001/udp or icmp:64")
            })
        };
        Ok(Some(Fallback {
            sequence: list.get_ref().iter().map(step).collect::<Result<_, _>>()?,
            offer,
        }))
    }

    fn at<T>(&self, place: &Spanned<T>, what: &str, remedy: &str) -> Fault {
        self.file.complain(place.span().start, what, remedy)
    }
}

#[cfg(test)]
pub(crate) mod tests;
