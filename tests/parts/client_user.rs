//! A user with a separate home directory, and a gateway on loopback that answers with a given
//! status.

use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use toctoc::core::authentic::Authentic;
use toctoc::core::keyring::{ClientSecrets, Master, Realm, Secret, TagTable};
use toctoc::core::knock::{HandedKnock, KnockKind, PortEntry, Receipt, Status};
use toctoc::core::noise::KeyPair;
use toctoc::core::prefix::Span;
use toctoc::core::public_key::PublicKey;
use toctoc::core::service::Client;
use toctoc::core::types::{ClientId, GatewayId, PortRange, RealmId, ServiceName, Source, Wall};
use toctoc::core::wire::{ClientSide, GatewayKeys, identify};
use toctoc::edge::clock;
use toctoc::keys::identity::Identity;
use toctoc::keys::profile::Profile;

const CLIENT: ClientId = ClientId([7; 16]);

/// A home directory with a key, and the profiles that a test writes.
pub(crate) struct User {
    pub(crate) home: tempfile::TempDir,
    /// Variables of the environment, besides HOME and TZ.
    pub(crate) environment: Vec<(&'static str, PathBuf)>,
}

impl User {
    pub(crate) fn new() -> Self {
        let user = Self { home: tempfile::tempdir().unwrap(), environment: Vec::new() };
        std::fs::create_dir_all(user.home.path().join(".config/toctoc/profiles")).unwrap();
        user.write(".config/toctoc/id_ed25519", &identity().print("c", None).unwrap(), 0o600);
        user
    }

    pub(crate) fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.home.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    pub(crate) fn with_profile(self, port: u16) -> Self {
        self.with_profile_of(port, identity().public())
    }

    /// With a profile for another key, and without the usual one.
    pub(crate) fn with_key(self, port: u16, key: &PublicKey) -> Self {
        std::fs::remove_file(self.home.path().join(".config/toctoc/id_ed25519")).unwrap();
        self.with_profile_of(port, key)
    }

    fn with_profile_of(self, port: u16, key: &PublicKey) -> Self {
        let profile = Profile { key: key.clone(), ..profile(port) };
        self.write(".config/toctoc/profiles/gate.toml", &profile.print(), 0o600);
        self
    }

    pub(crate) fn run(&self, words: &str) -> Run {
        self.run_with(words, "")
    }

