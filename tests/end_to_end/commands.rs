//! Services of commands: one start and one stop for all behind an address, by no shell, whatever
//! becomes of the daemon.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use toctoc::core::knock::{KnockKind, Receipt, Request, Status};

use crate::harness::gate::{Gate, Knocker, ok, send};
use crate::harness::{Host, LONG, SHORT, eventually};

/// Sections `[service.NAME]` whose commands write down what they were given, each argument in angle
/// brackets, and `more`.
fn gate(more: &str) -> Gate {
    let gate = Gate::new(|config| config);
    let note = gate.path("note");
    // One write for each line: several may write at once.
    let script =
        "#!/bin/sh\nlog=$1\nshift\nline=$(printf '<%s>' \"$@\")\necho \"$line\" >>\"$log\"\n";
    fs::write(&note, script).unwrap();
    fs::set_permissions(&note, fs::Permissions::from_mode(0o755)).unwrap();
    let config = fs::read_to_string(gate.config()).unwrap();
    fs::write(
        gate.config(),
        config + &vpn(&gate) + &more.replace("NOTE", &note).replace("LOG", &log_path(&gate)),
    )
    .unwrap();
    gate
}

fn log_path(gate: &Gate) -> String {
    gate.path("did")
}

/// A service whose arguments no shell would leave alone.
fn vpn(gate: &Gate) -> String {
    let (note, log, touched) = (gate.path("note"), log_path(gate), gate.path("touched"));
    format!(
        "[service.vpn]\nstart = [\"{note}\", \"{log}\", \"open\", \"%IP%\", \"$(touch {touched}); touch {touched} #\", \"a  b\"]\n\
         stop = [\"{note}\", \"{log}\", \"shut\", \"%IP%\"]\n"
    )
}

fn did(gate: &Gate) -> Vec<String> {
    let text = fs::read_to_string(log_path(gate)).unwrap_or_default();
    // Without the odd arguments, which one test looks at.
    text.lines().map(|line| line.split("<$").next().unwrap().to_owned()).collect()
}

fn does(gate: &Gate, wanted: &[&str]) {
    assert!(eventually(LONG, || did(gate) == wanted), "{:?}, not {wanted:?}", did(gate));
}

/// Knocks, and again with a new packet where no answer comes in time, as the client does: a machine
/// may stand still for seconds.
fn knock(gate: &Gate, who: &Knocker, service: &str, change: impl Fn(&mut Request)) -> Receipt {
    let one = |_| {
        let mut request = who.request(service, gate.net.client.ips()[0]);
        change(&mut request);
        who.seal(&request).send(&gate.net.client, gate.net.gateway_ips()[0])
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
        let said = ok(&gate.toctoc(
            &gate.net.client,
            &[
                "open",
                family,
                "anna",
                "vpn",
                "--seconds",
                "2",
                "--identity",
                &gate.path("anna.key"),
            ],
        ));
        assert!(
            said.contains(&format!("granted: {address} may reach vpn at"))
                && said.contains("for 2 s"),
            "{said}"
        );
        // Already there when the client was told.
        let text = fs::read_to_string(log_path(&gate)).unwrap();
        let touched = gate.path("touched");
        assert_eq!(
            text,
            format!("<open><{address}><$(touch {touched}); touch {touched} #><a  b>\n")
        );
        assert!(gate.grants().contains("by commands"));
        does(&gate, &[&format!("<open><{address}>"), &format!("<shut><{address}>")]);
        assert!(gate.nothing_is_open());
    }
    assert!(!std::path::Path::new(&gate.path("touched")).exists(), "no shell has read it");
    gate.stop();
    assert_eq!(did(&gate).len(), 2, "the end of the gateway stops nothing twice");
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
    let close = |who: &Knocker| {
        assert_eq!(
            knock(&gate, who, "vpn", |request| request.kind = KnockKind::Close).status,
            Status::Closed
        );
    };
    for who in [&anna, &bert, &anna] {
        let receipt = knock(&gate, who, "vpn", |request| request.seconds = 600);
        assert_eq!(
            (receipt.status, receipt.seconds, receipt.ports),
            (Status::Granted, 600, [None; 4])
        );
    }
    close(&anna);
    // Told by the next turn at the latest.
    assert!(gate.grants().contains("bert"));
    assert_eq!(did(&gate), [OPEN]);
    close(&bert);
    does(&gate, &[OPEN, SHUT]);
    // At once after the end: the start command waits for the stop command, whatever that takes.
    assert_eq!(knock(&gate, &anna, "vpn", |_| ()).status, Status::Granted);
    close(&anna);
    assert_eq!(knock(&gate, &anna, "vpn", |_| ()).status, Status::Granted);
    does(&gate, &[OPEN, SHUT, OPEN, SHUT, OPEN]);
    gate.stop();
    assert_eq!(
        did(&gate),
        [OPEN, SHUT, OPEN, SHUT, OPEN, SHUT],
        "with the gateway ends what it keeps open"
    );
}

