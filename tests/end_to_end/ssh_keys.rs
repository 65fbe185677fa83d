//! Keys in the ssh-agent and FIDO keys, from `ssh-keygen` to a connection through a real gateway.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::harness::LONG;
use crate::harness::gate::{Gate, SSH, ok};
use crate::harness::ssh_keys::{Authenticator, RealAgent, new_key};

/// A gateway, a client's key in the agent, and nothing of it in a usual file.
struct AgentUser {
    gate: Gate,
    directory: tempfile::TempDir,
    environment: Vec<(&'static str, PathBuf)>,
    agent: RealAgent,
}

impl AgentUser {
    /// With an authenticator that somebody touches each time it asks.
    fn new() -> AgentUser {
        let directory = tempfile::tempdir().unwrap();
        let authenticator = Authenticator::new(directory.path(), |_| Some(1));
        let environment = authenticator.environment();
        let library = authenticator.library.to_str().unwrap();
        let agent = RealAgent::start(directory.path(), library, &environment);
        AgentUser { gate: Gate::running(|config| config), directory, environment, agent }
    }

    /// Makes a key of this type, enrols it as `name` and moves it into the agent.
    fn enrol(&self, name: &str, kind: &str) {
        let key = new_key(self.directory.path(), name, &["-t", kind], &self.environment);
        let public = format!("{key}.pub");
        let words = ["client", "add", name, "--key", &public, "--services", "ssh"];
        let file = self.gate.path(&format!("{name}.toml"));
        ok(&self.gate.toctocd(&[&words[..], &["--out", &file]].concat()));
        ok(&self.gate.toctoc(&self.gate.net.client, &["import", "--name", name, &file]));
        self.agent.add(&[&key]);
        fs::remove_file(&key).unwrap();
    }

    fn toctoc(&self, words: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_toctoc"));
        command.args(words.split_whitespace()).stdin(Stdio::null());
        command.env("HOME", Path::new("/nonexistent"));
        command.env("XDG_CONFIG_HOME", self.gate.path("home"));
        command.env("SSH_AUTH_SOCK", &self.agent.socket);
        self.gate.net.client.space.run(&mut command)
    }
}

#[test]
fn a_plain_key_and_a_fido_key_in_the_agent_open_a_service() {
    let user = AgentUser::new();
    let _ssh = user.gate.net.gateway.tcp_echo(SSH);
    for (name, kind, family) in [("plain", "ed25519", 0), ("fido", "ed25519-sk", 1)] {
        user.enrol(name, kind);
        let client = &user.gate.net.client;
        assert!(!client.tcp_reaches(user.gate.port(family, SSH), crate::harness::SHORT));
        ok(&user.toctoc(&format!("open {name} ssh -{}", [4, 6][family])));
        assert!(client.tcp_reaches(user.gate.port(family, SSH), LONG));
    }
}

#[test]
fn a_fido_key_whose_line_demands_more_than_a_touch_opens_nothing_with_a_touch() {
    let mut user = AgentUser::new();
    user.enrol("fido", "ed25519-sk");
    let clients = user.gate.path("etc/clients");
    let text = fs::read_to_string(&clients).unwrap();
    fs::write(&clients, text.replace(" sk-ssh", ",verify-required sk-ssh")).unwrap();
    user.gate.reload();
    let run = user.toctoc("open fido ssh -4 --attempts 1 --timeout 1");
    assert_eq!(run.status.code(), Some(3), "{run:?}");
    assert_eq!(user.gate.rejected("signature"), 1);
    fs::write(&clients, text).unwrap();
    user.gate.reload();
    ok(&user.toctoc("open fido ssh -4"));
    user.gate.daemon().wait_for("fido: ssh granted");
}
