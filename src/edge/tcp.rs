//! A TCP connection from a port that is known before it is made, and the copying between it and
//! standard input and output.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// Attempts to find a port that is free over both families.
const TRIES: usize = 16;
/// The most bytes that are passed on at once.
const BUFFER: usize = 1 << 16;

/// The longest first line that is read.
const LONGEST_LINE: usize = 255;

/// A local TCP port that is kept for us over both families until the connection uses it: a knock
/// can name it, and nobody else on this machine can take it meanwhile.
pub struct HeldPort {
    number: u16,
    v4: Option<Socket>,
    /// `None` also where there is no IPv6.
    v6: Option<Socket>,
}

impl HeldPort {
    pub fn take() -> io::Result<Self> {
        let mut last = io::Error::from(ErrorKind::AddrInUse);
        for _ in 0..TRIES {
            let v4 = bound(Ipv4Addr::UNSPECIFIED.into(), 0)?;
            let Some(local) = v4.local_addr()?.as_socket() else { break };
            let number = local.port();
            match bound(Ipv6Addr::UNSPECIFIED.into(), number) {
                Ok(v6) => return Ok(Self { number, v4: Some(v4), v6: Some(v6) }),
                // Another program has it over IPv6.
                Err(error) if error.kind() == ErrorKind::AddrInUse => last = error,
                Err(_) => return Ok(Self { number, v4: Some(v4), v6: None }),
            }
        }
        Err(last)
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    /// Connects from this port.
    pub fn connect(&mut self, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        let kept = if to.is_ipv4() { self.v4.take() } else { self.v6.take() };
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = match kept {
            Some(socket) => socket,
            // An earlier attempt over this family has used the socket, and let the port go.
            None => bound(any, self.number)?,
        };
        socket.connect_timeout(&to.into(), timeout)?;
        Ok(socket.into())
    }
}

fn bound(any: IpAddr, port: u16) -> io::Result<Socket> {
    let address = SocketAddr::new(any, port);
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Copies standard input to the peer and the peer's answer to standard output, until both have
/// ended. The end of one direction is passed on and leaves the other one open.
/// Error: the connection broke, or nobody reads standard output any more.
pub fn pipe(mut from_peer: TcpStream) -> io::Result<()> {
    // What a person types goes out at once.
    from_peer.set_nodelay(true)?;
    let mut to_peer = from_peer.try_clone()?;
    // Not std's own handles: they would keep back what does not end in a line break.
    let mut input = file(io::stdin())?;
    let mut output = file(io::stdout())?;
    let upward = std::thread::spawn(move || {
        copy(&mut input, &mut to_peer)?;
        to_peer.shutdown(Shutdown::Write)
    });
    copy(&mut from_peer, &mut output)?;
    // A person who sees that the other side has ended need not end the input as well.
    if io::stdin().is_terminal() {
        return Ok(());
    }
    drop(output);
    end_output()?;
    match upward.join() {
        // The peer has ended already: it closed the connection while we sent the rest.
        Ok(Err(error)) if !is_end(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Passes on what comes as it comes. `std::io::copy` may use splice(2), which on some kernels
/// (6.18) holds back what a socket has until there is more.
fn copy(input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => output.write_all(&buffer[..length])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The first line that the peer sends, without its end: nothing of it if the peer closes the
/// connection. `None` if no line comes in time.
pub fn first_line(mut stream: TcpStream, patience: Duration) -> Option<String> {
    let deadline = Instant::now() + patience;
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < LONGEST_LINE {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        // On some systems a timeout below the clock's resolution means no timeout at all.
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).ok()?;
        match stream.read(&mut byte) {
            Ok(0) => break,
            Ok(_) if byte == *b"\n" => break,
            Ok(_) => line.extend(byte),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(String::from_utf8_lossy(&line).trim_end().to_owned())
}

fn is_end(error: &io::Error) -> bool {
    use ErrorKind::*;
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
}

#[cfg(unix)]
fn file(stream: impl std::os::fd::AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
fn file(stream: impl std::os::windows::io::AsHandle) -> io::Result<File> {
    Ok(stream.as_handle().try_clone_to_owned()?.into())
}

/// Lets the reader of standard output see its end, while we go on.
#[cfg(unix)]
fn end_output() -> io::Result<()> {
    let nothing = File::options().write(true).open("/dev/null")?;
    Ok(nix::unistd::dup2_stdout(nothing)?)
}

/// On Windows the reader sees it when the program ends.
#[cfg(windows)]
fn end_output() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_connection_over_either_family_comes_from_the_held_port() {
        let mut held = HeldPort::take().unwrap();
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(server) = TcpListener::bind(any) else { continue };
            let address = server.local_addr().unwrap();
            let mut stream = held.connect(address, PATIENCE).unwrap();
            let (mut accepted, peer) = server.accept().unwrap();
            assert_eq!(peer.port(), held.number());
            stream.write_all(b"hello").unwrap();
            drop(stream);
            let mut text = String::new();
            accepted.read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello");
        }
    }

    #[test]
    fn the_first_line_is_read_and_silence_or_a_closed_connection_has_none() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        for (sent, line) in [("SSH-2.0-x\r\nmore", Some("SSH-2.0-x")), ("", Some(""))] {
            let stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            server.accept().unwrap().0.write_all(sent.as_bytes()).unwrap();
            assert_eq!(first_line(stream, PATIENCE).as_deref(), line);
        }
        let stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let _silent = server.accept().unwrap();
        assert_eq!(first_line(stream, Duration::from_millis(50)), None);
    }

    #[test]
    fn nobody_else_gets_a_held_port_before_it_is_used() {
        let held = HeldPort::take().unwrap();
        for any in [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()] {
            if let Ok(socket) = bound(any, 0) {
                drop(socket);
                let error = bound(any, held.number()).map(drop).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::AddrInUse);
            }
        }
    }

    #[test]
    fn after_a_refused_connection_the_port_connects_elsewhere() {
        let mut held = HeldPort::take().unwrap();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused = held.connect(closed, PATIENCE).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        held.connect(server.local_addr().unwrap(), PATIENCE).unwrap();
        assert_eq!(server.accept().unwrap().1.port(), held.number());
    }
}
