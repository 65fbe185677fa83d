//! One line of the clients file: `id=HEX,services="ssh" ssh-ed25519 AAAA... name`.
//! See `authorized` for lines that contradict each other.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use jiff::Timestamp;

use super::limits::{self, Zones};
use crate::core::diagnostic::{SourceText, printable};
use crate::core::joining::JoinRule;
use crate::core::limits::{Limits, NO_LIMITS};
use crate::core::public_key::{FidoKey, PublicKey};
use crate::core::service::Client;
use crate::core::types::{ClientId, Fault, ServiceName};
use crate::keys::{encoded, public};

/// An option of a FIDO key's line, as in OpenSSH's authorized_keys: a signature also takes a PIN or
/// a fingerprint.
pub(crate) const VERIFY: &str = "verify-required";
/// Likewise: a signature without a touch is enough.
pub(crate) const NO_TOUCH: &str = "no-touch-required";

/// The value of `join=` for whoever asks first.
pub(super) const AUTO: &str = "auto";

const MAX_SERVICES: usize = 64;
const SHAPE: &str = "write id=HEX,services=\"ssh\" ssh-ed25519 AAAA... NAME";

/// A client, and the offsets of its parts for messages.
pub(super) struct ParsedLine {
    pub(super) client: Client,
    pub(super) start: usize,
    pub(super) key_at: usize,
    pub(super) name_at: usize,
}

/// Reads `line`, which begins at byte `start` of `file`.
pub(super) fn parse(
    file: SourceText<'_>, start: usize, line: &str, zones: Zones<'_>,
) -> Result<ParsedLine, Fault> {
    let mut cursor = Cursor::new(file, start, line);
    let options = LineOptions::read(&mut cursor, LineOptions::OF_CLIENTS, zones)?;
    cursor.skip_blanks();
    let key_at = cursor.at;
    let algorithm = cursor.word();
    cursor.skip_blanks();
    let key = public::read_words(algorithm, cursor.word())
        .map_err(|fault| file.complain(key_at, fault.what, fault.remedy))?;
    let key = options.ruled(key).map_err(|fault| file.complain(start, fault.what, fault.remedy))?;
    cursor.skip_blanks();
    let name_at = cursor.at;
    let name = cursor.rest;
    if !is_name(name) {
        let what = match name {
            "" => "no name after the key".to_owned(),
            _ => format!("`{}` is not a client's name", printable(name)),
        };
        let remedy = "one word of up to 64 letters, digits, and . _ @ + -";
        return Err(file.complain(name_at, what, remedy));
    }
    let limits = options.limits();
    let Some(services) = options.services else {
        return Err(file.complain(start, "no `services=` on this line", SHAPE));
    };
    let Some(id) = options.id else {
        return Err(file.complain(start, "no `id=` on this line", SHAPE));
    };
    let client = Client {
        id,
        name: name.into(),
        key,
        services,
        expires: options.expires,
        limits,
        invited_until: None,
    };
    Ok(ParsedLine { client, start, key_at, name_at })
}

/// The options of a client with these rights, each as it is written.
pub(super) fn print_options(
    id: Option<ClientId>, services: &[ServiceName], expires: Option<u64>, limits: &Limits,
) -> Vec<String> {
    let mut options = Vec::new();
    if let Some(id) = id {
        options.push(format!("id={id}"));
    }
    let services: Vec<&str> = services.iter().map(ServiceName::as_str).collect();
    options.push(format!("services=\"{}\"", services.join(",")));
    if let Some(expires) = expires
        && let Ok(expires) = i64::try_from(expires)
        && let Ok(expires) = Timestamp::from_second(expires)
    {
        options.push(format!("expires=\"{expires}\""));
    }
    options.extend(limits::print(limits));
    options
}

/// The line of `client`, without an end of line.
pub(super) fn print(client: &Client) -> String {
    let Client { id, services, expires, .. } = client;
    let mut line = print_options(Some(*id), services, *expires, client.limits()).join(",");
    if let Some(fido) = &client.key.fido {
        let rules = [(!fido.touch, NO_TOUCH), (fido.verify, VERIFY)];
        for (_, option) in rules.iter().filter(|(is_set, _)| *is_set) {
            line.push_str(&format!(",{option}"));
        }
    }
    format!("{line} {} {}", client.key.line(), client.name)
}

/// True if the line, which may have a mistake, says that its client is disabled.
pub(super) fn is_disabled(line: &str) -> bool {
    option_places(line).into_iter().any(|place| &line[place] == limits::DISABLED)
}

/// The line with that option or without it.
pub(super) fn with_disabled(line: &str, disabled: bool) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut rest = 0;
    for place in option_places(line) {
        rest = place.end;
        kept.extend(Some(&line[place]).filter(|option| *option != limits::DISABLED));
    }
    kept.extend(disabled.then_some(limits::DISABLED));
    format!("{}{}", kept.join(","), &line[rest..])
}

