//! The local socket for status and admin commands: one JSON line in, one out; the peer is checked
//! by SO_PEERCRED. What the commands do is left to `app::gatekeeper`.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::core::types::Fault;

/// The longest request line, bytes.
pub const MAX_REQUEST: usize = 4096;
/// The longest answer, bytes: a table of 100,000 grants.
const MAX_ANSWER: u64 = 64 << 20;
/// Sessions served at once; a further one waits in the kernel's queue.
pub const MAX_SESSIONS: usize = 8;

/// What an admin may ask of a running gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ControlRequest {
    /// Counters, guard, state, what is degraded.
    Status,
    /// The live grants.
    Grants,
    /// Read the configuration and the clients again.
    Reload,
    /// Put the guard up, if it is not, with all live grants.
    GuardOn,
    /// Take the guard away, and leave it away.
    GuardOff,
    /// Accept that marks of used knocks were lost, or that the clock was ahead: timestamps count
    /// again.
    Reinitialise,
}

impl ControlRequest {
    /// A request line, without its end; `None` if it is none of ours.
    pub fn parse(line: &[u8]) -> Option<ControlRequest> {
        (line.len() <= MAX_REQUEST).then(|| serde_json::from_slice(line).ok())?
    }
}

/// What comes back: `{"ok": ...}` or `{"fault": {"what": ..., "remedy": ...}}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlResponse {
    /// The command's own object.
    Ok(serde_json::Value),
    /// It could not be done; nothing was changed.
    Fault {
        /// As [`Fault::what`].
        what: String,
        /// As [`Fault::remedy`].
        remedy: String,
    },
}

/// The gateway's end.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    sessions: Vec<Session>,
}

/// One admin's connection: reads one line, is answered once, is closed.
struct Session {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
}

/// What a session's turn came to.
enum SessionState {
    Wait,
    Asked(ControlRequest),
    Done,
}

impl Control {
    /// Binds `path`, mode 0600 from the first moment.
    ///
    /// # Errors
    /// If another gateway answers there, or the directory cannot be written.
    pub fn bind(path: &Path) -> Result<Control, Fault> {
        if UnixStream::connect(path).is_ok() {
            return Err(Fault::new(
                format!("{}: another toctocd answers there", path.display()),
                "stop it first, or give this one its own [gateway] control_socket",
            ));
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| unusable(path, &e))?;
        }
        remove_dead_socket(path)?;
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound.map_err(|e| unusable(path, &e))?;
        listener.set_nonblocking(true).map_err(|e| unusable(path, &e))?;
        Ok(Control { listener, path: path.to_owned(), sessions: Vec::new() })
    }

    /// What to poll for reading: the socket and every session; and those that wait to write.
    pub fn interests(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        let room = self.sessions.len() < MAX_SESSIONS;
        let listener = room.then(|| (self.listener.as_fd(), false));
        listener
            .into_iter()
            .chain(self.sessions.iter().map(|s| (s.stream.as_fd(), !s.outbox.is_empty())))
    }

    /// Does whatever can be done without waiting; `answer` is called once per complete request.
    pub fn serve(&mut self, mut answer: impl FnMut(ControlRequest) -> ControlResponse) {
        while self.sessions.len() < MAX_SESSIONS {
            let Ok((stream, _)) = self.listener.accept() else { break };
            if peer_may_ask(&stream) && stream.set_nonblocking(true).is_ok() {
                self.sessions.push(Session { stream, inbox: Vec::new(), outbox: Vec::new() });
            }
        }
        self.sessions.retain_mut(|session| match session.turn() {
            SessionState::Wait => true,
            SessionState::Done => false,
            SessionState::Asked(command) => session.answer(&answer(command)),
        });
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Best effort: a socket left behind is recognised as dead at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

impl Session {
    fn turn(&mut self) -> SessionState {
        if !self.outbox.is_empty() {
            return if self.flush() { SessionState::Wait } else { SessionState::Done };
        }
        let mut chunk = [0; 512];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return SessionState::Done,
                Ok(n) => self.inbox.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return SessionState::Done,
            }
            if self.inbox.len() > MAX_REQUEST {
                return SessionState::Done;
            }
        }
        let Some(end) = self.inbox.iter().position(|b| *b == b'\n') else {
            return SessionState::Wait;
        };
        match ControlRequest::parse(self.inbox.get(..end).unwrap_or_default()) {
            Some(command) => SessionState::Asked(command),
            None => {
                let fault = Fault::new(
                    "the request is not one that this toctocd knows",
                    "use the toctocd of the same version",
                );
                if self.answer(&ControlResponse::from(fault)) {
                    SessionState::Wait
                } else {
                    SessionState::Done
                }
            }
        }
    }

    /// Queues the answer; whether the session lives on.
    fn answer(&mut self, answer: &ControlResponse) -> bool {
        self.outbox = serde_json::to_vec(answer).unwrap_or_default();
        self.outbox.push(b'\n');
        self.flush()
    }

    /// Writes what the kernel takes; false once all is written or the peer is gone.
    fn flush(&mut self) -> bool {
        while !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(n) => drop(self.outbox.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        false
    }
}

