//! The words of the window in its languages. Every message is here, and nowhere else.
//! `{name}` stands for a value.

mod english;
mod french;
mod german;

/// A language that the window speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    #[default]
    English,
    German,
    French,
}

impl Language {
    pub const ALL: [Language; 3] = [Language::English, Language::German, Language::French];

    /// The language of a locale: `de-AT`, `fr_FR.UTF-8`. English for all others.
    pub fn of_locale(locale: &str) -> Language {
        let language = locale.split(['-', '_', '.']).next().unwrap_or_default();
        match language.to_ascii_lowercase().as_str() {
            "de" => Language::German,
            "fr" => Language::French,
            _ => Language::English,
        }
    }

    pub fn code(self) -> &'static str {
        match self {
            Language::English => "en",
            Language::German => "de",
            Language::French => "fr",
        }
    }

    /// Its own name for itself.
    pub fn name(self) -> &'static str {
        match self {
            Language::English => "English",
            Language::German => "Deutsch",
            Language::French => "Français",
        }
    }

    pub fn words(self) -> &'static Words {
        match self {
            Language::English => &english::WORDS,
            Language::German => &german::WORDS,
            Language::French => &french::WORDS,
        }
    }
}

/// Puts values in the place of their names: `fill("{a} of {b}", &[("a", "1"), ("b", "2")])`.
pub fn fill(text: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        filled += before;
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        for (known, value) in values {
            if *known == name {
                filled += value;
            }
        }
        rest = after;
    }
    filled + rest
}

macro_rules! words {
    ($($name:ident)*) => {
        /// All words of one language.
        pub struct Words {
            $(pub $name: &'static str,)*
        }

        impl Words {
            /// Each word with its name.
            #[cfg(test)]
            pub fn all(&self) -> Vec<(&'static str, &'static str)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

words! {
    language profile service user knock connect end_grant knocking closing joining invite
    granted granted_ports granted_service once left ended ended_advice closed closed_text
    partly refused no_answer no_answer_text not_sent
    denied full clock challenge trouble replaced unnamed everybodys public other
    place no_program program_failed ssh_ended copy copied user_wrong
    passphrase passphrase_wanted wrong_passphrase ok cancel touch agent
    join_title join_text line join key_new new_passphrase repeat_passphrase passphrases_differ
    joined joined_text join_refused pending pending_text ask_again
    join_taken join_denied join_late join_trouble join_ended join_silence
    fault_no_key fault_passphrase fault_exposed fault_expired fault_invitation fault_impostor
    fault_unsigned fault_unreachable fault_name fault_input fault_other
    broken ends_soon no_profile idle no_window
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The names in braces.
    fn names(text: &str) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        for part in text.split('{').skip(1) {
            names.insert(part.split_once('}').expect("a brace is closed").0);
        }
        names
    }

    #[test]
    fn every_language_says_everything_with_the_same_values() {
        let english = Language::English.words().all();
        for language in Language::ALL {
            for ((name, text), (_, original)) in language.words().all().iter().zip(&english) {
                assert!(!text.trim().is_empty(), "{language:?} {name}");
                assert_eq!(names(text), names(original), "{language:?} {name}");
                let is_own = language == Language::English || text != original || text.len() < 12;
                assert!(is_own, "{language:?} {name} is not translated: {text}");
            }
        }
    }

    #[test]
    fn values_are_filled_in_once_and_unknown_names_are_left_out() {
        let values = [("a", "{b}"), ("b", "2")];
        assert_eq!(fill("{a} and {b}{c}.", &values), "{b} and 2.");
        assert_eq!(fill("nothing", &values), "nothing");
        assert_eq!(fill("open {a", &values), "open {b}");
    }

    #[test]
    fn the_locale_chooses_the_language_and_english_is_for_all_others() {
        for (locale, language) in [
            ("de-AT", Language::German),
            ("DE", Language::German),
            ("fr_CA.UTF-8", Language::French),
            ("en-GB", Language::English),
            ("den", Language::English),
            ("C", Language::English),
            ("", Language::English),
        ] {
            assert_eq!(Language::of_locale(locale), language, "{locale}");
        }
    }
}
