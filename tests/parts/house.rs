//! The rules of ARCHITECTURE.md, enforced: layers, no circles, the files with `unsafe`, crypto
//! crates, what core never does, the header of every file, dependencies, and that the tests which
//! documents name exist.

#[cfg(target_os = "linux")]
mod json;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The layers from the bottom up, with those that each may use.
const LAYERS: [(&str, &[&str]); 5] = [
    ("core", &["core"]),
    ("keys", &["core", "keys"]),
    ("config", &["core", "config"]),
    ("edge", &["core", "keys", "config", "edge"]),
    ("app", &["core", "keys", "config", "edge", "app"]),
];

/// The files with `unsafe`: the gateway's on Linux, the client's on Windows, the client library's C
/// interface. And their blocks.
const UNSAFE: [(&str, usize); 3] =
    [("src/edge/sys.rs", 18), ("src/edge/sys/windows.rs", 8), ("library/src/c.rs", 7)];

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
    assert!(found.len() > 30, "found only {} files", found.len());
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

/// The text of a file before its tests module.
fn shipped(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests {").map_or(text, |end| &text[..end])
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
        let layer = LAYERS.iter().find(|(layer, _)| path.starts_with(&format!("{layer}/")));
        let Some((_, allowed)) = layer else { continue };
        for (number, line) in code_lines(&text) {
            for (layer, _) in LAYERS {
                let named = line.contains(&format!("crate::{layer}::"))
                    || line.contains(&format!("crate::{{{layer}"));
                if named && !allowed.contains(&layer) {
                    faults.push(format!("src/{path}:{number}: uses {layer}: {}", line.trim()));
                }
            }
        }
    }
    report("core <- keys, config <- edge <- app <- bin; nothing looks up:", &faults);
}

/// For each file, the files that it imports from. An edge is a path that begins with `crate`,
/// `super` or `self`, in a `use` or anywhere else; it leads to the file of the longest module that
/// the path names. A module and the files below it are one subject, so edges between them do not
/// count. Neither do tests.
fn imports(files: &[(String, String)]) -> BTreeMap<String, BTreeSet<String>> {
    let mut modules = BTreeMap::new();
    for (path, _) in files {
        modules.insert(module_of(path), path.clone());
    }
    let mut edges = BTreeMap::new();
    for (path, text) in files {
        let module = module_of(path);
        let mut found = BTreeSet::new();
        for imported in imported_paths(&code_of(text), &module) {
            let named =
                (1..=imported.len()).rev().find(|end| modules.contains_key(&imported[..*end]));
            let Some(end) = named else { continue };
            let other = &imported[..end];
            if !other.starts_with(&module) && !module.starts_with(other) {
                found.insert(modules[other].clone());
            }
        }
        edges.insert(path.clone(), found);
    }
    edges
}

/// `core/replay.rs` and `core/replay/mod.rs` are core, replay; `lib.rs` is empty.
fn module_of(path: &str) -> Vec<String> {
    let name = path.trim_end_matches(".rs").trim_end_matches("/mod");
    if name == "lib" {
        return Vec::new();
    }
    name.split('/').map(str::to_owned).collect()
}

/// The code of a file, without comments and without what only tests import.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut for_tests = false;
    for (_, line) in code_lines(shipped(text)) {
        if !(for_tests && line.trim_start().starts_with("use ")) {
            code += line;
            code.push('\n');
        }
        for_tests = line.trim() == "#[cfg(test)]";
    }
    code
}

/// Every path that begins with `crate`, `super` or `self`, as names below the crate.
fn imported_paths(code: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let mut base = match start {
                "crate::" => Vec::new(),
                "super::" => module[..module.len().saturating_sub(1)].to_vec(),
                _ => module.to_vec(),
            };
            let mut rest = &code[at + start.len()..];
            while let Some(next) = rest.strip_prefix("super::") {
                base.pop();
                rest = next;
            }
            use_tree(rest, &base, &mut found);
        }
    }
    found
}

/// Adds the paths of `a::b`, `a::{b, c::d}` or `*` below `base`. Returns what follows.
fn use_tree<'c>(code: &'c str, base: &[String], found: &mut Vec<Vec<String>>) -> &'c str {
    let code = code.trim_start();
    if let Some(mut rest) = code.strip_prefix('{') {
        loop {
            rest = use_tree(rest, base, found);
            // Past `as name`.
            rest = &rest[rest.find([',', '}']).unwrap_or(rest.len())..];
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None => return rest.strip_prefix('}').unwrap_or(rest),
            }
        }
    }
    let end = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
    let mut path = base.to_vec();
    path.push(code[..end].to_owned());
    match code[end..].strip_prefix("::") {
        Some(rest) => use_tree(rest, &path, found),
        None => {
            found.push(path);
            &code[end..]
        }
    }
}

/// A circle through the first file, if there is one: the files in their order.
fn circle_from(start: &str, edges: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut open = vec![start];
    while let Some(file) = open.pop() {
        for next in edges.get(file).into_iter().flatten() {
            if next == start {
                let mut circle = vec![file.to_owned()];
                let mut at = file;
                while at != start {
                    at = came_from[at];
                    circle.insert(0, at.to_owned());
                }
                return Some(circle);
            }
            if !came_from.contains_key(next.as_str()) {
                came_from.insert(next, file);
                open.push(next);
            }
        }
    }
    None
}

#[test]
fn no_files_of_a_layer_import_each_other_in_a_circle() {
    let files: Vec<_> = files().into_iter().filter(|(path, _)| !is_test_file(path)).collect();
    let edges = imports(&files);
    let count: usize = edges.values().map(BTreeSet::len).sum();
    assert!(count > 400, "found only {count} imports");
    let mut faults = Vec::new();
    let mut reported = BTreeSet::new();
    for file in edges.keys() {
        let Some(circle) = circle_from(file, &edges) else { continue };
        if reported.insert(circle.iter().cloned().collect::<BTreeSet<_>>()) {
            faults.push(format!("{} -> {file}", circle.join(" -> ")));
        }
    }
    report("files import each other in a circle; move plain data down:", &faults);
}

