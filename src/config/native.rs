//! toctocd.toml -> `Settings`, with file:line:column in every error.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;

use super::{FirewallSettings, GatewaySettings, KnockSettings, Settings, defaults};
use crate::config::DEFAULT_ROUTE;
use crate::config::excerpt::config_text;
use crate::core::address::is_host;
use crate::core::diagnostic::{SourceText, printable};
use crate::core::prefix::Prefix;
use crate::core::types::Fault;
use doors::doors;
pub use doors::{OWN_SEQUENCE, flag_words};
use hooks::hooks;
use log::log;
pub use log::{LOG_FORMS, target_word};
use metrics::metrics;
pub use metrics::place_word;
pub use mistakes::MOST;
pub use parts::{ConfigPart, PARTS};
pub use places::places;
use raw::{At, List, RawFirewall, RawGateway, RawKnock, RawPart, RawSettings};
pub use services::{CUTS, FORMS, MAX_SERVICES, MODES, SOURCES, is_inner_host};
use services::{PREFIX, services};

mod commands;
mod doors;
mod hooks;
mod log;
mod metrics;
mod mistakes;
mod parts;
mod places;
mod raw;
mod services;
#[cfg(test)]
mod tests;

/// Reads toctocd.toml alone, as [`read`] does where `include` names an empty directory.
pub fn parse(label: &str, text: &str) -> Result<Settings, Fault> {
    read(label, text, &mut |_| Ok(Vec::new()))
}

/// Reads toctocd.toml; `label` is the path that errors name. `open` returns the files of the
/// directory that `include` names, in their order. The doors of a knockd.conf are not read:
/// `classic` is its path.
/// Error: the first thing that is wrong, as `label:line:column: what`, with its remedy, and what
/// else is wrong; or the fault of `open`.
pub fn read(
    label: &str, text: &str, open: &mut dyn FnMut(&Path) -> Result<Vec<ConfigPart>, Fault>,
) -> Result<Settings, Fault> {
    read_once(label, text, open).map_err(|first| mistakes::all(first, label, text, open))
}

/// The same, up to the first thing that is wrong.
fn read_once(
    label: &str, text: &str, open: &mut dyn FnMut(&Path) -> Result<Vec<ConfigPart>, Fault>,
) -> Result<Settings, Fault> {
    let file = config_text(label, text);
    let raw: RawSettings = parse_toml(file)?;
    let include = match raw.include {
        Some(directory) => Some(absolute(file, directory, "include")?),
        None => None,
    };
    let parts = match &include {
        Some(directory) => open(directory)?,
        None => Vec::new(),
    };
    let mut all_services = vec![(file, raw.service)];
    let mut all_doors = vec![(file, raw.door)];
    let knock = knock(file, raw.knock)?;
    let firewall = firewall(file, raw.firewall)?;
    let log = log(file, raw.log)?;
    let metrics = metrics(file, raw.metrics)?;
    let hooks = hooks(file, raw.hook)?;
    for part in &parts {
        let file = config_text(&part.label, &part.text);
        let RawPart { service, door } = parse_toml(file)?;
        all_services.push((file, service));
        all_doors.push((file, door));
    }
    let services = services(all_services, &knock, firewall.mode)?;
    let gateway = gateway(file, raw.gateway)?;
    let doors = doors(all_doors, &services)?;
    let classic = match raw.classic.knockd_conf {
        Some(path) => Some(absolute(file, path, "knockd_conf")?),
        None => None,
    };
    let unused_options = Vec::new();
    Ok(Settings {
        gateway,
        knock,
        firewall,
        log,
        metrics,
        hooks,
        include,
        services,
        classic,
        doors,
        unused_options,
    })
}

fn parse_toml<T: DeserializeOwned>(file: SourceText<'_>) -> Result<T, Fault> {
    toml::from_str(file.text).map_err(|error| file.complain_serde(error.span(), error.message()))
}

fn gateway(file: SourceText<'_>, raw: RawGateway) -> Result<GatewaySettings, Fault> {
    let default = defaults::gateway();
    let mut addresses = Vec::new();
    for address in raw.addresses.unwrap_or_default() {
        addresses.push(word(file, address, "addresses", ADDRESS)?);
    }
    Ok(GatewaySettings {
        key_file: path(file, raw.key_file, "key_file", default.key_file)?,
        clients_file: path(file, raw.clients_file, "clients_file", default.clients_file)?,
        state_dir: path(file, raw.state_dir, "state_dir", default.state_dir)?,
        state_on_tmpfs: raw.state_on_tmpfs.unwrap_or(default.state_on_tmpfs),
        control_socket: path(file, raw.control_socket, "control_socket", default.control_socket)?,
        user: match raw.user {
            Some(user) => Some(word(file, user, "user", USER)?),
            None => default.user,
        },
        addresses,
    })
}

