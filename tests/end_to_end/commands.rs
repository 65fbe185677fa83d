//! Command services: one start and one stop for all clients behind an address, without a shell,
//! also when the daemon ends.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use toctoc::core::knock::{KnockKind, Receipt, Request, Status};

use crate::harness::gate::{Gate, Knocker, ok, send, stderr};
use crate::harness::process::{children, has_ended, signal, zombies};
use crate::harness::{Host, LONG, SHORT, eventually, until};

/// A gateway with the service `vpn` and the sections in `more`. `NOTE` is a program that logs its
/// arguments to the file `LOG`, each in angle brackets.
fn gate(more: &str) -> Gate {
    let gate = Gate::new(|config| config);
    let note = gate.path("note");
    // One write for each line, because several may write at the same time.
    let script =
        "#!/bin/sh\nlog=$1\nshift\nline=$(printf '<%s>' \"$@\")\necho \"$line\" >>\"$log\"\n";
    fs::write(&note, script).unwrap();
    fs::set_permissions(&note, fs::Permissions::from_mode(0o755)).unwrap();
    let more = more.replace("NOTE", &note).replace("LOG", &log_path(&gate));
    gate.edit_config(|config| config + &vpn(&gate) + &more);
    gate
}

fn log_path(gate: &Gate) -> String {
    gate.path("did")
}

/// A service whose arguments a shell would change.
fn vpn(gate: &Gate) -> String {
    let (note, log, touched) = (gate.path("note"), log_path(gate), gate.path("touched"));
    format!(
        "[service.vpn]\nstart = [\"{note}\", \"{log}\", \"open\", \"%IP%\", \"$(touch {touched}); touch {touched} #\", \"a  b\"]\n\
         stop = [\"{note}\", \"{log}\", \"shut\", \"%IP%\"]\n"
    )
}

fn did(gate: &Gate) -> Vec<String> {
    let text = fs::read_to_string(log_path(gate)).unwrap_or_default();
    // Without the arguments that a shell would change, which one test checks.
    text.lines().map(|line| line.split("<$").next().unwrap().to_owned()).collect()
}

/// Waits until the commands have logged exactly `wanted`.
#[track_caller]
fn wait_for(gate: &Gate, wanted: &[&str]) {
    assert!(eventually(LONG, || did(gate) == wanted), "{:?}, not {wanted:?}", did(gate));
}

/// Knocks, and again with a new packet if no receipt comes in time, as the client program does: a
/// busy machine may stall for seconds.
fn knock(gate: &Gate, client: &Knocker, service: &str, change: impl Fn(&mut Request)) -> Receipt {
    let one = |_| {
        let mut request = client.request(service, gate.net.client.ips()[0]);
        change(&mut request);
        client.seal(&request).send(&gate.net.client, gate.net.gateway_ips()[0])
    };
    (0..3).find_map(one).expect("a receipt")
}

const OPEN: &str = "<open><10.90.0.2>";
const SHUT: &str = "<shut><10.90.0.2>";

#[test]
fn a_knock_runs_the_commands_without_a_shell_and_its_receipt_comes_when_the_start_has_ended() {
    let mut gate = gate("");
    gate.start();
    gate.enrol("anna", "vpn");
    for (family, address) in [("-4", "10.90.0.2"), ("-6", "fd90::2")] {
        let _ = fs::remove_file(log_path(&gate));
        let words = format!("open {family} anna vpn --seconds 2");
        let output = ok(&gate.toctoc_as("anna", &words));
        assert!(
            output.contains(&format!("granted: {address} may reach vpn at"))
                && output.contains("for 2 s"),
            "{output}"
        );
        // The start command has run before the client gets its receipt.
        let text = fs::read_to_string(log_path(&gate)).unwrap();
        let touched = gate.path("touched");
        assert_eq!(
            text,
            format!("<open><{address}><$(touch {touched}); touch {touched} #><a  b>\n")
        );
        assert!(gate.grants().contains("by commands"));
        wait_for(&gate, &[&format!("<open><{address}>"), &format!("<shut><{address}>")]);
        assert!(gate.nothing_is_open());
    }
    assert!(!std::path::Path::new(&gate.path("touched")).exists(), "a shell ran the arguments");
    gate.stop();
    assert_eq!(did(&gate).len(), 2, "the stop command ran again");
}

