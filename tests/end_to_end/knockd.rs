//! The programs under the names knockd and knock, on real packets: what no case of knockd's own can
//! show, because knockd fails it. What knockd does is compared case by case, by `make compat`.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::harness::{LONG, Net, Running, eventually};
use tempfile::TempDir;

/// A machine with doors, and somebody who knocks.
struct Place {
    net: Net,
    dir: TempDir,
}

impl Place {
    /// `doors` with `@` for the directory that all files are in.
    fn new(doors: &str) -> Place {
        let place = Place { net: Net::new(), dir: tempfile::tempdir().unwrap() };
        symlink(env!("CARGO_BIN_EXE_toctocd"), place.path("knockd")).unwrap();
        symlink(env!("CARGO_BIN_EXE_toctoc"), place.path("knock")).unwrap();
        fs::create_dir(place.path("state")).unwrap();
        place.configure(doors);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, doors: &str) {
        let here = self.dir.path().display().to_string();
        let text =
            format!("[options]\nlogfile = @/log\npidfile = @/pid\n{doors}").replace('@', &here);
        fs::write(self.path("conf"), text).unwrap();
    }

    fn knockd(&self) -> Command {
        let mut command = Command::new(self.path("knockd"));
        command
            .arg("-c")
            .arg(self.path("conf"))
            .args(["-i", "gw0"])
            .env("STATE_DIRECTORY", self.path("state"));
        command
    }

    /// Starts the daemon and waits until it listens.
    fn start(&self) -> Running {
        let before = self.log().matches("starting up").count();
        let running = self.net.gateway.spawn(&mut self.knockd());
        until("the daemon starts", || self.log().matches("starting up").count() > before);
        running
    }

    fn knock(&self, ports: &str) {
        let to = self.net.gateway_ips()[0].to_string();
        let mut command = Command::new(self.path("knock"));
        assert!(self.net.client.space.run(command.arg(to).args(ports.split(' '))).status.success());
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn log(&self) -> String {
        self.text("log")
    }

    /// The lines that commands have written so far.
    fn did(&self) -> String {
        self.text("did").replace('\n', " ")
    }

    fn wait_for(&self, done: &str) {
        until(done, || self.did().trim() == done);
    }
}

fn until(what: &str, happened: impl FnMut() -> bool) {
    assert!(eventually(LONG, happened), "{what}: not in time");
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn runner(pid: u32) -> u32 {
    let is_runner = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.contains("--runner"))
    };
    children(pid).into_iter().find(is_runner).expect("a daemon has a runner")
}

fn kill(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

fn gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}/stat")).exists()
        || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

const DOOR: &str = "[door]\nsequence = 7001,7002:udp\ntcpflags = syn\ncommand = echo open >> @/did\n\
    cmd_timeout = 2\nstop_command = echo close >> @/did\n";

#[test]
fn a_stop_command_survives_the_death_of_every_process_and_runs_once() {
    let place = Place::new(DOOR);
    let daemon = place.start();
    place.knock("7001 7002:udp");
    place.wait_for("open");
    // The start command has run; now everything dies at once, as in a power cut.
    let (pid, runner) = (daemon.0.id(), runner(daemon.0.id()));
    kill("-KILL", pid);
    kill("-KILL", runner);
    until("both are gone", || gone(runner));
    let next = place.start();
    place.wait_for("open close");
    kill("-TERM", next.0.id());
    until("it ends", || gone(next.0.id()));
    let _third = place.start();
    place.knock("7001 7002:udp");
    place.wait_for("open close open");
    assert_eq!(place.log().matches("command timeout").count(), 1);
}

#[test]
fn a_stop_command_outlives_its_daemon_and_no_later_daemon_runs_it_again() {
    let place = Place::new(DOOR);
    let daemon = place.start();
    place.knock("7001 7002:udp");
    place.wait_for("open");
    let runner = runner(daemon.0.id());
    kill("-KILL", daemon.0.id());
    let _next = place.start();
    place.wait_for("open close");
    until("the old runner ends with its last stop command", || gone(runner));
    place.knock("7001 7002:udp");
    place.wait_for("open close open");
    assert_eq!(place.log().matches("command timeout").count(), 1);
}

