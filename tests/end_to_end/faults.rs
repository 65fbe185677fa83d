//! Classic doors when processes die, disks are full and clocks are wrong: the stop command is run,
//! late if need be, and once. Both programs that have doors go through the same; at which step they
//! die is told by what the journal and the commands say.

mod site;

use std::time::Duration;

use crate::harness::raw::{Forger, stranger};
use site::{Site, until};
use toctoc::core::openings::{CommandLine, OpeningEntry};
use toctoc::core::record::Record;
use toctoc::core::types::{SECOND, Wall};
use toctoc::edge::clock;
use toctoc::edge::state::State;

/// Commands that wait for us: a FIFO lets them go on. `@` is the site's directory.
const DOOR: &str = "[door]\nsequence = 7001:udp,7002:udp\nstart_command = START echo open >> @/did\n\
    cmd_timeout = 1\nstop_command = STOP echo close >> @/did\n";

fn door(start: &str, stop: &str) -> String {
    DOOR.replace("START", start).replace("STOP", stop)
}

const WAITS_TO_OPEN: &str = "echo opening >> @/did; read x < @/fifo;";
const WAITS_TO_CLOSE: &str = "echo closing >> @/did; read x < @/fifo;";

#[test]
fn killed_before_the_journal_knew_nothing_runs_then_or_later() {
    for mut site in Site::both(&door("", "")) {
        site.start();
        site.freeze();
        site.knock("7001:udp 7002:udp");
        if site.is_knockd() {
            until("the daemon has seen it", || site.log().contains("OPEN SESAME"));
        }
        site.die();
        site.start();
        site.knock("7001:udp 7002:udp");
        site.wait_for("open close");
    }
}

#[test]
fn killed_between_journal_and_start_command_the_stop_command_runs_once() {
    // As many hanging commands as may run at once: the next one is in the journal and waits.
    let hanging = "[hang]\nsequence = 7005:udp\nstart_command = read x < @/fifo\n";
    for mut site in Site::both(&(door("", "") + hanging)) {
        site.start();
        let socket = site.udp(7005);
        until("they hang", || {
            let _ = socket.send(&[0]);
            site.commands() == 128
        });
        site.knock("7001:udp 7002:udp");
        until("it is in the journal", || site.journal_holds("echo close"));
        assert_eq!(site.did(), "", "{site:?}");
        site.die();
        site.release();
        site.start();
        site.wait_for("close");
        site.knock("7001:udp 7002:udp");
        site.wait_for("close open close");
    }
}

#[test]
fn killed_during_the_start_command_it_opens_nothing_behind_the_back_of_the_stop_command() {
    for mut site in Site::both(&door(WAITS_TO_OPEN, "")) {
        site.start();
        site.knock("7001:udp 7002:udp");
        site.wait_for("opening");
        site.die();
        site.start();
        site.wait_for("opening close");
        assert!(!site.commands_wait(), "the shell died with who started it");
        site.knock("7001:udp 7002:udp");
        site.wait_for("opening close opening");
        site.release();
        site.wait_for("opening close opening open close");
    }
}

#[test]
fn killed_during_the_stop_command_it_runs_again_from_its_beginning() {
    for mut site in Site::both(&door("", WAITS_TO_CLOSE)) {
        site.start();
        site.knock("7001:udp 7002:udp");
        site.wait_for("open closing");
        site.die();
        site.start();
        site.wait_for("open closing closing");
        site.release();
        site.wait_for("open closing closing close");
        site.dies_and_runs_nothing_again();
    }
}

#[test]
fn killed_after_the_stop_command_before_the_journal_forgets_it_runs_once_more_and_not_a_third_time()
{
    for mut site in Site::both(&door("", WAITS_TO_CLOSE)) {
        site.start();
        site.knock("7001:udp 7002:udp");
        site.wait_for("open closing");
        site.freeze();
        site.release();
        site.wait_for("open closing close");
        site.die();
        site.start();
        site.wait_for("open closing close closing");
        site.release();
        site.wait_for("open closing close closing close");
        site.dies_and_runs_nothing_again();
    }
}

