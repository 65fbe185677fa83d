//! A client's profile of one gateway, as TOML: addresses, public key, symmetric keys.
//! See `app::client` for the place of profiles, `identity` for the client's private key.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Deserialize;
use toml::Spanned;
use zeroize::Zeroizing;

use super::authorized::is_name;
use super::encoded::{PublicText, push_key};
use crate::core::address::is_host;
use crate::core::diagnostic::{SourceText, printable};
use crate::core::door::{STEPS, Step};
use crate::core::keyring::{ClientSecrets, Realm, Secret};
use crate::core::public_key::PublicKey;
use crate::core::types::{ClientId, Fault, GatewayId, RealmId, ServiceName};
use crate::core::wire::ClientSide;

/// A profile. Made by `toctocd client add`, kept by `toctoc import`.
pub struct Profile {
    /// The client's name at that gateway, for people.
    pub name: String,
    /// Its id there; the keys derive from it.
    pub client: ClientId,
    /// The public key that is enrolled: only its signatures count.
    pub key: PublicKey,
    /// Host names or IP addresses of the gateway, at least one, in order of preference.
    pub addresses: Vec<String>,
    pub port: u16,
    /// The keys that seal a knock.
    pub side: ClientSide,
    /// The services that the client could open when the profile was made.
    pub services: Vec<ServiceName>,
    pub default_service: Option<ServiceName>,
    /// The end of the enrolment in seconds since the epoch, as it was when the profile was made.
    pub expires: Option<u64>,
    /// The path of the private key; `None` = the agent's or the client's usual one.
    pub identity: Option<PathBuf>,
    /// The socket of the ssh-agent; `None` = the one that SSH_AUTH_SOCK names.
    pub agent: Option<PathBuf>,
    /// For networks that let no sealed knock through.
    pub fallback: Option<Fallback>,
}

/// A door's classic sequence. Shown to nobody, but weaker than a key: it is sent in cleartext.
#[derive(Clone, PartialEq, Eq)]
pub struct Fallback {
    /// 1 to [`STEPS`] steps.
    pub sequence: Vec<Step>,
    /// True if the client may offer it when no receipt comes. It never sends it by itself.
    pub offer: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a profile")]
struct RawProfile {
    version: Spanned<i64>,
    name: Spanned<String>,
    client: ClientId,
    key: Spanned<String>,
    addresses: Spanned<Vec<Spanned<String>>>,
    port: Spanned<i64>,
    gateway: GatewayId,
    realm: RealmId,
    gateway_key: PublicText,
    mask: Secret<32>,
    generation: Spanned<u32>,
    period: u32,
    secret: Secret<32>,
    clockless: Secret<32>,
    services: Vec<Spanned<String>>,
    default_service: Option<Spanned<String>>,
    expires: Option<Spanned<String>>,
    identity: Option<Spanned<String>>,
    agent: Option<Spanned<String>>,
    classic: Option<Spanned<String>>,
    sequence: Option<Spanned<Vec<Spanned<String>>>>,
    check: Spanned<String>,
}

impl Profile {
    /// Reads a profile. `label` is the path for messages. Fails with the first mistake, as
    /// `label:line:column: what`, never with a secret in it.
    pub fn parse(label: &str, text: &str) -> Result<Self, Fault> {
        let file = SourceText::new(label, text);
        let raw: RawProfile = toml::from_str(text).map_err(|error| parse_fault(file, &error))?;
        version(file, &raw.version)?;
        generation(file, &raw.generation)?;
        let mut services = Vec::new();
        for name in &raw.services {
            services.push(service(file, name)?);
        }
        let default_service = match &raw.default_service {
            Some(name) => Some(default_service(file, name, &services)?),
            None => None,
        };
        let expires = match &raw.expires {
            Some(text) => Some(moment(file, text)?),
            None => None,
        };
        let profile = Self {
            name: name(file, raw.name)?,
            client: raw.client,
            key: key(file, &raw.key)?,
            addresses: addresses(file, raw.addresses)?,
            port: port(file, &raw.port)?,
            side: ClientSide {
                gateway: raw.gateway,
                realm: Realm::new(raw.realm, raw.mask),
                gateway_public: raw.gateway_key.0,
                secrets: ClientSecrets::new(raw.period, raw.secret, raw.clockless),
            },
            services,
            default_service,
            expires,
            identity: match raw.identity {
                Some(path) => Some(self::path(file, path, "an OpenSSH private key file")?),
                None => None,
            },
            agent: match raw.agent {
                Some(path) => Some(self::path(file, path, "the socket of an ssh-agent")?),
                None => None,
            },
            fallback: fallback(file, raw.classic.as_ref(), raw.sequence.as_ref())?,
        };
        if *raw.check.get_ref() != profile.check() {
            let what = "the keys and ids above do not fit this check value: one was changed";
            return Err(fault(file, &raw.check, what, NEW_PROFILE));
        }
        Ok(profile)
    }

