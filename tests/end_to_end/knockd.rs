//! The programs under the names knockd and knock, with real packets: behaviour that knockd itself
//! does not have. `make compat` compares the common behaviour case by case.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::flood::may_load_filter;
use crate::harness::gate::{Gate, ok, stderr};
use crate::harness::process::{self, children, command_line_contains, has_ended, signal, zombies};
use crate::harness::raw::{Forger, stranger};
use crate::harness::{LONG, Net, Running, Space, eventually, until};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// A machine with doors, and a client that knocks.
struct Machine {
    net: Net,
    dir: TempDir,
}

impl Machine {
    /// Configures `doors`, in which `@` stands for the directory of all files.
    fn new(doors: &str) -> Machine {
        let machine = Machine { net: Net::new(), dir: tempfile::tempdir().unwrap() };
        symlink(env!("CARGO_BIN_EXE_toctocd"), machine.path("knockd")).unwrap();
        symlink(env!("CARGO_BIN_EXE_toctoc"), machine.path("knock")).unwrap();
        fs::create_dir(machine.path("state")).unwrap();
        machine.configure(doors);
        machine
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
        self.start_by(&mut self.knockd())
    }

    fn knock(&self, ports: &str) {
        self.knock_at(&self.net.client.space, self.net.gateway_ips()[0], ports);
    }

    fn knock_at(&self, from: &Space, to: IpAddr, ports: &str) {
        let mut command = Command::new(self.path("knock"));
        let output = from.run(command.arg(to.to_string()).args(ports.split(' ')));
        assert!(output.status.success(), "{output:?}");
    }

    /// Starts `command` and waits until it listens.
    fn start_by(&self, command: &mut Command) -> Running {
        let before = self.log().matches("starting up").count();
        let running = self.net.gateway.spawn(command);
        until("the daemon starts", || self.log().matches("starting up").count() > before);
        running
    }

    /// Sends one UDP datagram from each of `sources` addresses to each of their ports.
    fn flood(&self, sources: u32, ports: impl Fn(u32) -> &'static [u16] + Send + Sync) {
        // These addresses are local to the client's kernel.
        self.net.client.space.sh("ip route add local 10.90.64.0/18 dev lo");
        let to = self.net.gateway_ips()[0];
        self.net.client.space.inside(|| {
            for n in 1..=sources {
                let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 90, 64, 0)) + n);
                let socket = UdpSocket::bind((from, 0)).unwrap();
                for port in ports(n) {
                    // The port is closed: the next send may report "port unreachable".
                    let _ = socket.send_to(&[0], (to, *port));
                }
            }
        });
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn log(&self) -> String {
        self.read("log")
    }

    /// The lines that the commands have written so far.
    fn did(&self) -> String {
        self.read("did").replace('\n', " ")
    }

    fn wait_for(&self, done: &str) {
        until(done, || self.did().trim() == done);
    }
}

/// The runner of a daemon.
fn runner(daemon: &Running) -> u32 {
    let mut children = children(daemon.0.id());
    children.retain(|pid| command_line_contains(*pid, "--runner"));
    assert_eq!(children.len(), 1, "a daemon has one runner");
    children[0]
}

const DOOR: &str = "[door]\nsequence = 7001,7002:udp\ntcpflags = syn\ncommand = echo open >> @/did\n\
    cmd_timeout = 2\nstop_command = echo close >> @/did\n";

/// The doors of Debian's knockd.conf, whose first steps are each other's last ones.
const DEBIAN: &str = "[openSSH]\nsequence = 7000,8000,9000\nseq_timeout = 60\n\
    command = echo open >> @/did\ntcpflags = syn\n\
    [closeSSH]\nsequence = 9000,8000,7000\nseq_timeout = 60\n\
    command = echo close >> @/did\ntcpflags = syn\n";