#[test]
fn what_is_sent_to_all_processes_of_the_name_costs_no_stop_command() {
    let place = Place::new(DOOR);
    let daemon = place.start();
    place.knock("7001 7002:udp");
    place.wait_for("open");
    for child in children(daemon.0.id()) {
        kill("-HUP", child);
        kill("-TERM", child);
        kill("-INT", child);
    }
    place.wait_for("open close");
    place.knock("7001 7002:udp");
    place.wait_for("open close open");
    assert!(!place.log().contains("not listening"), "{}", place.log());
}

#[test]
fn a_reload_that_is_refused_changes_nothing() {
    let place = Place::new(DOOR);
    let daemon = place.start();
    place.configure("[door]\nsequence = 70000\n");
    kill("-HUP", daemon.0.id());
    until("the reload is refused", || {
        place.log().contains("port 70000 is invalid; everything stays as it was")
    });
    place.knock("7001 7002:udp");
    place.wait_for("open");
    place.configure(&format!("{DOOR}target = 10.0.0.0/8\n"));
    kill("-HUP", daemon.0.id());
    until("a target that makes no filter is refused too", || {
        place
            .log()
            .contains("pcap_compile: Mask syntax for networks only; everything stays as it was")
    });
    place.configure(&DOOR.replace("7001", "7101"));
    kill("-HUP", daemon.0.id());
    until("the reload is followed", || place.log().matches("re-reading").count() == 3);
    // The new listener is there when it has taken a knock: until then, knock again.
    until("the new door opens", || {
        place.knock("7101 7002:udp");
        place.did().matches("open").count() >= 2
    });
}

#[test]
fn an_interface_that_comes_back_is_listened_to_again() {
    let place = Place::new(DOOR);
    let daemon = place.start();
    place.net.gateway.sh("ip link del gw0");
    until("its end is noticed", || place.log().contains("not listening on gw0"));
    let outer = place.net.client.space.path();
    place.net.gateway.sh(&format!(
        "ip link add gw0 type veth peer name eth0 netns {outer} && ip addr add 10.90.0.1/24 dev gw0 && ip link set gw0 up"
    ));
    place.net.client.space.sh("ip addr add 10.90.0.2/24 dev eth0 && ip link set eth0 up");
    until("it listens again", || place.log().contains("listening on gw0 again"));
    place.knock("7001 7002:udp");
    place.wait_for("open");
    assert!(!gone(daemon.0.id()));
}

#[test]
fn a_one_time_sequence_is_used_up_before_its_command_and_the_next_one_counts() {
    let place =
        Place::new("[door]\none_time_sequences = @/ots\ncommand = head -n 1 @/ots >> @/did\n");
    fs::write(place.path("ots"), " 7001,7002:udp\n 7101,7102:udp\n").unwrap();
    let daemon = place.start();
    place.knock("7001 7002:udp");
    place.wait_for("#7001,7002:udp");
    place.knock("7001 7002:udp");
    place.knock("7101 7102:udp");
    place.wait_for("#7001,7002:udp #7001,7002:udp");
    assert_eq!(place.text("ots"), "#7001,7002:udp\n#7101,7102:udp\n");
    until("the log says that none is left", || place.log().contains("no more sequences left"));
    assert!(!gone(daemon.0.id()), "knockd would be dead by now");
}

