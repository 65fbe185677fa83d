//! An app in Python on the client library, through its C interface, against the real gateway.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use ssh_key::PrivateKey;

use crate::harness::LONG;
use crate::harness::gate::{Gate, SSH, ok};

/// The library, built beside the programs under test.
fn library() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_BIN_EXE_toctoc"));
    let target = folder.ancestors().nth(2).expect("target/debug/toctoc");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--offline", "--package", "toctoc-client"]);
    cargo.arg("--target-dir").arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    ok(&cargo.output().expect("cargo is there"));
    target.join("debug/libtoctoc_client.so")
}

struct App<'g> {
    gate: &'g Gate,
    library: PathBuf,
}

impl App<'_> {
    /// Runs the app on the first host. Returns the receipt.
    fn run(&self, seed: &str, words: &str, input: Stdio) -> Value {
        let mut command = Command::new("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/library/tests/app.py"));
        command.arg(&self.library).arg(self.gate.path(seed)).stdin(input);
        command.args(words.split_whitespace());
        let said = ok(&self.gate.net.client.space.run(&mut command));
        serde_json::from_str(&said).expect("JSON")
    }
}

#[test]
fn an_app_on_the_client_library_opens_and_closes() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    gate.enrol("anna", "ssh");
    let key = fs::read_to_string(gate.path("anna.key")).expect("our own file");
    let key = PrivateKey::from_openssh(key).expect("a key");
    let seed = key.key_data().ed25519().expect("Ed25519").private.to_bytes();
    fs::write(gate.path("anna.seed"), base16ct::lower::encode_string(&seed)).expect("written");
    let app = App { gate: &gate, library: library() };
    let profile = gate.path("anna.toml");
    let ask = |kind: &str| app.run("anna.seed", &format!("{kind} {profile} ssh"), Stdio::null());
    let seen = app.run("anna.seed", &format!("probe {profile}"), Stdio::null());
    assert_eq!((&seen["status"], &seen["observed"]), (&"observed".into(), &"10.90.0.2".into()));
    assert!(gate.nothing_is_open());
    // After its start the gateway asks for a challenge, and the app answers.
    let open = ask("open");
    assert_eq!((&open["status"], &open["granted"]), (&"granted".into(), &"10.90.0.2".into()));
    assert_eq!(open["ports"], serde_json::json!([[1, 6, 22, 22]]));
    assert!(gate.net.client.tcp_reaches(gate.port(0, SSH), LONG));
    assert_eq!(ask("close")["status"], "closed");
    assert!(gate.nothing_is_open());
}

#[test]
fn an_app_on_the_client_library_joins_by_a_fido_key_and_opens_with_the_profile_that_it_wrote() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let line = gate.path("phone.line");
    ok(&gate.toctocd(&["invite", "phone", "--services", "ssh", "--auto", "-o", &line]));
    // The app's callback is an authenticator, and the gateway checks what it signs.
    fs::write(gate.path("phone.seed"), format!("{} ssh:", "5a".repeat(32))).expect("written");
    let app = App { gate: &gate, library: library() };
    let profile = gate.path("phone.toml");
    let line = Stdio::from(File::open(line).expect("an invitation"));
    let joined = app.run("phone.seed", &format!("join {profile}"), line);
    assert_eq!(joined["status"], "enrolled", "{joined}");
    assert!(
        fs::read_to_string(&profile).expect("written").contains("\"sk-ssh-ed25519@openssh.com ")
    );
    let open = app.run("phone.seed", &format!("open {profile}"), Stdio::null());
    assert_eq!((&open["status"], &open["granted"]), (&"granted".into(), &"10.90.0.2".into()));
    assert!(gate.net.client.tcp_reaches(gate.port(0, SSH), LONG));
}
