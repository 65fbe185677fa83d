//! What the systemd unit of the gateway leaves out: rights for commands, unless `commands.conf` is
//! installed beside it, and the system call for XDP, unless `xdp.conf` is.

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
    line_for("commands.conf")
}

/// How to let the gatekeeper put XDP programs at interfaces.
pub(super) fn remedy_for_xdp() -> String {
    line_for("xdp.conf")
}

fn line_for(drop_in: &str) -> String {
    let program = std::env::current_exe().unwrap_or_default();
    let prefix = program.parent().and_then(Path::parent).unwrap_or(Path::new("/usr"));
    let conf = prefix.join("share/toctoc").join(drop_in);
    format!(
        "`install -D -m 644 {} /etc/systemd/system/{UNIT}.d/{drop_in}; systemctl daemon-reload; \
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

/// The warning about `xdp` if the unit below `root`, if there is one, forbids it.
pub(super) fn narrow_for_xdp(settings: &Settings, root: &Path) -> Option<String> {
    if settings.knock.xdp.is_empty() {
        return None;
    }
    let allows = |line: &str| {
        let calls = line.trim().strip_prefix("SystemCallFilter=");
        calls.is_some_and(|calls| calls.split_whitespace().any(|call| call == "bpf"))
    };
    let texts = texts(root)?;
    if texts.iter().flat_map(|text| text.lines()).any(allows) {
        return None;
    }
    let remedy = remedy_for_xdp();
    Some(format!("{UNIT} lets nobody put XDP at an interface, so `xdp` has no effect: {remedy}"))
}

/// True if the bounding set of the unit with its drop-ins has all that commands may need.
fn leaves_enough(root: &Path) -> bool {
    match texts(root).and_then(|texts| bounding_set(&texts)) {
        Some(set) => FOR_COMMANDS.iter().all(|cap| set.contains(&cap.to_string())),
        None => true,
    }
}

/// The unit below `root` and its drop-ins, in the order in which they count. `None` without a unit.
fn texts(root: &Path) -> Option<Vec<String>> {
    let folders = FOLDERS.map(|folder| root.join(folder));
    let unit = folders.iter().map(|folder| folder.join(UNIT));
    let text = unit.filter_map(|path| files::read_untrusted(&path).ok()).next()?;
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
    Some(std::iter::once(text).chain(drop_ins.iter().map(read)).collect())
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
    fn xdp_under_the_narrow_unit_is_named_until_the_drop_in_is_installed() {
        let root = tempfile::tempdir().unwrap();
        let mut settings = defaults::settings();
        let place = |path: &str, name: &str| {
            let path = root.path().join(path).join(name);
            let packaged = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/systemd/");
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::copy(format!("{packaged}{name}"), &path).unwrap();
        };
        settings.knock.xdp = vec!["eth0".to_owned()];
        assert_eq!(narrow_for_xdp(&settings, root.path()), None, "no unit");
        place("usr/lib/systemd/system", "toctocd.service");
        let text = narrow_for_xdp(&settings, root.path()).expect("the unit is narrow");
        assert!(text.contains("share/toctoc/xdp.conf /etc/systemd/system"), "{text}");
        place("etc/systemd/system/toctocd.service.d", "commands.conf");
        assert!(narrow_for_xdp(&settings, root.path()).is_some(), "that is for commands");
        place("etc/systemd/system/toctocd.service.d", "xdp.conf");
        assert_eq!(narrow_for_xdp(&settings, root.path()), None);
        settings.knock.xdp.clear();
        fs::remove_dir_all(root.path().join("etc")).unwrap();
        assert_eq!(narrow_for_xdp(&settings, root.path()), None, "no need");
    }

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
