//! The local socket for admin commands: one JSON line in, one out. See `app::gatekeeper` for the
//! commands.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::files;
use crate::config::Settings;
use crate::core::types::{Boot, Fault, FaultKind};

pub const MAX_REQUEST: usize = 4096;
/// The longest response, bytes: a status of a gateway with many clients whose clocks are ahead.
const MAX_RESPONSE: u64 = 64 << 20;
/// Sessions served at the same time. One more takes the place of the oldest that is idle; if all
/// wait for their responses, it waits in the kernel's queue.
pub const MAX_SESSIONS: usize = 8;
/// Seconds that a session has for its request.
pub const IDLE: u32 = 10;
/// Seconds that it has for reading its response.
const READING: u32 = 30;

/// The commands that an admin may send to a running gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ControlRequest {
    Status,
    /// The status without a look at the guard, and who knocked last.
    Overview,
    /// A page of the live grants: the first, or the one after the end of another.
    Grants {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
        /// The most lines of it, if that is less than a page has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        most: Option<u16>,
    },
    /// End the live grants that fit all that is named, at least one thing.
    Close {
        /// One grant, by its name: `alice/ssh@192.0.2.7`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grant: Option<String>,
        /// A client's name, or `door:NAME`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// An address or a prefix.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
        /// End the connections too that came in under them, also under grants that are over.
        #[serde(default)]
        cut: bool,
    },
    /// A page of the last events, after the one with this number.
    Events {
        #[serde(default)]
        after: u64,
    },
    /// Read the configuration and the clients again.
    Reload,
    /// Load the guard if it is not loaded, with all live grants.
    GuardOn {
        /// The seconds of a trial that begins now; 0 ends the trial under way, and the guard stays.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        confirm: Option<u32>,
    },
    /// How the trial of the guard goes.
    Trial,
    /// Remove the guard, and do not load it again.
    GuardOff,
    /// Look for the client of this name that can get grants, among some: the first ones, or those
    /// after an id. A look at all of them would keep the gatekeeper's loop for too long.
    FindClient {
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<[u8; 16]>,
    },
    /// What is known of the client with this id.
    ShowClient {
        id: [u8; 16],
    },
    /// Revoke the client with this id, even if the clients file goes on to name it.
    Revoke {
        id: [u8; 16],
    },
    /// Whether a reload could switch to a configuration with these values.
    CanFollow(FixedSettings),
    /// What a knock would get now; nothing changes.
    Explain(Question),
    /// Accept that used-knock marks were lost or that the clock was ahead: trust timestamps again.
    Reinitialise,
}

/// A knock that nobody has sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    pub asker: Asker,
    /// A door has its own.
    pub service: Option<String>,
    /// Where it comes from.
    pub from: IpAddr,
    /// The address that it names, if that is another one.
    pub named: Option<IpAddr>,
    /// 0: the service's own time.
    pub seconds: u32,
}

/// Whose knock it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asker {
    /// By its id.
    Client([u8; 16]),
    Door(String),
}

/// What cannot change, or not in every way, while a gateway runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixedSettings {
    pub state_dir: PathBuf,
    pub control_socket: PathBuf,
    pub table: String,
    /// True if a door or a service has commands: they need rights that are given up without any.
    pub has_commands: bool,
}

impl FixedSettings {
    pub fn of(settings: &Settings) -> FixedSettings {
        FixedSettings {
            state_dir: settings.gateway.state_dir.clone(),
            control_socket: settings.gateway.control_socket.clone(),
            table: settings.firewall.table.clone(),
            has_commands: settings.runs_commands(),
        }
    }
}

impl ControlRequest {
    /// Parses a request line without its line end; `None` if it is not a command.
    pub fn parse(line: &[u8]) -> Option<ControlRequest> {
        if line.len() > MAX_REQUEST {
            return None;
        }
        serde_json::from_slice(line).ok()
    }
}

/// The response: `{"ok": ...}` or `{"fault": {"what": ..., "remedy": ...}}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlResponse {
    Ok(serde_json::Value),
    /// The command failed and changed nothing.
    Fault {
        what: String,
        remedy: String,
        /// True for a mistake in a configuration or in keys.
        #[serde(default)]
        is_input: bool,
        /// The line that is wrong.
        #[serde(default)]
        excerpt: String,
        /// Other mistakes.
        #[serde(default)]
        more: String,
    },
}

impl From<Fault> for ControlResponse {
    fn from(fault: Fault) -> ControlResponse {
        let is_input = fault.kind == FaultKind::Input;
        let Fault { what, remedy, excerpt, more, .. } = fault;
        ControlResponse::Fault { what, remedy, is_input, excerpt, more }
    }
}

/// The id of one session. Ids are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// The gateway's end of the socket.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    sessions: Vec<Session>,
    accepted: u64,
}

