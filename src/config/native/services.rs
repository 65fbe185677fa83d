//! Section `[service.NAME]` of toctocd.toml. See `commands` for command services.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use toml::{Spanned, Value};

use super::commands::commands;
use super::parts::{NamedSection, in_order};
use super::raw::{At, List, Named, RawService};
use super::{choice, number, start_of};
use crate::config::{
    DisconnectPolicy, Forward, GrantKind, KnockSettings, Mode, Service, SourceRule, defaults,
};
use crate::core::address::{AddressScope, reach};
use crate::core::diagnostic::SourceText;
use crate::core::prefix::{Prefix, Span};
use crate::core::types::{Fault, Port, Proto, SERVICE_PORTS, ServiceName};

pub const MAX_SERVICES: usize = 256;
/// The remedy for a wrong prefix.
pub(super) const PREFIX: &str = "write one as in \"203.0.113.0/24\" or \"203.0.113.7/32\", with no \
    bits set after its length; not everybody (/0)";
/// The most prefixes that `source` may list.
const MAX_PREFIXES: usize = 64;
pub const MODES: [(&str, Mode); 2] = [("guard", Mode::Guard), ("mark", Mode::Mark)];
pub const FORMS: [(&str, GrantKind); 2] = [("time", GrantKind::Time), ("once", GrantKind::Once)];
pub const CUTS: [(&str, DisconnectPolicy); 3] = [
    ("never", DisconnectPolicy::Never),
    ("revoke", DisconnectPolicy::Revoked),
    ("close", DisconnectPolicy::Closed),
];
pub const SOURCES: [(&str, SourceRule); 2] =
    [("bound", SourceRule::Bound), ("observed", SourceRule::Observed)];

