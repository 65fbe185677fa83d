//! fwknop's .fwknoprc -> for each of its stanzas the commands of `toctoc` that do the same, and what
//! could not be carried over. No key is: the gateway's admin sends an invitation.

use std::net::Ipv4Addr;

use super::super::services::service_names;
use super::fields::{ports, seconds};
use super::reader::{Place, Setting, is_yes, lines};
use crate::core::diagnostic::printable;
use crate::core::types::PortRange;

/// The stanza whose settings count for all others.
const DEFAULT: &str = "default";

/// What becomes of one stanza.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientStanza {
    pub name: String,
    /// The gateway, if the stanza names one.
    pub server: Option<String>,
    /// Names of the services that its ports usually have.
    pub services: Vec<String>,
    /// One command for each service.
    pub commands: Vec<String>,
}

/// A .fwknoprc, converted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ConvertedClient {
    pub stanzas: Vec<ClientStanza>,
    /// What has no equivalent, and why, each with its place.
    pub left_out: Vec<String>,
    /// What is different, alike.
    pub notes: Vec<String>,
}

/// Converts the text of the file `path`.
pub fn convert(path: &str, text: &str) -> ConvertedClient {
    let mut converted = ConvertedClient::default();
    let stanzas = converted.read(path, text);
    let common = stanzas.iter().find(|stanza| stanza.name.eq_ignore_ascii_case(DEFAULT));
    for stanza in &stanzas {
        let is_default = stanza.name.eq_ignore_ascii_case(DEFAULT);
        if !is_default {
            converted.stanza(stanza, common.map_or(&[], |common| &common.settings));
        }
        for setting in &stanza.settings {
            converted.remark(setting);
        }
    }
    converted
}

struct RcStanza {
    name: String,
    settings: Vec<Setting>,
}

impl RcStanza {
    /// The last setting of this key, or that of the default stanza.
    fn get<'a>(&'a self, key: &str, common: &'a [Setting]) -> Option<&'a Setting> {
        let all = common.iter().chain(&self.settings);
        all.rev().find(|setting| setting.key == key)
    }
}

impl ConvertedClient {
    /// The stanzas of the file. What comes before the first one counts for nothing.
    fn read(&mut self, path: &str, text: &str) -> Vec<RcStanza> {
        let mut stanzas: Vec<RcStanza> = Vec::new();
        // A header may be the only word of its line.
        let padded: Vec<String> = text.split('\n').map(header).collect();
        for line in lines(path, &padded.join("\n")) {
            let mut setting = match line {
                Ok(setting) => setting,
                Err(mistake) => {
                    self.left_out.push(format!("{mistake}: fwknop refuses the file"));
                    continue;
                }
            };
            if setting.key == HEADER {
                stanzas.push(RcStanza { name: setting.value, settings: Vec::new() });
            } else if let Some(stanza) = stanzas.last_mut() {
                // Other than in the server's files, a value is one word, and # ends it.
                let end = setting.value.find([' ', '\t', '#']).unwrap_or(setting.value.len());
                setting.value.truncate(end);
                stanza.settings.push(setting);
            }
        }
        stanzas
    }

