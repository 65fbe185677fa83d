//! `toctocd status`, `grants`, `reload`, `reinitialise`: requests to the running gateway, and their
//! results as text.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::foreseen::Foreseen;
use super::load::Reach;
use super::output::{CommandOutput, count};
use super::{joined, own_firewall, printed_guard};
use crate::config::Settings;
use crate::core::types::{ClientId, Fault};
use crate::edge::control::{ControlRequest, FixedSettings, Question, ask};
use crate::edge::log::EventRecord;
use crate::edge::state::State;

mod packets;

pub use packets::{PacketCounts, PacketLine, rejected_because};

/// How long a command waits for the gateway. A reload starts a whole listener, so it is not short.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long `top` waits each time.
const GLANCE: Duration = Duration::from_secs(3);

/// The most events of an overview.
pub const LAST_EVENTS: usize = 12;

/// The most clients with a clock ahead, that knocked last, or that wait, which `status` names.
const SHOWN: usize = 10;

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct GatewayStatus {
    pub version: String,
    pub pid: u32,
    pub since: String,
    /// The same in seconds since the epoch.
    pub started: u64,
    pub knock_port: u16,
    pub interfaces: Vec<String>,
    /// True if our guard is in the kernel as we loaded it.
    pub guard: bool,
    pub guard_off: bool,
    /// How the trial of the guard goes, or how the last one ended.
    pub trial: TrialState,
    /// `intact`, or what happened to the state.
    pub state: String,
    /// `sure`, or why every knock needs a challenge.
    pub clock: String,
    /// Clients with used-knock marks in the future, each with the local time of the last mark.
    pub ahead: Vec<(String, String)>,
    /// The interfaces of `xdp`.
    #[serde(default)]
    pub xdp: Vec<XdpStatus>,
    /// Packets that were dropped there. They are in `packets` too.
    #[serde(default)]
    pub xdp_dropped: u64,
    pub degraded: Vec<String>,
    pub break_glass: Vec<String>,
    pub services: usize,
    pub clients: usize,
    pub doors: usize,
    pub grants: usize,
    pub packets: PacketCounts,
    /// The services that have grants, and the clients that knocked last. Both are empty in the
    /// overview, which has them itself.
    pub open: Vec<ServiceGrants>,
    pub knocked: Vec<ClientActivity>,
}

/// What stands at an interface where junk is to be dropped before the network stack.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct XdpStatus {
    pub interface: String,
    /// `native`, `generic` or `none`.
    pub mode: String,
    /// The reason if there is none.
    pub why: Option<String>,
}

/// The answer to `overview`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct GatewayOverview {
    /// `ahead` is empty in it.
    pub status: GatewayStatus,
    /// All services, also those that have no grants.
    pub services: Vec<ServiceGrants>,
    /// The clients that knocked last, the last one first.
    pub clients: Vec<ClientActivity>,
    /// The last events, at most [`LAST_EVENTS`] of them, the last one at the end.
    pub events: Vec<NumberedEvent>,
    /// The gateway's local time: `14:03:20`.
    pub time: String,
}

/// What a client did since the gateway remembers it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct ClientActivity {
    pub client: String,
    /// Knocks that got what they asked for.
    pub answered: u64,
    pub refused: u64,
    /// How the last one ended: `granted`, or why not.
    pub last: String,
    /// The address that it came from.
    pub from: String,
    /// Its local time: `14:03:20`.
    pub at: String,
    pub seconds_ago: u64,
}

/// A trial of the guard: it stays only if somebody gets in from another machine in time.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum TrialState {
    /// There was none since the gateway started.
    None,
    Running {
        seconds_left: u64,
        /// The reason why the last grant has not confirmed it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        useless: Option<String>,
    },
    /// The guard stays, because of this grant: client, service, address.
    Confirmed { by: String },
    /// Nobody got in: the guard is off.
    Over,
}

/// The answer to `find-client`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum ClientSearch {
    Found([u8; 16]),
    /// Not among these. The next ones come after this id.
    AskAgain {
        after: [u8; 16],
    },
    Nobody,
}

/// The answer to `grants`: a page of them.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct GrantPage {
    /// All services that have grants.
    pub services: Vec<ServiceGrants>,
    pub lines: Vec<GrantLine>,
    /// The end of this page, to ask for the next; `None` after the last.
    pub next: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct ServiceGrants {
    pub service: String,
    pub grants: u32,
    pub max_grants: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct GrantLine {
    /// Its name, as `toctocd close` takes it: `alice/ssh@192.0.2.7`.
    pub grant: String,
    pub client: String,
    pub service: String,
    /// The granted source: `192.0.2.7`, `192.0.2.7 port 40000`, `2001:db8::/64`.
    pub address: String,
    pub ports: Vec<String>,
    /// `time` or `once`.
    pub form: String,
    /// Local time of its end, with date and zone: `2026-11-28T14:03:20+01:00`.
    pub until: String,
    /// The whole time of it.
    pub seconds: u64,
    pub seconds_left: u64,
}

/// The answer to `show-client`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct ClientState {
    /// The newest timestamp of its knocks, by its own clock; `None` if none is remembered.
    pub last_knock: Option<String>,
    /// Its live grants, the first of them.
    pub grants: Vec<GrantLine>,
    /// The number of its other grants.
    pub more: usize,
}