#[test]
fn in_the_background_the_pid_file_is_there_before_the_parent_leaves() {
    let place = Place::new(DOOR);
    let parent = place.net.gateway.run(place.knockd().arg("-d"));
    assert!(parent.status.success() && parent.stderr.is_empty());
    let pid: u32 = place.text("pid").trim().parse().expect("a pid file");
    let name = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name(&pid), "knockd\n", "killall goes by it");
    let children: Vec<String> = children(pid).iter().map(name).collect();
    assert_eq!(children, ["toctoc-runner\n", "toctoc-listener\n"]);
    place.knock("7001 7002:udp");
    place.wait_for("open");
    kill("-TERM", pid);
    place.wait_for("open close");
    until("it ends", || gone(pid));
    assert!(!place.path("pid").exists());
    let refused = place.net.gateway.run(place.knockd().args(["-d", "-i", "nope0"]));
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).starts_with("could not open nope0: "));
}

#[test]
fn relative_names_with_d_lead_to_where_the_daemon_was_started() {
    let place = Place::new("");
    let conf =
        "[options]\nlogfile = log\n[door]\none_time_sequences = ots\ncommand = pwd >> @/did\n";
    fs::write(place.path("conf"), conf.replace('@', &place.dir.path().display().to_string()))
        .unwrap();
    fs::write(place.path("ots"), " 7001,7002:udp\n 7101,7102:udp\n").unwrap();
    let mut command = Command::new(place.path("knockd"));
    command
        .args(["-c", "conf", "-i", "gw0", "-d", "-p"])
        .arg(place.path("pid"))
        .current_dir(place.dir.path());
    let parent = place.net.gateway.run(command.env("STATE_DIRECTORY", place.path("state")));
    assert!(parent.status.success() && parent.stderr.is_empty());
    let pid: u32 = place.text("pid").trim().parse().expect("a pid file");
    place.knock("7001 7002:udp");
    place.wait_for("/");
    assert_eq!(place.text("ots"), "#7001,7002:udp\n 7101,7102:udp\n");
    assert!(place.log().contains("running command"), "the runner writes to the same file");
    kill("-HUP", pid);
    // The new listener is there when it has taken a knock: until then, knock again.
    until("the reload finds all of it", || {
        place.knock("7101 7102:udp");
        place.did().trim() == "/ /"
    });
    assert_eq!(place.log().matches("running command").count(), 2);
    kill("-TERM", pid);
    until("it ends", || gone(pid));
}

#[test]
fn what_this_machine_sends_to_a_target_opens_its_door() {
    let place = Place::new("");
    let target = place.net.client.ips()[0];
    let door = "[door]\nsequence = 7001,7002:udp\ncommand = echo %IP% >> @/did\n";
    place.configure(&format!("{door}target = {target}\n"));
    let _daemon = place.start();
    let mut knock = Command::new(place.path("knock"));
    assert!(
        place
            .net
            .gateway
            .run(knock.arg(target.to_string()).args(["7001", "7002:udp"]))
            .status
            .success()
    );
    place.wait_for(&place.net.gateway_ips()[0].to_string());
}

#[test]
fn ipv6_on_any_is_refused_aloud() {
    let place = Place::new(DOOR);
    let stderr = fs::File::create(place.path("stderr")).unwrap();
    let _daemon = place.net.gateway.spawn(place.knockd().args(["-i", "any"]).stderr(stderr));
    until("the daemon starts", || place.log().contains("starting up"));
    let to = place.net.gateway_ips()[1].to_string();
    assert!(
        place
            .net
            .client
            .space
            .run(Command::new(place.path("knock")).args([&to, "7001"]))
            .status
            .success()
    );
    until("it says so", || {
        place.text("stderr").starts_with("IPv6 is not supported under this link-layer type\n")
    });
}

#[test]
fn log_lines_have_the_time_of_the_zone_that_is_named() {
    let place = Place::new(DOOR);
    let stamp = || {
        let date = Command::new("date")
            .env("TZ", "Pacific/Kiritimati")
            .arg("+[%Y-%m-%d %H:%M]")
            .output()
            .unwrap();
        String::from_utf8(date.stdout).unwrap().trim().to_string()
    };
    let before = stamp();
    let _daemon = place.net.gateway.spawn(place.knockd().env("TZ", "Pacific/Kiritimati"));
    until("the daemon starts", || place.log().contains("starting up"));
    let log = place.log();
    assert!(log.starts_with(&before) || log.starts_with(&stamp()), "{log}");
}

