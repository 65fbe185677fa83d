//! `toctoc ssh-config`: the lines with which plain `ssh PROFILE` knocks first.
//!
//! They stand in a file of ours, `~/.ssh/toctoc.conf`. The user's own `~/.ssh/config` gets one line
//! at its top, which includes that file, and is not changed otherwise.

use std::path::PathBuf;
use std::process::Command;

use super::profiles::{chosen, unlisted_text};
use super::signer::HeldProfile;
use crate::app::args::toctoc::SshConfig;
use crate::app::output::CommandOutput;
use crate::app::paths::{UserPaths, is_profile_name};
use crate::app::waiting::Waiting;
use crate::core::diagnostic::printable;
use crate::core::types::{Fault, ServiceName};
use crate::edge::files::{self, FileCheck};

/// What the user's file gets, before all else: ssh takes the first value that it finds, and a line
/// below a `Host` counts only for that one. The path is relative to `~/.ssh`.
const INCLUDE: &str = "\
# The next line is of `toctoc ssh-config`, which can remove it again.
Include toctoc.conf

";

const HEAD: &str = "# Written by `toctoc ssh-config`: do not edit.\n";

pub(super) fn ssh_config(paths: &UserPaths, args: &SshConfig) -> Result<CommandOutput, Fault> {
    if args.remove
        && let Some(target) = &args.target
    {
        // Also for a profile that is gone already.
        return remove(paths, &target.profile);
    }
    let held = chosen(paths, args.target.as_ref())?;
    if args.remove {
        return remove(paths, &held.name);
    }
    let service = args.target.as_ref().and_then(|target| target.service);
    if args.install {
        return install(paths, &held, service, args.ask_source);
    }
    let stanza = Stanza::new(&held, service, args.ask_source)?;
    let mut output = CommandOutput::data(stanza.print());
    let target = match service {
        Some(service) => format!("{}:{service}", held.name),
        None => held.name.clone(),
    };
    let option = ask_option(args.ask_source);
    output.err = format!("to install it: toctoc ssh-config {target} --install{option}\n");
    output.err += &service.map(|service| unlisted_text(&held, service)).unwrap_or_default();
    Ok(output)
}

/// Writes the lines for a profile, checks with ssh that they work, and takes them back if not.
/// Error: nothing was changed.
pub(super) fn install(
    paths: &UserPaths, held: &HeldProfile, service: Option<ServiceName>, ask_source: bool,
) -> Result<CommandOutput, Fault> {
    let stanza = Stanza::new(held, service, ask_source)?;
    let files = SshFiles::read(paths)?;
    let included = files.is_included();
    if included && files.ours.find(&stanza.block()).is_some() {
        if SshView::ask(&stanza.alias)?.follows(&stanza) {
            let text = format!("installed already: ssh {}\n", stanza.alias);
            return Ok(CommandOutput::out(text));
        }
        let what = format!(
            "the lines for `{}` are in {}, but ssh does not use them",
            stanza.alias,
            files.ours_path().display()
        );
        let remedy = "look for other lines about that name above `Include toctoc.conf` in \
                      ~/.ssh/config";
        return Err(Fault::new(what, remedy));
    }
    let is_known = included && files.ours.find(&stanza.begin()).is_some();
    if !is_known {
        refuse_foreign(&stanza)?;
    }
    let mut ours = without(&files.ours, &stanza.alias);
    if ours.is_empty() {
        ours = HEAD.to_owned();
    }
    ours += &stanza.block();
    files::make_directory(&files.directory, 0o700)?;
    files::replace(&files.ours_path(), ours.as_bytes(), 0o600)?;
    let written = match included {
        true => Ok(()),
        false => files.write_config(&[INCLUDE.as_bytes(), &files.config].concat()),
    };
    let works = written.and_then(|()| check_installed(&stanza));
    if let Err(fault) = works {
        files.put_back()?;
        return Err(fault);
    }
    Ok(CommandOutput::out(format!(
        "installed in {}: ssh {}\n",
        files.ours_path().display(),
        stanza.alias
    )))
}

/// True if there are lines for a profile.
pub(super) fn is_installed(paths: &UserPaths, alias: &str) -> Result<bool, Fault> {
    match &paths.home {
        Some(_) => Ok(SshFiles::read(paths)?.ours.contains(&begin(alias))),
        None => Ok(false),
    }
}