#[test]
fn a_revocation_and_a_removed_or_changed_service_run_the_stop_command_that_was_journalled() {
    let mut gate = gate("");
    gate.start();
    let [anna, bert] = ["anna", "bert"].map(|name| gate.enrol(name, "vpn,ssh"));
    assert_eq!(knock(&gate, &anna, "vpn", |request| request.seconds = 600).status, Status::Granted);
    gate.revoke("anna");
    does(&gate, &[OPEN, SHUT]);
    let config = fs::read_to_string(gate.config()).unwrap();
    let changed =
        config.replace("\"shut\"", "\"shut otherwise\"").replace("\"open\"", "\"open otherwise\"");
    assert_eq!(knock(&gate, &bert, "vpn", |request| request.seconds = 600).status, Status::Granted);
    fs::write(gate.config(), &changed).unwrap();
    gate.reload();
    does(&gate, &[OPEN, SHUT, OPEN, SHUT]);
    assert_eq!(knock(&gate, &bert, "vpn", |request| request.seconds = 600).status, Status::Granted);
    let vpn = vpn(&gate)
        .replace("\"shut\"", "\"shut otherwise\"")
        .replace("\"open\"", "\"open otherwise\"");
    fs::write(gate.config(), changed.replace(&vpn, "")).unwrap();
    let clients = fs::read_to_string(gate.path("etc/clients")).unwrap();
    fs::write(gate.path("etc/clients"), clients.replace("vpn,ssh", "ssh")).unwrap();
    gate.reload();
    let (open, shut) = ("<open otherwise><10.90.0.2>", "<shut otherwise><10.90.0.2>");
    does(&gate, &[OPEN, SHUT, OPEN, SHUT, open, shut]);
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
    does(&gate, &[OPEN, SHUT]);
    assert!(gate.nothing_is_open(), "what is shut is nobody's");
    // The same with a service that is no more: then only the journal knows what was promised.
    anna.must_open(&gate.net.client, "vpn", 0);
    gate.kill();
    let config = fs::read_to_string(gate.config()).unwrap();
    fs::write(gate.config(), config.replace(&vpn(&gate), "")).unwrap();
    let clients = fs::read_to_string(gate.path("etc/clients")).unwrap();
    fs::write(gate.path("etc/clients"), clients.replace("vpn,ssh", "ssh")).unwrap();
    gate.start();
    does(&gate, &[OPEN, SHUT, OPEN, SHUT]);
    gate.stop();
    gate.start();
    gate.stop();
    assert_eq!(did(&gate), [OPEN, SHUT, OPEN, SHUT], "once, not again");
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
    assert!(
        gate.check()
            .contains("service absent: its `start` names /no/such/program")
    );
    let [anna, bert] = ["anna", "bert"].map(|name| gate.enrol(name, "vpn,ssh,fails,absent,hangs"));
    for (times, service) in [(1, "fails"), (2, "absent")] {
        let receipt = knock(&gate, &anna, service, |_| ());
        assert_eq!((receipt.status, receipt.seconds, receipt.granted), (Status::Trouble, 0, None));
        does(&gate, &[SHUT].repeat(times));
        gate.daemon()
            .wait_for(&format!("anna: {service} of 10.90.0.2 ended: its start command failed"));
    }
    assert_eq!(
        (gate.grants(), gate.rejected("command")),
        ("nothing is open\n".to_owned(), 2)
    );
    fs::remove_file(log_path(&gate)).unwrap();
    let other = gate.net.host(7);
    // A machine that stands still for seconds proves nothing: then once more.
    assert!((1..=4).any(|round| others_go_on_while_it_hangs(&gate, &other, [&anna, &bert], round)));
    assert!(!gate.grants().contains("hangs"));
}