#[test]
fn a_flood_of_first_steps_hinders_no_knock_where_doors_are_each_others_reverse() {
    let machine = Machine::new(DEBIAN);
    let daemon = machine.start();
    let forger = Forger::new(&machine.net.client.space);
    let flood = |count| {
        for number in 0..count {
            let port = if number % 2 == 0 { 7000 } else { 9000 };
            forger.syn(stranger(number), SocketAddrV4::new([10, 90, 0, 1].into(), port));
        }
    };
    let did = || fs::read_to_string(machine.path("did")).unwrap_or_default();
    flood(3000);
    machine.knock("7000 8000 9000");
    until("the door opens behind the flood", || did() == "open\n");
    // More than the queue of the capture socket has room for, while nothing reads it.
    let listeners: Vec<_> = children(daemon.0.id())
        .into_iter()
        .filter(|pid| command_line_contains(*pid, "--listener"))
        .collect();
    let [listener] = listeners[..] else { panic!("{listeners:?}") };
    signal(listener, Signal::SIGSTOP);
    flood(if may_load_filter() { 40_000 } else { 0 });
    machine.knock("7000 8000 9000");
    machine.knock("9000 8000 7000");
    signal(listener, Signal::SIGCONT);
    // The commands of two doors run at the same time.
    let count = |word| did().matches(word).count();
    let done = eventually(LONG, || count("open") == 2 && count("close") == 1);
    assert!(done, "{:?}", did());
}

#[test]
fn a_stop_command_survives_the_death_of_every_process_and_runs_once() {
    let machine = Machine::new(DOOR);
    let daemon = machine.start();
    machine.knock("7001 7002:udp");
    machine.wait_for("open");
    // The start command has run. Now all processes die at once, as in a power cut.
    let runner = runner(&daemon);
    daemon.signal(Signal::SIGKILL);
    signal(runner, Signal::SIGKILL);
    until("the runner ends", || has_ended(runner));
    let next = machine.start();
    machine.wait_for("open close");
    next.signal(Signal::SIGTERM);
    until("the daemon ends", || has_ended(next.0.id()));
    let _third = machine.start();
    machine.knock("7001 7002:udp");
    machine.wait_for("open close open");
    assert_eq!(machine.log().matches("command timeout").count(), 1);
}

#[test]
fn a_stop_command_outlives_its_daemon_and_no_later_daemon_runs_it_again() {
    let machine = Machine::new(DOOR);
    let daemon = machine.start();
    machine.knock("7001 7002:udp");
    machine.wait_for("open");
    let runner = runner(&daemon);
    daemon.signal(Signal::SIGKILL);
    let _next = machine.start();
    machine.wait_for("open close");
    until("the first runner ends with its last stop command", || has_ended(runner));
    machine.knock("7001 7002:udp");
    machine.wait_for("open close open");
    assert_eq!(machine.log().matches("command timeout").count(), 1);
}

#[test]
fn signals_to_all_processes_of_the_name_lose_no_stop_command() {
    let machine = Machine::new(DOOR);
    let daemon = machine.start();
    machine.knock("7001 7002:udp");
    machine.wait_for("open");
    for child in children(daemon.0.id()) {
        for one in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT] {
            signal(child, one);
        }
    }
    machine.wait_for("open close");
    machine.knock("7001 7002:udp");
    machine.wait_for("open close open");
    assert!(!machine.log().contains("not listening"), "{}", machine.log());
}

#[test]
fn a_reload_that_is_refused_changes_nothing() {
    let machine = Machine::new(DOOR);
    let daemon = machine.start();
    machine.configure("[door]\nsequence = 70000\n");
    daemon.signal(Signal::SIGHUP);
    until("the reload is refused", || {
        machine.log().contains("port 70000 is invalid; everything stays as it was")
    });
    machine.knock("7001 7002:udp");
    machine.wait_for("open");
    machine.configure(&format!("{DOOR}target = 10.0.0.0/8\n"));
    daemon.signal(Signal::SIGHUP);
    until("a target that is not a valid filter is refused too", || {
        machine
            .log()
            .contains("pcap_compile: Mask syntax for networks only; everything stays as it was")
    });
    machine.configure(&DOOR.replace("7001", "7101"));
    daemon.signal(Signal::SIGHUP);
    until("the reload is applied", || machine.log().matches("re-reading").count() == 3);
    // The new listener is ready when it has taken a knock. Until then, knock again.
    until("the new door opens", || {
        machine.knock("7101 7002:udp");
        machine.did().matches("open").count() >= 2
    });
}

