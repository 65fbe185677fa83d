//! A client that is revoked while something is wrong: no gateway runs, the disk cannot be written,
//! its line cannot be read.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use toctoc::core::knock::Status;

use crate::harness::gate::{Gate, Knocker, RDP, SSH, ok, stderr};
use crate::harness::{LONG, SHORT, echoes};

/// `toctocd client revoke anna` after these commands in a mount namespace of its own; `$0` is the
/// directory of the configuration.
fn revoke_under(gate: &Gate, mounts: &str) -> Output {
    let line = format!("{mounts} && exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &line, &gate.path("etc")]);
    command.arg(env!("CARGO_BIN_EXE_toctocd")).args(["client", "revoke", "anna", "-c"]);
    gate.net.gateway.run(command.arg(gate.config()))
}

fn is_refused(gate: &Gate, anna: &Knocker) {
    assert!(!gate.net.client.tcp_reaches(gate.port(0, SSH), SHORT), "the grant has not ended");
    anna.seal(&anna.request("ssh", gate.net.client.ips()[0]))
        .send_in_vain(&gate.net.client, gate.net.gateway_ips()[0]);
}

#[test]
fn a_revocation_without_a_gateway_ends_the_grants_and_connections_in_the_guard() {
    let mut gate = Gate::running(|config| config.replace("cut = \"never\"", "cut = \"revoke\""));
    let _servers = [SSH, RDP].map(|port| gate.net.gateway.tcp_echo(port));
    let neighbour = gate.net.host(1);
    let [anna, bert] = ["anna", "bert"].map(|name| gate.enrol(name, "ssh,rdp"));
    for service in ["ssh", "rdp"] {
        anna.must_open(&gate.net.client, service, 0);
        anna.must_open(&gate.net.client, service, 1);
    }
    bert.must_open(&neighbour, "ssh", 0);
    bert.must_open(&gate.net.client, "ssh", 1);
    let mut stream = gate.net.client.space.connect(gate.port(0, SSH), LONG).unwrap();
    gate.stop();
    // While nobody can read which grants there are, that is said.
    let journal = gate.path("etc/state/journal");
    let set_mode = |mode| fs::set_permissions(&journal, fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o666);
    let clients = fs::read(gate.path("etc/clients")).unwrap();
    let output = gate.toctocd(&["client", "revoke", "anna"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("ITS GRANTS MAY STAY OPEN until"), "{output:?}");
    set_mode(0o600);
    fs::write(gate.path("etc/clients"), clients).unwrap();

    let output = gate.toctocd(&["client", "revoke", "anna"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stderr(&output).contains("and its grants in the guard have ended"), "{output:?}");
    for port in [gate.port(0, SSH), gate.port(0, RDP), gate.port(1, RDP)] {
        assert!(!gate.net.client.tcp_reaches(port, SHORT), "{port} is still open");
    }
    assert!(!echoes(&mut stream, SHORT), "her connection goes on");
    assert!(neighbour.tcp_reaches(gate.port(0, SSH), LONG), "a neighbour's grant stays");
    assert!(gate.net.client.tcp_reaches(gate.port(1, SSH), LONG), "so does one for her address");
    gate.start();
    is_refused(&gate, &anna);
    assert!(neighbour.tcp_reaches(gate.port(0, SSH), LONG));
}

#[test]
fn a_revocation_on_a_read_only_disk_holds_at_the_running_gateway_and_says_what_is_left() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    anna.must_open(&gate.net.client, "ssh", 0);
    let read_only = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\"";
    for _ in 0..2 {
        let output = revoke_under(&gate, read_only);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("`anna` is revoked at the running gateway, which has ended"),
            "{said}"
        );
        assert!(said.contains("ITS LINE IS STILL IN THE CLIENTS FILE: "), "{said}");
        assert!(said.contains("the file system is read-only"), "{said}");
        is_refused(&gate, &anna);
        gate.reload();
        is_refused(&gate, &anna);
    }
    assert!(gate.status().contains("1 revoked but still in the clients file"));
    gate.revoke("anna");
    assert!(!gate.status().contains("revoked but still"));
    is_refused(&gate, &anna);
}

#[test]
fn on_a_read_only_disk_without_a_gateway_the_grants_end_and_it_is_said_that_nobody_is_revoked() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    anna.must_open(&gate.net.client, "ssh", 0);
    gate.stop();
    let read_only = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\"";
    for _ in 0..2 {
        let output = revoke_under(&gate, read_only);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("`anna` is NOT REVOKED: ITS LINE IS STILL IN"), "{said}");
        assert!(said.contains("the file system is read-only"), "{said}");
        assert!(said.contains("and its grants in the guard have ended"), "{said}");
        assert!(said.contains("the next start of the gateway lets it in again"), "{said}");
        assert!(!gate.net.client.tcp_reaches(gate.port(0, SSH), SHORT), "the grant stays");
    }
    gate.revoke("anna");
    gate.start();
    is_refused(&gate, &anna);
}