/// One admin's connection: one line in, one response out, then closed.
struct Session {
    id: SessionId,
    stream: UnixStream,
    step: SessionState,
    /// The end of its time, unless it waits for its response.
    until: Boot,
}

enum SessionState {
    /// The part of the request received so far.
    Reads(Vec<u8>),
    Waits,
    /// The part of the response not sent yet.
    Writes(Vec<u8>),
}

struct Over;

impl Control {
    /// Fails if [`Control::bind`] would not trust `path`; changes nothing. Its directory need not
    /// exist yet.
    pub fn check(path: &Path) -> Result<(), Fault> {
        // Whoever can replace the socket answers the admin's commands.
        files::check_place(path)?;
        is_socket(path).map(drop)
    }

    /// Binds `path` with mode 0600 from the start. Fails if a running gateway answers there.
    pub fn bind(path: &Path) -> Result<Control, Fault> {
        if UnixStream::connect(path).is_ok() {
            let what = format!("{}: another toctocd answers there", path.display());
            let remedy = "stop it first, or give this one its own [gateway] control_socket";
            return Err(Fault::new(what, remedy).of(FaultKind::Held));
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| unusable(path, &error))?;
        }
        Control::check(path)?;
        if is_socket(path)? {
            fs::remove_file(path).map_err(|error| unusable(path, &error))?;
        }
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound.map_err(|error| unusable(path, &error))?;
        listener.set_nonblocking(true).map_err(|error| unusable(path, &error))?;
        Ok(Control { listener, path: path.to_owned(), sessions: Vec::new(), accepted: 0 })
    }

    /// The descriptors and events to poll: every session, and the socket if another session has
    /// room or can make some.
    pub fn interests(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let is_idle = |session: &Session| !matches!(session.step, SessionState::Waits);
        let has_room = self.sessions.len() < MAX_SESSIONS || self.sessions.iter().any(is_idle);
        let listener = has_room.then(|| (self.listener.as_fd(), PollFlags::POLLIN));
        let sessions = self.sessions.iter().map(|session| match session.step {
            // Input after the request would keep it readable. POLLHUP is reported in any case.
            SessionState::Writes(_) => (session.stream.as_fd(), PollFlags::POLLOUT),
            _ => (session.stream.as_fd(), PollFlags::POLLIN),
        });
        listener.into_iter().chain(sessions)
    }

    /// Accepts, reads and writes without waiting, and drops idle sessions. Each returned request
    /// needs a [`Control::reply`].
    pub fn requests(&mut self, now: Boot) -> Vec<(SessionId, ControlRequest)> {
        let mut requests = Vec::new();
        self.turn(now, &mut requests);
        // As many as there may be: a crowd that connects again and again must not hold us up.
        for _ in 0..MAX_SESSIONS {
            if !self.make_room() {
                break;
            }
            let Ok((stream, _)) = self.listener.accept() else { break };
            if is_trusted(&stream) && stream.set_nonblocking(true).is_ok() {
                let (id, step) = (SessionId(self.accepted), SessionState::Reads(Vec::new()));
                self.sessions.push(Session { id, stream, step, until: now.plus(IDLE) });
                self.accepted += 1;
                self.turn(now, &mut requests);
            }
        }
        requests
    }

    fn turn(&mut self, now: Boot, requests: &mut Vec<(SessionId, ControlRequest)>) {
        self.sessions.retain_mut(|session| match session.turn(now) {
            Ok(Some(command)) => {
                requests.push((session.id, command));
                true
            }
            Ok(None) => !session.is_late(now),
            Err(Over) => false,
        });
    }

    /// Drops the oldest idle session if a connection waits and there is no room for it. False if
    /// all sessions wait for their responses.
    fn make_room(&mut self) -> bool {
        if self.sessions.len() < MAX_SESSIONS {
            return true;
        }
        let is_idle = |session: &Session| !matches!(session.step, SessionState::Waits);
        let Some(oldest) = self.sessions.iter().position(is_idle) else { return false };
        if self.somebody_waits() {
            self.sessions.remove(oldest);
        }
        true
    }

    fn somebody_waits(&self) -> bool {
        let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Sends a response without waiting. A session that is gone is no error.
    pub fn reply(&mut self, now: Boot, id: SessionId, response: &ControlResponse) {
        self.sessions
            .retain_mut(|session| session.id != id || session.reply(now, response).is_ok());
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Best effort: the next start recognises a dead socket.
        let _ = fs::remove_file(&self.path);
    }
}

impl Session {
    fn is_late(&self, now: Boot) -> bool {
        !matches!(self.step, SessionState::Waits) && self.until <= now
    }

    fn turn(&mut self, now: Boot) -> Result<Option<ControlRequest>, Over> {
        match &self.step {
            SessionState::Reads(_) => self.read(now),
            SessionState::Waits => self.watch_for_end(),
            SessionState::Writes(_) => self.write().map(|()| None),
        }
    }

