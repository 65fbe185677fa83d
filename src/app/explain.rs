//! `toctocd explain`: what a knock would get now, and why: policy, time, limits, the guard, and this
//! machine's own firewall. Nothing changes.

use std::net::IpAddr;
use std::path::Path;

use super::args::toctocd::Explain;
use super::finding::Finding;
use super::foreseen::{Foreseen, ForeseenGrant, ForeseenRefusal, Limit, Obstacle};
use super::load::Reach;
use super::output::{CommandOutput, FAILED, count};
use super::own_firewall::{self, PortPath};
use super::{admin, gatekeeper, load, traced};
use crate::config::Settings;
use crate::core::service::Client;
use crate::core::types::{ClientId, Fault, FaultKind};
use crate::edge::control::{Asker, Question};
use crate::edge::firewall::ruleset_snapshot::RulesetSnapshot;

mod event;
mod told;

/// Begins the second line of a row, and more.
const LINE: &str = "\n              ";

/// The whole answer.
struct Explanation {
    foreseen: Foreseen,
    from: IpAddr,
    named: IpAddr,
    /// The address of this machine that the client knows.
    gateway: String,
    firewall: FirewallWay,
}

/// The way of granted packets, and of the receipt, through this machine's own firewall.
#[derive(Default)]
struct FirewallWay {
    paths: Vec<PortPath>,
    receipt: Option<Finding>,
    /// Why the kernel did not trace it, so that it was read from the rules.
    not_traced: Option<String>,
}

/// An answer, also for JSON.
struct Foresight {
    explanation: Explanation,
    value: serde_json::Value,
}

/// Asks the running gateway; without one, the same code decides by the files.
///
/// # Errors
/// The client, service, door or id is unknown, or the files cannot be read.
pub fn run(config: &Path, args: &Explain) -> Result<CommandOutput, Fault> {
    let reach = load::reach(config);
    if let Some(id) = args.id {
        return reach.note(event::explain(config, &reach, id));
    }
    let Foresight { explanation, value } =
        foresee(config, &reach, question(config, &reach, args)?)?;
    let code = if explanation.opens() { 0 } else { FAILED };
    let output = CommandOutput::out(explanation.text());
    reach.note(Ok(CommandOutput { code, value: Some(value), ..output }))
}

fn foresee(config: &Path, reach: &Reach, question: Question) -> Result<Foresight, Fault> {
    let settings = &reach.settings;
    let foreseen = match admin::is_running(&settings.gateway.control_socket) {
        true => admin::ask_foreseen(settings, &question)?,
        false => gatekeeper::foresee_without_gateway(config, &question)?,
    };
    let named = question.named.unwrap_or(question.from);
    let firewall = FirewallWay::of(settings, &foreseen.service, named);
    let gateway = told::gateway(question.from);
    let explanation = Explanation { foreseen, from: question.from, named, gateway, firewall };
    let mut value = serde_json::json!(explanation.foreseen);
    value["opens"] = explanation.opens().into();
    value["from"] = question.from.to_string().into();
    let FirewallWay { paths, not_traced, .. } = &explanation.firewall;
    value["firewall"] = paths.iter().map(PortPath::json).collect();
    value["not_traced"] = not_traced.clone().into();
    value["told"] = explanation.told().into();
    Ok(Foresight { explanation, value })
}

/// The question, with the client's id in place of its name.
fn question(config: &Path, reach: &Reach, args: &Explain) -> Result<Question, Fault> {
    let Some(from) = args.from.map(|ip| ip.to_canonical()) else {
        return Err(Fault::new("no address that the knock comes from", "--from ADDRESS"));
    };
    let named = args.source.map(|ip| ip.to_canonical());
    let asker = match (&args.door, &args.client) {
        (Some(door), _) => Asker::Door(door.clone()),
        (None, Some(name)) => Asker::Client(client_id(config, &reach.settings, name)?.0),
        (None, None) => {
            return Err(Fault::new("neither a client nor a door", "toctocd explain --help"));
        }
    };
    let service = args.service.map(|service| service.to_string());
    let seconds = args.seconds.unwrap_or(0);
    Ok(Question { asker, service, from, named, seconds })
}

