//! Places of a user's profiles and keys.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::core::diagnostic::printable;
use crate::core::types::Fault;
use crate::keys::ssh_config::identity_agent;

#[derive(Clone, Debug, Default)]
pub struct UserPaths {
    pub home: Option<PathBuf>,
    /// The base directory for configurations, if the user chose one.
    pub config_home: Option<PathBuf>,
    /// The socket of the ssh-agent in the environment.
    pub agent: Option<PathBuf>,
}

/// The pipe of OpenSSH's agent on Windows, where SSH_AUTH_SOCK is mostly not set.
const WINDOWS_AGENT: Option<&str> =
    if cfg!(windows) { Some(r"\\.\pipe\openssh-ssh-agent") } else { None };

impl UserPaths {
    /// Takes them from the environment: the home directory, `XDG_CONFIG_HOME` (`APPDATA` on
    /// Windows), and `SSH_AUTH_SOCK`. The XDG specification ignores relative paths.
    pub fn from_env() -> Self {
        let chosen = env::var_os(if cfg!(windows) { "APPDATA" } else { "XDG_CONFIG_HOME" });
        Self {
            home: env::home_dir().filter(|path| path.is_absolute()),
            config_home: chosen.map(PathBuf::from).filter(|path| path.is_absolute()),
            agent: env::var_os("SSH_AUTH_SOCK")
                .filter(|socket| !socket.is_empty())
                .or(WINDOWS_AGENT.map(OsString::from))
                .map(PathBuf::from),
        }
    }

    /// toctoc's own directory: `toctoc` below the base directory for configurations, which is
    /// `~/.config` unless the user chose one.
    pub fn toctoc(&self) -> Result<PathBuf, Fault> {
        if let Some(base) = &self.config_home {
            return Ok(base.join("toctoc"));
        }
        match &self.home {
            Some(home) => Ok(home.join(".config").join("toctoc")),
            None => Err(Fault::new(
                "your home directory is unknown",
                "set HOME or XDG_CONFIG_HOME, or name files by their paths",
            )),
        }
    }

    /// The directory of the profiles.
    pub fn profiles(&self) -> Result<PathBuf, Fault> {
        Ok(self.toctoc()?.join("profiles"))
    }

    /// The file that names the default profile.
    pub fn default_profile(&self) -> Result<PathBuf, Fault> {
        Ok(self.toctoc()?.join("default"))
    }

    /// The file of the profile called `name`. A name that contains a path separator or ends in
    /// `.toml` is itself the path.
    /// Error: as [`UserPaths::toctoc`], or `name` is no profile name.
    pub fn profile(&self, name: &str) -> Result<PathBuf, Fault> {
        if name.contains(std::path::is_separator) || name.ends_with(".toml") {
            return Ok(PathBuf::from(name));
        }
        if !is_profile_name(name) {
            return Err(Fault::new(
                format!("`{}` cannot be the name of a profile", printable(name)),
                "use letters, digits, and . _ - (not first); or give the path of its file",
            ));
        }
        Ok(self.profiles()?.join(format!("{name}.toml")))
    }

    /// The file of an invitation that waits for approval, to become the profile called `name`.
    pub fn pending(&self, name: &str) -> Result<PathBuf, Fault> {
        Ok(self.profiles()?.join(format!("{name}.pending")))
    }

    /// The private keys that are tried if neither profile nor command line names one.
    pub fn identities(&self) -> Result<Vec<PathBuf>, Fault> {
        let mut paths = vec![self.toctoc()?.join("id_ed25519")];
        if let Some(home) = &self.home {
            paths.push(home.join(".ssh").join("id_ed25519"));
            paths.push(home.join(".ssh").join("id_ed25519_sk"));
        }
        Ok(paths)
    }

    /// The sockets of the user's ssh-agents: the one that ssh's configuration names for every host,
    /// then that of the environment.
    pub fn agents(&self) -> Vec<PathBuf> {
        let mut sockets = Vec::new();
        if let Some(home) = &self.home {
            // Without a configuration that can be read there is none.
            let text = fs::read_to_string(home.join(".ssh").join("config")).unwrap_or_default();
            match identity_agent(&text) {
                None | Some("" | "none" | "SSH_AUTH_SOCK") => {}
                // A variable of the environment, or a part that only ssh can fill in.
                Some(named) if named.contains(['$', '%']) => {}
                Some(named) => sockets.push(self.expand(Path::new(named), home)),
            }
        }
        sockets.extend(self.agent.clone().filter(|agent| !sockets.contains(agent)));
        sockets
    }

    /// `path` with a leading `~/` replaced; a relative path starts at `base`.
    pub fn expand(&self, path: &Path, base: &Path) -> PathBuf {
        match (path.strip_prefix("~"), &self.home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => base.join(path),
        }
    }
}

/// True if a profile may have this name: it is safe as a file name on every system.
pub fn is_profile_name(name: &str) -> bool {
    (1..=100).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !name.starts_with(['.', '-'])
}

/// The profile name for a host: `2001:db8::1` becomes `2001-db8--1`.
pub fn profile_name_of(host: &str) -> String {
    host.trim_end_matches('.').replace(':', "-").trim_start_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> UserPaths {
        UserPaths { home: Some("/home/u".into()), ..UserPaths::default() }
    }

    #[test]
    fn names_are_safe_as_file_names_and_hosts_become_names() {
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
    fn a_path_is_taken_as_it_is_and_a_name_leads_below_the_profiles() {
        let user = user();
        assert_eq!(user.profile("./x.toml").unwrap(), PathBuf::from("./x.toml"));
        assert_eq!(user.profile("x.toml").unwrap(), PathBuf::from("x.toml"));
        let gate = PathBuf::from("/home/u/.config/toctoc/profiles/gate.toml");
        assert_eq!(user.profile("gate").unwrap(), gate);
        assert!(user.profile("a b").is_err());
    }

    #[test]
    fn a_leading_tilde_is_the_home_and_a_relative_path_starts_at_its_base() {
        let user = user();
        let expand = |path: &str| user.expand(Path::new(path), Path::new("/p"));
        assert_eq!(expand("k"), PathBuf::from("/p/k"));
        assert_eq!(expand("/k"), PathBuf::from("/k"));
        assert_eq!(expand("~/k"), PathBuf::from("/home/u/k"));
        let nobody = UserPaths::default();
        assert_eq!(nobody.expand(Path::new("~/k"), Path::new("/p")), PathBuf::from("/p/~/k"));
    }

    #[test]
    fn the_chosen_configuration_directory_wins_over_the_home() {
        let chosen = UserPaths { config_home: Some("/c".into()), ..user() };
        assert_eq!(chosen.toctoc().unwrap(), PathBuf::from("/c/toctoc"));
        let keys =
            ["/c/toctoc/id_ed25519", "/home/u/.ssh/id_ed25519", "/home/u/.ssh/id_ed25519_sk"];
        assert_eq!(chosen.identities().unwrap(), keys.map(PathBuf::from));
        let homeless = UserPaths { home: None, ..chosen };
        assert_eq!(homeless.identities().unwrap().len(), 1);
        let fault = UserPaths::default().profile("gate").unwrap_err();
        assert!(fault.remedy.contains("HOME"), "{fault}");
    }
}
