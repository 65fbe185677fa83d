//! Answers `GET /metrics` on a loopback address or a Unix socket. Hostile local users may connect:
//! few at a time, each with little time and few bytes, and nothing else is answered.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::files;
use crate::core::types::Fault;

/// Connections at a time. One more takes the place of the oldest.
const MOST: usize = 16;
/// Bytes of a request.
const LONGEST: usize = 4096;
/// Time for request and answer together.
const PATIENCE: Duration = Duration::from_secs(2);

pub struct Scrapes {
    listener: Listener,
    peers: Vec<Peer>,
}

enum Listener {
    Tcp(TcpListener),
    Socket(UnixListener),
}

trait Stream: Read + Write + AsFd + Send {}
impl<T: Read + Write + AsFd + Send> Stream for T {}

struct Peer {
    stream: Box<dyn Stream>,
    request: Vec<u8>,
    /// What is left of the answer, once there is one.
    answer: Option<Vec<u8>>,
    until: Instant,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrapeForm {
    OpenMetrics,
    Prometheus,
}

#[derive(Debug, PartialEq, Eq)]
enum Request {
    Metrics(ScrapeForm),
    Unknown,
    /// Its end has not come yet.
    Partial,
}

impl Scrapes {
    pub fn tcp(listener: TcpListener) -> io::Result<Scrapes> {
        listener.set_nonblocking(true)?;
        Ok(Scrapes { listener: Listener::Tcp(listener), peers: Vec::new() })
    }

    /// Anybody on this machine who reaches the socket's directory may connect.
    pub fn socket(path: &Path) -> Result<Scrapes, Fault> {
        files::check_place(path)?;
        let fault = |error: io::Error| {
            let what = format!("{}: the metrics' socket cannot be made: {error}", path.display());
            Fault::new(what, "give [metrics] listen a path that is free")
        };
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(fault(ErrorKind::AlreadyExists.into()));
            }
            Ok(_) => fs::remove_file(path).map_err(fault)?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(fault)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(fault)?;
        listener.set_nonblocking(true).map_err(fault)?;
        Ok(Scrapes { listener: Listener::Socket(listener), peers: Vec::new() })
    }

    /// Waits for at most `patience`, and goes on with every connection. `page` makes the answer;
    /// `None` if there is none now.
    pub fn turn(&mut self, patience: Duration, page: &mut dyn FnMut(ScrapeForm) -> Option<String>) {
        self.wait(patience);
        // As many as there may be: a crowd that connects again and again must not hold us up.
        for _ in 0..MOST {
            let Ok(stream) = self.listener.accept() else { break };
            if self.peers.len() == MOST {
                self.peers.remove(0);
            }
            let until = Instant::now() + PATIENCE;
            self.peers.push(Peer { stream, request: Vec::new(), answer: None, until });
        }
        let now = Instant::now();
        self.peers.retain_mut(|peer| now < peer.until && peer.advance(page).is_ok());
    }

    fn wait(&self, patience: Duration) {
        let mut fds = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        for peer in &self.peers {
            let flags = if peer.answer.is_some() { PollFlags::POLLOUT } else { PollFlags::POLLIN };
            fds.push(PollFd::new(peer.stream.as_fd(), flags));
        }
        // An error is as a turn in which nothing happened.
        let _ = poll(&mut fds, PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO));
    }
}

impl Listener {
    fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Listener::Tcp(listener) => {
                let (stream, _): (TcpStream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Box::new(stream)
            }
            Listener::Socket(listener) => {
                let (stream, _): (UnixStream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Box::new(stream)
            }
        })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Socket(listener) => listener.as_fd(),
        }
    }
}

impl Peer {
    /// Reads and writes what can be without waiting. An error: the connection is over.
    fn advance(&mut self, page: &mut dyn FnMut(ScrapeForm) -> Option<String>) -> io::Result<()> {
        if self.answer.is_none() {
            self.read()?;
            self.answer = match request(&self.request) {
                Request::Partial if self.request.len() < LONGEST => return Ok(()),
                Request::Partial | Request::Unknown => Some(refusal("404 Not Found")),
                Request::Metrics(form) => Some(match page(form) {
                    Some(page) => answer(form, &page),
                    None => refusal("503 Service Unavailable"),
                }),
            };
        }
        self.write()
    }

