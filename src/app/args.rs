//! The two command lines, and how their words become values.

use std::net::IpAddr;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use jiff::{Span, Timestamp, civil::Date, tz::TimeZone};

use super::output::{self, WRONG, fault_json};
use crate::config::duration::duration;
use crate::config::{Service, ServicePorts, defaults, is_interface};
use crate::core::address::is_host;
use crate::core::columns::COLUMNS;
use crate::core::hours::Hours;
use crate::core::prefix::Prefix;
use crate::core::types::{Fault, Fingerprint, PortRange, ServiceName};
use crate::edge::zones;
use crate::keys::authorized::{is_name, limits};
use crate::keys::invitation::is_gateway_name;
use crate::keys::public::parse_fingerprint;

pub mod toctoc;
pub mod toctocd;

/// The words of this process's command line; otherwise its exit code, the reason being printed: as
/// JSON if one of the words asks for that.
pub fn parse<A: Parser>() -> Result<A, ExitCode> {
    let error = match A::try_parse() {
        Ok(args) => return Ok(args),
        Err(error) => error,
    };
    if error.use_stderr() && std::env::args_os().any(|word| word == "--json") {
        let text = error.to_string();
        let mut parts = text.trim_start_matches("error: ").split("\n\n");
        let fault = Fault::new(parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        output::print(&format!("{:#}\n", fault_json(&fault)));
        return Err(ExitCode::from(WRONG));
    }
    if !error.use_stderr() {
        error.exit();
    }
    let text = error.to_string();
    match text.lines().all(|line| line.chars().count() <= COLUMNS) {
        // In colours, where those are wanted. Nobody is left to tell if standard error is closed.
        true => drop(error.print()),
        false => output::print_error(&text),
    }
    if error.kind() == ErrorKind::InvalidSubcommand {
        output::print_error(&commands(A::command()));
    }
    Err(ExitCode::from(WRONG))
}

/// The commands among which one was mistyped, in lines of 80 columns.
fn commands(mut level: clap::Command) -> String {
    for word in std::env::args().skip(1) {
        if let Some(sub) = level.find_subcommand(&word) {
            level = sub.clone();
        }
    }
    let mut text = "Commands:".to_owned();
    let mut column = text.len();
    for name in level.get_subcommands().filter(|sub| !sub.is_hide_set()).map(|sub| sub.get_name()) {
        if column + 1 + name.len() > 79 {
            text += "\n         ";
            column = 9;
        }
        text += &format!(" {name}");
        column += 1 + name.len();
    }
    text + "\n"
}

/// `ssh=22/tcp`, `mosh=22/tcp,60000-61000/udp`.
pub(super) fn service(text: &str) -> Result<Service, String> {
    let Some((name, list)) = text.split_once('=') else {
        return Err("write it as NAME=PORT/PROTO, for example ssh=22/tcp".to_owned());
    };
    let mut ports = Vec::new();
    for port in list.split(',') {
        match PortRange::read(port) {
            Some(range) => ports.push(range),
            None => {
                return Err(format!(
                    "`{port}` is not a port; write for example 22/tcp or 60000-61000/udp"
                ));
            }
        }
    }
    Ok(defaults::service(service_name(name)?, ServicePorts::Listed(ports)))
}

fn service_name(text: &str) -> Result<ServiceName, String> {
    match ServiceName::new(text) {
        Some(name) => Ok(name),
        None => Err(format!("`{text}` is not a service name; use 1 to 31 of a-z 0-9 . _ -")),
    }
}

fn client_name(text: &str) -> Result<String, String> {
    let remedy = "use one word of up to 64 letters, digits, and . _ @ + -";
    checked(text, is_name(text), remedy)
}

/// A client, or a door by its word.
fn holder(text: &str) -> Result<String, String> {
    let is_door = text.strip_prefix("door:").is_some_and(|door| !door.is_empty());
    let remedy = "write a client's name, or door:NAME, as `toctocd grants` shows it";
    checked(text, is_door || is_name(text), remedy)
}

/// The name of a grant. Which one it is, the gateway knows.
fn grant_name(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once('@').and_then(|(left, address)| {
        let (holder, service) = left.rsplit_once('/')?;
        (ServiceName::new(service).is_some() && !address.is_empty()).then_some(holder)
    });
    let remedy = "write it as CLIENT/SERVICE@ADDRESS, as `toctocd grants` shows it";
    checked(text, parts.is_some_and(|name| holder(name).is_ok()), remedy)
}

/// An address, or a prefix.
fn address(text: &str) -> Result<String, String> {
    let is_address = text.parse::<IpAddr>().is_ok() || Prefix::parse(text).is_some();
    checked(text, is_address, "write an IP address, or a network as 203.0.113.0/24")
}

fn gateway_name(text: &str) -> Result<String, String> {
    checked(text, is_gateway_name(text), "use one word of up to 32 of a-z 0-9 -, and no - first")
}

fn fingerprint(text: &str) -> Result<Fingerprint, String> {
    let remedy =
        "write SHA256: and 43 letters and digits, as `toctoc join` or `ssh-keygen -l` shows it";
    parse_fingerprint(text).ok_or_else(|| remedy.to_owned())
}

fn host(text: &str) -> Result<String, String> {
    checked(text, is_host(text), "write a host name or an IP address, without a port")
}

fn interface(text: &str) -> Result<String, String> {
    checked(text, is_interface(text), "write an interface name as `ip link` shows it, or any")
}

fn checked(text: &str, fits: bool, remedy: &str) -> Result<String, String> {
    if fits { Ok(text.to_owned()) } else { Err(remedy.to_owned()) }
}

/// Hours of the week.
fn hours(text: &str) -> Result<Hours, String> {
    let written = text.replace('"', "");
    limits::hours(&written, &zones::find)
        .map_err(|what| format!("{what}; write for example Mon-Fri 08:00-18:00 Europe/Berlin"))
}

/// Addresses and networks.
fn prefixes(text: &str) -> Result<toctocd::Prefixes, String> {
    let remedy = "write addresses and networks as 203.0.113.7,2001:db8::/48";
    limits::from(text).map(toctocd::Prefixes).ok_or_else(|| remedy.to_owned())
}

/// The length of a grant, in seconds.
fn grant_seconds(text: &str) -> Result<u32, String> {
    let remedy = "write a time from 1s to 7d, such as 90s, 5m or 1h";
    match duration(text) {
        Some(seconds @ 1..=604_800) => Ok(seconds),
        _ => Err(remedy.to_owned()),
    }
}

/// The length of a trial, in seconds; 0 for none.
fn trial_seconds(text: &str) -> Result<u32, String> {
    match duration(text) {
        Some(seconds @ 0..=86_400) => Ok(seconds),
        _ => Err("write a time up to 24h, such as 5m or 300; 0 for no trial".to_owned()),
    }
}

/// A moment in the future, in seconds since the epoch: a day (its first second in UTC), a moment,
/// or a duration from now on.
fn expiry(text: &str) -> Result<u64, String> {
    moment_after(text, Timestamp::now())
}

/// As [`expiry`]. A duration may have months and years here: they are those of the calendar.
fn moment_after(text: &str, now: Timestamp) -> Result<u64, String> {
    let parsed = match (text.parse::<Timestamp>(), text.parse::<Date>(), text.parse::<Span>()) {
        (Ok(moment), _, _) => Ok(moment),
        (_, Ok(date), _) => start_of_day(date),
        (_, _, Ok(span)) => after(now, span),
        _ => {
            let example = "a time from now on as 30d, 12h or 1y";
            return Err(format!(
                "write a day as 2027-01-31, a moment as 2027-01-31T12:00:00Z, or {example}"
            ));
        }
    };
    match parsed.map(|moment| (moment > now, u64::try_from(moment.as_second()))) {
        Ok((true, Ok(seconds))) => Ok(seconds),
        Ok((false, _)) => Err("that time is over; name one in the future".to_owned()),
        _ => Err("that time is beyond the calendar; name an earlier one".to_owned()),
    }
}

fn after(now: Timestamp, span: Span) -> Result<Timestamp, jiff::Error> {
    Ok(now.to_zoned(TimeZone::UTC).checked_add(span)?.timestamp())
}

fn start_of_day(date: Date) -> Result<Timestamp, jiff::Error> {
    Ok(date.to_zoned(TimeZone::UTC)?.timestamp())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn both_command_lines_are_sound() {
        toctoc::ToctocCommand::command().debug_assert();
        toctocd::ToctocdArgs::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_says_what_it_is() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments().filter(|a| !a.is_hide_set()) {
                assert!(
                    argument.get_help().is_some(),
                    "{} {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
            for sub in command.get_subcommands().filter(|s| !s.is_hide_set()) {
                assert!(sub.get_about().is_some(), "{}", sub.get_name());
                check(sub);
            }
        }
        check(&toctoc::ToctocCommand::command());
        check(&toctocd::ToctocdArgs::command());
    }

    /// What stands below the help of each command of both programs: program, text.
    fn texts() -> Vec<(String, String)> {
        fn add(command: &clap::Command, program: &str, texts: &mut Vec<(String, String)>) {
            if let Some(text) = command.get_after_help() {
                texts.push((program.to_owned(), text.to_string()));
            }
            command.get_subcommands().for_each(|sub| add(sub, program, texts));
        }
        let mut texts = Vec::new();
        add(&toctoc::ToctocCommand::command(), "toctoc", &mut texts);
        add(&toctocd::ToctocdArgs::command(), "toctocd", &mut texts);
        assert!(texts.len() > 9, "found {}", texts.len());
        texts
    }

    #[test]
    fn the_text_below_the_help_fits_into_80_columns() {
        for (_, text) in texts() {
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
        }
    }

    #[test]
    fn the_examples_of_the_help_are_commands_that_can_be_pasted() {
        let mut examples = 0;
        for (program, text) in texts() {
            // A line may go on below.
            let text = text.replace("\\\n", " ");
            for line in text.lines().filter(|line| line.starts_with(&format!("  {program} "))) {
                let command = line.split(['>', '|']).next().unwrap_or_default();
                let command = command.replace("SHA256:...", &format!("SHA256:{}", "A".repeat(43)));
                let words: Vec<String> = command
                    .replace("'ssh-ed25519 AAAA... me@laptop'", "KEY")
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect();
                let parsed = match program.as_str() {
                    "toctoc" => toctoc::ToctocCommand::try_parse_from(words).err(),
                    _ => toctocd::ToctocdArgs::try_parse_from(words).err(),
                };
                assert!(parsed.is_none(), "{line}: {parsed:?}");
                examples += 1;
            }
        }
        assert!(examples > 20, "found {examples} examples");
    }

    #[test]
    fn services_are_read_as_people_write_them() {
        let mosh = service("mosh=22/tcp,60000-61000/udp").unwrap();
        assert_eq!(mosh.name.as_str(), "mosh");
        assert_eq!(mosh.ports.texts(), ["22/tcp", "60000-61000/udp"]);
        for bad in ["web", "web=", "web=443", "WEB=1/tcp", "a=1/tcp,", "a=2-1/tcp"] {
            assert!(service(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("0", 0),
            ("90", 90),
            ("90s", 90),
            ("5m", 300),
            ("5 minutes", 300),
            ("1h", 3600),
            ("1h30m", 5400),
            ("1.5h", 5400),
            ("30d", 30 * 86_400),
            ("2w", 14 * 86_400),
        ] {
            assert_eq!(duration(text), Some(seconds), "{text}");
        }
        for bad in ["", "-5m", "5m ago", "5x", "m", "1.5s", "1mo", "5000000000", "200y", "1e9d"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        assert_eq!((grant_seconds("7d"), grant_seconds("1")), (Ok(604_800), Ok(1)));
        for bad in ["0", "8d", "604801", "soon"] {
            assert!(grant_seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_expiry_is_a_day_a_moment_or_a_time_from_now_on_and_never_past() {
        let now: Timestamp = "2026-11-29T10:00:00.5Z".parse().unwrap();
        for (text, moment) in [
            ("2027-01-01", "2027-01-01T00:00:00Z"),
            ("2027-01-01T00:00:01Z", "2027-01-01T00:00:01Z"),
            ("2027-01-01T01:00:00+01:00", "2027-01-01T00:00:00Z"),
            ("30d", "2026-12-29T10:00:00Z"),
            ("12h", "2026-11-29T22:00:00Z"),
            ("1y", "2027-11-29T10:00:00Z"),
            ("3mo", "2027-02-28T10:00:00Z"),
        ] {
            let moment: Timestamp = moment.parse().unwrap();
            let seconds = u64::try_from(moment.as_second()).unwrap();
            assert_eq!(moment_after(text, now), Ok(seconds), "{text}");
        }
        for past in ["2020-01-01", "2026-11-29", "2026-11-29T10:00:00Z", "1960-01-01", "-1d", "0s"]
        {
            let said = moment_after(past, now).unwrap_err();
            assert!(said.contains("is over"), "{past}: {said}");
        }
        for bad in ["tomorrow", "30", "", "99999y"] {
            assert!(moment_after(bad, now).is_err(), "{bad}");
        }
    }
}
