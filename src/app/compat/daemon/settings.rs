//! knockd's configuration: reads it, with knockd's error messages, and finds the files that it
//! names.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::KnockdOptions;
use crate::config::knockd::{self, KnockdConf, ParseNote};
use crate::core::door::{Weakness, weaknesses};
use crate::edge::classic_log::{ClassicLine, ClassicLog, print_line};
use crate::edge::{clock, one_time};

/// The start of relative names: the directory in which the daemon was started, even after it has
/// changed its working directory.
pub(super) struct BasePaths {
    start: PathBuf,
}

impl BasePaths {
    pub(super) fn here() -> Self {
        Self { start: std::env::current_dir().unwrap_or(PathBuf::from("/")) }
    }

    /// The path of the file `name`; an empty name stays empty, and so no file.
    fn find(&self, name: &Path) -> PathBuf {
        if name.as_os_str().is_empty() { PathBuf::new() } else { self.start.join(name) }
    }

    /// The path as text; `None` for an empty name.
    pub(super) fn file(&self, name: &str) -> Option<String> {
        if name.is_empty() {
            return None;
        }
        Some(self.find(Path::new(name)).to_string_lossy().into_owned())
    }
}

/// Reads the configuration, with knockd's error messages. `log` gets the lines that only a reload
/// logs.
pub(super) fn read(
    paths: &BasePaths, options: &KnockdOptions, interface_given: bool, log: &mut dyn FnMut(String),
) -> Result<KnockdConf, String> {
    let text = match std::fs::read(paths.find(Path::new(&options.config))) {
        Ok(text) => text,
        // COMPAT: a directory reads as an empty file.
        Err(error) if error.kind() == ErrorKind::IsADirectory => Vec::new(),
        Err(error) => return Err(knockd::not_opened(&options.config, &one_time::reason(&error))),
    };
    let mut logged = Vec::new();
    let mut note = |note| match note {
        ParseNote::Trace(text) if options.debug => print_line(&text),
        ParseNote::Trace(_) => {}
        ParseNote::Skipped(error) => {
            eprintln!("config: {}", error.text);
            logged.extend(error.logged());
        }
    };
    let mut open = |file: &Path| one_time::read(&paths.find(file));
    let conf =
        knockd::read(&text, interface_given, knockd::Strictness::Knockd, &mut open, &mut note);
    if let Err(error) = &conf {
        logged.extend(error.logged());
    }
    for text in logged {
        log(text);
    }
    let mut conf = conf.map_err(|error| error.to_string())?;
    for door in &mut conf.doors {
        if let Some(path) = &mut door.one_time_sequences {
            *path = paths.find(path);
        }
    }
    Ok(conf)
}

/// Names of the doors with the sequence that knockd ships.
pub(super) fn shipped(conf: &KnockdConf) -> Vec<String> {
    let mut names = Vec::new();
    for (door, weakness) in weaknesses(&conf.doors) {
        if weakness == Weakness::Shipped {
            names.push(door.name.clone());
        }
    }
    names
}

pub(super) fn warnings(options: &KnockdOptions, conf: &KnockdConf) -> Vec<String> {
    [shipped(conf), odd_doors(options, conf)].concat()
}

/// Warns of what differs from knockd or never works, and of which knockd itself says nothing.
/// Leaves out what it `warned` of before.
pub(super) fn warn(
    options: &KnockdOptions, conf: &KnockdConf, warned: &[String], log: &mut ClassicLog,
) {
    let mut names = shipped(conf);
    names.retain(|name| !warned.contains(name));
    let mut texts = Vec::new();
    if !names.is_empty() {
        texts.push(shipped_text(&names));
    }
    texts.extend(odd_doors(options, conf).into_iter().filter(|text| !warned.contains(text)));
    for text in texts {
        eprintln!("{text}");
        log.line(clock::now().wall, ClassicLine::quiet(&text));
    }
}

fn odd_doors(options: &KnockdOptions, conf: &KnockdConf) -> Vec<String> {
    let mut texts = Vec::new();
    for (door, weakness) in weaknesses(&conf.doors) {
        if weakness == Weakness::StopsAtOnce {
            texts.push(format!(
                "WARNING: door {}: its Cmd_Timeout is negative or above {}, so its stop command runs at once, \
                 where knockd would never run it",
                door.name,
                i32::MAX
            ));
        }
    }
    for door in &conf.doors {
        let target = door.target.as_deref().unwrap_or_default().parse::<IpAddr>();
        if options.only_ipv4 && matches!(target, Ok(IpAddr::V6(_))) {
            texts.push(format!(
                "WARNING: door {}: its Target is an IPv6 address, and -4 leaves IPv6 out: it never opens",
                door.name
            ));
        }
    }
    texts
}