fn knock(file: SourceText<'_>, raw: RawKnock) -> Result<KnockSettings, Fault> {
    let default = defaults::knock();
    let interfaces = match raw.interfaces {
        Some(list) => interfaces(file, list)?,
        None => default.interfaces,
    };
    let silent = raw.silent.unwrap_or(default.silent);
    let xdp = match raw.xdp {
        Some(list) => xdp(file, list, &interfaces, silent)?,
        None => default.xdp,
    };
    Ok(KnockSettings {
        port: number(file, raw.port, "port", 1..=65535, default.port)?,
        interfaces,
        xdp,
        silent,
        max_age: number(file, raw.max_age, "max_age", 1..=3600, default.max_age)?,
        max_ahead: number(file, raw.max_ahead, "max_ahead", 0..=3600, default.max_ahead)?,
        burst: number(file, raw.burst, "burst", 1..=10_000, default.burst)?,
        per_second: number(file, raw.per_second, "per_second", 1..=10_000, default.per_second)?,
        max_grants: number(file, raw.max_grants, "max_grants", 1..=65_535, default.max_grants)?,
        also_grant: also_grant(file, raw.also_grant.unwrap_or_default())?,
    })
}

fn also_grant(file: SourceText<'_>, list: List) -> Result<Vec<Prefix>, Fault> {
    let mut prefixes = Vec::new();
    for text in list {
        let Some(prefix) = Prefix::parse(text.get_ref()) else {
            let what = format!("`{}` is not a prefix for `also_grant`", printable(text.get_ref()));
            return Err(file.complain(text.span().start, what, PREFIX));
        };
        prefixes.push(prefix);
    }
    Ok(prefixes)
}
/// The most interfaces that can be named: each needs a socket with a buffer of its own.
const INTERFACES: usize = 256;

fn interfaces(file: SourceText<'_>, list: Spanned<List>) -> Result<Vec<String>, Fault> {
    let start = list.span().start;
    let list = list.into_inner();
    if list.is_empty() {
        let remedy = "write interfaces = [\"any\"] to capture on all";
        return Err(file.complain(start, "`interfaces` is empty", remedy));
    }
    if list.len() > INTERFACES {
        let what =
            format!("`interfaces` names {}; at most {INTERFACES} can be captured", list.len());
        return Err(file.complain(start, &what, "write interfaces = [\"any\"] to capture on all"));
    }
    let any = list.iter().find(|name| name.get_ref() == "any");
    if let Some(any) = any
        && list.len() > 1
    {
        let what = "`any` stands beside other interfaces";
        return Err(file.complain(any.span().start, what, "write \"any\" alone, or only names"));
    }
    names(file, list, "interfaces")
}

/// The interfaces in `xdp`: those that are captured, and named. What another program or machine
/// could receive must not be dropped there.
fn xdp(
    file: SourceText<'_>, list: Spanned<List>, captured: &[String], silent: bool,
) -> Result<Vec<String>, Fault> {
    let start = list.span().start;
    let list = list.into_inner();
    if !silent && !list.is_empty() {
        let what = "`xdp` stands beside `silent = false`";
        let remedy = "write silent = true: else another program may answer at the knock port, and \
                      XDP would drop its packets";
        return Err(file.complain(start, what, remedy));
    }
    if list.len() > INTERFACES {
        let what = format!("`xdp` names {} interfaces", list.len());
        return Err(file.complain(start, what, format!("name at most {INTERFACES}")));
    }
    for name in &list {
        let (at, name) = (name.span().start, name.get_ref().as_str());
        if name == "any" || name == DEFAULT_ROUTE {
            let what = format!("`{name}` stands in `xdp`");
            return Err(file.complain(at, what, "name the interfaces, as in xdp = [\"eth0\"]"));
        }
        let is_captured =
            captured.iter().any(|one| one == name || one == "any" || one == DEFAULT_ROUTE);
        if !is_captured {
            let what = format!("`{}` is in `xdp` and not in `interfaces`", printable(name));
            let remedy = "add it to `interfaces`, or take it out of `xdp`: no knock is heard there";
            return Err(file.complain(at, what, remedy));
        }
    }
    names(file, list, "xdp")
}

/// Names of interfaces, each once.
fn names(file: SourceText<'_>, list: List, key: &'static str) -> Result<Vec<String>, Fault> {
    let mut seen = BTreeSet::new();
    for name in &list {
        if !seen.insert(name.get_ref()) {
            let remedy = "remove one of the two";
            return Err(file.complain(name.span().start, "this interface is named twice", remedy));
        }
    }
    list.into_iter().map(|name| word(file, name, key, INTERFACE)).collect()
}

