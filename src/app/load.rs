//! Reads and checks a gateway's configuration, keys and clients before any of it takes effect. See
//! `config` and `keys` for the formats.

use std::path::Path;

use zeroize::Zeroizing;

use super::joined::{self, ClientFiles};
use super::output::CommandOutput;
use crate::config::knockd::{KnockdConf, Strictness, Wrong, one_time};
use crate::config::native::{ConfigPart, MOST, OWN_SEQUENCE, PARTS};
use crate::config::{Door, Settings, defaults, knockd, native};
use crate::core::clients::ClientTable;
use crate::core::door::is_shipped;
use crate::core::types::{Fault, FaultKind};
use crate::edge::files::{self, FileCheck, not_text};
use crate::edge::zones::Zones;
use crate::keys::authorized;
use crate::keys::gateway::{GatewayFile, TestKeys};

pub struct GatewayConfig {
    pub settings: Settings,
    pub keys: GatewayFile,
    /// The enrolled clients. They may name services that are not configured.
    pub clients: ClientTable,
}

/// Reads the configuration at `path` and every file that it names.
/// Error: the first mistake, with its place and remedy.
pub fn load_all(path: &Path) -> Result<GatewayConfig, Fault> {
    load_with(path, clients)
}

/// The same with clients that `clients` finds.
pub fn load_with(
    path: &Path, clients: impl FnOnce(&Settings) -> Result<ClientTable, Fault>,
) -> Result<GatewayConfig, Fault> {
    let settings = settings(path)?;
    let keys = keys(&settings)?;
    let clients = clients(&settings)?;
    Ok(GatewayConfig { settings, keys, clients })
}

/// Reads the configuration and, if it names one, the knockd.conf.
pub fn settings(path: &Path) -> Result<Settings, Fault> {
    let mut settings = native(path)?;
    for door in &mut settings.doors {
        first_sequence(door)?;
    }
    if let Some(classic) = &settings.classic {
        let (doors, unused) = doors(classic)?;
        settings.doors.extend(doors);
        settings.unused_options = unused;
    }
    Ok(settings)
}

/// Reads the configuration without the files that its doors name. That is enough to find a running
/// gateway, whose doors may have used up their one-time files, and to load the guard while one of
/// those files is broken.
pub fn native(path: &Path) -> Result<Settings, Fault> {
    let text = files::read_own(path, FileCheck::Trusted).map_err(|fault| match path.exists() {
        true => fault,
        false => Fault::new(fault.what, "`toctocd init` writes one; -c names another"),
    })?;
    native::read(&path.display().to_string(), &text, &mut parts)
}

pub struct Reach {
    /// All settings; or, with a doubt, no more than the places in `config::native::places`.
    pub settings: Settings,
    /// The reason why it is not all.
    pub doubt: Option<Fault>,
    /// True if no other user can have written the places.
    pub is_trusted: bool,
}

impl Reach {
    /// Fails if the configuration is not sound.
    pub fn all(&self) -> Result<&Settings, Fault> {
        match &self.doubt {
            Some(fault) => Err(fault.clone()),
            None => Ok(&self.settings),
        }
    }

    /// Adds to the outcome of a command that the configuration is not sound.
    pub fn note(&self, outcome: Result<CommandOutput, Fault>) -> Result<CommandOutput, Fault> {
        let Some(doubt) = &self.doubt else { return outcome };
        match outcome {
            Ok(mut output) => {
                output.err += &format!("note: the configuration on disk is not sound: {doubt}\n");
                Ok(output)
            }
            Err(fault)
                if matches!(fault.kind, FaultKind::Held | FaultKind::Name)
                    || fault.what.contains(&doubt.what) =>
            {
                Err(fault)
            }
            // Perhaps a place is elsewhere: that is what must be put right.
            Err(fault) => {
                let what = format!("{}; and {}", doubt.what, fault.what);
                Err(Fault::new(what, doubt.remedy.clone()).of(fault.kind))
            }
        }
    }
}

/// Reads as much of the configuration as there is: enough to reach the running gateway, its clients
/// file and its table. For commands that must work while the configuration is broken.
pub fn reach(path: &Path) -> Reach {
    let doubt = match native(path) {
        Ok(mut settings) => {
            look_beside(path, &mut settings, |usual| !usual.exists());
            return Reach { settings, doubt: None, is_trusted: true };
        }
        Err(fault) => fault,
    };
    let trusted = files::read_own(path, FileCheck::Trusted);
    let is_trusted = trusted.is_ok();
    let text = match trusted {
        Ok(text) => text.as_str().to_owned(),
        // What it names is checked by itself before it is used.
        Err(_) => files::read_untrusted(path).unwrap_or_default(),
    };
    let mut settings = native::places(&text);
    if !is_trusted || files::check_way(&settings.firewall.nft).is_err() {
        settings.firewall.nft = defaults::firewall().nft;
    }
    look_beside(path, &mut settings, |_| true);
    Reach { settings, doubt: Some(doubt), is_trusted }
}

