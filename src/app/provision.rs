//! `toctocd init`, `client add`, `client list`, `client forgive`, `client revoke`, `check`: the
//! file work of an admin. What a running gateway makes of it is left to `gatekeeper`; texts of keys
//! to `keys`.

use std::path::Path;

use zeroize::Zeroizing;

use super::args::toctocd::Init;
use super::warnings::warnings_here;
use super::{listener_user, load};
use crate::config::convert::{self, Converted};
use crate::config::{
    DEFAULT_ROUTE, Service, Settings, SourceRule, defaults, knockd, native, print,
};
use crate::core::prefix::Span;
use crate::core::types::Fault;
use crate::edge::state::State;
use crate::edge::{capture, entropy, files};
use crate::keys::authorized;
use crate::keys::gateway::GatewayFile;

mod clients;
mod live;

pub use clients::{add, forgive, list, revoke};

/// What a command has to say, and how it ended.
pub struct CommandOutput {
    /// For standard output; may hold a profile.
    pub out: Zeroizing<String>,
    /// For standard error: hints, and trouble that came after the work was done.
    pub err: String,
    /// The exit code: 0, or 1 where the files are changed but the running gateway did not follow.
    pub code: u8,
}

impl CommandOutput {
    fn out(text: String) -> Self {
        Self { out: Zeroizing::new(text), err: String::new(), code: 0 }
    }

    /// Prints both and answers the exit code.
    pub fn print(&self) -> u8 {
        use std::io::Write;
        // A closed pipe (`| head`) is the reader's wish, not a fault.
        let _ = std::io::stdout().write_all(self.out.as_bytes());
        let _ = std::io::stderr().write_all(self.err.as_bytes());
        self.code
    }
}

/// Makes directory, keys, clients file and, last, the configuration; `named` is what `--config`
/// says.
///
/// # Errors
/// A configuration stands there already, the arguments contradict each other, or the disk refuses.
/// Nothing that exists is ever changed.
pub fn init(named: &Path, args: &Init) -> Result<CommandOutput, Fault> {
    let settings = settings_of(args)?;
    let config = args.dir.join("toctocd.toml");
    if config.symlink_metadata().is_ok() {
        return Err(Fault::new(
            format!("{}: exists already; nothing was changed", config.display()),
            "edit it, or move it away first; `toctocd check` reads it",
        ));
    }
    let text = print::print_commented(&settings);
    native::parse(&config.display().to_string(), &text)?;
    if named != Path::new(defaults::CONFIG) && named != config {
        return Err(Fault::new(
            format!("--config {}: init would write {} instead", named.display(), config.display()),
            "say by --dir in which directory it goes; its name is always toctocd.toml",
        ));
    }
    let mut said = String::new();
    make(&mut said, &args.dir, |path| files::make_directory(path, 0o755))?;
    make(&mut said, &settings.gateway.state_dir, |path| files::make_directory(path, 0o700))?;
    make(&mut said, &settings.gateway.key_file, |path| {
        let keys = GatewayFile::generate(entropy::fill)?;
        create_or_keep(path, keys.print().as_bytes(), 0o600)
    })?;
    make(&mut said, &settings.gateway.clients_file, |path| {
        create_or_keep(path, authorized::EMPTY.as_bytes(), 0o600)
    })?;
    files::create(&config, text.as_bytes(), 0o644)?;
    said += &format!("made {}\n{}", config.display(), next_steps(&config, &settings));
    Ok(CommandOutput::out(said))
}

/// The doors of the knockd.conf at `path` in our own form, to be appended to the configuration,
/// which need not be there yet.
///
/// # Errors
/// One of the two cannot be read, or knockd would not take its own.
pub fn convert(config: &Path, path: &Path) -> Result<CommandOutput, Fault> {
    let there = match config.symlink_metadata() {
        Ok(_) => load::native(config)?,
        Err(_) => defaults::settings(),
    };
    let text = files::read_bytes(path, files::FileCheck::Trusted)?;
    let mut open = |file: &Path| {
        files::read_bytes(file, files::FileCheck::Trusted).map(|b| b.to_vec()).map_err(|f| f.what)
    };
    let conf = knockd::read(&text, false, knockd::UsedUp::ShutDoor, &mut open, &mut |_| {})
        .map_err(|error| error.fault(path))?;
    let Converted { toml, left_out, notes } = convert::convert(&conf, &there);
    let mut said = CommandOutput::out(String::new());
    if !toml.is_empty() {
        let head = format!("# From {}, by `toctocd convert`.", path.display());
        said.out = Zeroizing::new(format!("\n{head}\n\n{toml}"));
    }
    left_out.iter().for_each(|line| said.err += &format!("left out: {line}\n"));
    notes.iter().for_each(|line| said.err += &format!("note: {line}\n"));
    said.err += &match toml.is_empty() {
        true => format!("{}: no door to convert\n", path.display()),
        false => {
            format!("next: append the sections to {}, then `toctocd check`\n", config.display())
        }
    };
    said.code = u8::from(!left_out.is_empty() || toml.is_empty());
    Ok(said)
}

/// Reads all that `run` would read, and looks for what else it would refuse or warn of.
///
/// # Errors
/// The first thing for which `run` would not start.
pub fn check(config: &Path, print_settings: bool) -> Result<CommandOutput, Fault> {
    let loaded = load::load_all(config)?;
    let settings = &loaded.settings;
    if print_settings {
        return Ok(CommandOutput::out(print::print(settings)));
    }
    would_run(settings)?;
    let counts = [
        (settings.services.len(), "service"),
        (loaded.clients.len(), "client"),
        (settings.doors.len(), "door"),
    ];
    let counts = counts.map(|(number, noun)| super::admin::count(number, noun)).join(", ");
    let mut said = format!("{}: sound; {counts}\n", config.display());
    for warning in warnings_here(&loaded) {
        said += &format!("warning: {warning}\n");
    }
    for note in notes(settings, loaded.clients.len()) {
        said += &format!("note: {note}\n");
    }
    for line in live::remarks(settings) {
        said += &format!("{line}\n");
    }
    Ok(CommandOutput::out(said))
}

