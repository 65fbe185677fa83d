//! The programs under their old names, knockd and knock.

use std::ffi::OsStr;
use std::path::Path;

#[cfg(all(target_os = "linux", feature = "gateway"))]
mod background;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod daemon;
#[cfg(all(target_os = "linux", feature = "gateway"))]
mod expression;
mod getopt;
pub mod knock;
#[cfg(all(target_os = "linux", feature = "gateway"))]
mod options;
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub mod runner;

/// The knockd version whose behaviour this is. Scripts look for it in the first words.
const LIKE: &str = "0.8";

/// `knockd 0.8 (toctoc 0.1.0)`, and where the differences are documented.
fn version(name: &str) -> String {
    let ours = env!("CARGO_PKG_VERSION");
    format!(
        "{name} {LIKE} (toctoc {ours})\nBehaves as {name} {LIKE}; the differences stand in toctoc's docs/knockd-compat.md.\n"
    )
}

/// True if `program`, the first word of the command line, calls us by `name`.
pub fn is_called(program: Option<&OsStr>, name: &str) -> bool {
    match program {
        Some(program) => Path::new(program).file_name() == Some(OsStr::new(name)),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_last_part_of_the_programs_path() {
        for (program, is_knockd) in [
            ("knockd", true),
            ("/usr/sbin/knockd", true),
            ("./knockd", true),
            ("/opt/knockd/toctocd", false),
            ("knockd2", false),
            ("", false),
        ] {
            assert_eq!(is_called(Some(OsStr::new(program)), "knockd"), is_knockd, "{program}");
        }
        assert!(!is_called(None, "knockd"));
    }

    #[test]
    fn the_version_starts_with_knockds_own_words() {
        assert!(version("knock").starts_with("knock 0.8 (toctoc "));
    }
}
