//! The program that connects to an open service: which one, and its command line.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::process::{Command, Stdio};

/// What a service is used with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    RemoteDesktop,
    Ssh,
}

const RDP_PORT: u16 = 3389;
const SSH_PORT: u16 = 22;

/// By the port, or else by the name of the service; `None` if neither says it.
pub fn kind(service: &str, port: u16) -> Option<Kind> {
    let service = service.to_ascii_lowercase();
    match port {
        RDP_PORT => Some(Kind::RemoteDesktop),
        SSH_PORT => Some(Kind::Ssh),
        _ if service.contains("rdp") || service.contains("desktop") => Some(Kind::RemoteDesktop),
        _ if service.contains("ssh") => Some(Kind::Ssh),
        _ => None,
    }
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A host name, or an IP address without brackets.
    pub host: String,
    /// The name by which ssh knows the key of this host.
    pub alias: String,
    pub port: u16,
    /// The user's name there; may be empty.
    pub user: String,
}

impl Place {
    /// `gate.example.org:22`, `[2001:db8::1]:22`.
    pub fn text(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// True if a user's name can stand in every command line below: no shell reads it otherwise.
pub fn is_user(name: &str) -> bool {
    name.chars().all(|c| c.is_alphanumeric() || "._-@\\".contains(c)) && !name.starts_with('-')
}

/// The systems that differ in their programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    Linux,
    Windows,
}

pub const HERE: System = if cfg!(windows) { System::Windows } else { System::Linux };

/// Keeps the terminal open after a failure, so that a person can read why. $0 says what to do.
const THEN_WAIT: &str = r#""$@" || { echo; echo "$0"; read -r _; }"#;

/// The command lines to try, best first. `ended` is said in a terminal after ssh has failed.
pub fn commands(system: System, kind: Kind, place: &Place, ended: &str) -> Vec<Vec<String>> {
    let words = |line: &[&str]| line.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    match (system, kind) {
        (System::Windows, Kind::RemoteDesktop) => {
            vec![words(&["mstsc", &format!("/v:{}", place.text())])]
        }
        // The console stays open afterwards: it says why a connection failed.
        (System::Windows, Kind::Ssh) => vec![[words(&["cmd", "/k"]), ssh(place)].concat()],
        (System::Linux, Kind::RemoteDesktop) => {
            let mut commands = Vec::new();
            for program in ["xfreerdp3", "xfreerdp"] {
                let mut command = words(&[program, &format!("/v:{}", place.text())]);
                if !place.user.is_empty() {
                    command.push(format!("/u:{}", place.user));
                }
                commands.push(command);
            }
            let at = if place.user.is_empty() { "" } else { "@" };
            let url = format!("rdp://{}{at}{}", place.user, place.text());
            commands.push(words(&["remmina", "-c", &url]));
            commands
        }
        (System::Linux, Kind::Ssh) => {
            let mut commands = Vec::new();
            for terminal in [
                &["x-terminal-emulator", "-e"][..],
                &["gnome-terminal", "--"],
                &["konsole", "-e"],
                &["xterm", "-e"],
            ] {
                let shell = words(&["sh", "-c", THEN_WAIT, ended]);
                commands.push([words(terminal), shell, ssh(place)].concat());
            }
            commands
        }
    }
}

fn ssh(place: &Place) -> Vec<String> {
    let mut command = vec!["ssh".to_owned(), "-p".to_owned(), place.port.to_string()];
    if place.alias != place.host {
        command.extend(["-o".to_owned(), format!("HostKeyAlias={}", place.alias)]);
    }
    if !place.user.is_empty() {
        command.extend(["-l".to_owned(), place.user.clone()]);
    }
    command.push(place.host.clone());
    command
}

/// Why nothing was started.
#[derive(Debug)]
pub enum NotStarted {
    /// None of these programs is here.
    NoProgram(Vec<String>),
    Failed {
        program: String,
        error: io::Error,
    },
}

/// Starts the first of `commands` whose program is here, and lets it run on by itself.
pub fn start(commands: &[Vec<String>]) -> Result<(), NotStarted> {
    let mut missing = Vec::new();
    for command in commands {
        let Some((program, arguments)) = command.split_first() else { continue };
        match spawn(program, arguments) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => missing.push(program.clone()),
            Err(error) => return Err(NotStarted::Failed { program: program.clone(), error }),
        }
    }
    Err(NotStarted::NoProgram(missing))
}

