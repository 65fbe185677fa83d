//! A few words with a service of this host, as anybody could say them who reaches it; and what a
//! program says about itself.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a service may take for each answer.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The most bytes of an answer that are read.
const ANSWER: usize = 512;

pub struct Talk(TcpStream);

impl Talk {
    /// Connects to a socket of this host.
    pub fn with(socket: SocketAddr) -> io::Result<Talk> {
        let ip = match socket.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            other => other,
        };
        let stream = TcpStream::connect_timeout(&SocketAddr::new(ip, socket.port()), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Talk(stream))
    }

    pub fn say(&mut self, words: &[u8]) -> io::Result<()> {
        self.0.write_all(words)
    }

    /// What comes next; nothing if nothing comes in time, or the service hangs up.
    pub fn hear(&mut self) -> Vec<u8> {
        let mut buffer = [0; ANSWER];
        let length = self.0.read(&mut buffer).unwrap_or(0);
        buffer[..length].to_vec()
    }
}

/// What a program prints when it is run with these words and no environment; `None` if it fails.
pub fn printed_by(program: &Path, words: &[impl AsRef<OsStr>]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(words).env_clear().env("LC_ALL", "C").current_dir("/");
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    if !output.status.success() {
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
