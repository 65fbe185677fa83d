//! The clients file: one enrolled client per line, options first, as OpenSSH writes authorised
//! keys. Reading and writing the file is left to `edge::files`, taking one line apart to `line`.

use std::collections::HashMap;

use crate::core::diagnostic::{SourceText, printable};
use crate::core::service::Client;
use crate::core::types::{Fault, ServiceName};

mod line;

pub(crate) use line::is_name;

/// How many clients a gateway may have.
pub const MAX_CLIENTS: usize = 1 << 20;
/// The longest line, bytes.
pub const MAX_LINE: usize = 4096;

/// What `toctocd init` writes: how a line is made, and no client.
pub const EMPTY: &str = "\
# Who may knock: one line per client. `toctocd client add` and `client revoke` write here; so may you, then reload.
#   id=HEX,services=\"ssh,web\"[,expires=\"2027-01-01T00:00:00Z\"][,max-seconds=600] ssh-ed25519 AAAA... NAME
# The id is what the client's profile was made for: a line with another id needs a new profile.
";

/// Reads the clients file; `label` is the path that complaints name. With `known` given, a line may
/// only name those services.
///
/// # Errors
/// The first thing that is wrong, as `label:line:column: what`: a line that is none, a key that
/// cannot be trusted, an id, a name or a key that stands on two lines.
pub fn parse(label: &str, text: &str, known: Option<&[ServiceName]>) -> Result<Vec<Client>, Fault> {
    let file = SourceText::new(label, text);
    let mut clients = Vec::new();
    let mut taken = UsedNames::default();
    for (start, content) in client_lines(text) {
        if content.len() > MAX_LINE {
            return Err(file.complain(
                start,
                format!("a line of more than {MAX_LINE} bytes"),
                "is it the right file?",
            ));
        }
        let parsed = line::parse(file, start, content)?;
        if let Some(known) = known {
            check_services(file, &parsed, known)?;
        }
        taken.claim(file, &parsed)?;
        clients.push(parsed.client);
        if clients.len() > MAX_CLIENTS {
            return Err(file.complain(
                start,
                format!("more than {MAX_CLIENTS} clients"),
                "revoke some",
            ));
        }
    }
    Ok(clients)
}

/// The text with a line for `client` at its end; all else byte for byte as it was.
///
/// # Errors
/// The text is no clients file, or has that id, name or key already.
pub fn add(label: &str, text: &str, client: &Client) -> Result<String, Fault> {
    let there = parse(label, text, None)?;
    let twin =
        there.iter().find(|c| c.name == client.name || c.key == client.key || c.id == client.id);
    if let Some(twin) = twin {
        let (same, remedy) = if twin.name == client.name {
            ("name", "choose another name, or revoke the old one first")
        } else {
            (
                "key",
                "one key, one client: make another with `toctoc keygen`, or revoke the old one first",
            )
        };
        return Err(Fault::new(
            format!("{label}: client `{}` has this {same} already", twin.name),
            remedy,
        ));
    }
    let mut text = text.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&line::print(client));
    text.push('\n');
    // What we wrote must be what we read.
    parse(label, &text, None).map(|_| text)
}

/// The text without the line of the client called `name`, and that client; all else byte for byte
/// as it was.
///
/// # Errors
/// The text is no clients file, or nobody has that name.
pub fn revoke(label: &str, text: &str, name: &str) -> Result<(String, Client), Fault> {
    let clients = parse(label, text, None)?;
    let Some((index, client)) = clients.iter().enumerate().find(|(_, client)| client.name == name)
    else {
        let near = crate::core::diagnostic::nearest(name, clients.iter().map(|c| c.name.as_str()));
        return Err(Fault::new(
            format!("{label}: no client is called `{}`", printable(name)),
            near.map_or("`toctocd client list` shows them".to_owned(), |near| {
                format!("did you mean `{near}`?")
            }),
        ));
    };
    let (start, content) = client_lines(text).nth(index).unwrap_or((text.len(), ""));
    let end = start + content.len();
    let rest = text.get(end..).unwrap_or("");
    let ending = rest.find('\n').map_or(rest.len(), |at| at + 1);
    let without =
        [text.get(..line_start(text, start)).unwrap_or(""), rest.get(ending..).unwrap_or("")]
            .concat();
    Ok((without, client.clone()))
}

/// The lines that are neither blank nor comment, trimmed, each with the offset where it begins.
fn client_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut offset = 0;
    text.split_inclusive('\n').filter_map(move |whole| {
        let start = offset + (whole.len() - whole.trim_start().len());
        offset += whole.len();
        let content = whole.trim();
        (!content.is_empty() && !content.starts_with('#')).then_some((start, content))
    })
}

/// Where the line that holds `offset` begins, its indentation included.
fn line_start(text: &str, offset: usize) -> usize {
    text.get(..offset).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1)
}

fn check_services(
    file: SourceText<'_>,
    parsed: &line::Parsed,
    known: &[ServiceName],
) -> Result<(), Fault> {
    match parsed.client.services.iter().find(|service| !known.contains(service)) {
        None => Ok(()),
        Some(service) => Err(file.complain_unknown(
            parsed.services_at,
            "service",
            service.as_str(),
            known.iter().map(ServiceName::as_str),
        )),
    }
}

/// Which ids, names and keys stand where.
#[derive(Default)]
struct UsedNames {
    ids: HashMap<[u8; 16], usize>,
    names: HashMap<String, usize>,
    keys: HashMap<[u8; 32], usize>,
}

impl UsedNames {
    fn claim(&mut self, file: SourceText<'_>, parsed: &line::Parsed) -> Result<(), Fault> {
        let client = &parsed.client;
        let twice = |what: &str, first: usize, at: usize| {
            let (line, _) = file.place(first);
            Err(file.complain(
                at,
                format!("the same {what} as on line {line}"),
                "one line, one client: remove one of them",
            ))
        };
        if let Some(first) = self.ids.insert(client.id.0, parsed.start) {
            return twice("id", first, parsed.start);
        }
        if let Some(first) = self.keys.insert(client.key, parsed.start) {
            return twice("key", first, parsed.key_at);
        }
        match self.names.insert(client.name.clone(), parsed.start) {
            Some(first) => twice("name", first, parsed.name_at),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
