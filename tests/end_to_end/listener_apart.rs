//! Listeners that are no children of the gateway: systemd starts one whenever the gateway connects to
//! a socket. See `harness::starter` for what stands in its place.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::gate::{Gate, SSH, section, stderr};
use crate::harness::process::{has_ended, signal, status};
use crate::harness::starter::{Starter, as_in_unit, listener_user};
use crate::harness::{LONG, until};

/// What `toctocd.service` leaves the gateway.
pub(crate) const UNIT: [&str; 2] = ["setpriv", "--bounding-set=-all,+net_admin,+kill"];

fn starter(gate: &Gate, command: impl Fn() -> Command + Send + 'static) -> Starter {
    Starter::new(&gate.net.gateway, &gate.path("listener"), command)
}

#[test]
fn a_listener_of_its_own_unit_serves_like_a_child_and_leaves_the_gatekeeper_two_capabilities() {
    let mut gate = Gate::running(|config| config);
    let as_child = gate.status_json()["degraded"].clone();
    gate.stop();
    let starter = starter(&gate, as_in_unit);
    gate.start_apart(&UNIT, &starter.path);
    assert_eq!(gate.status_json()["degraded"], as_child, "it gives up less than a child");
    let gatekeeper = gate.daemon().process.0.id();
    for set in ["CapEff", "CapBnd"] {
        assert_eq!(status(gatekeeper, set).as_deref(), Some("0000000000001020"), "{set}");
    }
    let listener = starter.started()[0];
    for set in ["CapEff", "CapPrm", "CapAmb", "CapBnd"] {
        assert_eq!(status(listener, set).as_deref(), Some("0000000000000000"), "{set}");
    }
    // The guard knows receipts by the group of their socket.
    gate.net.gateway.sh("nft 'table inet count { chain out { type filter hook output priority 0; \
         meta skgid 61137 counter; }; }'");
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    for family in [0, 1] {
        anna.must_open(&gate.net.client, "ssh", family);
    }
    let counted = gate.net.gateway.sh("nft list table inet count");
    assert!(counted.contains("packets ") && !counted.contains("packets 0 "), "{counted}");
    gate.stop();
    until("the listener ends with the gateway", || {
        starter.reap();
        has_ended(listener)
    });
}

#[test]
fn a_listener_of_its_own_unit_that_hangs_or_ends_is_replaced_and_none_outlives_the_gateway() {
    let mut gate = Gate::new(|config| config);
    let starter = starter(&gate, as_in_unit);
    gate.start_apart(&UNIT, &starter.path);
    for (nth, how) in [(0, Signal::SIGSTOP), (1, Signal::SIGKILL)] {
        let lost = starter.started()[nth];
        signal(lost, how);
        let line = gate.daemon().wait_for("the listener was lost");
        assert!(line.contains("does not answer") == (how == Signal::SIGSTOP), "{line}");
        gate.daemon().wait_for("a new listener listens");
        until("the lost one has ended", || {
            starter.reap();
            has_ended(lost)
        });
    }
    let anna = gate.enrol("anna", "ssh");
    anna.must_open(&gate.net.client, "ssh", 0);
    let last = *starter.started().last().unwrap();
    gate.kill();
    until("the listener ends with a gateway that was killed", || {
        starter.reap();
        has_ended(last)
    });
}

/// Runs the gateway with a socket that `holder` may have made; it must refuse to start. Returns what
/// it says.
fn refusal(gate: &Gate) -> String {
    // One that serves is ended.
    let mut run = Command::new("timeout");
    run.args(["20", env!("CARGO_BIN_EXE_toctocd"), "run"]);
    run.args(["--listener-socket", &gate.path("listener"), "-c"]);
    let output = gate.net.gateway.run(run.arg(gate.config()));
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(!gate.net.gateway.sh("nft list tables").contains("toctoc"), "the guard was loaded");
    stderr(&output)
}

/// Hello; and Ready, with or without every limitation that there is.
const HELLO: &str = "printf '\\000' >&0";
const READY: &str = "printf '\\001\\000\\000\\000\\000' >&0";
const READY_WITH_ALL_LIMITATIONS: &str = "printf '\\001\\000\\000\\001\\377' >&0";

/// A process that says what a listener says, and is none.
fn pretender(uid: u32, gid: u32, script: String) -> impl Fn() -> Command {
    move || {
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]);
        command.args(["--no-new-privs", "sh", "-c", &format!("{script}; exec sleep 1000")]);
        command
    }
}

