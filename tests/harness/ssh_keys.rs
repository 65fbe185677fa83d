//! Keys of the real OpenSSH: of its ssh-keygen and in its agent, and a software authenticator for
//! its FIDO keys: the library of `tests/authenticator.c`, and a thread that makes the keys and
//! decides if somebody touches them.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};
use toctoc::edge::entropy;

/// OpenSSH's agent. It ends when dropped.
pub(crate) struct RealAgent {
    child: Child,
    pub(crate) socket: PathBuf,
    /// What the agent and `ssh-add` get of the environment.
    environment: Vec<(&'static str, PathBuf)>,
}

impl RealAgent {
    /// `provider`: a pattern of the libraries that it may load for FIDO keys.
    pub(crate) fn start(
        directory: &Path, provider: &str, environment: &[(&'static str, PathBuf)],
    ) -> RealAgent {
        let socket = directory.join("agent");
        let child = Command::new("ssh-agent")
            .args(["-D", "-P", provider, "-a"])
            .arg(&socket)
            .env("SSH_ASKPASS", "/bin/false")
            .env("DISPLAY", ":none")
            .envs(environment.iter().map(|(name, path)| (*name, path)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ssh-agent is installed");
        let agent = RealAgent { child, socket, environment: environment.to_vec() };
        let begun = Instant::now();
        while UnixStream::connect(&agent.socket).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the agent does not start");
            thread::sleep(Duration::from_millis(10));
        }
        agent
    }

    /// Runs `ssh-add` with these words.
    pub(crate) fn add(&self, words: &[&str]) {
        let run = Command::new("ssh-add")
            .args(words)
            .env("SSH_AUTH_SOCK", &self.socket)
            .env("SSH_ASKPASS", "/bin/false")
            .envs(self.environment.iter().map(|(name, path)| (*name, path)))
            .stdin(Stdio::null())
            .output()
            .expect("ssh-add is installed");
        assert!(run.status.success(), "ssh-add {words:?}: {run:?}");
    }
}

impl Drop for RealAgent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A new key of ssh-keygen: the path of its private half.
pub(crate) fn new_key(
    directory: &Path, name: &str, words: &[&str], environment: &[(&'static str, PathBuf)],
) -> String {
    let path = directory.join(name).display().to_string();
    let run = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-f", &path])
        .args(words)
        .envs(environment.iter().map(|(name, path)| (*name, path)))
        .stdin(Stdio::null())
        .output()
        .expect("ssh-keygen is installed");
    assert!(run.status.success(), "ssh-keygen {words:?}: {run:?}");
    path
}

/// What an authenticator says of whoever touches it; `None` if nobody does.
pub(crate) type Touch = fn(flags: u8) -> Option<u8>;

/// Its library and its socket are in `directory`.
pub(crate) struct Authenticator {
    pub(crate) library: PathBuf,
    socket: PathBuf,
}

impl Authenticator {
    pub(crate) fn new(directory: &Path, touch: Touch) -> Authenticator {
        let library = directory.join("authenticator.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/authenticator.c");
        let built = Command::new("cc")
            .args(["-Wall", "-Werror", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .status()
            .expect("cc is installed");
        assert!(built.success(), "tests/authenticator.c does not compile");
        let socket = directory.join("authenticator");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), touch);
            }
        });
        Authenticator { library, socket }
    }

    /// For every program of OpenSSH that is to use it.
    pub(crate) fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        vec![("SSH_SK_PROVIDER", self.library.clone()), ("TEST_AUTHENTICATOR", self.socket.clone())]
    }
}

fn serve(mut stream: UnixStream, touch: Touch) {
    let mut request = Vec::new();
    stream.read_to_end(&mut request).unwrap();
    let answer = match request.split_first() {
        Some((b'E', [])) => enrol(),
        Some((b'S', rest)) => sign(rest, touch),
        // A connection that only looks if somebody listens.
        _ => return,
    };
    stream.write_all(&answer).unwrap();
}

/// A new key. Its handle is the seed: this authenticator keeps nothing.
fn enrol() -> Vec<u8> {
    let seed: [u8; 32] = entropy::bytes().unwrap();
    let public = SigningKey::from_bytes(&seed).verifying_key().to_bytes();
    [&[1][..], &public, &seed].concat()
}

fn sign(request: &[u8], touch: Touch) -> Vec<u8> {
    const COUNTER: [u8; 4] = 77u32.to_be_bytes();
    let (flags, rest) = request.split_first().unwrap();
    let (seed, rest) = rest.split_first_chunk::<32>().unwrap();
    let (application, rest) = field(rest);
    let (message, rest) = field(rest);
    assert!(rest.is_empty());
    let Some(flags) = touch(*flags) else { return vec![0; 70] };
    let hashes = [application, message].map(|bytes| Sha256::digest(bytes).to_vec());
    let signed = [&hashes[0][..], &[flags], &COUNTER, &hashes[1]].concat();
    let signature = SigningKey::from_bytes(seed).sign(&signed).to_bytes();
    [&[1, flags][..], &COUNTER, &signature].concat()
}

fn field(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = bytes.split_first_chunk::<4>().unwrap();
    rest.split_at(u32::from_be_bytes(*length) as usize)
}
