//! `toctocd client`: enrols, lists and revokes clients. The clients file is rewritten as a whole,
//! under a lock, and a running gateway reloads.

use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::app::args::toctocd::ClientAdd;
use crate::app::joined::{self, ClientFiles};
use crate::app::output::{CommandOutput, DONE, FAILED};
use crate::app::{admin, load};
use crate::config::Settings;
use crate::core::diagnostic::{nearest, printable};
use crate::core::door::Step;
use crate::core::public_key::PublicKey;
use crate::core::service::Client;
use crate::core::types::{ClientId, Fault, FaultKind, ServiceName};
use crate::core::wire::ClientSide;
use crate::edge::entropy;
use crate::edge::files::{self, FileCheck, FileLock, LockFault};
use crate::keys::authorized;
use crate::keys::gateway::GatewayFile;
use crate::keys::profile::{Fallback, Profile};

mod authorized_keys;
mod disable;
mod forgive;
mod revoke;

pub use disable::{disable, enable};
pub use forgive::{forgive, rotate};
pub use revoke::revoke;

/// How long a command waits for another one that changes the clients file.
const PATIENCE: Duration = Duration::from_secs(10);

/// Enrols a client: writes its line to the clients file, and its profile to standard output or to
/// the file that `--out` names.
/// Error: nothing was changed: a bad key, an unknown service, a name or key that is taken, no
/// address for the profile.
pub fn add(config: &Path, args: &ClientAdd) -> Result<CommandOutput, Fault> {
    let (name, key) = match (&args.authorized_keys, &args.profile.out, &args.name, &args.key) {
        (Some(list), Some(directory), ..) => {
            return authorized_keys::add_all(config, args, list, directory);
        }
        (_, _, Some(name), Some(key)) => (name, key),
        _ => {
            return Err(Fault::new("no name or key is given", "toctocd client add NAME --key KEY"));
        }
    };
    let settings = load::settings(config)?;
    let keys = load::keys(&settings)?;
    check_services(&settings, &args.services)?;
    let key = public_key(key)?;
    let client = Client {
        id: ClientId(entropy::bytes()?),
        name: name.as_str().into(),
        key,
        services: args.services.as_slice().into(),
        expires: args.limits.expires,
        limits: args.limits.limits(),
        invited_until: None,
    };
    let profile = profile(config, &settings, &keys, &client, args.profile.door.as_deref())?;
    let done = format!("`{}` is enrolled", client.name);
    let door = args.profile.door.as_deref();
    hand_over(&settings, &profile, args.profile.out.as_deref(), door, &done, |label, text| {
        refuse_invited(&settings, &client)?;
        add_line(label, text, &client, door)
    })
}

/// Fails if somebody is invited under the client's name, or has joined with its name or key.
fn refuse_invited(settings: &Settings, client: &Client) -> Result<(), Fault> {
    let joined = joined::text(&ClientFiles::of(settings).joined)?;
    if !authorized::stands_in(&joined, Some(&client.key), Some(&client.name)) {
        return Ok(());
    }
    let what = format!("`{}`, or its key, is invited or has joined already", client.name);
    let remedy = "choose another name, or revoke the other one first: `toctocd client list`";
    Err(Fault::new(what, remedy).of(FaultKind::Name))
}

/// Appends the client's line, with a note of the door whose sequence its profile has.
fn add_line(label: &str, text: &str, client: &Client, door: Option<&str>) -> Result<String, Fault> {
    let text = authorized::add(label, text, client)?;
    Ok(match door {
        Some(door) => authorized::note_door(&text, client.id, door),
        None => text,
    })
}

/// Fails if a profile, or an invitation, could not say where to knock.
pub(super) fn refuse_without_address(config: &Path, settings: &Settings) -> Result<(), Fault> {
    if !settings.gateway.addresses.is_empty() {
        return Ok(());
    }
    let what = format!(
        "{}: [gateway] addresses is empty, so a client could not know where to knock",
        config.display()
    );
    Err(Fault::new(what, "write for example addresses = [\"gate.example.org\"] there"))
}

fn profile(
    config: &Path, settings: &Settings, keys: &GatewayFile, client: &Client, door: Option<&str>,
) -> Result<Zeroizing<String>, Fault> {
    refuse_without_address(config, settings)?;
    let fallback = match door {
        Some(door) => Some(fallback(settings, door)?),
        None => None,
    };
    let profile = Profile {
        name: client.name.to_string(),
        client: client.id,
        key: client.key.clone(),
        addresses: settings.gateway.addresses.clone(),
        port: settings.knock.port,
        side: ClientSide {
            gateway_public: keys.public(),
            secrets: keys.client_secrets(client.id),
            gateway: keys.gateway,
            realm: keys.realm.duplicate(),
        },
        default_service: client.services.first().copied(),
        services: client.services.to_vec(),
        expires: client.expires,
        identity: None,
        agent: None,
        fallback,
    };
    Ok(profile.print())
}

