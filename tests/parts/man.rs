//! The manual pages against the code: the programs' pages are made of the command lines' own
//! definitions, and the pages of the configuration and of a profile are held against what their
//! readers take.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command as Program;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use toctoc::app::args::{toctoc as client, toctocd as gateway};
use toctoc::config::{native, print};
use toctoc::core::door::Step;
use toctoc::core::types::Fault;
use toctoc::keys::profile::{Fallback, Profile};

use crate::client_user;

/// A file below man/.
fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("man").join(name)
}

/// The page of a program: its definitions, command by command, and behind them what is written by
/// hand.
fn page(mut command: Command, section: &str, manual: &str, by_hand: &str) -> String {
    command.build();
    let name = command.get_name().to_owned();
    let mut text =
        ".\\\" Made by `make man` of the definitions in src/app/args; do not edit.\n".to_owned();
    let root = quiet(&command);
    let man = Man::new(root.clone());
    text += &format!(".TH {} {section} \"\" toctoc \"{manual}\"\n", name.to_uppercase());
    text += &rendered(|out| man.render_name_section(out));
    text += &format!(".SH SYNOPSIS\n\\fB{name}\\fR [\\fIoptions\\fR] \\fIcommand\\fR ...\n");
    text += &rendered(|out| man.render_description_section(out));
    text += ".SH COMMANDS\n";
    leaves(&command, &mut text);
    text += &rendered(|out| man.render_options_section(out));
    text += &verbatim(".SH NOTES", root.get_after_help());
    text + by_hand
}

/// Every command that does something, by its usage, with its options.
fn leaves(command: &Command, text: &mut String) {
    for sub in
        command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
    {
        if sub.has_subcommands() {
            leaves(sub, text);
            continue;
        }
        let usage = sub.clone().render_usage().to_string();
        *text += &format!(".SS {}\n", escaped(usage.trim_start_matches("Usage: ")));
        let man = Man::new(quiet(sub));
        *text += without_heading(&rendered(|out| man.render_description_section(out)));
        *text += without_heading(&rendered(|out| man.render_options_section(out)));
        *text += &verbatim(".PP", sub.get_after_help());
    }
}

/// Without what every command has: `--help`, and the options that stand with the program.
fn quiet(command: &Command) -> Command {
    let is_root = command.get_name().starts_with("toctoc");
    let hidden = |id: &str, global: bool| id == "help" || id == "version" || global && !is_root;
    command.clone().mut_args(|arg| {
        let hide = hidden(arg.get_id().as_str(), arg.is_global_set());
        arg.hide(hide)
    })
}

fn rendered(render: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>) -> String {
    let mut out = Vec::new();
    render(&mut out).unwrap();
    // An apostrophe is a string that each whole page would define for itself; the plain character
    // needs no definition.
    let lines = String::from_utf8(out).unwrap().replace("\\*(Aq", "\\(aq");
    lines
        .lines()
        .filter(|line| !line.starts_with(".ie") && !line.starts_with(".el"))
        .flat_map(|l| [l, "\n"])
        .collect()
}

fn without_heading(text: &str) -> &str {
    text.strip_prefix(".SH").and_then(|rest| rest.split_once('\n')).map_or(text, |(_, rest)| rest)
}

fn verbatim(heading: &str, help: Option<&clap::builder::StyledStr>) -> String {
    let lines = help.map(|help| escaped(&help.to_string())).filter(|help| !help.is_empty());
    lines.map(|lines| format!("{heading}\n.nf\n{lines}\n.fi\n")).unwrap_or_default()
}

