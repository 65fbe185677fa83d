//! The law of the house (ARCHITECTURE.md), enforced: floors, the one file with `unsafe`, where crypto may be used,
//! what core never touches, and the two opening lines of every file.

use std::fs;
use std::path::{Path, PathBuf};

/// The floors from the ground up, with those that each may use.
const FLOORS: [(&str, &[&str]); 5] = [
    ("core", &["core"]),
    ("keys", &["core", "keys"]),
    ("config", &["core", "config"]),
    ("edge", &["core", "keys", "config", "edge"]),
    ("app", &["core", "keys", "config", "edge", "app"]),
];

/// Every Rust file below src, as (path relative to src, text without its tests module).
fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src is readable").map(|e| e.expect("entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|e| e == "rs") {
                found.push((relative(&root, &entry), fs::read_to_string(&entry).expect("source is text")));
            }
        }
    }
    assert!(found.len() > 30, "the walk must find the house, found {} files", found.len());
    found.sort();
    found
}

fn relative(root: &Path, path: &Path) -> String {
    let path: PathBuf = path.strip_prefix(root).expect("below src").to_owned();
    path.to_string_lossy().replace('\\', "/")
}

/// Lines that are code, with their numbers: comments are left out.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(i, line)| (i + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The lines of a file before its `#[cfg(test)] mod tests`: what ships.
fn shipped(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests").map_or(text, |end| &text[..end])
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

fn report(rule: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{rule}\n{}", faults.join("\n"));
}

#[test]
fn arrows_point_only_down() {
    let mut faults = Vec::new();
    for (path, text) in files() {
        let Some((_, allowed)) = FLOORS.iter().find(|(floor, _)| path.starts_with(&format!("{floor}/"))) else {
            continue;
        };
        for (number, line) in code_lines(&text) {
            for (floor, _) in FLOORS {
                let named = line.contains(&format!("crate::{floor}::")) || line.contains(&format!("crate::{{{floor}"));
                if named && !allowed.contains(&floor) {
                    faults.push(format!("src/{path}:{number}: uses {floor}: {}", line.trim()));
                }
            }
        }
    }
    report("core <- keys, config <- edge <- app <- bin; nothing looks up:", &faults);
}

#[test]
fn unsafe_stands_in_one_file() {
    let mut faults = Vec::new();
    for (path, text) in files().into_iter().filter(|(path, _)| path != "edge/sys.rs") {
        let words = |line: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe");
        faults
            .extend(code_lines(&text).filter(|(_, l)| words(l)).map(|(n, l)| format!("src/{path}:{n}: {}", l.trim())));
    }
    report("`unsafe` belongs to edge/sys.rs alone:", &faults);
}

#[test]
fn crypto_crates_are_used_where_they_are_proven() {
    let rooms: [(&[&str], &[&str]); 2] = [
        (
            &["chacha20poly1305", "chacha20", "x25519_dalek", "blake2"],
            &["core/noise", "core/wire", "core/keyring", "edge/state"],
        ),
        (&["ed25519_dalek"], &["core/authentic", "keys/identity"]),
    ];
    let mut faults = Vec::new();
    for (path, text) in files().into_iter().filter(|(path, _)| !is_test_file(path)) {
        for (crates, allowed) in rooms {
            if allowed.iter().any(|room| path.starts_with(room)) {
                continue;
            }
            for (number, line) in code_lines(shipped(&text)) {
                if crates.iter().any(|name| line.contains(&format!("{name}::"))) {
                    faults.push(format!("src/{path}:{number}: {}", line.trim()));
                }
            }
        }
    }
    report("crypto crates stay in the rooms that ARCHITECTURE.md gives them:", &faults);
}

#[test]
fn core_is_a_function_of_state_now_and_event() {
    const WORLD: [&str; 12] = [
        "std::fs",
        "std::env",
        "std::thread",
        "std::process",
        "SystemTime",
        "Instant::now",
        "UdpSocket",
        "TcpStream",
        "getrandom",
        "println!",
        "eprintln!",
        "std::io",
    ];
    let mut faults = Vec::new();
    for (path, text) in files().into_iter().filter(|(path, _)| path.starts_with("core/") && !is_test_file(path)) {
        for (number, line) in code_lines(shipped(&text)) {
            faults.extend(WORLD.iter().filter(|w| line.contains(**w)).map(|w| format!("src/{path}:{number}: {w}")));
        }
    }
    report("core has no socket, file, clock, randomness, thread, environment or log:", &faults);
}

#[test]
fn every_file_opens_with_its_claim_and_its_limits() {
    let mut faults = Vec::new();
    for (path, text) in files().into_iter().filter(|(path, _)| !is_test_file(path)) {
        let mut lines = text.lines();
        let claim = lines.next().is_some_and(|l| l.starts_with("//! ") && l.len() > 20);
        let limits = lines.next().is_some_and(|l| l.starts_with("//!")) || path.starts_with("bin/");
        if !(claim && limits) {
            faults.push(format!(
                "src/{path}: its first two lines must be `//! what it is` and `//! what it leaves to others`"
            ));
        }
    }
    report("a file makes one claim:", &faults);
}

#[test]
fn nothing_is_left_over() {
    let mut faults = Vec::new();
    for (path, text) in files() {
        for (number, line) in text.lines().enumerate() {
            let bad = ["todo!(", "unimplemented!(", "FIXME", "XXX", "dbg!("].iter().any(|word| line.contains(word));
            if bad {
                faults.push(format!("src/{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    report("no left-overs:", &faults);
}
