//! `toctocd init` and `convert`, and the files that the `client` commands change.

use std::path::{Path, PathBuf};

use super::args::toctocd::Init;
use super::output::CommandOutput;
use super::{args, load};
use crate::config::{Settings, defaults, native, print};
use crate::core::types::{Fault, FaultKind};
use crate::edge::files;
use crate::edge::state::State;
use crate::edge::{clock, entropy};
use crate::keys::authorized;
use crate::keys::gateway::GatewayFile;

mod clients;
pub mod completion;
mod conversion;
mod first_start;
mod interview;
mod invitations;
mod knock_on_ports;
mod list;
mod qr_code;
mod show;

pub use clients::{add, disable, enable, forgive, revoke, rotate};
pub use conversion::convert;
pub use first_start::init_at_terminal;
pub use invitations::{approve, invite};
pub use knock_on_ports::export;
pub use list::list;
pub use show::show;

/// Makes directory, keys, clients file and, last, the configuration. `named` is the value of
/// `--config`.
/// Error: a configuration exists already, the arguments contradict each other, or the disk refuses.
/// Nothing that exists is ever changed.
pub fn init(named: &Path, args: &Init) -> Result<CommandOutput, Fault> {
    let NewGateway { config, settings, steps } = write(named, args)?;
    Ok(CommandOutput::out(steps + &next_steps(&config, &settings)))
}

/// A gateway that was just made.
struct NewGateway {
    config: PathBuf,
    settings: Settings,
    /// What was made and what was there, one line each.
    steps: String,
}

/// The same without advice.
fn write(named: &Path, args: &Init) -> Result<NewGateway, Fault> {
    let settings = settings_of(args)?;
    refuse_existing(args)?;
    let config = config_path(args);
    let text = print::print_commented(&settings);
    native::parse(&config.display().to_string(), &text)?;
    if named != Path::new(defaults::CONFIG) && named != config {
        return Err(Fault::new(
            format!("--config {}: init would write {} instead", named.display(), config.display()),
            "name the directory with --dir; the file is always called toctocd.toml",
        ));
    }
    let gateway = &settings.gateway;
    let mut steps = String::new();
    steps += &made(&args.dir, files::make_directory(&args.dir, 0o755)?);
    steps += &made(&gateway.state_dir, files::make_directory(&gateway.state_dir, 0o700)?);
    let has_clients = gateway.clients_file.symlink_metadata().is_ok()
        && !load::clients_text(&gateway.clients_file)
            .is_ok_and(|text| authorized::ids(&text).is_empty());
    if !has_clients {
        State::create(&gateway.state_dir, clock::now().wall)?;
    } else if !State::exists(&gateway.state_dir) {
        // The start must find that it is lost: a first state would hide that.
        steps += &format!(
            "no state in {}: clients are enrolled already, so what they sent may be used again.\n  \
             After the start every knock costs a challenge until `toctocd reinitialise`\n",
            gateway.state_dir.display()
        );
    }
    if gateway.key_file.symlink_metadata().is_ok() {
        steps += &made(&gateway.key_file, false);
    } else {
        let keys = GatewayFile::generate(clock::now().wall.day(), entropy::fill)?;
        files::create(&gateway.key_file, keys.print().as_bytes(), 0o600)?;
        steps += &made(&gateway.key_file, true);
    }
    if gateway.clients_file.symlink_metadata().is_ok() {
        steps += &made(&gateway.clients_file, false);
    } else {
        files::create(&gateway.clients_file, authorized::EMPTY.as_bytes(), 0o600)?;
        steps += &made(&gateway.clients_file, true);
    }
    files::create(&config, text.as_bytes(), 0o644)?;
    steps += &made(&config, true);
    Ok(NewGateway { config, settings, steps })
}

fn config_path(args: &Init) -> PathBuf {
    args.dir.join("toctocd.toml")
}

fn refuse_existing(args: &Init) -> Result<(), Fault> {
    let config = config_path(args);
    if config.symlink_metadata().is_err() {
        return Ok(());
    }
    Err(Fault::new(
        format!("{}: exists already; nothing was changed", config.display()),
        "edit it, or move it away first; `toctocd check` reads it",
    )
    .of(FaultKind::Name))
}

fn made(path: &Path, is_new: bool) -> String {
    format!("{} {}\n", if is_new { "made" } else { "kept" }, path.display())
}

/// The defaults, with the values of the command line.
fn settings_of(args: &Init) -> Result<Settings, Fault> {
    let mut settings = defaults::settings();
    let directory = match std::path::absolute(&args.dir) {
        Ok(directory) => directory,
        Err(error) => return Err(Fault::new(format!("--dir: {error}"), "choose another")),
    };
    if directory.to_str().is_none() {
        return Err(Fault::new(
            "--dir is not UTF-8, and the configuration must be",
            "choose another directory",
        ));
    }
    let gateway = &mut settings.gateway;
    gateway.key_file = directory.join("gateway.key");
    gateway.clients_file = directory.join("clients");
    // Elsewhere than in /etc it is a trial or a user's own: everything is below that directory.
    if directory != Path::new("/etc/toctoc") {
        gateway.state_dir = directory.join("state");
        gateway.control_socket = directory.join("control");
    }
    gateway.addresses.clone_from(&args.addresses);
    settings.knock.port = args.port;
    if !args.interfaces.is_empty() {
        settings.knock.interfaces.clone_from(&args.interfaces);
    }
    if args.services.is_empty() {
        settings.services.extend(args::service(defaults::HIDDEN));
    } else {
        settings.services.clone_from(&args.services);
    }
    Ok(settings)
}

fn next_steps(config: &Path, settings: &Settings) -> String {
    let option = config_option(config);
    let mut text = "\nnext:\n".to_owned();
    if settings.gateway.addresses.is_empty() {
        text += &format!(
            "  write this gateway's public name or address into `addresses` in {}\n",
            config.display()
        );
    }
    text += &format!(
        "  toctocd{option} check\n  toctocd{option} run --background --confirm 15m\n  {}\n\
         With --confirm nobody is locked out: if no knock from another machine gets a\n\
         grant in time, the guard turns itself off. The last line invites a client, who\n\
         types: toctoc join. By systemd: systemctl start toctocd; toctocd guard on\n\
         --confirm 15m\n",
        invite_command(config, settings)
    );
    text
}

/// The command that invites a first client.
fn invite_command(config: &Path, settings: &Settings) -> String {
    let service = match settings.services.first() {
        Some(service) => service.name.to_string(),
        None => "ssh".to_owned(),
    };
    format!("toctocd{} invite laptop --services {service}", config_option(config))
}

/// ` -c FILE`, unless it is the default one.
fn config_option(config: &Path) -> String {
    match config == Path::new(defaults::CONFIG) {
        true => String::new(),
        false => format!(" -c {}", config.display()),
    }
}

#[cfg(test)]
mod tests;
