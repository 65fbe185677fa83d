//! The systemd unit of the gateway and its commands: `toctocd.service` leaves them little unless
//! `commands.conf` is installed beside it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::config::Settings;
use crate::edge::confine::FOR_COMMANDS;
use crate::edge::files;

/// The directories of units below a root, the most important one first.
const FOLDERS: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
const UNIT: &str = "toctocd.service";

/// How to give commands the rights that they may need: one line.
pub(super) fn remedy() -> String {
    let program = std::env::current_exe().unwrap_or_default();
    let prefix = program.parent().and_then(Path::parent).unwrap_or(Path::new("/usr"));
    let conf = prefix.join("share/toctoc/commands.conf");
    format!(
        "`install -D -m 644 {} /etc/systemd/system/{UNIT}.d/commands.conf; systemctl daemon-reload; \
         systemctl restart toctocd`",
        conf.display()
    )
}

/// The warning about commands for which the unit below `root`, if there is one, leaves too little.
pub(super) fn narrow_for_commands(settings: &Settings, root: &Path) -> Option<String> {
    if !settings.runs_commands() || leaves_enough(root) {
        return None;
    }
    Some(format!(
        "{UNIT} leaves the commands of doors, services or hooks few rights, and they may fail: {}",
        remedy()
    ))
}

/// True if the bounding set of the unit with its drop-ins has all that commands may need.
fn leaves_enough(root: &Path) -> bool {
    let folders = FOLDERS.map(|folder| root.join(folder));
    let unit = folders.iter().map(|folder| folder.join(UNIT));
    let Some(text) = unit.filter_map(|path| files::read_untrusted(&path).ok()).next() else {
        return true;
    };
    // Of two drop-ins with one name the one in the more important directory counts.
    let mut drop_ins: Vec<PathBuf> = Vec::new();
    for folder in &folders {
        let Ok(entries) = std::fs::read_dir(folder.join(format!("{UNIT}.d"))) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            let is_conf = path.extension().is_some_and(|extension| extension == "conf");
            if is_conf && !drop_ins.iter().any(|one| one.file_name() == path.file_name()) {
                drop_ins.push(path);
            }
        }
    }
    drop_ins.sort_by(|one, other| one.file_name().cmp(&other.file_name()));
    let read = |path: &PathBuf| files::read_untrusted(path).unwrap_or_default();
    let texts: Vec<String> = std::iter::once(text).chain(drop_ins.iter().map(read)).collect();
    match bounding_set(&texts) {
        Some(set) => FOR_COMMANDS.iter().all(|cap| set.contains(&cap.to_string())),
        None => true,
    }
}

/// The names in the lines `CapabilityBoundingSet=`; `None` if all are left.
fn bounding_set(texts: &[String]) -> Option<BTreeSet<String>> {
    let mut set = None;
    for line in texts.iter().flat_map(|text| text.lines()) {
        let Some(("CapabilityBoundingSet", names)) = line.trim().split_once('=') else { continue };
        // What takes single ones away is beyond us.
        if names.starts_with('~') {
            return None;
        }
        let names = names.split_whitespace().map(str::to_owned);
        let set = set.get_or_insert_with(BTreeSet::new);
        match names.clone().next() {
            Some(_) => set.extend(names),
            None => set.clear(),
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::defaults;
    use crate::core::door::Door;

    #[test]
    fn commands_under_the_narrow_unit_are_named_until_the_drop_in_is_installed() {
        let root = tempfile::tempdir().unwrap();
        let mut settings = defaults::settings();
        let warned = |settings: &Settings| narrow_for_commands(settings, root.path());
        let place = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let packaged = |name: &str| {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/systemd/");
            fs::read_to_string(format!("{folder}{name}")).unwrap()
        };
        let door = Door { start_command: Some("true".into()), ..Door::default() };
        settings.doors = vec![door];
        assert_eq!(warned(&settings), None, "no unit");
        place("usr/lib/systemd/system/toctocd.service", &packaged("toctocd.service"));
        let text = warned(&settings).expect("the unit is narrow");
        assert!(text.contains("share/toctoc/commands.conf /etc/systemd/system"), "{text}");
        settings.doors[0].start_command = None;
        assert_eq!(warned(&settings), None, "no command");
        settings.doors[0].start_command = Some("true".into());
        let conf = "etc/systemd/system/toctocd.service.d/commands.conf";
        place(conf, &packaged("commands.conf"));
        assert_eq!(warned(&settings), None);
        // One without effect: the name is that of the more important directory.
        place(conf, "");
        place(&conf.replace("etc", "usr/lib"), &packaged("commands.conf"));
        assert!(warned(&settings).is_some());
        place(&conf.replace("commands", "z"), "[Service]\nCapabilityBoundingSet=~\n");
        assert_eq!(warned(&settings), None, "all");
    }
}
