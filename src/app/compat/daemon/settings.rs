//! What knockd is told to do: its configuration read, with its words for what is wrong, and where
//! its files are. The grammar is left to `config::knockd`.

use std::path::PathBuf;

use super::KnockdOptions;
use crate::config::knockd::{self, KnockdConf, ParseNote};
use crate::core::door::{Weakness, weaknesses};
use crate::edge::classic_log::{ClassicLine, ClassicLog, print_line};
use crate::edge::{clock, one_time};

/// Where relative names lead: to where the daemon was started, wherever its working directory goes.
pub(super) struct BasePaths {
    start: PathBuf,
}

impl BasePaths {
    /// Names lead from the working directory as it is now.
    pub(super) fn here() -> Self {
        Self { start: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")) }
    }

    /// Where `name` leads; an empty one nowhere.
    pub(super) fn find(&self, name: &str) -> Option<PathBuf> {
        (!name.is_empty()).then(|| self.start.join(name))
    }

    /// The same as text.
    pub(super) fn file(&self, name: &str) -> Option<String> {
        self.find(name).map(|path| path.to_string_lossy().into_owned())
    }
}

/// Reads the configuration, with knockd's words for what is wrong. `log` gets what a reload logs
/// besides.
pub(super) fn read(
    places: &BasePaths,
    options: &KnockdOptions,
    interface_given: bool,
    log: &mut dyn FnMut(String),
) -> Result<KnockdConf, String> {
    let text = match std::fs::read(places.find(&options.config).unwrap_or_default()) {
        Ok(text) => text,
        // COMPAT: a directory reads as an empty file.
        Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => Vec::new(),
        Err(error) => return Err(knockd::not_opened(&options.config, &one_time::reason(&error))),
    };
    let mut logged = Vec::new();
    let mut note = |note| match note {
        ParseNote::Trace(text) if options.debug => print_line(&text),
        ParseNote::Trace(_) => {}
        ParseNote::Skipped(error) => {
            eprintln!("config: {}", error.text());
            logged.extend(error.logged());
        }
    };
    let find = |name: &std::path::Path| places.find(&name.to_string_lossy()).unwrap_or_default();
    let conf = knockd::read(
        &text,
        interface_given,
        knockd::UsedUp::Refuse,
        &mut |file| one_time::read(&find(file)),
        &mut note,
    );
    let conf = conf.map_err(|error| {
        logged.extend(error.logged());
        error.to_string()
    });
    logged.into_iter().for_each(log);
    conf.map(|mut conf| {
        conf.doors
            .iter_mut()
            .filter_map(|door| door.one_time_sequences.as_mut())
            .for_each(|path| *path = find(path));
        conf
    })
}

/// Names of the doors with the sequence that knockd ships.
pub(super) fn shipped(conf: &KnockdConf) -> Vec<String> {
    let weak =
        weaknesses(&conf.doors).into_iter().filter(|(_, weakness)| *weakness == Weakness::Shipped);
    weak.map(|(door, _)| door.name.clone()).collect()
}

/// The one thing that we say where knockd is silent; of each door once.
pub(super) fn warn_of_shipped(conf: &KnockdConf, warned: &[String], log: &mut ClassicLog) {
    let mut names = shipped(conf);
    names.retain(|name| !warned.contains(name));
    if names.is_empty() {
        return;
    }
    let (doors, have, them) =
        if names.len() == 1 { ("door", "has", "it") } else { ("doors", "have", "them") };
    let text = format!(
        "WARNING: {doors} {} {have} the sequence that knockd ships, which every scanner knows: anybody can open {them}. \
         Choose other ports than 7000, 8000, 9000",
        names.join(", ")
    );
    eprintln!("{text}");
    log.line(clock::now().wall, ClassicLine::quiet(&text));
}
