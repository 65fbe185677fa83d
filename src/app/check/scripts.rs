//! What scripts, units and saved rulesets do to the firewall at boot, or when an interface comes:
//! flushes that take the guard away, and rulesets of iptables that let no marked packets in.

use std::path::{Path, PathBuf};

use crate::app::finding::Finding;
use crate::config::{Mode, Settings};
use crate::edge::files;
use crate::edge::firewall::advice;

/// Files, or folders of files, of one kind.
struct Kind {
    /// When they run.
    when: &'static str,
    paths: &'static [&'static str],
}

const KINDS: [Kind; 3] = [
    Kind {
        when: "whenever an interface comes up",
        paths: &[
            "etc/NetworkManager/dispatcher.d",
            "etc/NetworkManager/dispatcher.d/pre-up.d",
            "etc/networkd-dispatcher/carrier.d",
            "etc/networkd-dispatcher/degraded.d",
            "etc/networkd-dispatcher/routable.d",
            "etc/network/interfaces",
            "etc/network/interfaces.d",
            "etc/network/if-pre-up.d",
            "etc/network/if-up.d",
            "etc/ppp/ip-up.d",
        ],
    },
    Kind { when: "at boot", paths: &["etc/rc.local", "etc/rc.d/rc.local", "etc/local.d"] },
    Kind { when: "whenever this unit starts", paths: &["etc/systemd/system"] },
];

/// Rulesets of iptables that are loaded at boot.
const SAVED: [&str; 4] = [
    "etc/iptables/rules.v4",
    "etc/iptables/rules.v6",
    "etc/sysconfig/iptables",
    "etc/sysconfig/ip6tables",
];
const UFW_ENABLED: &str = "etc/ufw/ufw.conf";
/// What ufw loads, of each family.
const UFW: [[&str; 3]; 2] = [
    ["etc/ufw/before.rules", "etc/ufw/user.rules", "etc/ufw/after.rules"],
    ["etc/ufw/before6.rules", "etc/ufw/user6.rules", "etc/ufw/after6.rules"],
];

/// A line of a file that changes the firewall.
struct Place {
    path: PathBuf,
    line: usize,
    /// What it does, as it stands there.
    command: &'static str,
}

/// Remarks about files below `root`.
pub(super) fn remarks(settings: &Settings, root: &Path) -> Vec<Finding> {
    if settings.services.iter().all(|service| service.ports.is_empty()) {
        return Vec::new();
    }
    let mut all = Vec::new();
    for Kind { when, paths } in KINDS {
        for path in paths.iter().flat_map(|path| files_at(&root.join(path))) {
            if let Some((by, place)) = flush(&path, root, settings) {
                all.push(Finding::warning(format!(
                    "{}`{}`, {when}, takes the guard away until it is back: replace your own table only \
                     (`flush table`), or load the guard behind it (`toctocd guard print`)",
                    told(by, &place),
                    place.command
                )));
            }
            if let Some((by, place)) = loses_mark(&path, root, settings) {
                all.push(Finding::warning(format!(
                    "{}`{}`, {when}, takes the rule away that lets granted packets in, and nothing puts it \
                     back there: write `{}` behind it",
                    told(by, &place),
                    place.command,
                    advice::let_marked_in_by_iptables(&settings.firewall)
                )));
            }
        }
    }
    if settings.services.iter().any(|service| service.mode == Mode::Mark) {
        all.extend(saved_without_mark(settings, root));
    }
    all
}

/// `FILE:3: `, and before that the line that runs the file, if another one does.
fn told(by: Option<Place>, place: &Place) -> String {
    let here = format!("{}:{}: ", place.path.display(), place.line);
    match by {
        Some(by) => format!("{}:{}: it runs {here}", by.path.display(), by.line),
        None => here,
    }
}

/// The file itself, or those of a folder in their order.
fn files_at(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.is_file());
    paths.sort();
    paths
}

/// The line that takes the guard away, in this file or in one that it runs.
fn flush(path: &Path, root: &Path, settings: &Settings) -> Option<(Option<Place>, Place)> {
    let find = |path: &Path| {
        let line = super::flushes::flush_without_guard(path, settings)?;
        Some(Place { path: path.to_owned(), line, command: "flush ruleset" })
    };
    here_or_below(path, root, &find)
}

/// The line that takes the rule for marked packets away. Only services in mark mode need that rule.
fn loses_mark(path: &Path, root: &Path, settings: &Settings) -> Option<(Option<Place>, Place)> {
    if settings.services.iter().all(|service| service.mode != Mode::Mark) {
        return None;
    }
    here_or_below(path, root, &|path| flush_of_iptables(path, settings))
}

