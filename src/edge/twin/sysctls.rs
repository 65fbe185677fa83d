//! The settings of the network in /proc/sys: those of the whole namespace, and of each interface.

use std::collections::BTreeMap;
use std::fs;

use super::links::Link;

/// Where a directory of settings for each interface is.
const OF_INTERFACES: [&str; 2] = ["ipv4/conf", "ipv6/conf"];
const OF_ALL: [&str; 3] = ["ipv4", "ipv6", "netfilter"];
/// What decides about packets: that one of these could not be set is worth a word.
const MATTER: [&str; 9] = [
    "ip_forward",
    "forwarding",
    "rp_filter",
    "route_localnet",
    "accept_local",
    "disable_ipv6",
    "accept_source_route",
    "ip_nonlocal_bind",
    "accept_redirects",
];

pub(super) struct Sysctls {
    /// By the path below /proc/sys/net.
    values: BTreeMap<String, String>,
}

impl Sysctls {
    /// Reads those of this thread's network namespace.
    pub(super) fn read() -> Sysctls {
        let mut values = BTreeMap::new();
        for folder in OF_ALL {
            read_folder(folder, &mut values);
        }
        for folder in OF_INTERFACES {
            let Ok(entries) = fs::read_dir(format!("/proc/sys/net/{folder}")) else { continue };
            for entry in entries.flatten() {
                let interface = entry.file_name().to_string_lossy().into_owned();
                read_folder(&format!("{folder}/{interface}"), &mut values);
            }
        }
        Sysctls { values }
    }

    /// Sets those that differ in this thread's network namespace: first the ones for all
    /// interfaces, which change the others. Returns the ones that matter and stayed different.
    pub(super) fn write(&self, links: &[Link]) -> Vec<String> {
        for path in
            self.values.keys().filter(|path| !OF_INTERFACES.iter().any(|of| path.starts_with(of)))
        {
            self.set(path);
        }
        for which in ["all", "default"] {
            self.set_below(which);
        }
        for link in links {
            self.set_below(&link.name);
        }
        let matters = |path: &&String| MATTER.iter().any(|name| path.ends_with(name));
        let differs = |path: &&String| {
            fs::read_to_string(format!("/proc/sys/net/{path}"))
                .is_ok_and(|there| self.values.get(*path) != Some(&there))
        };
        self.values.keys().filter(matters).filter(differs).cloned().collect()
    }

    fn set_below(&self, interface: &str) {
        for folder in OF_INTERFACES {
            let folder = format!("{folder}/{interface}/");
            for path in self.values.keys().filter(|path| path.starts_with(&folder)) {
                self.set(path);
            }
        }
    }

    fn set(&self, path: &str) {
        let file = format!("/proc/sys/net/{path}");
        if let (Some(value), Ok(there)) = (self.values.get(path), fs::read_to_string(&file))
            && *value != there
        {
            // Some are only to be read; `write` looks what became of those that matter.
            let _ = fs::write(file, value);
        }
    }
}

/// Reads the files of a folder, and not those of folders in it.
fn read_folder(folder: &str, values: &mut BTreeMap<String, String>) {
    let Ok(entries) = fs::read_dir(format!("/proc/sys/net/{folder}")) else { return };
    for entry in entries.flatten() {
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if let Ok(value) = fs::read_to_string(entry.path()) {
            values.insert(path, value);
        }
    }
}