    fn read(&mut self, now: Boot) -> Result<Option<ControlRequest>, Over> {
        let SessionState::Reads(inbox) = &mut self.step else { return Ok(None) };
        let mut chunk = [0; 512];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Over),
                Ok(n) => inbox.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(Over),
            }
            if inbox.len() > MAX_REQUEST {
                return Err(Over);
            }
        }
        let Some(end) = inbox.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        match ControlRequest::parse(inbox.get(..end).unwrap_or_default()) {
            Some(command) => {
                self.step = SessionState::Waits;
                Ok(Some(command))
            }
            None => {
                let what = "the request is not one that this toctocd knows";
                let fault = Fault::new(what, "use the toctocd of the same version");
                self.reply(now, &fault.into())?;
                Ok(None)
            }
        }
    }

    /// Ignores everything after the request.
    fn watch_for_end(&mut self) -> Result<Option<ControlRequest>, Over> {
        match self.stream.read(&mut [0; 512]) {
            Ok(0) => Err(Over),
            Ok(_) => Ok(None),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(Over),
            },
        }
    }

    fn reply(&mut self, now: Boot, response: &ControlResponse) -> Result<(), Over> {
        let mut outbox = serde_json::to_vec(response).unwrap_or_default();
        outbox.push(b'\n');
        self.step = SessionState::Writes(outbox);
        self.until = now.plus(READING);
        self.write()
    }

    /// Writes as much of the response as the kernel takes. All written ends the session.
    fn write(&mut self) -> Result<(), Over> {
        let SessionState::Writes(outbox) = &mut self.step else { return Ok(()) };
        while !outbox.is_empty() {
            match self.stream.write(outbox) {
                Ok(n) => drop(outbox.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Over),
            }
        }
        Err(Over)
    }
}

/// Sends a request to the gateway at `path`; waits at most `patience`. A command that failed is an
/// error.
pub fn ask(
    path: &Path, command: &ControlRequest, patience: Duration,
) -> Result<serde_json::Value, Fault> {
    let response = exchange(path, command, patience).map_err(|error| unreachable(path, &error))?;
    match serde_json::from_slice(&response) {
        Ok(ControlResponse::Ok(value)) => Ok(value),
        Ok(ControlResponse::Fault { what, remedy, is_input, excerpt, more }) => {
            let kind = if is_input { FaultKind::Input } else { FaultKind::Other };
            Err(Fault { what, remedy, kind, excerpt, more })
        }
        Err(_) => Err(Fault::new(
            format!("{}: the gateway gave no answer that makes sense", path.display()),
            "is it a toctocd of the same version, and are you root?",
        )),
    }
}

fn exchange(path: &Path, command: &ControlRequest, patience: Duration) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path)?;
    if !is_trusted(&stream) {
        let what = "the process there runs as another user: it is no toctocd";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut line = serde_json::to_vec(command)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut response = Vec::new();
    BufReader::new(stream).take(MAX_RESPONSE).read_until(b'\n', &mut response)?;
    Ok(response)
}

/// True if a gateway's socket is there, false if nothing is. Everything else is left as it is.
fn is_socket(path: &Path) -> Result<bool, Fault> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(unusable(path, &error)),
    };
    let is_ours = metadata.uid() == 0 || metadata.uid() == geteuid().as_raw();
    if !(metadata.file_type().is_socket() && is_ours) {
        let what = format!("{}: exists and is not a toctocd socket; left as it is", path.display());
        return Err(Fault::new(what, "set [gateway] control_socket to a name that is free"));
    }
    Ok(true)
}

/// True if the other end is root or our own user, whatever the mode of the socket file is.
fn is_trusted(stream: &UnixStream) -> bool {
    let Ok(peer) = getsockopt(stream, PeerCredentials) else { return false };
    peer.uid() == 0 || peer.uid() == geteuid().as_raw()
}

fn unusable(path: &Path, error: &io::Error) -> Fault {
    Fault::new(
        format!("{}: the control socket cannot be made: {error}", path.display()),
        "run toctocd as root, or set [gateway] control_socket to a place that it may write",
    )
}

fn unreachable(path: &Path, error: &io::Error) -> Fault {
    let socket = path.display();
    let (what, remedy) = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => (
            format!("no toctocd is running here: nothing answers at {socket}"),
            "start it: `systemctl start toctocd`, or `toctocd run`",
        ),
        io::ErrorKind::PermissionDenied => (
            format!("only root may ask the gateway: {socket}: {error}"),
            "run this as root, for example with sudo",
        ),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => (
            format!("the running toctocd does not answer at {socket}"),
            "see its log; if it hangs, restart it: `systemctl restart toctocd`",
        ),
        _ => (
            format!("the running toctocd cannot be asked at {socket}: {error}"),
            "see its log, and `ls -l` of that socket",
        ),
    };
    Fault::new(what, remedy).of(FaultKind::NotRunning)
}

#[cfg(test)]
mod tests;
