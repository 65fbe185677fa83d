//! The line that invites somebody: `toctoc:` and base32. Its holder may ask to join, and nothing
//! else. See `core::keyring` for the keys, docs/protocol.md for the layout.

use base32ct::{Base32UpperUnpadded, Encoding};
use zeroize::Zeroizing;

use super::authorized::is_name;
use super::profile::Profile;
use crate::core::bytes::saturated_u8;

use crate::core::address::is_host;
use crate::core::bytes::Reader;
use crate::core::keyring::{ClientRoot, Day, LINE_CHECK, Newcomer, Realm, Secret, line_check};
use crate::core::knock::Welcome;
use crate::core::public_key::PublicKey;
use crate::core::types::{ClientId, Fault, FaultKind, GatewayId, RealmId, ServiceName};
use crate::core::wire::ClientSide;

/// What a line begins with.
pub const PREFIX: &str = "toctoc:";
const VERSION: u8 = 1;
/// The most addresses and services of a line.
pub const ADDRESSES: usize = 8;
pub const SERVICES: usize = 16;
/// The most characters of a line, line breaks not counted. One with the longest of everything has
/// fewer.
pub const LONGEST: usize = 8192;

/// An invitation as its line says it. It is a stranger's text until somebody has joined.
pub struct Invitation {
    /// Seconds since the epoch. The gateway decides by its own note; this is for a message.
    pub until: u64,
    pub gateway: GatewayId,
    pub realm: Realm,
    pub gateway_public: [u8; 32],
    /// The invitation's own id and root: not those of whoever joins.
    pub id: ClientId,
    pub root: ClientRoot,
    /// The period in which the secrets of the gateway's clients begin.
    pub first_period: u32,
    pub port: u16,
    /// Host names or IP addresses of the gateway.
    pub addresses: Vec<String>,
    pub services: Vec<ServiceName>,
    /// A name for the gateway: that of the profile, and of the host for ssh.
    pub gateway_name: String,
    /// The client's name at the gateway.
    pub client_name: String,
}

/// True if a gateway can have this name. It has no dot, no wildcard and no blank, so that it can be
/// taken for no other host in a configuration of ssh.
pub fn is_gateway_name(name: &str) -> bool {
    let first_fits = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=32).contains(&name.len()) && first_fits && name.bytes().all(fits)
}

impl Invitation {
    /// Reads a line. Blanks, line breaks and case do not matter: messengers and mail change them.
    /// A fault never shows any of it.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        // Room for all of it: a string that grows leaves copies of secrets behind.
        let mut line = Zeroizing::new(String::with_capacity(LONGEST));
        for c in text.chars().filter(|c| !c.is_whitespace()) {
            if line.len() >= LONGEST || !c.is_ascii() {
                return Err(not_a_line());
            }
            line.push(c.to_ascii_uppercase());
        }
        let encoded = line.strip_prefix("TOCTOC:").ok_or_else(not_a_line)?;
        let mut buffer = Zeroizing::new(vec![0; LONGEST]);
        let bytes = Base32UpperUnpadded::decode(encoded, &mut buffer).map_err(|_| mistyped())?;
        // Bits that are left over at the end would give one invitation several lines.
        if Zeroizing::new(Base32UpperUnpadded::encode_string(bytes)).as_str() != encoded {
            return Err(mistyped());
        }
        let Some((content, check)) = bytes.split_last_chunk::<LINE_CHECK>() else {
            return Err(mistyped());
        };
        if line_check(content) != *check {
            return Err(mistyped());
        }
        if content.first().is_some_and(|version| *version != VERSION) {
            let what = "this invitation is of another version";
            return Err(Fault::new(what, "use a newer toctoc, or ask for a new invitation")
                .of(FaultKind::Invitation));
        }
        Self::decode(&mut Reader::new(content)).ok_or_else(|| {
            let what = "this invitation contains what no gateway writes";
            let remedy = "ask for a new one, and see who sent you this one";
            Fault::new(what, remedy).of(FaultKind::Invitation)
        })
    }

    fn decode(r: &mut Reader<'_>) -> Option<Self> {
        let (version, flags) = (r.u8()?, r.u8()?);
        if (version, flags) != (VERSION, 0) {
            return None;
        }
        let until = r.u64()?;
        let realm = RealmId(r.array()?);
        let invitation = Self {
            until,
            gateway: GatewayId(r.array()?),
            realm: Realm::new(realm, secret(r)?),
            gateway_public: r.array()?,
            id: ClientId(r.array()?),
            root: ClientRoot::new(secret(r)?),
            first_period: r.u32()?,
            port: r.u16()?,
            addresses: texts(r, ADDRESSES)?,
            services: services(texts(r, SERVICES)?)?,
            gateway_name: text(r)?,
            client_name: text(r)?,
        };
        (*r).finish()?;
        let fits = invitation.port != 0
            && invitation.first_period <= LAST_PERIOD
            && invitation.addresses.iter().all(|host| is_host(host))
            && is_gateway_name(&invitation.gateway_name)
            && is_name(&invitation.client_name);
        fits.then_some(invitation)
    }

    /// The line, in capitals: so a QR code of it is small.
    pub fn print(&self) -> Zeroizing<String> {
        let mut content = Zeroizing::new(Vec::with_capacity(LONGEST));
        content.extend([VERSION, 0]);
        content.extend(self.until.to_be_bytes());
        content.extend(self.realm.id().0);
        content.extend(self.gateway.0);
        content.extend(self.realm.mask().expose());
        content.extend(self.gateway_public);
        content.extend(self.id.0);
        content.extend(self.root.expose());
        content.extend(self.first_period.to_be_bytes());
        content.extend(self.port.to_be_bytes());
        push_texts(&mut content, self.addresses.iter().map(String::as_str));
        push_texts(&mut content, self.services.iter().map(ServiceName::as_str));
        push_text(&mut content, &self.gateway_name);
        push_text(&mut content, &self.client_name);
        armour(&content)
    }

    /// What seals the knock that joins.
    pub fn side(&self) -> ClientSide {
        ClientSide {
            gateway: self.gateway,
            realm: self.realm.duplicate(),
            gateway_public: self.gateway_public,
            secrets: self.root.secrets(self.first_period),
        }
    }

    /// The profile of who joined with `key` and was given this id and root.
    pub fn profile(&self, key: PublicKey, client: ClientId, root: &ClientRoot) -> Profile {
        Profile {
            name: self.client_name.clone(),
            client,
            key,
            addresses: self.addresses.clone(),
            port: self.port,
            side: ClientSide { secrets: root.secrets(self.first_period), ..self.side() },
            services: self.services.clone(),
            default_service: self.services.first().copied(),
            identity: None,
            agent: None,
            fallback: None,
            expires: None,
        }
    }

    /// The profile of who joined with `key`, from the receipt's welcome. Fails if this invitation
    /// does not open it.
    pub fn welcomed(&self, key: PublicKey, welcome: &Welcome) -> Result<Profile, Fault> {
        let newcomer = Newcomer { gateway: self.gateway, client: welcome.client, key: key.ed25519 };
        let gate = self.side().secrets.gate(Day::Invited);
        match gate.and_then(|gate| gate.open_welcome(&newcomer, &welcome.root)) {
            Some(root) => {
                let profile = self.profile(key, welcome.client, &root);
                Ok(Profile { expires: welcome.expires, ..profile })
            }
            None => {
                let place = self.addresses.join(", ");
                let what = format!("{place}: its welcome cannot be opened with this line");
                Err(Fault::new(what, "tell its admin: it is not what a gateway sends"))
            }
        }
    }
}