/// Writes the profile, then the clients file, then tells a running gateway.
fn hand_over(
    settings: &Settings, profile: &Zeroizing<String>, out: Option<&Path>, door: Option<&str>,
    done: &str, change: impl FnOnce(&str, &str) -> Result<String, Fault>,
) -> Result<CommandOutput, Fault> {
    let files: Vec<(&Path, &str)> = out.iter().map(|out| (*out, profile.as_str())).collect();
    enrol(settings, &files, change)?;
    Ok(handed_over(settings, profile, out, door, done))
}

/// Tells a running gateway, and says where the profile is.
fn handed_over(
    settings: &Settings, profile: &Zeroizing<String>, out: Option<&Path>, door: Option<&str>,
    done: &str,
) -> CommandOutput {
    let mut output = follow_up(settings, done);
    match out {
        Some(out) => output.err += &format!("its profile is {}\n", out.display()),
        None => output.out = profile.clone(),
    }
    if let Some(door) = door {
        output.err += &format!(
            "it also contains the classic sequence of door [{door}]: whoever sees that sent can repeat it\n"
        );
    }
    output.err +=
        "the profile holds secrets: send it over a private channel; there: toctoc import FILE\n";
    output
}

/// Writes the profiles, each to its new file, then the clients file. After a fault nothing has
/// changed.
fn enrol(
    settings: &Settings, profiles: &[(&Path, &str)],
    change: impl FnOnce(&str, &str) -> Result<String, Fault>,
) -> Result<(), Fault> {
    write_then(profiles, || {
        // Nobody joins meanwhile with the same key.
        let _lock = joined::lock(&ClientFiles::of(settings).joined)?;
        rewrite(settings, |label, bytes| {
            let text = std::str::from_utf8(bytes)
                .map_err(|error| files::not_text(Path::new(label), error))?;
            change(label, text).map(String::into_bytes)
        })
    })
}

/// Writes new files, then does the rest. After a fault in that the files are gone again.
pub(super) fn write_then(
    files: &[(&Path, &str)], rest: impl FnOnce() -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut written = Vec::new();
    let mut done = Ok(());
    // The files first: a client that is enrolled without one would have to be revoked again.
    for (file, text) in files {
        done = files::create(file, text.as_bytes(), 0o600);
        if done.is_err() {
            break;
        }
        written.push(file);
    }
    if done.is_ok() {
        done = rest();
    }
    if done.is_err() {
        for file in written {
            // It may be gone already.
            let _ = std::fs::remove_file(file);
        }
    }
    done
}

/// Changes the clients file under a lock, so that two admins at once keep each other's changes.
fn rewrite(
    settings: &Settings, change: impl FnOnce(&str, &[u8]) -> Result<Vec<u8>, Fault>,
) -> Result<(), Fault> {
    let path = &settings.gateway.clients_file;
    let _lock = lock(path)?;
    let before = load::clients_bytes(path)?;
    let after = change(&path.display().to_string(), &before)?;
    // No gateway could read it.
    if after.len() as u64 > files::LIMIT {
        let what =
            format!("{}: it would be longer than {} MiB", path.display(), files::LIMIT >> 20);
        return Err(Fault::new(what, "revoke clients that are no longer needed"));
    }
    files::replace(path, &after, 0o600)
}