/// Takes what is beside the configuration, as `toctocd init --dir` puts it, for each place that has
/// its usual value where `misses` is true: a file that was cut off names nothing.
fn look_beside(path: &Path, settings: &mut Settings, misses: impl Fn(&Path) -> bool) {
    let usual = defaults::settings().gateway;
    let gateway = &mut settings.gateway;
    for (name, place, usual) in [
        ("clients", &mut gateway.clients_file, usual.clients_file),
        ("control", &mut gateway.control_socket, usual.control_socket),
        ("state", &mut gateway.state_dir, usual.state_dir),
    ] {
        let beside = std::path::absolute(path).unwrap_or_default().with_file_name(name);
        if *place == usual && misses(&usual) && beside.exists() {
            *place = beside;
        }
    }
}

/// Reads the gateway's keys.
pub fn keys(settings: &Settings) -> Result<GatewayFile, Fault> {
    let path = &settings.gateway.key_file;
    let text = files::read_own(path, FileCheck::Secret)?;
    GatewayFile::parse(&path.display().to_string(), &text, TestKeys::Refused)
}

/// Reads a clients file. It holds no secret, and may be too long to be wiped at each look.
///
/// # Errors
/// It cannot be read, or not trusted.
pub fn clients_bytes(path: &Path) -> Result<Vec<u8>, Fault> {
    files::read_own_bytes(path, FileCheck::Trusted).map(|mut bytes| std::mem::take(&mut *bytes))
}

/// The same, which must be text.
///
/// # Errors
/// As [`clients_bytes`]; also if it is no text.
pub fn clients_text(path: &Path) -> Result<String, Fault> {
    let bytes = clients_bytes(path)?;
    String::from_utf8(bytes).map_err(|error| files::not_text(path, error.utf8_error()))
}

/// Reads the enrolled clients: those of the clients file, and who joined, with the invitations.
/// A service that is not configured is ignored: see `warnings`.
pub fn clients(settings: &Settings) -> Result<ClientTable, Fault> {
    let files = ClientFiles::of(settings);
    let label = files.clients.display().to_string();
    let before = ClientTable::default();
    let text = clients_text(&files.clients)?;
    let zones = Zones::default();
    let clients = authorized::read(&label, &text, &before, &|name| zones.find(name))?;
    authorized::joined::merge(&label, clients, &joined::read(&files.joined)?, &before)
}

/// Checks every key of the clients file. Loading checks at most a thousand: those of more are
/// checked when their clients knock.
/// Error: the first mistake, with its place.
pub fn check_keys(settings: &Settings) -> Result<(), Fault> {
    let path = &settings.gateway.clients_file;
    let text = clients_text(path)?;
    authorized::check_keys(&path.display().to_string(), &text)
}

pub struct ClientsRead {
    /// All of them, or, if a file has a mistake, those of before that the files still name.
    pub clients: ClientTable,
    pub mistake: Option<Fault>,
}

/// Reads the clients again. Lines that have not changed are not read again, and services may be
/// unknown.
/// Error: a file cannot be read, or not trusted.
pub fn clients_again(files: &ClientFiles, before: &ClientTable) -> Result<ClientsRead, Fault> {
    let path = &files.clients;
    let label = path.display().to_string();
    let bytes = clients_bytes(path)?;
    let joined_text = joined::text(&files.joined)?;
    let zones = Zones::default();
    let find_zone = |name: &str| zones.find(name);
    let read = match std::str::from_utf8(&bytes) {
        Ok(text) => authorized::read(&label, text, before, &find_zone),
        Err(error) => Err(not_text(path, error)),
    };
    let joined_label = files.joined.display().to_string();
    let merged = read.and_then(|clients| {
        let rows = authorized::joined::parse(&joined_label, &joined_text, &find_zone)?;
        authorized::joined::merge(&label, clients, &rows, before)
    });
    Ok(match merged {
        Ok(clients) => ClientsRead { clients, mistake: None },
        Err(fault) => {
            let text = String::from_utf8_lossy(&bytes).into_owned() + "\n" + &joined_text;
            let clients = authorized::still_named(&text, before);
            ClientsRead { clients, mistake: Some(fault) }
        }
    })
}