/// The period of the last day that any clock shows.
const LAST_PERIOD: u32 = 6671;

/// The line with this content.
pub fn armour(content: &[u8]) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(content.len() + LINE_CHECK));
    bytes.extend_from_slice(content);
    bytes.extend(line_check(content));
    let encoded = Zeroizing::new(Base32UpperUnpadded::encode_string(&bytes));
    let mut line = Zeroizing::new(String::with_capacity(PREFIX.len() + encoded.len()));
    line.push_str(PREFIX);
    line.push_str(&encoded);
    line
}

fn secret(r: &mut Reader<'_>) -> Option<Secret<32>> {
    let bytes = r.take(32)?;
    Secret::filled(|place| bytes.try_into().map(|bytes| *place = bytes)).ok()
}

fn text(r: &mut Reader<'_>) -> Option<String> {
    let length = usize::from(r.u8()?);
    String::from_utf8(r.take(length)?.to_vec()).ok()
}

/// 1 to `most` texts.
fn texts(r: &mut Reader<'_>, most: usize) -> Option<Vec<String>> {
    let count = usize::from(r.u8()?);
    if !(1..=most).contains(&count) {
        return None;
    }
    (0..count).map(|_| text(r)).collect()
}

fn services(names: Vec<String>) -> Option<Vec<ServiceName>> {
    names.iter().map(|name| ServiceName::new(name)).collect()
}

fn push_texts<'a>(content: &mut Vec<u8>, texts: impl ExactSizeIterator<Item = &'a str>) {
    content.push(saturated_u8(texts.len()));
    texts.for_each(|text| push_text(content, text));
}

fn push_text(content: &mut Vec<u8>, text: &str) {
    content.push(saturated_u8(text.len()));
    content.extend(text.as_bytes());
}

fn not_a_line() -> Fault {
    let what = "this is not an invitation";
    Fault::new(
        what,
        "an invitation is one line that begins with toctoc: and then letters and digits",
    )
    .of(FaultKind::Invitation)
}