fn shipped_text(names: &[String]) -> String {
    let (doors, have, them) =
        if names.len() == 1 { ("door", "has", "it") } else { ("doors", "have", "them") };
    format!(
        "WARNING: {doors} {} {have} the sequence that knockd ships, which every scanner knows: anybody can open {them}. \
         Choose other ports than 7000, 8000, 9000",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str =
        "[options]\n[open]\n  sequence = 7000,8000,9000\n[own]\n  sequence = 9,1\n";

    /// Reads `text` from a file in a directory that may hold more; the result and what a reload
    /// would log.
    fn read_text(
        folder: &tempfile::TempDir, text: &str,
    ) -> (Result<KnockdConf, String>, Vec<String>) {
        std::fs::write(folder.path().join("k.conf"), text).unwrap();
        read_file(folder, "k.conf")
    }

    fn read_file(
        folder: &tempfile::TempDir, name: &str,
    ) -> (Result<KnockdConf, String>, Vec<String>) {
        let paths = BasePaths { start: folder.path().to_owned() };
        let options = KnockdOptions { config: name.into(), ..KnockdOptions::default() };
        let mut logged = Vec::new();
        let conf = read(&paths, &options, true, &mut |text| logged.push(text));
        (conf, logged)
    }

    #[test]
    fn relative_names_start_where_the_daemon_was_started() {
        let paths = BasePaths { start: "/start".into() };
        assert_eq!(paths.file("k.log").as_deref(), Some("/start/k.log"));
        assert_eq!(paths.file("/var/k.log").as_deref(), Some("/var/k.log"));
        assert_eq!(paths.file(""), None);
    }

    #[test]
    fn a_configuration_that_does_not_exist_is_refused_and_a_directory_is_an_empty_file() {
        let folder = tempfile::tempdir().unwrap();
        let missing = read_file(&folder, "missing").0.unwrap_err();
        assert!(missing.contains("missing") && missing.contains("No such file"), "{missing}");
        std::fs::create_dir(folder.path().join("dir")).unwrap();
        let directory = read_file(&folder, "dir").0;
        assert_eq!(directory.map(|conf| conf.doors.len()), read_text(&folder, "").0.map(|_| 0));
        assert!(read_file(&folder, "").0.is_err(), "no name is no file, not a directory");
    }

    #[test]
    fn one_time_sequences_are_found_beside_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("once"), "7101,7102\n").unwrap();
        let text = "[options]\n[d]\n  one_time_sequences = once\n  start_command = true\n";
        let conf = read_text(&folder, text).0.unwrap();
        assert_eq!(conf.doors[0].sequence.len(), 2);
        assert_eq!(conf.doors[0].one_time_sequences, Some(folder.path().join("once")));
    }

    #[test]
    fn doors_with_the_shipped_sequence_are_named_together() {
        let folder = tempfile::tempdir().unwrap();
        let conf = read_text(&folder, SHIPPED).0.unwrap();
        assert_eq!(shipped(&conf), ["open"]);
        let one = shipped_text(&["open".into()]);
        assert!(one.starts_with("WARNING: door open has the sequence"), "{one}");
        let two = shipped_text(&["open".into(), "close".into()]);
        assert!(two.starts_with("WARNING: doors open, close have the sequence"), "{two}");
        assert!(two.contains("anybody can open them."), "{two}");
    }

    #[test]
    fn a_door_is_warned_of_once_even_across_reloads() {
        let folder = tempfile::tempdir().unwrap();
        let conf = read_text(&folder, SHIPPED).0.unwrap();
        let path = folder.path().join("log");
        let sinks = crate::edge::classic_log::Sinks {
            file: Some(path.display().to_string()),
            ..Default::default()
        };
        let (mut log, _) = ClassicLog::open(&sinks);
        let options = KnockdOptions::default();
        warn(&options, &conf, &warnings(&options, &conf), &mut log);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        warn(&options, &conf, &[], &mut log);
        let written = std::fs::read_to_string(&path).unwrap();
        assert_eq!(written.matches("WARNING: door open ").count(), 1, "{written}");
    }

    #[test]
    fn doors_that_never_open_or_that_shut_at_once_are_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let text = "[options]\n[a]\nsequence = 9,1\ncommand = a\nstop_command = b\ncmd_timeout = -1\n\
            [b]\nsequence = 9,2\ncommand = a\nstop_command = b\ncmd_timeout = 3000000000\n\
            [c]\nsequence = 9,3\ncommand = a\ncmd_timeout = -1\n\
            [d]\nsequence = 9,4\ncommand = a\ntarget = fd00::1\n";
        let conf = read_text(&folder, text).0.unwrap();
        let both = KnockdOptions::default();
        let four = KnockdOptions { only_ipv4: true, ..KnockdOptions::default() };
        let names = |options| {
            let texts = warnings(options, &conf);
            texts.iter().map(|text| text[14..15].to_owned()).collect::<String>()
        };
        assert_eq!((names(&both).as_str(), names(&four).as_str()), ("ab", "abd"));
    }
}