/// The answer to `close`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct CloseDone {
    /// The number of live grants that have ended.
    pub ended: usize,
    /// The number of grants that were over already, whose connections were to be cut.
    pub over: usize,
    /// The services whose connections were to be cut.
    pub cut: BTreeSet<String>,
    /// The services whose connections go on.
    pub go_on: BTreeSet<String>,
    /// False if the firewall refused a change, so that the guard is being repaired.
    pub is_shut: bool,
    /// False if connections could not be cut yet.
    pub is_cut: bool,
    /// False if the end of the grants could not be written down.
    pub is_stored: bool,
}

/// The answer to `events`: a page of the last ones.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct EventPage {
    /// The gateway's process.
    pub pid: u32,
    /// The number of all events of each kind, since the gateway started.
    pub counts: Vec<(String, u64)>,
    /// How many between the asked number and the first event are not kept any more.
    pub lost: u64,
    pub events: Vec<NumberedEvent>,
    /// The number to ask for the next page; `None` after the last.
    pub next: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct NumberedEvent {
    /// Counted from 1 by each process.
    pub number: u64,
    #[serde(flatten)]
    pub event: EventRecord,
}

/// Asks the running gateway for the events that it keeps, after the one with this number.
pub fn ask_events(settings: &Settings, mut after: u64) -> Result<EventPage, Fault> {
    let ask = |after| decode(request(settings, &ControlRequest::Events { after })?);
    let mut all: EventPage = ask(after)?;
    while let Some(next) = all.next.take() {
        after = next;
        let page: EventPage = ask(after)?;
        all.events.extend(page.events);
        all.next = page.next;
    }
    Ok(all)
}

/// Asks the running gateway how many events there were of each kind.
pub fn ask_event_counts(settings: &Settings) -> Result<Vec<(String, u64)>, Fault> {
    let after = u64::MAX;
    let page: EventPage = decode(request(settings, &ControlRequest::Events { after })?)?;
    Ok(page.counts)
}

/// Asks the running gateway for its overview.
pub fn ask_overview(settings: &Settings) -> Result<GatewayOverview, Fault> {
    decode(request(settings, &ControlRequest::Overview)?)
}

/// Asks the running gateway for its status.
pub fn ask_status(settings: &Settings) -> Result<GatewayStatus, Fault> {
    decode(request(settings, &ControlRequest::Status)?)
}

/// Asks the running gateway for a page of at most so many grants.
pub fn ask_grants(
    settings: &Settings, after: Option<String>, most: u16,
) -> Result<GrantPage, Fault> {
    let request = ControlRequest::Grants { after, most: Some(most) };
    decode(ask(&settings.gateway.control_socket, &request, GLANCE)?)
}

/// Asks the running gateway for the trial of its guard.
pub fn ask_trial(settings: &Settings) -> Result<TrialState, Fault> {
    decode(request(settings, &ControlRequest::Trial)?)
}

/// Asks the running gateway what a knock would get.
pub fn ask_foreseen(settings: &Settings, question: &Question) -> Result<Foreseen, Fault> {
    decode(request(settings, &ControlRequest::Explain(question.clone()))?)
}

/// `toctocd status`.
pub fn status(reach: &Reach) -> Result<CommandOutput, Fault> {
    let mut value = request(&reach.settings, &ControlRequest::Status)?;
    let mut text = status_text(&decode(value.clone())?);
    let waiting = joined::waiting(&reach.settings);
    text += &waiting_text(&waiting);
    value["waiting"] = waiting.into();
    if let Ok(settings) = reach.all()
        && let Some(problem) = printed_guard::problem(settings)
    {
        text += &format!("  warning     {problem}\n");
    }
    // It may have changed since the gateway started.
    for warning in own_firewall::warnings(&reach.settings) {
        text += &format!("  warning     {warning}\n");
    }
    Ok(CommandOutput { value: Some(value), ..CommandOutput::out(text) })
}

/// Asks the running gateway for the first page of its grants.
pub fn first_grants(settings: &Settings) -> Result<GrantPage, Fault> {
    decode(request(settings, &ControlRequest::Grants { after: None, most: None })?)
}

