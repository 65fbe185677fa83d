//! The clients file: one enrolled client per line, options first, like OpenSSH's authorized_keys.
//! See `line` for one line, `edge::files` for reading and writing the file.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::{self, Builder};

use crate::core::clients::{ClientTable, Enrolled};
use crate::core::diagnostic::{SourceText, nearest, printable};
use crate::core::public_key::PublicKey;
use crate::core::service::Client;
use crate::core::types::{ClientId, Fault, FaultKind, ServiceName};
use crate::keys::encoded;

pub mod joined;
pub mod limits;
mod line;

use limits::{Zones, any_zone};
pub(crate) use line::is_name;
pub(super) use line::{NO_TOUCH, VERIFY};

const MAX_CLIENTS: usize = 1 << 20;
/// The longest line, in bytes.
const MAX_LINE: usize = 4096;
/// The most new lines whose keys are checked when the file is read: some 50 milliseconds.
const CHECKED: usize = 1000;
/// Bytes of a file from which on two processors read one half each.
const LONG: usize = 1 << 20;

/// The file that `toctocd init` writes: an explanation, and no client.
pub const EMPTY: &str = "\
# The clients that may knock, one per line. `toctocd client add` and `client revoke` edit this file.
# You may edit it too; then reload. The format of a line:
#   id=HEX,services=\"ssh,web\"[,OPTION...] ssh-ed25519 AAAA... NAME
# Options: expires=\"2027-01-01T00:00:00Z\", not-before= (the same), hours=\"Mon-Fri 08:00-18:00 Europe/Berlin\",
# from=\"203.0.113.7,2001:db8::/48\", max-seconds=600, max-grants=2, disabled, door=\"NAME\".
# A FIDO key, sk-ssh-ed25519@openssh.com, may also have verify-required or no-touch-required there.
# The id is part of the client's profile: if you change it, the client needs a new profile.
";

/// Reads the clients file. `label` is the path for messages. A line that is as it was in `before`
/// is not read again. Fails with the first mistake, as `label:line:column: what`.
///
/// The keys of up to 1,000 new lines are checked at once, so that a bad key in a line written by
/// hand is reported with its place. Those of more are checked when they are first needed.
pub fn read(
    label: &str, text: &str, before: &ClientTable, zones: Zones<'_>,
) -> Result<ClientTable, Fault> {
    Ok(whole(SourceText::new(label, text), before, CHECKED, zones)?.clients)
}

/// The same in the order of the file.
pub fn parse(label: &str, text: &str, zones: Zones<'_>) -> Result<Vec<Client>, Fault> {
    let rows = whole(SourceText::new(label, text), &ClientTable::default(), CHECKED, zones)?.rows;
    Ok(rows.into_iter().map(|row| row.enrolled.client.clone()).collect())
}

/// Checks every key of a clients file. Takes six seconds for 100,000.
pub fn check_keys(label: &str, text: &str) -> Result<(), Fault> {
    let file = SourceText::new(label, text);
    whole(file, &ClientTable::default(), usize::MAX, &any_zone).map(drop)
}

/// The clients of `before` that a file with mistakes still names: those whose id stands in it, and
/// not in a line that is disabled. So a mistake in one line keeps nobody whose line is gone.
pub fn still_named(text: &str, before: &ClientTable) -> ClientTable {
    let lines = client_lines(text).filter(|(_, line)| !line::is_disabled(line));
    let named: BTreeSet<ClientId> = lines.flat_map(|(_, line)| ids_of(line)).collect();
    before.retain(|id| named.contains(&id))
}

/// The ids of clients and invitations in the file, also in lines with mistakes.
pub fn ids(text: &str) -> BTreeSet<ClientId> {
    client_lines(text).flat_map(|(_, content)| ids_of(content)).collect()
}

fn ids_of(line: &str) -> Vec<ClientId> {
    let mut ids = Vec::new();
    for option in ["id=", "invite="] {
        for (at, _) in line.match_indices(option) {
            let at = at + option.len();
            ids.extend(line.get(at..at + 32).and_then(encoded::id).map(ClientId));
        }
    }
    ids
}

