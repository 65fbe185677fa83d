//! What the window remembers: the language, if the user chose one, and user names for programs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toctoc::app::paths::UserPaths;
use toctoc::core::types::Fault;
use toctoc::edge::files;

use crate::words::Language;

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// `en`, `de`, `fr`; the system's locale decides if there is none.
    language: Option<String>,
    /// The user's name at the gateway of each profile.
    users: BTreeMap<String, String>,
    #[serde(skip)]
    path: Option<PathBuf>,
}

impl Settings {
    /// What was saved. Without a file that can be read, nothing was.
    pub fn load(paths: &UserPaths) -> Settings {
        let Ok(directory) = paths.toctoc() else { return Settings::default() };
        let path = directory.join("window.toml");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let mut settings: Settings = toml::from_str(&text).unwrap_or_default();
        settings.path = Some(path);
        settings
    }

    pub fn language(&self) -> Option<Language> {
        let code = self.language.as_deref()?;
        Language::ALL.into_iter().find(|language| language.code() == code)
    }

    /// Error: it could not be saved; it counts all the same until the window is closed.
    pub fn set_language(&mut self, language: Language) -> Result<(), Fault> {
        self.language = Some(language.code().to_owned());
        self.save()
    }

    pub fn user(&self, profile: &str) -> &str {
        self.users.get(profile).map_or("", String::as_str)
    }

    /// Error: as [`Settings::set_language`].
    pub fn set_user(&mut self, profile: &str, user: &str) -> Result<(), Fault> {
        if self.user(profile) == user {
            return Ok(());
        }
        self.users.insert(profile.to_owned(), user.to_owned());
        self.save()
    }

    fn save(&self) -> Result<(), Fault> {
        let Some(path) = &self.path else { return Ok(()) };
        let text = toml::to_string(self).unwrap_or_default();
        files::make_directory(&files::parent(path), 0o700)?;
        files::replace(path, text.as_bytes(), 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_chosen_is_there_at_the_next_start() {
        let home = tempfile::tempdir().unwrap();
        let config_home = Some(home.path().to_owned());
        let paths = UserPaths { config_home, ..UserPaths::default() };
        let mut settings = Settings::load(&paths);
        assert_eq!((settings.language(), settings.user("gate")), (None, ""));
        settings.set_language(Language::French).unwrap();
        settings.set_user("gate", "ann").unwrap();
        let again = Settings::load(&paths);
        assert_eq!((again.language(), again.user("gate")), (Some(Language::French), "ann"));
        std::fs::write(home.path().join("toctoc/window.toml"), "language = 7").unwrap();
        assert_eq!(Settings::load(&paths).language(), None);
    }
}
