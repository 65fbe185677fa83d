//! The file `joined`: invitations, and who joined by them, in lines like those of the clients file.
//! See `core::joining` for what becomes of a line, `app::joined` for the file.
//!
//! A line with a key and an id is a client's, one with a key alone waits for approval, one without
//! a key is an invitation that nobody has used.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use jiff::Timestamp;

use super::limits::Zones;
use super::line::{self, AUTO, Cursor, LineOptions};
use super::{MAX_CLIENTS, MAX_LINE, client_lines};
use crate::core::bytes::saturated_i64;
use crate::core::clients::{ClientTable, Enrolled};
use crate::core::diagnostic::{SourceText, printable};
use crate::core::joining::{Invited, JoinRule, JoinTerms, OpenInvitation, Standing};
use crate::core::limits::NO_LIMITS;
use crate::core::public_key::PublicKey;
use crate::core::types::{ClientId, Fault};
use crate::keys::public::{self, show_fingerprint};

const HEAD: &str = "\
# Invitations, and who joined by them. toctocd writes this file: use `toctocd invite`, `client approve`
# and `client revoke`.
";
const SHAPE: &str =
    "restore it from a backup, or remove the line: whoever it names is revoked then";

/// Reads the file. Fails with the first mistake, as `label:line:column: what`.
pub fn parse(label: &str, text: &str, zones: Zones<'_>) -> Result<Vec<Invited>, Fault> {
    let file = SourceText::new(label, text);
    let mut rows: Vec<Invited> = Vec::new();
    let mut names = HashSet::new();
    let mut keys = HashSet::new();
    let mut ids = HashSet::new();
    for (start, content) in client_lines(text) {
        if content.len() > MAX_LINE || rows.len() >= MAX_CLIENTS {
            return Err(file.complain(start, "more than any gateway writes", SHAPE));
        }
        let row = parse_line(file, start, content, zones)?;
        let same_key = row.key().is_some_and(|key| !keys.insert(key.ed25519));
        let same_id = row.clients().iter().any(|client| !ids.insert(client.id));
        if same_key || same_id || !names.insert(row.terms.name.clone()) {
            let what = "the name, key or id of another line";
            return Err(file.complain(start, what, SHAPE));
        }
        rows.push(row);
    }
    Ok(rows)
}

/// The file with these lines.
pub fn print(rows: &[Invited]) -> String {
    let mut text = HEAD.to_owned();
    for row in rows {
        text += &print_line(row);
        text.push('\n');
    }
    text
}

/// The rows of the table of clients that come from these lines; those that `before` has, as they
/// are there.
pub fn enrolled(rows: &[Invited], before: &ClientTable) -> Vec<Arc<Enrolled>> {
    let mut all = Vec::new();
    for row in rows {
        let mut hasher = DefaultHasher::new();
        hasher.write(print_line(row).as_bytes());
        let line = hasher.finish();
        for client in row.clients() {
            all.push(match before.unchanged(client.id, line) {
                Some(same) => same,
                None => Enrolled::new(client, line),
            });
        }
    }
    all
}

/// Adds these lines to the clients of the clients file, which is called `label`. `before`: the
/// table that has parts in common with the result. Fails if a name, key or id stands in both files.
pub fn merge(
    label: &str, clients: ClientTable, rows: &[Invited], before: &ClientTable,
) -> Result<ClientTable, Fault> {
    if rows.is_empty() {
        return Ok(clients);
    }
    let names: HashSet<&str> = rows.iter().map(|row| row.terms.name.as_str()).collect();
    let keys: HashSet<[u8; 32]> =
        rows.iter().filter_map(Invited::key).map(|key| key.ed25519).collect();
    for client in clients.iter() {
        let what = match client {
            _ if names.contains(client.name.as_str()) => "name",
            _ if keys.contains(&client.key.ed25519) => "key",
            _ => continue,
        };
        let what = format!(
            "{label}: `{}` has the same {what} as an invitation, or somebody who joined by one",
            client.name
        );
        let remedy = "`toctocd client list` shows both; give this client another name or key, or \
                      remove its line";
        return Err(Fault::new(what, remedy));
    }
    clients.joined(before, enrolled(rows, before)).map_err(|id| {
        let what = format!("{label}: the id {id} is also that of an invitation, or of who joined");
        Fault::new(what, "remove that line from the clients file")
    })
}

