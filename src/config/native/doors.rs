//! `[door.NAME]` of toctocd.toml: classic doors in our own form.
//! What knockd.conf says of doors is left to `config::knockd`.

use std::net::IpAddr;

use serde::Deserialize;
use toml::Spanned;

use super::{At, Named, absolute, in_order, number};
use crate::core::diagnostic::SourceText;
use crate::core::door::{DOORS, Door, STEPS, Step, TcpFlags, is_shipped};
use crate::core::service::Service;
use crate::core::types::{Fault, ServiceName};

/// Bytes of a door's name.
const NAME: usize = 127;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "section [door.NAME]")]
pub(super) struct RawDoor {
    sequence: Option<Spanned<Vec<Spanned<String>>>>,
    one_time_sequences: At<String>,
    seq_timeout: At<i64>,
    tcpflags: Option<Vec<Spanned<String>>>,
    target: At<String>,
    service: At<String>,
    start_command: At<String>,
    start_command_6: At<String>,
    cmd_timeout: At<i64>,
    stop_command: At<String>,
    stop_command_6: At<String>,
    tolerate_duplicates: Option<bool>,
    pause_after: At<i64>,
}

/// Reads all doors, in the order of the files and in them.
pub(super) fn doors(
    raw: Vec<(SourceText<'_>, Named<RawDoor>)>,
    services: &[Service],
) -> Result<Vec<Door>, Fault> {
    let raw = in_order(raw, "door", DOORS)?;
    raw.into_iter().map(|(file, name, door)| one_door(file, name, door, services)).collect()
}

fn one_door(
    file: SourceText<'_>,
    name: Spanned<String>,
    raw: RawDoor,
    services: &[Service],
) -> Result<Door, Fault> {
    let start = name.span().start;
    let name = name.into_inner();
    if !(1..=NAME).contains(&name.len()) || name.chars().any(char::is_control) {
        return Err(file.complain(
            start,
            "not a door's name",
            "use 1 to 127 bytes without control characters",
        ));
    }
    opens_one_way(file, start, &raw)?;
    let sequence = match (&raw.sequence, &raw.one_time_sequences) {
        (Some(_), Some(at)) => {
            let remedy = "remove one of the two";
            return Err(file.complain(
                at.span().start,
                "a door has either a sequence or a file of them",
                remedy,
            ));
        }
        (None, None) => return Err(file.complain(start, "a door without a sequence", SEQUENCE)),
        (Some(list), None) => sequence(file, list)?,
        (None, Some(_)) => Vec::new(),
    };
    let default = Door::default();
    let text = |value: At<String>| value.map(Spanned::into_inner);
    Ok(Door {
        name,
        sequence,
        seq_timeout: number(file, raw.seq_timeout, "seq_timeout", 1..=86_400, 10_i64)?,
        flags: raw.tcpflags.map_or(Ok(SYN), |words| flags(file, words))?,
        start_command: text(raw.start_command),
        start_command_6: text(raw.start_command_6),
        cmd_timeout: number(
            file,
            raw.cmd_timeout,
            "cmd_timeout",
            0..=31_536_000,
            default.cmd_timeout,
        )?,
        stop_command: text(raw.stop_command),
        stop_command_6: text(raw.stop_command_6),
        target: raw.target.map(|target| address(file, &target)).transpose()?,
        one_time_sequences: raw
            .one_time_sequences
            .map(|path| absolute(file, path, "one_time_sequences"))
            .transpose()?,
        service: raw.service.map(|service| known(file, &service, services)).transpose()?,
        // Here repeated SYNs are welcome unless somebody minds: closed ports that drop, browsers,
        // slow links.
        tolerate_duplicates: raw.tolerate_duplicates.unwrap_or(true),
        pause_after: number(file, raw.pause_after, "pause_after", 0..=86_400, 0)?,
        native: true,
        ..default
    })
}

/// What to do about a sequence that is everybody's.
pub const OWN_SEQUENCE: &str = "choose numbers of your own, at least three and in no rising order: sequence = [\"NUMBER/tcp\", \"NUMBER/udp\", \"NUMBER/tcp\"]";

const SEQUENCE: &str = "write for example sequence = [\"7001/tcp\", \"8002/udp\", \"9003/tcp\"], with numbers of your own";

/// SYN without ACK: the first packet of a connection, and nothing that a server itself provokes.
const SYN: TcpFlags = TcpFlags { set: 2, unset: 16 };

fn opens_one_way(file: SourceText<'_>, start: usize, raw: &RawDoor) -> Result<(), Fault> {
    let command = raw.start_command.as_ref().or(raw.start_command_6.as_ref());
    match (command, &raw.service) {
        (Some(at), Some(_)) => Err(file.complain(
            at.span().start,
            "a door opens either by commands or by a service",
            "remove `service`, or all commands",
        )),
        (None, None) => Err(file.complain(
            start,
            "a door that opens nothing",
            "give it `service = \"NAME\"` of a [service.NAME], or a `start_command`",
        )),
        _ => Ok(()),
    }
}

fn sequence(
    file: SourceText<'_>,
    list: &Spanned<Vec<Spanned<String>>>,
) -> Result<Vec<Step>, Fault> {
    let at = list.span().start;
    let steps = list.get_ref().iter().map(|text| {
        Step::read(text.get_ref()).ok_or_else(|| {
            file.complain(
                text.span().start,
                "not a step of a sequence",
                "write 7001/tcp, 7001/udp or icmp:64",
            )
        })
    });
    let steps: Vec<Step> = steps.collect::<Result<_, _>>()?;
    if !(1..=STEPS).contains(&steps.len()) {
        return Err(file.complain(
            at,
            format!("a sequence of {} steps", steps.len()),
            format!("1 to {STEPS}; better 3 and more"),
        ));
    }
    if is_shipped(&steps) {
        let what = "the sequence that knockd ships: every scanner knows it";
        return Err(file.complain(at, what, OWN_SEQUENCE));
    }
    Ok(steps)
}

/// Flags as they stand in this form.
pub fn flag_words(flags: TcpFlags) -> Vec<String> {
    let asked = |bit: usize, mask: u8| mask >> bit & 1 == 1;
    let words = TcpFlags::NAMES.iter().enumerate().filter_map(|(bit, name)| {
        let name = name.to_ascii_lowercase();
        let unset = || asked(bit, flags.unset).then(|| format!("!{name}"));
        asked(bit, flags.set).then(|| name.clone()).or_else(unset)
    });
    words.collect()
}

fn flags(file: SourceText<'_>, words: Vec<Spanned<String>>) -> Result<TcpFlags, Fault> {
    let mut flags = TcpFlags::default();
    for word in words {
        let (name, set) = word
            .get_ref()
            .strip_prefix('!')
            .map_or((word.get_ref().as_str(), true), |name| (name, false));
        let found = TcpFlags::NAMES.iter().position(|known| known.eq_ignore_ascii_case(name));
        let Some(bit) = found else {
            return Err(file.complain(
                word.span().start,
                "not a TCP flag",
                "use fin, syn, rst, psh, ack, urg, with ! for not",
            ));
        };
        if (flags.set | flags.unset) >> bit & 1 == 1 {
            return Err(file.complain(
                word.span().start,
                "this flag is named twice",
                "remove one of the two",
            ));
        }
        flags.ask(1 << bit, set);
    }
    Ok(flags)
}

/// In the one spelling that counts.
fn address(file: SourceText<'_>, text: &Spanned<String>) -> Result<String, Fault> {
    text.get_ref().parse::<IpAddr>().map(|ip| ip.to_string()).map_err(|_| {
        file.complain(
            text.span().start,
            "not an IP address",
            "write one address, without a prefix length",
        )
    })
}

fn known(
    file: SourceText<'_>,
    text: &Spanned<String>,
    services: &[Service],
) -> Result<ServiceName, Fault> {
    let found = services.iter().find(|service| service.name.as_str() == text.get_ref());
    let service = found.ok_or_else(|| {
        let names = services.iter().map(|service| service.name.as_str());
        file.complain_unknown(text.span().start, "service", text.get_ref(), names)
    })?;
    if service.commands.is_some() {
        return Err(file.complain(
            text.span().start,
            format!("service `{}` is one of commands, which a door has itself", service.name),
            "give the door a `start_command` and a `stop_command`",
        ));
    }
    Ok(service.name)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;
    use crate::config::{Settings, defaults, print};

    const SERVICE: &str = "[service.ssh]\nports = [\"22/tcp\"]\n";

    fn settings(doors: &str) -> Result<Settings, Fault> {
        parse("t.toml", &format!("{SERVICE}{doors}"))
    }

    #[test]
    fn a_door_with_every_key_comes_back_from_print() {
        let text = "[door.\"front door\"]\nsequence = [\"7001/tcp\", \"icmp:64\", \"7002/udp\"]\nseq_timeout = 7\n\
            tcpflags = [\"syn\", \"!ACK\"]\ntarget = \"2001:DB8::1\"\nstart_command = \"a \\\"%IP%\\\"\"\nstart_command_6 = \"\"\n\
            cmd_timeout = 0\nstop_command = \"b\"\nstop_command_6 = \"c\"\ntolerate_duplicates = false\npause_after = 5\n\
            [door.b]\nsequence = [\"1/tcp\"]\nservice = \"ssh\"\n[door.a]\none_time_sequences = \"/ots\"\nservice = \"ssh\"\n";
        let read = settings(text).unwrap();
        let names: Vec<_> = read.doors.iter().map(|door| door.name.as_str()).collect();
        assert_eq!(names, ["front door", "b", "a"], "in the order of the file");
        assert_eq!(read.doors[0].target.as_deref(), Some("2001:db8::1"));
        assert_eq!(read.doors[1].flags, SYN);
        assert!(read.doors[1].tolerate_duplicates);
        for printed in [print::print(&read), print::print_commented(&read)] {
            assert_eq!(parse("p.toml", &printed).unwrap(), read);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_where_it_stands() {
        let line = |text: &str| settings(text).unwrap_err().what;
        let door = |keys: &str| line(&format!("[door.d]\n{keys}\n"));
        assert_eq!(door("service = \"ssh\""), "t.toml:3:7: a door without a sequence");
        assert_eq!(door("sequence = [\"1/tcp\"]"), "t.toml:3:7: a door that opens nothing");
        assert_eq!(door("sequence = []\nservice = \"ssh\""), "t.toml:4:12: a sequence of 0 steps");
        for bad in
            ["7001", "0/tcp", "7001/sctp", "icmp:", "icmp:65508", "icmp:+5", "7001:tcp", "icmp:064"]
        {
            let told = door(&format!("sequence = [\"{bad}\"]\nservice = \"ssh\""));
            assert_eq!(told, "t.toml:4:13: not a step of a sequence", "{bad}");
        }
        let shipped = "sequence = [\"9000/udp\", \"8000/tcp\", \"7000/tcp\"]\nservice = \"ssh\"";
        assert_eq!(
            door(shipped),
            "t.toml:4:12: the sequence that knockd ships: every scanner knows it"
        );
        let one = "sequence = [\"1/tcp\"]\n";
        assert_eq!(door(&format!("{one}service = \"shh\"")), "t.toml:5:11: unknown service `shh`");
        assert_eq!(
            door(&format!("{one}service = \"ssh\"\nstart_command = \"x\"")),
            "t.toml:6:17: a door opens either by commands or by a service"
        );
        assert_eq!(
            door(&format!("{one}service = \"ssh\"\ntcpflags = [\"sin\"]")),
            "t.toml:6:13: not a TCP flag"
        );
        assert_eq!(
            door(&format!("{one}service = \"ssh\"\ntcpflags = [\"syn\", \"!syn\"]")),
            "t.toml:6:20: this flag is named twice"
        );
        assert_eq!(
            door(&format!("{one}service = \"ssh\"\ntarget = \"10.0.0.0/8\"")),
            "t.toml:6:10: not an IP address"
        );
        assert_eq!(
            door(&format!("{one}service = \"ssh\"\none_time_sequences = \"/x\"")),
            "t.toml:6:22: a door has either a sequence or a file of them"
        );
        assert!(
            line("[door.\"a\\nb\"]\nsequence = [\"1/tcp\"]\nservice = \"ssh\"\n")
                .contains("not a door's name")
        );
    }

    #[test]
    fn no_door_is_no_section() {
        let printed = print::print(&Settings { ..defaults::settings() });
        assert!(!printed.contains("[door"));
    }
}
