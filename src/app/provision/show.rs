//! `toctocd client show`: one client, as its line has it, and as the running gateway knows it.

use std::path::Path;

use serde_json::Value;

use super::list::{self, ListedClient};
use crate::app::admin::{self, ClientState};
use crate::app::load;
use crate::app::output::{CommandOutput, count};
use crate::config::Settings;
use crate::core::diagnostic::{nearest, printable};
use crate::core::types::{ClientId, Fault, FaultKind, Wall};
use crate::edge::clock;

/// Shows the client called `name`, also if the rest of the configuration is broken.
///
/// # Errors
/// No client has that name, or the files of clients cannot be read.
pub fn show(config: &Path, name: &str) -> Result<CommandOutput, Fault> {
    let reach = load::reach(config);
    reach.note(show_from(&reach.settings, name, clock::now().wall))
}

fn show_from(settings: &Settings, name: &str, now: Wall) -> Result<CommandOutput, Fault> {
    let all = list::listed(settings)?;
    let Some(client) = all.iter().find(|client| client.name == name) else {
        let remedy = match nearest(name, all.iter().map(|client| client.name.as_str())) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "`toctocd client list` shows them".to_owned(),
        };
        let what = format!("no client is called `{}`", printable(name));
        return Err(Fault::new(what, remedy).of(FaultKind::Name));
    };
    // Without a gateway there is still its line.
    let state = client.id.and_then(|id| state(settings, id));
    let mut value = list::as_json(std::slice::from_ref(client), now)[0].take();
    value["last_knock"] = Value::from(state.as_ref().and_then(|state| state.last_knock.clone()));
    value["open"] = match &state {
        Some(state) => serde_json::json!(state.grants),
        None => Value::Null,
    };
    let text = text(client, state.as_ref(), now);
    Ok(CommandOutput { value: Some(value), ..CommandOutput::out(text) })
}

/// What the running gateway knows of a client; `None` if no gateway answers.
fn state(settings: &Settings, id: ClientId) -> Option<ClientState> {
    if admin::is_running(&settings.gateway.control_socket) {
        admin::client_state(settings, id).ok()
    } else {
        None
    }
}

fn text(client: &ListedClient, state: Option<&ClientState>, now: Wall) -> String {
    let services = client.services.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut text = format!("{}\n", client.name);
    let mut row = |title: &str, value: &str| text += &format!("  {title:10}  {value}\n");
    row("key", &client.key_text());
    row("services", &services);
    row("expires", &client.expiry_text(now));
    for limit in client.limit_texts() {
        row("option", &limit);
    }
    if client.id.is_none() {
        return text;
    }
    let Some(state) = state else {
        row("last knock", "unknown: no gateway is running here");
        return text;
    };
    row("last knock", state.last_knock.as_deref().unwrap_or("none that this gateway remembers"));
    if state.grants.is_empty() {
        row("open", "nothing");
    }
    for grant in &state.grants {
        row("open", &format!("{}, {} s left", grant.grant, grant.seconds_left));
    }
    if state.more > 0 {
        row("", &format!("and {}: toctocd grants --all", count(state.more, "more grant")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::admin::tests::{RunningGateway, grant_line};

    const CLIENTS: &str = "id=000102030405060708090a0b0c0d0e0f,services=\"ssh,web\",\
        hours=\"daily 08:00-18:00 UTC\" ssh-ed25519 \
        AAAAC3NzaC1lZDI1NTE5AAAAINJEc5/Kk72OD9mSpuJPkOAykjcMzrpepBsHGTKjdCkm anna\n";

    #[test]
    fn a_client_is_shown_with_its_line_its_last_knock_and_what_it_has_open() {
        let state = ClientState {
            last_knock: Some("2027-03-01T09:14:27+00:00".to_owned()),
            grants: vec![grant_line()],
            more: 3,
        };
        let gateway = RunningGateway::ok(serde_json::to_value(&state).unwrap());
        let mut settings = gateway.settings();
        let folder = tempfile::tempdir().unwrap();
        settings.gateway.clients_file = folder.path().join("clients");
        settings.gateway.state_dir = folder.path().join("state");
        std::fs::write(&settings.gateway.clients_file, CLIENTS).unwrap();
        let shown = show_from(&settings, "anna", Wall(0)).unwrap();
        for line in [
            "anna\n  key         SHA256:",
            "  services    ssh, web\n  expires     never\n",
            "  option      hours=\"daily 08:00-18:00 UTC\"\n",
            "  last knock  2027-03-01T09:14:27+00:00\n",
            "  open        anna/ssh@2001:db8::7, 28 s left\n",
            "              and 3 more grants: toctocd grants --all\n",
        ] {
            assert!(shown.out.contains(line), "{line}: {}", *shown.out);
        }
        let value = shown.value.unwrap();
        assert_eq!((&value["name"], &value["open"][0]["service"]), (&"anna".into(), &"ssh".into()));
        let fault = show_from(&settings, "ana", Wall(0)).err().unwrap();
        assert_eq!((fault.kind, &*fault.remedy), (FaultKind::Name, "did you mean `anna`?"));
        settings.gateway.control_socket = folder.path().join("no-socket");
        let shown = show_from(&settings, "anna", Wall(0)).unwrap();
        assert!(shown.out.contains("unknown: no gateway is running"), "{}", *shown.out);
    }
}
