//! The classic client: hits the ports of a sequence, one after the other.
//! One hit is left to `edge::hit`, knock's own command line to `compat`.

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
    /// What to hit, in order: a number or a service name, with `:udp` or `:tcp` behind it; tcp
    /// unless said otherwise. `icmp:64` is an echo request that carries 64 bytes.
    #[arg(required = true, value_name = "PORT[:PROTO]|icmp:SIZE")]
    pub ports: Vec<String>,
    /// UDP for the ports that name no protocol.
    #[arg(short, long)]
    pub udp: bool,
    /// Milliseconds between two hits. Without any, packets may overtake each other on their way.
    #[arg(short, long, value_name = "MS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=60_000))]
    pub delay: u32,
    /// IPv4 only.
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// IPv6 only.
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// Leave from this address of this machine.
    #[arg(short, long, value_name = "ADDRESS")]
    pub source: Option<IpAddr>,
    /// Leave through this interface.
    #[arg(short, long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Say what is hit.
    #[arg(short, long)]
    pub verbose: bool,
}

/// Everything was sent. Whether it opened anything nobody but the host can know.
pub const SENT: i32 = 0;
/// Something could not be sent; what, was said on stderr.
pub const NOT_SENT: i32 = 1;

/// What lies between two hits unless somebody says otherwise.
pub const DELAY: Duration = Duration::from_millis(10);

/// A sequence that was not sent whole.
#[derive(Debug)]
pub struct NotSent {
    /// How many hits have left.
    pub hits: usize,
    /// Why the next one has not.
    pub fault: Fault,
}

/// `toctoc knock`: all names are looked up and all ports read before the first hit, so that none is
/// wasted. The exit status is [`SENT`] or [`NOT_SENT`].
///
/// # Errors
/// The command line is wrong; nothing was sent.
pub fn main(args: &KnockArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<i32, Fault> {
    let family = match (args.ipv4, args.ipv6) {
        (true, _) => Some(AddressFamily::V4),
        (_, true) => Some(AddressFamily::V6),
        _ => None,
    };
    let steps =
        args.ports.iter().map(|port| wanted(port, args.udp)).collect::<Result<Vec<_>, Fault>>()?;
    let hits = match targets(&args.host, &steps, family) {
        Ok(hits) => hits,
        Err(fault) => return say(err, &fault).map(|()| NOT_SENT),
    };
    let origin = PacketOrigin { source: args.source, interface: args.interface.clone() };
    let delay = Duration::from_millis(args.delay.into());
    let sent = send(&hits, delay, &origin, &mut |to, step| {
        if args.verbose {
            // A closed pipe is the reader's wish: the knock goes on.
            let _ = writeln!(out, "hitting {}", shown(to, step)).and_then(|()| out.flush());
        }
    });
    match sent {
        Ok(()) => Ok(SENT),
        Err(not_sent) => say(err, &not_sent.fault).map(|()| NOT_SENT),
    }
}

/// Sends `hits` in order, `delay` apart; `before` hears of each.
///
/// # Errors
/// The first hit that did not leave; no later one is tried.
pub fn send(
    hits: &[(SocketAddr, Step)],
    delay: Duration,
    origin: &PacketOrigin,
    before: &mut dyn FnMut(SocketAddr, Step),
) -> Result<(), NotSent> {
    let failed =
        |hits, to, step, error: SendError| NotSent { hits, fault: not_sent(to, step, &error) };
    if let Some((to, step)) = hits.iter().find(|(_, step)| matches!(step, Step::Echo { .. })) {
        knock_packet::can_ping(*to).map_err(|error| failed(0, *to, *step, error))?;
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
        sent.map_err(|error| failed(index, *to, *step, error))?;
    }
    Ok(())
}

/// What a word of the command line asks for.
enum KnockTarget<'a> {
    Port(&'a str, Proto),
    Echo(u16),
}

/// A port as people write it. Unlike knock's: what is neither tcp nor udp, or is port 0 or above
/// 65535, is refused.
fn wanted(text: &str, udp: bool) -> Result<KnockTarget<'_>, Fault> {
    if text.starts_with("icmp:") {
        return match Step::read(text) {
            Some(Step::Echo { size }) => Ok(KnockTarget::Echo(size)),
            _ => Err(Fault::new(
                format!("{text}: not a size"),
                "write icmp:64 for an echo request that carries 64 bytes",
            )),
        };
    }
    let (port, proto) = match text.split_once(':') {
        None if udp => (text, Proto::Udp),
        None => (text, Proto::Tcp),
        Some((port, "tcp")) => (port, Proto::Tcp),
        Some((port, "udp")) => (port, Proto::Udp),
        Some((_, other)) => {
            let what = format!("{text}: no protocol is called {other:?}");
            return Err(Fault::new(what, "write :tcp or :udp behind a port, or icmp:SIZE"));
        }
    };
    let number = port.bytes().all(|b| b.is_ascii_digit());
    if port.is_empty() || number && !port.parse().is_ok_and(|port: u16| port > 0) {
        return Err(Fault::new(
            format!("{text}: not a port"),
            "write 1 to 65535 or a service name from /etc/services",
        ));
    }
    Ok(KnockTarget::Port(port, proto))
}

