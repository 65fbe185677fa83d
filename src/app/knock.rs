//! The classic client: hits the ports of a sequence, one after the other.
//! One hit is left to `edge::hit`, knock's own command line to `compat`.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;

use crate::core::types::{Fault, Proto};
use crate::edge::hit::{NotHit, Origin, hit};
use crate::edge::names::{Family, numeric, resolve};

/// Hits the ports of a classic sequence, in order.
#[derive(Args, Clone, Debug, Default)]
pub struct KnockArgs {
    /// The host to knock at: a name or an address.
    pub host: String,
    /// What to hit, in order: a number or a service name, with `:udp` or `:tcp` behind it; tcp unless said otherwise.
    #[arg(required = true, value_name = "PORT[:PROTO]")]
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

/// `toctoc knock`: all names are looked up and all ports read before the first hit, so that none is wasted. The exit status
/// is [`SENT`] or [`NOT_SENT`].
///
/// # Errors
/// The command line is wrong; nothing was sent.
pub fn main(args: &KnockArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<i32, Fault> {
    let family = match (args.ipv4, args.ipv6) {
        (true, _) => Family::V4,
        (_, true) => Family::V6,
        _ => Family::Any,
    };
    let steps = args.ports.iter().map(|port| step(port, args.udp)).collect::<Result<Vec<_>, Fault>>()?;
    let targets = match targets(&args.host, &steps, family) {
        Ok(targets) => targets,
        Err(fault) => return say(err, &fault).map(|()| NOT_SENT),
    };
    let origin = Origin { source: args.source, interface: args.interface.clone() };
    for (index, (to, proto)) in targets.iter().enumerate() {
        if index > 0 {
            std::thread::sleep(Duration::from_millis(args.delay.into()));
        }
        if args.verbose {
            let line = writeln!(out, "hitting {} {}:{}", proto.name(), numeric(*to), to.port());
            line.and_then(|()| out.flush()).map_err(|error| Fault::new(format!("standard output: {error}"), ""))?;
        }
        if let Err(error) = hit(*to, *proto, &origin) {
            return say(err, &not_sent(*to, *proto, &error)).map(|()| NOT_SENT);
        }
    }
    Ok(SENT)
}

/// A port as people write it. Unlike knock's: what is neither tcp nor udp, or is port 0 or above 65535, is refused.
fn step(text: &str, udp: bool) -> Result<(&str, Proto), Fault> {
    let (port, proto) = match text.split_once(':') {
        None if udp => (text, Proto::Udp),
        None => (text, Proto::Tcp),
        Some((port, "tcp")) => (port, Proto::Tcp),
        Some((port, "udp")) => (port, Proto::Udp),
        Some((_, other)) => {
            return Err(Fault::new(format!("{text}: no protocol is called {other:?}"), "write :tcp or :udp"));
        }
    };
    let number = port.bytes().all(|b| b.is_ascii_digit());
    if port.is_empty() || number && !port.parse().is_ok_and(|port: u16| port > 0) {
        return Err(Fault::new(format!("{text}: not a port"), "write 1 to 65535 or a service name from /etc/services"));
    }
    Ok((port, proto))
}

/// One look-up decides on the address: all hits go to the same, whatever a name server rotates.
fn targets(host: &str, steps: &[(&str, Proto)], family: Family) -> Result<Vec<(SocketAddr, Proto)>, Fault> {
    let mut address: Option<SocketAddr> = None;
    let mut targets = Vec::new();
    for (port, proto) in steps {
        let known = address.map(numeric);
        let found = resolve(known.as_deref().unwrap_or(host), port, *proto, family).map_err(|reason| {
            let what = format!("{host}, port {port}/{}: {reason}", proto.name());
            Fault::new(what, "check the name, the port, and with -4 or -6 that the host has such an address")
        })?;
        address = Some(found);
        targets.push((found, *proto));
    }
    Ok(targets)
}

fn not_sent(to: SocketAddr, proto: Proto, error: &NotHit) -> Fault {
    let what = |error: &io::Error| format!("{} port {}/{}: not sent: {error}", numeric(to), to.port(), proto.name());
    match error {
        NotHit::Socket(error) => Fault::new(what(error), "check --source and --interface"),
        NotHit::Send(error) => Fault::new(what(error), "check the route to the host and this machine's own firewall"),
    }
}

fn say(err: &mut dyn Write, fault: &Fault) -> Result<(), Fault> {
    writeln!(err, "toctoc: {fault}").map_err(|error| Fault::new(format!("standard error: {error}"), ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn knock(ports: &[&str], with: impl FnOnce(&mut KnockArgs)) -> (Result<i32, Fault>, String, String) {
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
        let (status, out, err) = knock(&[&text, &port.to_string()], |args| (args.verbose, args.udp) = (true, true));
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
        for bad in ["0", "65536", "70000:udp", "7:icmp", "7:UDP", "", ":udp", "7:tcp:x"] {
            assert!(knock(&[&good, bad], |_| ()).0.is_err(), "{bad:?}");
        }
        assert_eq!(knock(&[&good, "no-such-service"], |_| ()).0.unwrap(), NOT_SENT);
        assert!(server.recv(&mut [0; 9]).is_err(), "nothing was sent");
    }

    #[test]
    fn what_cannot_be_sent_ends_the_knock_with_a_reason() {
        let (status, _, err) = knock(&["7"], |args| args.source = Some("192.0.2.99".parse().unwrap()));
        assert_eq!(status.unwrap(), NOT_SENT);
        assert!(err.contains("--source"), "{err}");
    }
}
