//! The user's ssh-agent: which keys it holds, and signatures by them (draft-ietf-sshm-ssh-agent).
//! See `app::client::signer` for when it is asked.

use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::terminal::{self, Note};
use crate::core::bytes::Reader;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES: u8 = 12;
const REQUEST_SIGNATURE: u8 = 13;
const SIGNATURE: u8 = 14;
/// Bytes of the longest answer that is read: OpenSSH's own limit.
const LONGEST: usize = 256 * 1024;
/// Time after which the user is told what is waited for.
const QUIET: Duration = Duration::from_secs(1);
/// An agent lists its keys at once, or hangs.
const LISTING: Duration = Duration::from_secs(3);
/// A signature may wait for a person: for a confirmation (`ssh-add -c`), a touch, a PIN.
const SIGNING: Duration = Duration::from_secs(120);

/// An agent, by its socket; on Windows its pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    socket: PathBuf,
}

impl Agent {
    pub fn at(socket: PathBuf) -> Agent {
        Agent { socket }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The key blobs that it holds. A locked agent holds none. The error is the reason.
    pub fn keys(&self) -> Result<Vec<Vec<u8>>, String> {
        let answer = self.ask(vec![REQUEST_IDENTITIES], LISTING, "to list its keys")?;
        key_blobs(&answer).ok_or_else(|| unknown_answer(&answer, "it does not list its keys"))
    }

    /// The signature of `data` by the key with this blob, in OpenSSH's form. The error is the
    /// reason.
    pub fn sign(&self, blob: &[u8], data: &[u8]) -> Result<Vec<u8>, String> {
        let mut request = vec![REQUEST_SIGNATURE];
        for field in [blob, data] {
            request.extend(length(field)?);
            request.extend(field);
        }
        request.extend([0; 4]);
        let answer = self.ask(request, SIGNING, "to sign (a confirmation, or a touch?)")?;
        let refused = "it refused to sign";
        signature(&answer).ok_or_else(|| unknown_answer(&answer, refused))
    }

    /// Asks in a thread of its own, because an agent may hang at any point, and on some systems its
    /// pipe has no timeout. `what` the user waits for is said after a second.
    fn ask(
        &self, request: Vec<u8>, patience: Duration, what: &'static str,
    ) -> Result<Vec<u8>, String> {
        let (sender, answer) = channel();
        let socket = self.socket.clone();
        thread::spawn(move || {
            // Nobody listens any more after the time is over.
            let _ = sender.send(exchange(&socket, &request));
        });
        let mut answered = answer.recv_timeout(QUIET);
        if answered == Err(RecvTimeoutError::Timeout) {
            terminal::note(&Note::Agent(what));
            answered = answer.recv_timeout(patience);
        }
        let seconds = (QUIET + patience).as_secs();
        answered.unwrap_or_else(|_| Err(format!("no answer within {seconds} s")))
    }
}

/// One request and its answer.
fn exchange(socket: &Path, request: &[u8]) -> Result<Vec<u8>, String> {
    let mut stream = connect(socket).map_err(|error| reason(&error))?;
    let message = [&length(request)?[..], request].concat();
    stream.write_all(&message).map_err(|error| reason(&error))?;
    let mut header = [0; 4];
    stream.read_exact(&mut header).map_err(|error| reason(&error))?;
    let Some(length) = usize::try_from(u32::from_be_bytes(header)).ok().filter(|l| *l <= LONGEST)
    else {
        return Err("its answer is too long: it is not an ssh-agent".to_owned());
    };
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).map_err(|error| reason(&error))?;
    Ok(answer)
}

#[cfg(unix)]
fn connect(socket: &Path) -> io::Result<impl Read + Write> {
    std::os::unix::net::UnixStream::connect(socket)
}

/// OpenSSH's agent on Windows has a named pipe, which is opened like a file.
#[cfg(windows)]
fn connect(pipe: &Path) -> io::Result<impl Read + Write> {
    std::fs::OpenOptions::new().read(true).write(true).open(pipe)
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "it does not exist".to_owned(),
        ErrorKind::ConnectionRefused => "no agent is running there".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        ErrorKind::UnexpectedEof => "it closed the connection without an answer".to_owned(),
        _ => error.to_string(),
    }
}

fn length(field: &[u8]) -> Result<[u8; 4], String> {
    match u32::try_from(field.len()) {
        Ok(length) => Ok(length.to_be_bytes()),
        Err(_) => Err("the request is too long".to_owned()),
    }
}

fn key_blobs(answer: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut reader = Reader::new(answer);
    if reader.u8()? != IDENTITIES {
        return None;
    }
    let mut blobs = Vec::new();
    // Each takes eight bytes at least, so a count that is too large ends with the bytes.
    for _ in 0..reader.u32()? {
        blobs.push(reader.string()?.to_vec());
        let _comment = reader.string()?;
    }
    reader.finish()?;
    Some(blobs)
}

fn signature(answer: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader::new(answer);
    if reader.u8()? != SIGNATURE {
        return None;
    }
    let signature = reader.string()?.to_vec();
    reader.finish()?;
    Some(signature)
}

fn unknown_answer(answer: &[u8], refused: &str) -> String {
    match answer {
        [FAILURE] => refused.to_owned(),
        _ => "its answer is not one of an ssh-agent".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_exactly() {
        let listed = b"\x0c\0\0\0\x02\0\0\0\x03one\0\0\0\x01c\0\0\0\x03two\0\0\0\0";
        assert_eq!(key_blobs(listed), Some(vec![b"one".to_vec(), b"two".to_vec()]));
        let signed = b"\x0e\0\0\0\x03sig";
        assert_eq!(signature(signed), Some(b"sig".to_vec()));
        for answer in [&listed[..], &signed[..]] {
            for end in 0..answer.len() {
                assert!(key_blobs(&answer[..end]).is_none() && signature(&answer[..end]).is_none());
            }
            let longer = [answer, b"x"].concat();
            assert!(key_blobs(&longer).is_none() && signature(&longer).is_none());
        }
        assert_eq!(key_blobs(b"\x0c\xff\xff\xff\xff"), None, "a count without keys");
        assert_eq!(unknown_answer(&[FAILURE], "no"), "no");
        assert!(unknown_answer(b"SSH-2.0-x", "no").contains("not one of an ssh-agent"));
    }
}
