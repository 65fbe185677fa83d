//! The commands of an admin, and bad files: they change nothing, and the message says where and
//! what to do.

use std::fs;

use nix::sys::signal::Signal;
use toctoc::core::types::SECOND;
use toctoc::edge::clock;

use crate::harness::gate::{Gate, SSH, ok, stderr};
use crate::harness::{LONG, SHORT};

#[test]
fn a_client_that_is_added_to_a_running_gateway_can_knock_at_once() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    for name in ["anna", "bert"] {
        gate.enrol(name, "ssh");
        ok(&gate.toctoc_as(name, &format!("open {name} ssh -4")));
    }
    let list = ok(&gate.toctocd(&["client", "list"]));
    assert!(list.contains("anna") && list.contains("bert"), "{list}");
    assert!(gate.net.client.tcp_reaches(gate.port(0, SSH), LONG));
}

#[test]
fn a_reload_of_a_bad_file_changes_nothing_and_names_its_place() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let good = fs::read_to_string(gate.config()).unwrap();
    let line = 1 + good.lines().position(|line| line.starts_with("port = ")).unwrap();
    fs::write(gate.config(), good.replace("port = 62201", "port = 162201")).unwrap();
    gate.daemon().process.signal(Signal::SIGHUP);
    let text = gate.daemon().wait_for("not reloaded");
    assert!(text.contains(&format!("toctocd.toml:{line}:")), "{text}");
    anna.must_open(&gate.net.client, "ssh", 0);
    let output = gate.toctocd(&["check"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    fs::write(gate.config(), good).unwrap();
    let text = gate.reload();
    assert!(text.contains("reloaded"), "{text}");
}

#[test]
fn a_gateway_that_is_told_to_end_does_not_reload_first() {
    let mut gate = Gate::running(|config| config);
    let process = &gate.daemon().process;
    // Both signals are pending when it continues.
    for signal in [Signal::SIGSTOP, Signal::SIGHUP, Signal::SIGTERM, Signal::SIGCONT] {
        process.signal(signal);
    }
    let output = gate.daemon().wait_for("shutting down;");
    let all = gate.daemon().log();
    assert!(!all.contains("reload") && !all.contains("still runs"), "{output}: {all}");
    assert!(gate.daemon().process.wait(LONG).is_some_and(|status| status.success()));
}

#[test]
fn a_reload_adds_services_and_keeps_live_grants() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let _web = gate.net.gateway.tcp_echo(8080);
    let anna = gate.enrol("anna", "ssh");
    anna.must_open(&gate.net.client, "ssh", 0);
    assert!(gate.net.client.tcp_reaches(gate.port(0, 8080), LONG), "guarded before the reload");
    gate.edit_config(|config| config + "\n[service.web]\nports = [\"8080/tcp\"]\n");
    gate.reload();
    assert!(!gate.net.client.tcp_reaches(gate.port(0, 8080), SHORT), "not guarded");
    assert!(gate.net.client.tcp_reaches(gate.port(0, SSH), LONG), "the grant is lost");
    anna.must_open(&gate.net.client, "ssh", 0);
}

#[test]
fn a_reload_warns_of_new_weaknesses_and_does_not_repeat_old_warnings() {
    // A weak door, and a service whose program does not exist.
    let door = |name, first| {
        format!(
            "[door.{name}]\nsequence = [\"{first}/tcp\", \"2833/udp\"]\nstart_command = \"true\"\n\
             [service.{name}]\nstart = [\"/no/{name}\"]\nstop = [\"/bin/true\"]\n"
        )
    };
    let mut gate = Gate::running(|config| config + &door("old", 7411));
    gate.edit_config(|config| config + &door("new", 7412));
    gate.reload();
    gate.daemon().wait_for("reloaded:");
    let output = gate.daemon().log();
    for name in ["old", "new"] {
        assert_eq!(
            output
                .matches(&format!("warning: door [{name}] at {}:", gate.config().display()))
                .count(),
            1,
            "{output}"
        );
        assert_eq!(
            output
                .matches(&format!("warning: service {name}: its `start` names /no/{name}"))
                .count(),
            1,
            "{output}"
        );
    }
}

#[test]
fn a_key_file_that_others_can_read_keeps_the_gateway_from_starting() {
    let gate = Gate::new(|config| config);
    gate.net.gateway.sh(&format!("chmod 644 {}", gate.path("etc/gateway.key")));
    let output = gate.toctocd(&["run"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2));
    assert!(text.contains("gateway.key") && text.contains("chmod 600"), "{text}");
    assert_eq!(gate.net.gateway.sh("nft list tables"), "", "the guard was loaded");
}