fn here_or_below(
    path: &Path, root: &Path, find: &impl Fn(&Path) -> Option<Place>,
) -> Option<(Option<Place>, Place)> {
    if let Some(place) = find(path) {
        return Some((None, place));
    }
    let text = files::read_untrusted(path).ok()?;
    for (line, words) in (1..).zip(text.lines().map(words)) {
        for word in words.iter().filter(|word| word.starts_with('/')) {
            let run = root.join(word.trim_start_matches('/'));
            if run != path
                && let Some(place) = find(&run)
            {
                let by = Place { path: path.to_owned(), line, command: "" };
                return Some((Some(by), place));
            }
        }
    }
    None
}

/// The last line that flushes the chain of incoming packets, if no line behind it lets marked
/// packets in.
fn flush_of_iptables(path: &Path, settings: &Settings) -> Option<Place> {
    let text = files::read_untrusted(path).ok()?;
    let mut found = None;
    for (line, text) in (1..).zip(text.lines()) {
        for command in text.split([';', '&', '|']).map(words) {
            let program = command.iter().position(|word| is_iptables(word));
            if let Some(at) = program
                && let Some(command) = flushes_input(&command[at + 1..])
            {
                found = Some(Place { path: path.to_owned(), line, command });
            }
        }
        if lets_marked_in(text, settings) {
            found = None;
        }
    }
    found
}

/// The words of a line of a script, without comments; a unit's `ExecStart=-/path` is two.
fn words(line: &str) -> Vec<String> {
    let line = line.split('#').next().unwrap_or_default();
    let breaks = |letter: char| letter.is_whitespace() || "'\";=<|&()`".contains(letter);
    let words = line.split(breaks).map(|word| word.trim_start_matches(['-', '+', '!', '@', ':']));
    let options = line.split(breaks);
    // An option keeps its dashes.
    options
        .zip(words)
        .map(|(whole, bare)| if bare.starts_with('/') { bare } else { whole })
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn is_iptables(word: &str) -> bool {
    let name = word.rsplit('/').next().unwrap_or_default();
    let name = name.trim_end_matches("-legacy").trim_end_matches("-nft");
    ["iptables", "ip6tables"].contains(&name)
}

/// The flush that these arguments of iptables ask for, if the chain of incoming packets goes too.
fn flushes_input(words: &[String]) -> Option<&'static str> {
    let at = words.iter().position(|word| word == "-F" || word == "--flush")?;
    let table = words.iter().position(|word| word == "-t" || word == "--table");
    let is_filter = table.is_none_or(|at| words.get(at + 1).is_some_and(|name| name == "filter"));
    let chain = words.get(at + 1).filter(|word| !word.starts_with('-'));
    let is_input = chain.is_none_or(|chain| chain == "INPUT");
    if is_filter && is_input { Some("iptables -F") } else { None }
}

fn lets_marked_in(line: &str, settings: &Settings) -> bool {
    let mark = settings.firewall.mark;
    let has_mark = line.contains(&format!("{mark:#x}")) || line.contains(&format!("{mark:#010x}"));
    has_mark && line.contains("mark") && !line.trim_start().starts_with('#')
}

/// Saved rulesets that filter incoming packets, and do not let marked ones in.
fn saved_without_mark(settings: &Settings, root: &Path) -> Vec<Finding> {
    let mut all = Vec::new();
    let rule = format!("-A INPUT {}", advice::marked(&settings.firewall).iptables);
    let read = |path: &str| files::read_untrusted(&root.join(path)).unwrap_or_default();
    let has_mark = |text: &str| text.lines().any(|line| lets_marked_in(line, settings));
    for path in SAVED {
        let text = read(path);
        let filters = (1..).zip(text.lines()).find(|(_, line)| line.trim() == "*filter");
        if let Some((line, _)) = filters
            && !has_mark(&text)
        {
            all.push(Finding::warning(format!(
                "{}:{line}: the next boot loads these rules in place of yours, and none of them lets \
                 granted packets in: write `{rule}` there, before what drops",
                root.join(path).display()
            )));
        }
    }
    let is_on = read(UFW_ENABLED).lines().any(|line| line.trim() == "ENABLED=yes");
    for files in UFW.iter().filter(|_| is_on) {
        let [first, ..] = files;
        let is_there = root.join(first).is_file();
        if is_there && !files.iter().any(|path| has_mark(&read(path))) {
            let chain = if first.contains('6') { "ufw6-before-input" } else { "ufw-before-input" };
            let rule = rule.replace("INPUT", chain);
            all.push(Finding::warning(format!(
                "{}: `ufw reload`, and the next boot, load rules that let no granted packets in: write \
                 `{rule}` there",
                root.join(first).display()
            )));
        }
    }
    all
}

#[cfg(test)]
mod tests;
