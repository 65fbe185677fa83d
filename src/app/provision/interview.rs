//! The questions of `toctocd init` at a terminal: what this machine is, and what to hide.

use std::collections::BTreeSet;

use crate::app::args::{self, toctocd::Init};
use crate::app::interfaces;
use crate::app::output::print_error;
use crate::config::{Service, ServicePorts, defaults};
use crate::core::address::{AddressScope, is_host, reach};
use crate::core::types::{Fault, Port, Proto, ServiceName};
use crate::edge::addresses::{self, LocalAddress};
use crate::edge::{proc_net, terminal};

/// Names of services by their usual ports. A name of one's own is as good.
const WELL_KNOWN: [(&str, &[Port]); 23] = [
    ("ftp", &[tcp(21)]),
    ("ssh", &[tcp(22)]),
    ("smtp", &[tcp(25)]),
    ("dns", &[tcp(53), udp(53)]),
    ("tftp", &[udp(69)]),
    ("http", &[tcp(80)]),
    ("imap", &[tcp(143)]),
    ("snmp", &[udp(161)]),
    ("https", &[tcp(443), udp(443)]),
    ("smb", &[tcp(445)]),
    ("ipsec", &[udp(500), udp(4500)]),
    ("syslog", &[tcp(514), udp(514)]),
    ("imaps", &[tcp(993)]),
    ("openvpn", &[tcp(1194), udp(1194)]),
    ("mysql", &[tcp(3306)]),
    ("rdp", &[tcp(3389), udp(3389)]),
    ("sip", &[tcp(5060), udp(5060)]),
    ("postgresql", &[tcp(5432)]),
    ("vnc", &[tcp(5900)]),
    ("redis", &[tcp(6379)]),
    ("proxmox", &[tcp(8006)]),
    ("cockpit", &[tcp(9090)]),
    ("wireguard", &[udp(51820)]),
];

/// UDP ports where the machine's own clients and its local network are heard: DHCP, time, NetBIOS,
/// chrony's commands, printers, UPnP, Web Services Discovery, mDNS, LLMNR.
const NOT_OFFERED: [u16; 13] = [67, 68, 123, 137, 138, 323, 546, 547, 631, 1900, 3702, 5353, 5355];

const fn tcp(number: u16) -> Port {
    Port { proto: Proto::Tcp, number }
}

const fn udp(number: u16) -> Port {
    Port { proto: Proto::Udp, number }
}

