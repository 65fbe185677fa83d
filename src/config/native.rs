//! toctocd.toml, with file:line:column on every complaint.
//! serde's types never leave this file; printing the settings again is left to `print`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::{FirewallSettings, GatewaySettings, KnockSettings, Settings, defaults};
use crate::core::address::is_host;
use crate::core::diagnostic::{SourceText, printable};
use crate::core::types::Fault;
pub use doors::{OWN_SEQUENCE, flag_words};
use doors::{RawDoor, doors};
pub use parts::{ConfigPart, PARTS};
use parts::{RawPart, in_order};
pub use services::MAX_SERVICES;
use services::{MODES, RawService, services};

mod commands;
mod doors;
mod parts;
mod services;

type At<T> = Option<Spanned<T>>;
/// Sections `[SORT.NAME]` of one file.
type Named<T> = BTreeMap<Spanned<String>, T>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "sections")]
struct RawSettings {
    include: At<String>,
    #[serde(default)]
    gateway: RawGateway,
    #[serde(default)]
    knock: RawKnock,
    #[serde(default)]
    firewall: RawFirewall,
    #[serde(default)]
    service: Named<RawService>,
    #[serde(default)]
    door: Named<RawDoor>,
    #[serde(default)]
    classic: RawClassic,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, expecting = "section [gateway]")]
struct RawGateway {
    key_file: At<String>,
    clients_file: At<String>,
    state_dir: At<String>,
    state_on_tmpfs: Option<bool>,
    control_socket: At<String>,
    user: At<String>,
    addresses: Option<Vec<Spanned<String>>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, expecting = "section [knock]")]
struct RawKnock {
    port: At<i64>,
    interfaces: Option<Spanned<Vec<Spanned<String>>>>,
    silent: Option<bool>,
    max_age: At<i64>,
    max_ahead: At<i64>,
    burst: At<i64>,
    per_second: At<i64>,
    max_grants: At<i64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, expecting = "section [firewall]")]
struct RawFirewall {
    table: At<String>,
    nft: At<String>,
    mode: At<String>,
    mark: At<i64>,
    pending_mark: At<i64>,
    break_glass: Option<Vec<Spanned<String>>>,
    printed: At<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, expecting = "section [classic]")]
struct RawClassic {
    knockd_conf: At<String>,
}

/// Reads toctocd.toml alone, as [`read`] does where `include` leads to no file.
///
/// # Errors
/// As [`read`].
pub fn parse(label: &str, text: &str) -> Result<Settings, Fault> {
    read(label, text, &mut |_| Ok(Vec::new()))
}

/// Reads toctocd.toml; `label` is the path that complaints name. `open` answers the files of the
/// directory that `include` names, in their order. The doors of a knockd.conf are not read:
/// `classic` says where they stand.
///
/// # Errors
/// The first thing that is wrong, as `label:line:column: what`, with its remedy; or the fault of
/// `open`.
pub fn read(
    label: &str,
    text: &str,
    open: &mut dyn FnMut(&Path) -> Result<Vec<ConfigPart>, Fault>,
) -> Result<Settings, Fault> {
    let file = SourceText::new(label, text);
    let raw: RawSettings =
        toml::from_str(text).map_err(|e| file.complain_serde(e.span(), e.message()))?;
    let parts = match raw.include {
        Some(directory) => open(&absolute(file, directory, "include")?)?,
        None => Vec::new(),
    };
    let knock = knock(file, raw.knock)?;
    let firewall = firewall(file, raw.firewall)?;
    let (mut all_services, mut all_doors) = (vec![(file, raw.service)], vec![(file, raw.door)]);
    for part in &parts {
        let RawPart { service, door } = part.read()?;
        all_services.push((part.text(), service));
        all_doors.push((part.text(), door));
    }
    let services = services(all_services, &knock, firewall.mode)?;
    let settings = Settings {
        gateway: gateway(file, raw.gateway)?,
        doors: doors(all_doors, &services)?,
        services,
        knock,
        firewall,
        classic: raw
            .classic
            .knockd_conf
            .map(|path| absolute(file, path, "knockd_conf"))
            .transpose()?,
        unused_options: Vec::new(),
    };
    Ok(settings)
}

