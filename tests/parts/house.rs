//! The law of the house (ARCHITECTURE.md), enforced: floors, the one file with `unsafe`, where
//! crypto may be used, what core never touches, the two opening lines of every file, dependencies,
//! and that tests which texts name are there.

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

/// Blocks of `unsafe` in edge/sys.rs.
const UNSAFE: usize = 8;

/// Every Rust file below src, as (path relative to src, text without its tests module).
fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in
            fs::read_dir(&folder).expect("src is readable").map(|e| e.expect("entry").path())
        {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|e| e == "rs") {
                found.push((
                    relative(&root, &entry),
                    fs::read_to_string(&entry).expect("source is text"),
                ));
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
    text.lines()
        .enumerate()
        .map(|(i, line)| (i + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
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
        let Some((_, allowed)) =
            FLOORS.iter().find(|(floor, _)| path.starts_with(&format!("{floor}/")))
        else {
            continue;
        };
        for (number, line) in code_lines(&text) {
            for (floor, _) in FLOORS {
                let named = line.contains(&format!("crate::{floor}::"))
                    || line.contains(&format!("crate::{{{floor}"));
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
        let words = |line: &str| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe")
        };
        faults.extend(
            code_lines(&text)
                .filter(|(_, l)| words(l))
                .map(|(n, l)| format!("src/{path}:{n}: {}", l.trim())),
        );
    }
    report("`unsafe` belongs to edge/sys.rs alone:", &faults);
}

#[test]
fn the_one_file_with_unsafe_says_of_each_block_why_it_is_safe() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/edge/sys.rs"))
        .expect("the file");
    let blocks = code_lines(&text).filter(|(_, line)| line.contains("unsafe {")).count();
    assert_eq!(blocks, text.matches("// SAFETY:").count(), "each block under its own SAFETY:");
    assert_eq!(
        blocks, UNSAFE,
        "a block more or less is a change of the law: say it in ARCHITECTURE.md and count here"
    );
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
    for (path, text) in
        files().into_iter().filter(|(path, _)| path.starts_with("core/") && !is_test_file(path))
    {
        for (number, line) in code_lines(shipped(&text)) {
            faults.extend(
                WORLD
                    .iter()
                    .filter(|w| line.contains(**w))
                    .map(|w| format!("src/{path}:{number}: {w}")),
            );
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
            let bad = ["todo!(", "unimplemented!(", "FIXME", "XXX", "dbg!("]
                .iter()
                .any(|word| line.contains(word));
            if bad {
                faults.push(format!("src/{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    report("no left-overs:", &faults);
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn every_package_is_locked_by_its_checksum_and_of_one_registry() {
    const REGISTRY: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    for lock in ["Cargo.lock", "fuzz/Cargo.lock"] {
        let text = read(lock);
        let packages: Vec<&str> = text.split("[[package]]").skip(1).collect();
        assert!(packages.len() > 50, "{lock}: found {} packages", packages.len());
        let ours = |package: &str| {
            ["toctoc", "toctoc-fuzz"]
                .iter()
                .any(|name| package.contains(&format!("name = \"{name}\"")))
        };
        let registered =
            |package: &str| package.contains(REGISTRY) && package.contains("checksum = \"");
        let bad = packages.iter().filter(|package| !(ours(package) || registered(package)));
        let bad: Vec<String> = bad.map(|package| package.to_string()).collect();
        report(&format!("{lock}: from crates.io, with a checksum:"), &bad);
    }
}

#[test]
fn every_dependency_stands_under_its_reason() {
    let text = read("Cargo.toml");
    let (mut wanted, mut reason, mut count, mut faults) = (false, false, 0, Vec::new());
    for (number, line) in (1..).zip(text.lines()) {
        if line.starts_with('[') {
            wanted = line.ends_with("dependencies]");
            reason = false;
        } else if line.starts_with('#') {
            reason = true;
        } else if line.trim().is_empty() {
            reason = false;
        } else if wanted && line.contains(" = ") {
            count += 1;
            if !reason {
                faults.push(format!("Cargo.toml:{number}: {line}"));
            }
        }
    }
    assert!(count > 25, "found {count} dependencies");
    report("a dependency stands under the reason that needs it:", &faults);
}

/// Every test function: (file, name).
fn tests() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut folders) = (Vec::new(), vec![root.join("src"), root.join("tests")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("readable").map(|e| e.expect("entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&entry).expect("source is text");
                for place in text.match_indices("#[test]\n").map(|(at, word)| at + word.len()) {
                    let name =
                        text[place..].split_once("fn ").and_then(|(_, rest)| rest.split_once('('));
                    found.extend(name.map(|(name, _)| (relative(root, &entry), name.to_owned())));
                }
            }
        }
    }
    found
}

#[test]
fn every_attack_of_the_table_has_its_tests() {
    let (tests, mut faults, mut row, mut named) = (tests(), Vec::new(), 0, 1);
    for line in read("tests/ATTACKS")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
    {
        match line.strip_prefix("    ") {
            None => {
                row += 1;
                if named == 0
                    || !line.starts_with(&format!("{row} "))
                    || line.matches(" | ").count() != 1
                {
                    faults.push(format!("row {row}: {line}"));
                }
                named = 0;
            }
            Some(test) => {
                named += 1;
                let known = test
                    .split_once(' ')
                    .is_some_and(|(file, name)| tests.contains(&(file.into(), name.into())));
                if !known {
                    faults.push(format!("row {row}: there is no {test}"));
                }
            }
        }
    }
    assert!(row == 26 && named > 0, "26 rows, not {row}");
    report("tests/ATTACKS:", &faults);
}

#[test]
fn what_texts_claim_by_a_tests_name_has_that_test() {
    let tests = tests();
    let mut faults = Vec::new();
    let mut claims = 0;
    for file in ["SECURITY.md", "docs/lessons.md", "docs/knockd-compat.md", "docs/benchmarks.md"] {
        // A name of a test is a sentence: five words at least.
        for word in read(file).split('`').skip(1).step_by(2) {
            let name = word.rsplit("::").next().expect("one part at least");
            if name.matches('_').count() >= 4
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            {
                claims += 1;
                if !tests.iter().any(|(_, test)| test == name) {
                    faults.push(format!("{file}: {name}"));
                }
            }
        }
    }
    assert!(claims > 40, "found {claims} names");
    report("there is no such test:", &faults);
}
