//! The client's own files: profiles and private keys found, made, imported, shown.
//! Their texts are left to `keys`, checked opening to `edge::files`, asking to `edge::terminal`.

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::app::args::toctoc::{Import, Keygen};
use crate::app::paths;
use crate::core::diagnostic::printable;
use crate::core::types::{Fault, ServiceName};
use crate::edge::files::{self, FileCheck};
use crate::edge::{entropy, terminal};
use crate::keys::identity::{Identity, KeyFile, Locked, Signer};
use crate::keys::profile::Profile;
use crate::keys::public::{PublicKey, show_fingerprint};

/// How often a passphrase may be mistyped.
const TRIES: usize = 3;
/// The most that standard input may hold for `import`.
const LONGEST_PROFILE: u64 = 1 << 16;

/// Reads the profile called `name`, and says where it lies.
pub(super) fn profile(name: &str) -> Result<(Profile, PathBuf), Fault> {
    let path = paths::profile(name)?;
    let text = files::read(&path, FileCheck::Secret).map_err(|fault| match path.exists() {
        true => fault,
        false => Fault::new(
            format!("no profile `{}` ({})", printable(name), path.display()),
            known_profiles(),
        ),
    })?;
    Ok((Profile::parse(&path.display().to_string(), &text)?, path))
}

/// The private key that fits `profile`: the one that is named, or the first of the usual ones that
/// fits.
pub(super) fn signer(
    profile: &Profile,
    profile_path: &Path,
    named: Option<&Path>,
) -> Result<Signer, Fault> {
    let from_profile =
        profile.identity.as_deref().map(|path| paths::expand(path, &files::parent(profile_path)));
    if let Some(path) = named.map(Path::to_owned).or(from_profile) {
        let file = key_file(&path)?;
        let theirs = public_half(&file);
        if theirs.as_ref() != Some(&profile.key) {
            return Err(wrong_key(&path, theirs.as_ref(), profile));
        }
        return unlock(file, &path).map(Signer::Key);
    }
    let (mut looked, mut mend) = (Vec::new(), None);
    for path in paths::identities()?.into_iter().filter(|path| path.exists()) {
        // A usual key may well be of another type, or somebody else's: then it is not the one that
        // is meant.
        match key_file(&path) {
            Ok(file) if public_half(&file).as_ref() == Some(&profile.key) => {
                return unlock(file, &path).map(Signer::Key);
            }
            Ok(_) => looked.push(format!("{} is another key", path.display())),
            Err(fault) => {
                looked.push(fault.what);
                mend = mend.or(Some(fault.remedy).filter(|remedy| remedy.starts_with("chmod")));
            }
        }
    }
    let seen = if looked.is_empty() {
        "none is in the usual places".to_owned()
    } else {
        looked.join("; ")
    };
    Err(Fault::new(
        format!("no private key for {}: {seen}", show_fingerprint(&profile.key.fingerprint())),
        mend.unwrap_or_else(|| {
            format!(
                "name it with --identity, or write identity = \"...\" into {}",
                profile_path.display()
            )
        }),
    ))
}

fn key_file(path: &Path) -> Result<KeyFile, Fault> {
    KeyFile::parse(&path.display().to_string(), &files::read(path, FileCheck::Secret)?)
}

fn public_half(file: &KeyFile) -> Option<PublicKey> {
    match file {
        KeyFile::Open(identity) => Some(*identity.public()),
        KeyFile::Locked(locked) => locked.public(),
    }
}

fn unlock(file: KeyFile, path: &Path) -> Result<Identity, Fault> {
    match file {
        KeyFile::Open(identity) => Ok(identity),
        KeyFile::Locked(locked) => ask_passphrase(&locked, path),
    }
}

fn ask_passphrase(locked: &Locked, path: &Path) -> Result<Identity, Fault> {
    for _ in 0..TRIES {
        let passphrase = terminal::ask_secret(&format!("Passphrase of {}: ", path.display()))?;
        if let Some(identity) = locked.unlock(&path.display().to_string(), &passphrase)? {
            return Ok(identity);
        }
    }
    Err(Fault::new(
        format!("{}: that is not its passphrase", path.display()),
        format!("`ssh-keygen -y -f {}` tries it as well", path.display()),
    ))
}

