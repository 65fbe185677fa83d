//! `toctocd client list`: the enrolled clients, and who is invited.

use std::path::Path;

use jiff::Timestamp;

use crate::app::joined::{self, ClientFiles};
use crate::app::load;
use crate::app::output::CommandOutput;
use crate::config::Settings;
use crate::core::hours::Hours;
use crate::core::joining::{Invited, JoinRule, Standing};
use crate::core::limits::{Limits, NO_LIMITS};
use crate::core::prefix::Prefix;
use crate::core::service::Client;
use crate::core::types::{ClientId, Fault, SECOND, ServiceName, Wall};
use crate::edge::clock;
use crate::keys::authorized::{
    self,
    limits::{self, any_zone},
};
use crate::keys::public::show_fingerprint;

/// One line of the list.
pub(super) struct ListedClient {
    pub(super) name: String,
    pub(super) services: Vec<ServiceName>,
    /// `None` for an invitation that nobody has used.
    key: Option<String>,
    pub(super) id: Option<ClientId>,
    expires: Option<u64>,
    limits: Limits,
    standing: ListedStanding,
}

enum ListedStanding {
    Enrolled,
    /// It waits for approval until then.
    Pending(u64),
    /// It can be used until then.
    Invited(u64),
}

/// `toctocd client list`, also if the rest of the configuration is broken.
pub fn list(config: &Path) -> Result<CommandOutput, Fault> {
    let reach = load::reach(config);
    let listed = listed(&reach.settings)?;
    let now = clock::now().wall;
    let value = Some(as_json(&listed, now));
    reach.note(Ok(CommandOutput { value, ..CommandOutput::out(as_table(&listed, now)) }))
}

/// Who is enrolled or invited, in the order of the files.
pub(super) fn listed(settings: &Settings) -> Result<Vec<ListedClient>, Fault> {
    let files = ClientFiles::of(settings);
    let text = load::clients_text(&files.clients)?;
    let clients = authorized::parse(&files.clients.display().to_string(), &text, &any_zone)?;
    let mut listed: Vec<ListedClient> = clients.iter().map(ListedClient::client).collect();
    listed.extend(joined::read(&files.joined)?.iter().map(ListedClient::invited));
    Ok(listed)
}

impl ListedClient {
    fn client(client: &Client) -> Self {
        Self {
            name: client.name.to_string(),
            services: client.services.to_vec(),
            key: Some(show_fingerprint(&client.fingerprint())),
            id: Some(client.id),
            expires: client.expires,
            limits: client.limits().clone(),
            standing: ListedStanding::Enrolled,
        }
    }

    fn invited(row: &Invited) -> Self {
        let until = row.invitation.map_or(0, |invitation| invitation.until);
        let mut listed = Self {
            name: row.terms.name.clone(),
            services: row.terms.services.to_vec(),
            key: row.key().map(|key| show_fingerprint(&key.fingerprint())),
            id: None,
            expires: row.terms.expires,
            limits: row.terms.limits.as_deref().unwrap_or(&NO_LIMITS).clone(),
            standing: ListedStanding::Invited(until),
        };
        match &row.standing {
            Standing::Open(JoinRule::Only(only)) => listed.key = Some(show_fingerprint(only)),
            Standing::Open(_) => {}
            Standing::Pending(_) => listed.standing = ListedStanding::Pending(until),
            Standing::Joined(id, _) => {
                listed.id = Some(*id);
                listed.standing = ListedStanding::Enrolled;
            }
        }
        listed
    }

    pub(super) fn expiry_text(&self, now: Wall) -> String {
        match self.expires.and_then(moment) {
            _ if self.limits.disabled => "DISABLED".to_owned(),
            Some(text) if self.is_expired(now) => format!("EXPIRED {text}"),
            Some(text) => text,
            None => "never".to_owned(),
        }
    }

    fn is_expired(&self, now: Wall) -> bool {
        self.expires.is_some_and(|expires| expires <= now.0 / SECOND)
    }

    /// Its limits, each as on its line.
    pub(super) fn limit_texts(&self) -> Vec<String> {
        limits::print(&self.limits)
    }

    /// Its last column.
    pub(super) fn key_text(&self) -> String {
        let key = self.key.as_deref();
        match self.standing {
            ListedStanding::Enrolled => key.unwrap_or_default().to_owned(),
            ListedStanding::Pending(_) => format!("{} WAITS", key.unwrap_or_default()),
            ListedStanding::Invited(until) => {
                let until = moment(until).unwrap_or_default();
                format!("{} invited until {until}", key.unwrap_or("any key,"))
            }
        }
    }
}

pub(super) fn as_json(clients: &[ListedClient], now: Wall) -> serde_json::Value {
    let mut objects = Vec::new();
    for client in clients {
        let services: Vec<&str> = client.services.iter().map(ServiceName::as_str).collect();
        let from: Vec<String> = client.limits.from.iter().map(Prefix::short).collect();
        let (standing, until) = match client.standing {
            ListedStanding::Enrolled => ("enrolled", None),
            ListedStanding::Pending(until) => ("pending", Some(until)),
            ListedStanding::Invited(until) => ("invited", Some(until)),
        };
        objects.push(serde_json::json!({
            "name": client.name,
            "id": client.id.map(|id| id.to_string()),
            "services": services,
            "key": client.key,
            "expires": client.expires.and_then(moment),
            "expired": client.is_expired(now),
            "disabled": client.limits.disabled,
            "max_seconds": client.limits.max_seconds,
            "max_grants": client.limits.max_grants,
            "not_before": client.limits.not_before.and_then(moment),
            "hours": client.limits.hours.as_ref().map(Hours::text),
            "from": from,
            "standing": standing,
            "until": until.and_then(moment),
        }));
    }
    serde_json::Value::from(objects)
}

fn as_table(clients: &[ListedClient], now: Wall) -> String {
    if clients.is_empty() {
        return "no client is enrolled\n".to_owned();
    }
    let mut rows = vec![["NAME", "SERVICES", "EXPIRES", "KEY"].map(str::to_owned)];
    for client in clients {
        let services: Vec<&str> = client.services.iter().map(ServiceName::as_str).collect();
        rows.push([
            client.name.clone(),
            services.join(","),
            client.expiry_text(now),
            client.key_text(),
        ]);
    }
    let mut widths = [0; 4];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let [name, services, expires, _] = widths;
    let mut text = String::new();
    for [a, b, c, d] in rows {
        text += &format!("{a:name$}  {b:services$}  {c:expires$}  {d}\n");
    }
    for client in clients.iter().filter(|client| client.limits != NO_LIMITS) {
        text += &format!("{}: {}\n", client.name, client.limit_texts().join(", "));
    }
    for client in clients {
        if let ListedStanding::Pending(_) = client.standing {
            let name = &client.name;
            text += &format!("to let `{name}` in: toctocd client approve {name}\n");
        }
    }
    text
}

/// A moment as text; `None` if it is beyond the calendar.
pub(super) fn moment(seconds: u64) -> Option<String> {
    Some(Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?.to_string())
}
