//! The programs that run as root: nft, and those of services and doors. Nobody else may be able to
//! write or replace them.

use std::collections::BTreeSet;
use std::path::Path;

use nix::unistd::AccessFlags;

use crate::config::{Settings, convert};
use crate::core::types::Fault;
use crate::edge::files::check_way;

/// The programs that commands name by their paths, each with the words that say where.
pub(super) struct ProgramUse<'a> {
    /// `service vpn: its `start``.
    pub(super) place: String,
    pub(super) path: &'a str,
    /// True if the command is this program; false for a path among the words of a command.
    is_first: bool,
}

/// Refuses a program that another user could change. What is only named among the arguments of one
/// counts if it is a program itself: `["/bin/sh", "/opt/open"]`.
/// Error: the first one, with its place and remedy.
pub(super) fn check(settings: &Settings) -> Result<(), Fault> {
    let nft = &settings.firewall.nft;
    check_way(nft).map_err(|fault| at("[firewall] nft", fault))?;
    for program in uses(settings) {
        // Data may lie where others can write; such a path is no program.
        if !program.is_first && !may_run(program.path) {
            continue;
        }
        check_way(Path::new(program.path)).map_err(|fault| at(&program.place, fault))?;
    }
    Ok(())
}

/// Sentences about programs of services and doors that cannot be started.
pub(super) fn missing(settings: &Settings) -> Vec<String> {
    let mut sentences = Vec::new();
    for program in uses(settings).into_iter().filter(|program| program.is_first) {
        if !is_program(program.path) {
            sentences.push(is_missing(&program.place, program.path));
        }
    }
    for door in &settings.doors {
        for program in convert::programs(door).iter().filter(|program| !is_program(program)) {
            let place = format!("door [{}] at {}: a command", door.name, door.place);
            sentences.push(is_missing(&place, program));
        }
    }
    sentences
}

fn is_missing(place: &str, program: &str) -> String {
    format!("{place} names {program}, which is not an executable on this machine: install it")
}

/// True for the path of a program, or for the name of one where the gateway's shell finds it.
fn is_program(name: &str) -> bool {
    let is_there = |path: &str| nix::unistd::access(path, AccessFlags::X_OK).is_ok();
    if name.contains('/') {
        return is_there(name);
    }
    let path = std::env::var("PATH").unwrap_or_default();
    // The gateway has these two in its path, whoever runs `check`.
    let mut folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    folders.any(|folder| is_there(&format!("{folder}/{name}")))
}

fn at(place: &str, fault: Fault) -> Fault {
    Fault::new(format!("{place} runs as root, but {}", fault.what), fault.remedy)
}

/// True if somebody could run this file.
fn may_run(path: &str) -> bool {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::metadata(path) {
        Ok(metadata) => metadata.is_file() && metadata.permissions().mode() & 0o111 != 0,
        Err(_) => false,
    }
}

/// All absolute paths in commands, each once for its place.
fn uses(settings: &Settings) -> Vec<ProgramUse<'_>> {
    let mut uses = Vec::new();
    for service in &settings.services {
        let Some(commands) = &service.commands else { continue };
        for (key, argv) in [("start", &commands.start), ("stop", &commands.stop)] {
            let place = format!("service {}: its `{key}`", service.name);
            let mut is_first = true;
            for word in argv {
                add(&mut uses, &place, word, is_first);
                is_first = false;
            }
        }
    }
    for door in &settings.doors {
        for (key, text) in [
            ("start_command", &door.start_command),
            ("start_command_6", &door.start_command_6),
            ("stop_command", &door.stop_command),
            ("stop_command_6", &door.stop_command_6),
        ] {
            let place = format!("door [{}]: its `{key}`", door.name);
            // The shell's own rules do not matter here: no more than a path is looked for.
            let is_end = |c: char| c.is_whitespace() || "\"';&|()<>=`".contains(c);
            let words: BTreeSet<&str> = text.as_deref().unwrap_or("").split(is_end).collect();
            for word in words {
                add(&mut uses, &place, word, false);
            }
        }
    }
    uses
}

