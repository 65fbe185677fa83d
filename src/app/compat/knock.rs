//! `knock`, the classic client under its old name: knock 0.8's command line, messages and exit
//! statuses.
//!
//! COMPAT: each port is resolved by itself and hit before the next one is; a packet that cannot be
//! sent is no error; anything but `udp` after a port's colon means TCP; a service name of any
//! protocol counts.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use super::getopt::{Opt, OptPart, parts};
use crate::config::knockd::atoi;
use crate::core::types::Proto;
use crate::edge::knock_packet::{PacketOrigin, SendError, send};
use crate::edge::names::{AddressFamily, numeric, resolve};

const OPTIONS: [Opt; 7] = [
    Opt { short: 'u', long: "udp", takes: false },
    Opt { short: 'd', long: "delay", takes: true },
    Opt { short: '4', long: "ipv4", takes: false },
    Opt { short: '6', long: "ipv6", takes: false },
    Opt { short: 'v', long: "verbose", takes: false },
    Opt { short: 'V', long: "version", takes: false },
    Opt { short: 'h', long: "help", takes: false },
];

/// Printed to standard output by `-h`, and if the command line is wrong.
const USAGE: &str = "\
usage: knock [options] <host> <port[:proto]> [port[:proto]] ...

  -u, --udp        hit every port by UDP, whatever stands behind it
  -d, --delay MS   wait so long after each hit
  -4, --ipv4       IPv4 only
  -6, --ipv6       IPv6 only
  -v, --verbose    say what is hit
  -V, --version    whose version this is
  -h, --help       this text

example: knock server.example.net 7000:tcp 8000:udp 9000
This is toctoc under the name knock. `toctoc knock` says what went wrong; `toctoc open` cannot be overheard.
";

/// Everything was sent, or the version was printed.
const DONE: u8 = 0;
/// Wrong usage (help included), a name that does not resolve, or no socket.
const WRONG: u8 = 1;

pub fn main() -> ExitCode {
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_default();
    let status = run(&program, words, &mut io::stdout(), &mut io::stderr()).unwrap_or(WRONG);
    ExitCode::from(status)
}

/// Runs the command line `words` (without the program's name) and returns the exit status.
fn run(
    program: &str, words: impl IntoIterator<Item = String>, out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let mut knock = KnockProgram::default();
    for part in parts(program, &OPTIONS, words) {
        match part {
            OptPart::Flag('u') => knock.udp = true,
            OptPart::Flag('4') => knock.family = Some(AddressFamily::V4),
            OptPart::Flag('6') => knock.family = Some(AddressFamily::V6),
            OptPart::Flag('v') => knock.verbose = true,
            OptPart::Flag('V') => {
                out.write_all(super::version("knock").as_bytes())?;
                return Ok(DONE);
            }
            OptPart::Flag(_) => return usage(out),
            OptPart::Wrong(text) => {
                writeln!(err, "{text}")?;
                return usage(out);
            }
            OptPart::With(_, milliseconds) => knock.delay = atoi(&milliseconds),
            OptPart::Word(word) => knock.words.push(word),
        }
    }
    let [host, ports @ ..] = &knock.words[..] else { return usage(out) };
    if ports.is_empty() {
        return usage(out);
    }
    let Ok(delay) = u64::try_from(knock.delay) else {
        writeln!(err, "error: delay cannot be negative")?;
        return Ok(WRONG);
    };
    knock.hit_all(host, ports, Duration::from_millis(delay), out, err)
}

fn usage(out: &mut dyn Write) -> io::Result<u8> {
    out.write_all(USAGE.as_bytes())?;
    Ok(WRONG)
}

#[derive(Default)]
struct KnockProgram {
    udp: bool,
    family: Option<AddressFamily>,
    verbose: bool,
    delay: i32,
    words: Vec<String>,
}

