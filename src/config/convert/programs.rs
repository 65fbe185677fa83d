//! What a command starts: programs and scripts, as far as that can be read.

use std::path::{Path, PathBuf};

use super::rules::{DEPTH, SHELLS, line_of, program, unwrapped};
use super::shell::simple_commands;

/// Where a program or script is that a command starts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProgramName {
    /// Somewhere in the path, by this name.
    InPath(String),
    /// At this absolute path.
    At(String),
    /// At this absolute path, for an interpreter: it need not be executable.
    Script(String),
    /// In this directory, by a name that nobody knows before the command runs.
    Within(String),
}

/// Commands of the shell itself.
const BUILT_IN: [&str; 22] = [
    ":", "[", "test", "echo", "printf", "true", "false", "cd", "exit", "export", "set", "umask",
    "wait", "kill", "trap", "eval", ".", "source", "read", "unset", "exec", "command",
];
/// Programs that run what their first argument names, a file or all files of a directory.
const INTERPRETERS: [&str; 8] =
    ["perl", "python", "python3", "ruby", "lua", "php", "node", "run-parts"];
/// Characters of what a shell or the gateway replaces.
const UNKNOWN: [char; 5] = ['%', '$', '*', '?', '['];

/// What a shell starts when it runs `line`.
pub fn programs(line: &str) -> Vec<ProgramName> {
    let mut reader = ProgramReader::default();
    reader.line(line, DEPTH);
    reader.found
}

/// What these words start, without a shell.
pub fn programs_of(argv: &[String]) -> Vec<ProgramName> {
    let mut reader = ProgramReader::default();
    reader.command(argv, DEPTH);
    reader.found
}

#[derive(Default)]
struct ProgramReader {
    found: Vec<ProgramName>,
    /// The working directory, once the command has chosen one.
    directory: Option<PathBuf>,
}

impl ProgramReader {
    fn line(&mut self, line: &str, depth: usize) {
        if depth == 0 {
            return;
        }
        for command in simple_commands(line).unwrap_or_default() {
            self.command(&command.words, depth);
        }
    }

    fn command(&mut self, words: &[String], depth: usize) {
        let run = unwrapped(words);
        let [first, rest @ ..] = run else { return };
        if run.len() < words.len() {
            self.add(&words[0]);
        }
        self.add(first);
        match (program(first), rest) {
            ("cd", [to]) => self.directory = self.path(to),
            ("eval", rest) => self.line(&rest.join(" "), depth - 1),
            ("." | "source", [script, ..]) => self.add_script(script),
            (name, rest) if SHELLS.contains(&name) => {
                let script = rest.iter().find(|word| !word.starts_with(['-', '+']));
                match (line_of(rest), script) {
                    (Some(line), _) => self.line(line, depth - 1),
                    (None, Some(script)) => self.add_script(script),
                    (None, None) => {}
                }
            }
            (name, [script, ..]) if INTERPRETERS.contains(&name) => self.add_script(script),
            _ => {}
        }
    }

    fn add(&mut self, word: &str) {
        if BUILT_IN.contains(&word) {
            return;
        }
        if word.contains('/') {
            let path = self.path(word).map(|path| ProgramName::At(text(&path)));
            self.found.extend(path.or_else(|| self.within(word)));
        } else if !word.contains(UNKNOWN) {
            self.found.push(ProgramName::InPath(word.to_owned()));
        }
    }

    fn add_script(&mut self, word: &str) {
        let path = self.path(word).map(|path| ProgramName::Script(text(&path)));
        self.found.extend(path.or_else(|| self.within(word)));
    }

    fn within(&self, word: &str) -> Option<ProgramName> {
        let known = &word[..word.find(UNKNOWN)?];
        let directory = self.path(&known[..=known.rfind('/')?])?;
        Some(ProgramName::Within(text(&directory)))
    }

    /// The absolute path, if it is known.
    fn path(&self, word: &str) -> Option<PathBuf> {
        if word.starts_with(['~', '-']) || word.contains(UNKNOWN) {
            return None;
        }
        let path = match &self.directory {
            Some(directory) => directory.join(word),
            None => PathBuf::from(word),
        };
        // Without `.` in the middle.
        if path.has_root() { Some(path.components().collect()) } else { None }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for name in programs(line) {
            texts.push(match name {
                ProgramName::InPath(name) => name,
                ProgramName::At(path) => path,
                ProgramName::Script(path) => format!("<{path}"),
                ProgramName::Within(directory) => format!("{directory}/?"),
            });
        }
        texts
    }

    #[test]
    fn each_program_and_script_of_a_line_is_found() {
        for (line, expected) in [
            ("/opt/open %IP%", "/opt/open"),
            ("open; true && '/opt/a b' x | /opt/c", "open /opt/a b /opt/c"),
            ("sudo -n timeout 5 /opt/open", "sudo /opt/open"),
            ("exec /opt/open", "/opt/open"),
            ("sh -c 'exec /opt/open'", "sh /opt/open"),
            ("/bin/bash -ec '/opt/open %IP%' name", "/bin/bash /opt/open"),
            ("sh -x /opt/script", "sh </opt/script"),
            ("cd /opt && ./open", "/opt/open"),
            ("cd /opt; cd bin; sh open", "sh </opt/bin/open"),
            ("cd /opt; cd $X; ./open", ""),
            ("./open", ""),
            (". /opt/env; eval '/opt/open' x", "</opt/env /opt/open"),
            ("/usr/bin/perl /opt/open.pl", "/usr/bin/perl </opt/open.pl"),
            ("python3 -m this; perl -e 'x'", "python3 perl"),
            ("/opt/%IP%/open; sh /opt/a/x-$N", "/opt/? sh /opt/a/?"),
            ("$X/open; ~/open; x%IP%", ""),
            ("A=1 /opt/open >/tmp/log", "/opt/open"),
            ("if true; then /opt/open; fi", ""),
        ] {
            assert_eq!(read(line).join(" "), expected, "{line}");
        }
        let argv = ["/usr/bin/env", "sh", "-c", "/opt/open"].map(String::from);
        let found = programs_of(&argv);
        assert_eq!(found.len(), 3, "{found:?}");
    }
}