/// Appends a line for `client`; all else stays byte for byte. Fails if another line has this id,
/// name or key. Other lines are not read as a whole: there may be 100,000, and their mistakes are
/// found when the file is read.
pub fn add(label: &str, text: &str, client: &Client) -> Result<String, Fault> {
    let line = line::print(client);
    // We must be able to read what we wrote.
    line::parse(SourceText::new(label, &line), 0, &line, &any_zone)?;
    let shown = client.key.line();
    let blob = last_word(&shown);
    let id = client.id.to_string();
    let mut count = 0;
    for (_, other) in client_lines(text) {
        count += 1;
        let name = last_word(other);
        // A search through each line would take longer than all the rest.
        let before_name = other[..other.len() - name.len()].trim_end();
        let (same, remedy) = if name == &*client.name {
            ("name", "choose another name, or revoke the old client first")
        } else if before_name.ends_with(blob) || id_of(other) == Some(&id) {
            (
                "key",
                "each client needs its own key: make one with `toctoc keygen`, or revoke the old client first",
            )
        } else {
            continue;
        };
        let what = format!("{label}: client `{}` has this {same} already", printable(name));
        return Err(Fault::new(what, remedy).of(FaultKind::Name));
    }
    if count >= MAX_CLIENTS {
        return Err(Fault::new(format!("{label}: it has {MAX_CLIENTS} clients"), "revoke some"));
    }
    // Room for all at once: there may be many megabytes.
    let mut longer = String::with_capacity(text.len() + line.len() + 2);
    longer.push_str(text);
    if !text.is_empty() && !text.ends_with('\n') {
        longer.push('\n');
    }
    longer.push_str(&line);
    longer.push('\n');
    Ok(longer)
}

/// True if a line of the file has this key or name. As for [`add`], other mistakes do not matter.
pub fn stands_in(text: &str, key: Option<&PublicKey>, name: Option<&str>) -> bool {
    let shown = key.map(PublicKey::line);
    let blob = shown.as_deref().map(last_word);
    client_lines(text).any(|(_, line)| {
        let last = last_word(line);
        let before_name = line[..line.len() - last.len()].trim_end();
        name == Some(last) || blob.is_some_and(|blob| before_name.ends_with(blob))
    })
}

/// Notes in the client's line which door's sequence its profile has. `text` has no such note yet.
/// A door may have any name. A value on the line has no escapes, so what could end it is written as
/// in a URL: `%22`.
pub fn note_door(text: &str, client: ClientId, door: &str) -> String {
    let id = format!("id={client},");
    let mut note = String::new();
    for one in door.chars() {
        match one {
            '"' | '%' => note += &format!("%{:02x}", u32::from(one)),
            one if one.is_control() => note += &format!("%{:02x}", u32::from(one)),
            one => note.push(one),
        }
    }
    text.replace(&id, &format!("{id}door=\"{note}\","))
}

/// The door that is noted in the client's line.
pub fn door(text: &str, client: ClientId) -> Option<String> {
    let id = format!("id={client}");
    let (_, line) = client_lines(text).find(|(_, line)| line.contains(&id))?;
    let (_, rest) = line.split_once("door=\"")?;
    let (note, _) = rest.split_once('"')?;
    let mut parts = note.split('%');
    let mut door = parts.next()?.to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        door.push(char::from(u8::from_str_radix(digits, 16).ok()?));
        door += rest;
    }
    Some(door)
}

/// The names of all clients, as far as their lines look sound: nothing is checked.
pub fn names(text: &str) -> Vec<String> {
    let lines = client_lines(text).filter(|(_, line)| id_of(line).is_some());
    let names = lines.map(|(_, line)| last_word(line)).filter(|name| is_name(name));
    names.map(str::to_owned).collect()
}

/// The client called `name`. Fails if nobody has that name, or its line has a mistake.
pub fn find(label: &str, text: &str, name: &str) -> Result<Client, Fault> {
    let (start, content) = lines_of(label, text, name)?[0];
    Ok(line::parse(SourceText::new(label, text), start, content, &any_zone)?.client)
}

/// Removes the line of the client called `name`; all else stays byte for byte. Fails if nobody has
/// that name. Mistakes in other lines do not matter: a revocation must not wait for them.
pub fn revoke(label: &str, text: &str, name: &str) -> Result<String, Fault> {
    let mut left = text.to_owned();
    for (start, content) in lines_of(label, text, name)?.into_iter().rev() {
        let begin = text[..start].rfind('\n').map_or(0, |end| end + 1);
        let rest = start + content.len();
        let end = text[rest..].find('\n').map_or(text.len(), |end| rest + end + 1);
        left.replace_range(begin..end, "");
    }
    Ok(left)
}

/// Disables the client called `name`, or enables it; all else stays byte for byte. Fails if nobody
/// has that name, or if its line has a mistake.
pub fn set_disabled(label: &str, text: &str, name: &str, disabled: bool) -> Result<String, Fault> {
    let mut changed = text.to_owned();
    for (start, content) in lines_of(label, text, name)?.into_iter().rev() {
        line::parse(SourceText::new(label, text), start, content, &any_zone)?;
        let line = line::with_disabled(content, disabled);
        changed.replace_range(start..start + content.len(), &line);
    }
    Ok(changed)
}

