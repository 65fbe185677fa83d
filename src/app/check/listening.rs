//! Services behind which nothing listens, and an sshd that listens on another port.

use std::path::{Path, PathBuf};

use crate::app::finding::Finding;
use crate::config::{Service, Settings};
use crate::core::types::{Port, Proto};
use crate::edge::files;
use crate::edge::firewall::translations::Translation;
use crate::edge::proc_net::Listening;

/// The most files that an sshd_config may include here.
const FILES: usize = 64;

/// A port of sshd, and the line of its configuration that names it.
struct SshPort {
    number: u16,
    place: String,
}

/// Remarks about what listens here. sshd's configuration is below `root`.
pub(super) fn remarks(
    config: &Path, settings: &Settings, listening: &Listening, translations: &[Translation],
    root: &Path,
) -> Vec<Finding> {
    let mut all = Vec::new();
    let ssh_ports = ssh_ports(root);
    for service in settings.services.iter().filter(|one| one.forward.is_none()) {
        let place = || place_of(config, settings, service);
        if let Some(text) = ssh_elsewhere(settings, service, listening, &ssh_ports, &place) {
            all.push(Finding::warning(text));
        }
        for range in service.ports.ranges().iter().filter(|range| range.first == range.last) {
            let port = Port { proto: range.proto, number: range.first };
            let is_led =
                [false, true].iter().any(|v6| translations.iter().any(|one| one.takes(port, *v6)));
            if listening.to_others.contains(&port) || is_led {
                continue;
            }
            let what = format!("{port} (service {}, {})", service.name, place());
            all.push(Finding::note(match listening.on_loopback.contains(&port) {
                true => format!(
                    "what listens on {what} does so on loopback only: no grant lets anybody reach \
                     it; let it listen on a public address"
                ),
                false => format!(
                    "nothing listens on {what}: a grant opens nothing; start the program, or \
                     correct the port"
                ),
            }));
        }
    }
    all
}

/// The sentence about an sshd that everybody reaches, while this service is meant to hide it.
fn ssh_elsewhere(
    settings: &Settings, service: &Service, listening: &Listening, ports: &[SshPort],
    place: &dyn Fn() -> String,
) -> Option<String> {
    let usual = Port { proto: Proto::Tcp, number: 22 };
    if !["ssh", "sshd"].contains(&service.name.as_str()) && !service.ports.lists(usual) {
        return None;
    }
    let is_hidden = |port: Port| settings.services.iter().any(|one| one.ports.covers(port));
    for ssh in ports {
        let port = Port { proto: Proto::Tcp, number: ssh.number };
        if !is_hidden(port) && listening.to_others.contains(&port) {
            return Some(format!(
                "sshd listens on {port} ({}), which no service guards: everybody reaches it there. \
                 Add \"{port}\" to the `ports` of service {} ({})",
                ssh.place,
                service.name,
                place()
            ));
        }
    }
    None
}

/// The ports of sshd, as its configuration below `root` names them.
fn ssh_ports(root: &Path) -> Vec<SshPort> {
    let mut ports = Vec::new();
    let mut left = FILES;
    read_ssh(root, &root.join("etc/ssh/sshd_config"), &mut ports, &mut left);
    ports
}

