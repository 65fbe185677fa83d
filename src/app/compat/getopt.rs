//! A command line as C's `getopt_long` parses it, with glibc's messages.

#[derive(Clone, Copy, Debug)]
pub(super) struct Opt {
    /// The letter after one dash; it identifies the option here.
    pub(super) short: char,
    pub(super) long: &'static str,
    pub(super) takes: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OptPart {
    Flag(char),
    With(char, String),
    /// A word that belongs to no option.
    Word(String),
    /// A mistake: getopt's message for standard error.
    Wrong(String),
}

/// Parses `words`, without the program's name. Options and words keep their order. As with GNU,
/// options may come after words, and everything after `--` is a word.
pub(super) fn parts(
    program: &str, options: &[Opt], words: impl IntoIterator<Item = String>,
) -> Vec<OptPart> {
    let mut parts = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word == "--" {
            parts.extend(words.by_ref().map(OptPart::Word));
        } else if let Some(long) = word.strip_prefix("--") {
            parts.push(long_option(program, options, long, &mut words));
        } else if word.len() > 1 && word.starts_with('-') {
            short_options(program, options, &word[1..], &mut words, &mut parts);
        } else {
            parts.push(OptPart::Word(word));
        }
    }
    parts
}

fn short_options(
    program: &str, options: &[Opt], cluster: &str, words: &mut impl Iterator<Item = String>,
    parts: &mut Vec<OptPart>,
) {
    let mut letters = cluster.chars();
    while let Some(letter) = letters.next() {
        let Some(option) = options.iter().find(|option| option.short == letter) else {
            parts.push(OptPart::Wrong(format!("{program}: invalid option -- '{letter}'")));
            continue;
        };
        if !option.takes {
            parts.push(OptPart::Flag(letter));
            continue;
        }
        let argument = match letters.as_str() {
            "" => words.next(),
            rest => Some(rest.to_owned()),
        };
        parts.push(match argument {
            Some(argument) => OptPart::With(letter, argument),
            None => OptPart::Wrong(format!("{program}: option requires an argument -- '{letter}'")),
        });
        return;
    }
}

fn long_option(
    program: &str, options: &[Opt], text: &str, words: &mut impl Iterator<Item = String>,
) -> OptPart {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    let option = match options.iter().find(|option| option.long == name) {
        Some(option) => option,
        None => {
            let possible: Vec<&Opt> =
                options.iter().filter(|option| option.long.starts_with(name)).collect();
            match possible[..] {
                [] => return OptPart::Wrong(format!("{program}: unrecognized option '--{name}'")),
                [option] => option,
                _ => {
                    let list: String =
                        possible.iter().map(|option| format!(" '--{}'", option.long)).collect();
                    return OptPart::Wrong(format!(
                        "{program}: option '--{text}' is ambiguous; possibilities:{list}"
                    ));
                }
            }
        }
    };
    let long = option.long;
    match (option.takes, value) {
        (false, None) => OptPart::Flag(option.short),
        (false, Some(_)) => {
            OptPart::Wrong(format!("{program}: option '--{long}' doesn't allow an argument"))
        }
        (true, value) => match value.or_else(|| words.next()) {
            Some(value) => OptPart::With(option.short, value),
            None => OptPart::Wrong(format!("{program}: option '--{long}' requires an argument")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: [Opt; 4] = [
        Opt { short: 'v', long: "verbose", takes: false },
        Opt { short: 'V', long: "version", takes: false },
        Opt { short: 'c', long: "config", takes: true },
        Opt { short: 'd', long: "delay", takes: true },
    ];

    fn shown(line: &str) -> Vec<String> {
        let show = |part| match part {
            OptPart::Flag(letter) => letter.to_string(),
            OptPart::With(letter, argument) => format!("{letter}={argument}"),
            OptPart::Word(word) => format!("({word})"),
            OptPart::Wrong(text) => text,
        };
        parts("p", &OPTIONS, line.split_whitespace().map(String::from))
            .into_iter()
            .map(show)
            .collect()
    }

    #[test]
    fn bundles_prefixes_and_permutation_work_as_with_gnu() {
        assert_eq!(
            shown("-vc x w -cy --conf=z --con q --verb -d -5 - -- -v"),
            ["v", "c=x", "(w)", "c=y", "c=z", "c=q", "v", "d=-5", "(-)", "(-v)"]
        );
        assert_eq!(shown("--config= -vdc"), ["c=", "v", "d=c"]);
    }

    #[test]
    fn mistakes_have_the_messages_of_gnu() {
        assert_eq!(
            shown("-xv -d"),
            ["p: invalid option -- 'x'", "v", "p: option requires an argument -- 'd'"]
        );
        assert_eq!(
            shown("--nonsense=3 --delay"),
            ["p: unrecognized option '--nonsense'", "p: option '--delay' requires an argument"]
        );
        assert_eq!(
            shown("--verbose=1 --ver"),
            [
                "p: option '--verbose' doesn't allow an argument",
                "p: option '--ver' is ambiguous; possibilities: '--verbose' '--version'"
            ]
        );
    }

    #[test]
    fn an_exact_name_wins_over_a_longer_one_and_an_empty_argument_is_one() {
        let options = [
            Opt { short: 'd', long: "debug", takes: false },
            Opt { short: 'e', long: "debug-all", takes: true },
        ];
        let read = |line: &str| parts("p", &options, line.split(' ').map(String::from));
        assert_eq!(read("--debug"), [OptPart::Flag('d')]);
        assert_eq!(read("--debug-all="), [OptPart::With('e', String::new())]);
        assert_eq!(read("--debug-a x"), [OptPart::With('e', "x".into())]);
        assert_eq!(read("-e "), [OptPart::With('e', String::new())], "an empty word");
    }

    #[test]
    fn a_double_dash_ends_the_options_and_a_single_dash_is_a_word() {
        assert_eq!(shown("-d -- -v"), ["d=--", "v"], "an argument may be --");
        assert_eq!(shown("- -- -- -v"), ["(-)", "(--)", "(-v)"]);
        assert_eq!(shown("-v- x"), ["v", "p: invalid option -- '-'", "(x)"]);
    }
}