    /// The check value of all keys and ids, as text. It finds slips of the hand; against an
    /// attacker, who could compute it again, it does nothing.
    fn check(&self) -> String {
        base16ct::lower::encode_string(&self.side.check(self.client, &self.key.fingerprint()))
    }

    /// The service that a command means if it names none: the default one, or the only one.
    pub fn usual_service(&self) -> Option<ServiceName> {
        match self.services.as_slice() {
            [only] => Some(*only),
            _ => self.default_service,
        }
    }

    pub fn print(&self) -> Zeroizing<String> {
        let side = &self.side;
        let services: Vec<&str> = self.services.iter().map(ServiceName::as_str).collect();
        let mut lines = vec![
            format!(
                "# toctoc profile of `{}`. It contains secrets: keep it 0600, send it in private.",
                self.name
            ),
            format!("# `toctoc import` installs it. {}", self.worth()),
            "version = 1".into(),
            line("name", self.name.as_str()),
            line("client", self.client.to_string()),
            line("key", self.key.line()),
            line("addresses", self.addresses.clone()),
            line("port", i64::from(self.port)),
            line("services", services),
        ];
        if let Some(service) = &self.default_service {
            lines.push(line("default_service", service.as_str()));
        }
        if let Some(seconds) = self.expires
            && let Ok(seconds) = i64::try_from(seconds)
            && let Ok(moment) = Timestamp::from_second(seconds)
        {
            lines.push(line("expires", moment.to_string()));
        }
        for (key, path) in [("identity", &self.identity), ("agent", &self.agent)] {
            if let Some(path) = path {
                lines.push(line(key, path.to_string_lossy().into_owned()));
            }
        }
        if let Some(fallback) = &self.fallback {
            lines.extend(fallback.lines());
        }
        lines.push(line("gateway", side.gateway.to_string()));
        lines.push(line("realm", side.realm.id().to_string()));
        lines.push(line("generation", 0));
        lines.push(line("period", i64::from(side.secrets.period())));
        let lines = lines.join("\n");
        // Room for all of it: see `push_key`.
        let mut text = Zeroizing::new(String::with_capacity(lines.len() + 512));
        text.push_str(&lines);
        text.push('\n');
        push_key(&mut text, "gateway_key", &side.gateway_public);
        push_key(&mut text, "mask", side.realm.mask().expose());
        push_key(&mut text, "secret", side.secrets.secret().expose());
        push_key(&mut text, "clockless", side.secrets.clockless().expose());
        text.push_str(&line("check", self.check()));
        text.push('\n');
        text
    }

    /// The power that the file gives to a thief.
    fn worth(&self) -> &'static str {
        match self.fallback {
            None => "Alone it opens nothing: that takes the private key too.",
            Some(_) => {
                "Alone it opens the door of its sequence; all else takes the private key too."
            }
        }
    }
}

impl Fallback {
    fn lines(&self) -> [String; 4] {
        let steps: Vec<String> = self.sequence.iter().map(|step| step.notation()).collect();
        [
            "# A door's classic sequence, for networks that let no sealed knock through. `toctoc open --classic` sends it, in cleartext.".into(),
            line("sequence", steps),
            "# \"ask\": offer it when no receipt comes. \"never\": only --classic sends it.".into(),
            line("classic", if self.offer { ASK } else { NEVER }),
        ]
    }
}

const NEW_PROFILE: &str =
    "import it again from the original; or ask the gateway's admin for a new profile";

const ASK: &str = "ask";
const NEVER: &str = "never";

fn line(key: &str, value: impl Into<toml::Value>) -> String {
    format!("{key} = {}", value.into())
}

fn parse_fault(file: SourceText<'_>, error: &toml::de::Error) -> Fault {
    let mut fault = file.complain_serde(error.span(), error.message());
    if !fault.what.contains("unknown key") {
        fault.remedy = NEW_PROFILE.to_owned();
    }
    fault
}

fn version(file: SourceText<'_>, version: &Spanned<i64>) -> Result<(), Fault> {
    if *version.get_ref() == 1 {
        return Ok(());
    }
    let remedy = "use a newer toctoc, or ask for a new profile";
    Err(fault(file, version, "a profile of another version", remedy))
}

/// A later version may agree new secrets with the gateway, and counts that here.
fn generation(file: SourceText<'_>, generation: &Spanned<u32>) -> Result<(), Fault> {
    match generation.get_ref() {
        0 => Ok(()),
        _ => Err(fault(file, generation, "a later generation of secrets", "use a newer toctoc")),
    }
}

