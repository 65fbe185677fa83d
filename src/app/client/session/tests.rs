//! What a window gets: profiles, answers and keys as data.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::app::client::answer::{Outcome, Overall};
use crate::app::client::ask::tests as gateway;
use crate::app::client::refusal::Refusal;
use crate::core::knock::{PortEntry, Status};
use crate::core::test_vectors;
use crate::core::types::{ClientId, FaultKind, PortRange};
use crate::keys::invitation::Invitation;
use crate::keys::profile::Profile;

struct Home(tempfile::TempDir);

impl Home {
    /// A user with the private key that [`gateway::profile`] names.
    fn new() -> Home {
        let home = Home(tempfile::tempdir().unwrap());
        home.write("id_ed25519", &gateway::identity().print("c", None).unwrap());
        home
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join("toctoc").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn session(&self) -> Session {
        let config_home = Some(self.0.path().to_owned());
        Session::new(UserPaths { config_home, ..UserPaths::default() })
    }
}

#[test]
fn an_answer_is_a_grant_or_a_reason() {
    let port = PortRange::read("3389/tcp").map(PortEntry::Range);
    for status in [Status::Granted, Status::Full] {
        let behaviour: gateway::Behaviour = Box::new(move |knocked| {
            let mut receipt = gateway::receipt(status, knocked.source);
            receipt.ports[0] = if status == Status::Granted { port } else { None };
            (Vec::new(), Some(receipt))
        });
        let gateway = gateway::Gateway::start(gateway::today(), behaviour);
        let home = Home::new();
        let profile = gateway::profile(gateway.address.port());
        home.write("profiles/gate.toml", &profile.print());
        let answers = home.session().open("gate", gateway::ssh()).unwrap();
        let [answer] = &answers.each[..] else { panic!("one address, one answer") };
        assert_eq!(answer.gateway, gateway.address);
        let overall = match &answer.outcome {
            Outcome::Granted(grant) => {
                assert_eq!((grant.address.as_str(), grant.seconds), ("127.0.0.1", 30));
                assert_eq!((&*grant.ports, grant.tcp_port), (&["3389/tcp".into()][..], Some(3389)));
                Overall::Done
            }
            Outcome::Refused(refusal) => {
                assert_eq!(*refusal, Refusal::Full);
                Overall::Refused
            }
            _ => panic!("another answer to {status:?}"),
        };
        let expected = if status == Status::Granted { Overall::Done } else { Overall::Refused };
        assert_eq!((overall, answers.overall), (expected, expected));
        assert!(!gateway.requests().is_empty());
    }
}

#[test]
fn profiles_are_listed_ready_broken_and_pending() {
    let home = Home::new();
    let services = vec![gateway::ssh(), ServiceName::new("rdp").unwrap()];
    let usual = Some(services[1]);
    let profile =
        Profile { services, default_service: usual, expires: Some(1), ..gateway::profile(1) };
    home.write("profiles/gate.toml", &profile.print());
    home.write("profiles/bad.toml", "version = 1");
    home.write("profiles/later.pending", "");
    home.write("default", "gate\n");
    let session = home.session();
    assert_eq!(session.default_profile().as_deref(), Some("gate"));
    let mut seen = Vec::new();
    for listed in session.profiles().unwrap() {
        let state = match listed.state {
            ListedState::Ready(ready) => {
                assert_eq!((ready.services.len(), ready.usual_service), (2, usual));
                assert!(ready.seconds_left.unwrap() < 0);
                "ready"
            }
            ListedState::Broken(fault) => {
                assert!(fault.what.contains("bad.toml"), "{fault}");
                "broken"
            }
            ListedState::Pending => "pending",
        };
        seen.push((listed.name, state));
    }
    let expected = [("bad", "broken"), ("gate", "ready"), ("later", "pending")];
    assert_eq!(seen, expected.map(|(name, state)| (name.to_owned(), state)));
    let refused = session.open("gate", gateway::ssh()).map(drop).unwrap_err();
    assert!(refused.what.contains("nothing was sent"), "{refused}");
}

#[test]
fn a_key_is_made_once_and_locked_if_there_is_a_passphrase() {
    for passphrase in ["", "open sesame"] {
        let home = Home(tempfile::tempdir().unwrap());
        let session = home.session();
        assert!(!session.has_key().unwrap());
        let passphrase = Zeroizing::new(passphrase.to_owned());
        session.make_key(&passphrase).unwrap();
        assert!(session.has_key().unwrap());
        let path = home.0.path().join("toctoc/id_ed25519");
        let text = fs::read_to_string(&path).unwrap();
        let file = crate::keys::identity::KeyFile::parse("key", &text).unwrap();
        let is_locked = matches!(file, crate::keys::identity::KeyFile::Locked(_));
        assert_eq!(is_locked, !passphrase.is_empty());
        assert!(session.make_key(&passphrase).unwrap_err().what.contains("exists already"));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

/// A line that a gateway makes: only its id and key matter here.
fn invitation(name: &str, gateway_public: [u8; 32]) -> String {
    let profile = gateway::profile(1);
    let invitation = Invitation {
        until: 1,
        gateway: profile.side.gateway,
        realm: test_vectors::realm(),
        gateway_public,
        id: ClientId([1; 16]),
        root: test_vectors::master().client_root(ClientId([1; 16])),
        first_period: 1,
        port: 1,
        addresses: vec!["127.0.0.1".to_owned()],
        services: vec![gateway::ssh()],
        gateway_name: name.to_owned(),
        client_name: "alice".to_owned(),
    };
    invitation.print().to_string()
}

#[test]
fn a_fault_has_the_kind_by_which_a_window_finds_its_words() {
    let home = Home::new();
    let known = gateway::profile(1).side.gateway_public;
    let nowhere = vec!["toctoc.invalid".to_owned()];
    for (name, profile) in [
        ("gate", gateway::profile(1)),
        ("ended", Profile { expires: Some(1), ..gateway::profile(1) }),
        ("nowhere", Profile { addresses: nowhere, ..gateway::profile(1) }),
    ] {
        home.write(&format!("profiles/{name}.toml"), &profile.print());
    }
    home.write("profiles/bad.toml", "version = 1");
    let session = home.session();
    let open = |name: &str| session.open(name, gateway::ssh()).map(drop).unwrap_err().kind;
    let join = |line: &str| session.join(line).map(drop).unwrap_err().kind;
    assert_eq!(open("ended"), FaultKind::Expired);
    assert_eq!(open("nowhere"), FaultKind::Unreachable);
    assert_eq!(open("bad"), FaultKind::Input);
    assert_eq!(join("toctoc:AEAA"), FaultKind::Invitation);
    assert_eq!(join(&invitation("gate", known)), FaultKind::Name);
    assert_eq!(join(&invitation("new", [7; 32])), FaultKind::Impostor);
    let key = home.0.path().join("toctoc/id_ed25519");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(open("gate"), FaultKind::Exposed);
    fs::remove_file(&key).unwrap();
    assert_eq!(open("gate"), FaultKind::NoKey);
    assert_eq!(join(&invitation("new", known)), FaultKind::NoKey);
}
