//! The classic client `toctoc knock`: hits the ports of a sequence, one after the other.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;

use crate::core::door::Step;
use crate::core::types::{Fault, Port, Proto};
use crate::edge::knock_packet::{self, PacketOrigin, SendError};
use crate::edge::names::{AddressFamily, numeric, resolve};

/// Hits the ports of a classic sequence, in order.
#[derive(Args, Clone, Debug, Default)]
pub struct KnockArgs {
    /// The host to knock at: a name or an address.
    pub host: String,
    /// Ports to hit, in order: a number or a service name, followed by `:udp` or `:tcp`. Default:
    /// tcp. `icmp:64` is an echo request with 64 bytes of data.
    #[arg(required = true, value_name = "PORT[:PROTO]|icmp:SIZE")]
    pub ports: Vec<String>,
    /// UDP for the ports that name no protocol.
    #[arg(short, long)]
    pub udp: bool,
    /// Milliseconds between two packets. With 0, packets may overtake each other on their way.
    #[arg(short, long, value_name = "MS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=60_000))]
    pub delay: u32,
    /// IPv4 only.
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// IPv6 only.
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// Send from this address of this machine.
    #[arg(short, long, value_name = "ADDRESS")]
    pub source: Option<IpAddr>,
    /// Send through this interface.
    #[arg(short, long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Print each port as it is hit.
    #[arg(short, long)]
    pub verbose: bool,
}

/// Exit code: everything was sent. Only the host knows if it opened anything.
pub const SENT: u8 = 0;
/// Exit code: something could not be sent; standard error says what.
pub const NOT_SENT: u8 = 1;

pub const DELAY: Duration = Duration::from_millis(10);

/// The error of a sequence that was not sent completely.
#[derive(Debug)]
pub struct NotSent {
    pub hits: usize,
    pub fault: Fault,
}

/// Runs `toctoc knock`. All ports are read and all names are resolved before the first packet, so
/// that no part of a sequence is sent in vain.
/// Returns: why something could not be sent. Error: the command line is wrong; nothing was sent.
pub fn main(args: &KnockArgs, out: &mut dyn Write) -> Result<Option<Fault>, Fault> {
    let family = match (args.ipv4, args.ipv6) {
        (true, _) => Some(AddressFamily::V4),
        (_, true) => Some(AddressFamily::V6),
        _ => None,
    };
    let mut steps = Vec::new();
    for port in &args.ports {
        steps.push(target(port, args.udp)?);
    }
    let hits = match resolve_all(&args.host, &steps, family) {
        Ok(hits) => hits,
        Err(fault) => return Ok(Some(fault)),
    };
    let origin = PacketOrigin { source: args.source, interface: args.interface.clone() };
    let delay = Duration::from_millis(args.delay.into());
    let sent = send(&hits, delay, &origin, &mut |to, step| {
        if args.verbose {
            // A closed pipe is no reason to leave the sequence incomplete.
            let _ = writeln!(out, "hitting {}", shown(to, step)).and_then(|()| out.flush());
        }
    });
    Ok(sent.err().map(|error| error.fault))
}

/// Sends `hits` in order, `delay` apart, and calls `before` with each.
/// Error: the first packet that could not be sent; no later one is tried.
pub fn send(
    hits: &[(SocketAddr, Step)], delay: Duration, origin: &PacketOrigin,
    before: &mut dyn FnMut(SocketAddr, Step),
) -> Result<(), NotSent> {
    for (to, step) in hits {
        if let Step::Echo { .. } = step {
            if let Err(error) = knock_packet::can_ping(*to) {
                return Err(NotSent { hits: 0, fault: fault(*to, *step, &error) });
            }
            break;
        }
    }
    for (index, (to, step)) in hits.iter().enumerate() {
        if index > 0 {
            std::thread::sleep(delay);
        }
        before(*to, *step);
        let sent = match step {
            Step::Port(port) => knock_packet::send(*to, port.proto, origin),
            Step::Echo { size } => knock_packet::ping(*to, *size, origin),
        };
        if let Err(error) = sent {
            return Err(NotSent { hits: index, fault: fault(*to, *step, &error) });
        }
    }
    Ok(())
}

enum KnockTarget<'a> {
    Port(&'a str, Proto),
    Echo(u16),
}