impl From<Fault> for ControlResponse {
    fn from(fault: Fault) -> ControlResponse {
        ControlResponse::Fault { what: fault.what, remedy: fault.remedy }
    }
}

/// Asks the gateway that answers at `path`, and waits for its answer, `patience` at most.
///
/// # Errors
/// If nobody answers, or the gateway says that it could not.
pub fn ask(
    path: &Path,
    command: &ControlRequest,
    patience: Duration,
) -> Result<serde_json::Value, Fault> {
    let stream = UnixStream::connect(path).map_err(|e| unreachable(path, &e))?;
    let talk = || -> io::Result<Vec<u8>> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        (&stream).write_all(&line)?;
        let mut answer = Vec::new();
        BufReader::new(&stream).take(MAX_ANSWER).read_until(b'\n', &mut answer)?;
        Ok(answer)
    };
    let answer = talk().map_err(|e| unreachable(path, &e))?;
    match serde_json::from_slice(&answer) {
        Ok(ControlResponse::Ok(value)) => Ok(value),
        Ok(ControlResponse::Fault { what, remedy }) => Err(Fault { what, remedy }),
        Err(_) => Err(Fault::new(
            format!("{}: the gateway gave no answer that makes sense", path.display()),
            "is it a toctocd of the same version, and are you root?",
        )),
    }
}

/// Removes what a gateway that died left behind, and nothing else, whatever the configuration
/// points at.
fn remove_dead_socket(path: &Path) -> Result<(), Fault> {
    let metadata = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|e| unusable(path, &e))?,
    };
    let ours = metadata.uid() == 0 || metadata.uid() == geteuid().as_raw();
    if !(metadata.file_type().is_socket() && ours) {
        return Err(Fault::new(
            format!(
                "{}: is there already and is no socket of a toctocd; left as it is",
                path.display()
            ),
            "set [gateway] control_socket to a name that is free",
        ));
    }
    fs::remove_file(path).map_err(|e| unusable(path, &e))
}

/// Root and the gateway's own user, nobody else, whatever the file's mode became.
fn peer_may_ask(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials)
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}

fn unusable(path: &Path, error: &io::Error) -> Fault {
    Fault::new(
        format!("{}: the control socket cannot be made: {error}", path.display()),
        "run toctocd as root, or set [gateway] control_socket to a place that it may write",
    )
}

fn unreachable(path: &Path, error: &io::Error) -> Fault {
    Fault::new(
        format!("{}: no running toctocd answers: {error}", path.display()),
        "is it running (`toctocd run`), and are you root?",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    /// Serves until `answers` requests were answered, waiting on the sockets and not on the clock.
    fn serve(control: &mut Control, answers: usize) {
        let mut left = answers;
        while left > 0 || !control.sessions.is_empty() {
            let mut fds: Vec<PollFd> =
                control.interests().map(|(fd, _)| PollFd::new(fd, PollFlags::POLLIN)).collect();
            assert!(poll(&mut fds, PollTimeout::from(10_000u16)).unwrap() > 0, "nobody came");
            control.serve(|command| {
                left -= 1;
                ControlResponse::Ok(serde_json::json!({ "was": format!("{command:?}") }))
            });
        }
    }

    #[test]
    fn an_admin_is_answered_on_a_socket_that_only_the_owner_may_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/control.sock");
        let mut control = Control::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let asked = {
            let path = path.clone();
            thread::spawn(move || ask(&path, &ControlRequest::Status, Duration::from_secs(10)))
        };
        serve(&mut control, 1);
        assert_eq!(asked.join().unwrap().unwrap()["was"], "Status");
    }

    #[test]
    fn an_unknown_request_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let mut control = Control::bind(&path).unwrap();
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"{\"do\":\"open-everything\"}\n").unwrap();
        control.serve(|_| unreachable!("it is not a command"));
        control.serve(|_| unreachable!("it is not a command"));
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("not one that this toctocd knows"), "{answer}");
    }

    #[test]
    fn what_is_no_socket_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("shadow"), dir.path().join("link"));
        fs::write(&file, "precious").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            let fault = Control::bind(path).err().unwrap();
            assert!(fault.what.contains("is no socket of a toctocd"), "{fault}");
        }
        assert!(link.is_symlink() && fs::read(&file).unwrap() == b"precious");
        let left = dir.path().join("left");
        drop(UnixListener::bind(&left).unwrap());
        assert!(Control::bind(&left).is_ok(), "what a dead gateway left");
    }

    #[test]
    fn a_second_gateway_does_not_take_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let first = Control::bind(&path).unwrap();
        assert!(Control::bind(&path).is_err());
        drop(first);
        assert!(Control::bind(&path).is_ok());
    }
}
