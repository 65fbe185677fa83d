//! A command ready to run: a line for a shell, or a program with its arguments.
//! See `edge::command` for running it.

use std::fmt;
use std::net::IpAddr;

use super::COMMAND;
use crate::core::address::as_text;

const IP: &str = "%IP%";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// For `/bin/sh -c`.
    Shell(String),
    /// For no shell: an absolute path of a program, then its arguments.
    Argv(Vec<String>),
}

/// A shell's command that does nothing.
impl Default for CommandLine {
    fn default() -> Self {
        CommandLine::Shell(String::new())
    }
}

impl CommandLine {
    /// Replaces every `%IP%` by the address. Nothing is quoted: an address has no character that is
    /// special to a shell. `None` if the result is longer than [`COMMAND`].
    pub(super) fn shell(text: &str, source: IpAddr) -> Option<CommandLine> {
        let text = text.replace(IP, &as_text(source));
        if text.len() <= COMMAND { Some(CommandLine::Shell(text)) } else { None }
    }

    /// The same in each argument. One argument stays one, whatever is in it.
    pub fn argv(argv: &[String], source: IpAddr) -> Option<CommandLine> {
        let address = as_text(source);
        let argv: Vec<String> =
            argv.iter().map(|argument| argument.replace(IP, &address)).collect();
        // Each with the NUL that ends it, as in the journal and for the kernel.
        let length: usize = argv.iter().map(|argument| argument.len() + 1).sum();
        if length <= COMMAND { Some(CommandLine::Argv(argv)) } else { None }
    }
}

/// For the log: a shell's line as it is, an argument in quotes where it could be taken for more
/// than one.
impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandLine::Shell(text) => f.write_str(text),
            CommandLine::Argv(argv) => {
                let shown: Vec<String> = argv.iter().map(|argument| show(argument)).collect();
                f.write_str(&shown.join(" "))
            }
        }
    }
}

fn show(argument: &str) -> String {
    if !argument.is_empty() && argument.chars().all(is_plain) {
        argument.to_owned()
    } else {
        format!("{argument:?}")
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "%+,-./:=@_".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn argv(argv: &[&str], source: &str) -> Option<CommandLine> {
        let argv: Vec<String> = argv.iter().map(|argument| (*argument).to_owned()).collect();
        CommandLine::argv(&argv, source.parse().unwrap())
    }

    #[test]
    fn an_argument_stays_one_argument_whatever_it_contains() {
        let given = ["/bin/x", "a b", "$(reboot); %IP%", "%IP%/32,%IP%", "", "%ip%"];
        let command = argv(&given, "192.0.2.7").unwrap();
        let meant = ["/bin/x", "a b", "$(reboot); 192.0.2.7", "192.0.2.7/32,192.0.2.7", "", "%ip%"];
        assert_eq!(command, CommandLine::Argv(meant.map(str::to_owned).to_vec()));
        let shown = r#"/bin/x "a b" "$(reboot); 192.0.2.7" 192.0.2.7/32,192.0.2.7 "" %ip%"#;
        assert_eq!(command.to_string(), shown);
        assert_eq!(
            argv(&["/bin/x", "a\nb"], "192.0.2.7").unwrap().to_string(),
            r#"/bin/x "a\nb""#,
            "one line of the log"
        );
    }

    #[test]
    fn a_command_that_becomes_too_long_is_refused() {
        let long = "x".repeat(COMMAND - "/x".len() - 2);
        assert!(argv(&["/x", &long], "192.0.2.7").is_some());
        assert_eq!(argv(&["/x", &(long + "x")], "192.0.2.7"), None);
        assert_eq!(argv(&["/x", &"%IP%".repeat(500)], "192.0.2.7"), None);
    }

    proptest! {
        #[test]
        fn whatever_a_packets_source_a_command_gets_a_canonical_address_and_nothing_else(v4: [u8; 4], v6: [u8; 16]) {
            for source in [IpAddr::from(v4), IpAddr::from(v6)] {
                let Some(CommandLine::Shell(text)) = CommandLine::shell("'%IP%' \"%IP%\" $(%IP%)", source) else { panic!() };
                let address = text.split('\'').nth(1).unwrap();
                prop_assert_eq!(address.parse(), Ok(source));
                prop_assert!(address.chars().all(|c| c.is_ascii_hexdigit() || ".:".contains(c)), "{}", address);
                prop_assert_eq!(&text, &format!("'{address}' \"{address}\" $({address})"));
                prop_assert_eq!(argv(&["%IP%"], address), Some(CommandLine::Argv(vec![address.to_owned()])));
            }
        }
    }
}