fn spawn(program: &str, arguments: &[String]) -> io::Result<()> {
    let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    #[cfg(windows)]
    {
        use std::os::windows::process::CommandExt;
        /// A console of its own: this program has none.
        const CREATE_NEW_CONSOLE: u32 = 0x10;
        command.creation_flags(CREATE_NEW_CONSOLE);
        command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    }
    let mut child = command.spawn()?;
    // Collects its exit code: otherwise it would stay in the process table.
    std::thread::spawn(move || child.wait());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: &str, alias: &str, user: &str) -> Place {
        Place { host: host.into(), alias: alias.into(), port: 2222, user: user.into() }
    }

    #[test]
    fn the_port_says_the_program_and_else_the_name_of_the_service() {
        for (service, port, expected) in [
            ("anything", 3389, Some(Kind::RemoteDesktop)),
            ("anything", 22, Some(Kind::Ssh)),
            ("office-RDP", 13389, Some(Kind::RemoteDesktop)),
            ("ssh2", 2222, Some(Kind::Ssh)),
            ("web", 443, None),
        ] {
            assert_eq!(kind(service, port), expected, "{service} {port}");
        }
    }

    #[test]
    fn command_lines_name_host_port_and_user() {
        let line =
            |system, kind, place: &Place| commands(system, kind, place, "Enter!")[0].join(" ");
        let named = place("gate.example.org", "gate.example.org", "ann");
        let address = place("2001:db8::1", "gate.example.org", "");
        use {Kind::*, System::*};
        assert_eq!(line(Windows, RemoteDesktop, &named), "mstsc /v:gate.example.org:2222");
        assert_eq!(line(Windows, RemoteDesktop, &address), "mstsc /v:[2001:db8::1]:2222");
        assert_eq!(line(Windows, Ssh, &named), "cmd /k ssh -p 2222 -l ann gate.example.org");
        assert_eq!(
            line(Windows, Ssh, &address),
            "cmd /k ssh -p 2222 -o HostKeyAlias=gate.example.org 2001:db8::1"
        );
        assert_eq!(line(Linux, RemoteDesktop, &named), "xfreerdp3 /v:gate.example.org:2222 /u:ann");
        let remmina = commands(Linux, RemoteDesktop, &named, "").pop().unwrap();
        assert_eq!(remmina.join(" "), "remmina -c rdp://ann@gate.example.org:2222");
        assert!(line(Linux, Ssh, &named).ends_with(" Enter! ssh -p 2222 -l ann gate.example.org"));
    }

    #[test]
    fn a_users_name_cannot_be_more_than_a_name() {
        for good in ["", "ann", "Domäne\\ann", "ann@example.org", "a.b-c_d"] {
            assert!(is_user(good), "{good}");
        }
        for bad in
            ["-l", "-oProxyCommand=x", "a b", "a&calc", "a\"b", "a;b", "a|b", "%PATH%", "a\nb"]
        {
            assert!(!is_user(bad), "{bad}");
        }
    }

    #[test]
    fn the_first_program_that_is_here_is_started() {
        let command = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let missing: Vec<String> = command(&["toctoc-no-such-program", "x"]);
        let NotStarted::NoProgram(names) = start(std::slice::from_ref(&missing)).unwrap_err()
        else {
            panic!("another error")
        };
        assert_eq!(names, ["toctoc-no-such-program"]);
        start(&[missing, command(&["true"])]).unwrap();
    }
}
