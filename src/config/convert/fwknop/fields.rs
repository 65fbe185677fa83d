//! The values of fwknop's settings as fwknop reads them: addresses, ports, times. And for which
//! values, or lack of them, fwknopd refuses an access.conf.

use std::net::Ipv4Addr;

use super::Server;
use super::reader::{Setting, Stanza, is_yes, number};
use crate::core::types::Proto;

/// Bytes of an element of a list, its end counted.
const ELEMENT: usize = 33;
/// The longest time in seconds.
const LONGEST: i64 = 2 << 22;
const HMAC_TYPES: [&str; 7] = ["md5", "sha1", "sha256", "sha384", "sha512", "sha3_256", "sha3_512"];
const ENCRYPTION_MODES: [&str; 7] = ["cbc", "ecb", "cfb", "ofb", "ctr", "asymmetric", "legacy"];
/// A value that nobody has changed since the package was installed.
const UNSET: &str = "__CHANGEME__";

/// A network of SOURCE or DESTINATION; `None` = any address.
pub(super) type Network = Option<(Ipv4Addr, Ipv4Addr)>;

/// An IPv4 address in one of C's ways: up to four parts, also octal and hexadecimal.
pub(super) fn address(text: &str) -> Option<Ipv4Addr> {
    let text = text.split_ascii_whitespace().next()?;
    let mut parts = Vec::new();
    for part in text.split('.') {
        let number = match part.strip_prefix("0x").or(part.strip_prefix("0X")) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None if part.starts_with('+') => return None,
            None if part.len() > 1 && part.starts_with('0') => u32::from_str_radix(part, 8).ok()?,
            None => part.parse().ok()?,
        };
        parts.push(number);
    }
    let (last, first) = parts.split_last()?;
    let mut bits = 0_u32;
    for part in first {
        bits = bits << 8 | u32::from(u8::try_from(*part).ok()?);
    }
    let room = 32_u32.checked_sub(8 * u32::try_from(first.len()).ok()?)?;
    if first.len() > 3 || room < 32 && *last >> room != 0 {
        return None;
    }
    Some(Ipv4Addr::from(bits.checked_shl(room).unwrap_or(0) | last))
}

/// The elements of a list.
fn elements(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim_start)
}

pub(super) fn networks(text: &str) -> Option<Vec<Network>> {
    elements(text).map(network).collect()
}

fn network(text: &str) -> Option<Network> {
    if text.len() + 1 >= ELEMENT {
        return None;
    }
    if text.eq_ignore_ascii_case("any") {
        return Some(None);
    }
    let (ip, mask) = match text.split_once('/') {
        None => (text, Ipv4Addr::BROADCAST),
        Some((ip, mask)) if mask.len() > 2 => {
            (ip, if (7..16).contains(&mask.len()) { address(mask)? } else { return None })
        }
        Some((ip, mask)) => match number(mask) {
            bits @ 1..=32 => (ip, Ipv4Addr::from(u32::MAX << (32 - bits))),
            _ => return None,
        },
    };
    let ip = if ip.len() < 16 { address(ip)? } else { return None };
    Some(Some((Ipv4Addr::from(u32::from(ip) & u32::from(mask)), mask)))
}

/// A port of OPEN_PORTS or RESTRICT_PORTS; it may be 0.
pub(super) fn ports(text: &str) -> Option<Vec<(Proto, u16)>> {
    elements(text).map(port).collect()
}

fn port(text: &str) -> Option<(Proto, u16)> {
    let (proto, port) = text.split_once('/')?;
    let proto = match proto.to_ascii_lowercase().as_str() {
        "tcp" => Proto::Tcp,
        "udp" => Proto::Udp,
        _ => return None,
    };
    if text.len() + 1 >= ELEMENT {
        return None;
    }
    Some((proto, u16::try_from(number(port)).ok()?))
}

/// Seconds; `None` if fwknopd refuses the number.
pub(super) fn seconds(text: &str, least: i64) -> Option<u32> {
    let number = number(text);
    if !(least..=LONGEST).contains(&number) {
        return None;
    }
    u32::try_from(number).ok()
}

/// The inner host and port of FORCE_NAT.
pub(super) fn inner(text: &str) -> Option<(Ipv4Addr, u16)> {
    let mut words = text.split_ascii_whitespace();
    let ip = words.next()?.parse().ok()?;
    let port = words.next()?;
    if !port.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    Some((ip, u16::try_from(number(port)).ok()?))
}

/// Month, day and year as in ACCESS_EXPIRE.
pub(super) fn day(text: &str) -> Option<(i64, i64, i64)> {
    let mut parts = text.split('/');
    let mut next = |digits: usize| {
        let part = parts.next()?;
        let part = part.get(..digits.min(part.len()))?;
        part.starts_with(|c: char| c.is_ascii_digit()).then(|| number(part))
    };
    let (month, day, year) = (next(2)?, next(2)?, next(4)?);
    let year = if year < 100 { year + 2000 } else { year };
    Some((month, day, year))
}

