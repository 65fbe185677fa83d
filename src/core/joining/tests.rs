//! Each row of the table in docs/protocol.md, and what time does to an invitation.

use super::*;
use crate::core::test_vectors;

const NOW: u64 = 1_772_366_400;
/// Later than any invitation.
const EXPIRES: u64 = NOW + 10 * AFTER;

fn limits() -> Arc<Limits> {
    Arc::new(Limits { max_seconds: Some(60), max_grants: Some(2), ..Limits::default() })
}

fn key(byte: u8) -> PublicKey {
    PublicKey::plain([byte; 32])
}

fn invited(number: u8, standing: Standing) -> Invited {
    Invited {
        invitation: Some(OpenInvitation { id: ClientId([number; 16]), until: NOW + FIRST }),
        terms: JoinTerms {
            name: format!("client-{number}"),
            services: test_vectors::client().services,
            expires: Some(EXPIRES),
            limits: Some(limits()),
        },
        standing,
    }
}

fn asking(invitation: u8, key: PublicKey) -> Asking {
    let new_id = ClientId([100 + invitation; 16]);
    Asking { invitation: ClientId([invitation; 16]), key, new_id, now: NOW }
}

/// The answer to a key that asks by invitation 1, and the line afterwards.
fn answered(standing: Standing, key: PublicKey) -> (JoinAnswer, Standing) {
    let mut rows = vec![invited(2, Standing::Pending(self::key(9))), invited(1, standing)];
    let answer = answer(&mut rows, &asking(1, key), false);
    assert_eq!(rows[0], invited(2, Standing::Pending(self::key(9))), "of another line");
    (answer, rows.pop().unwrap().standing)
}

#[test]
fn each_line_of_the_table_has_its_answer() {
    let id = ClientId([101; 16]);
    let joined = |byte| Standing::Joined(id, key(byte));
    let only = Standing::Open(JoinRule::Only(key(1).fingerprint()));
    for (before, asks, answer, after) in [
        (Standing::Open(JoinRule::Auto), 1, JoinAnswer::Enrolled(id), joined(1)),
        (only.clone(), 1, JoinAnswer::Enrolled(id), joined(1)),
        (only.clone(), 2, JoinAnswer::Denied, only.clone()),
        (Standing::Open(JoinRule::Approval), 1, JoinAnswer::Pending, Standing::Pending(key(1))),
        (Standing::Pending(key(1)), 1, JoinAnswer::Pending, Standing::Pending(key(1))),
        (Standing::Pending(key(1)), 2, JoinAnswer::Taken(key(1)), Standing::Pending(key(1))),
        (joined(1), 1, JoinAnswer::Enrolled(id), joined(1)),
        (joined(1), 2, JoinAnswer::Taken(key(1)), joined(1)),
        // The key of another line.
        (Standing::Open(JoinRule::Auto), 9, JoinAnswer::Denied, Standing::Open(JoinRule::Auto)),
    ] {
        assert_eq!(answered(before.clone(), key(asks)), (answer, after), "{before:?} {asks}");
    }
}

#[test]
fn a_key_of_the_clients_file_is_denied_and_nothing_changes() {
    let mut rows = vec![invited(1, Standing::Open(JoinRule::Auto))];
    assert_eq!(answer(&mut rows, &asking(1, key(1)), true), JoinAnswer::Denied);
    assert_eq!(rows, [invited(1, Standing::Open(JoinRule::Auto))]);
}

#[test]
fn a_client_that_was_forgiven_is_told_its_newer_id() {
    let standing = Standing::Joined(ClientId([7; 16]), key(1));
    assert_eq!(answered(standing, key(1)).0, JoinAnswer::Enrolled(ClientId([7; 16])));
}

#[test]
fn an_invitation_can_be_used_for_a_day_and_answers_for_a_week_after_it_was_used() {
    let ask = |now| Asking { now, ..asking(1, key(1)) };
    let mut rows = vec![invited(1, Standing::Open(JoinRule::Approval))];
    assert_eq!(answer(&mut rows.clone(), &ask(NOW + FIRST), false), JoinAnswer::Gone);
    assert_eq!(answer(&mut rows, &ask(NOW + FIRST - 1), false), JoinAnswer::Pending);
    let asked = NOW + FIRST - 1;
    assert_eq!(rows[0].invitation.unwrap().until, asked + AFTER);
    // To ask again does not make it longer.
    assert_eq!(answer(&mut rows, &ask(asked + AFTER - 1), false), JoinAnswer::Pending);
    assert_eq!(answer(&mut rows, &ask(asked + AFTER), false), JoinAnswer::Gone);
    assert_eq!(answer(&mut rows, &asking(3, key(1)), false), JoinAnswer::Gone, "never was");
}

#[test]
fn no_invitation_outlasts_the_enrolment_that_it_leads_to() {
    assert_eq!(end(NOW, FIRST, None), NOW + FIRST);
    assert_eq!(end(NOW, FIRST, Some(NOW + 60)), NOW + 60);
    let mut row = invited(1, Standing::Open(JoinRule::Auto));
    row.terms.expires = Some(NOW + FIRST + 60);
    let mut rows = vec![row];
    let late = Asking { now: NOW + FIRST - 1, ..asking(1, key(1)) };
    assert_eq!(answer(&mut rows, &late, false), JoinAnswer::Enrolled(late.new_id));
    assert_eq!(rows[0].invitation.unwrap().until, NOW + FIRST + 60);
}

#[test]
fn what_is_over_goes_except_who_has_joined() {
    let joined = Standing::Joined(ClientId([7; 16]), key(1));
    let all = vec![
        invited(1, Standing::Open(JoinRule::Auto)),
        invited(2, Standing::Pending(key(2))),
        invited(3, joined.clone()),
    ];
    let mut rows = all.clone();
    drop_over(&mut rows, NOW + FIRST - 1);
    assert_eq!(rows, all);
    drop_over(&mut rows, NOW + FIRST);
    assert_eq!(rows, [Invited { invitation: None, ..invited(3, joined) }]);
}

#[test]
fn a_line_is_an_invitation_and_whoever_joined_is_a_client_beside_it() {
    let open = invited(1, Standing::Open(JoinRule::Auto)).clients();
    assert_eq!(open.len(), 1);
    assert_eq!((open[0].id, open[0].invited_until), (ClientId([1; 16]), Some(NOW + FIRST)));
    assert!(open[0].services.is_empty());
    let joined = invited(1, Standing::Joined(ClientId([7; 16]), key(1))).clients();
    let [client, invitation] = joined.as_slice() else { panic!("{joined:?}") };
    assert_eq!(*invitation, open[0], "it stays, to answer again");
    assert_eq!((client.id, &client.key, client.invited_until), (ClientId([7; 16]), &key(1), None));
    assert_eq!((client.expires, client.limits()), (Some(EXPIRES), &*limits()));
    let over =
        Invited { invitation: None, ..invited(1, Standing::Joined(ClientId([7; 16]), key(1))) };
    assert_eq!(over.clients(), std::slice::from_ref(client));
}