    fn read(&mut self) -> io::Result<()> {
        let mut chunk = [0; 1024];
        while self.request.len() < LONGEST {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.request.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(answer) = &mut self.answer else { return Ok(()) };
        while !answer.is_empty() {
            match self.stream.write(answer) {
                Ok(n) => drop(answer.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::WriteZero.into())
    }
}

/// The request in these bytes. Of its lines only the first and `Accept` count.
fn request(bytes: &[u8]) -> Request {
    let head = String::from_utf8_lossy(bytes);
    let Some((head, _)) = head.split_once("\r\n\r\n") else { return Request::Partial };
    let mut lines = head.split("\r\n");
    let first: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let ["GET", "/metrics", "HTTP/1.0" | "HTTP/1.1"] = first[..] else { return Request::Unknown };
    for line in lines {
        let line = line.to_ascii_lowercase();
        if line.starts_with("accept:") && line.contains("application/openmetrics-text") {
            return Request::Metrics(ScrapeForm::OpenMetrics);
        }
    }
    Request::Metrics(ScrapeForm::Prometheus)
}

fn answer(form: ScrapeForm, page: &str) -> Vec<u8> {
    let kind = match form {
        ScrapeForm::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ScrapeForm::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
    };
    let length = page.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n");
    format!("{head}Connection: close\r\n\r\n{page}").into_bytes()
}

fn refusal(status: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

    fn listening() -> (Scrapes, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (Scrapes::tcp(listener).unwrap(), address)
    }

    /// The whole answer to what was sent.
    fn ask(scrapes: &mut Scrapes, mut stream: impl Read + Write, sent: &str) -> String {
        stream.write_all(sent.as_bytes()).unwrap();
        let mut told = String::new();
        for _ in 0..3 {
            let mut page = |form: ScrapeForm| Some(format!("{form:?}\n"));
            scrapes.turn(Duration::from_secs(5), &mut page);
            if scrapes.peers.is_empty() {
                break;
            }
        }
        stream.read_to_string(&mut told).unwrap();
        told
    }

    #[test]
    fn a_scrape_gets_the_form_that_it_accepts() {
        let (mut scrapes, address) = listening();
        let connect = || TcpStream::connect(address).unwrap();
        let told = ask(&mut scrapes, connect(), GET);
        assert!(told.starts_with("HTTP/1.1 200 OK\r\n") && told.ends_with("\r\n\r\nPrometheus\n"));
        assert!(told.contains("\r\nContent-Length: 11\r\n"), "{told}");
        let accepts = GET.replace("Host: x", "ACCEPT: application/openmetrics-text;version=1.0.0");
        let told = ask(&mut scrapes, connect(), &accepts);
        assert!(told.contains("application/openmetrics-text; version=1.0.0"), "{told}");
        assert!(told.ends_with("\r\n\r\nOpenMetrics\n"));
        for other in [
            "GET / HTTP/1.1\r\n\r\n",
            "POST /metrics HTTP/1.1\r\n\r\n",
            "GET /metrics/../x HTTP/1.1\r\n\r\n",
            "GET /metrics HTTP/1.1 x\r\n\r\n",
            "\r\n\r\n",
            &"x".repeat(LONGEST),
        ] {
            let told = ask(&mut scrapes, connect(), other);
            assert!(told.starts_with("HTTP/1.1 404 "), "{other:?}: {told}");
        }
    }

    #[test]
    fn a_crowd_that_says_nothing_keeps_nobody_out_and_takes_no_more_room() {
        let (mut scrapes, address) = listening();
        let crowd: Vec<TcpStream> =
            (0..3 * MOST).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut page = |_| Some(String::new());
        for _ in 0..10 {
            scrapes.turn(Duration::ZERO, &mut page);
            assert!(scrapes.peers.len() <= MOST);
        }
        let told = ask(&mut scrapes, TcpStream::connect(address).unwrap(), GET);
        assert!(told.starts_with("HTTP/1.1 200 OK"), "{told}");
        assert!(scrapes.peers.len() <= MOST);
        // Whoever takes too long is dropped.
        for peer in &mut scrapes.peers {
            peer.until = Instant::now();
        }
        scrapes.turn(Duration::ZERO, &mut page);
        assert!(scrapes.peers.is_empty());
        drop(crowd);
    }

    #[test]
    fn a_gateway_that_does_not_answer_is_told_as_such() {
        let (mut scrapes, address) = listening();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(GET.as_bytes()).unwrap();
        scrapes.turn(Duration::from_secs(5), &mut |_| None);
        scrapes.turn(Duration::ZERO, &mut |_| None);
        let mut told = String::new();
        stream.read_to_string(&mut told).unwrap();
        assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
    }

    #[test]
    fn a_socket_file_is_made_anew_and_nothing_else_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics");
        for _ in 0..2 {
            let mut scrapes = Scrapes::socket(&path).unwrap();
            let told = ask(&mut scrapes, UnixStream::connect(&path).unwrap(), GET);
            assert!(told.starts_with("HTTP/1.1 200 OK"), "{told}");
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        assert!(Scrapes::socket(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
