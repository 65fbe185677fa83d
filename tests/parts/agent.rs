//! The client and the user's ssh-agent: the real one, and some that do not behave. Needs ssh-agent,
//! ssh-add and ssh-keygen (openssh-client), which tools/setup installs.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use toctoc::core::knock::Status;
use toctoc::core::public_key::PublicKey;

use crate::client_user::{Gateway, User, identity};
use crate::ssh_keys::{RealAgent, new_key};

/// The public half of a key of ssh-keygen.
pub(crate) fn public(private: &str) -> PublicKey {
    let line = fs::read_to_string(format!("{private}.pub")).unwrap();
    PublicKey::from_line(&line).unwrap().0
}

/// A user whose enrolled key is in no file, and a gateway that knows it.
fn without_file(key: &PublicKey, agent: &Path) -> (User, Gateway) {
    let gateway = Gateway::start_for(Some(Status::Granted), key);
    let mut user = User::new().with_key(gateway.port, key);
    user.environment.push(("SSH_AUTH_SOCK", agent.to_owned()));
    (user, gateway)
}

#[test]
fn the_agent_signs_with_the_enrolled_key_whatever_else_it_holds() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let agent = RealAgent::start(at, "none", &[]);
    let (user, _gateway) = without_file(identity().public(), &agent.socket);
    let missing = "ssh-agent at ";
    user.run("open gate").expect(2, &[], &[missing, "/agent: holds no key, or is locked"]);

    agent.add(&[&new_key(at, "rsa", &["-t", "rsa", "-b", "2048"], &[])]);
    agent.add(&[&new_key(at, "ecdsa", &["-t", "ecdsa"], &[])]);
    let other = new_key(at, "other", &["-t", "ed25519"], &[]);
    agent.add(&[&other]);
    let refused = user.run("open gate");
    refused.expect(
        2,
        &[],
        &[
            "the private key of `laptop`, SHA256:",
            "holds only ssh-rsa (an RSA signature does not fit into a knock), ",
            "ecdsa-sha2-nistp256 (an ECDSA key cannot sign a knock), SHA256:",
            "/.config/toctoc/id_ed25519: no such file",
        ],
    );

    let enrolled = user.write("enrolled", &identity().print("c", None).unwrap(), 0o600);
    agent.add(&[enrolled.to_str().unwrap()]);
    fs::remove_file(&enrolled).unwrap();
    user.run("open gate").expect(0, &["granted"], &[]);
    let import = "import .config/toctoc/profiles/gate.toml --name again --replace";
    let imported = user.run(import);
    imported.expect(0, &["imported as again"], &[]);
    assert!(!imported.err.contains("private key"), "{}", imported.err);
    agent.add(&["-D"]);
    user.run("open gate").expect(2, &[], &["holds no key, or is locked"]);
    let missing = ["is neither in the ssh-agent nor in the usual files\n  `ssh-add` it"];
    user.run(import).expect(0, &["imported as again"], &missing);
}

#[test]
fn a_profile_may_name_another_agent_than_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    let agent = RealAgent::start(directory.path(), "none", &[]);
    let key = new_key(directory.path(), "key", &["-t", "ed25519"], &[]);
    agent.add(&[&key]);
    let (user, _gateway) = without_file(&public(&key), Path::new("/nowhere/agent"));
    user.run("open gate").expect(2, &[], &["ssh-agent at /nowhere/agent: it does not exist"]);
    let path = user.home.path().join(".config/toctoc/profiles/gate.toml");
    let profile = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("agent = \"{}\"\n{profile}", agent.socket.display())).unwrap();
    user.run("open gate").expect(0, &["granted"], &[]);
}

#[test]
fn the_agent_of_sshs_own_configuration_comes_before_that_of_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    let agent = RealAgent::start(directory.path(), "none", &[]);
    let key = new_key(directory.path(), "key", &["-t", "ed25519"], &[]);
    let (user, _gateway) = without_file(&public(&key), Path::new("/nowhere/agent"));
    fs::create_dir(user.home.path().join(".ssh")).unwrap();
    let line = |socket: &Path| format!("Host *\n  IdentityAgent \"{}\"\n", socket.display());
    user.write(".ssh/config", &line(&agent.socket), 0o644);
    let absent = "\n  ssh-agent at /nowhere/agent: it does not exist\n";
    let socket = agent.socket.display();
    let both = format!("ssh-agent at {socket}: holds no key, or is locked{absent}");
    user.run("open gate").expect(2, &[], &[&both]);
    agent.add(&[&key]);
    user.run("open gate").expect(0, &["granted"], &[]);
    user.write(".ssh/config", &line(Path::new("~/agent")), 0o644);
    let in_home = format!("ssh-agent at {}/agent: it does not", user.home.path().display());
    user.run("open gate").expect(2, &[], &[&in_home, absent]);
}

