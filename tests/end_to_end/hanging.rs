//! The world hangs, and the gateway does not. See `app/gatekeeper/tests/hanging.rs` for each thing
//! that may hang.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use toctoc::core::knock::Status;

use crate::harness::gate::{Gate, SSH, ok, stderr};
use crate::harness::terminal::AtTerminal;
use crate::harness::{LONG, until};

#[test]
fn with_an_nft_that_never_ends_knocks_are_granted_admins_answered_and_the_end_is_obeyed() {
    let mut gate = Gate::new(|config| config);
    let (nft, hang) = (gate.path("nft"), gate.path("hang"));
    let script =
        format!("#!/bin/sh\n[ ! -e {hang} ] || exec sleep 1000\nexec /usr/sbin/nft \"$@\"\n");
    fs::write(&nft, script).unwrap();
    fs::set_permissions(&nft, fs::Permissions::from_mode(0o755)).unwrap();
    let config = fs::read_to_string(gate.config()).unwrap().replace("/usr/sbin/nft", &nft);
    fs::write(gate.config(), config).unwrap();
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    gate.start();
    let anna = gate.enrol("anna", "ssh");
    fs::write(hang, "").unwrap();
    // Somebody changes our table, and the repair hangs.
    gate.net.gateway.sh("nft add set inet toctoc other '{ type ipv4_addr; }'");
    gate.daemon().wait_for("our firewall table was changed by nft");
    assert_eq!(anna.open(&gate.net.client, "ssh", 0).map(|r| r.status), Some(Status::Granted));
    let to = SocketAddr::new(gate.net.gateway_ips()[0], SSH);
    assert!(gate.net.client.tcp_reaches(to, LONG));
    assert!(ok(&gate.toctocd(&["grants"])).contains("anna"));
    assert!(ok(&gate.toctocd(&["status"])).contains("services"));
    gate.daemon().process.signal(Signal::SIGTERM);
    gate.daemon().wait_for("shutting down");
    assert!(gate.daemon().process.wait(LONG).expect("it ends").success());
}

#[test]
fn a_fifo_in_the_place_of_a_file_fails_the_reload_and_nothing_else() {
    let mut gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    let (clients, parts) = (gate.path("etc/clients"), gate.path("etc/parts"));
    fs::create_dir(&parts).unwrap();
    fs::set_permissions(&parts, fs::Permissions::from_mode(0o700)).unwrap();
    let fails = |gate: &Gate, fifo: &str| {
        let begin = Instant::now();
        let output = gate.toctocd(&["reload"]);
        assert!(!output.status.success() && begin.elapsed() < LONG, "{output:?}");
        assert!(stderr(&output).contains(fifo), "{output:?}");
        anna.must_open(&gate.net.client, "ssh", 0);
    };
    // The clients file.
    fs::rename(&clients, gate.path("etc/kept")).unwrap();
    mkfifo(clients.as_str(), Mode::from_bits_truncate(0o600)).unwrap();
    fails(&gate, &clients);
    gate.daemon().process.signal(Signal::SIGHUP);
    gate.daemon().wait_for("not reloaded");
    fs::rename(gate.path("etc/kept"), &clients).unwrap();
    // A part of the configuration.
    let fifo = format!("{parts}/part.toml");
    mkfifo(fifo.as_str(), Mode::from_bits_truncate(0o600)).unwrap();
    gate.edit_config(|config| format!("include = \"{parts}\"\n{config}"));
    fails(&gate, &fifo);
    fs::remove_file(&fifo).unwrap();
    gate.reload();
    mkfifo(fifo.as_str(), Mode::from_bits_truncate(0o600)).unwrap();
    gate.daemon().process.signal(Signal::SIGHUP);
    gate.stop();
}

#[test]
fn a_fifo_in_the_place_of_the_clients_file_keeps_no_command_and_no_start_waiting() {
    let mut gate = Gate::new(|config| config);
    gate.enrol("anna", "ssh");
    let clients = gate.path("etc/clients");
    fs::rename(&clients, gate.path("etc/kept")).unwrap();
    mkfifo(clients.as_str(), Mode::from_bits_truncate(0o600)).unwrap();
    let key = format!("@{}.pub", gate.path("anna.key"));
    for words in [
        &["client", "list"][..],
        &["client", "add", "bert", "--services", "ssh", "--key", &key],
        &["client", "revoke", "anna"],
        &["client", "forgive", "anna"],
        &["invite", "carl", "--services", "ssh"],
        &["check"],
        &["run"],
    ] {
        let begin = Instant::now();
        let output = gate.toctocd(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
        let said = stderr(&output);
        assert!(said.contains(&format!("{clients}: not a regular file")), "{words:?}: {said}");
        assert!(begin.elapsed() < LONG, "{words:?}");
    }
    fs::rename(gate.path("etc/kept"), &clients).unwrap();
    gate.start();
}

#[test]
fn with_a_log_that_nobody_reads_knocks_are_granted_admins_answered_and_the_end_is_obeyed() {
    let gate = Gate::new(|config| config);
    let anna = gate.enrol("anna", "ssh");
    let mut command = Command::new(env!("CARGO_BIN_EXE_toctocd"));
    command.args(["run", "-c"]).arg(gate.config()).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut process = gate.net.gateway.spawn(&mut command);
    let log = process.0.stderr.take().unwrap();
    fcntl(&log, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    until("it answers", || gate.toctocd(&["status"]).status.success());
    // Right after a start each costs a challenge, so it is two packets and two lines. These fill
    // the pipe, and a client may send so many at once.
    for _ in 0..30 {
        anna.must_open(&gate.net.client, "ssh", 0);
    }
    assert!(gate.grants().contains("anna"));
    assert!(gate.status().contains("services"));
    process.signal(Signal::SIGTERM);
    assert!(process.wait(LONG).expect("it ends").success());
    drop(log);
}

#[test]
fn a_command_that_waits_for_the_gateway_says_so_at_a_terminal() {
    let mut gate = Gate::running(|config| config);
    gate.daemon().process.signal(Signal::SIGSTOP);
    let mut command = Command::new(env!("CARGO_BIN_EXE_toctocd"));
    command.args(["status", "-c"]).arg(gate.config());
    let mut status = AtTerminal::start(&gate.net.gateway, &mut command);
    status.wait_for("waiting for the gateway, 1 s");
    gate.daemon().process.signal(Signal::SIGCONT);
    status.wait_for("state       intact");
}