#[test]
fn after_a_reboot_the_stop_command_is_not_late_although_the_clock_since_boot_began_anew() {
    for mut site in Site::both(&door("", "")) {
        site.boot_clock_ahead(10_000_000);
        site.start();
        site.knock("7001:udp 7002:udp");
        site.wait_for("open");
        site.die();
        site.boot_clock_ahead(0);
        site.start();
        site.wait_for("open close");
        site.dies_and_runs_nothing_again();
    }
}

#[test]
fn a_clock_that_was_set_back_or_forward_in_between_delays_no_stop_command_beyond_its_time() {
    for mut site in Site::both(&door("", "")) {
        let now = clock::now().wall;
        let opened = |id: u64, opened: u64| OpeningEntry {
            id,
            door: "door".into(),
            source: [192, 0, 2, 7].into(),
            stop: CommandLine::Shell(format!("echo stop{id} >> {}", site.path("did"))),
            opened: Wall(opened),
            timeout: 1 + u32::try_from(id).unwrap(),
        };
        let hour = 3600 * SECOND;
        let records = [opened(0, now.0 - hour), opened(1, now.0 + hour)].map(Record::Opened);
        State::open(&site.state(), now, true).unwrap().0.commit(&records).unwrap();
        site.start();
        site.wait_for("stop0 stop1");
        site.dies_and_runs_nothing_again();
    }
}

#[test]
fn the_start_command_that_runs_when_we_are_told_to_end_is_closed_before_we_do() {
    let mut site =
        Site::run(&door(WAITS_TO_OPEN, "").replace("cmd_timeout = 1", "cmd_timeout = 3600"));
    site.start();
    site.knock("7001:udp 7002:udp");
    site.wait_for("opening");
    site.ends_once_released();
    assert_eq!(site.did(), "opening open close");
}

#[test]
fn a_full_disk_opens_nothing_repeats_nothing_forgets_nothing_and_is_recovered_from() {
    let long = "[long]\nsequence = 7003:udp\nstart_command = true\ncmd_timeout = 3600\nstop_command = echo late >> @/did\n";
    for mut site in Site::both(&(door("", "") + long)) {
        site.on_small_disk();
        site.start();
        site.knock("7003:udp");
        until("it is open for an hour", || site.journal_has(1));
        site.fill();
        knock_until_refused(&site);
        // Whatever it was about to open then, it opens nothing any more.
        let opened = site.log().matches("running command: echo open").count();
        let seen = site.log().matches("OPEN SESAME").count();
        site.knock("7001:udp 7002:udp");
        until("the knock is seen", || site.log().matches("OPEN SESAME").count() > seen);
        until("the others open", || site.count("open") >= opened);
        until("what is open is closed", || site.count("close") == opened);
        assert_eq!(site.count("open"), opened, "{site:?}");
        // What has been closed could not be noted either.
        site.make_room();
        until("it opens again", || {
            site.knock("7001:udp 7002:udp");
            site.count("open") > opened
        });
        until("all is closed", || site.count("close") == site.count("open"));
        // The journal was written anew when there was room, and forgets only what has been closed.
        until("it is noted", || site.journal_has(1));
        let did = site.did();
        site.die();
        site.start();
        site.knock("7001:udp 7002:udp");
        site.wait_for(&format!("{did} open close"));
    }
}

/// Knocks until it does not open, or cannot note that it has closed, and the log says why.
fn knock_until_refused(site: &Site) {
    for _ in 0..200 {
        let opened = site.count("open");
        site.knock("7001:udp 7002:udp");
        until("it opens, or says why not", || site.count("open") > opened || site.refused());
        if site.refused() {
            assert!(site.log().contains("No space left on device"), "{}", site.log());
            return;
        }
    }
    panic!("the disk is never full: {site:?}");
}

