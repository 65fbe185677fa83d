//! In place of systemd with `toctoc-listener.socket` and `toctoc-listener@.service`: starts a process
//! for each connection to a socket, with the connection as its standard input.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, UnixAddr, accept4, bind, listen,
    shutdown, socket,
};

use super::{Running, Space};

pub struct Starter {
    pub path: PathBuf,
    socket: Arc<OwnedFd>,
    started: Arc<Mutex<Vec<Running>>>,
    thread: Option<JoinHandle<()>>,
}

impl Starter {
    /// Listens at `path`, and starts what `command` makes in `space`.
    pub fn new(
        space: &Space, path: &str, command: impl Fn() -> Command + Send + 'static,
    ) -> Starter {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        bind(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        listen(&socket, Backlog::new(4).unwrap()).unwrap();
        let socket = Arc::new(socket);
        let started = Arc::new(Mutex::new(Vec::new()));
        let (holder, list, space) = (Arc::clone(&socket), Arc::clone(&started), space.clone());
        let thread = thread::spawn(move || {
            // It fails once the socket is shut down.
            while let Ok(number) = accept4(holder.as_raw_fd(), flags) {
                // SAFETY: the kernel has just opened it; nothing else knows its number.
                #[allow(unsafe_code)]
                let connection = unsafe { OwnedFd::from_raw_fd(number) };
                let mut command = command();
                command.stdin(Stdio::from(connection)).stdout(Stdio::null());
                list.lock().unwrap().push(space.spawn(&mut command));
            }
        });
        Starter { path: path.into(), socket, started, thread: Some(thread) }
    }

    /// The process ids of all that were started, in order.
    pub fn started(&self) -> Vec<u32> {
        self.started.lock().unwrap().iter().map(|one| one.0.id()).collect()
    }

    /// Takes the end of processes that have ended, as a service manager does.
    pub fn reap(&self) {
        for one in self.started.lock().unwrap().iter_mut() {
            let _ = one.0.try_wait();
        }
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        let _ = self.thread.take().unwrap().join();
        let _ = fs::remove_file(&self.path);
    }
}

/// The listener's own user and group, as toctocd finds them.
pub fn listener_user() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut ids = line.split(':').skip(2).map(|id| id.parse().unwrap());
        Some((ids.next()?, ids.next()?))
    };
    find("_toctoc").or(find("nobody")).unwrap_or((65534, 65534))
}

/// A listener with the user and capabilities of `toctoc-listener@.service`.
pub fn as_in_unit() -> Command {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR"));
    let unit = fs::read_to_string(unit.join("packaging/systemd/toctoc-listener@.service")).unwrap();
    let set = |key: &str| {
        let names = unit.lines().find_map(|line| line.strip_prefix(key)).expect(key);
        let names = names.split_whitespace().map(|name| name.trim_start_matches("CAP_"));
        names.fold("-all".to_owned(), |all, name| format!("{all},+{}", name.to_lowercase()))
    };
    let (uid, gid) = listener_user();
    let ambient = set("AmbientCapabilities=");
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--init-groups".into()]);
    command.args(["--no-new-privs".into(), format!("--inh-caps={ambient}")]);
    command.arg(format!("--ambient-caps={ambient}"));
    command.arg(format!("--bounding-set={}", set("CapabilityBoundingSet=")));
    command.args([env!("CARGO_BIN_EXE_toctocd"), "--listener"]);
    command
}
