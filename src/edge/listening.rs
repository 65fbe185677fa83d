//! The sockets of this host that wait for others, each with the process that holds it.
//! See `proc_net` for the ports alone.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::proc_net::{self, SocketRow};
use crate::core::types::{Port, Proto};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListeningSocket {
    pub proto: Proto,
    pub local: SocketAddr,
    /// `None`: the kernel's own, or a process that we may not see.
    pub process: Option<Process>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub pid: u32,
    /// Its name, as `ps` shows it.
    pub name: String,
    /// The file that it runs.
    pub program: PathBuf,
    /// Its command line, the words divided by blanks.
    pub command: String,
}

impl ListeningSocket {
    pub fn port(&self) -> Port {
        Port { proto: self.proto, number: self.local.port() }
    }
}

/// All of them in this thread's network namespace, sorted by port.
pub fn sockets() -> Vec<ListeningSocket> {
    let mut rows: Vec<(Proto, SocketRow)> = Vec::new();
    for proto in [Proto::Tcp, Proto::Udp] {
        rows.extend(proc_net::waiting(proto).into_iter().map(|row| (proto, row)));
    }
    rows.sort_by_key(|(proto, row)| (row.local.port(), *proto, row.local));
    rows.dedup_by_key(|(proto, row)| (*proto, row.local));
    let holders = holders();
    let socket = |(proto, row): (Proto, SocketRow)| ListeningSocket {
        proto,
        local: row.local,
        process: holders.get(&row.inode).map(|pid| process(*pid)),
    };
    rows.into_iter().map(socket).collect()
}

/// The first process that holds each socket, by the socket's number. A server that hands its socket
/// on is older than its workers.
fn holders() -> BTreeMap<u64, u32> {
    let mut holders = BTreeMap::new();
    let Ok(entries) = fs::read_dir("/proc") else { return holders };
    let mut pids: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for file in files.flatten() {
            let Ok(target) = fs::read_link(file.path()) else { continue };
            let target = target.to_string_lossy();
            let number = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            if let Some(inode) = number.and_then(|number| number.parse().ok()) {
                holders.entry(inode).or_insert(pid);
            }
        }
    }
    holders
}

fn process(pid: u32) -> Process {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let words = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace('\0', " ");
    Process {
        pid,
        name: words(read("comm")).trim_end().to_owned(),
        program: fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default(),
        command: words(read("cmdline")).trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_this_process_is_found_with_its_process() {
        let held = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let local = held.local_addr().unwrap();
        let found = sockets().into_iter().find(|socket| socket.local == local).unwrap();
        let process = found.process.unwrap();
        assert_eq!((found.proto, process.pid), (Proto::Tcp, std::process::id()));
        assert!(process.program.is_absolute(), "{process:?}");
    }
}
