//! Enrolling, listing and revoking clients: the clients file is rewritten whole, under a lock, and
//! a running gateway told. The line of a client is left to `keys::authorized`, its profile to
//! `keys::profile`.

use std::path::Path;

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::CommandOutput;
use crate::app::args::toctocd::{ClientAdd, ProfileArgs};
use crate::app::{admin, load};
use crate::config::Settings;
use crate::core::diagnostic::{nearest, printable};
use crate::core::door::Step;
use crate::core::service::Client;
use crate::core::types::{ClientId, Fault, ServiceName};
use crate::core::wire::ClientSide;
use crate::edge::entropy;
use crate::edge::files::{self, FileCheck};
use crate::keys::authorized;
use crate::keys::gateway::GatewayFile;
use crate::keys::profile::{Fallback, Profile};
use crate::keys::public::{PublicKey, show_fingerprint};

/// Enrols a client: its line in the file, its profile on standard output or in the file that
/// `--out` names.
///
/// # Errors
/// Nothing was changed: a bad key, an unknown service, a name or key that is taken, no address for
/// the profile.
pub fn add(config: &Path, args: &ClientAdd) -> Result<CommandOutput, Fault> {
    let settings = load::settings(config)?;
    let keys = load::keys(&settings)?;
    check_services(&settings, &args.services)?;
    let key = public_key(&args.key)?;
    let client = Client {
        id: ClientId(entropy::bytes()?),
        name: args.name.clone(),
        key: key.bytes(),
        fingerprint: key.fingerprint(),
        services: args.services.clone(),
        expires: args.expires,
        max_seconds: args.max_seconds,
    };
    let line =
        |label: &str, text: &str| authorized::add(label, text, &client).map(|text| (text, ()));
    let text = profile(config, &settings, &keys, &client, args.profile.door.as_deref())?;
    hand_over(&settings, &text, &args.profile, line, &format!("`{}` is enrolled", client.name))
}

/// Gives a client a clean start: a new id, and so a new profile; its key, its services and its
/// limits stay.
///
/// Marks in the future cannot simply be dropped: a packet that was sent without a challenge, by a
/// clock that was ahead, counts when its time has come unless its mark is there. Under a new id
/// every packet that the client ever sent is a stranger's: its tag is unknown. So no mark of it is
/// needed, and none is in anybody's way.
///
/// # Errors
/// Nothing was changed: nobody has that name, no address for the profile.
pub fn forgive(config: &Path, name: &str, args: &ProfileArgs) -> Result<CommandOutput, Fault> {
    let settings = load::settings(config)?;
    let keys = load::keys(&settings)?;
    let path = &settings.gateway.clients_file;
    let (_, old) = authorized::revoke(
        &path.display().to_string(),
        &files::read(path, FileCheck::Trusted)?,
        name,
    )?;
    let client = Client { id: ClientId(entropy::bytes()?), ..old.clone() };
    let line = |label: &str, text: &str| {
        let (without, there) = authorized::revoke(label, text, name)?;
        if there != old {
            return Err(Fault::new(
                format!("{label}: `{name}` has just been changed by somebody else"),
                "try again",
            ));
        }
        authorized::add(label, &without, &client).map(|text| (text, ()))
    };
    let text = profile(config, &settings, &keys, &client, args.door.as_deref())?;
    let done = format!(
        "`{name}` starts anew: what it sent before, and its old profile, are worth nothing"
    );
    hand_over(&settings, &text, args, line, &done)
}

/// The text of a client's profile.
fn profile(
    config: &Path,
    settings: &Settings,
    keys: &GatewayFile,
    client: &Client,
    door: Option<&str>,
) -> Result<Zeroizing<String>, Fault> {
    if settings.gateway.addresses.is_empty() {
        return Err(Fault::new(
            format!(
                "{}: [gateway] addresses is empty, so a profile could not say where to knock",
                config.display()
            ),
            "write for example addresses = [\"gate.example.org\"] there",
        ));
    }
    let fallback = door.map(|door| fallback(settings, door)).transpose()?;
    let profile = Profile {
        name: client.name.clone(),
        client: client.id,
        key: PublicKey::new(client.key)?,
        addresses: settings.gateway.addresses.clone(),
        port: settings.knock.port,
        side: ClientSide {
            gateway_public: keys.public(),
            keys: keys.master.client_keys(client.id),
            gateway: keys.gateway,
            realm: keys.realm.duplicate(),
        },
        default_service: client.services.first().copied(),
        services: client.services.clone(),
        identity: None,
        fallback,
    };
    Ok(profile.print())
}

