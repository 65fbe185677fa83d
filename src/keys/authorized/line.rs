//! One line of the clients file: `id=HEX,services="ssh" ssh-ed25519 AAAA... name`.
//! Lines that contradict each other are left to the file as a whole.

use jiff::Timestamp;

use crate::core::diagnostic::{SourceText, printable};
use crate::core::service::Client;
use crate::core::types::{ClientId, Fault, ServiceName};
use crate::keys::encoded;
use crate::keys::public::PublicKey;

/// How many services one client may have.
const MAX_SERVICES: usize = 64;

/// A client and where its parts stand, for complaints about lines that contradict each other.
pub(super) struct Parsed {
    pub(super) client: Client,
    pub(super) start: usize,
    pub(super) services_at: usize,
    pub(super) key_at: usize,
    pub(super) name_at: usize,
}

const SHAPE: &str = "write id=HEX,services=\"ssh\" ssh-ed25519 AAAA... NAME";

/// Reads `line`, which begins at byte `start` of `file`.
pub(super) fn parse(file: SourceText<'_>, start: usize, line: &str) -> Result<Parsed, Fault> {
    let mut cursor = Cursor { file, at: start, rest: line };
    let options = LineOptions::read(&mut cursor)?;
    cursor.skip_blanks();
    let key_at = cursor.at;
    let algorithm = cursor.word();
    cursor.skip_blanks();
    let blob = cursor.word();
    let key = PublicKey::from_words(algorithm, blob)
        .map_err(|fault| file.complain(key_at, fault.what, fault.remedy))?;
    cursor.skip_blanks();
    let name_at = cursor.at;
    let name = cursor.rest;
    if !is_name(name) {
        let what = if name.is_empty() {
            "no name behind the key".to_owned()
        } else {
            format!("`{}` is no name", printable(name))
        };
        return Err(file.complain(
            name_at,
            what,
            "one word of up to 64 letters, digits, and . _ @ + -",
        ));
    }
    let missing = |what: &str| file.complain(start, format!("no `{what}=` on this line"), SHAPE);
    let (services_at, services) = options.services.ok_or_else(|| missing("services"))?;
    let client = Client {
        id: options.id.ok_or_else(|| missing("id"))?,
        name: name.to_owned(),
        key: key.bytes(),
        fingerprint: key.fingerprint(),
        services,
        expires: options.expires,
        max_seconds: options.max_seconds,
    };
    Ok(Parsed { client, start, services_at, key_at, name_at })
}

/// The line of `client`, without an end of line.
pub(super) fn print(client: &Client) -> String {
    let services: Vec<&str> = client.services.iter().map(ServiceName::as_str).collect();
    let mut line = format!("id={},services=\"{}\"", client.id, services.join(","));
    if let Some(expires) = client
        .expires
        .and_then(|s| i64::try_from(s).ok())
        .and_then(|s| Timestamp::from_second(s).ok())
    {
        line.push_str(&format!(",expires=\"{expires}\""));
    }
    if let Some(seconds) = client.max_seconds {
        line.push_str(&format!(",max-seconds={seconds}"));
    }
    // The key passed its check when the client came into being.
    let key = PublicKey::new(client.key).map(|key| key.line()).unwrap_or_default();
    format!("{line} {key} {}", client.name)
}

/// Whether a client can be called this.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@+-".contains(&b))
}

#[derive(Default)]
struct LineOptions {
    id: Option<ClientId>,
    services: Option<(usize, Vec<ServiceName>)>,
    expires: Option<u64>,
    max_seconds: Option<u32>,
}

impl LineOptions {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Fault> {
        let mut options = Self::default();
        loop {
            let key_at = cursor.at;
            let key = cursor.take_while(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
            let known = ["id", "services", "expires", "max-seconds"];
            if !known.contains(&key) {
                return Err(options.unknown(cursor, key_at, key, known));
            }
            if !cursor.eat('=') {
                return Err(cursor.file.complain(
                    cursor.at,
                    format!("`=` is missing behind `{key}`"),
                    SHAPE,
                ));
            }
            let value_at = cursor.at;
            let value = cursor.value()?;
            if options.set(cursor.file, value_at, key, value)? {
                return Err(cursor.file.complain(
                    key_at,
                    format!("`{key}` stands here twice"),
                    "remove one of the two",
                ));
            }
            if !cursor.eat(',') {
                break;
            }
        }
        match cursor.rest.chars().next() {
            Some(c) if !c.is_whitespace() => {
                Err(cursor.file.complain(cursor.at, "a comma or a blank is missing here", SHAPE))
            }
            _ => Ok(options),
        }
    }