#[test]
fn commands_can_add_to_a_set_of_another_table_and_delete_from_it_again() {
    let mut gate = Gate::new(|config| {
        let command = |verb: &str| {
            format!(
                "[\"/usr/sbin/nft\", \"{verb}\", \"element\", \"inet\", \"mine\", \"vpn\", \"{{ %IP% }}\"]"
            )
        };
        format!("{config}[service.set]\nstart = {}\nstop = {}\n", command("add"), command("delete"))
    });
    gate.net
        .gateway
        .sh("nft add table inet mine && nft 'add set inet mine vpn { type ipv4_addr; }'");
    gate.start();
    let anna = gate.enrol("anna", "set");
    let set = || gate.net.gateway.sh("nft list set inet mine vpn");
    assert_eq!(knock(&gate, &anna, "set", |_| ()).status, Status::Granted);
    assert!(set().contains("10.90.0.2"), "{}", set());
    assert_eq!(
        knock(&gate, &anna, "set", |request| request.kind = KnockKind::Close).status,
        Status::Closed
    );
    assert!(eventually(LONG, || !set().contains("10.90.0.2")), "{}", set());
}

#[test]
fn clients_behind_one_address_share_one_start_and_the_last_close_runs_the_stop() {
    let mut gate = gate("");
    gate.start();
    let [anna, bert] = ["anna", "bert"].map(|name| gate.enrol(name, "vpn"));
    let close = |client: &Knocker| {
        assert_eq!(
            knock(&gate, client, "vpn", |request| request.kind = KnockKind::Close).status,
            Status::Closed
        );
    };
    for client in [&anna, &bert, &anna] {
        let receipt = knock(&gate, client, "vpn", |request| request.seconds = 600);
        assert_eq!(
            (receipt.status, receipt.seconds, receipt.ports),
            (Status::Granted, 600, [None; 4])
        );
    }
    close(&anna);
    // A stop command would have been started by now.
    assert!(gate.grants().contains("bert"));
    assert_eq!(did(&gate), [OPEN]);
    close(&bert);
    wait_for(&gate, &[OPEN, SHUT]);
    // Right after the end: the start command waits for the stop command.
    assert_eq!(knock(&gate, &anna, "vpn", |_| ()).status, Status::Granted);
    close(&anna);
    assert_eq!(knock(&gate, &anna, "vpn", |_| ()).status, Status::Granted);
    wait_for(&gate, &[OPEN, SHUT, OPEN, SHUT, OPEN]);
    gate.stop();
    assert_eq!(
        did(&gate),
        [OPEN, SHUT, OPEN, SHUT, OPEN, SHUT],
        "the end of the gateway runs the stop command"
    );
}

#[test]
fn a_revocation_and_a_removed_or_changed_service_run_the_stop_command_that_was_journalled() {
    let mut gate = gate("");
    gate.start();
    let [anna, bert] = ["anna", "bert"].map(|name| gate.enrol(name, "vpn,ssh"));
    assert_eq!(knock(&gate, &anna, "vpn", |request| request.seconds = 600).status, Status::Granted);
    gate.revoke("anna");
    wait_for(&gate, &[OPEN, SHUT]);
    let config = fs::read_to_string(gate.config()).unwrap();
    let changed =
        config.replace("\"shut\"", "\"shut otherwise\"").replace("\"open\"", "\"open otherwise\"");
    assert_eq!(knock(&gate, &bert, "vpn", |request| request.seconds = 600).status, Status::Granted);
    fs::write(gate.config(), &changed).unwrap();
    gate.reload();
    wait_for(&gate, &[OPEN, SHUT, OPEN, SHUT]);
    assert_eq!(knock(&gate, &bert, "vpn", |request| request.seconds = 600).status, Status::Granted);
    let vpn = vpn(&gate)
        .replace("\"shut\"", "\"shut otherwise\"")
        .replace("\"open\"", "\"open otherwise\"");
    fs::write(gate.config(), changed.replace(&vpn, "")).unwrap();
    let clients = fs::read_to_string(gate.path("etc/clients")).unwrap();
    fs::write(gate.path("etc/clients"), clients.replace("vpn,ssh", "ssh")).unwrap();
    gate.reload();
    let (open, shut) = ("<open otherwise><10.90.0.2>", "<shut otherwise><10.90.0.2>");
    wait_for(&gate, &[OPEN, SHUT, OPEN, SHUT, open, shut]);
}