/// Writes the profile, then the clients file, then tells a running gateway.
fn hand_over(
    settings: &Settings,
    profile: &Zeroizing<String>,
    args: &ProfileArgs,
    line: impl FnOnce(&str, &str) -> Result<(String, ()), Fault>,
    done: &str,
) -> Result<CommandOutput, Fault> {
    // First what can fail without having enrolled anybody: a client without a profile would have to
    // be revoked again.
    if let Some(out) = &args.out {
        files::create(out, profile.as_bytes(), 0o600)?;
    }
    if let Err(fault) = rewrite(settings, line) {
        args.out.iter().for_each(|out| drop(std::fs::remove_file(out)));
        return Err(fault);
    }
    let mut said = follow_up(settings, done);
    match &args.out {
        Some(out) => said.err += &format!("its profile is {}\n", out.display()),
        None => said.out = profile.clone(),
    }
    if let Some(door) = &args.door {
        said.err += &format!(
            "it also holds the classic sequence of door [{door}]: whoever sees that sent can repeat it\n"
        );
    }
    said.err += "the profile holds secrets: hand it over in private; there: toctoc import FILE\n";
    Ok(said)
}

/// Shows who is enrolled.
///
/// # Errors
/// Configuration or clients file cannot be read.
pub fn list(config: &Path, json: bool) -> Result<CommandOutput, Fault> {
    let clients = load::clients(&load::settings(config)?)?;
    Ok(CommandOutput::out(if json { as_json(&clients) } else { as_table(&clients) }))
}

/// Removes a client.
///
/// # Errors
/// Nothing was changed: nobody has that name.
pub fn revoke(config: &Path, name: &str) -> Result<CommandOutput, Fault> {
    let settings = load::settings(config)?;
    let client = rewrite(&settings, |label, text| authorized::revoke(label, text, name))?;
    Ok(follow_up(&settings, &format!("`{}` is revoked", client.name)))
}

/// Changes the clients file under a lock, so that two admins at once do not undo each other.
fn rewrite<T>(
    settings: &Settings,
    change: impl FnOnce(&str, &str) -> Result<(String, T), Fault>,
) -> Result<T, Fault> {
    let path = &settings.gateway.clients_file;
    let _lock = files::lock_directory(path)?;
    let text = files::read(path, FileCheck::Trusted)?;
    let (text, answer) = change(&path.display().to_string(), &text)?;
    files::replace(path, text.as_bytes(), 0o600).map(|()| answer)
}

/// Tells a running gateway; the files are changed already, so its refusal is trouble but no
/// undoing.
fn follow_up(settings: &Settings, done: &str) -> CommandOutput {
    let (err, code) = match admin::tell_reload(settings) {
        Ok(true) => (format!("{done}; the running gateway knows\n"), 0),
        Ok(false) => (format!("{done}; no gateway is running here\n"), 0),
        Err(fault) => {
            (format!("{done} in the file, but the running gateway has not followed: {fault}\n"), 1)
        }
    };
    CommandOutput { out: Zeroizing::default(), err, code }
}

fn check_services(settings: &Settings, wanted: &[ServiceName]) -> Result<(), Fault> {
    let known = || settings.services.iter().map(|service| service.name);
    let Some(stranger) = wanted.iter().find(|name| !known().any(|service| service == **name))
    else {
        return Ok(());
    };
    let known: Vec<String> = known().map(|name| name.to_string()).collect();
    let remedy = match nearest(stranger.as_str(), known.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("configured are: {}", known.join(", ")),
    };
    Err(Fault::new(format!("this gateway has no service `{stranger}`"), remedy))
}

