//! The client's own files: finding and making profiles and private keys.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::json;
use zeroize::Zeroizing;

use super::signer::HeldProfile;
use crate::app::args::toctoc::Keygen;
use crate::app::output::CommandOutput;
use crate::app::paths::{UserPaths, is_profile_name};
use crate::core::diagnostic::printable;
use crate::core::types::Fault;
use crate::edge::files::{self, FileCheck};
use crate::edge::{entropy, terminal};
use crate::keys::identity::Identity;
use crate::keys::profile::Profile;

/// The most that standard input may hold for `import`, in bytes.
const LONGEST_PROFILE: usize = 1 << 16;

pub(super) fn profile(paths: &UserPaths, name: &str) -> Result<HeldProfile, Fault> {
    let path = paths.profile(name)?;
    let text = match files::read(&path, FileCheck::Secret) {
        Ok(text) => text,
        Err(fault) if path.exists() => return Err(fault),
        Err(_) => {
            let what = format!("no profile `{}` ({})", printable(name), path.display());
            return Err(Fault::new(what, known_profiles(paths)));
        }
    };
    let profile = Profile::parse(&path.display().to_string(), &text)?;
    Ok(HeldProfile { name: name.to_owned(), profile, path })
}

/// `toctoc keygen`.
pub(super) fn keygen(paths: &UserPaths, args: &Keygen) -> Result<CommandOutput, Fault> {
    let place = new_place(paths, args)?;
    let passphrase = if args.no_passphrase { Zeroizing::default() } else { new_passphrase()? };
    make_at(&place, args, &passphrase)
}

/// Makes a key; an empty passphrase is none.
pub(super) fn make(
    paths: &UserPaths, args: &Keygen, passphrase: &Zeroizing<String>,
) -> Result<CommandOutput, Fault> {
    make_at(&new_place(paths, args)?, args, passphrase)
}

/// The files of a new key.
struct NewPlace {
    path: PathBuf,
    public_path: PathBuf,
}

/// Error: there is a file already, or the comment cannot be one.
fn new_place(paths: &UserPaths, args: &Keygen) -> Result<NewPlace, Fault> {
    let path = match &args.out {
        Some(path) => path.clone(),
        None => {
            let directory = paths.toctoc()?;
            files::make_directory(&directory, 0o700)?;
            directory.join("id_ed25519")
        }
    };
    let mut public_path = path.clone().into_os_string();
    public_path.push(".pub");
    let public_path = PathBuf::from(public_path);
    for file in [&path, &public_path] {
        if file.symlink_metadata().is_ok() {
            return Err(Fault::new(
                format!("{}: exists already; nothing was changed", file.display()),
                "use --out with another name",
            ));
        }
    }
    if args.comment.chars().any(char::is_control) {
        return Err(Fault::new(
            "the comment contains control characters",
            "write one line of plain text",
        ));
    }
    Ok(NewPlace { path, public_path })
}

fn make_at(
    place: &NewPlace, args: &Keygen, passphrase: &Zeroizing<String>,
) -> Result<CommandOutput, Fault> {
    let NewPlace { path, public_path } = place;
    let identity = Identity::new(entropy::secret()?)?;
    let lock = match passphrase.is_empty() {
        true => None,
        false => Some((passphrase.as_str(), entropy::bytes()?)),
    };
    let line = format!("{} {}\n", identity.public().line(), args.comment);
    files::create(path, identity.print(&args.comment, lock)?.as_bytes(), 0o600)?;
    files::create(public_path, line.as_bytes(), 0o644)?;
    let (path, public_path) = (path.display().to_string(), public_path.display().to_string());
    let text =
        format!("made {path} and {public_path}\ngive this line to the gateway's admin:\n{line}");
    let value = json!({ "file": path, "public_file": public_path, "line": line.trim_end() });
    Ok(CommandOutput { value: Some(value), ..CommandOutput::data(text) })
}

fn new_passphrase() -> Result<Zeroizing<String>, Fault> {
    let first = ask_new("Passphrase for the new key (empty for none): ")?;
    let second = ask_new("The same passphrase again: ")?;
    match *first == *second {
        true => Ok(first),
        false => Err(Fault::new("the two passphrases differ; no key was made", "run it again")),
    }
}

fn ask_new(question: &str) -> Result<Zeroizing<String>, Fault> {
    terminal::ask_secret(question)
        .map_err(|fault| Fault::new(fault.what, "run it in a terminal, or with --no-passphrase"))
}

/// A secret from this input; `what` names it.
pub(super) fn read_from(
    standard_input: &mut dyn Read, what: &str,
) -> Result<Zeroizing<String>, Fault> {
    // Room for all of it at once: a string that grows leaves copies of secrets behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST_PROFILE));
    match standard_input.take(LONGEST_PROFILE as u64).read_to_end(&mut bytes) {
        Ok(_) => files::text(Path::new("standard input"), bytes),
        Err(error) => {
            Err(Fault::new(format!("standard input: {error}"), format!("give {what} as a file")))
        }
    }
}

/// A secret from standard input; `what` names it.
pub(super) fn read_input(what: &str) -> Result<Zeroizing<String>, Fault> {
    read_from(&mut std::io::stdin().lock(), what)
}

pub(super) const NO_PROFILE: &str = "ask a gateway's admin to invite you, then: toctoc join";

/// What to do if there is no profile of that name.
pub(super) fn known_profiles(paths: &UserPaths) -> String {
    match names(paths) {
        Ok(names) if !names.is_empty() => format!("you have: {}", names.join(", ")),
        _ => NO_PROFILE.to_owned(),
    }
}

/// The names of all profiles, sorted.
pub(super) fn names(paths: &UserPaths) -> Result<Vec<String>, Fault> {
    names_of(paths, ".toml")
}

/// The names of the profiles to be whose key waits for approval, sorted.
pub(super) fn pending_names(paths: &UserPaths) -> Result<Vec<String>, Fault> {
    let profiles = names(paths)?;
    let mut waiting = names_of(paths, ".pending")?;
    // One that has its profile is what a killed program left.
    waiting.retain(|name| !profiles.contains(name));
    Ok(waiting)
}

fn names_of(paths: &UserPaths, suffix: &str) -> Result<Vec<String>, Fault> {
    let mut names = Vec::new();
    let Ok(entries) = std::fs::read_dir(paths.profiles()?) else { return Ok(names) };
    for entry in entries.flatten() {
        let file = entry.file_name();
        if let Some(file) = file.to_str()
            && let Some(name) = file.strip_suffix(suffix)
            && is_profile_name(name)
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}