fn gateway(file: SourceText<'_>, raw: RawGateway) -> Result<GatewaySettings, Fault> {
    let default = defaults::gateway();
    let path = |value: At<String>, key, default| {
        value.map_or(Ok(default), |value| absolute(file, value, key))
    };
    Ok(GatewaySettings {
        key_file: path(raw.key_file, "key_file", default.key_file)?,
        clients_file: path(raw.clients_file, "clients_file", default.clients_file)?,
        state_dir: path(raw.state_dir, "state_dir", default.state_dir)?,
        state_on_tmpfs: raw.state_on_tmpfs.unwrap_or(default.state_on_tmpfs),
        control_socket: path(raw.control_socket, "control_socket", default.control_socket)?,
        user: raw.user.map(|user| word(file, user, "user", USER)).transpose()?,
        addresses: raw
            .addresses
            .unwrap_or_default()
            .into_iter()
            .map(|address| word(file, address, "addresses", ADDRESS))
            .collect::<Result<_, _>>()?,
    })
}

fn knock(file: SourceText<'_>, raw: RawKnock) -> Result<KnockSettings, Fault> {
    let default = defaults::knock();
    Ok(KnockSettings {
        port: number(file, raw.port, "port", 1..=65535, default.port)?,
        interfaces: raw.interfaces.map_or(Ok(default.interfaces), |list| interfaces(file, list))?,
        silent: raw.silent.unwrap_or(default.silent),
        max_age: number(file, raw.max_age, "max_age", 1..=3600, default.max_age)?,
        max_ahead: number(file, raw.max_ahead, "max_ahead", 0..=3600, default.max_ahead)?,
        burst: number(file, raw.burst, "burst", 1..=10_000, default.burst)?,
        per_second: number(file, raw.per_second, "per_second", 1..=10_000, default.per_second)?,
        max_grants: number(file, raw.max_grants, "max_grants", 1..=65_535, default.max_grants)?,
    })
}

fn interfaces(
    file: SourceText<'_>,
    list: Spanned<Vec<Spanned<String>>>,
) -> Result<Vec<String>, Fault> {
    let start = list.span().start;
    let list = list.into_inner();
    let any = list.iter().find(|name| name.get_ref() == "any").map(Spanned::span);
    if list.is_empty() {
        return Err(file.complain(
            start,
            "`interfaces` is empty",
            "write interfaces = [\"any\"] to capture on all",
        ));
    }
    if let Some(at) = any.filter(|_| list.len() > 1) {
        return Err(file.complain(
            at.start,
            "`any` stands beside other interfaces",
            "write \"any\" alone, or only names",
        ));
    }
    let mut seen = BTreeSet::new();
    for name in &list {
        if !seen.insert(name.get_ref().clone()) {
            return Err(file.complain(
                name.span().start,
                "this interface is named twice",
                "remove one of the two",
            ));
        }
    }
    list.into_iter().map(|name| word(file, name, "interfaces", INTERFACE)).collect()
}

fn firewall(file: SourceText<'_>, raw: RawFirewall) -> Result<FirewallSettings, Fault> {
    let default = defaults::firewall();
    let address = |text: Spanned<String>| {
        text.get_ref().parse::<IpAddr>().map(|ip| ip.to_canonical()).map_err(|_| {
            file.complain(
                text.span().start,
                "not an IP address",
                "write for example break_glass = [\"192.0.2.7\"]",
            )
        })
    };
    let pending_at =
        raw.pending_mark.as_ref().or(raw.mark.as_ref()).map_or(0, |at| at.span().start);
    let mark = bit(file, raw.mark, "mark", default.mark)?;
    let pending_mark = bit(file, raw.pending_mark, "pending_mark", default.pending_mark)?;
    if mark == pending_mark {
        return Err(file.complain(
            pending_at,
            "mark and pending_mark are the same bit",
            "choose two that nobody else uses",
        ));
    }
    Ok(FirewallSettings {
        mode: raw.mode.map_or(Ok(default.mode), |mode| choice(file, &mode, "mode", &MODES))?,
        mark,
        pending_mark,
        table: raw.table.map_or(Ok(default.table), |table| word(file, table, "table", TABLE))?,
        nft: raw.nft.map_or(Ok(default.nft), |nft| absolute(file, nft, "nft"))?,
        break_glass: raw
            .break_glass
            .unwrap_or_default()
            .into_iter()
            .map(address)
            .collect::<Result<_, _>>()?,
        printed: raw
            .printed
            .map_or(Ok(default.printed), |printed| absolute(file, printed, "printed"))?,
    })
}

