//! Completion: the words that may stand at the end of a command line, of the definitions in `args`.
//! The scripts in `completions/` call it and show what it prints.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command, CommandFactory, ValueHint};

use super::output;

/// The first argument of a call by a shell; no help mentions it. The words after the program's name
/// follow, up to the one that is being typed.
const ARGUMENT: &str = "--complete";
/// The line that stands for all files; a source of names may return it too.
pub const FILES: &str = ":files";

/// A command line before the word that is being typed.
pub struct CommandLine<'a> {
    command: &'a Command,
    /// The option whose value comes next.
    option: Option<&'a Arg>,
    given: Vec<GivenValue<'a>>,
    positionals: usize,
    /// True after `--`: no more options.
    is_ended: bool,
}

/// A value on the command line, or an option without one.
struct GivenValue<'a> {
    argument: &'a Arg,
    value: String,
}

/// A word that may come next, and its help.
struct Candidate {
    word: String,
    help: String,
}

impl<'a> CommandLine<'a> {
    fn read(program: &'a Command, words: &[String]) -> Self {
        let mut line = Self {
            command: program,
            option: None,
            given: Vec::new(),
            positionals: 0,
            is_ended: false,
        };
        for word in words {
            line.push(word);
        }
        line
    }

    fn push(&mut self, word: &str) {
        if let Some(option) = self.option.take() {
            self.give(option, word);
        } else if self.is_ended || word == "-" {
            self.push_positional(word);
        } else if word == "--" {
            self.is_ended = true;
        } else if let Some(long) = word.strip_prefix("--") {
            self.push_long(long);
        } else if let Some(shorts) = word.strip_prefix('-') {
            self.push_shorts(shorts);
        } else if self.positionals == 0
            && let Some(command) = self.command.find_subcommand(word)
        {
            self.command = command;
        } else {
            self.push_positional(word);
        }
    }

    fn push_long(&mut self, long: &str) {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        let Some(option) = self.long(name) else { return };
        match value {
            Some(value) => self.give(option, value),
            None if takes_value(option) => self.option = Some(option),
            None => self.give(option, ""),
        }
    }

    /// `-4i` and `-i`, whose value comes next; `-iFILE`.
    fn push_shorts(&mut self, shorts: &str) {
        for (at, short) in shorts.char_indices() {
            let mut options = self.command.get_arguments();
            let Some(option) = options.find(|option| option.get_short() == Some(short)) else {
                return;
            };
            let rest = &shorts[at + short.len_utf8()..];
            match takes_value(option) {
                true if rest.is_empty() => self.option = Some(option),
                true => self.give(option, rest),
                false => self.give(option, ""),
            }
            if takes_value(option) {
                return;
            }
        }
    }

    fn push_positional(&mut self, word: &str) {
        if let Some(argument) = self.positional() {
            self.give(argument, word);
        }
        self.positionals += 1;
    }

    fn give(&mut self, argument: &'a Arg, value: &str) {
        self.given.push(GivenValue { argument, value: value.to_owned() });
    }

    fn long(&self, name: &str) -> Option<&'a Arg> {
        self.command.get_arguments().find(|option| option.get_long() == Some(name))
    }

    /// The positional argument that comes next; the last one may take several words.
    fn positional(&self) -> Option<&'a Arg> {
        let all = self.command.get_positionals();
        let (last, mut others): (Vec<&Arg>, Vec<&Arg>) = all.partition(|arg| arg.is_last_set());
        if self.is_ended && !last.is_empty() {
            return last.first().copied();
        }
        others.sort_by_key(|argument| argument.get_index());
        match others.get(self.positionals) {
            Some(argument) => Some(argument),
            None => others.last().copied().filter(|last| may_repeat(last)),
        }
    }

    /// The name of the command.
    pub fn command(&self) -> &str {
        self.command.get_name()
    }

    /// The value of an argument that was given already.
    pub fn value(&self, id: &str) -> Option<&str> {
        let given = self.given.iter().find(|given| given.argument.get_id() == id);
        given.map(|given| given.value.as_str())
    }

    fn candidates(&self, current: &str, names: &NameSource<'_>) -> Vec<Candidate> {
        if let Some(option) = self.option {
            return self.values(option, "", current, names);
        }
        if !self.is_ended
            && let Some(long) = current.strip_prefix("--")
            && let Some((name, value)) = long.split_once('=')
        {
            return match self.long(name) {
                Some(option) => self.values(option, &format!("--{name}="), value, names),
                None => Vec::new(),
            };
        }
        if !self.is_ended && current.starts_with('-') {
            return self.options();
        }
        let mut found = Vec::new();
        if self.positionals == 0 && !self.is_ended {
            for command in self.command.get_subcommands().filter(|command| !command.is_hide_set()) {
                found.push(Candidate::new(command.get_name(), command.get_about()));
            }
        }
        if let Some(argument) = self.positional() {
            found.extend(self.values(argument, "", current, names));
        }
        found
    }

    /// The options that may still be given.
    fn options(&self) -> Vec<Candidate> {
        let mut found = Vec::new();
        for option in self.command.get_arguments().filter(|argument| !argument.is_positional()) {
            let is_given = self.given.iter().any(|given| given.argument == option);
            if let Some(long) = option.get_long()
                && !option.is_hide_set()
                && (!is_given || may_repeat(option))
            {
                found.push(Candidate::new(&format!("--{long}"), option.get_help()));
            }
        }
        found
    }

    /// The values of `argument` that continue `typed`, each behind `before`.
    fn values(
        &self, argument: &Arg, before: &str, typed: &str, names: &NameSource<'_>,
    ) -> Vec<Candidate> {
        let hint = argument.get_value_hint();
        let is_file = matches!(hint, ValueHint::AnyPath | ValueHint::FilePath | ValueHint::DirPath);
        if is_file || argument.is_last_set() {
            return vec![Candidate::new(FILES, None)];
        }
        let mut found = Vec::new();
        for value in argument.get_possible_values() {
            found.push(Candidate::new(&format!("{before}{}", value.get_name()), value.get_help()));
        }
        // `ssh,web`: what is complete stays.
        let complete = match typed.rfind(',') {
            Some(comma) if argument.get_value_delimiter() == Some(',') => &typed[..=comma],
            _ => "",
        };
        for name in names(self, argument.get_id().as_str(), typed) {
            if complete.split(',').all(|other| other != name) {
                found.push(Candidate::new(&format!("{before}{complete}{name}"), None));
            }
        }
        found
    }
}