pub(super) fn services(
    raw: Vec<(SourceText<'_>, Named<RawService>)>, knock: &KnockSettings, mode: Mode,
) -> Result<Vec<Service>, Fault> {
    let knock_port = Port { proto: Proto::Udp, number: knock.port };
    let mut owners = BTreeMap::from([(knock_port, "the knock port itself".to_owned())]);
    let sections = in_order(raw, "service", MAX_SERVICES)?;
    sections.into_iter().map(|section| service(section, &mut owners, mode)).collect()
}

fn service(
    NamedSection { file, name, raw }: NamedSection<'_, RawService>,
    owners: &mut BTreeMap<Port, String>, default_mode: Mode,
) -> Result<Service, Fault> {
    let start = name.span().start;
    let Some(name) = ServiceName::new(name.get_ref()) else {
        let remedy = "use 1 to 31 of a-z 0-9 . _ -, for example [service.ssh]";
        return Err(file.complain(start, "not a service name", remedy));
    };
    let commands = commands(file, start, &raw)?;
    let mut ports = Vec::new();
    let mut mode = Mode::Guard;
    if commands.is_none() {
        ports = self::ports(file, start, raw.ports, owners, name)?;
        mode = default_mode;
    }
    let forward = forward(file, raw.forward, raw.masquerade, &ports)?;
    let form_at = start_of(&raw.form).unwrap_or(start);
    let form = choice(file, raw.form, "form", &FORMS, GrantKind::Time)?;
    if form == GrantKind::Once && ports.iter().any(|port| port.proto == Proto::Udp) {
        return Err(file.complain(
            form_at,
            "form = \"once\" works for TCP only: UDP has no handshake that could use up the grant",
            "write form = \"time\", or make the UDP ports a service of their own",
        ));
    }
    let max_at = start_of(&raw.max_seconds).or(start_of(&raw.seconds)).unwrap_or(start);
    let seconds = number(file, raw.seconds, "seconds", 1..=86_400, defaults::SECONDS)?;
    let max_default = defaults::MAX_SECONDS.max(seconds);
    let max_seconds = number(file, raw.max_seconds, "max_seconds", 1..=604_800, max_default)?;
    if max_seconds < seconds {
        let what = format!("max_seconds ({max_seconds}) is less than seconds ({seconds})");
        let remedy = "raise max_seconds or lower seconds";
        return Err(file.complain(max_at, what, remedy));
    }
    let max_grants = defaults::SERVICE_MAX_GRANTS;
    Ok(Service {
        name,
        ports,
        commands,
        mode: choice(file, raw.mode, "mode", &MODES, mode)?,
        form,
        seconds,
        max_seconds,
        max_grants: number(file, raw.max_grants, "max_grants", 1..=65_535, max_grants)?,
        source: source_rule(file, raw.source)?,
        span: span(file, raw.grant_prefix)?,
        challenge: raw.challenge.unwrap_or(false),
        cut: choice(file, raw.cut, "cut", &CUTS, DisconnectPolicy::Never)?,
        forward,
    })
}

/// A word, or a list of prefixes.
fn source_rule(file: SourceText<'_>, source: At<Value>) -> Result<SourceRule, Fault> {
    let Some(source) = source else { return Ok(SourceRule::Bound) };
    let span = source.span();
    let start = span.start;
    let remedy = "write \"bound\", \"observed\", \
        or a list of prefixes as in [\"203.0.113.0/24\", \"2001:db8::/48\"]";
    let list = match source.into_inner() {
        Value::String(word) => {
            let word = Spanned::new(span, word);
            return choice(file, Some(word), "source", &SOURCES, SourceRule::Bound);
        }
        Value::Array(list) => list,
        _ => return Err(file.complain(start, "`source` is neither a word nor a list", remedy)),
    };
    if !(1..=MAX_PREFIXES).contains(&list.len()) {
        let what = format!("`source` lists none or more than {MAX_PREFIXES} prefixes");
        return Err(file.complain(start, what, remedy));
    }
    let mut prefixes = Vec::new();
    for value in list {
        let Some(prefix) = value.as_str().and_then(Prefix::parse) else {
            return Err(file.complain(
                start,
                format!("{value} is not a prefix for `source`"),
                PREFIX,
            ));
        };
        prefixes.push(prefix);
    }
    Ok(SourceRule::Within(prefixes))
}

fn span(file: SourceText<'_>, bits: At<i64>) -> Result<Span, Fault> {
    let Some(bits) = bits else { return Ok(Span::Host) };
    match bits.get_ref() {
        64 => Ok(Span::Net64),
        128 => Ok(Span::Host),
        other => Err(file.complain(
            bits.span().start,
            format!("grant_prefix = {other}: a grant is for one IPv6 address or for its /64"),
            "write 128 or 64",
        )),
    }
}

/// `"192.168.1.10:3389"`, or a list with one of each family.
fn forward(
    file: SourceText<'_>, value: At<Value>, masquerade: At<bool>, ports: &[Port],
) -> Result<Option<Forward>, Fault> {
    let masquerade_at = start_of(&masquerade);
    let masquerade = masquerade.is_some_and(Spanned::into_inner);
    let Some(value) = value else {
        if !masquerade {
            return Ok(None);
        }
        let at = masquerade_at.unwrap_or(0);
        let remedy = "name the target: forward = ...";
        return Err(file.complain(at, "masquerade without forward", remedy));
    };
    let start = value.span().start;
    let list = match value.into_inner() {
        Value::Array(list) => list,
        one => vec![one],
    };
    let mut to = Vec::new();
    for value in list {
        match value.as_str().map(str::parse) {
            Some(Ok(target)) if is_inner_host(target) => to.push(target),
            _ => {
                return Err(file.complain(
                    start,
                    format!("{value} is not an inner host with its port"),
                    "write for example forward = \"192.168.1.10:3389\" or \"[fd00::10]:3389\"",
                ));
            }
        }
    }
    let v4_targets = to.iter().filter(|target| target.is_ipv4()).count();
    if to.is_empty() || v4_targets > 1 || to.len() - v4_targets > 1 {
        let what = "`forward` needs one inner host, or one of each family";
        let remedy = "split it into services";
        return Err(file.complain(start, what, remedy));
    }
    if ports.len() != 1 {
        let remedy = "make one service of each port";
        return Err(file.complain(start, "a service that forwards has one port", remedy));
    }
    Ok(Some(Forward { to, masquerade }))
}

fn is_inner_host(target: SocketAddr) -> bool {
    let ip = target.ip();
    target.port() != 0
        && ip == ip.to_canonical()
        && matches!(reach(ip), AddressScope::Global | AddressScope::Private)
}

fn ports(
    file: SourceText<'_>, start: usize, list: At<List>, owners: &mut BTreeMap<Port, String>,
    name: ServiceName,
) -> Result<Vec<Port>, Fault> {
    let start = start_of(&list).unwrap_or(start);
    let list = list.map(Spanned::into_inner).unwrap_or_default();
    if list.is_empty() {
        let remedy = "write for example ports = [\"22/tcp\"], or start and stop commands";
        return Err(file.complain(start, format!("service `{name}` has no ports"), remedy));
    }
    let count = list.len();
    if count > SERVICE_PORTS {
        return Err(file.complain(
            start,
            format!(
                "service `{name}` has {count} ports, more than the {SERVICE_PORTS} that a receipt \
                 can name"
            ),
            "split it into two services",
        ));
    }
    let mut ports = Vec::new();
    for text in list {
        let at = text.span().start;
        let Some(port) = Port::read(text.get_ref()) else {
            let remedy = "write a number from 1 to 65535 and its protocol, as in \"22/tcp\"";
            return Err(file.complain(at, "not a port", remedy));
        };
        if let Some(owner) = owners.insert(port, format!("service `{name}`")) {
            let remedy = "give each port to one service";
            return Err(file.complain(at, format!("{port} is already taken by {owner}"), remedy));
        }
        ports.push(port);
    }
    Ok(ports)
}
