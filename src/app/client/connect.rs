//! `toctoc connect`: knocks, connects to the service from the same address, and copies.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::ask::{ExchangeOutcome, GatewayResult};
use super::{Console, DONE, PreparedKnock, prepare, request};
use crate::app::args::toctoc::Connect;
use crate::app::output::CommandOutput;
use crate::app::waiting::Waiting;
use crate::core::exchange::ClientRequest;
use crate::core::knock::{KnockKind, PortEntry, Receipt, Status};
use crate::core::types::{Fault, FaultKind, Port, Proto};
use crate::edge::interrupt;
use crate::edge::tcp::{self, HeldPort};

/// Time for the service to accept the connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// Seconds of a grant that is only for one connection: that must come within [`PATIENCE`], and then
/// goes on without it. Each connection takes one of the client's grants, so they end soon.
const GRANT: u32 = 15;
/// How long to wait for the end of an earlier grant, and between two attempts.
const FULL_PATIENCE: Duration = Duration::from_secs(20);
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// The port of ssh, which connects if the grant covers several.
const SSH: u16 = 22;

impl Console<'_> {
    pub(super) fn connect(&mut self, args: &Connect) -> Result<u8, Fault> {
        let mut port = HeldPort::take().map_err(|error| {
            Fault::new(
                format!("no free TCP port to connect from: {error}"),
                "close other connections, then try again",
            )
        })?;
        let wanted = ClientRequest {
            seconds: args.seconds.unwrap_or(GRANT),
            held_port: Some(port.number()),
            ask_source: args.ask_source,
            invitation: None,
            ..request(KnockKind::Open, &args.common)
        };
        let mut knock = prepare(&self.paths, &args.common, wanted, None)?;
        let mut results = send_bound(&mut knock)?;
        let end = Instant::now() + FULL_PATIENCE;
        while is_refused(&results, Status::Full)
            && !knock.signer.wants_touch()
            && Instant::now() < end
        {
            let _waiting = Waiting::begin("waiting until an earlier grant ends".to_owned());
            std::thread::sleep(FULL_PAUSE);
            results = send_bound(&mut knock)?;
        }
        let mut problem = None;
        for result in &results {
            let Some(receipt) = grant(result) else { continue };
            match connect(&knock, result, receipt, args.port, &mut port) {
                Ok(stream) => return copy(stream),
                Err(fault) => problem = Some(fault),
            }
        }
        if let Some(fault) = problem {
            return Err(fault);
        }
        let CommandOutput { out, err, code, .. } = knock.report(&results).output();
        // Standard output belongs to the service.
        self.print("", &out);
        self.print("", &err);
        if results.iter().any(|result| status(result) == Some(Status::Address)) {
            self.print("", &ask_source_text(&knock));
        }
        Ok(code)
    }
}

/// The same advice for ssh, which takes no address.
fn ask_source_text(knock: &PreparedKnock) -> String {
    let name = &knock.held.name;
    format!(
        "  where you know that such a NAT is your own network's: toctoc connect {name}:{} \
         --ask-source, or for ssh: toctoc ssh-config {name} --install --ask-source\n",
        knock.request.service
    )
}

/// Knocks for a grant that is bound to the held port, or to none if the service takes none.
/// Error: as [`PreparedKnock::send`].
pub(super) fn send_bound(knock: &mut PreparedKnock) -> Result<Vec<GatewayResult>, Fault> {
    let results = knock.send()?;
    if is_refused(&results, Status::Denied) {
        // A service of commands takes no source port.
        knock.request.held_port = None;
        return knock.send();
    }
    Ok(results)
}

fn status(result: &GatewayResult) -> Option<Status> {
    match &result.outcome {
        ExchangeOutcome::Received(received) => Some(received.receipt.status),
        _ => None,
    }
}

/// True if nothing was granted, for this reason over one address at least.
fn is_refused(results: &[GatewayResult], reason: Status) -> bool {
    let mut is_refused = false;
    for result in results {
        match status(result) {
            Some(Status::Granted) => return false,
            Some(status) if status == reason => is_refused = true,
            _ => {}
        }
    }
    is_refused
}

pub(super) fn grant(result: &GatewayResult) -> Option<&Receipt> {
    match &result.outcome {
        ExchangeOutcome::Received(received) if received.receipt.status == Status::Granted => {
            Some(&received.receipt)
        }
        _ => None,
    }
}

