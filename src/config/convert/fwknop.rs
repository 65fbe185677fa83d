//! fwknop's access.conf and fwknopd.conf -> services for toctocd.toml, the commands that invite who
//! could knock, and what could not be carried over. No key is: each stanza gets an invitation.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Converted, Converter};
use crate::config::Settings;
use crate::core::diagnostic::printable;
use crate::core::types::{Fault, ServiceName};
use fields::mistakes;
use limits::Expiry;
use reader::{Access, Place, Setting, Stanza};

pub mod client;
mod commands;
mod fields;
mod limits;
mod ports;
mod reader;
mod remarks;
mod server;
#[cfg(test)]
mod tests;

/// Seconds of a grant, and the most that a client may ask for, unless a stanza has others.
const SECONDS: u32 = 30;
const MOST_SECONDS: u32 = 300;
/// The most services of one invitation.
const INVITED: usize = 16;
/// The most seconds that a client may ask for here.
const LONGEST_ASKED: u32 = 604_800;

/// How the files are read. A stanza may include others.
pub struct FileReader<'a> {
    pub text: &'a dyn Fn(&str) -> Result<String, Fault>,
    /// The paths of a folder's files that end with `.conf`, in order.
    pub folder: &'a dyn Fn(&str) -> Result<Vec<String>, Fault>,
}

/// The files to convert, and what is known of this machine.
pub struct Sources<'a> {
    pub access: &'a str,
    /// `None`: nothing but its defaults.
    pub server: Option<&'a str>,
    pub files: FileReader<'a>,
    /// This machine's addresses.
    pub own: &'a [IpAddr],
    /// Seconds since 1970.
    pub now: u64,
}

/// fwknopd.conf.
#[derive(Default)]
struct Server {
    settings: Vec<Setting>,
}

/// Converts to what can be appended to the configuration `existing`, whose services it uses.
/// Error: a file cannot be read.
pub fn convert(sources: &Sources<'_>, existing: &Settings) -> Result<Converted, Fault> {
    let mut migration = Migration {
        converter: Converter::new(existing, &|_, _| None, sources.own),
        server: Server::default(),
        now: sources.now,
        names: BTreeSet::new(),
        invitations: Vec::new(),
    };
    if let Some(path) = sources.server {
        migration.server(path, &(sources.files.text)(path)?);
    }
    let access = Access::read(sources.access, &sources.files)?;
    for mistake in access.mistakes {
        migration.leave_out(format!("{mistake}: fwknopd refuses the whole file"));
    }
    for (index, stanza) in access.stanzas.iter().enumerate() {
        migration.stanza(stanza, index + 1);
    }
    migration.free_targets(&access.stanzas);
    let Migration { converter, invitations, .. } = migration;
    Ok(converter.converted(Vec::new(), invitations))
}

struct Migration<'a> {
    converter: Converter<'a>,
    server: Server,
    now: u64,
    /// Names of clients that are taken.
    names: BTreeSet<String>,
    invitations: Vec<String>,
}

/// What a stanza lets its client do.
struct Rights<'s> {
    stanza: &'s Stanza,
    /// The client's name from now on.
    name: String,
    seconds: u32,
    most_seconds: u32,
    services: Vec<ServiceName>,
}

impl Migration<'_> {
    fn stanza(&mut self, stanza: &Stanza, number: usize) {
        let mistakes = mistakes(stanza, &self.server);
        if !mistakes.is_empty() {
            for mistake in mistakes {
                self.leave_out(format!("{mistake}: fwknopd refuses the whole file"));
            }
            return;
        }
        let expires = match self.expires(stanza) {
            None => String::new(),
            Some(Expiry::At(text)) => format!(" --expires {text}"),
            Some(Expiry::Over) => {
                return self.leave_out(format!("{}: the stanza has expired", stanza.place()));
            }
            Some(Expiry::Unknown(place)) => {
                let what = "its end is no day of the calendar: the stanza is left out";
                return self.leave_out(format!("{place}: {what}"));
            }
        };
        let from = self.from(stanza);
        let name = self.name(stanza, number);
        let (seconds, most_seconds) = self.times(stanza);
        let mut rights = Rights { stanza, name, seconds, most_seconds, services: Vec::new() };
        match stanza.get("CMD_CYCLE_OPEN") {
            Some(open) => self.command_services(&mut rights, open),
            None => self.port_services(&mut rights),
        }
        self.remarks(&rights);
        if rights.services.is_empty() {
            let what = "nothing of it can be opened here, so it has no invitation";
            self.leave_out(format!("{}: {what}", stanza.place()));
            return;
        }
        if rights.services.len() > INVITED {
            let what = format!(
                "an invitation names at most {INVITED} services: put ports into one, and name \
                 fewer in its command"
            );
            self.warn(stanza.place(), "OPEN_PORTS", &what);
        }
        let list: Vec<&str> = rights.services.iter().map(ServiceName::as_str).collect();
        self.invitations.push(format!(
            "toctocd invite {} --services {}{expires}{from} --max-seconds {}",
            rights.name,
            list.join(","),
            rights.most_seconds
        ));
    }

    fn leave_out(&mut self, text: String) {
        self.converter.left_out.push(text);
    }

    fn warn(&mut self, place: &Place, key: &str, what: &str) {
        self.converter.warn(format!("{place}: {}: {what}", printable(key)));
    }

    fn note(&mut self, place: &Place, key: &str, what: &str) {
        self.converter.note(format!("{place}: {}: {what}", printable(key)));
    }
}
