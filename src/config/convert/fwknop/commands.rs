//! CMD_CYCLE_OPEN and CMD_CYCLE_CLOSE -> command services.

use super::super::services::FULL;
use super::fields::ports;
use super::reader::Setting;
use super::{Migration, Rights};
use crate::config::{Service, ServicePorts, defaults};
use crate::core::service::ServiceCommands;
use crate::core::types::{Proto, ServiceName};

/// fwknopd's words for values of a knock. It takes the first that fits.
const WORDS: [&str; 8] =
    ["IP", "SRC", "PKT_SRC", "DST", "PORT", "PROTO", "TIMEOUT", "CLIENT_TIMEOUT"];
/// Does nothing, for a service that nothing closes.
const NOTHING: &str = "/bin/true";

impl Migration<'_> {
    /// Makes a service of a stanza's commands: one for each of its ports if they name the port.
    pub(super) fn command_services(&mut self, rights: &mut Rights<'_>, open: &Setting) {
        let stanza = rights.stanza;
        let Some(close) = stanza.get("CMD_CYCLE_CLOSE") else { return };
        let names_port = [open, close]
            .iter()
            .any(|line| ["$PORT", "$PROTO"].iter().any(|word| line.value.contains(word)));
        let mut listed = vec![None];
        if names_port {
            let Some(setting) = stanza.get("OPEN_PORTS") else {
                let what = "its client named the port, and there is no OPEN_PORTS with all of them";
                return self.leave_out(format!("{}: CMD_CYCLE_OPEN: {what}", open.place));
            };
            listed = ports(&setting.value).unwrap_or_default().into_iter().map(Some).collect();
        } else if let Some(setting) = stanza.get("OPEN_PORTS") {
            self.note(&setting.place, "OPEN_PORTS", "beside commands it counts for nothing");
        }
        for port in listed {
            if self.converter.is_full() {
                return self.leave_out(format!("{}: {FULL}", open.place));
            }
            match commands(open, close, port) {
                Ok(commands) => self.command_service(rights, port, commands),
                Err(reason) => self.leave_out(reason),
            }
        }
        if close.value.starts_with("NONE") && !rights.services.is_empty() {
            let what = "nothing takes back what it opens: write a stop command";
            self.warn(&close.place, "CMD_CYCLE_CLOSE", what);
        }
    }

    fn command_service(
        &mut self, rights: &mut Rights<'_>, port: Option<(Proto, u16)>, commands: ServiceCommands,
    ) {
        let wanted = match port {
            None => rights.name.to_ascii_lowercase(),
            Some((proto, number)) => {
                format!("{}-{}-{number}", rights.name.to_ascii_lowercase(), proto.name())
            }
        };
        let is_free =
            |name: &ServiceName| self.converter.all_services().all(|service| service.name != *name);
        let numbered = (1..).map(|number| format!("commands-{number}"));
        let mut names = std::iter::once(wanted).chain(numbered);
        let Some(name) = names.find_map(|name| ServiceName::new(&name).filter(is_free)) else {
            return;
        };
        self.converter.services.push(Service {
            commands: Some(commands),
            seconds: rights.seconds,
            max_seconds: rights.most_seconds,
            ..defaults::service(name, ServicePorts::Listed(Vec::new()))
        });
        rights.services.push(name);
    }
}

/// Both commands, with the words that fwknopd puts in. Error: what cannot be said here.
fn commands(
    open: &Setting, close: &Setting, port: Option<(Proto, u16)>,
) -> Result<ServiceCommands, String> {
    let stop = match close.value.starts_with("NONE") {
        true => vec![NOTHING.to_owned()],
        false => argv(close, port)?,
    };
    Ok(ServiceCommands { start: argv(open, port)?, stop })
}

/// A command's words. There is no shell: fwknopd parts them at each space too.
fn argv(line: &Setting, port: Option<(Proto, u16)>) -> Result<Vec<String>, String> {
    let Setting { key, value, place } = line;
    let mut text = String::new();
    let mut rest = value.as_str();
    while let Some((before, after)) = rest.split_once('$') {
        text += before;
        let word = WORDS.iter().find(|word| after.starts_with(**word)).copied().unwrap_or_default();
        match (word, port) {
            // The packet comes from the address that it names.
            ("IP" | "SRC" | "PKT_SRC", _) => text += "%IP%",
            ("PORT", Some((_, number))) => text += &number.to_string(),
            ("PROTO", Some((proto, _))) => text += &proto.number().to_string(),
            ("", _) => return Err(format!("{place}: {key}: fwknopd drops a $ before other words")),
            _ => return Err(format!("{place}: {key}: ${word} has no value here")),
        }
        rest = &after[word.len()..];
    }
    text += rest;
    let words: Vec<String> = text.split_ascii_whitespace().map(str::to_owned).collect();
    match words.first() {
        Some(program) if program.starts_with('/') && !program.contains("%IP%") => Ok(words),
        _ => Err(format!("{place}: {key}: write its program with its whole path first")),
    }
}
