//! FIDO keys of the real ssh-keygen and ssh-agent, with a software authenticator: the client signs
//! through the agent or with the key file, and what it sends is verified.

use std::process::Command;
use std::sync::Arc;

use toctoc::core::knock::Status;
use toctoc::core::public_key::{FidoKey, PublicKey};
use toctoc::keys::public::show_fingerprint;

use crate::agent::public;
use crate::client_user::{Gateway, Run, User};
use crate::ssh_keys::{Authenticator, RealAgent, Touch, new_key};

/// A user with a FIDO key, made with these words for ssh-keygen.
struct FidoUser {
    directory: tempfile::TempDir,
    authenticator: Authenticator,
    file: String,
    key: PublicKey,
}

impl FidoUser {
    fn new(touch: Touch, words: &[&str]) -> FidoUser {
        let directory = tempfile::tempdir().unwrap();
        let authenticator = Authenticator::new(directory.path(), touch);
        let words = [&["-t", "ed25519-sk"], words].concat();
        let file = new_key(directory.path(), "id", &words, &authenticator.environment());
        let key = public(&file);
        FidoUser { directory, authenticator, file, key }
    }

    /// Runs `words`, against a gateway whose clients file demands this of the key.
    fn run(&self, words: &str, agent: Option<&RealAgent>, rules: fn(&mut FidoKey)) -> Run {
        self.run_at(&["127.0.0.1"], words, agent, rules)
    }

    /// The same with these addresses in the profile. The gateway answers at 127.0.0.1.
    fn run_at(
        &self, addresses: &[&str], words: &str, agent: Option<&RealAgent>, rules: fn(&mut FidoKey),
    ) -> Run {
        let mut fido = FidoKey::clone(self.key.fido.as_ref().unwrap());
        rules(&mut fido);
        let fido = Some(Arc::new(fido));
        let key = PublicKey { fido, ..self.key.clone() };
        let gateway = Gateway::start_for(Some(Status::Granted), &key);
        let mut user = User::new().with_key(gateway.port, &self.key);
        let path = user.home.path().join(".config/toctoc/profiles/gate.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let listed = format!("addresses = {addresses:?}");
        std::fs::write(&path, text.replace("addresses = [\"127.0.0.1\"]", &listed)).unwrap();
        user.environment = self.authenticator.environment();
        user.environment.extend(agent.map(|agent| ("SSH_AUTH_SOCK", agent.socket.clone())));
        // ssh-keygen is found, and asks nobody.
        user.environment.push(("PATH", std::env::var_os("PATH").unwrap().into()));
        user.run(&format!("{words} --attempts 1 --timeout 1"))
    }

    fn agent(&self) -> RealAgent {
        let library = self.authenticator.library.to_str().unwrap();
        let environment = self.authenticator.environment();
        let agent = RealAgent::start(self.directory.path(), library, &environment);
        agent.add(&[&self.file]);
        agent
    }
}

const NO_ANSWER: i32 = 3;
const TOUCH: &str = "toctoc: touch your security key (SHA256:";

/// Somebody touches it, and that is all.
fn touched(_: u8) -> Option<u8> {
    Some(1)
}

#[test]
fn a_fido_key_signs_through_the_agent_and_by_its_file() {
    for words in [&[][..], &["-O", "application=ssh:work"]] {
        let user = FidoUser::new(touched, words);
        let shown = Command::new("ssh-keygen").args(["-l", "-f", &user.file]).output().unwrap();
        let fingerprint = show_fingerprint(&user.key.fingerprint());
        assert!(String::from_utf8(shown.stdout).unwrap().contains(&fingerprint), "{fingerprint}");
        let agent = user.agent();
        user.run("open gate", Some(&agent), |_| ()).expect(0, &["granted"], &[TOUCH]);
        let by_file = format!("open gate -i {}", user.file);
        user.run(&by_file, None, |_| ()).expect(0, &["granted"], &[TOUCH]);
        let by_public_half = format!("open gate -i {}.pub", user.file);
        user.run(&by_public_half, None, |_| ()).expect(0, &["granted"], &[TOUCH]);
    }
}

#[test]
fn what_the_clients_file_demands_of_a_fido_signature_is_what_counts() {
    let strict = FidoUser::new(touched, &[]);
    let by_file = format!("open gate -i {}", strict.file);
    strict.run(&by_file, None, |rules| rules.verify = true).expect(NO_ANSWER, &[], &[]);

    // An authenticator that checks a fingerprint at each touch.
    let verified = FidoUser::new(|_| Some(1 | 4), &[]);
    let agent = verified.agent();
    let run = verified.run("open gate", Some(&agent), |rules| rules.verify = true);
    run.expect(0, &["granted"], &[]);

    // OpenSSH asks for no touch, and the authenticator reports none.
    let lazy = FidoUser::new(|flags| Some(flags & 1), &["-O", "no-touch-required"]);
    let by_file = format!("open gate -i {}", lazy.file);
    lazy.run(&by_file, None, |_| ()).expect(NO_ANSWER, &[], &[]);
    lazy.run(&by_file, None, |rules| rules.touch = false).expect(0, &["granted"], &[]);
}

#[test]
fn each_touch_is_for_one_address_and_after_an_answer_none_is_asked_for() {
    let user = FidoUser::new(touched, &[]);
    let agent = user.agent();
    for (addresses, touches) in [
        (["127.0.0.1", "127.0.0.9"], 1),
        (["127.0.0.9", "127.0.0.1"], 2),
        (["127.0.0.1", "::1"], 1),
    ] {
        let run = user.run_at(&addresses, "open gate", Some(&agent), |_| ());
        run.expect(0, &["granted"], &[]);
        assert_eq!(run.err.matches(TOUCH).count(), touches, "{addresses:?}: {}", run.err);
    }
}

#[test]
fn without_a_touch_nothing_is_sent_and_the_fault_says_what_to_do() {
    let user = FidoUser::new(|_| None, &[]);
    let agent = user.agent();
    let remedy = "plug the security key in, run this again, and touch it when asked";
    let refused = "/agent: no signature by SHA256:";
    user.run("open gate", Some(&agent), |_| ()).expect(2, &[], &[TOUCH, refused, remedy]);
    let by_file = format!("open gate -i {}", user.file);
    let refused = "ssh-keygen did not sign (exit status: 255)";
    user.run(&by_file, None, |_| ()).expect(2, &[], &[TOUCH, refused, remedy]);
}