fn parse_line(
    file: SourceText<'_>, start: usize, text: &str, zones: Zones<'_>,
) -> Result<Invited, Fault> {
    let mut cursor = Cursor::new(file, start, text);
    let options = LineOptions::read(&mut cursor, LineOptions::OF_JOINED, zones)?;
    cursor.skip_blanks();
    let wrong = |what: &str| file.complain(start, what, SHAPE);
    let mut key = None;
    if cursor.rest().contains(char::is_whitespace) {
        let algorithm = cursor.word();
        cursor.skip_blanks();
        let read = public::read_words(algorithm, cursor.word());
        let checked = read.and_then(|key| options.ruled(key));
        key = Some(checked.map_err(|fault| file.complain(start, fault.what, fault.remedy))?);
        cursor.skip_blanks();
    }
    let name = cursor.rest();
    if !line::is_name(name) {
        return Err(wrong(&format!("`{}` is not a client's name", printable(name))));
    }
    let invitation = match (options.invite, options.until) {
        (Some(id), Some(until)) => Some(OpenInvitation { id, until }),
        (None, None) => None,
        _ => return Err(wrong("`invite=` and `until=` belong together")),
    };
    let standing = match (key, options.id) {
        (Some(key), Some(id)) => Standing::Joined(id, key),
        (Some(key), None) if invitation.is_some() => Standing::Pending(key),
        (None, None) if invitation.is_some() => {
            Standing::Open(options.join.unwrap_or(JoinRule::Approval))
        }
        _ => return Err(wrong("neither an invitation nor somebody who joined")),
    };
    let limits = options.limits();
    let Some(services) = options.services else {
        return Err(wrong("no `services=` on this line"));
    };
    let terms = JoinTerms { name: name.to_owned(), services, expires: options.expires, limits };
    Ok(Invited { invitation, terms, standing })
}

fn print_line(row: &Invited) -> String {
    let mut options = Vec::new();
    if let Some(OpenInvitation { id, until }) = &row.invitation {
        options.push(format!("invite={id}"));
        options.push(format!("until=\"{}\"", moment(*until)));
    }
    let mut key: Option<&PublicKey> = None;
    let mut id: Option<ClientId> = None;
    match &row.standing {
        Standing::Open(JoinRule::Approval) => {}
        Standing::Open(JoinRule::Auto) => options.push(format!("join=\"{AUTO}\"")),
        Standing::Open(JoinRule::Only(only)) => {
            options.push(format!("join=\"{}\"", show_fingerprint(only)));
        }
        Standing::Pending(pending) => key = Some(pending),
        Standing::Joined(joined, of) => (id, key) = (Some(*joined), Some(of)),
    }
    let terms = &row.terms;
    let limits = terms.limits.as_deref().unwrap_or(&NO_LIMITS);
    options.extend(line::print_options(id, &terms.services, terms.expires, limits));
    let key = key.map(|key| format!("{} ", key.line())).unwrap_or_default();
    format!("{} {key}{}", options.join(","), terms.name)
}

