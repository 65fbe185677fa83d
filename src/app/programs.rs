//! The programs that run as root: nft, and those of services and doors. Nobody else may be able to
//! write or replace them.

use std::collections::BTreeSet;
use std::path::Path;

use nix::unistd::AccessFlags;

use crate::config::Settings;
use crate::config::convert::{ProgramName, programs, programs_of};
use crate::core::types::Fault;
use crate::edge::files::check_way;

/// What a command starts or names.
struct ProgramUse {
    /// `service vpn`.
    owner: String,
    /// `start`.
    key: &'static str,
    name: ProgramName,
    /// False for a path that is only among the words of the command.
    is_started: bool,
}

/// Refuses a program that another user could change or make, and a script likewise. What is only
/// named among the arguments of one counts if it is a program itself: `flock /run/x /opt/open`.
/// Error: the first one, with its place and remedy.
pub(super) fn check(settings: &Settings) -> Result<(), Fault> {
    let nft = &settings.firewall.nft;
    check_way(nft).map_err(|fault| at("[firewall] nft", fault))?;
    for program in uses(settings) {
        let path = match &program.name {
            ProgramName::InPath(name) => in_path(name),
            ProgramName::At(path) | ProgramName::Script(path) | ProgramName::Within(path) => {
                Some(path.clone())
            }
        };
        // Data may lie where others can write; such a path is no program.
        let Some(path) = path.filter(|path| program.is_started || may_run(path)) else { continue };
        let place = format!("{}: its `{}`", program.owner, program.key);
        check_way(Path::new(&path)).map_err(|fault| at(&place, fault))?;
    }
    Ok(())
}

/// Sentences about programs of services and doors that cannot be started, each program once for its
/// owner.
pub(super) fn missing(settings: &Settings) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut told = BTreeSet::new();
    for ProgramUse { owner, key, name, is_started } in uses(settings) {
        let (missing, wanted) = match &name {
            ProgramName::InPath(name) if in_path(name).is_none() => (name, "an executable"),
            ProgramName::At(path) if !is_executable(path) => (path, "an executable"),
            ProgramName::Script(path) if !Path::new(path).exists() => (path, "a file"),
            _ => continue,
        };
        if is_started && told.insert((owner.clone(), missing.clone())) {
            sentences.push(format!(
                "{owner}: its `{key}` names {missing}, which is not {wanted} on this machine: install it"
            ));
        }
    }
    sentences
}

fn is_executable(path: &str) -> bool {
    nix::unistd::access(path, AccessFlags::X_OK).is_ok()
}

/// The program of that name where the gateway's shell finds it.
fn in_path(name: &str) -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    // The gateway has these two in its path, whoever runs `check`.
    let folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    folders.map(|folder| format!("{folder}/{name}")).find(|path| is_executable(path))
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

fn uses(settings: &Settings) -> Vec<ProgramUse> {
    let mut uses = Vec::new();
    for service in &settings.services {
        let Some(commands) = &service.commands else { continue };
        let owner = format!("service {}", service.name);
        for (key, argv) in [("start", &commands.start), ("stop", &commands.stop)] {
            add(&mut uses, &owner, key, programs_of(argv), argv);
        }
    }
    for hook in &settings.hooks {
        let owner = format!("hook {}", hook.name);
        add(&mut uses, &owner, "run", programs_of(&hook.run), &hook.run);
    }
    for door in &settings.doors {
        let owner = format!("door [{}] at {}", door.name, door.place);
        for (key, line) in [
            ("start_command", &door.start_command),
            ("start_command_6", &door.start_command_6),
            ("stop_command", &door.stop_command),
            ("stop_command_6", &door.stop_command_6),
        ] {
            if let Some(line) = line {
                add(&mut uses, &owner, key, programs(line), std::slice::from_ref(line));
            }
        }
    }
    uses
}

