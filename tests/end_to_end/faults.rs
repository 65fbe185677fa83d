//! Classic doors when processes die, disks are full and clocks are wrong: the stop command runs
//! once, late if necessary. Both programs that serve doors are tested. The journal and the output
//! of the commands show at which step they die.

mod site;

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::raw::{Forger, stranger};
use crate::harness::until;
use site::Site;
use toctoc::core::openings::{CommandLine, OpeningEntry};
use toctoc::core::record::Record;
use toctoc::core::types::{SECOND, Wall};
use toctoc::edge::clock;
use toctoc::edge::state::State;

/// A door whose commands log that they ran. `@` is the site's directory, where a FIFO lets waiting
/// commands continue.
const DOOR: &str = "[door]\nsequence = 7001:udp,7002:udp\nstart_command = START echo open >> @/did\n\
    cmd_timeout = 1\nstop_command = STOP echo close >> @/did\n";

fn door(start: &str, stop: &str) -> String {
    DOOR.replace("START", start).replace("STOP", stop)
}

const WAITS_TO_OPEN: &str = "echo opening >> @/did; read x < @/fifo;";
const WAITS_TO_CLOSE: &str = "echo closing >> @/did; read x < @/fifo;";

#[test]
fn after_a_kill_before_the_journal_entry_nothing_runs() {
    for mut site in Site::both(&door("", "")) {
        site.start();
        site.freeze();
        site.knock("7001:udp 7002:udp");
        if site.is_knockd() {
            until("the daemon has received the knock", || site.log().contains("OPEN SESAME"));
        }
        site.die();
        site.start();
        site.knock("7001:udp 7002:udp");
        site.wait_for("open close");
    }
}

#[test]
fn after_a_kill_between_journal_and_start_command_the_stop_command_runs_once() {
    // As many hanging commands as may run at once, so the next one is journalled and waits. One
    // door gets half of what is free, so this takes nine.
    let shares = [128, 192, 224, 240, 248, 252, 254, 255, 256];
    let mut doors = door("", "");
    for port in 7011..=7019 {
        doors += &format!("[hang{port}]\nsequence = {port}:udp\nstart_command = read x < @/fifo\n");
    }
    for mut site in Site::both(&doors) {
        site.start();
        for (port, share) in (7011..).zip(shares) {
            let socket = site.udp(port);
            until("the commands of one more door hang", || {
                let _ = socket.send(&[0]);
                site.commands() == share
            });
        }
        site.knock("7001:udp 7002:udp");
        until("the opening is in the journal", || site.journal_holds("echo close"));
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
fn after_a_kill_during_the_start_command_nothing_opens_later_than_the_stop_command() {
    for mut site in Site::both(&door(WAITS_TO_OPEN, "")) {
        site.start();
        site.knock("7001:udp 7002:udp");
        site.wait_for("opening");
        site.die();
        site.start();
        site.wait_for("opening close");
        assert!(!site.commands_wait(), "the shell outlived the program that started it");
        site.knock("7001:udp 7002:udp");
        site.wait_for("opening close opening");
        site.release();
        site.wait_for("opening close opening open close");
    }
}

#[test]
fn after_a_kill_during_the_stop_command_it_runs_again_from_its_beginning() {
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
fn after_a_kill_between_stop_command_and_journal_it_runs_a_second_time_and_not_a_third() {
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
fn after_a_reboot_the_stop_command_is_not_late_although_the_boot_clock_started_again() {
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
fn a_clock_that_was_set_while_the_gateway_was_down_delays_no_stop_command() {
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
        State::open(&site.state(), now, true, false).unwrap().0.commit(&records).unwrap();
        site.start();
        site.wait_for("stop0 stop1");
        site.dies_and_runs_nothing_again();
    }
}

#[test]
fn an_opening_whose_start_command_runs_at_sigterm_is_closed_before_the_program_ends() {
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
        until("the long opening is in the journal", || site.journal_has(1));
        site.fill();
        knock_until_refused(&site);
        // It finishes what it was opening, and opens nothing after that.
        let opened = site.log().matches("running command: echo open").count();
        let seen = site.log().matches("OPEN SESAME").count();
        site.knock("7001:udp 7002:udp");
        until("the knock is received", || site.log().matches("OPEN SESAME").count() > seen);
        until("earlier openings have opened", || site.count("open") >= opened);
        until("all openings close", || site.count("close") == opened);
        assert_eq!(site.count("open"), opened, "{site:?}");
        // The closings could not be journalled either.
        site.make_room();
        until("the door opens again", || {
            site.knock("7001:udp 7002:udp");
            site.count("open") > opened
        });
        until("all openings are closed", || site.count("close") == site.count("open"));
        // The journal was rewritten when there was room, without the openings that are closed.
        until("the journal has one opening left", || site.journal_has(1));
        let did = site.did();
        site.die();
        site.start();
        site.knock("7001:udp 7002:udp");
        site.wait_for(&format!("{did} open close"));
    }
}

/// Knocks until the door does not open or its closing cannot be journalled, and the log says why.
fn knock_until_refused(site: &Site) {
    for _ in 0..200 {
        let opened = site.count("open");
        site.knock("7001:udp 7002:udp");
        until("the door opens, or the log says why not", || {
            site.count("open") > opened || site.refused()
        });
        if site.refused() {
            assert!(site.log().contains("No space left on device"), "{}", site.log());
            return;
        }
    }
    panic!("the disk did not fill: {site:?}");
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
    until("the log says why it does not open", || site.refused());
    site.make_room();
    // It recovers without a knock.
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
            // The daemon uses it up, then the runner runs the command.
            site.freeze();
            site.knock("7001:udp 7002:udp");
            until("the sequence is used up", || site.read("ots").starts_with('#'));
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
fn commands_that_hang_or_flood_delay_neither_packets_nor_each_other() {
    let others = "[hang]\nsequence = 7005:udp\nstart_command = read x < @/fifo\n\
        [flood]\nsequence = 7006:udp\nstart_command = echo flood >> @/did; exec yes >&2\n";
    for mut site in Site::both(&(door("", "") + others)) {
        // Nobody reads their output.
        site.stderr_to_unread_pipe();
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
fn a_hundred_thousand_spoofed_half_knocks_fill_neither_memory_nor_log_and_block_no_knock() {
    for mut site in Site::both(&door("", "").replace("cmd_timeout = 1", "cmd_timeout = 0")) {
        site.start();
        let forger = Forger::new(&site.net().client.space);
        let begun = Instant::now();
        let before = site.memory();
        let mut full = 0;
        for part in 0..20_u32 {
            for n in 0..5_000 {
                forger.datagram(stranger(part * 5_000 + n), site.gateway(7001), &[0]);
                if n % 250 == 0 {
                    // A limit of the rate, not a wait for an event: 250,000 packets a second, a
                    // twentieth of what an idle machine takes, so that no socket overflows on a
                    // busy one.
                    thread::sleep(Duration::from_millis(1));
                }
            }
            site.write("did", "");
            site.knock("7001:udp 7002:udp");
            site.wait_for("open close");
            if part == 4 {
                full = site.memory();
            }
        }
        let after = site.memory();
        let lines = site.log().lines().count();
        println!(
            "{before} KiB, {full} with a full table, {after} at the end; {lines} lines; {:?}",
            begun.elapsed()
        );
        assert!(
            after < full + 2048,
            "{before}, {full}, {after} KiB: 25,000 sources fill the table, later ones must take no memory"
        );
        assert!(after < before + 16 * 1024, "{before}, {after} KiB");
        let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
        assert!(lines < 700 + 102 * (seconds + 1), "{lines} lines in {seconds} s");
    }
}