/// Takes the lock for changes of the clients file. It is on a file beside it that nobody else can
/// ever have opened. The clients file itself may have been readable by others before, and whoever
/// has it open can hold its lock.
fn lock(path: &Path) -> Result<FileLock, Fault> {
    if files::check_way(path)?.is_none() {
        // Nothing to change: reading it has the message.
        load::clients_text(path)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let beside = Path::new(&beside);
    if files::readable_by_others(beside).is_some() {
        // A copy that lost its mode. If it cannot be removed, its lock counts.
        let _ = std::fs::remove_file(beside);
    }
    match files::lock(beside, PATIENCE) {
        Ok(lock) => Ok(lock),
        Err(LockFault::Unusable(fault)) => Err(fault),
        Err(LockFault::Held(by)) => Err(Fault::new(
            format!("{}: nothing was changed: {by} is changing it", path.display()),
            "let that command end, or end it, then try again",
        )
        .of(FaultKind::Held)),
    }
}

/// Tells a running gateway. The files are changed already: if it refuses, the output says so.
pub(super) fn follow_up(settings: &Settings, done: &str) -> CommandOutput {
    let mut output = CommandOutput { code: DONE, ..CommandOutput::data(String::new()) };
    match admin::reload_if_running(settings) {
        Ok(true) => output.err = format!("{done}; the running gateway has reloaded\n"),
        Ok(false) => output.err = format!("{done}; no gateway is running here\n"),
        Err(fault) => {
            output.err =
                format!("{done} in the file, but the running gateway could not reload: {fault}\n");
            output.code = FAILED;
        }
    }
    output
}

pub(super) fn check_services(settings: &Settings, wanted: &[ServiceName]) -> Result<(), Fault> {
    let known: Vec<&str> = settings.services.iter().map(|service| service.name.as_str()).collect();
    for service in wanted {
        if !known.contains(&service.as_str()) {
            let what = format!("this gateway has no service `{service}`");
            return Err(Fault::new(what, did_you_mean(service.as_str(), &known)));
        }
    }
    Ok(())
}

fn did_you_mean(name: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("configured: {}", known.join(", ")),
    }
}

/// The sequence of the door called `name`, if clients can use it again and again, with ordinary
/// packets to the addresses of the profile.
pub(super) fn fallback(settings: &Settings, name: &str) -> Result<Fallback, Fault> {
    let Some(door) = settings.doors.iter().find(|door| door.name == name) else {
        let known: Vec<&str> = settings.doors.iter().map(|door| door.name.as_str()).collect();
        let remedy = match known.is_empty() {
            true => "it has no classic doors: leave --door out".to_owned(),
            false => did_you_mean(name, &known),
        };
        return Err(Fault::new(format!("this gateway has no door `{}`", printable(name)), remedy));
    };
    let elsewhere =
        door.target.as_ref().filter(|target| !settings.gateway.addresses.contains(target));
    let (why, remedy) = if door.one_time_sequences.is_some() {
        (
            "each of its sequences can be used only once".to_owned(),
            "name a door with one `sequence`",
        )
    } else if let Some(target) = elsewhere {
        (
            format!("only packets to {target} count"),
            "write that address into [gateway] addresses too",
        )
    } else if door.sequence.iter().any(|step| step.is_tcp()) && !door.flags.fit(SYN) {
        (
            "its tcpflags ask for more than a plain SYN".to_owned(),
            "leave tcpflags out, or name another door",
        )
    } else if door.sequence.iter().any(|step| Step::read(&step.notation()) != Some(*step)) {
        ("one of its steps is port 0".to_owned(), "choose other ports")
    } else {
        return Ok(Fallback { sequence: door.sequence.clone(), offer: false });
    };
    Err(Fault::new(format!("door [{name}] cannot be used from a profile: {why}"), remedy))
}

/// The flags of the one TCP packet that any client can send.
const SYN: u8 = 2;

/// The key from the command line, or in the file that it names there, with or without `@`.
pub(super) fn public_key(text: &str) -> Result<PublicKey, Fault> {
    let path = match text.strip_prefix('@') {
        Some(path) => path,
        // No line of a key looks like a path: it has a blank.
        None if !text.contains(char::is_whitespace) && is_path(text) => text,
        None => return key_of("--key", text),
    };
    let file = files::read(Path::new(path), FileCheck::Trusted)?;
    if file.contains("PRIVATE KEY") {
        let what = format!("{path}: this is a private key");
        return Err(Fault::new(what, format!("use {path}.pub; never give a private key away")));
    }
    let mut lines = file.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let line = lines.next().unwrap_or("");
    match lines.count() {
        0 => key_of(path, line),
        more => {
            let what = format!("{path}: it has {} keys, and --key enrols one", more + 1);
            let remedy = format!(
                "toctocd client add --authorized-keys {path} --services SERVICES --out DIRECTORY"
            );
            Err(Fault::new(what, remedy))
        }
    }
}

fn is_path(word: &str) -> bool {
    word.contains('/') || word.ends_with(".pub") || Path::new(word).exists()
}

fn key_of(place: &str, line: &str) -> Result<PublicKey, Fault> {
    match PublicKey::from_line(line) {
        Ok((key, _)) => Ok(key),
        Err(Fault { what, remedy, .. }) => Err(Fault::new(format!("{place}: {what}"), remedy)),
    }
}