/// The places of the options of a line: what stands between commas, before the first blank, both
/// outside of quotation marks.
fn option_places(line: &str) -> Vec<Range<usize>> {
    let mut places = Vec::new();
    let mut begin = 0;
    let mut is_quoted = false;
    for (at, c) in line.char_indices() {
        match c {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => {
                places.push(begin..at);
                begin = at + 1;
            }
            c if c.is_whitespace() && !is_quoted => {
                places.push(begin..at);
                return places;
            }
            _ => {}
        }
    }
    places
}

/// True if a client can have this name.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._@+-".contains(&byte))
}

#[derive(Default)]
pub(super) struct LineOptions {
    pub(super) id: Option<ClientId>,
    pub(super) services: Option<Arc<[ServiceName]>>,
    pub(super) expires: Option<u64>,
    limits: Limits,
    /// Only in the file `joined`, as the next two.
    pub(super) invite: Option<ClientId>,
    pub(super) until: Option<u64>,
    pub(super) join: Option<JoinRule>,
    /// True if a door is noted, for the next profile; see `authorized::door`.
    has_door: bool,
    verify: bool,
    no_touch: bool,
}

impl LineOptions {
    /// The options of every line.
    const COMMON: [&str; 11] = [
        "id",
        "services",
        "expires",
        "not-before",
        "hours",
        "from",
        "max-seconds",
        "max-grants",
        VERIFY,
        NO_TOUCH,
        limits::DISABLED,
    ];
    pub(super) const OF_CLIENTS: &[&str] = &["door"];
    pub(super) const OF_JOINED: &[&str] = &["invite", "until", "join"];

