//! `toctoc convert`: what fwknop's client did, as commands of ours.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::app::output::{CommandOutput, FAILED};
use crate::config::convert::fwknop::client::{ClientStanza, ConvertedClient, convert};
use crate::core::types::Fault;
use crate::edge::files::{self, FileCheck};

/// Error: the file cannot be read.
pub(super) fn show(home: Option<&Path>, file: Option<&Path>) -> Result<CommandOutput, Fault> {
    let path = match (file, home) {
        (Some(path), _) => path.to_owned(),
        (None, Some(home)) => home.join(".fwknoprc"),
        (None, None) => PathBuf::from(".fwknoprc"),
    };
    let text = files::read(&path, FileCheck::Trusted)?;
    let path = path.display().to_string();
    let converted = convert(&path, &text);
    let ConvertedClient { stanzas, left_out, notes } = &converted;
    let mut output = CommandOutput::out(stanzas.iter().map(stanza_text).collect());
    output.value = Some(value(&converted));
    for (kind, lines) in [("left out", left_out), ("note", notes)] {
        for line in lines {
            output.err += &format!("{kind}: {line}\n");
        }
    }
    if stanzas.is_empty() {
        output.err += &format!("{path}: no stanza to convert\n");
    }
    if stanzas.is_empty() || !left_out.is_empty() {
        output.code = FAILED;
    }
    Ok(output)
}

fn stanza_text(stanza: &ClientStanza) -> String {
    let ClientStanza { name, server, services, commands } = stanza;
    let server = server.as_deref().unwrap_or("the gateway");
    let mut text = format!("[{name}] the admin of {server} sends you a line:\n");
    text += &format!("  toctocd invite YOUR-NAME --services {}\n", services.join(","));
    text += "You take it, and then knock:\n  toctoc join\n";
    for command in commands {
        text += &format!("  {command}\n");
    }
    text
}

fn value(converted: &ConvertedClient) -> Value {
    let mut stanzas = Vec::new();
    for ClientStanza { name, server, services, commands } in &converted.stanzas {
        stanzas.push(json!({
            "name": name, "server": server, "services": services, "commands": commands,
        }));
    }
    json!({ "stanzas": stanzas, "left_out": converted.left_out, "notes": converted.notes })
}