#[test]
fn with_l_a_host_has_its_name_in_the_line_of_the_stop_command_too() {
    let place = Place::new(&DOOR.replace("timeout = 2", "timeout = 0"));
    let _daemon = place.net.gateway.spawn(place.knockd().args(["-l", "-i", "lo"]));
    until("the daemon starts", || place.log().contains("starting up"));
    // A busy resolver may be too late for one knock.
    let mut knocks = 0;
    until("the name is there", || {
        if place.log().matches("command timeout").count() == knocks {
            let mut knock = Command::new(place.path("knock"));
            assert!(
                place
                    .net
                    .gateway
                    .run(knock.args(["127.0.0.1", "7001", "7002:udp"]))
                    .status
                    .success()
            );
            knocks += 1;
        }
        place.log().contains("127.0.0.1 (localhost): door: command timeout")
    });
}

#[test]
fn a_flood_of_half_knockers_neither_fills_the_log_nor_keeps_a_knock_out() {
    let place = Place::new(
        &DOOR
            .replace("7001,7002:udp", "7001:udp,7002:udp,7003:udp")
            .replace("tcpflags = syn\n", ""),
    );
    let _daemon = place.start();
    // Each source knocks half: 3,000 addresses that the client's kernel takes for its own.
    place.net.client.space.sh("ip route add local 10.90.64.0/18 dev lo");
    let to = place.net.gateway_ips()[0];
    place.net.client.space.inside(|| {
        for n in 1..=3000_u32 {
            let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 90, 64, 0)) + n);
            let socket = UdpSocket::bind((from, 0)).unwrap();
            for port in [7001, 7002] {
                // The port is closed, and what comes back of it is no concern of a knocker.
                let _ = socket.send_to(&[0], (to, port));
            }
        }
    });
    place.knock("7001:udp 7002:udp 7003:udp");
    place.wait_for("open");
    let stages = place.log().matches("Stage").count();
    assert!((500..3000).contains(&stages), "{stages} lines");
}

#[test]
fn a_flood_of_whole_knocks_opens_some_and_the_next_knock_after_it() {
    let place = Place::new(
        "[door]\nsequence = 7001:udp\ncommand = true\n[other]\nsequence = 7002:udp\ncommand = echo open >> @/did\n",
    );
    let _daemon = place.start();
    place.net.client.space.sh("ip route add local 10.90.64.0/18 dev lo");
    let (to, begun) = (place.net.gateway_ips()[0], Instant::now());
    place.net.client.space.inside(|| {
        for n in 1..=3000_u32 {
            let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 90, 64, 0)) + n);
            // The port is closed, and what comes back of it is no concern of a knocker.
            let _ = UdpSocket::bind((from, 0)).unwrap().send_to(&[0], (to, 7001));
        }
    });
    until("a knock opens", || {
        place.knock("7002:udp");
        place.did().contains("open")
    });
    let (opened, seconds) = (place.log().matches("SESAME").count(), begun.elapsed().as_secs());
    let most = 500 + 100 * (usize::try_from(seconds).unwrap() + 1);
    assert!((500..=most).contains(&opened), "{opened} openings in {seconds} s");
    // On a machine that stands still for half a minute they are not too many.
    let said = place.log().contains(" knocks opened nothing: too many at once");
    assert!(said || opened > 3000, "{opened} openings in {seconds} s");
}