/// `toctocd grants`: the first page, or all of them.
pub fn grants(reach: &Reach, all: bool) -> Result<CommandOutput, Fault> {
    let ask = |after| -> Result<GrantPage, Fault> {
        decode(request(&reach.settings, &ControlRequest::Grants { after, most: None })?)
    };
    let mut page = first_grants(&reach.settings)?;
    while all && page.next.is_some() {
        let more = ask(page.next.take())?;
        page.lines.extend(more.lines);
        page.next = more.next;
    }
    let value = Some(serde_json::json!(page.lines));
    Ok(CommandOutput { value, ..CommandOutput::out(grants_text(&page)) })
}

/// Sends a command to the running gateway; its answer is the output.
/// Error: no gateway answers, or the gateway refuses: then it goes on as before.
pub fn command(settings: &Settings, command: &ControlRequest) -> Result<CommandOutput, Fault> {
    let value = request(settings, command)?;
    let answer = value["said"].as_str().unwrap_or("done");
    Ok(CommandOutput::out(format!("{answer}\n")))
}

/// Makes a running gateway reload after a change of its files; false if none is running.
/// Error: one is running and refuses.
pub fn reload_if_running(settings: &Settings) -> Result<bool, Fault> {
    if !is_running(&settings.gateway.control_socket) {
        return Ok(false);
    }
    request(settings, &ControlRequest::Reload)?;
    Ok(true)
}

/// The client of this name that can get grants from the running gateway.
pub fn find_client(settings: &Settings, name: &str) -> Result<Option<ClientId>, Fault> {
    let mut after = None;
    loop {
        let request = ControlRequest::FindClient { name: name.to_owned(), after };
        match decode(self::request(settings, &request)?)? {
            ClientSearch::Found(id) => return Ok(Some(ClientId(id))),
            ClientSearch::AskAgain { after: last } => after = Some(last),
            ClientSearch::Nobody => return Ok(None),
        }
    }
}

/// What the running gateway knows of a client.
pub fn client_state(settings: &Settings, client: ClientId) -> Result<ClientState, Fault> {
    decode(request(settings, &ControlRequest::ShowClient { id: client.0 })?)
}

/// Revokes a client at the running gateway, whatever the clients file says.
pub fn revoke(settings: &Settings, client: ClientId) -> Result<(), Fault> {
    request(settings, &ControlRequest::Revoke { id: client.0 }).map(drop)
}

/// Checks that the running gateway, if there is one, could switch to this configuration.
/// Error: it would refuse a reload; a restart helps.
pub fn can_follow(settings: &Settings) -> Result<(), Fault> {
    if is_running(&settings.gateway.control_socket) {
        let new = FixedSettings::of(settings);
        return request(settings, &ControlRequest::CanFollow(new)).map(drop);
    }
    match State::holder(&settings.gateway.state_dir) {
        None => Ok(()),
        Some(pid) => Err(Fault::new(
            format!(
                "{pid} uses this `state_dir` and does not answer at this `control_socket`, which cannot \
                 change while toctocd runs"
            ),
            "restart toctocd, or put the old value back",
        )),
    }
}

/// True if a process listens on the control socket at `path`.
pub fn is_running(path: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(path).is_ok()
}

pub(super) fn request(
    settings: &Settings, request: &ControlRequest,
) -> Result<serde_json::Value, Fault> {
    ask(&settings.gateway.control_socket, request, PATIENCE)
}

pub(super) fn decode<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, Fault> {
    serde_json::from_value(value).map_err(|_| {
        Fault::new(
            "the running gateway is of another version: its answer cannot be read",
            "use the toctocd that is running, or restart it",
        )
    })
}

fn status_text(status: &GatewayStatus) -> String {
    let mut text = format!(
        "toctocd {} (pid {}) since {}\n  listening   udp/{} on {}\n  guard       {}\n  \
         state       {}\n  clock       {}\n  serves      {}, {}, {}\n  open now    {}\n",
        status.version,
        status.pid,
        status.since,
        status.knock_port,
        interfaces_text(&status.interfaces),
        guard_text(status),
        status.state,
        status.clock,
        count(status.services, "service"),
        count(status.clients, "client"),
        count(status.doors, "door"),
        count(status.grants, "grant"),
    );
    if !status.open.is_empty() {
        text.pop();
        text += &format!(": {}\n", services_text(&status.open));
    }
    if !status.xdp.is_empty() {
        let text_of = |one: &XdpStatus| format!("{} ({})", one.interface, one.mode);
        let all: Vec<String> = status.xdp.iter().map(text_of).collect();
        text += &format!("  XDP         {}\n", all.join(", "));
    }
    text += &packets::text(&status.packets);
    if status.xdp_dropped > 0 {
        let dropped = status.xdp_dropped;
        text += &format!("              {dropped} of them by XDP: tcpdump does not see those\n");
    }
    text += &knocked_text(&status.knocked);
    if !status.break_glass.is_empty() {
        text += &format!("  ALWAYS OPEN to {}\n", status.break_glass.join(", "));
    }
    for (client, until) in status.ahead.iter().take(SHOWN) {
        text += &format!(
            "  ahead       {client}: its clock was ahead, so some of its knocks need a challenge until {until};\n              \
             harmless; `toctocd client forgive {client}` gives it a new start\n"
        );
    }
    if status.ahead.len() > SHOWN {
        text +=
            &format!("              and {}\n", count(status.ahead.len() - SHOWN, "more client"));
    }
    for line in &status.degraded {
        text += &format!("  degraded    {line}\n");
    }
    text
}

