//! Section `[service.NAME]` of toctocd.toml. The rest of the file is left to `native`, what a
//! service is to `core::service`, services of commands to `commands`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;
use toml::Spanned;

use super::commands::{self, RawCommand};
use super::parts::in_order;
use super::{At, Named, choice, number};
use crate::config::{
    DisconnectPolicy, Forward, GrantKind, KnockSettings, Mode, Service, SourceRule, defaults,
};
use crate::core::address::{AddressScope, reach};
use crate::core::diagnostic::SourceText;
use crate::core::prefix::{Prefix, Span};
use crate::core::types::{Fault, Port, Proto, SERVICE_PORTS, ServiceName};

/// How many services a gateway may have.
pub const MAX_SERVICES: usize = 256;
/// How many prefixes `source` may list.
const MAX_PREFIXES: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "section [service.NAME]")]
pub(super) struct RawService {
    pub(super) ports: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) start: RawCommand,
    pub(super) stop: RawCommand,
    pub(super) mode: At<String>,
    pub(super) form: At<String>,
    seconds: At<i64>,
    max_seconds: At<i64>,
    max_grants: At<i64>,
    source: At<toml::Value>,
    pub(super) grant_prefix: At<i64>,
    challenge: Option<bool>,
    pub(super) cut: At<String>,
    pub(super) forward: At<toml::Value>,
    pub(super) masquerade: At<bool>,
}