/// Whether both who wait for what hangs are told so after its time, and others are served before
/// that. What becomes of the command holds in any case.
fn others_go_on_while_it_hangs(
    gate: &Gate,
    other: &Host,
    who: [&Knocker; 2],
    round: usize,
) -> bool {
    let (from, to) = (gate.net.client.ips()[0], gate.net.gateway_ips()[0]);
    let pids =
        || did(gate).into_iter().filter(|line| line.parse::<u32>().is_ok()).collect::<Vec<_>>();
    let begin = Instant::now();
    let waiting = who.map(|who| {
        let knock = who.seal(&who.request("hangs", from));
        let socket = send(&gate.net.client, to, &knock.bytes);
        (knock, socket)
    });
    assert!(eventually(LONG, || pids().len() == round), "it runs");
    let served =
        ["ssh", "vpn"].map(|service| who[0].open(other, service, 0).map(|receipt| receipt.status));
    let quick = served == [Some(Status::Granted); 2] && begin.elapsed() < Duration::from_secs(5);
    let told =
        waiting.map(|(knock, socket)| knock.receipt(&socket, LONG).map(|receipt| receipt.status));
    assert!(told.iter().flatten().all(|status| *status == Status::Trouble), "{told:?}");
    assert!(
        begin.elapsed() >= Duration::from_millis(4900),
        "{:?}: it had its time",
        begin.elapsed()
    );
    let shut = || did(gate).iter().filter(|line| *line == SHUT).count();
    assert!(eventually(LONG, || shut() == round), "{:?}", did(gate));
    // The group has it as its number, and with it goes what it started.
    let pid = pids().pop().expect("it ran");
    assert!(eventually(LONG, || gate
        .net
        .gateway
        .sh(&format!("pgrep -g {pid} || true"))
        .is_empty()));
    quick && !told.contains(&None)
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
    does(&gate, &[OPEN, SHUT]);
    assert_eq!(knock(&gate, &bert, "slow", |_| ()).status, Status::Granted);
    assert_eq!(did(&gate), [OPEN, SHUT, OPEN]);
}

#[test]
fn fifty_knocks_at_once_are_fifty_grants_and_one_close_stops_each() {
    let mut gate = gate(
        "[service.many]\nstart = [\"NOTE\", \"LOG\", \"open\", \"%IP%\"]\nstop = [\"NOTE\", \"LOG\", \"shut\", \"%IP%\"]\nsource = [\"198.51.100.0/24\"]\n",
    );
    let config = fs::read_to_string(gate.config()).unwrap();
    fs::write(gate.config(), config.replace("max_grants = 16\n", "max_grants = 100\n")).unwrap();
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
        assert_eq!(
            knock.receipt(socket, LONG).map(|receipt| receipt.status),
            Some(Status::Granted)
        );
    }
    let close = |request: &mut Request| (request.kind, request.address) = (KnockKind::Close, None);
    assert_eq!(knock(&gate, &anna, "many", close).status, Status::Closed);
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
    // The journal's last page still has room for a few.
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
    does(&gate, &[OPEN, SHUT]);
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
        gate.status()
            .contains("keeps all of its rights: the commands of doors or services")
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
            && words.contains("a service has commands")
            && words.contains("restart"),
        "{words}"
    );
}