/// Reads a port of the command line. Unlike knock, it refuses protocols that are neither tcp nor
/// udp, port 0, and ports above 65535.
fn target(text: &str, udp: bool) -> Result<KnockTarget<'_>, Fault> {
    if text.starts_with("icmp:") {
        return match Step::read(text) {
            Some(Step::Echo { size }) => Ok(KnockTarget::Echo(size)),
            _ => Err(Fault::new(
                format!("{text}: not a size"),
                "write icmp:64 for an echo request with 64 bytes of data",
            )),
        };
    }
    let (port, proto) = match text.split_once(':') {
        None if udp => (text, Proto::Udp),
        None => (text, Proto::Tcp),
        Some((port, "tcp")) => (port, Proto::Tcp),
        Some((port, "udp")) => (port, Proto::Udp),
        Some((_, other)) => {
            return Err(Fault::new(
                format!("{text}: unknown protocol {other:?}"),
                "write :tcp or :udp after a port, or icmp:SIZE",
            ));
        }
    };
    let is_name = !port.bytes().all(|b| b.is_ascii_digit());
    let is_number = matches!(port.parse::<u16>(), Ok(1..));
    if !is_name && !is_number {
        return Err(Fault::new(
            format!("{text}: not a port"),
            "write 1 to 65535, or a service name from /etc/services",
        ));
    }
    Ok(KnockTarget::Port(port, proto))
}