/// `ssh 2 of 4096; rdp 1 of 16`.
fn services_text(services: &[ServiceGrants]) -> String {
    let mut parts = Vec::new();
    for ServiceGrants { service, grants, max_grants } in services {
        parts.push(format!("{service} {grants} of {max_grants}"));
    }
    parts.join("; ")
}

/// The clients that knocked last.
fn knocked_text(clients: &[ClientActivity]) -> String {
    let mut text = String::new();
    for one in clients.iter().take(SHOWN) {
        let label = if text.is_empty() { "knocks" } else { "" };
        let ClientActivity { client, answered, refused, last, from, at, .. } = one;
        text += &format!(
            "  {label:10}  {client}: {answered} answered, {refused} refused; the last at {at} from \
             {from}: {last}\n"
        );
    }
    if clients.len() > SHOWN {
        text += &format!("              and {}\n", count(clients.len() - SHOWN, "more client"));
    }
    text
}

/// Keys that wait for an admin's approval.
fn waiting_text(names: &[String]) -> String {
    let mut text = String::new();
    for name in names.iter().take(SHOWN) {
        text +=
            &format!("  waiting     a key asks to join as {name}: toctocd client approve {name}\n");
    }
    if names.len() > SHOWN {
        text += &format!("              and {}\n", count(names.len() - SHOWN, "more key"));
    }
    text
}

pub fn interfaces_text(interfaces: &[String]) -> String {
    match interfaces {
        [] => "no interface".to_owned(),
        [any] if any == "any" => "every interface".to_owned(),
        _ => interfaces.join(", "),
    }
}

pub fn guard_text(status: &GatewayStatus) -> String {
    match (status.guard_off, status.guard, &status.trial) {
        (true, _, TrialState::Over) | (false, true, _) => loaded_guard_text(&status.trial),
        (true, ..) => {
            "OFF by command: what it guards is OPEN; `toctocd guard on` turns it on".to_owned()
        }
        (false, false, _) => "NOT AS LOADED: see the log".to_owned(),
    }
}

/// A guard whose rules are as they were loaded.
pub fn loaded_guard_text(trial: &TrialState) -> String {
    match trial {
        TrialState::Running { seconds_left, .. } => {
            format!("up, ON TRIAL for {seconds_left} s: a knock from another machine keeps it")
        }
        TrialState::Over => "OFF: nobody got in during its trial; what it guards is OPEN; \
                             `toctocd guard on` turns it on"
            .to_owned(),
        TrialState::None | TrialState::Confirmed { .. } => "up".to_owned(),
    }
}

fn grants_text(GrantPage { services, lines, next }: &GrantPage) -> String {
    if lines.is_empty() {
        return "nothing is open\n".to_owned();
    }
    let total: u32 = services.iter().map(|service| service.grants).sum();
    let mut text = format!("{}: {}\n", count(total as usize, "grant"), services_text(services));
    let grant = width("GRANT", lines.iter().map(|line| &line.grant));
    text += &format!("{:grant$}  FORM  LEFT    UNTIL     PORTS\n", "GRANT");
    for line in lines {
        let ports = match line.ports.is_empty() {
            true => "by commands".to_owned(),
            false => line.ports.join(" "),
        };
        text += &format!(
            "{:grant$}  {:4}  {:>4} s  {}  {ports}\n",
            line.grant,
            line.form,
            line.seconds_left,
            time_of_day(&line.until),
        );
    }
    if next.is_some() {
        text += &format!("the first {}; all of them: toctocd grants --all\n", lines.len());
    }
    text
}

pub fn time_of_day(moment: &str) -> &str {
    let Some((_, time)) = moment.split_once('T') else { return moment };
    time.get(..8).unwrap_or(moment)
}

fn width<'a>(title: &str, cells: impl Iterator<Item = &'a String>) -> usize {
    cells.map(String::len).max().unwrap_or(0).max(title.len())
}

#[cfg(test)]
pub(super) mod tests;