/// The client of this name, also if it has expired: as the files say, or if they cannot be read, the
/// running gateway.
fn client_id(config: &Path, settings: &Settings, name: &str) -> Result<ClientId, Fault> {
    let is_running = admin::is_running(&settings.gateway.control_socket);
    let ask = || if is_running { admin::find_client(settings, name) } else { Ok(None) };
    let clients = match load::clients(settings) {
        Ok(clients) => clients,
        Err(fault) => return ask()?.ok_or(fault),
    };
    let of_name: Vec<&Client> = clients.iter().filter(|client| client.name == name).collect();
    // Whoever joined by an invitation that is not over stands there twice.
    if let Some(client) = of_name.iter().find(|client| client.invited_until.is_none()) {
        return Ok(client.id);
    }
    if !of_name.is_empty() {
        return Err(Fault::new(
            format!("`{name}` is invited and has not joined: there is no key yet"),
            "whoever has the line types: toctoc join; `toctocd client list` shows a key that waits",
        )
        .of(FaultKind::Name));
    }
    let list = format!("`toctocd -c {} client list` shows who is enrolled", config.display());
    let unknown = Fault::new(format!("nobody is called `{name}`"), list).of(FaultKind::Name);
    ask()?.ok_or(unknown)
}

impl FirewallWay {
    /// Traced by the kernel in a copy of this machine's network; if that cannot be, read. Nothing if
    /// not even the rules can be read.
    fn of(settings: &Settings, service: &str, from: IpAddr) -> FirewallWay {
        let mut of_name = settings.services.iter().filter(|one| one.name.as_str() == service);
        let Some(service) = of_name.next() else { return FirewallWay::default() };
        let Ok(snapshot) = RulesetSnapshot::take(&settings.firewall) else {
            return FirewallWay::default();
        };
        let ports = own_firewall::first_ports(service);
        let (traced, not_traced) = match traced::trace(settings, &snapshot, service, &ports, from) {
            Ok(traced) => (Some(traced), None),
            Err(fault) => (None, Some(fault.what)),
        };
        let (paths, receipt) =
            own_firewall::paths(settings, &snapshot, service, from, traced.as_ref());
        FirewallWay { paths, receipt, not_traced }
    }

    fn rows(&self) -> String {
        let mut text = String::new();
        for path in &self.paths {
            text += &row("firewall", &path.text());
        }
        match (&self.not_traced, self.paths.is_empty()) {
            (_, true) => {}
            (None, false) => {
                text +=
                    &row("traced", "by the kernel: packets went through a copy of this network");
            }
            (Some(why), false) => {
                text += &row("traced", &format!("not by the kernel, the rules were read: {why}"));
            }
        }
        if let Some(receipt) = &self.receipt {
            text += &row("receipt", &receipt.text);
        }
        text
    }
}

impl Explanation {
    /// True if a knock now would let somebody in.
    fn opens(&self) -> bool {
        self.foreseen.grant.is_some()
            && self.foreseen.obstacles.is_empty()
            && !self.firewall.paths.iter().any(|path| path.is_dropped)
    }

    fn text(&self) -> String {
        let Foreseen { holder, service, grant, refusal, .. } = &self.foreseen;
        let mut text = match (grant, refusal) {
            (Some(grant), _) if self.opens() => {
                format!("yes: {holder} gets {service} from {} for {} s\n", self.from, grant.seconds)
            }
            _ => format!("no: {holder} does not get {service} from {}\n", self.from),
        };
        if let Some(ForeseenRefusal { why, remedy, .. }) = refusal {
            text += &row("policy", &format!("refused: {why}; {remedy}"));
        }
        if let Some(grant) = grant {
            text += &row("policy", &self.grant_text(grant));
        }
        for Limit { of, grants, most } in &self.foreseen.limits {
            let live = count(usize::try_from(*grants).unwrap_or(usize::MAX), "grant");
            text += &row("limit", &format!("{of} has {live} of at most {most}"));
        }
        text += &row("time", &self.time_text());
        for Obstacle { what, remedy, .. } in &self.foreseen.obstacles {
            text += &row("stops it", &format!("{what}; {remedy}"));
        }
        text += &self.firewall.rows();
        text + &row("is told", &self.told().replace('\n', LINE))
    }

    fn grant_text(&self, grant: &ForeseenGrant) -> String {
        let ports = match grant.ports.is_empty() {
            true => "by commands".to_owned(),
            false => grant.ports.join(" "),
        };
        let how = if grant.form == "once" { ", for one connection" } else { "" };
        let named = match self.named == self.from {
            true => String::new(),
            false => format!(", which the knock names; it comes from {}", self.from),
        };
        format!("granted: {} reaches {ports} for {} s{how}{named}", grant.address, grant.seconds)
    }

    fn time_text(&self) -> String {
        let [age, ahead] = self.foreseen.window;
        match self.foreseen.clock.as_str() {
            "sure" => format!(
                "the gateway's clock is sure; a knock that is more than {age} s old or {ahead} s ahead \
                 costs a challenge"
            ),
            why => format!("every knock costs a challenge, so one more packet each way: {why}"),
        }
    }
}

fn row(title: &str, text: &str) -> String {
    format!("  {title:10}  {text}\n")
}

#[cfg(test)]
mod tests;
