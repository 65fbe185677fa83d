//! Names to addresses and back: hosts, services, zones. The one resolver.

use std::io;
use std::net::{IpAddr, SocketAddr};

use dns_lookup::{AddrInfoHints, LookupErrorKind, SockType};
use socket2::Domain;

use crate::core::types::{Fault, FaultKind, Proto};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFamily {
    V4,
    V6,
}

impl AddressFamily {
    pub fn of(ip: IpAddr) -> Self {
        if ip.to_canonical().is_ipv4() { AddressFamily::V4 } else { AddressFamily::V6 }
    }
}

/// The first address of `host`, with the port of `service` (a number or a name), of any protocol
/// and family unless `proto` and `family` say which. An error is the resolver's reason.
pub fn resolve(
    host: &str, service: &str, proto: Option<Proto>, family: Option<AddressFamily>,
) -> Result<SocketAddr, String> {
    let all = resolve_all(host, service, proto, family)?;
    all.first().copied().ok_or_else(|| "no address".into())
}

pub fn port_named(name: &str, proto: Proto) -> Option<u16> {
    resolve("127.0.0.1", name, Some(proto), None).ok().map(|address| address.port())
}

/// All addresses of `hosts`, each once, of both families or of `only` one. Fails if there is none.
pub fn resolve_gateway(
    hosts: &[String], port: u16, only: Option<AddressFamily>,
) -> Result<Vec<SocketAddr>, Fault> {
    let mut found: Vec<SocketAddr> = Vec::new();
    let mut problem = format!("{} has no address of that family", hosts.join(", "));
    for host in hosts {
        match resolve_all(host, &port.to_string(), Some(Proto::Udp), None) {
            Ok(addresses) => {
                for address in addresses {
                    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                    let wanted = only.is_none_or(|only| only == AddressFamily::of(address.ip()));
                    if wanted && !found.contains(&address) {
                        found.push(address);
                    }
                }
            }
            Err(reason) => problem = format!("{host} cannot be resolved: {reason}"),
        }
    }
    if found.is_empty() {
        return Err(Fault::new(
            problem,
            "check the network and the profile's `addresses`; an IP address there needs no \
             resolving",
        )
        .of(FaultKind::Unreachable));
    }
    Ok(found)
}

fn resolve_all(
    host: &str, service: &str, proto: Option<Proto>, family: Option<AddressFamily>,
) -> Result<Vec<SocketAddr>, String> {
    let hints = AddrInfoHints {
        socktype: match proto {
            None => 0,
            Some(Proto::Tcp) => SockType::Stream.into(),
            Some(Proto::Udp) => SockType::DGram.into(),
        },
        address: match family {
            None => 0,
            Some(AddressFamily::V4) => Domain::IPV4.into(),
            Some(AddressFamily::V6) => Domain::IPV6.into(),
        },
        ..AddrInfoHints::default()
    };
    match dns_lookup::getaddrinfo(Some(host), Some(service), Some(hints)) {
        Ok(found) => Ok(found.flatten().map(|info| info.sockaddr).collect()),
        Err(error) => match error.kind() {
            LookupErrorKind::System => Err(io::Error::last_os_error().to_string()),
            _ => Err(reason(error.into())),
        },
    }
}

/// The resolver's reason without the text that std and the crate put around it.
fn reason(error: io::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once("information: ") {
        Some((_, reason)) => reason.into(),
        None => text,
    }
}

/// The name of the host at `ip`, if it has one. Blocks while name servers are asked.
pub fn reverse(ip: IpAddr) -> Option<String> {
    let name = dns_lookup::lookup_addr(&ip).ok()?;
    // Without a name the resolver may return the address itself.
    if name.is_empty() || name.parse::<IpAddr>().is_ok() { None } else { Some(name) }
}

/// The address as text, a link-local one with its zone.
pub fn numeric(address: SocketAddr) -> String {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), zone(v6.scope_id())),
        _ => address.ip().to_string(),
    }
}

#[cfg(unix)]
fn zone(index: u32) -> String {
    if let Ok(interfaces) = nix::net::if_::if_nameindex()
        && let Some(interface) = interfaces.iter().find(|one| one.index() == index)
        && let Ok(name) = interface.name().to_str()
    {
        return name.to_owned();
    }
    index.to_string()
}

#[cfg(not(unix))]
fn zone(index: u32) -> String {
    index.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(host: &str, service: &str, proto: Proto) -> String {
        match resolve(host, service, Some(proto), None) {
            Ok(address) => address.to_string(),
            Err(reason) => reason,
        }
    }

    #[test]
    fn literals_numbers_and_service_names_need_no_name_server() {
        assert_eq!(resolved("192.0.2.1", "7000", Proto::Tcp), "192.0.2.1:7000");
        assert_eq!(resolved("2001:db8::1", "0", Proto::Udp), "[2001:db8::1]:0");
        if std::path::Path::new("/etc/services").exists() {
            assert_eq!(resolved("192.0.2.1", "domain", Proto::Udp), "192.0.2.1:53");
            assert!(resolve("192.0.2.1", "ssh", Some(Proto::Udp), None).is_err());
            // `ssh` is a service of TCP alone, `tftp` of UDP alone.
            for (service, port) in [("ssh", 22), ("tftp", 69)] {
                let address = resolve("192.0.2.1", service, None, None).unwrap();
                assert_eq!(address.port(), port);
            }
        }
    }

    #[test]
    fn a_literal_of_the_wrong_family_is_refused_with_a_reason() {
        let v6 = Some(AddressFamily::V6);
        let reason = resolve("192.0.2.1", "1", Some(Proto::Tcp), v6).unwrap_err();
        assert!(!reason.is_empty() && !reason.contains("lookup"), "{reason}");
    }

    #[test]
    fn a_zone_is_shown_only_if_there_is_one() {
        assert_eq!(numeric("[2001:db8::1]:5".parse().unwrap()), "2001:db8::1");
        assert_eq!(numeric("192.0.2.1:5".parse().unwrap()), "192.0.2.1");
        assert_eq!(numeric("[fe80::1%1]:5".parse().unwrap()).split_once('%').unwrap().0, "fe80::1");
    }

    #[test]
    fn all_addresses_are_taken_each_once_in_order() {
        let hosts =
            ["192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.1", "2001:db8::2"].map(String::from);
        let addresses = |only| {
            let found = resolve_gateway(&hosts, 7, only).unwrap();
            found.iter().map(SocketAddr::to_string).collect::<Vec<_>>()
        };
        let all = ["192.0.2.1:7", "[2001:db8::1]:7", "192.0.2.2:7", "[2001:db8::2]:7"];
        assert_eq!(addresses(None), all);
        assert_eq!(addresses(Some(AddressFamily::V6)), [all[1], all[3]]);
        let fault = resolve_gateway(&hosts[..1], 7, Some(AddressFamily::V6)).unwrap_err();
        assert!(fault.what.contains("no address of that family"), "{fault}");
    }
}
