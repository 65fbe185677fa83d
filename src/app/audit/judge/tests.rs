//! What a hand-made measurement is judged to be.

use std::path::PathBuf;

use super::*;
use crate::app::audit::measure::GrantRounds;
use crate::config::native;
use crate::core::grants::Element;
use crate::edge::listening::Process;

const HOLDER: &str = "192.0.2.9";
const STRANGER: &str = "198.51.100.7";

fn settings(more: &str) -> Settings {
    let text = format!(
        "{more}\n[service.ssh]\nports = [\"22/tcp\"]\n[service.web]\nports = [\"443/tcp\"]\n"
    );
    native::parse("t.toml", &text).unwrap()
}

fn port(text: &str) -> Port {
    Port::read(text).unwrap()
}

fn sighting(who: &str, seen: Seen) -> Sighting {
    let target = "203.0.113.1".parse().unwrap();
    Sighting { who: who.to_owned(), address: who.parse().unwrap(), target, seen }
}

/// A round in which these see something, and holder and stranger see nothing else.
fn round(open: &[(&str, &str, Seen)]) -> Round {
    let mut round = Round::new();
    for at in ["22/tcp", "80/tcp", "443/tcp", "2222/tcp"] {
        for who in [HOLDER, STRANGER] {
            let seen = open.iter().find(|one| one.0 == at && one.1 == who);
            let seen = seen.map_or(Seen::Silent, |one| one.2);
            round.entry(port(at)).or_default().push(sighting(who, seen));
        }
    }
    round
}

fn reached(at: &str) -> Seen {
    Seen::Reached(port(at))
}

/// A grant for ssh to the holder, with these rounds.
fn grant(
    settings: &Settings, mut holder: Round, strangers: Round, mut after: Round,
) -> GrantRounds {
    for round in holder.values_mut().chain(after.values_mut()) {
        round.retain(|one| one.who == HOLDER);
    }
    let service = settings.services.iter().find(|one| one.name.as_str() == "ssh").unwrap();
    let source = Source::new(HOLDER.parse().unwrap());
    let elements = vec![Element::plain(service.name, source, service.form)];
    let service = service.clone();
    let grant = Grant { name: "ssh".to_owned(), service, elements, from_port: None };
    GrantRounds { grant, holder, strangers, after }
}

fn subject(at: &str, program: &str) -> Subject {
    let process = Process {
        pid: 7,
        name: program.to_owned(),
        program: PathBuf::from(format!("/usr/sbin/{program}")),
        command: String::new(),
    };
    let local = (IpAddr::from([0; 4]), port(at).number).into();
    let proto = port(at).proto;
    let sockets = vec![ListeningSocket { proto, local, process: Some(process) }];
    Subject { port: port(at), sockets }
}

fn judged(settings: &Settings, measured: &Measurement) -> Verdict {
    let subjects = [
        subject("22/tcp", "sshd"),
        subject("80/tcp", "nginx"),
        subject("443/tcp", "nginx"),
        subject("2222/tcp", "sshd"),
    ];
    Judge { settings, has_guard: true, subjects: &subjects, measured }.verdict()
}

/// The holes, each as `about: what`.
fn holes(verdict: &Verdict) -> Vec<String> {
    let holes = verdict.findings.iter().filter(|one| one.grade == Grade::Hole);
    holes.map(|one| format!("{}: {}", one.about, one.what)).collect()
}

#[test]
fn a_sound_host_has_no_hole_and_its_table_says_who_gets_in() {
    let settings = settings("");
    let open = [("80/tcp", HOLDER, reached("80/tcp")), ("80/tcp", STRANGER, reached("80/tcp"))];
    let held = [open[0], open[1], ("22/tcp", HOLDER, reached("22/tcp"))];
    let shut = round(&open);
    let grants = vec![grant(&settings, round(&held), round(&open), round(&open))];
    let verdict = judged(&settings, &Measurement { shut, grants });
    assert_eq!(verdict.findings, []);
    let cells =
        |row: &ReportRow| row.cells.iter().map(|cell| cell.text.clone()).collect::<Vec<_>>();
    assert_eq!(cells(&verdict.rows[0]), ["silent", "silent", "ssh"]);
    assert_eq!(cells(&verdict.rows[1]), ["OPEN", "OPEN", "as strangers"]);
    assert_eq!(cells(&verdict.rows[2]), ["silent", "silent", "nobody"]);
    assert!(verdict.rows.iter().all(|row| row.cells.iter().all(|cell| !cell.is_hole)));
}

#[test]
fn a_stranger_at_a_guarded_port_is_a_hole_and_a_break_glass_address_is_none() {
    let shut = round(&[("22/tcp", STRANGER, Seen::Answered)]);
    let measured = Measurement { shut, grants: Vec::new() };
    let verdict = judged(&settings(""), &measured);
    assert_eq!(
        holes(&verdict),
        [format!("22/tcp (ssh): reached while all is shut, by {STRANGER}")]
    );
    let marked: Vec<bool> = verdict.rows[0].cells.iter().map(|cell| cell.is_hole).collect();
    assert_eq!(marked, [true, true, false]);
    let glass = settings(&format!("[firewall]\nbreak_glass = [\"{STRANGER}\"]\n"));
    let verdict = judged(&glass, &measured);
    assert_eq!(holes(&verdict), [""; 0]);
    assert_eq!(verdict.findings.last().map(|one| one.grade), Some(Grade::Note));
}

