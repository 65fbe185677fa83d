//! `toctocd status`, `grants`, `reload`: what an admin asks of a running gateway, and how it is
//! said. What the gateway does is left to `gatekeeper`, files of keys and clients to `provision`.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Settings;
use crate::core::types::Fault;
use crate::edge::control::{ControlRequest, ask};

/// How long a command waits for the gateway. A reload starts a whole listener, so it is not short.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many clients with marks in the future are named.
const SHOWN: usize = 10;

/// The answer to `status`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct GatewayStatus {
    /// Version of the running program.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Local time at which it started.
    pub since: String,
    /// UDP port of the sealed knock.
    pub knock_port: u16,
    /// Interfaces that are listened to.
    pub interfaces: Vec<String>,
    /// Whether our guard stands in the kernel as we loaded it.
    pub guard: bool,
    /// Whether an admin has taken the guard away.
    pub guard_off: bool,
    /// Grants to sealed knocks from other machines since the start.
    pub granted: u64,
    /// The last of them: who, what, from where; empty if there was none.
    pub last_granted: String,
    /// `intact`, or what happened to the state.
    pub state: String,
    /// `sure`, or why every knock needs a challenge.
    pub clock: String,
    /// Clients with marks in the future, and the local time up to which those reach.
    pub ahead: Vec<(String, String)>,
    /// What this machine cannot do for us, one sentence each.
    pub degraded: Vec<String>,
    /// Addresses that always pass the guard.
    pub break_glass: Vec<String>,
    /// Configured services.
    pub services: usize,
    /// Enrolled clients.
    pub clients: usize,
    /// Classic doors.
    pub doors: usize,
    /// Live grants.
    pub grants: usize,
    /// Packets that passed the kernel filter.
    pub packets: u64,
    /// Packets that came to nothing, by reason; reasons never met are left out.
    pub rejected: Vec<(String, u64)>,
}

/// One line of the answer to `grants`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct GrantLine {
    /// The client's name.
    pub client: String,
    /// The service's name.
    pub service: String,
    /// Who may connect: `192.0.2.7`, `192.0.2.7 port 40000`, `2001:db8::/64`.
    pub address: String,
    /// To which ports, as `22/tcp`.
    pub ports: Vec<String>,
    /// `time` or `once`.
    pub form: String,
    /// Local time of its end.
    pub until: String,
    /// Seconds until then.
    pub seconds_left: u64,
}

/// What the gateway says of itself.
///
/// # Errors
/// If none answers.
pub fn ask_status(settings: &Settings) -> Result<GatewayStatus, Fault> {
    let value = ask(&settings.gateway.control_socket, &ControlRequest::Status, PATIENCE)?;
    serde_json::from_value(value).map_err(|_| other_version())
}

/// Prints what the gateway says of itself.
///
/// # Errors
/// If none answers.
pub fn status(settings: &Settings, json: bool) -> Result<(), Fault> {
    let value = ask(&settings.gateway.control_socket, &ControlRequest::Status, PATIENCE)?;
    if json {
        print(&format!("{value:#}\n"));
        return Ok(());
    }
    let status: GatewayStatus = serde_json::from_value(value).map_err(|_| other_version())?;
    let stale = super::guard::stale(settings).map(|stale| format!("  warning     {stale}\n"));
    print(&(status_text(&status) + &stale.unwrap_or_default()));
    Ok(())
}

/// Prints what is open now.
///
/// # Errors
/// If no gateway answers.
pub fn grants(settings: &Settings, json: bool) -> Result<(), Fault> {
    let value = ask(&settings.gateway.control_socket, &ControlRequest::Grants, PATIENCE)?;
    if json {
        print(&format!("{value:#}\n"));
        return Ok(());
    }
    let lines: Vec<GrantLine> = serde_json::from_value(value).map_err(|_| other_version())?;
    print(&grants_text(&lines));
    Ok(())
}

/// Makes the running gateway read its configuration again.
///
/// # Errors
/// If none answers, or it refuses: then it goes on with what it had.
pub fn reload(settings: &Settings) -> Result<(), Fault> {
    tell(settings, &ControlRequest::Reload)
}

/// Makes the running gateway accept a loss of marks.
///
/// # Errors
/// If none answers, or the acceptance cannot be made durable.
pub fn reinitialise(settings: &Settings) -> Result<(), Fault> {
    tell(settings, &ControlRequest::Reinitialise)
}

