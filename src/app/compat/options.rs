//! knockd's command line.

use super::getopt::{Opt, OptPart, parts};
use crate::app::output::CommandOutput;
use crate::config::knockd::cut;

/// knockd's options, in the order in which getopt lists the possible ones for an abbreviation.
const OPTIONS: [Opt; 11] = [
    Opt { short: 'i', long: "interface", takes: true },
    Opt { short: 'D', long: "debug", takes: false },
    Opt { short: 'd', long: "daemon", takes: false },
    Opt { short: 'c', long: "config", takes: true },
    Opt { short: 'l', long: "lookup", takes: false },
    Opt { short: 'p', long: "pidfile", takes: true },
    Opt { short: 'g', long: "logfile", takes: true },
    Opt { short: 'v', long: "verbose", takes: false },
    Opt { short: '4', long: "only-ip-v4", takes: false },
    Opt { short: 'V', long: "version", takes: false },
    Opt { short: 'h', long: "help", takes: false },
];

/// Printed to standard output by `-h`, and if the command line or the configuration is wrong.
pub(super) const USAGE: &str = "\
usage: knockd [options]

  -i, --interface NAME   listen there (default: Interface in the configuration, else eth0)
  -c, --config FILE      the doors (default: /etc/knockd.conf)
  -d, --daemon           go to the background once everything listens
  -p, --pidfile FILE     with -d (default: /var/run/knockd.pid; PidFile in the configuration wins)
  -g, --logfile FILE     log there (LogFile in the configuration wins)
  -4, --only-ip-v4       leave IPv6 alone
  -l, --lookup           host names in the log
  -v, --verbose          the log on standard output too
  -D, --debug            every step on standard output
  -V, --version          whose version this is
  -h, --help             this text

This is toctoc under the name knockd. Doors that cannot be overheard: `toctocd init`, and see `toctocd --help`.
";

/// The longest interface name, in bytes; the rest is ignored.
const INTERFACE: usize = 31;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KnockdOptions {
    pub(super) interface: Option<String>,
    pub(super) config: String,
    pub(super) pid_file: String,
    pub(super) log_file: Option<String>,
    pub(super) daemon: bool,
    pub(super) debug: bool,
    pub(super) lookup: bool,
    pub(super) verbose: bool,
    pub(super) only_ipv4: bool,
}

/// Reads the words after the program's name. `Err`: no daemon is wanted, only these texts.
///
/// COMPAT: a wrong option exits with status 0, words that are no options are ignored, and `-V` and
/// `-h` take effect as soon as they are reached.
pub(super) fn read(
    program: &str, words: impl IntoIterator<Item = String>,
) -> Result<KnockdOptions, CommandOutput> {
    let mut options = KnockdOptions {
        config: "/etc/knockd.conf".into(),
        pid_file: "/var/run/knockd.pid".into(),
        ..KnockdOptions::default()
    };
    for part in parts(program, &OPTIONS, words) {
        match part {
            OptPart::Flag('d') => options.daemon = true,
            OptPart::Flag('D') => options.debug = true,
            OptPart::Flag('l') => options.lookup = true,
            OptPart::Flag('v') => options.verbose = true,
            OptPart::Flag('4') => options.only_ipv4 = true,
            OptPart::Flag('V') => return Err(CommandOutput::out(super::version("knockd"))),
            OptPart::Flag(_) => return Err(CommandOutput::out(USAGE.into())),
            OptPart::Wrong(text) => {
                let err = format!("{text}\n");
                return Err(CommandOutput { err, ..CommandOutput::out(USAGE.into()) });
            }
            OptPart::With('i', name) => options.interface = given(cut(&name, INTERFACE)),
            OptPart::With('c', path) => options.config = path,
            OptPart::With('p', path) => options.pid_file = path,
            OptPart::With(_, path) => options.log_file = given(&path),
            OptPart::Word(_) => {}
        }
    }
    Ok(options)
}

/// `None` for an empty argument.
fn given(text: &str) -> Option<String> {
    if text.is_empty() { None } else { Some(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_line(line: &str) -> Result<KnockdOptions, CommandOutput> {
        read("knockd", line.split_whitespace().map(String::from))
    }

    #[test]
    fn every_option_is_read_and_words_are_ignored() {
        let expected = KnockdOptions {
            interface: Some("eth1".into()),
            config: "/c".into(),
            pid_file: "/p".into(),
            log_file: Some("/l".into()),
            daemon: true,
            debug: true,
            lookup: true,
            verbose: true,
            only_ipv4: true,
        };
        let read = |line: &str| read_line(line).ok().unwrap();
        assert_eq!(read("-dDlv4 -i eth1 -c/c word --pidfile=/p --logf /l"), expected);
        assert_eq!(read("--interface="), read(""));
        assert_eq!(read("").config, "/etc/knockd.conf");
        let long = format!("-i {}", "x".repeat(40));
        assert_eq!(read(&long).interface, Some("x".repeat(31)));
    }

    #[test]
    fn version_help_and_mistakes_exit_at_once() {
        let printed = |line: &str| {
            let output = read_line(line).unwrap_err();
            (output.out.to_string(), output.err)
        };
        assert!(printed("-D -V -x").0.starts_with("knockd 0.8 "));
        assert!(printed("-h -V").0.starts_with("usage: knockd [options]"));
        assert_eq!(printed("-x"), (USAGE.into(), "knockd: invalid option -- 'x'\n".into()));
        assert_eq!(printed("-c").1, "knockd: option requires an argument -- 'c'\n");
        assert_eq!(
            printed("--d").1,
            "knockd: option '--d' is ambiguous; possibilities: '--debug' '--daemon'\n",
            "in knockd's order"
        );
        for option in OPTIONS {
            assert!(
                USAGE.contains(&format!("-{}, --{} ", option.short, option.long)),
                "{}",
                option.long
            );
        }
    }
}