    /// An unknown word, or a line that begins with its key and so has no options at all.
    fn unknown(&self, cursor: &Cursor<'_>, at: usize, key: &str, known: [&str; 4]) -> Fault {
        if self.id.is_none() && self.services.is_none() && !cursor.rest.starts_with('=') {
            return cursor.file.complain(at, "this line does not begin with options", SHAPE);
        }
        cursor.file.complain_unknown(at, "option", key, known)
    }

    /// Sets one option; answers whether it was set before.
    fn set(
        &mut self,
        file: SourceText<'_>,
        at: usize,
        key: &str,
        value: &str,
    ) -> Result<bool, Fault> {
        match key {
            "id" => {
                let id = encoded::id(value).map(ClientId);
                let id = id.ok_or_else(|| {
                    file.complain(at, "not an id", "32 lower-case hex digits, as in the profile")
                })?;
                Ok(self.id.replace(id).is_some())
            }
            "services" => Ok(self.services.replace((at, services(file, at, value)?)).is_some()),
            "expires" => {
                let seconds =
                    value.parse::<Timestamp>().ok().and_then(|t| u64::try_from(t.as_second()).ok());
                let seconds = seconds.ok_or_else(|| {
                    file.complain(
                        at,
                        "not a moment",
                        "write it as expires=\"2027-01-01T00:00:00Z\"",
                    )
                })?;
                Ok(self.expires.replace(seconds).is_some())
            }
            _ => {
                let plain = value.bytes().all(|b| b.is_ascii_digit());
                let seconds =
                    value.parse::<u32>().ok().filter(|s| plain && (1..=604_800).contains(s));
                let seconds = seconds.ok_or_else(|| {
                    file.complain(
                        at,
                        "max-seconds is out of range",
                        "a whole number from 1 to 604800",
                    )
                })?;
                Ok(self.max_seconds.replace(seconds).is_some())
            }
        }
    }
}

fn services(file: SourceText<'_>, at: usize, value: &str) -> Result<Vec<ServiceName>, Fault> {
    let mut names = Vec::new();
    for word in value.split(',').map(str::trim) {
        let name = ServiceName::new(word).ok_or_else(|| {
            file.complain(
                at,
                format!("`{}` is no service name", printable(word)),
                "write services=\"ssh,web\"",
            )
        })?;
        if names.contains(&name) {
            return Err(file.complain(
                at,
                format!("service `{name}` is named twice"),
                "remove one of the two",
            ));
        }
        names.push(name);
    }
    if names.len() > MAX_SERVICES {
        return Err(file.complain(at, format!("more than {MAX_SERVICES} services"), "remove some"));
    }
    Ok(names)
}

/// A place in the line.
struct Cursor<'a> {
    file: SourceText<'a>,
    at: usize,
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn advance(&mut self, bytes: usize) -> &'a str {
        let (head, tail) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.rest = tail;
        self.at += head.len();
        head
    }

    fn take_while(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !fits(c)).unwrap_or(self.rest.len());
        self.advance(end)
    }

    fn word(&mut self) -> &'a str {
        self.take_while(|c| !c.is_whitespace())
    }

    fn skip_blanks(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn eat(&mut self, c: char) -> bool {
        let there = self.rest.starts_with(c);
        if there {
            self.advance(c.len_utf8());
        }
        there
    }

    /// A bare value, or one in double quotes; there are no escapes, because no value needs one.
    fn value(&mut self) -> Result<&'a str, Fault> {
        let start = self.at;
        if !self.eat('"') {
            return Ok(self.take_while(|c| !c.is_whitespace() && c != ',' && c != '"'));
        }
        let value = self.take_while(|c| c != '"');
        match self.eat('"') {
            true => Ok(value),
            false => Err(self.file.complain(
                start,
                "this quotation mark is never closed",
                "close it with another",
            )),
        }
    }
}