fn firewall(file: SourceText<'_>, raw: RawFirewall) -> Result<FirewallSettings, Fault> {
    let default = defaults::firewall();
    let marks_at = start_of(&raw.pending_mark).or(start_of(&raw.mark)).unwrap_or(0);
    let mark = bit(file, raw.mark, "mark", default.mark)?;
    let pending_mark = bit(file, raw.pending_mark, "pending_mark", default.pending_mark)?;
    if mark == pending_mark {
        let remedy = "choose two that nobody else uses";
        return Err(file.complain(marks_at, "mark and pending_mark are the same bit", remedy));
    }
    let mode = choice(file, raw.mode, "mode", &MODES, default.mode)?;
    let table = match raw.table {
        Some(table) => word(file, table, "table", TABLE)?,
        None => default.table,
    };
    let nft = path(file, raw.nft, "nft", default.nft)?;
    let mut break_glass = Vec::new();
    for text in raw.break_glass.unwrap_or_default() {
        let example = "write for example break_glass = [\"192.0.2.7\"]";
        break_glass.push(ip_address(file, &text, example)?.to_canonical());
    }
    let printed = path(file, raw.printed, "printed", default.printed)?;
    Ok(FirewallSettings { table, nft, mode, mark, pending_mark, break_glass, printed })
}

/// One bit of a conntrack mark.
fn bit(file: SourceText<'_>, value: At<i64>, key: &str, default: u32) -> Result<u32, Fault> {
    let at = start_of(&value).unwrap_or(0);
    let mask: u32 = number(file, value, key, 1..=0xffff_ffff, default)?;
    if mask.is_power_of_two() {
        return Ok(mask);
    }
    let remedy = format!("write for example {key} = {default:#x}");
    Err(file.complain(at, format!("{key} = {mask:#x} is not one bit"), remedy))
}

fn number<N: TryFrom<i64>, V: Copy + Into<i64>>(
    file: SourceText<'_>, value: At<V>, key: &str, range: RangeInclusive<i64>, default: N,
) -> Result<N, Fault> {
    let Some(value) = value else { return Ok(default) };
    let given: i64 = (*value.get_ref()).into();
    match N::try_from(given) {
        Ok(number) if range.contains(&given) => Ok(number),
        _ => Err(file.complain(
            value.span().start,
            format!("{key} = {given} is out of range"),
            format!("from {} to {}", range.start(), range.end()),
        )),
    }
}

fn choice<T: Clone>(
    file: SourceText<'_>, value: At<String>, key: &str, known: &[(&str, T)], default: T,
) -> Result<T, Fault> {
    let Some(value) = value else { return Ok(default) };
    match known.iter().find(|(word, _)| word == value.get_ref()) {
        Some((_, meaning)) => Ok(meaning.clone()),
        None => {
            let words = known.iter().map(|(word, _)| *word);
            Err(file.complain_unknown(value.span().start, key, value.get_ref(), words))
        }
    }
}

fn path(
    file: SourceText<'_>, value: At<String>, key: &str, default: PathBuf,
) -> Result<PathBuf, Fault> {
    match value {
        Some(value) => absolute(file, value, key),
        None => Ok(default),
    }
}

fn absolute(file: SourceText<'_>, value: Spanned<String>, key: &str) -> Result<PathBuf, Fault> {
    let path = Path::new(value.get_ref());
    // has_root, not is_absolute: the latter wants a drive letter on Windows, where `check` of a
    // configuration may still run.
    if path.has_root() && !value.get_ref().contains('\0') {
        return Ok(path.to_owned());
    }
    let what = format!("`{key}` is not an absolute path");
    Err(file.complain(value.span().start, what, "begin it with a slash"))
}

fn ip_address(file: SourceText<'_>, text: &Spanned<String>, remedy: &str) -> Result<IpAddr, Fault> {
    let address = text.get_ref().parse();
    address.map_err(|_| file.complain(text.span().start, "not an IP address", remedy))
}

/// The rule for a word, and the remedy for one that breaks it.
struct WordRule {
    fits: fn(&str) -> bool,
    remedy: &'static str,
}

const USER: WordRule = WordRule {
    fits: |word| is_plain(word, 32, "._-"),
    remedy: "write the name of a user of this machine",
};
const INTERFACE: WordRule = WordRule {
    fits: super::is_interface,
    remedy: "write interface names as `ip link` shows them, or \"default\", or [\"any\"] alone",
};
const TABLE: WordRule = WordRule {
    fits: |word| is_plain(word, 31, "_") && word.starts_with(|c: char| c.is_ascii_alphabetic()),
    remedy: "a letter, then up to 30 letters, digits or _",
};
const ADDRESS: WordRule =
    WordRule { fits: is_host, remedy: "write a host name or an IP address, without a port" };

fn word(
    file: SourceText<'_>, value: Spanned<String>, key: &str, rule: WordRule,
) -> Result<String, Fault> {
    if (rule.fits)(value.get_ref()) {
        return Ok(value.into_inner());
    }
    let what = format!("`{}` cannot stand in `{key}`", printable(value.get_ref()));
    Err(file.complain(value.span().start, what, rule.remedy))
}

fn is_plain(word: &str, most: usize, also: &str) -> bool {
    (1..=most).contains(&word.len())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
}

/// The place of a value, if it is there.
fn start_of<T>(value: &At<T>) -> Option<usize> {
    value.as_ref().map(|value| value.span().start)
}
