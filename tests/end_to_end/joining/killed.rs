//! SIGKILL after each step of a join, at every end: the gateway, the client, the admin's commands.
//! The same join again then gives one client, one only, and the line lets nobody else in.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use std::os::unix::process::ExitStatusExt;

use super::Party;
use crate::harness::gate::{ok, stderr};
use crate::harness::steps::Steps;
use crate::harness::until;

/// More steps than any program takes here.
const MOST: u32 = 60;

impl Party {
    fn steps(&self) -> Steps {
        let directory = self.gate.path("counted");
        fs::create_dir(&directory).expect("our own directory");
        Steps::new(Path::new(&directory))
    }

    /// Ends a test's round: `name` is a client once, with this key, opens its service, and its line
    /// lets the key of mallory in no more.
    fn has_one_client(&self, name: &str, fingerprint: &str, line: &str) {
        ok(&self.toctoc(name, &format!("open {name} -4")));
        let list = ok(&self.gate.toctocd(&["client", "list", "--json"]));
        let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        let mut found = Vec::new();
        for client in list.as_array().expect("a list") {
            if client["name"] == name || client["key"] == fingerprint {
                found.push(client.clone());
            }
        }
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0]["name"].as_str(), found[0]["key"].as_str()),
            (Some(name), Some(fingerprint))
        );
        assert_eq!(found[0]["standing"], "enrolled");
        let mut second = self.join_command(line, "mallory");
        let second = self.gate.net.client.space.run(second.args(["--name", "mallory"]));
        assert!(stderr(&second).contains("another key has used this invitation"), "{second:?}");
    }

    /// Runs what `make` makes and kills it after its first step, then again and kills it after its
    /// second, until it comes to its end. `then` is told the number of the round each time. The
    /// letters of all steps.
    fn kill_at_each_step(
        &self, steps: &Steps, mut make: impl FnMut(u32) -> Command, mut then: impl FnMut(u32),
    ) -> String {
        for last in 1..MOST {
            let mut command = make(last);
            steps.kill_after(last);
            let run = self.gate.net.client.space.run(steps.count(&mut command));
            let taken = steps.taken();
            let was_killed = run.status.signal() == Some(Signal::SIGKILL as i32);
            assert!(was_killed || run.status.code().is_some(), "{taken}: {run:?}");
            then(last);
            if !was_killed {
                return taken;
            }
        }
        panic!("it takes more than {MOST} steps");
    }
}

/// Asserts that steps with these letters came in this order, whatever came in between.
fn assert_steps(taken: &str, letters: &str) {
    let mut rest = taken.chars();
    assert!(letters.chars().all(|letter| rest.any(|taken| taken == letter)), "{taken}");
}

#[test]
fn a_gateway_that_is_killed_at_any_step_of_a_join_has_one_client_in_the_end() {
    let mut party = Party::new();
    party.key("mallory");
    let steps = party.steps();
    party.gate.stop();
    party.gate.start_counted(&steps);
    for last in 1..MOST {
        let name = format!("c{last}");
        let fingerprint = party.key(&name);
        let line = party.invite(&name, &["--auto"]);
        steps.kill_after(last);
        let mut command = party.join_command(&line, &name);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut join = party.gate.net.client.space.spawn(&mut command);
        let mut joined = None;
        let mut was_killed = false;
        until("the client joins, or the gateway is killed", || {
            joined = join.0.try_wait().expect("our own child");
            was_killed = party.gate.daemon().process.0.try_wait().expect("our child").is_some();
            joined.is_some() || was_killed
        });
        let taken = steps.taken();
        steps.kill_after(0);
        if was_killed {
            // Nobody waits for the client's next packet.
            drop(join);
            party.gate.kill();
            party.gate.start_counted(&steps);
        }
        if !party.has(&name)[0] {
            ok(&party.join(&line, &name));
        }
        party.has_one_client(&name, &fingerprint, &line);
        if !was_killed {
            // The mark; then the file; then the client for the listener, and the answer.
            assert_steps(&taken, "wscwsrstt");
            return;
        }
    }
    panic!("a join takes more than {MOST} steps");
}

#[test]
fn a_client_that_is_killed_at_any_step_of_a_join_joins_by_the_same_command() {
    let party = Party::new();
    party.key("mallory");
    let steps = party.steps();
    let begin = |last: u32| {
        let name = format!("c{last}");
        party.key(&name);
        party.join_command(&party.invite(&name, &["--auto"]), &name)
    };
    let taken = party.kill_at_each_step(&steps, begin, |last| {
        let name = format!("c{last}");
        let line = party.gate.path(&format!("{name}.line"));
        // The profile is there as a whole, or not at all.
        if !party.has(&name)[0] {
            ok(&party.join(&line, &name));
        }
        party.has_one_client(&name, &party.fingerprint(&name), &line);
    });
    assert_steps(&taken, "tcwslus");
}