/// Makes a comment of the line that [`revoke`] would remove. The text is as long as before.
pub fn strike_out(label: &str, text: &str, name: &str) -> Result<String, Fault> {
    let mut struck = text.to_owned();
    for (start, content) in lines_of(label, text, name)? {
        let first = content.chars().next().map_or(0, char::len_utf8);
        struck.replace_range(start..start + first, &"#".repeat(first));
    }
    Ok(struck)
}

/// The lines of the client called `name`, at least one: those that can be read, or else those that
/// end in that name. Or else those with mistakes that have it behind the key, as before a remark;
/// or, if `name` is an id, those with that id.
fn lines_of<'a>(label: &str, text: &'a str, name: &str) -> Result<Vec<(usize, &'a str)>, Fault> {
    let file = SourceText::new(label, text);
    let mut found: Vec<(usize, &str)> =
        client_lines(text).filter(|(_, content)| last_word(content) == name).collect();
    let is_sound = |line: &(usize, &str)| match line::parse(file, line.0, line.1, &any_zone) {
        Ok(parsed) => parsed.client.name == name,
        Err(_) => false,
    };
    if found.iter().any(is_sound) {
        found.retain(is_sound);
    }
    let is_broken = |line: &(usize, &str)| line::parse(file, line.0, line.1, &any_zone).is_err();
    if found.is_empty() {
        let named = client_lines(text).filter(|(_, content)| word_behind_key(content) == name);
        found.extend(named.filter(is_broken));
    }
    if let (true, Some(id)) = (found.is_empty(), encoded::id(name).map(ClientId)) {
        found.extend(client_lines(text).filter(|(_, content)| ids_of(content).contains(&id)));
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let remedy = match nearest(name, client_lines(text).map(|(_, content)| last_word(content))) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`toctocd client list` shows them".to_owned(),
    };
    let what = format!("{label}: no client is called `{}`", printable(name));
    Err(Fault::new(what, remedy).of(FaultKind::Name))
}

/// A client's name, if the line has no mistake.
fn last_word(line: &str) -> &str {
    line.rsplit(char::is_whitespace).next().unwrap_or("")
}

/// The word two behind that with the type of the key: the client's name, also if more follows.
fn word_behind_key(line: &str) -> &str {
    let mut words = line.split_whitespace();
    let key = words.by_ref().find(|word| word.starts_with("ssh-") || word.starts_with("sk-ssh-"));
    key.and_then(|_| words.nth(1)).unwrap_or("")
}

/// The id of a line that begins with it, as all do that we write.
fn id_of(line: &str) -> Option<&str> {
    line.strip_prefix("id=")?.get(..32)
}

/// One line of the file, and its client.
struct Row<'a> {
    start: usize,
    content: &'a str,
    enrolled: Arc<Enrolled>,
    is_new: bool,
}

/// A clients file without mistakes.
struct WholeFile<'a> {
    rows: Vec<Row<'a>>,
    clients: ClientTable,
}

/// Reads every line, and checks the keys of the new ones if there are at most `keys`.
fn whole<'a>(
    file: SourceText<'a>, before: &ClientTable, keys: usize, zones: Zones<'_>,
) -> Result<WholeFile<'a>, Fault> {
    let (rows, mistake) = rows(file, before, zones);
    if rows.iter().filter(|row| row.is_new).count() <= keys {
        for row in rows.iter().filter(|row| row.is_new) {
            row.enrolled.check_key().or_else(|fault| {
                let at = line::parse(file, row.start, row.content, &any_zone)?.key_at;
                Err(file.complain(at, fault.what, fault.remedy))
            })?;
        }
    }
    if let Some(mistake) = mistake {
        return Err(mistake);
    }
    if let Some(row) = rows.get(MAX_CLIENTS) {
        let what = format!("more than {MAX_CLIENTS} clients");
        return Err(file.complain(row.start, what, "revoke some"));
    }
    let clients = ClientTable::new(before, rows.iter().map(|row| Arc::clone(&row.enrolled)));
    check_unique(file, &rows, clients.is_err())?;
    Ok(WholeFile { rows, clients: clients.unwrap_or_default() })
}