/// Why fwknopd refuses a stanza, each with its place.
pub(super) fn mistakes(stanza: &Stanza, server: &Server) -> Vec<String> {
    let mut found = Vec::new();
    for setting in &stanza.settings {
        if let Some(what) = wrong_value(setting, server) {
            found.push(format!("{}: {}: {what}", setting.place, setting.key));
        }
    }
    if let Some(what) = missing(stanza) {
        found.push(format!("{}: {what}", stanza.place()));
    }
    found
}

fn wrong_value(setting: &Setting, server: &Server) -> Option<&'static str> {
    let value = setting.value.as_str();
    let is = |words: &[&str]| words.iter().any(|word| value.eq_ignore_ascii_case(word));
    let is_base64 = value.bytes().all(|b| b.is_ascii_alphanumeric() || b"/+=".contains(&b));
    let is_sound = match setting.key.as_str() {
        "SOURCE" | "DESTINATION" => networks(value).is_some(),
        "OPEN_PORTS" | "RESTRICT_PORTS" => ports(value).is_some(),
        "KEY" | "HMAC_KEY" | "GPG_DECRYPT_PW" => !is(&[UNSET]),
        "KEY_BASE64" | "HMAC_KEY_BASE64" => !is(&[UNSET]) && is_base64,
        "HMAC_DIGEST_TYPE" => is(&HMAC_TYPES),
        "ENCRYPTION_MODE" => is(&ENCRYPTION_MODES),
        "FW_ACCESS_TIMEOUT" | "MAX_FW_TIMEOUT" => seconds(value, 0).is_some(),
        "CMD_CYCLE_TIMER" => seconds(value, 1).is_some(),
        "ACCESS_EXPIRE" => day(value).is_some(),
        "FORCE_NAT" | "FORCE_SNAT" if !server.forwards() => {
            return Some("fwknopd.conf has neither ENABLE_IPT_FORWARDING nor ENABLE_IPT_LOCAL_NAT");
        }
        "FORCE_NAT" => inner(value).is_some(),
        "FORCE_SNAT" => {
            value.split_ascii_whitespace().next().is_some_and(|ip| ip.parse::<Ipv4Addr>().is_ok())
        }
        _ => true,
    };
    if is_sound { None } else { Some("its value is refused") }
}

/// What a stanza lacks, or has once too often.
fn missing(stanza: &Stanza) -> Option<&'static str> {
    let has = |key: &str| stanza.get(key).is_some_and(|setting| !setting.value.is_empty());
    let has_key = has("KEY") || has("KEY_BASE64");
    let has_gpg = has("GPG_DECRYPT_PW") || stanza.is_on("GPG_ALLOW_NO_PW");
    if !has_key && !has_gpg && !stanza.has_keys_elsewhere {
        return Some("it has no key");
    }
    for (one, other) in [("KEY", "HMAC_KEY"), ("KEY_BASE64", "HMAC_KEY_BASE64")] {
        if let (Some(one), Some(other)) = (stanza.get(one), stanza.get(other))
            && one.value == other.value
        {
            return Some("its two keys are the same");
        }
    }
    let signed = has("GPG_REMOTE_ID") || has("GPG_FINGERPRINT_ID");
    if has_gpg && !signed && !stanza.is_on("GPG_DISABLE_SIG") {
        return Some("it names no GPG key that must have signed");
    }
    let translates = has("FORCE_SNAT") || stanza.is_on("FORCE_MASQUERADE");
    if translates && !has("FORCE_NAT") && !stanza.is_on("FORWARD_ALL") {
        return Some("FORCE_SNAT or FORCE_MASQUERADE without FORCE_NAT or FORWARD_ALL");
    }
    let close = stanza.get("CMD_CYCLE_CLOSE").map(|setting| setting.value.as_str());
    match (has("CMD_CYCLE_OPEN"), close) {
        (false, None) => None,
        (true, None) => Some("CMD_CYCLE_OPEN without CMD_CYCLE_CLOSE"),
        (false, Some(_)) => Some("CMD_CYCLE_CLOSE without CMD_CYCLE_OPEN"),
        (true, Some(close)) if !close.starts_with("NONE") && !has("CMD_CYCLE_TIMER") => {
            Some("CMD_CYCLE_OPEN without CMD_CYCLE_TIMER")
        }
        (true, Some(_)) => None,
    }
}

impl Server {
    /// True if a stanza may forward.
    pub(super) fn forwards(&self) -> bool {
        let is_on = |key| self.get(key).is_some_and(|setting| is_yes(&setting.value));
        is_on("ENABLE_IPT_FORWARDING") || is_on("ENABLE_IPT_LOCAL_NAT")
    }
}