/// What `run` needs of this machine, as far as it can be seen without changing anything.
fn would_run(settings: &Settings) -> Result<(), Fault> {
    if let Some(name) = &settings.gateway.user {
        listener_user::named_user(name)?;
    }
    State::check(&settings.gateway.state_dir, settings.gateway.state_on_tmpfs)?;
    let missing = |name: &&String| {
        *name != capture::ANY && nix::net::if_::if_nametoindex(name.as_str()).is_err()
    };
    let meant = super::interfaces::resolved_interfaces(
        settings,
        &crate::edge::proc_net::default_interfaces(),
    );
    if meant.iter().any(|name| name == DEFAULT_ROUTE) {
        return Err(super::interfaces::no_default_route());
    }
    if let Some(name) = meant.iter().find(missing) {
        return Err(Fault::new(
            format!("[knock] interfaces: there is no interface `{name}`"),
            "`ip link` shows those that there are",
        ));
    }
    let nft = &settings.firewall.nft;
    nix::unistd::access(nft, nix::unistd::AccessFlags::X_OK).map_err(|error| {
        Fault::new(
            format!("{}: {}", nft.display(), error.desc()),
            "install the nftables package, or set firewall.nft to where the program is",
        )
    })
}

fn notes(settings: &Settings, clients: usize) -> Vec<String> {
    let mut notes = Vec::new();
    if settings.gateway.addresses.is_empty() {
        notes.push("[gateway] addresses is empty, so no profile can be made".to_owned());
    }
    if settings.services.is_empty() && settings.doors.is_empty() {
        notes.push("neither a service nor a classic door: there is nothing to open".to_owned());
    }
    if !settings.services.is_empty() && clients == 0 {
        notes.push("nobody is enrolled yet: `toctocd client add`".to_owned());
    }
    notes.extend(settings.services.iter().flat_map(wide_notes));
    notes
}

/// What a service grants beyond the one address that a knock comes from.
fn wide_notes(service: &Service) -> Vec<String> {
    let name = service.name;
    let mut notes = Vec::new();
    match &service.source {
        SourceRule::Bound => {}
        SourceRule::Observed => notes
            .push(format!("service {name} grants whatever address a knock came from: {OBSERVED}")),
        SourceRule::Within(prefixes) => {
            let list: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
            notes.push(format!(
                "service {name} grants any address of {} to whoever has a client's key",
                list.join(", ")
            ));
        }
    }
    if service.span == Span::Net64 {
        notes.push(format!("service {name} grants the whole /64 of an IPv6 address"));
    }
    notes
}

const OBSERVED: &str = "whoever is on the path can choose it";

/// Defaults, with what the command line says.
fn settings_of(args: &Init) -> Result<Settings, Fault> {
    let mut settings = defaults::settings();
    let absolute = std::path::absolute(&args.dir)
        .map_err(|e| Fault::new(format!("--dir: {e}"), "name another"))?;
    if absolute.to_str().is_none() {
        return Err(Fault::new(
            "--dir is not UTF-8 text, which a configuration must be",
            "name another",
        ));
    }
    let gateway = &mut settings.gateway;
    gateway.key_file = absolute.join("gateway.key");
    gateway.clients_file = absolute.join("clients");
    // Elsewhere than in /etc it is a trial or somebody's own: then nothing lies outside that
    // directory.
    if absolute != Path::new("/etc/toctoc") {
        gateway.state_dir = absolute.join("state");
        gateway.control_socket = absolute.join("control");
    }
    gateway.addresses.clone_from(&args.addresses);
    settings.knock.port = args.port;
    if !args.interfaces.is_empty() {
        settings.knock.interfaces.clone_from(&args.interfaces);
    }
    settings.services = args
        .services
        .iter()
        .map(|service| defaults::service(service.name, service.ports.clone()))
        .collect();
    Ok(settings)
}

/// Does one step and notes whether it made something or found it.
fn make(
    said: &mut String,
    path: &Path,
    step: impl FnOnce(&Path) -> Result<bool, Fault>,
) -> Result<(), Fault> {
    let verb = if step(path)? { "made" } else { "kept" };
    *said += &format!("{verb} {}\n", path.display());
    Ok(())
}

fn create_or_keep(path: &Path, content: &[u8], mode: u32) -> Result<bool, Fault> {
    if path.symlink_metadata().is_ok() {
        return Ok(false);
    }
    files::create(path, content, mode).map(|()| true)
}

fn next_steps(config: &Path, settings: &Settings) -> String {
    let option = match config == Path::new(defaults::CONFIG) {
        true => String::new(),
        false => format!(" -c {}", config.display()),
    };
    let service = settings.services.first().map_or("ssh", |service| service.name.as_str());
    let mut text = "\nnext:\n".to_owned();
    if settings.gateway.addresses.is_empty() {
        text += &format!(
            "  write this gateway's public name or address into `addresses` in {}\n",
            config.display()
        );
    }
    text += &format!(
        "  toctocd{option} client add laptop --key 'ssh-ed25519 AAAA...' --services {service} --out laptop.toml\n"
    );
    text += "  hand laptop.toml over in private; there: toctoc import laptop.toml\n";
    text += &format!("  toctocd{option} check\n  toctocd{option} run\n");
    text
}

#[cfg(test)]
mod tests;
