//! Section `[service.NAME]` of toctocd.toml. See `commands` for command services.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use toml::{Spanned, Value};

use super::commands::commands;
use super::parts::{NamedSection, in_order};
use super::raw::{At, List, Named, RawService};
use super::{choice, number, start_of};
use crate::config::{
    DisconnectPolicy, Forward, GrantKind, KnockSettings, Mode, Service, ServicePorts, SourceRule,
    defaults,
};
use crate::core::address::{AddressScope, reach};
use crate::core::diagnostic::{SourceText, printable};
use crate::core::prefix::{Prefix, Span, Spans};
use crate::core::service::ALL_PORTS;
use crate::core::types::{Fault, Port, PortRange, Proto, ServiceName};

pub const MAX_SERVICES: usize = 256;
/// The remedy for a wrong prefix.
pub(super) const PREFIX: &str = "write one as in \"203.0.113.0/24\" or \"203.0.113.7/32\", with no \
    bits set after its length; not everybody (/0)";
/// The most entries of `ports`.
const MAX_PORTS: usize = 256;
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
    let mut owners = PortOwners { knock: knock.port, taken: BTreeMap::new(), all: None };
    let sections = in_order(raw, "service", MAX_SERVICES)?;
    sections.into_iter().map(|section| service(section, &mut owners, mode)).collect()
}