/// The sequence of the door called `name`, if a client can use it for long and from far: ordinary
/// packets to the addresses of the profile.
fn fallback(settings: &Settings, name: &str) -> Result<Fallback, Fault> {
    let Some(door) = settings.doors.iter().find(|door| door.name == name) else {
        let known: Vec<&str> = settings.doors.iter().map(|door| door.name.as_str()).collect();
        let remedy = match nearest(name, known.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if known.is_empty() => {
                "it has no classic door at all: leave --door out".to_owned()
            }
            None => format!("configured are: {}", known.join(", ")),
        };
        return Err(Fault::new(format!("this gateway has no door `{}`", printable(name)), remedy));
    };
    let refuse = |why: String, remedy: &str| {
        Err(Fault::new(format!("door [{name}] is of no use in a profile: {why}"), remedy))
    };
    let elsewhere =
        door.target.as_ref().filter(|target| !settings.gateway.addresses.contains(target));
    if door.one_time_sequences.is_some() {
        return refuse(
            "each of its sequences counts once".into(),
            "name a door with one lasting sequence",
        );
    }
    if let Some(target) = elsewhere {
        return refuse(
            format!("only hits to {target} count"),
            "write that address into [gateway] addresses too",
        );
    }
    if door.sequence.iter().any(|step| step.is_tcp()) && !door.flags.fit(SYN) {
        return refuse(
            "its tcpflags ask for more than a plain SYN".into(),
            "leave tcpflags out, or name another door",
        );
    }
    if door.sequence.iter().any(|step| Step::read(&step.notation()) != Some(*step)) {
        return refuse("one of its steps is port 0".into(), "choose other ports");
    }
    Ok(Fallback { sequence: door.sequence.clone(), offer: false })
}

/// The flags of the one TCP packet that any client can send.
const SYN: u8 = 2;

/// The key from the command line, or from the file that it names with `@`.
fn public_key(text: &str) -> Result<PublicKey, Fault> {
    let Some(path) = text.strip_prefix('@') else {
        return PublicKey::from_line(text)
            .map(|(key, _)| key)
            .map_err(|f| Fault::new(format!("--key: {}", f.what), f.remedy));
    };
    let line = files::read(Path::new(path), FileCheck::Trusted)?;
    let line =
        line.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#')).unwrap_or("");
    PublicKey::from_line(line)
        .map(|(key, _)| key)
        .map_err(|f| Fault::new(format!("{path}: {}", f.what), f.remedy))
}

fn as_json(clients: &[Client]) -> String {
    let clients: Vec<serde_json::Value> = clients
        .iter()
        .map(|client| {
            serde_json::json!({
                "name": client.name,
                "id": client.id.to_string(),
                "services": client.services.iter().map(ServiceName::as_str).collect::<Vec<_>>(),
                "key": show_fingerprint(&client.fingerprint),
                "expires": client.expires.and_then(moment),
                "max_seconds": client.max_seconds,
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::from(clients))
}

fn as_table(clients: &[Client]) -> String {
    if clients.is_empty() {
        return "nobody is enrolled\n".to_owned();
    }
    let rows: Vec<[String; 4]> = clients
        .iter()
        .map(|client| {
            let services: Vec<&str> = client.services.iter().map(ServiceName::as_str).collect();
            let expires = client.expires.and_then(moment).unwrap_or_else(|| "never".to_owned());
            [
                client.name.clone(),
                services.join(","),
                expires,
                show_fingerprint(&client.fingerprint),
            ]
        })
        .collect();
    let titles = ["NAME", "SERVICES", "EXPIRES", "KEY"].map(str::to_owned);
    let width = |column: usize| {
        let cells = rows.iter().chain([&titles]).filter_map(|row| row.get(column));
        cells.map(String::len).max().unwrap_or(0)
    };
    let (name, services, expires) = (width(0), width(1), width(2));
    let mut text = String::new();
    for [a, b, c, d] in std::iter::once(&titles).chain(&rows) {
        text += &format!("{a:name$}  {b:services$}  {c:expires$}  {d}\n");
    }
    text
}

fn moment(seconds: u64) -> Option<String> {
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok().map(|moment| moment.to_string())
}