/// Removes the lines for a profile, and with the last ones every trace of us.
pub(super) fn remove(paths: &UserPaths, alias: &str) -> Result<CommandOutput, Fault> {
    let files = SshFiles::read(paths)?;
    let ours = without(&files.ours, alias);
    if ours == files.ours {
        let path = files.ours_path();
        let text = format!("{}: there is nothing for `{}`\n", path.display(), printable(alias));
        return Ok(CommandOutput::out(text));
    }
    if ours.trim() == HEAD.trim() {
        if let Some(at) = position(&files.config, INCLUDE.as_bytes()) {
            let (before, rest) = files.config.split_at(at);
            let left = [before, &rest[INCLUDE.len()..]].concat();
            // A file that only our line made. A link is the user's own.
            match left.is_empty() && !files.directory.join("config").is_symlink() {
                true => files::remove(&files.config_path)?,
                false => files.write_config(&left)?,
            }
        }
        files::remove(&files.ours_path())?;
    } else {
        files::replace(&files.ours_path(), ours.as_bytes(), 0o600)?;
    }
    let path = files.ours_path();
    Ok(CommandOutput::out(format!("removed `{alias}` from {}\n", path.display())))
}

/// The lines for one profile.
struct Stanza {
    /// The name for ssh: the profile's.
    alias: String,
    /// The gateway's first address: under it ssh keeps the host's key.
    host: String,
    command: String,
}

impl Stanza {
    /// Error: the profile's name would hide another host from ssh, or is none that ssh can take.
    fn new(
        held: &HeldProfile, service: Option<ServiceName>, ask_source: bool,
    ) -> Result<Self, Fault> {
        let alias = &held.name;
        let profile = &held.profile;
        if !is_profile_name(alias) {
            let what =
                format!("`{}` is the path of a profile, which has no name", printable(alias));
            return Err(Fault::new(
                what,
                format!("toctoc import {} --name home", printable(alias)),
            ));
        }
        if alias.contains('.') && !profile.addresses.contains(alias) {
            return Err(Fault::new(
                format!(
                    "ssh would take `{alias}` for this gateway, but that is the name of another host"
                ),
                "import the profile under a name without a dot: toctoc import FILE --name home",
            ));
        }
        let Some(host) = profile.addresses.first() else {
            return Err(Fault::new("the profile has no address", "ask its admin for a new one"));
        };
        let service = service.or_else(|| {
            let ssh = profile.services.iter().find(|service| service.as_str() == "ssh");
            ssh.copied().or(profile.usual_service())
        });
        let target = match service {
            Some(service) => format!("{alias}:{service}"),
            None => alias.clone(),
        };
        let command = format!("{} connect {target}{}", program()?, ask_option(ask_source));
        Ok(Self { alias: alias.clone(), host: host.clone(), command })
    }

    fn print(&self) -> String {
        let Self { alias, host, command } = self;
        format!("Host {alias}\n    HostName {host}\n    ProxyCommand {command}\n")
    }

    fn block(&self) -> String {
        format!("{}{}{END}", self.begin(), self.print())
    }

    fn begin(&self) -> String {
        begin(&self.alias)
    }
}

fn ask_option(ask_source: bool) -> &'static str {
    if ask_source { " --ask-source" } else { "" }
}

fn begin(alias: &str) -> String {
    format!("{BEGIN}{alias}\n")
}

const BEGIN: &str = "\n# toctoc profile ";
const END: &str = "# end\n";

/// `ours` without the blocks of a profile. One that somebody damaged may lack its end: it ends
/// where another begins, or with the file.
fn without(ours: &str, alias: &str) -> String {
    let mut left = ours.to_owned();
    while let Some((before, rest)) = left.split_once(&begin(alias)) {
        let next = rest.find(BEGIN).unwrap_or(rest.len());
        let end = rest.find(END).map_or(next, |end| next.min(end + END.len()));
        left = format!("{before}{}", &rest[end..]);
    }
    left
}