#[test]
fn a_listener_that_is_stopped_is_replaced() {
    let machine = Machine::new("[a]\nsequence = 7001\ncommand = echo open >>@/did\n");
    let daemon = machine.start();
    let mut listeners = children(daemon.0.id());
    listeners.retain(|pid| command_line_contains(*pid, "--listener"));
    signal(listeners[0], Signal::SIGSTOP);
    until("it listens again", || machine.log().contains("listening on gw0 again"));
    assert!(machine.log().contains("the listener ended (it does not answer)"), "{}", machine.log());
    machine.knock("7001");
    machine.wait_for("open");
}

#[test]
fn after_a_reload_the_device_that_has_the_name_now_is_heard_with_its_own_addresses() {
    let machine = Machine::new("[a]\nsequence = 7001\ncommand = echo open >>@/did\n");
    let other = machine.net.host(1);
    let daemon = machine.start();
    machine.net.gateway.sh(
        "ip link set gw0 down && ip link set gw1 down && ip link set gw0 name swap
         ip link set gw1 name gw0 && ip link set swap name gw1
         ip link set gw0 up && ip link set gw1 up",
    );
    signal(daemon.0.id(), Signal::SIGHUP);
    until("it has read its file again", || machine.log().contains("re-reading config file"));
    until("the door opens", || {
        machine.knock_at(&other.space, other.gateway_ips()[0], "7001");
        machine.did().contains("open")
    });
}

#[test]
fn knocks_are_received_again_on_an_interface_that_comes_back() {
    let machine = Machine::new(DOOR);
    let daemon = machine.start();
    machine.net.gateway.sh("ip link del gw0");
    until("the loss of the interface is noticed", || {
        machine.log().contains("not listening on gw0")
    });
    let client = machine.net.client.space.path();
    machine.net.gateway.sh(&format!(
        "ip link add gw0 type veth peer name eth0 netns {client}
         ip addr add 10.90.0.1/24 dev gw0
         ip link set gw0 up"
    ));
    machine.net.client.space.sh("ip addr add 10.90.0.2/24 dev eth0 && ip link set eth0 up");
    until("it listens again", || machine.log().contains("listening on gw0 again"));
    machine.knock("7001 7002:udp");
    machine.wait_for("open");
    assert!(!has_ended(daemon.0.id()));
}

#[test]
fn a_one_time_sequence_is_used_up_before_its_command_and_the_next_one_counts() {
    let machine =
        Machine::new("[door]\none_time_sequences = @/ots\ncommand = head -n 1 @/ots >> @/did\n");
    fs::write(machine.path("ots"), " 7001,7002:udp\n 7101,7102:udp\n").unwrap();
    let daemon = machine.start();
    machine.knock("7001 7002:udp");
    machine.wait_for("#7001,7002:udp");
    machine.knock("7001 7002:udp");
    machine.knock("7101 7102:udp");
    machine.wait_for("#7001,7002:udp #7001,7002:udp");
    assert_eq!(machine.read("ots"), "#7001,7002:udp\n#7101,7102:udp\n");
    until("the log says that no sequence is left", || {
        machine.log().contains("no more sequences left")
    });
    assert!(!has_ended(daemon.0.id()), "the daemon has ended, as knockd would");
}

#[test]
fn in_the_background_the_pid_file_exists_before_the_parent_exits() {
    let machine = Machine::new(DOOR);
    let parent = machine.net.gateway.run(machine.knockd().arg("-d"));
    assert!(parent.status.success() && parent.stderr.is_empty());
    let pid: u32 = machine.read("pid").trim().parse().expect("a pid file");
    assert_eq!(process::name(pid), "knockd", "the name that killall compares");
    let children: Vec<String> = children(pid).into_iter().map(process::name).collect();
    assert_eq!(children, ["toctoc-runner", "toctoc-listener"]);
    machine.knock("7001 7002:udp");
    machine.wait_for("open");
    signal(pid, Signal::SIGTERM);
    machine.wait_for("open close");
    until("the daemon ends", || has_ended(pid));
    assert!(!machine.path("pid").exists());
    let refused = machine.net.gateway.run(machine.knockd().args(["-d", "-i", "nope0"]));
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).starts_with("could not open nope0: "));
}