#[test]
fn who_behind_the_socket_is_no_confined_listener_of_the_right_user_is_refused() {
    let gate = Gate::new(|config| config);
    let (uid, gid) = listener_user();
    let unproven = "/proc/self/status does not show what was asked for";
    let other_user = format!("runs as user 0 and group 0, not as {uid} and {gid}");
    for (user, script, says) in [
        ((uid, gid), format!("{HELLO}; {READY}"), unproven),
        ((uid, gid), format!("{HELLO}; {READY_WITH_ALL_LIMITATIONS}"), unproven),
        ((0, 0), format!("{HELLO}; {READY_WITH_ALL_LIMITATIONS}"), &*other_user),
        // Another process than the one that is looked at.
        ((uid, gid), format!("{HELLO}; ({READY}; :)"), "it sent an invalid message"),
        ((uid, gid), READY.to_owned(), "it sent an invalid message"),
        ((uid, gid), "exit".to_owned(), "its end of the pipe is closed"),
    ] {
        let _starter = starter(&gate, pretender(user.0, user.1, script.clone()));
        let words = refusal(&gate);
        assert!(words.contains(says), "{script}: {words}");
    }
}

#[test]
fn a_descriptor_comes_beside_the_one_message_that_may_have_it_or_the_listener_is_refused() {
    let xdp = |config: String| section(&config, "knock", "xdp = []", "xdp = [\"gw0\"]");
    let (uid, gid) = listener_user();
    let [invalid, unproven] = ["it sent an invalid message", "/proc/self/status does not show"];
    // Says this with a descriptor beside it: that of the pipe. It is the same process.
    let beside = |bytes: &str| {
        let send = format!("socket.send_fds(socket.socket(fileno=0), [b\"{bytes}\"], [0])");
        format!("exec python3 -c 'import signal, socket; {send}; signal.pause()'")
    };
    let [hello, ready, xdp_made] = ["\\0", "\\1\\0\\0\\0\\0", "\\20"].map(beside);
    let with = Gate::new(xdp);
    let without = Gate::new(|config| config);
    for (gate, script, says) in [
        (&with, hello.clone(), invalid),
        (&with, xdp_made.clone(), invalid),
        (&with, format!("{HELLO}; {ready}"), invalid),
        (&with, format!("{HELLO}; printf '\\020' >&0"), invalid),
        (&with, format!("{HELLO}; {READY}"), unproven),
        (&without, format!("{HELLO}; {xdp_made}"), "No buffer space available"),
        (&without, hello, "No buffer space available"),
    ] {
        let _starter = starter(gate, pretender(uid, gid, script.clone()));
        let words = refusal(gate);
        assert!(words.contains(says), "{script}: {words}");
    }
}

#[test]
fn a_socket_that_is_missing_or_belongs_to_another_user_is_named_with_its_remedy() {
    let gate = Gate::new(|config| config);
    let words = refusal(&gate);
    assert!(
        words.contains("no listener at the socket") && words.contains("/listener: "),
        "{words}"
    );
    assert!(words.contains("systemctl start toctoc-listener.socket"), "{words}");
    // The directory is root's alone.
    let script = "import os, socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); \
                  s.bind(sys.argv[1]); os.setresuid(65534, 65534, 65534); s.listen(); s.accept()";
    let mut holder = Command::new("python3");
    holder.args(["-c", script, &gate.path("listener")]);
    let mut holder = gate.net.gateway.spawn(&mut holder);
    until("it listens", || gate.net.gateway.sh("ss -xl").contains(&gate.path("listener")));
    let words = refusal(&gate);
    assert!(words.contains("belongs to user 65534") && words.contains("must be root's"), "{words}");
    assert!(holder.wait(LONG).is_some(), "it was not connected to");
}

#[test]
fn commands_under_the_narrow_unit_are_named_with_the_line_that_helps() {
    let mut gate = Gate::new(|config| {
        config
            + "[door.side]\nsequence = [\"7321/tcp\", \"8432/udp\", \"9543/tcp\"]\nstart_command = \"true\"\n"
    });
    let starter = starter(&gate, as_in_unit);
    let says = "commands of doors, services or hooks have few rights under this unit";
    gate.start_apart(&UNIT, &starter.path);
    let status = gate.status();
    assert!(status.contains(says) && status.contains("commands.conf"), "{status}");
    assert!(gate.daemon().log().contains(says));
    gate.stop();
    gate.start_apart(&["env"], &starter.path);
    assert!(!gate.status().contains(says), "with all rights");
}
