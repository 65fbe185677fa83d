use super::*;
use crate::config::native;
use crate::core::joining::{Invited, JoinRule, JoinTerms, OpenInvitation, Standing};
use crate::core::test_vectors;
use crate::keys::authorized::joined;

fn foreseen() -> Foreseen {
    Foreseen {
        holder: "alice".to_owned(),
        service: "ssh".to_owned(),
        grant: Some(ForeseenGrant {
            address: "203.0.113.7".to_owned(),
            seconds: 60,
            form: "time".to_owned(),
            ports: vec!["22/tcp".to_owned()],
        }),
        refusal: None,
        limits: vec![Limit { of: "alice".to_owned(), grants: 1, most: 16 }],
        clock: "sure".to_owned(),
        window: [30, 10],
        obstacles: Vec::new(),
    }
}

fn refused(status: &str) -> Foreseen {
    let [status, why, remedy] = [status, "too many", "wait"].map(str::to_owned);
    let refusal = Some(ForeseenRefusal { status, why, remedy });
    Foreseen { grant: None, refusal, ..foreseen() }
}

fn stopped(status: &str) -> Foreseen {
    let [what, remedy, status] = ["the disk", "see the log", status].map(str::to_owned);
    Foreseen { obstacles: vec![Obstacle { what, remedy, status }], ..foreseen() }
}

fn explanation(foreseen: Foreseen) -> Explanation {
    let from: IpAddr = [203, 0, 113, 7].into();
    Explanation { foreseen, from, named: from, paths: Vec::new(), receipt: None }
}

#[test]
fn a_knock_that_opens_is_told_with_what_it_gets() {
    let explanation = explanation(foreseen());
    assert!(explanation.opens());
    assert_eq!(
        explanation.text(),
        "yes: alice gets ssh from 203.0.113.7 for 60 s\n  \
         policy      granted: 203.0.113.7 reaches 22/tcp for 60 s\n  \
         limit       alice has 1 grant of at most 16\n  \
         time        the gateway's clock is sure; a knock that is more than 30 s old or 10 s ahead \
         costs a challenge\n  \
         is told     status granted; `toctoc open` ends with 0\n"
    );
}

#[test]
fn what_stops_a_knock_comes_with_its_reason_and_what_the_client_hears() {
    for (foreseen, row, told) in [
        (refused("full"), "policy      refused: too many; wait", "is told     status full;"),
        (refused("none"), "refused: too many; wait", "nothing; `toctoc open` ends with 3"),
        (stopped("trouble"), "stops it    the disk; see the log", "status trouble;"),
        (stopped("none"), "policy      granted", "nothing; `toctoc open` ends with 3"),
    ] {
        let explanation = explanation(foreseen);
        let text = explanation.text();
        assert!(!explanation.opens(), "{text}");
        assert!(text.starts_with("no: alice does not get ssh from 203.0.113.7\n"), "{text}");
        assert!(text.contains(row) && text.contains(told), "{text}");
    }
    let door = Foreseen { holder: "door web".to_owned(), ..refused("full") };
    assert!(explanation(door).text().ends_with("nothing: a classic door never answers\n"));
}

#[test]
fn a_grant_that_the_own_firewall_drops_opens_nothing() {
    let mut dropped = explanation(foreseen());
    dropped.paths.push(PortPath::dropped_for_test("22/tcp"));
    assert!(!dropped.opens());
    let text = dropped.text();
    assert!(
        text.contains("policy      granted") && text.contains("firewall    22/tcp: "),
        "{text}"
    );
}

#[test]
fn whoever_joined_is_found_and_not_the_invitation_of_the_same_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = native::parse("t", "").unwrap();
    settings.gateway.state_dir = folder.path().to_owned();
    settings.gateway.clients_file = folder.path().join("clients");
    settings.gateway.control_socket = folder.path().join("control");
    let row = |name: &str, number: u8, standing| Invited {
        invitation: Some(OpenInvitation { id: ClientId([number; 16]), until: 4_000_000_000 }),
        terms: JoinTerms {
            name: name.to_owned(),
            services: test_vectors::client().services,
            expires: None,
            limits: None,
        },
        standing,
    };
    let joined_by = Standing::Joined(ClientId([9; 16]), test_vectors::client().key);
    let rows = [row("alice", 1, joined_by), row("bob", 2, Standing::Open(JoinRule::Auto))];
    std::fs::write(&settings.gateway.clients_file, "").unwrap();
    std::fs::write(folder.path().join("joined"), joined::print(&rows)).unwrap();
    let id = |name: &str| client_id(Path::new("t"), &settings, name);
    assert_eq!(id("alice").unwrap(), ClientId([9; 16]));
    assert!(id("bob").unwrap_err().what.contains("is invited and has not joined"));
    assert_eq!(id("carol").unwrap_err().kind, FaultKind::Name);
}