#[test]
fn with_d_relative_paths_are_resolved_where_the_daemon_was_started() {
    let machine = Machine::new("");
    let conf =
        "[options]\nlogfile = log\n[door]\none_time_sequences = ots\ncommand = pwd >> @/did\n";
    fs::write(machine.path("conf"), conf.replace('@', &machine.dir.path().display().to_string()))
        .unwrap();
    fs::write(machine.path("ots"), " 7001,7002:udp\n 7101,7102:udp\n").unwrap();
    let mut command = Command::new(machine.path("knockd"));
    command
        .args(["-c", "conf", "-i", "gw0", "-d", "-p"])
        .arg(machine.path("pid"))
        .current_dir(machine.dir.path());
    let parent = machine.net.gateway.run(command.env("STATE_DIRECTORY", machine.path("state")));
    assert!(parent.status.success() && parent.stderr.is_empty());
    let pid: u32 = machine.read("pid").trim().parse().expect("a pid file");
    machine.knock("7001 7002:udp");
    machine.wait_for("/");
    assert_eq!(machine.read("ots"), "#7001,7002:udp\n 7101,7102:udp\n");
    assert!(
        machine.log().contains("running command"),
        "the runner does not write to the same file"
    );
    signal(pid, Signal::SIGHUP);
    // The new listener is ready when it has taken a knock. Until then, knock again.
    until("the reloaded daemon finds its files", || {
        machine.knock("7101 7102:udp");
        machine.did().trim() == "/ /"
    });
    assert_eq!(machine.log().matches("running command").count(), 2);
    signal(pid, Signal::SIGTERM);
    until("the daemon ends", || has_ended(pid));
}

#[test]
fn packets_that_this_machine_sends_to_a_target_open_its_door() {
    let machine = Machine::new("");
    let target = machine.net.client.ips()[0];
    let door = "[door]\nsequence = 7001,7002:udp\ncommand = echo %IP% >> @/did\n";
    machine.configure(&format!("{door}target = {target}\n"));
    let _daemon = machine.start();
    machine.knock_at(&machine.net.gateway, target, "7001 7002:udp");
    machine.wait_for(&machine.net.gateway_ips()[0].to_string());
}

#[test]
fn ipv6_on_any_is_refused_with_a_message() {
    let machine = Machine::new(DOOR);
    let stderr = fs::File::create(machine.path("stderr")).unwrap();
    let _daemon = machine.start_by(machine.knockd().args(["-i", "any"]).stderr(stderr));
    machine.knock_at(&machine.net.client.space, machine.net.gateway_ips()[1], "7001");
    until("standard error says so", || {
        machine.read("stderr").starts_with("IPv6 is not supported under this link-layer type\n")
    });
}

#[test]
fn log_lines_have_the_local_time_of_the_zone_in_tz() {
    let machine = Machine::new(DOOR);
    let stamp = || {
        let date = Command::new("date")
            .env("TZ", "Pacific/Kiritimati")
            .arg("+[%Y-%m-%d %H:%M]")
            .output()
            .unwrap();
        String::from_utf8(date.stdout).unwrap().trim().to_string()
    };
    let before = stamp();
    let _daemon = machine.start_by(machine.knockd().env("TZ", "Pacific/Kiritimati"));
    let log = machine.log();
    assert!(log.starts_with(&before) || log.starts_with(&stamp()), "{log}");
}

#[test]
fn with_l_the_log_line_of_the_stop_command_has_the_host_name_too() {
    let machine = Machine::new(&DOOR.replace("timeout = 2", "timeout = 0"));
    let _daemon = machine.start_by(machine.knockd().args(["-l", "-i", "lo"]));
    // A busy resolver may be too late for one knock.
    let mut knocks = 0;
    until("the log has the name", || {
        if machine.log().matches("command timeout").count() == knocks {
            machine.knock_at(&machine.net.gateway, Ipv4Addr::LOCALHOST.into(), "7001 7002:udp");
            knocks += 1;
        }
        machine.log().contains("127.0.0.1 (localhost): door: command timeout")
    });
}

