//! The configurations of tests/fwknop-configs.txt, and .fwknoprc. The end-to-end tests ask the real
//! fwknopd about the same ones.

use proptest::prelude::*;

use super::*;
use crate::config::{defaults, native};

/// 2026-03-01.
const NOW: u64 = 1_772_323_200;

/// The files of one configuration, by their names; the first is access.conf.
struct Case {
    head: &'static str,
    files: Vec<(String, String)>,
}

fn cases() -> Vec<Case> {
    let text = include_str!("../../../../tests/fwknop-configs.txt");
    let mut cases = Vec::new();
    for case in text.split("\n=== ").skip(1) {
        let (head, body) = case.split_once("\n\n").unwrap();
        let mut files = vec![("DIR/access.conf".to_owned(), String::new())];
        for line in body.trim_end_matches('\n').split('\n') {
            match line.strip_prefix("--- ") {
                Some(name) => files.push((format!("DIR/{name}"), String::new())),
                None => files.last_mut().unwrap().1 += &format!("{line}\n"),
            }
        }
        for (_, text) in &mut files {
            *text = text.replace("%DIR%", "DIR");
        }
        cases.push(Case { head, files });
    }
    cases
}

fn converted(files: &[(String, String)], existing: &Settings) -> Result<Converted, Fault> {
    let text = |path: &str| match files.iter().find(|(name, _)| name == path) {
        Some((_, text)) => Ok(text.clone()),
        None => Err(Fault::new(format!("{path}: no such file"), "")),
    };
    let folder = |path: &str| {
        let inside = |name: &&String| name.starts_with(path) && name.ends_with(".conf");
        Ok(files.iter().map(|(name, _)| name).filter(inside).cloned().collect())
    };
    let server = files.iter().find(|(name, _)| name.ends_with("fwknopd.conf"));
    let sources = Sources {
        access: "DIR/access.conf",
        server: server.map(|(name, _)| name.as_str()),
        files: FileReader { text: &text, folder: &folder },
        own: &["198.51.100.1".parse().unwrap()],
        now: NOW,
    };
    convert(&sources, existing)
}

/// What `toctocd` reads where the sections were appended.
fn appended(toml: &str) -> Settings {
    native::parse("toctocd.toml", toml).unwrap_or_else(|fault| panic!("{fault}\n{toml}"))
}

