//! A shell command line as simple commands: words without their quotes, and the files that are
//! written. Every command of the line counts, whatever `&&` and `||` would let run.

use std::iter::Peekable;
use std::str::Chars;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SimpleCommand {
    pub(super) words: Vec<String>,
    pub(super) files: Vec<String>,
}

/// Words that make what follows depend on something that only the shell sees.
const KEYWORDS: [&str; 15] = [
    "if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac", "{",
    "[[", "function",
];

/// The commands of `line` in their order; those of a substitution come before the command that has
/// it in its words. `None` for what this does not follow: keywords, here documents, arithmetic, an
/// open quote.
pub(super) fn simple_commands(line: &str) -> Option<Vec<SimpleCommand>> {
    let mut lexer = Lexer {
        chars: line.chars().peekable(),
        commands: Vec::new(),
        command: SimpleCommand::default(),
        word: None,
        redirection: None,
    };
    lexer.run()?;
    for command in &lexer.commands {
        if matches!(command.words.first(), Some(word) if KEYWORDS.contains(&word.as_str())) {
            return None;
        }
    }
    Some(lexer.commands)
}

enum Redirection {
    Input,
    Output,
}

struct Lexer<'a> {
    chars: Peekable<Chars<'a>>,
    commands: Vec<SimpleCommand>,
    command: SimpleCommand,
    /// The word so far; a pair of quotes alone makes an empty one.
    word: Option<String>,
    /// Set if the next word is a file.
    redirection: Option<Redirection>,
}

impl Lexer<'_> {
    fn run(&mut self) -> Option<()> {
        while let Some(c) = self.chars.next() {
            match c {
                '#' if self.word.is_none() => break,
                ' ' | '\t' => self.end_word(),
                '&' if self.chars.next_if_eq(&'>').is_some() => self.output(),
                ';' | '&' | '|' | '(' | ')' => self.end_command(),
                '>' => self.output(),
                '<' if matches!(self.chars.peek(), Some('<' | '(')) => return None,
                '<' => {
                    self.end_word();
                    self.redirection = Some(Redirection::Input);
                }
                '\'' => {
                    let quoted = self.until('\'')?;
                    self.word().push_str(&quoted);
                }
                '"' => self.double_quoted()?,
                '\\' => {
                    let escaped = self.chars.next().unwrap_or('\\');
                    self.word().push(escaped);
                }
                '$' | '`' => self.expansion(c)?,
                _ => self.word().push(c),
            }
        }
        self.end_command();
        Some(())
    }

    fn word(&mut self) -> &mut String {
        self.word.get_or_insert_default()
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        match self.redirection.take() {
            Some(Redirection::Output) => self.command.files.push(word),
            Some(Redirection::Input) => {}
            None => self.command.words.push(word),
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        let mut command = std::mem::take(&mut self.command);
        let leading = command.words.iter().take_while(|word| *word == "!" || is_assignment(word));
        command.words.drain(..leading.count());
        if !command.words.is_empty() || !command.files.is_empty() {
            self.commands.push(command);
        }
    }

    /// After `>`: a file follows, or the number of a descriptor that is open already.
    fn output(&mut self) {
        if self.word.as_ref().is_some_and(|word| word.bytes().all(|b| b.is_ascii_digit())) {
            self.word = None;
        }
        self.end_word();
        self.chars.next_if(|c| matches!(c, '>' | '|'));
        if self.chars.next_if_eq(&'&').is_some() {
            while self.chars.next_if(|c| c.is_ascii_digit() || *c == '-').is_some() {}
        } else {
            self.redirection = Some(Redirection::Output);
        }
    }

    fn until(&mut self, end: char) -> Option<String> {
        let mut text = String::new();
        loop {
            match self.chars.next()? {
                c if c == end => return Some(text),
                c => text.push(c),
            }
        }
    }

    fn double_quoted(&mut self) -> Option<()> {
        self.word();
        loop {
            match self.chars.next()? {
                '"' => return Some(()),
                '\\' => {
                    let c = self.chars.next()?;
                    if !matches!(c, '$' | '`' | '"' | '\\') {
                        self.word().push('\\');
                    }
                    self.word().push(c);
                }
                c @ ('$' | '`') => self.expansion(c)?,
                c => self.word().push(c),
            }
        }
    }

    /// After `$` or a backtick. The value is not known, so a `$` stays in the word.
    fn expansion(&mut self, c: char) -> Option<()> {
        self.word().push('$');
        let inner = match c {
            '`' => self.until('`')?,
            _ if self.chars.next_if_eq(&'(').is_some() => self.parenthesised()?,
            _ => return Some(()),
        };
        self.commands.extend(simple_commands(&inner)?);
        Some(())
    }

    /// The text up to the closing parenthesis.
    fn parenthesised(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut open = 1;
        loop {
            let c = self.chars.next()?;
            match c {
                '(' if text.is_empty() => return None,
                '(' => open += 1,
                ')' => open -= 1,
                _ => {}
            }
            if open == 0 {
                return Some(text);
            }
            text.push(c);
        }
    }
}

/// `NAME=value` before a command.
fn is_assignment(word: &str) -> bool {
    let Some((name, _)) = word.split_once('=') else { return false };
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    plain && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words with `_` for a blank in one; `>` before each file.
    fn read(line: &str) -> Option<Vec<String>> {
        let mut texts = Vec::new();
        for command in simple_commands(line)? {
            let words = command.words.into_iter().map(|word| word.replace(' ', "_"));
            let files = command.files.into_iter().map(|file| format!(">{file}"));
            texts.push(words.chain(files).collect::<Vec<_>>().join(" "));
        }
        Some(texts)
    }

    #[test]
    fn words_quotes_and_comments_are_read_as_a_shell_reads_them() {
        for (line, expected) in [
            ("a  b\tc", "a b c"),
            ("a 'b  c' \"d e\" f\\ g", "a b__c d_e f_g"),
            ("a \"x \\\"y\\\" \\n $z\"", "a x_\"y\"_\\n_$z"),
            ("a \"rule family=\"ipv4\" source\"", "a rule_family=ipv4_source"),
            ("a ''", "a "),
            ("a b#c # d; e", "a b#c"),
            ("# all of it", ""),
            ("X=1 _Y=2 a Z=3", "a Z=3"),
            ("", ""),
        ] {
            assert_eq!(read(line).unwrap().join(" | "), expected, "{line}");
        }
    }

    #[test]
    fn operators_substitutions_and_redirections_separate_commands_and_files() {
        for (line, expected) in [
            ("a; b && c || ! d & e | f", "a | b | c | d | e | f"),
            ("(sleep 3; a) &", "sleep 3 | a"),
            ("a >/dev/null 2>&1", "a >/dev/null"),
            ("a 2>>log b &>c <d", "a b >log >c"),
            ("a 22>x", "a >x"),
            ("a \"$(b 'c d')\" `e`", "b c_d | e | a $ $"),
            ("> x", ">x"),
        ] {
            assert_eq!(read(line).unwrap().join(" | "), expected, "{line}");
        }
    }

    #[test]
    fn what_only_a_shell_can_decide_is_not_read() {
        for line in
            ["if a; then b; fi", "a 'b", "a \"b", "a <<E", "a $((1))", "a $(b", "f() { a; }"]
        {
            assert_eq!(read(line), None, "{line}");
        }
    }
}