fn wrong_key(path: &Path, theirs: Option<&PublicKey>, profile: &Profile) -> Fault {
    let theirs = theirs.map_or_else(
        || "not an ssh-ed25519 key".to_owned(),
        |key| show_fingerprint(&key.fingerprint()),
    );
    Fault::new(
        format!(
            "{}: {theirs}, but `{}` is enrolled with {}",
            path.display(),
            profile.name,
            show_fingerprint(&profile.key.fingerprint())
        ),
        "name the key that was enrolled, or have this one enrolled and import the new profile",
    )
}

/// `toctoc keygen`.
pub(super) fn keygen(args: &Keygen) -> Result<String, Fault> {
    let path = match &args.out {
        Some(path) => path.clone(),
        None => {
            let directory = paths::directory()?;
            files::make_directory(&directory, 0o700)?;
            directory.join("id_ed25519")
        }
    };
    let mut public_path = path.clone().into_os_string();
    public_path.push(".pub");
    let public_path = PathBuf::from(public_path);
    if let Some(there) =
        [&path, &public_path].into_iter().find(|path| path.symlink_metadata().is_ok())
    {
        return Err(Fault::new(
            format!("{}: exists already; nothing was changed", there.display()),
            "use --out with another name",
        ));
    }
    if args.comment.chars().any(char::is_control) {
        return Err(Fault::new(
            "the comment holds control characters",
            "write one line of plain text",
        ));
    }
    let passphrase = if args.no_passphrase { Zeroizing::default() } else { new_passphrase()? };
    let identity = Identity::new(entropy::secret()?)?;
    let lock = match passphrase.is_empty() {
        true => None,
        false => Some((passphrase.as_str(), entropy::bytes()?)),
    };
    let line = format!("{} {}\n", identity.public().line(), args.comment);
    files::create(&path, identity.print(&args.comment, lock)?.as_bytes(), 0o600)?;
    files::create(&public_path, line.as_bytes(), 0o644)?;
    Ok(format!(
        "made {} and {}; give the gateway's admin this line:\n{line}",
        path.display(),
        public_path.display()
    ))
}

fn new_passphrase() -> Result<Zeroizing<String>, Fault> {
    let without =
        |fault: Fault| Fault::new(fault.what, "run it in a terminal, or with --no-passphrase");
    let first =
        terminal::ask_secret("Passphrase for the new key (empty for none): ").map_err(without)?;
    let second = terminal::ask_secret("The same again: ").map_err(without)?;
    match *first == *second {
        true => Ok(first),
        false => Err(Fault::new("the two passphrases differ; nothing was made", "run it again")),
    }
}

/// `toctoc import`: what for standard output, and hints for standard error.
pub(super) fn import(args: &Import) -> Result<(String, String), Fault> {
    let piped = args.file == Path::new("-");
    let text = if piped { standard_input()? } else { files::read(&args.file, FileCheck::Trusted)? };
    let label = if piped { "standard input".to_owned() } else { args.file.display().to_string() };
    let profile = Profile::parse(&label, &text)?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => {
            profile.addresses.first().map(|host| paths::profile_name_of(host)).unwrap_or_default()
        }
    };
    if !paths::is_profile_name(&name) {
        return Err(Fault::new(
            format!("`{}` cannot be a profile's name", printable(&name)),
            "choose one with --name, of letters, digits, and . _ - (not first)",
        ));
    }
    let directory = paths::directory()?.join("profiles");
    files::make_directory(&directory, 0o700)?;
    let path = directory.join(format!("{name}.toml"));
    if args.replace {
        files::replace(&path, text.as_bytes(), 0o600)?;
    } else {
        files::create(&path, text.as_bytes(), 0o600).map_err(|fault| {
            Fault::new(
                fault.what,
                "give it another name with --name, or take its place with --replace",
            )
        })?;
    }
    let services: Vec<&str> = profile.services.iter().map(ServiceName::as_str).collect();
    let example = profile.default_service.map(|service| format!(" {service}")).unwrap_or_default();
    let out = format!(
        "imported as {name}: opens {}\n  toctoc open {name}{example}\n",
        services.join(", ")
    );
    let mut err = String::new();
    if let Some(mode) = files::readable_by_others(&args.file).filter(|_| !piped) {
        let file = args.file.display();
        let _ = writeln!(
            err,
            "{file}: others could read its secrets (mode {mode:04o}): chmod 600 {file}"
        );
    }
    if !piped {
        let _ = writeln!(err, "{} holds the same secrets: remove it", args.file.display());
    }
    if !has_key(&profile, &path) {
        let fingerprint = show_fingerprint(&profile.key.fingerprint());
        let _ = writeln!(
            err,
            "its private key ({fingerprint}) is not in the usual places: use --identity, or write identity = \"...\" into {}",
            path.display()
        );
    }
    Ok((out, err))
}