/// This program, as ssh and the shell that ssh starts read it.
fn program() -> Result<String, Fault> {
    let path = std::env::current_exe().map_err(|error| {
        Fault::new(format!("the path of this program: {error}"), "reinstall it")
    })?;
    let Some(text) = path.to_str().filter(|text| !text.contains(['\'', '"', '\n'])) else {
        let what = format!("ssh cannot be given this path: {}", path.display());
        return Err(Fault::new(what, "install toctoc in a directory with a plain name"));
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:\\".contains(c);
    let escaped = text.replace('%', "%%");
    Ok(match (text.chars().all(is_plain), cfg!(windows)) {
        (true, _) => escaped,
        (false, true) => format!("\"{escaped}\""),
        (false, false) => format!("'{escaped}'"),
    })
}

/// The two files, as they were before a change.
struct SshFiles {
    directory: PathBuf,
    /// The user's own file, behind a link if it is one.
    config_path: PathBuf,
    config: Vec<u8>,
    has_config: bool,
    mode: u32,
    ours: String,
}

impl SshFiles {
    fn read(paths: &UserPaths) -> Result<Self, Fault> {
        let Some(home) = &paths.home else {
            return Err(Fault::new("your home directory is unknown", "set HOME"));
        };
        let directory = home.join(".ssh");
        let named = directory.join("config");
        // It may be a link into the user's collection of such files: that stays one.
        let config_path = named.canonicalize().unwrap_or(named);
        let has_config = config_path.exists();
        let config = match has_config {
            true => files::read_bytes(&config_path, FileCheck::Trusted)?.to_vec(),
            false => Vec::new(),
        };
        let mode = files::mode(&config_path).unwrap_or(0o600);
        let path = directory.join("toctoc.conf");
        let ours = match path.exists() {
            true => files::read(&path, FileCheck::Trusted)?.to_string(),
            false => String::new(),
        };
        Ok(Self { directory, config_path, config, has_config, mode, ours })
    }

    fn ours_path(&self) -> PathBuf {
        self.directory.join("toctoc.conf")
    }

    /// True if the user's file has our line, or one to the same effect that the user wrote. Below
    /// a `Host` or `Match` it counts only for that one.
    fn is_included(&self) -> bool {
        let lines = self.config.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let begins_part = |line: &&[u8]| {
            let word = line.split(|byte| *byte == b' ' || *byte == b'\t' || *byte == b'=').next();
            word.is_some_and(|word| {
                word.eq_ignore_ascii_case(b"host") || word.eq_ignore_ascii_case(b"match")
            })
        };
        lines.take_while(|line| !begins_part(line)).any(|line| line == b"Include toctoc.conf")
    }

    fn write_config(&self, content: &[u8]) -> Result<(), Fault> {
        files::replace(&self.config_path, content, self.mode)
    }

    /// Makes both files what they were.
    fn put_back(&self) -> Result<(), Fault> {
        match self.has_config {
            true => self.write_config(&self.config)?,
            false => files::remove(&self.config_path)?,
        }
        match self.ours.is_empty() {
            true => files::remove(&self.ours_path()),
            false => files::replace(&self.ours_path(), self.ours.as_bytes(), 0o600),
        }
    }
}

fn position(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// Where ssh would go for a name.
#[derive(Debug, Default, PartialEq, Eq)]
struct SshView {
    host: String,
    command: Option<String>,
    jump: Option<String>,
}

impl SshView {
    /// From the lines of `ssh -G`.
    fn parse(text: &str) -> Self {
        let mut view = Self::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("hostname", host)) => host.clone_into(&mut view.host),
                Some(("proxycommand", command)) if command != "none" => {
                    view.command = Some(command.to_owned());
                }
                Some(("proxyjump", jump)) if jump != "none" => view.jump = Some(jump.to_owned()),
                _ => {}
            }
        }
        view
    }

    /// True if ssh goes through us.
    fn follows(&self, stanza: &Stanza) -> bool {
        self.command.as_ref() == Some(&stanza.command) && self.host == stanza.host
    }

    fn ask(alias: &str) -> Result<Self, Fault> {
        let _waiting = Waiting::begin(format!("asking ssh about {alias}"));
        let output = Command::new("ssh").args(["-G", "--", alias]).output().map_err(|error| {
            Fault::new(
                format!("ssh cannot be started: {error}"),
                "install OpenSSH; or copy the lines by hand: toctoc ssh-config",
            )
        })?;
        if output.status.success() {
            return Ok(Self::parse(&String::from_utf8_lossy(&output.stdout)));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let first = said.lines().next().unwrap_or("it does not say why");
        let what = format!("ssh does not accept its own configuration: {}", printable(first));
        Err(Fault::new(what, format!("`ssh -G {alias}` shows it; then try again")))
    }
}

/// Refuses a name that ssh already takes for something else.
fn refuse_foreign(stanza: &Stanza) -> Result<(), Fault> {
    let alias = &stanza.alias;
    let view = SshView::ask(alias)?;
    let host_is_plain = view.host.eq_ignore_ascii_case(alias) || view.host == stanza.host;
    let elsewhere = match (&view.command, &view.jump) {
        (Some(command), _) if *command != stanza.command => format!("through `{command}`"),
        (_, Some(jump)) => format!("through {jump}"),
        _ if !host_is_plain => format!("to {}", view.host),
        _ => return Ok(()),
    };
    Err(Fault::new(
        format!(
            "`ssh {alias}` already leads elsewhere: {}; nothing was changed",
            printable(&elsewhere)
        ),
        format!(
            "import the profile under another name; or add to your own lines for {alias}: \
             ProxyCommand {}",
            stanza.command
        ),
    ))
}

/// Checks that ssh now goes through us.
fn check_installed(stanza: &Stanza) -> Result<(), Fault> {
    if SshView::ask(&stanza.alias)?.follows(stanza) {
        return Ok(());
    }
    Err(Fault::new(
        "ssh does not use the lines that were written, so they were removed again",
        "is HOME your own, and ssh 7.3 or newer? Otherwise add to ~/.ssh/config what \
         `toctoc ssh-config` shows",
    ))
}

#[cfg(all(test, unix))]
mod tests;