#[test]
fn a_missing_program_is_reported_with_a_remedy() {
    let gate =
        Gate::new(|config| config.replace("nft = \"/usr/sbin/nft\"", "nft = \"/nowhere/nft\""));
    let output = gate.toctocd(&["run"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("nftables"), "{text}");
    assert_eq!(gate.net.gateway.sh("nft list tables"), "", "the guard was loaded");
}

#[test]
fn check_names_what_the_running_gateway_would_refuse_to_reload() {
    let gate = Gate::running(|config| config);
    ok(&gate.toctocd(&["check"]));
    let good = fs::read_to_string(gate.config()).unwrap();
    let (socket, state) = (gate.path("etc/control"), gate.path("etc/state"));
    for (from, to, words) in [
        ("table = \"toctoc\"", "table = \"other\"", "`table` cannot change while toctocd runs"),
        (&state, &format!("{state}2"), "`state_dir` cannot change while toctocd runs"),
        (&socket, &format!("{socket}2"), "does not answer at this `control_socket`"),
        (
            "[classic]",
            "[service.run]\nstart = [\"/bin/true\"]\nstop = [\"/bin/true\"]\n[classic]",
            "has given up the rights for them",
        ),
    ] {
        fs::write(gate.config(), good.replacen(from, to, 1)).unwrap();
        let output = gate.toctocd(&["check"]);
        assert_eq!(output.status.code(), Some(1), "{to}: {output:?}");
        assert!(stderr(&output).contains(words), "{to}: {output:?}");
        assert!(stderr(&output).contains("restart toctocd"), "{to}: {output:?}");
        assert!(!gate.toctocd(&["reload"]).status.success(), "{to}");
    }
}

#[test]
fn an_outdated_printed_guard_is_reported_until_it_is_printed_again() {
    let mut gate = Gate::new(|config| config);
    let printed = gate.path("etc/printed.nft");
    gate.edit_config(|config| config.replace("/etc/nftables.d/toctoc.nft", &printed));
    gate.start();
    let warning = format!("{printed} is not the guard as configured now");
    let commands = [&["status"][..], &["guard", "status"], &["check"]];
    let warned = |gate: &Gate| commands.map(|words| ok(&gate.toctocd(words)).contains(&warning));
    assert_eq!(warned(&gate), [false; 3], "there is no printed guard");
    let text = ok(&gate.toctocd(&["guard", "print"]));
    assert!(text.contains(&format!("include \"{printed}\"")), "{text}");
    fs::write(&printed, format!("# mine\n{text}")).unwrap();
    gate.reload();
    assert_eq!(warned(&gate), [false; 3], "the printed guard is up to date");
    gate.edit_config(|config| config.replace("\"22/tcp\"", "\"2222/tcp\""));
    gate.reload();
    gate.daemon().wait_for(&format!(
        "warning: {printed} is not the guard as configured now: run `toctocd guard print >{printed}`"
    ));
    assert_eq!(warned(&gate), [true; 3]);
    gate.stop();
    gate.start();
    assert!(gate.daemon().log().contains("is not the guard as configured now"));
    fs::write(&printed, ok(&gate.toctocd(&["guard", "print"]))).unwrap();
    assert_eq!(warned(&gate), [false; 3]);
    assert_eq!(gate.daemon().log().matches("is not the guard").count(), 1);
}

#[test]
fn when_only_clients_change_the_same_listener_goes_on_and_knows_them() {
    let mut gate = Gate::running(|config| config);
    let listener = gate.daemon().listener();
    let anna = gate.enrol("anna", "ssh");
    let bert = gate.enrol("bert", "ssh");
    anna.must_open(&gate.net.client, "ssh", 0);
    bert.must_open(&gate.net.client, "ssh", 0);
    gate.revoke("anna");
    anna.seal(&anna.request("ssh", gate.net.client.ips()[0]))
        .send_in_vain(&gate.net.client, gate.net.client.gateway_ips()[0]);
    bert.must_open(&gate.net.client, "ssh", 0);
    gate.reload();
    assert_eq!(gate.daemon().listener(), listener);
    // Another listener, if the configuration needs one, knows the same clients.
    gate.edit_config(|config| config.replace("max_age = 30", "max_age = 31"));
    gate.reload();
    assert_eq!(gate.daemon().listener(), listener, "that is not its business");
    gate.edit_config(|config| config.replace("burst = 64", "burst = 65"));
    gate.reload();
    assert_ne!(gate.daemon().listener(), listener);
    bert.must_open(&gate.net.client, "ssh", 0);
}

#[test]
fn hours_refuse_a_knock_and_say_why_in_the_log_and_a_disabled_client_is_unknown_until_it_is_enabled()
 {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let to = gate.port(0, SSH);
    // A whole day and no other: the test must not depend on when it runs.
    let day = (clock::now().wall.0 / SECOND / 86_400 + 3 + 3) % 7;
    let day = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"][usize::try_from(day).unwrap()];
    let hours = format!("{day} 00:00-24:00 UTC");
    gate.enrol_with("anna", "ssh", &["--hours", &hours, "--max-grants", "2"]);
    let refused = gate.toctoc_as("anna", "open anna ssh -4");
    assert!(stderr(&refused).contains("at this hour"), "{refused:?}");
    gate.daemon().wait_for(&format!("refused from 10.90.0.2: outside of its hours ({hours})"));
    let clients = gate.path("etc/clients");
    let open = fs::read_to_string(&clients).unwrap().replace(&hours, "daily 00:00-24:00 UTC");
    fs::write(&clients, open).unwrap();
    gate.reload();
    ok(&gate.toctoc_as("anna", "open anna ssh -4"));
    let shown = ok(&gate.toctocd(&["client", "show", "anna"]));
    for part in ["hours=\"daily 00:00-24:00 UTC\"", "max-grants=2", "anna/ssh@10.90.0.2, "] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    ok(&gate.toctocd(&["client", "disable", "anna"]));
    assert!(!gate.net.client.tcp_reaches(to, SHORT));
    let unknown = gate.toctoc_as("anna", "open anna ssh -4 --timeout 1s");
    assert_eq!(unknown.status.code(), Some(3), "{unknown:?}");
    ok(&gate.toctocd(&["client", "enable", "anna"]));
    ok(&gate.toctoc_as("anna", "open anna ssh -4"));
    assert!(gate.net.client.tcp_reaches(to, LONG));
}