#[test]
fn a_revocation_without_a_gateway_names_the_command_services_that_stay_open() {
    let mut gate = Gate::running(|config| {
        config
            + "[service.vpn]\nstart = [\"/bin/true\"]\nstop = [\"/usr/bin/touch\", \"stopped\"]\n"
    });
    let anna = gate.enrol("anna", "ssh,vpn");
    assert_eq!(anna.open(&gate.net.client, "vpn", 0).unwrap().status, Status::Granted);
    gate.kill();
    let output = gate.toctocd(&["client", "revoke", "anna"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = stderr(&output);
    assert!(said.contains("What the start commands of vpn opened STAYS OPEN until"), "{said}");
}

#[test]
fn where_no_second_file_fits_beside_the_clients_file_a_revoked_line_becomes_a_comment() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let [anna, bert] = ["anna", "bert"].map(|name| gate.enrol(name, "ssh"));
    anna.must_open(&gate.net.client, "ssh", 0);
    let clients = gate.path("etc/clients");
    let before = fs::read_to_string(&clients).unwrap();
    let output = revoke_under(
        &gate,
        "mount --bind \"$0\" \"$0\" && mount --bind \"$0/clients\" \"$0/clients\" \
         && mount -o remount,bind,ro \"$0\"",
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stderr(&output).contains("the running gateway has ended its grants"), "{output:?}");
    is_refused(&gate, &anna);
    let line = before.lines().find(|line| line.ends_with(" anna")).unwrap();
    let expected = before.replace(line, &format!("#{}", &line[1..]));
    assert_eq!(fs::read_to_string(&clients).unwrap(), expected);
    bert.must_open(&gate.net.client, "ssh", 0);
}

#[test]
fn a_client_whose_name_nobody_can_read_any_more_is_revoked_by_what_the_gateway_knows() {
    let gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let clients = gate.path("etc/clients");
    let text = fs::read_to_string(&clients).unwrap();
    for broken in [" anna # lost on Friday\n", " an|na\n"] {
        fs::write(&clients, text.replace(" anna\n", broken)).unwrap();
        assert!(!gate.toctocd(&["reload"]).status.success());
        assert_eq!(anna.open(&gate.net.client, "ssh", 0).unwrap().status, Status::Granted);
        ok(&gate.toctocd(&["client", "revoke", "anna"]));
        is_refused(&gate, &anna);
        let left = fs::read_to_string(&clients).unwrap();
        assert!(!left.contains(&anna.profile.client.to_string()), "{broken}");
        assert_eq!(gate.toctocd(&["client", "revoke", "anna"]).status.code(), Some(5));
        fs::write(&clients, &text).unwrap();
        gate.reload();
    }
    // Somebody has removed the line, and no reload followed.
    fs::write(&clients, "").unwrap();
    assert_eq!(anna.open(&gate.net.client, "ssh", 0).unwrap().status, Status::Granted);
    let said = gate.toctocd(&["client", "revoke", "anna"]);
    assert!(stderr(&said).contains("is revoked at the running gateway"), "{said:?}");
    assert_eq!(said.status.code(), Some(0));
    is_refused(&gate, &anna);
}
