//! A command line as C's `getopt_long` takes it apart, with its messages.
//! What the options mean is left to the callers.

/// One option of a program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opt {
    /// The letter behind one dash, which names the option here.
    pub(super) short: char,
    /// The word behind two dashes.
    pub(super) long: &'static str,
    /// Whether an argument follows.
    pub(super) takes: bool,
}

/// One part of a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OptPart {
    /// An option without an argument.
    Flag(char),
    /// An option with its argument.
    With(char, String),
    /// A word that belongs to no option.
    Word(String),
    /// What getopt says on stderr.
    Wrong(String),
}

/// Takes `words`, without the program's name, apart. Options and words keep their order; as with
/// GNU, options may stand behind words, and everything behind `--` is a word.
pub(super) fn parts(
    program: &str,
    options: &[Opt],
    words: impl IntoIterator<Item = String>,
) -> Vec<OptPart> {
    let (mut parts, mut words) = (Vec::new(), words.into_iter());
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
    program: &str,
    options: &[Opt],
    cluster: &str,
    words: &mut impl Iterator<Item = String>,
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
        let rest = letters.as_str();
        let argument = if rest.is_empty() { words.next() } else { Some(rest.to_string()) };
        parts.push(argument.map_or_else(
            || OptPart::Wrong(format!("{program}: option requires an argument -- '{letter}'")),
            |argument| OptPart::With(letter, argument),
        ));
        return;
    }
}

fn long_option(
    program: &str,
    options: &[Opt],
    text: &str,
    words: &mut impl Iterator<Item = String>,
) -> OptPart {
    let (name, value) =
        text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value.to_string())));
    let begun = || options.iter().filter(|option| option.long.starts_with(name));
    let exact = options.iter().find(|option| option.long == name);
    let Some(option) = exact.or_else(|| begun().next()) else {
        return OptPart::Wrong(format!("{program}: unrecognized option '--{name}'"));
    };
    if exact.is_none() && begun().count() > 1 {
        let possible: String = begun().map(|option| format!(" '--{}'", option.long)).collect();
        return OptPart::Wrong(format!(
            "{program}: option '--{text}' is ambiguous; possibilities:{possible}"
        ));
    }
    match (option.takes, value) {
        (false, None) => OptPart::Flag(option.short),
        (false, Some(_)) => OptPart::Wrong(format!(
            "{program}: option '--{}' doesn't allow an argument",
            option.long
        )),
        (true, value) => value.or_else(|| words.next()).map_or_else(
            || {
                OptPart::Wrong(format!(
                    "{program}: option '--{}' requires an argument",
                    option.long
                ))
            },
            |value| OptPart::With(option.short, value),
        ),
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
    fn mistakes_are_told_in_gnus_words() {
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
}
