//! From nothing to a login by ssh, as a newcomer types it on two machines.

use std::process::{Command, Stdio};

use super::first_hour::InBackground;
use crate::harness::gate::{Gate, ok, stderr};
use crate::harness::ssh::{as_person, is_real_root, make_person, start_sshd};
use crate::harness::terminal::AtTerminal;
use crate::harness::{LONG, SHORT, until};

const TOCTOC: &str = env!("CARGO_BIN_EXE_toctoc");
const TOCTOCD: &str = env!("CARGO_BIN_EXE_toctocd");

#[test]
fn three_typed_commands_lead_from_nothing_to_a_login_by_ssh_with_a_key_in_the_agent() {
    // Its namespaces and its directory; nothing of its configuration is used.
    let gate = Gate::new(|config| config);
    gate.net.gateway.sh("ip route add default via 10.90.0.9");
    make_person(&gate);
    let key = gate.path("key");
    let made = ["-q", "-t", "ed25519", "-N", "", "-f", &key];
    ok(&Command::new("ssh-keygen").args(made).output().unwrap());
    let _sshd = start_sshd(&gate, &format!("{key}.pub"));
    let socket = gate.path("agent");
    let mut agent = Command::new("ssh-agent");
    agent.args(["-D", "-a", &socket]).stdout(Stdio::null());
    let _agent = gate.net.client.space.spawn(&mut agent);
    let add = || Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket).output();
    until("the agent has the key", || add().unwrap().status.success());
    std::fs::remove_file(&key).unwrap();
    let on_laptop = |words: &[&str]| {
        let mut command = as_person(&gate, words);
        command.env("SSH_AUTH_SOCK", &socket);
        command
    };
    // On a disk: a state in memory is refused.
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let directory = folder.path().join("toctoc").display().to_string();

    // 1. On the gateway.
    let mut command = Command::new(TOCTOCD);
    command.args(["init", "--dir", &directory]).env_remove("SSH_CONNECTION");
    let mut init = AtTerminal::start(&gate.net.gateway, &mut command);
    init.answer("Name or address that clients use [10.90.0.1]: ", "");
    init.answer("Services to hide, separated by commas [ssh]: ", "");
    init.answer("Write keys and configuration to ", "y");
    init.answer("Start the gateway now, on trial? [y/N] ", "y");
    let _running = InBackground::reported(&init.line_from("toctocd runs in the background "));
    init.answer("Invite your own machine now? ", "y");
    init.answer("A name for it [laptop]: ", "");
    let line = init.line_from("toctoc:");
    assert!(init.child.wait(LONG).expect("it ends").success());
    assert!(!gate.net.client.tcp_reaches(gate.port(0, 22), SHORT), "ssh is hidden");

    // 2. On the laptop.
    let mut command = on_laptop(&["setsid", "--ctty", "--wait", TOCTOC, "join"]);
    let mut join = AtTerminal::start(&gate.net.client.space, &mut command);
    join.answer("Paste the invitation", &line);
    let said = join.line_from("joined: `");
    let name = said.split('`').nth(1).expect("the name of the profile").to_owned();
    join.answer("knock first?", "y");
    assert!(join.child.wait(LONG).expect("it ends").success());

    // 3. And from now on only this.
    let accept = "StrictHostKeyChecking=accept-new";
    let ssh = ["ssh", "-o", "BatchMode=yes", "-o", accept, &name, "echo logged in"];
    let output = gate.net.client.space.run(&mut on_laptop(&ssh));
    if is_real_root() {
        assert_eq!(ok(&output), "logged in\n");
    } else {
        let known = std::fs::read_to_string(gate.path("person/.ssh/known_hosts"));
        assert!(known.is_ok_and(|known| known.contains("ssh-ed25519 ")), "{}", stderr(&output));
    }
    let mut status = Command::new(TOCTOCD);
    status.args(["status", "-c", &format!("{directory}/toctocd.toml")]);
    let status = ok(&gate.net.gateway.run(&mut status));
    assert!(status.contains("guard       up\n"), "the login has ended the trial: {status}");
}
