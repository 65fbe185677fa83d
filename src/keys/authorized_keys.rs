//! OpenSSH's authorized_keys file: which of its keys can become clients, and why the others cannot.
//! See `authorized` for our own clients file.

use std::sync::Arc;

use jiff::civil::DateTime;
use jiff::{Timestamp, tz::TimeZone};

use super::authorized::{NO_TOUCH, VERIFY};
use super::public::is_algorithm;
use crate::core::public_key::{FidoKey, PublicKey};
use crate::core::types::Fault;

/// A key that can become a client.
#[derive(Debug, PartialEq)]
pub struct UsableKey {
    /// The number of its line.
    pub line: usize,
    pub key: PublicKey,
    /// What may follow the key: mostly user and host.
    pub comment: String,
    /// The time from which its line no longer counts, in seconds since the epoch.
    pub expires: Option<u64>,
}

/// A line that gives no client.
#[derive(Debug, PartialEq)]
pub struct LeftOutLine {
    pub line: usize,
    pub why: String,
}

#[derive(Debug, Default, PartialEq)]
pub struct SortedKeys {
    pub usable: Vec<UsableKey>,
    pub left_out: Vec<LeftOutLine>,
}

/// Sorts the lines of the file. `zone`: that of times without one.
pub fn read(text: &str, now: Timestamp, zone: &TimeZone) -> SortedKeys {
    let mut sorted = SortedKeys::default();
    for (line, content) in (1..).zip(text.lines().map(str::trim)) {
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        match usable(line, content, now, zone) {
            Ok(key) => sorted.usable.push(key),
            Err(why) => sorted.left_out.push(LeftOutLine { line, why }),
        }
    }
    sorted
}

fn usable(
    line: usize, content: &str, now: Timestamp, zone: &TimeZone,
) -> Result<UsableKey, String> {
    let (options, rest) = options(content);
    let read = PublicKey::from_line(rest);
    let (mut key, comment) = read.map_err(|Fault { what, .. }| what)?;
    let mut expires = None;
    for option in options {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name.to_ascii_lowercase().as_str() {
            "cert-authority" => return Err("the key of a certificate authority".to_owned()),
            "expiry-time" => {
                let Some(end) = moment(value.trim_matches('"'), zone) else {
                    return Err("its expiry-time cannot be read".to_owned());
                };
                if end <= now {
                    return Err(format!("it expired at {end}"));
                }
                expires = u64::try_from(end.as_second()).ok();
            }
            NO_TOUCH => key = ruled(key, |fido| fido.touch = false),
            VERIFY => key = ruled(key, |fido| fido.verify = true),
            // The others say what a login may do: sshd still keeps to them.
            _ => {}
        }
    }
    Ok(UsableKey { line, key, comment: comment.to_owned(), expires })
}

/// A FIDO key with another rule; a plain key as it is, as sshd does.
fn ruled(key: PublicKey, change: impl FnOnce(&mut FidoKey)) -> PublicKey {
    let Some(fido) = &key.fido else { return key };
    let mut fido = FidoKey::clone(fido);
    change(&mut fido);
    PublicKey { fido: Some(Arc::new(fido)), ..key }
}

/// The options that stand before the key, and the rest. A value in quotation marks may contain
/// blanks, commas and `\"`.
fn options(content: &str) -> (Vec<&str>, &str) {
    let first = content.split_whitespace().next().unwrap_or("");
    if is_algorithm(first) {
        return (Vec::new(), content);
    }
    let mut found = Vec::new();
    let mut begin = 0;
    let mut is_quoted = false;
    let mut before = ' ';
    for (at, one) in content.char_indices() {
        match one {
            '"' if before != '\\' => is_quoted = !is_quoted,
            ',' if !is_quoted => {
                found.push(&content[begin..at]);
                begin = at + 1;
            }
            ' ' | '\t' if !is_quoted => {
                found.push(&content[begin..at]);
                return (found, &content[at..]);
            }
            _ => {}
        }
        before = one;
    }
    (found, content)
}

/// `YYYYMMDD`, `YYYYMMDDHHMM` or `YYYYMMDDHHMMSS`; in UTC if a `Z` follows.
fn moment(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    let (digits, zone) = match text.strip_suffix('Z') {
        Some(digits) => (digits, TimeZone::UTC),
        None => (text, zone.clone()),
    };
    let padding = match digits.len() {
        8 => "000000",
        12 => "00",
        14 => "",
        _ => return None,
    };
    let civil = DateTime::strptime("%Y%m%d%H%M%S", format!("{digits}{padding}")).ok()?;
    Some(civil.to_zoned(zone).ok()?.timestamp())
}

