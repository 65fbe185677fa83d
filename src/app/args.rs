//! The two command lines, and how their words become values.

use std::process::ExitCode;

use clap::Parser;
use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::output::{self, WRONG, fault_json};
use crate::config::{Service, ServicePorts, defaults, is_interface};
use crate::core::address::is_host;
use crate::core::types::{Fault, PortRange, ServiceName};
use crate::keys::authorized::is_name;

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
    error.exit()
}

/// `ssh=22/tcp`, `mosh=22/tcp,60000-61000/udp`.
fn service(text: &str) -> Result<Service, String> {
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

fn host(text: &str) -> Result<String, String> {
    checked(text, is_host(text), "write a host name or an IP address, without a port")
}

fn interface(text: &str) -> Result<String, String> {
    checked(text, is_interface(text), "write an interface name as `ip link` shows it, or any")
}

fn checked(text: &str, fits: bool, remedy: &str) -> Result<String, String> {
    if fits { Ok(text.to_owned()) } else { Err(remedy.to_owned()) }
}

/// A day (its first second in UTC) or a moment, as seconds since the epoch.
fn moment(text: &str) -> Result<u64, String> {
    let parsed = match text.parse::<Timestamp>() {
        Ok(moment) => Ok(moment),
        Err(_) => text.parse::<Date>().and_then(start_of_day),
    };
    if let Ok(moment) = parsed
        && let Ok(seconds) = u64::try_from(moment.as_second())
    {
        return Ok(seconds);
    }
    Err("write a day as 2027-01-31 or a moment as 2027-01-31T12:00:00Z".to_owned())
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

    #[test]
    fn services_and_moments_are_read_as_people_write_them() {
        let mosh = service("mosh=22/tcp,60000-61000/udp").unwrap();
        assert_eq!(mosh.name.as_str(), "mosh");
        assert_eq!(mosh.ports.texts(), ["22/tcp", "60000-61000/udp"]);
        for bad in ["web", "web=", "web=443", "WEB=1/tcp", "a=1/tcp,", "a=2-1/tcp"] {
            assert!(service(bad).is_err(), "{bad}");
        }
        assert_eq!(moment("2027-01-01"), Ok(1_798_761_600));
        assert_eq!(moment("2027-01-01T00:00:01Z"), Ok(1_798_761_601));
        assert!(moment("tomorrow").is_err() && moment("1960-01-01").is_err());
    }
}
