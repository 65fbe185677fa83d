//! The private key for a profile, wherever it is: in a file, in the ssh-agent, in a FIDO
//! authenticator. Finds it, and signs with it.

use std::path::{Path, PathBuf};

use crate::app::paths::UserPaths;
use crate::core::authentic::{Message, NAMESPACE, is_signed, sshsig_blob};
use crate::core::bytes::Reader;
use crate::core::diagnostic::printable;
use crate::core::knock::Signature;
use crate::core::public_key::PublicKey;
use crate::core::types::{Fault, FaultKind};
use crate::edge::agent::Agent;
use crate::edge::files::{self, FileCheck};
use crate::edge::ssh_keygen;
use crate::edge::terminal::{self, Note};
use crate::keys::identity::{Identity, KeyFile, Locked};
use crate::keys::profile::Profile;
use crate::keys::public::{show_fingerprint, unusable};
use crate::keys::signature;

/// Attempts to type a passphrase.
const TRIES: usize = 3;

/// A profile, and the path of its file.
pub(super) struct HeldProfile {
    /// Its name or path, as the user typed it.
    pub(super) name: String,
    pub(super) profile: Profile,
    pub(super) path: PathBuf,
}

impl HeldProfile {
    /// The private key file that the profile names, if it names one.
    fn named_identity(&self, paths: &UserPaths) -> Option<PathBuf> {
        let identity = self.profile.identity.as_deref()?;
        Some(paths.expand(identity, &files::parent(&self.path)))
    }

    /// The socket of the agent that the profile names, if it names one.
    fn named_agent(&self, paths: &UserPaths) -> Option<PathBuf> {
        let agent = self.profile.agent.as_deref()?;
        Some(paths.expand(agent, &files::parent(&self.path)))
    }
}

/// A private key that can sign now.
pub(super) struct Signer {
    pub(super) public: PublicKey,
    place: KeyPlace,
}

enum KeyPlace {
    Memory(Identity),
    Agent(Agent),
    /// A FIDO key file.
    Fido(PathBuf),
}

impl Signer {
    pub(super) fn of(identity: Identity) -> Signer {
        Signer { public: identity.public().clone(), place: KeyPlace::Memory(identity) }
    }

    /// Where the key is: `in the ssh-agent at /run/user/1000/agent`.
    pub(super) fn place_text(&self) -> String {
        match &self.place {
            KeyPlace::Memory(_) => "in a file".to_owned(),
            KeyPlace::Agent(agent) => format!("in the {}", shown(agent)),
            KeyPlace::Fido(file) => format!("in the security key of {}", file.display()),
        }
    }

    /// True if a person must touch the authenticator for each signature.
    pub(super) fn wants_touch(&self) -> bool {
        self.public.fido.is_some()
    }

    /// Signs the SSHSIG blob of `message`. May wait for a person, and says so on the terminal.
    pub(super) fn sign(&self, message: &Message) -> Result<Signature, Fault> {
        let fingerprint = show_fingerprint(&self.public.fingerprint());
        if self.wants_touch() {
            terminal::note(&Note::Touch(fingerprint.clone()));
        }
        let (place, made) = match &self.place {
            KeyPlace::Memory(identity) => return Ok(identity.sign(message)),
            KeyPlace::Agent(agent) => {
                let answer = agent.sign(&self.public.blob(), &sshsig_blob(message));
                (shown(agent), answer.map(|bytes| signature::from_agent(&bytes)))
            }
            KeyPlace::Fido(file) => {
                let armor = ssh_keygen::sign(file, NAMESPACE, message);
                let place = file.display().to_string();
                (place, armor.map(|bytes| signature::from_armor(&bytes)))
            }
        };
        let (what, remedy) = match made {
            // A gateway would meet a wrong one with silence.
            Ok(Some(made)) if is_signed(&self.public, message, &made) => return Ok(made),
            Ok(_) => (
                format!("{place}: its signature is not one by {fingerprint}"),
                "try `ssh-keygen -Y sign` with the same key; or use another key",
            ),
            Err(reason) => (
                format!("{place}: no signature by {fingerprint}: {reason}"),
                match self.wants_touch() {
                    true => "plug the security key in, run this again, and touch it when asked",
                    false => {
                        "was the confirmation denied? A key added with `ssh-add -h` signs no knock"
                    }
                },
            ),
        };
        Err(Fault::new(what, remedy).of(FaultKind::Unsigned))
    }
}