#[test]
fn a_one_time_sequence_that_comes_amid_too_many_knocks_is_used_up_although_it_opens_nothing() {
    let doors = "[door]\nsequence = 7001:udp\ncommand = true\n[once]\none_time_sequences = @/ots\ncommand = true\n";
    let place = Place::new(doors);
    fs::write(place.path("ots"), " 7101:udp\n 7102:udp\n").unwrap();
    let _daemon = place.start();
    place.net.client.space.sh("ip route add local 10.90.64.0/18 dev lo");
    let to = place.net.gateway_ips()[0];
    place.net.client.space.inside(|| {
        for n in 1..=1500_u32 {
            let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 90, 64, 0)) + n);
            let port = if n == 1400 { 7101 } else { 7001 };
            // The port is closed, and what comes back of it is no concern of a knocker.
            let _ = UdpSocket::bind((from, 0)).unwrap().send_to(&[0], (to, port));
        }
    });
    until("it is used up", || place.text("ots") == "#7101:udp\n 7102:udp\n");
}

/// The service that Debian's unit file for knockd makes, as far as the kernel knows of it:
/// `CapabilityBoundingSet=` and `ProtectSystem=true` as they stand there, no `StateDirectory=`, and
/// no other user to become. `/var/lib` is the test's own.
fn as_debians_unit(place: &Place) -> Command {
    let line = "for at in /usr /boot; do [ ! -d $at ] || mount -o bind,ro $at $at; done && mount --bind \"$0\" /var/lib && \
        exec setpriv --inh-caps=-all --bounding-set=-all,+net_raw,+net_admin,+sys_module -- \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-ec", line])
        .arg(place.path("state"));
    command
        .arg(place.path("knockd"))
        .arg("-c")
        .arg(place.path("conf"))
        .args(["-i", "gw0"])
        .env_remove("STATE_DIRECTORY");
    command
}

#[test]
fn below_debians_unit_file_it_starts_opens_closes_and_loses_no_stop_command() {
    let probe =
        "(grep CapBnd /proc/self/status; touch /usr/toctoc-was-here || echo no) >> @/caps 2>&1;";
    let place =
        Place::new(&DOOR.replace("command = echo open", &format!("command = {probe} echo open")));
    let daemon = place.net.gateway.spawn(&mut as_debians_unit(&place));
    until("the daemon starts", || place.log().contains("starting up"));
    place.knock("7001 7002:udp");
    place.wait_for("open");
    assert!(
        place.text("caps").contains("CapBnd:\t0000000000013000\n"),
        "three capabilities: {}",
        place.text("caps")
    );
    assert!(
        place.text("caps").contains("Read-only"),
        "a system that is read-only: {}",
        place.text("caps")
    );
    assert!(
        place.path("state/toctoc/knockd").is_dir(),
        "the journal is where it is without StateDirectory="
    );
    place.wait_for("open close");
    // `systemctl stop` with KillMode=mixed: TERM for the main process, KILL for what is left of its
    // children.
    place.knock("7001 7002:udp");
    place.wait_for("open close open");
    let runner = runner(daemon.0.id());
    kill("-KILL", runner);
    kill("-TERM", daemon.0.id());
    until("both are gone", || gone(runner) && gone(daemon.0.id()));
    let _next = place.net.gateway.spawn(&mut as_debians_unit(&place));
    place.wait_for("open close open close");
}

#[test]
fn the_shipped_sequence_is_warned_of_once_on_standard_error_and_once_in_the_log() {
    let place = Place::new(
        "[openSSH]\nsequence = 7000,8000,9000\ncommand = true\n[closeSSH]\nsequence = 9000,8000,7000\ncommand = true\n",
    );
    let mut command = place.knockd();
    let mut running = place.net.gateway.spawn(command.stderr(Stdio::piped()));
    until("the daemon starts", || place.log().contains("starting up"));
    running.signal(nix::sys::signal::Signal::SIGTERM);
    running.wait(LONG).expect("it ends");
    let mut errors = String::new();
    running.0.stderr.take().expect("piped").read_to_string(&mut errors).unwrap();
    for said in [errors, place.log()] {
        assert_eq!(said.matches("WARNING").count(), 1, "{said}");
        assert!(
            said.contains("WARNING: doors openSSH, closeSSH have the sequence that knockd ships"),
            "{said}"
        );
    }
}