/// Asks for what the arguments leave open. `None`: the admin does not want it after all.
pub(super) fn ask(args: &Init) -> Result<Option<Init>, Fault> {
    let mut answers = args.clone();
    if args.addresses.is_empty() {
        let found = own_address(&addresses::own()?, &interfaces::of_default_routes());
        answers.addresses = vec![ask_address(found.as_ref())?];
    }
    if args.services.is_empty() {
        let ephemeral = proc_net::first_ephemeral();
        let offers = offers(&proc_net::listening(), args.port, ephemeral);
        let mut text = "Services that listen here:\n".to_owned();
        for offer in &offers {
            text += &format!("  {:12} {}\n", offer.name.as_str(), offer.ports.texts().join(" "));
        }
        print_error(if offers.is_empty() { "No service listens here yet.\n" } else { &text });
        print_error("Others: NAME=PORT/PROTO, for example mosh=60000-61000/udp\n");
        answers.services = ask_services(&offers, args.port)?;
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

fn ask_services(offers: &[Service], knock: u16) -> Result<Vec<Service>, Fault> {
    let proposal = if offers.iter().any(|offer| offer.name.as_str() == "ssh") || offers.is_empty() {
        "ssh"
    } else {
        ""
    };
    loop {
        let answer = terminal::ask_line("Services to hide, separated by commas", proposal)?;
        match chosen(&answer, offers, knock) {
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

/// The services that listen for others. Of the datagram sockets most belong to clients of
/// something: those from the port `ephemeral` on are left out, unless the number is well known.
fn offers(listening: &BTreeSet<Port>, knock: u16, ephemeral: u16) -> Vec<Service> {
    let mut offers: Vec<Service> = Vec::new();
    for port in listening.iter().filter(|port| **port != udp(knock)) {
        let Some(name) = offered_name(*port, ephemeral) else { continue };
        match offers.iter_mut().find(|offer| offer.name == name) {
            Some(Service { ports: ServicePorts::Listed(ranges), .. }) => {
                ranges.push((*port).into())
            }
            _ => offers.push(defaults::service(name, [*port].as_slice().into())),
        }
    }
    offers
}

fn offered_name(port: Port, ephemeral: u16) -> Option<ServiceName> {
    if let Some((name, _)) = WELL_KNOWN.iter().find(|(_, ports)| ports.contains(&port)) {
        return ServiceName::new(name);
    }
    let is_client = NOT_OFFERED.contains(&port.number) || port.number >= ephemeral;
    if port.proto == Proto::Udp && is_client {
        return None;
    }
    ServiceName::new(&format!("{}-{}", port.proto.name(), port.number))
}

/// The services that an answer names, also well-known ones that do not listen yet.
fn chosen(answer: &str, offers: &[Service], knock: u16) -> Result<Vec<Service>, String> {
    let mut services: Vec<Service> = Vec::new();
    for word in answer.split([',', ' ']).map(str::trim).filter(|word| !word.is_empty()) {
        let service = named(word, offers)?;
        if service.ports.covers(udp(knock)) {
            return Err(format!("{knock}/udp is the port for knocks; choose another"));
        }
        if services.iter().all(|other| other.name != service.name) {
            services.push(service);
        }
    }
    if services.is_empty() { Err("Name at least one.".to_owned()) } else { Ok(services) }
}

fn named(word: &str, offers: &[Service]) -> Result<Service, String> {
    if let Some(offer) = offers.iter().find(|offer| offer.name.as_str() == word) {
        return Ok(offer.clone());
    }
    if word.contains('=') {
        return args::service(word);
    }
    let known = WELL_KNOWN.iter().find(|(name, _)| *name == word);
    match (known, ServiceName::new(word)) {
        (Some((_, ports)), Some(name)) => Ok(defaults::service(name, (*ports).into())),
        _ => Err(format!("`{word}` is not in the list; write it as {word}=PORT/PROTO")),
    }
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
        let offers = offers(&BTreeSet::from([tcp(22), tcp(9000)]), 62201, 32768);
        assert_eq!(texts(&offers), ["ssh 22/tcp", "tcp-9000 9000/tcp"]);
        let chosen = |answer| chosen(answer, &offers, 62201);
        let all = chosen("ssh, tcp-9000,ssh").unwrap();
        assert_eq!(texts(&all), ["ssh 22/tcp", "tcp-9000 9000/tcp"]);
        assert_eq!(texts(&chosen("rdp").unwrap()), ["rdp 3389/tcp 3389/udp"], "not started yet");
        let mosh = chosen("ssh mosh=60000-61000/udp").unwrap();
        assert_eq!(texts(&mosh), ["ssh 22/tcp", "mosh 60000-61000/udp"]);
        assert!(chosen("").is_err() && chosen("ssh,finger").is_err() && chosen("a=b").is_err());
        assert!(chosen("a=62000-63000/udp").unwrap_err().contains("62201/udp is the port for"));
        assert!(consequences(&all).contains("22/tcp, 9000/tcp without a grant"));
    }

    #[test]
    fn of_the_datagram_sockets_only_those_of_servers_are_offered() {
        let servers = [tcp(443), udp(443), udp(51820), udp(3389), tcp(3389), udp(27015)];
        let of_the_machine = NOT_OFFERED.map(udp);
        let of_clients = [udp(32768), udp(51821), udp(60999)];
        let mut listening = BTreeSet::from(servers);
        listening.extend(of_the_machine);
        listening.extend(of_clients);
        let knock = 7000;
        listening.insert(udp(knock));
        let offers = offers(&listening, knock, 32768);
        let expected = [
            "https 443/tcp 443/udp",
            "rdp 3389/tcp 3389/udp",
            "udp-27015 27015/udp",
            "wireguard 51820/udp",
        ];
        assert_eq!(texts(&offers), expected);
    }

    /// `NAME PORTS` of each.
    fn texts(services: &[Service]) -> Vec<String> {
        let text = |one: &Service| format!("{} {}", one.name, one.ports.texts().join(" "));
        services.iter().map(text).collect()
    }
}