#[test]
fn a_disk_that_is_full_at_the_start_loses_no_stop_command_and_opens_no_door() {
    let mut site = Site::knockd(&door("", ""));
    site.on_small_disk();
    site.start();
    site.knock("7001:udp 7002:udp");
    site.wait_for("open");
    site.die();
    site.fill();
    site.start();
    site.knock("7001:udp 7002:udp");
    until("it says why it does not open", || site.refused());
    site.make_room();
    // By itself: nobody knocks.
    site.wait_for("open close");
    site.knock("7001:udp 7002:udp");
    site.wait_for("open close open close");
}

#[test]
fn a_one_time_sequence_is_used_up_even_if_its_command_never_ran() {
    let door = "[door]\none_time_sequences = @/ots\nstart_command = echo open >> @/did\n";
    for mut site in Site::both(door) {
        site.write("ots", " 7001:udp,7002:udp\n 7011:udp,7012:udp\n");
        site.start();
        if site.is_knockd() {
            // The daemon uses it up, then the runner is to run the command.
            site.freeze();
            site.knock("7001:udp 7002:udp");
            until("it is used up", || site.read("ots").starts_with('#'));
            site.die();
            site.start();
        } else {
            site.knock("7001:udp 7002:udp");
            site.wait_for("open");
            site.die();
            site.write("did", "");
            site.start();
        }
        site.knock("7001:udp 7002:udp");
        site.knock("7011:udp 7012:udp");
        site.wait_for("open");
        assert_eq!(site.read("ots"), "#7001:udp,7002:udp\n#7011:udp,7012:udp\n");
    }
}

#[test]
fn commands_that_hang_or_flood_keep_neither_packets_nor_each_other_waiting() {
    let others = "[hang]\nsequence = 7005:udp\nstart_command = read x < @/fifo\n\
        [flood]\nsequence = 7006:udp\nstart_command = echo flood >> @/did; exec yes >&2\n";
    for mut site in Site::both(&(door("", "") + others)) {
        // Nobody reads what they write.
        site.deaf_terminal();
        site.start();
        site.udp(7005).send(&[0]).unwrap();
        site.udp(7006).send(&[0]).unwrap();
        site.wait_for("flood");
        for _ in 0..3 {
            site.write("did", "");
            site.knock("7001:udp 7002:udp");
            site.wait_for("open close");
        }
        site.release();
        site.end_commands();
    }
}

#[test]
fn a_hundred_thousand_spoofed_half_knockers_cost_no_memory_no_log_and_nobody_a_knock() {
    for mut site in Site::both(&door("", "").replace("cmd_timeout = 1", "cmd_timeout = 0")) {
        site.start();
        let forger = Forger::new(&site.net().client.space);
        let (begun, before) = (std::time::Instant::now(), site.memory());
        let mut full = 0;
        for part in 0..20_u32 {
            for n in 0..5_000 {
                forger.datagram(stranger(part * 5_000 + n), site.gateway(7001));
                if n % 250 == 0 {
                    // Twenty times what it takes on an idle machine, so that its socket does not
                    // overflow on a busy one.
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            site.write("did", "");
            site.knock("7001:udp 7002:udp");
            site.wait_for("open close");
            if part == 4 {
                full = site.memory();
            }
        }
        let (after, lines) = (site.memory(), site.log().lines().count());
        println!(
            "{before} KiB, {full} with a full table, {after} at the end; {lines} lines; {:?}",
            begun.elapsed()
        );
        assert!(
            after < full + 2048,
            "{before}, {full}, {after} KiB: 25,000 fill the table, the others cost nothing"
        );
        assert!(after < before + 16 * 1024, "{before}, {after} KiB");
        let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
        assert!(lines < 700 + 102 * (seconds + 1), "{lines} lines in {seconds} s");
    }
}