    /// Reads the options of a line that may have these ones beside the common ones.
    pub(super) fn read(
        cursor: &mut Cursor<'_>, own: &[&str], zones: Zones<'_>,
    ) -> Result<Self, Fault> {
        let file = cursor.file;
        let names = [own, &Self::COMMON].concat();
        let mut options = Self::default();
        loop {
            let key_at = cursor.at;
            let key = cursor.take_while(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
            if !names.contains(&key) {
                return Err(options.unknown(cursor, key_at, key, &names));
            }
            let is_set = match key {
                VERIFY => std::mem::replace(&mut options.verify, true),
                NO_TOUCH => std::mem::replace(&mut options.no_touch, true),
                limits::DISABLED => std::mem::replace(&mut options.limits.disabled, true),
                _ => {
                    if !cursor.eat('=') {
                        let what = format!("no `=` after `{key}`");
                        return Err(file.complain(cursor.at, what, SHAPE));
                    }
                    let value_at = cursor.at;
                    let value = cursor.value()?;
                    options.set(file, value_at, key, value, zones)?
                }
            };
            if is_set {
                let what = format!("`{key}` is given twice");
                return Err(file.complain(key_at, what, "remove one of the two"));
            }
            if !cursor.eat(',') {
                break;
            }
        }
        if !cursor.rest.is_empty() && !cursor.rest.starts_with(char::is_whitespace) {
            return Err(file.complain(cursor.at, "a comma or a blank is missing here", SHAPE));
        }
        Ok(options)
    }

    /// `key` with the rules of this line. Fails if a plain key has rules.
    pub(super) fn ruled(&self, key: PublicKey) -> Result<PublicKey, Fault> {
        let option = if self.verify { VERIFY } else { NO_TOUCH };
        match &key.fido {
            _ if !self.verify && !self.no_touch => Ok(key),
            None => {
                let what = format!("`{option}` is for FIDO keys, and this is a plain one");
                Err(Fault::new(what, "remove it, or enrol a FIDO key: ssh-keygen -t ed25519-sk"))
            }
            Some(fido) => {
                let application = fido.application.clone();
                let fido = FidoKey { application, touch: !self.no_touch, verify: self.verify };
                Ok(PublicKey { fido: Some(Arc::new(fido)), ..key })
            }
        }
    }

    /// For an unknown option, or a line that begins with its key and so has no options.
    fn unknown(&self, cursor: &Cursor<'_>, at: usize, key: &str, names: &[&str]) -> Fault {
        if self.id.is_none() && self.services.is_none() && !cursor.rest.starts_with('=') {
            return cursor.file.complain(at, "this line does not begin with options", SHAPE);
        }
        cursor.file.complain_unknown(at, "option", key, names.iter().copied())
    }

    /// Sets one option. True if it was set before.
    fn set(
        &mut self, file: SourceText<'_>, at: usize, key: &str, value: &str, zones: Zones<'_>,
    ) -> Result<bool, Fault> {
        let (what, remedy) = match key {
            "services" => {
                return Ok(self.services.replace(services(file, at, value)?).is_some());
            }
            "id" | "invite" => match encoded::id(value) {
                Some(id) => {
                    let place = if key == "id" { &mut self.id } else { &mut self.invite };
                    return Ok(place.replace(ClientId(id)).is_some());
                }
                None => ("not an id", "32 lower-case hex digits, as in the profile"),
            },
            "join" => match join_rule(value) {
                Some(rule) => return Ok(self.join.replace(rule).is_some()),
                None => ("not a way to join", "write auto, or the fingerprint of a key"),
            },
            "door" => return Ok(std::mem::replace(&mut self.has_door, true)),
            "expires" | "until" | "not-before" => match expiry(value) {
                Some(seconds) => {
                    let place = match key {
                        "until" => &mut self.until,
                        "expires" => &mut self.expires,
                        _ => &mut self.limits.not_before,
                    };
                    return Ok(place.replace(seconds).is_some());
                }
                None => ("not a time", "write it as \"2027-01-01T00:00:00Z\""),
            },
            "hours" => match limits::hours(value, zones) {
                Ok(hours) => return Ok(self.limits.hours.replace(hours).is_some()),
                Err(what) => return Err(file.complain(at, what, limits::HOURS)),
            },
            "from" => match limits::from(value) {
                Some(from) => {
                    let before = std::mem::replace(&mut self.limits.from, from);
                    return Ok(!before.is_empty());
                }
                None => ("not addresses and networks", limits::FROM),
            },
            "max-grants" => match number(value, 1..=1_000_000) {
                Some(grants) => return Ok(self.limits.max_grants.replace(grants).is_some()),
                None => ("max-grants is out of range", "a whole number from 1 to 1000000"),
            },
            _ => match number(value, 1..=604_800) {
                Some(seconds) => return Ok(self.limits.max_seconds.replace(seconds).is_some()),
                None => ("max-seconds is out of range", "a whole number from 1 to 604800"),
            },
        };
        Err(file.complain(at, what, remedy))
    }

    /// The limits, if there are any.
    pub(super) fn limits(&self) -> Option<Arc<Limits>> {
        (self.limits != NO_LIMITS).then(|| Arc::new(self.limits.clone()))
    }
}

fn join_rule(value: &str) -> Option<JoinRule> {
    match value {
        AUTO => Some(JoinRule::Auto),
        other => public::parse_fingerprint(other).map(JoinRule::Only),
    }
}

fn expiry(value: &str) -> Option<u64> {
    let expires: Timestamp = value.parse().ok()?;
    u64::try_from(expires.as_second()).ok()
}

fn number(value: &str, range: RangeInclusive<u32>) -> Option<u32> {
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    value.parse().ok().filter(|number| range.contains(number))
}

fn services(file: SourceText<'_>, at: usize, value: &str) -> Result<Arc<[ServiceName]>, Fault> {
    let mut names = Vec::new();
    for word in value.split(',').map(str::trim) {
        let Some(name) = ServiceName::new(word) else {
            let what = format!("`{}` is not a service name", printable(word));
            return Err(file.complain(at, what, "write services=\"ssh,web\""));
        };
        if names.contains(&name) {
            let what = format!("service `{name}` is named twice");
            return Err(file.complain(at, what, "remove one of the two"));
        }
        names.push(name);
    }
    if names.len() > MAX_SERVICES {
        return Err(file.complain(at, format!("more than {MAX_SERVICES} services"), "remove some"));
    }
    Ok(names.into())
}

pub(super) struct Cursor<'a> {
    file: SourceText<'a>,
    at: usize,
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    /// At the begin of `line`, which begins at byte `start` of `file`.
    pub(super) fn new(file: SourceText<'a>, start: usize, line: &'a str) -> Self {
        Cursor { file, at: start, rest: line }
    }

    pub(super) fn rest(&self) -> &'a str {
        self.rest
    }

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

    pub(super) fn word(&mut self) -> &'a str {
        self.take_while(|c| !c.is_whitespace())
    }

    pub(super) fn skip_blanks(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.rest.starts_with(c);
        if found {
            self.advance(c.len_utf8());
        }
        found
    }

    /// A bare value, or one in double quotes. There are no escapes: no value needs one.
    fn value(&mut self) -> Result<&'a str, Fault> {
        let start = self.at;
        if !self.eat('"') {
            return Ok(self.take_while(|c| !c.is_whitespace() && c != ',' && c != '"'));
        }
        let value = self.take_while(|c| c != '"');
        if self.eat('"') {
            return Ok(value);
        }
        let what = "this quotation mark is never closed";
        Err(self.file.complain(start, what, "close it with another"))
    }
}
