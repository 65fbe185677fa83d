//! Clients and invitations that are about to end, and those that wait.

use crate::app::finding::Finding;
use crate::app::joined::{self, ClientFiles};
use crate::app::load;
use crate::app::output::count;
use crate::config::Settings;
use crate::core::clients::ClientTable;
use crate::core::joining::{AFTER, FIRST, Invited, Standing};
use crate::core::service::Client;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// A client whose enrolment ends within this time is named.
const SOON: u64 = 7 * DAY;
/// The most clients, and the most invitations, that are named.
const SHOWN: usize = 10;

/// Notes about the clients at `now`, in seconds since the epoch.
pub(super) fn remarks(settings: &Settings, clients: &ClientTable, now: u64) -> Vec<Finding> {
    let files = ClientFiles::of(settings);
    let file = files.clients.display().to_string();
    let text = load::clients_text(&files.clients).unwrap_or_default();
    let mut all = expiring(clients, now, &file, &text);
    let rows = joined::read(&files.joined).unwrap_or_default();
    let file = files.joined.display().to_string();
    let text = joined::text(&files.joined).unwrap_or_default();
    let open = rows.iter().filter(|row| !matches!(row.standing, Standing::Joined(..)));
    let mut left_out = 0;
    for (index, row) in open.enumerate() {
        match index < SHOWN {
            true => all.extend(invitation(row, now, &place(&file, &text, &row.terms.name))),
            false => left_out += 1,
        }
    }
    if left_out > 0 {
        let more = count(left_out, "more invitation");
        all.push(Finding::note(format!("and {more}: `toctocd client list` shows them")));
    }
    all
}

/// The clients whose enrolment has ended, or ends soon.
fn expiring(clients: &ClientTable, now: u64, file: &str, text: &str) -> Vec<Finding> {
    let mut ending: Vec<(u64, &Client)> = Vec::new();
    for client in clients.iter().filter(|client| client.invited_until.is_none()) {
        ending.extend(client.expires.filter(|at| *at <= now + SOON).map(|at| (at, client)));
    }
    ending.sort_by_key(|(expires, _)| *expires);
    let mut all = Vec::new();
    for (expires, client) in ending.iter().take(SHOWN) {
        let name = &client.name;
        let place = place(file, text, name);
        all.push(Finding::note(match expires.checked_sub(now).filter(|left| *left > 0) {
            Some(left) => format!(
                "client {name} expires in {}{place}: write a later `expires` there, then `toctocd reload`",
                span(left)
            ),
            None => format!(
                "client {name} has expired {} ago{place}: `toctocd client revoke {name}`, or write a \
                 later `expires` there",
                span(now - expires)
            ),
        }));
    }
    if ending.len() > SHOWN {
        let more = count(ending.len() - SHOWN, "more client");
        all.push(Finding::note(format!("and {more}: `toctocd client list` shows them")));
    }
    all
}

/// The note about an invitation that can still be used, or a key that waits.
fn invitation(row: &Invited, now: u64, place: &str) -> Option<Finding> {
    let until = row.invitation?.until;
    let left = until.checked_sub(now).filter(|left| *left > 0)?;
    let (name, is_whole) = (&row.terms.name, row.terms.expires != Some(until));
    // An invitation that an expiry cut short does not say when it began.
    let since = |whole: u64| match whole.checked_sub(left) {
        Some(age) if is_whole => format!("for {} already", span(age)),
        _ => "already".to_owned(),
    };
    let left = span(left);
    Some(Finding::note(match row.standing {
        Standing::Pending(_) => format!(
            "a key waits {} to join as {name}, for {left} more{place}: compare its fingerprint, then \
             `toctocd client approve {name}`, or `toctocd client revoke {name}`",
            since(AFTER)
        ),
        _ => format!(
            "the invitation of {name} is open {}, for {left} more{place}: whoever has its line can \
             ask to join; `toctocd client revoke {name}` takes it back",
            since(FIRST)
        ),
    }))
}

/// ` (FILE:LINE)`, of the line that ends with this name.
fn place(file: &str, text: &str, name: &str) -> String {
    let is_line = |line: &str| {
        !line.trim_start().starts_with('#') && line.split_whitespace().last() == Some(name)
    };
    match text.lines().position(is_line) {
        Some(index) => format!(" ({file}:{})", index + 1),
        None => String::new(),
    }
}

/// `3 days`, `5 hours`, `2 minutes`.
fn span(seconds: u64) -> String {
    let of = |number: u64, noun| count(usize::try_from(number).unwrap_or(usize::MAX), noun);
    match seconds {
        _ if seconds >= 2 * DAY => of(seconds / DAY, "day"),
        _ if seconds >= 2 * HOUR => of(seconds / HOUR, "hour"),
        _ => of(seconds.div_ceil(60), "minute"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::joining::{JoinRule, JoinTerms, OpenInvitation};
    use crate::core::test_vectors;
    use crate::core::types::ClientId;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_client_that_expires_within_a_week_is_named_with_its_line() {
        let client = |number: u8, days: i64| {
            let expires = NOW.checked_add_signed(days * 86_400 + 3600);
            let id = ClientId([number; 16]);
            Client {
                id,
                name: format!("c{number}").as_str().into(),
                expires,
                ..test_vectors::client()
            }
        };
        let clients = vec![client(1, 3), client(2, 8), client(3, -2), client(4, 6)];
        let text = "# c1\nid=1 c1\nid=2 c2\nid=3 c3\n";
        let found = expiring(&ClientTable::from(clients), NOW, "clients", text);
        let said: Vec<&str> = found.iter().map(|one| one.text.as_str()).collect();
        assert!(
            said[0].starts_with("client c3 has expired 47 hours ago (clients:4): "),
            "{said:?}"
        );
        assert!(said[1].starts_with("client c1 expires in 3 days (clients:2): write"), "{said:?}");
        assert!(said[2].starts_with("client c4 expires in 6 days: "), "{said:?}");
        assert_eq!(said.len(), 3);
        assert!(found.iter().all(|one| !one.is_warning));
    }

    #[test]
    fn an_open_invitation_is_named_with_its_age() {
        let row = |until, expires, standing| Invited {
            invitation: Some(OpenInvitation { id: ClientId([1; 16]), until }),
            terms: JoinTerms {
                name: "alice".to_owned(),
                services: test_vectors::client().services,
                expires,
                limits: None,
            },
            standing,
        };
        let said = |row: &Invited| invitation(row, NOW, " (joined:3)").map(|one| one.text);
        let open = Standing::Open(JoinRule::Auto);
        let text = said(&row(NOW + 3 * HOUR, None, open.clone())).unwrap();
        let expected = "the invitation of alice is open for 21 hours already, for 3 hours more \
                        (joined:3): ";
        assert!(text.starts_with(expected), "{text}");
        // Cut short by the expiry: nobody knows its age.
        let text = said(&row(NOW + 3 * HOUR, Some(NOW + 3 * HOUR), open.clone())).unwrap();
        assert!(text.starts_with("the invitation of alice is open already, for 3 hours"), "{text}");
        assert_eq!(said(&row(NOW, None, open)), None, "it is over");
        let pending = Standing::Pending(test_vectors::client().key);
        let text = said(&row(NOW + 6 * DAY, None, pending)).unwrap();
        assert!(text.starts_with("a key waits for 24 hours already to join as alice"), "{text}");
    }
}