#[test]
fn a_stop_command_survives_sigkill_and_the_end_of_its_service_and_runs_once() {
    let mut gate = gate("");
    gate.start();
    let anna = gate.enrol("anna", "vpn,ssh");
    assert_eq!(knock(&gate, &anna, "vpn", |request| request.seconds = 600).status, Status::Granted);
    gate.kill();
    assert_eq!(did(&gate), [OPEN]);
    gate.start();
    wait_for(&gate, &[OPEN, SHUT]);
    assert!(gate.nothing_is_open(), "a grant exists after its stop command");
    // The same with a service that was removed: only the journal knows the stop command.
    anna.must_open(&gate.net.client, "vpn", 0);
    gate.kill();
    let config = fs::read_to_string(gate.config()).unwrap();
    fs::write(gate.config(), config.replace(&vpn(&gate), "")).unwrap();
    let clients = fs::read_to_string(gate.path("etc/clients")).unwrap();
    fs::write(gate.path("etc/clients"), clients.replace("vpn,ssh", "ssh")).unwrap();
    gate.start();
    wait_for(&gate, &[OPEN, SHUT, OPEN, SHUT]);
    gate.stop();
    gate.start();
    gate.stop();
    assert_eq!(did(&gate), [OPEN, SHUT, OPEN, SHUT], "the stop command must run once");
}

#[test]
fn a_start_that_fails_or_hangs_is_reported_and_stopped_and_nobody_else_waits() {
    let stop = "stop = [\"NOTE\", \"LOG\", \"shut\", \"%IP%\"]\n";
    let mut gate = gate(&format!(
        "[service.fails]\nstart = [\"/bin/false\"]\n{stop}[service.absent]\nstart = [\"/no/such/program\"]\n{stop}\
         [service.hangs]\nstart = [\"/bin/sh\", \"-c\", \"echo $$ >>LOG; sleep 60 & wait\"]\n{stop}"
    ));
    gate.start();
    assert!(gate.daemon().log().contains("service absent: its `start` names /no/such/program"));
    assert!(gate.check().contains("service absent: its `start` names /no/such/program"));
    let [anna, bert] = ["anna", "bert"].map(|name| gate.enrol(name, "vpn,ssh,fails,absent,hangs"));
    for (times, service) in [(1, "fails"), (2, "absent")] {
        let receipt = knock(&gate, &anna, service, |_| ());
        assert_eq!((receipt.status, receipt.seconds, receipt.granted), (Status::Trouble, 0, None));
        wait_for(&gate, &[SHUT].repeat(times));
        gate.daemon()
            .wait_for(&format!("anna: {service} of 10.90.0.2 ended: its start command failed"));
    }
    assert_eq!((gate.grants(), gate.rejected("command")), ("nothing is open\n".to_owned(), 2));
    fs::remove_file(log_path(&gate)).unwrap();
    let other = gate.net.host(7);
    // A machine that stalls for seconds proves nothing: then try again.
    assert!((1..=4).any(|round| others_go_on_while_it_hangs(&gate, &other, [&anna, &bert], round)));
    assert!(!gate.grants().contains("hangs"));
}