fn add<'a>(uses: &mut Vec<ProgramUse<'a>>, place: &str, word: &'a str, is_first: bool) {
    if word.starts_with('/') {
        uses.push(ProgramUse { place: place.to_owned(), path: word, is_first });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;
    use crate::config::native;

    /// A directory with an executable file.
    fn program() -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("open");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let path = path.to_str().unwrap().to_owned();
        (folder, path)
    }

    /// The settings for each place where a command can name `path`.
    fn places(path: &str) -> Vec<(&'static str, Settings)> {
        let service =
            |start: &str, stop: &str| format!("[service.vpn]\nstart = {start}\nstop = {stop}\n");
        let door = |keys: &str| {
            format!("[door.d]\nsequence = [\"7411/tcp\", \"2833/udp\", \"9412/tcp\"]\n{keys}\n")
        };
        let argv = format!("[\"{path}\", \"%IP%\"]");
        let texts = [
            ("service vpn: its `start`", service(&argv, "[\"/bin/true\"]")),
            ("service vpn: its `stop`", service("[\"/bin/true\"]", &argv)),
            ("service vpn: its `start`", service(&format!("[\"/bin/sh\", \"{path}\"]"), &argv)),
            ("door [d]: its `start_command`", door(&format!("start_command = \"{path} %IP%\""))),
            (
                "door [d]: its `start_command`",
                door(&format!("start_command = \"true;sh '{path}'&& true\"")),
            ),
            (
                "door [d]: its `stop_command_6`",
                door(&format!("start_command = \"true\"\nstop_command_6 = \"exec {path}\"")),
            ),
            ("[firewall] nft", format!("[firewall]\nnft = \"{path}\"\n")),
        ];
        texts.map(|(place, text)| (place, native::parse("t", &text).unwrap())).into()
    }

    fn refused(path: &str, what: &str) {
        for (place, settings) in places(path) {
            let fault = check(&settings).expect_err(place);
            assert!(fault.what.starts_with(place) && fault.what.contains(what), "{fault}");
            assert!(!fault.remedy.is_empty(), "{fault}");
        }
    }

    #[test]
    fn a_program_that_others_may_write_is_refused_wherever_a_command_names_it() {
        let (_folder, path) = program();
        for (_, settings) in places(&path) {
            check(&settings).unwrap();
        }
        for mode in [0o777, 0o757, 0o775] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            refused(&path, &format!("others may write it (mode {mode:04o})"));
        }
    }

    #[test]
    fn a_program_of_another_user_is_refused_also_behind_a_link() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root can give a file away");
            return;
        }
        let (folder, path) = program();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        chown(&path, Some(65534), None).unwrap();
        refused(&path, "belongs to uid 65534");
        refused(link.to_str().unwrap(), "belongs to uid 65534");
    }

    #[test]
    fn a_program_that_others_could_replace_or_make_is_refused() {
        let (folder, path) = program();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        refused(&path, "others may write into it (mode 0777)");
        // Under a sticky bit only what is not there yet is in danger.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        check(&places(&path)[0].1).unwrap();
        fs::remove_file(&path).unwrap();
        let fault = check(&places(&path)[0].1).unwrap_err();
        assert!(fault.what.contains("others may write into it (mode 1777)"), "{fault}");
    }

    #[test]
    fn a_missing_program_is_named_and_data_is_nobodys_business() {
        let text = "[service.vpn]\nstart = [\"/no/open\", \"/dev/null\"]\nstop = [\"/bin/true\"]\n";
        let settings = native::parse("t", text).unwrap();
        check(&settings).unwrap();
        let [sentence] = missing(&settings).try_into().unwrap();
        assert!(sentence.starts_with("service vpn: its `start` names /no/open, "), "{sentence}");
        let door = "[door.d]\nsequence = [\"7411/tcp\", \"2833/udp\", \"9412/tcp\"]\n\
            start_command = \"sudo -n true && cd / && no-such-program %IP%; sh -c '/no/open'\"\n";
        let sentences = missing(&native::parse("t", door).unwrap());
        for (sentence, name) in sentences.iter().zip(["/no/open", "no-such-program"]) {
            assert!(sentence.starts_with(&format!("door [d] at t:1: a command names {name}, ")));
        }
        assert_eq!(sentences.len(), 2, "{sentences:?}");
    }
}
