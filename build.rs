//! Finds the commit that `--version` names: from whoever builds the package, from the archive of
//! the crate, or from git. Without one it is left out. Only for releases: everything would be built
//! again after each commit.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// Digits of a commit that are shown.
const SHOWN: usize = 12;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=TOCTOC_COMMIT");
    let mut version = env::var("CARGO_PKG_VERSION").expect("cargo sets it");
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if is_release
        && env::var_os("CARGO_CFG_FUZZING").is_none()
        && let Some(commit) = commit()
    {
        version += &format!(" ({commit})");
    }
    println!("cargo:rustc-env=TOCTOC_VERSION={version}");
}

fn commit() -> Option<String> {
    if let Ok(given) = env::var("TOCTOC_COMMIT") {
        return Some(given);
    }
    // `cargo package` writes it.
    if let Ok(text) = fs::read_to_string(".cargo_vcs_info.json") {
        let (_, rest) = text.split_once("\"sha1\": \"")?;
        let dirty = if text.contains("\"dirty\": true") { "-dirty" } else { "" };
        return Some(rest.get(..SHOWN)?.to_owned() + dirty);
    }
    // A source tree without git may lie in the repository of something else.
    if !Path::new(".git").exists() {
        return None;
    }
    let head = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    for changed in ["src", "Cargo.toml", "Cargo.lock", &head] {
        println!("cargo:rerun-if-changed={changed}");
    }
    git(&["describe", "--always", "--dirty", "--exclude=*", &format!("--abbrev={SHOWN}")])
}

/// What git prints; `None` if it is not there or fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    if !output.status.success() {
        return None;
    }
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
