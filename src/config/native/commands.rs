//! `start` and `stop` of a `[service.NAME]`: programs with their arguments, in the place of ports.
//! What else such a section may have is left to `services`, running them to `core::openings` and
//! `edge::command`.

use std::net::{IpAddr, Ipv6Addr};

use toml::Spanned;

use super::services::RawService;
use crate::config::ServiceCommands;
use crate::core::diagnostic::SourceText;
use crate::core::openings::{COMMAND, CommandLine};
use crate::core::types::Fault;

pub(super) type RawCommand = Option<Spanned<Vec<Spanned<String>>>>;

/// How many arguments a command may have, the program among them.
const ARGUMENTS: usize = 64;
const EXAMPLE: &str = "write for example start = [\"/usr/sbin/ipset\", \"add\", \"vpn\", \"%IP%\"]";

/// The commands of a section, if it has any; then nothing that only our own table can do.
pub(super) fn commands(
    file: SourceText<'_>,
    at: usize,
    raw: &mut RawService,
) -> Result<Option<ServiceCommands>, Fault> {
    let (start, stop) = match (raw.start.take(), raw.stop.take()) {
        (None, None) => return Ok(None),
        (Some(start), Some(stop)) => (start, stop),
        (Some(start), None) => {
            let remedy =
                "write stop = [...]; where nothing is to be undone, stop = [\"/bin/true\"]";
            return Err(file.complain(
                start.span().start,
                "a `start` without a `stop`: nothing would end a grant",
                remedy,
            ));
        }
        (None, Some(_)) => {
            return Err(file.complain(
                at,
                "a `stop` without a `start`: nothing would open",
                EXAMPLE,
            ));
        }
    };
    only_commands(file, raw)?;
    Ok(Some(ServiceCommands {
        start: command(file, start, "start")?,
        stop: command(file, stop, "stop")?,
    }))
}

/// Refuses what would promise something that no command can be held to.
fn only_commands(file: SourceText<'_>, raw: &RawService) -> Result<(), Fault> {
    let place = |at: Option<usize>, key: &str, why: &str, remedy: &str| match at {
        Some(at) => Err(file.complain(at, format!("`{key}` beside commands: {why}"), remedy)),
        None => Ok(()),
    };
    let remove = "remove it";
    let ports = "what they open is theirs to know";
    let split = "make two services, one of ports and one of commands; a client may have both";
    place(raw.ports.as_ref().map(|at| at.span().start), "ports", ports, split)?;
    place(
        raw.mode.as_ref().map(|at| at.span().start),
        "mode",
        "there is no port to guard or to mark",
        remove,
    )?;
    place(
        raw.form.as_ref().map(|at| at.span().start),
        "form",
        "a grant of commands is for a time",
        remove,
    )?;
    let net = "%IP% is one address";
    place(raw.grant_prefix.as_ref().map(|at| at.span().start), "grant_prefix", net, remove)?;
    let cut = "which connections are meant only they know";
    place(
        raw.cut.as_ref().map(|at| at.span().start),
        "cut",
        cut,
        "remove it; the stop command may cut them",
    )?;
    let lead = "there is no port to lead elsewhere";
    place(raw.forward.as_ref().map(|at| at.span().start), "forward", lead, remove)?;
    place(raw.masquerade.as_ref().map(|at| at.span().start), "masquerade", lead, remove)
}