impl KnockProgram {
    fn hit_all(
        &self, host: &str, ports: &[String], delay: Duration, out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> io::Result<u8> {
        for text in ports {
            let (port, proto) = text.split_once(':').unwrap_or((text, "tcp"));
            let proto = if self.udp || proto == "udp" { Proto::Udp } else { Proto::Tcp };
            let to = match resolve(host, port, None, self.family) {
                Ok(to) => to,
                Err(reason) => {
                    writeln!(
                        err,
                        "Failed to resolve hostname '{host}' on port {port}\ngetaddrinfo: {reason}"
                    )?;
                    return Ok(WRONG);
                }
            };
            if self.verbose {
                writeln!(out, "hitting {} {}:{port}", proto.name(), numeric(to))?;
            }
            if let Err(SendError::Socket(_)) = send(to, proto, &PacketOrigin::default()) {
                writeln!(err, "Cannot open socket")?;
                return Ok(WRONG);
            }
            std::thread::sleep(delay);
        }
        Ok(DONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn knock(line: &str) -> (u8, String, String) {
        let mut out = Vec::new();
        let mut err = Vec::new();
        let status =
            run("knock", line.split_whitespace().map(String::from), &mut out, &mut err).unwrap();
        (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn help_and_wrong_usage_are_status_1_and_the_version_is_0() {
        for line in ["", "-h", "127.0.0.1", "-u 127.0.0.1", "-d -5", "-d -5 127.0.0.1"] {
            let (status, out, err) = knock(line);
            assert_eq!((status, err.as_str()), (1, ""), "{line}");
            assert!(out.starts_with("usage: knock [options]"), "{line}");
        }
        assert_eq!(knock("-V").0, 0);
        let (status, out, err) = knock("-x 127.0.0.1 7001");
        assert_eq!((status, err.as_str()), (1, "knock: invalid option -- 'x'\n"));
        assert!(out.starts_with("usage: "));
        assert_eq!(
            knock("-d -5 127.0.0.1 7001"),
            (1, String::new(), "error: delay cannot be negative\n".into())
        );
    }

    #[test]
    fn packets_are_sent_and_shown_as_they_were_typed() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        // 65536 more is the same port on the wire, as with knock.
        let line = format!(
            "127.0.0.1 {port}:udp -v {}:udp 9:UDP -d abc 9:udp:x",
            u32::from(port) + 65_536
        );
        let (status, out, err) = knock(&line);
        let shown = format!(
            "hitting udp 127.0.0.1:{port}\nhitting udp 127.0.0.1:{}\nhitting tcp 127.0.0.1:9\nhitting tcp 127.0.0.1:9\n",
            u32::from(port) + 65_536
        );
        assert_eq!((status, out.as_str(), err.as_str()), (0, shown.as_str(), ""));
        for _ in 0..2 {
            let mut buffer = [9; 4];
            let (length, _) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], [0]);
        }
    }

    #[test]
    fn u_wins_over_a_protocol_after_a_port() {
        let (status, out, _) = knock("-uv 127.0.0.1 9:tcp");
        assert_eq!((status, out.as_str()), (0, "hitting udp 127.0.0.1:9\n"));
    }

    #[test]
    fn a_name_that_does_not_resolve_is_reported_and_is_status_1() {
        let (status, out, err) = knock("-6 127.0.0.1 7001");
        assert_eq!((status, out.as_str()), (1, ""));
        assert!(
            err.starts_with("Failed to resolve hostname '127.0.0.1' on port 7001\ngetaddrinfo: "),
            "{err}"
        );
    }

    #[test]
    fn a_service_name_of_any_protocol_counts() {
        if std::path::Path::new("/etc/services").exists() {
            let (status, out, err) = knock("-v 127.0.0.1 ssh:udp tftp ssh");
            let shown = "hitting udp 127.0.0.1:ssh\nhitting tcp 127.0.0.1:tftp\nhitting tcp 127.0.0.1:ssh\n";
            assert_eq!((status, out.as_str(), err.as_str()), (0, shown, ""));
        }
    }
}
