//! The questions of `toctocd init` at a terminal: what this machine is, and what to hide.

use std::collections::BTreeSet;

use crate::app::args::toctocd::Init;
use crate::app::interfaces;
use crate::app::output::print_error;
use crate::config::{Service, ServicePorts, defaults};
use crate::core::address::{AddressScope, is_host, reach};
use crate::core::types::{Fault, Port, PortRange, Proto, ServiceName};
use crate::edge::addresses::{self, LocalAddress};
use crate::edge::{proc_net, terminal};

/// Names of services by their TCP ports. A name of one's own is as good.
const WELL_KNOWN: [(u16, &str); 16] = [
    (21, "ftp"),
    (22, "ssh"),
    (25, "smtp"),
    (53, "dns"),
    (80, "http"),
    (143, "imap"),
    (443, "https"),
    (445, "smb"),
    (993, "imaps"),
    (3306, "mysql"),
    (3389, "rdp"),
    (5432, "postgresql"),
    (5900, "vnc"),
    (6379, "redis"),
    (8006, "proxmox"),
    (9090, "cockpit"),
];

/// Asks for what the arguments leave open. `None`: the admin does not want it after all.
pub(super) fn ask(args: &Init) -> Result<Option<Init>, Fault> {
    let mut answers = args.clone();
    if args.addresses.is_empty() {
        let found = own_address(&addresses::own()?, &interfaces::of_default_routes());
        answers.addresses = vec![ask_address(found.as_ref())?];
    }
    if args.services.is_empty() {
        let offers = offers(&proc_net::listening());
        let mut text = "Services that listen here:\n".to_owned();
        for offer in &offers {
            text += &format!("  {:12} {}\n", offer.name.as_str(), offer.ports.texts().join(" "));
        }
        print_error(if offers.is_empty() { "No service listens here yet.\n" } else { &text });
        answers.services = ask_services(&offers)?;
    }
    print_error(&consequences(&answers.services));
    let question = format!("Write keys and configuration to {}?", args.dir.display());
    Ok(if terminal::confirm(&question) { Some(answers) } else { None })
}

fn ask_address(found: Option<&LocalAddress>) -> Result<String, Fault> {
    let mut proposal = String::new();
    if let Some(LocalAddress { interface, address, .. }) = found {
        print_error(&match reach(*address) {
            AddressScope::Global => format!("This machine is {address} (on {interface}).\n"),
            _ => format!(
                "This machine is {address} (on {interface}), which is a private address. If clients \
                 come\nfrom outside, name the public address or name that leads here.\n"
            ),
        });
        proposal = address.to_string();
    }
    loop {
        let answer = terminal::ask_line("Name or address that clients use", &proposal)?;
        if is_host(&answer) {
            return Ok(answer);
        }
        print_error("Write a host name or an IP address, without a port.\n");
    }
}

fn ask_services(offers: &[Service]) -> Result<Vec<Service>, Fault> {
    let proposal = if offers.iter().any(|offer| offer.name.as_str() == "ssh") || offers.is_empty() {
        "ssh"
    } else {
        ""
    };
    loop {
        let answer = terminal::ask_line("Services to hide, separated by commas", proposal)?;
        match chosen(&answer, offers) {
            Ok(services) => return Ok(services),
            Err(why) => print_error(&format!("{why}\n")),
        }
    }
}

/// The address of an interface with a default route that most likely leads here: a public one
/// before a private one, IPv4 first, because more clients have it.
fn own_address(own: &[LocalAddress], default_routes: &[String]) -> Option<LocalAddress> {
    let mut candidates = Vec::new();
    for one in own.iter().filter(|one| !one.loopback && default_routes.contains(&one.interface)) {
        let rank = match reach(one.address) {
            AddressScope::Global => 0,
            AddressScope::Private => 2,
            _ => continue,
        };
        candidates.push((rank + u8::from(one.address.is_ipv6()), one));
    }
    let (_, best) = candidates.into_iter().min_by_key(|(rank, _)| *rank)?;
    Some(best.clone())
}

