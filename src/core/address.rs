//! Addresses: text forms of hosts, C's spelling of an IP address, and the scope of one.
//! See `edge::names` for name resolution and `policy` for grants.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// True if `text` can be a host: an IP address, or a name of letters, digits, `-`, `_` and dots.
pub fn is_host(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || is_name(text.strip_suffix('.').unwrap_or(text))
}

fn is_name(text: &str) -> bool {
    // `300.1.2.3` is a mistyped address, not a name: no top-level domain is a number.
    let last = text.rsplit('.').next().unwrap_or("");
    let number = last.bytes().all(|byte| byte.is_ascii_digit());
    text.len() <= 253 && !number && text.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// The address as C's `inet_ntop` writes it. It differs from Rust's text only for IPv6 addresses
/// whose first 96 bits are zero, but not the next 16: `::10.1.2.3`.
///
/// COMPAT: knockd puts this text into commands and log lines, and compares it with a `Target`.
pub fn as_text(ip: IpAddr) -> String {
    if let IpAddr::V6(v6) = ip
        && let [0, 0, 0, 0, 0, 0, high, low] = v6.segments()
        && high != 0
    {
        return format!("::{}", Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    }
    ip.to_string()
}

/// The range in which an address means the same machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressScope {
    Global,
    /// One organisation: RFC 1918, RFC 6598, ULA.
    Private,
    /// One link or one machine.
    Local,
    /// Not the address of one machine: unspecified, multicast, broadcast, reserved.
    Nobody,
}

/// The scope of `ip`. Documentation prefixes count as global, as routers treat them.
pub fn reach(ip: IpAddr) -> AddressScope {
    match ip.to_canonical() {
        IpAddr::V4(v4) => reach4(v4),
        IpAddr::V6(v6) => reach6(v6),
    }
}

fn reach4(ip: Ipv4Addr) -> AddressScope {
    let [first, second, ..] = ip.octets();
    if ip.is_loopback() || ip.is_link_local() {
        AddressScope::Local
    } else if ip.is_multicast() || first == 0 || first >= 240 {
        AddressScope::Nobody
    } else if ip.is_private() || (first == 100 && second & 0xc0 == 64) {
        AddressScope::Private
    } else {
        AddressScope::Global
    }
}

fn reach6(ip: Ipv6Addr) -> AddressScope {
    let first = ip.segments()[0];
    if ip.is_loopback() || first & 0xffc0 == 0xfe80 {
        AddressScope::Local
    } else if first & 0xfe00 == 0xfc00 {
        AddressScope::Private
    } else if first & 0xe000 == 0x2000 {
        AddressScope::Global
    } else {
        AddressScope::Nobody
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_without_ports() {
        for good in [
            "gate",
            "gate.example.org",
            "gate.example.org.",
            "192.0.2.1",
            "2001:db8::1",
            "a_b-c.d",
            "xn--9a.de",
        ] {
            assert!(is_host(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "a..b",
            "-a",
            "a-",
            "a b",
            "300.1.2.3",
            "gate:22",
            "[::1]",
            "ü.de",
            "fe80::1%eth0",
            "a/b",
        ] {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn addresses_are_written_as_inet_ntop_writes_them() {
        for text in [
            "192.0.2.1",
            "::",
            "::1",
            "::ffff",
            "::0.1.0.0",
            "::10.1.2.3",
            "::ffff:10.1.2.3",
            "::ffff:0:102:304",
            "64:ff9b::a4d:2",
            "fd77::1:0:0:2",
            "0:0:1::",
            "2001:db8:0:1:1:1:1:1",
        ] {
            assert_eq!(as_text(text.parse().unwrap()), text);
        }
    }

    #[test]
    fn every_address_has_its_scope() {
        use AddressScope::*;
        for (ip, expected) in [
            ("8.8.8.8", Global),
            ("192.0.2.1", Global),
            ("10.1.2.3", Private),
            ("172.31.0.1", Private),
            ("172.32.0.1", Global),
            ("100.64.0.1", Private),
            ("100.128.0.1", Global),
            ("127.0.0.1", Local),
            ("169.254.1.1", Local),
            ("0.0.0.0", Nobody),
            ("224.0.0.1", Nobody),
            ("255.255.255.255", Nobody),
            ("::1", Local),
            ("fe80::1", Local),
            ("fd00::1", Private),
            ("2001:db8::1", Global),
            ("ff02::1", Nobody),
            ("::", Nobody),
            ("::ffff:10.0.0.1", Private),
        ] {
            assert_eq!(reach(ip.parse().unwrap()), expected, "{ip}");
        }
    }
}