/// The `*.toml` files of a directory, sorted by name. A file in there decides what opens, so only
/// root or the gateway's user may write to the directory, and each file is checked like the
/// configuration.
fn parts(directory: &Path) -> Result<Vec<ConfigPart>, Fault> {
    files::check_own_directory(directory)?;
    let trouble = |e: std::io::Error| {
        Fault::new(format!("{}: {e}", directory.display()), "check the directory")
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(trouble)? {
        let path = entry.map_err(trouble)?.path();
        if is_part(&path) {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.len() > PARTS {
        return Err(Fault::new(
            format!("{}: more than {PARTS} files", directory.display()),
            "join some of them",
        ));
    }
    let mut parts = Vec::new();
    for path in paths {
        let text = files::read_own(&path, FileCheck::Trusted)?.as_str().to_owned();
        parts.push(ConfigPart { label: path.display().to_string(), text });
    }
    Ok(parts)
}

/// True if the file counts. Editors' backup files are hidden or have another ending.
fn is_part(path: &Path) -> bool {
    let Some(name) = path.file_name() else { return false };
    path.extension() == Some("toml".as_ref()) && !name.as_encoded_bytes().starts_with(b".")
}

/// Reads the current sequence of a native door with one-time sequences from its file.
fn first_sequence(door: &mut Door) -> Result<(), Fault> {
    let Some(file) = &door.one_time_sequences else { return Ok(()) };
    let text = one_time_file(file)?;
    door.later_steps = one_time::steps(&text);
    // If none is left, only this door is disabled: the gateway must start again after the last one
    // was used.
    door.sequence = one_time::first(&text, &door.name, &mut |_| {}).unwrap_or_default();
    disable_shipped_sequence(door);
    Ok(())
}

/// Reads a file of one-time sequences. Unlike the configuration it may lie directly in /tmp.
fn one_time_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Fault> {
    files::check_way(path)?;
    files::read_bytes(path, FileCheck::Trusted)
}

/// Disables a door whose next sequence is the one that knockd ships, which every scanner knows.
/// Only this door: such a line may become the next one between two starts.
fn disable_shipped_sequence(door: &mut Door) {
    let from_file = door.one_time_sequences.is_some() && !door.fixed_first;
    if from_file && is_shipped(&door.sequence) {
        door.sequence.clear();
    }
}

const EVERYBODYS: &str = "the sequence that knockd ships: every scanner knows it";

/// Reads a knockd.conf. Doors run commands with our privileges, so nobody else may be able to write
/// that file, or one that it names.
/// Error: the first mistake, with its place and remedy, as far as `strictness` refuses it.
pub fn knockd_conf(path: &Path, strictness: Strictness) -> Result<KnockdConf, Fault> {
    // `convert` runs nothing of it, so the file may lie anywhere.
    let read = match strictness {
        Strictness::SkipLines => files::read_bytes,
        Strictness::Knockd | Strictness::ShutDoor => files::read_own_bytes,
    };
    let text = read(path, FileCheck::Trusted)?;
    let mut open = |file: &Path| match read(file, FileCheck::Trusted) {
        Ok(bytes) => Ok(bytes.to_vec()),
        // The error of the parser names the file itself.
        Err(fault) => {
            let named = format!("{}: ", file.display());
            Err(fault.what.strip_prefix(&named).unwrap_or(&fault.what).to_owned())
        }
    };
    let mut conf = match knockd::read(&text, false, strictness, &mut open, &mut |_| {}) {
        Ok(conf) => conf,
        Err(error) => {
            let shown = String::from_utf8_lossy(&text);
            let mut fault = error.fault(path, &shown);
            // Once more, for what else is wrong and does not follow from the first mistakes.
            let skip = Strictness::SkipLines;
            let all = knockd::read(&text, false, skip, &mut open, &mut |_| {});
            for other in all.map(|conf| conf.wrong).unwrap_or_default().iter().skip(1).take(MOST) {
                if !matches!(other.what, Wrong::Empty(_)) {
                    fault.more += &other.fault(path, &shown).lines();
                }
            }
            return Err(fault);
        }
    };
    for door in &mut conf.doors {
        door.place.file = path.display().to_string();
    }
    Ok(conf)
}

fn doors(path: &Path) -> Result<(Vec<Door>, Vec<&'static str>), Fault> {
    let mut conf = knockd_conf(path, Strictness::ShutDoor)?;
    for door in &mut conf.doors {
        disable_shipped_sequence(door);
    }
    if let Some(door) = conf.doors.iter().find(|door| is_shipped(&door.sequence)) {
        let what = format!("{}: door [{}] has {EVERYBODYS}", door.place, door.name);
        return Err(Fault::new(what, OWN_SEQUENCE));
    }
    let unused = unused_options(&conf);
    Ok((conf.doors, unused))
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