/// A client's name made of a comment: what a name may not contain becomes `-`.
pub fn name_of(key: &UsableKey) -> String {
    let mut name = String::new();
    for one in key.comment.chars().take(MAX_NAME) {
        let fits = one.is_ascii_alphanumeric() || "._@+-".contains(one);
        name.push(if fits { one } else { '-' });
    }
    match name.trim_matches(['-', '.']) {
        "" => format!("key-{}", key.line),
        trimmed => trimmed.to_owned(),
    }
}

/// Characters of a comment that become a name. A name may be longer: a number may have to follow.
const MAX_NAME: usize = 56;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::public::tests::LINE;

    fn sorted(text: &str) -> SortedKeys {
        let now = "2026-11-29T10:00:00Z".parse().unwrap();
        read(text, now, &TimeZone::fixed(jiff::tz::offset(1)))
    }

    fn plain() -> &'static str {
        LINE.rsplit_once(' ').unwrap().0
    }

    /// A FIDO key's line without a comment.
    fn fido() -> String {
        let (mut key, _) = PublicKey::from_line(LINE).unwrap();
        key.fido = Some(Arc::new(FidoKey::new("ssh:")));
        key.line()
    }

    #[test]
    fn each_usable_line_gives_a_key_whatever_stands_before_and_after_it() {
        let (key, fido) = (plain(), fido());
        let text = format!(
            "# team\n\n{key} anna@laptop\n\
             from=\"10.0.0.0/8,*.example.org\",command=\"echo \\\"a, b\\\" x\",no-pty {key} bert b\n\
             \trestrict\t{key}\n\
             Verify-Required,no-touch-required {fido} chip\n\
             {fido}\r\n"
        );
        let sorted = sorted(&text);
        assert_eq!(sorted.left_out, []);
        let names: Vec<String> = sorted.usable.iter().map(name_of).collect();
        assert_eq!(names, ["anna@laptop", "bert-b", "key-5", "chip", "key-7"]);
        let rules = |place: usize| {
            let fido = sorted.usable[place].key.fido.as_ref().unwrap();
            (fido.touch, fido.verify)
        };
        assert_eq!((rules(3), rules(4)), ((false, true), (true, false)));
    }

    #[test]
    fn each_other_line_is_left_out_with_its_reason() {
        let key = plain();
        for (line, why) in [
            ("ssh-rsa AAAA x".to_owned(), "type ssh-rsa: an RSA signature does not fit"),
            ("no-pty,command=\"a b\" ecdsa-sha2-nistp256 AAAA x".to_owned(), "an ECDSA key"),
            ("ssh-ed25519-cert-v01@openssh.com AAAA x".to_owned(), "a certificate cannot sign"),
            (format!("cert-authority,principals=\"a\" {key} ca"), "certificate authority"),
            (format!("expiry-time=\"20260101\" {key} x"), "it expired at 2025-12-31T23:00:00Z"),
            (format!("expiry-time=\"2026\" {key} x"), "expiry-time cannot be read"),
            ("ssh-ed25519 AAAA x".to_owned(), "not an ssh-ed25519 key"),
            ("hello".to_owned(), "not an SSH public key line"),
            (format!("command=\"never closed {key} x"), "not an SSH public key line"),
        ] {
            let sorted = sorted(&format!("\n{line}\n"));
            assert_eq!(sorted.usable, [], "{line}");
            let [left_out] = &sorted.left_out[..] else { panic!("{line}") };
            assert!(left_out.line == 2 && left_out.why.contains(why), "{line}: {left_out:?}");
        }
    }

    #[test]
    fn an_expiry_time_is_read_as_sshd_reads_it() {
        for (text, moment) in [
            ("20270101", "2026-12-31T23:00:00Z"),
            ("202701011200", "2027-01-01T11:00:00Z"),
            ("20270101120001Z", "2027-01-01T12:00:01Z"),
        ] {
            let sorted = sorted(&format!("expiry-time=\"{text}\" {} x", plain()));
            let moment: Timestamp = moment.parse().unwrap();
            let expires = u64::try_from(moment.as_second()).unwrap();
            assert_eq!(sorted.usable[0].expires, Some(expires), "{text}");
        }
    }

    #[test]
    fn a_name_is_made_of_any_comment() {
        let (key, _) = PublicKey::from_line(LINE).unwrap();
        let long = "x".repeat(200);
        for (comment, name) in [
            ("anna@host.example.org", "anna@host.example.org"),
            ("Anna Müller (work)", "Anna-M-ller--work"),
            ("../../etc", "etc"),
            ("---", "key-3"),
            ("é", "key-3"),
            (&long, &long[..MAX_NAME]),
        ] {
            let comment = comment.to_owned();
            let key = UsableKey { line: 3, key: key.clone(), comment, expires: None };
            assert_eq!(name_of(&key), name);
            assert!(crate::keys::authorized::is_name(&name_of(&key)));
        }
    }
}
