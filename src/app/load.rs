//! A gateway's configuration, keys and clients off the disk, all of it checked before anybody acts on it.
//! What the texts mean is left to `config` and `keys`.

use std::path::Path;

use crate::config::knockd::{KnockdConf, one_time};
use crate::config::{Door, Settings, knockd, native};
use crate::core::door::{Weakness, weaknesses};
use crate::core::service::Client;
use crate::core::types::{Fault, ServiceName};
use crate::edge::files::{self, Care};
use crate::keys::authorized;
use crate::keys::gateway::{GatewayFile, TestKeys};

/// All that a gateway runs on.
pub struct Loaded {
    /// The configuration, classic doors included.
    pub settings: Settings,
    /// The gateway's keys.
    pub keys: GatewayFile,
    /// The enrolled clients; each service that they name is configured.
    pub clients: Vec<Client>,
}

/// Reads everything that the configuration at `path` leads to.
///
/// # Errors
/// The first thing that is wrong, with its place and remedy.
pub fn everything(path: &Path) -> Result<Loaded, Fault> {
    let settings = settings(path)?;
    let keys = keys(&settings)?;
    let clients = clients(&settings)?;
    Ok(Loaded { settings, keys, clients })
}

/// Reads the configuration and, if it names one, the knockd.conf.
///
/// # Errors
/// As [`everything`].
pub fn settings(path: &Path) -> Result<Settings, Fault> {
    let text = files::read(path, Care::Trusted).map_err(|fault| match path.exists() {
        true => fault,
        false => Fault::new(fault.what, "`toctocd init` writes one; -c names another"),
    })?;
    let mut settings = native::parse(&path.display().to_string(), &text)?;
    settings.doors.iter_mut().try_for_each(first_sequence)?;
    if let Some(classic) = &settings.classic {
        let (doors, unused) = doors(classic)?;
        settings.doors.extend(doors);
        settings.unused_options = unused;
    }
    Ok(settings)
}

/// Reads the gateway's keys.
///
/// # Errors
/// As [`everything`].
pub fn keys(settings: &Settings) -> Result<GatewayFile, Fault> {
    let path = &settings.gateway.key_file;
    let text = files::read(path, Care::Secret)?;
    GatewayFile::parse(&path.display().to_string(), &text, TestKeys::Refused)
}

/// Reads the enrolled clients.
///
/// # Errors
/// As [`everything`]; also a client who may open what is not configured.
pub fn clients(settings: &Settings) -> Result<Vec<Client>, Fault> {
    let path = &settings.gateway.clients_file;
    let text = files::read(path, Care::Trusted)?;
    let known: Vec<ServiceName> = settings.services.iter().map(|service| service.name).collect();
    authorized::parse(&path.display().to_string(), &text, Some(&known))
}

/// A door of our own form with one-time sequences: reads its file for the one that is in force.
fn first_sequence(door: &mut Door) -> Result<(), Fault> {
    let Some(file) = &door.one_time_sequences else { return Ok(()) };
    let text = files::read_bytes(file, Care::Trusted)?;
    door.later_steps = one_time::steps(&text);
    door.sequence = one_time::first(&text, &door.name, &mut |_| {}).ok_or_else(|| {
        Fault::new(
            format!("{}: no one-time sequence is left for door {}", file.display(), door.name),
            "append lines to it",
        )
    })?;
    Ok(())
}

/// Doors run commands with our privilege: their file is believed only if nobody else can write it.
fn doors(path: &Path) -> Result<(Vec<Door>, Vec<&'static str>), Fault> {
    let text = files::read_bytes(path, Care::Trusted)?;
    let mut open = |file: &Path| files::read_bytes(file, Care::Trusted).map(|b| b.to_vec()).map_err(|fault| fault.what);
    let conf = knockd::read(&text, false, &mut open, &mut |_| {}).map_err(|error| error.fault(path))?;
    let shipped = weaknesses(&conf.doors).into_iter().find(|(_, weakness)| *weakness == Weakness::Shipped);
    match shipped.map(|(door, _)| door) {
        Some(door) => Err(Fault::new(
            format!(
                "{}:{}: door [{}] has the sequence that knockd ships: every scanner knows it",
                path.display(),
                conf.doors
                    .iter()
                    .zip(&conf.lines)
                    .find(|(one, _)| std::ptr::eq(*one, door))
                    .map_or(1, |(_, line)| *line),
                door.name
            ),
            "choose other ports, at least three, not in rising order",
        )),
        None => {
            let unused = unused_options(&conf);
            Ok((conf.doors, unused))
        }
    }
}

fn unused_options(conf: &KnockdConf) -> Vec<&'static str> {
    let all = [
        ("Interface", conf.interface.is_some()),
        ("LogFile", conf.log_file.is_some()),
        ("PidFile", conf.pid_file.is_some()),
        ("UseSyslog", conf.use_syslog),
    ];
    all.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
}

/// What is allowed but unwise, one sentence each.
pub fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    for (door, weakness) in weaknesses(&settings.doors) {
        match weakness {
            Weakness::Shipped => {}
            Weakness::Short(steps) => {
                warnings
                    .push(format!("door [{}] has a sequence of only {steps}: a scan finds it by chance", door.name));
            }
            Weakness::Contains(other) => {
                warnings.push(format!("whoever opens door [{}] opens door [{other}] on the way", door.name));
            }
        }
    }
    for door in settings.doors.iter().filter(|door| door.seq_timeout <= 0 && door.sequence.len() > 1) {
        warnings.push(format!("door [{}] can never open: its seq_timeout is {}", door.name, door.seq_timeout));
    }
    if !settings.unused_options.is_empty() {
        warnings.push(format!(
            "[options] of the knockd.conf are read by knockd only; here they mean nothing: {}",
            settings.unused_options.join(", ")
        ));
    }
    if !settings.firewall.break_glass.is_empty() {
        warnings.push("break_glass addresses always pass the guard".to_owned());
    }
    warnings
}