    fn stanza(&mut self, stanza: &RcStanza, common: &[Setting]) {
        let get = |key: &str| stanza.get(key, common);
        let mut options = String::new();
        if let Some(Setting { value, place, key }) = get("FW_TIMEOUT") {
            match seconds(value, 0) {
                Some(0) => {}
                Some(seconds) if seconds <= super::LONGEST_ASKED => {
                    options += &format!(" --seconds {seconds}s");
                }
                _ => self.left_out.push(format!("{place}: {key}: its value is refused")),
            }
        }
        match get("ALLOW_IP").map(|setting| (setting, setting.value.as_str())) {
            None => {}
            Some((_, word)) if word.eq_ignore_ascii_case("source") => {}
            Some((_, word)) if word.eq_ignore_ascii_case("resolve") => options += " --ask-source",
            Some((setting, text)) => match text.parse::<Ipv4Addr>() {
                Ok(ip) => options += &format!(" --source {ip}"),
                Err(_) => {
                    let Setting { place, key, .. } = setting;
                    self.left_out.push(format!("{place}: {key}: its value is refused"));
                }
            },
        }
        let mut services = Vec::new();
        match get("ACCESS") {
            Some(setting) => match ports(&setting.value) {
                Some(listed) => {
                    for (proto, first) in listed {
                        let range = PortRange { proto, first, last: first };
                        let name = service_names(&[range]).first().map(ToString::to_string);
                        services.extend(name);
                    }
                }
                None => {
                    let Setting { place, key, .. } = setting;
                    self.left_out.push(format!("{place}: {key}: its value is refused"));
                }
            },
            None => {
                let what = "it names no ports: the service of its commands is a guess";
                self.notes.push(format!("[{}]: {what}", printable(&stanza.name)));
                services.push("ssh".to_owned());
            }
        }
        services.dedup();
        // Profiles have the gateway's name, which may have fewer characters.
        let profile = profile_name(&stanza.name);
        let commands = services.iter().map(|name| format!("toctoc open {profile} {name}{options}"));
        self.stanzas.push(ClientStanza {
            name: printable(&stanza.name).to_string(),
            server: get("SPA_SERVER").map(|setting| printable(&setting.value).to_string()),
            commands: commands.collect(),
            services,
        });
    }

    /// What a setting becomes, unless a command says it.
    fn remark(&mut self, Setting { key, value, place }: &Setting) {
        let mut note = |what: &str| self.notes.push(format!("{place}: {}: {what}", printable(key)));
        match key.as_str() {
            "SPA_SERVER" | "ACCESS" | "ALLOW_IP" | "FW_TIMEOUT" | "VERBOSE" | "NO_SAVE_ARGS"
            | "DIGEST_TYPE" | "HMAC_DIGEST_TYPE" | "ENCRYPTION_MODE" | "USE_HMAC" => {}
            key if key.contains("KEY") || key.contains("GPG") => {
                note("no key is carried over: `toctoc join` makes or takes an SSH key");
            }
            "SPA_SERVER_PORT" | "RAND_PORT" => note("the invitation has the gateway's port"),
            "SPA_SERVER_PROTO" if !value.eq_ignore_ascii_case("udp") => {
                self.leave_out(place, key, "knocks go by UDP only");
            }
            "SPA_SERVER_PROTO" => {}
            "SPA_SOURCE_PORT" => note("each knock has a port of its own"),
            "NAT_ACCESS" | "NAT_LOCAL" | "NAT_PORT" | "NAT_RAND_PORT"
                if !value.eq_ignore_ascii_case("n") =>
            {
                let what = "a client does not choose where a port leads: the gateway's admin makes \
                            a service with `forward`";
                self.leave_out(place, key, what);
            }
            "SPOOF_USER" | "SPOOF_SOURCE_IP" => {
                self.leave_out(
                    place,
                    key,
                    "a knock is signed by its key, and comes from its address",
                );
            }
            "TIME_OFFSET" => note("a client with a wrong clock asks the gateway for the time"),
            key if key.starts_with("RESOLVE_")
                || key == "WGET_CMD"
                || key.contains("USER_AGENT") =>
            {
                note("no web site is asked for the own address: the gateway is (--ask-source)");
            }
            _ if is_yes(value) || value.eq_ignore_ascii_case("n") => {
                note("toctoc does not need it");
            }
            _ => note("fwknop does not know it, or it has no use here"),
        }
    }

    fn leave_out(&mut self, place: &Place, key: &str, what: &str) {
        self.left_out.push(format!("{place}: {}: {what}", printable(key)));
    }
}

/// Stands for `[` in front of a stanza's name.
const HEADER: &str = "[";

/// A header as a line of key and value.
fn header(line: &str) -> String {
    let Some(rest) = line.trim_start().strip_prefix('[') else { return line.to_owned() };
    match rest.split_once(']') {
        Some((name, _)) if !name.trim().is_empty() => format!("{HEADER} {name}"),
        _ => line.to_owned(),
    }
}

/// A name that a profile can have.
fn profile_name(name: &str) -> String {
    let mut plain = String::new();
    for c in name.to_lowercase().chars() {
        plain.push(if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' });
    }
    plain.truncate(32);
    plain.trim_start_matches('-').to_owned()
}