#[test]
fn a_client_that_is_killed_while_its_key_waits_is_in_by_the_same_command() {
    let party = Party::new();
    party.key("mallory");
    let steps = party.steps();
    let begin = |last: u32| {
        let name = format!("c{last}");
        party.key(&name);
        party.join_command(&party.invite(&name, &[]), &name)
    };
    let asked = party.kill_at_each_step(&steps, begin, |last| {
        let name = format!("c{last}");
        let line = party.gate.path(&format!("{name}.line"));
        assert_eq!(party.join(&line, &name).status.code(), Some(1), "{name} waits");
        assert_eq!(party.has(&name), [false, true]);
        ok(&party.gate.toctocd(&["client", "approve", &name, &party.fingerprint(&name)]));
        ok(&party.toctoc(&name, &format!("open {name} -4")));
        party.has_one_client(&name, &party.fingerprint(&name), &line);
    });
    assert_steps(&asked, "tcwsrs");

    // Approved, and killed while it writes the profile.
    let begin = |last: u32| {
        let name = format!("d{last}");
        let fingerprint = party.key(&name);
        let line = party.invite(&name, &[]);
        assert_eq!(party.join(&line, &name).status.code(), Some(1), "{name} waits");
        ok(&party.gate.toctocd(&["client", "approve", &name, &fingerprint]));
        let key = party.gate.path(&format!("{name}.key"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_toctoc"));
        command.args(["open", &name, "-4", "-i", &key]).stdin(Stdio::null());
        command.env("XDG_CONFIG_HOME", party.gate.path("home"));
        command
    };
    let opened = party.kill_at_each_step(&steps, begin, |last| {
        let name = format!("d{last}");
        let line = party.gate.path(&format!("{name}.line"));
        party.has_one_client(&name, &party.fingerprint(&name), &line);
        assert_eq!(party.has(&name), [true, false], "the line is forgotten");
    });
    assert_steps(&opened, "tcwslusust");
}

#[test]
fn an_admins_command_that_is_killed_at_any_step_loses_no_invitation_and_lets_nobody_else_in() {
    let party = Party::new();
    party.key("mallory");
    let steps = party.steps();
    let toctocd = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_toctocd"));
        command.args(words).arg("-c").arg(party.gate.config()).stdin(Stdio::null());
        command
    };
    let invite = |last: u32| {
        let name = format!("c{last}");
        party.key(&name);
        let file = party.gate.path(&format!("{name}.line"));
        toctocd(&[
            "invite",
            &name,
            "--services",
            "ssh",
            "--gateway-name",
            &name,
            "--auto",
            "-o",
            &file,
        ])
    };
    let taken = party.kill_at_each_step(&steps, invite, |last| {
        let name = format!("c{last}");
        let line = party.gate.path(&format!("{name}.line"));
        if !ok(&party.gate.toctocd(&["client", "list"])).contains(&format!("{name} ")) {
            // Not invited. A line that was written already is of no use.
            let _ = fs::remove_file(&line);
            party.invite(&name, &["--auto"]);
        }
        // The running gateway may not have been told.
        party.gate.reload();
        ok(&party.join(&line, &name));
        party.has_one_client(&name, &party.fingerprint(&name), &line);
    });
    assert_steps(&taken, "cwslscwsrs");

    let approve = |last: u32| {
        let name = format!("d{last}");
        let fingerprint = party.key(&name);
        let line = party.invite(&name, &[]);
        assert_eq!(party.join(&line, &name).status.code(), Some(1), "{name} waits");
        toctocd(&["client", "approve", &name, &fingerprint])
    };
    let taken = party.kill_at_each_step(&steps, approve, |last| {
        let name = format!("d{last}");
        let (line, fingerprint) =
            (party.gate.path(&format!("{name}.line")), party.fingerprint(&name));
        let again = party.gate.toctocd(&["client", "approve", &name, &fingerprint]);
        let is_in = again.status.success() || stderr(&again).contains("has joined already");
        assert!(is_in, "{again:?}");
        party.gate.reload();
        party.has_one_client(&name, &fingerprint, &line);
    });
    assert_steps(&taken, "cwsrs");
}