fn command(
    file: SourceText<'_>,
    argv: Spanned<Vec<Spanned<String>>>,
    key: &str,
) -> Result<Vec<String>, Fault> {
    let start = argv.span().start;
    let argv = argv.into_inner();
    let Some(program) = argv.first() else {
        return Err(file.complain(start, format!("`{key}` is empty"), EXAMPLE));
    };
    if !program.get_ref().starts_with('/') || program.get_ref().contains("%IP%") {
        let remedy = "begin with its path, as in \"/usr/sbin/ipset\"; for a shell write [\"/bin/sh\", \"-c\", \"...\"]";
        return Err(file.complain(
            program.span().start,
            format!("`{key}` names no program by an absolute path"),
            remedy,
        ));
    }
    if argv.len() > ARGUMENTS {
        let what = format!("`{key}` has more than {ARGUMENTS} arguments");
        return Err(file.complain(start, what, "put the command into a script and name that"));
    }
    if let Some(at) = argv.iter().find(|argument| argument.get_ref().contains('\0')) {
        return Err(file.complain(
            at.span().start,
            "a NUL, which no argument can have in it",
            "remove it",
        ));
    }
    let argv: Vec<String> = argv.into_iter().map(Spanned::into_inner).collect();
    // The longest text that an address has.
    let longest = IpAddr::V6(Ipv6Addr::from([0xffff; 8]));
    if CommandLine::argv(&argv, longest).is_none() {
        let what = format!("`{key}` can be longer than {COMMAND} bytes");
        return Err(file.complain(start, what, "put the command into a script and name that"));
    }
    Ok(argv)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use crate::config::Service;

    const VPN: &str = "[service.vpn]\nstart = [\"/usr/sbin/ipset\", \"add\", \"vpn\", \"%IP%\"]\n\
                       stop = [\"/usr/sbin/ipset\", \"del\", \"vpn\", \"%IP%\"]\n";

    #[test]
    fn a_service_of_commands_has_them_word_for_word_and_no_port() {
        let text = format!("[firewall]\nmode = \"mark\"\n{VPN}seconds = 600\nchallenge = true\n");
        let Service { ports, commands, mode, seconds, .. } =
            parse("t.toml", &text).unwrap().services.remove(0);
        let commands = commands.unwrap();
        assert_eq!(commands.start, ["/usr/sbin/ipset", "add", "vpn", "%IP%"]);
        assert_eq!(commands.stop, ["/usr/sbin/ipset", "del", "vpn", "%IP%"]);
        assert_eq!((ports.len(), seconds), (0, 600));
        assert_eq!(
            mode,
            crate::config::Mode::Guard,
            "it is not the firewall's, so it asks for no rule of mark mode"
        );
    }

    #[test]
    fn what_no_command_can_keep_is_refused_where_it_stands() {
        for (key, what) in [
            ("ports = [\"22/tcp\"]", "`ports` beside commands: what they open is theirs to know"),
            ("mode = \"mark\"", "`mode` beside commands: there is no port to guard or to mark"),
            ("form = \"time\"", "`form` beside commands: a grant of commands is for a time"),
            ("grant_prefix = 64", "`grant_prefix` beside commands: %IP% is one address"),
            (
                "cut = \"close\"",
                "`cut` beside commands: which connections are meant only they know",
            ),
            (
                "forward = \"192.168.1.10:3389\"",
                "`forward` beside commands: there is no port to lead elsewhere",
            ),
            (
                "masquerade = false",
                "`masquerade` beside commands: there is no port to lead elsewhere",
            ),
        ] {
            let fault = parse("t.toml", &format!("{VPN}{key}\n")).unwrap_err();
            let column = key.find(" = ").unwrap() + 4;
            assert_eq!(fault.what, format!("t.toml:4:{column}: {what}"));
            assert!(!fault.remedy.is_empty());
        }
    }

    #[test]
    fn a_command_that_could_not_be_run_is_refused_where_it_stands() {
        let good = "[\"/x\"]";
        let long = format!("[\"/x\", \"{}\"]", "%IP%".repeat(110));
        let many = format!("[\"/x\"{}]", ", \"y\"".repeat(64));
        for (start, stop, what) in [
            (Some(good), None, "2:9: a `start` without a `stop`: nothing would end a grant"),
            (None, Some(good), "1:10: a `stop` without a `start`: nothing would open"),
            (Some("[]"), Some(good), "2:9: `start` is empty"),
            (Some(good), Some("[]"), "3:8: `stop` is empty"),
            (
                Some("[\"ipset\", \"add\"]"),
                Some(good),
                "2:10: `start` names no program by an absolute path",
            ),
            (
                Some("[\"/bin/%IP%\"]"),
                Some(good),
                "2:10: `start` names no program by an absolute path",
            ),
            (
                Some(good),
                Some("[\"/x\", \"a\\u0000b\"]"),
                "3:15: a NUL, which no argument can have in it",
            ),
            (Some(&long), Some(good), "2:9: `start` can be longer than 4095 bytes"),
            (Some(&many), Some(good), "2:9: `start` has more than 64 arguments"),
        ] {
            let line = |key: &str, value: Option<&str>| {
                value.map_or(String::new(), |value| format!("{key} = {value}\n"))
            };
            let text = format!("[service.x]\n{}{}", line("start", start), line("stop", stop));
            let fault = parse("t.toml", &text).unwrap_err();
            assert_eq!(fault.what, format!("t.toml:{what}"), "{text}");
            assert!(!fault.remedy.is_empty());
        }
    }

    #[test]
    fn a_door_leads_to_no_service_of_commands() {
        let text =
            format!("{VPN}[door.d]\nsequence = [\"7411/tcp\", \"2833/udp\"]\nservice = \"vpn\"\n");
        let fault = parse("t.toml", &text).unwrap_err();
        assert_eq!(
            fault.what,
            "t.toml:6:11: service `vpn` is one of commands, which a door has itself"
        );
        assert!(fault.remedy.contains("start_command"));
    }
}
