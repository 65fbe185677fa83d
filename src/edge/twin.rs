//! A twin of this host's network: a network namespace with the same interfaces, addresses, routes,
//! settings and rulesets, and another one around it that holds the far ends of its cables. Nothing
//! of the host changes, and the kernel removes both however this process ends.
//!
//! Every interface of the twin is one end of a veth pair and resolves no neighbours: it puts its
//! own address on each frame, so that whatever it sends anywhere arrives outside.
//! See `probe` for the packets, and `responder` for what answers in place of the host's sockets.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use super::firewall::ruleset_copy::RulesetCopy;
use super::netspace::NetSpace;
use crate::core::types::Fault;
use legacy::LegacyTable;
use links::Link;
use route_socket::RouteSocket;
use routing::Routing;
use sysctls::Sysctls;

mod legacy;
mod links;
mod route_socket;
mod routing;
mod sysctls;

pub struct Twin {
    /// The copy of the host.
    pub space: NetSpace,
    /// The far ends of its cables.
    pub outside: NetSpace,
    /// The interfaces through which somebody may come: those with an address, without `lo`.
    pub ways: Vec<Way>,
    /// What the twin lacks of the host, one sentence each.
    pub lacks: Vec<String>,
}

/// An interface of the twin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub name: String,
    /// The kernel's number for it.
    pub index: u32,
    pub hardware: [u8; 6],
    /// The interface at the other end of its cable.
    pub far_end: String,
    pub addresses: Vec<Net>,
    /// True for IPv4 and for IPv6 if a default route leads out here.
    pub is_default: [bool; 2],
}

/// An address with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Net {
    pub address: IpAddr,
    pub length: u8,
}

/// The host as it is read, before anything is made.
struct Host {
    links: Vec<Link>,
    routing: Routing,
    sysctls: Sysctls,
    rules: RulesetCopy,
    legacy: Vec<LegacyTable>,
}

impl Twin {
    /// Makes the twin of this thread's network namespace. `emptied`: the guard's table, whose
    /// grants stay behind.
    pub fn of_this_host(emptied: &str) -> Result<Twin, Fault> {
        let host = Host {
            links: links::all().map_err(unreadable)?,
            routing: Routing::read().map_err(unreadable)?,
            sysctls: Sysctls::read(),
            rules: RulesetCopy::read(emptied)?,
            legacy: legacy::tables(),
        };
        let space = NetSpace::new().map_err(no_space)?;
        let outside = NetSpace::new().map_err(no_space)?;
        // Its own kernel must say nothing: the probes are all that comes from there.
        let quiet = |name| fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        let _ = outside.inside(|| (quiet("all"), quiet("default"))).map_err(no_space)?;
        let made = space.inside(|| host.make_links(&outside)).map_err(no_space)??;
        outside.inside(|| host.raise_far_ends()).map_err(no_space)?.map_err(no_space)?;
        let mut lacks = space.inside(|| host.fill()).map_err(no_space)??;
        lacks.extend(made);
        let ways = host.links.iter().filter_map(|link| link.way(&host.routing)).collect();
        Ok(Twin { space, outside, ways, lacks })
    }
}

impl Host {
    /// Makes the interfaces in the namespace that this thread is in. Returns what failed.
    fn make_links(&self, outside: &NetSpace) -> Result<Vec<String>, Fault> {
        let mut lacks = Vec::new();
        let mut socket = RouteSocket::open().map_err(no_space)?;
        for link in &self.links {
            if let Err(error) = link.make(&mut socket, outside.file().as_raw_fd()) {
                if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
                    let what = "this kernel cannot make a virtual cable (veth)";
                    return Err(Fault::new(what, "run `modprobe veth`, then try again"));
                }
                lacks.push(format!("interface {}: {error}", link.name));
            }
        }
        Ok(lacks)
    }

    fn raise_far_ends(&self) -> io::Result<()> {
        let mut socket = RouteSocket::open()?;
        for link in &self.links {
            // One that could not be made is said already.
            let _ = link.raise_far_end(&mut socket);
        }
        Ok(())
    }

    /// Fills the namespace that this thread is in. Returns what could not be copied.
    fn fill(&self) -> Result<Vec<String>, Fault> {
        let mut lacks = Vec::new();
        let mut socket = RouteSocket::open().map_err(no_space)?;
        let unset = self.sysctls.write(&self.links);
        for link in self.links.iter().filter(|link| link.is_up) {
            if let Err(error) = link.raise(&mut socket) {
                lacks.push(format!("interface {}: {error}", link.name));
            }
        }
        lacks.extend(self.routing.write(&mut socket));
        lacks.extend(self.rules.load()?);
        lacks.extend(self.legacy.iter().filter_map(LegacyTable::restore));
        // Some exist only where rules track connections.
        let still_unset = self.sysctls.write(&self.links);
        lacks.extend(unset.into_iter().filter(|name| still_unset.contains(name)).map(|name| {
            format!("the kernel setting {name}: this system does not let it be set in a copy")
        }));
        Ok(lacks)
    }
}

fn unreadable(error: io::Error) -> Fault {
    let what = format!("cannot list this machine's network: {error}");
    Fault::new(what, "the kernel needs CONFIG_NETLINK")
}

fn no_space(error: io::Error) -> Fault {
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "run it as root, with CAP_SYS_ADMIN and CAP_NET_ADMIN",
        _ => "the kernel needs network namespaces (CONFIG_NET_NS), veth and packet sockets",
    };
    Fault::new(format!("no copy of this host's network: {error}"), remedy)
}