#[test]
fn a_flood_of_half_knocks_neither_fills_the_log_nor_keeps_a_knock_out() {
    let machine = Machine::new(
        &DOOR
            .replace("7001,7002:udp", "7001:udp,7002:udp,7003:udp")
            .replace("tcpflags = syn\n", ""),
    );
    let _daemon = machine.start();
    machine.flood(3000, |_| &[7001, 7002]);
    machine.knock("7001:udp 7002:udp 7003:udp");
    // On a machine that stalls, the door has closed again.
    until("the door opens", || machine.did().starts_with("open"));
    let stages = machine.log().matches("Stage").count();
    assert!((500..3000).contains(&stages), "{stages} lines");
}

#[test]
fn a_flood_of_whole_knocks_opens_some_and_the_next_knock_after_it() {
    let machine = Machine::new(
        "[door]\nsequence = 7001:udp\ncommand = true\n[other]\nsequence = 7002:udp\ncommand = echo open >> @/did\n",
    );
    let _daemon = machine.start();
    let begun = Instant::now();
    machine.flood(3000, |_| &[7001]);
    until("a knock opens", || {
        machine.knock("7002:udp");
        machine.did().contains("open")
    });
    let opened = machine.log().matches("SESAME").count();
    let seconds = begun.elapsed().as_secs();
    let most = 500 + 100 * (usize::try_from(seconds).unwrap() + 1);
    assert!((500..=most).contains(&opened), "{opened} openings in {seconds} s");
    // On a machine that stalls for half a minute they are not too many.
    let output = machine.log().contains(" knocks opened nothing: too many at once");
    assert!(output || opened > 3000, "{opened} openings in {seconds} s");
}

#[test]
fn a_one_time_sequence_during_a_flood_is_used_up_although_it_opens_nothing() {
    let doors = "[door]\nsequence = 7001:udp\ncommand = true\n[once]\none_time_sequences = @/ots\ncommand = true\n";
    let machine = Machine::new(doors);
    fs::write(machine.path("ots"), " 7101:udp\n 7102:udp\n").unwrap();
    let _daemon = machine.start();
    machine.flood(1500, |n| if n == 1400 { &[7101] } else { &[7001] });
    until("the sequence is used up", || machine.read("ots") == "#7101:udp\n 7102:udp\n");
}

/// knockd as Debian's unit file starts it: with its `CapabilityBoundingSet=` and
/// `ProtectSystem=true`, without `StateDirectory=`, and without another user to become. `/var/lib`
/// belongs to the test.
fn as_debians_unit(machine: &Machine) -> Command {
    let line = "for at in /usr /boot; do [ ! -d $at ] || mount -o bind,ro $at $at; done
        mount --bind \"$0\" /var/lib
        exec setpriv --inh-caps=-all --bounding-set=-all,+net_raw,+net_admin,+sys_module -- \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-ec", line])
        .arg(machine.path("state"));
    command
        .arg(machine.path("knockd"))
        .arg("-c")
        .arg(machine.path("conf"))
        .args(["-i", "gw0"])
        .env_remove("STATE_DIRECTORY");
    command
}

#[test]
fn under_debians_unit_it_starts_opens_closes_and_loses_no_stop_command() {
    let probe =
        "(grep CapBnd /proc/self/status; touch /usr/toctoc-was-here || echo no) >> @/caps 2>&1;";
    let machine =
        Machine::new(&DOOR.replace("command = echo open", &format!("command = {probe} echo open")));
    let daemon = machine.start_by(&mut as_debians_unit(&machine));
    machine.knock("7001 7002:udp");
    machine.wait_for("open");
    let capabilities = machine.read("caps");
    assert!(capabilities.contains("CapBnd:\t0000000000013000\n"), "{capabilities}");
    assert!(capabilities.contains("Read-only"), "/usr is writable: {capabilities}");
    assert!(
        machine.path("state/toctoc/knockd").is_dir(),
        "the journal is not where it must be without StateDirectory="
    );
    machine.wait_for("open close");
    // `systemctl stop` with KillMode=mixed: SIGTERM for the main process, SIGKILL for its children.
    machine.knock("7001 7002:udp");
    machine.wait_for("open close open");
    let runner = runner(&daemon);
    signal(runner, Signal::SIGKILL);
    daemon.signal(Signal::SIGTERM);
    until("both end", || has_ended(runner) && has_ended(daemon.0.id()));
    let _next = machine.net.gateway.spawn(&mut as_debians_unit(&machine));
    machine.wait_for("open close open close");
}