/// Whether the private key can be found, without asking for a passphrase.
fn has_key(profile: &Profile, path: &Path) -> bool {
    let named =
        profile.identity.as_deref().map(|identity| paths::expand(identity, &files::parent(path)));
    let candidates = match named {
        Some(path) => vec![path],
        None => paths::identities().unwrap_or_default(),
    };
    let fits = |path: &PathBuf| {
        key_file(path).ok().and_then(|file| public_half(&file)) == Some(profile.key)
    };
    candidates.iter().any(fits)
}

fn standard_input() -> Result<Zeroizing<String>, Fault> {
    // Room for all of it at once: a string that grows leaves copies of secrets behind.
    let mut bytes =
        Zeroizing::new(Vec::with_capacity(usize::try_from(LONGEST_PROFILE).unwrap_or(0)));
    let read = std::io::stdin().lock().take(LONGEST_PROFILE).read_to_end(&mut bytes);
    read.map_err(|e| Fault::new(format!("standard input: {e}"), "give the profile as a file"))?;
    files::text(Path::new("standard input"), bytes)
}

/// `toctoc profiles`.
pub(super) fn profiles(json: bool) -> Result<(String, String), Fault> {
    let (mut out, mut err, mut list) = (String::new(), String::new(), Vec::new());
    for name in names()? {
        match profile(&name) {
            Ok((profile, path)) => {
                let services: Vec<&str> =
                    profile.services.iter().map(ServiceName::as_str).collect();
                let hosts = profile.addresses.join(", ");
                let _ = writeln!(
                    out,
                    "{name}: opens {} at {hosts}, as `{}`",
                    services.join(", "),
                    profile.name
                );
                let offered = profile.fallback.as_ref().map(|fallback| fallback.offer);
                if let Some(offered) = offered {
                    let when = if offered {
                        "offered after a knock without an answer"
                    } else {
                        "never offered"
                    };
                    let _ = writeln!(
                        out,
                        "  holds a door's classic sequence, {when}: toctoc open --classic {name}"
                    );
                }
                list.push(serde_json::json!({
                    "profile": name, "file": path.display().to_string(), "addresses": profile.addresses,
                    "port": profile.port, "services": services, "client": profile.name,
                    "classic": offered.map(|offered| if offered { "ask" } else { "never" }),
                }));
            }
            Err(fault) => {
                let _ = writeln!(err, "{fault}");
            }
        }
    }
    if json {
        out = format!("{:#}\n", serde_json::Value::from(list));
    } else if out.is_empty() && err.is_empty() {
        out = "no profiles; ask a gateway's admin for one, then: toctoc import FILE\n".to_owned();
    }
    Ok((out, err))
}

fn known_profiles() -> String {
    match names() {
        Ok(names) if !names.is_empty() => format!("there are: {}", names.join(", ")),
        _ => "ask the gateway's admin for one, then: toctoc import FILE".to_owned(),
    }
}

/// The names of the profiles that are there, in order.
fn names() -> Result<Vec<String>, Fault> {
    let directory = paths::directory()?.join("profiles");
    let Ok(entries) = std::fs::read_dir(&directory) else { return Ok(Vec::new()) };
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            entry.ok()?.file_name().to_str()?.strip_suffix(".toml").map(str::to_owned)
        })
        .filter(|name| paths::is_profile_name(name))
        .collect();
    names.sort();
    Ok(names)
}
