//! fwknop's access.conf, fwknopd.conf and .fwknoprc -> settings with their places. The lines of an
//! access.conf make stanzas; it may include other files.

use std::fmt;
use std::sync::Arc;

use super::FileReader;
use crate::core::diagnostic::printable;
use crate::core::types::Fault;

/// Bytes of a line with its end, as fwknop reads it. It takes a longer one for two.
const LINE: usize = 1023;
/// Files within files, the first one counted, that fwknopd follows; it follows any number of
/// folders.
const DEPTH: usize = 3;
/// The same for ours, and the most files. fwknopd has no limit, and a folder may include itself.
const FOLDERS: usize = 16;
const FILES: usize = 256;

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    file: Arc<str>,
    line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl Place {
    /// The file's name without folder and ending.
    pub(super) fn stem(&self) -> &str {
        let name = self.file.rsplit('/').next().unwrap_or_default();
        name.split('.').next().unwrap_or_default()
    }
}

/// A key and its value. The value may be a secret: only some are shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) place: Place,
}

/// A stanza of an access.conf: what a holder of its keys may do.
#[derive(Clone)]
pub(super) struct Stanza {
    /// Its first line, SOURCE, is among them.
    pub(super) settings: Vec<Setting>,
    /// True if another file has its keys. That one is not read.
    pub(super) has_keys_elsewhere: bool,
    /// True if an included file has it.
    pub(super) is_included: bool,
}

impl Stanza {
    pub(super) fn place(&self) -> &Place {
        &self.settings[0].place
    }

    /// The last setting of this key: it counts.
    pub(super) fn get(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().rev().find(|setting| setting.key == key)
    }

    pub(super) fn is_on(&self, key: &str) -> bool {
        self.get(key).is_some_and(|setting| is_yes(&setting.value))
    }
}

/// fwknop takes every word with this letter for yes, and all others for no.
pub(super) fn is_yes(value: &str) -> bool {
    value.starts_with(['y', 'Y'])
}

/// The stanzas of an access.conf and of what it includes, and lines for which fwknopd refuses it.
#[derive(Default)]
pub(super) struct Access {
    pub(super) stanzas: Vec<Stanza>,
    /// Each with its place.
    pub(super) mistakes: Vec<String>,
    /// Files that were read.
    files: usize,
}

impl Access {
    /// Error: a file cannot be read.
    pub(super) fn read(path: &str, files: &FileReader<'_>) -> Result<Access, Fault> {
        let mut access = Access::default();
        access.file(path, files, 1, 1)?;
        if access.stanzas.is_empty() && access.mistakes.is_empty() {
            access.mistakes.push(format!("{path}: it has no stanza: none begins with SOURCE"));
        }
        Ok(access)
    }

    /// `depth` as fwknopd counts it, which leaves folders out.
    fn file(
        &mut self, path: &str, files: &FileReader<'_>, depth: usize, folders: usize,
    ) -> Result<(), Fault> {
        self.files += 1;
        let text = (files.text)(path)?;
        // The file's own stanza that is open. What an included file adds comes behind it.
        let mut open: Option<usize> = None;
        for line in lines(path, &text) {
            let setting = match line {
                Ok(setting) => setting,
                Err(mistake) => {
                    self.mistakes.push(mistake);
                    continue;
                }
            };
            let Setting { key, value, place } = &setting;
            match key.as_str() {
                "%include" if depth >= DEPTH => {
                    let what = format!("{place}: %include: more than {DEPTH} files deep");
                    self.mistakes.push(what);
                }
                "%include" if self.has_room(place, folders) => {
                    self.file(value, files, depth + 1, folders)?;
                }
                "%include_folder" => {
                    for path in (files.folder)(value.trim_end_matches('/'))? {
                        if self.has_room(place, folders) {
                            self.file(&path, files, depth + 1, folders + 1)?;
                        }
                    }
                }
                "SOURCE" => {
                    open = Some(self.stanzas.len());
                    self.stanzas.push(Stanza {
                        settings: vec![setting],
                        has_keys_elsewhere: false,
                        is_included: depth > 1,
                    });
                }
                _ => {
                    // Before the first stanza of its file a line counts for nothing.
                    let stanza = open.and_then(|index| self.stanzas.get_mut(index));
                    let Some(stanza) = stanza else { continue };
                    stanza.has_keys_elsewhere |= key == "%include_keys";
                    stanza.settings.push(setting);
                }
            }
        }
        Ok(())
    }

    fn has_room(&mut self, place: &Place, folders: usize) -> bool {
        let has_room = folders < FOLDERS && self.files < FILES;
        if !has_room {
            self.mistakes.push(format!("{place}: it includes too many files"));
        }
        has_room
    }
}

/// The settings of a file, line by line, or what is wrong with a line.
pub(super) fn lines<'a>(
    path: &'a str, text: &'a str,
) -> impl Iterator<Item = Result<Setting, String>> + 'a {
    let file: Arc<str> = printable(path).into();
    text.split('\n').enumerate().filter_map(move |(index, line)| {
        let place = Place { file: Arc::clone(&file), line: index + 1 };
        // Only the first character makes a comment, as for fwknop.
        if line.is_empty() || line.starts_with(['#', ';', '\r', '\0']) {
            return None;
        }
        if line.len() >= LINE {
            return Some(Err(format!("{place}: the line is longer than fwknop reads")));
        }
        // A NUL ends the line, as for C.
        let words = line.split('\0').next().unwrap_or_default().trim_start();
        let end = words.find(|c: char| c.is_ascii_whitespace()).unwrap_or(words.len());
        let (key, value) = words.split_at(end);
        let value = value.trim_start().split([';', '\r']).next().unwrap_or_default();
        if key.is_empty() || value.is_empty() {
            return Some(Err(format!("{place}: a line has a key and a value")));
        }
        let key = key.rsplit_once(':').map_or(key, |(key, _)| key);
        Some(Ok(Setting { key: key.to_owned(), value: value.trim_end().to_owned(), place }))
    })
}

/// The number at the beginning, as C reads it: 0 if there is none.
pub(super) fn number(text: &str) -> i64 {
    let text = text.trim_start();
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let size = digits[..end].parse::<i64>().unwrap_or(if end == 0 { 0 } else { i64::MAX });
    if text.starts_with('-') { -size } else { size }
}
