//! `toctocd top` at a terminal: what it shows, its keys, a gateway that goes away, and the terminal
//! afterwards.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::gate::Gate;
use crate::harness::terminal::AtTerminal;
use crate::harness::{LONG, until};

/// What a terminal gets when it leaves the page of pictures.
const LEAVES: &str = "\u{1b}[?1049l";

fn top(gate: &Gate) -> AtTerminal {
    let mut command = Command::new(env!("CARGO_BIN_EXE_toctocd"));
    command.args(["top", "-c"]).arg(gate.config()).env("TERM", "xterm-256color");
    AtTerminal::start_on_screen(&gate.net.gateway, &mut command)
}

#[test]
fn the_screen_shows_a_grant_ends_it_after_a_yes_and_outlives_the_gateway() {
    let mut gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    anna.must_open(&gate.net.client, "ssh", 0);
    let mut top = top(&gate);
    top.wait_for("udp/62201");
    top.wait_for("> anna");
    assert!(top.is_raw());
    top.types("e");
    top.wait_for("End the grant anna/ssh@");
    top.types("n");
    top.wait_for("nothing was changed");
    assert!(gate.grants().contains("anna"));
    top.types("e");
    top.wait_for("End the grant");
    top.types("y");
    top.wait_for("nothing is open");
    assert!(gate.nothing_is_open());
    gate.stop();
    top.wait_for("NO ANSWER since ");
    gate.start();
    top.wait_for("guard");
    top.types("q");
    top.wait_for(LEAVES);
    assert!(top.child.wait(LONG).expect("it ends").success());
    assert!(!top.is_raw());
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let gate = Gate::running(|config| config);
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let mut top = top(&gate);
        // Blanks of the first picture are not written.
        top.wait_for("nothing");
        assert!(top.is_raw());
        top.child.signal(signal);
        top.wait_for(LEAVES);
        let ended = top.child.wait(LONG).expect("it ends");
        assert_eq!(ended.code(), Some(128 + signal as i32));
        until("the terminal is as it was", || !top.is_raw());
    }
}

#[test]
fn one_picture_is_text_and_adds_up() {
    let gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    anna.must_open(&gate.net.client, "ssh", 0);
    let shown = crate::harness::gate::ok(&gate.toctocd(&["top", "--once"]));
    assert!(shown.lines().count() == 24 && shown.lines().all(|line| line.chars().count() <= 80));
    assert!(shown.contains("> anna ") && shown.contains(" opened a service"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown}");
    let value = crate::harness::gate::ok(&gate.toctocd(&["top", "--json"]));
    let value: serde_json::Value = serde_json::from_str(&value).expect("JSON");
    assert_eq!(value["grants"][0]["client"], "anna");
    assert_eq!(value["overview"]["clients"][0]["last"], "granted");
    assert_eq!(value["overview"]["status"]["packets"], gate.status_json()["packets"]);
    let nowhere = gate.toctocd(&["top"]);
    assert_eq!(nowhere.status.code(), Some(1), "{nowhere:?}");
}