#[test]
fn a_planted_circle_is_found_and_a_module_with_its_children_is_none() {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let mut files = vec![
        file("core/a.rs", "use crate::core::{b::{self, B}, x};\nmod part;\nuse part::P;"),
        file("core/a/part.rs", "use super::A;\nuse super::super::b::B;"),
        file("core/b.rs", "// use super::a::A;\nfn f() -> super::c::C {}"),
        file(
            "core/c.rs",
            "#[cfg(test)]\nuse super::a::A;\n#[cfg(test)]\nmod tests {\nuse super::a;",
        ),
    ];
    assert!(imports(&files).keys().all(|file| circle_from(file, &imports(&files)).is_none()));
    files[3].1 = "use super::a::A;".to_owned();
    let circle = circle_from("core/a.rs", &imports(&files)).unwrap();
    assert_eq!(circle, ["core/a.rs", "core/b.rs", "core/c.rs"]);
}

#[test]
fn unsafe_is_in_one_file_of_each_system() {
    let mut faults = Vec::new();
    let mut all: Vec<(String, String)> =
        files().into_iter().map(|(path, text)| (format!("src/{path}"), text)).collect();
    for path in ["library/src/lib.rs", "library/src/handles.rs", "library/src/c/tests.rs"] {
        all.push((path.to_owned(), read(path).replace("#[allow(unsafe_code)]", "")));
    }
    let is_allowed = |path: &str| UNSAFE.iter().any(|(allowed, _)| *allowed == path);
    for (path, text) in all.into_iter().filter(|(path, _)| !is_allowed(path)) {
        let words = |line: &str| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe")
        };
        faults.extend(
            code_lines(&text)
                .filter(|(_, l)| words(l))
                .map(|(n, l)| format!("{path}:{n}: {}", l.trim())),
        );
    }
    report("`unsafe` belongs to edge/sys.rs, edge/sys/windows.rs and library/src/c.rs:", &faults);
}

#[test]
fn each_block_of_unsafe_has_its_reason() {
    for (path, count) in UNSAFE {
        let text = read(path);
        let blocks = code_lines(&text).filter(|(_, line)| line.contains("unsafe {")).count();
        assert_eq!(blocks, text.matches("// SAFETY:").count(), "{path}: each under its SAFETY:");
        assert_eq!(blocks, count, "{path}: change ARCHITECTURE.md and the count here");
    }
}

#[test]
fn crypto_crates_are_used_where_they_are_proven() {
    let crates: [(&[&str], &[&str]); 2] = [
        (
            &["chacha20poly1305", "chacha20", "x25519_dalek", "blake2"],
            &["core/noise", "core/wire", "core/keyring", "edge/state"],
        ),
        (&["ed25519_dalek"], &["core/authentic", "keys/identity"]),
    ];
    let mut faults = Vec::new();
    for (path, text) in files().into_iter().filter(|(path, _)| !is_test_file(path)) {
        for (names, allowed) in crates {
            if allowed.iter().any(|prefix| path.starts_with(prefix)) {
                continue;
            }
            for (number, line) in code_lines(shipped(&text)) {
                if names.iter().any(|name| line.contains(&format!("{name}::"))) {
                    faults.push(format!("src/{path}:{number}: {}", line.trim()));
                }
            }
        }
    }
    report("crypto crates are used only where ARCHITECTURE.md says:", &faults);
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
fn the_first_line_of_every_file_says_what_it_contains() {
    let mut faults = Vec::new();
    for (path, text) in files().into_iter().filter(|(path, _)| !is_test_file(path)) {
        let header = text.lines().next().unwrap_or_default();
        if !header.starts_with("//! ") || header.len() <= 20 {
            faults.push(format!("src/{path}: its first line must be `//! what it contains`"));
        }
    }
    report("every file has a header:", &faults);
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
    for lock in ["Cargo.lock", "fuzz/Cargo.lock", "window/Cargo.lock"] {
        let text = read(lock);
        let packages: Vec<&str> = text.split("[[package]]").skip(1).collect();
        assert!(packages.len() > 50, "{lock}: found {} packages", packages.len());
        let ours = |package: &str| {
            ["toctoc", "toctoc-client", "toctoc-counts", "toctoc-fuzz", "toctoc-window"]
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

/// The crates that the project's owner has named. Each does real work: none is a dependency for
/// show.
const NAMED: [&str; 9] = [
    "chacha20poly1305",
    "clap",
    "ed25519-dalek",
    "nftables",
    "pnet",
    "serde",
    "toml",
    "x25519-dalek",
    "zeroize",
];

#[test]
fn the_crates_that_the_owner_named_are_used() {
    let cargo = read("Cargo.toml");
    let mut missing = Vec::new();
    for name in NAMED {
        let path = format!("{}::", name.replace('-', "_"));
        let used = files().iter().any(|(_, text)| text.contains(&path));
        if !used || !cargo.contains(&format!("\n{name} = ")) {
            missing.push(name.to_owned());
        }
    }
    report("named by the project's owner, so they stay and are used:", &missing);
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
                let number = line.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
                if named == 0 || number != row + 1 || line.matches(" | ").count() != 1 {
                    faults.push(format!("row {row}: {line}"));
                }
                (row, named) = (number, 0);
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
    assert!(row == 32 && named > 0, "32 rows, not {row}");
    report("tests/ATTACKS:", &faults);
}

#[test]
fn every_test_that_a_document_names_exists() {
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