/// Has the running gateway do something, and prints what it says.
///
/// # Errors
/// If none answers, or it could not be done.
pub fn tell(settings: &Settings, command: &ControlRequest) -> Result<(), Fault> {
    let value = ask(&settings.gateway.control_socket, command, PATIENCE)?;
    let said = value.get("said").and_then(serde_json::Value::as_str).unwrap_or("done");
    print(&format!("{said}\n"));
    Ok(())
}

/// Makes a running gateway reload after a change of its files; false if none runs.
///
/// # Errors
/// If one runs and refuses.
pub fn tell_reload(settings: &Settings) -> Result<bool, Fault> {
    if !runs(&settings.gateway.control_socket) {
        return Ok(false);
    }
    ask(&settings.gateway.control_socket, &ControlRequest::Reload, PATIENCE).map(|_| true)
}

/// Whether somebody listens on the control socket.
pub fn runs(path: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(path).is_ok()
}

fn other_version() -> Fault {
    Fault::new(
        "the gateway's answer is of another version",
        "use the toctocd that is running, or restart it",
    )
}

/// To standard output.
pub fn print(text: &str) {
    use std::io::Write;
    // A closed pipe (`| head`) is the reader's wish, not a fault.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn status_text(status: &GatewayStatus) -> String {
    let mut text = format!(
        "toctocd {} (pid {}) since {}\n  listening   udp/{} on {}\n  guard       {}\n  state       {}\n  clock       {}\n",
        status.version,
        status.pid,
        status.since,
        status.knock_port,
        status.interfaces.join(", "),
        guard_words(status),
        status.state,
        status.clock,
    );
    text += &format!(
        "  serves      {}, {}, {}\n  open now    {}\n  packets     {} passed the kernel filter\n",
        count(status.services, "service"),
        count(status.clients, "client"),
        count(status.doors, "door"),
        count(status.grants, "grant"),
        status.packets,
    );
    for (reason, number) in &status.rejected {
        text += &format!("              {number} {reason}\n");
    }
    if !status.break_glass.is_empty() {
        text += &format!("  ALWAYS OPEN to {}\n", status.break_glass.join(", "));
    }
    for (client, until) in status.ahead.iter().take(SHOWN) {
        text += &format!(
            "  ahead       {client}: a clock was ahead, so its knocks need a challenge now and then until {until};\n              \
             harmless; `toctocd client forgive {client}` gives it a clean start\n"
        );
    }
    if let Some(more @ 1..) = status.ahead.len().checked_sub(SHOWN) {
        text += &format!("              and {}\n", count(more, "more client"));
    }
    for line in &status.degraded {
        text += &format!("  degraded    {line}\n");
    }
    text
}

/// How the guard is.
pub fn guard_words(status: &GatewayStatus) -> &'static str {
    match (status.guard_off, status.guard) {
        (true, _) => "OFF by command: what it guards is OPEN; `toctocd guard on` puts it up",
        (false, true) => "up",
        (false, false) => "NOT AS LOADED: see the log",
    }
}

fn grants_text(lines: &[GrantLine]) -> String {
    if lines.is_empty() {
        return "nothing is open\n".to_owned();
    }
    let width = |of: fn(&GrantLine) -> &str, title: &str| {
        lines.iter().map(|l| of(l).len()).max().unwrap_or(0).max(title.len())
    };
    let (client, service) = (width(|l| &l.client, "CLIENT"), width(|l| &l.service, "SERVICE"));
    let address = width(|l| &l.address, "ADDRESS");
    let mut text = format!(
        "{:client$}  {:service$}  {:address$}  FORM  LEFT    UNTIL     PORTS\n",
        "CLIENT", "SERVICE", "ADDRESS"
    );
    for line in lines {
        text += &format!(
            "{:client$}  {:service$}  {:address$}  {:4}  {:>4} s  {}  {}\n",
            line.client,
            line.service,
            line.address,
            line.form,
            line.seconds_left,
            line.until,
            if line.ports.is_empty() { "by commands".to_owned() } else { line.ports.join(" ") },
        );
    }
    text
}

/// `1 grant`, `2 grants`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_open_is_said_in_words() {
        assert_eq!(grants_text(&[]), "nothing is open\n");
    }

    #[test]
    fn grants_stand_in_columns() {
        let line = GrantLine {
            client: "anna".into(),
            service: "ssh".into(),
            address: "2001:db8::7".into(),
            ports: vec!["22/tcp".into()],
            form: "once".into(),
            until: "14:03:20".into(),
            seconds_left: 28,
        };
        let text = grants_text(&[line]);
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows[0], "CLIENT  SERVICE  ADDRESS      FORM  LEFT    UNTIL     PORTS");
        assert_eq!(rows[1], "anna    ssh      2001:db8::7  once    28 s  14:03:20  22/tcp");
    }
}