fn name(file: SourceText<'_>, name: Spanned<String>) -> Result<String, Fault> {
    if is_name(name.get_ref()) {
        return Ok(name.into_inner());
    }
    Err(fault(file, &name, "not a client's name", "one word of letters, digits, and . _ @ + -"))
}

fn key(file: SourceText<'_>, line: &Spanned<String>) -> Result<PublicKey, Fault> {
    match PublicKey::from_line(line.get_ref()) {
        Ok((key, _)) => Ok(key),
        Err(error) => Err(fault(file, line, &error.what, &error.remedy)),
    }
}

fn addresses(
    file: SourceText<'_>, list: Spanned<Vec<Spanned<String>>>,
) -> Result<Vec<String>, Fault> {
    if !(1..=16).contains(&list.get_ref().len()) {
        let remedy = "write addresses = [\"gate.example.org\"]";
        return Err(fault(file, &list, "1 to 16 addresses are needed", remedy));
    }
    let mut hosts = Vec::new();
    for text in list.into_inner() {
        if !is_host(text.get_ref()) {
            let remedy = "write a host name or an IP address, without a port";
            return Err(fault(file, &text, "not a host", remedy));
        }
        hosts.push(text.into_inner());
    }
    Ok(hosts)
}

fn port(file: SourceText<'_>, port: &Spanned<i64>) -> Result<u16, Fault> {
    match u16::try_from(*port.get_ref()) {
        Ok(0) | Err(_) => Err(fault(file, port, "not a port", "from 1 to 65535")),
        Ok(number) => Ok(number),
    }
}

fn service(file: SourceText<'_>, name: &Spanned<String>) -> Result<ServiceName, Fault> {
    ServiceName::new(name.get_ref()).ok_or_else(|| {
        let what = format!("`{}` is not a service name", printable(name.get_ref()));
        fault(file, name, &what, "use 1 to 31 of a-z 0-9 . _ -")
    })
}

fn default_service(
    file: SourceText<'_>, name: &Spanned<String>, services: &[ServiceName],
) -> Result<ServiceName, Fault> {
    let service = service(file, name)?;
    if services.contains(&service) {
        return Ok(service);
    }
    let known = services.iter().map(ServiceName::as_str);
    Err(file.complain_unknown(name.span().start, "service", name.get_ref(), known))
}

fn moment(file: SourceText<'_>, text: &Spanned<String>) -> Result<u64, Fault> {
    if let Ok(moment) = text.get_ref().parse::<Timestamp>()
        && let Ok(seconds) = u64::try_from(moment.as_second())
    {
        return Ok(seconds);
    }
    Err(fault(file, text, "not a moment", "write it as \"2027-01-31T00:00:00Z\""))
}

fn path(file: SourceText<'_>, path: Spanned<String>, meant: &str) -> Result<PathBuf, Fault> {
    if path.get_ref().is_empty() || path.get_ref().contains('\0') {
        let remedy = format!("name {meant}, or remove this line");
        return Err(fault(file, &path, "not a path", &remedy));
    }
    Ok(path.into_inner().into())
}

/// A fault never shows a wrong step: only one letter of it may be wrong.
fn fallback(
    file: SourceText<'_>, classic: Option<&Spanned<String>>,
    sequence: Option<&Spanned<Vec<Spanned<String>>>>,
) -> Result<Option<Fallback>, Fault> {
    let Some(list) = sequence else {
        let Some(word) = classic else { return Ok(None) };
        let remedy = "write sequence = [...] too, or remove it";
        return Err(fault(file, word, "`classic` without a `sequence`", remedy));
    };
    let offer = match classic {
        None => false,
        Some(word) if word.get_ref() == NEVER => false,
        Some(word) if word.get_ref() == ASK => true,
        Some(word) => {
            let known = [NEVER, ASK];
            let at = word.span().start;
            return Err(file.complain_unknown(at, "word", word.get_ref(), known));
        }
    };
    if !(1..=STEPS).contains(&list.get_ref().len()) {
        let remedy = format!("1 to {STEPS} steps, as the door has them");
        return Err(fault(file, list, "not a sequence", &remedy));
    }
    let mut steps = Vec::new();
    for text in list.get_ref() {
        let Some(step) = Step::read(text.get_ref()) else {
            let remedy = "write 7001/tcp, 7001/udp or icmp:64";
            return Err(fault(file, text, "not a step of a sequence", remedy));
        };
        steps.push(step);
    }
    Ok(Some(Fallback { sequence: steps, offer }))
}

fn fault<T>(file: SourceText<'_>, place: &Spanned<T>, what: &str, remedy: &str) -> Fault {
    file.complain(place.span().start, what, remedy)
}

#[cfg(test)]
pub(crate) mod tests;