pub(super) fn services(
    raw: Vec<(SourceText<'_>, Named<RawService>)>,
    knock: &KnockSettings,
    mode: Mode,
) -> Result<Vec<Service>, Fault> {
    let mut taken: BTreeMap<Port, String> = BTreeMap::new();
    taken
        .insert(Port { proto: Proto::Udp, number: knock.port }, "the knock port itself".to_owned());
    let raw = in_order(raw, "service", MAX_SERVICES)?;
    raw.into_iter()
        .map(|(file, name, service)| one_service(file, &name, service, &mut taken, mode))
        .collect()
}

fn one_service(
    file: SourceText<'_>,
    at: &Spanned<String>,
    mut raw: RawService,
    taken: &mut BTreeMap<Port, String>,
    mode: Mode,
) -> Result<Service, Fault> {
    let start = at.span().start;
    let name = ServiceName::new(at.get_ref()).ok_or_else(|| {
        file.complain(
            start,
            "not a service name",
            "use 1 to 31 of a-z 0-9 . _ -, for example [service.ssh]",
        )
    })?;
    let commands = commands::commands(file, start, &mut raw)?;
    let (ports, mode) = match &commands {
        Some(_) => (Vec::new(), Mode::Guard),
        None => (ports(file, start, raw.ports, taken, name)?, mode),
    };
    let forward = forward(file, raw.forward, raw.masquerade, &ports)?;
    let form_at = raw.form.as_ref().map_or(start, |form| form.span().start);
    let form = raw.form.map_or(Ok(GrantKind::Time), |form| choice(file, &form, "form", &FORMS))?;
    if form == GrantKind::Once && ports.iter().any(|port| port.proto == Proto::Udp) {
        return Err(file.complain(
            form_at,
            "form = \"once\" works for TCP only: UDP has no handshake that could spend the grant",
            "write form = \"time\", or make the UDP ports a service of their own",
        ));
    }
    let max_at =
        raw.max_seconds.as_ref().or(raw.seconds.as_ref()).map_or(start, |at| at.span().start);
    let seconds = number(file, raw.seconds, "seconds", 1..=86_400, defaults::SECONDS)?;
    let max_default = defaults::MAX_SECONDS.max(seconds);
    let max_seconds = number(file, raw.max_seconds, "max_seconds", 1..=604_800, max_default)?;
    if max_seconds < seconds {
        return Err(file.complain(
            max_at,
            format!("max_seconds ({max_seconds}) is less than seconds ({seconds})"),
            "raise max_seconds or lower seconds",
        ));
    }
    Ok(Service {
        name,
        ports,
        commands,
        mode: raw.mode.map_or(Ok(mode), |mode| choice(file, &mode, "mode", &MODES))?,
        form,
        seconds,
        max_seconds,
        max_grants: number(
            file,
            raw.max_grants,
            "max_grants",
            1..=65_535,
            defaults::SERVICE_MAX_GRANTS,
        )?,
        source: raw.source.map_or(Ok(SourceRule::Bound), |source| source_rule(file, source))?,
        span: raw.grant_prefix.map_or(Ok(Span::Host), |length| span(file, &length))?,
        challenge: raw.challenge.unwrap_or(false),
        cut: raw.cut.map_or(Ok(DisconnectPolicy::Never), |cut| choice(file, &cut, "cut", &CUTS))?,
        forward,
    })
}

pub(super) const MODES: [(&str, Mode); 2] = [("guard", Mode::Guard), ("mark", Mode::Mark)];
const FORMS: [(&str, GrantKind); 2] = [("time", GrantKind::Time), ("once", GrantKind::Once)];
const CUTS: [(&str, DisconnectPolicy); 3] = [
    ("never", DisconnectPolicy::Never),
    ("revoke", DisconnectPolicy::Revoked),
    ("close", DisconnectPolicy::Closed),
];
const SOURCES: [(&str, SourceRule); 2] =
    [("bound", SourceRule::Bound), ("observed", SourceRule::Observed)];

/// A word, or a list of prefixes.
fn source_rule(file: SourceText<'_>, source: Spanned<toml::Value>) -> Result<SourceRule, Fault> {
    let (start, span) = (source.span().start, source.span());
    let remedy = "write \"bound\", \"observed\", or a list of prefixes as in [\"203.0.113.0/24\", \"2001:db8::/48\"]";
    match source.into_inner() {
        toml::Value::String(word) => choice(file, &Spanned::new(span, word), "source", &SOURCES),
        toml::Value::Array(list) if (1..=MAX_PREFIXES).contains(&list.len()) => {
            let one = |value: &toml::Value| {
                value.as_str().and_then(Prefix::parse).ok_or_else(|| {
                    file.complain(start, format!("{value} is no prefix for `source`"), PREFIX)
                })
            };
            list.iter().map(one).collect::<Result<_, _>>().map(SourceRule::Within)
        }
        toml::Value::Array(_) => Err(file.complain(
            start,
            format!("`source` lists none or more than {MAX_PREFIXES} prefixes"),
            remedy,
        )),
        _ => Err(file.complain(start, "`source` is neither a word nor a list", remedy)),
    }
}

const PREFIX: &str =
    "write one as in \"203.0.113.0/24\", with nothing set behind its length; not everybody (/0)";

fn span(file: SourceText<'_>, length: &Spanned<i64>) -> Result<Span, Fault> {
    match length.get_ref() {
        64 => Ok(Span::Net64),
        128 => Ok(Span::Host),
        other => Err(file.complain(
            length.span().start,
            format!("grant_prefix = {other}: a grant is for one IPv6 address or for its /64"),
            "write 128 or 64",
        )),
    }
}

/// `"192.168.1.10:3389"`, or a list with one of each family.
fn forward(
    file: SourceText<'_>,
    value: At<toml::Value>,
    masquerade: At<bool>,
    ports: &[Port],
) -> Result<Option<Forward>, Fault> {
    let Some(value) = value else {
        return match masquerade.filter(|masquerade| *masquerade.get_ref()) {
            Some(at) => Err(file.complain(
                at.span().start,
                "masquerade without forward",
                "say where it leads: forward = ...",
            )),
            None => Ok(None),
        };
    };
    let start = value.span().start;
    let list = match value.into_inner() {
        toml::Value::Array(list) => list,
        one => vec![one],
    };
    let target = |value: &toml::Value| {
        let to = value.as_str().and_then(|text| text.parse::<SocketAddr>().ok());
        let sound = |to: &SocketAddr| {
            to.port() != 0
                && to.ip() == to.ip().to_canonical()
                && matches!(reach(to.ip()), AddressScope::Global | AddressScope::Private)
        };
        to.filter(sound).ok_or_else(|| {
            let what = format!("{value} is no inner host with its port");
            file.complain(
                start,
                what,
                "write for example forward = \"192.168.1.10:3389\" or \"[fd00::10]:3389\"",
            )
        })
    };
    let to: Vec<SocketAddr> = list.iter().map(target).collect::<Result<_, _>>()?;
    let twice = to.iter().filter(|to| to.is_ipv4()).count() > 1
        || to.iter().filter(|to| to.is_ipv6()).count() > 1;
    if to.is_empty() || twice {
        return Err(file.complain(
            start,
            "`forward` needs one inner host, or one of each family",
            "split it into services",
        ));
    }
    if ports.len() != 1 {
        return Err(file.complain(
            start,
            "a service that forwards has one port",
            "make one service of each port",
        ));
    }
    Ok(Some(Forward { to, masquerade: masquerade.is_some_and(Spanned::into_inner) }))
}

fn ports(
    file: SourceText<'_>,
    start: usize,
    list: Option<Spanned<Vec<Spanned<String>>>>,
    taken: &mut BTreeMap<Port, String>,
    name: ServiceName,
) -> Result<Vec<Port>, Fault> {
    let example = "write for example ports = [\"22/tcp\"], or start and stop commands";
    let list = list
        .ok_or_else(|| file.complain(start, format!("service `{name}` has no ports"), example))?;
    let start = list.span().start;
    let list = list.into_inner();
    if list.is_empty() {
        return Err(file.complain(start, format!("service `{name}` has no ports"), example));
    }
    if list.len() > SERVICE_PORTS {
        return Err(file.complain(
            start,
            format!("service `{name}` has {} ports, more than the {SERVICE_PORTS} that a receipt can name", list.len()),
            "split it into two services",
        ));
    }
    let mut ports = Vec::with_capacity(list.len());
    for text in list {
        let at = text.span().start;
        let port = Port::read(text.get_ref()).ok_or_else(|| {
            file.complain(
                at,
                "not a port",
                "write a number from 1 to 65535 and its protocol, as in \"22/tcp\"",
            )
        })?;
        if let Some(owner) = taken.insert(port, format!("service `{name}`")) {
            return Err(file.complain(
                at,
                format!("{port} is already taken by {owner}"),
                "give each port to one service",
            ));
        }
        ports.push(port);
    }
    Ok(ports)
}