fn mistyped() -> Fault {
    let what = "this invitation is cut off, or a character in it was changed";
    let remedy = "copy the whole line again, from toctoc: to its end";
    Fault::new(what, remedy).of(FaultKind::Invitation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::test_vectors;

    fn sample() -> Invitation {
        Invitation {
            until: 1_772_452_800,
            gateway: test_vectors::gateway().gateway,
            realm: test_vectors::realm(),
            gateway_public: test_vectors::gateway().current.public(),
            id: ClientId(*b"TESTINVITE-NO-01"),
            root: test_vectors::master().client_root(ClientId(*b"TESTINVITE-NO-01")),
            first_period: test_vectors::FIRST_PERIOD,
            port: 62201,
            addresses: vec!["203.0.113.7".to_owned()],
            services: vec![ServiceName::new("ssh").unwrap()],
            gateway_name: "bastion".to_owned(),
            client_name: "alice".to_owned(),
        }
    }

    fn fault(text: &str) -> Fault {
        Invitation::parse(text).err().expect("refused")
    }

    #[test]
    fn a_line_comes_back_wrapped_in_small_letters_and_with_blanks() {
        let line = sample().print();
        assert!(line.len() <= 335, "{} characters: a QR code of version 9", line.len());
        let mut wrapped = String::new();
        for part in line.as_bytes().chunks(76) {
            wrapped += &format!("> {}\r\n", str::from_utf8(part).unwrap()).replace("> ", "  ");
        }
        for text in [line.as_str(), &line.to_lowercase(), &wrapped, &line.replace(':', ": ")] {
            let read = Invitation::parse(text).unwrap();
            assert_eq!(read.print(), line);
            assert_eq!((read.until, read.port), (1_772_452_800, 62201));
            assert_eq!(
                (read.gateway_name.as_str(), read.client_name.as_str()),
                ("bastion", "alice")
            );
        }
    }

    #[test]
    fn a_line_with_any_character_changed_left_out_or_added_is_refused() {
        let line = sample().print();
        for at in 0..line.len() {
            let mut other = line.to_string().into_bytes();
            other[at] = if other[at] == b'7' { b'6' } else { b'7' };
            let changed = String::from_utf8(other).unwrap();
            let shown = fault(&changed).to_string();
            assert!(!shown.contains(&line[20..40]), "{shown}");
            fault(&[&line[..at], &line[at + 1..]].concat());
            fault(&[&line[..at], "2", &line[at..]].concat());
        }
        for other in ["", "toctoc:", "hello", "toctoc:AE", &"A".repeat(LONGEST + 1), "toctöc:AEAA"]
        {
            fault(other);
        }
        assert!(fault(&line[..100]).what.contains("cut off"));
        assert!(fault(&line[7..]).what.contains("not an invitation"));
    }

    #[test]
    fn a_line_of_another_version_says_so() {
        assert!(fault(&armour(&[2, 0, 1])).what.contains("another version"));
    }

    #[test]
    fn what_is_left_over_of_the_last_character_must_be_zero() {
        // 203 bytes: the last character has one bit that says nothing.
        let line = Invitation { client_name: "alices".to_owned(), ..sample() }.print();
        assert!(!((line.len() - PREFIX.len()) * 5).is_multiple_of(8));
        let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let place = letters.find(line.chars().last().unwrap()).unwrap();
        let odd = format!("{}{}", &line[..line.len() - 1], &letters[place + 1..place + 2]);
        assert!(fault(&odd).what.contains("changed"));
    }

    #[test]
    fn names_that_mean_something_to_a_shell_to_ssh_or_to_people_are_refused() {
        let long = "a".repeat(33);
        for name in
            ["github.com", "*", "a b", "-oProxyCommand=x", "", "A", "a_b", "é", "a\nb", &long]
        {
            assert!(!is_gateway_name(name), "{name}");
            let line = Invitation { gateway_name: name.to_owned(), ..sample() }.print();
            assert!(fault(&line).what.contains("what no gateway writes"), "{name}");
        }
        for name in ["a", "0", "bastion-2", &"a".repeat(32)] {
            let line = Invitation { gateway_name: name.to_owned(), ..sample() }.print();
            assert!(is_gateway_name(name) && Invitation::parse(&line).is_ok(), "{name}");
        }
        for host in ["-oProxyCommand=x", "a b", "", "gate:22"] {
            let line = Invitation { addresses: vec![host.to_owned()], ..sample() }.print();
            fault(&line);
        }
        for line in [
            Invitation { client_name: "a b".to_owned(), ..sample() },
            Invitation { port: 0, ..sample() },
            Invitation { addresses: vec![], ..sample() },
            Invitation { addresses: vec!["a".to_owned(); ADDRESSES + 1], ..sample() },
            Invitation { services: vec![], ..sample() },
            Invitation { services: vec![sample().services[0]; SERVICES + 1], ..sample() },
            Invitation { first_period: LAST_PERIOD + 1, ..sample() },
        ] {
            fault(&line.print());
        }
    }

    #[test]
    fn the_longest_line_fits() {
        let host = format!("{}.{}", vec!["a".repeat(49); 5].join("."), "bc");
        assert!(is_host(&host) && host.len() == 252, "{}", host.len());
        let service = ServiceName::new(&"s".repeat(31)).unwrap();
        let longest = Invitation {
            addresses: vec![host; ADDRESSES],
            services: vec![service; SERVICES],
            gateway_name: "g".repeat(32),
            client_name: "c".repeat(64),
            ..sample()
        };
        let line = longest.print();
        assert!(line.len() < LONGEST && Invitation::parse(&line).is_ok(), "{}", line.len());
    }
}
