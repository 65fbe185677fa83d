//! Names to addresses and back: hosts, services, zones.
//! What is sent there is left to `hit` and `send`.

use std::net::{IpAddr, SocketAddr};

use dns_lookup::{AddrInfoHints, LookupErrorKind, SockType};

use crate::core::types::Proto;

/// Which addresses of a host will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FamilyPreference {
    /// The resolver's first answer.
    #[default]
    Any,
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
}

/// The first address of `host`, with the port that `service`, a number or a name, stands for;
/// without `proto` the name of a service of any protocol will do.
///
/// # Errors
/// The resolver's reason, in its own words.
pub fn resolve(
    host: &str,
    service: &str,
    proto: Option<Proto>,
    family: FamilyPreference,
) -> Result<SocketAddr, String> {
    let hints = AddrInfoHints {
        socktype: proto.map_or(0, |proto| {
            if proto == Proto::Tcp { SockType::Stream } else { SockType::DGram }.into()
        }),
        address: address_family(family),
        ..AddrInfoHints::default()
    };
    let found =
        dns_lookup::getaddrinfo(Some(host), Some(service), Some(hints)).map_err(
            |error| match error.kind() {
                LookupErrorKind::System => std::io::Error::last_os_error().to_string(),
                _ => reason(error.into()),
            },
        );
    found?
        .filter_map(Result::ok)
        .map(|info| info.sockaddr)
        .next()
        .ok_or_else(|| "no address".into())
}

/// The name of the host at `ip`, if it has one. Blocks while name servers are asked.
pub fn reverse(ip: IpAddr) -> Option<String> {
    let name = dns_lookup::lookup_addr(&ip).ok()?;
    // Without a name the resolver may answer the address itself.
    (name.parse::<IpAddr>().is_err() && !name.is_empty()).then_some(name)
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
    let interfaces = nix::net::if_::if_nameindex().ok();
    let name = interfaces
        .as_ref()
        .and_then(|all| all.iter().find(|interface| interface.index() == index))
        .and_then(|interface| interface.name().to_str().ok().map(String::from));
    name.unwrap_or_else(|| index.to_string())
}

#[cfg(not(unix))]
fn zone(index: u32) -> String {
    index.to_string()
}

/// The resolver's reason without what std and the crate put around it.
fn reason(error: std::io::Error) -> String {
    let text = error.to_string();
    text.rsplit_once("information: ").map_or(text.clone(), |(_, reason)| reason.into())
}

fn address_family(family: FamilyPreference) -> i32 {
    use socket2::Domain;
    match family {
        FamilyPreference::Any => 0,
        FamilyPreference::V4 => Domain::IPV4.into(),
        FamilyPreference::V6 => Domain::IPV6.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(host: &str, service: &str, proto: Proto) -> String {
        resolve(host, service, Some(proto), FamilyPreference::Any)
            .map_or_else(|reason| reason, |address| address.to_string())
    }

    #[test]
    fn literals_numbers_and_service_names_need_no_name_server() {
        assert_eq!(resolved("192.0.2.1", "7000", Proto::Tcp), "192.0.2.1:7000");
        assert_eq!(resolved("2001:db8::1", "0", Proto::Udp), "[2001:db8::1]:0");
        if std::path::Path::new("/etc/services").exists() {
            assert_eq!(resolved("192.0.2.1", "domain", Proto::Udp), "192.0.2.1:53");
            assert!(resolve("192.0.2.1", "ssh", Some(Proto::Udp), FamilyPreference::Any).is_err());
            let any = |service| {
                resolve("192.0.2.1", service, None, FamilyPreference::Any)
                    .map(|address| address.port())
            };
            assert_eq!(
                [any("ssh"), any("tftp")],
                [Ok(22), Ok(69)],
                "services of TCP alone and of UDP alone"
            );
        }
    }

    #[test]
    fn a_literal_of_the_wrong_family_is_refused_with_a_reason() {
        let reason = resolve("192.0.2.1", "1", Some(Proto::Tcp), FamilyPreference::V6).unwrap_err();
        assert!(!reason.is_empty() && !reason.contains("lookup"), "{reason}");
    }

    #[test]
    fn zones_are_shown_only_where_there_are_some() {
        assert_eq!(numeric("[2001:db8::1]:5".parse().unwrap()), "2001:db8::1");
        assert_eq!(numeric("192.0.2.1:5".parse().unwrap()), "192.0.2.1");
        assert_eq!(numeric("[fe80::1%1]:5".parse().unwrap()).split_once('%').unwrap().0, "fe80::1");
    }
}