#[test]
fn the_shipped_sequence_gets_one_warning_on_standard_error_and_one_in_the_log() {
    let machine = Machine::new(
        "[openSSH]\nsequence = 7000,8000,9000\ncommand = true\n[closeSSH]\nsequence = 9000,8000,7000\ncommand = true\n",
    );
    let mut daemon = machine.start_by(machine.knockd().stderr(Stdio::piped()));
    daemon.signal(Signal::SIGTERM);
    daemon.wait(LONG).expect("the daemon ends");
    let mut errors = String::new();
    daemon.0.stderr.take().expect("piped").read_to_string(&mut errors).unwrap();
    for output in [errors, machine.log()] {
        assert_eq!(output.matches("WARNING").count(), 1, "{output}");
        assert!(
            output.contains("WARNING: doors openSSH, closeSSH have the sequence that knockd ships"),
            "{output}"
        );
    }
}

/// In a pid namespace of its own, as its first process.
const AS_PID_1: [&str; 4] = ["unshare", "-pf", "--kill-child", "--mount-proc"];

#[test]
fn as_the_first_process_of_a_container_it_reaps_orphans_and_no_command_loses_its_status() {
    let machine = Machine::new(
        "[door]\nsequence = 7001,7002:udp\ntcpflags = syn\n\
         command = (sleep 0.1; echo done >> @/did) & echo open >> @/did; exit 7\n",
    );
    let knockd = machine.knockd();
    let mut command = Command::new(AS_PID_1[0]);
    command.args(&AS_PID_1[1..]).arg(knockd.get_program()).args(knockd.get_args());
    let running = machine.start_by(command.env("STATE_DIRECTORY", machine.path("state")));
    let first = children(running.0.id())[0];
    for times in 1..=3 {
        machine.knock("7001 7002:udp");
        until("the command and its orphan have ended", || {
            let did = machine.did();
            did.matches("open").count() == times && did.matches("done").count() == times
        });
    }
    until("the orphans are reaped", || zombies(first) == 0);
    until("the status of each command is logged", || {
        machine.log().matches("non-zero status code (7)").count() == 3
    });
    // Signals to the first process reach the daemon.
    signal(first, Signal::SIGHUP);
    until("it reads its configuration again", || machine.log().contains("re-reading"));
    signal(first, Signal::SIGTERM);
    until("it ends", || has_ended(first) && machine.log().contains("shutting down"));
}

#[test]
fn whatever_goes_by_the_program_takes_a_copy_called_knockd_and_the_gateway_for_two() {
    let mut gate = Gate::running(|config| config);
    let machine = Machine::new(DOOR);
    fs::remove_file(machine.path("knockd")).unwrap();
    let tree = env!("CARGO_MANIFEST_DIR");
    let built = machine.path("target/release");
    fs::create_dir_all(&built).unwrap();
    symlink(env!("CARGO_BIN_EXE_toctocd"), built.join("toctocd")).unwrap();
    symlink(format!("{tree}/man"), machine.path("man")).unwrap();
    fs::create_dir_all(machine.path("opt/sbin")).unwrap();
    fs::create_dir_all(machine.path("opt/bin")).unwrap();
    // `-o`: the rest of `install` is done.
    let mut make = Command::new("make");
    make.args(["-s", "-o", "install", "install-knockd", "DESTDIR=.", "PREFIX=/opt"]);
    make.args(["BIN=target/release", "-f"])
        .arg(format!("{tree}/Makefile"))
        .current_dir(machine.path(""));
    ok(&make.output().unwrap());
    symlink(machine.path("opt/sbin/knockd"), machine.path("knockd")).unwrap();
    let ask = |how: &str| {
        let mut tool = Command::new("start-stop-daemon");
        tool.args(["--quiet", how, "--exec"]).arg(machine.path("knockd"));
        tool
    };
    let would_start = || ask("--start").arg("--test").output().unwrap().status.success();
    assert!(would_start(), "the gateway is not knockd");
    let knockd = machine.start();
    assert!(!would_start(), "it runs");
    assert!(ask("--stop").output().unwrap().status.success());
    until("knockd ends", || has_ended(knockd.0.id()));
    assert!(!has_ended(gate.daemon().process.0.id()), "the gateway goes on");
}
