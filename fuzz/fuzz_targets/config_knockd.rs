//! Doors that the reader of knockd.conf accepts can be written out and read again to the same
//! doors, whatever the input was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fmt::Write;
use toctoc::config::knockd::{KnockdConf, Strictness, list, one_time, read};
use toctoc::core::door::{DOORS, Door, STEPS, TcpFlags};

fn parse(text: &[u8]) -> Option<KnockdConf> {
    // The text itself serves as the file of one-time sequences.
    read(text, false, Strictness::Knockd, &mut |_| Ok(text.to_vec()), &mut |_| ()).ok()
}

/// Writes the doors as text. Every value that was read fits in a line.
fn written(doors: &[Door]) -> String {
    let mut text = String::new();
    for door in doors {
        let mut line =
            |key: &str, value: &str| writeln!(text, "{key}{value}").expect("a string grows");
        line("[", &format!("{}]", door.name));
        line("sequence=", &list(&door.sequence));
        line("seq_timeout=", &door.seq_timeout.to_string());
        line("cmd_timeout=", &door.cmd_timeout.to_string());
        for (index, name) in TcpFlags::NAMES.iter().enumerate() {
            match (door.flags.set >> index & 1, door.flags.unset >> index & 1) {
                (0, 0) => {}
                (1, 0) => line("tcpflags=", name),
                (0, 1) => line("tcpflags=!", name),
                both => panic!("{name} is both set and unset: {both:?}"),
            }
        }
        for (key, value) in [
            ("target=", &door.target),
            ("start_command=", &door.start_command),
            ("start_command_6=", &door.start_command_6),
            ("stop_command=", &door.stop_command),
            ("stop_command_6=", &door.stop_command_6),
        ] {
            if let Some(value) = value {
                line(key, value);
            }
        }
    }
    text
}

fuzz_target!(|input: &[u8]| {
    let Some(conf) = parse(input) else { return };
    assert!(conf.doors.len() <= DOORS);
    let mut doors = conf.doors;
    for door in &mut doors {
        assert!((1..=STEPS).contains(&door.sequence.len()) && (1..=127).contains(&door.name.len()));
        door.later_steps.clear();
        if door.one_time_sequences.take().is_some() {
            door.fixed_first = false;
            if let Some(at) = one_time::place_of(input, &door.sequence) {
                assert!(input[at] != b'#', "a used line is in use");
            }
        }
    }
    // A line may become longer than it was because its key is written in full. Too long a line is
    // cut, and then the text differs. A name such as "options " stays a door only because it is
    // written in brackets with its blank.
    let text = written(&doors);
    if text.lines().all(|line| line.len() < 4000) {
        assert_eq!(parse(text.as_bytes()).map(|conf| conf.doors), Some(doors));
    }
});