#[test]
fn a_key_file_with_a_passphrase_or_a_public_key_file_names_the_agents_key() {
    let directory = tempfile::tempdir().unwrap();
    let agent = RealAgent::start(directory.path(), "none", &[]);
    let key = new_key(directory.path(), "key", &["-t", "ed25519"], &[]);
    let (user, _gateway) = without_file(&public(&key), &agent.socket);
    // Without the agent's help: the private half stands beside the public one.
    user.run(&format!("open gate -i {key}.pub")).expect(0, &["granted"], &[]);

    agent.add(&[&key]);
    let run = Command::new("ssh-keygen").args(["-p", "-N", "sesame", "-f", &key]).output();
    assert!(run.unwrap().status.success());
    user.run(&format!("open gate -i {key}")).expect(0, &["granted"], &[]);
    fs::remove_file(&key).unwrap();
    user.run(&format!("open gate -i {key}.pub")).expect(0, &["granted"], &[]);
    agent.add(&["-D"]);
    user.run(&format!("open gate -i {key}.pub")).expect(
        2,
        &[],
        &["key.pub: a public key; its private half is neither at", "holds no key", "ssh-add FILE"],
    );
}

#[test]
fn a_key_that_the_agent_may_not_use_is_reported_with_the_likely_reason() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let agent = RealAgent::start(at, "none", &[]);
    let key = new_key(at, "key", &["-t", "ed25519"], &[]);
    let hosts = at.join("known_hosts");
    let host = fs::read_to_string(new_key(at, "host", &["-t", "ed25519"], &[]) + ".pub").unwrap();
    fs::write(&hosts, format!("gate.example.org {host}")).unwrap();
    let (user, _gateway) = without_file(&public(&key), &agent.socket);
    let bound = ["-h", "gate.example.org", "-H", hosts.to_str().unwrap(), key.as_str()];
    for constraint in [&bound[..], &["-c", &key]] {
        agent.add(constraint);
        user.run("open gate").expect(
            2,
            &[],
            &["/agent: no signature by SHA256:", "it refused to sign", "`ssh-add -h`"],
        );
        agent.add(&["-D"]);
    }
}

/// What an agent does after it has read a request.
type Behaviour = fn(UnixStream);

fn misbehaving(directory: &Path, behaviour: Behaviour) -> PathBuf {
    let socket = directory.join("agent");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 5]);
            behaviour(stream);
        }
    });
    socket
}

#[test]
fn an_agent_that_hangs_or_talks_nonsense_is_named_and_a_key_file_still_works() {
    fn hang(stream: UnixStream) {
        // Held open until the test program ends.
        std::mem::forget(stream);
    }
    fn end(_: UnixStream) {}
    fn chat(mut stream: UnixStream) {
        let _ = stream.write_all(b"\0\0\0\x03hey");
    }
    fn boast(mut stream: UnixStream) {
        let _ = stream.write_all(b"\xff\xff\xff\xff");
    }
    let cases: [(Behaviour, &[&str]); 4] = [
        (hang, &["waiting for the ssh-agent to list its keys", "no answer within 4 s"]),
        (end, &["it closed the connection without an answer"]),
        (chat, &["its answer is not one of an ssh-agent"]),
        (boast, &["its answer is too long: it is not an ssh-agent"]),
    ];
    for (behaviour, said) in cases {
        let directory = tempfile::tempdir().unwrap();
        let socket = misbehaving(directory.path(), behaviour);
        let (user, _gateway) = without_file(identity().public(), &socket);
        user.run("open gate").expect(2, &[], said);
        user.write(".config/toctoc/id_ed25519", &identity().print("c", None).unwrap(), 0o600);
        user.run("open gate").expect(0, &["granted"], &[]);
    }
}