fn moment(seconds: u64) -> Timestamp {
    let seconds = saturated_i64(seconds);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::limits::Limits;
    use crate::core::test_vectors;
    use crate::keys::authorized::limits::{any_zone, hours};
    use crate::keys::public::tests::LINE;

    fn limits() -> Arc<Limits> {
        let hours = hours("Mon-Fri 08:00-18:00 UTC", &any_zone).ok();
        Arc::new(Limits { max_seconds: Some(60), hours, ..Limits::default() })
    }

    fn parse(label: &str, text: &str) -> Result<Vec<Invited>, Fault> {
        super::parse(label, text, &any_zone)
    }

    fn row(number: u8, standing: Standing) -> Invited {
        Invited {
            invitation: Some(OpenInvitation { id: ClientId([number; 16]), until: 1_800_000_000 }),
            terms: JoinTerms {
                name: format!("alice-{number}"),
                services: test_vectors::client().services,
                expires: (number == 4).then_some(1_900_000_000),
                limits: (number == 4).then(limits),
            },
            standing,
        }
    }

    fn rows() -> Vec<Invited> {
        let (key, _) = PublicKey::from_line(LINE).unwrap();
        let golden = test_vectors::client().key;
        vec![
            row(1, Standing::Open(JoinRule::Approval)),
            row(2, Standing::Open(JoinRule::Auto)),
            row(3, Standing::Open(JoinRule::Only(key.fingerprint()))),
            row(4, Standing::Pending(key)),
            Invited { invitation: None, ..row(5, Standing::Joined(ClientId([77; 16]), golden)) },
        ]
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        let text = print(&rows());
        assert_eq!(parse("joined", &text).unwrap(), rows());
        assert_eq!(parse("joined", "").unwrap(), []);
        let first = text.lines().nth(2).unwrap();
        let id = "01010101010101010101010101010101";
        let until = "until=\"2027-01-15T08:00:00Z\"";
        assert_eq!(first, format!("invite={id},{until},services=\"ssh\" alice-1"));
    }

    #[test]
    fn a_line_of_who_joined_can_move_to_the_clients_file_when_the_invitation_is_over() {
        let text = print(&rows());
        let line = text.lines().last().unwrap();
        let clients = crate::keys::authorized::parse("clients", line, &any_zone).unwrap();
        assert_eq!(clients, rows()[4].clients());
    }

    #[test]
    fn a_damaged_line_is_refused_with_its_place() {
        let good = print(&rows());
        for (from, to) in [
            (",until=\"2027-01-15T08:00:00Z\",join=\"auto\"", ",join=\"auto\""),
            ("join=\"auto\"", "join=\"SHA256:x\""),
            ("until=\"2027-01-15T08:00:00Z\"", "until=\"soon\""),
            ("services=\"ssh\" alice-1", "services=\"ssh\" "),
            ("alice-2", "alice-1"),
            ("invite=0202", "invite=0101"),
            ("invite=01010101010101010101010101010101,until=\"2027-01-15T08:00:00Z\",", ""),
        ] {
            assert!(good.contains(from), "{from}");
            let mut text = good.replacen(from, to, 1);
            if to == "invite=0101" {
                text = text.replace(
                    "invite=01010202020202020202020202020202",
                    "invite=01010101010101010101010101010101",
                );
            }
            let fault = parse("joined", &text).unwrap_err();
            assert!(fault.what.starts_with("joined:"), "{fault}");
        }
        // Nobody can invite himself by a line of the clients file.
        let line = format!("invite={},services=\"ssh\" {LINE}", ClientId([1; 16]));
        let fault = crate::keys::authorized::parse("clients", &line, &any_zone).unwrap_err();
        assert!(fault.what.contains("unknown option `invite`"), "{fault}");
    }

    #[test]
    fn both_files_become_one_table_and_nobody_stands_in_both() {
        let client = test_vectors::client();
        let rows = &rows()[..4];
        let table = |client| ClientTable::from(vec![client]);
        let both = merge("clients", table(client.clone()), rows, &ClientTable::default()).unwrap();
        assert_eq!((both.len(), both.iter().count()), (1, 5));
        // A second look changes nothing: the listener is told nothing.
        let again = merge("clients", table(client.clone()), rows, &both).unwrap();
        assert!(both.changes(&again).new.is_empty() && both.changes(&again).gone.is_empty());
        let (key, _) = PublicKey::from_line(LINE).unwrap();
        for other in [
            crate::core::service::Client { name: "alice-1".into(), ..client.clone() },
            crate::core::service::Client { key, ..client.clone() },
            crate::core::service::Client { id: ClientId([1; 16]), ..client },
        ] {
            let fault = merge("clients", table(other), rows, &ClientTable::default()).unwrap_err();
            assert!(fault.what.starts_with("clients:"), "{fault}");
        }
    }
}