#[test]
fn each_configuration_of_the_table_becomes_what_its_head_says() {
    let cases = cases();
    assert!(cases.len() > 50, "{}", cases.len());
    let mut wrong = String::new();
    for Case { head, files } in cases {
        let found = converted(&files, &defaults::settings()).unwrap();
        let Converted { toml, invitations, left_out, warnings, .. } = &found;
        let out = format!("{toml}{}", invitations.join("\n"));
        let mut bad = [left_out.as_slice(), warnings].concat();
        // Each names the file and the line.
        let mut is_right = bad.iter().all(|text| text.starts_with("DIR/"));
        let is_refused = bad.iter().any(|text| text.contains("fwknopd refuses the whole file"));
        is_right &= is_refused == head.starts_with('n');
        for line in head.lines().skip(1) {
            let place = bad.iter().position(|text| text.contains(&line[2..]));
            match (line.starts_with('+'), place) {
                (true, _) => is_right &= out.contains(&line[2..]),
                (false, Some(place)) => drop(bad.remove(place)),
                (false, None) => is_right = false,
            }
        }
        is_right &= is_refused || bad.is_empty();
        let expected = head.lines().filter(|line| line.starts_with("+ toctocd invite")).count();
        is_right &= expected == 0 || expected == invitations.len();
        if !is_right {
            wrong += &format!("{head}\n{found:#?}\n");
        }
        assert_eq!(toml.matches("[service.").count(), appended(toml).services.len());
        assert!(!format!("{found:?}").contains("secretsecret"), "a key is shown: {found:#?}");
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn services_that_are_there_already_are_used() {
    let existing = appended("[service.mine]\nports = [\"22/tcp\"]\nseconds = 30\n");
    let access = "SOURCE ANY\nOPEN_PORTS tcp/22\nKEY secretsecret\nFW_ACCESS_TIMEOUT 60\n";
    let files = [("DIR/access.conf".to_owned(), access.to_owned())];
    let found = converted(&files, &existing).unwrap();
    assert_eq!(found.toml, "");
    assert_eq!(found.invitations, ["toctocd invite client-1 --services mine --max-seconds 300"]);
    assert!(found.notes.iter().any(|note| note.contains("lasts 30 s, its own rule lasted 60 s")));
}

#[test]
fn a_folder_that_includes_itself_ends_and_is_named() {
    let access = "SOURCE ANY\nOPEN_PORTS tcp/22\nKEY secretsecret\n%include_folder DIR\n";
    let files = [("DIR/access.conf".to_owned(), access.to_owned())];
    let found = converted(&files, &defaults::settings()).unwrap();
    assert!(found.left_out.iter().any(|text| text.contains("it includes too many files")));
    assert!(converted(&[], &defaults::settings()).is_err());
}

/// Debian's fwknopd is none, so the table has no such configuration.
#[test]
fn the_settings_of_a_firewalld_build_are_known_by_their_own_names() {
    let access = "SOURCE ANY\nOPEN_PORTS tcp/22\nKEY secretsecret\nFORCE_NAT 10.0.0.5 22\n";
    let conf = "ENABLE_FIREWD_FORWARDING Y\n".to_owned();
    let files =
        [("DIR/access.conf".to_owned(), access.to_owned()), ("DIR/fwknopd.conf".to_owned(), conf)];
    let found = converted(&files, &defaults::settings()).unwrap();
    assert!(found.left_out.is_empty() && found.toml.contains("10.0.0.5:22"), "{found:#?}");
}

const RC: &str = "\
[default]
# common
DIGEST_TYPE sha256
FW_TIMEOUT 60
[Home Office]
SPA_SERVER  gate.example.org
ACCESS      tcp/22,udp/1194   # both
ALLOW_IP    resolve
KEY_BASE64  Zm9vc2VjcmV0
USE_HMAC    Y
[away]
SPA_SERVER 203.0.113.9
ACCESS tcp/3389
ALLOW_IP 192.0.2.7 # here
FW_TIMEOUT 0
NAT_ACCESS 10.0.0.5:22
SPA_SERVER_PROTO tcp
[bare]
SPA_SERVER host
";

#[test]
fn a_stanza_of_the_client_becomes_commands_with_what_it_asks_for() {
    let client::ConvertedClient { stanzas, left_out, notes } = client::convert("rc", RC);
    let [home, away, bare] = stanzas.as_slice() else { panic!("{stanzas:#?}") };
    assert_eq!(home.name, "Home Office");
    assert_eq!(home.server.as_deref(), Some("gate.example.org"));
    assert_eq!(
        home.commands,
        [
            "toctoc open home-office ssh --seconds 60s --ask-source",
            "toctoc open home-office openvpn --seconds 60s --ask-source",
        ]
    );
    assert_eq!(away.commands, ["toctoc open away rdp --source 192.0.2.7"]);
    assert_eq!(bare.commands, ["toctoc open bare ssh --seconds 60s"]);
    assert_eq!(left_out.len(), 2, "{left_out:#?}");
    assert!(left_out[0].starts_with("rc:16: NAT_ACCESS: a client does not choose"));
    assert!(left_out[1].starts_with("rc:17: SPA_SERVER_PROTO: knocks go by UDP"));
    assert!(notes.iter().any(|note| note.starts_with("rc:9: KEY_BASE64: no key is carried")));
    assert!(notes.iter().any(|note| note.starts_with("[bare]: it names no ports")));
    assert!(!format!("{stanzas:?}{left_out:?}{notes:?}").contains("Zm9v"), "a key is shown");
}

#[test]
fn what_the_client_of_fwknop_refuses_is_left_out() {
    for (line, wanted) in [
        ("ACCESS icmp/8", "rc:2: ACCESS: its value is refused"),
        ("ALLOW_IP somewhere", "rc:2: ALLOW_IP: its value is refused"),
        ("FW_TIMEOUT -1", "rc:2: FW_TIMEOUT: its value is refused"),
        ("ACCESS", "rc:2: a line has a key and a value: fwknop refuses the file"),
    ] {
        let found = client::convert("rc", &format!("[a]\n{line}\n"));
        assert_eq!(found.left_out, [wanted], "{line}");
    }
}

proptest! {
    /// Whatever a stanza says, what becomes of it is a configuration.
    #[test]
    fn whatever_is_converted_is_a_configuration(
        lines in proptest::collection::vec((0..14_usize, "[ -~]{0,20}"), 0..9),
    ) {
        const VALUES: [&str; 14] = [
            "OPEN_PORTS tcp/22,udp/53,tcp/62201", "OPEN_PORTS udp/62201,tcp/8080",
            "RESTRICT_PORTS tcp/22", "FORCE_NAT 10.0.0.1 22", "FORCE_SNAT 10.0.0.2",
            "CMD_CYCLE_OPEN /opt/x $IP", "CMD_CYCLE_CLOSE /opt/x", "CMD_CYCLE_TIMER 99999",
            "REQUIRE_USERNAME", "SOURCE 10.0.0.0/8", "FW_ACCESS_TIMEOUT 999999", "SOURCE",
            "ENABLE_CMD_EXEC Y", "OPEN_PORTS",
        ];
        let mut access = "SOURCE ANY\nKEY secretsecret\n".to_owned();
        for (index, text) in lines {
            access += &format!("{} {text}\nKEY secretsecret\n", VALUES[index]);
        }
        let conf = "ENABLE_IPT_FORWARDING Y\n".to_owned();
        let files =
            [("DIR/access.conf".to_owned(), access), ("DIR/fwknopd.conf".to_owned(), conf)];
        let found = converted(&files, &defaults::settings()).unwrap();
        appended(&found.toml);
        for invitation in &found.invitations {
            let is_plain = invitation.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
            prop_assert!(is_plain);
        }
        let shown = format!("{found:?}");
        prop_assert!(!shown.contains("secretsecret"));
    }
}

#[test]
fn a_nul_ends_a_line_as_it_does_for_fwknop() {
    let line = super::reader::lines("access.conf", "OPEN_PORTS tcp/22\0,tcp/80\n").next();
    assert_eq!(line.map(|line| line.map(|setting| setting.value)), Some(Ok("tcp/22".to_owned())));
}
