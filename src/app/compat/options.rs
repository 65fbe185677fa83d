//! knockd's command line.
//! Doing what it asks is left to the daemon.

use super::getopt::{Opt, OptPart, parts};

/// knockd's options, in the order in which getopt names those that a shortened one may mean.
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

/// Printed on stdout by `-h`, and whenever the command line or the configuration is wrong.
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

/// Bytes of an interface's name that count.
const INTERFACE: usize = 31;

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnockdOptions {
    /// `-i`, unless empty.
    pub(super) interface: Option<String>,
    /// `-c`.
    pub(super) config: String,
    /// `-p`.
    pub(super) pid_file: String,
    /// `-g`, unless empty.
    pub(super) log_file: Option<String>,
    /// `-d`.
    pub(super) daemon: bool,
    /// `-D`.
    pub(super) debug: bool,
    /// `-l`.
    pub(super) lookup: bool,
    /// `-v`.
    pub(super) verbose: bool,
    /// `-4`.
    pub(super) only_ipv4: bool,
}

impl Default for KnockdOptions {
    fn default() -> Self {
        Self {
            interface: None,
            config: "/etc/knockd.conf".into(),
            pid_file: "/var/run/knockd.pid".into(),
            log_file: None,
            daemon: false,
            debug: false,
            lookup: false,
            verbose: false,
            only_ipv4: false,
        }
    }
}

/// What to do with a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Serve.
    Serve(KnockdOptions),
    /// Print this on stdout, that on stderr, and leave with status 0.
    Say {
        /// For stdout.
        out: String,
        /// For stderr.
        err: String,
    },
}

/// Reads the words behind the program's name.
///
/// COMPAT: a wrong option ends with status 0, words that are no options are ignored, `-V` and `-h`
/// count as soon as they are reached.
pub(super) fn read(program: &str, words: impl IntoIterator<Item = String>) -> Asked {
    let mut options = KnockdOptions::default();
    for part in parts(program, &OPTIONS, words) {
        match part {
            OptPart::Flag('d') => options.daemon = true,
            OptPart::Flag('D') => options.debug = true,
            OptPart::Flag('l') => options.lookup = true,
            OptPart::Flag('v') => options.verbose = true,
            OptPart::Flag('4') => options.only_ipv4 = true,
            OptPart::Flag('V') => {
                return Asked::Say { out: super::version("knockd"), err: String::new() };
            }
            OptPart::Flag(_) => return Asked::Say { out: USAGE.into(), err: String::new() },
            OptPart::Wrong(text) => {
                return Asked::Say { out: USAGE.into(), err: format!("{text}\n") };
            }
            OptPart::With('i', name) => {
                options.interface = some(&name).map(|name| cut(name, INTERFACE).into())
            }
            OptPart::With('c', path) => options.config = path,
            OptPart::With('p', path) => options.pid_file = path,
            OptPart::With(_, path) => options.log_file = some(&path).map(Into::into),
            OptPart::Word(_) => {}
        }
    }
    Asked::Serve(options)
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn cut(text: &str, limit: usize) -> &str {
    (0..=limit).rev().find_map(|end| text.get(..end.min(text.len()))).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_line(line: &str) -> Asked {
        read("knockd", line.split_whitespace().map(String::from))
    }

    #[test]
    fn every_option_has_its_place_and_words_are_ignored() {
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
        assert_eq!(
            read_line("-dDlv4 -i eth1 -c/c word --pidfile=/p --logf /l"),
            Asked::Serve(expected)
        );
        assert_eq!(read_line("--interface="), Asked::Serve(KnockdOptions::default()));
        let long = format!("-i {}", "x".repeat(40));
        assert!(
            matches!(read_line(&long), Asked::Serve(options) if options.interface == Some("x".repeat(31)))
        );
    }

    #[test]
    fn version_help_and_mistakes_end_at_once() {
        let said = |line: &str| match read_line(line) {
            Asked::Say { out, err } => (out, err),
            Asked::Serve(options) => panic!("{options:?}"),
        };
        assert!(said("-D -V -x").0.starts_with("knockd 0.8 "));
        assert!(said("-h -V").0.starts_with("usage: knockd [options]"));
        assert_eq!(said("-x"), (USAGE.into(), "knockd: invalid option -- 'x'\n".into()));
        assert_eq!(said("-c").1, "knockd: option requires an argument -- 'c'\n");
        assert_eq!(
            said("--d").1,
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