/// True if both clients that wait for the hanging command are told after its time limit, and other
/// knocks are served before that. The checks of the command itself hold in any case.
fn others_go_on_while_it_hangs(
    gate: &Gate, other: &Host, waiting: [&Knocker; 2], round: usize,
) -> bool {
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    let pids =
        || did(gate).into_iter().filter(|line| line.parse::<u32>().is_ok()).collect::<Vec<_>>();
    let begin = Instant::now();
    let knocks = waiting.map(|client| {
        let knock = client.seal(&client.request("hangs", from));
        let socket = send(&gate.net.client, to, &knock.bytes);
        (knock, socket)
    });
    assert!(eventually(LONG, || pids().len() == round), "it runs");
    let served = ["ssh", "vpn"]
        .map(|service| waiting[0].open(other, service, 0).map(|receipt| receipt.status));
    let quick = served == [Some(Status::Granted); 2] && begin.elapsed() < Duration::from_secs(5);
    let statuses =
        knocks.map(|(knock, socket)| knock.receipt(&socket, LONG).map(|receipt| receipt.status));
    assert!(statuses.iter().flatten().all(|status| *status == Status::Trouble), "{statuses:?}");
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(4900), "ended before its time limit: {took:?}");
    let shut = || did(gate).iter().filter(|line| *line == SHUT).count();
    assert!(eventually(LONG, || shut() == round), "{:?}", did(gate));
    // Its process group is killed, with the processes that it started.
    let pid = pids().pop().expect("it ran");
    until("its process group ends", || {
        gate.net.gateway.sh(&format!("pgrep -g {pid} || true")).is_empty()
    });
    quick && !statuses.contains(&None)
}

#[test]
fn a_client_that_knocks_while_a_stop_command_hangs_is_told_and_gets_nothing() {
    let mut gate = gate(
        "[service.slow]\nstart = [\"NOTE\", \"LOG\", \"open\", \"%IP%\"]\n\
         stop = [\"/bin/sh\", \"-c\", \"while ! test -e LOG.go; do sleep 0.05; done; NOTE LOG shut %IP%\"]\n",
    );
    gate.start();
    let [anna, bert] = ["anna", "bert"].map(|name| gate.enrol(name, "slow,ssh"));
    assert_eq!(knock(&gate, &anna, "slow", |_| ()).status, Status::Granted);
    assert_eq!(
        knock(&gate, &anna, "slow", |request| request.kind = KnockKind::Close).status,
        Status::Closed
    );
    assert_eq!(
        knock(&gate, &bert, "slow", |request| request.seconds = 600).status,
        Status::Trouble
    );
    assert!(gate.nothing_is_open());
    fs::write(log_path(&gate) + ".go", "").unwrap();
    wait_for(&gate, &[OPEN, SHUT]);
    assert_eq!(knock(&gate, &bert, "slow", |_| ()).status, Status::Granted);
    assert_eq!(did(&gate), [OPEN, SHUT, OPEN]);
}

#[test]
fn fifty_knocks_at_once_are_fifty_grants_and_one_close_stops_each() {
    let mut gate = gate(
        "[service.many]\nstart = [\"NOTE\", \"LOG\", \"open\", \"%IP%\"]\n\
         stop = [\"NOTE\", \"LOG\", \"shut\", \"%IP%\"]\nsource = [\"198.51.100.0/24\"]\n",
    );
    gate.edit_config(|config| config.replace("max_grants = 16\n", "max_grants = 100\n"));
    gate.start();
    let anna = gate.enrol("anna", "many");
    let addresses: Vec<IpAddr> = (1..=50).map(|n| [198, 51, 100, n].into()).collect();
    let knocks: Vec<_> =
        addresses.iter().map(|address| anna.seal(&anna.request("many", *address))).collect();
    let sockets: Vec<_> = knocks
        .iter()
        .map(|knock| send(&gate.net.client, gate.net.gateway_ips()[0], &knock.bytes))
        .collect();
    for (knock, socket) in knocks.iter().zip(&sockets) {
        let status = knock.receipt(socket, LONG).map(|receipt| receipt.status);
        assert_eq!(status, Some(Status::Granted));
    }
    let close_all = |request: &mut Request| {
        request.kind = KnockKind::Close;
        request.address = None;
    };
    assert_eq!(knock(&gate, &anna, "many", close_all).status, Status::Closed);
    assert!(eventually(4 * LONG, || did(&gate).len() == 100), "{:?}", did(&gate));
    let did = did(&gate);
    for address in addresses {
        let times =
            |what: &str| did.iter().filter(|line| **line == format!("<{what}><{address}>")).count();
        assert_eq!((times("open"), times("shut")), (1, 1), "{address}");
    }
}