fn shown(agent: &Agent) -> String {
    format!("ssh-agent at {}", agent.socket().display())
}

/// The key that is enrolled for a profile, and where to look for it.
struct KeySearch<'a> {
    paths: &'a UserPaths,
    held: &'a HeldProfile,
}

/// What the agent has to do with the enrolled key.
struct AgentLook {
    /// Set if it holds the key.
    holder: Option<Agent>,
    /// What there is instead.
    seen: String,
}

/// The private key for a profile. In this order: the file that the command line or the profile
/// names, the agent, the usual files. A file that wants a passphrase comes after the agent in any
/// case.
pub(super) fn signer(
    paths: &UserPaths, held: &HeldProfile, named: Option<&Path>,
) -> Result<Signer, Fault> {
    let search = KeySearch { paths, held };
    match named.map(Path::to_owned).or(held.named_identity(paths)) {
        Some(path) => search.in_file(&path),
        None => search.everywhere(),
    }
}

/// The public half of the key in this file.
pub(super) fn key_in(path: &Path) -> Result<PublicKey, Fault> {
    Ok(key_file(path)?.public().clone())
}

/// The key that somebody joins with who names none: that of the first usual file, or else the first
/// of the agent that can sign a knock.
pub(super) fn usual_key(paths: &UserPaths) -> Result<Option<PublicKey>, Fault> {
    for path in paths.identities()? {
        // One of another type is no error: it may have another purpose.
        if path.exists()
            && let Ok(key) = key_in(&path)
        {
            return Ok(Some(key));
        }
    }
    for socket in paths.agents() {
        // An agent that does not answer has no key to join with.
        let blobs = Agent::at(socket).keys().unwrap_or_default();
        if let Some(key) = blobs.iter().find_map(|blob| PublicKey::from_blob(blob)) {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

/// True if the private key is found, without asking for a passphrase.
pub(super) fn has_key(paths: &UserPaths, held: &HeldProfile) -> bool {
    let candidates = match held.named_identity(paths) {
        Some(path) => vec![path],
        None => paths.identities().unwrap_or_default(),
    };
    let key = &held.profile.key;
    let is_in_file = candidates.iter().any(|path| match key_file(path) {
        Ok(file) => file.public() == key,
        Err(_) => false,
    });
    is_in_file || KeySearch { paths, held }.look().holder.is_some()
}

impl KeySearch<'_> {
    fn key(&self) -> &PublicKey {
        &self.held.profile.key
    }

    fn in_file(&self, path: &Path) -> Result<Signer, Fault> {
        let file = match key_file(path) {
            Err(fault) if !path.exists() => return Err(fault.of(FaultKind::NoKey)),
            found => found?,
        };
        if file.public() != self.key() {
            return Err(self.wrong_key(path, file.public()));
        }
        match file {
            KeyFile::Open(identity) => Ok(Signer::of(identity)),
            other => self.unlock(other, path, self.look()),
        }
    }

    fn everywhere(&self) -> Result<Signer, Fault> {
        let look = self.look();
        if let Some(agent) = look.holder {
            return Ok(Signer { public: self.key().clone(), place: KeyPlace::Agent(agent) });
        }
        let mut seen = vec![look.seen.clone()];
        let mut exposed = None;
        for path in self.paths.identities()? {
            let place = path.display();
            if !path.exists() {
                seen.push(format!("{place}: no such file"));
                continue;
            }
            // A usual key may be of another type or for another purpose: that is no error.
            match key_file(&path) {
                Ok(file) if file.public() == self.key() => return self.unlock(file, &path, look),
                Ok(file) => {
                    let found = show_fingerprint(&file.public().fingerprint());
                    seen.push(format!("{place}: another key, {found}"));
                }
                Err(fault) => {
                    seen.push(fault.what);
                    if exposed.is_none() && fault.kind == FaultKind::Exposed {
                        exposed = Some(fault.remedy);
                    }
                }
            }
        }
        let Profiled { name, fingerprint } = self.profiled();
        let what = format!(
            "the private key of `{name}`, {fingerprint}, was not found:\n  {}",
            seen.join("\n  ")
        );
        Err(match exposed {
            Some(remedy) => Fault::new(what, remedy).of(FaultKind::Exposed),
            None => {
                let file = self.held.path.display();
                let remedy = format!(
                    "name its file with --identity or as identity = \"...\" in {file}, or \
                     `ssh-add` it"
                );
                Fault::new(what, remedy).of(FaultKind::NoKey)
            }
        })
    }

    /// The signer of `file`, which has the enrolled key.
    fn unlock(&self, file: KeyFile, path: &Path, look: AgentLook) -> Result<Signer, Fault> {
        let public = self.key().clone();
        match (file, look.holder) {
            (KeyFile::Open(identity), _) => Ok(Signer::of(identity)),
            (_, Some(agent)) => Ok(Signer { public, place: KeyPlace::Agent(agent) }),
            (KeyFile::Locked(locked), None) => ask_passphrase(&locked, path).map(Signer::of),
            (KeyFile::Fido(_), None) => {
                Ok(Signer { public, place: KeyPlace::Fido(path.to_owned()) })
            }
            (KeyFile::Public(_), None) => {
                let private = path.with_extension("");
                match key_file(&private) {
                    Ok(KeyFile::Public(_)) | Err(_) => Err(Fault::new(
                        format!(
                            "{}: a public key; its private half is neither at {} nor in the \
                             agent:\n  {}",
                            path.display(),
                            private.display(),
                            look.seen
                        ),
                        "name the private key file, or add it to the agent: ssh-add FILE",
                    )
                    .of(FaultKind::NoKey)),
                    Ok(_) => self.in_file(&private),
                }
            }
        }
    }

    /// Asks the agents which keys they hold: the one that the profile names, or else those of ssh's
    /// configuration and of the environment.
    fn look(&self) -> AgentLook {
        let agents = match self.held.named_agent(self.paths) {
            Some(socket) => vec![socket],
            None => self.paths.agents(),
        };
        let mut seen = Vec::new();
        for socket in agents {
            let agent = Agent::at(socket);
            match self.seen_at(&agent) {
                None => return AgentLook { holder: Some(agent), seen: String::new() },
                Some(found) => seen.push(format!("{}: {found}", shown(&agent))),
            }
        }
        if seen.is_empty() {
            seen.push("no ssh-agent: SSH_AUTH_SOCK is not set".to_owned());
        }
        AgentLook { holder: None, seen: seen.join("\n  ") }
    }

    /// What the agent has in place of the key; `None` if it holds the key.
    fn seen_at(&self, agent: &Agent) -> Option<String> {
        let blobs = match agent.keys() {
            Ok(blobs) => blobs,
            Err(reason) => return Some(reason),
        };
        let mut others = Vec::new();
        for blob in &blobs {
            if PublicKey::from_blob(blob).as_ref() == Some(self.key()) {
                return None;
            }
            others.push(other_key(blob));
        }
        match others.is_empty() {
            true => Some("holds no key, or is locked".to_owned()),
            false => Some(format!("holds only {}", others.join(", "))),
        }
    }

    fn wrong_key(&self, path: &Path, public: &PublicKey) -> Fault {
        let found = show_fingerprint(&public.fingerprint());
        let Profiled { name, fingerprint } = self.profiled();
        Fault::new(
            format!("{}: {found}, but `{name}` is enrolled with {fingerprint}", path.display()),
            "name the key that was enrolled; or have this one enrolled and import the new profile",
        )
        .of(FaultKind::NoKey)
    }

    fn profiled(&self) -> Profiled<'_> {
        let fingerprint = show_fingerprint(&self.key().fingerprint());
        Profiled { name: &self.held.profile.name, fingerprint }
    }
}

/// The client's name and key, for messages.
struct Profiled<'a> {
    name: &'a str,
    fingerprint: String,
}

