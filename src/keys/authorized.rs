//! The clients file: one enrolled client per line, options first, like OpenSSH's authorized_keys.
//! See `line` for one line, `edge::files` for reading and writing the file.

use std::collections::HashMap;

use crate::core::diagnostic::{SourceText, nearest, printable};
use crate::core::service::Client;
use crate::core::types::{Fault, FaultKind, ServiceName};

mod line;

pub(crate) use line::is_name;

const MAX_CLIENTS: usize = 1 << 20;
/// The longest line, in bytes.
const MAX_LINE: usize = 4096;

/// The file that `toctocd init` writes: an explanation, and no client.
pub const EMPTY: &str = "\
# The clients that may knock, one per line. `toctocd client add` and `client revoke` edit this file.
# You may edit it too; then reload. The format of a line:
#   id=HEX,services=\"ssh,web\"[,expires=\"2027-01-01T00:00:00Z\"][,max-seconds=600] ssh-ed25519 AAAA... NAME
# The id is part of the client's profile: if you change it, the client needs a new profile.
";

/// Reads the clients file. `label` is the path for messages. If `known` is given, a line may name
/// only those services. Fails with the first mistake, as `label:line:column: what`.
pub fn parse(label: &str, text: &str, known: Option<&[ServiceName]>) -> Result<Vec<Client>, Fault> {
    let file = SourceText::new(label, text);
    let mut clients = Vec::new();
    let mut used = HashMap::new();
    for (start, content) in client_lines(text) {
        if content.len() > MAX_LINE {
            let what = format!("a line of more than {MAX_LINE} bytes");
            return Err(file.complain(start, what, "is it the right file?"));
        }
        let parsed = line::parse(file, start, content)?;
        if let Some(known) = known {
            check_services(file, &parsed, known)?;
        }
        check_unique(file, &parsed, &mut used)?;
        clients.push(parsed.client);
        if clients.len() > MAX_CLIENTS {
            let what = format!("more than {MAX_CLIENTS} clients");
            return Err(file.complain(start, what, "revoke some"));
        }
    }
    Ok(clients)
}

/// Appends a line for `client`; all else stays byte for byte. Fails if `text` is not a clients file
/// or already has this id, name or key.
pub fn add(label: &str, text: &str, client: &Client) -> Result<String, Fault> {
    for other in parse(label, text, None)? {
        let (same, remedy) = if other.name == client.name {
            ("name", "choose another name, or revoke the old client first")
        } else if other.key == client.key || other.id == client.id {
            (
                "key",
                "each client needs its own key: make one with `toctoc keygen`, or revoke the old client first",
            )
        } else {
            continue;
        };
        let what = format!("{label}: client `{}` has this {same} already", other.name);
        return Err(Fault::new(what, remedy).of(FaultKind::Name));
    }
    let mut text = text.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&line::print(client));
    text.push('\n');
    // We must be able to read what we wrote.
    parse(label, &text, None)?;
    Ok(text)
}

/// Removes the line of the client called `name`; all else stays byte for byte. Fails if `text` is
/// not a clients file, or nobody has that name.
pub fn revoke(label: &str, text: &str, name: &str) -> Result<(String, Client), Fault> {
    let clients = parse(label, text, None)?;
    for ((start, content), client) in client_lines(text).zip(&clients) {
        if client.name == name {
            let (before, rest) = text.split_at(start);
            let (_, after) = rest.split_at(content.len());
            let before = before.rfind('\n').map_or("", |end| &before[..=end]);
            let after = after.split_once('\n').map_or("", |(_, after)| after);
            return Ok((format!("{before}{after}"), client.clone()));
        }
    }
    let remedy = match nearest(name, clients.iter().map(|client| client.name.as_str())) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`toctocd client list` shows them".to_owned(),
    };
    let what = format!("{label}: no client is called `{}`", printable(name));
    Err(Fault::new(what, remedy).of(FaultKind::Name))
}

/// The lines that are neither blank nor comment, trimmed, each with its offset.
fn client_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut offset = 0;
    text.split_inclusive('\n').filter_map(move |whole| {
        let start = offset + (whole.len() - whole.trim_start().len());
        offset += whole.len();
        let content = whole.trim();
        if content.is_empty() || content.starts_with('#') { None } else { Some((start, content)) }
    })
}

fn check_services(
    file: SourceText<'_>, parsed: &line::ParsedLine, known: &[ServiceName],
) -> Result<(), Fault> {
    let Some(unknown) = parsed.client.services.iter().find(|service| !known.contains(service))
    else {
        return Ok(());
    };
    let known = known.iter().map(ServiceName::as_str);
    Err(file.complain_unknown(parsed.services_at, "service", unknown.as_str(), known))
}

/// Fails if a client before it has the id, key or name. `used` has those, with the offset of their
/// lines.
fn check_unique(
    file: SourceText<'_>, parsed: &line::ParsedLine, used: &mut HashMap<(&str, Vec<u8>), usize>,
) -> Result<(), Fault> {
    let client = &parsed.client;
    for (what, value, at) in [
        ("id", client.id.0.to_vec(), parsed.start),
        ("key", client.key.to_vec(), parsed.key_at),
        ("name", client.name.clone().into_bytes(), parsed.name_at),
    ] {
        if let Some(first) = used.insert((what, value), parsed.start) {
            let (line, _) = file.place(first);
            let what = format!("the same {what} as on line {line}");
            return Err(file.complain(at, what, "each client has one line: remove one of the two"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
