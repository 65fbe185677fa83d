//! Where a user's profiles and keys lie.
//! Opening them is left to `edge::files`.

use std::env;
use std::path::{Path, PathBuf};

use crate::core::types::Fault;

/// toctoc's own directory: `$XDG_CONFIG_HOME/toctoc`, by default `~/.config/toctoc`;
/// `%APPDATA%\toctoc` on Windows.
///
/// # Errors
/// Nothing says where the user's home is.
pub fn directory() -> Result<PathBuf, Fault> {
    let named =
        env::var_os(if cfg!(windows) { "APPDATA" } else { "XDG_CONFIG_HOME" }).map(PathBuf::from);
    // The XDG specification: a relative path is to be ignored.
    let base =
        named.filter(|path| path.is_absolute()).or_else(|| home().map(|home| home.join(".config")));
    base.map(|base| base.join("toctoc")).ok_or_else(|| {
        Fault::new(
            "no home directory is known",
            "set HOME or XDG_CONFIG_HOME, or give files by their paths",
        )
    })
}

/// The file of the profile called `name`; a name with a path separator or ending in `.toml` is a
/// path itself.
///
/// # Errors
/// As [`directory`], or the name cannot be one.
pub fn profile(name: &str) -> Result<PathBuf, Fault> {
    if name.contains(std::path::is_separator) || name.ends_with(".toml") {
        return Ok(PathBuf::from(name));
    }
    if !is_profile_name(name) {
        return Err(Fault::new(
            format!("`{}` cannot be a profile's name", crate::core::diagnostic::printable(name)),
            "use letters, digits, and . _ - (not first); or give the path of its file",
        ));
    }
    Ok(directory()?.join("profiles").join(format!("{name}.toml")))
}

/// Whether a profile can be called this: safe as a file name on every system.
pub fn is_profile_name(name: &str) -> bool {
    (1..=100).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !name.starts_with(['.', '-'])
}

/// A profile's name made of a host: `2001:db8::1` becomes `2001-db8--1`.
pub fn profile_name_of(host: &str) -> String {
    host.trim_end_matches('.').replace(':', "-").trim_start_matches('-').to_owned()
}

/// Private keys that are tried where neither profile nor command line names one.
///
/// # Errors
/// As [`directory`].
pub fn identities() -> Result<Vec<PathBuf>, Fault> {
    let own = directory()?.join("id_ed25519");
    Ok([Some(own), home().map(|home| home.join(".ssh").join("id_ed25519"))]
        .into_iter()
        .flatten()
        .collect())
}

/// `path` with a leading `~/` resolved; a relative one is meant from `base`.
pub fn expand(path: &Path, base: &Path) -> PathBuf {
    match (path.strip_prefix("~"), home()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => base.join(path),
    }
}

fn home() -> Option<PathBuf> {
    env::home_dir().filter(|home| home.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profile_names_are_safe_file_names() {
        for good in ["gate", "gate.example.org", "a_b-c", "2001-db8--1"] {
            assert!(is_profile_name(good), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "-x", "a b", "a:b", "a\0b", "é"] {
            assert!(!is_profile_name(bad), "{bad}");
        }
        assert_eq!(profile_name_of("2001:db8::1"), "2001-db8--1");
        assert_eq!(profile_name_of("::1"), "1");
        assert!(is_profile_name(&profile_name_of("gate.example.org.")));
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        assert_eq!(profile("./x.toml").unwrap(), PathBuf::from("./x.toml"));
        assert_eq!(profile("x.toml").unwrap(), PathBuf::from("x.toml"));
        assert!(profile("a b").is_err());
        assert_eq!(expand(Path::new("k"), Path::new("/p")), PathBuf::from("/p/k"));
        assert_eq!(expand(Path::new("/k"), Path::new("/p")), PathBuf::from("/k"));
    }
}