/// One bit of a conntrack mark.
fn bit(file: SourceText<'_>, value: At<i64>, key: &str, default: u32) -> Result<u32, Fault> {
    let at = value.as_ref().map_or(0, |value| value.span().start);
    let mask: u32 = number(file, value, key, 1..=0xffff_ffff, default)?;
    if mask.is_power_of_two() {
        return Ok(mask);
    }
    Err(file.complain(
        at,
        format!("{key} = {mask:#x} is not one bit"),
        format!("write for example {key} = {default:#x}"),
    ))
}

fn number<N: TryFrom<i64>>(
    file: SourceText<'_>,
    value: At<i64>,
    key: &str,
    range: RangeInclusive<i64>,
    default: N,
) -> Result<N, Fault> {
    let Some(value) = value else { return Ok(default) };
    let (low, high) = (range.start(), range.end());
    let given = *value.get_ref();
    N::try_from(given).ok().filter(|_| range.contains(&given)).ok_or_else(|| {
        file.complain(
            value.span().start,
            format!("{key} = {given} is out of range"),
            format!("from {low} to {high}"),
        )
    })
}

fn choice<T: Clone>(
    file: SourceText<'_>,
    value: &Spanned<String>,
    key: &str,
    known: &[(&str, T)],
) -> Result<T, Fault> {
    match known.iter().find(|(word, _)| word == value.get_ref()) {
        Some((_, meaning)) => Ok(meaning.clone()),
        None => Err(file.complain_unknown(
            value.span().start,
            key,
            value.get_ref(),
            known.iter().map(|(word, _)| *word),
        )),
    }
}

fn absolute(file: SourceText<'_>, value: Spanned<String>, key: &str) -> Result<PathBuf, Fault> {
    let at = value.span().start;
    let path = PathBuf::from(value.into_inner());
    // has_root, not is_absolute: the latter wants a drive letter on Windows, where `check` of a
    // config may still run.
    if !path.has_root() || path.to_string_lossy().contains('\0') {
        return Err(file.complain(
            at,
            format!("`{key}` is not an absolute path"),
            "begin it with a slash",
        ));
    }
    Ok(path)
}

/// What a word must be, and what to say where it is not.
type WordRule = (fn(&str) -> bool, &'static str);

const USER: WordRule =
    (|word| is_plain(word, 32, "._-"), "write the name of a user of this machine");
const INTERFACE: WordRule = (
    super::is_interface,
    "write interface names as `ip link` shows them, or \"default\", or [\"any\"] alone",
);
const TABLE: WordRule = (
    |word| is_plain(word, 31, "_") && word.starts_with(|c: char| c.is_ascii_alphabetic()),
    "a letter, then up to 30 letters, digits or _",
);
const ADDRESS: WordRule = (is_host, "write a host name or an IP address, without a port");

fn word(
    file: SourceText<'_>,
    value: Spanned<String>,
    key: &str,
    (fits, remedy): WordRule,
) -> Result<String, Fault> {
    if fits(value.get_ref()) {
        return Ok(value.into_inner());
    }
    let shown = printable(value.get_ref());
    Err(file.complain(value.span().start, format!("`{shown}` cannot stand in `{key}`"), remedy))
}

fn is_plain(word: &str, most: usize, also: &str) -> bool {
    (1..=most).contains(&word.len())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
}

#[cfg(test)]
mod tests;