#[test]
fn a_refused_stranger_is_no_hole() {
    let shut = round(&[("22/tcp", STRANGER, Seen::Refused)]);
    let verdict = judged(&settings(""), &Measurement { shut, grants: Vec::new() });
    assert_eq!(holes(&verdict), [""; 0]);
    assert_eq!(verdict.rows[0].cells[0].text, "refused");
}

#[test]
fn what_a_grant_opens_beyond_what_it_says_is_a_hole() {
    let settings = settings("");
    let none = || round(&[]);
    let held = || round(&[("22/tcp", HOLDER, reached("22/tcp"))]);
    for (rounds, hole) in [
        (
            grant(&settings, held(), round(&[("22/tcp", STRANGER, reached("22/tcp"))]), none()),
            format!("22/tcp (ssh): while a grant is open (ssh), it is open to {STRANGER}"),
        ),
        (
            grant(&settings, round(&[("443/tcp", HOLDER, reached("443/tcp"))]), none(), none()),
            format!("443/tcp (web): a grant for another service (ssh) opens it too, to {HOLDER}"),
        ),
        (
            grant(&settings, held(), none(), held()),
            format!("22/tcp (ssh): still reached after the end of a grant (ssh), by {HOLDER}"),
        ),
    ] {
        let measured = Measurement { shut: none(), grants: vec![rounds] };
        assert_eq!(holes(&judged(&settings, &measured)), [hole]);
    }
    // A grant for one connection answers others, and carries none.
    let after = round(&[("22/tcp", HOLDER, Seen::Answered)]);
    let grants = vec![grant(&settings, held(), none(), after)];
    assert_eq!(holes(&judged(&settings, &Measurement { shut: none(), grants })), [""; 0]);
}

#[test]
fn whoever_a_grant_is_for_is_no_stranger_while_it_is_open() {
    let settings = settings("");
    let held = || round(&[("22/tcp", HOLDER, reached("22/tcp"))]);
    let grants = vec![grant(&settings, held(), held(), round(&[]))];
    let verdict = judged(&settings, &Measurement { shut: round(&[]), grants });
    assert_eq!((holes(&verdict), verdict.rows[0].cells[1].text.as_str()), (vec![], "silent"));
}

#[test]
fn a_way_around_to_a_service_is_a_hole() {
    let settings = settings("");
    let by =
        |seen| Measurement { shut: round(&[("2222/tcp", STRANGER, seen)]), grants: Vec::new() };
    let redirected = judged(&settings, &by(reached("443/tcp")));
    let hole = format!(
        "2222/tcp: it leads to service web, 443/tcp, by a translation: reached by {STRANGER}"
    );
    assert!(holes(&redirected).contains(&hole), "{:?}", holes(&redirected));
    let twin = judged(&settings, &by(reached("2222/tcp")));
    assert_eq!(holes(&twin), ["2222/tcp: it is the same program as 22/tcp, which is guarded"]);
    let gone = judged(&settings, &by(Seen::Forwarded("172.17.0.2:80".parse().unwrap())));
    let published = gone.findings.iter().find(|one| one.grade == Grade::Warn).unwrap();
    assert!(
        published.what.starts_with("it goes on to 172.17.0.2:80, and no service"),
        "{published:?}"
    );
}

#[test]
fn a_socket_on_loopback_that_answers_outside_is_a_hole() {
    let mut shut = round(&[]);
    let target = "127.0.0.1".parse().unwrap();
    let seen = reached("80/tcp");
    shut.entry(port("80/tcp")).or_default().push(Sighting { target, ..sighting(STRANGER, seen) });
    let verdict = judged(&settings(""), &Measurement { shut, grants: Vec::new() });
    let said = holes(&verdict);
    assert!(said[0].starts_with("80/tcp: a socket on loopback is reached"), "{said:?}");
    // What a translation leads on to another machine reaches no socket here.
    let mut shut = round(&[]);
    let seen = Seen::Forwarded("172.17.0.2:80".parse().unwrap());
    shut.entry(port("80/tcp")).or_default().push(Sighting { target, ..sighting(STRANGER, seen) });
    let verdict = judged(&settings(""), &Measurement { shut, grants: Vec::new() });
    assert_eq!(holes(&verdict), [""; 0]);
}

#[test]
fn a_grant_that_does_not_open_its_service_is_a_warning() {
    let settings = settings("");
    let none = || round(&[]);
    let grants = vec![grant(&settings, none(), none(), none())];
    let verdict = judged(&settings, &Measurement { shut: none(), grants });
    let [warning] = &verdict.findings[..] else { panic!("{:?}", verdict.findings) };
    assert_eq!(warning.grade, Grade::Warn);
    assert!(warning.what.starts_with("a grant (ssh) does not open it to 192.0.2.9"), "{warning:?}");
}