/// Text that roff takes as it is.
fn escaped(text: &str) -> String {
    let line = |line: &str| {
        let plain = line
            .replace('\\', "\\e")
            .replace('-', "\\-")
            .replace('\'', "\\(aq")
            .replace('~', "\\(ti");
        if plain.starts_with('.') { format!("\\&{plain}") } else { plain }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

const TOCTOCD: &str = "\
.SH SIGNALS
HUP has
.B toctocd run
read its configuration again, as
.B toctocd reload
does.
TERM and INT end it: grants stay until their time is over, and the guard stays.
.SH FILES
.I /etc/toctoc/toctocd.toml
.br
.I /etc/toctoc/gateway.key
and
.IR /etc/toctoc/clients :
secrets, and who may knock
.br
.IR /var/lib/toctoc :
used timestamps and live grants
.br
.IR /run/toctoc/control :
where the commands reach the running gateway
.SH SEE ALSO
.BR toctocd.toml (5),
.BR toctoc (1),
.BR toctoc\\-knockd.conf (5),
.BR nft (8)
";

const TOCTOC: &str = "\
.SH FILES
.I $XDG_CONFIG_HOME/toctoc
(by default
.IR ~/.config/toctoc ):
.I profiles/NAME.toml
and
.I id_ed25519
.br
.I ~/.ssh/id_ed25519
and
.IR ~/.ssh/id_ed25519_sk :
the keys that are tried next
.SH ENVIRONMENT
.B SSH_AUTH_SOCK
is the ssh\\-agent that is asked for the key, before the files above and before any passphrase.
An
.B IdentityAgent
in
.I ~/.ssh/config
that is for every host is asked first
.SH SEE ALSO
.BR toctoc\\-profile (5),
.BR toctocd (8),
.BR ssh\\-keygen (1),
.BR ssh\\-agent (1)
";

#[test]
fn the_pages_of_the_programs_are_what_their_definitions_say() {
    let write = std::env::var_os("TOCTOC_MAN").is_some();
    for (name, text) in [
        ("toctocd.8", page(gateway::ToctocdArgs::command(), "8", "System administration", TOCTOCD)),
        ("toctoc.1", page(client::ToctocCommand::command(), "1", "User commands", TOCTOC)),
    ] {
        if write {
            fs::write(file(name), &text).unwrap();
        }
        let committed = fs::read_to_string(file(name)).unwrap_or_default();
        assert!(
            committed == text,
            "man/{name} is not what src/app/args says now: run `make man` and commit it"
        );
    }
}

#[test]
fn every_page_is_rendered_without_a_warning() {
    let mut pages = 0;
    for entry in fs::read_dir(file("")).unwrap() {
        let path = entry.unwrap().path();
        let output = Program::new("groff").args(["-man", "-Tutf8", "-ww"]).arg(&path).output();
        let output = output.expect("groff is there: tools/setup installs it");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{}: {said}", path.display());
        assert!(!output.stdout.is_empty());
        pages += 1;
    }
    assert!(pages >= 7, "{pages} pages");
}

/// What the page says of one key.
#[derive(Debug)]
struct Key {
    range: Option<(i64, i64)>,
    required: bool,
    /// As it would stand in the file.
    default: Option<String>,
}

/// All keys of a page, by section and name.
fn documented(page: &str) -> BTreeMap<(String, String), Key> {
    let text = fs::read_to_string(file(page)).unwrap();
    let (mut section, mut keys) = (String::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix(".SS [").and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim_end_matches(".NAME").to_owned();
        }
        let Some((name, rest)) =
            line.strip_prefix("\\fB").and_then(|rest| rest.split_once("\\fR = "))
        else {
            continue;
        };
        let (_, facts) = rest.rsplit_once(" [").expect("facts in brackets");
        let facts = facts.strip_suffix(']').expect("facts in brackets");
        let number = |text: &str| text.parse::<i64>().ok();
        let range = facts.split(';').next().and_then(|range| range.split_once(" to "));
        let range = range.and_then(|(low, high)| Some((number(low)?, number(high)?)));
        let default = facts
            .split_once("default ")
            .filter(|_| facts != "no default")
            .map(|(_, value)| value.to_owned());
        let key = Key { range, required: facts == "required", default };
        let twice = keys.insert((section.clone(), name.to_owned()), key);
        assert!(twice.is_none(), "[{section}] {name} stands there twice");
    }
    keys
}

/// A configuration that uses no key that it need not, as the least that its sections can hold.
const LEAST: &str = "[service.x]\nports = [\"22/tcp\"]\n[door.x]\nsequence = [\"7001/tcp\"]\nstart_command = \"true\"\n";

/// The keys that the parser takes in a section, by its own error for an unknown key.
fn parsed_keys(section: &str) -> BTreeSet<String> {
    let header = match section {
        "" => String::new(),
        "service" | "door" | "hook" => format!("[{section}.x]\n"),
        _ => format!("[{section}]\n"),
    };
    let fault = native::parse("t.toml", &format!("{header}zzzzzzzzzzzz = 1\n")).unwrap_err();
    known_keys(&fault)
}

/// The keys that a parser's error for an unknown key lists.
fn known_keys(fault: &Fault) -> BTreeSet<String> {
    let known = fault.remedy.strip_prefix("known here: ").expect("a list of keys");
    known.split(", ").map(str::to_owned).collect()
}

#[test]
fn every_key_that_the_parser_takes_is_in_the_template_and_in_the_page_and_no_other() {
    let sections = parsed_keys("");
    let mut parsed = BTreeSet::from([(String::new(), "include".to_owned())]);
    for section in sections.iter().filter(|section| *section != "include") {
        for key in parsed_keys(section) {
            parsed.insert((section.clone(), key));
        }
    }
    assert!(parsed.len() > 45, "{parsed:?}");
    let mut template = BTreeSet::new();
    let mut section = String::new();
    for line in print::TEMPLATE.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.split('.').next().unwrap().to_owned();
        }
        let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ") else { continue };
        if key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
            template.insert((section.clone(), key.to_owned()));
        }
    }
    assert_eq!(template, parsed, "src/config/toctocd.toml on the left, the parser on the right");
    let documented: BTreeSet<_> = documented("toctocd.toml.5").into_keys().collect();
    assert_eq!(documented, parsed, "man/toctocd.toml.5 on the left, the parser on the right");
}