/// A key in the agent that is not the enrolled one: its fingerprint, or why it cannot sign.
fn other_key(blob: &[u8]) -> String {
    if let Some(key) = PublicKey::from_blob(blob) {
        return show_fingerprint(&key.fingerprint());
    }
    let algorithm = Reader::new(blob).string().unwrap_or_default();
    let algorithm = String::from_utf8_lossy(algorithm);
    let why = unusable(&algorithm).unwrap_or("it cannot sign a knock");
    format!("{} ({why})", printable(&algorithm))
}

/// The key in a file. A .pub file may be readable by all.
fn key_file(path: &Path) -> Result<KeyFile, Fault> {
    let label = path.display().to_string();
    if path.extension().is_some_and(|extension| extension == "pub") {
        let file = KeyFile::parse(&label, &files::read(path, FileCheck::Trusted)?)?;
        if let KeyFile::Public(_) = file {
            return Ok(file);
        }
    }
    KeyFile::parse(&label, &files::read(path, FileCheck::Secret)?)
}

fn ask_passphrase(locked: &Locked, path: &Path) -> Result<Identity, Fault> {
    let place = path.display();
    for tries_left in (0..TRIES).rev() {
        let is_again = tries_left + 1 < TRIES;
        let passphrase = terminal::ask_passphrase(&place.to_string(), tries_left, is_again)?;
        if let Some(identity) = locked.unlock(&place.to_string(), &passphrase)? {
            return Ok(identity);
        }
    }
    Err(Fault::new(
        format!("{place}: wrong passphrase, {TRIES} times"),
        format!("check it with `ssh-keygen -y -f {place}`"),
    )
    .of(FaultKind::Passphrase))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// An agent that holds `key` and answers nothing but that.
    fn agent_with(key: &PublicKey, socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        let blob = key.blob();
        let length = u8::try_from(blob.len()).unwrap();
        let answer = [&[12, 0, 0, 0, 1, 0, 0, 0, length][..], &blob, &[0; 4]].concat();
        let header = [0, 0, 0, u8::try_from(answer.len()).unwrap()];
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.read_exact(&mut [0; 5]).unwrap();
                stream.write_all(&[&header[..], &answer].concat()).unwrap();
            }
        });
    }

    #[test]
    fn somebody_joins_with_the_key_of_the_first_agent_that_has_one() {
        let home = tempfile::tempdir().unwrap();
        let place = |name: &str| home.path().join(name);
        let dead = Some(place("dead"));
        let paths =
            UserPaths { home: Some(home.path().into()), agent: dead, ..UserPaths::default() };
        assert_eq!(usual_key(&paths).unwrap(), None);

        let keys = [1, 2].map(|byte| PublicKey::plain([byte; 32]));
        agent_with(&keys[0], &place("one"));
        agent_with(&keys[1], &place("two"));
        std::fs::create_dir(place(".ssh")).unwrap();
        std::fs::write(place(".ssh/config"), "IdentityAgent ~/one\n").unwrap();
        assert_eq!(usual_key(&paths).unwrap().as_ref(), Some(&keys[0]));
        std::fs::write(place(".ssh/config"), "IdentityAgent ~/gone\n").unwrap();
        let paths = UserPaths { agent: Some(place("two")), ..paths };
        assert_eq!(usual_key(&paths).unwrap().as_ref(), Some(&keys[1]));
    }
}