fn service(
    NamedSection { file, name, raw }: NamedSection<'_, RawService>, owners: &mut PortOwners,
    default_mode: Mode,
) -> Result<Service, Fault> {
    let start = name.span().start;
    let Some(name) = ServiceName::new(name.get_ref()) else {
        let remedy = "use 1 to 31 of a-z 0-9 . _ -, for example [service.ssh]";
        return Err(file.complain(start, "not a service name", remedy));
    };
    let commands = commands(file, start, &raw)?;
    let form_at = start_of(&raw.form).unwrap_or(start);
    let form = choice(file, raw.form, "form", &FORMS, GrantKind::Time)?;
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
    let max_grants = number(file, raw.max_grants, "max_grants", 1..=65_535, max_grants)?;
    let source = source_rule(file, raw.source)?;
    let spans = spans(file, raw.grant_prefix)?;
    let cut = choice(file, raw.cut, "cut", &CUTS, DisconnectPolicy::Never)?;
    let default_mode = if commands.is_some() { Mode::Guard } else { default_mode };
    let mode = choice(file, raw.mode, "mode", &MODES, default_mode)?;
    // Last: a service whose ports are missing has its other mistakes told all the same.
    let mut ports = ServicePorts::Listed(Vec::new());
    if commands.is_none() {
        ports = self::ports(file, start, raw.ports, owners, name)?;
    }
    let forward = forward(file, raw.forward, raw.masquerade, &ports)?;
    let has_udp = match &ports {
        ServicePorts::Listed(ranges) => ranges.iter().any(|range| range.proto == Proto::Udp),
        ServicePorts::AllBut(_) => true,
    };
    if form == GrantKind::Once && has_udp {
        return Err(file.complain(
            form_at,
            "form = \"once\" works for TCP only: UDP has no handshake that could use up the grant",
            "write form = \"time\", or make the UDP ports a service of their own",
        ));
    }
    let challenge = raw.challenge.unwrap_or(false);
    Ok(Service {
        name,
        ports,
        commands,
        mode,
        form,
        seconds,
        max_seconds,
        max_grants,
        source,
        spans,
        challenge,
        cut,
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

/// The length of a prefix of either family, or a list with one of each.
fn spans(file: SourceText<'_>, value: At<Value>) -> Result<Spans, Fault> {
    let mut spans = Spans::HOSTS;
    let Some(value) = value else { return Ok(spans) };
    let start = value.span().start;
    let remedy = "16 to 32 is an IPv4 prefix, 48 to 128 an IPv6 prefix; for both write a list, \
        as in [24, 64]";
    let lengths = match value.into_inner() {
        Value::Array(list) => list,
        one => vec![one],
    };
    let mut families = [false; 2];
    for value in &lengths {
        let length = value.as_integer().and_then(|length| u8::try_from(length).ok());
        let v4 = length.and_then(|length| Span::of_prefix(length, false));
        let v6 = length.and_then(|length| Span::of_prefix(length, true));
        let family = match (v4, v6) {
            (Some(span), _) => {
                spans.v4 = span;
                &mut families[0]
            }
            (None, Some(span)) => {
                spans.v6 = span;
                &mut families[1]
            }
            (None, None) => {
                let what = format!("grant_prefix = {value} is not a length that can be granted");
                return Err(file.complain(start, what, remedy));
            }
        };
        if std::mem::replace(family, true) {
            let what = "grant_prefix has two lengths for one family";
            return Err(file.complain(start, what, remedy));
        }
    }
    if lengths.is_empty() {
        return Err(file.complain(start, "grant_prefix is an empty list", remedy));
    }
    Ok(spans)
}

/// `"192.168.1.10:3389"`, or a list with one of each family.
fn forward(
    file: SourceText<'_>, value: At<Value>, masquerade: At<bool>, ports: &ServicePorts,
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
    let one_port = matches!(ports.ranges(), [range] if range.first == range.last);
    if !one_port {
        let remedy = "make one service of each port";
        return Err(file.complain(start, "a service that forwards has one port", remedy));
    }
    Ok(Some(Forward { to, masquerade }))
}

pub fn is_inner_host(target: SocketAddr) -> bool {
    let ip = target.ip();
    target.port() != 0
        && ip == ip.to_canonical()
        && matches!(reach(ip), AddressScope::Global | AddressScope::Private)
}

/// The ports of the services read so far.
struct PortOwners {
    knock: u16,
    /// By their first port, with their service. No two meet.
    taken: BTreeMap<(Proto, u16), (PortRange, ServiceName)>,
    /// The service of all other ports.
    all: Option<ServiceName>,
}

impl PortOwners {
    /// Gives `range` to the service `name`.
    /// Error: why it cannot be had, and what to do.
    fn take(&mut self, range: PortRange, name: ServiceName) -> Result<(), Fault> {
        let PortRange { proto, first, last } = range;
        let knock = self.knock;
        if range.covers(Port { proto: Proto::Udp, number: knock }) {
            if first == last {
                let what = format!("{range} is already taken by the knock port itself");
                return Err(Fault::new(what, "give each port to one service"));
            }
            let mut around = Vec::new();
            for (first, last) in [(first, knock.saturating_sub(1)), (knock.saturating_add(1), last)]
            {
                if first <= last && first != knock && last != knock {
                    around.push(format!("\"{}\"", PortRange { proto, first, last }));
                }
            }
            let what = format!("{range} contains the knock port, {knock}/udp");
            return Err(Fault::new(what, format!("leave it out: {}", around.join(", "))));
        }
        // The one that begins last, but not after it, is the only one that can meet it.
        if let Some((_, (other, owner))) = self.taken.range(..=(proto, last)).next_back()
            && other.meets(range)
        {
            let what = match range == *other && name != *owner {
                true => format!("{range} is already taken by service `{owner}`"),
                false => format!("{range} overlaps {other} of service `{owner}`"),
            };
            return Err(Fault::new(what, "give each port to one service, and name it once"));
        }
        self.taken.insert((proto, first), (range, name));
        Ok(())
    }
}

fn ports(
    file: SourceText<'_>, start: usize, list: At<List>, owners: &mut PortOwners, name: ServiceName,
) -> Result<ServicePorts, Fault> {
    let start = start_of(&list).unwrap_or(start);
    let list = list.map(Spanned::into_inner).unwrap_or_default();
    if list.is_empty() {
        let remedy = "write for example ports = [\"22/tcp\"], or start and stop commands";
        return Err(file.complain(start, format!("service `{name}` has no ports"), remedy));
    }
    let count = list.len();
    if count > MAX_PORTS {
        let what =
            format!("service `{name}` has {count} entries in `ports`, more than {MAX_PORTS}");
        let remedy = "write neighbours as a range, or split it into services";
        return Err(file.complain(start, what, remedy));
    }
    let all = list.iter().find(|text| text.get_ref() == ALL_PORTS);
    if let Some(all) = all {
        return all_ports(file, all.span().start, &list, owners, name);
    }
    let mut ranges = Vec::new();
    for text in list {
        let range = port_range(file, text.span().start, text.get_ref())?;
        if let Err(fault) = owners.take(range, name) {
            return Err(file.complain(text.span().start, fault.what, fault.remedy));
        }
        ranges.push(range);
    }
    Ok(ServicePorts::Listed(ranges))
}

/// `["all"]`, or `["all", "!80/tcp"]`.
fn all_ports(
    file: SourceText<'_>, at: usize, list: &List, owners: &mut PortOwners, name: ServiceName,
) -> Result<ServicePorts, Fault> {
    if let Some(other) = owners.all.replace(name) {
        let what = format!("all ports are already taken by service `{other}`");
        return Err(file.complain(at, what, "only one service can have them"));
    }
    let mut except = Vec::new();
    for text in list {
        let start = text.span().start;
        let text = text.get_ref();
        if let Some(port) = text.strip_prefix('!') {
            except.push(port_range(file, start, port)?);
        } else if start != at {
            let what = format!("`{}` beside \"all\"", printable(text));
            let remedy =
                "write \"all\" alone, or exceptions with a !, as in [\"all\", \"!80/tcp\"]";
            return Err(file.complain(start, what, remedy));
        }
    }
    Ok(ServicePorts::AllBut(except))
}

fn port_range(file: SourceText<'_>, at: usize, text: &str) -> Result<PortRange, Fault> {
    if let Some(range) = PortRange::read(text) {
        return Ok(range);
    }
    let remedy = "write a number from 1 to 65535 and its protocol, as in \"22/tcp\", \
        a rising range as in \"60000-61000/udp\", or \"all\"";
    Err(file.complain(at, format!("`{}` is not a port", printable(text)), remedy))
}