/// One look-up decides on the address: all hits go to the same, whatever a name server rotates.
fn targets(
    host: &str,
    steps: &[KnockTarget<'_>],
    family: Option<AddressFamily>,
) -> Result<Vec<(SocketAddr, Step)>, Fault> {
    let mut address: Option<SocketAddr> = None;
    let mut targets = Vec::new();
    for step in steps {
        let known = address.map(numeric);
        let (port, proto) = match step {
            KnockTarget::Port(port, proto) => (*port, *proto),
            KnockTarget::Echo(_) => ("0", Proto::Udp),
        };
        let found = resolve(known.as_deref().unwrap_or(host), port, Some(proto), family).map_err(
            |reason| {
                let what = match step {
                    KnockTarget::Port(..) => {
                        format!("{host}, port {port}/{}: {reason}", proto.name())
                    }
                    KnockTarget::Echo(_) => format!("{host}: {reason}"),
                };
                Fault::new(
                    what,
                    "check the name, the port, and with -4 or -6 that the host has such an address",
                )
            },
        )?;
        address = Some(found);
        targets.push((found, step.at(found.port())));
    }
    Ok(targets)
}

impl KnockTarget<'_> {
    /// The step, once the number of a named port is known.
    fn at(&self, number: u16) -> Step {
        match self {
            KnockTarget::Port(_, proto) => Step::Port(Port { proto: *proto, number }),
            KnockTarget::Echo(size) => Step::Echo { size: *size },
        }
    }
}

/// As knock's `-v` has it.
fn shown(to: SocketAddr, step: Step) -> String {
    match step {
        Step::Port(port) => format!("{} {}:{}", port.proto.name(), numeric(to), port.number),
        Step::Echo { .. } => format!("{step} {}", numeric(to)),
    }
}

fn not_sent(to: SocketAddr, step: Step, error: &SendError) -> Fault {
    let what =
        |error: &io::Error| format!("{}: {} was not sent: {error}", numeric(to), step.notation());
    match (error, step) {
        (SendError::Socket(error), Step::Echo { .. }) if no_ping_sockets(error) => Fault::new(
            format!(
                "{}: {} was not sent: this system gives you no ping socket ({error})",
                numeric(to),
                step.notation()
            ),
            "on Linux its admin allows them to all: sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"; or use a door without icmp",
        ),
        (SendError::Socket(error), _) => Fault::new(what(error), "check --source and --interface"),
        (SendError::Send(error), _) => {
            Fault::new(what(error), "check the route to the host and this machine's own firewall")
        }
    }
}

/// Not allowed on Linux; not there at all on some other systems.
fn no_ping_sockets(error: &io::Error) -> bool {
    let unknown = cfg!(not(target_os = "linux")) && error.kind() != io::ErrorKind::AddrNotAvailable;
    error.kind() == io::ErrorKind::PermissionDenied || unknown
}

fn say(err: &mut dyn Write, fault: &Fault) -> Result<(), Fault> {
    writeln!(err, "toctoc: {fault}")
        .map_err(|error| Fault::new(format!("standard error: {error}"), ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn knock(
        ports: &[&str],
        with: impl FnOnce(&mut KnockArgs),
    ) -> (Result<i32, Fault>, String, String) {
        let ports = ports.iter().map(ToString::to_string).collect();
        let mut args = KnockArgs { host: "127.0.0.1".into(), ports, ..KnockArgs::default() };
        with(&mut args);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = main(&args, &mut out, &mut err);
        (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn hits_arrive_in_order_and_are_told_of() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let text = format!("{port}:udp");
        let (status, out, err) =
            knock(&[&text, &port.to_string()], |args| (args.verbose, args.udp) = (true, true));
        assert_eq!((status.unwrap(), err.as_str()), (SENT, ""));
        assert_eq!(out, format!("hitting udp 127.0.0.1:{port}\n").repeat(2));
        for _ in 0..2 {
            assert_eq!(server.recv(&mut [0; 9]).unwrap(), 1);
        }
    }

    #[test]
    fn a_wrong_port_anywhere_is_refused_before_the_first_hit() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_nonblocking(true).unwrap();
        let good = format!("{}:udp", server.local_addr().unwrap().port());
        for bad in [
            "0",
            "65536",
            "70000:udp",
            "7:icmp",
            "icmp:",
            "icmp:65508",
            "7:UDP",
            "",
            ":udp",
            "7:tcp:x",
        ] {
            assert!(knock(&[&good, bad], |_| ()).0.is_err(), "{bad:?}");
        }
        assert_eq!(knock(&[&good, "no-such-service"], |_| ()).0.unwrap(), NOT_SENT);
        assert!(server.recv(&mut [0; 9]).is_err(), "nothing was sent");
    }

    #[test]
    fn what_cannot_be_sent_ends_the_knock_with_a_reason() {
        let (status, _, err) =
            knock(&["7"], |args| args.source = Some("192.0.2.99".parse().unwrap()));
        assert_eq!(status.unwrap(), NOT_SENT);
        assert!(err.contains("--source"), "{err}");
    }
}