impl Candidate {
    fn new(word: &str, help: Option<&clap::builder::StyledStr>) -> Self {
        let help = help.map(ToString::to_string).unwrap_or_default();
        // One line, and its first sentence.
        let line = help.lines().next().unwrap_or_default();
        let sentence = line.split(". ").next().unwrap_or_default().trim_end_matches('.');
        Self { word: word.to_owned(), help: sentence.to_owned() }
    }
}

fn takes_value(argument: &Arg) -> bool {
    argument.get_action().takes_values()
}

fn may_repeat(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Append)
}

/// Finds the names that may be the value of an argument, by its id: clients, services, profiles.
/// The word as it is typed so far comes last. It must be quick, and print or ask nothing.
pub type NameSource<'a> = dyn Fn(&CommandLine<'_>, &str, &str) -> Vec<String> + 'a;

/// If a shell has called this program: prints the words that may come next, one a line, with a tab
/// and help behind it. Returns true if that was the call.
pub fn answer<P: CommandFactory>(arguments: &[OsString], names: &NameSource<'_>) -> bool {
    let Some((_, [first, words @ ..])) = arguments.split_first() else { return false };
    if first != ARGUMENT {
        return false;
    }
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into()).collect();
    output::print(&text(P::command(), &words, names));
    true
}

fn text(mut program: Command, words: &[String], names: &NameSource<'_>) -> String {
    program.build();
    let Some((current, before)) = words.split_last() else { return String::new() };
    let line = CommandLine::read(&program, before);
    let mut text = String::new();
    for Candidate { word, help } in line.candidates(current, names) {
        if word == FILES || word.starts_with(current) {
            text += &word;
            if !help.is_empty() {
                text += &format!("\t{help}");
            }
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::args::toctoc::ToctocCommand;
    use crate::app::args::toctocd::ToctocdArgs;

    /// The words that may come next, without their help. The last word may be empty: `open `.
    fn words<P: CommandFactory>(line: &str) -> Vec<String> {
        let typed: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let found = text(P::command(), &typed, &|line, id, _| match (line.command(), id) {
            ("revoke", "name") => vec!["anna".into(), "bert".into()],
            ("open", "service") => vec![format!("of-{}", line.value("target").unwrap_or("?"))],
            (_, "services") => vec!["ssh".into(), "web".into(), "ssh-2".into()],
            _ => Vec::new(),
        });
        found.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
    }

    fn client(line: &str) -> Vec<String> {
        words::<ToctocCommand>(line)
    }

    fn gateway(line: &str) -> Vec<String> {
        words::<ToctocdArgs>(line)
    }

    #[test]
    fn commands_and_options_come_from_the_definitions_and_hidden_ones_do_not() {
        assert_eq!(client("op"), ["open"]);
        assert_eq!(gateway("client re"), ["revoke"]);
        assert_eq!(gateway("guard on --c"), ["--confirm", "--config"]);
        assert!(client("open --").contains(&"--timeout".to_owned()));
        assert_eq!(client("open gate --classic --cl"), [""; 0], "it was given already");
        assert_eq!(gateway("init --service a=1/tcp --serv"), ["--service"], "it may be repeated");
        assert_eq!(client("nonsense "), [""; 0]);
        assert_eq!(client("close gate -- --ti"), [""; 0], "after -- there are no options");
        assert_eq!(client("open gate ssh -- s"), [FILES], "a command of the shell");
    }

    #[test]
    fn names_know_the_words_before_them_and_the_value_of_an_option_is_no_argument() {
        assert_eq!(gateway("client revoke "), ["anna", "bert"]);
        assert_eq!(gateway("-c /x client --json revoke b"), ["bert"]);
        assert_eq!(gateway("--config=/x client revoke b"), ["bert"]);
        assert_eq!(client("open gate "), ["of-gate"]);
        assert_eq!(client("open -4i key --timeout 3 gate "), ["of-gate"]);
        assert_eq!(client("open -ikey gate of-g"), ["of-gate"]);
        assert_eq!(client("open --timeout gate "), [""; 0], "this is the place of the profile");
        assert_eq!(gateway("client add "), [""; 0], "a new client's name is free");
    }

    #[test]
    fn a_list_is_completed_item_by_item() {
        assert_eq!(gateway("client add x --services s"), ["ssh", "ssh-2"]);
        assert_eq!(gateway("client add x --services ssh,"), ["ssh,web", "ssh,ssh-2"]);
        assert_eq!(
            gateway("client add x --services=web,s"),
            ["--services=web,ssh", "--services=web,ssh-2"]
        );
    }

    #[test]
    fn where_a_file_may_stand_the_shell_completes_files() {
        assert_eq!(client("import x"), [FILES]);
        assert_eq!(client("open -i x"), [FILES]);
        assert_eq!(client("open --identity=x"), [FILES]);
        assert_eq!(gateway("run -c /etc/"), [FILES]);
    }
}
