//! Answers scrapes on a loopback address or a Unix socket. Hostile local users may connect: few at a
//! time, each with little time, and nothing that they send is looked at.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::Socket;

use super::files;
use crate::core::types::Fault;

/// Connections at a time. One more takes the place of the oldest.
const MOST: usize = 16;
/// Time for request and answer together.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause after a connection that could not be taken: it stays, and so would we.
const PAUSE: Duration = Duration::from_millis(100);

/// Where scrapes are answered, and who is being answered. Without a listener nobody is.
#[derive(Default)]
pub struct Scrapes {
    listener: Option<Socket>,
    peers: Vec<Peer>,
}

struct Peer {
    stream: Socket,
    step: PeerStep,
    until: Instant,
}

enum PeerStep {
    /// Some clients drop an answer that comes before they have asked.
    Asks,
    /// What is left of the answer.
    IsAnswered(Vec<u8>),
    /// To close a connection with unread bytes would cut the answer off.
    Ends,
}

impl Scrapes {
    pub fn tcp(listener: TcpListener) -> io::Result<Scrapes> {
        Scrapes::on(listener.into())
    }

    /// Anybody on this machine who reaches the socket's directory may connect.
    pub fn socket(path: &Path) -> Result<Scrapes, Fault> {
        files::check_place(path)?;
        let made = match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                Err(ErrorKind::AlreadyExists.into())
            }
            Ok(_) => fs::remove_file(path),
            Err(_) => Ok(()),
        };
        let made = made.and_then(|()| {
            let listener = UnixListener::bind(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
            Scrapes::on(listener.into())
        });
        made.map_err(|error| {
            let what = format!("{}: the metrics' socket cannot be made: {error}", path.display());
            Fault::new(what, "give [metrics] listen a path that is free")
        })
    }

    fn on(listener: Socket) -> io::Result<Scrapes> {
        listener.set_nonblocking(true)?;
        Ok(Scrapes { listener: Some(listener), peers: Vec::new() })
    }

    /// Waits until there is something to do here, until `wake` is readable, or until `due`.
    pub fn wait(&self, wake: BorrowedFd<'_>, due: Option<Instant>) {
        let mut fds = vec![PollFd::new(wake, PollFlags::POLLIN)];
        fds.extend(self.listener.iter().map(|one| PollFd::new(one.as_fd(), PollFlags::POLLIN)));
        for peer in &self.peers {
            let flags = match peer.step {
                PeerStep::IsAnswered(_) => PollFlags::POLLOUT,
                PeerStep::Asks | PeerStep::Ends => PollFlags::POLLIN,
            };
            fds.push(PollFd::new(peer.stream.as_fd(), flags));
        }
        let patience = match self.peers.iter().map(|peer| peer.until).chain(due).min() {
            // Whole milliseconds, and not one too early.
            Some(next) => {
                let left = next.saturating_duration_since(Instant::now());
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        // An error is as a turn in which nothing happened.
        let _ = poll(&mut fds, patience);
    }

    /// Goes on with every connection as far as that goes without waiting. `page` makes the answer;
    /// `None` if there is none now.
    pub fn serve(&mut self, page: &mut dyn FnMut() -> Option<String>) {
        // As many as there may be: a crowd that connects again and again must not hold us up.
        for _ in 0..MOST {
            let Some(listener) = &self.listener else { break };
            match listener.accept() {
                Ok((stream, _)) => self.take(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return std::thread::sleep(PAUSE),
            }
        }
        let now = Instant::now();
        self.peers.retain_mut(|peer| now < peer.until && peer.advance(page).is_ok());
    }

    fn take(&mut self, stream: Socket) {
        if self.peers.len() == MOST {
            self.peers.remove(0);
        }
        if stream.set_nonblocking(true).is_ok() {
            let until = Instant::now() + PATIENCE;
            self.peers.push(Peer { stream, step: PeerStep::Asks, until });
        }
    }
}

impl Peer {
    /// An error: the connection is over, or has to wait.
    fn advance(&mut self, page: &mut dyn FnMut() -> Option<String>) -> io::Result<()> {
        match self.go_on(page) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }

    /// Takes one step. An error: it has to wait, or the connection is over.
    fn go_on(&mut self, page: &mut dyn FnMut() -> Option<String>) -> io::Result<()> {
        match &mut self.step {
            PeerStep::Asks => {
                self.discard()?;
                self.step = PeerStep::IsAnswered(answer(page()));
            }
            PeerStep::IsAnswered(left) => {
                let sent = self.stream.write(left)?;
                left.drain(..sent);
                if left.is_empty() {
                    self.stream.shutdown(Shutdown::Write)?;
                    self.step = PeerStep::Ends;
                }
            }
            PeerStep::Ends => self.discard()?,
        }
        Ok(())
    }

    /// Throws away, unseen, some of what has arrived. An error if there is nothing.
    fn discard(&mut self) -> io::Result<()> {
        match self.stream.read(&mut [0; 4096])? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// The answer to whatever was asked.
fn answer(page: Option<String>) -> Vec<u8> {
    let (status, page) = match page {
        Some(page) => ("200 OK", page),
        None => ("503 Service Unavailable", String::new()),
    };
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let length = page.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}");
    format!("{head}\r\nConnection: close\r\n\r\n{page}").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpStream};
    use std::os::unix::net::UnixStream;

    use nix::sys::eventfd::EventFd;

    use super::*;

    const GET: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    const HEAD: &str = "HTTP/1.1 200 OK\r\n\
        Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n\
        Content-Length: 5\r\nConnection: close\r\n\r\n";

    fn listening() -> (Scrapes, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (Scrapes::tcp(listener).unwrap(), address)
    }

    /// A turn, which something makes happen within 20 s.
    fn turn(scrapes: &mut Scrapes, page: Option<&str>) {
        let never = EventFd::new().unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        scrapes.wait(never.as_fd(), Some(end));
        assert!(Instant::now() < end, "nothing happens");
        scrapes.serve(&mut || page.map(str::to_owned));
    }

    fn ask(scrapes: &mut Scrapes, stream: impl Into<Socket>, sent: &[u8]) -> String {
        answer_to(scrapes, stream, sent, Some("page\n"))
    }

    /// The whole answer to what was sent. As many turns as it takes: the stream does not wait.
    fn answer_to(
        scrapes: &mut Scrapes, stream: impl Into<Socket>, sent: &[u8], page: Option<&str>,
    ) -> String {
        let mut stream: Socket = stream.into();
        stream.write_all(sent).unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut told = Vec::new();
        loop {
            match stream.read_to_end(&mut told) {
                Ok(_) => return String::from_utf8(told).unwrap(),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            turn(scrapes, page);
        }
    }

    #[test]
    fn whatever_is_asked_gets_the_page() {
        let (mut scrapes, address) = listening();
        let long = [b'x'; 20_000];
        for asked in [GET.as_bytes(), b"GET / HTTP/1.1\r\n\r\n", b"\0", b"\xff\xff", &long] {
            let told = ask(&mut scrapes, TcpStream::connect(address).unwrap(), asked);
            assert_eq!(told, format!("{HEAD}page\n"), "{} bytes", asked.len());
        }
    }

    #[test]
    fn nobody_is_answered_before_they_ask() {
        let (mut scrapes, address) = listening();
        let silent: Socket = TcpStream::connect(address).unwrap().into();
        turn(&mut scrapes, Some("page\n"));
        scrapes.serve(&mut || panic!("nobody has asked"));
        silent.set_nonblocking(true).unwrap();
        let nothing = (&silent).read(&mut [0; 1]).unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
        assert_eq!(ask(&mut scrapes, silent, b"G"), format!("{HEAD}page\n"));
    }

    /// Unread bytes at the end would reset the connection, and the other end lose the answer.
    #[test]
    fn a_connection_ends_when_its_client_ends_it_and_what_it_sends_meanwhile_is_taken() {
        let (mut scrapes, address) = listening();
        let mut stream = TcpStream::connect(address).unwrap();
        for part in GET.split_inclusive(' ') {
            stream.write_all(part.as_bytes()).unwrap();
            turn(&mut scrapes, Some("page\n"));
        }
        for _ in 0..3 {
            scrapes.serve(&mut || panic!("it has its answer"));
        }
        assert_eq!(scrapes.peers.len(), 1, "it waits for the client's end");
        let mut told = String::new();
        stream.read_to_string(&mut told).unwrap();
        assert_eq!(told, format!("{HEAD}page\n"));
        drop(stream);
        turn(&mut scrapes, None);
        assert!(scrapes.peers.is_empty());
    }

    #[test]
    fn a_crowd_that_says_nothing_keeps_nobody_out_and_takes_no_more_room() {
        let (mut scrapes, address) = listening();
        let crowd: Vec<TcpStream> =
            (0..3 * MOST).map(|_| TcpStream::connect(address).unwrap()).collect();
        for _ in 0..10 {
            scrapes.serve(&mut || panic!("nobody has asked"));
            assert!(scrapes.peers.len() <= MOST);
        }
        let told = ask(&mut scrapes, TcpStream::connect(address).unwrap(), GET.as_bytes());
        assert_eq!(told, format!("{HEAD}page\n"));
        turn(&mut scrapes, None);
        assert_eq!(scrapes.peers.len(), MOST - 1, "who has an answer has left");
        // Whoever takes too long is dropped, and is waited for no longer than that.
        for peer in &mut scrapes.peers {
            peer.until = Instant::now();
        }
        turn(&mut scrapes, None);
        assert!(scrapes.peers.is_empty());
        drop(crowd);
    }

    #[test]
    fn without_numbers_the_answer_says_so_and_is_empty() {
        let (mut scrapes, address) = listening();
        let stream = TcpStream::connect(address).unwrap();
        let told = answer_to(&mut scrapes, stream, GET.as_bytes(), None);
        assert!(told.starts_with("HTTP/1.1 503 ") && told.ends_with("\r\n\r\n"), "{told}");
        assert!(told.contains("\r\nContent-Length: 0\r\n"), "{told}");
    }

    #[test]
    fn a_socket_file_is_made_anew_and_nothing_else_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics");
        for _ in 0..2 {
            let mut scrapes = Scrapes::socket(&path).unwrap();
            let told = ask(&mut scrapes, UnixStream::connect(&path).unwrap(), GET.as_bytes());
            assert!(told.starts_with(HEAD), "{told}");
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        assert!(Scrapes::socket(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
