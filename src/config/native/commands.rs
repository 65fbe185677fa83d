//! `start` and `stop` of a command service: programs with their arguments.
//! See `core::openings` and `edge::command` for running them.

use std::net::{IpAddr, Ipv6Addr};

use toml::Spanned;

use super::raw::{List, RawService};
use super::start_of;
use crate::config::ServiceCommands;
use crate::core::diagnostic::SourceText;
use crate::core::openings::{COMMAND, CommandLine};
use crate::core::types::Fault;

/// The most words of a command, the program among them.
const ARGUMENTS: usize = 64;
const EXAMPLE: &str = "write for example start = [\"/usr/sbin/ipset\", \"add\", \"vpn\", \"%IP%\"]";

/// The commands of a section that begins at `at`, if it has any. Then it may have no key that only
/// our own table can keep.
pub(super) fn commands(
    file: SourceText<'_>, at: usize, raw: &RawService,
) -> Result<Option<ServiceCommands>, Fault> {
    match (&raw.start, &raw.stop) {
        (None, None) => Ok(None),
        (Some(start), Some(stop)) => {
            only_commands(file, raw)?;
            let start = command(file, start, "start")?;
            let stop = command(file, stop, "stop")?;
            Ok(Some(ServiceCommands { start, stop }))
        }
        (Some(start), None) => Err(file.complain(
            start.span().start,
            "a `start` without a `stop`: nothing would end a grant",
            "write stop = [...]; if there is nothing to undo, stop = [\"/bin/true\"]",
        )),
        (None, Some(_)) => {
            Err(file.complain(at, "a `stop` without a `start`: nothing would open", EXAMPLE))
        }
    }
}

/// Refuses keys that promise what no command can be held to.
fn only_commands(file: SourceText<'_>, raw: &RawService) -> Result<(), Fault> {
    let no_target = "there is no port to forward";
    for (at, key, why, remedy) in [
        (
            start_of(&raw.ports),
            "ports",
            "commands open what they like",
            "make two services, one with ports and one with commands; a client may have both",
        ),
        (start_of(&raw.mode), "mode", "there is no port to guard or to mark", "remove it"),
        (start_of(&raw.form), "form", "a grant of commands is for a time", "remove it"),
        (start_of(&raw.grant_prefix), "grant_prefix", "%IP% is one address", "remove it"),
        (
            start_of(&raw.cut),
            "cut",
            "only the commands know which connections to cut",
            "remove it; the stop command may cut them",
        ),
        (start_of(&raw.forward), "forward", no_target, "remove it"),
        (start_of(&raw.masquerade), "masquerade", no_target, "remove it"),
    ] {
        if let Some(at) = at {
            return Err(file.complain(at, format!("`{key}` beside commands: {why}"), remedy));
        }
    }
    Ok(())
}

/// A program and its arguments.
pub(super) fn command(
    file: SourceText<'_>, list: &Spanned<List>, key: &str,
) -> Result<Vec<String>, Fault> {
    let start = list.span().start;
    let list = list.get_ref();
    let Some(program) = list.first() else {
        return Err(file.complain(start, format!("`{key}` is empty"), EXAMPLE));
    };
    if !program.get_ref().starts_with('/') || program.get_ref().contains("%IP%") {
        return Err(file.complain(
            program.span().start,
            format!("`{key}` names no program by an absolute path"),
            "begin with its path, as in \"/usr/sbin/ipset\"; \
             for a shell write [\"/bin/sh\", \"-c\", \"...\"]",
        ));
    }
    let use_script = "put the command into a script and name that";
    if list.len() > ARGUMENTS {
        let what = format!("`{key}` has more than {ARGUMENTS} arguments");
        return Err(file.complain(start, what, use_script));
    }
    let mut argv = Vec::new();
    for argument in list {
        if argument.get_ref().contains('\0') {
            let what = "a NUL, which no argument can contain";
            return Err(file.complain(argument.span().start, what, "remove it"));
        }
        argv.push(argument.get_ref().clone());
    }
    // The longest text that an address has.
    let longest = IpAddr::V6(Ipv6Addr::from([0xffff; 8]));
    if CommandLine::argv(&argv, longest).is_none() {
        let what = format!("`{key}` can be longer than {COMMAND} bytes");
        return Err(file.complain(start, what, use_script));
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
    fn a_command_service_has_its_commands_word_for_word_and_no_port() {
        let text = format!("[firewall]\nmode = \"mark\"\n{VPN}seconds = 600\nchallenge = true\n");
        let Service { ports, commands, mode, seconds, .. } =
            parse("t.toml", &text).unwrap().services.remove(0);
        let commands = commands.unwrap();
        assert_eq!(commands.start, ["/usr/sbin/ipset", "add", "vpn", "%IP%"]);
        assert_eq!(commands.stop, ["/usr/sbin/ipset", "del", "vpn", "%IP%"]);
        assert!(ports.is_empty() && seconds == 600);
        assert_eq!(mode, crate::config::Mode::Guard, "it needs no rule of mark mode");
    }

    #[test]
    fn a_key_that_no_command_can_keep_is_refused_at_its_place() {
        for (key, what) in [
            ("ports = [\"22/tcp\"]", "`ports` beside commands: commands open what they like"),
            ("mode = \"mark\"", "`mode` beside commands: there is no port to guard or to mark"),
            ("form = \"time\"", "`form` beside commands: a grant of commands is for a time"),
            ("grant_prefix = 64", "`grant_prefix` beside commands: %IP% is one address"),
            (
                "cut = \"close\"",
                "`cut` beside commands: only the commands know which connections to cut",
            ),
            (
                "forward = \"192.168.1.10:3389\"",
                "`forward` beside commands: there is no port to forward",
            ),
            ("masquerade = false", "`masquerade` beside commands: there is no port to forward"),
        ] {
            let fault = parse("t.toml", &format!("{VPN}{key}\n")).unwrap_err();
            let column = key.find(" = ").unwrap() + 4;
            assert_eq!(fault.what, format!("t.toml:4:{column}: {what}"));
            assert!(!fault.remedy.is_empty());
        }
    }

    #[test]
    fn a_command_that_could_not_be_run_is_refused_at_its_place() {
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
                "3:15: a NUL, which no argument can contain",
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
    fn a_door_grants_no_command_service() {
        let text =
            format!("{VPN}[door.d]\nsequence = [\"7411/tcp\", \"2833/udp\"]\nservice = \"vpn\"\n");
        let fault = parse("t.toml", &text).unwrap_err();
        assert_eq!(fault.what, "t.toml:6:11: service `vpn` is a command service");
        assert!(fault.remedy.contains("start_command"));
    }
}