/// Connects to the address of the gateway that granted it.
pub(super) fn connect(
    knock: &PreparedKnock, result: &GatewayResult, receipt: &Receipt, wanted: Option<u16>,
    from: &mut HeldPort,
) -> Result<TcpStream, Fault> {
    let service = knock.request.service;
    let number = tcp_port(receipt, wanted).ok_or_else(|| no_port(knock, receipt, wanted))?;
    let to = SocketAddr::new(result.gateway.ip(), number);
    let _waiting = Waiting::begin(format!("granted; connecting to {to}"));
    from.connect(to, PATIENCE).map_err(|error| {
        let what = format!("{service} is granted, but {to} cannot be reached: {error}");
        let remedy = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => {
                "nothing listens there: ask the gateway's admin if the service is running"
            }
            _ => {
                "another firewall is in the way: try another network. If it is the same there, \
                  the gateway's admin runs `toctocd check`, which names the rule"
            }
        };
        Fault::new(what, remedy).of(FaultKind::Unreachable)
    })
}

fn no_port(knock: &PreparedKnock, receipt: &Receipt, wanted: Option<u16>) -> Fault {
    let service = knock.request.service;
    let name = &knock.held.name;
    let opened = super::messages::ports(receipt).join(", ");
    match wanted {
        Some(port) => Fault::new(
            format!("{service} opens {opened}, and not port {port}/tcp"),
            format!("leave the port out: toctoc connect {name}:{service}"),
        ),
        None if opened.is_empty() => Fault::new(
            format!("{service} is a service of commands, which names no port"),
            format!("name the TCP port: toctoc connect {name}:{service} PORT"),
        ),
        None => Fault::new(
            format!("{service} opens {opened}, and no TCP port"),
            format!("use your own program after: toctoc open {name} {service}"),
        ),
    }
}

/// The port to connect to: the wanted one if the grant may cover it, else that of ssh if the grant
/// surely covers it, else the grant's first one.
pub(super) fn tcp_port(receipt: &Receipt, wanted: Option<u16>) -> Option<u16> {
    let entries: Vec<PortEntry> = receipt.ports.iter().flatten().copied().collect();
    let covers = |number: u16| {
        let port = Port { proto: Proto::Tcp, number };
        entries.iter().any(|entry| match entry {
            PortEntry::Range(range) => range.covers(port),
            PortEntry::All => true,
            PortEntry::More => false,
        })
    };
    if let Some(port) = wanted {
        // A receipt does not say what a service of commands opens, nor what it has no room for.
        let unknown = entries.is_empty() || entries.contains(&PortEntry::More);
        return if unknown || covers(port) { Some(port) } else { None };
    }
    if covers(SSH) {
        return Some(SSH);
    }
    for entry in &entries {
        if let PortEntry::Range(range) = entry
            && range.proto == Proto::Tcp
        {
            return Some(range.first);
        }
    }
    None
}

fn copy(stream: TcpStream) -> Result<u8, Fault> {
    interrupt::say(": the connection is closed");
    match tcp::pipe(stream) {
        // The program that started us has ended.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let what = format!("the connection broke: {error}");
            Err(Fault::new(what, "connect again").of(FaultKind::Unreachable))
        }
        _ => Ok(DONE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::client::ask::tests::receipt;
    use crate::core::types::PortRange;

    fn grant_of(ports: &[&str]) -> Receipt {
        let mut grant = receipt(Status::Granted, "192.0.2.7:4000".parse().unwrap());
        for (entry, text) in grant.ports.iter_mut().zip(ports) {
            *entry = Some(match *text {
                "all" => PortEntry::All,
                "more" => PortEntry::More,
                text => PortEntry::Range(PortRange::read(text).unwrap()),
            });
        }
        grant
    }

    #[test]
    fn the_port_is_the_named_one_then_that_of_ssh_then_the_first_of_tcp() {
        for (ports, wanted, expected) in [
            (&["2222/tcp"][..], None, Some(2222)),
            (&["60000-61000/udp", "8000-8010/tcp", "22/tcp"], None, Some(22)),
            (&["60000-61000/udp", "8000-8010/tcp"], None, Some(8000)),
            (&["all"], None, Some(22)),
            (&["53/udp"], None, None),
            (&[], None, None),
            (&["8000-8010/tcp"], Some(8005), Some(8005)),
            (&["8000-8010/tcp"], Some(22), None),
            (&["53/udp"], Some(53), None),
            (&["8000/tcp", "more"], Some(22), Some(22)),
            (&["all"], Some(443), Some(443)),
            (&[], Some(443), Some(443)),
        ] {
            assert_eq!(tcp_port(&grant_of(ports), wanted), expected, "{ports:?} {wanted:?}");
        }
    }
}
