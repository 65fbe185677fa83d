//! The old names: what the programs do when they are called knockd and knock.
//! Packets, attempts and commands are left to the same parts that serve under our own names.

#[cfg(target_os = "linux")]
mod background;
#[cfg(target_os = "linux")]
pub mod daemon;
#[cfg(target_os = "linux")]
mod expression;
mod getopt;
pub mod knock;
#[cfg(target_os = "linux")]
mod options;
#[cfg(target_os = "linux")]
pub mod runner;

/// The version of knockd whose behaviour this is; the first words that scripts look for.
const LIKE: &str = "0.8";

/// `knockd 0.8 (toctoc 0.1.0)` and what it means.
fn version(name: &str) -> String {
    let ours = env!("CARGO_PKG_VERSION");
    format!(
        "{name} {LIKE} (toctoc {ours})\nBehaves as {name} {LIKE}; the differences stand in toctoc's docs/knockd-compat.md.\n"
    )
}

/// Whether `program`, as the first word of the command line, calls us by `name`.
pub fn called(program: Option<&std::ffi::OsStr>, name: &str) -> bool {
    program
        .map(std::path::Path::new)
        .and_then(std::path::Path::file_name)
        .is_some_and(|file| file == name)
}