    pub(crate) fn run_with(&self, words: &str, input: &str) -> Run {
        use std::io::Write;
        let mut child = Command::new(env!("CARGO_BIN_EXE_toctoc"))
            .args(words.split_whitespace())
            .env_clear()
            .env("HOME", self.home.path())
            .env("TZ", "UTC")
            .envs(self.environment.iter().map(|(name, path)| (*name, path)))
            .current_dir(self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that ends before it reads closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Run::of(words, child.wait_with_output().unwrap())
    }
}

/// A command that has ended.
pub(crate) struct Run {
    pub(crate) words: String,
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    fn of(words: &str, output: Output) -> Self {
        Self {
            words: words.to_owned(),
            code: output.status.code().expect("not killed by a signal"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Checks the exit code and parts of standard output and standard error.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, out: &[&str], err: &[&str]) {
        let shown =
            format!("toctoc {}\n--- {}\n{}---\n{}", self.words, self.code, self.out, self.err);
        assert_eq!(self.code, code, "{shown}");
        for part in out {
            assert!(self.out.contains(part), "no {part:?} on standard output of {shown}");
        }
        for part in err {
            assert!(self.err.contains(part), "no {part:?} on standard error of {shown}");
        }
    }
}

pub(crate) fn identity() -> Identity {
    Identity::new(Secret::new([6; 32])).unwrap()
}

const GATEWAY_ID: GatewayId = GatewayId([2; 16]);

fn realm() -> Realm {
    Realm::new(RealmId([1; 16]), Secret::new([3; 32]))
}

fn secrets() -> ClientSecrets {
    Master::new(Secret::new([4; 32])).client_secrets(CLIENT, 639)
}

pub(crate) fn profile(port: u16) -> Profile {
    let name = |text| ServiceName::new(text).unwrap();
    Profile {
        name: "laptop".into(),
        client: CLIENT,
        key: identity().public().clone(),
        addresses: vec!["127.0.0.1".into()],
        port,
        side: ClientSide {
            gateway: GATEWAY_ID,
            realm: realm(),
            gateway_public: KeyPair::new(&Secret::new([5; 32])).public(),
            secrets: secrets(),
        },
        services: vec![name("ssh"), name("web")],
        default_service: Some(name("ssh")),
        expires: None,
        identity: None,
        agent: None,
        fallback: None,
    }
}

/// Answers every knock with `status`, or not at all if there is none.
pub(crate) struct Gateway {
    pub(crate) port: u16,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    pub(crate) fn start(status: Option<Status>) -> Self {
        Self::start_for(status, identity().public())
    }

    /// Answers only the knocks that `key` signed, as a gateway does.
    pub(crate) fn start_for(status: Option<Status>, key: &PublicKey) -> Self {
        let client = Client {
            id: CLIENT,
            name: "laptop".into(),
            key: key.clone(),
            services: [].into(),
            expires: None,
            limits: None,
            invited_until: None,
        };
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let port = socket.local_addr().unwrap().port();
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                if let Some(status) = status {
                    answer(&socket, status, &client);
                } else {
                    let _ = socket.recv_from(&mut [0; 1500]);
                }
            }
        });
        Self { port, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.take();
        let joined = self.thread.take().unwrap().join();
        assert!(joined.is_ok() || std::thread::panicking(), "the test gateway panicked");
    }
}

fn now() -> Wall {
    clock::now().wall
}

fn answer(socket: &UdpSocket, status: Status, client: &Client) {
    let mut buffer = [0; 1500];
    let Ok((length, from)) = socket.recv_from(&mut buffer) else { return };
    let keys = GatewayKeys {
        gateway: GATEWAY_ID,
        realm: realm(),
        current: KeyPair::new(&Secret::new([5; 32])),
        other: None,
    };
    let row = secrets().wire_row(now().day());
    let mut tags = TagTable::default();
    tags.insert(0, &row.tags());
    let tagged = identify(&keys, &tags, &buffer[..length]).ok().unwrap();
    let slot = tagged.owner().slot;
    let (wire, day) = (row.wire(slot).unwrap(), row.day_of(slot).unwrap());
    let sealed = tagged.check_mac(&wire).ok().unwrap().open(&keys, &wire, day).ok().unwrap();
    let (parts, reply) = sealed.split();
    let h = parts.h;
    let knock = HandedKnock {
        ticket: 0,
        client: CLIENT,
        day,
        h,
        body: parts.body,
        source: Source::new(from.ip()),
        source_port: from.port(),
    };
    let gate = secrets().gate(day).unwrap();
    let Ok(authentic) = Authentic::verify(knock, client, GATEWAY_ID, &gate) else { return };
    let request = *authentic.request();
    let status = match request.kind {
        KnockKind::Probe => Status::Observed,
        KnockKind::Time => Status::Clock,
        _ => status,
    };
    let mut ports = [None; 4];
    let granted = status == Status::Granted;
    if granted {
        ports[0] = PortRange::read("22/tcp").map(PortEntry::Range);
    }
    let other = Source::new("203.0.113.66".parse().unwrap());
    let receipt = Receipt {
        status,
        once: granted && request.service.as_str() == "web",
        seconds: if granted { request.seconds.max(30) } else { 0 },
        time: if request.seconds == 77 { now().plus(7200) } else { now() },
        working_day: now().day(),
        observed: if status == Status::Address { other } else { Source::new(from.ip()) },
        granted: granted.then_some(request.address).flatten(),
        span: Span::HOST,
        ports,
        challenge: None,
        next_key: None,
        welcome: None,
    };
    let body = receipt.with_mac(&gate, GATEWAY_ID, &h);
    let sealed = reply.seal(&realm(), body, Secret::new([8; 32])).unwrap();
    socket.send_to(&sealed, from).unwrap();
}
