use super::*;
use crate::config::native;
use crate::core::joining::{Invited, JoinRule, JoinTerms, OpenInvitation, Standing};
use crate::core::test_vectors;
use crate::keys::authorized::joined;

fn foreseen() -> Foreseen {
    Foreseen {
        holder: "alice".to_owned(),
        service: "ssh".to_owned(),
        services: vec!["ssh".to_owned()],
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
    let gateway = "192.0.2.1".to_owned();
    Explanation { foreseen, from, named: from, gateway, firewall: FirewallWay::default() }
}

#[test]
fn a_knock_that_opens_is_told_with_what_it_gets() {
    let explanation = explanation(foreseen());
    assert!(explanation.opens());
    let text = explanation.text();
    let (text, until) = text.split_once(", until ").expect("the end of the grant");
    assert!(until.ends_with('\n') && until.len() >= "hh:mm:ss\n".len(), "{until}");
    assert_eq!(
        text,
        "yes: alice gets ssh from 203.0.113.7 for 60 s\n  \
         policy      granted: 203.0.113.7 reaches 22/tcp for 60 s\n  \
         limit       alice has 1 grant of at most 16\n  \
         time        the gateway's clock is sure; a knock that is more than 30 s old or 10 s ahead \
         costs a challenge\n  \
         is told     status granted; `toctoc open` ends with 0 and says:\n              \
         granted: 203.0.113.7 may reach 22/tcp at 192.0.2.1 for 1 min"
    );
}

#[test]
fn what_stops_a_knock_comes_with_its_reason_and_the_words_that_the_client_reads() {
    let silence = "no receipt; `toctoc open` ends with 3 and says:\n              \
                   no answer from 192.0.2.1 to its knocks; ssh may be open all the same\n";
    let full = "status full; `toctoc open` ends with 1 and says:\n              \
                refused: the limit of grants is reached, for you or for ssh as a whole\n                \
                wait until one ends, or end yours: toctoc close PROFILE ssh\n";
    let guard = "status trouble; `toctoc open` ends with 1 and says:\n              \
                 refused: the gateway could not open ssh: its guard is off";
    let nobody = "refused: the gateway grants 203.0.113.7 to nobody";
    let profile = "`toctoc list` shows the services of your profile";
    for (foreseen, row, told) in [
        (refused("full"), "policy      refused: too many; wait", full),
        (refused("none"), "refused: too many; wait", silence),
        (refused("address"), "refused: too many; wait", nobody),
        (refused("denied"), "refused: too many; wait", profile),
        (stopped("trouble"), "stops it    the disk; see the log", guard),
        (stopped("none"), "policy      granted", silence),
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
fn a_service_that_the_line_does_not_name_is_told_with_those_that_it_names() {
    let other = Foreseen { services: vec!["web".to_owned()], ..refused("denied") };
    let told = explanation(other).told();
    assert!(told.ends_with("your profile has: web. For another service, ask the gateway's admin"));
}

#[test]
fn a_knock_that_names_another_address_is_told_which_ones() {
    let named: IpAddr = [192, 168, 0, 7].into();
    let told = Explanation { named, ..explanation(refused("address")) }.told();
    let words = "named 192.168.0.7, but it reached the gateway from 203.0.113.7";
    assert!(told.contains(words) && told.contains("open PROFILE ssh --source"), "{told}");
}

#[test]
fn how_the_firewall_was_followed_is_said() {
    let mut explained = explanation(foreseen());
    explained.firewall.paths.push(PortPath::through_for_test("22/tcp"));
    let kernel = "firewall    22/tcp: no chain but ours sees it\n  \
                  traced      by the kernel: packets went through a copy of this network\n";
    assert!(explained.text().contains(kernel) && explained.opens(), "{}", explained.text());
    explained.firewall.not_traced = Some("no root".to_owned());
    let read = "traced      not by the kernel, the rules were read: no root\n";
    assert!(explained.text().contains(read), "{}", explained.text());
}

#[test]
fn a_grant_that_the_own_firewall_drops_opens_nothing() {
    let mut dropped = explanation(foreseen());
    dropped.firewall.paths.push(PortPath::dropped_for_test("22/tcp"));
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