/// Resolves the host once, so that all packets go to the same address even if a name server
/// rotates them, and the name of each port.
fn resolve_all(
    host: &str, steps: &[KnockTarget<'_>], family: Option<AddressFamily>,
) -> Result<Vec<(SocketAddr, Step)>, Fault> {
    let mut host_or_address = host.to_owned();
    let mut hits = Vec::new();
    for step in steps {
        let (port, proto, place) = match step {
            KnockTarget::Port(port, proto) => {
                (*port, *proto, format!("{host}, port {port}/{}", proto.name()))
            }
            KnockTarget::Echo(_) => ("0", Proto::Udp, host.to_owned()),
        };
        let to = match resolve(&host_or_address, port, Some(proto), family) {
            Ok(to) => to,
            Err(reason) => {
                return Err(Fault::new(
                    format!("{place}: {reason}"),
                    "check the name, the port, and with -4 or -6 that the host has such an address",
                ));
            }
        };
        host_or_address = numeric(to);
        let step = match step {
            KnockTarget::Port(..) => Step::Port(Port { proto, number: to.port() }),
            KnockTarget::Echo(size) => Step::Echo { size: *size },
        };
        hits.push((to, step));
    }
    Ok(hits)
}

/// The text of knock's `-v`.
fn shown(to: SocketAddr, step: Step) -> String {
    match step {
        Step::Port(port) => format!("{} {}:{}", port.proto.name(), numeric(to), port.number),
        Step::Echo { .. } => format!("{step} {}", numeric(to)),
    }
}

fn fault(to: SocketAddr, step: Step, error: &SendError) -> Fault {
    let packet = format!("{}: {} was not sent", numeric(to), step.notation());
    match (error, step) {
        (SendError::Socket(error), Step::Echo { .. }) if no_ping_sockets(error) => Fault::new(
            format!("{packet}: this system allows you no ping socket ({error})"),
            "use a door without icmp; or on Linux as root, to allow them to all users: \
             sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"",
        ),
        (SendError::Socket(error), _) => {
            Fault::new(format!("{packet}: {error}"), "check --source and --interface")
        }
        (SendError::Send(error), _) => Fault::new(
            format!("{packet}: {error}"),
            "check the route to the host and this machine's own firewall",
        ),
    }
}

/// True if ping sockets are forbidden (Linux) or do not exist (some other systems).
fn no_ping_sockets(error: &io::Error) -> bool {
    let unknown = cfg!(not(target_os = "linux")) && error.kind() != io::ErrorKind::AddrNotAvailable;
    error.kind() == io::ErrorKind::PermissionDenied || unknown
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn knock(
        ports: &[&str], with: impl FnOnce(&mut KnockArgs),
    ) -> (Result<Option<Fault>, Fault>, String) {
        let ports = ports.iter().map(ToString::to_string).collect();
        let mut args = KnockArgs { host: "127.0.0.1".into(), ports, ..KnockArgs::default() };
        with(&mut args);
        let mut out = Vec::new();
        let sent = main(&args, &mut out);
        (sent, String::from_utf8(out).unwrap())
    }

    #[test]
    fn packets_arrive_in_order_and_are_shown() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let text = format!("{port}:udp");
        let (sent, out) =
            knock(&[&text, &port.to_string()], |args| (args.verbose, args.udp) = (true, true));
        assert_eq!(sent.unwrap(), None);
        assert_eq!(out, format!("hitting udp 127.0.0.1:{port}\n").repeat(2));
        for _ in 0..2 {
            assert_eq!(server.recv(&mut [0; 9]).unwrap(), 1);
        }
    }

    #[test]
    fn a_wrong_port_anywhere_is_refused_before_the_first_packet() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_nonblocking(true).unwrap();
        let good = format!("{}:udp", server.local_addr().unwrap().port());
        for (bad, said) in [
            ("0", "not a port"),
            ("65536", "not a port"),
            ("70000:udp", "not a port"),
            ("", "not a port"),
            (":udp", "not a port"),
            ("7:icmp", "unknown protocol \"icmp\""),
            ("7:UDP", "unknown protocol \"UDP\""),
            ("7:tcp:x", "unknown protocol \"tcp:x\""),
            ("icmp:", "not a size"),
            ("icmp:65508", "not a size"),
        ] {
            let fault = knock(&[&good, bad], |_| ()).0.unwrap_err();
            assert!(fault.what.contains(said) && !fault.remedy.is_empty(), "{bad:?}: {fault}");
        }
        assert!(server.recv(&mut [0; 9]).is_err(), "nothing was sent");
    }

    #[test]
    fn a_name_that_does_not_resolve_stops_the_sequence_before_its_first_packet() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_nonblocking(true).unwrap();
        let good = format!("{}:udp", server.local_addr().unwrap().port());
        let fault = knock(&[&good, "no-such-service"], |_| ()).0.unwrap().unwrap();
        assert!(fault.what.starts_with("127.0.0.1, port no-such-service/tcp: "), "{fault}");
        let fault = knock(&[&good], |args| args.ipv6 = true).0.unwrap().unwrap();
        let text = fault.to_string();
        assert!(text.contains("with -4 or -6 that the host has such an address"), "{text}");
        assert!(server.recv(&mut [0; 9]).is_err(), "nothing was sent");
    }

    #[test]
    fn a_packet_that_cannot_be_sent_ends_the_sequence_with_a_reason() {
        let sent = knock(&["7"], |args| args.source = Some("192.0.2.99".parse().unwrap()));
        let fault = sent.0.unwrap().unwrap();
        assert!(fault.what.starts_with("127.0.0.1: 7/tcp was not sent: "), "{fault}");
        assert!(fault.to_string().contains("--source"), "{fault}");
    }

    #[test]
    fn the_remedy_depends_on_the_step_that_failed() {
        let to = "192.0.2.1:7".parse().unwrap();
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let port = Step::udp(7);
        let socket = fault(to, port, &SendError::Socket(denied()));
        assert_eq!(socket.remedy, "check --source and --interface");
        let sent = fault(to, port, &SendError::Send(denied()));
        assert!(sent.remedy.contains("own firewall"), "{sent}");
        let echo = fault(to, Step::Echo { size: 64 }, &SendError::Socket(denied()));
        assert!(echo.what.starts_with("192.0.2.1: icmp:64 was not sent: "), "{echo}");
        assert!(echo.remedy.contains("ping_group_range"), "{echo}");
    }

    #[test]
    fn one_lookup_decides_the_address_of_all_packets() {
        let steps = [KnockTarget::Port("7", Proto::Udp), KnockTarget::Echo(64)];
        let hits = resolve_all("127.0.0.1", &steps, Some(AddressFamily::V4)).unwrap();
        let addresses: Vec<String> = hits.iter().map(|(to, _)| to.to_string()).collect();
        assert_eq!(addresses, ["127.0.0.1:7", "127.0.0.1:0"]);
        assert_eq!(hits[1].1, Step::Echo { size: 64 });
    }
}