#[test]
fn with_a_full_disk_nothing_starts_but_an_existing_grant_is_still_stopped() {
    let mut gate = gate("");
    let disk = gate.start_on_small_disk(64);
    let [anna, bert] = ["anna", "bert"].map(|name| gate.enrol(name, "vpn,ssh"));
    assert_eq!(knock(&gate, &anna, "vpn", |request| request.seconds = 600).status, Status::Granted);
    let _ = fs::write(disk.join("fill"), vec![0; 64 << 10]);
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    // The last page of the journal still has room for a few.
    let answered = || {
        bert.seal(&bert.request("ssh", from))
            .send_waiting(&gate.net.client, to, 2 * SHORT)
            .is_some()
    };
    assert!((0..60).any(|_| !answered()));
    gate.daemon().wait_for("NOTHING OPENS");
    let other = gate.net.host(7);
    bert.seal(&bert.request("vpn", other.ips()[0])).send_in_vain(&other, other.gateway_ips()[0]);
    gate.revoke("anna");
    wait_for(&gate, &[OPEN, SHUT]);
    fs::remove_file(disk.join("fill")).unwrap();
    gate.daemon().wait_for("knocks count again");
    bert.must_open(&other, "vpn", 0);
    assert_eq!(did(&gate), [OPEN, SHUT, "<open><10.90.7.2>"]);
}

#[test]
fn a_source_port_is_refused_for_commands_and_a_reload_cannot_add_commands() {
    let mut gate = gate("");
    gate.start();
    let anna = gate.enrol("anna", "vpn,ssh");
    assert_eq!(
        knock(&gate, &anna, "vpn", |request| request.source_port = 40_000).status,
        Status::Denied
    );
    assert_eq!(did(&gate), [""; 0]);
    assert!(
        gate.status().contains("keeps all of its rights: the commands of doors, services or hooks")
    );
    gate.stop();
    let config = fs::read_to_string(gate.config()).unwrap();
    let clients = fs::read_to_string(gate.path("etc/clients")).unwrap();
    fs::write(gate.config(), config.replace(&vpn(&gate), "")).unwrap();
    fs::write(gate.path("etc/clients"), clients.replace("vpn,ssh", "ssh")).unwrap();
    gate.start();
    fs::write(gate.config(), config).unwrap();
    let refused = gate.toctocd(&["reload"]);
    let words = stderr(&refused);
    assert!(
        !refused.status.success()
            && words.contains("a hook has commands")
            && words.contains("restart"),
        "{words}"
    );
}

#[test]
fn as_the_first_process_of_a_container_the_gateway_reaps_orphans_and_keeps_the_status_of_its_own() {
    let mut gate = Gate::new(|config| config);
    let log = log_path(&gate);
    let door = format!(
        "[door.run]\nsequence = [\"7321/udp\"]\n\
         start_command = \"(sleep 0.1; echo done >>{log}) & echo open >>{log}; exit 7\"\n"
    );
    gate.edit_config(|config| config + &door);
    gate.start_under(&["unshare", "-pf", "--kill-child", "--mount-proc"]);
    let first = children(gate.daemon().process.0.id())[0];
    for times in 1..=3 {
        gate.net.client.space.sh("knock 10.90.0.1 7321:udp");
        until("the command and its orphan have ended", || {
            let did = did(&gate).join(" ");
            did.matches("open").count() == times && did.matches("done").count() == times
        });
        gate.daemon().wait_for("run: command returned non-zero status code (7)");
    }
    until("the orphans are reaped", || zombies(first) == 0);
    signal(first, Signal::SIGTERM);
    gate.daemon().wait_for("shutting down");
    until("it ends", || has_ended(first));
    let status = gate.daemon().process.wait(LONG).expect("it has ended");
    assert!(status.success(), "{status}");
    let failing = ["--mount-proc", env!("CARGO_BIN_EXE_toctocd"), "run", "-c", "/no/such"];
    let failed = gate.net.gateway.run(Command::new("unshare").args(["-pf"]).args(failing));
    assert_eq!(failed.status.code(), Some(2), "{failed:?}");
}