/// Adds what a command starts, and every absolute path in its words.
fn add(
    uses: &mut Vec<ProgramUse>, owner: &str, key: &'static str, started: Vec<ProgramName>,
    words: &[String],
) {
    let mut add = |name, is_started| {
        uses.push(ProgramUse { owner: owner.to_owned(), key, name, is_started });
    };
    for name in started {
        add(name, true);
    }
    // A word may hold a command line. The shell's own rules do not matter here: no more than a path
    // is looked for.
    let is_end = |c: char| c.is_whitespace() || "\"';&|()<>=`".contains(c);
    for word in words {
        for path in word.split(is_end).chain([word.as_str()]).filter(|path| path.starts_with('/')) {
            add(ProgramName::At(path.to_owned()), false);
        }
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
        let (folder, file) = path.rsplit_once('/').unwrap();
        let texts = [
            ("service vpn: its `start`", service(&argv, "[\"/bin/true\"]")),
            ("service vpn: its `stop`", service("[\"/bin/true\"]", &argv)),
            ("service vpn: its `start`", service(&format!("[\"/bin/sh\", \"{path}\"]"), &argv)),
            (
                "door [d] at t:1: its `start_command`",
                door(&format!("start_command = \"{path} %IP%\"")),
            ),
            (
                "door [d] at t:1: its `start_command`",
                door(&format!("start_command = \"true;sh '{path}'&& true\"")),
            ),
            (
                "door [d] at t:1: its `stop_command_6`",
                door(&format!("start_command = \"true\"\nstop_command_6 = \"exec {path}\"")),
            ),
            ("[firewall] nft", format!("[firewall]\nnft = \"{path}\"\n")),
            (
                "service vpn: its `start`",
                service(&format!("[\"/bin/sh\", \"-c\", \"exec {path} %IP%\"]"), &argv),
            ),
            (
                "service vpn: its `stop`",
                service("[\"/bin/true\"]", &format!("[\"/usr/bin/env\", \"-i\", \"{path}\"]")),
            ),
            (
                "door [d] at t:1: its `start_command`",
                door(&format!("start_command = \"cd {folder} && ./{file} %IP%\"")),
            ),
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
        for mode in [0o777, 0o757, 0o775, 0o666] {
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
        refused(&path, "others may write into it (mode 1777)");
        let door = format!(
            "[door.d]\nsequence = [\"7411/tcp\", \"2833/udp\", \"9412/tcp\"]\nstart_command = \"{path}-%IP%\"\n"
        );
        let fault = check(&native::parse("t", &door).unwrap()).unwrap_err();
        assert!(fault.what.contains("others may write into it (mode 1777)"), "{fault}");
    }

    #[test]
    fn a_path_that_a_program_gets_counts_if_it_is_a_program_itself() {
        let (_folder, path) = program();
        for (mode, is_refused) in [(0o777, true), (0o666, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let text = format!(
                "[service.vpn]\nstart = [\"/usr/bin/env\", \"true\", \"x={path}\"]\nstop = [\"/bin/true\"]\n"
            );
            let settings = native::parse("t", &text).unwrap();
            assert_eq!(check(&settings).is_err(), is_refused, "{mode:o}");
        }
    }

    #[test]
    fn a_missing_program_is_named_and_data_is_nobodys_business() {
        let text = "[service.vpn]\nstart = [\"/no/open\", \"/dev/null\"]\nstop = [\"/bin/true\"]\n";
        let settings = native::parse("t", text).unwrap();
        check(&settings).unwrap();
        let [sentence] = missing(&settings).try_into().unwrap();
        assert!(sentence.starts_with("service vpn: its `start` names /no/open, "), "{sentence}");
        let door = "[door.d]\nsequence = [\"7411/tcp\", \"2833/udp\", \"9412/tcp\"]\n\
            start_command = \"env -i true && cd / && no-such-program %IP%; sh -c '/no/open'; no-such-program\"\n";
        let sentences = missing(&native::parse("t", door).unwrap());
        for (sentence, name) in sentences.iter().zip(["no-such-program", "/no/open"]) {
            let start = format!("door [d] at t:1: its `start_command` names {name}, ");
            assert!(sentence.starts_with(&start), "{sentence}");
        }
        assert_eq!(sentences.len(), 2, "{sentences:?}");
    }
}
