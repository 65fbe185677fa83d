//! Keys in the ssh-agent and FIDO keys, from `ssh-keygen` to a connection through a real gateway.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::harness::LONG;
use crate::harness::gate::{Gate, SSH, ok, stderr};
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
        self.toctoc_from(words, Stdio::null())
    }

    fn toctoc_from(&self, words: &str, input: Stdio) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_toctoc"));
        command.args(words.split_whitespace()).stdin(input);
        command.env("HOME", Path::new("/nonexistent"));
        command.env("XDG_CONFIG_HOME", self.gate.path("home"));
        command.env("SSH_AUTH_SOCK", &self.agent.socket);
        command.envs(self.environment.iter().map(|(name, path)| (*name, path)));
        self.gate.net.client.space.run(&mut command)
    }

    /// Invites somebody whose profile will have that name, and joins with these words.
    fn join(&self, name: &str, how: &str, words: &str) -> Output {
        let line = self.gate.path(&format!("{name}.line"));
        let invite = ["invite", name, "--services", "ssh", "--gateway-name", name, "-o", &line];
        ok(&self.gate.toctocd(&[&invite[..], &how.split(' ').collect::<Vec<_>>()].concat()));
        self.toctoc_from(words, File::open(line).unwrap().into())
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

#[test]
fn a_fido_key_joins_by_an_invitation_and_opens_the_service() {
    let mut user = AgentUser::new();
    let _ssh = user.gate.net.gateway.tcp_echo(SSH);
    let at = user.directory.path().to_owned();
    let key = |name: &str, more: &[&str]| {
        new_key(&at, name, &[&["-t", "ed25519-sk"], more].concat(), &user.environment)
    };
    let [by_file, in_agent] = ["by_file", "in_agent"].map(|name| key(name, &[]));
    let own = key("own", &["-O", "application=ssh:work"]);
    // The private half is in the agent, and no word says which key: it is the agent's only one.
    user.agent.add(&[&in_agent]);
    fs::remove_file(&in_agent).unwrap();
    let public = fs::read_to_string(format!("{in_agent}.pub")).unwrap();
    let wanted = format!("--key={}", public.split(' ').take(2).collect::<Vec<_>>().join(" "));
    let line = user.gate.path("agent.line");
    let invite =
        ["invite", "agent", "--services", "ssh", "--gateway-name", "agent", "-o", &line, &wanted];
    ok(&user.gate.toctocd(&invite));
    let joined = user.toctoc_from("join - --no-wait", File::open(&line).unwrap().into());
    assert!(ok(&joined).contains("joined: `agent` opens ssh"), "{joined:?}");
    assert_eq!(stderr(&joined).matches("touch your security key").count(), 1, "{joined:?}");
    let joined = user.join("file", "--auto", &format!("join - --no-wait -i {by_file}"));
    assert!(ok(&joined).contains("joined: `file` opens ssh"), "{joined:?}");
    for (name, family) in [("agent", 0), ("file", 1)] {
        ok(&user.toctoc(&format!("open {name} -{}", [4, 6][family])));
        let to = user.gate.port(family, SSH);
        assert!(user.gate.net.client.tcp_reaches(to, LONG), "{name}");
        user.gate.daemon().wait_for(&format!("{name}: ssh granted"));
    }
    let clients = fs::read_to_string(user.gate.path("etc/state/joined")).unwrap();
    assert_eq!(clients.matches(" sk-ssh-ed25519@openssh.com ").count(), 2, "{clients}");

    // A knock has no room for an application of its own. Nothing is sent, and the place stays.
    let refused = user.join("own", "--auto", &format!("join - --no-wait -i {own}"));
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(stderr(&refused).contains("was made for an application of its own"), "{refused:?}");
    let list = ok(&user.gate.toctocd(&["client", "list"]));
    assert!(list.contains("any key, invited until"), "{list}");
}