#[test]
fn the_page_of_the_configuration_has_the_ranges_and_defaults_of_the_code() {
    let defaults: toml::Table =
        toml::from_str(&print::print(&native::parse("least", LEAST).unwrap())).unwrap();
    for ((section, name), key) in documented("toctocd.toml.5") {
        let table = defaults.get(&section).map(|table| table.get("x").unwrap_or(table));
        if let Some(default) = key.default {
            let stated: toml::Table = toml::from_str(&format!("v = {default}")).expect("a value");
            assert_eq!(
                table.and_then(|table| table.get(&name)),
                Some(&stated["v"]),
                "the default of [{section}] {name}"
            );
        }
        let Some((low, high)) = key.range else { continue };
        let takes = |number: i64| {
            let mut file: toml::Table = toml::from_str(LEAST).unwrap();
            let table =
                file.entry(&section).or_insert(toml::Table::new().into()).as_table_mut().unwrap();
            let table =
                if table.contains_key("x") { table["x"].as_table_mut().unwrap() } else { table };
            if name == "max_seconds" {
                table.insert("seconds".into(), 1.into());
            }
            table.insert(name.clone(), number.into());
            native::parse("range", &toml::to_string(&file).unwrap()).is_ok()
        };
        assert!(takes(low) && takes(high), "[{section}] {name} takes {low} and {high}");
        assert!(
            !takes(low - 1) && !takes(high + 1),
            "[{section}] {name} takes nothing beyond {low} to {high}"
        );
    }
}

#[test]
fn every_key_of_a_profile_is_in_its_page_which_says_if_it_is_required() {
    let parsed = known_keys(&Profile::parse("p", "zzzzzzzzzzzz = 1\n").err().expect("a fault"));
    let documented = documented("toctoc-profile.5");
    let names: BTreeSet<String> = documented.keys().map(|(_, name)| name.clone()).collect();
    assert_eq!(names, parsed, "man/toctoc-profile.5 on the left, the parser on the right");

    let fallback = Fallback { sequence: vec![Step::tcp(7411)], offer: false };
    let profile = Profile {
        identity: Some("key".into()),
        agent: Some("socket".into()),
        expires: Some(2_000_000_000),
        fallback: Some(fallback),
        ..client_user::profile(9)
    };
    let whole = profile.print();
    let begins = |line: &str, name: &str| line.starts_with(&format!("{name} = "));
    for ((_, name), key) in documented {
        // `classic` makes no sense without a `sequence`.
        let goes =
            |line: &&str| begins(line, &name) || name == "sequence" && begins(line, "classic");
        assert!(whole.lines().any(|line| begins(line, &name)), "{name}: a profile can have it");
        let left: Vec<&str> = whole.lines().filter(|line| !goes(line)).collect();
        let read = Profile::parse("p", &left.join("\n"));
        assert_eq!(read.is_err(), key.required, "the page's word on `{name}`");
    }
}