/// Reads the lines up to the first mistake: one half of a long file in a thread beside this one.
fn rows<'a>(
    file: SourceText<'a>, before: &ClientTable, zones: Zones<'_>,
) -> (Vec<Row<'a>>, Option<Fault>) {
    let length = file.text.len();
    let within = |range: Range<usize>| rows_within(file, range, before, zones);
    let middle = if length < LONG { length } else { length / 2 };
    let Some(at) = file.text.as_bytes()[middle..].iter().position(|byte| *byte == b'\n') else {
        return within(0..length);
    };
    let half = middle + at + 1;
    thread::scope(|scope| {
        let second = Builder::new().spawn_scoped(scope, || within(half..length));
        let (mut rows, mut mistake) = within(0..half);
        if mistake.is_none() {
            let (more, later) = match second {
                Ok(second) => second.join().unwrap_or_else(|panic| resume_unwind(panic)),
                Err(_) => within(half..length),
            };
            rows.extend(more);
            mistake = later;
        }
        (rows, mistake)
    })
}

/// Reads the lines of this part of the file, which begins and ends with a whole line.
fn rows_within<'a>(
    file: SourceText<'a>, range: Range<usize>, before: &ClientTable, zones: Zones<'_>,
) -> (Vec<Row<'a>>, Option<Fault>) {
    let mut rows = Vec::new();
    let mut shared = BTreeSet::new();
    for (start, content) in client_lines(&file.text[range.clone()]) {
        match row(file, range.start + start, content, before, &mut shared, zones) {
            Ok(row) => rows.push(row),
            Err(mistake) => return (rows, Some(mistake)),
        }
    }
    (rows, None)
}

/// Reads one line. `shared`: the lists of services so far.
fn row<'a>(
    file: SourceText<'a>, start: usize, content: &'a str, before: &ClientTable,
    shared: &mut BTreeSet<Arc<[ServiceName]>>, zones: Zones<'_>,
) -> Result<Row<'a>, Fault> {
    if content.len() > MAX_LINE {
        let what = format!("a line of more than {MAX_LINE} bytes");
        return Err(file.complain(start, what, "is it the right file?"));
    }
    let mut hasher = DefaultHasher::new();
    hasher.write(content.as_bytes());
    let line = hasher.finish();
    let id = id_of(content).and_then(encoded::id).map(ClientId);
    if let Some(enrolled) = id.and_then(|id| before.unchanged(id, line)) {
        return Ok(Row { start, content, enrolled, is_new: false });
    }
    let mut client = line::parse(file, start, content, zones)?.client;
    match shared.get(&client.services) {
        Some(same) => client.services = Arc::clone(same),
        None => drop(shared.insert(Arc::clone(&client.services))),
    }
    Ok(Row { start, content, enrolled: Enrolled::new(client, line), is_new: true })
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

/// Fails at the first line that has the id, key or name of one before it. Lines that were not read
/// again have been compared with each other, except that one may stand there twice. `same_id`: two
/// have the same id.
fn check_unique(file: SourceText<'_>, rows: &[Row<'_>], same_id: bool) -> Result<(), Fault> {
    let new = rows.iter().filter(|row| row.is_new).count();
    let mut names = HashMap::with_capacity(new);
    let mut keys = HashMap::with_capacity(new);
    // The places of two lines, the later one first, and what is the same.
    let mut doubled: Vec<(usize, usize, &'static str)> = Vec::new();
    for (place, row) in rows.iter().enumerate() {
        let client = &row.enrolled.client;
        if row.is_new {
            let others = [
                ("key", keys.insert(&client.key.ed25519, place)),
                ("name", names.insert(client.name.as_str(), place)),
            ];
            for (what, other) in others {
                doubled.extend(other.map(|other| (place, other, what)));
            }
        }
    }
    for (place, row) in rows.iter().enumerate().filter(|(_, row)| !row.is_new && new > 0) {
        let client = &row.enrolled.client;
        for (what, other) in
            [("key", keys.get(&client.key.ed25519)), ("name", names.get(client.name.as_str()))]
        {
            doubled.extend(other.map(|other| (place.max(*other), place.min(*other), what)));
        }
    }
    let mut ids: Vec<(ClientId, usize)> = Vec::new();
    if same_id {
        ids.extend(rows.iter().zip(0..).map(|(row, place)| (row.enrolled.client.id, place)));
        ids.sort_unstable();
    }
    for pair in ids.windows(2) {
        if let [(one, first), (other, later)] = pair
            && one == other
        {
            doubled.push((*later, *first, "id"));
        }
    }
    let Some((later, first, what)) = doubled.into_iter().min() else { return Ok(()) };
    let parsed = line::parse(file, rows[later].start, rows[later].content, &any_zone)?;
    let at = match what {
        "key" => parsed.key_at,
        "name" => parsed.name_at,
        _ => parsed.start,
    };
    let (line, _) = file.place(rows[first].start);
    let what = format!("the same {what} as on line {line}");
    Err(file.complain(at, what, "each client has one line: remove one of the two"))
}

#[cfg(test)]
mod tests;