/// The services that listen for connections from elsewhere. Datagrams are left out: most of their
/// sockets belong to clients of something.
fn offers(listening: &BTreeSet<Port>) -> Vec<Service> {
    let mut offers = Vec::new();
    for port in listening.iter().filter(|port| port.proto == Proto::Tcp) {
        offers.extend(offer(port.number));
    }
    offers
}

fn offer(number: u16) -> Option<Service> {
    let known = WELL_KNOWN.iter().find(|(known, _)| *known == number);
    let name = match known {
        Some((_, name)) => (*name).to_owned(),
        None => format!("tcp-{number}"),
    };
    let range = PortRange { proto: Proto::Tcp, first: number, last: number };
    Some(defaults::service(ServiceName::new(&name)?, ServicePorts::Listed(vec![range])))
}

/// The services that an answer names, also well-known ones that do not listen yet.
fn chosen(answer: &str, offers: &[Service]) -> Result<Vec<Service>, String> {
    let mut services: Vec<Service> = Vec::new();
    for word in answer.split([',', ' ']).map(str::trim).filter(|word| !word.is_empty()) {
        if services.iter().any(|service| service.name.as_str() == word) {
            continue;
        }
        if let Some(offer) = offers.iter().find(|offer| offer.name.as_str() == word) {
            services.push(offer.clone());
        } else if let Some((number, _)) = WELL_KNOWN.iter().find(|(_, name)| *name == word) {
            services.extend(offer(*number));
        } else {
            return Err(format!(
                "`{word}` is not in the list; add it to the configuration afterwards"
            ));
        }
    }
    if services.is_empty() { Err("Name at least one.".to_owned()) } else { Ok(services) }
}

/// What the guard will do, before anything is written.
fn consequences(services: &[Service]) -> String {
    let mut ports = Vec::new();
    for service in services {
        ports.extend(service.ports.texts());
    }
    format!(
        "Once the gateway runs, its guard (a table of nftables) drops what comes to\n{} without a \
         grant. It changes no rule of yours.\n",
        ports.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(interface: &str, address: &str) -> LocalAddress {
        LocalAddress {
            interface: interface.to_owned(),
            loopback: interface == "lo",
            address: address.parse().unwrap(),
            of_all: Vec::new(),
        }
    }

    #[test]
    fn the_address_that_leads_here_is_a_public_one_of_the_default_route_ipv4_first() {
        let default_routes = ["eth0".to_owned()];
        let best = |own: &[LocalAddress]| {
            own_address(own, &default_routes).map(|one| one.address.to_string())
        };
        let lo = local("lo", "127.0.0.1");
        let link = local("eth0", "fe80::1");
        let private = local("eth0", "192.168.1.5");
        let global6 = local("eth0", "2a01:4f8::5");
        let global = local("eth0", "93.184.216.34");
        let other = local("docker0", "172.17.0.1");
        assert_eq!(best(&[lo.clone(), link.clone(), other]), None);
        assert_eq!(best(&[lo, link, private.clone()]), Some("192.168.1.5".to_owned()));
        assert_eq!(best(&[private.clone(), global6.clone()]), Some("2a01:4f8::5".to_owned()));
        assert_eq!(best(&[private, global6, global]), Some("93.184.216.34".to_owned()));
    }

    #[test]
    fn what_listens_is_offered_by_name_and_an_answer_chooses_from_it() {
        let port = |proto, number| Port { proto, number };
        let listening =
            BTreeSet::from([port(Proto::Tcp, 22), port(Proto::Tcp, 9000), port(Proto::Udp, 68)]);
        let offers = offers(&listening);
        let names = |services: &[Service]| -> Vec<String> {
            services.iter().map(|service| service.name.to_string()).collect()
        };
        assert_eq!(names(&offers), ["ssh", "tcp-9000"]);
        let all = chosen("ssh, tcp-9000,ssh", &offers).unwrap();
        assert_eq!(names(&all), ["ssh", "tcp-9000"]);
        assert_eq!(all[1].ports.texts(), ["9000/tcp"]);
        assert_eq!(names(&chosen("rdp", &offers).unwrap()), ["rdp"], "not started yet");
        assert!(chosen("", &offers).is_err() && chosen("ssh,finger", &offers).is_err());
        assert!(consequences(&all).contains("22/tcp, 9000/tcp without a grant"));
    }
}
