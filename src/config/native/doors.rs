//! Section `[door.NAME]` of toctocd.toml: classic doors in our own form.
//! See `config::knockd` for those of a knockd.conf.

use toml::Spanned;

use super::parts::{NamedSection, in_order};
use super::raw::{List, Named, RawDoor};
use super::{absolute, ip_address, number, start_of};
use crate::core::diagnostic::SourceText;
use crate::core::door::{DOORS, Door, Place, STEPS, Step, TcpFlags, is_shipped};
use crate::core::service::Service;
use crate::core::types::{Fault, ServiceName};

/// The most bytes of a door's name.
const NAME: usize = 127;

/// The remedy for a sequence that everybody knows.
pub const OWN_SEQUENCE: &str = "choose numbers of your own, at least three and not in rising \
    order: sequence = [\"NUMBER/tcp\", \"NUMBER/udp\", \"NUMBER/tcp\"]";

const EXAMPLE: &str = "write for example sequence = [\"7001/tcp\", \"8002/udp\", \"9003/tcp\"], \
    with numbers of your own";

/// SYN without ACK: the first packet of a connection, and nothing that a server itself provokes.
const SYN: TcpFlags = TcpFlags { set: 2, unset: 16 };

/// Reads all doors, in the order of the files and in them.
pub(super) fn doors(
    raw: Vec<(SourceText<'_>, Named<RawDoor>)>, services: &[Service],
) -> Result<Vec<Door>, Fault> {
    let sections = in_order(raw, "door", DOORS)?;
    sections.into_iter().map(|section| door(section, services)).collect()
}

fn door(
    NamedSection { file, name, raw }: NamedSection<'_, RawDoor>, services: &[Service],
) -> Result<Door, Fault> {
    let start = name.span().start;
    let name = name.into_inner();
    if !(1..=NAME).contains(&name.len()) || name.chars().any(char::is_control) {
        let remedy = "use 1 to 127 bytes without control characters";
        return Err(file.complain(start, "not a door name", remedy));
    }
    opens_one_way(file, start, &raw)?;
    let place = Place { file: file.label.to_owned(), line: file.place(start).0 };
    let mut door = Door { name, native: true, flags: SYN, place, ..Door::default() };
    match (raw.sequence, raw.one_time_sequences) {
        (Some(_), Some(path)) => {
            let what = "a door has either a sequence or a file of them";
            let remedy = "remove one of the two";
            return Err(file.complain(path.span().start, what, remedy));
        }
        (None, None) => return Err(file.complain(start, "a door without a sequence", EXAMPLE)),
        (Some(list), None) => door.sequence = sequence(file, &list)?,
        (None, Some(path)) => {
            door.one_time_sequences = Some(absolute(file, path, "one_time_sequences")?);
        }
    }
    door.seq_timeout = number(file, raw.seq_timeout, "seq_timeout", 1..=86_400, 10)?;
    if let Some(words) = raw.tcpflags {
        door.flags = flags(file, words)?;
    }
    door.start_command = raw.start_command.map(Spanned::into_inner);
    door.start_command_6 = raw.start_command_6.map(Spanned::into_inner);
    door.stop_command = raw.stop_command.map(Spanned::into_inner);
    door.stop_command_6 = raw.stop_command_6.map(Spanned::into_inner);
    let cmd_timeout = door.cmd_timeout;
    door.cmd_timeout = number(file, raw.cmd_timeout, "cmd_timeout", 0..=31_536_000, cmd_timeout)?;
    if let Some(target) = raw.target {
        let remedy = "write one address, without a prefix length";
        // In the one spelling that counts.
        door.target = Some(ip_address(file, &target, remedy)?.to_string());
    }
    if let Some(name) = raw.service {
        door.service = Some(service(file, &name, services)?);
    }
    // Repeated SYNs are welcome by default: closed ports that drop, browsers, slow links.
    door.tolerate_duplicates = raw.tolerate_duplicates.unwrap_or(true);
    door.pause_after = number(file, raw.pause_after, "pause_after", 0..=86_400, 0)?;
    Ok(door)
}

/// A key of commands beside `service` would never count, and the admin might rely on it.
fn opens_one_way(file: SourceText<'_>, start: usize, raw: &RawDoor) -> Result<(), Fault> {
    let starts = start_of(&raw.start_command).or(start_of(&raw.start_command_6));
    let stops = start_of(&raw.stop_command).or(start_of(&raw.stop_command_6));
    let command = starts.or(stops).or(start_of(&raw.cmd_timeout));
    match (command, &raw.service) {
        (Some(command), Some(_)) => Err(file.complain(
            command,
            "a door opens either by commands or by a service",
            "remove `service`, or all commands and `cmd_timeout`",
        )),
        (_, None) if starts.is_none() => Err(file.complain(
            start,
            "a door that opens nothing",
            "give it `service = \"NAME\"` of a [service.NAME], or a `start_command`",
        )),
        _ => Ok(()),
    }
}

fn sequence(file: SourceText<'_>, list: &Spanned<List>) -> Result<Vec<Step>, Fault> {
    let at = list.span().start;
    let mut steps = Vec::new();
    for text in list.get_ref() {
        let Some(step) = Step::read(text.get_ref()) else {
            let remedy = "write 7001/tcp, 7001/udp or icmp:64";
            return Err(file.complain(text.span().start, "not a step of a sequence", remedy));
        };
        steps.push(step);
    }
    if !(1..=STEPS).contains(&steps.len()) {
        let remedy = format!("1 to {STEPS}; better 3 and more");
        return Err(file.complain(at, format!("a sequence of {} steps", steps.len()), remedy));
    }
    if is_shipped(&steps) {
        let what = "the sequence that knockd ships: every scanner knows it";
        return Err(file.complain(at, what, OWN_SEQUENCE));
    }
    Ok(steps)
}

/// Flags in the notation of toctocd.toml.
pub fn flag_words(flags: TcpFlags) -> Vec<String> {
    let mut words = Vec::new();
    for (bit, name) in TcpFlags::NAMES.iter().enumerate() {
        let name = name.to_ascii_lowercase();
        if flags.set >> bit & 1 == 1 {
            words.push(name);
        } else if flags.unset >> bit & 1 == 1 {
            words.push(format!("!{name}"));
        }
    }
    words
}

fn flags(file: SourceText<'_>, words: List) -> Result<TcpFlags, Fault> {
    let mut flags = TcpFlags::default();
    for word in words {
        let at = word.span().start;
        let text = word.get_ref();
        let name = text.strip_prefix('!').unwrap_or(text);
        let index = TcpFlags::NAMES.iter().position(|known| known.eq_ignore_ascii_case(name));
        let Some(bit) = index else {
            let remedy = "use fin, syn, rst, psh, ack, urg, with ! for not";
            return Err(file.complain(at, "not a TCP flag", remedy));
        };
        if (flags.set | flags.unset) >> bit & 1 == 1 {
            return Err(file.complain(at, "this flag is named twice", "remove one of the two"));
        }
        flags.ask(1 << bit, name == text);
    }
    Ok(flags)
}

fn service(
    file: SourceText<'_>, name: &Spanned<String>, services: &[Service],
) -> Result<ServiceName, Fault> {
    let at = name.span().start;
    match services.iter().find(|service| service.name.as_str() == name.get_ref()) {
        None => {
            let known = services.iter().map(|service| service.name.as_str());
            Err(file.complain_unknown(at, "service", name.get_ref(), known))
        }
        Some(service) if service.commands.is_some() => Err(file.complain(
            at,
            format!("service `{}` is a command service", service.name),
            "give the door a `start_command` and a `stop_command`",
        )),
        Some(service) => Ok(service.name),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;
    use crate::config::{Settings, print};

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
    fn a_mistake_is_refused_at_its_place() {
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
        for key in ["start_command_6", "stop_command", "stop_command_6"] {
            let told = door(&format!("{one}service = \"ssh\"\n{key} = \"x\""));
            assert!(told.ends_with(": a door opens either by commands or by a service"), "{told}");
        }
        let told = door(&format!("{one}cmd_timeout = 5\nservice = \"ssh\""));
        assert_eq!(told, "t.toml:5:15: a door opens either by commands or by a service");
        let told = door(&format!("{one}stop_command = \"x\""));
        assert_eq!(told, "t.toml:3:7: a door that opens nothing");
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
                .contains("not a door name")
        );
    }
}