fn read_ssh(root: &Path, path: &Path, ports: &mut Vec<SshPort>, left: &mut usize) {
    let Ok(text) = files::read_untrusted(path) else { return };
    for (number, line) in (1..).zip(text.lines()) {
        let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
        let (keyword, value) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let place = || format!("{}:{number}", path.display());
        match keyword.to_ascii_lowercase().as_str() {
            "match" => return,
            "port" => {
                if let Ok(number) = value.parse() {
                    ports.push(SshPort { number, place: place() });
                }
            }
            // An address with a port of its own: `192.0.2.1:2222`, `[::]:2222`.
            "listenaddress" => {
                if let Ok(address) = value.parse::<std::net::SocketAddr>() {
                    ports.push(SshPort { number: address.port(), place: place() });
                }
            }
            "include" => {
                for file in included(root, value) {
                    *left = left.saturating_sub(1);
                    if *left > 0 {
                        read_ssh(root, &file, ports, left);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The files that an `Include` names: a path, or a pattern in its last part.
fn included(root: &Path, value: &str) -> Vec<PathBuf> {
    let value = value.trim_matches('"');
    let below = match value.strip_prefix('/') {
        Some(below) => root.join(below),
        None => root.join("etc/ssh").join(value),
    };
    let name = below.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some((before, after)) = name.split_once('*') else { return vec![below] };
    let folder = files::parent(&below);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(before).is_some_and(|rest| rest.ends_with(after)) {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// `FILE:LINE` of a service's section.
fn place_of(config: &Path, settings: &Settings, service: &Service) -> String {
    let mut paths = vec![config.to_owned()];
    for entry in settings.include.iter().flat_map(std::fs::read_dir).flatten().flatten() {
        paths.push(entry.path());
    }
    let header = format!("[service.{}]", service.name);
    for path in paths {
        let text = files::read_untrusted(&path).unwrap_or_default();
        if let Some(index) = text.lines().position(|line| line.trim_start().starts_with(&header)) {
            return format!("{}:{}", path.display(), index + 1);
        }
    }
    config.display().to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::native;

    fn said(ports: &str, to_others: &[u16], on_loopback: &[u16], sshd: &str) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        let config = root.path().join("toctocd.toml");
        let text = format!("\n[service.ssh]\nports = [{ports}]\n");
        fs::write(&config, &text).unwrap();
        fs::create_dir_all(root.path().join("etc/ssh/sshd_config.d")).unwrap();
        let main = "Include /etc/ssh/sshd_config.d/*.conf\nPort 22\nMatch User x\nPort 7\n";
        fs::write(root.path().join("etc/ssh/sshd_config"), main).unwrap();
        fs::write(root.path().join("etc/ssh/sshd_config.d/a.conf"), sshd).unwrap();
        let set = |numbers: &[u16]| {
            numbers.iter().map(|number| Port { proto: Proto::Tcp, number: *number }).collect()
        };
        let listening = Listening { to_others: set(to_others), on_loopback: set(on_loopback) };
        let settings = native::parse("t", &text).unwrap();
        let found = remarks(&config, &settings, &listening, &[], root.path());
        let root = root.path().display().to_string();
        found.iter().map(|one| one.to_string().replace(&root, "ROOT")).collect()
    }

    #[test]
    fn an_sshd_on_another_port_is_found_with_both_places() {
        let found = said("\"22/tcp\"", &[2222], &[], "\n# Port 1\nport 2222\n");
        let expected = "warning: sshd listens on 2222/tcp (ROOT/etc/ssh/sshd_config.d/a.conf:3), which \
                        no service guards: everybody reaches it there. Add \"2222/tcp\" to the `ports` \
                        of service ssh (ROOT/toctocd.toml:2)";
        assert_eq!(found[0], expected);
        assert!(found[1].starts_with("note: nothing listens on 22/tcp (service ssh"), "{found:?}");
        let address = said("\"22/tcp\"", &[22, 2200], &[], "ListenAddress 192.0.2.1:2200\n");
        assert!(address[0].starts_with("warning: sshd listens on 2200/tcp"), "{address:?}");
        for sound in [
            said("\"22/tcp\", \"2222/tcp\"", &[22, 2222], &[], "Port 2222\n"),
            said("\"22/tcp\"", &[22], &[], "Port 2222\n"),
            said("\"all\"", &[22, 2222], &[], "Port 2222\n"),
        ] {
            assert_eq!(sound, [""; 0]);
        }
    }

    #[test]
    fn a_port_on_which_nothing_listens_is_found() {
        let found = said("\"22/tcp\", \"5000-5010/udp\"", &[], &[], "");
        assert_eq!(found.len(), 1, "of a range nobody expects it: {found:?}");
        assert!(found[0].starts_with(
            "note: nothing listens on 22/tcp (service ssh, ROOT/toctocd.toml:2): a grant opens nothing"
        ));
        let loopback = said("\"22/tcp\"", &[], &[22], "");
        assert!(loopback[0].contains("does so on loopback only"), "{loopback:?}");
    }
}
